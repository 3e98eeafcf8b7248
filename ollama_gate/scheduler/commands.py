"""What is to be done: the only things that the brain ever says. All in the imperative.

Each carries the reason and the numbers that decided, so that nobody has to work them out again.
"""

from dataclasses import dataclass, field

from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Refusal, RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """It makes room: for whom, what was missing, and how long it had been idle."""

    for_model: str
    shortfall: str
    idle_s: float


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
        for_request: whose turn it is.
        waited_s: how long that one has waited.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Unload a model that serves nobody; `UnloadEnded` says that Ollama no longer lists it."""

    bin: BinId
    model: ModelKey
    name: str
    reason: Evicted | Expired


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """The request has its slot: send it now.

    Attributes:
        queued_s: how long it has waited.
        num_ctx: the context that it is to name instead of its own; `None` leaves what it says.
        load_s: for how much of that its model was being loaded; no part of what is decided.
    """

    id: RequestId
    bin: BinId
    queued_s: float
    num_ctx: int | None = None
    load_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Turn the request away.

    Attributes:
        status: the upstream's own status, for `LOAD_FAILED`.
        text: the upstream's own words, for `LOAD_FAILED`.
    """

    id: RequestId
    reason: Refusal
    retry_after_s: float | None = None
    status: int | None = None
    text: str | None = None


Command = Load | Unload | Forward | Refuse
