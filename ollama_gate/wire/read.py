"""What a request body asks for, in each dialect, and whether Ollama would refuse it at once.

Everything follows Ollama v0.32.15 (`server/routes.go`, `middleware`). In doubt a request is taken
for one that loads its model, for scheduling it is safe; nothing of a body is ever rewritten,
only `keep_alive` is cut out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from ollama_gate import names
from ollama_gate.errors import BadRequestError
from ollama_gate.scheduler.types import Launch, Priority
from ollama_gate.wire.bodies import BODIES
from ollama_gate.wire.form import read_form
from ollama_gate.wire.routes import Dialect, Endpoint
from ollama_gate.wire.scan import HopelessError, Text, end_of_space, walk_object
from ollama_gate.wire.shapes import fold

KEEP_ALIVE: Final = "keep_alive"

MIN_CONTEXT: Final = 4
"""Ollama raises a smaller `num_ctx` to this (`server/sched.go`, `getRunner`)."""

MAX_TOP_LOGPROBS: Final = 20

_INT64: Final = range(-(2**63), 2**63)
_PRIORITY: Final = re.compile(r"[+-]?[0-9]{1,18}")
_SPACE: Final = b" \t\r\n"

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
class Ask:
    """A request that Ollama would load a model for.

    Attributes:
        model: as the client wrote it.
        launch_options: only what the request itself names; nobody but a native client can.
        keep_alive_s: `inf` for no limit; `None` if not given, or given where Ollama ignores it.
        empty: nothing is to be generated; with `keep_alive_s` 0, generate and chat unload.
        needs: the capabilities that Ollama checks before it loads.
        body: what to forward: the client's bytes, but for `keep_alive`.
    """

    model: str
    launch_options: Launch
    keep_alive_s: float | None
    empty: bool
    stream: bool
    needs: frozenset[str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopeless:
    """A request that Ollama will refuse without loading anything; `why` is for the log."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request that Ollama would decode first, with this `Content-Encoding`."""

    encoding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """What the fields of a body come to."""

    empty: bool = False
    stream: bool = False
    needs: frozenset[str] = frozenset({"completion"})
    launch: Launch = field(default_factory=Launch)
    keep_alive_s: float | None = None


def read(
    endpoint: Endpoint, headers: Mapping[str, str], body: bytes, *, query: str = ""
) -> Ask | Hopeless | Encoded:
    """What a body means; `headers` match in any case, `query` is the part behind the `?`."""
    try:
        if endpoint is Endpoint.TRANSCRIPTIONS:
            return _read_transcription(headers.get("Content-Type", ""), body, query)
        # Spelled otherwise, or on a native route, Ollama does not decode it.
        if endpoint.dialect is not Dialect.NATIVE and headers.get("Content-Encoding") == "zstd":
            return Encoded(encoding="zstd")
        return _read_json(endpoint, body)
    except HopelessError as error:
        return Hopeless(why=str(error))


def read_priority(value: str | None) -> Priority | None:
    """The class that `X-Priority` names; raises `BadRequestError` if it names none."""
    if value is None:
        return None
    word = value.strip()
    if word.upper() in Priority.__members__:
        return Priority[word.upper()]
    if not _PRIORITY.fullmatch(word):
        raise BadRequestError(
            f"X-Priority: expected high, normal, low or an integer, found {value[:40]!r}"
        )
    number = int(word)
    return Priority.HIGH if number > 0 else Priority.LOW if number < 0 else Priority.NORMAL


class _Fields:
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


# -------------------------------------------------------------------- JSON


def _read_json(endpoint: Endpoint, body: bytes) -> Ask:
    found, cuts = _read_object(endpoint, body)
    fields = _Fields(body, found)
    meaning = _MEANINGS[endpoint](fields)
    return Ask(
        model=_model(fields.text("model")),
        launch_options=meaning.launch,
        keep_alive_s=meaning.keep_alive_s,
        empty=meaning.empty,
        stream=meaning.stream,
        needs=meaning.needs,
        body=_without(body, cuts),
    )


def _read_object(endpoint: Endpoint, body: bytes) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """The fields of the object that a body begins with, and what of it is not to be forwarded."""
    struct, native = BODIES[endpoint], endpoint.dialect is Dialect.NATIVE
    found: dict[str, Any] = {}
    cuts: list[tuple[int, int]] = []
    kept = False

    def visit(key: Text, at: int) -> int:
        nonlocal kept
        name = fold(key.decode(body))
        end = struct.member(body, name, at, 1, found)
        if native and name == KEEP_ALIVE:
            cuts.append(_member_span(body, key.start, end, kept=kept))
        else:
            kept = True
        return end

    start = end_of_space(body, 0)
    if body[start : start + 1] != b"{":
        raise HopelessError("expected a JSON object")
    walk_object(body, start, 0, visit)
    return found, cuts


def _member_span(body: bytes, start: int, end: int, *, kept: bool) -> tuple[int, int]:
    """A member and one comma: its own in front if any member there stays, else that behind."""
    if kept:
        return len(body[:start].rstrip(_SPACE)) - 1, end
    behind = end_of_space(body, end)
    return start, behind + 1 if body[behind : behind + 1] == b"," else end


def _without(body: bytes, cuts: list[tuple[int, int]]) -> bytes:
    if not cuts:
        return body
    edges = [0, *(edge for cut in cuts for edge in cut), len(body)]
    return b"".join(body[start:end] for start, end in list(pairwise(edges))[::2])


def _model(raw: str) -> str:
    if names.parse(raw) is None:
        raise HopelessError(f"invalid or no model name {raw[:80]!r}")
    return raw


# -------------------------------------------------------------------- native routes


def _generate(fields: _Fields) -> _Meaning:
    _check_top_logprobs(fields.get("top_logprobs"))
    empty = not fields.has("prompt")
    if empty and fields.get(KEEP_ALIVE) == 0:
        return _unload(fields)
    if fields.get("raw") and any(map(fields.has, ("template", "system", "context"))):
        raise HopelessError("raw mode does not support template, system, or context")
    needs = {"completion"}
    if fields.has("suffix"):
        needs.add("insert")
    return _native_run(fields, empty=empty, needs=needs)


def _chat(fields: _Fields) -> _Meaning:
    _check_top_logprobs(fields.get("top_logprobs"))
    empty = not fields.has("messages")
    if empty and fields.get(KEEP_ALIVE) == 0:
        return _unload(fields)
    needs = {"completion"}
    if fields.has("tools"):
        needs.add("tools")
    return _native_run(fields, empty=empty, needs=needs)


def _unload(fields: _Fields) -> _Meaning:
    """Ollama looks at no option and no capability for this."""
    return _Meaning(
        empty=True, stream=fields.get("stream") is not False, needs=frozenset(), keep_alive_s=0.0
    )


def _native_run(fields: _Fields, *, empty: bool, needs: set[str]) -> _Meaning:
    if fields.get("think"):
        needs.add("thinking")
    return _Meaning(
        empty=empty,
        stream=fields.get("stream") is not False,
        needs=frozenset(needs),
        launch=_launch(fields.get("options"), shift=fields.get("shift")),
        keep_alive_s=fields.get(KEEP_ALIVE),
    )


def _embed(fields: _Fields) -> _Meaning:
    return _native_embedding(fields, empty=not _has_input(fields.get("input")))


def _embeddings(fields: _Fields) -> _Meaning:
    return _native_embedding(fields, empty=not fields.has("prompt"))


def _native_embedding(fields: _Fields, *, empty: bool) -> _Meaning:
    return _Meaning(
        empty=empty,
        needs=frozenset(),
        launch=_launch(fields.get("options")),
        keep_alive_s=fields.get(KEEP_ALIVE),
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


# -------------------------------------------------------------------- options


def _integer(value: Any) -> bool:
    return isinstance(value, float)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Text) for item in value)


_OPTIONS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"], _integer),
    **dict.fromkeys(["draft_num_predict", "num_keep", "seed", "num_predict"], _integer),
    **dict.fromkeys(["top_k", "repeat_last_n"], _integer),
    **dict.fromkeys(["top_p", "min_p", "typical_p", "temperature"], _integer),
    **dict.fromkeys(["repeat_penalty", "presence_penalty", "frequency_penalty"], _integer),
    "use_mmap": _boolean,
    "stop": _strings,
}
"""Ollama's options (`api/types.go`), each with a test for what Go would take; JSON has one kind of
number, and where Go wants an integer it cuts the fraction off."""


def _launch(options: Mapping[str, Any] | None, *, shift: bool | None = None) -> Launch:
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name, fits in _OPTIONS.items():
        if name in given and not fits(given[name]):
            raise HopelessError(f"option {name!r} is of the wrong type")
    num_ctx = _cut(given.get("num_ctx"))
    return Launch(
        num_ctx=None if num_ctx is None else max(num_ctx, MIN_CONTEXT),
        num_batch=_cut(given.get("num_batch")),
        num_gpu=_cut(given.get("num_gpu")),
        main_gpu=_cut(given.get("main_gpu")),
        use_mmap=given.get("use_mmap"),
        num_thread=_cut(given.get("num_thread")),
        draft_num_predict=_cut(given.get("draft_num_predict")),
        shift=shift,
    )


def _cut(value: float | None) -> int | None:
    """As Go on amd64 turns a float64 into an int."""
    if value is None:
        return None
    whole = int(value)
    return whole if whole in _INT64 else _INT64.start


# -------------------------------------------------------------------- OpenAI's routes


def _chat_completions(fields: _Fields) -> _Meaning:
    if not fields.has("messages"):
        raise HopelessError("[] is too short - 'messages'")
    for message in fields.get("messages"):
        _check_content(fields.body, message or {})
    _check_top_logprobs(fields.get("top_logprobs"))
    reasoning = fields.get("reasoning")
    effort = fields.get("reasoning_effort") if reasoning is None else reasoning.get("effort")
    return _chat_like(
        stream=bool(fields.get("stream")),
        tools=fields.has("tools"),
        thinking=_thinks(_text(fields.body, effort)),
    )


def _chat_like(*, stream: bool, tools: bool, thinking: bool, empty: bool = False) -> _Meaning:
    asked = {"completion": True, "tools": tools, "thinking": thinking}
    return _Meaning(
        empty=empty,
        stream=stream,
        needs=frozenset(name for name, wanted in asked.items() if wanted),
    )


def _thinks(effort: str) -> bool:
    if effort not in _EFFORTS:
        raise HopelessError(f"invalid reasoning value {effort[:40]!r}")
    return _EFFORTS[effort]


def _check_content(body: bytes, message: Mapping[str, Any]) -> None:
    match message.get("content"):
        case Text():
            pass
        case list() as parts:
            for part in parts:
                _check_part(body, part)
        case _ if message.get("tool_calls") is None:
            raise HopelessError("invalid message content type")


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


def _completions(fields: _Fields) -> _Meaning:
    stop = fields.get("stop")
    if isinstance(stop, list) and not _strings(stop):
        raise HopelessError("invalid type for 'stop' field")
    _check_top_logprobs(max(fields.get("logprobs") or 0, 0))
    needs = {"completion", "insert"} if fields.has("suffix") else {"completion"}
    return _Meaning(
        empty=not fields.has("prompt"),
        stream=bool(fields.get("stream")),
        needs=frozenset(needs),
    )


def _v1_embeddings(fields: _Fields) -> _Meaning:
    if fields.text("encoding_format").lower() not in {"", "float", "base64"}:
        raise HopelessError("invalid value for 'encoding_format'")
    value = fields.get("input")
    if not _has_input(value) and not isinstance(value, Text):
        raise HopelessError("invalid input")
    return _Meaning(needs=frozenset())


def _responses(fields: _Fields) -> _Meaning:
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


def _messages(fields: _Fields) -> _Meaning:
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


# -------------------------------------------------------------------- audio


def _read_transcription(content_type: str, body: bytes, query: str) -> Ask:
    form = read_form(content_type, body)
    # Go puts the query before the fields of a form.
    asked = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    if not form.files.get("file"):
        raise HopelessError("file is required")
    return Ask(
        model=_model(asked.get("model", form.values.get("model", ""))),
        launch_options=Launch(),
        keep_alive_s=None,
        empty=False,
        stream=False,
        needs=frozenset({"completion"}),
        body=body,
    )


_MEANINGS: Final[Mapping[Endpoint, Callable[[_Fields], _Meaning]]] = {
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
