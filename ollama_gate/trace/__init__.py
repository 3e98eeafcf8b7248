"""What arrived and what became of it, in a file: written by the running gate, read by `replay`.

One JSON object a line. Nothing here knows what a prompt is, and no client's name is written.
"""

from ollama_gate.trace.reading import Life, Trace, read
from ollama_gate.trace.recorder import Recorder

__all__ = ["Life", "Recorder", "Trace", "read"]
