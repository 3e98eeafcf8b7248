"""Stories of memory: who makes room, what is pinned, which of several bins, and what is learned.

In most of them a load takes 2 s, an unload 1 s and an answer 4 s; see `a_plain_play`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler.commands import Choice, Command, Evicted, Forward, Load, Unload
from ollama_gate.scheduler.pace import Pace
from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Need, Policy
from tests.play import (
    GIB,
    HIGH,
    LOW,
    Play,
    a_plain_play,
    a_request,
    a_resident,
    evict,
    expire,
    forward,
    gib,
    load,
)

WIDE = Launch(num_ctx=8192)
BOTH = ("u/0", "v/0")


def the_choice(commands: list[Command]) -> Choice:
    """Why the one load that was ordered was ordered."""
    [choice] = [command.choice for command in commands if isinstance(command, Load)]
    return choice


def served(play: Play, at: float, request_id: str, model: str, **more: Any) -> None:
    """One answer of 1 s of a model that is loaded in 1 s, if it has to be."""
    where = more.get("bins", ("u/0",))[0]
    if play.arrives(at, request_id, model, **more):
        runner = play.machine.runners[BinId(where), ModelKey(model)]
        if not runner.resident:
            play.loaded(at + 1, model, where)
    play.leaves(at + 2, request_id)


# -------------------------------------------------------------------- who makes room


def test_what_is_often_asked_for_stays_though_it_has_been_idle_for_longer() -> None:
    play = a_plain_play(max_loaded=2, half_life_s=120.0)
    for number in range(10):
        served(play, 3.0 * number, f"hot {number}", "c")
    served(play, 30, "cold", "d")
    told = play.arrives(33, "e1", "e")
    assert told == [evict("d", "e", "max_loaded=2", idle=1)]
    [unload] = told
    assert isinstance(unload, Unload)
    assert isinstance(unload.reason, Evicted)
    assert unload.reason.cost is not None
    assert unload.reason.cost.predicted > 0
    assert (unload.reason.cost.known, unload.reason.cost.behind) == (0, 0)


def test_what_was_often_asked_for_long_ago_does_not_stay() -> None:
    play = a_plain_play(max_loaded=2, half_life_s=120.0, keep_alive_s=math.inf)
    for number in range(10):
        served(play, 3.0 * number, f"hot {number}", "c", default_keep_alive_s=math.inf)
    served(play, 3000, "cold", "d")
    assert play.arrives(3003, "e1", "e") == [evict("c", "e", "max_loaded=2", idle=3003 - 29)]


def test_where_nobody_is_expected_the_longest_unused_goes() -> None:
    play = a_plain_play(max_loaded=2)
    for number in range(10):
        served(play, 3.0 * number, f"hot {number}", "c")
    served(play, 30, "cold", "d")
    assert play.arrives(33, "e1", "e") == [evict("c", "e", "max_loaded=2", idle=4)]


def test_what_is_slow_to_load_stays() -> None:
    play = a_plain_play(max_loaded=2)
    play.arrives(0, "c1", "c")
    play.loaded(9, "c")
    play.leaves(10, "c1")
    served(play, 11, "d1", "d")
    assert play.arrives(13, "e1", "e") == [evict("d", "e", "max_loaded=2")]


def test_of_those_in_use_whoever_is_done_sooner_goes() -> None:
    play = a_plain_play(max_loaded=2, tau_s=(0, 0, 0))
    for at, model in [(0, "d"), (2, "c")]:
        play.arrives(at, f"{model}1", model)
        play.loaded(at + 1, model)
    play.arrives(3, "e1", "e")
    assert [each.name for each in play.snapshot().runners if each.draining] == ["d"]


def test_of_those_that_are_wanted_the_one_for_whom_less_waits_goes() -> None:
    play = a_plain_play(max_loaded=2, tau_s=(0, 0, 0), kappa=0)
    for at, model, waiting in [(0, "c", 3), (2, "d", 1)]:
        for number in range(waiting + 1):
            play.arrives(at, f"{model}{number}", model)
        play.loaded(at + 1, model)
    play.arrives(3, "e1", "e")
    assert [each.name for each in play.snapshot().runners if each.draining] == ["d"]


def test_those_who_wait_for_others_wait_for_a_reload_as_well() -> None:
    play = a_plain_play(max_loaded=2, tau_s=(0, 0, 0), kappa=0)
    play.arrives(0, "c1", "c")
    play.arrives(0, "c2", "c")
    play.loaded(2, "c")
    play.arrives(3, "d1", "d")
    play.loaded(4, "d")
    play.arrives(4, "e1", "e", priority=HIGH)
    play.leaves(5, "d1")
    told = play.unloaded(6, "d")
    assert told[0] == load("e", "e1", free=20, alone=False, waited=2)
    [cost] = the_choice(told).victims
    # It served nobody any more, and nobody was expected for it.
    assert (cost.name, cost.waiting, cost.known, cost.behind) == ("d", 0, 0, 0)


def test_a_small_one_is_not_evicted_beside_a_large_one_that_must_go_anyhow() -> None:
    play = a_plain_play()
    play.sees(0, a_resident("a"), a_resident("c"))
    assert play.arrives(1, "b1", "b") == [evict("a", "b", "12.0GiB", idle=1)]


def test_of_many_the_cheapest_are_asked_until_it_is_enough() -> None:
    play = a_plain_play(capacity=20.0, max_loaded=99)
    residents = [a_resident(f"small {n}", size=2.0) for n in range(9)]
    for number in range(1, 10):
        play.sees(number, *residents[:number])
    # 2 of 20 GiB are free: four of those that have idled longest go for 10.
    assert play.arrives(20, "big", "b", size=10.0, predicted=0.0) == [
        evict(f"small {n}", "b", "8.0GiB", idle=20 - 1 - n) for n in range(4)
    ]


# -------------------------------------------------------------------- pins


def test_what_is_pinned_is_never_evicted_and_never_expires() -> None:
    play = a_plain_play(keep_alive_s=10.0, tau_s=(0, 0, 0), k_load=0)
    play.sees(0, a_resident("a", pinned=True))
    assert play.arrives(1, "b1", "b", priority=HIGH) == []
    assert play.ticks(10_000) == []
    assert play.released(10_001, "a") == []
    assert play.arrives(10_002, "a1", "a", pinned=True) == [forward("a1")]


def test_who_has_no_room_beside_what_is_pinned_keeps_nobody_else_out() -> None:
    play = a_plain_play(tau_s=(0, 0, 0), k_load=0)
    play.sees(0, a_resident("a", pinned=True))
    assert play.arrives(1, "b1", "b", priority=HIGH) == []
    assert play.arrives(2, "c1", "c", priority=LOW) == [load("c", "c1", free=8, alone=False)]


def test_what_is_loaded_for_a_request_of_a_pinned_model_is_pinned() -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    play.arrives(0, "a1", "a", pinned=True, keep_alive_s=0.0)
    play.loaded(2, "a")
    assert play.leaves(3, "a1") == []
    assert play.arrives(4, "b1", "b") == []


def test_a_pinned_model_may_be_loaded_again_with_other_options() -> None:
    play = a_plain_play()
    play.sees(0, a_resident("a", pinned=True))
    assert play.arrives(1, "a1", "a", pinned=True, launch=WIDE, num_ctx=8192) == [
        evict("a", "a", "8.0GiB", idle=1)
    ]
    assert play.unloaded(2, "a") == [load("a", "a1", launch=WIDE, waited=1)]


def test_others_go_for_a_pinned_model() -> None:
    play = a_plain_play()
    play.sees(0, a_resident("a"))
    assert play.arrives(1, "b1", "b", pinned=True) == [evict("a", "b", "8.0GiB", idle=1)]


def test_what_is_pinned_stays_even_where_others_take_its_memory() -> None:
    play = a_plain_play(capacity=None)
    play.reads(0, 8)
    play.sees(1, a_resident("c", pinned=True), a_resident("d"))
    assert play.reads(2, 24) == [evict("d", "foreign memory", "1.2GiB", idle=1)]
    play.unloaded(3, "d")
    assert play.reads(4, 24) == []


# -------------------------------------------------------------------- several bins


def two_upstreams(**policy: Any) -> Play:
    """Two upstreams with a card each; a request may go to either."""
    return a_plain_play(bins={"u/0": "u", "v/0": "v"}, **policy)


def test_of_the_bins_with_room_the_fullest_is_taken() -> None:
    play = two_upstreams()
    play.sees(0, a_resident("c", bin="v/0"), upstream="v")
    assert play.arrives(1, "d1", "d", bins=BOTH) == [
        load("d", "d1", where="v/0", free=20, alone=False)
    ]


def test_a_bin_with_room_is_taken_before_anybody_is_evicted() -> None:
    play = two_upstreams()
    play.sees(0, a_resident("a"))
    play.sees(0, a_resident("c", bin="v/0"), upstream="v")
    assert play.arrives(1, "b1", "b", bins=BOTH) == [
        load("b", "b1", where="v/0", free=20, alone=False)
    ]


def test_where_somebody_must_go_it_is_where_that_costs_least() -> None:
    play = two_upstreams(half_life_s=120.0)
    for number in range(5):
        served(play, 3.0 * number, f"hot {number}", "a")
    play.sees(15, a_resident("b", bin="v/0"), upstream="v")
    assert play.arrives(16, "huge", "huge", size=22.0, bins=BOTH) == [
        evict("b", "huge", "14.0GiB", idle=1, where="v/0")
    ]


def test_a_bin_that_will_have_room_soon_is_waited_for_rather_than_to_evict_elsewhere() -> None:
    play = two_upstreams()
    play.sees(0, a_resident("a", bin="v/0"), upstream="v")
    assert play.arrives(1, "c1", "c", bins=("u/0",)) == [load("c", "c1")]
    assert play.arrives(2, "b1", "b", bins=BOTH) == []
    assert play.loaded(3, "c") == [
        load("b", "b1", free=20, alone=False, waited=1),
        forward("c1", 2),
    ]


def test_a_bin_that_will_be_full_is_not_waited_for() -> None:
    play = two_upstreams()
    play.sees(0, a_resident("a", bin="v/0"), upstream="v")
    assert play.arrives(1, "big", "huge", size=20.0, bins=("u/0",)) == [
        load("huge", "big", size=20)
    ]
    assert play.arrives(2, "b1", "b", bins=BOTH) == [evict("a", "b", "8.0GiB", idle=2, where="v/0")]


def test_a_bin_that_is_about_to_be_given_to_another_is_not_waited_for() -> None:
    play = two_upstreams()
    play.sees(0, a_resident("d"))
    play.sees(0, a_resident("a", bin="v/0"), upstream="v")
    assert play.arrives(1, "big", "huge", size=22.0, bins=("u/0",)) == [
        evict("d", "huge", "2.0GiB", idle=1)
    ]
    assert play.arrives(2, "b1", "b", bins=BOTH) == [evict("a", "b", "8.0GiB", idle=2, where="v/0")]


def test_the_best_is_placed_first_and_the_next_takes_what_is_left() -> None:
    play = two_upstreams()
    play.loses(0, "u")
    play.loses(0, "v")
    play.arrives(1, "a1", "a", bins=BOTH)
    play.arrives(1, "b1", "b", bins=BOTH, priority=HIGH)
    assert play.sees(2, upstream="u") == [load("b", "b1", waited=1)]
    assert play.sees(2, upstream="v") == [load("a", "a1", where="v/0", waited=1)]


def test_one_that_waits_for_any_bin_is_not_loaded_twice() -> None:
    play = two_upstreams()
    assert play.arrives(0, "a1", "a", bins=BOTH) == [load("a", "a1")]
    assert play.arrives(1, "a2", "a", bins=BOTH) == []


def test_who_may_go_to_one_bin_only_gets_its_model_there_too() -> None:
    play = two_upstreams()
    assert play.arrives(0, "a1", "a", bins=BOTH) == [load("a", "a1")]
    assert play.arrives(1, "a2", "a", bins=("v/0",)) == [load("a", "a2", where="v/0")]


def test_who_may_go_to_one_bin_only_does_not_wait_for_another_bin_to_be_emptied() -> None:
    play = two_upstreams(tau_s=(0, 0, 0))
    play.sees(0, a_resident("b"))
    play.arrives(1, "b1", "b", bins=("u/0",))
    play.arrives(2, "a1", "a", bins=("u/0",))
    assert play.snapshot().bins[0].target == "a"
    assert play.arrives(3, "a2", "a", bins=("v/0",)) == [load("a", "a2", where="v/0")]


def test_a_model_that_comes_to_another_upstream_is_the_same_there_whatever_its_context() -> None:
    play = two_upstreams(tau_s=(0, 0, 0))
    play.loses(0, "u")
    play.sees(0, a_resident("b", bin="v/0"), upstream="v")
    play.arrives(1, "b1", "b", bins=("v/0",))
    options: dict[str, Any] = {"launch": WIDE, "num_ctx": 8192}
    elsewhere = a_request("a1", "a", 2.0, bins=("v/0",), **options)
    play.arrives(2, "a1", "a", bins=BOTH, variants={BinId("v/0"): elsewhere})
    assert play.snapshot().bins[1].target == "a"
    # The other one answers again, but the model is on its way to where its place was made.
    assert play.sees(3) == []
    assert play.leaves(4, "b1") == [evict("b", "a", "8.0GiB", where="v/0")]
    assert play.unloaded(5, "b", "v/0") == [load("a", "a1", where="v/0", launch=WIDE, waited=3)]


def test_a_model_that_is_in_two_places_is_served_where_fewer_run() -> None:
    play = two_upstreams()
    resident = replace(a_resident("c"), parallel=3)
    play.sees(0, resident)
    play.sees(0, replace(resident, bin=BinId("v/0")), upstream="v")
    for number, where in enumerate(["u/0", "v/0", "u/0", "v/0"]):
        assert play.arrives(1, f"{number}", "c", bins=BOTH, parallel=3) == [
            forward(f"{number}", where=where)
        ]


def test_a_second_one_is_no_loss_though_somebody_waits_for_it() -> None:
    play = two_upstreams(tau_s=(0, 0, 0))
    play.sees(0, a_resident("a"))
    play.sees(0, a_resident("a", bin="v/0"), upstream="v")
    for number in range(3):
        play.arrives(1, f"a{number}", "a", bins=BOTH)
    play.arrives(2, "b1", "b", bins=BOTH)
    # Whoever waits for the one has the other; it does not even have a quantum.
    assert [each.draining for each in play.snapshot().runners].count(True) == 1


def test_each_upstream_has_its_own_slots_and_context() -> None:
    play = two_upstreams()
    play.loses(0, "u")
    elsewhere = a_request("1", "a", 1.0, parallel=4, num_ctx=2048, bins=("v/0",))
    [command] = play.arrives(1, "1", "a", bins=BOTH, variants={BinId("v/0"): elsewhere})
    assert isinstance(command, Load)
    assert command.bin == "v/0"
    runner = play.machine.runners[BinId("v/0"), ModelKey("a")]
    assert (runner.parallel, runner.num_ctx) == (4, 2048)


# -------------------------------------------------------------------- what is learned


def visit_s(play: Play, at: float, model: str = "a") -> float:
    """What a visit of a model is taken to cost, were it loaded now for one request."""
    seconds = the_choice(play.arrives(at, f"asks at {at}", model)).visit_s
    play.cancelled(at, f"asks at {at}")
    return seconds


def test_the_first_answer_replaces_the_guess_and_the_next_ones_move_the_mean() -> None:
    play = a_plain_play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(2, "a")
    play.leaves(12, "1")
    play.unloaded(13, "a")
    assert visit_s(play, 20) == 1 + 2 + 10
    play.loaded(22, "a")
    play.arrives(22, "2", "a", keep_alive_s=0.0)
    play.leaves(42, "2")
    play.unloaded(43, "a")
    assert visit_s(play, 50) == 1 + 2 + (10 + 0.2 * (20 - 10))


def test_an_answer_that_was_cut_teaches_nothing() -> None:
    play = a_plain_play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(2, "a")
    play.leaves(12, "1", completed=False)
    play.unloaded(13, "a")
    assert visit_s(play, 20) == 1 + 2 + 4


def test_the_first_load_replaces_the_guess_and_the_next_ones_move_the_mean() -> None:
    play = a_plain_play()
    served_s = []
    for at, load_s in [(0, 5), (100, 15), (200, 5)]:
        served_s.append(visit_s(play, at) - 1 - 4)
        play.arrives(at, f"{at}", "a", keep_alive_s=0.0)
        play.loaded(at + load_s, "a")
        play.leaves(at + load_s + 4, f"{at}")
        play.unloaded(at + load_s + 5, "a")
    assert served_s == [2, 5, 5 + 0.3 * (15 - 5)]


def test_how_long_memory_takes_to_come_back_is_learned_for_each_upstream() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(2, "a")
    play.leaves(6, "1")
    play.unloaded(9, "a")
    assert visit_s(play, 10) == 3 + 2 + 4
    told = play.arrives(20, "2", "b", bins=("v/0",))
    assert the_choice(told).visit_s == 1 + 2 + 4


def test_a_load_elsewhere_is_the_best_guess_where_there_was_none() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "1", "a", bins=("u/0",))
    play.loaded(7, "a")
    told = play.arrives(8, "2", "a", bins=("v/0",))
    assert the_choice(told).visit_s == 1 + 7 + 4


def test_what_is_known_from_earlier_lives_comes_before_any_guess() -> None:
    play = a_plain_play()
    need = Need(footprint_bytes=gib(16), predicted_bytes=0, load_s=30.0)
    told = play.arrives(0, "1", "a", needs={BinId("u/0"): need}, service_s=50.0)
    assert the_choice(told).visit_s == 1 + 30 + 50


def test_a_large_model_is_expected_to_take_longer() -> None:
    play = Play(half_life_s=math.inf)
    told = play.arrives(0, "1", "a")
    assert the_choice(told).visit_s == pytest.approx(0.8 + 1.2 + 16 * GIB / 3e9 + 4)


def test_who_is_expected_during_a_load_makes_a_visit_longer() -> None:
    play = a_plain_play(half_life_s=120.0, first_load_s=100.0, heard=False)
    for number in range(5):
        play.arrives(number, f"a{number}", "a")
    expected = 5 * math.log(2) / 120 * 100
    assert the_choice(play.sees(10)).visit_s == pytest.approx(
        1 + 100 + 4 * (5 + expected), rel=0.05
    )


def test_arrivals_are_forgotten_by_half_in_each_half_life() -> None:
    pace = Pace(Policy(half_life_s=60.0))
    pace.arrived(a_request("1", "a", priority=HIGH), 0.0)
    pace.arrived(a_request("2", "a", priority=LOW), 0.0)
    at_once = pace.rate(ModelKey("a"), 0.0)
    assert at_once == 2 * math.log(2) / 60
    assert pace.rate(ModelKey("a"), 60.0) == pytest.approx(at_once / 2)
    assert pace.rate(ModelKey("b"), 60.0) == 0
    # Their mean weight moves as the mean of services does.
    assert pace.weight(ModelKey("a")) == 36 + 0.2 * (1 - 36)
    assert pace.weight(ModelKey("b")) == 0


Learn = Callable[[Pace, float], None]
Expect = Callable[[Pace], float]


@given(
    seen=st.lists(st.floats(0, 1e6), min_size=1),
    what=st.sampled_from(["service", "load", "unload"]),
)
def test_what_is_expected_stays_within_what_was_seen(seen: list[float], what: str) -> None:
    pace, model = Pace(Policy()), ModelKey("a")
    learn: dict[str, Learn] = {
        "service": lambda pace, seconds: pace.served(model, seconds),
        "load": lambda pace, seconds: pace.loaded("u", model, seconds),
        "unload": lambda pace, seconds: pace.unloaded("u", seconds),
    }
    expect: dict[str, Expect] = {
        "service": lambda pace: pace.service_s(model),
        "load": lambda pace: pace.load_s("u", model, 0),
        "unload": lambda pace: pace.unload_s("u"),
    }
    for seconds in seen:
        learn[what](pace, seconds)
    expected = expect[what](pace)
    assert min(seen) * (1 - 1e-9) <= expected <= max(seen) * (1 + 1e-9)


def test_an_expired_model_may_be_loaded_again() -> None:
    play = a_plain_play()
    play.arrives(0, "1", "a", keep_alive_s=5.0)
    play.loaded(2, "a")
    play.leaves(3, "1")
    assert play.ticks(8) == [expire("a", idle=5, keep_alive=5)]


def test_nobody_is_drained_any_more_where_another_bin_has_become_free() -> None:
    bins = {"u/0": "u", "v/0": "v"}
    play = Play(bins=bins, heard=False)
    play.sees(0, upstream="v")
    play.arrives(0, "a1", "a", bins=tuple(bins))
    play.loaded(1, "a", "v/0")
    play.arrives(2, "b1", "b", bins=tuple(bins))
    play.ticks(123)
    assert play.snapshot().bins[1].victims == ("a",)
    assert play.sees(124, upstream="u") == [load("b", "b1", waited=122, where="u/0")]
    assert play.snapshot().bins[1].victims == ()


def a_crowd(play: Play, count: int, model: str = "c", **more: Any) -> None:
    """So many ask for one model after its runner at `u/0` is there."""
    play.arrives(0, "first", model, bins=BOTH)
    play.loaded(2, model)
    for number in range(count):
        play.arrives(3, f"{model}{number}", model, bins=BOTH, **more)


def test_a_queue_that_is_long_for_one_runner_gets_a_second_one_elsewhere() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    a_crowd(play, 1)
    assert play.arrives(3.5, "c1", "c", bins=BOTH) == [load("c", "c0", waited=0.5, where="v/0")]
    assert play.loaded(5.5, "c", "v/0") == [forward("c0", 2.5, "v/0")]
    assert play.arrives(6, "c2", "c", bins=BOTH) == []
    assert play.leaves(7, "first") == [forward("c1", 3.5)]


def test_a_second_runner_is_loaded_only_where_nobody_wants_anything_else() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "d1", "d", bins=("v/0",))
    play.loaded(2, "d", "v/0")
    play.arrives(3, "huge1", "huge", bins=("v/0",))
    play.arrives(3, "first", "c", bins=("u/0",))
    play.loaded(5, "c")
    for number in range(9):
        assert play.arrives(6, f"c{number}", "c", bins=BOTH) == []
    [second] = play.leaves(7, "huge1")
    assert second == load("c", "c0", free=20, alone=False, waited=1, where="v/0")


def test_nobody_leaves_for_a_second_runner() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"}, keep_alive_s=math.inf)
    play.sees(0, a_resident("a", bin="v/0", size=22.0), upstream="v")
    a_crowd(play, 9)
    assert [r.bin for r in play.snapshot().runners if r.model == "c"] == ["u/0"]


def test_of_two_runners_the_one_that_serves_fewer_is_next() -> None:
    play = a_plain_play(bins={"u/0": "u", "v/0": "v"})
    a_crowd(play, 9, parallel=2)
    served = [c.bin for c in play.loaded(6, "c", "v/0") if isinstance(c, Forward)]
    assert served == ["v/0", "v/0"]
    play.leaves(7, "first")
    running = {r.bin: len(r.running) for r in play.snapshot().runners}
    assert running == {"u/0": 1, "v/0": 2}
