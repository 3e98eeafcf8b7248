"""The tables of a comparison, as Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from bench.comparing.jobs import WORKLOADS, Outcomes
from ollama_gate.replay.averages import SECOND, Measure, class_wait, mean, ratio, wait
from ollama_gate.replay.figures import Figures
from ollama_gate.simulator.workloads import FAMILIES, SMALL

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


def usual(runs: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """The mean over the seeds, without the floods, which are about one figure alone."""
    return {
        name: mean(each)
        for name, each in runs.items()
        if name in FAMILIES and not FAMILIES[name].flood
    }


def ratios(outcomes: Outcomes, column: str) -> Iterator[str]:
    """One policy over each of the others, below 1 where it does better."""
    ours = usual(outcomes[column])
    rows = (
        [other, *(number(ratio(ours, usual(theirs), of, added=a), 2) for of, a in RATIOS.values())]
        for other, theirs in outcomes.items()
        if other != column
    )
    yield from table([f"{column} ÷", *RATIOS], rows)


def by_family(outcomes: Outcomes, column: str) -> Iterator[str]:
    """Where the means of the ratios come from: mean wait and high p99, family by family."""
    ours = usual(outcomes[column])
    others = [other for other in outcomes if other != column]
    shown = ("mean", "high p99", "makespan")
    head = ["family", *(f"{what} ÷ {other}" for other in others for what in shown)]
    yield from table(
        head,
        (
            [name, *(_of_one(name, ours, outcomes[o], what) for o in others for what in shown)]
            for name in ours
        ),
    )


def _of_one(
    name: str, ours: Mapping[str, Figures], theirs: Mapping[str, Sequence[Figures]], what: str
) -> str:
    of, added = RATIOS[what]
    one, other = {name: ours[name]}, {name: mean(theirs[name])}
    return number(ratio(one, other, of, added=added), 2)


def family(name: str, outcomes: Outcomes) -> Iterator[str]:
    """All policies on one family, means over the seeds; waits in seconds."""
    yield from ("", f"### {name}", "", WORKLOADS[name].about)
    rows = (_family_row(column, mean(runs[name])) for column, runs in outcomes.items())
    yield from table(FAMILY_HEAD, rows)


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
    """The longest wait of a low request while others flood the card, seed by seed."""
    names = [name for name in next(iter(outcomes.values())) if WORKLOADS[name].flood]
    longest = class_wait("low", "max")
    rows = (
        [column, *(" / ".join(number(longest(run), 0) for run in runs[name]) for name in names)]
        for column, runs in outcomes.items()
    )
    if names:
        yield from ("", "## Floods: longest wait of a low request, in seconds")
        yield from table(["policy", *names], rows)


def optima(outcomes: Outcomes) -> Iterator[str]:
    """How far from the best possible schedule, where that is known; means over the seeds."""
    names = [name for name in next(iter(outcomes.values())) if name in SMALL]
    if not names:
        return
    yield from ("", "## Two exclusive models, one slot each: ÷ the best possible")
    head = ["policy", *(f"{name}: {what}" for name in names for what in ("mean wait", "makespan"))]
    yield from table(
        head, ([column, *_optimum_row(runs, names)] for column, runs in outcomes.items())
    )


def _optimum_row(runs: Mapping[str, Sequence[Figures]], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        all_seeds = mean(runs[name])
        yield number(all_seeds.waits.mean / (all_seeds.best_mean_s or 1.0), 2)
        yield number(all_seeds.makespan_s / (all_seeds.best_makespan_s or 1.0), 3)
