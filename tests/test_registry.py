"""What is known of a simulated Ollama's models, and what requests and runners come to with it."""

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from msgspec import structs

from ollama_gate.config import Config, ModelConfig, UpstreamConfig
from ollama_gate.errors import UpstreamGoneError, UpstreamRefusedError
from ollama_gate.experience import Experience
from ollama_gate.footprint import MIB, PROCESS_BYTES, Facts, Overhead, sightings
from ollama_gate.ollama import Ollama
from ollama_gate.outlook import Outlook, Times
from ollama_gate.registry import Registry
from ollama_gate.scheduler.events import Resident
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    Priority,
    Request,
    RequestId,
)
from ollama_gate.simulator import Settings, SimulatedOllama, select
from ollama_gate.simulator.refs import parse_name
from ollama_gate.wire import Ask
from tests.conftest import MakeOllama, opened

GIB = 2**30

SMALL, EMBEDDER = "llama3.2:1b", "nomic-embed-text"
SPELLINGS = ["llama3.2:1b", "LLAMA3.2:1b", "library/llama3.2:1B", "llama3.2:1b:local"]

CARD = Bin(id=BinId("local/0"), upstream="local")
CPU = Bin(id=BinId("local/cpu"), upstream="local", cpu=True)


@pytest.fixture
async def client(ollama: SimulatedOllama) -> AsyncIterator[Ollama]:
    async with opened(Ollama(ollama.url)) as client:
        yield client


def registry_of(
    client: Ollama, *, bin_: Bin = CARD, experience: Experience | None = None, **changes: Any
) -> Registry:
    config = structs.replace(
        Config(upstreams=(UpstreamConfig(url=client.url, context_length=4096),)), **changes
    )
    return Registry(
        ollama=client, config=config, upstream=config.upstream, bins=(bin_,), experience=experience
    )


@pytest.fixture
def registry(client: Ollama) -> Registry:
    return registry_of(client)


async def known(registry: Registry, name: str) -> Facts:
    facts = await registry.facts(name)
    assert facts is not None
    return facts


async def asked(
    registry: Registry,
    name: str = SMALL,
    *,
    priority: Priority | None = None,
    keep_alive_s: float | None = None,
    **options: Any,
) -> Request:
    """What a request for a model comes to."""
    ask = Ask(
        model=name,
        launch_options=Launch(**options),
        keep_alive_s=keep_alive_s,
        empty=False,
        stream=True,
        needs=frozenset({"completion"}),
        body=b"",
    )
    facts = await known(registry, name)
    return registry.request(
        RequestId("r"), ask, facts, priority=priority, client="me", arrived_at=7.0
    )


async def load(client: Ollama, name: str = SMALL, **options: Any) -> None:
    embedding = name == EMBEDDER
    await client.load(name, Launch(**options), embedding=embedding, keep_alive="-1s")


async def resident(registry: Registry) -> Resident:
    """The only one."""
    (only,) = await registry.residents()
    return only


# ------------------------------------------------------------------------------- facts


async def test_facts_are_those_of_show_and_tags(
    registry: Registry, ollama: SimulatedOllama
) -> None:
    (model,) = select([SMALL])
    facts = await known(registry, SMALL)
    assert facts.size_bytes == model.disk_bytes
    assert facts.key in model.blob_path
    assert "completion" in facts.capabilities
    assert facts.context_length == model.shape.train_context
    assert (await known(registry, EMBEDDER)).pooling is True


# ------------------------------------------------------------------------------- all of them


async def outlook(registry: Registry, name: str = SMALL) -> Outlook:
    """What is shown of one model; of one that is not listed yet, that."""
    rows = [row for row in await registry.known() if row.name == name]
    return rows[0] if rows else Outlook(name=name, digest="", disk_bytes=0)


async def test_every_model_is_there_though_nobody_asked_for_it(
    registry: Registry, client: Ollama
) -> None:
    assert await registry.known() == []
    await known(registry, SMALL)
    rows = await registry.known()
    assert [row.name for row in rows] == sorted(tag["name"] for tag in await client.tags())
    unseen = [row for row in rows if row.facts is None]
    assert len(unseen) > 5
    assert {(row.automatic, row.sizes) for row in unseen} == {(None, ())}
    assert all(row.disk_bytes and row.digest for row in unseen)


async def test_a_model_is_shown_with_what_admission_would_book(registry: Registry) -> None:
    await known(registry, SMALL)
    row = await outlook(registry)
    contexts = [size.num_ctx for size in row.sizes]
    assert contexts == [4096, 8192, 16384, 32768, 65536, 131072]
    for size in row.sizes:
        wanted = await asked(registry, num_ctx=size.num_ctx)
        assert size.footprint_bytes == wanted.needs[CARD.id].footprint_bytes
        assert size.error is not None
        assert 0 < size.error < 1
    assert row.automatic == row.sizes[0]
    registry.card_has(24 * GIB)
    assert (await outlook(registry)).sizes is not row.sizes
    assert (await outlook(registry)).sizes is (await outlook(registry)).sizes


async def test_an_automatic_context_between_the_others_is_shown_as_well(client: Ollama) -> None:
    upstream = UpstreamConfig(url=client.url, context_length=5000)
    registry = registry_of(client, upstreams=(upstream,))
    await known(registry, EMBEDDER)
    row = await outlook(registry, f"{EMBEDDER}:latest")
    assert [size.num_ctx for size in row.sizes] == [2048]
    await known(registry, SMALL)
    row = await outlook(registry)
    assert row.automatic is not None
    assert row.automatic.num_ctx == 5000
    assert row.automatic in row.sizes


async def test_what_runs_elsewhere_has_no_size(registry: Registry, client: Ollama) -> None:
    (stub,) = [str(tag["name"]) for tag in await client.tags() if "remote_host" in tag]
    # Asked for in the background as soon as it is seen that the upstream answers.
    await registry.residents()
    asking = registry._known._rounds._task
    assert asking is not None
    await asyncio.wait_for(asking, 10)
    row = await outlook(registry, stub)
    assert row.facts is not None
    assert row.facts.remote
    assert (row.automatic, row.sizes) == (None, ())


async def test_times_are_those_of_whoever_keeps_them(client: Ollama) -> None:
    experience = Experience(client.url)
    registry = registry_of(client, experience=experience)
    key = (await known(registry, SMALL)).key
    experience.loaded(CARD.id, key, 1.0, 0.0)
    await known(registry, EMBEDDER)
    assert (await outlook(registry)).times == Times(load_s=1.0)
    assert (await outlook(registry, f"{EMBEDDER}:latest")).times == Times()


async def test_how_long_answers_took_in_earlier_lives_is_told(client: Ollama) -> None:
    experience = Experience(client.url)
    registry = registry_of(client, experience=experience)
    assert (await asked(registry)).service_s is None
    experience.served(CARD.id, (await known(registry, SMALL)).key, 7.0)
    assert (await asked(registry)).service_s == 7.0


async def test_a_load_of_an_earlier_life_tells_how_long_the_next_will_take(
    client: Ollama,
) -> None:
    experience = Experience(client.url)
    registry = registry_of(client, experience=experience)
    assert (await asked(registry)).needs[CARD.id].load_s is None
    experience.loaded(CARD.id, (await known(registry, SMALL)).key, 7.0, 0.0)
    again = registry_of(client, experience=experience)
    assert (await asked(again)).needs[CARD.id].load_s == 7.0


async def test_the_upstreams_version_is_known_from_the_first_look_on(
    registry: Registry, ollama: SimulatedOllama, client: Ollama
) -> None:
    assert registry._terms.settings.version == ""
    await registry.residents()
    assert registry._terms.settings.version == await client.version() != ""


async def test_after_an_outage_an_older_ollama_plans_with_what_is_free_now(
    client: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = ["0.32.15", "0.24.0"]

    async def version() -> str:
        return versions.pop(0)

    async def away() -> list[Mapping[str, Any]]:
        raise UpstreamGoneError("gone")

    registry = registry_of(client)
    monkeypatch.setattr(client, "version", version)
    await registry.residents()
    assert registry.remembers_free
    with monkeypatch.context() as patch:
        patch.setattr(client, "residents", away)
        with pytest.raises(UpstreamGoneError):
            await registry.residents()
    await registry.residents()
    assert not registry.remembers_free


async def test_a_version_is_asked_for_again_after_an_outage_and_may_be_withheld(
    client: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for = []

    async def version() -> str:
        asked_for.append(True)
        raise UpstreamRefusedError(404, "no such route")

    async def away() -> list[Mapping[str, Any]]:
        raise UpstreamGoneError("gone")

    registry = registry_of(client)
    monkeypatch.setattr(client, "version", version)
    for _ in range(3):
        await registry.residents()
    assert len(asked_for) == 1
    assert registry._terms.settings.version == ""
    with monkeypatch.context() as patch:
        patch.setattr(client, "residents", away)
        with pytest.raises(UpstreamGoneError):
            await registry.residents()
    await registry.residents()
    assert len(asked_for) == 2


async def test_what_a_card_taught_of_processes_is_in_every_need(client: Ollama) -> None:
    experience = Experience(client.url)
    registry = registry_of(client, experience=experience)
    before = (await asked(registry)).needs[CARD.id].footprint_bytes
    experience._overheads["card A"] = Overhead([357 * MIB] * 3)
    experience.measured(CARD.id, "card A", GIB)
    await registry.residents()
    assert (await asked(registry)).needs[CARD.id].footprint_bytes == before - 100 * MIB


async def test_a_model_that_ran_out_of_memory_is_booked_with_more(
    registry: Registry,
) -> None:
    before = (await asked(registry)).needs[CARD.id].footprint_bytes
    await registry.ran_out(SMALL, Launch(), CARD.id)
    await registry.ran_out("no such model", Launch(), CARD.id)
    assert (await asked(registry)).needs[CARD.id].footprint_bytes == before + before * 5 // 100


# ------------------------------------------------------------------------------- requests


async def test_a_request_says_what_it_needs_and_by_which_name(registry: Registry) -> None:
    wanted = await asked(registry, "LLAMA3.2:1b", num_ctx=8192, keep_alive_s=60.0)
    assert wanted.name == "LLAMA3.2:1b"
    assert wanted.model == (await known(registry, SMALL)).key
    assert wanted.needs.keys() == {CARD.id}
    assert 1 * GIB < wanted.needs[CARD.id].footprint_bytes < 4 * GIB
    assert wanted.launch == Launch(num_ctx=8192)
    assert (wanted.num_ctx, wanted.client, wanted.arrived_at) == (8192, "me", 7.0)
    assert (wanted.keep_alive_s, wanted.default_keep_alive_s) == (60.0, 300.0)


async def test_a_larger_context_needs_more(registry: Registry) -> None:
    small, large = await asked(registry, num_ctx=2048), await asked(registry, num_ctx=32768)
    assert large.needs[CARD.id].footprint_bytes > small.needs[CARD.id].footprint_bytes


async def test_a_context_is_at_most_what_the_model_was_trained_for(registry: Registry) -> None:
    assert (await asked(registry, num_ctx=10_000_000)).num_ctx == 131072


async def test_the_context_that_nobody_named_is_ollamas_default(client: Ollama) -> None:
    registry = registry_of(client, upstreams=(UpstreamConfig(url=client.url),))
    assert (await asked(registry)).num_ctx == 4096
    registry.card_has(24 * GIB)
    wanted = await asked(registry)
    assert (wanted.num_ctx, wanted.launch.num_ctx) == (32768, None)


async def test_a_modelfiles_parameters_stand_below_a_requests_options() -> None:
    (plain,) = select([SMALL])
    model = dataclasses.replace(plain, parameters={"num_ctx": 2048, "num_batch": 64, "stop": "x"})
    settings = Settings(context_length=4096)
    async with (
        SimulatedOllama(settings, models=(model,)) as simulated,
        opened(Ollama(simulated.url)) as client,
    ):
        registry = registry_of(client)
        own, asked_for = await asked(registry), await asked(registry, num_ctx=1024)
    assert (own.launch, own.num_ctx) == (Launch(num_ctx=2048, num_batch=64), 2048)
    assert (asked_for.launch, asked_for.num_ctx) == (Launch(num_ctx=1024, num_batch=64), 1024)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_models_own_settings_hold_for_every_spelling_of_its_name(
    client: Ollama, spelling: str
) -> None:
    own = ModelConfig(
        vram_bytes=3 * GIB, max_concurrent=2, priority=Priority.LOW, keep_alive_s=math.inf
    )
    upstream = UpstreamConfig(url=client.url, num_parallel=4)
    registry = registry_of(client, models={spelling: own}, upstreams=(upstream,))
    for name in SPELLINGS:
        wanted = await asked(registry, name)
        assert wanted.needs[CARD.id].footprint_bytes == 3 * GIB
        assert wanted.parallel == 2
        assert wanted.priority is Priority.LOW
        assert wanted.default_keep_alive_s == math.inf
    other = await asked(registry, "qwen2.5:0.5b")
    assert (other.parallel, other.priority, other.default_keep_alive_s) == (
        4,
        Priority.NORMAL,
        300.0,
    )


async def test_a_pinned_model_is_so_for_its_requests_and_its_runner(client: Ollama) -> None:
    registry = registry_of(client, models={SMALL.upper(): ModelConfig(pin=True)})
    assert (await asked(registry)).pinned
    assert not (await asked(registry, EMBEDDER)).pinned
    await load(client)
    assert (await resident(registry)).pinned


async def test_a_model_is_pinned_under_every_name_that_it_has(
    client: Ollama,
) -> None:
    copied = await client.relay(
        "POST", "/api/copy", [], b'{"source": "%b", "destination": "other"}' % SMALL.encode()
    )
    copied.close()
    registry = registry_of(client, models={SMALL: ModelConfig(pin=True)})
    await known(registry, SMALL)
    assert (await asked(registry, "other")).pinned


@pytest.mark.parametrize("priority", list(Priority))
async def test_a_requests_own_priority_stands_above_its_models(
    client: Ollama, priority: Priority
) -> None:
    registry = registry_of(client, models={SMALL: ModelConfig(priority=Priority.LOW)})
    assert (await asked(registry, priority=priority)).priority is priority


async def test_a_model_is_never_served_more_at_once_than_ollama_serves(
    client: Ollama,
) -> None:
    upstream = UpstreamConfig(url=client.url, num_parallel=2)
    models = {SMALL: ModelConfig(max_concurrent=9), EMBEDDER: ModelConfig(max_concurrent=9)}
    registry = registry_of(client, upstreams=(upstream,), models=models)
    assert (await asked(registry, SMALL)).parallel == 2
    assert (await asked(registry, EMBEDDER)).parallel == 1


async def test_a_request_for_the_cpu_needs_nothing_of_the_card(registry: Registry) -> None:
    need = (await asked(registry, num_gpu=0)).needs[CARD.id]
    assert (need.footprint_bytes, need.predicted_bytes) == (0, 0)


# ------------------------------------------------------------------------------- residents


async def test_nothing_is_resident_at_first(registry: Registry) -> None:
    assert await registry.residents() == ()


async def test_a_runner_is_seen_with_what_it_takes(registry: Registry, client: Ollama) -> None:
    await load(client, SMALL, num_ctx=8192)
    (line,) = await client.residents()
    seen = await resident(registry)
    assert seen == Resident(
        bin=CARD.id,
        model=(await known(registry, SMALL)).key,
        name=SMALL,
        launch=Launch(num_ctx=8192),
        footprint_bytes=line["size_vram"] + PROCESS_BYTES,
        reported_bytes=line["size_vram"],
        num_ctx=8192,
        named_ctx=8192,
        parallel=1,
        size_bytes=line["size"],
    )


async def test_a_runner_with_the_context_that_nobody_named_serves_those_who_name_none(
    registry: Registry, client: Ollama
) -> None:
    await load(client, SMALL)
    assert (await resident(registry)).launch == Launch()


async def test_what_a_runner_took_is_what_the_next_will_need(
    make_ollama: MakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "SETTLED_S", 0.0)
    larger = await make_ollama(size_error=(0.05, 0.05))
    async with opened(Ollama(larger.url)) as client:
        registry = registry_of(client)
        guess = (await asked(registry)).needs[CARD.id].footprint_bytes
        before = (await outlook(registry)).automatic
        await load(client, SMALL)
        await resident(registry)
        assert (await asked(registry)).needs[CARD.id].footprint_bytes == guess
        seen = await resident(registry)
        needed = (await asked(registry)).needs[CARD.id].footprint_bytes
        after = (await outlook(registry)).automatic
    assert needed == seen.footprint_bytes > guess
    assert before is not None
    assert (before.source, before.footprint_bytes) == ("estimated", guess)
    assert after is not None
    assert (after.source, after.footprint_bytes) == ("learned", seen.footprint_bytes)


async def test_a_configured_footprint_stands_above_what_was_seen(client: Ollama) -> None:
    registry = registry_of(client, models={SMALL.upper(): ModelConfig(vram_bytes=5 * GIB)})
    await load(client, SMALL)
    seen = await resident(registry)
    assert seen.footprint_bytes == 5 * GIB
    assert seen.reported_bytes < 5 * GIB
    assert (await asked(registry)).needs[CARD.id].footprint_bytes == 5 * GIB
    assert {size.source for size in (await outlook(registry)).sizes} == {"configured"}


async def test_a_runner_that_was_put_on_the_cpu_is_told_from_the_others(
    registry: Registry, client: Ollama
) -> None:
    await load(client, SMALL, num_gpu=0)
    seen = await resident(registry)
    assert seen.launch == Launch(num_gpu=0)
    assert seen.reported_bytes == 0


async def test_on_a_cpu_bin_a_runner_takes_its_whole_size(make_ollama: MakeOllama) -> None:
    simulated = await make_ollama(cards=())
    async with opened(Ollama(simulated.url)) as client:
        await load(client, SMALL)
        (line,) = await client.residents()
        seen = await resident(registry_of(client, bin_=CPU))
    assert line["size_vram"] == 0
    assert seen.reported_bytes == seen.footprint_bytes == line["size"]
    assert seen.launch == Launch()


async def test_an_embedding_model_is_seen_like_any_other(
    registry: Registry, client: Ollama
) -> None:
    await load(client, EMBEDDER)
    seen = await resident(registry)
    assert seen.name == f"{EMBEDDER}:latest"
    assert seen.model == (await known(registry, EMBEDDER)).key
    assert seen.num_ctx == (await asked(registry, EMBEDDER)).num_ctx


async def test_a_model_deleted_while_it_is_loaded_still_takes_its_memory(
    registry: Registry, client: Ollama, ollama: SimulatedOllama
) -> None:
    await load(client, SMALL)
    delete(ollama, SMALL)
    (line,) = await client.residents()
    seen = await resident(registry)
    assert seen.name == SMALL
    assert seen.model == line["digest"]
    assert seen.footprint_bytes >= line["size_vram"] > GIB


async def test_residents_need_an_answer(registry: Registry, ollama: SimulatedOllama) -> None:
    await ollama.go_down()
    with pytest.raises(UpstreamGoneError):
        await registry.residents()


def delete(ollama: SimulatedOllama, name: str) -> None:
    """Take a model from an Ollama's disk; its runner stays."""
    del ollama._catalog._models[parse_name(name)]


# ---------------------------------------------------------------- a name that means something else


class Renamed(Ollama):
    """An Ollama in which one name was given to another model behind the gate's back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.now: dict[str, str] = {}

    async def show(self, name: str, *, verbose: bool = False) -> Mapping[str, Any] | None:
        return await super().show(self.now.get(name, name), verbose=verbose)

    async def tags(self) -> list[Mapping[str, Any]]:
        tags = await super().tags()
        by_name = {str(tag["name"]): tag for tag in tags}
        return [{**by_name[self.now.get(name, name)], "name": name} for name in by_name]


async def test_a_runner_is_known_by_its_digest_when_its_name_means_another_model(
    ollama: SimulatedOllama,
) -> None:
    async with opened(Renamed(ollama.url)) as client:
        registry = registry_of(client)
        before = await known(registry, SMALL)
        await load(client)
        client.now[SMALL] = "qwen2.5:0.5b"
        with registry.changing([SMALL]):
            assert (await known(registry, SMALL)).key != before.key
        (resident,) = await registry.residents()
        assert (resident.model, resident.name) == (before.key, SMALL)


async def test_a_runner_whose_model_was_never_seen_is_known_by_its_digest_alone(
    ollama: SimulatedOllama,
) -> None:
    async with opened(Renamed(ollama.url)) as client:
        await load(client)
        client.now[SMALL] = "qwen2.5:0.5b"
        registry = registry_of(client)
        (resident,) = await registry.residents()
        assert resident.model != (await known(registry, SMALL)).key
        assert resident.footprint_bytes > GIB


async def test_a_runner_that_was_given_up_is_overlooked_until_it_has_gone(
    client: Ollama, registry: Registry, ollama: SimulatedOllama
) -> None:
    await load(client)
    (resident,) = await registry.residents()
    registry.give_up(resident.model)
    assert await registry.residents() == ()
    await client.unload(SMALL)
    async with asyncio.timeout(10):
        while ollama.loaded():
            await ollama.changed()
    assert await registry.residents() == ()
    await load(client)
    assert [one.model for one in await registry.residents()] == [resident.model]


async def test_a_model_that_ollama_cannot_show_is_not_taken_for_an_unknown_one(
    ollama: SimulatedOllama,
) -> None:
    class Failing(Ollama):
        async def show(self, name: str, *, verbose: bool = False) -> Mapping[str, Any] | None:
            raise UpstreamRefusedError(500, f"{name}: unexpected EOF (verbose: {verbose})")

    async with opened(Failing(ollama.url)) as client:
        with pytest.raises(UpstreamRefusedError, match="unexpected EOF"):
            await registry_of(client).facts(SMALL)


async def test_before_a_cpu_alone_a_budget_means_main_memory(make_ollama: MakeOllama) -> None:
    ollama = await make_ollama(cards=())
    async with opened(Ollama(ollama.url)) as client:
        await load(client)
        budget = dataclasses.replace(CARD, capacity_bytes=8 * GIB)
        (resident,) = await registry_of(client, bin_=budget).residents()
        assert resident.launch.num_gpu is None
        assert resident.footprint_bytes > GIB
