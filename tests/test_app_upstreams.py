"""What needs no slot, over two simulated Ollamas: whose lists, whose answers, whose models."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import ollama as native
import openai
import pytest
from msgspec import structs

from ollama_gate.app import changes, passing
from ollama_gate.app import upstreams as upstreams_module
from ollama_gate.known import Line
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, gate_config
from ollama_gate.site import Site
from tests.conftest import MakeOllama
from tests.test_app import EMBEDDER, SMALL, Http, generate, post, status
from tests.upstreams import Conversation, Upstreams

ONLY_LEFT, ONLY_RIGHT, BOTH = "tinyllama:1.1b", "mistral:7b", SMALL
LEFT = (BOTH, ONLY_LEFT)
RIGHT = (ONLY_RIGHT, BOTH, EMBEDDER)

LIMIT_S = 10.0


class Pair(NamedTuple):
    """A gate, and the two upstreams before which it stands."""

    site: Site
    left: SimulatedOllama
    right: SimulatedOllama

    @property
    def url(self) -> str:
        return self.site.url

    async def sees(self, *, away: tuple[str, ...]) -> None:
        """Await that the gate has noticed who is away."""
        gate = self.site.gate
        assert gate is not None
        async with asyncio.timeout(LIMIT_S):
            while {name for name in ("left", "right") if gate.is_away(name)} != set(away):
                await gate.changed()


MakeGate = Callable[[SimulatedOllama, Mapping[str, str]], Awaitable[Site]]


@pytest.fixture
async def make_gate() -> AsyncIterator[MakeGate]:
    """Open gates before upstreams, told by name and URL, all with the cards of one Ollama."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(simulated: SimulatedOllama, urls: Mapping[str, str]) -> Site:
            config = gate_config(simulated.url, simulated.settings)
            common = config.upstreams[0]
            named = [structs.replace(common, name=name, url=url) for name, url in urls.items()]
            site = Site(
                structs.replace(config, upstreams=tuple(named)),
                card=tuple(SimulatedCard(simulated) for _ in named),
                busy_poll_s=0.01,
                temporary=True,
            )
            await site.open()
            stack.push_async_callback(site.close, grace_s=0.0)
            assert site.gate is not None
            for name in urls:
                assert await site.gate.answers(name, LIMIT_S)
            return site

        yield make


@pytest.fixture
async def pair(make_ollama: MakeOllama, make_gate: MakeGate) -> Pair:
    left, right = await make_ollama(models=LEFT), await make_ollama(models=RIGHT)
    return Pair(await make_gate(left, {"left": left.url, "right": right.url}), left, right)


@pytest.fixture
async def by_ollama(pair: Pair) -> AsyncIterator[native.AsyncClient]:
    client = native.AsyncClient(host=pair.url)
    yield client
    await client._client.aclose()


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def whose(self) -> str | None:
        found: str | None = self.headers.get("X-Gate-Upstream")
        return found

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def names(self, member: str = "models", field: str = "name") -> list[str]:
        return [one[field] for one in self.json[member]]


async def ask(http: Http, method: str, url: str, body: Any = None, to: str = "") -> Reply:
    headers = {"X-Gate-Upstream": to} if to else {}
    async with http.request(method, url, json=body, headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())


# ------------------------------------------------------------------------------- lists


async def test_each_model_is_listed_once_in_the_words_of_the_first_that_has_it(
    http: Http, pair: Pair
) -> None:
    merged = await ask(http, "GET", f"{pair.url}/api/tags")
    left = await ask(http, "GET", f"{pair.left.url}/api/tags")
    right = await ask(http, "GET", f"{pair.right.url}/api/tags")
    assert sorted(merged.names()) == sorted({*left.names(), *right.names()})
    entries = {one["name"]: one for one in [*right.json["models"], *left.json["models"]]}
    assert {one["name"]: one for one in merged.json["models"]} == entries
    assert merged.headers["Content-Length"] == str(len(merged.body))
    assert merged.headers["Content-Type"] == left.headers["Content-Type"]
    assert merged.whose == "left, right"


async def test_the_head_of_a_list_tells_how_long_it_is(http: Http, pair: Pair) -> None:
    whole = await ask(http, "GET", f"{pair.url}/api/tags")
    head = await ask(http, "HEAD", f"{pair.url}/api/tags")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.body))


async def test_openais_client_lists_and_finds_the_models_of_all(pair: Pair) -> None:
    client = openai.AsyncOpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0)
    async with client:
        names = [model.id async for model in client.models.list()]
        assert sorted(names) == sorted({*LEFT, ONLY_RIGHT, BOTH, f"{EMBEDDER}:latest"})
        assert (await client.models.retrieve(ONLY_RIGHT)).id == ONLY_RIGHT
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("no-such-model")


async def test_what_runs_is_listed_for_each_upstream_with_the_gates_own_expiry(
    http: Http, pair: Pair
) -> None:
    for model in (ONLY_LEFT, ONLY_RIGHT):
        body = generate(model, keep_alive="20m")
        assert (await post(http, f"{pair.url}/api/generate", body))[0] == 200
    assert (await post(http, f"{pair.right.url}/api/generate", generate(BOTH)))[0] == 200
    assert (await post(http, f"{pair.left.url}/api/generate", generate(BOTH)))[0] == 200
    listed = await ask(http, "GET", f"{pair.url}/api/ps")
    assert sorted(listed.names()) == sorted([ONLY_LEFT, ONLY_RIGHT, BOTH, BOTH])
    years = {one["expires_at"][:4] for one in listed.json["models"]}
    assert max(years) < "2300", "Ollama itself was told to keep it for ever"


async def test_who_is_away_is_left_out_of_lists(http: Http, pair: Pair) -> None:
    await pair.left.go_down()
    for path, member, field in (("/api/tags", "models", "name"), ("/v1/models", "data", "id")):
        listed = await ask(http, "GET", f"{pair.url}{path}")
        alone = await ask(http, "GET", f"{pair.right.url}{path}")
        assert (listed.status, listed.whose) == (200, "right")
        assert listed.names(member, field) == alone.names(member, field)
    await pair.left.come_back()
    await pair.sees(away=())
    listed = await ask(http, "GET", f"{pair.url}/api/tags")
    assert listed.whose == "left, right"


async def test_when_all_are_away_a_list_is_answered_502(http: Http, pair: Pair) -> None:
    await pair.left.go_down()
    await pair.right.go_down()
    native_one = await ask(http, "GET", f"{pair.url}/api/tags")
    assert native_one.status == 502
    assert "does not answer" in native_one.json["error"]
    assert (await ask(http, "GET", f"{pair.url}/v1/models")).json["error"]["type"] == "api_error"
    assert (await ask(http, "POST", f"{pair.url}/api/show", {"model": BOTH})).status == 502
    assert (await ask(http, "GET", f"{pair.url}/api/version")).status == 502
    assert (await ask(http, "DELETE", f"{pair.url}/api/delete", {"model": BOTH})).status == 502


async def test_who_accepts_and_says_nothing_does_not_hold_up_others(
    http: Http, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams_module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(upstreams_module, "AWAY_S", 0.05)
    assert (await ask(http, "POST", f"{pair.url}/api/pull", {"model": "none"})).whose == "left"
    port = int(pair.left.url.rpartition(":")[2])
    await pair.left.go_down()
    silent = asyncio.Event()

    async def says_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await silent.wait()

    server = await asyncio.start_server(says_nothing, "127.0.0.1", port)
    try:
        listed = await ask(http, "GET", f"{pair.url}/api/tags")
        assert (listed.status, listed.whose) == (200, "right")
        for model, status_ in ((BOTH, 200), ("no-such-model", 404), (ONLY_LEFT, 502)):
            shown = await ask(http, "POST", f"{pair.url}/api/show", {"model": model})
            assert shown.status == status_
        found = await ask(http, "GET", f"{pair.url}/v1/models/{ONLY_LEFT}")
        assert "did not answer in time" in found.json["error"]["message"]
    finally:
        silent.set()
        server.close()


class Grudging:
    """An upstream that has a model, tells of it, and does nothing with it.

    Attributes:
        says: the status and the body for a request line without its version.
    """

    def __init__(self) -> None:
        listed = {"name": BOTH, "digest": "d", "modified_at": "2026-01-01T00:00:00Z"}
        self.says: dict[str, tuple[int, Any]] = {
            "GET /api/ps": (200, {"models": []}),
            "GET /api/version": (200, {"version": "0.32.15"}),
            "GET /api/tags": (200, {"models": [listed]}),
            "DELETE /api/delete": (500, {"error": "the disk is worn out"}),
        }

    async def play(self, conversation: Conversation) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await conversation.head()
                length = next((one[16:] for one in head if one.startswith("Content-Length: ")), "0")
                await conversation.read(int(length))
                asked = head[0].removesuffix(" HTTP/1.1")
                code, said = self.says.get(asked, (404, {"error": "not found"}))
                body = json.dumps(said).encode()
                begin = f"HTTP/1.1 {code} X\r\nContent-Length: {len(body)}\r\n\r\n"
                await conversation.say(begin.encode(), body)


async def test_an_upstreams_error_is_shown_only_where_nobody_lists_anything(
    http: Http, make_ollama: MakeOllama, make_gate: MakeGate, upstreams: Upstreams
) -> None:
    one, two = Grudging(), Grudging()
    urls = {"one": await upstreams.serve(one.play), "two": await upstreams.serve(two.play)}
    site = await make_gate(await make_ollama(), urls)
    one.says["GET /api/tags"] = 401, {"error": "who are you"}
    two.says["GET /api/tags"] = 200, {"models": [{"name": "mine"}]}
    listed = await ask(http, "GET", f"{site.url}/api/tags")
    assert (listed.status, listed.names(), listed.whose) == (200, ["mine"], "two")
    two.says["GET /api/tags"] = 500, {"error": "no list"}
    refused = await ask(http, "GET", f"{site.url}/api/tags")
    assert (refused.status, refused.json, refused.whose) == (401, {"error": "who are you"}, "one")


async def test_a_list_that_breaks_off_is_left_out(
    http: Http, pair: Pair, make_gate: MakeGate, upstreams: Upstreams
) -> None:
    class Breaking(Grudging):
        async def play(self, conversation: Conversation) -> None:
            if "GET /api/tags HTTP/1.1" in await conversation.head():
                await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
            else:
                await conversation.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    urls = {"broken": await upstreams.serve(Breaking().play), "right": pair.right.url}
    site = await make_gate(pair.right, urls)
    listed = await ask(http, "GET", f"{site.url}/api/tags")
    assert (listed.status, listed.whose) == (200, "right")


async def test_a_deletion_that_failed_anywhere_is_no_success(
    http: Http, make_ollama: MakeOllama, make_gate: MakeGate, upstreams: Upstreams
) -> None:
    simulated = await make_ollama(models=LEFT)
    urls = {"left": simulated.url, "right": await upstreams.serve(Grudging().play)}
    site = await make_gate(simulated, urls)
    failed = await ask(http, "DELETE", f"{site.url}/api/delete", {"model": BOTH})
    assert (failed.status, failed.json) == (500, {"error": "the disk is worn out"})
    assert failed.whose == "right"
    assert BOTH not in await listed_by(http, simulated)


# ------------------------------------------------------------------------------- one model


@pytest.mark.parametrize(
    ("model", "whose"), [(BOTH, "left"), (ONLY_RIGHT, "right"), ("no-such-model", "left")]
)
async def test_a_model_is_shown_by_the_first_that_has_it(
    http: Http, pair: Pair, model: str, whose: str
) -> None:
    upstream = getattr(pair, whose)
    for method, path, body in (
        ("POST", "/api/show", {"model": model}),
        ("GET", f"/v1/models/{model}", None),
    ):
        through = await ask(http, method, f"{pair.url}{path}", body)
        direct = await ask(http, method, f"{upstream.url}{path}", body)
        assert (through.status, through.body) == (direct.status, direct.body)
        assert through.whose == whose


async def test_ollamas_client_is_shown_the_models_of_all(by_ollama: native.AsyncClient) -> None:
    for model in (BOTH, ONLY_LEFT, ONLY_RIGHT):
        assert "completion" in ((await by_ollama.show(model)).capabilities or ())
    with pytest.raises(native.ResponseError) as error:
        await by_ollama.show("no-such-model")
    assert error.value.status_code == 404


async def test_what_is_too_long_to_look_for_its_model_is_for_the_first(
    http: Http, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "PEEK_BYTES", 16)
    monkeypatch.setattr(changes, "PEEK_BYTES", 16)
    body = {"model": ONLY_RIGHT, "stream": False}
    for path, code in (("/api/show", 404), ("/api/pull", 200)):
        told = await ask(http, "POST", f"{pair.url}{path}", body)
        assert (told.status, told.whose) == (code, "left")
    assert ONLY_RIGHT in await listed_by(http, pair.left)


async def test_a_model_is_shown_by_another_while_the_first_is_away(http: Http, pair: Pair) -> None:
    await pair.left.go_down()
    shown = await ask(http, "POST", f"{pair.url}/api/show", {"model": BOTH})
    assert (shown.status, shown.whose) == (200, "right")


async def test_a_question_that_needs_no_model_is_for_the_first_that_answers(
    http: Http, pair: Pair
) -> None:
    for method, path in (("GET", "/"), ("HEAD", "/"), ("GET", "/api/version"), ("PUT", "/x")):
        assert (await ask(http, method, f"{pair.url}{path}")).whose == "left"
    await pair.left.go_down()
    for method, path in (("GET", "/"), ("HEAD", "/"), ("GET", "/api/version"), ("PUT", "/x")):
        assert (await ask(http, method, f"{pair.url}{path}")).whose == "right"


async def test_an_answer_says_where_it_was_made(http: Http, pair: Pair) -> None:
    for model, whose in ((ONLY_RIGHT, "right"), (ONLY_LEFT, "left"), ("no-such-model", "left")):
        assert (await ask(http, "POST", f"{pair.url}/api/generate", generate(model))).whose == whose


# ------------------------------------------------------------------------------- changes


async def listed_by(http: Http, upstream: SimulatedOllama) -> set[str]:
    return set((await ask(http, "GET", f"{upstream.url}/api/tags")).names())


async def test_what_is_deleted_is_on_no_list_any_more(
    http: Http, pair: Pair, by_ollama: native.AsyncClient
) -> None:
    assert (await post(http, f"{pair.url}/api/generate", generate(BOTH)))[0] == 200
    assert (await by_ollama.delete(BOTH)).status == "success"
    assert BOTH not in {one.model for one in (await by_ollama.list()).models}
    assert BOTH not in await listed_by(http, pair.left) | await listed_by(http, pair.right)
    assert pair.left.loaded() == pair.right.loaded() == []
    with pytest.raises(native.ResponseError) as error:
        await by_ollama.delete(BOTH)
    assert error.value.status_code == 404


async def test_a_deletion_says_where_it_was_done(http: Http, pair: Pair) -> None:
    url = f"{pair.url}/api/delete"
    both = await ask(http, "DELETE", url, {"model": BOTH})
    assert (both.status, both.whose) == (200, "left, right")
    one = await ask(http, "DELETE", url, {"model": ONLY_RIGHT})
    assert (one.status, one.whose) == (200, "right")


async def test_a_deletion_leaves_out_who_is_away(http: Http, pair: Pair) -> None:
    await pair.left.go_down()
    await pair.sees(away=("left",))
    done = await ask(http, "DELETE", f"{pair.url}/api/delete", {"model": BOTH})
    assert (done.status, done.whose) == (200, "right")
    await pair.left.come_back()
    assert BOTH in await listed_by(http, pair.left)


async def test_what_cannot_be_deleted_where_it_is_away_is_in_the_log(
    http: Http, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await ask(http, "POST", f"{pair.url}/api/pull", {"model": "none"})).whose == "left"
    await pair.left.go_down()
    await pair.sees(away=("left",))
    await ask(http, "DELETE", f"{pair.url}/api/delete", {"model": BOTH})
    assert f"not deleted: it is away upstream=left model={BOTH}" in caplog.text


async def test_what_only_one_has_who_is_away_cannot_be_changed(http: Http, pair: Pair) -> None:
    assert (await ask(http, "GET", f"{pair.url}/api/tags")).status == 200
    await pair.left.go_down()
    await pair.sees(away=("left",))
    body = {"source": ONLY_LEFT, "destination": "copied"}
    copied = await ask(http, "POST", f"{pair.url}/api/copy", body)
    assert copied.status == 502
    assert pair.left.url in copied.json["error"]


async def test_a_pull_goes_where_the_model_is_and_else_to_the_first(
    http: Http, pair: Pair, by_ollama: native.AsyncClient
) -> None:
    progress = [part.status async for part in await by_ollama.pull(ONLY_RIGHT, stream=True)]
    assert progress[-1] == "success"
    assert progress.count("success") == 1
    assert ONLY_RIGHT not in await listed_by(http, pair.left)
    assert (await by_ollama.pull("qwen2.5:0.5b")).status == "success"
    assert "qwen2.5:0.5b" in await listed_by(http, pair.left)
    assert "qwen2.5:0.5b" not in await listed_by(http, pair.right)


async def test_a_pull_goes_to_who_answers(http: Http, pair: Pair) -> None:
    await pair.left.go_down()
    await pair.sees(away=("left",))
    body = {"model": "qwen2.5:0.5b", "stream": False}
    pulled = await ask(http, "POST", f"{pair.url}/api/pull", body)
    assert (pulled.status, pulled.whose) == (200, "right")


async def test_a_copy_and_a_creation_go_where_their_source_is(
    http: Http, pair: Pair, by_ollama: native.AsyncClient
) -> None:
    await by_ollama.copy(ONLY_RIGHT, "copied")
    await by_ollama.create("created", from_=ONLY_RIGHT, system="Be brief.")
    assert {"copied:latest", "created:latest"} <= await listed_by(http, pair.right)
    assert not {"copied:latest", "created:latest"} & await listed_by(http, pair.left)
    told = await by_ollama.generate("created", "Hello", options={"num_predict": 1})
    assert told.done
    assert pair.right.loaded() == ["created:latest"]


async def test_what_would_stand_behind_an_older_model_of_its_name_is_refused(
    http: Http, pair: Pair
) -> None:
    for path, body in (
        ("/api/copy", {"source": ONLY_RIGHT, "destination": ONLY_LEFT}),
        ("/api/create", {"model": ONLY_LEFT, "from": ONLY_RIGHT}),
    ):
        refused = await ask(http, "POST", f"{pair.url}{path}", body)
        assert refused.status == 409
        assert "'left'" in refused.json["error"]
        assert ONLY_LEFT not in await listed_by(http, pair.right)
    body = {"source": ONLY_RIGHT, "destination": ONLY_LEFT}
    named = await ask(http, "POST", f"{pair.url}/api/copy", body, to="right")
    assert (named.status, named.whose) == (200, "right")


NEW = Line(key="a", name="a", digest="d", size_bytes=1, modified_at="2026-03-04T05:06:07.8Z")


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (NEW, True),
        (replace(NEW, name="A"), True),
        (replace(NEW, digest="e"), False),
        (replace(NEW, modified_at="2026-03-04T05:06:07.9Z"), False),
        (None, False),
    ],
)
def test_a_file_is_shared_if_it_is_the_same_and_was_written_in_the_same_instant(
    other: Line | None, shared: bool
) -> None:
    assert upstreams_module.shared(NEW, other) is shared
    assert upstreams_module.shared(other, NEW) is shared


def test_of_a_listing_without_digests_nothing_is_known_to_be_shared() -> None:
    bare = replace(NEW, digest="")
    assert not upstreams_module.shared(bare, bare)


async def test_a_model_is_created_from_files_where_they_were_sent(
    http: Http, pair: Pair, by_ollama: native.AsyncClient, tmp_path: Any
) -> None:
    text = tmp_path / "adapter.safetensors"
    text.write_bytes(b"not much of a model")
    digest = await by_ollama.create_blob(text)
    assert digest == f"sha256:{hashlib.sha256(text.read_bytes()).hexdigest()}"
    for upstream, there in ((pair.left, 200), (pair.right, 404)):
        found = await ask(http, "HEAD", f"{upstream.url}/api/blobs/{digest}")
        assert found.status == there
    found = await ask(http, "HEAD", f"{pair.url}/api/blobs/{digest}")
    assert (found.status, found.whose) == (200, "left")
    created = await ask(
        http, "POST", f"{pair.url}/api/create", {"model": "made", "files": {"a.gguf": digest}}
    )
    assert created.whose == "left"


async def test_a_push_goes_where_the_model_is(http: Http, pair: Pair) -> None:
    body = {"model": ONLY_RIGHT, "stream": False}
    assert (await ask(http, "POST", f"{pair.url}/api/push", body)).whose == "right"


async def test_a_change_that_names_nothing_is_for_the_first(http: Http, pair: Pair) -> None:
    for method, path in (
        ("POST", "/api/pull"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/push"),
    ):
        through = await ask(http, method, f"{pair.url}{path}", {})
        direct = await ask(http, method, f"{pair.left.url}{path}", {})
        assert (through.status, through.body) == (direct.status, direct.body)
        assert through.whose == "left"


async def test_the_new_meaning_of_a_name_is_found_at_once_wherever_it_is(
    http: Http, pair: Pair
) -> None:
    assert (await ask(http, "DELETE", f"{pair.url}/api/delete", {"model": BOTH}, "left")).status
    assert (await post(http, f"{pair.url}/api/generate", generate(BOTH)))[0] == 200
    assert (pair.left.loaded(), pair.right.loaded()) == ([], [BOTH])


async def test_before_a_pull_the_model_is_unloaded_wherever_it_is(http: Http, pair: Pair) -> None:
    assert (await post(http, f"{pair.url}/api/generate", generate(BOTH)))[0] == 200
    assert pair.left.loaded() == [BOTH]
    body = {"model": BOTH, "stream": False}
    pulled = await ask(http, "POST", f"{pair.url}/api/pull", body, to="right")
    assert pulled.whose == "right"
    assert pair.left.loaded() == []


# ------------------------------------------------------------------------------- named


async def test_a_request_that_names_an_upstream_goes_to_no_other(http: Http, pair: Pair) -> None:
    for path in ("/api/tags", "/api/ps", "/v1/models", f"/v1/models/{BOTH}", "/api/version"):
        named = await ask(http, "GET", f"{pair.url}{path}", to="right")
        direct = await ask(http, "GET", f"{pair.right.url}{path}")
        assert (named.status, named.body, named.whose) == (200, direct.body, "right")
    pulled = await ask(http, "POST", f"{pair.url}/api/pull", {"model": "gemma:2b"}, to="right")
    assert pulled.whose == "right"
    assert "gemma:2b" in await listed_by(http, pair.right)
    await ask(http, "DELETE", f"{pair.url}/api/delete", {"model": BOTH}, to="right")
    assert BOTH in await listed_by(http, pair.left)
    assert BOTH not in await listed_by(http, pair.right)
    await pair.right.go_down()
    assert (await ask(http, "GET", f"{pair.url}/api/tags", to="right")).status == 502


async def test_a_name_that_no_upstream_has_is_refused_with_those_there_are(
    http: Http, pair: Pair
) -> None:
    refused = await ask(http, "GET", f"{pair.url}/api/tags", to="middle")
    assert refused.status == 400
    assert "left, right" in refused.json["error"]
    assert "'middle'" in refused.json["error"]


# ------------------------------------------------------------------------------- the gate's own


async def test_a_gate_is_ready_when_any_upstream_answers(http: Http, pair: Pair) -> None:
    assert (await ask(http, "GET", f"{pair.url}/gate/ready")).json == {"status": "ready"}
    await pair.left.go_down()
    await pair.sees(away=("left",))
    ready = await ask(http, "GET", f"{pair.url}/gate/ready")
    assert (ready.status, ready.json) == (200, {"status": "ready", "away": ["left"]})
    await pair.right.go_down()
    await pair.sees(away=("left", "right"))
    waiting = await ask(http, "GET", f"{pair.url}/gate/ready")
    assert (waiting.status, waiting.json["status"]) == (503, "waiting")
    assert waiting.json["reason"] == f"{pair.left.url}, {pair.right.url} do not answer"


async def test_the_status_says_which_upstreams_there_are_and_who_has_what(
    http: Http, pair: Pair
) -> None:
    url = f"{pair.url}/api/copy"
    for source, to in ((ONLY_RIGHT, "right"), (BOTH, "left")):
        body = {"source": source, "destination": "x"}
        assert (await ask(http, "POST", url, body, to)).status == 200
    fleet = pair.site.fleet
    assert fleet is not None
    for member in fleet.members:
        await member.registry.list_anew()
    shown = await status(http, pair.site)
    assert [(one["name"], one["answers"]) for one in shown["upstreams"]] == [
        ("left", True),
        ("right", True),
    ]
    assert {one["version"] for one in shown["upstreams"]} == {"0.32.15"}
    where = [(one["model"], one["upstreams"]) for one in shown["models"]]
    assert (BOTH, ["left", "right"]) in where
    assert (ONLY_RIGHT, ["right"]) in where
    assert [places for name, places in where if name == "x:latest"] == [["left"], ["right"]]


async def test_with_one_upstream_no_answer_says_whose_it_is(http: Http, site: Site) -> None:
    assert (await ask(http, "GET", f"{site.url}/api/tags")).whose is None
    only = site.config.upstreams[0].name
    assert (await ask(http, "GET", f"{site.url}/api/ps", to=only)).status == 200
    assert (await ask(http, "GET", f"{site.url}/api/ps", to="other")).status == 400
