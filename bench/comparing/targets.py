"""The targets, each beside what was measured and whether it is met.

Ratios are geometric means over the families, floods and the smallest cases left out, as in the
other tables. A row whose runs were not asked for is not shown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

from bench.comparing.jobs import Outcomes
from bench.comparing.tables import RATIOS, number, table, usual
from ollama_gate.replay.averages import class_wait, geometric_mean, mean, ratio, wait
from ollama_gate.replay.figures import Figures

OTHERS: Final = ("ollama", "table", "demand")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row.

    Attributes:
        most: what must not be exceeded.
        measure: what was measured; raises `KeyError` where the runs for it are not there.
        places: digits after the point.
    """

    row: str
    what: str
    most: float
    measure: Callable[["Measured"], float | None]
    places: int = 2


class Measured:
    """The runs of one column and of those that it is compared with."""

    def __init__(self, outcomes: Outcomes, column: str) -> None:
        self.outcomes = outcomes
        self.column = column
        self.ours = outcomes[column]

    def ratio(self, other: str, what: str) -> float | None:
        """Over all families, of one of the figures that are compared."""
        of, added = RATIOS[what]
        return ratio(usual(self.ours), usual(self.outcomes[other]), of, added=added)

    def all_runs(self) -> Iterator[Figures]:
        """Every run of the column."""
        for runs in self.ours.values():
            yield from runs

    def bound_ratios(self) -> list[float]:
        """Makespan over its lower bound, run by run."""
        return sorted(run.bound_ratio for run in self.all_runs() if run.bound_ratio is not None)


def _faults(measured: Measured) -> float:
    return sum(
        run.over_commits + run.rule_breaches + run.busy_unloads + run.lost
        for run in measured.all_runs()
    )


def _median_bound(measured: Measured) -> float | None:
    ratios = measured.bound_ratios()
    return median(ratios) if ratios else None


def _mean_bound(measured: Measured) -> float | None:
    return geometric_mean(measured.bound_ratios())


def _late_bound(measured: Measured) -> float | None:
    ratios = measured.bound_ratios()
    return ratios[-(-len(ratios) * 95 // 100) - 1] if ratios else None


def _light(measured: Measured) -> float | None:
    """Mean wait over that of the best of the others."""
    least = min(
        wait("mean")(mean(measured.outcomes[other]["zipf10_light"])) or 0 for other in OTHERS
    )
    return (mean(measured.ours["zipf10_light"]).waits.mean + 1) / (least + 1)


def _chat(measured: Measured) -> float | None:
    return class_wait("high", "p99")(mean(measured.ours["batch_chat"]))


def _batch(measured: Measured) -> float | None:
    return mean(measured.ours["batch_chat"]).bound_ratio


def _flood(name: str, measured: Measured) -> float | None:
    return max(run.by_class["low"].max for run in measured.ours[name])


def _small_clients(measured: Measured) -> float | None:
    ours, theirs = mean(measured.ours["clients"]), mean(measured.outcomes["ollama"]["clients"])
    if ours.small_mean_s is None or theirs.small_mean_s is None:
        return None
    return (ours.small_mean_s + 1) / (theirs.small_mean_s + 1)


def _failed(measured: Measured) -> float | None:
    return sum(run.failed for name in ("exthog", "misest") for run in measured.ours[name])


def _optimum(name: str, measured: Measured) -> float | None:
    all_seeds = mean(measured.ours[name])
    return all_seeds.waits.mean / all_seeds.best_mean_s if all_seeds.best_mean_s else None


def _over(other: str, what: str, row: str, most: float) -> Target:
    def measure(measured: Measured) -> float | None:
        return measured.ratio(other, what)

    return Target(row=row, what=f"{what} ÷ {other}", most=most, measure=measure)


TARGETS: Final = (
    Target(
        row="1",
        what="over-commits, evictions left to Ollama, busy unloads, lost requests; all runs",
        most=0,
        measure=_faults,
        places=0,
    ),
    _over("ollama", "makespan", "2", 0.80),
    _over("ollama", "mean", "3", 0.33),
    _over("ollama", "high p99", "4", 0.30),
    _over("ollama", "loads", "5", 0.75),
    _over("table", "mean", "6", 1.05),
    _over("table", "high p99", "7", 0.65),
    _over("demand", "high p99", "7", 0.65),
    _over("table", "makespan", "8", 1.04),
    Target(
        row="9", what="makespan ÷ bound, median run", most=1.05, measure=_median_bound, places=3
    ),
    Target(row="9", what="geometric mean", most=1.09, measure=_mean_bound, places=3),
    Target(row="9", what="p95 of runs", most=1.25, measure=_late_bound, places=3),
    Target(
        row="10",
        what="mean wait ÷ the best possible, bursts",
        most=1.12,
        measure=partial(_optimum, "pair_bursts"),
    ),
    Target(
        row="10", what="the same, Poisson", most=1.50, measure=partial(_optimum, "pair_poisson")
    ),
    Target(row="11", what="zipf10_light: mean ÷ best of the others", most=1.05, measure=_light),
    Target(row="12", what="batch_chat: high p99, s", most=70, measure=_chat, places=0),
    Target(row="12", what="batch_chat: makespan ÷ bound", most=1.22, measure=_batch, places=3),
    Target(
        row="13",
        what="flood1: longest low wait, s",
        most=350,
        measure=partial(_flood, "flood1"),
        places=0,
    ),
    Target(
        row="13",
        what="flood2of3: longest low wait, s",
        most=800,
        measure=partial(_flood, "flood2of3"),
        places=0,
    ),
    Target(
        row="14", what="clients: small clients' mean ÷ ollama", most=0.50, measure=_small_clients
    ),
    Target(row="15", what="exthog and misest: failed requests", most=0, measure=_failed, places=0),
)
"""What a decision costs, the sixteenth, is measured by `bench/decision.py`."""


def targets(outcomes: Outcomes, column: str) -> Iterator[str]:
    """Those for which there are runs."""
    yield from ("", f"## Targets: {column}")
    yield from table(["#", "what", "at most", "measured", "met"], _rows(Measured(outcomes, column)))


def _rows(measured: Measured) -> Iterator[Sequence[str]]:
    for target in TARGETS:
        try:
            value = target.measure(measured)
        except KeyError:
            continue
        if value is not None:
            met = "yes" if round(value, target.places) <= target.most else "**no**"
            yield (
                target.row,
                target.what,
                number(target.most, target.places),
                number(value, target.places),
                met,
            )
