"""POST /api/create: a model from another one, from an uploaded GGUF, or a stub for the cloud.

Ollama v0.32.15 server/create.go. The order of the checks is Ollama's: those before the work
starts are answered in one frame, those in it in another. Safetensors are not converted.
"""

import hashlib
import json
import posixpath
import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NoReturn

from ollama_gate.simulator import gguf, layers, schemas
from ollama_gate.simulator.catalog import BLOBS, THINKING, Layer, Model, Shape
from ollama_gate.simulator.gojson import quoted
from ollama_gate.simulator.management import Steps, fields_of, progress, pulled
from ollama_gate.simulator.refs import (
    Name,
    NameInvalidError,
    NameRequiredError,
    Ref,
    Source,
    is_valid,
    parse_name,
    parse_ref,
)
from ollama_gate.simulator.replies import RefusedError, Stream, Waited
from ollama_gate.simulator.world import Call, World

_BAD_NAME: Final = "invalid model name"
_BAD_DIGEST: Final = "invalid digest format"
_BAD_PATH: Final = "file path must be relative"
_CLOUD: Final = "https://ollama.com:443"
_PORT: Final = "11434"
_QUANTIZERS: Final = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q4_K_S": "Q4_K_S",
    "Q4_K_M": "Q4_K_M",
    "Q4_K": "Q4_K_M",
}
_BITS: Final = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_K_S": 4.6, "Q4_K_M": 4.9}
_UNQUANTIZED: Final = frozenset({"F32", "F16", "BF16"})
_NO_DIGEST: Final = "0000000000000000000"
_HEX: Final = 64
_LARGEST_INT: Final = 2**63 - 1
_LINES: Final = 3  # of progress for a large GGUF that is written anew
_LARGE_BYTES: Final = 2**20
_ACTION = re.compile(r"\{\{-?\s*(if|range|with|block|define|end)\b([^}]*?)-?\}\}")
_NO_SHAPE: Final = Shape(
    family="",
    blocks=0,
    embedding=0,
    heads=0,
    kv_heads=0,
    head_length=0,
    feed_forward=0,
    train_context=0,
)


async def create(call: Call) -> Stream | Waited:
    """Check what can be checked at once, then work."""
    request = fields_of(call, schemas.CREATE)
    _check_paths(request)
    name = parse_name(request.get("model") or request.get("name", ""))
    if not is_valid(name):
        raise RefusedError(400, _BAD_NAME)
    steps = _created(call.world, request, call.world.catalog.existing(name))
    return await progress(request, steps)


def _check_paths(request: Mapping[str, Any]) -> None:
    for key in ("files", "draft_files"):
        for path, digest in request.get(key, {}).items():
            if not _is_relative(path):
                raise RefusedError(400, _BAD_PATH)
            if not digest:
                raise RefusedError(400, _BAD_DIGEST)
    if request.get("draft_quantize") and not request.get("draft_files"):
        raise RefusedError(400, "--draft-quantize requires a DRAFT model")
    if "" in request.get("adapters", {}).values():
        raise RefusedError(400, _BAD_DIGEST)


def _is_relative(path: str) -> bool:
    """Go's `fs.ValidPath`."""
    return path == "." or (
        bool(path) and all(part not in {"", ".", ".."} for part in path.split("/"))
    )


async def _created(world: World, request: Mapping[str, Any], name: Name) -> Steps:
    draft = _Draft(world, request, name)
    begun = draft.from_model() if request.get("from") else draft.from_files()
    async for step in begun:
        yield step
    for step in draft.finish():
        yield step
    model = draft.model
    assert model is not None
    for layer in filter(None, (layers.gguf_of(model), *draft.files)):
        is_there = world.blobs.has(layer.digest, world.catalog)
        verb = "using existing" if is_there else "creating new"
        yield {"status": f"{verb} layer {layer.digest}"}
    yield {"status": "writing manifest"}
    old = world.catalog.find(name)
    world.catalog.write(replace(model, layers=tuple(draft.files)), time.time_ns())
    if old is not None:
        world.blobs.forget(old, world.catalog)
    yield {"status": "success"}


class _Draft:
    """A model in the making; what it refuses ends the work.

    Attributes:
        files: what it has besides its GGUF, in the manifest's order.
    """

    def __init__(self, world: World, request: Mapping[str, Any], name: Name) -> None:
        self._world = world
        self._request = request
        self._name = name
        self._is_uploaded = False
        self.model: Model | None = None
        self.files: list[Layer] = []

    async def from_model(self) -> Steps:
        """Begin with another model, fetched if it is not there, or with none for the cloud."""
        try:
            ref = parse_ref(self._request["from"])
        except (NameRequiredError, NameInvalidError):
            raise RefusedError(400, _BAD_NAME) from None
        remote_host = self._request.get("remote_host", "")
        if remote_host or ref.source is Source.CLOUD:
            self._begin_stub(ref, remote_host or _CLOUD)
            return
        found = self._world.catalog.find(ref.name)
        if found is None:
            async for step in pulled(self._world, ref.name):
                yield step
            found = self._world.catalog.find(ref.name)
            assert found is not None
        self.files = list(layers.small_of(found))
        self.model = replace(
            found,
            name=self._name.shortest(),
            blob_of=found.blob_of or found.name,
            manifest="",
            label=None,
            parent=ref.name.shortest(),
        )

    async def from_files(self) -> Steps:
        """Begin with a GGUF that was uploaded, or that another model has."""
        files = self._request.get("files")
        if files is None:
            raise RefusedError(400, "neither 'from' or 'files' was specified")
        if self._type_of(files) == "safetensors":
            yield {"status": "converting model"}
            raise RefusedError(500, "open config.json: no such file or directory")
        for path in sorted(files):
            yield {"status": "parsing GGUF"}
            self.model = self._parsed(files[path])
        self._is_uploaded = True

    def finish(self) -> Iterator[dict[str, Any]]:
        """Everything else that the request wants of it."""
        assert self.model is not None
        if self.model.is_remote and self._request.get("draft_files"):
            raise RefusedError(400, "DRAFT cannot be used with remote models")
        for key, kind in (("draft_files", "draft"), ("adapters", "adapter")):
            if key in self._request and not self.model.is_remote:
                yield from self._join(self._request[key], kind)
        self.model = _described(self.model, self._request.get("info") or {})
        if not self.model.is_remote:
            yield from self._rewritten()
        self._dress()

    def _begin_stub(self, ref: Ref, host: str) -> None:
        self.model = Model(
            name=self._name.shortest(),
            disk_bytes=0,
            shape=replace(_NO_SHAPE),
            parameters_b=0.0,
            quantization="",
            capabilities=(),
            remote_model=ref.base,
            remote_host=_remote_url(host),
            label="",
        )

    def _join(self, files: Mapping[str, str], kind: str) -> Iterator[dict[str, Any]]:
        self._type_of(files)
        if kind == "adapter" and len(files) > 1:
            raise RefusedError(400, "only one adapter is currently supported")
        for path in sorted(files):
            yield {"status": "parsing GGUF"}
            parsed = self._parsed(files[path])
            self.files.append(Layer(kind, files[path], parsed.disk_bytes))

    def _type_of(self, files: Mapping[str, str]) -> str:
        for path, digest in files.items():
            for kind in ("safetensors", "gguf"):
                if path.endswith(f".{kind}"):
                    return kind
            if self._begins(digest) is None:
                break
            if self._begins(digest) == gguf.MAGIC:
                return "gguf"
        raise RefusedError(400, "unknown type")

    def _begins(self, digest: str) -> bytes | None:
        """How a file begins; `None` where there is none."""
        if not layers.is_digest(digest):
            return None
        upload = self._world.blobs.uploads.get(digest.replace("-", ":", 1))
        if upload is not None:
            return upload.head[: len(gguf.MAGIC)]
        return gguf.MAGIC if self._owner(digest) else None

    def _owner(self, digest: str) -> Model | None:
        """A model with that GGUF."""
        for model in self._world.catalog:
            layer = layers.gguf_of(model)
            if layer is not None and layer.digest == digest.replace("-", ":", 1):
                return model
        return None

    def _parsed(self, digest: str) -> Model:
        begins = self._begins(digest)
        if not layers.is_digest(digest):
            raise RefusedError(500, _BAD_DIGEST)
        if begins is None:
            path = f"{BLOBS}/{digest.replace(':', '-')}"
            raise RefusedError(500, f"open {path}: no such file or directory")
        if begins != gguf.MAGIC:
            raise RefusedError(400, "supplied file was not in GGUF format")
        upload = self._world.blobs.uploads.get(digest.replace("-", ":", 1))
        name = self._name.shortest()
        if upload is None:
            owner = self._owner(digest)
            assert owner is not None
            return replace(owner, name=name, blob_of=owner.blob_of or owner.name, manifest="")
        try:
            return gguf.model_of(name, digest[-_HEX:], upload.size, upload.head)
        except gguf.UnreadableError as error:
            raise RefusedError(500, str(error)) from None

    def _rewritten(self) -> Iterator[dict[str, Any]]:
        """Quantize it, or let it be checked, which leaves it as it is."""
        assert self.model is not None
        wanted = (self._request.get("quantize") or self._request.get("quantization", "")).upper()
        old = self.model.quantization
        if wanted:
            self._check_quantization(wanted)
        if wanted and _QUANTIZERS[wanted] != old:
            size = int(self.model.disk_bytes * _BITS[_QUANTIZERS[wanted]] / _BITS[old])
            yield from _writing(f"quantizing {old} model to {wanted}", self.model.disk_bytes)
            self._replace_gguf(f"{wanted} of {self.model.blob_path}", size, _QUANTIZERS[wanted])
        elif self._is_uploaded:
            yield from _writing("validating GGUF model", self.model.disk_bytes)

    def _check_quantization(self, wanted: str) -> None:
        assert self.model is not None
        if wanted not in _QUANTIZERS:
            supported = "F32, F16, Q4_K_S, Q4_K_M, Q8_0"
            text = f"unsupported quantization type {wanted} - supported types are {supported}"
            raise RefusedError(500, text)
        if self.model.quantization not in _UNQUANTIZED:
            text = "quantization is only supported for F16, BF16 and F32 models"
            raise RefusedError(500, text)

    def _replace_gguf(self, content: str, size: int, quantization: str) -> None:
        assert self.model is not None
        blob = hashlib.sha256(content.encode()).hexdigest()
        self.model = replace(
            self.model,
            blob=blob,
            blob_of="",
            parent="",
            disk_bytes=size,
            quantization=quantization,
        )

    def _dress(self) -> None:
        assert self.model is not None
        request = self._request
        if request.get("template"):
            _check_template(request["template"])
            self._put(layers.written(layers.TEMPLATE, request["template"]))
        if request.get("system"):
            self._put(layers.written(layers.SYSTEM, request["system"]))
        self.files += [layers.written(layers.LICENSE, text) for text in _licenses(request)]
        texts = [file.text for file in self.files if file.kind == layers.PARAMS]
        parameters = layers.sorted_map(
            dict(json.loads(texts[-1]) if texts else {}) | request.get("parameters", {})
        )
        if parameters:
            self._put(layers.written_json(layers.PARAMS, parameters))
        if request.get("messages"):
            said = [_message(message or {}) for message in request["messages"]]
            self._put(layers.written_json(layers.MESSAGES, said))
        kept = self.model
        self.model = replace(
            kept,
            parameters=parameters,
            renderer=request.get("renderer") or kept.renderer,
            parser=request.get("parser") or kept.parser,
            requires=request.get("requires") or kept.requires,
        )

    def _put(self, layer: Layer) -> None:
        """In place of others of its kind, at the end."""
        self.files = [other for other in self.files if other.kind != layer.kind]
        self.files.append(layer)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    spoken = {"role": message.get("role", ""), "content": message.get("content", "")}
    return spoken | ({"thinking": message["thinking"]} if message.get("thinking") else {})


def _writing(status: str, total: int) -> Iterator[dict[str, Any]]:
    lines = 1 if total < _LARGE_BYTES else _LINES
    for line in range(1, lines + 1):
        yield {
            "status": status,
            "digest": _NO_DIGEST,
            "total": total,
            "completed": total * line // lines,
        }
    yield {"status": "verifying conversion"}


def _licenses(request: Mapping[str, Any]) -> list[str]:
    license_ = request.get("license")
    if license_ is None or isinstance(license_, str):
        return [license_] if license_ else []
    words = "json: cannot unmarshal {} into Go value of type {}"
    if not isinstance(license_, list):
        raise RefusedError(500, words.format(_kind(license_), "[]string"))
    for text in license_:
        if text is not None and not isinstance(text, str):
            raise RefusedError(500, words.format(_kind(text), "string"))
    return [text or "" for text in license_]


def _kind(value: Any) -> str:
    kinds = {bool: "bool", float: "number", dict: "object", list: "array", str: "string"}
    return kinds[type(value)]


def _check_template(text: str) -> None:
    """The mistakes of a template that can be told without knowing its language."""
    line = text.count("\n", 0, max(text.rfind("{{"), 0)) + 1
    if text.rfind("{{") > text.rfind("}}"):
        _refuse_template(line, "unclosed action")
    depth = 0
    for action in _ACTION.finditer(text):
        line = text.count("\n", 0, action.start()) + 1
        word = action[1]
        if word != "end" and not action[2].strip():
            _refuse_template(line, f"missing value for {word}")
        depth += -1 if word == "end" else 1
        if depth < 0:
            _refuse_template(line, "unexpected {{end}}")
    if depth:
        _refuse_template(text.count("\n") + 1, "unexpected EOF")


def _refuse_template(line: int, words: str) -> NoReturn:
    raise RefusedError(400, f"template error: template: :{line}: {words}")


def _described(model: Model, info: Mapping[str, Any]) -> Model:
    """What `info` says of a model, which only a stub needs."""
    texts = {
        key: _info_text(info, key)
        for key in ("model_family", "base_name", "quantization_level", "parameter_size")
    }
    lengths = {key: _info_length(info, key) for key in ("context_length", "embedding_length")}
    if not model.is_remote:
        return model
    capabilities = info.get("capabilities")
    told = [item if isinstance(item, str) else "" for item in capabilities or []]
    if texts["model_family"] in {"gptoss", "gpt-oss"} and THINKING not in told:
        told.append(THINKING)
    return replace(
        model,
        shape=replace(
            model.shape,
            family=texts["model_family"],
            train_context=lengths["context_length"],
            embedding=lengths["embedding_length"],
        ),
        quantization=texts["quantization_level"],
        label=texts["parameter_size"],
        capabilities=tuple(told),
    )


def _info_text(info: Mapping[str, Any], key: str) -> str:
    value = info.get(key, "")
    if not isinstance(value, str):
        raise RefusedError(400, f"info field {quoted(key)} must be a string")
    return value


def _info_length(info: Mapping[str, Any], key: str) -> int:
    value = info.get(key, 0.0)
    if not isinstance(value, float):
        raise RefusedError(400, f"info field {quoted(key)} must be a number")
    if value < 0 or value != int(value) or value > _LARGEST_INT:
        raise RefusedError(400, f"info field {quoted(key)} must be a non-negative integer")
    return int(value)


def _remote_url(raw: str) -> str:
    if raw.startswith("/"):
        return f"http://localhost:{_PORT}{posixpath.normpath(raw)}"
    raw = raw if "://" in raw else f"http://{raw}"
    raw = _CLOUD if raw == "http://ollama.com" else raw
    try:
        parts = urllib.parse.urlsplit(raw)
        port = parts.port
    except ValueError:
        raise RefusedError(400, "bad remote") from None
    host = parts.netloc if port is not None else f"{parts.netloc or 'localhost'}:{_PORT}"
    path = posixpath.normpath(parts.path) if parts.path else ""
    return parts._replace(netloc=host, path="" if path == "/" else path).geturl()
