"""Where a load would go: first as Ollama plans it, then as llama-server's --fit really does it.

Ollama v0.32.15 server/sched.go (`load`, `selectLlamaServerPlacement`). Pure: what is free is an
argument, and the two steps get different ideas of it, as in life.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.catalog import COMPLETION, Model
from ollama_gate.simulator.memory import (
    FIT_MARGIN_BYTES,
    Footprint,
    automatic_batch,
    batch_surcharge,
    predicted_bytes,
)
from ollama_gate.simulator.options import Launch
from ollama_gate.simulator.runner import Placement
from ollama_gate.simulator.settings import Settings
from ollama_gate.simulator.tensors import gguf_bytes
from ollama_gate.simulator.truth import true_footprint

_PERCENT_OF_FREE = 80  # what Ollama lets a model take of what it believes free


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What Ollama decides before it starts a process.

    Attributes:
        launch: the options with all automatic ones filled in.
        cards: where it goes; none for the CPU.
        must_evict: it would not fit beside what is loaded, by Ollama's reckoning.
        need: what it will really take.
        overhead_bytes: what its process will take of each card besides.
    """

    model: Model
    launch: Launch
    parallel: int
    cards: tuple[Card, ...]
    must_evict: bool
    need: Footprint
    overhead_bytes: int


def plan_load(
    model: Model,
    launch: Launch,
    settings: Settings,
    *,
    cards: Sequence[Card],
    free: Sequence[int],
) -> Plan:
    """Ollama's plan, given what it believes each card has free (empty: none is wanted)."""
    parallel = min(settings.num_parallel, model.max_parallel or settings.num_parallel)
    context = min(launch.num_ctx, model.shape.train_context)
    predicted = predicted_bytes(model.shape, gguf_bytes(model), context * parallel)
    chosen = _choose(list(zip(cards, free, strict=False)), predicted, launch)
    available = sum(size for _, size in chosen)
    batch = launch.num_batch
    if model.can(COMPLETION) and launch.num_batch_auto:
        batch = automatic_batch(context * parallel, predicted, available)
    surcharge = batch_surcharge(batch) if model.can(COMPLETION) else 0
    partial = 0 < launch.num_gpu < model.shape.blocks + 1
    fits = predicted + surcharge <= available * _PERCENT_OF_FREE // 100
    launch = replace(launch, num_ctx=context, num_batch=batch)
    on_card = bool(chosen) and launch.num_gpu != 0
    return Plan(
        model=model,
        launch=launch if chosen else _on_cpu(launch),
        parallel=parallel,
        cards=tuple(card for card, _ in chosen),
        must_evict=bool(chosen) and not partial and not fits,
        need=true_footprint(model, launch, settings, parallel=parallel, on_card=on_card),
        overhead_bytes=settings.overhead_bytes,
    )


def spread(plan: Plan, *, encoder_on_card: bool = True) -> Placement | None:
    """Where the bytes really go, by what the cards have free now; `None` if memory runs out.

    As many layers as fit, leaving a margin, unless the request says how many; then they are
    tried without a margin. An encoder goes to the first card, unless it has no room or only some
    layers are wanted there, and makes the margin wider; nobody asks how much it takes.
    """
    layers = plan.model.shape.blocks + 1
    free = tuple(card.free_bytes for card in plan.cards)
    rooms = [max(0, size - plan.overhead_bytes) for size in free]
    encoder = plan.need.encoder_bytes if encoder_on_card and _takes_encoder(plan, free) else 0
    if plan.launch.num_gpu < 0:
        rooms = [max(0, room - FIT_MARGIN_BYTES - encoder) for room in rooms]
        on_gpu = _layers_that_fit(plan.need, layers, sum(rooms))
    else:
        on_gpu = min(plan.launch.num_gpu, layers) if plan.cards else 0
    size = _gpu_bytes(plan.need, layers, on_gpu)
    if size > sum(rooms):
        return None
    return Placement(
        footprint=plan.need,
        held=tuple(zip(plan.cards, _shares(size, rooms), strict=True)),
        overhead_bytes=plan.overhead_bytes,
        encoder_bytes=encoder,
        shown=plan.need.shown_bytes / plan.need.total_bytes,
        free_at_load=free,
    )


def _takes_encoder(plan: Plan, free: Sequence[int]) -> bool:
    wanted = plan.need.encoder_bytes + FIT_MARGIN_BYTES
    partial = 0 <= plan.launch.num_gpu < plan.model.shape.blocks + 1
    return bool(free) and not partial and all(size >= wanted for size in free)


def _choose(
    offers: list[tuple[Card, int]], predicted: int, launch: Launch
) -> list[tuple[Card, int]]:
    """The best single card where one will do, else all of them."""
    if len(offers) <= 1 or launch.num_gpu == 0:
        return offers
    if launch.main_gpu is not None:
        named = 0 <= launch.main_gpu < len(offers)
        return [offers[launch.main_gpu]] if named else offers
    enough = [o for o in offers if predicted <= o[1] * _PERCENT_OF_FREE // 100]
    return [max(enough, key=lambda offer: offer[1])] if enough else offers


def _on_cpu(launch: Launch) -> Launch:
    """On the CPU Ollama turns memory mapping off unless told otherwise."""
    return replace(launch, use_mmap=False) if launch.use_mmap is None else launch


def _layers_that_fit(need: Footprint, layers: int, room: int) -> int:
    if need.total_bytes <= room:
        return layers
    a_layer = (need.weights_bytes + need.kv_bytes) / layers
    return max(0, min(layers - 1, int((room - need.compute_bytes) / a_layer)))


def _gpu_bytes(need: Footprint, layers: int, on_gpu: int) -> int:
    if on_gpu == 0:
        return 0
    if on_gpu >= layers:
        return need.total_bytes
    return (need.weights_bytes + need.kv_bytes) * on_gpu // layers + need.compute_bytes


def _shares(size: int, rooms: list[int]) -> list[int]:
    """`size` split by how much room each card has; the first takes the rounding."""
    whole = sum(rooms)
    shares = [size * room // whole if whole else 0 for room in rooms]
    if shares:
        shares[0] += size - sum(shares)
    return shares
