"""A trace read back: checked line by line, so that who wrote one by hand learns where it is wrong.

The last line of each life may be torn off in the middle, as when the gate was killed or the disk
was full; anything else that is wrong is an error that names its line.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from ollama_gate.errors import TraceError
from ollama_gate.trace import lines

_WHERE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_DECODER: Final = msgspec.json.Decoder(lines.AnyLine)


@dataclass(slots=True)
class Life:
    """What one run of the gate recorded, in the order in which it was over.

    Attributes:
        requests: by id; of one that was tried again, how it ended in the end.
    """

    began: lines.Began
    kinds: dict[int, lines.Kind] = field(default_factory=dict)
    requests: dict[str, lines.Asked] = field(default_factory=dict)
    loads: list[lines.LoadLine] = field(default_factory=list)
    unloads: list[lines.UnloadLine] = field(default_factory=list)
    cards: list[lines.Card] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole file; at least one life with at least one request."""

    lives: Sequence[Life]


def read(path: Path) -> Trace:
    """Read a trace.

    Raises:
        TraceError: it is none.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    reader = _Reader(path)
    # Not `splitlines`, which breaks at more than line feeds.
    numbered = enumerate(text.split(b"\n"), start=1)
    for number, line in numbered:
        reader.take(number, line)
    return reader.ended()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lives: list[Life] = []
        self._torn: tuple[int, str] | None = None
        self._number = 0

    def take(self, number: int, text: bytes) -> None:
        if not text.strip():
            return
        self._number = number
        try:
            line = _DECODER.decode(text)
        except msgspec.ValidationError as error:
            self._fail(*_expected_and_found(error, text))
        except msgspec.DecodeError:
            self._put_off(text)
            return
        if self._torn is not None and not isinstance(line, lines.Began):
            self._number, found = self._torn
            self._fail("one JSON object", found)
        self._torn = None
        self._book(line)

    def _put_off(self, text: bytes) -> None:
        """A line that is no JSON: forgiven if it turns out to be the last of its life."""
        if self._torn is None:
            self._torn = self._number, _shown(text)
            return
        self._number, found = self._torn
        self._fail("one JSON object", found)

    def ended(self) -> Trace:
        lives = [life for life in self._lives if life.requests]
        if not lives:
            self._number = self._number or 1
            self._fail("at least one request", "none")
        return Trace(lives)

    def _book(self, line: lines.AnyLine) -> None:
        if isinstance(line, lines.Began):
            if line.version > lines.VERSION:
                self._fail(f"version {lines.VERSION} at the most", str(line.version))
            if not line.bins:
                self._fail("at least one bin", "none")
            self._lives.append(Life(line))
            return
        if not self._lives:
            self._fail(
                'a line with "is": "began" before any other', f'"{line.__struct_config__.tag}"'
            )
        self._add(self._lives[-1], line)

    def _add(self, life: Life, line: lines.AnyLine) -> None:
        match line:
            case lines.Kind():
                self._make_sure(line.takes, {place.bin for place in life.began.bins})
                life.kinds[line.number] = line
            case lines.Asked():
                if line.kind not in life.kinds:
                    self._fail("a kind that an earlier line describes", str(line.kind))
                if line.waited_s < 0 or (line.ran_s or 0) < 0:
                    self._fail("times of 0 or more", f"{line.waited_s}, {line.ran_s}")
                life.requests[line.id] = line
            case lines.LoadLine():
                life.loads.append(line)
            case lines.UnloadLine():
                life.unloads.append(line)
            case lines.Card():
                life.cards.append(line)
            case lines.Began():
                pass

    def _make_sure(self, bins: Iterable[str], known: set[str]) -> None:
        unknown = sorted(set(bins) - known)
        if unknown:
            self._fail(f"bins among {', '.join(sorted(known))}", ", ".join(unknown))

    def _fail(self, expected: str, found: str) -> NoReturn:
        raise TraceError(f"{self._path}, line {self._number}: expected {expected}, found {found}")


def _expected_and_found(error: msgspec.ValidationError, text: bytes) -> tuple[str, str]:
    """Its words, `Expected `int`, got `str` - at `$.kind``, as ours."""
    match = _WHERE.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    expected, _, found = what.partition(", got ")
    if not found:
        expected, found = f"a line of a trace ({what[0].lower()}{what[1:]})", _at(path, text)
    else:
        expected = expected.removeprefix("Expected ")
    return (f"{expected} at `{path}`" if path else expected), found


def _at(path: str | None, text: bytes) -> str:
    """What stands there; all of the line if that is not one of its own fields."""
    try:
        line = msgspec.json.decode(text)
    except msgspec.DecodeError:
        # A number that no float can hold is JSON, and no value.
        return _shown(text)
    if path is None or not isinstance(line, dict) or path not in line:
        return _shown(text)
    return _shown(msgspec.json.encode(line[path]))


def _shown(text: bytes) -> str:
    most = 60
    shown = text.decode(errors="replace")
    return repr(shown if len(shown) <= most else shown[:most] + "…")
