"""Over real sockets: a client, the gate, and a simulated Ollama behind it."""

import asyncio
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from ollama_gate.config import ModelConfig, QueueConfig
from ollama_gate.scheduler.types import Priority, Snapshot
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.site import Site
from tests.conftest import MakeOllama, MakeSite

BIG, OTHER_BIG = "qwen2.5:32b", "gemma3:27b"
"""Neither leaves room for the other on 24 GiB."""

SMALL = "llama3.2:1b"
EMBEDDER = "nomic-embed-text"

Http = aiohttp.ClientSession


def generate(model: str, tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "Hello", "options": {"num_predict": tokens}, **more}


async def until(site: Site, holds: Callable[[Snapshot], object]) -> None:
    """Await a state of the gate; ten seconds without it are a failure."""
    assert site.gate is not None
    async with asyncio.timeout(10):
        while not holds(site.gate.snapshot()):
            await site.gate.changed()


def waiting_are(count: int, view: Snapshot) -> bool:
    return len(view.waiting) == count


async def unloaded(ollama: SimulatedOllama) -> None:
    """Await that nothing is resident."""
    async with asyncio.timeout(10):
        while ollama.loaded():
            await ollama.changed()


async def status(http: Http, site: Site) -> Any:
    async with http.get(f"{site.url}/gate/status") as response:
        assert response.status == 200
        return await response.json()


async def post(http: Http, url: str, body: Any, **more: Any) -> tuple[int, bytes]:
    async with http.post(url, json=body, **more) as response:
        return response.status, await response.read()


class Held:
    """A request whose answer stands still until it is let go, so that its slot stays taken."""

    def __init__(self, http: Http, site: Site, ollama: SimulatedOllama, model: str) -> None:
        self._ollama, self._model = ollama, model
        ollama.faults.hang(model)
        url, body = f"{site.url}/api/generate", generate(model)
        self.task = asyncio.create_task(post(http, url, body))

    async def running(self, site: Site) -> None:
        await until(site, lambda view: view.running)

    async def let_go(self) -> tuple[int, bytes]:
        self._ollama.faults.unhang(self._model)
        return await self.task


async def hold(http: Http, site: Site, ollama: SimulatedOllama, model: str = BIG) -> Held:
    held = Held(http, site, ollama, model)
    await held.running(site)
    return held


# ------------------------------------------------------------------------------- transparency


async def test_a_stream_comes_through_whole(http: Http, site: Site) -> None:
    async with http.post(f"{site.url}/api/generate", json=generate(SMALL, 20)) as response:
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert len(lines) == 21
    assert lines[-1]["done_reason"] == "length"


async def test_a_token_is_passed_on_when_it_comes(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    site = await make_site(await make_ollama(answer_tokens=5_000, speed=5.0))
    async with http.post(f"{site.url}/api/generate", json=generate(SMALL, 5_000)) as response:
        first = await response.content.readany()
    assert json.loads(first.splitlines()[0])["done"] is False


async def test_the_answer_carries_the_gates_headers_and_not_its_name(
    http: Http, site: Site
) -> None:
    headers = {"X-Request-Id": "mine"}
    async with http.post(
        f"{site.url}/api/generate", json=generate(SMALL), headers=headers
    ) as response:
        await response.read()
    assert response.headers["X-Request-Id"] == "mine"
    assert response.headers["X-Gate-Id"]
    assert response.headers["Server-Timing"].startswith("queue;dur=")
    assert "Server" not in response.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/api/version"),
        ("GET", "/api/tags"),
        ("GET", "/v1/models"),
        ("GET", "/nowhere"),
        ("PUT", "/api/tags"),
        ("GET", "/api/tags/"),
        ("POST", "/api/show"),
        ("DELETE", "/v1/chat/completions"),
    ],
)
async def test_what_needs_no_model_is_relayed_as_it_is(
    http: Http, site: Site, ollama: SimulatedOllama, method: str, path: str
) -> None:
    answers = []
    for base in (ollama.url, site.url):
        async with http.request(method, base + path, allow_redirects=False) as response:
            kept = {k: v for k, v in response.headers.items() if k not in {"Date", "Connection"}}
            answers.append((response.status, kept, await response.read()))
    assert answers[0] == answers[1]


async def test_everything_else_passes_at_once_while_inference_waits(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(OTHER_BIG)))
    async with http.get(f"{site.url}/api/ps") as response:
        assert [m["name"] for m in (await response.json())["models"]] == [BIG]
    async with http.get(f"{site.url}/") as response:
        assert await response.read() == b"Ollama is running"
    cloud, _ = await post(http, f"{site.url}/api/generate", generate("gpt-oss:120b-cloud"))
    assert cloud in {200, 401, 403, 502}
    assert not waiting.done()
    assert (await held.let_go())[0] == 200
    assert (await waiting)[0] == 200


# ------------------------------------------------------------------------------- the main job


async def test_forty_alternating_requests_for_two_exclusive_models_take_few_loads(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    models = [BIG, OTHER_BIG] * 20
    url = f"{site.url}/api/generate"
    answers = await asyncio.gather(*(post(http, url, generate(model)) for model in models))
    assert [code for code, _ in answers] == [200] * 40
    assert ollama.counters.loads <= 4
    assert ollama.counters.offloaded_loads == 0


async def test_models_that_fit_together_are_loaded_once_each(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    models = [SMALL, EMBEDDER, "qwen2.5:0.5b"]
    for _ in range(3):
        for model in models:
            path = "/api/embed" if model == EMBEDDER else "/api/generate"
            body = {**generate(model), "input": "text"} if model == EMBEDDER else generate(model)
            assert (await post(http, site.url + path, body))[0] == 200
    assert ollama.counters.loads == 3
    assert sorted(ollama.loaded()) == sorted([SMALL, f"{EMBEDDER}:latest", "qwen2.5:0.5b"])


async def test_high_priority_goes_before_low(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    order: list[str] = []

    async def ask(priority: str) -> None:
        headers = {"X-Priority": priority}
        code, _ = await post(http, f"{site.url}/api/generate", generate(BIG), headers=headers)
        assert code == 200
        order.append(priority)

    tasks = []
    for count, priority in enumerate(("low", "0", "HIGH"), 1):
        tasks.append(asyncio.create_task(ask(priority)))
        await until(site, functools.partial(waiting_are, count))
    await held.let_go()
    await asyncio.gather(*tasks)
    assert order == ["HIGH", "0", "low"]


async def test_the_class_of_a_model_counts_where_a_request_names_none(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    models = {BIG.upper(): ModelConfig(priority=Priority.LOW)}
    site = await make_site(ollama, models=models)
    held = await hold(http, site, ollama)
    assert (await status(http, site))["running"][0]["priority"] == "low"
    await held.let_go()


async def test_a_runner_serves_its_other_name_too(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    for name in ("llama3.2:1b", "LLAMA3.2:1B", "library/llama3.2:1b"):
        assert (await post(http, f"{site.url}/api/generate", generate(name)))[0] == 200
    assert ollama.counters.loads == 1


async def test_a_model_too_big_for_the_card_is_loaded_alone(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200
    assert (await post(http, f"{site.url}/api/generate", generate("llama3.3:70b", 1)))[0] == 200
    assert ollama.loaded() == ["llama3.3:70b"]


# ------------------------------------------------------------------------------- keep_alive


async def test_keep_alive_is_the_gates_to_honour(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    url = f"{site.url}/api/generate"
    assert (await post(http, url, generate(SMALL, keep_alive="1h")))[0] == 200
    runner = (await status(http, site))["runners"][0]
    assert 3500 < runner["expires_in_s"] <= 3600
    async with http.get(f"{ollama.url}/api/ps") as response:
        shown = (await response.json())["models"][0]["expires_at"]
    assert shown > "2100", "Ollama was given the client's keep_alive"
    async with http.get(f"{site.url}/api/ps") as response:
        shown = (await response.json())["models"][0]["expires_at"]
    left = datetime.fromisoformat(shown) - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(hours=1)
    assert (await post(http, url, generate(SMALL, keep_alive=0)))[0] == 200
    await unloaded(ollama)


async def test_an_empty_request_with_keep_alive_0_unloads(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    url = f"{site.url}/api/generate"
    assert (await post(http, url, {"model": SMALL}))[0] == 200
    assert ollama.loaded() == [SMALL]
    code, body = await post(http, url, {"model": SMALL, "keep_alive": 0})
    assert (code, json.loads(body)["done_reason"]) == (200, "unload")
    await unloaded(ollama)
    await until(site, lambda view: not view.runners)
    code, body = await post(http, url, {"model": SMALL, "keep_alive": 0})
    assert (code, json.loads(body)["done_reason"]) == (200, "unload")
    assert ollama.counters.loads == 1


async def test_what_others_wait_for_outlives_an_unload(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    url = f"{site.url}/api/generate"
    waiting = asyncio.create_task(post(http, url, generate(BIG)))
    await until(site, lambda view: view.waiting)
    code, body = await post(http, url, {"model": BIG, "keep_alive": 0})
    assert (code, json.loads(body)["done_reason"]) == (200, "unload")
    await held.let_go()
    assert (await waiting)[0] == 200
    assert ollama.counters.loads == 1
    await unloaded(ollama)


# ------------------------------------------------------------------------------- leaving


async def test_who_leaves_while_waiting_frees_the_place_and_causes_no_load(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    leaving = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(OTHER_BIG)))
    await until(site, lambda view: view.waiting)
    leaving.cancel()
    await until(site, lambda view: not view.waiting)
    assert (await held.let_go())[0] == 200
    assert (await post(http, f"{site.url}/api/generate", generate(BIG)))[0] == 200
    assert ollama.counters.loads == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
async def test_who_leaves_while_running_frees_the_slot_at_once(
    http: Http, site: Site, ollama: SimulatedOllama, path: str, *, stream: bool
) -> None:
    ollama.faults.hang(SMALL)
    messages = [{"role": "user", "content": "Hello"}]
    body = {**generate(SMALL, 500, stream=stream), "messages": messages}
    leaving = asyncio.create_task(post(http, site.url + path, body))
    await until(site, lambda view: view.running)
    leaving.cancel()
    await until(site, lambda view: not view.running)
    ollama.faults.unhang(SMALL)
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200
    assert ollama.counters.loads == 1


# ------------------------------------------------------------------------------- failures


async def test_an_upstream_that_dies_before_the_first_byte_is_tried_again(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama, SMALL)
    await ollama.go_down()
    ollama.faults.unhang(SMALL)
    await ollama.come_back()
    code, body = await held.task
    assert code == 200
    assert json.loads(body.splitlines()[-1])["done"] is True
    assert ollama.counters.loads == 2


async def test_an_upstream_that_dies_after_the_first_byte_breaks_the_answer(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama(answer_tokens=5_000, speed=5.0)
    site = await make_site(ollama)
    asked = {"model": SMALL, "stream": True, "max_tokens": 5_000}
    asked["messages"] = [{"role": "user", "content": "Hello"}]
    async with http.post(f"{site.url}/v1/chat/completions", json=asked) as response:
        await response.content.readany()
        await ollama.go_down()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    await ollama.come_back()
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200


async def test_an_upstream_that_stays_away_is_a_502(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama)
    upstream = structs.replace(site.config.upstream, outage_wait_s=0.2)
    impatient = await make_site(ollama, upstreams=(upstream,))
    await ollama.go_down()
    code, body = await post(http, f"{impatient.url}/api/generate", generate(SMALL))
    assert code == 502
    assert "does not answer" in json.loads(body)["error"]
    async with http.get(f"{impatient.url}/api/tags") as response:
        assert response.status == 502
    async with http.get(f"{impatient.url}/gate/ready") as response:
        assert response.status == 503
    async with http.get(f"{impatient.url}/gate/health") as response:
        assert response.status == 200


async def test_who_comes_while_ollama_is_down_is_served_when_it_is_back(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    await ollama.go_down()
    site = await make_site(ollama)
    waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(SMALL)))
    await ollama.come_back()
    assert (await waiting)[0] == 200


async def test_a_load_that_fails_is_told_in_ollamas_words_and_harms_nobody_else(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    text = "llama-server process has terminated: exit status 1: bad magic"
    ollama.faults.fail_load(SMALL, text)
    url = f"{site.url}/api/generate"
    failed, other = await asyncio.gather(
        post(http, url, generate(SMALL)), post(http, url, generate("qwen2.5:0.5b"))
    )
    assert failed[0] == 500
    assert json.loads(failed[1]) == {"error": text}
    assert other[0] == 200
    assert (await post(http, url, generate(SMALL)))[0] == 200


async def test_a_runner_that_dies_mid_stream_ends_in_ollamas_own_error_line(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    ollama.faults.kill_runner_after(SMALL, 3)
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL, 50))
    assert code == 200
    assert "error" in json.loads(body.splitlines()[-1])
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": 7}',
        b"{}",
        b'{"model": "no-such-model", "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "a b"}',
        b'{"model": "llama3.2:1b", "messages": 3, "prompt": 3}',
    ],
)
async def test_what_ollama_refuses_it_refuses_itself_and_nobody_is_evicted(
    http: Http, site: Site, ollama: SimulatedOllama, path: str, body: bytes
) -> None:
    assert (await post(http, f"{site.url}/api/generate", generate(BIG)))[0] == 200
    answers = []
    for base in (ollama.url, site.url):
        async with http.post(base + path, data=body) as response:
            answers.append((response.status, await response.read()))
    assert answers[0] == answers[1]
    assert 400 <= answers[1][0] < 500
    assert ollama.loaded() == [BIG]


async def test_a_model_is_not_loaded_for_what_it_cannot_do(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    assert (await post(http, f"{site.url}/api/generate", generate(BIG)))[0] == 200
    code, body = await post(http, f"{site.url}/api/generate", generate(EMBEDDER))
    assert code == 400
    assert "does not support generate" in json.loads(body)["error"]
    assert ollama.loaded() == [BIG]


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/api/chat", lambda body: body["error"]),
        ("/v1/chat/completions", lambda body: body["error"]["message"]),
        ("/v1/messages", lambda body: body["error"]["message"]),
    ],
)
async def test_a_priority_that_means_nothing_is_a_400_in_the_dialect(
    http: Http, site: Site, path: str, read: Callable[[Any], str]
) -> None:
    body = {"model": SMALL, "messages": []}
    code, answer = await post(http, site.url + path, body, headers={"X-Priority": "urgent"})
    assert code == 400
    assert "X-Priority" in read(json.loads(answer))
    assert "urgent" in read(json.loads(answer))


async def test_a_body_over_the_limit_is_a_413_and_loses_nobody_elses_request(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama, max_body_bytes=1000)
    held = await hold(http, site, ollama)
    code, body = await post(http, f"{site.url}/api/generate", generate(SMALL, images=["A" * 2000]))
    assert code == 413
    assert "1000 bytes" in json.loads(body)["error"]
    assert (await held.let_go())[0] == 200


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/api/generate", lambda body: body["error"]),
        ("/v1/chat/completions", lambda body: body["error"]["message"]),
        ("/v1/messages", lambda body: body["error"]["message"]),
    ],
)
async def test_a_full_queue_is_a_503_in_ollamas_words(
    http: Http,
    make_site: MakeSite,
    ollama: SimulatedOllama,
    path: str,
    read: Callable[[Any], str],
) -> None:
    site = await make_site(ollama, queue=QueueConfig(max_size=1))
    held = await hold(http, site, ollama)
    waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(OTHER_BIG)))
    await until(site, lambda view: view.waiting)
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": SMALL, "prompt": "Hello", "messages": messages, "max_tokens": 4}
    async with http.post(site.url + path, json=body) as response:
        text = read(await response.json(content_type=None))
    assert response.status == 503
    assert text == "server busy, please try again.  maximum pending requests exceeded"
    assert int(response.headers["Retry-After"]) >= 1
    await held.let_go()
    assert (await waiting)[0] == 200


# ------------------------------------------------------------------------------- asking the gate


async def test_a_waiting_request_can_be_asked_for_and_withdrawn(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    headers = {"X-Request-Id": "mine"}
    url = f"{site.url}/api/generate"
    waiting = asyncio.create_task(post(http, url, generate(OTHER_BIG), headers=headers))
    await until(site, lambda view: view.waiting)
    async with http.get(f"{site.url}/gate/requests/mine") as response:
        found = await response.json()
    assert found["state"] == "waiting"
    assert found["position"] == 1
    assert found["behind"] == [BIG]
    async with http.delete(f"{site.url}/gate/requests/mine") as response:
        assert (await response.json())["cancelled"] is True
    assert (await waiting)[0] == 499
    async with http.get(f"{site.url}/gate/requests/mine") as response:
        assert (await response.json())["state"] == "refused: cancelled"
    assert (await held.let_go())[0] == 200


async def test_a_running_request_can_be_withdrawn(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    request_id = (await status(http, site))["running"][0]["id"]
    async with http.get(f"{site.url}/gate/requests/{request_id}") as response:
        assert (await response.json())["state"] == "running"
    async with http.delete(f"{site.url}/gate/requests/{request_id}") as response:
        assert response.status == 200
    code, body = await held.task
    assert (code, json.loads(body)) == (499, {"error": "request canceled"})
    assert (await status(http, site))["running"] == []
    async with http.get(f"{site.url}/gate/requests/{request_id}") as response:
        assert (await response.json())["state"] == "withdrawn"


async def test_a_withdrawn_stream_is_broken_off_not_completed(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    site = await make_site(await make_ollama(answer_tokens=5_000, speed=5.0))
    async with http.post(f"{site.url}/api/generate", json=generate(SMALL, 5_000)) as response:
        await response.content.readany()
        gate_id = response.headers["X-Gate-Id"]
        async with http.delete(f"{site.url}/gate/requests/{gate_id}") as deleted:
            assert deleted.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_an_unknown_request_is_a_404(http: Http, site: Site) -> None:
    for method in ("GET", "DELETE"):
        async with http.request(method, f"{site.url}/gate/requests/nobody") as response:
            assert response.status == 404
            assert "nobody" in (await response.json())["error"]


async def test_the_status_shows_bins_runners_models_and_decisions(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200
    shown = await status(http, site)
    assert shown["bins"][0]["reading"]["source"] == "simulated"
    assert shown["bins"][0]["committed_bytes"] == shown["runners"][0]["footprint_bytes"] > 0
    (model,) = [model for model in shown["models"] if model["model"] == SMALL]
    # What is seen counts only once it has stood for a while.
    assert (model["source"], model["resident"]) == ("estimated", True)
    assert model["load_s"] > 0
    assert model["service_s"] > 0
    assert model["unload_s"] is None
    load = shown["decisions"][0]
    assert load["what"] == "load"
    assert load["index"] == pytest.approx(load["work"] / load["visit_s"], rel=0.1)


async def test_a_request_that_had_its_slot_tells_what_it_had_waited_for(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    request_id = (await status(http, site))["running"][0]["id"]
    url = f"{site.url}/gate/requests/{request_id}"
    async with http.get(url) as response:
        running = await response.json()
    assert (await held.let_go())[0] == 200
    async with http.get(url) as response:
        ended = await response.json()
    assert (running["state"], ended["state"]) == ("running", "ended")
    assert running["waited"] == ended["waited"]
    [decision] = ended["waited"]["decisions"]
    assert (decision["what"], decision["request"]) == ("load", request_id)
    assert ended["waited"]["queued_s"] >= ended["waited"]["load_s"] > 0
    assert ended["waited"]["overdue"] is False


async def test_one_that_never_had_a_slot_had_nothing_to_wait_for(
    http: Http, site: Site, ollama: SimulatedOllama
) -> None:
    held = await hold(http, site, ollama)
    headers = {"X-Request-Id": "mine"}
    url = f"{site.url}/api/generate"
    waiting = asyncio.create_task(post(http, url, generate(OTHER_BIG), headers=headers))
    await until(site, lambda view: view.waiting)
    async with http.get(f"{site.url}/gate/requests/mine") as response:
        told = await response.json()
    assert told["estimated_wait_s"] > 0
    assert "waited" not in told
    async with http.delete(f"{site.url}/gate/requests/mine") as response:
        assert response.status == 200
    assert (await waiting)[0] == 499
    async with http.get(f"{site.url}/gate/requests/mine") as response:
        assert (await response.json())["waited"] is None
    await held.let_go()


# ------------------------------------------------------------------------------- the end


async def test_at_shutdown_the_waiting_are_refused_and_the_running_end(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama)
    held = await hold(http, site, ollama)
    waiting = asyncio.create_task(post(http, f"{site.url}/api/generate", generate(OTHER_BIG)))
    await until(site, lambda view: view.waiting)
    closing = asyncio.create_task(site.close(grace_s=10.0))
    assert (await waiting)[0] == 503
    assert not held.task.done()
    assert (await held.let_go())[0] == 200
    await closing
    async with http.get(f"{ollama.url}/api/ps") as response:
        models = (await response.json())["models"]
    assert [model["name"] for model in models] == [BIG]
    assert models[0]["expires_at"] < "2100", "Ollama would keep it for ever"


async def test_an_answer_that_outlives_the_grace_is_cut_off(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    site = await make_site(ollama)
    held = await hold(http, site, ollama)
    async with asyncio.timeout(10):
        await site.close(grace_s=0.05)
    with pytest.raises(aiohttp.ClientError):
        await held.task


async def test_who_waits_for_an_upstream_never_seen_is_counted_and_refused_at_shutdown(
    http: Http, make_site: MakeSite, ollama: SimulatedOllama
) -> None:
    await ollama.go_down()
    site = await make_site(ollama, queue=QueueConfig(max_size=1))
    url = f"{site.url}/api/generate"
    waiting = asyncio.create_task(post(http, url, generate(SMALL)))
    assert site.gate is not None
    async with asyncio.timeout(10):
        while not site.gate.outside:
            await site.gate.changed()
    assert (await post(http, url, generate(SMALL)))[0] == 503
    async with asyncio.timeout(10):
        await site.close(grace_s=5.0)
    assert (await waiting)[0] == 503


async def test_what_the_gate_did_not_load_is_left_as_it_is(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama()
    body = generate(SMALL, keep_alive="10h", options={"num_thread": 2, "num_predict": 1})
    assert (await post(http, f"{ollama.url}/api/generate", body))[0] == 200
    site = await make_site(ollama)
    await until(site, lambda view: view.runners)
    await site.close(grace_s=0.0)
    async with http.get(f"{ollama.url}/api/ps") as response:
        expires_at = (await response.json())["models"][0]["expires_at"]
    left = datetime.fromisoformat(f"{expires_at[:19]}+00:00") - datetime.now(UTC)
    assert timedelta(hours=8) < left < timedelta(hours=11)
    assert ollama.counters.loads == 1


async def test_a_target_in_absolute_form_is_relayed(site: Site) -> None:
    host, port = site.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {site.url}/api/version HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_what_is_resident_at_the_start_is_adopted(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    ollama = await make_ollama()
    assert (await post(http, f"{ollama.url}/api/generate", generate(SMALL)))[0] == 200
    site = await make_site(ollama)
    assert (await post(http, f"{site.url}/api/generate", generate(SMALL)))[0] == 200
    assert ollama.counters.loads == 1
