"""What changes models, or needs to know which upstream's they are: where it goes, and what first.

Where a request goes that no upstream was named in:

* a deletion to all that have the model, one after the other, so that afterwards no list shows it;
* a copy, and a model created from another, to the first that has that one;
* a pull or a push to the first that has the model;
* everything else, blobs among it, to the first that answers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

from ollama_gate import log, wire
from ollama_gate.app import relaying
from ollama_gate.app.answers import gone, refuse
from ollama_gate.app.serving import Caller
from ollama_gate.app.upstreams import NAMED_IN, Upstreams, ask, shared
from ollama_gate.errors import UpstreamError, UpstreamGoneError
from ollama_gate.fleet import Member
from ollama_gate.gate import Gate
from ollama_gate.link import Answer, Body
from ollama_gate.scheduler.types import ModelKey

CHANGES_MODELS: Final = frozenset(
    {
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
    }
)
"""After one of these a name may mean another model."""

MAKES_FROM_ANOTHER: Final = frozenset({"/api/create", "/api/copy"})

PEEK_BYTES: Final = 2**24
"""How much of a body is looked into for the names in it; no real one is longer."""

VACATE_S: Final = 30.0
"""How long a model that is about to be replaced or deleted may take to end its answers."""

_api = log.get(log.Component.API)


class _Change(NamedTuple):
    """What a request changes.

    Attributes:
        body: as far as it was read.
        is_whole: whether that is all of it; otherwise nothing is known of the rest.
        changed: the names that may mean another model afterwards.
        source: the model that another one is made from.
    """

    body: bytes
    is_whole: bool
    changed: Sequence[str]
    source: str | None

    def sent(self, request: Caller) -> Body:
        """What is sent on."""
        if not self.is_whole:
            return relaying.after(self.body, request.content.iter_any())
        return self.body if request.body_exists else None


class Changes:
    """The way to an upstream for what changes its models."""

    def __init__(self, *, gate: Gate, upstreams: Upstreams) -> None:
        self._gate = gate
        self._upstreams = upstreams

    def knows(self, method: str, path: str) -> bool:
        """Whether a request is for one of these routes."""
        if (method, path) in CHANGES_MODELS:
            return True
        return self._upstreams.several and (method, path) == ("POST", "/api/push")

    async def take(self, request: Caller, chosen: Member | None) -> web.StreamResponse:
        """Relay a change once the runners have left the names that it changes.

        Args:
            request: what was asked for.
            chosen: the upstream that it is for; otherwise it is found.
        """
        change = await _read(request)
        targets = [chosen] if chosen else await self._targets(request, change)
        if not chosen and (there := await self._in_its_way(request, change, targets[0])):
            name, first = change.changed[0], targets[0].name
            text = (
                f"{name!r} is on upstream {there.name!r}, which goes before {first!r}, where it "
                f"would be made; delete it there first, or name one in {NAMED_IN}"
            )
            return refuse(request, HTTPStatus.CONFLICT, text)
        if (request.method, request.path) not in CHANGES_MODELS:
            return await self._relay(request, change, targets)
        return await self._change(request, change, targets)

    async def _targets(self, request: Caller, change: _Change) -> list[Member]:
        """Whom a change goes to that names nobody."""
        if not self._upstreams.several:
            return list(self._upstreams.every)
        if request.path in MAKES_FROM_ANOTHER:
            name = change.source
        else:
            name = change.changed[0] if change.changed else None
        here, away = await self._upstreams.holders(name) if name else ([], [])
        if request.method == "DELETE" and here:
            for upstream in away:
                _api.warning("not deleted: it is away", upstream=upstream.name, model=name)
            return here
        return (here or away or self._upstreams.likeliest_first())[:1]

    async def _in_its_way(self, request: Caller, change: _Change, target: Member) -> Member | None:
        """An upstream whose model of that name would go before the one that is to be made."""
        every = self._upstreams.every
        before = every[: every.index(target)]
        if not before or request.path not in MAKES_FROM_ANOTHER or not change.changed:
            return None
        name = change.changed[0]
        there = await self._upstreams.line(target, name)
        for upstream in before:
            line = await self._upstreams.line(upstream, name)
            if line is not None and not shared(line, there):
                return upstream
        return None

    async def _change(
        self, request: Caller, change: _Change, targets: Sequence[Member]
    ) -> web.StreamResponse:
        vacated: list[tuple[Member, ModelKey]] = []
        try:
            # The new meaning may be there before the last byte of the answer is here.
            with self._changing(change.changed):
                for name in change.changed:
                    await self._vacate(name, targets, vacated)
                return await self._relay(request, change, targets)
        finally:
            if request.method == "DELETE":
                for upstream, model in vacated:
                    upstream.registry.deleted(model)

    @contextlib.contextmanager
    def _changing(self, changed: Sequence[str]) -> Iterator[None]:
        """Any upstream's name may change: two may share their files."""
        with contextlib.ExitStack() as stack:
            for upstream in self._upstreams.every:
                stack.enter_context(upstream.registry.changing(changed))
            yield

    async def _vacate(
        self, name: str, targets: Sequence[Member], vacated: list[tuple[Member, ModelKey]]
    ) -> None:
        """Unload what would be replaced or deleted: afterwards no name would reach it."""
        for upstream in targets:
            with contextlib.suppress(UpstreamError):
                facts = await upstream.registry.facts(name)
                if facts is not None:
                    vacated.append((upstream, facts.key))
                    # Others may share the files.
                    await self._gate.vacate(facts.key, VACATE_S)

    async def _relay(
        self, request: Caller, change: _Change, targets: Sequence[Member]
    ) -> web.StreamResponse:
        """Send it to each in turn, and show what is worst of what they say."""
        with contextlib.ExitStack() as stack:
            answers: list[tuple[Member, Answer]] = []
            failures: list[UpstreamGoneError] = []
            for target in targets:
                try:
                    answer = await ask(target, request, change.sent(request))
                except UpstreamGoneError as error:
                    failures.append(error)
                    _api.warning("not changed", upstream=target.name, reason=str(error))
                    continue
                stack.callback(answer.close)
                answers.append((target, answer))
            if not answers:
                return gone(request, *failures)
            # Two that share their files may say that the second found nothing more to do.
            ranked = sorted(answers, key=lambda one: _badness(one[1].status), reverse=True)
            badness = _badness(ranked[0][1].status)
            whose = [one for one, answer in ranked if _badness(answer.status) == badness]
            added = self._upstreams.whose(*whose)
            return await relaying.copy(request, ranked[0][1], added)


async def _read(request: Caller) -> _Change:
    body, is_whole = await relaying.begin(request, PEEK_BYTES)
    changed = wire.changed_names(body) if is_whole else ()
    source = wire.source_name(body) if is_whole else None
    return _Change(body, is_whole, changed, source)


def _badness(status: int) -> int:
    """An error goes before a success, and that before a model that was not there."""
    if status == HTTPStatus.NOT_FOUND:
        return 0
    return 2 if status >= HTTPStatus.BAD_REQUEST else 1
