"""How one value is read and shown, for each kind of value that a key may have.

It knows nothing of keys. msgspec's own validation is left out since it ends at the first problem,
and a person wants all.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import yaml

from ollama_gate.config.addresses import OLLAMA_PORT, parse_listen, parse_upstream
from ollama_gate.config.nodes import Problem, found, is_nothing, quoted
from ollama_gate.config.scheduling import Profile, Triple
from ollama_gate.config.structs import (
    ContextPolicy,
    KvCacheType,
    LogFormat,
    LogLevel,
    OffloadPolicy,
    PrewarmPolicy,
)
from ollama_gate.config.units import (
    format_duration,
    format_number,
    format_size,
    parse_duration,
    parse_number,
    parse_size,
)
from ollama_gate.guard import problem_of
from ollama_gate.scheduler.types import Priority

T = TypeVar("T")

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp", "value")
)


class WrongError(Exception):
    """A value cannot be read; it never leaves this package."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """One kind of value: from its node in the file (or a variable's text), and to text.

    Attributes:
        read: raises `WrongError`.
        structured: more than one scalar, so that a variable holds YAML.
    """

    read: Callable[[yaml.Node], T]
    show: Callable[[T], str]
    structured: bool = False


def wrong(node: yaml.Node, expected: str) -> WrongError:
    """The one problem of a node that is nothing of what was expected."""
    return WrongError(("", f"expected {expected}, found {found(node)}", node))


def _scalar(parse: Callable[[str], T], *, expected: str, show: Callable[[T], str] = str) -> Kind[T]:
    """A value of one scalar; `parse` raises `ValueError` or `KeyError` for what is no such."""

    def read(node: yaml.Node) -> T:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
            raise wrong(node, expected)
        try:
            return parse(node.value.strip())
        except (KeyError, ValueError):
            raise wrong(node, expected) from None

    return Kind(read=read, show=show)


def _word(words: Mapping[str, T]) -> Kind[T]:
    texts = {value: word for word, value in words.items()}
    expected = f"one of {', '.join(words)}"
    return _scalar(words.__getitem__, expected=expected, show=texts.__getitem__)


def _integer(*, least: int) -> Kind[int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < least:
            raise ValueError(text)
        return int(text)

    return _scalar(parse, expected=f"an integer of at least {least}")


def _positive(parse: Callable[[str], T], *, expected: str, show: Callable[[T], str]) -> Kind[T]:
    def checked(text: str) -> T:
        value = parse(text)
        if not value:  # What these notations can write is never negative.
            raise ValueError(text)
        return value

    return _scalar(checked, expected=expected, show=show)


def _parse_keep_alive(text: str) -> float:
    seconds = parse_duration(text.removeprefix("-"))
    return math.inf if text.startswith("-") and seconds else seconds


def _parse_reserve(text: str) -> int | None:
    return None if text == "auto" else parse_size(text)


def _number(least: float, most: float) -> Kind[float]:
    """A number between the two, which may be either."""

    def parse(text: str) -> float:
        value = parse_number(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    top = "" if math.isinf(most) else f" to {most:g}"
    expected = f"a number from {least:g}{top}" if top else f"a number of at least {least:g}"
    return _scalar(parse, expected=expected, show=format_number)


def _parse_share(text: str) -> float:
    share = parse_number(text)
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def _parse_rate(text: str) -> float:
    return float(parse_size(text.removesuffix("/s")))


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text)


def _parse_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(text)
    return text


def _parse_uuid(text: str) -> str:
    # Drivers of old wrote a part of a split card as MIG-GPU-…/7/0.
    if not re.fullmatch(r"(GPU|MIG)-[0-9A-Za-z/-]{1,80}", text):
        raise ValueError(text)
    return text


SMALLEST_FACTOR, LARGEST_FACTOR = 0.1, 10.0
"""Beyond these it is a slip of the pen."""

_DURATION_WORDS = "a duration such as 90s, 10m or 1h30m"
SIZE_WORDS = "a size above 0 such as 21GiB, 24GB or plain bytes"
AN_INTEGER = _integer(least=1)
AN_INTEGER_OR_0 = _integer(least=0)
A_DURATION = _scalar(parse_duration, expected=_DURATION_WORDS, show=format_duration)
A_POSITIVE_DURATION = _positive(
    parse_duration, expected=f"{_DURATION_WORDS}, longer than 0", show=format_duration
)
A_SIZE = _positive(parse_size, expected=SIZE_WORDS, show=format_size)
A_KEEP_ALIVE = _scalar(
    _parse_keep_alive, expected=f"{_DURATION_WORDS}, or -1 for no limit", show=format_duration
)
A_RESERVE = _scalar(
    _parse_reserve,
    expected="auto or a size such as 2GiB, 500MB or plain bytes",
    show=lambda reserve: "auto" if reserve is None else format_size(reserve),
)
A_NUMBER = _positive(parse_number, expected="a number above 0", show=format_number)
A_NUMBER_OR_0 = _number(0.0, math.inf)
A_STRETCH = _number(1.0, math.inf)
A_GROWTH = _number(1.01, LARGEST_FACTOR)
A_FACTOR = _number(SMALLEST_FACTOR, LARGEST_FACTOR)
A_SHARE = _scalar(_parse_share, expected="a number above 0, at most 1", show=format_number)
A_RATE = _positive(
    _parse_rate,
    expected="bytes per second such as 3GB/s",
    show=lambda rate: f"{format_size(int(rate))}/s",
)
A_FLAG = _word({"true": True, "false": False})
A_DIRECTORY = _scalar(_parse_path, expected="a directory")
AN_OFFLOAD_POLICY: Kind[OffloadPolicy] = _word(
    {"auto": "auto", "refuse": "refuse", "accept": "accept"}
)
A_CONTEXT_POLICY: Kind[ContextPolicy] = _word({"widen": "widen", "respect": "respect"})
A_KV_CACHE_TYPE: Kind[KvCacheType] = _word({"f16": "f16", "q8_0": "q8_0", "q4_0": "q4_0"})
A_PREWARM_POLICY: Kind[PrewarmPolicy] = _word({"auto": "auto", "off": "off"})
A_PROFILE: Kind[Profile] = _word(
    {"balanced": "balanced", "interactive": "interactive", "throughput": "throughput"}
)
A_LOG_LEVEL: Kind[LogLevel] = _word(
    {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}
)
A_LOG_FORMAT: Kind[LogFormat] = _word({"text": "text", "json": "json"})
A_CLASS = _word({priority.name.lower(): priority for priority in Priority})
AN_ADDRESS = _scalar(
    parse_listen,
    expected="HOST:PORT or a port (0.0.0.0:PORT for every interface)",
)
A_NAME = _scalar(_parse_name, expected="a name of letters, digits, dots, dashes and underscores")
A_UUID = _scalar(
    _parse_uuid, expected="a UUID that begins with GPU- or MIG-, as nvidia-smi -L lists them"
)
URL_WORDS = f"an address such as http://127.0.0.1:{OLLAMA_PORT}, with no user and no query"
A_URL = _scalar(parse_upstream, expected=URL_WORDS)


def read_parts(kind: Kind[T], nodes: Mapping[str, yaml.Node], problems: list[Problem]) -> list[T]:
    """The values of nodes by the end of their path; raises what is wrong with any, and before."""
    values: list[T] = []
    for suffix, node in nodes.items():
        try:
            values.append(kind.read(node))
        except WrongError as error:
            problems += [(suffix + end, text, at) for end, text, at in error.problems]
    if problems:
        raise WrongError(*problems)
    return values


def _read_list(node: yaml.Node, part: Kind[T], count: int, expected: str) -> list[T]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != count:
        raise wrong(node, expected)
    parts = {f"[{place}]": each for place, each in enumerate(node.value)}
    return read_parts(part, parts, [])


def _show_list(part: Kind[T], values: Sequence[T]) -> str:
    return f"[{', '.join(map(part.show, values))}]"


def _for_each_class(part: Kind[float], words: str, *, falling: bool = False) -> Kind[Triple]:
    """High, normal and low; `falling` if none may be less than the next."""

    def read(node: yaml.Node) -> Triple:
        expected = f"a list of three {words}, for high, normal and low"
        high, normal, low = _read_list(node, part, len(Priority), expected)
        if falling and not high >= normal >= low:
            raise wrong(node, f"{words} that do not grow from high to low")
        return high, normal, low

    return Kind(read=read, show=lambda values: _show_list(part, values), structured=True)


PATIENCE = _for_each_class(A_POSITIVE_DURATION, "durations")
WEIGHTS = _for_each_class(A_NUMBER, "numbers", falling=True)


def _read_backoff(node: yaml.Node) -> tuple[float, float]:
    expected = "a list of two durations, the first pause and the longest"
    first, longest = _read_list(node, A_POSITIVE_DURATION, 2, expected)
    if first > longest:
        raise wrong(node, expected)
    return first, longest


BACKOFF = Kind(
    read=_read_backoff, show=lambda pauses: _show_list(A_POSITIVE_DURATION, pauses), structured=True
)


def _read_trace(node: yaml.Node) -> Path | None:
    if is_nothing(node):
        return None
    path = _A_FILE.read(node)
    return None if path == Path("null") else path


_A_FILE = _scalar(_parse_path, expected="a file")
A_TRACE = Kind(read=_read_trace, show=lambda path: "null" if path is None else str(path))


def _read_origins(node: yaml.Node) -> tuple[str, ...]:
    """A list, or one text with commas, which is what `OLLAMA_ORIGINS` holds."""
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
        return tuple(_origin(part.strip(), node) for part in node.value.split(","))
    if isinstance(node, yaml.SequenceNode):
        parts = {f"[{place}]": part for place, part in enumerate(node.value)}
        return tuple(read_parts(_AN_ORIGIN, parts, []))
    raise wrong(node, "a list of origins such as [https://chat.example, 'http://10.0.0.*']")


def _origin(text: str, node: yaml.Node) -> str:
    expected = problem_of(text)
    if expected is not None:
        raise WrongError(("", f"expected {expected}, found {quoted(text)}", node))
    return text


def _read_origin(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
        raise wrong(node, "an origin")
    return _origin(node.value.strip(), node)


_AN_ORIGIN = Kind(read=_read_origin, show=str)


ORIGINS = Kind(
    read=_read_origins, show=lambda origins: f"[{', '.join(map(quoted, origins))}]", structured=True
)
