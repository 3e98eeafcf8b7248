"""Stories about reading ahead: whose file is worth having in the page cache, and when."""

from ollama_gate.scheduler.commands import Command, Prewarm
from ollama_gate.scheduler.types import BinId, ModelKey
from tests.play import LOW, Play, forward, load


def a_play() -> Play:
    """Model `a` is resident and answers; `a` and `b` do not fit together."""
    play = Play(prewarm=True)
    play.arrives(0, "a1", "a")
    assert play.loaded(2, "a") == [forward("a1", 2)]
    return play


def read_ahead(model: str) -> Command:
    return Prewarm(bin=BinId("u/0"), model=ModelKey(model), name=model)


def test_the_file_of_who_waits_for_its_turn_is_read_ahead_once() -> None:
    play = a_play()
    assert play.arrives(3, "b1", "b") == [read_ahead("b")]
    assert play.arrives(4, "b2", "b") == []
    assert play.ticks(5) == []


def test_nothing_is_read_ahead_while_something_is_loaded() -> None:
    play = Play(prewarm=True)
    play.arrives(0, "a1", "a")
    assert play.arrives(1, "b1", "b") == []
    assert play.loaded(2, "a") == [forward("a1", 2), read_ahead("b")]


def test_the_next_is_read_ahead_when_the_one_before_is_loaded() -> None:
    play = a_play()
    play.arrives(3, "b1", "b")
    play.arrives(4, "huge1", "huge")
    play.leaves(5, "a1")
    assert play.unloaded(6, "a") == [load("b", "b1", waited=3)]
    assert play.loaded(8, "b") == [forward("b1", 5), read_ahead("huge")]


def test_whom_nobody_waits_for_any_more_is_not_read_ahead_in_anothers_place() -> None:
    play = a_play()
    play.arrives(3, "b1", "b")
    assert play.arrives(4, "huge1", "huge") == []
    assert play.leaves(5, "b1") == [read_ahead("huge")]


def test_while_a_victim_is_drained_the_file_of_its_successor_is_read_ahead() -> None:
    play = a_play()
    play.arrives(3, "huge1", "huge", priority=LOW)
    play.leaves(4, "huge1")
    assert play.ticks(5) == []
    assert play.arrives(6, "b1", "b") == [read_ahead("b")]
    assert play.ticks(130) == []
    assert play.snapshot().bins[0].target == "b"


def test_nothing_is_read_ahead_unless_it_is_wanted() -> None:
    play = Play()
    play.arrives(0, "a1", "a")
    play.loaded(2, "a")
    assert play.arrives(3, "b1", "b") == []


def test_nothing_is_read_ahead_for_an_upstream_that_is_away() -> None:
    play = a_play()
    play.loses(3)
    assert play.arrives(4, "b1", "b") == []
