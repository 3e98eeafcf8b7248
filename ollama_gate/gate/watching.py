"""Whether an upstream answers, and what it says is resident: one that never stops looking.

What follows from either is not decided here.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ollama_gate import log
from ollama_gate.errors import UpstreamError, UpstreamSilentError
from ollama_gate.gate.roles import Engine
from ollama_gate.gate.tasks import failed
from ollama_gate.scheduler import events as ev

WATCH_S: Final = 2.0
"""How often an upstream that answers is asked what is resident."""

WATCH_AWAY_S: Final = 1.0
"""How often one that does not answer is tried."""

_Outcome = TypeVar("_Outcome")

_monitor = log.get(log.Component.MONITOR)


class Watch:
    """One upstream.

    Args:
        name: its own.
        engine: itself.
        tell: takes in an event.
        is_loading: whether it loads something now.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        tell: Callable[[ev.Event], None],
        is_loading: Callable[[], bool],
    ) -> None:
        self.name = name
        self._engine = engine
        self._tell = tell
        self._is_loading = is_loading
        self._answers = asyncio.Event()
        self._healthy: bool | None = None
        self._lost_at = -math.inf
        self._nudged = asyncio.Event()
        self._came_back = asyncio.Event()

    @property
    def answers(self) -> bool:
        """Whether it answered when it was last asked."""
        return self._answers.is_set()

    @property
    def is_away(self) -> bool:
        """Whether it did not answer when it was last asked; false if it never was."""
        return self._healthy is False

    @property
    def came_back(self) -> asyncio.Event:
        """Set when it begins to answer the next time; another one follows then."""
        return self._came_back

    async def answering(self) -> None:
        """Wait until it answers."""
        await self._answers.wait()

    def nudge(self) -> None:
        """Look now rather than at the next turn."""
        self._nudged.set()

    async def run(self) -> None:
        """Look, from time to time, until this is cancelled."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  who stops looking is blind for ever
                failed(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S if self.answers else WATCH_AWAY_S):
                    await self._nudged.wait()
            self._nudged.clear()

    async def look(self) -> None:
        """Ask what is resident, and tell."""
        asked_at = asyncio.get_running_loop().time()
        try:
            residents = await self._engine.residents()
        except UpstreamSilentError as error:
            # Some engines keep `/api/ps` waiting for as long as they load.
            if not self._is_loading():
                self.lost(str(error))
            return
        except UpstreamError as error:
            self.lost(str(error))
            return
        if asked_at < self._lost_at:
            # It was given before the upstream went, and only read afterwards.
            return
        self._answers.set()
        if not self._healthy:
            names = ", ".join(resident.name for resident in residents) or "nothing"
            _monitor.info("upstream answers", upstream=self.name, resident=names)
            self._came_back.set()
            self._came_back = asyncio.Event()
        self._healthy = True
        self._tell(
            ev.Observed(
                upstream=self.name,
                residents=residents,
                asked_at=asked_at,
                remembers_free=self._engine.remembers_free,
            )
        )

    def lost(self, reason: str) -> None:
        """Somebody saw that it does not answer."""
        self._tell(ev.UpstreamLost(upstream=self.name))
        self._lost_at = asyncio.get_running_loop().time()
        self._answers.clear()
        if self._healthy is not False:
            text = "upstream does not answer; waiting for it"
            _monitor.warning(text, upstream=self.name, reason=reason)
        self._healthy = False

    async def unless_it_restarts(
        self, work: Coroutine[Any, Any, _Outcome], otherwise: _Outcome
    ) -> _Outcome:
        """How `work` ends; `otherwise` once the upstream is back after it had gone.

        What was asked of it before will never be answered, even if its connection still stands.
        """
        working = asyncio.ensure_future(work)
        waiting = asyncio.ensure_future(self._came_back.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else otherwise
        finally:
            for task in (working, waiting):
                task.cancel()
            await asyncio.wait({working, waiting})
