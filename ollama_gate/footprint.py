"""How much memory a runner needs: configured, else learned from Ollama, else estimated.

Everything is computed from what `/api/show`, `/api/tags` and `/api/ps` said; nothing is asked
here and nothing decided. The formulas are llama.cpp's own for the cache and a fit to its
dry-runs for the compute buffers, as Ollama since 0.30 runs it; flash attention is assumed, and
what cannot be known is taken too large rather than too small. Sizes are bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final, Literal, TypeVar

from ollama_gate.scheduler.types import Launch, ModelKey, Need

MIB: Final = 2**20
GIB: Final = 2**30

PROCESS_BYTES: Final = 457 * MIB
"""What a CUDA process takes on a card before anything is loaded; Ollama v0.32.15 sets as much
aside (`ml/device.go` `MinimumMemory`), and `size_vram` does not show it."""

PROJECTOR_GRAPH_BYTES: Final = 300 * MIB
"""Buffers of a vision projector, which `size_vram` does not show either."""

GGUF_HEADER_BYTES: Final = 16 * MIB
"""Metadata and vocabulary at the head of a model file, generously."""

MIN_CONTEXT: Final = 4
VISION_MIN_CONTEXT: Final = 2048
CONTEXT_TIERS: Final = ((47 * GIB, 262_144), (23 * GIB, 32_768))
"""Ollama's automatic context by the memory of all cards (v0.32.15 `server/routes.go`)."""
SMALLEST_CONTEXT_TIER: Final = 4096

SINGLE_SLOT_FAMILIES: Final = frozenset(
    ["mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe"]
)
"""Ollama never gives these more than one slot (v0.32.15 `server/sched.go`, `load`)."""
SINGLE_SLOT_PREFIX: Final = "nemotron_h"

BATCH_TIERS: Final = ((32_768, 2048, 60, 2 * GIB), (4096, 1024, 75, 768 * MIB))
"""Ollama's automatic batch: above so many tokens of context over all slots, a batch of so many,
if its prediction stays within so many percent of the free memory and so many bytes more stay
within `FIT_PERCENT` (v0.32.15 `server/sched.go`, `automaticGenerationBatch`)."""
SMALLEST_BATCH: Final = 512
LARGEST_EMBEDDING_BATCH: Final = 2048
FIT_PERCENT: Final = 80

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

PLAUSIBLE_SHARE: Final = 0.7
"""A model wholly on a card that reports less than this share of its weights was misread:
Ollama sums lines of llama-server's log, and some are missed."""
HOST_HEAVY_PREFIXES: Final = ("gemma3n", "gemma4")
"""A large part of these stays in host memory, so that their file says little."""

_TENSOR_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "F64": (8, 1), "F32": (4, 1), "F16": (2, 1), "BF16": (2, 1),
    "I64": (8, 1), "I32": (4, 1), "I16": (2, 1), "I8": (1, 1),
    "Q4_0": (18, 32), "Q4_1": (20, 32), "Q5_0": (22, 32), "Q5_1": (24, 32),
    "Q8_0": (34, 32), "Q8_1": (36, 32), "MXFP4": (17, 32), "IQ4_NL": (18, 32),
    "Q2_K": (84, 256), "Q3_K": (110, 256), "Q4_K": (144, 256), "Q5_K": (176, 256),
    "Q6_K": (210, 256), "Q8_K": (292, 256),
    "IQ1_S": (50, 256), "IQ1_M": (56, 256), "IQ2_XXS": (66, 256), "IQ2_XS": (74, 256),
    "IQ2_S": (82, 256), "IQ3_XXS": (98, 256), "IQ3_S": (110, 256), "IQ4_XS": (136, 256),
    "TQ1_0": (54, 256), "TQ2_0": (66, 256),
}  # fmt: skip
"""Bytes and elements of one block of each ggml tensor type."""

_HOST_TENSORS: Final = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")
"""llama.cpp keeps its input layer in host memory."""
_PROJECTOR_TENSORS: Final = ("v.", "mm.", "a.")

_BLOB: Final = re.compile(r"sha256[-:][0-9a-f]{64}", re.IGNORECASE)

_PARAMETERS: Final = frozenset(
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"]
)

_MAX_LAYERS: Final = 4096
"""No model has as many; a larger figure is somebody's mistake, or somebody's joke."""

_T = TypeVar("_T")

Source = Literal["configured", "learned", "estimated"]
"""Where a footprint is from."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What `/api/show` and `/api/tags` tell of a model; it holds for as long as its digest does.

    Attributes:
        key: what its runner is known by: the model file's blob, which aliases share.
        name: as it was asked for.
        size_bytes: of the model file, as far as that can be told from everything on disk.
        architecture: `general.architecture`; `family` is Ollama's own word for it.
        context_length: the trained length in tokens, if it is known.
        capabilities: as Ollama lists them: `completion`, `embedding`, `vision`, ...
        remote: runs elsewhere and takes nothing here.
        pooling: an embedding model.
        parameters: the Modelfile's, and the adapters and projectors that come with it.
        shape: `None` where the architecture does not say enough to compute with.
        weights_bytes: what of the weights goes to a card; `None` without a list of tensors.
        tensors_bytes: all of the weights, projector apart.
        projector_bytes: a vision or audio encoder, inside the model file or beside it.
    """

    key: ModelKey
    name: str
    size_bytes: int
    architecture: str = ""
    family: str = ""
    context_length: int | None = None
    capabilities: frozenset[str] = frozenset()
    remote: bool = False
    pooling: bool = False
    parameters: Launch = field(default_factory=Launch)
    shape: Shape | None = None
    weights_bytes: int | None = None
    tensors_bytes: int | None = None
    projector_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an upstream is set up, as far as it decides what its runners take.

    Attributes:
        num_parallel: `OLLAMA_NUM_PARALLEL` there.
        kv_cache_type: `OLLAMA_KV_CACHE_TYPE` there.
        context_length: `OLLAMA_CONTEXT_LENGTH` there, 0 where it is left to the tier.
        total_bytes: memory of all its cards; `None` where nobody can tell, or there is none.
    """

    num_parallel: int = 1
    kv_cache_type: str = "f16"
    context_length: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a runner will take, before it was ever seen.

    Attributes:
        overhead_bytes: what Ollama never reports: the process on a card, a projector.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    source: Source = "estimated"

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """One entry of `/api/ps`.

    Attributes:
        size_vram_bytes: on cards; 0 where the model runs on the CPU.
        context_length: of one slot; `None` where Ollama is too old to say.
        digest: of the manifest, as in `/api/tags`, not of the model file.
    """

    name: str
    size_bytes: int
    size_vram_bytes: int
    context_length: int | None
    digest: str


# What Ollama says, read


def read_ps(entry: Mapping[str, Any]) -> Resident:
    """Read one entry of `/api/ps`; what is missing or odd becomes empty or 0."""
    return Resident(
        name=_text(entry.get("name")) or _text(entry.get("model")),
        size_bytes=_number(entry.get("size")) or 0,
        size_vram_bytes=_number(entry.get("size_vram")) or 0,
        context_length=_number(entry.get("context_length")) or None,
        digest=_text(entry.get("digest")),
    )


def read_show(name: str, show: Mapping[str, Any], size_bytes: int, *, digest: str = "") -> Facts:
    """Read an answer of `/api/show`; what is missing or odd is done without.

    Args:
        name: the model's.
        show: the answer.
        size_bytes: `size` of `/api/tags`: everything of the model on disk.
        digest: of the manifest; tells models apart that no model file does.
    """
    info = _Info(_mapping(show.get("model_info")))
    models, adapters = _blobs(_text(show.get("modelfile")))
    tensors = _Tensors.read(show.get("tensors"))
    shape = _shape(info)
    cached = shape is None or shape.cached
    file_bytes, projector_bytes = _files(
        size_bytes, tensors, separate=len(models) > 1 or bool(_mapping(show.get("projector_info")))
    )
    capabilities = frozenset(filter(None, map(_text, _list(show.get("capabilities")))))
    return Facts(
        key=_key(models, digest, name),
        name=name,
        size_bytes=file_bytes,
        architecture=info.architecture,
        family=_text(_mapping(show.get("details")).get("family")),
        context_length=info.number("context_length") or None,
        capabilities=capabilities,
        remote=bool(_text(show.get("remote_host"))),
        pooling=info.has("pooling_type") or capabilities == {"embedding"},
        parameters=replace(
            _parameters(_text(show.get("parameters"))), extras=(*adapters, *models[1:])
        ),
        shape=shape,
        weights_bytes=tensors.on_card(cached=cached) if tensors else None,
        tensors_bytes=tensors.model_bytes if tensors else None,
        projector_bytes=projector_bytes,
    )


def _key(models: list[str], digest: str, name: str) -> ModelKey:
    blob = _BLOB.search(models[0]) if models else None
    if blob:
        return ModelKey(blob[0].lower().replace(":", "-"))
    return ModelKey(f"digest:{digest}" if digest else f"name:{name}")


def _blobs(modelfile: str) -> tuple[list[str], list[str]]:
    """Files of a Modelfile: the model with its projectors, and the adapters.

    They come first in what Ollama prints; later lines may be text that only looks like them.
    """
    models: list[str] = []
    adapters: list[str] = []
    for line in modelfile.splitlines():
        command, _, path = line.strip().partition(" ")
        match command.upper():
            case "FROM":
                models.append(path.strip())
            case "ADAPTER":
                adapters.append(path.strip())
            case "" | "#":
                pass
            case _:
                break
    return models, adapters


def _parameters(text: str) -> Launch:
    """The runner's options among the `PARAMETER` lines, as `/api/show` prints them."""
    found: dict[str, int] = {}
    use_mmap: bool | None = None
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name in _PARAMETERS and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
            found[name] = int(value)
        elif name == "use_mmap" and value.strip().lower() in {"true", "false"}:
            use_mmap = value.strip().lower() == "true"
    return Launch(
        num_ctx=found.get("num_ctx"),
        num_batch=found.get("num_batch"),
        num_gpu=found.get("num_gpu"),
        main_gpu=found.get("main_gpu"),
        use_mmap=use_mmap,
        num_thread=found.get("num_thread"),
        draft_num_predict=found.get("draft_num_predict"),
    )


def _files(size_bytes: int, tensors: "_Tensors | None", *, separate: bool) -> tuple[int, int]:
    """Sizes of the model file and of the projector, which may be a file of its own."""
    size_bytes = max(0, size_bytes)
    if tensors is None:
        return size_bytes, 0
    inside = tensors.model_bytes + tensors.projector_bytes
    if not separate:
        return max(size_bytes, inside), tensors.projector_bytes
    file_bytes = min(max(size_bytes, inside), inside + GGUF_HEADER_BYTES)
    return file_bytes, tensors.projector_bytes + max(0, size_bytes - file_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensors:
    """Sums over the list of tensors."""

    model_bytes: int
    projector_bytes: int
    host_bytes: int
    embedding_bytes: int
    tied: bool

    def on_card(self, *, cached: bool) -> int:
        """What of the weights goes to a card; a tied output layer is a second copy there."""
        twice = self.embedding_bytes if self.tied and cached else 0
        return self.model_bytes - self.host_bytes + twice

    @classmethod
    def read(cls, tensors: Any) -> "_Tensors | None":
        """Sum them up; `None` where there is no list, or a tensor of a type not known here."""
        sizes: dict[str, int] = {}
        for tensor in _list(tensors):
            entry = _mapping(tensor)
            size = _tensor_bytes(entry)
            if size is None:
                return None
            sizes[_text(entry.get("name"))] = size
        if not sizes:
            return None
        projector = sum(sizes[name] for name in sizes if name.startswith(_PROJECTOR_TENSORS))
        return cls(
            model_bytes=sum(sizes.values()) - projector,
            projector_bytes=projector,
            host_bytes=sum(sizes[name] for name in sizes if name.startswith(_HOST_TENSORS)),
            embedding_bytes=sizes.get("token_embd.weight", 0),
            tied="output.weight" not in sizes,
        )


def _tensor_bytes(tensor: Mapping[str, Any]) -> int | None:
    block = _TENSOR_BLOCKS.get(_text(tensor.get("type")).upper())
    lengths = [_number(length) for length in _list(tensor.get("shape"))]
    if block is None or not lengths:
        return None
    elements = 1
    for length in lengths:
        if length is None:
            return None
        elements *= length
    block_bytes, block_elements = block
    return -(-elements // block_elements) * block_bytes


class _Info:
    """`model_info`: keys of one architecture, values of any kind."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self._info = info
        self.architecture = _text(info.get("general.architecture"))

    def get(self, key: str) -> Any:
        return self._info.get(f"{self.architecture}.{key}")

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._info

    def number(self, key: str) -> int | None:
        """A number; of a list the largest."""
        value = self.get(key)
        if not isinstance(value, list):
            return _number(value)
        return max((_number(item) or 0 for item in value), default=None)

    def withheld(self, key: str) -> bool:
        """There, but `null`: Ollama shows no lists unless asked to be verbose."""
        return self.has(key) and self.get(key) is None


def _shape(info: _Info) -> Shape | None:
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
        key_length=_or(info.number("attention.key_length"), head_length),
        value_length=_or(info.number("attention.value_length"), head_length),
        feed_forward_length=_or(feed_forward, 4 * embedding),
        local=_local(info, layers) if window else (False,) * layers,
        window=window,
        latent=info.number("attention.key_length_mla") is not None,
        recurrent_bytes=_recurrent_bytes(info, embedding),
        experts_used=used,
        expert_feed_forward_length=_or(
            info.number("expert_feed_forward_length"), feed_forward or 0
        ),
        cached=not (info.has("pooling_type") and causal is False),
    )


def _kv_heads(info: _Info, layers: int | None, heads: int | None) -> tuple[int, ...] | None:
    key = "attention.head_count_kv"
    if not layers or layers > _MAX_LAYERS or info.withheld(key):
        return None
    value = info.get(key)
    if isinstance(value, list):
        each = tuple(_number(item) or 0 for item in value)
        return each if len(each) == layers else None
    number = _or(_number(value), heads)
    return None if number is None else (number,) * layers


def _local(info: _Info, layers: int) -> tuple[bool, ...]:
    """Which layers slide: as the file says, else as its architecture is known to."""
    pattern = info.get("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers:
        return tuple(item is True for item in pattern)
    local = LOCAL_LAYERS.get(info.architecture, 0)
    return tuple(layer % (local + 1) < local for layer in range(layers))


def _recurrent_bytes(info: _Info, embedding: int) -> int:
    inner = info.number("ssm.inner_size")
    if not inner:
        kept = info.number("shortconv.l_cache") or 1
        return 4 * embedding * max(0, kept - 1)
    state = info.number("ssm.state_size") or 0
    groups = info.number("ssm.group_count") or 0
    kernel = info.number("ssm.conv_kernel") or 1
    return 4 * (max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> int | None:
    """A count; `None` for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Neither NaN nor infinity is an integer to Python.
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if value >= 0 else None


def _or(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value


# What Ollama will do with it


def merge(facts: Facts, launch: Launch) -> Launch:
    """The options in effect: a request's over the Modelfile's, `num_ctx` within the trained."""
    base = facts.parameters
    num_ctx = _or(launch.num_ctx, base.num_ctx)
    if num_ctx is not None and facts.context_length is not None:
        num_ctx = min(num_ctx, facts.context_length)
    return Launch(
        num_ctx=num_ctx,
        num_batch=_or(launch.num_batch, base.num_batch),
        num_gpu=_or(launch.num_gpu, base.num_gpu),
        main_gpu=_or(launch.main_gpu, base.main_gpu),
        use_mmap=_or(launch.use_mmap, base.use_mmap),
        num_thread=_or(launch.num_thread, base.num_thread),
        draft_num_predict=_or(launch.draft_num_predict, base.draft_num_predict),
        shift=_or(launch.shift, base.shift),
        extras=launch.extras or base.extras,
    )


def parallel_of(facts: Facts, num_parallel: int) -> int:
    """How many slots a runner gets: embedding models and some families never more than one."""
    kinds = (facts.family, facts.architecture)
    single = any(k in SINGLE_SLOT_FAMILIES or k.startswith(SINGLE_SLOT_PREFIX) for k in kinds)
    return 1 if facts.pooling or single else max(1, num_parallel)


def default_context(configured: int, total_bytes: int | None) -> int:
    """The context that Ollama takes when nobody names one.

    Args:
        configured: `OLLAMA_CONTEXT_LENGTH` of the upstream, 0 for none.
        total_bytes: memory of all cards; `None` counts as a small one.
    """
    if configured > 0:
        return configured
    for tier_bytes, context in CONTEXT_TIERS:
        if (total_bytes or 0) >= tier_bytes:
            return context
    return SMALLEST_CONTEXT_TIER


def effective_context(facts: Facts, launch: Launch, *, default_ctx: int) -> int:
    """Tokens of context for each slot, if a runner were loaded with these options."""
    context = _or(merge(facts, launch).num_ctx, default_ctx)
    if facts.context_length is not None:
        context = min(context, facts.context_length)
    floor = VISION_MIN_CONTEXT if "vision" in facts.capabilities else MIN_CONTEXT
    return max(context, floor)


def predicted_by_ollama(facts: Facts, launch: Launch, settings: Settings) -> int:
    """What Ollama compares with 80 % of the free memory before it loads beside another model.

    Its file and an f16 cache by a rough formula of its own (v0.32.15 `llm/llama_server.go`).
    A batch that it chose itself never makes the test fail, so that only a batch that somebody
    asked for is charged. 0 where it makes no test: nothing goes to a card, or only so many
    layers as were asked for.
    """
    launch = merge(facts, launch)
    if facts.remote or launch.on_cpu or _partial(facts, launch):
        return 0
    batch = launch.num_batch or 0
    charges = (charge for _, least, _, charge in BATCH_TIERS if batch >= least)
    return _predicted_bytes(facts, launch, settings) + (0 if facts.pooling else next(charges, 0))


def _partial(facts: Facts, launch: Launch) -> bool:
    """Whether somebody asked for a part of the layers on the card, and no more."""
    layers = len(facts.shape.kv_heads) if facts.shape else 0
    return launch.num_gpu is not None and 0 < launch.num_gpu <= layers


def _predicted_bytes(facts: Facts, launch: Launch, settings: Settings) -> int:
    slots = parallel_of(facts, settings.num_parallel)
    cells = slots * _context(facts, launch, settings)
    shape = facts.shape
    if shape is None:
        return facts.size_bytes + _unknown_kv_bytes(facts, cells)
    head_length = shape.embedding_length // shape.heads if shape.heads else 0
    return facts.size_bytes + 4 * len(shape.kv_heads) * min(shape.kv_heads) * head_length * cells


def _context(facts: Facts, launch: Launch, settings: Settings) -> int:
    default = default_context(settings.context_length, settings.total_bytes)
    return effective_context(facts, launch, default_ctx=default)


def batch_of(facts: Facts, launch: Launch, settings: Settings) -> int:
    """Tokens that a runner computes at once.

    Ollama compares with the memory that is *free*; here it is all there is, so that the batch
    errs to the larger side.
    """
    launch = merge(facts, launch)
    context = _context(facts, launch, settings)
    cells = context * parallel_of(facts, settings.num_parallel)
    if launch.num_batch is not None and launch.num_batch > 0:
        return min(launch.num_batch, cells)
    if facts.pooling:
        return min(LARGEST_EMBEDDING_BATCH, context)
    predicted, there = _predicted_bytes(facts, launch, settings), settings.total_bytes
    for above, batch, percent, charge in BATCH_TIERS:
        if cells > above and (
            there is None
            or (
                100 * predicted <= percent * there
                and 100 * (predicted + charge) <= FIT_PERCENT * there
            )
        ):
            return batch
    return SMALLEST_BATCH


# What it will take


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


def _unknown_kv_bytes(facts: Facts, cells: int) -> int:
    """A guess: a twentieth of the file for each 4096 tokens."""
    return facts.size_bytes * cells // (20 * 4096)


def estimate(
    facts: Facts, launch: Launch, settings: Settings, *, on_cpu_bin: bool = False
) -> Estimate:
    """What a runner with these options would take in a bin, if all of it goes there."""
    launch = merge(facts, launch)
    if facts.remote or (launch.on_cpu and not on_cpu_bin):
        return Estimate(weights_bytes=0, kv_bytes=0, compute_bytes=0, overhead_bytes=0)
    context = _context(facts, launch, settings)
    parallel = parallel_of(facts, settings.num_parallel)
    overhead = unreported_bytes(facts, on_cpu_bin=on_cpu_bin)
    weights = facts.tensors_bytes if on_cpu_bin else facts.weights_bytes
    weights = _or(weights, facts.size_bytes)
    if facts.shape is None:
        return Estimate(
            weights_bytes=weights,
            kv_bytes=_unknown_kv_bytes(facts, context * parallel),
            compute_bytes=facts.size_bytes // 5 + 64 * MIB,
            overhead_bytes=overhead,
        )
    batch = batch_of(facts, launch, settings)
    return Estimate(
        weights_bytes=weights,
        kv_bytes=kv_bytes(
            facts.shape,
            context=context,
            parallel=parallel,
            batch=batch,
            kv_type=settings.kv_cache_type,
        ),
        compute_bytes=compute_bytes(facts.shape, context=context, batch=batch),
        overhead_bytes=overhead,
    )


def unreported_bytes(facts: Facts, *, on_cpu_bin: bool) -> int:
    """What a runner takes beyond what `/api/ps` says of it."""
    projector = facts.projector_bytes + PROJECTOR_GRAPH_BYTES if facts.projector_bytes else 0
    return projector + (0 if on_cpu_bin else PROCESS_BYTES)


# What it took


_BookKey = tuple[ModelKey, Launch, int, bool]


class Book:
    """What the runners of one upstream take: as configured, else as seen, else as estimated."""

    def __init__(self) -> None:
        self._learned: dict[_BookKey, int] = {}

    def need(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        *,
        configured_bytes: int | None = None,
        on_cpu_bin: bool = False,
    ) -> tuple[Need, Source]:
        """What to book for a runner before it is loaded, and where that figure is from."""
        predicted = 0 if on_cpu_bin else predicted_by_ollama(facts, launch, settings)
        footprint, source = self._footprint(facts, launch, settings, configured_bytes, on_cpu_bin)
        return Need(footprint_bytes=footprint, predicted_bytes=predicted), source

    def _footprint(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        configured_bytes: int | None,
        on_cpu_bin: bool,
    ) -> tuple[int, Source]:
        guess = estimate(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        if guess.total_bytes == 0:
            return 0, guess.source
        if configured_bytes is not None:
            return configured_bytes, "configured"
        learned = self._learned.get(_book_key(facts, launch, settings, on_cpu_bin))
        return (guess.total_bytes, guess.source) if learned is None else (learned, "learned")

    def learn(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        *,
        size_bytes: int,
        size_vram_bytes: int,
        on_cpu_bin: bool = False,
    ) -> int:
        """Take in what `/api/ps` says of a loaded runner; returns what to book for it now.

        Where the context is left to Ollama, put the `context_length` that `/api/ps` shows into
        `launch.num_ctx`: then the figure is kept under the context that it was seen with.

        A runner that Ollama put on the CPU in part is booked as it is, but nothing is learned
        from it: alone it would take more. Nor from a figure that cannot be true; then the
        estimate is booked.
        """
        guess = estimate(facts, launch, settings, on_cpu_bin=on_cpu_bin).total_bytes
        if guess == 0:
            return 0
        shown = size_bytes if on_cpu_bin else size_vram_bytes
        seen = shown + unreported_bytes(facts, on_cpu_bin=on_cpu_bin)
        asked_for_part = _partial(facts, merge(facts, launch))
        if not on_cpu_bin and size_vram_bytes < size_bytes and not asked_for_part:
            return seen
        if not asked_for_part and not _plausible(facts, shown):
            return max(guess, seen)
        if facts.shape is not None and any(facts.shape.local):
            # Since 0.30.0 the smaller of such a model's two caches hides the larger one.
            seen = max(seen, guess)
        self._learned[_book_key(facts, launch, settings, on_cpu_bin)] = seen
        return seen


def _plausible(facts: Facts, shown_bytes: int) -> bool:
    weights = facts.weights_bytes
    if weights is None:
        host_heavy = facts.architecture.startswith(HOST_HEAVY_PREFIXES)
        weights = 0 if facts.pooling or host_heavy else facts.size_bytes
    return shown_bytes > 0 and shown_bytes >= PLAUSIBLE_SHARE * weights


def _book_key(facts: Facts, launch: Launch, settings: Settings, on_cpu_bin: bool) -> _BookKey:
    """Whatever changes what a runner takes; the rest would only make it be learned again."""
    launch = replace(
        merge(facts, launch),
        num_ctx=_context(facts, launch, settings),
        use_mmap=None,
        num_thread=None,
        shift=None,
    )
    return facts.key, launch, parallel_of(facts, settings.num_parallel), on_cpu_bin
