"""Who may come in, and what is whose: the gate's own, inference, or everything else."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from ollama_gate import log, wire
from ollama_gate.app import relaying
from ollama_gate.app.admission import Admission
from ollama_gate.app.answers import answer_of
from ollama_gate.app.own import Own, Readings
from ollama_gate.app.passing import Passage
from ollama_gate.config import Config
from ollama_gate.errors import UpstreamGoneError
from ollama_gate.gate import Gate
from ollama_gate.guard import Guard
from ollama_gate.ollama import VIA, Ollama
from ollama_gate.registry import Registry

GRANTED: Final = "ollama_gate.granted"
"""Where a request carries the headers that whatever answers it must have."""

_api = log.get(log.Component.API)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Face:
    """Handlers over one upstream. The gate and the upstream are opened and closed by others.

    Args:
        config: what is in effect.
        gate: where slots come from.
        registry: what is known of models.
        ollama: where bytes go.
        readings: the last reading of each bin's card.
        guard: whom to let in.
        name: what this gate calls itself towards other gates.
    """

    def __init__(
        self,
        *,
        config: Config,
        gate: Gate,
        registry: Registry,
        ollama: Ollama,
        readings: Readings,
        guard: Guard,
        name: str,
    ) -> None:
        self._ollama = ollama
        self._guard = guard
        self._name = name
        self._passage = Passage(gate=gate, registry=registry, ollama=ollama)
        self._admission = Admission(
            config=config, gate=gate, registry=registry, ollama=ollama, passage=self._passage
        )
        self.own = Own(
            config=config,
            gate=gate,
            registry=registry,
            readings=readings,
            id_of=self._admission.id_of,
        )
        self._open: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @web.middleware
    async def enter(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count who is being served; let no fault of the gate's own show more than that."""
        task = asyncio.current_task()
        assert task is not None, "aiohttp runs each handler in a task"
        self._open.add(task)
        self._idle.clear()
        try:
            return await self._judge(request, handler)
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  the top of a task
            _api.error("a fault of the gate", path=request.path, error=repr(error), exc_info=error)
            text = "the gate failed; its log says why"
            return _refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR, text)
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

    async def _judge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        verdict = self._guard.judge(
            request.method, headers.get("Host", ""), headers.get("Origin", "")
        )
        if verdict.headers:
            request[GRANTED] = verdict.headers
        if verdict.status is not None:
            return await self._turn_away(request, verdict.status)
        if self._was_here(request):
            text = f"loop detected: the upstream {self._ollama.url} leads back to this gate"
            return _refuse(request, HTTPStatus.LOOP_DETECTED, text)
        if request.match_info.http_exception is not None:
            # What the library has no route for (`OPTIONS *`, say) is the upstream's to answer.
            return await self.handle(request)
        return await handler(request)

    async def _turn_away(self, request: web.Request, status: int) -> web.StreamResponse:
        """What Ollama answers without looking further, but for `Allow`, which its router adds."""
        response = web.Response(status=status)
        if request.method == "OPTIONS" and not self._was_here(request):
            with contextlib.suppress(UpstreamGoneError):
                answer = await self._ollama.relay("OPTIONS", relaying.target(request), (), None)
                answer.close()
                allowed = [v.decode() for name, v in answer.headers if name.lower() == b"allow"]
                response.headers.extend(("Allow", value) for value in allowed)
        return response

    def _was_here(self, request: web.Request) -> bool:
        return any(
            self._name == name.strip()
            for value in request.headers.getall(VIA.decode(), ())
            for name in value.split(",")
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Admit an inference request; relay anything else at once."""
        endpoint = wire.endpoint_of(request.method, _path(request))
        unusual = relaying.expects(request) not in {"", "100-continue"}
        if endpoint is None or unusual:
            return await self._passage.take(request)
        return await self._admission.take(request, endpoint)


def _path(request: web.Request) -> str:
    """The path as Go's router sees it."""
    raw = relaying.target(request).partition("?")[0]
    return unquote(raw) if "%" in raw else raw


def _refuse(request: web.Request, status: int, text: str) -> web.Response:
    return answer_of(wire.refuse(wire.dialect_of(request.path), status, text))
