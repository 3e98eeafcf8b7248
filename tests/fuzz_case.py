"""What happens to a scheduler, as data: a set-up, and stimuli that can be left out one by one.

A stimulus that makes no sense when its time comes (somebody gives up who is over already) does
nothing, so that every part of a history is a history. Sizes are GiB, times seconds, and nothing
is drawn here: the same case always comes to the same.
"""

from dataclasses import dataclass

from ollama_gate.scheduler.types import Priority

AUTO_CTX, WIDE_CTX, NARROW_CTX = 4096, 8192, 2048

KINDS = ("plain", "wide", "cpu", "narrow")
"""Which options a request names: none; more context; no layer on a card; a smaller context that
it can do without, so that a larger one serves it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model: what is thought that it takes, what it really takes, how long its load takes.

    `predicted` is the share of it by which Ollama goes, `bin` the only one that has its file;
    `None` if all have.
    """

    name: str
    size: float = 4.0
    real: float = 4.0
    load_s: float = 2.0
    predicted: float = 0.5
    bin: int | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is there before anything happens.

    Attributes:
        capacity: the configured budget of each bin; `None` where only readings tell.
        bins: each bin and its upstream.
        total: what each card has.
        read_every_s: how often a card is read; 0 for never.
        returns_s: how long after its process memory is given back.
        policy: what differs from the defaults.
    """

    capacity: float | None = 24.0
    max_loaded: int = 3
    bins: tuple[tuple[str, str], ...] = (("u/0", "u"),)
    models: tuple[Model, ...] = (Model(name="a"),)
    parallel: int = 1
    total: float = 24.0
    read_every_s: float = 0.0
    look_every_s: float = 5.0
    unload_s: float = 0.5
    returns_s: float = 0.0
    policy: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrive:
    """A request; it may give up while it waits, or have a deadline."""

    at: float
    number: int
    model: int = 0
    priority: Priority = Priority.NORMAL
    client: str = ""
    kind: str = "plain"
    service_s: float = 1.0
    keep_alive_s: float | None = None
    deadline_s: float | None = None
    give_up_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """So many clients that come again as soon as they are served, and give up when impatient."""

    at: float
    number: int
    model: int = 0
    clients: int = 4
    priority: Priority = Priority.HIGH
    service_s: float = 1.0
    until: float = 60.0
    give_up_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resurrect:
    """Whenever a runner is drained somebody wants its model, a limited number of times."""

    at: float
    number: int
    until: float = 60.0
    times: int = 10
    priority: Priority = Priority.HIGH


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """One client goes, or somebody cancels its request for it."""

    at: float
    number: int
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Everybody who waits for a model goes."""

    at: float
    model: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """Others now use so much of a card, if there is so much."""

    at: float
    bin: int = 0
    size: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """A card is not read for a while."""

    at: float
    bin: int = 0
    for_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """An upstream goes down, and everything in it; later it comes back."""

    at: float
    bin: int = 0
    for_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoil:
    """The next load of a model ends badly: `oom`, `failed` or `interrupted`."""

    at: float
    model: int = 0
    how: str = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanish:
    """A model goes behind the gate's back; with `crash` what it serves is told so."""

    at: float
    model: int = 0
    crash: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Appear:
    """A model is loaded behind the gate's back, if there is room."""

    at: float
    model: int = 0
    bin: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A client asks for a model to be unloaded."""

    at: float
    model: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """The gate shuts down."""

    at: float


Stimulus = (
    Arrive
    | Flood
    | Resurrect
    | GiveUp
    | Storm
    | Foreign
    | Blind
    | Outage
    | Spoil
    | Vanish
    | Appear
    | Release
    | Close
)

FAULTS = (Foreign, Blind, Outage, Spoil, Vanish, Appear, Close)
"""After these waiting may have another cause than the scheduler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One history."""

    setup: Setup
    stimuli: tuple[Stimulus, ...]

    @property
    def calm(self) -> bool:
        """Whether nobody but clients does anything, and every load goes well."""
        fits = all(model.real <= model.size for model in self.setup.models)
        return fits and not any(isinstance(stimulus, FAULTS) for stimulus in self.stimuli)
