"""The gate's HTTP face where requests are odd, large, in circles, or break off in the middle."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import psutil
import pytest
import zstandard
from msgspec import structs

from ollama_gate.config import Config, Listen, QueueConfig, UpstreamConfig
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import BIG, SMALL, Http, generate, hold, post, until

LIMIT_S = 10.0
TOKENS = 5_000
"""An answer that takes seconds at five times the wall clock."""
DIED = "an error was encountered while running the model: unexpected EOF"
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}
STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"prompt": "Hello"}),
    ("/api/chat", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/messages", {**CHAT, "stream": True, "max_tokens": TOKENS}),
    ("/v1/responses", {"input": "Hello", "stream": True}),
]
"""Each dialect's stream; a test adds the model."""


class Line:
    """A connection to a gate on which bytes are written as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    async def say(self, text: str) -> None:
        self._writer.write(text.encode())
        await self._writer.drain()

    async def head(self) -> list[str]:
        async with asyncio.timeout(LIMIT_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
        return raw.decode("latin-1").split("\r\n")[:-2]


@contextlib.asynccontextmanager
async def dial(site: Site) -> AsyncIterator[Line]:
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


async def status_of(site: Site, request_line: str, *headers: str) -> int:
    """The status of a request without a body."""
    async with dial(site) as line:
        await line.say("\r\n".join([request_line, *headers, "", ""]))
        return int((await line.head())[0].split()[1])


# ------------------------------------------------------------------------------- odd targets


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("OPTIONS * HTTP/1.1", 200),
        ("GET /api/version? HTTP/1.1", 200),
        ("GET http://127.0.0.1/api/version HTTP/1.1", 200),
        ("GET http://gate.example/api/version HTTP/1.1", 403),
        ("GET http://127.0.0.1?x=/api/tags HTTP/1.1", 307),
        ("GET //api/version HTTP/1.1", 307),
        ("GET /api%2Fversion HTTP/1.1", 200),
        ("GET /api/tags/ HTTP/1.1", 301),
    ],
)
async def test_an_odd_target_is_answered_as_ollama_does(
    site: Site, request_line: str, status: int
) -> None:
    assert await status_of(site, request_line, "Host: 127.0.0.1") == status


async def test_an_inference_path_in_escapes_waits_for_its_slot_as_well(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    async with dial(site) as line:
        body = json.dumps({"model": BIG, **CHAT})
        head = f"POST /api%2Fchat?x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        await line.say(f"{head}\r\n\r\n{body}")
        await until(site, lambda view: view.waiting)
        assert (await held.let_go())[0] == 200
        assert (await line.head())[0] == "HTTP/1.1 200 OK"


# ------------------------------------------------------------------------------- uploads


async def test_a_body_is_asked_for_where_it_is_wanted(http: Http, site: Site) -> None:
    digest = f"sha256:{hashlib.sha256(b'blob').hexdigest()}"
    head = "Host: localhost\r\nExpect: 100-continue\r\nContent-Length: "
    for expected in (["HTTP/1.1 100 Continue"], []):
        async with dial(site) as line:
            await line.say(f"POST /api/blobs/{digest} HTTP/1.1\r\n{head}4\r\n\r\n")
            first = await line.head()
            if expected:
                assert first == expected
                await line.say("blob")
                first = await line.head()
            assert first[0] == ("HTTP/1.1 201 Created" if expected else "HTTP/1.1 200 OK")
    async with dial(site) as line:
        body = json.dumps({"model": SMALL, "stream": False, **CHAT})
        await line.say(f"POST /api/chat HTTP/1.1\r\n{head}{len(body)}\r\n\r\n")
        assert await line.head() == ["HTTP/1.1 100 Continue"]
        await line.say(body)
        assert (await line.head())[0] == "HTTP/1.1 200 OK"


async def test_a_large_upload_arrives_whole_and_is_not_kept(http: Http, site: Site) -> None:
    part, count = os.urandom(2**20), 64
    whole = hashlib.sha256()
    for _ in range(count):
        whole.update(part)
    process, peak = psutil.Process(), 0
    before = process.memory_info().rss

    async def upload() -> AsyncIterator[bytes]:
        nonlocal peak
        for _ in range(count):
            yield part
            peak = max(peak, process.memory_info().rss)

    url = f"{site.url}/api/blobs/sha256:{whole.hexdigest()}"
    async with http.post(url, data=upload()) as response:
        assert response.status == 201
    async with http.head(url) as response:
        assert response.status == 200
    assert peak - before < 32 * 2**20


# ------------------------------------------------------------------------------- circles


READ = {
    "/api/chat": lambda body: body["error"],
    "/v1/chat/completions": lambda body: body["error"]["message"],
    "/v1/messages": lambda body: body["error"]["message"],
    "/api/version": lambda body: body["error"],
}


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("gates", [1, 2])
async def test_gates_in_a_circle_are_found_out(
    http: Http,
    ollama: SimulatedOllama,
    make_site: MakeSite,
    unused_tcp_port: int,
    path: str,
    gates: int,
) -> None:
    first = await make_site(ollama)
    listen = structs.replace(first.config.listen, port=unused_tcp_port)
    to_itself = structs.replace(first.config.upstream, url=f"http://127.0.0.2:{unused_tcp_port}")
    if gates == 2:
        behind = structs.replace(first.config.upstream, url=f"http://127.0.0.1:{unused_tcp_port}")
        second = await make_site(ollama, upstreams=(behind,))
        to_itself = structs.replace(to_itself, url=second.url)
    else:
        listen = structs.replace(listen, host="0.0.0.0")
    site = await make_site(ollama, listen=listen, upstreams=(to_itself,))
    url = f"http://127.0.0.1:{unused_tcp_port}{path}"
    assert site.url
    method = "GET" if path == "/api/version" else "POST"
    async with http.request(method, url, json={"model": SMALL, **CHAT}) as response:
        text = READ[path](await response.json(content_type=None))
    assert response.status == 508
    assert "loop detected" in text


# ------------------------------------------------------------------------------- max_run


@pytest.mark.parametrize("path", [path for path, _ in STREAMS])
async def test_who_runs_too_long_without_a_word_is_a_504_that_asks_for_no_other_try(
    http: Http, ollama: SimulatedOllama, make_site: MakeSite, path: str
) -> None:
    site = await make_site(ollama, max_run_s=0.3)
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200
    ollama.faults.hang(SMALL)
    body = {"model": SMALL, **dict(STREAMS)[path], "stream": False}
    async with http.post(site.url + path, json=body) as response:
        assert "max_run" in await response.text()
    assert (response.status, response.headers["x-should-retry"]) == (504, "false")
    assert "X-Gate-Id" in response.headers
    await until(site, lambda view: not view.running)
    ollama.faults.unhang(SMALL)


async def read_to_the_end(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What came, and whether it ended properly."""
    got = bytearray()
    try:
        async for chunk in response.content.iter_any():
            got += chunk
    except aiohttp.ClientError:
        return bytes(got), False
    return bytes(got), True


@pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])
async def test_who_runs_too_long_is_cut_off_and_told_where_there_is_a_way(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite, path: str, body: dict[str, Any]
) -> None:
    ollama = await make_ollama(answer_tokens=TOKENS, speed=5.0)
    site = await make_site(ollama, max_run_s=2.0)
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL, 1)))[0] == 200
    async with http.post(site.url + path, json={"model": SMALL, **body}) as response:
        got, whole = await read_to_the_end(response)
    assert response.status == 200
    if path.startswith("/api"):
        assert whole
        assert "max_run" in json.loads(got.splitlines()[-1])["error"]
    else:
        assert not whole
        assert b"[DONE]" not in got
        assert b"message_stop" not in got
        assert b"response.completed" not in got
    await until(site, lambda view: not view.running)


# ------------------------------------------------------------------------------- broken off


@pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])
async def test_an_answer_whose_upstream_dies_does_not_look_whole(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite, path: str, body: dict[str, Any]
) -> None:
    ollama = await make_ollama(answer_tokens=TOKENS, speed=5.0)
    site = await make_site(ollama)
    async with http.post(site.url + path, json={"model": SMALL, **body}) as response:
        await response.content.readany()
        ollama.faults.hang(SMALL)
        await until_quiet(response)
        await ollama.go_down()
        got, whole = await read_to_the_end(response)
    ollama.faults.unhang(SMALL)
    if path.startswith("/api"):
        assert whole
        assert json.loads(got.splitlines()[-1]) == {"error": DIED}
    else:
        assert not whole
        assert b"[DONE]" not in got
        assert b"message_stop" not in got


async def until_quiet(response: aiohttp.ClientResponse) -> None:
    """Read until nothing more is on its way, as from a model that hangs."""
    while True:
        try:
            async with asyncio.timeout(0.2):
                await response.content.readany()
        except TimeoutError:
            return


# ------------------------------------------------------------------------------- leaving


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])
async def test_the_upstream_hears_at_once_of_a_client_that_leaves(
    http: Http,
    make_ollama: MakeOllama,
    make_site: MakeSite,
    path: str,
    body: dict[str, Any],
    *,
    stream: bool,
) -> None:
    ollama = await make_ollama(answer_tokens=TOKENS, speed=5.0)
    site = await make_site(ollama)
    asking = asyncio.create_task(
        post(http, site.url + path, {"model": SMALL, **body, "stream": stream})
    )
    await until(site, lambda view: view.running)
    asking.cancel()
    await until(site, lambda view: not view.running)
    # The one slot there is free as well: it would not be before the answer's end.
    short = generate(SMALL, 1, stream=False)
    async with asyncio.timeout(5):
        assert (await post(http, f"{ollama.url}/api/generate", short))[0] == 200
    assert ollama.counters.loads == 1


# ------------------------------------------------------------------------------- pages


PAGE = "http://localhost:3000"


@pytest.mark.parametrize("path", ["/api/version", "/gate/status", "/gate/requests/x", "/nowhere"])
async def test_a_granted_page_may_read_whatever_is_answered(
    http: Http, site: Site, path: str
) -> None:
    async with http.get(site.url + path, headers={"Origin": PAGE}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Vary"] == "Origin"
    async with http.options(site.url + path, headers={"Origin": PAGE}) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["Access-Control-Max-Age"] == "43200"


async def test_a_granted_page_may_read_a_refusal(
    http: Http, site: Site, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    headers = {"Origin": PAGE, "X-Priority": "urgent", "X-Request-Id": "mine"}
    async with http.post(
        f"{site.url}/api/chat", json={"model": SMALL}, headers=headers
    ) as response:
        assert response.status == 400
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert response.headers["X-Request-Id"] == "mine"
        assert response.headers["X-Gate-Id"]
        assert response.headers["Server-Timing"].startswith("queue;dur=")


@pytest.mark.parametrize("path", ["/", "/api/generate", "/gate/status", "/gate/health"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
async def test_who_is_foreign_is_turned_away_without_a_word(
    http: Http, site: Site, ollama: SimulatedOllama, path: str, headers: dict[str, str]
) -> None:
    body = generate(SMALL)
    async with http.post(site.url + path, json=body, headers=headers) as response:
        assert (response.status, await response.read()) == (403, b"")
    assert ollama.loaded() == []


# ------------------------------------------------------------------------------- without a slot


async def test_what_needs_no_slot_is_answered_while_every_slot_is_taken(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, queue=QueueConfig(max_size=1))
    held = await hold(http, site, ollama)
    waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(BIG)))
    await until(site, lambda view: view.waiting)
    for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", f"/v1/models/{SMALL}"):
        async with http.get(site.url + path) as response:
            assert response.status == 200, path
    assert (await post(http, f"{site.url}/api/show", {"model": SMALL}))[0] == 200
    cloud = generate("gpt-oss:120b-cloud", stream=False)
    through, straight = [
        (await post(http, f"{url}/api/generate", cloud))[0] for url in (site.url, ollama.url)
    ]
    assert through == straight
    async with http.post(f"{site.url}/api/generate", json=generate(SMALL)) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert response.headers["X-Gate-Id"]
    assert (await held.let_go())[0] == 200
    assert (await waiting)[0] == 200


# ------------------------------------------------------------------------------- slow readers


Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Flood:
    """An upstream that sends for as long as somebody takes it."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.stuck = asyncio.Event()
        self.went_on = asyncio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b" /flood " not in head:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await self._pour(writer)
        writer.close()

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(2**16))
            pouring = asyncio.ensure_future(writer.drain())
            while not (await asyncio.wait({pouring}, timeout=1.0))[0]:
                self.stuck.set()
            await pouring
            if self.stuck.is_set():
                self.went_on.set()
            self.sent_bytes += 2**16


@contextlib.asynccontextmanager
async def before(play: Play) -> AsyncIterator[Site]:
    """A gate before an upstream that plays a part on each connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await play(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = Config(
        listen=Listen(port=0), upstreams=(UpstreamConfig(url=f"http://127.0.0.1:{port}"),)
    )
    async with server, Site(config, temporary=True) as site, asyncio.timeout(LIMIT_S):
        yield site


async def test_an_answer_that_ends_the_connection_ends_it_for_the_client_too() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    async with before(play) as site, dial(site) as line:
        await line.say("POST /api/blobs/x HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        await line.say("Expect: 100-continue\r\nContent-Length: 100\r\n\r\n")
        head = await line.head()
        assert head[0] == "HTTP/1.1 200 OK", "nobody asked for the body"
        assert "Connection: close" in head


async def test_a_page_is_turned_away_though_ollama_is_silent() -> None:
    async def play(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with before(play) as site:
        assert await status_of(site, "GET /api/tags HTTP/1.1", "Host: gate.example") == 403
        origin = "Origin: http://localhost:3000"
        options = ("OPTIONS /api/chat HTTP/1.1", "Host: 127.0.0.1", origin)
        assert await status_of(site, *options) == 204


async def test_an_odd_expectation_takes_nobody_past_the_queue(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    body = json.dumps(generate(SMALL, keep_alive=-1))
    assert ollama.loaded() == []
    for more in ("Connection: Expect", "X-Plain: yes"):
        lines = ("POST /api/generate HTTP/1.1", "Host: 127.0.0.1", "Expect: tea", more)
        length = f"Content-Length: {len(body)}\r\n\r\n{body}"
        async with dial(site) as line:
            await line.say("\r\n".join([*lines, length]))
            assert (await line.head())[0].split()[1] == "417"
    assert ollama.counters.loads == 0
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200


async def test_a_slow_reader_slows_the_upstream_and_nobody_else() -> None:
    flood = Flood()
    async with before(flood.connected) as site, dial(site) as slow:
        await slow.say("GET /flood HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert "200" in (await slow.head())[0]
        await flood.stuck.wait()
        taken = flood.sent_bytes
        # Four sockets' buffers, and what the gate holds of it.
        assert taken < 2**25
        assert await status_of(site, "GET /gate/health HTTP/1.1", "Host: 127.0.0.1") == 200
        assert await status_of(site, "GET /elsewhere HTTP/1.1", "Host: 127.0.0.1") == 404
        await slow.reader.readexactly(taken)
        await flood.went_on.wait()


async def test_a_packed_body_is_read_for_its_model(http: Http, site: Site) -> None:
    packed = zstandard.compress(json.dumps({"model": SMALL, "max_tokens": 2, **CHAT}).encode())
    async with http.post(
        f"{site.url}/v1/chat/completions", data=packed, headers={"Content-Encoding": "zstd"}
    ) as response:
        assert response.status == 200, await response.text()
        assert "X-Gate-Id" in response.headers, "it went through admission"
        assert (await response.json())["model"] == SMALL


# ------------------------------------------------------------------------------- any bytes at all

BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"model": SMALL, "prompt": "a", "options": {"num_predict": 1, "num_ctx": 8}}),
    ("/api/chat", {"model": SMALL, **CHAT, "tools": [], "think": False, "keep_alive": "5m"}),
    ("/api/embed", {"model": SMALL, "input": ["a", "b"], "truncate": True}),
    ("/api/embeddings", {"model": SMALL, "prompt": "a", "keep_alive": 1.5}),
    ("/v1/chat/completions", {"model": SMALL, **CHAT, "max_tokens": 1, "stop": ["x"]}),
    ("/v1/completions", {"model": SMALL, "prompt": "a", "max_tokens": 1}),
    ("/v1/embeddings", {"model": SMALL, "input": "a", "encoding_format": "base64"}),
    ("/v1/responses", {"model": SMALL, "input": "a", "max_output_tokens": 1}),
    ("/v1/messages", {"model": SMALL, **CHAT, "max_tokens": 1, "system": [{"type": "text"}]}),
    ("/v1/audio/transcriptions", {"model": SMALL}),
]
ODD = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"null",
    b"1e999",
    b"-1",
    b"\\u0000",
    b"\xff",
    b"\n",
)


def spoilt(body: bytes, dice: random.Random) -> bytes:
    """A body of which some bytes were lost, doubled or replaced."""
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(body) + 1), dice.choice((0, 0, 1, 2, 8))
        piece = dice.choice((*ODD, body[at : at + 9], b""))
        body = body[:at] + piece + body[at + length :]
    return body


async def test_no_body_makes_the_gate_fail(http: Http, site: Site) -> None:
    dice = random.Random(20)
    for number in range(400):
        path, given = BODIES[number % len(BODIES)]
        body = spoilt(json.dumps(given).encode(), dice)
        headers = {"Content-Encoding": "zstd"} if dice.random() < 0.1 else {}
        async with http.post(site.url + path, data=body, headers=headers) as response:
            said = await response.read()
        assert b"the gate failed" not in said, (path, body)


@pytest.mark.parametrize("sizes", [(1,), (1, 2, 3), (5_000, 1, 1, 5_000, 2), (3, 70_000, 3)])
async def test_a_body_is_put_together_as_it_came(
    http: Http, site: Site, sizes: tuple[int, ...]
) -> None:
    whole = json.dumps(generate(SMALL, 1, system="x" * sum(sizes))).encode()

    async def pieces() -> AsyncIterator[bytes]:
        at = 0
        for size in sizes:
            yield whole[at : at + size]
            at += size
        yield whole[at:]

    async with http.post(f"{site.url}/api/generate", data=pieces()) as response:
        said = await response.read()
    assert response.status == 200, said
    assert "X-Gate-Id" in response.headers
