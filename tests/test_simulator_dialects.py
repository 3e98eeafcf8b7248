"""Ollama as real clients see it, simulated, straight and through the gate: every dialect's tools,
thought, pictures, forms and errors."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import anthropic
import ollama
import openai
import pydantic
import pytest
import zstandard

from ollama_gate.simulator import LARGE, SMALL, Model, Settings, SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, gate_config
from ollama_gate.site import Site

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
WAVE = b"RIFF\x24\0\0\0WAVEfmt "
USER: Any = {"role": "user", "content": "hi"}
WEATHER: dict[str, Any] = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"enum": ["Oslo"]}, "days": {"type": ["integer", "null"]}},
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
CALLED = {"city": "Oslo", "days": 42}


def a_model(name: str, *capabilities: str) -> Model:
    small = next(model for model in SMALL if model.name == "gemma:2b")
    return replace(small, name=name, capabilities=("completion", *capabilities))


MODELS = (
    a_model("plain"),
    a_model("tools", "tools"),
    a_model("thinker", "tools", "thinking"),
    a_model("insert", "insert"),
    a_model("eyes", "vision"),
    a_model("ears", "audio"),
    next(model for model in SMALL if model.name == "all-minilm"),
    next(model for model in LARGE if model.name == "llama3.1:8b"),
)


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedOllama]:
    settings = Settings(context_length=4096, speed=500.0)
    async with asyncio.timeout(30), SimulatedOllama(settings, models=MODELS) as simulated:
        yield simulated


@pytest.fixture(params=["straight", "through the gate"])
async def url(sim: SimulatedOllama, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Where clients go: whatever they can do straight they can do through the gate."""
    if request.param == "straight":
        yield sim.url
        return
    config = gate_config(sim.url, sim.settings)
    card = SimulatedCard(sim)
    async with Site(config, card=card, busy_poll_s=0.01, temporary=True) as site:
        yield site.url


@pytest.fixture
async def gpt(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as connected:
        yield connected


@pytest.fixture
async def claude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as connected:
        yield connected


@pytest.fixture
async def native(url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(url) as connected:
        yield connected


async def raw(
    sim: SimulatedOllama, path: str, data: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(sim.url + path, data=body, headers=named) as response,
    ):
        return response.status, dict(response.headers), await response.read()


def events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of an SSE stream."""
    found = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, _, data = block.rpartition("data: ")
        found.append((name.removeprefix("event: ").strip(), json.loads(data)))
    return found


# -- tools -------------------------------------------------------------------------------


async def test_the_ollama_client_calls_a_tool_and_gets_its_answer(
    native: ollama.AsyncClient,
) -> None:
    whole = await native.chat("tools", [USER], tools=[TOOL])
    assert whole.message.tool_calls is not None
    call = whole.message.tool_calls[0].function
    assert (call.name, call.arguments, whole.message.content) == ("weather", CALLED, "")
    answered: list[Any] = [
        USER,
        whole.message,
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    after = await native.chat("tools", answered, tools=[TOOL])
    assert after.message.tool_calls is None
    assert after.message.content


async def test_a_streamed_tool_call_stands_alone_before_the_end(
    native: ollama.AsyncClient,
) -> None:
    chunks = [c async for c in await native.chat("tools", [USER], tools=[TOOL], stream=True)]
    assert [bool(chunk.message.tool_calls) for chunk in chunks] == [True, False]
    assert [chunk.done for chunk in chunks] == [False, True]


async def test_a_thinker_thinks_before_it_calls(native: ollama.AsyncClient) -> None:
    whole = await native.chat("thinker", [USER], tools=[TOOL])
    assert whole.message.thinking
    assert whole.message.tool_calls


async def test_a_model_without_tools_refuses_them(native: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="does not support tools"):
        await native.chat("plain", [USER], tools=[TOOL])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_openai_client_calls_a_tool(gpt: openai.AsyncOpenAI, stream: bool) -> None:
    given: dict[str, Any] = {"model": "tools", "messages": [USER], "tools": [TOOL]}
    if stream:
        chunks = [c async for c in await gpt.chat.completions.create(**given, stream=True)]
        first, last = chunks[0].choices[0], chunks[-1].choices[0]
        (call,), reason = first.delta.tool_calls or [], last.finish_reason
        assert len(chunks) == 2
    else:
        choice = (await gpt.chat.completions.create(**given)).choices[0]
        (call,), reason = choice.message.tool_calls or [], choice.finish_reason
    assert json.loads(call.function.arguments) == CALLED
    assert reason == "tool_calls"


async def test_the_openai_client_gives_a_result_back(gpt: openai.AsyncOpenAI) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    chat: list[Any] = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
    ]
    answer = await gpt.chat.completions.create(model="tools", messages=chat, tools=[TOOL])
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


@pytest.mark.parametrize("arguments", ["", "5", "[]", "nope"])
async def test_arguments_that_are_no_object_are_refused(
    sim: SimulatedOllama, arguments: str
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "x", "arguments": arguments}}
    chat = [USER, {"role": "assistant", "tool_calls": [call]}]
    status, _, body = await raw(sim, "/v1/chat/completions", {"model": "tools", "messages": chat})
    assert (status, json.loads(body)["error"]["message"]) == (400, "invalid tool call arguments")


# -- pictures, sound, structure, limits -----------------------------------------------------


async def test_a_model_with_eyes_sees_pictures_apart(native: ollama.AsyncClient) -> None:
    said = [
        (await native.generate("eyes", "what?", images=[PNG + end])).response
        for end in (b"a", b"b")
    ]
    assert all(said)
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("model", "image", "text"),
    [
        ("plain", PNG, "Multimodal data provided, but model does not support multimodal requests."),
        ("eyes", b"neither", "Failed to load image or audio file"),
        ("eyes", WAVE, "Failed to load image or audio file"),
    ],
)
async def test_what_a_model_cannot_see_is_refused_as_its_engine_does(
    sim: SimulatedOllama, model: str, image: bytes, text: str
) -> None:
    chat = [USER | {"images": [base64.b64encode(image).decode()]}]
    status, headers, body = await raw(sim, "/api/chat", {"model": model, "messages": chat})
    inner = {"error": {"code": 400, "message": text, "type": "invalid_request_error"}}
    assert (status, json.loads(json.loads(body)["error"])) == (400, inner)
    assert headers["Content-Type"] == "application/json"


class Person(pydantic.BaseModel):
    name: str
    age: int


class Party(pydantic.BaseModel):
    host: Person
    guests: list[Person]


async def test_structured_output_fits_a_schema_with_references(
    native: ollama.AsyncClient, gpt: openai.AsyncOpenAI
) -> None:
    answer = await native.chat("plain", [USER], format=Party.model_json_schema())
    Party.model_validate_json(answer.message.content or "")
    parsed = await gpt.chat.completions.parse(
        model="plain",
        messages=[USER],
        response_format=Party,
    )
    assert parsed.choices[0].message.parsed is not None


async def test_a_thinker_thinks_before_it_fills_a_form(native: ollama.AsyncClient) -> None:
    answer = await native.chat("thinker", [USER], format="json")
    assert answer.message.thinking
    assert json.loads(answer.message.content or "")


async def test_a_stop_ends_an_answer_and_is_not_said(native: ollama.AsyncClient) -> None:
    whole = (await native.generate("plain", "hi")).response or ""
    stop = whole[20:27]
    cut = await native.generate("plain", "hi", options={"stop": [stop]})
    assert stop
    assert (cut.response, cut.done_reason) == (whole[: whole.index(stop)], "stop")


LONG = "word " * 3000


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"shift": False}, "the prompt is longer than the context length currently available"),
        ({"truncate": False}, "exceeds the available context size (4096 tokens)"),
    ],
)
async def test_a_prompt_beyond_the_context_is_refused_where_it_may_not_shrink(
    sim: SimulatedOllama, more: dict[str, Any], text: str
) -> None:
    request = {"model": "plain", "prompt": LONG * 2, "stream": False} | more
    status, _, body = await raw(sim, "/api/generate", request)
    assert status == 400
    assert text in json.loads(body)["error"]


async def test_a_long_prompt_is_shortened_and_old_messages_are_dropped(
    native: ollama.AsyncClient,
) -> None:
    alone = await native.generate("plain", LONG * 2)
    assert (alone.prompt_eval_count or 0) < 4096
    chat = [{"role": "system", "content": "be kind"}, {"role": "user", "content": LONG * 2}, USER]
    kept = await native.chat("plain", chat)
    short = await native.chat("plain", [chat[0], USER])
    assert kept.message.content == short.message.content


async def test_an_answer_that_fills_the_context_ends_for_its_length(
    sim: SimulatedOllama,
) -> None:
    request = {"model": "plain", "prompt": "hi", "stream": False, "shift": False}
    _, _, body = await raw(sim, "/api/generate", request | {"options": {"num_ctx": 24}})
    told = json.loads(body)
    assert told["done_reason"] == "length"
    assert told["prompt_eval_count"] + told["eval_count"] == 24


# -- /v1/completions -----------------------------------------------------------------------


async def test_the_openai_client_completes_text(gpt: openai.AsyncOpenAI) -> None:
    whole = await gpt.completions.create(model="plain", prompt="hi", max_tokens=5)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    chunks = [
        chunk
        async for chunk in await gpt.completions.create(
            model="plain",
            prompt="hi",
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_a_suffix_wants_a_model_that_inserts(gpt: openai.AsyncOpenAI) -> None:
    assert (await gpt.completions.create(model="insert", prompt="a", suffix="b")).choices[0].text
    with pytest.raises(openai.BadRequestError, match="does not support insert"):
        await gpt.completions.create(model="plain", prompt="a", suffix="b")


async def test_an_empty_prompt_loads_and_is_not_chunked(sim: SimulatedOllama) -> None:
    status, headers, body = await raw(
        sim, "/v1/completions", {"model": "plain", "prompt": "", "stream": True}
    )
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert "Content-Length" in headers
    first, rest = body.decode().split("\n\n", 1)
    assert json.loads(first.removeprefix("data: "))["choices"][0]["finish_reason"] == "load"
    assert rest == "data: [DONE]\n\n"
    assert sim.loaded() == ["plain:latest"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stop": [1]}, "invalid type for 'stop' field: float64"),
        ({"logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"prompt": ["a"]}, "json: cannot unmarshal array into Go struct field "),
    ],
)
async def test_completions_that_cannot_be_are_refused(
    gpt: openai.AsyncOpenAI, more: dict[str, Any], text: str
) -> None:
    given = {"model": "plain", "prompt": "hi"} | more
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.completions.create(**given)
    assert text in caught.value.message


# -- /v1/responses -------------------------------------------------------------------------


async def test_the_openai_client_gets_a_response(gpt: openai.AsyncOpenAI) -> None:
    answer = await gpt.responses.create(
        model="thinker", input="hi", instructions="be kind", reasoning={"effort": "high"}
    )
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text
    assert (answer.status, answer.instructions) == ("completed", "be kind")


async def test_a_streamed_response_opens_and_closes_what_it_says(
    gpt: openai.AsyncOpenAI,
) -> None:
    whole = await gpt.responses.create(model="thinker", input="hi")
    stream = await gpt.responses.create(model="thinker", input="hi", stream=True)
    got = [event async for event in stream]
    names = [event.type for event in got]
    assert list(dict.fromkeys(names)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.output_item.done",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in got] == list(range(len(got)))
    last = got[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_calls_a_function_and_takes_its_result(
    gpt: openai.AsyncOpenAI, stream: bool
) -> None:
    tool: Any = {"type": "function", "name": "weather", "strict": None, "parameters": WEATHER}
    if stream:
        async with gpt.responses.stream(model="tools", input="hi", tools=[tool]) as events_:
            await events_.until_done()
            answer: Any = await events_.get_final_response()
    else:
        answer = await gpt.responses.create(model="tools", input="hi", tools=[tool])
    call = answer.output[0]
    assert (call.type, json.loads(call.arguments)) == ("function_call", CALLED)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    chat: list[Any] = [USER, call.model_dump(exclude_none=True), result]
    for item in chat:
        item.pop("parsed_arguments", None)
    after = await gpt.responses.create(model="tools", input=chat, tools=[tool])
    assert after.output_text


async def test_a_response_fits_a_schema(gpt: openai.AsyncOpenAI) -> None:
    answer = await gpt.responses.parse(model="plain", input="hi", text_format=Party)
    assert answer.output_parsed is not None


async def test_events_have_their_keys_sorted_and_schemas_as_they_came(
    sim: SimulatedOllama,
) -> None:
    schema = b'{"type":"object", "n":1.0,"b":[1, 2]}'
    request = (
        b'{"model":"plain","input":"","stream":true,'
        b'"text":{"format":{"type":"json_schema","name":"x","schema":' + schema + b"}}}"
    )
    _, headers, body = await raw(sim, "/v1/responses", request)
    assert (headers["Cache-Control"], headers["Connection"]) == ("no-cache", "keep-alive")
    assert b'"schema":{"type":"object","n":1.0,"b":[1,2]}' in body
    found = events(body)
    assert [name for name, _ in found] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    for _, data in found:
        assert list(data) == sorted(data)
        assert list(data["response"]) == sorted(data["response"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            5,
            (
                "input must be a string or array: "
                "json: cannot unmarshal number into Go value of type []json.RawMessage"
            ),
        ),
        ([{}], "input[0]: input item missing required 'type' field"),
        ([USER, {"type": "zz"}], 'input[1]: unknown input item type: "zz"'),
        (
            [{"role": "user", "content": [{"type": "zz"}]}],
            "input[0]: content[0]: unknown content type: zz",
        ),
        (
            [{"role": "user", "content": [{"type": "input_file"}]}],
            "file inputs are not currently supported",
        ),
        (
            [{"type": 5}],
            "input[0]: json: cannot unmarshal number into Go struct field .type of type string",
        ),
    ],
)
async def test_input_that_is_none_is_refused_in_gos_words(
    sim: SimulatedOllama, given: Any, text: str
) -> None:
    status, headers, body = await raw(sim, "/v1/responses", {"model": "plain", "input": given})
    assert (status, json.loads(body)["error"]["message"]) == (400, text)
    assert headers["Content-Type"] == "application/json; charset=utf-8"


async def test_a_stream_that_is_refused_keeps_the_headers_it_had(sim: SimulatedOllama) -> None:
    for path, more in (("/v1/responses", {"input": "x"}), ("/v1/messages", {"max_tokens": 1})):
        request = {"model": "nope", "messages": [USER], "stream": True} | more
        status, headers, body = await raw(sim, path, request)
        assert (status, headers["Content-Type"]) == (404, "application/json")
        assert headers["Cache-Control"] == "no-cache"
        assert body.endswith(b"}\n")


async def test_a_response_that_may_search_tells_its_failure_as_an_event(
    sim: SimulatedOllama,
) -> None:
    request = {"model": "plain", "input": "hi", "tools": [{"type": "web_search"}], "stream": True}
    status, _, body = await raw(sim, "/v1/responses", request)
    name, data = events(body)[-1]
    assert (status, name) == (200, "response.failed")
    assert data["response"]["error"]["message"].endswith("plain:latest does not support tools")


async def test_thought_of_an_earlier_turn_comes_back(gpt: openai.AsyncOpenAI) -> None:
    first = await gpt.responses.create(model="thinker", input="hi")
    chat: list[Any] = [item.model_dump(exclude_none=True) for item in first.output]
    again = await gpt.responses.create(model="thinker", input=[USER, *chat, USER])
    assert again.output_text


# -- /v1/messages --------------------------------------------------------------------------


async def test_the_anthropic_client_gets_a_message(claude: anthropic.AsyncAnthropic) -> None:
    answer = await claude.messages.create(model="thinker", max_tokens=2000, messages=[USER])
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.stop_reason == "end_turn"
    short = await claude.messages.create(model="plain", max_tokens=4, messages=[USER])
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 4)


async def test_a_streamed_message_opens_and_closes_its_blocks(
    claude: anthropic.AsyncAnthropic,
) -> None:
    given: dict[str, Any] = {"model": "thinker", "max_tokens": 2000, "messages": [USER]}
    whole = await claude.messages.create(**given)
    async with claude.messages.stream(**given) as stream:
        names = [event.type async for event in stream]
        final = await stream.get_final_message()
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"
    assert names.count("content_block_start") == names.count("content_block_stop") == 2
    assert [block.to_dict() for block in final.content] == [b.to_dict() for b in whole.content]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_anthropic_client_uses_a_tool_and_gives_its_result(
    claude: anthropic.AsyncAnthropic, stream: bool
) -> None:
    given: dict[str, Any] = {
        "model": "tools",
        "max_tokens": 2000,
        "tools": [{"name": "weather", "input_schema": WEATHER}],
    }
    if stream:
        async with claude.messages.stream(messages=[USER], **given) as events_:
            answer: Any = await events_.get_final_message()
    else:
        answer = await claude.messages.create(messages=[USER], **given)
    (use,) = answer.content
    assert (use.type, use.input, answer.stop_reason) == ("tool_use", CALLED, "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    chat: list[Any] = [
        USER,
        {"role": "assistant", "content": [use.to_dict()]},
        {"role": "user", "content": [result]},
    ]
    after = await claude.messages.create(messages=chat, **given)
    assert [block.type for block in after.content] == ["text"]


async def test_a_model_that_cannot_think_may_be_asked_to_here(
    claude: anthropic.AsyncAnthropic,
) -> None:
    answer = await claude.messages.create(
        model="plain",
        max_tokens=2000,
        messages=[USER],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in answer.content] == ["text"]


async def test_the_anthropic_client_shows_a_picture(claude: anthropic.AsyncAnthropic) -> None:
    source: Any = {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(PNG).decode(),
    }
    chat: list[Any] = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    assert (await claude.messages.create(model="eyes", max_tokens=9, messages=chat)).content
    with pytest.raises(anthropic.BadRequestError, match="does not support multimodal requests"):
        await claude.messages.create(model="plain", max_tokens=9, messages=chat)


@pytest.mark.parametrize(
    ("more", "status", "kind", "text"),
    [
        ({"model": ""}, 400, "invalid_request_error", "model is required"),
        ({"model": "nope"}, 404, "not_found_error", "model 'nope' not found"),
        (
            {"max_tokens": 0},
            400,
            "invalid_request_error",
            "max_tokens is required and must be positive",
        ),
        ({"messages": []}, 400, "invalid_request_error", "messages is required"),
        (
            {"messages": [{"role": "user"}]},
            400,
            "invalid_request_error",
            "unexpected end of JSON input",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": 5}]}]},
            400,
            "invalid_request_error",
            (
                "json: cannot unmarshal number into Go struct field "
                "MessagesRequest.messages.type of type string"
            ),
        ),
    ],
)
async def test_messages_are_refused_in_anthropics_shape(
    sim: SimulatedOllama, more: dict[str, Any], status: int, kind: str, text: str
) -> None:
    request = {"model": "plain", "max_tokens": 9, "messages": [USER]} | more
    got, _, body = await raw(sim, "/v1/messages", request)
    told = json.loads(body)
    assert (got, told["type"], told["error"]) == (status, "error", {"type": kind, "message": text})
    assert told["request_id"].startswith("req_")


async def test_a_full_queue_is_an_overload_to_anthropic_clients() -> None:
    settings = Settings(max_queue=0, speed=500.0)
    async with (
        asyncio.timeout(20),
        SimulatedOllama(settings, models=MODELS) as sim,
        anthropic.AsyncAnthropic(base_url=sim.url, api_key="x", max_retries=0) as client,
    ):
        with pytest.raises(anthropic.InternalServerError) as caught:
            await client.messages.create(model="plain", max_tokens=9, messages=[USER])
    assert caught.value.status_code == 503
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "overloaded_error"


# -- /v1/audio/transcriptions --------------------------------------------------------------


async def test_the_openai_client_has_speech_written_down(gpt: openai.AsyncOpenAI) -> None:
    told = await gpt.audio.transcriptions.create(model="ears", file=("a.wav", WAVE))
    assert told.text
    text = await gpt.audio.transcriptions.create(
        model="ears", file=("a.wav", WAVE), response_format="text"
    )
    assert str(text).strip() == told.text


def a_form(*parts: tuple[str, str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    form = b""
    for name, filename, content in parts:
        head = f'--XX\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{filename}"' if filename else ""
        form += head.encode() + b"\r\n\r\n" + content + b"\r\n"
    return form + end


FILE = ("file", "a.wav", WAVE)
NOPE = ("model", "", b"nope")


@pytest.mark.parametrize(
    ("query", "form", "status", "text"),
    [
        ("", a_form(NOPE, FILE), 404, "model 'nope' not found"),
        ("", a_form(FILE, NOPE), 404, "model 'nope' not found"),
        ("?model=other", a_form(FILE, NOPE), 404, "model 'other' not found"),
        ("", a_form(FILE), 400, "model is required"),
        ("", a_form(NOPE), 400, "file is required: http: no such file"),
        ("", a_form(NOPE, ("file", "", WAVE)), 400, "file is required: http: no such file"),
        ("", a_form(NOPE, ("file", "a.wav", b"")), 400, "audio file is empty"),
        ("", a_form(NOPE, end=b""), 400, "failed to parse multipart form: unexpected EOF"),
        ("", b"", 400, "failed to parse multipart form: multipart: NextPart: EOF"),
    ],
)
async def test_forms_are_read_as_go_reads_them(
    sim: SimulatedOllama, query: str, form: bytes, status: int, text: str
) -> None:
    path = f"/v1/audio/transcriptions{query}"
    kind = "multipart/form-data; boundary=XX"
    got, _, body = await raw(sim, path, form, Content_Type=kind)
    assert (got, json.loads(body)["error"]["message"]) == (status, text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/json", "request Content-Type isn't multipart/form-data"),
        ("multipart/form-data", "no multipart boundary param in Content-Type"),
    ],
)
async def test_what_is_no_form_is_refused(sim: SimulatedOllama, kind: str, text: str) -> None:
    got, _, body = await raw(sim, "/v1/audio/transcriptions", b"{}", Content_Type=kind)
    told = json.loads(body)["error"]["message"]
    assert (got, told) == (400, f"failed to parse multipart form: {text}")


async def test_the_mark_after_a_thought_shows_where_nothing_hides_it(
    native: ollama.AsyncClient,
) -> None:
    chunks = [c async for c in await native.generate("thinker", "hi", stream=True)]
    blank = [c for c in chunks if not c.done and not c.response and not c.thinking]
    assert len(blank) == 1


# -- zstd ------------------------------------------------------------------------------------

ASKED = json.dumps(
    {"model": "nope", "input": "x", "prompt": "x", "messages": [USER], "max_tokens": 1}
).encode()
SMALLER = zstandard.ZstdCompressor().compress(ASKED)
V1 = ("chat/completions", "completions", "embeddings", "responses", "messages")


@pytest.mark.parametrize("route", V1)
async def test_zstd_is_read_under_v1(sim: SimulatedOllama, route: str) -> None:
    status, _, body = await raw(sim, f"/v1/{route}", SMALLER, Content_Encoding="zstd")
    assert status == 404
    assert b"nope" in body


@pytest.mark.parametrize(
    ("path", "encoding", "body"),
    [
        ("/api/chat", "zstd", SMALLER),
        ("/v1/responses", "ZSTD", SMALLER),
    ],
)
async def test_elsewhere_compressed_bodies_are_taken_for_json(
    sim: SimulatedOllama, path: str, encoding: str, body: bytes
) -> None:
    status, _, told = await raw(sim, path, body, Content_Encoding=encoding)
    assert status == 400
    assert b"invalid character '(' looking for beginning of value" in told


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (ASKED, "invalid input: magic number mismatch"),
        (SMALLER[:-5], "unexpected EOF"),
        (
            zstandard.ZstdCompressor().compress(b"a" * (20 * 2**20 + 1)),
            "http: request body too large",
        ),
    ],
)
async def test_what_does_not_decompress_is_refused_in_ollamas_own_shape(
    sim: SimulatedOllama, body: bytes, text: str
) -> None:
    for route in V1:
        status, headers, told = await raw(sim, f"/v1/{route}", body, Content_Encoding="zstd")
        assert (status, json.loads(told)) == (400, {"error": text})
        assert headers["Content-Type"] == "application/json; charset=utf-8"


# -- failures amid an answer ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/api/chat", b'{"error":"an error was encountered while running the model: boom"}\n'),
        (
            "/v1/chat/completions",
            b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n',
        ),
        ("/v1/completions", b'"model":"","system_fingerprint":"fp_ollama"}\n\n'),
    ],
)
async def test_a_runner_that_dies_ends_a_stream_as_its_dialect_does(
    sim: SimulatedOllama, path: str, end: bytes
) -> None:
    sim.faults.kill_runner_after("plain", 3, "boom")
    request = {"model": "plain", "prompt": "hi", "messages": [USER], "stream": True}
    status, _, body = await raw(sim, path, request)
    assert status == 200
    assert body.endswith(end)
    assert b"[DONE]" not in body


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_elsewhere_the_stream_just_stops(sim: SimulatedOllama, path: str) -> None:
    sim.faults.kill_runner_after("plain", 3, "boom")
    request = {"model": "plain", "input": "hi", "messages": [USER], "max_tokens": 99}
    status, _, body = await raw(sim, path, request | {"stream": True})
    assert status == 200
    assert events(body)[-1][0] in {"response.output_text.delta", "content_block_delta"}
    assert b"boom" not in body


async def test_a_dead_runner_leaves_a_transcript_empty(sim: SimulatedOllama) -> None:
    sim.faults.kill_runner_after("ears", 3, "boom")
    form = a_form(("model", "", b"ears"), FILE)
    kind = "multipart/form-data; boundary=XX"
    status, headers, body = await raw(sim, "/v1/audio/transcriptions", form, Content_Type=kind)
    assert (status, headers["Content-Type"], body) == (200, "application/x-ndjson", b"")
