"""The routes that change what is on disk: pull, push, copy, delete.

Ollama v0.32.15 server/routes.go, images.go, download.go, upload.go. Making a model is
`creation`'s.
"""

import ipaddress
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from ollama_gate.simulator import schemas
from ollama_gate.simulator.account import lookup_failure
from ollama_gate.simulator.bodies import BadBodyError, Struct, read_body
from ollama_gate.simulator.catalog import MODELS, Layer, Model
from ollama_gate.simulator.gojson import quoted
from ollama_gate.simulator.layers import files_of
from ollama_gate.simulator.refs import (
    DEFAULT_HOST,
    Name,
    NameInvalidError,
    NameRequiredError,
    is_valid,
    parse_name,
    parse_pull_ref,
)
from ollama_gate.simulator.replies import Empty, RefusedError, Stream, Waited
from ollama_gate.simulator.world import Call, World

Steps = AsyncGenerator[dict[str, Any]]

_DIGEST_SHOWN = slice(7, 19)
_UNQUALIFIED = "invalid model name"


def fields_of(call: Call, struct: Struct) -> dict[str, Any]:
    """The request's fields.

    Raises:
        RefusedError: for a body that is none.
    """
    try:
        return read_body(call.body, struct)
    except BadBodyError as error:
        raise RefusedError(400, str(error)) from None


async def progress(request: Mapping[str, Any], steps: Steps) -> Stream | Waited:
    """The steps as they come, or the last of them if the client wants no stream."""
    if request.get("stream") is not False:
        return Stream(steps)
    latest: dict[str, Any] = {"status": ""}
    try:
        async for step in steps:
            latest = step
    except RefusedError as error:
        return Waited({"error": error.text}, error.status)
    return Waited(latest)


async def pull(call: Call) -> Stream | Waited:
    """POST /api/pull."""
    request = fields_of(call, schemas.PULL)
    try:
        ref = parse_pull_ref(request.get("model") or request.get("name", ""))
    except NameRequiredError:
        raise RefusedError(400, _UNQUALIFIED) from None
    except NameInvalidError as error:
        raise RefusedError(400, str(error)) from None
    name = call.world.catalog.existing(ref.name)
    steps = pulled(call.world, name, insecure=request.get("insecure", False))
    return await progress(request, steps)


async def pulled(world: World, name: Name, *, insecure: bool = False) -> Steps:
    """Fetch a model from its registry, step by step.

    Raises:
        RefusedError: where it breaks off.
    """
    yield {"status": "pulling manifest"}
    breaks_after, text = world.faults.pull_failure(name.full()) or (-1, "")
    if not breaks_after:
        raise RefusedError(500, f"pull model manifest: {text}")
    model = _offered(world, name, insecure=insecure)
    lines = 0
    for layer in files_of(model):
        is_there = world.blobs.has(layer.digest, world.catalog)
        async for step in _moved(world, "pulling", layer, is_there=is_there):
            yield step
            lines += 1
            if lines == breaks_after:
                raise RefusedError(500, text)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    old = world.catalog.find(name)
    world.catalog.write(model, time.time_ns())
    if old is not None and old.digest != model.digest:
        yield {"status": "removing unused layers"}
        world.blobs.forget(old, world.catalog)
    yield {"status": "success"}


async def push(call: Call) -> Stream | Waited:
    """POST /api/push."""
    request = fields_of(call, schemas.PUSH)
    raw = request.get("model") or request.get("name", "")
    if not raw:
        raise RefusedError(400, "model is required")
    name = parse_name(call.world.catalog.existing(parse_name(raw)).shortest())
    steps = _pushed(call.world, name, insecure=request.get("insecure", False))
    return await progress(request, steps)


async def copy(call: Call) -> Empty:
    """POST /api/copy."""
    request = fields_of(call, schemas.COPY)
    catalog = call.world.catalog
    names = []
    for key in ("source", "destination"):
        name = parse_name(request.get(key, ""))
        if not is_valid(name):
            raise RefusedError(400, f"{key} {quoted(request.get(key, ''))} is invalid")
        names.append(catalog.existing(name))
    source, destination = names
    if source == destination:
        return Empty()
    model = catalog.find(source)
    if model is None:
        raise RefusedError(404, f"model {quoted(request['source'])} not found")
    renamed = replace(
        model,
        name=destination.shortest(),
        blob_of=model.blob_of or model.name,
        manifest=model.digest,
    )
    catalog.write(renamed, time.time_ns())
    return Empty()


async def delete(call: Call) -> Empty:
    """DELETE /api/delete; a runner of it runs on."""
    request = fields_of(call, schemas.DELETE)
    raw = request.get("model") or request.get("name", "")
    try:
        ref = parse_pull_ref(raw)
    except NameRequiredError as error:
        raise RefusedError(400, str(error)) from None
    except NameInvalidError as error:
        is_unqualified = str(error) == _UNQUALIFIED
        text = f"name {quoted(raw)} is invalid" if is_unqualified else str(error)
        raise RefusedError(400, text) from None
    catalog = call.world.catalog
    model = catalog.find(catalog.existing(ref.name))
    if model is None:
        raise RefusedError(404, f"model '{raw}' not found")
    catalog.remove(model)
    call.world.blobs.forget(model, catalog)
    return Empty()


async def _pushed(world: World, name: Name, *, insecure: bool) -> Steps:
    yield {"status": "retrieving manifest"}
    model = world.catalog.find(name) if is_valid(name) else None
    if model is None:
        yield {"status": "couldn't retrieve manifest"}
        path = f"{MODELS}/manifests/{name.host}/{name.namespace}/{name.model}/{name.tag}"
        missing = f"open {path}: no such file or directory"
        raise RefusedError(500, missing if is_valid(name) else f"unqualified name: {name.full()}")
    for layer in files_of(model):
        unreachable = _unreachable(world, name)
        if unreachable:
            url = _url(name, f"blobs/{layer.digest}", insecure=insecure)
            raise RefusedError(500, f'Head "{url}": {unreachable}')
        is_there = name in world.registry and layer in files_of(world.registry[name])
        async for step in _moved(world, "pushing", layer, is_there=is_there):
            yield step
    yield {"status": "pushing manifest"}
    yield {"status": "success"}


def _offered(world: World, name: Name, *, insecure: bool) -> Model:
    """The model as its registry has it."""
    unreachable = _unreachable(world, name)
    if unreachable:
        url = _url(name, f"manifests/{name.tag}", insecure=insecure)
        raise RefusedError(500, f'pull model manifest: Get "{url}": {unreachable}')
    wanted = {part.full().lower(): model for part, model in world.registry.items()}
    found = wanted.get(name.full().lower())
    if found is None:
        raise RefusedError(500, "pull model manifest: file does not exist")
    shared = found.blob_of or found.name
    return found if found.full_name == name else replace(found, name=name.full(), blob_of=shared)


def _url(name: Name, path: str, *, insecure: bool) -> str:
    scheme = "http" if insecure else "https"
    return f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/{path}"


def _unreachable(world: World, name: Name) -> str:
    """Why its registry cannot be reached; empty where it can."""
    if world.settings.online and name.host.lower() == DEFAULT_HOST:
        return ""
    host, _, port = name.host.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return lookup_failure(host)
    return f"dial tcp {host}:{port or '443'}: connect: connection refused"


async def _moved(world: World, verb: str, layer: Layer, *, is_there: bool) -> Steps:
    """One file on its way; a small one, or one that is there, is done in a line."""
    shown = {
        "status": f"{verb} {layer.digest[_DIGEST_SHOWN]}",
        "digest": layer.digest,
        "total": layer.size,
    }
    lines = 1 if is_there or layer.text else max(1, world.settings.pull_lines)
    for line in range(1, lines + 1):
        if not is_there:
            await world.clock.sleep(world.settings.pull_s / lines)
        yield shown | {"completed": layer.size * line // lines}
