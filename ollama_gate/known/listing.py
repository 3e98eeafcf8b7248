"""Which name means which model: the lines of `GET /api/tags`, and how old they are.

It says what was listed and asks again when it is told to; how long a listing is believed, and
what to do without one, is decided by whoever asks.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollama_gate import names
from ollama_gate.errors import UpstreamError
from ollama_gate.footprint.lenient import list_of, mapping_of, number_of, text_of
from ollama_gate.ollama import Ollama

FRESH_S: Final = 5.0
"""A listing younger than this is not asked for again, nor one that could not be had so lately."""

BELIEVED_S: Final = 15.0
"""One younger than this is believed while a new one is asked for; an older one is not."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model as `/api/tags` lists it.

    Attributes:
        key: of its name: equal for all spellings of it.
        name: as Ollama spells it.
        digest: of the manifest; empty where none is listed.
        size_bytes: everything of the model on disk.
        modified_at: when the manifest was written, in Ollama's words.
        remote: runs elsewhere.
        capabilities: none before Ollama 0.32.
        context_length: the trained length, if it is listed (0.32 and later).
    """

    key: str
    name: str
    digest: str
    size_bytes: int
    modified_at: str = ""
    remote: bool = False
    capabilities: frozenset[str] = frozenset()
    context_length: int | None = None


class Listing:
    """The last answer of `/api/tags`, and one question at a time.

    Args:
        ollama: whom to ask.
        clock: seconds, never going back.

    Attributes:
        lines: by key; what was listed last, however long ago.
        has_come: whether there has ever been one.
    """

    def __init__(self, ollama: Ollama, clock: Clock) -> None:
        self._ollama = ollama
        self._clock = clock
        self.lines: Mapping[str, Line] = {}
        self.has_come = False
        self._asked_at = -math.inf
        self._failure: tuple[float, UpstreamError] | None = None
        self._void = 0
        self._turn = asyncio.Lock()

    @property
    def age_s(self) -> float:
        """How long ago it was asked for; `inf` if it no longer counts."""
        return self._clock() - self._asked_at

    def forget(self) -> None:
        """What was asked up to now, answered or not, counts no more."""
        self._void += 1
        self._asked_at = -math.inf
        self._failure = None

    async def since(self, at: float, *, failed_since: float | None = None) -> Mapping[str, Line]:
        """The lines of a listing that was asked for at `at` or later; many may wait for one.

        Args:
            at: on the clock.
            failed_since: a failure of a question asked then or later is an answer, too; without
                it one that was asked after this call.

        Raises:
            UpstreamError: no answer, or none of an Ollama.
        """
        failed_since = self._clock() if failed_since is None else failed_since
        while self._asked_at < at:
            async with self._turn:
                if self._asked_at >= at:
                    break
                if self._failure is not None and self._failure[0] >= failed_since:
                    raise self._failure[1]
                await self._ask()
        return self.lines

    async def _ask(self) -> None:
        asked_at, void = self._clock(), self._void
        try:
            tags = await self._ollama.tags()
        except UpstreamError as error:
            self._failure = (asked_at, error)
            raise
        self.lines, self.has_come = read_tags(tags), True
        # A change may have come in between; then this is what was there before, or is not.
        if void == self._void:
            self._asked_at, self._failure = asked_at, None


def read_tags(tags: Sequence[Mapping[str, Any]]) -> Mapping[str, Line]:
    """The lines by key. Of two names that differ in case alone, the first one."""
    lines: dict[str, Line] = {}
    for tag in tags:
        line = _line(tag)
        if line is not None:
            lines.setdefault(line.key, line)
    return lines


def listed_key(name: str) -> str:
    """What a name is known by that Ollama itself has spelled."""
    parsed = names.parse_listed(name)
    return parsed.key if parsed else name


def _line(tag: Mapping[str, Any]) -> Line | None:
    name = text_of(tag.get("name")) or text_of(tag.get("model"))
    if not name:
        return None
    return Line(
        key=listed_key(name),
        name=name,
        digest=text_of(tag.get("digest")),
        size_bytes=number_of(tag.get("size")) or 0,
        modified_at=text_of(tag.get("modified_at")),
        remote=bool(text_of(tag.get("remote_host"))),
        capabilities=frozenset(filter(None, map(text_of, list_of(tag.get("capabilities"))))),
        context_length=number_of(mapping_of(tag.get("details")).get("context_length")) or None,
    )
