"""Where the items of a list stand in an answer of Ollama's, and their fields: spans, unread.

What an item means, and what becomes of it, is the business of whoever asks.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ollama_gate.wire.scan import Text, decoded, end_of_space, end_of_value, walk_array, walk_object


class Item(NamedTuple):
    """One item of a list.

    Attributes:
        place: all of it.
        fields: where each value stands; of a repeated key the last one, as Go reads it.
    """

    place: Text
    fields: Mapping[str, Text]

    def text(self, body: bytes, name: str) -> Text | None:
        """Where a field stands that is a string."""
        found = self.fields.get(name)
        return found if found is not None and body.startswith(b'"', found.start) else None


class Array(NamedTuple):
    """A list, or the `null` that Go writes for one that was never begun."""

    place: Text
    items: tuple[Item, ...]


def arrays_of(body: bytes, member: str) -> list[Array]:
    """Every value of that member of the object that `body` is, as far as it is a list or `null`.

    Raises:
        HopelessError: it is no JSON.
    """
    found: list[Array] = []

    def top(key: bytes, _: int, at: int) -> int:
        if decoded(key) != member or body[at : at + 1] not in {b"[", b"n"}:
            return end_of_value(body, at, 1)
        array = _array(body, at)
        found.append(array)
        return array.place.end

    start = end_of_space(body, 0)
    if body[start : start + 1] == b"{":
        walk_object(body, start, 0, top)
    return found


def _array(body: bytes, start: int) -> Array:
    items: list[Item] = []

    def item(at: int) -> int:
        items.append(_item(body, at))
        return items[-1].place.end

    is_null = not body.startswith(b"[", start)
    end = end_of_value(body, start, 1) if is_null else walk_array(body, start, 1, item)
    return Array(Text(start, end), tuple(items))


def _item(body: bytes, start: int) -> Item:
    fields: dict[str, Text] = {}

    def member(key: bytes, _: int, at: int) -> int:
        end = end_of_value(body, at, 3)
        fields[decoded(key)] = Text(at, end)
        return end

    is_object = body.startswith(b"{", start)
    end = walk_object(body, start, 2, member) if is_object else end_of_value(body, start, 2)
    return Item(Text(start, end), fields)
