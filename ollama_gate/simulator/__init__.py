"""A simulated Ollama: what a client, and the gate, can see of a real one, and when.

It judges the gate, and so it shares nothing with it: request bodies, names and memory are read
and reckoned here anew. It runs no model; it takes the time and the memory that one would.
"""

from ollama_gate.simulator.catalog import Model, Shape
from ollama_gate.simulator.library import LARGE, LIBRARY, ODD, OTHERS, SMALL, select
from ollama_gate.simulator.server import SimulatedOllama
from ollama_gate.simulator.settings import Settings

__all__ = [
    "LARGE",
    "LIBRARY",
    "ODD",
    "OTHERS",
    "SMALL",
    "Model",
    "Settings",
    "Shape",
    "SimulatedOllama",
    "select",
]
