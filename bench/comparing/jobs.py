"""The runs of a comparison: which there are, done in several processes, and remembered.

A run depends on nothing but its job and the code, so what was found once is looked up for as long
as neither has changed.
"""

import hashlib
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from ollama_gate.replay.contenders import SCHEDULINGS
from ollama_gate.replay.figures import Figures, figures
from ollama_gate.simulator.discrete.bound import lower_bound
from ollama_gate.simulator.discrete.optimum import optimum
from ollama_gate.simulator.discrete.workload import Workload
from ollama_gate.simulator.workloads import FAMILIES, SMALL

ROOT: Final = Path(__file__).parents[2]
REMEMBERED: Final = ROOT / "build" / "bench"
FLOOD_SEEDS: Final = 3
"""A flood lasts for more than an hour and differs little from another: so many seeds do."""

SMALL_SEEDS: Final = range(100, 130)
"""Of the workloads whose best schedule is known: they take no time, and differ much."""

WORKLOADS: Final = {**FAMILIES, **SMALL}

Parameters = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One policy as a table shows it.

    Attributes:
        name: its head.
        scheduling: whose name in `SCHEDULINGS`.
        parameters: of the gate's policy, where it is the gate.
    """

    name: str
    scheduling: str
    parameters: Parameters = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        looks_anew: whether Ollama looks at a card before each load instead of going by what was
            free at an earlier one, as v0.32.15 does.
    """

    column: Column
    family: str
    seed: int
    looks_anew: bool = False


Outcomes = Mapping[str, Mapping[str, Sequence[Figures]]]
"""By a column's name, then by family: one for each seed, in the same order for all columns."""


def jobs(
    columns: Sequence[Column],
    families: Sequence[str],
    seeds: Sequence[int],
    *,
    looks_anew: bool = False,
) -> list[Job]:
    """Every column in every family, the longest runs first so that no process is left over."""
    found = [
        Job(column=column, family=family, seed=seed, looks_anew=looks_anew)
        for family in families
        for seed in seeds_of(family, seeds)
        for column in columns
    ]
    return sorted(found, key=lambda job: not WORKLOADS[job.family].flood)


def seeds_of(family: str, seeds: Sequence[int]) -> Sequence[int]:
    """Those of a family, of all that were asked for."""
    if family in SMALL:
        return SMALL_SEEDS
    return seeds[:FLOOD_SEEDS] if WORKLOADS[family].flood else seeds


def perform(todo: Sequence[Job], processes: int, *, fresh: bool) -> Outcomes:
    """Do them all; the outcome does not depend on how many processes there are."""
    runs: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    with ProcessPoolExecutor(processes) as pool:
        for job, done in zip(todo, pool.map(partial(_one, fresh=fresh), todo), strict=True):
            runs[job.column.name][job.family].append(done)
    return {
        column: {family: rows[family] for family in WORKLOADS if family in rows}
        for column, rows in runs.items()
    }


def _one(job: Job, *, fresh: bool) -> Figures:
    path = remembered_at(job)
    if path.exists() and not fresh:
        found: Figures = pickle.loads(path.read_bytes())  # noqa: S301  nobody else writes there
        return found
    family = WORKLOADS[job.family]
    workload = _with_ollama(family.make(job.seed), job.looks_anew)
    result = SCHEDULINGS[job.column.scheduling].run(workload, dict(job.column.parameters))
    bound = lower_bound(workload, result.records) if family.bounded else None
    best = optimum(workload) if job.family in SMALL else None
    done = figures(result, bound_s=bound.makespan_s if bound else None, best=best)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{job.seed}")
    scratch.write_bytes(pickle.dumps(done))
    scratch.replace(path)
    return done


def _with_ollama(workload: Workload, looks_anew: bool) -> Workload:
    upstreams = (replace(each, remembers_free=not looks_anew) for each in workload.upstreams)
    return replace(workload, upstreams=tuple(upstreams))


def remembered_at(job: Job) -> Path:
    """Where the figures of a run are kept; elsewhere when anything changes that they depend on."""
    scheduling = job.column.scheduling
    known = (scheduling, job.column.parameters, job.family, job.seed, job.looks_anew)
    text = f"{known} {_code(SCHEDULINGS[scheduling].ours)}"
    return REMEMBERED / hashlib.sha256(text.encode()).hexdigest()


@cache
def _code(ours: bool) -> str:
    """A digest of what a run depends on besides its job."""
    rooms = [
        "simulator/discrete",
        "simulator/workloads",
        "replay",
        *(["scheduler"] if ours else []),
    ]
    digest = hashlib.sha256()
    for path in _sources(rooms):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(rooms: Iterable[str]) -> Iterable[Path]:
    for room in rooms:
        yield from sorted((ROOT / "ollama_gate" / room).rglob("*.py"))
