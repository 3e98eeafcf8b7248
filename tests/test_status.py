"""The scheduler's snapshot as JSON, from snapshots made by hand."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from ollama_gate import status
from ollama_gate.footprint import Facts
from ollama_gate.outlook import Outlook, Size, Times
from ollama_gate.scheduler.commands import Choice, Cost
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    BinView,
    Cause,
    Launch,
    ModelKey,
    Need,
    Priority,
    Request,
    RequestId,
    RunnerState,
    RunnerView,
    Snapshot,
    Waiting,
)

NOW = 1000.0
HERE = BinId("local/0")

EMPTY = Snapshot(now=NOW, bins=(), runners=(), waiting=(), running=(), closing=False)


def request(name: str = "r", **more: Any) -> Request:
    given = {"model": ModelKey("sha256-a"), "name": "a", "arrived_at": NOW - 1.23456, **more}
    return Request(
        id=RequestId(name), needs={HERE: Need(footprint_bytes=1, predicted_bytes=1)}, **given
    )


def waiting(**more: Any) -> Waiting:
    given: dict[str, Any] = {
        "request": request(),
        "position": 1,
        "cause": Cause.NO_ROOM,
        "behind": ("b", "c"),
        "until": None,
        **more,
    }
    return Waiting(**given)


def runner(**more: Any) -> RunnerView:
    given: dict[str, Any] = {
        "bin": HERE,
        "model": ModelKey("sha256-a"),
        "name": "a",
        "state": RunnerState.RESIDENT,
        "launch": Launch(),
        "num_ctx": 4096,
        "footprint_bytes": 5,
        "parallel": 2,
        "running": (),
        "waiting": 0,
        "draining": False,
        "offload": 0.4167,
        "idle_since": NOW - 10,
        "expires_at": NOW + 20.12345,
        "load_s": 2.71828,
        **more,
    }
    return RunnerView(**given)


def bin_view(**more: Any) -> BinView:
    given: dict[str, Any] = {
        "bin": Bin(id=HERE, upstream="local"),
        "capacity_bytes": 24,
        "foreign_bytes": 1,
        "committed_bytes": 5,
        "free_bytes": 18,
        "available": True,
        "live": True,
        "target": None,
        "victims": (),
        **more,
    }
    return BinView(**given)


def whole(view: Snapshot, readings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """As a client reads it; nothing in it may be beyond JSON."""
    shown = status.whole(view, version="1.2", readings=readings or {}, decisions=[])
    read: dict[str, Any] = json.loads(json.dumps(shown, allow_nan=False))
    assert read == shown, "a client reads what was said"
    return read


def test_when_nothing_happens_everything_is_empty() -> None:
    assert whole(EMPTY) == {
        "version": "1.2",
        "closing": False,
        "upstreams": [],
        "bins": [],
        "runners": [],
        "queue": {
            "waiting": 0,
            "running": 0,
            "by_priority": {"high": 0, "normal": 0, "low": 0},
            "newcomer_estimated_wait_s": {"high": None, "normal": None, "low": None},
        },
        "waiting": [],
        "running": [],
        "decisions": [],
        "models": [],
    }


def test_a_bin_shows_its_books_and_its_reading() -> None:
    view = Snapshot(
        now=NOW,
        bins=(bin_view(target="b", victims=("a",)), bin_view(bin=Bin(id=BinId("x"), upstream="y"))),
        runners=(),
        waiting=(),
        running=(),
        closing=True,
    )
    shown = whole(view, {HERE: {"source": "nvml", "age_s": 0.5}})
    assert shown["closing"] is True
    assert shown["bins"][0] == {
        "id": "local/0",
        "upstream": "local",
        "available": True,
        "capacity_bytes": 24,
        "foreign_bytes": 1,
        "committed_bytes": 5,
        "free_bytes": 18,
        "live": True,
        "next": "b",
        "victims": ["a"],
        "next_for": None,
        "next_why": None,
        "kept_until_in_s": None,
        "reading": {"source": "nvml", "age_s": 0.5},
    }
    assert shown["bins"][1]["reading"] is None


def test_a_bin_shows_why_a_model_is_next_and_why_others_go() -> None:
    cost = Cost(
        name="a",
        total=7.0,
        waiting=0,
        known=0.0,
        predicted=4.0,
        behind=2.0,
        reload_s=1.23456,
        drain_s=0.0,
        rate_per_s=0.01,
    )
    choice = Choice(
        index=0.85714,
        work=6.0,
        waiting=1,
        visit_s=7.0,
        overdue=True,
        passed_over=2,
        rivals=(("c", 0.5),),
        victims=(cost,),
    )
    one = bin_view(target="b", victims=("a",), for_request=RequestId("r"), choice=choice)
    [shown] = whole(dataclasses.replace(EMPTY, bins=(one,)))["bins"]
    assert shown["next_for"] == "r"
    assert shown["next_why"] == {
        "index": 0.857,
        "work": 6.0,
        "waiting": 1,
        "visit_s": 7.0,
        "drain_s": 0.0,
        "reload_s": 0.0,
        "overdue": True,
        "reserved": False,
        "passed_over": 2,
        "rivals": [{"model": "c", "index": 0.5}],
        "victims": [
            {
                "model": "a",
                "total": 7.0,
                "waiting": 0,
                "known": 0.0,
                "predicted": 4.0,
                "behind": 2.0,
                "reload_s": 1.235,
                "drain_s": 0.0,
                "rate_per_s": 0.01,
            }
        ],
    }


def test_a_bin_that_is_kept_for_somebody_shows_until_when() -> None:
    one = bin_view(target="b", kept_until=NOW + 3)
    [shown] = whole(dataclasses.replace(EMPTY, bins=(one,)))["bins"]
    assert (shown["next_why"], shown["kept_until_in_s"]) == (None, 3.0)


def test_a_bin_of_which_nothing_is_known_says_so() -> None:
    view = Snapshot(
        now=NOW,
        bins=(bin_view(capacity_bytes=None, free_bytes=None),),
        runners=(),
        waiting=(),
        running=(),
        closing=False,
    )
    shown = whole(view)["bins"][0]
    assert (shown["capacity_bytes"], shown["free_bytes"]) == (None, None)


def test_a_runner_shows_its_state_and_lengths_of_time() -> None:
    shown = status.runner(runner(running=(RequestId("r"),), waiting=3, draining=True), NOW)
    assert shown == {
        "model": "a",
        "key": "sha256-a",
        "bin": "local/0",
        "state": "resident",
        "num_ctx": 4096,
        "options": {},
        "footprint_bytes": 5,
        "parallel": 2,
        "running": ["r"],
        "waiting": 3,
        "draining": True,
        "offload": 0.42,
        "idle_s": 10.0,
        "expires_in_s": 20.123,
        "load_s": 2.718,
    }


@pytest.mark.parametrize(
    ("at", "shown"),
    [(None, None), (math.inf, None), (NOW + 1, 1.0), (NOW, 0.0), (NOW - 1, 0.0)],
)
def test_what_lies_ahead_is_a_length_and_for_ever_is_null(
    at: float | None, shown: float | None
) -> None:
    assert status.runner(runner(expires_at=at), NOW)["expires_in_s"] == shown
    assert status.waiting(waiting(until=at), NOW)["ends_by_itself_in_s"] == shown
    view = Snapshot(
        now=NOW,
        bins=(),
        runners=(runner(expires_at=at),),
        waiting=(waiting(until=at),),
        running=(),
        closing=False,
    )
    assert whole(view)["runners"][0]["expires_in_s"] == shown


def test_a_runner_in_use_idles_not() -> None:
    shown = status.runner(runner(idle_since=None, expires_at=None), NOW)
    assert (shown["idle_s"], shown["expires_in_s"]) == (None, None)


def test_of_the_options_only_those_that_were_given_are_shown() -> None:
    launch = Launch(num_ctx=8192, num_gpu=0, use_mmap=False, extras=("sha256-b",))
    assert status.runner(runner(launch=launch), NOW)["options"] == {
        "num_ctx": 8192,
        "num_gpu": 0,
        "use_mmap": False,
        "extras": ("sha256-b",),
    }


def test_a_waiting_request_shows_where_it_stands_and_why() -> None:
    one = waiting(
        request=request(priority=Priority.LOW, client="me", launch=Launch(num_ctx=1)),
        position=4,
        overdue=True,
        overdue_at=NOW - 1,
        overdue_latest_at=NOW + 9,
        ahead=2,
        models_ahead=(("b", 1.5),),
        client_waiting=5,
        client_lead_s=0.25,
        estimate_s=3.14159,
    )
    assert status.waiting(one, NOW) == {
        "id": "r",
        "model": "a",
        "priority": "low",
        "client": "me",
        "age_s": 1.235,
        "options": {"num_ctx": 1},
        "state": "waiting",
        "position": 4,
        "cause": "no_room",
        "behind": ["b", "c"],
        "ends_by_itself_in_s": None,
        "estimated_wait_s": 3.142,
        "ahead": 2,
        "models_ahead": [{"model": "b", "index": 1.5}],
        "overdue": True,
        "overdue_in_s": 0.0,
        "overdue_latest_in_s": 9.0,
        "deadline_in_s": None,
        "client_waiting": 5,
        "client_lead_s": 0.25,
    }


def test_the_queue_is_counted_by_class() -> None:
    classes = [Priority.HIGH, Priority.LOW, Priority.LOW]
    view = Snapshot(
        now=NOW,
        bins=(),
        runners=(),
        waiting=tuple(waiting(request=request(str(n), priority=p)) for n, p in enumerate(classes)),
        running=((request("x"), HERE),),
        closing=False,
        newcomer_s=(1.5, None, 2.0),
    )
    shown = whole(view)
    assert shown["queue"] == {
        "waiting": 3,
        "running": 1,
        "by_priority": {"high": 1, "normal": 0, "low": 2},
        "newcomer_estimated_wait_s": {"high": 1.5, "normal": None, "low": 2.0},
    }
    assert [one["id"] for one in shown["waiting"]] == ["0", "1", "2"]
    assert shown["running"][0]["bin"] == "local/0"
    assert shown["running"][0]["age_s"] == 1.235


def test_decisions_are_passed_on() -> None:
    decisions = [{"what": "load", "ago_s": 1.0}]
    assert (
        status.whole(EMPTY, version="", readings={}, decisions=decisions)["decisions"] == decisions
    )


# ------------------------------------------------------------------------------- models

FACTS = Facts(
    key=ModelKey("sha256-a"),
    name="a",
    size_bytes=9,
    context_length=8192,
    capabilities=frozenset({"tools", "completion"}),
)


def shown(*models: Outlook, runners: tuple[RunnerView, ...] = ()) -> list[dict[str, Any]]:
    view = dataclasses.replace(EMPTY, runners=runners)
    whole = status.whole(view, version="", readings={}, decisions=[], models=[("local", models)])
    read: dict[str, Any] = json.loads(json.dumps(whole, allow_nan=False))
    assert read == whole, "a client reads what was said"
    models_read: list[dict[str, Any]] = read["models"]
    return models_read


def test_a_model_shows_what_it_would_take_and_how_long_it_took() -> None:
    small = Size(num_ctx=4096, footprint_bytes=5, source="learned", error=None)
    large = Size(num_ctx=8192, footprint_bytes=7, source="estimated", error=0.08199)
    times = Times(load_s=1.23456, service_s=20.0)
    one = Outlook(
        name="a",
        digest="d",
        disk_bytes=10,
        facts=FACTS,
        automatic=small,
        sizes=(small, large),
        times=times,
    )
    first = {"num_ctx": 4096, "footprint_bytes": 5, "source": "learned", "error": None}
    assert shown(one) == [
        {
            "model": "a",
            "upstreams": ["local"],
            "key": "sha256-a",
            "digest": "d",
            "disk_bytes": 10,
            "remote": False,
            "capabilities": ["completion", "tools"],
            "context_length": 8192,
            **first,
            "footprints": [
                first,
                {"num_ctx": 8192, "footprint_bytes": 7, "source": "estimated", "error": 0.082},
            ],
            "resident": False,
            "load_s": 1.235,
            "unload_s": None,
            "service_s": 20.0,
            "problem": None,
        }
    ]


def test_what_is_not_known_of_a_model_yet_is_null() -> None:
    (one,) = shown(Outlook(name="a", digest="d", disk_bytes=10, problem="unexpected EOF"))
    assert one["problem"] == "unexpected EOF"
    unknown = ("key", "remote", "capabilities", "num_ctx", "footprint_bytes", "source", "error")
    assert {one[key] for key in unknown} == {None}
    assert (one["footprints"], one["resident"]) == ([], False)


def test_a_model_that_runs_elsewhere_takes_nothing() -> None:
    far = dataclasses.replace(FACTS, remote=True, capabilities=frozenset())
    (one,) = shown(Outlook(name="a", digest="d", disk_bytes=10, facts=far))
    assert (one["remote"], one["footprint_bytes"], one["num_ctx"]) == (True, 0, None)
    assert one["capabilities"] is None, "an old Ollama does not say of what it is capable"


@pytest.mark.parametrize(
    ("state", "resident"), [(RunnerState.RESIDENT, True), (RunnerState.LOADING, False)]
)
def test_a_model_is_resident_when_its_runner_is(state: RunnerState, resident: bool) -> None:
    aliases = [Outlook(name=name, digest="d", disk_bytes=1, facts=FACTS) for name in ("a", "b")]
    rows = shown(*aliases, runners=(runner(state=state),))
    assert [row["resident"] for row in rows] == [resident, resident]
