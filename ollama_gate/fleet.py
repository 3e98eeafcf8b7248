"""The upstreams together: what a name means, and at which of them a request may be served.

A name means what it means at the first upstream, in the order of gate.yaml, that answers and has
it. Another is a further place for it if the name leads to the same model file there. Which place
it is, and when, is the scheduler's to say.
"""

import asyncio
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ollama_gate.config import UpstreamConfig
from ollama_gate.errors import (
    UpstreamError,
    UpstreamGoneError,
    UpstreamLoopError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.footprint import Facts
from ollama_gate.gate import Gate
from ollama_gate.ollama import Ollama
from ollama_gate.prewarm import Prewarmer
from ollama_gate.registry import Registry
from ollama_gate.scheduler.types import BinId, Need, Priority, Request, RequestId
from ollama_gate.wire import Ask

FURTHER_S: Final = 1.0
"""How long a request that has a place already waits to learn of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One upstream, and what belongs to it alone; `prewarmer` if anybody reads ahead for it."""

    config: UpstreamConfig
    ollama: Ollama
    registry: Registry
    prewarmer: Prewarmer | None = None

    @property
    def name(self) -> str:
        """As gate.yaml calls it."""
        return self.config.name


@dataclass(frozen=True, slots=True)
class Place:
    """A member that has a model, and what it knows of it."""

    member: Member
    facts: Facts

    def is_like(self, other: "Place") -> bool:
        """Whether the same files run here as there."""
        one, two = self.facts, other.facts
        return one.key == two.key and one.parameters.extras == two.parameters.extras


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means.

    Attributes:
        places: where it means that; the first is the one that says so, the others are in the
            order of gate.yaml.
    """

    places: tuple[Place, ...]

    @property
    def facts(self) -> Facts:
        """Of the model."""
        return self.places[0].facts

    @property
    def members(self) -> list[Member]:
        """Who has it."""
        return [place.member for place in self.places]


class Fleet:
    """All upstreams, in the order of gate.yaml.

    Args:
        members: one or more, with names of their own.
        gate: knows who answers.
    """

    def __init__(self, members: Sequence[Member], gate: Gate) -> None:
        assert members, "there is at least one upstream"
        self.members = tuple(members)
        self._gate = gate
        self._by_name: Mapping[str, Member] = {member.name: member for member in members}

    def __getitem__(self, upstream: str) -> Member:
        """The one of that name."""
        return self._by_name[upstream]

    def likeliest(self, members: Sequence[Member] = ()) -> list[Member]:
        """Those, or all, with the ones that are known to be away behind the others."""
        return sorted(members or self.members, key=lambda one: self._gate.is_away(one.name))

    def silence(self, bins: Collection[BinId]) -> str:
        """Who does not answer, in words for a client.

        Args:
            bins: of those whose bins these are alone, if there are any.
        """
        asked = [one for one in self.members if not bins or self._has_bin(one, bins)]
        away = [one for one in asked if self._gate.is_away(one.name)] or asked
        urls = [one.ollama.url for one in away]
        return f"{' and '.join(urls)} {'does' if len(urls) == 1 else 'do'} not answer"

    def _has_bin(self, member: Member, bins: Collection[BinId]) -> bool:
        return any(self._gate.upstream_of(bin_id) == member.name for bin_id in bins)

    # ---------------------------------------------------------------- what a name means

    async def meaning(self, request_id: RequestId, name: str) -> Meaning | None:
        """What a name means, and where; `None` if nobody has it.

        If nobody has it who answers, it waits for those who may have it and are away.

        Raises:
            RefusedError: they stay away, the gate closes, or too many wait already.
            UpstreamError: one that may have it answers, but not to this question.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            found = await self._look_up(name)
            if not isinstance(found, list):
                return found
            left_s = began + max(one.config.outage_wait_s for one in found) - loop.time()
            away = [member.name for member in found]
            await self._gate.await_upstream(request_id, away, max(0.0, left_s))

    async def _look_up(self, name: str) -> Meaning | list[Member] | None:
        """What a name means; or whom to wait for before that can be said."""
        here, away = list[Place](), list[Member]()
        failure: UpstreamError | None = None
        for member in self.members:
            try:
                facts = await self._ask(member, name, within_s=FURTHER_S if here else None)
            except UpstreamGoneError as error:
                away.append(member)
                if isinstance(error, UpstreamSilentError | UpstreamLoopError):
                    failure = failure or error
            except UpstreamRefusedError as error:
                failure = failure or error
            else:
                here += [] if facts is None else [Place(member, facts)]
        found = _meaning(here, [*here, *_believed(away, name)], self.members)
        if found is not None:
            return found
        if failure is not None:
            raise failure
        awaited = [member for member in away if member.registry.may_have(name)]
        return awaited or (away if len(away) == len(self.members) else None)

    async def _ask(self, member: Member, name: str, *, within_s: float | None) -> Facts | None:
        """What one says of a name; who is known to be away is not asked.

        Raises:
            UpstreamGoneError: it does not answer, or not within that time.
            UpstreamRefusedError: it has the model, and cannot say.
        """
        if self._gate.is_away(member.name):
            raise UpstreamGoneError(f"{member.ollama.url} does not answer")
        try:
            async with asyncio.timeout(within_s):
                return await member.registry.facts(name)
        except TimeoutError as error:
            self._gate.nudge(member.name)
            raise UpstreamGoneError(f"{member.ollama.url} did not answer in time") from error
        except (UpstreamSilentError, UpstreamLoopError):
            raise
        except UpstreamGoneError:
            self._gate.lost(member.name)
            raise

    # ---------------------------------------------------------------- in the scheduler's terms

    def request(
        self,
        request_id: RequestId,
        ask: Ask,
        meaning: Meaning,
        *,
        priority: Priority | None,
        client: str,
        arrived_at: float,
        deadline_at: float = math.inf,
    ) -> Request:
        """What a client's request means to the scheduler, wherever it may be served."""
        views = [
            place.member.registry.request(
                request_id,
                ask,
                place.facts,
                priority=priority,
                client=client,
                arrived_at=arrived_at,
                deadline_at=deadline_at,
            )
            for place in meaning.places
        ]
        return united(views)


def united(views: Sequence[Request]) -> Request:
    """One request as several upstreams see it: the first one's view, with the bins of all.

    Where another's view differs in more than what its bins need it goes along as a variant.
    """
    first, *others = views
    if not others:
        return first
    exacts = [view.exact for view in views if view.exact is not None]
    exact = first.exact and replace(first.exact, needs=_joined(each.needs for each in exacts))
    return replace(
        first,
        needs=_joined(view.needs for view in views),
        exact=exact,
        variants={
            bin_id: view for view in others if not _alike(view, first) for bin_id in view.needs
        },
    )


def _joined(needs: Iterable[Mapping[BinId, Need]]) -> Mapping[BinId, Need]:
    return {bin_id: need for each in needs for bin_id, need in each.items()}


def _alike(view: Request, other: Request) -> bool:
    """Whether two views differ in nothing but the bins that they are of."""
    launches = [None if each.exact is None else each.exact.launch for each in (view, other)]
    same_exact = launches[0] == launches[1]
    return same_exact and replace(view, needs=other.needs, exact=other.exact) == other


def _believed(away: Sequence[Member], name: str) -> Iterator[Place]:
    """Where a name meant something when it was last asked for."""
    for member in away:
        facts = member.registry.believed(name)
        if facts is not None:
            yield Place(member, facts)


def _meaning(
    here: Sequence[Place], everywhere: Sequence[Place], order: Sequence[Member]
) -> Meaning | None:
    """What the first place says, and where else it is so; who is here goes before who is away."""
    if not everywhere:
        return None
    ranked = sorted(everywhere, key=lambda place: order.index(place.member))
    first = here[0] if here else ranked[0]
    further = (place for place in ranked if place is not first and place.is_like(first))
    return Meaning((first, *further))
