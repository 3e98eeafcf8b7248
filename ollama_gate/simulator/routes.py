"""The HTTP face: routes, frames and headers as gin and Go's net/http give them.

Only the routes of the table at the end exist; everything else is 404 or 405 in gin's words.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from ollama_gate.simulator import (
    anthropic,
    completions,
    listing,
    native,
    openai,
    responses,
    transcribe,
)
from ollama_gate.simulator.context import RequestContext
from ollama_gate.simulator.gojson import encode
from ollama_gate.simulator.guard import Headers, Verdict, judge
from ollama_gate.simulator.replies import Answer, Lines, Origin, RefusedError, Stream, Text
from ollama_gate.simulator.world import Call, World

Handler = Callable[[Call], Awaitable[Answer | Stream | Text | Lines]]
ErrorBody = Callable[[int, str], Mapping[str, Any]]

_JSON = "application/json; charset=utf-8"
_BARE_JSON = "application/json"
_NDJSON = "application/x-ndjson"
_GIN_TEXT = "text/plain"
_BUFFER_BYTES = 2048  # net/http sends more than this in chunks, having no length yet
_METHODS = ("HEAD", "GET", "POST", "DELETE")  # in the order of gin's trees
_V1_MODEL = "/v1/models/"


@dataclass(frozen=True, slots=True)
class _Route:
    """A handler, and how its dialect spells an error where that is not Ollama's own."""

    handler: Handler
    error_body: ErrorBody | None = None


def make_app(world: World) -> web.Application:
    """The application; it starts and stops nothing of the world itself."""
    app = web.Application(client_max_size=0)

    async def dispatch(request: web.Request) -> web.StreamResponse:
        context = RequestContext()
        try:
            return await _dispatch(world, context, request)
        finally:
            context.end()

    app.router.add_route("*", "/{path:.*}", dispatch)
    app.on_response_prepare.append(_headers_as_go_sends_them)
    return app


async def _dispatch(
    world: World, context: RequestContext, request: web.Request
) -> web.StreamResponse:
    verdict = judge(request.method, request.headers)
    if verdict.status is not None:
        return web.Response(status=verdict.status, headers=verdict.headers + _allow(request))
    found = _find(request)
    if isinstance(found, web.Response):
        found.headers.extend(verdict.headers)
        return found
    call = Call(world, context, await request.read(), request.headers, request.query_string)
    return await _answer(request, found, call, verdict)


def _find(request: web.Request) -> _Route | web.Response:
    """The route, or what gin says where there is none."""
    methods = _methods_at(request.path)
    if request.method in methods:
        return methods[request.method]
    if methods:
        return _plain(405, "405 method not allowed", _GIN_TEXT, _allow(request))
    if request.path.endswith("/") and request.method in _methods_at(request.path.rstrip("/")):
        return _redirect(request)
    return _plain(404, "404 page not found", _GIN_TEXT)


def _allow(request: web.Request) -> Headers:
    """What gin says of a route that has other methods, even where something else answers."""
    methods = _methods_at(request.path)
    if not methods or request.method in methods:
        return ()
    return (("Allow", ", ".join(method for method in _METHODS if method in methods)),)


def _methods_at(path: str) -> Mapping[str, _Route]:
    if path.startswith(_V1_MODEL) and "/" not in (name := path.removeprefix(_V1_MODEL)) and name:

        async def one_model(call: Call) -> Answer:
            return await openai.model(call, name)

        return {"GET": _Route(one_model, openai.error_body)}
    return _ROUTES.get(path, {})


def _redirect(request: web.Request) -> web.Response:
    target = request.path.rstrip("/")
    if request.method != "GET":
        return web.Response(status=307, headers={"Location": target})
    body = f'<a href="{target}">Moved Permanently</a>.\n\n'
    return _plain(301, body, "text/html; charset=utf-8", (("Location", target),))


async def _answer(
    request: web.Request, route: _Route, call: Call, verdict: Verdict
) -> web.StreamResponse:
    streaming = False
    try:
        reply = await route.handler(call)
        if isinstance(reply, Text):
            headers = reply.headers + verdict.headers
            return _plain(reply.status, reply.text, reply.content_type, headers)
        if isinstance(reply, Answer):
            return _whole(route, reply, verdict)
        streaming = True
        if isinstance(reply, Stream):
            reply = Lines(_lines(reply), _NDJSON)
        return await _stream(request, reply, verdict)
    except RefusedError as error:
        return _refusal(route, error, verdict, streaming=streaming)


def _whole(route: _Route, reply: Answer, verdict: Verdict) -> web.Response:
    text = encode(reply.body)
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
    response = _body(error.status, text, content_type, verdict.headers + error.headers)
    if streaming:
        response.enable_chunked_encoding()  # a stream is flushed before its length is known
    return response


async def _stream(request: web.Request, reply: Lines, verdict: Verdict) -> web.StreamResponse:
    """Send pieces as they come; the status is sent with the first of them."""
    headers = (("Content-Type", reply.content_type), *reply.headers, *verdict.headers)
    response = web.StreamResponse(headers=headers)
    response.enable_chunked_encoding()
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
    data = text.encode()
    response = web.Response(
        status=status, body=data, headers=(("Content-Type", content_type), *headers)
    )
    if len(data) > _BUFFER_BYTES:
        response.enable_chunked_encoding()
    return response


async def _headers_as_go_sends_them(request: web.Request, response: web.StreamResponse) -> None:
    """No `Server`, and Go's order: sorted, then the date and how the body ends."""
    response.headers.popall("Server", None)
    if request.method == "HEAD":
        response.headers.popall("Transfer-Encoding", None)
    last = ("Date", "Content-Length", "Transfer-Encoding")
    ending = [(key, response.headers.popall(key)) for key in last if key in response.headers]
    others = sorted(response.headers.items(), key=lambda header: header[0])
    response.headers.clear()
    response.headers.extend(others)
    for key, values in ending:
        response.headers.extend((key, value) for value in values)


_ROUTES: Mapping[str, Mapping[str, _Route]] = {
    "/": {method: _Route(listing.index) for method in ("HEAD", "GET")},
    "/api/version": {method: _Route(listing.version) for method in ("HEAD", "GET")},
    "/api/tags": {method: _Route(listing.tags) for method in ("HEAD", "GET")},
    "/api/ps": {"GET": _Route(listing.ps)},
    "/api/show": {"POST": _Route(listing.show)},
    "/api/generate": {"POST": _Route(native.generate)},
    "/api/chat": {"POST": _Route(native.chat)},
    "/api/embed": {"POST": _Route(native.embed)},
    "/api/embeddings": {"POST": _Route(native.embeddings)},
    "/v1/chat/completions": {"POST": _Route(openai.chat_completions, openai.error_body)},
    "/v1/completions": {"POST": _Route(completions.completions, openai.error_body)},
    "/v1/embeddings": {"POST": _Route(openai.embeddings, openai.error_body)},
    "/v1/models": {"GET": _Route(openai.models, openai.error_body)},
    "/v1/responses": {"POST": _Route(responses.responses, openai.error_body)},
    "/v1/messages": {"POST": _Route(anthropic.messages, anthropic.error_body)},
    "/v1/audio/transcriptions": {"POST": _Route(transcribe.transcriptions, openai.error_body)},
}
