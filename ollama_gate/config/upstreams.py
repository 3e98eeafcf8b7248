"""The upstreams of a configuration: one alone, or several that are told from each other.

It compares what was written; whether anybody answers at an address is not looked up.
"""

from collections.abc import Iterator, Sequence

from ollama_gate.config import kinds
from ollama_gate.config.addresses import Listen, names_gate, parse_upstream, same_server
from ollama_gate.config.keys import entry, upstream_keys
from ollama_gate.config.nodes import quoted
from ollama_gate.config.reading import Reading
from ollama_gate.config.structs import UpstreamConfig

_HOST_VARIABLE = "OLLAMA_HOST"
_FLAG = "flag --upstream"


def read_upstreams(reading: Reading, count: int, listen: Listen) -> tuple[UpstreamConfig, ...]:
    """All that the file lists; what is wrong with any is noted as a problem.

    `--upstream` is the address of one that stands alone. Of several it names one, by its name or
    its address, and the others are as if they were not there.
    """
    if count == 1:
        return (_read(reading, 0, listen, alone=True),)
    chosen = reading.take_flag(upstream_keys(0).url)
    found = tuple(_read(reading, place, listen, alone=False) for place in range(count))
    for path, text in _clashes(found):
        if reading.origins.get(path, "default") != "default":
            reading.add(path, text, reading.origins[path])
    return found if chosen is None else _choose(reading, chosen, found)


def _read(reading: Reading, place: int, listen: Listen, *, alone: bool) -> UpstreamConfig:
    keys, value = upstream_keys(place), reading.value
    name = value(keys.name)
    url = _url(reading, place, listen, alone=alone)
    if not alone:
        for path in (keys.name.path, keys.url.path):
            if reading.origins.get(path) == "default":
                reading.add(path, "expected one, there being several upstreams", "default")
    return UpstreamConfig(
        name=name,
        url=url,
        num_parallel=value(keys.num_parallel),
        max_loaded=value(keys.max_loaded),
        kv_cache_type=value(keys.kv_cache_type),
        context_length=value(keys.context_length),
        gpus=value(keys.gpus),
        outage_wait_s=value(keys.outage_wait),
    )


def _url(reading: Reading, place: int, listen: Listen, *, alone: bool) -> str:
    """Where the Ollama is: never the gate itself, which would send a request in a circle."""
    key = upstream_keys(place).url
    url = reading.value(key)
    if alone and reading.origins.get(key.path) == "default":
        url = _ollama_host(reading, listen) or url
    known = key.path in reading.origins and "listen" in reading.origins
    if known and names_gate(url, listen):
        text = f"expected an Ollama, found {url}, which is the gate's own listen address"
        reading.add(key.path, text, reading.origins[key.path])
    return url


def _ollama_host(reading: Reading, listen: Listen) -> str | None:
    """The address in `OLLAMA_HOST`; clients of the gate have the gate's own there."""
    text = reading.environ.get(_HOST_VARIABLE, "").strip("\"' ")
    if not text:
        return None
    try:
        url = parse_upstream(text)
    except ValueError:
        reading.add(_HOST_VARIABLE, f"expected {kinds.URL_WORDS}, found {quoted(text)}", "default")
        return None
    if names_gate(url, listen):
        return None
    reading.note(upstream_keys(0).url.path, url, f"environment {_HOST_VARIABLE}")
    return url


def _clashes(upstreams: Sequence[UpstreamConfig]) -> Iterator[tuple[str, str]]:
    """Dotted path and what is wrong, of whatever an earlier entry has already."""
    for place, upstream in enumerate(upstreams):
        keys = upstream_keys(place)
        for before, other in enumerate(upstreams[:place]):
            there = upstream_keys(before)
            if upstream.name == other.name:
                yield keys.name.path, f"the same name as {there.name.path}, {other.name}"
            if same_server(upstream.url, other.url):
                yield keys.url.path, f"the same Ollama as {there.url.path}, {other.url}"
            for uuid in sorted(_uuids(upstream) & _uuids(other)):
                yield keys.gpus.path, f"the same card as in {there.gpus.path}, {uuid}"


def _uuids(upstream: UpstreamConfig) -> set[str]:
    """The cards that are told apart whatever machine they are in."""
    if isinstance(upstream.gpus, str):
        return set()
    return {card.uuid for card in upstream.gpus if card.uuid is not None}


def _choose(
    reading: Reading, text: str, upstreams: tuple[UpstreamConfig, ...]
) -> tuple[UpstreamConfig, ...]:
    chosen = [place for place, each in enumerate(upstreams) if _is_meant(each, text)]
    if not chosen:
        known = ", ".join(f"{each.name} ({each.url})" for each in upstreams)
        reading.add("upstreams", f"expected one of {known}, found {quoted(text)}", _FLAG)
        return upstreams
    for place in range(len(upstreams)):
        if place != chosen[0]:
            reading.forget(entry(place))
    key = upstream_keys(chosen[0]).name
    reading.note(key.path, upstreams[chosen[0]].name, _FLAG)
    return (upstreams[chosen[0]],)


def _is_meant(upstream: UpstreamConfig, text: str) -> bool:
    if text == upstream.name:
        return True
    try:
        return same_server(parse_upstream(text), upstream.url)
    except ValueError:
        return False
