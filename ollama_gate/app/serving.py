"""How requests are served: aiohttp's server below any routing of its own, in Go's words.

What cannot be read as HTTP never reaches an upstream; the words for it are those that Go's
net/http, and so Ollama, would have used. Nothing of the client's bytes is shown or logged.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from multidict import CIMultiDict

from ollama_gate.guard import Headers

MAX_HEADER_BYTES: Final = 2**20
"""Go's HTTP server, and so Ollama, takes as much."""

READ_BYTES: Final = 2**18
"""What may have come of a body and not been taken yet; smaller, and large ones take many turns."""

MAX_HEADERS: Final = 2**14
"""Go counts bytes only."""

CLEANUP_S: Final = 0.5
"""For handlers that were cut off to end. To aiohttp 0 would mean: as long as they like."""

_ADDED_LAST: Final = frozenset({"date", "content-length", "transfer-encoding", "connection"})
"""What Go's server writes behind the headers of a handler, which it sorts."""

HALF_CLOSED_S: Final = 0.1
"""How long who has closed the sending half is answered, who may as well have closed both."""

_NAMED: Final = re.compile(r"b['\"].*:")
"""A line with a name, in what the library shows of one that is no header."""

_REDIRECTIONS: Final = frozenset({HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT})

_silent = logging.getLogger(f"{__name__}.aiohttp")
_silent.disabled = True


class Caller(web.BaseRequest):
    """A request.

    Attributes:
        granted: headers that whatever answers it must have.
    """

    granted: Headers = ()

    async def give_up_if_left(self) -> None:
        """From here on a client that closes even its sending half counts as gone.

        So does Go, for whatever takes long; and most clients that do it have closed both halves.
        """
        if isinstance(self.protocol, _Connection):
            await self.protocol.give_up_if_left()

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Take out what the library adds, put in what a page of another origin must see.

        Ollama sends no `Server`, and no type without a body. Its redirections come before it looks
        at an `Origin`.
        """
        headers = response.headers
        headers.popall("Server", None)
        if not isinstance(response, Untyped):
            for name in ("Date", "Content-Length"):
                headers.extend((name, value) for value in headers.popall(name, ()))
        elif not response.typed:
            headers.popall("Content-Type", None)
        if isinstance(self.protocol, _Connection) and self.protocol.ends:
            response.force_close()
        if self.granted and response.status not in _REDIRECTIONS:
            _merge(headers, self.granted)


Handler = Callable[[Caller], Awaitable[web.StreamResponse]]


class Untyped(web.StreamResponse):
    """An answer to which no content type is to be added.

    Attributes:
        typed: whether it has one of its own.
    """

    typed: bool = False


class _Bare(Untyped):
    """What Go's server says before any handler: bare bytes, and the end of the connection."""

    def __init__(self, raw: str) -> None:
        super().__init__()
        self._raw = raw.encode()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it."""
        if request.transport is not None:
            request.transport.write(self._raw)

    async def write_eof(self, data: bytes = b"") -> None:
        """It has been sent."""


class Refused(_Bare):
    """What is no HTTP, or none that Go's server takes."""

    def __init__(self, status: str, body: str = "") -> None:
        super().__init__(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Connection: close\r\n\r\n{body or status}"
        )


class Unexpected(_Bare):
    """An `Expect` of anything but `100-continue`."""

    def __init__(self) -> None:
        super().__init__(
            "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\n"
            f"Date: {formatdate(usegmt=True)}\r\nContent-Length: 0\r\n\r\n"
        )


class _Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("_gives_up", "_is_half_closed", "_request")

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._gives_up = False
        self._is_half_closed = False
        self._request: Caller | None = None

    def begins(self, request: Caller) -> None:
        """A request's turn has come."""
        self._request = request
        self._gives_up = False

    @property
    def ends(self) -> bool:
        """Whether the answer under way is the last one."""
        return self._is_half_closed and not self._messages

    async def give_up_if_left(self) -> None:
        """Hang up when the client will send nothing any more."""
        self._gives_up = True
        if self._is_half_closed and self.transport is not None:
            self.transport.close()
            await asyncio.Event().wait()  # the end of the connection cancels this

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Stay a little, if a whole request has come that is not answered yet."""
        is_idle = self._waiter is not None and not self._messages
        if is_idle or self._is_cut() or self._gives_up or self.transport is None:
            return None
        self._is_half_closed = True
        asyncio.get_running_loop().call_later(HALF_CLOSED_S, self.transport.close)
        return True

    def _is_cut(self) -> bool:
        """Whether the last request lacks some of its body."""
        if self._messages:
            return not self._messages[-1][1].is_eof()
        return self._request is not None and not self._request.content.is_eof()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, LineTooLong):
            return Refused("431 Request Header Fields Too Large")
        if status == 400:  # noqa: PLR2004  what the library's parser gives
            return _unread(message or "")
        return super().handle_error(request, status, exc, message)


def _unread(message: str) -> Refused:
    """Go's answer to what the library's parser complains of."""
    if "Invalid HTTP version" in message:
        return Refused("505 HTTP Version Not Supported: unsupported protocol version")
    if "invalid `Transfer-Encoding`" in message:
        return Refused("501 Not Implemented", "Unsupported transfer encoding")
    return Refused("400 Bad Request" + _complaint(message))


def _complaint(message: str) -> str:
    """What Go adds, as far as the library's parser tells."""
    if "Missing 'Host'" in message:
        return ": missing required Host header"
    if ("header token" in message or "header name" in message) and _NAMED.search(message):
        return ": invalid header name"
    return ""


class _Server(web.Server):
    """Makes a `_Connection` of each connection and a `Caller` of each request.

    `handler_cancellation` is what ends a handler whose client has gone; bodies are left encoded.
    The library's own log is left out: it prints the bytes of what it cannot parse.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            cast("Any", handler),
            request_factory=_caller,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            logger=_silent,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    def __call__(self) -> web.RequestHandler:
        """A connection's protocol."""
        return _Connection(self, loop=self._loop, **self._kwargs)


def _caller(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> Caller:
    request = Caller(message, payload, protocol, writer, task, asyncio.get_running_loop())
    if isinstance(protocol, _Connection):
        protocol.begins(request)
    return request


def make_runner(handler: Handler) -> web.ServerRunner:
    """The one way this program serves, in production and in tests."""
    return web.ServerRunner(_Server(handler), shutdown_timeout=CLEANUP_S)


def _merge(headers: CIMultiDict[str], granted: Headers) -> None:
    """Put headers where Go's server would have put them."""
    given = list(headers.items())
    own = next(
        (at for at, (name, _) in enumerate(given) if name.lower() in _ADDED_LAST), len(given)
    )
    headers.clear()
    headers.extend(sorted([*given[:own], *granted], key=lambda header: header[0]))
    headers.extend(given[own:])
