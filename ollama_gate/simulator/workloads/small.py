"""Workloads so small that the best possible schedule is known: two models, one slot each."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from ollama_gate.simulator.discrete.workload import Arrival, Workload
from ollama_gate.simulator.workloads.drawing import Draw, Traffic

REQUESTS: Final = 40
LOAD: Final = 0.6
BURST: Final = 10


def poisson(seed: int) -> Workload:
    """Forty requests, one at a time, for two models that exclude each other; one slot each."""
    draw, traffic = _pair("pair_poisson", seed)
    asked = (traffic.request(at_s) for at_s in draw.instants(traffic.rate(LOAD)))
    return _workload(draw, traffic, asked)


def bursts(seed: int) -> Workload:
    """Forty requests in bursts of ten, now more for one model, now for the other; one slot each."""
    draw, traffic = _pair("pair_bursts", seed)
    return _workload(draw, traffic, _bursts(draw, traffic))


def _pair(name: str, seed: int) -> tuple[Draw, Traffic]:
    draw = Draw(name, seed)
    models = [draw.model(each, 14.0, parallel=1) for each in ("left", "right")]
    return draw, Traffic(draw, models)


def _bursts(draw: Draw, traffic: Traffic) -> Iterator[Arrival]:
    names = [model.name for model in traffic.models]
    for at_s in draw.instants(traffic.rate(LOAD) / BURST):
        share = draw.between(0.0, 1.0)
        for number in range(BURST):
            model = draw.one_of(names, (share, 1 - share))
            yield traffic.request(at_s + 0.01 * number, model=model)


def _workload(draw: Draw, traffic: Traffic, asked: Iterable[Arrival]) -> Workload:
    arrivals = sorted(islice(asked, REQUESTS), key=lambda each: each.at_s)
    return draw.workload(traffic.models, arrivals)
