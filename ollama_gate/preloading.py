"""Models that are to be there before anybody asks.

Each is asked for when an upstream begins to answer, at first and after every outage. It asks as
a client would, for the lowest class, and leaves as soon as there is a slot; when and where a model
is loaded, and what has to go for it, is the scheduler's to say.
"""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final

from ollama_gate import log, names
from ollama_gate.errors import GateError, UpstreamError
from ollama_gate.fleet import Fleet, Meaning
from ollama_gate.gate import Gate, RefusedError
from ollama_gate.scheduler.types import Launch, Priority, RequestId
from ollama_gate.wire import Ask

CLIENT: Final = "preload"
"""Whose requests these are, as far as fairness goes."""

_scheduler = log.get(log.Component.SCHEDULER)


class Preloading:
    """`start` once, `close` in the end.

    Args:
        models: by the names of gate.yaml, in its order.
    """

    def __init__(self, *, gate: Gate, fleet: Fleet, models: Sequence[str]) -> None:
        self._gate = gate
        self._fleet = fleet
        self._models = tuple(models)
        self._complained = set[str]()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to wait for the upstreams; it comes before the gate looks at them first."""
        for member in self._fleet.members if self._models else ():
            began = self._gate.return_of(member.name)
            task = asyncio.get_running_loop().create_task(self._attend(member.name, began))
            self._tasks.append(task)

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attend(self, upstream: str, began: asyncio.Event) -> None:
        while True:
            await began.wait()
            # Taken before the round, so that an outage in the middle of it is not missed.
            began = self._gate.return_of(upstream)
            for name in self._models:
                await self._bring(name, upstream)

    async def _bring(self, name: str, upstream: str) -> None:
        """Load one model, if the upstream has it."""
        request_id = RequestId(secrets.token_hex(16))
        try:
            meaning = await self._fleet.meaning(request_id, name)
            if names.is_cloud(name) or (meaning is not None and meaning.facts.remote):
                self._complain(name, "it runs elsewhere")
            elif meaning is None:
                self._complain(name, "no upstream has it")
            elif any(member.name == upstream for member in meaning.members):
                await self._hold(request_id, name, meaning)
        except (RefusedError, UpstreamError) as error:
            _scheduler.warning("not preloaded", model=name, reason=_words(error))

    async def _hold(self, request_id: RequestId, name: str, meaning: Meaning) -> None:
        """Take a slot, and leave it at once: nothing is learned of an answer that is none."""
        request = self._fleet.request(
            request_id,
            _nothing_of(name),
            meaning,
            priority=Priority.LOW,
            client=CLIENT,
            arrived_at=asyncio.get_running_loop().time(),
        )
        async with self._gate.slot(request) as grant:
            pass
        if grant.load_s:
            _scheduler.info("preloaded", model=name, bin=grant.bin, load_s=grant.load_s)

    def _complain(self, name: str, why: str) -> None:
        if name not in self._complained:
            self._complained.add(name)
            _scheduler.warning("not preloaded", model=name, reason=why)


def _nothing_of(model: str) -> Ask:
    """What the empty form means, which loads a model and does nothing else."""
    return Ask(
        model=model,
        launch_options=Launch(),
        keep_alive_s=None,
        empty=True,
        stream=False,
        needs=frozenset(),
        body=b"",
    )


def _words(error: GateError) -> str:
    """The upstream's own, if it said any."""
    return (isinstance(error, RefusedError) and error.refusal.text) or str(error)
