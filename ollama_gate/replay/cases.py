"""One workload, several ways to schedule it: the rows of what `replay` shows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ollama_gate.replay.changes import Changes
from ollama_gate.replay.contenders import SCHEDULINGS, Parameters
from ollama_gate.replay.figures import Figures, figures
from ollama_gate.replay.traced import RECORDED, Traced
from ollama_gate.simulator.discrete.bound import lower_bound
from ollama_gate.simulator.discrete.workload import Workload

AS_IT_WAS = "gate, as it was"
CHANGED = "gate, changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row.

    Attributes:
        name: who schedules, and whether with changes.
    """

    name: str
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be replayed beside the workload as it is.

    Attributes:
        changes: of cards and models.
        policies: by name, on the changed workload.
        parameters: of the gate's policy, which makes a row of its own if there are any.
    """

    changes: Changes
    policies: Sequence[str] = ()
    parameters: Parameters | None = None


def of_trace(traced: Traced, wish: Wish) -> Iterator[Case]:
    """What was recorded, the gate on the same again, and what else is wished for."""
    workload = traced.workload
    bound_s = lower_bound(workload, traced.recorded.records).makespan_s
    yield Case(name=RECORDED, figures=figures(traced.recorded, bound_s=bound_s))
    before = _parameters(traced)
    yield _case(AS_IT_WAS, workload, "gate", before)
    if wish.changes or wish.parameters:
        changed = wish.changes.of(workload)
        yield _case(CHANGED, changed, "gate", {**before, **(wish.parameters or {})})
    yield from _others(wish, workload, before)


def of_workload(workload: Workload, wish: Wish) -> Iterator[Case]:
    """The gate, the gate with changes, and others."""
    yield _case("gate", workload, "gate", {})
    if wish.changes or wish.parameters:
        yield _case(CHANGED, wish.changes.of(workload), "gate", wish.parameters or {})
    yield from _others(wish, workload, {})


def _others(wish: Wish, workload: Workload, before: Parameters) -> Iterator[Case]:
    changed = wish.changes.of(workload)
    name = "{}, changed" if wish.changes else "{}"
    for policy in wish.policies:
        yield _case(name.format(policy), changed, policy, before)


def _case(name: str, workload: Workload, policy: str, parameters: Parameters) -> Case:
    result = SCHEDULINGS[policy].run(workload, parameters)
    bound = lower_bound(workload, result.records)
    return Case(name=name, figures=figures(result, bound_s=bound.makespan_s))


def _parameters(traced: Traced) -> Mapping[str, Any]:
    """What the gate went by when the trace was recorded."""
    return {name: getattr(traced.policy, name) for name in traced.policy.__dataclass_fields__}


def as_json(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """For a program to read; seconds, requests, and ratios."""
    return [{"case": case.name, **asdict(case.figures)} for case in cases]
