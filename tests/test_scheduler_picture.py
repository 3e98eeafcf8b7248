"""The picture of one decision in `docs/scheduling.md` is what is decided."""

from typing import Any

import pytest

from ollama_gate.scheduler.commands import Command, Evicted, Load, Unload
from tests.play import HIGH, LOW, NORMAL, Play, gib

SIZES = {"embed": 1.5, "chat": 7.0, "vision": 9.0, "coder": 14.0, "batch": 15.0}


def asks(play: Play, at: float, who: str, model: str, **more: Any) -> list[Command]:
    size = SIZES[model]
    return play.arrives(at, who, model, size=size, predicted=size / 2, **more)


def loaded(play: Play, at: float, model: str) -> None:
    size = gib(SIZES[model])
    play.loaded(at, model, footprint_bytes=size, reported_bytes=size)


def test_the_picture_of_a_decision_is_what_is_decided() -> None:
    play = Play(capacity=24.0, max_loaded=6)
    asks(play, 0, "e1", "embed", priority=NORMAL)
    loaded(play, 2, "embed")
    play.leaves(3, "e1")
    asks(play, 4, "c1", "chat", priority=HIGH)
    loaded(play, 8, "chat")
    play.leaves(14, "c1")
    asks(play, 15, "v1", "vision", priority=NORMAL)
    loaded(play, 20, "vision")
    for number in range(10):
        asks(play, 24 + number / 10, f"b{number}", "batch", priority=LOW, parallel=2)
    for number in range(3):
        asks(play, 26 + number, f"k{number}", "coder", client=f"dev{number}", parallel=2)
    asks(play, 29, "c2", "chat", priority=HIGH)
    play.leaves(33, "c2")
    [unload] = play.leaves(34, "v1")
    assert isinstance(unload, Unload)
    assert isinstance(unload.reason, Evicted)
    assert unload.reason.cost is not None
    assert (unload.name, unload.reason.for_model) == ("vision", "coder")
    assert unload.reason.cost.total == pytest.approx(10.9, abs=0.05)
    [load] = play.unloaded(35, "vision")
    assert isinstance(load, Load)
    choice = load.choice
    assert choice is not None
    assert (load.model, choice.waiting) == ("coder", 3)
    assert choice.work == pytest.approx(18.06, abs=0.005)
    assert choice.visit_s == pytest.approx(13.22, abs=0.005)
    assert choice.reload_s == pytest.approx(0.33, abs=0.005)
    assert choice.index == pytest.approx(1.33, abs=0.005)
