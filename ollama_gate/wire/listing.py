"""The one answer that is altered on its way: `expires_at` in that of `GET /api/ps`.

The gate keeps what it loads for as long as it likes and lets it go in Ollama's stead, so that
Ollama's own figure says nothing, nor does the order that follows from it. Every other byte stays
as it came.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from ollama_gate.wire.instants import go_time, spelled
from ollama_gate.wire.items import Item, arrays_of
from ollama_gate.wire.scan import HopelessError, Text

Expiry = Callable[[str], float | None]
"""For a runner's digest, when it expires, as seconds since 1970; `None` leaves what is there."""


def with_expiries(body: bytes, expiry: Expiry) -> bytes:
    """The answer of `GET /api/ps`, with the expiries that the gate has promised.

    An expiry never becomes later than what Ollama says: it would not keep the model for longer.
    The longest stay comes first, as Ollama lists them: models are moved whole, and what stands
    between them stays. What is no such answer is returned as it is.
    """
    try:
        arrays = arrays_of(body, "models")
    except HopelessError:
        return body
    models = [_replaced(body, item, expiry) for array in arrays for item in array.items]
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


def _replaced(body: bytes, item: Item, expiry: Expiry) -> _Listed:
    """A model with its expiry replaced where the gate has promised another."""
    place = item.place
    whole = body[place.start : place.end]
    said = item.text(body, "expires_at")
    if said is None:
        return _Listed(place, whole, None)
    words = said.decode(body)
    zone, theirs = go_time(words)
    digest = item.text(body, "digest")
    at_s = None if digest is None else expiry(digest.decode(body))
    if at_s is None or theirs is None or at_s >= theirs:
        return _Listed(place, whole, None if theirs is None else math.floor(theirs))
    ours = f'"{spelled(at_s, zone, words)}"'.encode()
    shown = body[place.start : said.start] + ours + body[said.end : place.end]
    return _Listed(place, shown, math.floor(at_s))
