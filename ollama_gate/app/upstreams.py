"""The upstreams, and which of them a request is for that needs no slot.

The order of gate.yaml decides wherever several would do: what a name means is what it means at
the first that has it, here as in scheduling. Who was last seen to answer is asked before others.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from ollama_gate.app import relaying
from ollama_gate.app.serving import Caller
from ollama_gate.errors import BadRequestError, UpstreamError, UpstreamSilentError
from ollama_gate.fleet import Fleet, Member
from ollama_gate.gate import Gate
from ollama_gate.known import Line
from ollama_gate.link import Answer, Body
from ollama_gate.ollama import end_to_end

NAMED_IN: Final = "X-Gate-Upstream"
"""In a request the upstream that it is for, in an answer the one that it is from."""

PATIENCE_S: Final = 5.0
"""How long others are made to wait for what an upstream says at once, or it is as good as gone."""

AWAY_S: Final = 1.0
"""The same for one that did not answer lately, or not in time."""

_NOT_SENT_ON: Final = frozenset(
    {
        b"x-priority",
        b"x-client-id",
        b"x-deadline",
        b"x-request-id",
        NAMED_IN.lower().encode(),
        b"host",
        b"origin",
    }
)
"""Meant for the gate; and Ollama is sent its own `Host`."""

NOT_SENT_WITH_BODY: Final = _NOT_SENT_ON | {b"content-length", b"expect"}
"""A body that is at hand tells its own length, and is sent without asking."""

NOT_SENT_FOR_READING: Final = NOT_SENT_WITH_BODY | {
    b"accept-encoding",
    b"if-modified-since",
    b"if-none-match",
    b"range",
}
"""What the gate reads must come whole and as it is, whatever stands between."""


class Upstreams:
    """All of them, in the order of gate.yaml.

    Args:
        fleet: the upstreams together.
        gate: knows who answers.
    """

    def __init__(self, fleet: Fleet, gate: Gate) -> None:
        self.every: Sequence[Member] = fleet.members
        self._fleet = fleet
        self._gate = gate
        self._late: set[str] = set()

    @property
    def several(self) -> bool:
        """Whether there is anything to choose between."""
        return len(self.every) > 1

    @property
    def urls(self) -> str:
        """All of them, for whoever is told of them."""
        return ", ".join(upstream.ollama.url for upstream in self.every)

    def chosen(self, request: Caller) -> Member | None:
        """The one that a request names, if it names one.

        Raises:
            BadRequestError: there is none of that name.
        """
        name = request.headers.get(NAMED_IN)
        if name is None:
            return None
        for upstream in self.every:
            if upstream.name == name:
                return upstream
        there = ", ".join(upstream.name for upstream in self.every)
        raise BadRequestError(f"{NAMED_IN}: expected one of {there}; found {name!r}")

    def is_away(self, upstream: Member) -> bool:
        """Whether an upstream did not answer when it was last asked."""
        return self._gate.is_away(upstream.name)

    def likeliest_first(self) -> list[Member]:
        """All, with those that are away behind the others."""
        return self._fleet.likeliest()

    @contextlib.asynccontextmanager
    async def patience(self, upstream: Member) -> AsyncIterator[None]:
        """Ask an upstream, for no longer than others can be made to wait.

        Raises:
            UpstreamSilentError: it took longer; the next time it is given less.
        """
        late = upstream.name in self._late or self.is_away(upstream)
        try:
            async with asyncio.timeout(AWAY_S if late else PATIENCE_S):
                yield
        except TimeoutError as error:
            self._late.add(upstream.name)
            raise UpstreamSilentError(f"{upstream.ollama.url} did not answer in time") from error
        self._late.discard(upstream.name)

    async def holders(self, name: str) -> tuple[list[Member], list[Member]]:
        """Who lists a model of those who answer, and who did, of the others, when they last did."""
        here: list[Member] = []
        away: list[Member] = []
        for upstream in self.every:
            if await self.line(upstream, name) is not None:
                (away if self.is_away(upstream) else here).append(upstream)
        return here, away

    async def line(self, upstream: Member, name: str) -> Line | None:
        """How an upstream lists a model, or did when it last answered; `None` if it does not."""
        with contextlib.suppress(UpstreamError):
            async with self.patience(upstream):
                await upstream.registry.list_anew()
        return upstream.registry.line(name)

    def whose(self, *upstreams: Member) -> Sequence[tuple[str, str]]:
        """The header that says from whom an answer is, where that is any news."""
        if not self.several:
            return ()
        return ((NAMED_IN, ", ".join(upstream.name for upstream in upstreams)),)


def shared(one: Line | None, other: Line | None) -> bool:
    """Whether two upstreams list one and the same file, so that what changes it changes both."""
    if one is None or other is None or not one.digest:
        return False
    return (one.digest, one.modified_at) == (other.digest, other.modified_at)


async def ask(upstream: Member, request: Caller, body: Body) -> Answer:
    """Send a request on as it came. The caller closes the answer.

    Raises:
        UpstreamGoneError: no answer; nothing was received of it.
    """
    without = NOT_SENT_WITH_BODY if isinstance(body, bytes | None) else _NOT_SENT_ON
    return await upstream.ollama.relay(
        request.method,
        relaying.target(request),
        end_to_end(request.raw_headers, without),
        body,
        lambda: relaying.send_continue(request),
    )
