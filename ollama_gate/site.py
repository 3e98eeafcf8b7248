"""The gate put together: what is opened, in which order, and how it is closed again."""

import asyncio
import contextlib
import ipaddress
import socket
import uuid
from time import monotonic
from typing import Any, Final, Self

import psutil
from aiohttp import web
from yarl import URL

from ollama_gate import gpu, log
from ollama_gate.app import Face, make_runner
from ollama_gate.config import Card, Config, UpstreamConfig
from ollama_gate.engine import Engine
from ollama_gate.errors import CardError, ListenError
from ollama_gate.gate import Gate
from ollama_gate.guard import Guard
from ollama_gate.ollama import Ollama
from ollama_gate.registry import Registry
from ollama_gate.scheduler import Machine
from ollama_gate.scheduler.types import Bin, BinId, Policy, Upstream

RUNNERS_A_CARD: Final = 3
"""How many runners Ollama keeps for each card, or on the CPU, unless it is told otherwise."""

UNREAD_RECOVERY_S: Final = 1.5
"""A card shows the memory of an ended process as free up to so much later than `/api/ps` (Ollama
v0.32.15 calls 0.5 to 1.5 s typical). Loaded sooner, a model slides onto the CPU in part."""

_system = log.get(log.Component.SYSTEM)
_monitor = log.get(log.Component.MONITOR)


class Site:
    """A running gate: `open`, then `serve`, then `close`; or `async with`.

    Args:
        config: what is in effect.
        card: what to read instead of the card that the configuration leads to.
        busy_poll_s: how often it is read while memory is on the move.
    """

    def __init__(
        self,
        config: Config,
        *,
        card: gpu.Card | None = None,
        busy_poll_s: float = gpu.BUSY_S,
    ) -> None:
        self.config = config
        self.url = ""
        self._card = card
        self._busy_poll_s = busy_poll_s
        self._name = uuid.uuid4().hex
        self._ollama = Ollama(config.upstream.url, gate=self._name)
        self._poller: gpu.Poller | None = None
        self._runner: web.ServerRunner | None = None
        self._listener: web.TCPSite | None = None
        self._bin: Bin | None = None
        self._registry: Registry | None = None
        self.gate: Gate | None = None
        self._face: Face | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(grace_s=0.0)

    async def open(self) -> None:
        """Begin to listen, to watch the upstream and to read the card.

        Raises:
            ListenError: the address cannot be had.
        """
        upstream = self.config.upstream
        card = self._card or await asyncio.to_thread(_find_card, upstream)
        self._bin = bin_ = _bin(self.config, card)
        await self._ollama.open()
        self._registry = registry = Registry(ollama=self._ollama, config=self.config, bins=(bin_,))
        engine = Engine(self._ollama, registry, keep_alive_s=self.config.keep_alive_s)
        self.gate = gate = Gate(
            Machine(
                upstreams=(_upstream(upstream, card),),
                bins=(bin_,),
                policy=_policy(self.config),
                now=asyncio.get_running_loop().time(),
            ),
            {upstream.name: engine},
        )
        if card is not None:
            self._poller = gpu.Poller(card, self._measured, busy_s=self._busy_poll_s)
            gate.attach(bin_.id, self._poller)
        self._face = face = Face(
            config=self.config,
            gate=gate,
            registry=registry,
            ollama=self._ollama,
            readings=self._readings,
            guard=_guard(self.config),
            name=self._name,
        )
        try:
            await self._listen(face)
        except OSError as error:
            await self._ollama.close()
            raise ListenError(f"cannot listen on {self.config.listen}: {error}") from error
        if bin_.capacity_bytes is not None:
            registry.card_has(bin_.capacity_bytes)
        if self._poller is not None:
            self._poller.start()
        gate.start()
        _say_card(card, upstream)

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
        began = monotonic()
        await self.gate.drain(grace_s)
        if not await self._face.idle(max(0.0, grace_s - (monotonic() - began))):
            _system.warning("answers cut off", after_s=grace_s)
            self._face.cut_off()
        await self.gate.hand_back()
        if self._poller is not None:
            await self._poller.stop()
        await self.gate.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._ollama.close()

    # ---------------------------------------------------------------- the card

    def _measured(self, reading: gpu.Reading | CardError) -> None:
        assert self.gate is not None
        assert self._bin is not None
        assert self._registry is not None
        match reading:
            case CardError():
                _monitor.warning("no reading; the last one stands", reason=str(reading))
            case gpu.Reading():
                if not self._bin.cpu:
                    self._registry.card_has(reading.total_bytes)
                self.gate.measured(self._bin.id, reading.total_bytes, reading.used_bytes)

    def _readings(self) -> dict[str, dict[str, Any]]:
        assert self._bin is not None
        if self._poller is None:
            return {self._bin.id: {"source": "config" if self._bin.capacity_bytes else "unknown"}}
        last = self._poller.last
        if last is None:
            return {}
        age_s = self._poller.age_s(monotonic())
        return {
            self._bin.id: {
                "source": last.source,
                "device": last.device,
                "total_bytes": last.total_bytes,
                "used_bytes": last.used_bytes,
                "age_s": None if age_s is None else round(age_s, 3),
                "error": None if self._poller.error is None else str(self._poller.error),
            }
        }


def _find_card(upstream: UpstreamConfig) -> gpu.Card | None:
    is_local = _is_local(upstream.url)
    match upstream.gpus:
        case "auto" | "cpu" as kind:
            return gpu.find_card(kind, upstream_is_local=is_local)
        case Card():
            return None


def _is_local(url: str) -> bool:
    return _is_loopback(URL(url).host or "")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _bin(config: Config, card: gpu.Card | None) -> Bin:
    upstream = config.upstream
    cpu = upstream.gpus == "cpu" or (card is not None and card.source == "system")
    return Bin(
        id=BinId(f"{upstream.name}/{'cpu' if cpu else '0'}"),
        upstream=upstream.name,
        capacity_bytes=upstream.gpus.vram_bytes if isinstance(upstream.gpus, Card) else None,
        reserve_bytes=config.vram.reserve_bytes,
        cpu=cpu,
    )


def _guard(config: Config) -> Guard:
    return Guard(
        origins=config.origins,
        on_loopback=_is_loopback(config.listen.host),
        hostname=socket.gethostname(),
        own_addresses=_own_addresses,
    )


def _own_addresses() -> frozenset[str]:
    """Every address of this machine's network interfaces."""
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    )


def _upstream(upstream: UpstreamConfig, card: gpu.Card | None) -> Upstream:
    cards = card.count if card is not None else 1
    return Upstream(
        name=upstream.name,
        max_loaded=upstream.max_loaded or RUNNERS_A_CARD * max(1, cards),
        outage_wait_s=upstream.outage_wait_s,
    )


def _policy(config: Config) -> Policy:
    return Policy(
        tau_s=config.scheduler.tau_s,
        kappa=config.scheduler.kappa,
        queue_max_size=config.queue.max_size,
        keep_alive_s=config.keep_alive_s,
        unread_recovery_s=UNREAD_RECOVERY_S,
    )


def _say_card(card: gpu.Card | None, upstream: UpstreamConfig) -> None:
    if isinstance(upstream.gpus, Card):
        _monitor.info("memory", source="config", budget=log.size(upstream.gpus.vram_bytes))
    elif card is None:
        _monitor.warning(
            "nothing here reads that machine's memory: one model at a time; "
            "set upstreams[0].gpus to [{vram: ...}]",
            upstream=upstream.url,
        )
    else:
        _monitor.info("memory", source=card.source)
        if card.count > 1:
            _monitor.warning(
                "several cards: only the largest is planned with; run one Ollama for each card",
                cards=card.count,
            )
