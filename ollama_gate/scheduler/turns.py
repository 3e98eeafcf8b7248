"""Who is served next by a runner: class, then client, then age; the overdue within bounds.

It is asked when a slot is free. It says who, and remembers how often an overdue request was passed
over; whether there is a slot, and what starting means, is the machine's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Whose turn it is at a runner.

    Attributes:
        fair: by class, client and age.
        elder: who was passed over for too long, by the virtual deadlines; `None` if nobody was.
    """

    fair: Request
    elder: Request | None


def turn_at(state: State, runner: Runner) -> Turn | None:
    """Who may be served by a runner next; `None` if nobody waits whom it could serve."""
    groups = [g for g in state.line.groups(runner.model) if state.suits(runner, g.first)]
    if not groups:
        return None
    return Turn(fair=_fairest(state, groups), elder=state.line.first_overdue(groups))


def take(state: State, runner: Runner, turn: Turn) -> Request:
    """The one of the two whose turn it really is; it is taken to start now."""
    passed, limit = state.passed_at_runner, state.policy.k_slot
    place = runner.bin.id, runner.model
    count = passed.get(place, 0)
    if turn.elder is None or turn.elder is turn.fair:
        passed.pop(place, None)
        return turn.fair
    if count >= limit:
        passed.pop(place, None)
        return turn.elder
    passed[place] = count + 1
    return turn.fair


def first_of(state: State, turns: Sequence[tuple[Runner, Turn]]) -> tuple[Runner, Turn]:
    """Which of several runners gives away a slot, where all together have too few.

    As at one runner: by class and client, and within bounds by the virtual deadlines.
    """
    fair = min(turns, key=lambda each: _standing(state, each[1].fair))
    elders = [each for each in turns if each[1].elder is not None]
    if not elders:
        state.passed_at_gate = 0
        return fair
    elder = min(elders, key=lambda each: state.line.place(each[1].elder or each[1].fair))
    if elder[1].elder is fair[1].fair:
        state.passed_at_gate = 0
        return fair
    if state.passed_at_gate >= state.policy.k_slot:
        state.passed_at_gate = 0
        # It is the one to start there as well.
        runner = elder[0]
        state.passed_at_runner[runner.bin.id, runner.model] = state.policy.k_slot
        return elder
    state.passed_at_gate += 1
    return fair


def _fairest(state: State, groups: Sequence[Group]) -> Request:
    top = min(group.first.priority for group in groups)
    ranks = (group.ranks[top] for group in groups)
    firsts = (own[0] for rank in ranks for own in rank.by_client.values())
    return min(firsts, key=lambda each: _standing(state, each))


def _standing(state: State, request: Request) -> tuple[int, float, float, int]:
    counter = state.fairness.counter(request.priority, request.client)
    return request.priority, counter, request.arrived_at, state.line.joined(request)
