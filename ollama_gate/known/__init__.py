"""What an upstream says of its models, remembered for as long as it holds.

Names may change their meaning at any time, so which one means what is asked again every few
seconds (`listing`); what a model is, its manifest's digest fixes for ever, so that it is asked
once (`shows`), and soon, in the background (`rounds`). What a runner will need is for others.
"""

from ollama_gate.known.listing import BELIEVED_S, FRESH_S, Line
from ollama_gate.known.models import Known, KnownModel

__all__ = ["BELIEVED_S", "FRESH_S", "Known", "KnownModel", "Line"]
