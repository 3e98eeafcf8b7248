"""What needs no slot: relayed at once, even while everything waits."""

import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import web

from ollama_gate import wire
from ollama_gate.app import relaying
from ollama_gate.app.answers import answer_of
from ollama_gate.app.serving import Caller
from ollama_gate.errors import UpstreamBrokenError, UpstreamError, UpstreamGoneError
from ollama_gate.fleet import Member
from ollama_gate.gate import Gate
from ollama_gate.link import Body
from ollama_gate.ollama import Ollama, end_to_end
from ollama_gate.registry import Registry
from ollama_gate.scheduler.types import ModelKey

_NOT_SENT_ON: Final = frozenset(
    {
        b"x-priority",
        b"x-client-id",
        b"x-deadline",
        b"x-request-id",
        b"host",
        b"origin",
    }
)
"""Meant for the gate; and Ollama is sent its own `Host`."""

NOT_SENT_WITH_BODY: Final = _NOT_SENT_ON | {b"content-length", b"expect"}
"""A body that is at hand tells its own length, and is sent without asking."""

CHANGES_MODELS: Final = frozenset(
    {
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
    }
)
"""After one of these a name may mean another model."""

PEEK_BYTES: Final = 2**24
"""How much of a body is looked into for the name that it changes; no real one is longer."""

VACATE_S: Final = 30.0
"""How long a model that is about to be replaced or deleted may take to end its answers."""


class Passage:
    """The way to an upstream without a slot."""

    def __init__(self, *, gate: Gate, registry: Registry, ollama: Ollama) -> None:
        self._gate = gate
        self._registry = registry
        self._ollama = ollama

    async def take(self, request: Caller) -> web.StreamResponse:
        """Relay a request as it comes."""
        if (request.method, request.path) in CHANGES_MODELS:
            return await self._change(request)
        if request.path == "/api/ps" and request.method == "GET":
            return await self._list(request)
        return await self.send(request, _stream(request))

    async def send(
        self, request: Caller, body: Body, to: Sequence[Member] = ()
    ) -> web.StreamResponse:
        """Relay a request whose body is at hand, or is streamed.

        Args:
            request: as it came.
            body: of it.
            to: the first of these, if there are any.
        """
        ollama = to[0].ollama if to else self._ollama
        without = NOT_SENT_WITH_BODY if isinstance(body, bytes | None) else _NOT_SENT_ON
        headers = end_to_end(request.raw_headers, without)
        try:
            answer = await ollama.relay(
                request.method,
                relaying.target(request),
                headers,
                body,
                lambda: relaying.send_continue(request),
            )
        except UpstreamGoneError as error:
            return _gone(request, error)
        try:
            return await relaying.copy(request, answer)
        finally:
            answer.close()

    async def _list(self, request: Caller) -> web.StreamResponse:
        """What is resident, until when the gate will keep it."""
        headers = end_to_end(request.raw_headers, NOT_SENT_WITH_BODY)
        try:
            answer = await self._ollama.relay("GET", relaying.target(request), headers, None)
        except UpstreamGoneError as error:
            return _gone(request, error)
        try:
            if answer.status != HTTPStatus.OK:
                return await relaying.copy(request, answer)
            response = relaying.Relayed(answer, ())
            body = b"".join([part async for part in answer.chunks()])
        except UpstreamBrokenError as error:
            return _gone(request, UpstreamGoneError(str(error)))
        finally:
            answer.close()
        body = wire.with_expiries(body, self._expiry)
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(len(body))
        # Whoever has left in this instant is none of the gate's faults.
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write_eof(body)
        return response

    def _expiry(self, digest: str) -> float | None:
        left_s = self._gate.expires_in(self._registry.model_of(digest))
        return None if left_s is None or math.isinf(left_s) else time.time() + left_s

    async def _change(self, request: Caller) -> web.StreamResponse:
        """Relay what gives a name another meaning, once its runner has left it."""
        begun, whole = await relaying.begin(request, PEEK_BYTES)
        changed = wire.changed_names(begun) if whole else ()
        # The new meaning may be there before the last byte of the answer is here.
        vacated: list[ModelKey] = []
        try:
            with self._registry.changing(changed):
                if not whole:
                    rest = relaying.after(begun, request.content.iter_any())
                    return await self.send(request, rest)
                with contextlib.suppress(UpstreamError):
                    await self._vacate(changed, vacated)
                return await self.send(request, begun if request.body_exists else None)
        finally:
            if request.method == "DELETE":
                self._forget(vacated)

    async def _vacate(self, changed: Sequence[str], vacated: list[ModelKey]) -> None:
        """Unload what would be replaced or deleted: afterwards no name would reach it."""
        for name in changed:
            facts = await self._registry.facts(name)
            if facts is not None:
                vacated.append(facts.key)
                await self._gate.vacate(facts.key, VACATE_S)

    def _forget(self, models: Sequence[ModelKey]) -> None:
        for model in models:
            self._registry.deleted(model)


def _stream(request: Caller) -> AsyncIterator[bytes] | None:
    return request.content.iter_any() if request.body_exists else None


def _gone(request: Caller, error: UpstreamGoneError) -> web.Response:
    dialect = wire.dialect_of(request.path)
    return answer_of(wire.refuse(dialect, HTTPStatus.BAD_GATEWAY, str(error)))
