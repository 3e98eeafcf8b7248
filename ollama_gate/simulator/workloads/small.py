"""Workloads so small that the best possible schedule is known: two models, one slot each."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from ollama_gate.simulator.discrete.workload import Workload
from ollama_gate.simulator.workloads.drawing import Draw, Traffic

REQUESTS: Final = 40
LOAD: Final = 0.6
BURST: Final = 10


def poisson(seed: int) -> Workload:
    """Forty requests, one at a time, for two models that exclude each other; one slot each."""
    draw, traffic = _pair("pair_poisson", seed)
    return _workload(draw, traffic, seed, draw.instants(traffic.rate(LOAD)))


def bursts(seed: int) -> Workload:
    """Forty requests in four bursts for two models that exclude each other; one slot each."""
    draw, traffic = _pair("pair_bursts", seed)
    instants = (
        at_s + 0.01 * number
        for at_s in draw.instants(traffic.rate(LOAD) / BURST)
        for number in range(BURST)
    )
    return _workload(draw, traffic, seed, instants)


def _pair(name: str, seed: int) -> tuple[Draw, Traffic]:
    draw = Draw(name, seed)
    models = [draw.model(each, 14.0, parallel=1) for each in ("left", "right")]
    return draw, Traffic(draw, models)


def _workload(draw: Draw, traffic: Traffic, seed: int, instants: Iterable[float]) -> Workload:
    arrivals = sorted(
        (traffic.request(at_s) for at_s in islice(instants, REQUESTS)), key=lambda each: each.at_s
    )
    return Workload(
        name=draw.family, models=tuple(traffic.models), arrivals=tuple(arrivals), seed=seed
    )
