"""Graphics cards: who holds how much of them, and what NVML would say.

A card does no scheduling and refuses nothing; whoever takes memory has looked first.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Card:
    """One card; every figure in bytes.

    Attributes:
        foreign_bytes: what programs other than Ollama hold.
        peak_bytes: the most that was ever in use.
        held_bytes: what each runner holds.
    """

    total_bytes: int
    foreign_bytes: int = 0
    peak_bytes: int = 0
    held_bytes: dict[object, int] = field(default_factory=dict, repr=False)

    @property
    def used_bytes(self) -> int:
        """What runners and others hold, never more than there is."""
        return min(self.total_bytes, self.foreign_bytes + sum(self.held_bytes.values()))

    @property
    def free_bytes(self) -> int:
        """What a live reading calls free."""
        return self.total_bytes - self.used_bytes

    def reading(self) -> tuple[int, int]:
        """Total and used, as NVML gives them."""
        return self.total_bytes, self.used_bytes

    def hold(self, holder: object, size_bytes: int) -> None:
        """Let `holder` take memory."""
        self.held_bytes[holder] = self.held_bytes.get(holder, 0) + size_bytes
        self._note_peak()

    def release(self, holder: object) -> None:
        """Give back all that `holder` has."""
        self.held_bytes.pop(holder, None)

    def take_foreign(self, size_bytes: int) -> None:
        """Another program takes so much more."""
        self.foreign_bytes += size_bytes
        self._note_peak()

    def give_back(self) -> None:
        """The other program ends."""
        self.foreign_bytes = 0

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
