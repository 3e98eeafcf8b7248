"""One upstream's models, read ahead: whether that can help, what came of it, and who is told.

A hint may come as often as it likes; the same again, soon after, costs nothing.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from ollama_gate import gpu, log
from ollama_gate.errors import PrewarmError
from ollama_gate.footprint import Facts
from ollama_gate.prewarm.files import Blob, opened, stores
from ollama_gate.prewarm.pages import cached_share, read_in, room_bytes
from ollama_gate.prewarm.reader import Reader, Stop
from ollama_gate.scheduler.types import ModelKey

CACHED: Final = 0.95
"""From this share on a file counts as being in the page cache."""

AGAIN_S: Final = 30.0
"""For so long what came of a hint is believed; the page cache is not asked again."""

REMEMBERED: Final = 100
"""Of how many models that is remembered."""

_engine = log.get(log.Component.ENGINE)


class Outcome(Enum):
    """What came of a hint."""

    READ = "read"
    CACHED = "cached"
    NO_ROOM = "no_room"
    UNREADABLE = "unreadable"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one, and how.

    Attributes:
        size_bytes: of all its files.
        read_bytes: of them, what was read.
        problem: why it could not be read.
    """

    outcome: Outcome
    size_bytes: int = 0
    read_bytes: int = 0
    problem: str = ""


@dataclass(slots=True)
class Tally:
    """How often each outcome came, and how much was read."""

    read: int = 0
    cached: int = 0
    no_room: int = 0
    unreadable: int = 0
    stopped: int = 0
    read_bytes: int = 0

    def add(self, result: Result) -> None:
        """Count one."""
        name = result.outcome.value
        setattr(self, name, getattr(self, name) + 1)
        self.read_bytes += result.read_bytes


@dataclass(slots=True)
class _Reading:
    model: ModelKey
    name: str
    stop: Stop = field(default_factory=Stop)


SHARED: Final = "the card shares main memory, and Ollama loads past the page cache"
"""As on Linux with an integrated CUDA or ROCm card: `--load-mode dio` (v0.32.15
llm/llama_server.go)."""


def why_not(mode: str, url: str) -> str:
    """Why reading ahead cannot help an upstream; empty where it can.

    Args:
        mode: `prewarm` of gate.yaml.
        url: the upstream's.
    """
    if mode == "off":
        return "turned off by prewarm: off"
    if not gpu.is_here(url):
        return "the upstream is on another machine"
    return "" if hasattr(os, "RWF_NOWAIT") else "only Linux tells what is in its page cache"


class Prewarmer:
    """Reads ahead for one upstream.

    Args:
        reader: of this machine, shared with its other upstreams.
        upstream: what to call it in the log.
        off: why reading ahead cannot help it; empty where it can.
        places: where to look for files that are not where the upstream says.
        room: by how many bytes the page cache may grow.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        upstream: str,
        off: str = "",
        places: Sequence[Path] | None = None,
        room: Callable[[], int] = room_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader = reader
        self._upstream = upstream
        self._off = off
        self._places = stores() if places is None else places
        self._room = room
        self._clock = clock
        self._tally = Tally()
        self._problem = ""
        self._warned: set[Outcome] = set()
        self._reading: _Reading | None = None
        self._until: OrderedDict[ModelKey, float] = OrderedDict()
        if off:
            self._say_off()

    def turn_off(self, reason: str) -> None:
        """It has turned out that reading ahead cannot help; the first reason stands."""
        if not self._off:
            self._off = reason
            if self._reading is not None:
                self._reading.stop.now()
            self._say_off()

    def _say_off(self) -> None:
        _engine.info("no prewarming", upstream=self._upstream, reason=self._off)

    async def warm(self, facts: Facts) -> None:
        """Read a model's files, unless that is idle; whatever goes wrong is only counted.

        Another model that is still being read for this upstream is given up.
        """
        if self._off or self._is_settled(facts.key):
            return
        if self._reading is not None:
            if self._reading.model == facts.key:
                return
            self._reading.stop.now()
        reading = self._reading = _Reading(facts.key, facts.name)
        began = self._clock()
        try:
            result = await self.reader.run(lambda stop: self._read(facts, stop), reading.stop)
        finally:
            if self._reading is reading:
                self._reading = None
        self._note(facts, result or Result(outcome=Outcome.STOPPED), self._clock() - began)

    def status(self) -> dict[str, Any]:
        """For `/gate/status`: whether it is on, why not, what is being read, what came of it."""
        return {
            "on": not self._off,
            "reason": self._off or None,
            "reading": None if self._reading is None else self._reading.name,
            **asdict(self._tally),
            "problem": self._problem or None,
        }

    def _is_settled(self, model: ModelKey) -> bool:
        return self._until.get(model, self._clock()) > self._clock()

    def _note(self, facts: Facts, result: Result, took_s: float) -> None:
        self._tally.add(result)
        if result.outcome is Outcome.STOPPED:
            self._until.pop(facts.key, None)
        else:
            self._until[facts.key] = self._clock() + AGAIN_S
            self._until.move_to_end(facts.key)
            if len(self._until) > REMEMBERED:
                self._until.popitem(last=False)
        self._problem = result.problem
        if result.outcome in {Outcome.READ, Outcome.CACHED}:
            self._warned.clear()
        if result.problem and result.outcome not in self._warned:
            # What is wrong with one file is as a rule wrong with all.
            self._warned.add(result.outcome)
            _engine.warning("not prewarmed", model=facts.name, reason=result.problem)
        if result.read_bytes:
            _engine.info(
                "prewarm",
                model=facts.name,
                size=log.size(result.size_bytes),
                read=log.size(result.read_bytes),
                s=round(took_s, 3),
                outcome=result.outcome.value,
            )

    # ---------------------------------------------------------------- on a thread

    def _read(self, facts: Facts, stop: Stop) -> Result:
        try:
            with opened(facts.files, facts.disk_bytes, self._places) as blobs:
                return self._read_opened(blobs, stop)
        except PrewarmError as error:
            return Result(outcome=Outcome.UNREADABLE, problem=str(error))
        except OSError as error:
            problem = f"its files cannot be read here: {error.strerror}"
            return Result(outcome=Outcome.UNREADABLE, problem=problem)

    def _read_opened(self, blobs: Sequence[Blob], stop: Stop) -> Result:
        size_bytes = sum(blob.size_bytes for blob in blobs)
        shares = [(blob, cached_share(blob) or 0.0) for blob in blobs]
        missing = [(blob, share) for blob, share in shares if share < CACHED]
        if not missing:
            return Result(outcome=Outcome.CACHED, size_bytes=size_bytes)
        wanted_bytes = round(sum(blob.size_bytes * (1 - share) for blob, share in missing))
        there_bytes = self._room()
        if wanted_bytes > there_bytes:
            problem = (
                f"{log.size(wanted_bytes)} would not fit into main memory, "
                f"which has {log.size(there_bytes)} to spare"
            )
            return Result(outcome=Outcome.NO_ROOM, size_bytes=size_bytes, problem=problem)
        to_read = [blob for blob, _ in missing]
        read_bytes, full = read_in(to_read, stopped=lambda: stop.came, room=self._room)
        outcome = Outcome.STOPPED if stop.came else Outcome.READ
        return Result(
            outcome=Outcome.NO_ROOM if full else outcome,
            size_bytes=size_bytes,
            read_bytes=read_bytes,
        )
