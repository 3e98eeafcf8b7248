"""The gate put together: what is opened, in which order, and how it is closed again."""

import asyncio
import functools
import socket
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from aiohttp import web
from yarl import URL

from ollama_gate import gpu, log
from ollama_gate.app import Face, make_runner
from ollama_gate.config import Config, UpstreamConfig, parameters
from ollama_gate.engine import Engine
from ollama_gate.errors import CardError, ListenError
from ollama_gate.experience import Experience
from ollama_gate.fleet import Fleet, Member
from ollama_gate.gate import Gate
from ollama_gate.guard import Guard
from ollama_gate.ollama import Ollama
from ollama_gate.preloading import Preloading
from ollama_gate.prewarm import SHARED, Prewarmer, Reader, why_not
from ollama_gate.registry import Registry
from ollama_gate.scheduler import Machine
from ollama_gate.scheduler.types import Bin, BinId, Offload, Policy, Upstream
from ollama_gate.store import Keeper
from ollama_gate.trace import Recorder

RUNNERS_A_CARD: Final = 3
"""How many runners Ollama keeps for each card, or on the CPU, unless it is told otherwise."""

UNREAD_RECOVERY_S: Final = 1.5
"""A card shows the memory of an ended process as free up to so much later than `/api/ps` (Ollama
v0.32.15 calls 0.5 to 1.5 s typical). Loaded sooner, a model slides onto the CPU in part."""

_system = log.get(log.Component.SYSTEM)
_monitor = log.get(log.Component.MONITOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """One upstream, with all that is there for it alone.

    Attributes:
        found: its cards.
        bin: the one of them that is planned with.
    """

    member: Member
    found: gpu.Found
    bin: Bin
    experience: Experience


class Site:
    """A running gate: `open`, then `serve`, then `close`; or `async with`.

    Args:
        config: what is in effect.
        card: what to read instead of the card that the configuration leads to; several are those
            of the upstreams, in their order.
        busy_poll_s: how often it is read while memory is on the move.
        temporary: nothing of what is learned is kept, nor anything from before believed.
    """

    def __init__(
        self,
        config: Config,
        *,
        card: gpu.Card | tuple[gpu.Card, ...] | None = None,
        busy_poll_s: float = gpu.BUSY_S,
        temporary: bool = False,
    ) -> None:
        self.config = config
        self.url = ""
        self._cards = card if isinstance(card, tuple) else (card,) if card else ()
        self._busy_poll_s = busy_poll_s
        self._temporary = temporary
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._keeper: Keeper | None = None
        self._recorder = Recorder(config.trace) if config.trace is not None else None
        self._name = uuid.uuid4().hex
        self._posts: tuple[_Post, ...] = ()
        self._reader = Reader()
        self._meters: dict[BinId, gpu.Meters] = {}
        self._read_for: dict[str, list[str]] = {}
        self._runner: web.ServerRunner | None = None
        self._listener: web.TCPSite | None = None
        self.gate: Gate | None = None
        self.fleet: Fleet | None = None
        self._face: Face | None = None
        self._preloading: Preloading | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(grace_s=0.0)

    async def open(self) -> None:
        """Begin to listen, to watch the upstreams and to read their cards.

        Raises:
            ListenError: the address cannot be had.
            StateError: `state_dir` is not for this gate to use.
        """
        found = await self._find()
        keeper = await self._recall()
        self._posts = tuple(
            self._post(upstream, its_cards, keeper)
            for upstream, its_cards in zip(self.config.upstreams, found, strict=True)
        )
        for post in self._posts:
            await post.member.ollama.open()
        self.gate = gate = await self._gate()
        self.fleet = fleet = Fleet([post.member for post in self._posts], gate)
        for post in self._posts:
            self._meters[post.bin.id] = meters = self._meters_of(post)
            gate.attach(post.bin.id, meters)
        self._face = face = Face(
            config=self.config,
            gate=gate,
            fleet=fleet,
            readings=self._readings,
            guard=_guard(self.config),
            name=self._name,
        )
        try:
            await self._listen(face)
        except OSError as error:
            await self._part()
            raise ListenError(f"cannot listen on {self.config.listen}: {error}") from error
        for meters in self._meters.values():
            meters.start()
        self._preloading = _preloading(self.config, gate, fleet)
        self._preloading.start()
        gate.start()
        for post in self._posts:
            _say_found(post.found, post.member.config)

    async def _find(self) -> list[gpu.Found]:
        """The cards of each upstream."""
        upstreams = self.config.upstreams
        if self._cards:
            return [gpu.only(card) for card in self._cards]
        return await asyncio.gather(
            *(
                gpu.find_in_time(upstream.gpus, upstream_is_local=gpu.is_here(upstream.url))
                for upstream in upstreams
            )
        )

    def _post(self, upstream: UpstreamConfig, found: gpu.Found, keeper: Keeper) -> _Post:
        bin_ = _bin(self.config, upstream, found)
        ollama = Ollama(upstream.url, gate=self._name)
        experience = Experience(upstream.url, keeper)
        registry = Registry(
            ollama=ollama,
            config=self.config,
            upstream=upstream,
            bins=(bin_,),
            experience=experience,
        )
        prewarmer = Prewarmer(
            self._reader,
            upstream=upstream.name,
            off=why_not(self.config.prewarm, upstream.url),
        )
        member = Member(config=upstream, ollama=ollama, registry=registry, prewarmer=prewarmer)
        return _Post(member=member, found=found, bin=bin_, experience=experience)

    async def _gate(self) -> Gate:
        keep_alive_s = self.config.keep_alive_s
        upstreams = [_upstream(post.member.config, post.found) for post in self._posts]
        bins = [post.bin for post in self._posts]
        policy = _policy(self.config)
        if self._recorder is not None:
            await self._recorder.open(upstreams=upstreams, bins=bins, policy=policy)
        now = asyncio.get_running_loop().time()
        return Gate(
            Machine(upstreams=upstreams, bins=bins, policy=policy, now=now),
            {
                post.member.name: Engine(
                    post.member.ollama,
                    post.member.registry,
                    keep_alive_s=keep_alive_s,
                    prewarmer=post.member.prewarmer,
                )
                for post in self._posts
            },
            witnesses={post.member.name: post.experience for post in self._posts},
            recorder=self._recorder,
        )

    def _meters_of(self, post: _Post) -> gpu.Meters:
        return gpu.Meters(
            post.found,
            tell=functools.partial(self._measured, post),
            total=post.member.registry.card_has,
            busy_s=self._busy_poll_s,
        )

    async def _listen(self, face: Face) -> None:
        listen = self.config.listen
        self._runner = make_runner(face.enter)
        await self._runner.setup()
        self._listener = web.TCPSite(self._runner, listen.host, listen.port)
        try:
            await self._listener.start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = str(URL.build(scheme="http", host=host, port=port))

    async def close(self, *, grace_s: float | None = None) -> None:
        """Refuse who waits, let running answers end within the grace, leave Ollama its models.

        Only the first call does anything.

        Args:
            grace_s: instead of the configured one.
        """
        assert self.gate is not None, "open() comes first"
        if self._closed:
            return
        self._closed = True
        grace_s = self.config.grace_s if grace_s is None else grace_s
        if self._listener is not None:
            await self._listener.stop()
        assert self._face is not None
        if self._preloading is not None:
            await self._preloading.close()
        began = monotonic()
        await self.gate.drain(grace_s)
        if not await self._face.idle(max(0.0, grace_s - (monotonic() - began))):
            _system.warning("answers cut off", after_s=grace_s)
            self._face.cut_off()
        await self.gate.hand_back()
        for meters in self._meters.values():
            await meters.stop()
        await self.gate.close()
        await self._reader.close()
        for post in self._posts:
            await post.member.registry.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._part()

    async def _recall(self) -> Keeper:
        """What was learned in earlier lives, and a place for what will be."""
        state_dir = self.config.state_dir
        if self._temporary:
            self._scratch = tempfile.TemporaryDirectory()
            state_dir = Path(self._scratch.name)
        self._keeper = keeper = Keeper(state_dir)
        await keeper.open()
        return keeper

    async def _part(self) -> None:
        """Hang up, end the trace, and let go of what was learned."""
        for post in self._posts:
            await post.member.ollama.close()
        if self._recorder is not None:
            await self._recorder.close()
        if self._keeper is not None:
            await self._keeper.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    # ---------------------------------------------------------------- the cards

    def _measured(self, post: _Post, reading: gpu.Reading | CardError) -> None:
        assert self.gate is not None
        bin_id = post.bin.id
        match reading:
            case gpu.Reading():
                self._share(reading.device, post.member)
                if reading.shared and post.member.prewarmer is not None:
                    post.member.prewarmer.turn_off(SHARED)
                post.experience.measured(
                    bin_id, reading.device, reading.used_bytes, reading.ours_bytes
                )
                self.gate.measured(bin_id, reading.total_bytes, reading.used_bytes)
            case CardError():
                self.gate.reading_lost(bin_id)

    def _share(self, device: str, member: Member) -> None:
        """Warn where one card is planned with for two upstreams, as if each had it to itself."""
        names = self._read_for.setdefault(device, [])
        if member.name in names:
            return
        names.append(member.name)
        if len(names) > 1:
            _monitor.warning(
                "upstreams share a card, and each may find less than it was promised: "
                "give each one of its own, and name that in upstreams[].gpus",
                upstreams=", ".join(names),
                card=device,
            )

    def _readings(self) -> dict[str, dict[str, Any]]:
        now = monotonic()
        return {bin_id: meters.status(now) for bin_id, meters in self._meters.items()}


def _bin(config: Config, upstream: UpstreamConfig, found: gpu.Found) -> Bin:
    return Bin(
        id=BinId(f"{upstream.name}/{'cpu' if found.cpu else '0'}"),
        upstream=upstream.name,
        capacity_bytes=found.vram_bytes,
        reserve_bytes=config.vram.reserve_bytes,
        cpu=found.cpu,
    )


def _guard(config: Config) -> Guard:
    return Guard(
        origins=config.origins,
        on_loopback=gpu.is_loopback(config.listen.host),
        hostname=socket.gethostname(),
        own_addresses=gpu.own_addresses,
    )


def _upstream(upstream: UpstreamConfig, found: gpu.Found) -> Upstream:
    return Upstream(
        name=upstream.name,
        max_loaded=upstream.max_loaded or RUNNERS_A_CARD * len(found.listed),
        outage_wait_s=upstream.outage_wait_s,
    )


def _policy(config: Config) -> Policy:
    return Policy(
        **parameters(config.scheduler),
        queue_max_size=config.queue.max_size,
        queue_max_wait_s=config.queue.max_wait_s,
        queue_max_per_client=config.queue.max_per_client,
        max_concurrent=config.max_concurrent,
        keep_alive_s=config.keep_alive_s,
        unread_recovery_s=UNREAD_RECOVERY_S,
        offload=Offload(config.offload),
        prewarm=config.prewarm == "auto",
    )


def _preloading(config: Config, gate: Gate, fleet: Fleet) -> Preloading:
    models = [name for name, model in config.models.items() if model.preload]
    return Preloading(gate=gate, fleet=fleet, models=models)


def _say_found(found: gpu.Found, upstream: UpstreamConfig) -> None:
    sources = {each.card.source if each.card else "config" for each in found.listed}
    budget = {} if found.vram_bytes is None else {"budget": log.size(found.vram_bytes)}
    if found.card is not None or budget:
        source = ", ".join(sorted(sources))
        _monitor.info("memory", upstream=upstream.name, source=source, **budget)
    if found.advice:
        _monitor.warning(found.advice, upstream=upstream.url)
    if len(found.listed) > 1:
        _monitor.warning(
            "several cards: only the largest is planned with; run one Ollama for each card",
            upstream=upstream.name,
            cards=len(found.listed),
        )
