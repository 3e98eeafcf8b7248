"""What a client sees when memory runs out, a runner dies or a model slides onto the CPU."""

import json

import pytest

from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import SMALL, Http, generate, post, status

OOM = "CUDA error: out of memory"
DIED = "unexpected EOF"


@pytest.mark.parametrize("text", [OOM, DIED])
async def test_who_has_seen_nothing_of_an_answer_is_asked_for_again_and_sees_no_error(
    http: Http, site: Site, ollama: SimulatedOllama, text: str
) -> None:
    ollama.faults.kill_runner_after(SMALL, 2, text)
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL, stream=False))
    assert (code, json.loads(body)["done"]) == (200, True)
    assert ollama.counters.loads == 2
    reasons = [each["what"] for each in (await status(http, site))["decisions"]]
    assert "unload broken" in reasons


async def test_who_loses_two_runners_is_told_so_in_ollamas_own_words(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    ollama.faults.kill_runner_after(SMALL, 2, OOM)
    ollama.faults.kill_runner_in_prompt(SMALL, OOM)
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL, stream=False))
    assert code == 500
    assert OOM in json.loads(body)["error"]


async def test_a_stream_that_ends_in_an_error_is_left_as_it_is_and_its_runner_let_go(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    ollama.faults.kill_runner_after(SMALL, 2)
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL))
    assert code == 200
    assert b"error" in body.splitlines()[-1]
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL))
    assert json.loads(body.splitlines()[-1])["done"] is True
    assert ollama.counters.loads == 2


async def test_only_an_answer_that_ends_by_itself_tells_how_long_answers_take(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    url, experience = f"{site.url}/api/generate", site._posts[0].experience
    ollama.faults.kill_runner_after(SMALL, 2)
    code, body = await post(http, url, generate(SMALL))
    assert (code, b"error" in body) == (200, True)
    assert site.fleet is not None
    facts = await site.fleet.members[0].registry.facts(SMALL)
    assert facts is not None
    assert experience.times(facts.key).service is None
    # Ollama refuses this once the model is there.
    code, _ = await post(http, url, generate(SMALL, format="nothing"))
    assert code >= 400
    assert experience.times(facts.key).service is None
    await post(http, url, generate(SMALL))
    service = experience.times(facts.key).service
    assert service is not None
    assert service.count == 1


@pytest.mark.parametrize("route", ["chat/completions", "completions"])
async def test_a_runner_that_died_in_an_openai_stream_is_loaded_again_by_the_gate(
    http: Http, site: Site, ollama: SimulatedOllama, route: str
) -> None:
    ollama.faults.kill_runner_after(SMALL, 2)
    asked = {"messages": [{"role": "user", "content": "a"}], "prompt": "a"}
    body = {"model": SMALL, "stream": True, "max_tokens": 9, **asked}
    code, answer = await post(http, f"{site.url}/v1/{route}", body)
    assert code == 200
    assert b"[DONE]" not in answer
    await post(http, f"{site.url}/api/generate", generate(SMALL))
    reasons = [each["what"] for each in (await status(http, site))["decisions"]]
    assert reasons.count("unload broken") == 1
    assert reasons.count("load") == 2


async def test_a_load_that_runs_out_of_memory_is_tried_again(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    ollama.faults.fail_load(SMALL, "cudaMalloc failed: out of memory")
    code, _ = await post(http, f"{site.url}/api/generate", generate(SMALL))
    assert code == 200
    assert ollama.counters.failed_loads == 1


async def test_how_much_of_a_model_is_on_the_cpu_is_told(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    site = await make_site(await make_ollama(cards=(2 * 2**30,)))
    url = f"{site.url}/api/generate"
    async with http.post(url, json=generate("qwen2.5:7b")) as answer:
        await answer.read()
        told = answer.headers["X-Gate-Offload"]
    assert 0 < float(told) <= 1
    assert len(told) == len("0.42")
    [runner] = (await status(http, site))["runners"]
    assert runner["offload"] == pytest.approx(float(told), abs=0.005)


async def test_who_may_not_be_on_the_cpu_is_told_that_it_does_not_fit(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(cards=(2 * 2**30,))
    site = await make_site(ollama, offload="refuse")
    async with http.post(f"{site.url}/api/generate", json=generate("qwen2.5:7b")) as answer:
        body = await answer.json()
        assert answer.status == 507
        assert answer.headers["x-should-retry"] == "false"
    assert "GiB of GPU memory and there is" in body["error"]
    assert ollama.counters.loads == 0
