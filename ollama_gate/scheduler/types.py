"""What the brain reasons about: requests, runners, bins, and the reasons it gives.

Plain frozen records. Nothing here knows of HTTP, of clocks or of a card; sizes are bytes,
times are seconds on whatever monotonic clock the caller uses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from ollama_gate.scheduler.commands import Choice

ModelKey = NewType("ModelKey", str)
"""Identity of what occupies memory: the GGUF blob's digest, so that aliases share one runner."""

BinId = NewType("BinId", str)
"""A place that can hold models, as `upstream/card`."""

RequestId = NewType("RequestId", str)


class Offload(Enum):
    """What becomes of a model of which a card holds only a part."""

    AUTO = "auto"
    """What fits an empty bin is loaded again, once, with room made; what does not has it alone."""
    REFUSE = "refuse"
    """It serves nobody: who asks for it is told that it does not fit."""
    ACCEPT = "accept"
    """It serves as it is."""


class Priority(IntEnum):
    """The three classes; a smaller number is served sooner."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The options that a runner is started with; `None` leaves the choice to Ollama.

    These are the options whose change makes Ollama reload a model (`needsReload` in Ollama
    v0.32.15 `server/sched.go`), after the Modelfile's parameters were applied.

    Attributes:
        num_ctx: as it is named, which may be more than the model was trained for.
        shift: context shift, a flag of the runner rather than an option.
        extras: adapter and projector blobs, which reload as well.
    """

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    shift: bool | None = None
    extras: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> bool:
        """Whether no layer may go to a card, so that no VRAM is needed."""
        return self.num_gpu == 0

    @property
    def chooses_layers(self) -> bool:
        """Whether somebody said how much goes to a card, so that a part is what was asked for."""
        return self.num_gpu is not None and self.num_gpu >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a runner will take in one bin.

    Attributes:
        footprint_bytes: what is booked: weights, cache, compute buffers, process overhead.
        predicted_bytes: what Ollama itself will compare with 80 % of the free memory; 0 where
            it makes no such test.
        load_s: how long its load took in earlier lives, if that is known.
    """

    footprint_bytes: int
    predicted_bytes: int
    load_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """What a request would be loaded with that is to get just the context that it names."""

    launch: Launch
    needs: Mapping[BinId, Need]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One inference request as the scheduler sees it.

    Attributes:
        model: what must be resident.
        name: the name the client used; a load that it causes uses it.
        launch: what a runner is loaded with for it.
        needs: what its runner would take, for each bin that can hold it.
        arrived_at: when it was first accepted; a request tried again keeps its place.
        num_ctx: the context in effect for one slot if a runner were loaded for it, whether it
            asked for one or left the choice to Ollama; `None` where nobody can tell.
        named_ctx: the `num_ctx` by which that runner is asked for: what `launch` names, else
            Ollama's automatic one, before it is held to what the model was trained for.
        least_ctx: if set, every runner with at least so many tokens serves it, for it can be
            sent with the runner's context in place of its own; if not, only one that Ollama
            takes for its own as it stands.
        exact: if set, `launch` leaves the context to Ollama although the request names one, for
            that is no more; and this is what it is loaded with where Ollama's choice does not
            do.
        batch_limit: Ollama takes the batch of this model from the context that is named, up to
            this; `None` where it does not.
        parallel: how many requests one runner of this model may serve at once.
        keep_alive_s: how long the model may idle afterwards, `inf` for no limit; `None` leaves
            the runner's present limit as it is.
        default_keep_alive_s: the limit a runner starts with if this request causes its load.
        accepted: accepted before, and tried again; it does not count against the queue's size
            again.
        deadline_at: it is dropped if it still waits then; `inf` for never.
        service_s: how long answers of its model took in earlier lives, if that is known.
        pinned: its model is never evicted, nor unloaded for having idled.
        variants: the request where another bin's upstream is set up differently (its slots, its
            automatic context), with what it needs there; which bins can hold it is said here.
    """

    id: RequestId
    model: ModelKey
    name: str
    needs: Mapping[BinId, Need]
    arrived_at: float
    launch: Launch = field(default_factory=Launch)
    num_ctx: int | None = None
    named_ctx: int | None = None
    least_ctx: int | None = None
    exact: Exact | None = None
    batch_limit: int | None = None
    priority: Priority = Priority.NORMAL
    client: str = ""
    parallel: int = 1
    keep_alive_s: float | None = None
    default_keep_alive_s: float = 300.0
    accepted: bool = False
    deadline_at: float = math.inf
    service_s: float | None = field(default=None, compare=False)
    pinned: bool = False
    variants: Mapping[BinId, "Request"] = field(default_factory=dict, compare=False)

    def at(self, bin_id: BinId) -> "Request":
        """The same request as one bin's upstream sees it."""
        return self.variants.get(bin_id, self) if self.variants else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A place that can hold models: one card of one upstream, or its CPU.

    Attributes:
        capacity_bytes: the configured budget, all of it to be planned with; `None` where only
            readings tell. Until there is one of the two, the bin holds one model at a time.
        reserve_bytes: kept free of what a *reading* says; `None` for the larger of 1 GiB and 5 %.
        cpu: no card at all: Ollama makes no 80 % co-residency test here.
    """

    id: BinId
    upstream: str
    capacity_bytes: int | None = None
    reserve_bytes: int | None = None
    cpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One Ollama.

    Attributes:
        max_loaded: how many runners it keeps before it evicts by itself.
        outage_wait_s: how long a request waits for it while it does not answer.
        remembers_free: while a runner is on a card it takes for free what was so when that was
            loaded, less what it took (v0.32.15); if not, it looks at the card anew.
    """

    name: str
    max_loaded: int = 3
    outage_wait_s: float = 60.0
    remembers_free: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The scheduler's parameters. Times in seconds; triples are high, normal, low.

    Attributes:
        weights: what one second of waiting is worth.
        tau_s: patience: nobody is overdue before it ends.
        tau_cap_s: whoever has waited for so long is overdue, whatever the load.
        beta: patience stretches, up to `tau_cap_s`, to this times the work that waits before a
            newcomer of the class: an overloaded gate must not degenerate into first-come.
        kappa: quantum of a runner that still has waiting work, in units of the load times that
            replacing it costs; before that not even an overdue request takes its memory.
        kappa_hi: the same against a challenger of a higher class than anybody who waits for it.
        finish: a runner whose waiting work is shorter than so many such swaps may finish it, if
            nobody of a higher class wants its memory, ...
        stretch: ... within this times its quantum.
        k_load: so many other models may be loaded in a bin before an overdue request's.
        k_slot: so many others may start on a runner before an overdue request.
        aging: how much faster a second counts for one that has waited for as long as its patience.
        half_life_s: of the arrival rates.
        ewma_service: weight of the latest service time in the mean.
        ewma_load: weight of the latest load or unload time in the mean.
        first_service_s: service time of a model never served before.
        first_load_s: load time of one never loaded, and ...
        first_load_bytes_per_s: ... how fast its memory fills in addition.
        first_unload_s: unload time where none was seen.
        oom_growth: what a model is booked with after it ran out of memory, of what it was before.
        oom_tries: how often its load may run out of memory before its requests are refused.
        oom_backoff_s: the first and the longest pause before it is tried again; it doubles.
        queue_max_size: how many requests may wait.
        queue_max_wait_s: how long a request may wait, 0 for no limit.
        queue_max_per_client: how many of one client may, 0 for no limit of its own.
        max_concurrent: how many may run over all models, 0 for no limit of its own.
        keep_alive_s: how long a runner that the gate did not load may idle.
        recovery_s: how long memory is awaited after an unload before what is missing is booked
            as somebody else's (Ollama v0.32.15 waits as long).
        unread_recovery_s: how long it is awaited on a card that nobody reads.
        offload: what becomes of a model that Ollama put on the CPU in part.
        prewarm: whether a model's file is to be read ahead while it waits for its turn.
    """

    weights: tuple[float, float, float] = (36.0, 6.0, 1.0)
    tau_s: tuple[float, float, float] = (20.0, 120.0, 300.0)
    tau_cap_s: tuple[float, float, float] = (120.0, 600.0, 1800.0)
    beta: float = 1.0
    kappa: float = 6.0
    kappa_hi: float = 2.0
    finish: float = 2.0
    stretch: float = 2.0
    k_load: int = 3
    k_slot: int = 8
    aging: float = 1.0
    half_life_s: float = 120.0
    ewma_service: float = 0.2
    ewma_load: float = 0.3
    first_service_s: float = 4.0
    first_load_s: float = 1.2
    first_load_bytes_per_s: float = 3e9
    first_unload_s: float = 0.8
    oom_growth: float = 1.15
    oom_tries: int = 3
    oom_backoff_s: tuple[float, float] = (1.0, 8.0)
    queue_max_size: int = 1000
    queue_max_wait_s: float = 0.0
    queue_max_per_client: int = 0
    max_concurrent: int = 0
    keep_alive_s: float = 300.0
    recovery_s: float = 5.0
    unread_recovery_s: float = 0.0
    offload: Offload = Offload.AUTO
    prewarm: bool = False


class RunnerState(Enum):
    """Where a runner is in its life; memory is committed in every one of them."""

    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"
    """Asked to go, still listed by Ollama."""
    LEAVING = "leaving"
    """No longer listed; its memory has not been seen back yet."""


class Refusal(Enum):
    """Why a request is turned away."""

    QUEUE_FULL = "queue_full"
    CLIENT_FULL = "client_full"
    """One client has as many waiting as it may."""
    DEADLINE = "deadline"
    """It waited for longer than it, or the queue, allows."""
    LOAD_FAILED = "load_failed"
    NEVER_FITS = "never_fits"
    """Only where a model may not be on the CPU in part."""
    UPSTREAM_AWAY = "upstream_away"
    CANCELLED = "cancelled"
    SHUTTING_DOWN = "shutting_down"


class Cause(Enum):
    """Why a request waits."""

    UPSTREAM_AWAY = "upstream_away"
    SLOTS_FULL = "slots_full"
    """Its model is resident, and every slot is taken."""
    LIMIT = "limit"
    """As many are served, over all models, as may be."""
    PINNED = "pinned"
    """What never goes leaves no room for its model anywhere."""
    LOADING = "loading"
    """Its model is being loaded."""
    LOADER_BUSY = "loader_busy"
    """Another model is being loaded; an upstream loads one at a time."""
    MAKING_ROOM = "making_room"
    """It is next: victims finish, leave, or their memory is awaited."""
    BEHIND = "behind"
    """Another model is next."""
    NO_ROOM = "no_room"
    """What is resident is in use or wanted, and patience has not ended yet."""
    QUANTUM = "quantum"
    """It has waited for long enough, but what is resident has just begun its turn."""
    DRAINING = "draining"
    """Its model is resident, but makes room for somebody who waited too long."""
    BACKING_OFF = "backing_off"
    """Its model ran out of memory when it was loaded, and is tried again later."""
    LOOKING = "looking"
    """What is resident is being asked anew: Ollama may have evicted everything."""
    FOREIGN = "foreign"
    """Others use the memory that its model needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Where a waiting request stands.

    Attributes:
        position: 1 for the next in line, over all classes and models.
        behind: the models or requests that hold it up.
        until: when its cause ends by time alone, if it does.
        overdue: it may not be passed over for ever any more.
        overdue_at: when it will be, or would have been, as things are.
        overdue_latest_at: when it will be whatever comes.
        deadline_at: when it is dropped if it still waits; `inf` for never.
        ahead: how many start before it for its model, if nobody else comes.
        models_ahead: which models are loaded before its own, and their indices, by the estimate.
        client_waiting: how many of its client wait, it included.
        client_lead_s: how many more seconds of slots its client had than the one of its class
            that is served next.
        estimate_s: how long it will yet wait, by the estimate; `None` if nobody can tell.
    """

    request: Request
    position: int
    cause: Cause
    behind: tuple[str, ...]
    until: float | None
    overdue: bool = False
    overdue_at: float = math.inf
    overdue_latest_at: float = math.inf
    deadline_at: float = math.inf
    ahead: int = 0
    models_ahead: tuple[tuple[str, float], ...] = ()
    client_waiting: int = 1
    client_lead_s: float = 0.0
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerView:
    """One runner at the instant of a snapshot.

    Attributes:
        waiting: how many waiting requests it could serve.
        draining: serves nobody new: it makes room for somebody who waited too long, or is not
            as it should be.
        offload: the share of it that is on the CPU, 0 to 1.
        load_s: how long its load took.
    """

    bin: BinId
    model: ModelKey
    name: str
    state: RunnerState
    launch: Launch
    num_ctx: int | None
    footprint_bytes: int
    parallel: int
    running: tuple[RequestId, ...]
    waiting: int
    draining: bool
    offload: float
    idle_since: float | None
    expires_at: float | None
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BinView:
    """One bin's books at the instant of a snapshot.

    Attributes:
        capacity_bytes: what may be planned with, the reserve already taken off.
        live: whether readings arrive.
        target: the model that is next to be loaded.
        victims: the models that make room for it.
        for_request: whose turn it is.
        choice: why it is next, and why these go; `None` while the bin is merely kept for it.
        kept_until: when the next runner that stands in its way has had its turn, if time alone
            tells.
    """

    bin: Bin
    capacity_bytes: int | None
    foreign_bytes: int
    committed_bytes: int
    free_bytes: int | None
    available: bool
    live: bool
    target: str | None
    victims: tuple[str, ...]
    for_request: RequestId | None = None
    choice: "Choice | None" = None
    kept_until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a person may want to know, at one instant.

    Attributes:
        newcomer_s: how long one would wait, of each class, who comes now; `None` if nobody can
            tell.
    """

    now: float
    bins: tuple[BinView, ...]
    runners: tuple[RunnerView, ...]
    waiting: tuple[Waiting, ...]
    running: tuple[tuple[Request, BinId], ...]
    closing: bool
    newcomer_s: tuple[float | None, float | None, float | None] = (None, None, None)
