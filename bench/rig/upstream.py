"""An upstream as fast as Python allows, which looks like an Ollama with one resident model.

Usage: python -m bench.rig.upstream PORT

What it answers to `/api/chat` and `/api/generate` is chosen by the query, which every contender
passes on: see `Mode`. It ends with its standard input, so that it never outlives the benchmark.
"""

import asyncio
import gc
import json
import sys
import time
from collections import defaultdict
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from bench.rig.messages import Messages
from bench.rig.processes import run_until_stdin_ends

MODEL: Final = "bench:latest"
CHUNKS: Final = 100
ANSWER_BYTES: Final = 1_000_000
BACKLOG: Final = 4096

_DIGEST: Final = "b" * 64
_WHEN: Final = "2026-01-01T00:00:00Z"
_DETAILS: Final = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.2B",
    "quantization_level": "Q4_K_M",
}
_SIZE_BYTES: Final = 1_300_000_000
_LISTED: Final = {"name": MODEL, "model": MODEL, "digest": _DIGEST, "details": _DETAILS}


class Mode(StrEnum):
    """What to answer, and what else the query says.

    * SMALL: a small JSON. Also a load's and an unload's answer, so it is what no query means.
    * LARGE: a megabyte of JSON.
    * STREAM: `CHUNKS` lines, each flushed by itself, `pace_ms` apart, with the instant (`t`,
      nanoseconds of the monotonic clock, which processes share) at which it was written.
    * HOLD: nothing (`first=0`) or a stream's head and first line (`first=1`), and then no more.
      Under `id` it is noted when the request was there and when its connection closed.
    """

    SMALL = "small"
    LARGE = "large"
    STREAM = "stream"
    HOLD = "hold"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _whole(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def _chunk(line: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(line), line)


def _line() -> bytes:
    return _chunk(
        b'{"model":"bench:latest","created_at":"2026-01-01T00:00:00Z","message":'
        b'{"role":"assistant","content":" word"},"done":false,"t":%d}\n' % time.monotonic_ns()
    )


_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_STREAM_END: Final = b"0\r\n\r\n"


def _said(content: str) -> bytes:
    return _whole(
        _json(
            {
                "model": MODEL,
                "created_at": _WHEN,
                "message": {"role": "assistant", "content": content},
                "done": True,
                "done_reason": "stop",
            }
        )
    )


_SMALL: Final = _said("The sky is blue.")
_LARGE: Final = _said("x" * ANSWER_BYTES)
_FACTS: Final = {
    "/api/version": _whole(_json({"version": "0.32.15"})),
    "/api/tags": _whole(
        _json({"models": [{**_LISTED, "modified_at": _WHEN, "size": _SIZE_BYTES}]})
    ),
    "/api/ps": _whole(
        _json(
            {
                "models": [
                    {
                        **_LISTED,
                        "size": _SIZE_BYTES,
                        "size_vram": _SIZE_BYTES,
                        "expires_at": "2126-01-01T00:00:00Z",
                        "context_length": 4096,
                    }
                ]
            }
        )
    ),
    "/api/show": _whole(
        _json(
            {
                "modelfile": f"FROM /models/blobs/sha256-{'a' * 64}\n",
                "template": "{{ .Prompt }}",
                "details": _DETAILS,
                "model_info": {
                    "general.architecture": "llama",
                    "llama.block_count": 16,
                    "llama.context_length": 131072,
                    "llama.embedding_length": 2048,
                    "llama.attention.head_count": 32,
                    "llama.attention.head_count_kv": 8,
                },
                "capabilities": ["completion", "tools"],
                "modified_at": _WHEN,
            }
        )
    ),
}


@lru_cache(maxsize=1024)
def _target(target: str) -> tuple[str, dict[str, str]]:
    url = urlsplit(target)
    return url.path, dict(parse_qsl(url.query))


class Upstream(asyncio.Protocol):
    """One connection."""

    notes: Final[defaultdict[str, dict[str, int]]] = defaultdict(dict)
    """For each held request, by id: `seen_ns` and `closed_ns`."""

    def __init__(self) -> None:
        self._messages = Messages(self._head, lambda _: None, self._answer)
        self._loop = asyncio.get_running_loop()
        self._target = ""
        self._held: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._messages.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's shape
        if self._held is not None:
            self.notes[self._held]["closed_ns"] = time.monotonic_ns()

    def _head(self, head: bytes) -> None:
        self._target = head.split(b" ", 2)[1].decode()

    def _answer(self) -> None:
        path, query = _target(self._target)
        if path == "/bench/note":
            self._transport.write(_whole(_json(self.notes[query["id"]])))
        elif path in _FACTS:
            self._transport.write(_FACTS[path])
        else:
            self._run(query)

    def _run(self, query: dict[str, str]) -> None:
        match query.get("mode", Mode.SMALL):
            case Mode.LARGE:
                self._transport.write(_LARGE)
            case Mode.STREAM:
                self._transport.write(_STREAM_HEAD + _line())
                self._later(1, int(query["pace_ms"]) / 1000)
            case Mode.HOLD:
                self._held = query["id"]
                self.notes[self._held]["seen_ns"] = time.monotonic_ns()
                if query["first"] == "1":
                    self._transport.write(_STREAM_HEAD + _line())
            case _:
                self._transport.write(_SMALL)

    def _later(self, index: int, pace_s: float) -> None:
        # A turn of the loop apart even without a pace, or several lines would be one packet.
        if pace_s:
            self._loop.call_later(pace_s, self._stream, index, pace_s)
        else:
            self._loop.call_soon(self._stream, index, pace_s)

    def _stream(self, index: int, pace_s: float) -> None:
        if self._transport.is_closing():
            return
        if index == CHUNKS:
            self._transport.write(_STREAM_END)
            return
        self._transport.write(_line())
        self._later(index + 1, pace_s)


async def _serve(port: int) -> None:
    gc.freeze()
    gc.disable()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", port, backlog=BACKLOG)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    run_until_stdin_ends(_serve(int(sys.argv[1])))
