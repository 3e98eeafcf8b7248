"""The key-values in the head of a model file, as `/api/show` gives them.

Lists are `null` there unless it is asked to be verbose (v0.32.15 server/routes.go,
`getModelData`).
"""

from typing import Any

from ollama_gate.simulator import babble
from ollama_gate.simulator.catalog import EMBEDDING, Encoder, Model, Shape

_FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "BF16": 32,
    "MXFP4": 38,
}
_NORMAL_TOKEN = 1


def model_info(model: Model, *, verbose: bool) -> dict[str, Any]:
    """What a GGUF says of itself."""
    shape = model.shape
    found = (
        _general(model)
        | _dimensions(shape)
        | _attention(shape)
        | _mixture(shape)
        | _recurrence(shape)
        | _vocabulary(model, verbose=verbose)
    )
    shown = {key: value for key, value in found.items() if value is not None or "ggml" in key}
    if verbose:
        return shown
    return {key: None if isinstance(value, list) else value for key, value in shown.items()}


def projector_info(encoder: Encoder) -> dict[str, Any]:
    """What a projector's file says of itself."""
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.vision.attention.head_count": encoder.heads,
        "clip.vision.block_count": encoder.blocks,
        "clip.vision.embedding_length": encoder.embedding,
        "clip.vision.feed_forward_length": encoder.feed_forward,
        "general.architecture": "clip",
    }


def _general(model: Model) -> dict[str, Any]:
    return {
        "general.architecture": model.shape.family,
        "general.file_type": _FILE_TYPES[model.quantization],
        "general.parameter_count": int(model.parameters_b * 1e9),
        "general.quantization_version": 2,
    }


def _dimensions(shape: Shape) -> dict[str, Any]:
    arch = shape.family
    return {
        f"{arch}.block_count": shape.blocks,
        f"{arch}.context_length": shape.train_context,
        f"{arch}.embedding_length": shape.embedding,
        f"{arch}.feed_forward_length": shape.feed_forward,
        f"{arch}.vocab_size": shape.vocabulary,
    } | (_pooling(arch) if shape.is_embedder else {})


def _pooling(arch: str) -> dict[str, Any]:
    return {f"{arch}.attention.causal": False, f"{arch}.pooling_type": 1}


def _attention(shape: Shape) -> dict[str, Any]:
    arch, latent = shape.family, shape.latent
    return {
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": list(shape.kv_by_layer) or shape.kv_heads,
        f"{arch}.attention.key_length": shape.head_length or None,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-05,
        f"{arch}.attention.sliding_window": shape.window or None,
        f"{arch}.attention.value_length": latent.rank if latent else shape.head_length or None,
        f"{arch}.attention.key_length_mla": latent and latent.key_length,
        f"{arch}.attention.value_length_mla": latent and latent.value_length,
        f"{arch}.attention.kv_lora_rank": latent and latent.rank,
        f"{arch}.rope.dimension_count": shape.head_length or None,
    }


def _mixture(shape: Shape) -> dict[str, Any]:
    arch = shape.family
    if not shape.experts:
        return {}
    return {
        f"{arch}.expert_count": shape.experts,
        f"{arch}.expert_used_count": shape.experts_used,
        f"{arch}.expert_feed_forward_length": shape.expert_width or None,
        f"{arch}.expert_shared_count": shape.experts_shared or None,
        f"{arch}.leading_dense_block_count": 1 if shape.experts_shared else None,
    }


def _recurrence(shape: Shape) -> dict[str, Any]:
    arch, layer = shape.family, shape.recurrence
    if layer is None:
        return {}
    if not layer.state:
        return {f"{arch}.shortconv.l_cache": layer.kernel}
    return {
        f"{arch}.ssm.conv_kernel": layer.kernel,
        f"{arch}.ssm.inner_size": layer.inner,
        f"{arch}.ssm.state_size": layer.state,
        f"{arch}.ssm.time_step_rank": layer.rank,
    }


def _vocabulary(model: Model, *, verbose: bool) -> dict[str, Any]:
    count = model.shape.vocabulary if verbose else 0
    return {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "bert" if model.can(EMBEDDING) else "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [0] * count,
        "tokenizer.ggml.token_type": [_NORMAL_TOKEN] * count,
        "tokenizer.ggml.tokens": [babble.token(number) for number in range(count)],
    }
