"""The HTTP face: who may come in, what is whose, and bytes from one side to the other.

What a body means is `wire`'s to say, whether there is a slot is the gate's, and what comes back is
the upstream's, byte for byte. The inference routes go through admission; every other path, known
or not, is relayed at once.
"""

from ollama_gate.app.face import Face
from ollama_gate.app.serving import make_runner

__all__ = ["Face", "make_runner"]
