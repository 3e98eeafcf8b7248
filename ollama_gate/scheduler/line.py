"""The waiting line: who stands where, and who has been passed over for long enough.

Before its patience ends a request stands by class, then age. Afterwards it is *overdue*: it stands
before everybody who is not, by the instant at which its patience ended. That instant is fixed on
arrival, so nobody who comes later can move in front of an overdue request for ever.

Requests that ask alike for the same model are of one *kind*, and whatever the scheduler asks about
one holds for all of them. Of each kind only the first, its *head*, can be next; so the line knows
the heads without looking at everybody, and the work grows with the kinds, not with the requests.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence

from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Priority, Request, RequestId

Kind = tuple[ModelKey, Launch, int | None, int | None, int | None, frozenset[BinId]]
"""What tells requests apart, as far as it matters which runner may serve them."""

Rows = tuple[list[Request], list[Request], list[Request]]
"""A row for each class, the eldest first. Patience is the same for all of a class, so this is the
order in which they are served at any time, and the overdue among them are those in front."""


class Line:
    """The requests that wait, in an order that depends on nothing but them and the time."""

    def __init__(self, tau_s: tuple[float, float, float]) -> None:
        self._tau_s = tau_s
        self._waiting: dict[RequestId, Request] = {}
        self._sequence: dict[RequestId, int] = {}
        self._count = 0
        self._everybody = _no_rows()
        # A kind that nobody is of any more is absent.
        self._kinds: dict[ModelKey, dict[Kind, Rows]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def __iter__(self) -> Iterator[Request]:
        """In the order in which they joined."""
        return iter(list(self._waiting.values()))

    def join(self, request: Request) -> None:
        """Add a request at the place that its class and age give it."""
        assert request.id not in self._waiting, f"{request.id} waits already"
        self._count += 1
        self._waiting[request.id] = request
        self._sequence[request.id] = self._count
        kinds = self._kinds.setdefault(request.model, {})
        for rows in (self._everybody, kinds.setdefault(kind_of(request), _no_rows())):
            insort(rows[request.priority], request, key=self._age)

    def leave(self, request_id: RequestId) -> Request:
        """Take a request out."""
        request = self._waiting.pop(request_id)
        kind, kinds = kind_of(request), self._kinds[request.model]
        for rows in (self._everybody, kinds[kind]):
            row = rows[request.priority]
            del row[bisect_left(row, self._age(request), key=self._age)]
        del self._sequence[request_id]
        if not any(kinds[kind]):
            del kinds[kind]
        if not kinds:
            del self._kinds[request.model]
        return request

    def patience_ends_at(self, request: Request) -> float:
        """From then on nobody may be served in its place."""
        return request.arrived_at + self._tau_s[request.priority]

    def overdue(self, request: Request, now: float) -> bool:
        """Whether it has been passed over for as long as it may be."""
        return now >= self.patience_ends_at(request)

    def in_order(self, now: float) -> list[Request]:
        """Everybody, the next to be served first."""
        overdue: list[Request] = []
        others: list[Request] = []
        for row in self._everybody:
            count = self._count_overdue(row, now)
            overdue += row[:count]
            others += row[count:]
        return sorted(overdue, key=lambda request: self._place(request, now)) + others

    def heads(self, now: float, model: ModelKey | None = None) -> list[Request]:
        """The first of each kind, in the order of `in_order`; only those for a model if given."""
        heads = []
        for rows in self._rows_of(model):
            places = [(*self._place(row[0], now), row[0]) for row in rows if row]
            # No two are at the same place, so requests are never compared.
            heads.append(min(places))
        return [head[-1] for head in sorted(heads)]

    def rows(self, model: ModelKey | None = None) -> Iterator[Sequence[Request]]:
        """All of one kind and class, the eldest first, for every kind (of a model) and class."""
        return (row for rows in self._rows_of(model) for row in rows if row)

    def as_joined(self, requests: Iterable[Request]) -> list[Request]:
        """Some who wait, in the order in which they joined."""
        return sorted(requests, key=lambda request: self._sequence[request.id])

    def eldest_arrived_at(self) -> float | None:
        """When the one who has waited for longest came; `None` if nobody waits."""
        return min((row[0].arrived_at for row in self._everybody if row), default=None)

    def patience_ends(self, now: float) -> Iterator[float]:
        """When somebody of a class is overdue next, for each class."""
        for row in self._everybody:
            count = self._count_overdue(row, now)
            if count < len(row):
                yield self.patience_ends_at(row[count])

    def _rows_of(self, model: ModelKey | None) -> Iterator[Rows]:
        models = self._kinds.values() if model is None else (self._kinds.get(model, {}),)
        return (rows for kinds in models for rows in kinds.values())

    def _count_overdue(self, row: Sequence[Request], now: float) -> int:
        return bisect_right(row, now, key=self.patience_ends_at)

    def _age(self, request: Request) -> tuple[float, int]:
        return request.arrived_at, self._sequence[request.id]

    def _place(self, request: Request, now: float) -> tuple[bool, float, Priority, float, int]:
        sequence = self._sequence[request.id]
        if self.overdue(request, now):
            ended_at = self.patience_ends_at(request)
            return False, ended_at, Priority.HIGH, request.arrived_at, sequence
        return True, 0.0, request.priority, request.arrived_at, sequence


def kind_of(request: Request) -> Kind:
    """What a request is like to the scheduler."""
    return (
        request.model,
        request.launch,
        request.num_ctx,
        request.least_ctx,
        request.batch_limit,
        frozenset(request.needs),
    )


def _no_rows() -> Rows:
    return [], [], []
