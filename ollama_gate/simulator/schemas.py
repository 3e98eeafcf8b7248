"""The request structs of the routes (Ollama v0.32.15 api/types.go, openai/openai.go)."""

from ollama_gate.simulator.bodies import (
    Field,
    Struct,
    anything,
    arguments,
    boolean,
    duration_ns,
    floating,
    image,
    integer,
    many,
    mapping,
    nested,
    raw,
    string,
    string_map,
    think,
)

_STRING = Field(string)
_BOOL = Field(boolean)
_BOOL_POINTER = Field(boolean, null_clears=True)
_INT = Field(integer)
_ANY = Field(anything, null_clears=True)
_MAP = Field(mapping, null_clears=True)
_FLOAT_POINTER = Field(floating("float64"), null_clears=True)
_IMAGES = Field(many(image, "[]api.ImageData"), null_clears=True)
_STRINGS = Field(many(string, "[]string"), null_clears=True)
_RAW = Field(raw)

TOOL_PARAMETERS = Struct(
    "api.ToolFunctionParameters",
    {"type": _STRING, "$defs": _ANY, "items": _ANY, "required": _STRINGS, "properties": _ANY},
)
_TOOL_FUNCTION = Struct(
    "api.ToolFunction",
    {"name": _STRING, "description": _STRING, "parameters": Field(nested(TOOL_PARAMETERS))},
)
_TOOL = Struct(
    "api.Tool", {"type": _STRING, "items": _ANY, "function": Field(nested(_TOOL_FUNCTION))}
)
_TOOLS = Field(many(nested(_TOOL), "api.Tools"), null_clears=True)
_CALLED = Struct(
    "api.ToolCallFunction",
    {"index": _INT, "name": _STRING, "arguments": Field(arguments)},
)
_TOOL_CALL = Struct("api.ToolCall", {"id": _STRING, "function": Field(nested(_CALLED))})

_SHARED = {
    "model": _STRING,
    "stream": _BOOL_POINTER,
    "format": _ANY,
    "keep_alive": Field(duration_ns, null_clears=True),
    "options": _MAP,
    "think": Field(think, null_clears=True),
    "truncate": _BOOL_POINTER,
    "shift": _BOOL_POINTER,
    "_debug_render_only": _BOOL,
    "logprobs": _BOOL,
    "top_logprobs": _INT,
}

_MESSAGE = Struct(
    "api.Alias",  # the type's own reader goes through a type of this name
    {
        "role": _STRING,
        "content": _STRING,
        "thinking": _STRING,
        "images": _IMAGES,
        "tool_calls": Field(many(nested(_TOOL_CALL), "[]api.ToolCall"), null_clears=True),
        "tool_name": _STRING,
        "tool_call_id": _STRING,
    },
)

GENERATE = Struct(
    "api.GenerateRequest",
    _SHARED
    | {
        "prompt": _STRING,
        "suffix": _STRING,
        "system": _STRING,
        "template": _STRING,
        "context": Field(many(integer, "[]int"), null_clears=True),
        "raw": _BOOL,
        "images": _IMAGES,
    },
)

CHAT = Struct(
    "api.ChatRequest",
    _SHARED
    | {
        "messages": Field(
            many(nested(_MESSAGE, unmarshaler=True), "[]api.Message"), null_clears=True
        ),
        "tools": _TOOLS,
    },
)

EMBED = Struct(
    "api.EmbedRequest",
    {
        "model": _STRING,
        "input": _ANY,
        "keep_alive": _SHARED["keep_alive"],
        "truncate": _BOOL_POINTER,
        "dimensions": _INT,
        "options": _MAP,
    },
)

EMBEDDINGS = Struct(
    "api.EmbeddingRequest",
    {
        "model": _STRING,
        "prompt": _STRING,
        "keep_alive": _SHARED["keep_alive"],
        "options": _MAP,
    },
)

SHOW = Struct(
    "api.ShowRequest",
    {
        "model": _STRING,
        "system": _STRING,
        "template": _STRING,
        "verbose": _BOOL,
        "options": _MAP,
        "name": _STRING,
    },
)

_STRINGS = Field(string_map, null_clears=True)

PULL = Struct(
    "api.PullRequest",
    {
        "model": _STRING,
        "insecure": _BOOL,
        "username": _STRING,
        "password": _STRING,
        "stream": _BOOL_POINTER,
        "name": _STRING,
    },
)
PUSH = Struct("api.PushRequest", PULL.fields)
DELETE = Struct("api.DeleteRequest", {"model": _STRING, "name": _STRING})
COPY = Struct("api.CopyRequest", {"source": _STRING, "destination": _STRING})
CREATE = Struct(
    "api.CreateRequest",
    {
        "model": _STRING,
        "stream": _BOOL_POINTER,
        "quantize": _STRING,
        "draft_quantize": _STRING,
        "from": _STRING,
        "remote_host": _STRING,
        "files": _STRINGS,
        "draft_files": _STRINGS,
        "adapters": _STRINGS,
        "template": _STRING,
        "license": _ANY,
        "system": _STRING,
        "parameters": _MAP,
        "messages": CHAT.fields["messages"],
        "renderer": _STRING,
        "parser": _STRING,
        "requires": _STRING,
        "info": _MAP,
        "name": _STRING,
        "quantization": _STRING,
    },
)

_OPENAI_CALLED = Struct(
    r'struct { Name string "json:\"name\""; Arguments string "json:\"arguments\"" }',
    {"name": _STRING, "arguments": _STRING},
)
_OPENAI_TOOL_CALL = Struct(
    "openai.ToolCall",
    {
        "id": _STRING,
        "index": _INT,
        "type": _STRING,
        "function": Field(nested(_OPENAI_CALLED)),
    },
)
_OPENAI_MESSAGE = Struct(
    "openai.Message",
    {
        "role": _STRING,
        "content": _ANY,
        "reasoning": _STRING,
        "tool_calls": Field(many(nested(_OPENAI_TOOL_CALL), "[]openai.ToolCall"), null_clears=True),
        "name": _STRING,
        "tool_call_id": _STRING,
    },
)
_STREAM_OPTIONS = Struct("openai.StreamOptions", {"include_usage": _BOOL})
_JSON_SCHEMA = Struct("openai.JsonSchema", {"schema": _RAW})
_RESPONSE_FORMAT = Struct(
    "openai.ResponseFormat",
    {"type": _STRING, "json_schema": Field(nested(_JSON_SCHEMA), null_clears=True)},
)
_REASONING = Struct("openai.Reasoning", {"effort": _STRING})

OPENAI_CHAT = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": _STRING,
        "messages": Field(many(nested(_OPENAI_MESSAGE), "[]openai.Message"), null_clears=True),
        "stream": _BOOL,
        "stream_options": Field(nested(_STREAM_OPTIONS), null_clears=True),
        "max_tokens": Field(integer, null_clears=True),
        "seed": Field(integer, null_clears=True),
        "stop": _ANY,
        "temperature": _FLOAT_POINTER,
        "frequency_penalty": _FLOAT_POINTER,
        "presence_penalty": _FLOAT_POINTER,
        "top_p": _FLOAT_POINTER,
        "response_format": Field(nested(_RESPONSE_FORMAT), null_clears=True),
        "tools": Field(many(nested(_TOOL), "[]api.Tool"), null_clears=True),
        "reasoning": Field(nested(_REASONING), null_clears=True),
        "reasoning_effort": Field(string, null_clears=True),
        "logprobs": _BOOL_POINTER,
        "top_logprobs": _INT,
        "_debug_render_only": _BOOL,
    },
)

OPENAI_EMBED = Struct(
    "openai.EmbedRequest",
    {
        "input": _ANY,
        "model": _STRING,
        "dimensions": _INT,
        "encoding_format": _STRING,
    },
)

OPENAI_COMPLETION = Struct(
    "openai.CompletionRequest",
    {
        "model": _STRING,
        "prompt": _STRING,
        "frequency_penalty": Field(floating("float32")),
        "max_tokens": Field(integer, null_clears=True),
        "presence_penalty": Field(floating("float32")),
        "seed": Field(integer, null_clears=True),
        "stop": _ANY,
        "stream": _BOOL,
        "stream_options": Field(nested(_STREAM_OPTIONS), null_clears=True),
        "temperature": Field(floating("float32"), null_clears=True),
        "top_p": Field(floating("float32")),
        "suffix": _STRING,
        "logprobs": Field(integer, null_clears=True),
        "_debug_render_only": _BOOL,
    },
)
