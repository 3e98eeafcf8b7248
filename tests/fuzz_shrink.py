"""Make a failing case short: leave out what it fails without, then make plainer what is left.

Delta debugging over the drawn stimuli (Zeller and Hildebrandt's `ddmin`), then over their fields
and the set-up. A shorter case counts only if it breaks the same rule.
"""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from tests.fuzz_case import Case, Stimulus
from tests.fuzz_law import ViolationError
from tests.fuzz_scene import Scene

TRIES = 3000
"""So many performances a case is worth."""

Fails = Callable[[Case], bool]


def rule_of(error: BaseException) -> str:
    """What was broken: one of our rules, or the place of an assertion inside the scheduler."""
    if isinstance(error, ViolationError):
        return error.rule
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else trace.tb_frame.f_code.co_qualname
    return f"{type(error).__name__} in {where}"


def broken_by(case: Case) -> str | None:
    """Which rule a case breaks; `None` for none."""
    scene = Scene(case)
    try:
        scene.run()
    except Exception as error:  # noqa: BLE001  # whatever it raises is what is looked for
        return rule_of(error)
    return None


def shrink(case: Case, rule: str, *, tries: int = TRIES) -> Case:
    """The shortest case found that breaks a rule which this one breaks."""
    left = [tries]

    def fails(candidate: Case) -> bool:
        left[0] -= 1
        return left[0] > 0 and broken_by(candidate) == rule

    before = None
    while before != case:
        before = case
        case = replace(case, stimuli=_fewest(case, fails))
        case = _plainer_setup(case, fails)
        case = _plainer_stimuli(case, fails)
    return case


def _fewest(case: Case, fails: Fails) -> tuple[Stimulus, ...]:
    stimuli, size = list(case.stimuli), max(1, len(case.stimuli) // 2)
    while size >= 1:
        start, shorter = 0, False
        while start < len(stimuli):
            rest = stimuli[:start] + stimuli[start + size :]
            if fails(replace(case, stimuli=tuple(rest))):
                stimuli, shorter = rest, True
            else:
                start += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return tuple(stimuli)


def _plainer_setup(case: Case, fails: Fails) -> Case:
    for name, value in _plainer(case.setup):
        candidate = replace(case, setup=replace(case.setup, **{name: value}))
        case = candidate if fails(candidate) else case
    for entry in case.setup.policy:
        policy = tuple(each for each in case.setup.policy if each != entry)
        candidate = replace(case, setup=replace(case.setup, policy=policy))
        case = candidate if fails(candidate) else case
    return case


def _plainer_stimuli(case: Case, fails: Fails) -> Case:
    for place in range(len(case.stimuli)):
        for name, value in _plainer(case.stimuli[place]):
            one = replace(case.stimuli[place], **{name: value})
            stimuli = (*case.stimuli[:place], one, *case.stimuli[place + 1 :])
            candidate = replace(case, stimuli=stimuli)
            case = candidate if fails(candidate) else case
    return case


def _plainer(record: Any) -> Iterator[tuple[str, Any]]:
    """Each field that is not as it is by default, and how it would be; a time, rounded."""
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name == "models":
            yield field.name, tuple(replace(model, real=model.size) for model in value)
        elif field.default is not MISSING and value != field.default and field.name != "policy":
            yield field.name, field.default
        elif field.name == "at" and value != round(value):
            yield field.name, float(round(value))
