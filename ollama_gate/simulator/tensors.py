"""The tensor list of `/api/show`: names, types and shapes as llama.cpp's quantiser leaves them.

The types follow the quantisation's usual mixture, so that the bytes come out near the file's.
"""

from collections.abc import Iterator
from typing import Any

from ollama_gate.simulator.catalog import Model, Shape

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


def tensors(model: Model) -> list[dict[str, Any]]:
    """What `/api/show` lists of a GGUF, in the file's order."""
    coarse, fine = _TYPES[model.quantization]
    shape = model.shape
    listed = [_tensor("token_embd.weight", coarse, shape.embedding, shape.vocabulary)]
    for block in range(shape.blocks):
        listed += _block(model, block, coarse, _kept_fine(model, block, coarse, fine))
    listed.append(_tensor("output_norm.weight", "F32", shape.embedding))
    if not shape.is_embedder and not shape.is_tied:
        listed.append(_tensor("output.weight", fine, shape.embedding, shape.vocabulary))
    return listed


def _block(model: Model, block: int, coarse: str, fine: str) -> Iterator[dict[str, Any]]:
    shape = model.shape
    width, queries = shape.embedding, shape.heads * shape.head_length
    keys = shape.kv_heads * shape.head_length
    name = f"blk.{block}"
    yield _tensor(f"{name}.attn_norm.weight", "F32", width)
    yield _tensor(f"{name}.attn_q.weight", coarse, width, queries)
    yield _tensor(f"{name}.attn_k.weight", coarse, width, keys)
    yield _tensor(f"{name}.attn_v.weight", fine, width, keys)
    yield _tensor(f"{name}.attn_output.weight", coarse, queries, width)
    yield _tensor(f"{name}.ffn_norm.weight", "F32", width)
    yield from _feed_forward(model, name, coarse, fine)


def _feed_forward(model: Model, name: str, coarse: str, fine: str) -> Iterator[dict[str, Any]]:
    shape = model.shape
    width, inner = shape.embedding, shape.feed_forward
    if shape.experts:
        coarse = _EXPERTS_TYPE.get(model.quantization, coarse)
        fine = _EXPERTS_TYPE.get(model.quantization, fine)
        yield _tensor(f"{name}.ffn_gate_inp.weight", "F32", width, shape.experts)
    suffix, more = ("_exps", (shape.experts,)) if shape.experts else ("", ())
    if _is_gated(shape):
        yield _tensor(f"{name}.ffn_gate{suffix}.weight", coarse, width, inner, *more)
    yield _tensor(f"{name}.ffn_up{suffix}.weight", coarse, width, inner, *more)
    yield _tensor(f"{name}.ffn_down{suffix}.weight", fine, inner, width, *more)


def _is_gated(shape: Shape) -> bool:
    return shape.family != "bert"


def _kept_fine(model: Model, block: int, coarse: str, fine: str) -> str:
    """Of a K mixture about half the blocks keep their values and down-projections finer."""
    blocks = model.shape.blocks
    edge = block < blocks // 8 or block >= 7 * blocks // 8
    mixed = model.quantization == "Q4_K_M" and (edge or (block - blocks // 8) % 3 == 2)  # noqa: PLR2004 (llama.cpp's `use_more_bits`)
    return fine if mixed else coarse


def _tensor(name: str, kind: str, *sizes: int) -> dict[str, Any]:
    return {"name": name, "type": kind, "shape": list(sizes)}
