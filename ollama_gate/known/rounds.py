"""Work that is done in the background, step by step, and leaves time for others in between."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from ollama_gate import log
from ollama_gate.errors import UpstreamError
from ollama_gate.known.listing import Clock

LOOK_S: Final = 30.0
"""Who looks at what is known begins a round, unless there was one so lately."""

PAUSE_S: Final = 1.0
"""The longest pause after a step; otherwise it is as long as the step was."""

_registry = log.get(log.Component.REGISTRY)


class Rounds:
    """One task at most, which ends when there is nothing left to do.

    Args:
        step: does one thing; false when there is none left.
        clock: seconds, never going back.
    """

    def __init__(self, step: Callable[[], Awaitable[bool]], clock: Clock) -> None:
        self._step = step
        self._clock = clock
        self._began_at = -math.inf
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin a round if the last one began long ago."""
        if self._clock() - self._began_at > LOOK_S:
            self.wake()

    def wake(self) -> None:
        """Begin a round; one that is under way looks once more at its end."""
        self._began_at = self._clock()
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End it, whatever is left to do."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                while await self._timed():
                    pass
            except UpstreamError as error:
                # Whoever sees it come back wakes this again.
                _registry.debug("models not looked at", reason=str(error))
            except Exception as error:  # noqa: BLE001  the top of a task
                _registry.error("looking at models failed", error=repr(error), exc_info=error)

    async def _timed(self) -> bool:
        began_at = self._clock()
        more = await self._step()
        await asyncio.sleep(min(PAUSE_S, self._clock() - began_at))
        return more
