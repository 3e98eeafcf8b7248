"""Finding out what a report needs: from an upstream and a card, or from a file.

What a model is and which cards there are is found out as `serve` does it; nothing is remembered.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ollama_gate import footprint, gpu, names
from ollama_gate.config import Config, UpstreamConfig
from ollama_gate.errors import CardError, ConfigError, ModelUnknownError
from ollama_gate.estimate.report import Memory, Report, Row, contexts, fit
from ollama_gate.footprint import Facts, Resident, Settings
from ollama_gate.known import Known
from ollama_gate.ollama import Ollama
from ollama_gate.scheduler.memory import reserve_of
from ollama_gate.scheduler.types import Launch, ModelKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the report is about; `None` leaves it to the configuration, or to Ollama.

    Attributes:
        model: its name.
        num_ctx: as a request would ask for it.
        num_parallel: instead of the configured one.
        kv_cache_type: likewise.
    """

    model: str
    num_ctx: int | None = None
    num_parallel: int | None = None
    kv_cache_type: str | None = None


async def from_upstream(config: Config, asked: Asked, *, card: gpu.Card | None = None) -> Report:
    """Report on a model that the configured upstream has.

    Args:
        config: what is in effect.
        asked: the model, and what to assume.
        card: what to read instead of the card that the configuration leads to.

    Raises:
        ModelUnknownError: the upstream has no such model.
        UpstreamError: it does not answer, or cannot say.
    """
    ollama = Ollama(config.upstream.url)
    await ollama.open()
    try:
        facts = await _facts(ollama, asked.model)
        version = await ollama.version()
        loaded = [footprint.read_ps(entry) for entry in await ollama.residents()]
    finally:
        await ollama.close()
    memory = await at_hand(config, asked.model, loaded, card)
    return _report(config, asked, facts, memory, version=version)


async def from_file(
    config: Config,
    asked: Asked,
    path: Path,
    size_bytes: int | None,
    *,
    card: gpu.Card | None = None,
) -> Report:
    """Report on a model of which there is only the answer of `/api/show`, in a file.

    Args:
        config: what is in effect.
        asked: the model, and what to assume.
        path: of the file.
        size_bytes: of the model on disk; `None` will do where the file lists the tensors.
        card: what to read instead of the card that the configuration leads to.

    Raises:
        ConfigError: there is no such file, or it says too little.
    """
    show = await asyncio.to_thread(_read, path)
    facts = footprint.read_show(asked.model, show, size_bytes or 0)
    if not facts.remote and not facts.size_bytes:
        raise ConfigError(f"{path} lists no tensors: --size must say how large the model is")
    memory = await at_hand(config, asked.model, (), card)
    if memory.cpu and config.upstream.gpus != "cpu":
        # A file may be of a model for any machine, and that is likelier to have a card.
        memory = Memory(note="no card here")
    return _report(config, asked, facts, memory)


async def at_hand(
    config: Config, model: str, loaded: Sequence[Resident], card: gpu.Card | None = None
) -> Memory:
    """What memory the upstream can use, and what is left of it.

    Args:
        config: what is in effect.
        model: the one in question; if it is loaded, its memory counts as free.
        loaded: what `/api/ps` shows.
        card: what to read instead of the card that the configuration leads to.
    """
    upstream = config.upstream
    if card is not None:
        found = gpu.only(card)
    else:
        here = gpu.is_here(upstream.url)
        found = await gpu.find_in_time(upstream.gpus, upstream_is_local=here)
    readings = await asyncio.gather(*(_reading(each.card) for each in found.listed))
    memory = _memory(found, readings, config.vram.reserve_bytes)
    if memory.cpu and any(each.size_vram_bytes for each in loaded):
        memory = Memory(note="Ollama uses a card that nothing here reads")
    return _with_loaded(memory, model, loaded)


async def _reading(card: gpu.Card | None) -> gpu.Reading | CardError | None:
    """What a card says, or why it does not; `None` without one."""
    if card is None:
        return None
    reading = gpu.on_a_thread(card.read, f"read {card.source}")
    done, _ = await asyncio.wait({reading}, timeout=gpu.STALE_S)
    if not done:
        reading.cancel()
        return CardError("the driver does not answer")
    try:
        return reading.result()
    except CardError as error:
        return error


def _memory(
    found: gpu.Found,
    readings: Sequence[gpu.Reading | CardError | None],
    reserve_bytes: int | None,
) -> Memory:
    reading, budget = readings[found.planned], found.vram_bytes
    if isinstance(reading, gpu.Reading):
        memory = _read_memory(reading, budget, reserve_bytes, cpu=found.cpu)
    elif budget is not None:
        memory = Memory(source="config", total_bytes=budget, planned_bytes=budget)
    else:
        note = str(reading or found.advice or "nothing here reads it")
        memory = Memory(note=note, cpu=found.cpu)
    return replace(memory, cards_bytes=None if found.cpu else _cards_bytes(found, readings))


def _cards_bytes(
    found: gpu.Found, readings: Sequence[gpu.Reading | CardError | None]
) -> int | None:
    """What all cards have together, as far as it is known: whatever is planned with."""
    known = [
        reading.total_bytes if isinstance(reading, gpu.Reading) else listed.vram_bytes
        for reading, listed in zip(readings, found.listed, strict=True)
    ]
    sizes = [size for size in known if size is not None]
    return sum(sizes) if sizes else None


def _read_memory(
    reading: gpu.Reading, budget: int | None, reserve_bytes: int | None, *, cpu: bool
) -> Memory:
    """What is read, less a reserve; a configured budget is a cap on that, as in admission."""
    total_bytes = reading.total_bytes
    reserve_bytes = reserve_of(total_bytes, reserve_bytes)
    readable_bytes = max(0, total_bytes - reserve_bytes)
    return Memory(
        source=reading.source,
        device=reading.device,
        total_bytes=total_bytes,
        planned_bytes=readable_bytes if budget is None else min(budget, readable_bytes),
        free_bytes=max(0, total_bytes - reading.used_bytes - reserve_bytes),
        cpu=cpu,
    )


def _with_loaded(memory: Memory, model: str, loaded: Sequence[Resident]) -> Memory:
    own = sum(
        _taken(each, memory) for each in loaded if names.key_of(each.name) == names.key_of(model)
    )
    others = [each for each in loaded if names.key_of(each.name) != names.key_of(model)]
    free_bytes = memory.free_bytes
    return replace(
        memory,
        free_bytes=None if free_bytes is None else free_bytes + own,
        loaded_bytes=sum(_taken(each, memory) for each in others),
        loaded=tuple(each.name for each in others),
    )


def _taken(loaded: Resident, memory: Memory) -> int:
    if memory.cpu:
        return loaded.size_bytes
    return loaded.size_vram_bytes + footprint.PROCESS_BYTES if loaded.size_vram_bytes else 0


async def _facts(ollama: Ollama, name: str) -> Facts:
    if names.is_cloud(name):
        # Asked of it, Ollama would ask the cloud.
        return Facts(key=ModelKey(f"name:{name}"), name=name, size_bytes=0, remote=True)
    known = Known(ollama)
    try:
        facts = await known.facts(name)
    finally:
        await known.close()
    if facts is None:
        raise ModelUnknownError(f"{ollama.url} has no model {name!r}")
    return facts


def _read(path: Path) -> Mapping[str, Any]:
    try:
        show = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(show, dict):
        raise ConfigError(f"{path} is not an answer of /api/show: an object is expected")
    return show


def _report(
    config: Config, asked: Asked, facts: Facts, memory: Memory, *, version: str = ""
) -> Report:
    settings = _settings(config.upstream, config.vram.safety, asked, memory, version)
    launch = Launch(num_ctx=asked.num_ctx)
    whole = footprint.estimate(facts, launch, settings, on_cpu_bin=memory.cpu)
    own = {names.key_of(name): model for name, model in config.models.items()}.get(
        names.key_of(facts.name)
    )
    report = Report(
        model=facts.name,
        estimate=whole,
        configured_bytes=own.vram_bytes if own and not facts.remote else None,
        memory=memory,
        remote=facts.remote,
    )
    if facts.remote:
        return report
    lengths = contexts(facts.context_length, whole.num_ctx)
    return replace(report, rows=tuple(_row(report, facts, settings, length) for length in lengths))


def _row(report: Report, facts: Facts, settings: Settings, length: int) -> Row:
    estimate = footprint.estimate(
        facts, Launch(num_ctx=length), settings, on_cpu_bin=report.memory.cpu
    )
    configured = report.configured_bytes
    total_bytes = estimate.total_bytes if configured is None else configured
    where, cpu_share = fit(total_bytes, report.memory)
    return Row(
        num_ctx=length,
        total_bytes=total_bytes,
        size_vram_bytes=estimate.size_vram_bytes,
        fits=where,
        cpu_share=cpu_share,
        in_effect=length == report.estimate.num_ctx,
    )


def _settings(
    upstream: UpstreamConfig, safety: float, asked: Asked, memory: Memory, version: str
) -> Settings:
    return Settings(
        num_parallel=asked.num_parallel or upstream.num_parallel,
        kv_cache_type=asked.kv_cache_type or upstream.kv_cache_type,
        context_length=upstream.context_length,
        # Main memory decides nothing: without a card Ollama takes its smallest context.
        total_bytes=memory.cards_bytes,
        safety=safety,
        version=version,
    )
