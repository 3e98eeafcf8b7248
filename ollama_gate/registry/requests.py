"""What a client's request means to the scheduler at one upstream."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ollama_gate import footprint
from ollama_gate.config import Config, ModelConfig
from ollama_gate.footprint import Facts
from ollama_gate.registry.terms import REMEMBERED, Derived, Terms
from ollama_gate.scheduler.types import (
    BinId,
    Exact,
    Launch,
    ModelKey,
    Need,
    Priority,
    Request,
    RequestId,
)
from ollama_gate.wire import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wants(Derived):
    """What a model with certain options comes to in the scheduler's terms."""

    resolved: footprint.Resolved
    needs: Mapping[BinId, Need]
    parallel: int


class Requests:
    """Of one upstream.

    Args:
        config: what is in effect.
        terms: what models take there.
    """

    def __init__(self, config: Config, terms: Terms) -> None:
        self._config = config
        self._terms = terms
        self._wanted: dict[tuple[ModelKey, str, Launch, frozenset[str]], _Wants] = {}

    def request(
        self,
        request_id: RequestId,
        ask: Ask,
        facts: Facts,
        *,
        priority: Priority | None,
        client: str,
        arrived_at: float,
        deadline_at: float = math.inf,
    ) -> Request:
        """What a client's request means to the scheduler."""
        own = self._terms.own(ask.model)
        wants, least_ctx, exact = self._widened(facts, ask)
        resolved = wants.resolved
        idle_s = own.keep_alive_s if own else None
        return Request(
            id=request_id,
            model=facts.key,
            name=ask.model,
            needs=wants.needs,
            arrived_at=arrived_at,
            launch=resolved.launch,
            num_ctx=resolved.num_ctx,
            named_ctx=resolved.named_ctx,
            least_ctx=least_ctx,
            exact=exact,
            batch_limit=resolved.batch_limit,
            priority=_priority(own, priority),
            client=client,
            parallel=wants.parallel,
            keep_alive_s=ask.keep_alive_s,
            default_keep_alive_s=self._config.keep_alive_s if idle_s is None else idle_s,
            pinned=self._terms.is_pinned(facts),
            service_s=self._terms.times(facts.key).service_s,
            deadline_at=deadline_at,
        )

    def _widened(self, facts: Facts, ask: Ask) -> tuple[_Wants, int | None, Exact | None]:
        """What to load for a request, how much context it names, and what it would be with that.

        One that can be sent with another context than it names, and names no more than Ollama
        gives by itself, is loaded with that: it then serves those who name none as well.
        """
        named = self._wants(facts, ask.launch_options, ask.nulls)
        if ask.context_at is None or self._config.num_ctx == "respect":
            return named, None, None
        unnamed = replace(ask.launch_options, num_ctx=None)
        automatic = self._wants(facts, unnamed, ask.nulls - {"num_ctx"})
        least_ctx = named.resolved.num_ctx
        if least_ctx > automatic.resolved.num_ctx:
            return named, least_ctx, None
        return automatic, least_ctx, Exact(launch=named.resolved.launch, needs=named.needs)

    def _wants(self, facts: Facts, asked: Launch, nulls: frozenset[str] = frozenset()) -> _Wants:
        """What a runner with these options would be; remembered while nothing changes it."""
        key = (facts.key, facts.name, asked, nulls)
        known = self._wanted.get(key)
        if known is not None and known.holds(
            facts, self._terms.settings, self._terms.book.revision
        ):
            return known
        resolved = footprint.resolve(facts, asked, self._terms.settings, nulls=nulls)
        wants = _Wants(
            facts=facts,
            settings=self._terms.settings,
            revision=self._terms.book.revision,
            resolved=resolved,
            needs={
                bin_.id: self._terms.need(facts, resolved.launch, bin_)[0]
                for bin_ in self._terms.bins
            },
            parallel=self._terms.parallel(facts),
        )
        if len(self._wanted) >= REMEMBERED:
            self._wanted.clear()
        self._wanted[key] = wants
        return wants


def _priority(own: ModelConfig | None, asked: Priority | None) -> Priority:
    # HIGH is 0, so that a truth test would lose it.
    if asked is not None:
        return asked
    return own.priority if own else Priority.NORMAL
