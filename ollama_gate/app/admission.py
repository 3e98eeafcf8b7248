"""Inference: what a request asks for, a slot, and the answer that comes through it."""

import asyncio
import functools
import math
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, assert_never

from aiohttp import web

from ollama_gate import names, wire
from ollama_gate.app import limits, relaying
from ollama_gate.app.answers import answer_of
from ollama_gate.app.limits import Patience
from ollama_gate.app.passing import Passage
from ollama_gate.app.sending import Outgoing, Sending, own_headers
from ollama_gate.app.serving import Caller
from ollama_gate.config import Config
from ollama_gate.errors import (
    BadRequestError,
    BodyTooLargeError,
    GateError,
    RanTooLongError,
    UpstreamError,
    UpstreamLoopError,
    UpstreamRefusedError,
)
from ollama_gate.fleet import Fleet, Meaning
from ollama_gate.footprint import Facts
from ollama_gate.gate import REMEMBERED, Gate, RefusedError
from ollama_gate.scheduler.commands import Refuse
from ollama_gate.scheduler.types import Refusal, Request, RequestId

READ_AT_ONCE_BYTES: Final = 128 * 2**10
"""A body up to this size is understood within a few milliseconds, whatever it holds."""

_STATUSES: Final[Sequence[tuple[type[GateError], int]]] = (
    (BadRequestError, HTTPStatus.BAD_REQUEST),
    (BodyTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (RanTooLongError, HTTPStatus.GATEWAY_TIMEOUT),
    (UpstreamLoopError, HTTPStatus.LOOP_DETECTED),
    (UpstreamError, HTTPStatus.BAD_GATEWAY),
)
"""How each error is answered; the first that fits."""


class Admission:
    """The way to an upstream through the gate."""

    def __init__(self, *, config: Config, gate: Gate, fleet: Fleet, passage: Passage) -> None:
        self._config = config
        self._gate = gate
        self._fleet = fleet
        self._passage = passage
        self._sending = Sending(config=config, gate=gate, fleet=fleet)
        self._by_client_id: OrderedDict[str, RequestId] = OrderedDict()

    def id_of(self, given: str) -> RequestId:
        """The gate's own name for a request, given that or the client's."""
        return self._by_client_id.get(given, RequestId(given))

    async def take(self, request: Caller, endpoint: wire.Endpoint) -> web.StreamResponse:
        """Admit a request, wait for its slot, relay its answer."""
        await request.give_up_if_left()
        gate_id = self._new_id(request)
        arrived_at = asyncio.get_running_loop().time()
        try:
            found = await self._admit(request, endpoint, gate_id, arrived_at)
            if isinstance(found, web.StreamResponse):
                return found
            return await self._sending.send(request, *found)
        except RefusedError as refused:
            answer = self._refusal(request, endpoint, gate_id, refused, arrived_at)
        except UpstreamRefusedError as error:
            code = max(error.status, HTTPStatus.BAD_REQUEST)
            answer = wire.refuse(endpoint.dialect, code, error.text, request_id=f"req_{gate_id}")
        except GateError as error:
            answer = wire.refuse(
                endpoint.dialect,
                _status_of(error),
                str(error),
                retryable=not isinstance(error, RanTooLongError),
                request_id=f"req_{gate_id}",
            )
        waited_s = asyncio.get_running_loop().time() - arrived_at
        response = answer_of(answer)
        response.headers.extend(own_headers(request, gate_id, waited_s, 0.0))
        return response

    async def _admit(
        self,
        request: Caller,
        endpoint: wire.Endpoint,
        gate_id: RequestId,
        arrived_at: float,
    ) -> web.StreamResponse | tuple[Outgoing, Request]:
        """An answer that needs no slot, or what is to be sent once there is one.

        Thousands may wait for theirs: whatever was needed up to here is gone by then.
        """
        priority = wire.read_priority(request.headers.get("X-Priority"))
        until = arrived_at + Patience.of(request.headers, self._config.queue).seconds
        body = await relaying.read(request, self._config.max_body_bytes)
        ask = await _understand(request, endpoint, body)
        match ask:
            case wire.Ask():
                pass
            case wire.Hopeless():
                return await self._passage.send(request, _if_any(request, body))
            case _:
                assert_never(ask)
        meaning = None
        if not names.is_cloud(ask.model):
            meaning = await self._meaning(gate_id, ask.model, until)
        if meaning is None or _would_be_refused(ask, meaning.facts):
            to = self._fleet.likeliest(meaning.members if meaning else ())
            return await self._passage.send(request, _if_any(request, body), to)
        if _asks_to_unload(endpoint, ask):
            if self._gate.release(meaning.facts.key):
                response = answer_of(wire.unload_answer(endpoint, ask.model, _go_time()))
                response.headers.extend(own_headers(request, gate_id, 0.0, 0.0))
                return response
            to = self._fleet.likeliest(meaning.members)
            return await self._passage.send(request, body, to)
        scheduled = self._fleet.request(
            gate_id,
            ask,
            meaning,
            priority=priority,
            client=_client(request),
            arrived_at=arrived_at,
            deadline_at=until,
        )
        return Outgoing(ask.body, ask.context_at, ask.launch_options.num_ctx), scheduled

    async def _meaning(self, gate_id: RequestId, name: str, until: float) -> Meaning | None:
        """What a name means, if that can be said in time."""
        try:
            async with asyncio.timeout_at(until if until < math.inf else None):
                return await self._fleet.meaning(gate_id, name)
        except TimeoutError:
            raise RefusedError(Refuse(id=gate_id, reason=Refusal.DEADLINE)) from None

    def _refusal(
        self,
        request: Caller,
        endpoint: wire.Endpoint,
        gate_id: RequestId,
        refused: RefusedError,
        arrived_at: float,
    ) -> wire.Answer:
        refusal = refused.refusal
        waited_s = asyncio.get_running_loop().time() - arrived_at
        limit = limits.words(refused, request.headers, self._config.queue, waited_s)
        text = limit or refusal.text
        if refusal.reason is Refusal.UPSTREAM_AWAY:
            asked = refused.request
            text = self._fleet.silence(asked.needs if asked else ())
        if refusal.wanted_bytes is not None:
            text = wire.never_fits_text(refusal.wanted_bytes, refusal.there_bytes)
        return wire.refusal(
            endpoint.dialect,
            refusal.reason,
            status=refusal.status,
            text=text,
            retry_after_s=refusal.retry_after_s,
            request_id=f"req_{gate_id}",
        )

    def _new_id(self, request: Caller) -> RequestId:
        gate_id = RequestId(secrets.token_hex(16))
        given = request.headers.get("X-Request-Id")
        if given:
            self._by_client_id[given] = gate_id
            if len(self._by_client_id) > REMEMBERED:
                self._by_client_id.popitem(last=False)
        return gate_id


async def _understand(
    request: Caller, endpoint: wire.Endpoint, body: bytes
) -> wire.Ask | wire.Hopeless:
    """What a body means; a large one is read beside the event loop, which others need."""
    read = functools.partial(wire.read, endpoint, request.headers, body, query=request.query_string)
    return read() if len(body) <= READ_AT_ONCE_BYTES else await asyncio.to_thread(read)


def _would_be_refused(ask: wire.Ask, facts: Facts) -> bool:
    """Whether it needs no VRAM: it runs elsewhere, or is not what this model can do.

    Models that make images are refused whatever is asked of them (Ollama v0.32.15).
    """
    can = facts.capabilities
    return facts.remote or "image" in can or (bool(can) and not ask.needs <= can)


def _asks_to_unload(endpoint: wire.Endpoint, ask: wire.Ask) -> bool:
    """Whether it is what `ollama stop` sends; the embedding routes have no such form."""
    forms = (wire.Endpoint.GENERATE, wire.Endpoint.CHAT)
    return endpoint in forms and ask.empty and ask.keep_alive_s == 0


def _if_any(request: Caller, body: bytes) -> bytes | None:
    """A request without a body is relayed without one, which is not the same as an empty one."""
    return body if request.body_exists or "Content-Length" in request.headers else None


def _status_of(error: GateError) -> int:
    found = (status for kind, status in _STATUSES if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def _go_time() -> str:
    """The present instant as Go writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _client(request: Caller) -> str:
    headers = request.headers
    return (
        headers.get("X-Client-Id")
        or headers.get("X-OpenWebUI-User-Id")
        or request.remote
        or "unknown"
    )
