"""What more than one test file needs: a simulated Ollama, a gate before it, a client."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from hypothesis import settings as hypothesis_settings
from msgspec import structs

from ollama_gate.ollama import Ollama
from ollama_gate.simulator import Settings, SimulatedOllama
from ollama_gate.simulator.catalog import Model
from ollama_gate.simulator.demo import SimulatedCard, config_before
from ollama_gate.site import Site
from tests.upstreams import Upstreams, opened_upstreams

hypothesis_settings.register_profile("fast", max_examples=60, deadline=None)
hypothesis_settings.register_profile("deep", max_examples=2000, deadline=None)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

SPEED = 200.0

Client = TypeVar("Client", bound=Ollama)

MakeSite = Callable[..., Awaitable[Site]]
MakeOllama = Callable[..., Awaitable[SimulatedOllama]]


@pytest.fixture(autouse=True, scope="session")
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a gate learns in a test is not to be believed by the user's own."""
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))


@contextlib.asynccontextmanager
async def opened(client: Client) -> AsyncIterator[Client]:
    """A client of an upstream, open for the length of a block."""
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def make_ollama() -> AsyncIterator[MakeOllama]:
    """Start simulated Ollamas: one 24 GiB card, 4,096 tokens, 200 times the wall clock."""
    started: list[SimulatedOllama] = []

    async def make(*, disk: tuple[Model, ...] = (), **changes: Any) -> SimulatedOllama:
        given = {"cards": (24 * 2**30,), "context_length": 4096, "speed": SPEED, **changes}
        simulated = SimulatedOllama(Settings(**given), models=disk)
        await simulated.start()
        started.append(simulated)
        return simulated

    yield make
    for simulated in started:
        await simulated.close()


@pytest.fixture
async def ollama(make_ollama: MakeOllama) -> SimulatedOllama:
    return await make_ollama()


@pytest.fixture
async def make_site() -> AsyncIterator[MakeSite]:
    """Open gates before simulated Ollamas; `changes` replace parts of the configuration."""
    opened: list[Site] = []

    async def make(*simulated: SimulatedOllama, **changes: Any) -> Site:
        config = structs.replace(config_before(*simulated), **changes)
        cards = tuple(SimulatedCard(each) for each in simulated)
        site = Site(config, card=cards, busy_poll_s=0.01, temporary=True)
        await site.open()
        opened.append(site)
        return site

    yield make
    for site in opened:
        await site.close(grace_s=0.0)


@pytest.fixture
async def site(make_site: MakeSite, ollama: SimulatedOllama) -> Site:
    return await make_site(ollama)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    async with opened_upstreams() as scripted:
        yield scripted
