"""What the machine can tell a person: where everything stands, and why a request waits.

Reads the machine's state and its last plans; decides nothing and changes nothing.
"""

import math
from collections.abc import Iterable

from ollama_gate.scheduler.machine import Machine
from ollama_gate.scheduler.memory import Books, Runner, committed
from ollama_gate.scheduler.outlook import Outlook
from ollama_gate.scheduler.ranks import Kind, kind_of
from ollama_gate.scheduler.room import lacking
from ollama_gate.scheduler.state import Held, Plan
from ollama_gate.scheduler.types import (
    Bin,
    BinView,
    Cause,
    Priority,
    Request,
    RunnerState,
    RunnerView,
    Snapshot,
    Waiting,
)

Reason = tuple[Cause, tuple[str, ...], float | None]
"""A cause, the names of what is behind it, and when time alone ends it for all of a kind."""


def snapshot(machine: Machine) -> Snapshot:
    """Everything at the instant of the machine's last event."""
    in_order = machine.line.in_order()
    reasons: dict[Kind, Reason] = {}
    outlook = Outlook(machine)
    return Snapshot(
        now=machine.now,
        bins=tuple(_bin_view(machine, books.bin) for books in machine.books.values()),
        runners=tuple(
            _runner_view(machine, runner) for runner in _sorted(machine.runners.values())
        ),
        waiting=tuple(
            _waiting(machine, request, position, reasons, outlook)
            for position, request in enumerate(in_order, 1)
        ),
        running=tuple(machine.running.values()),
        closing=machine.closing,
        newcomer_s=(
            outlook.newcomer_s(Priority.HIGH),
            outlook.newcomer_s(Priority.NORMAL),
            outlook.newcomer_s(Priority.LOW),
        ),
    )


def _sorted(runners: Iterable[Runner]) -> list[Runner]:
    return sorted(runners, key=lambda runner: (runner.bin.id, runner.name))


def _names(runners: Iterable[Runner]) -> tuple[str, ...]:
    return tuple(runner.name for runner in _sorted(runners))


def _bin_view(machine: Machine, bin_: Bin) -> BinView:
    books, plan = machine.books[bin_.id], machine.plans.get(bin_.id)
    here = [runner for runner in machine.runners.values() if runner.bin.id == bin_.id]
    return BinView(
        bin=bin_,
        capacity_bytes=books.capacity_bytes,
        foreign_bytes=books.foreign_bytes,
        committed_bytes=committed(here),
        free_bytes=books.free_bytes(here),
        available=bin_.upstream not in machine.away_since,
        live=books.live,
        target=None if plan is None else plan.request.name,
        victims=_names(plan.victims) if isinstance(plan, Plan) else (),
        for_request=None if plan is None else plan.request.id,
        choice=plan.choice if isinstance(plan, Plan) else None,
        kept_until=plan.until if isinstance(plan, Held) else None,
    )


def _runner_view(machine: Machine, runner: Runner) -> RunnerView:
    idle = runner.resident and runner.idle
    return RunnerView(
        bin=runner.bin.id,
        model=runner.model,
        name=runner.name,
        state=runner.state,
        launch=runner.launch,
        num_ctx=runner.num_ctx,
        footprint_bytes=runner.footprint_bytes,
        parallel=runner.parallel,
        running=tuple(runner.running),
        waiting=sum(
            len(row) for row in machine.line.rows(runner.model) if machine.suits(runner, row[0])
        ),
        draining=machine.is_draining(runner),
        offload=runner.offload,
        idle_since=runner.idle_since if idle else None,
        expires_at=runner.expires_at if idle else None,
        load_s=runner.load_s,
    )


def _waiting(
    machine: Machine,
    request: Request,
    position: int,
    reasons: dict[Kind, Reason],
    outlook: Outlook,
) -> Waiting:
    # Those who are alike wait for the same reason.
    kind = kind_of(request)
    if kind not in reasons:
        reasons[kind] = why(machine, request)
    cause, behind, until = reasons[kind]
    match cause:
        case Cause.UPSTREAM_AWAY:
            until = machine.outage_deadline(request)
        case Cause.BEHIND | Cause.NO_ROOM if not machine.line.overdue(request):
            until = machine.demand.ends_at(request.arrived_at, request.priority)
        case Cause.FOREIGN:
            here = (machine.books[bin_id] for bin_id in request.needs)
            until = min(machine.waits_for_others_until(request, books) for books in here)
        case _:
            pass
    line, policy, priority = machine.line, machine.policy, request.priority
    return Waiting(
        request=request,
        position=position,
        cause=cause,
        behind=behind,
        until=until,
        overdue=line.overdue(request),
        overdue_at=machine.demand.ends_at(request.arrived_at, priority),
        overdue_latest_at=request.arrived_at + policy.tau_cap_s[priority],
        deadline_at=line.deadline_at(request),
        ahead=outlook.number(request),
        models_ahead=outlook.models_before(request),
        client_waiting=line.waiting_of(request.client),
        client_lead_s=outlook.lead_s(request),
        estimate_s=outlook.wait_s(request),
    )


def why(machine: Machine, request: Request) -> Reason:
    """Why a request waits, and all of its kind.

    The first of the causes that holds, from the nearest to the farthest. When the request's own
    age ends it is not said here.
    """
    upstreams = {machine.books[bin_id].bin.upstream for bin_id in request.needs}
    if upstreams <= machine.away_since.keys():
        return Cause.UPSTREAM_AWAY, tuple(sorted(upstreams)), None
    if upstreams <= machine.unsure_since.keys():
        return Cause.LOOKING, tuple(sorted(upstreams)), None
    return (
        _at_home(machine, request)
        or _in_trouble(machine, request)
        or _at_the_loader(machine, request, upstreams)
        or _in_the_plans(machine, request)
    )


def _at_home(machine: Machine, request: Request) -> Reason | None:
    homes = list(machine.homes_of(request))
    staying = [home for home in homes if machine.drained_for(home) is None]
    if any(len(home.running) < home.parallel for home in staying):
        # Nothing else keeps a slot from whoever could have it.
        return Cause.LIMIT, (), None
    if staying:
        return Cause.SLOTS_FULL, tuple(each for home in staying for each in home.running), None
    elders = (machine.drained_for(home) for home in homes)
    names = tuple(elder.name for elder in elders if elder is not None)
    return (Cause.DRAINING, names, None) if names else None


def _in_trouble(machine: Machine, request: Request) -> Reason | None:
    until = min(machine.retry_at(request, bin_id) for bin_id in request.needs)
    if until > machine.now:
        return Cause.BACKING_OFF, (), until
    here = [machine.books[bin_id] for bin_id in request.needs]
    if all(machine.others_in_the_way(request, books) for books in here):
        return Cause.FOREIGN, (), None
    pins = [_pins_beside(machine, request, books) for books in here]
    if all(
        lacking(machine, request.at(b.bin.id), b, p) and p for b, p in zip(here, pins, strict=True)
    ):
        return Cause.PINNED, _names(pin for each in pins for pin in each), None
    return None


def _pins_beside(machine: Machine, request: Request, books: Books) -> list[Runner]:
    staying = machine.staying(books.bin)
    return [runner for runner in staying if runner.pinned and runner.model != request.model]


def _at_the_loader(machine: Machine, request: Request, upstreams: set[str]) -> Reason | None:
    loading = [runner for runner in machine.runners.values() if runner.state is RunnerState.LOADING]
    if any(machine.suits(runner, request) for runner in loading):
        return Cause.LOADING, (), None
    if upstreams <= {runner.bin.upstream for runner in loading}:
        return Cause.LOADER_BUSY, _names(loading), None
    return None


def _in_the_plans(machine: Machine, request: Request) -> Reason:
    plans = [machine.plans.get(bin_id) for bin_id in request.needs]
    for plan in plans:
        if plan is not None and plan.request.id == request.id:
            return _its_own(machine, plan)
    for plan in plans:
        if plan is not None:
            return Cause.BEHIND, (plan.request.name,), None
    here = _names(r for r in machine.runners.values() if r.bin.id in request.needs)
    if _is_overdue(machine, request) and machine.turn_ends < math.inf:
        return Cause.QUANTUM, here, machine.turn_ends
    return Cause.NO_ROOM, here, None


def _is_overdue(machine: Machine, request: Request) -> bool:
    """Whether anybody of its kind is."""
    groups = (g for g in machine.line.groups(request.model) if g.kind == kind_of(request))
    return machine.line.first_overdue(groups) is not None


def _its_own(machine: Machine, plan: Plan | Held) -> Reason:
    present = [r for r in machine.runners.values() if r.bin.id in plan.request.needs]
    if isinstance(plan, Held):
        return Cause.QUANTUM, _names(present), plan.until
    leaving = [runner for runner in present if not runner.resident]
    return Cause.MAKING_ROOM, _names([*plan.victims, *leaving]), None
