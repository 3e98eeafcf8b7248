"""The lines of a trace, as records. Sizes in bytes; times in Unix seconds, lengths in seconds.

A file is a number of *lives*: each time the gate starts, a `Began` says what there is, and the
lines after it refer to that.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

VERSION: Final = 1
"""Of the file's form; a reader refuses a larger one."""

Class = Literal["high", "normal", "low"]
Outcome = Literal["served", "cut", "left", "withdrawn", "refused"]
"""`cut`: it had its slot, and its answer did not end by itself; `left`: its client went before."""


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", omit_defaults=True):
    """Any line."""


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bin.

    Attributes:
        capacity_bytes: the configured budget; `None` where only readings tell.
        reserve_bytes: kept free of what a reading says; `None` for the larger of 1 GiB and 5 %.
    """

    bin: str
    upstream: str
    capacity_bytes: int | None = None
    reserve_bytes: int | None = None
    cpu: bool = False
    max_loaded: int = 3


class Began(Line, frozen=True, kw_only=True, tag="began"):
    """The gate started.

    Attributes:
        policy: the scheduler's parameters, by their names in `scheduler.types.Policy`.
    """

    version: int
    at: float
    bins: tuple[Place, ...]
    policy: Mapping[str, Any]


class Card(Line, frozen=True, kw_only=True, tag="card"):
    """A reading of a bin, when it says something else than the one before.

    Attributes:
        foreign_bytes: what of it is used by others.
    """

    at: float
    bin: str
    total_bytes: int
    foreign_bytes: int


class Takes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model's runner is booked with in one bin.

    Attributes:
        predicted_bytes: what Ollama compares with 80 % of the free memory.
        load_s: how long its loads took in earlier lives, if that is known.
        parallel: how many requests one runner may serve at once.
    """

    footprint_bytes: int
    predicted_bytes: int
    load_s: float | None = None
    parallel: int = 1


class Kind(Line, frozen=True, kw_only=True, tag="kind"):
    """Requests that are alike to the scheduler; each names its kind by `number`.

    Attributes:
        model: identity of what occupies memory; `name` is what clients call it.
        takes: by bin: where it can be, and what it would take there.
        num_ctx: the context of one slot.
        service_s: how long its answers took in earlier lives, if that is known.
    """

    number: int
    model: str
    name: str
    takes: Mapping[str, Takes]
    num_ctx: int | None = None
    service_s: float | None = None
    pinned: bool = False


class Asked(Line, frozen=True, kw_only=True, tag="request"):
    """A request that is over. One that was tried again has two lines; the later one counts.

    Attributes:
        at: when it arrived.
        kind: see `Kind`.
        client: a pseudonym, the same one for the same client.
        waited_s: for its slot, or in vain.
        ran_s: how long it had it; `None` if never.
        reason: why it was refused.
        deadline_s: how long after its arrival it is of no use; `None` if always.
    """

    id: str
    at: float
    kind: int
    priority: Class
    outcome: Outcome
    waited_s: float
    client: str = ""
    ran_s: float | None = None
    bin: str | None = None
    reason: str | None = None
    deadline_s: float | None = None


class LoadLine(Line, frozen=True, kw_only=True, tag="load"):
    """A load that is over; `at` is when it was ordered."""

    at: float
    bin: str
    model: str
    took_s: float
    ok: bool = True


class UnloadLine(Line, frozen=True, kw_only=True, tag="unload"):
    """An unload that is over and was seen to be; `at` is when it was ordered."""

    at: float
    bin: str
    model: str
    took_s: float


AnyLine = Began | Card | Kind | Asked | LoadLine | UnloadLine
