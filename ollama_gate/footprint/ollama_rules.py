"""What Ollama will make of a model and its options: slots, context, batch, and its fit test.

Its rules, right or wrong, and its own rough figures; what a runner will really take is not here.
"""

import re
from dataclasses import dataclass
from typing import Final

from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.lenient import given
from ollama_gate.scheduler.types import Launch

MIB: Final = 2**20
GIB: Final = 2**30

MIN_CONTEXT: Final = 4
VISION_MIN_CONTEXT: Final = 2048
CONTEXT_TIERS: Final = ((47 * GIB, 262_144), (23 * GIB, 32_768))
"""Ollama's automatic context by the memory of all cards (v0.32.15 `server/routes.go`)."""
SMALLEST_CONTEXT_TIER: Final = 4096

SINGLE_SLOT_FAMILIES: Final = frozenset(
    ["mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"]
)
"""Ollama never gives these more than one slot (v0.32.15 `server/sched.go`, `load`)."""
SINGLE_SLOT_PREFIX: Final = "nemotron_h"

BATCH_TIERS: Final = ((32_768, 2048, 60, 2 * GIB), (4096, 1024, 75, 768 * MIB))
"""Ollama's automatic batch: above so many tokens of context over all slots, a batch of so many,
if its prediction stays within so many percent of the free memory and so many bytes more stay
within `FIT_PERCENT` (v0.32.15 `server/sched.go`, `automaticGenerationBatch`)."""
SMALLEST_BATCH: Final = 512
CONSTRAINED_BATCH: Final = 256
"""Without flash attention the batch is the smallest, and this one where a long context meets a
small card."""
CONSTRAINED_ABOVE_CELLS: Final = 4096
CONSTRAINED_BELOW_BYTES: Final = 8 * GIB
LARGEST_EMBEDDING_BATCH: Final = 2048
FIT_PERCENT: Final = 80

LLAMA_SERVER_SINCE: Final = (0, 30)
"""Since then Ollama runs models in llama.cpp's own server."""
_VERSION: Final = re.compile(r"v?([0-9]{1,9})\.([0-9]{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an upstream is set up, as far as it decides what its runners take.

    Attributes:
        num_parallel: `OLLAMA_NUM_PARALLEL` there.
        kv_cache_type: `OLLAMA_KV_CACHE_TYPE` there.
        context_length: `OLLAMA_CONTEXT_LENGTH` there, 0 where it is left to the tier.
        total_bytes: memory of all its cards; `None` where nobody can tell, or there is none.
        safety: factor on what is estimated; nothing that was learned or configured is changed.
        overhead_bytes: of a process on this card, if that was learned.
        flash_attention: whether Ollama uses it there, as it does wherever all cards can.
        version: Ollama's own, such as `0.32.15`; empty where it is not known.
    """

    num_parallel: int = 1
    kv_cache_type: str = "f16"
    context_length: int = 0
    total_bytes: int | None = None
    safety: float = 1.0
    overhead_bytes: int | None = None
    flash_attention: bool = True
    version: str = ""


def merge(facts: Facts, launch: Launch) -> Launch:
    """The options in effect: a request's over the Modelfile's, `num_ctx` within the trained."""
    base = facts.parameters
    num_ctx = given(launch.num_ctx, base.num_ctx)
    if num_ctx is not None and facts.context_length is not None:
        num_ctx = min(num_ctx, facts.context_length)
    return Launch(
        num_ctx=num_ctx,
        num_batch=given(launch.num_batch, base.num_batch),
        num_gpu=given(launch.num_gpu, base.num_gpu),
        main_gpu=given(launch.main_gpu, base.main_gpu),
        use_mmap=given(launch.use_mmap, base.use_mmap),
        num_thread=given(launch.num_thread, base.num_thread),
        draft_num_predict=given(launch.draft_num_predict, base.draft_num_predict),
        shift=given(launch.shift, base.shift),
        extras=launch.extras or base.extras,
    )


def parallel_of(facts: Facts, num_parallel: int) -> int:
    """How many slots a runner gets: embedding models and some families never more than one."""
    kinds = (facts.family, facts.architecture)
    single = any(k in SINGLE_SLOT_FAMILIES or k.startswith(SINGLE_SLOT_PREFIX) for k in kinds)
    return 1 if facts.pooling or single else max(1, num_parallel)


def default_context(configured: int, total_bytes: int | None) -> int:
    """The context that Ollama takes when nobody names one.

    Args:
        configured: `OLLAMA_CONTEXT_LENGTH` of the upstream, 0 for none.
        total_bytes: memory of all cards; `None` counts as a small one.
    """
    if configured > 0:
        return configured
    for tier_bytes, context in CONTEXT_TIERS:
        if (total_bytes or 0) >= tier_bytes:
            return context
    return SMALLEST_CONTEXT_TIER


def effective_context(facts: Facts, launch: Launch, *, default_ctx: int) -> int:
    """Tokens of context for each slot, if a runner were loaded with these options."""
    context = given(merge(facts, launch).num_ctx, default_ctx)
    if facts.context_length is not None:
        context = min(context, facts.context_length)
    floor = VISION_MIN_CONTEXT if "vision" in facts.capabilities else MIN_CONTEXT
    return max(context, floor)


def predicted_by_ollama(facts: Facts, launch: Launch, settings: Settings) -> int:
    """What Ollama compares with 80 % of the free memory before it loads beside another model.

    Its file and an f16 cache by a rough formula of its own (v0.32.15 `llm/llama_server.go`).
    A batch that it chose itself never makes the test fail, so that only a batch that somebody
    asked for is charged. 0 where it makes no test: nothing goes to a card, or only so many
    layers as were asked for.
    """
    launch = merge(facts, launch)
    if facts.remote or launch.on_cpu or asks_for_part(facts, launch):
        return 0
    batch = launch.num_batch or 0
    charges = (charge for _, least, _, charge in BATCH_TIERS if batch >= least)
    return _predicted_bytes(facts, launch, settings) + (0 if facts.pooling else next(charges, 0))


def asks_for_part(facts: Facts, launch: Launch) -> bool:
    """Whether somebody asked for a part of the layers on the card, and no more."""
    layers = len(facts.shape.kv_heads) if facts.shape else 0
    return launch.num_gpu is not None and 0 < launch.num_gpu <= layers


def _predicted_bytes(facts: Facts, launch: Launch, settings: Settings) -> int:
    slots = parallel_of(facts, settings.num_parallel)
    cells = slots * context_of(facts, launch, settings)
    shape = facts.shape
    if shape is None:
        return facts.size_bytes + unknown_kv_bytes(facts, cells)
    head_length = shape.embedding_length // shape.heads if shape.heads else 0
    kept = shape.least_kv_heads or max(1, min(shape.kv_heads))
    return facts.size_bytes + 4 * len(shape.kv_heads) * kept * head_length * cells


def context_of(facts: Facts, launch: Launch, settings: Settings) -> int:
    """Tokens of context for each slot of a runner of this upstream."""
    default = default_context(settings.context_length, settings.total_bytes)
    return effective_context(facts, launch, default_ctx=default)


def batch_of(facts: Facts, launch: Launch, settings: Settings) -> int:
    """Tokens that a runner computes at once.

    Ollama compares with the memory that is *free*; here it is all there is, so that the batch
    errs to the larger side.
    """
    launch = merge(facts, launch)
    context = context_of(facts, launch, settings)
    cells = context * parallel_of(facts, settings.num_parallel)
    old = before_llama_server(settings.version)
    if launch.num_batch is not None and launch.num_batch > 0:
        return min(launch.num_batch, cells)
    if facts.pooling:
        return context if old else min(LARGEST_EMBEDDING_BATCH, context)
    return min(cells, _automatic_batch(facts, launch, settings, cells))


def _automatic_batch(facts: Facts, launch: Launch, settings: Settings, cells: int) -> int:
    there = settings.total_bytes
    if before_llama_server(settings.version):
        return SMALLEST_BATCH
    if not settings.flash_attention:
        small = there is not None and there <= CONSTRAINED_BELOW_BYTES
        return CONSTRAINED_BATCH if small and cells > CONSTRAINED_ABOVE_CELLS else SMALLEST_BATCH
    predicted = _predicted_bytes(facts, launch, settings)
    for above, batch, percent, charge in BATCH_TIERS:
        if cells > above and (
            there is None
            or (
                100 * predicted <= percent * there
                and 100 * (predicted + charge) <= FIT_PERCENT * there
            )
        ):
            return batch
    return SMALLEST_BATCH


def before_llama_server(version: str) -> bool:
    """Whether an Ollama of this version ran models in an engine of its own; no, if unknown."""
    found = _VERSION.match(version)
    return found is not None and (int(found[1]), int(found[2])) < LLAMA_SERVER_SINCE


def keeps_all_outputs(facts: Facts, version: str) -> bool:
    """Whether room is kept for the scores of all words after each token of a batch.

    Ollama did so for every model up to 0.24; llama.cpp does so for an embedding model that is a
    chat model underneath, and would rather be asked for all it can say.
    """
    if facts.pooling:
        return facts.shape is not None and facts.shape.cached
    return before_llama_server(version)


def unknown_kv_bytes(facts: Facts, cells: int) -> int:
    """A guess: a twentieth of the file for each 4096 tokens."""
    return facts.size_bytes * cells // (20 * 4096)
