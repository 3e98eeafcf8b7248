"""The report: what was measured and whether the goals are met, as Markdown tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final

from bench.rig.contenders import BARE, EVERYBODY, GATE, NGINX, STRAIGHT
from bench.rig.held import Cancelled, Memory
from bench.rig.timed import Outcome, Slice

LATENCY_RATIO: Final = 1.0
P99_RATIO: Final = 1.5
RATE_RATIO: Final = 0.9
WAITING_KB: Final = 15.0
CANCEL_MS: Final = 100.0

Figure = Callable[[Slice], float]


@dataclass(frozen=True)
class Spread:
    """A figure in each round."""

    values: Sequence[float]

    @property
    def middle(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return _short(self.middle)
        low, high = min(self.values), max(self.values)
        return f"{_short(self.middle)} ({_short(low)}..{_short(high)})"


@dataclass
class Report:
    """What came out, section by section; a section that did not run is left out."""

    timed: list[Outcome] = field(default_factory=list)
    streams: list[Memory] = field(default_factory=list)
    waiting: list[Memory] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Everything, ready to print."""
        yield f"| | {' | '.join(EVERYBODY)} | gate / bare |"
        yield "|---|" + "---:|" * (len(EVERYBODY) + 1)
        for outcome in self.timed:
            yield from _timed(outcome)
        yield from _memory("open streams: KB of memory each", self.streams)
        yield from _memory("waiting requests with 1 KB bodies: KB of memory each", self.waiting)
        if self.waiting:
            cells = {each.contender: Spread([each.seconds]) for each in self.waiting}
            yield _row(f"{self.waiting[0].count:,} requests at once: s to take them in", cells)
        for streaming in (True, False):
            kind = "streaming" if streaming else "not streaming"
            cells = {
                each.contender: Spread(each.delays_ms)
                for each in self.cancelled
                if each.streaming is streaming
            }
            if cells:
                yield _row(f"client leaves, {kind}: ms until the upstream knows", cells)
        for note in self.notes:
            yield ""
            yield note
        yield ""
        yield "| goal | wanted | found | |"
        yield "|---|---:|---:|---|"
        yield from self._goals()

    def _goals(self) -> Iterator[str]:
        for outcome in self.timed:
            yield from _timed_goals(outcome)
        for memory in self.waiting:
            if memory.contender == GATE:
                yield _goal("KB for a waiting request", memory.each_bytes / 1000, WAITING_KB)
        for one in self.cancelled:
            if one.contender == GATE:
                kind = "streaming" if one.streaming else "not streaming"
                yield _goal(f"ms from leaving to closing, {kind}", one.median_ms, CANCEL_MS)


def _timed(outcome: Outcome) -> Iterator[str]:
    title = outcome.scenario.title
    if outcome.scenario.chunks:
        yield _row(f"{title}: chunk delay, median us", _each(outcome, _delay_us(50)))
        yield _row(f"{title}: chunk delay, p99 us", _each(outcome, _delay_us(99)))
    else:
        yield _row(f"{title}: median us, others added", _added(outcome, _latency_us(50)))
        yield _row(f"{title}: p99 us, others added", _added(outcome, _latency_us(99)))
        yield _row(f"{title}: per second", _each(outcome, _rate))
    yield _row(f"{title}: CPU us each", _cpu_us(outcome))


def _timed_goals(outcome: Outcome) -> Iterator[str]:
    title = outcome.scenario.title
    if outcome.scenario.chunks:
        delays = _each(outcome, _delay_us(99))
        yield _goal(f"{title}: p99 chunk delay, us", delays[GATE].middle, delays[BARE].middle)
        return
    for name, percent, ratio in (("median", 50, LATENCY_RATIO), ("p99", 99, P99_RATIO)):
        added = _added(outcome, _latency_us(percent))
        goal = f"{title}: added {name}, gate / bare"
        if added[BARE].middle > 0:
            yield _goal(goal, added[GATE].middle / added[BARE].middle, ratio)
        else:
            yield f"| {goal} | <= {_short(ratio)} | - | bare added nothing that could be seen |"
    rates = _each(outcome, _rate)
    yield _goal(
        f"{title}: per second, gate / bare",
        rates[GATE].middle / rates[BARE].middle,
        RATE_RATIO,
        at_least=True,
    )


def _memory(title: str, found: Iterable[Memory]) -> Iterator[str]:
    found = list(found)
    if found:
        cells = {each.contender: Spread([each.each_bytes / 1000]) for each in found}
        yield _row(f"{found[0].count:,} {title}", cells)


def _each(outcome: Outcome, figure: Figure) -> dict[str, Spread]:
    return {
        name: Spread([figure(each) for each in slices]) for name, slices in outcome.slices.items()
    }


def _added(outcome: Outcome, figure: Figure) -> dict[str, Spread]:
    """The figure over that of going straight in the same round; going straight as it is."""
    found = _each(outcome, figure)
    straight = found[STRAIGHT].values
    for name in (BARE, NGINX, GATE):
        if name in found:
            pairs = zip(found[name].values, straight, strict=True)
            found[name] = Spread([value - base for value, base in pairs])
    return found


def _latency_us(percent: int) -> Figure:
    return lambda each: _percentile(each.latencies_ns, percent) / 1000


def _delay_us(percent: int) -> Figure:
    return lambda each: _percentile(each.delays_ns, percent) / 1000


def _rate(each: Slice) -> float:
    return len(each.latencies_ns) / each.seconds


def _cpu_us(outcome: Outcome) -> dict[str, Spread]:
    """Of all rounds together: the system counts in hundredths of a second."""
    found = {}
    for name, slices in outcome.slices.items():
        if name != STRAIGHT:
            cpu_s = sum(each.cpu_s for each in slices)
            count = sum(len(each.latencies_ns) for each in slices)
            found[name] = Spread([cpu_s * 1e6 / count])
    return found


def _percentile(values: Sequence[int], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _row(title: str, cells: dict[str, Spread]) -> str:
    shown = [str(cells[name]) if name in cells else "-" for name in EVERYBODY]
    ratio = "-"
    if BARE in cells and GATE in cells and cells[BARE].middle > 0:
        ratio = f"{cells[GATE].middle / cells[BARE].middle:.2f}"
    return f"| {title} | {' | '.join(shown)} | {ratio} |"


def _goal(title: str, found: float, wanted: float, *, at_least: bool = False) -> str:
    met = found >= wanted if at_least else found <= wanted
    sign = ">=" if at_least else "<="
    verdict = "met" if met else "**not met**"
    return f"| {title} | {sign} {_short(wanted)} | {_short(found)} | {verdict} |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
