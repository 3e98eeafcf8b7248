"""What the models of one upstream come to in the scheduler's terms: requests, runners, sizes.

What they are is `known`'s to find out and to remember. `terms` has the figures; `requests`,
`runners` and `outlooks` say what they come to for whoever asks, for what runs, and for people.
"""

from ollama_gate.registry.registry import Registry

__all__ = ["Registry"]
