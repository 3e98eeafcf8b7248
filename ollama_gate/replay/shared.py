"""How much work answers were that had to share a card: their times, freed from each other.

The inverse of what the discrete-event world does with work, by the same law: n answers of one
model proceed together at n to a power of one's speed, busy models slow each other, a load slows
all. So what is replayed as it was takes as long as it did.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ollama_gate.simulator.discrete.workload import Physics


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: where, of which model, from when to when."""

    id: str
    place: str
    model: str
    began_at: float
    ended_at: float


Load = tuple[str, float, float]
"""Where something was loaded, from when to when."""


def works_s(
    answers: Sequence[Answer], loads: Iterable[Load], physics: Physics | None = None
) -> dict[str, float]:
    """How long each answer would have taken alone on an idle card, by its id; seconds."""
    physics = physics or Physics()
    moments: dict[str, list[tuple[float, int, Answer | None]]] = defaultdict(list)
    for answer in answers:
        if answer.ended_at <= answer.began_at:
            continue
        moments[answer.place].append((answer.began_at, 1, answer))
        moments[answer.place].append((answer.ended_at, -1, answer))
    for place, began_at, ended_at in loads:
        moments[place] += [(began_at, 1, None), (ended_at, -1, None)]
    works = {answer.id: 0.0 for answer in answers}
    for each in moments.values():
        card = _Card(physics)
        for at, change, whose in sorted(each, key=lambda moment: moment[:2]):
            card.advance(at)
            if whose is None:
                card.loads += change
            elif change > 0:
                card.begin(whose)
            else:
                works[whose.id] = card.end(whose)
    return works


class _Card:
    """One card as time passes on it."""

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        self._running: dict[str, set[str]] = {}
        self._done: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._at = 0.0
        self.loads = 0

    def advance(self, at: float) -> None:
        """Let everybody proceed; what each answer of a model has done is counted once for all."""
        if self._running:
            speed = float(len(self._running)) ** -self._physics.sharing
            speed *= self._physics.loading_speed if self.loads else 1.0
            for model, running in self._running.items():
                rate = speed * float(len(running)) ** (self._physics.batching - 1.0)
                self._done[model] += rate * (at - self._at)
        self._at = at

    def begin(self, answer: Answer) -> None:
        self._running.setdefault(answer.model, set()).add(answer.id)
        self._began[answer.id] = self._done.setdefault(answer.model, 0.0)

    def end(self, answer: Answer) -> float:
        running = self._running[answer.model]
        running.remove(answer.id)
        if not running:
            del self._running[answer.model]
        return self._done[answer.model] - self._began.pop(answer.id)
