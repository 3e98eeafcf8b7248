"""The lower bound on the makespan and the optimum of small cases: nobody is better than either."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_gate.simulator.discrete import (
    GB,
    Agent,
    Arrival,
    Brain,
    CardSpec,
    Contender,
    ModelSpec,
    MostDemanded,
    NotSmallError,
    Ollama,
    Step,
    Table,
    UpstreamSpec,
    Workload,
    World,
    load_s,
    lower_bound,
    optimum,
)
from ollama_gate.simulator.discrete.bound import _by_halves, _by_size, _leaving_out
from tests.discrete_play import a_model, a_workload, ask, drawn, on_card

EVERYBODY: list[Callable[[], Contender]] = [Brain, Ollama, Table, MostDemanded]

TINY_S = 1e-6


def exclusive(seed: int, requests: int = 30) -> Workload:
    """Two models that cannot be resident together, one slot each, sparse or in bursts."""
    rng = random.Random(seed)
    models = [
        a_model(
            name,
            14.0,
            parallel=1,
            start_s=rng.uniform(0.8, 1.6),
            unload_s=rng.uniform(0.4, 1.2),
            read_bytes_per_s=rng.uniform(2e9, 6e9),
        )
        for name in "ab"
    ]
    burst, at_s, arrivals = rng.choice([1, 6]), 0.0, []
    for number in range(requests):
        at_s += rng.expovariate(1 / (4.0 * burst)) if number % burst == 0 else 0.0
        arrivals.append(ask(at_s, rng.choice("ab"), rng.lognormvariate(0.7, 0.7)))
    return a_workload(models, arrivals, upstreams=(UpstreamSpec(max_loaded=8),), seed=seed)


# -------------------------------------------------------------------- the lower bound


@pytest.mark.parametrize("make", EVERYBODY)
@pytest.mark.parametrize("cards", [1, 2])
def test_nobody_ends_before_the_lower_bound(make: Callable[[], Contender], cards: int) -> None:
    for seed in range(3):
        # Sparse and crowded, so that each of the three arguments has its turn.
        workload = drawn(seed, cards=cards, gap_s=(0.1, 1.0, 4.0)[seed])
        result = World(workload, make()).run()
        assert result.makespan_s >= lower_bound(workload).makespan_s - TINY_S
        assert result.makespan_s >= lower_bound(workload, result.records).makespan_s - TINY_S


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_no_exhaustive_policy_ends_before_the_lower_bound(seed: int) -> None:
    rng = random.Random(seed)
    workload = drawn(seed, requests=30, cards=rng.choice([1, 2]), gap_s=rng.choice([0.0001, 0.3]))
    cached = tuple(
        replace(upstream, page_cache_bytes=rng.choice([0, 30 * GB]), cards=(card(rng),))
        for upstream in workload.upstreams
    )
    workload = replace(workload, upstreams=cached)
    for make in (Table, MostDemanded):
        result = World(workload, make()).run()
        assert result.makespan_s >= lower_bound(workload, result.records).makespan_s - TINY_S


def card(rng: random.Random) -> CardSpec:
    return CardSpec(total_bytes=rng.choice([24, 40]) * GB, speed=rng.choice([0.5, 1.0, 2.0]))


def test_one_request_alone_needs_its_load_and_its_work() -> None:
    workload = a_workload([a_model("a", 9.0)], [ask(0, "a", 10.0)])
    bound = lower_bound(workload)
    assert bound.makespan_s == bound.alone_s == 14.0
    assert World(workload, Table()).run().makespan_s == 14.0


def test_what_comes_late_takes_its_time_from_then_on() -> None:
    workload = a_workload([a_model("a", 9.0)], [ask(100, "a", 10.0)])
    assert lower_bound(workload).makespan_s == 110.0


def test_many_at_once_are_bounded_by_the_best_speed_of_all_cards() -> None:
    model = a_model("a", 9.0, parallel=4)
    workload = a_workload([model], [ask(0, "a", 10.0) for _ in range(40)])
    bound = lower_bound(workload)
    assert bound.makespan_s == pytest.approx(4 + 400 / 4**0.65)
    # There it is reached but for the end, when not all slots are taken.
    assert World(workload, Table()).run().makespan_s == pytest.approx(bound.makespan_s, rel=0.01)
    twice = replace(workload, upstreams=(UpstreamSpec(), UpstreamSpec(name="other")))
    assert lower_bound(twice).makespan_s == pytest.approx(4 + 200 / 4**0.65)


def test_models_that_cannot_be_together_need_the_sum_of_their_times() -> None:
    models = [a_model(name, 14.0, parallel=1) for name in "abc"]
    workload = a_workload(models, [ask(0, m.name, 10.0) for m in models])
    bound = lower_bound(workload)
    assert bound.memory_s == pytest.approx(3 * (1 + 14 / 3 + 10))
    assert bound.makespan_s == bound.memory_s


def test_a_large_model_counts_fully_where_all_but_the_small_are_left_out() -> None:
    # 17 of 24 leaves room for 7: nothing that is counted.
    models = [a_model("a", 17.0, parallel=1), a_model("b", 8.0, parallel=1)]
    workload = a_workload(models, [ask(0, "a", 50.0), ask(0, "b", 50.0)])
    halves = 1 + 17 / 3 + 50
    assert lower_bound(workload).memory_s > halves + (1 + 8 / 3 + 50) * 8 / 24 - TINY_S


@settings(max_examples=300)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=8), st.integers(1, 12))
def test_whatever_fits_together_weighs_at_most_one(sizes: list[int], share: int) -> None:
    together = [
        size for size, sum_ in zip(sizes, itertools.accumulate(sizes), strict=True) if sum_ <= 24
    ]
    for weigh in (_by_size, _by_halves, _leaving_out(Fraction(share, 24))):
        assert math.fsum(weigh(size, 24) for size in together) <= 1 + 1e-12


def test_an_agents_steps_follow_one_another() -> None:
    steps = tuple(Step(model="a", work_s=2.0, think_s=1.0) for _ in range(10))
    agent = Agent(client="x", steps=steps, starts_at_s=10.0)
    workload = a_workload([a_model("a", 9.0)], agents=(agent,))
    assert lower_bound(workload).makespan_s == pytest.approx(40.0)
    assert World(workload, Table()).run().makespan_s >= 40.0


def test_who_may_leave_without_an_answer_is_not_counted_unless_served() -> None:
    workload = a_workload([a_model("a", 9.0)], [ask(0, "a", 50.0, patience_s=100.0)])
    assert lower_bound(workload).makespan_s == 0.0
    result = World(workload, Table()).run()
    assert lower_bound(workload, result.records).makespan_s == 54.0


def test_a_page_cache_makes_loads_as_short_as_they_can_be() -> None:
    cached = (UpstreamSpec(page_cache_bytes=10 * GB, warm_bytes_per_s=9e9),)
    workload = a_workload([a_model("a", 9.0)], [ask(0, "a", 10.0)], upstreams=cached)
    assert lower_bound(workload).makespan_s == 12.0


# -------------------------------------------------------------------- the optimum


def all_orders(rows: tuple[list[Arrival], list[Arrival]]) -> Iterator[list[Arrival]]:
    total, first = len(rows[0]) + len(rows[1]), len(rows[0])
    for chosen in itertools.combinations(range(total), first):
        left = iter(rows[0]), iter(rows[1])
        yield [next(left[0 if place in chosen else 1]) for place in range(total)]


def played(workload: Workload, order: list[Arrival]) -> tuple[float, float]:
    """Mean wait and makespan of one order, changing over as soon as the one before has ended."""
    models: dict[str, ModelSpec] = {model.name: model for model in workload.models}
    now, waited, resident = 0.0, 0.0, None
    for arrival in order:
        if arrival.model != resident:
            now += models[resident].unload_s if resident is not None else 0.0
            now += load_s(models[arrival.model], workload.upstreams[0])
            resident = arrival.model
        now = max(now, arrival.at_s)
        waited += now - arrival.at_s
        now += arrival.work_s
    return waited / len(order), now


@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_the_best_of_all_orders(seed: int) -> None:
    workload = exclusive(seed, requests=8)
    rows = tuple([a for a in workload.arrivals if a.model == name] for name in "ab")
    outcomes = [played(workload, order) for order in all_orders((rows[0], rows[1]))]
    best = optimum(workload)
    assert best.mean_wait_s == pytest.approx(min(wait for wait, _ in outcomes))
    assert best.makespan_s == pytest.approx(min(end for _, end in outcomes))


@pytest.mark.parametrize("make", EVERYBODY)
def test_nobody_is_better_than_the_optimum(make: Callable[[], Contender]) -> None:
    for seed in range(6):
        workload = exclusive(seed)
        best, result = optimum(workload), World(workload, make()).run()
        assert result.waits().mean >= best.mean_wait_s - TINY_S
        assert result.makespan_s >= best.makespan_s - TINY_S
        assert lower_bound(workload).makespan_s <= best.makespan_s + TINY_S


def test_the_optimum_changes_over_before_anybody_has_asked() -> None:
    models = [a_model(name, 14.0, parallel=1) for name in "ab"]
    workload = a_workload(models, [ask(10, "a", 1.0), ask(50, "b", 1.0)])
    assert optimum(workload).mean_wait_s == 0.0
    assert optimum(workload).makespan_s == 51.0


SMALL = a_workload(
    [a_model("a", 14.0, parallel=1), a_model("b", 14.0, parallel=1)], [ask(0, "a"), ask(1, "b")]
)


@pytest.mark.parametrize(
    "workload",
    [
        replace(SMALL, models=(*SMALL.models, a_model("c", 14.0, parallel=1))),
        replace(SMALL, models=tuple(replace(m, footprint_bytes=GB) for m in SMALL.models)),
        replace(SMALL, models=tuple(replace(m, parallel=2) for m in SMALL.models)),
        replace(SMALL, upstreams=(UpstreamSpec(page_cache_bytes=GB),)),
        replace(SMALL, upstreams=(UpstreamSpec(), UpstreamSpec(name="other"))),
        replace(SMALL, upstreams=on_card(foreign=((0.0, GB),))),
        replace(SMALL, arrivals=(ask(0, "a", patience_s=3.0),)),
        replace(SMALL, arrivals=()),
    ],
)
def test_the_optimum_of_anything_else_is_not_worked_out(workload: Workload) -> None:
    with pytest.raises(NotSmallError, match="expected"):
        optimum(workload)
