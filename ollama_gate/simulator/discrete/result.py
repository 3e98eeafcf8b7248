"""What came out of a run, request by request, and the figures that are made of it."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ollama_gate.scheduler.types import BinId, Priority
from ollama_gate.simulator.discrete.cards import Outcome, Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request: when it came, had its slot, and ended; seconds from the start of the run.

    Attributes:
        number: in the order of coming into the world.
        started_at: when it had its slot; `None` if it never did.
        wait_s: until it had its slot, or until it ended without.
    """

    number: int
    model: str
    priority: Priority
    client: str
    work_s: float
    arrived_at: float
    started_at: float | None
    ended_at: float
    outcome: Outcome
    bin: BinId | None
    why: str = ""

    @property
    def wait_s(self) -> float:
        """How long it had no slot."""
        return (self.ended_at if self.started_at is None else self.started_at) - self.arrived_at


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRecord:
    """One load: `ok` unless memory ran out at its end, or whoever wanted it hung up."""

    bin: BinId
    model: str
    began_at: float
    ended_at: float
    ok: bool


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the world saw whoever decided do, by its own books.

    Attributes:
        loads: ordered.
        unloads: ordered.
        oom_loads: that ran out of memory at their end.
        over_commits: loads beside something else that did not fit what was free, as far as that
            could be known.
        rule_breaches: loads beside which Ollama would have evicted something of its own choice.
        busy_unloads: of models that still served somebody.
        misdirected: requests that were sent where there was no free slot of their model.
        ended_twice: requests that were given a slot, or turned away, after their end.
        lost: requests for which nothing would ever have happened any more.
        prewarms: files that were read ahead, or begun to.
        upstream_evictions: models that Ollama let go by itself, after memory had run out.
    """

    loads: int = 0
    unloads: int = 0
    oom_loads: int = 0
    over_commits: int = 0
    rule_breaches: int = 0
    busy_unloads: int = 0
    misdirected: int = 0
    ended_twice: int = 0
    lost: int = 0
    prewarms: int = 0
    upstream_evictions: int = 0

    @property
    def faults(self) -> int:
        """What must not happen, altogether."""
        return (
            self.over_commits
            + self.rule_breaches
            + self.busy_unloads
            + self.misdirected
            + self.ended_twice
            + self.lost
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Some lengths of time in seconds; zeros where there are none. Percentiles did occur."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run.

    Attributes:
        contender: who decided.
        records: in the order in which requests came.
        ended_at: when the last event of interest happened.
        events: how many things happened in the world.
    """

    workload: str
    seed: int
    contender: str
    records: tuple[Record, ...]
    loads: tuple[LoadRecord, ...]
    counts: Counts
    ended_at: float
    events: int

    @property
    def makespan_s(self) -> float:
        """When the last answer ended."""
        ends = (r.ended_at for r in self.records if r.outcome is Outcome.SERVED)
        return max(ends, default=0.0)

    def outcomes(self) -> dict[Outcome, int]:
        """How many requests ended in which way."""
        counted = dict.fromkeys(Outcome, 0)
        for record in self.records:
            counted[record.outcome] += 1
        return counted

    def waits(
        self,
        *,
        priority: Priority | None = None,
        client: str | None = None,
        model: str | None = None,
    ) -> Summary:
        """How long those waited who had a slot, or none to the very end; all, or some of them.

        Who gave up or was turned away is not among them: that wait was as long as its client,
        or a limit, allowed.
        """
        return summary(
            record.wait_s
            for record in self.records
            if (record.started_at is not None or record.outcome is Outcome.UNSERVED)
            and (priority is None or record.priority is priority)
            and (client is None or record.client == client)
            and (model is None or record.model == model)
        )

    def by_class(self) -> dict[Priority, Summary]:
        """Waits of each class that there was."""
        return {p: self.waits(priority=p) for p in sorted({r.priority for r in self.records})}

    def by_client(self) -> dict[str, Summary]:
        """Waits of each client."""
        return self._by(lambda record: record.client)

    def by_model(self) -> dict[str, Summary]:
        """Waits for each model."""
        return self._by(lambda record: record.model)

    def _by(self, what: Callable[[Record], str]) -> dict[str, Summary]:
        groups: dict[str, _Group] = {}
        for record in self.records:
            if record.started_at is not None or record.outcome is Outcome.UNSERVED:
                groups.setdefault(what(record), _Group()).waits.append(record.wait_s)
        return {name: summary(groups[name].waits) for name in sorted(groups)}


@dataclass(slots=True)
class _Group:
    waits: list[float] = field(default_factory=list)


def summary(lengths: Iterable[float]) -> Summary:
    """Mean and percentiles, by the nearest rank."""
    ordered = sorted(lengths)
    if not ordered:
        return Summary()
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1],
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest rank: so many percent are not above it."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, rank - 1)]


def record_of(ticket: Ticket, ended_at: float) -> Record:
    """What remains of a request."""
    return Record(
        number=ticket.number,
        model=ticket.model.name,
        priority=ticket.priority,
        client=ticket.client,
        work_s=ticket.work_s,
        arrived_at=ticket.arrived_at,
        started_at=ticket.started_at,
        ended_at=ended_at if ticket.ended_at is None else ticket.ended_at,
        outcome=ticket.outcome or Outcome.UNSERVED,
        bin=None if ticket.runner is None else ticket.runner.bin,
        why=ticket.why,
    )
