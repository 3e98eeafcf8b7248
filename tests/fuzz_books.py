"""What a scheduler has been told and has commanded, written down by somebody else.

Books for a judge: they are filled from the events in and the commands out alone, so that a mistake
of the scheduler cannot vouch for itself. They know no policy and judge nothing.

Where the books cannot tell they are lenient: a runner that may be no more is `doubtful`, an
upstream of which nobody knows what is left is not `open`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Broken, Command, Forward, Load, Offloaded, Refuse, Unload
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Policy,
    Request,
    RequestId,
    Upstream,
)

Key = tuple[BinId, ModelKey]


@dataclass(slots=True, kw_only=True, eq=False)
class Fate:
    """What became of a request: `waiting`, `running`, `refused`, `over`.

    Attributes:
        sequence: in which order it joined.
        welcome: limits do not count it: it was accepted before, or there was a slot for it, though
            that may be drained in the same instant.
        served_at: when it started, or was over without; `inf` while it waits.
        passed_over: how many loads in a bin, or starts on a runner, others had before it since it
            was first in line there for sure.
    """

    request: Request
    sequence: int
    state: str = "waiting"
    welcome: bool = False
    served_at: float = math.inf
    passed_over: dict[BinId | Key, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Told:
    """What is known of a runner: `loading`, `ready`, `unloading`.

    Attributes:
        owes: for whom it was loaded; `None` as soon as it has served anybody, or need not.
        doubtful: it may be no more, or not be as it should be, so that it need not serve.
        beside_bytes: what others used of its bin when its load began, `None` if nobody knows.
    """

    key: Key
    launch: Launch
    num_ctx: int | None
    bytes: int
    reported_bytes: int
    parallel: int
    state: str
    since: float
    ready_at: float = 0.0
    load_s: float = 0.0
    served: int = 0
    owes: RequestId | None = None
    doubtful: bool = False
    beside_bytes: int | None = None
    pinned: bool = False
    running: set[RequestId] = field(default_factory=set)


@dataclass(slots=True, kw_only=True, eq=False)
class Host:
    """An upstream, what nobody knows of it for the moment, and whether it ever held a pin."""

    upstream: Upstream
    heard: bool = False
    unsure_since: float | None = None
    pinned: bool = False

    @property
    def open(self) -> bool:
        """Whether anything may be asked of it."""
        return self.heard and self.unsure_since is None


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """What a bin's memory was last seen to be."""

    bin: Bin
    total_bytes: int | None = None
    used_bytes: int | None = None
    most_used_bytes: int = 0


class Books:
    """Enter an event with `book`, each command with `enter`; ask the rest."""

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy
    ) -> None:
        self.policy = policy
        self.hosts = {upstream.name: Host(upstream=upstream) for upstream in upstreams}
        self.readings = {bin_.id: Reading(bin=bin_) for bin_ in bins}
        self.fates: dict[RequestId, Fate] = {}
        self.waiting: dict[RequestId, Fate] = {}
        self.running: dict[RequestId, Fate] = {}
        self.runners: dict[Key, Told] = {}
        self.gone_at: dict[Key, float] = {}
        self.gone_bytes: dict[Key, int] = {}
        self.load_times: dict[ModelKey, list[float]] = {}
        self.ran_out: dict[tuple[BinId, ModelKey, Launch], int] = {}
        self.ran_out_at: dict[Key, float] = {}
        self.loads = self.loads_excused = self.count = 0
        self.now = 0.0
        self.closed = False

    # ---------------------------------------------------------------- questions

    def host_of(self, bin_id: BinId) -> Host:
        return self.hosts[self.readings[bin_id].bin.upstream]

    def on_host(self, host: Host) -> list[Told]:
        return [t for t in self.runners.values() if self.host_of(t.key[0]) is host]

    def in_bin(self, bin_id: BinId) -> list[Told]:
        return [told for told in self.runners.values() if told.key[0] == bin_id]

    def loading_at(self, host: Host) -> Told | None:
        return next((told for told in self.on_host(host) if told.state == "loading"), None)

    def suits(self, told: Told, request: Request) -> bool:
        """Ollama's rule for the few options that these histories know."""
        bin_id, model = told.key
        if bin_id not in request.needs or model != request.model:
            return False
        return self._enough_context(told, request) and self._same_layers(told, request)

    @staticmethod
    def _enough_context(told: Told, request: Request) -> bool:
        if request.least_ctx is not None and told.num_ctx is not None:
            return told.num_ctx >= request.least_ctx
        return told.launch.num_ctx == request.launch.num_ctx or told.num_ctx == request.num_ctx

    def _same_layers(self, told: Told, request: Request) -> bool:
        if request.launch.num_gpu == 0:
            return told.launch.num_gpu == 0
        return told.launch.num_gpu != 0 or self.readings[told.key[0]].bin.cpu

    def serves(self, told: Told, request: Request) -> bool:
        """Whether a request may be sent to it now, if it has a free slot."""
        ready = told.state == "ready" and not told.doubtful
        return ready and self.host_of(told.key[0]).open and self.suits(told, request)

    def homes(self, request: Request) -> list[Told]:
        return [told for told in self.runners.values() if self.serves(told, request)]

    def promised(self, request: Request) -> bool:
        """Whether something is resident or being loaded that suits a request."""
        return any(
            told.state in {"ready", "loading"} and self.suits(told, request)
            for told in self.runners.values()
        )

    def waits_for(self, told: Told) -> Iterator[Fate]:
        return (fate for fate in self.waiting.values() if self.suits(told, fate.request))

    def virtual_deadline(self, request: Request) -> float:
        """Nobody is overdue before it; it never changes."""
        return request.arrived_at + self.policy.tau_s[request.priority]

    def surely_overdue_at(self, request: Request) -> float:
        """From then on it is overdue whatever the load."""
        caps = self.policy.tau_cap_s
        return request.arrived_at + max(caps[request.priority], self.policy.tau_s[request.priority])

    def deadline_at(self, request: Request) -> float:
        """When it must not wait any more."""
        longest_s = self.policy.queue_max_wait_s or math.inf
        return min(request.deadline_at, request.arrived_at + longest_s)

    def place(self, fate: Fate) -> tuple[float, float, int]:
        """Where an overdue one stands: by its virtual deadline, then by age."""
        request = fate.request
        return self.virtual_deadline(request), request.arrived_at, fate.sequence

    def surely_first(self, fates: Sequence[Fate]) -> Fate | None:
        """Who of them stands before all others now and for ever, if that is certain."""
        first = min(fates, key=self.place, default=None)
        if first is None or self.now < self.surely_overdue_at(first.request):
            return None
        return first

    # ---------------------------------------------------------------- events

    # One line an event.
    def book(self, event: ev.Event, now: float) -> None:  # noqa: C901
        """What an event says; before the commands that answer it."""
        self.now = now
        match event:
            case ev.Arrived(request=request):
                self._arrived(request)
            case ev.Left(id=request_id):
                self._left(request_id)
            case ev.LoadEnded():
                self._load_ended(event)
            case ev.UnloadEnded():
                self._unload_ended(event)
            case ev.Measured():
                self._measured(event)
            case ev.ReadingLost(bin=bin_id):
                # The most that was seen is believed on.
                self.readings[bin_id].used_bytes = None
            case ev.RunnerDied():
                self._runner_died(event)
            case ev.Observed():
                self._observed(event)
            case ev.UpstreamLost(upstream=name):
                self.hosts[name].heard = False
            case ev.Closing():
                self.closed = True
            case ev.Cancelled() | ev.Released() | ev.Ticked():
                pass

    def _arrived(self, request: Request) -> None:
        self.count += 1
        free = any(len(told.running) < told.parallel for told in self.homes(request))
        welcome = request.accepted or free
        fate = Fate(request=request, sequence=self.count, welcome=welcome)
        self.fates[request.id] = self.waiting[request.id] = fate

    def _left(self, request_id: RequestId) -> None:
        fate = self.fates[request_id]
        fate.state, fate.served_at = "over", min(fate.served_at, self.now)
        self.waiting.pop(request_id, None)
        self.running.pop(request_id, None)
        for told in self.runners.values():
            told.running.discard(request_id)

    def _load_ended(self, event: ev.LoadEnded) -> None:
        told = self.runners[event.bin, event.model]
        host = self.host_of(event.bin)
        if isinstance(event.outcome, ev.Loaded):
            self._loaded(told, event.outcome)
            return
        self.loads_excused += 1
        if isinstance(event.outcome, ev.LoadFailed) and event.outcome.oom:
            host.unsure_since = self.now
            self.ran_out[event.bin, event.model, told.launch] = told.bytes
            self.ran_out_at[told.key] = self.now
        self._gone(told)

    def _loaded(self, told: Told, loaded: ev.Loaded) -> None:
        told.load_s = self.now - told.since
        self.load_times.setdefault(told.key[1], []).append(told.load_s)
        told.state, told.since, told.ready_at = "ready", self.now, self.now
        if loaded.footprint_bytes is not None:
            told.bytes = loaded.footprint_bytes
            told.reported_bytes = loaded.reported_bytes or 0
        if loaded.num_ctx is not None:
            told.num_ctx = loaded.num_ctx
        if loaded.size_bytes is not None and told.launch.num_gpu != 0:
            told.doubtful = told.doubtful or loaded.size_bytes > (loaded.reported_bytes or 0)
        if loaded.reported_bytes is not None:
            self.ran_out.pop((*told.key, told.launch), None)
        if told.owes is None or self.fates[told.owes].state != "waiting":
            told.owes = None

    def _unload_ended(self, event: ev.UnloadEnded) -> None:
        told = self.runners[event.bin, event.model]
        if event.gone:
            self._gone(told)
        else:
            told.state, told.since = "ready", self.now

    def _gone(self, told: Told) -> None:
        del self.runners[told.key]
        self.gone_at[told.key], self.gone_bytes[told.key] = self.now, told.bytes

    def _measured(self, event: ev.Measured) -> None:
        reading = self.readings[event.bin]
        before = reading.used_bytes
        before = reading.most_used_bytes if before is None else before
        shown = sum(t.reported_bytes for t in self.in_bin(event.bin) if t.state == "ready")
        reading.total_bytes, reading.used_bytes = event.total_bytes, event.used_bytes
        reading.most_used_bytes = max(before, event.used_bytes)
        if event.used_bytes < shown:
            # It may be taken for the sign that one of them is no more.
            for told in self.in_bin(event.bin):
                told.doubtful = True

    def _runner_died(self, event: ev.RunnerDied) -> None:
        for told in list(self.runners.values()):
            if event.id in told.running:
                host = self.host_of(told.key[0])
                for each in self.on_host(host) if event.oom else [told]:
                    each.doubtful = each.doubtful or each.state == "ready"

    def _observed(self, event: ev.Observed) -> None:
        host = self.hosts[event.upstream]
        host.heard = True
        if host.unsure_since is not None and host.unsure_since <= event.asked_at:
            host.unsure_since = None
        listed = {(resident.bin, resident.model): resident for resident in event.residents}
        for told in self.on_host(host):
            if told.state == "ready" and told.since < event.asked_at:
                if told.key in listed:
                    self._compare(told, listed[told.key])
                else:
                    self._gone(told)
        for key, resident in listed.items():
            if key not in self.runners and self.gone_at.get(key, -math.inf) < event.asked_at:
                self._adopt(key, resident)

    @staticmethod
    def _compare(told: Told, resident: ev.Resident) -> None:
        told.bytes, told.reported_bytes = resident.footprint_bytes, resident.reported_bytes
        if resident.num_ctx is not None and resident.num_ctx != told.num_ctx:
            told.launch, told.num_ctx = resident.launch, resident.num_ctx
        if resident.size_bytes is not None and resident.size_bytes > resident.reported_bytes:
            told.doubtful = told.launch.num_gpu != 0 or told.doubtful

    def _adopt(self, key: Key, resident: ev.Resident) -> None:
        self.runners[key] = Told(
            key=key,
            launch=resident.launch,
            num_ctx=resident.num_ctx,
            bytes=resident.footprint_bytes,
            reported_bytes=resident.reported_bytes,
            parallel=resident.parallel,
            state="ready",
            since=self.now,
            ready_at=self.now,
            pinned=resident.pinned,
        )
        if resident.size_bytes is not None and resident.size_bytes > resident.reported_bytes:
            self.runners[key].doubtful = resident.launch.num_gpu != 0

    # ---------------------------------------------------------------- commands

    def enter(self, command: Command) -> None:
        """What a command makes true at once."""
        match command:
            case Load():
                self._load(command)
            case Unload():
                told = self.runners[command.bin, command.model]
                told.state, told.since = "unloading", self.now
                if isinstance(command.reason, Offloaded | Broken):
                    self.loads_excused += 1
            case Forward():
                self._forward(command)
            case Refuse():
                self.fates[command.id].state = "refused"
                self.waiting.pop(command.id, None)
            case _:
                pass

    def _load(self, command: Load) -> None:
        self.loads += 1
        request = self.fates[command.for_request].request.at(command.bin)
        key = command.bin, command.model
        here = sum(told.bytes for told in self.in_bin(command.bin))
        # What has just left may still be there.
        here += sum(self.gone_bytes[k] for k, at in self.gone_at.items() if self.now < at + 10.0)
        host = self.host_of(command.bin)
        host.pinned = host.pinned or request.pinned
        self.runners[key] = Told(
            key=key,
            launch=command.launch,
            num_ctx=command.launch.num_ctx or request.num_ctx,
            beside_bytes=max(here, self.readings[command.bin].most_used_bytes),
            bytes=command.footprint_bytes,
            reported_bytes=command.footprint_bytes,
            parallel=request.parallel,
            state="loading",
            since=self.now,
            owes=command.for_request,
            pinned=request.pinned,
        )

    def _forward(self, command: Forward) -> None:
        fate = self.running[command.id] = self.waiting.pop(command.id)
        fate.state, fate.served_at = "running", self.now
        told = self.runners[command.bin, fate.request.model]
        told.served += 1
        told.owes = None
        told.running.add(command.id)
