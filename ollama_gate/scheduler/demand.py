"""How urgent what waits is, and for how long each class is patient: one look at the whole line.

Work is weighted: a second of waiting of a high request counts for more, and the longer one has
waited the more its next second counts. Patience stretches with the backlog, so that a gate under
overload does not degenerate into first-come. It decides nothing.
"""

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ollama_gate.scheduler.line import CLASSES, Line
from ollama_gate.scheduler.pace import Pace
from ollama_gate.scheduler.ranks import Ages, Group
from ollama_gate.scheduler.types import ModelKey, Policy, Priority

Triple = tuple[float, float, float]

NOTHING = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The work that waits, in seconds, of each class and those above it.

    Attributes:
        seconds: until a newcomer of the class would be served, if all before it were served first.
        patience_s: how long it is patient, given that.
    """

    seconds: Triple = (0.0, 0.0, 0.0)
    patience_s: Triple = (0.0, 0.0, 0.0)


class Demand:
    """What the line comes to. `look` first, whenever time has passed or the line has changed."""

    def __init__(self, policy: Policy, line: Line, pace: Pace) -> None:
        self._policy = policy
        self._line = line
        self._pace = pace
        self._now = 0.0
        # Integers, so that nothing is lost in adding and taking away.
        self._ahead_us: dict[ModelKey, tuple[int, int, int]] = {}
        self._total_us = [0, 0, 0]
        self._resident: AbstractSet[ModelKey] = frozenset()
        self.backlog = Backlog(patience_s=policy.tau_s)

    def look(
        self,
        now: float,
        resident: AbstractSet[ModelKey],
        load_s: Callable[[ModelKey], float],
        bins: int,
    ) -> None:
        """Take the backlog's measure, and latch who has waited for too long.

        Args:
            now: the time.
            resident: the models that need no load.
            load_s: how long the load of a model that somebody waits for takes.
            bins: how many bins share the work.
        """
        self._now = now
        policy = self._policy
        self._measure(resident, load_s)
        total_high, total_normal, total_low = (us / max(1, bins) / 1e6 for us in self._total_us)
        seconds = total_high, total_normal, total_low
        high, normal, low = (
            min(max(tau_s, policy.beta * backlog_s), cap_s)
            for tau_s, backlog_s, cap_s in zip(policy.tau_s, seconds, policy.tau_cap_s, strict=True)
        )
        self.backlog = Backlog(seconds=seconds, patience_s=(high, normal, low))
        for priority in CLASSES:
            self._line.latch(priority, self.backlog.patience_s[priority], now)

    def _measure(
        self, resident: AbstractSet[ModelKey], load_s: Callable[[ModelKey], float]
    ) -> None:
        """Work out anew what has changed since the last look, and nothing else."""
        changed = self._line.changed | self._pace.changed | (resident ^ self._resident)
        self._line.changed.clear()
        self._pace.changed.clear()
        self._resident = resident
        for model in changed:
            before = self._ahead_us.pop(model, NOTHING)
            after = self._ahead_of(model, resident, load_s)
            if after != NOTHING:
                self._ahead_us[model] = after
            for priority in CLASSES:
                self._total_us[priority] += after[priority] - before[priority]

    def _ahead_of(
        self, model: ModelKey, resident: AbstractSet[ModelKey], load_s: Callable[[ModelKey], float]
    ) -> tuple[int, int, int]:
        """What one model's requests take, of each class and those above it; microseconds."""
        groups = tuple(self._line.groups(model))
        if not groups:
            return NOTHING
        coming_s = 0.0 if model in resident else load_s(model)
        ahead_s, seconds = 0.0, []
        for priority in CLASSES:
            for group in groups:
                row = group.ranks[priority].row
                if row:
                    service_s = self._pace.service_s(model, row[0].service_s)
                    ahead_s += coming_s + len(row) * service_s / row[0].parallel
                    coming_s = 0.0
            seconds.append(round(ahead_s * 1e6))
        high, normal, low = seconds
        return high, normal, low

    def ends(self) -> Iterable[float]:
        """When somebody of a class is overdue next, for each class."""
        for priority in CLASSES:
            since = self._line.patient_since(priority)
            if since is not None:
                yield since + self.backlog.patience_s[priority]

    def ends_at(self, arrived_at: float, priority: Priority) -> float:
        """When a request's patience ends, as things are."""
        return arrived_at + self.backlog.patience_s[priority]

    def work(self, groups: Iterable[Group]) -> float:
        """The weighted waiting work of some kinds."""
        return sum(self._of(group.ranks) for group in groups)

    def work_of_all(self) -> float:
        """The weighted waiting work of everybody."""
        return self._of(self._line.everybody)

    def _of(self, ranks: Collection[Ages]) -> float:
        policy, total = self._policy, 0.0
        for priority, ages in enumerate(ranks):
            if ages.row:
                # A patience of nothing would make everybody infinitely urgent.
                patience_s = max(self.backlog.patience_s[priority], 1.0)
                aged = policy.aging * ages.squares(self._now) / (patience_s * patience_s)
                total += policy.weights[priority] * (len(ages.row) + aged)
        return total
