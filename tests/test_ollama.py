"""What goes over the wire to an upstream, and what comes back, byte for byte."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from ollama_gate.errors import UpstreamBrokenError, UpstreamGoneError, UpstreamRefusedError
from ollama_gate.link import Answer
from ollama_gate.ollama import Ollama, end_to_end
from ollama_gate.scheduler.types import Launch
from tests.upstreams import EMPTY, LIMIT_S, Conversation, Upstreams

Headers = CIMultiDict[str]


def reply(body: bytes, status: str = "200 OK", headers: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


def as_json(value: Any, status: str = "200 OK") -> bytes:
    return reply(json.dumps(value).encode(), status)


@contextlib.asynccontextmanager
async def relayed(
    ollama: Ollama,
    method: str,
    target: str,
    headers: Headers,
    body: bytes | AsyncIterator[bytes] | None,
) -> AsyncIterator[Answer]:
    """Relay a request, and close its answer."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = await ollama.relay(method, target, raw, body)
    try:
        yield answer
    finally:
        answer.close()


async def fetch(
    ollama: Ollama, target: str = "/", headers: Headers | None = None, method: str = "GET"
) -> tuple[int, str, Headers, bytes]:
    """Relay a request without a body and read the whole answer."""
    async with (
        asyncio.timeout(LIMIT_S),
        relayed(ollama, method, target, headers or CIMultiDict(), None) as answer,
    ):
        body = b"".join([chunk async for chunk in answer.chunks()])
        shown = CIMultiDict((n.decode(), v.decode()) for n, v in end_to_end(answer.headers))
        return answer.status, answer.reason.decode(), shown, body


# ------------------------------------------------------------------------------- a request sent on


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api/tags/",
        "//api/tags",
        "/api/blobs/sha256:00",
        "/api/x%2Fy%20z?a=b%20c&d&e=%C3%A9;",
        "/%zz/../a?q=a+b%2B&x=[1]{2}|3",
        "/?a=1&a=2",
    ],
)
async def test_path_and_query_are_sent_as_they_came(upstreams: Upstreams, target: str) -> None:
    ollama = await upstreams.answering(EMPTY)
    await fetch(ollama, target)
    assert upstreams.heard[0][0] == f"GET {target} HTTP/1.1"


async def test_an_upstream_may_live_below_a_path(upstreams: Upstreams) -> None:
    ollama = await upstreams.answering(EMPTY, prefix="/ollama/")
    await fetch(ollama, "/api/tags?x=1", method="PROPFIND")
    assert upstreams.heard[0][0] == "PROPFIND /ollama/api/tags?x=1 HTTP/1.1"


async def test_headers_are_sent_as_they_came_and_only_the_host_is_added(
    upstreams: Upstreams,
) -> None:
    ollama = await upstreams.answering(EMPTY)
    given = CIMultiDict({"User-Agent": "curl/8", "X-Odd": "é", "Cookie": "a=1"})
    given.add("X-Twice", "1")
    given.add("X-Twice", "2")
    await fetch(ollama, "/", given)
    host = ollama.url.removeprefix("http://")
    assert sorted(upstreams.heard[0][1:]) == sorted(
        [
            f"Host: {host}",
            "User-Agent: curl/8",
            "X-Odd: é".encode().decode("latin-1"),
            "Cookie: a=1",
            "X-Twice: 1",
            "X-Twice: 2",
        ]
    )


async def test_nothing_is_added_to_a_request_that_says_nothing(upstreams: Upstreams) -> None:
    ollama = await upstreams.answering(EMPTY)
    await fetch(ollama)
    assert [line.partition(":")[0] for line in upstreams.heard[0][1:]] == ["Host"]


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next_request(
    upstreams: Upstreams,
) -> None:
    ollama = await upstreams.answering(reply(b"", headers=b"Set-Cookie: a=1\r\n"))
    await fetch(ollama)
    await fetch(ollama)
    assert not [line for line in upstreams.heard[1] if line.startswith("Cookie")]


async def test_an_upload_is_sent_on_while_it_comes(upstreams: Upstreams) -> None:
    arrived, heard = asyncio.Event(), []

    async def play(conversation: Conversation) -> None:
        heard.extend(await conversation.head())
        for _ in range(2):
            size = int(await conversation.line(), 16)
            heard.append((await conversation.read(size)).decode())
            await conversation.line()
            arrived.set()
        assert await conversation.line() == b"0\r\n"
        await conversation.say(EMPTY)

    async def upload() -> AsyncIterator[bytes]:
        yield b"first"
        await arrived.wait()
        yield b"second"

    ollama = await upstreams.start(play)
    async with (
        asyncio.timeout(LIMIT_S),
        relayed(ollama, "POST", "/api/blobs/x", CIMultiDict(), upload()) as answer,
    ):
        assert answer.status == 200
    assert "Transfer-Encoding: chunked" in heard
    assert heard[-2:] == ["first", "second"]


async def test_an_upload_of_known_length_keeps_its_length(upstreams: Upstreams) -> None:
    heard = []

    async def play(conversation: Conversation) -> None:
        heard.extend(await conversation.head())
        heard.append((await conversation.read(10)).decode())
        await conversation.say(EMPTY)

    async def upload() -> AsyncIterator[bytes]:
        yield b"01234"
        yield b"56789"

    ollama = await upstreams.start(play)
    headers = CIMultiDict({"Content-Length": "10"})
    async with (
        asyncio.timeout(LIMIT_S),
        relayed(ollama, "POST", "/api/blobs/x", headers, upload()) as answer,
    ):
        assert answer.status == 200
    assert heard[-1] == "0123456789"
    assert not [line for line in heard if line.startswith("Transfer-Encoding")]


async def test_a_body_of_bytes_is_sent_whole_and_untyped(upstreams: Upstreams) -> None:
    heard = []

    async def play(conversation: Conversation) -> None:
        heard.extend(await conversation.head())
        heard.append((await conversation.read(2)).decode())
        await conversation.say(EMPTY)

    ollama = await upstreams.start(play)
    async with (
        asyncio.timeout(LIMIT_S),
        relayed(ollama, "POST", "/api/generate", CIMultiDict(), b"{}") as answer,
    ):
        assert answer.status == 200
    assert heard[-1] == "{}"
    assert not [line for line in heard if line.startswith("Content-Type")]


# ------------------------------------------------------------------------------- its answer


async def test_status_reason_and_headers_come_back_without_what_ends_at_the_connection(
    upstreams: Upstreams,
) -> None:
    headers = (
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Odd: yes\r\nServer: them\r\n"
        b"Connection: X-Mine, Keep-Alive\r\nX-Mine: gone\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: X-Later\r\nTE: trailers\r\n"
    )
    ollama = await upstreams.answering(reply(b"tea", "418 I am a teapot", headers))
    status, reason, shown, body = await fetch(ollama)
    assert (status, reason, body) == (418, "I am a teapot", b"tea")
    assert list(shown.items()) == [
        ("Content-Length", "3"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-Odd", "yes"),
        ("Server", "them"),
    ]


async def test_a_chunked_answer_is_no_longer_called_chunked(upstreams: Upstreams) -> None:
    ollama = await upstreams.answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
    )
    _, _, headers, body = await fetch(ollama)
    assert (dict(headers), body) == ({}, b"abc")


async def test_an_encoded_answer_stays_encoded(upstreams: Upstreams) -> None:
    ollama = await upstreams.answering(
        reply(b"\x1f\x8bwhatever", headers=b"Content-Encoding: gzip\r\n")
    )
    _, _, headers, body = await fetch(ollama)
    assert headers["Content-Encoding"] == "gzip"
    assert body == b"\x1f\x8bwhatever"


async def test_a_redirect_is_the_clients_to_follow(upstreams: Upstreams) -> None:
    ollama = await upstreams.answering(reply(b"", "302 Found", b"Location: /elsewhere\r\n"))
    status, _, headers, _ = await fetch(ollama)
    assert (status, headers["Location"]) == (302, "/elsewhere")
    assert len(upstreams.heard) == 1


async def test_a_chunk_is_passed_on_when_it_comes(upstreams: Upstreams) -> None:
    seen = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"a")
        await seen.wait()
        await conversation.say(b"b")

    ollama = await upstreams.start(play)
    got = []
    async with asyncio.timeout(LIMIT_S), relayed(ollama, "GET", "/", CIMultiDict(), None) as answer:
        async for chunk in answer.chunks():
            got.append(chunk)
            seen.set()
    assert got == [b"a", b"b"]


async def test_who_leaves_before_the_end_hangs_up(upstreams: Upstreams) -> None:
    ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"a")
        ended.set_result(await conversation.heard_end())

    ollama = await upstreams.start(play)
    async with asyncio.timeout(LIMIT_S):
        async with relayed(ollama, "GET", "/", CIMultiDict(), None) as answer:
            assert answer.status == 200
        assert await ended


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    ],
    ids=["length", "chunked"],
)
async def test_a_body_that_breaks_off_is_told_from_one_that_ends(
    upstreams: Upstreams, broken: bytes
) -> None:
    ollama = await upstreams.answering(broken)
    async with asyncio.timeout(LIMIT_S), relayed(ollama, "GET", "/", CIMultiDict(), None) as answer:
        assert answer.status == 200
        with pytest.raises(UpstreamBrokenError, match="broke off"):
            assert [chunk async for chunk in answer.chunks()] == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
    ids=["closed", "broken head", "not HTTP"],
)
async def test_no_answer_is_not_an_answer(upstreams: Upstreams, answer: bytes) -> None:
    ollama = await upstreams.answering(answer)
    with pytest.raises(UpstreamGoneError, match="does not answer"):
        await fetch(ollama, method="POST")
    with pytest.raises(UpstreamGoneError):
        await ollama.residents()


async def test_nobody_at_the_address_is_no_answer(
    upstreams: Upstreams, unused_tcp_port: int
) -> None:
    ollama = await upstreams.client(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(UpstreamGoneError, match="does not answer"):
        await fetch(ollama)
    with pytest.raises(UpstreamGoneError):
        await ollama.show("a")


# ------------------------------------------------------------------------------- the gate's own


async def test_an_upstream_that_hangs_is_as_good_as_gone(upstreams: Upstreams) -> None:
    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.heard_end()

    ollama = await upstreams.start(play)
    with pytest.raises(UpstreamGoneError):
        await ollama._ask("GET", "/api/ps", within_s=0.05)


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (reply(b"<html>"), 200, "<html>"),
        (reply(b"", "502 Bad Gateway"), 502, "empty answer"),
        (reply(b"[]"), 200, "[]"),
        (reply(b"[" * 100_000), 200, "[" * 200),
        (reply(b"\xff\xfe"), 200, "\ufffd\ufffd"),
        (reply(b"x", headers=b"Content-Type: text/plain; charset=klingon\r\n"), 200, "x"),
        (as_json({"error": "no such thing"}, "404 Not Found"), 404, "no such thing"),
        (as_json({"error": "out of memory"}), 200, "out of memory"),
        (as_json({"models": []}, "500 Internal Server Error"), 500, '{"models": []}'),
        (as_json({"models": "none"}), 200, "/api/ps gave no list of models"),
        (as_json({"models": ["a"]}), 200, "/api/ps gave no list of models"),
        (reply(b"", "302 Found", b"Location: /elsewhere\r\n"), 302, "empty answer"),
    ],
    ids=[
        "text",
        "nothing",
        "a list",
        "bottomless",
        "not text",
        "odd charset",
        "error",
        "error with 200",
        "500",
        "no list",
        "no records",
        "redirect",
    ],
)
async def test_what_no_ollama_would_say_is_refused_with_its_own_words(
    upstreams: Upstreams, answer: bytes, status: int, text: str
) -> None:
    ollama = await upstreams.answering(answer)
    with pytest.raises(UpstreamRefusedError) as error:
        await ollama.residents()
    assert (error.value.status, error.value.text) == (status, text)


@pytest.mark.parametrize(
    ("answer", "models"),
    [({}, []), ({"models": None}, []), ({"models": [{"name": "a"}]}, [{"name": "a"}])],
)
async def test_residents_and_tags_are_given_as_they_come(
    upstreams: Upstreams, answer: Any, models: Any
) -> None:
    ollama = await upstreams.answering(as_json(answer))
    assert await ollama.residents() == models
    assert await ollama.tags() == models
    assert [heard[0] for heard in upstreams.heard] == [
        "GET /api/ps HTTP/1.1",
        "GET /api/tags HTTP/1.1",
    ]


async def test_a_verbose_show_comes_with_its_lists_and_without_the_vocabulary(
    upstreams: Upstreams,
) -> None:
    said: list[Any] = []

    async def play(conversation: Conversation) -> None:
        head = await conversation.head()
        length = next(line for line in head if line.lower().startswith("content-length"))
        said.append(json.loads(await conversation.read(int(length.partition(":")[2]))))
        info = {"a.heads": [1, 0], "tokenizer.ggml.tokens": ["a", "b"], 'odd "key"': None}
        await conversation.say(as_json({"model_info": info, "parameters": "num_ctx 5"}))

    shown = await (await upstreams.start(play)).show("a", verbose=True)
    assert said == [{"model": "a", "verbose": True}]
    assert shown == {
        "model_info": {"a.heads": [1, 0], 'odd "key"': None},
        "parameters": "num_ctx 5",
    }


@pytest.mark.parametrize("answer", [{"a": 1}, {"model_info": None}, {"model_info": [1]}])
async def test_a_verbose_show_of_an_odd_kind_is_read_as_it_is(
    upstreams: Upstreams, answer: dict[str, Any]
) -> None:
    shown = await (await upstreams.answering(as_json(answer))).show("a", verbose=True)
    assert shown is not None
    assert {"model_info": {}, **answer} in (shown, {"model_info": {}, **shown})


async def test_a_verbose_show_that_is_refused_is_refused(upstreams: Upstreams) -> None:
    for answer in (as_json({"error": "no"}, "500 Oh"), reply(b"{", "500 Oh")):
        with pytest.raises(UpstreamRefusedError) as caught:
            await (await upstreams.answering(answer)).show("a", verbose=True)
        assert caught.value.status == 500


async def test_a_name_that_ollama_does_not_know_shows_nothing(upstreams: Upstreams) -> None:
    unknown = await upstreams.answering(as_json({"error": "model 'a' not found"}, "404 Not Found"))
    assert await unknown.show("a") is None
    known = await upstreams.answering(as_json({"details": {}}))
    assert await known.show("a") == {"details": {}}


async def sent(upstreams: Upstreams, call: Callable[[Ollama], Awaitable[None]]) -> Any:
    """The path and the body that a call sends."""
    heard: list[Any] = []

    async def play(conversation: Conversation) -> None:
        head = await conversation.head()
        lengths = [line for line in head if line.lower().startswith("content-length")]
        body = await conversation.read(int(lengths[0].partition(":")[2]))
        heard.extend((head[0].split()[1], json.loads(body)))
        await conversation.say(as_json({"done": True}))

    await call(await upstreams.start(play))
    return heard


EVERY_OPTION = {
    "num_ctx": 8192,
    "num_batch": 256,
    "num_gpu": 0,
    "main_gpu": 1,
    "use_mmap": False,
    "num_thread": 4,
    "draft_num_predict": 3,
}


@pytest.mark.parametrize(
    ("launch", "embedding", "path", "more"),
    [
        (Launch(), False, "/api/generate", {"stream": False}),
        (
            Launch(**EVERY_OPTION, shift=False, extras=("x",)),  # type: ignore[arg-type]
            False,
            "/api/generate",
            {"stream": False, "shift": False, "options": EVERY_OPTION},
        ),
        (Launch(num_ctx=512, shift=True), True, "/api/embed", {"options": {"num_ctx": 512}}),
    ],
)
async def test_a_load_names_the_options_that_its_runner_is_to_have(
    upstreams: Upstreams, launch: Launch, path: str, more: Mapping[str, Any], *, embedding: bool
) -> None:
    async def load(ollama: Ollama) -> None:
        await ollama.load("a", launch, embedding=embedding, keep_alive="-1s")

    assert await sent(upstreams, load) == [path, {"model": "a", "keep_alive": "-1s", **more}]


async def test_an_unload_is_an_empty_request_that_keeps_nothing_alive(
    upstreams: Upstreams,
) -> None:
    async def unload(ollama: Ollama) -> None:
        await ollama.unload("a")

    assert await sent(upstreams, unload) == ["/api/generate", {"model": "a", "keep_alive": 0}]
