"""Where a native request names its context, and the request with another one in that place.

`options.num_ctx` is the one option that the gate may alter. Nothing is decoded and written again:
of the body one number is replaced, and every other byte stays as it came.
"""

from typing import NamedTuple

from ollama_gate.wire.scan import decoded, end_of_value, walk_object

_NAME = "num_ctx"


class Place(NamedTuple):
    """From where to where a value stands in a body."""

    start: int
    end: int

    def behind(self, cuts: list[tuple[int, int]]) -> "Place":
        """The same place once these pieces of the body, none of which holds it, are cut out."""
        gone = sum(end - start for start, end in cuts if start < self.start)
        return Place(self.start - gone, self.end - gone)


def context_in(body: bytes, at: int, before: Place | None) -> Place | None:
    """Where the value stands that counts, once the `options` that begin here are read too.

    Options that come twice are merged, the last value of a name counting; `null` takes back all
    that came before it. Their names must match exactly.

    Args:
        body: all of it, found to be valid up to the end of these options.
        at: where the value of a field called `options`, in whatever case, begins.
        before: the answer for those that came before.
    """
    if not body.startswith(b"{", at):
        return None
    found = before

    def visit(key: bytes, _key_at: int, value_at: int) -> int:
        nonlocal found
        end = end_of_value(body, value_at, 2)
        if decoded(key) == _NAME:
            found = Place(value_at, end)
        return end

    walk_object(body, at, 1, visit)
    return found


def with_context(body: bytes, place: Place, num_ctx: int) -> bytes:
    """The body with this number in that place."""
    return b"".join((body[: place.start], str(num_ctx).encode(), body[place.end :]))
