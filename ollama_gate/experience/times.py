"""How long a model's loads, unloads and answers took, as moving averages."""

from dataclasses import dataclass, replace
from typing import Final

LATEST_SHARE: Final = 0.3
"""How much the latest counts; the first few count alike, as in a plain average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """A moving average of lengths in seconds."""

    seconds: float
    count: int = 1

    def took(self, seconds: float) -> "Average":
        """With one more."""
        count = self.count + 1
        share = max(LATEST_SHARE, 1 / count)
        return Average(seconds=self.seconds + share * (seconds - self.seconds), count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one model on one upstream; `None` where there was none yet.

    Attributes:
        load: from the order to the model's being listed.
        unload: from the order to its being listed no longer.
        service: from a request's slot to the end of its answer.
    """

    load: Average | None = None
    unload: Average | None = None
    service: Average | None = None

    def loaded(self, seconds: float) -> "Times":
        """With one more load."""
        return replace(self, load=_with(self.load, seconds))

    def unloaded(self, seconds: float) -> "Times":
        """With one more unload."""
        return replace(self, unload=_with(self.unload, seconds))

    def served(self, seconds: float) -> "Times":
        """With one more answer."""
        return replace(self, service=_with(self.service, seconds))


def _with(average: Average | None, seconds: float) -> Average:
    return Average(seconds=seconds) if average is None else average.took(seconds)
