"""One gate for each directory: a lock file that says whose it is.

The kernel lets go of the lock when its holder dies, however it dies; the file stays and means
nothing by itself.
"""

import fcntl
import os
from pathlib import Path
from typing import Final

from ollama_gate.errors import StateError

NAME: Final = "lock"


class Lock:
    """A directory held against every other process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> "Lock":
        """Hold a directory.

        Raises:
            StateError: another gate holds it.
            OSError: there is no lock to be had here at all.
        """
        path = directory / NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            # A directory that can only be read can be held all the same, if it was held before.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StateError(
                f"{directory} is in use by another gate (process {holder or 'unknown'}); "
                "end it, or give this one a state_dir of its own"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def sign(self) -> None:
        """Say whose it is; raises `OSError` where nothing can be written."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
