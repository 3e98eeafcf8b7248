"""The answer of `GET /api/ps`: what the gate writes there, and that it writes nowhere else."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.wire import with_expiries

AT = datetime(2026, 3, 4, 5, 6, 7, 250_000, tzinfo=UTC).timestamp()
LATER = "2319-01-02T03:04:05.123456789Z"


def a_model(digest: str, expires_at: str, name: str = "llama3.2:1b") -> str:
    """As Ollama v0.32.15 writes one."""
    return (
        f'{{"name":"{name}","model":"{name}","size":1543299072,"digest":"{digest}",'
        '"details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],'
        '"parameter_size":"1.2B","quantization_level":"Q8_0"},'
        f'"expires_at":"{expires_at}","size_vram":1543299072,"context_length":4096}}'
    )


def listing(*models: str) -> bytes:
    return f'{{"models":[{",".join(models)}]}}'.encode()


def told(body: bytes, **expiries: float) -> bytes:
    return with_expiries(body, expiries.get)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (LATER, "2026-03-04T05:06:07.25Z"),
        ("2026-03-04T05:06:07.250000001Z", "2026-03-04T05:06:07.250000001Z"),
        ("2026-03-04T05:06:08Z", "2026-03-04T05:06:07.25Z"),
        ("2318-06-01T00:00:00.5+00:00", "2026-03-04T05:06:07.25+00:00"),
        ("2318-06-01T00:00:00.123456789-07:00", "2026-03-03T22:06:07.25-07:00"),
        ("2318-06-01T00:00:00+05:30", "2026-03-04T10:36:07.25+05:30"),
        ("9999-12-31T23:59:59.999999999-12:00", "2026-03-03T17:06:07.25-12:00"),
        ("2026-03-04T05:06:07Z", "2026-03-04T05:06:07Z"),
        ("2026-03-04T10:36:07.2+05:30", "2026-03-04T10:36:07.2+05:30"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_an_expiry_is_written_as_go_writes_it_and_never_made_later(theirs: str, ours: str) -> None:
    assert told(listing(a_model("aa", theirs)), aa=AT) == listing(a_model("aa", ours))


@pytest.mark.parametrize(
    ("at", "spelled"),
    [
        (AT, "2026-03-04T05:06:07.25Z"),
        (AT - 0.25, "2026-03-04T05:06:07Z"),
        (AT + 0.000_001, "2026-03-04T05:06:07.250001Z"),
        (0.0, "1970-01-01T00:00:00Z"),
    ],
)
def test_a_fraction_has_no_more_digits_than_it_needs(at: float, spelled: str) -> None:
    assert told(listing(a_model("aa", LATER)), aa=at) == listing(a_model("aa", spelled))


def test_each_model_has_its_own_and_the_longest_stay_comes_first() -> None:
    models = [("aa", LATER), ("bb", "2318-01-01T00:00:00+01:00"), ("cc", LATER), ("aa", LATER)]
    aa, bb = "2026-03-04T05:06:07.25Z", "2026-03-04T06:07:07.25+01:00"
    expected = [("cc", LATER), ("bb", bb), ("aa", aa), ("aa", aa)]
    body = told(listing(*(a_model(*model) for model in models)), aa=AT, bb=AT + 60)
    assert body == listing(*(a_model(*model) for model in expected))


def test_models_that_go_in_the_same_second_stay_in_their_order() -> None:
    models = [("aa", LATER), ("bb", LATER), ("cc", LATER)]
    body = told(listing(*(a_model(*model) for model in models)), aa=AT, bb=AT + 0.5, cc=AT + 0.75)
    names = [model["digest"] for model in json.loads(body)["models"]]
    assert names == ["cc", "aa", "bb"]


def test_only_what_stands_between_the_quotes_is_another() -> None:
    body = (
        b' \n{ "models" : [\t{ "expires_at" : "' + LATER.encode() + b'" ,\r\n "digest":"aa", '
        b'"name":"\\u00e9\\"expires_at\\":","note":{"expires_at":"x","digest":"zz"}} ] , "x":1 }\n'
    )
    assert told(body, aa=AT) == body.replace(LATER.encode(), b"2026-03-04T05:06:07.25Z")


@pytest.mark.parametrize(
    ("digest", "key", "value"),
    [
        ("\\u0061a", "expires_at", LATER),
        ("aa", "expires\\u005fat", LATER),
        ("aa", "expires_at", LATER.replace("Z", "\\u005a")),
    ],
)
def test_escapes_are_read(digest: str, key: str, value: str) -> None:
    body = f'{{"models":[{{"digest":"{digest}","{key}":"{value}"}}]}}'.encode()
    expected = [{"digest": "aa", "expires_at": "2026-03-04T05:06:07.25Z"}]
    assert json.loads(told(body, aa=AT)) == {"models": expected}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"models":null}',
        b'{"models":[]}',
        b'{"models":{}}',
        b'{"models":[null,1,"a",[{}]]}',
        b'{"models":[{"digest":"aa"}]}',
        b'{"models":[{"expires_at":"' + LATER.encode() + b'"}]}',
        b'{"models":[{"digest":1,"expires_at":"' + LATER.encode() + b'"}]}',
        b'{"models":[{"digest":"aa","expires_at":null}]}',
        b'{"models":[{"digest":"aa","expires_at":2319}]}',
        b'{"models":[{"digest":"aa","expires_at":"soon"}]}',
        b'{"models":[{"digest":"aa","expires_at":"2319-13-01T00:00:00Z"}]}',
        b'{"models":[{"digest":"aa","expires_at":""}]}',
        b"<html><body>502 Bad Gateway</body></html>",
        b"\x1f\x8b\x08\x00",
        b"\xff\xfe",
        listing(a_model("aa", LATER))[:-2],
        b"[" * 100_000,
        b'{"models":' + b"[" * 100_000,
    ],
)
def test_what_is_no_such_answer_stays_as_it_is(body: bytes) -> None:
    assert told(body, aa=AT) == body


def test_bytes_behind_the_answer_stay() -> None:
    body = listing(a_model("aa", LATER))
    assert told(body + b"\n", aa=AT).endswith(b"}]}\n")


def test_a_model_is_asked_for_by_its_digest_and_no_other() -> None:
    asked: list[str] = []

    def expiry(digest: str) -> float | None:
        asked.append(digest)
        return None

    body = listing(a_model("aa", LATER), a_model("bb", LATER))
    assert with_expiries(body, expiry) == body
    assert asked == ["aa", "bb"]


# ------------------------------------------------------------------------------- laws

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["models", "digest", "expires_at", "name"]) | st.text(max_size=4),
            inner | st.sampled_from(["aa", LATER, "2319-01-02T03:04:05+05:30"]),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.binary() | ANY_JSON.map(json.dumps).map(str.encode), st.floats())
def test_any_bytes_are_taken(body: bytes, at: float) -> None:
    with_expiries(body, lambda _: at)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "digest": st.sampled_from(["aa", "bb"]),
                "expires_at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
                "more": ANY_JSON,
            }
        )
    ),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_an_answer_means_the_same_but_for_what_expires_earlier(
    models: list[Mapping[str, object]], indent: int | str | None, ascii_only: bool
) -> None:
    body = json.dumps({"models": models, "x": models}, indent=indent, ensure_ascii=ascii_only)
    read = json.loads(told(body.encode("utf-8", "surrogatepass"), aa=AT))
    assert read["x"] == models
    assert len(read["models"]) == len(models)
    for before, after in zip(_longest_first(models), read["models"], strict=True):
        assert {**after, "expires_at": 0} == {**before, "expires_at": 0}
        ends = datetime.fromisoformat(after["expires_at"]).timestamp()
        assert ends == pytest.approx(_becomes(before), rel=0, abs=1e-5)


def _becomes(model: Mapping[str, object]) -> float:
    was = datetime.fromisoformat(str(model["expires_at"])).timestamp()
    return min(AT, was) if model["digest"] == "aa" else was


def _longest_first(models: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return sorted(models, key=lambda model: math.floor(_becomes(model)), reverse=True)
