"""One machine's disk: one model is read at a time, and none while something is loaded from it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from ollama_gate.gpu import on_a_thread

T = TypeVar("T")

END_S: Final = 1.0
"""How long the last read may take to notice that it is to end; a disk may hang."""


class Stop:
    """Ends one read at once, wherever it stands."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def now(self) -> None:
        """End it."""
        self._set.set()

    @property
    def came(self) -> bool:
        """Whether it is to end, or never to begin. To be asked on any thread."""
        return self._set.is_set()


class Reader:
    """Shared by the upstreams of one machine. `close` comes last."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._stops: set[Stop] = set()
        self._loads = 0
        self._closed = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is read for the length of a block, and what is being read ends at once."""
        self._loads += 1
        self._stop_all()
        try:
            yield
        finally:
            self._loads -= 1

    async def run(self, work: Callable[[Stop], T], stop: Stop) -> T | None:
        """What `work` returns, on a thread of its own; `None` if it never began.

        It waits for its turn, and when it is stopped meanwhile it does not get one. `work` looks
        at `stop` as often as it can.
        """
        if self._loads or self._closed:
            return None
        self._stops.add(stop)
        try:
            async with self._turn:
                if stop.came:
                    return None
                return await on_a_thread(lambda: work(stop), "prewarm")
        finally:
            stop.now()
            self._stops.discard(stop)

    async def close(self) -> None:
        """End what is read, and read no more."""
        self._closed = True
        self._stop_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S), self._turn:
                pass

    def _stop_all(self) -> None:
        for stop in self._stops:
            stop.now()
