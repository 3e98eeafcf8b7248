"""HTTP/1.1 to one server: bytes out, an answer back unread, as fast as it comes.

The client half of a relay is where a general HTTP client costs most, and it must alter nothing:
header names keep their case and order, a body is not decoded, what has arrived is handed on at
once. What a request means, and whether it may be sent, is not known here.

An exchange owns its connection until the answer has been read to its end; then the connection
waits for the next one. Whoever closes an unread answer closes its connection.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Final, cast

import httptools
from yarl import URL

from ollama_gate.errors import UpstreamBrokenError, UpstreamCutError, UpstreamGoneError

Header = tuple[bytes, bytes]
Body = bytes | AsyncIterator[bytes] | None

CONNECT_S: Final = 10.0

MAX_IDLE: Final = 128
"""Connections that wait for the next exchange; any more are closed."""

STALE_S: Final = 0.25
"""What ends later than this was no connection that had been closed before; its request may have
been taken."""

HIGH_WATER_BYTES: Final = 256 * 2**10
"""What may have arrived and not been taken yet; then the server is made to wait."""

JOINED_BYTES: Final = 16 * 2**10
"""A body up to this size is sent in one piece with its head."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""Seconds of silence, seconds between probes, probes: a load may be silent for minutes, and only
the kernel can tell whether the host is still there."""

_NO_BODY: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_FINAL: Final = 200


class Answer:
    """An answer whose body is still on its way.

    Attributes:
        status: never an interim one.
        reason: the words behind it.
        headers: as they came, in order, names in the server's spelling.
    """

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self.status = connection.status
        self.reason = connection.reason
        self.headers: Sequence[Header] = connection.headers

    @property
    def complete(self) -> bool:
        """Whether the last byte has arrived, read or not."""
        return self._connection.complete

    @property
    def closes(self) -> bool:
        """Whether the server says that it will hear no other request on its connection."""
        return any(
            name.lower() == b"connection" and b"close" in value.lower()
            for name, value in self.headers
        )

    @property
    def waiting(self) -> bool:
        """Whether something has arrived and not been taken yet."""
        return self._connection.waiting

    def ready(self) -> bytes:
        """What has arrived and not been taken yet, possibly nothing."""
        return self._connection.take()

    async def read(self) -> bytes:
        """What has arrived since the last call, at least a byte; `b""` at the end.

        Raises:
            UpstreamBrokenError: the body broke off; what came before has been handed out.
        """
        return await self._connection.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises as `read` does."""
        while chunk := await self._connection.read():
            yield chunk

    def cut(self, why: str) -> None:
        """Let whoever reads it get no more than has arrived; `UpstreamCutError` says why."""
        self._connection.cut(why)

    def close(self) -> None:
        """Have done with it: hang up unless it was read to its end. More calls do nothing."""
        self._connection.leave()


class Link:
    """The connections to one server, told by its base URL. Use it on one event loop only."""

    def __init__(self, url: str) -> None:
        parsed = URL(url)
        self.url = url.rstrip("/")
        self._host = parsed.host or ""
        self._port = parsed.port or 80
        self._tls = ssl.create_default_context() if parsed.scheme == "https" else None
        self._prefix = parsed.raw_path.rstrip("/").encode()
        # As a client would write it, less the scheme's own port.
        self._authority = (parsed.host_port_subcomponent or "").encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    def close(self) -> None:
        """Drop every connection."""
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()

    async def send(
        self,
        method: str,
        target: str,
        headers: Iterable[Header] = (),
        body: Body = None,
        *,
        on_continue: Callable[[], None] | None = None,
        fresh: bool = False,
    ) -> Answer:
        """Send a request; returns once the answer's head is there.

        A connection that had been idle may have been closed at the other end in this instant: if
        no byte of an answer came, and it ended at once, a body at hand is sent once more, on a new
        connection.

        Args:
            method: as it is to be sent.
            target: path and query, as they are to be sent.
            headers: less `Host`, `Content-Length` of a body at hand, and `Transfer-Encoding`.
            body: the bytes at hand, or a stream of them, or none. A stream without a
                `Content-Length` is sent in chunks, and need not be read to its end.
            on_continue: told when the server asks for the body (`100 Continue`).
            fresh: on a new connection, and so no more than once.

        Raises:
            UpstreamGoneError: no answer; nothing was received of it.
        """
        head = self._head(method, target, headers, body)
        streamed = not isinstance(body, bytes | None)
        connection = None if streamed or fresh else self._idle_one()
        if connection is not None:
            until = asyncio.get_running_loop().time() + STALE_S
            try:
                return await self._exchange(connection, method, head, body, on_continue)
            except UpstreamGoneError:
                if connection.heard or asyncio.get_running_loop().time() > until:
                    raise
        connection = await self._connect()
        return await self._exchange(connection, method, head, body, on_continue)

    async def _exchange(
        self,
        connection: "_Connection",
        method: str,
        head: bytes,
        body: Body,
        on_continue: Callable[[], None] | None,
    ) -> Answer:
        try:
            connection.begin(method, head, body, on_continue)
            await connection.head()
        except UpstreamBrokenError as error:
            connection.leave()
            raise UpstreamGoneError(f"{self.url} does not answer: {error}") from error
        except BaseException:
            connection.leave()
            raise
        return Answer(connection)

    def _head(self, method: str, target: str, headers: Iterable[Header], body: Body) -> bytes:
        lines = [
            b"%b %b%b HTTP/1.1\r\nHost: %b"
            % (
                method.encode("ascii", "surrogateescape"),
                self._prefix,
                target.encode("utf-8", "surrogateescape"),
                self._authority,
            )
        ]
        lengths = [b"%b: %b" % header for header in headers]
        lines += lengths
        match body:
            case None:
                pass
            case bytes():
                lines.append(b"Content-Length: %d" % len(body))
            case _:
                if not any(line[:15].lower() == b"content-length:" for line in lengths):
                    lines.append(b"Transfer-Encoding: chunked")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    # ---------------------------------------------------------------- connections

    def _idle_one(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, protocol = await loop.create_connection(
                    lambda: _Connection(self._ended), self._host, self._port, ssl=self._tls
                )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            words = str(error) or "no connection in time"
            raise UpstreamGoneError(f"{self.url} does not answer: {words}") from error
        _probe(transport)
        self._open.add(protocol)
        return protocol

    def _ended(self, connection: "_Connection") -> None:
        """An exchange is over, or the connection is."""
        if not connection.usable:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        elif len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()


def _probe(transport: asyncio.Transport) -> None:
    made = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            made.setsockopt(socket.IPPROTO_TCP, option, value)


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that it is in.

    Args:
        ended: told when it can be used again, and when it never can.
    """

    def __init__(self, ended: Callable[["_Connection"], None]) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._busy = False
        self._lost: str | None = None
        self._cut: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._reset("", None)

    def _reset(self, method: str, on_continue: Callable[[], None] | None) -> None:
        self._method = method
        self._on_continue = on_continue
        self._parts: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self.heard = False
        self._headed = False
        self._framed = False
        self._keeps = False
        self.complete = False
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin."""
        return self._lost is None and not self._busy

    @property
    def waiting(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._parts)

    # ---------------------------------------------------------------- what an exchange asks

    def begin(
        self, method: str, head: bytes, body: Body, on_continue: Callable[[], None] | None
    ) -> None:
        """Send a request, or begin to."""
        self._busy = True
        self._reset(method, on_continue)
        if self._transport is None:
            return
        if isinstance(body, bytes) and len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
            return
        self._transport.write(head)
        if isinstance(body, bytes):
            self._transport.write(body)
        elif body is not None:
            chunked = head.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
            self._sender = asyncio.create_task(self._send(body, chunked=chunked))

    async def head(self) -> None:
        """Wait for the answer's head; raises `UpstreamBrokenError` when there will be none."""
        while not self._headed:
            if self._lost is not None:
                raise UpstreamBrokenError(self._lost)
            await self._wait()

    def take(self) -> bytes:
        """What has arrived."""
        parts = self._parts
        if not parts:
            return b""
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return taken

    async def read(self) -> bytes:
        """What has arrived, as soon as anything has; `b""` at the end."""
        while not self._parts:
            if self.complete:
                return b""
            if self._cut is not None:
                raise UpstreamCutError(self._cut)
            if self._lost is not None:
                raise UpstreamBrokenError(f"the answer broke off: {self._lost}")
            await self._wait()
        return self.take()

    def leave(self) -> None:
        """End the exchange; the connection is of use again only if nothing is under way."""
        if not self._busy:
            return
        # Who was made to wait would wait for ever.
        stands = self._lost is None and not self._paused
        done = self.complete and stands and self._sender is None
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._busy = False
        self._parts.clear()
        if done and self._keeps:
            if self._method == "HEAD":
                # It expects a body that never comes.
                self._parser = httptools.HttpResponseParser(self)
            self._ended(self)
        else:
            self.abort()

    def cut(self, why: str) -> None:
        """Hang up on an answer that is still coming."""
        if not self.complete:
            self._cut = why
            self.abort()

    def abort(self) -> None:
        """Hang up at once."""
        self._break("closed")
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        assert self._waiter is None, "one reader at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _send(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Send a stream; what goes wrong with it breaks the connection."""
        try:
            async for part in body:
                if part:
                    await self._write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            if chunked:
                await self._write(b"0\r\n\r\n")
            self._sender = None
        except Exception as error:  # noqa: BLE001  the top of a task
            self._sender = None
            self._break(f"the request broke off: {error!r}")
            if self._transport is not None:
                self._transport.abort()

    async def _write(self, part: bytes) -> None:
        if self._transport is not None:
            self._transport.write(part)
        if self._writable is not None:
            await self._writable

    # ---------------------------------------------------------------- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        if not self._busy:
            # Nobody asked; it cannot be told what it belongs to.
            self.abort()
            return
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"not HTTP: {error}")
            if self._transport is not None:
                self._transport.abort()
            return
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's."""
        if self._headed and not self._framed and self._lost is None and exc is None:
            # Its end is the connection's (RFC 9112 §6.3), unless that was a failure.
            self.complete = True
        self._break(str(exc) if exc else "the connection was closed")
        self._transport = None
        self._ended(self)

    def _break(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        """Asyncio's."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Asyncio's."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # ---------------------------------------------------------------- what the parser says

    def on_message_begin(self) -> None:
        """The parser's; what comes behind an answer that nobody asked for is no part of it."""
        if self._headed:
            raise ValueError("more than one answer")

    def on_status(self, reason: bytes) -> None:
        """The parser's; may come in pieces."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's; trailers, which come after the head, are left out."""
        if self._headed:
            return
        self.headers.append((name, value))
        lower = name.lower()
        if lower in {b"content-length", b"transfer-encoding"}:
            self._framed = True

    def on_headers_complete(self) -> None:
        """The parser's."""
        self.status = self._parser.get_status_code()
        # Asked later, it speaks of the answer after this one.
        self._keeps = self._parser.should_keep_alive()
        if self.status >= _FINAL:
            self._headed = True
            if self._method == "HEAD" or self.status in _NO_BODY:
                self.complete = True

    def on_body(self, part: bytes) -> None:
        """The parser's."""
        if self.complete:
            raise ValueError("a body where there is none")
        self._parts.append(part)
        self._buffered += len(part)

    def on_message_complete(self) -> None:
        """The parser's; an interim answer is complete, too."""
        if self.status >= _FINAL:
            self.complete = True
            return
        if self.status == HTTPStatus.CONTINUE and self._on_continue is not None:
            self._on_continue()
        self.reason = b""
        self.headers.clear()
