"""What occupies memory: runners, the books of a bin, and whether one more runner fits.

Memory that is still leaving still counts; it is released when it is *seen* back. The books never
say less than a reading does: what is used and not ours is somebody else's.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ollama_gate.scheduler.commands import Broken, Offloaded
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Request,
    RequestId,
    RunnerState,
)

GIB = 2**30

DEFAULT_RESERVE_BYTES = GIB
DEFAULT_RESERVE_SHARE = 0.05
"""Of what a reading says, the larger of the two is never planned with."""

READING_NOISE_BYTES = 16 * 2**20
"""Two readings that differ by less are equal: a desktop's windows come and go."""

STEADY_BYTES = 512 * 2**20
"""Others whose use changes by no more than this have not given back what a model waits for."""

OVERHEAD_MAX_BYTES = 1500 * 2**20
"""No process holds more on a card than this beyond what Ollama tells of it."""


def reserve_of(total_bytes: int, reserve_bytes: int | None) -> int:
    """What of so much is kept free; without a figure the larger of 1 GiB and 5 %."""
    if reserve_bytes is not None:
        return reserve_bytes
    return max(DEFAULT_RESERVE_BYTES, int(total_bytes * DEFAULT_RESERVE_SHARE))


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
        size_bytes: all of it, on the card or not, as Ollama tells; `None` before it has.
        card_seen: whether anything has shown that its bin is a card.
        foreign_least_bytes: the least that others used since it began.
        used_before_bytes: the reading at the moment Ollama stopped listing it.
        last_used_bytes: the reading before the present one, while its memory is awaited.
        shown: a reading has shown its memory in place.
        missing: how many readings in a row have not shown it since.
        condemned: why it serves nobody any more and is unloaded when it is idle.
        told: the operator knows that it is on the CPU in part.
        asked_at: when it was asked to go, if it was.
        pinned: it is never evicted, nor unloaded for having idled.
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
    size_bytes: int | None = None
    card_seen: bool = False
    foreign_least_bytes: int = 0
    used_before_bytes: int | None = None
    last_used_bytes: int | None = None
    shown: bool = False
    missing: int = 0
    condemned: Offloaded | Broken | None = None
    told: bool = False
    pinned: bool = False
    asked_at: float | None = None
    running: dict[RequestId, Request] = field(default_factory=dict)

    @property
    def key(self) -> tuple[BinId, ModelKey, Launch]:
        """What is remembered of it once it is gone belongs to this."""
        return self.bin.id, self.model, self.launch

    @property
    def resident(self) -> bool:
        """Whether Ollama holds it, ready to serve."""
        return self.state is RunnerState.RESIDENT

    @property
    def usable(self) -> bool:
        """Whether anybody new may be sent to it."""
        return self.resident and self.condemned is None

    @property
    def offload(self) -> float:
        """The share of it that is on the CPU, 0 to 1, where nobody asked for that."""
        if self.bin.cpu or self.launch.chooses_layers or not self.size_bytes:
            return 0.0
        return max(0.0, 1.0 - self.reported_bytes / self.size_bytes)

    @property
    def slid(self) -> bool:
        """Whether it is on the CPU though there is a card that it could have been on."""
        return self.offload > 0 and (self.card_seen or self.reported_bytes > 0)

    @property
    def wanted_bytes(self) -> int:
        """What all of it would take of the card, once Ollama has said how large it is."""
        overhead_bytes = max(0, self.footprint_bytes - self.reported_bytes)
        return (self.size_bytes or 0) + min(overhead_bytes, OVERHEAD_MAX_BYTES)

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

    def take(
        self,
        footprint_bytes: int | None,
        reported_bytes: int | None,
        size_bytes: int | None = None,
    ) -> None:
        """Book what Ollama says that it takes; `None` keeps what was booked.

        A model that was put on the CPU takes nothing of a card, however large it is.
        """
        if self.launch.on_cpu and not self.bin.cpu:
            footprint_bytes = reported_bytes = 0
        if footprint_bytes is not None:
            self.footprint_bytes = footprint_bytes
        if reported_bytes is not None:
            self.reported_bytes = reported_bytes
        if size_bytes is not None:
            self.size_bytes = size_bytes

    def take_context(self, num_ctx: int) -> None:
        """Book the context that it really has."""
        if self.launch.num_ctx is None and num_ctx != self.num_ctx:
            # Ollama's choice was another than was thought; by its own name it is found for sure.
            self.named_ctx = num_ctx
        self.num_ctx = num_ctx

    def enter(self, state: RunnerState, now: float) -> None:
        """Change state."""
        self.state, self.since = state, now


@dataclass(slots=True)
class Books:
    """One bin's memory: what there is, and what others use of it.

    Attributes:
        remembers_free: as its upstream does.
        used_bytes: what everybody uses; `None` while no readings arrive.
        foreign_bytes: what others use, the larger of what the last two readings showed.
        shown_bytes: what the last reading showed of it.
        steady_bytes: what others have used, or about that much, for some time.
        steady_since: since when.
        card_seen: whether Ollama ever had something on it: a budget may be of a machine without a
            card.
    """

    bin: Bin
    remembers_free: bool = True
    total_bytes: int | None = None
    used_bytes: int | None = None
    foreign_bytes: int = 0
    shown_bytes: int = 0
    steady_bytes: int = 0
    steady_since: float = 0.0
    card_seen: bool = False

    @property
    def live(self) -> bool:
        """Whether readings arrive, so that memory can be seen to come back."""
        return self.used_bytes is not None

    @property
    def capacity_bytes(self) -> int | None:
        """What may be planned with while the bin is empty and nobody else uses it.

        The configured budget, or what is read less the reserve: the smaller where there are both.
        """
        limits = [self.bin.capacity_bytes, self._readable_bytes]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def _readable_bytes(self) -> int | None:
        if self.total_bytes is None:
            return None
        reserve = reserve_of(self.total_bytes, self.bin.reserve_bytes)
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

    def watch(self, now: float) -> None:
        """See since when others have used about what they use."""
        if abs(self.foreign_bytes - self.steady_bytes) > STEADY_BYTES:
            self.steady_bytes, self.steady_since = self.foreign_bytes, now

    def lose(self) -> None:
        """No readings arrive any more: what was known of others is believed on."""
        self.used_bytes = None

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
        """What is left for one more beside `runners`; negative when over-committed.

        A configured budget is no promise that others leave it alone, nor are others charged to
        it: it caps what is read.
        """
        read = self._readable_bytes
        limits = [self.bin.capacity_bytes, None if read is None else read - self.foreign_bytes]
        left = min((limit for limit in limits if limit is not None), default=None)
        return None if left is None else left - committed(runners)

    def card_free_bytes(self, runners: Collection[Runner]) -> int | None:
        """What Ollama would be told if it asked the card now.

        A reading in the midst of a load has not seen all of it: the books may lower the figure.
        """
        if self.total_bytes is not None:
            if self.used_bytes is None:
                used = self.foreign_bytes + committed(runners)
            else:
                used = max(self.used_bytes, self.shown_bytes + committed(runners))
            return max(0, self.total_bytes - used)
        if self.bin.capacity_bytes is None:
            return None
        return max(0, self.bin.capacity_bytes - committed(runners))

    def ollama_free_bytes(self, staying: Collection[Runner]) -> int | None:
        """What Ollama will believe to be free while `staying` are loaded.

        Where it remembers it does not look again while one of them is on the card: it takes, of
        one, what the card had free when that one was loaded, and lets its own books lower the
        figure (v0.32.15 `updateFreeSpace` and `GetDeviceInfos`). Which one it takes is left to
        chance, so the least favourable counts.
        """
        total = self.total_bytes if self.total_bytes is not None else self.bin.capacity_bytes
        if total is None:
            return None
        # What it does not list any more it knows nothing of, even while the memory is still gone.
        listed = [runner for runner in staying if runner.state is not RunnerState.LEAVING]
        on_card = [runner for runner in listed if not runner.launch.on_cpu]
        if not on_card or not self.remembers_free:
            return max(0, total - self.foreign_bytes - committed(staying))
        own = total - sum(runner.reported_bytes for runner in listed)
        remembered = (
            runner.free_at_load_bytes - runner.reported_bytes
            for runner in on_card
            if runner.free_at_load_bytes is not None
        )
        return max(0, min([own, *remembered]))


def committed(runners: Iterable[Runner]) -> int:
    """Bytes that runners hold, in whatever state they are."""
    return sum(runner.footprint_bytes for runner in runners)
