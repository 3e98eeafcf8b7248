"""The waiting line: who stands where, and who has been passed over for long enough.

Before its patience ends a request stands by class, then age. Afterwards it is *overdue*: it stands
before everybody who is not, by the instant at which its patience ended. That instant is fixed on
arrival, so nobody who comes later can move in front of an overdue request for ever.
"""

from collections.abc import Iterator

from ollama_gate.scheduler.types import Priority, Request, RequestId


class Line:
    """The requests that wait, in an order that depends on nothing but them and the time."""

    def __init__(self, tau_s: tuple[float, float, float]) -> None:
        self._tau_s = tau_s
        self._waiting: dict[RequestId, Request] = {}
        self._sequence: dict[RequestId, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    def __iter__(self) -> Iterator[Request]:
        """In order of arrival."""
        return iter(list(self._waiting.values()))

    def join(self, request: Request) -> None:
        """Add a request at the place that its class and age give it."""
        assert request.id not in self._waiting, f"{request.id} waits already"
        self._count += 1
        self._waiting[request.id] = request
        self._sequence[request.id] = self._count

    def leave(self, request_id: RequestId) -> Request:
        """Take a request out."""
        del self._sequence[request_id]
        return self._waiting.pop(request_id)

    def patience_ends_at(self, request: Request) -> float:
        """From then on nobody may be served in its place."""
        return request.arrived_at + self._tau_s[request.priority]

    def overdue(self, request: Request, now: float) -> bool:
        """Whether it has been passed over for as long as it may be."""
        return now >= self.patience_ends_at(request)

    def in_order(self, now: float) -> list[Request]:
        """Everybody, the next to be served first."""
        return sorted(self._waiting.values(), key=lambda request: self._place(request, now))

    def _place(self, request: Request, now: float) -> tuple[bool, float, Priority, float, int]:
        sequence = self._sequence[request.id]
        if self.overdue(request, now):
            ended_at = self.patience_ends_at(request)
            return False, ended_at, Priority.HIGH, request.arrived_at, sequence
        return True, 0.0, request.priority, request.arrived_at, sequence
