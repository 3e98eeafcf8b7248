"""What a route says, before anybody knows how it is framed."""

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

EVENTS = "text/event-stream"
Headers = tuple[tuple[str, str], ...]


class Origin(enum.Enum):
    """Which part of Ollama refuses a request."""

    CLOUD = enum.auto()  # before any translation: Ollama's own shape under every route
    TRANSLATION = enum.auto()  # the dialect's middleware: its shape, framed by gin
    HANDLER = enum.auto()  # the native handler: rewritten on its way out, with a newline


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON object with a status."""

    body: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Waited:
    """The last object of a stream that the client did not want, or its error."""

    body: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Empty:
    """A status and nothing else, or a null."""

    status: int = 200
    is_null: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A body already spelled."""

    text: str
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """Objects one by one; the iterator raises `RefusedError` where the answer breaks off."""

    chunks: AsyncIterator[dict[str, Any]]


Reply = Answer | Stream


@dataclass(frozen=True, slots=True)
class Lines:
    """A stream already spelled, flushed with every piece; an empty piece sends the status alone.

    The iterator raises `RefusedError` where it fails before its first piece.
    """

    lines: AsyncGenerator[str]
    content_type: str = EVENTS
    headers: Headers = ()


class RefusedError(Exception):
    """An error with the status it has, if nothing was sent before it.

    Attributes:
        origin: who refuses; it decides how the other dialects spell and frame it.
        headers: what a dialect had already decided to send besides.
    """

    def __init__(self, status: int, text: str, origin: Origin = Origin.HANDLER) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.origin = origin
        self.headers: Headers = ()
