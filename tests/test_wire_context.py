"""Where a request names its context, and what it means with another one in that place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import wire
from ollama_gate.wire import Ask, Endpoint

NATIVE = [Endpoint.GENERATE, Endpoint.CHAT, Endpoint.EMBED, Endpoint.EMBEDDINGS]


def ask(body: bytes, endpoint: Endpoint = Endpoint.GENERATE) -> Ask:
    found = wire.read(endpoint, {}, body)
    assert isinstance(found, Ask), found
    return found


def edited(body: bytes, num_ctx: int = 4096) -> bytes:
    found = ask(body)
    assert found.context_at is not None
    return wire.with_context(found.body, found.context_at, num_ctx)


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (
            b'{"model":"m","options":{"num_ctx":2048}}',
            b'{"model":"m","options":{"num_ctx":4096}}',
        ),
        (
            b' { "model" : "m" , "OPTIONS" : { "seed" : 1 , "num_ctx" : 2e3 } , "raw" : null } x',
            b' { "model" : "m" , "OPTIONS" : { "seed" : 1 , "num_ctx" : 4096 } , "raw" : null } x',
        ),
        (
            '{"option\u017f":{"num\\u005fctx":-1},"model":"m"}'.encode(),
            '{"option\u017f":{"num\\u005fctx":4096},"model":"m"}'.encode(),
        ),
        (
            b'{"model":"m","options":{"num_ctx":null}}',
            b'{"model":"m","options":{"num_ctx":4096}}',
        ),
        # Of a name that comes twice the last value counts, and the others stay.
        (
            b'{"model":"m","options":{"num_ctx":"x","num_ctx":2},"options":{"num_ctx":3}}',
            b'{"model":"m","options":{"num_ctx":"x","num_ctx":2},"options":{"num_ctx":4096}}',
        ),
        (
            b'{"model":"m","options":{"num_ctx":2},"Options":{"seed":3,"NUM_CTX":5}}',
            b'{"model":"m","options":{"num_ctx":4096},"Options":{"seed":3,"NUM_CTX":5}}',
        ),
        (
            b'{"model":"m","options":{"num_ctx":1},"options":null,"options":{"num_ctx":2}}',
            b'{"model":"m","options":{"num_ctx":1},"options":null,"options":{"num_ctx":4096}}',
        ),
        # What is cut out before it moves it.
        (
            b'{"keep_alive":1,"options":{"num_ctx":1},"keep_alive":"5m","model":"m"}',
            b'{"options":{"num_ctx":4096},"model":"m"}',
        ),
        (
            b'{"model":"m","keep_alive":1,"keep_alive":2,"options":{"num_ctx":1}}',
            b'{"model":"m","options":{"num_ctx":4096}}',
        ),
    ],
)
def test_one_number_is_replaced_and_every_other_byte_stays(body: bytes, sent: bytes) -> None:
    assert edited(body) == sent
    assert ask(sent).launch_options.num_ctx == 4096


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b'{"model":"m","options":{}}',
        b'{"model":"m","options":{"Num_ctx":1}}',
        b'{"model":"m","options":{"num_ctx":1},"options":null}',
        b'{"model":"m","format":{"num_ctx":1},"num_ctx":2,"options":{"x":{"num_ctx":3}}}',
    ],
)
def test_who_names_no_context_has_no_place_for_one(body: bytes) -> None:
    found = ask(body)
    assert found.context_at is None
    assert found.launch_options.num_ctx is None


@pytest.mark.parametrize("endpoint", NATIVE)
def test_every_native_route_has_it(endpoint: Endpoint) -> None:
    found = ask(b'{"model":"m","options":{"num_ctx":8}}', endpoint)
    assert found.context_at is not None
    assert found.body[slice(*found.context_at)] == b"8"


def test_elsewhere_options_are_not_ollamas_to_read() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"options":{"num_ctx":8}}'
    assert ask(body, Endpoint.CHAT_COMPLETIONS).context_at is None


@pytest.mark.parametrize(
    ("options", "nulls"),
    [
        ({"num_ctx": None, "num_batch": None}, {"num_ctx", "num_batch"}),
        ({"draft_num_predict": None, "num_gpu": None, "seed": None}, {"draft_num_predict"}),
        ({"num_ctx": 1}, set()),
        (None, set()),
    ],
)
def test_what_is_named_and_given_as_null_is_told(options: object, nulls: set[str]) -> None:
    found = ask(json.dumps({"model": "m", "options": options}).encode())
    assert found.nulls == nulls


# -------------------------------------------------------------------- the law

names = st.sampled_from(["num_ctx", "num_ctx", "NUM_CTX", "seed", "num_batch", "stop"])
values = {
    "num_ctx": st.sampled_from([None, 1, 2048, 4096.5, -3]),
    "stop": st.lists(st.text(max_size=3), max_size=2),
}
options = st.one_of(
    st.none(),
    st.lists(
        names.flatmap(
            lambda name: st.tuples(st.just(name), values.get(name, st.none() | st.integers(1, 9)))
        ),
        max_size=4,
    ),
)
members = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["options", "OPTIONS", "option\u017f"]), options),
        st.tuples(st.sampled_from(["keep_alive", "KEEP_ALIVE"]), st.integers(0, 9)),
        st.tuples(st.just("prompt"), st.text(max_size=5)),
    ),
    max_size=6,
)


def written(pairs: list[tuple[str, Any]], draw_space: str) -> bytes:
    """An object whose names may come twice; what is a list of pairs is such an object too."""

    def spelled(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], tuple):
            return obj(value)
        return json.dumps(value) if value != [] else "{}"

    def obj(pairs: list[tuple[str, Any]]) -> str:
        gap = draw_space
        return (
            "{"
            + ",".join(f"{gap}{json.dumps(n)}{gap}:{gap}{spelled(v)}{gap}" for n, v in pairs)
            + "}"
        )

    return obj(pairs).encode()


@given(members=members, gap=st.sampled_from(["", " ", "\n\t"]), num_ctx=st.integers(4, 10**6))
def test_with_another_context_a_body_means_the_same_but_for_that(
    members: list[tuple[str, Any]], gap: str, num_ctx: int
) -> None:
    found = wire.read(Endpoint.GENERATE, {}, written([("model", "m"), *members], gap))
    if not isinstance(found, Ask) or found.context_at is None:
        return
    place = found.context_at
    sent = wire.with_context(found.body, place, num_ctx)
    assert sent[: place.start] == found.body[: place.start]
    assert sent.endswith(found.body[place.end :])
    again = wire.read(Endpoint.GENERATE, {}, sent)
    assert isinstance(again, Ask)
    # Who only wants a model gone names no options.
    assert again.launch_options.num_ctx == num_ctx
    assert again.launch_options.num_batch == found.launch_options.num_batch
    assert again.nulls == found.nulls - {"num_ctx"}
    assert (again.model, again.empty, again.body) == (found.model, found.empty, sent)
