"""The cards of one upstream, each read by a poller of its own; one of them is planned with.

The others are read for what their sum decides (Ollama's automatic context) and to be shown.
"""

from collections.abc import Callable
from typing import Any, Final

from ollama_gate.errors import CardError
from ollama_gate.gpu.finding import Found, Listed
from ollama_gate.gpu.poller import BUSY_S, Poller
from ollama_gate.gpu.reading import Reading

Json = dict[str, Any]

_READ: Final = ("source", "device", "total_bytes", "used_bytes", "ours_bytes", "note")


class Meters:
    """Begins and ends the pollers, and knows what each says. Fits `gate.Meter`.

    Args:
        found: what there is.
        tell: as `Poller` has it, for the card that is planned with.
        total: what all cards together have, whenever that may have changed; never for main memory.
        busy_s: between two readings of the card that is planned with, while memory moves.
    """

    def __init__(
        self,
        found: Found,
        *,
        tell: Callable[[Reading | CardError], None],
        total: Callable[[int], None],
        busy_s: float = BUSY_S,
    ) -> None:
        self._found = found
        self._tell = tell
        self._total = total
        self._pollers = tuple(
            self._poller(place, each, busy_s) for place, each in enumerate(found.listed)
        )

    def _poller(self, place: int, listed: Listed, busy_s: float) -> Poller | None:
        if listed.card is None:
            return None
        tell = self._planned if place == self._found.planned else self._other
        return Poller(listed.card, tell, busy_s=busy_s)

    def _planned(self, reading: Reading | CardError) -> None:
        self._other(reading)
        self._tell(reading)

    def _other(self, reading: Reading | CardError) -> None:
        total_bytes = self.total_bytes
        if isinstance(reading, Reading) and total_bytes is not None:
            self._total(total_bytes)

    @property
    def total_bytes(self) -> int | None:
        """What all cards together have, as far as it is known; `None` if nothing is."""
        if self._found.cpu:
            return None
        known = [
            poller.last.total_bytes if poller and poller.last else listed.vram_bytes
            for poller, listed in zip(self._pollers, self._found.listed, strict=True)
        ]
        sizes = [size for size in known if size is not None]
        return sum(sizes) if sizes else None

    def hurry(self, *, busy: bool) -> None:
        """Say whether memory is on the move."""
        poller = self._pollers[self._found.planned]
        if poller is not None:
            poller.hurry(busy=busy)

    def start(self) -> None:
        """Begin, with a reading of each at once. Needs a running event loop."""
        total_bytes = self.total_bytes
        if total_bytes is not None:
            self._total(total_bytes)
        for poller in self._pollers:
            if poller is not None:
                poller.start()

    async def stop(self) -> None:
        """End; see `Poller.stop`."""
        for poller in self._pollers:
            if poller is not None:
                await poller.stop()

    def status(self, now: float) -> Json:
        """The card that is planned with, and below `others` the rest, for `/gate/status`.

        Args:
            now: on the monotonic clock.
        """
        shown = [
            _status(poller, listed, now)
            for poller, listed in zip(self._pollers, self._found.listed, strict=True)
        ]
        planned = shown.pop(self._found.planned)
        return {**planned, "others": shown} if shown else planned


def _status(poller: Poller | None, listed: Listed, now: float) -> Json:
    budget = {} if listed.vram_bytes is None else {"budget_bytes": listed.vram_bytes}
    if poller is None:
        return {"source": "config" if budget else "unknown", **budget}
    age_s = poller.age_s(now)
    shown = {name: getattr(poller.last, name, None) for name in _READ}
    return {
        **shown,
        "processes": _processes(poller.last),
        "source": poller.last.source if poller.last else poller.card.source,
        "age_s": None if age_s is None else round(age_s, 3),
        "stale": poller.stale(now),
        "error": None if poller.error is None else str(poller.error),
        **budget,
    }


def _processes(reading: Reading | None) -> list[Json] | None:
    """Who uses a card, the largest first; `None` where the driver does not tell."""
    if reading is None or reading.processes is None:
        return None
    by_size = sorted(reading.processes.items(), key=lambda each: (-each[1], each[0]))
    return [{"pid": pid, "used_bytes": used_bytes} for pid, used_bytes in by_size]
