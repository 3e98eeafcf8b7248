"""Workloads in which models that do not fit together keep replacing each other on one card."""

from itertools import islice

from ollama_gate.simulator.discrete.workload import GB, Workload
from ollama_gate.simulator.workloads.drawing import Draw, Traffic, an_upstream, spread, zipf

ALTERNATING_LOAD = 0.55
CLIENTS = tuple(f"client-{number}" for number in range(5))


def alternating(seed: int) -> Workload:
    """Two models that cannot coexist, asked for strictly by turns, one request at a time."""
    draw = Draw("alt2", seed)
    models = (draw.model("left", 14.0), draw.model("right", 13.0))
    traffic = Traffic(draw, models)
    instants = islice(draw.instants(traffic.rate(ALTERNATING_LOAD)), 300)
    arrivals = tuple(
        traffic.request(at_s, model=models[number % 2].name) for number, at_s in enumerate(instants)
    )
    return draw.workload(models, arrivals)


def alternating_bursts(seed: int) -> Workload:
    """Two models that cannot coexist, asked for by turns within bursts of up to thirty."""
    draw = Draw("alt2burst", seed)
    models = (draw.model("left", 14.0), draw.model("right", 13.0))
    traffic = Traffic(draw, models)
    size = 20
    bursts = islice(draw.instants(traffic.rate(ALTERNATING_LOAD) / size), 15)
    arrivals = tuple(
        traffic.request(at_s + 0.01 * number, model=models[number % 2].name)
        for at_s in bursts
        for number in range(draw.count(size - 10, size + 10))
    )
    return draw.workload(models, arrivals)


def _zipf(name: str, seed: int, load: float, requests: int) -> Workload:
    draw = Draw(name, seed)
    names = draw.shuffled([f"model-{number}" for number in range(10)])
    sizes = spread(1.5, 18.0, 10)
    models = tuple(draw.model(each, size) for each, size in zip(names, sizes, strict=True))
    by_rank = sorted(models, key=lambda model: model.name)
    traffic = Traffic(draw, by_rank, zipf(10))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority(), client=draw.one_of(CLIENTS))
        for at_s in islice(draw.instants(traffic.rate(load)), requests)
    )
    return draw.workload(models, arrivals)


def zipf_heavy(seed: int) -> Workload:
    """Ten models of 1.5 to 18 GB by Zipf's law, three classes, five clients, half loaded."""
    return _zipf("zipf10", seed, 0.5, 400)


def zipf_mid(seed: int) -> Workload:
    """The ten models of zipf10 at 35 %."""
    return _zipf("zipf10_mid", seed, 0.35, 400)


def zipf_light(seed: int) -> Workload:
    """The ten models of zipf10 at 22 %."""
    return _zipf("zipf10_light", seed, 0.22, 300)


def overload(seed: int) -> Workload:
    """More than can be served for as long as it lasts: eight models, three classes, 140 %."""
    draw = Draw("overload", seed)
    models = tuple(
        draw.model(f"model-{number}", size) for number, size in enumerate(spread(3.0, 16.0, 8))
    )
    traffic = Traffic(draw, models, zipf(8, 0.7))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority(), client=draw.one_of(CLIENTS))
        for at_s in islice(draw.instants(traffic.rate(1.4)), 400)
    )
    return draw.workload(models, arrivals)


def round_robin(seed: int) -> Workload:
    """Six models that exclude each other, asked for in turn: the worst order there is."""
    draw = Draw("adv_rr", seed)
    models = tuple(draw.model(f"model-{number}", draw.between(12.5, 17.0)) for number in range(6))
    traffic = Traffic(draw, models)
    arrivals = tuple(
        traffic.request(at_s, model=models[number % 6].name)
        for number, at_s in enumerate(islice(draw.instants(traffic.rate(0.5)), 240))
    )
    return draw.workload(models, arrivals)


def hot(seed: int) -> Workload:
    """One model at 95 % of what the card can do, and now and then somebody who wants another."""
    draw = Draw("adv_hot", seed)
    models = (draw.model("hot", 15.0), draw.model("rare", 14.0))
    traffic = Traffic(draw, models, (1.0, 0.0), (4.0, 4.0))
    crowd = [
        traffic.request(at_s, model="hot")
        for at_s in islice(draw.instants(traffic.rate(0.95)), 400)
    ]
    rare = draw.instants_within(1 / 60, 0.0, crowd[-1].at_s)
    arrivals = (*crowd, *(traffic.request(at_s, model="rare") for at_s in rare))
    return draw.workload(models, arrivals)


def drifting(seed: int) -> Workload:
    """Twelve models of which three are wanted, and every two and a half minutes three others."""
    draw = Draw("drift", seed)
    models = tuple(draw.model(f"model-{number}", draw.between(3.0, 11.0)) for number in range(12))
    traffic = Traffic(draw, models)
    names = [model.name for model in models]
    arrivals = []
    warm: list[str] = []
    phase = -1
    for at_s in islice(draw.instants(traffic.rate(0.4)), 400):
        if at_s // 150 > phase:
            phase = int(at_s // 150)
            warm = draw.shuffled(names)[:3]
        model = draw.one_of(warm if draw.chance(0.9) else names)
        arrivals.append(traffic.request(at_s, model=model, priority=draw.priority()))
    return draw.workload(models, arrivals)


def small(seed: int) -> Workload:
    """Eight small models of two slots each, a few more than the card holds."""
    draw = Draw("small8", seed)
    models = tuple(
        draw.model(f"model-{number}", draw.between(3.5, 7.5), parallel=2) for number in range(8)
    )
    traffic = Traffic(draw, models, zipf(8, 0.5))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority(), client=draw.one_of(CLIENTS))
        for at_s in islice(draw.instants(traffic.rate(0.5)), 360)
    )
    return draw.workload(models, arrivals)


def hogged(seed: int) -> Workload:
    """Another program takes 9 GB of the card for a while, twice; five models, three classes."""
    draw = Draw("exthog", seed)
    models = tuple(
        draw.model(f"model-{number}", size)
        for number, size in enumerate((3.0, 5.0, 8.0, 11.0, 13.0))
    )
    traffic = Traffic(draw, models, zipf(5, 0.6))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority())
        for at_s in islice(draw.instants(traffic.rate(0.4)), 300)
    )
    lasts_s = arrivals[-1].at_s
    foreign = tuple(
        (lasts_s * (share + draw.between(0.0, 0.1)), taken)
        for share, taken in ((0.1, 9 * GB), (0.35, 0), (0.55, 9 * GB), (0.8, 0))
    )
    upstreams = (an_upstream(foreign=foreign),)
    return draw.workload(models, arrivals, upstreams=upstreams)


def misjudged(seed: int) -> Workload:
    """Seven models that take between a fifth less and a fifth more than anybody believes."""
    draw = Draw("misest", seed)
    models = tuple(
        draw.model(f"model-{number}", size, mistaken=draw.between(0.8, 1.2))
        for number, size in enumerate(spread(3.0, 17.0, 7))
    )
    traffic = Traffic(draw, models, zipf(7, 0.5))
    arrivals = tuple(
        traffic.request(at_s, priority=draw.priority())
        for at_s in islice(draw.instants(traffic.rate(0.4)), 300)
    )
    return draw.workload(models, arrivals)


def long_contexts(seed: int) -> Workload:
    """A model that fills the card and answers for half a minute, beside short ones on others."""
    draw = Draw("longctx", seed)
    small_ones = tuple(
        draw.model(f"short-{number}", size) for number, size in enumerate((4.0, 6.0, 9.0))
    )
    models = (draw.model("long", 20.8, parallel=2), *small_ones)
    traffic = Traffic(draw, models, (0.08, 0.4, 0.3, 0.22), (35.0, 3.0, 3.5, 4.0))
    shares = {"long": (0.0, 0.4, 0.6)}
    arrivals = []
    for at_s in islice(draw.instants(traffic.rate(0.5)), 300):
        model = traffic.pick()
        priority = draw.priority(shares.get(model, (0.3, 0.5, 0.2)))
        arrivals.append(traffic.request(at_s, model=model, priority=priority))
    return draw.workload(models, arrivals)
