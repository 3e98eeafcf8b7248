"""Which cards are read: configured ones, NVIDIA's, AMD's, main memory, or none."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from ollama_gate.config import Card, Gpus
from ollama_gate.errors import CardError
from ollama_gate.gpu import AmdCard, Found, NvmlCard, SystemMemory, find_cards, find_in_time
from tests import test_gpu_amd as amd
from tests.nvml import GIB, MIB, FakeNvml, Gpu, two_cards


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine without any card but what a test puts there."""
    return tmp_path


def find(gpus: Gpus, nvml: FakeNvml | None, root: Path, **given: Any) -> Found:
    settings = {"upstream_is_local": True, "platform": "linux", **given}
    return find_cards(gpus, nvml=nvml, root=root, **settings)


def devices(found: Found) -> list[str]:
    return [each.card.read().device for each in found.listed if each.card]


# auto


def test_every_card_is_read_and_the_largest_is_planned_with(root: Path) -> None:
    found = find("auto", two_cards(), root)
    assert devices(found) == ["NVIDIA A (GPU-a)", "NVIDIA B (GPU-b)"]
    assert found.card is not None
    assert found.card.read().device == "NVIDIA B (GPU-b)"
    assert not found.cpu
    assert not found.advice


def test_the_parts_of_a_split_card_are_read_and_one_should_be_named(root: Path) -> None:
    nvml = FakeNvml([Gpu("GPU-a", parts=[Gpu("MIG-x"), Gpu("MIG-y")]), Gpu("GPU-c", parts=[])])
    found = find("auto", nvml, root)
    assert devices(found) == ["NVIDIA A (MIG-x)", "NVIDIA A (MIG-y)"]
    assert "name the part" in found.advice


def test_a_card_that_does_not_answer_hides_no_other(root: Path) -> None:
    nvml = two_cards()
    nvml.gpus[1].error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert devices(find("auto", nvml, root)) == ["NVIDIA A (GPU-a)"]


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_without_a_driver_main_memory_is_read(root: Path, code: int) -> None:
    nvml = two_cards()
    nvml.failures = {"nvmlInit": code}
    found = find("auto", nvml, root)
    assert isinstance(found.card, SystemMemory)
    assert found.cpu
    assert not found.advice


def test_without_a_card_main_memory_is_read(root: Path) -> None:
    assert isinstance(find("auto", FakeNvml([]), root).card, SystemMemory)
    assert isinstance(find("auto", None, root).card, SystemMemory)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_fails_is_no_reason_to_believe_in_a_cpu(root: Path, call: str) -> None:
    nvml = FakeNvml([Gpu("GPU-a")])
    nvml.failures = {call: pynvml.NVML_ERROR_UNKNOWN}
    found = find("auto", nvml, root)
    assert isinstance(found.card, NvmlCard)
    assert not found.cpu
    assert devices(found) == ["NVIDIA A (GPU-a)"]


def test_an_amd_card_is_read_where_there_is_no_other(root: Path) -> None:
    amd.two_cards(root)
    found = find("auto", None, root)
    assert len(found.listed) == 2
    assert isinstance(found.card, AmdCard)
    assert found.card.read().total_bytes == 24 * GIB
    assert isinstance(find("auto", two_cards(), root).card, NvmlCard)


def test_an_amd_processors_card_is_read_where_ollama_would_use_it(root: Path) -> None:
    amd.shared(root, target=110501)
    found = find("auto", None, root)
    assert isinstance(found.card, AmdCard)
    assert not found.cpu


@pytest.mark.parametrize("target", [90012, 0])
def test_other_amd_processors_cards_are_left_to_whoever_knows(root: Path, target: int) -> None:
    amd.shared(root, target=target)
    found = find("auto", None, root)
    assert found.cpu
    assert "set upstreams[0].gpus" in found.advice
    # Named, it is read.
    assert isinstance(find((Card(index=0),), None, root).card, AmdCard)


def test_an_amd_card_that_the_kernel_knows_no_node_of_is_left_as_well(root: Path) -> None:
    amd.amd_card(root, 0, total=512 * MIB, used=0, mem_info_gtt_total=16 * GIB)
    assert find("auto", None, root).cpu


def test_an_intel_card_tells_nothing(root: Path) -> None:
    amd.write(root / "class/drm/card0/device", vendor="0x8086")
    found = find("auto", None, root)
    assert found.cpu
    assert "Intel" in found.advice


def test_a_display_of_another_maker_is_no_card(root: Path) -> None:
    amd.write(root / "class/drm/card0/device", vendor="0x1a03")
    (root / "class/drm/card1/device/vendor").mkdir(parents=True)
    assert not find("auto", None, root).advice


def test_on_a_mac_nobody_can_tell(root: Path) -> None:
    found = find("auto", None, root, platform="darwin")
    assert found.card is None
    assert "70 %" in found.advice


# configured


def test_a_configured_cpu_is_read_whatever_cards_there_are(root: Path) -> None:
    nvml = two_cards()
    found = find("cpu", nvml, root)
    assert isinstance(found.card, SystemMemory)
    assert found.cpu
    assert nvml.calls == []


def test_a_budget_is_held_against_the_card_that_is_there(root: Path) -> None:
    found = find((Card(vram_bytes=20 * GIB),), two_cards(), root)
    assert devices(found) == ["NVIDIA B (GPU-b)"]
    assert found.vram_bytes == 20 * GIB


def test_a_budget_without_a_card_is_all_that_is_known(root: Path) -> None:
    found = find((Card(vram_bytes=20 * GIB),), None, root)
    assert (found.card, found.vram_bytes, found.cpu) == (None, 20 * GIB, False)


def test_named_cards_are_read_and_no_other(root: Path) -> None:
    nvml = FakeNvml([Gpu("GPU-a"), Gpu("GPU-b", total=80 * GIB), Gpu("GPU-c", total=48 * GIB)])
    found = find((Card(uuid="GPU-a"), Card(index=2)), nvml, root)
    assert devices(found) == ["NVIDIA A (GPU-a)", "NVIDIA A (GPU-c)"]
    assert found.planned == 1


def test_what_may_be_planned_with_decides_which_is_the_largest(root: Path) -> None:
    entries = (Card(uuid="GPU-a"), Card(uuid="GPU-b", vram_bytes=8 * GIB))
    assert find(entries, two_cards(), root).planned == 0


def test_a_named_card_that_is_not_there_is_read_all_the_same(root: Path) -> None:
    found = find((Card(uuid="GPU-z"), Card(index=0)), two_cards(), root)
    assert found.planned == 1
    unread = found.listed[0].card
    assert unread is not None
    with pytest.raises(CardError, match="no card GPU-z; there is: 0 NVIDIA A"):
        unread.read()
    without_driver = find((Card(uuid="GPU-z"),), None, root).card
    assert without_driver is not None
    with pytest.raises(CardError, match="nvidia-ml-py is not installed"):
        without_driver.read()


def test_an_amd_card_is_named_as_rocm_names_it(root: Path) -> None:
    amd.two_cards(root)
    assert isinstance(find((Card(uuid="GPU-1a2b3c"),), two_cards(), root).card, AmdCard)
    assert isinstance(find((Card(index=1),), two_cards(), root).card, NvmlCard)
    assert isinstance(find((Card(index=1),), None, root).card, AmdCard)


# elsewhere


@pytest.mark.parametrize(
    ("gpus", "vram_bytes"),
    [
        ("auto", None),
        ("cpu", None),
        ((Card(index=0),), None),
        ((Card(vram_bytes=24 * GIB),), 24 * GIB),
        ((Card(index=0, vram_bytes=8 * GIB), Card(index=1, vram_bytes=24 * GIB)), 24 * GIB),
    ],
)
def test_another_machines_upstream_is_never_read_by_what_is_here(
    root: Path, gpus: Gpus, vram_bytes: int | None
) -> None:
    nvml = two_cards()
    found = find(gpus, nvml, root, upstream_is_local=False)
    assert [each.card for each in found.listed] == [None] * len(found.listed)
    assert found.vram_bytes == vram_bytes
    assert bool(found.advice) == (vram_bytes is None)
    assert found.cpu == (gpus == "cpu")
    assert nvml.calls == []


def test_a_card_that_is_asked_for_by_its_uuid_is_the_one(root: Path) -> None:
    # Ollama's container beside the gate's is reached by another address, and has the same card.
    found = find((Card(uuid="GPU-b"),), two_cards(), root, upstream_is_local=False)
    assert devices(found) == ["NVIDIA B (GPU-b)"]
    assert not found.advice
    amd.two_cards(root)
    found = find((Card(uuid="GPU-1a2b3c"),), None, root, upstream_is_local=False)
    assert isinstance(found.card, AmdCard)


def test_a_uuid_that_is_not_here_is_another_machines(root: Path) -> None:
    nvml = two_cards()
    entries = (Card(uuid="GPU-z"), Card(uuid="GPU-y", vram_bytes=8 * GIB))
    found = find(entries, nvml, root, upstream_is_local=False)
    assert [each.card for each in found.listed] == [None, None]
    assert (found.vram_bytes, found.advice) == (8 * GIB, "")
    nvml.failures = {"nvmlDeviceGetCount": pynvml.NVML_ERROR_UNKNOWN}
    found = find((Card(uuid="GPU-b"),), nvml, root, upstream_is_local=False)
    assert found.card is None
    assert "that machine" in found.advice


# a driver that hangs


class Silent(FakeNvml):
    """A driver that does not answer before `answers` is set."""

    answers: threading.Event

    def nvmlInit(self) -> None:  # noqa: N802 - the binding's name
        self.answers.wait()
        super().nvmlInit()


@pytest.fixture
def silent() -> Iterator[Silent]:
    nvml = Silent(two_cards().gpus)
    nvml.answers = threading.Event()
    yield nvml
    nvml.answers.set()
    for thread in threading.enumerate():
        if thread.name == "find cards":
            thread.join()


async def look(gpus: Gpus, nvml: Silent, *, here: bool = True) -> Found:
    return await find_in_time(gpus, upstream_is_local=here, nvml=nvml, within_s=0.0)


async def test_a_driver_that_hangs_is_read_as_soon_as_it_answers(silent: Silent) -> None:
    found = await look("auto", silent)
    assert (len(found.listed), found.cpu) == (1, False)
    assert "does not answer" in found.advice
    silent.answers.set()
    assert devices(found) == ["NVIDIA B (GPU-b)"]


async def test_what_is_configured_stands_while_the_driver_hangs(silent: Silent) -> None:
    entries = (Card(uuid="GPU-a"), Card(index=1, vram_bytes=8 * GIB))
    found = await look(entries, silent)
    assert (found.planned, found.vram_bytes) == (1, 8 * GIB)
    silent.answers.set()
    assert devices(found) == ["NVIDIA A (GPU-a)", "NVIDIA B (GPU-b)"]


async def test_a_driver_that_hangs_here_says_nothing_of_another_machine(silent: Silent) -> None:
    found = await look((Card(uuid="GPU-a", vram_bytes=8 * GIB),), silent, here=False)
    assert (found.card, found.vram_bytes) == (None, 8 * GIB)


async def test_a_driver_that_answers_is_waited_for() -> None:
    found = await find_in_time("auto", upstream_is_local=True, nvml=two_cards())
    assert devices(found) == ["NVIDIA A (GPU-a)", "NVIDIA B (GPU-b)"]
    assert not found.advice
