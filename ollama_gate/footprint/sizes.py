"""What a runner will take, before it was ever seen: weights, cache, buffers, overhead.

The formulas are llama.cpp's own for the cache and a fit to its dry-runs for the compute buffers,
as Ollama since 0.30 runs it; flash attention is assumed, and what cannot be known is taken too
large rather than too small. What was seen or configured instead is not asked for here.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from ollama_gate.footprint.explained import Estimate, Part, What
from ollama_gate.footprint.facts import Facts
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

PROJECTOR_GRAPH_ERROR_BYTES: Final = 900 * MIB
"""Up to 1.2 GiB were reported of them."""

PROCESS_ERROR_BYTES: Final = 300 * MIB
FILE_ERROR_PERCENT: Final = 8
"""31 of 33 reported readings lie within -2 and +8 % of what goes by the file's size."""

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
        return Estimate()
    context = context_of(facts, launch, settings)
    parallel = parallel_of(facts, settings.num_parallel)
    batch = batch_of(facts, launch, settings) if facts.shape else 0
    weights = _weights(facts, on_cpu_bin=on_cpu_bin)
    if facts.shape is None:
        model = (weights, *_guessed(facts, context * parallel))
    else:
        cache = kv_bytes(
            facts.shape,
            context=context,
            parallel=parallel,
            batch=batch,
            kv_type=settings.kv_cache_type,
        )
        compute = compute_bytes(facts.shape, context=context, batch=batch)
        model = (
            weights,
            Part(what="kv", bytes=cache, source="llama.cpp's cache formula"),
            Part(
                what="compute",
                bytes=compute,
                source="fit to llama.cpp's dry-runs",
                error_bytes=max(32 * MIB, compute // 20),
            ),
        )
    parts = (*model, *_overhead(facts, settings, on_cpu_bin=on_cpu_bin))
    return Estimate(
        parts=(*parts, *_safety(parts, settings.safety)),
        num_ctx=context,
        parallel=parallel,
        batch=batch,
    )


def _weights(facts: Facts, *, on_cpu_bin: bool) -> Part:
    listed = facts.tensors_bytes if on_cpu_bin else facts.weights_bytes
    if listed is None:
        size = facts.size_bytes
        return Part(
            what="weights",
            bytes=size,
            source="file size of /api/tags",
            error_bytes=size * FILE_ERROR_PERCENT // 100,
        )
    return Part(what="weights", bytes=listed, source="tensors of /api/show")


def _guessed(facts: Facts, cells: int) -> tuple[Part, ...]:
    """Cache and buffers of a model whose shape nobody can tell."""
    source = "guess from the file size: unknown architecture"
    guesses: tuple[tuple[What, int], ...] = (
        ("kv", unknown_kv_bytes(facts, cells)),
        ("compute", facts.size_bytes // 5 + 64 * MIB),
    )
    return tuple(
        Part(what=what, bytes=size, source=source, error_bytes=size * 40 // 100)
        for what, size in guesses
    )


def _overhead(facts: Facts, settings: Settings, *, on_cpu_bin: bool) -> tuple[Part, ...]:
    parts: list[Part] = []
    if facts.projector_bytes:
        parts += [
            Part(
                what="projector",
                bytes=facts.projector_bytes,
                source="tensors of /api/show",
            ),
            Part(
                what="projector buffers",
                bytes=PROJECTOR_GRAPH_BYTES,
                source="typical of what was reported",
                error_bytes=PROJECTOR_GRAPH_ERROR_BYTES,
            ),
        ]
    if not on_cpu_bin:
        parts.append(_process(settings))
    return tuple(parts)


def _process(settings: Settings) -> Part:
    learned = settings.overhead_bytes
    if learned is None:
        source, size = "457 MiB, what Ollama sets aside (ml/device.go)", PROCESS_BYTES
        return Part(what="process", bytes=size, source=source, error_bytes=PROCESS_ERROR_BYTES)
    return Part(what="process", bytes=learned, source="learned on this card")


def _safety(parts: tuple[Part, ...], factor: float) -> tuple[Part, ...]:
    extra = int(sum(part.bytes for part in parts) * (factor - 1))
    source = f"vram.safety: {factor:g}"
    return (Part(what="safety", bytes=extra, source=source),) if extra else ()


def unreported_bytes(facts: Facts, settings: Settings, *, on_cpu_bin: bool) -> int:
    """What a runner takes beyond what `/api/ps` says of it."""
    return sum(part.bytes for part in _overhead(facts, settings, on_cpu_bin=on_cpu_bin))
