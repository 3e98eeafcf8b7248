"""What needs no slot: relayed at once, even while everything waits.

With one upstream all of it is that one's own. With several a request may name one of them;
otherwise lists are those of all, a question about one model is answered by the first that has
it, what changes models is `changes`'s to place, and everything else is for the first that
answers.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import web

from ollama_gate import wire
from ollama_gate.app import relaying
from ollama_gate.app.answers import gone, refuse
from ollama_gate.app.changes import PEEK_BYTES, Changes
from ollama_gate.app.lists import Lists
from ollama_gate.app.serving import Caller
from ollama_gate.app.upstreams import Upstreams, ask
from ollama_gate.errors import BadRequestError, UpstreamGoneError
from ollama_gate.fleet import Member
from ollama_gate.gate import Gate
from ollama_gate.link import Answer, Body

_OF_ONE_MODEL: Final = "/v1/models/"


class Passage:
    """The way to an upstream without a slot."""

    def __init__(self, *, gate: Gate, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._lists = Lists(gate=gate, upstreams=upstreams)
        self._changes = Changes(gate=gate, upstreams=upstreams)

    async def take(self, request: Caller) -> web.StreamResponse:
        """Relay a request as it comes."""
        try:
            chosen = self._upstreams.chosen(request)
        except BadRequestError as error:
            return refuse(request, HTTPStatus.BAD_REQUEST, str(error))
        method, path = request.method, request.path
        if self._changes.knows(method, path):
            return await self._changes.take(request, chosen)
        only = chosen or (None if self._upstreams.several else self._upstreams.every[0])
        if only is None:
            if wire.is_list(method, path):
                return await self._lists.of_all(request)
            if _asks_for_a_model(method, path):
                return await self._look_up(request)
        elif (method, path) == ("GET", "/api/ps"):
            return await self._lists.of(only, request)
        return await self.send(request, _stream(request), [only] if only else ())

    async def send(
        self, request: Caller, body: Body, to: Sequence[Member] = ()
    ) -> web.StreamResponse:
        """Relay a request whose body is at hand, or is streamed, to the first that answers.

        Args:
            request: what was asked for.
            body: what is sent on.
            to: whom to ask, one after the other; otherwise all, the likeliest first. Of a body
                that is streamed the first alone is asked: what was read of it is gone.
        """
        asked = to or self._upstreams.likeliest_first()
        if not isinstance(body, bytes | None):
            asked = asked[:1]
        failures: list[UpstreamGoneError] = []
        for upstream in asked:
            try:
                answer = await ask(upstream, request, body)
            except UpstreamGoneError as error:
                failures.append(error)
                continue
            try:
                return await self._show(request, upstream, answer)
            finally:
                answer.close()
        return gone(request, *failures)

    async def _look_up(self, request: Caller) -> web.StreamResponse:
        """What the first says that has a model; if nobody has, what the first one says."""
        body, is_whole = await relaying.begin(request, PEEK_BYTES)
        if not is_whole:
            return await self.send(request, relaying.after(body, request.content.iter_any()))
        sent = body if request.body_exists else None
        silent: list[tuple[Member, UpstreamGoneError]] = []
        unknown: list[tuple[Member, Answer]] = []
        with contextlib.ExitStack() as stack:
            for upstream in self._upstreams.likeliest_first():
                try:
                    async with self._upstreams.patience(upstream):
                        answer = await ask(upstream, request, sent)
                except UpstreamGoneError as error:
                    silent.append((upstream, error))
                    continue
                stack.callback(answer.close)
                if answer.status != HTTPStatus.NOT_FOUND:
                    return await self._show(request, upstream, answer)
                unknown.append((upstream, answer))
            name = _model_asked_for(request.path, body)
            missed = [error for one, error in silent if one.registry.may_have(name)]
            if unknown and not missed:
                return await self._show(request, *unknown[0])
        return gone(request, *(missed or (error for _, error in silent)))

    async def _show(self, request: Caller, upstream: Member, answer: Answer) -> web.StreamResponse:
        return await relaying.copy(request, answer, self._upstreams.whose(upstream))


def _asks_for_a_model(method: str, path: str) -> bool:
    if path.startswith(_OF_ONE_MODEL):
        return method in {"GET", "HEAD"}
    return (method, path) == ("POST", "/api/show")


def _model_asked_for(path: str, body: bytes) -> str:
    if path.startswith(_OF_ONE_MODEL):
        return path.removeprefix(_OF_ONE_MODEL)
    return next(iter(wire.changed_names(body)), "")


def _stream(request: Caller) -> AsyncIterator[bytes] | None:
    return request.content.iter_any() if request.body_exists else None
