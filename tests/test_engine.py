"""Loads and unloads on a simulated Ollama, and how each is said to have ended."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any

import pytest

from ollama_gate import engine as rooms
from ollama_gate.config import Config, UpstreamConfig
from ollama_gate.engine import Engine
from ollama_gate.errors import UpstreamGoneError, UpstreamRefusedError
from ollama_gate.ledger import Loads, Unloads
from ollama_gate.ollama import Ollama
from ollama_gate.registry import Registry
from ollama_gate.scheduler.commands import Expired, Load, Unload
from ollama_gate.scheduler.events import Interrupted, Loaded, LoadFailed
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey, RequestId
from ollama_gate.simulator import Model, SimulatedOllama
from ollama_gate.simulator.refs import parse_name
from tests.conftest import MakeOllama, opened

SMALL, EMBEDDER = "llama3.2:1b", "nomic-embed-text"
HERE = BinId("local/0")
LIMIT_S = 5.0


class Upstream(Ollama):
    """Counts how often a model was asked to go, and may be too busy to hear it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked_to_go = 0
        self.deaf_for = 0
        self.asked = asyncio.Condition()

    async def unload(self, name: str) -> None:
        async with self.asked:
            self.asked_to_go += 1
            self.asked.notify_all()
        if self.asked_to_go > self.deaf_for:
            await super().unload(name)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(LIMIT_S), self.asked:
            await self.asked.wait_for(lambda: self.asked_to_go >= times)


@pytest.fixture
async def upstream(ollama: SimulatedOllama) -> AsyncIterator[Upstream]:
    async with opened(Upstream(ollama.url)) as upstream:
        yield upstream


def registry_of(upstream: Ollama) -> Registry:
    config = Config(upstreams=(UpstreamConfig(url=upstream.url, context_length=4096),))
    return Registry(
        ollama=upstream,
        config=config,
        upstream=config.upstream,
        bins=(Bin(id=HERE, upstream="local"),),
    )


@pytest.fixture
def registry(upstream: Upstream) -> Registry:
    return registry_of(upstream)


@pytest.fixture
def engine(upstream: Upstream, registry: Registry) -> Engine:
    return Engine(upstream, registry, keep_alive_s=90.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "ASK_AGAIN_S", 0.05)


async def key_of(registry: Registry, name: str) -> ModelKey:
    facts = await registry.facts(name)
    assert facts is not None
    return facts.key


async def load(
    engine: Engine, registry: Registry, name: str = SMALL, num_ctx: int | None = None
) -> Loaded | LoadFailed | Interrupted:
    command = load_of(await key_of(registry, name), name, num_ctx)
    async with asyncio.timeout(LIMIT_S):
        return await engine.load(command)


def load_of(model: ModelKey, name: str, num_ctx: int | None = None) -> Load:
    return Load(
        bin=HERE,
        model=model,
        name=name,
        launch=Launch(num_ctx=num_ctx),
        footprint_bytes=1,
        free_bytes=None,
        alone=True,
        for_request=RequestId("r"),
        waited_s=0.0,
    )


async def unload(engine: Engine, registry: Registry, name: str = SMALL) -> bool:
    reason = Expired(idle_s=1.0, keep_alive_s=1.0)
    model = await key_of(registry, name)
    async with asyncio.timeout(LIMIT_S):
        return await engine.unload(Unload(bin=HERE, model=model, name=name, reason=reason))


# ------------------------------------------------------------------------------- loads


async def test_a_name_that_means_another_model_by_now_is_not_loaded(
    engine: Engine, registry: Registry, upstream: Upstream
) -> None:
    command = load_of(await key_of(registry, EMBEDDER), SMALL)
    async with asyncio.timeout(LIMIT_S):
        outcome = await engine.load(command)
    assert isinstance(outcome, LoadFailed)
    assert (outcome.status, "another model" in outcome.text) == (503, True)
    assert await upstream.residents() == []


async def test_a_chat_model_is_loaded_for_ever_with_its_options(
    engine: Engine, registry: Registry, upstream: Upstream, ollama: SimulatedOllama
) -> None:
    ended = await load(engine, registry, num_ctx=8192)
    (seen,) = await engine.residents()
    assert ended == Loaded(
        footprint_bytes=seen.footprint_bytes,
        reported_bytes=seen.reported_bytes,
        size_bytes=seen.size_bytes,
        num_ctx=8192,
    )
    assert ollama.loaded() == [SMALL]
    (line,) = await upstream.residents()
    assert line["expires_at"] > "2100"


async def test_an_embedding_model_is_loaded_as_well(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    assert isinstance(await load(engine, registry, EMBEDDER), Loaded)
    assert ollama.loaded() == [f"{EMBEDDER}:latest"]


async def test_the_other_models_that_are_resident_are_not_taken_for_it(
    engine: Engine, registry: Registry
) -> None:
    small = await load(engine, registry, SMALL)
    large = await load(engine, registry, "llama3.1:8b")
    assert isinstance(small, Loaded)
    assert isinstance(large, Loaded)
    assert small.reported_bytes is not None
    assert large.reported_bytes is not None
    assert large.reported_bytes > 2 * small.reported_bytes


async def test_a_failed_load_is_told_in_ollamas_words(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    text = "llama-server process has terminated: exit status 1: bad magic"
    ollama.faults.fail_load(SMALL, text)
    assert await load(engine, registry) == LoadFailed(status=500, text=text)


async def test_a_model_that_was_deleted_meanwhile_fails_to_load(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    await key_of(registry, SMALL)
    delete(ollama)
    ended = await load(engine, registry)
    assert ended == LoadFailed(status=404, text=f"model '{SMALL}' not found")


class Forgetful(Ollama):
    """Says that a load went well, and nothing is there."""

    async def load(self, name: str, launch: Launch, *, embedding: bool, keep_alive: str) -> None:
        pass


async def test_a_load_of_which_nothing_is_seen_has_failed(ollama: SimulatedOllama) -> None:
    async with opened(Forgetful(ollama.url)) as forgetful:
        registry = registry_of(forgetful)
        ended = await load(Engine(forgetful, registry, keep_alive_s=1.0), registry)
    text = f"{SMALL} was loaded, but is not listed by /api/ps"
    assert ended == LoadFailed(status=500, text=text)


async def test_a_load_is_interrupted_when_the_upstream_dies_under_it(
    make_ollama: MakeOllama,
) -> None:
    ollama, large = await make_ollama(speed=1.0), "llama3.3:70b"
    async with opened(Ollama(ollama.url)) as upstream:
        registry = registry_of(upstream)
        engine = Engine(upstream, registry, keep_alive_s=1.0)
        loading = asyncio.create_task(load(engine, registry, large))
        async with asyncio.timeout(LIMIT_S):
            while ollama.loading() is None:
                await upstream.residents()
        await ollama.go_down()
        assert await loading == Interrupted()
        assert await load(engine, registry, large) == Interrupted()


# ------------------------------------------------------------------------------- unloads


async def test_an_unload_ends_when_the_model_is_listed_no_more(
    engine: Engine, registry: Registry, upstream: Upstream
) -> None:
    await load(engine, registry)
    assert await unload(engine, registry) is True
    assert await upstream.residents() == []
    assert upstream.asked_to_go == 1


async def test_an_embedding_model_goes_as_well(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    await load(engine, registry, EMBEDDER)
    assert await unload(engine, registry, EMBEDDER) is True
    assert ollama.loaded() == []


async def test_what_else_is_resident_stays(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    await load(engine, registry, SMALL)
    await load(engine, registry, EMBEDDER)
    assert await unload(engine, registry, SMALL) is True
    assert ollama.loaded() == [f"{EMBEDDER}:latest"]


async def test_what_is_not_there_any_more_is_gone(engine: Engine, registry: Registry) -> None:
    assert await unload(engine, registry) is True


async def test_a_model_that_stays_is_asked_to_go_again(
    engine: Engine, registry: Registry, upstream: Upstream, impatient: None
) -> None:
    await load(engine, registry)
    upstream.deaf_for = 1
    assert await unload(engine, registry) is True
    assert upstream.asked_to_go == 2


async def test_an_unload_is_not_seen_when_the_upstream_goes_instead(
    engine: Engine, registry: Registry, upstream: Upstream, ollama: SimulatedOllama
) -> None:
    await load(engine, registry)
    upstream.deaf_for = 9
    unloading = asyncio.create_task(unload(engine, registry))
    await upstream.until_asked(1)
    await ollama.go_down()
    assert await unloading is False
    upstream.deaf_for = 0
    assert await unload(engine, registry) is False


async def test_a_model_deleted_while_it_is_loaded_is_asked_to_go_until_it_does(
    engine: Engine,
    registry: Registry,
    upstream: Upstream,
    ollama: SimulatedOllama,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await load(engine, registry)
    manifest = delete(ollama)
    unloading = asyncio.create_task(unload(engine, registry))
    await upstream.until_asked(2)
    assert "unload refused" in caplog.text
    assert not unloading.done()
    ollama._catalog._models[manifest.full_name] = manifest
    assert await unloading is True


# ------------------------------------------------------------------------------- the counts


async def test_a_load_without_a_trace_in_the_list_was_one_all_the_same(
    ollama: SimulatedOllama,
) -> None:
    class Forgetful(Ollama):
        async def residents(self) -> list[Mapping[str, Any]]:
            return []

    async with opened(Forgetful(ollama.url)) as forgetful:
        registry = registry_of(forgetful)
        await load(Engine(forgetful, registry, keep_alive_s=1.0), registry)
    assert registry.ledger.total.loads == Loads(ordered=1, failed=1, unlisted=rooms.LOADED)


async def test_a_load_that_the_upstream_did_not_survive_was_interrupted(
    engine: Engine, registry: Registry, ollama: SimulatedOllama
) -> None:
    command = load_of(await key_of(registry, SMALL), SMALL)
    await ollama.go_down()
    async with asyncio.timeout(LIMIT_S):
        assert await engine.load(command) == Interrupted()
    assert registry.ledger.total.loads == Loads(ordered=1, interrupted=1)


async def test_a_load_that_is_given_up_half_way_was_interrupted(
    make_ollama: MakeOllama,
) -> None:
    ollama = await make_ollama(speed=1.0)
    async with opened(Ollama(ollama.url)) as upstream:
        registry = registry_of(upstream)
        loading = asyncio.create_task(load(Engine(upstream, registry, keep_alive_s=1.0), registry))
        async with asyncio.timeout(LIMIT_S):
            while ollama.loading() is None:
                await upstream.residents()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert registry.ledger.total.loads == Loads(ordered=1, interrupted=1)


async def test_an_unload_that_is_answered_and_not_carried_out_is_not_confirmed(
    engine: Engine, registry: Registry, upstream: Upstream, impatient: None
) -> None:
    await load(engine, registry)
    upstream.deaf_for = rooms.ASKED
    assert await unload(engine, registry) is True
    assert registry.ledger.total.unloads == Unloads(ordered=1, unconfirmed=1)
    # It went later, by whoever's wish.
    upstream.deaf_for = 0
    await upstream.unload(SMALL)
    async with asyncio.timeout(LIMIT_S):
        while await upstream.residents():
            pass
    await registry.residents()
    assert registry.ledger.total.unloads == Unloads(ordered=1, unconfirmed=1, unordered=1)


# ------------------------------------------------------------------------------- the rest


async def test_what_expires_again_is_not_loaded_again(
    engine: Engine, registry: Registry, upstream: Upstream, ollama: SimulatedOllama
) -> None:
    for name in (SMALL, EMBEDDER):
        await load(engine, registry, name, num_ctx=1024)
        await engine.let_expire(name, Launch(num_ctx=1024))
    assert ollama.counters.loads == 2
    assert [line["expires_at"] < "2100" for line in await upstream.residents()] == [True, True]


async def test_what_may_idle_for_ever_is_left_as_it_is(
    upstream: Upstream, registry: Registry, ollama: SimulatedOllama
) -> None:
    engine = Engine(upstream, registry, keep_alive_s=math.inf)
    await load(engine, registry)
    await engine.let_expire(SMALL, Launch())
    (line,) = await upstream.residents()
    assert line["expires_at"] > "2100"


async def test_who_is_away_has_no_residents(engine: Engine, ollama: SimulatedOllama) -> None:
    await ollama.go_down()
    with pytest.raises(UpstreamGoneError):
        await engine.residents()


def delete(ollama: SimulatedOllama) -> Model:
    """Take the small model from an Ollama's disk; its runner stays."""
    return ollama._catalog._models.pop(parse_name(SMALL))


async def test_a_model_whose_name_is_gone_is_reached_by_another(
    upstream: Upstream, registry: Registry, engine: Engine, ollama: SimulatedOllama
) -> None:
    alias = "alias:latest"
    with pytest.raises(UpstreamRefusedError, match="empty answer"):
        await upstream._ask("POST", "/api/copy", {"source": SMALL, "destination": alias})
    await upstream.load(alias, Launch(), embedding=False, keep_alive="-1s")
    key = await key_of(registry, alias)
    await key_of(registry, SMALL)
    del ollama._catalog._models[parse_name(alias)]
    unload = Unload(bin=HERE, model=key, name=alias, reason=Expired(idle_s=1, keep_alive_s=1))
    assert await engine.unload(unload) is True
    assert ollama.loaded() == []


async def test_a_runner_that_was_given_up_is_seen_again_when_a_name_reaches_it(
    upstream: Upstream, registry: Registry, engine: Engine
) -> None:
    await upstream.load(SMALL, Launch(), embedding=False, keep_alive="-1s")
    registry.give_up(await key_of(registry, SMALL))
    assert await registry.residents() == ()
    assert isinstance(await load(engine, registry), Loaded)
    assert len(await registry.residents()) == 1


async def test_a_model_has_as_long_to_go_as_all_that_may_go_before_it(
    upstream: Upstream,
    registry: Registry,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "ASK_AGAIN_S", 0.3)
    for name in (SMALL, "llama3.1:8b", "qwen2.5:7b"):
        await upstream.load(name, Launch(), embedding=False, keep_alive="-1s")
    listed, looks = await upstream.residents(), count(1)

    async def residents() -> list[Mapping[str, Any]]:
        # By the fifth look more time has passed than one model alone would have.
        return listed if next(looks) < 5 else [one for one in listed if one["name"] != SMALL]

    monkeypatch.setattr(upstream, "residents", residents)
    key = await key_of(registry, SMALL)
    unload = Unload(bin=HERE, model=key, name=SMALL, reason=Expired(idle_s=1, keep_alive_s=1))
    assert await engine.unload(unload) is True
    assert upstream.asked_to_go == 1


async def test_a_model_that_no_name_reaches_is_given_up(
    upstream: Upstream, registry: Registry, engine: Engine, impatient: None
) -> None:
    await upstream.load(SMALL, Launch(), embedding=False, keep_alive="-1s")
    key = await key_of(registry, SMALL)
    upstream.deaf_for = 100
    unload = Unload(bin=HERE, model=key, name=SMALL, reason=Expired(idle_s=1, keep_alive_s=1))
    assert await engine.unload(unload) is True
    assert upstream.asked_to_go == rooms.ASKED
    assert await registry.residents() == ()
