"""What `/api/show`, `/api/tags` and `/api/ps` say of a model, read.

Nothing is asked here, and nothing is made of it: only sizes that are written there, or that
follow from the tensors listed there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ollama_gate.footprint.lenient import list_of, mapping_of, number_of, text_of
from ollama_gate.footprint.shape import Info, Shape, read_shape, withheld_lists
from ollama_gate.footprint.tensors import Tensors
from ollama_gate.scheduler.types import Launch, ModelKey

GGUF_HEADER_BYTES: Final = 16 * 2**20
"""Metadata and vocabulary at the head of a model file, generously."""

_BLOB: Final = re.compile(r"sha256[-:][0-9a-f]{64}", re.IGNORECASE)

_PARAMETERS: Final = frozenset(
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"]
)


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
        repacked_bytes: of them, what a CPU keeps a second copy of.
        projector_bytes: a vision or audio encoder, inside the model file or beside it.
        adapters_bytes: files of adapters, where no projector's lies beside them.
        draft_bytes: a small model that drafts for this one, where no other file lies beside it.
        mlx: a model in safetensors, which another engine runs.
        files: all of them, as Ollama names them, the model file first.
        disk_bytes: everything of the model on disk, as `/api/tags` has it; 0 if it is not listed.
        withheld: whether `/api/show` keeps back what the shape rests on until it is asked to be
            verbose.
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
    repacked_bytes: int = 0
    projector_bytes: int = 0
    adapters_bytes: int = 0
    draft_bytes: int = 0
    mlx: bool = False
    files: tuple[str, ...] = ()
    disk_bytes: int = 0
    withheld: bool = False


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


def read_ps(entry: Mapping[str, Any]) -> Resident:
    """Read one entry of `/api/ps`; what is missing or odd becomes empty or 0."""
    return Resident(
        name=text_of(entry.get("name")) or text_of(entry.get("model")),
        size_bytes=number_of(entry.get("size")) or 0,
        size_vram_bytes=number_of(entry.get("size_vram")) or 0,
        context_length=number_of(entry.get("context_length")) or None,
        digest=text_of(entry.get("digest")),
    )


def read_show(name: str, show: Mapping[str, Any], size_bytes: int, *, digest: str = "") -> Facts:
    """Read an answer of `/api/show`; what is missing or odd is done without.

    Args:
        name: the model's.
        show: the answer.
        size_bytes: `size` of `/api/tags`: everything of the model on disk.
        digest: of the manifest; tells models apart that no model file does.
    """
    info = Info(mapping_of(show.get("model_info")))
    named = _blobs(text_of(show.get("modelfile")))
    tensors = Tensors.read(show.get("tensors"))
    shape = read_shape(info, vocabulary=tensors.vocabulary if tensors else 0)
    cached = shape is None or shape.cached
    projected = len(named.models) > 1 or bool(mapping_of(show.get("projector_info")))
    files = _files(size_bytes, tensors, named, projected=projected)
    capabilities = frozenset(filter(None, map(text_of, list_of(show.get("capabilities")))))
    return Facts(
        key=_key(named.models, digest, name),
        name=name,
        size_bytes=files.model_bytes,
        architecture=info.architecture,
        family=text_of(mapping_of(show.get("details")).get("family")),
        context_length=info.number("context_length") or None,
        capabilities=capabilities,
        remote=bool(text_of(show.get("remote_host"))),
        pooling=info.has("pooling_type") or capabilities == {"embedding"},
        parameters=replace(
            _parameters(text_of(show.get("parameters"))),
            extras=(*named.adapters, *named.models[1:]),
        ),
        shape=shape,
        weights_bytes=tensors.on_card(cached=cached) if tensors else None,
        tensors_bytes=tensors.model_bytes if tensors else None,
        repacked_bytes=tensors.repacked_bytes if tensors else 0,
        projector_bytes=files.projector_bytes,
        adapters_bytes=files.adapters_bytes,
        draft_bytes=files.draft_bytes,
        mlx=text_of(mapping_of(show.get("details")).get("format")) == "safetensors",
        files=(*named.models, *named.drafts, *named.adapters),
        disk_bytes=max(0, size_bytes),
        withheld=withheld_lists(info),
    )


def _key(models: list[str], digest: str, name: str) -> ModelKey:
    blob = _BLOB.search(models[0]) if models else None
    if blob:
        return ModelKey(blob[0].lower().replace(":", "-"))
    return ModelKey(f"digest:{digest}" if digest else f"name:{name}")


@dataclass(frozen=True, slots=True)
class _Named:
    """Files that a Modelfile names: the model with its projectors, and what comes with it."""

    models: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    drafts: list[str] = field(default_factory=list)


def _blobs(modelfile: str) -> _Named:
    """Files of a Modelfile.

    They come first in what Ollama prints, a projector after a draft; later lines may be text that
    only looks like them.
    """
    named = _Named()
    for line in modelfile.splitlines():
        command, _, path = line.strip().partition(" ")
        match command.upper():
            case "FROM":
                named.models.append(path.strip())
            case "ADAPTER":
                named.adapters.append(path.strip())
            case "DRAFT":
                named.drafts.append(path.strip())
            case "" | "#":
                pass
            case _:
                break
    return named


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


@dataclass(frozen=True, slots=True)
class _Files:
    model_bytes: int
    projector_bytes: int = 0
    adapters_bytes: int = 0
    draft_bytes: int = 0


def _files(size_bytes: int, tensors: Tensors | None, named: _Named, *, projected: bool) -> _Files:
    """Sizes of the model file and of what lies beside it: `/api/tags` has only the sum of all.

    Of several kinds beside it, one counts for all, since nothing tells where one ends: a
    projector before a draft, and that before adapters, as the first two need buffers too.
    """
    size_bytes = max(0, size_bytes)
    if tensors is None:
        return _Files(size_bytes)
    inside = tensors.model_bytes + tensors.projector_bytes
    projector_bytes = tensors.projector_bytes
    if not projected and not named.adapters and not named.drafts:
        return _Files(max(size_bytes, inside), projector_bytes)
    file_bytes = min(max(size_bytes, inside), inside + GGUF_HEADER_BYTES)
    beside = max(0, size_bytes - file_bytes)
    if projected:
        return _Files(file_bytes, projector_bytes + beside)
    if named.drafts:
        return _Files(file_bytes, projector_bytes, draft_bytes=beside)
    return _Files(file_bytes, projector_bytes, adapters_bytes=beside)
