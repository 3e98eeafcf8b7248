"""Answers spelled as Server-Sent Events, object by object."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.replies import Headers, RefusedError

KEPT_OPEN: Headers = (("Cache-Control", "no-cache"), ("Connection", "keep-alive"))


class Spelling(Protocol):
    """Turns one stream of Ollama's objects into a dialect's text; keeps what it has said."""

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """One object's events; there may be none."""

    def lost(self) -> str:
        """What becomes of an error when the stream has begun: Ollama reads it as an object."""


async def spelled(
    chunks: AsyncIterator[dict[str, Any]], spelling: Spelling, headers: Headers = ()
) -> AsyncGenerator[str]:
    """All of them.

    Args:
        chunks: what the model says.
        spelling: the dialect.
        headers: what an error before the first of them is sent with.

    Raises:
        RefusedError: where the answer fails before its first object.
    """
    began = False
    try:
        async for chunk in chunks:
            yield spelling.spell(chunk)
            began = True
    except RefusedError as error:
        if not began:
            error.headers = headers
            raise
        yield spelling.lost()


def data(value: Mapping[str, Any]) -> str:
    """An event without a name."""
    return f"data: {encode(value)}\n\n"


def event(name: str, value: Mapping[str, Any]) -> str:
    """An event with a name."""
    return f"event: {name}\ndata: {encode(value)}\n\n"


async def at_once(text: str) -> AsyncGenerator[str]:
    """An answer that is whole from the start, and flushed all the same."""
    yield text


@contextlib.contextmanager
def besides(headers: Headers) -> Iterator[None]:
    """Send these with whatever is refused here."""
    try:
        yield
    except RefusedError as error:
        error.headers = headers
        raise
