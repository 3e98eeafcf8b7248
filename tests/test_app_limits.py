"""Over real sockets: how long a request may wait, how many may, and what stays where it is."""

import asyncio
import json
import re
from datetime import datetime
from typing import Any

import anthropic
import openai
import pytest

from ollama_gate.config import ModelConfig, QueueConfig
from ollama_gate.gate import Decision
from ollama_gate.scheduler.types import RunnerState, Snapshot
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import BIG, EMBEDDER, OTHER_BIG, SMALL, Http, generate, hold, post, until
from tests.test_clients import by_anthropic, by_openai

SOON = {"X-Deadline": "0.25"}
"""Sooner than whoever stands still will end."""

HELLO = "Hello"


async def asked(
    http: Http, site: Site, model: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Status, headers and error, if there is one, of a native request."""
    url = f"{site.url}/api/generate"
    body = generate(model, stream=False)
    async with http.post(url, json=body, headers=headers or {}) as response:
        return response.status, dict(response.headers), (await response.json()).get("error", "")


def refusals(site: Site) -> list[Decision]:
    assert site.gate is not None
    return [each for each in site.gate.decisions if each.what == "refuse"]


def resident(view: Snapshot) -> set[str]:
    return {each.name for each in view.runners if each.state is RunnerState.RESIDENT}


# ------------------------------------------------------------------- deadlines


async def test_who_waits_past_its_deadline_is_told_for_what_and_not_to_try_again(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    # What it is has been asked before, so that all of its wait is for a slot.
    assert (await asked(http, site, OTHER_BIG))[0] == 200
    held = await hold(http, site, ollama)
    status, headers, error = await asked(http, site, OTHER_BIG, SOON)
    assert (status, headers["x-should-retry"]) == (504, "false")
    assert re.fullmatch(rf"waited \S+ s for {OTHER_BIG}; X-Deadline allows no more", error)
    assert "Retry-After" not in headers
    assert float(headers["Server-Timing"].split("dur=")[1].split(",")[0]) >= 250
    assert (await held.let_go())[0] == 200
    assert OTHER_BIG not in ollama.loaded()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/chat/completions", "api_error"), ("/v1/messages", "api_error")],
)
async def test_a_deadline_is_missed_in_every_dialect(
    http: Http, site: Site, ollama: SimulatedOllama, path: str, kind: str
) -> None:
    held = await hold(http, site, ollama)
    body = {"model": OTHER_BIG, "messages": [{"role": "user", "content": HELLO}], "max_tokens": 4}
    async with http.post(site.url + path, json=body, headers=SOON) as response:
        told: Any = await response.json()
    assert (response.status, response.headers["x-should-retry"]) == (504, "false")
    assert told["error"]["type"] == kind
    assert told["error"]["message"].endswith("; X-Deadline allows no more")
    assert (await held.let_go())[0] == 200


@pytest.mark.parametrize("text", ["soon", "0", "-1", "1e3", "30s"])
async def test_a_deadline_that_means_nothing_is_a_400(http: Http, site: Site, text: str) -> None:
    status, _, error = await asked(http, site, SMALL, {"X-Deadline": text})
    assert status == 400
    assert error == (
        "X-Deadline: expected a number of seconds above 0, such as 30 or 2.5, found " + repr(text)
    )


async def test_what_is_served_in_time_does_not_end_at_its_deadline(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    assert (await asked(http, site, BIG))[0] == 200
    ollama.faults.hang(BIG)
    serving = asyncio.create_task(asked(http, site, BIG, {"X-Deadline": "1"}))
    await until(site, lambda view: view.running)
    # Another one's later deadline has passed, and so has its own.
    assert (await asked(http, site, OTHER_BIG, {"X-Deadline": "1.1"}))[0] == 504
    ollama.faults.unhang(BIG)
    assert (await serving)[0] == 200


async def test_the_queue_has_a_deadline_for_everybody(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    # Loaded before, or that would take too long.
    assert (await post(http, f"{ollama.url}/api/generate", generate(BIG)))[0] == 200
    site = await make_site(ollama, queue=QueueConfig(max_wait_s=1.0))
    await until(site, lambda view: resident(view) == {BIG})
    held = await hold(http, site, ollama)
    status, _, error = await asked(http, site, OTHER_BIG, {"X-Deadline": "60"})
    assert status == 504
    assert error.endswith("; queue.max_wait allows no more")
    assert (await held.let_go())[0] == 200


async def test_an_upstream_that_is_away_is_waited_for_no_longer_than_a_deadline(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    await ollama.go_down()
    site = await make_site(ollama)
    status, headers, error = await asked(http, site, SMALL, SOON)
    assert (status, headers["x-should-retry"]) == (504, "false")
    assert error.endswith(" s for an upstream to say what it is; X-Deadline allows no more")


# ------------------------------------------------------------------- one client's share


async def test_one_client_may_have_so_many_waiting_and_another_as_many(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, queue=QueueConfig(max_per_client=1))
    held = await hold(http, site, ollama)
    ann, bob = {"X-Client-Id": "ann"}, {"X-Client-Id": "bob"}
    waiting = [asyncio.create_task(asked(http, site, OTHER_BIG, each)) for each in (ann, bob)]
    await until(site, lambda view: len(view.waiting) == 2)
    status, headers, error = await asked(http, site, SMALL, ann)
    assert status == 429
    assert error == "1 request of this client waits already; queue.max_per_client allows no more"
    assert int(headers["Retry-After"]) >= 1
    assert "x-should-retry" not in headers
    assert (await held.let_go())[0] == 200
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]


# ------------------------------------------------------------------- at once


async def test_over_all_models_no_more_run_at_once_than_may(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, max_concurrent=1)
    ollama.faults.hang(SMALL)
    first = asyncio.create_task(asked(http, site, SMALL))
    await until(site, lambda view: view.running)
    second = asyncio.create_task(post(http, f"{site.url}/api/embed", embed()))
    await until(site, lambda view: view.waiting)
    assert ollama.running() == 1
    ollama.faults.unhang(SMALL)
    assert (await first)[0] == 200
    assert (await second)[0] == 200


def embed() -> dict[str, Any]:
    return {"model": EMBEDDER, "input": HELLO}


async def test_of_one_model_no_more_run_at_once_than_its_own_limit(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(num_parallel=4)
    models = {SMALL: ModelConfig(max_concurrent=2)}
    site = await make_site(ollama, models=models)
    ollama.faults.hang(SMALL)
    asking = [asyncio.create_task(asked(http, site, SMALL)) for _ in range(5)]
    await until(site, lambda view: len(view.running) == 2 and len(view.waiting) == 3)
    ollama.faults.unhang(SMALL)
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 5


# ------------------------------------------------------------------- how long they stay


async def test_a_model_may_idle_for_as_long_as_is_its_own(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    models = {SMALL: ModelConfig(keep_alive_s=0.05)}
    site = await make_site(ollama, models=models)
    assert (await post(http, f"{site.url}/api/embed", embed()))[0] == 200
    assert (await asked(http, site, SMALL))[0] == 200
    await until(site, lambda view: resident(view) == {EMBEDDER})


async def test_a_pinned_model_stays_though_another_is_wanted(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={BIG: ModelConfig(pin=True)})
    assert (await asked(http, site, BIG))[0] == 200
    assert (await asked(http, site, OTHER_BIG, SOON))[0] == 504
    assert ollama.loaded() == [BIG]
    assert (await asked(http, site, SMALL))[0] == 200


async def test_a_pinned_model_stays_however_long_it_idles(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    models = {SMALL: ModelConfig(pin=True, keep_alive_s=0.05)}
    site = await make_site(ollama, models=models, keep_alive_s=0.2)
    assert (await asked(http, site, SMALL))[0] == 200
    assert (await post(http, f"{site.url}/api/embed", embed()))[0] == 200
    # What may idle for longer has gone.
    await until(site, lambda view: [each.name for each in view.runners] == [SMALL])
    assert ollama.loaded() == [SMALL]


async def test_a_pinned_model_is_listed_as_one_that_stays(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, models={SMALL: ModelConfig(pin=True)})
    assert (await asked(http, site, SMALL))[0] == 200
    async with http.get(f"{site.url}/api/ps") as response:
        (line,) = (await response.json())["models"]
    assert datetime.fromisoformat(line["expires_at"][:19]).year > 2200


async def test_a_pinned_model_that_was_there_before_is_pinned_as_well(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    assert (await post(http, f"{ollama.url}/api/generate", generate(BIG)))[0] == 200
    site = await make_site(ollama, models={BIG: ModelConfig(pin=True)})
    await until(site, lambda view: resident(view) == {BIG})
    assert (await asked(http, site, OTHER_BIG, SOON))[0] == 504
    assert ollama.loaded() == [BIG]


# ------------------------------------------------------------------- what clients make of it


async def test_openais_client_does_not_try_again_after_its_deadline(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    async with by_openai(site).with_options(max_retries=2) as client:
        with pytest.raises(openai.InternalServerError, match="allows no more") as error:
            await client.completions.create(model=OTHER_BIG, prompt=HELLO, extra_headers=SOON)
    assert error.value.status_code == 504
    assert len(refusals(site)) == 1
    assert (await held.let_go())[0] == 200


async def test_anthropics_client_does_not_try_again_after_its_deadline(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    messages: Any = [{"role": "user", "content": HELLO}]
    async with by_anthropic(site).with_options(max_retries=2) as client:
        with pytest.raises(anthropic.InternalServerError, match="allows no more") as error:
            await client.messages.create(
                model=OTHER_BIG, max_tokens=4, messages=messages, extra_headers=SOON
            )
    assert error.value.status_code == 504
    assert len(refusals(site)) == 1
    assert (await held.let_go())[0] == 200


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_clients_try_again_when_too_many_of_theirs_waited(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama, dialect: str
) -> None:
    site = await make_site(ollama, queue=QueueConfig(max_per_client=1))
    held = await hold(http, site, ollama)
    waiting = asyncio.create_task(asked(http, site, SMALL))
    await until(site, lambda view: view.waiting)
    asking = asyncio.create_task(patient(site, dialect))
    async with asyncio.timeout(10):
        while not refusals(site):
            assert site.gate is not None
            await site.gate.changed()
    assert [each.fields["reason"] for each in refusals(site)] == ["client_full"]
    assert (await held.let_go())[0] == 200
    assert (await waiting)[0] == 200
    assert json.loads(await asking)["model"] == SMALL
    assert len(refusals(site)) == 1


async def patient(site: Site, dialect: str) -> str:
    """Ask as people's clients do, with a second try of their own."""
    if dialect == "openai":
        async with by_openai(site).with_options(max_retries=1) as client:
            told = await client.completions.create(model=SMALL, prompt=HELLO, max_tokens=4)
            return told.model_dump_json()
    messages: Any = [{"role": "user", "content": HELLO}]
    async with by_anthropic(site).with_options(max_retries=1) as other:
        message = await other.messages.create(model=SMALL, max_tokens=4, messages=messages)
        return message.model_dump_json()
