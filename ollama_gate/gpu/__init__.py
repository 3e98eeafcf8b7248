"""What we ask of a card: one reading, where it is from, and whether it still holds.

A reading says how much memory there is and how much of it is in use by anybody; what to do with
that is decided elsewhere. Reading blocks, so that only a `Poller` does it, on a thread. NVML's
and the operating system's errors become `CardError` here and nowhere else. Why each rung of the
ladder is where it is: `docs/cards.md`.
"""

from ollama_gate.gpu.amd import AmdCard
from ollama_gate.gpu.aside import on_a_thread
from ollama_gate.gpu.driver import Driver
from ollama_gate.gpu.finding import Found, Listed, find_cards, find_in_time, only
from ollama_gate.gpu.meters import Meters
from ollama_gate.gpu.nvml import NvmlCard
from ollama_gate.gpu.poller import BUSY_S, IDLE_S, STALE_S, Poller
from ollama_gate.gpu.reading import Card, Reading
from ollama_gate.gpu.system import SystemMemory
from ollama_gate.gpu.whereabouts import is_here, is_loopback, own_addresses

__all__ = [
    "BUSY_S",
    "IDLE_S",
    "STALE_S",
    "AmdCard",
    "Card",
    "Driver",
    "Found",
    "Listed",
    "Meters",
    "NvmlCard",
    "Poller",
    "Reading",
    "SystemMemory",
    "find_cards",
    "find_in_time",
    "is_here",
    "is_loopback",
    "on_a_thread",
    "only",
    "own_addresses",
]
