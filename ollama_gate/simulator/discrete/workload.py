"""What a discrete-event world is made of: cards, models, arrivals. Plain records, nothing drawn.

A workload is complete: whoever runs it twice sees the same twice. Families of workloads draw
these records from a seed, `replay` reads them from a trace; neither is done here. Times are
seconds from the start, sizes bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from ollama_gate.scheduler.types import BinId, Priority

GB = 10**9

OVERHEAD_BYTES = 400_000_000
"""What a process takes of a card beyond what Ollama tells of it: the driver's context."""

MODELS_PER_CARD = 3
"""How many models Ollama keeps for each card where `OLLAMA_MAX_LOADED_MODELS` says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request, of a client that does not wait for its answer before it sends the next.

    Attributes:
        work_s: how long its answer takes alone on an idle card of speed 1; nobody is told.
        deadline_s: after so long it is worth nothing while it still waits (`X-Deadline`); it is
            told to whoever can be told, and Ollama cannot.
        patience_s: after so long its client gives up if it still waits.
        cut_s: after so long an answer its client hangs up.
    """

    at_s: float
    model: str
    work_s: float
    priority: Priority = Priority.NORMAL
    client: str = ""
    deadline_s: float = math.inf
    patience_s: float = math.inf
    cut_s: float = math.inf

    @property
    def is_served_by_all(self) -> bool:
        """Whether nothing but a refusal or a failure can end it before its answer."""
        return math.isinf(min(self.deadline_s, self.patience_s, self.cut_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an agent asks next, so long after it had its last answer."""

    model: str
    work_s: float
    think_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A client that asks, waits for the answer, thinks, and asks again: a closed loop.

    Attributes:
        starts_at_s: when it begins to think about the first step.
    """

    client: str
    steps: tuple[Step, ...]
    starts_at_s: float = 0.0
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as it really is, and what is believed of it before it was ever loaded.

    Attributes:
        footprint_bytes: what it really takes of a card with all its slots.
        estimate_bytes: what the gate (or whoever writes a table of what fits) believes it takes
            until it has been loaded once; `None` for the truth.
        predicted_bytes: what Ollama compares with 80 % of what it believes to be free; `None`
            for the truth.
        weights_bytes: what is read from disk at a load.
        start_s: how long a load takes beyond reading.
        read_bytes_per_s: how fast it is read from a cold disk; `None` as its upstream says.
        unload_s: from the order to unload it until its memory is back.
        parallel: its slots.
        upstreams: where its files are; empty for everywhere.
        pinned: never evicted by whoever knows of pins.
        overhead_bytes: what of its footprint Ollama does not report.
    """

    name: str
    footprint_bytes: int
    weights_bytes: int
    estimate_bytes: int | None = None
    predicted_bytes: int | None = None
    start_s: float = 1.2
    read_bytes_per_s: float | None = None
    unload_s: float = 0.8
    parallel: int = 4
    upstreams: frozenset[str] = frozenset()
    pinned: bool = False
    overhead_bytes: int = OVERHEAD_BYTES

    @property
    def believed_bytes(self) -> int:
        """What it is thought to take before it was loaded."""
        return self.footprint_bytes if self.estimate_bytes is None else self.estimate_bytes

    @property
    def tested_bytes(self) -> int:
        """What Ollama's own 80 % test is made with."""
        return self.footprint_bytes if self.predicted_bytes is None else self.predicted_bytes

    @property
    def reported_bytes(self) -> int:
        """`size_vram` of it."""
        return max(0, self.footprint_bytes - self.overhead_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSpec:
    """One card.

    Attributes:
        reserve_bytes: never planned with by whoever keeps a reserve.
        speed: of a single answer on it, 1 being what `work_s` is measured with.
        foreign: what other programs use of it from when on, in the order of time; nothing before.
    """

    total_bytes: int = 24 * GB
    reserve_bytes: int = GB
    speed: float = 1.0
    foreign: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """One Ollama: its cards and the disk that they share.

    Attributes:
        read_bytes_per_s: how fast models are read that are not in the page cache; loads at the
            same time share it.
        warm_bytes_per_s: how fast what is in the page cache is read.
        page_cache_bytes: how much of the files stays in memory; 0 for none, ever.
        max_loaded: `OLLAMA_MAX_LOADED_MODELS`, 0 for Ollama's default.
        remembers_free: while a model is on a card Ollama takes for free what was so when that
            was loaded, less what it took (v0.32.15 `GetDeviceInfos`); if not, it looks anew.
    """

    name: str = "local"
    cards: tuple[CardSpec, ...] = (CardSpec(),)
    read_bytes_per_s: float = 3e9
    warm_bytes_per_s: float = 10e9
    page_cache_bytes: int = 0
    max_loaded: int = 0
    remembers_free: bool = True

    @property
    def loaded_limit(self) -> int:
        """How many models it keeps at most."""
        return self.max_loaded or MODELS_PER_CARD * len(self.cards)

    def bin_ids(self) -> tuple[BinId, ...]:
        """The names of its bins, in the order of its cards."""
        return tuple(BinId(f"{self.name}/{number}") for number in range(len(self.cards)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """How much faster many answers are than one after the other.

    Attributes:
        batching: n answers of one model run together at n to this power of one's speed.
        sharing: each of k models that are busy on one card is slower by k to this power.
        loading_speed: what is left of a card's speed while it loads.
        gone_share: after so much of an unload Ollama no longer lists the model.
        reading_s: how often a card is read while nothing moves.
        loading_reading_s: how often while something is loaded; such a reading tells little.
        moving_reading_s: how often while something leaves, and just after anything moved.
    """

    batching: float = 0.65
    sharing: float = 0.85
    loading_speed: float = 0.9
    gone_share: float = 0.5
    reading_s: float = 2.0
    loading_reading_s: float = 1.0
    moving_reading_s: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that happens to whoever schedules, and what there is to do it with.

    Attributes:
        seed: what it was drawn with; the world draws what is left to chance from it, too.
        arrivals: in any order.
        keep_alive_s: how long a model may idle.
        ends_at_s: the run is cut off then, with whoever has not had an answer counted as
            `unserved`; `inf` to run until everybody has ended.
    """

    name: str
    models: tuple[ModelSpec, ...]
    arrivals: tuple[Arrival, ...] = ()
    agents: tuple[Agent, ...] = ()
    upstreams: tuple[UpstreamSpec, ...] = (UpstreamSpec(),)
    physics: Physics = field(default_factory=Physics)
    seed: int = 0
    keep_alive_s: float = 300.0
    ends_at_s: float = math.inf

    def bins(self) -> Iterator[tuple[BinId, UpstreamSpec, CardSpec]]:
        """Every bin, with its upstream and its card."""
        for upstream in self.upstreams:
            for bin_id, card in zip(upstream.bin_ids(), upstream.cards, strict=True):
                yield bin_id, upstream, card

    def model(self, name: str) -> ModelSpec:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)


def is_at(model: ModelSpec, upstream: UpstreamSpec) -> bool:
    """Whether an upstream has a model's files."""
    return not model.upstreams or upstream.name in model.upstreams


def load_s(model: ModelSpec, upstream: UpstreamSpec, *, cached_bytes: int = 0) -> float:
    """How long a load takes there with nothing else going on, in seconds."""
    cold_bytes_per_s = model.read_bytes_per_s or upstream.read_bytes_per_s
    cached_bytes = min(cached_bytes, model.weights_bytes)
    warm_s = cached_bytes / upstream.warm_bytes_per_s
    return model.start_s + warm_s + (model.weights_bytes - cached_bytes) / cold_bytes_per_s
