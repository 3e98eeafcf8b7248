"""How long things take and how often they are wanted, as far as this life has shown.

Exponentially weighted means; what was seen first replaces the guess, so that every mean stays
within what was observed. Nothing depends on these figures but orders, quanta and estimates: wrong
by a factor of five they cost time, never memory or a request.
"""

import math
from dataclasses import dataclass

from ollama_gate.scheduler.types import ModelKey, Policy, Request

_LN2 = math.log(2.0)


@dataclass(slots=True)
class Rate:
    """Arrivals of one model: a decaying count.

    Attributes:
        per_s: arrivals a second, at the instant `at`.
        weight: the mean weight of the classes that they were of.
    """

    per_s: float
    at: float
    weight: float


class Pace:
    """What was learned of times and rates; seconds throughout."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._services: dict[ModelKey, float] = {}
        self._loads: dict[tuple[str, ModelKey], float] = {}
        self._latest_loads: dict[ModelKey, float] = {}
        self._unloads: dict[str, float] = {}
        self._rates: dict[ModelKey, Rate] = {}
        # Models of which something was learned since whoever clears this last looked.
        self.changed: set[ModelKey] = set()

    # ---------------------------------------------------------------- what is seen

    def arrived(self, request: Request, now: float) -> None:
        """Somebody asked for a model."""
        weight = self._policy.weights[request.priority]
        jump = _LN2 / self._policy.half_life_s
        rate = self._rates.get(request.model)
        if rate is None:
            self._rates[request.model] = Rate(per_s=jump, at=now, weight=weight)
            return
        rate.per_s = self._decayed(rate, now) + jump
        rate.at = now
        rate.weight += self._policy.ewma_service * (weight - rate.weight)

    def served(self, model: ModelKey, seconds: float) -> None:
        """A slot was held for so long, until its answer ended by itself."""
        self.changed.add(model)
        self._services[model] = _mean(self._services.get(model), seconds, self._policy.ewma_service)

    def loaded(self, upstream: str, model: ModelKey, seconds: float) -> None:
        """A load took so long."""
        self.changed.add(model)
        key = upstream, model
        self._loads[key] = _mean(self._loads.get(key), seconds, self._policy.ewma_load)
        self._latest_loads[model] = self._loads[key]

    def unloaded(self, upstream: str, seconds: float) -> None:
        """It took so long until a model's memory was seen back."""
        self._unloads[upstream] = _mean(
            self._unloads.get(upstream), seconds, self._policy.ewma_load
        )

    # ---------------------------------------------------------------- what is expected

    def service_s(self, model: ModelKey, earlier_s: float | None = None) -> float:
        """How long one answer holds a slot; `earlier_s` is from earlier lives."""
        seen = self._services.get(model)
        if seen is not None:
            return seen
        return self._policy.first_service_s if earlier_s is None else earlier_s

    def load_s(
        self, upstream: str, model: ModelKey, footprint_bytes: int, earlier_s: float | None = None
    ) -> float:
        """How long a load takes there; else as elsewhere, as in earlier lives, by its size."""
        seen = self._loads.get((upstream, model))
        if seen is None:
            seen = self._latest_loads.get(model, earlier_s)
        if seen is not None:
            return seen
        policy = self._policy
        return policy.first_load_s + footprint_bytes / policy.first_load_bytes_per_s

    def unload_s(self, upstream: str) -> float:
        """How long it takes until an unloaded model's memory is back."""
        return self._unloads.get(upstream, self._policy.first_unload_s)

    def rate(self, model: ModelKey, now: float) -> float:
        """Arrivals of a model, a second."""
        rate = self._rates.get(model)
        return 0.0 if rate is None else self._decayed(rate, now)

    def weight(self, model: ModelKey) -> float:
        """The mean weight of a model's arrivals."""
        rate = self._rates.get(model)
        return 0.0 if rate is None else rate.weight

    def _decayed(self, rate: Rate, now: float) -> float:
        return rate.per_s * math.exp2(-(now - rate.at) / self._policy.half_life_s)


def _mean(before: float | None, seen: float, weight: float) -> float:
    return seen if before is None else before + weight * (seen - before)
