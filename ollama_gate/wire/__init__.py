"""What a request body means in each dialect, and how each spells a refusal.

Pure functions on bytes: nothing is asked, awaited or remembered here, and nothing decided either.
"""

from ollama_gate.wire.context import Place, with_context
from ollama_gate.wire.listing import with_expiries
from ollama_gate.wire.merging import is_list, merged
from ollama_gate.wire.names import changed_names, source_name
from ollama_gate.wire.read import Ask, Hopeless, read, read_deadline, read_priority
from ollama_gate.wire.refuse import (
    Answer,
    broken_line,
    never_fits_text,
    refusal,
    refuse,
    too_late_text,
    too_many_text,
    unload_answer,
)
from ollama_gate.wire.routes import Dialect, Endpoint, dialect_of, endpoint_of

__all__ = [
    "Answer",
    "Ask",
    "Dialect",
    "Endpoint",
    "Hopeless",
    "Place",
    "broken_line",
    "changed_names",
    "dialect_of",
    "endpoint_of",
    "is_list",
    "merged",
    "never_fits_text",
    "read",
    "read_deadline",
    "read_priority",
    "refusal",
    "refuse",
    "source_name",
    "too_late_text",
    "too_many_text",
    "unload_answer",
    "with_context",
    "with_expiries",
]
