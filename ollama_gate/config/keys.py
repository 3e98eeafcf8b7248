"""Which names may stand where, and for each what is read there and its default.

A key exists when what it controls works; all others are problems. Where values come from is not
known here.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml

from ollama_gate.config import kinds
from ollama_gate.config.addresses import Listen
from ollama_gate.config.nodes import Problem, found, is_nothing, line
from ollama_gate.config.structs import (
    Card,
    Config,
    ContextPolicy,
    Gpus,
    KvCacheType,
    LogFormat,
    LogLevel,
    OffloadPolicy,
)
from ollama_gate.config.units import format_size

T = TypeVar("T")

PREFIX = "OLLAMA_GATE_"
ENTRY = "upstreams[0]"
SECTIONS = ("vram", "queue", "scheduler", "log")
MODEL_KEYS = ("vram", "max_concurrent", "priority", "keep_alive")
CARD_KEYS = ("vram", "uuid", "index")

_CARD_KINDS: Mapping[str, kinds.Kind[Any]] = {
    "vram": kinds.A_SIZE,
    "uuid": kinds.A_UUID,
    "index": kinds.AN_INTEGER_OR_0,
}
_GPUS_WORDS = (
    "auto, cpu or a list of cards such as [{vram: 24GiB}] or [{uuid: GPU-...}, {index: 1}]"
)

_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Generic[T]):
    """One setting: its dotted path, how its value is read, and what it is if nobody sets it."""

    path: str
    kind: kinds.Kind[T]
    default: T

    @property
    def variable(self) -> str:
        """The environment variable; an upstream's address is what people set, so it is short."""
        name = self.path.replace(f"{ENTRY}.url", "upstream").replace(ENTRY, "upstream")
        return PREFIX + name.replace(".", "_").upper()


def _key(path: str, kind: kinds.Kind[T], default: T) -> Key[T]:
    return Key(path=path, kind=kind, default=default)


def _read_gpus(node: yaml.Node) -> Gpus:
    if isinstance(node, yaml.ScalarNode) and node.value in {"auto", "cpu"}:
        return "cpu" if node.value == "cpu" else "auto"
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise kinds.wrong(node, _GPUS_WORDS)
    problems: list[Problem] = []
    cards = [_read_card(each, f"[{place}]", problems) for place, each in enumerate(node.value)]
    if not problems:
        problems += _naming_problems(cards, node.value)
    if problems:
        raise kinds.WrongError(*problems)
    return tuple(cards)


def _read_card(node: yaml.Node, path: str, problems: list[Problem]) -> Card:
    """One entry; what is wrong with it is noted in `problems`."""
    before = len(problems)
    parts = dict(entries(node, path, CARD_KEYS, problems))
    values: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            values[name] = _CARD_KINDS[name].read(part)
        except kinds.WrongError as error:
            problems += [(f"{path}.{name}{end}", text, at) for end, text, at in error.problems]
    if not parts and len(problems) == before:
        problems.append((path, f"expected one of {', '.join(CARD_KEYS)}, found nothing", node))
    if {"uuid", "index"} <= set(parts):
        problems.append((path, "expected a uuid or an index, found both", node))
    return Card(vram_bytes=values.get("vram"), uuid=values.get("uuid"), index=values.get("index"))


def _naming_problems(cards: Sequence[Card], nodes: Sequence[yaml.Node]) -> Iterator[Problem]:
    """Of several cards each must be told from the others."""
    first: dict[str | int, int] = {}
    for place, (card, node) in enumerate(zip(cards, nodes, strict=True)):
        name = card.index if card.uuid is None else card.uuid
        if name is None and len(cards) > 1:
            yield f"[{place}]", "expected a uuid or an index, there being several cards", node
        elif name in first:
            yield f"[{place}]", f"the same card as [{first[name]}]", node
        elif name is not None:
            first[name] = place


def _show_gpus(gpus: Gpus) -> str:
    if isinstance(gpus, str):
        return gpus
    return f"[{', '.join(map(_show_card, gpus))}]"


def _show_card(card: Card) -> str:
    values = {
        "uuid": card.uuid,
        "index": card.index,
        "vram": None if card.vram_bytes is None else format_size(card.vram_bytes),
    }
    given = (f"{name}: {value}" for name, value in values.items() if value is not None)
    return f"{{{', '.join(given)}}}"


_GPUS: kinds.Kind[Gpus] = kinds.Kind(read=_read_gpus, show=_show_gpus, structured=True)


_DEFAULT = Config()
_UPSTREAM = _DEFAULT.upstream


class _Keys(NamedTuple):
    """Every key but a model's, in the order of the documented gate.yaml."""

    listen: Key[Listen] = _key("listen", kinds.AN_ADDRESS, _DEFAULT.listen)
    origins: Key[tuple[str, ...]] = _key("origins", kinds.ORIGINS, _DEFAULT.origins)
    name: Key[str] = _key(f"{ENTRY}.name", kinds.A_NAME, _UPSTREAM.name)
    url: Key[str] = _key(f"{ENTRY}.url", kinds.A_URL, _UPSTREAM.url)
    num_parallel: Key[int] = _key(f"{ENTRY}.num_parallel", kinds.AN_INTEGER, _UPSTREAM.num_parallel)
    max_loaded: Key[int] = _key(f"{ENTRY}.max_loaded", kinds.AN_INTEGER_OR_0, _UPSTREAM.max_loaded)
    kv_cache_type: Key[KvCacheType] = _key(
        f"{ENTRY}.kv_cache_type", kinds.A_KV_CACHE_TYPE, _UPSTREAM.kv_cache_type
    )
    context_length: Key[int] = _key(
        f"{ENTRY}.context_length", kinds.AN_INTEGER_OR_0, _UPSTREAM.context_length
    )
    gpus: Key[Gpus] = _key(f"{ENTRY}.gpus", _GPUS, _UPSTREAM.gpus)
    outage_wait: Key[float] = _key(
        f"{ENTRY}.outage_wait", kinds.A_DURATION, _UPSTREAM.outage_wait_s
    )
    reserve: Key[int | None] = _key("vram.reserve", kinds.A_RESERVE, _DEFAULT.vram.reserve_bytes)
    safety: Key[float] = _key("vram.safety", kinds.A_FACTOR, _DEFAULT.vram.safety)
    offload: Key[OffloadPolicy] = _key("offload", kinds.AN_OFFLOAD_POLICY, _DEFAULT.offload)
    keep_alive: Key[float] = _key("keep_alive", kinds.A_KEEP_ALIVE, _DEFAULT.keep_alive_s)
    num_ctx: Key[ContextPolicy] = _key("num_ctx", kinds.A_CONTEXT_POLICY, _DEFAULT.num_ctx)
    max_size: Key[int] = _key("queue.max_size", kinds.AN_INTEGER, _DEFAULT.queue.max_size)
    tau: Key[tuple[float, float, float]] = _key(
        "scheduler.tau", kinds.PATIENCE, _DEFAULT.scheduler.tau_s
    )
    kappa: Key[float] = _key("scheduler.kappa", kinds.A_NUMBER, _DEFAULT.scheduler.kappa)
    max_run: Key[float] = _key("max_run", kinds.A_DURATION, _DEFAULT.max_run_s)
    max_body: Key[int] = _key("max_body", kinds.A_SIZE, _DEFAULT.max_body_bytes)
    grace: Key[float] = _key("grace", kinds.A_DURATION, _DEFAULT.grace_s)
    state_dir: Key[Path] = _key("state_dir", kinds.A_DIRECTORY, _DEFAULT.state_dir)
    level: Key[LogLevel] = _key("log.level", kinds.A_LOG_LEVEL, _DEFAULT.log.level)
    format: Key[LogFormat] = _key("log.format", kinds.A_LOG_FORMAT, _DEFAULT.log.format)


KEYS = _Keys()
FLAGS: Mapping[str, Key[Any]] = {"listen": KEYS.listen, "upstream": KEYS.url}


def below(section: str) -> list[str]:
    """The names of the keys and sections right below one, `""` being the top."""
    start = f"{section}." if section else ""
    paths = (key.path.removeprefix(start) for key in KEYS if key.path.startswith(start))
    names = dict.fromkeys(path.split(".")[0] for path in paths)
    return ["upstreams" if name == ENTRY else name for name in names]


TOP = (*below(""), "models")


def step(path: str, name: str) -> str:
    """One level down; a name that would read as something else, as most models' do, is quoted."""
    shown = name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)
    return f"{path}.{shown}" if path else shown


def entries(
    node: yaml.Node, path: str, known: Collection[str] | None, problems: list[Problem]
) -> Iterator[tuple[str, yaml.Node]]:
    """The entries of a mapping that have a known name (`None`: any), once each.

    What is wrong with the others is noted in `problems`.
    """
    if is_nothing(node):
        return
    if not isinstance(node, yaml.MappingNode):
        problems.append((path, f"expected a mapping, found {found(node)}", node))
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        problem = _key_problem(key, known, first)
        if problem is None:
            first[key.value] = line(key)
            yield key.value, value
        else:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            problems.append((step(path, name), problem, key))


def _key_problem(
    key: yaml.Node, known: Collection[str] | None, first: Mapping[str, int]
) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return f"expected a key of one word, found {found(key)}"
    if key.tag == _MERGE_TAG:
        return "merge keys are not supported"
    if not key.value.strip():
        return "expected a name, found nothing"
    if known is not None and key.value not in known:
        return _unknown(key.value, known)
    if key.value in first:
        return f"duplicate key, first on line {first[key.value]}"
    return None


def _unknown(name: str, known: Collection[str]) -> str:
    elsewhere = [key.path for key in KEYS if key.path.endswith(f".{name}")]
    nearest = difflib.get_close_matches(name.lower(), known, n=1) or elsewhere[:1]
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"
