"""Models that come and go in the simulated Ollama: pull, push, create, copy, delete, uploads.

Texts and frames were read off a real Ollama v0.32.15 without a network.
"""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_gate.simulator import Settings, SimulatedOllama

ON_DISK = ("gemma:2b", "tinyllama:1.1b", "gpt-oss:120b-cloud")
SETTINGS = Settings(context_length=4096, speed=500.0, pull_lines=3, models=ON_DISK)
NO_HOST = "dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: no such host"
NDJSON = "application/x-ndjson"
BARE = "application/json"
GIN = "application/json; charset=utf-8"


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedOllama]:
    async with asyncio.timeout(20), SimulatedOllama(SETTINGS) as simulated:
        yield simulated


@pytest.fixture
async def offline() -> AsyncIterator[SimulatedOllama]:
    settings = Settings(speed=500.0, models=ON_DISK, online=False)
    async with asyncio.timeout(20), SimulatedOllama(settings) as simulated:
        yield simulated


async def raw(
    sim: SimulatedOllama, method: str, path: str, data: Any = None
) -> tuple[int, str | None, str]:
    """Status, type and body."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(method, sim.url + path, data=body) as response,
    ):
        return response.status, response.headers.get("Content-Type"), await response.text()


async def lines(sim: SimulatedOllama, path: str, data: Any) -> list[dict[str, Any]]:
    _, _, body = await raw(sim, "POST", path, data)
    return [json.loads(line) for line in body.splitlines()]


async def error(sim: SimulatedOllama, method: str, path: str, data: Any) -> tuple[int, str]:
    status, _, body = await raw(sim, method, path, data)
    return status, json.loads(body)["error"]


async def names(sim: SimulatedOllama) -> list[str]:
    _, _, body = await raw(sim, "GET", "/api/tags")
    return [model["name"] for model in json.loads(body)["models"]]


async def show(sim: SimulatedOllama, name: str) -> dict[str, Any]:
    status, _, body = await raw(sim, "POST", "/api/show", {"model": name})
    assert status == 200, body
    shown: dict[str, Any] = json.loads(body)
    return shown


async def generate(sim: SimulatedOllama, name: str) -> int:
    request = {"model": name, "prompt": "hi", "options": {"num_predict": 2}}
    return (await raw(sim, "POST", "/api/generate", request))[0]


def gguf(arch: str, *, file_type: int = 1, tail: bytes = b"") -> bytes:
    """A file whose key-values tell of a small model."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {
        "general.file_type": file_type,
        f"{arch}.block_count": 2,
        f"{arch}.context_length": 512,
    }
    written = text("general.architecture") + struct.pack("<I", 8) + text(arch)
    written += text("list") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 1, 2)
    for key, value in numbers.items():
        written += text(key) + struct.pack("<II", 4, value)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(numbers) + 2) + written + tail


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def upload(sim: SimulatedOllama, data: bytes) -> str:
    assert (await raw(sim, "POST", f"/api/blobs/{digest(data)}", data))[0] == 201
    return digest(data)


# -- bodies ------------------------------------------------------------------------------

ROUTES = [
    ("POST", "/api/pull", "PullRequest", "invalid model name"),
    ("POST", "/api/push", "PushRequest", "model is required"),
    ("DELETE", "/api/delete", "DeleteRequest", "model is required"),
    ("POST", "/api/create", "CreateRequest", "invalid model name"),
]


@pytest.mark.parametrize(("method", "path", "struct", "empty"), ROUTES)
async def test_a_body_that_is_none_is_told_in_gos_words(
    sim: SimulatedOllama, method: str, path: str, struct: str, empty: str
) -> None:
    for body, text in (
        (b"", "missing request body"),
        (b"{", "unexpected EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"[]", f"json: cannot unmarshal array into Go value of type api.{struct}"),
        (
            b'{"name":7}',
            f"json: cannot unmarshal number into Go struct field {struct}.name of type string",
        ),
        (b"{}", empty),
        (b"null", empty),
    ):
        assert await error(sim, method, path, body) == (400, text)


# -- copy and delete ---------------------------------------------------------------------


async def test_a_copy_is_listed_first_and_shares_its_runner(sim: SimulatedOllama) -> None:
    assert await raw(sim, "POST", "/api/copy", {"source": "GEMMA:2B", "destination": "twin"}) == (
        200,
        None,
        "",
    )
    assert (await names(sim))[0] == "twin:latest"
    _, _, body = await raw(sim, "GET", "/api/tags")
    of_name = {model["name"]: model["digest"] for model in json.loads(body)["models"]}
    assert of_name["twin:latest"] == of_name["gemma:2b"]
    assert [await generate(sim, "gemma:2b"), await generate(sim, "twin")] == [200, 200]
    assert sim.counters.loads == 1


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        ("nope", "x", 404, 'model "nope" not found'),
        ("bad name", "x", 400, 'source "bad name" is invalid'),
        ('"q"\n', "x", 400, 'source "\\"q\\"\\n" is invalid'),
        ("gemma:2b", "", 400, 'destination "" is invalid'),
        ("gemma:local", "x", 404, 'model "gemma:local" not found'),
    ],
)
async def test_a_copy_that_cannot_be_is_told(
    sim: SimulatedOllama, source: str, destination: str, status: int, text: str
) -> None:
    request = {"source": source, "destination": destination}
    assert await error(sim, "POST", "/api/copy", request) == (status, text)


async def test_a_copy_onto_itself_is_none(sim: SimulatedOllama) -> None:
    assert (await raw(sim, "POST", "/api/copy", {"source": "no", "destination": "no"}))[0] == 200
    assert len(await names(sim)) == len(ON_DISK)


async def test_a_deleted_model_is_gone_while_its_runner_stays(sim: SimulatedOllama) -> None:
    assert await generate(sim, "gemma:2b") == 200
    assert await raw(sim, "DELETE", "/api/delete", {"name": "gemma:2b"}) == (200, None, "")
    assert "gemma:2b" not in await names(sim)
    assert sim.loaded() == ["gemma:2b"]
    assert await error(sim, "POST", "/api/show", {"model": "gemma:2b"}) == (
        404,
        "model 'gemma:2b' not found",
    )
    assert await generate(sim, "gemma:2b") == 404
    assert await error(sim, "DELETE", "/api/delete", {"model": "gemma:2b"}) == (
        404,
        "model 'gemma:2b' not found",
    )


async def test_a_delete_reads_the_name_as_a_pull_does(sim: SimulatedOllama) -> None:
    for name, status, text in (
        ("bad name", 400, 'name "bad name" is invalid'),
        ("a:local:cloud", 400, 'use either :local or :cloud, not both: "a:local:cloud"'),
        ("x:cloud", 404, "model 'x:cloud' not found"),
    ):
        assert await error(sim, "DELETE", "/api/delete", {"model": name}) == (status, text)
    deleted = await raw(sim, "DELETE", "/api/delete", {"model": "gpt-oss:120b:cloud"})
    assert deleted[0] == 200
    assert "gpt-oss:120b-cloud" not in await names(sim)


# -- pull and push -----------------------------------------------------------------------


async def test_a_pull_tells_its_progress_and_the_model_is_there(sim: SimulatedOllama) -> None:
    told = await lines(sim, "/api/pull", {"model": "all-minilm"})
    statuses = [line["status"] for line in told]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    moved = [line for line in told if line.get("total") == 45_960_996]
    assert [line["completed"] for line in moved] == [15_320_332, 30_640_664, 45_960_996]
    assert all(line["status"] == f"pulling {line['digest'][7:19]}" for line in moved)
    assert "all-minilm:latest" in await names(sim)
    assert (await raw(sim, "POST", "/api/embed", {"model": "all-minilm", "input": "x"}))[0] == 200


async def test_a_pull_of_what_is_there_only_looks(sim: SimulatedOllama) -> None:
    told = await lines(sim, "/api/pull", {"name": "gemma:2b"})
    assert [line["status"].split()[0] for line in told] == [
        *("pulling", "pulling", "pulling"),
        *("verifying", "writing", "success"),
    ]
    assert all(line["total"] == line["completed"] for line in told if "total" in line)


async def test_a_pull_without_a_stream_tells_its_end(sim: SimulatedOllama) -> None:
    request = {"model": "all-minilm", "stream": False}
    assert await raw(sim, "POST", "/api/pull", request) == (200, BARE, '{"status":"success"}')


async def test_a_pull_of_what_the_registry_has_not_is_told(sim: SimulatedOllama) -> None:
    text = "pull model manifest: file does not exist"
    assert await lines(sim, "/api/pull", {"model": "nope"}) == [
        {"status": "pulling manifest"},
        {"error": text},
    ]
    request = {"model": "nope", "stream": False}
    status, content_type, body = await raw(sim, "POST", "/api/pull", request)
    assert (status, content_type, json.loads(body)) == (500, BARE, {"error": text})


async def test_a_pull_breaks_off_where_it_is_told_to(sim: SimulatedOllama) -> None:
    sim.faults.fail_pull("all-minilm", "unexpected EOF", lines=2)
    told = await lines(sim, "/api/pull", {"model": "all-minilm"})
    assert [line.get("completed") for line in told] == [None, 15_320_332, 30_640_664, None]
    assert told[-1] == {"error": "unexpected EOF"}
    assert "all-minilm:latest" not in await names(sim)
    sim.faults.fail_pull("all-minilm", "503: later")
    told = await lines(sim, "/api/pull", {"model": "all-minilm"})
    assert told[-1] == {"error": "pull model manifest: 503: later"}
    assert (await lines(sim, "/api/pull", {"model": "all-minilm"}))[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("request_", "url", "why"),
    [
        ({"model": "nope"}, "https://registry.ollama.ai/v2/library/nope/manifests/latest", NO_HOST),
        (
            {"model": "gpt-oss:20b:cloud"},
            "https://registry.ollama.ai/v2/library/gpt-oss/manifests/20b-cloud",
            NO_HOST,
        ),
        (
            {"model": "127.0.0.1:9/a/b:c", "insecure": True},
            "http://127.0.0.1:9/v2/a/b/manifests/c",
            "dial tcp 127.0.0.1:9: connect: connection refused",
        ),
    ],
)
async def test_without_a_network_a_pull_tells_which_host_it_missed(
    offline: SimulatedOllama, request_: dict[str, Any], url: str, why: str
) -> None:
    told = await lines(offline, "/api/pull", request_)
    assert told[1:] == [{"error": f'pull model manifest: Get "{url}": {why}'}]


async def test_a_push_goes_file_by_file(sim: SimulatedOllama) -> None:
    assert await raw(sim, "POST", "/api/copy", {"source": "tinyllama:1.1b", "destination": "me/x"})
    told = [line["status"] for line in await lines(sim, "/api/push", {"model": "me/x"})]
    assert told[0] == "retrieving manifest"
    assert told[-2:] == ["pushing manifest", "success"]
    assert len(told) == 3 + 3 + 2  # of the GGUF, and one each of parameters and configuration


async def test_a_push_that_cannot_be_is_told(
    sim: SimulatedOllama, offline: SimulatedOllama
) -> None:
    for name, text in (
        ("bad name", "unqualified name: registry.ollama.ai/library/bad name:latest"),
        (
            "a/b",
            (
                "open /usr/share/ollama/.ollama/models/manifests/registry.ollama.ai/a/b/latest: "
                "no such file or directory"
            ),
        ),
    ):
        assert await lines(sim, "/api/push", {"model": name}) == [
            {"status": "retrieving manifest"},
            {"status": "couldn't retrieve manifest"},
            {"error": text},
        ]
    (_, told) = await lines(offline, "/api/push", {"model": "gemma:2b"})
    assert told["error"].startswith(
        'Head "https://registry.ollama.ai/v2/library/gemma/blobs/sha256:'
    )
    assert told["error"].endswith(NO_HOST)


# -- uploads -----------------------------------------------------------------------------


async def test_an_upload_is_there_once_its_digest_is_right(sim: SimulatedOllama) -> None:
    data = b"x" * 300_000
    path = f"/api/blobs/{digest(data)}"
    assert (await raw(sim, "HEAD", path))[0] == 404
    assert await raw(sim, "POST", path, data) == (201, None, "")
    assert await raw(sim, "POST", path, b"whatever") == (200, None, "")
    assert (await raw(sim, "HEAD", path.replace(":", "-")))[0] == 200


async def test_an_upload_of_something_else_is_refused(sim: SimulatedOllama) -> None:
    announced = f"sha256:{'0' * 64}"
    text = f'digest mismatch, expected "{announced}", got "{digest(b"x")}"'
    assert await error(sim, "POST", f"/api/blobs/{announced}", b"x") == (400, text)
    assert await error(sim, "POST", "/api/blobs/abc", b"x") == (400, "invalid digest format")


# -- create ------------------------------------------------------------------------------


async def test_a_model_is_made_from_another(sim: SimulatedOllama) -> None:
    request = {
        "model": "mine",
        "from": "tinyllama:1.1b",
        "system": "two\nlines",
        "template": "{{ .Prompt }}",
        "license": ["MIT", "more"],
        "parameters": {"num_ctx": 1024, "temperature": 0.5, "min_p": 1e-5},
        "messages": [{"role": "user", "content": "hi"}],
    }
    told = [line["status"] for line in await lines(sim, "/api/create", request)]
    assert [status.split(" sha256")[0] for status in told] == [
        "using existing layer",
        *["creating new layer"] * 6,
        *("writing manifest", "success"),
    ]
    shown = await show(sim, "mine")
    assert shown["details"]["parent_model"] == "tinyllama:1.1b"
    assert (shown["system"], shown["license"]) == ("two\nlines", "MIT\nmore")
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert (
        'SYSTEM "two\nlines"\nPARAMETER min_p 1e-05\nPARAMETER num_ctx 1024\n' in shown["modelfile"]
    )
    assert "LICENSE MIT\nLICENSE more\nMESSAGE user hi\n" in shown["modelfile"]
    assert [await generate(sim, "mine"), sim.loaded()] == [200, ["mine:latest"]]
    _, _, body = await raw(sim, "GET", "/api/ps")
    assert json.loads(body)["models"][0]["context_length"] == 1024


async def test_a_model_made_again_uses_what_it_has(sim: SimulatedOllama) -> None:
    request = {"model": "mine", "from": "gemma:2b", "system": "a"}
    await lines(sim, "/api/create", request)
    again = await lines(sim, "/api/create", request)
    assert all("creating" not in line["status"] for line in again)
    await lines(sim, "/api/create", request | {"system": "b"})
    once_more = await lines(sim, "/api/create", request)
    assert sum("creating" in line["status"] for line in once_more) == 1


async def test_a_model_is_made_from_an_upload(sim: SimulatedOllama) -> None:
    data = gguf("qwen2", tail=b"\0" * 100)
    told = await lines(sim, "/api/create", {"model": "f", "files": {"a": await upload(sim, data)}})
    assert [line["status"] for line in told] == [
        *("parsing GGUF", "validating GGUF model", "verifying conversion"),
        *(f"using existing layer {digest(data)}", "writing manifest", "success"),
    ]
    shown = await show(sim, "f")
    assert shown["details"]["family"] == "qwen2"
    assert shown["model_info"]["qwen2.context_length"] == 512
    assert await generate(sim, "f") == 200
    assert (await raw(sim, "DELETE", "/api/delete", {"model": "f"}))[0] == 200
    assert (await raw(sim, "HEAD", f"/api/blobs/{digest(data)}"))[0] == 404


async def test_an_unquantized_model_is_quantized(sim: SimulatedOllama) -> None:
    files = {"a.gguf": await upload(sim, gguf("llama"))}
    told = await lines(sim, "/api/create", {"model": "q", "files": files, "quantize": "q8_0"})
    assert told[1]["status"] == "quantizing F16 model to Q8_0"
    assert (await show(sim, "q"))["details"]["quantization_level"] == "Q8_0"


async def test_a_stub_is_made_for_the_cloud(sim: SimulatedOllama) -> None:
    info = {"model_family": "gptoss", "context_length": 100, "capabilities": ["completion"]}
    request = {"model": "r", "from": "x:cloud", "info": info, "remote_host": "ollama.com"}
    assert await lines(sim, "/api/create", request) == [
        {"status": "writing manifest"},
        {"status": "success"},
    ]
    shown = await show(sim, "r")
    assert (shown["remote_model"], shown["remote_host"]) == ("x", "https://ollama.com:443")
    assert shown["capabilities"] == ["completion", "thinking"]
    await lines(sim, "/api/create", {"model": "r2", "from": "x", "remote_host": "example.com"})
    assert (await show(sim, "r2"))["remote_host"] == "http://example.com:11434"


NOWHERE = f"sha256:{'0' * 64}"
EARLY = [
    ({"files": {"../a": NOWHERE}}, "file path must be relative"),
    ({"files": {"a": ""}}, "invalid digest format"),
    ({"draft_files": {"/a": NOWHERE}}, "file path must be relative"),
    ({"adapters": {"a": ""}}, "invalid digest format"),
    ({"draft_quantize": "q4_0"}, "--draft-quantize requires a DRAFT model"),
    (
        {"files": []},
        (
            "json: cannot unmarshal array into Go struct field CreateRequest.files of type "
            "map[string]string"
        ),
    ),
    (
        {"files": {"a": 1}},
        "json: cannot unmarshal number into Go struct field CreateRequest.files of type string",
    ),
    (
        {"parameters": []},
        (
            "json: cannot unmarshal array into Go struct field CreateRequest.parameters of type "
            "map[string]interface {}"
        ),
    ),
]
LATE = [
    ({}, 400, "neither 'from' or 'files' was specified"),
    ({"from": "bad name"}, 400, "invalid model name"),
    (
        {"from": "gemma:2b", "template": "{{ .Bad"},
        400,
        "template error: template: :1: unclosed action",
    ),
    (
        {"from": "gemma:2b", "template": "\n{{ if }}{{ end }}"},
        400,
        "template error: template: :2: missing value for if",
    ),
    (
        {"from": "gemma:2b", "template": "{{ if .A }}"},
        400,
        "template error: template: :1: unexpected EOF",
    ),
    (
        {"from": "gemma:2b", "license": 5},
        500,
        "json: cannot unmarshal number into Go value of type []string",
    ),
    (
        {"from": "gemma:2b", "license": [5]},
        500,
        "json: cannot unmarshal number into Go value of type string",
    ),
    (
        {"from": "gemma:2b", "quantize": "q4_0"},
        500,
        "unsupported quantization type Q4_0 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0",
    ),
    (
        {"from": "gemma:2b", "quantize": "q8_0"},
        500,
        "quantization is only supported for F16, BF16 and F32 models",
    ),
    ({"from": "x", "remote_host": "http://[::bad"}, 400, "bad remote"),
    (
        {"from": "x:cloud", "draft_files": {"a": NOWHERE}},
        400,
        "DRAFT cannot be used with remote models",
    ),
    (
        {"from": "gemma:2b", "info": {"base_name": 1}},
        400,
        'info field "base_name" must be a string',
    ),
    (
        {"from": "x:cloud", "info": {"context_length": "x"}},
        400,
        'info field "context_length" must be a number',
    ),
    (
        {"from": "x:cloud", "info": {"context_length": -1}},
        400,
        'info field "context_length" must be a non-negative integer',
    ),
    ({"files": {}}, 400, "unknown type"),
    ({"files": {"a": NOWHERE}}, 400, "unknown type"),
    ({"files": {"a": "xyz"}}, 400, "unknown type"),
    (
        {"from": "gemma:2b", "adapters": {"a.gguf": NOWHERE, "b.gguf": NOWHERE}},
        400,
        "only one adapter is currently supported",
    ),
]


@pytest.mark.parametrize(("request_", "text"), EARLY)
async def test_what_can_be_checked_at_once_is(
    sim: SimulatedOllama, request_: dict[str, Any], text: str
) -> None:
    status, content_type, body = await raw(sim, "POST", "/api/create", {"model": "c"} | request_)
    assert (status, content_type, json.loads(body)) == (400, GIN, {"error": text})


@pytest.mark.parametrize(("request_", "status", "text"), LATE)
async def test_what_fails_before_the_first_line_has_a_status(
    sim: SimulatedOllama, request_: dict[str, Any], status: int, text: str
) -> None:
    for wanted in ({}, {"stream": False}):
        told, content_type, body = await raw(
            sim, "POST", "/api/create", {"model": "c"} | request_ | wanted
        )
        assert (told, content_type, json.loads(body)) == (status, BARE, {"error": text})
    assert "c:latest" not in await names(sim)


async def test_what_fails_later_breaks_the_stream_off(sim: SimulatedOllama) -> None:
    text = await upload(sim, b"plain text")
    cut = await upload(sim, b"GGUF\3\0\0\0")
    blob = f"/usr/share/ollama/.ollama/models/blobs/sha256-{'0' * 64}"
    for file, complaint in (
        (NOWHERE, f"open {blob}: no such file or directory"),
        (text, "supplied file was not in GGUF format"),
        (cut, "unexpected EOF"),
        ("xyz", "invalid digest format"),
    ):
        assert await lines(sim, "/api/create", {"model": "c", "files": {"a.gguf": file}}) == [
            {"status": "parsing GGUF"},
            {"error": complaint},
        ]
    assert await error(sim, "POST", "/api/create", {"model": "c", "files": {"a": text}}) == (
        400,
        "unknown type",
    )


async def test_a_model_to_begin_with_is_pulled(sim: SimulatedOllama) -> None:
    told = [
        line["status"]
        for line in await lines(sim, "/api/create", {"model": "c", "from": "phi3:mini"})
    ]
    assert told[0] == "pulling manifest"
    assert told.count("success") == 2
    assert {"c:latest", "phi3:mini"} <= set(await names(sim))


async def test_models_by_their_openai_name_follow(sim: SimulatedOllama) -> None:
    assert (await raw(sim, "POST", "/api/copy", {"source": "gemma:2b", "destination": "twin"}))[
        0
    ] == 200
    status, content_type, body = await raw(sim, "GET", "/v1/models/TWIN%3Alatest")
    assert (status, content_type, json.loads(body)["id"]) == (200, BARE, "TWIN:latest")
    status, _, body = await raw(sim, "GET", "/v1/models/nope")
    assert (status, json.loads(body)["error"]["message"]) == (404, "model 'nope:latest' not found")


# -- the account and the web -------------------------------------------------------------

WEB = [("web_search", "web search"), ("web_fetch", "web fetch")]


async def test_nobody_is_signed_in(sim: SimulatedOllama) -> None:
    status, _, body = await raw(sim, "POST", "/api/me")
    told = json.loads(body)
    assert (status, told["error"]) == (401, "unauthorized")
    assert told["signin_url"].startswith("https://ollama.com/connect?name=")
    for method, path in (("POST", "/api/signout"), ("DELETE", "/api/user/keys/abc")):
        assert await error(sim, method, path, None) == (401, "you are not currently signed in")


async def test_without_a_network_nobody_knows(offline: SimulatedOllama) -> None:
    assert await error(offline, "POST", "/api/me", None) == (503, "account unavailable")
    text = "there was an error signing out"
    assert await error(offline, "POST", "/api/signout", None) == (500, text)
    status, text = await error(offline, "POST", "/api/experimental/web_search?a=1", {})
    assert status == 502
    assert text.startswith('Post "https://ollama.com:443/api/web_search?a=1&ts=')
    assert text.endswith('": dial tcp: lookup ollama.com on 127.0.0.53:53: no such host')
    status, text = await error(offline, "GET", "/v1/models/x:cloud", None)
    assert (status, text[:45]) == (502, 'Get "https://ollama.com:443/v1/models/x?ts=17'[:45])


async def test_who_is_signed_in_may_sign_out() -> None:
    async with SimulatedOllama(Settings(account="ann", models=ON_DISK)) as sim:
        _, _, body = await raw(sim, "POST", "/api/me")
        assert json.loads(body)["name"] == "ann"
        assert await raw(sim, "POST", "/api/signout") == (200, GIN, "null")
        assert (await raw(sim, "POST", "/api/experimental/web_fetch", {"url": "x"}))[0] == 200


@pytest.mark.parametrize(("route", "what"), WEB)
async def test_the_web_needs_a_body_the_cloud_and_an_account(
    sim: SimulatedOllama, route: str, what: str
) -> None:
    path = f"/api/experimental/{route}"
    assert await error(sim, "POST", path, b" ") == (400, "missing request body")
    assert await error(sim, "POST", path, b"x") == (401, "unauthorized")
    async with SimulatedOllama(Settings(cloud=False, models=ON_DISK)) as shut:
        text = f"ollama cloud is disabled: {what} is unavailable"
        assert await error(shut, "POST", path, {}) == (403, text)


async def test_the_status_tells_of_the_cloud(sim: SimulatedOllama) -> None:
    assert await raw(sim, "GET", "/api/status") == (
        200,
        GIN,
        '{"cloud":{"disabled":false,"source":"none"}}',
    )
    async with SimulatedOllama(Settings(cloud=False, models=ON_DISK)) as shut:
        _, _, body = await raw(shut, "GET", "/api/status")
        assert json.loads(body) == {"cloud": {"disabled": True, "source": "env"}}


async def test_models_are_recommended(sim: SimulatedOllama) -> None:
    status, content_type, body = await raw(sim, "GET", "/api/experimental/model-recommendations")
    assert (status, content_type, len(body)) == (200, GIN, 830)
