"""Several kinds of work on one machine, over sockets: with the gate, and with Ollama alone.

The simulated machine's own counts and clock judge both; the figures themselves are told by
`bench/sharing.py`, which plays the same at leisure.
"""

from dataclasses import replace

from bench.sharing import BATCH, CHAT, EXCLUSIVE, WORLD, measure, mixed, p95

FAST = replace(WORLD, speed=150.0)


async def test_a_batch_and_a_chat_beside_it_are_both_done_sooner() -> None:
    straight, gated = await measure(mixed("llama3.2:1b", seed=3), FAST)
    assert (straight.finished, gated.finished) == (BATCH + CHAT, BATCH + CHAT)
    assert gated.loads <= len(EXCLUSIVE) + 2
    assert gated.offloaded == 0
    assert p95(gated.waits_s["high"]) <= 0.1 * p95(straight.waits_s["high"])
    assert gated.makespan_s <= 0.7 * straight.makespan_s
