"""The dimensions of a model, as its `model_info` in `/api/show` gives them.

What they cost is computed elsewhere, from the shape alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ollama_gate.footprint.lenient import given, number_of, text_of

LOCAL_LAYERS: Final[Mapping[str, int]] = {
    "gemma2": 1,
    "gemma3": 5,
    "gemma3n": 4,
    "gpt-oss": 1,
    "gptoss": 1,
    "cohere2": 3,
    "olmo3": 3,
}
"""How many sliding-window layers precede each with full attention; for an architecture that is
not listed every layer counts as full."""

_MAX_LAYERS: Final = 4096
"""No model has as many; a larger figure is somebody's mistake, or somebody's joke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a model that decide what its cache and buffers take.

    Attributes:
        kv_heads: of each layer, 0 for a recurrent one.
        local: which layers attend to a sliding window only.
        window: its length in tokens.
        latent: MLA: one compressed key serves as value too.
        recurrent_bytes: state of one recurrent layer for one sequence.
        feed_forward_length: the widest layer's.
        experts_used: of a mixture of experts, for each token; 0 for a dense model.
        cached: whether there is a cache at all; BERT and its like have none.
    """

    kv_heads: tuple[int, ...]
    heads: int
    embedding_length: int
    key_length: int
    value_length: int
    feed_forward_length: int
    local: tuple[bool, ...]
    window: int = 0
    latent: bool = False
    recurrent_bytes: int = 0
    experts_used: int = 0
    expert_feed_forward_length: int = 0
    cached: bool = True


class Info:
    """`model_info`: keys of one architecture, values of any kind."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._info = info
        self.architecture = text_of(info.get("general.architecture"))

    def get(self, key: str) -> Any:
        """The value as it came; `None` if there is none."""
        return self._info.get(f"{self.architecture}.{key}")

    def has(self, key: str) -> bool:
        """Whether the key is there, whatever its value."""
        return f"{self.architecture}.{key}" in self._info

    def number(self, key: str) -> int | None:
        """A number; of a list the largest."""
        value = self.get(key)
        if not isinstance(value, list):
            return number_of(value)
        return max((number_of(item) or 0 for item in value), default=None)

    def withheld(self, key: str) -> bool:
        """There, but `null`: Ollama shows no lists unless asked to be verbose."""
        return self.has(key) and self.get(key) is None


def read_shape(info: Info) -> Shape | None:
    """The shape; `None` where the architecture does not say enough to compute with."""
    layers, embedding = info.number("block_count"), info.number("embedding_length")
    heads = info.number("attention.head_count")
    kv_heads = _kv_heads(info, layers, heads)
    if not layers or not embedding or heads is None or kv_heads is None:
        return None
    head_length = embedding // heads if heads else 0
    feed_forward = info.number("feed_forward_length")
    used = info.number("expert_used_count") or 0
    window = info.number("attention.sliding_window") or 0
    causal = info.get("attention.causal")
    return Shape(
        kv_heads=kv_heads,
        heads=heads,
        embedding_length=embedding,
        key_length=given(info.number("attention.key_length"), head_length),
        value_length=given(info.number("attention.value_length"), head_length),
        feed_forward_length=given(feed_forward, 4 * embedding),
        local=_local(info, layers) if window else (False,) * layers,
        window=window,
        latent=info.number("attention.key_length_mla") is not None,
        recurrent_bytes=_recurrent_bytes(info, embedding),
        experts_used=used,
        expert_feed_forward_length=given(
            info.number("expert_feed_forward_length"), feed_forward or 0
        ),
        cached=not (info.has("pooling_type") and causal is False),
    )


def _kv_heads(info: Info, layers: int | None, heads: int | None) -> tuple[int, ...] | None:
    key = "attention.head_count_kv"
    if not layers or layers > _MAX_LAYERS or info.withheld(key):
        return None
    value = info.get(key)
    if isinstance(value, list):
        each = tuple(number_of(item) or 0 for item in value)
        return each if len(each) == layers else None
    number = given(number_of(value), heads)
    return None if number is None else (number,) * layers


def _local(info: Info, layers: int) -> tuple[bool, ...]:
    """Which layers slide: as the file says, else as its architecture is known to."""
    pattern = info.get("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers:
        return tuple(item is True for item in pattern)
    local = LOCAL_LAYERS.get(info.architecture, 0)
    return tuple(layer % (local + 1) < local for layer in range(layers))


def _recurrent_bytes(info: Info, embedding: int) -> int:
    inner = info.number("ssm.inner_size")
    if not inner:
        kept = info.number("shortconv.l_cache") or 1
        return 4 * embedding * max(0, kept - 1)
    state = info.number("ssm.state_size") or 0
    groups = info.number("ssm.group_count") or 0
    kernel = info.number("ssm.conv_kernel") or 1
    return 4 * (max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner)
