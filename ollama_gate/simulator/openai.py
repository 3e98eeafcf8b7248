"""The OpenAI dialect: requests turned into Ollama's own, answers turned back.

Ollama v0.32.15 middleware/openai.go and openai/openai.go. It is a translation and nothing more:
what a request means is decided in `native`.
"""

import base64
import random
import struct
import time
from collections.abc import Mapping
from typing import Any

from ollama_gate.simulator import gojson, schemas
from ollama_gate.simulator.bodies import BadBodyError, go_base64
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.listing import show_named, tag_entries
from ollama_gate.simulator.native import chat_with, embed_with
from ollama_gate.simulator.passing import UntranslatableError, opened, read
from ollama_gate.simulator.refs import parse_name, parse_ref
from ollama_gate.simulator.replies import EVENTS, Answer, Lines, Stream, Text
from ollama_gate.simulator.sse import data, spelled
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


async def chat_completions(call: Call) -> Answer | Lines | Text:
    """POST /v1/chat/completions."""
    call = opened(call)
    asked = read(call, schemas.OPENAI_CHAT)
    if not asked.get("messages"):
        raise UntranslatableError("[] is too short - 'messages'")
    reply = await chat_with(call, _native_chat(asked))
    identity = f"chatcmpl-{random.randrange(_IDS)}"
    usage = (asked.get("stream_options") or {}).get("include_usage", False)
    spelling = _Chunks(identity, include_usage=usage)
    match reply:
        case Stream():
            return Lines(spelled(reply.chunks, spelling))
        case Answer() if asked.get("stream"):
            return Text(spelling.spell(reply.body), EVENTS)  # nobody flushes a load
        case Answer():
            return Answer(_completion(identity, reply.body))


async def embeddings(call: Call) -> Answer:
    """POST /v1/embeddings."""
    call = opened(call)
    asked = read(call, schemas.OPENAI_EMBED)
    encoding = asked.get("encoding_format", "")
    if encoding and encoding.lower() not in {"float", "base64"}:
        raise UntranslatableError(
            f"Invalid value for 'encoding_format' = {encoding}. "
            "Supported values: ['float', 'base64'].",
        )
    given = [""] if asked.get("input") == "" else asked.get("input")
    if given is None or given == []:
        raise UntranslatableError("invalid input")
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
        "messages": _all_messages([message or {} for message in asked["messages"]]),
        "stream": asked.get("stream", False),
        "options": options,
        "tools": asked.get("tools"),
        "format": _form(asked.get("response_format") or {}),
        "logprobs": asked.get("logprobs", False),
        "top_logprobs": asked.get("top_logprobs", 0),
    }
    think = _think(asked)
    return request if think is None else request | {"think": think}


def _all_messages(asked: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The chat; what a message of several parts calls or answers goes to the last one so far."""
    messages: list[dict[str, Any]] = []
    for message in asked:
        parts = _messages(message)
        messages += parts
        called = _tool_calls(message)
        if messages and (parts or called):
            messages[-1] |= {"tool_calls": called} if called else {}
    return messages


def _tool_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": tool.get("id", ""), "function": _called(tool.get("function") or {})}
        for tool in (tool or {} for tool in message.get("tool_calls") or ())
    ]


def _called(function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = gojson.plain(gojson.decode(function.get("arguments", "").encode()))
    except ValueError:
        raise UntranslatableError("invalid tool call arguments") from None
    if not isinstance(arguments, dict | None):
        raise UntranslatableError("invalid tool call arguments")
    return {"name": function.get("name", ""), "arguments": arguments or {}}


def _messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = message.get("role", "").lower()
    thinking = {"thinking": message["reasoning"]} if message.get("reasoning") else {}
    match message.get("content"):
        case str() as text:
            return [{"role": role, "content": text, **thinking}]
        case list() as parts:
            return [{"role": role} | _part(part) for part in parts]
        case other if message.get("tool_calls") is None:
            raise UntranslatableError(f"invalid message content type: {go_type(other)}")
        case _:
            return [{"role": role, "content": "", **thinking}]


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise UntranslatableError("invalid message format")
    match part.get("type"), part:
        case "text", {"text": str() as text}:
            return {"content": text}
        case "image_url", {"image_url": {"url": str() as url} | (str() as url)}:
            return {"content": "", "images": [image_in(url)]}
        case "input_audio", _:
            return {"content": "", "images": [_audio(part.get("input_audio"))]}
        case _:
            raise UntranslatableError("invalid message format")


def _audio(given: Any) -> bytes:
    if not isinstance(given, dict):
        raise UntranslatableError("invalid input_audio format")
    if not isinstance(given.get("data"), str):
        raise UntranslatableError("invalid input_audio format: missing data")
    try:
        return go_base64(given["data"])
    except BadBodyError as error:
        raise UntranslatableError(f"invalid input_audio base64 data: {error}") from None


def image_in(url: str) -> bytes:
    """The bytes of a data URL.

    Raises:
        UntranslatableError: for any other.
    """
    if url.startswith(("http://", "https://")):
        raise UntranslatableError(
            "image URLs are not currently supported, please use base64 encoded data instead",
        )
    head, _, data = url.partition(";base64,")
    if head not in {"data:", *(f"data:image/{kind}" for kind in ("jpeg", "jpg", "png", "webp"))}:
        raise UntranslatableError("invalid image input")
    try:
        return go_base64(data)
    except BadBodyError:
        raise UntranslatableError("invalid image input") from None


def _form(response_format: Mapping[str, Any]) -> Any:
    match response_format.get("type", "").strip().lower():
        case "json_object":
            return "json"
        case "json_schema":
            return gojson.plain((response_format.get("json_schema") or {}).get("schema"))
        case _:
            return None


def _think(asked: Mapping[str, Any]) -> bool | str | None:
    reasoning = asked.get("reasoning")
    effort = asked.get("reasoning_effort", "")
    if reasoning is not None:
        effort = reasoning.get("effort", "")
    return think_of(effort)


def think_of(effort: str) -> bool | str | None:
    """Ollama's `think` for an effort; none for none.

    Raises:
        UntranslatableError: for a word it does not know.
    """
    if not effort:
        return None
    if effort not in _EFFORTS:
        raise UntranslatableError(
            f'invalid reasoning value: "{effort}" (must be "minimal", "low", "medium", "high", '
            '"xhigh", "ultra", "max", or "none")',
        )
    return _EFFORTS[effort]


def go_type(value: Any) -> str:
    """What Go calls the type of a decoded value."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case dict():
            return "map[string]interface {}"
        case list():
            return "[]interface {}"
        case str():
            return "string"
        case _:
            return "float64"


# -- answers -----------------------------------------------------------------------------


def tool_calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a message as this dialect spells them."""
    return [
        {
            "id": tool["id"],
            "index": tool["function"]["index"],
            "type": "function",
            "function": {
                "name": tool["function"]["name"],
                "arguments": encode(tool["function"]["arguments"]),
            },
        }
        for tool in message.get("tool_calls", ())
    ]


def _completion(identity: str, body: Mapping[str, Any]) -> dict[str, Any]:
    message, reason = body["message"], body["done_reason"]
    spoken = {"role": message["role"], "content": message["content"]}
    if message.get("thinking"):
        spoken["reasoning"] = message["thinking"]
    if message.get("tool_calls"):
        spoken["tool_calls"] = tool_calls_of(message)
        reason = "tool_calls" if reason == "stop" else reason
    choice = {"index": 0, "message": spoken, "finish_reason": reason}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": body["logprobs"]}
    return {
        "id": identity,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "system_fingerprint": "fp_ollama",
        "choices": [choice],
        "usage": usage_of(body),
    }


class _Chunks:
    """`chat.completion.chunk` after `chat.completion.chunk`."""

    def __init__(self, identity: str, *, include_usage: bool) -> None:
        self._identity = identity
        self._include_usage = include_usage
        self._created = int(time.time())
        self._is_first = True
        self._called = False

    def spell(self, chunk: Mapping[str, Any]) -> str:
        """A delta, where there is something in it; then what ends the stream."""
        text = ""
        if not chunk.get("done") or self._is_first:
            text = data(self._frame(chunk["model"]) | {"choices": [self._choice(chunk)]})
            self._is_first = False
            self._called |= bool(chunk["message"].get("tool_calls"))
        return text + self._closing(chunk) if chunk.get("done") else text

    def lost(self) -> str:
        """An empty delta of no model; the end is lost with the text."""
        return self.spell({"model": "", "message": {"content": ""}})

    def _choice(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        message = chunk["message"]
        delta: dict[str, Any] = {"role": "assistant"} if self._is_first else {}
        delta["content"] = message["content"]
        if message.get("thinking"):
            delta["reasoning"] = message["thinking"]
        if message.get("tool_calls"):
            delta["tool_calls"] = tool_calls_of(message)
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
        if chunk.get("logprobs"):
            choice["logprobs"] = {"content": chunk["logprobs"]}
        return choice

    def _closing(self, chunk: Mapping[str, Any]) -> str:
        frame = self._frame(chunk["model"])
        reason = chunk["done_reason"]
        reason = "tool_calls" if reason == "stop" and self._called else reason
        choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": reason}
        text = data(frame | {"choices": [choice]})
        if self._include_usage:
            text += data(frame | {"choices": [], "usage": usage_of(chunk)})
        return f"{text}data: [DONE]\n\n"

    def _frame(self, name: str) -> dict[str, Any]:
        return {
            "id": self._identity,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": name,
            "system_fingerprint": "fp_ollama",
        }


def usage_of(body: Mapping[str, Any]) -> dict[str, int]:
    """What an answer cost, in tokens."""
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
