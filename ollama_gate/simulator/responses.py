"""`/v1/responses`: OpenAI's newer dialect, over `/api/chat`.

Ollama v0.32.15 middleware/openai.go (`ResponsesMiddleware`) and openai/responses.go. The answers
are spelled in `responses_stream`.
"""

import random
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from ollama_gate.simulator import schemas
from ollama_gate.simulator.bodies import (
    BadBodyError,
    Field,
    Struct,
    boolean,
    floating,
    integer,
    kind,
    many,
    mismatch,
    nested,
    raw,
    read_value,
    string,
)
from ollama_gate.simulator.gojson import Pairs, as_go_maps, decode, plain
from ollama_gate.simulator.native import chat_with
from ollama_gate.simulator.openai import image_in, think_of
from ollama_gate.simulator.passing import (
    WEB_SEARCH,
    UntranslatableError,
    opened,
    read,
    searches_the_web,
)
from ollama_gate.simulator.replies import EVENTS, Answer, Lines, RefusedError, Stream
from ollama_gate.simulator.responses_stream import ResponseEvents, whole_response
from ollama_gate.simulator.sse import KEPT_OPEN, at_once, besides, spelled
from ollama_gate.simulator.world import Call

_IDS = 999_999


async def responses(call: Call) -> Answer | Lines:
    """POST /v1/responses."""
    call = opened(call, keeps=searches_the_web)
    asked = read(call, _REQUEST)
    is_stream = bool(asked.get("stream"))
    request = _native(asked) | {"stream": is_stream}
    identity, item = (f"{kind}_{random.randrange(_IDS)}" for kind in ("resp", "msg"))
    headers = KEPT_OPEN if is_stream else ()
    events = ResponseEvents(identity, item, asked)
    searches = any((tool or {}).get("type") == WEB_SEARCH for tool in asked.get("tools") or ())
    try:
        with besides(headers):
            reply = await chat_with(call, request)
    except RefusedError as error:
        if not searches or not is_stream:
            raise
        return Lines(at_once(events.failed(error.status, error.text)), EVENTS, headers)
    match reply:
        case Stream():
            lines = spelled(reply.chunks, events, headers)
            return Lines(_told_as_events(lines, events) if searches else lines, EVENTS, headers)
        case Answer() if is_stream:
            return Lines(at_once(events.spell(reply.body)), EVENTS, headers)
        case Answer():
            return Answer(whole_response(identity, item, reply.body, asked))


async def _told_as_events(
    lines: AsyncGenerator[str], events: ResponseEvents
) -> AsyncGenerator[str]:
    """The same lines; where they fail before the first, the stream says so."""
    try:
        async for line in lines:
            yield line
    except RefusedError as error:
        yield events.failed(error.status, error.text)


# -- what is asked, as Ollama's own request ------------------------------------------------


def _native(asked: Mapping[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if asked.get("instructions"):
        messages.append({"role": "system", "content": asked["instructions"]})
    given = asked.get("input") or []
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    else:
        _add_items(messages, given)
    options: dict[str, Any] = {"temperature": asked.get("temperature", 1.0)}
    options |= {"top_p": asked["top_p"]} if "top_p" in asked else {}
    options |= {"num_predict": asked["max_output_tokens"]} if "max_output_tokens" in asked else {}
    think = think_of((asked.get("reasoning") or {}).get("effort", ""))
    request = {
        "model": asked.get("model", ""),
        "messages": messages,
        "options": options,
        "tools": _tools(asked.get("tools") or []),
        "format": _form((asked.get("text") or {}).get("format") or {}),
    }
    return request if think is None else request | {"think": think}


def _add_items(messages: list[dict[str, Any]], items: list[dict[str, Any]]) -> None:
    """Items of a conversation as a chat; thought goes to the assistant's next message."""
    thought = ""
    for at, item in enumerate(items):
        match item["kind"]:
            case "reasoning":
                thought = item.get("encrypted_content", "")
            case "message":
                thought = _add_message(messages, item, items[at + 1 : at + 2], thought)
            case "function_call":
                thought = _add_call(messages, item, thought)
            case "function_call_output":
                content, images = _content(item["output"])
                called = {"tool_call_id": item.get("call_id", "")}
                messages.append({"role": "tool", "content": content, "images": images} | called)
            case _:
                pass
    if thought:
        messages.append({"role": "assistant", "content": "", "thinking": thought})


def _add_message(
    messages: list[dict[str, Any]],
    item: dict[str, Any],
    following: list[dict[str, Any]],
    thought: str,
) -> str:
    """Give back the thought that it did not take."""
    message = _message(item)
    if message["role"] == "assistant" and thought:
        message["thinking"], thought = thought, ""
    if not _is_merged(messages, message, following):
        messages.append(message)
    return thought


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any], thought: str) -> str:
    """The same for a call, which joins the assistant's message before it."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(_call(item))
    if thought:
        messages[-1]["thinking"] = thought
    return ""


def _is_merged(
    messages: list[dict[str, Any]], message: dict[str, Any], following: list[dict[str, Any]]
) -> bool:
    """Whether a message between a call and its result became part of the call's message."""
    if message["role"] != "assistant" or not messages or messages[-1]["role"] != "assistant":
        return False
    answered = [item.get("call_id") for item in following if item["kind"] == "function_call_output"]
    if not any(call["id"] in answered for call in messages[-1].get("tool_calls", ())):
        return False
    both = (messages[-1]["content"], message["content"])
    messages[-1]["content"] = "\n".join(text for text in both if text)
    return True


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    content, images = _content(item["content"])
    return {"role": item.get("role", ""), "content": content, "images": images}


def _content(parts: list[dict[str, Any]]) -> tuple[str, list[bytes]]:
    text, images = "", []
    for part in parts:
        match part["type"]:
            case "input_text" | "output_text":
                text += part.get("text", "")
            case "input_image" if part.get("image_url"):
                images.append(image_in(part["image_url"]))
            case "input_file":
                raise UntranslatableError("file inputs are not currently supported")
            case _:
                pass
    return text, images


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    arguments = item.get("arguments", "")
    try:
        value = plain(decode(arguments.encode())) if arguments else {}
    except ValueError as error:
        raise UntranslatableError(f"failed to parse function call arguments: {error}") from None
    function = {"name": item.get("name", ""), "arguments": value}
    return {"id": item.get("call_id", ""), "function": function}


def _tools(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    searches = any(tool.get("type") == WEB_SEARCH for tool in asked)
    tools = []
    for tool in asked:
        if tool.get("type") == WEB_SEARCH:
            tools.append({"type": "function", "function": {"name": WEB_SEARCH}})
            continue
        tools += [
            spread
            for spread in _spread(tool)
            if not searches or spread["function"]["name"] != WEB_SEARCH
        ]
    return tools


def _spread(tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A tool, or the members of a namespace by their full names."""
    if tool.get("type") != "namespace":
        return [_tool(tool)]
    prefix = f"{tool['name']}." if tool.get("name") else ""
    members = [spread for member in tool.get("tools") or [] for spread in _spread(member)]
    for member in members:
        if not member["function"]["name"].startswith(prefix):
            member["function"]["name"] = prefix + member["function"]["name"]
    return members


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool.get("parameters")
    try:
        read_value(parameters, schemas.TOOL_PARAMETERS)
    except BadBodyError as error:
        raise UntranslatableError(f"failed to unmarshal tool parameters: {error}") from None
    function = {"name": tool.get("name", ""), "parameters": as_go_maps(plain(parameters)) or {}}
    return {"type": tool.get("type", ""), "function": function}


def _form(asked: Mapping[str, Any]) -> Any:
    return plain(asked.get("schema")) if asked.get("type") == "json_schema" else None


# -- how it is read ----------------------------------------------------------------------

_STRING = Field(string)
_TYPE = {"type": _STRING}
_TYPE_ONLY = Struct(r'struct { Type string "json:\"type\"" }', _TYPE)
_TYPE_AND_ROLE = Struct(
    r'struct { Type string "json:\"type\""; Role string "json:\"role\"" }',
    _TYPE | {"role": _STRING},
)
_PARTS = {
    "input_text": Struct("openai.ResponsesTextContent", _TYPE | {"text": _STRING}),
    "output_text": Struct("openai.ResponsesOutputTextContent", _TYPE | {"text": _STRING}),
    "input_image": Struct(
        "openai.ResponsesImageContent",
        _TYPE | {"detail": _STRING, "file_id": _STRING, "image_url": _STRING},
    ),
    "input_file": Struct(
        "openai.ResponsesFileContent",
        _TYPE | dict.fromkeys(("file_data", "file_id", "file_url", "filename"), _STRING),
    ),
}
_SUMMARY = Struct("openai.ResponsesReasoningSummary", _TYPE | {"text": _STRING})
_ITEMS = {
    "message": Struct("struct {}", _TYPE | {"role": _STRING, "content": Field(raw)}),
    "function_call": Struct(
        "openai.ResponsesFunctionCall",
        _TYPE | dict.fromkeys(("id", "call_id", "name", "arguments"), _STRING),
    ),
    "function_call_output": Struct("struct {}", _TYPE | {"call_id": _STRING, "output": Field(raw)}),
    "reasoning": Struct(
        "openai.ResponsesReasoningInput",
        _TYPE
        | {
            "id": _STRING,
            "summary": Field(
                many(nested(_SUMMARY), "[]openai.ResponsesReasoningSummary"), null_clears=True
            ),
            "encrypted_content": _STRING,
        },
    ),
    "web_search_call": Struct(
        "openai.ResponsesWebSearchCall", _TYPE | {"id": _STRING, "status": _STRING}
    ),
}


def _input(value: Any) -> Any:
    """A text, or items each told apart by its type."""
    if isinstance(value, str):
        return value
    return _each(value, "input must be a string or array", "input", _item)


def _item(value: Any) -> dict[str, Any]:
    head = read_value(value, _TYPE_AND_ROLE)
    name = head.get("type", "") or ("message" if head.get("role") else "")
    if not name:
        raise BadBodyError("input item missing required 'type' field")
    if name not in _ITEMS:
        raise BadBodyError(f'unknown input item type: "{name}"')
    item = read_value(value, _ITEMS[name]) | {"kind": name}
    if name == "message":
        item["content"] = _text_or_parts(item.get("content", ""), "content")
    if name == "function_call_output":
        item["output"] = _text_or_parts(item.get("output", ""), "output")
    return item


def _text_or_parts(value: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    parts: list[dict[str, Any]] = _each(value, f"{name} must be a string or array", name, _part)
    return parts


def _part(value: Any) -> dict[str, Any]:
    name = read_value(value, _TYPE_ONLY).get("type", "")
    if name not in _PARTS:
        raise BadBodyError(f"unknown content type: {name}")
    return read_value(value, _PARTS[name])


def _each(value: Any, complaint: str, name: str, read_one: Callable[[Any], Any]) -> list[Any]:
    if not isinstance(value, list) or isinstance(value, Pairs):
        found = f"json: cannot unmarshal {kind(value)} into Go value of type []json.RawMessage"
        raise BadBodyError(f"{complaint}: {found}")
    items = []
    for at, item in enumerate(value):
        try:
            items.append(read_one(item))
        except BadBodyError as error:
            raise BadBodyError(f"{name}[{at}]: {error}") from None
    return items


def _parameters(value: Any) -> Any:
    if not isinstance(value, Pairs):
        raise mismatch(value, "map[string]interface {}")
    return value


def _read_tool(value: Any) -> Any:
    return nested(_TOOL)(value)  # a namespace holds tools of its own


_TOOLS = Field(many(_read_tool, "[]openai.ResponsesTool"), null_clears=True)
_TOOL = Struct(
    "openai.ResponsesTool",
    {
        "type": _STRING,
        "name": _STRING,
        "description": Field(string, null_clears=True),
        "strict": Field(boolean, null_clears=True),
        "parameters": Field(_parameters, null_clears=True),
        "tools": _TOOLS,
    },
)
_REASONING = Struct(
    "openai.ResponsesReasoning",
    {"effort": _STRING, "generate_summary": _STRING, "summary": _STRING},
)
_FORMAT = Struct(
    "openai.ResponsesTextFormat",
    {
        "type": _STRING,
        "name": _STRING,
        "schema": Field(raw),
        "strict": Field(boolean, null_clears=True),
    },
)
_TEXT = Struct("openai.ResponsesText", {"format": Field(nested(_FORMAT), null_clears=True)})
_REQUEST = Struct(
    "openai.ResponsesRequest",
    {
        "model": _STRING,
        "background": Field(boolean),
        "include": Field(many(string, "[]string"), null_clears=True),
        "input": Field(_input),
        "instructions": _STRING,
        "max_output_tokens": Field(integer, null_clears=True),
        "reasoning": Field(nested(_REASONING)),
        "temperature": Field(floating("float64"), null_clears=True),
        "text": Field(nested(_TEXT), null_clears=True),
        "top_p": Field(floating("float64"), null_clears=True),
        "truncation": Field(string, null_clears=True),
        "tools": _TOOLS,
        "stream": Field(boolean, null_clears=True),
    },
)
