"""The scheduler's snapshot as JSON: what `/gate/status` and `/gate/requests/{id}` answer.

Times are given as lengths from the instant of the snapshot, since the scheduler's clock means
nothing outside. Nothing is worked out here that the scheduler did not say.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from ollama_gate.ledger import Counts, Ledger
from ollama_gate.outlook import Outlook, Size
from ollama_gate.scheduler.commands import Choice, Cost
from ollama_gate.scheduler.types import (
    BinView,
    Launch,
    ModelKey,
    Priority,
    Request,
    RunnerState,
    RunnerView,
    Snapshot,
    Waiting,
)

Json = dict[str, Any]

_UNKNOWN: Final[Mapping[str, Any]] = dict.fromkeys(
    ("num_ctx", "footprint_bytes", "source", "error")
)

_ELSEWHERE: Final[Mapping[str, Any]] = {**_UNKNOWN, "footprint_bytes": 0}
"""What runs in the cloud takes nothing here."""


def whole(
    view: Snapshot,
    *,
    version: str,
    readings: Mapping[str, Json],
    decisions: list[Json],
    upstreams: Sequence[Json] = (),
    models: Iterable[tuple[str, Iterable[Outlook]]] = (),
) -> Json:
    """Everything, for `/gate/status`.

    Args:
        view: the scheduler's snapshot.
        version: of the gate.
        readings: for each bin with a card, the last reading, its source and its age.
        decisions: the last ones, newest first.
        upstreams: who is asked, in order of precedence.
        models: every one that an upstream lists, by the upstream's name, in the same order.
    """
    resident = {one.model for one in view.runners if one.state is RunnerState.RESIDENT}
    return {
        "version": version,
        "closing": view.closing,
        "upstreams": list(upstreams),
        "bins": [_bin(one, readings.get(one.bin.id), view.now) for one in view.bins],
        "runners": [runner(one, view.now) for one in view.runners],
        "queue": {
            "waiting": len(view.waiting),
            "running": len(view.running),
            "by_priority": _by_priority(one.request for one in view.waiting),
            "newcomer_estimated_wait_s": {
                priority.name.lower(): _rounded(view.newcomer_s[priority]) for priority in Priority
            },
        },
        "waiting": [waiting(one, view.now) for one in view.waiting],
        "running": [
            {**_request(request, view.now), "bin": bin_id} for request, bin_id in view.running
        ],
        "decisions": decisions,
        "models": [model(one, where, resident) for one, where in _gathered(models)],
    }


def traffic(ledgers: Mapping[str, Ledger]) -> dict[str, Json]:
    """What became of loads and unloads, by upstream: all of them, and those of each model."""
    return {
        upstream: {
            **_counts(ledger.total),
            "models": [
                {"model": account.name, "key": key, **_counts(account.counts)}
                for key, account in ledger.models.items()
            ],
        }
        for upstream, ledger in ledgers.items()
    }


def _counts(counts: Counts) -> Json:
    return {"loads": asdict(counts.loads), "unloads": asdict(counts.unloads)}


def _gathered(models: Iterable[tuple[str, Iterable[Outlook]]]) -> list[tuple[Outlook, list[str]]]:
    """Each model once, with who has it, by name; what a name means first goes first."""
    found: dict[tuple[str, str], tuple[Outlook, list[str]]] = {}
    for upstream, outlooks in models:
        for one in outlooks:
            found.setdefault((one.name, one.digest), (one, []))[1].append(upstream)
    return sorted(found.values(), key=lambda entry: entry[0].name)


def model(one: Outlook, upstreams: Sequence[str], resident: Container[ModelKey]) -> Json:
    """One model, resident or not; what is not known yet is `null`.

    Args:
        one: as the first upstream knows it that has it.
        upstreams: who has it.
        resident: what is, anywhere.
    """
    facts = one.facts
    return {
        "model": one.name,
        "upstreams": list(upstreams),
        "key": None if facts is None else facts.key,
        "digest": one.digest,
        "disk_bytes": one.disk_bytes,
        "remote": None if facts is None else facts.remote,
        # An old Ollama tells of none.
        "capabilities": (sorted(facts.capabilities) if facts else None) or None,
        "context_length": None if facts is None else facts.context_length,
        **_automatic(one),
        "footprints": [_size(size) for size in one.sizes],
        "resident": facts is not None and facts.key in resident,
        "load_s": _rounded(one.times.load_s),
        "unload_s": _rounded(one.times.unload_s),
        "service_s": _rounded(one.times.service_s),
        "problem": one.problem or None,
    }


def _automatic(one: Outlook) -> Mapping[str, Any]:
    if one.automatic is not None:
        return _size(one.automatic)
    return _ELSEWHERE if one.facts is not None and one.facts.remote else _UNKNOWN


def _size(size: Size) -> Json:
    return {
        "num_ctx": size.num_ctx,
        "footprint_bytes": size.footprint_bytes,
        "source": size.source,
        "error": _rounded(size.error),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def waiting(one: Waiting, now: float) -> Json:
    """Where a waiting request stands, and behind what."""
    return {
        **_request(one.request, now),
        "state": "waiting",
        "position": one.position,
        "cause": one.cause.value,
        "behind": list(one.behind),
        "ends_by_itself_in_s": None if one.until is None else _ahead(one.until, now),
        "estimated_wait_s": _rounded(one.estimate_s),
        "ahead": one.ahead,
        "models_ahead": [
            {"model": name, "index": _rounded(index)} for name, index in one.models_ahead
        ],
        "overdue": one.overdue,
        "overdue_in_s": _ahead(one.overdue_at, now),
        "overdue_latest_in_s": _ahead(one.overdue_latest_at, now),
        "deadline_in_s": _ahead(one.deadline_at, now),
        "client_waiting": one.client_waiting,
        "client_lead_s": _rounded(one.client_lead_s),
    }


def choice(one: Choice) -> Json:
    """Why a model is next, and why its victims go."""
    return {
        "index": _rounded(one.index),
        "work": _rounded(one.work),
        "waiting": one.waiting,
        "visit_s": _rounded(one.visit_s),
        "drain_s": _rounded(one.drain_s),
        "reload_s": _rounded(one.reload_s),
        "overdue": one.overdue,
        "reserved": one.reserved,
        "passed_over": one.passed_over,
        "rivals": [{"model": name, "index": _rounded(index)} for name, index in one.rivals],
        "victims": [cost(each) for each in one.victims],
    }


def cost(one: Cost) -> Json:
    """What it costs to evict a model, in weighted seconds of waiting, part by part."""
    return {
        "model": one.name,
        "total": _rounded(one.total),
        "waiting": one.waiting,
        "known": _rounded(one.known),
        "predicted": _rounded(one.predicted),
        "behind": _rounded(one.behind),
        "reload_s": _rounded(one.reload_s),
        "drain_s": _rounded(one.drain_s),
        "rate_per_s": _rounded(one.rate_per_s),
    }


def runner(one: RunnerView, now: float) -> Json:
    """One runner."""
    return {
        "model": one.name,
        "key": one.model,
        "bin": one.bin,
        "state": one.state.value,
        "num_ctx": one.num_ctx,
        "options": _given(one.launch),
        "footprint_bytes": one.footprint_bytes,
        "parallel": one.parallel,
        "running": list(one.running),
        "waiting": one.waiting,
        "draining": one.draining,
        "offload": round(one.offload, 2),
        "idle_s": None if one.idle_since is None else round(now - one.idle_since, 3),
        "expires_in_s": None if one.expires_at is None else _ahead(one.expires_at, now),
        "load_s": round(one.load_s, 3),
    }


def _bin(one: BinView, reading: Json | None, now: float) -> Json:
    return {
        "id": one.bin.id,
        "upstream": one.bin.upstream,
        "available": one.available,
        "capacity_bytes": one.capacity_bytes,
        "foreign_bytes": one.foreign_bytes,
        "committed_bytes": one.committed_bytes,
        "free_bytes": one.free_bytes,
        "live": one.live,
        "next": one.target,
        "victims": list(one.victims),
        "next_for": one.for_request,
        "next_why": None if one.choice is None else choice(one.choice),
        "kept_until_in_s": None if one.kept_until is None else _ahead(one.kept_until, now),
        "reading": reading,
    }


def _request(request: Request, now: float) -> Json:
    return {
        "id": request.id,
        "model": request.name,
        "priority": request.priority.name.lower(),
        "client": request.client,
        "age_s": round(now - request.arrived_at, 3),
        "options": _given(request.launch),
    }


def _by_priority(requests: Iterable[Request]) -> dict[str, int]:
    counts = {"high": 0, "normal": 0, "low": 0}
    for request in requests:
        counts[request.priority.name.lower()] += 1
    return counts


def _given(launch: Launch) -> Json:
    return {name: value for name, value in asdict(launch).items() if value not in {None, ()}}


def _ahead(at: float, now: float) -> float | None:
    """JSON has no infinity: `None` is for ever."""
    return None if math.isinf(at) else round(max(0.0, at - now), 3)
