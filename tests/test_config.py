import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from ollama_gate.config import (
    Card,
    Config,
    Effective,
    Listen,
    ModelConfig,
    Profile,
    QueueConfig,
    SchedulerConfig,
    describe,
    file,
    format_duration,
    format_size,
    load,
    names_gate,
    parameters,
    parse_duration,
    parse_size,
    parse_upstream,
)
from ollama_gate.errors import ConfigError
from ollama_gate.scheduler.types import Policy, Priority

EXAMPLE = Path(__file__).parent.parent / "gate.yaml"
PARAMETERS_TABLE = EXAMPLE.parent / "docs" / "scheduling-parameters.md"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and no file of the system's: each test writes its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file, "SYSTEM_FILE", tmp_path / "etc" / "gate.yaml")
    return tmp_path


def effective(
    text: str | bytes = "",
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Effective:
    written = dedent(text).encode() if isinstance(text, str) else text
    Path("gate.yaml").write_bytes(written)
    return load(path=None, environ=environ or {}, flags=flags or {})


def problems(
    text: str | bytes = "",
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        effective(text, environ=environ, flags=flags)
    return str(caught.value).splitlines()


def refused(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return True
    return False


# --- defaults and the documented example


def test_without_any_file_the_defaults_are_in_effect() -> None:
    nothing = load(path=None, environ={}, flags={})
    assert nothing.config == Config()
    assert nothing.file is None
    assert set(nothing.origins.values()) == {"default"}
    assert str(nothing.config.listen) == "127.0.0.1:11435"
    assert nothing.config.upstream.url == "http://127.0.0.1:11434"


def test_the_documented_file_says_the_defaults() -> None:
    assert load(path=EXAMPLE, environ={}, flags={}).config == Config()


def test_the_documented_file_has_every_key_and_no_other() -> None:
    everything = {path for path, _, _ in describe(load(path=None, environ={}, flags={}))}
    # With the keys that are commented out, which would otherwise stand in the way of a default
    # or of a profile.
    text = re.sub(r"^( {2,4})# ( *[a-z_]+:)", r"\1\2", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^#(   .*)$", r"\1", text.replace("models: {}", "models:"), flags=re.MULTILINE)
    shown = effective(text)
    assert "default" not in shown.origins.values()
    models = {
        f'models."qwen2.5:32b".{key}'
        for key in ("vram", "max_concurrent", "priority", "keep_alive", "pin", "preload")
    }
    assert set(shown.origins) == everything | models
    assert shown.config.models["qwen2.5:32b"] == ModelConfig(
        vram_bytes=21 * 2**30, max_concurrent=1, priority=Priority.NORMAL, keep_alive_s=300.0
    )
    assert structs.replace(shown.config, models={}) == Config()


def test_the_brain_has_the_same_defaults() -> None:
    ours, brains = Config(), Policy()
    assert Policy(**parameters(ours.scheduler)) == brains
    assert ours.queue.max_size == brains.queue_max_size
    assert ours.queue.max_per_client == brains.queue_max_per_client
    assert ours.max_concurrent == brains.max_concurrent
    assert ours.keep_alive_s == brains.keep_alive_s


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Config().grace_s = 1.0  # type: ignore[misc]  # what is being tested
    with pytest.raises(TypeError):
        Config().models["a"] = ModelConfig()  # type: ignore[index]  # what is being tested


def test_every_key_can_be_set_in_the_file() -> None:
    set_ = effective("""\
        listen: 0.0.0.0:9000
        upstreams:
          - name: big
            url: gpu-box
            num_parallel: 4
            max_loaded: 2
            kv_cache_type: q8_0
            context_length: 8192
            gpus: [{vram: 24GiB}]
            outage_wait: 0
        vram: {reserve: 512MiB}
        keep_alive: -1
        prewarm: off
        models:
          "qwen2.5:32b": {vram: 21GiB, max_concurrent: 1, priority: low, keep_alive: 10m}
          pinned: {pin: true, preload: true}
          plain:
        max_concurrent: 5
        queue: {max_size: 10, max_wait: 2m, max_per_client: 7}
        scheduler: {profile: throughput, tau: [1s, 500ms, 25m], kappa: 2.5}
        max_body: 1GB
        grace: 1.5
        trace: ~/arrivals
        log: {level: debug, format: json}
        """).config
    assert set_.listen == Listen(host="0.0.0.0", port=9000)
    assert (set_.upstream.name, set_.upstream.url) == ("big", "http://gpu-box:11434")
    assert (set_.upstream.num_parallel, set_.upstream.max_loaded) == (4, 2)
    assert (set_.upstream.kv_cache_type, set_.upstream.context_length) == ("q8_0", 8192)
    assert set_.upstream.gpus == (Card(vram_bytes=24 * 2**30),)
    assert set_.upstream.outage_wait_s == 0
    assert set_.vram.reserve_bytes == 512 * 2**20
    assert math.isinf(set_.keep_alive_s)
    assert set_.models == {
        "qwen2.5:32b": ModelConfig(
            vram_bytes=21 * 2**30, max_concurrent=1, priority=Priority.LOW, keep_alive_s=600.0
        ),
        "pinned": ModelConfig(pin=True, preload=True),
        "plain": ModelConfig(),
    }
    assert set_.queue == QueueConfig(max_size=10, max_wait_s=120.0, max_per_client=7)
    assert (set_.prewarm, set_.max_concurrent) == ("off", 5)
    assert set_.trace == Path("~/arrivals")
    assert (set_.scheduler.tau_s, set_.scheduler.kappa) == ((1.0, 0.5, 1500.0), 2.5)
    assert (set_.max_body_bytes, set_.grace_s) == (10**9, 1.5)
    assert (set_.log.level, set_.log.format) == ("debug", "json")


# --- many problems at once


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    found = problems("""\
        listen: 127.0.0.1:99999
        upstreams:
          - num_parallel: two
            kv_cache_type: f32
            context_length: -1
            outage_wait: soon
            gpus: [{vram: 0}]
        vram: [1GiB]
        keep_alive: forever
        models:
          "a:b": {vram: big, priority: urgent, pin: yes, cost: 1}
        queue: {maxsize: 5}
        scheduler: {tau: [1s, 0s, x], kappa: -1}
        max_body: 0
        grace:
        log: {level: loud, format: xml}
        log: {}
        """)
    a_size = "expected a size above 0 such as 21GiB, 24GB or plain bytes"
    a_duration = "expected a duration such as 90s, 10m or 1h30m"
    model_keys = "vram, max_concurrent, priority, keep_alive, pin, preload"
    listen = "expected HOST:PORT or a port (0.0.0.0:PORT for every interface)"
    expected = f"""\
        vram: expected a mapping, found a list of 1 (gate.yaml:8)
        models."a:b".cost: unknown key; known here: {model_keys} (gate.yaml:11)
        queue.maxsize: unknown key; did you mean max_size? (gate.yaml:12)
        log: duplicate key, first on line 16 (gate.yaml:17)
        listen: {listen}, found "127.0.0.1:99999" (gate.yaml:1)
        upstreams[0].num_parallel: expected an integer of at least 1, found "two" (gate.yaml:3)
        upstreams[0].kv_cache_type: expected one of f16, q8_0, q4_0, found "f32" (gate.yaml:4)
        upstreams[0].context_length: expected an integer of at least 0, found -1 (gate.yaml:5)
        upstreams[0].gpus[0].vram: {a_size}, found 0 (gate.yaml:7)
        upstreams[0].outage_wait: {a_duration}, found "soon" (gate.yaml:6)
        keep_alive: {a_duration}, or -1 for no limit, found "forever" (gate.yaml:9)
        models."a:b".vram: {a_size}, found "big" (gate.yaml:11)
        models."a:b".priority: expected one of high, normal, low, found "urgent" (gate.yaml:11)
        models."a:b".pin: expected one of true, false, found yes (gate.yaml:11)
        scheduler.tau[1]: {a_duration}, longer than 0, found "0s" (gate.yaml:13)
        scheduler.tau[2]: {a_duration}, longer than 0, found "x" (gate.yaml:13)
        scheduler.kappa: expected a number above 0, found -1 (gate.yaml:13)
        max_body: {a_size}, found 0 (gate.yaml:14)
        grace: {a_duration}, found nothing (gate.yaml:15)
        log.level: expected one of debug, info, warning, error, found "loud" (gate.yaml:16)
        log.format: expected one of text, json, found "xml" (gate.yaml:16)
        """
    assert found == dedent(expected).splitlines()


def test_problems_of_file_environment_and_flags_come_together() -> None:
    found = problems(
        "grace: x",
        environ={"OLLAMA_GATE_QUEUE_MAX_SIZE": "lots", "OLLAMA_GATE_LISTN": "1"},
        flags={"listen": "here:there"},
    )
    assert [line.partition(":")[0] for line in found] == [
        "listen",
        "queue.max_size",
        "grace",
        "OLLAMA_GATE_LISTN",
    ]
    assert found[0].endswith('found "here:there" (flag --listen)')
    assert found[1].endswith('found "lots" (environment OLLAMA_GATE_QUEUE_MAX_SIZE)')
    assert found[3] == "OLLAMA_GATE_LISTN: unknown variable; did you mean OLLAMA_GATE_LISTEN?"


@pytest.mark.parametrize(
    "later",
    ["jobs", "metrics"],
)
def test_a_key_that_does_not_work_yet_is_unknown(later: str) -> None:
    (only,) = problems(f"{later}: null")
    assert only.startswith(f"{later}: unknown key; ")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("vram: {margin: 1.0}", "vram.margin"),
        ("scheduler: {rollout: true}", "scheduler.rollout"),
        ("scheduler: {ewma: {arrivals: 0.1}}", "scheduler.ewma.arrivals"),
        ("log: {file: x}", "log.file"),
        ("upstreams: [{gpus: [{index: 0, share: 1GiB}]}]", "upstreams[0].gpus[0].share"),
    ],
)
def test_a_key_of_a_section_that_does_not_work_yet_is_unknown(text: str, path: str) -> None:
    (only,) = problems(text)
    assert only.startswith(f"{path}: unknown key; ")


def test_memory_is_planned_as_written() -> None:
    found = effective(
        "vram: {safety: 1.25}\noffload: refuse\nnum_ctx: respect\nstate_dir: /var/lib/gate"
    ).config
    assert found.vram.safety == 1.25
    assert (found.offload, found.num_ctx) == ("refuse", "respect")
    assert found.state_dir == Path("/var/lib/gate")


def test_a_wrong_plan_for_memory_is_told_what_was_expected() -> None:
    found = problems("vram: {safety: 50}\noffload: never\nnum_ctx: 4096\nstate_dir: [x]")
    assert [line.partition(", found")[0] for line in found] == [
        "vram.safety: expected a number from 0.1 to 10",
        "offload: expected one of auto, refuse, accept",
        "num_ctx: expected one of widen, respect",
        "state_dir: expected a directory",
    ]


def test_a_key_at_the_wrong_level_is_sent_to_the_right_one() -> None:
    assert problems("num_parallel: 2\nkappa: 3") == [
        "num_parallel: unknown key; did you mean upstreams[0].num_parallel? (gate.yaml:1)",
        "kappa: unknown key; did you mean scheduler.kappa? (gate.yaml:2)",
    ]


# --- what YAML makes of things


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("11435", "127.0.0.1", 11435),
        ("0", "127.0.0.1", 0),
        ('"9000"', "127.0.0.1", 9000),
        ("0.0.0.0", "0.0.0.0", 11435),
        ("localhost:80", "localhost", 80),
        ('"[::1]:80"', "::1", 80),
        ('"[::]"', "::", 11435),
        ('"::1"', "::1", 11435),
    ],
)
def test_where_to_listen_may_be_spelled_in_several_ways(text: str, host: str, port: int) -> None:
    assert effective(f"listen: {text}").config.listen == Listen(host=host, port=port)


@pytest.mark.parametrize(
    "text",
    [
        *("1:30", "12:30:45", "0x10", "-1", "65536", "1.5", "256.1.1.1:1", "a:1:2", "':11435'"),
        *(
            "a b:1",
            "http://a:1",
            '"[a]:1"',
            '""',
            "~",
            "[1]",
            "{a: 1}",
            "!!python/name:x y",
            "!t 1",
        ),
    ],
)
def test_what_is_nowhere_to_listen_is_refused(text: str) -> None:
    (only,) = problems(f"listen: {text}")
    assert only.startswith("listen: expected HOST:PORT or a port ")


@pytest.mark.parametrize(
    "text", ["1:30", "yes", "2001-01-01", "1e3", "1_000", "0x10", ".inf", "+5"]
)
def test_a_duration_is_what_was_written_and_not_what_yaml_makes_of_it(text: str) -> None:
    (only,) = problems(f"grace: {text}")
    assert re.search(f'found "?{re.escape(text)}"? ', only)


def test_numbers_may_be_quoted() -> None:
    assert effective('queue: {max_size: "7"}').config.queue.max_size == 7


def test_sections_with_nothing_in_them_are_the_defaults() -> None:
    text = "upstreams:\nvram:\nmodels:\nqueue:\nscheduler: {}\nlog:\n"
    assert effective(text).config == Config()
    assert effective("upstreams: [~]").config == Config()
    assert effective("\ufeff# only a comment").config == Config()


@pytest.mark.parametrize("text", ["[]", "[1]", "word", "{a: 1}", "[cpu]", "[{}]", "0", "~"])
def test_cards_are_auto_cpu_or_a_list_of_them(text: str) -> None:
    (only,) = problems(f"upstreams: [{{gpus: {text}}}]")
    assert only.startswith("upstreams[0].gpus")


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        ("[{uuid: GPU-1a2b}]", (Card(uuid="GPU-1a2b"),)),
        ("[{uuid: MIG-GPU-1a/7/0}]", (Card(uuid="MIG-GPU-1a/7/0"),)),
        ("[{index: 0, vram: 20GiB}]", (Card(index=0, vram_bytes=20 * 2**30),)),
        (
            "[{uuid: GPU-1, vram: 8GiB}, {index: 1}]",
            (Card(uuid="GPU-1", vram_bytes=8 * 2**30), Card(index=1)),
        ),
    ],
)
def test_cards_are_named_by_uuid_or_index(text: str, cards: tuple[Card, ...]) -> None:
    found = effective(f"upstreams: [{{gpus: {text}}}]")
    assert found.config.upstream.gpus == cards
    # What is shown can be written back.
    shown = found.values["upstreams[0].gpus"]
    assert effective(f"upstreams: [{{gpus: {shown}}}]").config.upstream.gpus == cards


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[{vram: 1GiB}, {index: 1}]", "[0]: expected a uuid or an index, there being several"),
        ("[{uuid: GPU-1}, {vram: 1GiB}]", "[1]: expected a uuid or an index, there being several"),
        ("[{index: 1}, {index: 0}, {index: 1}]", "[2]: the same card as [0]"),
        ("[{uuid: GPU-1}, {uuid: GPU-1}]", "[1]: the same card as [0]"),
        ("[{uuid: GPU-1, index: 0}]", "[0]: expected a uuid or an index, found both"),
        ("[{uuid: 3090}]", "[0].uuid: expected a UUID that begins with GPU- or MIG-"),
        ("[{index: -1}]", "[0].index: expected an integer of at least 0"),
    ],
)
def test_of_several_cards_each_is_told_from_the_others(text: str, expected: str) -> None:
    (only,) = problems(f"upstreams: [{{gpus: {text}}}]")
    assert only.startswith(f"upstreams[0].gpus{expected}")


def test_everything_that_is_wrong_with_a_card_is_said() -> None:
    found = problems("upstreams: [{gpus: [{uuid: 1, vram: big, vram: 2GiB}, {size: 1}]}]")
    assert sorted(line.split(":")[0] for line in found) == [
        "upstreams[0].gpus[0].uuid",
        "upstreams[0].gpus[0].vram",
        "upstreams[0].gpus[0].vram",
        "upstreams[0].gpus[1].size",
    ]


def test_the_cpu_is_a_place() -> None:
    assert effective("upstreams: [{gpus: cpu}]").config.upstream.gpus == "cpu"


@pytest.mark.parametrize("name", ["a/b", "two words", "''", "x\\ty", "[a]"])
def test_an_upstreams_name_can_stand_in_a_log_line(name: str) -> None:
    (only,) = problems(f"upstreams: [{{name: {name}}}]")
    assert only.startswith("upstreams[0].name: expected a name of letters, ")


@pytest.mark.parametrize("text", ["[]", "{name: a}", "http://x", "5"])
def test_upstreams_are_a_list(text: str) -> None:
    (only,) = problems(f"upstreams: {text}")
    assert only.startswith("upstreams: expected a list of upstreams, found ")


def test_keys_that_are_no_words_are_refused() -> None:
    found = problems('models:\n  "": {}\n  ? [a]\n  : {}\n  <<: {b: {}}\n')
    assert found == [
        'models."": expected a name, found nothing (gate.yaml:2)',
        'models."?": expected a key of one word, found a list of 1 (gate.yaml:3)',
        'models."<<": merge keys are not supported (gate.yaml:5)',
    ]


def test_a_key_twice_is_refused_at_every_level() -> None:
    found = problems("queue: {max_size: 1, max_size: 2}\nmodels: {a: {}, a: {}}\n")
    assert found == [
        "queue.max_size: duplicate key, first on line 1 (gate.yaml:1)",
        "models.a: duplicate key, first on line 2 (gate.yaml:2)",
    ]


# --- files that are none


@pytest.mark.parametrize("text", ["[1]", "word", "5"])
def test_a_file_is_a_mapping(text: str) -> None:
    (only,) = problems(text)
    assert only.startswith("the file: expected a mapping, found ")


def test_bad_syntax_is_reported_with_line_and_column() -> None:
    (only,) = problems("listen: 1\nqueue: {max_size: 5\ngrace: 3s\n")
    assert only.startswith("gate.yaml: not YAML: line 3, column 6: while parsing a flow mapping, ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: \x00", "character 4: special characters are not allowed"),
        (b"a: 1\n---\nb: 2\n", "not YAML: line 2, column 1"),
        (b"a: *nowhere", "not YAML: line 1, column 4"),
        (b"\ta: 1", "not YAML: line 1, column 1"),
        (b"[" * 5000, "nested too deeply"),
        (b"listen: 1\ngrace: \xff", "not UTF-8: line 2 has the byte 0xff"),
        ("listen: 1".encode("utf-16"), "not UTF-8: line 1 has the byte 0xff"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_problem(content: bytes, words: str) -> None:
    (only,) = problems(content)
    assert only.startswith("gate.yaml: ")
    assert words in only


def test_a_file_that_cannot_be_read_is_one_problem_among_others(nowhere: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path=nowhere, environ={}, flags={"listen": "x:y"})
    first, second = str(caught.value).splitlines()
    assert first == f"{nowhere}: cannot be read: Is a directory"
    assert second.startswith("listen: ")


def test_an_alias_means_what_it_names() -> None:
    text = "keep_alive: &long 1h\nmodels: {a: &m {keep_alive: *long}, b: *m}\n"
    models = effective(text).config.models
    assert models["a"] == models["b"] == ModelConfig(keep_alive_s=3600.0)


def test_a_mapping_within_itself_is_refused_in_the_end() -> None:
    assert len(problems("models: &m {a: *m}")) == 1


# --- which file


def test_the_nearest_file_is_used(nowhere: Path) -> None:
    environ = {"HOME": str(nowhere / "home")}
    places = [
        nowhere / "etc" / "gate.yaml",
        nowhere / "home" / ".config" / "ollama-gate" / "gate.yaml",
        Path("gate.yaml"),
        nowhere / "of-variable.yaml",
        nowhere / "explicit.yaml",
    ]
    for seconds, place in enumerate(places, start=1):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"grace: {seconds}")
        if place.name == "of-variable.yaml":
            environ["OLLAMA_GATE_CONFIG"] = str(place)
        explicit = place if place.name == "explicit.yaml" else None
        used = load(path=explicit, environ=environ, flags={})
        assert (used.file, used.config.grace_s) == (place, seconds)
        assert used.origins["grace"] == f"{place}:1"


@pytest.mark.parametrize("absent", ["absent.yaml", "etc/absent.yaml"])
def test_a_file_that_was_named_must_exist(absent: str) -> None:
    Path("gate.yaml").touch()
    Path("etc").touch()
    for path, environ in (Path(absent), {}), (None, {"OLLAMA_GATE_CONFIG": absent}):
        with pytest.raises(ConfigError) as caught:
            load(path=path, environ=environ, flags={})
        assert str(caught.value) == f"{absent}: there is no such file"


# --- precedence


def test_a_flag_is_above_a_variable_above_the_file_above_the_default() -> None:
    text = "listen: 1001\nupstreams:\n  - url: http://file:1\n"
    environ = {"OLLAMA_GATE_LISTEN": "1002", "OLLAMA_GATE_UPSTREAM": "http://environ:1"}
    flags = {"listen": "1003", "upstream": "http://flag:1"}

    seen = effective("grace: 1s")
    assert (seen.config.listen.port, seen.origins["listen"]) == (11435, "default")
    seen = effective(text)
    assert (seen.config.listen.port, seen.origins["listen"]) == (1001, "gate.yaml:1")
    assert seen.origins["upstreams[0].url"] == "gate.yaml:3"
    seen = effective(text, environ=environ)
    assert seen.config.listen.port == 1002
    assert seen.origins["listen"] == "environment OLLAMA_GATE_LISTEN"
    assert seen.config.upstream.url == "http://environ:1"
    seen = effective(text, environ=environ, flags=flags)
    assert (seen.config.listen.port, seen.origins["listen"]) == (1003, "flag --listen")
    assert seen.config.upstream.url == "http://flag:1"
    assert seen.origins["upstreams[0].url"] == "flag --upstream"


def test_every_key_but_the_models_has_a_variable() -> None:
    values = {
        "LISTEN": "9000",
        "ORIGINS": "https://a.example,http://b.*",
        "UPSTREAM_NAME": "x",
        "UPSTREAM": "x",
        "UPSTREAM_NUM_PARALLEL": "2",
        "UPSTREAM_MAX_LOADED": "2",
        "UPSTREAM_KV_CACHE_TYPE": "q4_0",
        "UPSTREAM_CONTEXT_LENGTH": "2",
        "UPSTREAM_GPUS": "[{vram: 8GiB}]",
        "UPSTREAM_OUTAGE_WAIT": "2s",
        "VRAM_RESERVE": "2GiB",
        "VRAM_SAFETY": "1.1",
        "OFFLOAD": "accept",
        "KEEP_ALIVE": "-1",
        "NUM_CTX": "respect",
        "PREWARM": "off",
        "MAX_CONCURRENT": "2",
        "QUEUE_MAX_SIZE": "2",
        "QUEUE_MAX_WAIT": "2s",
        "QUEUE_MAX_PER_CLIENT": "2",
        "SCHEDULER_PROFILE": "interactive",
        "SCHEDULER_W": "[3, 2.5, 2.5]",
        "SCHEDULER_TAU": "[1s, 2s, 3s]",
        "SCHEDULER_TAU_CAP": "[1s, 20s, 30s]",
        "SCHEDULER_BETA": "0",
        "SCHEDULER_KAPPA": "2",
        "SCHEDULER_KAPPA_HI": "2",
        "SCHEDULER_FINISH": "0",
        "SCHEDULER_STRETCH": "1",
        "SCHEDULER_K_LOAD": "0",
        "SCHEDULER_K_SLOT": "0",
        "SCHEDULER_AGING": "0",
        "SCHEDULER_HALF_LIFE": "2s",
        "SCHEDULER_EWMA_SERVICE": "1",
        "SCHEDULER_EWMA_LOAD": "0.01",
        "SCHEDULER_FIRST_SERVICE": "2s",
        "SCHEDULER_FIRST_LOAD": "2s",
        "SCHEDULER_FIRST_LOAD_RATE": "2GB",
        "SCHEDULER_FIRST_UNLOAD": "2s",
        "SCHEDULER_OOM_FACTOR": "2",
        "SCHEDULER_OOM_TRIES": "2",
        "SCHEDULER_OOM_BACKOFF": "[2s, 2s]",
        "MAX_RUN": "2h",
        "MAX_BODY": "2MiB",
        "GRACE": "2s",
        "TRACE": "arrivals",
        "STATE_DIR": "state",
        "LOG_LEVEL": "error",
        "LOG_FORMAT": "json",
    }
    environ = {f"OLLAMA_GATE_{name}": f" {text} " for name, text in values.items()}
    seen = load(path=None, environ=environ, flags={})
    assert list(seen.origins.values()) == [f"environment {name}" for name in environ]
    assert seen.config.upstream.gpus == (Card(vram_bytes=8 * 2**30),)
    assert seen.config.scheduler == SchedulerConfig(
        profile="interactive",
        weights=(3.0, 2.5, 2.5),
        tau_s=(1.0, 2.0, 3.0),
        tau_cap_s=(1.0, 20.0, 30.0),
        beta=0.0,
        kappa=2.0,
        kappa_hi=2.0,
        finish=0.0,
        stretch=1.0,
        k_load=0,
        k_slot=0,
        aging=0.0,
        half_life_s=2.0,
        ewma_service=1.0,
        ewma_load=0.01,
        first_service_s=2.0,
        first_load_s=2.0,
        first_load_bytes_per_s=2e9,
        first_unload_s=2.0,
        oom_growth=2.0,
        oom_tries=2,
        oom_backoff_s=(2.0, 2.0),
    )


def test_an_empty_variable_is_no_setting() -> None:
    environ = {"OLLAMA_GATE_LISTEN": "", "OLLAMA_HOST": " ", "OLLAMA_GATE_CONFIG": ""}
    assert load(path=None, environ=environ, flags={}).config == Config()


def test_a_list_in_a_variable_is_checked_like_one_in_the_file() -> None:
    environ = {"OLLAMA_GATE_SCHEDULER_TAU": "[1s", "OLLAMA_GATE_UPSTREAM_GPUS": "[{vram: x}]"}
    gpus, tau = problems(environ=environ)
    assert gpus.startswith("upstreams[0].gpus[0].vram: expected a size")
    assert tau.startswith("scheduler.tau: expected a list of three durations")
    assert tau.endswith('found "[1s" (environment OLLAMA_GATE_SCHEDULER_TAU)')


def test_a_model_has_no_variable() -> None:
    (only,) = problems(environ={"OLLAMA_GATE_MODELS_A_VRAM": "1GiB"})
    assert only.startswith("OLLAMA_GATE_MODELS_A_VRAM: unknown variable; did you mean OLLAMA_GATE_")


def test_other_peoples_variables_are_left_alone() -> None:
    environ = {"OLLAMA_GATEKEEPER": "1", "OLLAMA_MODELS": "/x", "PATH": "/bin"}
    assert load(path=None, environ=environ, flags={}).config == Config()


def test_what_a_person_typed_is_quoted_harmlessly() -> None:
    (only,) = problems(environ={"OLLAMA_GATE_GRACE": "\x1b[2J\nlisten: fine" + "x" * 500})
    assert r'found "\u001b[2J\nlisten: fine' in only
    assert len(only) < 300


# --- the upstream's address


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1"),
        ("[::]:1234", "http://[::1]:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("example.com", "http://example.com:11434"),
        ("http://1.2.3.4", "http://1.2.3.4"),
        ("http://1.2.3.4:80/", "http://1.2.3.4"),
        ("https://1.2.3.4", "https://1.2.3.4"),
        ("https://1.2.3.4:80", "https://1.2.3.4:80"),
        ("HTTP://Example.COM:1234/", "http://example.com:1234"),
        ("example.com/ollama/", "http://example.com:11434/ollama"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("http://", "http://127.0.0.1"),
    ],
)
def test_an_upstream_is_spelled_as_for_ollamas_own_client(text: str, url: str) -> None:
    assert parse_upstream(text) == url
    assert parse_upstream(url) == url


@pytest.mark.parametrize(
    "text",
    [
        *("ftp://x", "http://u:p@x", "x?y", "x#y", "x:0", "x:66000", "x:y", "a b", "[::1", ":x"),
        *("[1.2.3.4]", "1.2.3", "http://x\x1b", "1:2:3:4", "-x"),
    ],
)
def test_what_is_no_address_of_an_ollama_is_refused(text: str) -> None:
    assert refused(parse_upstream, text)
    (only,) = problems(flags={"upstream": text})
    assert only.startswith("upstreams[0].url: expected an address such as ")
    (only,) = problems(environ={"OLLAMA_HOST": text})
    assert only.startswith("OLLAMA_HOST: expected an address such as ")


def test_ollama_host_is_the_default_upstream() -> None:
    environ = {"OLLAMA_HOST": ' "gpu-box:1234" '}
    seen = effective("upstreams: [{num_parallel: 2}]", environ=environ)
    assert seen.config.upstream.url == "http://gpu-box:1234"
    assert seen.origins["upstreams[0].url"] == "environment OLLAMA_HOST"
    assert seen.values["upstreams[0].url"] == "http://gpu-box:1234"


def test_ollama_host_yields_to_what_was_said_to_the_gate() -> None:
    environ = {"OLLAMA_HOST": "nonsense://"}
    seen = effective("upstreams: [{url: of-file}]", environ=environ)
    assert seen.config.upstream.url == "http://of-file:11434"
    environ["OLLAMA_GATE_UPSTREAM"] = "of-variable"
    seen = effective("upstreams: [{url: of-file}]", environ=environ)
    assert seen.config.upstream.url == "http://of-variable:11434"


@pytest.mark.parametrize("host", ["127.0.0.1:11435", "0.0.0.0:11435", "http://localhost:11435/"])
def test_ollama_host_that_names_the_gate_is_for_its_clients(host: str) -> None:
    seen = load(path=None, environ={"OLLAMA_HOST": host}, flags={})
    assert seen.config == Config()
    assert seen.origins["upstreams[0].url"] == "default"


def test_an_upstream_that_is_the_gate_itself_is_a_problem() -> None:
    text = "upstreams[0].url: expected an Ollama, found http://127.0.0.1:11434,"
    text += " which is the gate's own listen address"
    assert problems(environ={"OLLAMA_GATE_LISTEN": "11434"}) == [text]
    (only,) = problems(flags={"upstream": "localhost:11435"})
    assert only.endswith("own listen address (flag --upstream)")
    (only,) = problems("listen: localhost:1\nupstreams: [{url: '127.0.0.1:1'}]")
    assert only.endswith("own listen address (gate.yaml:2)")


@pytest.mark.parametrize(
    ("url", "host", "itself"),
    [
        ("http://127.0.0.1:1", "127.0.0.1", True),
        ("http://127.0.0.1:1", "0.0.0.0", True),
        ("http://127.0.0.1:1", "::", True),
        ("http://127.0.0.1:1", "localhost", True),
        ("http://localhost:1", "::1", True),
        ("http://[::1]:1", "::1", True),
        ("http://[::ffff:127.0.0.1]:1", "127.0.0.1", True),
        ("https://box:1/x", "box", True),
        ("http://127.0.0.1:2", "127.0.0.1", False),
        ("http://127.0.0.2:1", "127.0.0.1", False),
        ("http://[::1]:1", "0.0.0.0", False),
        ("http://10.0.0.1:1", "0.0.0.0", False),
        ("http://box:1", "0.0.0.0", False),
        ("http://box:1", "other", False),
        ("http://127.0.0.1", "127.0.0.1", False),
        ("https://127.0.0.1", "127.0.0.1", False),
    ],
)
def test_the_gate_knows_its_own_address(url: str, host: str, *, itself: bool) -> None:
    assert names_gate(url, Listen(host=host, port=1)) is itself


def test_the_gates_own_address_without_a_port_is_known_as_well() -> None:
    assert names_gate("http://127.0.0.1", Listen(port=80))
    assert names_gate("https://127.0.0.1", Listen(port=443))


# --- several upstreams

TWO = "upstreams:\n  - {name: a, url: box}\n  - {name: b, url: 'box:2', gpus: cpu}\n"


def test_several_upstreams_are_each_set_up_on_their_own() -> None:
    seen = effective("""\
        upstreams:
          - name: a
            url: 127.0.0.1:11434
            gpus: [{uuid: GPU-1}]
          - name: b
            url: 127.0.0.1:11436
            gpus: [{uuid: GPU-2, vram: 20GiB}]
            num_parallel: 4
        """)
    first, second = seen.config.upstreams
    assert (first.name, first.gpus, first.num_parallel) == ("a", (Card(uuid="GPU-1"),), 1)
    assert (second.name, second.url) == ("b", "http://127.0.0.1:11436")
    assert second.gpus == (Card(uuid="GPU-2", vram_bytes=20 * 2**30),)
    assert (second.num_parallel, second.outage_wait_s) == (4, 60.0)
    assert seen.config.upstream == first
    shown = [path for path, _, _ in describe(seen) if path.startswith("upstreams[1].")]
    assert shown == [path.replace("[0]", "[1]") for path in seen.origins if "s[0]." in path]
    assert seen.origins["upstreams[1].num_parallel"] == "gate.yaml:8"


def test_of_several_upstreams_each_has_a_name_and_an_address() -> None:
    environ = {"OLLAMA_HOST": "box"}
    expected = "expected one, there being several upstreams"
    assert problems("upstreams: [~, {name: b, url: c}, {gpus: cpu}]", environ=environ) == [
        f"upstreams[0].name: {expected}",
        f"upstreams[0].url: {expected}",
        f"upstreams[2].name: {expected}",
        f"upstreams[2].url: {expected}",
    ]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (
            "{name: a, url: x}, {name: a, url: y}",
            "upstreams[1].name: the same name as upstreams[0].name, a (gate.yaml:1)",
        ),
        (
            "{name: a, url: 'localhost:5'}, {name: b, url: '127.0.0.1:5'}",
            (
                "upstreams[1].url: the same Ollama as upstreams[0].url, http://localhost:5"
                " (gate.yaml:1)"
            ),
        ),
        (
            (
                "{name: a, url: x, gpus: [{uuid: GPU-1}]},"
                " {name: b, url: y, gpus: [{uuid: GPU-2}, {uuid: GPU-1}]}"
            ),
            "upstreams[1].gpus: the same card as in upstreams[0].gpus, GPU-1 (gate.yaml:1)",
        ),
        (
            "{name: a, url: x}, {name: b, url: '127.0.0.1:11435'}",
            (
                "upstreams[1].url: expected an Ollama, found http://127.0.0.1:11435,"
                " which is the gate's own listen address (gate.yaml:1)"
            ),
        ),
        (
            "{name: a, url: x}, {name: b, url: y, num_parallel: 0, cards: 2}",
            (
                "upstreams[1].cards: unknown key; known here: name, url, num_parallel, max_loaded,"
                " kv_cache_type, context_length, gpus, outage_wait (gate.yaml:1)"
            ),
        ),
    ],
)
def test_upstreams_are_told_from_each_other(entries: str, problem: str) -> None:
    assert problems(f"upstreams: [{entries}]")[0] == problem


def test_upstreams_may_share_a_server_under_other_paths() -> None:
    text = "upstreams: [{name: a, url: box/a}, {name: b, url: box/b}]"
    assert len(effective(text).config.upstreams) == 2


def test_the_variables_are_those_of_the_first_upstream() -> None:
    environ = {"OLLAMA_GATE_UPSTREAM": "other", "OLLAMA_GATE_UPSTREAM_GPUS": "cpu"}
    first, second = effective(TWO, environ=environ).config.upstreams
    assert (first.name, first.url, first.gpus) == ("a", "http://other:11434", "cpu")
    assert (second.name, second.url) == ("b", "http://box:2")


@pytest.mark.parametrize("text", ["b", " box:2 ", "http://box:2/"])
def test_of_several_upstreams_the_flag_names_one_that_stands_alone(text: str) -> None:
    seen = effective(TWO, flags={"upstream": text})
    (only,) = seen.config.upstreams
    assert (only.name, only.url, only.gpus) == ("b", "http://box:2", "cpu")
    assert seen.origins["upstreams[1].name"] == "flag --upstream"
    assert seen.origins["upstreams[1].url"] == "gate.yaml:3"
    assert not any(path.startswith("upstreams[0]") for path in seen.origins)


@pytest.mark.parametrize("text", ["c", "http://box:3", "x:y:z"])
def test_of_several_upstreams_the_flag_names_no_other(text: str) -> None:
    assert problems(TWO, flags={"upstream": text}) == [
        (
            "upstreams: expected one of a (http://box:11434), b (http://box:2),"
            f' found "{text}" (flag --upstream)'
        )
    ]


# --- the brain's parameters


@pytest.mark.parametrize(
    ("profile", "changed"),
    [
        ("balanced", {}),
        ("interactive", {"tau": "[5s, 2m, 5m]", "kappa_hi": "1"}),
        ("throughput", {"tau": "[1m30s, 6m, 15m]", "kappa": "8", "kappa_hi": "8"}),
    ],
)
def test_a_profile_sets_what_nobody_else_does(profile: Profile, changed: dict[str, str]) -> None:
    default = load(path=None, environ={}, flags={})
    seen = effective(f"scheduler: {{profile: {profile}}}")
    expected = {f"scheduler.{name}": value for name, value in changed.items()}
    differs = {path for path, text in seen.values.items() if text != default.values[path]}
    assert differs - {"scheduler.profile", *expected} == set()
    assert {path: seen.values[path] for path in expected} == expected
    of_profile = {path for path, text in seen.origins.items() if text == f"profile {profile}"}
    assert of_profile == set(expected)


def test_a_key_of_ones_own_goes_before_the_profile() -> None:
    environ = {"OLLAMA_GATE_SCHEDULER_PROFILE": "throughput"}
    seen = effective("scheduler: {kappa: 3}", environ=environ)
    assert (seen.config.scheduler.kappa, seen.config.scheduler.kappa_hi) == (3.0, 8.0)
    assert seen.origins["scheduler.kappa"] == "gate.yaml:1"
    assert seen.origins["scheduler.kappa_hi"] == "profile throughput"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("profile: fast", "profile: expected one of balanced, interactive, throughput, found"),
        ("w: [1, 2, 1]", "w: expected numbers that do not grow from high to low, found a list"),
        ("w: [1, 1]", "w: expected a list of three numbers, for high, normal and low, found"),
        ("w: [1, 1, 0]", "w[2]: expected a number above 0, found 0"),
        ("tau: 20s", "tau: expected a list of three durations, for high, normal and low, found"),
        ("beta: -1", "beta: expected a number of at least 0, found -1"),
        ("stretch: 0.5", "stretch: expected a number of at least 1, found 0.5"),
        ("k_load: 1.5", "k_load: expected an integer of at least 0, found 1.5"),
        ("half_life: 0s", "half_life: expected a duration such as 90s, 10m or 1h30m, longer than"),
        ("ewma: {load: 0}", "ewma.load: expected a number above 0, at most 1, found 0"),
        ("ewma: {service: 1.1}", "ewma.service: expected a number above 0, at most 1, found 1.1"),
        ("ewma: 0.2", "ewma: expected a mapping, found 0.2"),
        ("first: {load_rate: 0}", "first.load_rate: expected bytes per second such as 3GB/s, fou"),
        ("first: {load_rate: 3GB/h}", "first.load_rate: expected bytes per second such as 3GB/s"),
        ("oom: {factor: 1}", "oom.factor: expected a number from 1.01 to 10, found 1"),
        ("oom: {tries: 0}", "oom.tries: expected an integer of at least 1, found 0"),
        ("oom: {backoff: [1s]}", "oom.backoff: expected a list of two durations, the first pause"),
        ("oom: {backoff: [8s, 1s]}", "oom.backoff: expected a list of two durations, the first"),
        ("oom: {backoff: [8s, x]}", "oom.backoff[1]: expected a duration"),
    ],
)
def test_a_parameter_out_of_its_range_is_told_what_was_expected(text: str, problem: str) -> None:
    (only,) = problems(f"scheduler: {{{text}}}")
    assert only.startswith(f"scheduler.{problem}")


def test_patience_ends_no_later_than_its_cap() -> None:
    assert problems("scheduler:\n  tau: [20s, 2m, 40m]\n") == [
        (
            "scheduler.tau[2]: expected at most scheduler.tau_cap[2], 30m (default), found 40m"
            " (gate.yaml:2)"
        )
    ]
    assert problems("scheduler:\n  profile: throughput\n  tau_cap: [80s, 10m, 30m]\n") == [
        (
            "scheduler.tau[0]: expected at most scheduler.tau_cap[0], 1m20s (gate.yaml:3),"
            " found 1m30s (profile throughput)"
        )
    ]


def test_how_fast_memory_fills_may_be_written_as_a_size() -> None:
    for text in ("2GiB", "2GiB/s", "2147483648"):
        seen = effective(f"scheduler: {{first: {{load_rate: {text}}}}}")
        assert seen.config.scheduler.first_load_bytes_per_s == 2.0**31
        assert seen.values["scheduler.first.load_rate"] == "2GiB/s"


def test_the_table_of_parameters_says_what_each_profile_makes_of_them() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \|(.*)\|$", PARAMETERS_TABLE.read_text(), re.MULTILINE)
    cells = {name: [each.strip(" `") for each in row.split("|")] for name, row in rows}
    for place, profile in enumerate(("balanced", "interactive", "throughput"), start=1):
        seen = effective(f"scheduler: {{profile: {profile}}}").values
        names = [path.removeprefix("scheduler.") for path in seen if path.startswith("scheduler.")]
        shown = {name: cells[name][place] or cells[name][1] for name in names if name != "profile"}
        assert shown == {name: seen[f"scheduler.{name}"] for name in shown}


# --- where arrivals are recorded


@pytest.mark.parametrize("text", ["null", "~", "", '"null"'])
def test_nothing_is_recorded_unless_a_file_is_named(text: str) -> None:
    assert effective(f"trace: {text}").config.trace is None


@pytest.mark.parametrize("text", ["[a]", "{a: b}", '""', '"a\\0b"'])
def test_what_is_no_file_to_record_to_is_refused(text: str) -> None:
    (only,) = problems(f"trace: {text}")
    assert only.startswith("trace: expected a file, found ")


# --- showing what is in effect


def test_what_is_in_effect_is_shown_in_the_order_of_the_documented_file() -> None:
    seen = effective(
        """\
        log: {level: debug}
        models:
          "b:7b": {keep_alive: 90, vram: 1536MiB}
          a: {}
        upstreams: [{gpus: [{vram: 24GB}]}]
        """,
        flags={"listen": "[::1]:9000"},
    )
    assert describe(seen) == [
        ("listen", "[::1]:9000", "flag --listen"),
        ("origins", "[]", "default"),
        ("upstreams[0].name", "local", "default"),
        ("upstreams[0].url", "http://127.0.0.1:11434", "default"),
        ("upstreams[0].num_parallel", "1", "default"),
        ("upstreams[0].max_loaded", "0", "default"),
        ("upstreams[0].kv_cache_type", "f16", "default"),
        ("upstreams[0].context_length", "0", "default"),
        ("upstreams[0].gpus", "[{vram: 24GB}]", "gate.yaml:5"),
        ("upstreams[0].outage_wait", "1m", "default"),
        ("vram.reserve", "auto", "default"),
        ("vram.safety", "1", "default"),
        ("offload", "auto", "default"),
        ("keep_alive", "5m", "default"),
        ("num_ctx", "widen", "default"),
        ("prewarm", "auto", "default"),
        ('models."b:7b".vram', "1536MiB", "gate.yaml:3"),
        ('models."b:7b".keep_alive', "1m30s", "gate.yaml:3"),
        ("max_concurrent", "0", "default"),
        ("queue.max_size", "1000", "default"),
        ("queue.max_wait", "0s", "default"),
        ("queue.max_per_client", "0", "default"),
        ("scheduler.profile", "balanced", "default"),
        ("scheduler.w", "[36, 6, 1]", "default"),
        ("scheduler.tau", "[20s, 2m, 5m]", "default"),
        ("scheduler.tau_cap", "[2m, 10m, 30m]", "default"),
        ("scheduler.beta", "1", "default"),
        ("scheduler.kappa", "6", "default"),
        ("scheduler.kappa_hi", "2", "default"),
        ("scheduler.finish", "2", "default"),
        ("scheduler.stretch", "2", "default"),
        ("scheduler.k_load", "3", "default"),
        ("scheduler.k_slot", "8", "default"),
        ("scheduler.aging", "1", "default"),
        ("scheduler.half_life", "2m", "default"),
        ("scheduler.ewma.service", "0.2", "default"),
        ("scheduler.ewma.load", "0.3", "default"),
        ("scheduler.first.service", "4s", "default"),
        ("scheduler.first.load", "1s200ms", "default"),
        ("scheduler.first.load_rate", "3GB/s", "default"),
        ("scheduler.first.unload", "800ms", "default"),
        ("scheduler.oom.factor", "1.15", "default"),
        ("scheduler.oom.tries", "3", "default"),
        ("scheduler.oom.backoff", "[1s, 8s]", "default"),
        ("max_run", "0s", "default"),
        ("max_body", "100MiB", "default"),
        ("grace", "30s", "default"),
        ("trace", "null", "default"),
        ("state_dir", "~/.local/state/ollama-gate", "default"),
        ("log.level", "debug", "gate.yaml:1"),
        ("log.format", "text", "default"),
    ]
    assert seen.models == {"b:7b": ("vram", "keep_alive"), "a": ()}


# --- durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("7d", 604800),
        ("1d2h3m4s5ms", 93784.005),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        ("0", 0),
        ("2.5", 2.5),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "1x", "1m1h", "1m1m", "-5", "1 2", "1H", "∞", "٣s", "1.", "9" * 5000, "nan"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    assert refused(parse_duration, text)


@pytest.mark.parametrize(("text", "seconds"), [("-1", math.inf), ("-5m", math.inf), ("-0", 0.0)])
def test_a_negative_keep_alive_is_no_limit(text: str, seconds: float) -> None:
    assert effective(f"keep_alive: {text}").config.keep_alive_s == seconds
    assert effective(f"models: {{a: {{keep_alive: {text}}}}}").config.models["a"] == ModelConfig(
        keep_alive_s=seconds
    )


@pytest.mark.parametrize("text", ["--1", "-", "-x"])
def test_a_keep_alive_is_not_just_any_text_with_a_minus(text: str) -> None:
    assert len(problems(f"keep_alive: '{text}'")) == 1


@given(st.floats(min_value=1e-6, max_value=1e9) | st.integers(0, 10**9).map(float))
@settings(max_examples=200)
def test_a_duration_shown_reads_back_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**10))
@settings(max_examples=100)
def test_milliseconds_shown_are_made_of_whole_numbers(milliseconds: int) -> None:
    shown = format_duration(milliseconds / 1000)
    assert "." not in shown
    assert parse_duration(shown) == milliseconds / 1000


def test_durations_are_shown_as_one_writes_them() -> None:
    shown = [format_duration(seconds) for seconds in (0, 0.5, 90, 5400, 604800, 0.0001, math.inf)]
    assert shown == ["0s", "500ms", "1m30s", "1h30m", "7d", "0.0001s", "-1"]


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("21GiB", 21 * 2**30),
        ("24GB", 24 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1024", 1024),
        ("1.5GiB", 1536 * 2**20),
        ("2 tib", 2 * 2**40),
        ("7KB", 7000),
        ("3kib", 3072),
        ("5B", 5),
        ("0.1KiB", 102),
    ],
)
def test_a_size_is_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "1G", "1 2", "-1GiB", "1XB", "1.GiB", "٣", "1GiB/s"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert refused(parse_size, text)


@given(
    st.integers(0, 10**15)
    | st.builds(lambda count, unit: count * unit, st.integers(0, 999), st.sampled_from([2**30]))
)
@settings(max_examples=200)
def test_a_size_shown_reads_back_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


def test_sizes_are_shown_as_one_writes_them() -> None:
    sizes = (0, 1000, 1024, 1536 * 2**20, 24 * 10**9, 21 * 2**30, 100 * 2**20)
    shown = [format_size(size_bytes) for size_bytes in sizes]
    assert shown == ["0", "1KB", "1KiB", "1536MiB", "24GB", "21GiB", "100MiB"]


# --- who may come in, and for how long


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[]", ()),
        ("[https://chat.example, 'http://10.0.0.*']", ("https://chat.example", "http://10.0.0.*")),
        ("['*']", ("*",)),
        ("https://chat.example", ("https://chat.example",)),
        ("https://a.example , app*", ("https://a.example", "app*")),
    ],
)
def test_origins_are_a_list_or_a_text_with_commas(written: str, expected: tuple[str, ...]) -> None:
    assert effective(f"origins: {written}").config.origins == expected


def test_origins_of_the_environment_are_written_as_ollamas() -> None:
    environ = {"OLLAMA_GATE_ORIGINS": "https://a.example,http://10.0.0.*"}
    assert effective(environ=environ).config.origins == ("https://a.example", "http://10.0.0.*")
    (problem,) = problems(environ={"OLLAMA_GATE_ORIGINS": "https://a.example,b"})
    assert "OLLAMA_GATE_ORIGINS" in problem
    assert "'b'" in problem or '"b"' in problem


@pytest.mark.parametrize(
    ("written", "place", "expected"),
    [
        ("[chat.example]", "origins[0]", "begins with http://"),
        ("[https://a.example, 'http://*.b.*']", "origins[1]", "at most one *"),
        ("{a: b}", "origins", "a list of origins"),
        ("[[https://a.example]]", "origins[0]", "an origin"),
        ("[{a: b}]", "origins[0]", "an origin"),
        ("'https://a.example,b'", "origins", "begins with http://"),
    ],
)
def test_an_origin_that_ollama_would_not_start_with_is_a_problem(
    written: str, place: str, expected: str
) -> None:
    (problem,) = problems(f"origins: {written}")
    assert f"{place}: " in problem
    assert expected in problem


def test_a_request_may_run_for_as_long_as_it_likes_unless_that_is_set() -> None:
    assert effective().config.max_run_s == 0
    assert effective("max_run: 1h30m").config.max_run_s == 5400
    assert effective(environ={"OLLAMA_GATE_MAX_RUN": "90s"}).config.max_run_s == 90
    (problem,) = problems("max_run: -1s")
    assert "max_run" in problem
    assert "a duration" in problem
