"""Who waits outside the line: for an upstream, before it can be said what a request needs.

As many may as in the line itself, both taken together.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ollama_gate.gate.slots import RefusedError
from ollama_gate.gate.watching import WATCH_AWAY_S
from ollama_gate.scheduler import Machine
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Refuse
from ollama_gate.scheduler.types import Refusal, RequestId


class Outside:
    """Counts them, and lets nobody wait in vain.

    Args:
        machine: has the line, and knows when the gate closes.
        changed: waits until something happens, of any kind.
        tell: takes in an event.

    Attributes:
        count: how many wait here.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        changed: Callable[[], Awaitable[None]],
        tell: Callable[[ev.Event], None],
    ) -> None:
        self._machine = machine
        self._changed = changed
        self._tell = tell
        self.count = 0

    async def wait(
        self, request_id: RequestId, goes_on: Callable[[], bool], within_s: float
    ) -> None:
        """Wait until it goes on.

        Raises:
            RefusedError: too many wait already, it takes too long, or the gate closes.
        """
        full = len(self._machine.line) + self.count >= self._machine.policy.queue_max_size
        if full:
            raise _refused(request_id, Refusal.QUEUE_FULL, retry_after_s=WATCH_AWAY_S)
        self.count += 1
        # It is of no use to the scheduler; others may look for who waits.
        self._tell(ev.Ticked())
        try:
            async with asyncio.timeout(within_s):
                while not goes_on():
                    if self._machine.closing:
                        raise _refused(request_id, Refusal.SHUTTING_DOWN)
                    await self._changed()
        except TimeoutError:
            raise _refused(request_id, Refusal.UPSTREAM_AWAY) from None
        finally:
            self.count -= 1


def _refused(
    request_id: RequestId, reason: Refusal, *, retry_after_s: float | None = None
) -> RefusedError:
    return RefusedError(Refuse(id=request_id, reason=reason, retry_after_s=retry_after_s))
