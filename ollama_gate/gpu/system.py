"""Main memory, as far as this process's cgroups let it be used. It knows of no card.

A container's limit is the memory there is: what lies above it is refused, however much is free.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from ollama_gate.errors import CardError
from ollama_gate.gpu.reading import Reading

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")

UNIFIED_PERCENT: Final = 90
"""Of memory that a card shares with everything else, the rest is left to everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """Where one version of cgroups says what.

    Attributes:
        mount: below the root.
        cache: what of the use is pages of files, in `memory.stat`; the kernel takes them back
            before it refuses anybody.
    """

    mount: str
    limit: str
    used: str
    cache: tuple[str, str]


_V2: Final = _Version(
    mount="",
    limit="memory.max",
    used="memory.current",
    cache=("inactive_file", "active_file"),
)
_V1: Final = _Version(
    mount="memory",
    limit="memory.limit_in_bytes",
    used="memory.usage_in_bytes",
    cache=("total_inactive_file", "total_active_file"),
)


class SystemMemory:
    """Main memory, for an Ollama without a card; a cgroup's limit counts where it is lower.

    Page cache counts as free, that of models mapped into memory too.
    """

    source = "system"

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

    def _limits(self) -> Iterator[tuple[int, int]]:
        """Limit and use of this process's cgroup and of each above it that has a limit.

        In a container the path may be the one outside; what is mounted there is its own group.
        """
        try:
            lines = self._own_cgroup.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            number, controllers, path = line.split(":", 2)
            if number == "0" and not controllers:
                yield from self._limits_of(_V2, path)
            elif "memory" in controllers.split(","):
                yield from self._limits_of(_V1, path)

    def _limits_of(self, version: _Version, path: str) -> Iterator[tuple[int, int]]:
        root = self._cgroup_root / version.mount
        group = root / path.lstrip("/")
        for each in (group, *group.parents):
            if each.is_relative_to(root) and (found := _limit(version, each)):
                yield found


def _limit(version: _Version, group: Path) -> tuple[int, int] | None:
    """A cgroup's limit and what of it is in use; `None` without a limit.

    Version 1 says no limit by a number larger than any memory, which does no harm.
    """
    try:
        limit = int((group / version.limit).read_text(encoding="ascii"))
        used = int((group / version.used).read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
        counts = dict(zip(stat[::2], stat[1::2], strict=False))
        cache = sum(int(counts.get(name, 0)) for name in version.cache)
    except (OSError, ValueError):
        # `max` is the kernel's word for no limit.
        return None
    return limit, max(0, used - cache)


def unified(memory: Reading, device: str) -> Reading:
    """Main memory as a card that shares it can use it: its last tenth is not there."""
    total_bytes = memory.total_bytes * UNIFIED_PERCENT // 100
    return replace(
        memory,
        total_bytes=total_bytes,
        used_bytes=min(total_bytes, memory.used_bytes),
        device=device,
        note=f"unified memory: {UNIFIED_PERCENT} % of main memory",
        shared=True,
    )
