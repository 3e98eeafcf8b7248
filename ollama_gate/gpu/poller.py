"""Reads one card again and again, and says when what is known has grown old.

What a reading means is not known here. A reading that hangs holds up neither the event loop nor
the end of the program: it has a thread of its own, and there is never a second one beside it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from ollama_gate import log
from ollama_gate.errors import CardError
from ollama_gate.gpu.aside import on_a_thread
from ollama_gate.gpu.reading import Card, Reading

IDLE_S: Final = 2.0
BUSY_S: Final = 0.2
"""Between two readings; the shorter one while memory is being given or taken."""

STALE_S: Final = 10.0
"""A reading older than this is no longer planned with."""

_monitor = log.get(log.Component.MONITOR)


class Poller:
    """Reads a card again and again, more often while memory is on the move.

    Every reading is told to `tell`; a failure once, when there has been no reading for `stale_s`.
    `tell` runs on the event loop and must not block. The log says when failures begin and end.

    Attributes:
        last: the last reading; it stands while none follows.
        error: why none follows, from the first failure to the next reading.
    """

    def __init__(
        self,
        card: Card,
        tell: Callable[[Reading | CardError], None],
        *,
        idle_s: float = IDLE_S,
        busy_s: float = BUSY_S,
        stale_s: float = STALE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.card = card
        self.last: Reading | None = None
        self.error: CardError | None = None
        self._tell = tell
        self._idle_s = idle_s
        self._busy_s = busy_s
        self._stale_s = stale_s
        self._now = now
        self._fresh_at = now()
        self._lost = False
        self._busy = False
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def interval_s(self) -> float:
        """Seconds to the next reading, counted from the last one's end."""
        return self._busy_s if self._busy else self._idle_s

    def age_s(self, now: float) -> float | None:
        """How old the last reading is; `None` before the first.

        Args:
            now: on the monotonic clock.
        """
        return None if self.last is None else max(0.0, now - self.last.taken_at)

    def stale(self, now: float) -> bool:
        """Whether nobody should plan with the last reading; also as long as there is none.

        Args:
            now: on the monotonic clock.
        """
        age_s = self.age_s(now)
        return age_s is None or age_s > self._stale_s

    def hurry(self, *, busy: bool) -> None:
        """Say whether memory is on the move; when it begins to be, a reading follows at once."""
        if busy and not self._busy:
            self.poke()
        self._busy = busy

    def poke(self) -> None:
        """Ask for a reading now; one that is under way does not count."""
        self._poked.set()

    def start(self) -> None:
        """Begin, with a reading at once. Needs a running event loop."""
        assert self._task is None, "a poller is started once"
        self._fresh_at = self._now()
        self._task = asyncio.create_task(self._run(), name=f"poll {self.card.source}")

    async def stop(self) -> None:
        """End; a reading that is under way is not told. Raises what broke the poller, if it did."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def _run(self) -> None:
        while True:
            self._poked.clear()
            await self._read()
            await self._rest()

    async def _read(self) -> None:
        reading = on_a_thread(lambda: _read(self.card), f"read {self.card.source}")
        try:
            await self._await(reading)
            self._succeeded(reading.result())
        except CardError as error:
            self._failed(error)
        finally:
            reading.cancel()

    async def _await(self, reading: asyncio.Future[Reading]) -> None:
        """Wait for a reading however long it takes; should the last one grow old, say so."""
        if not self._lost:
            left_s = max(0.0, self._fresh_at + self._stale_s - self._now())
            done, _ = await asyncio.wait({reading}, timeout=left_s)
            if not done:
                self._failed(CardError(f"the driver has not answered for {self._stale_s:.0f} s"))
        await asyncio.wait({reading})

    def _succeeded(self, reading: Reading) -> None:
        if self.error is not None:
            _monitor.info("readings again", device=reading.device, without_s=self._without_s())
        self.last, self.error, self._lost = reading, None, False
        self._fresh_at = self._now()
        self._tell(reading)

    def _failed(self, error: CardError) -> None:
        if self.error is None:
            stands = "no reading; the last one stands" if self.last else "no reading yet"
            _monitor.warning(stands, reason=str(error))
        self.error = error
        if not self._lost and self._without_s() >= self._stale_s:
            self._lost = True
            self._tell(error)

    def _without_s(self) -> float:
        return self._now() - self._fresh_at

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval_s):
                await self._poked.wait()


def _read(card: Card) -> Reading:
    try:
        return card.read()
    except CardError:
        raise
    except Exception as error:  # a poller that ended would be blind for ever
        raise CardError(f"the reading failed: {error!r}") from error
