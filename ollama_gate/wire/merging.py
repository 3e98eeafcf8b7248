"""Lists of several upstreams made one: entries are moved whole and unread, in Ollama's own order.

What is around the list is the first upstream's. Nothing is altered within an entry, and nothing
said that no upstream has said.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ollama_gate import names
from ollama_gate.wire.instants import go_time
from ollama_gate.wire.items import Array, Item, arrays_of
from ollama_gate.wire.scan import HopelessError, Text, number_at


class _Form(NamedTuple):
    """How a route lists.

    Attributes:
        member: which member of the answer is the list.
        named: the fields that may hold an entry's name, the first before the others; none where
            two entries of one name are two things.
        at: the field by which Ollama sorts, the latest first: a time, or seconds since 1970.
    """

    member: str
    named: tuple[str, ...]
    at: str


_FORMS: Final = {
    "/api/tags": _Form("models", ("name", "model"), "modified_at"),
    "/api/ps": _Form("models", (), "expires_at"),
    "/v1/models": _Form("data", ("id",), "created"),
}
"""`sortListModelResponses`, `PsHandler` and `ToListCompletion` of Ollama v0.32.15."""

_WHOLE: Final = re.compile(rb"-?[0-9]{1,19}")
"""What Go reads as an `int64`, give or take the last digit."""


class _Entry(NamedTuple):
    """An entry as it came.

    Attributes:
        key: equal for entries of which only the first is listed; `None` where it stands for
            itself.
        at_s: what it is sorted by, in whole seconds as Ollama does; `None` if unreadable.
    """

    words: bytes
    key: str | None
    at_s: int | None


def is_list(method: str, path: str) -> bool:
    """Whether a route lists what an upstream has, so that several can be listed as one."""
    # Ollama v0.32.15 knows HEAD of no other.
    return path in _FORMS if method == "GET" else (method, path) == ("HEAD", "/api/tags")


def merged(path: str, bodies: Sequence[bytes]) -> bytes:
    """One list of several answers to `GET` of a route that lists, in order of precedence.

    Of one name the first entry is listed. An answer that is no such list is left out; if none is,
    the first one is returned as it is.
    """
    form = _FORMS[path]
    read = [(body, array) for body in bodies if (array := _array(body, form.member)) is not None]
    entries = [entry for body, array in read for entry in _entries(body, array, form)]
    if not entries:
        return read[0][0] if read else bodies[0]
    body, array = read[0]
    listed = b"[%b]" % b",".join(entry.words for entry in _latest_first(_first_of_each(entries)))
    return body[: array.place.start] + listed + body[array.place.end :]


def _array(body: bytes, member: str) -> Array | None:
    """The last one, as Go reads it."""
    try:
        found = arrays_of(body, member)
    except HopelessError:
        return None
    return found[-1] if found else None


def _entries(body: bytes, array: Array, form: _Form) -> Iterator[_Entry]:
    for item in array.items:
        words = body[item.place.start : item.place.end]
        yield _Entry(words, _key(body, item, form), _at(body, item.fields.get(form.at)))


def _key(body: bytes, item: Item, form: _Form) -> str | None:
    given = (item.text(body, field) for field in form.named)
    name = next((found.decode(body) for found in given if found and not found.blank), None)
    if name is None:
        return None
    parsed = names.parse_listed(name)
    return parsed.key if parsed else name


def _at(body: bytes, value: Text | None) -> int | None:
    if value is None:
        return None
    if body.startswith(b'"', value.start):
        at_s = go_time(value.decode(body))[1]
        return None if at_s is None else math.floor(at_s)
    number = number_at(body, value.start)
    return int(number) if number and _WHOLE.fullmatch(number) else None


def _first_of_each(entries: Iterable[_Entry]) -> list[_Entry]:
    seen: set[str] = set()
    kept = []
    for entry in entries:
        if entry.key not in seen:
            kept.append(entry)
        if entry.key is not None:
            seen.add(entry.key)
    return kept


def _latest_first(entries: list[_Entry]) -> list[_Entry]:
    """Among equals as they were; as they came where one cannot be told."""
    if any(entry.at_s is None for entry in entries):
        return entries
    return sorted(entries, key=lambda entry: entry.at_s or 0, reverse=True)
