"""Stories of what goes wrong: others take memory, models slide, loads run out, runners die."""

from typing import Any

import pytest

from ollama_gate.scheduler.commands import Broken, Offloaded
from ollama_gate.scheduler.types import BinId, Cause, Launch, Offload, Refusal
from tests.play import (
    GIB,
    LOW,
    Play,
    a_resident,
    evict,
    forward,
    gib,
    let_go,
    load,
    refuse,
    warn,
)

PATIENT = (1000.0, 1000.0, 1000.0)
RESERVE = int(24 * GIB * 0.05) / GIB


def free(used: float) -> float:
    return 24 - RESERVE - used


def a_card(**more: Any) -> Play:
    """A card of 24 GiB that is read; nothing is on it."""
    given: dict[str, Any] = {"capacity": None, "tau_s": PATIENT, "max_loaded": 6, **more}
    play = Play(**given)
    play.reads(0, 0)
    return play


def resident(play: Play, model: str, at: float, used: float) -> None:
    """Load a model, serve somebody, and show it on the card."""
    play.arrives(at, f"{model}0", model)
    play.loaded(at + 0.2, model)
    play.leaves(at + 0.4, f"{model}0")
    play.reads(at + 0.5, used)


def cause_of(play: Play, request_id: str) -> tuple[Cause, float | None]:
    [found] = [w for w in play.snapshot().waiting if w.request.id == request_id]
    return found.cause, found.until


# -------------------------------------------------------------------- memory of others


def test_when_others_take_memory_the_longest_unused_goes_and_no_more() -> None:
    play = a_card()
    for at, model in enumerate(["c", "d", "e"], 1):
        resident(play, model, at, 4 * at)
    assert play.reads(5, 23) == [evict("c", "foreign memory", "0.2GiB", idle=3.6)]


def test_what_suffices_alone_spares_those_before_it() -> None:
    play = a_card()
    resident(play, "c", 1, 4)
    resident(play, "a", 2, 20)
    assert play.reads(5, 24) == [evict("c", "foreign memory", "1.2GiB", idle=3.6)]
    play = a_card()
    resident(play, "c", 1, 4)
    resident(play, "a", 2, 20)
    assert play.reads(5, 29) == [evict("a", "foreign memory", "6.2GiB", idle=2.6)]


def test_nobody_who_serves_or_is_wanted_goes_for_others() -> None:
    play = a_card()
    play.arrives(1, "1", "c", parallel=2)
    play.loaded(2, "c")
    play.reads(3, 4)
    assert play.reads(4, 24) == []
    assert play.arrives(5, "2", "c", parallel=2) == [forward("2")]
    assert play.leaves(6, "1") == []
    assert play.leaves(7, "2") == [evict("c", "foreign memory", "1.2GiB")]


def test_where_all_that_idle_are_not_enough_they_go_all_the_same() -> None:
    play = a_card()
    resident(play, "c", 1, 4)
    play.arrives(2, "1", "a")
    play.loaded(3, "a")
    play.reads(4, 20)
    assert play.reads(5, 30) == [evict("c", "foreign memory", "7.2GiB", idle=3.6)]


def test_no_new_model_is_loaded_while_others_leave_too_little() -> None:
    play = a_card()
    play.arrives(1, "1", "c")
    play.loaded(2, "c")
    play.reads(3, 4)
    play.reads(4, 20)
    assert play.arrives(5, "2", "d") == []
    assert play.reads(6, 4) == []
    assert play.reads(7, 4) == [load("d", "2", free=free(4), alone=False, waited=2)]


def test_what_was_there_before_a_model_is_no_reason_that_it_goes() -> None:
    play = a_card()
    play.reads(1, 3)
    play.reads(2, 3)
    play.arrives(3, "1", "huge")
    play.loaded(4, "huge", footprint_bytes=gib(20.5), reported_bytes=gib(20.5))
    assert play.leaves(5, "1") == []
    assert play.reads(6, 23.5) == []
    assert play.reads(7, 23.5) == []


def test_a_model_that_takes_nothing_of_the_card_is_not_unloaded_for_others() -> None:
    play = a_card()
    play.arrives(1, "1", "c", size=0, launch=Launch(num_gpu=0))
    play.loaded(2, "c")
    play.leaves(3, "1")
    assert play.reads(4, 24) == []


def test_nothing_is_unloaded_for_others_during_a_load() -> None:
    play = a_card()
    resident(play, "c", 1, 4)
    play.arrives(2, "1", "d")
    assert play.reads(3, 24) == []
    # 16 GiB that nothing explains, and 8 of the two models.
    assert play.loaded(4, "d") == [
        forward("1", 2),
        evict("c", "foreign memory", "1.2GiB", idle=2.6),
    ]


# -------------------------------------------------------------------- alone, beside others


def test_what_fits_an_empty_card_waits_for_others_until_its_patience_ends() -> None:
    play = a_card(tau_s=(5, 10, 20))
    play.reads(1, 12)
    assert play.arrives(2, "1", "a") == []
    assert cause_of(play, "1") == (Cause.FOREIGN, 11)
    assert play.wakes_at() == 6
    assert play.ticks(6) == []
    assert play.ticks(11) == [load("a", "1", free=free(12), waited=9, missing=16 - free(12))]


def test_what_others_give_back_is_used_at_once() -> None:
    play = a_card()
    play.reads(1, 12)
    play.arrives(2, "1", "a")
    play.reads(3, 0)
    assert play.reads(4, 0) == [load("a", "1", free=free(0), waited=2)]


def test_others_who_have_long_been_there_are_not_waited_for() -> None:
    play = a_card(tau_s=(5, 10, 20))
    play.reads(1, 12)
    for at in range(2, 102, 10):
        play.reads(at, 12 + (at // 10 % 2) / 4)
    assert play.arrives(101, "1", "a") == [
        load("a", "1", free=free(12.25), missing=16 - free(12.25))
    ]


def test_what_never_fits_waits_for_nobody() -> None:
    play = a_card()
    play.reads(1, 12)
    assert play.arrives(2, "1", "huge") == [load("huge", "1", free=free(12), missing=40 - free(12))]


def test_who_accepts_a_part_on_the_cpu_waits_for_nobody() -> None:
    play = a_card(offload=Offload.ACCEPT)
    play.reads(1, 12)
    assert play.arrives(2, "1", "a") == [load("a", "1", free=free(12), missing=16 - free(12))]


def test_on_a_cpu_nobody_waits_for_others() -> None:
    play = a_card(cpu=True)
    play.reads(1, 12)
    assert play.arrives(2, "1", "a") == [load("a", "1", free=free(12))]


def test_who_may_not_be_on_the_cpu_is_refused_when_others_stay() -> None:
    play = a_card(tau_s=(5, 10, 20), offload=Offload.REFUSE)
    play.reads(1, 12)
    assert play.arrives(2, "1", "a") == []
    assert play.arrives(3, "2", "a") == []
    assert play.ticks(11) == [
        refuse("1", Refusal.NEVER_FITS, wanted_bytes=gib(16), there_bytes=gib(free(12))),
        refuse("2", Refusal.NEVER_FITS, wanted_bytes=gib(16), there_bytes=gib(free(12))),
    ]


# -------------------------------------------------------------------- a card that is lost


def test_without_readings_memory_is_awaited_by_time() -> None:
    play = a_card(unread_recovery_s=1.5)
    resident(play, "a", 1, 17)
    play.arrives(4, "1", "b")
    play.unloaded(5, "a")
    assert play.reading_lost(5.5) == []
    assert play.snapshot().bins[0].live is False
    assert play.wakes_at() == 6.5
    [ordered] = play.ticks(6.5)
    assert ordered == load("b", "1", free=free(1), waited=2.5)


def test_what_others_used_when_readings_stopped_is_believed_on() -> None:
    play = a_card()
    play.reads(1, 10)
    play.reading_lost(2)
    assert play.arrives(3, "1", "a") == []
    play.reads(4, 0)
    assert play.reads(5, 0) == [load("a", "1", free=free(0), waited=2)]


# -------------------------------------------------------------------- half on the CPU

SLID: dict[str, Any] = {
    "footprint_bytes": gib(8.5),
    "reported_bytes": gib(8),
    "size_bytes": gib(16),
}
WHOLE: dict[str, Any] = {
    "footprint_bytes": gib(16.5),
    "reported_bytes": gib(16),
    "size_bytes": gib(16),
}
AGAIN = Offloaded(share=0.5, wanted_bytes=gib(16.5), again=True)


def test_what_slid_though_it_fits_is_loaded_again_once_and_then_put_up_with() -> None:
    play = Play()
    play.arrives(0, "1", "a", size=10)
    assert play.loaded(1, "a", **SLID) == [let_go("a", AGAIN)]
    assert play.unloaded(2, "a") == [load("a", "1", size=16.5, waited=2)]
    assert play.loaded(3, "a", **SLID) == [warn("a", 0.5, 16.5, 24), forward("1", 3, offload=0.5)]
    assert play.leaves(4, "1") == []
    assert play.arrives(5, "2", "a", size=10) == [forward("2", offload=0.5)]


def test_the_second_load_has_room_made_for_all_of_it() -> None:
    play = Play()
    play.arrives(0, "0", "c", size=8)
    play.loaded(1, "c")
    play.leaves(2, "0")
    play.arrives(3, "1", "a", size=10)
    assert play.loaded(4, "a", **SLID) == [
        evict("c", "a", "0.5GiB", idle=2),
        let_go("a", AGAIN),
    ]
    play.unloaded(5, "a")
    assert play.unloaded(6, "c") == [load("a", "1", size=16.5, waited=3)]
    assert play.loaded(7, "a", **WHOLE) == [forward("1", 4)]


def test_the_second_load_has_the_bin_alone_even_where_the_books_have_room_for_both() -> None:
    play = Play()
    play.arrives(0, "0", "c", size=2)
    play.loaded(1, "c")
    play.leaves(2, "0")
    play.arrives(3, "1", "a", size=10)
    assert play.loaded(4, "a", **SLID) == [evict("c", "a", "offload", idle=2), let_go("a", AGAIN)]
    play.unloaded(5, "a")
    assert play.unloaded(6, "c") == [load("a", "1", size=16.5, waited=3)]


def test_the_second_load_waits_until_the_memory_of_the_first_is_back() -> None:
    play = a_card()
    play.arrives(1, "1", "d", size=4)
    slid: dict[str, Any] = {"footprint_bytes": gib(3), "reported_bytes": gib(3)}
    play.loaded(2, "d", size_bytes=gib(4), **slid)
    play.reads(3, 3)
    assert play.unloaded(4, "d") == []
    assert play.reads(5, 0) == [load("d", "1", free=free(0), waited=4)]


def test_a_load_that_is_whole_makes_the_past_forgotten() -> None:
    play = Play()
    play.arrives(0, "1", "a", size=10)
    play.loaded(1, "a", **SLID)
    play.unloaded(2, "a")
    play.loaded(3, "a", **WHOLE)
    play.leaves(4, "1")
    play.released(5, "a")
    play.unloaded(6, "a")
    play.arrives(7, "2", "a", size=10)
    assert play.loaded(8, "a", **SLID) == [let_go("a", AGAIN)]


def test_what_cannot_fit_the_bin_is_served_as_it_is_and_has_it_alone() -> None:
    play = Play()
    play.arrives(0, "1", "huge")
    told: dict[str, Any] = {
        "footprint_bytes": gib(16),
        "reported_bytes": gib(16),
        "size_bytes": gib(40),
    }
    assert play.loaded(1, "huge", **told) == [
        warn("huge", 0.6, 40, 24),
        forward("1", 1, offload=0.6),
    ]
    # 8 GiB are free, and nobody is loaded into them.
    assert play.arrives(2, "2", "c") == []
    assert play.leaves(3, "1") == [evict("huge", "c", "offload")]


def test_nobody_is_loaded_before_the_memory_of_one_that_slid_is_back() -> None:
    play = Play(unread_recovery_s=1.5)
    play.arrives(0, "1", "a", size=10)
    play.loaded(1, "a", **SLID)
    play.unloaded(2, "a")
    play.ticks(3.5)
    play.loaded(4, "a", **SLID)
    play.leaves(5, "1")
    assert play.arrives(6, "2", "c", size=4) == [evict("a", "c", "offload", idle=1)]
    # The books have 15.5 GiB for it, as they had before.
    assert play.unloaded(7, "a") == []
    assert play.ticks(8.5) == [load("c", "2", size=4, waited=2.5)]


def test_in_a_bin_of_unknown_size_a_part_is_put_up_with() -> None:
    play = Play(capacity=None)
    play.arrives(0, "1", "a")
    assert play.loaded(1, "a", **SLID) == [warn("a", 0.5, 16.5, None), forward("1", 1, offload=0.5)]


def test_what_others_left_no_room_for_is_loaded_again_when_they_have_gone() -> None:
    play = a_card(tau_s=(5, 10, 20))
    play.reads(1, 12)
    play.arrives(2, "1", "a")
    play.ticks(12)
    assert play.loaded(13, "a", **SLID) == [
        warn("a", 0.5, 16.5, 24 - RESERVE),
        forward("1", 11, offload=0.5),
    ]
    play.reads(14, 8.5)
    play.reads(15, 8.5)
    assert play.leaves(16, "1") == []
    assert play.arrives(17, "2", "a") == [let_go("a", AGAIN)]


def test_a_part_is_put_up_with_where_it_is_accepted_and_others_load_beside() -> None:
    play = Play(offload=Offload.ACCEPT)
    play.arrives(0, "1", "a")
    assert play.loaded(1, "a", **SLID) == [warn("a", 0.5, 16.5, 24), forward("1", 1, offload=0.5)]
    assert play.arrives(2, "2", "c") == [load("c", "2", free=15.5, alone=False)]


@pytest.mark.parametrize("launch", [Launch(num_gpu=7), Launch(num_gpu=0)])
def test_whoever_asked_for_a_part_gets_it(launch: Launch) -> None:
    play = Play()
    play.arrives(0, "1", "a", launch=launch)
    assert play.loaded(1, "a", **SLID) == [forward("1", 1)]


def test_on_a_cpu_nothing_slides() -> None:
    play = Play(cpu=True)
    play.arrives(0, "1", "a")
    assert play.loaded(1, "a", **SLID) == [forward("1", 1)]


def on_the_cpu(play: Play, at: float, model: str) -> Any:
    """A load of which Ollama says that nothing is on a card."""
    return play.loaded(at, model, footprint_bytes=gib(4), reported_bytes=0, size_bytes=gib(4))


def test_where_nothing_was_ever_on_a_card_there_may_be_none_and_nothing_is_mended() -> None:
    play = Play(tau_s=PATIENT)
    play.arrives(1, "1", "c")
    told = warn("c", share=1.0, wanted=5.46484375, there=24)
    assert on_the_cpu(play, 2, "c") == [told, forward("1", 1, offload=1.0)]
    assert play.leaves(3, "1") == []
    # Beside it there is room for others, and nobody goes for them.
    assert play.arrives(4, "2", "d") == [load("d", "2", free=20, alone=False)]


def test_once_something_was_on_a_card_what_is_not_is_loaded_again() -> None:
    play = Play(tau_s=PATIENT)
    play.arrives(1, "1", "d")
    play.loaded(2, "d", footprint_bytes=gib(4), reported_bytes=gib(4), size_bytes=gib(4))
    play.leaves(3, "1")
    play.arrives(4, "2", "c")
    again = Offloaded(share=1.0, wanted_bytes=gib(5.46484375), again=True)
    assert let_go("c", again) in on_the_cpu(play, 5, "c")


def test_an_adopted_model_that_slid_is_told_of_and_loaded_again_for_whoever_comes() -> None:
    play = Play()
    assert play.sees(1, a_resident("a", size=8, whole=16)) == [warn("a", 0.5, 16, 24)]
    assert play.arrives(2, "1", "a") == [
        let_go("a", Offloaded(share=0.5, wanted_bytes=gib(16), again=True))
    ]
    assert play.unloaded(3, "a") == [load("a", "1", waited=1)]


def test_a_model_seen_to_have_slid_while_it_serves_is_told_of_once() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a", **WHOLE)
    assert play.sees(2, a_resident("a", size=8, whole=16)) == [warn("a", 0.5, 16, 24)]
    assert play.sees(3, a_resident("a", size=8, whole=16)) == []
    assert play.snapshot().runners[0].offload == 0.5


def test_one_that_slid_waits_with_going_until_the_upstream_answers() -> None:
    play = Play()
    play.arrives(0, "1", "a", size=10)
    play.loses(0.5)
    assert play.loaded(1, "a", **SLID) == []
    assert play.sees(2, a_resident("a", size=8, whole=16)) == [
        let_go("a", Offloaded(share=0.5, wanted_bytes=gib(16), again=True))
    ]


# -------------------------------------------------------------------- refused rather than slow


def test_what_is_larger_than_the_bin_is_refused_when_it_comes() -> None:
    play = Play(offload=Offload.REFUSE)
    assert play.arrives(0, "1", "huge") == [
        refuse("1", Refusal.NEVER_FITS, wanted_bytes=gib(40), there_bytes=gib(24))
    ]
    assert play.arrives(1, "2", "huge", launch=Launch(num_gpu=7)) == [
        load("huge", "2", launch=Launch(num_gpu=7), missing=16)
    ]


def test_where_nobody_knows_how_large_it_is_the_load_will_tell() -> None:
    play = Play(offload=Offload.REFUSE, capacity=None)
    assert play.arrives(0, "1", "huge") == [load("huge", "1", free=None)]
    assert play.loaded(1, "huge", **SLID) == [
        refuse("1", Refusal.NEVER_FITS, wanted_bytes=gib(16.5)),
        let_go("huge", Offloaded(share=0.5, wanted_bytes=gib(16.5), again=False)),
    ]


def test_on_a_cpu_nobody_is_refused_for_its_size() -> None:
    play = Play(offload=Offload.REFUSE, cpu=True)
    assert play.arrives(0, "1", "huge") == [load("huge", "1")]


def test_what_slid_is_tried_once_more_before_it_is_refused() -> None:
    play = Play(offload=Offload.REFUSE)
    play.arrives(0, "1", "a", size=10)
    assert play.loaded(1, "a", **SLID) == [let_go("a", AGAIN)]
    assert play.unloaded(2, "a") == [load("a", "1", size=16.5, waited=2)]
    assert play.loaded(3, "a", **SLID) == [
        refuse("1", Refusal.NEVER_FITS, wanted_bytes=gib(16.5), there_bytes=gib(24)),
        let_go("a", Offloaded(share=0.5, wanted_bytes=gib(16.5), again=False)),
    ]


def test_what_was_refused_for_that_is_not_loaded_for_each_who_asks_again() -> None:
    play = Play(offload=Offload.REFUSE)
    play.arrives(0, "1", "a", size=10)
    play.loaded(1, "a", **SLID)
    play.unloaded(2, "a")
    play.loaded(3, "a", **SLID)
    play.unloaded(4, "a")
    assert play.arrives(5, "2", "a", size=10) == [
        refuse("2", Refusal.NEVER_FITS, wanted_bytes=gib(16.5), there_bytes=gib(24))
    ]
    assert play.arrives(6, "3", "a", size=10, launch=Launch(num_gpu=7)) == [
        load("a", "3", size=10, launch=Launch(num_gpu=7))
    ]


def test_what_was_refused_for_that_is_tried_anew_after_a_minute() -> None:
    play = Play(offload=Offload.REFUSE)
    play.arrives(0, "1", "a", size=10)
    play.loaded(1, "a", **SLID)
    play.unloaded(2, "a")
    play.loaded(3, "a", **SLID)
    play.unloaded(4, "a")
    # By then others may have given back what nobody saw them take.
    assert play.arrives(63, "2", "a", size=10) == [load("a", "2", size=16.5)]


def test_what_turns_out_to_be_too_large_is_refused() -> None:
    play = Play(offload=Offload.REFUSE)
    play.arrives(0, "1", "a", size=10)
    told: dict[str, Any] = {
        "footprint_bytes": gib(20),
        "reported_bytes": gib(20),
        "size_bytes": gib(40),
    }
    assert play.loaded(1, "a", **told) == [
        refuse("1", Refusal.NEVER_FITS, wanted_bytes=gib(40), there_bytes=gib(24)),
        let_go("a", Offloaded(share=0.5, wanted_bytes=gib(40), again=False)),
    ]


def test_what_is_whole_serves_even_where_it_could_not_be_loaded_now() -> None:
    play = Play(offload=Offload.REFUSE)
    play.sees(1, a_resident("huge", size=23, whole=23))
    assert play.arrives(2, "1", "huge") == [forward("1")]


# -------------------------------------------------------------------- out of memory at a load


def test_a_load_that_ran_out_is_tried_again_with_more_room_after_a_pause() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    assert play.load_fails(1, "a", "cudaMalloc failed", oom=True) == []
    assert cause_of(play, "1")[0] is Cause.LOOKING
    assert play.sees(1.1) == []
    assert cause_of(play, "1") == (Cause.BACKING_OFF, 2)
    assert play.wakes_at() == 2
    assert play.ticks(2) == [load("a", "1", size=16 * 1.15, waited=2)]


def test_failures_before_a_load_that_went_well_in_part_are_not_counted_on() -> None:
    play = Play()
    play.arrives(0, "1", "huge")
    for at, again in [(1, 2), (3, 5)]:
        play.load_fails(at, "huge", "out of memory", oom=True)
        play.sees(at + 0.1)
        assert len(play.ticks(again)) == 1
    play.loaded(6, "huge", **SLID | {"size_bytes": gib(40)})
    play.leaves(7, "1")
    play.released(8, "huge")
    play.unloaded(9, "huge")
    play.arrives(10, "2", "huge")
    assert play.load_fails(11, "huge", "out of memory", oom=True) == []


def test_it_is_booked_with_no_more_than_there_is() -> None:
    play = Play()
    play.arrives(0, "1", "a", size=22)
    play.load_fails(1, "a", "out of memory", oom=True)
    play.sees(1.1)
    assert play.ticks(2) == [load("a", "1", size=24, waited=2)]


def test_in_a_bin_of_unknown_size_it_is_booked_with_what_it_may_need() -> None:
    play = Play(capacity=None)
    play.arrives(0, "1", "a")
    play.load_fails(1, "a", "out of memory", oom=True)
    play.sees(1.1)
    assert play.ticks(2) == [load("a", "1", size=16 * 1.15, free=None, waited=2)]


def test_what_is_larger_than_its_bin_is_not_booked_with_less() -> None:
    play = Play()
    play.arrives(0, "1", "huge")
    play.load_fails(1, "huge", "out of memory", oom=True)
    play.sees(1.1)
    assert play.ticks(2) == [load("huge", "1", waited=2, missing=16)]


def test_meanwhile_others_go_on_even_before_somebody_overdue() -> None:
    play = Play(tau_s=(0, 0, 0))
    play.arrives(0, "1", "a")
    play.arrives(0.5, "2", "b")
    play.load_fails(1, "a", "out of memory", oom=True)
    assert play.sees(1.1) == [load("b", "2", waited=1.1 - 0.5)]


def test_after_three_times_its_requests_are_told_so_in_ollamas_words_and_others_of_it_wait() -> (
    None
):
    play = Play()
    play.arrives(0, "1", "a")
    for at, again in [(1, 2), (3, 5)]:
        assert play.load_fails(at, "a", "out of memory", oom=True) == []
        play.sees(at + 0.1)
        assert len(play.ticks(again)) == 1
    assert play.load_fails(6, "a", "out of memory", status=503, oom=True) == [
        refuse("1", Refusal.LOAD_FAILED, status=503, text="out of memory")
    ]
    play.sees(6.1)
    assert play.arrives(7, "2", "a") == []
    assert play.wakes_at() == 10
    [ordered] = play.ticks(10)
    # The figure that grew is kept.
    assert ordered == load("a", "2", size=24, waited=3)
    assert play.load_fails(11, "a", "out of memory", oom=True) == [
        refuse("2", Refusal.LOAD_FAILED, status=500, text="out of memory")
    ]
    play.sees(11.1)
    play.arrives(12, "3", "a")
    assert play.ticks(18.9) == []
    assert len(play.ticks(19)) == 1


def test_failures_long_ago_do_not_count() -> None:
    play = Play()
    for at in (0, 1000, 2000, 3000):
        play.arrives(at, str(at), "a")
        assert play.load_fails(at + 1, "a", "out of memory", oom=True) == []
        play.leaves(at + 2, str(at))
        play.sees(at + 3)


def test_a_load_that_ended_well_forgives_the_failures_and_what_it_is_said_to_take_counts() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.load_fails(1, "a", "out of memory", oom=True)
    play.sees(1.1)
    play.ticks(2)
    assert play.loaded(3, "a", **WHOLE) == [forward("1", 3)]
    play.leaves(4, "1")
    play.released(5, "a")
    play.unloaded(6, "a")
    assert play.arrives(7, "2", "a", size=16.5) == [load("a", "2", size=16.5)]


def test_a_load_that_ended_half_well_forgives_the_failures_only() -> None:
    play = Play(offload=Offload.ACCEPT)
    play.arrives(0, "1", "a")
    play.load_fails(1, "a", "out of memory", oom=True)
    play.sees(1.1)
    play.ticks(2)
    play.loaded(3, "a", **SLID)
    play.leaves(4, "1")
    play.released(5, "a")
    play.unloaded(6, "a")
    assert play.arrives(7, "2", "a") == [load("a", "2", size=16 * 1.15)]


def test_a_load_of_which_nothing_was_said_teaches_nothing() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.load_fails(1, "a", "out of memory", oom=True)
    play.sees(1.1)
    play.ticks(2)
    play.loaded(3, "a")
    play.leaves(4, "1")
    play.released(5, "a")
    play.unloaded(6, "a")
    assert play.arrives(7, "2", "a") == [load("a", "2", size=16 * 1.15)]


def test_a_load_that_ended_half_well_at_first_leaves_no_trace_of_failures() -> None:
    play = Play(offload=Offload.ACCEPT)
    play.arrives(0, "1", "a")
    play.loaded(3, "a", **SLID)
    assert play.snapshot().runners[0].offload == 0.5


def test_after_it_nothing_is_sent_anywhere_before_ollama_was_asked_what_is_left() -> None:
    play = Play()
    play.arrives(0, "c1", "c")
    play.loaded(1, "c")
    play.leaves(2, "c1")
    play.arrives(3, "1", "a")
    play.load_fails(4, "a", "out of memory", oom=True)
    assert play.arrives(4.1, "c2", "c") == []
    # An answer to a question from before says nothing.
    assert play.sees(4.2, a_resident("c"), asked=3.9) == []
    assert play.sees(4.3, asked=4.1) == [load("c", "c2", waited=4.3 - 4.1)]


def test_only_so_many_sets_of_options_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_gate.scheduler.recovery.REMEMBERED", 1)
    play = Play()
    for at, num_gpu in ((0, 7), (10, 8)):
        launch = Launch(num_gpu=num_gpu)
        play.arrives(at, f"{at}", "a", launch=launch)
        play.load_fails(at + 1, "a", "out of memory", oom=True)
        play.leaves(at + 2, f"{at}")
        play.sees(at + 3)
    assert play.arrives(20, "1", "a", launch=Launch(num_gpu=7)) == [
        load("a", "1", launch=Launch(num_gpu=7))
    ]


# -------------------------------------------------------------------- runners that are no more

SAID = Broken(sign="an answer says so")
RAN_OUT = Broken(sign="out of memory in an answer")
MISSING = Broken(sign="its memory is missing on the card")


def test_a_runner_that_died_serves_nobody_new_and_its_request_is_sent_again_at_its_place() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.arrives(2, "2", "a")
    assert play.runner_died(3, "1") == []
    assert play.snapshot().runners[0].draining
    assert play.leaves(3, "1") == [let_go("a", SAID)]
    # By then it is decided that its model is next, for the sake of the other.
    assert play.arrives(3, "1", "a", arrived_at=0.0, accepted=True) == []
    assert play.unloaded(4, "a") == [load("a", "2", waited=2)]
    assert play.loaded(5, "a") == [forward("1", 5)]


def test_others_whom_it_serves_may_end() -> None:
    play = Play()
    play.arrives(0, "1", "a", parallel=2)
    play.arrives(0, "2", "a", parallel=2)
    play.loaded(1, "a")
    play.runner_died(2, "1")
    assert play.leaves(2, "1") == []
    assert play.arrives(3, "3", "a", parallel=2) == []
    assert play.leaves(4, "2") == [let_go("a", SAID)]


def test_when_memory_ran_out_in_an_answer_all_of_its_upstream_go() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    for at, model, where in [(0, "c", "u/0"), (2, "d", "u/0"), (4, "e", "v/0")]:
        play.arrives(at, model, model, bins=(where,))
        play.loaded(at + 1, model, where)
    play.leaves(6, "d")
    assert play.runner_died(7, "c", oom=True) == [let_go("d", RAN_OUT)]
    assert play.leaves(8, "c") == [let_go("c", RAN_OUT)]
    assert play.leaves(9, "e") == []


def test_when_memory_ran_out_in_an_answer_what_is_being_loaded_is_loaded_all_the_same() -> None:
    play = Play()
    play.arrives(0, "1", "c")
    play.loaded(1, "c")
    play.arrives(2, "2", "d")
    play.runner_died(3, "1", oom=True)
    assert play.leaves(3, "1") == []
    assert play.loaded(4, "d") == [forward("2", 2), let_go("c", RAN_OUT)]
    assert play.arrives(5, "3", "d", parallel=2) == []
    assert play.leaves(6, "2") == [forward("3", 1)]


def test_a_runner_that_has_been_replaced_since_is_not_the_one_that_died() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.arrives(2, "2", "a")
    play.sees(3)
    play.loaded(4, "a")
    assert play.runner_died(5, "1") == []
    assert play.leaves(6, "2") == []
    assert play.leaves(6, "1") == []
    assert play.runner_died(7, "1") == []
    assert play.arrives(8, "3", "a") == [forward("3")]


def test_one_that_died_and_is_gone_is_nobodys_concern() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.sees(3)
    assert play.runner_died(4, "1") == []


def test_one_that_died_goes_when_the_load_of_another_is_over() -> None:
    play = Play()
    play.arrives(0, "1", "c")
    play.loaded(1, "c")
    play.arrives(2, "2", "d")
    play.runner_died(3, "1")
    assert play.leaves(3, "1") == []
    assert play.loaded(4, "d") == [forward("2", 2), let_go("c", SAID)]


def test_one_that_is_dead_and_cannot_be_unloaded_still_serves_nobody() -> None:
    play = Play()
    play.arrives(0, "1", "a", keep_alive_s=0.0)
    play.loaded(1, "a")
    play.runner_died(2, "1")
    assert play.leaves(2, "1") == [let_go("a", SAID)]
    play.loses(3)
    assert play.unloaded(3, "a", gone=False) == []
    assert play.arrives(4, "2", "a") == []
    assert play.sees(5, a_resident("a")) == [let_go("a", SAID)]


def shown() -> Play:
    """`a` and `c` are idle, and the card has shown both."""
    play = a_card()
    for at, model, size, used in [(1, "a", 16, 16.5), (2, "c", 4, 21)]:
        play.arrives(at, model, model)
        told: dict[str, Any] = {"reported_bytes": gib(size), "size_bytes": gib(size)}
        play.loaded(at + 0.2, model, **told)
        play.leaves(at + 0.4, model)
        play.reads(at + 0.5, used)
    return play


def test_a_runner_whose_memory_is_missing_twice_in_a_row_is_no_more() -> None:
    play = shown()
    assert play.reads(4, 5) == []
    assert play.reads(5, 5) == [let_go("a", MISSING)]


def test_once_is_not_enough() -> None:
    play = shown()
    play.reads(4, 5)
    play.reads(5, 21)
    assert play.reads(6, 5) == []


def test_nor_is_what_would_not_be_most_of_any() -> None:
    play = shown()
    play.reads(4, 17.5)
    assert play.reads(5, 17.5) == []


def test_the_small_one_is_missed_where_no_more_is_missing() -> None:
    play = shown()
    play.reads(4, 16.5)
    assert play.reads(5, 16.5) == [let_go("c", MISSING)]


def test_one_that_serves_is_not_judged_by_the_card() -> None:
    play = shown()
    play.arrives(3, "busy", "a")
    play.reads(4, 5)
    assert play.reads(5, 5) == [let_go("c", MISSING)]


def test_what_the_card_has_never_shown_is_on_another() -> None:
    play = a_card()
    play.sees(1, a_resident("a", whole=16))
    for at in range(2, 9):
        assert play.reads(at, 1) == []


def test_of_what_ollama_has_not_said_the_size_the_card_tells_nothing() -> None:
    play = a_card()
    resident(play, "a", 1, 16.5)
    assert [play.reads(at, 0) for at in (4, 5, 6)] == [[], [], []]


def test_a_cpu_tells_nothing_of_the_kind() -> None:
    play = a_card(cpu=True)
    play.sees(1, a_resident("a", whole=16))
    play.reads(2, 17)
    assert [play.reads(at, 0) for at in (4, 5, 6)] == [[], [], []]


def test_a_lost_reading_begins_the_count_anew() -> None:
    play = shown()
    play.reads(4, 5)
    play.reading_lost(5)
    assert play.reads(6, 5) == []
    assert play.reads(7, 5) == [let_go("a", MISSING)]


def test_it_is_unloaded_once_however_often_the_card_says_it() -> None:
    play = shown()
    play.reads(4, 5)
    play.reads(5, 5)
    play.unloaded(6, "a", gone=False)
    assert play.sees(7, a_resident("a", whole=16), a_resident("c", whole=4)) == []
    assert play.reads(8, 5) == []


# -------------------------------------------------------------------- towards Ollama


def test_what_is_ordered_is_booked_until_it_shows_and_an_old_answer_does_not_undo_it() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    # `/api/ps` does not list what is being loaded.
    assert play.sees(1) == []
    assert play.arrives(2, "2", "c", size=9) == []
    assert play.loaded(3, "a") == [forward("1", 3)]
    assert play.sees(3.5, asked=2.9) == []
    assert play.snapshot().bins[0].committed_bytes == gib(16)


def test_what_is_loaded_behind_our_back_is_booked_and_makes_room_like_any() -> None:
    play = Play()
    play.arrives(0, "1", "c")
    play.loaded(1, "c")
    play.sees(2, a_resident("c"), a_resident("d"))
    assert play.arrives(3, "2", "a", size=17) == [evict("d", "a", "1.0GiB", idle=1)]


def test_what_is_unloaded_behind_our_back_is_awaited_on_the_card_like_any() -> None:
    play = a_card()
    resident(play, "a", 1, 17)
    play.sees(4)
    assert play.arrives(5, "1", "b") == []
    assert play.reads(6, 1) == [load("b", "1", free=free(1), waited=1)]


def test_a_restarted_upstream_has_nothing_and_who_waits_is_served_by_a_new_runner() -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a")
    play.arrives(2, "2", "a", priority=LOW)
    play.loses(3)
    play.leaves(3.1, "1")
    assert play.arrives(3.2, "1", "a", arrived_at=0.0, accepted=True) == []
    assert play.sees(5) == [load("a", "1", waited=5)]
    assert play.loaded(6, "a") == [forward("1", 6)]
    assert play.leaves(7, "1") == [forward("2", 5)]


def test_what_is_asked_to_go_counts_until_ollama_and_the_card_say_so_five_seconds_at_most() -> None:
    play = a_card()
    resident(play, "a", 1, 16)
    play.arrives(3, "1", "b", size=7)
    assert play.sees(3.5, a_resident("a")) == []
    assert play.unloaded(4, "a") == []
    play.reads(5, 16)
    assert play.wakes_at() == 9
    books = play.machine.books[BinId("u/0")]
    assert books.foreign_bytes == 0
    play.ticks(9)
    assert books.foreign_bytes == gib(16)
