"""Workloads in which those who share the cards want different things: chats, batches, floods."""

import math
from itertools import islice
from typing import Final

from ollama_gate.scheduler.types import Priority
from ollama_gate.simulator.discrete.workload import (
    Agent,
    Arrival,
    Step,
    Workload,
)
from ollama_gate.simulator.workloads.drawing import Draw, Traffic, an_upstream, spread, zipf

HIGH, NORMAL, LOW = Priority

FLOOD_S: Final = 4_000.0
"""How long a flood lasts: whoever waits for its end has been starved."""

FLOOD_LOAD: Final = 1.6
FLOOD_PATIENCE_S: Final = 200.0


def bursts_and_chat(seed: int) -> Workload:
    """Bursts on four big models, normal and low, while somebody chats with a small one, high."""
    draw = Draw("burst_inter", seed)
    chat = draw.model("chat", 7.0)
    big = tuple(draw.model(f"big-{number}", draw.between(12.0, 16.0)) for number in range(4))
    models = (chat, *big)
    traffic = Traffic(draw, models, None, (2.5, *(draw.between(3.0, 6.0) for _ in big)))
    arrivals: list[Arrival] = []
    for at_s in islice(draw.instants(1 / 60), 12):
        model = draw.one_of([each.name for each in big])
        priority = draw.priority((0.0, 0.6, 0.4))
        arrivals.extend(
            traffic.request(at_s + draw.between(0.0, 3.0), model=model, priority=priority)
            for _ in range(draw.count(15, 35))
        )
    lasts_s = max(arrival.at_s for arrival in arrivals) + 60.0
    arrivals.extend(
        traffic.request(at_s, model="chat", priority=HIGH, client="chat")
        for at_s in draw.instants_within(0.12, 0.0, lasts_s)
    )
    return draw.workload(models, arrivals)


def _batch(name: str, seed: int, batch_gb: float, chat_gb: float) -> Workload:
    draw = Draw(name, seed)
    models = (draw.model("batch", batch_gb), draw.model("chat", chat_gb))
    traffic = Traffic(draw, models, None, (2.6, 2.6))
    batch = [
        traffic.request(0.01 * number, model="batch", priority=LOW, client="batch")
        for number in range(500)
    ]
    chat = [
        traffic.request(at_s, model="chat", priority=HIGH, client="chat")
        for at_s in islice(draw.instants(1 / 25), 20)
    ]
    return draw.workload(models, (*batch, *chat))


def batch_and_chat(seed: int) -> Workload:
    """A batch of 500, low, at once, and twenty high requests for a model that excludes its own."""
    return _batch("batch_chat", seed, 14.0, 13.0)


def batch_beside_chat(seed: int) -> Workload:
    """The batch and the chat of batch_chat where both models fit."""
    return _batch("batch_chat_fit", seed, 12.0, 6.0)


def greedy_client(seed: int) -> Workload:
    """One client sends 260 requests at once, four others one now and then; three models."""
    draw = Draw("clients", seed)
    models = tuple(
        draw.model(f"model-{number}", size) for number, size in enumerate((13.0, 12.0, 5.0))
    )
    traffic = Traffic(draw, models, (0.45, 0.35, 0.2), (3.0, 3.0, 2.5))
    greedy = [traffic.request(0.02 * number, client="greedy") for number in range(260)]
    lasts_s = 260 / traffic.rate(1.0)
    modest = [
        traffic.request(at_s, client=f"modest-{number}")
        for number in range(4)
        for at_s in draw.instants_within(1 / 25, 5.0, lasts_s)
    ]
    return draw.workload(models, (*greedy, *modest))


def _flood(name: str, seed: int, flooded: int, others: int) -> Workload:
    draw = Draw(name, seed)
    loud = tuple(
        draw.model(f"loud-{number}", draw.between(13.0, 15.0)) for number in range(flooded)
    )
    models = (*loud, *(draw.model(f"quiet-{number}", 14.0) for number in range(others)))
    weights = (1.0,) * flooded + (0.0,) * others
    traffic = Traffic(draw, models, weights, (3.0,) * len(models))
    crowd = [
        traffic.request(at_s, priority=HIGH, client="flood", patience_s=FLOOD_PATIENCE_S)
        for at_s in draw.instants_within(traffic.rate(FLOOD_LOAD), 0.0, FLOOD_S)
    ]
    quiet = [
        traffic.request(
            at_s, model=f"quiet-{draw.count(0, others - 1)}", priority=LOW, client="quiet"
        )
        for at_s in draw.instants_within(1 / 100, 5.0, FLOOD_S * 0.85)
    ]
    return draw.workload(models, (*crowd, *quiet))


def flood_of_one(seed: int) -> Workload:
    """For over an hour high requests for one model at 160 %; a few low ones for another."""
    return _flood("flood1", seed, 1, 1)


def flood_of_two(seed: int) -> Workload:
    """The flood of flood1, on two of three models that exclude each other."""
    return _flood("flood2of3", seed, 2, 1)


def impatient(seed: int) -> Workload:
    """Six models; every third client gives up after a while, every fifth request has a deadline."""
    draw = Draw("impatient", seed)
    models = tuple(
        draw.model(f"model-{number}", size) for number, size in enumerate(spread(4.0, 15.0, 6))
    )
    traffic = Traffic(draw, models, zipf(6, 0.7))
    arrivals = []
    for at_s in islice(draw.instants(traffic.rate(0.6)), 360):
        patience_s = deadline_s = math.inf
        if draw.chance(1 / 3):
            patience_s = draw.between(10.0, 120.0)
        elif draw.chance(0.3):
            deadline_s = draw.between(30.0, 180.0)
        arrivals.append(
            traffic.request(
                at_s, priority=draw.priority(), patience_s=patience_s, deadline_s=deadline_s
            )
        )
    return draw.workload(models, arrivals)


def tides(seed: int) -> Workload:
    """Six models, three classes; quiet and busy by turns, at 15 and at 85 %."""
    draw = Draw("tides", seed)
    models = tuple(
        draw.model(f"model-{number}", size) for number, size in enumerate(spread(3.0, 14.0, 6))
    )
    traffic = Traffic(draw, models, zipf(6, 0.8))
    arrivals = [
        traffic.request(at_s, priority=draw.priority(), client=f"client-{draw.count(0, 4)}")
        for turn in range(6)
        for at_s in draw.instants_within(
            traffic.rate(0.85 if turn % 2 else 0.15), turn * 120.0, (turn + 1) * 120.0
        )
    ]
    return draw.workload(models, arrivals)


def agents(seed: int) -> Workload:
    """Ten agents, each asking, thinking and asking again, over five models; none runs ahead."""
    draw = Draw("agents", seed)
    models = tuple(
        draw.model(f"model-{number}", size)
        for number, size in enumerate((2.0, 5.0, 9.0, 11.0, 13.0))
    )
    names = [model.name for model in models]
    working = []
    for number in range(10):
        planner, tool = draw.shuffled(names)[:2]
        steps = tuple(
            Step(
                model=planner if draw.chance(0.7) else tool,
                work_s=draw.work_s(2.5),
                think_s=draw.think_s(8.0),
            )
            for _ in range(30)
        )
        working.append(
            Agent(
                client=f"agent-{number}",
                steps=steps,
                starts_at_s=draw.between(0.0, 20.0),
                priority=draw.priority(),
            )
        )
    return draw.workload(models, agents=working)


def two_cards(seed: int) -> Workload:
    """Two upstreams with one card each, thirteen models by Zipf's law, three classes."""
    draw = Draw("multi2", seed)
    names = draw.shuffled([f"model-{number:02}" for number in range(13)])
    sizes = spread(2.0, 18.0, 13)
    models = tuple(draw.model(each, size) for each, size in zip(names, sizes, strict=True))
    by_rank = sorted(models, key=lambda model: model.name)
    traffic = Traffic(draw, by_rank, zipf(13, 0.9))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority(), client=f"client-{draw.count(0, 4)}")
        for at_s in islice(draw.instants(2 * traffic.rate(0.5)), 500)
    )
    upstreams = (an_upstream("left"), an_upstream("right"))
    return draw.workload(models, arrivals, upstreams=upstreams)
