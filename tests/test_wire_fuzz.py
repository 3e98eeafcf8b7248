"""Laws of reading a body, and a second reader of it that is slow and plain."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import names, wire
from ollama_gate.wire import Ask, Dialect, Endpoint, Hopeless
from ollama_gate.wire.bodies import BODIES, WHOLE_BODIES
from ollama_gate.wire.scan import HopelessError, end_of_text
from ollama_gate.wire.shapes import ShortenedError

KEYS = ["model", "prompt", "stream", "keep_alive", "options", "shift", "think", "raw", "system"]
KEYS += ["messages", "input", "max_tokens", "tools", "images", "context", "stop", "content", "x"]
KEYS += ["MODEL", "Keep_Alive", "\u017ftream", "\u212aeep_alive", "num_ctx", "role", "type"]
WORDS = [
    "m",
    "m:cloud",
    "",
    "5m",
    "x",
    "text",
    "user",
    "-1",
    "data:image/png;base64,aGk=",
    "\u00e9",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 5, 0.5, 2048, 1e3]),
    st.sampled_from(WORDS),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=10,
)
MEMBERS = st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=8)
CHANGES = st.lists(st.tuples(st.integers(0), st.sampled_from(list(b'"\\{}[],:0 1e.-\n\x00\xff'))))


def written(members: list[tuple[str, Any]]) -> bytes:
    inside = (f"{json.dumps(key)}:{json.dumps(value)}" for key, value in members)
    return ("{" + ",".join(inside) + "}").encode()


def changed(body: bytes, changes: list[tuple[int, int]]) -> bytes:
    for place, byte in changes:
        at = place % (len(body) + 1)
        body = body[:at] + bytes([byte]) + body[at + place % 2 :]
    return body


@given(st.sampled_from(list(Endpoint)), MEMBERS, CHANGES, st.booleans())
def test_whatever_the_bytes_they_are_an_ask_or_hopeless(
    endpoint: Endpoint, members: list[tuple[str, Any]], changes: list[tuple[int, int]], packed: bool
) -> None:
    headers = {"Content-Encoding": "zstd"} if packed else {}
    body = changed(written([("model", "m"), *members]), changes)
    found = wire.read(endpoint, headers, body)
    if isinstance(found, Hopeless):
        assert found.why
        return
    assert isinstance(found, Ask)
    assert names.parse(found.model) is not None
    assert endpoint.dialect is Dialect.NATIVE or found.body is body


@given(st.sampled_from([Endpoint.GENERATE, Endpoint.EMBEDDINGS]), MEMBERS)
def test_what_is_forwarded_says_the_same_but_for_keep_alive(
    endpoint: Endpoint, members: list[tuple[str, Any]]
) -> None:
    body = written([("model", "m"), *members])
    found = wire.read(endpoint, {}, body)
    if not isinstance(found, Ask) or found.keep_alive_s == 0:
        return
    again = wire.read(endpoint, {}, found.body)
    assert isinstance(again, Ask)
    assert again.body is found.body
    assert again.keep_alive_s is None
    for name in ("model", "launch_options", "empty", "stream", "needs"):
        assert getattr(again, name) == getattr(found, name)
    pairs = json.loads(body, object_pairs_hook=list)
    left = json.loads(found.body, object_pairs_hook=list)
    assert left == [(key, value) for key, value in pairs if folded(key) != "keep_alive"]


# -------------------------------------------------------------------- a slow reader

TYPED = {
    "model": (str,),
    "prompt": (str,),
    "system": (str,),
    "raw": (bool,),
    "stream": (bool,),
    "shift": (bool,),
    "options": (dict,),
    "think": (bool,),
    "keep_alive": (int, float),
}
CLEARED = {"stream", "shift", "options", "think", "keep_alive"}
RIGHT = {
    "model": st.sampled_from(["m", "n:cloud", ""]),
    "prompt": st.sampled_from(["", "hi"]),
    "system": st.sampled_from(["", "be brief"]),
    "keep_alive": st.sampled_from([0, 5, -1, 0.25]),
    "options": st.dictionaries(
        st.sampled_from(["num_ctx", "NUM_CTX", "num_gpu", "use_mmap"]),
        st.sampled_from([None, 3, 2048, 1.5, True, "8"]),
        max_size=3,
    ),
}
SPELLINGS = {"stream": ["stream", "STREAM", "\u017ftream"], "model": ["model", "Model"]}


@st.composite
def plain_members(draw: st.DrawFn) -> list[tuple[str, Any]]:
    fields = draw(st.lists(st.sampled_from(sorted(TYPED)), max_size=8))
    members = []
    for field in ["model", "prompt", *fields]:
        right = RIGHT.get(field, st.booleans())
        wrong: st.SearchStrategy[Any] = st.sampled_from([None, 7, True, "w", [], {}])
        value = draw(wrong if draw(st.integers(0, 9)) == 0 else right)
        members.append((draw(st.sampled_from(SPELLINGS.get(field, [field]))), value))
    return members


def folded(key: str) -> str:
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


def slow_generate(members: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """What Ollama takes `/api/generate` for; `None` if it refuses."""
    fields: dict[str, Any] = {}
    for spelled, value in members:
        key = folded(spelled)
        if value is None:
            if key in CLEARED:
                fields[key] = None
            continue
        is_right = isinstance(value, TYPED[key]) and not (
            isinstance(value, bool) and bool not in TYPED[key]
        )
        if not is_right and not (key == "think" and str(value) in {"high", "low"}):
            return None
        if key == "options":
            value = {**(fields.get(key) or {}), **value}  # noqa: PLW2901
        fields[key] = value
    return None if is_refused(fields) else spoken(fields)


def is_refused(fields: dict[str, Any]) -> bool:
    if not fields.get("model"):
        return True
    if not fields.get("prompt") and fields.get("keep_alive") == 0:
        return False
    if fields.get("raw") and fields.get("system"):
        return True
    options = fields.get("options") or {}
    numbers = [options.get("num_ctx"), options.get("num_gpu")]
    return not isinstance(options.get("use_mmap"), bool | None) or any(
        isinstance(number, str | bool) for number in numbers
    )


def spoken(fields: dict[str, Any]) -> dict[str, Any]:
    keep_alive, options = fields.get("keep_alive"), fields.get("options") or {}
    return {
        "model": fields["model"],
        "empty": not fields.get("prompt"),
        "stream": fields.get("stream") is not False,
        "keep_alive_s": math.inf if keep_alive is not None and keep_alive < 0 else keep_alive,
        "num_ctx": None if options.get("num_ctx") is None else max(4, int(options["num_ctx"])),
        "num_gpu": None if options.get("num_gpu") is None else int(options["num_gpu"]),
        "use_mmap": options.get("use_mmap"),
        "shift": fields.get("shift"),
    }


@given(plain_members())
def test_a_slow_reader_finds_the_same(members: list[tuple[str, Any]]) -> None:
    found = wire.read(Endpoint.GENERATE, {}, written(members))
    expected = slow_generate(members)
    if expected is None:
        assert isinstance(found, Hopeless)
        return
    assert isinstance(found, Ask), found
    launch = found.launch_options
    unloads = found.empty and found.keep_alive_s == 0
    for name in ("model", "empty", "stream", "keep_alive_s"):
        assert getattr(found, name) == expected[name]
    for name in ("num_ctx", "num_gpu", "use_mmap", "shift"):
        # Who only wants a model gone names no options.
        assert getattr(launch, name) == (None if unloads else expected[name])


# -------------------------------------------------------------------- what is passed over quickly

PIECES = st.lists(
    st.sampled_from(["a", "\\\\", "\\n", '\\"', "\\u00e9", "\\ud83d\\ude00", "\u20ac", "aaaaaaa"]),
    max_size=12,
)


@given(st.sampled_from([490, 1010, 1024, 66_540, 66_560]), PIECES, PIECES)
def test_a_long_string_ends_where_it_ends(
    plain_bytes: int, before: list[str], behind: list[str]
) -> None:
    text = "a" * plain_bytes + "".join(before) + "a" * 1000 + "".join(behind)
    body = f'"{text}"'.encode()
    assert end_of_text(body, 0) == len(body)
    assert end_of_text(body + b',"x"', 0) == len(body)


@pytest.mark.parametrize("escape", ["\\n", "\\\\", '\\"', "\\u00e9", "\\ud83d\\ude00"])
@pytest.mark.parametrize("edge_bytes", [1 << 10, (1 << 10) + (1 << 16)])
def test_an_escape_may_stand_anywhere_in_a_long_string(escape: str, edge_bytes: int) -> None:
    for plain_bytes in range(edge_bytes - 20, edge_bytes + 5):
        body = f'"{"a" * plain_bytes}{escape * 3}{"b" * 600}"'.encode()
        assert end_of_text(body + b"]", 0) == len(body)


@given(st.sampled_from([490, 1010, 1024, 66_540, 66_560]), st.integers(0, 40), st.data())
def test_a_long_string_with_anything_wrong_in_it_is_refused(
    plain_bytes: int, backslashes: int, data: st.DataObject
) -> None:
    good = "a" * plain_bytes + "\\" * (2 * backslashes)
    wrong = data.draw(st.sampled_from(["\x00", "\n", "\\x", "\\u12", "\\ud83", "\\"]))
    body = f'"{good}{wrong}{"g" * data.draw(st.integers(0, 30))}'.encode()
    for end in (b"", b'"') if wrong != "\\" or body.endswith(b"g") else (b"",):
        try:
            end_of_text(body + end, 0)
        except HopelessError:
            continue
        raise AssertionError(body[-80:])


TALK = st.sampled_from(
    [
        {"role": "user", "content": "hi"},
        {"content": "hi\n"},
        {"role": "user", "content": ""},
        {"role": "user"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "content": "x", "name": "y"},
        None,
    ]
)
TALKING = [Endpoint.CHAT, Endpoint.CHAT_COMPLETIONS, Endpoint.MESSAGES]


@given(st.sampled_from(TALKING), st.lists(st.lists(TALK, max_size=5), max_size=3))
def test_many_messages_mean_what_they_mean_one_by_one(
    endpoint: Endpoint, lists: list[list[Any]]
) -> None:
    def both(body: bytes) -> list[Any]:
        answers: list[Any] = []
        for bodies in (BODIES, WHOLE_BODIES):
            try:
                fields, end = bodies[endpoint](body, 0, 0)
            except HopelessError:
                answers.append("hopeless")
            except ShortenedError:
                assert bodies is BODIES
                answers.append(None)
            else:
                answers.append((sorted(fields), bool(fields.get("messages")), end))
        return answers

    body = written([("model", "m"), ("max_tokens", 5), *(("messages", talk) for talk in lists)])
    short, whole = both(body)
    assert short in (whole, None)
    assert short is not None or len(lists) > 1


def test_a_deep_declaration_is_followed_only_so_far() -> None:
    deep = b'{"properties":{"a":' * 3000 + b"{}" + b"}}" * 3000
    tools = b'[{"function":{"parameters":%b}}]' % deep
    found = wire.read(Endpoint.CHAT, {}, b'{"model":"m","tools":%b}' % tools)
    assert isinstance(found, Ask)
    nested = b'{"type":"namespace","tools":[' * 3000 + b"]}" * 3000
    found = wire.read(Endpoint.RESPONSES, {}, b'{"model":"m","input":"x","tools":[%b]}' % nested)
    assert isinstance(found, Ask)
