"""What an error text of Ollama's says of memory and of the process that ran the model.

Pure; it knows words, not what follows from them. They are Ollama's (v0.24.0 and v0.32.15: `llm`
and `server`), and are looked for in any case of letters, whatever they are wrapped in.
"""

from enum import Enum
from http import HTTPStatus
from typing import Final

OUT_OF_MEMORY: Final = (
    b"out of memory",
    b"out of device memory",
    b"cudamalloc failed",
    b"hipmalloc failed",
    b"failed to allocate",
    b"allocation failed",
    b"not enough memory",
    b"insufficient memory",
    b"vk_error_out_of_device_memory",
    b"erroroutofmemory",
    # Up to v0.24.
    b"model requires more system memory",
    b"memory layout cannot be allocated",
)

RECOVERED: Final = b"retrying without pipeline parallelism"
"""The engine says so of an allocation that it then did without."""

DIED: Final = (
    b"model runner has unexpectedly stopped",
    b"an error was encountered while running the model",
    b"llama-server process no longer running",
    b"llama-server process has terminated",
    b"llama runner process no longer running",
    b"llama runner process has terminated",
)

DIED_EMBEDDING: Final = b'"do embedding request: '
"""How `/api/embed` says it, under status 400 like anything else that goes wrong there."""


def out_of_memory(text: bytes) -> bool:
    """Whether memory ran out, and nothing was done about it."""
    lines = text.replace(b"\\n", b"\n").lower().splitlines()
    return any(word in line for line in lines if RECOVERED not in line for word in OUT_OF_MEMORY)


def runner_died(text: bytes) -> bool:
    """Whether the process that ran the model is no more."""
    lower = text.lower()
    return DIED_EMBEDDING in lower or any(word in lower for word in DIED)


COMPLETION_CHUNKS: Final = (b'"object":"chat.completion.chunk"', b'"object":"text_completion"')
NAMELESS: Final = b'"model":""'
"""On these routes Ollama makes an empty chunk of the error, the only one without a name."""

LAST_EVENTS: Final = (
    b'"type":"message_stop"',
    b'"type":"error"',
    b'"type":"response.completed"',
    b'"type":"response.failed"',
)


class Breach(Enum):
    """How a stream of events ended before its end."""

    DIED = "died"
    UNSAID = "unsaid"
    """A runner that died, or one that repeated itself until Ollama stopped it."""


def broken_off(line: bytes) -> Breach | None:
    """What the last line of a stream of events says of its end; `None` if it is as it should be.

    A line that is not whole says nothing.
    """
    if not (line.startswith(b"data: {") and line.endswith(b"}")):
        return None
    if any(kind in line for kind in COMPLETION_CHUNKS):
        return Breach.DIED if NAMELESS in line else None
    return None if any(event in line for event in LAST_EVENTS) else Breach.UNSAID


class Mishap(Enum):
    """What became of the process that ran the model."""

    DIED = "died"
    OUT_OF_MEMORY = "out of memory"


def told_by(status: int, body: bytes) -> Mishap | None:
    """What an error answer tells of the runner; `None` if it may go on.

    Under status 400, where anybody's mistakes are told, only the embedding routes' own words count.
    """
    if status == HTTPStatus.BAD_REQUEST:
        return Mishap.DIED if DIED_EMBEDDING in body.lower() else None
    if out_of_memory(body):
        return Mishap.OUT_OF_MEMORY
    return Mishap.DIED if runner_died(body) else None
