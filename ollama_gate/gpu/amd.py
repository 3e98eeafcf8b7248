"""AMD cards, by what their driver says in `/sys`: no library, no privilege.

It refuses to know other makers: Intel's driver has no such files.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_gate.errors import CardError
from ollama_gate.gpu.reading import Card, Reading
from ollama_gate.gpu.system import SystemMemory

SYS: Final = Path("/sys")

CARVE_OUT_BYTES: Final = 4 * 2**30
SHARED_BYTES: Final = 8 * 2**30
SHARED_TIMES: Final = 4
"""A card with so little memory of its own and so much more of the machine's is a part of its
processor (the same test as in Ollama v0.32.15 `discover/amd.go`)."""

USED_BY_DEFAULT: Final = frozenset({110501})
"""Integrated ones that Ollama v0.32.15 uses without being told to, by the kernel's number for
their instruction set: gfx1151, Radeon 8060S. All others need `OLLAMA_IGPU_ENABLE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One card's folder in `/sys`.

    Attributes:
        uuid: as ROCm writes it, `GPU-` and 16 digits; empty where the card has none.
        integrated: a part of the processor, whose memory is mostly the machine's.
        used_by_default: whether Ollama would use it without being told to.
    """

    folder: Path
    name: str
    uuid: str
    integrated: bool
    used_by_default: bool


class AmdCard:
    """An AMD card, by its place among the AMD cards here, by UUID, or else the largest.

    It is looked up at each reading, which costs some small files.
    """

    source = "sysfs"

    def __init__(
        self,
        which: int | str | None = None,
        *,
        root: Path = SYS,
        memory: Card | None = None,
    ) -> None:
        self._which = which
        self._root = root
        self._memory: Card = memory or SystemMemory()

    def read(self) -> Reading:
        """See `Card.read`."""
        device = self._find()
        try:
            total, used = _pair(device.folder, "vram")
            if device.integrated:
                shared_total, shared_used = _pair(device.folder, "gtt")
                shared_free = min(shared_total - shared_used, self._available_bytes())
                total, used = total + shared_total, used + shared_total - shared_free
        except (OSError, ValueError) as error:
            raise CardError(f"the AMD driver does not tell its memory: {error}") from error
        return Reading(
            total_bytes=total,
            used_bytes=min(used, total),
            source=self.source,
            device=device.name,
            taken_at=time.monotonic(),
            note="a part of the machine's memory" if device.integrated else "",
            shared=device.integrated,
        )

    def _available_bytes(self) -> int:
        reading = self._memory.read()
        return reading.total_bytes - reading.used_bytes

    def _find(self) -> Device:
        devices = amd_devices(self._root)
        match self._which:
            case int(index) if index < len(devices):
                return devices[index]
            case str(uuid) if found := [each for each in devices if each.uuid == uuid]:
                return found[0]
            case None if devices:
                return max(devices, key=lambda each: _size(each.folder))
            case which:
                there = ", ".join(f"{n} {each.name}" for n, each in enumerate(devices))
                raise CardError(f"no card {which}; there is: {there or 'none'}")


def amd_devices(root: Path = SYS) -> list[Device]:
    """The AMD cards of this machine, in the order of their numbers."""
    found = sorted(
        (int(match[1]), folder / "device")
        for folder in (root / "class/drm").glob("card*")
        if (match := re.fullmatch(r"card(\d+)", folder.name))
    )
    return [
        _device(root, folder) for _, folder in found if (folder / "mem_info_vram_total").exists()
    ]


def _device(root: Path, folder: Path) -> Device:
    unique_id = _text(folder / "unique_id").removeprefix("0x")
    uuid = f"GPU-{unique_id}" if unique_id.strip("0") else ""
    where = uuid or folder.resolve().name
    return Device(
        folder=folder,
        name=f"{_text(folder / 'product_name') or 'AMD card'} ({where})",
        uuid=uuid,
        integrated=(integrated := _is_integrated(folder)),
        used_by_default=not integrated or _instruction_set(root, folder) in USED_BY_DEFAULT,
    )


def _is_integrated(folder: Path) -> bool:
    # Cards of their own name the maker of their memory, or their board.
    if (folder / "mem_info_vram_vendor").exists() or (folder / "board_info").exists():
        return False
    own, shared = _size(folder), _size(folder, "gtt")
    return own <= CARVE_OUT_BYTES and shared >= max(SHARED_BYTES, SHARED_TIMES * own)


def _instruction_set(root: Path, folder: Path) -> int | None:
    """The kernel's number for what a card executes, from the node that has its render device."""
    for node in sorted((root / "class/kfd/kfd/topology/nodes").glob("*")):
        words = _text(node / "properties").split()
        properties = dict(zip(words[::2], words[1::2], strict=False))
        render = root / f"class/drm/renderD{properties.get('drm_render_minor')}/device"
        if render.exists() and render.resolve() == folder.resolve():
            return int(properties.get("gfx_target_version", 0))
    return None


def _pair(folder: Path, kind: str) -> tuple[int, int]:
    return _number(folder / f"mem_info_{kind}_total"), _number(folder / f"mem_info_{kind}_used")


def _size(folder: Path, kind: str = "vram") -> int:
    try:
        return _number(folder / f"mem_info_{kind}_total")
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
