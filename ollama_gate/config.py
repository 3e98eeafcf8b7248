"""`gate.yaml`, the environment and flags → one frozen, validated `Config`; every default is here.

It reads settings and refuses to act on them: nothing is opened but the file, nothing is looked
up, no name is resolved. A key exists when what it controls works; all others are problems.

Values are read from the text that was written, not from what YAML makes of it: YAML 1.1 turns
`1:30` into 90 and `yes` into true, and an error must quote what its reader typed. msgspec's own
validation is left out for a reason as well: it ends at the first problem, and a person wants all.
"""

import contextlib
import difflib
import ipaddress
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec
import yaml

from ollama_gate.errors import ConfigError
from ollama_gate.scheduler.types import Priority

T = TypeVar("T")
U = TypeVar("U")

KvCacheType = Literal["f16", "q8_0", "q4_0"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

GATE_PORT = 11435
OLLAMA_PORT = 11434
SYSTEM_FILE = Path("/etc/ollama-gate/gate.yaml")

_PREFIX = "OLLAMA_GATE_"
_FILE_VARIABLE = "OLLAMA_GATE_CONFIG"
_HOST_VARIABLE = "OLLAMA_HOST"


# --- what comes out -----------------------------------------------------------------------------


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gate accepts connections; port 0 lets the system choose one."""

    host: str = "127.0.0.1"
    port: int = GATE_PORT

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One card whose budget is configured; all of it is planned with."""

    vram_bytes: int


class UpstreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Ollama, and what its own environment is set to.

    Attributes:
        url: scheme, host, port unless it is the scheme's own, and a path prefix if there is one;
            no slash at its end.
        num_parallel: `OLLAMA_NUM_PARALLEL` there.
        max_loaded: `OLLAMA_MAX_LOADED_MODELS` there, 0 for its default.
        kv_cache_type: `OLLAMA_KV_CACHE_TYPE` there.
        context_length: `OLLAMA_CONTEXT_LENGTH` there, 0 for the tier it picks by VRAM.
        gpus: `auto` asks the card, `cpu` plans with system memory.
        outage_wait_s: how long requests wait for it while it does not answer.
    """

    name: str = "local"
    url: str = f"http://127.0.0.1:{OLLAMA_PORT}"
    num_parallel: int = 1
    max_loaded: int = 0
    kv_cache_type: KvCacheType = "f16"
    context_length: int = 0
    gpus: Literal["auto", "cpu"] | Card = "auto"
    outage_wait_s: float = 60.0


class VramConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Planning with memory.

    Attributes:
        reserve_bytes: kept free of what a reading says; `None` for the larger of 1 GiB and 5 %.
    """

    reserve_bytes: int | None = None


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is known or wanted of one model.

    Attributes:
        vram_bytes: its footprint, above what was learned or estimated; `None` leaves it to those.
        max_concurrent: `None` for `num_parallel`, which is also its upper end.
        priority: class of its requests that name none.
        keep_alive_s: how long it may idle, `inf` for no limit; `None` for the gate's own.
    """

    vram_bytes: int | None = None
    max_concurrent: int | None = None
    priority: Priority = Priority.NORMAL
    keep_alive_s: float | None = None


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests may wait."""

    max_size: int = 1000


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The brain's parameters: see `ollama_gate.scheduler.types.Policy`.

    Attributes:
        tau_s: patience of high, normal and low.
        kappa: a working runner's turn, in units of the load times that replacing it costs.
    """

    tau_s: tuple[float, float, float] = (20.0, 120.0, 300.0)
    kappa: float = 6.0


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says and in which of its two forms."""

    level: LogLevel = "info"
    format: LogFormat = "text"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set; `Config()` is the defaults.

    Attributes:
        keep_alive_s: how long a model may idle, `inf` for no limit.
        models: by name as written in the file; normalising is the reader's part.
        max_body_bytes: of a request that must be read to learn its model.
        grace_s: for running answers at shutdown.
    """

    listen: Listen = Listen()
    upstream: UpstreamConfig = UpstreamConfig()
    vram: VramConfig = VramConfig()
    keep_alive_s: float = 300.0
    models: Mapping[str, ModelConfig] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    queue: QueueConfig = QueueConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    max_body_bytes: int = 100 * 2**20
    grace_s: float = 30.0
    log: LogConfig = LogConfig()


class Effective(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration and how it came about.

    Attributes:
        file: the file that was read, if there is one.
        origins: dotted path → `flag --listen`, `environment OLLAMA_GATE_LISTEN`, the file's path
            with a line number, or `default`. Of a model only what the file sets.
        values: the same paths in the same order → the value as one would write it.
        models: model name as written → the keys that the file sets for it.
    """

    config: Config
    file: Path | None
    origins: Mapping[str, str]
    values: Mapping[str, str]
    models: Mapping[str, tuple[str, ...]]


# --- durations and sizes ------------------------------------------------------------------------

# Bounded, since the conversion of endless digits is Python's to refuse and floats have an end.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,30})?"
_DURATION = re.compile(
    rf"(?:({_NUMBER})d\s*)?(?:({_NUMBER})h\s*)?(?:({_NUMBER})m(?!s)\s*)?"
    rf"(?:({_NUMBER})s\s*)?(?:({_NUMBER})ms)?"
)
_DURATION_UNITS_S = (Fraction(86400), Fraction(3600), Fraction(60), Fraction(1), Fraction(1, 1000))
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_SIZE_UNITS = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `1h30m`, `500ms`, `7d` or a plain number; `ValueError` for all else."""
    if re.fullmatch(_NUMBER, text):
        return float(Fraction(text))
    matched = _DURATION.fullmatch(text)
    if matched is None or not text:
        raise ValueError(text)
    counts = zip(matched.groups(default="0"), _DURATION_UNITS_S, strict=True)
    return float(sum(Fraction(count) * unit for count, unit in counts))


def format_duration(seconds: float) -> str:
    """The duration as `parse_duration` reads it back to the same float; `-1` for no limit."""
    if math.isinf(seconds):
        return "-1"
    # repr is the shortest decimal that means this float; the float's own expansion has 50 digits.
    rest = Decimal(repr(seconds))
    parts = []
    for name, unit_s in (("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(rest, unit_s)
        parts.append((count, name))
    if rest * 1000 % 1 == 0:
        parts += [(rest // 1, "s"), (rest * 1000 % 1000, "ms")]
    else:
        parts.append((rest, "s"))
    return "".join(f"{_plain(count)}{name}" for count, name in parts if count) or "0s"


def _plain(value: float | Decimal) -> str:
    """All digits that matter and no exponent."""
    return f"{Decimal(str(value)).normalize():f}"


def parse_size(text: str) -> int:
    """Bytes of `21GiB`, `24GB`, `1.5GiB` or a plain number; `ValueError` for all else."""
    matched = _SIZE.fullmatch(text)
    if matched is None:
        raise ValueError(text)
    units = {name.lower(): unit_bytes for name, unit_bytes in _SIZE_UNITS.items()}
    unit_bytes = units.get(matched[2].lower() or "b")
    if unit_bytes is None:
        raise ValueError(text)
    return int(Fraction(matched[1]) * unit_bytes)


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back to the same number of bytes."""
    exact = [
        f"{size_bytes // unit_bytes}{name}"
        for name, unit_bytes in _SIZE_UNITS.items()
        if name != "B" and size_bytes and size_bytes % unit_bytes == 0
    ]
    return min([*exact, f"{size_bytes}"], key=len)


# --- addresses ----------------------------------------------------------------------------------


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _host(text: str) -> str:
    """A host name or IP address without brackets, or `ValueError`."""
    address = _ip(text)
    if address is not None:
        return str(address)
    # What ends in a number is a mistyped address (or YAML's 1:30), never a name.
    numeric = re.fullmatch(r"(.*\.)?([0-9]+|0[xX][0-9a-fA-F]*)\.?", text)
    if numeric or not re.fullmatch(r"\w[\w.-]{0,252}", text):
        raise ValueError(text)
    return text.lower()


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 2**16 - 1:
        raise ValueError(text)
    return int(text)


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT` and bare IPv6, as Go's `net.SplitHostPort` cuts them."""
    if _ip(text) is not None:
        return _host(text), default_port
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", text)
    if bracketed is not None:
        if not isinstance(_ip(bracketed[1]), ipaddress.IPv6Address):
            raise ValueError(text)
        port = default_port if bracketed[2] is None else _port(bracketed[2])
        return _host(bracketed[1]), port
    host, colon, port_text = text.partition(":")
    return _host(host), _port(port_text) if colon else default_port


def _parse_listen(text: str) -> Listen:
    if text.isdecimal():
        return Listen(port=_port(text))
    host, port = _host_and_port(text, GATE_PORT)
    return Listen(host=host, port=port)


def parse_upstream(text: str) -> str:
    """An Ollama's base URL, from what `OLLAMA_HOST` may be.

    As Ollama v0.32.15 `envconfig/config.go` reads it: the scheme is optional, with `http://` the
    port defaults to 80 and without to 11434, a path is kept. A wrong port is not replaced by the
    default, as there, but refused.

    Raises:
        ValueError: no http(s) address, or one with a user, a query or a fragment.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    scheme = scheme.lower()
    schemes_port = {"http": 80, "https": 443}.get(scheme)
    if schemes_port is None or re.search(r"[@?#\s\\]", rest) or not rest.isprintable():
        raise ValueError(text)
    authority, _, path = rest.partition("/")
    # Ollama takes the host's absence for the loopback, in `:11434` as well.
    if not authority or re.match(r":[0-9]+$", authority):
        authority = "127.0.0.1" + authority
    host, port = _host_and_port(authority, schemes_port if separator else OLLAMA_PORT)
    if port == 0:
        raise ValueError(text)
    # A server's "every interface" is no address that a client can call.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  replaced, not bound
    shown_port = "" if port == schemes_port else f":{port}"
    return f"{scheme}://{_bracketed(host)}{shown_port}/{path}".rstrip("/")


def _addresses(host: str) -> set[str]:
    if host == "localhost":
        return {"127.0.0.1", "::1"}
    address = _ip(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return {str(mapped or host)}


def names_gate(url: str, listen: Listen) -> bool:
    """Whether a request to `url` would come back to the gate itself.

    Told from the text alone: a name or an address of this machine that only a look-up would
    reveal is caught later, by the header that marks a loop.
    """
    parts: SplitResult = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port != listen.port:
        return False
    called = _addresses(parts.hostname or "")
    bound = _ip(listen.host)
    if bound is not None and bound.is_unspecified:
        # An IPv4 socket is not reached over IPv6; the other way round it is.
        return any(
            address.is_loopback and bound.version in {6, address.version}
            for address in map(_ip, called)
            if address is not None
        )
    return bool(called & _addresses(listen.host))


# --- how one value is read and shown ------------------------------------------------------------

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp", "value")
)
_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_SHOWN_CHARACTERS = 80

Problem = tuple[str, str, yaml.Node]
"""Where (the end of a dotted path), what is wrong, and which node of the file it is about."""


class _WrongError(Exception):
    """A value cannot be read; it never leaves this module."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind(Generic[T]):
    """One kind of value: from its node in the file (or a variable's text), and to text.

    Attributes:
        read: raises `_WrongError`.
        structured: more than one scalar, so that a variable holds YAML.
    """

    read: Callable[[yaml.Node], T]
    show: Callable[[T], str]
    structured: bool = False


def _found(node: yaml.Node) -> str:
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode(value=items):
            return f"a list of {len(items)}" if items else "an empty list"
        case yaml.ScalarNode(tag=tag) if tag == _NULL_TAG:
            return "nothing"
        case _:
            text = str(node.value)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    quoted = node.tag == "tag:yaml.org,2002:str" or not text.isprintable()
    return json.dumps(text, ensure_ascii=not text.isprintable()) if quoted else text


def _wrong(node: yaml.Node, expected: str) -> _WrongError:
    return _WrongError(("", f"expected {expected}, found {_found(node)}", node))


def _scalar(
    parse: Callable[[str], T], *, expected: str, show: Callable[[T], str] = str
) -> _Kind[T]:
    """A value of one scalar; `parse` raises `ValueError` or `KeyError` for what is no such."""

    def read(node: yaml.Node) -> T:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
            raise _wrong(node, expected)
        try:
            return parse(node.value.strip())
        except (KeyError, ValueError):
            raise _wrong(node, expected) from None

    return _Kind(read=read, show=show)


def _word(words: Mapping[str, T]) -> _Kind[T]:
    texts = {value: word for word, value in words.items()}
    expected = f"one of {', '.join(words)}"
    return _scalar(words.__getitem__, expected=expected, show=texts.__getitem__)


def _integer(*, least: int) -> _Kind[int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < least:
            raise ValueError(text)
        return int(text)

    return _scalar(parse, expected=f"an integer of at least {least}")


def _positive(parse: Callable[[str], T], *, expected: str, show: Callable[[T], str]) -> _Kind[T]:
    def checked(text: str) -> T:
        value = parse(text)
        if not value:  # What these notations can write is never negative.
            raise ValueError(text)
        return value

    return _scalar(checked, expected=expected, show=show)


def _parse_number(text: str) -> float:
    if not re.fullmatch(_NUMBER, text):
        raise ValueError(text)
    return float(text)


def _parse_keep_alive(text: str) -> float:
    seconds = parse_duration(text.removeprefix("-"))
    return math.inf if text.startswith("-") and seconds else seconds


def _parse_reserve(text: str) -> int | None:
    return None if text == "auto" else parse_size(text)


def _parse_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(text)
    return text


_DURATION_WORDS = "a duration such as 90s, 10m or 1h30m"
_SIZE_WORDS = "a size above 0 such as 21GiB, 24GB or plain bytes"
_AN_INTEGER = _integer(least=1)
_AN_INTEGER_OR_0 = _integer(least=0)
_A_DURATION = _scalar(parse_duration, expected=_DURATION_WORDS, show=format_duration)
_A_POSITIVE_DURATION = _positive(
    parse_duration, expected=f"{_DURATION_WORDS}, longer than 0", show=format_duration
)
_A_SIZE = _positive(parse_size, expected=_SIZE_WORDS, show=format_size)
_A_KEEP_ALIVE = _scalar(
    _parse_keep_alive, expected=f"{_DURATION_WORDS}, or -1 for no limit", show=format_duration
)
_A_RESERVE = _scalar(
    _parse_reserve,
    expected="auto or a size such as 2GiB, 500MB or plain bytes",
    show=lambda reserve: "auto" if reserve is None else format_size(reserve),
)
_A_NUMBER = _positive(_parse_number, expected="a number above 0", show=_plain)
_A_KV_CACHE_TYPE: _Kind[KvCacheType] = _word({"f16": "f16", "q8_0": "q8_0", "q4_0": "q4_0"})
_A_LOG_LEVEL: _Kind[LogLevel] = _word(
    {"debug": "debug", "info": "info", "warning": "warning", "error": "error"}
)
_A_LOG_FORMAT: _Kind[LogFormat] = _word({"text": "text", "json": "json"})
_A_CLASS = _word({priority.name.lower(): priority for priority in Priority})
_AN_ADDRESS = _scalar(
    _parse_listen,
    expected="HOST:PORT or a port (0.0.0.0:PORT for every interface)",
)
_A_NAME = _scalar(_parse_name, expected="a name of letters, digits, dots, dashes and underscores")
_URL_WORDS = f"an address such as http://127.0.0.1:{OLLAMA_PORT}, with no user and no query"
_A_URL = _scalar(parse_upstream, expected=_URL_WORDS)


def _read_parts(kind: _Kind[T], nodes: Mapping[str, yaml.Node], problems: list[Problem]) -> list[T]:
    """The values of nodes by the end of their path; raises what is wrong with any, and before."""
    values: list[T] = []
    for suffix, node in nodes.items():
        try:
            values.append(kind.read(node))
        except _WrongError as wrong:
            problems += [(suffix + end, text, at) for end, text, at in wrong.problems]
    if problems:
        raise _WrongError(*problems)
    return values


def _read_tau(node: yaml.Node) -> tuple[float, float, float]:
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != len(Priority):
        raise _wrong(node, "a list of three durations, for high, normal and low")
    parts = {f"[{place}]": part for place, part in enumerate(node.value)}
    high, normal, low = _read_parts(_A_POSITIVE_DURATION, parts, [])
    return high, normal, low


def _read_gpus(node: yaml.Node) -> Literal["auto", "cpu"] | Card:
    if isinstance(node, yaml.ScalarNode) and node.value in {"auto", "cpu"}:
        return "cpu" if node.value == "cpu" else "auto"
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != 1:
        raise _wrong(node, "auto, cpu or a list with exactly one card such as [{vram: 24GiB}]")
    (card,) = node.value
    problems: list[Problem] = []
    parts = {f"[0].{name}": part for name, part in _entries(card, "[0]", {"vram"}, problems)}
    if not parts and not problems:
        problems.append(("[0].vram", f"expected {_SIZE_WORDS}, found nothing", card))
    (vram_bytes,) = _read_parts(_A_SIZE, parts, problems)
    return Card(vram_bytes=vram_bytes)


_PATIENCE = _Kind(
    read=_read_tau,
    show=lambda tau: f"[{', '.join(map(format_duration, tau))}]",
    structured=True,
)
_GPUS: _Kind[Literal["auto", "cpu"] | Card] = _Kind(
    read=_read_gpus,
    show=lambda gpus: (
        f"[{{vram: {format_size(gpus.vram_bytes)}}}]" if isinstance(gpus, Card) else gpus
    ),
    structured=True,
)


# --- the keys -----------------------------------------------------------------------------------

_ENTRY = "upstreams[0]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key(Generic[T]):
    path: str
    kind: _Kind[T]
    default: T

    @property
    def variable(self) -> str:
        """The environment variable; an upstream's address is what people set, so it is short."""
        name = self.path.replace(f"{_ENTRY}.url", "upstream").replace(_ENTRY, "upstream")
        return _PREFIX + name.replace(".", "_").upper()


def _key(path: str, kind: _Kind[T], default: T) -> _Key[T]:
    return _Key(path=path, kind=kind, default=default)


_DEFAULT = Config()
_LISTEN = _key("listen", _AN_ADDRESS, _DEFAULT.listen)
_NAME = _key(f"{_ENTRY}.name", _A_NAME, _DEFAULT.upstream.name)
_URL = _key(f"{_ENTRY}.url", _A_URL, _DEFAULT.upstream.url)
_NUM_PARALLEL = _key(f"{_ENTRY}.num_parallel", _AN_INTEGER, _DEFAULT.upstream.num_parallel)
_MAX_LOADED = _key(f"{_ENTRY}.max_loaded", _AN_INTEGER_OR_0, _DEFAULT.upstream.max_loaded)
_KV_CACHE_TYPE = _key(f"{_ENTRY}.kv_cache_type", _A_KV_CACHE_TYPE, _DEFAULT.upstream.kv_cache_type)
_CONTEXT_LENGTH = _key(
    f"{_ENTRY}.context_length", _AN_INTEGER_OR_0, _DEFAULT.upstream.context_length
)
_CARDS = _key(f"{_ENTRY}.gpus", _GPUS, _DEFAULT.upstream.gpus)
_OUTAGE_WAIT = _key(f"{_ENTRY}.outage_wait", _A_DURATION, _DEFAULT.upstream.outage_wait_s)
_RESERVE = _key("vram.reserve", _A_RESERVE, _DEFAULT.vram.reserve_bytes)
_KEEP_ALIVE = _key("keep_alive", _A_KEEP_ALIVE, _DEFAULT.keep_alive_s)
_MAX_SIZE = _key("queue.max_size", _AN_INTEGER, _DEFAULT.queue.max_size)
_TAU = _key("scheduler.tau", _PATIENCE, _DEFAULT.scheduler.tau_s)
_KAPPA = _key("scheduler.kappa", _A_NUMBER, _DEFAULT.scheduler.kappa)
_MAX_BODY = _key("max_body", _A_SIZE, _DEFAULT.max_body_bytes)
_GRACE = _key("grace", _A_DURATION, _DEFAULT.grace_s)
_LEVEL = _key("log.level", _A_LOG_LEVEL, _DEFAULT.log.level)
_FORMAT = _key("log.format", _A_LOG_FORMAT, _DEFAULT.log.format)

_KEYS: tuple[_Key[Any], ...] = (
    _LISTEN,
    _NAME,
    _URL,
    _NUM_PARALLEL,
    _MAX_LOADED,
    _KV_CACHE_TYPE,
    _CONTEXT_LENGTH,
    _CARDS,
    _OUTAGE_WAIT,
    _RESERVE,
    _KEEP_ALIVE,
    _MAX_SIZE,
    _TAU,
    _KAPPA,
    _MAX_BODY,
    _GRACE,
    _LEVEL,
    _FORMAT,
)
_MODEL_KEYS = ("vram", "max_concurrent", "priority", "keep_alive")
_FLAGS: Mapping[str, _Key[Any]] = {"listen": _LISTEN, "upstream": _URL}


def _below(section: str) -> list[str]:
    """The names of the keys and sections right below one, `""` being the top."""
    start = f"{section}." if section else ""
    below = (key.path.removeprefix(start) for key in _KEYS if key.path.startswith(start))
    names = dict.fromkeys(path.split(".")[0] for path in below)
    return ["upstreams" if name == _ENTRY else name for name in names]


_SECTIONS = ("vram", "queue", "scheduler", "log")
_TOP = (*_below(""), "models")


# --- the file -----------------------------------------------------------------------------------


def _step(path: str, name: str) -> str:
    """One level down; a name that would read as something else, as most models' do, is quoted."""
    shown = name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)
    return f"{path}.{shown}" if path else shown


def _unknown(name: str, known: Collection[str]) -> str:
    elsewhere = [key.path for key in _KEYS if key.path.endswith(f".{name}")]
    nearest = difflib.get_close_matches(name.lower(), known, n=1) or elsewhere[:1]
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"


def _entries(
    node: yaml.Node, path: str, known: Collection[str] | None, problems: list[Problem]
) -> Iterator[tuple[str, yaml.Node]]:
    """The entries of a mapping that have a known name (`None`: any), once each.

    What is wrong with the others is noted in `problems`.
    """
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG:
        return  # A section of which every line is commented out.
    if not isinstance(node, yaml.MappingNode):
        problems.append((path, f"expected a mapping, found {_found(node)}", node))
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        problem = _key_problem(key, known, first)
        if problem is None:
            first[key.value] = _line(key)
            yield key.value, value
        else:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            problems.append((_step(path, name), problem, key))


def _key_problem(
    key: yaml.Node, known: Collection[str] | None, first: Mapping[str, int]
) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return f"expected a key of one word, found {_found(key)}"
    if key.tag == _MERGE_TAG:
        return "merge keys are not supported"
    if not key.value.strip():
        return "expected a name, found nothing"
    if known is not None and key.value not in known:
        return _unknown(key.value, known)
    if key.value in first:
        return f"duplicate key, first on line {first[key.value]}"
    return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


@dataclass(slots=True, kw_only=True)
class _File:
    """What a file says: nodes by dotted path, models by name, and what is wrong with its shape."""

    path: Path | None = None
    nodes: dict[str, yaml.Node] = field(default_factory=dict)
    models: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: str | None = None

    def read_top(self, root: yaml.Node) -> None:
        for name, node in _entries(root, "", _TOP, self.problems):
            if name == "upstreams":
                self._read_upstreams(node)
            elif name == "models":
                self._read_models(node)
            elif name in _SECTIONS:
                self._read_section(node, name, _below(name))
            else:
                self.nodes[name] = node

    def _read_section(self, node: yaml.Node, path: str, known: Collection[str]) -> tuple[str, ...]:
        entries = dict(_entries(node, path, known, self.problems))
        self.nodes.update({_step(path, name): value for name, value in entries.items()})
        return tuple(name for name in known if name in entries)

    def _read_upstreams(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG:
            return
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            text = f"expected a list with one upstream, found {_found(node)}"
            self.problems.append(("upstreams", text, node))
            return
        entry, *others = node.value
        self._read_section(entry, _ENTRY, _below(_ENTRY))
        if others:
            text = f"one upstream is supported, found {len(node.value)}"
            self.problems.append(("upstreams[1]", text, others[0]))

    def _read_models(self, node: yaml.Node) -> None:
        for name, model in _entries(node, "models", None, self.problems):
            self.models[name] = self._read_section(model, _step("models", name), _MODEL_KEYS)


def _read_file(path: Path) -> _File:
    """One file as it stands; `FileNotFoundError` and `NotADirectoryError` if there is none."""
    file = _File(path=path)
    try:
        root = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        file.unreadable = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        file.unreadable = f"not UTF-8: line {line} has the byte 0x{error.object[error.start]:02x}"
    except (yaml.YAMLError, RecursionError) as error:
        file.unreadable = f"not YAML: {_syntax(error)}"
    else:
        if root is not None:
            file.read_top(root)
    return file


def _syntax(error: Exception) -> str:
    match error:
        case yaml.MarkedYAMLError(problem_mark=yaml.Mark() as mark):
            context = f"{error.context}, " if error.context else ""
            return f"line {mark.line + 1}, column {mark.column + 1}: {context}{error.problem}"
        case yaml.reader.ReaderError():
            return f"character {error.position + 1}: {error.reason}"
        case RecursionError():
            return "nested too deeply"
        case _:
            return str(error)


def _find_file(path: Path | None, environ: Mapping[str, str]) -> _File:
    named = [path] if path is not None else []
    if not named and environ.get(_FILE_VARIABLE):
        named = [Path(environ[_FILE_VARIABLE])]
    for candidate in named or _usual_places(environ):
        try:
            return _read_file(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
    if named:
        return _File(path=named[0], unreadable="there is no such file")
    return _File()


def _usual_places(environ: Mapping[str, str]) -> list[Path]:
    home = [Path(environ["HOME"], ".config/ollama-gate/gate.yaml")] if environ.get("HOME") else []
    return [Path("gate.yaml"), *home, SYSTEM_FILE]


# --- all sources together -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A value as somebody wrote it; in a file, each part of it has a line of its own."""

    node: yaml.Node
    origin: Callable[[yaml.Node], str]


class _Reading:
    """Values by key from flags, environment, file and defaults, and every problem on the way."""

    def __init__(
        self, *, file: _File, environ: Mapping[str, str], flags: Mapping[str, str]
    ) -> None:
        self.origins: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.problems: list[str] = []
        self._file = file
        # An empty variable is an unset one, as it is for Ollama.
        self._environ = {name: text.strip() for name, text in environ.items() if text.strip()}
        self._flags = {_FLAGS[name].path: (name, text) for name, text in flags.items()}
        if file.unreadable is not None:
            self.problems.append(f"{file.path}: {file.unreadable}")
        for path, text, node in file.problems:
            self.add(path or "the file", text, self._in_file(node))

    def value(self, key: _Key[T]) -> T:
        """The value of the first source that has one, or the default if that is wrong."""
        written = self._written(key)
        if written is None:
            self._note(key.path, key.kind.show(key.default), "default")
        return self._read(key.path, key.kind, written, key.default)

    def upstream_url(self, listen: Listen) -> str:
        """Where the Ollama is: never the gate itself, which would send a request in a circle."""
        url = self.value(_URL)
        if self.origins.get(_URL.path) == "default":
            url = self._ollama_host(listen) or url
        known = _URL.path in self.origins and _LISTEN.path in self.origins
        if known and names_gate(url, listen):
            text = f"expected an Ollama, found {url}, which is the gate's own listen address"
            self.add(_URL.path, text, self.origins[_URL.path])
        return url

    def model(self, name: str) -> ModelConfig:
        """One model of the file; only what is set there has an origin."""
        path, default = _step("models", name), ModelConfig()

        def value(key: str, kind: _Kind[T], otherwise: U) -> T | U:
            return self._read(f"{path}.{key}", kind, self._of_file(f"{path}.{key}"), otherwise)

        return ModelConfig(
            vram_bytes=value("vram", _A_SIZE, default.vram_bytes),
            max_concurrent=value("max_concurrent", _AN_INTEGER, default.max_concurrent),
            priority=value("priority", _A_CLASS, default.priority),
            keep_alive_s=value("keep_alive", _A_KEEP_ALIVE, default.keep_alive_s),
        )

    def add(self, path: str, text: str, origin: str) -> None:
        """Note a problem."""
        place = "" if origin == "default" else f" ({origin})"
        self.problems.append(f"{path}: {text}{place}")

    def check_variables(self) -> None:
        """A misspelt variable would otherwise be a setting that silently does nothing."""
        known = [*(key.variable for key in _KEYS), _FILE_VARIABLE]
        for name in sorted(self._environ):
            if name.startswith(_PREFIX) and name not in known:
                nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                self.problems.append(f"{name}: unknown variable; did you mean {nearest}?")

    def _read(self, path: str, kind: _Kind[T], written: _Written | None, otherwise: U) -> T | U:
        if written is None:
            return otherwise
        try:
            value = kind.read(written.node)
        except _WrongError as wrong:
            for suffix, text, node in wrong.problems:
                self.add(path + suffix, text, written.origin(node))
            return otherwise
        self._note(path, kind.show(value), written.origin(written.node))
        return value

    def _note(self, path: str, shown: str, origin: str) -> None:
        self.values[path], self.origins[path] = shown, origin

    def _written(self, key: _Key[Any]) -> _Written | None:
        if key.path in self._flags:
            name, text = self._flags[key.path]
            return self._of_text(key, text.strip(), f"flag --{name}")
        if key.variable in self._environ:
            text = self._environ[key.variable]
            return self._of_text(key, text, f"environment {key.variable}")
        return self._of_file(key.path)

    def _of_file(self, path: str) -> _Written | None:
        node = self._file.nodes.get(path)
        return None if node is None else _Written(node=node, origin=self._in_file)

    def _of_text(self, key: _Key[Any], text: str, origin: str) -> _Written:
        node: yaml.Node | None = None
        if key.kind.structured:
            # What is no YAML stays text, and is refused as such.
            with contextlib.suppress(yaml.YAMLError, RecursionError):
                node = yaml.compose(text, Loader=yaml.SafeLoader)
        return _Written(
            node=node or yaml.ScalarNode(tag="tag:yaml.org,2002:str", value=text),
            origin=lambda _: origin,
        )

    def _in_file(self, node: yaml.Node) -> str:
        return f"{self._file.path}:{_line(node)}"

    def _ollama_host(self, listen: Listen) -> str | None:
        """The address in `OLLAMA_HOST`; clients of the gate have the gate's own there."""
        text = self._environ.get(_HOST_VARIABLE, "").strip("\"' ")
        if not text:
            return None
        try:
            url = parse_upstream(text)
        except ValueError:
            found = json.dumps(text, ensure_ascii=not text.isprintable())
            self.problems.append(f"{_HOST_VARIABLE}: expected {_URL_WORDS}, found {found}")
            return None
        if names_gate(url, listen):
            return None
        self._note(_URL.path, url, f"environment {_HOST_VARIABLE}")
        return url


def load(*, path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Effective:
    """What is in effect: flag above environment above file above default.

    Args:
        path: the file to use; it must exist. `None` looks for one: `OLLAMA_GATE_CONFIG`, which
            must exist as well, then `./gate.yaml`, `~/.config/ollama-gate/gate.yaml` and
            `/etc/ollama-gate/gate.yaml`; none at all is fine.
        environ: as `os.environ`.
        flags: `listen` and `upstream`, where they were given.

    Raises:
        ConfigError: with every problem of every source, one a line.
    """
    file = _find_file(path, environ)
    reading = _Reading(file=file, environ=environ, flags=flags)
    config = _build(reading, tuple(file.models))
    reading.check_variables()
    if reading.problems:
        raise ConfigError("\n".join(reading.problems))
    return Effective(
        config=config,
        file=file.path,
        origins=MappingProxyType(reading.origins),
        values=MappingProxyType(reading.values),
        models=MappingProxyType(file.models),
    )


def _build(reading: _Reading, models: Iterable[str]) -> Config:
    """The order of reading is the order of showing: that of the documented gate.yaml."""
    value = reading.value
    return Config(
        listen=(listen := value(_LISTEN)),
        upstream=UpstreamConfig(
            name=value(_NAME),
            url=reading.upstream_url(listen),
            num_parallel=value(_NUM_PARALLEL),
            max_loaded=value(_MAX_LOADED),
            kv_cache_type=value(_KV_CACHE_TYPE),
            context_length=value(_CONTEXT_LENGTH),
            gpus=value(_CARDS),
            outage_wait_s=value(_OUTAGE_WAIT),
        ),
        vram=VramConfig(reserve_bytes=value(_RESERVE)),
        keep_alive_s=value(_KEEP_ALIVE),
        models=MappingProxyType({name: reading.model(name) for name in models}),
        queue=QueueConfig(max_size=value(_MAX_SIZE)),
        scheduler=SchedulerConfig(tau_s=value(_TAU), kappa=value(_KAPPA)),
        max_body_bytes=value(_MAX_BODY),
        grace_s=value(_GRACE),
        log=LogConfig(level=value(_LEVEL), format=value(_FORMAT)),
    )


def describe(effective: Effective) -> list[tuple[str, str, str]]:
    """Dotted path, value and origin of everything in effect, in the order of gate.yaml."""
    return [(path, text, effective.origins[path]) for path, text in effective.values.items()]
