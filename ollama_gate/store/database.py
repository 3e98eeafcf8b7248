"""Notes in one SQLite file. Every call blocks: call it off the event loop, one at a time.

With a write-ahead log a killed process loses nothing that was written and the file is whole; a
machine that loses its power may lose the last seconds. SQLite's errors become `StoreError` or
`StateError` here; of a file that is no database any more only its name is kept.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from ollama_gate import log
from ollama_gate.errors import StateError, StoreError
from ollama_gate.store.notes import Note, NoteId

NAME: Final = "learned.sqlite3"

SCHEMA: Final = (
    """
    CREATE TABLE notes (
        upstream TEXT NOT NULL,
        topic TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (upstream, topic, subject, detail)
    ) WITHOUT ROWID
    """,
)
"""One statement for each version of the schema, from the one before it. Only ever append."""

BUSY_S: Final = 2.0
"""How long somebody who looks into the file with another program is waited for."""

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PUT: Final = "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?)"
_DROP: Final = "DELETE FROM notes WHERE (upstream, topic, subject, detail) = (?, ?, ?, ?)"
_ALL: Final = "SELECT upstream, topic, subject, detail, value FROM notes"

_system = log.get(log.Component.SYSTEM)


class _BrokenError(Exception):
    """The file is damaged, or something else."""


class Database:
    """One file of notes.

    Args:
        path: its name; the directory must be there.
        schema: the statements that make it what it is.
    """

    def __init__(self, path: Path, *, schema: Sequence[str] = SCHEMA) -> None:
        self._path = path
        self._schema = tuple(schema)
        self._connection: sqlite3.Connection | None = None

    def open(self) -> list[Note]:
        """Open or make the file, bring it to the present schema, and read it.

        Raises:
            StateError: a newer gate has written it.
            StoreError: it cannot be had now; a later call may succeed.
        """
        try:
            with _translated():
                return self._open()
        except _BrokenError as error:
            self._move_aside(error)
        with _broken_is_an_error(), _translated():
            return self._open()

    def peek(self) -> list[Note]:
        """Read the file and leave it as it is, for one that cannot be written; raises as `open`."""
        if not self._path.exists():
            return []
        with _broken_is_an_error(), _translated():
            # Nobody else writes, so that nothing must be locked.
            name = f"{self._path.absolute().as_uri()}?immutable=1"
            with closing(sqlite3.connect(name, uri=True)) as connection:
                return _read(connection) if self._version(connection) else []

    def write(self, changes: Mapping[NoteId, Note | None]) -> bool:
        """Put these notes and drop those that are `None`, all or none; false if all was lost.

        A file that turns out to be broken is moved aside, and a new one begun without them.

        Raises:
            StoreError: nothing was written; a later call may succeed.
        """
        put = [(*id_, _text(note)) for id_, note in changes.items() if note is not None]
        drop = [id_ for id_, note in changes.items() if note is None]
        assert self._connection is not None, "open() comes first"
        try:
            with _translated(), self._transaction(self._connection) as connection:
                connection.executemany(_DROP, drop)
                connection.executemany(_PUT, put)
        except _BrokenError as error:
            self._move_aside(error)
            with _broken_is_an_error(), _translated():
                self._open()
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> list[Note]:
        self.close()
        connection = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._connection = connection
        version = self._version(connection)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        # Where there can be no write-ahead log (some network drives) nothing less will do.
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _BrokenError("it is damaged")
        if version < len(self._schema):
            self._migrate(connection, version)
        return _read(connection)

    def _version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(self._schema):
            raise StateError(
                f"{self._path} was written by a newer ollama-gate (schema {version}, this one "
                f"knows {len(self._schema)}); use that one, or another state_dir"
            )
        return int(version)

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        with self._transaction(connection):
            for statement in self._schema[version:]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(self._schema)}")
        if version:
            _system.info("state migrated", file=str(self._path), schema=len(self._schema))

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _move_aside(self, error: _BrokenError) -> None:
        self.close()
        aside = self._path.with_name(f"{self._path.name}.broken")
        _system.warning("state was broken, begun anew", moved_to=str(aside), reason=str(error))
        try:
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        except OSError as failure:
            raise StoreError(f"{self._path} is broken and cannot be moved: {failure}") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the error, the others say more of it.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BROKEN:
            raise _BrokenError(str(error)) from error
        raise StoreError(str(error)) from error
    except OSError as error:
        raise StoreError(str(error)) from error


@contextmanager
def _broken_is_an_error() -> Iterator[None]:
    try:
        yield
    except _BrokenError as error:
        raise StoreError(str(error)) from error


def _read(connection: sqlite3.Connection) -> list[Note]:
    notes = []
    for *name, text in connection.execute(_ALL):
        # Whatever cannot be read was not written by a gate.
        with suppress(ValueError, RecursionError):
            notes.append(Note(id=NoteId(*name), value=json.loads(text)))
    return notes


def _text(note: Note) -> str:
    return json.dumps(note.value, separators=(",", ":"))
