"""How long a load takes from a cold disk, and after its file was read ahead.

Usage: python bench/prewarming.py [MIB] [URL MODEL]

Writes a file of so many MiB (1024) beside this one, and reads it as a load would, from the first
byte to the last: cold, prewarmed, and with the time that reading ahead itself took. With the
address of an Ollama on this machine and a model's name, that model is loaded by it as well, cold
and prewarmed; it is unloaded in between. Prints a Markdown table; the ratio is what counts. The
page cache is emptied of the file in question alone, which needs no privilege.
"""

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from ollama_gate import log
from ollama_gate.config import Config, UpstreamConfig
from ollama_gate.engine import Engine
from ollama_gate.footprint import Facts
from ollama_gate.ollama import Ollama
from ollama_gate.prewarm import Prewarmer, Reader
from ollama_gate.registry import Registry
from ollama_gate.scheduler.commands import Expired, Load, Unload
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey, RequestId

ROUNDS = 5
CHUNK_BYTES = 2**20
HERE = BinId("local/0")


@dataclass
class Timed:
    """Seconds, round by round."""

    cold: list[float] = field(default_factory=list)
    prewarm: list[float] = field(default_factory=list)
    prewarmed: list[float] = field(default_factory=list)

    def row(self, title: str) -> str:
        medians = [statistics.median(each) for each in (self.cold, self.prewarm, self.prewarmed)]
        figures = " | ".join(f"{each:.2f}" for each in medians)
        return f"| {title} | {figures} | {medians[2] / medians[0]:.2f} |"


def cool(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


async def timed(work: Awaitable[object]) -> float:
    began = monotonic()
    await work
    return monotonic() - began


async def measure(
    facts: Facts,
    load: Callable[[], Awaitable[object]],
    unload: Callable[[], Awaitable[object]],
    paths: list[Path],
) -> Timed:
    """Cold and prewarmed in turn, so that whatever else goes on meets both."""
    result = Timed()
    for _ in range(ROUNDS):
        for path in paths:
            cool(path)
        result.cold.append(await timed(load()))
        await unload()
        for path in paths:
            cool(path)
        prewarmer = Prewarmer(Reader(), upstream="local")
        result.prewarm.append(await timed(prewarmer.warm(facts)))
        assert prewarmer.status()["read"] == 1, prewarmer.status()
        result.prewarmed.append(await timed(load()))
        await unload()
    return result


async def of_a_file(mib: int) -> Timed:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as place:
        path = Path(place) / "blobs" / f"sha256-{'a' * 64}"
        path.parent.mkdir()
        with path.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(2**20))
        size_bytes = path.stat().st_size
        facts = Facts(
            key=ModelKey(path.name),
            name="file",
            size_bytes=size_bytes,
            files=(str(path),),
            disk_bytes=size_bytes,
        )
        return await measure(
            facts, lambda: asyncio.to_thread(read_through, path), lambda: asyncio.sleep(0), [path]
        )


async def of_a_model(url: str, name: str) -> Timed:
    ollama = Ollama(url)
    await ollama.open()
    upstream = UpstreamConfig(url=url)
    registry = Registry(
        ollama=ollama,
        config=Config(upstreams=(upstream,)),
        upstream=upstream,
        bins=(Bin(id=HERE, upstream="local"),),
    )
    engine = Engine(ollama, registry, keep_alive_s=1.0)
    try:
        facts = await registry.facts(name)
        assert facts is not None, f"{name} is not known there"
        load, unload = _orders(name, facts)
        await engine.unload(unload)
        return await measure(
            facts, lambda: engine.load(load), lambda: engine.unload(unload), _paths(facts)
        )
    finally:
        await registry.close()
        await ollama.close()


def _paths(facts: Facts) -> list[Path]:
    return [Path(name) for name in facts.files]


def _orders(name: str, facts: Facts) -> tuple[Load, Unload]:
    load = Load(
        bin=HERE,
        model=facts.key,
        name=name,
        launch=Launch(),
        footprint_bytes=0,
        free_bytes=None,
        alone=True,
        for_request=RequestId("bench"),
        waited_s=0.0,
    )
    reason = Expired(idle_s=0.0, keep_alive_s=0.0)
    return load, Unload(bin=HERE, model=facts.key, name=name, reason=reason)


async def report(mib: int, live: list[str]) -> None:
    print("| median seconds | cold | reading ahead | prewarmed | prewarmed ÷ cold |")
    print("|---|---:|---:|---:|---:|")
    print((await of_a_file(mib)).row(f"a file of {mib} MiB, read through"))
    if live:
        url, name = live
        print((await of_a_model(url, name)).row(f"{name}, loaded by Ollama"))


def main() -> None:
    log.configure("error", "text")
    mib, *live = sys.argv[1:] or ["1024"]
    asyncio.run(report(int(mib), live))


if __name__ == "__main__":
    main()
