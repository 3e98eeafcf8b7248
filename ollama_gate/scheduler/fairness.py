"""Whose turn it is inside a class: the client that was served least.

A virtual token counter for each client and class (VTC, Sheng et al., OSDI '24), counted in
seconds of slots. A start is charged with the service that is expected and settled when it is over.
A client that comes back is lifted to the least of those that wait, so that nobody banks the time in
which he asked for nothing. The counter runs over all models: who gets much of one gets less of the
others.
"""

from collections.abc import Iterable

from ollama_gate.scheduler.types import Priority

Account = tuple[Priority, str]

SWEEP = 1024
"""When so many accounts have come since, those that say nothing any more are dropped."""

REMEMBERED = 10_000
"""So many of a class who are away are kept at the most: a client may call itself what it likes."""


class Fairness:
    """The counters; seconds of slots."""

    def __init__(self) -> None:
        self._counters: dict[Account, float] = {}
        self._floors = [0.0, 0.0, 0.0]
        self._sweep_at = SWEEP

    def counter(self, priority: Priority, client: str) -> float:
        """What a client was served in a class, lifted where he had been away."""
        return self._counters.get((priority, client), 0.0)

    def returns(self, priority: Priority, client: str, waiting: Iterable[str]) -> None:
        """A client asks again, of whom nobody waited; `waiting` are those of the class who do."""
        others = [self._counters[priority, other] for other in waiting if other != client]
        level = min(others, default=self._floors[priority])
        account = priority, client
        self._counters[account] = max(self._counters.get(account, 0.0), level)
        if len(self._counters) > self._sweep_at:
            self._sweep([client, *waiting], priority)

    def starts(self, priority: Priority, client: str, expected_s: float) -> None:
        """Charge a start with what it is expected to take."""
        counter = self._counters.get((priority, client), 0.0)
        self._floors[priority] = max(self._floors[priority], counter)
        self._counters[priority, client] = counter + expected_s

    def ends(self, priority: Priority, client: str, expected_s: float, took_s: float) -> None:
        """Settle what it was charged with what it took."""
        account = priority, client
        if account in self._counters:
            self._counters[account] += took_s - expected_s

    def _sweep(self, waiting: Iterable[str], priority: Priority) -> None:
        """Drop those of a class who are away and would be lifted anyway."""
        here = set(waiting)
        floor = self._floors[priority]
        away = [a for a in self._counters if a[0] is priority and a[1] not in here]
        owing = [account for account in away if self._counters[account] > floor]
        # Of the others the longest known are forgotten first.
        kept = set(owing[-REMEMBERED:])
        for account in away:
            if account not in kept:
                del self._counters[account]
        self._sweep_at = len(self._counters) + SWEEP
