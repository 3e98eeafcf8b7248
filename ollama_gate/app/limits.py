"""How long a request may wait and how many of a client may, and the words for who may no more.

Who is turned away, and when, is the scheduler's to say.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

from ollama_gate import wire
from ollama_gate.config import QueueConfig
from ollama_gate.gate import RefusedError
from ollama_gate.scheduler.types import Refusal


class Patience(NamedTuple):
    """How long a request may wait, `inf` for as long as it takes, and who says so."""

    seconds: float
    limit: str

    @classmethod
    def of(cls, headers: Mapping[str, str], queue: QueueConfig) -> Self:
        """The shorter of what the request asks for and what holds for all.

        Raises:
            BadRequestError: `X-Deadline` is no number of seconds.
        """
        asked_s = wire.read_deadline(headers.get("X-Deadline"))
        allowed_s = queue.max_wait_s or math.inf
        if asked_s is not None and asked_s <= allowed_s:
            return cls(asked_s, "X-Deadline")
        return cls(allowed_s, "queue.max_wait")


def words(
    refused: RefusedError, headers: Mapping[str, str], queue: QueueConfig, waited_s: float
) -> str | None:
    """Which limit turned a request away, with the numbers; `None` if none did."""
    match refused.refusal.reason:
        case Refusal.DEADLINE:
            request = refused.request
            awaited = "an upstream to say what it is" if request is None else request.name
            return wire.too_late_text(awaited, waited_s, Patience.of(headers, queue).limit)
        case Refusal.CLIENT_FULL:
            return wire.too_many_text(queue.max_per_client)
        case _:
            return None
