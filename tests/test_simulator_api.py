"""What clients see of the simulated Ollama: routes, dialects, names, errors, frames."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from ollama_gate.simulator import LARGE, LIBRARY, SMALL, Settings, SimulatedOllama

SAY_HI: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedOllama]:
    async with (
        asyncio.timeout(20),
        SimulatedOllama(Settings(context_length=4096, speed=500.0)) as simulated,
    ):
        yield simulated


@pytest.fixture
async def client(sim: SimulatedOllama) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(sim.url) as connected:
        yield connected


async def raw(
    sim: SimulatedOllama, method: str, path: str, data: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(
            method, sim.url + path, data=body, headers=named, allow_redirects=False
        ) as response,
    ):
        return response.status, dict(response.headers), await response.read()


async def error(sim: SimulatedOllama, path: str, data: Any) -> tuple[int, str]:
    status, _, body = await raw(sim, "POST", path, data)
    return status, json.loads(body)["error"]


# -- the clients people use --------------------------------------------------------------


async def test_the_ollama_client_generates(client: ollama.AsyncClient) -> None:
    whole = await client.generate("llama3.1:8b", "hi", options={"num_predict": 7})
    assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 7)
    assert whole.response
    assert whole.context
    chunks = [c async for c in await client.generate("llama3.1:8b", "hi", stream=True)]
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].done_reason == "stop"
    assert "".join(chunk.response or "" for chunk in chunks).startswith(whole.response)


async def test_the_ollama_client_chats_and_sees_thought(client: ollama.AsyncClient) -> None:
    whole = await client.chat("qwen3:8b", SAY_HI)
    assert whole.message.thinking
    assert whole.message.content
    silent = await client.chat("qwen3:8b", SAY_HI, think=False)
    assert silent.message.thinking is None
    chunks = [c async for c in await client.chat("qwen3:8b", SAY_HI, stream=True)]
    assert "".join(chunk.message.thinking or "" for chunk in chunks) == whole.message.thinking
    assert "".join(chunk.message.content or "" for chunk in chunks) == whole.message.content


async def test_the_ollama_client_embeds(client: ollama.AsyncClient) -> None:
    many = await client.embed("nomic-embed-text", ["one", "two"])
    assert [len(vector) for vector in many.embeddings] == [768, 768]
    assert math.isclose(math.hypot(*many.embeddings[0]), 1, rel_tol=1e-6)
    old = await client.embeddings("nomic-embed-text", "one")
    assert old.embedding == pytest.approx(many.embeddings[0], rel=1e-6)
    short = await client.embed("nomic-embed-text", "one", dimensions=10)
    assert len(short.embeddings[0]) == 10


async def test_the_ollama_client_lists_shows_and_tells_what_runs(
    client: ollama.AsyncClient,
) -> None:
    listed = {model.model: model for model in (await client.list()).models}
    assert len(listed) == len(LIBRARY)
    assert listed["llama3.1:8b"].size == 4_920_753_328
    shown = await client.show("gemma3:27b")
    assert shown.modelinfo is not None
    assert shown.modelinfo["gemma3.block_count"] == 62
    assert shown.capabilities == ["completion", "vision"]
    assert shown.modelfile is not None
    assert "\nFROM /usr/share/ollama/.ollama/models/blobs/sha256-" in shown.modelfile
    await client.generate("llama3.1:8b", keep_alive=-1)
    running = (await client.ps()).models
    assert [model.name for model in running] == ["llama3.1:8b"]
    assert running[0].size == running[0].size_vram
    assert running[0].digest == listed["llama3.1:8b"].digest


async def test_the_ollama_client_reads_errors(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        await client.generate("nope", "hi")
    assert caught.value.status_code == 404


async def test_the_blocking_ollama_client_streams(sim: SimulatedOllama) -> None:
    def talk() -> int:
        with ollama.Client(sim.url) as blocking:
            return sum(1 for _ in blocking.chat("gemma:2b", SAY_HI, stream=True))

    assert await asyncio.to_thread(talk) > 20


async def test_the_openai_client_completes(sim: SimulatedOllama) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="x") as client:
        whole = await client.chat.completions.create(
            model="llama3.1:8b", messages=SAY_HI, max_tokens=5
        )
        assert whole.choices[0].finish_reason == "length"
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 5
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="llama3.1:8b",
                messages=SAY_HI,
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert len({chunk.created for chunk in chunks}) == 1


async def test_the_openai_client_embeds_and_lists(sim: SimulatedOllama) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="x") as client:
        # This client asks for base64 where nobody says otherwise.
        coded = await client.embeddings.create(model="all-minilm", input="hi")
        plain = await client.embeddings.create(
            model="all-minilm", input="hi", encoding_format="float"
        )
        assert coded.data[0].embedding == pytest.approx(plain.data[0].embedding, rel=1e-6)
        assert coded.usage.prompt_tokens == 3
        names = [model.id async for model in client.models.list()]
        assert "qwen2.5:32b" in names
        assert (await client.models.retrieve("qwen2.5:32b")).owned_by == "library"
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            await client.chat.completions.create(model="nope", messages=SAY_HI)
        with pytest.raises(openai.BadRequestError, match="does not support chat"):
            await client.chat.completions.create(model="all-minilm", messages=SAY_HI)


# -- frames and headers ------------------------------------------------------------------


async def test_an_answer_has_ollamas_headers_and_no_others(sim: SimulatedOllama) -> None:
    status, headers, body = await raw(sim, "GET", "/api/version")
    assert (status, body) == (200, b'{"version":"0.32.15"}')
    assert list(headers) == ["Content-Type", "Date", "Content-Length"]
    assert headers["Content-Type"] == "application/json; charset=utf-8"


async def test_a_stream_is_newline_delimited_json_in_chunks(sim: SimulatedOllama) -> None:
    request = {"model": "smollm:360m", "prompt": "hi", "options": {"num_predict": 2}}
    _, headers, body = await raw(sim, "POST", "/api/generate", request)
    assert list(headers) == ["Content-Type", "Date", "Transfer-Encoding"]
    assert headers["Content-Type"] == "application/x-ndjson"
    lines = body.split(b"\n")
    assert lines[-1] == b""
    keys = ["model", "created_at", "response", "done"]
    assert [list(json.loads(line)) for line in lines[:2]] == [keys, keys]
    assert list(json.loads(lines[2])) == [
        *keys,
        "done_reason",
        "context",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]


async def test_loading_and_unloading_answer_with_one_object(sim: SimulatedOllama) -> None:
    for extra, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        _, headers, body = await raw(
            sim, "POST", "/api/generate", {"model": "gemma:2b", "stream": True} | extra
        )
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert not body.endswith(b"\n")
        answer = json.loads(body)
        assert list(answer) == ["model", "created_at", "response", "done", "done_reason"]
        assert answer["done_reason"] == reason
        _, _, body = await raw(sim, "POST", "/api/chat", {"model": "gemma:2b"} | extra)
        assert json.loads(body)["message"] == {"role": "assistant", "content": ""}


async def test_an_openai_stream_ends_with_done(sim: SimulatedOllama) -> None:
    request = {"model": "smollm:360m", "messages": SAY_HI, "stream": True, "max_tokens": 1}
    _, headers, body = await raw(sim, "POST", "/v1/chat/completions", request)
    assert headers["Content-Type"] == "text/event-stream"
    events = body.decode().split("\n\n")
    assert [event[:6] for event in events[:-1]] == ["data: "] * 3
    assert events[2:] == ["data: [DONE]", ""]


async def test_what_the_dialect_refuses_itself_is_framed_otherwise(sim: SimulatedOllama) -> None:
    refused = {"model": "smollm:360m", "messages": []}
    _, headers, body = await raw(sim, "POST", "/v1/chat/completions", refused)
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert not body.endswith(b"\n")
    failed = {"model": "nope", "messages": SAY_HI}
    _, headers, body = await raw(sim, "POST", "/v1/chat/completions", failed)
    assert headers["Content-Type"] == "application/json"
    assert body == (
        b"""{"error":{"message":"model 'nope' not found","type":"not_found_error","""
        b'"param":null,"code":null}}\n'
    )


async def test_routes_that_are_not_there_are_refused_as_gin_does(sim: SimulatedOllama) -> None:
    assert (await raw(sim, "GET", "/"))[2] == b"Ollama is running"
    assert (await raw(sim, "HEAD", "/"))[:2] == (200, (await raw(sim, "GET", "/"))[1])
    status, headers, body = await raw(sim, "GET", "/nope")
    assert (status, headers["Content-Type"], body) == (404, "text/plain", b"404 page not found")
    status, headers, body = await raw(sim, "POST", "/api/tags")
    assert (status, headers["Allow"], body) == (405, "HEAD, GET", b"405 method not allowed")
    assert (await raw(sim, "HEAD", "/api/ps"))[0] == 405
    assert (await raw(sim, "GET", "/api/tags/"))[0] == 301
    assert (await raw(sim, "POST", "/api/chat/", {}))[1]["Location"] == "/api/chat"
    assert (await raw(sim, "GET", "/v1/models/library/x"))[0] == 404


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "gate.example:8080", 403),
        ("Host", "ollama:11434", 403),
        ("Host", "192.168.1.5", 200),
        ("Host", "foo.local", 200),
        ("Origin", "http://evil.example", 403),
        ("Origin", "http://localhost:3000", 200),
        ("Origin", "app://x", 200),
    ],
)
async def test_foreign_hosts_and_origins_are_turned_away(
    sim: SimulatedOllama, header: str, value: str, status: int
) -> None:
    answered, headers, body = await raw(sim, "GET", "/api/version", **{header: value})
    assert answered == status
    assert bool(body) == (status == 200)
    assert headers.get("Access-Control-Allow-Origin") == (
        value if header == "Origin" and status == 200 else None
    )


# -- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "all-minilm",
        "ALL-minilm:Latest",
        " all-minilm ",
        "library/all-minilm",
        "registry.ollama.ai/library/all-minilm:latest",
        "https://registry.ollama.ai/library/all-minilm",
        "all-minilm:local",
    ],
)
async def test_a_model_goes_by_many_names_and_is_echoed_as_asked(
    sim: SimulatedOllama, name: str
) -> None:
    status, _, body = await raw(sim, "POST", "/api/embed", {"model": name, "input": "x"})
    assert (status, json.loads(body)["model"]) == (200, name)


async def test_the_old_embedding_route_does_not_fold_case(sim: SimulatedOllama) -> None:
    request = {"model": "ALL-MINILM", "prompt": "x"}
    text = 'model "ALL-MINILM" not found, try pulling it first'
    assert await error(sim, "/api/embeddings", request) == (404, text)


INVALID = "invalid model name"
NAMELESS = [
    ("/api/generate", "bad@name", 400, INVALID),
    ("/api/generate", "", 404, "model '' not found"),
    ("/api/generate", "nope:7b", 404, "model 'nope:7b' not found"),
    (
        "/api/generate",
        "x:cloud:local",
        400,
        'use either :local or :cloud, not both: "x:cloud:local"',
    ),
    ("/api/generate", "gpt-oss:120b:local", 404, "model 'gpt-oss:120b:local' not found"),
    ("/api/chat", " ", 400, "model is required"),
    ("/api/chat", "a//b", 400, INVALID),
    ("/api/chat", "<&>", 400, INVALID),
    ("/api/embed", "", 404, "model '' not found"),
    ("/api/embed", "nope", 404, 'model "nope" not found, try pulling it first'),
    ("/api/embeddings", "", 400, "model is required"),
    ("/api/show", "", 400, "model is required"),
    ("/api/show", "NOPE", 404, "model 'NOPE:latest' not found"),
]


@pytest.mark.parametrize(("path", "name", "status", "text"), NAMELESS)
async def test_a_name_that_means_nothing_is_refused_in_the_routes_own_words(
    sim: SimulatedOllama, path: str, name: str, status: int, text: str
) -> None:
    assert await error(sim, path, {"model": name, "input": "x"}) == (status, text)
    assert sim.counters.loads == 0


async def test_a_cloud_model_answers_without_memory(
    sim: SimulatedOllama, client: ollama.AsyncClient
) -> None:
    assert (await client.chat("gpt-oss:120b-cloud", SAY_HI)).message.content
    shown = await client.show("gpt-oss:120b-cloud")
    assert shown.modelinfo is not None
    _, _, body = await raw(sim, "GET", "/api/tags")
    listed = {entry["name"]: entry for entry in json.loads(body)["models"]}
    assert listed["gpt-oss:120b-cloud"]["remote_host"] == "https://ollama.com:443"
    assert sim.loaded() == []
    assert sim.card(0).used_bytes == 0


async def test_without_the_cloud_its_models_are_forbidden_in_every_dialect() -> None:
    text = "ollama cloud is disabled: remote model is unavailable"
    async with SimulatedOllama(Settings(cloud=False)) as sim:
        for path in ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/embeddings"):
            assert await error(sim, path, {"model": "gpt-oss:120b-cloud"}) == (403, text)


# -- refusals ----------------------------------------------------------------------------

REFUSED = [
    ("/api/generate", b"", 400, "missing request body"),
    ("/api/generate", b"{", 400, "unexpected EOF"),
    ("/api/generate", b"hello", 400, "invalid character 'h' looking for beginning of value"),
    ("/api/chat", b"[]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    (
        "/api/chat",
        b'{"model":"gemma:2b","messages":[{"content":1}]}',
        400,
        (
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.content"
            " of type string"
        ),
    ),
    (
        "/api/generate",
        b'{"model":"gemma:2b","stream":"no"}',
        400,
        "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
    ),
    (
        "/api/generate",
        b'{"model":"gemma:2b","options":{"num_ctx":"big"}}',
        500,
        'option "num_ctx" must be of type integer',
    ),
    (
        "/api/generate",
        b'{"model":"gemma:2b","options":{"stop":"x"}}',
        500,
        'option "stop" must be of type array',
    ),
    ("/api/generate", b'{"model":"all-minilm"}', 400, '"all-minilm" does not support generate'),
    ("/api/chat", b'{"model":"all-minilm"}', 400, '"all-minilm" does not support chat'),
    (
        "/api/chat",
        b'{"model":"gemma:2b","think":true}',
        400,
        '"gemma:2b" does not support thinking',
    ),
    (
        "/api/chat",
        b'{"model":"gemma:2b","tools":[{"type":"function"}]}',
        400,
        "registry.ollama.ai/library/gemma:2b does not support tools",
    ),
    (
        "/api/generate",
        b'{"model":"gemma:2b","suffix":"x"}',
        400,
        "registry.ollama.ai/library/gemma:2b does not support insert",
    ),
    ("/api/embed", b'{"model":"all-minilm","input":[1]}', 400, "invalid input type"),
    (
        "/api/generate",
        b'{"model":"gemma:2b","top_logprobs":21}',
        400,
        "top_logprobs must be between 0 and 20",
    ),
    (
        "/api/generate",
        b'{"model":"gemma:2b","raw":true,"system":"x"}',
        400,
        "raw mode does not support template, system, or context",
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), REFUSED)
async def test_a_request_that_makes_no_sense_loads_nothing(
    sim: SimulatedOllama, path: str, body: bytes, status: int, text: str
) -> None:
    assert await error(sim, path, body) == (status, text)
    assert sim.counters.loads == 0


async def test_keys_are_read_as_go_reads_them(sim: SimulatedOllama) -> None:
    body = b'{"MODEL":"nope","Model":"all-minilm","model":null,"input":"x"} and more'
    status, _, answer = await raw(sim, "POST", "/api/embed", body)
    assert (status, json.loads(answer)["model"]) == (200, "all-minilm")


async def test_unloading_works_for_a_model_that_cannot_generate(sim: SimulatedOllama) -> None:
    await raw(sim, "POST", "/api/embed", {"model": "all-minilm"})
    assert sim.loaded() == ["all-minilm:latest"]
    status, _, _ = await raw(sim, "POST", "/api/generate", {"model": "all-minilm", "keep_alive": 0})
    assert status == 200
    while sim.loaded():
        await sim.changed()


async def test_an_embedding_without_input_only_loads(sim: SimulatedOllama) -> None:
    _, _, body = await raw(sim, "POST", "/api/embed", {"model": "all-minilm"})
    assert body == b'{"model":"all-minilm","embeddings":[]}'
    _, _, body = await raw(sim, "POST", "/api/embeddings", {"model": "all-minilm"})
    assert body == b'{"embedding":[]}'


async def test_base64_embeddings_are_the_same_numbers(sim: SimulatedOllama) -> None:
    request = {"model": "all-minilm", "input": "hi"}
    _, _, plain = await raw(sim, "POST", "/v1/embeddings", request)
    _, _, coded = await raw(sim, "POST", "/v1/embeddings", request | {"encoding_format": "base64"})
    numbers = struct.unpack("<384f", base64.b64decode(json.loads(coded)["data"][0]["embedding"]))
    assert list(numbers) == pytest.approx(json.loads(plain)["data"][0]["embedding"], rel=1e-6)


async def test_an_answer_in_json_is_json(client: ollama.AsyncClient) -> None:
    free = await client.generate("gemma:2b", "hi", format="json")
    assert "answer" in json.loads(free.response or "")
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    bound = await client.generate("gemma:2b", "hi", format=schema)
    assert isinstance(json.loads(bound.response or "")["age"], int)


async def test_logprobs_come_where_they_are_asked_for(client: ollama.AsyncClient) -> None:
    whole = await client.generate(
        "gemma:2b", "hi", logprobs=True, top_logprobs=2, options={"num_predict": 3}
    )
    assert whole.logprobs is not None
    assert len(whole.logprobs) == 3
    assert whole.logprobs[0].top_logprobs is not None
    assert len(whole.logprobs[0].top_logprobs) == 2


async def test_the_same_question_gets_the_same_answer(client: ollama.AsyncClient) -> None:
    first = await client.generate("gemma:2b", "hi")
    again = await client.generate("gemma:2b", "hi")
    other = await client.generate("gemma:2b", "ho")
    assert first.response == again.response != other.response


def test_the_library_has_ten_small_models_and_eight_from_7b_to_70b() -> None:
    assert len(SMALL) == 10
    assert sum(7 <= model.parameters_b <= 71 for model in LARGE) >= 8


def said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


PICTURE = "data:image/png;base64,aGk="
OPENAI_REFUSED = [
    (b"", "EOF"),
    (b"{", "unexpected EOF"),
    ({"messages": []}, "[] is too short - 'messages'"),
    ({"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
    (said(1), "invalid message content type: float64"),
    (said(True), "invalid message content type: bool"),
    (said({}), "invalid message content type: map[string]interface {}"),
    (said(["x"]), "invalid message format"),
    (said([{"type": "x"}]), "invalid message format"),
    (said([{"type": "image_url", "image_url": "data:foo"}]), "invalid image input"),
    (said([{"type": "image_url", "image_url": {"url": f"{PICTURE}!"}}]), "invalid image input"),
    (
        said([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]),
        "image URLs are not currently supported, please use base64 encoded data instead",
    ),
    (
        {"messages": SAY_HI, "reasoning_effort": "x"},
        (
            'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", '
            '"ultra", "max", or "none")'
        ),
    ),
    (
        {"messages": [{"role": 1}]},
        "json: cannot unmarshal number into Go struct field Message.messages.role of type string",
    ),
    (
        {"max_tokens": 1.5},
        (
            "json: cannot unmarshal number 1.5 into Go struct field"
            " ChatCompletionRequest.max_tokens of type int"
        ),
    ),
]


@pytest.mark.parametrize(("body", "text"), OPENAI_REFUSED)
async def test_what_has_no_meaning_in_ollamas_api_is_refused_as_openai_would(
    sim: SimulatedOllama, body: Any, text: str
) -> None:
    status, _, answer = await raw(sim, "POST", "/v1/chat/completions", body)
    assert (status, json.loads(answer)["error"]) == (
        400,
        {"message": text, "type": "invalid_request_error", "param": None, "code": None},
    )


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (said([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": PICTURE}]), 400),
        ({"messages": [*SAY_HI, {"role": "assistant", "tool_calls": []}]}, 200),
        ({"messages": SAY_HI, "reasoning": {"effort": "none"}}, 200),
        ({"messages": SAY_HI, "reasoning_effort": "high"}, 400),
        ({"messages": SAY_HI, "stop": "x", "seed": 1, "logprobs": True}, 200),
        ({"messages": SAY_HI, "response_format": {"type": "json_object"}}, 200),
        ({"messages": SAY_HI, "tools": []}, 200),
    ],
)
async def test_openai_requests_are_translated(
    sim: SimulatedOllama, more: dict[str, Any], status: int
) -> None:
    request = {"model": "gemma:2b", "max_tokens": 2} | more
    assert (await raw(sim, "POST", "/v1/chat/completions", request))[0] == status


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "invalid input"),
        ({"input": []}, "invalid input"),
        (
            {"input": "x", "encoding_format": "z"},
            "Invalid value for 'encoding_format' = z. Supported values: ['float', 'base64'].",
        ),
        ({"input": [1]}, "invalid input type"),
    ],
)
async def test_an_embedding_of_nothing_is_refused(
    sim: SimulatedOllama, body: dict[str, Any], text: str
) -> None:
    status, _, answer = await raw(sim, "POST", "/v1/embeddings", {"model": "all-minilm"} | body)
    assert (status, json.loads(answer)["error"]["message"]) == (400, text)


GENERATE_FIELD = "into Go struct field GenerateRequest"
CHAT_FIELD = "into Go struct field ChatRequest"
NATIVE_TYPES = [
    ("/api/generate", b'"x"', "string into Go value of type api.GenerateRequest"),
    ("/api/generate", b'{"context":["a"]}', f"string {GENERATE_FIELD}.context of type int"),
    ("/api/generate", b'{"images":"x"}', f"string {GENERATE_FIELD}.images of type []api.ImageData"),
    ("/api/generate", b'{"images":[1]}', f"number {GENERATE_FIELD}.images of type api.ImageData"),
    ("/api/chat", b'{"messages":["x"]}', f"string {CHAT_FIELD}.messages of type api.Alias"),
    (
        "/api/chat",
        b'{"options":[]}',
        f"array {CHAT_FIELD}.options of type map[string]interface {{}}",
    ),
    ("/api/chat", b'{"model":{}}', f"object {CHAT_FIELD}.model of type string"),
]


@pytest.mark.parametrize(("path", "body", "what"), NATIVE_TYPES)
async def test_a_value_of_the_wrong_type_is_told_in_gos_words(
    sim: SimulatedOllama, path: str, body: bytes, what: str
) -> None:
    assert await error(sim, path, body) == (400, f"json: cannot unmarshal {what}")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"images":["!"]}', "illegal base64 data at input byte 0"),
        (
            b'{"think":"x"}',
            'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            b'{"think":1}',
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
    ],
)
async def test_values_that_read_themselves_have_their_own_words(
    sim: SimulatedOllama, body: bytes, text: str
) -> None:
    assert await error(sim, "/api/generate", body) == (400, text)


async def test_a_format_that_is_none_fails_when_the_runner_is_there(sim: SimulatedOllama) -> None:
    request = {"model": "gemma:2b", "prompt": "hi", "format": "xml"}
    text = 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'
    assert await error(sim, "/api/generate", request) == (500, text)
    assert sim.counters.loads == 1


async def test_show_tells_parameters_tensors_and_whom_it_talks_to(sim: SimulatedOllama) -> None:
    _, headers, body = await raw(sim, "POST", "/api/show", {"name": "tinyllama:1.1b"})
    shown = json.loads(body)
    assert headers["Transfer-Encoding"] == "chunked"
    assert shown["parameters"].startswith(f'{"stop":<30} "<|system|>"\nstop ')
    assert "PARAMETER stop <|system|>\n" in shown["modelfile"]
    assert shown["tensors"][0] == {
        "name": "token_embd.weight",
        "type": "Q4_0",
        "shape": [2048, 32000],
    }
    _, _, body = await raw(
        sim, "POST", "/api/show", {"model": "gpt-oss:20b"}, User_Agent="GitHubCopilotChat/1"
    )
    assert json.loads(body)["model_info"]["general.basename"] == "gpt-oss:20b"


async def test_a_preflight_is_answered_without_the_route(sim: SimulatedOllama) -> None:
    status, headers, body = await raw(
        sim, "OPTIONS", "/api/chat", Origin="http://localhost:3000", Host="127.0.0.1"
    )
    assert (status, body, headers["Allow"]) == (204, b"", "POST")
    assert headers["Access-Control-Max-Age"] == "43200"


async def test_a_chat_model_does_not_embed(sim: SimulatedOllama) -> None:
    text = "This server does not support embeddings. Start it with `--embeddings`"
    assert await error(sim, "/api/embed", {"model": "gemma:2b", "input": "x"}) == (501, text)


async def test_an_input_beyond_the_context_is_refused_where_it_must_not_be_cut(
    sim: SimulatedOllama,
) -> None:
    request = {"model": "all-minilm", "input": "word " * 3000}
    assert (await raw(sim, "POST", "/api/embed", request))[0] == 200
    text = "the input length exceeds the context length"
    assert await error(sim, "/api/embed", request | {"truncate": False}) == (400, text)


async def test_a_port_that_is_taken_is_told(sim: SimulatedOllama) -> None:
    other = SimulatedOllama()
    with pytest.raises(OSError, match="in use"):
        await other.start(port=int(sim.url.rpartition(":")[2]))
    await other.close()
