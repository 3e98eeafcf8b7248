"""What really happens on a card and on a disk: answers share the one, loads the other.

Everything moves at a speed that changes only when something begins or ends. So it is enough to
know, after each such change, how far everybody has come and who ends next. Nothing here knows
who decides.
"""

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from ollama_gate.scheduler.types import BinId, Priority
from ollama_gate.simulator.discrete.workload import (
    CardSpec,
    ModelSpec,
    Physics,
    UpstreamSpec,
    load_s,
)


class Phase(Enum):
    """Where a runner is in its life."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    """Asked to go, still listed."""
    LEAVING = "leaving"
    """No longer listed, its memory not yet back."""
    GONE = "gone"


class Outcome(Enum):
    """How a request ended."""

    SERVED = "served"
    GAVE_UP = "gave up"
    """Its client left while it waited."""
    CUT = "cut"
    """Its client left in the midst of the answer."""
    REFUSED = "refused"
    FAILED = "failed"
    """Its model could not be loaded, or it was sent where its model was not."""
    UNSERVED = "unserved"
    """The run was cut off before, or nothing would ever have happened any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One request, from its arrival to its end.

    Attributes:
        agent: of whose loop it is, and which step; `None` where nobody waits for it to end.
        ends_with: the work that its runner has done for each answer when this one is complete.
        why: in words, if it was refused or failed.
    """

    number: int
    model: ModelSpec
    priority: Priority
    client: str
    work_s: float
    arrived_at: float
    deadline_s: float = math.inf
    patience_s: float = math.inf
    cut_s: float = math.inf
    agent: tuple[int, int] | None = None
    runner: "Runner | None" = None
    started_at: float | None = None
    ended_at: float | None = None
    ends_with: float = 0.0
    outcome: Outcome | None = None
    why: str = ""

    @property
    def waits(self) -> bool:
        """Whether it neither ended nor has a slot."""
        return self.outcome is None and self.started_at is None


@dataclass(slots=True, kw_only=True, eq=False)
class Runner:
    """One model on one card.

    Attributes:
        free_at_load_bytes: what the card had free when its load was ordered: Ollama remembers it.
        rate: how fast each of its answers proceeds, 1 being alone on an idle card of speed 1.
        done: how much work each answer would have had that runs since it was ready.
        ends: when its answers end, in `done`; those that were cut are still among them.
        read_share: how much of it was read, while it is loaded.
    """

    bin: BinId
    model: ModelSpec
    phase: Phase
    since: float
    free_at_load_bytes: int
    rate: float = 0.0
    done: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    running: dict[int, Ticket] = field(default_factory=dict)
    read_share: float = 0.0

    @property
    def listed(self) -> bool:
        """Whether `/api/ps` has it."""
        return self.phase in {Phase.READY, Phase.UNLOADING}

    @property
    def held_bytes(self) -> int:
        """What it really takes at the moment."""
        if self.phase is Phase.LOADING:
            return int(self.model.footprint_bytes * self.read_share)
        return 0 if self.phase is Phase.GONE else self.model.footprint_bytes

    @property
    def free_slots(self) -> int:
        """How many more answers may begin."""
        return self.model.parallel - len(self.running) if self.phase is Phase.READY else 0


class Card:
    """One bin: who holds its memory, and how fast answers on it proceed.

    Attributes:
        foreign_bytes: what others want of it; they have as much of that as there is.
        version: goes up whenever an end that was foretold no longer holds.
        foreign_read_bytes: what the last reading said of others that was not blurred by a load.
        reads: the last readings, the latest last, as far as they were alike.
    """

    def __init__(
        self, bin_id: BinId, spec: CardSpec, upstream: UpstreamSpec, physics: Physics
    ) -> None:
        self.id = bin_id
        self.spec = spec
        self.upstream = upstream.name
        self.remembers_free = upstream.remembers_free
        self.runners: list[Runner] = []
        self.foreign_bytes = 0
        self.foreign_read_bytes = 0
        self.last_read_bytes = -1
        self.reads_alike = 0
        self.reading_at = math.inf
        self.version = 0
        self._physics = physics
        self._busy: dict[int, Runner] = {}
        self._at = 0.0
        self._batch = [0.0, 1.0]

    @property
    def moving(self) -> bool:
        """Whether a load or an unload is under way."""
        return any(runner.phase is not Phase.READY for runner in self.runners)

    @property
    def leaving(self) -> bool:
        """Whether somebody's memory is about to come back."""
        return any(runner.phase in {Phase.UNLOADING, Phase.LEAVING} for runner in self.runners)

    @property
    def loading(self) -> bool:
        """Whether it is being loaded to."""
        return any(runner.phase is Phase.LOADING for runner in self.runners)

    @property
    def held_bytes(self) -> int:
        """What runners take, in whatever phase they are."""
        return sum(runner.held_bytes for runner in self.runners)

    @property
    def used_bytes(self) -> int:
        """What a reading says."""
        return min(self.spec.total_bytes, self.held_bytes + self.foreign_bytes)

    def advance(self, now: float) -> None:
        """Let everybody proceed until now."""
        passed_s = now - self._at
        if passed_s > 0.0:
            for runner in self._busy.values():
                runner.done += runner.rate * passed_s
        self._at = now

    def begin(self, runner: Runner, ticket: Ticket) -> None:
        """Let an answer begin; call `advance` before and `retime` after."""
        if not runner.running:
            runner.done, runner.ends = 0.0, []
            self._busy[id(runner)] = runner
        runner.running[ticket.number] = ticket
        ticket.ends_with = runner.done + ticket.work_s
        heapq.heappush(runner.ends, (ticket.ends_with, ticket.number))

    def end(self, runner: Runner, ticket: Ticket) -> None:
        """Let an answer end, complete or not; call `advance` before and `retime` after."""
        del runner.running[ticket.number]
        if not runner.running:
            del self._busy[id(runner)]

    def retime(self) -> tuple[float, Runner] | None:
        """Work out all speeds anew; when the next answer ends, and on which runner."""
        self.version += 1
        if not self._busy:
            return None
        speed = self.spec.speed / math.pow(len(self._busy), self._physics.sharing)
        if self.loading:
            speed *= self._physics.loading_speed
        next_s, next_runner = math.inf, None
        for runner in self._busy.values():
            runner.rate = speed * self._share(len(runner.running))
            left_s = (self._first_end(runner) - runner.done) / runner.rate
            if left_s < next_s:
                next_s, next_runner = left_s, runner
        assert next_runner is not None, "somebody is busy"
        return self._at + max(0.0, next_s), next_runner

    def first_to_end(self, runner: Runner) -> Ticket:
        """Whose answer is the next to be complete on a runner, and is so now."""
        ends_with = self._first_end(runner)
        runner.done = max(runner.done, ends_with)
        return runner.running[runner.ends[0][1]]

    def _first_end(self, runner: Runner) -> float:
        ends = runner.ends
        while ends[0][1] not in runner.running:
            heapq.heappop(ends)
        return ends[0][0]

    def _share(self, count: int) -> float:
        """The speed of each of so many answers on one runner."""
        while len(self._batch) <= count:
            self._batch.append(math.pow(len(self._batch), self._physics.batching - 1.0))
        return self._batch[count]


class PageCache:
    """What of the models' files is in memory; the least recently read goes first."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._cached: OrderedDict[str, int] = OrderedDict()

    def of(self, model: ModelSpec) -> int:
        """How much of a model's file is there, in bytes."""
        return self._cached.get(model.name, 0)

    def keep(self, model: ModelSpec, read_bytes: int) -> None:
        """So much of a file has been read just now; a file larger than the memory is not kept."""
        kept = max(read_bytes, self._cached.pop(model.name, 0))
        if kept > self._size_bytes:
            return
        self._cached[model.name] = kept
        while sum(self._cached.values()) > self._size_bytes:
            self._cached.popitem(last=False)


@dataclass(slots=True, kw_only=True, eq=False)
class Reading:
    """One file that is being read: for a load, or ahead of one."""

    model: ModelSpec
    runner: Runner | None
    whole_s: float
    cached_bytes: int
    left_s: float

    @property
    def read_share(self) -> float:
        """How much of it was read, 0 to 1."""
        return 1.0 - self.left_s / self.whole_s if self.whole_s > 0.0 else 1.0


class Disk:
    """What an upstream reads models from: loads at the same time share it.

    Attributes:
        version: goes up whenever an end that was foretold no longer holds.
        readings: what is being read.
    """

    def __init__(self, upstream: UpstreamSpec) -> None:
        self.upstream = upstream
        self.cache = PageCache(upstream.page_cache_bytes)
        self.readings: list[Reading] = []
        self.version = 0
        self._at = 0.0

    def advance(self, now: float) -> None:
        """Let everybody read on until now."""
        if self.readings:
            each_s = (now - self._at) / len(self.readings)
            for reading in self.readings:
                reading.left_s = max(0.0, reading.left_s - each_s)
                if reading.runner is not None:
                    reading.runner.read_share = reading.read_share
        self._at = now

    def begin(self, model: ModelSpec, runner: Runner | None) -> Reading:
        """Begin to read a model; call `advance` before and `next_end` after."""
        cached = self.cache.of(model)
        whole_s = load_s(model, self.upstream, cached_bytes=cached) - model.start_s
        reading = Reading(
            model=model, runner=runner, whole_s=whole_s, cached_bytes=cached, left_s=whole_s
        )
        self.readings.append(reading)
        return reading

    def end(self, reading: Reading) -> None:
        """Stop reading, complete or not; call `advance` before and `next_end` after."""
        self.readings.remove(reading)
        rest = reading.model.weights_bytes - reading.cached_bytes
        self.cache.keep(reading.model, reading.cached_bytes + int(rest * reading.read_share))

    def is_read_ahead(self, model: ModelSpec) -> bool:
        """Whether a model is being read although nobody loads it yet."""
        return any(r.runner is None and r.model is model for r in self.readings)

    def next_end(self) -> tuple[float, Reading] | None:
        """Which reading is complete next, and when."""
        self.version += 1
        if not self.readings:
            return None
        first = min(self.readings, key=lambda reading: reading.left_s)
        return self._at + first.left_s * len(self.readings), first
