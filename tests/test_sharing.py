"""Several kinds of work on one machine, over sockets: with the gate, and with Ollama alone.

The simulated machine's own counts and clock judge both; the figures themselves are told by
`bench/sharing.py`, which plays the same at leisure.
"""

from dataclasses import replace
from statistics import fmean

from bench.sharing import (
    DIES_AFTER,
    WORLD,
    many,
    measure,
    mixed,
    spread,
)

FAST = replace(WORLD, speed=60.0)


async def test_a_batch_and_a_chat_beside_it_are_both_done_sooner() -> None:
    jobs = mixed("qwen2.5:0.5b", seed=3, low=40, high=6)
    straight, gated = await measure(jobs, FAST)
    assert (straight.finished, gated.finished) == (len(jobs), len(jobs))
    # One for each model; the batch may be interrupted once.
    assert gated.loads <= 5 < straight.loads
    assert gated.offloaded == 0
    # Of figures that depend on how busy this machine is, only that there is no doubt.
    assert fmean(gated.waits_s["high"]) <= 0.5 * fmean(straight.waits_s["high"])
    assert gated.makespan_s <= 0.7 * straight.makespan_s


async def test_work_for_13_models_spreads_over_two_machines() -> None:
    jobs = many(seed=3, each=5)
    run = await spread(jobs, gate=True, world=FAST)
    assert (run.finished, run.cut, run.lost) == (len(jobs), 0, 0)
    assert min(run.served) >= len(jobs) // 4
    # Each model is loaded somewhere; most of them once.
    assert sum(run.loads) <= len(jobs) // 2


async def test_a_machine_that_dies_takes_nothing_along_that_had_not_begun() -> None:
    jobs = many(seed=3, each=5)
    run = await spread(jobs, gate=True, dies_after=DIES_AFTER, world=FAST)
    assert run.lost == 0
    assert run.finished + run.cut == len(jobs)
    assert min(run.served) > 0
