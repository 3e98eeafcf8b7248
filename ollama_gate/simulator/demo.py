"""The main job, shown: one burst of requests, straight to a simulated Ollama and through the gate.

Both runs get the same requests at the same instants and a fresh simulated Ollama with the same
settings. Nothing of the user's is touched: no Ollama, no configuration, no state.
"""

import asyncio
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import aiohttp
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ollama_gate.config import Config, Listen, SchedulerConfig
from ollama_gate.errors import CardError
from ollama_gate.gpu import BUSY_S, Reading
from ollama_gate.simulator.server import SimulatedOllama
from ollama_gate.simulator.settings import Settings
from ollama_gate.site import Site

REQUESTS: Final = 60
SPREAD_S: Final = 20.0
"""Simulated seconds within which all of them arrive."""

SPEED: Final = 20.0
"""Simulated seconds a wall second."""

SETTINGS: Final = Settings(cards=(24 * 2**30,), context_length=4096, num_parallel=2, speed=SPEED)

CHAT_MODELS: Final = ("llama3.1:8b", "qwen2.5:14b", "gemma3:12b", "qwen2.5:32b", "mistral:7b")
EMBEDDING_MODEL: Final = "nomic-embed-text"

CLASSES: Final = ("high", "normal", "low")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request of the burst; times are simulated seconds from its start."""

    at_s: float
    model: str
    priority: str
    tokens: int

    @property
    def path(self) -> str:
        """Where it is sent."""
        return "/api/embed" if self.model == EMBEDDING_MODEL else "/api/generate"

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        if self.model == EMBEDDING_MODEL:
            return {"model": self.model, "input": "to be or not to be"}
        options = {"num_predict": self.tokens}
        return {"model": self.model, "prompt": "Tell me of the sea.", "options": options}


@dataclass(slots=True)
class Tally:
    """What one run came to; times are simulated seconds."""

    finished: int = 0
    failed: int = 0
    makespan_s: float = 0.0
    loads: int = 0
    unloads: int = 0
    offloaded: int = 0
    waits_s: dict[str, list[float]] = field(default_factory=lambda: {c: [] for c in CLASSES})


class SimulatedCard:
    """Reads a simulated card as NVML would read a real one. Fits `gpu.Card`."""

    source = "simulated"
    count = 1

    def __init__(self, ollama: SimulatedOllama) -> None:
        self._ollama = ollama

    def read(self) -> Reading:
        """What is used, by whomever.

        Raises:
            CardError: while the card is lost.
        """
        if self._ollama.card(0).is_lost:
            raise CardError("the simulated card is lost")
        total_bytes, used_bytes = self._ollama.card(0).reading()
        return Reading(
            total_bytes=total_bytes,
            used_bytes=used_bytes,
            source=self.source,
            device=f"card 0 of {self._ollama.url}",
            taken_at=monotonic(),
        )


def burst(count: int = REQUESTS, *, seed: int = 7) -> list[Job]:
    """The requests: a few chats of high priority, agents, and a batch of low priority."""
    chance = random.Random(seed)
    jobs = []
    for _ in range(count):
        priority = chance.choices(CLASSES, weights=(2, 4, 4))[0]
        model = chance.choice((*CHAT_MODELS, EMBEDDING_MODEL))
        at_s, tokens = chance.uniform(0, SPREAD_S), chance.randint(40, 160)
        jobs.append(Job(at_s=at_s, model=model, priority=priority, tokens=tokens))
    return sorted(jobs, key=lambda job: job.at_s)


def gate_config(upstream_url: str, settings: Settings) -> Config:
    """A gate in front of a simulated Ollama: defaults, its times as fast as that world."""
    default = Config()
    return structs.replace(
        default,
        listen=Listen(host="127.0.0.1", port=0),
        # What it says of files is made up.
        prewarm="off",
        upstreams=(
            structs.replace(
                default.upstream,
                name="simulated",
                url=upstream_url,
                num_parallel=settings.num_parallel,
                max_loaded=settings.max_loaded,
                context_length=settings.context_length,
            ),
        ),
        scheduler=_faster(default.scheduler, settings.speed),
    )


def _faster(scheduler: SchedulerConfig, speed: float) -> SchedulerConfig:
    """With every time that is configured or guessed in wall seconds of such a world."""

    def shorter(seconds: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(each / speed for each in seconds)

    return structs.replace(
        scheduler,
        tau_s=shorter(scheduler.tau_s),
        tau_cap_s=shorter(scheduler.tau_cap_s),
        half_life_s=scheduler.half_life_s / speed,
        first_service_s=scheduler.first_service_s / speed,
        first_load_s=scheduler.first_load_s / speed,
        first_load_bytes_per_s=scheduler.first_load_bytes_per_s * speed,
        first_unload_s=scheduler.first_unload_s / speed,
        oom_backoff_s=shorter(scheduler.oom_backoff_s),
    )


async def run_demo(console: Console, stop: asyncio.Event, *, keep: bool) -> None:
    """Run both and print the table; with `keep`, stay up until `stop` is set."""
    jobs = burst()
    console.print(
        f"{len(jobs)} requests for {len(CHAT_MODELS) + 1} models that do not fit together into "
        f"24 GiB, {SETTINGS.num_parallel} at once on each; simulated, {SPEED:.0f}x faster.\n"
    )
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        straight = await _straight(jobs, _bar(progress, "straight to Ollama", len(jobs)))
        bar = _bar(progress, "through the gate", len(jobs))
        async with SimulatedOllama(SETTINGS) as simulated, open_site(simulated) as site:
            gated = await send(jobs, site.url, simulated, bar)
            progress.stop()
            console.print(_table(straight, gated))
            if keep:
                _invite(console, site.url)
                await stop.wait()


def config_before(*simulated: SimulatedOllama) -> Config:
    """A gate before one of them or several; they are called `simulated`, `second`, `third`."""
    first, *others = (gate_config(each.url, each.settings) for each in simulated)
    names = ("second", "third")[: len(others)]
    further = (
        structs.replace(other.upstream, name=name)
        for name, other in zip(names, others, strict=True)
    )
    return structs.replace(first, upstreams=(first.upstream, *further))


def open_site(*simulated: SimulatedOllama) -> Site:
    """A gate before one simulated Ollama or several, to be used with `async with`."""
    return Site(
        config_before(*simulated),
        card=tuple(SimulatedCard(each) for each in simulated),
        busy_poll_s=BUSY_S / simulated[0].settings.speed,
        temporary=True,
    )


def _bar(progress: Progress, title: str, total: int) -> Callable[[], None]:
    task = progress.add_task(title, total=total)
    return lambda: progress.advance(task)


async def _straight(jobs: Sequence[Job], done: Callable[[], None]) -> Tally:
    async with SimulatedOllama(SETTINGS) as simulated:
        return await send(jobs, simulated.url, simulated, done)


async def send(
    jobs: Sequence[Job], url: str, simulated: SimulatedOllama, done: Callable[[], None]
) -> Tally:
    """Send every request at its time; read every answer to its end."""
    tally, speed = Tally(), simulated.settings.speed
    began = monotonic()
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session:

        async def one(job: Job) -> None:
            await asyncio.sleep(max(0.0, job.at_s / speed - (monotonic() - began)))
            await _request(session, job, tally, speed)
            done()

        await asyncio.gather(*(one(job) for job in jobs))
    tally.makespan_s = (monotonic() - began) * speed
    counters = simulated.counters
    tally.loads, tally.unloads = counters.loads, counters.unloads
    tally.offloaded = counters.offloaded_loads
    return tally


async def _request(session: aiohttp.ClientSession, job: Job, tally: Tally, speed: float) -> None:
    sent = monotonic()
    headers = {"X-Priority": job.priority}
    try:
        async with session.post(job.path, json=job.body, headers=headers) as response:
            await response.content.readany()
            wait_s = (monotonic() - sent) * speed
            await response.read()
            response.raise_for_status()
    except aiohttp.ClientError:
        tally.failed += 1
    else:
        tally.finished += 1
        tally.waits_s[job.priority].append(wait_s)


def _table(straight: Tally, gated: Tally) -> Table:
    table = Table("", "straight to Ollama", "through the gate", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for title, one, other in (
        ("finished", straight.finished, gated.finished),
        ("failed", straight.failed, gated.failed),
        ("loads (swaps)", straight.loads, gated.loads),
        ("loads partly on the CPU", straight.offloaded, gated.offloaded),
    ):
        table.add_row(title, str(one), str(other))
    table.add_row("time to finish", f"{straight.makespan_s:.0f} s", f"{gated.makespan_s:.0f} s")
    for name in CLASSES:
        table.add_row(f"wait, {name}: mean / longest", _waits(straight, name), _waits(gated, name))
    return table


def _waits(tally: Tally, name: str) -> str:
    waits_s = tally.waits_s[name]
    return f"{statistics.fmean(waits_s):.0f} / {max(waits_s):.0f} s" if waits_s else "-"


def _invite(console: Console, url: str) -> None:
    prompt = f"""'{{"model": "{CHAT_MODELS[0]}", "prompt": "Hello"}}'"""
    lines = (
        f"curl {url}/gate/status",
        f"curl {url}/api/generate -H 'X-Priority: high' -d {prompt}",
        f"curl {url}/api/ps",
        f"OLLAMA_HOST={url} ollama list",
    )
    console.print("\nStill up; end it with Ctrl-C. Try:\n")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
