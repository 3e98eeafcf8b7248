"""Stories of the policy: whose model is next, for how long, and what is decided for good.

In most of them a load takes 2 s, an unload 1 s and an answer 4 s; see `a_plain_play`.
"""

import pytest

from ollama_gate.scheduler.commands import Choice, Command, Load, Unload
from ollama_gate.scheduler.types import Cause, Launch, Priority, Refusal
from tests.play import (
    HIGH,
    LOW,
    NORMAL,
    Play,
    a_plain_play,
    a_resident,
    evict,
    forward,
    load,
    refuse,
)


def the_choice(commands: list[Command]) -> Choice:
    """Why the one load that was ordered was ordered."""
    [choice] = [command.choice for command in commands if isinstance(command, Load)]
    return choice


# -------------------------------------------------------------------- the index


def test_the_model_with_the_most_waiting_work_for_each_second_of_its_visit_is_next() -> None:
    play = a_plain_play(heard=False)
    play.arrives(0, "a1", "a")
    play.arrives(0, "b1", "b")
    play.arrives(0, "b2", "b")
    told = play.sees(1)
    assert told == [load("b", "b1", waited=1)]
    # Two of 6 in 1 + 2 + 2 * 4 s, against one of 6 in 1 + 2 + 4 s.
    choice = the_choice(told)
    assert (choice.work, choice.waiting, choice.visit_s) == (12, 2, 11)
    assert choice.index == 12 / 11


def test_a_few_urgent_ones_go_before_many_others() -> None:
    play = a_plain_play(heard=False)
    for number in range(40):
        play.arrives(0, f"low {number}", "a", priority=LOW)
    play.arrives(1, "high", "b", priority=HIGH)
    assert play.sees(2) == [load("b", "high", waited=1)]


@pytest.mark.parametrize(("priority", "weight"), [(HIGH, 36), (NORMAL, 6), (LOW, 1)])
def test_a_waiting_second_is_worth_what_its_class_says(priority: Priority, weight: float) -> None:
    play = a_plain_play()
    choice = the_choice(play.arrives(0, "1", "a", priority=priority))
    assert choice.work == weight
    assert choice.index == weight / (1 + 2 + 4)


def test_more_slots_make_a_visit_shorter() -> None:
    play = a_plain_play(heard=False)
    for number in range(2):
        play.arrives(0, f"a{number}", "a")
        play.arrives(0, f"b{number}", "b", parallel=2)
    assert the_choice(play.sees(1)).visit_s == 1 + 2 + 4


def test_who_has_waited_longer_counts_for_more() -> None:
    play = a_plain_play(aging=1.0, heard=False)
    play.arrives(0, "b1", "b")
    play.arrives(30, "a1", "a")
    told = play.sees(60)
    assert told == [load("b", "b1", waited=60)]
    # Patience is 120 s: after half of it a second counts for a quarter more.
    assert the_choice(told).index == 6 * (1 + 1 / 4) / 7


def test_of_equals_whoever_came_first_is_next() -> None:
    play = a_plain_play(heard=False)
    play.arrives(0, "b1", "b")
    play.arrives(0, "a1", "a")
    told = play.sees(1)
    assert told == [load("b", "b1", waited=1)]
    assert the_choice(told).rivals == (("a", 6 / 7),)


def test_what_will_have_to_be_loaded_again_counts_against_a_visit() -> None:
    play = a_plain_play(half_life_s=120.0)
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.leaves(6, "a1")
    play.loses(7)
    play.arrives(8, "b1", "b")
    play.arrives(8, "c1", "c")
    # `b` came first, but in the place of `a`, which may be wanted meanwhile; `c` fits beside it.
    told = play.sees(9, a_resident("a"))
    assert told == [load("c", "c1", free=8, alone=False, waited=1)]
    [(rival, index)] = the_choice(told).rivals
    assert (rival, the_choice(told).reload_s) == ("b", 0)
    assert index < the_choice(told).index


def test_no_more_than_three_rivals_are_told_of() -> None:
    play = a_plain_play(heard=False)
    for model in ["a", "b", "c", "d", "e"]:
        for number in range(ord(model)):
            play.arrives(0, f"{model}{number}", model, priority=LOW, parallel=1000)
    choice = the_choice(play.sees(1))
    assert [name for name, _ in choice.rivals] == ["d", "c", "b"]


def test_what_others_do_with_the_bin_does_not_matter_to_what_they_cannot_have() -> None:
    play = a_plain_play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    play.arrives(2, "a2", "a")
    assert play.arrives(3, "high", "huge", priority=HIGH) == []
    assert play.arrives(4, "low", "c", priority=LOW) == [load("c", "low", free=8, alone=False)]


# -------------------------------------------------------------------- patience


def one_in_the_way(**policy: float) -> Play:
    """`a` serves one for ever; its memory is needed for `b`."""
    play = a_plain_play(tau_s=(10, 20, 40), tau_cap_s=(30, 60, 90), **policy)
    play.arrives(0, "a1", "a", parallel=2)
    play.loaded(2, "a")
    return play


def work_s(play: Play) -> list[float]:
    """The work that waits, of each class and those above it."""
    return list(play.machine.demand.backlog.seconds)


def is_draining(play: Play, model: str = "a") -> bool:
    [draining] = [each.draining for each in play.snapshot().runners if each.name == model]
    return draining


def test_what_is_in_use_but_not_wanted_makes_room_for_the_overdue_and_for_nobody_else() -> None:
    play = one_in_the_way()
    play.arrives(3, "b1", "b")
    assert play.wakes_at() == 23
    assert play.arrives(22, "a2", "a", parallel=2) == [forward("a2")]
    play.leaves(22, "a2")
    play.ticks(23)
    assert is_draining(play)
    assert play.arrives(24, "a3", "a", parallel=2) == []
    assert play.leaves(25, "a1") == [evict("a", "b", "8.0GiB")]


@pytest.mark.parametrize(("priority", "at"), [(HIGH, 13), (NORMAL, 23), (LOW, 43)])
def test_each_class_has_a_patience_of_its_own(priority: Priority, at: float) -> None:
    play = one_in_the_way()
    play.arrives(3, "b1", "b", priority=priority)
    assert play.wakes_at() == at


def test_patience_stretches_to_the_work_that_waits() -> None:
    play = one_in_the_way(beta=1.0)
    for number in range(10):
        play.arrives(3, f"b{number}", "b")
    # One load and ten answers, before whoever came now.
    assert work_s(play) == [0, 2 + 40, 2 + 40]
    assert play.wakes_at() == 3 + 42
    play.ticks(44)
    assert not is_draining(play)
    play.ticks(45)
    assert is_draining(play)


def test_half_of_the_work_may_be_enough() -> None:
    play = one_in_the_way(beta=0.5)
    for number in range(10):
        play.arrives(3, f"b{number}", "b")
    assert play.wakes_at() == 3 + 21


def test_nobody_is_patient_for_longer_than_the_cap() -> None:
    play = one_in_the_way(beta=1.0)
    for number in range(100):
        play.arrives(3, f"b{number}", "b")
    assert play.wakes_at() == 3 + 60


def test_the_work_of_lower_classes_does_not_make_the_higher_patient() -> None:
    play = one_in_the_way(beta=1.0)
    for number in range(10):
        play.arrives(3, f"low {number}", "b", priority=LOW)
    play.arrives(3, "high", "c", size=20.0, priority=HIGH)
    assert work_s(play) == [6, 6, 48]
    assert play.wakes_at() == 3 + 10


def test_several_bins_share_the_work_that_waits() -> None:
    play = a_plain_play(beta=1.0, heard=False, bins={"u/0": "u", "v/0": "v"})
    play.sees(0, upstream="u")
    play.sees(0, upstream="v")
    play.arrives(0, "a1", "a", bins=("u/0",))
    for number in range(9):
        play.arrives(0, f"b{number}", "b", bins=("u/0",))
    # `a` is on its way; its one answer, the load of `b` and nine answers.
    assert work_s(play) == [0, (4 + 2 + 36) / 2, (4 + 2 + 36) / 2]


def test_whoever_is_overdue_stays_so_however_much_work_comes() -> None:
    play = one_in_the_way(beta=1.0)
    play.arrives(3, "b1", "b")
    play.ticks(23)
    assert is_draining(play)
    for number in range(10):
        play.arrives(24, f"later {number}", "b")
    assert is_draining(play)
    assert play.cancelled(25, "b1") == [refuse("b1", Refusal.CANCELLED)]
    # The others have the plan, and nobody of them is overdue: what is decided is decided.
    assert is_draining(play)
    assert play.leaves(26, "a1") == [evict("a", "b", "8.0GiB")]
    assert play.unloaded(27, "a") == [load("b", "later 0", waited=3)]


# -------------------------------------------------------------------- the overdue among themselves


def two_overdue(**policy: float) -> Play:
    """`low` came first for `a` and `high` later for `b`; the virtual deadline of `low` is first."""
    play = a_plain_play(tau_s=(5, 10, 40), heard=False, **policy)
    play.arrives(0, "low", "a", priority=LOW)
    play.arrives(37, "high", "b", priority=HIGH)
    return play


def test_the_loader_may_go_by_the_index_for_a_while() -> None:
    play = two_overdue(k_load=1)
    told = play.sees(50)
    assert told == [load("b", "high", waited=13)]
    assert (the_choice(told).overdue, the_choice(told).passed_over) == (True, 0)
    # Once it has passed over the first by virtual deadlines, it is that one's turn.
    play.arrives(51, "high too", "c", size=22.0, priority=HIGH)
    assert play.loaded(52, "b") == [forward("high", 15)]
    told = play.leaves(53, "high")
    assert told == [evict("b", "a", "8.0GiB")]
    told = play.unloaded(54, "b")
    assert told == [load("a", "low", waited=54)]
    assert the_choice(told).reserved


def test_without_any_such_leave_it_goes_by_the_virtual_deadlines() -> None:
    play = two_overdue(k_load=0)
    told = play.sees(50)
    assert told == [load("a", "low", waited=50)]
    assert the_choice(told).reserved


def test_a_virtual_deadline_is_an_arrival_and_the_patience_of_a_class_that_does_not_stretch() -> (
    None
):
    play = a_plain_play(tau_s=(5, 10, 40), k_load=0, heard=False)
    play.arrives(0, "low", "a", priority=LOW)
    play.arrives(34, "high", "b", priority=HIGH)
    assert play.sees(50) == [load("b", "high", waited=16)]


def test_a_bin_is_kept_for_who_was_passed_over_often_enough() -> None:
    play = a_plain_play(tau_s=(0, 10, 20), k_load=2)
    play.arrives(0, "a1", "a")
    play.arrives(0, "a2", "a")
    play.arrives(0, "a3", "a")
    play.loaded(2, "a")
    play.arrives(2, "b1", "b", priority=LOW, predicted=0.0)
    play.ticks(22)
    # `a` has its quantum of 6 * (2 + 2) s, until 26; meanwhile two others are loaded beside it.
    assert play.arrives(22, "c1", "c", size=1.0) == [
        load("c", "c1", size=1, free=8, alone=False),
    ]
    play.loaded(23, "c")
    assert play.arrives(23, "d1", "d", size=1.0) == [
        load("d", "d1", size=1, free=7, alone=False),
    ]
    play.loaded(24, "d")
    assert play.arrives(24, "e1", "e", size=1.0) == []
    [held] = play.snapshot().bins
    assert (held.target, held.victims) == ("b", ())
    # Now only time is waited for.
    assert play.wakes_at() == 26
    assert play.ticks(26) == []
    assert is_draining(play)
    play.leaves(27, "a1")
    assert play.unloaded(28, "a") == [load("b", "b1", free=22, alone=False, waited=26)]
    assert play.loaded(30, "b")[0] == load("e", "e1", size=1, free=6, alone=False, waited=6)


def test_who_is_waited_for_is_told_with_why_a_request_waits() -> None:
    play = a_plain_play(tau_s=(0, 10, 20), k_load=0)
    play.arrives(0, "a1", "a")
    play.arrives(0, "a2", "a")
    play.arrives(0, "a3", "a")
    play.loaded(2, "a")
    play.arrives(2, "b1", "b", priority=LOW)
    play.ticks(22)
    [b1] = [each for each in play.snapshot().waiting if each.request.id == "b1"]
    assert (b1.cause, b1.behind, b1.until) == (Cause.QUANTUM, ("a",), 26)


def test_who_was_passed_over_is_counted_anew_for_the_next() -> None:
    play = two_overdue(k_load=1)
    play.sees(50)
    assert play.machine.passed_in_bin == {"u/0": 1}
    play.loaded(52, "b")
    play.leaves(53, "high")
    play.unloaded(54, "b")
    assert play.machine.passed_in_bin == {"u/0": 0}


# -------------------------------------------------------------------- the quantum


@pytest.mark.parametrize(
    ("waiting", "challenger", "turn_s"),
    [
        (2, LOW, 6 * (2 + 2)),
        (2, NORMAL, 6 * (2 + 2)),
        # A higher class has to wait for less.
        (2, HIGH, 2 * (2 + 2)),
        # What is done in less time than two swaps, of 4 s, may take twice as long.
        (1, LOW, 2 * 6 * (2 + 2)),
        # But not where somebody of a higher class waits.
        (1, HIGH, 2 * (2 + 2)),
    ],
)
def test_a_model_that_is_wanted_has_its_quantum(
    waiting: int, challenger: Priority, turn_s: float
) -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    for number in range(waiting + 1):
        play.arrives(0, f"a{number}", "a")
    play.loaded(2, "a")
    play.arrives(3, "b1", "b", priority=challenger)
    assert not is_draining(play)
    assert play.drains_at() == 2 + turn_s
    play.ticks(2 + turn_s)
    assert is_draining(play)


def test_slots_make_a_queue_shorter() -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    for number in range(5):
        play.arrives(0, f"a{number}", "a", parallel=2)
    play.loaded(2, "a")
    play.arrives(3, "b1", "b")
    # Three wait: 6 s for two slots, less than two swaps.
    assert play.drains_at() == 2 + 2 * 24


def test_a_quantum_is_measured_by_the_loads_that_are_known() -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    for number in range(9):
        play.arrives(0, f"a{number}", "a")
    play.loaded(5, "a")
    play.arrives(6, "b1", "b")
    assert play.drains_at() == 5 + 6 * (5 + 2)


def test_one_is_served_even_where_there_is_no_quantum_at_all() -> None:
    play = a_plain_play(tau_s=(0, 0, 0), kappa=0, kappa_hi=0)
    play.arrives(0, "a1", "a")
    play.arrives(0, "b1", "b", priority=HIGH)
    assert play.loaded(2, "a") == [forward("a1", 2)]
    assert is_draining(play)


def test_what_nobody_wants_any_more_has_no_quantum_left() -> None:
    play = a_plain_play(tau_s=(0, 0, 0))
    play.arrives(0, "a1", "a")
    play.arrives(0, "a2", "a")
    play.loaded(2, "a")
    play.arrives(3, "b1", "b")
    assert not is_draining(play)
    assert play.leaves(4, "a1") == [forward("a2", 4)]
    assert is_draining(play)


# -------------------------------------------------------------------- commitments


def test_whoever_comes_after_a_decision_does_not_change_it() -> None:
    play = a_plain_play()
    play.sees(1, a_resident("a"))
    assert play.arrives(2, "b1", "b") == [evict("a", "b", "8.0GiB", idle=1)]
    assert play.arrives(2.5, "high", "c", size=20.0, priority=HIGH) == []
    assert play.unloaded(3, "a") == [load("b", "b1", waited=1)]


def test_while_something_is_loaded_nothing_is_decided_that_something_better_might_come_before() -> (
    None
):
    play = a_plain_play()
    play.arrives(0, "a1", "a")
    play.arrives(0, "b1", "b")
    assert play.snapshot().bins[0].target is None
    play.arrives(1, "high", "c", size=20.0, priority=HIGH)
    play.loaded(2, "a")
    assert play.leaves(3, "a1") == [evict("a", "c", "12.0GiB")]


def a_drain() -> Play:
    """`a` makes room for `b`, as soon as its last answer ends."""
    play = a_plain_play(tau_s=(0, 0, 0))
    play.arrives(0, "a1", "a", parallel=2)
    play.loaded(2, "a")
    play.arrives(3, "b1", "b")
    assert is_draining(play)
    return play


def test_a_drain_is_undone_when_nobody_waits_for_the_sake_of_whom_it_was() -> None:
    play = a_drain()
    assert play.arrives(4, "a2", "a", parallel=2) == []
    assert play.cancelled(5, "b1") == [refuse("b1", Refusal.CANCELLED), forward("a2", 1)]
    assert not is_draining(play)


def test_a_drain_is_not_undone_while_another_waits_for_the_same() -> None:
    play = a_drain()
    play.arrives(4, "b2", "b", name="an alias")
    play.cancelled(5, "b1")
    assert is_draining(play)
    assert play.leaves(6, "a1") == [evict("a", "an alias", "8.0GiB")]
    assert play.unloaded(7, "a") == [load("b", "b2", name="an alias", waited=3)]


def test_room_that_was_made_for_nobody_is_left_alone() -> None:
    play = a_drain()
    play.leaves(4, "a1")
    play.cancelled(5, "b1")
    assert play.unloaded(6, "a") == []
    assert play.snapshot().bins[0].target is None


def test_a_decision_is_made_anew_when_memory_has_moved() -> None:
    play = a_plain_play(capacity=None, tau_s=(0, 1000, 1000))
    play.reads(0, 0)
    for at, model in [(0, "c"), (2, "d"), (4, "e")]:
        play.arrives(at, f"{model}1", model)
        play.loaded(at + 1, model)
        play.reads(at + 1, 4.0 * (1 + at / 2))
    play.leaves(6, "c1")
    play.leaves(6, "d1")
    # 12 of 22.8 GiB are used: one must go for 13. `d` was loaded after `c`.
    assert play.arrives(7, "b1", "b", size=13.0, predicted=0.0) == [
        evict("c", "b", "2.2GiB", idle=1)
    ]
    # Others have taken 3 GiB in the meantime: that is not enough any more.
    assert play.reads(8, 15) == [evict("d", "b", "1.2GiB", idle=2)]


def test_a_decision_is_made_anew_when_somebody_has_loaded_the_model_elsewhere_meanwhile() -> None:
    play = a_plain_play(tau_s=(0, 0, 0), bins={"u/0": "u", "u/1": "u"})
    play.arrives(0, "b1", "b")
    play.loaded(2, "b")
    wide = Launch(num_ctx=8192)
    assert play.arrives(3, "a1", "a", launch=wide, num_ctx=8192) == []
    # An upstream keeps one runner of a model; the one on its other card does not serve this one.
    assert play.sees(4, a_resident("b"), a_resident("a", bin="u/1")) == [
        evict("a", "a", "8.0GiB", where="u/1")
    ]
    assert play.leaves(5, "b1") == [evict("b", "a", "8.0GiB")]
    play.unloaded(6, "a", "u/1")
    assert play.unloaded(6, "b") == [load("a", "a1", launch=wide, waited=3)]


def test_a_victim_that_is_not_needed_any_more_serves_again() -> None:
    play = a_plain_play(max_loaded=2, tau_s=(0, 1000, 1000))
    play.arrives(0, "c1", "c", parallel=2)
    play.loaded(1, "c")
    play.arrives(2, "d1", "d", parallel=2)
    play.loaded(3, "d")
    play.arrives(4, "e1", "e", priority=HIGH)
    [victim] = [each.name for each in play.snapshot().runners if each.draining]
    assert victim == "c"
    assert play.arrives(5, "c2", "c", parallel=2) == []
    # Somebody has unloaded the other one behind the gate's back.
    assert play.sees(6, a_resident("c")) == [
        load("e", "e1", free=20, alone=False, waited=2),
        forward("c2", 1),
    ]


@pytest.mark.parametrize(("asked", "goes"), [(1, True), (12, False)])
def test_who_has_long_idled_goes_along_with_victims_unless_often_asked_for(
    asked: int, *, goes: bool
) -> None:
    play = Play()
    for number in range(asked):
        play.arrives(0, f"s{number}", "s", size=2.0)
    play.loaded(2, "s")
    for number in range(asked):
        play.leaves(3 + number, f"s{number}")
    play.arrives(20, "m1", "m", size=16.0)
    play.loaded(22, "m")
    play.leaves(23, "m1")
    commands = play.arrives(90, "n1", "n", size=16.0)
    assert [c.model for c in commands if isinstance(c, Unload)] == (["m", "s"] if goes else ["m"])
