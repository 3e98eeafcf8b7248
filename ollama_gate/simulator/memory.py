"""What a runner takes, and what Ollama believes beforehand that it will take.

Two different figures on purpose: the first is what llama.cpp really allocates, the second
Ollama's own guess, by which it decides whether to evict (Ollama v0.32.15
llm/llama_server.go, `PredictServerVRAM`). The gate's estimates are not consulted here.
"""

from dataclasses import dataclass, replace

from ollama_gate.simulator.catalog import Shape

MIB = 2**20
GIB = 2**30

FIT_MARGIN_BYTES = 1024 * MIB  # llama-server's --fit leaves so much of a card free

_BATCH_DEFAULT = 512
_BATCH_MEDIUM = 1024
_BATCH_LARGE = 2048
_CONTEXT_MEDIUM = 4096
_CONTEXT_LARGE = 32768
_CELL_BLOCK = 256  # llama.cpp allocates the cache in blocks of so many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that a runner needs to be wholly on the GPU.

    Attributes:
        lost_bytes: what of it Ollama overlooks when it reads the sizes.
        encoder_bytes: of pictures; Ollama reads nothing of them.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    lost_bytes: int = 0
    encoder_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """What llama.cpp spreads over the cards, an encoder apart."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    @property
    def shown_bytes(self) -> int:
        """`size` and `size_vram` of a fully offloaded runner."""
        return self.total_bytes - self.lost_bytes


def overlooked_bytes(
    shape: Shape, *, context: int, parallel: int, batch: int, kv_width: float
) -> int:
    """What Ollama from 0.30 on misses of a model with a sliding window.

    llama.cpp names the sizes of two caches alike, and the second figure, of the layers that see
    their window only, takes the place of the first (memory parser of llm/llama_server.go).
    """
    if not shape.window:
        return 0
    full = replace(shape, window=0, blocks=shape.blocks // shape.window_period)
    return _kv_bytes(full, context, parallel, batch, kv_width)


def footprint(
    shape: Shape, weights_bytes: int, *, context: int, parallel: int, batch: int, kv_width: float
) -> Footprint:
    """What llama.cpp allocates; `kv_width` is bytes per cache element (f16: 2)."""
    return Footprint(
        weights_bytes=weights_bytes,
        kv_bytes=_kv_bytes(shape, context, parallel, batch, kv_width),
        compute_bytes=_compute_bytes(shape, context, batch),
    )


def predicted_bytes(shape: Shape, file_bytes: int, cells: int) -> int:
    """Ollama's guess for `cells` tokens over all slots: file and f16 cache, nothing else.

    It takes embedding size over heads for the head's length and knows no sliding window.
    """
    head = shape.embedding // shape.heads if shape.heads else 0
    kv_heads = min(shape.kv_by_layer, default=shape.kv_heads) or 1
    return file_bytes + 4 * shape.blocks * kv_heads * head * cells


def automatic_batch(context: int, predicted: int, available: int) -> int:
    """The batch Ollama picks for text generation where nobody asked for one."""
    batch = _BATCH_DEFAULT
    if context > _CONTEXT_LARGE:
        batch = _BATCH_LARGE
    elif context > _CONTEXT_MEDIUM:
        batch = _BATCH_MEDIUM
    while batch > _BATCH_DEFAULT and not _batch_fits(batch, predicted, available):
        batch = _BATCH_MEDIUM if batch > _BATCH_MEDIUM else _BATCH_DEFAULT
    return batch


def batch_surcharge(batch: int) -> int:
    """What Ollama adds to its guess for a large batch."""
    if batch >= _BATCH_LARGE:
        return 2 * GIB
    if batch >= _BATCH_MEDIUM:
        return 768 * MIB
    return 0


def _batch_fits(batch: int, predicted: int, available: int) -> bool:
    if predicted == 0 or available == 0:
        return True
    threshold = available * 80 // 100
    headroom_percent = 60 if batch >= _BATCH_LARGE else 75
    return (
        predicted <= available * headroom_percent // 100
        and predicted + batch_surcharge(batch) <= threshold
    )


def _kv_bytes(shape: Shape, context: int, parallel: int, batch: int, width: float) -> int:
    if shape.is_embedder:
        return 0
    cells = _padded(context)
    narrow = min(cells, _padded(min(cells, shape.window + batch)))
    # A compressed key is its own value.
    per_cell = (1 if shape.latent else 2) * shape.head_length * width
    each = 0.0
    for layer in range(shape.blocks):
        heads = shape.kv_heads_of(layer)
        seen = narrow if shape.is_narrow(layer) else cells
        each += heads * seen * per_cell if heads else _state_bytes(shape)
    return int(parallel * each)


def _state_bytes(shape: Shape) -> int:
    """What a recurrent layer keeps of one sequence, in 32 bits."""
    layer = shape.recurrence
    if layer is None:
        return 0
    return 4 * layer.inner * (layer.kernel - 1 + layer.state)


def _compute_bytes(shape: Shape, context: int, batch: int) -> int:
    wide = 3 * shape.feed_forward
    if shape.experts_used:
        width = shape.expert_width or shape.feed_forward
        wide = shape.experts_used * (3 * width + shape.embedding)
    return batch * (4 * (4 * shape.embedding + wide) + 2 * context)


def _padded(context: int) -> int:
    return -(-context // _CELL_BLOCK) * _CELL_BLOCK
