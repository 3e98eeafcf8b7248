"""When a figure counts: it stood for a moment, twice alike, and once for each runner.

Ollama lists a runner as soon as it is loaded; what is read in that instant may still move.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Final

SETTLED_S: Final = 1.0
"""How long a runner must have been listed before a figure of it counts."""


@dataclass(slots=True)
class _Sighting:
    since: float
    shown: Hashable
    counted: bool = False


class Sightings:
    """Runners that are listed, and what was shown of each."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, _Sighting] = {}

    def confirm(self, runner: Hashable, shown: Hashable, now: float) -> bool:
        """Take in what is shown of a runner; true if it counts now, which it does once.

        Args:
            runner: the same for as long as it is listed.
            shown: whatever is compared with what was shown before.
            now: on the monotonic clock.
        """
        seen = self._seen.get(runner)
        if seen is None:
            self._seen[runner] = _Sighting(now, shown)
            return False
        if seen.shown != shown:
            seen.shown, seen.counted = shown, False
            return False
        counts = not seen.counted and now - seen.since >= SETTLED_S
        seen.counted = seen.counted or counts
        return counts

    def keep(self, listed: Collection[Hashable]) -> None:
        """Forget whom a whole listing lacks; the same runner, loaded again, counts again."""
        self._seen = {runner: seen for runner, seen in self._seen.items() if runner in listed}
