"""How urgent what waits is, and for how long each class is patient: one look at the whole line.

Work is weighted: a second of waiting of a high request counts for more, and the longer one has
waited the more its next second counts. Patience stretches with the backlog, so that a gate under
overload does not degenerate into first-come. It decides nothing.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ollama_gate.scheduler.line import CLASSES, Line
from ollama_gate.scheduler.pace import Pace
from ollama_gate.scheduler.ranks import Ages, Group
from ollama_gate.scheduler.types import ModelKey, Policy, Priority

Triple = tuple[float, float, float]


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
        self.backlog = Backlog(patience_s=policy.tau_s)

    def look(
        self,
        now: float,
        resident: Collection[ModelKey],
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
        seconds = self._seconds(resident, load_s, max(1, bins))
        high, normal, low = (
            min(max(tau_s, policy.beta * backlog_s), cap_s)
            for tau_s, backlog_s, cap_s in zip(policy.tau_s, seconds, policy.tau_cap_s, strict=True)
        )
        self.backlog = Backlog(seconds=seconds, patience_s=(high, normal, low))
        for priority in CLASSES:
            self._line.latch(priority, self.backlog.patience_s[priority], now)

    def _seconds(
        self, resident: Collection[ModelKey], load_s: Callable[[ModelKey], float], bins: int
    ) -> Triple:
        total = [0.0, 0.0, 0.0]
        for model in self._line.models():
            ahead = 0.0
            coming_s = 0.0 if model in resident else load_s(model)
            for priority in CLASSES:
                for group in self._line.groups(model):
                    count = len(group.ranks[priority].row)
                    if count:
                        first = group.ranks[priority].row[0]
                        service_s = self._pace.service_s(model, first.service_s)
                        ahead += coming_s + count * service_s / first.parallel
                        coming_s = 0.0
                total[priority] += ahead
        return total[0] / bins, total[1] / bins, total[2] / bins

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
