"""The gate's own routes: whether it lives, and what it knows."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from ollama_gate import __version__, status, wire
from ollama_gate.app.answers import answer_of
from ollama_gate.app.serving import Caller
from ollama_gate.app.upstreams import Upstreams
from ollama_gate.gate import Gate, Past
from ollama_gate.scheduler.types import RequestId, RunnerView, Waiting

_REQUESTS: Final = "/gate/requests/"

Readings = Callable[[], Mapping[str, dict[str, Any]]]
IdOf = Callable[[str], RequestId]


class Own:
    """Handlers of what lies below `/gate`.

    Args:
        gate: whose state is shown.
        upstreams: whose models are shown.
        readings: the last reading of each bin's card.
        id_of: the gate's own name for a request, given either name.
    """

    def __init__(
        self, *, gate: Gate, upstreams: Upstreams, readings: Readings, id_of: IdOf
    ) -> None:
        self._gate = gate
        self._upstreams = upstreams
        self._readings = readings
        self._id_of = id_of
        self._handlers: Mapping[str, Callable[[], Awaitable[web.Response]]] = {
            "/gate/health": self._health,
            "/gate/ready": self._ready,
            "/gate/status": self._status,
        }

    def knows(self, method: str, path: str) -> bool:
        """Whether a request is for one of these routes; all others are Ollama's."""
        if path.startswith(_REQUESTS):
            return method in {"GET", "HEAD", "DELETE"}
        return path in self._handlers and method in {"GET", "HEAD"}

    async def answer(self, request: Caller, path: str) -> web.StreamResponse:
        """The answer to a request for a route that is known here."""
        if path.startswith(_REQUESTS):
            return await self._request(request, path.removeprefix(_REQUESTS))
        return await self._handlers[path]()

    async def _health(self) -> web.Response:
        """Alive."""
        return web.json_response({"status": "alive", "version": __version__})

    async def _ready(self) -> web.Response:
        """Whether an upstream answers, and which do not."""
        every = self._upstreams.every
        away = [one for one in every if not await self._gate.answers(one.name, 0)]
        if len(away) == len(every):
            verb = "do not" if self._upstreams.several else "does not"
            reason = f"{self._upstreams.urls} {verb} answer"
            return web.json_response({"status": "waiting", "reason": reason}, status=503)
        named = {"away": [upstream.name for upstream in away]} if away else {}
        return web.json_response({"status": "ready", **named})

    async def _status(self) -> web.Response:
        """Everything: upstreams, bins, runners, models, the queue, the last decisions."""
        models = [(one.name, await one.registry.known()) for one in self._upstreams.every]
        upstreams = [
            {
                "name": one.name,
                "url": one.ollama.url,
                "answers": await self._gate.answers(one.name, 0),
                "version": one.registry.version or None,
            }
            for one in self._upstreams.every
        ]
        view = self._gate.snapshot()
        decisions = [
            {"ago_s": round(view.now - one.at, 3), "what": one.what, **one.fields}
            for one in reversed(self._gate.decisions)
        ]
        whole = status.whole(
            view,
            version=__version__,
            readings=self._readings(),
            decisions=decisions,
            upstreams=upstreams,
            models=models,
        )
        whole["queue"]["outside"] = self._gate.outside
        every = self._upstreams.every
        whole["traffic"] = status.traffic({one.name: one.registry.ledger for one in every})
        whole["prewarm"] = {one.name: one.prewarmer.status() for one in every if one.prewarmer}
        return web.json_response(whole)

    async def _request(self, request: Caller, given: str) -> web.Response:
        """Where one request stands; DELETE withdraws it."""
        request_id = self._id_of(given)
        found = self._gate.find(request_id)
        if found is None:
            text = f"no request {given!r}: unknown, or long ended"
            return answer_of(wire.refuse(wire.Dialect.NATIVE, HTTPStatus.NOT_FOUND, text))
        if request.method == "DELETE":
            cancelled = self._gate.cancel(request_id)
            return web.json_response({"id": request_id, "cancelled": cancelled})
        told = {"id": request_id, **_describe(found)}
        past = self._gate.past_of(request_id)
        if past is not None:
            told["waited"] = _waited(past)
        return web.json_response(told)


def _waited(past: Past) -> dict[str, Any] | None:
    """What a request had waited for until it had its slot; `None` if it had none."""
    if past.grant is None:
        return None
    return {
        "queued_s": round(past.grant.queued_s, 3),
        "load_s": round(past.grant.load_s, 3),
        "overdue": past.grant.overdue,
        "bin": past.grant.bin,
        "decisions": [
            {"after_s": round(one.at - past.request.arrived_at, 3), "what": one.what, **one.fields}
            for one in past.meanwhile
        ],
    }


def _describe(found: Waiting | RunnerView | str) -> dict[str, Any]:
    now = asyncio.get_running_loop().time()
    match found:
        case Waiting():
            return status.waiting(found, now)
        case RunnerView():
            return {"state": "running", "runner": status.runner(found, now)}
        case str():
            return {"state": found}
