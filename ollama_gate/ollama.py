"""What we ask of an upstream: load, unload, residents, show, relay.

Every call goes over connections of the gate's own, so that no client's departure aborts a load.
Nothing is decided and nothing remembered.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from ollama_gate.errors import (
    UpstreamBrokenError,
    UpstreamGoneError,
    UpstreamLoopError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.link import Answer, Body, Header, Link
from ollama_gate.scheduler.types import Launch

CONTROL_S: Final = 10.0
"""A question that needs no model is answered at once, or the upstream is as good as gone."""

UNKNOWN_MODEL: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})
"""How `/api/show` answers to what is no name, and to a name of nothing."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that end at each connection (RFC 9110 §7.6.1)."""

_VOCABULARY: Final = "tokenizer."
"""How the keys of `model_info` begin whose lists are as long as the vocabulary."""

VIA: Final = b"X-Ollama-Gate-Via"
"""Names each gate that a request has passed; one that finds itself there stands in a circle."""


def end_to_end(headers: Iterable[Header], without: frozenset[bytes] = frozenset()) -> list[Header]:
    """The headers to pass on: less what ends at this connection, and less those `without`.

    Args:
        headers: as they came; repeated ones stay repeated.
        without: names in lower case.
    """
    given = [(header[0].lower(), header) for header in headers]
    named = {
        token.strip().lower()
        for name, (_, value) in given
        if name == b"connection"
        for token in value.split(b",")
    }
    return [
        header
        for name, header in given
        if name not in HOP_BY_HOP and name not in without and name not in named
    ]


class Ollama:
    """One upstream. `open` before the first call, `close` after the last.

    Args:
        url: its base URL.
        gate: what this gate calls itself towards other gates.
    """

    def __init__(self, url: str, *, gate: str = "") -> None:
        self.url = url.rstrip("/")
        self._marks: tuple[Header, ...] = ((VIA, gate.encode()),) if gate else ()
        self._link: Link | None = None

    async def open(self) -> None:
        """Take what needs a running event loop."""
        self._link = Link(self.url)

    async def close(self) -> None:
        """Drop every connection."""
        if self._link is not None:
            self._link.close()
            self._link = None

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

    async def version(self) -> str:
        """Ollama's own, such as `0.32.15`; empty where it does not say. Raises as `residents`."""
        version = (await self._ask("GET", "/api/version")).get("version")
        return version if isinstance(version, str) else ""

    async def show(self, name: str, *, verbose: bool = False) -> Mapping[str, Any] | None:
        """What `POST /api/show` says of a model, or `None` if Ollama knows no such name.

        Args:
            name: as a client or Ollama wrote it.
            verbose: with the lists in `model_info`, which are `null` otherwise; the vocabulary,
                several megabytes of them, is left out.

        Raises:
            UpstreamGoneError: no answer.
            UpstreamRefusedError: it knows the name, and cannot say.
        """
        body: dict[str, Any] = {"model": name}
        read = _read
        if verbose:
            body["verbose"] = True
            read = _read_but_vocabulary
        try:
            return await self._ask("POST", "/api/show", body, read=read)
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

    async def relay(
        self,
        method: str,
        target: str,
        headers: Iterable[Header],
        body: Body,
        on_continue: Callable[[], None] | None = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Send a client's request on. The caller closes the answer; unread, that hangs up.

        Args:
            method: as it came.
            target: path and query exactly as they came.
            headers: what is to be sent; `Host` and the framing of a body at hand are added.
            body: the bytes, or a stream of them.
            on_continue: told when the upstream asks for the body.
            fresh: send it once and on a new connection, whatever happens.

        Raises:
            UpstreamGoneError: no answer; nothing was received of it.
        """
        return await self._opened().send(
            method, target, (*headers, *self._marks), body, on_continue=on_continue, fresh=fresh
        )

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        within_s: float | None = CONTROL_S,
        read: Callable[[int, bytes], Mapping[str, Any]] | None = None,
    ) -> Mapping[str, Any]:
        headers, sent = self._marks, None
        if body is not None:
            headers = (*headers, (b"Content-Type", b"application/json"))
            sent = json.dumps(body).encode()
        try:
            async with asyncio.timeout(within_s):
                answer = await self._opened().send(method, path, headers, sent)
                try:
                    whole = b"".join([part async for part in answer.chunks()])
                finally:
                    answer.close()
        except TimeoutError as error:
            raise UpstreamSilentError(f"{self.url} did not answer in time") from error
        except UpstreamBrokenError as error:
            raise UpstreamGoneError(f"{self.url} does not answer: {error}") from error
        return (read or _read)(answer.status, whole)

    def _opened(self) -> Link:
        assert self._link is not None, "open() comes first"
        return self._link


def _read(status: int, whole: bytes) -> Mapping[str, Any]:
    text = whole.decode(errors="replace")
    if status == HTTPStatus.LOOP_DETECTED:
        raise UpstreamLoopError(text[:200])
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamRefusedError(status, text[:200] or "empty answer")
    if status != HTTPStatus.OK or "error" in answer:
        raise UpstreamRefusedError(status, str(answer.get("error", text[:200])))
    return answer


def _read_but_vocabulary(status: int, whole: bytes) -> Mapping[str, Any]:
    """The same without `tokenizer.*`, which is skipped rather than read and thrown away."""
    try:
        raw = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
        info = msgspec.json.decode(raw.get("model_info", b"{}"), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return _read(status, whole)
    kept = [
        b"%s:%s" % (json.dumps(key).encode(), value)
        for key, value in info.items()
        if not key.startswith(_VOCABULARY)
    ]
    raw["model_info"] = msgspec.Raw(b"{%s}" % b",".join(kept))
    return _read(status, msgspec.json.encode(raw))


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
