"""The bare aiohttp pass-through that the gate is measured against: no queue, no limits, no checks.

Usage: python -m bench.rig.passthrough PORT UPSTREAM_URL
       python -m bench.rig.passthrough PORT hold

With `hold` it is a server that reads each request and never answers.
"""

import asyncio
import sys
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from bench.rig.processes import run_until_stdin_ends

BACKLOG: Final = 4096
MAX_BODY_BYTES: Final = 2**30

_ENDS_HERE: Final = ("Host", "Connection", "Keep-Alive", "Transfer-Encoding")


def _passed_on(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept = headers.copy()
    for name in _ENDS_HERE:
        kept.popall(name, None)
    return kept


class PassThrough:
    """Relays everything to one upstream, both ways as it comes."""

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session

    async def relay(self, request: web.Request) -> web.StreamResponse:
        async with self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=_passed_on(request.headers),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def _hold(request: web.Request) -> web.StreamResponse:
    await request.read()
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nothing ends the wait")


async def _serve(port: int, upstream: str) -> None:
    session = aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )
    handler = _hold if upstream == "hold" else PassThrough(upstream, session).relay
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, auto_decompress=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    run_until_stdin_ends(_serve(int(sys.argv[1]), sys.argv[2]))
