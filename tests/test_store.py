"""What outlives the process: through kills, full disks, broken files, other gates and versions."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ollama_gate
from ollama_gate.errors import StateError, StoreError
from ollama_gate.store import Keeper, Note, NoteId
from ollama_gate.store import keeper as keeping
from ollama_gate.store.database import NAME, SCHEMA, Database
from ollama_gate.store.lock import Lock
from tests.conftest import MakeOllama

LIMIT_S = 30.0
ROOT = str(Path(ollama_gate.__file__).parent.parent)
FULL = "database or disk is full"


def note(subject: str, value: Any = 1, *, upstream: str = "u") -> Note:
    return Note(id=NoteId(upstream, "topic", subject), value=value)


def values(keeper: Keeper, upstream: str = "u") -> dict[str, Any]:
    return {note.id.subject: note.value for note in keeper.notes(upstream)}


@contextlib.asynccontextmanager
async def kept(directory: Path, **more: Any) -> AsyncIterator[Keeper]:
    keeper = Keeper(directory, **more)
    await keeper.open()
    try:
        yield keeper
    finally:
        await keeper.close()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def as_changes(*notes: Note) -> Mapping[NoteId, Note | None]:
    return {one.id: one for one in notes}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


# ------------------------------------------------------------------------------- from life to life


async def test_what_was_kept_is_there_in_the_next_life(tmp_path: Path) -> None:
    async with kept(tmp_path / "not" / "there" / "yet") as keeper:
        assert values(keeper) == {}
        keeper.put(note("a", {"figures": {"4096": [1, 2, 3]}}))
        keeper.put(note("b"))
        keeper.put(note("b", 2))
        keeper.put(note("c"))
        keeper.drop(note("c").id)
        keeper.drop(note("never").id)
    async with kept(tmp_path / "not" / "there" / "yet") as keeper:
        assert values(keeper) == {"a": {"figures": {"4096": [1, 2, 3]}}, "b": 2}
        keeper.drop(note("a").id)
    async with kept(tmp_path / "not" / "there" / "yet") as keeper:
        assert values(keeper) == {"b": 2}


async def test_each_upstream_has_its_own(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.put(note("a", 1))
        keeper.put(note("a", 2, upstream="v"))
    async with kept(tmp_path) as keeper:
        assert (values(keeper), values(keeper, "v")) == ({"a": 1}, {"a": 2})


async def test_changes_are_written_together_and_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: asyncio.Queue[set[str]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    write = Database.write

    def noted(self: Database, changes: Mapping[NoteId, Note | None]) -> bool:
        done = write(self, changes)
        loop.call_soon_threadsafe(batches.put_nowait, {id_.subject for id_ in changes})
        return done

    monkeypatch.setattr(Database, "write", noted)
    async with kept(tmp_path, batch_s=0.0) as keeper, asyncio.timeout(LIMIT_S):
        keeper.put(note("a"))
        keeper.put(note("b"))
        assert await batches.get() == {"a", "b"}
        keeper.put(note("c"))
        assert await batches.get() == {"c"}


async def test_writing_is_done_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beside(self: Database, changes: object) -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return True

    async with kept(tmp_path) as keeper:
        monkeypatch.setattr(Database, "write", beside)
        keeper.put(note("a"))
        assert await keeper.flush()


# ------------------------------------------------------------------------------- kill -9

WRITES_FOR_EVER = """
import asyncio, pathlib, sys
from ollama_gate.store import Keeper, Note, NoteId

async def main():
    keeper = Keeper(pathlib.Path(sys.argv[1]), batch_s=3600.0)
    await keeper.open()
    number = 0
    while True:
        number += 1
        for subject in range(50):
            keeper.put(Note(id=NoteId("u", "t", str(subject)), value=[number, "x" * 500]))
        assert await keeper.flush()
        print(number, flush=True)

asyncio.run(main())
"""


async def python(code: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", code, *arguments),
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("batches", [1, 3, 40])
async def test_a_killed_gate_loses_nothing_that_was_written(tmp_path: Path, batches: int) -> None:
    writer = await python(WRITES_FOR_EVER, str(tmp_path))
    assert writer.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        last = 0
        for _ in range(batches):
            last = int(await writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest, _ = await writer.communicate()
    last = max([last, *map(int, rest.split())])
    async with kept(tmp_path) as keeper:
        numbers = {value[0] for value in values(keeper).values()}
        assert len(values(keeper)) == 50
        # The one that was under way may have come through: as a whole, or not at all.
        assert numbers in ({last}, {last + 1})
        assert not (tmp_path / f"{NAME}.broken").exists()


# ------------------------------------------------------------------------------- full disks

FILLS_ITS_DISK = """
import asyncio, pathlib, resource, sys
from ollama_gate.store import Keeper, Note, NoteId

async def main():
    keeper = Keeper(pathlib.Path(sys.argv[1]), batch_s=3600.0)
    await keeper.open()
    keeper.put(Note(id=NoteId("u", "t", "small"), value=1))
    assert await keeper.flush()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    keeper.put(Note(id=NoteId("u", "t", "large"), value="x" * 200_000))
    for _ in range(3):
        assert not await keeper.flush()
    assert len(list(keeper.notes("u"))) == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert await keeper.flush()
    await keeper.close()

asyncio.run(main())
"""


async def test_a_disk_that_fills_up_is_warned_of_once_and_used_again_later(tmp_path: Path) -> None:
    process = await python(FILLS_ITS_DISK, str(tmp_path))
    async with asyncio.timeout(LIMIT_S):
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    # Without a handler Python prints warnings alone.
    assert errors.decode().count("kept in memory only") == 1
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"small": 1, "large": "x" * 200_000}


async def test_what_cannot_be_written_is_tried_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    write = Database.write
    fails = iter([True, True, False])

    def sometimes(self: Database, changes: Mapping[NoteId, Note | None]) -> bool:
        failing = next(fails)
        loop.call_soon_threadsafe(tries.put_nowait, failing)
        if failing:
            raise StoreError(FULL)
        return write(self, changes)

    monkeypatch.setattr(Database, "write", sometimes)
    async with asyncio.timeout(LIMIT_S):
        async with kept(tmp_path, batch_s=0.0, again_s=0.0) as keeper:
            keeper.put(note("a"))
            assert [await tries.get() for _ in range(3)] == [True, True, False]
        async with kept(tmp_path) as keeper:
            assert values(keeper) == {"a": 1}
    assert len(warnings_of(caplog)) == 1
    assert FULL in caplog.text


async def test_what_was_dropped_while_nothing_could_be_written_stays_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Database, changes: object) -> bool:
        raise StoreError(FULL)

    async with kept(tmp_path) as keeper:
        keeper.put(note("a"))
        keeper.put(note("b"))
        assert await keeper.flush()
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", full)
            keeper.drop(note("a").id)
            assert not await keeper.flush()
        assert await keeper.flush()
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"b": 1}


async def test_without_a_directory_learning_goes_on_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    async with kept(in_the_way / "state") as keeper:
        keeper.put(note("a"))
        assert not await keeper.flush()
        assert values(keeper) == {"a": 1}
        in_the_way.unlink()
        assert await keeper.flush()
    assert len(warnings_of(caplog)) == 1
    async with kept(in_the_way / "state") as keeper:
        assert values(keeper) == {"a": 1}


async def test_a_home_that_cannot_be_told_is_a_disk_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", homeless)
    async with kept(Path("~/state")) as keeper:
        keeper.put(note("a"))
        assert not await keeper.flush()


async def test_what_can_only_be_read_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with kept(tmp_path) as keeper:
        keeper.put(note("a", 7))

    def read_only(self: Lock) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Lock, "sign", read_only)
    before = files(tmp_path)
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"a": 7}
        keeper.put(note("b"))
        assert not await keeper.flush()
    assert files(tmp_path) == before
    assert len(warnings_of(caplog)) == 1


# ------------------------------------------------------------------------------- broken files


async def test_a_broken_file_is_moved_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(b"this was never a database" * 100)
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {}
        keeper.put(note("a"))
    assert (tmp_path / f"{NAME}.broken").read_bytes().startswith(b"this was")
    assert len(warnings_of(caplog)) == 1
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"a": 1}


async def test_a_file_with_damage_inside_is_moved_aside(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        for number in range(400):
            keeper.put(note(str(number), "x" * 200))
    path = tmp_path / NAME
    whole = bytearray(path.read_bytes())
    whole[4096:20480] = b"\xff" * 16384
    path.write_bytes(whole)
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {}
        keeper.put(note("a"))
    assert (tmp_path / f"{NAME}.broken").exists()
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"a": 1}


async def test_a_file_that_breaks_under_a_running_gate_is_written_anew_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(tmp_path) as keeper:
        keeper.put(note("a"))
        assert await keeper.flush()
        database = keeper._database
        assert database is not None
        assert database._connection is not None
        database._connection.close()
        (tmp_path / NAME).write_bytes(b"no database" * 1000)
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
        database._connection = sqlite3.connect(
            tmp_path / NAME, isolation_level=None, check_same_thread=False
        )
        keeper.put(note("b"))
        assert await keeper.flush()
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"a": 1, "b": 1}


async def test_a_broken_file_that_cannot_be_moved_is_a_disk_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_bytes(b"this was never a database" * 100)

    def stuck(self: Path, target: object) -> Path:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", stuck)
    async with kept(tmp_path) as keeper:
        keeper.put(note("a"))
        assert not await keeper.flush()
        assert values(keeper) == {"a": 1}


async def test_a_note_that_says_nothing_is_passed_over(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.put(note("a"))
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection, connection:
        connection.execute("INSERT INTO notes VALUES ('u', 't', 'odd', '', '{')")
    async with kept(tmp_path) as keeper:
        assert values(keeper) == {"a": 1}


# ------------------------------------------------------------------------------- schemas


async def test_a_file_of_a_newer_gate_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with kept(tmp_path) as keeper:
        keeper.put(note("a"))
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {len(SCHEMA) + 1}")
    with pytest.raises(StateError, match=r"written by a newer ollama-gate \(schema 2"):
        await Keeper(tmp_path).open()
    # The directory is free again for whoever can read it.
    Lock.take(tmp_path).release()
    database = Database(tmp_path / NAME, schema=(*SCHEMA, "SELECT 1"))
    assert [one.id.subject for one in database.open()] == ["a"]
    database.close()


async def test_a_newer_file_is_refused_even_where_it_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")

    def read_only(self: Lock) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Lock, "sign", read_only)
    with pytest.raises(StateError, match="newer"):
        await Keeper(tmp_path).open()


def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / NAME
    older = Database(path)
    assert older.open() == []
    older.write(as_changes(note("a", 5)))
    older.close()
    newer = Database(path, schema=(*SCHEMA, "ALTER TABLE notes ADD COLUMN more TEXT"))
    assert newer.open() == [note("a", 5)]
    newer.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT more FROM notes").fetchall() == [(None,)]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / NAME
    older = Database(path)
    older.open()
    older.write(as_changes(note("a", 5)))
    older.close()
    steps = (*SCHEMA, "ALTER TABLE notes ADD COLUMN more TEXT", "no SQL at all")
    newer = Database(path, schema=steps)
    with pytest.raises(StoreError):
        newer.open()
    newer.close()
    again = Database(path)
    assert again.open() == [note("a", 5)]
    again.close()


# ------------------------------------------------------------------------------- one gate each


async def test_a_directory_is_held_by_one_gate_at_a_time(tmp_path: Path) -> None:
    async with kept(tmp_path) as first:
        first.put(note("a"))
        with pytest.raises(StateError, match=rf"in use by another gate \(process {os.getpid()}\)"):
            await Keeper(tmp_path).open()
        assert await first.flush()
    async with kept(tmp_path) as next_one:
        assert values(next_one) == {"a": 1}


async def test_a_gate_that_never_held_a_directory_does_not_write_into_anothers(
    tmp_path: Path,
) -> None:
    in_the_way = tmp_path / "state"
    in_the_way.touch()
    async with kept(in_the_way) as late:
        in_the_way.unlink()
        async with kept(in_the_way) as first:
            late.put(note("a"))
            assert not await late.flush()
            assert values(first) == {}
        assert await late.flush()


def test_a_lock_file_that_can_only_be_read_can_be_held(tmp_path: Path) -> None:
    Lock.take(tmp_path).release()
    real = os.open

    def read_only(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return real(str(path), flags, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", read_only)
        held = Lock.take(tmp_path)
        with pytest.raises(StateError):
            Lock.take(tmp_path)
        with pytest.raises(OSError, match="Errno"):
            held.sign()
    held.release()


async def gate(home: Path, config: Mapping[str, Any]) -> asyncio.subprocess.Process:
    (home / "gate.yaml").write_text(json.dumps(config))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ollama_gate", "serve"),
        cwd=home,
        env={**kept, "HOME": str(home), "PYTHONPATH": ROOT},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_second_gate_ends_at_once_and_says_who_is_there(
    tmp_path: Path, make_ollama: MakeOllama
) -> None:
    ollama = await make_ollama()
    config = {
        "listen": "127.0.0.1:0",
        "upstreams": [{"url": ollama.url, "gpus": [{"vram": "24GiB"}]}],
    }
    async with asyncio.timeout(LIMIT_S):
        first = await gate(tmp_path, config)
        assert first.stderr is not None
        while b"listening" not in await first.stderr.readline():
            pass
        second = await gate(tmp_path, config)
        _, errors = await second.communicate()
        assert second.returncode == 2
        assert f"in use by another gate (process {first.pid})" in errors.decode()
        first.send_signal(signal.SIGKILL)
        await first.communicate()
        # The kernel let go of what the killed one held.
        third = await gate(tmp_path, config)
        assert third.stderr is not None
        while b"listening" not in await third.stderr.readline():
            pass
        third.terminate()
        await third.communicate()
        assert third.returncode == 0
    assert (tmp_path / ".local/state/ollama-gate" / NAME).exists()


def test_the_default_pauses_are_a_second_and_half_a_minute() -> None:
    assert (keeping.BATCH_S, keeping.AGAIN_S) == (1.0, 30.0)
