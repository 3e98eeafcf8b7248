"""Mistakes planted into the scheduler: the fuzzer finds each of them within a few histories.

A judge that nothing could fail would be worth nothing. Each mistake is one that somebody could
make in good faith: a rule left out, a counter not counted, a case not thought of.
"""

import ast
from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest

from ollama_gate.scheduler import Machine, fitting, machine, planning, room, turns
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.booking import Booking
from ollama_gate.scheduler.incumbents import Incumbent
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.memory import Books, Runner, committed
from ollama_gate.scheduler.ranks import Ages
from ollama_gate.scheduler.recovery import Recovery
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import Priority, Request
from tests.fuzz_case import Case
from tests.fuzz_draw import draw
from tests.fuzz_law import ViolationError
from tests.fuzz_scene import Scene
from tests.fuzz_shrink import broken_by, shrink
from tests.fuzz_story import spell, story

SEEDS = range(300)

SOON = (0, 1, 2, 3, 6, 12, 14, 21, 23, 30, 47, 110)
"""Where most of them were noticed once; the others are tried where none of these tells any more."""

Plant = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: Any, **__: Any) -> None:
    """In place of what should have been done."""


def instead(owner: Any, name: str, new: Any) -> Plant:
    return lambda patch: patch.setattr(owner, name, new)


def eldest(_: State, groups: Iterable[Any]) -> Any:
    return min((group.first for group in groups), key=lambda request: request.arrived_at)


def unless_asked(shortfall: Any, rule: str) -> Any:
    """One of the reasons for which something does not fit is not thought of."""

    def lenient(*args: Any, **more: Any) -> Any:
        missing = shortfall(*args, **more)
        return None if missing is not None and missing.rule.startswith(rule) else missing

    return lenient


def forgetful_latch(line: Line, priority: Priority, patience_s: float, now: float) -> None:
    line._latches[priority] = now - patience_s


def stays(self: Machine, event: ev.Left) -> None:
    """Who is cut keeps its slot."""
    if event.completed or event.id in self.line:
        LEFT(self, event)


def drifting(self: Ages, request: Request) -> None:
    """Not all that was added is taken away."""
    REMOVE(self, request)
    self.sum_us2 += 1


def blind(self: Books, runners: Collection[Runner]) -> int | None:
    """As if nobody else used a card."""
    there = self.capacity_bytes
    return None if there is None else there - committed(runners)


LEFT, REMOVE = Booking._left, Ages.remove

MISTAKES: dict[str, Plant] = {
    "what is there already is not counted": instead(
        room, "shortfall", unless_asked(fitting.shortfall, "memory")
    ),
    "Ollama's own 80 % are not asked": instead(
        room, "shortfall", unless_asked(fitting.shortfall, "80%")
    ),
    "the number of runners is not asked": instead(
        room, "shortfall", unless_asked(fitting.shortfall, "max_loaded")
    ),
    "two loads go on at once": instead(State, "loading", nothing),
    "no runner has a quantum": instead(Incumbent, "turn_ends_at", lambda *_: -1.0),
    "no bin is kept for who was passed over": instead(planning._Round, "_reserve", nothing),
    "no slot is kept for who was passed over": instead(
        machine, "take", lambda _state, _runner, turn: turn.fair
    ),
    "classes do not count at a slot": instead(turns, "_fairest", eldest),
    "who is overdue may be so no more": instead(Line, "latch", forgetful_latch),
    "nobody is ever overdue": instead(Line, "latch", nothing),
    "who is cut keeps its slot": instead(Booking, "_left", stays),
    "who is cancelled waits on": instead(Booking, "_cancelled", nothing),
    "it never wakes by itself": instead(Machine, "next_wakeup", nothing),
    "sums of ages drift": instead(Ages, "remove", drifting),
    "deadlines are not looked at": instead(Machine, "_drop_expired", nothing),
    "what ran out of memory is booked as before": instead(Recovery, "ran_out", lambda *_: 1),
    "the limit over all models is not asked": instead(State, "is_full", property(lambda _: False)),
    "what others use is not seen": instead(Books, "free_bytes", blind),
    "what is pinned idles out": instead(
        Machine, "_idles", lambda self, r: self._may_go(r) and not self.is_wanted(r)
    ),
}


def first_caught() -> tuple[Case, str]:
    """The first history that notices, and the rule that it finds broken."""
    for seed in [*SOON, *SEEDS]:
        rule = broken_by(draw(seed))
        if rule is not None:
            return draw(seed), rule
    raise AssertionError("nobody noticed")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[mistake](monkeypatch)
    first_caught()


def test_what_is_noticed_is_told_as_a_short_story(monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES["classes do not count at a slot"](monkeypatch)
    case, rule = first_caught()
    short = shrink(case, rule, tries=300)
    assert rule == broken_by(short) == "18 priority"
    # Two who want the slot of a third.
    assert len(short.stimuli) <= 4 < len(case.stimuli)
    scene = Scene(short)
    with pytest.raises(ViolationError):
        scene.run()
    told = story(short, scene)
    assert told.startswith("play = Play(")
    assert "play.arrives(" in told
    # What is printed is Python, and the same events again.
    ast.parse(told)
    ast.parse(spell(short))
