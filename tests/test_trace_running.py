"""A gate that records, over real sockets: what its trace says of what happened."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from ollama_gate.cli import main
from ollama_gate.config import QueueConfig
from ollama_gate.scheduler.types import Snapshot
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from ollama_gate.trace import Life, lines, read
from tests.conftest import MakeSite

BIG, OTHER_BIG = "qwen2.5:32b", "gemma3:27b"
Http = aiohttp.ClientSession


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


async def ask(http: Http, site: Site, model: str, **headers: str) -> int:
    body = {"model": model, "prompt": "A secret", "options": {"num_predict": 2}}
    async with http.post(f"{site.url}/api/generate", json=body, headers=headers) as response:
        await response.read()
        return response.status


async def until(site: Site, holds: Callable[[Snapshot], object]) -> None:
    assert site.gate is not None
    async with asyncio.timeout(10):
        while not holds(site.gate.snapshot()):
            await site.gate.changed()


def text_of(path: Path) -> str:
    return path.read_text()


async def recorded(site: Site, path: Path) -> Life:
    await site.close(grace_s=0.0)
    (life,) = read(path).lives
    return life


def by_model(life: Life) -> dict[str, lines.Asked]:
    return {life.kinds[line.kind].name: line for line in life.requests.values()}


async def test_requests_and_loads_are_recorded_and_nothing_that_was_said(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama, trace=path)

    assert await ask(http, site, BIG, **{"X-Client-Id": "anne", "X-Priority": "high"}) == 200
    assert await ask(http, site, OTHER_BIG, **{"X-Client-Id": "anne"}) == 200
    life = await recorded(site, path)

    first, second = (by_model(life)[name] for name in (BIG, OTHER_BIG))
    assert (first.outcome, second.outcome) == ("served", "served")
    assert (first.priority, second.priority) == ("high", "normal")
    assert first.at < second.at
    assert first.waited_s > 0
    assert first.client == second.client
    assert [load.ok for load in life.loads] == [True, True]
    assert len(life.unloads) == 1
    assert first.waited_s >= life.loads[0].took_s
    assert life.began.policy["kappa"] == 6.0
    assert not any(word in text_of(path) for word in ("secret", "anne"))


async def test_the_card_is_recorded_with_what_others_use(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama, trace=path)
    await ask(http, site, BIG)

    life = await recorded(site, path)

    assert {card.total_bytes for card in life.cards} == {24 * 2**30}
    assert life.cards[0].foreign_bytes == 0


async def test_who_left_and_who_was_refused_is_told_apart(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama, trace=path, queue=QueueConfig(max_size=1))
    ollama.faults.hang(BIG)
    running = asyncio.create_task(ask(http, site, BIG))
    await until(site, lambda view: view.running)
    leaving = asyncio.create_task(ask(http, site, OTHER_BIG))
    await until(site, lambda view: view.waiting)

    assert await ask(http, site, "llama3.2:1b") == 503
    leaving.cancel()
    await until(site, lambda view: not view.waiting)
    running.cancel()
    await until(site, lambda view: not view.running)
    life = await recorded(site, path)

    outcomes = {name: line.outcome for name, line in by_model(life).items()}
    assert outcomes == {BIG: "cut", OTHER_BIG: "left", "llama3.2:1b": "refused"}
    assert by_model(life)["llama3.2:1b"].reason == "queue_full"


async def test_who_was_withdrawn_is_recorded_as_that(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama, trace=path)
    ollama.faults.hang(BIG)
    running = asyncio.create_task(ask(http, site, BIG))
    await until(site, lambda view: view.running)
    waiting = asyncio.create_task(ask(http, site, OTHER_BIG))
    await until(site, lambda view: view.waiting)
    assert site.gate is not None

    (view,) = site.gate.snapshot().waiting
    assert site.gate.cancel(view.request.id)
    await waiting
    running.cancel()
    life = await recorded(site, path)

    assert by_model(life)[OTHER_BIG].outcome == "withdrawn"


async def test_a_recorded_day_can_be_replayed(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama, trace=path)
    await asyncio.gather(*(ask(http, site, model) for model in (BIG, OTHER_BIG) * 3))
    await recorded(site, path)

    shown = await asyncio.to_thread(
        CliRunner().invoke, main, ["replay", str(path), "--vram", "64GiB", "--json"]
    )

    rows: dict[str, Any] = {row["case"]: row for row in json.loads(shown.output)}
    assert {row["requests"] for row in rows.values()} == {6}
    assert rows["recorded"]["loads"] == 2
    assert rows["gate, as it was"]["loads"] == 2
    assert rows["gate, changed"]["unloads"] == 0


async def test_without_a_file_nothing_is_recorded(
    make_site: MakeSite, ollama: SimulatedOllama, http: Http, path: Path
) -> None:
    site = await make_site(ollama)
    assert await ask(http, site, BIG) == 200
    await site.close(grace_s=0.0)

    assert list(path.parent.iterdir()) == []
