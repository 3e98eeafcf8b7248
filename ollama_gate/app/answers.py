"""Answers of the gate's own, as the server sends them."""

from aiohttp import web
from multidict import CIMultiDict

from ollama_gate import wire


def answer_of(answer: wire.Answer) -> web.Response:
    """A whole answer."""
    return web.Response(status=answer.status, headers=CIMultiDict(answer.headers), body=answer.body)
