"""What is reported of a model: the sum, its parts, and where it would fit in which context.

It computes from what was found out already, and asks nobody.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from ollama_gate.footprint import Estimate, Source

Fit = Literal["beside what is loaded", "alone", "partly on the CPU", "not at all", "unknown"]
"""Where a model would run if it were loaded now: `alone` once everything else has left."""

SMALLEST_CONTEXT: Final = 4096
LARGEST_GUESS: Final = 131_072
"""Where nothing says how long a model's texts were in training, nobody looks further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What an upstream can use, as far as can be told from here.

    Attributes:
        source: `config`, `nvml`, ..., or `unknown`.
        device: which, in words; empty where nobody says.
        total_bytes: all of it; `None` where nobody can tell.
        cards_bytes: what all cards have together, by which Ollama chooses its automatic context;
            `None` likewise, and without a card.
        planned_bytes: what models may use of it, the reserve taken off; `None` likewise.
        free_bytes: of that, what nobody uses; `None` where no reading says.
        loaded_bytes: what the loaded models take, the one in question left out.
        loaded: their names.
        cpu: main memory rather than a card.
        note: why there is no more to say.
    """

    source: str = "unknown"
    device: str = ""
    total_bytes: int | None = None
    cards_bytes: int | None = None
    planned_bytes: int | None = None
    free_bytes: int | None = None
    loaded_bytes: int = 0
    loaded: tuple[str, ...] = ()
    cpu: bool = False
    note: str = ""

    @property
    def alone_bytes(self) -> int | None:
        """What one model has once every other has left; what others use stays used."""
        if self.planned_bytes is None or self.free_bytes is None:
            return self.planned_bytes
        return min(self.planned_bytes, self.free_bytes + self.loaded_bytes)

    @property
    def beside_bytes(self) -> int | None:
        """What is there beside the models that are loaded."""
        if self.planned_bytes is None:
            return None
        left = max(0, self.planned_bytes - self.loaded_bytes)
        return left if self.free_bytes is None else min(left, self.free_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A model with one length of context.

    Attributes:
        num_ctx: tokens of each slot.
        total_bytes: what it takes.
        size_vram_bytes: what `/api/ps` would show of that.
        fits: where.
        cpu_share: of it, what would be on the CPU if it were loaded alone; 0 where it fits.
        in_effect: whether this is the context that a request gets which names none other.
    """

    num_ctx: int
    total_bytes: int
    size_vram_bytes: int
    fits: Fit
    cpu_share: float = 0.0
    in_effect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything there is to say of one model.

    Attributes:
        model: its name.
        estimate: with the context in effect, part by part.
        configured_bytes: what the configuration says instead; `None` where it says nothing.
        rows: by context, the shortest first.
        memory: what it was held against.
        remote: it runs elsewhere and takes nothing here.
    """

    model: str
    estimate: Estimate
    configured_bytes: int | None = None
    rows: tuple[Row, ...] = ()
    memory: Memory = Memory()
    remote: bool = False

    @property
    def total_bytes(self) -> int:
        """As configured, else as estimated."""
        configured = self.configured_bytes
        return self.estimate.total_bytes if configured is None else configured

    @property
    def source(self) -> Source:
        """Where the total is from."""
        return self.estimate.source if self.configured_bytes is None else "configured"

    @property
    def error(self) -> float:
        """How far off the total may be, as a share of it; a configured one is taken as it is."""
        return self.estimate.error if self.configured_bytes is None else 0.0

    def as_json(self) -> dict[str, Any]:
        """The report for a program to read."""
        estimate, memory = self.estimate, self.memory
        return {
            "model": self.model,
            "weights_bytes": estimate.weights_bytes,
            "kv_bytes": estimate.kv_bytes,
            "compute_bytes": estimate.compute_bytes,
            "overhead_bytes": estimate.overhead_bytes,
            "size_vram_bytes": estimate.size_vram_bytes,
            "total_bytes": self.total_bytes,
            "num_ctx": estimate.num_ctx,
            "source": self.source,
            "error": round(self.error, 4),
            "estimated_bytes": estimate.total_bytes,
            "parallel": estimate.parallel,
            "batch": estimate.batch,
            "parts": [
                {
                    "what": part.what,
                    "bytes": part.bytes,
                    "error_bytes": part.error_bytes,
                    "source": part.source,
                }
                for part in estimate.parts
            ],
            "contexts": [
                {
                    "num_ctx": row.num_ctx,
                    "total_bytes": row.total_bytes,
                    "size_vram_bytes": row.size_vram_bytes,
                    "fits": row.fits,
                    "cpu_share": round(row.cpu_share, 4),
                    "in_effect": row.in_effect,
                }
                for row in self.rows
            ],
            "memory": {
                "source": memory.source,
                "device": memory.device,
                "total_bytes": memory.total_bytes,
                "cards_bytes": memory.cards_bytes,
                "planned_bytes": memory.planned_bytes,
                "free_bytes": memory.free_bytes,
                "loaded": list(memory.loaded),
            },
        }


def contexts(trained: int | None, in_effect: int) -> list[int]:
    """The lengths worth a line: doubling up to the trained one, that one, and the one in effect."""
    longest = trained or max(LARGEST_GUESS, in_effect)
    lengths = {longest, in_effect}
    length = SMALLEST_CONTEXT
    while length < longest:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


def fit(total_bytes: int, memory: Memory) -> tuple[Fit, float]:
    """Where a model of this size would run, and how much of it on the CPU if it were alone."""
    alone, beside = memory.alone_bytes, memory.beside_bytes
    if alone is None or beside is None:
        return "unknown", 0.0
    if total_bytes <= beside:
        return "beside what is loaded", 0.0
    if total_bytes <= alone:
        return "alone", 0.0
    if memory.cpu:
        return "not at all", 0.0
    return "partly on the CPU", 1 - alone / total_bytes
