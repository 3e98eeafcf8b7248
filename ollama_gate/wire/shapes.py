"""Readers for the types that Go would decode a request into, and what each makes of bad input.

A reader is given a body, where a value begins and how many containers are open around it; it
returns what little of the value is of use, and where it ends. JSON's `null` is always `None`.
What Go refuses (`UnmarshalTypeError` and its like) raises `HopelessError`.
"""

import math
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, Protocol

from ollama_gate.wire.duration import go_duration_ns
from ollama_gate.wire.scan import (
    SPACE,
    TEXT,
    HopelessError,
    Text,
    decoded,
    end_of_space,
    end_of_text,
    end_of_value,
    is_free_of,
    matched,
    number_at,
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
_PAD: Final = ord("=")
_PADDING_MOST: Final = 2
_NO_BASE64: Final = bytes(
    set(range(256)).difference(string.ascii_letters.encode(), string.digits.encode(), b"+/")
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*+={0,2}")
_THINK_LEVELS: Final = frozenset({"high", "medium", "low", "max"})
_NEXT: Final = SPACE + b"," + SPACE
# Bounded repetitions: the matcher keeps a record of each.
_TEXTS: Final = re.compile(rb"(?:" + TEXT + _NEXT + rb"){0,256}+")
# None of these is out of range.
_NUMBERS: Final = re.compile(
    rb"(?:-?(?:0|[1-9][0-9]{0,17}+)(?:\.[0-9]{1,99}+)?" + _NEXT + rb"){0,256}+"
)
INTEGERS: Final = re.compile(rb"(?:-?(?:0|[1-9][0-9]{0,17}+)" + _NEXT + rb"){0,256}+")
"""A run of integers, each with the comma behind it."""
TALK: Final = re.compile(
    rb"(?:\{" + SPACE + rb'(?:"role"' + SPACE + rb":" + SPACE + TEXT + _NEXT + rb")?"
    rb'"content"'
    + SPACE
    + rb":"
    + SPACE
    + rb'(?!"")'
    + TEXT
    + SPACE
    + rb"\}"
    + _NEXT
    + rb"){0,64}+"
)
"""A run of messages that each have words and at most a role, with the comma behind them."""
SOME_TEXT: Final = Text(0, len('"x"'))
"""A string that is not blank, and whose characters nobody will ask for."""
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
    if not body.startswith(b'"', at):
        return _null(body, at, "a string")
    end = end_of_text(body, at)
    return Text(at, end), end


def boolean(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """True or false."""
    if body.startswith(b"true", at):
        return True, at + len(b"true")
    if body.startswith(b"false", at):
        return False, at + len(b"false")
    return _null(body, at, "true or false")


def integer(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """A number without fraction or exponent that fits 64 bits."""
    literal = number_at(body, at)
    if literal is None:
        return _null(body, at, "an integer")
    if not _INTEGER.fullmatch(literal) or not -(2**63) <= int(literal) < 2**63:
        raise HopelessError(f"expected an integer at byte {at}")
    return int(literal), at + len(literal)


def float64(body: bytes, at: int, _depth: int) -> tuple[Any, int]:
    """Any number that a float64 can hold."""
    literal = number_at(body, at)
    if literal is None:
        return _null(body, at, "a number")
    value = float(literal)
    if math.isinf(value):
        raise HopelessError(f"number out of range at byte {at}")
    return value, at + len(literal)


def float32(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Any number that a float32 can hold."""
    value, end = float64(body, at, depth)
    # Close to the edge a float64 is too coarse to tell.
    if value is not None and abs(value) >= _MAX_FLOAT32 and _is_beyond(body[at:end]):
        raise HopelessError(f"number out of range at byte {at}")
    return value, end


def _is_beyond(number: bytes) -> bool:
    return Decimal(number.decode()).copy_abs() >= Decimal(_MAX_FLOAT32)


def anything(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """What Go decodes without a type, a few levels deep; strings as the places they stand."""
    return _any(body, at, depth, _ANY_LEVELS)


def mapping(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """An object whose keys are taken exactly as they are."""
    if not body.startswith(b"{", at):
        return _null(body, at, "an object")
    value, end = anything(body, at, depth)
    return Found(value), end


def base64(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Bytes: a string in padded base64, or a list of numbers."""
    if body.startswith(b"[", at):
        return _BYTES(body, at, depth)
    plain_end = _end_of_base64(body, at)
    if plain_end is not None:
        return OPAQUE, plain_end
    place, end = text(body, at, depth)
    if place is not None:
        check_base64(body, place)
    return place, end


def _end_of_base64(body: bytes, at: int) -> int | None:
    """Behind the string that begins here, if it is padded base64 without an escape."""
    end = body.find(b'"', at + 1)
    if not body.startswith(b'"', at) or end < 0 or (end - at - 1) % 4:
        return None
    letters_end = end
    while (
        letters_end > at + 1 and end - letters_end < _PADDING_MOST and body[letters_end - 1] == _PAD
    ):
        letters_end -= 1
    return end + 1 if is_free_of(body, at + 1, letters_end, _NO_BASE64) else None


def check_base64(body: bytes, place: Text) -> None:
    """Raise `HopelessError` unless Go could decode a string."""
    if _end_of_base64(body, place.start) is None and not is_base64(place.decode(body)):
        raise HopelessError(f"illegal base64 data at byte {place.start}")


def is_base64(characters: str) -> bool:
    """Whether Go could decode this; it passes over ends of lines."""
    characters = characters.replace("\r", "").replace("\n", "")
    return len(characters) % 4 == 0 and _BASE64.fullmatch(characters) is not None


def check_arguments(written: str) -> None:
    """Raise `HopelessError` unless a string holds a JSON object, or `null`, and nothing else."""
    body = written.encode()
    start = end_of_space(body, 0)
    end = mapping(body, start, 0)[1]
    if end_of_space(body, end) != len(body):
        raise HopelessError("invalid tool call arguments")


def keep_alive(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """How long to keep a model, in seconds: a number of them or Go's words; negative: for ever.

    A number too large for Go's nanoseconds becomes, on x86-64, the most negative length, and the
    model goes as soon as it idles: a nanosecond stands for that, since 0 has a meaning of its own.
    """
    value, end = anything(body, at, depth)
    if value is None:
        return None, end
    if isinstance(value, Text):
        length_ns = go_duration_ns(value.decode(body))
    elif isinstance(value, float):
        length_ns = _number_of_seconds_ns(value)
    else:
        raise HopelessError(f"expected a duration at byte {at}")
    for_ever = length_ns < 0 or length_ns == _MAX_DURATION_NS
    return math.inf if for_ever else length_ns / _SECOND_NS, end


def _number_of_seconds_ns(value: float) -> int:
    if value < 0:
        return -1
    length_ns = value * _SECOND_NS
    return int(length_ns) if length_ns <= _MAX_DURATION_NS else 1


def think(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Whether to think: a boolean, or a level, each of which means yes."""
    if body[at : at + 1] != b'"':
        return boolean(body, at, depth)
    place, end = text(body, at, depth)
    if place.decode(body) not in _THINK_LEVELS:
        raise HopelessError(f"invalid think value at byte {at}")
    return True, end


def listed(item: Reader, *, alike: re.Pattern[bytes] | None = None, one: Any = None) -> Reader:
    """A list of what `item` reads.

    Where many items may be all `alike`, a pattern passes over a run of them, commas included, and
    `one` of them stands for the run.
    """

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        if not body.startswith(b"[", at):
            return _null(body, at, "a list")
        values: list[Any] = []
        shortened = False

        def visit(item_at: int) -> int:
            nonlocal shortened
            if alike is not None and (end := matched(alike, body, item_at)) > item_at:
                shortened = True
                values.append(one)
                while (item_at := end) < (end := matched(alike, body, item_at)):
                    pass
            value, end = item(body, item_at, depth + 1)
            values.append(value)
            return end

        end = walk_array(body, at, depth, visit)
        return Shortened(values) if shortened else Listed(values), end

    return read


def named(item: Reader) -> Reader:
    """An object of any keys, all of one type; nothing of it is kept."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        if not body.startswith(b"{", at):
            return _null(body, at, "an object")

        def visit(_key: bytes, _key_at: int, value_at: int) -> int:
            return item(body, value_at, depth + 1)[1]

        return OPAQUE, walk_object(body, at, depth, visit)

    return read


class Listed(list[Any]):
    """A list whose items have a type, so that a second one is fitted into it."""


class Shortened(Listed):
    """One of which some items stand for many."""


class ShortenedError(Exception):
    """A list came twice, so that Go fits the items into each other, and was shortened."""


def held(reader: Reader) -> Reader:
    """What Go keeps as it stands and decodes later, if at all: what is wrong is told then."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        try:
            return reader(body, at, depth)
        except HopelessError as error:
            return Wrong(str(error)), end_of_value(body, at, depth)

    return read


@dataclass(frozen=True, slots=True)
class Wrong:
    """A value that Go refuses once it decodes it, and why."""

    why: str


def whole(value: Any) -> Any:
    """A held value, now that it is decoded; raises `HopelessError` if it was wrong."""
    if isinstance(value, Wrong):
        raise HopelessError(value.why)
    return value


def checked(reader: Reader, check: Callable[[bytes, Any], None]) -> Reader:
    """What `reader` reads, once `check` has found nothing wrong with it."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        value, end = reader(body, at, depth)
        check(body, value)
        return value, end

    return read


def either(readers: Mapping[bytes, Reader], *, otherwise: Reader | None = None) -> Reader:
    """What the first byte decides; without `otherwise`, only `null` is left to choose."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        reader = readers.get(body[at : at + 1], otherwise)
        if reader is None:
            return _null(body, at, "another type")
        return reader(body, at, depth)

    return read


class Struct:
    """An object whose keys match in any case, the last of them counting.

    `values` are fields that a `null` leaves as they were. `pointers` are those that it clears:
    Go's pointers, lists and maps. `plain` are those of which the last alone counts: interfaces,
    and what is kept to be decoded later.
    """

    def __init__(
        self,
        *,
        values: Mapping[str, Reader] | None = None,
        pointers: Mapping[str, Reader] | None = None,
        plain: Mapping[str, Reader] | None = None,
    ) -> None:
        self._fields: dict[str, _Field] = {
            **{name: _Field(name, read, "value") for name, read in (values or {}).items()},
            **{name: _Field(name, read, "pointer") for name, read in (pointers or {}).items()},
            **{name: _Field(name, read, "plain") for name, read in (plain or {}).items()},
        }
        # As most clients spell them, so that nothing need be decoded.
        self._spelled = {
            f'"{name}"'.encode(): field for name, field in self._fields.items() if name.isascii()
        }

    def __call__(self, body: bytes, at: int, depth: int, /) -> tuple[Any, int]:
        """The fields that were given, by their names in lower case."""
        if not body.startswith(b"{", at):
            return _null(body, at, "an object")
        found = Found()

        def visit(key: bytes, _key_at: int, value_at: int) -> int:
            return self.member(body, key, value_at, depth + 1, found)[1]

        return found, walk_object(body, at, depth, visit)

    def member(
        self, body: bytes, key: bytes, at: int, depth: int, found: dict[str, Any]
    ) -> tuple[str, int]:
        """Read one member into what was found so far.

        Returns the field's name, empty for what is no field, and where the value ends.
        """
        field = self._spelled.get(key) or self._fields.get(fold(decoded(key)))
        if field is None:
            return "", end_of_value(body, at, depth)
        name, read, kind = field
        value, end = read(body, at, depth)
        if value is None and kind == "value":
            return name, end
        if kind != "plain" and name in found:
            value = _merged(found[name], value)
        found[name] = value
        return name, end


class Found(dict[str, Any]):
    """What was found in an object that has a type, so that a second one is fitted into it."""


class _Field(NamedTuple):
    name: str
    read: Reader
    kind: Literal["value", "pointer", "plain"]


def _byte(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    value, end = integer(body, at, depth)
    if value is not None and not 0 <= value < 1 << 8:
        raise HopelessError(f"expected a byte at byte {at}")
    return value, end


_BYTES: Final = listed(_byte)


def fold(key: str) -> str:
    """A key as Go compares it with a field's name: U+017F is an s, U+212A is a k."""
    return key.replace("\u017f", "s").lower()


def _merged(old: Any, new: Any) -> Any:
    """Go decodes a field that comes twice into what the first has left."""
    match old, new:
        case (Shortened(), Listed()) | (Listed(), Shortened()):
            raise ShortenedError
        case Found(), Found():
            merged = {name: _merged(old.get(name), value) for name, value in new.items()}
            return Found(old | merged)
        case Listed(), Listed():
            return Listed([*map(_merged, old, new), *new[len(old) :]])
        case _:
            return new


def _any(body: bytes, at: int, depth: int, levels: int) -> tuple[Any, int]:
    first = body[at : at + 1]
    if first == b'"':
        return text(body, at, depth)
    if first not in {b"{", b"["}:
        is_word = first in {b"t", b"f", b"n"}
        return boolean(body, at, depth) if is_word else float64(body, at, depth)
    if not levels:
        return opaque(body, at, depth)
    members: dict[str, Any] = {}
    items: list[Any] = []

    def visit(key: bytes, _key_at: int, value_at: int) -> int:
        members[decoded(key)], end = _any(body, value_at, depth + 1, levels - 1)
        return end

    def visit_item(item_at: int) -> int:
        # One string stands for many, and one number.
        for run, one in ((_TEXTS, SOME_TEXT), (_NUMBERS, 0.0)):
            if (end := matched(run, body, item_at)) > item_at:
                items.append(one)
            while end > item_at:
                item_at, end = end, matched(run, body, end)
        value, end = _any(body, item_at, depth + 1, levels - 1)
        items.append(value)
        return end

    if first == b"{":
        return members, walk_object(body, at, depth, visit)
    return items, walk_array(body, at, depth, visit_item)


def _null(body: bytes, at: int, wanted: str) -> tuple[None, int]:
    if not body.startswith(b"null", at):
        raise HopelessError(f"expected {wanted} at byte {at}")
    return None, at + len(b"null")
