"""The running gate's side of a trace: it notes what is over and writes it a moment later.

The event loop only ever appends to a list; a thread writes. If that fails, recording stops with
a warning, and nothing else changes: a trace is never worth a request. It refuses to wait for
anybody.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from ollama_gate import log
from ollama_gate.scheduler.types import Bin, BinId, ModelKey, Policy, Request, Upstream
from ollama_gate.trace import lines, pseudonyms

BATCH_S: Final = 1.0
"""How long lines are collected before they are written."""

BACKLOG_LINES: Final = 200_000
"""With so many unwritten lines the disk is given up: memory belongs to requests."""

KINDS: Final = 10_000
"""So many kinds are told apart; clients choose contexts and spellings, and memory has an end."""

CARD_STEP_BYTES: Final = 256 * 2**20
"""A reading is noted when others' share of it has changed by so much."""

_CLASSES: Final[Sequence[lines.Class]] = get_args(lines.Class)

_system = log.get(log.Component.SYSTEM)


class Recorder:
    """Writes one trace. `open` first, `close` in the end; in between, tell it what is over.

    Args:
        path: is appended to; `~` is expanded.
        wall: the time of day, in Unix seconds.
        batch_s: how long lines are collected.
    """

    def __init__(
        self, path: Path, *, wall: Callable[[], float] = time.time, batch_s: float = BATCH_S
    ) -> None:
        self._path = path
        self._wall = wall
        self._batch_s = batch_s
        self._encoder = msgspec.json.Encoder()
        self._lines: list[bytes] = []
        self._kinds: dict[object, int] = {}
        self._next_kind = 0
        self._seen: dict[BinId, tuple[int, int]] = {}
        self._pseudonyms = pseudonyms.Pseudonyms(b"")
        self._offset_s = 0.0
        self._file: FileIO | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self.recording = False

    async def open(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy
    ) -> None:
        """Begin a life. Warns, and records nothing, where the file cannot be written."""
        self._offset_s = self._wall() - asyncio.get_running_loop().time()
        try:
            self._pseudonyms = await asyncio.to_thread(self._prepare)
        except (OSError, RuntimeError) as error:
            # Without a home `~` cannot be expanded, which is a RuntimeError.
            self._give_up(error)
            return
        self.recording = True
        most = {upstream.name: upstream.max_loaded for upstream in upstreams}
        self._note(
            lines.Began(
                version=lines.VERSION,
                at=self._at(asyncio.get_running_loop().time()),
                bins=tuple(_place(bin_, most[bin_.upstream]) for bin_ in bins),
                policy=msgspec.to_builtins(policy),
            )
        )

    async def close(self) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await self._writing
        await self._flush()
        self.recording = False
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    # ---------------------------------------------------------------- what it is told

    def served(
        self, request: Request, bin_id: BinId, granted_at: float, now: float, *, completed: bool
    ) -> None:
        """A request that had a slot is over; times on the event loop's clock."""
        self._ended(
            request,
            "served" if completed else "cut",
            waited_s=granted_at - request.arrived_at,
            ran_s=now - granted_at,
            bin_id=bin_id,
        )

    def unserved(
        self,
        request: Request,
        outcome: Literal["left", "withdrawn", "refused"],
        now: float,
        reason: str | None,
    ) -> None:
        """A request is over that never had a slot."""
        self._ended(request, outcome, waited_s=now - request.arrived_at, reason=reason)

    def load_over(
        self, bin_id: BinId, model: ModelKey, seconds: float, now: float, *, ok: bool
    ) -> None:
        """A load is over, well or not."""
        at, took_s = self._at(now - seconds), _ms(seconds)
        self._note(lines.LoadLine(at=at, bin=bin_id, model=model, took_s=took_s, ok=ok))

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """An unload is over, and was seen to be."""
        at, took_s = self._at(now - seconds), _ms(seconds)
        self._note(lines.UnloadLine(at=at, bin=bin_id, model=model, took_s=took_s))

    def measured(self, bin_id: BinId, total_bytes: int, foreign_bytes: int, now: float) -> None:
        """A card was read; most readings say nothing new."""
        before = self._seen.get(bin_id)
        if before is not None:
            total, foreign = before
            if total == total_bytes and abs(foreign - foreign_bytes) < CARD_STEP_BYTES:
                return
        self._seen[bin_id] = total_bytes, foreign_bytes
        self._note(
            lines.Card(
                at=self._at(now),
                bin=bin_id,
                total_bytes=total_bytes,
                foreign_bytes=foreign_bytes,
            )
        )

    # ---------------------------------------------------------------- lines

    def _ended(
        self,
        request: Request,
        outcome: lines.Outcome,
        *,
        waited_s: float,
        ran_s: float | None = None,
        bin_id: BinId | None = None,
        reason: str | None = None,
    ) -> None:
        if not self.recording:
            return
        deadline_s = request.deadline_at - request.arrived_at
        self._note(
            lines.Asked(
                id=request.id,
                at=self._at(request.arrived_at),
                kind=self._kind(request),
                priority=_CLASSES[request.priority],
                outcome=outcome,
                waited_s=_ms(waited_s),
                client=self._pseudonyms.of(request.client),
                ran_s=None if ran_s is None else _ms(ran_s),
                bin=bin_id,
                reason=reason,
                deadline_s=_ms(deadline_s) if math.isfinite(deadline_s) else None,
            )
        )

    def _kind(self, request: Request) -> int:
        """The number of what it asks for; a new one is written before it is used."""
        takes = {str(bin_id): _takes(request, bin_id) for bin_id in request.needs}
        what = (
            request.model,
            request.name,
            request.num_ctx,
            request.pinned,
            # What was learned changes with every answer, and makes no other kind of it.
            tuple((b, t.footprint_bytes, t.predicted_bytes, t.parallel) for b, t in takes.items()),
        )
        known = self._kinds.get(what)
        if known is not None:
            return known
        if len(self._kinds) >= KINDS:
            # Those that still come are written once more, under new numbers.
            self._kinds.clear()
        self._kinds[what] = number = self._next_kind
        self._next_kind += 1
        self._note(
            lines.Kind(
                number=number,
                model=request.model,
                name=request.name,
                takes=takes,
                num_ctx=request.num_ctx,
                service_s=request.service_s,
                pinned=request.pinned,
            )
        )
        return number

    def _at(self, now: float) -> float:
        return _ms(now + self._offset_s)

    def _note(self, line: lines.AnyLine) -> None:
        if not self.recording:
            return
        self._lines.append(self._encoder.encode(line))
        if len(self._lines) >= BACKLOG_LINES:
            self._give_up(OSError(f"{len(self._lines)} lines could not be written in time"))
        elif self._timer is None and self._writing is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._batch_s, self._rings)

    # ---------------------------------------------------------------- the disk

    def _rings(self) -> None:
        self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._turn())

    async def _turn(self) -> None:
        await self._flush()
        self._writing = None
        if self._lines:
            self._timer = asyncio.get_running_loop().call_later(self._batch_s, self._rings)

    async def _flush(self) -> None:
        text, self._lines = b"".join(line + b"\n" for line in self._lines), []
        if not text:
            return
        try:
            await asyncio.to_thread(self._append, text)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.recording = False
        self._lines.clear()
        _system.warning(
            "arrivals are not recorded any more", trace=str(self._path), reason=str(error)
        )

    def _prepare(self) -> pseudonyms.Pseudonyms:
        self._path = self._path.expanduser()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what is not written at once would be tried again when the file is closed.
        self._file = file = self._path.open("a+b", buffering=0)
        if file.tell():
            # An earlier life may have been torn off in the middle of a line.
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        return pseudonyms.beside(self._path)

    def _append(self, text: bytes) -> None:
        assert self._file is not None, "lines are noted only while there is a file"
        left = memoryview(text)
        while left:
            left = left[self._file.write(left) :]


def _place(bin_: Bin, max_loaded: int) -> lines.Place:
    return lines.Place(
        bin=bin_.id,
        upstream=bin_.upstream,
        capacity_bytes=bin_.capacity_bytes,
        reserve_bytes=bin_.reserve_bytes,
        cpu=bin_.cpu,
        max_loaded=max_loaded,
    )


def _takes(request: Request, bin_id: BinId) -> lines.Takes:
    need = request.needs[bin_id]
    return lines.Takes(
        footprint_bytes=need.footprint_bytes,
        predicted_bytes=need.predicted_bytes,
        load_s=need.load_s,
        parallel=request.at(bin_id).parallel,
    )


def _ms(seconds: float) -> float:
    """Whole milliseconds: more would be noise, and twice as long a line."""
    return round(seconds, 3)
