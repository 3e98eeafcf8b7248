"""One request sent to wherever it has a slot, until its client has seen an answer begin.

What is sent, and where it may be served, is settled before; which place it gets is the
scheduler's to say. What an upstream did not begin to answer is asked for again.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

from ollama_gate import mishaps, wire
from ollama_gate.app import relaying
from ollama_gate.app.serving import Caller
from ollama_gate.app.upstreams import NAMED_IN, NOT_SENT_WITH_BODY
from ollama_gate.config import Config
from ollama_gate.errors import RanTooLongError, RunnerDiedError, UpstreamGoneError
from ollama_gate.fleet import Fleet
from ollama_gate.gate import Gate, Grant
from ollama_gate.link import Answer
from ollama_gate.ollama import end_to_end
from ollama_gate.scheduler.types import BinId, Need, Request, RequestId

SUSPECT: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR})
"""The statuses under which Ollama says that a runner died."""

PEEK_BYTES: Final = 64 * 2**10
"""So much of an error is read before any of it is relayed."""

TRIES: Final = 2
"""How often one upstream is asked for the same answer, if nothing came of it."""

ERROR_LINE: Final = b'{"error":'
"""How the last line of an NDJSON stream begins that ends in an error."""


class Outgoing(NamedTuple):
    """What is sent once there is a slot.

    Attributes:
        context_at: where in `body` the context stands, if the request names one.
        num_ctx: what stands there, in Ollama's reading.
    """

    body: bytes
    context_at: wire.Place | None
    num_ctx: int | None

    def naming(self, num_ctx: int | None) -> bytes:
        """The body with the context of the runner that it goes to."""
        if self.context_at is None or num_ctx is None or num_ctx == self.num_ctx:
            return self.body
        return wire.with_context(self.body, self.context_at, num_ctx)


class Sending:
    """Takes slots, and relays what comes through them."""

    def __init__(self, *, config: Config, gate: Gate, fleet: Fleet) -> None:
        self._config = config
        self._gate = gate
        self._fleet = fleet

    async def send(
        self, request: Caller, outgoing: Outgoing, scheduled: Request
    ) -> web.StreamResponse:
        """Send it to wherever it gets a slot, and elsewhere or once more if nothing comes of it.

        As long as the client has seen nothing of an answer it may be asked for again: of each
        upstream twice, of one whose runner died once more.
        """
        tries, died = Counter[str](), False
        while True:
            upstream = None
            try:
                async with self._gate.slot(scheduled) as grant:
                    upstream = self._gate.upstream_of(grant.bin)
                    tries[upstream] += 1
                    return await self._relay(request, outgoing, scheduled, grant, again=not died)
            except UpstreamGoneError:
                assert upstream is not None, "who waits for a slot asks no upstream"
                self._gate.lost(upstream)
                left = self._left(scheduled, tries)
                if not left:
                    raise
            except RunnerDiedError:
                left, died = scheduled.needs, True
            scheduled = replace(scheduled, accepted=True, needs=left)

    def _left(self, scheduled: Request, tries: Counter[str]) -> Mapping[BinId, Need]:
        """Where a request may still be tried that was lost at the last place."""
        return {
            bin_id: need
            for bin_id, need in scheduled.needs.items()
            if tries[self._gate.upstream_of(bin_id)] < TRIES
        }

    async def _relay(
        self,
        request: Caller,
        outgoing: Outgoing,
        scheduled: Request,
        grant: Grant,
        *,
        again: bool,
    ) -> web.StreamResponse:
        headers = end_to_end(request.raw_headers, NOT_SENT_WITH_BODY)
        body = outgoing.naming(grant.num_ctx)
        upstream = self._gate.upstream_of(grant.bin)
        sent = self._fleet[upstream].ollama.relay(
            request.method, relaying.target(request), headers, body, fresh=scheduled.accepted
        )
        cut = None
        if self._config.max_run_s:
            answer, cut = await self._within_limit(sent)
        else:
            answer = await sent
        try:
            begun = await self._unless_runner_died(answer, scheduled, again=again)
            added = own_headers(request, scheduled.id, grant.queued_s, grant.load_s, grant.offload)
            if len(self._fleet.members) > 1:
                added = (*added, (NAMED_IN, upstream))
            ended = functools.partial(self._ended, scheduled, upstream, answer.status)
            return await relaying.copy(request, answer, added, begun=begun, mends=True, ended=ended)
        finally:
            if cut is not None:
                cut.cancel()
            answer.close()

    async def _unless_runner_died(
        self, answer: Answer, scheduled: Request, *, again: bool
    ) -> bytes:
        """As much of an error as had to be read to see what it says.

        Raises:
            RunnerDiedError: that its runner is no more, and it may be sent `again`.
        """
        if answer.status not in SUSPECT:
            return b""
        begun = await relaying.peek(answer, PEEK_BYTES)
        died = mishaps.told_by(answer.status, begun)
        if died is not None:
            self._gate.runner_died(scheduled.id, oom=died is mishaps.Mishap.OUT_OF_MEMORY)
            if again:
                raise RunnerDiedError("its runner died before anything was answered")
        return begun

    def _ended(self, scheduled: Request, upstream: str, status: int, line: bytes) -> None:
        """Look at a stream's last line: it cannot be had again, but others may be spared."""
        if line.startswith(ERROR_LINE):
            died = mishaps.told_by(HTTPStatus.INTERNAL_SERVER_ERROR, line)
            if died is not None:
                self._gate.runner_died(scheduled.id, oom=died is mishaps.Mishap.OUT_OF_MEMORY)
            return
        match mishaps.broken_off(line):
            case mishaps.Breach.DIED:
                self._gate.runner_died(scheduled.id, oom=False)
            case mishaps.Breach.UNSAID:
                # Had memory run out, Ollama would be dropping every model by now.
                self._gate.nudge(upstream)
            case None:
                if status == HTTPStatus.OK:
                    self._gate.completed(scheduled.id)

    async def _within_limit(self, sent: Awaitable[Answer]) -> tuple[Answer, asyncio.TimerHandle]:
        """An answer, and what will cut it off when it has run for too long."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._config.max_run_s
        text = f"it ran for longer than max_run, {self._config.max_run_s:g} s"
        try:
            async with asyncio.timeout_at(ends_at):
                answer = await sent
        except TimeoutError:
            raise RanTooLongError(text) from None
        return answer, loop.call_at(ends_at, answer.cut, text)


def own_headers(
    request: Caller, gate_id: RequestId, queued_s: float, load_s: float, offload: float = 0.0
) -> Sequence[tuple[str, str]]:
    """What the gate adds to the answer of a request that it has scheduled."""
    timing = f"queue;dur={(queued_s - load_s) * 1000:.1f}, load;dur={load_s * 1000:.1f}"
    headers = (
        ("X-Request-Id", request.headers.get("X-Request-Id", gate_id)),
        ("X-Gate-Id", gate_id),
        ("Server-Timing", timing),
    )
    return (*headers, ("X-Gate-Offload", f"{offload:.2f}")) if offload else headers
