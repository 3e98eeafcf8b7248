"""What is to be done: the only things that the brain ever says. All in the imperative.

Each carries the reason and the numbers that decided, so that nobody has to work them out again.
"""

from dataclasses import dataclass, field

from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Refusal, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it costs to evict a runner, in weighted seconds of waiting.

    Attributes:
        total: the sum that is compared.
        waiting: how many wait for it.
        known: what those will wait for the visit and the reload.
        predicted: the same of who is expected to arrive meanwhile.
        behind: what everybody else waits for the reload.
        reload_s: how long that takes.
        drain_s: how long what runs on it may still take.
        rate_per_s: its arrivals.
    """

    name: str
    total: float
    waiting: int
    known: float
    predicted: float
    behind: float
    reload_s: float
    drain_s: float
    rate_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Why a model is loaded next, and why these make room for it.

    Attributes:
        index: weighted waiting work over the seconds of the visit; the largest is next.
        work: the weighted waiting work.
        waiting: how many wait for it.
        visit_s: unload, load and service of all of them.
        drain_s: how long the victims may still take.
        reload_s: what it will cost to load the victims again, as far as they will be wanted.
        overdue: whether one of them has been passed over for as long as it may be.
        reserved: whether the bin was kept for that one.
        passed_over: how many other models were loaded before its.
        rivals: the best of the others that were weighed, and their indices.
        victims: what each of them costs.
    """

    index: float = 0.0
    work: float = 0.0
    waiting: int = 0
    visit_s: float = 0.0
    drain_s: float = 0.0
    reload_s: float = 0.0
    overdue: bool = False
    reserved: bool = False
    passed_over: int = 0
    rivals: tuple[tuple[str, float], ...] = ()
    victims: tuple[Cost, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """It makes room: for whom, what was missing, and how long it had been idle.

    Attributes:
        cost: what it costs, among those that could have gone; `None` where nobody was weighed.
    """

    for_model: str
    shortfall: str
    idle_s: float
    cost: Cost | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloaded:
    """Only a part of it is on the card, and that is not how it is to serve.

    Attributes:
        share: on the CPU, 0 to 1.
        wanted_bytes: what all of it would take.
        again: whether it is loaded again for those who wait for it.
    """

    share: float
    wanted_bytes: int
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Its process is no more, whatever Ollama lists; `sign` is what told."""

    sign: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """It idled for as long as its `keep_alive` allowed."""

    idle_s: float
    keep_alive_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Load a model; `LoadEnded` says how it went.

    Attributes:
        name: the name to load it by.
        footprint_bytes: what was booked for it.
        free_bytes: what the bin had free; `None` where nobody knows.
        alone: whether the bin holds nothing else.
        missing_bytes: what is not there and will be lacking on the card, 0 where it should fit.
        for_request: whose turn it is.
        waited_s: how long that one has waited.
        choice: why this model, and why now.
    """

    bin: BinId
    model: ModelKey
    name: str
    launch: Launch
    footprint_bytes: int
    free_bytes: int | None
    alone: bool
    for_request: RequestId
    waited_s: float
    missing_bytes: int = 0
    choice: Choice = field(default=Choice(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Unload a model that serves nobody; `UnloadEnded` says that Ollama no longer lists it."""

    bin: BinId
    model: ModelKey
    name: str
    reason: Evicted | Expired | Offloaded | Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn:
    """Tell the operator that a model serves although a part of it is on the CPU.

    Attributes:
        share: on the CPU, 0 to 1.
        wanted_bytes: what all of it would take.
        there_bytes: what an empty bin has for it; `None` where nobody knows.
    """

    bin: BinId
    model: ModelKey
    name: str
    share: float
    wanted_bytes: int
    there_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The request has its slot: send it now.

    Attributes:
        queued_s: how long it has waited.
        num_ctx: the context that it is to name instead of its own; `None` leaves what it says.
        load_s: for how much of that its model was being loaded; no part of what is decided.
        offload: the share of the model that is on the CPU, 0 to 1.
        overdue: whether it had been passed over for as long as it may be.
    """

    id: RequestId
    bin: BinId
    queued_s: float
    num_ctx: int | None = None
    load_s: float = field(default=0.0, compare=False)
    offload: float = 0.0
    overdue: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Turn the request away.

    Attributes:
        status: the upstream's own status, for `LOAD_FAILED`.
        text: the upstream's own words, for `LOAD_FAILED`.
        wanted_bytes: what it would take, for `NEVER_FITS`.
        there_bytes: what there is for it, for `NEVER_FITS`; `None` where nobody knows.
    """

    id: RequestId
    reason: Refusal
    retry_after_s: float | None = None
    status: int | None = None
    text: str | None = None
    wanted_bytes: int | None = None
    there_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prewarm:
    """Read a model's file into the page cache, while it waits for its turn: a hint, no promise.

    At most one at a time for each upstream, and none while it loads.
    """

    bin: BinId
    model: ModelKey
    name: str


Command = Load | Unload | Forward | Refuse | Warn | Prewarm
