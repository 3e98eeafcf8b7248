"""How the parts are put together: whose machine it is, and what a lost reading comes to."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ollama_gate import gpu
from ollama_gate.config import Config, QueueConfig, SchedulerConfig, UpstreamConfig
from ollama_gate.config.structs import VramConfig
from ollama_gate.errors import CardError
from ollama_gate.gpu import Found, Listed
from ollama_gate.prewarm import SHARED
from ollama_gate.scheduler.types import BinId, Offload
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site, _policy, _upstream
from tests.conftest import MakeOllama, MakeSite

GIB = 2**30


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.9.9.9:11434", True),
        ("http://[::1]:11434", True),
        ("http://localhost:11434", True),
        ("http://gpu.localhost", True),
        ("http://192.0.2.1:11434", False),
        ("http://ollama:11434", False),
        ("https://example.org/ollama", False),
    ],
)
def test_an_upstream_is_here_if_its_address_is(url: str, local: bool) -> None:
    assert gpu.is_here(url) == local


def test_an_own_address_is_here_whatever_network_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def addresses() -> dict[str, list[Any]]:
        one = SimpleNamespace(family=socket.AF_INET, address="192.0.2.1")
        return {"lan": [one]}

    monkeypatch.setattr(psutil, "net_if_addrs", addresses)
    assert gpu.is_here("http://192.0.2.1:11434")
    assert not gpu.is_here("http://192.0.2.2:11434")


class Notes:
    """Stands for the gate, and writes down what it is told of readings."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def measured(self, bin_id: BinId, total_bytes: int, used_bytes: int) -> None:
        self.told.append((bin_id, total_bytes, used_bytes))

    def reading_lost(self, bin_id: BinId) -> None:
        self.told.append((bin_id, "lost"))


async def test_a_reading_that_is_lost_is_told_to_the_gate(
    make_site: MakeSite, ollama: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    site: Site = await make_site(ollama)
    [post], notes = site._posts, Notes()
    reading = gpu.Reading(
        total_bytes=24, used_bytes=7, source="nvml", device="a card", taken_at=0.0
    )
    with monkeypatch.context() as patch:
        patch.setattr(site, "gate", notes)
        site._measured(post, reading)
        site._measured(post, CardError("gone"))
    assert notes.told == [("simulated/0", 24, 7), ("simulated/0", "lost")]


async def test_nothing_is_read_ahead_where_a_card_shares_main_memory(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site: Site = await make_site(ollama, prewarm="auto")
    (post,) = site._posts
    prewarmer = post.member.prewarmer
    assert prewarmer is not None
    assert prewarmer.status()["on"]
    reading = gpu.Reading(
        total_bytes=24, used_bytes=7, source="nvml", device="a card", taken_at=0.0, shared=True
    )
    site._measured(post, reading)
    assert prewarmer.status()["reason"] == SHARED
    assert site.fleet is not None
    assert [member.prewarmer for member in site.fleet.members] == [prewarmer]


async def test_what_is_read_decides_the_budget_and_the_automatic_context(
    make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    upstream = UpstreamConfig(name="simulated", url=ollama.url)
    vram = VramConfig(reserve_bytes=3 * GIB)
    site: Site = await make_site(ollama, upstreams=(upstream,), vram=vram)
    assert site.gate is not None
    [post] = site._posts
    async with asyncio.timeout(10):
        while not (bin_ := site.gate.snapshot().bins[0]).live:
            await site.gate.changed()
    assert bin_.capacity_bytes == 21 * GIB
    await post.member.registry.facts("qwen2.5:32b")
    shown = {model.name: model.automatic for model in await post.member.registry.known()}
    automatic = shown["qwen2.5:32b"]
    assert automatic is not None
    assert automatic.num_ctx == 32_768


@pytest.mark.parametrize(("configured", "counts"), [(0, 6), (2, 2)])
def test_ollama_keeps_three_runners_for_each_card(configured: int, counts: int) -> None:
    two_cards = Found(listed=(Listed(), Listed()))
    assert _upstream(UpstreamConfig(max_loaded=configured), two_cards).max_loaded == counts


async def test_upstreams_that_share_a_card_are_warned_of_once(
    make_ollama: MakeOllama, make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = await make_site(await make_ollama(), await make_ollama())
    reading = gpu.Reading(
        total_bytes=24, used_bytes=7, source="nvml", device="a card", taken_at=0.0
    )
    for post in site._posts * 2:
        site._measured(post, reading)
    [line] = [line for line in caplog.messages if "share a card" in line]
    assert 'upstreams="simulated, second"' in line


def test_the_brain_goes_by_what_is_configured() -> None:
    config = Config(
        offload="accept",
        keep_alive_s=7.0,
        prewarm="off",
        max_concurrent=6,
        queue=QueueConfig(max_size=5, max_wait_s=4.0, max_per_client=3),
        scheduler=SchedulerConfig(profile="throughput", kappa=2.0, k_slot=1),
    )
    policy = _policy(config)
    assert (policy.kappa, policy.k_slot, policy.tau_s) == (2.0, 1, (20.0, 120.0, 300.0))
    assert (policy.queue_max_size, policy.queue_max_wait_s) == (5, 4.0)
    assert (policy.queue_max_per_client, policy.max_concurrent) == (3, 6)
    assert (policy.offload, policy.keep_alive_s, policy.prewarm) == (Offload.ACCEPT, 7.0, False)
    assert _policy(Config()).prewarm
