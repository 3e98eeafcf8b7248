"""The waiting line: who waits for what, in which order, and who has been passed over long enough.

Requests that ask alike for the same model are of one *kind*, and whatever the scheduler asks about
one holds for all of them; so it looks at kinds, and its work grows with these and not with the
requests. Of each kind the line knows the number, the ages and the clients without looking at
everybody.

A request is *overdue* once the latch of its class has passed its arrival. Latches only ever move
forward, so whoever is overdue stays so; among them the earliest *virtual deadline* is first. That
is fixed on arrival, so nobody who comes later can move in front of an overdue request for ever.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from ollama_gate.scheduler.ranks import Ages, Group, Kind, kind_of
from ollama_gate.scheduler.types import ModelKey, Priority, Request, RequestId

Place = tuple[float, int]
"""A virtual deadline and the order of joining: the order of the overdue."""

CLASSES = tuple(Priority)

SWEEP = 64
"""So many deadlines of requests that wait no more may lie about, and as many as do wait."""


class Line:
    """The requests that wait, in an order that depends on nothing but them and the latches."""

    def __init__(self, tau_s: tuple[float, float, float], max_wait_s: float = 0.0) -> None:
        self._tau_s = tau_s
        self._max_wait_s = max_wait_s or math.inf
        self._waiting: dict[RequestId, Request] = {}
        self._sequence: dict[RequestId, int] = {}
        self._count = 0
        self.everybody = tuple(Ages(self._sequence) for _ in CLASSES)
        # A kind that nobody is of any more is absent.
        self._groups: dict[ModelKey, dict[Kind, Group]] = {}
        # Models for which somebody has joined or left since whoever clears this last looked.
        self.changed: set[ModelKey] = set()
        self._latches = [-math.inf, -math.inf, -math.inf]
        self._deadlines: list[tuple[float, int, RequestId]] = []
        self._of_client: dict[str, int] = {}
        self._active: tuple[dict[str, int], ...] = ({}, {}, {})

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def __iter__(self) -> Iterator[Request]:
        """In the order in which they joined."""
        return iter(list(self._waiting.values()))

    # ---------------------------------------------------------------- come and go

    def join(self, request: Request) -> None:
        """Add a request at the place that its class and age give it."""
        assert request.id not in self._waiting, f"{request.id} waits already"
        self._count += 1
        self._waiting[request.id] = request
        self._sequence[request.id] = self._count
        self.changed.add(request.model)
        self._group_of(request).ranks[request.priority].add(request)
        self.everybody[request.priority].add(request)
        _count(self._of_client, request.client, 1)
        _count(self._active[request.priority], request.client, 1)
        deadline = self.deadline_at(request)
        if deadline < math.inf:
            heapq.heappush(self._deadlines, (deadline, self._count, request.id))
            self._sweep_deadlines()

    def leave(self, request_id: RequestId) -> Request:
        """Take a request out."""
        request = self._waiting.pop(request_id)
        self.changed.add(request.model)
        kind, groups = kind_of(request), self._groups[request.model]
        group = groups[kind]
        group.ranks[request.priority].remove(request)
        self.everybody[request.priority].remove(request)
        _count(self._of_client, request.client, -1)
        _count(self._active[request.priority], request.client, -1)
        del self._sequence[request_id]
        if not len(group):
            del groups[kind]
        if not groups:
            del self._groups[request.model]
        return request

    def _group_of(self, request: Request) -> Group:
        groups = self._groups.setdefault(request.model, {})
        kind = kind_of(request)
        group = groups.get(kind)
        if group is None:
            groups[kind] = group = Group(kind, self._sequence)
        return group

    # ---------------------------------------------------------------- patience

    def latch(self, priority: Priority, patience_s: float, now: float) -> None:
        """Whoever of a class has waited for that long is overdue, from now on and for ever."""
        row = self.everybody[priority].row
        count = bisect_right(row, now, key=lambda request: request.arrived_at + patience_s)
        if count:
            self._latches[priority] = max(self._latches[priority], row[count - 1].arrived_at)

    def overdue(self, request: Request) -> bool:
        """Whether it has been passed over for as long as it may be."""
        return request.arrived_at <= self._latches[request.priority]

    def patient_since(self, priority: Priority) -> float | None:
        """When the eldest came of a class that are not overdue; `None` if there is none."""
        row = self.everybody[priority].row
        count = self._count_overdue(row, priority)
        return row[count].arrived_at if count < len(row) else None

    def next_of_age(self, priority: Priority, age_s: float, now: float) -> float:
        """When somebody of a class will next have waited for so long; `inf` for never."""
        row = self.everybody[priority].row
        count = bisect_right(row, now, key=lambda request: request.arrived_at + age_s)
        return row[count].arrived_at + age_s if count < len(row) else math.inf

    def place(self, request: Request) -> Place:
        """Where it stands among the overdue: the least is first."""
        return request.arrived_at + self._tau_s[request.priority], self._sequence[request.id]

    def first_overdue(self, groups: Iterable[Group]) -> Request | None:
        """Who of some kinds is overdue and has the earliest virtual deadline."""
        first, least = None, (math.inf, 0)
        for group in groups:
            for rank in group.ranks:
                if rank.row and self.overdue(rank.row[0]):
                    place = self.place(rank.row[0])
                    if place < least:
                        first, least = rank.row[0], place
        return first

    # ---------------------------------------------------------------- deadlines

    def deadline_at(self, request: Request) -> float:
        """When it is dropped if it still waits; `inf` for never."""
        return min(request.deadline_at, request.arrived_at + self._max_wait_s)

    def expired(self, now: float) -> list[Request]:
        """Those whose deadline has come, in its order; each is told once."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, count, request_id = heapq.heappop(self._deadlines)
            if self._sequence.get(request_id) == count:
                late.append(self._waiting[request_id])
        return late

    def next_deadline(self) -> float:
        """The next instant at which somebody may have to be dropped; `inf` for never."""
        while self._deadlines:
            at, count, request_id = self._deadlines[0]
            if self._sequence.get(request_id) == count:
                return at
            heapq.heappop(self._deadlines)
        return math.inf

    def _sweep_deadlines(self) -> None:
        """Forget those of others, which may be far off, once they are more than half of all."""
        if len(self._deadlines) > 2 * len(self._waiting) + SWEEP:
            self._deadlines = [
                (at, count, request_id)
                for at, count, request_id in self._deadlines
                if self._sequence.get(request_id) == count
            ]
            heapq.heapify(self._deadlines)

    # ---------------------------------------------------------------- who waits

    def models(self) -> Iterable[ModelKey]:
        """Those that somebody waits for."""
        return self._groups.keys()

    def groups(self, model: ModelKey) -> Iterable[Group]:
        """Those who wait for a model, by kind."""
        return self._groups.get(model, {}).values()

    def rows(self, model: ModelKey | None = None) -> Iterator[Sequence[Request]]:
        """All of one kind and class, the eldest first, for every kind (of a model) and class."""
        models = self._groups.values() if model is None else (self._groups.get(model, {}),)
        return (
            rank.row
            for groups in models
            for group in groups.values()
            for rank in group.ranks
            if rank.row
        )

    def in_order(self) -> list[Request]:
        """Everybody: the overdue by their virtual deadlines, then by class and age."""
        overdue: list[Request] = []
        others: list[Request] = []
        for priority, ages in zip(CLASSES, self.everybody, strict=True):
            count = self._count_overdue(ages.row, priority)
            overdue += ages.row[:count]
            others += ages.row[count:]
        return sorted(overdue, key=self.place) + others

    def as_joined(self, requests: Iterable[Request]) -> list[Request]:
        """Some who wait, in the order in which they joined."""
        return sorted(requests, key=lambda request: self._sequence[request.id])

    def joined(self, request: Request) -> int:
        """When it joined, in the order of joining."""
        return self._sequence[request.id]

    def first_of(self, requests: Iterable[Request]) -> Request:
        """The one of some who wait that stands first by class, then age."""
        return min(requests, key=lambda each: (each.priority, each.arrived_at, self.joined(each)))

    def waiting_of(self, client: str) -> int:
        """How many of a client's requests wait."""
        return self._of_client.get(client, 0)

    def clients(self, priority: Priority) -> Iterable[str]:
        """Whose requests of a class wait."""
        return self._active[priority].keys()

    def _count_overdue(self, row: Sequence[Request], priority: Priority) -> int:
        return bisect_right(row, self._latches[priority], key=_arrival)


def _arrival(request: Request) -> float:
    return request.arrived_at


def _count(counts: dict[str, int], key: str, change: int) -> None:
    counts[key] = counts.get(key, 0) + change
    if not counts[key]:
        del counts[key]
