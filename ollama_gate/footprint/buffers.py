"""What a runner takes for intermediate results while it computes one batch.

Fits, with a structural reason for each term, to llama.cpp's dry-runs (b10488): its allocator gives
a graph one block as large as the widest moment of it, which lies in the feed-forward part, or,
without flash attention, where all heads look at all cells. How good they are: `docs/footprints.md`.
"""

from ollama_gate.footprint.cache import padded, quantised, window_cells
from ollama_gate.footprint.shape import Shape

_F32, _F16 = 4, 2


def compute_bytes(
    shape: Shape,
    *,
    context: int,
    batch: int,
    parallel: int = 1,
    kv_type: str = "f16",
    flash: bool = True,
    all_outputs: bool = False,
) -> int:
    """Buffers for one batch.

    Args:
        shape: of the model.
        context: tokens of each sequence.
        batch: tokens computed at once, over all sequences.
        parallel: sequences.
        kv_type: of the cache.
        flash: whether attention is computed without keeping all scores.
        all_outputs: whether room is kept for the scores of all words after every token, not only
            after the last of each sequence.
    """
    if not shape.cached:
        return _encoder_bytes(shape, batch=batch, flash=flash)
    cells = padded(context) if any(shape.kv_heads) else 0
    near = window_cells(shape, context=context, batch=batch) if any(shape.local) else 0
    masks = (cells + near) * (_F16 if flash else _F32)
    widest = (
        max(_feed_forward(shape, kv_type), shape.recurrent_length, _latent(shape)) * _F32 + masks
    )
    if not flash and cells:
        widest = max(widest, _scores(shape, cells, near) * _F32)
    if all_outputs:
        # Nothing else is alive by then, but an embedding model's masks are.
        widest = max(widest, _outputs(shape) * _F32 + (masks if shape.pooled else 0))
    return batch * (widest + _INPUTS) + _aside(shape, cells, parallel, kv_type, flash=flash)


_INPUTS = 8 * _F32
"""Positions, places in the cache and the like: a few numbers for each token."""


def _feed_forward(shape: Shape, kv_type: str) -> int:
    """Numbers alive at once for a token in the feed-forward part of a layer.

    What comes in, its norm and what goes out; the three results inside; and what attention put out
    before, whose room only something of the same size can take. With a quantised cache attention is
    rotated first, which moves the blocks about.
    """
    embedding = shape.embedding_length
    attended = shape.attention_length or embedding
    rotated = quantised(kv_type) and not shape.latent
    parted = any(shape.local) or (
        shape.shared_feed_forward_length and not shape.feed_forward_length
    )
    if rotated and attended == embedding and not parted:
        attended = 0
    elif rotated and attended < embedding:
        attended *= 2
    each = (len(shape.kv_heads) + 1) * shape.layer_input_length
    return 3 * embedding + attended + _inside(shape) + each


def _inside(shape: Shape) -> int:
    dense = (3 if shape.gated else 1) * shape.feed_forward_length
    used, wide, embedding = (
        shape.experts_used,
        shape.expert_feed_forward_length,
        shape.embedding_length,
    )
    if not used:
        return dense
    # What the experts put out takes the room of two of their three results, if it is large enough.
    experts = used * (3 * wide + (embedding if embedding > 2 * wide else 0))
    return max(dense, experts, 3 * shape.shared_feed_forward_length)


def _latent(shape: Shape) -> int:
    """Numbers alive at once for a token where every head looks at the compressed keys."""
    if not shape.latent:
        return 0
    # A head's query as it comes and compressed, and what it put out, compressed and as it goes.
    each = shape.spread_key_length + shape.key_length + shape.latent_rank
    return 3 * shape.embedding_length + shape.heads * each + shape.attention_length


def _outputs(shape: Shape) -> int:
    return shape.vocabulary + (2 + shape.experts_used) * shape.embedding_length


def _scores(shape: Shape, cells: int, near: int) -> int:
    """Numbers alive at once for a token where every head has looked at every cell."""
    embedding, heads = shape.embedding_length, shape.heads
    queries, kept = heads * shape.key_length, max(shape.kv_heads)
    attended = shape.attention_length or embedding
    beside = queries if shape.latent else kept * (shape.key_length + shape.value_length)
    if near:
        beside += attended + near
    return cells * (1 + heads) + 3 * embedding + 2 * queries + beside


def _aside(shape: Shape, cells: int, parallel: int, kv_type: str, *, flash: bool) -> int:
    """What does not grow with the batch: states, rotations, compressed keys laid out anew."""
    states = parallel * shape.recurrent_bytes if shape.recurrent_length else 0
    turns = 0
    if quantised(kv_type) and cells and not shape.latent:
        turns = _F32 * (shape.key_length**2 + 64 * 64) * (2 if any(shape.local) else 1)
    anew = _F16 * cells * shape.latent_rank if shape.latent and not flash else 0
    return states * 6 // 5 + turns + anew


def _encoder_bytes(shape: Shape, *, batch: int, flash: bool) -> int:
    """An encoder sees a batch as one text, each token all others."""
    embedding, wide = shape.embedding_length, shape.feed_forward_length
    inside = 2 * wide + 6 * embedding if shape.gated else wide + 3 * embedding
    if shape.experts_used or (any(shape.local) and shape.gated):
        inside = max(inside, _feed_forward(shape, "f16"))
    masks = batch * (2 if any(shape.local) else 1)
    if flash:
        return batch * (inside * _F32 + masks * _F16 + _INPUTS)
    scores = 6 * embedding + batch * (1 + shape.heads)
    return batch * (max(inside + embedding + masks, scores) * _F32 + _INPUTS)
