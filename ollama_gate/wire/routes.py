"""Which routes run a model, and in which dialect each route speaks."""

from enum import Enum, auto
from typing import Final


class Dialect(Enum):
    """How a route spells its errors."""

    NATIVE = auto()
    OPENAI = auto()
    ANTHROPIC = auto()


class Endpoint(Enum):
    """A route that runs a model; only POST does."""

    GENERATE = "/api/generate"
    CHAT = "/api/chat"
    EMBED = "/api/embed"
    EMBEDDINGS = "/api/embeddings"
    CHAT_COMPLETIONS = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    V1_EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    TRANSCRIPTIONS = "/v1/audio/transcriptions"

    @property
    def dialect(self) -> Dialect:
        """How its errors are spelled."""
        return _DIALECTS[self]


_BY_PATH: Final = {endpoint.value: endpoint for endpoint in Endpoint}


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """The inference route that a request is for; `path` comes decoded and without a query."""
    return _BY_PATH.get(path) if method == "POST" else None


def dialect_of(path: str) -> Dialect:
    """The dialect of any path; native where no other is known."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.NATIVE


_DIALECTS: Final = {endpoint: dialect_of(endpoint.value) for endpoint in Endpoint}
