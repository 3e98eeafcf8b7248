"""The bodies of the inference routes: which fields Ollama v0.32.15 types, and how.

From its `api/types.go`, `openai/openai.go`, `openai/responses.go` and `anthropic/anthropic.go`.
A field that is missing here is passed over: it cannot make Ollama refuse.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from ollama_gate.wire.routes import Endpoint
from ollama_gate.wire.scan import HopelessError, Text, end_of_value
from ollama_gate.wire.shapes import (
    INTEGERS,
    SOME_TEXT,
    TALK,
    Found,
    Listed,
    Reader,
    Struct,
    Wrong,
    anything,
    base64,
    boolean,
    checked,
    either,
    float32,
    float64,
    held,
    integer,
    keep_alive,
    listed,
    mapping,
    named,
    opaque,
    text,
    think,
    whole,
)


def _texts(*names: str) -> dict[str, Reader]:
    return dict.fromkeys(names, text)


# -------------------------------------------------------------------- tools

_DEEPEST: Final = 50
"""Types that nest are followed to this depth, for Python's stack has an end."""

_PROPERTY_TYPE: Final = either({b'"': text, b"[": listed(text)})


def _property(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    # Properties nest.
    return (_PROPERTY if depth < _DEEPEST else opaque)(body, at, depth)


_PROPERTIES: Final = named(_property)
_PROPERTY: Final = Struct(
    values={"type": _PROPERTY_TYPE, "description": text},
    pointers={
        "anyof": listed(_property),
        "enum": listed(anything),
        "properties": _PROPERTIES,
        "required": listed(text),
    },
    plain={"items": anything},
)
_PARAMETERS: Final = Struct(
    values={"type": text},
    pointers={"required": listed(text), "properties": _PROPERTIES},
    plain={"$defs": anything, "items": anything},
)


def _remade_parameters(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """What Ollama takes for any object first, writes again, and only then decodes."""
    value, end = mapping(body, at, depth)
    read = held(_PARAMETERS)
    if value is None or not isinstance(read(body, at, depth)[0], Wrong):
        return value, end
    try:
        # Of a key that comes twice, the first is gone by then.
        again = json.dumps(json.loads(body[at:end].decode(errors="replace")))
    except RecursionError:
        return value, end
    return read(again.encode(), 0, 0)[0], end


_TOOL: Final = Struct(
    values={
        "type": text,
        "function": Struct(
            values={**_texts("name", "description"), "parameters": _PARAMETERS},
        ),
    },
    plain={"items": anything},
)
# An object, and not a text that holds one.
_ARGUMENTS: Final = either({b"{": mapping})
_CALL: Final = Struct(
    values={
        "id": text,
        "function": Struct(values={"index": integer, "name": text, "arguments": _ARGUMENTS}),
    }
)
_V1_CALL: Final = Struct(
    values={
        **_texts("id", "type"),
        "index": integer,
        "function": Struct(values=_texts("name", "arguments")),
    }
)


# -------------------------------------------------------------------- messages

_MESSAGE: Final = Struct(
    values=_texts("role", "content", "thinking", "tool_name", "tool_call_id"),
    pointers={"images": listed(base64), "tool_calls": listed(_CALL)},
)
_V1_MESSAGE: Final = Struct(
    values=_texts("role", "reasoning", "name", "tool_call_id"),
    pointers={"tool_calls": listed(_V1_CALL)},
    plain={"content": anything},
)

_BLOCK: Final = Struct(
    values={
        **_texts("type", "id", "name", "tool_use_id", "signature"),
        "input": _ARGUMENTS,
        "is_error": boolean,
    },
    pointers={
        **_texts("text", "thinking"),
        "source": Struct(values=_texts("type", "media_type", "data", "url")),
        "citations": listed(
            Struct(values=_texts("type", "url", "title", "encrypted_index", "cited_text"))
        ),
    },
    plain={"content": anything},
)


def _words(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    place, end = text(body, at, depth)
    return _one_block(place), end


def _one_block(place: Text) -> Any:
    """What Ollama makes of a string where blocks are expected."""
    return Listed([Found(type="text", text=place)])


_BLOCKS: Final = either({b'"': _words, b"[": listed(_BLOCK)})


def _check_message_param(_body: bytes, found: Any) -> None:
    if found is None or "content" not in found:
        raise HopelessError("a message without content")
    whole(found["content"])


_MESSAGE_PARAM: Final = checked(
    Struct(values={"role": text}, plain={"content": held(_BLOCKS)}), _check_message_param
)
_MESSAGES_TOOL: Final = Struct(
    values={**_texts("type", "name", "description"), "max_uses": integer},
    plain={"input_schema": held(_PARAMETERS)},
)


# -------------------------------------------------------------------- what /v1/responses takes


def _held_texts(*names: str) -> dict[str, Reader]:
    return dict.fromkeys(names, held(text))


_CONTENT_FIELDS: Final = {
    "input_text": ("text",),
    "output_text": ("text",),
    "input_image": ("detail", "file_id", "image_url"),
    "input_file": ("file_data", "file_id", "file_url", "filename"),
}
_ITEM_FIELDS: Final = {
    "message": ("content",),
    "function_call": ("id", "call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("id", "summary", "encrypted_content"),
    "web_search_call": ("id", "status", "action"),
}


def _check_content(body: bytes, found: Any) -> None:
    _check_kind(body, found or {}, _CONTENT_FIELDS, default="")


def _check_item(body: bytes, found: Any) -> None:
    found = found or {}
    role = found.get("role")
    _check_kind(
        body, found, _ITEM_FIELDS, default="message" if role is not None and not role.blank else ""
    )


def _check_kind(
    body: bytes, found: dict[str, Any], kinds: Mapping[str, tuple[str, ...]], *, default: str
) -> None:
    """Ollama decodes only those fields that an object of this kind has; the kind is kept."""
    kind = found.get("type")
    spelled = (kind.decode(body) if kind is not None else "") or default
    if spelled not in kinds:
        raise HopelessError(f"unknown type {spelled[:40]!r}")
    found["type"] = spelled
    for name in kinds[spelled]:
        whole(found.get(name))


_CONTENT: Final = checked(
    Struct(
        values={
            "type": text,
            **_held_texts("text", *_CONTENT_FIELDS["input_image"], *_CONTENT_FIELDS["input_file"]),
        },
    ),
    _check_content,
)
_CONTENTS: Final = either({b'"': text, b"[": listed(_CONTENT)})
_ITEM: Final = checked(
    Struct(
        values={
            **_texts("type", "role"),
            **_held_texts("id", "call_id", "name", "arguments", "encrypted_content", "status"),
        },
        plain={
            "content": held(_CONTENTS),
            "output": held(_CONTENTS),
            "summary": held(listed(Struct(values=_texts("type", "text")))),
            "action": held(Struct(values=_texts("type", "query"))),
        },
    ),
    _check_item,
)
_ITEMS: Final = listed(_ITEM)


def _input(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    """A string and a list have each a place of its own, and neither clears the other."""
    if body.startswith(b"[", at):
        items, end = _ITEMS(body, at, depth)
        return Found(items=tuple(items)), end
    value, end = text(body, at, depth)
    return Found(text=value), end


def _responses_tool(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    # Namespaces nest.
    return _RESPONSES_TOOL(body, at, depth) if depth < _DEEPEST else _passed(body, at, depth)


def _passed(body: bytes, at: int, depth: int) -> tuple[Any, int]:
    return Found(), end_of_value(body, at, depth)


_RESPONSES_TOOL: Final = Struct(
    values=_texts("type", "name"),
    pointers={"description": text, "strict": boolean, "tools": listed(_responses_tool)},
    plain={"parameters": _remade_parameters},
)

_NATIVE: Final[Mapping[str, Reader]] = {"keep_alive": keep_alive, "options": mapping}
_RUN_VALUES: Final[Mapping[str, Reader]] = {
    "_debug_render_only": boolean,
    "logprobs": boolean,
    "top_logprobs": integer,
}
_RUN_POINTERS: Final[Mapping[str, Reader]] = {
    **_NATIVE,
    "shift": boolean,
    "stream": boolean,
    "think": think,
    "truncate": boolean,
}
_STREAM_OPTIONS: Final = Struct(values={"include_usage": boolean})


def _bodies(*, short: bool) -> Mapping[Endpoint, Struct]:
    """The routes that take JSON; `short` lets one message or number stand for many alike."""
    talk, numbers = (TALK, INTEGERS) if short else (None, None)
    words = Found(content=SOME_TEXT)
    blocks = Found(content=_one_block(SOME_TEXT))
    return {
        Endpoint.GENERATE: Struct(
            values={
                **_texts("model", "prompt", "suffix", "system", "template"),
                "raw": boolean,
                **_RUN_VALUES,
            },
            pointers={
                "context": listed(integer, alike=numbers, one=0),
                "images": listed(base64),
                **_RUN_POINTERS,
            },
        ),
        Endpoint.CHAT: Struct(
            values={"model": text, **_RUN_VALUES},
            pointers={
                "messages": listed(_MESSAGE, alike=talk, one=words),
                "tools": listed(_TOOL),
                **_RUN_POINTERS,
            },
        ),
        Endpoint.EMBED: Struct(
            values={"model": text, "dimensions": integer},
            pointers={"truncate": boolean, **_NATIVE},
            plain={"input": anything},
        ),
        Endpoint.EMBEDDINGS: Struct(values=_texts("model", "prompt"), pointers=_NATIVE),
        Endpoint.CHAT_COMPLETIONS: Struct(
            values={
                "model": text,
                "stream": boolean,
                "top_logprobs": integer,
                "_debug_render_only": boolean,
            },
            pointers={
                "messages": listed(_V1_MESSAGE, alike=talk, one=words),
                "stream_options": _STREAM_OPTIONS,
                "max_tokens": integer,
                "seed": integer,
                "temperature": float64,
                "frequency_penalty": float64,
                "presence_penalty": float64,
                "top_p": float64,
                "response_format": Struct(
                    values={"type": text},
                    pointers={"json_schema": Struct(plain={"schema": opaque})},
                ),
                "tools": listed(_TOOL),
                "reasoning": Struct(values={"effort": text}),
                "reasoning_effort": text,
                "logprobs": boolean,
            },
            plain={"stop": anything},
        ),
        Endpoint.COMPLETIONS: Struct(
            values={
                **_texts("model", "prompt", "suffix"),
                "frequency_penalty": float32,
                "presence_penalty": float32,
                "stream": boolean,
                "top_p": float32,
                "_debug_render_only": boolean,
            },
            pointers={
                "max_tokens": integer,
                "seed": integer,
                "stream_options": _STREAM_OPTIONS,
                "temperature": float32,
                "logprobs": integer,
            },
            plain={"stop": anything},
        ),
        Endpoint.V1_EMBEDDINGS: Struct(
            values={"model": text, "dimensions": integer, "encoding_format": text},
            plain={"input": anything},
        ),
        Endpoint.RESPONSES: Struct(
            values={
                **_texts("model", "instructions"),
                "background": boolean,
                "input": _input,
                "reasoning": Struct(values=_texts("effort", "generate_summary", "summary")),
            },
            pointers={
                "include": listed(text),
                "max_output_tokens": integer,
                "stream": boolean,
                "temperature": float64,
                "text": Struct(
                    pointers={
                        "format": Struct(
                            values=_texts("type", "name"), pointers={"strict": boolean}
                        )
                    }
                ),
                "top_p": float64,
                "truncation": text,
                "tools": listed(_responses_tool),
            },
        ),
        Endpoint.MESSAGES: Struct(
            values={"model": text, "max_tokens": integer, "stream": boolean},
            pointers={
                "messages": listed(_MESSAGE_PARAM, alike=talk, one=blocks),
                "temperature": float64,
                "top_p": float64,
                "top_k": integer,
                "stop_sequences": listed(text),
                "tools": listed(_MESSAGES_TOOL),
                "tool_choice": Struct(
                    values={**_texts("type", "name"), "disable_parallel_tool_use": boolean}
                ),
                "thinking": Struct(values={"type": text, "budget_tokens": integer}),
                "metadata": Struct(values={"user_id": text}),
                "output_config": Struct(values={"effort": text}),
            },
            plain={"system": anything},
        ),
    }


BODIES: Final = _bodies(short=True)
"""To be read first; raises `ShortenedError` for the rare body that asks for what was left out."""
WHOLE_BODIES: Final = _bodies(short=False)
"""The same, with nothing left out."""
