"""Readers for the types that Go would decode a request into, and what each makes of bad input.

A reader is given a body, where a value begins and how many containers are open around it; it
returns what little of the value is of use, and where it ends. JSON's `null` is always `None`.
What Go refuses (`UnmarshalTypeError` and its like) raises `HopelessError`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ollama_gate.wire.duration import go_duration_ns
from ollama_gate.wire.scan import (
    HopelessError,
    Text,
    end_of_number,
    end_of_text,
    end_of_value,
    walk_array,
    walk_object,
)

OPAQUE: Final = "opaque"
"""Stands for a value that was passed over."""

_ANY_LEVELS: Final = 4
"""How deep an untyped value is looked into; nothing that matters lies deeper."""

_INTEGER: Final = re.compile(rb"-?[0-9]{1,19}")
_MAX_FLOAT32: Final = 2.0**128 - 2.0**103
"""From here on a float32 overflows when rounded."""
_BASE64_TEXT: Final = re.compile(rb'"[A-Za-z0-9+/]*+={0,2}"')
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")
_THINK_LEVELS: Final = frozenset({"high", "medium", "low", "max"})
_SECOND_NS: Final = 1_000_000_000
_MAX_DURATION_NS: Final = 2**63 - 1


class Reader(Protocol):
    """See the module's text."""

    def __call__(self, body: bytes, at: int, depth: int, /) -> tuple[Any, int]:
        """A value and where it ends."""


def opaque(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """A value that is only passed over."""
    is_null = body.startswith(b"null", at)
    return None if is_null else OPAQUE, end_of_value(body, at, depth)


def text(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """A string, as the place where it stands."""
    if body[at : at + 1] != b'"':
        return _null(body, at, "a string")
    end = end_of_text(body, at)
    return Text(at, end), end


def boolean(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """True or false."""
    for word, value in ((b"true", True), (b"false", False)):
        if body.startswith(word, at):
            return value, at + len(word)
    return _null(body, at, "true or false")


def integer(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """A number without fraction or exponent that fits 64 bits."""
    if not _is_number(body, at):
        return _null(body, at, "an integer")
    end = end_of_number(body, at)
    literal = body[at:end]
    if not _INTEGER.fullmatch(literal) or not -(2**63) <= int(literal) < 2**63:
        raise HopelessError(f"expected an integer at byte {at}")
    return int(literal), end


def float64(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """Any number that a float64 can hold."""
    if not _is_number(body, at):
        return _null(body, at, "a number")
    end = end_of_number(body, at)
    value = float(body[at:end])
    if math.isinf(value):
        raise HopelessError(f"number out of range at byte {at}")
    return value, end


def float32(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Any number that a float32 can hold."""
    value, end = float64(body, at, depth)
    if value is not None and abs(value) >= _MAX_FLOAT32:
        raise HopelessError(f"number out of range at byte {at}")
    return value, end


def anything(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """What Go decodes without a type, a few levels deep; strings as the places they stand."""
    return _any(body, at, depth, _ANY_LEVELS)


def mapping(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """An object whose keys are taken exactly as they are."""
    if body[at : at + 1] != b"{":
        return _null(body, at, "an object")
    return anything(body, at, depth)


def base64(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Bytes: a string in padded base64, or a list of numbers."""
    if body[at : at + 1] == b"[":
        return opaque(body, at, depth)
    found = _BASE64_TEXT.match(body, at)
    if found is not None and (found.end() - at - 2) % 4 == 0:
        return OPAQUE, found.end()
    place, end = text(body, at, depth)
    if place is not None:
        characters = place.decode(body).replace("\r", "").replace("\n", "")
        if len(characters) % 4 or not _BASE64.fullmatch(characters):
            raise HopelessError(f"illegal base64 data at byte {at}")
    return place, end


def keep_alive(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """How long to keep a model, in seconds: a number of them or Go's words; negative: for ever."""
    value, end = anything(body, at, depth)
    if value is None:
        return None, end
    if isinstance(value, Text):
        length_ns = go_duration_ns(value.decode(body))
    elif isinstance(value, float):
        length_ns = int(min(value * _SECOND_NS, _MAX_DURATION_NS)) if value >= 0 else -1
    else:
        raise HopelessError(f"expected a duration at byte {at}")
    for_ever = length_ns < 0 or length_ns == _MAX_DURATION_NS
    return math.inf if for_ever else length_ns / _SECOND_NS, end


def think(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Whether to think: a boolean, or a level, each of which means yes."""
    if body[at : at + 1] != b'"':
        return boolean(body, at, depth)
    place, end = text(body, at, depth)
    if place.decode(body) not in _THINK_LEVELS:
        raise HopelessError(f"invalid think value at byte {at}")
    return True, end


def listed(item: Reader) -> Reader:
    """A list of what `item` reads."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        if body[at : at + 1] != b"[":
            return _null(body, at, "a list")
        values: list[Any] = []

        def visit(item_at: int) -> int:
            value, end = item(body, item_at, depth + 1)
            values.append(value)
            return end

        return values, walk_array(body, at, depth, visit)

    return read


def either(readers: Mapping[bytes, Reader], *, otherwise: Reader | None = None) -> Reader:
    """What the first byte decides; without `otherwise`, only `null` is left to choose."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        reader = readers.get(body[at : at + 1], otherwise)
        if reader is None:
            return _null(body, at, "another type")
        return reader(body, at, depth)

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """An object whose keys match in any case, the last of them counting.

    Attributes:
        values: fields that a `null` leaves as they were.
        pointers: fields that a `null` clears: Go's pointers, lists, maps and interfaces.
    """

    values: Mapping[str, Reader] = field(default_factory=dict)
    pointers: Mapping[str, Reader] = field(default_factory=dict)

    def __call__(self, body: bytes, at: int, depth: int, /) -> tuple[Any, int]:
        """The fields that were given, by their names in lower case."""
        if body[at : at + 1] != b"{":
            return _null(body, at, "an object")
        found: dict[str, Any] = {}

        def visit(key: Text, value_at: int) -> int:
            return self.member(body, fold(key.decode(body)), value_at, depth + 1, found)

        return found, walk_object(body, at, depth, visit)

    def member(self, body: bytes, name: str, at: int, depth: int, found: dict[str, Any]) -> int:
        """Read one member into what was found so far; returns where its value ends."""
        if name in self.values:
            value, end = self.values[name](body, at, depth)
            if value is not None:
                found[name] = _merged(found.get(name), value)
            return end
        value, end = self.pointers.get(name, opaque)(body, at, depth)
        if name in self.pointers:
            found[name] = _merged(found.get(name), value)
        return end


def fold(key: str) -> str:
    """A key as Go compares it with a field's name: U+017F is an s, U+212A is a k."""
    return key.replace("\u017f", "s").lower()


def _merged(old: Any, new: Any) -> Any:
    """Go decodes a field that comes twice into what the first has left."""
    match old, new:
        case dict(), dict():
            return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}
        case list(), list():
            return [*map(_merged, old, new), *new[len(old) :]]
        case _:
            return new


def _any(body: bytes, at: int, depth: int, levels: int) -> tuple[Any, int]:
    first = body[at : at + 1]
    if first not in {b"{", b"["}:
        reader: Callable[[bytes, int, int], tuple[Any, int]]
        reader = text if first == b'"' else float64 if _is_number(body, at) else boolean
        return reader(body, at, depth)
    if not levels:
        return opaque(body, at, depth)
    members: dict[str, Any] = {}
    items: list[Any] = []

    def visit(key: Text, value_at: int) -> int:
        members[key.decode(body)], end = _any(body, value_at, depth + 1, levels - 1)
        return end

    def visit_item(item_at: int) -> int:
        value, end = _any(body, item_at, depth + 1, levels - 1)
        items.append(value)
        return end

    if first == b"{":
        return members, walk_object(body, at, depth, visit)
    return items, walk_array(body, at, depth, visit_item)


def _is_number(body: bytes, at: int) -> bool:
    return body[at : at + 1] in b"-0123456789" and at < len(body)


def _null(body: bytes, at: int, wanted: str) -> tuple[None, int]:
    if not body.startswith(b"null", at):
        raise HopelessError(f"expected {wanted} at byte {at}")
    return None, at + len(b"null")
