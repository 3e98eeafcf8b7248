"""The twenty invariants, as far as a small play says more than a fuzzed history.

Every history of `tests/fuzz_*.py` and every seed of `tests/world.py` is judged by all of them that
can be seen from outside; the numbers are those of `docs/scheduling.md`, which says where each is
tested. Here are those that need two runs to compare, or a workload of one kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward, Load, Unload
from ollama_gate.scheduler.fairness import Fairness
from ollama_gate.scheduler.types import Policy, Priority
from tests import fuzz_case as fc
from tests.fuzz_draw import draw
from tests.fuzz_scene import Scene, staged

HIGH, NORMAL, LOW = Priority
GROWN_UP = (("tau_s", (1e6, 1e6, 1e6)), ("tau_cap_s", (1e6, 1e6, 1e6)))
"""Patience without end: only classes, clients and the index decide."""

few = settings(max_examples=12)
"""Whole histories: a second has room for few."""

seeds = st.integers(0, 100_000)
times = st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0, 30.0]), min_size=1, max_size=12)


def performed(setup: fc.Setup, stimuli: Sequence[fc.Stimulus]) -> Scene:
    scene = Scene(fc.Case(setup=setup, stimuli=tuple(sorted(stimuli, key=lambda s: s.at))))
    scene.run()
    return scene


def commanded(scene: Scene) -> list[Command]:
    return [command for _, _, commands in scene.told for command in commands]


def started(scene: Scene) -> list[str]:
    return [command.id for command in commanded(scene) if isinstance(command, Forward)]


# -------------------------------------------------------------------- 10: fair between clients


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0.1, 9.0), st.floats(0.1, 9.0), st.booleans()),
        max_size=40,
    )
)
def test_nobody_banks_the_time_in_which_he_asked_for_nothing(
    steps: list[tuple[int, float, float, bool]],
) -> None:
    fairness, waiting = Fairness(), list[str]()
    for number, expected_s, took_s, comes in steps:
        client = f"client{number}"
        if comes and client not in waiting:
            least = min((fairness.counter(LOW, other) for other in waiting), default=0.0)
            waiting.append(client)
            fairness.returns(LOW, client, waiting)
            assert fairness.counter(LOW, client) >= least
        elif client in waiting:
            fairness.starts(LOW, client, expected_s)
            fairness.ends(LOW, client, expected_s, took_s)
            waiting.remove(client)


@few
@given(
    services=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=2, max_size=2),
    slots=st.integers(1, 4),
)
def test_two_clients_who_always_wait_differ_by_two_charges_at_most(
    services: list[float], slots: int
) -> None:
    floods = [
        fc.Arrive(at=0.0, number=100 * client + number, client=f"c{client}", service_s=service_s)
        for client, service_s in enumerate(services)
        for number in range(30)
    ]
    setup = fc.Setup(parallel=slots, policy=(*GROWN_UP, ("queue_max_size", 1000)))
    scene = performed(setup, floods)
    # Charged with what is expected at first, so that may be the largest charge; and what runs
    # now is not settled yet.
    most = (2 + slots) * max(*services, Policy().first_service_s)
    served, begun = [0.0, 0.0], [0, 0]
    for request_id in started(scene):
        client = int(request_id[1:]) // 100
        served[client] += services[client]
        begun[client] += 1
        if max(begun) < 30:
            assert abs(served[0] - served[1]) <= most


# -------------------------------------------------------------------- 11: determinism


@few
@given(seed=seeds)
def test_the_same_history_gives_the_same_commands(seed: int) -> None:
    case = draw(seed % 2000)
    scene = Scene(case, views=False)
    scene.run()
    again = staged(case.setup)
    for at, event, commands in scene.told:
        assert again.handle(event, at) == commands


# -------------------------------------------------------------------- 12: time alone


@few
@given(seed=seeds)
def test_nothing_happens_between_an_event_and_the_time_it_wakes(seed: int) -> None:
    case = draw(seed % 2000)
    scene = Scene(case, views=False)
    scene.run()
    again = staged(case.setup)
    for (at, event, commands), (later, _, _) in pairwise(scene.told[:150]):
        assert again.handle(event, at) == commands
        wake = again.next_wakeup()
        between = at + (later - at) / 2
        if at < between < later and (wake is None or between < wake):
            assert again.handle(ev.Ticked(), between) == []


# -------------------------------------------------------------------- 16: no thrash


@pytest.mark.parametrize(("kappa", "load_s", "service_s"), [(1, 4, 0.5), (3, 1, 2), (6, 4, 2)])
def test_two_models_with_work_without_end_change_places_seldom(
    kappa: float, load_s: float, service_s: float
) -> None:
    models = tuple(fc.Model(name=name, size=16.0, real=16.0, load_s=load_s) for name in "ab")
    policy = (("tau_s", (0.0,) * 3), ("tau_cap_s", (0.0,) * 3), ("kappa", kappa))
    until = 120.0
    floods = [
        fc.Flood(at=0.0, number=n, model=n, service_s=service_s, until=until, priority=NORMAL)
        for n in range(2)
    ]
    scene = performed(fc.Setup(models=models, policy=policy), floods)
    loads = sum(isinstance(c, Load) for at, _, cs in scene.told if at <= until for c in cs)
    assert loads <= 2 + until / (kappa * 2 * load_s)


# -------------------------------------------------------------------- 18: classes


@few
@given(classes=st.lists(st.sampled_from(Priority), min_size=2, max_size=12))
def test_of_those_who_came_together_a_higher_class_never_starts_after_a_lower(
    classes: list[Priority],
) -> None:
    arrivals = [
        fc.Arrive(at=0.0, number=number, priority=priority, client=str(number % 3))
        for number, priority in enumerate(classes)
    ]
    scene = performed(fc.Setup(policy=GROWN_UP), arrivals)
    order = [classes[int(request_id[1:])] for request_id in started(scene)]
    # The first to come is the one whom it is loaded for, and all wait for that.
    assert order == sorted(order)


# -------------------------------------------------------------------- 20: what needs no thought


@few
@given(pauses=times, service_s=st.sampled_from([0.2, 3.0]))
def test_one_client_of_one_model_with_one_slot_is_served_in_turn(
    pauses: list[float], service_s: float
) -> None:
    at, arrivals = 0.0, list[fc.Arrive]()
    for number, pause_s in enumerate(pauses):
        at += pause_s
        arrivals.append(fc.Arrive(at=at, number=number, service_s=service_s))
    scene = performed(fc.Setup(), arrivals)
    assert started(scene) == [f"r{number}" for number in range(len(pauses))]
    # And one model alone is never asked to go.
    assert not [command for command in commanded(scene) if isinstance(command, Unload)]


@few
@given(seed=seeds)
def test_where_all_models_fit_each_is_loaded_once(seed: int) -> None:
    case = draw(seed % 5000)
    arrivals = [
        replace(stimulus, kind="plain", keep_alive_s=None)
        for stimulus in case.stimuli
        if isinstance(stimulus, fc.Arrive)
    ]
    models = tuple(
        replace(model, size=3.0, real=3.0, bin=None, pinned=False) for model in case.setup.models
    )
    setup = fc.Setup(models=models, max_loaded=6, parallel=case.setup.parallel)
    scene = performed(setup, arrivals)
    loaded = [command.model for command in commanded(scene) if isinstance(command, Load)]
    assert len(loaded) == len(set(loaded))
    assert not [command for command in commanded(scene) if isinstance(command, Unload)]
