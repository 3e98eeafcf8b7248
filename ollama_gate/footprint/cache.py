"""What the cache of a runner takes: llama.cpp's own arithmetic, to the byte.

From `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp` and `llama-hparams.cpp` (b10488), and every one
of its dry-runs agrees. The context comes as it is; whether a model was trained for as much is
settled elsewhere.
"""

from collections.abc import Mapping
from typing import Final

from ollama_gate.footprint.shape import Shape

PADDING: Final = 256
"""A sequence's cache is rounded up to a multiple of this many cells."""

BLOCK: Final = 32
"""Elements that a quantised type keeps together; no row is shorter."""

KV_BLOCK_BYTES: Final[Mapping[str, int]] = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q4_0": 18,
}
"""Bytes of one block of a cache; Ollama runs any other `OLLAMA_KV_CACHE_TYPE` as f16."""


def quantised(kv_type: str) -> bool:
    """Whether the cache is kept in fewer than 16 bits an element."""
    return KV_BLOCK_BYTES.get(kv_type, 64) < KV_BLOCK_BYTES["f16"]


def padded(cells: int) -> int:
    """As many cells as a sequence of so many tokens gets."""
    return -(-cells // PADDING) * PADDING


def window_cells(shape: Shape, *, context: int, batch: int) -> int:
    """Cells of a sliding layer for one sequence; a batch more than its window."""
    full = padded(context)
    return min(full, padded(min(full, shape.window + batch)))


def kv_bytes(shape: Shape, *, context: int, parallel: int, batch: int, kv_type: str) -> int:
    """The cache of `parallel` sequences of `context` tokens each, recurrent state included."""
    if not shape.cached:
        return 0
    full = local = 0
    for heads, is_local in zip(shape.kv_heads, shape.local, strict=True):
        local, full = (local + heads, full) if is_local else (local, full + heads)
    values = (0, 0) if shape.latent else (shape.value_length, shape.local_value_length)
    row = full * (shape.key_length + values[0] + shape.index_length)
    local_keys = shape.local_key_length or shape.key_length
    local_row = local * (local_keys + (values[1] or values[0]))
    elements = row * padded(context)
    elements += local_row * window_cells(shape, context=context, batch=batch)
    cached = elements * KV_BLOCK_BYTES.get(kv_type, KV_BLOCK_BYTES["f16"]) // BLOCK
    return parallel * (cached + sum(shape.recurrent) * shape.recurrent_bytes)
