"""Models that come, go and change their meaning, through the gate before a simulated Ollama."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite

SMALL, OTHER = "llama3.2:1b", "qwen2.5:0.5b"

Http = aiohttp.ClientSession


async def said(http: Http, site: Site, path: str, body: Any, method: str = "POST") -> int:
    async with http.request(method, site.url + path, json=body) as response:
        await response.read()
        return response.status


async def models(http: Http, site: Site) -> Mapping[str, Any]:
    """The models of `/gate/status` by name, once nothing more is asked in the background."""
    [post] = site._posts
    async with http.get(f"{site.url}/gate/status") as response:
        await response.read()
    asking = post.member.registry._known._rounds._task
    if asking is not None:
        await asyncio.wait_for(asyncio.shield(asking), 10)
    async with http.get(f"{site.url}/gate/status") as response:
        return {model["model"]: model for model in (await response.json())["models"]}


async def generated(http: Http, site: Site, name: str) -> int:
    return await said(http, site, "/api/generate", {"model": name, "prompt": "a"})


async def test_models_are_known_as_they_come_and_go(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(models=(SMALL, OTHER))
    site = await make_site(ollama)
    assert await generated(http, site, SMALL) == 200
    before = await models(http, site)
    assert sorted(before) == sorted([SMALL, OTHER])
    assert all(model["footprint_bytes"] for model in before.values())
    assert [name for name, model in before.items() if model["resident"]] == [SMALL]

    copy = {"source": SMALL, "destination": "copy"}
    assert await said(http, site, "/api/copy", copy) == 200
    copied = (await models(http, site))["copy:latest"]
    assert copied["key"] == before[SMALL]["key"]
    assert copied["resident"], "a copy shares the runner"

    created = {"model": "mine", "from": SMALL, "parameters": {"num_ctx": 2048}, "stream": False}
    assert await said(http, site, "/api/create", created) == 200
    mine = (await models(http, site))["mine:latest"]
    assert (mine["num_ctx"], mine["key"]) == (2048, before[SMALL]["key"])
    assert mine["digest"] != before[SMALL]["digest"]

    assert await said(http, site, "/api/delete", {"model": "copy"}, "DELETE") == 200
    assert sorted(await models(http, site)) == sorted([SMALL, OTHER, "mine:latest"])
    assert await generated(http, site, "copy") == 404

    pulled = {"model": "all-minilm", "stream": False}
    assert await said(http, site, "/api/pull", pulled) == 200
    assert (await models(http, site))["all-minilm:latest"]["capabilities"] == ["embedding"]


async def test_a_name_copied_over_another_is_served_by_what_it_means_now(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(models=(SMALL, OTHER))
    site = await make_site(ollama)
    assert await generated(http, site, SMALL) == 200
    copy = {"source": OTHER, "destination": SMALL}
    assert await said(http, site, "/api/copy", copy) == 200
    assert await generated(http, site, SMALL) == 200
    shown = await models(http, site)
    assert shown[SMALL]["key"] == shown[OTHER]["key"]
    async with http.get(f"{ollama.url}/api/ps") as response:
        loaded = (await response.json())["models"]
    assert [model["digest"] for model in loaded] == [shown[OTHER]["digest"]]


async def test_what_changed_behind_the_gate_is_seen_before_it_is_loaded(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(models=(SMALL, OTHER))
    site = await make_site(ollama)
    await models(http, site)
    async with http.post(
        f"{ollama.url}/api/copy", json={"source": OTHER, "destination": SMALL}
    ) as response:
        assert response.status == 200
    assert await generated(http, site, SMALL) == 503, "room was made for another model"
    assert await generated(http, site, SMALL) == 200
    shown = await models(http, site)
    assert [name for name, model in shown.items() if model["resident"]] == sorted([SMALL, OTHER])


async def test_a_pull_that_fails_changes_nothing(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(models=(SMALL,), online=False)
    site = await make_site(ollama)
    before = await models(http, site)
    assert await said(http, site, "/api/pull", {"model": SMALL, "stream": False}) >= 400
    assert await models(http, site) == before


async def test_the_status_waits_for_no_upstream(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(models=(SMALL,))
    site = await make_site(ollama)
    before = await models(http, site)
    await ollama.go_down()
    async with asyncio.timeout(5), http.get(f"{site.url}/gate/status") as response:
        shown = (await response.json())["models"]
    assert {model["model"]: model for model in shown} == before
