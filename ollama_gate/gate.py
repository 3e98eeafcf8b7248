"""The pump: events in, commands out, one timer, and the tasks it started. It decides nothing.

It states what it needs of an upstream (`Engine`) and of a card (`Meter`); whatever fits will do.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, assert_never

from ollama_gate import log
from ollama_gate.errors import GateError, UpstreamError, UpstreamSilentError
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
from ollama_gate.scheduler.types import (
    BinId,
    Launch,
    ModelKey,
    Refusal,
    Request,
    RequestId,
    RunnerState,
    RunnerView,
    Snapshot,
    Waiting,
)

WATCH_S: Final = 2.0
"""How often an upstream that answers is asked what is resident."""

WATCH_AWAY_S: Final = 1.0
"""How often one that does not answer is tried."""

HAND_BACK_S: Final = 5.0
"""How long Ollama gets, at the end, to take back its models."""

REMEMBERED: Final = 1000
"""How many ended requests can still be asked for."""

_Outcome = TypeVar("_Outcome")

_queue = log.get(log.Component.QUEUE)
_scheduler = log.get(log.Component.SCHEDULER)
_engine = log.get(log.Component.ENGINE)
_monitor = log.get(log.Component.MONITOR)


class Engine(Protocol):
    """One upstream, as the pump drives it."""

    async def load(self, command: Load) -> ev.Loaded | ev.LoadFailed | ev.Interrupted:
        """Load a model, however long it takes."""

    async def unload(self, command: Unload) -> bool:
        """Unload a model; true when it is no longer listed, false when nobody can tell."""

    async def residents(self) -> tuple[ev.Resident, ...]:
        """What is resident now; raises `UpstreamError` when there is no answer."""

    async def let_expire(self, name: str, launch: Launch) -> None:
        """Leave a model to Ollama: it may unload it when it has idled for long enough."""


class Meter(Protocol):
    """A card that is read from time to time by itself, and more often while `busy`."""

    def hurry(self, *, busy: bool) -> None:
        """Say whether memory is moving."""


class Witness(Protocol):
    """Somebody who remembers how long things took. Times in seconds, `now` of the pump's clock."""

    def load_began(self, bin_id: BinId, model: ModelKey, launch: Launch, now: float) -> None:
        """A load is ordered; `loaded` or `load_failed` follows."""

    def loaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """It went well."""

    def load_failed(self, bin_id: BinId, model: ModelKey, now: float) -> None:
        """It did not, or nobody knows."""

    def unload_began(self, bin_id: BinId, now: float) -> None:
        """An unload is ordered."""

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """It is over, and was seen to be."""

    def served(self, bin_id: BinId, model: ModelKey, seconds: float) -> None:
        """A slot was held for so long, until its answer ended."""


class RefusedError(GateError):
    """A request is turned away; `refusal` says why and what to answer."""

    def __init__(self, refusal: Refuse) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A slot: where it is, how long it was waited for, and how much of that was its load.

    Attributes:
        num_ctx: the context that the request must name instead of its own, if any.
        offload: the share of the model that is on the CPU, 0 to 1.
    """

    bin: BinId
    queued_s: float
    load_s: float
    num_ctx: int | None = None
    offload: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that happened to memory or to a request's fate; `at` is the pump's clock."""

    at: float
    what: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class _Ticket:
    request: Request
    granted: asyncio.Future[Grant]
    holder: asyncio.Task[Any] | None
    withdrawn: bool = False
    granted_at: float = 0.0


class _Slot:
    """A place in the line, then a slot; gone again however its block ends."""

    def __init__(self, gate: "Gate", request: Request) -> None:
        self._gate = gate
        self._request = request
        self._ticket: _Ticket | None = None

    async def __aenter__(self) -> Grant:
        self._ticket = ticket = self._gate._enter(self._request)  # noqa: SLF001  its other half
        try:
            self._gate._tell(ev.Arrived(request=self._request))  # noqa: SLF001
            return await ticket.granted
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        ticket = self._ticket
        assert ticket is not None, "a block that ends has begun"
        self._gate._leave(ticket, ended=error is None)  # noqa: SLF001  its other half
        if isinstance(error, asyncio.CancelledError) and ticket.withdrawn and ticket.holder:
            ticket.holder.uncancel()
            raise RefusedError(Refuse(id=ticket.request.id, reason=Refusal.CANCELLED)) from None


class Gate:
    """Admission for the upstreams of one machine.

    `start` begins to watch the upstreams; `close` ends everything that it began. Use it on one
    event loop only.
    """

    def __init__(
        self,
        machine: Machine,
        engines: Mapping[str, Engine],
        *,
        witness: Witness | None = None,
    ) -> None:
        self._machine = machine
        self._engines = engines
        self._witness = witness
        self._meters: dict[BinId, Meter] = {}
        self._tickets: dict[RequestId, _Ticket] = {}
        self._ended: OrderedDict[RequestId, str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = math.inf
        self._answers = {name: asyncio.Event() for name in engines}
        self._healthy: dict[str, bool | None] = dict.fromkeys(engines)
        self._lost_at = dict.fromkeys(engines, -math.inf)
        self._nudges = {name: asyncio.Event() for name in engines}
        self._changed = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._came_back = {name: asyncio.Event() for name in engines}
        self._ours: set[tuple[BinId, ModelKey]] = set()
        self.outside = 0
        self.decisions: deque[Decision] = deque(maxlen=64)

    # ---------------------------------------------------------------- what callers ask

    def slot(self, request: Request) -> "_Slot":
        """Wait for a slot and hold it for as long as an `async with` block lasts.

        However the block ends, and wherever in it the caller is cancelled, the place or slot is
        free again at once.

        Raises:
            RefusedError: there will be no slot.
        """
        return _Slot(self, request)

    def _enter(self, request: Request) -> _Ticket:
        ticket = _Ticket(
            request, asyncio.get_running_loop().create_future(), asyncio.current_task()
        )
        self._tickets[request.id] = ticket
        self._quiet.clear()
        return ticket

    def _leave(self, ticket: _Ticket, *, ended: bool) -> None:
        request_id = ticket.request.id
        if ended and self._witness is not None:
            served_s = asyncio.get_running_loop().time() - ticket.granted_at
            self._witness.served(ticket.granted.result().bin, ticket.request.model, served_s)
        del self._tickets[request_id]
        self._remember(request_id, ticket)
        self._tell(ev.Left(id=request_id))
        if not self._tickets:
            self._quiet.set()

    def cancel(self, request_id: RequestId) -> bool:
        """Withdraw a request, waiting or running; false if there is none of that name."""
        ticket = self._tickets.get(request_id)
        if ticket is None:
            return False
        if ticket.granted.done():
            ticket.withdrawn = True
            if ticket.holder is not None:
                ticket.holder.cancel()
        else:
            self._tell(ev.Cancelled(id=request_id))
        return True

    def release(self, model: ModelKey) -> bool:
        """Let a model go when nobody wants it any more; false if it is not there."""
        if not any(runner.model == model for runner in self._machine.runners.values()):
            return False
        self._tell(ev.Released(model=model))
        return True

    def expires_in(self, model: ModelKey) -> float | None:
        """How long a resident model may still idle, in seconds, `inf` for ever.

        As if it went idle now, while it serves somebody; `None` if it is not there.
        """
        now = asyncio.get_running_loop().time()
        for runner in self._machine.runners.values():
            if runner.model == model and runner.resident:
                return runner.expires_at - now if runner.idle else runner.keep_alive_s
        return None

    async def vacate(self, model: ModelKey, within_s: float) -> None:
        """Let a model go, and wait for it: its name is about to mean something else."""
        if not self.release(model):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(self._listed(model)):
                    await self.changed()

    def _listed(self, model: ModelKey) -> Iterator[bool]:
        for runner in self._machine.runners.values():
            yield runner.model == model and runner.state is not RunnerState.LEAVING

    async def await_upstream(self, request_id: RequestId, upstream: str, within_s: float) -> None:
        """Wait for an upstream before it can be said what a request needs.

        Raises:
            RefusedError: it stays away, the gate closes, or too many wait already, in the line
                or here.
        """
        self._make_sure(
            request_id,
            Refusal.QUEUE_FULL,
            len(self._machine.line) + self.outside < self._machine.policy.queue_max_size,
        )
        self.outside += 1
        self._tell(ev.Ticked())
        try:
            async with asyncio.timeout(within_s):
                while not self._answers[upstream].is_set():
                    self._make_sure(request_id, Refusal.SHUTTING_DOWN, not self._machine.closing)
                    await self.changed()
        except TimeoutError:
            self._make_sure(request_id, Refusal.UPSTREAM_AWAY, False)
        finally:
            self.outside -= 1

    @staticmethod
    def _make_sure(request_id: RequestId, otherwise: Refusal, holds: bool) -> None:
        if not holds:
            retry_after_s = WATCH_AWAY_S if otherwise is Refusal.QUEUE_FULL else None
            raise RefusedError(Refuse(id=request_id, reason=otherwise, retry_after_s=retry_after_s))

    def lost(self, upstream: str) -> None:
        """Somebody saw that an upstream does not answer."""
        self._upstream_lost(upstream, "a request found it gone")
        self.nudge(upstream)

    def nudge(self, upstream: str) -> None:
        """Look at an upstream now rather than at the next turn."""
        self._nudges[upstream].set()

    async def answers(self, upstream: str, within_s: float) -> bool:
        """Wait until an upstream answers; false if it does not in that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._answers[upstream].wait()
        return self._answers[upstream].is_set()

    def snapshot(self) -> Snapshot:
        """Where everything stood when something last happened."""
        return snapshot(self._machine)

    async def changed(self) -> None:
        """Wait until something happens: an event of any kind."""
        await self._changed.wait()

    def find(self, request_id: RequestId) -> Waiting | RunnerView | str | None:
        """A waiting request, the runner that serves it, how it ended, or `None` if unknown."""
        view = self.snapshot()
        for waiting in view.waiting:
            if waiting.request.id == request_id:
                return waiting
        for runner in view.runners:
            if request_id in runner.running:
                return runner
        return "running" if request_id in self._tickets else self._ended.get(request_id)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Begin to watch every upstream."""
        for name in self._engines:
            self._spawn(self._watch(name))

    def attach(self, bin_id: BinId, meter: Meter) -> None:
        """Let `measured` be told of a bin by `meter`."""
        self._meters[bin_id] = meter

    def measured(self, bin_id: BinId, total_bytes: int, used_bytes: int) -> None:
        """Take in a reading of a bin's memory."""
        self._tell(ev.Measured(bin=bin_id, total_bytes=total_bytes, used_bytes=used_bytes))

    def reading_lost(self, bin_id: BinId) -> None:
        """No reading of a bin comes any more; the next one says that they do again."""
        self._tell(ev.ReadingLost(bin=bin_id))

    def runner_died(self, request_id: RequestId, *, oom: bool) -> None:
        """The answer to a running request says that its runner is no more."""
        _engine.warning("a runner died", id=request_id, out_of_memory=oom)
        for upstream in self._upstreams_of(request_id):
            self.nudge(upstream)
        self._tell(ev.RunnerDied(id=request_id, oom=oom))

    def _upstreams_of(self, request_id: RequestId) -> Iterator[str]:
        running = self._machine.running.get(request_id)
        if running is not None:
            yield self._machine.books[running[1]].bin.upstream

    async def drain(self, grace_s: float) -> bool:
        """Refuse who waits, let running answers end; true if all ended within `grace_s`."""
        self._tell(ev.Closing())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._quiet.wait()
        return self._quiet.is_set()

    async def hand_back(self) -> None:
        """Leave what the gate loaded to Ollama's own timers again, if Ollama still has it."""
        try:
            async with asyncio.timeout(HAND_BACK_S):
                for name in self._engines:
                    await self._look(name)
                ours = [runner for runner in self.snapshot().runners if self._is_ours(runner)]
                await asyncio.gather(*(self._let_expire(runner) for runner in ours))
        except TimeoutError:
            _engine.warning("not all models handed back", after_s=HAND_BACK_S)

    def _is_ours(self, runner: RunnerView) -> bool:
        upstream = self._machine.books[runner.bin].bin.upstream
        resident = runner.state is RunnerState.RESIDENT and self._answers[upstream].is_set()
        return resident and (runner.bin, runner.model) in self._ours

    async def _let_expire(self, runner: RunnerView) -> None:
        upstream = self._machine.books[runner.bin].bin.upstream
        try:
            await self._engines[upstream].let_expire(runner.name, runner.launch)
        except UpstreamError as error:
            _engine.warning("not handed back", model=runner.name, reason=str(error))

    async def close(self) -> None:
        """End every task and the timer."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
                self._forward(command)
            case Refuse():
                self._refuse(command)
            case Load():
                self._note_load(command)
                self._spawn(self._carry_out_load(command))
            case Warn():
                self._note_partial(command)
            case Prewarm():
                # Nothing here can read an upstream's files.
                pass
            case Unload():
                self._note_unload(command)
                self._spawn(self._carry_out_unload(command))
            case _:
                assert_never(command)

    def _forward(self, command: Forward) -> None:
        ticket = self._tickets.get(command.id)
        # Its client may have gone in this very instant; `Left` is on its way then.
        if ticket is not None and not ticket.granted.done():
            ticket.granted_at = asyncio.get_running_loop().time()
            ticket.granted.set_result(
                Grant(
                    bin=command.bin,
                    queued_s=command.queued_s,
                    load_s=command.load_s,
                    num_ctx=command.num_ctx,
                    offload=command.offload,
                )
            )
            request = ticket.request
            _queue.debug("forward", id=command.id, model=request.name, queued_s=command.queued_s)

    def _refuse(self, command: Refuse) -> None:
        ticket = self._tickets.get(command.id)
        if ticket is not None and not ticket.granted.done():
            ticket.granted.set_exception(RefusedError(command))
            self._decided(
                _queue,
                "refuse",
                reason=command.reason.value,
                model=ticket.request.name,
                id=command.id,
                waiting=len(self._machine.line),
            )

    def _remember(self, request_id: RequestId, ticket: _Ticket) -> None:
        granted = ticket.granted
        if granted.cancelled() or not granted.done():
            granted.cancel()
            fate = "left while waiting"
        elif (error := granted.exception()) is not None:
            fate = f"refused: {error}"
        elif ticket.withdrawn:
            fate = "withdrawn"
        else:
            fate = "ended"
        self._ended[request_id] = fate
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def _note_load(self, command: Load) -> None:
        self._decided(
            _scheduler,
            "load",
            model=command.name,
            bin=command.bin,
            footprint=log.size(command.footprint_bytes),
            free="unknown" if command.free_bytes is None else log.size(command.free_bytes),
            alone=command.alone,
            waited_s=command.waited_s,
        )
        if command.missing_bytes:
            _scheduler.warning(
                "it will be on the CPU in part: there is not more",
                model=command.name,
                missing=log.size(command.missing_bytes),
            )

    def _note_partial(self, command: Warn) -> None:
        there = command.there_bytes
        self._decided(
            _scheduler,
            "offload",
            model=command.name,
            bin=command.bin,
            on_cpu=round(command.share, 2),
            wants=log.size(command.wanted_bytes),
            there="unknown" if there is None else log.size(there),
        )
        _scheduler.warning("a part of a model is on the CPU; it is slow", model=command.name)

    def _note_unload(self, command: Unload) -> None:
        match command.reason:
            case Evicted() as reason:
                self._decided(
                    _scheduler,
                    "evict",
                    model=command.name,
                    idle_s=reason.idle_s,
                    **{"for": reason.for_model},
                    shortfall=reason.shortfall,
                )
            case Expired() as reason:
                self._decided(
                    _scheduler,
                    "expire",
                    model=command.name,
                    idle_s=reason.idle_s,
                    keep_alive_s=reason.keep_alive_s,
                )
            case Offloaded() as reason:
                self._decided(
                    _scheduler,
                    "unload partial",
                    model=command.name,
                    on_cpu=round(reason.share, 2),
                    wants=log.size(reason.wanted_bytes),
                    load_again=reason.again,
                )
            case Broken() as reason:
                self._decided(_scheduler, "unload broken", model=command.name, sign=reason.sign)
            case _:
                assert_never(command.reason)

    def _decided(self, logger: log.Log, what: str, **fields: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.decisions.append(Decision(at=now, what=what, fields=fields))
        logger.info(what, **fields)

    # ---------------------------------------------------------------- the tasks it starts

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _failed(error)

    def _engine_of(self, bin_id: BinId) -> tuple[str, Engine]:
        upstream = self._machine.books[bin_id].bin.upstream
        return upstream, self._engines[upstream]

    async def _carry_out_load(self, command: Load) -> None:
        upstream, engine = self._engine_of(command.bin)
        began = asyncio.get_running_loop().time()
        if self._witness is not None:
            self._witness.load_began(command.bin, command.model, command.launch, began)
        outcome: ev.Loaded | ev.LoadFailed | ev.Interrupted
        try:
            interrupted = ev.Interrupted()
            outcome = await self._unless_it_restarts(upstream, engine.load(command), interrupted)
        except Exception as error:  # noqa: BLE001  a load without an end would block its bin for ever
            _failed(error)
            outcome = ev.LoadFailed(status=500, text=f"the gate could not load it: {error!r}")
        now = asyncio.get_running_loop().time()
        took_s = now - began
        if self._witness is not None:
            if isinstance(outcome, ev.Loaded):
                self._witness.loaded(command.bin, command.model, took_s, now)
            else:
                self._witness.load_failed(command.bin, command.model, now)
        match outcome:
            case ev.Loaded():
                taken = outcome.footprint_bytes or command.footprint_bytes
                _engine.info("loaded", model=command.name, s=took_s, footprint=log.size(taken))
                self._ours.add((command.bin, command.model))
            case ev.LoadFailed():
                _engine.error(
                    "load failed",
                    model=command.name,
                    s=took_s,
                    reason=outcome.text,
                    out_of_memory=outcome.oom,
                )
            case ev.Interrupted():
                _engine.warning("load interrupted", model=command.name, s=took_s)
                self._upstream_lost(upstream, "it stopped answering during a load")
            case _:
                assert_never(outcome)
        self._tell(ev.LoadEnded(bin=command.bin, model=command.model, outcome=outcome))
        if isinstance(outcome, ev.LoadFailed) and outcome.oom:
            # Ollama has evicted everything else: nothing goes on before it has been asked.
            self.nudge(upstream)

    async def _carry_out_unload(self, command: Unload) -> None:
        upstream, engine = self._engine_of(command.bin)
        began = asyncio.get_running_loop().time()
        if self._witness is not None:
            self._witness.unload_began(command.bin, began)
        try:
            gone = await self._unless_it_restarts(upstream, engine.unload(command), False)
        except Exception as error:  # noqa: BLE001  nor may an unload be without an end
            _failed(error)
            gone = False
        _engine.info("unloaded" if gone else "unload not seen", model=command.name)
        if not gone:
            self._upstream_lost(upstream, "it stopped answering during an unload")
        elif self._witness is not None:
            now = asyncio.get_running_loop().time()
            self._witness.unloaded(command.bin, command.model, now - began, now)
        self._tell(ev.UnloadEnded(bin=command.bin, model=command.model, gone=gone))

    async def _unless_it_restarts(
        self, upstream: str, work: Coroutine[Any, Any, _Outcome], otherwise: _Outcome
    ) -> _Outcome:
        """How `work` ends; `otherwise` once the upstream is back after it had gone.

        What was asked of it before will never be answered, even if its connection still stands.
        """
        came_back = self._came_back[upstream]
        working = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(came_back.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else otherwise
        finally:
            for task in (working, waiting):
                task.cancel()
            await asyncio.wait({working, waiting})

    async def _watch(self, upstream: str) -> None:
        while True:
            try:
                await self._look(upstream)
            except Exception as error:  # noqa: BLE001  who stops looking is blind for ever
                _failed(error)
            pause_s = WATCH_S if self._answers[upstream].is_set() else WATCH_AWAY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._nudges[upstream].wait()
            self._nudges[upstream].clear()

    async def _look(self, upstream: str) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            residents = await self._engines[upstream].residents()
        except UpstreamSilentError as error:
            # Some engines keep `/api/ps` waiting for as long as they load.
            if self._machine.loading(upstream) is None:
                self._upstream_lost(upstream, str(error))
            return
        except UpstreamError as error:
            self._upstream_lost(upstream, str(error))
            return
        if asked_at < self._lost_at[upstream]:
            # It was given before the upstream went, and only read afterwards.
            return
        self._answers[upstream].set()
        if not self._healthy[upstream]:
            names = ", ".join(resident.name for resident in residents) or "nothing"
            _monitor.info("upstream answers", upstream=upstream, resident=names)
            self._came_back[upstream].set()
            self._came_back[upstream] = asyncio.Event()
        self._healthy[upstream] = True
        self._tell(ev.Observed(upstream=upstream, residents=residents, asked_at=asked_at))

    def _upstream_lost(self, upstream: str, reason: str) -> None:
        self._tell(ev.UpstreamLost(upstream=upstream))
        self._lost_at[upstream] = asyncio.get_running_loop().time()
        self._answers[upstream].clear()
        if self._healthy[upstream] is not False:
            _monitor.warning("upstream does not answer; waiting for it", reason=reason)
        self._healthy[upstream] = False


def _failed(error: BaseException) -> None:
    """A fault of the gate's own, at the top of one of its tasks."""
    _scheduler.error("a task of the gate failed", error=repr(error), exc_info=error)
