"""Will it fit: what a model would take in each context, held against the cards at hand.

It asks Ollama and the card, or reads a file, once; it prints nothing, loads nothing and decides
nothing.
"""

from ollama_gate.estimate.asking import Asked, at_hand, from_file, from_upstream
from ollama_gate.estimate.report import Fit, Memory, Report, Row

__all__ = [
    "Asked",
    "Fit",
    "Memory",
    "Report",
    "Row",
    "at_hand",
    "from_file",
    "from_upstream",
]
