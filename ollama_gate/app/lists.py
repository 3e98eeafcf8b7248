"""What several upstreams have, listed as if it were one: `/api/tags`, `/api/ps`, `/v1/models`."""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web

from ollama_gate import wire
from ollama_gate.app import relaying
from ollama_gate.app.answers import gone
from ollama_gate.app.serving import Caller
from ollama_gate.app.upstreams import (
    NOT_SENT_FOR_READING,
    NOT_SENT_WITH_BODY,
    Upstreams,
)
from ollama_gate.errors import UpstreamBrokenError, UpstreamGoneError
from ollama_gate.fleet import Member
from ollama_gate.gate import Gate
from ollama_gate.link import Answer
from ollama_gate.ollama import end_to_end


class _Told(NamedTuple):
    """A whole answer and whose it is."""

    upstream: Member
    answer: Answer
    body: bytes


class Lists:
    """The lists of one upstream or of all."""

    def __init__(self, *, gate: Gate, upstreams: Upstreams) -> None:
        self._gate = gate
        self._upstreams = upstreams

    async def of_all(self, request: Caller) -> web.StreamResponse:
        """One list of all that answer; who is away or slow is left out of it.

        What is no list, such as a refusal, is shown only where nobody gives one.
        """
        async with asyncio.TaskGroup() as group:
            every = self._upstreams.every
            asked = [group.create_task(self._told(upstream, request)) for upstream in every]
        results = [task.result() for task in asked]
        told = [result for result in results if isinstance(result, _Told)]
        lists = [one for one in told if one.answer.status == HTTPStatus.OK]
        if lists:
            return await self._show(request, lists)
        if told:
            first = told[0]
            return await _say(
                request, first.answer, self._upstreams.whose(first.upstream), first.body
            )
        return gone(request, *(one for one in results if isinstance(one, UpstreamGoneError)))

    async def _show(self, request: Caller, lists: Sequence[_Told]) -> web.StreamResponse:
        bodies = [one.body for one in lists]
        if request.path == "/api/ps":
            bodies = [self._as_promised(one.upstream, one.body) for one in lists]
        added = self._upstreams.whose(*(one.upstream for one in lists))
        body = wire.merged(request.path, bodies)
        return await _say(request, lists[0].answer, added, body)

    async def _told(self, upstream: Member, request: Caller) -> _Told | UpstreamGoneError:
        headers = end_to_end(request.raw_headers, NOT_SENT_FOR_READING)
        try:
            async with self._upstreams.patience(upstream):
                # For HEAD as well: how long it is shows only in the list itself.
                target = relaying.target(request)
                answer = await upstream.ollama.relay("GET", target, headers, None)
                try:
                    body = b"".join([part async for part in answer.chunks()])
                finally:
                    answer.close()
        except UpstreamBrokenError as error:
            return UpstreamGoneError(str(error))
        except UpstreamGoneError as error:
            return error
        return _Told(upstream, answer, body)

    async def of(self, upstream: Member, request: Caller) -> web.StreamResponse:
        """What is resident in one of them, until when the gate will keep it."""
        headers = end_to_end(request.raw_headers, NOT_SENT_WITH_BODY)
        target = relaying.target(request)
        try:
            answer = await upstream.ollama.relay("GET", target, headers, None)
        except UpstreamGoneError as error:
            return gone(request, error)
        added = self._upstreams.whose(upstream)
        try:
            if answer.status != HTTPStatus.OK:
                return await relaying.copy(request, answer, added)
            body = b"".join([part async for part in answer.chunks()])
        except UpstreamBrokenError as error:
            return gone(request, UpstreamGoneError(str(error)))
        finally:
            answer.close()
        return await _say(request, answer, added, self._as_promised(upstream, body))

    def _as_promised(self, upstream: Member, body: bytes) -> bytes:
        return wire.with_expiries(body, lambda digest: self._expiry(upstream, digest))

    def _expiry(self, upstream: Member, digest: str) -> float | None:
        left_s = self._gate.expires_in(upstream.registry.model_of(digest), upstream.name)
        return None if left_s is None or math.isinf(left_s) else time.time() + left_s


async def _say(
    request: Caller, answer: Answer, added: Sequence[tuple[str, str]], body: bytes
) -> web.StreamResponse:
    """Answer as an upstream did, but for the body."""
    response = relaying.Relayed(answer, added)
    if "Content-Length" in response.headers:
        response.headers["Content-Length"] = str(len(body))
    # Whoever has left in this instant is none of the gate's faults.
    with contextlib.suppress(ConnectionResetError):
        await response.prepare(request)
        await response.write_eof(b"" if request.method == "HEAD" else body)
    return response
