"""What a run is judged by, in one flat record; small enough to be sent between processes.

Waits are seconds until a request has its slot. Who was refused, or left before, is counted and
not averaged.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_gate.scheduler.types import Priority
from ollama_gate.simulator.discrete.cards import Outcome
from ollama_gate.simulator.discrete.optimum import Optimum
from ollama_gate.simulator.discrete.result import Result, Summary

CLASSES: Final = {Priority.HIGH: "high", Priority.NORMAL: "normal", Priority.LOW: "low"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run, or the mean of several.

    Attributes:
        runs: how many are averaged here.
        waits: of everybody; `by_class` of each class that there was.
        small_mean_s: the mean wait of all clients but the one who asked for most; `None` where
            there are not two.
        unfairness: the longest mean wait of a client over the mean of all clients' means; 1 where
            they are alike, `None` as before.
        bound_ratio: makespan over its lower bound; `None` where none is known.
        best_mean_s: the least mean wait possible; `best_makespan_s`: the least makespan possible;
            `None` where they are not known.
        over_commits: loads that did not fit, by the world's own books.
        failed: requests that were told of a failure; `refused`: that were turned away.
    """

    runs: float = 1
    requests: float
    makespan_s: float
    loads: float
    unloads: float
    waits: Summary
    by_class: Mapping[str, Summary]
    small_mean_s: float | None = None
    unfairness: float | None = None
    bound_ratio: float | None = None
    best_mean_s: float | None = None
    best_makespan_s: float | None = None
    over_commits: float = 0
    rule_breaches: float = 0
    busy_unloads: float = 0
    lost: float = 0
    oom_loads: float = 0
    failed: float = 0
    refused: float = 0
    gave_up: float = 0


def figures(
    result: Result, *, bound_s: float | None = None, best: Optimum | None = None
) -> Figures:
    """Those of one run.

    Args:
        result: the run.
        bound_s: what its makespan cannot have been below.
        best: the best that was possible.
    """
    counts, outcomes = result.counts, result.outcomes()
    small_mean_s, unfairness = _fairness(result)
    return Figures(
        requests=len(result.records),
        makespan_s=result.makespan_s,
        loads=counts.loads,
        unloads=counts.unloads,
        waits=result.waits(),
        by_class={CLASSES[each]: waits for each, waits in result.by_class().items()},
        small_mean_s=small_mean_s,
        unfairness=unfairness,
        bound_ratio=result.makespan_s / bound_s if bound_s else None,
        best_mean_s=best.mean_wait_s if best else None,
        best_makespan_s=best.makespan_s if best else None,
        over_commits=counts.over_commits,
        rule_breaches=counts.rule_breaches,
        busy_unloads=counts.busy_unloads,
        lost=counts.lost + counts.ended_twice + counts.misdirected,
        oom_loads=counts.oom_loads,
        failed=outcomes[Outcome.FAILED],
        refused=outcomes[Outcome.REFUSED],
        gave_up=outcomes[Outcome.GAVE_UP] + outcomes[Outcome.CUT],
    )


def _fairness(result: Result) -> tuple[float | None, float | None]:
    asked = Counter(record.client for record in result.records)
    waits = {name: each for name, each in result.by_client().items() if each.count}
    if len(waits) < 2:  # noqa: PLR2004  alone one is neither small nor treated unfairly
        return None, None
    most = max(waits, key=lambda name: (asked[name], name))
    small = [each for name, each in waits.items() if name != most]
    small_mean_s = sum(each.mean * each.count for each in small) / sum(each.count for each in small)
    means = [each.mean for each in waits.values()]
    mean_s = sum(means) / len(means)
    return small_mean_s, max(means) / mean_s if mean_s else 1.0
