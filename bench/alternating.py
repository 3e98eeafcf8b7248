"""Loads and time for requests that alternate between two models which exclude each other.

Usage: python bench/alternating.py [REQUESTS]

All requests are sent at once to a simulated Ollama with one 24 GiB card, once straight and once
through the gate; times are simulated seconds. Prints a Markdown table. The ratio is what counts:
both runs share the machine and the simulated world.
"""

import asyncio
import sys

from ollama_gate import log
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.simulator.demo import SETTINGS, Job, Tally, open_site, send

MODELS = ("qwen2.5:32b", "gemma3:27b")


def alternating(count: int) -> list[Job]:
    return [
        Job(at_s=0.0, model=MODELS[i % len(MODELS)], priority="normal", tokens=40)
        for i in range(count)
    ]


async def measure(count: int) -> tuple[Tally, Tally]:
    jobs = alternating(count)
    async with SimulatedOllama(SETTINGS) as simulated:
        straight = await send(jobs, simulated.url, simulated, lambda: None)
    async with SimulatedOllama(SETTINGS) as simulated, open_site(simulated) as site:
        gated = await send(jobs, site.url, simulated, lambda: None)
    return straight, gated


def main() -> None:
    log.configure("error", "text")
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    straight, gated = asyncio.run(measure(count))
    print(f"{count} requests, alternating between {MODELS[0]} and {MODELS[1]}, all at once\n")
    print("| | straight | gate | gate ÷ straight |")
    print("|---|---:|---:|---:|")
    for title, one, other in (
        ("finished", straight.finished, gated.finished),
        ("loads", straight.loads, gated.loads),
        ("loads partly on the CPU", straight.offloaded, gated.offloaded),
        ("time to finish, s", straight.makespan_s, gated.makespan_s),
    ):
        ratio = f"{other / one:.2f}" if one else "-"
        print(f"| {title} | {one:.0f} | {other:.0f} | {ratio} |")


if __name__ == "__main__":
    main()
