"""Readings of a card: NVML's own, its failures, main memory, and the poller that takes them."""

# ruff: noqa: N802 - the fake driver has the names that the binding gives

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest

from ollama_gate.errors import CardError
from ollama_gate.gpu import NvmlCard, Poller, Reading, SystemMemory, find_card

GIB = 2**30
MIB = 2**20


# NVML, as its binding behaves


@dataclass
class Memory:
    total: int
    free: int
    used: int = 0


@dataclass
class FakeNvml:
    """A driver with some cards, and the real binding's errors."""

    memory: dict[str, Memory]
    failures: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    NVMLError = pynvml.NVMLError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        code = self.failures.pop(name, None)
        if code is not None:
            raise pynvml.NVMLError(code)

    def nvmlInit(self) -> None:
        self._called("nvmlInit")

    def nvmlShutdown(self) -> None:
        self._called("nvmlShutdown")

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(self.memory)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self._called("nvmlDeviceGetHandleByIndex")
        if index >= len(self.memory):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return list(self.memory)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._called("nvmlDeviceGetHandleByUUID")
        if uuid not in self.memory:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> bytes:
        return b"NVIDIA " + handle[-1].encode()

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Memory:
        self._called("nvmlDeviceGetMemoryInfo")
        return self.memory[handle]


def two_cards() -> FakeNvml:
    # `used` of the first interface version leaves out what `free` does not show either.
    return FakeNvml(
        {
            "GPU-a": Memory(total=24 * GIB, free=20 * GIB, used=3 * GIB),
            "GPU-b": Memory(total=48 * GIB, free=1 * GIB, used=46 * GIB),
        }
    )


def test_what_is_not_free_is_in_use() -> None:
    reading = NvmlCard(0, nvml=two_cards()).read()
    assert (reading.total_bytes, reading.used_bytes) == (24 * GIB, 4 * GIB)
    assert (reading.source, reading.device) == ("nvml", "NVIDIA a (GPU-a)")


def test_a_card_is_found_by_index_by_uuid_or_as_the_largest() -> None:
    assert NvmlCard(0, nvml=two_cards()).read().total_bytes == 24 * GIB
    assert NvmlCard("GPU-b", nvml=two_cards()).read().total_bytes == 48 * GIB
    assert NvmlCard(nvml=two_cards()).read().total_bytes == 48 * GIB


def test_the_driver_is_asked_for_its_cards_once() -> None:
    nvml = two_cards()
    card = NvmlCard(0, nvml=nvml)
    card.read()
    nvml.calls.clear()
    card.read()
    assert nvml.calls == ["nvmlDeviceGetMemoryInfo"]


@pytest.mark.parametrize(
    "code",
    [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_UNKNOWN],
)
def test_a_lost_card_is_looked_up_anew(code: int) -> None:
    nvml = two_cards()
    card = NvmlCard(0, nvml=nvml)
    card.read()
    nvml.failures = {"nvmlDeviceGetMemoryInfo": code, "nvmlShutdown": code}
    with pytest.raises(CardError):
        card.read()
    nvml.calls.clear()
    assert card.read().used_bytes == 4 * GIB
    assert nvml.calls[0] == "nvmlInit"


def test_another_failure_keeps_the_card() -> None:
    nvml = two_cards()
    card = NvmlCard(0, nvml=nvml)
    card.read()
    nvml.failures = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_TIMEOUT}
    with pytest.raises(CardError):
        card.read()
    nvml.calls.clear()
    card.read()
    assert nvml.calls == ["nvmlDeviceGetMemoryInfo"]


def test_a_closed_card_can_be_read_again() -> None:
    nvml = two_cards()
    card = NvmlCard(0, nvml=nvml)
    card.close()
    assert nvml.calls == []
    card.read()
    card.close()
    assert nvml.calls[-1] == "nvmlShutdown"
    assert card.read().total_bytes == 24 * GIB


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver library"),
        ("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver is not loaded"),
        ("nvmlInit", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated under a running system"),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, "configure its vram"),
        ("nvmlDeviceGetCount", pynvml.NVML_ERROR_TIMEOUT, "no reading"),
    ],
)
def test_a_failure_says_what_it_means(call: str, code: int, words: str) -> None:
    nvml = two_cards()
    nvml.failures = {call: code}
    with pytest.raises(CardError, match=words) as caught:
        NvmlCard(0, nvml=nvml).read()
    assert str(pynvml.NVMLError(code)) in str(caught.value)


@pytest.mark.parametrize("which", [7, "GPU-z"])
def test_a_card_that_is_not_there_is_named_as_such(which: int | str) -> None:
    with pytest.raises(CardError, match="no such card; nvidia-smi -L"):
        NvmlCard(which, nvml=two_cards()).read()


def test_a_card_that_appears_later_is_found_then() -> None:
    nvml = two_cards()
    late = nvml.memory.pop("GPU-b")
    card = NvmlCard("GPU-b", nvml=nvml)
    with pytest.raises(CardError):
        card.read()
    nvml.memory["GPU-b"] = late
    assert card.read().total_bytes == 48 * GIB
    assert nvml.calls.count("nvmlInit") == 1


def test_a_driver_without_a_card_is_said_to_have_none() -> None:
    with pytest.raises(CardError, match="no card is"):
        NvmlCard(nvml=FakeNvml({})).read()


def test_a_missing_binding_is_said_to_be_missing() -> None:
    with pytest.raises(CardError, match="nvidia-ml-py is not installed"):
        NvmlCard(nvml=None).read()


# What to read


def test_a_local_upstream_is_read_by_its_largest_card() -> None:
    nvml = two_cards()
    card = find_card("auto", upstream_is_local=True, nvml=nvml)
    assert card is not None
    assert (card.source, card.count) == ("nvml", 2)
    assert nvml.calls[-1] == "nvmlShutdown"
    assert card.read().total_bytes == 48 * GIB


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_without_a_driver_main_memory_is_read(code: int) -> None:
    nvml = two_cards()
    nvml.failures = {"nvmlInit": code}
    assert isinstance(find_card("auto", upstream_is_local=True, nvml=nvml), SystemMemory)


def test_without_a_card_main_memory_is_read() -> None:
    assert isinstance(find_card("auto", upstream_is_local=True, nvml=FakeNvml({})), SystemMemory)
    assert isinstance(find_card("auto", upstream_is_local=True, nvml=None), SystemMemory)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_fails_is_no_reason_to_believe_in_a_cpu(call: str) -> None:
    nvml = two_cards()
    nvml.failures = {call: pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}
    assert isinstance(find_card("auto", upstream_is_local=True, nvml=nvml), NvmlCard)


def test_a_remote_upstream_is_never_read_by_what_is_here() -> None:
    nvml = two_cards()
    assert find_card("auto", upstream_is_local=False, nvml=nvml) is None
    assert find_card("cpu", upstream_is_local=False, nvml=nvml) is None
    assert nvml.calls == []


def test_a_configured_cpu_is_read_whatever_cards_there_are() -> None:
    nvml = two_cards()
    assert isinstance(find_card("cpu", upstream_is_local=True, nvml=nvml), SystemMemory)
    assert nvml.calls == []


# The real binding, on a driver library of our own

STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* Reads "total free error" from $STUB_MEMORY at each reading; counts how often it was begun. */
static int begun = 0;
struct memory { unsigned long long total, free, used; };
int nvmlInitWithFlags(unsigned int flags) { begun++; return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
  *device = (void *)&begun;
  return index == 0 ? 0 : 2;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  *device = (void *)&begun;
  return strcmp(uuid, "GPU-stub") == 0 ? 0 : 6;
}
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
  snprintf(name, length, "Stub %d", begun);
  return 0;
}
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
  snprintf(uuid, length, "GPU-stub");
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
  int error = 999;
  FILE *file = fopen(getenv("STUB_MEMORY"), "r");
  if (file == NULL) return error;
  if (fscanf(file, "%llu %llu %d", &memory->total, &memory->free, &error) != 3) error = 999;
  fclose(file);
  memory->used = 0;
  return error;
}
const char *nvmlErrorString(int error) { return "stub"; }
"""

STORY = r"""
import json, os, pathlib
from ollama_gate.errors import CardError
from ollama_gate.gpu import NvmlCard, find_card

memory = pathlib.Path(os.environ["STUB_MEMORY"])
found = find_card("auto", upstream_is_local=True)
told = [found.source, found.count]

def read(card, text):
    memory.write_text(text)
    try:
        reading = card.read()
    except CardError as error:
        told.append(str(error))
    else:
        told.append([reading.total_bytes, reading.used_bytes, reading.device])

read(found, "1000 400 0")
read(found, "1000 300 15")
read(found, "1000 300 0")
read(NvmlCard("GPU-stub"), "1000 1000 0")
read(NvmlCard("GPU-none"), "1000 1000 0")
print(json.dumps(told))
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_the_real_binding_reads_loses_and_finds_a_card(tmp_path: Path) -> None:
    source = tmp_path / "stub.c"
    source.write_text(STUB, encoding="ascii")
    library = tmp_path / "libnvidia-ml.so.1"
    compile_it = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(compile_it, check=True, timeout=60)  # noqa: S603 - a compiler, on our text
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "STUB_MEMORY": str(tmp_path / "memory"),
    }
    story = subprocess.run(  # noqa: S603 - this interpreter, on our text
        [sys.executable, "-c", STORY],
        env=environment,
        check=True,
        timeout=60,
        capture_output=True,
    )
    # The library is begun once to count and once to read; a second time after the loss.
    first, lost, again, by_uuid, unknown = json.loads(story.stdout)[2:]
    assert json.loads(story.stdout)[:2] == ["nvml", 1]
    assert first == [1000, 600, "Stub 2 (GPU-stub)"]
    assert "GPU is lost" in lost
    assert again == [1000, 700, "Stub 3 (GPU-stub)"]
    assert by_uuid == [1000, 0, "Stub 4 (GPU-stub)"]
    assert "no such card" in unknown


def importing(tmp_path: Path, pynvml_text: str) -> subprocess.CompletedProcess[bytes]:
    """Import the room in a fresh interpreter that takes warnings for errors."""
    (tmp_path / "pynvml.py").write_text(pynvml_text, encoding="ascii")
    text = "from ollama_gate.gpu import find_card; print(find_card('auto', upstream_is_local=True))"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    return subprocess.run(  # noqa: S603 - this interpreter, on our text
        [sys.executable, "-W", "error", "-c", text],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
        timeout=60,
        capture_output=True,
    )


def test_without_a_binding_main_memory_is_read(tmp_path: Path) -> None:
    done = importing(tmp_path, "raise ImportError")
    assert b"SystemMemory" in done.stdout, done.stderr


def test_the_dead_distributions_warning_is_not_passed_on(tmp_path: Path) -> None:
    warn = "import warnings; warnings.warn({!r}, {}); raise ImportError"
    known = "The pynvml package is deprecated. Please install nvidia-ml-py instead."
    assert importing(tmp_path, warn.format(known, "FutureWarning")).returncode == 0
    assert importing(tmp_path, warn.format("Another", "FutureWarning")).returncode == 1


# Main memory


def test_main_memory_is_what_the_system_says(tmp_path: Path) -> None:
    reading = SystemMemory(own_cgroup=tmp_path / "none").read()
    assert reading.total_bytes == psutil.virtual_memory().total
    assert 0 < reading.used_bytes < reading.total_bytes
    assert (reading.source, reading.device) == ("system", "main memory")


def test_a_system_that_does_not_tell_is_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    with pytest.raises(CardError, match="does not tell its memory"):
        SystemMemory().read()


def cgroup(folder: Path, limit: str, used_bytes: int, cache_bytes: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used_bytes}\n", encoding="ascii")
    stat = f"anon 1\nactive_file {cache_bytes}\ninactive_file {cache_bytes}\n"
    (folder / "memory.stat").write_text(stat, encoding="ascii")


def in_cgroup(tmp_path: Path, path: str) -> SystemMemory:
    own = tmp_path / "own"
    own.write_text(f"1:name=systemd:/x\n0::{path}\n", encoding="ascii")
    return SystemMemory(cgroup_root=tmp_path / "cgroup", own_cgroup=own)


def test_a_cgroups_lower_limit_counts_and_page_cache_does_not(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(64 * MIB), 60 * MIB, cache_bytes=20 * MIB)
    reading = in_cgroup(tmp_path, "/a").read()
    assert reading.total_bytes == 64 * MIB
    assert reading.used_bytes == 20 * MIB


def test_a_limit_further_up_counts_as_well(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a/b", "max", 1 * MIB)
    cgroup(tmp_path / "cgroup/a", str(32 * MIB), 30 * MIB)
    reading = in_cgroup(tmp_path, "/a/b").read()
    assert (reading.total_bytes, reading.used_bytes) == (32 * MIB, 30 * MIB)


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup", str(16 * MIB), 4 * MIB)
    reading = in_cgroup(tmp_path, "/").read()
    assert (reading.total_bytes, reading.used_bytes) == (16 * MIB, 4 * MIB)


def test_no_limit_leaves_what_the_system_says(tmp_path: Path) -> None:
    whole = psutil.virtual_memory().total
    cgroup(tmp_path / "cgroup/a", "max", 1 * MIB)
    assert in_cgroup(tmp_path, "/a").read().total_bytes == whole
    cgroup(tmp_path / "cgroup/a", str(2 * whole), 1 * MIB)
    assert in_cgroup(tmp_path, "/a").read().total_bytes == whole
    (tmp_path / "own").write_text("1:memory:/x\n", encoding="ascii")
    memory = SystemMemory(cgroup_root=tmp_path / "cgroup", own_cgroup=tmp_path / "own")
    assert memory.read().total_bytes == whole


def test_a_cgroup_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(8 * MIB), 9 * MIB)
    reading = in_cgroup(tmp_path, "/a").read()
    assert reading.used_bytes == reading.total_bytes == 8 * MIB


# The poller

Told = asyncio.Queue[Reading | CardError]


class Script:
    """A card that is as used as its script says, or fails where that says `None`."""

    source = "script"
    count = 1

    def __init__(self, *used: int | None, then: int = 0) -> None:
        self.reads = 0
        self._used = list(used)
        self._then = then

    def read(self) -> Reading:
        self.reads += 1
        used = self._used.pop(0) if self._used else self._then
        if used is None:
            raise CardError("gone")
        return Reading(
            total_bytes=100, used_bytes=used, source="script", device="s", taken_at=float(used)
        )


LONG_S = 3600.0


def polling(
    card: Script, *, idle_s: float = LONG_S, busy_s: float = LONG_S
) -> tuple[Poller, Callable[[], Any]]:
    told: Told = asyncio.Queue()
    poller = Poller(card, told.put_nowait, idle_s=idle_s, busy_s=busy_s)

    async def next_told() -> Reading | CardError:
        return await asyncio.wait_for(told.get(), 10)

    return poller, next_told


async def test_a_poller_reads_at_once_and_remembers() -> None:
    poller, told = polling(Script(7))
    assert poller.last is None
    assert poller.age_s(100.0) is None
    poller.start()
    reading = await told()
    assert reading.used_bytes == 7
    assert poller.last == reading
    assert poller.age_s(100.0) == 93.0
    await poller.stop()


async def test_a_poke_is_answered_by_a_new_reading() -> None:
    poller, told = polling(Script(1, 2, 3))
    poller.start()
    assert (await told()).used_bytes == 1
    poller.poke()
    assert (await told()).used_bytes == 2
    poller.poke()
    poller.poke()
    assert (await told()).used_bytes == 3
    await poller.stop()


async def test_readings_follow_each_other_without_being_asked_for() -> None:
    poller, told = polling(Script(1, 2, 3), idle_s=0.0)
    poller.start()
    assert [(await told()).used_bytes for _ in range(3)] == [1, 2, 3]
    await poller.stop()


async def test_readings_come_faster_while_memory_moves() -> None:
    poller, told = polling(Script(then=5), busy_s=0.0)
    assert poller.interval_s == LONG_S
    poller.start()
    await told()
    poller.hurry(busy=True)
    assert poller.interval_s == 0.0
    for _ in range(5):
        await told()
    poller.hurry(busy=False)
    assert poller.interval_s == LONG_S
    await poller.stop()


class SlowCard(Script):
    """Its readings end when they are let to."""

    def __init__(self, *used: int) -> None:
        super().__init__(*used)
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def read(self) -> Reading:
        self.begun.set()
        assert self.go_on.wait(10)
        return super().read()


async def test_a_poke_during_a_reading_is_answered_by_another() -> None:
    card = SlowCard(1, 2)
    poller, told = polling(card)
    poller.start()
    assert await asyncio.to_thread(card.begun.wait, 10)
    poller.poke()
    card.go_on.set()
    assert (await told()).used_bytes == 1
    assert (await told()).used_bytes == 2
    await poller.stop()


async def test_only_the_first_failure_in_a_row_is_told() -> None:
    poller, told = polling(Script(1, None, None, None, 2, None, 3), idle_s=0.0)
    poller.start()
    heard = [await told() for _ in range(5)]
    kinds = [one.used_bytes if isinstance(one, Reading) else str(one) for one in heard]
    assert kinds == [1, "gone", 2, "gone", 3]
    await poller.stop()


async def test_while_a_card_fails_its_last_reading_grows_old() -> None:
    poller, told = polling(Script(1, None))
    poller.start()
    await told()
    poller.poke()
    assert isinstance(await told(), CardError)
    assert str(poller.error) == "gone"
    assert poller.last is not None
    assert poller.age_s(61.0) == 60.0
    poller.poke()
    await told()
    assert poller.error is None
    await poller.stop()


async def test_a_stopped_poller_reads_no_more() -> None:
    card = Script(then=1)
    poller, told = polling(card, idle_s=0.0)
    poller.start()
    await told()
    await poller.stop()
    reads = card.reads
    await poller.stop()
    poller.poke()
    await asyncio.to_thread(lambda: None)
    assert card.reads == reads


async def test_what_broke_a_poller_is_raised_when_it_is_stopped() -> None:
    asked = asyncio.Event()

    def tell(_: Reading | CardError) -> None:
        asked.set()
        raise ZeroDivisionError

    poller = Poller(Script(1), tell)
    poller.start()
    await asyncio.wait_for(asked.wait(), 10)
    with pytest.raises(ZeroDivisionError):
        await poller.stop()
