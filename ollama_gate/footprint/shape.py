"""The dimensions of a model, as its `model_info` in `/api/show` gives them.

What they cost is computed elsewhere, from the shape alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ollama_gate.footprint import architectures
from ollama_gate.footprint.lenient import given, list_of, number_of, text_of

Standing = Literal["checked", "known", "unknown"]
"""How sure the formulas are of an architecture: compared with dry-runs of llama.cpp, read in its
sources, or neither."""

_MAX_LAYERS: Final = 4096
"""No model has as many; a larger figure is somebody's mistake, or somebody's joke."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The dimensions of a model that decide what its cache and buffers take.

    Attributes:
        kv_heads: cached in each layer; 0 where a layer caches nothing of its own.
        least_kv_heads: the fewest that the file names, on which Ollama's prediction rests; 0 for
            the fewest of `kv_heads`.
        local: which layers attend to a sliding window only.
        window: its length in tokens.
        local_key_length: of a sliding layer, where it is another; 0 where it is not.
        local_value_length: the same of values.
        recurrent: which layers keep a state instead, or as well; empty for none.
        recurrent_bytes: state of one recurrent layer for one sequence.
        recurrent_length: numbers that such a layer works on for each token; 0 where they are few.
        latent: MLA: one compressed key serves as value too.
        latent_rank: of the compressed key; 0 without one.
        spread_key_length: of a head's key before it is compressed; 0 without one.
        index_length: of the keys by which sparse attention chooses, cached beside the others.
        attention_length: what all heads together put out for a token; 0 for as wide as a token.
        layer_input_length: of what each layer gets of its own beside the token's embedding.
        feed_forward_length: the widest dense layer's, 0 where every layer has experts.
        gated: whether the feed-forward part has two matrices up.
        experts_used: of a mixture of experts, for each token; 0 for a dense model.
        shared_feed_forward_length: of the experts that every token uses, together.
        vocabulary: tokens; 0 where nobody says.
        cached: whether there is a cache at all; BERT and its like have none.
        pooled: made for embeddings.
        standing: how sure the formulas are of this architecture.
    """

    kv_heads: tuple[int, ...]
    heads: int
    embedding_length: int
    key_length: int
    value_length: int
    feed_forward_length: int
    local: tuple[bool, ...]
    least_kv_heads: int = 0
    window: int = 0
    local_key_length: int = 0
    local_value_length: int = 0
    recurrent: tuple[bool, ...] = ()
    recurrent_bytes: int = 0
    recurrent_length: int = 0
    latent: bool = False
    latent_rank: int = 0
    spread_key_length: int = 0
    index_length: int = 0
    attention_length: int = 0
    layer_input_length: int = 0
    gated: bool = True
    experts_used: int = 0
    expert_feed_forward_length: int = 0
    shared_feed_forward_length: int = 0
    vocabulary: int = 0
    cached: bool = True
    pooled: bool = False
    standing: Standing = "checked"


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

    def count(self, key: str) -> int:
        """The same, 0 where there is none."""
        return self.number(key) or 0

    def withheld(self, key: str) -> bool:
        """There, but `null`: Ollama shows no lists unless asked to be verbose.

        Up to 0.6.5 such a list was empty instead.
        """
        return self.has(key) and self.get(key) in (None, [])

    def flags(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """A list of one truth for each layer; `None` where there is no such list."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != layers:
            return None
        return tuple(item is True or number_of(item) == 1 for item in value)


LISTS: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.recurrent_layers",
    "attention.sliding_window_pattern",
    "feed_forward_length",
)
"""Keys that some architectures give as a list, one value for each layer."""


def withheld_lists(info: Info) -> bool:
    """Whether a list that the shape rests on is kept back until somebody asks for all of it."""
    return any(info.withheld(key) for key in LISTS)


def read_shape(info: Info, *, vocabulary: int = 0) -> Shape | None:
    """The shape; `None` where the architecture does not say enough to compute with.

    Args:
        info: what the model says of itself.
        vocabulary: as wide as the embedding is in the list of tensors, if it is there.
    """
    layers, embedding = info.number("block_count"), info.number("embedding_length")
    heads = info.number("attention.head_count")
    if heads is None and info.architecture in architectures.RECURRENT:
        heads = 0
    if not layers or layers > _MAX_LAYERS or not embedding or heads is None:
        return None
    recurrent = _recurrent(info, layers)
    kv_heads = _kv_heads(info, layers, heads, recurrent)
    if kv_heads is None or recurrent is None:
        return None
    head_length = embedding // heads if heads else 0
    key_length = given(info.number("attention.key_length"), head_length)
    value_length = given(info.number("attention.value_length"), head_length)
    feed_forward = info.number("feed_forward_length")
    local, window = _local(info, layers)
    return Shape(
        kv_heads=kv_heads,
        least_kv_heads=_least_kv_heads(info),
        heads=heads,
        embedding_length=embedding,
        key_length=key_length,
        value_length=value_length,
        feed_forward_length=_dense_length(info, given(feed_forward, 4 * embedding)),
        local=local,
        window=window,
        local_key_length=info.count("attention.key_length_swa"),
        local_value_length=info.count("attention.value_length_swa"),
        recurrent=recurrent if any(recurrent) else (),
        recurrent_bytes=_recurrent_bytes(info, embedding, heads),
        recurrent_length=_recurrent_length(info, embedding),
        latent=info.number("attention.key_length_mla") is not None,
        latent_rank=info.count("attention.kv_lora_rank"),
        spread_key_length=info.count("attention.key_length_mla"),
        index_length=info.count("attention.indexer.key_length"),
        attention_length=heads * given(info.number("attention.value_length_mla"), value_length),
        layer_input_length=info.count("embedding_length_per_layer_input"),
        gated=info.architecture not in architectures.UNGATED,
        experts_used=info.count("expert_used_count"),
        expert_feed_forward_length=given(
            info.number("expert_feed_forward_length"), feed_forward or 0
        ),
        shared_feed_forward_length=_shared_length(info),
        vocabulary=vocabulary or info.count("vocab_size"),
        cached=_cached(info),
        pooled=info.has("pooling_type"),
        standing=_standing(info, local),
    )


def _kv_heads(
    info: Info, layers: int, heads: int, recurrent: tuple[bool, ...] | None
) -> tuple[int, ...] | None:
    key = "attention.head_count_kv"
    if recurrent is None or info.withheld(key):
        return None
    value = info.get(key)
    if isinstance(value, list):
        each = [number_of(item) or 0 for item in value]
    else:
        each = [given(number_of(value), heads)] * layers
    if len(each) != layers:
        return None
    own = layers - info.count("attention.shared_kv_layers")
    own = min(own, architectures.OWN_CACHES.get(info.architecture, own))
    both = info.architecture in architectures.RECURRENT_AND_FULL
    return tuple(
        number if layer < own and (both or not recurrent[layer]) else 0
        for layer, number in enumerate(each)
    )


def _least_kv_heads(info: Info) -> int:
    value = info.get("attention.head_count_kv")
    each = value if isinstance(value, list) else [value]
    return max(1, min((number_of(item) or 0 for item in each), default=1))


def _recurrent(info: Info, layers: int) -> tuple[bool, ...] | None:
    """Which layers keep a state; `None` where only a list that was withheld could tell."""
    name = info.architecture
    if name in architectures.RECURRENT or name in architectures.RECURRENT_AND_FULL:
        return (True,) * layers
    if name in architectures.INTERVALS:
        if info.withheld("attention.recurrent_layers"):
            return None
        interval = info.number("full_attention_interval") or architectures.INTERVALS[name]
        ahead = layers - info.count("nextn_predict_layers")
        return info.flags("attention.recurrent_layers", layers) or tuple(
            layer < ahead and (layer + 1) % interval != 0 for layer in range(layers)
        )
    kv_heads = list_of(info.get("attention.head_count_kv"))
    widths = list_of(info.get("feed_forward_length"))
    listed = len(kv_heads) == layers
    if listed and len(widths) == layers and name.startswith(architectures.RECURRENT_PREFIX):
        return tuple(not kv and not ff for kv, ff in zip(kv_heads, widths, strict=True))
    if listed:
        return tuple(not number_of(kv) for kv in kv_heads)
    return (False,) * layers


def _local(info: Info, layers: int) -> tuple[tuple[bool, ...], int]:
    """Which layers slide, as the file says or else as its architecture is known to; the window."""
    known = architectures.SLIDING.get(info.architecture)
    window = given(info.number("attention.sliding_window"), known.window if known else 0)
    if not window:
        return (False,) * layers, 0
    listed = info.flags("attention.sliding_window_pattern", layers)
    if listed is not None:
        return listed, window
    if known is None:
        return (False,) * layers, window
    period = info.number("attention.sliding_window_pattern") or known.period
    full = 0 if known.full_first else period - 1
    return tuple(layer % period != full for layer in range(layers)), window


def _cached(info: Info) -> bool:
    if info.architecture in architectures.UNCACHED:
        return False
    return not (info.has("pooling_type") and info.get("attention.causal") is False)


def _standing(info: Info, local: tuple[bool, ...]) -> Standing:
    if info.architecture in architectures.CHECKED:
        return "checked"
    if info.architecture in architectures.KNOWN:
        return "known"
    # Where a file says itself which layers slide, there is little left to get wrong.
    return "known" if any(local) else "unknown"


def _recurrent_bytes(info: Info, embedding: int, heads: int) -> int:
    """llama.cpp keeps a short past of the inputs and the state proper, in four bytes each."""
    inner, kernel = info.count("ssm.inner_size"), info.number("ssm.conv_kernel")
    past = max(0, given(kernel, 1) - 1)
    if head := info.count("wkv.head_size"):
        return 4 * embedding * (given(info.number("token_shift_count"), 2) + head)
    if head := info.count("kda.head_dim"):
        return 4 * heads * head * (3 * (past or 3) + head)
    if inner:
        state, groups = info.count("ssm.state_size"), info.count("ssm.group_count")
        return 4 * (past * (inner + 2 * groups * state) + state * inner)
    return 4 * embedding * max(0, info.count("shortconv.l_cache") - 1)


def _recurrent_length(info: Info, embedding: int) -> int:
    inner = info.count("ssm.inner_size")
    if not inner:
        return 0
    groups = 2 * info.count("ssm.group_count") * info.count("ssm.state_size")
    if info.architecture in architectures.INTERVALS:
        return 3 * (embedding + inner + groups)
    both = info.architecture in architectures.RECURRENT_AND_FULL
    return (3 if both else 1) * embedding + 6 * inner + 3 * groups


def _dense_length(info: Info, feed_forward: int) -> int:
    """Some mixtures of experts name a dense length that no layer has."""
    if not info.count("expert_used_count") or info.architecture in architectures.DENSE_AS_WELL:
        return feed_forward
    some = info.count("leading_dense_block_count") or info.count("interleave_moe_layer_step") > 1
    return feed_forward if some else 0


def _shared_length(info: Info) -> int:
    each = info.count("expert_shared_feed_forward_length")
    if each:
        return each
    return info.count("expert_shared_count") * info.count("expert_feed_forward_length")
