"""What is known of an upstream's models: by name, by what runs, and all of them.

It decides how long a listing is believed and what is done without an answer, and looks for what
is missing in the background. It refuses to know what a runner needs.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from ollama_gate import footprint, log, names
from ollama_gate.errors import UpstreamError, UpstreamGoneError, UpstreamRefusedError
from ollama_gate.footprint import Facts
from ollama_gate.known.listing import BELIEVED_S, FRESH_S, Clock, Line, Listing, listed_key
from ollama_gate.known.rounds import Rounds
from ollama_gate.known.shows import Shows
from ollama_gate.ollama import UNKNOWN_MODEL, Ollama
from ollama_gate.scheduler.types import ModelKey

RETRY_S: Final = 60.0
"""When a model that could not be shown is asked for again though nobody wants it."""

ATTEMPTS: Final = 3
"""How often a name is followed that means another model by the time it is asked for."""

_ANY: Final = "*"
"""Stands for the name in a change that cannot be read: it may be any."""

_registry = log.get(log.Component.REGISTRY)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One model of an upstream, as far as it is known.

    Attributes:
        line: as it is listed.
        facts: `None` until Ollama has shown it.
        problem: Ollama's words if it could not.
    """

    line: Line
    facts: Facts | None
    problem: str = ""


class Known:
    """The models of one upstream. `close` ends what it asks by itself.

    Args:
        ollama: whom to ask.
        clock: seconds, never going back; the event loop's own unless another is given.
    """

    def __init__(self, ollama: Ollama, *, clock: Clock | None = None) -> None:
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._listing = Listing(ollama, self._clock)
        self._shows = Shows(ollama, self._listing, self._clock)
        self._rounds = Rounds(self._step, self._clock)
        # The facts of an alias: always the same object, which others compare.
        self._named: dict[str, tuple[Facts, Facts]] = {}
        # What is shown but not listed, or without a digest: by name, and for a while only.
        self._unlisted: dict[str, tuple[float, Facts]] = {}
        self._looked_up: set[tuple[str, str]] = set()
        self._changing: Counter[str] = Counter()

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._rounds.close()

    # ---------------------------------------------------------------- by name

    async def facts(self, name: str, *, strict: bool = False) -> Facts | None:
        """What there is to know of a model; `None` if Ollama does not know it.

        What was known before is believed while the upstream does not answer.

        Args:
            name: in any spelling; one that asks for the cloud names no model here.
            strict: what it means now, even if that was asked a moment ago.

        Raises:
            UpstreamGoneError: there is no answer, and nothing was known before.
            UpstreamRefusedError: Ollama knows it and cannot say.
        """
        if names.is_cloud(name):
            return None
        key = names.key_of(name)
        strict = strict or bool(self._changing[key] or self._changing[_ANY])
        since = self._clock() - (0.0 if strict else BELIEVED_S)
        try:
            return await self._meant(name, key, since)
        except UpstreamRefusedError as error:
            # Listed, and yet it cannot be found: Ollama shall say so itself.
            if error.status in UNKNOWN_MODEL:
                return None
            raise

    async def _meant(self, name: str, key: str, since: float) -> Facts | None:
        """What a name means by a listing, or else by an answer, as young as that."""
        lines = await self._lines(key, since)
        for _ in range(ATTEMPTS):
            line = lines.get(key)
            if line is None or not line.digest:
                return await self._by_name(name, key, since)
            found = await self._of(line)
            if found is not None:
                return found
            lines = await self._listing.since(self._clock())
        text = f"{name} means another model each time it is asked for"
        raise UpstreamRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, text)

    async def _lines(self, key: str, since: float) -> Mapping[str, Line]:
        """A listing to be believed of one name."""
        listing, now = self._listing, self._clock()
        if FRESH_S < listing.age_s <= now - since:
            self._rounds.wake()
        known = key in listing.lines or key in self._unlisted
        try:
            return await listing.since(since, failed_since=now - FRESH_S if known else now)
        except UpstreamGoneError:
            if not known:
                raise
        except UpstreamRefusedError as error:
            _registry.debug("no list of models", reason=error.text)
        return listing.lines

    async def _of(self, line: Line) -> Facts | None:
        """The facts of a line under its own name; `None` if its name means another by now."""
        facts = await self._shows.of(line)
        return facts if facts is None or facts.name == line.name else self._alias(line, facts)

    def _alias(self, line: Line, facts: Facts) -> Facts:
        """The same under another name."""
        named = self._named.get(line.key)
        if named is None or named[0] is not facts or named[1].name != line.name:
            self._named[line.key] = named = (facts, replace(facts, name=line.name))
        return named[1]

    async def _by_name(self, name: str, key: str, since: float) -> Facts | None:
        """Of one that is not listed, or without a digest."""
        async with self._shows.turn(key):
            known = self._unlisted.get(key)
            if known is not None and known[0] >= since:
                return known[1]
            asked_at = self._clock()
            try:
                show = await self._shows.show(name.strip())
            except UpstreamError:
                if known is None:
                    raise
                return known[1]
            if show is None:
                self._unlisted.pop(key, None)
                return None
            line = (await self._lines(key, asked_at)).get(key)
            if line is not None and line.digest:
                return await self._of(line)
            facts = footprint.read_show(name, show, line.size_bytes if line else 0)
            self._unlisted[key] = (asked_at, facts)
            return facts

    def believed(self, name: str) -> Facts | None:
        """What a model was when it was last asked for, however long ago; nobody is asked."""
        if names.is_cloud(name):
            return None
        key = names.key_of(name)
        line = self._listing.lines.get(key)
        if line is not None and line.digest:
            facts = self._shows.facts.get(line.digest)
            return facts if facts is None or facts.name == line.name else self._alias(line, facts)
        unlisted = self._unlisted.get(key)
        return None if unlisted is None else unlisted[1]

    def may_have(self, name: str) -> bool:
        """Whether the upstream may have a model, for all that it ever said; nobody is asked."""
        return not self._listing.has_come or names.key_of(name) in self._listing.lines

    # ---------------------------------------------------------------- by runner

    async def of_runners(self, lines: Sequence[footprint.Resident]) -> list[Facts | None]:
        """What the lines of an `/api/ps` are, which need not be what their names mean now.

        `None` is what was replaced or deleted since it was loaded, before the gate ever saw it.
        """
        self._looked_up &= {_pair(line) for line in lines}
        return [await self._of_runner(line) for line in lines]

    async def _of_runner(self, line: footprint.Resident) -> Facts | None:
        if line.digest not in self._shows.facts and _pair(line) not in self._looked_up:
            await self._look_up(line)
        facts = self._shows.facts.get(line.digest) or await self._of_name(line)
        if facts is None or facts.name == line.name:
            return facts
        return replace(facts, name=line.name)

    async def _look_up(self, line: footprint.Resident) -> None:
        """Look, once, for a runner that nobody asked for: it may be new, or what its name was."""
        try:
            lines = await self._listing.since(self._clock())
            # Its name may mean another model, while a copy under another name is left.
            found = next((one for one in lines.values() if one.digest == line.digest), None)
            if found is not None and line.digest:
                await self._shows.of(found)
        except UpstreamRefusedError as error:
            _registry.debug("not told what is resident", model=line.name, reason=error.text)
        self._looked_up.add(_pair(line))

    async def _of_name(self, line: footprint.Resident) -> Facts | None:
        """By its name, where there are no digests to go by."""
        lines = self._listing.lines
        listed = lines.get(listed_key(line.name))
        if line.digest and (listed.digest if listed else lines):
            return None
        with contextlib.suppress(UpstreamRefusedError):
            return await self.facts(line.name)
        return None

    def model_of(self, digest: str) -> ModelKey:
        """What the manifest's digest in a line of `/api/ps` stands for."""
        known = self._shows.facts.get(digest)
        return ModelKey(digest) if known is None else known.key

    # ---------------------------------------------------------------- all of them

    @property
    def listed(self) -> Mapping[str, Line]:
        """The lines of the last listing; another object for each."""
        return self._listing.lines

    async def list_anew(self) -> None:
        """Ask for a listing, or wait for one that has been asked for since.

        Raises:
            UpstreamError: no answer, or none of an Ollama; the last listing stays.
        """
        await self._listing.since(self._clock())

    def models(self) -> list[KnownModel]:
        """Every model that is listed, in the order of their names; nobody is asked."""
        unlisted = {
            key: Line(key=key, name=facts.name, digest="", size_bytes=facts.size_bytes)
            for key, (_, facts) in self._unlisted.items()
        }
        lines = {**unlisted, **self._listing.lines}
        return [self._model(line) for line in sorted(lines.values(), key=lambda one: one.name)]

    def _model(self, line: Line) -> KnownModel:
        facts, failure = self._shows.facts.get(line.digest), self._shows.failures.get(line.digest)
        if facts is None and line.key in self._unlisted:
            facts = self._unlisted[line.key][1]
        problem = failure.error.text if failure is not None and facts is None else ""
        return KnownModel(line=line, facts=facts, problem=problem)

    def look(self) -> None:
        """Somebody looks: ask in the background for what is not known, if that is long ago."""
        self._rounds.look()

    def wake(self) -> None:
        """Something may have changed: ask in the background for what is not known."""
        self._rounds.wake()

    async def _step(self) -> bool:
        """Ask for one thing that is not known; false if there is none."""
        now = self._clock()
        lines = await self._listing.since(now - FRESH_S)
        self._named = {key: self._named[key] for key in self._named if key in lines}
        for line in lines.values():
            if line.digest and line.digest not in self._shows.facts and self._may_ask(line, now):
                with contextlib.suppress(UpstreamRefusedError):
                    await self._shows.of(line)
                return True
        return False

    def _may_ask(self, line: Line, now: float) -> bool:
        failure = self._shows.failures.get(line.digest)
        return failure is None or now - failure.at >= RETRY_S

    # ---------------------------------------------------------------- changes

    def forget(self) -> None:
        """Any name may mean another model from now on."""
        self._listing.forget()
        self._unlisted.clear()
        self._looked_up.clear()

    @contextlib.contextmanager
    def changing(self, changed: Collection[str]) -> Iterator[None]:
        """For the length of a block these names may change their meaning at any instant.

        Args:
            changed: as a client spelled them; none if they cannot be told.
        """
        keys = {key for name in changed for key in (names.key_of(name), listed_key(name))} or {_ANY}
        self._changing.update(keys)
        self.forget()
        try:
            yield
        finally:
            self._changing.subtract(keys)
            self._changing += Counter()
            self.forget()
            self._rounds.wake()


def _pair(line: footprint.Resident) -> tuple[str, str]:
    return line.name, line.digest
