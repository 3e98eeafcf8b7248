"""What has happened: the only things that the brain ever learns. All in the past tense."""

from dataclasses import dataclass

from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Request, RequestId

ERROR_STATUSES = range(400, 600)
"""The only ones that a failure may have: a client must never be told one as a success."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A request asks for a slot."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A request is over, whichever way: served, failed, refused, or its client gone.

    Attributes:
        completed: its answer ended by itself, so that its time tells something.
    """

    id: RequestId
    completed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """Somebody withdrew a waiting request on its owner's behalf."""

    id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A client asked for a model to be unloaded; it goes when nobody else wants it."""

    model: ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """How a load ended well.

    Attributes:
        footprint_bytes: what the runner really takes, as far as Ollama tells; `None` keeps what
            was booked for it.
        reported_bytes: what Ollama's own books say of it (`size_vram`); its 80 % test uses that.
        size_bytes: what they say of all of it (`size`): the rest is on the CPU.
        num_ctx: the context in effect for one slot.
    """

    footprint_bytes: int | None = None
    reported_bytes: int | None = None
    size_bytes: int | None = None
    num_ctx: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """How a load ended badly: an error's status, 400 to 599, and Ollama's own words.

    Attributes:
        oom: memory ran out. Ollama has evicted everything else then, and tried once more itself.
    """

    status: int
    text: str
    oom: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A load or unload whose end nobody saw: the upstream stopped answering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadEnded:
    """A load is over."""

    bin: BinId
    model: ModelKey
    outcome: Loaded | LoadFailed | Interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadEnded:
    """Ollama no longer lists a runner; or nobody can tell, and `gone` is false."""

    bin: BinId
    model: ModelKey
    gone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A reading of a bin's memory: what there is, and what everybody together uses of it."""

    bin: BinId
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLost:
    """No reading of a bin comes any more; `Measured` says that they do again."""

    bin: BinId


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerDied:
    """The answer to a request that has a slot says that its runner is no more.

    Attributes:
        id: the request; it still has to leave.
        oom: memory ran out; Ollama then lets go of every model as soon as it is idle.
    """

    id: RequestId
    oom: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """One line of `GET /api/ps`, in the scheduler's terms.

    Attributes:
        named_ctx: the `num_ctx` by which one asks for just this runner; `None` if by `num_ctx`.
        size_bytes: all of it, on the card or not; `None` where nothing is said of that.
    """

    bin: BinId
    model: ModelKey
    name: str
    launch: Launch
    footprint_bytes: int
    reported_bytes: int
    num_ctx: int | None
    named_ctx: int | None = None
    parallel: int = 1
    size_bytes: int | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an upstream says is resident; it also says that the upstream answers.

    Attributes:
        asked_at: when the question was sent; whatever changed after that is not contradicted.
        remembers_free: as in `types.Upstream`, where its version tells; `None` leaves it as it is.
    """

    upstream: str
    residents: tuple[Resident, ...]
    asked_at: float
    remembers_free: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamLost:
    """An upstream does not answer."""

    upstream: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time has passed; the time that `next_wakeup` named has come."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The gate is shutting down: running answers may end, nothing new begins."""


Event = (
    Arrived
    | Left
    | Cancelled
    | Released
    | LoadEnded
    | UnloadEnded
    | Measured
    | ReadingLost
    | RunnerDied
    | Observed
    | UpstreamLost
    | Ticked
    | Closing
)
