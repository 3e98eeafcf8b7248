"""A trace as a workload of the discrete-event world, and as the run that it was.

What was measured under load is freed from it first: an answer that shared its runner with three
others is given the work that takes as long in the world's own terms, so that replaying a trace as
it was comes to about what it was. What a trace cannot say is guessed, and each guess is one line
of `docs/replay.md`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ollama_gate.errors import TraceError
from ollama_gate.replay.shared import Answer, works_s
from ollama_gate.scheduler.types import BinId, Policy, Priority
from ollama_gate.simulator.discrete.cards import Outcome
from ollama_gate.simulator.discrete.result import Counts, LoadRecord, Record, Result
from ollama_gate.simulator.discrete.workload import (
    Arrival,
    CardSpec,
    ModelSpec,
    UpstreamSpec,
    Workload,
)
from ollama_gate.trace import Life, Trace, lines

RESERVE_SHARE: Final = 0.05
LEAST_RESERVE_BYTES: Final = 2**30
"""What of a reading is never planned with, unless something else is configured."""

WEIGHTS_SHARE: Final = 0.85
"""How much of a runner's memory is read from disk: its weights, without cache and buffers."""

START_S: Final = 1.0
"""How much of a load is spent on something else, where loads take longer than twice that."""

UNKNOWN_LOAD_BYTES_PER_S: Final = 3e9
UNKNOWN_UNLOAD_S: Final = 0.8
UNKNOWN_WORK_S: Final = 4.0
"""Of models that were never seen to be loaded, unloaded, or to answer."""

RECORDED: Final = "recorded"

_OUTCOMES: Final[Mapping[lines.Outcome, Outcome]] = {
    "served": Outcome.SERVED,
    "cut": Outcome.CUT,
    "left": Outcome.GAVE_UP,
    "withdrawn": Outcome.GAVE_UP,
    "refused": Outcome.REFUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What a trace says.

    Attributes:
        workload: who came, and what there was to serve them with.
        recorded: what became of them then.
        policy: the parameters that the gate had in its last life.
    """

    workload: Workload
    recorded: Result
    policy: Policy


def traced(trace: Trace, name: str) -> Traced:
    """Make a workload of a trace.

    Raises:
        TraceError: it does not say how much memory there is.
    """
    began_at = min(line.at for life in trace.lives for line in life.requests.values())
    names = _names(trace)
    arrivals: list[Arrival] = []
    records: list[Record] = []
    for life in trace.lives:
        works = _works_s(life)
        means = _mean_by_model(life, works)
        for line in sorted(life.requests.values(), key=lambda each: each.at):
            model = names[life.kinds[line.kind].model]
            work_s = works.get(line.id, means.get(model, means.get("", UNKNOWN_WORK_S)))
            arrivals.append(_arrival(line, model, work_s, began_at))
            records.append(_record(len(records), line, model, work_s, began_at))
    workload = Workload(
        name=name,
        models=tuple(_models(trace, names)),
        arrivals=tuple(arrivals),
        upstreams=_upstreams(trace.lives, began_at),
    )
    return Traced(
        workload=workload,
        recorded=_result(name, records, trace, names, began_at),
        policy=_policy(trace.lives[-1].began.policy),
    )


def _policy(given: Mapping[str, Any]) -> Policy:
    """The parameters, without those that this version does not know."""
    known = {name: value for name, value in given.items() if value is not None}
    if "keep_alive_s" in given and given["keep_alive_s"] is None:
        # JSON has no infinity.
        known["keep_alive_s"] = math.inf
    try:
        return msgspec.convert(known, Policy)
    except msgspec.ValidationError as error:
        raise TraceError(f"the policy of its last `began`: {error}") from None


def _names(trace: Trace) -> dict[str, str]:
    """What each model is called, by its identity; two of one name are told apart."""
    called: dict[str, str] = {}
    for life in trace.lives:
        called.update((kind.model, kind.name) for kind in life.kinds.values())
    taken: dict[str, int] = defaultdict(int)
    for name in called.values():
        taken[name] += 1
    return {
        model: name if taken[name] == 1 else f"{name}@{model.removeprefix('sha256')[1:9]}"
        for model, name in called.items()
    }


# -------------------------------------------------------------------- requests


def _works_s(life: Life) -> dict[str, float]:
    """How much work each answer was, by its request."""
    answers = [
        Answer(
            id=line.id,
            place=line.bin,
            model=life.kinds[line.kind].model,
            began_at=line.at + line.waited_s,
            ended_at=line.at + line.waited_s + line.ran_s,
        )
        for line in life.requests.values()
        if line.ran_s is not None and line.bin is not None
    ]
    loads = [(line.bin, line.at, line.at + line.took_s) for line in life.loads]
    return works_s(answers, loads)


def _mean_by_model(life: Life, works: Mapping[str, float]) -> dict[str, float]:
    """The mean work of each model's answers, and under no name that of all."""
    names = _names(Trace((life,)))
    found: dict[str, list[float]] = defaultdict(list)
    for line in life.requests.values():
        if line.outcome == "served" and line.id in works:
            found[names[life.kinds[line.kind].model]].append(works[line.id])
            found[""].append(works[line.id])
    return {model: sum(each) / len(each) for model, each in found.items()}


def _arrival(line: lines.Asked, model: str, work_s: float, began_at: float) -> Arrival:
    gave_up = line.outcome in {"left", "withdrawn"}
    return Arrival(
        at_s=line.at - began_at,
        model=model,
        work_s=work_s,
        priority=Priority[line.priority.upper()],
        client=line.client,
        deadline_s=math.inf if line.deadline_s is None else line.deadline_s,
        patience_s=line.waited_s if gave_up else math.inf,
    )


def _record(number: int, line: lines.Asked, model: str, work_s: float, began_at: float) -> Record:
    arrived_at = line.at - began_at
    started_at = None if line.ran_s is None else arrived_at + line.waited_s
    return Record(
        number=number,
        model=model,
        priority=Priority[line.priority.upper()],
        client=line.client,
        work_s=work_s,
        arrived_at=arrived_at,
        started_at=started_at,
        ended_at=arrived_at + line.waited_s + (line.ran_s or 0.0),
        outcome=_OUTCOMES[line.outcome],
        bin=None if line.bin is None else BinId(line.bin),
        why=line.reason or "",
    )


def _result(
    name: str, records: Sequence[Record], trace: Trace, names: Mapping[str, str], began_at: float
) -> Result:
    loads = tuple(
        LoadRecord(
            bin=BinId(line.bin),
            model=names.get(line.model, line.model),
            began_at=line.at - began_at,
            ended_at=line.at - began_at + line.took_s,
            ok=line.ok,
        )
        for life in trace.lives
        for line in life.loads
    )
    return Result(
        workload=name,
        seed=0,
        contender=RECORDED,
        records=tuple(records),
        loads=loads,
        counts=Counts(loads=len(loads), unloads=sum(len(life.unloads) for life in trace.lives)),
        ended_at=max(record.ended_at for record in records),
        events=0,
    )


# -------------------------------------------------------------------- models


def _models(trace: Trace, names: Mapping[str, str]) -> Iterator[ModelSpec]:
    kinds: dict[str, list[lines.Kind]] = defaultdict(list)
    load_times: dict[str, list[float]] = defaultdict(list)
    unload_times: dict[str, list[float]] = defaultdict(list)
    for life in trace.lives:
        for kind in life.kinds.values():
            kinds[kind.model].append(kind)
        for load in life.loads:
            if load.ok:
                load_times[load.model].append(load.took_s)
        for unload in life.unloads:
            unload_times[unload.model].append(unload.took_s)
    everywhere = {place.upstream for place in trace.lives[-1].began.bins}
    for model, alike in kinds.items():
        spec = _model(names[model], alike, load_times[model], unload_times[model])
        there = {bin_id.rpartition("/")[0] for kind in alike for bin_id in kind.takes}
        yield spec if there >= everywhere else replace(spec, upstreams=frozenset(there))


def _model(
    name: str,
    alike: Sequence[lines.Kind],
    load_times: Sequence[float],
    unload_times: Sequence[float],
) -> ModelSpec:
    """With the largest context that anybody asked it for."""
    takes = max(
        (each for kind in alike for each in kind.takes.values()), key=lambda t: t.footprint_bytes
    )
    weights = round(takes.footprint_bytes * WEIGHTS_SHARE)
    known_s = _mean(load_times) or takes.load_s
    load_s = known_s or START_S + weights / UNKNOWN_LOAD_BYTES_PER_S
    start_s = min(START_S, load_s / 2)
    return ModelSpec(
        name=name,
        footprint_bytes=takes.footprint_bytes,
        predicted_bytes=takes.predicted_bytes,
        weights_bytes=weights,
        start_s=start_s,
        read_bytes_per_s=weights / (load_s - start_s),
        unload_s=_mean(unload_times) or UNKNOWN_UNLOAD_S,
        parallel=max(each.parallel for kind in alike for each in kind.takes.values()),
        pinned=any(kind.pinned for kind in alike),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


# -------------------------------------------------------------------- cards


def _upstreams(lives: Sequence[Life], began_at: float) -> tuple[UpstreamSpec, ...]:
    """Those of the last life, with what others used of their cards in all of them."""
    places: dict[str, list[lines.Place]] = defaultdict(list)
    for place in lives[-1].began.bins:
        places[place.upstream].append(place)
    cards = [card for life in lives for card in life.cards]
    return tuple(
        UpstreamSpec(
            name=name,
            cards=tuple(_card(place, cards, began_at) for place in there),
            max_loaded=there[0].max_loaded,
        )
        for name, there in places.items()
    )


def _card(place: lines.Place, cards: Iterable[lines.Card], began_at: float) -> CardSpec:
    readings = [card for card in cards if card.bin == place.bin]
    foreign = tuple((max(0.0, card.at - began_at), card.foreign_bytes) for card in readings)
    if place.capacity_bytes is not None:
        return CardSpec(total_bytes=place.capacity_bytes, reserve_bytes=0, foreign=foreign)
    if not readings:
        raise TraceError(f"it does not say how large {place.bin} is: give --vram")
    total = readings[-1].total_bytes
    reserve = max(LEAST_RESERVE_BYTES, round(total * RESERVE_SHARE))
    if place.reserve_bytes is not None:
        reserve = place.reserve_bytes
    return CardSpec(total_bytes=total, reserve_bytes=reserve, foreign=foreign)
