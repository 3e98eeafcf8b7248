"""What a runner will take, before it was ever seen: weights, cache, buffers, overhead.

The formulas are llama.cpp's own for the cache and a fit to its dry-runs for the compute buffers,
as Ollama since 0.30 runs it; flash attention is assumed, and what cannot be known is taken too
large rather than too small. What was seen or configured instead is not asked for here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.lenient import given
from ollama_gate.footprint.ollama_rules import (
    MIB,
    Settings,
    batch_of,
    context_of,
    merge,
    parallel_of,
    unknown_kv_bytes,
)
from ollama_gate.footprint.shape import Shape
from ollama_gate.scheduler.types import Launch

PROCESS_BYTES: Final = 457 * MIB
"""What a CUDA process takes on a card before anything is loaded; Ollama v0.32.15 sets as much
aside (`ml/device.go` `MinimumMemory`), and `size_vram` does not show it."""

PROJECTOR_GRAPH_BYTES: Final = 300 * MIB
"""Buffers of a vision projector, which `size_vram` does not show either."""

CACHE_PADDING: Final = 256
"""llama.cpp rounds a sequence's cache up to a multiple of this many cells."""

KV_TYPE_BYTES: Final[Mapping[str, Fraction]] = {
    "f32": Fraction(4),
    "f16": Fraction(2),
    "bf16": Fraction(2),
    "q8_0": Fraction(34, 32),
    "q4_0": Fraction(18, 32),
}
"""Bytes of one cache element; Ollama runs any other `OLLAMA_KV_CACHE_TYPE` as f16."""

Source = Literal["configured", "learned", "estimated"]
"""Where a footprint is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a runner will take, before it was ever seen.

    Attributes:
        overhead_bytes: what Ollama never reports: the process on a card, a projector.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    source: Source = "estimated"

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes


def kv_bytes(shape: Shape, *, context: int, parallel: int, batch: int, kv_type: str) -> int:
    """The cache of `parallel` sequences of `context` tokens each."""
    if not shape.cached:
        return 0
    full = _padded(context)
    windowed = min(full, _padded(min(full, shape.window + batch)))
    values = 0 if shape.latent else shape.value_length
    row = (shape.key_length + values) * KV_TYPE_BYTES.get(kv_type, KV_TYPE_BYTES["f16"])
    total = Fraction(0)
    for heads, local in zip(shape.kv_heads, shape.local, strict=True):
        total += heads * (windowed if local else full) * row if heads else shape.recurrent_bytes
    return int(parallel * total)


def compute_bytes(shape: Shape, *, context: int, batch: int) -> int:
    """Buffers for one batch's intermediate results, with flash attention."""
    wide = 3 * shape.feed_forward_length
    if shape.experts_used:
        each = 3 * shape.expert_feed_forward_length + shape.embedding_length
        wide = shape.experts_used * each
    mask = 2 * context if any(shape.kv_heads) else 0
    return batch * (4 * (4 * shape.embedding_length + wide) + mask)


def _padded(cells: int) -> int:
    return -(-cells // CACHE_PADDING) * CACHE_PADDING


def estimate(
    facts: Facts, launch: Launch, settings: Settings, *, on_cpu_bin: bool = False
) -> Estimate:
    """What a runner with these options would take in a bin, if all of it goes there."""
    launch = merge(facts, launch)
    if facts.remote or (launch.on_cpu and not on_cpu_bin):
        return Estimate(weights_bytes=0, kv_bytes=0, compute_bytes=0, overhead_bytes=0)
    context = context_of(facts, launch, settings)
    parallel = parallel_of(facts, settings.num_parallel)
    overhead = unreported_bytes(facts, on_cpu_bin=on_cpu_bin)
    listed = facts.tensors_bytes if on_cpu_bin else facts.weights_bytes
    weights = given(listed, facts.size_bytes)
    if facts.shape is None:
        return Estimate(
            weights_bytes=weights,
            kv_bytes=unknown_kv_bytes(facts, context * parallel),
            compute_bytes=facts.size_bytes // 5 + 64 * MIB,
            overhead_bytes=overhead,
        )
    batch = batch_of(facts, launch, settings)
    return Estimate(
        weights_bytes=weights,
        kv_bytes=kv_bytes(
            facts.shape,
            context=context,
            parallel=parallel,
            batch=batch,
            kv_type=settings.kv_cache_type,
        ),
        compute_bytes=compute_bytes(facts.shape, context=context, batch=batch),
        overhead_bytes=overhead,
    )


def unreported_bytes(facts: Facts, *, on_cpu_bin: bool) -> int:
    """What a runner takes beyond what `/api/ps` says of it."""
    projector = facts.projector_bytes + PROJECTOR_GRAPH_BYTES if facts.projector_bytes else 0
    return projector + (0 if on_cpu_bin else PROCESS_BYTES)
