"""What `/gate/status` counts of loads and unloads, against the simulated machine's own journal."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite

SMALL, CHAT, OTHER = "llama3.2:1b", "llama3.1:8b", "qwen2.5:14b"
BIG, OTHER_BIG = "qwen2.5:32b", "gemma3:27b"
OOM = "cudaMalloc failed: out of memory"
LIMIT_S = 20.0

Told = dict[str, tuple[int, int, int]]


class Play:
    """A gate before a simulated Ollama, and who goes round it."""

    def __init__(self, http: aiohttp.ClientSession, sim: SimulatedOllama, site: Site) -> None:
        self._http, self.sim, self.site = http, sim, site

    async def ask(self, model: str, **more: Any) -> int:
        """A request through the gate; the status of its answer."""
        return await self._generate(self.site.url, model, more)

    async def behind(self, model: str, **more: Any) -> int:
        """One straight to Ollama, behind the gate's back."""
        return await self._generate(self.sim.url, model, more)

    async def _generate(self, url: str, model: str, more: dict[str, Any]) -> int:
        body = {"model": model, "prompt": "Hello", "options": {"num_predict": 2}} | more
        async with self._http.post(f"{url}/api/generate", json=body) as response:
            await response.read()
            return response.status

    async def unload_behind(self, model: str) -> None:
        """Somebody unloads a model at Ollama itself, and it has gone."""
        await self._generate(self.sim.url, model, {"prompt": "", "keep_alive": 0})
        async with asyncio.timeout(LIMIT_S):
            while model in self.sim.loaded():
                await self.sim.changed()

    async def status(self) -> Any:
        async with self._http.get(f"{self.site.url}/gate/status") as response:
            return await response.json()

    async def traffic(self) -> Any:
        return (await self.status())["traffic"]["simulated"]

    async def told(self) -> Told:
        """Loads, unloads and losses of each model, as far as the gate knows."""
        return {
            one["model"]: (
                sum(one["loads"][way] for way in ("confirmed", "unlisted", "unordered", "found")),
                sum(one["unloads"][way] for way in ("confirmed", "unordered")),
                one["unloads"]["lost"],
            )
            for one in (await self.traffic())["models"]
        }

    def happened(self) -> Told:
        """The same, from the machine's own journal."""
        counts = Counter(self.sim.counters.journal)
        whats = ("load", "unload", "lost")
        models = {model for _, model in counts}
        return {model: tuple(counts[what, model] for what in whats) for model in models}  # type: ignore[misc]

    async def looked(self) -> None:
        """Let the gate look at Ollama once more, and see that they agree."""
        gate = self.site.gate
        assert gate is not None
        async with asyncio.timeout(LIMIT_S):
            gate.nudge("simulated")
            while _without_nothing(await self.told()) != self.happened():
                await gate.changed()

    async def answers(self) -> None:
        """Wait until the gate has seen Ollama."""
        assert self.site.gate is not None
        assert await self.site.gate.answers("simulated", LIMIT_S)


def _without_nothing(told: Told) -> Told:
    return {model: counts for model, counts in told.items() if any(counts)}


MakePlay = Callable[..., Awaitable[Play]]


@pytest.fixture
def play(http: aiohttp.ClientSession, make_ollama: MakeOllama, make_site: MakeSite) -> MakePlay:
    async def make(**more: Any) -> Play:
        sim = await make_ollama(**more)
        play = Play(http, sim, await make_site(sim))
        await play.answers()
        return play

    return make


async def test_what_the_gate_orders_is_confirmed(play: MakePlay) -> None:
    world = await play()
    for model in (BIG, OTHER_BIG, BIG, SMALL):
        assert await world.ask(model) == 200
    await world.looked()
    traffic = await world.traffic()
    assert traffic["loads"]["ordered"] == traffic["loads"]["confirmed"]
    assert traffic["unloads"]["ordered"] == traffic["unloads"]["confirmed"] > 0
    assert traffic["loads"]["unordered"] == traffic["unloads"]["unordered"] == 0


async def test_the_status_says_whether_files_are_read_ahead(play: MakePlay) -> None:
    world = await play()
    status = await world.status()
    told = status["prewarm"]["simulated"]
    assert (told["on"], told["reason"], told["read"]) == (False, "turned off by prewarm: off", 0)


async def test_what_was_there_before_the_gate_is_found(
    http: aiohttp.ClientSession, ollama: SimulatedOllama, make_site: MakeSite
) -> None:
    body = {"model": SMALL, "keep_alive": -1}
    async with http.post(f"{ollama.url}/api/generate", json=body) as response:
        assert response.status == 200
    world = Play(http, ollama, await make_site(ollama))
    await world.looked()
    assert (await world.traffic())["loads"]["found"] == 1


async def test_what_somebody_unloads_behind_the_gate_counts_apart(play: MakePlay) -> None:
    world = await play()
    assert await world.ask(SMALL) == 200
    await world.unload_behind(SMALL)
    await world.looked()
    unloads = (await world.traffic())["unloads"]
    assert (unloads["ordered"], unloads["unordered"]) == (0, 1)


async def test_what_ollama_evicts_for_somebody_else_counts_apart(play: MakePlay) -> None:
    world = await play()
    assert await world.ask(BIG) == 200
    assert await world.behind(OTHER_BIG) == 200
    await world.looked()
    traffic = await world.traffic()
    assert (traffic["loads"]["ordered"], traffic["loads"]["unordered"]) == (1, 1)
    assert (traffic["unloads"]["ordered"], traffic["unloads"]["unordered"]) == (0, 1)


async def test_what_goes_when_memory_runs_out_in_a_load_counts_apart(play: MakePlay) -> None:
    world = await play()
    assert await world.ask(SMALL) == 200
    world.sim.faults.fail_load(CHAT, OOM, times=2)
    assert await world.ask(CHAT) == 200
    await world.looked()
    traffic = await world.traffic()
    assert traffic["loads"]["failed"] == 1
    assert traffic["unloads"]["unordered"] == 1


async def test_a_load_that_fails_counts_as_that(play: MakePlay) -> None:
    world = await play()
    world.sim.faults.fail_load(CHAT, "unknown model architecture", times=9)
    assert await world.ask(CHAT) == 500
    loads = (await world.traffic())["loads"]
    assert (loads["ordered"], loads["failed"], loads["confirmed"]) == (1, 1, 0)


async def test_what_dies_with_ollama_is_lost_and_not_unloaded(play: MakePlay) -> None:
    world = await play()
    assert await world.ask(SMALL) == 200
    await world.sim.go_down()
    gate = world.site.gate
    assert gate is not None
    gate.nudge("simulated")
    async with asyncio.timeout(LIMIT_S):
        while await gate.answers("simulated", 0):
            await gate.changed()
    await world.sim.come_back()
    await world.looked()
    unloads = (await world.traffic())["unloads"]
    assert (unloads["lost"], unloads["unordered"]) == (1, 0)


async def test_a_runner_that_crashed_is_unloaded_once(play: MakePlay) -> None:
    world = await play()
    world.sim.faults.kill_runner_in_prompt(SMALL)
    assert await world.ask(SMALL) == 200
    await world.looked()
    assert (await world.traffic())["loads"]["confirmed"] == 2


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_counts_agree_with_the_machine(
    play: MakePlay, seed: int
) -> None:
    dice = random.Random(seed)
    world = await play(num_parallel=2)
    for _ in range(12):
        model = dice.choice((SMALL, CHAT, OTHER, BIG))
        match dice.choice(("ask", "ask", "ask", "behind", "unload", "oom", "crash")):
            case "ask":
                await world.ask(model)
            case "behind":
                await world.behind(model, keep_alive=-1)
            case "unload":
                await world.unload_behind(model)
            case "oom":
                world.sim.faults.fail_load(model, OOM, times=1)
            case "crash":
                # One that dies unnoticed is replaced by Ollama with its like: nobody can see that.
                world.sim.faults.kill_runner_in_prompt(model)
                await world.ask(model)
        await world.looked()
