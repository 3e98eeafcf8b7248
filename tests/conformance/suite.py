"""The run: which model plays which role, each case on both sides, and what came of it."""

import dataclasses
import fnmatch
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conformance.case import Case
from tests.conformance.compare import Compared, Difference, Leave, compare
from tests.conformance.places import ROLES, roles_of
from tests.conformance.sides import Answered, Side, StageError

KNOWN: Final = Path(__file__).with_name("known.yaml")
TRIES: Final = 2
"""A model may answer otherwise when it has seen a prompt before: what differs is played once
more, straight and proxied, and must then be equal."""

_ROLE_CAPABILITIES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    role: (frozenset(has.split()), frozenset(has_not.split()))
    for role, has, has_not in (
        ("chat", "completion", ""),
        ("other", "completion", ""),
        ("embed", "embedding", "completion"),
        ("tools", "completion tools", ""),
        ("toolless", "completion", "tools"),
        ("vision", "completion vision", ""),
        ("sightless", "completion", "vision"),
        ("thinking", "completion thinking", ""),
        ("thoughtless", "completion", "thinking"),
        ("insert", "completion insert", ""),
        ("insertless", "completion", "insert"),
        ("audio", "completion audio", ""),
    )
}


class Verdict(Enum):
    """What came of a case."""

    SAME = "same"
    KNOWN = "known"
    SKIPPED = "skipped"
    DIFFERS = "DIFFERS"
    STALE = "NO LONGER DIFFERS"
    FAILED = "FAILED"

    @property
    def is_bad(self) -> bool:
        """Whether the run as a whole has failed by it."""
        return self in {Verdict.DIFFERS, Verdict.STALE, Verdict.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A difference that has been looked into.

    Attributes:
        cause: one sentence; where there is none to give, the difference is not known.
        cases: patterns for the names of cases, `*` for any text; it must be there in each.
        kinds: patterns for the kinds of what differs; at least one must be there.
        sometimes: it depends on what happened before, and may not be there.
    """

    cause: str
    cases: tuple[str, ...]
    kinds: tuple[str, ...]
    sometimes: bool = False

    def lists(self, case: Case) -> bool:
        """Whether it is said to be there in this case."""
        return any(_matches(case.name, pattern) for pattern in self.cases)

    def covers(self, case: Case, difference: Difference) -> bool:
        """Whether it is this difference."""
        return self.lists(case) and any(_matches(difference.kind, kind) for kind in self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One line of the table."""

    case: Case
    verdict: Verdict
    masks: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    reason: str = ""
    took_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class Plan:
    """What to run, and how strictly.

    Attributes:
        roles: names of models by role, before what is found out from the upstream.
        known: differences that count as known.
        settle_s: what a proxy needs to see what was done to the Ollama behind its back: the
            straight side loads and unloads there, too.
    """

    straight: str
    proxied: str
    only: str = "*"
    leave: Leave = field(default_factory=Leave)
    roles: dict[str, str] = field(default_factory=dict)
    known: Sequence[Known] = ()
    timeout_s: float = 120.0
    settle_s: float = 0.0


def load_known(path: Path) -> list[Known]:
    """Read a list of known differences.

    Raises:
        KeyError: an entry lacks a part.
    """
    entries = yaml.safe_load(path.read_text("utf-8")) or []
    return [
        Known(
            cause=entry["cause"],
            cases=tuple(entry["cases"]),
            kinds=tuple(entry["kinds"]),
            sometimes=entry.get("sometimes", False),
        )
        for entry in entries
    ]


def select(cases: Iterable[Case], pattern: str) -> list[Case]:
    """The cases whose names match, or begin so."""
    return [case for case in cases if _matches(case.name, pattern) or _matches(case.group, pattern)]


def find_roles(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Who plays what: of those who can, the smallest; a role nobody can play is left out.

    Args:
        models: of `GET /api/tags`.
    """
    local = sorted(
        (m for m in models if not m.get("remote_host") and "/" not in m["name"]),
        key=lambda m: (m["size"], m["name"]),
    )
    found: dict[str, str] = {}
    for role, (has, has_not) in _ROLE_CAPABILITIES.items():
        able = [
            m["name"] for m in local if has <= _capabilities(m) and not has_not & _capabilities(m)
        ]
        taken = found.get("chat") if role == "other" else None
        fits = [name for name in able if name != taken]
        if fits:
            found[role] = fits[0]
    stubs = [m["name"] for m in models if m.get("remote_host")]
    return found | ({"stub": stubs[0]} if stubs else {})


def _capabilities(model: Mapping[str, Any]) -> set[str]:
    return set(model.get("capabilities") or ())


def values_of(roles: Mapping[str, str]) -> dict[str, str]:
    """Roles, and the spellings of their names that cases ask for."""
    values = dict(roles)
    for role, name in roles.items():
        values[f"{role}_upper"] = name.upper()
        values[f"{role}_model"] = name.partition(":")[0]
        values[f"{role}_percent"] = name.replace(":", "%3A")
    return values


async def run(
    cases: Iterable[Case], plan: Plan, told: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run the cases that the plan selects, one after the other.

    Args:
        told: is told of each as it ends.

    Raises:
        StageError: the straight side is no Ollama.
    """
    scout = Side(plan.straight, "scout", {}, timeout_s=plan.timeout_s)
    models = (await scout.json("/api/tags"))["models"]
    for model in models:
        if "capabilities" not in model:  # an older Ollama lists none
            model |= {"capabilities": await scout.capabilities(model["name"])}
    roles = find_roles(models) | plan.roles
    values = values_of(roles) | {"run": uuid.uuid4().hex}
    sides = tuple(
        Side(url, label, values, timeout_s=plan.timeout_s, settle_s=settle_s)
        for url, label, settle_s in (
            (plan.straight, "a", 0.0),
            (plan.proxied, "b", plan.settle_s),
        )
    )
    outcomes = []
    for case in select(cases, plan.only):
        began = time.monotonic()
        outcome = await _run_one(case, sides, roles, plan)
        outcome = dataclasses.replace(outcome, took_s=time.monotonic() - began)
        told(outcome)
        outcomes.append(outcome)
    return outcomes


async def _run_one(
    case: Case, sides: tuple[Side, ...], roles: Mapping[str, str], plan: Plan
) -> Outcome:
    lacking = sorted(roles_of(case) - set(roles))
    if lacking:
        reason = "nobody is " + ", nor ".join(ROLES[role] for role in lacking)
        return Outcome(case=case, verdict=Verdict.SKIPPED, reason=reason)
    compared = Compared([], set())
    for _ in range(TRIES):
        try:
            straight, proxied = [await side.play(case) for side in sides]
        except (StageError, OSError) as error:
            return Outcome(case=case, verdict=Verdict.FAILED, reason=repr(error))
        compared = _compare_all(straight, proxied, plan.leave)
        if not compared.differences:
            break
    return _judge(case, compared, plan.known)


def _compare_all(
    straight: Sequence[Answered], proxied: Sequence[Answered], leave: Leave
) -> Compared:
    whole = Compared([], set())
    for index, (one, other) in enumerate(zip(straight, proxied, strict=True), start=1):
        part = compare(one, other, leave)
        where = f"answer {index}: " if len(straight) > 1 else ""
        whole.masks |= part.masks
        whole.differences += [
            dataclasses.replace(difference, text=where + difference.text)
            for difference in part.differences
        ]
    return whole


def _judge(case: Case, compared: Compared, known: Sequence[Known]) -> Outcome:
    """A known difference must be there, and every difference known, or the run has failed."""
    listed = [entry for entry in known if entry.lists(case)]
    new = [d for d in compared.differences if not any(k.covers(case, d) for k in listed)]
    due = (entry for entry in listed if not entry.sometimes)
    stale = [k for k in due if not any(k.covers(case, d) for d in compared.differences)]
    verdict, reason = Verdict.SAME, ""
    if new:
        verdict = Verdict.DIFFERS
    elif stale:
        verdict = Verdict.STALE
        reason = f"listed as known: {', '.join(stale[0].kinds)}: {stale[0].cause}"
    elif compared.differences:
        verdict = Verdict.KNOWN
        reason = "; ".join(dict.fromkeys(entry.cause for entry in listed))
    return Outcome(
        case=case,
        verdict=verdict,
        masks=tuple(sorted(compared.masks)),
        differences=tuple(new or compared.differences),
        reason=reason,
    )


def _matches(text: str, pattern: str) -> bool:
    """Like a shell's pattern, but that brackets stand for themselves."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), text) is not None
