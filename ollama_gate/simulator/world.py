"""Everything one simulated Ollama is made of, and what each of its routes may use."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_gate.simulator.catalog import Catalog, Model
from ollama_gate.simulator.clock import NS, Clock
from ollama_gate.simulator.context import RequestContext
from ollama_gate.simulator.faults import Counters, Faults
from ollama_gate.simulator.scheduler import Scheduler
from ollama_gate.simulator.settings import Settings


@dataclass(slots=True, kw_only=True)
class World:
    """One machine with one Ollama on it.

    Attributes:
        started_ns: wall time when the models were put on disk, which lists show as `modified_at`.
    """

    settings: Settings
    clock: Clock
    catalog: Catalog
    scheduler: Scheduler
    faults: Faults
    counters: Counters
    started_ns: int


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its route sees it."""

    world: World
    context: RequestContext
    body: bytes
    headers: Mapping[str, str]
    query: str = ""


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
