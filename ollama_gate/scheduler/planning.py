"""Who is next: whose model each bin loads, and who makes room for it.

A bin that nothing is decided for weighs everybody who waits for what is not there: the model with
the largest index goes next, weighted waiting work over the seconds that a visit of it costs. It may
have what serves nobody and nobody waits for; only for somebody overdue are others drained, and
those that are still wanted not before they have served somebody and had their quantum. An overdue
request that has been passed over often enough has the bin kept for it.

What was decided is a commitment, or two victims could be drained by turns for ever; it ends when
its reason does. This fills in `state.plans` and what was passed over, and changes nothing else.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ollama_gate.scheduler.candidates import Candidate, by_bound, candidates, is_served_by, replicas
from ollama_gate.scheduler.commands import Choice
from ollama_gate.scheduler.context import exact_if_must, widest
from ollama_gate.scheduler.eviction import cheapest, without_spare
from ollama_gate.scheduler.fitting import Limits, Shortfall, most, shortfall
from ollama_gate.scheduler.incumbents import Incumbent, drain_s, incumbent
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.serving import would_share
from ollama_gate.scheduler.state import Held, Plan, State
from ollama_gate.scheduler.types import Bin, BinId, Request

HARDLY_WANTED, IDLE_S = 0.3, 60.0
"""Who has idled for so long and is less probable than this to be asked for during a visit goes
along with its victims. Where the demand drifts, mean waits are 14 % shorter with it (three seeds of
that family in `bench/scheduling.py`), and elsewhere the same."""

RIVALS = 3
"""So many of those that were weighed and not chosen are remembered with a decision."""


def plan_all(state: State) -> None:
    """Keep to what was decided while it holds, and decide for the bins that are free to."""
    held = -1
    while held != len(state.plans):
        # What one bin gives up may be what another one counted on.
        held = len(state.plans)
        state.plans = dict(_kept(state))
    state.turn_ends = math.inf
    if state.line:
        free = [books for books in state.books.values() if _is_free(state, books)]
        if free:
            _Round(state, free).decide()


def most_urgent(state: State, books: Books) -> Request | None:
    """Who is next for a bin that nothing is decided for, if there were room."""
    return _Round(state, [books]).most_urgent(books)


def _is_free(state: State, books: Books) -> bool:
    """Whether something may be decided for a bin: a load is part of what was decided before."""
    bin_ = books.bin
    return bin_.id not in state.plans and state.is_open(bin_) and not state.loading(bin_.upstream)


# -------------------------------------------------------------------- what was decided


def _kept(state: State) -> Iterable[tuple[BinId, Plan | Held]]:
    """The plans that still hold, without victims that they need no more."""
    before = state.plans
    for bin_id, plan in before.items():
        if isinstance(plan, Plan):
            kept = _still(state, plan, state.books[bin_id])
            if kept is not None:
                yield bin_id, kept


def _still(state: State, plan: Plan, books: Books) -> Plan | None:
    request = _heir(state, plan.request, books)
    if request is None or not state.is_open(books.bin):
        return None
    staying = [r for r in state.staying(books.bin) if r in plan.victims or _stays(state, r)]
    remaining = [runner for runner in plan.victims if runner in staying]
    if any(r.model == request.model and r not in remaining for r in staying):
        # One runner a model: this one has come since.
        return None

    def without(gone: Collection[Runner]) -> Shortfall | None:
        return lacking(state, request, books, [r for r in staying if r not in gone])

    if without(remaining) is not None or _has_room_elsewhere(state, request, books, remaining):
        # Memory has moved: what was decided would not do any more, or need not be done.
        return None
    forced = [runner for runner in remaining if runner.model == request.model]
    others = [runner for runner in remaining if runner.model != request.model]
    victims = without_spare([*forced, *others], without, keep=len(forced))
    return replace(plan, request=request, victims=victims)


def _has_room_elsewhere(
    state: State, request: Request, books: Books, victims: Sequence[Runner]
) -> bool:
    """Whether another bin has become free for it, and nobody has been asked to go yet."""
    if not any(runner.running for runner in victims):
        return False
    others = (state.books[bin_id] for bin_id in request.needs if bin_id != books.bin.id)
    return any(
        _is_free(state, other)
        and other.bin.upstream != books.bin.upstream
        and lacking(state, request.at(other.bin.id), other, state.staying(other.bin)) is None
        for other in others
    )


def _heir(state: State, request: Request, books: Books) -> Request | None:
    """For whom a model is loaded, if somebody who waits would be served by it and nothing else."""
    if request.id in state.line:
        waits = request
    else:
        groups = (g for g in state.line.groups(request.model) if books.bin.id in g.first.needs)
        served = [g.first for g in groups if would_share(request, g.first.at(books.bin.id))]
        if not served:
            return None
        first = min(
            served, key=lambda each: (each.priority, each.arrived_at, state.line.joined(each))
        )
        waits = replace(
            request,
            id=first.id,
            name=first.name,
            arrived_at=first.arrived_at,
            priority=first.priority,
        )
    return None if state.has_runner(waits) else waits


# -------------------------------------------------------------------- what is decided


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """A candidate in a bin."""

    candidate: Candidate
    books: Books
    plan: Plan
    left_bytes: float

    @property
    def index(self) -> float:
        """What the bins are given away by."""
        return self.plan.choice.index


class _Round:
    """The decisions of one settlement, for the bins that are free."""

    def __init__(self, state: State, free: Sequence[Books]) -> None:
        self._state = state
        self._free = list(free)
        self._candidates = candidates(state)
        self._work = state.demand.work_of_all()
        self._incumbents: dict[str, list[Incumbent]] = {}
        self._firms: dict[tuple[BinId, bool], frozenset[Runner]] = {}
        self._pins = any(runner.pinned for runner in state.runners.values())
        self._limits: dict[tuple[BinId, frozenset[Runner]], Limits] = {}

    def decide(self) -> None:
        """Give the bins away: to those they are kept for, then by the index."""
        for books in list(self._free):
            self._reserve(books)
        while self._free and self._candidates:
            option, rivals = self._best()
            if option is None:
                break
            choice = replace(option.plan.choice, rivals=rivals)
            self._commit(option.candidate, option.books, replace(option.plan, choice=choice))
        self._replicate()

    def _replicate(self) -> None:
        """Load a second runner of what is wanted most where nobody wants anything else."""
        unwanted = [
            books
            for books in self._free
            if not any(books.bin.id in each.request.needs for each in self._candidates)
        ]
        for candidate in by_bound(self._state, replicas(self._state)) if unwanted else ():
            options = (
                self._option(candidate, books, interrupt=False)
                for books in unwanted
                if self._is_further(candidate, books)
            )
            # Nobody leaves for it.
            roomy = [each for each in options if each is not None and not each.plan.victims]
            if roomy:
                best = min(roomy, key=lambda o: (o.left_bytes, o.books.bin.id))
                self._state.plans[best.books.bin.id] = best.plan
                self._free.remove(best.books)
                unwanted.remove(best.books)

    def _is_further(self, candidate: Candidate, books: Books) -> bool:
        """Whether a bin may hold a model of which its upstream has no runner yet."""
        upstream, model = books.bin.upstream, candidate.request.model
        there = any(
            runner.model == model and runner.bin.upstream == upstream
            for runner in self._state.runners.values()
        )
        return not there and self._may_try(candidate, books)

    def most_urgent(self, books: Books) -> Request | None:
        """The most urgent of those that a bin may load, whether there is room for it or not."""
        for candidate in by_bound(self._state, self._candidates):
            if self._may_try(candidate, books):
                return candidate.request.at(books.bin.id)
        return None

    def _commit(self, candidate: Candidate, books: Books, plan: Plan) -> None:
        passed = self._state.passed_in_bin
        head, bin_id = self._head(books), books.bin.id
        if head is candidate:
            passed[bin_id] = 0
        elif head is not None:
            passed[bin_id] = passed.get(bin_id, 0) + 1
        self._give(candidate, books, plan)

    def _give(self, candidate: Candidate, books: Books, plan: Plan | Held) -> None:
        self._state.plans[books.bin.id] = plan
        self._free.remove(books)
        self._candidates.remove(candidate)
        if isinstance(plan, Plan):
            bin_id = books.bin.id
            self._candidates = [
                each for each in self._candidates if not is_served_by(plan, bin_id, each.request)
            ]
        # What others may still have of this upstream has changed.
        self._limits.clear()
        self._firms.clear()
        self._incumbents.clear()

    # ---------------------------------------------------------------- bounded bypass

    def _head(self, books: Books) -> Candidate | None:
        """Whose turn it would be by the virtual deadlines alone."""
        overdue = [
            (each.overdue, each)
            for each in self._candidates
            if each.overdue is not None and self._may_try(each, books)
        ]
        return min(overdue, key=lambda each: each[0])[1] if overdue else None

    def _reserve(self, books: Books) -> None:
        """Keep a bin for an overdue request before which enough others were loaded."""
        if books not in self._free:
            return
        passed = self._state.passed_in_bin.get(books.bin.id, 0)
        if passed < self._state.policy.k_load:
            return
        head = self._head(books)
        if head is None:
            return
        option = self._place(head)
        if option is not None:
            choice = replace(option.plan.choice, reserved=True, passed_over=passed)
            self._commit(head, option.books, replace(option.plan, choice=choice))
        else:
            until = self._turn_of_next(head, books)
            self._give(head, books, Held(request=head.request.at(books.bin.id), until=until))

    def _turn_of_next(self, head: Candidate, books: Books) -> float | None:
        bin_id = books.bin.id
        load_s = self._state.load_s_of(head.request.at(bin_id), bin_id)
        ends = (
            each.turn_ends_at(self._state.policy, head.top, load_s)
            for each in self._here(books)
            if each.waiting
        )
        return min((at for at in ends if at > self._state.now), default=None)

    # ---------------------------------------------------------------- the index

    def _best(self) -> tuple[_Option | None, tuple[tuple[str, float], ...]]:
        """The candidate with the largest index, where it has it; and whom it was weighed with."""
        best: _Option | None = None
        weighed: list[_Option] = []
        possible = filter(self._may_fit, self._candidates)
        for candidate in by_bound(self._state, possible):
            if best is not None and candidate.bound <= best.index:
                # They come by their bounds: nobody after this one can be better.
                break
            option = self._place(candidate)
            if option is not None:
                weighed.append(option)
                if best is None or option.index > best.index:
                    best = option
        others = sorted((o for o in weighed if o is not best), key=lambda o: -o.index)
        return best, tuple((o.candidate.request.name, o.index) for o in others[:RIVALS])

    def _place(self, candidate: Candidate) -> _Option | None:
        """The bin for a candidate: the fullest with room for it, else where its index is best."""
        options = [
            option for books in self._free if (option := self._in_bin(candidate, books)) is not None
        ]
        roomy = [option for option in options if not option.plan.victims]
        if roomy:
            return min(roomy, key=lambda o: (o.left_bytes, -o.index, o.books.bin.id))
        if not options or self._has_room_soon(candidate):
            return None
        return max(options, key=lambda option: option.index)

    def _may_fit(self, candidate: Candidate) -> bool:
        """Whether there is anything to be weighed: most of those who wait fail for one reason."""
        state, interrupt = self._state, candidate.overdue is not None
        for books in self._free:
            bin_id = books.bin.id
            if bin_id in candidate.request.needs:
                request = exact_if_must(state, candidate.request.at(bin_id), books)
                limits = self._most_beside(books, self._firm(books, interrupt=interrupt))
                if limits.admit(state.need_of(request, bin_id)):
                    return True
        return False

    def _in_bin(self, candidate: Candidate, books: Books) -> _Option | None:
        if not self._may_try(candidate, books):
            return None
        option = self._option(candidate, books, interrupt=False)
        if option is None and candidate.overdue is not None:
            option = self._option(candidate, books, interrupt=True)
        return option

    def _may_try(self, candidate: Candidate, books: Books) -> bool:
        """Whether a bin may load it; after it ran out of memory, others go first for a while."""
        bin_id, request = books.bin.id, candidate.request
        return (
            bin_id in request.needs
            and self._state.now >= self._state.retry_at(request, bin_id)
            and not self._comes_beside(request, books.bin)
            and not (self._pins and self._has_no_room_beside_pins(request.at(bin_id), books))
        )

    def _has_no_room_beside_pins(self, request: Request, books: Books) -> bool:
        """Whether what never goes is in its way: nothing is to be kept for it then."""
        state = self._state
        pins = [r for r in state.staying(books.bin) if r.pinned and r.model != request.model]
        return bool(pins) and lacking(state, request, books, pins) is not None

    def _comes_beside(self, request: Request, bin_: Bin) -> bool:
        """Whether another bin of the upstream gets the model: it keeps one runner of each."""
        return any(
            plan.request.model == request.model
            and self._state.books[bin_id].bin.upstream == bin_.upstream
            for bin_id, plan in self._state.plans.items()
            if bin_id != bin_.id
        )

    def _has_room_soon(self, candidate: Candidate) -> bool:
        """Whether a bin that is busy now will have room without anybody's going."""
        state = self._state
        for bin_id in candidate.request.needs:
            books = state.books[bin_id]
            if books not in self._free and state.is_open(books.bin):
                plan = state.plans.get(bin_id)
                stay = [r for r in state.staying(books.bin) if _stays(state, r)]
                if plan is None and not lacking(state, candidate.request.at(bin_id), books, stay):
                    return True
        return False

    # ---------------------------------------------------------------- one candidate, one bin

    def _option(self, candidate: Candidate, books: Books, *, interrupt: bool) -> _Option | None:
        state, bin_id = self._state, books.bin.id
        request = exact_if_must(state, candidate.request.at(bin_id), books)
        need = state.need_of(request, bin_id)
        staying = [each.runner for each in self._here(books)]

        def without(gone: Collection[Runner]) -> Shortfall | None:
            return lacking(state, request, books, [r for r in staying if r not in gone])

        forced = [runner for runner in staying if runner.model == request.model]
        visit_s = candidate.visit_s(bin_id)
        yielding = self._yielding(candidate, books, interrupt=interrupt)
        costs = {
            each.runner: each.cost(visit_s, self._work - candidate.work - each.work)
            for each in yielding
        }
        if not all(runner in costs for runner in forced):
            return None
        firm = frozenset(runner for runner in staying if runner not in costs)
        if not self._most_beside(books, firm).admit(need):
            return None
        eligible = [(r, cost.total) for r, cost in costs.items() if r not in forced]
        victims = cheapest(eligible, without, forced=forced)
        if isinstance(victims, Shortfall):
            return None
        if victims and books.remembers_free:
            victims = (
                *victims,
                *_hardly_wanted(yielding, victims, books, visit_s=visit_s, now=state.now),
            )
        gone = [each for each in yielding if each.runner in victims]
        beside = [runner for runner in staying if runner not in victims]
        wide = widest(state, request, books, lambda wider: not lacking(state, wider, books, beside))
        drain, reload_s = drain_s(gone), sum(v.wanted_again(visit_s) * v.reload_s for v in gone)
        choice = Choice(
            index=candidate.work / (visit_s + drain + reload_s),
            work=candidate.work,
            waiting=candidate.waiting,
            visit_s=visit_s,
            drain_s=drain,
            reload_s=reload_s,
            overdue=candidate.overdue is not None,
            passed_over=state.passed_in_bin.get(bin_id, 0),
            victims=tuple(costs[runner] for runner in victims),
        )
        plan = Plan(request=wide, victims=victims, missing=without(()), choice=choice)
        free = books.free_bytes([r for r in beside if r.bin.id == bin_id])
        left = math.inf if free is None else free - need.footprint_bytes
        return _Option(candidate=candidate, books=books, plan=plan, left_bytes=left)

    def _here(self, books: Books) -> list[Incumbent]:
        upstream = books.bin.upstream
        if upstream not in self._incumbents:
            self._incumbents[upstream] = [
                incumbent(self._state, runner)
                for runner in self._state.staying(books.bin)
                if _stays(self._state, runner)
            ]
        return self._incumbents[upstream]

    def _yielding(self, candidate: Candidate, books: Books, *, interrupt: bool) -> list[Incumbent]:
        """Who may be asked to go: what serves nobody always, what is in use only if overdue.

        One that is still wanted has its quantum first, and serves somebody at the very least: two
        elders must not throw out each other's models for ever.
        """
        state, bin_id = self._state, books.bin.id
        load_s = state.load_s_of(candidate.request.at(bin_id), bin_id)
        yielding = []
        for each in self._here(books):
            # What is pinned goes only to be loaded again with other options.
            pinned = each.runner.pinned and each.runner.model != candidate.request.model
            if pinned or not each.runner.resident:
                continue
            if not (each.spare or interrupt):
                continue
            if each.waiting:
                ends_at = each.turn_ends_at(state.policy, candidate.top, load_s)
                if not each.runner.served or state.now < ends_at:
                    if ends_at > state.now:
                        state.turn_ends = min(state.turn_ends, ends_at)
                    continue
            yielding.append(each)
        return yielding

    def _most_beside(self, books: Books, firm: frozenset[Runner]) -> Limits:
        """What nobody may exceed beside those who stay, whoever else goes."""
        key = books.bin.id, firm
        if key not in self._limits:
            here = [runner for runner in firm if runner.bin.id == books.bin.id]
            self._limits[key] = most(
                books,
                here,
                elsewhere=len(firm) - len(here),
                max_loaded=self._state.upstreams[books.bin.upstream].max_loaded,
                whole=self._state.whole,
            )
        return self._limits[key]

    def _firm(self, books: Books, *, interrupt: bool) -> frozenset[Runner]:
        """Who stays whoever the candidate is; for the overdue, until when is remembered."""
        key = books.bin.id, interrupt
        if key not in self._firms:
            self._firms[key] = frozenset(
                each.runner
                for each in self._here(books)
                if not each.runner.resident
                or (self._has_its_turn(each) if interrupt else not each.spare)
            )
        return self._firms[key]

    def _has_its_turn(self, each: Incumbent) -> bool:
        """Whether nobody at all may drain it yet."""
        if not each.waiting:
            return False
        state, policy = self._state, self._state.policy
        ends_at = each.runner.ready_at + each.least_quantum_s(policy)
        if state.now < ends_at:
            state.turn_ends = min(state.turn_ends, ends_at)
        return not each.runner.served or state.now < ends_at


def _hardly_wanted(
    yielding: Iterable[Incumbent],
    victims: Collection[Runner],
    books: Books,
    *,
    visit_s: float,
    now: float,
) -> Iterator[Runner]:
    """Who goes along where a card is to be loaded anyway, for it costs little now and much later.

    Ollama remembers of each runner what was free when that was loaded: of one that leaves later
    the newcomer would hide the memory for as long as it lives.
    """
    for each in yielding:
        if (
            each.spare
            and each.runner not in victims
            and each.runner.bin.id == books.bin.id
            and not books.bin.cpu
            and each.wanted_again(visit_s) < HARDLY_WANTED
            and now - each.runner.idle_since >= IDLE_S
        ):
            yield each.runner


def _stays(state: State, runner: Runner) -> bool:
    """Whether it makes room for nobody yet."""
    return state.drained_for(runner) is None


def lacking(
    state: State, request: Request, books: Books, beside: Collection[Runner]
) -> Shortfall | None:
    """What prevents a load beside runners of the same upstream."""
    here = [runner for runner in beside if runner.bin.id == books.bin.id]
    return shortfall(
        state.need_of(request, books.bin.id),
        books,
        here,
        elsewhere=len(beside) - len(here) + _promised(state, books.bin),
        max_loaded=state.upstreams[books.bin.upstream].max_loaded,
        whole=state.whole,
        patient=state.is_patient(request, books),
        # It slid where the books had room for it, so they are no guide to the second load.
        alone=state.recovery.of((books.bin.id, request.model, request.launch)).reloaded,
    )


def _promised(state: State, bin_: Bin) -> int:
    """How many runners its upstream is about to get in its other bins."""
    return sum(
        isinstance(plan, Plan) and bin_id != bin_.id
        for bin_id, plan in state.plans.items()
        if state.books[bin_id].bin.upstream == bin_.upstream
    )
