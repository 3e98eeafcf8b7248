"""One of the two ways to the same Ollama, and how a case is played on it."""

import asyncio
import gzip
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tests.conformance.case import Ask, Case, Step, asks_of, get, post
from tests.conformance.places import fill
from tests.conformance.raw import Reply, Wire, converse

_RETRIES = 200
_RETRY_S = 0.05
_UNLOAD_EVERY = 60
"""An unload is only queued by Ollama, and is undone by whoever asks for the model meanwhile."""


class StageError(Exception):
    """An exchange that only sets the stage did not come to what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer, with what a comparison must know of the exchange.

    Attributes:
        own: texts that only this side has, and what they are called.
        at: when the answer had come.
    """

    reply: Reply
    masks: tuple[str, ...]
    own: Mapping[str, str]
    paced: bool
    at: datetime


class Side:
    """A base URL and the values that are its own.

    Args:
        url: `http://host:port`, with or without a path before Ollama's.
        label: one word; both sides' are of the same length, so that lengths of answers are, too.
        values: what fills the places of roles.
        timeout_s: how long one step may take.
        settle_s: how long to wait before a case that begins with nothing loaded.
    """

    def __init__(
        self,
        url: str,
        label: str,
        values: Mapping[str, str],
        *,
        timeout_s: float,
        settle_s: float = 0.0,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.label = label
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._settle_s = settle_s
        self._values = {
            **values,
            "host": parts.netloc,
            "port": str(self._port),
            "mine": f"conformance-{label}",
            "mine_upper": f"CONFORMANCE-{label.upper()}",
        }

    async def play(self, case: Case) -> list[Answered]:
        """Every exchange of a case, in order; what it changed is put right at the end.

        Raises:
            StageError: the stage could not be set.
            TimeoutError: a step took longer than it may.
        """
        captures: dict[str, str] = {}
        answered: list[Answered] = []
        if case.from_empty:
            await self.unload_all()
            await asyncio.sleep(self._settle_s)
        try:
            for step in case.steps:
                answered += await self._step(step, captures)
        finally:
            for ask in case.afterwards:
                await self._step(ask, captures)
        return answered

    async def unload_all(self) -> None:
        """Unload what is loaded, as a client does, until nothing is.

        Raises:
            StageError: something stays, however often it is told to go.
        """
        for attempt in range(_RETRIES):
            loaded = await self.loaded()
            if not loaded:
                return
            if attempt % _UNLOAD_EVERY == 0:
                for name in loaded:
                    body = json.dumps({"model": name, "keep_alive": 0})
                    await self._step(post("/api/generate", body), {})
            await asyncio.sleep(_RETRY_S)
        raise StageError(f"expected nothing loaded, found {await self.loaded()}")

    async def loaded(self) -> list[str]:
        """Names that `/api/ps` lists."""
        return [model["name"] for model in (await self.json("/api/ps"))["models"]]

    async def capabilities(self, name: str) -> list[str]:
        """What `/api/show` says that a model can do."""
        (answered,) = await self._step(post("/api/show", json.dumps({"model": name})), {})
        shown = json.loads(answered.reply.body or b"{}")
        return list(shown.get("capabilities") or ())

    async def json(self, target: str) -> Any:
        """What a GET answers.

        Raises:
            StageError: it is not JSON.
        """
        (answered,) = await self._step(get(target), {})
        try:
            return json.loads(answered.reply.body)
        except ValueError as error:
            said = answered.reply.broken or answered.reply.body[:80]
            raise StageError(f"GET {self.url}{target}: expected JSON, found {said!r}") from error

    # ---------------------------------------------------------------- exchanges

    async def _step(self, step: Step, captures: dict[str, str]) -> list[Answered]:
        asks = asks_of(step)
        pipelined = not isinstance(step, Ask) and step.pipelined
        values = {**self._values, **captures}
        wires = [self._wire(ask, values) for ask in asks]
        patience_s = asks[0].patience_s or self._timeout_s
        replies = await self._converse(wires, patience_s, pipelined=pipelined)
        if asks[0].until:
            replies = await self._until(asks[0].until, wires, replies)
        replies += [Reply(broken="not asked") for _ in asks[len(replies) :]]
        for ask, reply in zip(asks, replies, strict=True):
            _capture(ask, reply, captures)
        own = {self._values["mine"]: "<own name>"}
        return [
            Answered(reply=reply, masks=ask.masks, own=own, paced=ask.paced, at=datetime.now(UTC))
            for ask, reply in zip(asks, replies, strict=True)
            if not ask.stage
        ]

    async def _converse(
        self, wires: list[Wire], patience_s: float, *, pipelined: bool
    ) -> list[Reply]:
        try:
            async with asyncio.timeout(patience_s):
                return await converse(self._host, self._port, wires, pipelined=pipelined)
        except TimeoutError:
            return [Reply(broken="no answer in time")]

    async def _until(self, until: str, wires: list[Wire], replies: list[Reply]) -> list[Reply]:
        """Ask again until the answer is as it should be."""
        for _ in range(_RETRIES):
            if re.search(until, replies[0].body.decode("utf-8", "replace")):
                return replies
            await asyncio.sleep(_RETRY_S)
            replies = await self._converse(wires, self._timeout_s, pipelined=False)
        raise StageError(f"expected {until!r}, found {replies[0].body[:200]!r}")

    def _wire(self, ask: Ask, values: Mapping[str, str]) -> Wire:
        if ask.verbatim:
            text = fill(ask.verbatim, values)
            is_head = text.startswith("HEAD ")
            return Wire(
                head=text.encode("latin-1"),
                answers_head=is_head,
                half_closes=ask.half_closes,
                leaves_after=ask.leaves_after,
            )
        body = _body(ask, values)
        lines = [f"{ask.method} {self._target(ask, values)} {ask.version}"]
        if ask.host is not None:
            lines.append(f"Host: {fill(ask.host, values)}")
        lines += [f"{name}: {fill(value, values)}" for name, value in ask.headers]
        if ask.encoding:
            lines.append(f"Content-Encoding: {ask.encoding}")
        if ask.waits_for_100:
            lines.append("Expect: 100-continue")
        if ask.pieces:
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(_chunk(fill(piece, values)) for piece in ask.pieces) + b"0\r\n\r\n"
        elif ask.body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return Wire(
            head="\r\n".join([*lines, "", ""]).encode("latin-1"),
            body=body,
            answers_head=ask.method == "HEAD",
            waits_for_100=ask.waits_for_100,
            leaves_after=ask.leaves_after,
            half_closes=ask.half_closes,
        )

    def _target(self, ask: Ask, values: Mapping[str, str]) -> str:
        target = fill(ask.target, values)
        return f"{self._prefix}{target}" if target.startswith("/") else target


def _capture(ask: Ask, reply: Reply, captures: dict[str, str]) -> None:
    text = reply.body.decode("utf-8", "replace")
    for name, pattern in ask.captures:
        found = re.search(pattern, text)
        if found is None:
            raise StageError(f"expected {pattern!r}, found {text[:200]!r}")
        captures[name] = found[1]


def _body(ask: Ask, values: Mapping[str, str]) -> bytes:
    if isinstance(ask.body, bytes):
        body = fill(ask.body.decode("latin-1"), values).encode("latin-1")
    else:
        body = fill(ask.body or "", values).encode()
    match ask.encoding:
        case "zstd":
            return zstd(body)
        case "gzip":
            return gzip.compress(body, mtime=0)
        case _:
            return body


def _chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def zstd(data: bytes) -> bytes:
    """A Zstandard frame (RFC 8878 §3.1.1) whose blocks are not packed."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data))
    size = 2**17  # of a block at most
    blocks = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    for index, block in enumerate(blocks):
        header = len(block) << 3 | (index == len(blocks) - 1)
        frame += struct.pack("<I", header)[:3] + block
    return frame
