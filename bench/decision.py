"""What one decision costs, by how many requests wait and for how many models.

Usage: python bench/decision.py [--quick] [--only SECTION]

Two sections. *world*: the discrete-event world keeps so many waiting that each size says, over
everything that happens in life, on one card and on two. *events*: one card holds a model whose
slots are all taken and one with slots to spare; everybody else waits for a model that fits beside
neither, and each kind of event comes in turn, so that as many wait after a round as before.
Times are processor time of the scheduler alone, without sockets; ratios are to the smallest size
in the same run. Prints Markdown. Without --quick some minutes.
"""

import argparse
import gc
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.deciding.backlog import Size, decide
from ollama_gate.scheduler import Machine
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Policy,
    Priority,
    Request,
    RequestId,
    Upstream,
)

GIB: Final = 2**30
CARD: Final = BinId("u/0")
SIZES: Final = ((100, 10), (1_000, 30), (10_000, 100))
"""How many wait, for how many models."""
WORLDS: Final = (
    Size(waiting=100, models=10, clients=5),
    Size(waiting=1_000, models=30, clients=20),
    Size(waiting=10_000, models=100),
    Size(waiting=10_000, models=100, clients=1_000),
    Size(waiting=10_000, models=100, cards=2),
)
SPREADS_S: Final = {"nobody is overdue": 10.0, "many are overdue": 600.0}
"""Over how long those who wait have come."""
FOOTPRINT_GIB: Final = {"taken": 12, "spare": 2}
OTHERS_GIB: Final = 16
SLOTS: Final = {"taken": 4, "spare": 1_000}
# Nobody's turn ends, so that the state stays what it is.
POLICY: Final = Policy(kappa=1e9, kappa_hi=1e9, queue_max_size=1_000_000)

EVENTS: Final = (
    "arrives and waits",
    "leaves, the next is served",
    "arrives and is served",
    "leaves, nobody waits for it",
    "gives up waiting",
    "nothing but time passes",
)


class Stage:
    """A scheduler before which many wait."""

    def __init__(self, waiting: int, models: int, spread_s: float) -> None:
        self._rng = random.Random(waiting)
        self._ids = count()
        self._models = ["taken", *(f"model-{number}" for number in range(models - 1))]
        self._machine = Machine(
            upstreams=[Upstream(name="u")],
            bins=[Bin(id=CARD, upstream="u", capacity_bytes=24 * GIB)],
            policy=POLICY,
            now=0.0,
        )
        self.now = 0.0
        self._residents()
        for number in range(waiting):
            # By turns, so that somebody waits for every model.
            self.now = spread_s * number / waiting
            self._tell(ev.Arrived(request=self._request(self._models[number % models])))
        self.now = spread_s

    def _residents(self) -> None:
        residents = tuple(
            ev.Resident(
                bin=CARD,
                model=ModelKey(model),
                name=model,
                launch=Launch(),
                footprint_bytes=size * GIB,
                reported_bytes=size * GIB,
                num_ctx=4096,
                parallel=SLOTS[model],
            )
            for model, size in FOOTPRINT_GIB.items()
        )
        self._tell(ev.Observed(upstream="u", residents=residents, asked_at=0.0))
        self._serving = [self._request("taken") for _ in range(SLOTS["taken"])]
        for request in [*self._serving, self._request("spare")]:
            self._tell(ev.Arrived(request=request))

    def round(self) -> Iterator[tuple[str, float]]:
        """Every kind of event once; its name and how long it took, in seconds."""
        newcomer, guest = self._request("taken"), self._request("spare")
        fickle = self._request(self._rng.choice(self._models))
        events: tuple[ev.Event, ...] = (
            ev.Arrived(request=newcomer),
            ev.Left(id=self._serving.pop(0).id),
            ev.Arrived(request=guest),
            ev.Left(id=guest.id),
            ev.Left(id=fickle.id),
            ev.Ticked(),
        )
        for name, event in zip(EVENTS, events, strict=True):
            if name == "gives up waiting":
                self._tell(ev.Arrived(request=fickle))
            self.now += 0.001
            began = time.process_time()
            commands = self._tell(event)
            taken_s = time.process_time() - began
            forwarded = [each.id for each in commands if isinstance(each, Forward)]
            assert len(commands) == len(forwarded) == ("served" in name), (name, commands)
            if name == "leaves, the next is served":
                self._serving.append(self._known(forwarded[0]))
            yield name, taken_s

    def _known(self, request_id: RequestId) -> Request:
        return self._machine.running[request_id][0]

    def _tell(self, event: ev.Event) -> list[Command]:
        return self._machine.handle(event, self.now)

    def _request(self, model: str) -> Request:
        size = FOOTPRINT_GIB.get(model, OTHERS_GIB) * GIB
        return Request(
            id=RequestId(str(next(self._ids))),
            model=ModelKey(model),
            name=model,
            needs={CARD: Need(footprint_bytes=size, predicted_bytes=size // 2)},
            arrived_at=self.now,
            num_ctx=4096,
            priority=self._rng.choice(list(Priority)),
            parallel=SLOTS.get(model, 1),
        )


def measure(waiting: int, models: int, spread_s: float, rounds: int) -> dict[str, list[float]]:
    stage = Stage(waiting, models, spread_s)
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, taken_s in stage.round():
            taken[name].append(taken_s)
    return taken


def _cell(taken_s: list[float], least: list[float]) -> str:
    p99 = quantiles(taken_s, n=100)[-1]
    ratio = median(taken_s) / median(least)
    return f"{median(taken_s) * 1e6:,.0f} / {p99 * 1e6:,.0f} / {ratio:.1f}"


def print_world(decisions: int) -> None:
    """Everything that happens, at each size; the goals are those of the largest on one card."""
    print("\nProcessor time of a decision in µs; waiting x models x clients\n")
    print("| size | median | p99 | max | median ÷ least | p99 ÷ least | most of it |")
    print("|---|---:|---:|---:|---:|---:|---|")
    least: tuple[float, float] | None = None
    for size in WORLDS:
        taken = decide(size, decisions)
        half, late, most = median(taken.all), quantiles(taken.all, n=100)[-1], max(taken.all)
        least = least or (half, late)
        shares = {name: sum(each) for name, each in taken.by_event.items()}
        dearest = max(shares, key=lambda name: shares[name])
        figures = " | ".join(f"{each * 1e6:,.0f}" for each in (half, late, most))
        ratios = f"{half / least[0]:.1f} | {late / least[1]:.1f}"
        share = shares[dearest] / sum(shares.values())
        print(f"| {size} | {figures} | {ratios} | {dearest} {share:.0%} |")


def print_events(rounds: int) -> None:
    """One kind of event after the other."""
    for title, spread_s in SPREADS_S.items():
        columns = [measure(*size, spread_s, rounds) for size in SIZES]
        print(f"\n{title}: µs, median / p99 / median ÷ that of {SIZES[0][0]} x {SIZES[0][1]}\n")
        print("| event |", " | ".join(f"{n:,} wait for {m} models" for n, m in SIZES), "|")
        print("|---|" + "---:|" * len(SIZES))
        for name in EVENTS:
            cells = [_cell(column[name], columns[0][name]) for column in columns]
            print(f"| {name} |", " | ".join(cells), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer decisions")
    parser.add_argument("--only", choices=("world", "events"))
    given = parser.parse_args()
    # What is measured is the scheduler, not the collector's pauses over the stage.
    gc.disable()
    if given.only != "events":
        print_world(500 if given.quick else 5_000)
    if given.only != "world":
        print_events(100 if given.quick else 2_000)


if __name__ == "__main__":
    main()
