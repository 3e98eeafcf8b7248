"""Small workloads for the discrete-event world, and a contender that does as it is told."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ollama_gate.scheduler.types import BinId, Priority
from ollama_gate.simulator.discrete import (
    GB,
    Arrival,
    CardSpec,
    Contender,
    ModelSpec,
    Physics,
    UpstreamSpec,
    Workload,
    World,
)
from ollama_gate.simulator.discrete.cards import Card, Runner, Ticket

BIN = BinId("local/0")


def a_model(name: str, gigabytes: float = 10.0, **changes: Any) -> ModelSpec:
    """A model that takes so much of a card and is loaded in 1 s and 1 s for each 3 GB."""
    size = int(gigabytes * GB)
    model = ModelSpec(
        name=name, footprint_bytes=size, weights_bytes=size, start_s=1.0, unload_s=1.0
    )
    return replace(model, **changes)


def ask(at_s: float, model: str, work_s: float = 10.0, **changes: Any) -> Arrival:
    return replace(Arrival(at_s=at_s, model=model, work_s=work_s), **changes)


def a_workload(
    models: Sequence[ModelSpec], arrivals: Sequence[Arrival] = (), **changes: Any
) -> Workload:
    workload = Workload(name="test", models=tuple(models), arrivals=tuple(arrivals))
    return replace(workload, **changes)


def on_card(**changes: Any) -> tuple[UpstreamSpec, ...]:
    """One upstream with one card of 24 GB, changed as wanted."""
    return (UpstreamSpec(cards=(replace(CardSpec(), **changes),)),)


PLAIN = Physics()


# ruff: noqa: ARG002  a contender is told more than a script cares for


class Script(Contender):
    """Does what is written down, and serves whoever waits for a model that is ready."""

    name = "script"

    def __init__(self, *lines: tuple[float, Callable[[World], object]], **traits: bool) -> None:
        for trait, value in traits.items():
            setattr(self, trait, value)
        self.lines = lines
        self.seen: list[tuple[float, str]] = []
        self.reads: list[tuple[float, int]] = []
        self.waiting: list[Ticket] = []

    def begin(self, world: World) -> None:
        super().begin(world)
        for at_s, line in self.lines:
            world.at(at_s, partial(_do, line, world))

    def arrived(self, ticket: Ticket) -> None:
        self.waiting.append(ticket)
        self.fill()

    def left(self, ticket: Ticket) -> None:
        self.fill()

    def loaded(self, runner: Runner) -> None:
        self.note(f"loaded {runner.model.name}")
        self.fill()

    def load_failed(self, runner: Runner, *, oom: bool) -> None:
        self.note(f"failed {runner.model.name}{' oom' if oom else ''}")

    def gone(self, runner: Runner) -> None:
        self.note(f"gone {runner.model.name}")

    def vacated(self, runner: Runner) -> None:
        self.note(f"vacated {runner.model.name}")

    def measured(self, card: Card, used_bytes: int) -> None:
        self.reads.append((round(self.world.now, 6), used_bytes))

    def note(self, what: str) -> None:
        self.seen.append((round(self.world.now, 6), what))

    def fill(self) -> None:
        for ticket in list(self.waiting):
            runner = self.world.runners.get((BIN, ticket.model.name))
            if not ticket.waits:
                self.waiting.remove(ticket)
            elif runner is not None and runner.free_slots > 0:
                self.waiting.remove(ticket)
                self.world.start(ticket, runner)


def load(name: str, bin_id: BinId = BIN) -> Callable[[World], object]:
    return lambda world: world.load(bin_id, world.models[name])


def unload(name: str, bin_id: BinId = BIN) -> Callable[[World], object]:
    return lambda world: world.unload(world.runners[bin_id, name])


def drawn(seed: int, *, requests: int = 80, cards: int = 1, gap_s: float = 2.0) -> Workload:
    """Some models, of which all do not fit together, and requests for them as they come."""
    rng = random.Random(seed)
    models = tuple(
        ModelSpec(
            name=f"m{number}",
            footprint_bytes=size + int(0.6 * GB),
            weights_bytes=size,
            start_s=rng.uniform(0.8, 1.6),
            read_bytes_per_s=rng.uniform(2e9, 6e9),
            unload_s=rng.uniform(0.4, 1.2),
            parallel=rng.choice([1, 2, 4]),
        )
        for number, size in enumerate(rng.choices([GB, 4 * GB, 8 * GB, 13 * GB, 18 * GB], k=6))
    )
    arrivals, at_s = [], 0.0
    for _ in range(requests):
        at_s += rng.expovariate(1 / gap_s)
        arrivals.append(
            Arrival(
                at_s=at_s,
                model=rng.choice(models[: rng.randint(2, 6)]).name,
                work_s=rng.lognormvariate(1.0, 0.7),
                priority=rng.choice(list(Priority)),
                client=f"client-{rng.randrange(3)}",
            )
        )
    upstreams = tuple(UpstreamSpec(name=f"up{n}", max_loaded=8) for n in range(cards))
    return Workload(
        name="drawn", models=models, arrivals=tuple(arrivals), upstreams=upstreams, seed=seed
    )


def _do(line: Callable[[World], object], world: World) -> None:
    line(world)
