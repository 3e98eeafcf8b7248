"""The bodies of the inference routes: which fields Ollama v0.32.15 types, and how.

From its `api/types.go`, `openai/openai.go`, `openai/responses.go` and `anthropic/anthropic.go`.
A field that is missing here is passed over: it cannot make Ollama refuse, or not for certain.
"""

from collections.abc import Mapping
from typing import Any, Final

from ollama_gate.wire.routes import Endpoint
from ollama_gate.wire.scan import HopelessError
from ollama_gate.wire.shapes import (
    Reader,
    Struct,
    anything,
    base64,
    boolean,
    either,
    float32,
    float64,
    integer,
    keep_alive,
    listed,
    mapping,
    opaque,
    text,
    think,
)


def _texts(*names: str) -> dict[str, Reader]:
    return dict.fromkeys(names, text)


def _required(item: Reader, name: str) -> Reader:
    """A struct that Go cannot decode without this field."""

    def read(body: bytes, at: int, depth: int) -> tuple[Any, int]:
        found, end = item(body, at, depth)
        if found is not None and name not in found:
            raise HopelessError(f"expected {name} in what begins at byte {at}")
        return found, end

    return read


_TOOL: Final = Struct(
    values={
        "type": text,
        "function": Struct(
            values={
                **_texts("name", "description"),
                "parameters": Struct(values={"type": text}, pointers={"required": listed(text)}),
            }
        ),
    }
)
# An object, and not a text that holds one.
_ARGUMENTS: Final = either({b"{": opaque})
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

_MESSAGE: Final = Struct(
    values=_texts("role", "content", "thinking", "tool_name", "tool_call_id"),
    pointers={"images": listed(base64), "tool_calls": listed(_CALL)},
)
_V1_MESSAGE: Final = Struct(
    values=_texts("role", "reasoning", "name", "tool_call_id"),
    pointers={"content": anything, "tool_calls": listed(_V1_CALL)},
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
    },
)
_BLOCKS: Final = either({b'"': text, b"[": listed(_BLOCK)})
_MESSAGE_PARAM: Final = _required(
    Struct(values={"role": text}, pointers={"content": _BLOCKS}), "content"
)
_MESSAGES_TOOL: Final = Struct(
    values={**_texts("type", "name", "description"), "max_uses": integer}
)

# Only some kinds of items have a content that Ollama looks at.
_PART: Final = Struct(values={"type": either({b'"': text}, otherwise=opaque)})
_PARTS: Final = listed(either({b"{": _PART}, otherwise=opaque))
_RESPONSES_ITEM: Final = Struct(
    values=_texts("type", "role"), pointers={"content": either({b"[": _PARTS}, otherwise=opaque)}
)
_RESPONSES_TOOL: Final = Struct(
    values=_texts("type", "name"),
    pointers={
        "description": text,
        "strict": boolean,
        "parameters": mapping,
        "tools": listed(Struct(values=_texts("type", "name"))),
    },
)

_NATIVE: Final[Mapping[str, Reader]] = {"keep_alive": keep_alive, "options": mapping}
_RUN_VALUES: Final[Mapping[str, Reader]] = {
    "_debug_render_only": boolean,
    "logprobs": boolean,
    "top_logprobs": integer,
}
_RUN_POINTERS: Final[Mapping[str, Reader]] = {
    **_NATIVE,
    "format": opaque,
    "shift": boolean,
    "stream": boolean,
    "think": think,
    "truncate": boolean,
}
_STREAM_OPTIONS: Final = Struct(values={"include_usage": boolean})

BODIES: Final[Mapping[Endpoint, Struct]] = {
    Endpoint.GENERATE: Struct(
        values={
            **_texts("model", "prompt", "suffix", "system", "template"),
            "raw": boolean,
            **_RUN_VALUES,
        },
        pointers={"context": listed(integer), "images": listed(base64), **_RUN_POINTERS},
    ),
    Endpoint.CHAT: Struct(
        values={"model": text, **_RUN_VALUES},
        pointers={"messages": listed(_MESSAGE), "tools": listed(_TOOL), **_RUN_POINTERS},
    ),
    Endpoint.EMBED: Struct(
        values={"model": text, "dimensions": integer},
        pointers={"input": anything, "truncate": boolean, **_NATIVE},
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
            "messages": listed(_V1_MESSAGE),
            "stream_options": _STREAM_OPTIONS,
            "max_tokens": integer,
            "seed": integer,
            "stop": anything,
            "temperature": float64,
            "frequency_penalty": float64,
            "presence_penalty": float64,
            "top_p": float64,
            "response_format": Struct(values={"type": text}),
            "tools": listed(_TOOL),
            "reasoning": Struct(values={"effort": text}),
            "reasoning_effort": text,
            "logprobs": boolean,
        },
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
            "stop": anything,
            "stream_options": _STREAM_OPTIONS,
            "temperature": float32,
            "logprobs": integer,
        },
    ),
    Endpoint.V1_EMBEDDINGS: Struct(
        values={"model": text, "dimensions": integer, "encoding_format": text},
        pointers={"input": anything},
    ),
    Endpoint.RESPONSES: Struct(
        values={
            **_texts("model", "instructions"),
            "background": boolean,
            "input": either({b'"': text, b"[": listed(_RESPONSES_ITEM)}),
            "reasoning": Struct(values=_texts("effort", "generate_summary", "summary")),
        },
        pointers={
            "include": listed(text),
            "max_output_tokens": integer,
            "stream": boolean,
            "temperature": float64,
            "text": Struct(pointers={"format": Struct(values=_texts("type", "name"))}),
            "top_p": float64,
            "truncation": text,
            "tools": listed(_RESPONSES_TOOL),
        },
    ),
    Endpoint.MESSAGES: Struct(
        values={"model": text, "max_tokens": integer, "stream": boolean},
        pointers={
            "messages": listed(_MESSAGE_PARAM),
            "system": anything,
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
    ),
}
"""The routes that take JSON."""
