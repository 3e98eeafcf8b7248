"""The simulation's own reading and writing of JSON, names, durations and memory."""

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_gate.simulator import bodies, gojson
from ollama_gate.simulator.catalog import Catalog
from ollama_gate.simulator.library import LIBRARY, select
from ollama_gate.simulator.memory import footprint, predicted_bytes
from ollama_gate.simulator.refs import (
    NameInvalidError,
    NameRequiredError,
    Source,
    parse_name,
    parse_ref,
)
from ollama_gate.simulator.schemas import CHAT, GENERATE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(JSON)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    assert json.loads(gojson.encode(value)) == value
    assert gojson.plain(gojson.decode(gojson.encode(value).encode())) == value


@settings(max_examples=200)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_short_float_reads_back_as_itself(value: float) -> None:
    text = gojson.encode(gojson.Float32(value))
    assert struct.pack("<f", float(text)) == struct.pack("<f", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<a&b>\u2028\n\x01", '"\\u003ca\\u0026b\\u003e\\u2028\\n\\u0001"'),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1e-7, "1e-7"),
        (1e21, "1e+21"),
        (123456789012345680000.0, "123456789012345680000"),
        (-2.5, "-2.5"),
        (3.0, "3"),
        (0.0, "0"),
        (gojson.Float32(0.1), "0.1"),
        (gojson.Float32(16777216.0), "16777216"),
        (True, "true"),
        ({"b": [1, None]}, '{"b":[1,null]}'),
    ],
)
def test_values_are_spelled_as_go_spells_them(value: Any, text: str) -> None:
    assert gojson.encode(value) == text


@settings(max_examples=300)
@given(st.binary(max_size=24))
def test_bytes_that_are_no_json_get_a_complaint(body: bytes) -> None:
    try:
        gojson.decode(body)
    except (gojson.EmptyError, gojson.MalformedError) as error:
        words = str(error)
    else:
        words = "it was JSON after all"
    assert words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a":tru}', "invalid character '}' in literal true (expecting 'e')"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":-}', "invalid character '}' in numeric literal"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":1e+}', "invalid character '}' in exponent of numeric literal"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"{'a'}", r"invalid character '\'' looking for beginning of object key string"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b'["\n"]', r"invalid character '\n' in string literal"),
        (b'["\\q"]', "invalid character 'q' in string escape code"),
        (b'["\\u00x0"]', r"invalid character 'x' in \u hexadecimal character escape"),
        (b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b'{"a":[1,', "unexpected EOF"),
    ],
)
def test_malformed_json_is_told_in_gos_words(body: bytes, words: str) -> None:
    with pytest.raises(gojson.MalformedError) as caught:
        gojson.decode(body)
    assert str(caught.value) == words


def test_the_last_duplicate_wins_and_maps_given_twice_are_merged() -> None:
    body = b'{"model":"a","Options":{"x":1,"y":1},"OPTIONS":{"y":2},"model":"b"}'
    fields = bodies.read_body(body, GENERATE)
    assert fields == {"model": "b", "options": {"x": 1.0, "y": 2.0}}


def test_null_empties_a_pointer_and_leaves_a_plain_field_alone() -> None:
    body = b'{"model":"a","model":null,"stream":false,"stream":null}'
    assert bodies.read_body(body, GENERATE) == {"model": "a"}


def test_the_first_of_several_wrong_types_is_told() -> None:
    with pytest.raises(bodies.BadBodyError, match=r"ChatRequest\.messages\.role of type string"):
        bodies.read_body(b'{"messages":[{"role":1}],"stream":3}', CHAT)


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.sampled_from(["ns", "us", "ms", "s", "m"]))
def test_durations_are_read_to_the_nanosecond(count: int, unit: str) -> None:
    factor = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}[unit]
    assert bodies.parse_duration_ns(f"{count}{unit}") == count * factor
    assert bodies.parse_duration_ns(f"-{count}{unit}") == -count * factor


@pytest.mark.parametrize(
    ("raw", "base", "source"),
    [
        ("gpt-oss:120b-cloud", "gpt-oss:120b", Source.CLOUD),
        ("gpt-oss:120b:cloud", "gpt-oss:120b", Source.CLOUD),
        ("qwen3:CLOUD", "qwen3", Source.CLOUD),
        ("x:local", "x", Source.LOCAL),
        ("host:5000/a/b-cloud", "host:5000/a/b-cloud", Source.UNSPECIFIED),
        ("x-cloud", "x-cloud", Source.UNSPECIFIED),
    ],
)
def test_where_a_model_runs_can_be_told_from_its_name(raw: str, base: str, source: Source) -> None:
    ref = parse_ref(raw)
    assert (ref.base, ref.source) == (base, source)


def test_names_are_shown_with_a_tag_and_without_default_parts() -> None:
    shown = [parse_name(n).shortest() for n in ("a", "library/a:b", "u/a", "hf.co/u/r:Q4")]
    assert shown == ["a:latest", "a:b", "u/a:latest", "hf.co/u/r:Q4"]


@pytest.mark.parametrize("raw", ["a@b", "a b", "-a", "a:", "a:b:c", "/a", "a/" * 4 + "b", "a" * 81])
def test_names_no_model_can_have_are_invalid(raw: str) -> None:
    with pytest.raises(NameInvalidError):
        parse_ref(raw)


def test_no_name_is_not_an_invalid_one() -> None:
    with pytest.raises(NameRequiredError):
        parse_ref(" ")


def test_every_part_of_a_name_is_respelled_as_some_manifest_has_it() -> None:
    catalog = Catalog(LIBRARY)
    found = catalog.find(catalog.existing(parse_name("LLAMA3.1:8B")))
    assert found is not None
    assert found.name == "llama3.1:8b"
    assert catalog.find(parse_name("LLAMA3.1:8B")) is None


@pytest.mark.parametrize(
    ("name", "context", "parallel", "gigabytes"),
    [
        ("llama3.1:8b", 4096, 1, 5.58),
        ("llama3.1:8b", 4096, 4, 7.32),
        ("llama3.1:8b", 32768, 1, 9.53),
        ("qwen2.5:32b", 4096, 1, 21.14),
        ("gemma3:27b", 32768, 1, 21.37),
        ("gpt-oss:20b", 4096, 1, 14.02),
        ("mixtral:8x7b", 4096, 1, 27.21),
        ("phi3:mini", 4096, 1, 3.87),
        ("llama3.3:70b", 32768, 1, 53.81),
        ("all-minilm", 512, 1, 0.06),
    ],
)
def test_a_runner_takes_what_llama_cpp_allocates(
    name: str, context: int, parallel: int, gigabytes: float
) -> None:
    (model,) = select([name])
    batch = 512 if context * parallel <= 4096 else 1024
    need = footprint(
        model.shape,
        model.disk_bytes,
        context=context,
        parallel=parallel,
        batch=min(batch, context),
        kv_width=2,
    )
    assert math.isclose(need.total_bytes / 1e9, gigabytes, abs_tol=0.006)


def test_ollamas_own_guess_knows_no_sliding_window() -> None:
    (gemma,) = select(["gemma3:12b"])
    real = footprint(
        gemma.shape, gemma.disk_bytes, context=131072, parallel=1, batch=2048, kv_width=2
    )
    assert predicted_bytes(gemma.shape, gemma.disk_bytes, 131072) > 1.5 * real.total_bytes
