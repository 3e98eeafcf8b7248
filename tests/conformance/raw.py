"""A small HTTP/1.1 client that hides nothing: what is sent is sent, what comes is kept as it came.

Header order and case, duplicates, interim answers, framing, trailers and the times at which the
pieces of a body arrived are all in a `Reply`. It follows no redirect, decodes no body, keeps no
pool and repairs nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

_PIECE_BYTES = 65536
_HEAD_END = b"\r\n\r\n"
_BODILESS = frozenset({204, 304})
WAIT_FOR_100_S = 10.0
"""How long a client that expects a 100 holds its body back; then it is noted that none came."""


class Framing(Enum):
    """How the end of a body is told."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class BrokenError(Exception):
    """The answer did not come, or not to its end; the text says how far it came."""


@dataclass(slots=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        interim: statuses of the 1xx answers before it.
        withheld: whether the body was kept back and nobody asked for it.
        arrivals: seconds since the request was sent, one for each piece of the body read.
        broken: empty, or how the answer ended before its end.
        left: whether this client hung up before the end.
    """

    version: str = ""
    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    framing: Framing = Framing.NONE
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: tuple[int, ...] = ()
    withheld: bool = False
    arrivals: list[float] = field(default_factory=list)
    broken: str = ""
    left: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A request as bytes.

    Attributes:
        head: request line and headers with the empty line, or the whole request.
        body: what follows it, framing included.
        answers_head: whether the answer has no body because HEAD was asked.
    """

    head: bytes
    body: bytes = b""
    answers_head: bool = False
    waits_for_100: bool = False
    leaves_after: int = 0
    half_closes: bool = False


class Connection:
    """One TCP connection; use with `async with`."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._buffer = bytearray()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._sending: asyncio.Task[None] | None = None
        self._sent_at = 0.0

    async def __aenter__(self) -> Self:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up, whatever is under way."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        if self._writer is not None:
            self._writer.transport.abort()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def exchange(self, wire: Wire) -> Reply:
        """Send one request and read its answer, to the end or to where the request leaves."""
        reply = Reply()
        try:
            if wire.waits_for_100:
                await self._send_when_asked(wire, reply)
            else:
                self.send(wire)
            if wire.leaves_after < 0:
                await self._flushed()
                reply.left = True
                return reply
            await self.receive(wire, reply)
        except (OSError, asyncio.IncompleteReadError, BrokenError, ValueError) as error:
            reply.broken = _told(error)
        return reply

    def send(self, wire: Wire) -> None:
        """Begin to send; a large body goes out while the answer is being read."""
        self._sent_at = time.monotonic()
        self._sending = asyncio.ensure_future(self._write(wire.head + wire.body, wire.half_closes))

    async def receive(self, wire: Wire, reply: Reply) -> None:
        """Read one answer into `reply`.

        Raises:
            BrokenError: it ended before its end.
            OSError: the connection broke.
            ValueError: it is not HTTP.
        """
        if not reply.status:
            await self._read_head(reply)
        await self._read_body(reply, wire)

    async def _flushed(self) -> None:
        if self._sending is not None:
            await self._sending

    async def _write(self, data: bytes, half_closes: bool) -> None:
        assert self._writer is not None
        with contextlib.suppress(OSError):  # an early answer may close it; that is read, not sent
            self._writer.write(data)
            await self._writer.drain()
            if half_closes:
                self._writer.write_eof()

    async def _send_when_asked(self, wire: Wire, reply: Reply) -> None:
        self._sent_at = time.monotonic()
        await self._write(wire.head, half_closes=False)
        try:
            async with asyncio.timeout(WAIT_FOR_100_S):
                status = await self._read_one_head(reply)
        except TimeoutError:
            reply.withheld = True
        else:
            if status != 100:
                reply.withheld = True
                return
            reply.interim += (status,)
        self._sending = asyncio.ensure_future(self._write(wire.body, wire.half_closes))

    # ---------------------------------------------------------------- heads

    async def _read_head(self, reply: Reply) -> None:
        while (status := await self._read_one_head(reply)) < 200:
            reply.interim += (status,)

    async def _read_one_head(self, reply: Reply) -> int:
        """Read one head; a final one is noted in the reply."""
        raw = await self._until(_HEAD_END)
        first, *lines = raw.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/") or not code.isdecimal():
            raise BrokenError(f"expected a status line, found {first[:60]!r}")
        status = int(code)
        if status >= 200:
            reply.version, reply.status, reply.reason = version, status, reason
            reply.headers = [_field(line) for line in lines]
        return status

    # ---------------------------------------------------------------- bodies

    async def _read_body(self, reply: Reply, wire: Wire) -> None:
        reply.framing = _framing(reply, answers_head=wire.answers_head)
        left = _leaver(reply, wire.leaves_after)
        if left():
            return
        match reply.framing:
            case Framing.NONE:
                pass
            case Framing.LENGTH:
                length = int(reply.header("Content-Length") or 0)
                await self._take(length, reply, left)
            case Framing.CHUNKED:
                await self._read_chunks(reply, left)
            case Framing.CLOSE:
                while not left() and (self._buffer or await self._more()):
                    self._keep(len(self._buffer), reply)

    async def _read_chunks(self, reply: Reply, left: Callable[[], bool]) -> None:
        while not left():
            line = await self._until(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                break
            await self._take(size, reply, left)
            if reply.left:
                return
            if await self._until(b"\r\n"):
                raise BrokenError("a chunk is longer than it says")
        while not reply.left and (line := await self._until(b"\r\n")):
            reply.trailers.append(_field(line.decode("latin-1")))

    async def _take(self, length: int, reply: Reply, left: Callable[[], bool]) -> None:
        while length > 0 and not left():
            if not self._buffer and not await self._more():
                raise BrokenError(f"the body ended {length} bytes early")
            length -= self._keep(length, reply)

    def _keep(self, most: int, reply: Reply) -> int:
        piece = bytes(self._buffer[:most])
        del self._buffer[:most]
        reply.body += piece
        at = self._arrived_at - self._sent_at
        if not reply.arrivals or reply.arrivals[-1] != at:
            reply.arrivals.append(at)
        return len(piece)

    _arrived_at = 0.0

    async def _until(self, end: bytes) -> bytes:
        """What comes before `end`, which is taken too."""
        while (at := self._buffer.find(end)) < 0:
            if not await self._more():
                found = bytes(self._buffer[:60])
                raise BrokenError(f"the connection ended, having said {found!r}")
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return taken

    async def _more(self) -> bool:
        assert self._reader is not None
        data = await self._reader.read(_PIECE_BYTES)
        self._arrived_at = time.monotonic()
        self._buffer += data
        return bool(data)


async def converse(host: str, port: int, wires: list[Wire], *, pipelined: bool) -> list[Reply]:
    """Several requests on one connection; after a broken answer the rest is not asked."""
    replies: list[Reply] = []
    async with Connection(host, port) as connection:
        if pipelined:
            joined = b"".join(wire.head + wire.body for wire in wires)
            connection.send(Wire(head=joined, half_closes=wires[-1].half_closes))
        for wire in wires:
            if pipelined:
                reply = Reply()
                try:
                    await connection.receive(wire, reply)
                except (OSError, BrokenError, ValueError) as error:
                    reply.broken = _told(error)
            else:
                reply = await connection.exchange(wire)
            replies.append(reply)
            if reply.broken:
                break
    return replies


def _framing(reply: Reply, *, answers_head: bool) -> Framing:
    if answers_head or reply.status in _BODILESS:
        return Framing.NONE
    if (reply.header("Transfer-Encoding") or "").lower() == "chunked":
        return Framing.CHUNKED
    return Framing.LENGTH if reply.header("Content-Length") is not None else Framing.CLOSE


def _leaver(reply: Reply, leaves_after: int) -> Callable[[], bool]:
    def left() -> bool:
        reply.left = 0 < leaves_after <= len(reply.arrivals)
        return reply.left

    return left


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


def _told(error: Exception) -> str:
    """How it broke, in words that do not differ by an address or a port."""
    return str(error) if isinstance(error, BrokenError) else type(error).__name__
