"""Lists of several upstreams as one: whose entries, in which order, with not a byte altered."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import wire

TAGS, PS, MODELS = "/api/tags", "/api/ps", "/v1/models"


def tag(name: str, modified_at: str = "2026-03-04T05:06:07.123456789Z", size: int = 1) -> str:
    """As Ollama v0.32.15 writes one."""
    return (
        f'{{"name":"{name}","model":"{name}","modified_at":"{modified_at}","size":{size},'
        f'"digest":"{size:064x}","details":{{"parent_model":"","families":["llama"]}}}}'
    )


def tags(*entries: str) -> bytes:
    return f'{{"models":[{",".join(entries)}]}}'.encode()


def openai(*models: tuple[str, int]) -> bytes:
    data = [
        {"id": name, "object": "model", "created": created, "owned_by": "library"}
        for name, created in models
    ]
    text = json.dumps({"object": "list", "data": data or None}, separators=(",", ":"))
    return text.encode() + b"\n"


def test_of_one_name_the_first_entry_is_listed_as_it_came() -> None:
    ours, theirs = tag("a:latest", size=1), tag("a:latest", size=2)
    other = tag("b:latest", size=3)
    assert wire.merged(TAGS, [tags(ours), tags(theirs, other)]) == tags(ours, other)


def test_two_spellings_of_a_name_are_one_name() -> None:
    first, second = tag("Llama:Latest"), tag("registry.ollama.ai/library/llama:latest")
    assert wire.merged(TAGS, [tags(first), tags(second)]) == tags(first)


def test_a_listed_tag_that_is_called_cloud_is_another_model() -> None:
    first, second = tag("a:latest"), tag("a:cloud")
    assert wire.merged(TAGS, [tags(first), tags(second)]) == tags(first, second)


def test_the_last_modified_comes_first_and_equals_stay_in_the_order_of_the_upstreams() -> None:
    new, same, old = (
        tag("new", "2026-03-04T05:06:08Z"),
        tag("same", "2026-03-04T05:06:07.9+00:00"),
        tag("old", "2026-03-04T07:06:06+02:00"),
    )
    also = tag("also", "2026-03-04T05:06:07.999Z")
    merged = wire.merged(TAGS, [tags(same, old), tags(new, also)])
    assert merged == tags(new, same, also, old)


@pytest.mark.parametrize("unreadable", ['"yesterday"', "7", "null", '"9999-99-99T00:00:00Z"'])
def test_where_one_says_no_time_nothing_is_sorted(unreadable: str) -> None:
    odd = f'{{"name":"odd","modified_at":{unreadable if unreadable != "7" else "7.5"}}}'
    new = tag("new", "2030-01-01T00:00:00Z")
    assert wire.merged(TAGS, [tags(odd), tags(new)]) == tags(odd, new)


def test_what_runs_at_two_upstreams_is_listed_twice() -> None:
    late = '{"name":"a","digest":"d","expires_at":"2026-03-04T05:06:08Z"}'
    soon = '{"name":"a","digest":"d","expires_at":"2026-03-04T05:06:07Z"}'
    assert wire.merged(PS, [tags(soon), tags(late)]) == tags(late, soon)


def test_openais_list_is_sorted_by_its_own_field() -> None:
    merged = wire.merged(MODELS, [openai(("a", 7), ("b", 5)), openai(("c", 6), ("a", 9))])
    assert merged == openai(("a", 7), ("c", 6), ("b", 5))


def test_the_null_of_an_upstream_without_models_makes_room_for_anothers() -> None:
    assert wire.merged(MODELS, [openai(), openai(("a", 7))]) == openai(("a", 7))
    assert wire.merged(MODELS, [openai(), openai()]) == openai()


def test_what_is_around_the_list_is_the_first_upstreams() -> None:
    first = b' { "more": [1], "models" : [ ] , "x": "models" } '
    assert wire.merged(TAGS, [first, tags(tag("a"))]) == first.replace(
        b"[ ]", f"[{tag('a')}]".encode()
    )


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"models":{}}', b'{"model":[1]}', b"null"])
def test_what_is_no_list_is_left_out(broken: bytes) -> None:
    whole = tags(tag("a"))
    assert wire.merged(TAGS, [broken, whole]) == whole
    assert wire.merged(TAGS, [whole, broken]) == whole
    assert wire.merged(TAGS, [broken, broken]) == broken


def test_an_entry_without_a_name_stands_for_itself() -> None:
    assert wire.merged(TAGS, [tags("{}", "7"), tags("{}")]) == tags("{}", "7", "{}")


def test_an_entry_that_has_no_name_but_a_model_is_known_by_that() -> None:
    first, second = '{"name":"","model":"a"}', '{"name":"a"}'
    assert wire.merged(TAGS, [tags(first), tags(second)]) == tags(first)


@pytest.mark.parametrize(
    ("method", "path", "is_one"),
    [
        ("GET", TAGS, True),
        ("HEAD", TAGS, True),
        ("GET", PS, True),
        ("HEAD", PS, False),
        ("GET", MODELS, True),
        ("POST", TAGS, False),
        ("GET", "/v1/models/a", False),
        ("GET", "/api/version", False),
    ],
)
def test_three_routes_list(method: str, path: str, is_one: bool) -> None:
    assert wire.is_list(method, path) is is_one


names_of_one = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@given(st.lists(names_of_one, min_size=1, max_size=3), st.data())
def test_every_name_is_listed_once_in_the_words_of_the_first_that_has_it(
    held: list[list[str]], data: st.DataObject
) -> None:
    bodies, words = list[bytes](), dict[str, str]()
    for names in held:
        entries = []
        for name in names:
            seconds = data.draw(st.integers(10, 59))
            entries.append(tag(name, f"2026-03-04T05:06:{seconds}Z", size=len(bodies)))
            words.setdefault(name, entries[-1])
        bodies.append(tags(*entries))
    merged = wire.merged(TAGS, bodies)
    times = [one["modified_at"] for one in json.loads(merged)["models"]]
    assert times == sorted(times, reverse=True)
    assert len(times) == len(words)
    assert all(entry.encode() in merged for entry in words.values())
    assert len(merged) == len(tags(*words.values()))
