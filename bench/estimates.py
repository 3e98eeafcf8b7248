"""How good the estimated waits are: each request's, as it joins the line, and what came of it.

Usage: python bench/estimates.py [--seeds 20-22] [--families zipf10,batch_chat,alt2,burst_inter]

In the discrete-event world, where the brain knows no more than in life. Counted are those who had
to wait and were served; *ratio* is estimate ÷ wait, both with a second added so that nobody counts
for much who waits for little. Who comes later is not foreseen, so those are shown apart during
whose wait nobody of a higher class came. Prints Markdown.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.scheduling import numbers
from ollama_gate.scheduler.outlook import Outlook
from ollama_gate.scheduler.types import Priority, RequestId
from ollama_gate.simulator.discrete.brain import Brain
from ollama_gate.simulator.discrete.cards import Ticket
from ollama_gate.simulator.discrete.result import Record
from ollama_gate.simulator.discrete.world import World
from ollama_gate.simulator.workloads import FAMILIES

FAMILIES_SHOWN: Final = "zipf10,batch_chat,alt2,burst_inter"
SEEDS: Final = [20, 21, 22]


class Foreseeing(Brain):
    """The brain, asked of each who joins the line how long it will wait.

    Attributes:
        estimates: what it said, by the request's number; `None` where it could not tell.
    """

    def __init__(self) -> None:
        super().__init__()
        self.estimates: dict[int, float | None] = {}

    def arrived(self, ticket: Ticket) -> None:
        """Let it join, and ask."""
        super().arrived(ticket)
        request_id = RequestId(str(ticket.number))
        waiting = {request.id: request for request in self.machine.line}
        if request_id in waiting:
            self.estimates[ticket.number] = Outlook(self.machine).wait_s(waiting[request_id])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What was estimated and what came; whether nobody of a higher class came meanwhile."""

    record: Record
    estimate_s: float
    alone: bool

    @property
    def ratio(self) -> float:
        """Above 1 where less came than was said."""
        return (self.estimate_s + 1.0) / (self.record.wait_s + 1.0)


def pairs(family: str, seeds: Sequence[int]) -> tuple[list[Pair], int]:
    """Of all who waited; and of how many nothing could be said."""
    found, untold = [], 0
    for seed in seeds:
        brain = Foreseeing()
        result = World(FAMILIES[family].make(seed), brain).run()
        higher = {
            priority: sorted(r.arrived_at for r in result.records if r.priority < priority)
            for priority in Priority
        }
        for record in result.records:
            estimate_s = brain.estimates.get(record.number)
            if record.number not in brain.estimates or record.started_at is None:
                continue
            if estimate_s is None:
                untold += 1
                continue
            later = any(
                record.arrived_at < at < record.started_at for at in higher[record.priority]
            )
            found.append(Pair(record=record, estimate_s=estimate_s, alone=not later))
    return found, untold


def correlation(found: Sequence[Pair]) -> float:
    """Of the ranks of both (Spearman's)."""
    if len(found) < 2:
        return 1.0
    said = _ranks([pair.estimate_s for pair in found])
    came = _ranks([pair.record.wait_s for pair in found])
    middle = (len(found) - 1) / 2
    both = sum((a - middle) * (b - middle) for a, b in zip(said, came, strict=True))
    squares = sum((a - middle) ** 2 for a in said) * sum((b - middle) ** 2 for b in came)
    return both / squares**0.5 if squares else 1.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for rank, at in enumerate(order):
        ranks[at] = float(rank)
    return ranks


def row(name: str, found: Sequence[Pair]) -> str:
    if not found:
        return f"| {name} | 0 | | | | | |"
    ratios = sorted(pair.ratio for pair in found)
    within = sum(0.5 <= ratio <= 2.0 for ratio in ratios) / len(ratios)
    quarters = f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
    wait_s = median(pair.record.wait_s for pair in found)
    return (
        f"| {name} | {len(found)} | {wait_s:.1f} | {median(ratios):.2f} | {quarters} "
        f"| {within:.0%} | {correlation(found):.2f} |"
    )


def report(families: Iterable[str], seeds: Sequence[int]) -> None:
    print("| who | waited | median wait, s | ratio | its quartiles | within twice | rank corr. |")
    print("|---|---:|---:|---:|---|---:|---:|")
    for family in families:
        found, untold = pairs(family, seeds)
        suffix = f" ({untold} untold)" if untold else ""
        print(row(family + suffix, found))
        print(row("... no higher class came", [pair for pair in found if pair.alone]))
        for priority in Priority:
            own = [pair for pair in found if pair.record.priority is priority]
            print(row(f"... {priority.name.lower()}", own))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=numbers, default=SEEDS)
    parser.add_argument("--families", default=FAMILIES_SHOWN)
    given = parser.parse_args()
    report(given.families.split(","), given.seeds)


if __name__ == "__main__":
    main()
