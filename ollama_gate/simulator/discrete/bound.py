"""How soon the last answer can have ended at the earliest, whoever decides and whatever is known.

Three arguments, the strongest counts. Each leaves out what the others look at, so the bound is
seldom reached; it is never above what anybody did who keeps within a card's memory.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from ollama_gate.simulator.discrete.cards import Outcome
from ollama_gate.simulator.discrete.result import Record
from ollama_gate.simulator.discrete.workload import (
    CardSpec,
    ModelSpec,
    UpstreamSpec,
    Workload,
    is_at,
    load_s,
)

Weight = Callable[[int, int], float]
"""A dual-feasible function: what sizes weigh, such that whatever fits together weighs at most 1.

The arguments are a model's and the card's bytes.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The three lower bounds on the makespan, in seconds.

    Attributes:
        alone_s: the last to end when nobody is in anybody's way.
        speed_s: what comes late must be worked off at the best speed that all cards have.
        memory_s: each model holds its memory while it is loaded and worked for.
    """

    alone_s: float
    speed_s: float
    memory_s: float

    @property
    def makespan_s(self) -> float:
        """The strongest of them."""
        return max(self.alone_s, self.speed_s, self.memory_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A request that must be served, and when that can begin at the earliest."""

    model: ModelSpec
    release_s: float
    work_s: float


def lower_bound(workload: Workload, records: Iterable[Record] | None = None) -> Bound:
    """The bound for all who must be served, or for those who were.

    Args:
        workload: what there is to do it with, and who comes; of an agent's steps each comes as
            early as it can, and who may leave without an answer is left out.
        records: of a run in which not everybody was served, or others were: those who were, at
            the times at which they came.
    """
    asked = _must_be_served(workload) if records is None else _were_served(workload, records)
    jobs = [
        _Job(model=model, release_s=max(at_s, _first_load_s(workload, model)), work_s=work_s)
        for model, at_s, work_s in asked
    ]
    return Bound(
        alone_s=max((j.release_s + j.work_s / _speed(workload, j.model) for j in jobs), default=0),
        speed_s=_worked_off(jobs, sum(_card_speeds(workload))),
        memory_s=_held(workload, jobs),
    )


def _must_be_served(workload: Workload) -> Iterator[tuple[ModelSpec, float, float]]:
    models = {model.name: model for model in workload.models}
    for arrival in workload.arrivals:
        if arrival.is_served_by_all:
            yield models[arrival.model], arrival.at_s, arrival.work_s
    for agent in workload.agents:
        at_s = agent.starts_at_s
        for step in agent.steps:
            at_s += step.think_s
            yield models[step.model], at_s, step.work_s
            at_s += step.work_s / _speed(workload, models[step.model])


def _were_served(
    workload: Workload, records: Iterable[Record]
) -> Iterator[tuple[ModelSpec, float, float]]:
    models = {model.name: model for model in workload.models}
    for record in records:
        if record.outcome is Outcome.SERVED:
            yield models[record.model], record.arrived_at, record.work_s


def _places(workload: Workload, model: ModelSpec) -> list[tuple[UpstreamSpec, CardSpec]]:
    return [(upstream, card) for _, upstream, card in workload.bins() if is_at(model, upstream)]


def _speed(workload: Workload, model: ModelSpec) -> float:
    """The best speed of a single answer."""
    return max(card.speed for _, card in _places(workload, model))


def _first_load_s(workload: Workload, model: ModelSpec) -> float:
    return min(_least_load_s(model, upstream) for upstream, _ in _places(workload, model))


def _least_load_s(model: ModelSpec, upstream: UpstreamSpec) -> float:
    """A load as fast as it can be, all of it in the page cache if there is one."""
    cold_s = load_s(model, upstream)
    if model.weights_bytes > upstream.page_cache_bytes:
        return cold_s
    return min(cold_s, load_s(model, upstream, cached_bytes=model.weights_bytes))


# -------------------------------------------------------------------- speed


def _card_speeds(workload: Workload) -> Iterator[float]:
    """The most work that each card does in a second: the best number of models, all slots busy."""
    physics = workload.physics
    for _, upstream, card in workload.bins():
        here = [model for model in workload.models if is_at(model, upstream)]
        sizes = accumulate(sorted(model.footprint_bytes for model in here))
        count = max(1, sum(size <= card.total_bytes for size in sizes))
        batches = sorted((math.pow(m.parallel, physics.batching) for m in here), reverse=True)
        together = accumulate(batches[:count])
        shared = (s / k**physics.sharing for k, s in enumerate(together, start=1))
        yield card.speed * max(shared, default=0.0)


def _worked_off(jobs: Sequence[_Job], speed: float) -> float:
    """The latest end of what is released after some time, worked off at once at full speed."""
    ends, work_s = 0.0, 0.0
    for job in sorted(jobs, key=lambda job: job.release_s, reverse=True):
        work_s += job.work_s
        ends = max(ends, job.release_s + work_s / speed)
    return ends


# -------------------------------------------------------------------- memory


def _held(workload: Workload, jobs: Sequence[_Job]) -> float:
    wanted = sorted({job.model.name for job in jobs})
    models = [model for model in workload.models if model.name in wanted]
    return max((_held_by(workload, jobs, weigh) for weigh in _weights(workload, models)), default=0)


def _held_by(workload: Workload, jobs: Sequence[_Job], weigh: Weight) -> float:
    """The latest end if memory, so weighed, is all that is scarce.

    From the start every model must be loaded as well; after some time only what is released
    since must still be worked off, by models that may have been loaded before.
    """
    cards = sum(1 for _ in workload.bins())
    models = {job.model.name: job.model for job in jobs}
    loads = sum(_load_holds(workload, model, weigh) for model in models.values())
    a_second = {name: _second_holds(workload, model, weigh) for name, model in models.items()}
    ends, after = 0.0, 0.0
    for job in sorted(jobs, key=lambda job: job.release_s, reverse=True):
        after += job.work_s * a_second[job.model.name]
        ends = max(ends, job.release_s + after / cards)
    return max(ends, (after + loads) / cards)


def _load_holds(workload: Workload, model: ModelSpec, weigh: Weight) -> float:
    """Weight times seconds that one load takes at the least."""
    return min(
        weigh(model.footprint_bytes, card.total_bytes) * _least_load_s(model, upstream)
        for upstream, card in _places(workload, model)
    )


def _second_holds(workload: Workload, model: ModelSpec, weigh: Weight) -> float:
    """The same for one second of work, with all slots busy and nobody else on the card."""
    together = math.pow(model.parallel, workload.physics.batching)
    return min(
        weigh(model.footprint_bytes, card.total_bytes) / (card.speed * together)
        for _, card in _places(workload, model)
    )


def _weights(workload: Workload, models: Sequence[ModelSpec]) -> Iterator[Weight]:
    """Ways to weigh: by size, by halves, and leaving out the small to count the large fully."""
    yield _by_size
    yield _by_halves
    totals = {card.total_bytes for _, _, card in workload.bins()}
    sizes = {model.footprint_bytes for model in models}
    shares = {Fraction(size, total) for size in sizes for total in totals}
    small = {min(share, 1 - share) for share in shares}
    for share in sorted(share for share in small if 0 < share <= Fraction(1, 2)):
        yield _leaving_out(share)


def _by_size(size: int, total: int) -> float:
    return min(1.0, size / total)


def _by_halves(size: int, total: int) -> float:
    """No two that are larger than half fit together."""
    return 1.0 if 2 * size > total else 0.0


def _leaving_out(share: Fraction) -> Weight:
    """What is larger than all but so small a share leaves room for nothing that is counted."""

    def weigh(size: int, total: int) -> float:
        # In whole numbers: of two that just fit together none may count fully.
        if size * share.denominator > total * (share.denominator - share.numerator):
            return 1.0
        return size / total if size * share.denominator >= total * share.numerator else 0.0

    return weigh
