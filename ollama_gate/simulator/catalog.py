"""What a model on disk is, and the manifests there are.

Which models there are to be had is `library`'s to say.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_gate.simulator.refs import Name, parse_name

MODELS = "/usr/share/ollama/.ollama/models"
BLOBS = f"{MODELS}/blobs"

# Families whose runner Ollama never gives more than one slot (v0.32.15 server/sched.go, `load`).
ONE_SLOT_FAMILIES = frozenset(
    {
        "mllama",
        "qwen3vl",
        "qwen3vlmoe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "nemotron_h_omni",
    }
)

AUDIO = "audio"
COMPLETION = "completion"
EMBEDDING = "embedding"
INSERT = "insert"
THINKING = "thinking"
TOOLS = "tools"
VISION = "vision"

_TEXT = (COMPLETION,)


@dataclass(frozen=True, slots=True)
class Layer:
    """A file of a manifest; its kind is the last word of its media type, `config` for that.

    Attributes:
        digest: with `sha256:` before it.
        text: what is in it; empty for a GGUF.
    """

    kind: str
    digest: str
    size: int
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A picture's way in: a transformer, and a matrix that leads into the model's own width."""

    blocks: int
    embedding: int
    feed_forward: int
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """A state-space layer's dimensions; only `kernel` of a short convolution (`state` is 0)."""

    kernel: int
    inner: int
    state: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention: the cache holds one compressed key for all heads.

    Attributes:
        rank: of the compressed key, its rotated part apart.
        key_length: of a head once it is unfolded; likewise `value_length`.
    """

    rank: int
    key_length: int
    value_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of an architecture decides memory and `model_info`.

    Attributes:
        kv_by_layer: heads of each layer's cache where they are not all alike, 0 for a layer that
            is recurrent; then `kv_heads` is the most.
        head_length: of a key, and of a value unless `latent`.
        window: sliding window in tokens, 0 where every layer sees everything.
        window_period: every so-many-th layer sees everything all the same.
        experts_used: experts per token of a mixture, 0 of a dense model.
        expert_width: one expert's feed-forward where it is not `feed_forward`.
        experts_shared: experts that see every token.
        is_tied: the output layer is the embedding's and not in the file again.
        encoder: of pictures, in the same file.
    """

    family: str
    blocks: int
    embedding: int
    heads: int
    kv_heads: int
    head_length: int
    feed_forward: int
    train_context: int
    vocabulary: int = 32000
    window: int = 0
    window_period: int = 1
    experts: int = 0
    experts_used: int = 0
    expert_width: int = 0
    experts_shared: int = 0
    is_embedder: bool = False
    is_tied: bool = False
    kv_by_layer: tuple[int, ...] = ()
    recurrence: Recurrence | None = None
    latent: Latent | None = None
    encoder: Encoder | None = None

    def kv_heads_of(self, layer: int) -> int:
        """How many heads a layer's cache has."""
        return self.kv_by_layer[layer] if self.kv_by_layer else self.kv_heads

    def is_narrow(self, layer: int) -> bool:
        """Whether a layer sees its sliding window only."""
        return self.window > 0 and (layer + 1) % self.window_period != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One name that `/api/tags` lists.

    Attributes:
        name: as users write it; a tag may be missing.
        disk_bytes: `size` of `/api/tags`, taken for the length of the GGUF files as well.
        projector: a picture's way in that is a file of its own, at 16 bits.
        blob_of: the name whose blob this one shares; empty for its own. Such names are aliases
            and share one runner.
        parameters: PARAMETER lines of the Modelfile.
        remote_model: what it is called in the cloud; a model that has it is a stub without blob.
        blob: digest of an uploaded GGUF that it has in place of a made-up one, 64 hex digits.
        layers: what a model made here has besides its GGUF; `None` for one of the library.
        manifest: its manifest's digest where that cannot be told from the rest, as a copy's.
        parent: the model that it was made from.
        label: `parameter_size` where it does not follow from the parameters.
    """

    name: str
    disk_bytes: int
    shape: Shape
    parameters_b: float
    quantization: str = "Q4_K_M"
    capabilities: tuple[str, ...] = _TEXT
    blob_of: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    remote_model: str = ""
    remote_host: str = ""
    blob: str = ""
    layers: tuple[Layer, ...] | None = None
    manifest: str = ""
    parent: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    label: str | None = None
    projector: Encoder | None = None

    @property
    def full_name(self) -> Name:
        """All four parts of the name."""
        return parse_name(self.name)

    @property
    def digest(self) -> str:
        """The manifest's, 64 hex digits; a copy under another name has the same."""
        if self.manifest:
            return self.manifest
        if self.layers is not None:
            return _sha(f"manifest {self.blob_path} {self.layers} {self.remote_model}")
        if self.is_remote:
            return _sha(f"manifest {self.full_name.full()}")
        return _sha(f"manifest {self.blob_path} {sorted(self.parameters.items())}")

    @property
    def blob_path(self) -> str:
        """The GGUF's path, by which Ollama's scheduler knows a runner; empty for a cloud stub."""
        if self.is_remote:
            return ""
        owner = parse_name(self.blob_of or self.name).full()
        return f"{BLOBS}/sha256-{self.blob or _sha(f'blob {owner}')}"

    @property
    def is_remote(self) -> bool:
        """Whether it runs in the cloud."""
        return bool(self.remote_model)

    @property
    def max_parallel(self) -> int | None:
        """1 where Ollama forces a single slot, else no limit of the model's own."""
        alone = COMPLETION not in self.capabilities or self.shape.family in ONE_SLOT_FAMILIES
        return 1 if alone else None

    def can(self, capability: str) -> bool:
        """Whether `/api/show` lists the capability."""
        return capability in self.capabilities

    def size_label(self) -> str:
        """`parameter_size` of the details: `8.0B`, `134.52M`, `12K`."""
        if self.label is not None:
            return self.label
        if self.parameters_b >= 1:
            return f"{self.parameters_b:.1f}B"
        millions = self.parameters_b * 1000
        return f"{millions:.2f}M" if millions >= 1 else f"{millions * 1000:.0f}K"


class Catalog:
    """The manifests on this Ollama's disk."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.full_name: model for model in models}
        self._written_ns: dict[Name, int] = {}

    def __iter__(self) -> Iterator[Model]:
        """The one written last comes first; those that were always there keep their order."""
        models = sorted(self._models.items(), key=lambda item: -self._written_ns.get(item[0], 0))
        return iter([model for _, model in models])

    def write(self, model: Model, wall_ns: int) -> None:
        """Put a manifest there, in place of one of the same name."""
        self._models[model.full_name] = model
        self._written_ns[model.full_name] = wall_ns

    def remove(self, model: Model) -> None:
        """Take a manifest away; whoever runs of it runs on."""
        del self._models[model.full_name]
        self._written_ns.pop(model.full_name, None)

    def written_ns(self, model: Model) -> int | None:
        """Wall time it was written at; `None` for one that was always there."""
        return self._written_ns.get(model.full_name)

    def find(self, name: Name) -> Model | None:
        """The model spelled exactly so."""
        return self._models.get(name)

    def existing(self, name: Name) -> Name:
        """The name with each part respelled as some manifest spells it.

        Part by part, each against every manifest, as `getExistingName` does (server/routes.go).
        """
        host, namespace, model, tag = name.host, name.namespace, name.model, name.tag
        for known in self._models:
            host = known.host if known.host.lower() == host.lower() else host
            namespace = (
                known.namespace if known.namespace.lower() == namespace.lower() else namespace
            )
            model = known.model if known.model.lower() == model.lower() else model
            tag = known.tag if known.tag.lower() == tag.lower() else tag
        return Name(host, namespace, model, tag)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
