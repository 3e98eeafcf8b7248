"""Contexts over real sockets: nobody's `num_ctx` makes Ollama reload behind the gate's back."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_gate import wire
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import until

SMALL, EMBEDDER = "llama3.2:1b", "nomic-embed-text"
TALK = [{"role": "user", "content": "Hello"}]

Http = aiohttp.ClientSession


def native(path: str, num_ctx: int | None, **options: Any) -> dict[str, Any]:
    model = EMBEDDER if "embed" in path else SMALL
    fields: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": "Hello", "stream": False},
        "/api/chat": {"messages": TALK, "stream": False},
        "/api/embed": {"input": "Hello"},
        "/api/embeddings": {"prompt": "Hello"},
    }
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    if "embed" not in path:
        options["num_predict"] = 1
    return {"model": model, **fields[path], "options": options}


async def asks(http: Http, site: Site, path: str, num_ctx: int | None = None, **more: Any) -> None:
    if path.startswith("/v1"):
        body = {"model": SMALL, "messages": TALK, "max_tokens": 1}
    else:
        body = native(path, num_ctx, **more)
    async with http.post(site.url + path, json=body) as response:
        assert response.status == 200, await response.text()
        await response.read()


def ordered(site: Site) -> int:
    """How many loads the gate has ordered."""
    assert site.gate is not None
    return sum(decision.what == "load" for decision in site.gate.decisions)


def contexts(site: Site) -> list[int | None]:
    assert site.gate is not None
    return [runner.num_ctx for runner in site.gate.snapshot().runners]


NATIVE = ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"]


@pytest.mark.parametrize("path", NATIVE)
async def test_on_every_native_route_less_context_is_served_with_what_is_there(
    http: Http, site: Site, ollama: SimulatedOllama, path: str
) -> None:
    for num_ctx in (8192, 2048, 4096, 8192, 7):
        await asks(http, site, path, num_ctx)
    trained = 2048
    assert contexts(site) == [trained if "embed" in path else 8192]
    assert ollama.counters.loads == 1


async def test_a_context_that_is_resident_already_is_sent_as_the_client_spelled_it(
    http: Http, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[bytes] = []

    def with_context(body: bytes, place: wire.Place, num_ctx: int) -> bytes:
        replaced.append(body[place.start : place.end] + b" by %d" % num_ctx)
        return body

    monkeypatch.setattr(wire, "with_context", with_context)
    for spelled in ("8192", "8192.0", "8.192e3", "2e3"):
        body = f'{{"model":"{SMALL}","prompt":"a","options":{{"num_ctx":{spelled}}}}}'
        async with http.post(f"{site.url}/api/generate", data=body) as response:
            await response.read()
    assert replaced == [b"2e3 by 8192"]


async def test_who_needs_no_more_than_ollama_gives_shares_with_those_who_name_none(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    await asks(http, site, "/api/generate", 2048)
    await asks(http, site, "/v1/chat/completions")
    await asks(http, site, "/api/chat")
    await asks(http, site, "/api/chat", 4096)
    assert (ollama.counters.loads, contexts(site)) == (1, [4096])


async def test_a_mix_of_contexts_reloads_nothing_but_what_the_gate_swaps(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    rng = random.Random(4)
    ways = [(path, num_ctx) for path in NATIVE for num_ctx in (None, 2048, 4096, 8192)]
    ways += [("/v1/chat/completions", None)] * 4
    # One model for talk, one for embeddings; they fit beside each other.
    chosen = [rng.choice(ways) for _ in range(60)]
    await asyncio.gather(*(asks(http, site, path, num_ctx) for path, num_ctx in chosen))
    assert ollama.counters.loads == ordered(site)
    assert ollama.counters.loads <= 5


async def test_where_it_is_to_be_respected_everybody_gets_what_it_names(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    simulated = await make_ollama()
    site = await make_site(simulated, num_ctx="respect")
    for number, num_ctx in enumerate([8192, 2048, 4096], 1):
        await asks(http, site, "/api/chat", num_ctx)
        assert (simulated.counters.loads, contexts(site)) == (number, [num_ctx])
    # As much as Ollama gives by itself, so that it does for these, too.
    await asks(http, site, "/v1/chat/completions")
    assert simulated.counters.loads == ordered(site) == 3


async def test_the_batch_of_an_embedding_model_stays_with_a_context_in_another_place(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    for num_ctx in (256, None, 1024, 8192, 2048):
        await asks(http, site, "/api/embed", num_ctx)
    assert ollama.counters.loads == ordered(site) == 1


async def test_what_is_named_as_null_is_named(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    for number, options in enumerate([{}, {"num_batch": None}, {"draft_num_predict": None}, {}], 1):
        await asks(http, site, "/api/chat", **options)
        assert ollama.counters.loads == ordered(site) == number
    await asks(http, site, "/api/generate", use_mmap=None, num_gpu=None, main_gpu=None)
    assert ollama.counters.loads == ordered(site) == number


async def test_a_body_that_comes_in_chunks_is_sent_whole_with_the_other_number(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    await asks(http, site, "/api/generate", 131_072)
    body = json.dumps(native("/api/generate", 9)).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    async with http.post(f"{site.url}/api/generate", data=pieces()) as response:
        assert response.status == 200
        assert json.loads(await response.read())["done"] is True
    assert ollama.counters.loads == 1


async def test_a_request_sent_once_more_names_the_context_of_its_new_runner(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    await asks(http, site, "/api/generate", 8192)
    ollama.faults.hang(SMALL)
    asked = asyncio.create_task(asks(http, site, "/api/generate", 2048))
    await until(site, lambda view: view.running)
    await ollama.go_down()
    await until(site, lambda view: view.waiting)
    ollama.faults.unhang(SMALL)
    await ollama.come_back()
    await asked
    # By itself it needs no more than Ollama gives.
    assert contexts(site) == [4096]
    assert ollama.counters.loads == ordered(site)


async def test_who_wants_the_cpu_leaves_the_model_there_for_nobody_else(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    await asks(http, site, "/api/generate", num_gpu=0)
    assert [line["size_vram"] for line in await listed(http, ollama)] == [0]
    await asks(http, site, "/v1/chat/completions")
    (line,) = await listed(http, ollama)
    assert line["size_vram"] == line["size"]
    await asks(http, site, "/api/chat")
    assert ollama.counters.loads == ordered(site) == 2


async def listed(http: Http, ollama: SimulatedOllama) -> list[dict[str, Any]]:
    async with http.get(f"{ollama.url}/api/ps") as response:
        models: list[dict[str, Any]] = (await response.json())["models"]
        return models
