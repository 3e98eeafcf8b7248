"""AMD cards, on files like those that their driver shows."""

from pathlib import Path
from typing import Any

import pytest

from ollama_gate.errors import CardError
from ollama_gate.gpu import AmdCard, Reading
from tests.nvml import GIB, MIB


def write(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")


def amd_card(root: Path, number: int, *, total: int, used: int, **files: Any) -> Path:
    """A card as `/sys` shows it; what it is plugged into is a folder elsewhere."""
    device = root / f"devices/0000:0{number}:00.0"
    write(device, vendor="0x1002", mem_info_vram_total=total, mem_info_vram_used=used, **files)
    card = root / f"class/drm/card{number}"
    write(card)
    (card / "device").symlink_to(device)
    write(root / f"class/drm/card{number}-DP-1")
    return device


def two_cards(root: Path) -> None:
    maker = {"mem_info_vram_vendor": "samsung"}
    amd_card(root, 10, total=24 * GIB, used=4 * GIB, unique_id="0x1a2b3c", **maker)
    name = {"product_name": "Radeon PRO W7500"}
    amd_card(root, 2, total=8 * GIB, used=1 * GIB, **maker, **name)


def shared(root: Path, *, target: int = 110501, gtt_used: int = 0) -> Path:
    """A processor's own card: a small carve-out, and half of the machine's memory beside it."""
    gtt = {"mem_info_gtt_total": 32 * GIB, "mem_info_gtt_used": gtt_used}
    device = amd_card(root, 0, total=512 * MIB, used=100 * MIB, **gtt)
    write(root / "class/drm/renderD128")
    (root / "class/drm/renderD128/device").symlink_to(device)
    nodes = root / "class/kfd/kfd/topology/nodes"
    write(nodes / "0", properties="cpu_cores_count 16\nvendor_id 0")
    node = f"vendor_id 4098\ndrm_render_minor 128\ngfx_target_version {target}"
    write(nodes / "1", properties=node)
    return device


class Memory:
    """A machine with so much memory left."""

    source = "system"

    def __init__(self, available: int) -> None:
        self._available = available

    def read(self) -> Reading:
        return Reading(
            total_bytes=64 * GIB,
            used_bytes=64 * GIB - self._available,
            source="system",
            device="main memory",
            taken_at=0.0,
        )


def test_a_card_says_what_it_has_and_what_is_in_use(tmp_path: Path) -> None:
    two_cards(tmp_path)
    reading = AmdCard(1, root=tmp_path).read()
    assert (reading.total_bytes, reading.used_bytes) == (24 * GIB, 4 * GIB)
    assert (reading.source, reading.device) == ("sysfs", "AMD card (GPU-1a2b3c)")


def test_a_card_is_found_by_its_place_by_uuid_or_as_the_largest(tmp_path: Path) -> None:
    two_cards(tmp_path)
    # By number, as the kernel counts: 2 comes before 10.
    assert AmdCard(0, root=tmp_path).read().device == "Radeon PRO W7500 (0000:02:00.0)"
    assert AmdCard("GPU-1a2b3c", root=tmp_path).read().total_bytes == 24 * GIB
    assert AmdCard(root=tmp_path).read().total_bytes == 24 * GIB


@pytest.mark.parametrize("which", [2, "GPU-z"])
def test_a_card_that_is_not_there_is_answered_by_those_that_are(
    tmp_path: Path, which: int | str
) -> None:
    with pytest.raises(CardError, match="there is: none"):
        AmdCard(which, root=tmp_path).read()
    two_cards(tmp_path)
    with pytest.raises(CardError, match=f"no card {which}; there is: 0 Radeon .*, 1 AMD card"):
        AmdCard(which, root=tmp_path).read()


def test_a_card_that_is_lost_is_read_again_when_it_is_back(tmp_path: Path) -> None:
    device = amd_card(tmp_path, 0, total=8 * GIB, used=GIB)
    card = AmdCard(0, root=tmp_path)
    card.read()
    (device / "mem_info_vram_used").unlink()
    with pytest.raises(CardError, match="does not tell its memory"):
        card.read()
    write(device, mem_info_vram_used="")
    with pytest.raises(CardError, match="does not tell its memory"):
        card.read()
    write(device, mem_info_vram_used=2 * GIB)
    assert card.read().used_bytes == 2 * GIB


def test_a_processors_own_card_has_the_machines_memory_too(tmp_path: Path) -> None:
    shared(tmp_path, gtt_used=2 * GIB)
    reading = AmdCard(root=tmp_path, memory=Memory(60 * GIB)).read()
    assert reading.total_bytes == 32 * GIB + 512 * MIB
    assert reading.used_bytes == 2 * GIB + 100 * MIB
    assert "machine's memory" in reading.note


def test_of_the_machines_memory_only_what_is_left_can_be_had(tmp_path: Path) -> None:
    shared(tmp_path, gtt_used=2 * GIB)
    reading = AmdCard(root=tmp_path, memory=Memory(5 * GIB)).read()
    assert reading.total_bytes - reading.used_bytes == 5 * GIB + 412 * MIB
