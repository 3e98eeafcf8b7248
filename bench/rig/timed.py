"""Latency, throughput and processor time: the contenders in turn, round after round."""

import asyncio
import gc
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from bench.rig.client import Connection, connections, time_exchanges
from bench.rig.contenders import EVERYBODY, Contender, Ring, chat, entered, question
from bench.rig.upstream import ANSWER_BYTES, CHUNKS, Mode

PACE_MS: Final = 2
PACED_AT_ONCE: Final = 8
WARM_S: Final = 0.1

_WRITTEN_AT: Final = re.compile(rb'"t":([0-9]+)}\n')


@dataclass(frozen=True)
class Scenario:
    """One kind of traffic.

    Attributes:
        title: for the table.
        request: what every connection sends, again and again.
        at_once: how many connections there are.
        slice_s: how long a contender is busy in each round.
        chunks: the answer's lines tell when they were written, and their delay is measured.
    """

    title: str
    request: bytes
    at_once: int
    slice_s: float
    chunks: bool = False


@dataclass
class Slice:
    """What one contender did in one round."""

    seconds: float
    cpu_s: float
    latencies_ns: list[int]
    delays_ns: list[int]


@dataclass
class Outcome:
    """A scenario's slices by contender, round after round."""

    scenario: Scenario
    slices: dict[str, list[Slice]] = field(default_factory=dict)


def small() -> Sequence[Scenario]:
    """Small requests, alone and many at once."""
    request = chat(Mode.SMALL)
    return (
        Scenario("small request, 1 at once", request, 1, 0.3),
        Scenario("small request, 64 at once", request, 64, 0.8),
    )


def streams() -> Sequence[Scenario]:
    """Streams of small chunks: as fast as can be, and at a pace at which each is seen alone."""
    fast = chat(Mode.STREAM, pace_ms=0)
    paced = chat(Mode.STREAM, pace_ms=PACE_MS)
    return (
        Scenario(f"stream of {CHUNKS} chunks, 1 at once", fast, 1, 0.3),
        Scenario(f"stream paced at {PACE_MS} ms, 1 at once", paced, 1, 0.5, chunks=True),
        Scenario(
            f"stream paced at {PACE_MS} ms, {PACED_AT_ONCE} at once",
            paced,
            PACED_AT_ONCE,
            0.5,
            chunks=True,
        ),
    )


def bodies() -> Sequence[Scenario]:
    """A megabyte one way or the other."""
    large = chat(Mode.SMALL, question("What is this?", "A" * ANSWER_BYTES))
    return (
        Scenario("request of 1 MB, 1 at once", large, 1, 0.4),
        Scenario("answer of 1 MB, 1 at once", chat(Mode.LARGE), 1, 0.4),
    )


async def measure(
    ring: Ring, scenarios: Sequence[Scenario], rounds: int, pace: float
) -> list[Outcome]:
    """Measure each scenario.

    Args:
        ring: the upstream, and who may stand before it.
        scenarios: what to measure.
        rounds: how often each contender has its turn.
        pace: what to multiply the length of a turn with.
    """
    async with entered(ring, EVERYBODY) as contenders:
        return [await _measure(contenders, each, rounds, pace) for each in scenarios]


async def _measure(
    contenders: Sequence[Contender], scenario: Scenario, rounds: int, pace: float
) -> Outcome:
    outcome = Outcome(scenario, {contender.name: [] for contender in contenders})
    async with AsyncExitStack() as stack:
        open_to = {
            each.name: await stack.enter_async_context(connections(each.port, scenario.at_once))
            for each in contenders
        }
        for contender in contenders:
            await _slice(contender, open_to[contender.name], scenario, WARM_S)
        for number in range(rounds):
            # Nobody always comes after the same one.
            start = number % len(contenders)
            for contender in (*contenders[start:], *contenders[:start]):
                done = await _slice(
                    contender, open_to[contender.name], scenario, scenario.slice_s * pace
                )
                outcome.slices[contender.name].append(done)
    return outcome


async def _slice(
    contender: Contender, opened: Sequence[Connection], scenario: Scenario, seconds: float
) -> Slice:
    latencies_ns: list[int] = []
    delays_ns: list[int] = []

    def came(part: bytes) -> None:
        now_ns = time.monotonic_ns()
        # A line that came in two halves is one sample less, of hundreds.
        delays_ns.extend(now_ns - int(written) for written in _WRITTEN_AT.findall(part))

    process = contender.process
    on_body = {"on_body": came} if scenario.chunks else {}
    gc.collect()
    cpu_s = process.cpu_s() if process else 0.0
    began_ns = time.monotonic_ns()
    until_ns = began_ns + int(seconds * 1e9)
    await asyncio.gather(
        *(
            time_exchanges(each, scenario.request, until_ns, latencies_ns, **on_body)
            for each in opened
        )
    )
    return Slice(
        seconds=(time.monotonic_ns() - began_ns) / 1e9,
        cpu_s=process.cpu_s() - cpu_s if process else 0.0,
        latencies_ns=latencies_ns,
        delays_ns=delays_ns,
    )
