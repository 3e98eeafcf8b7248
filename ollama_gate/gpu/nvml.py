"""One NVIDIA card, or a part of a split one: how it is read, lost and found again.

A card is known by what was asked for, never by a handle: handles die with the driver. It refuses
to guess: a card that does not tell its memory is only taken for one that shares the machine's
where its name is known for that.
"""

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ollama_gate.errors import CardError
from ollama_gate.gpu.driver import Device, Driver, advice, losses, total_bytes
from ollama_gate.gpu.processes import PROC, ours_bytes
from ollama_gate.gpu.reading import Card, Reading
from ollama_gate.gpu.system import SystemMemory, unified

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""After a loss the driver is left alone for so long, doubled each time it is tried in vain."""

_SHARES_MEMORY: Final = re.compile(r"\b(GB10|Thor|Orin|Xavier)\b")
"""Cards without memory of their own: NVML says of theirs that it is not supported."""

_LENDS_MEMORY: Final = re.compile(r"\b(GH200|GB200|GB300)\b")
"""Cards whose memory the system uses as well, for pages of files above all."""


class _Pause:
    """How long something that failed is left alone."""

    def __init__(self) -> None:
        self._length_s = 0.0
        self._until = 0.0

    def lengthen(self, now: float) -> None:
        self._length_s = min(LONGEST_PAUSE_S, 2 * self._length_s or FIRST_PAUSE_S)
        self._until = now + self._length_s

    def end(self) -> None:
        self._length_s = 0.0

    def left_s(self, now: float) -> float:
        return self._until - now if self._length_s else 0.0


class NvmlCard:
    """An NVIDIA card by its index, one or a part of one by UUID, or else the one with most memory.

    It is looked up at the first reading, and again after the driver lost it; what fails then is
    tried again after 1, 2, 4 … 60 seconds, and readings in between fail without asking.

    Args:
        which: as `nvidia-smi -L` has it.
        driver: shared with other cards.
        memory: what is read of cards that share it.
        proc: where processes are described.
        now: the clock of the pauses.
    """

    source = "nvml"

    def __init__(
        self,
        which: int | str | None = None,
        *,
        driver: Driver | None = None,
        memory: Card | None = None,
        proc: Path = PROC,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._which = which
        self._driver = driver or Driver()
        self._memory: Card = memory or SystemMemory()
        self._proc = proc
        self._now = now
        self._pause = _Pause()
        self._why = ""
        self._device: Device | None = None
        self._era = -1
        self._kept_bytes = 0
        self._shares_memory = False

    def read(self) -> Reading:
        """See `Card.read`; nothing of what the driver keeps to itself is in the total."""
        if self._driver.nvml is None:
            raise CardError("the Python package nvidia-ml-py is not installed")
        # Two threads may ask at once: for two cards, or after a reading that was given up.
        with self._driver.lock:
            left_s = self._pause.left_s(self._now())
            if left_s > 0:
                raise CardError(f"{self._why}; tried again in {left_s:.0f} s")
            try:
                reading = self._read()
            except self._driver.nvml.NVMLError as error:
                raise self._failed(error) from error
            except CardError as error:
                self._later(str(error))
                raise
        self._pause.end()
        return reading

    def _read(self) -> Reading:
        nvml = self._driver.nvml
        if self._device is None or self._era != self._driver.era:
            self._look_up()
        device = self._device
        assert device is not None, "a lookup finds or raises"
        if self._shares_memory:
            return unified(self._memory.read(), str(device))
        memory = nvml.nvmlDeviceGetMemoryInfo(device.handle)
        used = self._processes(device.handle)
        total, free = int(memory.total), int(memory.free)
        kept = min(self._kept_bytes, total - free)
        return Reading(
            total_bytes=total - kept,
            used_bytes=total - kept - free,
            source=self.source,
            device=str(device),
            taken_at=time.monotonic(),
            processes=used,
            ours_bytes=ours_bytes(used, proc=self._proc),
            note="at least so much is free: the system lends itself the rest"
            if _LENDS_MEMORY.search(device.name)
            else "",
        )

    def _look_up(self) -> None:
        self._driver.hold()
        device = self._find()
        nvml, self._shares_memory, self._kept_bytes = self._driver.nvml, False, 0
        try:
            nvml.nvmlDeviceGetMemoryInfo(device.handle)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_NOT_SUPPORTED or not _SHARES_MEMORY.search(
                device.name
            ):
                raise
            self._shares_memory = True
        else:
            self._kept_bytes = self._kept(device.handle)
        self._device, self._era = device, self._driver.era
        # From now on it is this one: without a lost card the others may be counted differently.
        self._which = device.uuid

    def _find(self) -> Device:
        nvml = self._driver.nvml
        try:
            match self._which:
                case int(index):
                    return self._whole(nvml.nvmlDeviceGetHandleByIndex(index))
                case str(uuid):
                    return self._whole(nvml.nvmlDeviceGetHandleByUUID(uuid))
                case _:
                    return self._largest()
        except nvml.NVMLError as error:
            if error.value not in {nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT}:
                raise
            raise CardError(f"no card {self._which}; there is: {self._listing()}") from error

    def _whole(self, handle: Any) -> Device:
        parts = self._driver.parts(handle)
        if parts is None:
            return self._driver.device(handle)
        named = ", ".join(map(str, parts)) or "none yet"
        raise CardError(f"card {self._which} is split (MIG); name one of its parts: {named}")

    def _largest(self) -> Device:
        devices = self._driver.devices()
        if not devices:
            raise CardError("the NVIDIA driver is there, but no card is")
        return max(devices, key=lambda device: total_bytes(self._driver, device))

    def _listing(self) -> str:
        return ", ".join(f"{n} {each}" for n, each in enumerate(self._driver.devices())) or "none"

    def _kept(self, handle: Any) -> int:
        """What the driver keeps to itself; older ones do not say."""
        nvml = self._driver.nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except nvml.NVMLError:
            return 0
        return int(memory.reserved)

    def _processes(self, handle: Any) -> Mapping[int, int] | None:
        nvml = self._driver.nvml
        try:
            listed = list(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
            return None
        # Vulkan's are of this kind, as a desktop's are.
        with contextlib.suppress(nvml.NVMLError):
            listed += nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle)
        used: dict[int, int] = {}
        for each in listed:
            if each.usedGpuMemory is None:
                return None
            used[each.pid] = max(used.get(each.pid, 0), int(each.usedGpuMemory))
        return used

    def _failed(self, error: Any) -> CardError:
        # An NVMLError can be neither hashed nor compared: its number is what tells.
        text = advice(self._driver.nvml, error)
        known = self._device is not None and self._era == self._driver.era
        if not known or error.value in losses(self._driver.nvml):
            self._driver.drop()
            self._later(text)
        return CardError(text)

    def _later(self, why: str) -> None:
        self._device, self._why = None, why
        self._pause.lengthen(self._now())
