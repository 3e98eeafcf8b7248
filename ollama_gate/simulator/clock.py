"""Simulated seconds: the only clock by which anything in this world takes time.

It runs `speed` times as fast as the wall clock. It never says what time of day it is: answers
carry the wall clock's.
"""

import asyncio
import time

NS = 1_000_000_000


class Clock:
    """A clock that may run faster than the wall's."""

    def __init__(self, speed: float) -> None:
        assert speed > 0, speed
        self._speed = speed
        self._started = time.monotonic()

    def now(self) -> float:
        """Simulated seconds since the clock was made."""
        return (time.monotonic() - self._started) * self._speed

    def wall_s(self, simulated_s: float) -> float:
        """How long the wall clock takes for so many simulated seconds."""
        return simulated_s / self._speed

    async def sleep(self, simulated_s: float) -> None:
        """Let so many simulated seconds pass; none or fewer lets others run once."""
        await asyncio.sleep(max(0.0, self.wall_s(simulated_s)))
