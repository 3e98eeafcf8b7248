"""What occupies memory: runners, the books of a bin, and whether one more runner fits.

Memory that is still leaving still counts; it is released when it is *seen* back. The books never
say less than a reading does: what is used and not ours is somebody else's.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ollama_gate.scheduler.types import (
    Bin,
    Launch,
    ModelKey,
    Need,
    Request,
    RequestId,
    RunnerState,
)

GIB = 2**30

DEFAULT_RESERVE_BYTES = GIB
DEFAULT_RESERVE_SHARE = 0.05
"""Of what a reading says, the larger of the two is never planned with."""

OLLAMA_SHARE_PERCENT = 80
"""Beside another model Ollama loads only what it predicts to stay within this share of the free
memory (v0.32.15 `server/sched.go`, `load`)."""

READING_NOISE_BYTES = 16 * 2**20
"""Two readings that differ by less are equal: a desktop's windows come and go."""


@dataclass(slots=True, kw_only=True, eq=False)
class Runner:
    """One model in one bin, from the moment its load is ordered until its memory is seen back.

    Attributes:
        num_ctx: the context in effect for one slot; `None` where nobody can tell.
        named_ctx: the `num_ctx` by which one asks Ollama for just this runner; `None` where that
            is no other than the one in effect.
        reported_bytes: what Ollama's own books hold for it.
        free_at_load_bytes: what the card had free when its load began. Ollama remembers this
            figure for as long as the runner lives and plans with it.
        since: when it entered its present state.
        began_at: when its load was ordered; of an adopted one, when it was first seen.
        ready_at: when it became resident.
        served: how many requests it has been given since.
        used_before_bytes: the reading at the moment Ollama stopped listing it.
        last_used_bytes: the reading before the present one, while its memory is awaited.
    """

    bin: Bin
    model: ModelKey
    name: str
    launch: Launch
    num_ctx: int | None
    footprint_bytes: int
    reported_bytes: int
    free_at_load_bytes: int | None
    parallel: int
    keep_alive_s: float
    state: RunnerState
    since: float
    load_s: float
    began_at: float
    named_ctx: int | None = None
    ready_at: float = 0.0
    idle_since: float = 0.0
    served: int = 0
    used_before_bytes: int | None = None
    last_used_bytes: int | None = None
    running: dict[RequestId, Request] = field(default_factory=dict)

    @property
    def resident(self) -> bool:
        """Whether it can serve."""
        return self.state is RunnerState.RESIDENT

    @property
    def idle(self) -> bool:
        """Whether nothing runs on it."""
        return not self.running

    @property
    def expires_at(self) -> float:
        """When its `keep_alive` ends, if nobody comes; `inf` for never."""
        return self.idle_since + self.keep_alive_s

    def loading_since(self, at: float) -> float:
        """How long its load went on after an instant, in seconds; an adopted one had none."""
        return max(0.0, self.ready_at - max(self.began_at, at))

    def take(self, footprint_bytes: int | None, reported_bytes: int | None) -> None:
        """Book what Ollama says that it takes; `None` keeps what was booked.

        A model that was put on the CPU takes nothing of a card, however large it is.
        """
        if self.launch.on_cpu and not self.bin.cpu:
            footprint_bytes = reported_bytes = 0
        if footprint_bytes is not None:
            self.footprint_bytes = footprint_bytes
        if reported_bytes is not None:
            self.reported_bytes = reported_bytes

    def take_context(self, num_ctx: int) -> None:
        """Book the context that it really has."""
        if self.launch.num_ctx is None and num_ctx != self.num_ctx:
            # Ollama's choice was another than was thought; by its own name it is found for sure.
            self.named_ctx = num_ctx
        self.num_ctx = num_ctx

    def enter(self, state: RunnerState, now: float) -> None:
        """Change state."""
        self.state, self.since = state, now


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Why a runner cannot be loaded now, in numbers.

    Attributes:
        rule: `memory`, `80%` (Ollama's own test), `max_loaded`, or `unknown` where neither a
            reading nor a configured budget says how much there is.
        missing_bytes: what would have to be freed, 0 where bytes are not the question.
    """

    rule: str
    missing_bytes: int = 0

    def __str__(self) -> str:
        """As it stands in a log line."""
        if not self.missing_bytes:
            return self.rule
        missing = f"{self.missing_bytes / GIB:.1f}GiB"
        return missing if self.rule == "memory" else f"{missing}({self.rule})"


@dataclass(slots=True)
class Books:
    """One bin's memory: what there is, and what others use of it.

    Attributes:
        foreign_bytes: what others use, the larger of what the last two readings showed.
        shown_bytes: what the last reading showed of it.
    """

    bin: Bin
    total_bytes: int | None = None
    used_bytes: int | None = None
    foreign_bytes: int = 0
    shown_bytes: int = 0

    @property
    def live(self) -> bool:
        """Whether readings arrive, so that memory can be seen to come back."""
        return self.used_bytes is not None

    @property
    def capacity_bytes(self) -> int | None:
        """What may be planned with: the configured budget, else a reading less the reserve."""
        if self.bin.capacity_bytes is not None:
            return self.bin.capacity_bytes
        if self.total_bytes is None:
            return None
        reserve = self.bin.reserve_bytes
        if reserve is None:
            reserve = max(DEFAULT_RESERVE_BYTES, int(self.total_bytes * DEFAULT_RESERVE_SHARE))
        return max(0, self.total_bytes - reserve)

    def measure(self, total_bytes: int, used_bytes: int, runners: Collection[Runner]) -> None:
        """Take in a reading.

        What others use grows at once and shrinks after two readings in a row. Where a load or
        unload moves memory a reading leaves a range: at least what nothing booked explains, at
        most what the residents leave unexplained. What was known before is kept within it.
        """
        self.total_bytes, self.used_bytes = total_bytes, used_bytes
        before = self.shown_bytes
        self.recognise(runners)
        self.foreign_bytes = max(before, self.shown_bytes)

    def recognise(self, runners: Collection[Runner]) -> None:
        """See the last reading anew, now that these runners are known to explain part of it."""
        if self.used_bytes is not None:
            least = max(0, self.used_bytes - committed(runners))
            most = max(0, self.used_bytes - committed(r for r in runners if r.resident))
            self.shown_bytes = min(max(self.shown_bytes, least), most)

    def adopt(self, runner: Runner, runners: Collection[Runner]) -> None:
        """Take for a runner's what was taken for somebody else's before it was known of."""
        self.recognise(runners)
        self.foreign_bytes = max(self.shown_bytes, self.foreign_bytes - runner.footprint_bytes)

    def cover(self, runners: Iterable[Runner]) -> None:
        """Book as somebody else's what a change of these runners leaves unexplained."""
        if self.used_bytes is not None:
            unexplained = self.used_bytes - committed(runners)
            self.shown_bytes = max(self.shown_bytes, unexplained)
            self.foreign_bytes = max(self.foreign_bytes, unexplained)

    def free_bytes(self, runners: Collection[Runner]) -> int | None:
        """What is left for one more beside `runners`; negative when over-committed."""
        if self.capacity_bytes is None:
            return None
        return self.capacity_bytes - self.foreign_bytes - committed(runners)

    def card_free_bytes(self, runners: Collection[Runner]) -> int | None:
        """What Ollama would be told if it asked the card now."""
        if self.total_bytes is not None and self.used_bytes is not None:
            return max(0, self.total_bytes - self.used_bytes)
        if self.bin.capacity_bytes is None:
            return None
        return max(0, self.bin.capacity_bytes - committed(runners))

    def ollama_free_bytes(self, staying: Collection[Runner]) -> int | None:
        """What Ollama will believe to be free while `staying` are loaded.

        It does not look again while one of them is on the card: it takes, of one, what the card
        had free when that one was loaded, and lets its own books lower the figure (v0.32.15
        `updateFreeSpace` and `GetDeviceInfos`). Which one it takes is left to chance, so the least
        favourable counts.
        """
        total = self.total_bytes if self.total_bytes is not None else self.bin.capacity_bytes
        if total is None:
            return None
        on_card = [runner for runner in staying if not runner.launch.on_cpu]
        if not on_card:
            return max(0, total - self.foreign_bytes - committed(staying))
        own = total - sum(runner.reported_bytes for runner in staying)
        remembered = (
            runner.free_at_load_bytes - runner.reported_bytes
            for runner in on_card
            if runner.free_at_load_bytes is not None
        )
        return max(0, min([own, *remembered]))


def committed(runners: Iterable[Runner]) -> int:
    """Bytes that runners hold, in whatever state they are."""
    return sum(runner.footprint_bytes for runner in runners)


def shortfall(
    need: Need, books: Books, staying: Collection[Runner], *, elsewhere: int, max_loaded: int
) -> Shortfall | None:
    """What prevents a load beside `staying`; `None` when it fits.

    With nothing else in the bin everything fits: Ollama makes no test then, and what is larger
    than the card has nowhere better to go.

    Args:
        need: what the newcomer takes.
        books: of the bin it would go to.
        staying: the runners that would remain in that bin.
        elsewhere: how many runners the upstream has in its other bins.
        max_loaded: how many runners the upstream keeps before it evicts by itself.
    """
    listed = sum(runner.state is not RunnerState.LEAVING for runner in staying)
    if listed + elsewhere >= max_loaded:
        return Shortfall(rule=f"max_loaded={max_loaded}")
    if not staying:
        return None
    free = books.free_bytes(staying)
    if free is None:
        return Shortfall(rule="unknown")
    if need.footprint_bytes > free:
        return Shortfall(rule="memory", missing_bytes=need.footprint_bytes - free)
    return None if books.bin.cpu else _eighty_percent(need, books, staying)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `most` says; `inf` where there is no limit, below 0 where nobody fits."""

    footprint_bytes: float
    predicted_bytes: float

    def admit(self, need: Need) -> bool:
        """Whether a need is within both."""
        return (
            need.footprint_bytes <= self.footprint_bytes
            and need.predicted_bytes <= self.predicted_bytes
        )


NOBODY = Limits(footprint_bytes=-1, predicted_bytes=-1)


def most(books: Books, firm: Collection[Runner], *, elsewhere: int, max_loaded: int) -> Limits:
    """The limits that `shortfall` sets to everybody beside these and whoever else remains.

    A need beyond them falls short whatever else goes; one within them may fall short as well.
    """
    if len(firm) + elsewhere >= max_loaded:
        return NOBODY
    if not firm:
        return Limits(footprint_bytes=math.inf, predicted_bytes=math.inf)
    free = books.free_bytes(firm)
    if free is None:
        return NOBODY
    # While none is on the card Ollama looks anew, and may find less free than beside one more.
    believed = None
    if not books.bin.cpu and not all(runner.launch.on_cpu for runner in firm):
        believed = books.ollama_free_bytes(firm)
    allowed = math.inf if believed is None else believed * OLLAMA_SHARE_PERCENT // 100
    return Limits(footprint_bytes=free, predicted_bytes=allowed)


def _eighty_percent(need: Need, books: Books, staying: Collection[Runner]) -> Shortfall | None:
    believed = books.ollama_free_bytes(staying)
    assert believed is not None, "a bin with a capacity has a total"
    allowed = believed * OLLAMA_SHARE_PERCENT // 100
    if need.predicted_bytes <= allowed:
        return None
    return Shortfall(rule="80%", missing_bytes=need.predicted_bytes - allowed)


def memory_is_back(runner: Runner, books: Books, others: Collection[Runner]) -> bool:
    """Whether the memory of a runner that Ollama no longer lists has been seen back.

    Either the card uses no more than the books of everybody else explain; or it has settled
    after giving back at least half of what was booked, so that the rest was booked too high or
    is somebody else's.
    """
    used, before, last = books.used_bytes, runner.used_before_bytes, runner.last_used_bytes
    assert used is not None, "memory is awaited only where readings arrive"
    assert before is not None, "the reading is kept when Ollama stops listing a runner"
    # What is being loaded has not taken all that is booked for it, and must not hide the rest.
    in_place = [other for other in others if other.state is not RunnerState.LOADING]
    if used <= committed(in_place) + books.shown_bytes + READING_NOISE_BYTES:
        return True
    settled = last is not None and abs(last - used) <= READING_NOISE_BYTES
    return settled and before - used >= runner.footprint_bytes // 2
