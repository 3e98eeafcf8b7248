"""The state machine: book the fact, then settle the whole state.

Every event is first entered into the books and then one function, the same for all events, looks
at the whole state and says what is to be done now. What an impatient elder holds back, who is
drained and which model is next are derived anew each time; nothing of it is remembered, so
nothing of it can outlive its reason.

The order of a settlement: what has waited too long for its upstream is refused; room is planned
and made; then slots are filled; then idle models whose time is over leave; and all this again
until there is nothing more to do. Planning comes before filling, so that nobody starts on a model
that is about to be drained.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import assert_never

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Evicted, Expired, Forward, Load, Refuse, Unload
from ollama_gate.scheduler.memory import (
    Books,
    Runner,
    memory_is_back,
)
from ollama_gate.scheduler.planning import lacking, plan_all
from ollama_gate.scheduler.serving import context_to_name, launches, take_for_another
from ollama_gate.scheduler.state import Held, Plan, State
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

LOAD_TRIES = 3
"""How often a load may be cut short by an upstream that stops answering."""

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 120.0


class Machine(State):
    """The scheduler. `handle` every event in the order of its time, do what it commands."""

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy, now: float
    ) -> None:
        super().__init__(upstreams=upstreams, bins=bins, policy=policy, now=now)
        self._gone_at: dict[tuple[BinId, ModelKey], float] = {}
        self._interrupted: dict[ModelKey, int] = {}
        self._commands: list[Command] = []
        self._wakeup: float | None = None

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take in an event at the time `now`; return what is to be done, in order."""
        assert now >= self.now, f"time went back from {self.now} to {now}"
        self.now = now
        self._commands = []
        was_calm = self._is_calm()
        self._book(event)
        if not (was_calm and self._stays_calm(event)):
            self._settle()
        ahead = (at for at in self._deadlines() if now < at < math.inf)
        self._wakeup = min(ahead, default=None)
        return self._commands

    def _is_calm(self) -> bool:
        """Whether nobody waits and no time has come, so that a settlement would change nothing."""
        return not (
            self.line or self.plans or (self._wakeup is not None and self.now >= self._wakeup)
        )

    def _stays_calm(self, event: ev.Event) -> bool:
        """Deal with what is most common, to the effect that a settlement would have.

        Most requests find their model resident and a slot free, and leave nobody behind who waits.
        """
        match event:
            case ev.Arrived():
                for runner in self.by_name(self.homes_of(event.request)):
                    if event.request.id in self.line and len(runner.running) < runner.parallel:
                        self._forward(event.request, runner)
                        return True
            case ev.Left():
                self._expire()
                return not self._commands
            case _:
                pass
        return False

    def next_wakeup(self) -> float | None:
        """When to send `Ticked` if nothing else happens; always in the future, or never."""
        return self._wakeup

    # ---------------------------------------------------------------- book the fact

    # One line an event: a table of handlers would be shorter and lose `assert_never`.
    def _book(self, event: ev.Event) -> None:  # noqa: C901
        match event:
            case ev.Arrived():
                self._arrived(event.request)
            case ev.Left():
                self._left(event.id)
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
        if self.closing:
            self._refuse(request.id, Refusal.SHUTTING_DOWN)
        elif self._no_place_for(request):
            self._refuse(request.id, Refusal.QUEUE_FULL, retry_after_s=self._retry_after_s())
        else:
            self.line.join(request)

    def _no_place_for(self, request: Request) -> bool:
        full = len(self.line) >= self.policy.queue_max_size
        return full and not request.accepted and not self._slot_at_once(request)

    def _slot_at_once(self, request: Request) -> bool:
        return any(
            len(runner.running) < runner.parallel and not self.is_draining(runner)
            for runner in self.homes_of(request)
        )

    def _retry_after_s(self) -> float:
        # The eldest has waited so long for its turn; whoever comes now waits about as long.
        eldest = self.line.eldest_arrived_at()
        waited_s = 0.0 if eldest is None else self.now - eldest
        return min(max(waited_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)

    def _left(self, request_id: RequestId) -> None:
        if request_id in self.line:
            self.line.leave(request_id)
        elif request_id in self.running:
            request, bin_id = self.running.pop(request_id)
            runner = self.runners.get((bin_id, request.model))
            # Its runner may be gone since, and even another one stand in its place.
            if runner is not None and runner.running.pop(request_id, None) is not None:
                runner.idle_since = self.now

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
                self._refuse_everybody_for(runner, failed)
                self._gone(runner)
            case ev.Interrupted():
                self._load_interrupted(runner)
            case _:
                assert_never(event.outcome)

    def _became_resident(self, runner: Runner, loaded: ev.Loaded) -> None:
        self._interrupted.pop(runner.model, None)
        runner.take(loaded.footprint_bytes, loaded.reported_bytes)
        if loaded.num_ctx is not None:
            runner.take_context(loaded.num_ctx)
        if runner.launch.num_ctx is None and runner.num_ctx is not None:
            self.automatic_ctx[runner.bin.id, runner.model] = runner.num_ctx
        runner.load_s = self.load_seconds[runner.model] = self.now - runner.since
        runner.enter(RunnerState.RESIDENT, self.now)
        runner.ready_at = runner.idle_since = self.now

    def _load_interrupted(self, runner: Runner) -> None:
        # Whoever waits for it waits on: Ollama may come back. Not for ever, though: the load
        # itself may be what brings Ollama down.
        count = self._interrupted.get(runner.model, 0) + 1
        self._interrupted[runner.model] = count
        if count >= LOAD_TRIES:
            del self._interrupted[runner.model]
            text = f"the upstream stopped answering while it loaded {runner.name}, {count} times"
            self._refuse_everybody_for(runner, ev.LoadFailed(status=500, text=text))
        self._gone(runner)

    def _refuse_everybody_for(self, runner: Runner, failed: ev.LoadFailed) -> None:
        # What failed for one would fail for the others, each time at the cost of an eviction.
        rows = self.line.rows(runner.model)
        alike = [r for row in rows if runner.launch in launches(row[0]) for r in row]
        for request in self.line.as_joined(alike):
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.LOAD_FAILED, status=failed.status, text=failed.text)

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
            del self.runners[runner.bin.id, runner.model]

    def _measured(self, event: ev.Measured) -> None:
        books, here = self.books[event.bin], self.in_bin(event.bin)
        books.measure(event.total_bytes, event.used_bytes, here)
        for runner in here:
            if runner.state is RunnerState.LEAVING and runner.used_before_bytes is not None:
                # Those just seen back explain nothing any more.
                others = [other for other in self.in_bin(event.bin) if other is not runner]
                if memory_is_back(runner, books, others):
                    del self.runners[runner.bin.id, runner.model]
                    # Nobody can tell whose memory came back; the rest is awaited from here,
                    # and for as long as that of the last to go.
                    for other in others:
                        other.used_before_bytes = event.used_bytes
                        if other.state is RunnerState.LEAVING:
                            other.since = max(other.since, runner.since)
                runner.last_used_bytes = event.used_bytes

    def _observed(self, event: ev.Observed) -> None:
        self.away_since.pop(event.upstream, None)
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
                runner.take(resident.footprint_bytes, resident.reported_bytes)
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
            load_s=self.load_guess_s(resident.model, resident.footprint_bytes),
            began_at=self.now,
            ready_at=self.now,
            idle_since=self.now,
        )
        runner.take(resident.footprint_bytes, resident.reported_bytes)
        books.adopt(runner, self.in_bin(resident.bin))

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
    ) -> None:
        self._commands.append(
            Refuse(
                id=request_id, reason=reason, retry_after_s=retry_after_s, status=status, text=text
            )
        )

    # ---------------------------------------------------------------- settle the state

    def _settle(self) -> None:
        self._stop_awaiting_memory()
        self._refuse_after_outage()
        for books in self.books.values():
            books.cover(self.in_bin(books.bin.id))
        settled = -1
        while settled != len(self._commands):
            # Whoever got a slot no longer wants a runner, which may make it somebody's victim;
            # what is asked to go may be what another bin's plan lacked.
            settled = len(self._commands)
            plan_all(self)
            self._carry_out()
            self._expire()

    def _carry_out(self) -> None:
        for bin_id, plan in self.plans.items():
            if isinstance(plan, Plan):
                self._make_room(plan, self.books[bin_id])
        for runner in self.by_name(self.runners.values()):
            if runner.resident and not self.is_draining(runner) and self.is_open(runner.bin):
                self._fill(runner)

    def _expire(self) -> None:
        for runner in self.by_name(self.runners.values()):
            if self._may_expire(runner) and self.now >= runner.expires_at:
                idle_s = self.now - runner.idle_since
                self._unload(runner, Expired(idle_s=idle_s, keep_alive_s=runner.keep_alive_s))

    def _stop_awaiting_memory(self) -> None:
        for runner in list(self.runners.values()):
            if runner.state is RunnerState.LEAVING and self.now >= self._awaited_until(runner):
                self._forget(runner)

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

    def _refuse_after_outage(self) -> None:
        # Whoever came first gives up first, among those who are alike.
        late = [
            request
            for row in self._rows_in_outage()
            for request in takewhile(lambda r: self.now >= self.outage_deadline(r), row)
        ]
        for request in self.line.as_joined(late):
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.UPSTREAM_AWAY)

    def _rows_in_outage(self) -> Iterator[Sequence[Request]]:
        return self.line.rows() if self.away_since else iter(())

    # ---------------------------------------------------------------- who is next

    # ---------------------------------------------------------------- make room, fill slots

    def _make_room(self, plan: Plan, books: Books) -> None:
        request, bin_ = plan.request, books.bin
        if self.loading(bin_.upstream):
            # Victims already serve nobody new; they go when the load is over.
            return
        for runner in plan.victims:
            # The same runner may make room for several.
            if runner.resident and runner.idle:
                reason = Evicted(
                    for_model=request.name,
                    shortfall=str(plan.missing or "other options"),
                    idle_s=self.now - runner.idle_since,
                )
                self._unload(runner, reason)
        # Elsewhere it is enough that Ollama does not list it; here its memory must be back, too.
        present = [
            runner
            for runner in self.on_upstream(bin_)
            if runner.bin.id == bin_.id or runner.state is not RunnerState.LEAVING
        ]
        still_listed = any(
            runner.model == request.model and runner.state is not RunnerState.LEAVING
            for runner in present
        )
        if plan.victims or still_listed or lacking(self, request, books, present) is not None:
            return
        self._load(request, books)

    def _unload(self, runner: Runner, reason: Evicted | Expired) -> None:
        assert runner.resident, f"{runner.name} is {runner.state}"
        assert runner.idle, f"{runner.name} still serves {list(runner.running)}"
        runner.enter(RunnerState.UNLOADING, self.now)
        self._commands.append(
            Unload(bin=runner.bin.id, model=runner.model, name=runner.name, reason=reason)
        )

    def _load(self, request: Request, books: Books) -> None:
        leaving = self.runners.get((books.bin.id, request.model))
        if leaving is not None:
            # There is room for both: nobody has to wait until it is seen back.
            self._forget(leaving)
        present = self.in_bin(books.bin.id)
        need = request.needs[books.bin.id]
        self._commands.append(
            Load(
                bin=books.bin.id,
                model=request.model,
                name=request.name,
                launch=request.launch,
                footprint_bytes=need.footprint_bytes,
                free_bytes=books.free_bytes(present),
                alone=not present,
                for_request=request.id,
                waited_s=self.now - request.arrived_at,
            )
        )
        self.runners[books.bin.id, request.model] = Runner(
            bin=books.bin,
            model=request.model,
            name=request.name,
            launch=request.launch,
            num_ctx=request.num_ctx,
            named_ctx=request.named_ctx,
            footprint_bytes=need.footprint_bytes,
            reported_bytes=need.footprint_bytes,
            free_at_load_bytes=books.card_free_bytes(present),
            parallel=request.parallel,
            keep_alive_s=request.default_keep_alive_s,
            state=RunnerState.LOADING,
            since=self.now,
            load_s=self.load_guess_s(request.model, need.footprint_bytes),
            began_at=self.now,
        )

    def _fill(self, runner: Runner) -> None:
        while len(runner.running) < runner.parallel:
            heads = self.line.heads(self.now, runner.model)
            request = next((head for head in heads if self.suits(runner, head)), None)
            if request is None:
                return
            self._forward(request, runner)

    def _forward(self, request: Request, runner: Runner) -> None:
        self.line.leave(request.id)
        self.running[request.id] = request, runner.bin.id
        runner.running[request.id] = request
        runner.served += 1
        if request.keep_alive_s is not None:
            runner.keep_alive_s = request.keep_alive_s
        self._commands.append(
            Forward(
                id=request.id,
                bin=runner.bin.id,
                queued_s=self.now - request.arrived_at,
                num_ctx=context_to_name(runner, request),
                load_s=runner.loading_since(request.arrived_at),
            )
        )

    def _may_expire(self, runner: Runner) -> bool:
        # Whoever wanted it has a slot by now, or somebody overdue takes its memory anyhow.
        return (
            runner.resident
            and runner.idle
            and self.is_open(runner.bin)
            and not self.loading(runner.bin.upstream)
        )

    # ---------------------------------------------------------------- time and order

    def _deadlines(self) -> Iterator[float]:
        """Every instant at which time alone may change what is to be done."""
        yield from self.line.patience_ends(self.now)
        for row in self._rows_in_outage():
            yield self.outage_deadline(row[0])
        for plan in self.plans.values():
            if isinstance(plan, Held) and plan.until is not None:
                yield plan.until
        for runner in self.runners.values():
            if runner.state is RunnerState.LEAVING:
                yield self._awaited_until(runner)
            elif self._may_expire(runner):
                yield runner.expires_at
