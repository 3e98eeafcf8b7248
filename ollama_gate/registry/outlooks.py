"""What people are shown of one upstream's models, with the figures that admission goes by."""

import asyncio
from dataclasses import dataclass, replace

from ollama_gate.footprint import Facts
from ollama_gate.known import Known, KnownModel
from ollama_gate.outlook import Outlook, Size, sizes
from ollama_gate.registry.terms import REMEMBERED, Derived, Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes(Derived):
    """What a model would take, with the context that nobody named and with others."""

    automatic: Size
    all: tuple[Size, ...]


class Outlooks:
    """Of one upstream.

    Args:
        known: its models.
        terms: what they take.
    """

    def __init__(self, known: Known, terms: Terms) -> None:
        self._known = known
        self._terms = terms
        self._sized: dict[str, _Sizes] = {}

    async def all(self) -> list[Outlook]:
        """Every model that is listed; see `Registry.known`."""
        self._known.look()
        return [await self._outlook(model) for model in self._known.models()]

    async def _outlook(self, model: KnownModel) -> Outlook:
        line, facts = model.line, model.facts
        shown = Outlook(
            name=line.name,
            digest=line.digest,
            disk_bytes=line.size_bytes,
            facts=facts,
            problem=model.problem,
        )
        if facts is None:
            return shown
        times = self._terms.times(facts.key)
        if facts.remote:
            return replace(shown, times=times)
        sized = self._sized.get(line.key)
        if sized is None or not sized.holds(facts, self._terms.settings, self._terms.book.revision):
            self._sized[line.key] = sized = self._sizes(facts)
            await asyncio.sleep(0)
        return replace(shown, times=times, automatic=sized.automatic, sizes=sized.all)

    def _sizes(self, facts: Facts) -> _Sizes:
        bin_ = self._terms.bins[0]
        automatic, others = sizes(
            facts,
            self._terms.settings,
            lambda launch: self._terms.need(facts, launch, bin_),
            cpu=bin_.cpu,
        )
        if len(self._sized) >= REMEMBERED:
            self._sized.clear()
        return _Sizes(
            facts=facts,
            settings=self._terms.settings,
            revision=self._terms.book.revision,
            automatic=automatic,
            all=others,
        )
