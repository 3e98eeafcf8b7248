"""What is remembered of loads that went wrong: what they need after all, when to try again.

It remembers what Ollama's answers taught and nothing else. Who is next, who makes room and who is
turned away is decided elsewhere.
"""

import math
from dataclasses import dataclass

from ollama_gate.scheduler.types import BinId, Launch, ModelKey

FORGIVEN_S = 300.0
"""Failures further apart than this are not counted together."""

HOPELESS_S = 60.0
"""So long it is believed that a model cannot be whole; each look costs a load and an unload."""

REMEMBERED = 1000
"""So many sets of options are remembered; a client may name as many as it likes."""

Key = tuple[BinId, ModelKey, Launch]
"""What is loaded where: other options, other needs."""


@dataclass(slots=True)
class Trouble:
    """What one model with one set of options has been through in one bin.

    Attributes:
        needed_bytes: what is booked for it at the least.
        failures: how often in a row it ran out of memory.
        failed_at: when it last did.
        reloaded: it was loaded again because only a part of it was on the card.
        hopeless_at: when even alone in its bin it was not whole, though it should have been.
    """

    needed_bytes: int = 0
    failures: int = 0
    failed_at: float = 0.0
    reloaded: bool = False
    hopeless_at: float = -math.inf


NO_TROUBLE = Trouble()


class Recovery:
    """The troubles of all models.

    Args:
        growth: what a model is booked with after it ran out of memory, of what it was before.
        backoff_s: the first and the longest pause before it is tried again; it doubles.
    """

    def __init__(self, growth: float, backoff_s: tuple[float, float]) -> None:
        self._growth = growth
        self._backoff_s = backoff_s
        self._troubles: dict[Key, Trouble] = {}
        self._retry_at: dict[tuple[BinId, ModelKey], float] = {}

    def of(self, key: Key) -> Trouble:
        """What is known of a model; not to be changed by whoever asks."""
        return self._troubles.get(key, NO_TROUBLE)

    def ran_out(self, key: Key, booked_bytes: int, at_most_bytes: int | None, now: float) -> int:
        """A load ran out of memory: it needs more than was booked, and a pause.

        Returns how often that has happened in a row.
        """
        trouble = self._open(key)
        grown = int(booked_bytes * self._growth)
        if at_most_bytes is not None:
            # More than there is would say that it never fits; alone in its bin it may.
            grown = max(booked_bytes, min(grown, at_most_bytes))
        trouble.needed_bytes = max(trouble.needed_bytes, grown)
        recent = now - trouble.failed_at <= FORGIVEN_S
        trouble.failures = trouble.failures + 1 if recent else 1
        trouble.failed_at = now
        # The exponent is bounded so that no number of failures makes a number too large.
        first_s, longest_s = self._backoff_s
        pause_s = min(longest_s, first_s * 2.0 ** min(trouble.failures - 1, 16))
        self._retry_at[key[:2]] = now + pause_s
        return trouble.failures

    def slid(self, key: Key, wanted_bytes: int) -> None:
        """Only a part of it was on the card: now it is known what all of it takes."""
        trouble = self._open(key)
        trouble.needed_bytes = max(trouble.needed_bytes, wanted_bytes)

    def load_again(self, key: Key) -> None:
        """It is unloaded to be loaded again, which is done once."""
        self._open(key).reloaded = True

    def despair(self, key: Key, now: float) -> None:
        """With all there is to itself it was not whole."""
        self._open(key).hopeless_at = now

    def is_hopeless(self, key: Key, now: float) -> bool:
        """Whether that was seen lately, so that another load would hardly tell anything else."""
        return now < self.of(key).hopeless_at + HOPELESS_S

    def loaded(self, key: Key, *, whole: bool) -> None:
        """It was loaded, and Ollama said what it takes; if all of it, the past is forgotten."""
        self._retry_at.pop(key[:2], None)
        if whole:
            self._troubles.pop(key, None)
        elif key in self._troubles:
            self._troubles[key].failures = 0

    def retry_at(self, bin_id: BinId, model: ModelKey) -> float:
        """When a model may be loaded again, whatever its options; past if it never failed."""
        return self._retry_at.get((bin_id, model), 0.0)

    def retries(self) -> list[float]:
        """When those that failed may be loaded again, or might have been."""
        return list(self._retry_at.values())

    def _open(self, key: Key) -> Trouble:
        trouble = self._troubles.setdefault(key, Trouble())
        if len(self._troubles) > REMEMBERED:
            del self._troubles[next(iter(self._troubles))]
        return trouble
