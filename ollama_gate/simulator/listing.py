"""The routes that tell what is there: tags, ps, show, version (v0.32.15 server/routes.go)."""

import json
import time
from decimal import Decimal
from typing import Any

from ollama_gate.simulator import layers, schemas
from ollama_gate.simulator.account import unreachable_cloud
from ollama_gate.simulator.bodies import BadBodyError, read_body
from ollama_gate.simulator.catalog import BLOBS, Model
from ollama_gate.simulator.clock import NS
from ollama_gate.simulator.gojson import quoted
from ollama_gate.simulator.metadata import model_info, projector_info
from ollama_gate.simulator.refs import (
    NameInvalidError,
    NameRequiredError,
    Source,
    parse_ref,
)
from ollama_gate.simulator.replies import Answer, Origin, RefusedError, Text
from ollama_gate.simulator.runner import Runner
from ollama_gate.simulator.tensors import tensors
from ollama_gate.simulator.world import Call, World, find_model, timestamp

_TEMPLATE = "{{ .Prompt }}"
_COPILOT = "GitHubCopilotChat/"
_PARAMETER_WIDTH = 30
_PLAIN_FROM, _PLAIN_TO = -4, 6  # powers of ten between which `%g` needs no exponent
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
        call,
        request.get("model") or request.get("name", ""),
        extra=request.get("options") or {},
        system=request.get("system", ""),
        verbose=request.get("verbose", False),
    )


def show_named(
    call: Call, raw: str, *, extra: dict[str, Any], system: str = "", verbose: bool = False
) -> Answer:
    """The same for a request already read."""
    if not raw:
        raise RefusedError(400, "model is required")
    try:
        ref = parse_ref(raw)
    except (NameRequiredError, NameInvalidError) as error:
        raise RefusedError(400, str(error)) from None
    model = find_model(call.world, ref.name)
    if ref.source is Source.CLOUD:
        model = _cloud_model(call, raw, ref.base)
    if model is None:
        spelled = call.world.catalog.existing(ref.name).shortest()
        raise RefusedError(404, f"model '{spelled}' not found")
    if ref.source is Source.LOCAL and model.is_remote:
        raise RefusedError(404, f"model '{raw.strip()}' not found")
    if model.is_remote and not call.world.settings.cloud:
        raise RefusedError(403, _NO_CLOUD)
    info = _stub_info(model) if model.is_remote else model_info(model, verbose=verbose)
    if call.headers.get("User-Agent", "").startswith(_COPILOT):
        info["general.basename"] = raw
    return Answer(_shown(call.world, model, info, extra, system))


def tag_entries(world: World) -> list[tuple[str, int]]:
    """Names and the seconds they were modified at, for the OpenAI dialect's list."""
    return [(model.full_name.shortest(), world.modified_ns(model) // NS) for model in world.catalog]


def _cloud_model(call: Call, raw: str, base: str) -> Model | None:
    world = call.world
    if not world.settings.cloud:
        raise RefusedError(403, _NO_CLOUD, Origin.CLOUD)
    if not world.settings.online:
        asked = ("Get", f"/v1/models/{base}") if call.parameter else ("Post", "/api/show")
        raise unreachable_cloud(*asked, call.query)
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
            "modified_at": timestamp(world.modified_ns(model)),
            "size": layers.size_of(model),
            "digest": model.digest,
            "details": _details(model) | {key: size for key, size in lengths.items() if size},
        }
        | ({"capabilities": list(model.capabilities)} if model.capabilities else {})
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
        "parent_model": model.parent,
        "format": "" if model.is_remote else "gguf",
        "family": model.shape.family,
        "families": layers.families_of(model) or None,
        "parameter_size": model.size_label(),
        "quantization_level": model.quantization,
    }


def _shown(
    world: World, model: Model, info: dict[str, Any], extra: dict[str, Any], system: str
) -> dict[str, Any]:
    remote = {"remote_model": model.remote_model, "remote_host": model.remote_host}
    made = _Made(model, system)
    told = {
        "license": "\n".join(made.licenses),
        "modelfile": _modelfile(model, made, extra),
        "parameters": "\n".join(_parameter_lines(model)),
        "template": made.template,
        "system": made.system,
    }
    return (
        {key: text for key, text in told.items() if text}
        | {"details": _details(model)}
        | ({"messages": made.messages} if made.messages else {})
        | (remote if model.is_remote else {})
        | {"model_info": dict(sorted(info.items()))}
        | ({} if model.projector is None else {"projector_info": projector_info(model.projector)})
        | ({} if model.is_remote else {"tensors": tensors(model)})
        | ({"capabilities": list(model.capabilities)} if model.capabilities else {})
        | {"modified_at": timestamp(world.modified_ns(model))}
        | ({"requires": model.requires} if model.requires else {})
    )


class _Made:
    """What a model was made with besides its GGUF."""

    def __init__(self, model: Model, system: str) -> None:
        self.template = "".join(layers.texts(model, layers.TEMPLATE)[-1:]) or _TEMPLATE
        self.system = system or "".join(layers.texts(model, layers.SYSTEM)[-1:])
        self.licenses = layers.texts(model, layers.LICENSE)
        said = layers.texts(model, layers.MESSAGES)
        self.messages: list[dict[str, Any]] = json.loads(said[-1]) if said else []


def _modelfile(model: Model, made: _Made, extra: dict[str, Any]) -> str:
    name = model.full_name.shortest()
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {model.blob_path}",
        *_projector_lines(model),
        f"TEMPLATE {_spelled(made.template)}",
    ]
    for key, text in (
        ("SYSTEM", made.system),
        ("RENDERER", model.renderer),
        ("PARSER", model.parser),
    ):
        lines += [f"{key} {_spelled(text)}"] if text else []
    for key, value in {**model.parameters, **extra}.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {key} {_spelled(_go_text(item))}" for item in values]
    lines += [f"LICENSE {_spelled(text)}" for text in made.licenses]
    lines += [f"MESSAGE {said['role']} {_spelled(said['content'])}" for said in made.messages]
    return "\n".join(lines) + "\n"


def _projector_lines(model: Model) -> list[str]:
    projector = layers.projector_of(model)
    return [] if projector is None else [f"FROM {BLOBS}/{projector.digest.replace(':', '-')}"]


def _spelled(text: str) -> str:
    """As a Modelfile spells it: in quotes where it would not stay whole."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def _parameter_lines(model: Model) -> list[str]:
    lines = []
    for key, value in model.parameters.items():
        for item in value if isinstance(value, list) else [value]:
            spelled = quoted(item) if isinstance(item, str) else _go_text(item)
            lines.append(f"{key:<{_PARAMETER_WIDTH}} {spelled}")
    return lines


def _go_text(value: Any) -> str:
    """Go's `%v`."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return _go_number(value)
        case dict():
            return f"map[{' '.join(f'{key}:{_go_text(item)}' for key, item in value.items())}]"
        case list():
            return f"[{' '.join(map(_go_text, value))}]"
        case _:
            return str(value)


def _go_number(value: float) -> str:
    """`%g` with as few digits as tell it apart; an exponent where that is shorter."""
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    point = len(digits) + int(exponent) - 1
    if _PLAIN_FROM <= point < _PLAIN_TO or not value:
        return f"{Decimal(repr(value)).normalize():f}"
    first, rest = str(digits[0]), "".join(map(str, digits[1:]))
    sign = "-" if value < 0 else ""
    return f"{sign}{first}{f'.{rest}' if rest else ''}e{point:+03d}"


def _stub_info(model: Model) -> dict[str, Any]:
    arch, shape = model.shape.family, model.shape
    lengths = {
        f"{arch}.context_length": shape.train_context,
        f"{arch}.embedding_length": shape.embedding,
    }
    known = {key: length for key, length in lengths.items() if length}
    return {"general.architecture": arch} | known if arch else {}
