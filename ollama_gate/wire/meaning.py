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

MAX_TOP_LOGPROBS: Final = 20

_EFFORTS: Final = {"": False, "none": False} | dict.fromkeys(
    ["minimal", "low", "medium", "high", "max", "xhigh", "ultra"], True
)
"""What OpenAI's `effort` may be, and whether it asks a model to think."""

_IMAGE_URL: Final = re.compile(rb"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,")
_PREFIX_BYTES: Final = 64

_ITEM_TYPES: Final = frozenset(
    {"message", "function_call", "function_call_output", "reasoning", "web_search_call"}
)
_CONTENT_TYPES: Final = frozenset({"input_text", "input_image", "output_text"})


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
    return value.decode(body) if isinstance(value, Text) else ""


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
    contents = [_checked_content(fields.body, message or {}) for message in fields.get("messages")]
    _check_top_logprobs(fields.get("top_logprobs"))
    reasoning = fields.get("reasoning")
    effort = fields.get("reasoning_effort") if reasoning is None else reasoning.get("effort")
    return _chat_like(
        empty=all(content == [] for content in contents),
        stream=bool(fields.get("stream")),
        tools=fields.has("tools"),
        thinking=_thinks(_text(fields.body, effort)),
    )


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
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            _check_part(body, part)
    elif not isinstance(content, Text) and message.get("tool_calls") is None:
        raise HopelessError("invalid message content type")
    return content


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
            if not isinstance(part["input_audio"].get("data"), Text):
                raise HopelessError("invalid input_audio format: missing data")
        case _:
            raise HopelessError("invalid message format")


def _check_image(body: bytes, url: Any) -> None:
    if not isinstance(url, Text):
        raise HopelessError("invalid message format")
    begin = body[url.start + 1 : min(url.end - 1, url.start + 1 + _PREFIX_BYTES)]
    # A prefix spelled with escapes is rare enough to be left to Ollama.
    if b"\\" not in begin and not _IMAGE_URL.match(begin):
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
    if fields.text("encoding_format").lower() not in {"", "float", "base64"}:
        raise HopelessError("invalid value for 'encoding_format'")
    value = fields.get("input")
    if not _has_input(value) and not isinstance(value, Text):
        raise HopelessError("invalid input")
    return Meaning(needs=frozenset())


def _responses(fields: Fields) -> Meaning:
    items = fields.get("input")
    for item in items if isinstance(items, list) else ():
        _check_item(fields.body, item or {})
    reasoning = fields.get("reasoning") or {}
    return _chat_like(
        empty=not fields.has("instructions") and not fields.has("input"),
        stream=bool(fields.get("stream")),
        tools=any(_is_tool(fields.body, tool or {}) for tool in fields.get("tools") or ()),
        thinking=_thinks(_text(fields.body, reasoning.get("effort"))),
    )


def _check_item(body: bytes, item: Mapping[str, Any]) -> None:
    kind = _text(body, item.get("type"))
    if not kind and _text(body, item.get("role")):
        kind = "message"
    if kind not in _ITEM_TYPES:
        raise HopelessError(f"unknown input item type {kind[:40]!r}")
    parts = item.get("content")
    if kind != "message" or not isinstance(parts, list):
        return
    for part in parts:
        spelled = part.get("type") if isinstance(part, dict) else None
        if isinstance(spelled, Text) and spelled.decode(body) not in _CONTENT_TYPES:
            raise HopelessError("unknown or unsupported content type")


def _is_tool(body: bytes, tool: Mapping[str, Any]) -> bool:
    """Whether a declaration comes to at least one function; a namespace may be empty."""
    if _text(body, tool.get("type")) != "namespace":
        return True
    return any(
        _text(body, (one or {}).get("type")) != "namespace" for one in tool.get("tools") or ()
    )


# -------------------------------------------------------------------- Anthropic's route


def _messages(fields: Fields) -> Meaning:
    if (fields.get("max_tokens") or 0) <= 0:
        raise HopelessError("max_tokens is required and must be positive")
    if not fields.has("messages"):
        raise HopelessError("messages is required")
    for message in fields.get("messages"):
        blocks = (message or {}).get("content")
        for block in blocks if isinstance(blocks, list) else ():
            _check_block(fields.body, block or {})
    # A model that cannot think is not refused here: Ollama lets it off.
    return _chat_like(stream=bool(fields.get("stream")), tools=fields.has("tools"), thinking=False)


def _check_block(body: bytes, block: Mapping[str, Any]) -> None:
    kind = _text(body, block.get("type"))
    if kind == "image" and _text(body, (block.get("source") or {}).get("type")) != "base64":
        raise HopelessError("only base64 images are supported")
    if kind == "tool_use" and not all(_text(body, block.get(name)) for name in ("id", "name")):
        raise HopelessError("tool_use block missing required 'id' or 'name' field")


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
