"""Who may come in, and what is whose: the gate's own, inference, or everything else."""

import asyncio
import contextlib
import html
import re
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import HttpVersion11, web

from ollama_gate import log, wire
from ollama_gate.app import relaying
from ollama_gate.app.admission import Admission
from ollama_gate.app.answers import refuse
from ollama_gate.app.own import Own, Readings
from ollama_gate.app.passing import Passage
from ollama_gate.app.serving import Caller, Refused, Unexpected
from ollama_gate.app.upstreams import Upstreams
from ollama_gate.config import Config
from ollama_gate.errors import UpstreamGoneError
from ollama_gate.fleet import Fleet
from ollama_gate.gate import Gate
from ollama_gate.guard import Guard
from ollama_gate.ollama import VIA

_VIA: Final = VIA.decode()

_NO_HOST: Final = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@%\[\]]")
"""What Go takes no `Host` with."""

ALLOW_S: Final = 0.5
"""How long an upstream may take to say which methods a route has, before it is done without."""

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

_api = log.get(log.Component.API)


class Face:
    """Handlers over the upstreams. The gate and they are opened and closed by others.

    Args:
        config: what is in effect.
        gate: where slots come from.
        fleet: the upstreams.
        readings: the last reading of each bin's card.
        guard: whom to let in.
        name: what this gate calls itself towards other gates.
    """

    def __init__(
        self,
        *,
        config: Config,
        gate: Gate,
        fleet: Fleet,
        readings: Readings,
        guard: Guard,
        name: str,
    ) -> None:
        self._upstreams = Upstreams(fleet, gate)
        self._guard = guard
        self._name = name
        self._passage = Passage(gate=gate, upstreams=self._upstreams)
        self._admission = Admission(config=config, gate=gate, fleet=fleet, passage=self._passage)
        self._own = Own(
            gate=gate,
            upstreams=self._upstreams,
            readings=readings,
            id_of=self._admission.id_of,
        )
        self._open: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def enter(self, request: Caller) -> web.StreamResponse:
        """Count who is being served; let no fault of the gate's own show more than that."""
        task = asyncio.current_task()
        assert task is not None, "the server runs each handler in a task"
        self._open.add(task)
        self._idle.clear()
        try:
            return _unspoken(request) or await self._way_of(request)
        except Exception as error:  # noqa: BLE001  the top of a task
            _api.error("a fault of the gate", path=request.path, error=repr(error), exc_info=error)
            text = "the gate failed; its log says why"
            return refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR, text)
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

    def _way_of(self, request: Caller) -> Awaitable[web.StreamResponse]:
        """Who answers a request: nothing here waits, nor is there anything left while it waits."""
        headers = request.headers
        verdict = self._guard.judge(request.method, _host(request), headers.get("Origin", ""))
        request.granted = verdict.headers
        if self._was_here(request):
            which = "one of the upstreams" if self._upstreams.several else "the upstream"
            text = f"loop detected: {which} {self._upstreams.urls} leads back to this gate"
            return _at_once(refuse(request, HTTPStatus.LOOP_DETECTED, text))
        if verdict.status is not None:
            return self._turn_away(request, verdict.status)
        target = relaying.target(request)
        if not target.startswith(("/", "*")):
            is_tunnel = request.method == "CONNECT"
            return _at_once(_nowhere() if is_tunnel else _home(request.method, target))
        path = _path(request)
        if path.startswith("/gate/") and self._own.knows(request.method, path):
            return self._own.answer(request, path)
        endpoint = wire.endpoint_of(request.method, path)
        if endpoint is None:
            return self._passage.take(request)
        return self._admission.take(request, endpoint)

    async def _turn_away(self, request: Caller, status: int) -> web.StreamResponse:
        """What Ollama answers without looking further, but for `Allow`, which its router adds."""
        response = web.Response(status=status)
        with contextlib.suppress(UpstreamGoneError, TimeoutError):
            async with asyncio.timeout(ALLOW_S):
                likeliest = self._upstreams.likeliest_first()[0]
                target = relaying.target(request)
                answer = await likeliest.ollama.relay("OPTIONS", target, (), None)
            answer.close()
            allowed = [value.decode() for name, value in answer.headers if name.lower() == b"allow"]
            if request.method not in ", ".join(allowed).split(", "):
                response.headers.extend(("Allow", value) for value in allowed)
        return response

    def _was_here(self, request: Caller) -> bool:
        passed = request.headers.getall(_VIA, ())
        return any(self._name == name.strip() for value in passed for name in value.split(","))


async def _at_once(response: web.StreamResponse) -> web.StreamResponse:
    """An answer for which nobody has to be asked."""
    return response


def _unspoken(request: Caller) -> web.StreamResponse | None:
    """What Go says of a version or a host that the library lets pass."""
    if request.version.major != 1:
        unsupported = "505 HTTP Version Not Supported: unsupported protocol version"
        return Refused(unsupported if request.version.major > 1 else "400 Bad Request")
    if _BAD_ESCAPE.search(relaying.target(request).partition("?")[0]):
        return Refused("400 Bad Request")
    host = request.headers.get("Host")
    if host is None and request.version >= HttpVersion11:
        return Refused("400 Bad Request: missing required Host header")
    if host and _NO_HOST.search(host):
        return Refused("400 Bad Request: malformed Host header")
    expected = request.headers.get("Expect")
    if expected and "100-continue" not in re.split(r"[ ,\t]+", expected.lower()):
        return Unexpected()
    return None


def _home(method: str, query: str) -> web.Response:
    """Where Go sends who names a host and no path."""
    location = f"/{query}"
    headers = {"Content-Type": "text/html; charset=utf-8"} if method in {"GET", "HEAD"} else {}
    page = f'<a href="{html.escape(location)}">Temporary Redirect</a>.\n\n'.encode()
    headers["Location"] = location
    return web.Response(
        status=HTTPStatus.TEMPORARY_REDIRECT,
        headers=headers,
        body=page if method == "GET" else None,
    )


def _nowhere() -> web.Response:
    """What Go says to `CONNECT` with a host and a port: there is no path to look for."""
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(status=HTTPStatus.NOT_FOUND, headers=headers, body=b"404 page not found\n")


def _host(request: Caller) -> str:
    """Whom a request means: what an absolute target names goes before the header."""
    authority = relaying.authority_and_target(request.raw_path)[0]
    return request.headers.get("Host", "") if authority is None else authority


def _path(request: Caller) -> str:
    """The path as Go's router sees it."""
    raw = relaying.target(request).partition("?")[0]
    return unquote(raw) if "%" in raw else raw
