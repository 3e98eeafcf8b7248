"""Where an upstream's model files are on this machine, and whether they are what it says.

An upstream names them, so what it says is not followed beyond what a store of Ollama's looks like:
a directory `blobs` with regular files called by their SHA-256. Nothing is ever written or hashed.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_gate.errors import PrewarmError
from ollama_gate.log import size

BLOBS: Final = "blobs"

BESIDE_BYTES: Final = 64 * 2**20
"""What a model has on disk besides the files that a runner reads: template, licence, parameters."""

_BLOB: Final = re.compile(r"sha256-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Blob:
    """One file, open to be read."""

    fd: int
    size_bytes: int


def stores() -> tuple[Path, ...]:
    """Where an Ollama that this user started keeps its models."""
    given = os.environ.get("OLLAMA_MODELS")
    own = Path("~/.ollama/models").expanduser()
    return tuple(Path(place) / BLOBS for place in (given, own) if place)


@contextlib.contextmanager
def opened(
    named: Sequence[str], disk_bytes: int, places: Sequence[Path] = ()
) -> Iterator[list[Blob]]:
    """A model's files, open for the length of a block.

    Args:
        named: as the upstream names them.
        disk_bytes: how much the upstream says that all of the model takes on disk.
        places: where to look for what is not where it is said to be: an Ollama in a container
            names its own directory.

    Raises:
        PrewarmError: they cannot be read here, or are not what the upstream has.
    """
    with contextlib.ExitStack() as stack:
        blobs = []
        for path in named:
            blob = _open(path, places)
            stack.callback(os.close, blob.fd)
            blobs.append(blob)
        _compare(sum(blob.size_bytes for blob in blobs), disk_bytes)
        yield blobs


def _compare(there_bytes: int, disk_bytes: int) -> None:
    # A file that is no more, or not yet, what it is called can only be told by its size.
    if not disk_bytes - BESIDE_BYTES <= there_bytes <= disk_bytes or not there_bytes:
        raise PrewarmError(
            f"its files here have {size(there_bytes)}, and at the upstream {size(disk_bytes)}"
        )


def _open(named: str, places: Sequence[Path]) -> Blob:
    path = Path(named)
    if not path.is_absolute() or ".." in path.parts or path.parent.name != BLOBS:
        raise PrewarmError(f"{named!r} is in no directory of Ollama's")
    if not _BLOB.fullmatch(path.name):
        raise PrewarmError(f"{named!r} is not called as Ollama calls a model file")
    failure: OSError | None = None
    for each in (path, *(place / path.name for place in places)):
        try:
            return _open_regular(each)
        except OSError as error:
            # That it is nowhere else does not tell why it could not be read where it is.
            if failure is None or isinstance(failure, FileNotFoundError):
                failure = error
    assert failure is not None, "one place at least was tried"
    raise PrewarmError(f"{named} cannot be read here: {failure.strerror}") from failure


def _open_regular(path: Path) -> Blob:
    # Neither a link is followed nor a pipe waited for.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise PrewarmError(f"{path} is no regular file")
    return Blob(fd, status.st_size)
