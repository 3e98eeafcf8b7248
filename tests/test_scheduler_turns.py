"""Stories of the slots: whose request is next at a model, who waits too long, and who is too many.

In most of them a load takes 2 s, an unload 1 s and an answer 4 s; see `a_plain_play`.
"""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler.commands import Command, Forward
from ollama_gate.scheduler.fairness import REMEMBERED, SWEEP, Fairness
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.types import Priority, Refusal, RequestId
from tests.play import (
    HIGH,
    LOW,
    NORMAL,
    Play,
    a_plain_play,
    a_request,
    a_resident,
    evict,
    forward,
    load,
    refuse,
)


def started(commands: list[Command]) -> list[str]:
    """Who got a slot, in order."""
    return [command.id for command in commands if isinstance(command, Forward)]


def served_in_turn(play: Play, first: str, at: float, takes_s: dict[str, float]) -> list[str]:
    """Whoever has the one slot keeps it for as long as its name's first letter says."""
    order = [first]
    while order[-1]:
        at += takes_s.get(order[-1][0], 1.0)
        order += started(play.leaves(at, order[-1])) or [""]
    return order[:-1]


# -------------------------------------------------------------------- clients


def a_flood(**policy: float) -> Play:
    """Ann has asked for eight answers before Bob asks for three; they share one slot."""
    play = a_plain_play(**policy)
    for number in range(8):
        play.arrives(0, f"ann {number}", "a", client="ann")
    for number in range(3):
        play.arrives(1, f"bob {number}", "a", client="bob")
    assert play.loaded(2, "a") == [forward("ann 0", 2)]
    return play


def test_clients_of_a_class_take_turns_however_many_they_have() -> None:
    assert served_in_turn(a_flood(), "ann 0", 2, {})[:7] == [
        "ann 0",
        "bob 0",
        "ann 1",
        "bob 1",
        "ann 2",
        "bob 2",
        "ann 3",
    ]


def test_turns_are_counted_in_seconds_of_slots() -> None:
    # One of Ann's answers takes as long as three of Bob's.
    assert served_in_turn(a_flood(), "ann 0", 2, {"a": 3.0})[:6] == [
        "ann 0",
        "bob 0",
        "bob 1",
        "bob 2",
        "ann 1",
        "ann 2",
    ]


def test_an_answer_that_runs_is_charged_with_what_it_is_expected_to_take() -> None:
    play = a_plain_play()
    for number in range(4):
        play.arrives(0, f"ann {number}", "a", client="ann", parallel=3)
        play.arrives(0, f"bob {number}", "a", client="bob", parallel=3)
    assert started(play.loaded(2, "a")) == ["ann 0", "bob 0", "ann 1"]
    # It is charged with the 20 s that it really took as soon as it is over.
    assert started(play.leaves(22, "bob 0")) == ["ann 2"]


def test_whoever_was_cut_is_charged_with_what_he_used() -> None:
    play = a_flood()
    assert started(play.leaves(2.5, "ann 0", completed=False)) == ["bob 0"]
    assert play.machine.fairness.counter(NORMAL, "ann") == 0.5


def test_the_time_in_which_a_client_asks_for_nothing_is_not_banked() -> None:
    play = a_plain_play(k_slot=100)
    play.arrives(0, "bob", "a", client="bob")
    play.loaded(2, "a")
    play.leaves(3, "bob")
    for number in range(30):
        play.arrives(3, f"ann {number}", "a", client="ann")
    for number in range(20):
        play.leaves(4 + number, f"ann {number}")
    # Ann has had 20 s and Bob one; he is not owed the difference.
    for number in range(3):
        play.arrives(23, f"bob {number}", "a", client="bob")
    assert served_in_turn(play, "ann 20", 23, {})[:5] == [
        "ann 20",
        "ann 21",
        "bob 0",
        "ann 22",
        "bob 1",
    ]


def test_where_nobody_waits_a_newcomer_is_no_better_off_than_who_was_served_last() -> None:
    play = a_plain_play()
    for number in range(3):
        play.arrives(0, f"ann {number}", "a", client="ann")
    play.loaded(2, "a")
    for number in range(3):
        play.leaves(12 + 10 * number, f"ann {number}")
    play.arrives(40, "eve", "a", client="eve")
    # The last began when Ann had had 20 s; one more answer is expected to take 10.
    assert play.machine.fairness.counter(NORMAL, "eve") == 20 + 10


def test_each_class_has_its_own_account() -> None:
    play = a_flood()
    for who in ("ann", "bob"):
        play.arrives(2, f"{who} high", "a", client=who, priority=HIGH)
    assert served_in_turn(play, "ann 0", 2, {})[:4] == ["ann 0", "ann high", "bob high", "bob 0"]


def test_whoever_gets_much_of_one_model_gets_less_of_another() -> None:
    play = a_plain_play()
    for number in range(2):
        play.arrives(0, f"ann {number}", "c", client="ann")
    play.loaded(2, "c")
    play.arrives(2, "ann d", "d", client="ann")
    play.arrives(2, "bob d", "d", client="bob")
    play.leaves(9, "ann 0")
    assert started(play.loaded(10, "d")) == ["bob d"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(Priority), st.floats(0.1, 9)), min_size=1
    )
)
def test_nobody_who_returns_is_behind_the_least_of_those_who_wait(
    steps: list[tuple[str, Priority, float]],
) -> None:
    fairness = Fairness()
    waiting: dict[Priority, list[str]] = {priority: [] for priority in Priority}
    for client, priority, seconds in steps:
        here = waiting[priority]
        if client in here:
            here.remove(client)
            fairness.starts(priority, client, 4.0)
            fairness.ends(priority, client, 4.0, seconds)
        else:
            before = fairness.counter(priority, client)
            fairness.returns(priority, client, here)
            after = fairness.counter(priority, client)
            assert after >= before
            if here:
                least = min(fairness.counter(priority, each) for each in here)
                assert after == max(before, least)
            here.append(client)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), min_size=1, max_size=60))
def test_two_who_always_wait_are_served_alike_but_for_twice_the_dearest_answer(
    lengths: list[tuple[str, int]],
) -> None:
    play = a_plain_play(k_slot=10**6)
    for number in range(len(lengths) + 1):
        for client in ("ann", "bob"):
            play.arrives(0, f"{client} {number}", "a", client=client)
    at, had = 2.0, {"ann": 0, "bob": 0}
    [now] = started(play.loaded(at, "a"))
    for _, seconds in lengths:
        at += seconds
        had[now.split()[0]] += seconds
        [now] = started(play.leaves(at, now))
        assert abs(had["ann"] - had["bob"]) <= 2 * 9


def test_accounts_that_say_nothing_any_more_are_dropped_and_those_who_wait_keep_theirs() -> None:
    fairness = Fairness()
    for number in range(SWEEP):
        fairness.returns(NORMAL, f"{number}", [])
        fairness.starts(NORMAL, f"{number}", 1.0)
    fairness.starts(NORMAL, "0", 1.0)
    fairness.starts(NORMAL, "0", 1.0)
    # Who was served for 2 s was the last; whoever has had less would be lifted to that anyhow.
    fairness.returns(NORMAL, "late", ["7"])
    assert [fairness.counter(NORMAL, each) for each in ("0", "7", "late", "8")] == [3, 1, 1, 0]
    fairness.returns(NORMAL, "another", ["late"])
    assert fairness.counter(NORMAL, "another") == 1
    fairness.returns(NORMAL, "8", [])
    assert fairness.counter(NORMAL, "8") == 2


def test_whoever_is_served_while_his_account_is_dropped_begins_anew() -> None:
    fairness = Fairness()
    fairness.returns(NORMAL, "ann", [])
    fairness.starts(NORMAL, "ann", 4.0)
    fairness.starts(NORMAL, "bob", 4.0)
    fairness.starts(NORMAL, "bob", 4.0)
    for number in range(SWEEP):
        fairness.returns(NORMAL, f"{number}", [])
    fairness.ends(NORMAL, "ann", 4.0, 9.0)
    assert fairness.counter(NORMAL, "ann") == 0


def test_the_accounts_of_the_other_classes_are_left_alone() -> None:
    fairness = Fairness()
    fairness.returns(HIGH, "ann", [])
    fairness.starts(HIGH, "ann", 1.0)
    for number in range(SWEEP):
        fairness.returns(NORMAL, f"{number}", [])
    assert fairness.counter(HIGH, "ann") == 1


# -------------------------------------------------------------------- the overdue and the slots


def a_high_flood(**policy: float) -> Play:
    """`normal` and `low` are overdue at a model of one slot; five of a higher class wait there."""
    play = a_plain_play(tau_s=(1000, 10, 20), **policy)
    play.arrives(0, "running", "a")
    play.loaded(2, "a")
    play.arrives(3, "normal", "a")
    play.arrives(3, "low", "a", priority=LOW)
    for number in range(5):
        play.arrives(23, f"high {number}", "a", priority=HIGH)
    return play


def test_so_many_may_start_before_somebody_overdue_and_then_it_is_his_turn() -> None:
    assert served_in_turn(a_high_flood(k_slot=2), "running", 23, {}) == [
        "running",
        "high 0",
        "high 1",
        "normal",
        "high 2",
        "high 3",
        "low",
        "high 4",
    ]


def test_where_nobody_may_pass_the_overdue_they_go_by_their_virtual_deadlines() -> None:
    assert served_in_turn(a_high_flood(k_slot=0), "running", 23, {})[:4] == [
        "running",
        "normal",
        "low",
        "high 0",
    ]


def test_the_first_start_of_a_visit_is_whoever_was_overdue() -> None:
    play = a_plain_play(tau_s=(1000, 1000, 20))
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.arrives(2, "low", "b", priority=LOW)
    play.arrives(3, "high 0", "b", priority=HIGH)
    play.arrives(3, "high 1", "b", priority=HIGH)
    play.ticks(22)
    assert play.leaves(23, "a1") == [evict("a", "b", "8.0GiB")]
    assert play.unloaded(24, "a") == [load("b", "low", waited=22)]
    assert play.loaded(26, "b") == [forward("low", 24)]
    assert play.leaves(27, "low") == [forward("high 0", 24)]


def test_a_higher_class_that_is_overdue_as_well_is_not_passed_over() -> None:
    play = a_plain_play(tau_s=(5, 10, 20), k_slot=0)
    play.arrives(0, "running", "a")
    play.loaded(2, "a")
    play.arrives(3, "low", "a", priority=LOW)
    play.arrives(4, "high", "a", priority=HIGH)
    play.ticks(23)
    assert play.leaves(23, "running") == [forward("high", 19)]


# -------------------------------------------------------------------- deadlines


def test_whoever_still_waits_at_its_deadline_is_dropped() -> None:
    play = a_plain_play()
    play.arrives(0, "1", "a")
    assert play.arrives(1, "2", "b", deadline_at=9.0) == []
    assert play.wakes_at() == 9
    play.loaded(2, "a")
    assert play.ticks(8.9) == []
    assert play.ticks(9) == [refuse("2", Refusal.DEADLINE)]
    assert play.leaves(10, "1") == []


def test_whoever_comes_after_its_deadline_is_dropped_at_once() -> None:
    play = a_plain_play()
    assert play.arrives(5, "1", "a", deadline_at=5.0) == [refuse("1", Refusal.DEADLINE)]


def test_an_answer_that_runs_has_no_deadline() -> None:
    play = a_plain_play()
    play.arrives(0, "1", "a", deadline_at=9.0)
    assert play.loaded(2, "a") == [forward("1", 2)]
    assert play.ticks(9) == []
    assert play.leaves(20, "1") == []


def test_a_deadline_puts_nobody_before_others() -> None:
    play = a_plain_play()
    play.arrives(0, "running", "a")
    play.loaded(2, "a")
    play.arrives(3, "patient", "a")
    play.arrives(4, "pressed", "a", deadline_at=6.0)
    assert play.leaves(5, "running") == [forward("patient", 2)]
    assert play.leaves(6, "patient") == [refuse("pressed", Refusal.DEADLINE)]


def test_nobody_waits_for_longer_than_the_queue_allows() -> None:
    play = a_plain_play(queue_max_wait_s=30.0)
    play.arrives(0, "running", "a")
    play.loaded(2, "a")
    play.arrives(3, "1", "a")
    play.arrives(4, "2", "a", deadline_at=1000.0)
    play.arrives(5, "3", "a", deadline_at=20.0)
    assert play.wakes_at() == 20
    assert play.ticks(20) == [refuse("3", Refusal.DEADLINE)]
    assert play.ticks(33) == [refuse("1", Refusal.DEADLINE)]
    assert play.ticks(34) == [refuse("2", Refusal.DEADLINE)]


def test_a_drain_is_undone_when_its_reason_is_dropped() -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    play.arrives(0, "a1", "a", parallel=2)
    play.loaded(2, "a")
    play.arrives(3, "b1", "b", deadline_at=9.0)
    assert play.arrives(4, "a2", "a", parallel=2) == []
    assert play.ticks(9) == [refuse("b1", Refusal.DEADLINE), forward("a2", 5)]


# -------------------------------------------------------------------- too many


def test_deadlines_of_those_who_left_do_not_pile_up_behind_one_that_is_nearer() -> None:
    line = Line((20.0, 120.0, 300.0))
    line.join(replace(a_request("stays", "a", 0.0), deadline_at=60.0))
    for number in range(1000):
        line.join(replace(a_request(str(number), "a", 0.0), deadline_at=1e9))
        line.leave(RequestId(str(number)))
    assert len(line._deadlines) < 100
    assert line.next_deadline() == 60.0
    assert [each.id for each in line.expired(60.0)] == ["stays"]


def test_one_client_may_have_only_so_many_waiting() -> None:
    play = a_plain_play(queue_max_per_client=2)
    play.arrives(0, "ann 0", "a", client="ann")
    play.arrives(0, "ann 1", "b", client="ann")
    # `a` is on its way; an answer of it, a load of the other and an answer of that.
    assert play.arrives(1, "ann 2", "c", client="ann") == [
        refuse("ann 2", Refusal.CLIENT_FULL, retry_after_s=4.0 + 2.0 + 4.0)
    ]
    assert play.arrives(1, "bob", "c", client="bob") == []
    assert play.arrives(1, "again", "c", client="ann", accepted=True) == []


def test_what_runs_does_not_count_as_waiting() -> None:
    play = a_plain_play(queue_max_per_client=1)
    play.arrives(0, "ann 0", "a", client="ann", parallel=2)
    play.loaded(2, "a")
    assert play.arrives(3, "ann 1", "a", client="ann", parallel=2) == [forward("ann 1")]
    assert play.arrives(4, "ann 2", "a", client="ann", parallel=2) == []
    assert play.arrives(5, "ann 3", "a", client="ann", parallel=2) == [
        refuse("ann 3", Refusal.CLIENT_FULL, retry_after_s=1.6)
    ]
    assert play.leaves(6, "ann 0") == [forward("ann 2", 2)]


def test_a_full_queue_is_what_is_told_where_both_are_full() -> None:
    play = a_plain_play(queue_max_size=1, queue_max_per_client=1)
    play.arrives(0, "ann 0", "a", client="ann")
    [refused] = play.arrives(1, "ann 1", "a", client="ann")
    assert refused == refuse("ann 1", Refusal.QUEUE_FULL, retry_after_s=5.0)


# -------------------------------------------------------------------- a limit over all models


def two_models(**policy: Any) -> Play:
    """`c` and `d` are resident and only one answer may run at a time; `c` gives it."""
    play = a_plain_play(max_concurrent=1, **policy)
    play.sees(0, a_resident("c"), a_resident("d"))
    assert play.arrives(0, "running", "c") == [forward("running")]
    return play


def test_a_free_slot_is_not_to_be_had_while_as_many_run_as_may() -> None:
    play = two_models()
    assert play.arrives(1, "1", "d") == []
    assert play.leaves(2, "running") == [forward("1", 1)]


def test_over_all_models_class_goes_before_client_and_client_before_age() -> None:
    play = two_models()
    play.arrives(1, "ann 0", "c", client="ann")
    play.arrives(1, "ann 1", "c", client="ann")
    play.arrives(2, "bob 0", "d", client="bob")
    play.arrives(3, "eve high", "d", client="eve", priority=HIGH)
    assert served_in_turn(play, "running", 4, {}) == [
        "running",
        "eve high",
        "ann 0",
        "bob 0",
        "ann 1",
    ]


def test_over_all_models_only_so_many_start_before_somebody_overdue() -> None:
    play = two_models(tau_s=(1000, 10, 20), k_slot=2)
    play.arrives(1, "normal", "d")
    for number in range(4):
        play.arrives(11, f"high {number}", "c", priority=HIGH)
    assert served_in_turn(play, "running", 11, {}) == [
        "running",
        "high 0",
        "high 1",
        "normal",
        "high 2",
        "high 3",
    ]


def test_over_all_models_an_overdue_one_may_be_the_next_anyhow() -> None:
    play = two_models(tau_s=(1000, 10, 20), k_slot=2)
    play.arrives(1, "normal", "d")
    play.arrives(11, "high", "c", priority=HIGH)
    play.arrives(11, "normal too", "c")
    assert served_in_turn(play, "running", 11, {}) == ["running", "high", "normal", "normal too"]
    assert play.machine.passed_at_gate == 0


def test_whose_turn_it_is_over_all_models_has_it_at_his_own_as_well() -> None:
    play = two_models(tau_s=(1000, 10, 20), k_slot=2)
    play.arrives(1, "normal", "d")
    for number in range(4):
        play.arrives(11, f"high {number}", "d" if number % 2 else "c", priority=HIGH)
    assert served_in_turn(play, "running", 11, {})[:4] == ["running", "high 0", "high 1", "normal"]


def test_a_full_queue_turns_away_whoever_would_have_to_wait_for_the_others() -> None:
    play = two_models(queue_max_size=1)
    play.arrives(1, "1", "d")
    assert play.arrives(2, "2", "d") == [refuse("2", Refusal.QUEUE_FULL, retry_after_s=4.0)]
    assert a_request("2", "d").id not in play.machine.line
    assert RequestId("1") in play.machine.line


def test_what_somebody_waits_for_does_not_expire_while_others_have_the_slots() -> None:
    play = a_plain_play(max_concurrent=1, keep_alive_s=10.0)
    play.sees(0, a_resident("c"), a_resident("d"))
    play.arrives(0, "running", "c")
    assert play.arrives(1, "1", "d") == []
    assert play.ticks(50) == []
    assert play.leaves(60, "running") == [forward("1", 59)]


def test_clients_who_come_but_once_are_not_remembered_for_ever() -> None:
    fairness = Fairness()
    for number in range(REMEMBERED + 3 * SWEEP):
        client = f"client{number}"
        fairness.returns(NORMAL, client, [])
        fairness.starts(NORMAL, client, 4.0)
        fairness.ends(NORMAL, client, 4.0, 3.0)
    known = [n for n in range(REMEMBERED + 3 * SWEEP) if fairness.counter(NORMAL, f"client{n}")]
    assert len(known) <= REMEMBERED + SWEEP + 1
    # Who came last is.
    assert known[-1] == REMEMBERED + 3 * SWEEP - 1
