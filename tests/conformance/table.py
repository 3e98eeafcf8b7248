"""What a run came to, as a table for people and as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.conformance.suite import Outcome, Verdict

_NAME_WIDTH = 52
_ROUTE_WIDTH = 40


def lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table: a line for each case, below it what differs, and the totals."""
    head = _line("case", "route", "verdict", "masks")
    told = [head, "-" * len(head)]
    for outcome in outcomes:
        case = outcome.case
        masks = ", ".join(outcome.masks) or "-"
        told.append(_line(case.name, case.route, outcome.verdict.value, masks))
        if outcome.reason:
            told.append(f"    {outcome.reason}")
        told += [f"    {found.kind}: {found.text}" for found in outcome.differences]
    return [*told, "", totals(outcomes)]


def totals(outcomes: Sequence[Outcome]) -> str:
    """How many of each verdict."""
    counted = Counter(outcome.verdict for outcome in outcomes)
    parts = [f"{counted[verdict]} {verdict.value}" for verdict in Verdict if counted[verdict]]
    return f"{len(outcomes)} cases: {', '.join(parts) or 'none'}"


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "case": outcome.case.name,
            "route": outcome.case.route,
            "verdict": outcome.verdict.value,
            "masks": list(outcome.masks),
            "reason": outcome.reason,
            "took_s": round(outcome.took_s, 3),
            "differences": [
                {"kind": found.kind, "text": found.text} for found in outcome.differences
            ],
        }
        for outcome in outcomes
    ]


def _line(name: str, route: str, verdict: str, masks: str) -> str:
    shown = route if len(route) <= _ROUTE_WIDTH else f"{route[: _ROUTE_WIDTH - 1]}…"
    return f"{name:<{_NAME_WIDTH}} {shown:<{_ROUTE_WIDTH}} {verdict:<8} {masks}".rstrip()
