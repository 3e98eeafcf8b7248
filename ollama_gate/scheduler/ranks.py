"""Those who wait, put together by what they ask for and by class; eldest first, with their sums.

It knows nothing of patience, nor of who is next.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping

from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Request, RequestId

Kind = tuple[ModelKey, Launch, int | None, int | None, int | None, bool, frozenset[BinId]]
"""What tells requests apart, as far as it matters which runner may serve them."""

Age = Callable[[Request], tuple[float, int]]


class Ages:
    """Some of a class, the eldest first, and the sums over their ages.

    The sums are of arrivals in microseconds, as integers, so that nothing is lost in adding and
    taking away.
    """

    __slots__ = ("row", "sequence", "sum_us", "sum_us2")

    def __init__(self, sequence: Mapping[RequestId, int]) -> None:
        self.row: list[Request] = []
        self.sequence = sequence
        self.sum_us = 0
        self.sum_us2 = 0

    def __len__(self) -> int:
        return len(self.row)

    def add(self, request: Request) -> None:
        """Take one in, at the place that its age gives it."""
        _insert(self.row, request, self._age)
        at_us = round(request.arrived_at * 1e6)
        self.sum_us += at_us
        self.sum_us2 += at_us * at_us

    def remove(self, request: Request) -> None:
        """Let one go."""
        _remove(self.row, request, self._age)
        at_us = round(request.arrived_at * 1e6)
        self.sum_us -= at_us
        self.sum_us2 -= at_us * at_us

    def squares(self, now: float) -> float:
        """The sum of the squares of their ages, in square seconds."""
        now_us = round(now * 1e6)
        total = len(self.row) * now_us * now_us - 2 * now_us * self.sum_us + self.sum_us2
        return total / 1e12

    def _age(self, request: Request) -> tuple[float, int]:
        return request.arrived_at, self.sequence[request.id]


class Rank(Ages):
    """Those of one kind and class, also by client."""

    __slots__ = ("by_client",)

    def __init__(self, sequence: Mapping[RequestId, int]) -> None:
        super().__init__(sequence)
        self.by_client: dict[str, list[Request]] = {}

    def add(self, request: Request) -> None:
        """Take one in, at the place that its age gives it."""
        super().add(request)
        _insert(self.by_client.setdefault(request.client, []), request, self._age)

    def remove(self, request: Request) -> None:
        """Let one go."""
        super().remove(request)
        own = self.by_client[request.client]
        _remove(own, request, self._age)
        if not own:
            del self.by_client[request.client]


class Group:
    """Those of one kind: a `Rank` for each class."""

    __slots__ = ("kind", "ranks")

    def __init__(self, kind: Kind, sequence: Mapping[RequestId, int]) -> None:
        self.kind = kind
        self.ranks = (Rank(sequence), Rank(sequence), Rank(sequence))

    def __len__(self) -> int:
        return sum(len(rank.row) for rank in self.ranks)

    @property
    def first(self) -> Request:
        """The eldest of the highest class that somebody is of."""
        return next(rank.row[0] for rank in self.ranks if rank.row)


def kind_of(request: Request) -> Kind:
    """What a request is like to the scheduler."""
    return (
        request.model,
        request.launch,
        request.num_ctx,
        request.least_ctx,
        request.batch_limit,
        request.pinned,
        frozenset(request.needs),
    )


def _insert(row: list[Request], request: Request, age: Age) -> None:
    # Nearly everybody is younger than all who wait.
    if not row or age(row[-1]) < age(request):
        row.append(request)
    else:
        insort(row, request, key=age)


def _remove(row: list[Request], request: Request, age: Age) -> None:
    del row[bisect_left(row, age(request), key=age)]
