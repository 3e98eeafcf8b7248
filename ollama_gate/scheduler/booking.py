"""Every event is entered into the books: what is, not what is to be done about it.

The one thing that it says at once is a refusal whose reason is the event itself.
"""

import math
from collections.abc import Sequence
from typing import assert_never

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Broken, Command, Refuse
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.outlook import Outlook
from ollama_gate.scheduler.readings import broken, memory_is_back
from ollama_gate.scheduler.serving import launches, take_for_another
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    ModelKey,
    Policy,
    Refusal,
    Request,
    RequestId,
    RunnerState,
    Upstream,
)

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 120.0

LOOK_AHEAD_S = 1.0
"""An estimate for those who are turned away is good for so long."""


class Booking(State):
    """The state, and how events change it."""

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy, now: float
    ) -> None:
        super().__init__(upstreams=upstreams, bins=bins, policy=policy, now=now)
        self._gone_at: dict[tuple[BinId, ModelKey], float] = {}
        self._interrupted: dict[ModelKey, int] = {}
        self._commands: list[Command] = []
        self._foreseen: Outlook | None = None
        self._foreseen_at = -math.inf

    # One line an event: a table of handlers would be shorter and lose `assert_never`.
    def _book(self, event: ev.Event) -> None:  # noqa: C901, PLR0912
        match event:
            case ev.Arrived():
                self._arrived(event.request)
            case ev.Left():
                self._left(event)
            case ev.Cancelled():
                self._cancelled(event.id)
            case ev.Released():
                self._released(event.model)
            case ev.LoadEnded():
                self._load_ended(event)
            case ev.UnloadEnded():
                self._unload_ended(event)
            case ev.Measured():
                self._measured(event)
            case ev.ReadingLost():
                self._reading_lost(event.bin)
            case ev.RunnerDied():
                self._runner_died(event)
            case ev.Observed():
                self._observed(event)
            case ev.UpstreamLost():
                self.away_since.setdefault(event.upstream, self.now)
            case ev.Closing():
                self._close()
            case ev.Ticked():
                pass
            case _:
                assert_never(event)

    def _arrived(self, request: Request) -> None:
        assert request.needs.keys() <= self.books.keys(), f"unknown bin in {request.needs}"
        assert request.needs, f"{request.id} fits no bin at all"
        assert request.id not in self.running, f"{request.id} runs already"
        full = None if self.closing else self._full_for(request)
        if self.closing:
            self._refuse(request.id, Refusal.SHUTTING_DOWN)
        elif self.now >= self.line.deadline_at(request):
            self._refuse(request.id, Refusal.DEADLINE)
        elif full is not None:
            self._refuse(request.id, full, retry_after_s=self._retry_after_s(request))
        else:
            self._join(request)

    def _join(self, request: Request) -> None:
        priority, client = request.priority, request.client
        waiting = self.line.clients(priority)
        if client not in waiting:
            self.fairness.returns(priority, client, waiting)
        self.line.join(request)
        self.pace.arrived(request, self.now)

    def _full_for(self, request: Request) -> Refusal | None:
        """Which limit a request would exceed if it waited; it may not have to."""
        limit = self.policy.queue_max_per_client
        reason = None
        if len(self.line) >= self.policy.queue_max_size:
            reason = Refusal.QUEUE_FULL
        elif limit and self.line.waiting_of(request.client) >= limit:
            reason = Refusal.CLIENT_FULL
        if reason is None or request.accepted or self._slot_at_once(request):
            return None
        return reason

    def _slot_at_once(self, request: Request) -> bool:
        return not self.is_full and any(
            len(runner.running) < runner.parallel and not self.is_draining(runner)
            for runner in self.homes_of(request)
        )

    def _retry_after_s(self, request: Request) -> float:
        """How long it would wait if it might, by the estimate; else as its class's backlog says.

        Many are turned away in a short time: one look at the line serves for them all.
        """
        if self.now >= self._foreseen_at + LOOK_AHEAD_S:
            self._foreseen, self._foreseen_at = Outlook(self, RETRY_AFTER_MAX_S), self.now
        assert self._foreseen is not None, "the first look comes after for ever"
        wait_s = self._foreseen.newcomer_for_s(request)
        if wait_s is None:
            wait_s = self.demand.backlog.seconds[request.priority]
        return min(max(wait_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)

    def _left(self, event: ev.Left) -> None:
        if event.id in self.line:
            self.line.leave(event.id)
        elif event.id in self.running:
            request, bin_id = self.running.pop(event.id)
            self._settle_account(request, completed=event.completed)
            runner = self.runners.get((bin_id, request.model))
            # Its runner may be gone since, and even another one stand in its place.
            if runner is not None and runner.running.pop(event.id, None) is not None:
                runner.idle_since = self.now

    def _settle_account(self, request: Request, *, completed: bool) -> None:
        """Charge its client with the time that it took, and learn from it."""
        charge = self.charges.pop(request.id)
        took_s = self.now - charge.at
        self.fairness.ends(request.priority, request.client, charge.expected_s, took_s)
        if completed:
            self.pace.served(request.model, took_s)

    def _cancelled(self, request_id: RequestId) -> None:
        if request_id in self.line:
            self.line.leave(request_id)
            self._refuse(request_id, Refusal.CANCELLED)

    def _released(self, model: ModelKey) -> None:
        for runner in self.runners.values():
            if runner.model == model:
                runner.keep_alive_s = 0.0

    def _load_ended(self, event: ev.LoadEnded) -> None:
        runner = self.runners[event.bin, event.model]
        assert runner.state is RunnerState.LOADING, f"{runner.name} was not loading"
        match event.outcome:
            case ev.Loaded() as loaded:
                self._became_resident(runner, loaded)
            case ev.LoadFailed() as failed:
                assert failed.status in ev.ERROR_STATUSES, f"a failure's status is {failed.status}"
                if not failed.oom or self._ran_out(runner) >= self.policy.oom_tries:
                    self._refuse_everybody_for(runner, failed)
                self._gone(runner)
            case ev.Interrupted():
                self._load_interrupted(runner)
            case _:
                assert_never(event.outcome)

    def _became_resident(self, runner: Runner, loaded: ev.Loaded) -> None:
        self._interrupted.pop(runner.model, None)
        self._take(runner, loaded.footprint_bytes, loaded.reported_bytes, loaded.size_bytes)
        if loaded.reported_bytes is not None:
            self.recovery.loaded(runner.key, whole=not runner.slid)
        if loaded.num_ctx is not None:
            runner.take_context(loaded.num_ctx)
        if runner.launch.num_ctx is None and runner.num_ctx is not None:
            self.automatic_ctx[runner.bin.id, runner.model] = runner.num_ctx
        runner.load_s = self.now - runner.since
        self.pace.loaded(runner.bin.upstream, runner.model, runner.load_s)
        if self._somebody_overdue_for(runner):
            # The first start of the visit is whom it was made for.
            self.passed_at_runner[runner.bin.id, runner.model] = self.policy.k_slot
        runner.enter(RunnerState.RESIDENT, self.now)
        runner.ready_at = runner.idle_since = self.now

    def _somebody_overdue_for(self, runner: Runner) -> bool:
        return any(
            self.line.overdue(rank.row[0])
            for group in self.line.groups(runner.model)
            for rank in group.ranks
            if rank.row
        )

    def _ran_out(self, runner: Runner) -> int:
        # Ollama has thrown out everything else by then: what is resident must be asked anew.
        self.unsure_since[runner.bin.upstream] = self.now
        capacity = self.books[runner.bin.id].capacity_bytes
        return self.recovery.ran_out(runner.key, runner.footprint_bytes, capacity, self.now)

    def _load_interrupted(self, runner: Runner) -> None:
        # Whoever waits for it waits on: Ollama may come back. Not for ever, though: the load
        # itself may be what brings Ollama down.
        count = self._interrupted.get(runner.model, 0) + 1
        self._interrupted[runner.model] = count
        if count >= self.policy.oom_tries:
            del self._interrupted[runner.model]
            text = f"the upstream stopped answering while it loaded {runner.name}, {count} times"
            self._refuse_everybody_for(runner, ev.LoadFailed(status=500, text=text))
        self._gone(runner)

    def _refuse_everybody_for(self, runner: Runner, failed: ev.LoadFailed) -> None:
        # What failed for one would fail for the others, each time at the cost of an eviction.
        for request in self._alike(runner):
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.LOAD_FAILED, status=failed.status, text=failed.text)

    def _alike(self, runner: Runner) -> list[Request]:
        """Who waits for the same model with the same options, in the order of joining."""
        rows = self.line.rows(runner.model)
        return self.line.as_joined(
            r for row in rows if runner.launch in launches(row[0]) for r in row
        )

    def _unload_ended(self, event: ev.UnloadEnded) -> None:
        runner = self.runners[event.bin, event.model]
        assert runner.state is RunnerState.UNLOADING, f"{runner.name} was not unloading"
        if event.gone:
            self._gone(runner)
        else:
            runner.enter(RunnerState.RESIDENT, self.now)

    def _gone(self, runner: Runner) -> None:
        """Ollama does not hold it any more; its memory still counts until it is seen back."""
        books = self.books[runner.bin.id]
        self._gone_at[runner.bin.id, runner.model] = self.now
        runner.enter(RunnerState.LEAVING, self.now)
        runner.used_before_bytes, runner.last_used_bytes = books.used_bytes, None
        if not runner.footprint_bytes or self.now >= self._awaited_until(runner):
            self._is_back(runner)

    def _is_back(self, runner: Runner) -> None:
        """Its memory can be had again."""
        del self.runners[runner.bin.id, runner.model]
        if runner.asked_at is not None:
            self.pace.unloaded(runner.bin.upstream, self.now - runner.asked_at)

    def _measured(self, event: ev.Measured) -> None:
        books, here = self.books[event.bin], self.in_bin(event.bin)
        books.measure(event.total_bytes, event.used_bytes, here)
        lost = broken(books, here)
        if lost is not None:
            lost.condemned = Broken(sign="its memory is missing on the card")
        for runner in here:
            runner.foreign_least_bytes = min(runner.foreign_least_bytes, books.foreign_bytes)
            if runner.state is RunnerState.LEAVING and runner.used_before_bytes is not None:
                # Those just seen back explain nothing any more.
                others = [other for other in self.in_bin(event.bin) if other is not runner]
                if memory_is_back(runner, books, others):
                    self._is_back(runner)
                    # Nobody can tell whose memory came back; the rest is awaited from here,
                    # and for as long as that of the last to go.
                    for other in others:
                        other.used_before_bytes = event.used_bytes
                        if other.state is RunnerState.LEAVING:
                            other.since = max(other.since, runner.since)
                runner.last_used_bytes = event.used_bytes

    def _reading_lost(self, bin_id: BinId) -> None:
        self.books[bin_id].lose()
        for runner in self.in_bin(bin_id):
            # Nobody will see its memory come back: that is awaited by time.
            runner.used_before_bytes, runner.missing = None, 0

    def _runner_died(self, event: ev.RunnerDied) -> None:
        request, bin_id = self.running.get(event.id, (None, None))
        runner = self.runners.get((bin_id, request.model)) if bin_id and request else None
        if runner is None or event.id not in runner.running:
            # It is known to be gone; if there is one of its model, that is another.
            return
        dead = self.on_upstream(runner.bin) if event.oom else [runner]
        sign = "out of memory in an answer" if event.oom else "an answer says so"
        for each in dead:
            if each.usable:
                each.condemned = Broken(sign=sign)

    def _observed(self, event: ev.Observed) -> None:
        self.away_since.pop(event.upstream, None)
        if self.unsure_since.get(event.upstream, math.inf) <= event.asked_at:
            del self.unsure_since[event.upstream]
        if event.remembers_free is not None:
            for books in self.books.values():
                if books.bin.upstream == event.upstream:
                    books.remembers_free = event.remembers_free
        listed = {(resident.bin, resident.model): resident for resident in event.residents}
        for key, runner in list(self.runners.items()):
            if runner.bin.upstream == event.upstream and runner.since < event.asked_at:
                self._compare(runner, listed.get(key))
        for key, resident in listed.items():
            if key not in self.runners and self._gone_at.get(key, -math.inf) < event.asked_at:
                self._adopt(resident)

    def _compare(self, runner: Runner, resident: ev.Resident | None) -> None:
        match runner.state, resident:
            case RunnerState.RESIDENT, None:
                self._gone(runner)
            case RunnerState.RESIDENT, ev.Resident():
                if take_for_another(runner, resident):
                    runner.launch, runner.num_ctx = resident.launch, resident.num_ctx
                    runner.named_ctx = resident.named_ctx
                elif resident.num_ctx is not None:
                    runner.take_context(resident.num_ctx)
                self._take(
                    runner, resident.footprint_bytes, resident.reported_bytes, resident.size_bytes
                )
            case RunnerState.LEAVING, ev.Resident():
                # Somebody loaded it again behind the gate's back.
                del self.runners[runner.bin.id, runner.model]
            case _:
                # Loads and unloads have an end of their own.
                pass

    def _adopt(self, resident: ev.Resident) -> None:
        books = self.books[resident.bin]
        free = books.card_free_bytes(self.in_bin(resident.bin)) if books.live else None
        self.runners[resident.bin, resident.model] = runner = Runner(
            bin=books.bin,
            model=resident.model,
            name=resident.name,
            launch=resident.launch,
            num_ctx=resident.num_ctx,
            named_ctx=resident.named_ctx,
            footprint_bytes=0,
            reported_bytes=0,
            # Nobody knows; as much as if the card's other users had not changed since.
            free_at_load_bytes=None if free is None else free + resident.reported_bytes,
            parallel=resident.parallel,
            keep_alive_s=self.policy.keep_alive_s,
            state=RunnerState.RESIDENT,
            since=self.now,
            load_s=self.pace.load_s(books.bin.upstream, resident.model, resident.footprint_bytes),
            pinned=resident.pinned,
            began_at=self.now,
            ready_at=self.now,
            idle_since=self.now,
        )
        self._take(runner, resident.footprint_bytes, resident.reported_bytes, resident.size_bytes)
        books.adopt(runner, self.in_bin(resident.bin))
        runner.foreign_least_bytes = books.foreign_bytes

    def _take(
        self,
        runner: Runner,
        footprint_bytes: int | None,
        reported_bytes: int | None,
        size_bytes: int | None,
    ) -> None:
        runner.take(footprint_bytes, reported_bytes, size_bytes)
        books = self.books[runner.bin.id]
        books.card_seen = books.card_seen or bool(reported_bytes)
        runner.card_seen = books.card_seen or books.live

    def _close(self) -> None:
        self.closing = True
        for request in self.line:
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.SHUTTING_DOWN)

    def _refuse(
        self,
        request_id: RequestId,
        reason: Refusal,
        *,
        retry_after_s: float | None = None,
        status: int | None = None,
        text: str | None = None,
        wanted_bytes: int | None = None,
        there_bytes: int | None = None,
    ) -> None:
        self._commands.append(
            Refuse(
                id=request_id,
                reason=reason,
                retry_after_s=retry_after_s,
                status=status,
                text=text,
                wanted_bytes=wanted_bytes,
                there_bytes=there_bytes,
            )
        )

    def _forget(self, runner: Runner) -> None:
        """Await its memory no longer: what is missing of it is somebody else's."""
        del self.runners[runner.bin.id, runner.model]
        # What is being loaded explains none of it.
        here = self.in_bin(runner.bin.id)
        self.books[runner.bin.id].cover(r for r in here if r.state is not RunnerState.LOADING)

    def _awaited_until(self, runner: Runner) -> float:
        if runner.used_before_bytes is not None:
            return runner.since + self.policy.recovery_s
        return runner.since + (0.0 if runner.bin.cpu else self.policy.unread_recovery_s)
