"""HTTP as Go's net/http speaks it, below any of Ollama's routes; aiohttp moves the bytes.

What no handler sees is here: malformed requests, `*`, paths that are not clean, `Expect`, bodies
that nobody reads, the order of headers (Go 1.26 net/http; told apart with raw sockets).
"""

import asyncio
import html
import posixpath
import re
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final, cast

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong

LONGEST_HEADER_BYTES: Final = 2**20  # http.DefaultMaxHeaderBytes
MOST_HEADERS: Final = 2**16  # net/http counts bytes alone
BUFFER_BYTES: Final = 2048  # more than this is sent before its length is known
LINGER_S: Final = 0.5  # how long a connection to be closed may still send

_DRAINED_BYTES: Final = 256 * 1024  # read away for a handler that did not, to keep the connection
_BLOCK_BYTES: Final = 64 * 1024
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?]*)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED = re.compile(r"[A-Za-z0-9\-_.~$&+,/:;=@!'()*\[\]%]*")
_NO_HOST = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@%\[\]]")
_NAMED = re.compile(r"b['\"].*:")  # a line that has a name, in what aiohttp shows of it
_UNESCAPED: Final = "-_.~$&+,/:;=@"
_LAST_HEADERS: Final = ("Date", "Content-Length", "Connection", "Transfer-Encoding")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class BadTargetError(ValueError):
    """A request line whose target Go does not take."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request wants to go.

    Attributes:
        host: what it names itself, before any `Host` header; empty where it names none.
        path: decoded, as gin's tree sees it.
        escaped: the same as `URL.EscapedPath` gives it.
        query: from the `?` on, which stays even if nothing follows it.
    """

    host: str
    path: str
    escaped: str
    query: str


def parse_target(raw: str) -> Target:
    """Read a request line's target.

    Raises:
        BadTargetError: for what Go answers 400 before any handler.
    """
    absolute = _ABSOLUTE.fullmatch(raw)
    host, rest = (absolute[1], absolute[2]) if absolute else ("", raw)
    if not absolute and not rest.startswith("/"):
        raise BadTargetError(raw)
    spelled, mark, query = rest.partition("?")
    if _ESCAPE.search(spelled):
        raise BadTargetError(raw)
    path = urllib.parse.unquote_to_bytes(spelled.encode("utf-8", "surrogateescape"))
    decoded = path.decode("utf-8", "surrogateescape")
    escaped = spelled if _ENCODED.fullmatch(spelled) else escape(decoded)
    return Target(host, decoded, escaped, mark + query)


def escape(path: str) -> str:
    """`url.PathEscape` of each segment: what a `Location` shows of a path."""
    return urllib.parse.quote(path.encode("utf-8", "surrogateescape"), safe=_UNESCAPED)


def cleaned(target: Target) -> str | None:
    """Where ServeMux sends a path that is not clean; `None` where it is.

    The path is escaped a second time, as Go 1.26 does.
    """
    path = "/" + posixpath.normpath("/" + target.escaped).lstrip("/")
    if target.escaped.endswith("/") and path != "/":
        path += "/"
    if path == target.escaped:
        return None
    return escape(path) + (target.query if target.query != "?" else "")


def redirection(method: str, status: int, location: str) -> web.Response:
    """`http.Redirect`: a page for GET, its header for HEAD, nothing for others."""
    headers = {"Location": location}
    if method not in {"GET", "HEAD"}:
        return web.Response(status=status, headers=headers)
    headers["Content-Type"] = "text/html; charset=utf-8"
    if method == "HEAD":
        return web.Response(status=status, headers=headers)
    words = {301: "Moved Permanently", 307: "Temporary Redirect"}[status]
    shown = html.escape(location).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    page = f'<a href="{shown}">{words}</a>.\n\n'
    return web.Response(status=status, headers=headers, body=page.encode())


class Bare(web.StreamResponse):
    """Bytes that are the whole answer, head and all, where even the order of its headers differs.

    Attributes:
        raw: what is sent.
    """

    def __init__(self, *lines: str, body: str = "", is_last: bool = True) -> None:
        super().__init__()
        self.raw = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
        if is_last:
            self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send it."""
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        if request.transport is not None:
            request.transport.write(self.raw)

    async def write_eof(self, data: bytes = b"") -> None:
        """It has been sent."""


def refused(status: str, body: str = "") -> Bare:
    """How net/http refuses what it cannot read; the connection is closed."""
    headers = ("Content-Type: text/plain; charset=utf-8", "Connection: close")
    return Bare(f"HTTP/1.1 {status}", *headers, body=body or status)


def unspoken(request: web.BaseRequest) -> Bare | None:
    """What net/http says of a version or a host that aiohttp lets pass."""
    if request.version.major > 1:
        return refused("505 HTTP Version Not Supported: unsupported protocol version")
    if request.version.major < 1:
        return refused("400 Bad Request")
    if "Host" not in request.headers and request.version >= HttpVersion11:
        return refused("400 Bad Request: missing required Host header")
    if _NO_HOST.search(request.headers.get("Host", "")):
        return refused("400 Bad Request: malformed Host header")
    return None


def asterisk(request: web.BaseRequest) -> Bare:
    """`OPTIONS *` has an answer of its own, any other `*` none."""
    date = f"Date: {formatdate(usegmt=True)}"
    version = f"HTTP/{request.version.major}.{request.version.minor}"
    if request.method == "OPTIONS":
        return Bare(f"{version} 200 OK", "Content-Length: 0", date, is_last=False)
    return Bare(f"{version} 400 Bad Request", "Connection: close", date, "Content-Length: 0")


def unconnected() -> web.Response:
    """`CONNECT` with a host and a port, which has no path that anybody would serve."""
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(status=404, headers=headers, body=b"404 page not found\n")


def unexpected() -> Bare:
    """An `Expect` that is not `100-continue`."""
    date = f"Date: {formatdate(usegmt=True)}"
    return Bare("HTTP/1.1 417 Expectation Failed", "Connection: close", date, "Content-Length: 0")


class GoRequest(web.BaseRequest):
    """A request whose body is asked for when it is read, and read away if it is not."""

    _is_asked_for = False

    async def give_up_if_left(self) -> None:
        """From here on a client that closes even half of the connection counts as gone.

        Go ends the request's context then; what takes long stops and says nothing any more.
        """
        if isinstance(self.protocol, _Connection):
            await self.protocol.hang_up_if_left()

    @property
    def expectation(self) -> str:
        """`Expect`, in lower case."""
        return self.headers.get("Expect", "").strip().lower()

    async def blocks(self) -> AsyncGenerator[bytes]:
        """The body, piece by piece."""
        self._ask()
        while block := await self.content.read(_BLOCK_BYTES):
            yield block

    async def whole(self) -> bytes:
        """All of the body, or all that will ever come of it."""
        self._end_if_left()
        return b"".join([block async for block in self.blocks()])

    def _end_if_left(self) -> None:
        if isinstance(self.protocol, _Connection) and self.protocol.is_half_closed:
            self.content.feed_eof()

    def _ask(self) -> None:
        waits = self._awaits_word
        self._is_asked_for = True
        if waits and self.transport is not None:
            self.transport.write(_CONTINUE)

    @property
    def _awaits_word(self) -> bool:
        return (
            self.expectation == "100-continue"
            and self.version >= HttpVersion11
            and self.body_exists
            and not self._is_asked_for
        )

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        """Headers as Go sends them, once it is known what becomes of the connection."""
        headers = response.headers
        headers.popall("Server", None)
        if self.method == "HEAD":
            headers.popall("Transfer-Encoding", None)
            if headers.get("Content-Length") == "0":
                del headers["Content-Length"]
        if self.version < HttpVersion11 and int(headers.get("Content-Length", 0)) > BUFFER_BYTES:
            del headers["Content-Length"]  # nor can it be chunked: the end is the connection's
            response.force_close()
        if await self._is_left_unread():
            response.force_close()
            headers["Connection"] = "close"
        if isinstance(self.protocol, _Connection) and self.protocol.ends:
            response.force_close()
        ending = [(key, headers.popall(key)) for key in _LAST_HEADERS if key in headers]
        others = sorted(headers.items(), key=lambda header: header[0])
        headers.clear()
        headers.extend(others)
        for key, values in ending:
            headers.extend((key, value) for value in values)

    async def _is_left_unread(self) -> bool:
        """Whether the body is too long to read away, or not even sent yet."""
        self._end_if_left()
        if self._awaits_word or (self.content_length or 0) > _DRAINED_BYTES:
            return not self.content.at_eof()
        drained = 0
        while drained <= _DRAINED_BYTES and not self.content.at_eof():
            drained += len(await self.content.read(_BLOCK_BYTES))
        return not self.content.at_eof()


Handler = Callable[[GoRequest], Awaitable[web.StreamResponse]]


class _Connection(web.RequestHandler):
    """One connection; what cannot be read is refused in Go's words.

    Attributes:
        gives_up: whether the answer under way stops when the client leaves.
        is_half_closed: whether the client will send nothing any more; it is still answered.
    """

    __slots__ = ("gives_up", "is_half_closed")

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.is_half_closed = False
        self.gives_up = False

    @property
    def ends(self) -> bool:
        """Whether the answer under way is the last one."""
        return self.is_half_closed and not self._messages

    async def hang_up_if_left(self) -> None:
        """Hang up when the client will send nothing any more."""
        self.gives_up = True
        if self.is_half_closed and self.transport is not None:
            self.transport.close()
            await asyncio.Event().wait()  # the end of the connection cancels this

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Stay open to answer what has been asked."""
        self.is_half_closed = True
        is_idle = self._waiter is not None and not self._messages
        if is_idle or self.gives_up:
            return None
        if isinstance(self._current_request, GoRequest):
            self._current_request.content.feed_eof()
        return True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, LineTooLong):
            return refused("431 Request Header Fields Too Large")
        if status == 400:  # noqa: PLR2004 (what aiohttp's parser gives)
            return _unread(message or "")
        return super().handle_error(request, status, exc, message)


def _unread(message: str) -> Bare:
    """Go's answer to what aiohttp's parser complains of."""
    if "Invalid HTTP version" in message:
        return refused("505 HTTP Version Not Supported: unsupported protocol version")
    if "invalid `Transfer-Encoding`" in message:
        return refused("501 Not Implemented", "Unsupported transfer encoding")
    return refused("400 Bad Request" + _complaint(message))


def _complaint(message: str) -> str:
    """What Go adds for the complaints of aiohttp's parser that it has words for."""
    if "Missing 'Host'" in message:
        return ": missing required Host header"
    if ("header token" in message or "header name" in message) and _NAMED.search(message):
        return ": invalid header name"
    return ""


class GoServer(web.Server):
    """An aiohttp server that looks like one of Go's."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            cast("Any", handler),
            request_factory=_request,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            lingering_time=LINGER_S,
            max_line_size=LONGEST_HEADER_BYTES,
            max_field_size=LONGEST_HEADER_BYTES,
            max_headers=MOST_HEADERS,
        )

    def __call__(self) -> web.RequestHandler:
        """A connection's protocol."""
        return _Connection(self, loop=self._loop, **self._kwargs)


def _request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> GoRequest:
    loop = asyncio.get_running_loop()
    if isinstance(protocol, _Connection):
        protocol.gives_up = False
    return GoRequest(message, payload, protocol, writer, task, loop, client_max_size=0)
