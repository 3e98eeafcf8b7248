"""A sum that explains itself: each part of a footprint with its source and how far off it may be.

It adds up and computes nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Source = Literal["configured", "learned", "estimated"]
"""Where a footprint is from."""

What = Literal[
    "weights",
    "repacked",
    "kv",
    "compute",
    "process",
    "adapters",
    "draft",
    "projector",
    "projector buffers",
    "safety",
]
"""What a part of a footprint is."""

Group = Literal["weights", "kv", "compute", "overhead"]

GROUPS: Final[Mapping[What, Group]] = {
    "weights": "weights",
    "repacked": "weights",
    "kv": "kv",
    "compute": "compute",
}
"""What Ollama reports in `size_vram`; every other part is overhead, of which it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a footprint.

    Attributes:
        what: the part.
        bytes: never negative, but for a safety factor below 1.
        source: where the figure is from, in words for whoever reads it.
        error_bytes: how far off it may be, to either side.
    """

    what: What
    bytes: int
    source: str
    error_bytes: int = 0

    @property
    def group(self) -> Group:
        """Which of the four sums it belongs to."""
        return GROUPS.get(self.what, "overhead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a runner will take before it was ever seen, part by part.

    Attributes:
        parts: empty where the model takes nothing there.
        num_ctx: tokens of context of each slot.
        parallel: slots.
        batch: tokens computed at once; 0 where nothing is known of the model's shape.
    """

    parts: tuple[Part, ...] = ()
    num_ctx: int = 0
    parallel: int = 1
    batch: int = 0
    source: Source = "estimated"

    @property
    def weights_bytes(self) -> int:
        """The model's weights, with what a CPU keeps a second copy of."""
        return self._sum("weights")

    @property
    def kv_bytes(self) -> int:
        """The cache of all slots, recurrent state included."""
        return self._sum("kv")

    @property
    def compute_bytes(self) -> int:
        """Buffers for intermediate results."""
        return self._sum("compute")

    @property
    def overhead_bytes(self) -> int:
        """What Ollama never reports: the process on a card, a projector, the safety factor."""
        return self._sum("overhead")

    @property
    def size_vram_bytes(self) -> int:
        """What `/api/ps` would show: as `size_vram`, in main memory as `size`."""
        return sum(part.bytes for part in self.parts if part.what in GROUPS)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(part.bytes for part in self.parts)

    @property
    def error_bytes(self) -> int:
        """How far off the total may be, to either side: every part to the same side at once."""
        return sum(part.error_bytes for part in self.parts)

    @property
    def error(self) -> float:
        """The same as a share of the total; 0 where nothing is taken."""
        return self.error_bytes / self.total_bytes if self.total_bytes else 0.0

    def _sum(self, group: Group) -> int:
        return sum(part.bytes for part in self.parts if part.group == group)
