"""The inference routes of Ollama's own API (v0.32.15 server/routes.go).

The order of the checks is Ollama's: it decides which of two errors a client sees.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from ollama_gate.simulator import babble, schemas
from ollama_gate.simulator.bodies import BadBodyError, Struct, read_body
from ollama_gate.simulator.catalog import COMPLETION, EMBEDDING, INSERT, THINKING, TOOLS, Model
from ollama_gate.simulator.clock import NS
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.limits import Prompt, fitting, prompt_of, spoken
from ollama_gate.simulator.objects import Chatted, Generated, Objects
from ollama_gate.simulator.options import (
    Launch,
    OptionTypeError,
    launch_of,
    num_predict_of,
    stops_of,
)
from ollama_gate.simulator.refs import NameInvalidError, NameRequiredError, Ref, Source, parse_ref
from ollama_gate.simulator.replies import Answer, Origin, RefusedError, Reply, Stream
from ollama_gate.simulator.runner import Runner, RunnerDiedError, RunnerGoneError
from ollama_gate.simulator.scheduler import LoadAbortedError, LoadError, QueueFullError, Ticket
from ollama_gate.simulator.speech import CloudVoice, Ending, Piece, Question, Voice, speech
from ollama_gate.simulator.world import Call, World, find_model

_MAX_TOP_LOGPROBS = 20
_CLIENT_GONE = 499  # Ollama's status for a request that nobody waits for any more
_WEB_SEARCH = "web_search"
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
_RUNNER_LOST = 'do embedding request: Post "http://127.0.0.1:40127/v1/embeddings": EOF'


async def generate(call: Call) -> Reply:
    """POST /api/generate."""
    return await generate_with(call, _read(call, schemas.GENERATE))


async def generate_with(call: Call, request: Mapping[str, Any]) -> Reply:
    """The same for a request already read; other dialects come in here."""
    raw_name = request.get("model", "")
    missing = RefusedError(404, f"model '{raw_name}' not found")
    _check_logprobs(request)
    ref = _ref(raw_name, missing)
    if ref.source is Source.CLOUD:
        return await _cloud(call, request, ref.base, Generated)
    model = _found(call.world, ref, missing)
    if model.is_remote:
        return await _cloud(call, request, raw_name, Generated, stub=model)
    if not request.get("prompt") and request.get("keep_alive") == 0:
        call.world.scheduler.expire(model)
        return Answer(Generated(call.world, raw_name).bare("unload"))
    if request.get("raw") and any(request.get(key) for key in ("template", "system", "context")):
        raise RefusedError(400, "raw mode does not support template, system, or context")
    wanted = [COMPLETION] + ([INSERT] if request.get("suffix") else [])
    thinks = _thinks(model, request, wanted)
    began_s = call.world.clock.now()
    runner = await _schedule(call, model, request, wanted, task="generate")
    if not request.get("prompt"):
        return Answer(Generated(call.world, raw_name).bare("load"))
    text = request.get("system", "") + request["prompt"] + request.get("suffix", "")
    media = [item for item in request.get("images") or () if item is not None]
    prompt = prompt_of(runner, request, text, media, raw=request.get("raw", False))
    question = _question(call.world, model, request, prompt, thinks=thinks)
    question = replace(question, has_gap=True)
    objects = Generated(
        call.world,
        raw_name,
        began_s=began_s,
        prompt=None if request.get("raw") else text,
        vocabulary=model.shape.vocabulary,
    )
    chunks = _chunks(call, runner, question, objects, refusal=prompt.refusal)
    return await _reply(request, chunks, objects)


async def chat(call: Call) -> Reply:
    """POST /api/chat."""
    return await chat_with(call, _read(call, schemas.CHAT))


async def chat_with(call: Call, request: Mapping[str, Any], *, relaxed: bool = False) -> Reply:
    """The same for a request already read; other dialects come in here.

    Args:
        call: the request as it came.
        request: its fields, in Ollama's own terms.
        relaxed: let a model that cannot think be asked to.
    """
    raw_name = request.get("model", "")
    _check_logprobs(request)
    ref = _ref(raw_name, RefusedError(400, "model is required"))
    if ref.source is Source.CLOUD:
        return await _cloud(call, request, ref.base, Chatted)
    model = _found(call.world, ref, RefusedError(404, f"model '{raw_name}' not found"))
    messages = [message or {} for message in request.get("messages") or []]
    if not messages and request.get("keep_alive") == 0:
        call.world.scheduler.expire(model)
        return Answer(Chatted(call.world, raw_name).bare("unload"))
    if model.is_remote:
        return await _cloud(call, request, raw_name, Chatted, stub=model)
    wanted = [COMPLETION] + ([TOOLS] if request.get("tools") else [])
    thinks = _thinks(model, request, wanted, relaxed=relaxed)
    began_s = call.world.clock.now()
    runner = await _schedule(call, model, request, wanted, task="chat")
    if not messages:
        return Answer(Chatted(call.world, raw_name).bare("load"))
    kept = fitting(runner, request, messages)
    media = [item for m in kept for item in m.get("images") or () if item is not None]
    prompt = prompt_of(runner, request, spoken(kept), media, raw=False)
    tool = tool_called(request, kept[-1], prompt.text)
    question = _question(call.world, model, request, prompt, thinks=thinks, tool=tool)
    objects = Chatted(call.world, raw_name, began_s=began_s)
    chunks = _chunks(call, runner, question, objects, refusal=prompt.refusal)
    return await _reply(request, chunks, objects)


async def embed(call: Call) -> Reply:
    """POST /api/embed."""
    return await embed_with(call, _read(call, schemas.EMBED))


async def embed_with(call: Call, request: Mapping[str, Any]) -> Reply:
    """The same for a request already read."""
    raw_name = request.get("model", "")
    ref = _ref(raw_name, RefusedError(404, f"model '{raw_name}' not found"))
    if ref.source is Source.CLOUD:
        raise cloud_refusal()
    texts = _inputs(request.get("input"))
    model = _found(call.world, ref, _pull_first(raw_name))
    began_s = call.world.clock.now()
    runner = await _schedule(call, model, request, [], task="embed", remote_too=True)
    loaded_s = call.world.clock.now()
    if not texts:
        return Answer({"model": raw_name, "embeddings": []})
    limit = min(runner.launch.num_ctx, model.shape.train_context)
    counts = [babble.count_tokens(text) + 2 for text in texts]  # with its two ends marked
    if request.get("truncate") is False and max(counts) > limit:
        raise RefusedError(400, "the input length exceeds the context length")
    counts = [min(count, limit) for count in counts]
    vectors = [await _embed_one(runner, text, n) for text, n in zip(texts, counts, strict=True)]
    dimensions = request.get("dimensions", 0)
    cut = dimensions if 0 < dimensions < model.shape.embedding else None
    _count_served(call.world, runner)
    return Answer(
        {
            "model": raw_name,
            "embeddings": [babble.normalised(vector[:cut]) for vector in vectors],
            "total_duration": max(1, int((call.world.clock.now() - began_s) * NS)),
            "load_duration": max(1, int((loaded_s - began_s) * NS)),
            "prompt_eval_count": sum(counts),
        }
    )


async def embeddings(call: Call) -> Reply:
    """POST /api/embeddings, the old one: it does not fold the name's case."""
    request = _read(call, schemas.EMBEDDINGS)
    raw_name = request.get("model", "")
    ref = _ref(raw_name, RefusedError(400, "model is required"))
    if ref.source is Source.CLOUD:
        raise cloud_refusal()
    model = _found(call.world, ref, _pull_first(raw_name), fold=False)
    runner = await _schedule(call, model, request, [], task="embed", remote_too=True)
    prompt = request.get("prompt", "")
    if not prompt:
        return Answer({"embedding": []})
    try:
        vector = await _embed_one(runner, prompt, babble.count_tokens(prompt) + 2)
    except RefusedError as error:
        raise RefusedError(500, error.text) from None
    _count_served(call.world, runner)
    return Answer({"embedding": [float(value) for value in babble.normalised(vector)]})


# -- the way to a runner -----------------------------------------------------------------


def _read(call: Call, struct: Struct) -> dict[str, Any]:
    try:
        return read_body(call.body, struct)
    except BadBodyError as error:
        raise RefusedError(400, str(error)) from None


def _ref(raw: str, required: RefusedError) -> Ref:
    try:
        return parse_ref(raw)
    except NameRequiredError:
        raise required from None
    except NameInvalidError as error:
        raise RefusedError(400, str(error)) from None


def _found(world: World, ref: Ref, missing: RefusedError, *, fold: bool = True) -> Model:
    model = find_model(world, ref.name, fold=fold)
    if model is None or (ref.source is Source.LOCAL and model.is_remote):
        raise missing
    return model


def _pull_first(raw_name: str) -> RefusedError:
    return RefusedError(404, f"model {encode(raw_name)} not found, try pulling it first")


def _check_logprobs(request: Mapping[str, Any]) -> None:
    if not 0 <= request.get("top_logprobs", 0) <= _MAX_TOP_LOGPROBS:
        raise RefusedError(400, "top_logprobs must be between 0 and 20")


def _thinks(
    model: Model, request: Mapping[str, Any], wanted: list[str], *, relaxed: bool = False
) -> bool:
    """Whether the answer begins with thought; models that can do so unless told otherwise."""
    think = request.get("think")
    if model.can(THINKING):
        wanted.append(THINKING)
        return think is not False
    if think and not relaxed:
        raise RefusedError(400, f'"{request.get("model", "")}" does not support thinking')
    return False


async def _schedule(
    call: Call,
    model: Model,
    request: Mapping[str, Any],
    wanted: list[str],
    *,
    task: str,
    remote_too: bool = False,
) -> Runner:
    raw_name = request.get("model", "")
    lacking = [capability for capability in wanted if not model.can(capability)]
    if COMPLETION in lacking:
        raise RefusedError(400, f'"{raw_name}" does not support {task}')
    if lacking:
        listed = "\n".join(lacking)
        raise RefusedError(400, f"{model.full_name.full()} does not support {listed}")
    if remote_too and model.is_remote:
        raise RefusedError(500, "llama-server binary cannot run a remote model")
    ticket = Ticket(
        context=call.context,
        model=model,
        launch=_launch(call.world, model, request),
        keep_alive_ns=request.get("keep_alive"),
        granted=asyncio.get_running_loop().create_future(),
    )
    try:
        return await call.world.scheduler.acquire(ticket)
    except QueueFullError as error:
        raise RefusedError(503, str(error)) from None
    except LoadAbortedError as error:
        raise RefusedError(_CLIENT_GONE, str(error)) from None
    except LoadError as error:
        raise RefusedError(500, str(error)) from None


def _launch(world: World, model: Model, request: Mapping[str, Any]) -> Launch:
    try:
        return launch_of(
            model,
            request.get("options") or {},
            default_context=world.settings.default_context,
            context_is_configured=world.settings.context_length > 0,
            shift=request.get("shift"),
        )
    except OptionTypeError as error:
        raise RefusedError(500, str(error)) from None


# -- answers -----------------------------------------------------------------------------


def _question(
    world: World,
    model: Model,
    request: Mapping[str, Any],
    prompt: Prompt,
    *,
    thinks: bool,
    tool: tuple[str, dict[str, Any]] | None = None,
) -> Question:
    key = f"{world.settings.seed} {model.blob_path or model.name} {prompt.text}"
    key += "".join(f" {hashlib.sha256(item).hexdigest()}" for item in prompt.media)
    form = request.get("format")
    options = request.get("options") or {}
    limit = num_predict_of(model, options)
    if prompt.room is not None:
        limit = min(limit, prompt.room) if limit > 0 else prompt.room
    return Question(
        key=key,
        prompt_tokens=prompt.tokens,
        limit=limit,
        length=babble.answer_length(key, world.settings.answer_tokens),
        thinks=thinks,
        form=form or None,
        top_logprobs=request.get("top_logprobs", 0) if request.get("logprobs") else None,
        stops=stops_of(model, options),
        tool=None if form else tool,
        has_gap=bool(form),
    )


def tool_called(
    request: Mapping[str, Any], last: Mapping[str, Any], text: str
) -> tuple[str, dict[str, Any]] | None:
    """The first tool on offer and what it is called with, when it is the user's turn.

    A search of the web, which Ollama itself would run, is never called.
    """
    if last.get("role", "").lower() != "user":
        return None
    for tool in request.get("tools") or ():
        function = (tool or {}).get("function") or {}
        if (name := function.get("name", "")) != _WEB_SEARCH:
            outline = {"type": "object"} | (function.get("parameters") or {})
            outline["type"] = "object"
            return name, babble.instance(outline, text)
    return None


async def _chunks(
    call: Call,
    voice: Voice,
    question: Question,
    objects: Objects,
    *,
    refusal: RefusedError | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """The answer's objects as they come; what ends it early is told in Ollama's words."""
    world = call.world
    said = ""
    _check_form(question.form)
    if refusal is not None:
        raise refusal
    try:
        async for part in speech(voice, world.clock, question):
            match part:
                case Piece():
                    said += part.thinking + part.content
                    yield objects.piece(part)
                case Ending():
                    _count_served(world, voice)
                    yield objects.ending(part, said)
    except RunnerDiedError as error:
        world.scheduler.expire_all_for_oom(str(error))
        raise RefusedError(500, str(error)) from None


def _count_served(world: World, voice: Voice) -> None:
    world.counters.served += 1
    if isinstance(voice, Runner) and voice.is_offloaded:
        world.counters.served_offloaded += 1


def _check_form(form: Any) -> None:
    """Only looked at when the runner is there, and told as any other failure of a run."""
    if form is not None and form != "json" and not isinstance(form, dict):
        expected = 'expected "json" or a valid JSON Schema object'
        raise RefusedError(500, f"invalid format: {encode(encode(form))}; {expected}")


async def _reply(
    request: Mapping[str, Any], chunks: AsyncIterator[dict[str, Any]], objects: Objects
) -> Reply:
    if request.get("stream") is not False:
        return Stream(chunks)
    return Answer(objects.whole([chunk async for chunk in chunks]))


async def _cloud(
    call: Call,
    request: Mapping[str, Any],
    name: str,
    form: type[Objects],
    *,
    stub: Model | None = None,
) -> Reply:
    """An answer that needs no memory here; a stub names where it came from."""
    world = call.world
    if not world.settings.cloud:
        raise cloud_refusal()
    messages = [message or {} for message in request.get("messages") or []]
    text = request.get("prompt") or spoken(messages)
    key = f"{world.settings.seed} cloud {name} {text}"
    question = Question(
        key=key,
        prompt_tokens=babble.prompt_tokens(text, raw=False),
        limit=-1,
        length=babble.answer_length(key, world.settings.answer_tokens),
        thinks=False,
        form=None,
        top_logprobs=None,
        tool=tool_called(request, messages[-1], text) if messages else None,
    )
    objects = form(world, name, began_s=world.clock.now(), stub=stub)
    return await _reply(request, _chunks(call, CloudVoice(world.clock), question, objects), objects)


def cloud_refusal(origin: Origin = Origin.HANDLER) -> RefusedError:
    """What a cloud model's requests get with OLLAMA_NO_CLOUD."""
    return RefusedError(403, "ollama cloud is disabled: remote model is unavailable", origin)


# -- embeddings --------------------------------------------------------------------------


def _inputs(given: Any) -> list[str]:
    match given:
        case None | "":
            return []
        case str():
            return [given]
        case list() if all(isinstance(text, str) for text in given):
            return given
        case _:
            raise RefusedError(400, "invalid input type")


async def _embed_one(runner: Runner, text: str, tokens: int) -> list[float]:
    if not runner.model.can(EMBEDDING):
        raise RefusedError(501, NO_EMBEDDINGS)
    try:
        async with runner.slot():
            await runner.read_prompt(tokens)
    except RunnerGoneError as error:
        raise RefusedError(400, str(error).strip()) from None
    except RunnerDiedError:
        raise RefusedError(400, _RUNNER_LOST) from None
    return babble.vector(runner.model.blob_path, text, runner.model.shape.embedding)
