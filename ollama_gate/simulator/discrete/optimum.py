"""The best that anybody could do who knew everything in advance, for cases that are small enough.

Two models that cannot be resident together, one slot each, requests of each in the order of their
coming. What is left to choose is when to change over; all choices are tried, without those that
are later and have waited longer than another that has served the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ollama_gate.simulator.discrete.workload import Arrival, ModelSpec, Workload, load_s

Label = tuple[float, float]
"""What time it is, and how long all who were served have waited together."""

State = tuple[int, int, int]
"""How many of each model were served, and which model is resident: 0, 1, or -1 for none."""


class NotSmallError(ValueError):
    """The workload is not of the kind for which the optimum can be worked out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The least mean wait and the least makespan, each by itself, in seconds."""

    mean_wait_s: float
    makespan_s: float


def optimum(workload: Workload) -> Optimum:
    """Work it out.

    Raises:
        NotSmallError: it is not of the kind described above, or has a page cache or agents.
    """
    _check(workload)
    rows = tuple(_row(workload, model) for model in workload.models)
    front = _Search(workload, rows).run()
    return Optimum(
        mean_wait_s=min(wait_s for _, wait_s in front) / len(workload.arrivals),
        makespan_s=min(time_s for time_s, _ in front),
    )


def _check(workload: Workload) -> None:
    bins = list(workload.bins())
    if len(bins) != 1 or len(workload.models) != 2 or workload.agents or not workload.arrivals:  # noqa: PLR2004  two
        raise NotSmallError("expected one card, two models, and requests of no agents")
    card, upstream = bins[0][2], bins[0][1]
    if sum(model.footprint_bytes for model in workload.models) <= card.total_bytes:
        raise NotSmallError("expected two models that do not fit together")
    if any(model.parallel != 1 for model in workload.models) or upstream.page_cache_bytes:
        raise NotSmallError("expected one slot for each model, and no page cache")
    if card.foreign or not all(arrival.is_served_by_all for arrival in workload.arrivals):
        raise NotSmallError("expected a card of one's own, and requests that nobody withdraws")


def _row(workload: Workload, model: ModelSpec) -> tuple[Arrival, ...]:
    mine = (arrival for arrival in workload.arrivals if arrival.model == model.name)
    return tuple(sorted(mine, key=lambda arrival: arrival.at_s))


class _Search:
    """From nothing served to everything served, one request after the other."""

    def __init__(self, workload: Workload, rows: tuple[tuple[Arrival, ...], ...]) -> None:
        _, upstream, card = next(iter(workload.bins()))
        self._rows = rows
        self._speed = card.speed
        self._load_s = [load_s(model, upstream) for model in workload.models]
        self._unload_s = [model.unload_s for model in workload.models]

    def run(self) -> list[Label]:
        """What can be reached at the end."""
        reached: dict[State, list[Label]] = {(0, 0, -1): [(0.0, 0.0)]}
        for _ in range(sum(len(row) for row in self._rows)):
            ahead: dict[State, list[Label]] = {}
            for state, labels in reached.items():
                for which in (0, 1):
                    if state[which] < len(self._rows[which]):
                        served = self._serve(state, which, labels)
                        ahead.setdefault(_after(state, which), []).extend(served)
            reached = {state: _best(labels) for state, labels in ahead.items()}
        return _best(label for labels in reached.values() for label in labels)

    def _serve(self, state: State, which: int, labels: Iterable[Label]) -> list[Label]:
        """Serve the next of a model, changing over at once where it is not resident."""
        arrival = self._rows[which][state[which]]
        change_s = 0.0
        if state[2] != which:
            change_s = self._load_s[which] + (self._unload_s[state[2]] if state[2] >= 0 else 0.0)
        served = []
        for time_s, waited_s in labels:
            start_s = max(time_s + change_s, arrival.at_s)
            wait_s = start_s - arrival.at_s
            served.append((start_s + arrival.work_s / self._speed, waited_s + wait_s))
        return served


def _after(state: State, which: int) -> State:
    return state[0] + (which == 0), state[1] + (which == 1), which


def _best(labels: Iterable[Label]) -> list[Label]:
    """Those than which no other is both earlier and has waited less."""
    kept: list[Label] = []
    for time_s, waited_s in sorted(labels):
        if not kept or waited_s < kept[-1][1]:
            kept.append((time_s, waited_s))
    return kept
