"""Other programs on a card: how much they hold, and when.

Times are simulated seconds from when the schedule begins. They get no more than is free when they
ask, as in life; what is given back later they do not ask for again.
"""

import random
from collections.abc import Sequence

from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.clock import Clock

Schedule = Sequence[tuple[float, int]]
"""From when on how many bytes are wanted, in order of time."""


async def play(schedule: Schedule, card: Card, clock: Clock) -> None:
    """Let the schedule happen."""
    began_s = clock.now()
    for at_s, size_bytes in schedule:
        await clock.sleep(began_s + at_s - clock.now())
        card.set_foreign(min(size_bytes, card.foreign_bytes + card.free_bytes))


def wandering(seed: int, *, most_bytes: int, every_s: float, until_s: float) -> Schedule:
    """A program that grows and shrinks at random and is gone in the end."""
    dice = random.Random(f"foreign {seed}")
    steps, at_s = [], dice.uniform(0, every_s)
    while at_s < until_s:
        steps.append((at_s, dice.choice((0, dice.randint(0, most_bytes)))))
        at_s += dice.uniform(0.2, 1.8) * every_s
    return [*steps, (until_s, 0)]
