"""A load generator lean enough not to be what is measured: a protocol for each connection."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, cast

from bench.rig.messages import Messages

HOST: Final = "127.0.0.1"
OPENING_AT_ONCE: Final = 50
"""Fewer than fit into the smallest backlog among the contenders, or connects would be retried."""


class ExchangeError(Exception):
    """A contender answered something else than 200, or hung up."""


def post(path: str, body: bytes) -> bytes:
    """A request with a JSON body."""
    return (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
    )


def get(path: str) -> bytes:
    """A request without a body."""
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()


def _ignore(_: bytes) -> None:
    pass


class Connection(asyncio.Protocol):
    """A connection that is kept, for one exchange after the other."""

    def __init__(self) -> None:
        self._messages = Messages(self._head, self._body, self._end)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._on_body: Callable[[bytes], None] = _ignore

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._messages.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection closed: {exc}")

    def send(self, request: bytes, on_body: Callable[[bytes], None] = _ignore) -> None:
        """Send a request whose answer's end nobody waits for."""
        self._done = self._loop.create_future()
        self._on_body = on_body
        self._transport.write(request)

    def exchange(
        self, request: bytes, on_body: Callable[[bytes], None] = _ignore
    ) -> asyncio.Future[None]:
        """Send a request.

        Args:
            request: all of it.
            on_body: gets the parts of the answer's body as they come.

        Returns:
            Done when the answer is complete, or with an `ExchangeError`.
        """
        self.send(request, on_body)
        return self._done

    def close(self) -> None:
        """Leave, whatever is under way."""
        self._done.cancel()
        self._transport.abort()

    def _head(self, head: bytes) -> None:
        if head[9:12] != b"200":
            self._fail(head.decode("latin-1"))

    def _body(self, part: bytes) -> None:
        self._on_body(part)

    def _end(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, text: str) -> None:
        if not self._done.done():
            self._done.set_exception(ExchangeError(text))


async def connect(port: int) -> Connection:
    """A new connection."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, HOST, port)
    return connection


@contextlib.asynccontextmanager
async def connections(port: int, count: int = 1) -> AsyncIterator[list[Connection]]:
    """New connections, opened a few at a time; closed with the block, however that ends."""
    opened: list[Connection] = []
    try:
        while len(opened) < count:
            some = min(OPENING_AT_ONCE, count - len(opened))
            opened += await asyncio.gather(*(connect(port) for _ in range(some)))
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def fetch(port: int, request: bytes) -> bytes:
    """One exchange over a connection of its own; returns the body."""
    parts: list[bytes] = []
    async with connections(port) as (connection,):
        await connection.exchange(request, parts.append)
    return b"".join(parts)


async def time_exchanges(
    connection: Connection,
    request: bytes,
    until_ns: int,
    latencies_ns: list[int],
    on_body: Callable[[bytes], None] = _ignore,
) -> None:
    """Repeat a request until an instant of the monotonic clock; at least once."""
    now_ns = time.monotonic_ns()
    while True:
        began_ns = now_ns
        await connection.exchange(request, on_body)
        now_ns = time.monotonic_ns()
        latencies_ns.append(now_ns - began_ns)
        if now_ns >= until_ns:
            return
