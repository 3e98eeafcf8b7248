"""What a reading is, and what can be read. It takes none itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How much memory there is, at one instant.

    Attributes:
        total_bytes: what can be given out: of an NVIDIA card without what its driver keeps.
        used_bytes: by whomever: all of it that is not free.
        source: `nvml` or `sysfs` for a card, `system` for main memory.
        device: which, in words.
        taken_at: on the monotonic clock.
        processes: bytes by process id, in the ids of the machine itself; `None` where the driver
            does not tell of each process that uses the card.
        ours_bytes: of these, what Ollama's runners hold; `None` where that cannot be told.
        note: what a reader has to know of these figures.
        shared: whether they are those of main memory, which a card shares.
    """

    total_bytes: int
    used_bytes: int
    source: str
    device: str
    taken_at: float
    processes: Mapping[int, int] | None = None
    ours_bytes: int | None = None
    note: str = ""
    shared: bool = False


class Card(Protocol):
    """Something that can be read.

    Attributes:
        source: what its readings will say of themselves.
    """

    source: str

    def read(self) -> Reading:
        """Take a reading. Blocks: call it off the event loop.

        Raises:
            CardError: there is none to be had now; a later one may succeed.
        """
        ...
