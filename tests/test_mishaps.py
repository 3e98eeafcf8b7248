"""What Ollama's words say of memory and of a runner."""

import json

import pytest

from ollama_gate import mishaps
from ollama_gate.mishaps import Breach, Mishap


@pytest.mark.parametrize(
    "text",
    [
        b"llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory",
        b"CUDA error: OUT OF MEMORY",
        b"vk::Device::allocateMemory: ErrorOutOfDeviceMemory, VK_ERROR_OUT_OF_DEVICE_MEMORY",
        b"hipMalloc failed",
        b"llama-server reported out-of-memory during startup: failed to allocate CUDA0 buffer",
        b"alloc_tensor_range: allocation failed",
        b"model requires more system memory (12.0 GiB) than is available (8.0 GiB)",
        b"memory layout cannot be allocated with num_gpu = 99",
        b"not enough memory",
        b"insufficient memory",
    ],
)
def test_memory_that_ran_out_is_known_by_its_words_in_any_case(text: bytes) -> None:
    assert mishaps.out_of_memory(text)
    assert mishaps.told_by(500, b'{"error":"%b"}' % text) is Mishap.OUT_OF_MEMORY


@pytest.mark.parametrize("newline", [b"\n", b"\\n"])
def test_what_was_done_without_is_no_lack_but_another_line_may_tell_of_one(newline: bytes) -> None:
    mended = b"failed to allocate compute buffers, retrying without pipeline parallelism"
    assert not mishaps.out_of_memory(mended)
    assert mishaps.out_of_memory(mended + newline + b"cudaMalloc failed")


@pytest.mark.parametrize(
    "text",
    [
        b"model runner has unexpectedly stopped, this may be due to resource limitations",
        b"an error was encountered while running the model: unexpected EOF",
        b"llama-server process no longer running: exit status 1 ",
        b"llama runner process no longer running: 2 ",
        b"llama runner process has terminated: exit status 2",
    ],
)
def test_a_runner_that_died_is_known_by_its_words(text: bytes) -> None:
    assert mishaps.told_by(500, b'{"error":"%b"}' % text) is Mishap.DIED
    assert mishaps.told_by(400, b'{"error":"%b"}' % text) is None


def test_the_embedding_routes_say_it_under_another_status() -> None:
    body = b'{"error":"do embedding request: Post \\"http://127.0.0.1:1/embedding\\": EOF"}'
    assert mishaps.told_by(400, body) is Mishap.DIED
    assert mishaps.told_by(500, body) is Mishap.DIED


@pytest.mark.parametrize("body", [b"", b'{"error":"option \\"num_ctx\\" must be of type integer"}'])
def test_any_other_error_says_nothing_of_a_runner(body: bytes) -> None:
    assert mishaps.told_by(500, body) is None
    assert mishaps.told_by(400, body) is None


def chunk(**more: object) -> bytes:
    told = {"id": "1", "object": "chat.completion.chunk", "model": "a"} | more
    return b"data: " + json.dumps(told, separators=(",", ":")).encode()


@pytest.mark.parametrize("kind", ["chat.completion.chunk", "text_completion"])
def test_a_chunk_that_names_no_model_tells_of_a_runner_that_died(kind: str) -> None:
    assert mishaps.broken_off(chunk(object=kind, model="")) is Breach.DIED
    # Ollama ends an answer that repeats itself without a last word; its runner lives.
    assert mishaps.broken_off(chunk(object=kind)) is None
    assert mishaps.broken_off(chunk(object=kind, text='"model":""')) is None


@pytest.mark.parametrize(
    "line",
    [
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
        b'data: {"delta":" a","sequence_number":6,"type":"response.output_text.delta"}',
    ],
)
def test_events_without_their_last_one_broke_off_for_some_reason(line: bytes) -> None:
    assert mishaps.broken_off(line) is Breach.UNSAID


@pytest.mark.parametrize(
    "line",
    [
        b"data: [DONE]",
        b'data: {"type":"message_stop"}',
        b'data: {"type":"error","error":{"type":"api_error","message":"a"}}',
        b'data: {"response":{"object":"response","model":""},"type":"response.completed"}',
        b'data: {"response":{"object":"response"},"type":"response.failed"}',
        b'data: {"type":"content_block_de',
        b'delta":" a","type":"response.output_text.delta"}',
        b'{"model":"","done":true}',
        b"",
    ],
)
def test_an_end_that_is_one_or_was_not_read_as_a_whole_says_nothing(line: bytes) -> None:
    assert mishaps.broken_off(line) is None
