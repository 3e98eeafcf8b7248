"""Those who wait for one model, and when they start once it is there; and what is in a bin.

Sums over numbers, slots and mean times: nobody is looked at one by one. Which model is there
when is not decided here. Times are in seconds from the instant of the estimate.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from ollama_gate.scheduler.fitting import OLLAMA_SHARE_PERCENT
from ollama_gate.scheduler.memory import Books
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.types import ModelKey, Need, Policy, Priority, Request

BUSIEST = 0.8
"""A model that is asked for more often than it can answer would never be done: it is taken to be
busy for no more than this share of its time."""

SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A stretch of time in which those who wait for a model start one after the other.

    Attributes:
        at: when it begins.
        first: how many of them had started before.
        free: slots that are free then.
        left_s: after how long the first of the others are, on average.
        slots: how many there are.
        service_s: how long each is held.
        index: what its model was chosen by; `None` if it was there.
    """

    at: float
    first: int
    free: int
    left_s: float
    slots: int
    service_s: float
    index: float | None = None

    def start_of(self, number: int) -> float:
        """When the one starts before whom so many others do."""
        behind = number - self.first - self.free + 1
        if behind <= 0:
            return self.at
        early, late = min(behind, self.slots), max(0, behind - self.slots)
        return self.at + (early * self.left_s + late * self.service_s) / self.slots

    def started_by(self, at: float) -> int:
        """How many have started at an instant, if there are so many."""
        passed_s = max(0.0, at - self.at)
        early = self.slots * passed_s / max(self.left_s, SHORTEST_S)
        late = self.slots * (passed_s - self.left_s) / max(self.service_s, SHORTEST_S)
        return self.first + self.free + int(early if early < self.slots else self.slots + late)


@dataclass(slots=True, kw_only=True, eq=False)
class Stand:
    """Those who wait for one runner, there or to come.

    Attributes:
        name: of its model.
        slots: how many of them it serves at once.
        service_s: how long each holds a slot.
        rate_per_s: how many more are expected.
        groups: they.
        counts: how many of each class and those above it wait.
        turns: when they start, the earliest first.
        overdue_at: when one of them is overdue.
        top: the highest class among them.
        served: how many start in these turns.
    """

    model: ModelKey
    name: str
    slots: int
    service_s: float
    rate_per_s: float
    groups: list[Group] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    turns: list[Turn] = field(default_factory=list)
    overdue_at: float = math.inf
    top: Priority = Priority.LOW
    served: int = 0

    @property
    def left(self) -> int:
        """How many do not start in the turns so far."""
        return self.counts[-1] - self.served

    @property
    def first(self) -> Request:
        """One of them, for whom it would be loaded."""
        return self.groups[0].first

    def join(self, group: Group) -> None:
        """Let all of a kind wait here, too."""
        self.groups.append(group)
        sizes = [len(rank.row) for rank in group.ranks]
        self.counts = [have + sum(sizes[: at + 1]) for at, have in enumerate(self.counts)]
        self.top = min(self.top, group.first.priority)

    def begin(self, at: float, *, free: int, left_s: float, index: float | None = None) -> None:
        """All who are left start from then on."""
        turn = Turn(
            at=at,
            first=self.served,
            free=free,
            left_s=left_s,
            slots=self.slots,
            service_s=self.service_s,
            index=index,
        )
        self.turns.append(turn)
        self.served = self.counts[-1]

    def break_off(self, at: float, patience_s: float) -> None:
        """The model goes: who has not started by then is left."""
        self.served = min(self.served, self.turns[-1].started_by(at))
        self.overdue_at = at + patience_s

    def start_of(self, number: int) -> float | None:
        """When the one starts before whom so many others do; `None` if nobody can tell."""
        turns = [turn for turn in self.turns if number >= turn.first]
        return turns[-1].start_of(number) if turns and not self.left else None

    def queue_s(self, at: float) -> float:
        """For how long those still keep it busy who wait at an instant."""
        waiting = max(0, self.served - self.turns[-1].started_by(at))
        return waiting * self.service_s / self.slots

    def done_at(self) -> float:
        """When nobody waits any more nor is served."""
        turn = self.turns[-1]
        if self.served <= turn.first:
            return turn.at + (turn.left_s if turn.free < self.slots else 0.0)
        busy = min(self.rate_per_s * self.service_s / self.slots, BUSIEST)
        end = turn.start_of(self.served - 1) + self.service_s
        return turn.at + (end - turn.at) / (1.0 - busy)

    def work(self, policy: Policy, patience_s: tuple[float, float, float], now: float) -> float:
        """Its weighted waiting work, as `demand.Demand` counts it, at a time to come."""
        total = 0.0
        for group in self.groups:
            for priority, rank in enumerate(group.ranks):
                if rank.row:
                    limit_s = max(patience_s[priority], 1.0)
                    aged = policy.aging * rank.squares(now) / (limit_s * limit_s)
                    total += policy.weights[priority] * (len(rank.row) + aged)
        return total * self.left / self.counts[-1]


@dataclass(slots=True, kw_only=True, eq=False)
class Tenant:
    """What is in a bin, or will be.

    Attributes:
        model: which; a bin has one runner of each.
        stand: who waits for it.
        takes_bytes: of the bin.
        ready_at: since when it is there.
        swap_s: how long it takes to load it.
        fixed: it does not go.
    """

    model: ModelKey
    stand: Stand
    takes_bytes: int
    ready_at: float
    swap_s: float
    fixed: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Lodging:
    """A bin, and what comes of it.

    Attributes:
        free_at: when something may be decided for it again.
        passed: how many models were loaded before an overdue request's.
        room_bytes: what it holds, others' share taken off; `None` where nobody knows.
        believed_bytes: what Ollama takes for free while it holds nothing.
    """

    books: Books
    max_loaded: int
    passed: int
    tenants: list[Tenant] = field(default_factory=list)
    free_at: float = 0.0
    room_bytes: int | None = field(init=False)
    believed_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Ask the books once."""
        self.room_bytes = self.books.free_bytes(())
        self.believed_bytes = self.books.ollama_free_bytes(()) or 0

    def has_room(self, need: Need, beside: Collection[Tenant]) -> bool:
        """Whether one more fits, about as `fitting.shortfall` has it."""
        if not beside:
            return True
        if self.room_bytes is None or len(beside) >= self.max_loaded:
            return False
        taken = sum(tenant.takes_bytes for tenant in beside)
        allowed = (self.believed_bytes - taken) * OLLAMA_SHARE_PERCENT / 100
        return need.footprint_bytes <= self.room_bytes - taken and (
            self.books.bin.cpu or need.predicted_bytes <= allowed
        )
