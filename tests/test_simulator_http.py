"""The simulated Ollama below its routes: what Go's net/http and gin answer by themselves.

Each expectation was read off a real Ollama v0.32.15 with a raw socket.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from ollama_gate.simulator import Settings, SimulatedOllama

NOT_FOUND = "404 page not found"
NOT_ALLOWED = "405 method not allowed"


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedOllama]:
    async with (
        asyncio.timeout(20),
        SimulatedOllama(Settings(speed=500.0, models=("gemma:2b",))) as simulated,
    ):
        yield simulated


class Line:
    """A connection on which requests are written as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    async def head(self) -> list[str]:
        """The status line and the headers, the date masked."""
        raw = await self._reader.readuntil(b"\r\n\r\n")
        return re.sub(r"Date: [^\r]*", "Date: *", raw.decode()).split("\r\n")[:-2]

    async def rest(self, length: int) -> str:
        return (await self._reader.readexactly(length)).decode()

    async def end(self) -> str:
        return (await self._reader.read()).decode()


@contextlib.asynccontextmanager
async def dial(sim: SimulatedOllama) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sim.url.rpartition(":")[2]))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(
    sim: SimulatedOllama, method: str, target: str, *headers: str, host: str = "127.0.0.1"
) -> tuple[str, list[str]]:
    """Status, and the headers after it in their order."""
    async with dial(sim) as line:
        lines = (f"{method} {target} HTTP/1.1", f"Host: {host}", *headers)
        await line.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        status, *named = await line.head()
        return status.removeprefix("HTTP/1.1 "), named


@pytest.mark.parametrize(
    ("method", "target", "status", "headers"),
    [
        ("HEAD", "/", "200 OK", ["Content-Type: text/plain; charset=utf-8", "Content-Length: 17"]),
        (
            "HEAD",
            "/api/version",
            "200 OK",
            ["Content-Type: application/json; charset=utf-8", "Content-Length: 21"],
        ),
        (
            "HEAD",
            "/api/ps",
            "405 Method Not Allowed",
            ["Allow: GET", "Content-Type: text/plain", "Content-Length: 22"],
        ),
        (
            "GET",
            "/api/blobs/x",
            "405 Method Not Allowed",
            ["Allow: HEAD, POST", "Content-Type: text/plain", "Content-Length: 22"],
        ),
        ("GET", "/api/blobs/", "404 Not Found", ["Content-Type: text/plain", "Content-Length: 18"]),
        (
            "GET",
            "/v1/models/a%2Fb",
            "404 Not Found",
            ["Content-Type: text/plain", "Content-Length: 18"],
        ),
        ("GET", "/API/tags", "404 Not Found", ["Content-Type: text/plain", "Content-Length: 18"]),
        ("POST", "/api/tags/", "404 Not Found", ["Content-Type: text/plain", "Content-Length: 18"]),
        (
            "POST",
            "/api/show/",
            "307 Temporary Redirect",
            ["Location: /api/show", "Content-Length: 0"],
        ),
        (
            "POST",
            "//api/show",
            "307 Temporary Redirect",
            ["Location: /api/show", "Content-Length: 0"],
        ),
        (
            "HEAD",
            "/api/tags/",
            "307 Temporary Redirect",
            ["Content-Type: text/html; charset=utf-8", "Location: /api/tags"],
        ),
        (
            "GET",
            "/api/tags/?x=1",
            "301 Moved Permanently",
            [
                "Content-Type: text/html; charset=utf-8",
                "Location: /api/tags?x=1",
                "Content-Length: 48",
            ],
        ),
        (
            "GET",
            "/api/tags%2F",
            "301 Moved Permanently",
            ["Content-Type: text/html; charset=utf-8", "Location: /api/tags", "Content-Length: 44"],
        ),
        (
            "GET",
            "/api/../api/tags",
            "307 Temporary Redirect",
            ["Content-Type: text/html; charset=utf-8", "Location: /api/tags", "Content-Length: 45"],
        ),
        (
            "GET",
            "//nope/",
            "307 Temporary Redirect",
            ["Content-Type: text/html; charset=utf-8", "Location: /nope/", "Content-Length: 42"],
        ),
        (
            "GET",
            "/%61//b",
            "307 Temporary Redirect",
            ["Content-Type: text/html; charset=utf-8", "Location: /%2561/b", "Content-Length: 44"],
        ),
        (
            "GET",
            "http://127.0.0.1",
            "307 Temporary Redirect",
            ["Content-Type: text/html; charset=utf-8", "Location: /", "Content-Length: 37"],
        ),
        ("GET", "http://example.com/api/tags", "403 Forbidden", ["Content-Length: 0"]),
        (
            "DELETE",
            "/api/user/keys",
            "404 Not Found",
            ["Content-Type: text/plain", "Content-Length: 18"],
        ),
    ],
)
async def test_gin_and_its_mux_answer_for_themselves(
    sim: SimulatedOllama, method: str, target: str, status: str, headers: list[str]
) -> None:
    told, named = await ask(sim, method, target)
    assert told == status
    assert [header for header in named if header != "Date: *"] == headers


@pytest.mark.parametrize("target", ["/%61pi/tags", "/api%2Ftags", "/api/tags?x", "/api/tags"])
async def test_a_path_may_be_spelled_in_many_ways(sim: SimulatedOllama, target: str) -> None:
    assert (await ask(sim, "GET", target))[0] == "200 OK"


async def test_a_redirect_asks_neither_for_the_host_nor_for_the_origin(
    sim: SimulatedOllama,
) -> None:
    for target, status in (
        ("/api/tags/", "301 Moved Permanently"),
        ("//", "307 Temporary Redirect"),
    ):
        told, named = await ask(sim, "GET", target, "Origin: http://evil.com", host="evil.com")
        assert told == status
        assert not any(name.startswith("Access-Control") for name in named)


async def test_a_forwarded_prefix_comes_before_the_path(sim: SimulatedOllama) -> None:
    _, named = await ask(sim, "GET", "/api/tags/", "X-Forwarded-Prefix: /pre")
    assert "Location: /pre/api/tags" in named


async def test_the_asterisk_is_answered_before_everything(sim: SimulatedOllama) -> None:
    for host in ("localhost", "evil.com"):
        told, named = await ask(sim, "OPTIONS", "*", "Origin: http://evil.com", host=host)
        assert (told, named) == ("200 OK", ["Content-Length: 0", "Date: *"])


async def test_options_without_an_origin_depend_on_the_host(sim: SimulatedOllama) -> None:
    assert await ask(sim, "OPTIONS", "/api/tags", host="localhost") == (
        "204 No Content",
        ["Allow: HEAD, GET", "Date: *"],
    )
    assert (await ask(sim, "OPTIONS", "/api/tags"))[0] == "405 Method Not Allowed"
    assert (await ask(sim, "OPTIONS", "/nope"))[0] == "404 Not Found"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"GET api/tags HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (b"GET / HTTP/1.1\r\n\r\n", "400 Bad Request: missing required Host header"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 Bad Request: malformed Host header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nB C: d\r\n\r\n", "400 Bad Request: invalid header name"),
    ],
)
async def test_what_cannot_be_read_ends_the_connection(
    sim: SimulatedOllama, raw: bytes, status: str
) -> None:
    async with dial(sim) as line:
        await line.send(raw)
        assert await line.head() == [
            f"HTTP/1.1 {status}",
            "Content-Type: text/plain; charset=utf-8",
            "Connection: close",
        ]
        assert await line.end() == status


async def test_another_expectation_fails(sim: SimulatedOllama) -> None:
    told, named = await ask(sim, "GET", "/", "Expect: a miracle")
    assert told == "417 Expectation Failed"
    assert named == ["Connection: close", "Date: *", "Content-Length: 0"]


async def test_a_body_is_asked_for_when_it_is_read(sim: SimulatedOllama) -> None:
    async with dial(sim) as line:
        head = b"POST /api/show HTTP/1.1\r\nHost: a.local\r\nExpect: 100-continue\r\n"
        await line.send(head + b"Content-Length: 2\r\n\r\n")
        assert await line.head() == ["HTTP/1.1 100 Continue"]
        await line.send(b"{}")
        assert (await line.head())[0] == "HTTP/1.1 400 Bad Request"
        assert await line.rest(29) == '{"error":"model is required"}'


@pytest.mark.parametrize("target", ["/nope", "/api/blobs/abc", "/api/tags"])
async def test_a_body_nobody_reads_is_not_asked_for(sim: SimulatedOllama, target: str) -> None:
    _, named = await ask(sim, "POST", target, "Expect: 100-continue", "Content-Length: 2")
    assert named[-1] == "Connection: close"


async def test_a_short_body_nobody_reads_is_read_away(sim: SimulatedOllama) -> None:
    async with dial(sim) as line:
        for size, is_kept in ((200_000, True), (300_000, False)):
            await line.send(
                b"POST /nope HTTP/1.1\r\nHost: a.local\r\nContent-Length: %d\r\n\r\n" % size
            )
            await line.send(b"x" * size)
            assert ("Connection: close" not in await line.head()) is is_kept
            assert await line.rest(18) == NOT_FOUND


async def test_headers_may_be_long(sim: SimulatedOllama) -> None:
    assert (await ask(sim, "GET", "/", f"X: {'a' * 100_000}"))[0] == "200 OK"


async def test_an_old_client_gets_a_stream_that_ends_with_the_connection(
    sim: SimulatedOllama,
) -> None:
    async with dial(sim) as line:
        await line.send(b'POST /api/push HTTP/1.0\r\nContent-Length: 15\r\n\r\n{"model":"a/b"}')
        assert await line.head() == [
            "HTTP/1.0 200 OK",
            "Content-Type: application/x-ndjson",
            "Date: *",
        ]
        assert (await line.end()).startswith('{"status":"retrieving manifest"}\n')


async def test_an_old_client_gets_a_long_answer_without_a_length(sim: SimulatedOllama) -> None:
    async with dial(sim) as line:
        await line.send(
            b'POST /api/show HTTP/1.0\r\nContent-Length: 20\r\n\r\n{"model":"gemma:2b"}'
        )
        assert [name.partition(":")[0] for name in (await line.head())[1:]] == [
            "Content-Type",
            "Date",
        ]
        assert (await line.end()).endswith("}")
