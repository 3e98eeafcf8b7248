"""The files a model is made of, and those that were uploaded for one to come.

Ollama keeps each under its sha256 and throws it away with the last manifest that names it
(v0.32.15 manifest/layer.go, manifest.go); an uploaded one stays until then.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_gate.simulator.catalog import Layer, Model
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.tensors import gguf_bytes, projector_bytes

MODEL = "model"
PROJECTOR = "projector"
TEMPLATE = "template"
SYSTEM = "system"
LICENSE = "license"
PARAMS = "params"
MESSAGES = "messages"

HEAD_BYTES = 4 * 2**20  # of an upload: enough for a GGUF's key-values, as a rule

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file: its length and how it begins."""

    size: int
    head: bytes


@dataclass(slots=True)
class Blobs:
    """Uploaded files by digest, as `sha256:…`."""

    uploads: dict[str, Upload] = field(default_factory=dict)

    def has(self, digest: str, models: Iterable[Model]) -> bool:
        """Whether a file of that digest is on disk, uploaded or a model's; any spelling."""
        digest = digest.replace("-", ":", 1)
        return digest in self.uploads or any(
            layer.digest == digest for model in models for layer in files_of(model)
        )

    def forget(self, gone: Model, models: Iterable[Model]) -> None:
        """Throw away what only a manifest named that is gone."""
        kept = {layer.digest for model in models for layer in files_of(model)}
        for layer in files_of(gone):
            if layer.digest not in kept:
                self.uploads.pop(layer.digest, None)


def is_digest(text: str) -> bool:
    """Whether Ollama takes it for the name of a file."""
    return _DIGEST.fullmatch(text) is not None


def written(kind: str, text: str) -> Layer:
    """A small file with a text in it."""
    data = text.encode()
    return Layer(kind, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), text)


def written_json(kind: str, value: Any) -> Layer:
    """The same for a value, as Go's encoder writes it; keys of a map are sorted."""
    return written(kind, f"{encode(value)}\n")


def gguf_of(model: Model) -> Layer | None:
    """The GGUF; a cloud stub has none."""
    if model.is_remote:
        return None
    return Layer(MODEL, f"sha256:{model.blob_path.rpartition('-')[2]}", gguf_bytes(model))


def projector_of(model: Model) -> Layer | None:
    """A picture's way in, where that is a file of its own."""
    if model.projector is None:
        return None
    digest = hashlib.sha256(f"projector {model.blob_path}".encode()).hexdigest()
    return Layer(PROJECTOR, f"sha256:{digest}", projector_bytes(model))


def families_of(model: Model) -> list[str]:
    """The architectures of its files."""
    own = [model.shape.family] if model.shape.family else []
    return own if model.projector is None else [*own, "clip"]


def small_of(model: Model) -> tuple[Layer, ...]:
    """What it has besides: template, system, license, params, messages."""
    if model.layers is not None:
        return model.layers
    if not model.parameters:
        return ()
    return (written_json(PARAMS, dict(sorted(model.parameters.items()))),)


def config_of(model: Model) -> Layer:
    """The file that tells of the others."""
    config: dict[str, Any] = {
        "model_format": "" if model.is_remote else "gguf",
        "model_family": model.shape.family,
        "model_families": families_of(model),
        "model_type": model.size_label(),
        "file_type": model.quantization,
    }
    if model.is_remote:
        config |= {"remote_host": model.remote_host, "remote_model": model.remote_model}
    return written_json("config", config)


def files_of(model: Model) -> Iterator[Layer]:
    """All of them, in the order in which they are pulled."""
    gguf = gguf_of(model)
    if gguf is not None:
        yield gguf
    projector = projector_of(model)
    if projector is not None:
        yield projector
    yield from small_of(model)
    yield config_of(model)


def texts(model: Model, kind: str) -> list[str]:
    """What is in its files of a kind."""
    return [layer.text for layer in small_of(model) if layer.kind == kind]


def size_of(model: Model) -> int:
    """`size` of `/api/tags`; for a model of the library it is known as it is."""
    if model.layers is None:
        return model.disk_bytes
    return sum(layer.size for layer in files_of(model))


def sorted_map(value: Mapping[str, Any]) -> dict[str, Any]:
    """A map as Go's encoder writes it, and those in it."""
    return {
        key: sorted_map(item) if isinstance(item, Mapping) else item
        for key, item in sorted(value.items())
    }
