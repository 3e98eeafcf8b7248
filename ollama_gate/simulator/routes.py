"""The HTTP face: routes, frames and headers as gin gives them, over `gohttp`.

Only the routes of the table at the end exist; everything else is 404 or 405 in gin's words.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import HttpVersion11, web

from ollama_gate.simulator import (
    account,
    anthropic,
    blobs,
    completions,
    listing,
    management,
    native,
    openai,
    responses,
    transcribe,
)
from ollama_gate.simulator.context import RequestContext
from ollama_gate.simulator.creation import create
from ollama_gate.simulator.gohttp import (
    BUFFER_BYTES,
    BadTargetError,
    GoRequest,
    GoServer,
    Target,
    asterisk,
    cleaned,
    escape,
    parse_target,
    redirection,
    refused,
    unconnected,
    unexpected,
    unspoken,
)
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.guard import Headers, Verdict, judge
from ollama_gate.simulator.replies import (
    Answer,
    Empty,
    Lines,
    Origin,
    RefusedError,
    Stream,
    Text,
    Waited,
)
from ollama_gate.simulator.world import Call, World

Handler = Callable[[Call], Awaitable[Answer | Stream | Text | Lines | Empty | Waited]]
ErrorBody = Callable[[int, str], Mapping[str, Any]]

_JSON = "application/json; charset=utf-8"
_BARE_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_GIN_TEXT = "text/plain"
_METHODS = ("HEAD", "GET", "POST", "DELETE")  # in the order of gin's trees
_BODIED = frozenset({"POST", "DELETE"})  # whose handlers read


@dataclass(frozen=True, slots=True)
class _Route:
    """A handler, and how its dialect spells an error where that is not Ollama's own.

    Attributes:
        is_read: whether its body is read for it.
        is_long: whether it may take a while, and stops when its client leaves.
    """

    handler: Handler
    error_body: ErrorBody | None = None
    is_read: bool = True
    is_long: bool = False


def make_server(world: World) -> GoServer:
    """The server; it starts and stops nothing of the world itself."""

    async def dispatch(request: GoRequest) -> web.StreamResponse:
        context = RequestContext()
        try:
            return await _dispatch(world, context, request)
        finally:
            context.end()

    return GoServer(dispatch)


async def _dispatch(
    world: World, context: RequestContext, request: GoRequest
) -> web.StreamResponse:
    refusal = _before_gin(request)
    if refusal is not None:
        return refusal
    target = parse_target(request.raw_path)
    methods, parameter = _methods_at(target.path)
    if request.method not in methods:
        bare = target.path.removesuffix("/")
        if bare != target.path and request.method in _methods_at(bare)[0]:
            return _redirect(request, bare, target)
    host = target.host or request.headers.get("Host", "")
    verdict = judge(request.method, {**request.headers, "Host": host})
    if verdict.status is not None:
        headers = verdict.headers + _allow(methods, request.method)
        return web.Response(status=verdict.status, headers=headers)
    if request.method not in methods:
        allow = _allow(methods, request.method) + verdict.headers
        missing = _plain(404, "404 page not found", _GIN_TEXT, verdict.headers)
        return _plain(405, "405 method not allowed", _GIN_TEXT, allow) if methods else missing
    route = methods[request.method]
    is_read = route.is_read and request.method in _BODIED
    body = await request.whole() if is_read else b""
    if route.is_long:
        await request.give_up_if_left()
    call = Call(world, context, body, request.headers, target.query[1:], parameter, request.blocks)
    return await _answer(request, route, call, verdict)


def _before_gin(request: GoRequest) -> web.StreamResponse | None:
    """What net/http and its ServeMux answer for themselves."""
    refusal = unspoken(request)
    if refusal is not None:
        return refusal
    if request.raw_path == "*":
        return asterisk(request)
    if request.method == "CONNECT" and not request.raw_path.startswith("/"):
        return unconnected()
    try:
        target = parse_target(request.raw_path)
    except BadTargetError:
        return refused("400 Bad Request")
    if request.expectation not in {"", "100-continue"}:
        return unexpected()
    clean = None if request.method == "CONNECT" else cleaned(target)
    return None if clean is None else redirection(request.method, 307, clean)


def _allow(methods: Mapping[str, _Route], method: str) -> Headers:
    """What gin says of a route that has other methods, even where something else answers."""
    if not methods or method in methods:
        return ()
    return (("Allow", ", ".join(other for other in _METHODS if other in methods)),)


def _methods_at(path: str) -> tuple[Mapping[str, _Route], str]:
    """The routes of a path, and what stands for the parameter of theirs."""
    before, _, last = path.rpartition("/")
    if before in _PARAMETRIC and last:
        return _ROUTES[_PARAMETRIC[before]], last
    return ({} if ":" in path else _ROUTES.get(path, {})), ""


def _redirect(request: GoRequest, path: str, target: Target) -> web.Response:
    status = 301 if request.method == "GET" else 307
    prefix = re.sub(r"[^a-zA-Z0-9/-]", "", request.headers.get("X-Forwarded-Prefix", ""))
    prefix = re.sub("/{2,}", "/", prefix).removesuffix("/")
    return redirection(request.method, status, escape(prefix + path) + target.query)


async def _answer(
    request: GoRequest, route: _Route, call: Call, verdict: Verdict
) -> web.StreamResponse:
    streaming = False
    try:
        reply = await route.handler(call)
        if isinstance(reply, Text | Answer | Empty | Waited):
            return _framed(request, _unstreamed(route, reply, verdict))
        streaming = True
        if isinstance(reply, Stream):
            reply = Lines(_lines(reply), _NDJSON)
        return await _stream(request, reply, verdict)
    except RefusedError as error:
        refusal = _refusal(route, error, verdict, streaming=streaming)
        return _framed(request, refusal, is_flushed=streaming)


def _unstreamed(
    route: _Route, reply: Text | Answer | Empty | Waited, verdict: Verdict
) -> web.Response:
    if isinstance(reply, Text):
        headers = reply.headers + verdict.headers
        return _plain(reply.status, reply.text, reply.content_type, headers)
    if isinstance(reply, Empty):
        if reply.is_null:
            return _body(reply.status, "null", _JSON, verdict.headers)
        return web.Response(status=reply.status, headers=verdict.headers)
    text = encode(reply.body)
    if isinstance(reply, Waited):
        return _body(reply.status, text, _BARE_JSON, verdict.headers)
    if route.error_body:
        return _body(reply.status, f"{text}\n", _BARE_JSON, verdict.headers)
    return _body(reply.status, text, _JSON, verdict.headers)


def _refusal(
    route: _Route, error: RefusedError, verdict: Verdict, *, streaming: bool
) -> web.Response:
    content_type = _BARE_JSON if streaming else _JSON
    text = encode({"error": error.text})
    if route.error_body and error.origin is not Origin.CLOUD:
        text = encode(route.error_body(error.status, error.text))
        if error.origin is Origin.HANDLER:
            text, content_type = f"{text}\n", _BARE_JSON
    return _body(error.status, text, content_type, verdict.headers + error.headers)


def _framed(
    request: GoRequest, response: web.Response, *, is_flushed: bool = False
) -> web.Response:
    """Chunked where net/http has to send before it knows the length."""
    is_long = isinstance(response.body, bytes) and len(response.body) > BUFFER_BYTES
    if (is_flushed or is_long) and request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    return response


async def _stream(request: GoRequest, reply: Lines, verdict: Verdict) -> web.StreamResponse:
    """Send pieces as they come; the status is sent with the first of them."""
    headers = (("Content-Type", reply.content_type), *reply.headers, *verdict.headers)
    response = web.StreamResponse(headers=headers)
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    async with contextlib.aclosing(reply.lines) as pieces:
        async for piece in pieces:
            if not response.prepared:
                await response.prepare(request)
            if piece:
                await response.write(piece.encode())
    if not response.prepared:
        await response.prepare(request)
    await response.write_eof()
    return response


async def _lines(reply: Stream) -> AsyncGenerator[str]:
    """NDJSON; an error before the first line is left to the caller."""
    started = False
    try:
        async for chunk in reply.chunks:
            yield f"{encode(chunk)}\n"
            started = True
    except RefusedError as error:
        if not started:
            raise
        yield f"{encode({'error': error.text})}\n"


def _plain(status: int, text: str, content_type: str, headers: Headers = ()) -> web.Response:
    return _body(status, text, content_type, headers)


def _body(status: int, text: str, content_type: str, headers: Headers) -> web.Response:
    return web.Response(
        status=status, body=text.encode(), headers=(("Content-Type", content_type), *headers)
    )


async def _one_model(call: Call) -> Answer:
    return await openai.model(call, call.parameter)


_ROUTES: Mapping[str, Mapping[str, _Route]] = {
    "/": {method: _Route(listing.index) for method in ("HEAD", "GET")},
    "/api/version": {method: _Route(listing.version) for method in ("HEAD", "GET")},
    "/api/tags": {method: _Route(listing.tags) for method in ("HEAD", "GET")},
    "/api/ps": {"GET": _Route(listing.ps)},
    "/api/show": {"POST": _Route(listing.show)},
    "/api/generate": {"POST": _Route(native.generate, is_long=True)},
    "/api/chat": {"POST": _Route(native.chat, is_long=True)},
    "/api/embed": {"POST": _Route(native.embed, is_long=True)},
    "/api/embeddings": {"POST": _Route(native.embeddings, is_long=True)},
    "/v1/chat/completions": {
        "POST": _Route(openai.chat_completions, openai.error_body, is_long=True)
    },
    "/v1/completions": {"POST": _Route(completions.completions, openai.error_body, is_long=True)},
    "/v1/embeddings": {"POST": _Route(openai.embeddings, openai.error_body, is_long=True)},
    "/v1/models": {"GET": _Route(openai.models, openai.error_body)},
    "/v1/responses": {"POST": _Route(responses.responses, openai.error_body, is_long=True)},
    "/v1/messages": {"POST": _Route(anthropic.messages, anthropic.error_body, is_long=True)},
    "/v1/audio/transcriptions": {
        "POST": _Route(transcribe.transcriptions, openai.error_body, is_long=True)
    },
    "/v1/models/:model": {"GET": _Route(_one_model, openai.error_body)},
    "/api/pull": {"POST": _Route(management.pull, is_long=True)},
    "/api/push": {"POST": _Route(management.push, is_long=True)},
    "/api/copy": {"POST": _Route(management.copy)},
    "/api/delete": {"DELETE": _Route(management.delete)},
    "/api/create": {"POST": _Route(create, is_long=True)},
    "/api/blobs/:digest": {
        "HEAD": _Route(blobs.head),
        "POST": _Route(blobs.upload, is_read=False),
    },
    "/api/me": {"POST": _Route(account.me, is_read=False)},
    "/api/signout": {"POST": _Route(account.sign_out, is_read=False)},
    "/api/user/keys/:encodedKey": {"DELETE": _Route(account.sign_out, is_read=False)},
    "/api/status": {"GET": _Route(account.status)},
    "/api/experimental/web_search": {"POST": _Route(account.web_search)},
    "/api/experimental/web_fetch": {"POST": _Route(account.web_fetch)},
    "/api/experimental/model-recommendations": {"GET": _Route(account.recommendations)},
}
_PARAMETRIC = {
    path.rpartition("/")[0]: path for path in _ROUTES if path.rpartition("/")[2].startswith(":")
}
