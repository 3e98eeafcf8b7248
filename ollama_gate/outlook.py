"""What is shown of a model that may never have been loaded: what it would take, how long it took.

Records for people, and which contexts they are told of. The figures are those that admission
goes by, so that it is given what computes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ollama_gate import footprint
from ollama_gate.footprint import Facts
from ollama_gate.footprint.explained import Source
from ollama_gate.scheduler.types import Launch, Need

FIRST_CONTEXT: Final = 4096
"""Ollama's smallest automatic context; from here on each that is shown is twice the last."""

LAST_UNTRAINED: Final = 131_072
"""Where it ends for a model of which nobody knows for how much it was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a runner would take with one context, the model's own options otherwise.

    Attributes:
        error: how far off it may be, as a share of it; `None` where it is not estimated.
    """

    num_ctx: int
    footprint_bytes: int
    source: Source
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long things took with a model, on average, in seconds; `None` until one was seen."""

    load_s: float | None = None
    unload_s: float | None = None
    service_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One model of an upstream, as far as it is known.

    Attributes:
        facts: `None` until Ollama has shown it.
        disk_bytes: all of it.
        problem: Ollama's words if it could not show it.
        automatic: with the context that it gets when nobody names one; `None` until it is known,
            and for what runs elsewhere.
        sizes: with larger and smaller contexts, that one among them; the smallest first.
    """

    name: str
    digest: str
    disk_bytes: int
    facts: Facts | None = None
    problem: str = ""
    automatic: Size | None = None
    sizes: tuple[Size, ...] = ()
    times: Times = Times()


def sizes(
    facts: Facts,
    settings: footprint.Settings,
    need: Callable[[Launch], tuple[Need, Source]],
    *,
    cpu: bool,
) -> tuple[Size, tuple[Size, ...]]:
    """What a model takes with the context that nobody named, and with all that are shown.

    Args:
        facts: of the model.
        settings: of the upstream.
        need: what admission books for a runner of it with such options.
        cpu: whether it would run on one.
    """

    def size(asked: Launch) -> Size:
        resolved = footprint.resolve(facts, asked, settings)
        needed, source = need(resolved.launch)
        error = None
        if source == "estimated":
            guess = footprint.estimate(facts, resolved.launch, settings, on_cpu_bin=cpu)
            error = guess.error
        return Size(
            num_ctx=resolved.num_ctx,
            footprint_bytes=needed.footprint_bytes,
            source=source,
            error=error,
        )

    automatic = size(Launch())
    others = (context for context in _contexts(facts) if context != automatic.num_ctx)
    shown = [automatic, *(size(Launch(num_ctx=context)) for context in others)]
    return automatic, tuple(sorted(shown, key=lambda one: one.num_ctx))


def _contexts(facts: Facts) -> Iterator[int]:
    """Each twice the last, up to the trained length."""
    most = facts.context_length or LAST_UNTRAINED
    context = FIRST_CONTEXT
    while context < most:
        yield context
        context *= 2
    yield most
