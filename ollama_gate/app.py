"""The HTTP face: routes, and one handler that takes a slot and relays bytes.

What a body means is `wire`'s to say, whether there is a slot is the gate's, and what comes back is
the upstream's, byte for byte. The inference routes go through admission; every other path, known
or not, is relayed at once.
"""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, assert_never

from aiohttp import web
from multidict import CIMultiDict

from ollama_gate import __version__, log, names, status, wire
from ollama_gate.config import Config
from ollama_gate.errors import (
    BadRequestError,
    BodyTooLargeError,
    EncodedBodyError,
    GateError,
    UpstreamBrokenError,
    UpstreamError,
    UpstreamGoneError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.footprint import Facts
from ollama_gate.gate import REMEMBERED, Gate, Grant, RefusedError
from ollama_gate.ollama import Answer, Ollama, end_to_end
from ollama_gate.registry import Registry
from ollama_gate.scheduler.types import Refusal, Request, RequestId, RunnerView, Waiting

NOT_SENT_ON: Final = frozenset(
    {"x-priority", "x-client-id", "x-deadline", "x-request-id", "host", "expect"}
)
"""Meant for the gate; and Ollama is sent its own `Host`."""

CHANGES_MODELS: Final = frozenset({"/api/pull", "/api/create", "/api/copy", "/api/delete"})
"""After one of these a name may mean another model."""

READ_AT_ONCE_BYTES: Final = 128 * 2**10
"""A body up to this size is understood within a few milliseconds, whatever it holds."""

MAX_HEADER_BYTES: Final = 2**20
"""Go's HTTP server, and so Ollama, takes as much."""

VACATE_S: Final = 30.0
"""How long a model that is about to be replaced or deleted may take to end its answers."""

CLEANUP_S: Final = 0.5
"""For handlers that were cut off to end. To aiohttp 0 would mean: as long as they like."""

_silent = logging.getLogger(f"{__name__}.aiohttp")
_silent.disabled = True

_api = log.get(log.Component.API)

Readings = Callable[[], Mapping[str, dict[str, Any]]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Face:
    """Handlers over one upstream. The gate and the upstream are opened and closed by others."""

    def __init__(
        self, *, config: Config, gate: Gate, registry: Registry, ollama: Ollama, readings: Readings
    ) -> None:
        self._config = config
        self._gate = gate
        self._registry = registry
        self._ollama = ollama
        self._readings = readings
        self._by_client_id: OrderedDict[str, RequestId] = OrderedDict()
        self._open: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    # ---------------------------------------------------------------- life

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count who is being served; let no fault of the gate's own show more than that."""
        task = asyncio.current_task()
        assert task is not None, "aiohttp runs each handler in a task"
        self._open.add(task)
        self._idle.clear()
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  the top of a task
            _api.error("a fault of the gate", path=request.path, error=repr(error), exc_info=error)
            text = "the gate failed; its log says why"
            dialect = wire.dialect_of(request.path)
            return _answer(wire.refuse(dialect, HTTPStatus.INTERNAL_SERVER_ERROR, text))
        finally:
            self._open.discard(task)
            if not self._open:
                self._idle.set()

    async def idle(self, within_s: float) -> bool:
        """Wait until nobody is being served, with a slot or without; false if some still are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        return self._idle.is_set()

    def cut_off(self) -> None:
        """End every answer that is still under way."""
        for task in self._open:
            task.cancel()

    # ---------------------------------------------------------------- routes of the gate's own

    async def health(self, _: web.Request) -> web.Response:
        """Alive."""
        return web.json_response({"status": "alive", "version": __version__})

    async def ready(self, _: web.Request) -> web.Response:
        """Whether an upstream answers."""
        if await self._gate.answers(self._config.upstream.name, 0):
            return web.json_response({"status": "ready"})
        reason = f"{self._config.upstream.url} does not answer"
        return web.json_response({"status": "waiting", "reason": reason}, status=503)

    async def status(self, _: web.Request) -> web.Response:
        """Everything: bins, runners, models, the queue, the last decisions."""
        view = self._gate.snapshot()
        decisions = [
            {"ago_s": round(view.now - one.at, 3), "what": one.what, **one.fields}
            for one in reversed(self._gate.decisions)
        ]
        whole = status.whole(
            view, version=__version__, readings=self._readings(), decisions=decisions
        )
        whole["queue"]["outside"] = self._gate.outside
        return web.json_response({**whole, "models": self._registry.known()})

    async def request(self, request: web.Request) -> web.Response:
        """Where one request stands; DELETE withdraws it."""
        given = request.match_info["id"]
        request_id = self._by_client_id.get(given, RequestId(given))
        found = self._gate.find(request_id)
        if found is None:
            return _error(HTTPStatus.NOT_FOUND, f"no request {given!r}: unknown, or long ended")
        if request.method == "DELETE":
            cancelled = self._gate.cancel(request_id)
            return web.json_response({"id": request_id, "cancelled": cancelled})
        return web.json_response({"id": request_id, **self._describe(found)})

    def _describe(self, found: Waiting | RunnerView | str) -> dict[str, Any]:
        now = asyncio.get_running_loop().time()
        match found:
            case Waiting():
                return status.waiting(found, now)
            case RunnerView():
                return {"state": "running", "runner": status.runner(found, now)}
            case str():
                return {"state": found}

    # ---------------------------------------------------------------- everything else is Ollama's

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Admit an inference request; relay anything else at once."""
        endpoint = wire.endpoint_of(request.method, request.path)
        if endpoint is None:
            return await self._pass_on(request)
        gate_id = self._new_id(request)
        try:
            return await self._admit(request, endpoint, gate_id)
        except RefusedError as refused:
            return self._refused(endpoint, gate_id, refused)
        except UpstreamRefusedError as error:
            status_code = max(error.status, HTTPStatus.BAD_REQUEST)
            return _answer(wire.refuse(endpoint.dialect, status_code, error.text))
        except GateError as error:
            return _answer(wire.refuse(endpoint.dialect, _status_of(error), str(error)))

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Relay what needs no model; but a name that changes its meaning is left by its runner."""
        if request.path not in CHANGES_MODELS:
            body = request.content.iter_any() if request.body_exists else None
            return await self._pass(request, body)
        whole = await request.content.read()
        try:
            with contextlib.suppress(UpstreamError):
                await self._vacate(whole)
            return await self._pass(request, whole)
        finally:
            self._registry.forget()

    async def _vacate(self, body: bytes) -> None:
        """Unload what a body would replace or delete: afterwards no name would reach it."""
        for name in wire.changed_names(body):
            facts = await self._registry.facts(name)
            if facts is not None:
                await self._gate.vacate(facts.key, VACATE_S)

    async def _pass(
        self, request: web.Request, body: bytes | AsyncIterator[bytes] | None
    ) -> web.StreamResponse:
        """Relay without a slot."""
        try:
            async with self._ollama.relay(
                request.method, _target(request), end_to_end(request.headers, NOT_SENT_ON), body
            ) as answer:
                return await _copy(request, answer)
        except UpstreamGoneError as error:
            dialect = wire.dialect_of(request.path)
            return _answer(wire.refuse(dialect, HTTPStatus.BAD_GATEWAY, str(error)))

    async def _admit(
        self, request: web.Request, endpoint: wire.Endpoint, gate_id: RequestId
    ) -> web.StreamResponse:
        priority = wire.read_priority(request.headers.get("X-Priority"))
        body = await _read(request, self._config.max_body_bytes)
        ask = await _understand(request, endpoint, body)
        match ask:
            case wire.Ask():
                pass
            case wire.Hopeless():
                return await self._pass(request, body)
            case wire.Encoded():
                raise EncodedBodyError(
                    f"expected a body without Content-Encoding, found {ask.encoding}"
                )
            case _:
                assert_never(ask)
        facts = None if names.is_cloud(ask.model) else await self._facts(gate_id, ask.model)
        if facts is None or self._would_be_refused(ask, facts):
            return await self._pass(request, body)
        if _asks_to_unload(endpoint, ask):
            if self._gate.release(facts.key):
                return _answer(wire.unload_answer(endpoint, ask.model, _go_time()))
            return await self._pass(request, body)
        scheduled = self._registry.request(
            gate_id,
            ask,
            facts,
            priority=priority,
            client=_client(request),
            arrived_at=asyncio.get_running_loop().time(),
        )
        return await self._serve(request, ask, scheduled)

    @staticmethod
    def _would_be_refused(ask: wire.Ask, facts: Facts) -> bool:
        """Whether it needs no VRAM: it runs elsewhere, or is not what this model can do.

        Models that make images are refused whatever is asked of them (Ollama v0.32.15).
        """
        can = facts.capabilities
        return facts.remote or "image" in can or (bool(can) and not ask.needs <= can)

    async def _facts(self, gate_id: RequestId, name: str) -> Facts | None:
        """What is known of a model; waits for an upstream that is away."""
        upstream = self._config.upstream
        until = asyncio.get_running_loop().time() + upstream.outage_wait_s
        while True:
            try:
                return await self._registry.facts(name)
            except UpstreamSilentError:
                raise
            except UpstreamGoneError:
                self._gate.lost(upstream.name)
            left_s = max(0.0, until - asyncio.get_running_loop().time())
            await self._gate.await_upstream(gate_id, upstream.name, left_s)

    async def _serve(
        self, request: web.Request, ask: wire.Ask, scheduled: Request
    ) -> web.StreamResponse:
        try:
            async with self._gate.slot(scheduled) as grant:
                return await self._relay(request, ask, scheduled, grant)
        except UpstreamGoneError:
            self._gate.lost(self._config.upstream.name)
        # The client has seen nothing of an answer yet, so it may be asked for once more.
        again = replace(scheduled, accepted=True)
        async with self._gate.slot(again) as grant:
            return await self._relay(request, ask, again, grant)

    async def _relay(
        self, request: web.Request, ask: wire.Ask, scheduled: Request, grant: Grant
    ) -> web.StreamResponse:
        headers = end_to_end(request.headers, NOT_SENT_ON)
        if "Content-Length" in headers or ask.body:
            headers["Content-Length"] = str(len(ask.body))
        async with self._ollama.relay(
            request.method, request.raw_path, headers, ask.body
        ) as answer:
            return await _copy(
                request,
                answer,
                {
                    "X-Request-Id": request.headers.get("X-Request-Id", scheduled.id),
                    "X-Gate-Id": scheduled.id,
                    "Server-Timing": f"queue;dur={grant.queued_s * 1000:.1f}",
                },
            )

    def _refused(
        self, endpoint: wire.Endpoint, gate_id: RequestId, refused: RefusedError
    ) -> web.Response:
        refusal = refused.refusal
        text = refusal.text
        if refusal.reason is Refusal.UPSTREAM_AWAY:
            text = f"{self._config.upstream.url} does not answer"
        answer = wire.refusal(
            endpoint.dialect,
            refusal.reason,
            status=refusal.status,
            text=text,
            retry_after_s=refusal.retry_after_s,
            request_id=f"req_{gate_id}",
        )
        response = _answer(answer)
        response.headers["X-Gate-Id"] = gate_id
        return response

    def _new_id(self, request: web.Request) -> RequestId:
        gate_id = RequestId(uuid.uuid4().hex)
        given = request.headers.get("X-Request-Id")
        if given:
            self._by_client_id[given] = gate_id
            if len(self._by_client_id) > REMEMBERED:
                self._by_client_id.popitem(last=False)
        return gate_id


def make_app(face: Face) -> web.Application:
    """The routes: the gate's own, and one for everything else."""
    app = web.Application(middlewares=[face.guard])
    app.router.add_get("/gate/health", face.health)
    app.router.add_get("/gate/ready", face.ready)
    app.router.add_get("/gate/status", face.status)
    app.router.add_get("/gate/requests/{id}", face.request)
    app.router.add_delete("/gate/requests/{id}", face.request)
    app.router.add_route("*", "/{path:.*}", face.handle)
    app.on_response_prepare.append(_unsigned)
    return app


def make_runner(app: web.Application) -> web.AppRunner:
    """The one way this program serves, in production and in tests.

    `handler_cancellation` is what ends a handler whose client has gone; bodies are left encoded.
    The library's own log is left out: it prints the bytes of what it cannot parse.
    """
    return web.AppRunner(
        app,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        logger=_silent,
        shutdown_timeout=CLEANUP_S,
    )


async def _unsigned(_: web.Request, response: web.StreamResponse) -> None:
    """Take out what the library adds: Ollama sends no `Server`, and no type without a body."""
    response.headers.popall("Server", None)
    if isinstance(response, _Relayed) and not response.typed:
        response.headers.popall("Content-Type", None)


class _Relayed(web.StreamResponse):
    """An upstream's answer; `typed` if it came with a content type."""

    typed: bool


async def _copy(
    request: web.Request, answer: Answer, added: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """Relay an answer; each write waits for the client, so a slow reader slows the upstream."""
    response = _Relayed(status=answer.status, reason=answer.reason, headers=answer.headers)
    response.typed = "Content-Type" in response.headers
    for name, value in (added or {}).items():
        response.headers.setdefault(name, value)
    try:
        await response.prepare(request)
        async for chunk in answer.chunks():
            await response.write(chunk)
        await response.write_eof()
    except UpstreamBrokenError as error:
        _api.warning("answer broke off", path=request.path, reason=str(error))
        _abort(request)
    except asyncio.CancelledError:
        _abort(request)
        raise
    except ConnectionResetError:
        # The client left while it was being written to; its cancellation is on its way.
        pass
    return response


def _abort(request: web.Request) -> None:
    """Hang up: completing a broken answer would make it look whole."""
    if request.transport is not None:
        request.transport.abort()


async def _read(request: web.Request, limit_bytes: int) -> bytes:
    """The whole body of a request that must be read for its model."""
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limit_bytes:
            raise BodyTooLargeError(
                f"request body too large: expected at most {limit_bytes} bytes, found more"
            )
        parts.append(part)
    return b"".join(parts)


async def _understand(
    request: web.Request, endpoint: wire.Endpoint, body: bytes
) -> wire.Ask | wire.Hopeless | wire.Encoded:
    """What a body means; a large one is read beside the event loop, which others need."""
    read = functools.partial(wire.read, endpoint, request.headers, body, query=request.query_string)
    return read() if len(body) <= READ_AT_ONCE_BYTES else await asyncio.to_thread(read)


def _status_of(error: GateError) -> int:
    match error:
        case BadRequestError():
            return HTTPStatus.BAD_REQUEST
        case BodyTooLargeError():
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        case EncodedBodyError():
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        case UpstreamError():
            return HTTPStatus.BAD_GATEWAY
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR


def _target(request: web.Request) -> str:
    """Path and query as they came; of the absolute form (RFC 9112 §3.2.2) only these."""
    raw = request.raw_path
    return raw if raw.startswith("/") else request.rel_url.raw_path_qs


def _asks_to_unload(endpoint: wire.Endpoint, ask: wire.Ask) -> bool:
    """Whether it is what `ollama stop` sends; the embedding routes have no such form."""
    forms = (wire.Endpoint.GENERATE, wire.Endpoint.CHAT)
    return endpoint in forms and ask.empty and ask.keep_alive_s == 0


def _go_time() -> str:
    """The present instant as Go writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _client(request: web.Request) -> str:
    headers = request.headers
    return (
        headers.get("X-Client-Id")
        or headers.get("X-OpenWebUI-User-Id")
        or request.remote
        or "unknown"
    )


def _answer(answer: wire.Answer) -> web.Response:
    return web.Response(status=answer.status, headers=CIMultiDict(answer.headers), body=answer.body)


def _error(status_code: int, text: str) -> web.Response:
    return _answer(wire.refuse(wire.Dialect.NATIVE, status_code, text))
