"""A scanner for JSON that leaves it where it lies: spans instead of values.

It accepts what Go's `encoding/json` (1.26) accepts, byte for byte, and passes over long strings
at the speed of a compiled expression. It builds nothing, and knows no field of any request.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

MAX_DEPTH: Final = 10_000
"""Go refuses what is nested deeper."""

_PLAIN: Final = rb'[^"\\\x00-\x1f]*+'
_ESCAPE: Final = rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})'
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_WORD: Final = rb"true|false|null"

_SPACE_RUN: Final = re.compile(rb"[ \t\r\n]*+")
# Bounded repetitions: the matcher keeps a record of each, which an endless one would pile up.
_TEXT_RUN: Final = re.compile(_PLAIN + rb"(?:" + _ESCAPE + _PLAIN + rb"){0,256}")
_ITEM_RUN: Final = re.compile(
    rb'(?:(?:"' + _PLAIN + rb'"|' + _NUMBER + rb"|" + _WORD + rb")[ \t\r\n]*+,[ \t\r\n]*+){0,256}"
)
_NUMBER_RUN: Final = re.compile(_NUMBER)
_SCALAR: Final = re.compile(_NUMBER + rb"|" + _WORD)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_CLOSERS: Final = {b"{": b"}", b"[": b"]"}


class HopelessError(ValueError):
    """Ollama will refuse this body without loading anything; the text says why."""


class Text(NamedTuple):
    """Where a string stands, its quotes included; its characters are read on demand."""

    start: int
    end: int

    @property
    def blank(self) -> bool:
        """Whether it has no characters."""
        return self.end - self.start == len('""')

    def decode(self, body: bytes) -> str:
        """The characters as Go reads them; what is no UTF-8 or half a pair becomes U+FFFD."""
        raw = body[self.start : self.end].decode(errors="replace")
        if "\\" not in raw:
            return raw[1:-1]
        return _LONE_SURROGATE.sub("\ufffd", json.loads(raw))


Visit = Callable[[Text, int], int]
"""What to do with a member: given its key and where its value begins, says where that ends."""


def end_of_space(body: bytes, at: int) -> int:
    """The first byte that is no white space."""
    return _matched(_SPACE_RUN, body, at)


def end_of_text(body: bytes, at: int) -> int:
    """Behind the closing quote of the string that must begin here."""
    if body[at : at + 1] != b'"':
        raise HopelessError(f"expected a string at byte {at}")
    at += 1
    while (end := _matched(_TEXT_RUN, body, at)) != at or body[at : at + 1] == b'"':
        if body[end : end + 1] == b'"':
            return end + 1
        at = end
    raise HopelessError(f"bad character, bad escape or no end of a string at byte {at}")


def end_of_number(body: bytes, at: int) -> int:
    """Behind the number that must begin here."""
    found = _NUMBER_RUN.match(body, at)
    if found is None:
        raise HopelessError(f"expected a number at byte {at}")
    return found.end()


def end_of_value(body: bytes, at: int, depth: int) -> int:
    """Behind the value that must begin here, with `depth` containers open around it."""
    closers: list[bytes] = []
    while True:
        closer = _CLOSERS.get(body[at : at + 1])
        if closer is None:
            at = _end_of_scalar(body, at)
        else:
            at = opened(body, at, depth + len(closers))
            closers.append(closer)
            if body[at : at + 1] != closer:
                at = _to_value(body, at, closer)
                continue
        while closers:
            at = end_of_space(body, at)
            if body[at : at + 1] != closers[-1]:
                at = _to_value(body, after_comma(body, at), closers[-1])
                break
            closers.pop()
            at += 1
        else:
            return at


def opened(body: bytes, at: int, depth: int) -> int:
    """The first byte in the container that begins here."""
    if depth >= MAX_DEPTH:
        raise HopelessError(f"exceeded max depth at byte {at}")
    return end_of_space(body, at + 1)


def after_comma(body: bytes, at: int) -> int:
    """What follows the comma that must stand here."""
    if body[at : at + 1] != b",":
        raise HopelessError(f"expected a comma or the end of a list or object at byte {at}")
    return end_of_space(body, at + 1)


def walk_object(body: bytes, at: int, depth: int, visit: Visit) -> int:
    """Show each member of the object that begins here; returns where the object ends."""
    at = opened(body, at, depth)
    if body[at : at + 1] == b"}":
        return at + 1
    while True:
        key = Text(at, end_of_text(body, at))
        at = end_of_space(body, visit(key, _after_colon(body, key.end)))
        if body[at : at + 1] == b"}":
            return at + 1
        at = after_comma(body, at)


def walk_array(body: bytes, at: int, depth: int, visit: Callable[[int], int]) -> int:
    """Show where each item of the list that begins here begins; returns where the list ends."""
    at = opened(body, at, depth)
    if body[at : at + 1] == b"]":
        return at + 1
    while True:
        at = end_of_space(body, visit(at))
        if body[at : at + 1] == b"]":
            return at + 1
        at = after_comma(body, at)


def _matched(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    """The end of a match of a pattern that matches everywhere, if only nothing."""
    found: Any = pattern.match(body, at)
    end: int = found.end()
    return end


def _end_of_scalar(body: bytes, at: int) -> int:
    if body[at : at + 1] == b'"':
        return end_of_text(body, at)
    found = _SCALAR.match(body, at)
    if found is None:
        raise HopelessError(f"expected a value at byte {at}")
    return found.end()


def _to_value(body: bytes, at: int, closer: bytes) -> int:
    """From where a member or an item begins to the value to read next."""
    if closer == b"}":
        return _after_colon(body, end_of_text(body, at))
    return _matched(_ITEM_RUN, body, at)


def _after_colon(body: bytes, at: int) -> int:
    at = end_of_space(body, at)
    if body[at : at + 1] != b":":
        raise HopelessError(f"expected a colon at byte {at}")
    return end_of_space(body, at + 1)
