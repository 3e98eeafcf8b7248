"""The one answer that is altered on its way: `expires_at` in that of `GET /api/ps`.

The gate keeps what it loads for as long as it likes and lets it go in Ollama's stead, so that
Ollama's own figure says nothing. Every other byte stays as it came.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

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
    What is no such answer is returned as it is.
    """
    cuts: list[tuple[Text, bytes]] = []
    try:
        _each_model(body, lambda found: _replace(body, found, expiry, cuts))
    except HopelessError:
        return body
    parts, at = [], 0
    for place, words in cuts:
        parts += [body[at : place.start], words]
        at = place.end
    return b"".join([*parts, body[at:]])


def _each_model(body: bytes, tell: Callable[[dict[str, Text]], None]) -> None:
    """The fields of each model that are strings."""

    def model(at: int) -> int:
        found: dict[str, Text] = {}
        end = end_of_value(body, at, 2)
        if body[at : at + 1] == b"{":
            walk_object(body, at, 2, lambda key, _, value_at: member(key, value_at, found))
            tell(found)
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


def _replace(
    body: bytes, found: dict[str, Text], expiry: Expiry, cuts: list[tuple[Text, bytes]]
) -> None:
    digest, place = found.get("digest"), found.get("expires_at")
    if digest is None or place is None:
        return
    at_s = expiry(digest.decode(body))
    if at_s is None:
        return
    words = place.decode(body)
    zone, theirs = _go_time(words)
    if theirs is not None and at_s < theirs:
        cuts.append((place, f'"{_spelled(at_s, zone, words)}"'.encode()))


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
