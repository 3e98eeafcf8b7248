"""Several kinds of work on one machine or two, over sockets, without the gate and with it.

Usage: python bench/sharing.py [SEED]

First, a batch beside a chat: 100 requests of low priority, at once, for two models of which a
24 GiB card holds one, and 15 of high priority for a third that arrive one after another meanwhile;
the third is once a model that excludes both as well, and once a small one. Then, two Ollamas with
a card each and 13 models that both have: without the gate each request goes to one or the other by
chance; in a further run the second one dies after a few answers. Everything runs against simulated
Ollamas; times are simulated seconds. Prints Markdown tables. The ratios are what counts: the runs
of a table get the same requests and share the machine and the simulated world.
"""

import asyncio
import logging
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

import aiohttp

from ollama_gate import log
from ollama_gate.simulator import Settings, SimulatedOllama
from ollama_gate.simulator.demo import SETTINGS, Job, Tally, open_site, send

BATCH, CHAT = 100, 15
EXCLUSIVE = ("qwen2.5:32b", "gemma3:27b")
THIRDS = ("qwen3:30b-a3b", "qwen2.5:0.5b")
CHAT_EVERY_S = 10.0
WORLD = replace(SETTINGS, speed=20.0)

THIRTEEN = (
    "llama3.2:1b",
    "gemma:2b",
    "phi3:mini",
    "mistral:7b",
    "qwen2.5:7b",
    "llama3.1:8b",
    "qwen3:8b",
    "gemma2:9b",
    "gemma3:12b",
    "qwen2.5:14b",
    "gpt-oss:20b",
    "gemma3:27b",
    "qwen2.5:32b",
)
EACH, SPREAD_S = 8, 60.0
DIES_AFTER = 15


def mixed(third: str, *, seed: int, low: int = BATCH, high: int = CHAT) -> list[Job]:
    """A batch for two models, all of it at once, and a chat with a third."""
    chance = random.Random(seed)
    batch = [
        Job(at_s=0.0, model=chance.choice(EXCLUSIVE), priority="low", tokens=chance.randint(20, 80))
        for _ in range(low)
    ]
    chat = [
        Job(
            at_s=CHAT_EVERY_S * (index + chance.random()),
            model=third,
            priority="high",
            tokens=chance.randint(20, 80),
        )
        for index in range(high)
    ]
    return [*batch, *chat]


def p95(waits_s: list[float]) -> float:
    """The 95th percentile, between the two values that are next to it."""
    return statistics.quantiles(waits_s, n=20, method="inclusive")[-1]


async def measure(jobs: list[Job], world: Settings = WORLD) -> tuple[Tally, Tally]:
    """Both ways, one after the other, each with a fresh Ollama."""
    async with SimulatedOllama(world) as simulated:
        straight = await send(jobs, simulated.url, simulated, lambda: None)
    async with SimulatedOllama(world) as simulated, open_site(simulated) as site:
        gated = await send(jobs, site.url, simulated, lambda: None)
    return straight, gated


ROWS: tuple[tuple[str, Callable[[Tally], float]], ...] = (
    ("finished", lambda tally: tally.finished),
    ("loads", lambda tally: tally.loads),
    ("loads partly on the CPU", lambda tally: tally.offloaded),
    ("time to finish, s", lambda tally: tally.makespan_s),
    ("wait of high, mean, s", lambda tally: statistics.fmean(tally.waits_s["high"])),
    ("wait of high, p95, s", lambda tally: p95(tally.waits_s["high"])),
    ("wait of low, mean, s", lambda tally: statistics.fmean(tally.waits_s["low"])),
    ("wait of low, longest, s", lambda tally: max(tally.waits_s["low"])),
)


def table(straight: Tally, gated: Tally) -> None:
    print("| | straight | gate | gate ÷ straight |")
    print("|---|---:|---:|---:|")
    for title, value in ROWS:
        one, other = value(straight), value(gated)
        print(f"| {title} | {one:.0f} | {other:.0f} | {f'{other / one:.3f}' if one else '-'} |")


# -------------------------------------------------------------------- two machines, 13 models


@dataclass
class Spread:
    """What became of requests for two machines; times are simulated seconds.

    Attributes:
        cut: answers that broke off.
        lost: requests that ended badly without a byte of an answer.
        served: whole answers, by machine.
        loads: by machine.
    """

    cut: int = 0
    lost: int = 0
    waits_s: list[float] = field(default_factory=list)
    makespan_s: float = 0.0
    served: tuple[int, ...] = ()
    loads: tuple[int, ...] = ()

    @property
    def finished(self) -> int:
        return len(self.waits_s)


def many(*, seed: int, each: int = EACH) -> list[Job]:
    """As many requests for each of 13 models, in any order."""
    chance = random.Random(seed)
    return [
        Job(
            at_s=chance.uniform(0, SPREAD_S),
            model=model,
            priority="normal",
            tokens=chance.randint(20, 80),
        )
        for model in THIRTEEN
        for _ in range(each)
    ]


async def ask(session: aiohttp.ClientSession, url: str, job: Job, tally: Spread) -> None:
    """One request, read to its end or as far as it comes."""
    sent, first_at = monotonic(), None
    try:
        async with session.post(url + job.path, json=job.body) as response:
            response.raise_for_status()
            async for _ in response.content.iter_any():
                first_at = first_at or monotonic()
    except aiohttp.ClientError:
        if first_at is None:
            tally.lost += 1
        else:
            tally.cut += 1
    else:
        assert first_at is not None, "an answer that ends well has a first byte"
        tally.waits_s.append(first_at - sent)


async def play(
    jobs: list[Job], urls: list[str], pair: list[SimulatedOllama], dies_after: int | None
) -> Spread:
    """Send each job at its time to the URL in its place; the second machine may die."""
    tally, speed = Spread(), pair[0].settings.speed
    began = monotonic()
    timeout, connector = aiohttp.ClientTimeout(total=None), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:

        async def one(job: Job, url: str) -> None:
            await asyncio.sleep(job.at_s / speed)
            await ask(session, url, job, tally)

        death = asyncio.create_task(_die(pair[1], dies_after))
        await asyncio.gather(*map(one, jobs, urls))
        death.cancel()
    tally.makespan_s = (monotonic() - began) * speed
    tally.waits_s = [wait_s * speed for wait_s in tally.waits_s]
    tally.served = tuple(each.counters.served for each in pair)
    tally.loads = tuple(each.counters.loads for each in pair)
    return tally


async def _die(machine: SimulatedOllama, after: int | None) -> None:
    """Let a machine die after so many answers, in the midst of another."""
    if after is not None:
        while machine.counters.served < after or not machine.running():
            await machine.changed()
        await machine.go_down()


async def spread(
    jobs: list[Job], *, gate: bool, dies_after: int | None = None, world: Settings = WORLD
) -> Spread:
    """On two fresh machines, through the gate or to one of them by chance."""
    async with SimulatedOllama(world) as one, SimulatedOllama(world) as other:
        pair, chance = [one, other], random.Random(0)
        if not gate:
            urls = [chance.choice(pair).url for _ in jobs]
            return await play(jobs, urls, pair, dies_after)
        async with open_site(*pair) as site:
            return await play(jobs, [site.url] * len(jobs), pair, dies_after)


def spread_table(runs: list[tuple[str, Spread]]) -> None:
    print(f"| | {' | '.join(title for title, _ in runs)} |")
    print(f"|---|{'---:|' * len(runs)}")
    rows: tuple[tuple[str, Callable[[Spread], str]], ...] = (
        ("finished", lambda run: f"{run.finished}"),
        ("answers that broke off", lambda run: f"{run.cut}"),
        ("lost without a byte", lambda run: f"{run.lost}"),
        ("answers by the first, the second", lambda run: ", ".join(map(str, run.served))),
        ("loads by the first, the second", lambda run: ", ".join(map(str, run.loads))),
        ("time to finish, s", lambda run: f"{run.makespan_s:.0f}"),
        ("wait, mean, s", lambda run: f"{statistics.fmean(run.waits_s):.0f}"),
        ("wait, p95, s", lambda run: f"{p95(run.waits_s):.0f}"),
    )
    for title, value in rows:
        print(f"| {title} | {' | '.join(value(run) for _, run in runs)} |")


async def report(seed: int) -> None:
    for third in THIRDS:
        print(f"\n{BATCH} low on {' and '.join(EXCLUSIVE)}, {CHAT} high on {third}, seed {seed}\n")
        table(*await measure(mixed(third, seed=seed)))
    jobs = many(seed=seed)
    print(f"\n{len(jobs)} requests for {len(THIRTEEN)} models, two machines, seed {seed}\n")
    spread_table(
        [
            ("straight", await spread(jobs, gate=False)),
            ("gate", await spread(jobs, gate=True)),
            ("straight, one dies", await spread(jobs, gate=False, dies_after=DIES_AFTER)),
            ("gate, one dies", await spread(jobs, gate=True, dies_after=DIES_AFTER)),
        ]
    )


def main() -> None:
    log.configure("error", "text")
    # A machine that dies leaves its server in the midst of things.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    asyncio.run(report(int(sys.argv[1]) if len(sys.argv) > 1 else 7))


if __name__ == "__main__":
    main()
