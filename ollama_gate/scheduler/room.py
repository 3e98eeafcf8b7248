"""Whether there is room for one more, asked of the whole state: the books, the rules, the plans.

What is free and what is promised elsewhere; who is next and who leaves is decided elsewhere.
"""

from collections.abc import Collection

from ollama_gate.scheduler.fitting import Shortfall, shortfall
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.state import Plan, State
from ollama_gate.scheduler.types import Bin, Request


def is_free(state: State, books: Books) -> bool:
    """Whether something may be decided for a bin: a load is part of what was decided before."""
    bin_ = books.bin
    return bin_.id not in state.plans and state.is_open(bin_) and not state.loading(bin_.upstream)


def stays(state: State, runner: Runner) -> bool:
    """Whether it makes room for nobody yet."""
    return state.drained_for(runner) is None


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
    """How many runners its upstream is about to get in its other bins."""
    return sum(
        isinstance(plan, Plan) and bin_id != bin_.id
        for bin_id, plan in state.plans.items()
        if state.books[bin_id].bin.upstream == bin_.upstream
    )
