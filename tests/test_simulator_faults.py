"""What goes wrong in the simulated Ollama when it is told to, and how clients see it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_gate.simulator import Settings, SimulatedOllama

ASK: dict[str, Any] = {"model": "llama3.1:8b", "prompt": "hi", "options": {"num_predict": 40}}
TALK: dict[str, Any] = {"model": "llama3.1:8b", "messages": [{"role": "user", "content": "hi"}]}
BROKEN = "an error was encountered while running the model: unexpected EOF"


@contextlib.asynccontextmanager
async def world(**more: Any) -> AsyncIterator[tuple[SimulatedOllama, aiohttp.ClientSession]]:
    settings = Settings(context_length=4096, speed=500.0, **more)
    async with (
        SimulatedOllama(settings) as sim,
        aiohttp.ClientSession(sim.url) as session,
        asyncio.timeout(20),
    ):
        yield sim, session


async def post(
    session: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> tuple[int, str, str]:
    async with session.post(path, json=body) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_a_load_fails_as_often_as_told_with_the_words_told() -> None:
    async with world() as (sim, session):
        sim.faults.fail_load("llama3.1:8b", "no luck", times=2)
        for _ in range(2):
            assert (await post(session, "/api/generate", ASK))[::2] == (500, '{"error":"no luck"}')
        assert (await post(session, "/api/generate", ASK))[0] == 200
        assert (sim.counters.loads, sim.counters.failed_loads) == (1, 2)
        assert sim.card(0).used_bytes > 0


async def test_a_failed_load_is_an_api_error_to_an_openai_client() -> None:
    async with world() as (sim, session):
        sim.faults.fail_load("llama3.1:8b", "no luck")
        status, content_type, text = await post(session, "/v1/chat/completions", TALK)
        assert (status, content_type) == (500, "application/json")
        assert json.loads(text)["error"] == {
            "message": "no luck",
            "type": "api_error",
            "param": None,
            "code": None,
        }


async def test_a_runner_that_dies_in_mid_stream_ends_it_with_an_error_line() -> None:
    async with world() as (sim, session):
        sim.faults.kill_runner_after("llama3.1:8b", 3)
        status, _, text = await post(session, "/api/generate", ASK)
        lines = text.splitlines()
        assert (status, len(lines)) == (200, 4)
        assert json.loads(lines[-1]) == {"error": BROKEN}


async def test_to_an_openai_client_the_error_and_the_end_are_lost() -> None:
    async with world() as (sim, session):
        sim.faults.kill_runner_after("llama3.1:8b", 2)
        status, _, text = await post(session, "/v1/chat/completions", TALK | {"stream": True})
        events = [event for event in text.split("\n\n") if event]
        assert (status, len(events)) == (200, 3)
        last = json.loads(events[-1].removeprefix("data: "))
        assert (last["model"], last["choices"][0]["delta"]) == ("", {"content": ""})


async def test_a_runner_that_dies_before_its_first_word_has_a_status() -> None:
    async with world() as (sim, session):
        for stream, content_type in (
            (True, "application/json"),
            (False, "application/json; charset=utf-8"),
        ):
            sim.faults.kill_runner_after("llama3.1:8b", 0)
            answer = await post(session, "/api/generate", ASK | {"stream": stream})
            assert answer == (
                500,
                content_type,
                json.dumps({"error": BROKEN}, separators=(",", ":")),
            )


async def test_a_dead_runner_stays_listed_until_it_is_touched() -> None:
    async with world() as (sim, session):
        await post(session, "/api/generate", ASK)
        sim.faults.kill_runner("llama3.1:8b")
        assert sim.loaded() == ["llama3.1:8b"]
        assert sim.card(0).used_bytes == 0
        async with session.get("/api/ps") as response:
            assert (await response.json())["models"][0]["size_vram"] > 5e9
        assert (await post(session, "/api/generate", ASK))[0] == 200
        assert sim.counters.loads == 2


async def test_who_waited_for_a_slot_of_a_runner_that_died_is_told_so() -> None:
    async with world() as (sim, session):
        sim.faults.hang("llama3.1:8b")
        first = asyncio.create_task(post(session, "/api/generate", ASK | {"stream": False}))
        while not sim.loaded():
            await sim.changed()
        second = asyncio.create_task(post(session, "/api/generate", ASK | {"stream": False}))
        await sim.clock.sleep(25)
        sim.faults.kill_runner("llama3.1:8b")
        assert json.loads((await first)[2]) == {"error": BROKEN}
        text = "llama-server process no longer running: unknown "
        assert json.loads((await second)[2]) == {"error": text}


async def test_memory_that_runs_out_in_an_answer_lets_every_model_go() -> None:
    async with world() as (sim, session):
        await post(session, "/api/generate", {"model": "smollm:360m"})
        sim.faults.kill_runner_after("llama3.1:8b", 1, "CUDA error: out of memory")
        _, _, text = await post(session, "/api/generate", ASK)
        assert "CUDA error: out of memory" in text
        while sim.loaded():
            await sim.changed()


async def test_a_hung_model_stands_still_until_it_is_let_go() -> None:
    async with world() as (sim, session):
        sim.faults.hang("llama3.1:8b")
        waiting = asyncio.create_task(post(session, "/api/generate", ASK))
        assert (await post(session, "/api/generate", ASK | {"model": "gemma:2b"}))[0] == 200
        await sim.clock.sleep(60)
        assert not waiting.done()
        sim.faults.unhang("llama3.1:8b")
        assert (await waiting)[0] == 200


async def test_a_client_that_leaves_frees_the_slot_at_once() -> None:
    async with world() as (sim, session):
        sim.faults.hang("llama3.1:8b")
        leaver = asyncio.create_task(post(session, "/api/generate", ASK))
        while not sim.loaded():
            await sim.changed()
        await sim.clock.sleep(25)
        leaver.cancel()
        await asyncio.wait([leaver])
        sim.faults.unhang("llama3.1:8b")
        assert (await post(session, "/api/generate", ASK))[0] == 200
        assert sim.counters.served == 1


async def test_a_server_that_is_down_refuses_and_comes_back_empty_on_the_same_port() -> None:
    async with world() as (sim, session):
        sim.faults.hang("llama3.1:8b")
        cut = asyncio.create_task(post(session, "/api/generate", ASK))
        while not sim.loaded():
            await sim.changed()
        url = sim.url
        await sim.go_down()
        with pytest.raises(aiohttp.ClientError):
            await cut
        with pytest.raises(aiohttp.ClientConnectionError):
            await post(session, "/api/generate", ASK)
        assert (sim.loaded(), sim.card(0).used_bytes) == ([], 0)
        sim.faults.unhang("llama3.1:8b")
        await sim.come_back()
        assert sim.url == url
        assert (await post(session, "/api/generate", ASK))[0] == 200


async def test_another_program_takes_memory_and_gives_it_back() -> None:
    async with world() as (sim, _):
        sim.card(0).take_foreign(5 * 2**30)
        assert sim.card(0).reading() == (24 * 2**30, 5 * 2**30)
        sim.card(0).give_back()
        assert sim.card(0).reading() == (24 * 2**30, 0)
        assert sim.counters.peak_bytes == 5 * 2**30
