"""A stage for stories about the scheduler: events in few words, commands to compare with `==`.

Sizes are GiB. The bin is `u/0`, the upstream `u`, unless a story says otherwise. Models `a` and
`b` do not fit together into the usual 24 GiB, the small `c`, `d` and `e` all do.
"""

import math
from collections.abc import Mapping
from typing import Any

from ollama_gate.scheduler import Machine, snapshot
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import (
    Broken,
    Command,
    Evicted,
    Expired,
    Forward,
    Load,
    Offloaded,
    Refuse,
    Unload,
    Warn,
)
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Policy,
    Priority,
    Refusal,
    Request,
    RequestId,
    Snapshot,
    Upstream,
)

GIB = 2**30
HIGH, NORMAL, LOW = Priority
SIZES = {"a": 16.0, "b": 16.0, "c": 4.0, "d": 4.0, "e": 4.0, "huge": 40.0}


def gib(size: float) -> int:
    return int(size * GIB)


def a_request(
    request_id: str,
    model: str,
    at: float = 0.0,
    *,
    size: float | None = None,
    predicted: float | None = None,
    bins: tuple[str, ...] = ("u/0",),
    **more: Any,
) -> Request:
    """A request; what Ollama predicts is half of the footprint unless the story says otherwise."""
    size = SIZES[model] if size is None else size
    need = Need(
        footprint_bytes=gib(size),
        predicted_bytes=gib(size / 2 if predicted is None else predicted),
    )
    given: dict[str, Any] = {
        "name": model,
        "num_ctx": 4096,
        "needs": dict.fromkeys(bins, need),
        "arrived_at": at,
    }
    return Request(id=RequestId(request_id), model=ModelKey(model), **{**given, **more})


def a_resident(
    model: str,
    *,
    bin: str = "u/0",  # noqa: A002  # reads as the field it fills
    size: float | None = None,
    whole: float | None = None,
    pinned: bool = False,
) -> ev.Resident:
    size = SIZES[model] if size is None else size
    return ev.Resident(
        bin=BinId(bin),
        model=ModelKey(model),
        name=model,
        launch=Launch(),
        footprint_bytes=gib(size),
        reported_bytes=gib(size),
        num_ctx=4096,
        size_bytes=None if whole is None else gib(whole),
        pinned=pinned,
    )


class Play:
    """A scheduler and whoever talks to it. Every method hands over one event."""

    def __init__(
        self,
        *,
        capacity: float | None = 24.0,
        max_loaded: int = 3,
        cpu: bool = False,
        bins: Mapping[str, str] | None = None,
        heard: bool = True,
        remembers_free: bool = True,
        **policy: Any,
    ) -> None:
        where = {"u/0": "u"} if bins is None else bins
        budget = None if capacity is None else gib(capacity)
        self.machine = Machine(
            upstreams=[
                Upstream(name=name, max_loaded=max_loaded, remembers_free=remembers_free)
                for name in sorted(set(where.values()))
            ],
            bins=[
                Bin(id=BinId(bin_), upstream=name, capacity_bytes=budget, cpu=cpu)
                for bin_, name in where.items()
            ],
            policy=Policy(**policy),
            now=0.0,
        )
        if heard:
            for name in sorted(set(where.values())):
                assert self.sees(0.0, upstream=name) == []

    def tell(self, at: float, event: ev.Event) -> list[Command]:
        return self.machine.handle(event, at)

    def arrives(self, at: float, request_id: str, model: str, **more: Any) -> list[Command]:
        return self.tell(at, ev.Arrived(request=a_request(request_id, model, at, **more)))

    def leaves(self, at: float, request_id: str, *, completed: bool = True) -> list[Command]:
        return self.tell(at, ev.Left(id=RequestId(request_id), completed=completed))

    def cancelled(self, at: float, request_id: str) -> list[Command]:
        return self.tell(at, ev.Cancelled(id=RequestId(request_id)))

    def released(self, at: float, model: str) -> list[Command]:
        return self.tell(at, ev.Released(model=ModelKey(model)))

    def loaded(self, at: float, model: str, where: str = "u/0", **told: Any) -> list[Command]:
        outcome = ev.Loaded(**told)
        return self.tell(at, ev.LoadEnded(bin=BinId(where), model=ModelKey(model), outcome=outcome))

    def load_fails(
        self, at: float, model: str, text: str, *, status: int = 500, oom: bool = False
    ) -> list[Command]:
        outcome = ev.LoadFailed(status=status, text=text, oom=oom)
        return self.tell(at, ev.LoadEnded(bin=BinId("u/0"), model=ModelKey(model), outcome=outcome))

    def load_cut_short(self, at: float, model: str) -> list[Command]:
        return self.tell(
            at, ev.LoadEnded(bin=BinId("u/0"), model=ModelKey(model), outcome=ev.Interrupted())
        )

    def unloaded(
        self, at: float, model: str, where: str = "u/0", *, gone: bool = True
    ) -> list[Command]:
        return self.tell(at, ev.UnloadEnded(bin=BinId(where), model=ModelKey(model), gone=gone))

    def reads(self, at: float, used: float, *, total: float = 24.0) -> list[Command]:
        return self.tell(
            at,
            ev.Measured(bin=BinId("u/0"), total_bytes=gib(total), used_bytes=gib(used)),
        )

    def sees(
        self, at: float, *residents: ev.Resident, asked: float | None = None, upstream: str = "u"
    ) -> list[Command]:
        asked_at = at if asked is None else asked
        return self.tell(at, ev.Observed(upstream=upstream, residents=residents, asked_at=asked_at))

    def reading_lost(self, at: float) -> list[Command]:
        return self.tell(at, ev.ReadingLost(bin=BinId("u/0")))

    def runner_died(self, at: float, request_id: str, *, oom: bool = False) -> list[Command]:
        return self.tell(at, ev.RunnerDied(id=RequestId(request_id), oom=oom))

    def loses(self, at: float, upstream: str = "u") -> list[Command]:
        return self.tell(at, ev.UpstreamLost(upstream=upstream))

    def ticks(self, at: float) -> list[Command]:
        return self.tell(at, ev.Ticked())

    def closes(self, at: float) -> list[Command]:
        return self.tell(at, ev.Closing())

    def snapshot(self) -> Snapshot:
        return snapshot(self.machine)

    def wakes_at(self) -> float | None:
        return self.machine.next_wakeup()

    def drains_at(self) -> float | None:
        """When time alone makes it drain somebody; it looks before that, and to no avail."""
        while (at := self.wakes_at()) is not None:
            assert self.ticks(at) == []
            if any(bin_.victims for bin_ in self.snapshot().bins):
                break
        return at


def a_plain_play(**more: Any) -> Play:
    """A scheduler whose sums are easily done.

    A load takes 2 s, an unload 1 s and an answer 4 s until more is known; nobody is expected to
    come, age counts for nothing, and patience does not stretch.
    """
    plain = {
        "first_load_s": 2.0,
        "first_load_bytes_per_s": math.inf,
        "first_unload_s": 1.0,
        "half_life_s": math.inf,
        "aging": 0.0,
        "beta": 0.0,
        "max_loaded": 9,
    }
    return Play(**{**plain, **more})


def load(
    model: str,
    request_id: str,
    *,
    free: float | None = 24.0,
    alone: bool = True,
    waited: float = 0.0,
    size: float | None = None,
    name: str | None = None,
    launch: Launch | None = None,
    where: str = "u/0",
    missing: float = 0.0,
) -> Load:
    return Load(
        bin=BinId(where),
        model=ModelKey(model),
        name=name or model,
        launch=launch or Launch(),
        footprint_bytes=gib(SIZES[model] if size is None else size),
        free_bytes=None if free is None else gib(free),
        alone=alone,
        for_request=RequestId(request_id),
        waited_s=waited,
        missing_bytes=gib(missing),
    )


def evict(
    model: str,
    for_model: str,
    shortfall: str,
    *,
    idle: float = 0.0,
    where: str = "u/0",
    name: str | None = None,
) -> Unload:
    return Unload(
        bin=BinId(where),
        model=ModelKey(model),
        name=name or model,
        reason=Evicted(for_model=for_model, shortfall=shortfall, idle_s=idle),
    )


def expire(model: str, *, idle: float, keep_alive: float) -> Unload:
    reason = Expired(idle_s=idle, keep_alive_s=keep_alive)
    return Unload(bin=BinId("u/0"), model=ModelKey(model), name=model, reason=reason)


def let_go(model: str, reason: Offloaded | Broken) -> Unload:
    return Unload(bin=BinId("u/0"), model=ModelKey(model), name=model, reason=reason)


def warn(model: str, share: float, wanted: float, there: float | None) -> Warn:
    return Warn(
        bin=BinId("u/0"),
        model=ModelKey(model),
        name=model,
        share=share,
        wanted_bytes=gib(wanted),
        there_bytes=None if there is None else gib(there),
    )


def forward(
    request_id: str, queued: float = 0.0, where: str = "u/0", *, offload: float = 0.0
) -> Forward:
    return Forward(id=RequestId(request_id), bin=BinId(where), queued_s=queued, offload=offload)


def refuse(request_id: str, reason: Refusal, **more: Any) -> Refuse:
    return Refuse(id=RequestId(request_id), reason=reason, **more)
