"""How requests are served: the one application and the one runner, in production and in tests."""

import logging
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from ollama_gate.app.face import GRANTED, Face
from ollama_gate.app.relaying import Relayed

MAX_HEADER_BYTES: Final = 2**20
"""Go's HTTP server, and so Ollama, takes as much."""

CLEANUP_S: Final = 0.5
"""For handlers that were cut off to end. To aiohttp 0 would mean: as long as they like."""

_ADDED_LAST: Final = frozenset({"date", "content-length", "transfer-encoding", "connection"})
"""What Go's server writes behind the headers of a handler, which it sorts."""

_silent = logging.getLogger(f"{__name__}.aiohttp")
_silent.disabled = True


def make_app(face: Face) -> web.Application:
    """The routes: the gate's own, and one for everything else."""
    app = web.Application(middlewares=[face.enter])
    app.router.add_get("/gate/health", face.own.health)
    app.router.add_get("/gate/ready", face.own.ready)
    app.router.add_get("/gate/status", face.own.status)
    app.router.add_get("/gate/requests/{id}", face.own.request)
    app.router.add_delete("/gate/requests/{id}", face.own.request)
    app.router.add_route("*", "/{path:.*}", face.handle, expect_handler=_left_to_the_upstream)
    app.on_response_prepare.append(_finish_headers)
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


async def _left_to_the_upstream(_: web.Request) -> None:
    """Whether a body is wanted (`Expect: 100-continue`) is not for the library to say."""


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Take out what the library adds, put in what a page of another origin must see.

    Ollama sends no `Server`, and no type without a body.
    """
    headers = response.headers
    headers.popall("Server", None)
    if isinstance(response, Relayed) and not response.typed:
        headers.popall("Content-Type", None)
    granted = request.get(GRANTED, ())
    if granted:
        _merge(headers, granted)


def _merge(headers: CIMultiDict[str], granted: tuple[tuple[str, str], ...]) -> None:
    """Put headers where Go's server would have put them."""
    given = list(headers.items())
    own = next(
        (at for at, (name, _) in enumerate(given) if name.lower() in _ADDED_LAST), len(given)
    )
    headers.clear()
    headers.extend(sorted([*given[:own], *granted], key=lambda header: header[0]))
    headers.extend(given[own:])
