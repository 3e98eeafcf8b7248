"""What the options of a request come to: the runner that Ollama would load for it.

The defaults, then the Modelfile's parameters, then what the request names, as Ollama v0.32.15
merges them (`server/routes.go`, `modelOptions`). Which runner serves it is not said here.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.lenient import given
from ollama_gate.footprint.ollama_rules import (
    LARGEST_EMBEDDING_BATCH,
    Settings,
    default_context,
    effective_context,
    merge,
)
from ollama_gate.scheduler.types import Launch

DEFAULT_NUM_BATCH: Final = 512
DEFAULT_DRAFT: Final = 4
"""What counts for an option that is named and given as `null` (`api/types.go`, `DefaultOptions`);
one that is not named at all is Ollama's to choose."""

UNSHIFTED_FAMILY: Final = "deepseek2"
"""Its context does not shift unless somebody asks for it (`server/sched.go`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A runner as it would be started.

    Attributes:
        launch: with no option that says what Ollama does anyhow.
        num_ctx: tokens of context in effect for one slot.
        named_ctx: the `num_ctx` that asks for just this one: as it was named, else Ollama's own.
        batch_limit: up to which its batch follows `named_ctx`; `None` where it does not.
    """

    launch: Launch
    num_ctx: int
    named_ctx: int
    batch_limit: int | None


def resolve(
    facts: Facts, asked: Launch, settings: Settings, *, nulls: AbstractSet[str] = frozenset()
) -> Resolved:
    """What a request with these options gets.

    Args:
        facts: of the model, under the name that the request uses.
        asked: what the request itself names.
        settings: of the upstream.
        nulls: the options that it names and gives as `null`.
    """
    merged = merge(facts, asked)
    default_ctx = default_context(settings.context_length, settings.total_bytes)
    named_ctx = given(asked.num_ctx, facts.parameters.num_ctx)

    def null(name: str, default: int) -> int | None:
        return default if name in nulls else None

    launch = replace(
        merged,
        # As it is named: the batch of an embedding model follows that, not what comes of it.
        num_ctx=given(named_ctx, null("num_ctx", default_ctx)),
        num_batch=given(merged.num_batch, null("num_batch", DEFAULT_NUM_BATCH)),
        draft_num_predict=given(merged.draft_num_predict, null("draft_num_predict", DEFAULT_DRAFT)),
        shift=None if merged.shift is _shifts(facts) else merged.shift,
    )
    return Resolved(
        launch=launch,
        num_ctx=effective_context(facts, launch, default_ctx=default_ctx),
        named_ctx=given(launch.num_ctx, default_ctx),
        batch_limit=LARGEST_EMBEDDING_BATCH if _embeds(facts) else None,
    )


def _shifts(facts: Facts) -> bool:
    return UNSHIFTED_FAMILY not in {facts.family, facts.architecture}


def _embeds(facts: Facts) -> bool:
    return "embedding" in facts.capabilities or facts.pooling
