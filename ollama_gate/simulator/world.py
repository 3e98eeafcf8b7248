"""Everything one simulated Ollama is made of, and what each of its routes may use."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_gate.simulator.catalog import Catalog, Model
from ollama_gate.simulator.clock import NS, Clock
from ollama_gate.simulator.context import RequestContext
from ollama_gate.simulator.faults import Counters, Faults
from ollama_gate.simulator.layers import Blobs
from ollama_gate.simulator.refs import Name
from ollama_gate.simulator.scheduler import Scheduler
from ollama_gate.simulator.settings import Settings


@dataclass(slots=True, kw_only=True)
class World:
    """One machine with one Ollama on it.

    Attributes:
        started_ns: wall time when the first models were put on disk.
        registry: what can be pulled.
        blobs: what was uploaded.
    """

    settings: Settings
    clock: Clock
    catalog: Catalog
    scheduler: Scheduler
    faults: Faults
    counters: Counters
    started_ns: int
    registry: Mapping[Name, Model] = field(default_factory=dict)
    blobs: Blobs = field(default_factory=Blobs)

    def modified_ns(self, model: Model) -> int:
        """Wall time that lists show as a model's `modified_at`."""
        written_ns = self.catalog.written_ns(model)
        return self.started_ns if written_ns is None else written_ns


async def _nothing() -> AsyncGenerator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for block in nothing:
        yield block


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its route sees it.

    Attributes:
        parameter: what stands where the route's path has a `:name`.
        query: what followed the `?`.
        blocks: the body, piece by piece, for a route that reads it by itself.
    """

    world: World
    context: RequestContext
    body: bytes
    headers: Mapping[str, str]
    query: str = ""
    parameter: str = ""
    blocks: Callable[[], AsyncGenerator[bytes]] = _nothing


def find_model(world: World, name: Any, *, fold: bool = True) -> Model | None:
    """The model on disk of that name, in any case unless `fold` is off."""
    return world.catalog.find(world.catalog.existing(name) if fold else name)


def timestamp(wall_ns: int | None = None) -> str:
    """A wall time as Go writes it, UTC, nanoseconds without trailing zeros; default is now."""
    moment_ns = time.time_ns() if wall_ns is None else wall_ns
    seconds, fraction = divmod(moment_ns, NS)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{whole}{digits}Z"
