"""Bytes from an upstream to a client, unread; and how an answer ends that broke off.

Each write waits for the client, so that a slow reader slows the upstream and not the gate's
memory.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from ollama_gate import log, wire
from ollama_gate.app.serving import READ_BYTES, Caller, Untyped
from ollama_gate.errors import BodyTooLargeError, UpstreamBrokenError, UpstreamCutError
from ollama_gate.link import Answer
from ollama_gate.ollama import end_to_end

CRUMB_BYTES: Final = 4096
"""A piece of a body that is smaller is put with its like: each object costs tens of bytes."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_AUTHORITY: Final = re.compile(r"[^/?#]*")
_NDJSON: Final = b"application/x-ndjson"

_api = log.get(log.Component.API)


class Relayed(Untyped):
    """An upstream's answer, less what ends at its connection, and with what the gate adds."""

    def __init__(
        self, answer: Answer, added: Iterable[tuple[str, str]], *, begun: bool = False
    ) -> None:
        headers = CIMultiDict(
            [
                (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
                for name, value in end_to_end(answer.headers)
            ]
        )
        for name, text in added:
            headers.setdefault(name, text)
        super().__init__(
            status=answer.status, reason=answer.reason.decode("latin-1"), headers=headers
        )
        self.typed = "Content-Type" in headers
        if answer.closes:
            # Behind a body that the upstream did not read no other request can be told.
            self.force_close()
        # Head and first bytes leave together where both are there already.
        self._send_headers_immediately = not (begun or answer.complete or answer.waiting)


async def copy(
    request: Caller,
    answer: Answer,
    added: Iterable[tuple[str, str]] = (),
    *,
    begun: bytes = b"",
    mends: bool = False,
    ended: Callable[[bytes], None] | None = None,
) -> web.StreamResponse:
    """Relay an answer to its end.

    Args:
        request: whose answer it is.
        answer: read by this and by nobody else.
        added: headers of the gate's own; what the upstream sent goes before them.
        begun: what has been read of its body already.
        ended: told the last line that came, as far as it came in one piece, when all is sent.
        mends: end an NDJSON stream that broke off between two lines as Ollama ends one whose
            runner died, with a line that says so. Any other is left broken: were it ended, it
            would look whole.
    """
    response = Relayed(answer, added, begun=bool(begun))
    last = b"\n"
    try:
        await response.prepare(request)
        while chunk := begun or answer.ready() or await answer.read():
            begun = b""
            await response.write(chunk)
            last = chunk
        if ended is not None:
            ended(last.rstrip(b"\n").rpartition(b"\n")[2])
        await response.write_eof()
    except UpstreamBrokenError as error:
        _api.warning("answer broke off", path=request.path, reason=str(error))
        if mends and last.endswith(b"\n") and _is_open_ndjson(answer):
            cut = str(error) if isinstance(error, UpstreamCutError) else None
            await response.write_eof(wire.broken_line(cut))
        else:
            abort(request)
    except asyncio.CancelledError:
        abort(request)
        raise
    except ConnectionResetError:
        # The client left while it was being written to; its cancellation is on its way.
        pass
    return response


async def peek(answer: Answer, limit_bytes: int) -> bytes:
    """The body of an answer up to a limit, or a little more; what breaks off ends there."""
    begun = bytearray()
    with contextlib.suppress(UpstreamBrokenError):
        # Whoever reads on is told of a break again.
        while len(begun) < limit_bytes and (chunk := answer.ready() or await answer.read()):
            begun += chunk
    return bytes(begun)


def abort(request: Caller) -> None:
    """Hang up: completing a broken answer would make it look whole."""
    if request.transport is not None:
        request.transport.abort()


def _is_open_ndjson(answer: Answer) -> bool:
    """Whether one more line may be added: what has told its length may not."""
    told = {name.lower(): value for name, value in answer.headers}
    return told.get(b"content-type", b"").startswith(_NDJSON) and b"content-length" not in told


def send_continue(request: Caller) -> None:
    """Tell a client that waits with its body to send it."""
    if request.transport is not None:
        request.transport.write(CONTINUE)


async def read(request: Caller, limit_bytes: int) -> bytes:
    """The whole body of a request that must be read for its model.

    Raises:
        BodyTooLargeError: it is longer than that.
    """
    body, is_whole = await begin(request, limit_bytes)
    if not is_whole:
        raise BodyTooLargeError(
            f"request body too large: expected at most {limit_bytes} bytes, found more"
        )
    return body


async def begin(request: Caller, limit_bytes: int) -> tuple[bytes, bool]:
    """The body up to a limit, or a little more; and whether that is all of it."""
    if not request.can_read_body:
        return b"", True
    if "Expect" in request.headers:
        send_continue(request)
    parts, crumbs, size = list[bytes](), bytearray(), 0
    async for part, _ in request.content.iter_chunks():
        size += len(part)
        # Of a body in very many pieces nothing is kept but its bytes.
        if size > len(part) and len(part) < CRUMB_BYTES and len(crumbs) < READ_BYTES:
            crumbs += part
        else:
            parts += [bytes(crumbs), part] if crumbs else [part]
            crumbs.clear()
        if size > limit_bytes:
            break
    if crumbs:
        parts.append(bytes(crumbs))
    return (parts[0] if len(parts) == 1 else b"".join(parts)), size <= limit_bytes


async def after(begun: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream of which the beginning was read already."""
    yield begun
    async for part in rest:
        yield part


def target(request: Caller) -> str:
    """Path and query as they came; of the absolute form (RFC 9112 §3.2.2) only these.

    Where that has no path it begins with no slash, and may be empty.
    """
    return authority_and_target(request.raw_path)[1]


def authority_and_target(raw: str) -> tuple[str | None, str]:
    """What a request line names: a host, in the absolute form, and the rest."""
    if raw.startswith(("/", "*")):
        return None, raw
    _, _, rest = raw.partition("://")
    found = _AUTHORITY.match(rest)
    authority = found[0] if found else ""
    return authority, rest[len(authority) :]
