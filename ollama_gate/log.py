"""The log's two forms: text for a person and `grep`, JSON for a collector; both to stderr.

One line for each thing that happened, as an event and the numbers that decided. A value may come
from a client, so nothing in one can begin a new line or move a terminal's cursor. It refuses to
know what is worth saying, and never sees a prompt or a body.
"""

import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Literal, TextIO

Value = str | int | float | bool | None
"""What a field may be; bytes are shown as sizes if they come from `size`."""

_OURS = "ollama_gate"
_BARE = re.compile(r"[^\s\"'=\\]+")
_INDENT = "    "


class Component(Enum):
    """Which part of the gate speaks."""

    SYSTEM = "SYSTEM"
    API = "API"
    QUEUE = "QUEUE"
    SCHEDULER = "SCHEDULER"
    ENGINE = "ENGINE"
    MONITOR = "MONITOR"
    REGISTRY = "REGISTRY"


class Size(int):
    """A number of bytes that a text line shows as `3.1GiB`; in JSON it is the number."""

    __slots__ = ()

    def __str__(self) -> str:
        scaled, unit = float(self), "B"
        for larger in ("KiB", "MiB", "GiB", "TiB"):
            if abs(scaled) < 1024:  # noqa: PLR2004  the step between binary units
                break
            scaled, unit = scaled / 1024, larger
        return f"{_three_places(scaled)}{unit}"


def size(size_bytes: int) -> Size:
    """Bytes, to be shown in the unit that suits them."""
    return Size(size_bytes)


class Log:
    """What one component says: `log.info("evict", model="b", idle_s=412)`.

    A field whose name is also one of the line's own (`time`, `component`, `level`, `message`)
    is left out of the JSON form.
    """

    __slots__ = ("_component", "_logger")

    def __init__(self, component: Component) -> None:
        self._component = component
        self._logger = logging.getLogger(f"{_OURS}.{component.value.lower()}")

    def debug(self, event: str, /, **fields: Value) -> None:
        """Say what only somebody who looks for a fault wants to read."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Value) -> None:
        """Say what happened to memory or to a request's fate."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Value) -> None:
        """Say what an operator may have to mend."""
        self._say(logging.WARNING, event, fields)

    def error(
        self, event: str, /, *, exc_info: BaseException | None = None, **fields: Value
    ) -> None:
        """Say what failed, with the traceback of `exc_info` below it."""
        self._say(logging.ERROR, event, fields, exc_info)

    def _say(
        self,
        level: int,
        event: str,
        fields: Mapping[str, Value],
        error: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            extra = {"component": self._component, "event": event, "fields": fields}
            self._logger.log(level, "%s", _text(event, fields), exc_info=error, extra=extra)


def get(component: Component) -> Log:
    """The voice of one component; it may be asked for before `configure`."""
    return Log(component)


def configure(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Write what is at least at `level` to `stream` (stderr); a second call replaces the first.

    Other libraries are heard from `warning` on, as the component SYSTEM.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        form: one of the two forms.
        stream: instead of stderr.
    """
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    for handler in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_TextFormatter() if form == "text" else _JsonFormatter())
    root.addHandler(handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(least, logging.WARNING))
    ours.setLevel(least)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from a handler that somebody else installed."""


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).strftime("%H:%M:%S.%f")[:-3]
        component, message, fields = _parts(record)
        grave = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"[{time}] [{component}] {grave}{_visible(_text(message, fields))}"
        below = [_INDENT + _visible(each) for each in _traceback(record).splitlines()]
        return "\n".join([line, *below])


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        component, message, fields = _parts(record)
        own: dict[str, Value] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "component": component,
            "level": record.levelname.lower(),
            "message": message,
        }
        line = own | {name: _finite(each) for name, each in fields.items() if name not in own}
        if below := _traceback(record):
            line["traceback"] = below
        # ASCII alone: whatever a name holds, one object is one line for every reader.
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created).astimezone()


def _parts(record: logging.LogRecord) -> tuple[str, str, Mapping[str, Value]]:
    """Component, message and fields, also of a record that another library wrote."""
    component = getattr(record, "component", None)
    if isinstance(component, Component):
        return component.value, record.__dict__["event"], record.__dict__["fields"]
    return Component.SYSTEM.value, record.getMessage(), {"logger": record.name}


def _traceback(record: logging.LogRecord) -> str:
    if record.exc_info is None or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")


def _text(event: str, fields: Mapping[str, Value]) -> str:
    return " ".join([event, *(f"{name}={_shown(value)}" for name, value in fields.items())])


def _shown(value: Value) -> str:
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return _three_places(value)
        case int():
            return str(value)
        case _:
            pass
    # The types say that this is text; a line that cannot be written must not fail its writer.
    text = str(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return _visible(json.dumps(text, ensure_ascii=False))


def _three_places(value: float) -> str:
    """Three significant places, but all digits before the point: 0.0123, 4.5, 1234."""
    shown_whole = 100
    return f"{value:.0f}" if abs(value) >= shown_whole else f"{value:.3g}"


def _finite(value: Value) -> Value:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _visible(text: str) -> str:
    """Every character that would not print as itself, escaped: breaks, escapes, direction marks."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )
