"""With which context a model is loaded for the request whose turn it is.

With as much as Ollama gives by itself, which serves those who name none; unless somebody who may
be sent with another context than it names needs more. Whom to load for, and who makes room for it,
is decided elsewhere; no victim goes for the sake of a context that the request did not ask for.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ollama_gate.scheduler.memory import Books
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import Launch, Request

Fits = Callable[[Request], bool]
"""Whether a load would fit into the room that is made anyway."""


def exact_if_must(state: State, request: Request, books: Books) -> Request:
    """A request as it would be loaded for itself alone.

    One that names no more than Ollama gives by itself is loaded with that; but with what it names
    where that is too much for the bin, or is known to come to too little.
    """
    if request.exact is None or request.least_ctx is None:
        return request
    given = state.automatic_ctx.get((books.bin.id, request.model))
    too_little = given is not None and given < request.least_ctx
    if not too_little and _within_bin(request, books):
        return request
    return replace(
        request,
        exact=None,
        launch=request.exact.launch,
        needs=request.exact.needs,
        num_ctx=request.least_ctx,
        named_ctx=request.exact.launch.num_ctx,
    )


def widest(state: State, request: Request, books: Books, fits: Fits) -> Request:
    """A request as it is to be loaded, with the most context that others who wait need.

    Args:
        state: who waits.
        request: whose turn it is, as `exact_if_must` gave it.
        books: of the bin it goes to.
        fits: asked of what would be loaded in its place; never of the request itself.
    """
    if request.least_ctx is None or _is_for_all(state, request):
        return request
    wider = [other for other in _alike(state, request, books) if _exceeds(other, request)]
    for other in sorted(wider, key=lambda one: one.num_ctx or 0, reverse=True):
        if books.free_bytes([]) is not None and _within_bin(other, books) and fits(other):
            return replace(
                request,
                launch=other.launch,
                needs=other.needs,
                num_ctx=other.num_ctx,
                named_ctx=other.named_ctx,
            )
    return request


def _is_for_all(state: State, request: Request) -> bool:
    """Whether it gets what Ollama gives by itself, and somebody waits who can use nothing else."""
    return request.exact is not None and any(
        row[0].least_ctx is None for row in state.line.rows(request.model)
    )


def _alike(state: State, request: Request, books: Books) -> Iterator[Request]:
    for row in state.line.rows(request.model):
        other = row[0].at(books.bin.id)
        if other.least_ctx is not None and books.bin.id in other.needs:
            other = exact_if_must(state, other, books)
            if _but_for_context(other.launch) == _but_for_context(request.launch):
                yield other


def _but_for_context(launch: Launch) -> Launch:
    return replace(launch, num_ctx=None)


def _exceeds(other: Request, request: Request) -> bool:
    return (other.num_ctx or 0) > (request.num_ctx or 0)


def _within_bin(request: Request, books: Books) -> bool:
    """Whether it would fit if nothing else were there, as far as anybody can tell."""
    free = books.free_bytes([])
    return free is None or request.needs[books.bin.id].footprint_bytes <= free
