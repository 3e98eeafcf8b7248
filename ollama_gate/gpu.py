"""What we ask of a card: one reading, and where it is from.

A reading says how much memory there is and how much of it is in use by anybody; what to do with
that is decided elsewhere. Reading blocks, so that only the `Poller` does it, on a thread. NVML's
and the operating system's errors become `CardError` here and nowhere else.
"""

import asyncio
import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, assert_never

import psutil

from ollama_gate.errors import CardError

with warnings.catch_warnings():
    # The dead distribution `pynvml`, where something else has brought it in, hooks this import.
    warnings.filterwarnings(
        "ignore", message="The pynvml package is deprecated", category=FutureWarning
    )
    try:
        import pynvml as _installed_nvml
    except ImportError:
        _installed_nvml = None

IDLE_S: Final = 2.0
BUSY_S: Final = 0.2
"""Between two readings; the shorter one while memory is being given or taken."""

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How much memory there is, at one instant.

    Attributes:
        used_bytes: by whomever: all that is not free.
        source: `nvml` for a card, `system` for main memory.
        device: which, in words.
        taken_at: on the monotonic clock.
    """

    total_bytes: int
    used_bytes: int
    source: str
    device: str
    taken_at: float


class Card(Protocol):
    """Something that can be read.

    Attributes:
        source: what its readings will say of themselves.
        count: how many of its kind there are, itself included.
    """

    source: str
    count: int

    def read(self) -> Reading:
        """Take a reading. Blocks: call it off the event loop.

        Raises:
            CardError: there is none to be had now; a later one may succeed.
        """
        ...


class NvmlCard:
    """An NVIDIA card, by index, by UUID (MIG ones too), or else the one with most memory.

    It is looked up at the first reading, and again after the driver lost it.
    """

    source = "nvml"

    def __init__(self, which: int | str | None = None, *, nvml: Any = _installed_nvml) -> None:
        self.count = 1
        self._which = which
        self._nvml = nvml
        self._handle: Any = None
        self._device = ""
        self._initialised = False
        # Two threads may ask at once: a reading that outlived its poller, and the next one.
        self._lock = threading.Lock()

    def read(self) -> Reading:
        """See `Card.read`; what is reserved by the driver counts as used."""
        if self._nvml is None:
            raise CardError("the Python package nvidia-ml-py is not installed")
        with self._lock:
            try:
                if self._handle is None:
                    self._open()
                memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            except self._nvml.NVMLError as error:
                self._forget_if_lost(error)
                raise CardError(_advice(self._nvml, error)) from error
        return Reading(
            total_bytes=int(memory.total),
            used_bytes=int(memory.total) - int(memory.free),
            source=self.source,
            device=self._device,
            taken_at=time.monotonic(),
        )

    def close(self) -> None:
        """Let go of the driver; a later reading takes hold of it again."""
        with self._lock:
            self._close()

    def _open(self) -> None:
        nvml = self._nvml
        if not self._initialised:
            nvml.nvmlInit()
            self._initialised = True
        self.count = int(nvml.nvmlDeviceGetCount())
        match self._which:
            case int(index):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            case str(uuid):
                handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            case _:
                handle = self._largest()
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
        self._device = f"{_text(name)} ({_text(uuid)})"
        self._handle = handle

    def _largest(self) -> Any:
        nvml = self._nvml
        if self.count == 0:
            raise CardError("the NVIDIA driver is there, but no card is")
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self.count)]
        return max(handles, key=lambda handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).total))

    def _forget_if_lost(self, error: Any) -> None:
        # An NVMLError can be neither hashed nor compared: its number is what tells.
        lost = (
            self._nvml.NVML_ERROR_GPU_IS_LOST,
            self._nvml.NVML_ERROR_UNINITIALIZED,
            self._nvml.NVML_ERROR_UNKNOWN,
        )
        if error.value in lost:
            self._close()

    def _close(self) -> None:
        self._handle = None
        if self._initialised:
            self._initialised = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def _text(value: Any) -> str:
    """Bindings before 11.5 give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _advice(nvml: Any, error: Any) -> str:
    """An NVML error in words, with what can be done about it."""
    if error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        hint = "no NVIDIA driver library on this machine, or not mounted in this container"
    elif error.value == nvml.NVML_ERROR_DRIVER_NOT_LOADED:
        hint = "the NVIDIA driver is not loaded"
    elif error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        hint = "the NVIDIA driver was updated under a running system; restart it"
    elif error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
        hint = "this card does not tell its memory; configure its vram"
    elif error.value in {nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT}:
        hint = "no such card; nvidia-smi -L lists what there is"
    else:
        hint = "no reading from the NVIDIA driver"
    return f"{hint} ({error})"


class SystemMemory:
    """Main memory, for an Ollama without a card; a cgroup's limit counts where it is lower.

    Page cache counts as free, that of models mapped into memory too.
    """

    source = "system"
    count = 1

    def __init__(self, *, cgroup_root: Path = CGROUP_ROOT, own_cgroup: Path = OWN_CGROUP) -> None:
        self._cgroup_root = cgroup_root
        self._own_cgroup = own_cgroup

    def read(self) -> Reading:
        """See `Card.read`."""
        try:
            memory = psutil.virtual_memory()
        except (psutil.Error, OSError) as error:
            raise CardError(f"the system does not tell its memory: {error}") from error
        total, available = int(memory.total), int(memory.available)
        for limit, used in self._limits():
            total, available = min(total, limit), min(available, max(0, limit - used))
        return Reading(
            total_bytes=total,
            used_bytes=max(0, total - available),
            source=self.source,
            device="main memory",
            taken_at=time.monotonic(),
        )

    def _limits(self) -> list[tuple[int, int]]:
        """Limit and use of this process's cgroup and of each above it that has a limit (v2)."""
        try:
            lines = self._own_cgroup.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        path = next((line[3:] for line in lines if line.startswith("0::")), None)
        if path is None:
            return []
        group = self._cgroup_root / path.lstrip("/")
        groups = [group, *group.parents]
        return [
            found
            for each in groups
            if each.is_relative_to(self._cgroup_root) and (found := _limit(each))
        ]


def _limit(group: Path) -> tuple[int, int] | None:
    """A cgroup's `memory.max` and what of it is in use; `None` without a limit."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        # `max` is the kernel's word for no limit.
        return None
    counts = dict(zip(stat[::2], stat[1::2], strict=False))
    # The kernel takes pages of files back before it refuses anybody.
    cache = int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
    return limit, max(0, used - cache)


def find_card(
    gpus: Literal["auto", "cpu"], *, upstream_is_local: bool, nvml: Any = _installed_nvml
) -> Card | None:
    """What to read for an upstream, or `None` where no reading here says anything about it.

    Blocks, like a reading. Of several cards the one with most memory; `count` tells that there
    are more. A driver that is there but fails gives a card all the same, whose readings say why.

    Args:
        gpus: as configured; a configured budget is planned with unread, and needs no card.
        upstream_is_local: whether it runs on this machine; another machine's memory cannot be
            read from here.
        nvml: the binding.
    """
    if not upstream_is_local:
        return None
    match gpus:
        case "cpu":
            return SystemMemory()
        case "auto":
            count = _count_cards(nvml)
            if count == 0:
                return SystemMemory()
            card = NvmlCard(nvml=nvml)
            card.count = count
            return card
        case _:
            assert_never(gpus)


def _count_cards(nvml: Any) -> int:
    """How many cards the driver knows; 1 where it is there but does not answer."""
    if nvml is None:
        return 0
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return 0 if error.value in absent else 1
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 1
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


class Poller:
    """Reads a card again and again, more often while memory is on the move.

    Every reading is told to `tell`; of failures only the first in a row, since they mean one
    thing: that what is known grows old. `tell` runs on the event loop and must not block.
    """

    def __init__(
        self,
        card: Card,
        tell: Callable[[Reading | CardError], None],
        *,
        idle_s: float = IDLE_S,
        busy_s: float = BUSY_S,
    ) -> None:
        self.card = card
        self.last: Reading | None = None
        self.error: CardError | None = None
        self._tell = tell
        self._idle_s = idle_s
        self._busy_s = busy_s
        self._busy = False
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def interval_s(self) -> float:
        """Seconds to the next reading, counted from the last one's end."""
        return self._busy_s if self._busy else self._idle_s

    def age_s(self, now: float) -> float | None:
        """How old the last reading is; `None` before the first.

        Args:
            now: on the monotonic clock.
        """
        return None if self.last is None else max(0.0, now - self.last.taken_at)

    def hurry(self, *, busy: bool) -> None:
        """Say whether memory is on the move; when it begins to be, a reading follows at once."""
        if busy and not self._busy:
            self.poke()
        self._busy = busy

    def poke(self) -> None:
        """Ask for a reading now; one that is under way does not count."""
        self._poked.set()

    def start(self) -> None:
        """Begin, with a reading at once. Needs a running event loop."""
        assert self._task is None, "a poller is started once"
        self._task = asyncio.create_task(self._run(), name=f"poll {self.card.source}")

    async def stop(self) -> None:
        """End; a reading that is under way is not told. Raises what broke the poller, if it did."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def _run(self) -> None:
        while True:
            self._poked.clear()
            await self._read()
            await self._rest()

    async def _read(self) -> None:
        try:
            reading = await asyncio.to_thread(self.card.read)
        except CardError as error:
            was_well, self.error = self.error is None, error
            if was_well:
                self._tell(error)
        else:
            self.last, self.error = reading, None
            self._tell(reading)

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval_s):
                await self._poked.wait()
