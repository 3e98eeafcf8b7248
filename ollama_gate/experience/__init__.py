"""What the gate has seen of one upstream, from life to life: sizes, times, overheads.

It is told what happens and answers what is to be expected; it asks nobody and decides nothing.
"""

from ollama_gate.experience.experience import Experience
from ollama_gate.experience.times import Average, Times

__all__ = ["Average", "Experience", "Times"]
