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
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import (
    Choice,
    Command,
    Evicted,
    Expired,
    Forward,
    Load,
    Prewarm,
)
from ollama_gate.scheduler.fitting import missing_alone
from ollama_gate.scheduler.line import CLASSES
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.mending import Mending
from ollama_gate.scheduler.planning import most_urgent, plan_all
from ollama_gate.scheduler.room import lacking
from ollama_gate.scheduler.serving import context_to_name
from ollama_gate.scheduler.state import Charge, Held, Plan
from ollama_gate.scheduler.turns import first_of, take, turn_at
from ollama_gate.scheduler.types import (
    Bin,
    ModelKey,
    Policy,
    Refusal,
    Request,
    RunnerState,
    Upstream,
)

LOADING = RunnerState.LOADING


class Machine(Mending):
    """The scheduler. `handle` every event in the order of its time, do what it commands."""

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy, now: float
    ) -> None:
        super().__init__(upstreams=upstreams, bins=bins, policy=policy, now=now)
        self._wakeup: float | None = None
        # What each upstream was last asked to read ahead.
        self._hinted: dict[str, ModelKey] = {}
        self._unsettled = False

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
                homes = self.by_load(self.homes_of(event.request))
                # Whether one in part on the CPU is to serve is for a settlement to say.
                if not any(runner.offload for runner in homes) and not self.is_full:
                    for runner in homes[:1]:
                        if event.request.id in self.line and len(runner.running) < runner.parallel:
                            self._forward(event.request, runner)
                            return True
            case ev.Left():
                self._discard()
                self._relieve()
                self._expire()
                return not self._commands
            case _:
                pass
        return False

    def next_wakeup(self) -> float | None:
        """When to send `Ticked` if nothing else happens; always in the future, or never."""
        return self._wakeup

    # ---------------------------------------------------------------- settle the state

    def _settle(self) -> None:
        self._stop_awaiting_memory()
        self._refuse_after_outage()
        self._drop_expired()
        for books in self.books.values():
            books.cover(self.in_bin(books.bin.id))
            books.watch(self.now)
        self._unsettled = True
        while self._unsettled:
            # Who got the last slot that was wanted makes a runner somebody's victim; what is
            # asked to go may be what another bin's plan lacked.
            self._unsettled = False
            settled = len(self._commands)
            self._judge_partial()
            self._refuse_what_never_fits()
            self._look()
            plan_all(self)
            self._carry_out()
            self._discard()
            self._relieve()
            self._expire()
            done = self._commands[settled:]
            self._unsettled |= not all(isinstance(command, Forward) for command in done)
        if self.policy.prewarm:
            self._hint()

    def _hint(self) -> None:
        """Have the file of who is next read ahead, one at a time, while nothing is loaded."""
        for bin_id, books in self.books.items():
            upstream, hinted = books.bin.upstream, self._hinted.get(books.bin.upstream)
            if hinted is not None and any(self.line.groups(hinted)):
                continue
            if not self.line or self.loading(upstream) or not self.is_open(books.bin):
                continue
            plan = self.plans.get(bin_id)
            request = most_urgent(self, books) if plan is None else plan.request
            # What is there with other options has its file in the cache as well.
            if request is not None and (bin_id, request.model) not in self.runners:
                self._hinted[upstream] = request.model
                self._commands.append(Prewarm(bin=bin_id, model=request.model, name=request.name))

    def _look(self) -> None:
        """See how much waits, and who of them has waited for too long."""
        here = {r.model for r in self.runners.values() if r.usable or r.state is LOADING}
        bins = sum(self.is_open(books.bin) for books in self.books.values())
        self.demand.look(self.now, here, self.least_load_s, bins)

    def _carry_out(self) -> None:
        for bin_id, plan in list(self.plans.items()):
            if isinstance(plan, Plan):
                self._make_room(plan, self.books[bin_id])
        open_ = [
            runner
            for runner in self.runners.values()
            if runner.usable and self.is_open(runner.bin) and not self.is_draining(runner)
        ]
        if self.policy.max_concurrent:
            self._fill_within_limit(open_)
        else:
            for runners in self._by_model(open_):
                self._fill(runners)

    def _expire(self) -> None:
        for runner in self.by_name(self.runners.values()):
            if self._idles(runner) and self.now >= runner.expires_at:
                idle_s = self.now - runner.idle_since
                self._unload(runner, Expired(idle_s=idle_s, keep_alive_s=runner.keep_alive_s))

    def _idles(self, runner: Runner) -> bool:
        """Whether it may go for having idled: nobody waits for a slot that all share, either."""
        return self._may_go(runner) and not runner.pinned and not self.is_wanted(runner)

    def _drop_expired(self) -> None:
        for request in self.line.expired(self.now):
            self.line.leave(request.id)
            self._refuse(request.id, Refusal.DEADLINE)

    def _stop_awaiting_memory(self) -> None:
        for runner in list(self.runners.values()):
            if runner.state is RunnerState.LEAVING and self.now >= self._awaited_until(runner):
                self._forget(runner)

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

    # ---------------------------------------------------------------- make room, fill slots

    def _make_room(self, plan: Plan, books: Books) -> None:
        request, bin_ = plan.request, books.bin
        if self.loading(bin_.upstream):
            # Victims already serve nobody new; they go when the load is over.
            return
        for runner in plan.victims:
            if runner.idle:
                costs = {cost.name: cost for cost in plan.choice.victims}
                reason = Evicted(
                    for_model=request.name,
                    shortfall=str(plan.missing or "other options"),
                    idle_s=self.now - runner.idle_since,
                    cost=costs.get(runner.name),
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
        self._load(request, books, plan.choice)

    def _load(self, request: Request, books: Books, choice: Choice) -> None:
        leaving = self.runners.get((books.bin.id, request.model))
        if leaving is not None:
            # There is room for both: nobody has to wait until it is seen back.
            self._forget(leaving)
        present = self.in_bin(books.bin.id)
        need = self.need_of(request, books.bin.id)
        missing = 0 if present or books.bin.cpu else missing_alone(need, books)
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
                missing_bytes=missing,
                choice=choice,
            )
        )
        self._hinted.pop(books.bin.upstream, None)
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
            foreign_least_bytes=books.foreign_bytes,
            parallel=request.parallel,
            keep_alive_s=request.default_keep_alive_s,
            state=RunnerState.LOADING,
            since=self.now,
            load_s=self.load_s_of(request, books.bin.id),
            pinned=request.pinned,
            began_at=self.now,
        )

    def _by_model(self, runners: Sequence[Runner]) -> Iterable[Sequence[Runner]]:
        by_model: dict[ModelKey, list[Runner]] = {}
        for runner in self.by_load(runners):
            by_model.setdefault(runner.model, []).append(runner)
        return by_model.values()

    def _fill(self, runners: Sequence[Runner]) -> None:
        """Fill the slots of a model's runners, each time that of the one that serves fewest."""
        while True:
            free = [r for r in self.by_load(runners) if len(r.running) < r.parallel]
            turns = ((r, turn) for r in free if (turn := turn_at(self, r)) is not None)
            found = next(turns, None)
            if found is None:
                return
            runner, turn = found
            self._forward(take(self, runner, turn), runner)

    def _fill_within_limit(self, runners: Sequence[Runner]) -> None:
        """Give away what is left of the slots that all models share."""
        while not self.is_full:
            free = [r for r in self.by_load(runners) if len(r.running) < r.parallel]
            turns = [(r, turn) for r in free if (turn := turn_at(self, r)) is not None]
            if not turns:
                return
            runner, turn = first_of(self, turns)
            self._forward(take(self, runner, turn), runner)

    def _forward(self, request: Request, runner: Runner) -> None:
        overdue = self.line.overdue(request)
        self.line.leave(request.id)
        self.running[request.id] = request, runner.bin.id
        expected_s = self.pace.service_s(request.model, request.service_s)
        self.charges[request.id] = Charge(at=self.now, expected_s=expected_s)
        self.fairness.starts(request.priority, request.client, expected_s)
        runner.running[request.id] = request
        runner.served += 1
        self._unsettled |= runner.served == 1 or not self.is_wanted(runner)
        if request.keep_alive_s is not None:
            runner.keep_alive_s = request.keep_alive_s
        self._commands.append(
            Forward(
                id=request.id,
                bin=runner.bin.id,
                queued_s=self.now - request.arrived_at,
                num_ctx=context_to_name(runner, request.at(runner.bin.id)),
                load_s=runner.loading_since(request.arrived_at),
                offload=runner.offload,
                overdue=overdue,
            )
        )

    # ---------------------------------------------------------------- time and order

    def _deadlines(self) -> Iterator[float]:
        """Every instant at which time alone may change what is to be done."""
        yield from self.demand.ends()
        yield self.line.next_deadline()
        yield self.turn_ends
        for row in self._rows_in_outage():
            yield self.outage_deadline(row[0])
        for plan in self.plans.values():
            if isinstance(plan, Held) and plan.until is not None:
                yield plan.until
        yield from self.recovery.retries()
        for books in self.books.values():
            if books.foreign_bytes:
                for priority, tau_s in zip(CLASSES, self.policy.tau_s, strict=True):
                    yield books.steady_since + tau_s
                    # Nobody waits longer for others because of a backlog.
                    yield self.line.next_of_age(priority, tau_s, self.now)
        for runner in self.runners.values():
            if runner.state is RunnerState.LEAVING:
                yield self._awaited_until(runner)
            elif self._idles(runner):
                yield runner.expires_at
