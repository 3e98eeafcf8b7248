"""The models this world knows, as data: sizes, architectures, what each can do.

Sizes are those that `GET /api/tags` shows for the public models; the architectures are those of
their published configurations. Digests are made up, the same on every run.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ollama_gate.simulator.catalog import (
    COMPLETION,
    EMBEDDING,
    THINKING,
    TOOLS,
    VISION,
    Encoder,
    Latent,
    Model,
    Recurrence,
    Shape,
)
from ollama_gate.simulator.refs import parse_name

_TOOLED = (COMPLETION, TOOLS)
_THINKER = (COMPLETION, TOOLS, THINKING)
_VISUAL = (COMPLETION, VISION)
_EMBEDDER = (EMBEDDING,)


def select(names: Iterable[str]) -> tuple[Model, ...]:
    """Models of the library by name.

    Raises:
        KeyError: if the library has no such model.
    """
    by_name = {model.full_name: model for model in LIBRARY}
    return tuple(by_name[parse_name(name)] for name in names)


def _llama(
    blocks: int, embedding: int, heads: tuple[int, int], ff: int, context: int, **more: Any
) -> Shape:
    return _shape("llama", blocks, embedding, heads, ff, context, **more)


def _shape(
    family: str,
    blocks: int,
    embedding: int,
    heads: tuple[int, int],
    ff: int,
    context: int,
    **more: Any,
) -> Shape:
    return Shape(
        family=family,
        blocks=blocks,
        embedding=embedding,
        heads=heads[0],
        kv_heads=heads[1],
        head_length=embedding // heads[0],
        feed_forward=ff,
        train_context=context,
        **more,
    )


_SIGLIP = Encoder(blocks=27, embedding=1152, feed_forward=4304, heads=16)
_CLIP = Encoder(blocks=23, embedding=1024, feed_forward=4096, heads=16)


def _gemma3(blocks: int, embedding: int, heads: tuple[int, int], head: int, ff: int) -> Shape:
    return Shape(
        family="gemma3",
        blocks=blocks,
        embedding=embedding,
        heads=heads[0],
        kv_heads=heads[1],
        head_length=head,
        feed_forward=ff,
        train_context=131072,
        vocabulary=262144,
        window=1024,
        window_period=6,
        is_tied=True,
        encoder=_SIGLIP,
    )


def _embedder(family: str, blocks: int, embedding: int, heads: int, ff: int, ctx: int) -> Shape:
    return Shape(
        family=family,
        blocks=blocks,
        embedding=embedding,
        heads=heads,
        kv_heads=heads,
        head_length=embedding // heads,
        feed_forward=ff,
        train_context=ctx,
        vocabulary=30522,
        is_embedder=True,
    )


_SMOLLM: Mapping[str, Any] = {"vocabulary": 49152, "is_tied": True}
_QWEN_SMALL: Mapping[str, Any] = {"vocabulary": 151936, "is_tied": True}
_LLAMA_8B = _llama(32, 4096, (32, 8), 14336, 131072, vocabulary=128256)
_QWEN_7B = _shape("qwen2", 28, 3584, (28, 4), 18944, 32768, vocabulary=152064)
_QWEN_32B = _shape("qwen2", 64, 5120, (40, 8), 27648, 32768, vocabulary=152064)
_MIXTRAL = Shape(
    family="llama",
    blocks=32,
    embedding=4096,
    heads=32,
    kv_heads=8,
    head_length=128,
    feed_forward=14336,
    train_context=32768,
    experts=8,
    experts_used=2,
)
_GPT_OSS_20B = Shape(
    family="gptoss",
    blocks=24,
    embedding=2880,
    heads=64,
    kv_heads=8,
    head_length=64,
    feed_forward=2880,
    train_context=131072,
    vocabulary=201088,
    window=128,
    window_period=2,
    experts=32,
    experts_used=4,
)
_QWEN3_8B = Shape(
    family="qwen3",
    blocks=36,
    embedding=4096,
    heads=32,
    kv_heads=8,
    head_length=128,
    feed_forward=12288,
    train_context=40960,
    vocabulary=151936,
)
_GEMMA_2B = Shape(
    family="gemma",
    blocks=18,
    embedding=2048,
    heads=8,
    kv_heads=1,
    head_length=256,
    feed_forward=16384,
    train_context=8192,
    vocabulary=256000,
    is_tied=True,
)


_GEMMA2_9B = Shape(
    family="gemma2",
    blocks=42,
    embedding=3584,
    heads=16,
    kv_heads=8,
    head_length=256,
    feed_forward=14336,
    train_context=8192,
    vocabulary=256000,
    window=4096,
    window_period=2,
    is_tied=True,
)
_QWEN3_30B_A3B = Shape(
    family="qwen3moe",
    blocks=48,
    embedding=2048,
    heads=32,
    kv_heads=4,
    head_length=128,
    feed_forward=6144,
    train_context=40960,
    vocabulary=151936,
    experts=128,
    experts_used=8,
    expert_width=768,
)
_DEEPSEEK_V2_16B = Shape(
    family="deepseek2",
    blocks=27,
    embedding=2048,
    heads=16,
    kv_heads=1,
    head_length=576,
    feed_forward=10944,
    train_context=163840,
    vocabulary=102400,
    experts=64,
    experts_used=6,
    expert_width=1408,
    experts_shared=2,
    latent=Latent(rank=512, key_length=192, value_length=128),
)
_LFM2_1B = Shape(
    family="lfm2",
    blocks=16,
    embedding=2048,
    heads=32,
    kv_heads=8,
    kv_by_layer=(0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0),
    head_length=64,
    feed_forward=8192,
    train_context=128000,
    vocabulary=65536,
    recurrence=Recurrence(kernel=3, inner=2048),
    is_tied=True,
)
_MAMBA_130M = Shape(
    family="mamba",
    blocks=24,
    embedding=768,
    heads=0,
    kv_heads=0,
    head_length=0,
    feed_forward=0,
    train_context=1048576,
    vocabulary=50280,
    recurrence=Recurrence(kernel=4, inner=1536, state=16, rank=48),
    is_tied=True,
)


def _model(name: str, disk: int, billions: float, shape: Shape, **more: Any) -> Model:
    return Model(name=name, disk_bytes=disk, parameters_b=billions, shape=shape, **more)


SMALL: tuple[Model, ...] = (
    _model("smollm:360m", 229_137_813, 0.36182, _llama(32, 960, (15, 5), 2560, 2048, **_SMOLLM)),
    _model(
        "all-minilm",
        45_960_996,
        0.02257,
        _embedder("bert", 6, 384, 12, 1536, 512),
        quantization="F16",
        capabilities=_EMBEDDER,
    ),
    _model(
        "nomic-embed-text",
        274_302_450,
        0.13673,
        _embedder("nomic-bert", 12, 768, 12, 3072, 2048),
        quantization="F16",
        capabilities=_EMBEDDER,
    ),
    _model(
        "qwen2.5:0.5b",
        397_821_319,
        0.49403,
        _shape("qwen2", 24, 896, (14, 2), 4864, 32768, **_QWEN_SMALL),
        capabilities=_TOOLED,
    ),
    _model(
        "tinyllama:1.1b",
        637_700_138,
        1.1,
        _llama(22, 2048, (32, 4), 5632, 2048),
        quantization="Q4_0",
        parameters={"stop": ["<|system|>", "<|user|>", "<|assistant|>", "</s>"]},
    ),
    _model("smollm:1.7b", 990_733_000, 1.7, _llama(24, 2048, (32, 32), 8192, 2048, **_SMOLLM)),
    _model(
        "llama3.2:1b",
        1_321_098_329,
        1.2,
        _llama(16, 2048, (32, 8), 8192, 131072, vocabulary=128256, is_tied=True),
        quantization="Q8_0",
        capabilities=_TOOLED,
    ),
    _model("gemma:2b", 1_678_456_656, 3.0, _GEMMA_2B, quantization="Q4_0"),
    _model(
        "qwen2.5:1.5b",
        986_061_892,
        1.5,
        _shape("qwen2", 28, 1536, (12, 2), 8960, 32768, **_QWEN_SMALL),
        capabilities=_TOOLED,
    ),
    _model(
        "phi3:mini",
        2_176_178_843,
        3.8,
        _shape("phi3", 32, 3072, (32, 32), 8192, 131072, vocabulary=32064),
        quantization="Q4_0",
    ),
)

LARGE: tuple[Model, ...] = (
    _model("llama3.1:8b", 4_920_753_328, 8.0, _LLAMA_8B, capabilities=_TOOLED),
    _model("qwen2.5:7b", 4_683_087_332, 7.6, _QWEN_7B, capabilities=_TOOLED),
    _model(
        "mistral:7b",
        4_372_824_384,
        7.2,
        _llama(32, 4096, (32, 8), 14336, 32768, vocabulary=32768),
        capabilities=_TOOLED,
    ),
    _model("qwen3:8b", 5_225_388_164, 8.2, _QWEN3_8B, capabilities=_THINKER),
    _model(
        "qwen2.5:14b",
        8_988_124_069,
        14.8,
        _shape("qwen2", 48, 5120, (40, 8), 13824, 32768, vocabulary=152064),
        capabilities=_TOOLED,
    ),
    _model(
        "gemma3:12b",
        8_149_190_253,
        12.2,
        _gemma3(48, 3840, (16, 8), 256, 15360),
        capabilities=_VISUAL,
    ),
    _model(
        "gpt-oss:20b",
        13_780_173_839,
        20.9,
        _GPT_OSS_20B,
        quantization="MXFP4",
        capabilities=_THINKER,
    ),
    _model("qwen2.5:32b", 19_851_349_856, 32.8, _QWEN_32B, capabilities=_TOOLED),
    _model(
        "gemma3:27b",
        17_396_936_941,
        27.4,
        _gemma3(62, 5376, (32, 16), 128, 21504),
        capabilities=_VISUAL,
    ),
    _model(
        "mixtral:8x7b",
        26_442_493_141,
        46.7,
        _MIXTRAL,
        quantization="Q4_0",
        capabilities=_TOOLED,
    ),
    _model(
        "llama3.3:70b",
        42_520_413_916,
        70.6,
        _llama(80, 8192, (64, 8), 28672, 131072, vocabulary=128256),
        capabilities=_TOOLED,
    ),
)

OTHERS: tuple[Model, ...] = (
    # A second name for the same blob, and one that runs elsewhere.
    _model("llama3.1", 4_920_753_328, 8.0, _LLAMA_8B, capabilities=_TOOLED, blob_of="llama3.1:8b"),
    _model(
        "gpt-oss:120b-cloud",
        384,
        116.8,
        _GPT_OSS_20B,
        quantization="MXFP4",
        capabilities=_THINKER,
        remote_model="gpt-oss:120b",
        remote_host="https://ollama.com:443",
    ),
)

ODD: tuple[Model, ...] = (
    _model("gemma2:9b", 5_443_152_417, 9.2, _GEMMA2_9B, quantization="Q4_0"),
    _model("qwen3:30b-a3b", 18_556_699_314, 30.5, _QWEN3_30B_A3B, capabilities=_THINKER),
    _model("deepseek-v2:16b", 8_905_126_121, 15.7, _DEEPSEEK_V2_16B, quantization="Q4_0"),
    _model(
        "llava:7b",
        4_733_363_377,
        7.2,
        _llama(32, 4096, (32, 8), 14336, 32768),
        quantization="Q4_0",
        capabilities=_VISUAL,
        projector=_CLIP,
    ),
    _model("lfm2:1.2b", 730_895_360, 1.2, _LFM2_1B, capabilities=_TOOLED),
    _model("mamba:130m", 258_553_000, 0.12914, _MAMBA_130M, quantization="F16"),
)
"""Windows, experts, compressed and recurrent caches, a projector: what is not the usual sum."""

LIBRARY: tuple[Model, ...] = SMALL + LARGE + ODD + OTHERS
