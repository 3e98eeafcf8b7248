"""Tasks that somebody started and will end; a fault in one is logged and harms no other."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from ollama_gate import log

_scheduler = log.get(log.Component.SCHEDULER)


class Tasks:
    """Those of one owner, who calls `close` at the end."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that nobody awaits."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            failed(error)

    async def close(self) -> None:
        """End all of them."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def failed(error: BaseException) -> None:
    """Log a fault of the gate's own, at the top of one of its tasks."""
    _scheduler.error("a task of the gate failed", error=repr(error), exc_info=error)
