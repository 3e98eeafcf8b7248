"""Over real sockets: models that are there before anybody asks."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from msgspec import structs

from ollama_gate.config import ModelConfig, UpstreamConfig
from ollama_gate.scheduler.types import RunnerState, Snapshot
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, gate_config
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite

BIG = "qwen2.5:32b"
SMALL = "llama3.2:1b"
EMBEDDER = "nomic-embed-text"
IN_THE_CLOUD = "gpt-oss:120b-cloud"

WANTED = ModelConfig(preload=True)


async def until(site: Site, holds: Callable[[Snapshot], object]) -> None:
    """Await a state of the gate; ten seconds without it are a failure."""
    assert site.gate is not None
    async with asyncio.timeout(10):
        while not holds(site.gate.snapshot()):
            await site.gate.changed()


def resident(view: Snapshot) -> set[str]:
    return {each.name for each in view.runners if each.state is RunnerState.RESIDENT}


async def test_what_is_to_be_preloaded_is_loaded_though_nobody_asks(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    models = {SMALL: WANTED, BIG: ModelConfig(), EMBEDDER: WANTED}
    site = await make_site(ollama, models=models)
    await until(site, lambda view: resident(view) == {SMALL, EMBEDDER})
    view = site.gate.snapshot() if site.gate else None
    assert view is not None
    assert not view.waiting
    assert all(not runner.running for runner in view.runners)


async def test_one_is_preloaded_after_the_other(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={EMBEDDER: WANTED, SMALL: WANTED})
    await until(site, lambda view: resident(view) == {SMALL, EMBEDDER})
    assert site.gate is not None
    assert [each.fields["model"] for each in site.gate.decisions] == [EMBEDDER, SMALL]


async def test_after_an_outage_it_is_loaded_again(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={SMALL: WANTED})
    await until(site, lambda view: resident(view) == {SMALL})
    await ollama.restart()
    assert site.gate is not None
    site.gate.lost(site.config.upstream.name)
    await until(site, lambda view: not resident(view))
    await until(site, lambda view: resident(view) == {SMALL})
    assert ollama.loaded() == [SMALL]


async def test_a_model_that_is_there_already_is_left_as_it_is(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    first = await make_site(ollama, models={SMALL: WANTED})
    await until(first, lambda view: resident(view) == {SMALL})
    second = await make_site(ollama, models={SMALL: WANTED, EMBEDDER: WANTED})
    await until(second, lambda view: resident(view) == {SMALL, EMBEDDER})
    assert second.gate is not None
    assert [each.fields["model"] for each in second.gate.decisions] == [EMBEDDER]


async def test_how_long_an_answer_takes_is_not_learned_from_a_preload(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={SMALL: WANTED})
    await until(site, lambda view: resident(view) == {SMALL})
    assert site.fleet is not None
    (member,) = site.fleet.members
    (small,) = [each for each in await member.registry.known() if each.name == SMALL]
    assert small.times.load_s is not None
    assert small.times.service_s is None


async def test_what_no_upstream_has_is_warned_about_once(
    make_site: MakeSite, ollama: SimulatedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    models = {"nobody:7b": WANTED, IN_THE_CLOUD: WANTED, SMALL: WANTED}
    site = await make_site(ollama, models=models)
    await until(site, lambda view: resident(view) == {SMALL})
    await ollama.restart()
    assert site.gate is not None
    site.gate.lost(site.config.upstream.name)
    await until(site, lambda view: not resident(view))
    await until(site, lambda view: resident(view) == {SMALL})
    assert said(caplog) == [
        ("nobody:7b", "no upstream has it"),
        (IN_THE_CLOUD, "it runs elsewhere"),
    ]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Which models were not preloaded, and why."""
    return [
        (record.__dict__["fields"]["model"], record.__dict__["fields"]["reason"])
        for record in caplog.records
        if record.getMessage().startswith("not preloaded")
    ]


async def test_a_load_that_fails_does_not_keep_the_others_from_theirs(
    make_site: MakeSite, ollama: SimulatedOllama, caplog: pytest.LogCaptureFixture
) -> None:
    ollama.faults.fail_load(BIG, "it is broken", times=9)
    site = await make_site(ollama, models={BIG: WANTED, SMALL: WANTED})
    await until(site, lambda view: resident(view) == {SMALL})
    ((model, _),) = said(caplog)
    assert model == BIG


async def test_each_upstream_is_given_what_it_has(make_ollama: MakeOllama) -> None:
    first, second = await make_ollama(models=(EMBEDDER,)), await make_ollama(models=(SMALL,))
    config = structs.replace(
        gate_config(first.url, first.settings),
        upstreams=tuple(
            UpstreamConfig(name=name, url=each.url, context_length=4096)
            for name, each in (("one", first), ("two", second))
        ),
        models={SMALL: WANTED, EMBEDDER: WANTED},
    )
    cards = (SimulatedCard(first), SimulatedCard(second))
    async with Site(config, card=cards, busy_poll_s=0.01, temporary=True) as site:
        await until(site, lambda view: resident(view) == {SMALL, EMBEDDER})
        assert (first.loaded(), second.loaded()) == ([f"{EMBEDDER}:latest"], [SMALL])


async def test_a_gate_may_close_in_the_middle_of_a_preload(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={BIG: WANTED})
    await until(site, lambda view: view.runners)
    await site.close(grace_s=0.0)
    assert site.gate is not None
    assert not site.gate.snapshot().waiting
