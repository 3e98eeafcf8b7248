"""Who wants to be loaded: a candidate for each model that somebody waits for in vain.

What it is worth to load each, and for whom it would be done; where, and in whose place, is decided
elsewhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from ollama_gate.scheduler.line import Place
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.serving import would_share
from ollama_gate.scheduler.state import Plan, State
from ollama_gate.scheduler.types import BinId, Priority, Request, RunnerState

REPLICA = 2.0
"""A second runner is loaded where the queue is longer than so many loads and unloads."""

SHORTEST_S = 0.001
"""No visit is shorter, whatever was measured."""


class Candidate:
    """A model that is to be loaded, and for whom. What it is worth is worked out when it matters.

    Attributes:
        request: whose options it would be loaded with: the overdue one's, else the first one's.
        overdue: where the first of those stands who were passed over for too long.
    """

    def __init__(self, state: State, groups: Sequence[Group]) -> None:
        elder = state.line.first_overdue(groups)
        self._state = state
        self._groups = groups
        self.request = _first(state, groups) if elder is None else elder
        self.overdue: Place | None = None if elder is None else state.line.place(elder)

    @cached_property
    def _shared(self) -> Sequence[Group]:
        """Those whom it would serve."""
        if len(self._groups) == 1:
            return self._groups
        return [group for group in self._groups if would_share(self.request, group.first)]

    @cached_property
    def waiting(self) -> int:
        """How many it would serve."""
        return sum(len(group) for group in self._shared)

    @cached_property
    def top(self) -> Priority:
        """The highest class of the overdue among them, or of all where nobody is overdue."""
        line = self._state.line
        firsts = (rank.row[0] for group in self._shared for rank in group.ranks if rank.row)
        return min(r.priority for r in firsts if self.overdue is None or line.overdue(r))

    @cached_property
    def work(self) -> float:
        """The weighted work of all."""
        return self._state.demand.work(self._shared)

    @cached_property
    def bound(self) -> float:
        """An index that it cannot exceed anywhere: as if it served one, where it loads fastest."""
        request, state = self.request, self._state
        load_s = min(state.load_s_of(request.at(b), b) for b in request.needs)
        return self.work / max(load_s + self._service_s, SHORTEST_S)

    @property
    def _service_s(self) -> float:
        """How long one answer holds a slot."""
        return self._state.pace.service_s(self.request.model, self.request.service_s)

    def queue_s(self, slots: int) -> float:
        """How long so many slots take to serve all of them."""
        return self.waiting * self._service_s / slots

    def swaps_s(self, count: float) -> float:
        """How long so many loads and unloads take, where they take longest."""
        state = self._state
        bins = self.request.needs
        load_s = max(state.load_s_of(self.request.at(b), b) for b in bins)
        unload_s = max(state.pace.unload_s(state.books[b].bin.upstream) for b in bins)
        return count * (load_s + unload_s)

    def visit_s(self, bin_id: BinId) -> float:
        """How long a visit takes: unload, load, and the service of all who wait and will come."""
        state = self._state
        load_s = state.load_s_of(self.request.at(bin_id), bin_id)
        unload_s = state.pace.unload_s(state.books[bin_id].bin.upstream)
        arrivals = state.pace.rate(self.request.model, state.now) * load_s
        rounds = max(1.0, (self.waiting + arrivals) / self.request.at(bin_id).parallel)
        return max(unload_s + load_s + self._service_s * rounds, SHORTEST_S)


def candidates(state: State) -> list[Candidate]:
    """Everybody who waits for what is not there."""
    return [Candidate(state, groups) for groups in _homeless(state)]


def replicas(state: State) -> list[Candidate]:
    """Models that are resident and yet have so long a queue that a second runner would pay.

    A load pays where what waits takes the slots that there are for longer than two exchanges.
    """
    found = []
    for model in state.line.models():
        homes = [r for r in state.runners.values() if r.model == model and r.usable]
        groups = [
            group
            for group in state.line.groups(model)
            if any(state.suits(home, group.first) for home in homes)
        ]
        # Before a slot is given away nobody knows how long the queue will be.
        full = all(len(home.running) >= home.parallel for home in homes)
        if groups and full and not any(state.loads_for(group.first) for group in groups):
            candidate = Candidate(state, groups)
            if candidate.queue_s(sum(home.parallel for home in homes)) > candidate.swaps_s(REPLICA):
                found.append(candidate)
    return found


def by_bound(state: State, found: Iterable[Candidate]) -> list[Candidate]:
    """Some of them, the most urgent first."""
    return sorted(found, key=lambda each: (-each.bound, state.line.joined(each.request)))


def _homeless(state: State) -> Iterator[Sequence[Group]]:
    present = {
        runner.model for runner in state.runners.values() if runner.state is not RunnerState.LEAVING
    }
    plans = [(bin_id, plan) for bin_id, plan in state.plans.items() if isinstance(plan, Plan)]
    for model in state.line.models():
        groups = list(state.line.groups(model))
        if model in present:
            groups = [group for group in groups if not state.has_runner(group.first)]
        for bin_id, plan in plans:
            if plan.request.model == model:
                groups = [g for g in groups if not is_served_by(plan, bin_id, g.first)]
        if len(groups) == 1:
            yield groups
        else:
            # Who may go elsewhere is not held up with who may not.
            for needs in {frozenset(group.first.needs): None for group in groups}:
                yield [group for group in groups if group.first.needs.keys() == needs]


def is_served_by(plan: Plan, bin_id: BinId, request: Request) -> bool:
    """Whether what a bin is to load serves a request, too."""
    return bin_id in request.needs and would_share(plan.request, request.at(bin_id))


def _first(state: State, groups: Sequence[Group]) -> Request:
    if len(groups) == 1:
        return groups[0].first
    return state.line.first_of(group.first for group in groups)
