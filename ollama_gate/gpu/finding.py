"""Which cards to read for an upstream: configured, NVIDIA's, AMD's, else main memory.

It decides that once, at the start. A card that does not answer then is read all the same, and
its readings say why; the one thing never done is to read this machine for another one's upstream.
A card with a UUID that was asked for is no guess, though: there is no second one in the world.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ollama_gate import config
from ollama_gate.errors import CardError
from ollama_gate.gpu.amd import SYS, AmdCard, amd_devices
from ollama_gate.gpu.aside import on_a_thread
from ollama_gate.gpu.driver import INSTALLED, Driver, total_bytes
from ollama_gate.gpu.nvml import NvmlCard
from ollama_gate.gpu.reading import Card
from ollama_gate.gpu.system import SystemMemory

ELSEWHERE: Final = (
    "nothing here reads that machine's memory: one model at a time; "
    "set upstreams[0].gpus to [{vram: ...}]"
)
APPLE: Final = (
    "nothing tells how much of this machine's memory its GPU may use: one model at a time; "
    "set upstreams[0].gpus to [{vram: ...}], about 70 % of the memory"
)
OTHER_CARD: Final = (
    "there is a card here that tells no memory (Intel's do not, nor is every integrated AMD one "
    "used): planning with main memory; if Ollama uses it, set upstreams[0].gpus to [{vram: ...}]"
)
SILENT: Final = (
    "the driver does not answer: until it does there is no reading of the cards that are "
    "configured, nor under auto of the NVIDIA card with most memory; restart the gate then if "
    "there are other cards"
)
SPLIT: Final = "a card is split (MIG): name the part that Ollama uses in upstreams[0].gpus"

FIND_S: Final = 10.0
"""A card that sleeps answers within seconds; whoever starts is not held up for longer."""

_INTEL: Final = "0x8086"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A card and what of it may be planned with.

    Attributes:
        card: `None` where nothing here can read it.
        vram_bytes: as configured; `None` for what readings say.
    """

    card: Card | None = None
    vram_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The cards of one upstream.

    Attributes:
        listed: at least one.
        planned: which of them is planned with: the one with most memory.
        cpu: whether it is main memory, for an Ollama without a card.
        advice: what the operator should know, if anything.
    """

    listed: tuple[Listed, ...]
    planned: int = 0
    cpu: bool = False
    advice: str = ""

    @property
    def card(self) -> Card | None:
        """What is read of what is planned with."""
        return self.listed[self.planned].card

    @property
    def vram_bytes(self) -> int | None:
        """The configured budget of what is planned with."""
        return self.listed[self.planned].vram_bytes


def only(card: Card) -> Found:
    """One card that was found otherwise."""
    return Found(listed=(Listed(card=card),), cpu=card.source == SystemMemory.source)


def find_cards(
    gpus: config.Gpus,
    *,
    upstream_is_local: bool,
    nvml: Any = INSTALLED,
    root: Path = SYS,
    platform: str = sys.platform,
) -> Found:
    """What to read for an upstream. Blocks, like a reading.

    Args:
        gpus: as configured.
        upstream_is_local: whether it runs on this machine; another machine's memory cannot be
            read from here.
        nvml: the binding.
        root: where the kernel describes devices.
        platform: as `sys.platform`.
    """
    finder = _Finder(Driver(nvml), root, platform)
    match gpus:
        case "cpu" if upstream_is_local:
            return only(SystemMemory())
        case "auto" if upstream_is_local:
            return finder.any()
        case "auto" | "cpu":
            return Found(listed=(Listed(),), advice=ELSEWHERE, cpu=gpus == "cpu")
        case entries:
            return finder.named(entries) if upstream_is_local else finder.elsewhere(entries)


async def find_in_time(
    gpus: config.Gpus,
    *,
    upstream_is_local: bool,
    nvml: Any = INSTALLED,
    within_s: float = FIND_S,
) -> Found:
    """As `find_cards`, on a thread; a driver that hangs holds up nobody for long.

    What is wanted is then listed all the same, to be read as soon as the driver answers.

    Args:
        gpus: as configured.
        upstream_is_local: whether it runs on this machine.
        nvml: the binding.
        within_s: how long to wait.
    """
    search = on_a_thread(
        lambda: find_cards(gpus, upstream_is_local=upstream_is_local, nvml=nvml), "find cards"
    )
    done, _ = await asyncio.wait({search}, timeout=within_s)
    if done:
        return search.result()
    search.cancel()
    return _unseen(gpus, nvml, here=upstream_is_local)


def _unseen(gpus: config.Gpus, nvml: Any, *, here: bool) -> Found:
    """What to read once a driver that is silent now answers; only NVIDIA's is ever asked."""
    # The first hold on it may never return, and what it has locked stays so.
    driver = Driver(nvml)
    entries = gpus if isinstance(gpus, tuple) else (config.Card(),)
    listed = tuple(
        Listed(
            card=NvmlCard(each.index if each.uuid is None else each.uuid, driver=driver)
            if here
            else None,
            vram_bytes=each.vram_bytes,
        )
        for each in entries
    )
    planned = max(range(len(listed)), key=lambda place: listed[place].vram_bytes or 0)
    return Found(listed=listed, planned=planned, advice=SILENT)


@dataclass(frozen=True, slots=True)
class _Finder:
    driver: Driver
    root: Path
    platform: str

    def any(self) -> Found:
        """Whatever Ollama would find."""
        return self._nvidia() or self._amd() or self._no_card()

    def named(self, entries: tuple[config.Card, ...]) -> Found:
        """The cards that the configuration lists."""
        listed = tuple(Listed(card=self._of(each), vram_bytes=each.vram_bytes) for each in entries)
        return Found(listed=listed, planned=_largest(listed))

    def elsewhere(self, entries: tuple[config.Card, ...]) -> Found:
        """The same, of an upstream that may be a container's or another machine's."""
        wanted = any(each.uuid is not None for each in entries)
        here = self._uuids() if wanted else frozenset()
        listed = tuple(
            Listed(card=self._of(each) if each.uuid in here else None, vram_bytes=each.vram_bytes)
            for each in entries
        )
        planned = _largest(listed)
        known = listed[planned] != Listed()
        return Found(listed=listed, planned=planned, advice="" if known else ELSEWHERE)

    def _uuids(self) -> frozenset[str]:
        """Of every card that is on this machine now."""
        found = frozenset(each.uuid for each in amd_devices(self.root) if each.uuid)
        if self.driver.nvml is not None:
            with contextlib.suppress(self.driver.nvml.NVMLError):
                found |= {each.uuid for each in self.driver.devices()}
        return found

    def _of(self, entry: config.Card) -> Card | None:
        if entry.index is None and entry.uuid is None:
            found = self.any()
            return None if found.cpu else found.card
        which = entry.index if entry.uuid is None else entry.uuid
        amd = amd_devices(self.root)
        if any(each.uuid == which for each in amd) or (amd and not self._nvidia()):
            return AmdCard(which, root=self.root)
        return NvmlCard(which, driver=self.driver)

    def _nvidia(self) -> Found | None:
        """`None` without a driver, or with one that knows no card."""
        nvml, driver = self.driver.nvml, self.driver
        if nvml is None:
            return None
        try:
            devices = driver.devices()
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
            return None if error.value in absent else only(NvmlCard(driver=driver))
        if not devices:
            return only(NvmlCard(driver=driver)) if count else None
        planned = max(range(len(devices)), key=lambda place: total_bytes(driver, devices[place]))
        return Found(
            listed=tuple(Listed(card=NvmlCard(each.uuid, driver=driver)) for each in devices),
            planned=planned,
            advice=SPLIT if any(each.uuid.startswith("MIG-") for each in devices) else "",
        )

    def _amd(self) -> Found | None:
        devices = [
            (place, each)
            for place, each in enumerate(amd_devices(self.root))
            if each.used_by_default
        ]
        if not devices:
            return None
        listed = tuple(
            Listed(card=AmdCard(each.uuid or place, root=self.root)) for place, each in devices
        )
        return Found(listed=listed, planned=_largest(listed))

    def _no_card(self) -> Found:
        if self.platform == "darwin":
            return Found(listed=(Listed(),), advice=APPLE)
        makers = (self.root / "class/drm").glob("card*/device/vendor")
        intel = any(_first_word(maker) == _INTEL for maker in makers)
        other = intel or bool(amd_devices(self.root))
        return Found(
            listed=(Listed(card=SystemMemory()),), cpu=True, advice=OTHER_CARD if other else ""
        )


def _first_word(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _largest(listed: Sequence[Listed]) -> int:
    """Which one; nobody is asked where there is no choice."""
    if len(listed) == 1:
        return 0
    return max(range(len(listed)), key=lambda place: _most(listed[place]))


def _most(listed: Listed) -> int:
    """What can be planned with at most, as far as anybody can tell now."""
    limits = [] if listed.vram_bytes is None else [listed.vram_bytes]
    if listed.card is not None:
        # Where there is none its readings will say so.
        with contextlib.suppress(CardError):
            limits.append(listed.card.read().total_bytes)
    return min(limits, default=0)
