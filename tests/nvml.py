"""Stand-ins for NVIDIA's driver: the binding in Python, and the library below it in C.

Both forget their handles when they are let go of, as the real one does.
"""

# ruff: noqa: N802 - the fake driver has the names that the binding gives

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

GIB = 2**30
MIB = 2**20

HERE = Path(__file__).parent


@dataclass
class Gpu:
    """A card, or a part of one.

    `error` answers every question about it; `processes` of `None` are not supported, as is
    memory where `total` is 0.
    """

    uuid: str
    total: int = 24 * GIB
    free: int = 20 * GIB
    reserved: int = 0
    name: str = "NVIDIA A"
    error: int = 0
    parts: list["Gpu"] | None = None
    processes: list[tuple[int, int | None]] | None = None
    graphics: list[tuple[int, int | None]] | None = None


@dataclass(frozen=True)
class Handle:
    gpu: Gpu
    begun: int


@dataclass
class FakeNvml:
    """A driver with some cards, and the real binding's errors.

    `failures` are for one call each, by its name.
    """

    gpus: list[Gpu]
    failures: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    begun: int = 0
    held: int = 0

    NVMLError = pynvml.NVMLError
    NVMLLibraryMismatchError = pynvml.NVMLLibraryMismatchError
    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        code = self.failures.pop(name, 0)
        if not code and not self.held and name != "nvmlInit":
            code = pynvml.NVML_ERROR_UNINITIALIZED
        self._check(code)

    def _check(self, code: int) -> None:
        if code:
            raise pynvml.NVMLError(code)

    def _asked(self, name: str, handle: Handle) -> Gpu:
        self._called(name)
        self._check(pynvml.NVML_ERROR_INVALID_ARGUMENT if handle.begun != self.begun else 0)
        self._check(handle.gpu.error)
        return handle.gpu

    def _all(self) -> list[Gpu]:
        return self.gpus + [part for gpu in self.gpus for part in gpu.parts or []]

    def nvmlInit(self) -> None:
        self._called("nvmlInit")
        self.begun += 1
        self.held += 1

    def nvmlShutdown(self) -> None:
        self._called("nvmlShutdown")
        self.held -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._called("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        self._called("nvmlDeviceGetHandleByIndex")
        self._check(0 if index < len(self.gpus) else pynvml.NVML_ERROR_INVALID_ARGUMENT)
        self._check(self.gpus[index].error)
        return Handle(self.gpus[index], self.begun)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle:
        self._called("nvmlDeviceGetHandleByUUID")
        for gpu in self._all():
            if gpu.uuid == uuid:
                self._check(gpu.error)
                return Handle(gpu, self.begun)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, handle: Handle) -> bytes:
        return self._asked("nvmlDeviceGetName", handle).name.encode()

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        return self._asked("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any:
        gpu = self._asked("nvmlDeviceGetMemoryInfo", handle)
        self._check(0 if gpu.total else pynvml.NVML_ERROR_NOT_SUPPORTED)
        if version is None:
            return SimpleNamespace(total=gpu.total, free=gpu.free, used=gpu.total - gpu.free)
        assert version == pynvml.nvmlMemory_v2
        self._check(0 if gpu.reserved else pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        used = gpu.total - gpu.free - gpu.reserved
        return SimpleNamespace(total=gpu.total, free=gpu.free, used=used, reserved=gpu.reserved)

    def nvmlDeviceGetMigMode(self, handle: Handle) -> list[int]:
        gpu = self._asked("nvmlDeviceGetMigMode", handle)
        self._check(pynvml.NVML_ERROR_NOT_SUPPORTED if gpu.uuid.startswith("MIG-") else 0)
        mode = int(gpu.parts is not None)
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Handle) -> int:
        self._asked("nvmlDeviceGetMaxMigDeviceCount", handle)
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Handle, index: int) -> Handle:
        gpu = self._asked("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        parts = gpu.parts or []
        self._check(0 if index < len(parts) else pynvml.NVML_ERROR_NOT_FOUND)
        return Handle(parts[index], self.begun)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]:
        gpu = self._asked("nvmlDeviceGetComputeRunningProcesses", handle)
        return self._listed(gpu.processes)

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Handle) -> list[Any]:
        gpu = self._asked("nvmlDeviceGetGraphicsRunningProcesses_v3", handle)
        return self._listed(gpu.graphics)

    def _listed(self, processes: list[tuple[int, int | None]] | None) -> list[Any]:
        self._check(pynvml.NVML_ERROR_NOT_SUPPORTED if processes is None else 0)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes or []]


def two_cards() -> FakeNvml:
    return FakeNvml([Gpu("GPU-a"), Gpu("GPU-b", total=48 * GIB, free=1 * GIB, name="NVIDIA B")])


class Library:
    """The C library, built in a folder; what it says stands in a file.

    A line each: `init ERROR`; `card UUID TOTAL FREE RESERVED ERROR NAME…`; `part OF-CARD UUID
    TOTAL FREE`, which splits that card; `process UUID PID BYTES`, -1 for what the driver of a
    desktop system says instead.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("needs a C compiler")
        self.folder = folder
        self.script = folder / "nvml"
        library = folder / "libnvidia-ml.so.1"
        build = [compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "nvml_stub.c")]
        subprocess.run(build, check=True, timeout=60)  # noqa: S603 - a compiler, on our text

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process that is to find this library."""
        return os.environ | {
            "LD_LIBRARY_PATH": str(self.folder),
            "PYTHONPATH": str(HERE.parent),
            "STUB_NVML": str(self.script),
        }

    def play(self, story: str) -> Any:
        """Run a Python text in a process of its own; what it prints, as JSON."""
        done = subprocess.run(  # noqa: S603 - this interpreter, on our text
            [sys.executable, "-W", "error", "-c", story],
            env=self.environment,
            check=False,
            timeout=60,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)
