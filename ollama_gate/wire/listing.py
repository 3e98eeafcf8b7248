"""The one answer that is altered on its way: `expires_at` in that of `GET /api/ps`.

The gate keeps what it loads for as long as it likes and lets it go in Ollama's stead, so that
Ollama's own figure says nothing, nor does the order that follows from it. Every other byte stays
as it came.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ollama_gate.wire.scan import (
    HopelessError,
    Text,
    decoded,
    end_of_space,
    end_of_value,
    walk_array,
    walk_object,
)

Expiry = Callable[[str], float | None]
"""For a runner's digest, when it expires, as seconds since 1970; `None` leaves what is there."""


def with_expiries(body: bytes, expiry: Expiry) -> bytes:
    """The answer of `GET /api/ps`, with the expiries that the gate has promised.

    An expiry never becomes later than what Ollama says: it would not keep the model for longer.
    The longest stay comes first, as Ollama lists them: models are moved whole, and what stands
    between them stays. What is no such answer is returned as it is.
    """
    try:
        models = _models(body, expiry)
    except HopelessError:
        return body
    shown = [model.words for model in _longest_first(models)]
    parts, at = [], 0
    for model, words in zip(models, shown, strict=True):
        parts += [body[at : model.place.start], words]
        at = model.place.end
    return b"".join([*parts, body[at:]])


class _Listed(NamedTuple):
    """A model as it will be listed.

    Attributes:
        place: where it stood.
        until: its expiry in whole seconds since 1970; `None` if it says nothing readable.
    """

    place: Text
    words: bytes
    until: int | None


def _longest_first(models: list[_Listed]) -> list[_Listed]:
    """By whole seconds, and among equals as they were: Ollama's order (`PsHandler`)."""
    if any(model.until is None for model in models):
        return models
    return sorted(models, key=lambda model: model.until or 0, reverse=True)


def _models(body: bytes, expiry: Expiry) -> list[_Listed]:
    """Every item of `models`, with its expiry replaced where the gate has promised another."""
    listed: list[_Listed] = []

    def model(at: int) -> int:
        found: dict[str, Text] = {}
        end = end_of_value(body, at, 2)
        if body[at : at + 1] == b"{":
            walk_object(body, at, 2, lambda key, _, value_at: member(key, value_at, found))
        listed.append(_replaced(body, Text(at, end), found, expiry))
        return end

    def member(key: bytes, at: int, found: dict[str, Text]) -> int:
        end = end_of_value(body, at, 3)
        if body[at : at + 1] == b'"':
            found[decoded(key)] = Text(at, end)
        return end

    def top(key: bytes, _: int, at: int) -> int:
        if decoded(key) == "models" and body[at : at + 1] == b"[":
            return walk_array(body, at, 1, model)
        return end_of_value(body, at, 1)

    start = end_of_space(body, 0)
    if body[start : start + 1] == b"{":
        walk_object(body, start, 0, top)
    return listed


def _replaced(body: bytes, place: Text, found: dict[str, Text], expiry: Expiry) -> _Listed:
    """A model of which the fields that are strings are known."""
    whole = body[place.start : place.end]
    said = found.get("expires_at")
    if said is None:
        return _Listed(place, whole, None)
    words = said.decode(body)
    zone, theirs = _go_time(words)
    digest = found.get("digest")
    at_s = None if digest is None else expiry(digest.decode(body))
    if at_s is None or theirs is None or at_s >= theirs:
        return _Listed(place, whole, None if theirs is None else math.floor(theirs))
    spelled = f'"{_spelled(at_s, zone, words)}"'.encode()
    shown = body[place.start : said.start] + spelled + body[said.end : place.end]
    return _Listed(place, shown, math.floor(at_s))


def _go_time(words: str) -> tuple[timedelta, float | None]:
    """The zone and the instant of an RFC 3339 time with any number of digits."""
    date, _, rest = words.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        read = datetime.fromisoformat(date + rest[len(digits) :])
        return read.utcoffset() or timedelta(0), read.timestamp()
    except (ValueError, OverflowError):
        return timedelta(0), None


def _spelled(at_s: float, zone: timedelta, like: str) -> str:
    """As Go writes a time, in the zone of another one."""
    local = datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None) + zone
    fraction = f".{local.microsecond:06d}".rstrip("0").rstrip(".")
    minutes = abs(zone) // timedelta(minutes=1)
    sign = "-" if zone < timedelta(0) else "+"
    ending = "Z" if like.endswith("Z") else f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{ending}"
