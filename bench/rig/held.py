"""What requests cost in memory while they last, and how soon a client's leaving is felt."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from bench.rig.client import ExchangeError, connect, connections, fetch, get
from bench.rig.contenders import BARE, GATE, NGINX, STRAIGHT, Contender, Ring, chat, question
from bench.rig.processes import Process, child, free_port
from bench.rig.upstream import Mode

WARM: Final = 300
QUIET_S: Final = 0.3
QUIET_CPU_S: Final = 0.02
SETTLES_WITHIN_S: Final = 120.0
NOTED_WITHIN_S: Final = 10.0

_ids = itertools.count()


@dataclass(frozen=True)
class Memory:
    """What `count` requests added to what a warm process takes.

    Attributes:
        contender: its name.
        count: of requests, all held at once.
        added_bytes: resident memory.
        seconds: from the first request until the process had nothing more to do.
    """

    contender: str
    count: int
    added_bytes: int
    seconds: float

    @property
    def each_bytes(self) -> float:
        return self.added_bytes / self.count


@dataclass(frozen=True)
class Cancelled:
    """From a client's leaving to the upstream's seeing its connection closed."""

    contender: str
    streaming: bool
    delays_ms: list[float]

    @property
    def median_ms(self) -> float:
        return median(self.delays_ms)


async def streams(ring: Ring, count: int) -> AsyncIterator[Memory]:
    """Memory of streams that are open and have had their first chunk."""
    for name in (BARE, NGINX, GATE):
        if ring.has(name):
            async with ring.enter(name) as contender:
                yield await _streams(contender, count)


async def _streams(contender: Contender, count: int) -> Memory:
    process = await _warm(contender)
    before_bytes = process.rss_bytes()
    async with connections(contender.port, count) as opened:
        firsts = [asyncio.Event() for _ in opened]
        began = time.monotonic()
        for connection, first in zip(opened, firsts, strict=True):
            connection.send(_held(first=1)[1], _setter(first))
        await asyncio.gather(*(first.wait() for first in firsts))
        quiet_at = await _quiet(process)
        added_bytes = process.rss_bytes() - before_bytes
    return Memory(contender.name, count, added_bytes, quiet_at - began)


async def waiting(ring: Ring, count: int) -> AsyncIterator[Memory]:
    """Memory of requests with 1 KB bodies: in a bare aiohttp server, and in the gate's queue."""
    async with _holding_server(ring) as contender:
        yield await _waiting(contender, count)
    async with ring.enter(GATE, num_parallel=1) as contender:
        await _warm(contender)
        first, request = _held(first=0)
        async with connections(contender.port) as (running,):
            running.send(request)
            await _noted(ring, first, "seen_ns")
            yield await _waiting(contender, count)


@asynccontextmanager
async def _holding_server(ring: Ring) -> AsyncIterator[Contender]:
    port = free_port()
    argv = [sys.executable, "-m", "bench.rig.passthrough", str(port), "hold"]
    with child(f"hold-{port}", argv, ring.directory) as process:
        await _until_open(port)
        contender = Contender(BARE, port, process)
        # Warm, as far as one can be that never answers.
        await _waiting(contender, 10)
        yield contender


async def _waiting(contender: Contender, count: int) -> Memory:
    process = contender.process
    assert process is not None
    await _quiet(process)
    before_bytes = process.rss_bytes()
    request = chat(Mode.SMALL, question("x" * 1024))
    async with connections(contender.port, count) as opened:
        began = time.monotonic()
        for connection in opened:
            connection.send(request)
        quiet_at = await _quiet(process)
        added_bytes = process.rss_bytes() - before_bytes
        if contender.name == GATE:
            await _all_in_line(contender, count)
    return Memory(contender.name, count, added_bytes, quiet_at - began)


async def _all_in_line(gate: Contender, count: int) -> None:
    """See that they were where they were to be, once the memory has been read."""
    status: dict[str, Any] = json.loads(await fetch(gate.port, get("/gate/status")))
    if status["queue"]["waiting"] != count:
        raise ExchangeError(f"{status['queue']} instead of {count} waiting")


async def cancelled(ring: Ring, times: int) -> AsyncIterator[Cancelled]:
    """How soon the upstream's connection is closed, streaming and not."""
    for name in (STRAIGHT, BARE, NGINX, GATE):
        if ring.has(name):
            async with ring.enter(name) as contender:
                for first in (1, 0):
                    delays_ms = [await _cancel(ring, contender, first) for _ in range(times)]
                    yield Cancelled(name, bool(first), delays_ms)


async def _cancel(ring: Ring, contender: Contender, first: int) -> float:
    request_id, request = _held(first=first)
    connection = await connect(contender.port)
    came = asyncio.Event()
    connection.send(request, _setter(came))
    if first:
        await came.wait()
    await _noted(ring, request_id, "seen_ns")
    left_ns = time.monotonic_ns()
    connection.close()
    return (await _noted(ring, request_id, "closed_ns") - left_ns) / 1e6


def _held(*, first: int) -> tuple[str, bytes]:
    request_id = str(next(_ids))
    return request_id, chat(Mode.HOLD, id=request_id, first=first)


def _setter(event: asyncio.Event) -> Any:
    return lambda _: event.set()


async def _noted(ring: Ring, request_id: str, what: str) -> int:
    """The instant that the upstream noted of a held request; waits until it has."""
    async with asyncio.timeout(NOTED_WITHIN_S):
        while True:
            note = json.loads(await fetch(ring.upstream, get(f"/bench/note?id={request_id}")))
            if what in note:
                return int(note[what])
            await asyncio.sleep(0.005)


async def _warm(contender: Contender) -> Process:
    assert contender.process is not None
    async with connections(contender.port) as (connection,):
        for _ in range(WARM):
            await connection.exchange(chat(Mode.SMALL))
    await _quiet(contender.process)
    return contender.process


async def _until_open(port: int) -> None:
    async with asyncio.timeout(SETTLES_WITHIN_S):
        while True:
            try:
                connection = await connect(port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                connection.close()
                return


async def _quiet(process: Process) -> float:
    """Wait until a process has nothing to do any more: then it has taken in what was sent.

    Returns:
        The instant, of the monotonic clock, since when it is quiet.

    Raises:
        ExchangeError: it is not within the time it has.
    """
    give_up_at = time.monotonic() + SETTLES_WITHIN_S
    cpu_s = process.cpu_s()
    while (since := time.monotonic()) < give_up_at:
        await asyncio.sleep(QUIET_S)
        before_s, cpu_s = cpu_s, process.cpu_s()
        if cpu_s - before_s < QUIET_CPU_S:
            return since
    raise ExchangeError(f"{process.name} was still busy after {SETTLES_WITHIN_S:.0f} s")
