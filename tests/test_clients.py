"""The clients that people use, through the gate: what they send is served, what fails is theirs."""

import asyncio
from collections.abc import AsyncIterator

import anthropic
import ollama as native
import openai
import pytest

from ollama_gate.config import QueueConfig
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import BIG, EMBEDDER, SMALL, Http, generate, hold, post, until

FULL = "server busy, please try again.  maximum pending requests exceeded"
HELLO = "Hello"


@pytest.fixture
async def by_ollama(site: Site) -> AsyncIterator[native.AsyncClient]:
    client = native.AsyncClient(host=site.url)
    yield client
    await client._client.aclose()


def by_openai(site: Site) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key="none", max_retries=0)


def by_anthropic(site: Site) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=site.url, api_key="none", max_retries=0)


# ------------------------------------------------------------------------------- ollama


async def test_ollamas_client_generates_chats_and_embeds(by_ollama: native.AsyncClient) -> None:
    told = await by_ollama.generate(SMALL, HELLO, options={"num_predict": 3})
    assert (told.done, told.eval_count) == (True, 3)
    messages = [{"role": "user", "content": HELLO}]
    parts = [
        part
        async for part in await by_ollama.chat(
            SMALL, messages, stream=True, options={"num_predict": 5}
        )
    ]
    assert len(parts) == 6
    assert parts[-1].done_reason == "length"
    embedded = await by_ollama.embed(EMBEDDER, [HELLO, "you"])
    assert len(embedded.embeddings) == 2
    assert {model.model for model in (await by_ollama.ps()).models} >= {SMALL}


async def test_ollamas_client_hears_its_own_error(by_ollama: native.AsyncClient) -> None:
    with pytest.raises(native.ResponseError) as error:
        await by_ollama.generate("no-such-model", HELLO)
    assert error.value.status_code == 404
    assert "not found" in error.value.error


# ------------------------------------------------------------------------------- openai


async def test_openais_client_chats_streams_and_embeds(site: Site) -> None:
    async with by_openai(site) as client:
        told = await client.chat.completions.create(
            model=SMALL, messages=[{"role": "user", "content": HELLO}], max_tokens=4
        )
        assert told.choices[0].finish_reason == "length"
        stream = await client.chat.completions.create(
            model=SMALL, messages=[{"role": "user", "content": HELLO}], max_tokens=4, stream=True
        )
        parts = [part async for part in stream]
        assert parts[-1].choices[0].finish_reason == "length"
        embedded = await client.embeddings.create(model=EMBEDDER, input=[HELLO, "you"])
        assert len(embedded.data) == 2
        assert SMALL in {model.id async for model in client.models.list()}


async def test_openais_client_hears_its_own_errors(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, queue=QueueConfig(max_size=1))
    async with by_openai(site) as client:
        with pytest.raises(openai.NotFoundError, match="no-such-model"):
            await client.completions.create(model="no-such-model", prompt=HELLO)
        held = await hold(http, site, ollama)
        waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(BIG)))
        await until(site, lambda view: view.waiting)
        with pytest.raises(openai.InternalServerError) as error:
            await client.completions.create(model=SMALL, prompt=HELLO)
        assert error.value.status_code == 503
        assert FULL in error.value.message
        assert int(error.value.response.headers["Retry-After"]) >= 1
        assert (await held.let_go())[0] == 200
        assert (await waiting)[0] == 200


# ------------------------------------------------------------------------------- anthropic


async def test_anthropics_client_asks_and_streams(site: Site) -> None:
    async with by_anthropic(site) as client:
        told = await client.messages.create(
            model=SMALL, max_tokens=4, messages=[{"role": "user", "content": HELLO}]
        )
        assert told.stop_reason == "max_tokens"
        async with client.messages.stream(
            model=SMALL, max_tokens=4, messages=[{"role": "user", "content": HELLO}]
        ) as stream:
            whole = await stream.get_final_message()
        assert whole.stop_reason == "max_tokens"
        assert whole.usage.output_tokens == 4


async def test_anthropics_client_hears_its_own_errors(site: Site) -> None:
    async with by_anthropic(site) as client:
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(
                model="no-such-model", max_tokens=4, messages=[{"role": "user", "content": HELLO}]
            )


# ------------------------------------------------------------------------------- leaving


async def first_of_openai(site: Site) -> AsyncIterator[object]:
    async with by_openai(site) as client:
        stream = await client.completions.create(
            model=SMALL, prompt=HELLO, max_tokens=5_000, stream=True
        )
        async with stream:
            async for part in stream:
                yield part


async def test_a_stream_that_is_left_frees_its_slot(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(answer_tokens=5_000, speed=5.0)
    site = await make_site(ollama)
    parts = first_of_openai(site)
    await anext(parts)
    assert site.gate is not None
    assert site.gate.snapshot().running
    await parts.aclose()  # type: ignore[attr-defined]
    await until(site, lambda view: not view.running)
