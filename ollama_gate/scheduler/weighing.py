"""What it would mean to load a model in a bin: in whose place, at which cost, worth how much.

One candidate and one bin at a time, with what is common to all of a settlement worked out once.
Which of them is chosen is decided elsewhere.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ollama_gate.scheduler.candidates import Candidate
from ollama_gate.scheduler.commands import Choice
from ollama_gate.scheduler.context import exact_if_must, widest
from ollama_gate.scheduler.eviction import cheapest
from ollama_gate.scheduler.fitting import Limits, Shortfall, most
from ollama_gate.scheduler.incumbents import Incumbent, drain_s, incumbent
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.room import lacking, stays
from ollama_gate.scheduler.state import Plan, State
from ollama_gate.scheduler.types import Bin, BinId, Request

HARDLY_WANTED, IDLE_S = 0.3, 60.0
"""Who has idled for so long and is less probable than this to be asked for during a visit goes
along with its victims. Where the demand drifts, mean waits are 14 % shorter with it (three seeds of
that family in `bench/scheduling.py`), and elsewhere the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A candidate in a bin."""

    candidate: Candidate
    books: Books
    plan: Plan
    left_bytes: float

    @property
    def index(self) -> float:
        """What the bins are given away by."""
        return self.plan.choice.index


class Weighing:
    """What can be asked of candidates and bins while one state is settled."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._work = state.demand.work_of_all()
        self._pins = any(runner.pinned for runner in state.runners.values())
        self._incumbents: dict[str, list[Incumbent]] = {}
        self._firms: dict[tuple[BinId, bool], frozenset[Runner]] = {}
        self._limits: dict[tuple[BinId, frozenset[Runner]], Limits] = {}

    def forget(self) -> None:
        """Something was decided: what others may still have of an upstream has changed."""
        self._limits.clear()
        self._firms.clear()
        self._incumbents.clear()

    def may_fit(self, candidate: Candidate, bins: Sequence[Books]) -> bool:
        """Whether there is anything to be weighed: most of those who wait fail for one reason."""
        state, interrupt = self._state, candidate.overdue is not None
        for books in bins:
            bin_id = books.bin.id
            if bin_id in candidate.request.needs:
                request = exact_if_must(state, candidate.request.at(bin_id), books)
                limits = self._most_beside(books, self._firm(books, interrupt=interrupt))
                if limits.admit(state.need_of(request, bin_id)):
                    return True
        return False

    def in_bin(self, candidate: Candidate, books: Books) -> Option | None:
        """A candidate in a bin: beside who is in use, or in their place where it is overdue."""
        if not self.may_try(candidate, books):
            return None
        option = self.option(candidate, books, interrupt=False)
        if option is None and candidate.overdue is not None:
            option = self.option(candidate, books, interrupt=True)
        return option

    def may_try(self, candidate: Candidate, books: Books) -> bool:
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

    def option(self, candidate: Candidate, books: Books, *, interrupt: bool) -> Option | None:
        """What a load there would mean; `None` if it cannot be had.

        Args:
            candidate: what would be loaded.
            books: of the bin.
            interrupt: whether who is in use may be drained for it.
        """
        state, bin_id = self._state, books.bin.id
        request = exact_if_must(state, candidate.request.at(bin_id), books)
        need = state.need_of(request, bin_id)
        staying = [each.runner for each in self.here(books)]

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
        return Option(candidate=candidate, books=books, plan=plan, left_bytes=left)

    def here(self, books: Books) -> list[Incumbent]:
        """Who stays on a bin's upstream for now, as far as nobody else gets their memory."""
        upstream = books.bin.upstream
        if upstream not in self._incumbents:
            self._incumbents[upstream] = [
                incumbent(self._state, runner)
                for runner in self._state.staying(books.bin)
                if stays(self._state, runner)
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
        for each in self.here(books):
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
                for each in self.here(books)
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
