"""What a manifest's digest stands for: `/api/show` of it, asked once.

One question at a time for each model. What is a fact is remembered, and so is a failure, for
those who wait for the same answer. Which name has which digest is `Listing`'s to say.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from weakref import WeakValueDictionary

from ollama_gate import footprint, log
from ollama_gate.errors import UpstreamRefusedError
from ollama_gate.footprint import Facts
from ollama_gate.known.listing import Clock, Line, Listing
from ollama_gate.ollama import Ollama
from ollama_gate.scheduler.types import ModelKey

REMEMBERED: Final = 200
"""How many models of the past are remembered: one may be resident when its name is not its own."""

_registry = log.get(log.Component.REGISTRY)


@dataclass(frozen=True, slots=True)
class Failure:
    """Ollama could not show a model when it was asked at `at`."""

    at: float
    error: UpstreamRefusedError


class Shows:
    """The facts of one upstream's models, by digest.

    Args:
        ollama: whom to ask.
        listing: where names may be looked up anew.
        clock: seconds, never going back.

    Attributes:
        facts: by digest; under the name that was asked for.
        failures: of those that are listed, and could not be shown at the last try.
    """

    def __init__(self, ollama: Ollama, listing: Listing, clock: Clock) -> None:
        self._ollama = ollama
        self._listing = listing
        self._clock = clock
        self.facts: dict[str, Facts] = {}
        self.failures: dict[str, Failure] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def of(self, line: Line) -> Facts | None:
        """What a line's digest stands for; `None` if its name has another by now.

        Raises:
            UpstreamGoneError: no answer.
            UpstreamRefusedError: it is listed, and Ollama cannot show it.
        """
        known = self.facts.get(line.digest)
        if known is not None:
            return known
        came_at = self._clock()
        async with self.turn(line.digest):
            known = self.facts.get(line.digest)
            if known is not None:
                return known
            failure = self.failures.get(line.digest)
            # Whoever came before it was asked for waited for this answer as well.
            if failure is not None and failure.at >= came_at:
                raise failure.error
            return await self._asked(line)

    async def _asked(self, line: Line) -> Facts | None:
        asked_at = self._clock()
        try:
            facts = await self._ask(line)
        except UpstreamRefusedError as error:
            self.failures[line.digest] = Failure(asked_at, error)
            raise
        if facts is not None:
            self._remember(line.digest, facts)
        return facts

    async def _ask(self, line: Line) -> Facts | None:
        if line.remote:
            # Of these `/api/show` asks the cloud, which nobody here needs to know.
            return _elsewhere(line)
        show = await self.show(line.name)
        if not await self._still_means(line, show):
            return None
        if show is None:
            raise UpstreamRefusedError(HTTPStatus.NOT_FOUND, f"{line.name} is listed, not found")
        facts = footprint.read_show(line.name, show, line.size_bytes, digest=line.digest)
        _registry.debug("model", name=line.name, key=facts.key, disk=log.size(line.size_bytes))
        return facts

    async def show(self, name: str) -> Mapping[str, Any] | None:
        """An `/api/show` with all that matters; `None` if Ollama knows no such name."""
        show = await self._ollama.show(name)
        if show is None or not footprint.read_show(name, show, 0).withheld:
            return show
        try:
            return await self._ollama.show(name, verbose=True)
        except UpstreamRefusedError as error:
            _registry.warning("not shown in full; taken too large", model=name, reason=error.text)
            return show

    async def _still_means(self, line: Line, show: Mapping[str, Any] | None) -> bool:
        """Whether what was shown is what was listed: a name may have changed in between."""
        if show is not None and line.modified_at and show.get("modified_at") == line.modified_at:
            return True
        now = (await self._listing.since(self._clock())).get(line.key)
        return now is not None and now.digest == line.digest

    def _remember(self, digest: str, facts: Facts) -> None:
        self.facts[digest] = facts
        self.failures.pop(digest, None)
        listed = {line.digest for line in self._listing.lines.values()}
        past = [known for known in self.facts if known not in listed]
        for known in past[: max(0, len(past) - REMEMBERED)]:
            del self.facts[known]
        self.failures = {key: self.failures[key] for key in self.failures if key in listed}

    def turn(self, key: str) -> asyncio.Lock:
        """Held by who asks; it is kept for as long as somebody holds it or waits for it."""
        return self._turns.setdefault(key, asyncio.Lock())


def _elsewhere(line: Line) -> Facts:
    return Facts(
        key=ModelKey(f"digest:{line.digest}"),
        name=line.name,
        size_bytes=0,
        context_length=line.context_length,
        capabilities=line.capabilities,
        remote=True,
    )
