"""The page cache: how much of a file is in it, how to get it there, and how much room there is.

All of this may take as long as the disk does: it belongs on a thread.
"""

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ollama_gate.errors import CardError
from ollama_gate.gpu import SystemMemory
from ollama_gate.prewarm.files import Blob

CHUNK_BYTES: Final = 4 * 2**20
"""What is read at once, and into the same memory again and again: a stop takes no longer."""

AHEAD_BYTES: Final = 32 * 2**20
"""How far the kernel is told of ahead."""

CHECK_BYTES: Final = 256 * 2**20
"""After so many it is seen whether there is still room."""

SAMPLES: Final = 64
"""How many pages of a file are tried, one in each part of it."""

MARGIN_BYTES: Final = 2**30
MARGIN_PERCENT: Final = 5
"""Of main memory, what is left alone: the larger of both."""

MEMINFO: Final = Path("/proc/meminfo")

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def cached_share(blob: Blob) -> float | None:
    """How much of a file is in the page cache, 0 to 1; `None` where the kernel does not tell.

    Single pages are asked for, on condition that they are there. `mincore` and `cachestat` would
    know it for all of them, but tell it to nobody who may not write to the file.
    """
    part_bytes = max(1, blob.size_bytes // SAMPLES)
    # The kernel must not read on from what was tried, or trying would fill the cache; nor may the
    # same pages be tried again.
    os.posix_fadvise(blob.fd, 0, 0, os.POSIX_FADV_RANDOM)
    tried = [
        begin + random.randrange(part_bytes)  # noqa: S311  any page does
        for begin in range(0, blob.size_bytes - part_bytes + 1, part_bytes)
    ]
    try:
        found = [_is_cached(blob.fd, at) for at in tried]
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    finally:
        os.posix_fadvise(blob.fd, 0, 0, os.POSIX_FADV_NORMAL)
    return sum(found) / len(found) if found else 1.0


def _is_cached(fd: int, at: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def read_in(
    blobs: Sequence[Blob], *, stopped: Callable[[], bool], room: Callable[[], int]
) -> tuple[int, bool]:
    """Read files from the first byte to the last.

    Args:
        blobs: to be read, in this order.
        stopped: whether to end now.
        room: how many bytes the page cache may still grow by.

    Returns:
        How many bytes were read, and whether room ran out; fewer than there are, and it did not,
        when it was stopped.
    """
    left_bytes = total_bytes = sum(blob.size_bytes for blob in blobs)
    buffer = bytearray(CHUNK_BYTES)
    checked_at = left_bytes
    for blob in blobs:
        at = 0
        while at < blob.size_bytes and not stopped():
            if checked_at - left_bytes >= CHECK_BYTES:
                checked_at = left_bytes
                if room() < left_bytes:
                    return total_bytes - left_bytes, True
            if at % AHEAD_BYTES == 0:
                os.posix_fadvise(blob.fd, at, 2 * AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            got = os.preadv(blob.fd, [buffer], at)
            if not got:
                break
            at += got
            left_bytes -= got
    return total_bytes - left_bytes, False


def room_bytes(memory: SystemMemory | None = None, meminfo: Path = MEMINFO) -> int:
    """By how much the page cache may grow at nobody's cost.

    What is available, by the cgroups' limits as well, less a margin and less the files that
    processes have mapped: these are cache too, and somebody works with them. 0 where nobody tells.
    """
    try:
        reading = (memory or SystemMemory()).read()
    except CardError:
        return 0
    margin_bytes = max(MARGIN_BYTES, reading.total_bytes * MARGIN_PERCENT // 100)
    available_bytes = reading.total_bytes - reading.used_bytes
    return max(0, available_bytes - margin_bytes - _mapped_bytes(meminfo))


def _mapped_bytes(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        figures = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(figures["Mapped"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return 0
