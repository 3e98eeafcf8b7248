"""Ollama's own scheduler as it is, faults and all (v0.32.15 server/sched.go).

Requests for a loaded model that fits them go straight to it. All others stand in one queue and
are taken one at a time: whoever is taken holds up the rest until its model runs or has failed.
Where something must go first it waits for *an* unload; a victim that gets a new `keep_alive`
meanwhile never goes, and everybody behind waits for ever. None of this is to be made better here.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace

from ollama_gate.simulator.bodies import FOREVER_NS
from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.catalog import Model
from ollama_gate.simulator.clock import NS, Clock
from ollama_gate.simulator.context import RequestContext
from ollama_gate.simulator.faults import Counters, Faults
from ollama_gate.simulator.options import Launch
from ollama_gate.simulator.placing import Plan, plan_load, spread
from ollama_gate.simulator.runner import Placement, Runner
from ollama_gate.simulator.settings import Settings
from ollama_gate.simulator.truth import recovery_s

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
OUT_OF_MEMORY = (
    "llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory\n"
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size {size}\n"
    "error loading model: unable to allocate CUDA0 buffer"
)

OUT_OF_MEMORY_LATE = (
    "llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory\n"
    "llama_init_from_model: failed to initialize the context: "
    "failed to allocate buffer for kv cache"
)

_MODELS_PER_CARD = 3
_RECOVERY_LIMIT_S = 5.0
_RECOVERY_POLL_S = 0.25
_RECOVERED = 0.75  # of the runner's bytes, seen free
_EXPIRY_RETRY_S = 0.01
_MIN_RETRY_WALL_S = 0.001  # however fast the clock runs, others get their turn
_OOM_WORDS = (
    "out of memory",
    "out of device memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "allocation failed",
    "not enough memory",
    "insufficient memory",
    "vk_error_out_of_device_memory",
    "erroroutofmemory",
)


class QueueFullError(Exception):
    """OLLAMA_MAX_QUEUE requests already wait for a load."""


class LoadError(Exception):
    """The model could not be loaded; the text is Ollama's."""


class LoadAbortedError(Exception):
    """The request that wanted the model is gone."""


@dataclass(eq=False, slots=True, kw_only=True)
class Ticket:
    """One request's wish for a runner.

    Attributes:
        keep_alive_ns: what the request says; `None` where it says nothing.
        granted: the runner, or why there is none.
        oom_retried: a load for it failed for want of memory and is tried once more.
    """

    context: RequestContext
    model: Model
    launch: Launch
    keep_alive_ns: int | None
    granted: asyncio.Future[Runner]
    oom_retried: bool = False

    def refuse(self, error: Exception) -> None:
        """Tell the request that it gets no runner."""
        if not self.granted.done():
            self.granted.set_exception(error)
            self.granted.exception()  # whoever asked may be gone: then nobody else looks at it

    def grant(self, runner: Runner) -> None:
        """Hand it the runner."""
        if not self.granted.done():
            self.granted.set_result(runner)


@dataclass(slots=True)
class Scheduler:
    """Runs from `start` to `stop`; everything happens on the event loop it was started on."""

    settings: Settings
    clock: Clock
    cards: tuple[Card, ...]
    faults: Faults
    counters: Counters
    loaded: dict[str, Runner] = field(default_factory=dict)
    loading: Model | None = None
    _max_runners: int = 0
    _pending: deque[Ticket] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _events: asyncio.Queue[Ticket | Runner] = field(default_factory=asyncio.Queue)
    _unloaded: asyncio.Semaphore | None = None  # None: nobody waits, unloads are not noted
    _killing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Start both loops."""
        self._max_runners = self.settings.max_loaded
        self._spawn(self._process_pending())
        self._spawn(self._process_completed())

    async def stop(self) -> None:
        """End everything at once, runners included."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in self.loaded.values():
            _stop_timer(runner)
            runner.die("unexpected EOF")
            self.counters.journal.append(("lost", runner.model.name))
        self.loaded.clear()
        for card in self.cards:
            card.held_bytes.clear()

    @property
    def waiting(self) -> int:
        """How many stand in the queue; the one being served is not among them."""
        return len(self._pending)

    async def changed(self) -> None:
        """Wait until a runner comes or goes."""
        await self._changed.wait()

    async def acquire(self, ticket: Ticket) -> Runner:
        """A runner for the request: at once where one is loaded that fits, else by the queue.

        Raises:
            QueueFullError: see there.
            LoadError: see there.
            LoadAbortedError: see there.
        """
        runner = self.loaded.get(ticket.model.blob_path)
        if runner is not None and not self._killing.locked() and not needs_reload(runner, ticket):
            self._use(runner, ticket)
        elif len(self._pending) >= self.settings.max_queue:
            self.counters.rejected += 1
            raise QueueFullError(QUEUE_FULL)
        else:
            self._pending.append(ticket)
            self._arrived.set()
        return await asyncio.shield(ticket.granted)

    def expire(self, model: Model) -> None:
        """Let the model go as soon as it is idle: what `keep_alive: 0` without a prompt does."""
        runner = self.loaded.get(model.blob_path)
        if runner is not None:
            runner.expires_at_s = self.clock.now()
            self._let_go(runner)

    def expire_all_for_oom(self, text: str) -> None:
        """After memory ran out in an answer: let every model go as soon as it is idle."""
        if is_out_of_memory(text):
            for runner in list(self.loaded.values()):
                self._let_go(runner)

    def expires_in_s(self, runner: Runner) -> float:
        """Seconds until the runner goes, as `/api/ps` would tell; past is negative."""
        if runner.expires_at_s is None:
            return runner.session_ns / NS
        return runner.expires_at_s - self.clock.now()

    # -- the pending loop: one request at a time ------------------------------------------

    async def _process_pending(self) -> None:
        while True:
            while not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            ticket = self._pending.popleft()
            if not ticket.context.is_over:
                self._unloaded = asyncio.Semaphore(0)
                await self._serve(ticket)
                self._unloaded = None

    async def _serve(self, ticket: Ticket) -> None:
        """Stay with one request until its model runs or has failed."""
        while True:
            async with self._killing:
                runner = self.loaded.get(ticket.model.blob_path)
            if runner is not None:
                if not needs_reload(runner, ticket):
                    self._use(runner, ticket)
                    return
                victim: Runner | None = runner
            elif 0 < self._max_runners <= len(self.loaded):
                victim = self._victim()
            elif not await self._load(ticket):
                return
            elif ticket.oom_retried:
                await self._evict_all(but=ticket.model.blob_path)
                continue
            else:
                victim = self._victim()
            if victim is not None:
                self._let_go(victim)
                await self._an_unload()

    async def _an_unload(self) -> None:
        """Wait until some runner, whichever, was unloaded."""
        assert self._unloaded is not None
        await self._unloaded.acquire()

    async def _evict_all(self, *, but: str) -> None:
        others = [runner for key, runner in self.loaded.items() if key != but]
        for runner in others:
            self._let_go(runner)
        for _ in others:
            await self._an_unload()

    def _victim(self) -> Runner | None:
        """The idle one with the shortest keep_alive, then by path; if none is idle, of all."""
        by_order = sorted(self.loaded.values(), key=lambda r: (r.session_ns, r.key))
        idle = (runner for runner in by_order if runner.refs == 0)
        return next(idle, by_order[0] if by_order else None)

    def _let_go(self, runner: Runner) -> None:
        _stop_timer(runner)
        runner.session_ns = 0
        if runner.refs <= 0:
            self._events.put_nowait(runner)

    def _use(self, runner: Runner, ticket: Ticket) -> None:
        runner.refs += 1
        _stop_timer(runner)
        if ticket.keep_alive_ns is not None:
            # This also undoes an eviction that waits for the runner to become idle.
            runner.session_ns = ticket.keep_alive_ns
        ticket.grant(runner)
        ticket.context.on_end(lambda: self._events.put_nowait(ticket))

    # -- the completed loop: finished requests, expiries, unloads --------------------------

    async def _process_completed(self) -> None:
        while True:
            match await self._events.get():
                case Ticket() as ticket:
                    self._finished(ticket)
                case Runner() as runner:
                    await self._expired(runner)

    def _finished(self, ticket: Ticket) -> None:
        runner = self.loaded.get(ticket.model.blob_path)
        if runner is None:
            return
        runner.refs -= 1
        if runner.refs > 0:
            return
        if runner.session_ns <= 0:
            _stop_timer(runner)
            self._events.put_nowait(runner)
        else:
            self._start_timer(runner)

    def _start_timer(self, runner: Runner) -> None:
        _stop_timer(runner)
        session_s = runner.session_ns / NS
        runner.expires_at_s = self.clock.now() + session_s
        if runner.session_ns < FOREVER_NS:
            runner.timer = asyncio.get_running_loop().call_later(
                self.clock.wall_s(session_s), self._events.put_nowait, runner
            )

    async def _expired(self, runner: Runner) -> None:
        if runner.refs > 0:
            self._spawn(self._expire_later(runner))
            return
        if self.loaded.get(runner.key) is not runner:
            return
        _stop_timer(runner)
        free_before = sum(self._free_by_card())
        async with self._killing:
            await self.clock.sleep(self.settings.unload_s)
            runner.died.set()
            del self.loaded[runner.key]
            self.counters.unloads += 1
            self.counters.journal.append(("unload", runner.model.name))
            self._note_change()
        self._spawn(self._vacate_later(runner))
        await self._recovery(runner, free_before)
        if self._unloaded is not None:
            self._unloaded.release()

    async def _expire_later(self, runner: Runner) -> None:
        await asyncio.sleep(max(_MIN_RETRY_WALL_S, self.clock.wall_s(_EXPIRY_RETRY_S)))
        self._events.put_nowait(runner)

    async def _vacate_later(self, runner: Runner) -> None:
        await self.clock.sleep(recovery_s(self.settings, self.counters.unloads))
        runner.vacate()

    async def _recovery(self, runner: Runner, free_before: int) -> None:
        """Wait until most of the memory seems to be back, at most five seconds.

        Ollama compares two readings of different kinds, and in unsigned arithmetic: where less
        is free now than was reckoned before, it believes that everything has come back.
        """
        if not runner.placement.cards:
            return
        deadline_s = self.clock.now() + _RECOVERY_LIMIT_S
        while self.clock.now() < deadline_s:
            await self.clock.sleep(_RECOVERY_POLL_S)
            if any(self._reckoned(card) is None for card in self.cards):
                await self.clock.sleep(self.settings.discovery_s)
            gained = (sum(self._free_by_card()) - free_before) % 2**64
            if gained > _RECOVERED * runner.placement.vram_bytes:
                return

    # -- loading ---------------------------------------------------------------------------

    async def _load(self, ticket: Ticket) -> bool:
        """Try to load; whether something must be evicted first. Failures go to the ticket."""
        free = await self._look_at_cards(ticket.launch)
        if self._max_runners <= 0:
            self._max_runners = _MODELS_PER_CARD * max(1, len(self.cards))
        plan = self._plan(ticket, free)
        if self.loaded and plan.must_evict:
            return True
        self.loading = ticket.model
        try:
            await self._run_load(ticket, plan)
        except LoadError as error:
            self.counters.failed_loads += 1
            return self._retry_after(ticket, error)
        except LoadAbortedError as error:
            self.counters.failed_loads += 1
            ticket.refuse(error)
        finally:
            self.loading = None
        return False

    def _retry_after(self, ticket: Ticket, error: LoadError) -> bool:
        """Whether a load that failed is tried again, after everything else went."""
        if not ticket.oom_retried and is_out_of_memory(str(error)):
            lower = self._lower_context(ticket)
            if lower is not None:
                ticket.launch = replace(ticket.launch, num_ctx=lower)
                ticket.oom_retried = True
                return True
            if self.loaded:
                ticket.oom_retried = True
                return True
        ticket.refuse(error)
        return False

    def _lower_context(self, ticket: Ticket) -> int | None:
        context = min(ticket.launch.num_ctx, ticket.model.shape.train_context)
        if ticket.launch.num_ctx_auto:
            for tier in (32768, 4096):
                if context > tier:
                    return tier
        return None

    async def _look_at_cards(self, launch: Launch) -> tuple[int, ...]:
        """What Ollama believes each card has free; empty where none is wanted."""
        if launch.num_gpu == 0 or not self.cards:
            return ()
        if any(self._reckoned(card) is None for card in self.cards):
            await self.clock.sleep(self.settings.discovery_s)
        return tuple(
            max(0, min(free, card.total_bytes - self._held_on(card)))
            for free, card in zip(self._free_by_card(), self.cards, strict=True)
        )

    def _free_by_card(self) -> tuple[int, ...]:
        """A runner's reckoning where one is on the card, else what the card says now."""
        reckoned = ((self._reckoned(card), card) for card in self.cards)
        return tuple(card.free_bytes if free is None else free for free, card in reckoned)

    def _reckoned(self, card: Card) -> int | None:
        for runner in self.loaded.values():
            if (free := runner.placement.reckoned_free(card)) is not None:
                return free
        return None

    def _held_on(self, card: Card) -> int:
        return sum(
            size
            for runner in self.loaded.values()
            for held, size in runner.placement.cards
            if held is card
        )

    def _plan(self, ticket: Ticket, free: tuple[int, ...]) -> Plan:
        return plan_load(
            ticket.model,
            ticket.launch,
            self.settings,
            cards=self.cards,
            free=free,
        )

    async def _run_load(self, ticket: Ticket, plan: Plan) -> None:
        text = self.faults.load_failure(ticket.model.name)
        self.faults.begins_to_load(ticket.model.name)
        placement = spread(plan)
        if placement is None:
            failure = OUT_OF_MEMORY.format(size=plan.need.weights_bytes)
            raise await self._load_failure(ticket, failure)
        try:
            await self._started(ticket, plan, placement, text)
        except LoadError as error:
            placement = spread(plan, encoder_on_card=False)
            if not plan.need.encoder_bytes or not is_out_of_memory(str(error)) or not placement:
                raise
            # An encoder is tried on the CPU before anybody is told.
            await self._started(ticket, plan, placement, text)

    async def _started(
        self, ticket: Ticket, plan: Plan, placement: Placement, failure: str | None
    ) -> None:
        placement = self._as_read(ticket.model, placement)
        runner = self._runner(ticket, plan, placement)
        need = placement.footprint
        runner.occupy(need.weights_bytes / need.total_bytes)
        registered = False
        try:
            await self._bring_up(ticket, failure)
            if not runner.grow():
                raise LoadError(OUT_OF_MEMORY_LATE)
            self._register(ticket, runner)
            registered = True
            self.faults.has_loaded(ticket.model.name)
        finally:
            if not registered:
                self._spawn(self._vacate_later(runner))

    def _as_read(self, model: Model, placement: Placement) -> Placement:
        """With what Ollama reads of its size, where that is told to be absurd."""
        absurd = self.faults.misread(model.name)
        if absurd is None:
            return placement
        return replace(placement, shown=absurd / placement.footprint.total_bytes)

    async def _bring_up(self, ticket: Ticket, failure: str | None) -> None:
        if failure is not None:
            raise await self._load_failure(ticket, failure)
        transfer_s = ticket.model.disk_bytes / self.settings.load_bandwidth
        half_s = (self.settings.load_start_s + transfer_s) / 2
        for _ in range(2):
            if not await ticket.context.outlasts(self.clock.sleep(half_s)):
                raise LoadAbortedError("request canceled")
            self.faults.half_loaded(ticket.model.name)

    async def _load_failure(self, ticket: Ticket, text: str) -> LoadError | LoadAbortedError:
        if await ticket.context.outlasts(self.clock.sleep(self.settings.load_start_s)):
            return LoadError(text)
        return LoadAbortedError("request canceled")

    def _runner(self, ticket: Ticket, plan: Plan, placement: Placement) -> Runner:
        session_ns = ticket.keep_alive_ns
        if session_ns is None:
            configured = self.settings.keep_alive_s
            session_ns = FOREVER_NS if configured < 0 else int(configured * NS)
        return Runner(
            model=ticket.model,
            launch=plan.launch,
            placement=placement,
            parallel=plan.parallel,
            clock=self.clock,
            faults=self.faults,
            neighbours=self._busy_beside,
            noticed=self._note_change,
            session_ns=session_ns,
        )

    def _register(self, ticket: Ticket, runner: Runner) -> None:
        self.loaded[runner.key] = runner
        self.counters.loads += 1
        self.counters.journal.append(("load", runner.model.name))
        if runner.is_offloaded:
            self.counters.offloaded_loads += 1
        runner.refs += 1
        ticket.grant(runner)
        ticket.context.on_end(lambda: self._events.put_nowait(ticket))
        self._note_change()

    def _busy_beside(self, runner: Runner) -> int:
        """How many runners share the processor now, this one included."""
        mine = {id(card) for card, _ in runner.placement.cards}
        return 1 + sum(
            other is not runner
            and other.running > 0
            and mine == {id(card) for card, _ in other.placement.cards}
            for other in self.loaded.values()
        )

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_out_of_memory(text: str) -> bool:
    """Whether Ollama reads a text as lost memory (v0.32.15 llm/status.go)."""
    return any(words in text.lower() for words in _OOM_WORDS)


def needs_reload(runner: Runner, ticket: Ticket) -> bool:
    """Whether the runner cannot serve the request as it was started (`needsReload`).

    Asymmetric: what the request leaves open takes whatever is there, a number of GPU layers
    even where the runner was started with none.
    """
    if runner.died.is_set() or runner.launch.shift != ticket.launch.shift:
        return True
    old, new = runner.launch, ticket.launch
    num_ctx = min(new.num_ctx, runner.model.shape.train_context)
    if old.num_ctx_auto and new.num_ctx_auto:
        num_ctx = old.num_ctx
    num_batch = old.num_batch if old.num_batch_auto and new.num_batch_auto else new.num_batch
    # Mapping that Ollama itself turned off is no difference to a request that is silent on it.
    use_mmap = new.use_mmap
    if use_mmap is None and not runner.placement.cards:
        use_mmap = old.use_mmap
    return (
        num_ctx != old.num_ctx
        or num_batch != old.num_batch
        or (new.num_gpu >= 0 and new.num_gpu != old.num_gpu)
        or use_mmap != old.use_mmap
        or new.main_gpu != old.main_gpu
        or new.num_thread != old.num_thread
        or new.draft_num_predict != old.draft_num_predict
    )


def _stop_timer(runner: Runner) -> None:
    if runner.timer is not None:
        runner.timer.cancel()
        runner.timer = None
