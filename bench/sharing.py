"""A batch beside a chat, over sockets: what it costs each, straight to Ollama and through the gate.

Usage: python bench/sharing.py [SEED]

100 requests of low priority, at once, for two models of which a 24 GiB card holds one, and 15 of
high priority for a third that arrive one after another meanwhile; the third is once a model that
excludes both as well, and once a small one. Everything runs against a simulated Ollama; times are
simulated seconds. Prints Markdown tables. The ratios are what counts: both runs of a table get the
same requests and share the machine and the simulated world.
"""

import asyncio
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

from ollama_gate import log
from ollama_gate.simulator import Settings, SimulatedOllama
from ollama_gate.simulator.demo import SETTINGS, Job, Tally, open_site, send

BATCH, CHAT = 100, 15
EXCLUSIVE = ("qwen2.5:32b", "gemma3:27b")
THIRDS = ("qwen3:30b-a3b", "llama3.2:1b")
CHAT_EVERY_S = 10.0
WORLD = replace(SETTINGS, speed=20.0)


def mixed(third: str, *, seed: int) -> list[Job]:
    """A batch for two models, all of it at once, and a chat with a third."""
    chance = random.Random(seed)
    batch = [
        Job(at_s=0.0, model=chance.choice(EXCLUSIVE), priority="low", tokens=chance.randint(20, 80))
        for _ in range(BATCH)
    ]
    chat = [
        Job(
            at_s=CHAT_EVERY_S * (index + chance.random()),
            model=third,
            priority="high",
            tokens=chance.randint(20, 80),
        )
        for index in range(CHAT)
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


async def report(seed: int) -> None:
    for third in THIRDS:
        print(f"\n{BATCH} low on {' and '.join(EXCLUSIVE)}, {CHAT} high on {third}, seed {seed}\n")
        table(*await measure(mixed(third, seed=seed)))


def main() -> None:
    log.configure("error", "text")
    asyncio.run(report(int(sys.argv[1]) if len(sys.argv) > 1 else 7))


if __name__ == "__main__":
    main()
