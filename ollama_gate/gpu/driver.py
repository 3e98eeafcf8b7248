"""The hold on NVIDIA's driver that all cards share, what it knows of, and what its errors mean.

It takes no reading: which errors a reading survives is the card's business.
"""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

with warnings.catch_warnings():
    # The dead distribution `pynvml`, where something else has brought it in, hooks this import.
    warnings.filterwarnings(
        "ignore", message="The pynvml package is deprecated", category=FutureWarning
    )
    try:
        import pynvml as _installed
    except ImportError:
        _installed = None

INSTALLED: Final[Any] = _installed
"""The binding, `None` where it is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A card, or a part of a split one, as long as the driver lives."""

    handle: Any
    name: str
    uuid: str

    def __str__(self) -> str:
        """As it stands in a reading."""
        return f"{self.name} ({self.uuid})"


class Driver:
    """One hold on NVML, shared by all that is read through it.

    Whoever uses it holds `lock`: letting go of it under somebody else's call would fail that.

    Attributes:
        era: how often it was let go; what was looked up in another era is void.
    """

    def __init__(self, nvml: Any = INSTALLED) -> None:
        self.nvml = nvml
        self.lock = threading.Lock()
        self.era = 0
        self._held = False

    def hold(self) -> None:
        """Take hold of it, unless it is held. Raises NVML's errors."""
        if not self._held:
            self.nvml.nvmlInit()
            self._held = True

    def drop(self) -> None:
        """Let go of it, so that the next hold begins anew."""
        self.era += 1
        if self._held:
            self._held = False
            with contextlib.suppress(self.nvml.NVMLError):
                self.nvml.nvmlShutdown()

    def devices(self) -> list[Device]:
        """Every card, in the driver's order, and instead of a split one its parts.

        A card that does not answer is left out. Raises NVML's errors.
        """
        self.hold()
        found: list[Device] = []
        for index in range(int(self.nvml.nvmlDeviceGetCount())):
            with contextlib.suppress(self.nvml.NVMLError):
                handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
                parts = self.parts(handle)
                found += [self.device(handle)] if parts is None else parts
        return found

    def device(self, handle: Any) -> Device:
        """What a handle stands for. Raises NVML's errors."""
        name, uuid = self.nvml.nvmlDeviceGetName(handle), self.nvml.nvmlDeviceGetUUID(handle)
        return Device(handle=handle, name=_text(name), uuid=_text(uuid))

    def parts(self, handle: Any) -> list[Device] | None:
        """The parts of a split card (MIG); `None` of one that is whole, or a part itself."""
        nvml = self.nvml
        try:
            mode, _ = nvml.nvmlDeviceGetMigMode(handle)
            if mode != nvml.NVML_DEVICE_MIG_ENABLE:
                return None
            count = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        except nvml.NVMLError:
            return None
        return list(self._parts(handle, count))

    def _parts(self, handle: Any, count: int) -> Iterator[Device]:
        for index in range(count):
            # Places that hold no part are errors.
            with contextlib.suppress(self.nvml.NVMLError):
                yield self.device(self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))


def total_bytes(driver: Driver, device: Device) -> int:
    """What a card has in all, to compare; 0 where it does not tell."""
    try:
        return int(driver.nvml.nvmlDeviceGetMemoryInfo(device.handle).total)
    except driver.nvml.NVMLError:
        return 0


def losses(nvml: Any) -> tuple[int, ...]:
    """Errors after which neither handle nor driver is good for anything."""
    return (
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_UNKNOWN,
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_RESET_REQUIRED,
        # Of a handle that was good before: it is of another driver's life.
        nvml.NVML_ERROR_INVALID_ARGUMENT,
        nvml.NVML_ERROR_NOT_FOUND,
    )


def _text(value: Any) -> str:
    """Bindings before 11.5 give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def advice(nvml: Any, error: Any) -> str:
    """An NVML error in words, with what can be done about it."""
    match error.value:
        case nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            hint = "no NVIDIA driver library on this machine, or not mounted in this container"
        case nvml.NVML_ERROR_DRIVER_NOT_LOADED:
            hint = "the NVIDIA driver is not loaded"
        case nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            hint = "the NVIDIA driver was updated under a running system; restart the gate, or it"
        case nvml.NVML_ERROR_GPU_IS_LOST:
            hint = "the card has fallen off its bus"
        case nvml.NVML_ERROR_NO_PERMISSION:
            hint = "the NVIDIA driver refuses this user"
        case nvml.NVML_ERROR_NOT_SUPPORTED:
            hint = "this card does not tell its memory; configure its vram"
        case _:
            hint = "no reading from the NVIDIA driver"
    return f"{hint} ({error})"
