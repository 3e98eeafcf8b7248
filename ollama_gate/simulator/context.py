"""The life of one HTTP request, as Go's request context tells it.

Ollama's scheduler drops a runner's reference when this ends: when the handler has returned or
the client has gone.
"""

import asyncio
from collections.abc import Awaitable, Callable


class RequestContext:
    """Alive until `end`."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()
        self._then: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._ended.is_set()

    def on_end(self, then: Callable[[], None]) -> None:
        """Call `then` when it ends; at once if it has."""
        if self.is_over:
            then()
        else:
            self._then.append(then)

    def end(self) -> None:
        """The request is over, whichever way."""
        if not self.is_over:
            self._ended.set()
            for then in self._then:
                then()

    async def outlasts(self, work: Awaitable[object]) -> bool:
        """Wait for `work`; false if the request ends first, and then the work is cancelled."""
        working = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
            return working.done()
        finally:
            working.cancel()
            ending.cancel()
