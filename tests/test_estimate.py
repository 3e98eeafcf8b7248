"""Will it fit: the report, and the command that prints it."""

import asyncio
import functools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result
from msgspec import structs

from ollama_gate import gpu
from ollama_gate.cli import main
from ollama_gate.config import Card, Config, UpstreamConfig
from ollama_gate.errors import CardError, ConfigError, ModelUnknownError, UpstreamGoneError
from ollama_gate.estimate import Asked, Memory, Report, at_hand, from_file, from_upstream
from ollama_gate.estimate.asking import _read_memory
from ollama_gate.estimate.report import contexts, fit
from ollama_gate.footprint import GIB, MIB, PROCESS_BYTES, Estimate, Resident
from ollama_gate.gpu import Reading
from ollama_gate.simulator import SimulatedOllama
from tests.conftest import MakeOllama

DATA = Path(__file__).parent / "data"
SHOWN = DATA / "show_llama3.2_1b.json"
SHOWN_BYTES = 1_321_098_329
BIG, TINY = "qwen2.5:32b", "qwen2.5:0.5b"
KEYS = [
    "weights_bytes",
    "kv_bytes",
    "compute_bytes",
    "overhead_bytes",
    "size_vram_bytes",
    "total_bytes",
    "num_ctx",
    "source",
    "error",
]


@dataclass
class StubCard:
    """A card of 24 GiB, or one that does not answer."""

    used_bytes: int = 0
    total_bytes: int = 24 * GIB
    source: str = "nvml"
    count: int = 1
    broken: str = ""

    def read(self) -> Reading:
        if self.broken:
            raise CardError(self.broken)
        return Reading(
            total_bytes=self.total_bytes,
            used_bytes=self.used_bytes,
            source=self.source,
            device="a card",
            taken_at=0.0,
        )


def configured(url: str, **upstream: Any) -> Config:
    return Config(
        upstreams=(UpstreamConfig(name="local", url=url, context_length=4096, **upstream),)
    )


NOWHERE = configured("http://127.0.0.1:1")


async def load(ollama: SimulatedOllama, model: str) -> dict[str, Any]:
    """Load a model; what `/api/ps` then shows of it."""
    async with aiohttp.ClientSession(ollama.url) as http:
        await (await http.post("/api/generate", json={"model": model, "stream": False})).read()
        shown = await (await http.get("/api/ps")).json()
    (entry,) = [each for each in shown["models"] if each["name"] == model]
    return dict(entry)


# ------------------------------------------------------------------------------------- the report


async def test_what_the_upstream_will_show_is_told_before_it_is_loaded(
    ollama: SimulatedOllama,
) -> None:
    report = await from_upstream(configured(ollama.url), Asked(model=BIG), card=StubCard())
    shown = await load(ollama, BIG)
    assert report.estimate.num_ctx == shown["context_length"] == 4096
    assert abs(report.estimate.size_vram_bytes - shown["size_vram"]) < 0.05 * shown["size_vram"]
    assert report.total_bytes == report.estimate.size_vram_bytes + PROCESS_BYTES
    assert (report.source, report.memory.source) == ("estimated", "nvml")


async def test_a_model_is_held_against_what_the_loaded_ones_leave(
    ollama: SimulatedOllama,
) -> None:
    shown = await load(ollama, BIG)
    card = StubCard(used_bytes=shown["size_vram"] + PROCESS_BYTES)
    config = configured(ollama.url)
    small = await from_upstream(config, Asked(model=TINY), card=card)
    large = await from_upstream(config, Asked(model="gemma3:27b"), card=card)
    assert small.memory.loaded == (BIG,)
    assert {row.fits for row in small.rows if row.num_ctx == 4096} == {"beside what is loaded"}
    assert {row.fits for row in large.rows if row.num_ctx == 4096} == {"alone"}


async def test_a_model_that_is_loaded_does_not_stand_in_its_own_way(
    ollama: SimulatedOllama,
) -> None:
    shown = await load(ollama, BIG)
    card = StubCard(used_bytes=shown["size_vram"] + PROCESS_BYTES)
    report = await from_upstream(configured(ollama.url), Asked(model=BIG), card=card)
    assert report.memory.loaded == ()
    assert report.rows[0].fits == "beside what is loaded"


async def test_what_was_asked_for_goes_before_what_is_configured(
    ollama: SimulatedOllama,
) -> None:
    config = configured(ollama.url, num_parallel=2, kv_cache_type="f16")
    plain = await from_upstream(config, Asked(model=BIG), card=StubCard())
    asked = Asked(model=BIG, num_ctx=8192, num_parallel=1, kv_cache_type="q8_0")
    report = await from_upstream(config, asked, card=StubCard())
    assert (plain.estimate.num_ctx, plain.estimate.parallel) == (4096, 2)
    assert (report.estimate.num_ctx, report.estimate.parallel) == (8192, 1)
    assert report.estimate.kv_bytes * 32 == plain.estimate.kv_bytes * 17


async def test_a_configured_size_is_obeyed(ollama: SimulatedOllama, tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(
        json.dumps(
            {
                "upstreams": [{"url": ollama.url, "gpus": [{"vram": "24GiB"}]}],
                "models": {BIG: {"vram": "30GiB"}},
            }
        )
    )
    result = await run("estimate", BIG, "-c", str(path), "--json")
    told = json.loads(result.stdout)
    assert (told["total_bytes"], told["source"], told["error"]) == (30 * GIB, "configured", 0.0)
    assert {row["fits"] for row in told["contexts"]} == {"partly on the CPU"}
    assert told["estimated_bytes"] < 30 * GIB
    text = (await run("estimate", BIG, "-c", str(path))).stdout
    assert "30GiB (configured, ±0%)" in text


async def test_an_upstream_without_the_model_says_so(ollama: SimulatedOllama) -> None:
    with pytest.raises(ModelUnknownError, match="no model 'nobody'"):
        await from_upstream(configured(ollama.url), Asked(model="nobody"))


@pytest.mark.parametrize("name", ["gpt-oss:120b-cloud", "stub:cloud"])
async def test_a_name_of_the_cloud_is_no_question_to_an_upstream(
    withholding: tuple[str, list[dict[str, Any]]], name: str
) -> None:
    url, asked = withholding
    assert (await from_upstream(configured(url), Asked(model=name), card=StubCard())).remote
    assert asked == []


async def test_an_upstream_that_is_not_there_is_told_apart() -> None:
    with pytest.raises(UpstreamGoneError):
        await from_upstream(NOWHERE, Asked(model=BIG))


@pytest.fixture
async def withholding() -> Any:
    """An Ollama that shows lists to whoever asks to be told all; `asked` are the questions."""
    whole = json.loads((DATA / "show_lfm2.json").read_text(encoding="utf-8"))
    info = whole["model_info"]
    kept_back = [key for key, value in info.items() if value is None]
    heads = json.loads((DATA / "model_info.json").read_text(encoding="utf-8"))["lfm2-1.2b"]
    asked: list[dict[str, Any]] = []

    async def show(request: web.Request) -> web.Response:
        asked.append(await request.json())
        told = {key: heads.get(key) for key in kept_back} if asked[-1].get("verbose") else {}
        return web.json_response(whole | {"model_info": info | told})

    async def tags(_: web.Request) -> web.Response:
        models = [{"name": "lfm2:latest", "size": 730_000_000, "digest": "d"}]
        return web.json_response({"models": models})

    async def nothing(_: web.Request) -> web.Response:
        return web.json_response({"models": [], "version": 7})

    app = web.Application()
    app.router.add_post("/api/show", show)
    app.router.add_get("/api/tags", tags)
    app.router.add_get("/api/ps", nothing)
    app.router.add_get("/api/version", nothing)
    async with TestServer(app) as server:
        yield str(server.make_url("")), asked


async def test_all_is_asked_for_only_where_a_list_is_kept_back(
    withholding: tuple[str, list[dict[str, Any]]], ollama: SimulatedOllama
) -> None:
    url, asked = withholding
    report = await from_upstream(configured(url), Asked(model="lfm2"), card=StubCard())
    assert [question.get("verbose") for question in asked] == [None, True]
    assert report.estimate.kv_bytes > 0
    assert "formula" in next(part.source for part in report.estimate.parts if part.what == "kv")


# ------------------------------------------------------------------------------------- from a file


async def test_a_saved_answer_of_show_will_do() -> None:
    report = await from_file(NOWHERE, Asked(model="m"), SHOWN, SHOWN_BYTES, card=StubCard())
    assert report.estimate.num_ctx == 8192
    assert [row.num_ctx for row in report.rows] == [4096 * 2**power for power in range(6)]
    assert [row.num_ctx for row in report.rows if row.in_effect] == [8192]


async def test_a_file_with_tensors_needs_no_size() -> None:
    with_size = await from_file(NOWHERE, Asked(model="m"), SHOWN, SHOWN_BYTES, card=StubCard())
    without = await from_file(NOWHERE, Asked(model="m"), SHOWN, None, card=StubCard())
    assert without.estimate == with_size.estimate


async def test_a_file_without_tensors_needs_one(tmp_path: Path) -> None:
    show = json.loads(SHOWN.read_text(encoding="utf-8"))
    del show["tensors"]
    path = tmp_path / "show.json"
    path.write_text(json.dumps(show))
    with pytest.raises(ConfigError, match="--size"):
        await from_file(NOWHERE, Asked(model="m"), path, None)
    report = await from_file(NOWHERE, Asked(model="m"), path, SHOWN_BYTES, card=StubCard())
    assert report.estimate.weights_bytes == SHOWN_BYTES


async def test_a_file_is_of_a_model_for_a_card_though_none_is_here() -> None:
    main_memory = StubCard(source="system")
    report = await from_file(NOWHERE, Asked(model="m"), SHOWN, SHOWN_BYTES, card=main_memory)
    assert report.estimate.overhead_bytes == PROCESS_BYTES
    assert {row.fits for row in report.rows} == {"unknown"}
    on_cpu = structs.replace(NOWHERE, upstreams=(structs.replace(NOWHERE.upstream, gpus="cpu"),))
    report = await from_file(on_cpu, Asked(model="m"), SHOWN, SHOWN_BYTES, card=main_memory)
    assert report.estimate.overhead_bytes == 0


async def test_a_model_that_runs_elsewhere_takes_nothing(tmp_path: Path) -> None:
    cloud = DATA / "show_cloud.json"
    report = await from_file(NOWHERE, Asked(model="c"), cloud, None, card=StubCard())
    assert report.remote
    assert (report.total_bytes, report.rows) == (0, ())


# --------------------------------------------------------------------------------- memory at hand


def loaded(name: str, size_vram_bytes: int, size_bytes: int = 0) -> Resident:
    return Resident(
        name=name,
        size_bytes=size_bytes or size_vram_bytes,
        size_vram_bytes=size_vram_bytes,
        context_length=4096,
        digest="",
    )


async def test_a_budget_that_no_card_is_read_for_is_planned_with_whole() -> None:
    config = configured("http://elsewhere:11434", gpus=(Card(vram_bytes=10 * GIB),))
    memory = await at_hand(config, "m", [loaded("other", 4 * GIB)])
    assert (memory.source, memory.planned_bytes) == ("config", 10 * GIB)
    assert memory.alone_bytes == 10 * GIB
    assert memory.beside_bytes == 6 * GIB - PROCESS_BYTES


async def test_of_what_is_read_the_reserve_is_taken_off() -> None:
    memory = await at_hand(NOWHERE, "m", [], StubCard(used_bytes=4 * GIB))
    reserve = int(24 * GIB * 0.05)
    assert memory.planned_bytes == 24 * GIB - reserve
    assert memory.beside_bytes == memory.alone_bytes == 20 * GIB - reserve


async def test_what_others_use_is_in_the_way_even_when_all_models_have_left() -> None:
    card = StubCard(used_bytes=20 * GIB)
    memory = await at_hand(NOWHERE, "m", [loaded("other", 8 * GIB)], card)
    assert memory.alone_bytes is not None
    assert memory.beside_bytes is not None
    assert memory.alone_bytes - memory.beside_bytes == 8 * GIB + PROCESS_BYTES
    assert memory.alone_bytes < 12 * GIB


async def test_the_automatic_context_goes_by_all_cards_together(tmp_path: Path) -> None:
    show = json.loads(SHOWN.read_text(encoding="utf-8"))
    del show["parameters"]
    path = tmp_path / "show.json"
    path.write_text(json.dumps(show))
    cards = (Card(vram_bytes=16 * GIB), Card(vram_bytes=12 * GIB))
    config = Config(
        upstreams=(UpstreamConfig(name="far", url="http://elsewhere:11434", gpus=cards),)
    )
    report = await from_file(config, Asked(model="m"), path, SHOWN_BYTES)
    assert report.memory.planned_bytes == 16 * GIB
    assert (report.memory.cards_bytes, report.estimate.num_ctx) == (28 * GIB, 32_768)


async def test_another_machines_memory_is_not_read_from_here() -> None:
    memory = await at_hand(configured("http://192.0.2.1:11434"), "m", [])
    assert memory.total_bytes is None
    assert "that machine" in memory.note


def test_a_budget_holds_where_the_card_has_more() -> None:
    memory = _read_memory(StubCard(used_bytes=2 * GIB).read(), 10 * GIB, None, cpu=False)
    assert memory.planned_bytes == 10 * GIB
    assert memory.beside_bytes == memory.alone_bytes == 10 * GIB


def test_a_budget_is_no_promise_that_the_card_has_as_much() -> None:
    reserve = int(24 * GIB * 0.05)
    memory = _read_memory(StubCard(used_bytes=20 * GIB).read(), 30 * GIB, None, cpu=False)
    assert memory.planned_bytes == 24 * GIB - reserve
    assert memory.beside_bytes == memory.alone_bytes == 4 * GIB - reserve


async def test_a_card_that_hangs_holds_up_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    class Hanging(StubCard):
        def read(self) -> Reading:
            answers.wait()
            return super().read()

    monkeypatch.setattr(gpu, "STALE_S", 0.0)
    memory = await at_hand(NOWHERE, "m", [], Hanging())
    answers.set()
    assert (memory.source, memory.note) == ("unknown", "the driver does not answer")


async def test_a_card_that_does_not_answer_is_said_to_be_unknown() -> None:
    memory = await at_hand(NOWHERE, "m", [], StubCard(broken="the driver was updated"))
    assert (memory.source, memory.note) == ("unknown", "the driver was updated")


async def test_a_model_on_a_card_shows_that_there_is_one_that_is_not_seen() -> None:
    main_memory = StubCard(source="system")
    assert (await at_hand(NOWHERE, "m", [loaded("other", 0, 4 * GIB)], main_memory)).cpu
    seen = await at_hand(NOWHERE, "m", [loaded("other", 4 * GIB)], main_memory)
    assert not seen.cpu
    assert seen.total_bytes is None


SOME = Memory(planned_bytes=20 * GIB, free_bytes=8 * GIB, loaded_bytes=10 * GIB, total_bytes=1)


@pytest.mark.parametrize(
    ("size_bytes", "memory", "expected"),
    [
        (8 * GIB, SOME, ("beside what is loaded", 0.0)),
        (8 * GIB + 1, SOME, ("alone", 0.0)),
        (18 * GIB, SOME, ("alone", 0.0)),
        (24 * GIB, SOME, ("partly on the CPU", 0.25)),
        (24 * GIB, replace(SOME, cpu=True), ("not at all", 0.0)),
        (1, Memory(), ("unknown", 0.0)),
    ],
)
def test_where_a_model_fits(size_bytes: int, memory: Memory, expected: tuple[str, float]) -> None:
    assert fit(size_bytes, memory) == expected


def test_contexts_double_up_to_the_trained_length() -> None:
    assert contexts(40_960, 4096) == [4096, 8192, 16_384, 32_768, 40_960]
    assert contexts(2048, 2048) == [2048]
    assert contexts(8192, 6000) == [4096, 6000, 8192]
    assert contexts(None, 4096)[-1] == 131_072


def test_a_bare_report_is_all_zero() -> None:
    told = Report(model="m", estimate=Estimate()).as_json()
    assert [told[key] for key in KEYS] == [0, 0, 0, 0, 0, 0, 0, "estimated", 0.0]


# ------------------------------------------------------------------------------------ the command


async def run(*arguments: str) -> Result:
    """The command, in a thread: it brings an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


@pytest.fixture(autouse=True)
def _no_card_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has, it is not looked for."""
    find = functools.partial(gpu.find_cards, nvml=None, root=tmp_path / "sys")
    monkeypatch.setattr(gpu, "find_cards", find)


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[[str], str]:
    """A gate.yaml for an upstream with a card of 24 GiB."""

    def write(url: str) -> str:
        upstream = {"url": url, "context_length": 4096, "gpus": [{"vram": "24GiB"}]}
        path = tmp_path / "gate.yaml"
        path.write_text(json.dumps({"upstreams": [upstream]}))
        return str(path)

    return write


async def test_the_command_tells_a_program_the_sum(
    ollama: SimulatedOllama, config_for: Callable[[str], str]
) -> None:
    result = await run("estimate", BIG, "-c", config_for(ollama.url), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert set(KEYS) < set(told)
    parts = [told[key] for key in KEYS[:4]]
    assert told["total_bytes"] == sum(parts) == sum(each["bytes"] for each in told["parts"])
    assert told["size_vram_bytes"] == told["total_bytes"] - told["overhead_bytes"]
    assert told["num_ctx"] == 4096
    assert told["source"] == "estimated"
    assert 0 < told["error"] < 0.2
    assert [row["num_ctx"] for row in told["contexts"] if row["in_effect"]] == [4096]


async def test_the_command_tells_people_the_parts_and_where_it_fits(
    ollama: SimulatedOllama, config_for: Callable[[str], str]
) -> None:
    result = await run("estimate", BIG, "-c", config_for(ollama.url))
    assert result.exit_code == 0
    text = result.stdout
    for word in ("weights", "tensors of /api/show", "kv", "compute", "process", "457MiB"):
        assert word in text
    assert "memory: 24GiB (config)" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    assert "4096" in lines
    assert lines["4096"].split()[1] == "*"
    assert lines["4096"].split()[-1] == "yes"
    assert "partly on the CPU (" in lines["32768"]


async def test_memory_that_nobody_can_read_is_said_to_be_unknown() -> None:
    result = await run("estimate", "--show", str(SHOWN), "--upstream", "http://192.0.2.1:11434")
    assert result.exit_code == 0
    assert "memory: unknown (nothing here reads that machine's memory" in result.stdout


async def test_a_cloud_models_line_is_short() -> None:
    result = await run("estimate", "c", "--show", str(DATA / "show_cloud.json"))
    assert result.stdout == "c runs elsewhere and takes nothing here.\n"


async def test_what_the_upstream_cannot_say_ends_with_1(
    ollama: SimulatedOllama, config_for: Callable[[str], str], make_ollama: MakeOllama
) -> None:
    result = await run("estimate", "nobody", "-c", config_for(ollama.url))
    assert result.exit_code == 1
    assert result.stderr == f"{ollama.url} has no model 'nobody'\n"
    gone = await run("estimate", BIG, "--upstream", "http://127.0.0.1:1")
    assert gone.exit_code == 1
    assert "http://127.0.0.1:1 does not answer" in gone.stderr


async def test_an_answer_that_is_no_ollamas_ends_with_1() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": "no more models today"}, status=500)

    app = web.Application()
    app.router.add_post("/api/show", refuse)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        result = await run("estimate", BIG, "--upstream", url)
    assert result.exit_code == 1
    assert result.stderr == f"{url} answered 500: no more models today\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "MODEL"),
        (["m", "--size", "5"], "--show"),
        (["--show", str(SHOWN), "--size", "-5"], "above 0"),
        (["--show", str(SHOWN), "--size", "0"], "above 0"),
        (["--show", str(SHOWN), "--size", "much"], "above 0"),
        (["--show", str(SHOWN), "--num-ctx", "0"], "--num-ctx"),
        (["--show", str(SHOWN), "--num-parallel", "-1"], "--num-parallel"),
        (["--show", str(SHOWN), "--kv-cache-type", "q3"], "--kv-cache-type"),
        (["--show", "missing.json"], "missing.json"),
        (["--show", str(Path(__file__))], "is not JSON"),
        (["m", "-c", "missing.yaml"], "missing.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_a_wrong_command_line_ends_with_2(arguments: list[str], named: str) -> None:
    result = await run("estimate", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 100_000])
async def test_json_that_is_no_answer_of_show_ends_with_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    result = await run("estimate", "m", "--show", str(path), "--size", "4GB")
    assert result.exit_code == 2
    assert "odd.json" in result.stderr


async def test_a_size_may_be_written_with_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("{}")
    result = await run("estimate", "--show", str(path), "--size", "4GB", "--json")
    told = json.loads(result.stdout)
    assert (told["model"], told["weights_bytes"]) == ("empty", 4_000_000_000)
    assert told["error"] >= 0.35
    assert told["kv_bytes"] == 200_000_000
    assert told["compute_bytes"] == 800_000_000 + 64 * MIB
