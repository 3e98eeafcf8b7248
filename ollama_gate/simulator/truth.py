"""What a runner really takes in this world, and how much of that Ollama shows.

The shapes say one thing; a file's own factor, drawn by the seed, makes another of it. A cache
needs what its formula says and no factor touches it, as in life.
"""

import random

from ollama_gate.simulator.catalog import Model
from ollama_gate.simulator.memory import Footprint, footprint, overlooked_bytes
from ollama_gate.simulator.options import Launch
from ollama_gate.simulator.settings import Settings
from ollama_gate.simulator.tensors import card_bytes, encoder_bytes, model_bytes


def true_footprint(
    model: Model, launch: Launch, settings: Settings, *, parallel: int, on_card: bool
) -> Footprint:
    """What llama.cpp allocates for a runner whose automatic options are filled in."""
    batch = min(launch.num_batch, launch.num_ctx)
    said = footprint(
        model.shape,
        card_bytes(model) if on_card else model_bytes(model),
        context=launch.num_ctx,
        parallel=parallel,
        batch=batch,
        kv_width=settings.kv_bytes,
    )
    lost = overlooked_bytes(
        model.shape,
        context=launch.num_ctx,
        parallel=parallel,
        batch=batch,
        kv_width=settings.kv_bytes,
    )
    factor = size_factor(model, settings)
    return Footprint(
        weights_bytes=round(said.weights_bytes * factor),
        kv_bytes=said.kv_bytes,
        compute_bytes=round(said.compute_bytes * factor),
        lost_bytes=lost if settings.loses_windows else 0,
        encoder_bytes=encoder_bytes(model),
    )


def size_factor(model: Model, settings: Settings) -> float:
    """By which weights and buffers of a file differ from what the shapes say."""
    return 1 + random.Random(f"{settings.seed} {model.blob_path}").uniform(*settings.size_error)


def recovery_s(settings: Settings, unloads: int) -> float:
    """How long the card takes to show the memory of so-many-th runner free, once it has ended."""
    late = random.Random(f"{settings.seed} unload {unloads}").uniform(0, settings.recovery_spread_s)
    return settings.recovery_s + late
