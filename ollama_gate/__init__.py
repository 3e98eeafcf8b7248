"""ollama-gate: a transparent, Ollama-compatible reverse proxy with a VRAM-aware admission queue."""

__version__ = "0.1.0"
