"""NVIDIA cards: what a reading means, how they are named, split, lost and found again."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from ollama_gate.errors import CardError
from ollama_gate.gpu import Driver, NvmlCard, Reading
from ollama_gate.gpu.processes import MACHINE_NAMESPACE, ours_bytes
from tests.nvml import GIB, MIB, FakeNvml, Gpu, two_cards


def card_of(nvml: FakeNvml | None, which: int | str | None = None, **given: Any) -> NvmlCard:
    return NvmlCard(which, driver=Driver(nvml), **given)


def test_what_is_not_free_is_in_use() -> None:
    reading = card_of(two_cards(), 0).read()
    assert (reading.total_bytes, reading.used_bytes) == (24 * GIB, 4 * GIB)
    assert (reading.source, reading.device) == ("nvml", "NVIDIA A (GPU-a)")


def test_what_the_driver_keeps_is_not_there_and_what_is_free_is_the_same() -> None:
    nvml = FakeNvml([Gpu("GPU-a", total=24 * GIB, free=20 * GIB, reserved=450 * MIB)])
    reading = card_of(nvml).read()
    assert reading.total_bytes == 24 * GIB - 450 * MIB
    assert reading.total_bytes - reading.used_bytes == 20 * GIB


def test_a_driver_never_keeps_more_than_is_in_use() -> None:
    nvml = FakeNvml([Gpu("GPU-a", total=24 * GIB, free=24 * GIB - MIB, reserved=450 * MIB)])
    reading = card_of(nvml).read()
    assert (reading.total_bytes, reading.used_bytes) == (24 * GIB - MIB, 0)


def test_a_card_is_found_by_index_by_uuid_or_as_the_largest() -> None:
    assert card_of(two_cards(), 0).read().total_bytes == 24 * GIB
    assert card_of(two_cards(), "GPU-b").read().total_bytes == 48 * GIB
    assert card_of(two_cards()).read().total_bytes == 48 * GIB


def test_the_driver_is_asked_for_its_cards_once() -> None:
    nvml = two_cards()
    card = card_of(nvml, 0)
    card.read()
    nvml.calls.clear()
    card.read()
    assert nvml.calls == ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses"]


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver library"),
        ("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver is not loaded"),
        ("nvmlInit", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated under a running system"),
        ("nvmlInit", pynvml.NVML_ERROR_NO_PERMISSION, "refuses this user"),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, "configure its vram"),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_GPU_IS_LOST, "fallen off its bus"),
        ("nvmlDeviceGetCount", pynvml.NVML_ERROR_TIMEOUT, "no reading"),
    ],
)
def test_a_failure_says_what_it_means(call: str, code: int, words: str) -> None:
    nvml = two_cards()
    nvml.failures = {call: code}
    which = 0 if call == "nvmlDeviceGetMemoryInfo" else None
    with pytest.raises(CardError, match=words) as caught:
        card_of(nvml, which).read()
    assert str(pynvml.NVMLError(code)) in str(caught.value)


@pytest.mark.parametrize("which", [7, "GPU-z"])
def test_a_card_that_is_not_there_is_answered_by_those_that_are(which: int | str) -> None:
    there = r"0 NVIDIA A \(GPU-a\), 1 NVIDIA B \(GPU-b\)$"
    with pytest.raises(CardError, match=f"^no card {which}; there is: {there}"):
        card_of(two_cards(), which).read()


def test_a_driver_without_a_card_is_said_to_have_none() -> None:
    with pytest.raises(CardError, match="no card is"):
        card_of(FakeNvml([])).read()
    with pytest.raises(CardError, match="there is: none"):
        card_of(FakeNvml([]), 0).read()


def test_a_missing_binding_is_said_to_be_missing() -> None:
    with pytest.raises(CardError, match="nvidia-ml-py is not installed"):
        card_of(None).read()


# Split cards


def split_card() -> FakeNvml:
    parts = [Gpu("MIG-x", total=10 * GIB, free=9 * GIB), Gpu("MIG-y", total=20 * GIB)]
    return FakeNvml([Gpu("GPU-a", total=80 * GIB, parts=parts)])


def test_a_part_of_a_split_card_is_a_card() -> None:
    reading = card_of(split_card(), "MIG-x").read()
    assert (reading.total_bytes, reading.used_bytes) == (10 * GIB, 1 * GIB)


def test_of_a_split_card_the_largest_part_is_the_largest_card() -> None:
    assert card_of(split_card()).read().total_bytes == 20 * GIB


@pytest.mark.parametrize("which", [0, "GPU-a"])
def test_a_split_card_itself_is_none(which: int | str) -> None:
    with pytest.raises(CardError, match=r"split \(MIG\).*\(MIG-x\), .*\(MIG-y\)"):
        card_of(split_card(), which).read()


def test_a_split_card_may_have_no_parts_yet() -> None:
    with pytest.raises(CardError, match="name one of its parts: none yet"):
        card_of(FakeNvml([Gpu("GPU-a", parts=[])]), 0).read()


# Loss


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


LOSSES = [
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
]


@pytest.mark.parametrize("code", LOSSES)
def test_a_lost_card_is_looked_up_anew_after_a_second(code: int) -> None:
    nvml, clock = two_cards(), Clock()
    card = card_of(nvml, 0, now=clock)
    card.read()
    nvml.failures = {"nvmlDeviceGetMemoryInfo": code, "nvmlShutdown": code}
    with pytest.raises(CardError):
        card.read()
    nvml.calls.clear()
    clock.at_s += 0.5
    with pytest.raises(CardError, match="tried again in"):
        card.read()
    assert nvml.calls == []
    clock.at_s += 0.5
    assert card.read().used_bytes == 4 * GIB
    assert nvml.calls[0] == "nvmlInit"


def test_what_stays_lost_is_tried_ever_more_rarely() -> None:
    nvml, clock = two_cards(), Clock()
    card = card_of(nvml, "GPU-a", now=clock)
    card.read()
    nvml.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    tried_at = []
    for second in range(300):
        clock.at_s = 2000.0 + second
        nvml.calls.clear()
        with pytest.raises(CardError, match="fallen off its bus"):
            card.read()
        if nvml.calls:
            tried_at.append(second)
    assert tried_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    nvml.gpus[0].error = 0
    clock.at_s += 60
    card.read()
    # Every hold on the driver but the last one was let go of.
    assert nvml.held == 1
    # The next loss is a new one.
    nvml.failures = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_GPU_IS_LOST}
    with pytest.raises(CardError):
        card.read()
    clock.at_s += 1
    card.read()


def test_another_failure_keeps_the_card() -> None:
    nvml = two_cards()
    card = card_of(nvml, 0)
    card.read()
    nvml.failures = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_TIMEOUT}
    with pytest.raises(CardError):
        card.read()
    nvml.calls.clear()
    card.read()
    assert nvml.calls[0] == "nvmlDeviceGetMemoryInfo"


def test_a_lost_cards_neighbour_is_read_on_as_if_nothing_were() -> None:
    nvml = two_cards()
    driver = Driver(nvml)
    one, other = NvmlCard("GPU-a", driver=driver), NvmlCard("GPU-b", driver=driver)
    one.read()
    other.read()
    nvml.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(CardError):
        one.read()
    assert other.read().total_bytes == 48 * GIB


@pytest.mark.parametrize("which", [1, None])
def test_a_lost_cards_neighbour_is_never_read_in_its_place(which: int | None) -> None:
    nvml, clock = two_cards(), Clock()
    card = card_of(nvml, which, now=clock)
    assert card.read().device == "NVIDIA B (GPU-b)"
    lost = nvml.gpus.pop()
    nvml.failures = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_GPU_IS_LOST}
    with pytest.raises(CardError):
        card.read()
    nvml.gpus = [Gpu("GPU-c"), *nvml.gpus]
    clock.at_s += 1
    with pytest.raises(CardError, match="no card GPU-b"):
        card.read()
    nvml.gpus.append(lost)
    clock.at_s += 2
    assert card.read().device == "NVIDIA B (GPU-b)"


def test_a_card_that_appears_later_is_found_then() -> None:
    nvml, clock = two_cards(), Clock()
    late = nvml.gpus.pop()
    card = card_of(nvml, "GPU-b", now=clock)
    with pytest.raises(CardError):
        card.read()
    nvml.gpus.append(late)
    clock.at_s += 1
    assert card.read().total_bytes == 48 * GIB
    assert nvml.calls.count("nvmlInit") == 1


# Memory that is shared


@pytest.mark.parametrize("name", ["NVIDIA GB10", "NVIDIA Thor", "Orin (nvgpu)", "Xavier"])
def test_a_card_without_memory_of_its_own_has_the_machines(name: str) -> None:
    class Memory:
        source = "system"

        def read(self) -> Reading:
            return Reading(
                total_bytes=100, used_bytes=40, source="system", device="main", taken_at=1.0
            )

    nvml = FakeNvml([Gpu("GPU-a", total=0, name=name)])
    card = card_of(nvml, memory=Memory())
    for reading in (card.read(), card.read()):
        assert (reading.total_bytes, reading.used_bytes) == (90, 40)
        assert (reading.source, reading.device) == ("system", f"{name} (GPU-a)")


@pytest.mark.parametrize("name", ["NVIDIA RTX 4090", "NVIDIA GB100"])
def test_a_broken_card_is_not_taken_for_one_that_shares_memory(name: str) -> None:
    with pytest.raises(CardError, match="configure its vram"):
        card_of(FakeNvml([Gpu("GPU-a", total=0, name=name)])).read()


def test_what_the_system_borrows_of_a_card_is_said_to_be_borrowed() -> None:
    reading = card_of(FakeNvml([Gpu("GPU-a", name="NVIDIA GH200 480GB")])).read()
    assert "at least" in reading.note
    assert (reading.source, reading.total_bytes) == ("nvml", 24 * GIB)
    assert not card_of(two_cards()).read().note


# Processes


def process(proc: Path, pid: int, name: str, parent: int = 1) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n", encoding="ascii")
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} 1 1\n", encoding="ascii")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an Ollama, its runner, somebody's own runner and a desktop."""
    folder = tmp_path / "proc"
    process(folder, 10, "ollama")
    process(folder, 11, "llama-server", parent=10)
    process(folder, 12, "ollama", parent=10)
    process(folder, 20, "a shell) (")
    process(folder, 21, "llama-server", parent=20)
    process(folder, 30, "Xorg")
    namespace(folder, monkeypatch, MACHINE_NAMESPACE)
    return folder


def namespace(folder: Path, monkeypatch: pytest.MonkeyPatch, inode: int) -> None:
    marker = folder / "self/ns/pid"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    real = Path.stat

    def stat(path: Path, **given: Any) -> os.stat_result:
        found = real(path, **given)
        return os.stat_result((found[0], inode, *found[2:])) if path == marker else found

    monkeypatch.setattr(Path, "stat", stat)


def test_ollamas_runners_are_told_from_everybody_elses(proc: Path) -> None:
    used = {11: 5 * GIB, 12: 2 * GIB, 21: 3 * GIB, 30: 1 * GIB}
    assert ours_bytes(used, proc=proc) == 7 * GIB
    assert ours_bytes({21: 3 * GIB}, proc=proc) == 0


def test_a_process_that_cannot_be_seen_leaves_nothing_to_be_told(proc: Path) -> None:
    assert ours_bytes({11: GIB, 99: GIB}, proc=proc) is None
    (proc / "11/stat").write_text("", encoding="ascii")
    assert ours_bytes({11: GIB}, proc=proc) is None
    (proc / "11/stat").unlink()
    assert ours_bytes({11: GIB}, proc=proc) is None


def test_a_driver_that_lists_nobody_may_hide_them(proc: Path) -> None:
    assert ours_bytes({}, proc=proc) is None
    assert ours_bytes(None, proc=proc) is None


def test_in_a_container_process_ids_mean_somebody_else(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace(proc, monkeypatch, MACHINE_NAMESPACE + 1)
    assert ours_bytes({11: GIB}, proc=proc) is None
    (proc / "self/ns/pid").unlink()
    assert ours_bytes({11: GIB}, proc=proc) is None


def test_a_reading_tells_what_each_process_uses(proc: Path) -> None:
    gpu = Gpu("GPU-a", processes=[(11, 5 * GIB), (30, MIB)], graphics=[(30, 2 * MIB), (11, MIB)])
    reading = card_of(FakeNvml([gpu]), proc=proc).read()
    assert reading.processes == {11: 5 * GIB, 30: 2 * MIB}
    assert reading.ours_bytes == 5 * GIB


def test_a_driver_that_tells_of_no_process_still_gives_a_reading(proc: Path) -> None:
    hidden: list[tuple[int, int | None]] = [(11, None)]
    for processes in (None, hidden):
        reading = card_of(FakeNvml([Gpu("GPU-a", processes=processes)]), proc=proc).read()
        assert (reading.processes, reading.ours_bytes) == (None, None)
        assert reading.used_bytes == 4 * GIB


def test_a_library_older_than_the_binding_still_gives_a_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvml = two_cards()

    def mismatch(_: Any) -> None:
        raise pynvml.NVMLLibraryMismatchError

    monkeypatch.setattr(nvml, "nvmlDeviceGetComputeRunningProcesses", mismatch)
    assert card_of(nvml).read().processes is None


# The binding


def importing(tmp_path: Path, pynvml_text: str) -> subprocess.CompletedProcess[bytes]:
    """Import the room in a fresh interpreter that takes warnings for errors."""
    (tmp_path / "pynvml.py").write_text(pynvml_text, encoding="ascii")
    text = (
        "from ollama_gate.gpu import find_cards\n"
        "print(find_cards('auto', upstream_is_local=True, platform='linux').card)"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    return subprocess.run(  # noqa: S603 - this interpreter, on our text
        [sys.executable, "-W", "error", "-c", text],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        timeout=60,
        capture_output=True,
    )


def test_without_a_binding_no_card_is_read_by_it(tmp_path: Path) -> None:
    done = importing(tmp_path, "raise ImportError")
    assert done.returncode == 0, done.stderr
    assert b"NvmlCard" not in done.stdout


def test_the_dead_distributions_warning_is_not_passed_on(tmp_path: Path) -> None:
    warn = "import warnings; warnings.warn({!r}, {}); raise ImportError"
    known = "The pynvml package is deprecated. Please install nvidia-ml-py instead."
    assert importing(tmp_path, warn.format(known, "FutureWarning")).returncode == 0
    assert importing(tmp_path, warn.format("Another", "FutureWarning")).returncode == 1
