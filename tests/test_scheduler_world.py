"""The scheduler in a world that keeps its own books. A failing seed is the bug report.

`WORLD_SEEDS` raises the number of seeds, for a deep run.
"""

import os

import pytest

from tests.world import World

SEEDS = int(os.environ.get("WORLD_SEEDS", "300"))
BLOCK = 5


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_nothing_that_must_not_happen_happens(first: int) -> None:
    for seed in range(first, min(first + BLOCK, SEEDS)):
        world = World(seed)
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed} at {world.now:.3f} s: {error}") from error


@pytest.mark.parametrize("seed", [402, 662, 1212, 1302])
def test_it_wakes_when_what_others_hold_has_been_waited_for_despite_a_backlog(seed: int) -> None:
    World(seed).run()
