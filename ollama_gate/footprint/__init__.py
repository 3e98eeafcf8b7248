"""How much memory a runner needs: configured, else learned from Ollama, else estimated.

Everything is computed from what `/api/show`, `/api/tags` and `/api/ps` said; nothing is asked
here and nothing decided. What cannot be known is taken too large rather than too small. Sizes
are bytes.
"""

from ollama_gate.footprint.book import Book, Seen, Shown
from ollama_gate.footprint.buffers import compute_bytes
from ollama_gate.footprint.cache import kv_bytes
from ollama_gate.footprint.explained import Estimate, Part, Source, What
from ollama_gate.footprint.facts import GGUF_HEADER_BYTES, Facts, Resident, read_ps, read_show
from ollama_gate.footprint.launching import Resolved, resolve
from ollama_gate.footprint.learning import Figure, Key, Lesson, remembers_free
from ollama_gate.footprint.ollama_rules import (
    GIB,
    MIB,
    Settings,
    batch_of,
    default_context,
    effective_context,
    merge,
    parallel_of,
    predicted_by_ollama,
)
from ollama_gate.footprint.overhead import Overhead
from ollama_gate.footprint.shape import Shape
from ollama_gate.footprint.sizes import (
    PROCESS_BYTES,
    PROJECTOR_GRAPH_BYTES,
    estimate,
    unreported_bytes,
)

__all__ = [
    "GGUF_HEADER_BYTES",
    "GIB",
    "MIB",
    "PROCESS_BYTES",
    "PROJECTOR_GRAPH_BYTES",
    "Book",
    "Estimate",
    "Facts",
    "Figure",
    "Key",
    "Lesson",
    "Overhead",
    "Part",
    "Resident",
    "Resolved",
    "Seen",
    "Settings",
    "Shape",
    "Shown",
    "Source",
    "What",
    "batch_of",
    "compute_bytes",
    "default_context",
    "effective_context",
    "estimate",
    "kv_bytes",
    "merge",
    "parallel_of",
    "predicted_by_ollama",
    "read_ps",
    "read_show",
    "remembers_free",
    "resolve",
    "unreported_bytes",
]
