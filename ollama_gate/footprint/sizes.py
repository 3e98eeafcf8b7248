"""What a runner will take, before it was ever seen: weights, cache, buffers, overhead.

As Ollama since 0.30 runs it; what cannot be known is taken too large rather than too small. What
was seen or configured instead is not asked for here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from ollama_gate.footprint.buffers import compute_bytes
from ollama_gate.footprint.cache import kv_bytes
from ollama_gate.footprint.explained import Estimate, Part, What
from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.ollama_rules import (
    MIB,
    Settings,
    batch_of,
    context_of,
    keeps_all_outputs,
    merge,
    parallel_of,
    unknown_kv_bytes,
)
from ollama_gate.footprint.shape import Shape, Standing
from ollama_gate.scheduler.types import Launch

PROCESS_BYTES: Final = 457 * MIB
"""What a CUDA process takes on a card before anything is loaded; Ollama v0.32.15 sets as much
aside (`ml/device.go` `MinimumMemory`), and `size_vram` does not show it."""

PROJECTOR_GRAPH_BYTES: Final = 300 * MIB
"""Buffers of a vision projector, which `size_vram` does not show either."""

TENSORS_ERROR_PERCENT: Final = 2
"""Alignment and what a backend lays out anew; the sum itself is the file's, to the byte."""
FILE_ERROR_PERCENT: Final = 8
"""31 of 33 reported readings lie within -2 and +8 % of what goes by the file's size."""
UNKNOWN_ERROR_PERCENT: Final = 40
"""Where nothing says how a model is built."""
COMPUTE_ERROR: Final[Mapping[Standing, tuple[int, int]]] = {
    "checked": (5, 32 * MIB),
    "known": (25, 64 * MIB),
    "unknown": (UNKNOWN_ERROR_PERCENT, 64 * MIB),
}
"""Percent, and no fewer bytes unless it is fewer altogether: all dry-runs lie within the first."""
PROCESS_ERROR_BYTES: Final = 300 * MIB
"""What differs between drivers and cards."""
PROJECTOR_GRAPH_ERROR_BYTES: Final = 900 * MIB
"""One report has 1136 MiB."""

MLX_SHARE: Final = Fraction(15, 100)
"""What a model in safetensors takes beyond its files; a guess."""


def estimate(
    facts: Facts, launch: Launch, settings: Settings, *, on_cpu_bin: bool = False
) -> Estimate:
    """What a runner with these options would take in a bin, if all of it goes there.

    Args:
        facts: of the model.
        launch: the options that were asked for; the Modelfile's stand in for what was not.
        settings: of its upstream.
        on_cpu_bin: whether the bin is main memory.
    """
    launch = merge(facts, launch)
    if facts.remote or (launch.on_cpu and not on_cpu_bin):
        return Estimate()
    context = context_of(facts, launch, settings)
    parallel = parallel_of(facts, settings.num_parallel)
    weights = _weights(facts, on_cpu_bin=on_cpu_bin)
    batch = 0
    if facts.shape is None:
        working = _guessed(facts, context * parallel)
    else:
        batch = batch_of(facts, launch, settings)
        run = _Run(context, batch, parallel, settings, on_cpu_bin)
        working = (_kv(facts.shape, run), _compute(facts, facts.shape, run))
    parts = (*weights, *working, *_overhead(facts, settings, on_cpu_bin=on_cpu_bin))
    return Estimate(
        parts=(*parts, *_safety(parts, settings.safety)),
        num_ctx=context,
        parallel=parallel,
        batch=batch,
    )


def unreported_bytes(facts: Facts, settings: Settings, *, on_cpu_bin: bool) -> int:
    """What a runner takes beyond what `/api/ps` says of it."""
    return sum(part.bytes for part in _overhead(facts, settings, on_cpu_bin=on_cpu_bin))


@dataclass(frozen=True, slots=True)
class _Run:
    """What a runner of a known shape is started with."""

    context: int
    batch: int
    parallel: int
    settings: Settings
    on_cpu_bin: bool


def _percent(size: int, percent: int) -> int:
    return size * percent // 100


def _weights(facts: Facts, *, on_cpu_bin: bool) -> list[Part]:
    listed = facts.tensors_bytes if on_cpu_bin else facts.weights_bytes
    if listed is not None:
        source, size, percent = "tensors of /api/show", listed, TENSORS_ERROR_PERCENT
    else:
        source, size, percent = "file size of /api/tags", facts.size_bytes, FILE_ERROR_PERCENT
    if facts.shape is None:
        percent = UNKNOWN_ERROR_PERCENT
    parts = [Part(what="weights", bytes=size, source=source, error_bytes=_percent(size, percent))]
    if on_cpu_bin and facts.repacked_bytes:
        source = "4-bit tensors of /api/show: a CPU keeps a second copy, laid out for it"
        # Which types, depends on the CPU; this is x86's.
        size = facts.repacked_bytes
        parts.append(Part(what="repacked", bytes=size, source=source, error_bytes=size // 4))
    return parts


def _guessed(facts: Facts, cells: int) -> tuple[Part, ...]:
    """Cache and buffers of a model whose dimensions nobody tells."""
    source = "guess from the file size: unknown architecture, or keys missing in /api/show"
    guesses: list[tuple[What, int]] = [
        ("kv", unknown_kv_bytes(facts, cells)),
        ("compute", facts.size_bytes // 5 + 64 * MIB),
    ]
    if facts.mlx:
        source = "guess from the file size: a model in safetensors"
        guesses = [("kv", 0), ("compute", int(facts.size_bytes * MLX_SHARE))]
    return tuple(
        Part(
            what=what,
            bytes=size,
            source=source,
            error_bytes=_percent(size, UNKNOWN_ERROR_PERCENT),
        )
        for what, size in guesses
    )


def _kv(shape: Shape, run: _Run) -> Part:
    size = kv_bytes(
        shape,
        context=run.context,
        parallel=run.parallel,
        batch=run.batch,
        kv_type=run.settings.kv_cache_type,
    )
    unknown = shape.standing == "unknown"
    return Part(
        what="kv",
        bytes=size,
        source=f"llama.cpp's cache formula{', of an unknown architecture' if unknown else ''}",
        error_bytes=_percent(size, UNKNOWN_ERROR_PERCENT) if unknown else 0,
    )


def _compute(facts: Facts, shape: Shape, run: _Run) -> Part:
    size = compute_bytes(
        shape,
        context=run.context,
        batch=run.batch,
        parallel=run.parallel,
        kv_type=run.settings.kv_cache_type,
        flash=run.settings.flash_attention,
        all_outputs=keeps_all_outputs(facts, run.settings.version),
    )
    if run.on_cpu_bin and shape.cached:
        # Scores of all words for each slot: beside a card they lie in main memory as well.
        size += 4 * run.parallel * shape.vocabulary
    percent, least = COMPUTE_ERROR[shape.standing]
    sources: Mapping[Standing, str] = {
        "checked": "fit to llama.cpp's dry-runs",
        "known": "fit to dry-runs of like architectures",
        "unknown": "fit to dry-runs of other architectures",
    }
    return Part(
        what="compute",
        bytes=size,
        source=sources[shape.standing],
        error_bytes=max(min(least, size), _percent(size, percent)),
    )


def _overhead(facts: Facts, settings: Settings, *, on_cpu_bin: bool) -> tuple[Part, ...]:
    parts: list[Part] = []
    if facts.adapters_bytes:
        parts.append(_file("adapters", facts.adapters_bytes))
    if facts.draft_bytes:
        # Its cache and buffers are not in the file, and nothing shows its dimensions.
        parts.append(_file("draft", facts.draft_bytes, UNKNOWN_ERROR_PERCENT))
    if facts.projector_bytes:
        parts.append(_file("projector", facts.projector_bytes))
        parts.append(
            Part(
                what="projector buffers",
                bytes=PROJECTOR_GRAPH_BYTES,
                source="the least of what was reported",
                error_bytes=PROJECTOR_GRAPH_ERROR_BYTES,
            )
        )
    if not on_cpu_bin:
        parts.append(_process(settings))
    return tuple(parts)


def _file(what: What, size: int, error_percent: int = FILE_ERROR_PERCENT) -> Part:
    source = "file sizes of /api/tags, less the model's tensors"
    if what == "projector":
        source = "tensors of /api/show, or the file's size"
    return Part(
        what=what,
        bytes=size,
        source=source,
        error_bytes=_percent(size, error_percent),
    )


def _process(settings: Settings) -> Part:
    learned = settings.overhead_bytes
    if learned is not None:
        return Part(what="process", bytes=learned, source="learned on this card")
    return Part(
        what="process",
        bytes=PROCESS_BYTES,
        source="457 MiB, as Ollama sets aside (ml/device.go)",
        error_bytes=PROCESS_ERROR_BYTES,
    )


def _safety(parts: tuple[Part, ...], factor: float) -> tuple[Part, ...]:
    extra = int(sum(part.bytes for part in parts) * (factor - 1))
    return (Part(what="safety", bytes=extra, source=f"vram.safety {factor:g}"),) if extra else ()
