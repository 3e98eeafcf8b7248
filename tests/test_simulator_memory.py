"""How nasty the simulated machine can be: wrong sizes, other programs, lost cards, lost memory."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from ollama_gate.errors import CardError
from ollama_gate.simulator import LIBRARY, Model, Settings, SimulatedOllama, select
from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.demo import SimulatedCard
from ollama_gate.simulator.foreign import play, wandering
from ollama_gate.simulator.memory import footprint, overlooked_bytes
from ollama_gate.simulator.tensors import (
    card_bytes,
    encoder_bytes,
    gguf_bytes,
    model_bytes,
    tensors,
)
from ollama_gate.simulator.truth import recovery_s, size_factor

GIB = 2**30
CHAT, SMALL, WINDOWED = "llama3.1:8b", "llama3.2:1b", "gemma2:9b"
TYPE_BYTES = {
    "F32": 4.0,
    "F16": 2.0,
    "BF16": 2.0,
    "Q8_0": 34 / 32,
    "Q6_K": 210 / 256,
    "Q5_K": 176 / 256,
    "Q5_0": 22 / 32,
    "Q4_K": 144 / 256,
    "Q4_0": 18 / 32,
    "MXFP4": 17 / 32,
    "Q3_K": 110 / 256,
    "Q2_K": 84 / 256,
}


@contextlib.asynccontextmanager
async def world(**more: Any) -> AsyncIterator[tuple[SimulatedOllama, aiohttp.ClientSession]]:
    settings = Settings(**{"context_length": 4096, "speed": 500.0} | more)
    async with (
        SimulatedOllama(settings) as sim,
        aiohttp.ClientSession(sim.url) as session,
        asyncio.timeout(20),
    ):
        yield sim, session


async def generate(
    session: aiohttp.ClientSession, model: str, tokens: int = 5, **more: Any
) -> tuple[int, str]:
    options = {"num_predict": tokens} | more.pop("options", {})
    body = {"model": model, "prompt": "hi", "options": options, **more}
    async with session.post("/api/generate", json=body) as response:
        return response.status, await response.text()


async def load(session: aiohttp.ClientSession, model: str, **more: Any) -> int:
    async with session.post("/api/generate", json={"model": model, **more}) as response:
        await response.read()
        return response.status


async def shown(session: aiohttp.ClientSession, model: str) -> dict[str, Any]:
    async with session.get("/api/ps") as response:
        listed = (await response.json())["models"]
    return next(entry for entry in listed if entry["name"] == model)


async def show(session: aiohttp.ClientSession, model: str, **more: Any) -> dict[str, Any]:
    async with session.post("/api/show", json={"model": model, **more}) as response:
        answer: dict[str, Any] = await response.json()
        return answer


def local(name: str) -> Model:
    (model,) = select([name])
    return model


# ------------------------------------------------------------------------------------ on disk


@pytest.mark.parametrize("model", [m for m in LIBRARY if not m.is_remote], ids=lambda m: m.name)
def test_tensors_and_the_head_of_a_file_are_the_file(model: Model) -> None:
    listed_bytes = sum(math.prod(t["shape"]) * TYPE_BYTES[t["type"]] for t in tensors(model))
    head_bytes = gguf_bytes(model) - listed_bytes
    assert 8 * model.shape.vocabulary <= head_bytes <= 64 * model.shape.vocabulary


def test_what_the_input_layer_takes_is_not_taken_of_a_card() -> None:
    # CUDA0 model buffer size = 4403.49 MiB, CPU_Mapped 281.81 MiB (Llama 3 8B Q4_K_M).
    assert math.isclose(card_bytes(local(CHAT)) / 2**20, 4403.49, rel_tol=1e-4)
    assert math.isclose(
        (model_bytes(local(CHAT)) - card_bytes(local(CHAT))) / 2**20, 281.81, rel_tol=1e-4
    )


async def test_lists_are_withheld_unless_asked_for() -> None:
    async with world() as (_, session):
        brief = (await show(session, "lfm2:1.2b"))["model_info"]
        whole = (await show(session, "lfm2:1.2b", verbose=True))["model_info"]
        assert brief["lfm2.attention.head_count_kv"] is None
        assert brief["tokenizer.ggml.tokens"] is None
        assert whole["lfm2.attention.head_count_kv"].count(8) == 6
        assert len(whole["tokenizer.ggml.tokens"]) == whole["lfm2.vocab_size"]
        assert brief.keys() == whole.keys()


async def test_a_projector_is_told_of_and_is_a_file_of_its_own() -> None:
    async with world() as (_, session):
        told = await show(session, "llava:7b")
        assert told["projector_info"]["general.architecture"] == "clip"
        assert told["modelfile"].count("\nFROM ") == 2
        assert not any(tensor["name"].startswith("v.") for tensor in told["tensors"])
        assert told["details"]["families"] == ["llama", "clip"]
        inside = await show(session, "gemma3:12b")
        assert "projector_info" not in inside
        assert any(tensor["name"].startswith("v.") for tensor in inside["tensors"])


async def test_a_pull_of_what_was_published_anew_changes_the_digest() -> None:
    async with world(pull_s=0.1) as (sim, session):
        before = {m["name"]: m["digest"] for m in await tags(session)}
        sim.publish(replace(local(SMALL), blob="ab" * 32))
        async with session.post("/api/pull", json={"model": SMALL}) as response:
            await response.read()
        after = {m["name"]: m["digest"] for m in await tags(session)}
        assert before[SMALL] != after[SMALL]
        assert {name for name in before if before[name] != after[name]} == {SMALL}


async def tags(session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with session.get("/api/tags") as response:
        listed: list[dict[str, Any]] = (await response.json())["models"]
        return listed


# ------------------------------------------------------------------------------------- caches


def kv(name: str, context: int, *, batch: int = 512, parallel: int = 1) -> int:
    model = local(name)
    return footprint(
        model.shape, 0, context=context, parallel=parallel, batch=batch, kv_width=2
    ).kv_bytes


def test_a_compressed_cache_is_one_key_for_all_heads() -> None:
    assert kv("deepseek-v2:16b", 4096) == 27 * 4096 * 576 * 2


def test_a_recurrent_cache_does_not_grow() -> None:
    assert kv("mamba:130m", 4096) == kv("mamba:130m", 65536) == 24 * 4 * 1536 * (3 + 16)
    grown = kv("lfm2:1.2b", 8192) - kv("lfm2:1.2b", 4096)
    assert grown == 6 * 4096 * 2 * 8 * 64 * 2


def test_what_is_overlooked_is_the_cache_of_the_layers_that_see_everything() -> None:
    model = local("gemma3:12b")
    lost = overlooked_bytes(model.shape, context=131072, parallel=1, batch=512, kv_width=2)
    assert lost == 8 * 131072 * 8 * 256 * 2 * 2
    assert kv("gemma3:12b", 131072) - lost == 40 * 1536 * 8 * 256 * 2 * 2
    assert overlooked_bytes(local(CHAT).shape, context=4096, parallel=1, batch=512, kv_width=2) == 0


# -------------------------------------------------------------------------------- wrong sizes


async def test_a_sliding_window_is_shown_too_small_and_taken_all_the_same() -> None:
    async with world(context_length=8192, overhead_bytes=0) as (sim, session):
        assert await load(session, WINDOWED) == 200
        entry = await shown(session, WINDOWED)
        lost = 21 * 8192 * 8 * 256 * 2 * 2
        assert entry["size"] == entry["size_vram"]
        assert abs(sim.card(0).used_bytes - entry["size_vram"] - lost) <= 1


async def test_an_ollama_without_that_mistake_shows_it_all() -> None:
    async with world(overhead_bytes=0, loses_windows=False) as (sim, session):
        assert await load(session, WINDOWED) == 200
        assert (await shown(session, WINDOWED))["size_vram"] == sim.card(0).used_bytes


async def test_a_process_takes_what_nobody_shows() -> None:
    async with world(overhead_bytes=300 * 2**20) as (sim, session):
        assert await load(session, SMALL) == 200
        size = (await shown(session, SMALL))["size_vram"]
        assert sim.card(0).used_bytes == size + 300 * 2**20


async def test_an_encoder_takes_what_nobody_shows() -> None:
    async with world(overhead_bytes=0) as (sim, session):
        assert await load(session, "llava:7b") == 200
        size = (await shown(session, "llava:7b"))["size_vram"]
        assert sim.card(0).used_bytes == size + encoder_bytes(local("llava:7b"))


def test_each_file_has_its_own_factor_and_keeps_it() -> None:
    settings = Settings(size_error=(-0.1, 0.25), seed=3)
    factors = {model.blob_path: size_factor(model, settings) for model in LIBRARY}
    assert all(0.9 <= factor <= 1.25 for factor in factors.values())
    assert len(set(factors.values())) == len(factors)
    assert size_factor(local(CHAT), settings) == factors[local(CHAT).blob_path]
    assert size_factor(local(CHAT), Settings()) == 1


async def test_a_wrong_size_is_really_taken_and_shown() -> None:
    async with world(size_error=(0.25, 0.25), overhead_bytes=0) as (sim, session):
        assert await load(session, CHAT) == 200
        size = (await shown(session, CHAT))["size_vram"]
        assert sim.card(0).used_bytes == size
        assert size > 1.25 * card_bytes(local(CHAT))


async def test_a_size_can_be_absurd() -> None:
    async with world() as (sim, session):
        sim.faults.misreport("gemma3:12b", 1_030_000_000)
        assert await load(session, "gemma3:12b") == 200
        entry = await shown(session, "gemma3:12b")
        assert entry["size"] == entry["size_vram"] == 1_030_000_000
        assert sim.card(0).used_bytes > 8e9


def test_memory_is_late_by_as_much_as_the_seed_says() -> None:
    settings = Settings(recovery_s=0.0, recovery_spread_s=6.0, seed=1)
    lags = [recovery_s(settings, unloads) for unloads in range(200)]
    assert min(lags) < 0.5
    assert 5.5 < max(lags) <= 6
    assert recovery_s(Settings(recovery_s=0.7), 5) == 0.7


# --------------------------------------------------------------------------------- the others


async def test_other_programs_come_and_go_as_it_is_written() -> None:
    async with world() as (sim, _):
        await play([(0.0, 3 * GIB), (5.0, 9 * GIB), (10.0, 0)], sim.card(0), sim.clock)
        assert sim.card(0).reading() == (24 * GIB, 0)
        assert sim.card(0).peak_bytes == 9 * GIB


def test_a_wandering_program_is_gone_in_the_end() -> None:
    steps = wandering(4, most_bytes=8 * GIB, every_s=3, until_s=60)
    times = [at_s for at_s, _ in steps]
    assert times == sorted(times)
    assert steps[-1] == (60.0, 0)
    assert max(size for _, size in steps) > 4 * GIB
    assert steps == wandering(4, most_bytes=8 * GIB, every_s=3, until_s=60)


async def test_a_card_is_lost_to_its_reader_and_found_again() -> None:
    async with world() as (sim, session):
        card = SimulatedCard(sim)
        sim.card(0).lose()
        with pytest.raises(CardError):
            card.read()
        assert (await generate(session, SMALL))[0] == 200
        sim.card(0).find()
        assert card.read().used_bytes == sim.card(0).used_bytes > 0


def test_a_card_that_is_overtaken_says_by_how_much() -> None:
    card = Card(10 * GIB)
    card.hold("runner", 8 * GIB)
    card.set_foreign(3 * GIB)
    assert (card.used_bytes, card.free_bytes, card.missing_bytes) == (10 * GIB, 0, GIB)
    card.release("runner")
    assert card.missing_bytes == 0


# ------------------------------------------------------------------------------ out of memory


async def test_memory_taken_in_the_middle_of_a_load_fails_it() -> None:
    async with world() as (sim, session):
        sim.faults.in_load(CHAT, lambda: sim.card(0).set_foreign(20 * GIB))
        status, text = await generate(session, CHAT)
        assert status == 500
        assert "cudaMalloc failed: out of memory" in json.loads(text)["error"]
        assert (sim.counters.loads, sim.counters.failed_loads) == (0, 1)


async def test_memory_taken_before_a_load_slides_it_onto_the_cpu() -> None:
    async with world() as (sim, session):
        sim.faults.before_load(CHAT, lambda: sim.card(0).set_foreign(20 * GIB))
        assert (await generate(session, CHAT))[0] == 200
        entry = await shown(session, CHAT)
        assert 0 < entry["size_vram"] < entry["size"]
        assert (sim.counters.offloaded_loads, sim.counters.served_offloaded) == (1, 1)


async def test_a_load_that_fails_for_memory_costs_others_nothing() -> None:
    async with world(recovery_s=60.0) as (sim, session):
        await load(session, "qwen2.5:7b")
        sim.faults.in_load(CHAT, lambda: sim.card(0).take_foreign(sim.card(0).free_bytes))
        failing = asyncio.create_task(load(session, CHAT, options={"num_ctx": 8192}))
        while not sim.counters.failed_loads:
            assert sim.card(0).missing_bytes == 0
            await sim.clock.sleep(0.1)
        assert sim.card(0).missing_bytes == 0
        assert await failing == 200


async def test_a_failed_load_evicts_all_others_and_is_tried_once_more() -> None:
    async with world() as (sim, session):
        await load(session, "qwen2.5:7b")
        sim.faults.in_load(CHAT, lambda: sim.card(0).set_foreign(15 * GIB))
        assert (await generate(session, CHAT))[0] == 200
        assert sim.loaded() == [CHAT]
        assert (sim.counters.failed_loads, sim.counters.unloads) == (1, 1)


async def test_an_automatic_context_goes_down_a_tier_when_memory_runs_out() -> None:
    async with world(context_length=0) as (sim, session):
        sim.faults.in_load(CHAT, lambda: sim.card(0).set_foreign(17 * GIB))
        assert (await generate(session, CHAT))[0] == 200
        assert (await shown(session, CHAT))["context_length"] == 4096


async def test_an_encoder_without_room_goes_to_the_cpu_before_anybody_is_told() -> None:
    async with world() as (sim, session):
        sim.faults.in_load("llava:7b", lambda: sim.card(0).set_foreign(int(18.4 * GIB)))
        assert (await generate(session, "llava:7b"))[0] == 200
        assert sim.counters.failed_loads == 0


async def test_memory_taken_under_an_answer_breaks_it_off_and_lets_every_model_go() -> None:
    async with world(speed=10.0, load_bandwidth=1e12) as (sim, session):
        await load(session, SMALL)
        body = {"model": CHAT, "prompt": "hi", "options": {"num_predict": 4000}}
        async with session.post("/api/generate", json=body) as response:
            await response.content.readline()
            sim.card(0).set_foreign(24 * GIB)
            text = await response.text()
        last = json.loads(text.splitlines()[-1])["error"]
        assert last == (
            "an error was encountered while running the model: CUDA error: out of memory"
        )
        while sim.loaded():
            await sim.changed()


async def test_memory_that_is_gone_before_the_first_word_is_an_error_with_a_status() -> None:
    async with world() as (sim, session):
        await load(session, CHAT)
        sim.card(0).set_foreign(24 * GIB)
        status, text = await generate(session, CHAT)
        assert status == 500
        assert json.loads(text)["error"].startswith("model runner has unexpectedly stopped")
        assert json.loads(text)["error"].endswith(": CUDA error: out of memory")
        sim.card(0).set_foreign(0)
        assert (await generate(session, CHAT))[0] == 200


async def test_memory_that_is_gone_under_an_embedding_ollama_does_not_recognise() -> None:
    async with world() as (sim, session):
        await load(session, SMALL)
        sim.faults.kill_runner_in_prompt("nomic-embed-text", "CUDA error: out of memory")
        body = {"model": "nomic-embed-text", "input": "hi"}
        async with session.post("/api/embed", json=body) as response:
            assert response.status == 400
            assert (await response.json())["error"].startswith("do embedding request: Post ")
        assert sim.loaded() == [SMALL, "nomic-embed-text:latest"]


async def test_a_process_that_ends_under_a_prompt_in_silence_is_told_of_without_a_cause() -> None:
    async with world() as (sim, session):
        sim.faults.kill_runner_in_prompt(CHAT)
        status, text = await generate(session, CHAT)
        assert status == 500
        assert json.loads(text)["error"].endswith("check ollama server logs for details")


async def test_who_runs_on_the_cpu_does_not_mind() -> None:
    async with world() as (sim, session):
        sim.card(0).set_foreign(24 * GIB)
        assert (await generate(session, SMALL, options={"num_gpu": 0}))[0] == 200


async def test_an_ollama_that_is_restarted_has_nothing_loaded() -> None:
    async with world() as (sim, session):
        await load(session, CHAT)
        url = sim.url
        await sim.restart()
        assert (sim.url, sim.loaded(), sim.card(0).used_bytes) == (url, [], 0)
        assert (await generate(session, CHAT))[0] == 200


async def test_what_is_dropped_as_soon_as_it_is_loaded_goes_when_its_request_ends() -> None:
    async with world() as (sim, session):
        sim.faults.after_load(CHAT, sim.drop_all)
        assert (await generate(session, CHAT))[0] == 200
        while sim.loaded():
            await sim.changed()
        assert (sim.counters.loads, sim.counters.unloads) == (1, 1)


async def test_the_world_tells_how_many_answers_stand_still() -> None:
    async with world(num_parallel=2) as (sim, session):
        sim.faults.hang(CHAT)
        asked = [asyncio.create_task(generate(session, CHAT)) for _ in range(3)]
        while sim.running() < 2:
            await sim.changed()
        sim.faults.unhang(CHAT)
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 3
        assert sim.running() == 0
