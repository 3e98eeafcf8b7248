"""What is not as it should be, and what is done about it: it is mended, let go, or put up with.

A model of which a part is on the CPU, one whose process is no more, memory that others took. Who
is next and who makes room for it is decided elsewhere.
"""

from collections.abc import Collection, Sequence
from itertools import takewhile

from ollama_gate.scheduler.booking import Booking
from ollama_gate.scheduler.commands import Broken, Evicted, Expired, Offloaded, Unload, Warn
from ollama_gate.scheduler.eviction import choose
from ollama_gate.scheduler.fitting import Shortfall, in_others_hands
from ollama_gate.scheduler.memory import READING_NOISE_BYTES, Books, Runner
from ollama_gate.scheduler.types import Offload, Refusal, Request, RunnerState

OTHERS = "foreign memory"
"""For whom a model is evicted that makes room for no other."""


class Mending(Booking):
    """The part of a settlement that does not depend on whose turn it is."""

    def _judge_partial(self) -> None:
        """See to those of which a part is on the CPU: again, not at all, or as it is."""
        for runner in self.by_name(self.runners.values()):
            if not runner.usable or not runner.offload or not self.is_open(runner.bin):
                continue
            # Whoever it serves already may end; where it may not serve nobody is added to them.
            judged = runner.idle or self.policy.offload is Offload.REFUSE
            if self.whole and judged and runner.slid and self.is_wanted(runner):
                self._condemn_if_partial(runner)
            if runner.usable and not runner.told:
                runner.told = True
                self._commands.append(
                    Warn(
                        bin=runner.bin.id,
                        model=runner.model,
                        name=runner.name,
                        share=runner.offload,
                        wanted_bytes=runner.wanted_bytes,
                        there_bytes=self.books[runner.bin.id].capacity_bytes,
                    )
                )

    def _condemn_if_partial(self, runner: Runner) -> None:
        there = self.books[runner.bin.id].free_bytes(())
        fits = there is not None and runner.wanted_bytes <= there
        again = fits and not self.recovery.of(runner.key).reloaded
        self.recovery.slid(runner.key, runner.wanted_bytes)
        if not again and self.policy.offload is not Offload.REFUSE:
            return
        if again:
            self.recovery.load_again(runner.key)
        elif fits or there is None:
            # With all there is to itself it was not whole: it hardly will be soon.
            self.recovery.despair(runner.key, self.now)
            self._refuse_for_want(self._alike(runner), runner.wanted_bytes, there)
        runner.condemned = Offloaded(
            share=runner.offload, wanted_bytes=runner.wanted_bytes, again=again
        )

    def _refuse_what_never_fits(self) -> None:
        if self.policy.offload is Offload.REFUSE:
            never = [r for row in self.line.rows() for r in takewhile(self._never_fits, row)]
            for request in self.line.as_joined(never):
                needs = (self.need_of(request, bin_id) for bin_id in request.needs)
                wanted = min(need.footprint_bytes for need in needs)
                there = max(self.books[bin_id].free_bytes(()) or 0 for bin_id in request.needs)
                self._refuse_for_want([request], wanted, there)

    def _never_fits(self, request: Request) -> bool:
        """Whether no bin has room for all of it, and nobody may be expected to make some."""
        if request.launch.chooses_layers or self.has_runner(request):
            return False
        return all(self._too_large(request, self.books[bin_id]) for bin_id in request.needs)

    def _too_large(self, request: Request, books: Books) -> bool:
        need, capacity = self.need_of(request, books.bin.id), books.capacity_bytes
        if books.bin.cpu or capacity is None:
            return False
        key = books.bin.id, request.model, request.launch
        if need.footprint_bytes > capacity or self.recovery.is_hopeless(key, self.now):
            return True
        return in_others_hands(need, books) > 0 and not self.is_patient(request, books)

    def _refuse_for_want(self, requests: Sequence[Request], wanted: int, there: int | None) -> None:
        for request in requests:
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.NEVER_FITS, wanted_bytes=wanted, there_bytes=there)

    def _discard(self) -> None:
        """Unload what is to serve nobody any more, as soon as it does not."""
        for runner in self.by_name(self.runners.values()):
            if runner.condemned is not None and self._may_go(runner):
                self._unload(runner, runner.condemned)

    def _relieve(self) -> None:
        """Where others have taken what is in use here, let go of what is not: enough, no more."""
        for books in self.books.values():
            here = [r for r in self.staying(books.bin) if r.bin.id == books.bin.id]
            missing = _overdrawn(books, here)
            if missing is not None:
                for runner in self._spare(books, here):
                    idle_s = self.now - runner.idle_since
                    reason = Evicted(for_model=OTHERS, shortfall=str(missing), idle_s=idle_s)
                    self._unload(runner, reason)

    def _spare(self, books: Books, here: Sequence[Runner]) -> Sequence[Runner]:
        """Who goes for others' sake, the longest unused first."""
        spare = sorted(
            (r for r in here if self._may_go(r) and self._is_pressed(r, books)),
            key=lambda runner: (runner.idle_since, runner.model),
        )
        victims = choose(spare, lambda gone: _overdrawn(books, _without(here, gone)))
        # Where all of them are not enough it is still the better for those that stay.
        return spare if isinstance(victims, Shortfall) else victims

    def _is_pressed(self, runner: Runner, books: Books) -> bool:
        """Whether others have taken memory since it began, and it could give some."""
        grown = books.foreign_bytes > runner.foreign_least_bytes + READING_NOISE_BYTES
        could = runner.footprint_bytes > 0 and not runner.pinned
        return grown and could and not self.is_wanted(runner)

    def _unload(self, runner: Runner, reason: Evicted | Expired | Offloaded | Broken) -> None:
        assert runner.resident, f"{runner.name} is {runner.state}"
        assert runner.idle, f"{runner.name} still serves {list(runner.running)}"
        runner.enter(RunnerState.UNLOADING, self.now)
        runner.asked_at = self.now
        self._commands.append(
            Unload(bin=runner.bin.id, model=runner.model, name=runner.name, reason=reason)
        )

    def _may_go(self, runner: Runner) -> bool:
        # Whoever wanted it has a slot by now, or somebody overdue takes its memory anyhow.
        return (
            runner.resident
            and runner.idle
            and self.is_open(runner.bin)
            and not self.loading(runner.bin.upstream)
        )


def _overdrawn(books: Books, runners: Collection[Runner]) -> Shortfall | None:
    free = books.free_bytes(runners)
    if free is None or free >= 0:
        return None
    return Shortfall(rule="memory", missing_bytes=-free)


def _without(runners: Collection[Runner], gone: Collection[Runner]) -> list[Runner]:
    return [runner for runner in runners if runner not in gone]
