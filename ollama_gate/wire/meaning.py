"""What the fields of a body come to, route by route, and which of them Ollama refuses.

The checks are those that Ollama v0.32.15 makes before it looks for a runner: in `middleware`, in
the converters of `openai` and `anthropic`, and at the head of the handlers in `server/routes.go`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_gate.scheduler.types import Launch
from ollama_gate.wire.options import are_strings, launch_options
from ollama_gate.wire.routes import Endpoint
from ollama_gate.wire.scan import HopelessError, Text
from ollama_gate.wire.shapes import check_arguments, check_base64, fold, is_base64, whole

MAX_TOP_LOGPROBS: Final = 20

_EFFORTS: Final = {"": False, "none": False} | dict.fromkeys(
    ["minimal", "low", "medium", "high", "max", "xhigh", "ultra"], True
)
"""What OpenAI's `effort` may be, and whether it asks a model to think."""

_IMAGE_URL: Final = re.compile(
    rb'"data:(?:image\\?/(?:jpeg|jpg|png|webp))?;base64,([A-Za-z0-9+/]*+={0,2}+)"'
)
_IMAGE_URL_TEXT: Final = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")
_SPOKEN_BLOCKS: Final = frozenset(
    {"image", "tool_use", "tool_result", "server_tool_use", "web_search_tool_result"}
)
_WEB_SEARCH: Final = "web_search"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What the fields of a body come to."""

    empty: bool = False
    stream: bool = False
    needs: frozenset[str] = frozenset({"completion"})
    launch: Launch = field(default_factory=Launch)
    keep_alive_s: float | None = None


class Fields:
    """What a body gave, by the names of its fields."""

    def __init__(self, body: bytes, found: Mapping[str, Any]) -> None:
        self.body = body
        self._found = found

    def get(self, name: str) -> Any:
        """A field's value, `None` for one that was not given."""
        return self._found.get(name)

    def text(self, name: str) -> str:
        """A field that is a string, empty if it was not given."""
        return _text(self.body, self._found.get(name))

    def has(self, name: str) -> bool:
        """Whether a string or list has anything in it."""
        value = self._found.get(name)
        return not value.blank if isinstance(value, Text) else bool(value)


def _text(body: bytes, value: Any) -> str:
    if isinstance(value, Text):
        return value.decode(body)
    return value if isinstance(value, str) else ""


# -------------------------------------------------------------------- native routes


def _generate(fields: Fields) -> Meaning:
    _check_top_logprobs(fields.get("top_logprobs"))
    empty = not fields.has("prompt")
    if empty and fields.get("keep_alive") == 0:
        return _unload(fields)
    if fields.get("raw") and any(map(fields.has, ("template", "system", "context"))):
        raise HopelessError("raw mode does not support template, system, or context")
    needs = {"completion"}
    if fields.has("suffix"):
        needs.add("insert")
    return _native_run(fields, empty=empty, needs=needs)


def _chat(fields: Fields) -> Meaning:
    _check_top_logprobs(fields.get("top_logprobs"))
    empty = not fields.has("messages")
    if empty and fields.get("keep_alive") == 0:
        return _unload(fields)
    needs = {"completion"}
    if fields.has("tools"):
        needs.add("tools")
    return _native_run(fields, empty=empty, needs=needs)


def _unload(fields: Fields) -> Meaning:
    """Ollama looks at no option and no capability for this."""
    return Meaning(
        empty=True, stream=fields.get("stream") is not False, needs=frozenset(), keep_alive_s=0.0
    )


def _native_run(fields: Fields, *, empty: bool, needs: set[str]) -> Meaning:
    if fields.get("think"):
        needs.add("thinking")
    return Meaning(
        empty=empty,
        stream=fields.get("stream") is not False,
        needs=frozenset(needs),
        launch=launch_options(fields.get("options"), shift=fields.get("shift")),
        keep_alive_s=fields.get("keep_alive"),
    )


def _embed(fields: Fields) -> Meaning:
    return _native_embedding(fields, empty=not _has_input(fields.get("input")))


def _embeddings(fields: Fields) -> Meaning:
    return _native_embedding(fields, empty=not fields.has("prompt"))


def _native_embedding(fields: Fields, *, empty: bool) -> Meaning:
    return Meaning(
        empty=empty,
        needs=frozenset(),
        launch=launch_options(fields.get("options")),
        keep_alive_s=fields.get("keep_alive"),
    )


def _has_input(value: Any) -> bool:
    """Whether there is anything to embed; raises if it is neither a text nor texts."""
    match value:
        case None:
            return False
        case Text():
            return not value.blank
        case list() if all(isinstance(item, Text) for item in value):
            return bool(value)
        case _:
            raise HopelessError("invalid input type")


def _check_top_logprobs(value: int | None) -> None:
    if not 0 <= (value or 0) <= MAX_TOP_LOGPROBS:
        raise HopelessError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")


# -------------------------------------------------------------------- OpenAI's routes


def _chat_completions(fields: Fields) -> Meaning:
    if not fields.has("messages"):
        raise HopelessError("[] is too short - 'messages'")
    contents = _checked_contents(fields.body, fields.get("messages"))
    _check_top_logprobs(fields.get("top_logprobs"))
    reasoning = fields.get("reasoning")
    effort = fields.get("reasoning_effort") if reasoning is None else reasoning.get("effort")
    return _chat_like(
        empty=all(content == [] for content in contents),
        stream=bool(fields.get("stream")),
        tools=fields.has("tools"),
        thinking=_thinks(_text(fields.body, effort)),
    )


def _checked_contents(body: bytes, messages: list[Any]) -> list[Any]:
    contents = [_checked_content(body, message or {}) for message in messages]
    said = False
    for message, content in zip(messages, contents, strict=True):
        said = said or content != []
        # With no message yet to hang them on, calls are passed over unread.
        if said:
            _check_calls(body, message or {})
    return contents


def _chat_like(*, stream: bool, tools: bool, thinking: bool, empty: bool = False) -> Meaning:
    asked = {"completion": True, "tools": tools, "thinking": thinking}
    return Meaning(
        empty=empty,
        stream=stream,
        needs=frozenset(name for name, wanted in asked.items() if wanted),
    )


def _thinks(effort: str) -> bool:
    if effort not in _EFFORTS:
        raise HopelessError(f"invalid reasoning value {effort[:40]!r}")
    return _EFFORTS[effort]


def _checked_content(body: bytes, message: Mapping[str, Any]) -> Any:
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        for part in content:
            _check_part(body, part)
    elif not isinstance(content, Text) and calls is None:
        raise HopelessError("invalid message content type")
    return content


def _check_calls(body: bytes, message: Mapping[str, Any]) -> None:
    for call in message.get("tool_calls") or ():
        function = (call or {}).get("function") or {}
        check_arguments(_text(body, function.get("arguments")))


def _check_part(body: bytes, part: Any) -> None:
    """Content that Ollama cannot turn into its own: an unknown type, an image by address."""
    part = part if isinstance(part, dict) else {}
    match _text(body, part.get("type")):
        case "text" if isinstance(part.get("text"), Text):
            return
        case "image_url":
            image = part.get("image_url")
            _check_image(body, image.get("url") if isinstance(image, dict) else image)
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            data = part["input_audio"].get("data")
            if not isinstance(data, Text):
                raise HopelessError("invalid input_audio format: missing data")
            check_base64(body, data)
        case _:
            raise HopelessError("invalid message format")


def _check_image(body: bytes, url: Any) -> None:
    if not isinstance(url, Text):
        raise HopelessError("invalid message format")
    found = _IMAGE_URL.match(body, url.start)
    if found is not None and found.end() == url.end and (url.end - 1 - found.start(1)) % 4 == 0:
        return
    # What is spelled with escapes, or is wrong.
    spelled = url.decode(body)
    start = _IMAGE_URL_TEXT.match(spelled)
    if start is None or not is_base64(spelled[start.end() :]):
        raise HopelessError("invalid image input")


def _completions(fields: Fields) -> Meaning:
    stop = fields.get("stop")
    if isinstance(stop, list) and not are_strings(stop):
        raise HopelessError("invalid type for 'stop' field")
    _check_top_logprobs(max(fields.get("logprobs") or 0, 0))
    needs = {"completion", "insert"} if fields.has("suffix") else {"completion"}
    return Meaning(
        empty=not fields.has("prompt"),
        stream=bool(fields.get("stream")),
        needs=frozenset(needs),
    )


def _v1_embeddings(fields: Fields) -> Meaning:
    if fold(fields.text("encoding_format")) not in {"", "float", "base64"}:
        raise HopelessError("invalid value for 'encoding_format'")
    value = fields.get("input")
    if not _has_input(value) and not isinstance(value, Text):
        raise HopelessError("invalid input")
    return Meaning(needs=frozenset())


def _responses(fields: Fields) -> Meaning:
    given = fields.get("input") or {}
    items = [item or {} for item in given.get("items") or ()]
    for item in items:
        _check_item(fields.body, item)
    reasoning = fields.get("reasoning") or {}
    thinking = _thinks(_text(fields.body, reasoning.get("effort")))
    words = fields.text("instructions") or not _is_blank(given.get("text"))
    return _chat_like(
        empty=not words and not _is_talk(items),
        stream=bool(fields.get("stream")),
        tools=_has_tool(fields.body, fields.get("tools")),
        thinking=thinking,
    )


def _is_talk(items: list[Mapping[str, Any]]) -> bool:
    """Whether anything is said; a thought must be the last one to count by itself."""
    thoughts = [item for item in items if item["type"] == "reasoning"]
    spoken = {"message", "function_call", "function_call_output"}
    return any(item["type"] in spoken for item in items) or not (
        not thoughts or _is_blank(thoughts[-1].get("encrypted_content"))
    )


def _check_item(body: bytes, item: Mapping[str, Any]) -> None:
    match item["type"]:
        case "message":
            contents = item.get("content")
        case "function_call_output":
            contents = item.get("output")
        case "function_call":
            if arguments := _text(body, item.get("arguments")):
                check_arguments(arguments)
            return
        case _:
            return
    for content in contents if isinstance(contents, list) else ():
        if content["type"] == "input_file":
            raise HopelessError("file inputs are not currently supported")
        if content["type"] == "input_image" and not _is_blank(content.get("image_url")):
            _check_image(body, content["image_url"])


def _has_tool(body: bytes, tools: list[Any] | None) -> bool:
    # Each is looked at, for any of them may be wrong.
    return True in [_is_tool(body, tool or {}) for tool in tools or ()]


def _is_tool(body: bytes, tool: Mapping[str, Any]) -> bool:
    """Whether a declaration comes to at least one function; a namespace may be empty."""
    match _text(body, tool.get("type")):
        case "web_search":
            return True
        case "namespace":
            return _has_tool(body, tool.get("tools"))
        case _:
            whole(tool.get("parameters"))
            return True


def _is_blank(value: Any) -> bool:
    return not isinstance(value, Text) or value.blank


# -------------------------------------------------------------------- Anthropic's route


def _messages(fields: Fields) -> Meaning:
    if (fields.get("max_tokens") or 0) <= 0:
        raise HopelessError("max_tokens is required and must be positive")
    if not fields.has("messages"):
        raise HopelessError("messages is required")
    said = _has_words(fields.body, fields.get("system"))
    for message in fields.get("messages"):
        blocks = message["content"] or ()
        said = any([said, *(_says(fields.body, block or {}) for block in blocks)])
    _check_tools(fields.body, [tool or {} for tool in fields.get("tools") or ()])
    # A model that cannot think is not refused here: Ollama lets it off.
    return _chat_like(
        empty=not said,
        stream=bool(fields.get("stream")),
        tools=fields.has("tools"),
        thinking=False,
    )


def _has_words(body: bytes, system: Any) -> bool:
    if not isinstance(system, list):
        return not _is_blank(system)
    return any(
        _text(body, block.get("type")) == "text" and not _is_blank(block.get("text"))
        for block in system
        if isinstance(block, dict)
    )


def _says(body: bytes, block: Mapping[str, Any]) -> bool:
    """Whether a block comes to anything; raises if Ollama cannot turn it into its own."""
    kind = _text(body, block.get("type"))
    match kind:
        case "image":
            _check_source(body, block.get("source"))
        case "tool_use":
            if not all(_text(body, block.get(name)) for name in ("id", "name")):
                raise HopelessError("tool_use block missing required 'id' or 'name' field")
        case "tool_result":
            parts = block.get("content")
            for part in parts if isinstance(parts, list) else ():
                if isinstance(part, dict) and _text(body, part.get("type")) == "image":
                    _check_source(body, part.get("source"))
        case "text" | "thinking":
            return not _is_blank(block.get(kind))
        case _:
            pass
    return kind in _SPOKEN_BLOCKS


def _check_source(body: bytes, source: Any) -> None:
    if not isinstance(source, dict) or _text(body, source.get("type")) != "base64":
        raise HopelessError("only base64 images are supported")
    data = source.get("data")
    if isinstance(data, Text):
        check_base64(body, data)


def _check_tools(body: bytes, tools: list[Mapping[str, Any]]) -> None:
    """Ollama has a tool of its own for searching; one of the same name is then dropped unread."""
    kinds = [_text(body, tool.get("type")) for tool in tools]
    searches = any(kind.startswith(_WEB_SEARCH) for kind in kinds)
    for kind, tool in zip(kinds, tools, strict=True):
        is_dropped = searches and _text(body, tool.get("name")) == _WEB_SEARCH
        if not kind.startswith(_WEB_SEARCH) and not is_dropped:
            whole(tool.get("input_schema"))


MEANINGS: Final[Mapping[Endpoint, Callable[[Fields], Meaning]]] = {
    Endpoint.GENERATE: _generate,
    Endpoint.CHAT: _chat,
    Endpoint.EMBED: _embed,
    Endpoint.EMBEDDINGS: _embeddings,
    Endpoint.CHAT_COMPLETIONS: _chat_completions,
    Endpoint.COMPLETIONS: _completions,
    Endpoint.V1_EMBEDDINGS: _v1_embeddings,
    Endpoint.RESPONSES: _responses,
    Endpoint.MESSAGES: _messages,
}
"""The routes that take JSON."""
