"""Processes of the benchmark: started here, looked at here, ended here by their ids."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

ROOT: Final = Path(__file__).parents[2]
ENDS_WITHIN_S: Final = 10.0

try:
    import uvloop
except ImportError:
    new_loop = asyncio.new_event_loop
else:
    new_loop = uvloop.new_event_loop


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on the event loop that the gate uses as well."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work)


def run_until_stdin_ends(work: Coroutine[Any, Any, None]) -> None:
    """Run a child's work; standard input ends with the parent, however that ends."""
    raise_file_limit()
    run(_until_stdin_ends(work))


async def _until_stdin_ends(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_reader(sys.stdin, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def raise_file_limit() -> int:
    """Allow as many open files as this user may have, here and in children; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A child and what descends from it, as far as it costs anything."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._popen = popen
        self._log = log
        self._seen = psutil.Process(popen.pid)

    def cpu_s(self) -> float:
        """Processor time used so far, user and system."""
        times = [process.cpu_times() for process in self._family()]
        return float(sum(each.user + each.system for each in times))

    def rss_bytes(self) -> int:
        """Resident memory."""
        return sum(process.memory_info().rss for process in self._family())

    def said(self) -> str:
        """The end of what it printed, for an error's text."""
        return self._log.read_text(errors="replace")[-2000:]

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def _family(self) -> list[psutil.Process]:
        return [self._seen, *self._seen.children(recursive=True)]


@contextlib.contextmanager
def child(name: str, argv: Sequence[str], directory: Path) -> Iterator[Process]:
    """Run a program while the block lasts; its output goes to a file in the directory."""
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - our own command lines, and the user's
            argv,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OLLAMA_GATE_STATE_DIR": str(directory / f"{name}.state"),
            },
        )
    try:
        yield Process(name, popen, log)
    finally:
        _end(popen)


def _end(popen: subprocess.Popen[bytes]) -> None:
    assert popen.stdin is not None
    popen.stdin.close()
    popen.terminate()
    try:
        popen.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
