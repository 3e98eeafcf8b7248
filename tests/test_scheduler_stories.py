"""Stories: events in, commands out. Each reads as the transcript of a conversation."""

import math
from dataclasses import replace

import pytest

from ollama_gate.scheduler.types import BinId, Launch, Refusal
from tests.play import (
    GIB,
    HIGH,
    LOW,
    NORMAL,
    Play,
    a_resident,
    evict,
    expire,
    forward,
    gib,
    load,
    refuse,
)

WIDE = Launch(num_ctx=8192)


# -------------------------------------------------------------------- one model after another


def test_a_model_is_loaded_and_its_request_is_served() -> None:
    play = Play()
    assert play.arrives(1, "1", "a") == [load("a", "1")]
    assert play.loaded(3, "a") == [forward("1", 2)]
    assert play.leaves(4, "1") == []
    assert play.arrives(5, "2", "a") == [forward("2")]


def test_nothing_is_loaded_before_the_upstream_has_been_heard_of() -> None:
    play = Play(heard=False)
    assert play.arrives(1, "1", "a") == []
    assert play.sees(2) == [load("a", "1", waited=1)]


def test_two_exclusive_models_alternate_in_turns_not_request_by_request() -> None:
    play = Play()
    assert play.arrives(0, "a1", "a") == [load("a", "a1")]
    assert play.arrives(0, "b1", "b") == []
    assert play.arrives(0, "a2", "a") == []
    assert play.arrives(0, "b2", "b") == []
    assert play.loaded(2, "a") == [forward("a1", 2)]
    assert play.leaves(3, "a1") == [forward("a2", 3)]
    assert play.leaves(4, "a2") == [evict("a", "b", "8.0GiB")]
    assert play.unloaded(5, "a") == [load("b", "b1", waited=5)]
    assert play.loaded(7, "b") == [forward("b1", 7)]
    assert play.leaves(8, "b1") == [forward("b2", 8)]


def test_who_finds_its_model_resident_is_served_before_elders_of_other_models() -> None:
    play = Play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    assert play.arrives(3, "b1", "b") == []
    assert play.arrives(4, "a2", "a") == []
    assert play.leaves(5, "a1") == [forward("a2", 1)]


def test_a_class_goes_before_age_and_age_before_the_order_of_models() -> None:
    play = Play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.arrives(3, "low", "b", priority=LOW)
    play.arrives(4, "high", "huge", priority=HIGH)
    play.arrives(5, "normal", "b")
    assert play.leaves(6, "a1") == [evict("a", "huge", "32.0GiB")]
    assert play.unloaded(7, "a") == [load("huge", "high", waited=3, missing=16)]
    play.loaded(9, "huge")
    assert play.leaves(10, "high") == [evict("huge", "b", "32.0GiB")]
    assert play.unloaded(11, "huge") == [load("b", "normal", waited=6)]
    assert play.loaded(13, "b") == [forward("normal", 8)]
    assert play.leaves(14, "normal") == [forward("low", 11)]


def test_what_fits_beside_is_loaded_though_another_came_first() -> None:
    play = Play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    assert play.arrives(3, "b1", "b") == []
    assert play.arrives(4, "c1", "c") == [load("c", "c1", free=8, alone=False)]


def test_a_runner_serves_as_many_at_once_as_it_can() -> None:
    play = Play()
    play.arrives(0, "1", "a", parallel=2)
    play.arrives(0, "2", "a", parallel=2)
    play.arrives(0, "3", "a", parallel=2)
    assert play.loaded(2, "a") == [forward("1", 2), forward("2", 2)]
    assert play.leaves(3, "1") == [forward("3", 3)]


def test_one_load_at_a_time() -> None:
    play = Play()
    assert play.arrives(0, "c1", "c") == [load("c", "c1")]
    assert play.arrives(0, "d1", "d") == []
    assert play.loaded(1, "c") == [
        load("d", "d1", free=20, alone=False, waited=1),
        forward("c1", 1),
    ]


def test_two_names_of_one_blob_share_one_runner() -> None:
    play = Play()
    assert play.arrives(0, "1", "a", name="a:latest") == [load("a", "1", name="a:latest")]
    assert play.loaded(2, "a") == [forward("1", 2)]
    assert play.leaves(3, "1") == []
    assert play.arrives(4, "2", "a", name="alias") == [forward("2")]


# -------------------------------------------------------------------- victims


def three_small_ones() -> Play:
    """`c`, `d` and `e` are resident and idle; `c` was used last."""
    play = Play(max_loaded=6)
    for at, model in enumerate(["c", "d", "e"]):
        play.arrives(at, model, model)
        play.loaded(at + 0.5, model)
        play.leaves(at + 0.5, model)
    play.arrives(8, "again", "c")
    play.leaves(9, "again")
    return play


def test_the_least_recently_used_make_room_and_no_more_than_needed() -> None:
    play = three_small_ones()
    assert play.arrives(10, "a1", "a") == [evict("d", "a", "4.0GiB", idle=8.5)]
    assert play.unloaded(11, "d") == [load("a", "a1", free=16, alone=False, waited=1)]


def test_a_victim_that_turns_out_to_be_spare_is_spared() -> None:
    play = Play(max_loaded=6)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(1, "c1")
    play.arrives(2, "a1", "a")
    play.loaded(3, "a")
    play.leaves(3, "a1")
    # The small one has been idle for longer, but the large one must go anyhow.
    assert play.arrives(4, "b1", "b") == [evict("a", "b", "12.0GiB", idle=1)]


def test_nobody_is_touched_when_all_victims_together_do_not_suffice() -> None:
    play = three_small_ones()
    play.arrives(10, "busy", "c")
    assert play.arrives(11, "a1", "a", size=22) == []
    assert play.leaves(12, "busy") == [
        evict("d", "a", "10.0GiB", idle=10.5),
        evict("e", "a", "10.0GiB", idle=9.5),
        evict("c", "a", "10.0GiB"),
    ]


def test_a_model_that_somebody_waits_for_is_nobodys_victim() -> None:
    play = Play()
    play.arrives(0, "c1", "c")
    play.arrives(0, "c2", "c")
    play.loaded(1, "c")
    assert play.arrives(2, "huge", "huge") == []
    assert play.leaves(3, "c1") == [forward("c2", 3)]


def test_a_model_too_big_for_its_bin_loads_alone() -> None:
    play = Play()
    assert play.arrives(0, "1", "huge") == [load("huge", "1", missing=16)]
    play.loaded(9, "huge")
    play.leaves(10, "1")
    assert play.arrives(11, "2", "c") == [evict("huge", "c", "20.0GiB", idle=1)]


def test_max_loaded_is_kept_although_there_is_memory() -> None:
    play = Play(max_loaded=1)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(2, "c1")
    assert play.arrives(3, "d1", "d") == [evict("c", "d", "max_loaded=1", idle=1)]
    assert play.unloaded(4, "c") == [load("d", "d1", waited=1)]


# -------------------------------------------------------------------- patience and quantum


def test_a_busy_model_is_drained_when_patience_ends() -> None:
    play = Play(tau_s=(20, 120, 300), kappa=0)
    play.arrives(0, "a1", "a", parallel=2)
    play.loaded(2, "a")
    assert play.arrives(3, "b1", "b") == []
    assert play.wakes_at() == 123
    assert play.arrives(122, "a2", "a", parallel=2) == [forward("a2")]
    assert play.ticks(123) == []
    assert play.arrives(124, "a3", "a", parallel=2) == []
    assert play.leaves(125, "a1") == []
    assert play.leaves(126, "a2") == [evict("a", "b", "8.0GiB")]
    assert play.unloaded(127, "a") == [load("b", "b1", waited=124)]


def test_patience_is_shorter_for_a_higher_class() -> None:
    play = Play(tau_s=(20, 120, 300))
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.arrives(3, "low", "b", priority=LOW)
    assert play.wakes_at() == 303
    play.arrives(3, "normal", "b")
    assert play.wakes_at() == 123
    play.arrives(3, "high", "b", priority=HIGH)
    assert play.wakes_at() == 23


def in_its_quantum() -> Play:
    """`a` loaded in 2 s and has waiting work; `b`, whose load takes 2 s, is overdue at once.

    The quantum is 6 * (2 + 2) = 24 s: from 8 s, when `a` became resident, to 32 s.
    """
    play = Play(tau_s=(0, 20, 40), beta=0, kappa_hi=6, finish=0, keep_alive_s=math.inf)
    play.arrives(0, "b0", "b")
    play.loaded(2, "b")
    play.leaves(3, "b0")
    play.arrives(4, "a1", "a")
    play.unloaded(6, "b")
    assert play.loaded(8, "a") == [forward("a1", 4)]
    play.arrives(8, "a2", "a", priority=LOW)
    play.arrives(9, "b1", "b", priority=HIGH)
    return play


def test_a_model_with_waiting_work_keeps_its_quantum_even_from_the_impatient() -> None:
    play = in_its_quantum()
    play.arrives(9.5, "a3", "a", priority=LOW)
    assert play.leaves(10, "a1") == [forward("a2", 2)]
    assert play.ticks(20) == []
    assert play.wakes_at() == 32
    play.arrives(31, "a4", "a", priority=LOW)
    assert play.leaves(31.5, "a2") == [forward("a3", 22)]
    assert play.ticks(32) == []
    assert play.leaves(33, "a3") == [evict("a", "b", "8.0GiB")]


def test_a_model_without_waiting_work_has_no_quantum() -> None:
    play = in_its_quantum()
    play.leaves(10, "a2")
    assert play.leaves(11, "a1") == [evict("a", "b", "8.0GiB")]


def test_a_model_serves_at_least_one_before_it_must_go_however_long_its_load_took() -> None:
    play = Play(tau_s=(0, 10, 1000), kappa=0)
    play.arrives(0, "a1", "a", priority=LOW)
    play.arrives(1, "b1", "b", priority=HIGH)
    assert play.loaded(100, "a") == [forward("a1", 100)]
    play.arrives(101, "a2", "a", priority=LOW)
    assert play.leaves(102, "a1") == [evict("a", "b", "8.0GiB")]


def test_once_it_has_had_its_turn_a_model_goes_though_elders_wait_for_it_and_they_are_next() -> (
    None
):
    play = Play(tau_s=(0, 10, 20), beta=0, kappa=0)
    play.arrives(0, "a1", "a")
    play.loaded(1, "a")
    play.arrives(2, "a2", "a")
    play.arrives(3, "b1", "b")
    assert play.ticks(12) == []
    # Now both are overdue, and `a2` has waited for longer; but its model has had its turn.
    assert play.ticks(13) == []
    assert play.leaves(14, "a1") == [evict("a", "b", "8.0GiB")]
    play.arrives(14, "b2", "b")
    assert play.unloaded(15, "a") == [load("b", "b1", waited=12)]
    assert play.loaded(16, "b") == [forward("b1", 13)]
    assert play.leaves(17, "b1") == [evict("b", "a", "8.0GiB")]
    assert play.unloaded(18, "b") == [load("a", "a2", waited=16)]


def test_before_somebody_overdue_only_so_many_others_are_loaded() -> None:
    play = Play(tau_s=(0, 10, 20), beta=0, kappa=100, k_load=1, max_loaded=6)
    play.arrives(0, "a1", "a")
    play.arrives(0, "a2", "a")
    play.loaded(1, "a")
    play.arrives(2, "b1", "b")
    play.ticks(12)
    assert play.arrives(13, "c1", "c") == [load("c", "c1", free=8, alone=False)]
    play.loaded(14, "c")
    assert play.arrives(15, "d1", "d") == []


def test_draining_is_undone_when_the_elder_leaves() -> None:
    play = Play(tau_s=(0, 10, 20), beta=0, kappa=0)
    play.arrives(0, "a1", "a", parallel=2)
    play.loaded(1, "a")
    play.arrives(2, "b1", "b")
    play.ticks(12)
    assert play.arrives(13, "a2", "a", parallel=2) == []
    assert play.leaves(14, "b1") == [forward("a2", 1)]


def test_idle_victims_go_at_once_and_busy_ones_when_they_are_done() -> None:
    play = Play(tau_s=(0, 10, 20), beta=0, kappa=0, max_loaded=6)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.arrives(2, "a1", "a")
    play.loaded(3, "a")
    play.leaves(4, "c1")
    play.arrives(5, "big", "b", size=22)
    assert play.ticks(15) == [evict("c", "b", "18.0GiB", idle=11)]
    assert play.unloaded(16, "c") == []
    assert play.leaves(17, "a1") == [evict("a", "b", "18.0GiB")]
    assert play.unloaded(18, "a") == [load("b", "big", size=22, waited=13)]


def two_of_which_one_must_go() -> Play:
    """`c` has been in use for longer than `d`; somebody overdue needs the memory of either."""
    play = Play(tau_s=(0, 10, 1000), kappa=0, max_loaded=2)
    play.arrives(0, "c1", "c", priority=LOW)
    play.loaded(1, "c")
    play.arrives(2, "d1", "d", priority=LOW)
    play.loaded(3, "d")
    return play


def test_an_idle_model_goes_before_a_busy_one() -> None:
    play = two_of_which_one_must_go()
    play.leaves(4, "d1")
    assert play.arrives(5, "e1", "e", priority=HIGH) == [evict("d", "e", "max_loaded=2", idle=1)]


def test_a_busy_model_goes_before_one_that_somebody_waits_for() -> None:
    play = two_of_which_one_must_go()
    play.arrives(4, "c2", "c", priority=LOW)
    play.arrives(5, "e1", "e", priority=HIGH)
    assert play.leaves(6, "c1") == [forward("c2", 2)]
    assert play.leaves(7, "d1") == [evict("d", "e", "max_loaded=2")]


def test_an_idle_model_goes_as_soon_as_nobody_else_is_left_to_be_served_before() -> None:
    play = Play(tau_s=(0, 10, 1000), beta=0, kappa=0, kappa_hi=0, max_loaded=2)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(2, "c1")
    play.arrives(3, "d1", "d", priority=LOW)
    play.arrives(4, "huge", "huge", priority=HIGH)
    # `d` had to serve one first. Now that one is being served, the idle need not stay.
    assert play.loaded(5, "d") == [forward("d1", 2), evict("c", "huge", "max_loaded=2", idle=3)]


# -------------------------------------------------------------------- memory on its way


def test_a_model_being_unloaded_still_counts() -> None:
    play = Play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.leaves(3, "a1")
    assert play.arrives(4, "b1", "b") == [evict("a", "b", "8.0GiB", idle=1)]
    assert play.arrives(5, "b2", "b") == []
    assert play.unloaded(6, "a") == [load("b", "b1", waited=2)]


def with_readings(used: float = 1.0) -> Play:
    """`a` is resident and idle; the card of 24 GiB is read, 22.8 of them may be planned with."""
    play = Play(capacity=None, tau_s=(1000, 1000, 1000))
    play.reads(0, used)
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.reads(2, used + 16)
    play.leaves(3, "a1")
    return play


def free(size: float) -> float:
    """What is free of 24 GiB less the reserve of 5 % when so much is used."""
    return (int(24 * GIB) - int(24 * GIB * 0.05)) / GIB - size


def test_memory_of_an_unloaded_model_is_awaited_until_it_is_seen_back() -> None:
    play = with_readings()
    play.arrives(4, "b1", "b")
    assert play.unloaded(5, "a") == []
    assert play.reads(6, 17) == []
    assert play.reads(7, 9) == []
    assert play.reads(8, 1) == [load("b", "b1", free=free(1), waited=4)]


def test_memory_that_does_not_come_back_is_booked_as_somebody_elses_after_five_seconds() -> None:
    play = with_readings()
    play.arrives(4, "c1", "c", size=5, predicted=6)
    play.unloaded(5, "a")
    assert play.wakes_at() == 10
    assert play.reads(9, 17) == []
    assert play.ticks(10) == [load("c", "c1", size=5, free=free(17), waited=6)]
    assert play.machine.books[a_resident("a").bin].foreign_bytes == gib(17)


def test_what_did_not_come_back_is_not_planned_with_even_before_the_next_reading() -> None:
    play = with_readings()
    play.arrives(4, "b1", "b", size=7)
    play.unloaded(5, "a")
    play.reads(6, 15)
    assert play.ticks(10) == [load("b", "b1", size=7, free=free(15), waited=6)]
    play.loaded(12, "b")
    # 15 GiB of others and 7 of `b`: there is no room for anything.
    assert play.arrives(13, "c1", "c") == []


def test_on_a_card_that_nobody_reads_memory_is_given_time_to_come_back() -> None:
    play = Play(unread_recovery_s=1.5)
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.leaves(3, "a1")
    assert play.arrives(4, "b1", "b") == [evict("a", "b", "8.0GiB", idle=1)]
    assert play.unloaded(5, "a") == []
    assert play.wakes_at() == 6.5
    # A first reading says nothing of what there was before.
    assert play.reads(6, used=0.0) == []
    assert play.ticks(6.5) == [load("b", "b1", free=free(0), waited=2.5)]


def test_a_model_may_come_back_before_its_memory_did_where_there_is_room_for_both() -> None:
    play = Play(max_loaded=1)
    play.reads(0, used=0.0)
    play.arrives(0, "c1", "c")
    play.loaded(2, "c")
    play.reads(2, used=6.0)
    play.leaves(3, "c1")
    assert play.arrives(4, "d1", "d") == [evict("c", "d", "max_loaded=1", idle=1)]
    play.unloaded(5, "c")
    play.loaded(6, "d")
    assert play.arrives(7, "c2", "c") == []
    assert play.leaves(8, "d1") == [evict("d", "c", "max_loaded=1")]
    assert play.unloaded(9, "d") == [load("c", "c2", free=free(6), alone=False, waited=2)]


def test_main_memory_is_back_with_the_process() -> None:
    play = Play(cpu=True, unread_recovery_s=1.5)
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.leaves(3, "a1")
    assert play.arrives(4, "b1", "b") == [evict("a", "b", "8.0GiB", idle=1)]
    assert play.unloaded(5, "a") == [load("b", "b1", waited=1)]


def test_a_model_that_was_put_on_the_cpu_takes_nothing_of_the_card() -> None:
    play = Play()
    play.arrives(0, "c1", "c", size=0, launch=Launch(num_gpu=0))
    play.loaded(2, "c", footprint_bytes=gib(16), reported_bytes=0)
    assert play.arrives(3, "a1", "a") == [load("a", "a1", alone=False)]
    assert play.sees(4, replace(a_resident("c", size=16.0), reported_bytes=0)) == []
    books, runners = play.machine.books[BinId("u/0")], play.machine.runners.values()
    assert books.free_bytes(list(runners)) == gib(8)


def test_memory_that_settles_after_giving_back_half_is_back() -> None:
    play = with_readings()
    play.arrives(4, "b1", "b")
    play.unloaded(5, "a")
    assert play.reads(6, 6) == []
    assert play.reads(7, 6) == [load("b", "b1", free=free(6), waited=3)]


def two_leave() -> Play:
    """`c` and `d` take 4 GiB each, others 1; both are asked to go for a model that needs all."""
    play = Play(capacity=None, max_loaded=6)
    play.reads(0, 1)
    for at, model in enumerate(["c", "d"], 1):
        play.arrives(at, model, model)
        play.loaded(at + 0.5, model)
        play.leaves(at + 0.5, model)
        play.reads(at + 0.7, 1 + 4 * at)
    play.arrives(4, "big", "b", size=21.5)
    play.unloaded(5, "c")
    play.unloaded(5, "d")
    return play


def test_the_memory_of_one_is_not_taken_for_that_of_another() -> None:
    play = two_leave()
    assert play.reads(6, 5) == []
    assert play.reads(7, 5) == []
    assert play.reads(8, 1) == [load("b", "big", size=21.5, free=free(1), waited=4)]


def test_memory_comes_back_beside_one_that_stays() -> None:
    play = Play(capacity=None, max_loaded=6)
    play.reads(0, 1)
    for at, model in enumerate(["a", "c"], 1):
        play.arrives(at, model, model)
        play.loaded(at + 0.5, model)
        play.leaves(at + 0.5, model)
    play.reads(3, 21)
    assert play.arrives(4, "b1", "b", predicted=0.0) == [evict("a", "b", "14.2GiB", idle=2.5)]
    play.unloaded(5, "a")
    assert play.reads(6, 21) == []
    assert play.reads(7, 5) == [load("b", "b1", free=free(5), alone=False, waited=3)]


def test_what_is_left_of_two_is_awaited_for_as_long_as_the_last_to_go() -> None:
    play = Play(capacity=None, max_loaded=6, tau_s=(1, 2, 300))
    play.reads(0, 1)
    for at, model in enumerate(["c", "d"], 1):
        play.arrives(at, model, model)
        play.loaded(at + 0.5, model)
        play.leaves(at + 0.5, model)
        play.reads(at + 0.7, 1 + 4 * at)
    play.arrives(4, "big", "b", size=22)
    play.unloaded(5, "c")
    play.unloaded(7, "d")
    # One of the two is back; it may be either.
    assert play.reads(8, 5) == []
    assert play.wakes_at() == 12
    assert play.ticks(12) == [
        load("b", "big", size=22, free=free(5), waited=8, missing=22 - free(5))
    ]


def test_what_is_being_loaded_does_not_hide_what_is_still_leaving() -> None:
    play = Play(capacity=None, max_loaded=6)
    play.reads(0, 0)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.reads(1, 4)
    play.leaves(1, "c1")
    play.released(2, "c")
    play.unloaded(3, "c")
    assert play.arrives(3, "d1", "d") == [load("d", "d1", free=free(4), alone=False)]
    # The memory that shows is that of `c`; `d` has not taken any yet.
    play.reads(4, 4)
    play.arrives(4, "a1", "a", size=18)
    assert play.loaded(4.5, "d") == [forward("d1", 1.5)]


def test_what_did_not_come_back_while_something_was_loaded_is_booked_as_somebody_elses() -> None:
    play = Play(capacity=None, max_loaded=6, recovery_s=2)
    play.reads(0, 0)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.reads(1, 4)
    play.leaves(1, "c1")
    play.released(2, "c")
    play.unloaded(3, "c")
    play.arrives(3, "d1", "d")
    play.ticks(5)
    play.arrives(6, "a1", "a", size=16)
    # 4 of `c` that are still there, 4 of `d`, and 16 are more than 22.8.
    assert play.loaded(7, "d") == [forward("d1", 4)]


def test_what_others_take_counts_at_once() -> None:
    play = with_readings()
    play.reads(4, 20)
    assert play.arrives(5, "c1", "c") == [evict("a", "c", "1.2GiB", idle=2)]


def test_what_others_give_back_counts_after_two_readings() -> None:
    play = with_readings(used=4)
    play.arrives(4, "busy", "a")
    assert play.arrives(5, "c1", "c") == []
    assert play.reads(6, 17) == []
    assert play.reads(7, 17) == [load("c", "c1", free=free(17), alone=False, waited=2)]


def test_a_footprint_that_was_booked_too_high_does_not_hide_others_once_it_is_known() -> None:
    play = Play(capacity=None)
    play.reads(0, 0)
    play.arrives(0, "a1", "a")
    play.reads(1, 16)
    # 10 of the 16 GiB were others'.
    play.loaded(2, "a", footprint_bytes=gib(6), reported_bytes=gib(6))
    assert play.arrives(3, "c1", "c", size=7) == []


def test_a_bin_of_unknown_size_holds_one_model_at_a_time() -> None:
    play = Play(capacity=None)
    assert play.arrives(0, "c1", "c") == [load("c", "c1", free=None)]
    play.loaded(1, "c")
    play.leaves(2, "c1")
    assert play.arrives(3, "d1", "d") == [evict("c", "d", "unknown", idle=1)]
    assert play.unloaded(4, "c") == [load("d", "d1", free=None, waited=1)]


# -------------------------------------------------------------------- Ollama's 80 % rule


def test_ollamas_rule_is_kept_although_the_bytes_would_fit() -> None:
    play = Play()
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(2, "c1")
    # 20 GiB are free, 16 of them in the eyes of Ollama's rule.
    assert play.arrives(3, "a1", "a", size=17, predicted=16) == [
        load("a", "a1", size=17, free=20, alone=False)
    ]
    play = Play()
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(2, "c1")
    assert play.arrives(3, "a1", "a", size=17, predicted=17) == [
        evict("c", "a", "1.0GiB(80%)", idle=1)
    ]


def test_the_large_one_first_and_the_small_one_fits_beside_it() -> None:
    play = Play()
    play.arrives(0, "a1", "a", predicted=16)
    play.loaded(1, "a")
    assert play.arrives(2, "c1", "c", predicted=4) == [load("c", "c1", free=8, alone=False)]


def test_the_small_one_first_and_the_large_one_does_not_fit_beside_it() -> None:
    play = Play()
    play.arrives(0, "c1", "c", predicted=4)
    play.loaded(1, "c")
    assert play.arrives(2, "a1", "a", predicted=16.5) == []


def test_ollama_remembers_what_was_free_when_a_model_was_loaded() -> None:
    play = Play(capacity=None)
    play.reads(0, 12)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(1, "c1")
    play.reads(2, 4)
    play.reads(3, 4)
    # The others are gone. Ollama goes on believing in 12 - 4 = 8 GiB, 6.4 by its rule.
    assert play.arrives(4, "d1", "d", size=7, predicted=7) == [
        evict("c", "d", "0.6GiB(80%)", idle=3)
    ]


def test_beside_a_model_on_the_cpu_ollama_looks_at_the_card_anew() -> None:
    play = Play(capacity=None)
    play.reads(0, 12)
    play.arrives(0, "c1", "c", size=0, launch=Launch(num_gpu=0))
    play.loaded(1, "c")
    play.leaves(1, "c1")
    assert play.arrives(2, "d1", "d", size=10, predicted=10) == [
        evict("c", "d", "0.4GiB(80%)", idle=1)
    ]


def test_what_is_adopted_is_not_counted_twice() -> None:
    play = Play(heard=False)
    play.reads(0, used=9.0)
    assert play.sees(1, a_resident("c"), a_resident("d")) == []
    assert play.arrives(2, "e1", "e") == [load("e", "e1", free=free(9), alone=False)]


def test_of_an_adopted_model_it_is_assumed_that_the_card_was_as_it_is() -> None:
    play = Play(capacity=None)
    play.reads(0, 12)
    play.sees(1, a_resident("c"))
    play.reads(2, 12)
    play.reads(3, 12)
    # 8 GiB of others: Ollama had 16 for `c` and believes in 12, 9.6 by its rule.
    assert play.arrives(4, "d1", "d", size=10, predicted=10) == [
        evict("c", "d", "0.4GiB(80%)", idle=3)
    ]


def test_a_cpu_has_no_such_rule() -> None:
    play = Play(cpu=True)
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    assert play.arrives(2, "a1", "a", size=20, predicted=20) == [
        load("a", "a1", size=20, free=20, alone=False)
    ]


# -------------------------------------------------------------------- keep_alive


def served_once(**more: object) -> Play:
    play = Play()
    play.arrives(0, "1", "a", **more)
    play.loaded(1, "a")
    play.leaves(2, "1")
    return play


def test_an_idle_model_leaves_when_its_keep_alive_ends() -> None:
    play = served_once(keep_alive_s=30.0)
    assert play.wakes_at() == 32
    assert play.ticks(31) == []
    assert play.ticks(32) == [expire("a", idle=30, keep_alive=30)]
    assert play.unloaded(33, "a") == []
    assert play.wakes_at() is None


def test_a_model_nobody_said_anything_about_has_the_default() -> None:
    play = served_once(default_keep_alive_s=10.0)
    assert play.ticks(12) == [expire("a", idle=10, keep_alive=10)]


def test_keep_alive_zero_takes_effect_when_nobody_else_wants_the_model() -> None:
    play = Play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.arrives(0, "2", "a")
    assert play.loaded(1, "a") == [forward("1", 1)]
    assert play.leaves(2, "1") == [forward("2", 2)]
    assert play.leaves(3, "2") == [expire("a", idle=0, keep_alive=0)]


def test_keep_alive_without_limit_is_kept_but_is_no_pin() -> None:
    play = served_once(keep_alive_s=math.inf)
    assert play.wakes_at() is None
    assert play.ticks(1e6) == []
    assert play.arrives(1e6, "2", "b") == [evict("a", "b", "8.0GiB", idle=1e6 - 2)]


def test_a_request_without_keep_alive_leaves_the_limit_as_it_is() -> None:
    play = served_once(keep_alive_s=30.0)
    play.arrives(10, "2", "a")
    play.leaves(11, "2")
    assert play.ticks(41) == [expire("a", idle=30, keep_alive=30)]


def test_a_released_model_goes_when_nobody_wants_it_any_more() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "a")
    play.arrives(0, "3", "c")
    play.loaded(1, "a")
    play.loaded(2, "c")
    assert play.released(2, "a") == []
    assert play.leaves(3, "1") == [forward("2", 3)]
    assert play.leaves(4, "2") == [expire("a", idle=0, keep_alive=0)]


def test_nothing_expires_while_something_is_being_loaded() -> None:
    play = served_once(keep_alive_s=3.0)
    play.arrives(4, "2", "c")
    assert play.ticks(5) == []
    assert play.loaded(6, "c") == [forward("2", 2), expire("a", idle=4, keep_alive=3)]


# -------------------------------------------------------------------- the end of the line


def test_a_full_queue_refuses_and_says_how_long_its_class_waits() -> None:
    play = Play(queue_max_size=3, first_load_s=10, first_load_bytes_per_s=math.inf)
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "b", priority=HIGH)
    play.arrives(0, "3", "b", priority=LOW)
    # `a` is on its way, `b` will have to be loaded; an answer takes 4 s, as far as anybody knows.
    for priority, wait_s in [(HIGH, 10 + 4), (NORMAL, 4 + 10 + 4), (LOW, 4 + 10 + 4 + 4)]:
        assert play.arrives(5, "late", "c", priority=priority) == [
            refuse("late", Refusal.QUEUE_FULL, retry_after_s=wait_s)
        ]


def test_nobody_is_told_to_stay_away_for_more_than_two_minutes() -> None:
    play = Play(queue_max_size=1, first_service_s=500)
    play.arrives(0, "1", "a")
    assert play.arrives(5, "2", "b") == [refuse("2", Refusal.QUEUE_FULL, retry_after_s=120.0)]


def full_queue() -> Play:
    """`a` serves one of two; a request for `b`, which takes 2 s and 4 s, fills the queue.

    There are two bins to share the work.
    """
    play = Play(
        queue_max_size=1,
        first_load_s=2,
        first_load_bytes_per_s=math.inf,
        bins={"u/0": "u", "v/0": "v"},
    )
    play.arrives(0, "1", "a", parallel=2)
    play.loaded(1, "a")
    play.arrives(2, "2", "b")
    return play


def test_who_was_accepted_before_is_not_refused_for_a_full_queue() -> None:
    play = Play(queue_max_size=1)
    play.arrives(0, "a1", "a")
    assert play.arrives(1, "again", "a", accepted=True) == []
    assert len(play.machine.line) == 2


def test_whoever_gets_a_slot_at_once_needs_no_place_in_the_queue() -> None:
    play = full_queue()
    assert play.arrives(3, "3", "a") == [forward("3")]
    assert play.arrives(4, "4", "a") == [refuse("4", Refusal.QUEUE_FULL, retry_after_s=1.05)]


def test_a_slot_of_a_draining_model_is_not_to_be_had() -> None:
    play = full_queue()
    play.ticks(200)
    assert play.arrives(201, "3", "a") == [refuse("3", Refusal.QUEUE_FULL, retry_after_s=1.0)]


def test_a_slot_at_an_upstream_that_is_away_is_not_to_be_had() -> None:
    play = full_queue()
    play.loses(3)
    # One bin is left to do the work.
    assert play.arrives(4, "3", "a") == [refuse("3", Refusal.QUEUE_FULL, retry_after_s=6.0)]


def test_a_slot_elsewhere_is_not_to_be_had() -> None:
    play = full_queue()
    assert play.arrives(4, "3", "a", bins=("v/0",)) == [
        refuse("3", Refusal.QUEUE_FULL, retry_after_s=1.0)
    ]


def test_a_slot_that_somebody_waits_for_is_not_to_be_had() -> None:
    play = Play(queue_max_size=1)
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.arrives(2, "2", "a")
    assert play.arrives(3, "3", "a") == [refuse("3", Refusal.QUEUE_FULL, retry_after_s=6.0)]


def test_a_queue_of_no_length_tells_the_least_there_is() -> None:
    play = Play(queue_max_size=0)
    assert play.arrives(0, "1", "a") == [refuse("1", Refusal.QUEUE_FULL, retry_after_s=1.0)]


def test_whoever_leaves_while_waiting_is_forgotten() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    assert play.leaves(1, "1") == []
    assert play.loaded(2, "a") == []
    assert play.leaves(3, "1") == []


def test_a_cancelled_request_is_told_so_once() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    assert play.cancelled(1, "1") == [refuse("1", Refusal.CANCELLED)]
    assert play.cancelled(1, "1") == []
    assert play.leaves(1, "1") == []


def test_closing_refuses_who_waits_and_whoever_comes_and_lets_running_answers_end() -> None:
    play = Play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(1, "a")
    play.arrives(2, "2", "b")
    assert play.closes(3) == [refuse("2", Refusal.SHUTTING_DOWN)]
    assert play.arrives(4, "3", "a") == [refuse("3", Refusal.SHUTTING_DOWN)]
    assert play.leaves(5, "1") == []
    assert play.wakes_at() is None


# -------------------------------------------------------------------- what goes wrong


def test_a_failed_load_refuses_all_of_its_kind_in_the_upstreams_words() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "a")
    play.arrives(0, "3", "a", launch=WIDE, num_ctx=8192)
    play.arrives(0, "4", "b", priority=LOW)
    assert play.load_fails(1, "a", "out of memory") == [
        refuse("1", Refusal.LOAD_FAILED, status=500, text="out of memory"),
        refuse("2", Refusal.LOAD_FAILED, status=500, text="out of memory"),
        load("a", "3", launch=WIDE, waited=1),
    ]


def test_an_interrupted_load_is_tried_three_times() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    for at in (1, 3):
        assert play.loses(at) == []
        assert play.load_cut_short(at, "a") == []
        assert play.sees(at + 1) == [load("a", "1", waited=at + 1)]
    play.loses(5)
    text = "the upstream stopped answering while it loaded a, 3 times"
    assert play.load_cut_short(5, "a") == [refuse("1", Refusal.LOAD_FAILED, status=500, text=text)]


def test_a_load_that_ends_well_forgives_the_interruptions() -> None:
    play = Play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    for round_ in range(3):
        at = 10 * round_
        play.load_cut_short(at + 1, "a")
        play.load_cut_short(at + 2, "a")
        assert play.loaded(at + 3, "a") == [forward(f"{round_ + 1}", at + 3 - at)]
        play.leaves(at + 4, f"{round_ + 1}")
        play.unloaded(at + 5, "a")
        assert play.arrives(at + 10, f"{round_ + 2}", "a", keep_alive_s=0.0) == [
            load("a", f"{round_ + 2}")
        ]


def test_an_upstream_that_is_away_is_waited_for_and_then_no_longer() -> None:
    play = Play()
    play.loses(1)
    assert play.arrives(2, "1", "a", priority=LOW) == []
    assert play.wakes_at() == 62
    assert play.arrives(3, "2", "a", priority=LOW) == []
    assert play.ticks(62) == [refuse("1", Refusal.UPSTREAM_AWAY)]
    assert play.sees(62.5) == [load("a", "2", waited=59.5)]


def test_nothing_is_sent_to_an_upstream_that_is_away() -> None:
    play = served_once(keep_alive_s=5.0)
    play.loses(3)
    assert play.arrives(4, "2", "a") == []
    assert play.leaves(5, "2") == []
    assert play.ticks(20) == []
    assert play.sees(21, a_resident("a")) == [expire("a", idle=19, keep_alive=5)]


def test_an_unload_that_nobody_saw_is_ordered_again() -> None:
    play = served_once()
    assert play.released(3, "a") == [expire("a", idle=1, keep_alive=0)]
    play.loses(4)
    assert play.unloaded(4, "a", gone=False) == []
    assert play.sees(5, a_resident("a")) == [expire("a", idle=3, keep_alive=0)]


def test_what_is_resident_already_is_adopted() -> None:
    play = Play(heard=False, keep_alive_s=60)
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "b")
    assert play.sees(1, a_resident("a")) == [forward("1", 1)]
    assert play.leaves(2, "1") == [evict("a", "b", "8.0GiB")]


def test_an_adopted_model_may_idle_for_as_long_as_the_gate_says() -> None:
    play = Play(keep_alive_s=60)
    play.sees(1, a_resident("a"))
    assert play.ticks(61) == [expire("a", idle=60, keep_alive=60)]


def test_a_model_lost_behind_our_back_is_loaded_again() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "a")
    play.loaded(1, "a")
    assert play.sees(3) == [load("a", "2", waited=3)]
    assert play.leaves(4, "1") == []
    assert play.loaded(5, "a") == [forward("2", 5)]


def test_ollamas_figures_replace_the_booked_ones() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.sees(2, a_resident("a", size=21))
    assert play.arrives(3, "2", "c") == []
    assert play.sees(4, a_resident("a", size=20)) == [load("c", "2", free=4, alone=False, waited=1)]


def test_an_answer_older_than_a_load_does_not_contradict_it() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(2, "a")
    assert play.sees(3, asked=1.5) == []
    assert play.leaves(4, "1") == []
    assert play.arrives(5, "2", "a") == [forward("2")]


def test_an_answer_older_than_an_unload_does_not_contradict_it() -> None:
    play = served_once(keep_alive_s=0.0)
    play.unloaded(4, "a")
    assert play.sees(5, a_resident("a"), asked=3.9) == []
    assert play.arrives(6, "2", "b") == [load("b", "2")]


def test_an_answer_of_another_upstream_does_not_make_an_old_one_new() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(1, "a")
    play.leaves(2, "1")
    play.unloaded(4, "a")
    play.sees(4.5, upstream="v")
    assert play.sees(5, a_resident("a"), asked=3.9) == []
    assert play.arrives(6, "2", "b") == [load("b", "2")]


def test_what_somebody_loads_again_while_its_memory_is_awaited_is_resident() -> None:
    play = with_readings()
    play.released(4, "a")
    play.unloaded(5, "a")
    assert play.sees(7, a_resident("a"), asked=6) == []
    assert play.arrives(8, "2", "a") == [forward("2")]


def test_an_adopted_model_that_is_evicted_at_once_is_awaited_all_the_same() -> None:
    play = Play(capacity=None, heard=False)
    play.reads(0, 16)
    assert play.arrives(1, "1", "b") == []
    assert play.sees(2, a_resident("a")) == [evict("a", "b", "9.2GiB")]
    assert play.unloaded(3, "a") == []
    assert play.reads(4, 16) == []
    assert play.reads(5, 0) == [load("b", "1", free=free(0), waited=4)]


def test_a_failed_loads_memory_is_awaited_too() -> None:
    play = Play(capacity=None)
    play.reads(0, 1)
    play.arrives(0, "1", "a")
    play.reads(1, 9)
    play.arrives(1, "2", "b")
    play.load_fails(2, "a", "broken")
    assert play.reads(3, 9) == []
    assert play.reads(4, 1) == [load("b", "2", free=free(1), waited=3)]


def test_a_runner_that_takes_no_memory_is_gone_at_once() -> None:
    play = Play(capacity=None)
    play.reads(0, 1)
    play.arrives(0, "1", "c", size=0, launch=Launch(num_gpu=0))
    play.loaded(1, "c")
    play.leaves(2, "1")
    play.released(2, "c")
    play.unloaded(3, "c")
    assert play.machine.runners == {}


# -------------------------------------------------------------------- options


def test_other_options_of_the_same_model_swap_it_for_itself() -> None:
    play = served_once()
    assert play.arrives(3, "2", "a", launch=WIDE, num_ctx=8192) == [
        evict("a", "a", "8.0GiB", idle=1)
    ]
    assert play.unloaded(4, "a") == [load("a", "2", launch=WIDE, waited=1)]


def test_other_options_swap_a_model_even_where_there_is_room_for_both() -> None:
    play = Play()
    play.arrives(0, "1", "c")
    play.loaded(1, "c")
    assert play.arrives(2, "2", "c", launch=WIDE, num_ctx=8192) == []
    assert play.leaves(3, "1") == [evict("c", "c", "other options")]
    assert play.unloaded(4, "c") == [load("c", "2", launch=WIDE, waited=2)]


def test_on_the_cpu_it_takes_no_memory_and_serves_only_those_who_asked_for_that() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    on_cpu = Launch(num_gpu=0)
    assert play.arrives(2, "2", "d", size=0, predicted=0, launch=on_cpu) == [
        load("d", "2", size=0, free=8, alone=False, launch=on_cpu)
    ]
    play.loaded(3, "d")
    play.leaves(4, "2")
    assert play.arrives(5, "3", "d", size=0, predicted=0, launch=on_cpu) == [forward("3")]
    play.leaves(6, "3")
    assert play.arrives(7, "4", "d") == [evict("d", "d", "other options", idle=1)]


def test_a_runner_serves_whom_it_was_loaded_for_whatever_context_it_got() -> None:
    play = Play()
    play.arrives(0, "1", "a", launch=Launch(num_ctx=100_000), num_ctx=100_000)
    assert play.loaded(1, "a", num_ctx=32768) == [forward("1", 1)]
    play.leaves(2, "1")
    # Whoever asks for what it got is served as well.
    assert play.arrives(3, "2", "a", launch=Launch(num_ctx=32768), num_ctx=32768) == [forward("2")]


# -------------------------------------------------------------------- several bins


def test_two_upstreams_load_at_the_same_time() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    assert play.arrives(0, "1", "a", bins=("u/0",)) == [load("a", "1")]
    assert play.arrives(0, "2", "b", bins=("v/0",)) == [load("b", "2", where="v/0")]


def test_two_cards_of_one_upstream_load_one_after_the_other() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"})
    play.arrives(0, "1", "a", bins=("u/0",))
    assert play.arrives(0, "2", "b", bins=("u/1",)) == []
    assert play.loaded(1, "a") == [load("b", "2", where="u/1", waited=1), forward("1", 1)]


def test_one_request_loads_its_model_once_though_several_bins_could_hold_it() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    assert play.arrives(0, "1", "a", bins=("u/0", "v/0")) == [load("a", "1")]
    assert play.arrives(1, "2", "a", bins=("u/0", "v/0")) == []
    assert play.ticks(500) == []


def test_an_empty_bin_is_taken_before_anybody_is_evicted() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "1", "a", bins=("u/0",))
    play.loaded(1, "a")
    play.leaves(2, "1")
    assert play.arrives(3, "2", "b", bins=("u/0", "v/0")) == [load("b", "2", where="v/0")]


def test_who_cannot_be_placed_anywhere_has_one_bin_kept_free_of_others() -> None:
    play = Play(
        bins={"u/0": "u", "v/0": "v"},
        tau_s=(0, 10, 20),
        beta=0,
        kappa=1000,
        kappa_hi=1000,
        k_load=0,
    )
    for at, where in [(0, "u/0"), (1, "v/0")]:
        play.arrives(at, f"runs at {where}", "a", bins=(where,))
        play.arrives(at, f"waits for {where}", "a", bins=(where,), priority=LOW)
        play.loaded(at, "a", where)
    play.arrives(2, "3", "b", bins=("u/0", "v/0"))
    assert play.ticks(12) == []
    assert play.arrives(13, "4", "c", bins=("u/0",)) == []
    assert play.arrives(14, "5", "d", bins=("u/0", "v/0")) == [
        load("d", "5", where="v/0", free=8, alone=False)
    ]


def test_max_loaded_is_one_figure_for_all_cards_of_an_upstream() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"}, max_loaded=1)
    play.arrives(0, "1", "c", bins=("u/0",))
    play.loaded(1, "c")
    play.leaves(2, "1")
    assert play.arrives(3, "2", "d", bins=("u/1",)) == [evict("c", "d", "max_loaded=1", idle=1)]
    assert play.unloaded(4, "c") == [load("d", "2", where="u/1", waited=1)]


def test_where_the_number_counts_whoever_costs_least_goes_whatever_card_it_is_on() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"}, max_loaded=2)
    play.arrives(0, "1", "c", bins=("u/1",))
    play.loaded(1, "c", "u/1")
    play.leaves(2, "1")
    play.arrives(3, "2", "d", bins=("u/0",))
    play.loaded(4, "d")
    play.leaves(5, "2")
    assert play.arrives(6, "3", "e", bins=("u/0",)) == [
        evict("c", "e", "max_loaded=2", idle=4, where="u/1")
    ]


def test_what_one_bin_is_promised_is_not_given_to_another() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"}, max_loaded=1, tau_s=(0, 10, 20), kappa=0)
    play.arrives(0, "1", "c", bins=("u/0",))
    play.loaded(1, "c")
    play.arrives(2, "2", "d", bins=("u/1",))
    assert play.ticks(12) == []
    play.arrives(13, "3", "e", bins=("u/0",))
    assert play.leaves(14, "1") == [evict("c", "d", "max_loaded=1")]
    assert play.unloaded(15, "c") == [load("d", "2", where="u/1", waited=13)]


def test_each_of_two_cards_has_somebody_who_makes_room_on_it() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u", "u/2": "u"}, max_loaded=2, heard=False)
    play.arrives(0, "1", "e", bins=("u/1",))
    play.arrives(1, "2", "b", bins=("u/0",))
    assert play.sees(2, a_resident("a"), a_resident("c", bin="u/2")) == [
        evict("c", "e", "max_loaded=2", where="u/2"),
        evict("a", "b", "max_loaded=2"),
    ]


def test_a_model_is_in_one_bin_of_an_upstream_only() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"})
    play.arrives(0, "1", "c", bins=("u/0",))
    play.loaded(1, "c")
    play.leaves(2, "1")
    wide = {"launch": WIDE, "num_ctx": 8192}
    assert play.arrives(3, "2", "c", bins=("u/1",), **wide) == [
        evict("c", "c", "other options", idle=1)
    ]
    assert play.unloaded(4, "c") == [load("c", "2", where="u/1", launch=WIDE, waited=1)]


def test_a_victim_goes_on_draining_while_the_other_card_loads() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"}, tau_s=(0, 10, 20), kappa=0)
    play.arrives(0, "1", "a", bins=("u/0",), parallel=2)
    play.loaded(1, "a")
    play.arrives(2, "2", "b", bins=("u/0",))
    play.ticks(12)
    assert play.arrives(13, "3", "c", bins=("u/1",)) == [load("c", "3", where="u/1")]
    assert play.arrives(14, "4", "a", bins=("u/0",), parallel=2) == []
    assert play.leaves(15, "1") == []
    assert play.loaded(16, "c", "u/1") == [
        evict("a", "b", "8.0GiB", idle=1),
        forward("3", 3, "u/1"),
    ]


def test_who_is_at_home_at_an_upstream_that_is_away_goes_elsewhere() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.arrives(0, "1", "a", bins=("u/0",))
    play.loaded(1, "a")
    play.leaves(2, "1")
    play.loses(3)
    assert play.arrives(4, "2", "a", bins=("u/0", "v/0")) == [load("a", "2", where="v/0")]


def test_a_request_gives_up_when_all_its_upstreams_have_been_away_for_long_enough() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.loses(0, "u")
    play.arrives(1, "1", "a", bins=("u/0", "v/0"), priority=LOW)
    play.loaded(2, "a", "v/0")
    play.arrives(3, "2", "a", bins=("u/0", "v/0"), priority=LOW)
    play.loses(40, "v")
    assert play.ticks(99) == []
    assert play.ticks(100) == [refuse("2", Refusal.UPSTREAM_AWAY)]


# -------------------------------------------------------------------- contradictions


def test_a_contradiction_is_an_assertion_and_says_what_it_is() -> None:
    play = Play()
    play.arrives(5, "1", "a")
    with pytest.raises(AssertionError, match="time went back"):
        play.ticks(4)
    with pytest.raises(AssertionError, match="waits already"):
        play.arrives(5, "1", "a")
    with pytest.raises(AssertionError, match="was not unloading"):
        play.unloaded(5, "a")
    play.loaded(6, "a")
    with pytest.raises(AssertionError, match="runs already"):
        play.arrives(6, "1", "a")
    with pytest.raises(AssertionError, match="was not loading"):
        play.loaded(6, "a")
    with pytest.raises(AssertionError, match="unknown bin"):
        play.arrives(6, "2", "a", bins=("w/0",))
    with pytest.raises(AssertionError, match="fits no bin"):
        play.arrives(6, "2", "a", bins=())


@pytest.mark.parametrize("status", [200, 399, 600])
def test_a_load_does_not_fail_with_a_status_that_is_no_error(status: int) -> None:
    play = Play()
    play.arrives(0, "1", "a")
    with pytest.raises(AssertionError, match=f"status is {status}"):
        play.load_fails(1, "a", "no error", status=status)


@pytest.mark.parametrize("status", [400, 599])
def test_a_load_may_fail_with_any_error(status: int) -> None:
    play = Play()
    play.arrives(0, "1", "a")
    assert play.load_fails(1, "a", "an error", status=status) == [
        refuse("1", Refusal.LOAD_FAILED, status=status, text="an error")
    ]
