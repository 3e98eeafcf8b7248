"""A trace: what the gate writes while it runs, and how it is read back."""

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ollama_gate.errors import TraceError
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    ModelKey,
    Need,
    Policy,
    Priority,
    Request,
    RequestId,
    Upstream,
)
from ollama_gate.trace import Life, Recorder, read
from ollama_gate.trace import recorder as recording

GIB = 2**30
BIN = BinId("u/0")
WALL = 1_700_000_000.0


def a_request(request_id: str = "r", *, at: float = 10.0, **more: Any) -> Request:
    return Request(
        id=RequestId(request_id),
        model=ModelKey("sha256:a"),
        name="a:latest",
        needs={BIN: Need(footprint_bytes=5 * GIB, predicted_bytes=4 * GIB, load_s=2.5)},
        arrived_at=at,
        **more,
    )


async def a_recorder(path: Path, *, batch_s: float = 3600.0) -> Recorder:
    """One whose wall clock is `WALL` when the event loop's is 0."""
    recorder = Recorder(
        path, wall=lambda: WALL + asyncio.get_running_loop().time(), batch_s=batch_s
    )
    await recorder.open(
        upstreams=[Upstream(name="u", max_loaded=4)],
        bins=[Bin(id=BIN, upstream="u", capacity_bytes=24 * GIB)],
        policy=Policy(kappa=7.0),
    )
    return recorder


class Turns:
    """Tells of each time that a recorder has tried to write."""

    def __init__(self, recorder: Recorder) -> None:
        self._flush = recorder._flush
        self._done: asyncio.Queue[None] = asyncio.Queue()
        recorder._flush = self._and_tell  # type: ignore[method-assign]

    async def _and_tell(self) -> None:
        await self._flush()
        self._done.put_nowait(None)

    async def next(self) -> None:
        await self._done.get()


def the_life(path: Path) -> Life:
    (life,) = read(path).lives
    return life


# -------------------------------------------------------------------- what is written


async def test_a_served_request_is_read_back_as_it_was(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    request = a_request(priority=Priority.HIGH, client="anne", num_ctx=8192, deadline_at=70.0)

    recorder.served(request, BIN, granted_at=12.25, now=20.0, completed=True)
    await recorder.close()

    life = the_life(tmp_path / "t.jsonl")
    line = life.requests["r"]
    assert (line.at, line.waited_s, line.ran_s) == (WALL + 10.0, 2.25, 7.75)
    assert (line.priority, line.outcome, line.bin) == ("high", "served", "u/0")
    assert line.deadline_s == 60.0
    kind = life.kinds[line.kind]
    assert (kind.model, kind.name, kind.num_ctx) == ("sha256:a", "a:latest", 8192)
    takes = kind.takes["u/0"]
    assert (takes.footprint_bytes, takes.predicted_bytes, takes.load_s) == (5 * GIB, 4 * GIB, 2.5)


async def test_what_there_is_and_how_it_is_scheduled_begins_a_life(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    recorder.unserved(a_request(), "left", now=11.0, reason=None)
    await recorder.close()

    began = the_life(tmp_path / "t.jsonl").began

    (place,) = began.bins
    assert (place.bin, place.upstream, place.capacity_bytes) == ("u/0", "u", 24 * GIB)
    assert place.max_loaded == 4
    assert began.policy["kappa"] == 7.0


@pytest.mark.parametrize("outcome", ["left", "withdrawn", "refused"])
async def test_who_never_had_a_slot_has_waited_until_the_end(tmp_path: Path, outcome: Any) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")

    recorder.unserved(a_request(), outcome, now=40.5, reason="because")
    await recorder.close()

    line = the_life(tmp_path / "t.jsonl").requests["r"]
    assert (line.outcome, line.reason, line.waited_s, line.ran_s) == (
        outcome,
        "because",
        30.5,
        None,
    )


async def test_an_answer_that_did_not_end_by_itself_is_cut(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")

    recorder.served(a_request(), BIN, granted_at=10.0, now=11.0, completed=False)
    await recorder.close()

    assert the_life(tmp_path / "t.jsonl").requests["r"].outcome == "cut"


async def test_of_a_request_that_was_tried_again_the_second_end_counts(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    recorder.served(a_request(), BIN, granted_at=11.0, now=12.0, completed=False)

    recorder.served(a_request(accepted=True), BIN, granted_at=15.0, now=20.0, completed=True)
    await recorder.close()

    line = the_life(tmp_path / "t.jsonl").requests["r"]
    assert (line.outcome, line.waited_s, line.ran_s) == ("served", 5.0, 5.0)


async def test_requests_that_are_alike_share_one_kind(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")

    for number in range(3):
        recorder.unserved(
            a_request(f"r{number}", service_s=float(number)), "left", now=11.0, reason=None
        )
    recorder.unserved(a_request("wide", num_ctx=65536), "left", now=11.0, reason=None)
    await recorder.close()

    assert len(the_life(tmp_path / "t.jsonl").kinds) == 2


async def test_whoever_thinks_of_ever_new_kinds_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "KINDS", 2)
    recorder = await a_recorder(tmp_path / "t.jsonl")
    for number, num_ctx in enumerate((1, 2, 3, 1, 3)):
        request = a_request(str(number), num_ctx=num_ctx)
        recorder.served(request, BIN, 11.0, 12.0, completed=True)
    held = len(recorder._kinds)
    await recorder.close()
    life = the_life(tmp_path / "t.jsonl")
    assert held <= 2
    asked = [life.kinds[line.kind].num_ctx for line in life.requests.values()]
    assert asked == [1, 2, 3, 1, 3]


async def test_loads_and_unloads_are_written_with_their_lengths(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    recorder.unserved(a_request(), "left", now=11.0, reason=None)
    recorder.load_over(BIN, ModelKey("sha256:a"), 3.5, now=13.5, ok=True)
    recorder.load_over(BIN, ModelKey("sha256:a"), 1.0, now=15.5, ok=False)
    recorder.unloaded(BIN, ModelKey("sha256:a"), 0.75, now=20.75)
    await recorder.close()

    life = the_life(tmp_path / "t.jsonl")

    assert [(line.at, line.took_s, line.ok) for line in life.loads] == [
        (WALL + 10.0, 3.5, True),
        (WALL + 14.5, 1.0, False),
    ]
    assert [(line.at, line.took_s) for line in life.unloads] == [(WALL + 20.0, 0.75)]


async def test_a_reading_that_says_nothing_new_is_not_written(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    recorder.unserved(a_request(), "left", now=11.0, reason=None)

    for foreign in (0, 100 * 2**20, 2 * GIB, 2 * GIB + 1, 0):
        recorder.measured(BIN, 24 * GIB, foreign, now=12.0)
    await recorder.close()

    cards = the_life(tmp_path / "t.jsonl").cards
    assert [card.foreign_bytes for card in cards] == [0, 2 * GIB, 0]


async def test_no_client_is_named_and_the_same_one_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for life in range(2):
        recorder = await a_recorder(path)
        for name in ("anne", "ben", ""):
            recorder.unserved(
                a_request(f"{life}-{name[:1]}", client=name), "left", now=11.0, reason=None
            )
        await recorder.close()

    assert "anne" not in path.read_text()
    first, second = (life.requests for life in read(path).lives)
    assert first["0-a"].client == second["1-a"].client
    assert first["0-a"].client != first["0-b"].client
    assert first["0-"].client == ""


async def test_the_key_of_the_pseudonyms_is_the_gates_alone(tmp_path: Path) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl")
    await recorder.close()

    key = tmp_path / "t.jsonl.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes().hex() not in (tmp_path / "t.jsonl").read_text()


async def test_two_traces_do_not_call_a_client_the_same(tmp_path: Path) -> None:
    names = []
    for trace in ("one", "other"):
        recorder = await a_recorder(tmp_path / trace)
        recorder.unserved(a_request(client="anne"), "left", now=11.0, reason=None)
        await recorder.close()
        names.append(the_life(tmp_path / trace).requests["r"].client)

    assert names[0] != names[1]


async def test_lines_are_on_the_disk_a_moment_later(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    recorder = await a_recorder(path, batch_s=0.0)
    turns = Turns(recorder)

    recorder.unserved(a_request(), "left", now=11.0, reason=None)
    await turns.next()
    assert len(the_life(path).requests) == 1
    recorder.unserved(a_request("later"), "left", now=12.0, reason=None)
    await turns.next()
    assert len(the_life(path).requests) == 2
    await recorder.close()


# -------------------------------------------------------------------- when the disk will not


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_ends_the_recording_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = await a_recorder(tmp_path / "t.jsonl", batch_s=0.0)
    turns = Turns(recorder)
    monkeypatch.setattr(recorder._file, "write", full)

    recorder.unserved(a_request(), "left", now=11.0, reason=None)
    await turns.next()
    assert not recorder.recording
    recorder.unserved(a_request("later"), "left", now=12.0, reason=None)
    await recorder.close()

    (warning,) = caplog.records
    assert "not recorded any more" in warning.getMessage()
    assert "No space left" in warning.getMessage()


async def test_a_place_that_cannot_be_written_is_warned_of_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")

    recorder = await a_recorder(tmp_path / "file" / "t.jsonl")
    recorder.served(a_request(), BIN, granted_at=11.0, now=12.0, completed=True)
    await recorder.close()

    assert len(caplog.records) == 1


async def test_a_disk_that_is_too_slow_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ollama_gate.trace.recorder.BACKLOG_LINES", 4)
    recorder = await a_recorder(tmp_path / "t.jsonl")

    for number in range(10):
        recorder.unserved(a_request(f"r{number}"), "left", now=11.0, reason=None)
    await recorder.close()

    assert len(caplog.records) == 1
    assert not recorder.recording


# -------------------------------------------------------------------- how it is read

BEGAN = '{"is":"began","version":1,"at":1.0,"bins":[{"bin":"u/0","upstream":"u"}],"policy":{}}'
KIND = (
    '{"is":"kind","number":0,"model":"m","name":"m",'
    '"takes":{"u/0":{"footprint_bytes":5,"predicted_bytes":4}}}'
)
ASKED = (
    '{"is":"request","id":"r","at":2.0,"kind":0,"priority":"high","outcome":"served",'
    '"waited_s":1.0,"ran_s":2.0,"bin":"u/0"}'
)


def a_trace(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = a_trace(tmp_path, BEGAN, KIND, ASKED, ASKED.replace('"r"', '"s"')[:40])

    assert set(the_life(path).requests) == {"r"}


def test_so_is_the_torn_last_line_of_an_earlier_life(tmp_path: Path) -> None:
    path = a_trace(tmp_path, BEGAN, KIND, ASKED, ASKED[:40], BEGAN, KIND, ASKED)

    assert [len(life.requests) for life in read(path).lives] == [1, 1]


async def test_a_gate_that_starts_again_begins_a_new_line_after_a_torn_one(tmp_path: Path) -> None:
    path = a_trace(tmp_path, BEGAN, KIND, ASKED, ASKED[:40])

    recorder = await a_recorder(path)
    recorder.unserved(a_request(), "left", now=11.0, reason=None)
    await recorder.close()

    assert [len(life.requests) for life in read(path).lives] == [1, 1]


@pytest.mark.parametrize(
    ("lines", "number", "expected", "found"),
    [
        ((), 1, "at least one request", "none"),
        ((BEGAN, KIND), 2, "at least one request", "none"),
        ((KIND,), 1, '"is": "began"', '"kind"'),
        ((BEGAN, "{", ASKED), 2, "one JSON object", "'{'"),
        ((BEGAN, "{", "{]", ASKED), 2, "one JSON object", "'{'"),
        ((BEGAN, ASKED), 2, "a kind that an earlier line describes", "0"),
        ((BEGAN.replace("1,", "99,", 1),), 1, "version 1 at the most", "99"),
        ((BEGAN.replace('[{"bin":"u/0","upstream":"u"}]', "[]"),), 1, "at least one bin", "none"),
        ((BEGAN, KIND.replace("u/0", "v/0")), 2, "bins among u/0", "v/0"),
        ((BEGAN, KIND, ASKED.replace("2.0", '"soon"')), 3, "`float` at `at`", "`str`"),
        ((BEGAN, KIND, ASKED.replace("2.0", "1e999")), 3, "out of range", "1e999"),
        ((BEGAN, KIND, ASKED.replace("high", "urgent")), 3, "`priority`", "urgent"),
        ((BEGAN, KIND, ASKED.replace('"waited_s":1.0', '"waited_s":-1')), 3, "0 or more", "-1.0"),
        ((BEGAN, '{"is":"song"}'), 2, "a line of a trace", "song"),
        ((BEGAN, "7"), 2, "`object`", "`int`"),
    ],
)
def test_a_wrong_line_is_named_with_what_was_expected_and_found(
    tmp_path: Path, lines: tuple[str, ...], number: int, expected: str, found: str
) -> None:
    path = a_trace(tmp_path, *lines)

    with pytest.raises(TraceError) as raised:
        read(path)

    text = str(raised.value)
    assert text.startswith(f"{path}, line {number}: expected ")
    before, _, after = text.partition(", found ")
    assert expected in before
    assert found in after


def test_a_file_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none")
