"""Where an estimate sets out from: who waits for what, what is there, and for how long it is busy.

Everybody stands where he is served, or with those who wait for the same load. What comes of it is
not worked out here. Times are in seconds from the instant of the estimate.
"""

import math
from collections.abc import Sequence

from ollama_gate.scheduler.incumbents import LEFT_SHARE
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.ranks import Group, Kind
from ollama_gate.scheduler.serving import would_share
from ollama_gate.scheduler.stands import SHORTEST_S, Lodging, Stand, Tenant
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import ModelKey, Request, RequestId, RunnerState


class Outset:
    """The state at one instant, by stands and lodgings.

    Attributes:
        stands: those who wait, by what serves or will serve them, and what is there for others.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._loaders = dict.fromkeys(state.upstreams, 0.0)
        self._lodgings = {
            bin_id: Lodging(
                books=books,
                max_loaded=state.upstreams[books.bin.upstream].max_loaded,
                passed=state.passed_in_bin.get(bin_id, 0),
            )
            for bin_id, books in state.books.items()
            if state.is_open(books.bin)
        }
        self.stands: list[Stand] = []
        self._by_kind: dict[Kind, Stand] = {}
        self._homeless: list[Stand] = []
        self._see_who_waits()

    def _see_who_waits(self) -> None:
        """Put everybody where he is served, else with those who wait for the same."""
        state, homes = self._state, dict[tuple[Runner, ...], Stand]()
        runners = [r for r in state.by_name(state.runners.values()) if r.bin.id in self._lodgings]
        serving = [r for r in runners if self._serves(r)]
        for model in list(state.line.models()):
            for group in state.line.groups(model):
                here = tuple(r for r in serving if state.suits(r, group.first))
                if here:
                    stand = homes.get(here) or self._stand_at(here)
                    homes[here] = stand
                else:
                    stand = self._like(group.first) or self._stand_for(group.first)
                stand.join(group)
                stand.overdue_at = min(stand.overdue_at, self._overdue_in_s(group))
                self._by_kind[group.kind] = stand
        for here, stand in homes.items():
            self._start(stand, here)
        for runner in runners:
            self._lodge(runner, next((s for here, s in homes.items() if runner in here), None))

    def _serves(self, runner: Runner) -> bool:
        loading = runner.state is RunnerState.LOADING
        return loading or (runner.usable and not self._state.is_draining(runner))

    def _like(self, request: Request) -> Stand | None:
        """Who waits for a load that serves a request as well."""
        for stand in self._homeless:
            other = stand.groups[0].first
            if other.needs.keys() == request.needs.keys() and would_share(other, request):
                return stand
        return None

    def _stand_for(self, request: Request) -> Stand:
        service_s = self._state.pace.service_s(request.model, request.service_s)
        stand = self._new(request.model, request.name, request.parallel, service_s)
        self._homeless.append(stand)
        return stand

    def _shortest_s(self, stand: Stand) -> float:
        """A visit of it takes no less."""
        needs = stand.first.needs
        loads = (self._state.load_s_of(stand.first.at(bin_id), bin_id) for bin_id in needs)
        return max(SHORTEST_S, min(loads) + stand.service_s)

    def _stand_at(self, runners: Sequence[Runner]) -> Stand:
        service_s = self._state.pace.service_s(runners[0].model)
        slots = sum(runner.parallel for runner in _there(runners))
        return self._new(runners[0].model, runners[0].name, slots, service_s)

    def _new(self, model: ModelKey, name: str, slots: int, service_s: float) -> Stand:
        rate = self._state.pace.rate(model, self._state.now)
        stand = Stand(model=model, name=name, slots=slots, service_s=service_s, rate_per_s=rate)
        self.stands.append(stand)
        return stand

    def _start(self, stand: Stand, runners: Sequence[Runner]) -> None:
        """Those who wait start as slots get free, once it is there."""
        there = _there(runners)
        at = min(self._ready_in_s(runner) for runner in there)
        free = sum(runner.parallel - len(runner.running) for runner in there)
        left = [
            self._left_s(request_id, stand.service_s) for r in there for request_id in r.running
        ]
        left_s = (math.fsum(left) + free * stand.service_s) / stand.slots
        stand.begin(at, free=free, left_s=left_s)

    def _left_s(self, request_id: RequestId, service_s: float) -> float:
        passed_s = self._state.now - self._state.charges[request_id].at
        return max(service_s - passed_s, LEFT_SHARE * service_s)

    def _ready_in_s(self, runner: Runner) -> float:
        """When it is there, 0 for one that is; an overlong load takes a while yet."""
        if runner.state is not RunnerState.LOADING:
            return 0.0
        passed_s = self._state.now - runner.since
        return max(runner.load_s - passed_s, LEFT_SHARE * runner.load_s)

    def _lodge(self, runner: Runner, stand: Stand | None) -> None:
        """Put a runner into its bin. What is about to be gone is with the plan that it is for."""
        lodging = self._lodgings[runner.bin.id]
        ready_in_s = self._ready_in_s(runner)
        if ready_in_s:
            self._loaders[runner.bin.upstream] = lodging.free_at = ready_in_s
        elif not runner.resident:
            return
        if stand is None:
            stand = self._stand_at([runner])
            self._start(stand, [runner])
        tenant = Tenant(
            model=runner.model,
            stand=stand,
            takes_bytes=runner.footprint_bytes,
            ready_at=ready_in_s or runner.ready_at - self._state.now,
            swap_s=max(self._state.reload_s(runner), runner.load_s),
            fixed=runner.pinned,
        )
        lodging.tenants.append(tenant)

    def _overdue_in_s(self, group: Group) -> float:
        """When the first of a kind is overdue, if patience stays what it is."""
        firsts = (rank.row[0] for rank in group.ranks if rank.row)
        line, demand = self._state.line, self._state.demand
        return min(
            0.0
            if line.overdue(first)
            else demand.ends_at(first.arrived_at, first.priority) - self._state.now
            for first in firsts
        )


def _there(runners: Sequence[Runner]) -> list[Runner]:
    """Those that serve now, else those that will."""
    return [runner for runner in runners if runner.resident] or list(runners)
