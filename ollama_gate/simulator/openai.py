"""The OpenAI dialect: requests turned into Ollama's own, answers turned back.

Ollama v0.32.15 middleware/openai.go and openai/openai.go. It is a translation and nothing more:
what a request means is decided in `native`.
"""

import base64
import json
import random
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from ollama_gate.simulator import gojson, schemas
from ollama_gate.simulator.bodies import BadBodyError, Struct, read_body
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.listing import show_named, tag_entries
from ollama_gate.simulator.native import chat_with, cloud_refusal, embed_with
from ollama_gate.simulator.refs import Source, parse_name, parse_ref
from ollama_gate.simulator.replies import Answer, Origin, RefusedError, Reply, Stream
from ollama_gate.simulator.world import Call, find_model

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}
_IDS = 999  # Ollama's ids are this few
_PASSED_ON = ("seed", "frequency_penalty", "presence_penalty")


class _UntranslatableError(RefusedError):
    """A request that has no meaning in Ollama's own API."""

    def __init__(self, text: str) -> None:
        super().__init__(400, text, Origin.TRANSLATION)


class Events:
    """A stream of Server-Sent Events, already spelled."""

    def __init__(self, lines: AsyncGenerator[str]) -> None:
        self.lines = lines


async def chat_completions(call: Call) -> Reply | Events:
    """POST /v1/chat/completions."""
    _refuse_cloud(call)
    asked = _read(call, schemas.OPENAI_CHAT)
    if not asked.get("messages"):
        raise _UntranslatableError("[] is too short - 'messages'")
    reply = await chat_with(call, _native_chat(asked))
    identity = f"chatcmpl-{random.randrange(_IDS)}"
    match reply:
        case Answer():
            return Answer(_completion(identity, reply.body))
        case Stream():
            usage = (asked.get("stream_options") or {}).get("include_usage", False)
            return Events(_events(identity, reply.chunks, include_usage=usage))


async def embeddings(call: Call) -> Reply:
    """POST /v1/embeddings."""
    _refuse_cloud(call)
    asked = _read(call, schemas.OPENAI_EMBED)
    encoding = asked.get("encoding_format", "")
    if encoding and encoding.lower() not in {"float", "base64"}:
        raise _UntranslatableError(
            f"Invalid value for 'encoding_format' = {encoding}. "
            "Supported values: ['float', 'base64'].",
        )
    given = [""] if asked.get("input") == "" else asked.get("input")
    if given is None or given == []:
        raise _UntranslatableError("invalid input")
    request = {"model": asked.get("model", ""), "input": given}
    reply = await embed_with(call, request | {"dimensions": asked.get("dimensions", 0)})
    assert isinstance(reply, Answer)
    spelled = [
        _as_base64(vector) if encoding.lower() == "base64" else vector
        for vector in reply.body["embeddings"]
    ]
    tokens = reply.body.get("prompt_eval_count", 0)
    return Answer(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": vector, "index": at}
                for at, vector in enumerate(spelled)
            ],
            "model": request["model"],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


async def models(call: Call) -> Answer:
    """GET /v1/models."""
    entries = [_model(name, modified_s) for name, modified_s in tag_entries(call.world)]
    return Answer({"object": "list", "data": entries or None})


async def model(call: Call, name: str) -> Answer:
    """GET /v1/models/{model}."""
    show_named(call, name, extra={})
    found = find_model(call.world, parse_ref(name).name)
    modified_ns = call.world.modified_ns(found) if found else call.world.started_ns
    return Answer(_model(name, modified_ns // 10**9))


def error_body(status: int, text: str) -> dict[str, Any]:
    """An error as this dialect spells it."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def _refuse_cloud(call: Call) -> None:
    """Cloud models are told by the exact key `model`, before anything else is looked at."""
    if call.world.settings.cloud:
        return
    try:
        whole = gojson.plain(json.loads(call.body, object_pairs_hook=gojson.Pairs))
        is_cloud = parse_ref(whole["model"]).source is Source.CLOUD
    except (ValueError, TypeError, KeyError, AttributeError):
        return
    if is_cloud:
        raise cloud_refusal()


def _read(call: Call, wanted: Struct) -> dict[str, Any]:
    try:
        return read_body(call.body, wanted, empty="EOF")
    except BadBodyError as error:
        raise _UntranslatableError(str(error)) from None


# -- requests ----------------------------------------------------------------------------


def _native_chat(asked: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: asked[key] for key in _PASSED_ON if key in asked}
    options |= {"temperature": asked.get("temperature", 1.0), "top_p": asked.get("top_p", 1.0)}
    stop = asked.get("stop")
    if isinstance(stop, str | list):
        words = [stop] if isinstance(stop, str) else stop
        options["stop"] = [word for word in words if isinstance(word, str)]
    if "max_tokens" in asked:
        options["num_predict"] = asked["max_tokens"]
    request = {
        "model": asked.get("model", ""),
        "messages": [part for message in asked["messages"] for part in _messages(message or {})],
        "stream": asked.get("stream", False),
        "options": options,
        "tools": asked.get("tools"),
        "format": _form(asked.get("response_format") or {}),
        "logprobs": asked.get("logprobs", False),
        "top_logprobs": asked.get("top_logprobs", 0),
    }
    think = _think(asked)
    return request if think is None else request | {"think": think}


def _messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = message.get("role", "").lower()
    match message.get("content"):
        case str() as text:
            return [{"role": role, "content": text}]
        case list() as parts:
            return [{"role": role} | _part(part) for part in parts]
        case other if message.get("tool_calls") is None:
            raise _UntranslatableError(f"invalid message content type: {_go_type(other)}")
        case _:
            return [{"role": role, "content": ""}]


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise _UntranslatableError("invalid message format")
    match part.get("type"), part:
        case "text", {"text": str() as text}:
            return {"content": text}
        case "image_url", {"image_url": {"url": str() as url} | (str() as url)}:
            return {"content": "", "images": [_image(url)]}
        case _:
            raise _UntranslatableError("invalid message format")


def _image(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        raise _UntranslatableError(
            "image URLs are not currently supported, please use base64 encoded data instead",
        )
    head, _, data = url.partition(";base64,")
    if head not in {"data:", *(f"data:image/{kind}" for kind in ("jpeg", "jpg", "png", "webp"))}:
        raise _UntranslatableError("invalid image input")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise _UntranslatableError("invalid image input") from None


def _form(response_format: Mapping[str, Any]) -> Any:
    match response_format.get("type", "").strip().lower():
        case "json_object":
            return "json"
        case "json_schema":
            return (response_format.get("json_schema") or {}).get("schema")
        case _:
            return None


def _think(asked: Mapping[str, Any]) -> bool | str | None:
    reasoning = asked.get("reasoning")
    effort = asked.get("reasoning_effort", "")
    if reasoning is not None:
        effort = reasoning.get("effort", "")
    if not effort:
        return None
    if effort not in _EFFORTS:
        raise _UntranslatableError(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", '
            '"xhigh", "ultra", "max", or "none")',
        )
    return _EFFORTS[effort]


def _go_type(value: Any) -> str:
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case dict():
            return "map[string]interface {}"
        case _:
            return "float64"


# -- answers -----------------------------------------------------------------------------


def _completion(identity: str, body: Mapping[str, Any]) -> dict[str, Any]:
    message = body["message"]
    spoken = {"role": message["role"], "content": message["content"]}
    if message.get("thinking"):
        spoken["reasoning"] = message["thinking"]
    choice = {"index": 0, "message": spoken, "finish_reason": body["done_reason"]}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": body["logprobs"]}
    return {
        "id": identity,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "system_fingerprint": "fp_ollama",
        "choices": [choice],
        "usage": _usage(body),
    }


async def _events(
    identity: str, chunks: AsyncIterator[dict[str, Any]], *, include_usage: bool
) -> AsyncGenerator[str]:
    created = int(time.time())
    first = True
    try:
        async for chunk in chunks:
            if not chunk["done"] or first:
                yield _event(_delta(identity, created, chunk, with_role=first))
                first = False
            if chunk["done"]:
                for line in _closing(identity, created, chunk, include_usage=include_usage):
                    yield line
    except RefusedError:
        if first:
            raise
        # Ollama reads its own error line as an empty answer: the text is lost, the end too.
        lost = {"model": "", "message": {"content": ""}}
        yield _event(_delta(identity, created, lost, with_role=False))


def _closing(
    identity: str, created: int, chunk: Mapping[str, Any], *, include_usage: bool
) -> list[str]:
    frame = _frame(identity, created, chunk["model"])
    choice = {"index": 0, "delta": {}, "finish_reason": chunk["done_reason"]}
    lines = [_event(frame | {"choices": [choice]})]
    if include_usage:
        lines.append(_event(frame | {"choices": [], "usage": _usage(chunk)}))
    return [*lines, "data: [DONE]\n\n"]


def _delta(
    identity: str, created: int, chunk: Mapping[str, Any], *, with_role: bool
) -> dict[str, Any]:
    message = chunk["message"]
    delta = {"role": "assistant"} if with_role else {}
    delta["content"] = message["content"]
    if message.get("thinking"):
        delta["reasoning"] = message["thinking"]
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    if chunk.get("logprobs"):
        choice["logprobs"] = {"content": chunk["logprobs"]}
    return _frame(identity, created, chunk["model"]) | {"choices": [choice]}


def _frame(identity: str, created: int, name: str) -> dict[str, Any]:
    return {
        "id": identity,
        "object": "chat.completion.chunk",
        "created": created,
        "model": name,
        "system_fingerprint": "fp_ollama",
    }


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {encode(value)}\n\n"


def _usage(body: Mapping[str, Any]) -> dict[str, int]:
    prompt = body.get("prompt_eval_count", 0)
    answer = body.get("eval_count", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def _model(name: str, created_s: int) -> dict[str, Any]:
    owner = parse_name(name).namespace
    return {"id": name, "object": "model", "created": created_s, "owned_by": owner}


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
