"""Who is next: whose model each bin loads, and who makes room for it.

Derived anew from the whole state each time. It fills in `state.plans` and changes nothing else.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile

from ollama_gate.scheduler.context import exact_if_must, widest
from ollama_gate.scheduler.eviction import choose
from ollama_gate.scheduler.fitting import Limits, Shortfall, most, shortfall
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.state import Held, Plan, State
from ollama_gate.scheduler.types import Bin, Need, Request


def plan_all(state: State) -> None:
    """Decide whose model each bin loads next, and who makes room for it."""
    state.plans = {}
    undecided = [books for books in state.books.values() if state.is_open(books.bin)]
    heads = state.line.heads(state.now) if undecided else []
    limits = {books.bin.id: _most_for_the_patient(state, books) for books in undecided}
    for place, request in _homeless(state, heads):
        here = [books for books in undecided if _may_try(state, request, books)]
        if state.line.overdue(request, state.now):
            # Of each kind the head stands before the others, and one elder counts like many.
            _decide(state, request, here, elders=heads[:place])
        else:
            # Most of them fail for the same reason: do not ask for each of them.
            here = [b for b in here if limits[b.bin.id].admit(_need(state, request, b))]
            _decide(state, request, here, elders=None)
        undecided = [books for books in undecided if books.bin.id not in state.plans]
        if not undecided:
            return


def _homeless(state: State, heads: Sequence[Request]) -> Iterator[tuple[int, Request]]:
    """Those for whom something must be loaded, and where each stands.

    One for each model and set of options: elsewhere the others would fare no better.
    """
    present = {runner.model for runner in state.runners.values()}
    seen = set()
    for place, request in enumerate(heads):
        kind = request.model, request.launch, request.num_ctx, request.least_ctx
        if kind in seen or (request.model in present and state.has_runner(request)):
            continue
        seen.add(kind)
        yield place, request


def _need(state: State, request: Request, books: Books) -> Need:
    return state.need_of(exact_if_must(state, request, books), books.bin.id)


def _may_try(state: State, request: Request, books: Books) -> bool:
    """Whether a bin may load its model; after it ran out of memory, others go first for a while."""
    bin_id = books.bin.id
    return bin_id in request.needs and state.now >= state.retry_at(request, bin_id)


def _most_for_the_patient(state: State, books: Books) -> Limits:
    """What nobody may exceed for whom only runners go that are idle and unwanted."""
    firm = [r for r in state.staying(books.bin) if not _yields(state, r, 0.0, None)]
    here = [runner for runner in firm if runner.bin.id == books.bin.id]
    max_loaded = state.upstreams[books.bin.upstream].max_loaded
    elsewhere = len(firm) - len(here)
    return most(books, here, elsewhere=elsewhere, max_loaded=max_loaded, whole=state.whole)


def _decide(
    state: State, request: Request, here: Sequence[Books], *, elders: Sequence[Request] | None
) -> None:
    """Give a request the bin where it has the fewest victims.

    One that is overdue and cannot be placed keeps every bin from the others.

    Args:
        state: what is planned for.
        request: whose turn it is.
        here: the bins that may be had.
        elders: who stands before it, if it is overdue.
    """
    plans = [(books.bin.id, _plan_for(state, request, books, elders=elders)) for books in here]
    placed = [(bin_id, plan) for bin_id, plan in plans if isinstance(plan, Plan)]
    if placed:
        bin_id, plan = min(placed, key=lambda each: len(each[1].victims))
        state.plans[bin_id] = plan
    elif elders is not None:
        state.plans.update(plans)


def _plan_for(
    state: State, request: Request, books: Books, *, elders: Sequence[Request] | None
) -> Plan | Held:
    staying = state.staying(books.bin)
    request = exact_if_must(state, request, books)
    need = state.need_of(request, books.bin.id)
    load_s = state.load_guess_s(request.model, need.footprint_bytes, need.load_s)
    yielding = [r for r in staying if _yields(state, r, load_s, elders)]
    # One runner a model: what holds other options must go, whatever room there is.
    forced = [runner for runner in staying if runner.model == request.model]
    eligible = sorted(
        (runner for runner in yielding if runner not in forced),
        key=lambda runner: (runner.bin.id != books.bin.id, _reluctance(state, runner)),
    )
    if all(runner in yielding for runner in forced):
        victims = choose(
            eligible,
            lambda gone: lacking(state, request, books, [r for r in staying if r not in gone]),
            forced=forced,
        )
        if not isinstance(victims, Shortfall):
            missing = lacking(state, request, books, staying)
            beside = [runner for runner in staying if runner not in victims]
            request = widest(
                state, request, books, lambda wider: not lacking(state, wider, books, beside)
            )
            return Plan(request=request, victims=victims, missing=missing)
    incumbents = (r for r in staying if r.resident and r not in yielding)
    ends = (_quantum_ends_at(state, runner, load_s) for runner in incumbents)
    return Held(request=request, until=min((at for at in ends if at > state.now), default=None))


def _yields(state: State, runner: Runner, load_s: float, elders: Sequence[Request] | None) -> bool:
    """Whether a runner may be asked to go: an idle one always, one in use only if overdue.

    One that is still wanted has its quantum first, and serves somebody at the very least:
    two elders must not throw out each other's models for ever. Nor does it leave those
    unserved who have waited longer still.
    """
    if not runner.resident:
        return False
    wanted = state.is_wanted(runner)
    if runner.idle and not wanted:
        return True
    if elders is None or any(state.suits(runner, elder) for elder in elders):
        return False
    return not wanted or (
        runner.served > 0 and state.now >= _quantum_ends_at(state, runner, load_s)
    )


def _quantum_ends_at(state: State, runner: Runner, load_s: float) -> float:
    """When a runner has had its turn, if the next load takes `load_s`."""
    return runner.ready_at + state.policy.kappa * (runner.load_s + load_s)


def _reluctance(state: State, runner: Runner) -> tuple[bool, bool, float, str]:
    """Whom to ask first: idle before busy before wanted, then the longest unused."""
    return state.is_wanted(runner), not runner.idle, runner.idle_since, runner.model


def lacking(
    state: State, request: Request, books: Books, beside: Collection[Runner]
) -> Shortfall | None:
    """What prevents a load beside runners of the same upstream."""
    here = [runner for runner in beside if runner.bin.id == books.bin.id]
    return shortfall(
        state.need_of(request, books.bin.id),
        books,
        here,
        elsewhere=len(beside) - len(here) + _promised(state, books.bin),
        max_loaded=state.upstreams[books.bin.upstream].max_loaded,
        whole=state.whole,
        patient=state.is_patient(request, books),
        # It slid where the books had room for it, so they are no guide to the second load.
        alone=state.recovery.of((books.bin.id, request.model, request.launch)).reloaded,
    )


def _promised(state: State, bin_: Bin) -> int:
    """How many runners its upstream may still get for those who were decided on earlier."""
    earlier = takewhile(lambda bin_id: bin_id != bin_.id, state.plans)
    return sum(state.books[bin_id].bin.upstream == bin_.upstream for bin_id in earlier)
