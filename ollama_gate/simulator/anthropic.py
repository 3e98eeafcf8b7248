"""`/v1/messages`: Anthropic's dialect, over `/api/chat`.

Ollama v0.32.15 middleware/anthropic.go and anthropic/anthropic.go. The answers are spelled in
`anthropic_stream`. Searches of the web are declared to the model, which never asks for one.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from ollama_gate.simulator import schemas
from ollama_gate.simulator.anthropic_stream import MessageEvents, whole_message
from ollama_gate.simulator.bodies import (
    BadBodyError,
    Field,
    Struct,
    anything,
    arguments,
    boolean,
    floating,
    go_base64,
    integer,
    many,
    nested,
    raw,
    read_value,
    string,
)
from ollama_gate.simulator.gojson import encode, plain
from ollama_gate.simulator.native import chat_with
from ollama_gate.simulator.passing import (
    WEB_SEARCH,
    UntranslatableError,
    is_cloud_name,
    opened,
    read,
    searches_the_web,
)
from ollama_gate.simulator.replies import EVENTS, Answer, Headers, Lines, Stream, Text
from ollama_gate.simulator.sse import KEPT_OPEN, at_once, besides, spelled
from ollama_gate.simulator.world import Call

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_JSON = "application/json; charset=utf-8"
_NDJSON = "application/x-ndjson"
_LEVELS = ("high", "medium", "low", "max")
_CHARACTERS_PER_TOKEN = 4


async def messages(call: Call) -> Answer | Lines | Text:
    """POST /v1/messages."""
    call = opened(call, keeps=searches_the_web)
    asked = read(call, _REQUEST)
    _check(asked)
    request = _native(asked)
    is_stream = request["stream"]
    headers = KEPT_OPEN if is_stream else ()
    searches = any(_is_search(tool or {}) for tool in asked.get("tools") or ())
    if searches and is_cloud_name(asked["model"]) and not call.world.settings.cloud:
        return _no_search(headers)
    with besides(headers):
        reply = await chat_with(call, request, relaxed=True)
    identity = f"msg_{secrets.token_hex(12)}"
    events = MessageEvents(identity, asked["model"], _estimate(asked))
    match reply:
        case Stream():
            # Where it may search, Ollama forgets to name what it streams.
            kind = _NDJSON if searches else EVENTS
            return Lines(spelled(reply.chunks, events, headers), kind, headers)
        case Answer() if is_stream:
            return Lines(at_once(events.spell(reply.body)), EVENTS, headers)
        case Answer():
            return Answer(whole_message(identity, reply.body))


def error_body(status: int, text: str) -> dict[str, Any]:
    """An error as this dialect spells it."""
    return {
        "type": "error",
        "error": {"type": _KINDS.get(status, "api_error"), "message": text},
        "request_id": f"req_{secrets.token_hex(12)}",
    }


def _no_search(headers: Headers) -> Text:
    """Refused when the headers of a stream were already chosen."""
    text = encode(error_body(403, "ollama cloud is disabled: web search is unavailable"))
    return Text(text, EVENTS if headers else _JSON, 403, headers)


def _check(asked: Mapping[str, Any]) -> None:
    if not asked.get("model"):
        raise UntranslatableError("model is required")
    if asked.get("max_tokens", 0) <= 0:
        raise UntranslatableError("max_tokens is required and must be positive")
    if not asked.get("messages"):
        raise UntranslatableError("messages is required")


# -- what is asked, as Ollama's own request ------------------------------------------------


def _native(asked: Mapping[str, Any]) -> dict[str, Any]:
    chat = [{"role": "system", "content": text} for text in [_system(asked.get("system"))] if text]
    for message in asked["messages"]:
        chat += _messages(message)
    options = {"num_predict": asked["max_tokens"]}
    options |= {key: asked[key] for key in ("temperature", "top_p", "top_k") if key in asked}
    if asked.get("stop_sequences"):
        options["stop"] = asked["stop_sequences"]
    request = {
        "model": asked["model"],
        "messages": chat,
        "options": options,
        "stream": asked.get("stream", False),
        "tools": _tools([tool or {} for tool in asked.get("tools") or ()]),
    }
    think = _think(asked)
    return request if think is None else request | {"think": think}


def _system(given: Any) -> str:
    match given:
        case str():
            return given
        case list():
            texts = [
                b.get("text") for b in given if isinstance(b, dict) and b.get("type") == "text"
            ]
            return "".join(text for text in texts if isinstance(text, str))
        case _:
            return ""


def _messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message of blocks: results of tools stand alone, before what a user adds to them."""
    role = message.get("role", "").lower()
    said: dict[str, Any] = {"role": role, "content": "", "images": [], "tool_calls": []}
    results = []
    for block in message["content"]:
        match (block or {}).get("type"):
            case "tool_result" | "web_search_tool_result":
                results.append(_result(block))
            case "text":
                said["content"] += block.get("text", "")
            case "image":
                said["images"].append(_image(block.get("source")))
            case "thinking":
                said["thinking"] = block.get("thinking", said.get("thinking", ""))
            case "tool_use" | "server_tool_use":
                said["tool_calls"].append(_use(block))
            case _:
                pass
    is_empty = not any(said.get(key) for key in ("content", "images", "tool_calls", "thinking"))
    whole = [] if is_empty else [said]
    return results + whole if role == "user" else whole + results


def _use(block: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("id", "name"):
        if block["type"] == "tool_use" and not block.get(key):
            raise UntranslatableError(f"tool_use block missing required '{key}' field")
    function = {"name": block.get("name", ""), "arguments": block.get("input") or {}}
    return {"id": block.get("id", ""), "function": function}


def _result(block: Mapping[str, Any]) -> dict[str, Any]:
    text, images = "", []
    content = block.get("content")
    if isinstance(content, str):
        text = content
    for part in content if isinstance(content, list) else ():
        match part:
            case {"type": "text", "text": str() as more}:
                text += more
            case {"type": "image"} if block["type"] == "tool_result":
                source = part.get("source")
                if not isinstance(source, dict):
                    raise UntranslatableError("invalid tool_result image source")
                images.append(_image({k: v for k, v in source.items() if isinstance(v, str)}))
            case _:
                pass
    called = {"tool_call_id": block.get("tool_use_id", "")}
    return {"role": "tool", "content": text, "images": images} | called


def _image(source: Mapping[str, Any] | None) -> bytes:
    if source is None:
        raise UntranslatableError("invalid image source")
    if source.get("type") != "base64":
        raise UntranslatableError(
            f"invalid image source type: {source.get('type', '')}. "
            "Only base64 images are supported."
        )
    try:
        return go_base64(source.get("data", ""))
    except BadBodyError as error:
        raise UntranslatableError(f"invalid base64 image data: {error}") from None


def _tools(asked: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    searches = any(_is_search(tool) for tool in asked)
    tools = []
    for tool in asked:
        name = WEB_SEARCH if _is_search(tool) else tool.get("name", "")
        if searches and name == WEB_SEARCH and not _is_search(tool):
            continue
        function = {"name": name, "parameters": _parameters(tool)}
        tools.append({"type": "function", "function": function})
    return tools


def _is_search(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("type", "").startswith(WEB_SEARCH))


def _parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return read_value(tool.get("input_schema"), schemas.TOOL_PARAMETERS)
    except BadBodyError as error:
        text = f'invalid input_schema for tool "{tool.get("name", "")}": {error}'
        raise UntranslatableError(text) from None


def _think(asked: Mapping[str, Any]) -> bool | str | None:
    kind = (asked.get("thinking") or {}).get("type")
    if kind in {"enabled", "disabled"}:
        return bool(kind == "enabled")
    effort = (asked.get("output_config") or {}).get("effort", "").strip().lower()
    effort = "high" if effort == "xhigh" else effort
    return effort if effort in _LEVELS else None


def _estimate(asked: Mapping[str, Any]) -> int:
    """What the stream's first event says the prompt costs, before anybody has counted."""
    length = _length(asked.get("system"))
    for message in asked["messages"]:
        length += len(message.get("role", "").encode())
        length += sum(_block_length(block or {}) for block in message["content"])
    for tool in asked.get("tools") or ():
        texts = [tool.get(key, "").encode() for key in ("name", "description")]
        texts.append(encode(tool["input_schema"]).encode() if "input_schema" in tool else b"")
        length += sum(map(len, texts))
    return max(1, length // _CHARACTERS_PER_TOKEN)


def _length(system: Any) -> int:
    match system:
        case None:
            return 0
        case str():
            return len(system.encode())
        case list():
            return sum(_block_length(block) for block in system if isinstance(block, dict))
        case _:
            return len(encode(system).encode())


def _block_length(block: Mapping[str, Any]) -> int:
    texts = [block.get(key) for key in ("text", "thinking")]
    length = sum(len(text.encode()) for text in texts if isinstance(text, str))
    if block.get("type") in {"tool_use", "tool_result"}:
        length += len(encode(plain(block)).encode())
    return length


# -- how it is read ----------------------------------------------------------------------

_STRING = Field(string)
_POINTER = Field(string, null_clears=True)
_ANY = Field(anything, null_clears=True)
_FLOAT = Field(floating("float64"), null_clears=True)
_SOURCE = Struct(
    "anthropic.ImageSource", dict.fromkeys(("type", "media_type", "data", "url"), _STRING)
)
_BLOCK = Struct(
    "anthropic.ContentBlock",
    {
        "type": _STRING,
        "text": _POINTER,
        "source": Field(nested(_SOURCE), null_clears=True),
        "id": _STRING,
        "name": _STRING,
        "input": Field(arguments),
        "tool_use_id": _STRING,
        "content": _ANY,
        "is_error": Field(boolean),
        "thinking": _POINTER,
        "signature": _STRING,
    },
)
_read_blocks = many(nested(_BLOCK, unmarshaler=True), "[]anthropic.ContentBlock")
_read_head = nested(
    Struct(
        r'struct { Role string "json:\"role\""; Content json.RawMessage "json:\"content\"" }',
        {"role": _STRING, "content": Field(raw)},
    ),
    unmarshaler=True,
)


def _message(value: Any) -> dict[str, Any]:
    """A message whose content may be a text: one block of it."""
    message: dict[str, Any] = _read_head(value)
    if "content" not in message:
        if not any(key.lower() == "content" for key, _ in value):
            raise BadBodyError("unexpected end of JSON input")
        message["content"] = ""
    if isinstance(message["content"], str):
        return message | {"content": [{"type": "text", "text": message["content"]}]}
    return message | {"content": _read_blocks(message["content"])}


def _read_messages(value: Any) -> list[dict[str, Any]]:
    chat = many(_message, "[]anthropic.MessageParam")(value)
    if None in chat:
        raise BadBodyError("unexpected end of JSON input")
    return list(chat)


_TOOL = Struct(
    "anthropic.Tool",
    {
        "type": _STRING,
        "name": _STRING,
        "description": _STRING,
        "input_schema": Field(raw),
        "max_uses": Field(integer),
    },
)
_TOOL_CHOICE = Struct(
    "anthropic.ToolChoice",
    {"type": _STRING, "name": _STRING, "disable_parallel_tool_use": Field(boolean)},
)
_THINKING = Struct("anthropic.ThinkingConfig", {"type": _STRING, "budget_tokens": Field(integer)})
_REQUEST = Struct(
    "anthropic.MessagesRequest",
    {
        "model": _STRING,
        "max_tokens": Field(integer),
        "messages": Field(_read_messages, null_clears=True),
        "system": _ANY,
        "stream": Field(boolean),
        "temperature": _FLOAT,
        "top_p": _FLOAT,
        "top_k": Field(integer, null_clears=True),
        "stop_sequences": Field(many(string, "[]string"), null_clears=True),
        "tools": Field(many(nested(_TOOL), "[]anthropic.Tool"), null_clears=True),
        "tool_choice": Field(nested(_TOOL_CHOICE), null_clears=True),
        "thinking": Field(nested(_THINKING), null_clears=True),
        "metadata": Field(
            nested(Struct("anthropic.Metadata", {"user_id": _STRING})), null_clears=True
        ),
        "output_config": Field(
            nested(Struct("anthropic.OutputConfig", {"effort": _STRING})), null_clears=True
        ),
    },
)
