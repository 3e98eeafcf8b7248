"""The brain: events in, commands out, no clock and no I/O.

`Machine.handle(event, now)` returns commands; `Machine.next_wakeup()` says when to send `Ticked`.
"""

from ollama_gate.scheduler.machine import Machine
from ollama_gate.scheduler.views import snapshot

__all__ = ["Machine", "snapshot"]
