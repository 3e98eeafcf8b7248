"""Stories about contexts: with which one a model is loaded, and who is sent with another.

Ollama gives 4,096 tokens by itself. A model takes 4 GiB and one more for every 4,096 tokens.
"""

from dataclasses import replace
from typing import Any

import pytest

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Load
from ollama_gate.scheduler.types import BinId, Exact, Launch, ModelKey, Need, Refusal
from tests.play import GIB, Play, a_resident, evict, forward, gib, load, refuse

AUTO = 4096
ON_CPU = Launch(num_gpu=0)


def size(num_ctx: int) -> float:
    return 4 + num_ctx / 4096


def named(num_ctx: int, **options: Any) -> dict[str, Any]:
    """A native request that names its context and may be sent with another."""
    needs = {BinId("u/0"): Need(footprint_bytes=gib(size(num_ctx)), predicted_bytes=0)}
    exact = Exact(launch=Launch(num_ctx=num_ctx, **options), needs=needs)
    if num_ctx > AUTO:
        return {
            "launch": exact.launch,
            "num_ctx": num_ctx,
            "named_ctx": num_ctx,
            "size": size(num_ctx),
            "least_ctx": num_ctx,
        }
    return {**unnamed(**options), "least_ctx": num_ctx, "exact": exact}


def unnamed(**options: Any) -> dict[str, Any]:
    """A request that leaves the context to Ollama, as all of `/v1` does."""
    return {
        "launch": Launch(**options),
        "num_ctx": AUTO,
        "named_ctx": AUTO,
        "size": size(AUTO),
    }


def sent(request_id: str, num_ctx: int, queued: float = 0.0) -> Command:
    return replace(forward(request_id, queued), num_ctx=num_ctx)


def wide(model: str, request_id: str, num_ctx: int, **more: Any) -> Load:
    return load(model, request_id, size=size(num_ctx), launch=Launch(num_ctx=num_ctx), **more)


def automatic(model: str, request_id: str, **more: Any) -> Load:
    return load(model, request_id, size=size(AUTO), **more)


def busy_with(play: Play, model: str = "e", *, keeps: float = 1.0) -> None:
    """Something else runs, of so many GiB, so that whoever comes next waits."""
    play.arrives(0, "first", model, size=keeps)
    play.loaded(0, model)


# -------------------------------------------------------------------- one after another


def test_who_names_no_more_than_ollama_gives_is_served_with_that_and_so_is_everybody() -> None:
    play = Play()
    assert play.arrives(0, "1", "a", **named(2048)) == [automatic("a", "1")]
    assert play.loaded(1, "a", num_ctx=AUTO) == [sent("1", AUTO, 1)]
    play.leaves(2, "1")
    assert play.arrives(2, "2", "a", **named(4096)) == [sent("2", AUTO)]
    play.leaves(3, "2")
    assert play.arrives(3, "3", "a", **unnamed()) == [forward("3")]


def test_who_names_more_gets_more_and_then_serves_those_who_name_less() -> None:
    play = Play()
    assert play.arrives(0, "1", "a", **named(8192)) == [wide("a", "1", 8192)]
    assert play.loaded(1, "a", num_ctx=8192) == [sent("1", 8192, 1)]
    play.leaves(2, "1")
    assert play.arrives(2, "2", "a", **named(2048)) == [sent("2", 8192)]
    play.leaves(3, "2")
    assert play.arrives(3, "3", "a", **named(16384)) == [evict("a", "a", "other options")]


def test_who_names_none_is_not_served_with_more_but_loads_it_anew() -> None:
    play = Play()
    play.arrives(0, "1", "a", **named(8192))
    play.loaded(1, "a", num_ctx=8192)
    play.leaves(2, "1")
    assert play.arrives(2, "2", "a", **unnamed()) == [evict("a", "a", "other options")]
    assert play.unloaded(3, "a") == [automatic("a", "2", waited=1)]
    assert play.loaded(4, "a", num_ctx=AUTO) == [forward("2", 2)]


def test_who_is_to_be_sent_as_it_is_gets_just_what_it_names() -> None:
    play = Play()
    exact = {"launch": Launch(num_ctx=2048), "num_ctx": 2048, "size": size(2048)}
    assert play.arrives(0, "1", "a", **exact) == [wide("a", "1", 2048)]
    assert play.loaded(1, "a", num_ctx=2048) == [forward("1", 1)]
    play.leaves(2, "1")
    assert play.arrives(2, "2", "a", **unnamed()) == [evict("a", "a", "other options")]


def test_with_two_who_cannot_share_neither_is_thrown_out_before_its_quantum() -> None:
    play = Play(tau_s=(10, 10, 10), kappa=2)
    play.arrives(0, "1", "a", **named(8192))
    play.loaded(1, "a", num_ctx=8192)
    assert play.arrives(1, "2", "a", **unnamed()) == []
    assert play.arrives(2, "3", "a", **named(8192)) == []
    assert play.leaves(3, "1") == [sent("3", 8192, 1)]
    assert play.arrives(4, "4", "a", **named(8192)) == []
    # The other is overdue at 11, and the quantum has ended long before.
    assert play.ticks(11) == []
    assert play.leaves(12, "3") == [evict("a", "a", "other options")]
    assert play.unloaded(13, "a") == [automatic("a", "2", waited=12)]


# -------------------------------------------------------------------- the widest that waits


def test_the_next_is_loaded_with_the_most_that_waits_and_fits_anyway() -> None:
    play = Play(capacity=12.0)
    assert play.arrives(0, "c1", "c", size=1.0) == [load("c", "c1", size=1.0, free=12)]
    play.arrives(0, "1", "a", **named(8192))
    play.arrives(0, "2", "a", **named(16384))
    play.arrives(0, "3", "a", **named(32768))
    play.arrives(0, "4", "a", **named(2048))
    assert play.loaded(1, "c") == [
        wide("a", "1", 16384, free=11, alone=False, waited=1),
        forward("c1", 1),
    ]
    assert play.loaded(2, "a", num_ctx=16384) == [sent("1", 16384, 2)]
    assert play.leaves(3, "1") == [sent("2", 16384, 3)]
    assert play.leaves(4, "2") == [sent("4", 16384, 4)]


def test_nobody_goes_for_the_sake_of_a_wider_context_than_the_next_needs() -> None:
    play = Play(capacity=12.0)
    play.arrives(0, "c1", "c", size=4.0)
    play.loaded(1, "c")
    play.leaves(1, "c1")
    play.loses(1)
    play.arrives(2, "1", "a", **named(8192))
    play.arrives(2, "2", "a", **named(16384))
    # 6 GiB fit beside the idle model, and 8 do as well; 9 would not.
    play.arrives(2, "3", "a", **named(20480))
    assert play.sees(3, replace(a_resident("c"), reported_bytes=gib(4))) == [
        wide("a", "1", 16384, free=8, alone=False, waited=1)
    ]


def test_a_context_that_nobody_can_use_who_names_none_waits_until_they_are_served() -> None:
    play = Play(heard=False)
    play.arrives(0, "1", "a", **named(2048))
    play.arrives(0, "2", "a", **unnamed())
    play.arrives(0, "3", "a", **named(8192))
    assert play.sees(1) == [automatic("a", "1", waited=1)]
    assert play.loaded(2, "a", num_ctx=AUTO) == [sent("1", AUTO, 2)]
    assert play.leaves(3, "1") == [forward("2", 3)]
    assert play.leaves(4, "2") == [evict("a", "a", "other options")]
    assert play.unloaded(5, "a") == [wide("a", "3", 8192, waited=5)]


def test_if_all_who_wait_can_use_it_the_widest_is_loaded_at_once() -> None:
    play = Play(heard=False)
    play.arrives(0, "1", "a", **named(2048))
    play.arrives(0, "2", "a", **named(8192))
    assert play.sees(1) == [wide("a", "1", 8192, waited=1)]
    assert play.loaded(2, "a", num_ctx=8192) == [sent("1", 8192, 2)]


def test_who_needs_other_options_or_another_place_does_not_widen() -> None:
    play = Play(heard=False)
    play.arrives(0, "1", "a", **named(8192))
    play.arrives(0, "2", "a", **named(16384, num_thread=2))
    play.arrives(0, "3", "b", **named(16384))
    assert play.sees(1) == [wide("a", "1", 8192, waited=1)]


def test_for_a_place_in_another_bin_nobody_widens() -> None:
    play = Play(bins={"u/0": "u", "u/1": "u"}, heard=False)
    play.arrives(0, "1", "a", **named(8192))
    play.arrives(0, "2", "a", bins=("u/1",), **named(16384))
    assert play.sees(1) == [wide("a", "1", 8192, waited=1)]


def test_where_nobody_knows_how_much_there_is_the_next_gets_what_it_needs() -> None:
    play = Play(capacity=None, heard=False)
    play.arrives(0, "1", "a", **named(8192))
    play.arrives(0, "2", "a", **named(16384))
    assert play.sees(1) == [wide("a", "1", 8192, free=None, waited=1)]


# -------------------------------------------------------------------- what Ollama gives does not do


def test_what_ollama_gives_is_too_much_for_the_card_and_what_is_named_is_not() -> None:
    play = Play(capacity=4.75)
    assert play.arrives(0, "1", "a", **named(2048)) == [wide("a", "1", 2048, free=4.75)]
    assert play.loaded(1, "a", num_ctx=2048) == [sent("1", 2048, 1)]


def test_it_need_not_wait_for_room_that_only_the_automatic_context_needs() -> None:
    play = Play(capacity=4.75)
    play.arrives(0, "c1", "c", size=0.25)
    play.loaded(1, "c")
    assert play.arrives(2, "1", "a", **named(1024)) == [wide("a", "1", 1024, free=4.5, alone=False)]


def test_a_context_that_ollama_lowered_is_asked_for_by_name() -> None:
    play = Play()
    play.arrives(0, "1", "a", **named(4096))
    # It ran out of memory, and took a smaller one than it does by itself.
    assert play.loaded(1, "a", num_ctx=2048) == [evict("a", "a", "other options")]
    assert play.unloaded(2, "a") == [wide("a", "1", 4096, waited=2)]
    assert play.loaded(3, "a", num_ctx=4096) == [sent("1", 4096, 3)]
    play.leaves(4, "1")
    # From then on it is known; who needs no more than there was still gets that.
    play.released(5, "a")
    play.unloaded(6, "a")
    assert play.arrives(7, "2", "a", **named(4096)) == [wide("a", "2", 4096)]


def test_who_was_refused_what_it_names_is_not_loaded_for_again() -> None:
    play = Play(capacity=4.75)
    play.arrives(0, "1", "a", **named(2048))
    text = "no such file"
    assert play.load_fails(1, "a", text) == [
        refuse("1", Refusal.LOAD_FAILED, status=500, text=text)
    ]


def test_a_load_that_failed_with_a_wider_context_is_tried_with_what_the_next_needs() -> None:
    play = Play(heard=False)
    play.arrives(0, "1", "a", **named(8192))
    play.arrives(0, "2", "a", **named(16384))
    assert play.sees(1) == [wide("a", "1", 16384, waited=1)]
    told = play.load_fails(2, "a", "broken")
    assert refuse("2", Refusal.LOAD_FAILED, status=500, text="broken") in told
    later = told + play.ticks(2 + (play.machine.policy.unread_recovery_s))
    assert any(isinstance(one, Load) and one.launch == Launch(num_ctx=8192) for one in later)


# -------------------------------------------------------------------- on the CPU


def on_cpu() -> dict[str, Any]:
    return {"launch": ON_CPU, "size": 0.0, "num_ctx": AUTO, "named_ctx": AUTO}


def test_who_wants_the_cpu_takes_nothing_of_the_card_and_leaves_nobody_there() -> None:
    play = Play(capacity=6.0)
    play.arrives(0, "b1", "b", size=6.0)
    play.loaded(1, "b")
    assert play.arrives(2, "1", "a", **on_cpu()) == [
        load("a", "1", size=0.0, free=0, alone=False, launch=ON_CPU)
    ]
    assert play.loaded(3, "a", num_ctx=AUTO, footprint_bytes=5 * GIB, reported_bytes=0) == [
        forward("1", 1)
    ]
    play.leaves(4, "b1")
    # Whoever asks for nothing of the kind has it loaded anew, onto the card.
    assert play.arrives(5, "2", "a", **unnamed()) == []
    assert play.leaves(6, "1") == [
        evict("a", "a", "5.0GiB"),
        evict("b", "a", "5.0GiB", idle=2),
    ]


def test_the_cpu_and_the_card_take_turns_for_one_model_and_not_request_by_request() -> None:
    play = Play(tau_s=(10, 10, 10), beta=0, kappa=2)
    play.arrives(0, "c1", "a", **on_cpu())
    play.loaded(1, "a", num_ctx=AUTO, reported_bytes=0)
    assert play.arrives(1, "v1", "a", **unnamed()) == []
    assert play.arrives(2, "c2", "a", **on_cpu()) == []
    assert play.leaves(3, "c1") == [forward("c2", 1)]
    assert play.arrives(4, "c3", "a", **on_cpu()) == []
    assert play.ticks(11) == []
    assert play.leaves(12, "c2") == [evict("a", "a", "other options")]
    assert play.unloaded(13, "a") == [automatic("a", "v1", waited=12)]
    assert play.arrives(13.5, "v2", "a", **unnamed()) == []
    assert play.loaded(14, "a", num_ctx=AUTO) == [forward("v1", 13)]
    # The one for the CPU is overdue, but whose turn it is has its quantum, too.
    assert play.leaves(16, "v1") == [forward("v2", 2.5)]
    assert play.leaves(18, "v2") == [evict("a", "a", "other options")]
    assert play.unloaded(19, "a") == [load("a", "c3", size=0.0, launch=ON_CPU, waited=15)]


def test_a_model_that_stands_on_the_cpu_at_the_start_is_not_left_there() -> None:
    play = Play(heard=False)
    seen = replace(a_resident("c", size=0.0), launch=ON_CPU)
    assert play.sees(1, seen) == []
    assert play.arrives(2, "1", "c", size=0.0, launch=ON_CPU) == [forward("1")]
    play.leaves(3, "1")
    assert play.arrives(4, "2", "c") == [evict("c", "c", "other options", idle=1)]


# -------------------------------------------------------------------- behind the gate's back


def a_runner_of(play: Play, model: str = "a") -> tuple[Launch, int | None]:
    runner = play.machine.runners[BinId("u/0"), ModelKey(model)]
    return runner.launch, runner.num_ctx


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ({"num_ctx": 4096}, (Launch(), 4096)),
        ({"num_ctx": None}, (Launch(), 4096)),
        (
            {"num_ctx": 8192, "launch": Launch(num_ctx=8192)},
            (Launch(num_ctx=8192), 8192),
        ),
        ({"reported_bytes": 0, "launch": ON_CPU}, (ON_CPU, 4096)),
    ],
)
def test_a_model_that_was_reloaded_by_somebody_else_is_known_for_what_it_is(
    listed: dict[str, Any], found: tuple[Launch, int]
) -> None:
    play = Play()
    play.arrives(0, "1", "a")
    play.loaded(1, "a", num_ctx=4096, reported_bytes=gib(16))
    play.leaves(2, "1")
    assert play.sees(3, replace(a_resident("a"), **listed)) == []
    assert a_runner_of(play) == found


def test_what_an_old_ollama_does_not_say_is_as_it_was_asked_for() -> None:
    play = Play()
    play.arrives(0, "1", "a", **named(8192))
    assert play.loaded(1, "a") == [sent("1", 8192, 1)]
    play.sees(2, replace(a_resident("a"), num_ctx=None))
    assert a_runner_of(play) == (Launch(num_ctx=8192), 8192)


def test_a_request_sent_once_more_names_the_context_of_the_runner_that_it_then_gets() -> None:
    play = Play()
    play.arrives(0, "1", "a", **named(2048))
    assert play.loaded(1, "a", num_ctx=AUTO) == [sent("1", AUTO, 1)]
    play.leaves(2, "1")
    play.loses(2)
    play.arrives(2, "1", "a", accepted=True, **named(2048))
    seen = replace(a_resident("a"), num_ctx=8192, launch=Launch(num_ctx=8192), named_ctx=8192)
    assert play.sees(4, seen, asked=3) == [sent("1", 8192, 2)]


def test_unknown_until_told() -> None:
    play = Play()
    play.arrives(0, "1", "a", num_ctx=None)
    play.loaded(1, "a")
    assert a_runner_of(play) == (Launch(), None)
    play.leaves(2, "1")
    outcome = ev.Observed(upstream="u", residents=(a_resident("a"),), asked_at=2)
    play.tell(3, outcome)
    assert a_runner_of(play) == (Launch(), 4096)
