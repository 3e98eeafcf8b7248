"""Cases drawn from a seed: everything that clients, cards and upstreams can do, in any order."""

import random
from dataclasses import replace

from ollama_gate.scheduler.types import Priority
from tests import fuzz_case as fc

PRIORITIES = list(Priority)


def draw(seed: int) -> fc.Case:
    """One case; two fifths are calm, so that only the scheduler can make people wait."""
    rng = random.Random(seed)
    if rng.random() < 0.1:
        return _siege(rng)
    setup = _setup(rng)
    length_s = rng.choice([10.0, 30.0, 90.0])
    count = rng.randint(3, 40)
    calm = rng.random() < 0.4
    if calm:
        setup = replace(setup, models=tuple(replace(m, real=m.size) for m in setup.models))
    stimuli = [_stimulus(rng, number, length_s, setup, calm=calm) for number in range(count)]
    if not calm and rng.random() < 0.4:
        # Somebody else works on the card as well.
        setup = replace(setup, read_every_s=1.0, capacity=None)
        for _ in range(rng.randint(1, 6)):
            at, size = round(rng.uniform(0.0, length_s), 1), rng.choice([0.0, 6.0, 9.0, 12.0])
            stimuli.append(fc.Foreign(at=at, bin=rng.randint(0, 1), size=size))
    return fc.Case(setup=setup, stimuli=tuple(sorted(stimuli, key=lambda s: s.at)))


def _siege(rng: random.Random) -> fc.Case:
    """Floods without end of some models, and few who ask for what floods or for what does not."""
    models = tuple(fc.Model(name=name, size=16.0, real=16.0, load_s=1.0) for name in "abcd")
    tau = rng.choice([(0.0, 0.0, 0.0), (2.0, 4.0, 8.0)])
    policy = {
        "tau_s": tau,
        "tau_cap_s": tau,
        "kappa": rng.choice([0.0, 1.0]),
        "kappa_hi": 0.0,
        "k_load": rng.choice([0, 1, 2]),
        "k_slot": rng.choice([0, 1, 4]),
    }
    setup = fc.Setup(
        models=models, parallel=rng.choice([1, 2]), unload_s=0.2, policy=tuple(policy.items())
    )
    floods = [
        fc.Flood(at=0.0, number=number, model=number, clients=4, service_s=1.0, until=60.0)
        for number in range(rng.randint(1, 3))
    ]
    few = [
        _arrival(rng, round(rng.uniform(1.0, 40.0), 1), number, setup)
        for number in range(10, 10 + rng.randint(1, 6))
    ]
    return fc.Case(setup=setup, stimuli=tuple(sorted([*floods, *few], key=lambda s: s.at)))


def _setup(rng: random.Random) -> fc.Setup:
    bins = rng.choice(
        [
            (("u/0", "u"),),
            (("u/0", "u"),),
            (("u/0", "u"),),
            (("u/0", "u"), ("u/1", "u")),
            (("u/0", "u"), ("v/0", "v")),
        ]
    )
    read = rng.choice([0.0, 0.0, 0.5, 2.0])
    return fc.Setup(
        capacity=None if read and rng.random() < 0.7 else 24.0,
        max_loaded=rng.choice([1, 2, 3, 6]),
        bins=bins,
        models=tuple(_model(rng, name) for name in "abcdef"[: rng.randint(1, 6)]),
        parallel=rng.choice([1, 1, 2, 4]),
        read_every_s=read,
        look_every_s=rng.choice([2.0, 5.0]),
        unload_s=rng.choice([0.2, 1.0]),
        returns_s=rng.choice([0.0, 0.5, 3.0]) if read else 0.0,
        policy=_policy(rng),
    )


def _model(rng: random.Random, name: str) -> fc.Model:
    size = rng.choice([2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 20.0])
    real = size + rng.choice([0.0, 0.0, 0.0, -1.0, 1.0])
    return fc.Model(
        name=name,
        size=size,
        real=real,
        load_s=rng.choice([0.5, 2.0, 5.0]),
        predicted=rng.choice([0.5, 0.95]),
        bin=rng.choice([None, None, None, 0, 1]),
        pinned=rng.random() < 0.03,
    )


def _policy(rng: random.Random) -> tuple[tuple[str, object], ...]:
    tau = rng.choice([(2.0, 8.0, 20.0), (0.0, 0.0, 0.0), (5.0, 5.0, 5.0)])
    drawn: dict[str, object] = {
        "tau_s": tau,
        "tau_cap_s": rng.choice([tau, (10.0, 20.0, 40.0)]),
        "kappa": rng.choice([0.0, 1.0, 3.0]),
        "kappa_hi": rng.choice([0.0, 1.0, 3.0]),
        "k_load": rng.choice([0, 1, 3]),
        "k_slot": rng.choice([0, 2, 8]),
        "keep_alive_s": rng.choice([3.0, 300.0]),
    }
    if rng.random() < 0.2:
        drawn["queue_max_size"] = 4
    if rng.random() < 0.2:
        drawn["queue_max_per_client"] = 2
    if rng.random() < 0.2:
        drawn["max_concurrent"] = rng.choice([1, 2])
    if rng.random() < 0.1:
        drawn["queue_max_wait_s"] = rng.choice([5.0, 30.0])
    if rng.random() < 0.3:
        drawn["prewarm"] = True
    return tuple(drawn.items())


def _stimulus(
    rng: random.Random, number: int, length_s: float, setup: fc.Setup, *, calm: bool
) -> fc.Stimulus:
    at = round(rng.uniform(0.0, length_s), 1)
    if rng.random() < 0.2:
        # Many things at the same time are where orders are mixed up.
        at = float(round(at / 5.0) * 5)
    roll = rng.random()
    if roll < 0.7:
        return _arrival(rng, at, number, setup)
    if roll < (1.0 if calm else 0.85):
        return _client(rng, at, number)
    return _fault(rng, at)


def _arrival(rng: random.Random, at: float, number: int, setup: fc.Setup) -> fc.Arrive:
    return fc.Arrive(
        at=at,
        number=number,
        model=rng.choice([0, rng.randrange(len(setup.models))]),
        priority=rng.choice(PRIORITIES),
        client=rng.choice("xyz"),
        kind=rng.choice(["plain"] * 9 + list(fc.KINDS)),
        service_s=rng.choice([0.2, 1.0, 4.0]),
        keep_alive_s=rng.choice([None, None, None, 0.0, 2.0]),
        deadline_s=rng.choice([None] * 5 + [3.0]),
    )


def _client(rng: random.Random, at: float, number: int) -> fc.Stimulus:
    """What clients do beyond asking, and the adversaries that answer to what they see."""
    model, somebody = rng.randint(0, 5), rng.randint(0, number)
    said: list[fc.Stimulus] = [
        fc.GiveUp(at=at, number=somebody, cancelled=rng.random() < 0.5),
        fc.GiveUp(at=at, number=somebody),
        fc.Storm(at=at, model=model),
        fc.Release(at=at, model=model),
        fc.Resurrect(at=at, number=number, until=at + 30.0, priority=rng.choice(PRIORITIES)),
        fc.Flood(
            at=at,
            number=number,
            model=model,
            clients=rng.choice([1, 3, 6]),
            priority=rng.choice(PRIORITIES),
            service_s=rng.choice([0.5, 2.0]),
            until=at + rng.choice([5.0, 30.0]),
            give_up_s=rng.choice([None, 3.0]),
        ),
    ]
    return rng.choice(said)


def _fault(rng: random.Random, at: float) -> fc.Stimulus:
    """What upstreams, cards and their other users do."""
    model, place = rng.randint(0, 5), rng.randint(0, 1)
    faults: list[fc.Stimulus] = [
        fc.Foreign(at=at, bin=place, size=rng.choice([0.0, 0.0, 4.0, 9.0, 16.0])),
        fc.Foreign(at=at, bin=place, size=0.0),
        fc.Blind(at=at, bin=place),
        fc.Outage(at=at, bin=place, for_s=rng.choice([0.1, 3.0, 15.0])),
        fc.Spoil(at=at, model=model, how=rng.choice(["oom", "failed", "interrupted"])),
        fc.Spoil(at=at, model=model, how="oom"),
        fc.Vanish(at=at, model=model, crash=rng.random() < 0.5),
        fc.Appear(at=at, model=model, bin=place),
        fc.Appear(at=at, model=model, bin=place),
    ]
    return fc.Close(at=at) if rng.random() < 0.02 else rng.choice(faults)
