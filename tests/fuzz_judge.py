"""The invariants of scheduling, asked after every event of whatever drives a scheduler.

The judge stands in a `Machine`'s place, hands every event on and compares what comes back with
its own books. What only the scheduler can know (who is drained, what is planned) it takes from
the public snapshot, and only to be lenient, or to compare it with the books.

The rules are numbered as in `docs/scheduling.md`. Where production differs from a bare model of
scheduling, the rule says so:

- Requests of one model with other options are another *kind*: a resident runner may not serve
  them, so "its model is resident" reads "a runner that suits it is resident".
- Whether somebody is overdue depends on learned times. It is surely not before its patience
  `tau`, and surely so from `tau_cap` on; between the two the judge allows both.
- The quantum counts in learned load times; the judge takes the shortest that was ever seen.
- Runners that may be no more, upstreams of which nobody knows what is left, memory that may still
  be on its way back: nothing is demanded there, but nothing forbidden is allowed either.
"""

import math
from collections.abc import Collection
from typing import Protocol

from ollama_gate.scheduler import Machine, snapshot
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import (
    Broken,
    Command,
    Evicted,
    Expired,
    Forward,
    Load,
    Offloaded,
    Prewarm,
    Refuse,
    Unload,
    Warn,
)
from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Refusal, Request, Snapshot
from tests.fuzz_books import Books, Fate, Told
from tests.fuzz_law import must
from tests.fuzz_passes import Passes
from tests.fuzz_room import Room
from tests.fuzz_sums import Sums, tells_what_is

RETRY_AFTER_S = 1.0, 120.0
IDLE_TICKS = 50
"""So many wake-ups in a row in which nothing happens are a busy loop."""


class Brain(Protocol):
    """What a judge and a machine have in common."""

    def handle(self, event: ev.Event, now: float) -> list[Command]: ...

    def next_wakeup(self) -> float | None: ...


class Judge:
    """A machine that is watched: raises `ViolationError` at the first thing that must not happen.

    Args:
        machine: what is watched.
        books: empty ones, of the same upstreams, bins and policy.
        views: whether the snapshot is compared as well, which costs most of the time.
    """

    def __init__(self, machine: Machine, books: Books, *, views: bool = True) -> None:
        self.machine, self.books, self.views = machine, books, views
        self.room, self.sums = Room(books), Sums(books)
        self.passes = Passes(machine, books, self.room)
        self.view: Snapshot | None = None
        self._idle_ticks = 0
        self._targets: dict[BinId, tuple[ModelKey, Launch]] = {}
        self._drained_before: set[tuple[str, str]] = set()

    def next_wakeup(self) -> float | None:
        return self.machine.next_wakeup()

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        self.books.book(event, now)
        before = self._drained_before = self.drained()
        commands = self.machine.handle(event, now)
        for command in commands:
            self._judge(command)
            self.books.enter(command)
        self._wakes_in_the_future(event, commands)
        if self.views:
            self.view = snapshot(self.machine)
            self.sums.judge(self.machine.line)
            tells_what_is(self.view, self.books)
            self._drains_for_somebody(before, commands)
        self._nobody_is_lost(event)
        self._serves_whom_it_was_loaded_for()
        self._works_while_there_is_work()
        return commands

    # ---------------------------------------------------------------- each command

    def _judge(self, command: Command) -> None:
        match command:
            case Load():
                self._judge_load(command)
            case Unload():
                self._judge_unload(command)
            case Forward():
                self._judge_forward(command)
            case Refuse():
                self._judge_refuse(command)
            case Prewarm():
                self._judge_prewarm(command)
            case Warn():
                pass

    def _judge_load(self, command: Load) -> None:
        books, host = self.books, self.books.host_of(command.bin)
        fate = books.fates[command.for_request]
        must("4 loads for somebody", fate.state == "waiting", f"{command} for one {fate.state}")
        must("1 open", host.open and not books.closed, f"{command} at a closed upstream")
        must("1 one load at a time", books.loading_at(host) is None, f"{command} beside another")
        there = [told for told in books.on_host(host) if told.key[1] == command.model]
        must("4 never twice", not there, f"{command}, and it is there already")
        for told in books.runners.values():
            # What is loaded where nobody answers any more is not waited for.
            here = books.host_of(told.key[0]).open
            coming = here and told.state == "loading" and books.suits(told, fate.request)
            free = books.serves(told, fate.request) and len(told.running) < told.parallel
            must("4 a second only for more", not (coming or free), f"{command} beside {told.key}")
        self.room.judge(command, fate.request)
        self.passes.by_load(command)

    def _judge_unload(self, command: Unload) -> None:
        books, reason = self.books, command.reason
        told = books.runners[command.bin, command.model]
        host = books.host_of(command.bin)
        must("2 unloads the ready", told.state == "ready", f"{command} while {told.state}")
        must("2 unloads the idle", not told.running, f"{command}, and it serves {told.running}")
        must("2 open", host.open and not books.closed, f"{command} at a closed upstream")
        if isinstance(reason, Offloaded | Broken):
            return
        # What is pinned may only be loaded again, with other options.
        again = isinstance(reason, Evicted) and reason.for_model == command.name
        must("pins stay", again or not told.pinned, f"{command} though it is pinned")
        owed = told.owes is not None and books.fates[told.owes].state == "waiting"
        must("14 loads serve", not owed, f"{command} before it served anybody")
        wanted = self._need(told, self._drained_before)
        must("17 expires", not (wanted and isinstance(reason, Expired)), f"{command}, and wanted")
        if wanted and told.key not in self._drained_before:
            self._had_its_quantum(str(command), told)

    def _need(self, told: Told, drained: Collection[tuple[str, str]]) -> list[Fate]:
        """Who waits for a runner, and is served by no other that stays."""
        books = self.books
        others = [t for key, t in books.runners.items() if t is not told and key not in drained]
        return [
            fate
            for fate in books.waiting.values()
            if books.serves(told, fate.request)
            and not any(books.serves(other, fate.request) for other in others)
        ]

    def _had_its_quantum(self, what: str, told: Told) -> None:
        """8: who still has waiting work served somebody, and has had its turn."""
        books = self.books
        must("8 quantum", told.served > 0, f"{what}: it has served nobody")
        kappa = min(books.policy.kappa, books.policy.kappa_hi)
        # The newcomer's load time may be nothing at all; the incumbent's was seen, or guessed.
        seen = books.load_times.get(told.key[1], [])
        turn_s = kappa * min([told.load_s, *seen])
        text = f"{what} {books.now - told.ready_at:.2f} s after it was ready, of {turn_s:.2f}"
        must("8 quantum", books.now >= told.ready_at + turn_s - 1e-9, text)

    def _judge_forward(self, command: Forward) -> None:
        books = self.books
        fate = books.fates[command.id]
        must("3 starts once", fate.state == "waiting", f"{command}, and it is {fate.state}")
        told = books.runners.get((command.bin, fate.request.model))
        must("2 starts where it is", told is not None, f"{command}: nothing is there")
        assert told is not None
        must("2 starts on the ready", told.state == "ready", f"{command}: it is {told.state}")
        must("2 open", books.host_of(command.bin).open and not books.closed, str(command))
        must("2 suits", books.suits(told, fate.request), f"{command}: with other options")
        must("2 slots", len(told.running) < told.parallel, f"{command}: no slot is free")
        most = books.policy.max_concurrent
        must("max_concurrent", not most or len(books.running) < most, f"{command}: over {most}")
        self._passes_nobody_over(fate, told)

    def _passes_nobody_over(self, fate: Fate, told: Told) -> None:
        """18: class before class, and one client's own in their order, until some are overdue."""
        books, request = self.books, fate.request
        rivals = [other for other in books.waits_for(told) if other is not fate]
        patient = books.now < books.virtual_deadline(request)
        for other in rivals:
            higher = other.request.priority < request.priority
            text = f"{request.id} starts before {other.request.id}"
            must("18 priority", not (higher and patient), text)
            own = (other.request.priority, other.request.client) == (
                request.priority,
                request.client,
            )
            earlier = other.request.arrived_at < request.arrived_at
            must("20 in order", not (own and earlier), text)
        self.passes.by_start(fate, told, rivals)

    def _judge_refuse(self, command: Refuse) -> None:
        books, policy = self.books, self.books.policy
        fate = books.fates[command.id]
        must("3 ends once", fate.state == "waiting", f"{command}, and it is {fate.state}")
        others = [other for other in books.waiting.values() if other is not fate]
        after = command.retry_after_s
        if after is not None:
            low, high = RETRY_AFTER_S
            must("retry after", low <= after <= high, str(command))
        match command.reason:
            case Refusal.QUEUE_FULL:
                must("queue full", len(others) >= policy.queue_max_size, str(command))
            case Refusal.CLIENT_FULL:
                own = [o for o in others if o.request.client == fate.request.client]
                must("client full", len(own) >= policy.queue_max_per_client > 0, str(command))
            case Refusal.SHUTTING_DOWN:
                must("closing", books.closed, str(command))
            case Refusal.UPSTREAM_AWAY:
                heard = any(books.host_of(bin_id).heard for bin_id in fate.request.needs)
                must("away", not heard, str(command))
            case Refusal.DEADLINE:
                must("deadline", books.now >= books.deadline_at(fate.request), str(command))
            case _:
                pass

    def _judge_prewarm(self, command: Prewarm) -> None:
        books, host = self.books, self.books.host_of(command.bin)
        must("prewarm beside no load", books.loading_at(host) is None, str(command))
        there = (command.bin, command.model) in books.runners
        must("prewarm what is not there", not there, str(command))
        wanted = any(f.request.model == command.model for f in books.waiting.values())
        must("prewarm what is wanted", wanted, str(command))

    # ---------------------------------------------------------------- after each event

    def _wakes_in_the_future(self, event: ev.Event, commands: Collection[Command]) -> None:
        """12: time alone is waited for in the future only, and never in a busy loop."""
        wake = self.machine.next_wakeup()
        must("12 wakes later", wake is None or wake > self.books.now, f"wakes at {wake}")
        waiting = [fate.request for fate in self.books.waiting.values()]
        due = [self.books.deadline_at(request) for request in waiting]
        patient = [request for request in waiting if not self.machine.line.overdue(request)]
        due += [self.books.surely_overdue_at(request) for request in patient]
        first = min(due, default=math.inf)
        in_time = first == math.inf or (wake is not None and wake <= first + 1e-6)
        must("12 wakes in time", in_time, f"wakes at {wake}, and {first} is due")
        idle = isinstance(event, ev.Ticked) and not commands
        self._idle_ticks = self._idle_ticks + 1 if idle else 0
        must("12 busy loop", self._idle_ticks < IDLE_TICKS, "it wakes again and again")

    def _nobody_is_lost(self, event: ev.Event) -> None:
        """3: a cancelled one is refused at once; nobody waits past a deadline, or when closed."""
        books = self.books
        if isinstance(event, ev.Cancelled) and event.id in books.fates:
            must("3 cancelled", books.fates[event.id].state != "waiting", f"{event.id} waits on")
        queued = [f.request.client for f in books.waiting.values() if not f.welcome]
        full = len(queued) > books.policy.queue_max_size
        must("queue full", not full, f"{len(queued)} wait")
        most = books.policy.queue_max_per_client
        for client in set(queued) if most else ():
            must("client full", queued.count(client) <= most, f"so many of {client}")
        must("3 closed", not (books.closed and books.waiting), "somebody waits at a closed gate")
        for fate in books.waiting.values():
            late = books.now >= books.deadline_at(fate.request)
            must("deadline", not late, f"{fate.request.id} waits past its deadline")

    def _serves_whom_it_was_loaded_for(self) -> None:
        """14: whoever it was loaded for begins, or somebody before it does."""
        books = self.books
        most = books.policy.max_concurrent
        for told in books.runners.values():
            if told.owes is None or told.state != "ready":
                continue
            request = books.fates[told.owes].request
            still = books.fates[told.owes].state == "waiting" and books.serves(told, request)
            full = most and len(books.running) >= most
            must(
                "14 loads serve", not still or full, f"{told.key} is loaded, and {request.id} waits"
            )

    def _works_while_there_is_work(self) -> None:
        """17: no free slot of a runner that is not drained, and no room, beside one who waits."""
        books = self.books
        most = books.policy.max_concurrent
        if books.closed or (most and len(books.running) >= most):
            return
        drained = self.drained()
        for fate in books.waiting.values():
            request = fate.request
            for told in books.homes(request):
                free = len(told.running) < told.parallel and told.key not in drained
                must("17 slots", not free, f"{request.id} waits, and {told.key} has a free slot")
            if self._is_free_to_load(request) and not books.promised(request):
                roomy = [bin_id for bin_id in request.needs if self.room.surely(bin_id, request)]
                must("17 room", not roomy, f"{request.id} waits, and there is room in {roomy}")

    def _is_free_to_load(self, request: Request) -> bool:
        """Whether nothing is under way, or reserved, in any of its bins."""
        if self.view is None:
            return False
        plans = {view.bin.id: view.target for view in self.view.bins}
        # Of one model the first is loaded for, and who asks otherwise has to wait for that.
        alike = (f.request for f in self.books.waiting.values() if f.request.model == request.model)
        others = any((o.launch, o.needs) != (request.launch, request.needs) for o in alike)
        return not others and all(plans[bin_id] is None for bin_id in request.needs)

    def drained(self) -> set[tuple[str, str]]:
        if self.view is None:
            drained = (r for r in self.machine.runners.values() if self.machine.is_draining(r))
            return {(runner.bin.id, runner.model) for runner in drained}
        return {(view.bin, view.model) for view in self.view.runners if view.draining}

    # ---------------------------------------------------------------- the snapshot

    def _drains_for_somebody(
        self, before: set[tuple[str, str]], commands: Collection[Command]
    ) -> None:
        """6: who is drained makes room for a plan that still has somebody waiting; 2: unused."""
        view, books = self.view, self.books
        assert view is not None
        wanted = {fate.request.name for fate in books.waiting.values()}
        plans = self.machine.plans.items()
        targets = {bin_id: (plan.request.model, plan.request.launch) for bin_id, plan in plans}
        victims = set[str]()
        for plan in view.bins:
            must("6 plans", plan.target is None or plan.target in wanted, f"{plan}")
            must("6 plans", plan.target is not None or not plan.victims, f"{plan}")
            victims |= set(plan.victims)
        for runner in view.runners:
            told = books.runners.get((runner.bin, runner.model))
            if told is None or not runner.draining or told.doubtful:
                continue
            must("6 drains", runner.name in victims, f"{runner.name} is drained for nobody")
            if told.key not in before and self._need(told, self.drained()):
                self._had_its_quantum(f"{told.key} is drained", told)
            if told.key in before and targets == self._targets:
                begun = {c.id for c in commands if isinstance(c, Forward)} & told.running
                must("2 drains", not begun, f"{begun} start on {runner.name}, which is drained")
        self._targets = targets
