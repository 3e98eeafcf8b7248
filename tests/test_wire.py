"""Request bodies and refusals, against what Go and Ollama v0.32.15 make of them.

`data/go_json.json` holds bodies and what Ollama's own types (`api`, `openai`, `anthropic`, built
with Go 1.26) said of them; a character of a body stands for one byte.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import wire
from ollama_gate.errors import BadRequestError
from ollama_gate.scheduler.types import Launch, Priority, Refusal
from ollama_gate.wire import Answer, Ask, Dialect, Endpoint, Hopeless
from ollama_gate.wire.encoding import MAX_DECODED_BYTES
from ollama_gate.wire.media import parse_media_type
from ollama_gate.wire.scan import MAX_DEPTH, HopelessError, Text, end_of_space, end_of_value

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "go_json.json").read_text(encoding="utf-8")
)


def ask(endpoint: Endpoint, body: bytes, headers: Mapping[str, str] | None = None) -> Ask:
    found = wire.read(endpoint, headers or {}, body)
    assert isinstance(found, Ask), found
    return found


def chat(**fields: Any) -> Ask:
    messages = [{"role": "user", "content": "hi"}]
    return ask(Endpoint.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode())


# -------------------------------------------------------------------- what Go says


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['path']} {case['body']}"[:80])
def test_a_body_means_what_it_means_to_ollama(case: dict[str, Any]) -> None:
    endpoint = Endpoint(case["path"])
    found = wire.read(endpoint, {}, case["body"].encode("latin-1"))
    if "refused" in case:
        assert isinstance(found, Hopeless)
        return
    assert isinstance(found, Ask), found
    assert found.model == case["model"]
    assert found.empty == case["empty"]
    assert found.needs == frozenset(case["needs"])
    assert found.keep_alive_s == in_seconds(case["keep_alive_ns"])
    assert given_options(found.launch_options) == (
        case["options"] if endpoint.dialect is Dialect.NATIVE else {}
    )
    if endpoint not in {Endpoint.EMBED, Endpoint.EMBEDDINGS, Endpoint.V1_EMBEDDINGS}:
        assert found.stream == case["stream"]


def in_seconds(length_ns: int | str | None) -> float | None:
    match length_ns:
        case None:
            return None
        case int():
            return length_ns / 1e9
        case _:
            return math.inf


def given_options(launch: Launch) -> dict[str, Any]:
    names = ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"]
    names += ["draft_num_predict", "shift"]
    return {name: value for name in names if (value := getattr(launch, name)) is not None}


def test_a_keep_alive_that_overflows_go_lets_the_model_go_once_it_idles() -> None:
    assert chat(keep_alive=9_223_372_036).keep_alive_s == 9_223_372_036
    assert chat(keep_alive=9_223_372_037).keep_alive_s == 1e-9
    assert chat(keep_alive="2562047h47m16.854775807s").keep_alive_s == math.inf


# -------------------------------------------------------------------- routes


def test_ten_routes_run_a_model_and_only_when_posted_to() -> None:
    assert len(Endpoint) == 10
    for endpoint in Endpoint:
        assert wire.endpoint_of("POST", endpoint.value) is endpoint
        assert wire.endpoint_of("GET", endpoint.value) is None


@pytest.mark.parametrize(
    "path", ["/", "/api/tags", "/api/chat/", "/API/chat", "/v1/models", "/api/pull", "/v2/chat"]
)
def test_no_other_route_does(path: str) -> None:
    assert wire.endpoint_of("POST", path) is None


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/api/chat", Dialect.NATIVE),
        ("/v1/embeddings", Dialect.OPENAI),
        ("/v1/models/m", Dialect.OPENAI),
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/v1", Dialect.NATIVE),
        ("/gate/status", Dialect.NATIVE),
    ],
)
def test_every_path_has_a_dialect(path: str, dialect: Dialect) -> None:
    assert wire.dialect_of(path) is dialect


# -------------------------------------------------------------------- cutting keep_alive


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"keep_alive":5,"model":"m"}', b'{"model":"m"}'),
        (b'{"model":"m","keep_alive":"5m"}', b'{"model":"m"}'),
        (b'{"a":1,"keep_alive":5,"model":"m"}', b'{"a":1,"model":"m"}'),
        (b'{"keep_alive":1,"model":"m","KEEP_Alive":2}', b'{"model":"m"}'),
        (b'{"model":"m","keep_alive":1,"keep_alive":2}', b'{"model":"m"}'),
        (b'{"keep_alive":1,"keep_alive":2,"model":"m"}', b'{"model":"m"}'),
        (b'{"model":"m" , "keep_alive" : null }\n', b'{"model":"m"  }\n'),
        (b'{ "keep_alive": 5 ,\n "model":"m"}', b'{ \n "model":"m"}'),
        (b'{"model":"m","keep\\u005falive":5} {"keep_alive":1}', b'{"model":"m"} {"keep_alive":1}'),
        ('{"model":"m","\u212aeep_alive":5}'.encode(), b'{"model":"m"}'),
    ],
)
def test_keep_alive_is_cut_with_one_comma_and_nothing_else(body: bytes, left: bytes) -> None:
    assert ask(Endpoint.GENERATE, body).body == left


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","prompt":"\\"keep_alive\\":5"}',
        b'{"model":"m","options":{"keep_alive":5}}',
        b'{"model":"m","keep_alive_s":5}',
    ],
)
def test_a_body_without_keep_alive_is_forwarded_as_the_same_object(body: bytes) -> None:
    assert ask(Endpoint.GENERATE, body).body is body


def test_where_ollama_ignores_keep_alive_it_stays() -> None:
    body = b'{"model":"m","keep_alive":5,"messages":[{"role":"user","content":"x"}]}'
    found = ask(Endpoint.CHAT_COMPLETIONS, body)
    assert found.body is body
    assert found.keep_alive_s is None


SPACE = st.text(alphabet=" \t\r\n", max_size=2)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone half of a pair cannot be sent as UTF-8.
    | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab"\\é\n'), inner, max_size=4)
    ),
    max_leaves=12,
)
OTHER_KEYS = st.text(alphabet='xyz"\\é\n', min_size=1, max_size=4)
CUT = "keep_alive"


@st.composite
def noisy_bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes], dict[str, Any]]:
    """A body with members to cut, the members that stay, and the object these make."""
    kept = [("model", "m"), *draw(st.lists(st.tuples(OTHER_KEYS, JSON), max_size=4))]
    spelled = st.sampled_from([CUT, "KEEP_ALIVE", "Keep_Alive"])
    cut = draw(st.lists(st.tuples(spelled, st.sampled_from([0, "5m", -1, None])), max_size=4))
    order = draw(st.permutations([*kept, *cut]))
    members = [
        (
            key,
            f"{json.dumps(key, ensure_ascii=draw(st.booleans()))}{draw(SPACE)}:{draw(SPACE)}"
            f"{json.dumps(value, ensure_ascii=draw(st.booleans()))}".encode(),
        )
        for key, value in order
    ]
    body = b",".join(draw(SPACE).encode() + raw + draw(SPACE).encode() for _, raw in members)
    stay = [raw for key, raw in members if key.lower() != CUT]
    left = {key: value for key, value in order if key.lower() != CUT}
    return draw(SPACE).encode() + b"{" + body + b"}" + draw(SPACE).encode(), stay, left


@given(noisy_bodies())
def test_a_cut_leaves_every_other_byte(noisy: tuple[bytes, list[bytes], dict[str, Any]]) -> None:
    body, stay, left = noisy
    found = ask(Endpoint.GENERATE, body).body
    assert json.loads(found) == left
    at = 0
    for raw in stay:
        at = found.index(raw, at) + len(raw)
    assert (found is body) == (len(found) == len(body))
    # Only what belongs to a cut member is gone: put together, the rest is what was there.
    assert is_subsequence(found, body)


def is_subsequence(short: bytes, long: bytes) -> bool:
    rest = iter(long)
    return all(byte in rest for byte in short)


# -------------------------------------------------------------------- the scanner


def is_valid(body: bytes) -> bool:
    """Whether the scanner takes the whole of it for one value."""
    try:
        end = end_of_value(body, end_of_space(body, 0), 0)
    except HopelessError:
        return False
    return end_of_space(body, end) == len(body)


def is_json(body: bytes) -> bool:
    def refuse(_: str) -> None:
        raise ValueError("Go has no NaN and no Infinity")

    try:
        json.loads(body.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(JSON, st.booleans(), st.sampled_from([None, 1]))
def test_the_scanner_finds_the_end_of_any_json(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert end_of_value(body, 0, 0) == len(body)
    assert end_of_value(body + b" ,", 0, 0) == len(body)


@given(
    JSON,
    st.lists(st.tuples(st.integers(0), st.sampled_from(list('"\\{}[],:0 1e.-+tnu\n\x1f/')))),
    st.booleans(),
)
def test_the_scanner_refuses_what_is_no_json(
    value: Any, changes: list[tuple[int, str]], inserts: bool
) -> None:
    text = json.dumps(value)
    for place, character in changes:
        at = place % (len(text) + 1)
        text = text[:at] + character + text[at if inserts else at + 1 :]
    assert is_valid(text.encode()) == is_json(text.encode())


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.booleans())
def test_a_string_is_decoded_as_it_was_meant(meant: str, ascii_only: bool) -> None:
    body = json.dumps(meant, ensure_ascii=ascii_only).encode()
    found = Text(0, len(body))
    assert found.decode(body) == meant
    assert found.blank == (not meant)


def test_half_a_pair_and_what_is_no_utf8_become_a_replacement() -> None:
    assert Text(0, 8).decode(b'"\\ud800"') == "\ufffd"
    assert Text(0, 3).decode(b'"\xff"') == "\ufffd"


def test_long_lists_and_strings_are_passed_over_to_their_end() -> None:
    escaped = b'"' + b"x\\n" * 1000 + b'"'
    body = b"[" + b"12, " * 1000 + escaped + b", " + b'"y",' * 1000 + b"{}]"
    assert end_of_value(body, 0, 0) == len(body)
    assert not is_valid(body[:-3] + b"]")


def test_nesting_is_refused_where_go_refuses_it() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert is_valid(deepest)
    assert not is_valid(b"[" + deepest + b"]")
    within = b'{"model":"m","%b":%b}'
    deep = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert ask(Endpoint.EMBED, within % (b"zzz", deep)).model == "m"
    for name in (b"zzz", b"input", b"options"):
        assert is_hopeless(Endpoint.EMBED, within % (name, b"[" + deep + b"]"))


# -------------------------------------------------------------------- fields


def is_hopeless(endpoint: Endpoint, body: bytes, headers: Mapping[str, str] | None = None) -> bool:
    return isinstance(wire.read(endpoint, headers or {}, body), Hopeless)


def test_an_unload_is_an_empty_form_with_no_time_left() -> None:
    found = ask(Endpoint.GENERATE, b'{"model":"m","keep_alive":0,"stream":false}')
    assert (found.empty, found.keep_alive_s, found.stream) == (True, 0.0, False)
    assert not found.needs


def test_an_empty_form_loads_with_the_options_it_names() -> None:
    found = ask(Endpoint.CHAT, b'{"model":"m","options":{"num_ctx":8192},"shift":false}')
    assert found.empty
    assert found.launch_options == Launch(num_ctx=8192, shift=False)


@pytest.mark.parametrize("name", ["num_ctx", "num_gpu", "temperature", "use_mmap", "stop", "seed"])
def test_an_option_of_the_wrong_type_is_hopeless(name: str) -> None:
    body = {"model": "m", "prompt": "x", "options": {name: {}}}
    assert is_hopeless(Endpoint.GENERATE, json.dumps(body).encode())


def test_images_broken_over_lines_or_escaped_are_still_images() -> None:
    assert chat(messages=[{"role": "user", "content": "x", "images": ["aG\r\nk="]}]).model == "m"
    body = b'{"model":"m","prompt":"x","images":["aG\\/\\u0041"]}'
    assert ask(Endpoint.GENERATE, body).model == "m"


ZSTD = {"Content-Encoding": "zstd"}


def test_a_compressed_body_is_read_and_forwarded_as_it_came() -> None:
    body = zstandard.compress(b'{"model":"m","input":"hi","stream":true}')
    found = ask(Endpoint.RESPONSES, body, ZSTD)
    assert (found.model, found.stream) == ("m", True)
    assert found.body is body


def test_ollama_decodes_zstd_on_the_routes_of_v1_alone_and_nothing_else_anywhere() -> None:
    plain = b'{"model":"m","prompt":"hi"}'
    body = zstandard.compress(plain)
    assert is_hopeless(Endpoint.GENERATE, body, ZSTD)
    assert is_hopeless(Endpoint.TRANSCRIPTIONS, body, ZSTD | FORM)
    assert is_hopeless(Endpoint.COMPLETIONS, body, {"Content-Encoding": "gzip"})
    assert ask(Endpoint.GENERATE, plain, ZSTD).model == "m"
    assert is_hopeless(Endpoint.COMPLETIONS, plain, ZSTD)


@pytest.mark.parametrize(
    ("total_bytes", "is_taken"), [(MAX_DECODED_BYTES, True), (MAX_DECODED_BYTES + 1, False)]
)
def test_a_compressed_body_may_hold_twenty_mebibytes(total_bytes: int, *, is_taken: bool) -> None:
    plain = b'{"model":"m","prompt":"hi"}'.ljust(total_bytes)
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    body = stream.compress(plain) + stream.flush()
    assert is_hopeless(Endpoint.COMPLETIONS, body, ZSTD) != is_taken


def test_a_compressed_body_that_lacks_its_last_bytes_is_hopeless() -> None:
    summed = zstandard.ZstdCompressor(write_checksum=True)
    body = summed.compress(b'{"model":"m","prompt":"hi"}')
    assert ask(Endpoint.COMPLETIONS, body, ZSTD).model == "m"
    assert is_hopeless(Endpoint.COMPLETIONS, body[:-1], ZSTD)


def test_a_compressed_body_that_needs_a_larger_window_is_hopeless() -> None:
    plain = b'{"model":"m","prompt":"hi"}'
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
    compress = zstandard.ZstdCompressor(compression_params=wide).compress
    assert ask(Endpoint.COMPLETIONS, compress(plain.ljust(8 << 20)), ZSTD).model == "m"
    assert is_hopeless(Endpoint.COMPLETIONS, compress(plain.ljust((8 << 20) + 1)), ZSTD)


# -------------------------------------------------------------------- forms

FORM = {"Content-Type": "multipart/form-data; boundary=abc"}
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper:1\r\n'
FILE = (
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nRIFF\x00\r\n--ab\r\n--abcd\r\n\r\n"
)


def form(*parts: bytes, end: bytes = b"--abc--\r\n") -> bytes:
    return b"".join(b"--abc\r\n" + part for part in parts) + end


def transcription_model(
    body: bytes, *, headers: Mapping[str, str] = FORM, query: str = ""
) -> str | None:
    found = wire.read(Endpoint.TRANSCRIPTIONS, headers, body, query=query)
    if isinstance(found, Hopeless):
        return None
    assert found.body is body
    return found.model


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL, FILE),
        form(FILE, MODEL),
        form(FILE, MODEL, MODEL.replace(b"whisper", b"other")),
        form(FILE, MODEL, end=b"--abc--"),
        form(FILE, MODEL).replace(b"\r\n", b"\n"),
        b"to be ignored\r\n" + form(FILE, MODEL),
        form(FILE, MODEL.replace(b'"model"', b"model ;")),
        form(FILE, MODEL.replace(b' name="model"', b"\r\n\tNAME*=utf-8''mo%64el")),
        form(FILE, MODEL.replace(b'name="model"', b'name*0=mo; name*1="del"')),
        form(FILE, MODEL.replace(b"\r\n\r\n", b'; filename=""\r\n\r\n', 1)),
        form(FILE, MODEL.replace(b"Content-Disp", b"content-disp")),
        form(
            FILE,
            b"Content-Transfer-Encoding: Quoted-Printable\r\n" + MODEL.replace(b"whi", b"=77hi"),
        ),
        form(b"X: y\r\n\r\n\r\n", FILE, MODEL),
        form(b"\r\n\r\n", FILE, MODEL),
        form(b'Content-Disposition: form-data; name="x"\r\n\r\n', FILE, MODEL),
        form(MODEL.replace(b"\r\n\r\n", b"; filename=m\r\n\r\n", 1), FILE, MODEL),
    ],
)
def test_the_model_is_found_wherever_it_stands_in_a_form(body: bytes) -> None:
    assert transcription_model(body) == "whisper:1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(FILE),
        form(MODEL),
        form(MODEL, FILE, end=b""),
        form(MODEL, FILE.replace(b"RIFF\x00\r\n--ab\r\n--abcd\r\n", b"")),
        form(FILE, b'Content-Disposition: form-data; name="model"'),
        form(FILE, MODEL.replace(b"whisper:1", b"bad name")),
    ],
)
def test_a_form_that_ollama_refuses_is_hopeless(body: bytes) -> None:
    assert transcription_model(body) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=abc",
        "multipart/form-data",
        "multipart/form-data; boundary=abc; x",
        "multipart/form-data; boundary=abc; boundary=abd",
        "multipart/form data; boundary=abc",
    ],
)
def test_what_is_not_labelled_as_a_form_is_hopeless(content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert transcription_model(form(FILE, MODEL), headers=headers) is None


def test_a_query_goes_before_the_form() -> None:
    body = form(FILE, MODEL)
    assert transcription_model(body, query="model=a&model=b") == "a"
    assert transcription_model(body, query="x=y") == "whisper:1"
    assert transcription_model(body, query="model=") is None


def test_a_boundary_may_be_quoted_and_hold_what_looks_like_an_end() -> None:
    headers = {"Content-Type": 'Multipart/Form-Data; charset=utf-8; Boundary="a b--"'}
    body = form(FILE, MODEL).replace(b"--abc", b"--a b--")
    assert transcription_model(body, headers=headers) == "whisper:1"


@pytest.mark.parametrize(
    ("value", "parameters"),
    [
        (r'a; b="x\"y\z"', {"b": r'x"y\z'}),
        ("a; b=c;", {"b": "c"}),
        ("a; b=c; B=c", {"b": "c"}),
        ('a; b="c', {}),
        ("a; b*=utf-8'en'%E2%82%AC", {"b": "\u20ac"}),
        ("a; b*=latin1''x", {}),
        ("a; b*0*=utf-8''%41; b*1=b; b*2*=%43", {"b": "AbC"}),
        ("a; b*1=x", {}),
    ],
)
def test_parameters_of_a_header_are_read_as_go_reads_them(
    value: str, parameters: dict[str, str]
) -> None:
    assert parse_media_type(value) == ("a", parameters)


# -------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        (None, None),
        ("high", Priority.HIGH),
        ("Normal", Priority.NORMAL),
        (" LOW ", Priority.LOW),
        ("1", Priority.HIGH),
        ("+12", Priority.HIGH),
        ("0", Priority.NORMAL),
        ("-0", Priority.NORMAL),
        ("-3", Priority.LOW),
    ],
)
def test_a_priority_is_a_word_or_a_number(value: str | None, priority: Priority | None) -> None:
    assert wire.read_priority(value) is priority


@pytest.mark.parametrize("value", ["", "urgent", "1.5", "0x1", "high,low", "\u0661", "9" * 5000])
def test_a_priority_that_means_nothing_is_said_so(value: str) -> None:
    with pytest.raises(BadRequestError, match="expected high, normal, low or an integer, found"):
        wire.read_priority(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("30", 30.0), (" 2.5 ", 2.5), ("5.", 5.0), (".25", 0.25), ("007", 7.0)],
)
def test_a_deadline_is_a_number_of_seconds(value: str | None, seconds: float | None) -> None:
    assert wire.read_deadline(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "0", "0.0", "-1", "30s", "1e3", "inf", "nan", ".", "1,5", "\u0663", "9" * 5000]
)
def test_a_deadline_that_means_nothing_is_said_so(value: str) -> None:
    with pytest.raises(BadRequestError, match=r"X-Deadline: expected a number of seconds above 0"):
        wire.read_deadline(value)


# -------------------------------------------------------------------- refusals


def test_each_dialect_spells_an_error_its_own_way() -> None:
    text = 'no "<m>" & \u2028\u00e9\n'
    escaped = rb"no \"\u003cm\u003e\" \u0026 \u2028" + "\u00e9".encode() + rb"\n"
    assert wire.refuse(Dialect.NATIVE, 400, text) == Answer(
        status=400,
        headers=(("Content-Type", "application/json; charset=utf-8"),),
        body=b'{"error":"' + escaped + b'"}',
    )
    assert wire.refuse(Dialect.OPENAI, 400, text) == Answer(
        status=400,
        headers=(("Content-Type", "application/json"),),
        body=b'{"error":{"message":"' + escaped + b'","type":"invalid_request_error",'
        b'"param":null,"code":null}}\n',
    )
    assert wire.refuse(Dialect.ANTHROPIC, 400, text, request_id="req_1") == Answer(
        status=400,
        headers=(("Content-Type", "application/json"),),
        body=b'{"type":"error","error":{"type":"invalid_request_error","message":"'
        + escaped
        + b'"},"request_id":"req_1"}\n',
    )


def test_an_error_can_hold_what_cannot_be_encoded() -> None:
    assert wire.refuse(Dialect.NATIVE, 400, "\udc80").body == rb'{"error":"\ufffd"}'


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (404, "not_found_error", "not_found_error"),
        (429, "api_error", "rate_limit_error"),
        (500, "api_error", "api_error"),
        (503, "api_error", "overloaded_error"),
        (507, "api_error", "api_error"),
    ],
)
def test_an_errors_type_follows_its_status(status: int, openai: str, anthropic: str) -> None:
    said = json.loads(wire.refuse(Dialect.OPENAI, status, "x").body)
    assert said["error"]["type"] == openai
    said = json.loads(wire.refuse(Dialect.ANTHROPIC, status, "x").body)
    assert said["error"]["type"] == anthropic
    assert "request_id" not in said


@pytest.mark.parametrize(("wait_s", "said"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2")])
def test_a_wait_is_told_in_whole_seconds(wait_s: float, said: str) -> None:
    answer = wire.refuse(Dialect.NATIVE, 503, "x", retry_after_s=wait_s)
    assert ("Retry-After", said) in answer.headers


def test_what_no_second_try_can_help_says_so() -> None:
    assert ("x-should-retry", "false") in wire.refuse(
        Dialect.OPENAI, 507, "x", retryable=False
    ).headers


@pytest.mark.parametrize(
    ("reason", "status", "text"),
    [
        (
            Refusal.QUEUE_FULL,
            503,
            "server busy, please try again.  maximum pending requests exceeded",
        ),
        (Refusal.CLIENT_FULL, 429, "as many of this client's requests wait as may"),
        (Refusal.DEADLINE, 504, "the request waited for longer than it may"),
        (Refusal.LOAD_FAILED, 500, "the model could not be loaded"),
        (Refusal.UPSTREAM_AWAY, 502, "the upstream does not answer"),
        (Refusal.CANCELLED, 499, "request canceled"),
        (Refusal.SHUTTING_DOWN, 503, "the gate is shutting down"),
        (Refusal.NEVER_FITS, 507, "the model does not fit into GPU memory"),
    ],
)
def test_every_refusal_has_a_status_and_words(reason: Refusal, status: int, text: str) -> None:
    answer = wire.refusal(Dialect.NATIVE, reason)
    assert (answer.status, json.loads(answer.body)) == (status, {"error": text})


def test_an_upstreams_own_status_and_words_are_kept() -> None:
    answer = wire.refusal(
        Dialect.OPENAI, Refusal.LOAD_FAILED, status=404, text="cudaMalloc failed", retry_after_s=3
    )
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["message"] == "cudaMalloc failed"
    assert ("Retry-After", "3") in answer.headers


def test_who_waited_too_long_is_told_for_what_and_who_allows_no_more() -> None:
    text = wire.too_late_text("llama3:8b", 12.3456, "X-Deadline")
    assert text == "waited 12.3 s for llama3:8b; X-Deadline allows no more"


def test_who_has_too_many_waiting_is_told_how_many() -> None:
    assert wire.too_many_text(5) == (
        "5 requests of this client wait already; queue.max_per_client allows no more"
    )
    assert wire.too_many_text(1).startswith("1 request of this client waits already; ")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (
            Endpoint.GENERATE,
            b'{"model":"m","created_at":"T","response":"","done":true,"done_reason":"unload"}',
        ),
        (
            Endpoint.CHAT,
            b'{"model":"m","created_at":"T","message":{"role":"assistant","content":""},%b'
            % b'"done":true,"done_reason":"unload"}',
        ),
        (Endpoint.EMBED, b'{"model":"m","embeddings":[]}'),
        (Endpoint.EMBEDDINGS, b'{"embedding":[]}'),
    ],
)
def test_an_unload_is_answered_as_ollama_does(endpoint: Endpoint, body: bytes) -> None:
    answer = wire.unload_answer(endpoint, "m", "T")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers == (("Content-Type", "application/json; charset=utf-8"),)


def test_no_route_of_v1_can_unload() -> None:
    with pytest.raises(ValueError, match="/v1/responses takes no keep_alive"):
        wire.unload_answer(Endpoint.RESPONSES, "m", "T")
