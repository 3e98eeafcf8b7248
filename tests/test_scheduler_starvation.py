"""Nobody waits for longer than is proved, whatever all others do.

Adversaries against the scheduler with a fixed longest service `s`. The bound is computed from the
parameters (`tests/fuzz_bound.py`, `docs/scheduling.md`) and asked of every start; what the figures
come to in practice is asked where a figure is promised.
"""

from collections.abc import Iterable

import pytest

from ollama_gate.scheduler.types import Priority
from tests import fuzz_case as fc
from tests.fuzz_scene import Scene

LENGTH_S = 1000.0
HIGH, NORMAL, LOW = Priority
BIG = tuple(fc.Model(name=name, size=16.0, real=16.0, load_s=4.0) for name in "abc")
SERVICE_S = 4.0


def arrivals(models: Iterable[int], every_s: float, give_up_s: float) -> list[fc.Arrive]:
    """High-priority clients without end, of these models by turns, who give up at last."""
    order = list(models)
    return [
        fc.Arrive(
            at=number * every_s,
            number=number,
            model=order[number % len(order)],
            priority=HIGH,
            client=f"client{number % 7}",
            service_s=SERVICE_S,
            give_up_s=give_up_s,
        )
        for number in range(int(LENGTH_S / every_s))
    ]


def patient(model: int, every_s: float = 200.0, priority: Priority = LOW) -> list[fc.Arrive]:
    """Somebody who waits, now and then."""
    return [
        fc.Arrive(
            at=50.0 + number * every_s,
            number=100_000 + number,
            model=model,
            priority=priority,
            client="patient",
            service_s=SERVICE_S,
        )
        for number in range(int((LENGTH_S - 400.0) / every_s))
    ]


def performed(setup: fc.Setup, *stimuli: fc.Stimulus, bounded: bool = True) -> Scene:
    in_order = tuple(sorted(stimuli, key=lambda stimulus: stimulus.at))
    scene = Scene(fc.Case(setup=setup, stimuli=in_order), views=False, bounded=bounded)
    scene.run()
    return scene


FOUR_SLOTS = fc.Setup(models=BIG, parallel=4, look_every_s=60.0)
ONE_SLOT = fc.Setup(models=BIG, parallel=1, look_every_s=60.0)
EVERY_S = 1 / 1.6
"""With four slots of four seconds it is 1.6 times what one model can serve."""


@pytest.mark.parametrize(("flooded", "longest_s"), [((0,), 350.0), ((0, 1), 800.0)])
def test_a_low_request_is_served_soon_beside_a_flood_of_high_ones(
    flooded: tuple[int, ...], longest_s: float
) -> None:
    scene = performed(FOUR_SLOTS, *arrivals(flooded, EVERY_S, 200.0), *patient(2))
    assert 300.0 < scene.longest_s[LOW] <= longest_s


# -------------------------------------------------------------------- against the bound

TIGHT = (
    ("tau_s", (5.0, 20.0, 40.0)),
    ("tau_cap_s", (10.0, 40.0, 80.0)),
    ("kappa", 1.0),
    ("kappa_hi", 1.0),
    ("k_load", 1),
    ("k_slot", 2),
)
"""So little patience that the bound is a matter of minutes."""

UNTIL_S = 500.0


def tight(**changes: object) -> fc.Setup:
    given: dict[str, object] = {"models": BIG, "policy": TIGHT, **changes}
    return fc.Setup(**given)  # type: ignore[arg-type]


def flood(model: int, priority: Priority = HIGH, **changes: object) -> fc.Flood:
    given: dict[str, object] = {"clients": 6, "service_s": SERVICE_S, "until": UNTIL_S, **changes}
    return fc.Flood(at=0.0, number=model, model=model, priority=priority, **given)  # type: ignore[arg-type]


def waiting_for(model: int, every_s: float = 60.0) -> list[fc.Arrive]:
    return [each for each in patient(model, every_s) if each.at < UNTIL_S - 100.0]


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("floods", [(0,), (0, 1)])
def test_no_flood_makes_anybody_wait_for_longer_than_the_bound(
    floods: tuple[int, ...], slots: int
) -> None:
    scene = performed(tight(parallel=slots), *map(flood, floods), *waiting_for(2))
    # It is the flood that makes them wait, and only the guard that ends it.
    assert scene.longest_s[LOW] > 40.0


def test_nor_does_one_of_the_same_class() -> None:
    scene = performed(tight(), flood(0, LOW), flood(1, LOW), *waiting_for(2))
    assert scene.longest_s[LOW] > 40.0


def test_nor_does_one_on_the_same_model() -> None:
    scene = performed(tight(), flood(0), *waiting_for(0))
    assert scene.longest_s[LOW] > 40.0
    assert scene.books.loads == 1


def test_nor_does_whoever_asks_for_a_model_as_soon_as_it_is_drained() -> None:
    again = fc.Resurrect(at=0.0, number=9, until=UNTIL_S, times=200)
    scene = performed(tight(), flood(0), flood(1), again, *waiting_for(2))
    sent = scene.resurrections[0][1]
    assert len(sent) > 10
    assert scene.longest_s[LOW] > 40.0


def test_nor_does_whoever_asks_and_goes_before_he_is_served() -> None:
    storms = [fc.Storm(at=3.0 + 7.0 * number, model=1) for number in range(60)]
    many = [
        fc.Arrive(at=2.0 * number, number=number, model=1, priority=HIGH, service_s=SERVICE_S)
        for number in range(200)
    ]
    scene = performed(tight(), flood(0), *many, *storms, *waiting_for(2))
    assert scene.longest_s[LOW] > 40.0


def test_nor_does_memory_that_others_take_and_give_back() -> None:
    # What is left has always room for one of the three, and never for two.
    others = [fc.Foreign(at=1.0 + 5.0 * number, size=6.0 * (number % 2)) for number in range(100)]
    setup = tight(capacity=None, read_every_s=1.0, returns_s=0.5)
    scene = performed(setup, flood(0), flood(1), *others, *waiting_for(2))
    assert scene.longest_s[LOW] > 40.0


@pytest.mark.parametrize("upstreams", [("u", "u"), ("u", "v")])
def test_nor_do_floods_over_two_bins(upstreams: tuple[str, str]) -> None:
    bins = tuple((f"{upstream}/{number}", upstream) for number, upstream in enumerate(upstreams))
    setup = tight(bins=bins, max_loaded=6)
    performed(setup, flood(0), flood(1), *waiting_for(2))


def test_with_the_figures_of_every_day_no_flood_comes_near_the_bound() -> None:
    scene = performed(ONE_SLOT, flood(0, until=1000.0), flood(1, until=1000.0), *patient(2, 300.0))
    assert scene.longest_s[LOW] <= 800.0
