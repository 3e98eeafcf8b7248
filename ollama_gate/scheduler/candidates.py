"""Who wants to be loaded: a candidate for each model that somebody waits for in vain.

What it is worth to load each, and for whom it would be done; where, and in whose place, is decided
elsewhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ollama_gate.scheduler.line import Place
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.serving import would_share
from ollama_gate.scheduler.state import Plan, State
from ollama_gate.scheduler.types import BinId, ModelKey, Priority, Request, RunnerState

SHORTEST_S = 0.001
"""No visit is shorter, whatever was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that is to be loaded, and for whom.

    Attributes:
        request: whose options it would be loaded with: the overdue one's, else the first one's.
        waiting: how many it would serve.
        top: the highest class of the overdue among them, or of all where nobody is overdue.
        work: the weighted work of all.
        least_s: the shortest that a visit can be, in seconds.
        overdue: where the first of them stands who has been passed over for too long.
        replica: it is resident already and would be so once more.
    """

    request: Request
    waiting: int
    top: Priority
    work: float
    least_s: float
    overdue: Place | None
    replica: bool = False

    @property
    def bound(self) -> float:
        """An index that it cannot exceed anywhere."""
        return self.work / self.least_s

    def service_s(self, state: State) -> float:
        """How long one answer holds a slot."""
        return state.pace.service_s(self.request.model, self.request.service_s)

    def visit_s(self, state: State, bin_id: BinId) -> float:
        """How long a visit takes: unload, load, and the service of all who wait and will come."""
        load_s = state.load_s_of(self.request.at(bin_id), bin_id)
        unload_s = state.pace.unload_s(state.books[bin_id].bin.upstream)
        arrivals = state.pace.rate(self.request.model, state.now) * load_s
        rounds = max(1.0, (self.waiting + arrivals) / self.request.at(bin_id).parallel)
        return max(unload_s + load_s + self.service_s(state) * rounds, SHORTEST_S)


def candidates(state: State) -> list[Candidate]:
    """Everybody who waits for what is not there, the most urgent first by their bounds."""
    found = (_candidate(state, model, groups) for model, groups in _homeless(state))
    return sorted(found, key=lambda each: (-each.bound, state.line.joined(each.request)))


def _homeless(state: State) -> Iterator[tuple[ModelKey, Sequence[Group]]]:
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
        # Who may go elsewhere is not held up with who may not.
        for needs in {frozenset(group.first.needs): None for group in groups}:
            yield model, [group for group in groups if group.first.needs.keys() == needs]


def is_served_by(plan: Plan, bin_id: BinId, request: Request) -> bool:
    """Whether what a bin is to load serves a request, too."""
    return bin_id in request.needs and would_share(plan.request, request.at(bin_id))


def _candidate(state: State, model: ModelKey, groups: Sequence[Group]) -> Candidate:
    elder = state.line.first_overdue(groups)
    request = _first(state, groups) if elder is None else elder
    shared = groups
    if len(groups) > 1:
        shared = [group for group in groups if would_share(request, group.first)]
    overdue = (rank.row[0] for group in shared for rank in group.ranks if rank.row)
    tops = (r.priority for r in overdue if elder is None or state.line.overdue(r))
    return Candidate(
        request=request,
        waiting=sum(len(group) for group in shared),
        top=min(tops),
        work=state.demand.work(shared),
        least_s=_least_s(state, model, request),
        overdue=None if elder is None else state.line.place(elder),
    )


def _first(state: State, groups: Sequence[Group]) -> Request:
    if len(groups) == 1:
        return groups[0].first
    firsts = (group.first for group in groups)
    return min(firsts, key=lambda each: (each.priority, each.arrived_at, state.line.joined(each)))


def _least_s(state: State, model: ModelKey, request: Request) -> float:
    service_s = state.pace.service_s(model, request.service_s)
    load_s = min(state.load_s_of(request.at(b), b) for b in request.needs)
    return max(load_s + service_s, SHORTEST_S)
