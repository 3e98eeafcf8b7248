"""Several Ollamas behind one gate: what a name means, where it is served, and who goes away."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from ollama_gate import fleet
from ollama_gate.config import SchedulerConfig
from ollama_gate.errors import (
    UpstreamError,
    UpstreamGoneError,
    UpstreamLoopError,
    UpstreamRefusedError,
    UpstreamSilentError,
)
from ollama_gate.fleet import united
from ollama_gate.footprint import Facts
from ollama_gate.scheduler.types import (
    BinId,
    Exact,
    Launch,
    ModelKey,
    Need,
    Request,
    RequestId,
)
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.simulator.demo import config_before
from ollama_gate.simulator.library import select
from ollama_gate.site import Site
from ollama_gate.wire import Ask, Endpoint, read
from tests.conftest import MakeOllama, MakeSite
from tests.test_app import BIG, EMBEDDER, OTHER_BIG, SMALL, Http, generate, post, status, until

ONLY_THERE = "qwen2.5:7b"

Pair = tuple[SimulatedOllama, SimulatedOllama]


@pytest.fixture
async def pair(make_ollama: MakeOllama) -> Pair:
    """Two with a card each; two models are on the second alone."""
    models = (BIG, OTHER_BIG, SMALL)
    return await make_ollama(models=models), await make_ollama(
        models=(*models, ONLY_THERE, EMBEDDER)
    )


@pytest.fixture
async def site(pair: Pair, make_site: MakeSite) -> Site:
    site = await make_site(*pair)
    await all_answer(site)
    return site


async def all_answer(site: Site) -> None:
    await until(site, lambda view: all(each.available for each in view.bins))


async def away(site: Site, name: str) -> None:
    """Await that the gate has noticed."""
    await until(
        site, lambda view: not next(b for b in view.bins if b.bin.upstream == name).available
    )


async def ask(http: Http, site: Site, model: str, **more: Any) -> tuple[int, Any]:
    code, body = await post(http, f"{site.url}/api/generate", generate(model, stream=False, **more))
    return code, json.loads(body)


def loads(pair: Pair) -> tuple[int, int]:
    one, two = (each.counters.loads for each in pair)
    return one, two


# ------------------------------------------------------------------------------- where


async def test_two_models_that_do_not_fit_together_are_served_side_by_side(
    http: Http, site: Site, pair: Pair
) -> None:
    answers = await asyncio.gather(*(ask(http, site, m) for m in (BIG, OTHER_BIG) * 4))
    assert {code for code, _ in answers} == {200}
    assert loads(pair) == (1, 1)
    assert pair[0].loaded() != pair[1].loaded()


async def test_a_model_is_served_where_its_file_is(http: Http, site: Site, pair: Pair) -> None:
    code, _ = await ask(http, site, ONLY_THERE)
    assert code == 200
    assert loads(pair) == (0, 1)


async def test_a_model_that_nobody_has_is_not_found_by_ollama_itself(
    http: Http, site: Site, pair: Pair
) -> None:
    assert await ask(http, site, "nothing") == (404, {"error": "model 'nothing' not found"})


async def test_what_needs_no_slot_goes_to_who_has_the_model(
    http: Http, site: Site, pair: Pair
) -> None:
    told = await post(http, f"{site.url}/api/generate", generate(EMBEDDER))
    straight = await post(http, f"{pair[1].url}/api/generate", generate(EMBEDDER))
    assert told == straight
    assert told[0] == 400
    assert (await status(http, site))["decisions"] == []


async def test_a_model_is_unloaded_wherever_it_is(http: Http, site: Site, pair: Pair) -> None:
    await asyncio.gather(ask(http, site, BIG), ask(http, site, OTHER_BIG))
    for model in (BIG, OTHER_BIG):
        code, _ = await post(http, f"{site.url}/api/generate", {"model": model, "keep_alive": 0})
        assert code == 200
    await until(site, lambda view: not view.runners)
    assert [each.loaded() for each in pair] == [[], []]


# ------------------------------------------------------------------------------- what a name means


async def test_another_file_under_the_same_name_is_no_further_place(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    [model] = select([SMALL])
    other = replace(model, blob_of="something else")
    pair = await make_ollama(disk=(model,)), await make_ollama(disk=(other,))
    site = await make_site(*pair)
    await all_answer(site)
    answers = await asyncio.gather(*(ask(http, site, SMALL) for _ in range(6)))
    assert {code for code, _ in answers} == {200}
    assert loads(pair) == (1, 0)
    await pair[0].go_down()
    await away(site, "simulated")
    # It is known what the name meant there, but here it means something as well.
    code, _ = await ask(http, site, SMALL)
    assert code == 200
    assert loads(pair) == (1, 1)


@pytest.fixture
async def unlike(make_ollama: MakeOllama) -> Pair:
    """Two that are set up differently, with one model."""
    one = await make_ollama(models=(SMALL,), num_parallel=1, context_length=2048)
    return one, await make_ollama(models=(SMALL,), num_parallel=3, context_length=8192)


async def test_each_upstream_is_asked_in_its_own_words(unlike: Pair, make_site: MakeSite) -> None:
    site = await make_site(*unlike)
    await all_answer(site)
    assert site.fleet is not None
    meaning = await site.fleet.meaning(RequestId("r"), SMALL)
    assert meaning is not None
    asked = read(Endpoint.GENERATE, {}, json.dumps(generate(SMALL)).encode())
    assert isinstance(asked, Ask)
    wanted = site.fleet.request(
        RequestId("r"), asked, meaning, priority=None, client="", arrived_at=0.0
    )
    here, there = BinId("simulated/0"), BinId("second/0")
    assert list(wanted.needs) == [here, there]
    assert (wanted.num_ctx, wanted.parallel) == (2048, 1)
    assert wanted.at(here) is wanted
    assert (wanted.at(there).num_ctx, wanted.at(there).parallel) == (8192, 3)
    assert wanted.needs[there].footprint_bytes > wanted.needs[here].footprint_bytes


async def test_no_upstream_is_given_more_at_once_than_it_takes(
    http: Http, unlike: Pair, make_site: MakeSite
) -> None:
    site = await make_site(*unlike, scheduler=SchedulerConfig())
    await all_answer(site)
    for each in unlike:
        each.faults.hang(SMALL)
    asked = [asyncio.create_task(ask(http, site, SMALL)) for _ in range(9)]
    most = {"simulated/0": 1, "second/0": 3}
    await until(
        site,
        lambda view: view.runners and all(len(r.running) == most[r.bin] for r in view.runners),
    )
    assert [each.waiting() for each in unlike] == [0, 0]
    for each in unlike:
        each.faults.unhang(SMALL)
    assert {code for code, _ in await asyncio.gather(*asked)} == {200}
    assert all(each.counters.unloads == 0 for each in unlike)


async def test_a_context_that_is_named_is_named_to_each_upstream_as_it_needs_it(
    http: Http, unlike: Pair, make_site: MakeSite
) -> None:
    site = await make_site(*unlike)
    await all_answer(site)
    seen = []
    for up, down, name in ((0, 1, "second"), (1, 0, "simulated")):
        await unlike[down].go_down()
        await away(site, name)
        assert (await ask(http, site, SMALL, options={"num_ctx": 6000}))[0] == 200
        async with http.get(f"{unlike[up].url}/api/ps") as answer:
            [line] = (await answer.json())["models"]
            seen.append((line["context_length"], unlike[up].counters.loads))
        await unlike[down].come_back()
        await all_answer(site)
    # More than the first gives by itself, and less than the second does.
    assert seen == [(6000, 1), (8192, 1)]


# ------------------------------------------------------------------------------- who goes away


async def test_who_waits_for_an_upstream_that_dies_is_served_by_the_other(
    http: Http, site: Site, pair: Pair
) -> None:
    for each in pair:
        each.faults.hang(BIG)
        each.faults.hang(OTHER_BIG)
    asked = [asyncio.create_task(ask(http, site, m)) for m in (BIG, OTHER_BIG) * 5]
    await until(site, lambda view: len(view.running) == len(view.runners) == len(pair))
    await until(site, lambda view: len(view.waiting) == len(asked) - len(pair))
    await pair[0].go_down()
    for model in (BIG, OTHER_BIG):
        pair[1].faults.unhang(model)
    answers = await asyncio.gather(*asked)
    assert {code for code, _ in answers} == {200}
    assert pair[1].counters.loads == len(pair)


async def test_an_upstream_that_comes_back_is_used_again(
    http: Http, site: Site, pair: Pair
) -> None:
    await pair[0].go_down()
    await asyncio.gather(ask(http, site, BIG), ask(http, site, OTHER_BIG))
    await pair[0].come_back()
    await all_answer(site)
    await asyncio.gather(*(ask(http, site, m) for m in (BIG, OTHER_BIG) * 3))
    assert pair[0].counters.loads >= 1


async def test_an_upstream_that_is_away_at_the_start_holds_nobody_up(
    http: Http, make_ollama: MakeOllama, make_site: MakeSite
) -> None:
    pair = await make_ollama(models=(BIG, SMALL)), await make_ollama(models=(SMALL,))
    await pair[0].go_down()
    site = await make_site(*pair)
    await away(site, "simulated")
    code, _ = await ask(http, site, SMALL)
    assert code == 200
    # Only the one that is away may have this.
    waiting = asyncio.create_task(ask(http, site, BIG))
    await until(site, lambda _: site.gate is not None and site.gate.outside == 1)
    await pair[0].come_back()
    code, _ = await waiting
    assert code == 200
    assert loads(pair) == (1, 1)


async def test_what_nobody_is_there_for_waits_and_is_told_who_does_not_answer(
    http: Http, pair: Pair, make_site: MakeSite
) -> None:
    config = config_before(*pair)
    impatient = (structs.replace(each, outage_wait_s=0.2) for each in config.upstreams)
    site = await make_site(*pair, upstreams=tuple(impatient))
    await all_answer(site)
    assert (await ask(http, site, ONLY_THERE))[0] == 200
    await pair[1].go_down()
    await away(site, "second")
    assert await ask(http, site, ONLY_THERE) == (502, {"error": f"{pair[1].url} does not answer"})
    await pair[0].go_down()
    code, answer = await ask(http, site, "anything")
    assert code == 502
    assert answer == {"error": f"{pair[0].url} and {pair[1].url} do not answer"}


async def test_what_is_away_is_a_place_for_those_who_wait_once_it_is_back(
    http: Http, pair: Pair, make_site: MakeSite
) -> None:
    # So patient that nobody is to make room for who waits.
    site = await make_site(*pair, scheduler=SchedulerConfig())
    await all_answer(site)
    for model in (BIG, OTHER_BIG):
        assert (await ask(http, site, model))[0] == 200
    await pair[0].go_down()
    await away(site, "simulated")
    for model in (BIG, OTHER_BIG):
        pair[1].faults.hang(model)
    asked = [asyncio.create_task(ask(http, site, m)) for m in (BIG, OTHER_BIG)]
    await until(site, lambda view: len(view.running) == len(view.waiting) == 1)
    await pair[0].come_back()
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    assert len(done) == 1
    for model in (BIG, OTHER_BIG):
        pair[1].faults.unhang(model)
    assert {code for code, _ in await asyncio.gather(*asked)} == {200}


# ------------------------------------------------------------------------------- who answers oddly


async def means(site: Site, name: str) -> list[str]:
    """The upstreams at which a name means the same, whoever says so first."""
    assert site.fleet is not None
    meaning = await site.fleet.meaning(RequestId("r"), name)
    return [] if meaning is None else [member.name for member in meaning.members]


async def never(*_: object, **__: object) -> Facts | None:
    await asyncio.Event().wait()
    return None


def raising(error: UpstreamError) -> Callable[..., Awaitable[Facts | None]]:
    async def facts(*_: object, **__: object) -> Facts | None:
        raise error

    return facts


async def test_a_further_place_is_not_waited_for_but_remembered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.fleet is not None
    assert await means(site, SMALL) == ["simulated", "second"]
    monkeypatch.setattr(fleet, "FURTHER_S", 0.01)
    monkeypatch.setattr(site.fleet["second"].registry, "facts", never)
    assert await means(site, SMALL) == ["simulated", "second"]


@pytest.mark.parametrize(
    ("error", "further"),
    [
        (UpstreamSilentError("it did not answer in time"), ["simulated"]),
        (UpstreamLoopError("this gate"), ["simulated"]),
        (UpstreamGoneError("refused"), ["simulated"]),
        (UpstreamRefusedError(500, "unexpected EOF"), []),
    ],
)
async def test_a_name_means_what_the_next_says_where_the_first_cannot(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: UpstreamError, further: list[str]
) -> None:
    assert site.fleet is not None
    await means(site, SMALL)
    monkeypatch.setattr(site.fleet["simulated"].registry, "facts", raising(error))
    assert await means(site, SMALL) == ["second", *further]


@pytest.mark.parametrize(
    "error", [UpstreamSilentError("too late"), UpstreamRefusedError(500, "unexpected EOF")]
)
async def test_an_error_is_told_where_nobody_else_has_the_model(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: UpstreamError
) -> None:
    assert site.fleet is not None
    monkeypatch.setattr(site.fleet["second"].registry, "facts", raising(error))
    with pytest.raises(type(error)):
        await means(site, ONLY_THERE)


# ------------------------------------------------------------------------------- many views of one


def a_view(bin_id: str, **more: Any) -> Request:
    given: dict[str, Any] = {
        "id": RequestId("r"),
        "model": ModelKey("m"),
        "name": "m",
        "needs": {BinId(bin_id): Need(footprint_bytes=len(bin_id), predicted_bytes=0)},
        "arrived_at": 1.0,
        **more,
    }
    return Request(**given)


def test_views_that_differ_in_their_bins_alone_are_one() -> None:
    exact = Exact(launch=Launch(num_ctx=9), needs={})
    views = [a_view("a/0", exact=exact), a_view("bb/0", exact=exact)]
    one = united(views)
    assert dict(one.variants) == {}
    assert one.needs == {**views[0].needs, **views[1].needs}
    assert one.at(BinId("bb/0")) is one


def test_what_a_request_would_get_by_itself_is_known_for_every_bin() -> None:
    needs = [a_view(name).needs for name in ("a/0", "bb/0")]
    launch = Launch(num_ctx=9)
    one = united(
        [
            a_view("a/0", exact=Exact(launch=launch, needs=needs[0])),
            a_view("bb/0", exact=Exact(launch=launch, needs=needs[1])),
        ]
    )
    assert one.exact == Exact(launch=launch, needs={**needs[0], **needs[1]})


@pytest.mark.parametrize(
    "more", [{"parallel": 4}, {"num_ctx": 8192}, {"exact": Exact(launch=Launch(), needs={})}]
)
def test_a_view_that_differs_in_more_goes_along(more: dict[str, Any]) -> None:
    views = [a_view("a/0"), a_view("bb/0", **more), a_view("c/0")]
    one = united(views)
    assert one.variants == {BinId("bb/0"): views[1]}
    assert one.at(BinId("c/0")) is one


def test_one_view_is_the_request() -> None:
    view = a_view("a/0")
    assert united([view]) is view
