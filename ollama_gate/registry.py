"""What the models of one upstream come to in the scheduler's terms: requests, runners, sizes.

What they are is `known`'s to find out and to remember.
"""

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_gate import footprint, names
from ollama_gate.config import Config, ModelConfig, UpstreamConfig
from ollama_gate.errors import (
    UpstreamError,
    UpstreamGoneError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.experience import Experience
from ollama_gate.footprint import Facts, Settings
from ollama_gate.footprint.explained import Source
from ollama_gate.known import Known, KnownModel, Line
from ollama_gate.ledger import Ledger, Listed
from ollama_gate.ollama import Ollama
from ollama_gate.outlook import Outlook, Size, Times, sizes
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

VERSION_FRESH_S: Final = 60.0
"""For so long Ollama's version is believed; after an outage it is asked for again at once."""

REMEMBERED: Final = 1000
"""How many models with options of their own are remembered with what they come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Derived:
    """What was worked out, and from what."""

    facts: Facts
    settings: Settings
    revision: int

    def holds(self, facts: Facts, settings: Settings, revision: int) -> bool:
        """Whether it would come to the same again."""
        return self.facts is facts and self.settings is settings and self.revision == revision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes(_Derived):
    """What a model would take, with the context that nobody named and with others."""

    automatic: Size
    all: tuple[Size, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wants(_Derived):
    """What a model with certain options comes to in the scheduler's terms."""

    resolved: footprint.Resolved
    needs: Mapping[BinId, Need]
    parallel: int


class Registry:
    """Facts and footprints of one upstream's models, in its bins. `close` comes last.

    Args:
        ollama: whom to ask.
        config: what is in effect.
        upstream: how that one is set up.
        bins: where its models may be.
        experience: what was seen of it before, and is from now on.

    Attributes:
        ledger: what became of its loads and unloads.
    """

    def __init__(
        self,
        *,
        ollama: Ollama,
        config: Config,
        upstream: UpstreamConfig,
        bins: Sequence[Bin],
        experience: Experience | None = None,
    ) -> None:
        self._ollama = ollama
        self._config = config
        self._bins = tuple(bins)
        self._settings = Settings(
            num_parallel=upstream.num_parallel,
            kv_cache_type=upstream.kv_cache_type,
            context_length=upstream.context_length,
            safety=config.vram.safety,
        )
        self._experience = experience or Experience(upstream.url)
        self.ledger = Ledger()
        self._book = self._experience.book
        self._version_until = -math.inf
        self._on_disk: Mapping[str, Line] = {}
        self._known = Known(ollama)
        self._answered = False
        self._sized: dict[str, _Sizes] = {}
        self._given_up: set[ModelKey] = set()
        self._wanted: dict[tuple[ModelKey, str, Launch, frozenset[str]], _Wants] = {}
        self._models = {names.key_of(name): model for name, model in config.models.items()}
        self._pinned = {name for name, model in self._models.items() if model.pin}

    @property
    def version(self) -> str:
        """Ollama's own, when it last answered; empty until it says."""
        return self._settings.version

    def card_has(self, total_bytes: int) -> None:
        """Take in how much memory the card has: Ollama's automatic context depends on it."""
        if total_bytes != self._settings.total_bytes:
            self._settings = replace(self._settings, total_bytes=total_bytes)

    # ---------------------------------------------------------------- what is known

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._known.close()

    async def facts(self, name: str, *, strict: bool = False) -> Facts | None:
        """What there is to know of a model, as `Known.facts`; `None` if Ollama knows it not."""
        return await self._known.facts(name, strict=strict)

    def believed(self, name: str) -> Facts | None:
        """What was known of a model when the upstream last answered; nobody is asked."""
        return self._known.believed(name)

    def may_have(self, name: str) -> bool:
        """Whether the upstream may have a model, for all that it ever said; nobody is asked."""
        return self._known.may_have(name)

    def changing(self, changed: Collection[str]) -> AbstractContextManager[None]:
        """For the length of a block these names may change their meaning, as `Known.changing`."""
        return self._known.changing(changed)

    async def list_anew(self) -> None:
        """Ask for the list of models again; raises as `Known.list_anew`."""
        await self._known.list_anew()

    def line(self, name: str) -> Line | None:
        """How a model was listed last, in any spelling of its name; `None` if it was not."""
        return self._known.listed.get(names.key_of(name))

    async def known(self) -> list[Outlook]:
        """Every model that the upstream lists, with what is known of it by now.

        Nobody is asked, and others have their turn while it is worked out; what is missing is
        asked for in the background.
        """
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
        times = self._times(facts.key)
        if facts.remote:
            return replace(shown, times=times)
        sized = self._sized.get(line.key)
        if sized is None or not sized.holds(facts, self._settings, self._book.revision):
            self._sized[line.key] = sized = self._sizes(facts)
            await asyncio.sleep(0)
        return replace(shown, times=times, automatic=sized.automatic, sizes=sized.all)

    def _times(self, model: ModelKey) -> Times:
        past = self._experience.times(model)
        return Times(
            load_s=None if past.load is None else past.load.seconds,
            unload_s=None if past.unload is None else past.unload.seconds,
            service_s=None if past.service is None else past.service.seconds,
        )

    def _sizes(self, facts: Facts) -> _Sizes:
        bin_ = self._bins[0]
        automatic, others = sizes(
            facts, self._settings, lambda launch: self._need(facts, launch, bin_), cpu=bin_.cpu
        )
        if len(self._sized) >= REMEMBERED:
            self._sized.clear()
        return _Sizes(
            facts=facts,
            settings=self._settings,
            revision=self._book.revision,
            automatic=automatic,
            all=others,
        )

    def model_of(self, digest: str) -> ModelKey:
        """What the manifest's digest in a line of `/api/ps` stands for."""
        return self._known.model_of(digest)

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
        deadline_at: float = math.inf,
    ) -> Request:
        """What a client's request means to the scheduler."""
        own = self._models.get(names.key_of(ask.model))
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
            pinned=self._is_pinned(facts),
            service_s=self._times(facts.key).service_s,
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

    def _is_pinned(self, facts: Facts) -> bool:
        """Whether a model is to stay, under whichever of its names that was said."""
        if not self._pinned:
            return False
        found = {facts.name, *self.names_of(facts.key)}
        return not self._pinned.isdisjoint(map(names.key_of, found))

    def parallel(self, facts: Facts) -> int:
        """How many requests one runner of a model may serve at once."""
        slots = footprint.parallel_of(facts, self._settings.num_parallel)
        own = self._models.get(names.key_of(facts.name))
        return min(slots, own.max_concurrent) if own and own.max_concurrent else slots

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
        self._experience.listed(self._bins[0].id, asyncio.get_running_loop().time())
        listed = {one.model: Listed(one.name, one.num_ctx) for one in found}
        self.ledger.listed(listed, asked_at)
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
                self.ledger.silent()
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
        if version != self._settings.version:
            self._settings = replace(self._settings, version=version)

    def _notice_overhead(self) -> None:
        overhead_bytes = self._experience.overhead_bytes(self._bins[0].id)
        if overhead_bytes != self._settings.overhead_bytes:
            self._settings = replace(self._settings, overhead_bytes=overhead_bytes)

    def _notice_disk(self) -> None:
        """What is gone from the disk for good is forgotten."""
        lines = self._known.listed
        if lines is not self._on_disk:
            self._on_disk = lines
            self._experience.on_disk([line.digest for line in lines.values()])

    async def ran_out(self, name: str, launch: Launch, bin_id: BinId) -> None:
        """A model ran out of memory as it was loaded: it is booked with more from now on."""
        facts = await self.facts(name)
        if facts is not None:
            bin_ = next(bin_ for bin_ in self._bins if bin_.id == bin_id)
            self._experience.ran_out(facts, launch, self._settings, bin_)

    def deleted(self, model: ModelKey) -> None:
        """A name of a model was deleted: unless it has another, it is forgotten."""
        self._experience.deleted(model)

    def names_of(self, model: ModelKey) -> list[str]:
        """The names by which a runner can be reached, as far as they are known."""
        known = self._known.models()
        return [one.line.name for one in known if one.facts is not None and one.facts.key == model]

    def take_back(self, model: ModelKey) -> None:
        """Take notice again of a runner that was given up."""
        self._given_up.discard(model)

    def give_up(self, model: ModelKey) -> None:
        """Take no more notice of a runner that no name reaches, for as long as it is listed.

        Ollama lets go of it when it needs the memory; to the gate it is somebody else's.
        """
        self._given_up.add(model)

    def _resident(self, line: footprint.Resident, facts: Facts, *, on_card: bool) -> Resident:
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
            pinned=self._is_pinned(facts),
        )

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
        """What to book for a runner that is there; and learning from it."""
        self._experience.met(facts.key, line.digest)
        seen_bytes = self._experience.saw(
            facts,
            line,
            self._settings,
            bin_,
            # Nothing on a card that was not asked to be empty: there may be no card at all, and
            # the budget that is configured means main memory.
            size_vram_bytes=line.size_vram_bytes or line.size_bytes,
            now=asyncio.get_running_loop().time(),
        )
        configured_bytes = self._configured_bytes(facts)
        return seen_bytes if configured_bytes is None else configured_bytes

    def _need(self, facts: Facts, launch: Launch, bin_: Bin) -> tuple[Need, Source]:
        need, source = self._book.need(
            facts,
            launch,
            self._settings,
            configured_bytes=self._configured_bytes(facts),
            on_cpu_bin=bin_.cpu,
        )
        return replace(need, load_s=self._experience.load_s(facts.key)), source

    def _configured_bytes(self, facts: Facts) -> int | None:
        own: ModelConfig | None = self._models.get(names.key_of(facts.name))
        return own.vram_bytes if own else None


def _nameless(line: footprint.Resident) -> Facts:
    """Deleted or replaced since it was loaded, before the gate ever saw it."""
    return Facts(key=ModelKey(line.digest or line.name), name=line.name, size_bytes=line.size_bytes)
