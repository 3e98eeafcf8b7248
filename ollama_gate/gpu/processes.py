"""Which of the processes on a card are Ollama's runners. It reads `/proc` and nothing else.

A driver knows process ids of the machine itself, not those of a container: looked up in a
container they would mean somebody else, so that there nothing is said at all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

MACHINE_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the machine's own process namespace (Linux `proc_ns.h`, PROC_PID_INIT_INO)."""

_RUNNER: Final = "llama-server"
_OLLAMA: Final = "ollama"


def ours_bytes(used: Mapping[int, int] | None, *, proc: Path = PROC) -> int | None:
    """What Ollama's runners hold of a card; `None` where it cannot be told.

    That is so where no process is listed, since some drivers hide them, and where one that is
    listed cannot be seen.

    Args:
        used: bytes by process id, as the driver lists them.
        proc: where processes are described.
    """
    if not used or not _ids_are_the_machines(proc):
        return None
    total_bytes = 0
    for pid, used_bytes in used.items():
        is_ours = _is_runner(pid, proc)
        if is_ours is None:
            return None
        total_bytes += used_bytes if is_ours else 0
    return total_bytes


def _ids_are_the_machines(proc: Path) -> bool:
    try:
        return (proc / "self/ns/pid").stat().st_ino == MACHINE_NAMESPACE
    except OSError:
        return False


def _is_runner(pid: int, proc: Path) -> bool | None:
    """Whether a process is Ollama or was begun by it; `None` if it cannot be seen.

    Somebody may run a `llama-server` of his own, so that its parent decides.
    """
    name = _name(pid, proc)
    if name == _RUNNER:
        parent = _parent(pid, proc)
        name = None if parent is None else _name(parent, proc)
    return None if name is None else name.startswith(_OLLAMA)


def _name(pid: int, proc: Path) -> str | None:
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _parent(pid: int, proc: Path) -> int | None:
    try:
        stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        # The name before it may hold spaces and brackets, its last one being the field's end.
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None
