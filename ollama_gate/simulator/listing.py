"""The routes that tell what is there: tags, ps, show, version (v0.32.15 server/routes.go)."""

import time
from typing import Any

from ollama_gate.simulator import schemas
from ollama_gate.simulator.bodies import BadBodyError, read_body
from ollama_gate.simulator.catalog import EMBEDDING, Model
from ollama_gate.simulator.clock import NS
from ollama_gate.simulator.refs import (
    NameInvalidError,
    NameRequiredError,
    Source,
    parse_ref,
)
from ollama_gate.simulator.replies import Answer, RefusedError, Text
from ollama_gate.simulator.runner import Runner
from ollama_gate.simulator.tensors import tensors
from ollama_gate.simulator.world import Call, World, find_model, timestamp

_FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "MXFP4": 38}
_TEMPLATE = "{{ .Prompt }}"
_COPILOT = "GitHubCopilotChat/"
_PARAMETER_WIDTH = 30
_NO_CLOUD = "ollama cloud is disabled: remote model details are unavailable"


async def index(_: Call) -> Text:
    """GET /."""
    return Text("Ollama is running")


async def version(call: Call) -> Answer:
    """GET /api/version."""
    return Answer({"version": call.world.settings.version})


async def tags(call: Call) -> Answer:
    """GET /api/tags."""
    return Answer({"models": [_tag(call.world, model) for model in call.world.catalog]})


async def ps(call: Call) -> Answer:
    """GET /api/ps: what is loaded, the longest stay first; a model still loading is not there."""
    world = call.world
    stays = [
        (world.scheduler.expires_in_s(runner), runner) for runner in world.scheduler.loaded.values()
    ]
    now_ns = time.time_ns()
    listed = [(now_ns + int(stay_s * NS), runner) for stay_s, runner in stays]
    listed.sort(key=lambda entry: -(entry[0] // NS))
    return Answer({"models": [_running(runner, ends_ns) for ends_ns, runner in listed]})


async def show(call: Call) -> Answer:
    """POST /api/show."""
    try:
        request = read_body(call.body, schemas.SHOW)
    except BadBodyError as error:
        raise RefusedError(400, str(error)) from None
    return show_named(
        call, request.get("model") or request.get("name", ""), extra=request.get("options") or {}
    )


def show_named(call: Call, raw: str, *, extra: dict[str, Any]) -> Answer:
    """The same for a request already read."""
    if not raw:
        raise RefusedError(400, "model is required")
    try:
        ref = parse_ref(raw)
    except (NameRequiredError, NameInvalidError) as error:
        raise RefusedError(400, str(error)) from None
    model = find_model(call.world, ref.name)
    if ref.source is Source.CLOUD:
        model = _cloud_model(call.world, raw, ref.base)
    if model is None:
        spelled = call.world.catalog.existing(ref.name).shortest()
        raise RefusedError(404, f"model '{spelled}' not found")
    if ref.source is Source.LOCAL and model.is_remote:
        raise RefusedError(404, f"model '{raw.strip()}' not found")
    if model.is_remote and not call.world.settings.cloud:
        raise RefusedError(403, _NO_CLOUD)
    info = dict(_model_info(model))
    if call.headers.get("User-Agent", "").startswith(_COPILOT):
        info["general.basename"] = raw
    return Answer(_shown(call.world, model, info, extra))


def tag_entries(world: World) -> list[tuple[str, int]]:
    """Names and the seconds they were modified at, for the OpenAI dialect's list."""
    return [(model.full_name.shortest(), world.started_ns // NS) for model in world.catalog]


def _cloud_model(world: World, raw: str, base: str) -> Model | None:
    if not world.settings.cloud:
        raise RefusedError(403, _NO_CLOUD)
    for model in world.catalog:
        if model.is_remote and base.lower() in {model.remote_model, raw.strip().lower()}:
            return model
    return None


def _tag(world: World, model: Model) -> dict[str, Any]:
    name = model.full_name.shortest()
    remote = {"remote_model": model.remote_model, "remote_host": model.remote_host}
    lengths = {
        "context_length": model.shape.train_context,
        "embedding_length": model.shape.embedding,
    }
    return (
        {"name": name, "model": name}
        | (remote if model.is_remote else {})
        | {
            "modified_at": timestamp(world.started_ns),
            "size": model.disk_bytes,
            "digest": model.digest,
            "details": _details(model) | lengths,
            "capabilities": list(model.capabilities),
        }
    )


def _running(runner: Runner, ends_ns: int) -> dict[str, Any]:
    name = runner.model.full_name.shortest()
    return {
        "name": name,
        "model": name,
        "size": runner.placement.total_bytes,
        "digest": runner.model.digest,
        "details": _details(runner.model),
        "expires_at": timestamp(ends_ns),
        "size_vram": runner.placement.vram_bytes,
        "context_length": runner.launch.num_ctx,
    }


def _details(model: Model) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "" if model.is_remote else "gguf",
        "family": model.shape.family,
        "families": [model.shape.family],
        "parameter_size": model.size_label(),
        "quantization_level": model.quantization,
    }


def _shown(
    world: World, model: Model, info: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    remote = {"remote_model": model.remote_model, "remote_host": model.remote_host}
    lines = list(_parameter_lines(model))
    return (
        {"modelfile": _modelfile(model, extra)}
        | ({"parameters": "\n".join(lines)} if lines else {})
        | {"template": _TEMPLATE, "details": _details(model)}
        | (remote if model.is_remote else {})
        | {
            "model_info": dict(sorted(info.items())),
        }
        | ({} if model.is_remote else {"tensors": tensors(model)})
        | {
            "capabilities": list(model.capabilities),
            "modified_at": timestamp(world.started_ns),
        }
    )


def _modelfile(model: Model, extra: dict[str, Any]) -> str:
    name = model.full_name.shortest()
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {model.blob_path}",
        f"TEMPLATE {_TEMPLATE}",
    ]
    for key, value in {**model.parameters, **extra}.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {key} {_go_text(item)}" for item in values]
    return "\n".join(lines) + "\n"


def _parameter_lines(model: Model) -> list[str]:
    lines = []
    for key, value in model.parameters.items():
        for item in value if isinstance(value, list) else [value]:
            spelled = f'"{item}"' if isinstance(item, str) else _go_text(item)
            lines.append(f"{key:<{_PARAMETER_WIDTH}} {spelled}")
    return lines


def _go_text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def _model_info(model: Model) -> dict[str, Any]:
    """The GGUF's key-values as `/api/show` gives them: no arrays unless asked for."""
    shape = model.shape
    arch = shape.family
    if model.is_remote:
        return {
            "general.architecture": arch,
            f"{arch}.context_length": shape.train_context,
            f"{arch}.embedding_length": shape.embedding,
        }
    info: dict[str, Any] = {
        "general.architecture": arch,
        "general.file_type": _FILE_TYPES[model.quantization],
        "general.parameter_count": int(model.parameters_b * 1e9),
        "general.quantization_version": 2,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.key_length": shape.head_length,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-05,
        f"{arch}.attention.value_length": shape.head_length,
        f"{arch}.block_count": shape.blocks,
        f"{arch}.context_length": shape.train_context,
        f"{arch}.embedding_length": shape.embedding,
        f"{arch}.feed_forward_length": shape.feed_forward,
        f"{arch}.rope.dimension_count": shape.head_length,
        f"{arch}.vocab_size": shape.vocabulary,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "bert" if model.can(EMBEDDING) else "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": None,
        "tokenizer.ggml.tokens": None,
    }
    if shape.window:
        info[f"{arch}.attention.sliding_window"] = shape.window
    if shape.experts:
        info[f"{arch}.expert_count"] = shape.experts
        info[f"{arch}.expert_used_count"] = shape.experts_used
    if shape.is_embedder:
        info[f"{arch}.attention.causal"] = False
        info[f"{arch}.pooling_type"] = 1
    return info
