"""Models to compute with, that are nobody's in particular."""

from dataclasses import replace
from typing import Any

from ollama_gate.footprint import Facts, Shape
from ollama_gate.scheduler.types import ModelKey


def model(**changes: Any) -> Facts:
    """A dense model of 4 GB: 32 layers, 8 of 32 heads kept, 128 wide."""
    shape = Shape(
        kv_heads=(8,) * 32,
        heads=32,
        embedding_length=4096,
        key_length=128,
        value_length=128,
        feed_forward_length=14336,
        local=(False,) * 32,
    )
    facts = Facts(
        key=ModelKey("sha256-aa"),
        name="m",
        size_bytes=4_000_000_000,
        architecture="llama",
        context_length=131_072,
        shape=shape,
        weights_bytes=3_900_000_000,
        tensors_bytes=3_990_000_000,
    )
    return replace(facts, **changes)
