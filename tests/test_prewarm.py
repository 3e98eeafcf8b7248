"""Model files read ahead: which may be, how much is there already, and what ends it.

Files are real, and so is the page cache. Threads are in the test's hand where it matters when.
"""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ollama_gate.engine import Engine
from ollama_gate.errors import CardError, PrewarmError
from ollama_gate.footprint import Facts
from ollama_gate.gpu import Reading, SystemMemory
from ollama_gate.ollama import Ollama
from ollama_gate.prewarm import SHARED, Prewarmer, Reader, files, pages, prewarmer, why_not
from ollama_gate.prewarm.files import Blob, opened
from ollama_gate.prewarm.pages import cached_share, read_in, room_bytes
from ollama_gate.prewarm.reader import Stop
from ollama_gate.scheduler.commands import Load, Prewarm
from ollama_gate.scheduler.events import Loaded
from ollama_gate.scheduler.types import BinId, Launch, ModelKey, RequestId
from ollama_gate.simulator import SimulatedOllama
from tests.conftest import opened as opened_client
from tests.test_engine import registry_of

MIB = 2**20
LIMIT_S = 5.0
PLENTY = 2**40
FEW = 0.25
"""Whoever asks which pages are there makes some of them be there."""

EMBEDDER = "all-minilm"
HERE = BinId("local/0")


def name_of(digit: str) -> str:
    return f"sha256-{digit * 64}"


@dataclass
class Store:
    """A directory like Ollama's."""

    blobs: Path

    def put(self, digit: str = "a", size_bytes: int = 8 * MIB) -> Path:
        """A file that is on the disk, and not in the page cache where that can be had."""
        path = self.blobs / name_of(digit)
        path.write_bytes(os.urandom(size_bytes))
        cool(path)
        return path

    def facts(self, *paths: Path, beside: int = 1000) -> Facts:
        disk_bytes = sum(path.stat().st_size for path in paths) + beside
        return Facts(
            key=ModelKey(paths[0].name),
            name="a model",
            size_bytes=disk_bytes,
            files=tuple(map(str, paths)),
            disk_bytes=disk_bytes,
        )


def cool(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_up(path: Path) -> None:
    path.read_bytes()


def share_of(path: Path) -> float | None:
    with path.open("rb") as file:
        return cached_share(Blob(file.fileno(), path.stat().st_size))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    return Store(blobs)


@pytest.fixture
def cold(store: Store) -> Path:
    path = store.put()
    share = share_of(path)
    if share is None or share > FEW:
        pytest.skip("this file system cannot be cooled, or does not say")
    return path


# ---------------------------------------------------------------------------------- files


def test_files_are_read_where_the_upstream_says_that_they_are(store: Store) -> None:
    one, other = store.put("a"), store.put("b", MIB)
    with opened([str(one), str(other)], 9 * MIB + 5) as blobs:
        assert [blob.size_bytes for blob in blobs] == [8 * MIB, MIB]
        fds = [blob.fd for blob in blobs]
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_an_upstream_in_a_container_names_a_directory_of_its_own(store: Store) -> None:
    there = f"/nowhere/models/blobs/{store.put('a').name}"
    with opened([there], 8 * MIB, [store.blobs]) as (blob,):
        assert blob.size_bytes == 8 * MIB


@pytest.mark.parametrize(
    "named",
    [
        "/etc/passwd",
        f"/etc/{name_of('a')}",
        f"blobs/{name_of('a')}",
        f"/srv/blobs/../blobs/{name_of('a')}",
        "/srv/blobs/passwd",
        f"/srv/blobs/{name_of('a')}-partial",
        "llama3.2",
    ],
)
def test_what_lies_in_no_store_is_never_opened(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> int:
        raise AssertionError(named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", never)
        with pytest.raises(PrewarmError), opened([named], 1):
            pass


def test_neither_a_link_nor_a_pipe_nor_a_directory_is_a_model_file(
    store: Store, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * MIB)
    link, pipe, folder = (store.blobs / name_of(digit) for digit in "123")
    link.symlink_to(elsewhere)
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (link, pipe, folder):
        with pytest.raises(PrewarmError), opened([str(path)], MIB):
            pass


def test_a_file_that_may_not_be_read_says_so_wherever_else_it_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, open_ = store.put("a"), os.open

    def refuse(path: Any, *more: Any) -> int:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with (
            pytest.raises(PrewarmError, match="Permission denied"),
            opened([str(locked)], 8 * MIB, [store.blobs / "none"]),
        ):
            pass


def test_a_file_that_is_missing_says_so(store: Store) -> None:
    with (
        pytest.raises(PrewarmError, match="No such file"),
        opened([str(store.blobs / name_of("a"))], 1, [store.blobs]),
    ):
        pass


@pytest.mark.parametrize("disk_bytes", [0, 8 * MIB - 1, 8 * MIB + files.BESIDE_BYTES + 1])
def test_a_file_of_another_size_is_another_file(store: Store, disk_bytes: int) -> None:
    with (
        pytest.raises(PrewarmError, match="at the upstream"),
        opened([str(store.put())], disk_bytes),
    ):
        pass


def test_stores_are_where_ollama_would_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("OLLAMA_MODELS", "/srv/models")
    assert files.stores() == (
        Path("/srv/models/blobs"),
        Path("/home/somebody/.ollama/models/blobs"),
    )
    monkeypatch.delenv("OLLAMA_MODELS")
    assert files.stores() == (Path("/home/somebody/.ollama/models/blobs"),)


# ---------------------------------------------------------------------------------- pages


def test_a_file_is_cold_until_it_is_read(cold: Path) -> None:
    # Neither does asking warm it, but for the pages that were asked for.
    share = share_of(cold)
    assert share is not None
    assert share <= FEW
    with opened([str(cold)], 8 * MIB) as blobs:
        read_bytes, full = read_in(blobs, stopped=lambda: False, room=lambda: PLENTY)
    assert (read_bytes, full) == (8 * MIB, False)
    assert share_of(cold) == 1.0


def test_of_an_empty_file_all_is_there(store: Store) -> None:
    assert share_of(store.put(size_bytes=0)) == 1.0


def test_a_file_smaller_than_its_samples_has_a_share(store: Store) -> None:
    path = store.put(size_bytes=10)
    path.read_bytes()
    assert share_of(path) in {None, 1.0}


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EOPNOTSUPP, True), (errno.ENOSYS, True), (errno.EIO, False)]
)
def test_some_file_systems_do_not_tell_what_is_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    path = store.put()

    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", fail)
    if told:
        assert share_of(path) is None
    else:
        with pytest.raises(OSError, match="Input/output"):
            share_of(path)


def test_a_stop_ends_it_within_a_chunk(store: Store) -> None:
    answers = iter([False, True])
    with opened([str(store.put()), str(store.put("b"))], 16 * MIB) as blobs:
        read_bytes, full = read_in(blobs, stopped=lambda: next(answers, True), room=lambda: PLENTY)
    assert (read_bytes, full) == (pages.CHUNK_BYTES, False)


def test_it_ends_when_somebody_else_needs_the_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CHUNK_BYTES", MIB)
    monkeypatch.setattr(pages, "CHECK_BYTES", MIB)
    rooms = iter([8 * MIB, 5 * MIB])
    with opened([str(store.put())], 8 * MIB) as blobs:
        read_bytes, full = read_in(blobs, stopped=lambda: False, room=lambda: next(rooms))
    assert (read_bytes, full) == (2 * MIB, True)


def test_a_file_that_shrinks_has_an_end(store: Store) -> None:
    path = store.put()
    with opened([str(path)], 8 * MIB) as blobs:
        os.truncate(path, 5 * MIB)
        read_bytes, _ = read_in(blobs, stopped=lambda: False, room=lambda: PLENTY)
    assert read_bytes == 5 * MIB


class Memory(SystemMemory):
    """Main memory as a test wants it."""

    def __init__(self, total_gib: int, used_gib: int) -> None:
        super().__init__()
        self._figures = total_gib * 2**30, used_gib * 2**30

    def read(self) -> Reading:
        total_bytes, used_bytes = self._figures
        return Reading(
            total_bytes=total_bytes,
            used_bytes=used_bytes,
            source=self.source,
            device="",
            taken_at=0.0,
        )


@pytest.mark.parametrize(
    ("total", "used", "mapped", "room"),
    [
        (10, 4, 0, 5),  # at least a gibibyte is left alone
        (100, 40, 0, 55),  # or a twentieth
        (100, 40, 30, 25),  # and whatever somebody works with
        (10, 9, 3, 0),
    ],
)
def test_room_is_what_nobody_misses(
    tmp_path: Path, total: int, used: int, mapped: int, room: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMapped: {mapped * 2**20} kB\n", encoding="ascii")
    assert room_bytes(Memory(total, used), meminfo) == room * 2**30


def test_room_is_found_without_a_figure_for_what_is_mapped(tmp_path: Path) -> None:
    assert room_bytes(Memory(10, 4), tmp_path / "none") == 5 * 2**30


def test_there_is_no_room_where_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: SystemMemory) -> Reading:
        raise CardError("not told")

    monkeypatch.setattr(SystemMemory, "read", fail)
    assert room_bytes() == 0


# --------------------------------------------------------------------------------- reader


@dataclass
class Work:
    """Something on a thread that lasts until it is let go, or stopped."""

    began: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, stop: Stop) -> str:
        self.began.set()
        while not self.go_on.wait(0.001):
            if stop.came:
                return "stopped"
        return "done"

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.began.wait, LIMIT_S)


@pytest.fixture
async def reader() -> AsyncIterator[Reader]:
    reader = Reader()
    yield reader
    await reader.close()


async def test_one_is_read_after_the_other(reader: Reader) -> None:
    one, other = Work(), Work()
    first = asyncio.create_task(reader.run(one, Stop()))
    await one.has_begun()
    second = asyncio.create_task(reader.run(other, Stop()))
    await asyncio.sleep(0)
    assert not other.began.is_set()
    one.go_on.set()
    other.go_on.set()
    assert [await first, await second] == ["done", "done"]


async def test_a_load_ends_what_is_read_and_what_waits_for_it(reader: Reader) -> None:
    one, other = Work(), Work()
    first = asyncio.create_task(reader.run(one, Stop()))
    await one.has_begun()
    second = asyncio.create_task(reader.run(other, Stop()))
    await asyncio.sleep(0)
    with reader.held():
        assert [await first, await second] == ["stopped", None]
        with reader.held():
            pass
        assert await reader.run(other, Stop()) is None
    assert not other.began.is_set()
    other.go_on.set()
    assert await reader.run(other, Stop()) == "done"


async def test_who_leaves_takes_his_reading_along(reader: Reader) -> None:
    work, stop = Work(), Stop()
    task = asyncio.create_task(reader.run(work, stop))
    await work.has_begun()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stop.came


async def test_a_closed_reader_reads_no_more() -> None:
    reader, work = Reader(), Work()
    task = asyncio.create_task(reader.run(work, Stop()))
    await work.has_begun()
    await reader.close()
    assert await task == "stopped"
    assert await reader.run(Work(), Stop()) is None


async def test_a_disk_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_gate.prewarm.reader.END_S", 0.01)
    reader, begun, end = Reader(), threading.Event(), threading.Event()

    def hang(_: Stop) -> None:
        begun.set()
        end.wait(LIMIT_S)

    task = asyncio.create_task(reader.run(hang, Stop()))
    assert await asyncio.to_thread(begun.wait, LIMIT_S)
    await reader.close()
    assert not task.done()
    end.set()
    await task


# ------------------------------------------------------------------------------ prewarmer


class Now:
    """A clock in the test's hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


MakePrewarmer = Callable[..., Prewarmer]


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def make(reader: Reader, now: Now) -> MakePrewarmer:
    def make(**more: Any) -> Prewarmer:
        given: dict[str, Any] = {"places": (), "room": lambda: PLENTY, "clock": now} | more
        return Prewarmer(reader, upstream="here", **given)

    return make


def told(prewarmer: Prewarmer) -> dict[str, Any]:
    """The outcomes that there were."""
    status = prewarmer.status()
    return {
        name: status[name]
        for name in ("read", "cached", "no_room", "unreadable", "stopped")
        if status[name]
    }


async def test_all_files_of_a_model_are_read(
    make: MakePrewarmer, store: Store, cold: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    projector, prewarmer = store.put("b", MIB), make()
    await prewarmer.warm(store.facts(cold, projector))
    assert share_of(cold) == share_of(projector) == 1.0
    assert prewarmer.status() == {
        "on": True,
        "reason": None,
        "reading": None,
        "read": 1,
        "cached": 0,
        "no_room": 0,
        "unreadable": 0,
        "stopped": 0,
        "read_bytes": 9 * MIB,
        "problem": None,
    }
    assert "prewarm" in caplog.text


async def test_of_two_files_only_the_one_that_is_missing_is_read(
    make: MakePrewarmer, store: Store, cold: Path
) -> None:
    projector, prewarmer = store.put("b", MIB), make()
    warm_up(cold)
    await prewarmer.warm(store.facts(cold, projector))
    assert prewarmer.status()["read_bytes"] == MIB


async def test_what_is_there_already_is_not_read_again(
    make: MakePrewarmer, store: Store, cold: Path, now: Now
) -> None:
    warm_up(cold)
    prewarmer = make()
    await prewarmer.warm(store.facts(cold))
    assert told(prewarmer) == {"cached": 1}
    # Soon after, nobody even looks.
    cool(cold)
    await prewarmer.warm(store.facts(cold))
    assert told(prewarmer) == {"cached": 1}
    now.s += prewarmer_again()
    await prewarmer.warm(store.facts(cold))
    assert told(prewarmer) == {"cached": 1, "read": 1}


def prewarmer_again() -> float:
    return prewarmer.AGAIN_S


async def test_where_nobody_tells_what_is_cached_it_is_read(
    make: MakePrewarmer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prewarmer, "cached_share", lambda _: None)
    one = make()
    await one.warm(store.facts(store.put()))
    assert told(one) == {"read": 1}


async def test_what_would_displace_others_is_not_read(
    make: MakePrewarmer, store: Store, cold: Path
) -> None:
    prewarmer = make(room=lambda: MIB)
    await prewarmer.warm(store.facts(cold))
    assert told(prewarmer) == {"no_room": 1}
    assert "to spare" in prewarmer.status()["problem"]
    share = share_of(cold)
    assert share is not None
    assert share <= FEW


async def test_it_is_said_where_room_runs_out_on_the_way(
    make: MakePrewarmer, store: Store, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CHECK_BYTES", 1)
    rooms = iter([PLENTY, 0])
    prewarmer = make(room=lambda: next(rooms))
    await prewarmer.warm(store.facts(cold))
    assert told(prewarmer) == {"no_room": 1}
    assert prewarmer.status()["read_bytes"] == pages.CHUNK_BYTES


async def test_what_cannot_be_read_is_said_once_until_something_can(
    make: MakePrewarmer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [store.put(digit) for digit in "abcd"]
    facts, prewarmer = [store.facts(path) for path in paths], make()
    for path in (paths[0], paths[1], paths[3]):
        path.unlink()
    for one in facts[:2]:
        await prewarmer.warm(one)
    assert told(prewarmer) == {"unreadable": 2}
    assert "No such file" in prewarmer.status()["problem"]
    assert caplog.text.count("not prewarmed") == 1
    await prewarmer.warm(facts[2])
    assert prewarmer.status()["problem"] is None
    await prewarmer.warm(facts[3])
    assert caplog.text.count("not prewarmed") == 2


async def test_a_disk_that_fails_does_no_harm(
    make: MakePrewarmer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Blob) -> float:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(prewarmer, "cached_share", fail)
    one = make()
    await one.warm(store.facts(store.put()))
    assert told(one) == {"unreadable": 1}
    assert "Input/output" in one.status()["problem"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[int, Work]:
    """Reading lasts until it is let go, by the size of the file."""
    works: dict[int, Work] = {}

    def wait(blobs: list[Blob], *, stopped: Callable[[], bool], **_: Any) -> tuple[int, bool]:
        work = works[blobs[0].size_bytes]
        work.began.set()
        while not work.go_on.wait(0.001):
            if stopped():
                return 1, False
        return blobs[0].size_bytes, False

    monkeypatch.setattr(prewarmer, "cached_share", lambda _: None)
    monkeypatch.setattr(prewarmer, "read_in", wait)
    return works


async def test_a_load_ends_it_and_the_next_hint_begins_anew(
    make: MakePrewarmer, store: Store, slow: dict[int, Work], reader: Reader
) -> None:
    facts, prewarmer = store.facts(store.put()), make()
    work = slow[8 * MIB] = Work()
    task = asyncio.create_task(prewarmer.warm(facts))
    await work.has_begun()
    assert prewarmer.status()["reading"] == "a model"
    # The same hint again changes nothing.
    await prewarmer.warm(facts)
    with reader.held():
        await task
        await prewarmer.warm(facts)
    assert told(prewarmer) == {"stopped": 2}
    assert prewarmer.status()["reading"] is None
    work.go_on.set()
    await prewarmer.warm(facts)
    assert told(prewarmer) == {"stopped": 2, "read": 1}


async def test_another_model_is_next_by_now(
    make: MakePrewarmer, store: Store, slow: dict[int, Work]
) -> None:
    one, other = store.facts(store.put()), store.facts(store.put("b", MIB))
    prewarmer = make()
    slow[8 * MIB], slow[MIB] = Work(), Work()
    first = asyncio.create_task(prewarmer.warm(one))
    await slow[8 * MIB].has_begun()
    slow[MIB].go_on.set()
    await prewarmer.warm(other)
    await first
    assert told(prewarmer) == {"stopped": 1, "read": 1}


async def test_only_so_many_outcomes_are_remembered(
    make: MakePrewarmer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prewarmer, "REMEMBERED", 1)
    monkeypatch.setattr(prewarmer, "cached_share", lambda _: 1.0)
    one, other = store.facts(store.put()), store.facts(store.put("b"))
    warmer = make()
    for facts in (one, one, other, one):
        await warmer.warm(facts)
    assert told(warmer) == {"cached": 3}


async def test_where_it_cannot_help_it_is_off_and_says_why(
    make: MakePrewarmer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    prewarmer = make(off="the upstream is on another machine")
    await prewarmer.warm(store.facts(store.put()))
    assert told(prewarmer) == {}
    status = prewarmer.status()
    assert (status["on"], status["reason"]) == (False, "the upstream is on another machine")
    assert caplog.text.count("the upstream is on another machine") == 1


def test_it_is_off_where_it_cannot_help(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = "http://127.0.0.1:11434", "http://192.0.2.1:11434"
    assert why_not("auto", here) == ""
    assert "prewarm: off" in why_not("off", here)
    assert "another machine" in why_not("auto", there)
    monkeypatch.delattr(os, "RWF_NOWAIT")
    assert "only Linux" in why_not("auto", here)


async def test_it_may_turn_out_on_the_way_that_it_cannot_help(
    make: MakePrewarmer,
    store: Store,
    slow: dict[int, Work],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    warmer, facts = make(), store.facts(store.put())
    work = slow[8 * MIB] = Work()
    task = asyncio.create_task(warmer.warm(facts))
    await work.has_begun()
    warmer.turn_off(SHARED)
    await task
    warmer.turn_off("whatever else")
    await warmer.warm(facts)
    assert told(warmer) == {"stopped": 1}
    assert warmer.status()["reason"] == SHARED
    assert caplog.text.count("no prewarming") == 1
    idle = make()
    idle.turn_off(SHARED)
    assert idle.status()["on"] is False


# ----------------------------------------------------------------------- with an upstream


@pytest.fixture
async def upstream(ollama: SimulatedOllama) -> AsyncIterator[Ollama]:
    async with opened_client(Ollama(ollama.url)) as upstream:
        yield upstream


def load_of(facts: Facts) -> Load:
    return Load(
        bin=HERE,
        model=facts.key,
        name=EMBEDDER,
        launch=Launch(),
        footprint_bytes=1,
        free_bytes=None,
        alone=True,
        for_request=RequestId("r"),
        waited_s=0.0,
    )


async def test_the_file_of_a_model_is_found_by_what_the_upstream_says_of_it(
    upstream: Ollama, store: Store, make: MakePrewarmer
) -> None:
    registry, warmer = registry_of(upstream), make(places=[store.blobs])
    engine = Engine(upstream, registry, keep_alive_s=1.0, prewarmer=warmer)
    facts = await registry.facts(EMBEDDER)
    assert facts is not None
    path = store.blobs / Path(facts.files[0]).name
    path.touch()
    os.truncate(path, facts.disk_bytes - 1000)
    cool(path)
    await engine.prewarm(Prewarm(bin=HERE, model=facts.key, name=EMBEDDER))
    assert sum(told(warmer).values()) == 1
    assert warmer.status()["problem"] is None
    assert share_of(path) in {None, 1.0}


async def test_nothing_is_read_for_a_name_that_means_another_model_by_now(
    upstream: Ollama, make: MakePrewarmer
) -> None:
    registry, warmer = registry_of(upstream), make()
    engine = Engine(upstream, registry, keep_alive_s=1.0, prewarmer=warmer)
    for name in (EMBEDDER, "nobody knows it"):
        await engine.prewarm(Prewarm(bin=HERE, model=ModelKey("another"), name=name))
    assert told(warmer) == {}


async def test_nothing_is_read_where_nobody_was_given_to_read(upstream: Ollama) -> None:
    engine = Engine(upstream, registry_of(upstream), keep_alive_s=1.0)
    await engine.prewarm(Prewarm(bin=HERE, model=ModelKey("a"), name=EMBEDDER))


async def test_a_load_of_the_gate_ends_what_is_read_on_the_machine(
    upstream: Ollama, reader: Reader, make: MakePrewarmer
) -> None:
    registry = registry_of(upstream)
    engine = Engine(upstream, registry, keep_alive_s=1.0, prewarmer=make())
    facts = await registry.facts(EMBEDDER)
    assert facts is not None
    work = Work()
    reading = asyncio.create_task(reader.run(work, Stop()))
    await work.has_begun()
    async with asyncio.timeout(LIMIT_S):
        assert isinstance(await engine.load(load_of(facts)), Loaded)
        assert await reading == "stopped"
