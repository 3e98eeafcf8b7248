"""Answers of the gate's own, as the server sends them."""

from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from ollama_gate import wire
from ollama_gate.app.serving import Caller
from ollama_gate.errors import UpstreamGoneError


def answer_of(answer: wire.Answer) -> web.Response:
    """A whole answer."""
    return web.Response(status=answer.status, headers=CIMultiDict(answer.headers), body=answer.body)


def refuse(request: Caller, status: int, text: str) -> web.Response:
    """An error in the dialect of the route that was asked for."""
    return answer_of(wire.refuse(wire.dialect_of(request.path), status, text))


def gone(request: Caller, *errors: UpstreamGoneError) -> web.Response:
    """What is said in place of upstreams that do not answer."""
    return refuse(request, HTTPStatus.BAD_GATEWAY, "; ".join(map(str, errors)))
