"""Histories of everything that can happen, drawn from seeds. A failing one is told as a story.

`FUZZ_RUNS` raises the number of cases, for a long run.
"""

import os

import pytest

from tests.fuzz_case import Case
from tests.fuzz_draw import draw
from tests.fuzz_scene import Scene
from tests.fuzz_shrink import rule_of, shrink
from tests.fuzz_story import spell, story

RUNS = int(os.environ.get("FUZZ_RUNS", "200"))
BLOCK = 10


def told(case: Case, rule: str) -> str:
    """The shortest case that breaks a rule, as it is pasted into a test, and what happens in it."""
    short = shrink(case, rule)
    scene = Scene(short)
    try:
        scene.run()
    except Exception as error:  # noqa: BLE001  # that is what the story ends with
        return f"{error}\n\n{spell(short)}\n\n{story(short, scene)}"
    return "it does not fail any more"


@pytest.mark.parametrize("first", range(0, RUNS, BLOCK))
def test_no_history_breaks_a_rule(first: int) -> None:
    for seed in range(first, min(first + BLOCK, RUNS)):
        case = draw(seed)
        try:
            Scene(case).run()
        except Exception as error:
            message = f"seed {seed}: {told(case, rule_of(error))}"
            raise AssertionError(message) from error
