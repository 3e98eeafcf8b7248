"""What a person is told: where everything stands, and why a request waits."""

import math

from ollama_gate.scheduler import snapshot
from ollama_gate.scheduler.types import Cause, Launch, RunnerState, Waiting
from tests.play import HIGH, LOW, Play, a_plain_play, a_resident, gib

Reason = tuple[Cause, tuple[str, ...], float | None]


def waiting(play: Play) -> dict[str, Waiting]:
    return {each.request.id: each for each in snapshot(play.machine).waiting}


def why(play: Play, request_id: str) -> Reason:
    each = waiting(play)[request_id]
    return each.cause, each.behind, each.until


def test_at_first_there_is_a_bin_and_nothing_else() -> None:
    play = Play(heard=False)
    view = snapshot(play.machine)
    [a_bin] = view.bins
    assert (a_bin.capacity_bytes, a_bin.free_bytes, a_bin.committed_bytes) == (
        gib(24),
        gib(24),
        0,
    )
    assert not a_bin.available
    assert (view.runners, view.waiting, view.running, view.closing) == ((), (), (), False)
    play.closes(1)
    assert snapshot(play.machine).closing


def test_positions_are_counted_over_all_classes_and_models() -> None:
    play = Play()
    play.arrives(0, "low", "a", priority=LOW)
    play.arrives(0, "normal", "b")
    play.arrives(0, "high", "c", priority=HIGH)
    assert {name: each.position for name, each in waiting(play).items()} == {
        "high": 1,
        "normal": 2,
        "low": 3,
    }


def test_a_runner_is_shown_with_what_it_does_and_until_when() -> None:
    play = Play()
    play.arrives(0, "1", "a", keep_alive_s=30.0)
    play.arrives(0, "2", "a")
    play.arrives(0, "3", "b")
    [loading] = snapshot(play.machine).runners
    assert (loading.state, loading.waiting, loading.idle_since) == (RunnerState.LOADING, 2, None)
    play.loaded(2, "a")
    [busy] = snapshot(play.machine).runners
    assert (busy.running, busy.waiting, busy.load_s) == (("1",), 1, 2)
    assert (busy.idle_since, busy.expires_at, busy.draining) == (None, None, False)
    [(request, where)] = snapshot(play.machine).running
    assert (request.id, where) == ("1", "u/0")
    play.leaves(3, "2")
    play.leaves(3, "3")
    play.leaves(3, "1")
    [idle] = snapshot(play.machine).runners
    assert (idle.running, idle.idle_since, idle.expires_at) == ((), 3, 33)
    assert (idle.launch, idle.footprint_bytes, idle.parallel) == (Launch(), gib(16), 1)


def test_a_request_for_another_bin_is_not_counted_as_one_that_a_runner_could_serve() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.sees(1, a_resident("a"))
    play.loses(1, "v")
    play.arrives(2, "1", "a", bins=("v/0",))
    [runner] = snapshot(play.machine).runners
    assert runner.waiting == 0


def test_an_upstream_that_is_away_is_waited_for_until_its_time_is_over() -> None:
    play = Play()
    play.loses(1)
    play.arrives(2, "1", "a")
    assert why(play, "1") == (Cause.UPSTREAM_AWAY, ("u",), 62)


def test_the_slots_are_taken_by_these() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "a")
    play.loaded(1, "a")
    assert why(play, "2") == (Cause.SLOTS_FULL, ("1",), None)


def test_its_model_is_being_loaded_or_another_one_is() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.arrives(0, "2", "b")
    assert why(play, "1") == (Cause.LOADING, (), None)
    assert why(play, "2") == (Cause.LOADER_BUSY, ("a",), None)


def test_room_is_being_made_for_the_next_and_another_is_behind_it() -> None:
    play = Play()
    play.sees(1, a_resident("a"))
    play.arrives(2, "1", "b")
    play.arrives(3, "2", "b")
    play.arrives(4, "3", "c", priority=LOW)
    assert why(play, "1") == (Cause.MAKING_ROOM, ("a",), None)
    assert why(play, "2") == (Cause.MAKING_ROOM, ("a",), None)
    assert why(play, "3") == (Cause.BEHIND, ("b",), 304)
    [a_bin] = snapshot(play.machine).bins
    assert (a_bin.target, a_bin.victims) == ("b", ())


def a_drain() -> Play:
    play = Play(tau_s=(10, 10, 10), beta=0, kappa=0)
    play.arrives(0, "1", "a", parallel=2)
    play.loaded(1, "a")
    play.arrives(2, "2", "b")
    return play


def test_there_is_no_room_before_patience_ends() -> None:
    play = a_drain()
    assert why(play, "2") == (Cause.NO_ROOM, ("a",), 12)
    [a_bin] = snapshot(play.machine).bins
    assert (a_bin.target, a_bin.victims) == (None, ())


def test_when_patience_has_ended_a_victim_is_drained() -> None:
    play = a_drain()
    play.ticks(12)
    play.arrives(13, "3", "a", parallel=2)
    assert why(play, "2") == (Cause.MAKING_ROOM, ("a",), None)
    assert why(play, "3") == (Cause.DRAINING, ("b",), None)
    [runner] = snapshot(play.machine).runners
    assert runner.draining
    [a_bin] = snapshot(play.machine).bins
    assert (a_bin.target, a_bin.victims) == ("b", ("a",))


def test_an_incumbent_within_its_quantum_is_waited_for() -> None:
    play = Play(tau_s=(0, 10, 20), beta=0, kappa=100, k_load=0)
    play.sees(0.5, a_resident("b"))
    play.arrives(1, "0", "a", keep_alive_s=math.inf)
    play.unloaded(2, "b")
    play.loaded(4, "a")
    play.arrives(4, "1", "a")
    play.arrives(5, "2", "c", size=20)
    play.ticks(15)
    play.arrives(15.5, "4", "e", size=20, priority=LOW)
    cause, behind, until = why(play, "2")
    assert (cause, behind) == (Cause.QUANTUM, ("a",))
    assert until is not None
    assert until > 15
    assert why(play, "4") == (Cause.BEHIND, ("c",), 35.5)
    [a_bin] = snapshot(play.machine).bins
    assert (a_bin.target, a_bin.victims) == ("c", ())


def test_a_quantum_is_waited_for_even_where_others_may_still_be_loaded_before() -> None:
    play = a_plain_play(tau_s=(0, 10, 20))
    for number in range(3):
        play.arrives(0, f"a{number}", "a")
    play.loaded(2, "a")
    play.arrives(3, "b1", "b")
    play.arrives(5, "b2", "b")
    play.arrives(5, "huge", "huge")
    assert why(play, "b1") == (Cause.NO_ROOM, ("a",), 13)
    play.ticks(13)
    # `a` has 6 * (2 + 2) s; whoever waits with the overdue one waits for the same.
    assert why(play, "b1") == why(play, "b2") == (Cause.QUANTUM, ("a",), 26)
    assert why(play, "huge") == (Cause.NO_ROOM, ("a",), 15)


def test_nobody_tells_when_what_is_pinned_goes() -> None:
    play = a_plain_play(tau_s=(0, 10, 20))
    play.sees(0, a_resident("a", pinned=True))
    play.arrives(1, "1", "b")
    assert why(play, "1") == (Cause.PINNED, ("a",), None)
    play.ticks(11)
    assert why(play, "1") == (Cause.PINNED, ("a",), None)


def test_what_is_leaving_is_waited_for() -> None:
    play = Play(capacity=None)
    play.reads(0, 16)
    play.sees(1, a_resident("a"))
    play.arrives(2, "1", "b")
    play.unloaded(3, "a")
    assert why(play, "1") == (Cause.MAKING_ROOM, ("a",), None)
    [runner] = snapshot(play.machine).runners
    assert (runner.state, runner.expires_at) == (RunnerState.LEAVING, None)


def test_runners_are_listed_by_bin_and_name() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.sees(1, a_resident("d"), a_resident("c"))
    play.sees(2, a_resident("a", bin="v/0"), upstream="v")
    assert [runner.name for runner in snapshot(play.machine).runners] == ["c", "d", "a"]


def test_a_slot_that_all_models_share_is_waited_for() -> None:
    play = Play(max_concurrent=1)
    play.sees(1, a_resident("c"), a_resident("d"))
    play.arrives(2, "1", "c")
    play.arrives(2, "2", "d")
    play.arrives(2, "3", "c")
    assert why(play, "2") == (Cause.LIMIT, (), None)
    assert why(play, "3") == (Cause.SLOTS_FULL, ("1",), None)


def test_what_is_pinned_is_named_where_it_leaves_no_room() -> None:
    play = Play()
    play.sees(1, a_resident("a", pinned=True), a_resident("c"))
    play.arrives(2, "1", "b")
    assert why(play, "1") == (Cause.PINNED, ("a",), None)


def test_a_twin_that_stays_is_waited_for_and_not_the_one_that_goes() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"}, tau_s=(0, 0, 0), beta=0, kappa=0)
    both = ("u/0", "v/0")
    play.sees(1, a_resident("a"))
    play.sees(1, a_resident("a", bin="v/0"), upstream="v")
    play.arrives(2, "1", "a", bins=both)
    play.arrives(2, "2", "a", bins=both)
    play.arrives(3, "3", "b", bins=("u/0",))
    play.arrives(4, "4", "a", bins=both)
    assert why(play, "4") == (Cause.SLOTS_FULL, ("2",), None)
