"""Means over seeds, and ratios over families: how the figures of many runs become a few.

Over the seeds of one family figures are averaged. Over families their ratios are, geometrically:
of waits with a second added to both sides, so that a family in which nobody waits decides nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from ollama_gate.replay.figures import Figures
from ollama_gate.simulator.discrete.result import Summary

Measure = Callable[[Figures], float | None]
"""One figure of a run; `None` where the run has none, as without anybody of a class."""

SECOND: Final = 1.0
"""What is added to waits before their ratio is taken."""


def mean(runs: Sequence[Figures]) -> Figures:
    """The mean of several runs; of what only some of them have, over those."""
    names = [field.name for field in fields(Figures)]
    averaged: dict[str, Any] = {
        name: _mean_of([getattr(each, name) for each in runs])
        for name in names
        if name not in {"runs", "waits", "by_class"}
    }
    classes = sorted({name for each in runs for name in each.by_class})
    return Figures(
        runs=sum(each.runs for each in runs),
        waits=_mean_summary([each.waits for each in runs]),
        by_class={
            name: _mean_summary([each.by_class[name] for each in runs if name in each.by_class])
            for name in classes
        },
        **averaged,
    )


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_summary(summaries: Sequence[Summary]) -> Summary:
    averaged: dict[str, Any] = {
        field.name: sum(getattr(each, field.name) for each in summaries) / len(summaries)
        for field in fields(Summary)
    }
    return Summary(**averaged)


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """`None` of nothing."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logarithms) / len(logarithms)) if logarithms else None


def ratio(
    ours: Mapping[str, Figures],
    theirs: Mapping[str, Figures],
    measure: Measure,
    *,
    added: float = 0.0,
) -> float | None:
    """How much more of something one policy has than another, over the families of both."""
    pairs = [(measure(ours[name]), measure(theirs[name])) for name in ours if name in theirs]
    return geometric_mean(
        (one + added) / (other + added)
        for one, other in pairs
        if one is not None and other is not None and other + added > 0 and one + added > 0
    )


def class_wait(name: str, statistic: str) -> Measure:
    """The measure of one statistic of one class's waits, such as `high` and `p99`."""

    def measure(figures: Figures) -> float | None:
        waits = figures.by_class.get(name)
        return None if waits is None or not waits.count else float(getattr(waits, statistic))

    return measure


def wait(statistic: str) -> Measure:
    """The measure of one statistic of everybody's waits."""
    return lambda figures: float(getattr(figures.waits, statistic))
