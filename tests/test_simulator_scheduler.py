"""Ollama's own scheduler, as the simulation has it: who waits, who goes, what reloads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_gate.simulator import Model, Settings, SimulatedOllama, select

GIB = 2**30
CARD = 24 * GIB
FOREVER = -1
SPEED = 200.0


class Client:
    """One client of one simulated Ollama."""

    def __init__(self, sim: SimulatedOllama, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self._session = session

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        async with self._session.post(path, json=body) as response:
            return response.status, await response.json(content_type=None)

    async def generate(self, model: str, tokens: int = 1, **more: Any) -> tuple[int, Any]:
        options = {"num_predict": tokens} | more.pop("options", {})
        return await self.post(
            "/api/generate", model=model, prompt="hi", stream=False, options=options, **more
        )

    async def listen(self, name: str, heard: list[str]) -> None:
        """Note the name once for each word of an answer."""
        body = {"model": "llama3.1:8b", "prompt": name, "options": {"num_predict": 49}}
        async with self._session.post("/api/generate", json=body) as response:
            async for _ in response.content:
                heard.append(name)  # noqa: PERF401 (the moment of each word is what is noted)

    async def load(self, model: str, **more: Any) -> tuple[int, Any]:
        return await self.post("/api/generate", model=model, **more)

    async def unload(self, model: str) -> tuple[int, Any]:
        return await self.post("/api/generate", model=model, keep_alive=0)

    async def busy(self, model: str, **more: Any) -> "asyncio.Task[tuple[int, Any]]":
        """A request that runs until the model's `unhang`."""
        self.sim.faults.hang(model)
        task = asyncio.create_task(self.generate(model, **more))
        while model not in self.sim.loaded():
            await self.sim.changed()
        return task

    async def ps(self) -> dict[str, Any]:
        async with self._session.get("/api/ps") as response:
            return {entry["name"]: entry for entry in (await response.json())["models"]}


@contextlib.asynccontextmanager
async def ollama(models: tuple[Model, ...] = (), **more: Any) -> AsyncIterator[Client]:
    """A simulated Ollama with one 24 GiB card, unless told otherwise, and a client of it."""
    chosen: dict[str, Any] = {"context_length": 4096, "speed": SPEED, "cards": (CARD,)} | more
    async with (
        SimulatedOllama(Settings(**chosen), models=models) as sim,
        aiohttp.ClientSession(sim.url) as session,
        asyncio.timeout(20),
    ):
        yield Client(sim, session)


async def until(sim: SimulatedOllama, *loaded: str) -> None:
    """Wait until exactly these are resident."""
    while sorted(sim.loaded()) != sorted(loaded):
        await sim.changed()


async def turns(sim: SimulatedOllama, condition: Any) -> None:
    """Let the world run until `condition` holds."""
    while not condition():
        await sim.clock.sleep(0.05)


PLAIN: dict[str, Any] = {}
ROWS = [
    ("the same again", {}, {}, 0, 0),
    ("sampling options", {"options": {"temperature": 0, "seed": 1, "num_keep": 9}}, {}, 0, 0),
    ("another context and back", {"options": {"num_ctx": 8192}}, {}, 1, 1),
    ("the automatic context by its number", {"options": {"num_ctx": 32768}}, {}, 0, 0),
    ("all layers on the GPU", {"options": {"num_gpu": 99}}, {}, 1, 0),
    ("no layer on the GPU stays so", {"options": {"num_gpu": 0}}, {}, 1, 0),
    ("threads", {"options": {"num_thread": 2}}, {}, 1, 1),
    ("memory mapping", {"options": {"use_mmap": False}}, {}, 1, 1),
    ("the main card", {"options": {"main_gpu": 0}}, {}, 1, 1),
    ("draft tokens", {"options": {"draft_num_predict": 2}}, {}, 1, 1),
    ("the default batch by its number", {"options": {"num_batch": 512}}, {}, 1, 0),
    ("no context shift", {"shift": False}, {}, 1, 1),
    (
        "a context beyond the trained one",
        {"options": {"num_ctx": 999_999}},
        {"options": {"num_ctx": 131_072}},
        1,
        0,
    ),
]


@pytest.mark.parametrize(
    ("what", "request_", "after", "first", "second"), ROWS, ids=[r[0] for r in ROWS]
)
async def test_a_difference_in_launch_options_reloads_the_model(
    what: str, request_: dict[str, Any], after: dict[str, Any], first: int, second: int
) -> None:
    # The tier of a 24 GiB card, so that the automatic batch is not the default one.
    async with ollama(context_length=0) as client:
        for body, loads in ((PLAIN, 1), (request_, 1 + first), (after, 1 + first + second)):
            status, _ = await client.generate("llama3.2:1b", **body)
            assert status == 200
            assert client.sim.counters.loads == loads, what


async def test_one_client_pins_a_model_to_the_cpu_for_all() -> None:
    async with ollama() as client:
        await client.generate("llama3.2:1b", options={"num_gpu": 0})
        await client.generate("llama3.2:1b")
        assert (await client.ps())["llama3.2:1b"]["size_vram"] == 0
        assert client.sim.counters.offloaded_loads == 0


async def test_an_openai_request_reloads_what_a_native_one_widened() -> None:
    async with ollama() as client:
        await client.generate("llama3.2:1b", options={"num_ctx": 8192})
        messages = [{"role": "user", "content": "hi"}]
        await client.post("/v1/chat/completions", model="llama3.2:1b", messages=messages)
        assert client.sim.counters.loads == 2


async def test_two_names_of_one_blob_share_a_runner() -> None:
    async with ollama() as client:
        await client.load("llama3.1:8b")
        await client.generate("llama3.1")
        assert client.sim.counters.loads == 1
        assert client.sim.loaded() == ["llama3.1:8b"]
        await client.unload("llama3.1")
        await until(client.sim)


async def test_a_loaded_model_is_served_while_another_one_loads() -> None:
    async with ollama(load_bandwidth=1e8) as client:
        await client.load("smollm:360m")
        loading = asyncio.create_task(client.load("qwen2.5:14b"))
        await turns(client.sim, lambda: client.sim.loading() is not None)
        assert (await client.generate("smollm:360m"))[0] == 200
        assert client.sim.loading() == "qwen2.5:14b"
        await loading


async def test_a_model_that_would_fit_waits_behind_one_that_must_evict() -> None:
    async with ollama() as client:
        busy = await client.busy("qwen2.5:32b")
        blocked = asyncio.create_task(client.load("qwen2.5:14b"))
        await client.sim.clock.sleep(5.0)
        small = asyncio.create_task(client.load("smollm:360m"))
        await turns(client.sim, lambda: client.sim.waiting() == 1)
        client.sim.faults.unhang("qwen2.5:32b")
        done, _ = await asyncio.wait([busy, blocked, small], return_when=asyncio.FIRST_COMPLETED)
        assert done == {busy}
        done, _ = await asyncio.wait([blocked, small], return_when=asyncio.FIRST_COMPLETED)
        assert done == {blocked}
        await small


async def test_a_full_queue_answers_503_in_ollamas_words() -> None:
    async with ollama(max_queue=2, load_start_s=60.0) as client:
        first = asyncio.create_task(client.load("qwen2.5:32b"))
        await turns(client.sim, lambda: client.sim.loading() is not None)
        others = [asyncio.create_task(client.load(f"{m}")) for m in ("phi3:mini", "gemma:2b")]
        await turns(client.sim, lambda: client.sim.waiting() == 2)
        text = "server busy, please try again.  maximum pending requests exceeded"
        assert await client.load("smollm:360m") == (503, {"error": text})
        status, body = await client.post(
            "/v1/chat/completions", model="smollm:1.7b", messages=[{"role": "user", "content": "x"}]
        )
        assert (status, body["error"]["type"]) == (503, "api_error")
        assert client.sim.counters.rejected == 2
        assert [status for status, _ in await asyncio.gather(first, *others)] == [200] * 3


async def test_a_client_that_leaves_the_queue_still_takes_a_place_in_it() -> None:
    async with ollama(max_queue=1, load_start_s=60.0) as client:
        first = asyncio.create_task(client.load("qwen2.5:14b"))
        await turns(client.sim, lambda: client.sim.loading() is not None)
        leaver = asyncio.create_task(client.load("gemma:2b"))
        await turns(client.sim, lambda: client.sim.waiting() == 1)
        leaver.cancel()
        await asyncio.wait([leaver])
        assert (await client.load("phi3:mini"))[0] == 503
        await first
        await client.load("phi3:mini")
        assert "gemma:2b" not in client.sim.loaded()


async def test_a_client_that_leaves_while_its_model_loads_aborts_the_load() -> None:
    async with ollama() as client:
        leaver = asyncio.create_task(client.load("qwen2.5:14b"))
        await turns(client.sim, lambda: client.sim.loading() is not None)
        leaver.cancel()
        await turns(client.sim, lambda: client.sim.loading() is None)
        await turns(client.sim, lambda: client.sim.card(0).used_bytes == 0)
        assert client.sim.loaded() == []
        assert client.sim.counters.loads == 0
        assert client.sim.counters.failed_loads == 1


async def test_the_shortest_keep_alive_goes_first_then_the_lowest_path() -> None:
    async with ollama(max_loaded=2) as client:
        await client.load("smollm:360m", keep_alive=FOREVER)
        await client.load("qwen2.5:0.5b", keep_alive="1h")
        await client.load("gemma:2b", keep_alive=FOREVER)
        assert client.sim.loaded() == ["smollm:360m", "gemma:2b"]
        by_path = sorted(select(client.sim.loaded()), key=lambda model: model.blob_path)
        await client.load("phi3:mini")
        assert by_path[0].name not in client.sim.loaded()
        assert by_path[1].name in client.sim.loaded()


async def test_an_idle_model_goes_before_a_busy_one_with_a_shorter_keep_alive() -> None:
    async with ollama(max_loaded=2) as client:
        await client.load("smollm:360m", keep_alive=FOREVER)
        busy = await client.busy("qwen2.5:0.5b", keep_alive="20s")
        await client.load("gemma:2b")
        assert client.sim.loaded() == ["qwen2.5:0.5b", "gemma:2b"]
        client.sim.faults.unhang("qwen2.5:0.5b")
        assert (await busy)[0] == 200


async def test_three_models_a_card_is_the_limit_nobody_set() -> None:
    async with ollama() as client:
        for model in ("smollm:360m", "qwen2.5:0.5b", "gemma:2b", "phi3:mini"):
            await client.load(model)
        assert len(client.sim.loaded()) == 3


async def test_the_order_of_loads_decides_whether_two_models_fit_together() -> None:
    # 80 % of what is believed free: the big one beside the small one does not pass, though it fits.
    async with ollama() as client:
        await client.load("smollm:1.7b")
        await client.load("gemma3:27b")
        assert client.sim.loaded() == ["gemma3:27b"]
    async with ollama() as client:
        await client.load("gemma3:27b")
        await client.load("smollm:1.7b")
        assert client.sim.loaded() == ["gemma3:27b", "smollm:1.7b"]


async def test_what_does_not_fit_slides_onto_the_cpu_without_a_word() -> None:
    async with ollama() as client:
        status, body = await client.load("llama3.3:70b")
        assert (status, body["done_reason"]) == (200, "load")
        shown = (await client.ps())["llama3.3:70b"]
        assert 0 < shown["size_vram"] < shown["size"]
        assert client.sim.counters.offloaded_loads == 1
        assert client.sim.counters.peak_bytes <= CARD - GIB


async def test_memory_that_others_take_after_a_load_is_not_seen_by_ollama() -> None:
    async with ollama() as client:
        await client.load("smollm:360m")
        client.sim.card(0).take_foreign(18 * GIB)
        await client.load("qwen2.5:14b")
        assert client.sim.loaded() == ["smollm:360m", "qwen2.5:14b"]
        shown = (await client.ps())["qwen2.5:14b"]
        assert shown["size_vram"] < shown["size"]


async def test_layers_asked_for_by_number_run_out_of_memory_instead() -> None:
    async with ollama() as client:
        status, body = await client.load("llama3.3:70b", options={"num_gpu": 99})
        assert status == 500
        assert body["error"].startswith("llama-server process has terminated: exit status 1: ")
        assert "cudaMalloc failed: out of memory" in body["error"]
        assert client.sim.loaded() == []


async def test_a_load_that_runs_out_of_memory_evicts_everything_and_tries_once_more() -> None:
    async with ollama() as client:
        await client.load("smollm:360m")
        await client.load("gemma:2b")
        client.sim.faults.fail_load("phi3:mini", "cudaMalloc failed: out of memory")
        assert (await client.load("phi3:mini"))[0] == 200
        assert client.sim.loaded() == ["phi3:mini"]
        client.sim.faults.fail_load("gemma:2b", "cudaMalloc failed: out of memory", times=2)
        assert await client.load("gemma:2b") == (500, {"error": "cudaMalloc failed: out of memory"})
        assert client.sim.loaded() == []


async def test_a_load_without_memory_for_an_automatic_context_comes_up_with_less() -> None:
    async with ollama(context_length=0) as client:
        client.sim.faults.fail_load("llama3.1:8b", "cudaMalloc failed: out of memory")
        await client.load("llama3.1:8b")
        assert (await client.ps())["llama3.1:8b"]["context_length"] == 4096


async def test_a_new_keep_alive_revives_a_victim_and_everybody_else_hangs() -> None:
    async with ollama() as client:
        busy = await client.busy("qwen2.5:32b")
        hanging = asyncio.create_task(client.load("qwen2.5:14b"))
        await client.sim.clock.sleep(5.0)
        joined = asyncio.create_task(client.generate("qwen2.5:32b", keep_alive=FOREVER))
        await client.sim.clock.sleep(5.0)
        client.sim.faults.unhang("qwen2.5:32b")
        await asyncio.gather(busy, joined)
        behind = asyncio.create_task(client.load("smollm:360m"))
        await turns(client.sim, lambda: client.sim.waiting() == 1)
        await client.sim.clock.sleep(30.0)
        assert not hanging.done()
        assert not behind.done()
        assert list(await client.ps()) == ["qwen2.5:32b"]
        await client.unload("qwen2.5:32b")
        assert [status for status, _ in await asyncio.gather(hanging, behind)] == [200, 200]


async def test_an_unload_is_answered_before_it_happens_and_memory_comes_later_still() -> None:
    async with ollama(unload_s=20.0, recovery_s=20.0) as client:
        await client.load("llama3.1:8b")
        held = client.sim.card(0).used_bytes
        status, body = await client.unload("llama3.1:8b")
        assert (status, body["done_reason"]) == (200, "unload")
        assert client.sim.loaded() == ["llama3.1:8b"]
        await until(client.sim)
        assert client.sim.card(0).used_bytes == held
        await turns(client.sim, lambda: client.sim.card(0).used_bytes == 0)
        assert client.sim.counters.unloads == 1


async def test_unloading_a_busy_model_waits_for_its_answer() -> None:
    async with ollama() as client:
        busy = await client.busy("llama3.1:8b")
        assert (await client.unload("llama3.1:8b"))[0] == 200
        client.sim.faults.unhang("llama3.1:8b")
        assert (await busy)[1]["done"]
        await until(client.sim)


async def test_memory_that_comes_back_late_costs_the_next_model_its_layers() -> None:
    async with ollama(recovery_s=4.0) as client:
        await client.load("qwen2.5:32b")
        await client.load("gemma3:27b")
        assert client.sim.counters.offloaded_loads == 1


async def test_a_model_goes_when_its_keep_alive_has_passed() -> None:
    async with ollama(keep_alive_s=5.0) as client:
        await client.generate("smollm:360m")
        await client.generate("qwen2.5:0.5b", keep_alive="30s")
        await until(client.sim, "qwen2.5:0.5b")
        await until(client.sim)


async def test_a_silent_request_leaves_the_keep_alive_as_it_was() -> None:
    async with ollama(keep_alive_s=1.0) as client:
        await client.load("smollm:360m", keep_alive=FOREVER)
        await client.generate("smollm:360m")
        await client.sim.clock.sleep(5.0)
        assert (await client.ps())["smollm:360m"]["expires_at"].startswith(("2318", "2319"))


@pytest.mark.parametrize("keep_alive", ["5m", "1h30m", "0.5h", 300, 12.5, "-1m", -1, "1us", None])
async def test_a_duration_that_go_reads_is_taken(keep_alive: Any) -> None:
    async with ollama() as client:
        assert (await client.load("smollm:360m", keep_alive=keep_alive))[0] == 200


@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("", 'time: invalid duration ""'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
async def test_another_duration_is_refused_in_gos_words(keep_alive: Any, text: str) -> None:
    async with ollama() as client:
        assert await client.load("smollm:360m", keep_alive=keep_alive) == (400, {"error": text})


async def test_answers_of_one_runner_take_turns_where_it_has_one_slot() -> None:
    async with ollama(answer_tokens=60) as client:
        heard: list[str] = []
        await asyncio.gather(client.listen("a", heard), client.listen("b", heard))
        assert "".join(heard) in {"a" * 50 + "b" * 50, "b" * 50 + "a" * 50}
    async with ollama(num_parallel=2, speed=20.0, answer_tokens=60) as client:
        heard = []
        await asyncio.gather(client.listen("a", heard), client.listen("b", heard))
        assert "".join(heard) not in {"a" * 50 + "b" * 50, "b" * 50 + "a" * 50}


async def test_two_slots_take_twice_the_cache_but_an_embedding_model_has_one() -> None:
    same_batch = {"num_batch": 512}
    async with ollama(num_parallel=2) as client:
        await client.load("llama3.1:8b", options=same_batch)
        await client.post("/api/embed", model="all-minilm")
        two = await client.ps()
    async with ollama() as client:
        await client.load("llama3.1:8b", options=same_batch)
        await client.post("/api/embed", model="all-minilm")
        one = await client.ps()
    assert two["llama3.1:8b"]["size"] - one["llama3.1:8b"]["size"] == 131_072 * 4096
    assert two["all-minilm:latest"]["size"] == one["all-minilm:latest"]["size"]


async def test_a_machine_without_cards_runs_on_its_cpu() -> None:
    async with ollama(cards=()) as client:
        await client.load("qwen2.5:32b")
        await client.load("smollm:360m")
        shown = await client.ps()
        assert shown["qwen2.5:32b"]["size_vram"] == 0
        assert len(shown) == 2
        assert client.sim.counters.offloaded_loads == 0
        assert client.sim.counters.peak_bytes == 0


async def test_a_model_goes_whole_to_the_freest_of_two_cards() -> None:
    async with ollama(cards=(12 * GIB, CARD)) as client:
        await client.load("qwen2.5:14b")
        assert client.sim.card(0).reading() == (12 * GIB, 0)
        assert client.sim.card(1).used_bytes > 9e9
        await client.load("qwen2.5:7b")
        assert client.sim.card(1).used_bytes > 14e9


async def test_forty_requests_that_alternate_between_two_big_models_load_forty_times() -> None:
    async with ollama(speed=1000.0) as client:
        models = ["qwen2.5:32b", "gemma3:27b"] * 20
        answers = await asyncio.gather(*(client.generate(model) for model in models))
        assert {status for status, _ in answers} == {200}
        assert client.sim.counters.loads >= 30
