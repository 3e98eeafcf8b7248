"""Notes at hand for the event loop, and on the disk a moment later.

Every note is in memory; what has changed is written on a thread, in batches. A disk that is full
or cannot be written is warned of once and tried again, and nothing else changes meanwhile.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ollama_gate import log
from ollama_gate.errors import StateError, StoreError
from ollama_gate.store.database import NAME, Database
from ollama_gate.store.lock import Lock
from ollama_gate.store.notes import Note, NoteId

BATCH_S: Final = 1.0
"""How long changes are collected before they are written."""

AGAIN_S: Final = 30.0
"""How long after a failure the next try is made."""

_system = log.get(log.Component.SYSTEM)


class Keeper:
    """Notes of one directory. `open` before anything else, `close` in the end.

    Args:
        directory: made if it is not there; `~` is expanded.
        batch_s: how long changes are collected.
        again_s: how long after a failure the next try is made.
    """

    def __init__(
        self, directory: Path, *, batch_s: float = BATCH_S, again_s: float = AGAIN_S
    ) -> None:
        self._directory = directory
        self._batch_s = batch_s
        self._again_s = again_s
        self._notes: dict[NoteId, Note] = {}
        self._changed: set[NoteId] = set()
        self._lock: Lock | None = None
        self._database: Database | None = None
        self._writing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._failed = False
        self._closed = False

    # ---------------------------------------------------------------- what callers ask

    async def open(self) -> None:
        """Hold the directory and read what is there.

        Raises:
            StateError: another gate holds it, or a newer one has written it.
        """
        try:
            self._notes = {note.id: note for note in await self._found()}
        except StateError:
            await asyncio.to_thread(self._end)
            raise

    async def _found(self) -> list[Note]:
        try:
            return await asyncio.to_thread(self._begin)
        except StoreError as error:
            self._warn(error)
        return await asyncio.to_thread(self._peek)

    def notes(self, upstream: str) -> Iterator[Note]:
        """Every note of an upstream."""
        return (note for note in self._notes.values() if note.id.upstream == upstream)

    def put(self, note: Note) -> None:
        """Keep a note, instead of one of the same name."""
        self._notes[note.id] = note
        self._change(note.id)

    def drop(self, id_: NoteId) -> None:
        """Forget a note, if it is there."""
        if self._notes.pop(id_, None) is not None:
            self._change(id_)

    async def flush(self) -> bool:
        """Write what has changed; false if that is not possible now."""
        async with self._writing:
            changed, self._changed = self._changed, set()
            # After a failure all is written: nobody knows what is there by then.
            names = set(self._notes) | changed if self._database is None else changed
            try:
                whole = await asyncio.to_thread(
                    self._write, {name: self._notes.get(name) for name in names}
                )
                if not whole:
                    everything = dict(self._notes)
                    await asyncio.to_thread(self._write, everything)
            except (StoreError, StateError) as error:
                self._changed |= changed
                self._warn(error)
                return False
        if self._failed:
            self._failed = False
            _system.info("state is kept again", directory=str(self._directory))
        return True

    async def close(self) -> None:
        """Write what is left, and let the directory go."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        if self._changed:
            await self.flush()
        await asyncio.to_thread(self._end)

    # ---------------------------------------------------------------- when it writes

    def _change(self, id_: NoteId) -> None:
        self._changed.add(id_)
        self._arm(self._again_s if self._failed else self._batch_s)

    def _arm(self, after_s: float) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._rings)

    def _rings(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._turn())

    async def _turn(self) -> None:
        written = await self.flush()
        self._timer = None
        if not written:
            self._arm(self._again_s)
        elif self._changed:
            self._arm(self._batch_s)

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            _system.warning(
                "what is learned is kept in memory only, until the disk can be written",
                directory=str(self._directory),
                reason=str(error),
            )
        self._failed = True

    # ---------------------------------------------------------------- on a thread

    def _begin(self) -> list[Note]:
        try:
            path = self._path()
            if self._lock is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._lock = Lock.take(path.parent)
            self._lock.sign()
        except (OSError, RuntimeError) as error:
            raise StoreError(str(error)) from error
        database = Database(path)
        try:
            found = database.open()
        except BaseException:
            database.close()
            raise
        self._database = database
        return found

    def _peek(self) -> list[Note]:
        try:
            return Database(self._path()).peek()
        except (StoreError, OSError, RuntimeError):
            return []

    def _write(self, changes: Mapping[NoteId, Note | None]) -> bool:
        if self._database is None:
            self._begin()
        assert self._database is not None, "it has begun"
        try:
            return self._database.write(changes)
        except StoreError:
            self._database.close()
            self._database = None
            raise

    def _end(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _path(self) -> Path:
        # Without a home `~` cannot be expanded, which is a RuntimeError.
        return self._directory.expanduser() / NAME
