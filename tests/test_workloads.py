"""The named workloads: drawn from a seed alone, and what their names say."""

import pytest

from ollama_gate.scheduler.types import Priority
from ollama_gate.simulator.discrete.workload import Workload, is_at
from ollama_gate.simulator.workloads import FAMILIES, Family
from ollama_gate.simulator.workloads.drawing import Draw, Traffic

SEEDS = range(20, 23)


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


def requests_of(workload: Workload) -> int:
    return len(workload.arrivals) + sum(len(agent.steps) for agent in workload.agents)


def exclude_each_other(workload: Workload, one: str, other: str) -> bool:
    """Whether Ollama would not keep both on the first card, in whatever order they come."""
    card = workload.upstreams[0].cards[0]
    room = card.total_bytes - card.reserve_bytes
    large, small = sorted(
        (workload.model(one).footprint_bytes, workload.model(other).footprint_bytes), reverse=True
    )
    return small > 0.8 * (room - large)


def test_a_seed_draws_the_same_workload_each_time(family: Family) -> None:
    assert family.make(7) == family.make(7)


def test_another_seed_draws_another_workload(family: Family) -> None:
    assert family.make(7) != family.make(8)


def test_a_workload_bears_its_familys_name_and_its_seed(family: Family) -> None:
    workload = family.make(7)

    assert (workload.name, workload.seed) == (family.name, 7)


def test_every_request_is_for_a_model_that_fits_somewhere_alone(family: Family) -> None:
    for seed in SEEDS:
        workload = family.make(seed)
        asked = {arrival.model for arrival in workload.arrivals}
        asked |= {step.model for agent in workload.agents for step in agent.steps}
        for name in asked:
            model = workload.model(name)
            assert any(
                is_at(model, upstream)
                and model.footprint_bytes <= card.total_bytes - card.reserve_bytes
                for _, upstream, card in workload.bins()
            )


def test_a_family_says_in_a_line_what_it_is(family: Family) -> None:
    assert 20 <= len(family.about) <= 100
    assert family.about.endswith(".")


def test_there_are_enough_requests_to_take_percentiles_of(family: Family) -> None:
    assert all(requests_of(family.make(seed)) >= 100 for seed in SEEDS)


def test_who_may_give_up_is_held_to_no_lower_bound(family: Family) -> None:
    all_are_served = all(arrival.is_served_by_all for arrival in family.make(7).arrivals)

    assert all_are_served or not family.bounded


@pytest.mark.parametrize("name", ["alt2", "alt2burst", "adv_hot", "adv_rr", "batch_chat", "flood1"])
def test_models_that_are_to_exclude_each_other_do(name: str) -> None:
    for seed in SEEDS:
        workload = FAMILIES[name].make(seed)
        names = [model.name for model in workload.models]
        for one in names:
            assert all(exclude_each_other(workload, one, other) for other in names if other != one)


def test_the_batch_and_the_chat_that_are_to_fit_do() -> None:
    workload = FAMILIES["batch_chat_fit"].make(7)

    assert not exclude_each_other(workload, "batch", "chat")


def test_a_batch_comes_at_once_and_low_and_the_chat_high() -> None:
    arrivals = FAMILIES["batch_chat"].make(7).arrivals

    batch = [arrival for arrival in arrivals if arrival.model == "batch"]
    assert len(batch) == 500
    assert {arrival.priority for arrival in batch} == {Priority.LOW}
    assert max(arrival.at_s for arrival in batch) <= 5.0
    assert {a.priority for a in arrivals if a.model == "chat"} == {Priority.HIGH}


def test_a_flood_is_more_than_the_card_can_do_and_high() -> None:
    arrivals = FAMILIES["flood1"].make(7).arrivals
    flood = [arrival for arrival in arrivals if arrival.client == "flood"]

    work_s = sum(arrival.work_s for arrival in flood) / 4**0.65
    assert work_s / max(arrival.at_s for arrival in flood) == pytest.approx(1.6, rel=0.1)
    assert {arrival.priority for arrival in flood} == {Priority.HIGH}


def test_traffic_of_a_load_keeps_the_card_busy_for_that_share() -> None:
    draw = Draw("some", 1)
    traffic = Traffic(draw, (draw.model("a", 5.0), draw.model("b", 7.0, parallel=1)), (0.7, 0.3))

    rate = traffic.rate(0.5)

    mean_a, mean_b = traffic.mean_s
    assert rate * (0.7 * mean_a / 4**0.65 + 0.3 * mean_b) == pytest.approx(0.5)


def test_work_has_the_mean_that_it_is_drawn_with() -> None:
    draw = Draw("some", 1)

    drawn = [draw.work_s(4.0) for _ in range(20_000)]

    mean = sum(drawn) / len(drawn)
    deviation = (sum((each - mean) ** 2 for each in drawn) / len(drawn)) ** 0.5
    assert mean == pytest.approx(4.0, rel=0.03)
    assert deviation / mean == pytest.approx(0.8, rel=0.05)
