"""The gate's engine room: what the scheduler commands is done, and what happens it is told.

`pump` joins the two. It states what it needs of an upstream, a card and a memory (`roles`); what
it does with them is in the other modules: `slots` for who waits or runs, `watching` for whether an
upstream answers, `carrying` for loads and unloads, `chronicle` for what people are told. Nothing
in this room decides who is served or evicted.
"""

from ollama_gate.gate.chronicle import Decision
from ollama_gate.gate.pump import Gate
from ollama_gate.gate.roles import Engine, Meter, Witness
from ollama_gate.gate.slots import REMEMBERED, Grant, Past, RefusedError

__all__ = [
    "REMEMBERED",
    "Decision",
    "Engine",
    "Gate",
    "Grant",
    "Meter",
    "Past",
    "RefusedError",
    "Witness",
]
