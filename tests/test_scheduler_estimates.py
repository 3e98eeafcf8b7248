"""How long those who wait are told that they will: stories with sums that are easily done.

A load takes 2 s, an unload 1 s and an answer 4 s; see `a_plain_play`.
"""

from typing import Any

import pytest

from ollama_gate.scheduler.commands import Refuse
from ollama_gate.scheduler.types import (
    Launch,
    ModelKey,
    Refusal,
    Waiting,
)
from tests.play import HIGH, LOW, Play, a_plain_play, a_resident

A = ModelKey("a")


def waiting(play: Play) -> dict[str, Waiting]:
    return {each.request.id: each for each in play.snapshot().waiting}


def estimates(play: Play) -> dict[str, float | None]:
    return {name: each.estimate_s for name, each in waiting(play).items()}


def busy(at: float = 2.0, **more: Any) -> Play:
    """`a` has just been loaded for the request that it serves."""
    play = a_plain_play(**more)
    play.arrives(0, "a1", "a")
    play.loaded(at, "a")
    return play


# -------------------------------------------------------------------- at one model


def test_who_waits_for_a_slot_waits_for_what_is_left_of_the_answers_before_it() -> None:
    play = busy()
    for number in range(2, 5):
        play.arrives(3, f"a{number}", "a")
    assert estimates(play) == {"a2": 3, "a3": 7, "a4": 11}
    assert [each.ahead for each in waiting(play).values()] == [0, 1, 2]


def test_an_answer_that_takes_longer_than_usual_is_expected_to_take_a_while_yet() -> None:
    play = busy()
    play.arrives(30, "a2", "a")
    assert estimates(play) == {"a2": pytest.approx(0.3 * 4)}


def test_several_slots_get_free_that_much_sooner() -> None:
    play = a_plain_play()
    for number in range(5):
        play.arrives(0, f"a{number}", "a", parallel=2)
    # Two start when it is there; then one ends every 2 s on average.
    assert estimates(play) == {"a0": 2, "a1": 2, "a2": 4, "a3": 6, "a4": 8}


def test_a_load_that_takes_longer_than_usual_is_expected_to_take_a_while_yet() -> None:
    play = a_plain_play()
    play.arrives(0, "a1", "a")
    assert estimates(play) == {"a1": 2}
    play.ticks(1.5)
    assert estimates(play) == {"a1": pytest.approx(0.6)}


def test_a_higher_class_starts_first_and_then_whoever_was_served_less() -> None:
    play = busy()
    play.arrives(2, "a2", "a", client="much")
    play.arrives(2, "a3", "a", client="much")
    play.arrives(2, "a4", "a", client="little")
    play.arrives(2, "a5", "a", priority=HIGH)
    told = waiting(play)
    assert {name: each.ahead for name, each in told.items()} == {"a5": 0, "a2": 1, "a4": 2, "a3": 3}
    assert told["a3"].client_waiting == 2
    assert estimates(play)["a3"] == 4 + 3 * 4


def test_a_client_is_told_how_much_more_it_had_than_the_least_served() -> None:
    play = busy(half_life_s=120.0)
    play.arrives(2, "b1", "a", client="b")
    play.leaves(6, "a1")
    play.arrives(7, "c1", "a", client="c")
    play.arrives(7, "b2", "a", client="b")
    lead = {name: each.client_lead_s for name, each in waiting(play).items()}
    assert lead["c1"] == 0
    assert lead["b2"] >= 0


def test_an_overdue_one_is_passed_by_so_many_at_the_most() -> None:
    play = busy(k_slot=2, tau_s=(10, 10, 10), tau_cap_s=(10, 10, 10))
    play.arrives(2, "low", "a", priority=LOW)
    play.arrives(2, "old", "a", priority=LOW)
    play.arrives(12, "h0", "a", priority=HIGH)
    for number in range(1, 4):
        play.arrives(13, f"h{number}", "a", priority=HIGH)
    told = waiting(play)
    assert told["low"].overdue
    assert not told["h3"].overdue
    order = sorted(told, key=lambda name: told[name].ahead)
    assert order == ["h0", "h1", "low", "h2", "h3", "old"]


def test_when_somebody_is_overdue_is_told_as_things_are_and_at_the_latest() -> None:
    play = busy(queue_max_wait_s=500.0)
    play.arrives(10, "a2", "a")
    one = waiting(play)["a2"]
    assert (one.overdue_at, one.overdue_latest_at, one.deadline_at) == (130, 610, 510)


# -------------------------------------------------------------------- one model after another


def test_the_next_model_is_there_when_the_one_before_has_been_done_with() -> None:
    play = busy()
    play.arrives(2, "a2", "a")
    play.arrives(2, "b1", "b")
    play.arrives(2, "b2", "b")
    # `a` is done after 8 s; then an unload, a load, and one answer before the other.
    assert estimates(play) == {"a2": 4, "b1": 8 + 1 + 2, "b2": 8 + 1 + 2 + 4}
    assert waiting(play)["b1"].models_ahead == ()


def test_what_is_decided_is_kept_to() -> None:
    play = a_plain_play()
    play.sees(1, a_resident("a"))
    play.arrives(2, "b1", "b")
    play.arrives(2, "c1", "c", size=16)
    assert estimates(play)["b1"] == 1 + 2
    assert waiting(play)["c1"].models_ahead == (("b", 6 / 7),)
    assert estimates(play)["c1"] == 3 + 4 + 1 + 2
    [a_bin] = play.snapshot().bins
    assert a_bin.for_request == "b1"
    assert a_bin.choice is not None
    assert [cost.name for cost in a_bin.choice.victims] == ["a"]


def test_what_is_more_urgent_is_loaded_first() -> None:
    play = busy()
    play.arrives(2, "low", "b", priority=LOW)
    play.arrives(2, "high", "c", size=16, priority=HIGH)
    told = waiting(play)
    assert told["high"].estimate_s == 4 + 1 + 2
    assert told["low"].estimate_s == 7 + 4 + 1 + 2
    assert [name for name, _ in told["low"].models_ahead] == ["c"]


def test_who_is_overdue_gets_the_place_of_one_that_has_had_its_turn() -> None:
    play = busy(tau_s=(10, 10, 10), tau_cap_s=(10, 10, 10), kappa=4)
    for number in range(2, 30):
        play.arrives(2, f"a{number}", "a")
    play.arrives(2, "b1", "b")
    # Its turn is 4 times the 4 s that both loads take, of which nothing has passed.
    assert estimates(play)["b1"] == 16 + 4 + 1 + 2
    assert estimates(play)["a2"] == 4
    last = estimates(play)["a29"]
    assert last is not None
    # Whoever had not started by then waits for another load.
    assert last > 27 * 4


def test_a_higher_class_has_less_to_wait_for() -> None:
    play = busy(tau_s=(5, 10, 10), tau_cap_s=(5, 10, 10), kappa=9, kappa_hi=3)
    for number in range(2, 30):
        play.arrives(2, f"a{number}", "a")
    play.arrives(2, "b1", "b", priority=HIGH)
    assert estimates(play)["b1"] == 12 + 4 + 1 + 2


def test_who_serves_without_a_queue_is_drained_for_somebody_overdue() -> None:
    play = busy(tau_s=(3, 3, 3), tau_cap_s=(3, 3, 3), first_service_s=100.0)
    play.arrives(2, "b1", "b")
    assert estimates(play)["b1"] == 100 + 1 + 2


def test_what_fits_beside_others_waits_for_the_loader_alone() -> None:
    play = a_plain_play()
    play.arrives(0, "c1", "c")
    play.arrives(0, "d1", "d")
    assert estimates(play) == {"c1": 2, "d1": 4}


def test_a_bin_is_kept_for_one_that_was_passed_over_often_enough() -> None:
    play = busy(tau_s=(0, 0, 0), tau_cap_s=(0, 0, 0), k_load=0, kappa=10)
    play.arrives(2, "a2", "a")
    play.arrives(3, "b1", "b")
    play.arrives(3, "c1", "c", size=16)
    [a_bin] = play.snapshot().bins
    assert (a_bin.target, a_bin.choice) == ("b", None)
    assert a_bin.kept_until is not None
    told = estimates(play)
    assert told["b1"] is not None
    assert told["c1"] is not None
    assert told["b1"] < told["c1"]


def test_of_two_options_of_a_model_the_second_waits_for_the_first() -> None:
    play = busy()
    play.arrives(2, "a2", "a", launch=Launch(num_gpu=1))
    play.arrives(2, "a3", "a", launch=Launch(num_gpu=2))
    told = estimates(play)
    assert told["a2"] == 4 + 1 + 2
    assert told["a3"] == 7 + 4 + 1 + 2


def test_those_whom_one_load_serves_wait_together() -> None:
    play = busy()
    play.arrives(2, "b1", "b", num_ctx=8192, least_ctx=8192)
    play.arrives(2, "b2", "b", num_ctx=8192, least_ctx=2048)
    assert estimates(play) == {"b1": 7, "b2": 11}


def test_what_is_pinned_never_makes_room() -> None:
    play = a_plain_play()
    play.sees(1, a_resident("a", pinned=True))
    play.arrives(2, "b1", "b")
    assert estimates(play) == {"b1": None}


def test_of_those_who_could_go_no_more_go_than_must() -> None:
    play = a_plain_play()
    play.sees(1, a_resident("c"), a_resident("d"), a_resident("e"))
    play.arrives(2, "b1", "b")
    assert estimates(play) == {"b1": 3}
    play.arrives(2, "x", "a")
    assert estimates(play)["x"] == 3 + 4 + 1 + 2


def test_a_bin_of_which_nothing_is_known_holds_one_at_a_time() -> None:
    play = a_plain_play(capacity=None)
    play.arrives(0, "c1", "c")
    play.arrives(0, "d1", "d")
    assert estimates(play) == {"c1": 2, "d1": 2 + 4 + 1 + 2}


def test_bins_work_side_by_side() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    both = ("u/0", "v/0")
    for model in ("a", "b", "c"):
        play.arrives(0, f"{model}1", model, size=20, bins=both)
    assert estimates(play) == {"a1": 2, "b1": 2, "c1": 2 + 4 + 1 + 2}


def test_twins_serve_together() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    both = ("u/0", "v/0")
    play.sees(1, a_resident("a"))
    play.sees(1, a_resident("a", bin="v/0"), upstream="v")
    for number in range(4):
        play.arrives(2, f"a{number}", "a", bins=both)
    assert estimates(play) == {"a2": 2, "a3": 4}
    play.arrives(2, "b1", "b", bins=("u/0",))
    assert waiting(play)["b1"].estimate_s is not None


def test_one_that_waits_for_a_runner_that_is_to_get_a_twin_is_served_by_what_is_there() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    both = ("u/0", "v/0")
    play.sees(1, a_resident("a"))
    play.sees(1, a_resident("b", bin="v/0"), upstream="v")
    play.released(1, "b")
    for number in range(9):
        play.arrives(2, f"a{number}", "a", bins=both)
    [mine, twins] = play.snapshot().bins
    assert (mine.target, twins.target) == (None, "a")
    assert estimates(play)["a1"] == 4


def test_an_upstream_that_is_away_lets_nobody_tell() -> None:
    play = a_plain_play()
    play.loses(1)
    play.arrives(2, "a1", "a")
    assert estimates(play) == {"a1": None}
    assert play.snapshot().newcomer_s == (None, None, None)


def test_one_upstream_may_be_away_while_another_answers() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    play.sees(1, a_resident("a"))
    play.arrives(1, "b1", "b")
    play.loses(1, "v")
    play.arrives(2, "c1", "c", bins=("v/0",))
    told = estimates(play)
    assert (told["b1"] is not None, told["c1"]) == (True, None)


def test_what_leaves_for_another_is_waited_for() -> None:
    play = a_plain_play()
    play.sees(1, a_resident("a"))
    play.arrives(2, "b1", "b")
    assert estimates(play) == {"b1": 3}
    play.unloaded(3, "a")
    assert estimates(play) == {"b1": 2}


# -------------------------------------------------------------------- slots that all share


def test_a_limit_over_all_models_is_waited_for_as_well() -> None:
    play = a_plain_play(max_concurrent=1)
    play.arrives(0, "c1", "c")
    play.loaded(2, "c")
    play.sees(2.5, a_resident("c"), a_resident("d"))
    play.arrives(3, "d1", "d")
    play.arrives(3, "d2", "d", priority=HIGH)
    assert estimates(play) == {"d2": 4, "d1": 8}


# -------------------------------------------------------------------- newcomers


def test_a_newcomer_waits_for_its_class_and_those_above() -> None:
    play = busy(half_life_s=120.0)
    play.arrives(2, "a2", "a", priority=HIGH)
    play.arrives(2, "a3", "a", priority=LOW)
    high, normal, low = play.snapshot().newcomer_s
    assert (high, normal) == (8, 8)
    assert low == 12


def test_where_nobody_comes_nobody_can_tell_what_a_newcomer_would_want() -> None:
    assert a_plain_play().snapshot().newcomer_s == (None, None, None)


def refusal(play: Play, model: str, at: float = 3.0, **more: Any) -> Refuse:
    [told] = play.arrives(at, f"late {at}", model, **more)
    assert isinstance(told, Refuse)
    return told


def full(**more: Any) -> Play:
    play = busy(queue_max_size=3, **more)
    for number in range(2, 5):
        play.arrives(2, f"a{number}", "a")
    return play


def test_who_finds_the_queue_full_is_told_to_come_back_after_the_wait_that_it_would_have() -> None:
    play = full()
    told = refusal(play, "a")
    assert (told.reason, told.retry_after_s) == (Refusal.QUEUE_FULL, 3 + 3 * 4)
    assert refusal(play, "a", 3.5, priority=HIGH).retry_after_s == 3
    # It is looked at anew once a second.
    assert refusal(play, "a", 4.5).retry_after_s == 1.5 + 3 * 4


def test_who_wants_what_nobody_waits_for_is_told_of_the_work_before_it() -> None:
    assert refusal(full(), "b").retry_after_s == 3 * 4


def test_nobody_is_told_to_come_back_before_a_second_or_after_two_minutes() -> None:
    assert refusal(full(first_service_s=0.01), "a").retry_after_s == 1
    assert refusal(full(first_service_s=500.0), "a").retry_after_s == 120


def test_a_client_that_has_as_many_as_it_may_is_told_the_same() -> None:
    play = busy(queue_max_per_client=2)
    play.arrives(2, "a2", "a", client="x")
    play.arrives(2, "a3", "a", client="x")
    told = refusal(play, "a", client="x")
    assert (told.reason, told.retry_after_s) == (Refusal.CLIENT_FULL, 3 + 2 * 4)
