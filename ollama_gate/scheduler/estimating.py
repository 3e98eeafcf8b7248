"""How long those who wait will wait: what is known, played forward, model by model.

Models follow each other as the policy would have it if nobody else came, each for as long as it
takes to serve those who wait for it and to load what it needs. It is an estimate, for people and
for `Retry-After`: whoever comes later may change it, the times are means, and nothing is decided
by it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ollama_gate.scheduler.candidates import is_served_by
from ollama_gate.scheduler.outset import Outset
from ollama_gate.scheduler.ranks import kind_of
from ollama_gate.scheduler.stands import Lodging, Stand, Tenant
from ollama_gate.scheduler.state import Plan, State
from ollama_gate.scheduler.types import (
    BinId,
    ModelKey,
    Priority,
    Request,
    RunnerState,
)

INSTANTS_A_STAND = 8
"""So many are looked at for each stand, at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """What may be decided: a model for a bin, and who makes room for it."""

    stand: Stand
    request: Request
    lodging: Lodging
    victims: tuple[Tenant, ...]
    index: float
    starts_at: float
    load_s: float


class Forecast(Outset):
    """What becomes of those who wait. Times in seconds from the instant at which it was made.

    Args:
        state: as it stands.
        within_s: what is decided later than this is of no interest.
    """

    def __init__(self, state: State, within_s: float = math.inf) -> None:
        super().__init__(state)
        self._within_s = within_s
        self._patience_s = state.demand.backlog.patience_s
        self._turn_ends = math.inf
        self._least_s: dict[Stand, float] = {}
        self._spare: dict[BinId, list[Tenant]] = {}
        self._follow_plans()
        self._play()

    # ---------------------------------------------------------------- what it says

    def stand_of(self, request: Request) -> Stand:
        """Where one of those who wait does."""
        return self._by_kind[kind_of(request)]

    def stand_for(self, model: ModelKey) -> Stand | None:
        """Where one who asked for a model would wait; `None` if nobody does and it is not there."""
        return next((stand for stand in self.stands if stand.model == model), None)

    def before(self, stand: Stand) -> list[tuple[str, float]]:
        """The models that are loaded before one, in that order, and their indices."""
        at = stand.turns[-1].at if stand.turns else math.inf
        loads = (
            (turn.at, each.name, turn.index)
            for each in self.stands
            for turn in each.turns
            if turn.index is not None and turn.at < at
        )
        return [(name, index) for _, name, index in sorted(loads)]

    def newcomer_s(self, priority: Priority) -> float | None:
        """How long one would wait who comes now; `None` if nobody can tell.

        The mean over the models that are there or waited for, by how often they are asked for.
        """
        known = [
            (stand.rate_per_s, wait_s)
            for stand in self.stands
            if (wait_s := stand.start_of(stand.counts[priority])) is not None
        ]
        rates = math.fsum(rate for rate, _ in known)
        return math.fsum(rate * wait_s for rate, wait_s in known) / rates if rates else None

    # ---------------------------------------------------------------- what comes of it

    def _follow_plans(self) -> None:
        """What is decided already."""
        for bin_id, plan in self._state.plans.items():
            lodging = self._lodgings[bin_id]
            if isinstance(plan, Plan):
                served = (s for s in self._homeless if _is_served_by(plan, bin_id, s))
                # Those for whom a twin comes are served already.
                stand = next(served, None) or self._stand_for(plan.request)
                self._follow(plan, lodging, stand)
            else:
                lodging.passed = max(lodging.passed, self._state.policy.k_load)

    def _follow(self, plan: Plan, lodging: Lodging, stand: Stand) -> None:
        going = {runner.model for runner in plan.victims if runner.bin.id == lodging.books.bin.id}
        victims = tuple(tenant for tenant in lodging.tenants if tenant.model in going)
        leaving = any(
            not runner.resident and runner.state is not RunnerState.LOADING
            for runner in self._state.in_bin(lodging.books.bin.id)
        )
        drain_s = max((tenant.stand.done_at() for tenant in victims), default=0.0)
        unload_s = self._unload_s(lodging) if victims or leaving else 0.0
        move = _Move(
            stand=stand,
            request=plan.request,
            lodging=lodging,
            victims=victims,
            index=plan.choice.index,
            starts_at=drain_s + unload_s,
            load_s=self._state.load_s_of(plan.request, lodging.books.bin.id),
        )
        self._make(move, 0.0)

    def _play(self) -> None:
        """Decide as the policy would, from one instant at which something ends to the next."""
        at, instants = 0.0, INSTANTS_A_STAND * len(self.stands)
        self._least_s = {stand: self._shortest_s(stand) for stand in self.stands if stand.groups}
        while self._homeless and instants and at < self._within_s:
            instants -= 1
            self._turn_ends = math.inf
            self._spare.clear()
            move = self._best(at)
            if move is not None:
                self._make(move, at)
            else:
                at = min((end for end in self._ends() if end > at), default=math.inf)

    def _open(self, at: float) -> list[Lodging]:
        """The bins for which something may be decided."""
        return [
            lodging
            for lodging in self._lodgings.values()
            if lodging.free_at <= at and self._loaders[lodging.books.bin.upstream] <= at
        ]

    def _ends(self) -> Iterator[float]:
        yield self._turn_ends
        yield from self._loaders.values()
        for stand in self._homeless:
            yield stand.overdue_at
        for lodging in self._lodgings.values():
            yield lodging.free_at
            for tenant in lodging.tenants:
                yield tenant.stand.done_at()

    def _make(self, move: _Move, at: float) -> None:
        """Carry it out: the victims go, the model comes, who waits for it starts then."""
        lodging, upstream = move.lodging, move.lodging.books.bin.upstream
        head = self._head(lodging, at)
        if head is not None:
            lodging.passed = 0 if head is move.stand else lodging.passed + 1
        starts_at = max(move.starts_at, self._loaders[upstream])
        ready_at = starts_at + move.load_s
        self._loaders[upstream] = lodging.free_at = ready_at
        for victim in move.victims:
            lodging.tenants.remove(victim)
            self._turn_out(victim.stand, at)
        need = self._state.need_of(move.request, lodging.books.bin.id)
        stand = move.stand
        stand.begin(ready_at, free=stand.slots, left_s=stand.service_s, index=move.index)
        self._homeless.remove(stand)
        tenant = Tenant(
            model=stand.model,
            stand=stand,
            takes_bytes=need.footprint_bytes,
            ready_at=ready_at,
            swap_s=move.load_s,
            fixed=move.request.pinned,
        )
        lodging.tenants.append(tenant)

    def _turn_out(self, stand: Stand, at: float) -> None:
        """Those who have not started have nobody any more, unless there is a twin."""
        everywhere = (t.stand for lodging in self._lodgings.values() for t in lodging.tenants)
        if stand not in everywhere:
            stand.break_off(at, self._patience_s[stand.top])
            if stand.left:
                self._homeless.append(stand)

    # ---------------------------------------------------------------- what may be decided

    def _head(self, lodging: Lodging, at: float) -> Stand | None:
        """Before whom others may not be loaded for ever."""
        bin_id = lodging.books.bin.id
        late = [s for s in self._homeless if s.overdue_at <= at and bin_id in s.first.needs]
        return min(late, key=lambda stand: stand.overdue_at, default=None)

    def _best(self, at: float) -> _Move | None:
        """What has the largest index, as `planning` has it."""
        best: _Move | None = None
        places = [
            (lodging, head if lodging.passed >= self._state.policy.k_load else None)
            for lodging in self._open(at)
            for head in [self._head(lodging, at)]
        ]
        for bound, work, stand in self._ranked(at) if places else ():
            if best is not None and bound <= best.index:
                break
            for lodging, kept_for in places:
                if kept_for in {None, stand} and lodging.books.bin.id in stand.first.needs:
                    move = self._move(stand, work, lodging, at)
                    if move is not None and (best is None or move.index > best.index):
                        best = move
        return best

    def _ranked(self, at: float) -> list[tuple[float, float, Stand]]:
        """Who may be loaded, with an index that it cannot exceed and its waiting work."""
        state, patience_s = self._state, self._patience_s
        works = ((s.work(state.policy, patience_s, state.now + at), s) for s in self._homeless)
        ranked = [(work / self._least_s[stand], work, stand) for work, stand in works]
        return sorted(ranked, key=lambda each: -each[0])

    def _move(self, stand: Stand, work: float, lodging: Lodging, at: float) -> _Move | None:
        state, bin_id = self._state, lodging.books.bin.id
        request = stand.first.at(bin_id)
        load_s, unload_s = state.load_s_of(request, bin_id), self._unload_s(lodging)
        coming = stand.left + stand.rate_per_s * load_s
        visit_s = unload_s + load_s + stand.service_s * max(1.0, coming / stand.slots)
        victims = self._victims(stand, lodging, at, load_s)
        if victims is None:
            return None
        drain_s = max((self._drain_s(tenant, at) for tenant in victims), default=0.0)
        reload_s = sum(tenant.swap_s * _wanted(tenant.stand, at, visit_s) for tenant in victims)
        return _Move(
            stand=stand,
            request=request,
            lodging=lodging,
            victims=victims,
            index=work / (visit_s + drain_s + reload_s),
            starts_at=at + drain_s + (unload_s if victims else 0.0),
            load_s=load_s,
        )

    def _victims(
        self, stand: Stand, lodging: Lodging, at: float, load_s: float
    ) -> tuple[Tenant, ...] | None:
        """Enough and no more of those who may be asked to go; `None` if they are too few."""
        need = self._state.need_of(stand.first, lodging.books.bin.id)
        willing = self._spare_in(lodging, at)
        if stand.overdue_at <= at:
            willing = [t for t in lodging.tenants if self._yields(t, stand, at, load_s)]
            willing.sort(key=lambda tenant: _dearness(tenant, at))
        if not lodging.has_room(need, [t for t in lodging.tenants if t not in willing]):
            return None
        gone = [tenant for tenant in willing if tenant.model == stand.model]
        if any(t.model == stand.model and t not in gone for t in lodging.tenants):
            return None
        forced = len(gone)
        rest = [tenant for tenant in willing if tenant not in gone]

        def fits() -> bool:
            return lodging.has_room(need, [t for t in lodging.tenants if t not in gone])

        while not fits():
            gone.append(rest.pop(0))
        for tenant in reversed(gone[forced:]):
            gone.remove(tenant)
            if not fits():
                gone.append(tenant)
        return tuple(gone)

    def _spare_in(self, lodging: Lodging, at: float) -> list[Tenant]:
        """Those who may always be asked to go, and who first."""
        bin_id = lodging.books.bin.id
        if bin_id not in self._spare:
            spare = [t for t in lodging.tenants if _is_spare(t, at)]
            self._spare[bin_id] = sorted(spare, key=lambda tenant: _dearness(tenant, at))
        return self._spare[bin_id]

    def _yields(self, tenant: Tenant, stand: Stand, at: float, load_s: float) -> bool:
        """Whether it may be asked to go for somebody overdue: it is spare, or has had its turn."""
        if tenant.fixed or tenant.ready_at > at:
            return False
        if tenant.stand.done_at() <= at:
            return True
        policy, queue_s = self._state.policy, tenant.stand.queue_s(at)
        if not queue_s:
            return True
        swap_s = tenant.swap_s + load_s
        kappa = policy.kappa_hi if stand.top < tenant.stand.top else policy.kappa
        stretch = policy.stretch if queue_s < policy.finish * swap_s else 1.0
        ends_at = tenant.ready_at + kappa * swap_s * stretch
        if ends_at > at:
            self._turn_ends = min(self._turn_ends, ends_at)
            return False
        return True

    @staticmethod
    def _drain_s(tenant: Tenant, at: float) -> float:
        """How long it still serves those who have a slot."""
        left_s = max(0.0, tenant.stand.done_at() - at)
        return min(left_s, tenant.stand.service_s)

    def _unload_s(self, lodging: Lodging) -> float:
        return self._state.pace.unload_s(lodging.books.bin.upstream)


def _is_served_by(plan: Plan, bin_id: BinId, stand: Stand) -> bool:
    """Whether what is planned serves some of a stand."""
    return any(is_served_by(plan, bin_id, group.first) for group in stand.groups)


def _is_spare(tenant: Tenant, at: float) -> bool:
    """Whether it is there, and nobody waits for it nor is served."""
    return not tenant.fixed and tenant.ready_at <= at and tenant.stand.done_at() <= at


def _wanted(stand: Stand, at: float, visit_s: float) -> float:
    """How probable it is that somebody asks for it during a visit of another."""
    return 1.0 if stand.queue_s(at) else 1.0 - math.exp(-stand.rate_per_s * visit_s)


def _dearness(tenant: Tenant, at: float) -> tuple[float, float]:
    """Who goes first: whom nobody waits for, then who is least wanted and soonest back."""
    return tenant.stand.queue_s(at), tenant.stand.rate_per_s * tenant.swap_s
