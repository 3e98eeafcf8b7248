"""What runs at one upstream, in the scheduler's terms; and what is learned from it."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ollama_gate import footprint
from ollama_gate.errors import (
    UpstreamError,
    UpstreamGoneError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.footprint import Facts
from ollama_gate.known import Known, Line
from ollama_gate.ledger import Ledger, Listed
from ollama_gate.ollama import Ollama
from ollama_gate.registry.terms import Terms
from ollama_gate.scheduler.events import Resident
from ollama_gate.scheduler.types import Bin, Launch, ModelKey

VERSION_FRESH_S: Final = 60.0
"""For so long Ollama's version is believed; after an outage it is asked for again at once."""


class Runners:
    """Of one upstream.

    Args:
        ollama: whom to ask.
        known: its models.
        terms: what they take.
        ledger: told of every answer.
    """

    def __init__(self, ollama: Ollama, known: Known, terms: Terms, ledger: Ledger) -> None:
        self._ollama = ollama
        self._known = known
        self._terms = terms
        self._ledger = ledger
        self._version_until = -math.inf
        self._on_disk: Mapping[str, Line] = {}
        self._answered = False
        self._given_up: set[ModelKey] = set()

    async def residents(self) -> tuple[Resident, ...]:
        """What is resident, with what it takes.

        Raises:
            UpstreamError: no answer, or not that of an Ollama.
        """
        await self._notice_version()
        asked_at = asyncio.get_running_loop().time()
        lines = [line for line in map(footprint.read_ps, await self._listed()) if line.name]
        on_card = any(line.size_vram_bytes for line in lines)
        facts = await self._known.of_runners(lines)
        found = [
            self._resident(line, known or _nameless(line), on_card=on_card)
            for line, known in zip(lines, facts, strict=True)
        ]
        self._terms.experience.listed(self._terms.bins[0].id, asyncio.get_running_loop().time())
        listed = {one.model: Listed(one.name, one.num_ctx) for one in found}
        self._ledger.listed(listed, asked_at)
        self._notice_overhead()
        self._notice_disk()
        self._given_up &= {resident.model for resident in found}
        return tuple(resident for resident in found if resident.model not in self._given_up)

    async def _listed(self) -> list[Mapping[str, Any]]:
        """The lines of `/api/ps`. An upstream that is back may have other models."""
        try:
            lines = await self._ollama.residents()
        except UpstreamError as error:
            # One that merely keeps silent may be loading.
            if isinstance(error, UpstreamGoneError) and not isinstance(error, UpstreamSilentError):
                self._ledger.silent()
            self._answered = False
            self._version_until = -math.inf
            raise
        if not self._answered:
            self._answered = True
            self._known.wake()
        return lines

    async def _notice_version(self) -> None:
        """What a figure of `/api/ps` means depends on it."""
        now = asyncio.get_running_loop().time()
        if now < self._version_until:
            return
        try:
            version = await self._ollama.version()
        except UpstreamRefusedError:
            version = ""
        self._version_until = now + VERSION_FRESH_S
        self._terms.note(version=version)

    def _notice_overhead(self) -> None:
        bin_id = self._terms.bins[0].id
        self._terms.note(overhead_bytes=self._terms.experience.overhead_bytes(bin_id))

    def _notice_disk(self) -> None:
        """What is gone from the disk for good is forgotten."""
        lines = self._known.listed
        if lines is not self._on_disk:
            self._on_disk = lines
            self._terms.experience.on_disk([line.digest for line in lines.values()])

    def take_back(self, model: ModelKey) -> None:
        """Take notice again of a runner that was given up."""
        self._given_up.discard(model)

    def give_up(self, model: ModelKey) -> None:
        """Take no more notice of a runner that no name reaches, for as long as it is listed.

        Ollama lets go of it when it needs the memory; to the gate it is somebody else's.
        """
        self._given_up.add(model)

    def _resident(self, line: footprint.Resident, facts: Facts, *, on_card: bool) -> Resident:
        bin_ = self._terms.bins[0]
        launch, named_ctx = self._launched(facts, line, bin_, on_card=on_card)
        return Resident(
            bin=bin_.id,
            model=facts.key,
            name=line.name,
            launch=launch,
            footprint_bytes=self._taken(facts, line, bin_),
            reported_bytes=line.size_bytes if bin_.cpu else line.size_vram_bytes,
            num_ctx=line.context_length,
            named_ctx=named_ctx,
            parallel=self._terms.parallel(facts),
            size_bytes=line.size_bytes,
            pinned=self._terms.is_pinned(facts),
        )

    def _launched(
        self, facts: Facts, line: footprint.Resident, bin_: Bin, *, on_card: bool
    ) -> tuple[Launch, int]:
        """The options of a runner and its context's name, as far as `/api/ps` betrays them."""
        resolved = footprint.resolve(facts, Launch(), self._terms.settings)
        launch, named_ctx = resolved.launch, resolved.named_ctx
        if line.context_length is not None and line.context_length != resolved.num_ctx:
            launch, named_ctx = replace(launch, num_ctx=line.context_length), line.context_length
        # Where only a budget is configured and nothing is on a card, there may be no card at all.
        card = not bin_.cpu and (on_card or bin_.capacity_bytes is None)
        if card and not line.size_vram_bytes:
            launch = replace(launch, num_gpu=0)
        return launch, named_ctx

    def _taken(self, facts: Facts, line: footprint.Resident, bin_: Bin) -> int:
        """What to book for a runner that is there; and learning from it."""
        self._terms.experience.met(facts.key, line.digest)
        seen_bytes = self._terms.experience.saw(
            facts,
            line,
            self._terms.settings,
            bin_,
            # Nothing on a card that was not asked to be empty: there may be no card at all, and
            # the budget that is configured means main memory.
            size_vram_bytes=line.size_vram_bytes or line.size_bytes,
            now=asyncio.get_running_loop().time(),
        )
        configured_bytes = self._terms.configured_bytes(facts)
        return seen_bytes if configured_bytes is None else configured_bytes


def _nameless(line: footprint.Resident) -> Facts:
    """Deleted or replaced since it was loaded, before the gate ever saw it."""
    return Facts(key=ModelKey(line.digest or line.name), name=line.name, size_bytes=line.size_bytes)
