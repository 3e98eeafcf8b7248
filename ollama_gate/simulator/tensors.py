"""The tensors of a model file: names, types and shapes, as `/api/show` lists them, and their bytes.

The types follow the quantisation's usual mixture; then, the largest first, some are kept finer or
made coarser until the sum leaves of the file what its head takes.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ollama_gate.simulator.catalog import Encoder, Model, Shape

_BLOCKS = {
    "F32": (4, 1),
    "BF16": (2, 1),
    "F16": (2, 1),
    "Q8_0": (34, 32),
    "Q6_K": (210, 256),
    "Q5_K": (176, 256),
    "Q5_0": (22, 32),
    "Q4_K": (144, 256),
    "Q4_0": (18, 32),
    "MXFP4": (17, 32),
    "Q3_K": (110, 256),
    "Q2_K": (84, 256),
}  # bytes and elements of a block (llama.cpp ggml-common.h)

# Type of most matrices, and of the few that are kept finer.
_TYPES = {
    "F32": ("F32", "F32"),
    "BF16": ("BF16", "BF16"),
    "F16": ("F16", "F16"),
    "Q4_K_S": ("Q4_K", "Q6_K"),
    "Q4_0": ("Q4_0", "Q6_K"),
    "Q4_K_M": ("Q4_K", "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0"),
    "MXFP4": ("BF16", "BF16"),
}
_EXPERTS_TYPE = {"MXFP4": "MXFP4"}
_IN_256S = {"Q6_K": "Q8_0", "Q5_K": "Q5_0", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0"}
_STEPS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "F32")
_STEPS_OF_32 = ("Q4_0", "Q5_0", "Q8_0", "F16", "F32")

# Bytes for each token of a vocabulary and its merges, in the head of a file.
_HEAD_LEAST, _HEAD_USUAL, _HEAD_MOST = 8, 32, 64
_HOST = ("token_embd.", "position_embd.", "token_types.")  # llama.cpp's input layer
_ENCODER = ("v.", "mm.", "a.")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    kind: str
    sizes: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """In the file, and wherever it is loaded to."""
        block_bytes, block_elements = _BLOCKS[self.kind]
        return math.prod(self.sizes) // block_elements * block_bytes


def tensors(model: Model) -> list[dict[str, Any]]:
    """What `/api/show` lists of a GGUF, in the file's order."""
    return [
        {"name": tensor.name, "type": tensor.kind, "shape": list(tensor.sizes)}
        for tensor in _tensors_of(model)
    ]


def card_bytes(model: Model) -> int:
    """What of the weights goes to a card if all layers do: a tied output layer is a copy there."""
    listed = _tensors_of(model)
    total = sum(t.size_bytes for t in listed if not t.name.startswith((*_HOST, *_ENCODER)))
    if model.shape.is_tied:
        total += sum(t.size_bytes for t in listed if t.name == "token_embd.weight")
    return min(total, model.disk_bytes)


def model_bytes(model: Model) -> int:
    """All of the weights, an encoder apart: what a runner on the CPU maps."""
    listed = _tensors_of(model)
    total = sum(t.size_bytes for t in listed if not t.name.startswith(_ENCODER))
    return min(total, model.disk_bytes)


def gguf_bytes(model: Model) -> int:
    """Length of the model's own file, a projector's apart."""
    return model.disk_bytes - projector_bytes(model)


def encoder_bytes(model: Model) -> int:
    """Weights of a picture's way in, inside the model's file or beside it."""
    inside = sum(t.size_bytes for t in _tensors_of(model) if t.name.startswith(_ENCODER))
    return inside + projector_bytes(model)


def projector_bytes(model: Model) -> int:
    """Length of the projector's own file; 0 where there is none."""
    if model.projector is None:
        return 0
    return sum(t.size_bytes for t in _encoder(model.projector, model.shape.embedding))


def _tensors_of(model: Model) -> tuple[Tensor, ...]:
    return _listed(model.shape, model.quantization, gguf_bytes(model))


@functools.lru_cache(maxsize=256)
def _listed(shape: Shape, quantization: str, file_bytes: int) -> tuple[Tensor, ...]:
    usual = [_in_whole_blocks(tensor) for tensor in _usual(shape, quantization)]
    head_bytes = file_bytes - sum(tensor.size_bytes for tensor in usual)
    if _HEAD_LEAST * shape.vocabulary <= head_bytes <= _HEAD_MOST * shape.vocabulary:
        return tuple(usual)
    return tuple(_fitted(usual, head_bytes - _HEAD_USUAL * shape.vocabulary))


def _fitted(listed: list[Tensor], missing_bytes: int) -> list[Tensor]:
    """The same with types a step finer or coarser, so that so many bytes more are taken."""
    order = sorted(range(len(listed)), key=lambda at: -math.prod(listed[at].sizes))
    for up in (False, True):
        changed = True
        while changed:
            changed = False
            for at in order:
                other = _stepped(listed[at], up=up)
                gain = other.size_bytes - listed[at].size_bytes
                if gain and (gain <= missing_bytes if up else missing_bytes < 0):
                    listed[at], missing_bytes, changed = other, missing_bytes - gain, True
    return listed


def _stepped(tensor: Tensor, *, up: bool) -> Tensor:
    """A matrix of the next type; vectors, which are never quantised, stay."""
    steps = _STEPS_OF_32 if tensor.sizes[0] % 256 else _STEPS
    if len(tensor.sizes) == 1:
        return tensor
    if tensor.kind in steps:
        at = steps.index(tensor.kind) + (1 if up else -1)
        return replace(tensor, kind=steps[at]) if 0 <= at < len(steps) else tensor
    near = [kind for kind in steps if (_width(kind) > _width(tensor.kind)) == up]
    return replace(tensor, kind=near[0 if up else -1]) if near else tensor


def _width(kind: str) -> float:
    block_bytes, block_elements = _BLOCKS[kind]
    return block_bytes / block_elements


def _in_whole_blocks(tensor: Tensor) -> Tensor:
    """As the quantiser leaves a row that its blocks do not divide."""
    if tensor.sizes[0] % 256 and tensor.kind in _IN_256S:
        tensor = replace(tensor, kind=_IN_256S[tensor.kind])
    if tensor.sizes[0] % _BLOCKS[tensor.kind][1]:
        tensor = replace(tensor, kind="F16")
    return tensor


def _usual(shape: Shape, quantization: str) -> Iterator[Tensor]:
    coarse, fine = _TYPES[quantization]
    words = fine if shape.is_tied else coarse
    yield _tensor("token_embd.weight", words, shape.embedding, shape.vocabulary)
    if shape.is_embedder and not _is_gated(shape):
        yield _tensor("position_embd.weight", "F32", shape.embedding, shape.train_context)
        yield _tensor("token_types.weight", "F32", shape.embedding, 2)
    for block in range(shape.blocks):
        kept_fine = _kept_fine(shape, quantization, block, coarse, fine)
        yield from _block(shape, quantization, block, coarse, kept_fine)
    yield _tensor("output_norm.weight", "F32", shape.embedding)
    if not shape.is_embedder and not shape.is_tied:
        yield _tensor("output.weight", fine, shape.embedding, shape.vocabulary)
    if shape.encoder is not None:
        yield from _encoder(shape.encoder, shape.embedding)


def _block(shape: Shape, quantization: str, block: int, coarse: str, fine: str) -> Iterator[Tensor]:
    name = f"blk.{block}"
    yield _tensor(f"{name}.attn_norm.weight", "F32", shape.embedding)
    if shape.recurrence is not None and not shape.kv_heads_of(block):
        yield from _recurrent(shape, name, coarse)
    elif shape.latent is not None:
        yield from _latent(shape, name, coarse)
    else:
        yield from _attention(shape, name, coarse, fine)
    if shape.feed_forward:
        yield _tensor(f"{name}.ffn_norm.weight", "F32", shape.embedding)
        yield from _feed_forward(shape, quantization, block, coarse, fine)


def _attention(shape: Shape, name: str, coarse: str, fine: str) -> Iterator[Tensor]:
    width, queries = shape.embedding, shape.heads * shape.head_length
    keys = shape.kv_heads * shape.head_length
    yield _tensor(f"{name}.attn_q.weight", coarse, width, queries)
    yield _tensor(f"{name}.attn_k.weight", coarse, width, keys)
    yield _tensor(f"{name}.attn_v.weight", fine, width, keys)
    yield _tensor(f"{name}.attn_output.weight", coarse, queries, width)


def _latent(shape: Shape, name: str, coarse: str) -> Iterator[Tensor]:
    latent = shape.latent
    assert latent is not None
    width, heads = shape.embedding, shape.heads
    rotated = shape.head_length - latent.rank
    plain = latent.key_length - rotated
    yield _tensor(f"{name}.attn_q.weight", coarse, width, heads * latent.key_length)
    yield _tensor(f"{name}.attn_kv_a_mqa.weight", coarse, width, shape.head_length)
    yield _tensor(f"{name}.attn_kv_a_norm.weight", "F32", latent.rank)
    yield _tensor(f"{name}.attn_k_b.weight", coarse, plain, latent.rank, heads)
    yield _tensor(f"{name}.attn_v_b.weight", coarse, latent.rank, latent.value_length, heads)
    yield _tensor(f"{name}.attn_output.weight", coarse, heads * latent.value_length, width)


def _recurrent(shape: Shape, name: str, coarse: str) -> Iterator[Tensor]:
    layer = shape.recurrence
    assert layer is not None
    width, inner = shape.embedding, layer.inner
    if not layer.state:
        yield _tensor(f"{name}.shortconv.conv.weight", "F32", layer.kernel, width)
        yield _tensor(f"{name}.shortconv.in_proj.weight", coarse, width, 3 * width)
        yield _tensor(f"{name}.shortconv.out_proj.weight", coarse, width, width)
        return
    yield _tensor(f"{name}.ssm_in.weight", coarse, width, 2 * inner)
    yield _tensor(f"{name}.ssm_conv1d.weight", "F32", layer.kernel, inner)
    yield _tensor(f"{name}.ssm_x.weight", coarse, inner, layer.rank + 2 * layer.state)
    yield _tensor(f"{name}.ssm_dt.weight", coarse, layer.rank, inner)
    yield _tensor(f"{name}.ssm_a", "F32", layer.state, inner)
    yield _tensor(f"{name}.ssm_out.weight", coarse, inner, width)


def _feed_forward(
    shape: Shape, quantization: str, block: int, coarse: str, fine: str
) -> Iterator[Tensor]:
    name = f"blk.{block}"
    is_dense = not shape.experts or (shape.experts_shared and block == 0)
    if is_dense:
        yield from _matrices(shape, name, "", shape.feed_forward, (coarse, fine))
        return
    width = shape.expert_width or shape.feed_forward
    kinds = _EXPERTS_TYPE.get(quantization, coarse), _EXPERTS_TYPE.get(quantization, fine)
    yield _tensor(f"{name}.ffn_gate_inp.weight", "F32", shape.embedding, shape.experts)
    yield from _matrices(shape, name, "_exps", width, kinds, shape.experts)
    if shape.experts_shared:
        yield from _matrices(shape, name, "_shexp", shape.experts_shared * width, kinds)


def _matrices(
    shape: Shape, name: str, suffix: str, inner: int, kinds: tuple[str, str], *more: int
) -> Iterator[Tensor]:
    width, (coarse, fine) = shape.embedding, kinds
    if _is_gated(shape):
        yield _tensor(f"{name}.ffn_gate{suffix}.weight", coarse, width, inner, *more)
    yield _tensor(f"{name}.ffn_up{suffix}.weight", coarse, width, inner, *more)
    yield _tensor(f"{name}.ffn_down{suffix}.weight", fine, inner, width, *more)


def _encoder(encoder: Encoder, out: int) -> Iterable[Tensor]:
    width = encoder.embedding
    for block in range(encoder.blocks):
        name = f"v.blk.{block}"
        for part in ("q", "k", "v", "out"):
            yield _tensor(f"{name}.attn_{part}.weight", "F16", width, width)
        yield _tensor(f"{name}.ffn_up.weight", "F16", width, encoder.feed_forward)
        yield _tensor(f"{name}.ffn_down.weight", "F16", encoder.feed_forward, width)
    yield _tensor("mm.0.weight", "F16", width, out)
    yield _tensor("mm.2.weight", "F16", out, out)


def _is_gated(shape: Shape) -> bool:
    return shape.family != "bert"


def _kept_fine(shape: Shape, quantization: str, block: int, coarse: str, fine: str) -> str:
    """Of a K mixture about half the blocks keep their values and down-projections finer."""
    blocks = shape.blocks
    edge = block < blocks // 8 or block >= 7 * blocks // 8
    mixed = quantization == "Q4_K_M" and (edge or (block - blocks // 8) % 3 == 2)  # noqa: PLR2004 (llama.cpp's `use_more_bits`)
    return fine if mixed else coarse


def _tensor(name: str, kind: str, *sizes: int) -> Tensor:
    return Tensor(name, kind, sizes)
