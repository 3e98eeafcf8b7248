"""The gate before an Ollama as nasty as life, over sockets: nothing lost, nothing unnoticed.

What a client gets is judged by the answers alone, and what became of memory by the simulated
machine's own books; the gate is not asked how it did.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from ollama_gate.config import Card as ConfiguredCard
from ollama_gate.config import Config
from ollama_gate.scheduler.types import Snapshot
from ollama_gate.simulator import SimulatedOllama, select
from ollama_gate.simulator.demo import gate_config
from ollama_gate.simulator.foreign import wandering
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite

GIB = 2**30
CARD = 24 * GIB
CHAT, OTHER, SMALL = "llama3.1:8b", "qwen2.5:14b", "llama3.2:1b"
BIG, OTHER_BIG = "qwen2.5:32b", "gemma3:27b"
HUGE = "llama3.3:70b"
WINDOWED = "gemma3:12b"
EMBEDDER = "nomic-embed-text"
OOM = "CUDA error: out of memory"
LOAD_OOM = (
    "llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory\n"
    "error loading model: unable to allocate CUDA0 buffer"
)
LIMIT_S = 12


Http = aiohttp.ClientSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One answer, read to its end."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def last(self) -> dict[str, Any]:
        """The last object of a stream, or the only one."""
        found: dict[str, Any] = json.loads(self.text.splitlines()[-1])
        return found

    @property
    def error(self) -> str:
        return str(self.last.get("error", ""))

    @property
    def is_whole(self) -> bool:
        complete = self.last.get("done") is True or "embeddings" in self.last
        return self.status == 200 and complete

    @property
    def offload(self) -> float:
        return float(self.headers.get("X-Gate-Offload", 0))


class Play:
    """A gate, what is behind it, and a client."""

    def __init__(self, http: Http, sim: SimulatedOllama, site: Site) -> None:
        self._http, self.sim, self.site = http, sim, site

    async def ask(self, model: str, tokens: int = 4, *, url: str = "", **more: Any) -> Got:
        options = {"num_predict": tokens} | more.pop("options", {})
        body = {"model": model, "prompt": "Hello", "options": options} | more
        return await self._post(f"{url or self.site.url}/api/generate", body)

    async def embed(self) -> Got:
        body = {"model": EMBEDDER, "input": "to be or not to be"}
        return await self._post(f"{self.site.url}/api/embed", body)

    async def _post(self, url: str, body: dict[str, Any]) -> Got:
        async with self._http.post(url, json=body) as response:
            text = await response.text()
            return Got(status=response.status, headers=dict(response.headers), text=text)

    async def pull(self, model: str) -> None:
        async with self._http.post(f"{self.site.url}/api/pull", json={"model": model}) as response:
            assert '"success"' in await response.text()

    async def status(self) -> Any:
        async with self._http.get(f"{self.site.url}/gate/status") as response:
            return await response.json()

    async def until(self, holds: Callable[[Snapshot], object]) -> None:
        """Await a state of the gate."""
        assert self.site.gate is not None
        async with asyncio.timeout(LIMIT_S):
            while not holds(self.site.gate.snapshot()):
                await self.site.gate.changed()

    async def loaded(self, holds: Callable[[list[str]], object]) -> None:
        """Await what is resident behind the gate."""
        async with asyncio.timeout(LIMIT_S):
            while not holds(self.sim.loaded()):
                await self.sim.changed()

    async def standing(self, model: str) -> "asyncio.Task[Got]":
        """An answer that has begun to run and stands still until the model's `unhang`."""
        self.sim.faults.hang(model)
        task = asyncio.create_task(self.ask(model))
        await self.answering(1)
        return task

    async def answering(self, count: int) -> None:
        """Await that so many answers have begun behind the gate."""
        async with asyncio.timeout(LIMIT_S):
            while self.sim.running() != count:
                await self.sim.changed()

    async def all(self, *asked: Awaitable[Got]) -> list[Got]:
        async with asyncio.timeout(LIMIT_S):
            return list(await asyncio.gather(*asked))


MakePlay = Callable[..., Awaitable[Play]]


@pytest.fixture
def play(http: Http, make_ollama: MakeOllama, make_site: MakeSite) -> MakePlay:
    """Start a world; `config` replaces parts of the gate's, `more` are settings of Ollama's."""

    async def make(config: dict[str, Any] | None = None, **more: Any) -> Play:
        sim = await make_ollama(**{"recovery_s": 2.0} | more)
        return Play(http, sim, await make_site(sim, **config or {}))

    return make


@pytest.fixture
async def blind(
    http: Http, make_ollama: MakeOllama, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakePlay]:
    """The same before a card of which the gate knows its size alone, as on another machine."""
    monkeypatch.setattr("ollama_gate.gpu.is_here", lambda _: False)
    async with contextlib.AsyncExitStack() as stack:

        async def make(**more: Any) -> Play:
            sim = await make_ollama(**more)
            config = gate_config(sim.url, sim.settings)
            gpus = (ConfiguredCard(vram_bytes=CARD - GIB),)
            config = structs.replace(
                config, upstreams=(structs.replace(config.upstream, gpus=gpus),)
            )
            return Play(http, sim, await stack.enter_async_context(Site(config)))

        yield make


def patient(**more: Any) -> dict[str, Any]:
    """A configuration in which nobody's patience ends within a test."""
    scheduler = structs.replace(Config().scheduler, tau_s=(60.0, 60.0, 60.0))
    return {"scheduler": scheduler, **more}


def all_whole(answers: list[Got]) -> None:
    assert [(got.status, got.error) for got in answers if not got.is_whole] == []


def nothing_unnoticed(play: Play, answers: list[Got]) -> None:
    """Whoever was answered from the CPU, in part or whole, was told so."""
    told = sum(got.offload > 0 for got in answers)
    assert told == play.sim.counters.served_offloaded


# -------------------------------------------------------------------------------- wrong sizes


@pytest.mark.parametrize("seed", range(3))
async def test_sizes_may_be_wrong_by_a_quarter(play: MakePlay, seed: int) -> None:
    world = await play(size_error=(-0.1, 0.25), seed=seed, recovery_spread_s=4.0)
    dice = random.Random(seed)
    names = [dice.choice((CHAT, OTHER, SMALL, WINDOWED, BIG, "gemma2:9b")) for _ in range(14)]
    answers = await world.all(*(world.ask(name) for name in names))
    all_whole(answers)
    nothing_unnoticed(world, answers)


async def test_what_turns_out_larger_lets_nobody_slide_beside_it(blind: MakePlay) -> None:
    world = await blind(size_error=(0.25, 0.25), max_loaded=6)
    names = (CHAT, "qwen2.5:7b", "mistral:7b", "qwen3:8b")
    all_whole([await world.ask(name) for name in names])
    assert world.sim.counters.offloaded_loads == 0
    assert world.sim.counters.peak_bytes < CARD


async def test_a_window_that_ollama_overlooks_is_not_believed_away(blind: MakePlay) -> None:
    # A reading of the card would set it right.
    world = await blind(max_loaded=4)
    wide = {"num_ctx": 131072}
    all_whole([await world.ask(WINDOWED, options=wide), await world.ask(OTHER)])
    assert world.sim.counters.offloaded_loads == 0


async def test_an_absurd_size_is_not_believed(blind: MakePlay) -> None:
    world = await blind(max_loaded=4)
    world.sim.faults.misreport(OTHER, 1_030_000_000)
    for name in (OTHER, WINDOWED, CHAT):
        all_whole([await world.ask(name)])
    assert world.sim.counters.offloaded_loads == 0


async def test_what_nobody_shows_is_counted_all_the_same(play: MakePlay) -> None:
    world = await play(overhead_bytes=1100 * 2**20, max_loaded=20)
    names = ("llava:7b", "gemma3:12b", CHAT, SMALL, "qwen2.5:7b", "llava:7b", OTHER)
    answers = [await world.ask(name) for name in names]
    all_whole(answers)
    nothing_unnoticed(world, answers)
    assert world.sim.counters.failed_loads == 0


@pytest.mark.parametrize("seed", range(3))
async def test_memory_that_comes_back_late_is_waited_for(play: MakePlay, seed: int) -> None:
    world = await play(recovery_s=0.0, recovery_spread_s=6.0, seed=seed)
    answers = [await world.ask(name) for name in (BIG, OTHER_BIG) * 3]
    all_whole(answers)
    assert world.sim.counters.offloaded_loads == 0


async def test_a_model_that_was_pulled_anew_is_taken_for_what_it_is_now(play: MakePlay) -> None:
    world = await play(pull_s=0.1)
    all_whole([await world.ask(SMALL), await world.ask(OTHER)])
    (large,) = select([BIG])
    world.sim.publish(replace(large, name=SMALL, blob="cd" * 32))
    await world.pull(SMALL)
    all_whole([await world.ask(SMALL)])
    assert world.sim.counters.offloaded_loads == 0


# --------------------------------------------------------------------------- too large, or not


async def test_what_no_card_holds_runs_alone_and_says_so(play: MakePlay) -> None:
    world = await play()
    answers = [await world.ask(SMALL), await world.ask(HUGE)]
    all_whole(answers)
    assert [got.offload > 0 for got in answers] == [False, True]
    assert 0 < answers[1].offload < 1
    assert world.sim.loaded() == [HUGE]


async def test_what_no_card_holds_can_be_refused(play: MakePlay) -> None:
    world = await play({"offload": "refuse"})
    got = await world.ask(HUGE)
    assert (got.status, world.sim.counters.loads) == (507, 0)
    assert got.headers["x-should-retry"] == "false"


async def test_what_no_card_holds_can_be_left_to_ollama(play: MakePlay) -> None:
    world = await play({"offload": "accept"})
    got = await world.ask(HUGE)
    all_whole([got])
    assert 0 < got.offload < 1


async def test_who_wants_no_card_leaves_it_to_the_others(play: MakePlay) -> None:
    world = await play()
    slow = await world.ask(SMALL, options={"num_gpu": 0})
    quick = await world.ask(SMALL)
    all_whole([slow, quick])
    async with aiohttp.ClientSession(world.sim.url) as session, session.get("/api/ps") as response:
        (entry,) = (await response.json())["models"]
    assert entry["size_vram"] == entry["size"]


# ------------------------------------------------------------------------------ other programs


async def test_a_stream_outlives_what_others_take(play: MakePlay) -> None:
    world = await play(patient())
    all_whole([await world.ask(SMALL)])
    stream = await world.standing(OTHER)
    world.sim.card(0).set_foreign(12 * GIB)
    await world.loaded(lambda names: names == [OTHER])
    world.sim.faults.unhang(OTHER)
    all_whole([await stream])


async def test_nobody_is_loaded_into_what_others_took(play: MakePlay) -> None:
    world = await play(patient())
    world.sim.card(0).set_foreign(14 * GIB)
    all_whole([await world.ask(SMALL)])
    waiting = asyncio.create_task(world.ask(OTHER))
    await world.until(lambda view: view.waiting)
    all_whole([await world.ask(SMALL), await world.ask(SMALL)])
    assert OTHER not in world.sim.loaded()
    world.sim.card(0).set_foreign(0)
    all_whole(await world.all(waiting))
    assert world.sim.counters.offloaded_loads == 0


async def test_who_slid_onto_the_cpu_by_chance_is_loaded_again_once_there_is_room(
    play: MakePlay,
) -> None:
    world = await play(patient())

    def taken() -> None:
        world.sim.card(0).set_foreign(18 * GIB)

    world.sim.faults.before_load(OTHER, taken)
    answers = [await world.ask(OTHER)]
    world.sim.card(0).set_foreign(0)
    async with asyncio.timeout(LIMIT_S):
        while not answers or answers[-1].offload:
            answers.append(await world.ask(OTHER))
    all_whole(answers)
    nothing_unnoticed(world, answers)
    assert (world.sim.counters.offloaded_loads, world.sim.counters.loads) == (1, 2)


async def test_who_has_to_share_with_others_for_good_is_served_and_told_so(play: MakePlay) -> None:
    world = await play()
    world.sim.faults.before_load(OTHER, lambda: world.sim.card(0).set_foreign(18 * GIB))
    answers = [await world.ask(OTHER), await world.ask(OTHER)]
    all_whole(answers)
    assert all(0 < got.offload < 1 for got in answers)


async def test_what_was_taken_in_the_middle_of_a_load_costs_nobody_an_answer(
    play: MakePlay,
) -> None:
    world = await play(patient())

    def taken() -> None:
        world.sim.run_foreign([(0.0, 20 * GIB), (60.0, 0)])

    world.sim.faults.in_load(OTHER, taken)
    answers = await world.all(world.ask(OTHER), world.ask(SMALL), world.ask(OTHER))
    all_whole(answers)
    nothing_unnoticed(world, answers)


async def test_a_card_that_is_lost_and_found_costs_nobody_an_answer(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.ask(BIG)])
    world.sim.card(0).lose()
    answers = [await world.ask(OTHER_BIG)]
    all_whole(answers)
    nothing_unnoticed(world, answers)
    (reading,) = (entry["reading"] for entry in (await world.status())["bins"])
    assert reading["error"]
    world.sim.card(0).find()
    all_whole([await world.ask(BIG)])
    (reading,) = (entry["reading"] for entry in (await world.status())["bins"])
    assert reading["error"] is None


# ------------------------------------------------------------------------------- out of memory


async def test_a_load_that_runs_out_of_memory_is_tried_again(play: MakePlay) -> None:
    world = await play()
    world.sim.faults.fail_load(CHAT, LOAD_OOM, times=2)
    answers = await world.all(world.ask(CHAT), world.ask(SMALL), world.ask(CHAT))
    all_whole(answers)


async def test_a_load_that_never_succeeds_ends_in_ollamas_own_words(play: MakePlay) -> None:
    world = await play()
    world.sim.faults.fail_load(CHAT, LOAD_OOM, times=99)
    lost, *others = await world.all(world.ask(CHAT), world.ask(SMALL), world.ask(OTHER))
    assert (lost.status, lost.error) == (500, LOAD_OOM)
    all_whole(others)


async def test_who_is_dropped_as_soon_as_loaded_is_loaded_again(play: MakePlay) -> None:
    world = await play(unload_s=0.0)
    world.sim.faults.after_load(CHAT, world.sim.drop_all)
    all_whole(await world.all(world.ask(CHAT), world.ask(SMALL)))


@pytest.mark.parametrize("stream", [True, False])
async def test_memory_that_runs_out_before_the_first_word_is_no_clients_concern(
    play: MakePlay, *, stream: bool
) -> None:
    world = await play()
    all_whole(await world.all(world.ask(CHAT), world.ask(SMALL)))
    world.sim.faults.kill_runner_after(CHAT, 0, OOM)
    all_whole(await world.all(world.ask(CHAT, stream=stream), world.ask(SMALL)))


async def test_memory_that_is_taken_under_a_prompt_is_no_clients_concern(play: MakePlay) -> None:
    world = await play(patient())
    all_whole([await world.ask(CHAT)])
    stream = await world.standing(CHAT)
    world.sim.card(0).set_foreign(CARD)
    world.sim.faults.unhang(CHAT)
    other = asyncio.create_task(world.ask(SMALL))
    await world.loaded(lambda names: CHAT not in names)
    world.sim.card(0).set_foreign(0)
    all_whole(await world.all(stream, other))


async def test_a_stream_that_memory_breaks_off_ends_in_ollamas_own_words(play: MakePlay) -> None:
    world = await play(num_parallel=2)
    all_whole([await world.ask(SMALL)])
    world.sim.faults.kill_runner_after(CHAT, 3, OOM)
    broken, other = await world.all(world.ask(CHAT, 40), world.ask(SMALL))
    assert broken.status == 200
    assert broken.error == f"an error was encountered while running the model: {OOM}"
    assert len(broken.text.splitlines()) == 4
    all_whole([other])
    all_whole(await world.all(world.ask(CHAT), world.ask(SMALL), world.embed()))


# -------------------------------------------------------------------- crashes, and behind its back


async def test_a_crashed_runner_that_is_still_listed_serves_nobody(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.ask(CHAT), await world.ask(SMALL)])
    world.sim.faults.kill_runner(CHAT)
    all_whole(await world.all(*(world.ask(name) for name in (CHAT, SMALL, OTHER, CHAT))))
    assert world.sim.counters.offloaded_loads == 0


async def test_a_crash_before_the_first_word_is_no_clients_concern(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.ask(CHAT)])
    world.sim.faults.kill_runner_after(CHAT, 0)
    all_whole(await world.all(world.ask(CHAT), world.ask(CHAT, stream=False)))


async def test_a_crash_under_an_embedding_is_no_clients_concern(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.embed()])
    world.sim.faults.kill_runner_in_prompt(EMBEDDER)
    all_whole([await world.embed()])
    assert world.sim.counters.loads == 2


async def test_who_waited_for_a_slot_of_a_runner_that_crashed_is_served(play: MakePlay) -> None:
    world = await play(num_parallel=2)
    stream = await world.standing(CHAT)
    others = [asyncio.create_task(world.ask(CHAT)) for _ in range(4)]
    await world.answering(2)
    await world.until(lambda view: len(view.waiting) == 3)
    world.sim.faults.kill_runner(CHAT)
    world.sim.faults.unhang(CHAT)
    all_whole(await world.all(stream, *others))


async def test_an_ollama_that_is_restarted_loses_nobody(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.ask(SMALL)])
    stream = await world.standing(CHAT)
    others = [asyncio.create_task(world.ask(name)) for name in (CHAT, BIG, CHAT)]
    await world.until(lambda view: len(view.waiting) == 3)
    await world.sim.restart()
    world.sim.faults.unhang(CHAT)
    all_whole(await world.all(stream, *others))


async def test_what_is_loaded_behind_its_back_slides_nobody_onto_the_cpu_unnoticed(
    play: MakePlay,
) -> None:
    world = await play()
    all_whole([await world.ask(SMALL)])
    behind = await world.ask(OTHER, url=world.sim.url)
    answers = await world.all(world.ask(BIG), world.ask(SMALL), world.ask(OTHER))
    all_whole([behind, *answers])
    nothing_unnoticed(world, answers)


async def test_what_is_unloaded_behind_its_back_is_loaded_again(play: MakePlay) -> None:
    world = await play()
    all_whole([await world.ask(CHAT), await world.ask(SMALL)])
    async with aiohttp.ClientSession(world.sim.url) as session:
        await session.post("/api/generate", json={"model": CHAT, "keep_alive": 0})
    await world.loaded(lambda names: names == [SMALL])
    all_whole(await world.all(world.ask(BIG), world.ask(CHAT), world.ask(SMALL)))
    assert world.sim.counters.offloaded_loads == 0


# ------------------------------------------------------------------------------------ together


@pytest.mark.parametrize("seed", range(3))
async def test_all_of_it_together_loses_nobody(play: MakePlay, seed: int) -> None:
    world = await play(
        size_error=(-0.1, 0.25), seed=seed, recovery_spread_s=5.0, overhead_bytes=700 * 2**20
    )
    dice = random.Random(seed)
    others = wandering(seed, most_bytes=10 * GIB, every_s=20.0, until_s=300.0)
    world.sim.run_foreign(others)
    world.sim.faults.fail_load(dice.choice((CHAT, OTHER)), LOAD_OOM)
    world.sim.faults.kill_runner_after(dice.choice((CHAT, SMALL)), 0, dice.choice((OOM, "EOF")))
    world.sim.faults.kill_runner_in_prompt(dice.choice((OTHER, WINDOWED)))
    names = [dice.choice((CHAT, OTHER, SMALL, WINDOWED, BIG)) for _ in range(16)]
    answers = await world.all(*(world.ask(name, dice.randint(2, 30)) for name in names))
    all_whole(answers)
    nothing_unnoticed(world, answers)
