"""What the gate knows of the models of one upstream, and what a request therefore needs.

It asks `/api/show` and `/api/tags` once a name and remembers the answer for a while; a name may
mean another model after a pull, so the memory is short and `forget` empties it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_gate import footprint, log, names
from ollama_gate.config import Config, ModelConfig
from ollama_gate.errors import UpstreamError, UpstreamRefusedError
from ollama_gate.footprint import Facts, Settings
from ollama_gate.ollama import Ollama
from ollama_gate.scheduler.events import Resident
from ollama_gate.scheduler.types import (
    Bin,
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

FRESH_S: Final = 30.0
"""For so long an answer is believed: somebody may pull a model behind the gate's back."""

_registry = log.get(log.Component.REGISTRY)


REMEMBERED: Final = 1000
"""How many models of the past are remembered: one may be resident when its name is not its own."""


@dataclass(frozen=True, slots=True)
class _Known:
    facts: Facts
    digest: str
    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wants:
    """What a model with certain options comes to in the scheduler's terms, and from what."""

    facts: Facts
    settings: Settings
    revision: int
    resolved: footprint.Resolved
    needs: Mapping[BinId, Need]
    parallel: int

    def holds(self, facts: Facts, settings: Settings, revision: int) -> bool:
        """Whether it would come to the same again."""
        return self.facts is facts and self.settings is settings and self.revision == revision


class Registry:
    """Facts and footprints of one upstream's models, in its bins."""

    def __init__(self, *, ollama: Ollama, config: Config, bins: Sequence[Bin]) -> None:
        upstream = config.upstream
        self._ollama = ollama
        self._config = config
        self._bins = tuple(bins)
        self._settings = Settings(
            num_parallel=upstream.num_parallel,
            kv_cache_type=upstream.kv_cache_type,
            context_length=upstream.context_length,
        )
        self._book = footprint.Book()
        self._known: dict[str, _Known] = {}
        # By the manifest's digest, which `/api/ps` shows: what a runner really is, whatever its
        # name means by now.
        self._by_digest: OrderedDict[str, Facts] = OrderedDict()
        self._given_up: set[ModelKey] = set()
        self._asking: dict[str, asyncio.Lock] = {}
        self._wanted: dict[tuple[ModelKey, str, Launch, frozenset[str]], _Wants] = {}
        self._models = {_key(name): model for name, model in config.models.items()}

    def card_has(self, total_bytes: int) -> None:
        """Take in how much memory the card has: Ollama's automatic context depends on it."""
        if total_bytes != self._settings.total_bytes:
            self._settings = replace(self._settings, total_bytes=total_bytes)

    def forget(self) -> None:
        """A name may mean another model from now on."""
        self._known = {}

    def known(self) -> list[dict[str, Any]]:
        """Each model that was asked for: its footprint with its own options, and the source."""
        rows = []
        for known in self._known.values():
            need, source = self._need(known.facts, Launch(), self._bins[0])
            rows.append(
                {
                    "model": known.facts.name,
                    "key": known.facts.key,
                    "footprint_bytes": need.footprint_bytes,
                    "source": source,
                }
            )
        return sorted(rows, key=lambda row: str(row["model"]))

    async def facts(self, name: str) -> Facts | None:
        """What there is to know of a model; `None` if Ollama does not know it.

        What was known before is believed while the upstream does not answer.

        Raises:
            UpstreamGoneError: there is no answer, and nothing was known before.
            UpstreamRefusedError: Ollama knows it and cannot say, and nothing was known before.
        """
        key = _key(name)
        known = self._known.get(key)
        if known is not None and asyncio.get_running_loop().time() - known.asked_at <= FRESH_S:
            return known.facts
        try:
            async with self._asking.setdefault(key, asyncio.Lock()):
                known = await self._fresh(name, key)
        finally:
            self._asking.pop(key, None)
        return known.facts if known else None

    async def _fresh(self, name: str, key: str) -> _Known | None:
        now = asyncio.get_running_loop().time()
        memory, known = self._known, self._known.get(key)
        if known is None or now - known.asked_at > FRESH_S:
            known = await self._ask(name, known, now)
            if known is None:
                memory.pop(key, None)
            else:
                # Into the memory of when it was asked: `forget` may have come in between.
                memory[key] = known
        return known

    async def _ask(self, name: str, before: _Known | None, now: float) -> _Known | None:
        try:
            show = await self._ollama.show(name.strip())
            if show is None:
                return None
            size_bytes, digest = await self._on_disk(name)
        except UpstreamError:
            if before is None:
                raise
            return before
        facts = footprint.read_show(name, show, size_bytes, digest=digest)
        if before is None or before.facts != facts:
            _registry.debug("model", name=name, key=facts.key, disk=log.size(facts.size_bytes))
        if digest:
            self._by_digest[digest] = facts
            self._by_digest.move_to_end(digest)
            if len(self._by_digest) > REMEMBERED:
                self._by_digest.popitem(last=False)
        return _Known(facts, digest, now)

    async def _on_disk(self, name: str) -> tuple[int, str]:
        """Size and digest of `/api/tags`; nothing where an Ollama lists it differently."""
        try:
            tags = await self._ollama.tags()
        except UpstreamRefusedError:
            return 0, ""
        for tag in tags:
            size_bytes = tag.get("size")
            if _key(str(tag.get("name"))) == _key(name) and isinstance(size_bytes, int):
                return size_bytes, str(tag.get("digest", ""))
        return 0, ""

    # ---------------------------------------------------------------- in the scheduler's terms

    def request(
        self,
        request_id: RequestId,
        ask: Ask,
        facts: Facts,
        *,
        priority: Priority | None,
        client: str,
        arrived_at: float,
    ) -> Request:
        """What a client's request means to the scheduler."""
        own = self._models.get(_key(ask.model))
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
            priority=self._priority(own, priority),
            client=client,
            parallel=wants.parallel,
            keep_alive_s=ask.keep_alive_s,
            default_keep_alive_s=self._config.keep_alive_s if idle_s is None else idle_s,
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
        if known is not None and known.holds(facts, self._settings, self._book.revision):
            return known
        resolved = footprint.resolve(facts, asked, self._settings, nulls=nulls)
        wants = _Wants(
            facts=facts,
            settings=self._settings,
            revision=self._book.revision,
            resolved=resolved,
            needs={bin_.id: self._need(facts, resolved.launch, bin_)[0] for bin_ in self._bins},
            parallel=self.parallel(facts),
        )
        if len(self._wanted) >= REMEMBERED:
            self._wanted.clear()
        self._wanted[key] = wants
        return wants

    @staticmethod
    def _priority(own: ModelConfig | None, asked: Priority | None) -> Priority:
        # HIGH is 0, so that a truth test would lose it.
        if asked is not None:
            return asked
        return own.priority if own else Priority.NORMAL

    def parallel(self, facts: Facts) -> int:
        """How many requests one runner of a model may serve at once."""
        slots = footprint.parallel_of(facts, self._settings.num_parallel)
        own = self._models.get(_key(facts.name))
        return min(slots, own.max_concurrent) if own and own.max_concurrent else slots

    def model_of(self, digest: str) -> ModelKey:
        """What the manifest's digest in a line of `/api/ps` stands for."""
        known = self._by_digest.get(digest)
        return ModelKey(digest) if known is None else known.key

    async def residents(self) -> tuple[Resident, ...]:
        """What is resident, with what it takes.

        Raises:
            UpstreamError: no answer, or not that of an Ollama.
        """
        lines = [footprint.read_ps(entry) for entry in await self._ollama.residents()]
        on_card = any(line.size_vram_bytes for line in lines)
        found = [await self._resident(line, on_card=on_card) for line in lines if line.name]
        self._given_up &= {resident.model for resident in found}
        return tuple(resident for resident in found if resident.model not in self._given_up)

    def give_up(self, model: ModelKey) -> None:
        """Take no more notice of a runner that no name reaches, for as long as it is listed.

        Ollama lets go of it when it needs the memory; to the gate it is somebody else's.
        """
        self._given_up.add(model)

    async def _resident(self, line: footprint.Resident, *, on_card: bool) -> Resident:
        facts = await self._facts_of(line)
        bin_ = self._bins[0]
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
            parallel=self.parallel(facts),
            size_bytes=line.size_bytes,
        )

    async def _facts_of(self, line: footprint.Resident) -> Facts:
        """What a runner is, which need not be what its name means now."""
        known = self._by_digest.get(line.digest)
        if known is None:
            # The name may have got another meaning since it was asked for.
            self._known.pop(_key(line.name), None)
            try:
                named = await self.facts(line.name)
            except UpstreamRefusedError:
                named = None
            known = self._by_digest.get(line.digest) if line.digest else named
        if known is not None:
            return replace(known, name=line.name)
        # Deleted or replaced since it was loaded, before the gate ever saw it.
        key = ModelKey(line.digest or line.name)
        return Facts(key=key, name=line.name, size_bytes=line.size_bytes)

    def _launched(
        self, facts: Facts, line: footprint.Resident, bin_: Bin, *, on_card: bool
    ) -> tuple[Launch, int]:
        """The options of a runner and its context's name, as far as `/api/ps` betrays them."""
        resolved = footprint.resolve(facts, Launch(), self._settings)
        launch, named_ctx = resolved.launch, resolved.named_ctx
        if line.context_length is not None and line.context_length != resolved.num_ctx:
            launch, named_ctx = replace(launch, num_ctx=line.context_length), line.context_length
        # Where only a budget is configured and nothing is on a card, there may be no card at all.
        card = not bin_.cpu and (on_card or bin_.capacity_bytes is None)
        if card and not line.size_vram_bytes:
            launch = replace(launch, num_gpu=0)
        return launch, named_ctx

    def _taken(self, facts: Facts, line: footprint.Resident, bin_: Bin) -> int:
        configured_bytes = self._configured_bytes(facts)
        if configured_bytes is not None:
            return configured_bytes
        return self._book.learn(
            facts,
            Launch(num_ctx=line.context_length),
            self._settings,
            size_bytes=line.size_bytes,
            # Nothing on a card that was not asked to be empty: there may be no card at all, and
            # the budget that is configured means main memory.
            size_vram_bytes=line.size_vram_bytes or line.size_bytes,
            on_cpu_bin=bin_.cpu,
        )

    def _need(self, facts: Facts, launch: Launch, bin_: Bin) -> tuple[Need, str]:
        return self._book.need(
            facts,
            launch,
            self._settings,
            configured_bytes=self._configured_bytes(facts),
            on_cpu_bin=bin_.cpu,
        )

    def _configured_bytes(self, facts: Facts) -> int | None:
        own: ModelConfig | None = self._models.get(_key(facts.name))
        return own.vram_bytes if own else None


def _key(name: str) -> str:
    parsed = names.parse(name)
    return parsed.key if parsed else name
