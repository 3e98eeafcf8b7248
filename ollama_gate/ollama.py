"""What we ask of an upstream: load, unload, residents, show, relay.

Every call goes over connections of the gate's own, so that no client's departure aborts a load.
aiohttp's exceptions become ours here and nowhere else. Nothing is decided and nothing remembered.
"""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from ollama_gate.errors import (
    UpstreamBrokenError,
    UpstreamGoneError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.scheduler.types import Launch

CONNECT_S: Final = 10.0
CONTROL_S: Final = 10.0
"""A question that needs no model is answered at once, or the upstream is as good as gone."""

UNKNOWN_MODEL: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""How `/api/show` answers to what is no name, and to a name of nothing."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))
"""Seconds of silence, seconds between probes, probes: a load may be silent for minutes, and only
the kernel can tell whether the host is still there."""

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that end at each connection (RFC 9110 §7.6.1)."""

_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


def end_to_end(
    headers: MultiMapping[str], without: frozenset[str] = frozenset()
) -> CIMultiDict[str]:
    """The headers to pass on: less what ends at this connection, and less those `without`.

    Args:
        headers: as they came; repeated ones stay repeated.
        without: names in lower case.
    """
    named = {
        token.strip().lower()
        for value in headers.getall("Connection", ())
        for token in value.split(",")
    }
    dropped = HOP_BY_HOP | named | without
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in dropped
    )


class Answer:
    """An upstream's answer whose body is still on its way."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""

    @property
    def headers(self) -> CIMultiDict[str]:
        """What came, less what ends at this connection; repeated headers stay repeated."""
        return end_to_end(self._response.headers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, undecoded.

        Raises:
            UpstreamBrokenError: the body broke off.
        """
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamBrokenError(f"the answer broke off: {_words(error)}") from error


class Ollama:
    """One upstream. `open` before the first call, `close` after the last."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Take what needs a running event loop."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_probed_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            skip_auto_headers=_AUTOMATIC,
        )

    async def close(self) -> None:
        """Drop every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def residents(self) -> list[Mapping[str, Any]]:
        """The models of `GET /api/ps`, as they come.

        Raises:
            UpstreamGoneError: no answer.
            UpstreamRefusedError: not the answer of an Ollama.
        """
        return _records(await self._ask("GET", "/api/ps"), "/api/ps")

    async def tags(self) -> list[Mapping[str, Any]]:
        """The models of `GET /api/tags`; raises as `residents` does."""
        return _records(await self._ask("GET", "/api/tags"), "/api/tags")

    async def show(self, name: str) -> Mapping[str, Any] | None:
        """What `POST /api/show` says of a model, or `None` if Ollama knows no such name.

        Raises:
            UpstreamGoneError: no answer.
            UpstreamRefusedError: it knows the name, and cannot say.
        """
        try:
            return await self._ask("POST", "/api/show", {"model": name})
        except UpstreamRefusedError as error:
            if error.status in UNKNOWN_MODEL:
                return None
            raise

    async def load(self, name: str, launch: Launch, *, embedding: bool, keep_alive: str) -> None:
        """Load a model, however long it takes, or change how long a loaded one may idle.

        Args:
            name: as a client wrote it.
            launch: the options for its runner.
            embedding: it can do nothing else, so that `/api/generate` would refuse it.
            keep_alive: a Go duration; negative for no limit.

        Raises:
            UpstreamGoneError: the connection ended before the load did.
            UpstreamRefusedError: Ollama's status and words.
        """
        options = _options(launch)
        body: dict[str, Any] = {"model": name, "keep_alive": keep_alive, "stream": False}
        if options:
            body["options"] = options
        if embedding:
            del body["stream"]
        elif launch.shift is not None:
            body["shift"] = launch.shift
        path = "/api/embed" if embedding else "/api/generate"
        await self._ask("POST", path, body, within_s=None)

    async def unload(self, name: str) -> None:
        """Ask for a model to go; the answer comes before it has gone. Raises as `load` does."""
        await self._ask("POST", "/api/generate", {"model": name, "keep_alive": 0})

    @contextlib.asynccontextmanager
    async def relay(
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> AsyncIterator[Answer]:
        """Send a client's request on; leaving the block before the body's end hangs up.

        Args:
            method: as it came.
            target: path and query exactly as they came.
            headers: what is to be sent, `Host` aside.
            body: the bytes, or a stream of them.

        Raises:
            UpstreamGoneError: no answer; nothing was received of it.
        """
        try:
            response = await self._open_session().request(
                method,
                URL(self.url + target, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamGoneError(f"{self.url} does not answer: {_words(error)}") from error
        try:
            yield Answer(response)
        finally:
            # A body read to its end has given its connection back already.
            response.close()

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        within_s: float | None = CONTROL_S,
    ) -> Mapping[str, Any]:
        timeout = aiohttp.ClientTimeout(total=within_s, sock_connect=CONNECT_S)
        try:
            async with self._open_session().request(
                method, self.url + path, json=body, timeout=timeout, allow_redirects=False
            ) as response:
                text = await response.text(errors="replace")
        except TimeoutError as error:
            raise UpstreamSilentError(f"{self.url} did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamGoneError(f"{self.url} does not answer: {_words(error)}") from error
        return _read(response.status, text)

    def _open_session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "open() comes first"
        return self._session


def _read(status: int, text: str) -> Mapping[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamRefusedError(status, text[:200] or "empty answer")
    if status != HTTPStatus.OK or "error" in answer:
        raise UpstreamRefusedError(status, str(answer.get("error", text[:200])))
    return answer


def _records(answer: Mapping[str, Any], path: str) -> list[Mapping[str, Any]]:
    models = answer.get("models") or []
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise UpstreamRefusedError(200, f"{path} gave no list of models")
    return models


def _options(launch: Launch) -> dict[str, Any]:
    given = {
        "num_ctx": launch.num_ctx,
        "num_batch": launch.num_batch,
        "num_gpu": launch.num_gpu,
        "main_gpu": launch.main_gpu,
        "use_mmap": launch.use_mmap,
        "num_thread": launch.num_thread,
        "draft_num_predict": launch.draft_num_predict,
    }
    return {name: value for name, value in given.items() if value is not None}


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
