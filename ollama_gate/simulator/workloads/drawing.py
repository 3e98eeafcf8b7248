"""What workloads are drawn with: models, answers, instants. Everything is a function of the seed.

The distributions are those of the scheduling literature where it has one: Poisson arrivals,
popularity by Zipf's law, answers whose length is lognormal with a coefficient of variation of 0.8.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ollama_gate.scheduler.types import Priority
from ollama_gate.simulator.discrete.workload import (
    GB,
    OVERHEAD_BYTES,
    Agent,
    Arrival,
    CardSpec,
    ModelSpec,
    Physics,
    UpstreamSpec,
    Workload,
)

SLOTS: Final = 4
MANY: Final = 16
"""`OLLAMA_MAX_LOADED_MODELS` as one sets it who wants memory to be the only limit."""

VARIATION: Final = 0.8
"""Of the length of answers: standard deviation over mean."""

MIXED: Final = (0.2, 0.5, 0.3)
"""How many requests are high, normal and low where all three occur."""

BATCHING: Final = Physics().batching


class Draw:
    """One workload's source of chance.

    Args:
        family: its name, so that two families of one seed have nothing in common.
        seed: any whole number.
    """

    def __init__(self, family: str, seed: int) -> None:
        self._family, self._seed = family, seed
        self._random = random.Random(f"{family}/{seed}")

    def between(self, least: float, most: float) -> float:
        """A number, all alike in chance."""
        return self._random.uniform(least, most)

    def count(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return self._random.randint(least, most)

    def shuffled(self, items: Sequence[str]) -> list[str]:
        """The same in another order."""
        return self._random.sample(items, len(items))

    def one_of(self, items: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """One of them."""
        return self._random.choices(items, weights)[0]

    def chance(self, share: float) -> bool:
        """Whether something happens that does so in that share of cases."""
        return self._random.random() < share

    def priority(self, shares: Sequence[float] = MIXED) -> Priority:
        """A class, in the given shares of high, normal and low."""
        return self._random.choices(tuple(Priority), shares)[0]

    def work_s(self, mean_s: float) -> float:
        """How long one answer takes by itself."""
        variance = math.log(1 + VARIATION**2)
        return self._random.lognormvariate(math.log(mean_s) - variance / 2, math.sqrt(variance))

    def think_s(self, mean_s: float) -> float:
        """How long somebody thinks: exponential."""
        return self._random.expovariate(1 / mean_s)

    def instants(self, rate: float, *, start_s: float = 0.0) -> Iterator[float]:
        """Arrivals of a Poisson process, without end; `rate` a second."""
        at_s = start_s
        while True:
            at_s += self._random.expovariate(rate)
            yield at_s

    def instants_within(self, rate: float, start_s: float, end_s: float) -> Iterator[float]:
        """Those before `end_s`."""
        for at_s in self.instants(rate, start_s=start_s):
            if at_s >= end_s:
                return
            yield at_s

    def model(
        self, name: str, footprint_gb: float, *, parallel: int = SLOTS, mistaken: float = 1.0
    ) -> ModelSpec:
        """A model of that size on the card, of which the weights are between 75 and 92 %.

        Args:
            name: as it is.
            footprint_gb: what it takes with all its slots.
            parallel: its slots.
            mistaken: what it is believed to take before its first load, as a share of the truth.
        """
        footprint = round(footprint_gb * GB)
        share = self.between(0.75, 0.92)
        return ModelSpec(
            name=name,
            footprint_bytes=footprint,
            estimate_bytes=round(footprint * mistaken),
            weights_bytes=round(max(footprint - OVERHEAD_BYTES, 0) * share),
            start_s=self.between(0.8, 1.6),
            read_bytes_per_s=self.between(2.0, 6.0) * GB,
            unload_s=self.between(0.4, 1.2),
            parallel=parallel,
        )

    def workload(
        self,
        models: Sequence[ModelSpec],
        arrivals: Iterable[Arrival] = (),
        *,
        agents: Iterable[Agent] = (),
        upstreams: tuple[UpstreamSpec, ...] | None = None,
    ) -> Workload:
        """What was drawn; on one card of one upstream unless others are given."""
        return Workload(
            name=self._family,
            models=tuple(models),
            arrivals=tuple(arrivals),
            agents=tuple(agents),
            upstreams=upstreams or (an_upstream(),),
            seed=self._seed,
        )


def an_upstream(name: str = "local", *, foreign: Sequence[tuple[float, int]] = ()) -> UpstreamSpec:
    """One card of 24 GB, and an Ollama that is told to keep as many models as fit."""
    return UpstreamSpec(name=name, cards=(CardSpec(foreign=tuple(foreign)),), max_loaded=MANY)


class Traffic:
    """Who asks for which of several models, and how long the answers are.

    Attributes:
        models: what may be asked for.
        weights: how much more often one is asked for than another.
        mean_s: how long the answers of each take alone.
    """

    def __init__(
        self,
        draw: Draw,
        models: Sequence[ModelSpec],
        weights: Sequence[float] | None = None,
        mean_s: Sequence[float] | None = None,
    ) -> None:
        self._draw = draw
        self.models = models
        total = sum(weights) if weights else float(len(models))
        self.weights = [weight / total for weight in weights or [1.0] * len(models)]
        self.mean_s = mean_s or [draw.between(2.5, 6.0) for _ in models]
        self._by_name = dict(zip((model.name for model in models), self.mean_s, strict=True))

    def rate(self, load: float) -> float:
        """Arrivals a second that keep one card busy for that share of time, loads not counted."""
        rows = zip(self.models, self.weights, self.mean_s, strict=True)
        seconds = sum(
            weight * mean_s / math.pow(model.parallel, BATCHING) for model, weight, mean_s in rows
        )
        return load / seconds

    def pick(self) -> str:
        """A model by its popularity."""
        return self._draw.one_of([each.name for each in self.models], self.weights)

    def request(
        self,
        at_s: float,
        *,
        model: str | None = None,
        priority: Priority = Priority.NORMAL,
        client: str = "",
        patience_s: float = math.inf,
        deadline_s: float = math.inf,
    ) -> Arrival:
        """A request, for a model by its popularity unless one is named."""
        model = model or self.pick()
        return Arrival(
            at_s=at_s,
            model=model,
            work_s=self._draw.work_s(self._by_name[model]),
            priority=priority,
            client=client,
            patience_s=patience_s,
            deadline_s=deadline_s,
        )


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Popularity of the first, the second, and so on."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


def spread(least: float, most: float, count: int) -> list[float]:
    """So many numbers, evenly in ratio, from the least to the most."""
    return [least * (most / least) ** (number / (count - 1)) for number in range(count)]
