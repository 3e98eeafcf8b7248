import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_gate import log
from ollama_gate.log import Component, size

LINE = re.compile(r"\[\d\d:\d\d:\d\d\.\d{3}\] \[[A-Z]+\] ")


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Logging belongs to the process: put back what was there."""
    loggers = [logging.getLogger(), logging.getLogger("ollama_gate")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def opened(form: str, level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    log.configure(level, "json" if form == "json" else "text", stream)
    # What pytest keeps for its report cannot be sent from process to process, odd as it is here.
    root = logging.getLogger()
    root.handlers[:] = [h for h in root.handlers if not type(h).__module__.startswith("_pytest")]
    return stream


def said(stream: io.StringIO) -> str:
    """What one line says, after its time and component."""
    (line,) = stream.getvalue().split("\n")[:-1]
    assert LINE.match(line)
    return LINE.sub("", line)


def test_a_line_of_text_has_time_component_and_message() -> None:
    stream = opened("text")
    before = datetime.now().astimezone()
    log.get(Component.SCHEDULER).info("settled")
    matched = re.fullmatch(
        r"\[(\d\d:\d\d:\d\d\.\d{3})\] \[SCHEDULER\] settled\n", stream.getvalue()
    )
    assert matched
    clock = datetime.strptime(matched[1], "%H:%M:%S.%f").astimezone()
    passed = timedelta(hours=clock.hour, minutes=clock.minute, seconds=clock.second)
    start = timedelta(hours=before.hour, minutes=before.minute, seconds=before.second)
    assert (passed - start) % timedelta(days=1) < timedelta(minutes=1)


def test_every_component_can_be_found_by_its_name() -> None:
    stream = opened("text")
    for component in Component:
        log.get(component).info("here")
    found = re.findall(r"\[([A-Z]+)\] here\n", stream.getvalue())
    assert found == ["SYSTEM", "API", "QUEUE", "SCHEDULER", "ENGINE", "MONITOR", "REGISTRY"]


def test_a_line_ends_in_the_numbers_that_decided() -> None:
    stream = opened("text")
    numbers: dict[str, log.Value] = {
        "model": "b",
        "idle_s": 412,
        "for": "a",
        "shortfall": size(3_328_599_654),
    }
    log.get(Component.SCHEDULER).info("evict", **numbers)
    assert said(stream) == "evict model=b idle_s=412 for=a shortfall=3.1GiB"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("qwen2.5:32b", "qwen2.5:32b"),
        ("hf.co/a/b:Q4_K_M", "hf.co/a/b:Q4_K_M"),
        ("größe", "größe"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        (True, "true"),
        (None, "null"),
        (7, "7"),
        (0.012345, "0.0123"),
        (4.0, "4"),
        (4.5678, "4.57"),
        (99.96, "100"),
        (1234.56, "1235"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (size(0), "0B"),
        (size(1023), "1023B"),
        (size(512 * 2**20), "512MiB"),
        (size(21 * 2**30), "21GiB"),
        (size(3 * 2**50), "3072TiB"),
        (size(-(2**20)), "-1MiB"),
    ],
)
def test_a_value_is_shown_so_that_one_can_read_and_cut_it(value: log.Value, shown: str) -> None:
    stream = opened("text")
    log.get(Component.QUEUE).info("x", v=value)
    assert said(stream) == f"x v={shown}"


@pytest.mark.parametrize(
    "name",
    [
        "a\n[00:00:00.000] [SYSTEM] stopped",
        "a\r[00:00:00.000] [SYSTEM] stopped",
        "a\x1b[2K\x1b[1A",
        "a\u2028b",
        "a\x85b",
        "a\x9b2Jb",
        "\u202eb",
        "a\x00b",
        "a\udc80b",
        "\U000e0041",
    ],
    ids=ascii,
)
def test_a_name_cannot_forge_a_line_or_move_the_cursor(name: str) -> None:
    stream = opened("text")
    logger = log.get(Component.API)
    logger.warning("unknown model", model=name)
    logger.warning(name)
    logging.getLogger("aiohttp.server").warning("odd request %s", name)
    lines = stream.getvalue().split("\n")
    assert lines.pop() == ""
    assert len(lines) == 3
    for line in lines:
        assert line.isprintable()
        assert LINE.match(line)
        line.encode()


@given(st.text(), st.text())
@settings(max_examples=100)
def test_whatever_is_said_stays_on_its_line(event: str, value: str) -> None:
    for form in ("text", "json"):
        stream = opened(form)
        log.get(Component.API).info(event, v=value)
        assert len(stream.getvalue().splitlines()) == 1
        assert stream.getvalue()[:-1].isprintable()


@given(st.text())
@settings(max_examples=50)
def test_json_gives_back_what_was_said(value: str) -> None:
    stream = opened("json")
    log.get(Component.API).info(value, v=value)
    line = json.loads(stream.getvalue())
    assert (line["message"], line["v"]) == (value, value)


def test_json_has_the_same_fields_each_by_itself() -> None:
    stream = opened("json")
    log.get(Component.SCHEDULER).info(
        "evict", model="b", idle_s=412.5, shortfall=size(3_328_599_654), alone=False, error=None
    )
    line = json.loads(stream.getvalue())
    time = datetime.fromisoformat(line.pop("time"))
    assert time.tzinfo is not None
    assert abs(datetime.now().astimezone() - time) < timedelta(minutes=1)
    assert line == {
        "component": "SCHEDULER",
        "level": "info",
        "message": "evict",
        "model": "b",
        "idle_s": 412.5,
        "shortfall": 3_328_599_654,
        "alone": False,
        "error": None,
    }


def test_the_time_in_json_has_milliseconds_and_an_offset() -> None:
    stream = opened("json")
    log.get(Component.SYSTEM).info("x")
    time = json.loads(stream.getvalue())["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", time)


def test_a_field_cannot_take_the_place_of_the_lines_own() -> None:
    stream = opened("json")
    forged = {"component": "API", "level": "debug", "message": "y", "time": "never"}
    log.get(Component.SYSTEM).info("x", **forged)
    line = json.loads(stream.getvalue())
    assert (line["component"], line["level"], line["message"]) == ("SYSTEM", "info", "x")
    assert line["time"] != "never"


def test_what_json_cannot_say_does_not_fail_its_writer() -> None:
    stream = opened("json")
    log.get(Component.SYSTEM).info("x", limit=float("inf"), ratio=float("nan"))
    line = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert (line["limit"], line["ratio"]) == ("inf", "nan")


def test_a_value_of_no_known_kind_is_shown_as_text() -> None:
    odd: str = ("a", "b")  # type: ignore[assignment]  # what a caller's mistake would pass
    for form in ("text", "json"):
        stream = opened(form)
        log.get(Component.SYSTEM).info("x", v=odd)
        assert len(stream.getvalue().splitlines()) == 1


def test_warnings_and_errors_are_told_from_the_rest() -> None:
    stream = opened("text")
    logger = log.get(Component.ENGINE)
    logger.debug("a")
    logger.info("b")
    logger.warning("c", n=1)
    logger.error("d")
    messages = [LINE.sub("", line) for line in stream.getvalue().splitlines()]
    assert messages == ["a", "b", "warning: c n=1", "error: d"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_what_is_below_the_level_is_not_said(level: str, heard: int) -> None:
    stream = opened("text", level)
    logger = log.get(Component.ENGINE)
    for say in (logger.debug, logger.info, logger.warning, logger.error):
        say("x")
    assert len(stream.getvalue().splitlines()) == heard


def fail(name: str) -> Exception:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  any will do; its traceback counts
        raise ValueError(name)
    return caught.value


def test_a_traceback_is_indented_below_its_line() -> None:
    stream = opened("text")
    error = fail("a\n[00:00:00.000] [SYSTEM] stopped\x1b[2J")
    log.get(Component.SYSTEM).error("a task failed", exc_info=error, n=1)
    first, *rest = stream.getvalue().splitlines()
    assert LINE.sub("", first) == "error: a task failed n=1"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: a", r"    [00:00:00.000] [SYSTEM] stopped\x1b[2J"]
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_a_traceback_is_one_field_in_json() -> None:
    stream = opened("json")
    log.get(Component.SYSTEM).error("a task failed", exc_info=fail("bad"))
    line = json.loads(stream.getvalue())
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("ValueError: bad")


def test_other_libraries_are_heard_from_warnings_on() -> None:
    stream = opened("text")
    other = logging.getLogger("aiohttp.server")
    other.info("served %s", "x")
    other.error("broke %s", "y", exc_info=fail("z"))
    first, *rest = stream.getvalue().splitlines()
    assert LINE.sub("", first) == "error: broke y logger=aiohttp.server"
    assert "[SYSTEM]" in first
    assert rest[-1] == "    ValueError: z"


def test_configuring_again_replaces_what_was_there() -> None:
    first = opened("text")
    second = opened("json", "error")
    logger = log.get(Component.API)
    logger.info("a")
    logger.error("b")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "b"


def test_a_handler_of_somebody_else_stays_and_hears_the_fields() -> None:
    heard: list[str] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logging.getLogger().addHandler(Other())
    opened("text")
    opened("text")
    log.get(Component.API).info("x 100%s", n=1)
    assert heard == ["x 100%s n=1"]


def test_the_log_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "text")
    log.get(Component.SYSTEM).info("x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("[SYSTEM] x\n")
