"""A note: something to be known in the next life, under a name of four parts."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class NoteId(NamedTuple):
    """What a note is found by.

    Attributes:
        upstream: of which Ollama.
        topic: what kind of thing it says.
        subject: of what, such as a model.
        detail: whatever else tells it from others.
    """

    upstream: str
    topic: str
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is to be known; `value` is anything that JSON can say, and is not changed any more."""

    id: NoteId
    value: Any
