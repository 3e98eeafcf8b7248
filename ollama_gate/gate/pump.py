"""The pump: events in, commands out, one timer. It decides nothing."""

import asyncio
import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, assert_never

from ollama_gate import log
from ollama_gate.gate.carrying import Hands
from ollama_gate.gate.chronicle import Chronicle, Decision
from ollama_gate.gate.outside import Outside
from ollama_gate.gate.roles import Engine, Meter, Recorder, Witness
from ollama_gate.gate.slots import Past, RefusedError, Slot, Ticket, Tickets
from ollama_gate.gate.tasks import Tasks
from ollama_gate.gate.watching import Watch
from ollama_gate.scheduler import Machine, snapshot
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward, Load, Prewarm, Refuse, Unload, Warn
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.types import (
    BinId,
    ModelKey,
    Refusal,
    Request,
    RequestId,
    RunnerState,
    RunnerView,
    Snapshot,
    Waiting,
)

HAND_BACK_S: Final = 5.0
"""How long Ollama gets, at the end, to take back its models."""

_engine = log.get(log.Component.ENGINE)


class Gate:
    """Admission for the upstreams of one machine.

    `start` begins to watch the upstreams; `close` ends everything that it began. Use it on one
    event loop only.

    Args:
        machine: the scheduler.
        engines: the upstreams by name, in the order of the configuration.
        witnesses: told how long things took at these upstreams.
        recorder: told of everybody who came, and of the cards.
    """

    def __init__(
        self,
        machine: Machine,
        engines: Mapping[str, Engine],
        *,
        witnesses: Mapping[str, Witness] = MappingProxyType({}),
        recorder: Recorder | None = None,
    ) -> None:
        self._machine = machine
        self._recorder = recorder
        self._hands = {
            name: self._hands_on(name, engine, witnesses.get(name))
            for name, engine in engines.items()
        }
        self._meters: dict[BinId, Meter] = {}
        self._tickets = Tickets(tell=self._tell, served=self._served, left=self._left)
        self._tasks = Tasks()
        self._chronicle = Chronicle()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        self._changed = asyncio.Event()
        self._outside = Outside(machine, changed=self.changed, tell=self._tell)

    def _hands_on(self, name: str, engine: Engine, witness: Witness | None) -> Hands:
        watch = Watch(
            name,
            engine,
            tell=self._tell,
            is_loading=lambda: self._machine.loading(name) is not None,
        )
        return Hands(engine, watch, witness=witness, recorder=self._recorder, tell=self._tell)

    # ---------------------------------------------------------------- what callers ask

    def slot(self, request: Request) -> Slot:
        """Wait for a slot and hold it for as long as an `async with` block lasts.

        However the block ends, and wherever in it the caller is cancelled, the place or slot is
        free again at once.

        Raises:
            RefusedError: there will be no slot.
        """
        return Slot(self._tickets, request, self._tell)

    def completed(self, request_id: RequestId) -> None:
        """Say of a request that has a slot that its answer has ended by itself.

        One that leaves unsaid was cut off, or had no answer: nobody learns from its length.
        """
        self._tickets.complete(request_id)

    def cancel(self, request_id: RequestId) -> bool:
        """Withdraw a request, waiting or running; false if there is none of that name."""
        return self._tickets.cancel(request_id)

    def release(self, model: ModelKey) -> bool:
        """Let a model go when nobody wants it any more; false if it is not there."""
        if not self._runners_of(model):
            return False
        self._tell(ev.Released(model=model))
        return True

    def expires_in(self, model: ModelKey, upstream: str | None = None) -> float | None:
        """How long a resident model may still idle, in seconds, `inf` for ever.

        As if it went idle now, while it serves somebody; `None` if it is not there.

        Args:
            model: which.
            upstream: where; otherwise wherever it is found.
        """
        now = asyncio.get_running_loop().time()
        for runner in self._runners_of(model):
            if runner.resident and upstream in {None, runner.bin.upstream}:
                left_s = runner.expires_at - now if runner.idle else runner.keep_alive_s
                return math.inf if runner.pinned else left_s
        return None

    async def vacate(self, model: ModelKey, within_s: float) -> None:
        """Let a model go, and wait for it: its name is about to mean something else."""
        if not self.release(model):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(map(self._is_listed, self._runners_of(model))):
                    await self.changed()

    def _runners_of(self, model: ModelKey) -> list[Runner]:
        return [runner for runner in self._machine.runners.values() if runner.model == model]

    def _is_listed(self, runner: Runner) -> bool:
        """Whether an upstream has it, one that answers: nobody unloads it at another."""
        leaving = runner.state is RunnerState.LEAVING
        return not leaving and not self.is_away(runner.bin.upstream)

    async def await_upstream(
        self, request_id: RequestId, upstreams: Collection[str], within_s: float
    ) -> None:
        """Wait until one of these answers, before it can be said what a request needs.

        Raises:
            RefusedError: they stay away, the gate closes, or too many wait already, in the line
                or here.
        """
        watches = [self._hands[name].watch for name in upstreams]
        await self._outside.wait(
            request_id, lambda: any(watch.answers for watch in watches), within_s
        )

    @property
    def outside(self) -> int:
        """How many wait for an upstream outside the line."""
        return self._outside.count

    def lost(self, upstream: str) -> None:
        """Somebody saw that an upstream does not answer."""
        self._hands[upstream].watch.lost("a request found it gone")
        self.nudge(upstream)

    def nudge(self, upstream: str) -> None:
        """Look at an upstream now rather than at the next turn."""
        self._hands[upstream].watch.nudge()

    def is_away(self, upstream: str) -> bool:
        """Whether an upstream did not answer when it was last asked; false if it never was."""
        return self._hands[upstream].watch.is_away

    def return_of(self, upstream: str) -> asyncio.Event:
        """Set when an upstream begins to answer the next time, at first or after an outage."""
        return self._hands[upstream].watch.came_back

    def upstream_of(self, bin_id: BinId) -> str:
        """Whose bin it is."""
        return self._machine.books[bin_id].bin.upstream

    async def answers(self, upstream: str, within_s: float) -> bool:
        """Wait until an upstream answers; false if it does not in that time."""
        watch = self._hands[upstream].watch
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await watch.answering()
        return watch.answers

    @property
    def decisions(self) -> Sequence[Decision]:
        """The last ones, oldest first."""
        return self._chronicle.decisions

    def snapshot(self) -> Snapshot:
        """Where everything stood when something last happened."""
        return snapshot(self._machine)

    async def changed(self) -> None:
        """Wait until something happens: an event of any kind."""
        await self._changed.wait()

    def past_of(self, request_id: RequestId) -> Past | None:
        """What one that runs or ended had waited for; `None` if it waits or is unknown."""
        return self._tickets.past_of(request_id)

    def find(self, request_id: RequestId) -> Waiting | RunnerView | str | None:
        """A waiting request, the runner that serves it, how it ended, or `None` if unknown."""
        view = self.snapshot()
        for waiting in view.waiting:
            if waiting.request.id == request_id:
                return waiting
        for runner in view.runners:
            if request_id in runner.running:
                return runner
        past = self._tickets.past_of(request_id)
        if request_id in self._tickets:
            return "running"
        return None if past is None else past.fate

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin to watch every upstream."""
        for hands in self._hands.values():
            self._tasks.spawn(hands.watch.run())

    def attach(self, bin_id: BinId, meter: Meter) -> None:
        """Let `measured` be told of a bin by `meter`."""
        self._meters[bin_id] = meter

    def measured(self, bin_id: BinId, total_bytes: int, used_bytes: int) -> None:
        """Take in a reading of a bin's memory."""
        self._tell(ev.Measured(bin=bin_id, total_bytes=total_bytes, used_bytes=used_bytes))
        if self._recorder is not None:
            foreign_bytes = self._machine.books[bin_id].foreign_bytes
            now = asyncio.get_running_loop().time()
            self._recorder.measured(bin_id, total_bytes, foreign_bytes, now)

    def reading_lost(self, bin_id: BinId) -> None:
        """No reading of a bin comes any more; the next one says that they do again."""
        self._tell(ev.ReadingLost(bin=bin_id))

    def runner_died(self, request_id: RequestId, *, oom: bool) -> None:
        """The answer to a running request says that its runner is no more."""
        _engine.warning("a runner died", id=request_id, out_of_memory=oom)
        running = self._machine.running.get(request_id)
        if running is not None:
            self._hands_of(running[1]).watch.nudge()
        self._tell(ev.RunnerDied(id=request_id, oom=oom))

    async def drain(self, grace_s: float) -> bool:
        """Refuse who waits, let running answers end; true if all ended within `grace_s`."""
        self._tell(ev.Closing())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._tickets.quiet()
        return self._tickets.is_quiet

    async def hand_back(self) -> None:
        """Leave what the gate loaded to Ollama's own timers again, if Ollama still has it."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                await asyncio.gather(*map(self._hand_back, self._hands))
        except TimeoutError:
            _engine.warning("not all models handed back", after_s=HAND_BACK_S)

    async def _hand_back(self, upstream: str) -> None:
        hands = self._hands[upstream]
        await hands.watch.look()
        residents = [
            runner
            for runner in self.snapshot().runners
            if runner.state is RunnerState.RESIDENT and self._hands_of(runner.bin) is hands
        ]
        await hands.hand_back(residents)

    async def close(self) -> None:
        """End every task and the timer."""
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()

    # ---------------------------------------------------------------- the pump

    def _tell(self, event: ev.Event) -> None:
        now = asyncio.get_running_loop().time()
        for command in self._machine.handle(event, now):
            self._obey(command)
        self._arm_timer()
        for bin_id, meter in self._meters.items():
            meter.hurry(busy=self._memory_moves(bin_id))
        self._changed.set()
        self._changed = asyncio.Event()

    def _memory_moves(self, bin_id: BinId) -> bool:
        return any(
            runner.bin.id == bin_id and not runner.resident
            for runner in self._machine.runners.values()
        )

    def _arm_timer(self) -> None:
        at = self._machine.next_wakeup()
        # One that rings too soon does no harm, and is cheaper than a new one for each request.
        if at is None or at >= self._armed_for:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = at
        self._timer = asyncio.get_running_loop().call_at(at, self._rings)

    def _rings(self) -> None:
        self._armed_for = math.inf
        self._tell(ev.Ticked())

    def _obey(self, command: Command) -> None:
        match command:
            case Forward():
                request = self._tickets.forward(command)
                if request is not None:
                    self._chronicle.forwarded(command, request)
                    meanwhile = self._chronicle.since(request.arrived_at, command.bin)
                    self._tickets.remember(command.id, meanwhile)
            case Refuse():
                request = self._tickets.refuse(command)
                if request is not None:
                    self._chronicle.refused(command, request, len(self._machine.line))
            case Load():
                self._chronicle.loads(command)
                self._tasks.spawn(self._hands_of(command.bin).load(command))
            case Unload():
                self._chronicle.unloads(command)
                self._tasks.spawn(self._hands_of(command.bin).unload(command))
            case Warn():
                self._chronicle.warns(command)
            case Prewarm():
                self._tasks.spawn(self._hands_of(command.bin).prewarm(command))
            case _:
                assert_never(command)

    def _hands_of(self, bin_id: BinId) -> Hands:
        return self._hands[self.upstream_of(bin_id)]

    def _served(self, ticket: Ticket) -> None:
        """An answer has ended by itself: how long it took is remembered."""
        bin_id = ticket.granted.result().bin
        witness = self._hands_of(bin_id).witness
        if witness is not None:
            served_s = asyncio.get_running_loop().time() - ticket.granted_at
            witness.served(bin_id, ticket.request.model, served_s)

    def _left(self, ticket: Ticket) -> None:
        """A request is over, whichever way: what became of it is written down."""
        if self._recorder is None:
            return
        now = asyncio.get_running_loop().time()
        granted = ticket.granted
        error = None if granted.cancelled() else granted.exception()
        if granted.cancelled():
            self._recorder.unserved(ticket.request, "left", now, None)
        elif not isinstance(error, RefusedError):
            bin_id = granted.result().bin
            self._recorder.served(
                ticket.request, bin_id, ticket.granted_at, now, completed=ticket.completed
            )
        elif error.refusal.reason is Refusal.CANCELLED:
            self._recorder.unserved(ticket.request, "withdrawn", now, None)
        else:
            reason = error.refusal.reason.value
            self._recorder.unserved(ticket.request, "refused", now, reason)
