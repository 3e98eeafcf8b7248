"""One server, byte for byte: what the link sends, what it makes of answers, when it hangs up."""

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ollama_gate import link as linking
from ollama_gate.errors import UpstreamBrokenError, UpstreamCutError, UpstreamGoneError
from ollama_gate.link import HIGH_WATER_BYTES, MAX_IDLE, Answer, Body, Header, Link
from tests.upstreams import EMPTY, LIMIT_S, Conversation, Play, Upstreams

OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\nhi"
BIG_BYTES = 64 * 2**20
"""More than any kernel keeps for two ends of one connection."""


@contextlib.asynccontextmanager
async def sent(
    link: Link,
    method: str = "GET",
    target: str = "/",
    headers: tuple[Header, ...] = (),
    body: Body = None,
) -> AsyncIterator[Answer]:
    answer = await link.send(method, target, headers, body)
    try:
        yield answer
    finally:
        answer.close()


async def body_of(link: Link, method: str = "GET", body: Body = None) -> bytes:
    async with sent(link, method, body=body) as answer:
        return b"".join([chunk async for chunk in answer.chunks()])


async def until(holds: Callable[[], object]) -> None:
    """Let everything else go on until something holds; five seconds without it are a failure."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0)


def saying(*answers: bytes) -> Play:
    """Answers the requests of one connection, which have no body, one by one; then hangs up."""

    async def play(conversation: Conversation) -> None:
        for answer in answers:
            await conversation.head()
            await conversation.say(answer)

    return play


def saying_for_ever(*answers: bytes) -> Play:
    """The same, but does not hang up."""

    async def play(conversation: Conversation) -> None:
        await saying(*answers)(conversation)
        await conversation.ended()

    return play


def authority(link: Link) -> bytes:
    return link.url.removeprefix("http://").encode()


# ------------------------------------------------------------------------------- a request


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        (None, b"\r\n"),
        (b"", b"Content-Length: 0\r\n\r\n"),
        (b"{}", b"Content-Length: 2\r\n\r\n{}"),
    ],
    ids=["none", "empty", "some"],
)
async def test_a_request_is_what_was_given_and_no_more(
    upstreams: Upstreams, body: bytes | None, rest: bytes
) -> None:
    heard: list[bytes] = []

    async def play(conversation: Conversation) -> None:
        heard.append(await conversation.raw_head())
        heard.append(await conversation.read(len(body or b"")))
        await conversation.say(EMPTY)

    link = await upstreams.link(play)
    headers = ((b"x-lower", b"1"), (b"X-ODD-Case", b"a, b"), (b"x-lower", b"\xe9"))
    async with sent(link, "PoST", "/a%2Fb?c=%zz", headers, body):
        pass
    assert b"".join(heard) == (
        b"PoST /a%2Fb?c=%zz HTTP/1.1\r\nHost: "
        + authority(link)
        + b"\r\nx-lower: 1\r\nX-ODD-Case: a, b\r\nx-lower: \xe9\r\n"
        + rest
    )


async def test_a_body_too_large_for_one_piece_with_its_head_arrives_whole(
    upstreams: Upstreams,
) -> None:
    body = bytes(range(256)) * 1024
    heard: list[bytes] = []

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        heard.append(await conversation.read(len(body)))
        await conversation.say(EMPTY)

    assert await body_of(await upstreams.link(play), "POST", body) == b""
    assert heard == [body]


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"),
        (((b"content-LENGTH", b"4"),), b"abcd"),
        (((b"Content-Length", b"4"), (b"X", b"Transfer-Encoding: chunked")), b"abcd"),
    ],
    ids=["chunked", "of known length", "of known length, and a header that speaks of chunks"],
)
async def test_a_stream_is_framed_as_its_headers_say(
    upstreams: Upstreams, headers: tuple[Header, ...], expected: bytes
) -> None:
    heard: list[bytes] = []

    async def play(conversation: Conversation) -> None:
        heard.append(await conversation.raw_head())
        heard.append(await conversation.read(len(expected)))
        await conversation.say(EMPTY)

    link = await upstreams.link(play)
    async with sent(link, "POST", "/", headers, parts_of(b"abc", b"", b"d")):
        pass
    assert heard[1] == expected
    assert (b"\r\nTransfer-Encoding: chunked\r\n" in heard[0]) is (not headers)


# ------------------------------------------------------------------------------- an answer


async def test_headers_keep_case_order_and_bytes(upstreams: Upstreams) -> None:
    link = await upstreams.link(
        saying(
            b"HTTP/1.1 299 Odd  one\r\nx-b: 2\r\nX-A: \xe9\r\nx-B:  3\r\nContent-Length: 0\r\n\r\n"
        )
    )
    async with sent(link) as answer:
        assert (answer.status, answer.reason) == (299, b"Odd  one")
        assert list(answer.headers) == [
            (b"x-b", b"2"),
            (b"X-A", b"\xe9"),
            (b"x-B", b"3"),
            (b"Content-Length", b"0"),
        ]


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("GET", TWO),
        ("GET", EMPTY),
        ("GET", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        ("GET", OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Late: 1\r\n\r\n"),
        ("HEAD", OK + b"Content-Length: 17\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"),
    ],
    ids=["length", "empty", "chunked", "trailers", "HEAD", "204", "304", "1.0 kept"],
)
async def test_a_connection_serves_again_after(
    upstreams: Upstreams, method: str, first: bytes
) -> None:
    link = await upstreams.link(saying_for_ever(first, TWO, first, TWO))
    for _ in range(2):
        await body_of(link, method)
        assert await body_of(link) == b"hi"
    assert upstreams.connections == 1


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na", b"a"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
        (b"HTTP/1.0 200 OK\r\n\r\nall there is", b"all there is"),
        (OK + b"\r\nall there is", b"all there is"),
        (OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a"),
        (TWO + TWO, b"hi"),
        (TWO + b"garbage", b"hi"),
    ],
    ids=["close", "1.0", "1.0 to the end", "1.1 to the end", "chunked", "two answers", "garbage"],
)
async def test_a_connection_does_not_serve_again_after(
    upstreams: Upstreams, first: bytes, body: bytes
) -> None:
    async def play(conversation: Conversation) -> None:
        await saying(TWO if conversation.number else first)(conversation)

    link = await upstreams.link(play)
    assert await body_of(link) == body
    assert await body_of(link) == b"hi"
    assert upstreams.connections == 2


async def test_a_body_that_answers_head_is_nobodys(upstreams: Upstreams) -> None:
    async def play(conversation: Conversation) -> None:
        await saying(TWO)(conversation)

    link = await upstreams.link(play)
    assert await body_of(link, "HEAD") == b""
    assert await body_of(link) == b"hi"


async def test_interim_answers_are_told_from_the_answer(upstreams: Upstreams) -> None:
    asked: list[str] = []
    interim = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n"
    )
    link = await upstreams.link(saying(interim + TWO))
    answer = await link.send(
        "POST", "/", body=parts_of(b"a"), on_continue=lambda: asked.append("continue")
    )
    assert (answer.status, answer.reason) == (200, b"OK")
    assert list(answer.headers) == [(b"Content-Length", b"2")]
    assert await answer.read() == b"hi"
    answer.close()
    assert asked == ["continue"]


async def test_an_answer_in_single_bytes_is_the_same_answer(upstreams: Upstreams) -> None:
    whole = OK + b"X-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        for place in range(len(whole)):
            await conversation.say(whole[place : place + 1])
            await asyncio.sleep(0)

    link = await upstreams.link(play)
    async with sent(link) as answer:
        assert (answer.reason, answer.headers[0]) == (b"OK", (b"X-A", b"b"))
        assert b"".join([chunk async for chunk in answer.chunks()]) == b"abc"
        assert len(answer.headers) == 2, "a trailer is no header"


async def test_what_has_arrived_can_be_had_without_waiting(upstreams: Upstreams) -> None:
    more = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(OK + b"Content-Length: 3\r\n\r\na")
        await more.wait()
        await conversation.say(b"bc")
        await conversation.ended()

    link = await upstreams.link(play)
    async with sent(link) as answer:
        assert await answer.read() == b"a"
        assert (answer.ready(), answer.waiting, answer.complete) == (b"", False, False)
        more.set()
        assert await answer.read() == b"bc"
        assert (await answer.read(), answer.complete) == (b"", True)
        assert await answer.read() == b"", "the end stays the end"


# ------------------------------------------------------------------------------- no answer


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Length: 1\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"No colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=[
        "nothing",
        "cut in its first line",
        "cut in its head",
        "another protocol",
        "less than nothing",
        "two lengths",
        "length and chunks",
        "no header",
        "another protocol from here on",
        "only an interim one",
        "TLS",
    ],
)
async def test_what_is_no_answer_is_none(upstreams: Upstreams, answer: bytes) -> None:
    link = await upstreams.link(saying(answer))
    with pytest.raises(UpstreamGoneError, match="does not answer"):
        await link.send("GET", "/")


async def test_nobody_at_the_address_is_no_answer(
    upstreams: Upstreams, unused_tcp_port: int
) -> None:
    link = upstreams.linked(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(UpstreamGoneError, match=rf"127\.0\.0\.1:{unused_tcp_port} does not answer"):
        await link.send("GET", "/")


async def test_an_address_that_takes_too_long_is_no_answer(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    link = upstreams.linked("http://127.0.0.1:1")
    monkeypatch.setattr(linking, "CONNECT_S", 0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(UpstreamGoneError, match="no connection in time"):
        await link.send("GET", "/")


# ------------------------------------------------------------------------------- broken off


BROKEN = {
    "length": OK + b"Content-Length: 100\r\n\r\nfirst",
    "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
    "in a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\nfirst",
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nzz\r\n",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_what_came_of_a_broken_body_is_handed_out_first(
    upstreams: Upstreams, broken: bytes
) -> None:
    link = await upstreams.link(saying(broken))
    async with sent(link) as answer:
        assert await answer.read() == b"first"
        for _ in range(2):
            with pytest.raises(UpstreamBrokenError, match="broke off") as error:
                await answer.read()
            assert not isinstance(error.value, UpstreamCutError)


class Failing(asyncio.Event):
    """A server that says the head and the first bytes, and after this is set does something."""

    def __init__(self, head: bytes, then: Callable[[Conversation], None]) -> None:
        super().__init__()
        self._head, self._then = head, then

    async def play(self, conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(self._head + b"\r\nfirst")
        await self.wait()
        self._then(conversation)


async def test_a_body_to_the_end_is_not_whole_if_its_end_is_a_failure(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Conversation) -> None:
        (connection,) = link._open
        connection.connection_lost(ConnectionResetError("reset by peer"))

    failing = Failing(OK, fail)
    link = await upstreams.link(failing.play)
    async with sent(link) as answer:
        assert await answer.read() == b"first"
        failing.set()
        with pytest.raises(UpstreamBrokenError, match="reset by peer"):
            await answer.read()


@pytest.mark.parametrize(
    "head",
    [OK + b"Transfer-Encoding: chunked\r\n", OK + b"Content-Length: 9\r\n", OK],
    ids=["chunked", "length", "to the end"],
)
@pytest.mark.parametrize("reading", [True, False], ids=["while it is read", "while it is not"])
async def test_who_reads_an_answer_that_the_gate_cut_off_hears_why(
    upstreams: Upstreams, head: bytes, *, reading: bool
) -> None:
    first = b"first" if b"chunked" not in head else b"5\r\nfirst\r\n"
    ended = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(head + b"\r\n" + first)
        await conversation.ended()
        ended.set()

    link = await upstreams.link(play)
    async with sent(link) as answer:
        assert await answer.read() == b"first"
        waiting = asyncio.create_task(answer.read()) if reading else None
        await asyncio.sleep(0)
        answer.cut("it took too long")
        await ended.wait()
        with pytest.raises(UpstreamCutError, match="it took too long"):
            await (waiting or answer.read())


async def test_what_is_complete_is_not_cut(upstreams: Upstreams) -> None:
    link = await upstreams.link(saying_for_ever(TWO, TWO))
    async with sent(link) as answer:
        await until(lambda: answer.complete)
        answer.cut("too late")
        assert await answer.read() == b"hi"
        assert await answer.read() == b""
    assert await body_of(link) == b"hi"
    assert upstreams.connections == 1


# ------------------------------------------------------------------------------- hanging up


class Listening:
    """A server that says something and then listens for the end."""

    def __init__(self, *says: bytes) -> None:
        self._says = says
        self.asked, self.ended = asyncio.Event(), asyncio.Event()

    async def play(self, conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(*self._says)
        self.asked.set()
        await conversation.ended()
        self.ended.set()


async def test_closing_an_unread_answer_hangs_up(upstreams: Upstreams) -> None:
    server = Listening(OK + b"Content-Length: 9\r\n\r\nfirst")
    link = await upstreams.link(server.play)
    async with sent(link) as answer:
        assert answer.status == 200
    await server.ended.wait()
    answer.close()


async def test_who_stops_waiting_for_the_head_hangs_up(upstreams: Upstreams) -> None:
    server = Listening()
    link = await upstreams.link(server.play)
    waiting = asyncio.create_task(link.send("GET", "/"))
    await server.asked.wait()
    waiting.cancel()
    await server.ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_stops_reading_may_read_on(upstreams: Upstreams) -> None:
    server = Listening(OK + b"Content-Length: 9\r\n\r\nfirst")
    link = await upstreams.link(server.play)
    async with sent(link) as answer:
        assert await answer.read() == b"first"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await answer.read()
        assert not server.ended.is_set()
    await server.ended.wait()


async def test_closing_the_link_hangs_up_on_everyone(upstreams: Upstreams) -> None:
    server = Listening(OK + b"Content-Length: 9\r\n\r\nfirst")
    link = await upstreams.link(server.play)
    async with sent(link) as answer:
        link.close()
        await server.ended.wait()
        assert await answer.read() == b"first"
        with pytest.raises(UpstreamBrokenError):
            await answer.read()
    await until(lambda: not link._open)


# ------------------------------------------------------------------------------- connections


async def test_no_more_connections_are_made_than_are_needed_at_once(upstreams: Upstreams) -> None:
    link = await upstreams.link(saying_for_ever(*[TWO] * 5))
    for _ in range(5):
        assert await asyncio.gather(*(body_of(link) for _ in range(3))) == [b"hi"] * 3
    assert upstreams.connections == 3


async def test_idle_connections_are_bounded(upstreams: Upstreams) -> None:
    ended: list[int] = []
    closed, everyone = asyncio.Event(), asyncio.Event()
    asked = 0

    async def play(conversation: Conversation) -> None:
        nonlocal asked
        await conversation.head()
        asked += 1
        if asked == MAX_IDLE + 3:
            everyone.set()
        await everyone.wait()
        await conversation.say(TWO)
        await conversation.ended()
        ended.append(conversation.number)
        if len(ended) == 3:
            closed.set()

    link = await upstreams.link(play)
    await asyncio.gather(*(body_of(link) for _ in range(MAX_IDLE + 3)))
    await closed.wait()
    assert len(link._idle) == MAX_IDLE
    assert len(ended) == 3


@pytest.mark.parametrize("unasked", [b"", TWO, b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"?"])
async def test_a_connection_on_which_something_comes_unasked_is_not_used_again(
    upstreams: Upstreams, unasked: bytes
) -> None:
    go_on = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(TWO)
        if conversation.number == 0:
            await go_on.wait()
            await conversation.say(unasked)

    link = await upstreams.link(play)
    assert await body_of(link) == b"hi"
    go_on.set()
    await until(lambda: not link._idle)
    assert await body_of(link) == b"hi"
    assert upstreams.connections == 2


class Stale:
    """Ends its first connection when a second request comes on it, as if it had before."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def play(self, conversation: Conversation) -> None:
        await conversation.head()
        if conversation.number == 0:
            await conversation.say(TWO)
            await conversation.head()
            self.bodies.append(await conversation.read(4))
            conversation.reset()
        else:
            self.bodies.append(await conversation.read(4))
            await conversation.say(TWO)


async def test_a_body_at_hand_is_sent_once_more_where_the_connection_was_stale(
    upstreams: Upstreams,
) -> None:
    server = Stale()
    link = await upstreams.link(server.play)
    assert await body_of(link) == b"hi"
    assert await body_of(link, "POST", b"body") == b"hi"
    assert server.bodies == [b"body", b"body"]


async def test_a_new_connection_that_gives_no_answer_is_not_tried_twice(
    upstreams: Upstreams,
) -> None:
    link = await upstreams.link(saying(b""))
    with pytest.raises(UpstreamGoneError):
        await body_of(link, "POST", b"body")
    assert upstreams.connections == 1


async def test_a_stream_is_sent_on_a_new_connection_and_never_twice(upstreams: Upstreams) -> None:
    async def play(conversation: Conversation) -> None:
        await conversation.head()
        if conversation.number == 0:
            await conversation.say(TWO)
            await conversation.ended()
        # The others are hung up on.

    link = await upstreams.link(play)
    assert await body_of(link) == b"hi"
    with pytest.raises(UpstreamGoneError):
        await body_of(link, "POST", parts_of(b"body"))
    assert upstreams.connections == 2


async def test_a_large_answer_that_nobody_took_blocks_no_later_one(upstreams: Upstreams) -> None:
    large = HIGH_WATER_BYTES + 2**16
    head = OK + b"Content-Length: %d\r\n\r\n" % large

    async def play(conversation: Conversation) -> None:
        first = TWO if conversation.number else head + bytes(large)
        await saying_for_ever(first, TWO)(conversation)

    link = await upstreams.link(play)
    async with sent(link) as answer:
        (connection,) = link._open
        while not answer.complete:
            await until(lambda: connection._paused or answer.complete)
            if not answer.complete:
                answer.ready()
        assert connection._paused
    async with asyncio.timeout(LIMIT_S):
        assert await body_of(link) == b"hi"


# ------------------------------------------------------------------------------- back-pressure


async def test_a_server_is_made_to_wait_for_who_does_not_read(upstreams: Upstreams) -> None:
    said = 0

    async def play(conversation: Conversation) -> None:
        nonlocal said
        await conversation.head()
        await conversation.say(OK + b"Content-Length: %d\r\n\r\n" % BIG_BYTES)
        for _ in range(BIG_BYTES // 2**16):
            await conversation.say(bytes(2**16))
            said += 2**16

    link = await upstreams.link(play)
    async with sent(link) as answer:
        (connection,) = link._open
        await until(lambda: connection._paused)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert connection._buffered < HIGH_WATER_BYTES + 2**20
        assert said < BIG_BYTES, "the server was not made to wait"
        got = 0
        async for chunk in answer.chunks():
            got += len(chunk)
            assert connection._buffered < HIGH_WATER_BYTES + 2**20
    assert got == BIG_BYTES


class Upload:
    """A stream of 64 MiB; counts what was taken of it."""

    def __init__(self) -> None:
        self.pulled = 0

    async def parts(self) -> AsyncIterator[bytes]:
        part = bytes(2**16)
        for _ in range(BIG_BYTES // len(part)):
            self.pulled += len(part)
            yield part
            await asyncio.sleep(0)


async def test_an_upload_waits_for_a_server_that_does_not_read(upstreams: Upstreams) -> None:
    go_on = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await go_on.wait()
        left = BIG_BYTES
        while left:
            left -= len(await conversation.read(min(left, 2**16)))
        await conversation.say(EMPTY)

    link, upload = await upstreams.link(play), Upload()
    headers = ((b"Content-Length", b"%d" % BIG_BYTES),)
    sending = asyncio.create_task(link.send("POST", "/", headers, upload.parts()))
    await until(lambda: link._open)
    (connection,) = link._open
    await until(lambda: connection._writable)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert upload.pulled < BIG_BYTES // 2
    go_on.set()
    answer = await sending
    answer.close()
    assert (answer.status, upload.pulled) == (200, BIG_BYTES)


async def test_an_answer_before_the_end_of_an_upload_ends_it(upstreams: Upstreams) -> None:
    ended = asyncio.Event()

    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
        await conversation.ended()
        ended.set()

    more = asyncio.Event()
    closed: list[str] = []

    async def upload() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await more.wait()
        finally:
            closed.append("closed")

    link = await upstreams.link(play)
    async with sent(link, "POST", "/", body=upload()) as answer:
        assert (answer.status, await answer.read(), await answer.read()) == (400, b"no", b"")
    await ended.wait()
    assert closed == ["closed"]


async def test_an_upload_to_a_server_that_dies_is_not_read_to_its_end(
    upstreams: Upstreams,
) -> None:
    async def play(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.read(2**20)
        conversation.reset()

    link, upload = await upstreams.link(play), Upload()
    with pytest.raises(UpstreamGoneError):
        await link.send("POST", "/", (), upload.parts())
    pulled = upload.pulled
    for _ in range(10):
        await asyncio.sleep(0)
    assert upload.pulled == pulled < BIG_BYTES


async def test_an_upload_that_breaks_off_breaks_its_request_off(upstreams: Upstreams) -> None:
    server = Listening()

    async def upload() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("the client left")

    link = await upstreams.link(server.play)
    with pytest.raises(UpstreamGoneError, match="the client left"):
        await link.send("POST", "/", body=upload())
    await server.ended.wait()


async def test_an_upload_that_breaks_off_does_not_make_an_answer_whole(
    upstreams: Upstreams,
) -> None:
    server = Listening(OK + b"\r\nfirst")
    broken = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield b"a"
        await broken.wait()
        raise OSError("the client left")

    link = await upstreams.link(server.play)
    async with sent(link, "POST", "/", body=upload()) as answer:
        assert await answer.read() == b"first"
        broken.set()
        await server.ended.wait()
        with pytest.raises(UpstreamBrokenError, match="the client left"):
            await answer.read()


# ------------------------------------------------------------------------------- TLS


@pytest.fixture
async def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, its key behind it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("nothing here makes certificates")
    key, own, both = (tmp_path / name for name in ("key", "own", "both"))
    making = await asyncio.create_subprocess_exec(
        *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(key), "-out", str(own)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    both.write_bytes(own.read_bytes() + key.read_bytes())
    return both


@pytest.mark.parametrize("trusted", [True, False])
async def test_an_upstream_may_speak_tls(
    upstreams: Upstreams,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trusted: bool,
) -> None:
    ours = ssl.create_default_context(cafile=certificate if trusted else None)
    monkeypatch.setattr(ssl, "create_default_context", lambda: ours)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(TWO)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=theirs)
    async with server:
        link = upstreams.linked(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        if trusted:
            assert [await body_of(link) for _ in range(2)] == [b"hi", b"hi"]
        else:
            with pytest.raises(UpstreamGoneError, match="certificate"):
                await body_of(link)
        link.close()


# ------------------------------------------------------------------------------- the host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:{}", "127.0.0.1:{}"),
        ("http://localhost:{}/", "localhost:{}"),
        ("http://[::1]:{}/below", "[::1]:{}"),
    ],
)
async def test_the_host_is_named_as_it_was_configured(
    upstreams: Upstreams, url: str, host: str
) -> None:
    heard: list[str] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(TWO)
        writer.close()

    family = socket.AF_INET6 if "[" in url else socket.AF_INET
    try:
        server = await asyncio.start_server(connected, "::1" if "[" in url else "127.0.0.1", 0)
    except OSError:
        pytest.skip(f"no {family.name} here")
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await body_of(upstreams.linked(url.format(port))) == b"hi"
    assert f"Host: {host.format(port)}\r\n" in heard[0]
