"""A scanner for JSON that leaves it where it lies: spans instead of values.

It accepts what Go's `encoding/json` (1.26) accepts, byte for byte, and passes over long strings
at the speed of compiled code. It builds nothing, and knows no field of any request.
"""

import json
import re
from collections.abc import Callable
from json import decoder
from typing import Any, Final, NamedTuple

MAX_DEPTH: Final = 10_000
"""Go refuses what is nested deeper."""

SPACE: Final = rb"[ \t\r\n]*+"
NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_PLAIN: Final = rb'[^"\\\x00-\x1f]*+'
_ESCAPE: Final = rb'\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})'
_WORD: Final = rb"true|false|null"
_SHORT: Final = rb'[^"\\\x00-\x1f]{0,500}+'
TEXT: Final = rb'"' + _SHORT + rb"(?:" + _ESCAPE + _SHORT + rb'){0,16}+"'
"""A short string with few escapes; of a long one little is looked at in vain."""

_SCALAR: Final = re.compile(NUMBER + rb"|" + _WORD)
_SPACE_RUN: Final = re.compile(SPACE)
_NUMBER_RUN: Final = re.compile(NUMBER)
_SHORT_TEXT: Final = re.compile(rb'"' + _SHORT + rb'"')
_KEY: Final = re.compile(rb'("' + _PLAIN + rb'")' + SPACE + rb":" + SPACE)
_OPENED: Final = re.compile(rb"[{\[]" + SPACE)
_AFTER_MEMBER: Final = re.compile(SPACE + rb"(?:," + SPACE + rb"|(\}))")
_AFTER_ITEM: Final = re.compile(SPACE + rb"(?:," + SPACE + rb"|(\]))")
# Bounded repetitions: the matcher keeps a record of each, which an endless one would pile up.
_ITEM: Final = rb'(?:"' + _SHORT + rb'"|' + NUMBER + rb"|" + _WORD + rb")"
_NEXT: Final = SPACE + rb"," + SPACE
_ITEM_RUN: Final = re.compile(rb"(?:" + _ITEM + _NEXT + rb"){0,256}")
_MEMBER_RUN: Final = re.compile(
    rb'(?:"' + _PLAIN + rb'"' + SPACE + rb":" + SPACE + _ITEM + _NEXT + rb"){0,256}"
)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_CONTROLS: Final = bytes(range(0x20))
_CLOSERS: Final = {b"{": b"}", b"[": b"]"}
_FIRST_CHUNK_BYTES: Final = 1 << 10
_CHUNK_BYTES: Final = 1 << 16
_LONGEST_ESCAPE: Final = len(r"\u0000")


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
        """The characters as Go reads them."""
        return decoded(body[self.start : self.end])


Visit = Callable[[bytes, int, int], int]
"""What to do with a member: given its key in quotes, where that and the value begin, says where
the value ends."""


def decoded(quoted: bytes) -> str:
    """The characters of a string; what is no UTF-8 or half a pair becomes U+FFFD."""
    raw = quoted.decode(errors="replace")
    if "\\" not in raw:
        return raw[1:-1]
    return _LONE_SURROGATE.sub("\ufffd", json.loads(raw))


def end_of_space(body: bytes, at: int) -> int:
    """The first byte that is no white space."""
    return matched(_SPACE_RUN, body, at)


def matched(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    """The end of a match of a pattern that matches everywhere, if only nothing."""
    found: Any = pattern.match(body, at)
    end: int = found.end()
    return end


def end_of_text(body: bytes, at: int) -> int:
    """Behind the closing quote of the string that must begin here."""
    found = _SHORT_TEXT.match(body, at)
    if found is not None:
        return found.end()
    if not body.startswith(b'"', at):
        raise HopelessError(f"expected a string at byte {at}")
    return _end_of_long_text(body, at + 1)


def _end_of_long_text(body: bytes, at: int) -> int:
    """Where there is no escape, only control characters are left to be looked for.

    Where there is one, Python's own reader has the same rules, but must be given characters and
    builds a string. So it is shown a chunk after the other, each byte as one character and closed
    with a quote.
    """
    quote = body.find(b'"', at)
    if body.find(b"\\", at, quote) < 0 <= quote:
        if not is_free_of(body, at, quote, _CONTROLS):
            raise HopelessError(f"bad character in a string behind byte {at}")
        return quote + 1
    size = _FIRST_CHUNK_BYTES
    while chunk := body[at : at + size]:
        if at + size < len(body):
            chunk = _cut_before_escape(chunk)
        try:
            _, end = decoder.scanstring(chunk.decode("latin-1") + '"', 0)  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            raise HopelessError(f"bad character or escape in a string behind byte {at}") from error
        if end <= len(chunk):
            return at + int(end)
        at += len(chunk)
        size = _CHUNK_BYTES
    raise HopelessError(f"no end of a string at byte {at}")


def is_free_of(body: bytes, at: int, end: int, unwanted: bytes) -> bool:
    """Whether none of the bytes between two places is unwanted; several times faster than `re`."""
    chunks = (body[i : min(i + _CHUNK_BYTES, end)] for i in range(at, end, _CHUNK_BYTES))
    return all(len(chunk.translate(None, unwanted)) == len(chunk) for chunk in chunks)


def _cut_before_escape(chunk: bytes) -> bytes:
    """A chunk without what may be half an escape at its end."""
    last = chunk.rfind(b"\\", -_LONGEST_ESCAPE)
    if last < 0:
        return chunk
    before = chunk[: last + 1]
    # Of an even number of backslashes each pair is whole.
    is_whole = (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
    return chunk if is_whole else chunk[:last]


def number_at(body: bytes, at: int) -> bytes | None:
    """The number that begins here, as it stands."""
    found = _NUMBER_RUN.match(body, at)
    return None if found is None else found[0]


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
            if not body.startswith(closer, at):
                at = _to_value(body, at, closer)
                continue
        while closers:
            at = end_of_space(body, at)
            if not body.startswith(closers[-1], at):
                at = _to_value(body, _after_comma(body, at), closers[-1])
                break
            closers.pop()
            at += 1
        else:
            return at


def opened(body: bytes, at: int, depth: int) -> int:
    """The first byte in the container that begins here."""
    if depth >= MAX_DEPTH:
        raise HopelessError(f"exceeded max depth at byte {at}")
    return matched(_OPENED, body, at)


def walk_object(body: bytes, at: int, depth: int, visit: Visit) -> int:
    """Show each member of the object that begins here; returns where the object ends."""
    at = opened(body, at, depth)
    if body.startswith(b"}", at):
        return at + 1
    while True:
        key = _KEY.match(body, at)
        if key is None:
            end = end_of_text(body, at)
            at = visit(body[at:end], at, _after_colon(body, end))
        else:
            at = visit(key[1], at, key.end())
        after = _AFTER_MEMBER.match(body, at)
        if after is None:
            raise HopelessError(f"expected a comma or the end of an object at byte {at}")
        at = after.end()
        if after.lastindex:
            return at


def walk_array(body: bytes, at: int, depth: int, visit: Callable[[int], int]) -> int:
    """Show where each item of the list that begins here begins; returns where the list ends."""
    at = opened(body, at, depth)
    if body.startswith(b"]", at):
        return at + 1
    while True:
        at = visit(at)
        after = _AFTER_ITEM.match(body, at)
        if after is None:
            raise HopelessError(f"expected a comma or the end of a list at byte {at}")
        at = after.end()
        if after.lastindex:
            return at


def _end_of_scalar(body: bytes, at: int) -> int:
    if body.startswith(b'"', at):
        return end_of_text(body, at)
    found = _SCALAR.match(body, at)
    if found is None:
        raise HopelessError(f"expected a value at byte {at}")
    return found.end()


def _to_value(body: bytes, at: int, closer: bytes) -> int:
    """From where a member or an item begins to the value to read next."""
    if closer == b"}":
        at = matched(_MEMBER_RUN, body, at)
        return _after_colon(body, end_of_text(body, at))
    return matched(_ITEM_RUN, body, at)


def _after_comma(body: bytes, at: int) -> int:
    if not body.startswith(b",", at):
        raise HopelessError(f"expected a comma or the end of a list or object at byte {at}")
    return end_of_space(body, at + 1)


def _after_colon(body: bytes, at: int) -> int:
    at = end_of_space(body, at)
    if not body.startswith(b":", at):
        raise HopelessError(f"expected a colon at byte {at}")
    return end_of_space(body, at + 1)
