"""Reading a model's files into the page cache while it waits for its turn.

`files` finds and opens them, `pages` knows the page cache and main memory, `reader` reads for one
machine, one model at a time and never during a load, and `prewarmer` speaks for one upstream. When
and for which model is not decided here, and nothing here may ever matter to an answer.
"""

from ollama_gate.prewarm.prewarmer import SHARED, Prewarmer, why_not
from ollama_gate.prewarm.reader import Reader

__all__ = ["SHARED", "Prewarmer", "Reader", "why_not"]
