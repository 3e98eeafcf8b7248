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
from collections.abc import Sequence
from dataclasses import replace

from ollama_gate.scheduler.candidates import Candidate, by_bound, candidates, is_served_by, replicas
from ollama_gate.scheduler.commitments import kept
from ollama_gate.scheduler.memory import Books
from ollama_gate.scheduler.room import is_free, lacking, stays
from ollama_gate.scheduler.state import Held, Plan, State
from ollama_gate.scheduler.types import Request
from ollama_gate.scheduler.weighing import Option, Weighing

RIVALS = 3
"""So many of those that were weighed and not chosen are remembered with a decision."""


def plan_all(state: State) -> None:
    """Keep to what was decided while it holds, and decide for the bins that are free to."""
    held = -1
    while held != len(state.plans):
        # What one bin gives up may be what another one counted on.
        held = len(state.plans)
        state.plans = dict(kept(state))
    state.turn_ends = math.inf
    if state.line:
        free = [books for books in state.books.values() if is_free(state, books)]
        if free:
            _Round(state, free).decide()


def most_urgent(state: State, books: Books) -> Request | None:
    """Who is next for a bin that nothing is decided for, if there were room."""
    return _Round(state, [books]).most_urgent(books)


class _Round:
    """The decisions of one settlement, for the bins that are free."""

    def __init__(self, state: State, free: Sequence[Books]) -> None:
        self._state = state
        self._free = list(free)
        self._candidates = candidates(state)
        self._weigh = Weighing(state)

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
                self._weigh.option(candidate, books, interrupt=False)
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
        return not there and self._weigh.may_try(candidate, books)

    def most_urgent(self, books: Books) -> Request | None:
        """The most urgent of those that a bin may load, whether there is room for it or not."""
        for candidate in by_bound(self._state, self._candidates):
            if self._weigh.may_try(candidate, books):
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
        self._weigh.forget()

    # ---------------------------------------------------------------- bounded bypass

    def _head(self, books: Books) -> Candidate | None:
        """Whose turn it would be by the virtual deadlines alone."""
        overdue = [
            (each.overdue, each)
            for each in self._candidates
            if each.overdue is not None and self._weigh.may_try(each, books)
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
            for each in self._weigh.here(books)
            if each.waiting
        )
        return min((at for at in ends if at > self._state.now), default=None)

    # ---------------------------------------------------------------- the index

    def _best(self) -> tuple[Option | None, tuple[tuple[str, float], ...]]:
        """The candidate with the largest index, where it has it; and whom it was weighed with."""
        best: Option | None = None
        weighed: list[Option] = []
        possible = (c for c in self._candidates if self._weigh.may_fit(c, self._free))
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

    def _place(self, candidate: Candidate) -> Option | None:
        """The bin for a candidate: the fullest with room for it, else where its index is best."""
        options = [
            option
            for books in self._free
            if (option := self._weigh.in_bin(candidate, books)) is not None
        ]
        roomy = [option for option in options if not option.plan.victims]
        if roomy:
            return min(roomy, key=lambda o: (o.left_bytes, -o.index, o.books.bin.id))
        if not options or self._has_room_soon(candidate):
            return None
        return max(options, key=lambda option: option.index)

    def _has_room_soon(self, candidate: Candidate) -> bool:
        """Whether a bin that is busy now will have room without anybody's going."""
        state = self._state
        for bin_id in candidate.request.needs:
            books = state.books[bin_id]
            if books not in self._free and state.is_open(books.bin):
                plan = state.plans.get(bin_id)
                stay = [r for r in state.staying(books.bin) if stays(state, r)]
                if plan is None and not lacking(state, candidate.request.at(bin_id), books, stay):
                    return True
        return False
