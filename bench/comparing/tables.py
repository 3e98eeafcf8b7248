"""The tables of a comparison, as Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from bench.comparing.jobs import Outcomes
from ollama_gate.replay.averages import SECOND, Measure, class_wait, ratio, wait
from ollama_gate.replay.figures import Figures
from ollama_gate.simulator.workloads import FAMILIES

STATISTICS: Final = ("mean", "p95", "p99", "max")

RATIOS: Final[Mapping[str, tuple[Measure, float]]] = {
    "makespan": (lambda f: f.makespan_s, 0.0),
    "loads": (lambda f: f.loads, 0.0),
    "mean": (wait("mean"), SECOND),
    "p99": (wait("p99"), SECOND),
    "max": (wait("max"), SECOND),
    "high mean": (class_wait("high", "mean"), SECOND),
    "high p95": (class_wait("high", "p95"), SECOND),
    "high p99": (class_wait("high", "p99"), SECOND),
    "low mean": (class_wait("low", "mean"), SECOND),
    "low p99": (class_wait("low", "p99"), SECOND),
    "small clients' mean": (lambda f: f.small_mean_s, SECOND),
}
"""What is compared over all families, and what is added to both sides first."""

FAMILY_HEAD: Final = (
    "policy",
    "makespan",
    "÷ bound",
    "loads",
    *STATISTICS,
    "high: mean/p95/p99/max",
    "normal",
    "low",
    "small clients' mean",
    "max ÷ mean client",
    "over-commits/busy unloads/lost",
    "OOM/failed/refused/left",
)


def number(value: float | None, places: int = 1) -> str:
    """A figure, or that there is none."""
    return "-" if value is None else f"{value:,.{places}f}"


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of a table, with an empty one before."""
    yield ""
    yield f"| {' | '.join(head)} |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def usual(outcomes: Mapping[str, Figures]) -> dict[str, Figures]:
    """Without the floods, which are about one figure alone."""
    return {name: each for name, each in outcomes.items() if not FAMILIES[name].flood}


def ratios(outcomes: Outcomes, column: str) -> Iterator[str]:
    """One policy over each of the others, below 1 where it does better."""
    ours = usual(outcomes[column])
    rows = (
        [other, *(number(ratio(ours, theirs, of, added=a), 2) for of, a in RATIOS.values())]
        for other, theirs in outcomes.items()
        if other != column
    )
    yield from table([f"{column} ÷", *RATIOS], rows)


def family(name: str, rows: Mapping[str, Figures]) -> Iterator[str]:
    """All policies on one family; waits in seconds."""
    yield from ("", f"### {name}", "", FAMILIES[name].about)
    yield from table(FAMILY_HEAD, (_family_row(column, each) for column, each in rows.items()))


def _family_row(column: str, figures: Figures) -> Iterator[str]:
    yield column
    yield number(figures.makespan_s, 0)
    yield number(figures.bound_ratio, 3)
    yield number(figures.loads)
    yield from (number(getattr(figures.waits, each)) for each in STATISTICS)
    for name in ("high", "normal", "low"):
        waits = figures.by_class.get(name)
        yield "/".join(number(getattr(waits, each), 0) for each in STATISTICS) if waits else "-"
    yield number(figures.small_mean_s)
    yield number(figures.unfairness, 2)
    yield "/".join(f"{x:.3g}" for x in (figures.over_commits, figures.busy_unloads, figures.lost))
    yield "/".join(
        f"{x:.3g}" for x in (figures.oom_loads, figures.failed, figures.refused, figures.gave_up)
    )


def floods(outcomes: Outcomes) -> Iterator[str]:
    """The longest wait of a low request while others flood the card, for each seed's mean."""
    names = [name for name in next(iter(outcomes.values())) if FAMILIES[name].flood]
    rows = (
        [column, *(number(class_wait("low", "max")(each[name])) for name in names)]
        for column, each in outcomes.items()
    )
    if names:
        yield from ("", "## Floods: longest wait of a low request, in seconds")
        yield from table(["policy", *names], rows)
