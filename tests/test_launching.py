"""What a request's options come to, and what the registry makes of a context it may widen."""

import dataclasses
from typing import Any

import pytest

from ollama_gate.config import Config, UpstreamConfig
from ollama_gate.footprint import Facts, Settings, resolve
from ollama_gate.ollama import Ollama
from ollama_gate.registry import Registry
from ollama_gate.scheduler.types import Bin, BinId, Exact, Launch, ModelKey, Request, RequestId
from ollama_gate.simulator import Settings as OllamaSettings
from ollama_gate.simulator import SimulatedOllama, select
from ollama_gate.wire import Ask, Place
from tests.conftest import MakeOllama, opened

SMALL = "llama3.2:1b"
CARD = Bin(id=BinId("local/0"), upstream="local")
UPSTREAM = Settings(context_length=4096)
CHAT = Facts(key=ModelKey("k"), name="m", size_bytes=1, context_length=131_072)
EMBEDDER = dataclasses.replace(
    CHAT, context_length=512, capabilities=frozenset({"embedding"}), pooling=True
)


def come_to(facts: Facts, *nulls: str, **asked: Any) -> tuple[Launch, int, int]:
    found = resolve(facts, Launch(**asked), UPSTREAM, nulls=frozenset(nulls))
    return found.launch, found.num_ctx, found.named_ctx


def test_nothing_named_is_nothing_launched_with() -> None:
    assert come_to(CHAT) == (Launch(), 4096, 4096)


def test_a_context_is_kept_as_it_was_named_and_held_to_the_trained_length() -> None:
    assert come_to(CHAT, num_ctx=999_999) == (Launch(num_ctx=999_999), 131_072, 999_999)
    assert come_to(EMBEDDER) == (Launch(), 512, 4096)


def test_a_modelfile_names_it_for_everybody() -> None:
    own = dataclasses.replace(CHAT, parameters=Launch(num_ctx=2048, num_thread=3))
    assert come_to(own) == (Launch(num_ctx=2048, num_thread=3), 2048, 2048)
    assert come_to(own, num_ctx=1024)[0] == Launch(num_ctx=1024, num_thread=3)
    # What is given as null leaves what the Modelfile says.
    assert come_to(own, "num_ctx")[0] == Launch(num_ctx=2048, num_thread=3)


def test_what_is_named_as_null_is_the_default_and_not_ollamas_choice() -> None:
    found = come_to(CHAT, "num_ctx", "num_batch", "draft_num_predict")
    assert found == (Launch(num_ctx=4096, num_batch=512, draft_num_predict=4), 4096, 4096)


@pytest.mark.parametrize(
    ("family", "shift", "launched"),
    [
        ("llama", True, None),
        ("llama", False, False),
        ("llama", None, None),
        ("deepseek2", False, None),
        ("deepseek2", True, True),
    ],
)
def test_a_shift_that_says_what_happens_anyhow_is_no_difference(
    family: str, *, shift: bool | None, launched: bool | None
) -> None:
    facts = dataclasses.replace(CHAT, family=family)
    assert come_to(facts, shift=shift)[0].shift is launched


def test_only_the_batch_of_an_embedding_model_follows_its_context() -> None:
    assert resolve(CHAT, Launch(), UPSTREAM).batch_limit is None
    assert resolve(EMBEDDER, Launch(), UPSTREAM).batch_limit == 2048


# -------------------------------------------------------------------- in the scheduler's terms


async def request(
    simulated: SimulatedOllama,
    *,
    policy: Any = "widen",
    names: bool = True,
    nulls: frozenset[str] = frozenset(),
    **options: Any,
) -> Request:
    """What a request comes to; `names`: it is one that can be sent with another context."""
    ask = Ask(
        model=SMALL,
        launch_options=Launch(**options),
        keep_alive_s=None,
        empty=False,
        stream=True,
        needs=frozenset(),
        body=b"",
        context_at=Place(0, 0) if names else None,
        nulls=nulls,
    )
    config = Config(
        upstreams=(UpstreamConfig(url=simulated.url, context_length=4096),), num_ctx=policy
    )
    async with opened(Ollama(simulated.url)) as client:
        registry = Registry(ollama=client, config=config, upstream=config.upstream, bins=(CARD,))
        facts = await registry.facts(SMALL)
        assert facts is not None
        return registry.request(
            RequestId("r"), ask, facts, priority=None, client="me", arrived_at=0.0
        )


async def test_who_names_no_more_than_ollama_gives_is_loaded_with_that(
    ollama: SimulatedOllama,
) -> None:
    found = await request(ollama, num_ctx=2048)
    assert (found.launch, found.num_ctx, found.named_ctx) == (Launch(), 4096, 4096)
    alone = await request(ollama, num_ctx=2048, policy="respect")
    assert found.least_ctx == 2048
    assert found.exact == Exact(launch=Launch(num_ctx=2048), needs=alone.needs)
    assert alone.needs[CARD.id].footprint_bytes < found.needs[CARD.id].footprint_bytes


async def test_who_names_more_is_loaded_with_what_it_names(ollama: SimulatedOllama) -> None:
    found = await request(ollama, num_ctx=8192)
    assert (found.launch, found.num_ctx, found.named_ctx) == (Launch(num_ctx=8192), 8192, 8192)
    assert (found.least_ctx, found.exact) == (8192, None)


async def test_what_is_named_as_null_can_be_sent_as_a_number(ollama: SimulatedOllama) -> None:
    found = await request(ollama, nulls=frozenset({"num_ctx"}))
    assert (found.launch, found.least_ctx) == (Launch(), 4096)


@pytest.mark.parametrize("changes", [{"policy": "respect"}, {"names": False}])
async def test_else_it_gets_just_that(ollama: SimulatedOllama, changes: dict[str, Any]) -> None:
    found = await request(ollama, num_ctx=2048, **changes)
    assert (found.launch, found.num_ctx) == (Launch(num_ctx=2048), 2048)
    assert (found.least_ctx, found.exact) == (None, None)


async def test_what_a_modelfile_names_is_what_ollama_gives_by_itself() -> None:
    (plain,) = select([SMALL])
    model = dataclasses.replace(plain, parameters={"num_ctx": 16384})
    async with SimulatedOllama(OllamaSettings(context_length=4096), models=(model,)) as simulated:
        found = await request(simulated, num_ctx=8192)
    assert (found.launch.num_ctx, found.least_ctx) == (16384, 8192)


async def test_a_runner_seen_is_known_by_the_name_of_its_context(make_ollama: MakeOllama) -> None:
    simulated = await make_ollama(context_length=200_000)
    config = Config(upstreams=(UpstreamConfig(url=simulated.url, context_length=200_000),))
    async with opened(Ollama(simulated.url)) as client:
        registry = Registry(ollama=client, config=config, upstream=config.upstream, bins=(CARD,))
        await client.load(SMALL, Launch(), embedding=False, keep_alive="-1s")
        (own,) = await registry.residents()
        await client.load(SMALL, Launch(num_ctx=2048), embedding=False, keep_alive="-1s")
        (named,) = await registry.residents()
    assert (own.launch, own.num_ctx, own.named_ctx) == (Launch(), 131_072, 200_000)
    assert (named.launch, named.num_ctx, named.named_ctx) == (Launch(num_ctx=2048), 2048, 2048)
