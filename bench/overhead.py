"""What the gate costs, next to nobody, a bare aiohttp pass-through and nginx in its place.

Usage: python bench/overhead.py [--quick] [--only SECTION]... [--gate-command COMMAND]

Everybody stands before the same fast upstream (no Ollama and no model needed) on real loopback
sockets, in a process of its own, and has its turn in every round, so that a shared machine's noise
hits all alike. Prints Markdown: figures are medians over the rounds with the smallest and the
largest, and each goal with whether it is met. About four minutes; with --quick less than one.
"""

import argparse
import asyncio
import gc
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.rig import held, timed
from bench.rig.client import ExchangeError, fetch, get
from bench.rig.contenders import NGINX, Ring
from bench.rig.processes import child, free_port, raise_file_limit, run
from bench.rig.report import Report

SCENARIOS: Final = {
    "small": timed.small(),
    "streams": timed.streams(),
    "bodies": timed.bodies(),
}
SECTIONS: Final = (*SCENARIOS, "memory", "waiting", "cancel")
ENDS_WITHIN_S: Final = 540.0
UPSTREAM_WITHIN_S: Final = 10.0
SPARE_FILES: Final = 500


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="may be repeated")
    parser.add_argument(
        "--gate-command",
        default=f"{shlex.quote(sys.executable)} -m ollama_gate",
        help="the build to measure; `serve -c FILE` is appended",
    )
    return parser.parse_args()


async def measure(given: argparse.Namespace, directory: Path, files: int) -> Report:
    """Run the sections that were asked for before one upstream.

    A section that fails, or that there was no time for, is a note in the report.
    """
    report = Report()
    port = free_port()
    argv = [sys.executable, "-m", "bench.rig.upstream", str(port)]
    with child("upstream", argv, directory):
        await _until_up(port)
        ring = Ring(port, directory, given.gate_command)
        if not ring.has(NGINX):
            report.notes.append("nginx is not installed here: its column is empty.")
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await _sections(ring, given, report, files - SPARE_FILES)
        except TimeoutError:
            report.notes.append(f"**Cut off after {ENDS_WITHIN_S:.0f} s.**")
    return report


async def _sections(ring: Ring, given: argparse.Namespace, report: Report, room: int) -> None:
    for section in given.only or SECTIONS:
        began = time.monotonic()
        try:
            await _section(section, ring, report, quick=given.quick, room=room)
        except (ExchangeError, TimeoutError) as error:
            report.notes.append(f"**{section} failed:** {str(error) or 'it took too long'}")
        print(f"{section}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


async def _section(section: str, ring: Ring, report: Report, *, quick: bool, room: int) -> None:
    match section:
        case "memory":
            # The contender has two connections for each stream.
            async for one in held.streams(ring, min(500 if quick else 2_000, room // 2)):
                report.streams.append(one)
        case "waiting":
            async for one in held.waiting(ring, min(1_000 if quick else 10_000, room)):
                report.waiting.append(one)
        case "cancel":
            async for gone in held.cancelled(ring, 10 if quick else 30):
                report.cancelled.append(gone)
        case _:
            rounds, pace = (4, 0.35) if quick else (11, 1.0)
            report.timed += await timed.measure(ring, SCENARIOS[section], rounds, pace)


async def _until_up(port: int) -> None:
    async with asyncio.timeout(UPSTREAM_WITHIN_S):
        while True:
            try:
                await fetch(port, get("/api/version"))
            except OSError:
                await asyncio.sleep(0.02)
            else:
                return


async def _main(given: argparse.Namespace) -> None:
    files = raise_file_limit()
    # What is there by now stays; a collection would be the load generator's pause, not theirs.
    gc.freeze()
    gc.disable()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="overhead-") as directory:
        report = await measure(given, Path(directory), files)
    parts = ("aiohttp", "uvloop", "ollama-gate")
    print(
        f"Python {platform.python_version()},",
        ", ".join(f"{name} {version(name)}" for name in parts) + f"; {os.cpu_count()} cores,",
        f"load {os.getloadavg()[0]:.1f}; {time.monotonic() - began:.0f} s.",
        "Medians over rounds (or cancellations) with the least and the most; CPU of all rounds.\n",
    )
    print("\n".join(report.lines()))


if __name__ == "__main__":
    # So that children are ended when this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run(_main(arguments()))
