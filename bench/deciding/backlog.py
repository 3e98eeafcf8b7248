"""What a decision costs while the discrete-event world keeps so many waiting.

Everything happens that happens in life: requests of three classes come and end, models are loaded,
evicted and drained, cards are read, patience ends. Each event's processor time in the scheduler is
taken; the world's own is not.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command
from ollama_gate.scheduler.types import Policy
from ollama_gate.simulator.discrete.brain import Brain
from ollama_gate.simulator.discrete.workload import Arrival, Workload
from ollama_gate.simulator.discrete.world import World
from ollama_gate.simulator.workloads.drawing import Draw, Traffic, an_upstream, zipf

UNLIMITED: Final = 10**9
COMING_S: Final = 1.0
"""In so short a time all come who wait in the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is to decide about; cards are of an upstream each."""

    waiting: int
    models: int
    clients: int = 50
    cards: int = 1

    def __str__(self) -> str:
        cards = "one card" if self.cards == 1 else f"{self.cards} cards"
        return f"{self.waiting:,} x {self.models} x {self.clients:,}, {cards}"


@dataclass(slots=True)
class Taken:
    """Processor time of each decision, in seconds, by the event that asked for it.

    Attributes:
        waiting: how many waited when the last was taken.
    """

    by_event: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    waiting: int = 0

    @property
    def all(self) -> list[float]:
        """Of all events together."""
        return list(chain.from_iterable(self.by_event.values()))


class EnoughError(Exception):
    """So many decisions as were wanted have been timed."""


class TimedBrain(Brain):
    """The brain with a watch in its hand, from when all have come who are to wait."""

    def __init__(self, size: Size, decisions: int) -> None:
        super().__init__(Policy(queue_max_size=UNLIMITED))
        self.taken = Taken()
        self._size = size
        self._left = decisions
        self._arrived = 0

    def begin(self, world: World) -> None:
        super().begin(world)
        handle = self.machine.handle

        def timed(event: ev.Event, now: float) -> list[Command]:
            began = time.process_time()
            commands = handle(event, now)
            self._note(event, time.process_time() - began)
            return commands

        # What is measured is the machine, called as the world calls it.
        self.machine.handle = timed  # type: ignore[method-assign]

    def _note(self, event: ev.Event, taken_s: float) -> None:
        self._arrived += isinstance(event, ev.Arrived)
        if self._arrived <= self._size.waiting:
            return
        self.taken.by_event[type(event).__name__].append(taken_s)
        self._left -= 1
        if not self._left:
            self.taken.waiting = len(self.machine.line)
            raise EnoughError


def backlog(size: Size) -> Workload:
    """So many at once, and then as many as can be served."""
    draw = Draw(f"backlog {size}", 1)
    models = [
        draw.model(f"model-{number}", draw.between(3.0, 16.0)) for number in range(size.models)
    ]
    traffic = Traffic(draw, models, zipf(size.models, 0.5))
    upstreams = tuple(an_upstream(f"upstream-{number}") for number in range(size.cards))
    arrivals = list(_arrivals(size, draw, traffic))
    return draw.workload(models, arrivals, upstreams=upstreams)


def _arrivals(size: Size, draw: Draw, traffic: Traffic) -> Iterator[Arrival]:
    # As many more as are waiting already: the measurement ends long before they do.
    rate = 0.8 * size.cards * traffic.rate(1.0)
    instants = draw.instants(rate, start_s=COMING_S)
    for number in range(2 * size.waiting + 5_000):
        at_s = COMING_S * number / size.waiting if number < size.waiting else next(instants)
        yield traffic.request(
            at_s, priority=draw.priority(), client=f"client-{draw.count(1, size.clients)}"
        )


def decide(size: Size, decisions: int) -> Taken:
    """So many decisions at that backlog."""
    brain = TimedBrain(size, decisions)
    world: Any = World(backlog(size), brain)
    try:
        world.run()
    except EnoughError:
        return brain.taken
    raise AssertionError("the backlog was worked off before enough was decided")
