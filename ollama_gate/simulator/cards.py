"""Graphics cards: who holds how much of them, and what NVML would say.

A card does no scheduling and refuses nothing. Whoever takes memory has looked first, and where
others took it all the same, finds out at the next step that some is `missing`.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Card:
    """One card; every figure in bytes.

    Attributes:
        foreign_bytes: what programs other than Ollama hold.
        peak_bytes: the most that was ever in use.
        held_bytes: what each runner holds.
        is_lost: fallen off the bus, as far as a driver can tell; runners run on.
    """

    total_bytes: int
    foreign_bytes: int = 0
    peak_bytes: int = 0
    held_bytes: dict[object, int] = field(default_factory=dict, repr=False)
    is_lost: bool = False

    @property
    def used_bytes(self) -> int:
        """What runners and others hold, never more than there is."""
        return min(self.total_bytes, self._wanted_bytes())

    @property
    def missing_bytes(self) -> int:
        """How much more is wanted than there is."""
        return max(0, self._wanted_bytes() - self.total_bytes)

    @property
    def free_bytes(self) -> int:
        """What a live reading calls free."""
        return self.total_bytes - self.used_bytes

    def reading(self) -> tuple[int, int]:
        """Total and used, as NVML gives them."""
        return self.total_bytes, self.used_bytes

    def hold(self, holder: object, size_bytes: int) -> None:
        """Let `holder` have so much, all told."""
        self.held_bytes[holder] = size_bytes
        self._note_peak()

    def release(self, holder: object) -> None:
        """Give back all that `holder` has."""
        self.held_bytes.pop(holder, None)

    def take_foreign(self, size_bytes: int) -> None:
        """Another program takes so much more."""
        self.set_foreign(self.foreign_bytes + size_bytes)

    def set_foreign(self, size_bytes: int) -> None:
        """Other programs hold so much from now on."""
        self.foreign_bytes = size_bytes
        self._note_peak()

    def lose(self) -> None:
        """Let every reading fail until `find`."""
        self.is_lost = True

    def find(self) -> None:
        """Let it be read again."""
        self.is_lost = False

    def give_back(self) -> None:
        """The other program ends."""
        self.foreign_bytes = 0

    def _wanted_bytes(self) -> int:
        return self.foreign_bytes + sum(self.held_bytes.values())

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
