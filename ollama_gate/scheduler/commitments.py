"""Whether what was decided still holds: a bin keeps to its plan until its reason ends.

Nothing is decided here that was not decided before.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ollama_gate.scheduler.eviction import without_spare
from ollama_gate.scheduler.fitting import Shortfall
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.room import is_free, lacking, stays
from ollama_gate.scheduler.serving import would_share
from ollama_gate.scheduler.state import Held, Plan, State
from ollama_gate.scheduler.types import BinId, Request


def kept(state: State) -> Iterable[tuple[BinId, Plan | Held]]:
    """The plans that still hold, without victims that they need no more."""
    before = state.plans
    for bin_id, plan in before.items():
        if isinstance(plan, Plan):
            still = _still(state, plan, state.books[bin_id])
            if still is not None:
                yield bin_id, still


def _still(state: State, plan: Plan, books: Books) -> Plan | None:
    request = _heir(state, plan.request, books)
    if request is None or not state.is_open(books.bin):
        return None
    staying = [r for r in state.staying(books.bin) if r in plan.victims or stays(state, r)]
    remaining = [runner for runner in plan.victims if runner in staying]
    if any(r.model == request.model and r not in remaining for r in staying):
        # One runner a model: this one has come since.
        return None

    def without(gone: Collection[Runner]) -> Shortfall | None:
        return lacking(state, request, books, [r for r in staying if r not in gone])

    if without(remaining) is not None or _has_room_elsewhere(state, request, books, remaining):
        # Memory has moved: what was decided would not do any more, or need not be done.
        return None
    forced = [runner for runner in remaining if runner.model == request.model]
    others = [runner for runner in remaining if runner.model != request.model]
    victims = without_spare([*forced, *others], without, keep=len(forced))
    return replace(plan, request=request, victims=victims)


def _has_room_elsewhere(
    state: State, request: Request, books: Books, victims: Sequence[Runner]
) -> bool:
    """Whether another bin has become free for it, and nobody has been asked to go yet."""
    if not any(runner.running for runner in victims):
        return False
    others = (state.books[bin_id] for bin_id in request.needs if bin_id != books.bin.id)
    return any(
        is_free(state, other)
        and other.bin.upstream != books.bin.upstream
        and lacking(state, request.at(other.bin.id), other, state.staying(other.bin)) is None
        for other in others
    )


def _heir(state: State, request: Request, books: Books) -> Request | None:
    """For whom a model is loaded, if somebody who waits would be served by it and nothing else."""
    if request.id in state.line:
        waits = request
    else:
        groups = (g for g in state.line.groups(request.model) if books.bin.id in g.first.needs)
        served = [g.first for g in groups if would_share(request, g.first.at(books.bin.id))]
        if not served:
            return None
        first = state.line.first_of(served)
        waits = replace(
            request,
            id=first.id,
            name=first.name,
            arrived_at=first.arrived_at,
            priority=first.priority,
        )
    return None if state.has_runner(waits) else waits
