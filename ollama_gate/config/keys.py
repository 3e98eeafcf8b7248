"""Which names may stand where, and for each what is read there and its default.

A key exists when what it controls works; all others are problems. Where values come from is not
known here.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ollama_gate.config import kinds
from ollama_gate.config.addresses import Listen
from ollama_gate.config.key import Key, make
from ollama_gate.config.nodes import Problem, found, is_nothing, line
from ollama_gate.config.parameters import PARAMETERS, PROFILE
from ollama_gate.config.structs import (
    Card,
    Config,
    ContextPolicy,
    Gpus,
    KvCacheType,
    LogFormat,
    LogLevel,
    OffloadPolicy,
    PrewarmPolicy,
    UpstreamConfig,
)
from ollama_gate.config.units import format_size

MODEL_KEYS = ("vram", "max_concurrent", "priority", "keep_alive", "pin", "preload")
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


class _UpstreamKeys(NamedTuple):
    """Every key of one entry of `upstreams`."""

    name: Key[str]
    url: Key[str]
    num_parallel: Key[int]
    max_loaded: Key[int]
    kv_cache_type: Key[KvCacheType]
    context_length: Key[int]
    gpus: Key[Gpus]
    outage_wait: Key[float]


def entry(place: int) -> str:
    """The path of one upstream."""
    return f"upstreams[{place}]"


@cache
def upstream_keys(place: int) -> _UpstreamKeys:
    """The keys of the upstream that has this place in the list."""
    path, default = entry(place), UpstreamConfig()
    return _UpstreamKeys(
        name=make(f"{path}.name", kinds.A_NAME, default.name),
        url=make(f"{path}.url", kinds.A_URL, default.url),
        num_parallel=make(f"{path}.num_parallel", kinds.AN_INTEGER, default.num_parallel),
        max_loaded=make(f"{path}.max_loaded", kinds.AN_INTEGER_OR_0, default.max_loaded),
        kv_cache_type=make(f"{path}.kv_cache_type", kinds.A_KV_CACHE_TYPE, default.kv_cache_type),
        context_length=make(
            f"{path}.context_length", kinds.AN_INTEGER_OR_0, default.context_length
        ),
        gpus=make(f"{path}.gpus", _GPUS, default.gpus),
        outage_wait=make(f"{path}.outage_wait", kinds.A_DURATION, default.outage_wait_s),
    )


class _Keys(NamedTuple):
    """Every key but an upstream's, a model's and the brain's parameters."""

    listen: Key[Listen] = make("listen", kinds.AN_ADDRESS, _DEFAULT.listen)
    origins: Key[tuple[str, ...]] = make("origins", kinds.ORIGINS, _DEFAULT.origins)
    reserve: Key[int | None] = make("vram.reserve", kinds.A_RESERVE, _DEFAULT.vram.reserve_bytes)
    safety: Key[float] = make("vram.safety", kinds.A_FACTOR, _DEFAULT.vram.safety)
    offload: Key[OffloadPolicy] = make("offload", kinds.AN_OFFLOAD_POLICY, _DEFAULT.offload)
    keep_alive: Key[float] = make("keep_alive", kinds.A_KEEP_ALIVE, _DEFAULT.keep_alive_s)
    num_ctx: Key[ContextPolicy] = make("num_ctx", kinds.A_CONTEXT_POLICY, _DEFAULT.num_ctx)
    prewarm: Key[PrewarmPolicy] = make("prewarm", kinds.A_PREWARM_POLICY, _DEFAULT.prewarm)
    max_concurrent: Key[int] = make(
        "max_concurrent", kinds.AN_INTEGER_OR_0, _DEFAULT.max_concurrent
    )
    max_size: Key[int] = make("queue.max_size", kinds.AN_INTEGER, _DEFAULT.queue.max_size)
    max_wait: Key[float] = make("queue.max_wait", kinds.A_DURATION, _DEFAULT.queue.max_wait_s)
    max_per_client: Key[int] = make(
        "queue.max_per_client", kinds.AN_INTEGER_OR_0, _DEFAULT.queue.max_per_client
    )
    max_run: Key[float] = make("max_run", kinds.A_DURATION, _DEFAULT.max_run_s)
    max_body: Key[int] = make("max_body", kinds.A_SIZE, _DEFAULT.max_body_bytes)
    grace: Key[float] = make("grace", kinds.A_DURATION, _DEFAULT.grace_s)
    trace: Key[Path | None] = make("trace", kinds.A_TRACE, _DEFAULT.trace)
    state_dir: Key[Path] = make("state_dir", kinds.A_DIRECTORY, _DEFAULT.state_dir)
    level: Key[LogLevel] = make("log.level", kinds.A_LOG_LEVEL, _DEFAULT.log.level)
    format: Key[LogFormat] = make("log.format", kinds.A_LOG_FORMAT, _DEFAULT.log.format)


KEYS = _Keys()
FLAGS: Mapping[str, Key[Any]] = {"listen": KEYS.listen, "upstream": upstream_keys(0).url}
EVERY: Final[tuple[Key[Any], ...]] = (*upstream_keys(0), *KEYS, PROFILE, *PARAMETERS.values())
"""All that may stand once in a file, and with it all that have a variable."""


def below(section: str) -> list[str]:
    """The names of the keys and sections right below one, `""` being the top."""
    start = f"{section}." if section else ""
    paths = (key.path.removeprefix(start) for key in EVERY if key.path.startswith(start))
    names = dict.fromkeys(path.split(".")[0] for path in paths)
    return ["upstreams" if name == entry(0) else name for name in names]


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
    elsewhere = [key.path for key in EVERY if key.path.endswith(f".{name}")]
    nearest = difflib.get_close_matches(name.lower(), known, n=1) or elsewhere[:1]
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
    return f"unknown key; {hint}"
