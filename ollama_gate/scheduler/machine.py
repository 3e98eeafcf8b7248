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
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import assert_never

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Evicted, Expired, Forward, Load, Refuse, Unload
from ollama_gate.scheduler.eviction import choose
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.memory import (
    Books,
    Limits,
    Runner,
    Shortfall,
    memory_is_back,
    most,
    serves,
    shortfall,
)
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

FIRST_LOAD_S = 1.2
FIRST_LOAD_BYTES_PER_S = 3e9
"""A first guess at a load's length, before one was seen: a start and a read from disk."""

LOAD_TRIES = 3
"""How often a load may be cut short by an upstream that stops answering."""

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a bin does next.

    Attributes:
        request: whose model is next.
        victims: who makes room for it; the busy among them serve nobody new.
        missing: what was lacking, the reason for the victims.
    """

    request: Request
    victims: tuple[Runner, ...]
    missing: Shortfall | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Nobody may be loaded: the bin is kept for a request that was passed over long enough.

    Attributes:
        until: when the next incumbent has had its quantum, if time alone tells.
    """

    request: Request
    until: float | None


class Machine:
    """The scheduler. `handle` every event in the order of its time, do what it commands."""

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy, now: float
    ) -> None:
        self.policy = policy
        self.line = Line(policy.tau_s)
        self.runners: dict[tuple[BinId, ModelKey], Runner] = {}
        self.running: dict[RequestId, tuple[Request, BinId]] = {}
        self.books = {bin_.id: Books(bin_) for bin_ in sorted(bins, key=lambda b: b.id)}
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        # Until it has been heard of, an upstream is as good as away.
        self.away_since = dict.fromkeys(self.upstreams, now)
        # In the order in which they were decided; a bin with nothing to decide is absent.
        self.plans: dict[BinId, Plan | Held] = {}
        self.closing = False
        self.now = now
        self._gone_at: dict[tuple[BinId, ModelKey], float] = {}
        self._load_s: dict[ModelKey, float] = {}
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
                for runner in self._by_name(self._homes_of(event.request)):
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
            for runner in self._homes_of(request)
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
            runner.num_ctx = loaded.num_ctx
        runner.load_s = self._load_s[runner.model] = self.now - runner.since
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
        alike = [r for row in rows if row[0].launch == runner.launch for r in row]
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
        books, here = self.books[event.bin], self._in_bin(event.bin)
        books.measure(event.total_bytes, event.used_bytes, here)
        for runner in here:
            if runner.state is RunnerState.LEAVING and runner.used_before_bytes is not None:
                # Those just seen back explain nothing any more.
                others = [other for other in self._in_bin(event.bin) if other is not runner]
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
                runner.take(resident.footprint_bytes, resident.reported_bytes)
                runner.num_ctx = resident.num_ctx
            case RunnerState.LEAVING, ev.Resident():
                # Somebody loaded it again behind the gate's back.
                del self.runners[runner.bin.id, runner.model]
            case _:
                # Loads and unloads have an end of their own.
                pass

    def _adopt(self, resident: ev.Resident) -> None:
        books = self.books[resident.bin]
        free = books.card_free_bytes(self._in_bin(resident.bin)) if books.live else None
        self.runners[resident.bin, resident.model] = runner = Runner(
            bin=books.bin,
            model=resident.model,
            name=resident.name,
            launch=resident.launch,
            num_ctx=resident.num_ctx,
            footprint_bytes=0,
            reported_bytes=0,
            # Nobody knows; as much as if the card's other users had not changed since.
            free_at_load_bytes=None if free is None else free + resident.reported_bytes,
            parallel=resident.parallel,
            keep_alive_s=self.policy.keep_alive_s,
            state=RunnerState.RESIDENT,
            since=self.now,
            load_s=self._load_guess_s(resident.model, resident.footprint_bytes),
            began_at=self.now,
            ready_at=self.now,
            idle_since=self.now,
        )
        runner.take(resident.footprint_bytes, resident.reported_bytes)
        books.adopt(runner, self._in_bin(resident.bin))

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
            books.cover(self._in_bin(books.bin.id))
        settled = -1
        while settled != len(self._commands):
            # Whoever got a slot no longer wants a runner, which may make it somebody's victim;
            # what is asked to go may be what another bin's plan lacked.
            settled = len(self._commands)
            self._plan()
            self._carry_out()
            self._expire()

    def _carry_out(self) -> None:
        for bin_id, plan in self.plans.items():
            if isinstance(plan, Plan):
                self._make_room(plan, self.books[bin_id])
        for runner in self._by_name(self.runners.values()):
            if runner.resident and not self.is_draining(runner) and self._open(runner.bin):
                self._fill(runner)

    def _expire(self) -> None:
        for runner in self._by_name(self.runners.values()):
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
        here = self._in_bin(runner.bin.id)
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

    def outage_deadline(self, request: Request) -> float:
        """When a request gives up, if none of the upstreams that could serve it comes back."""
        deadlines = []
        for bin_id in request.needs:
            upstream = self.upstreams[self.books[bin_id].bin.upstream]
            if upstream.name not in self.away_since:
                return math.inf
            began = max(request.arrived_at, self.away_since[upstream.name])
            deadlines.append(began + upstream.outage_wait_s)
        return max(deadlines)

    def _open(self, bin_: Bin) -> bool:
        return not self.closing and bin_.upstream not in self.away_since

    def loading(self, upstream: str) -> Runner | None:
        """What an upstream is loading; it loads one at a time."""
        for runner in self.runners.values():
            if runner.bin.upstream == upstream and runner.state is RunnerState.LOADING:
                return runner
        return None

    # ---------------------------------------------------------------- who is next

    def _plan(self) -> None:
        """Decide whose model each bin loads next, and who makes room for it."""
        self.plans = {}
        undecided = [books for books in self.books.values() if self._open(books.bin)]
        heads = self.line.heads(self.now) if undecided else []
        limits = {books.bin.id: self._most_for_the_patient(books) for books in undecided}
        for place, request in self._homeless(heads):
            here = [books for books in undecided if books.bin.id in request.needs]
            if self.line.overdue(request, self.now):
                # Of each kind the head stands before the others, and one elder counts like many.
                self._decide(request, here, elders=heads[:place])
            else:
                # Most of them fail for the same reason: do not ask for each of them.
                here = [b for b in here if limits[b.bin.id].admit(request.needs[b.bin.id])]
                self._decide(request, here, elders=None)
            undecided = [books for books in undecided if books.bin.id not in self.plans]
            if not undecided:
                return

    def _homeless(self, heads: Sequence[Request]) -> Iterator[tuple[int, Request]]:
        """Those for whom something must be loaded, and where each stands.

        One for each model and set of options: elsewhere the others would fare no better.
        """
        present = {runner.model for runner in self.runners.values()}
        seen = set()
        for place, request in enumerate(heads):
            kind = request.model, request.launch, request.num_ctx
            if kind in seen or (request.model in present and self._has_runner(request)):
                continue
            seen.add(kind)
            yield place, request

    def _most_for_the_patient(self, books: Books) -> Limits:
        """What nobody may exceed for whom only runners go that are idle and unwanted."""
        firm = [r for r in self._staying(books.bin) if not self._yields(r, 0.0, None)]
        here = [runner for runner in firm if runner.bin.id == books.bin.id]
        max_loaded = self.upstreams[books.bin.upstream].max_loaded
        return most(books, here, elsewhere=len(firm) - len(here), max_loaded=max_loaded)

    def _has_runner(self, request: Request) -> bool:
        return self.home_of(request) is not None or self._loads_for(request)

    def _decide(
        self, request: Request, here: Sequence[Books], *, elders: Sequence[Request] | None
    ) -> None:
        """Give a request the bin where it has the fewest victims.

        One that is overdue and cannot be placed keeps every bin from the others.

        Args:
            request: whose turn it is.
            here: the bins that may be had.
            elders: who stands before it, if it is overdue.
        """
        plans = [(books.bin.id, self._plan_for(request, books, elders=elders)) for books in here]
        placed = [(bin_id, plan) for bin_id, plan in plans if isinstance(plan, Plan)]
        if placed:
            bin_id, plan = min(placed, key=lambda each: len(each[1].victims))
            self.plans[bin_id] = plan
        elif elders is not None:
            self.plans.update(plans)

    def home_of(self, request: Request) -> Runner | None:
        """A resident runner that serves a request, if there is one and its upstream answers."""
        return next(self._homes_of(request), None)

    def _homes_of(self, request: Request) -> Iterator[Runner]:
        for runner in self.runners.values():
            if runner.resident and self._open(runner.bin) and self.suits(runner, request):
                yield runner

    def _loads_for(self, request: Request) -> bool:
        return any(
            runner.state is RunnerState.LOADING
            and self._open(runner.bin)
            and self.suits(runner, request)
            for runner in self.runners.values()
        )

    @staticmethod
    def suits(runner: Runner, request: Request) -> bool:
        """Whether a runner, once resident, is one that a request may be sent to."""
        return runner.bin.id in request.needs and serves(runner, request)

    def _plan_for(
        self, request: Request, books: Books, *, elders: Sequence[Request] | None
    ) -> Plan | Held:
        staying = self._staying(books.bin)
        need = request.needs[books.bin.id]
        load_s = self._load_guess_s(request.model, need.footprint_bytes)
        yielding = [r for r in staying if self._yields(r, load_s, elders)]
        # One runner a model: what holds other options must go, whatever room there is.
        forced = [runner for runner in staying if runner.model == request.model]
        eligible = sorted(
            (runner for runner in yielding if runner not in forced),
            key=lambda runner: (runner.bin.id != books.bin.id, self._reluctance(runner)),
        )
        if all(runner in yielding for runner in forced):
            victims = choose(
                eligible,
                lambda gone: self._lacking(request, books, [r for r in staying if r not in gone]),
                forced=forced,
            )
            if not isinstance(victims, Shortfall):
                missing = self._lacking(request, books, staying)
                return Plan(request=request, victims=victims, missing=missing)
        incumbents = (r for r in staying if r.resident and r not in yielding)
        ends = (self._quantum_ends_at(runner, load_s) for runner in incumbents)
        return Held(request=request, until=min((at for at in ends if at > self.now), default=None))

    def _staying(self, bin_: Bin) -> list[Runner]:
        # What is leaving will have left by then. An upstream's other bins matter for `max_loaded`.
        return [
            runner
            for runner in self._on_upstream(bin_)
            if runner.resident or runner.state is RunnerState.LOADING
        ]

    def _yields(self, runner: Runner, load_s: float, elders: Sequence[Request] | None) -> bool:
        """Whether a runner may be asked to go: an idle one always, one in use only if overdue.

        One that is still wanted has its quantum first, and serves somebody at the very least:
        two elders must not throw out each other's models for ever. Nor does it leave those
        unserved who have waited longer still.
        """
        if not runner.resident:
            return False
        wanted = self.is_wanted(runner)
        if runner.idle and not wanted:
            return True
        if elders is None or any(self.suits(runner, elder) for elder in elders):
            return False
        return not wanted or (
            runner.served > 0 and self.now >= self._quantum_ends_at(runner, load_s)
        )

    def _quantum_ends_at(self, runner: Runner, load_s: float) -> float:
        """When a runner has had its turn, if the next load takes `load_s`."""
        return runner.ready_at + self.policy.kappa * (runner.load_s + load_s)

    def _load_guess_s(self, model: ModelKey, footprint_bytes: int) -> float:
        seen = self._load_s.get(model)
        return FIRST_LOAD_S + footprint_bytes / FIRST_LOAD_BYTES_PER_S if seen is None else seen

    def _reluctance(self, runner: Runner) -> tuple[bool, bool, float, str]:
        """Whom to ask first: idle before busy before wanted, then the longest unused."""
        return self.is_wanted(runner), not runner.idle, runner.idle_since, runner.model

    def is_wanted(self, runner: Runner) -> bool:
        """Whether somebody who waits could be served by it."""
        return any(self.suits(runner, row[0]) for row in self.line.rows(runner.model))

    def _lacking(
        self, request: Request, books: Books, beside: Collection[Runner]
    ) -> Shortfall | None:
        """What prevents a load beside runners of the same upstream."""
        here = [runner for runner in beside if runner.bin.id == books.bin.id]
        return shortfall(
            request.needs[books.bin.id],
            books,
            here,
            elsewhere=len(beside) - len(here) + self._promised(books.bin),
            max_loaded=self.upstreams[books.bin.upstream].max_loaded,
        )

    def _promised(self, bin_: Bin) -> int:
        """How many runners its upstream may still get for those who were decided on earlier."""
        earlier = takewhile(lambda bin_id: bin_id != bin_.id, self.plans)
        return sum(self.books[bin_id].bin.upstream == bin_.upstream for bin_id in earlier)

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
            for runner in self._on_upstream(bin_)
            if runner.bin.id == bin_.id or runner.state is not RunnerState.LEAVING
        ]
        still_listed = any(
            runner.model == request.model and runner.state is not RunnerState.LEAVING
            for runner in present
        )
        if plan.victims or still_listed or self._lacking(request, books, present) is not None:
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
        present = self._in_bin(books.bin.id)
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
            footprint_bytes=need.footprint_bytes,
            reported_bytes=need.footprint_bytes,
            free_at_load_bytes=books.card_free_bytes(present),
            parallel=request.parallel,
            keep_alive_s=request.default_keep_alive_s,
            state=RunnerState.LOADING,
            since=self.now,
            load_s=self._load_guess_s(request.model, need.footprint_bytes),
            began_at=self.now,
        )

    def is_draining(self, runner: Runner) -> bool:
        """Whether it serves nobody new, so that an elder gets its memory."""
        return self.drained_for(runner) is not None

    def drained_for(self, runner: Runner) -> Request | None:
        """Who waits for a runner's memory."""
        for plan in self.plans.values():
            if isinstance(plan, Plan) and runner in plan.victims:
                return plan.request
        return None

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
                load_s=runner.loading_since(request.arrived_at),
            )
        )

    def _may_expire(self, runner: Runner) -> bool:
        # Whoever wanted it has a slot by now, or somebody overdue takes its memory anyhow.
        return (
            runner.resident
            and runner.idle
            and self._open(runner.bin)
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

    def _in_bin(self, bin_id: BinId) -> list[Runner]:
        return self._by_name(r for r in self.runners.values() if r.bin.id == bin_id)

    def _on_upstream(self, bin_: Bin) -> list[Runner]:
        return self._by_name(r for r in self.runners.values() if r.bin.upstream == bin_.upstream)

    @staticmethod
    def _by_name(runners: Iterable[Runner]) -> list[Runner]:
        return sorted(runners, key=lambda runner: (runner.bin.id, runner.model))
