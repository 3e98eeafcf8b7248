"""Which runner serves which request: the table of what makes Ollama v0.32.15 reload.

The rows follow its source; of 379 ordered pairs tried on a real server, the loads counted in its
log, none was answered yes where Ollama reloads. Where the gate says no although Ollama would not,
the test says why. It must never say yes where Ollama would.
"""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.serving import context_to_name, serves, take_for_another
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Request,
    RunnerState,
)
from tests.play import a_request, a_resident

CARD = Bin(id=BinId("u/0"), upstream="u")
CPU = replace(CARD, cpu=True)
AUTO = 4096
"""What Ollama gives to those who name no context, in all of these tests."""
EMBEDDING_BATCH = 2048


def a_runner(
    got: int | None = AUTO,
    /,
    *,
    model: str = "a",
    bin_: Bin = CARD,
    named_ctx: int | None = None,
    reported: int = 1,
    **launch: Any,
) -> Runner:
    return Runner(
        bin=bin_,
        model=ModelKey(model),
        name=model,
        launch=Launch(**launch),
        num_ctx=got,
        named_ctx=named_ctx,
        footprint_bytes=1,
        reported_bytes=reported,
        free_at_load_bytes=None,
        parallel=1,
        keep_alive_s=300.0,
        state=RunnerState.RESIDENT,
        since=0.0,
        load_s=1.0,
        began_at=0.0,
    )


def asks(would_get: int = AUTO, /, *, least: int | None = None, **launch: Any) -> Request:
    """A request that would get so much context; with `least`, it may be sent with another."""
    return a_request("1", "a", launch=Launch(**launch), num_ctx=would_get, least_ctx=least)


def an_embedding(
    named: int, *, trained: int = 512, least: int | None = None, **launch: Any
) -> Request:
    return a_request(
        "1",
        "a",
        launch=Launch(**launch),
        num_ctx=min(named, trained),
        named_ctx=named,
        least_ctx=least,
        batch_limit=EMBEDDING_BATCH,
    )


# -------------------------------------------------------------------- options, one by one


@pytest.mark.parametrize(
    ("option", "have", "want", "served"),
    [
        # Negative or absent matches whatever is there; else the number must be the same.
        ("num_gpu", None, None, True),
        ("num_gpu", None, -1, True),
        ("num_gpu", 7, None, True),
        ("num_gpu", 7, -1, True),
        ("num_gpu", 99, None, True),
        ("num_gpu", 7, 7, True),
        ("num_gpu", 7, 8, False),
        ("num_gpu", None, 7, False),
        ("num_gpu", None, 99, False),
        ("num_gpu", None, 0, False),
        ("num_gpu", 0, 0, True),
        # Ollama would leave everybody on the CPU here. The gate does not.
        ("num_gpu", 0, None, False),
        ("num_gpu", 0, -1, False),
        # 512 is the default that a request without one comes with.
        ("num_batch", 512, None, True),
        ("num_batch", 512, 512, True),
        ("num_batch", 256, None, False),
        ("num_batch", 256, 512, False),
        # With little context Ollama takes 512 by itself and would not reload; with more it takes
        # up to 2048, as the card allows, which the gate does not know for sure.
        ("num_batch", None, 512, False),
        ("num_batch", None, 1024, False),
        ("main_gpu", None, 0, False),
        ("main_gpu", 0, None, False),
        ("main_gpu", 0, 0, True),
        ("main_gpu", 0, 1, False),
        ("use_mmap", False, None, False),
        ("use_mmap", True, None, False),
        ("use_mmap", True, True, True),
        ("use_mmap", True, False, False),
        ("use_mmap", None, True, False),
        # Where Ollama had turned it off by itself it would not reload, but nobody can see that.
        ("use_mmap", None, False, False),
        ("num_thread", None, 2, False),
        ("num_thread", 2, None, False),
        ("num_thread", 2, 2, True),
        ("num_thread", None, 0, True),
        ("num_thread", 0, None, True),
        ("draft_num_predict", None, 4, False),
        ("draft_num_predict", 2, None, False),
        ("draft_num_predict", 2, 2, True),
        # Equal for a model without a draft, unequal for one with; it cannot be told which this is.
        ("draft_num_predict", None, 0, False),
        ("shift", None, False, False),
        ("shift", False, None, False),
        ("shift", False, False, True),
        ("extras", ("lora",), (), False),
        ("extras", ("lora",), ("lora",), True),
        ("extras", (), ("projector",), False),
    ],
)
def test_an_option(option: str, have: Any, want: Any, *, served: bool) -> None:
    given: dict[str, Any] = {option: have}
    named: dict[str, Any] = {option: want}
    runner, request = a_runner(**given), asks(**named)
    assert serves(runner, request) is served


def test_on_a_cpu_it_does_not_matter_who_asked_for_it() -> None:
    assert serves(a_runner(num_gpu=0, bin_=CPU), asks())


def test_another_model_is_another_model() -> None:
    assert not serves(a_runner(model="b"), asks())


# -------------------------------------------------------------------- context


@pytest.mark.parametrize(
    ("named", "got", "names", "would_get", "served"),
    [
        # Both leave it to Ollama: whatever it gave.
        (None, 4096, None, 4096, True),
        (None, 4096, None, 32768, True),
        # One names it: what it comes to, after floors and the trained length.
        (None, 4096, 4096, 4096, True),
        (None, 4096, 8192, 8192, False),
        (None, 4096, 2048, 2048, False),
        (8192, 8192, None, 4096, False),
        (8192, 8192, None, 8192, True),
        (999_999, 131_072, 131_072, 131_072, True),
        (131_072, 131_072, 999_999, 131_072, True),
        (1, 4, 4, 4, True),
        (8192, 8192, 4096, 4096, False),
        # The trained length is not known, so that more was expected than there is.
        (9999, 8192, 9999, 9999, True),
        (9999, 8192, 8192, 8192, True),
        # An old Ollama does not tell.
        (None, None, None, 4096, True),
        (8192, None, 8192, 8192, True),
        (8192, None, None, 4096, False),
    ],
)
def test_context(
    named: int | None, got: int | None, names: int | None, would_get: int, *, served: bool
) -> None:
    assert serves(a_runner(got, num_ctx=named), asks(would_get, num_ctx=names)) is served


def test_what_nobody_can_tell_is_no_match() -> None:
    request = replace(asks(num_ctx=8192), num_ctx=None)
    assert not serves(a_runner(None), request)


@pytest.mark.parametrize(
    ("named", "got", "least", "served"),
    [
        (None, 4096, 2048, True),
        (None, 4096, 4096, True),
        (None, 4096, 4097, False),
        (16384, 16384, 2048, True),
        # It was given less than it named, so that the model has no more.
        (100_000, 32_768, 50_000, True),
        (100_000, 32_768, 200_000, True),
        # Ollama lowered its own choice, for want of memory; by name there may be more.
        (None, 4096, 8192, False),
    ],
)
def test_who_may_be_sent_with_another_context_takes_any_that_is_enough(
    named: int | None, got: int, least: int, *, served: bool
) -> None:
    runner = a_runner(got, num_ctx=named)
    assert serves(runner, asks(least=least)) is served


def test_where_nobody_tells_only_the_same_is_enough() -> None:
    assert serves(a_runner(None), asks(least=2048))
    assert not serves(a_runner(None, num_ctx=8192), asks(least=2048))


@pytest.mark.parametrize("option", ["num_batch", "num_gpu", "main_gpu", "num_thread"])
def test_a_wider_context_does_not_make_up_for_another_option(option: str) -> None:
    have: dict[str, Any] = {option: 7}
    want: dict[str, Any] = {option: 8}
    assert not serves(a_runner(16384, num_ctx=16384, **have), asks(least=1, **want))


# -------------------------------------------------------------------- the context to name


def test_who_may_not_be_sent_with_another_context_is_sent_as_it_is() -> None:
    assert context_to_name(a_runner(), asks()) is None


def test_a_request_names_what_the_runner_was_loaded_with_else_what_it_has() -> None:
    assert context_to_name(a_runner(512, named_ctx=4096), asks(least=64)) == 4096
    assert context_to_name(a_runner(8192), asks(least=64)) == 8192


@pytest.mark.parametrize(
    ("named", "predicted", "told", "names"),
    [
        (None, 8192, 8192, 32768),  # as predicted: 32768, held to what it was trained for
        (None, 8192, 4096, 4096),  # lowered, or another choice than was thought
        (9999, 9999, 8192, 9999),  # it was named, and what is named again comes to the same
    ],
)
def test_a_context_that_came_out_otherwise_is_named_by_what_it_is(
    named: int | None, predicted: int, told: int, names: int
) -> None:
    runner = a_runner(predicted, num_ctx=named, named_ctx=named or 32768)
    runner.take_context(told)
    assert (runner.num_ctx, context_to_name(runner, asks(least=1))) == (told, names)


# -------------------------------------------------------------------- embedding models


@pytest.mark.parametrize(
    ("runner_named", "named", "served"),
    [
        (4096, 4096, True),
        (4096, 2048, True),  # both a batch of 2048, and all the context it was trained for
        (4096, 8192, True),
        (4096, 512, False),  # as much context, but a batch of 512
        (512, 4096, False),
        (1024, 1024, True),
        (1024, 600, False),
    ],
)
def test_the_batch_of_an_embedding_model_follows_the_context_that_is_named(
    runner_named: int, named: int, *, served: bool
) -> None:
    runner = a_runner(512, named_ctx=runner_named, num_ctx=runner_named)
    assert serves(runner, an_embedding(named, num_ctx=named)) is served
    if runner_named == AUTO:
        unnamed = a_runner(512, named_ctx=AUTO)
        assert serves(unnamed, an_embedding(named, num_ctx=named)) is served


def test_one_that_may_be_sent_with_another_context_gets_the_batch_that_goes_with_it() -> None:
    runner, request = a_runner(512, named_ctx=4096), an_embedding(256, least=256)
    assert serves(runner, request)
    assert context_to_name(runner, request) == 4096


def test_a_batch_that_an_embedding_model_was_told_does_not_follow() -> None:
    told = a_runner(512, named_ctx=4096, num_batch=64)
    assert not serves(told, an_embedding(4096))
    assert not serves(told, an_embedding(256, least=256))
    assert serves(told, an_embedding(4096, num_batch=64))
    assert serves(a_runner(512, named_ctx=4096), an_embedding(4096, num_batch=2048))


# -------------------------------------------------------------------- behind the gate's back


def seen(told: int | None = AUTO, /, *, reported: int = 1, **launch: Any) -> ev.Resident:
    resident = a_resident("a")
    return replace(resident, num_ctx=told, reported_bytes=reported, launch=Launch(**launch))


def test_one_that_is_as_it_was_is_the_same() -> None:
    assert not take_for_another(a_runner(), seen())
    assert not take_for_another(a_runner(), seen(None))
    assert not take_for_another(a_runner(None), seen())
    assert not take_for_another(a_runner(reported=0, num_gpu=0), seen(reported=0, num_gpu=0))


def test_one_with_another_context_is_another() -> None:
    assert take_for_another(a_runner(4096), seen(8192))


def test_one_that_went_to_the_cpu_or_back_is_another() -> None:
    assert take_for_another(a_runner(reported=0, num_gpu=0), seen())
    assert take_for_another(a_runner(), seen(reported=0, num_gpu=0))
    # There was no room on the card when it was loaded: nobody asked for that.
    assert not take_for_another(a_runner(reported=0), seen(reported=0, num_gpu=0))
    assert not take_for_another(a_runner(bin_=CPU), seen(reported=0, num_gpu=0))


# -------------------------------------------------------------------- laws

contexts = st.sampled_from([4, 512, 2048, 4096, 8192, 32768])


@given(
    named=st.none() | contexts,
    trained=contexts,
    tier=contexts,
    least=st.none() | contexts,
    limit=st.none() | st.just(2048),
)
def test_a_runner_serves_the_request_that_it_was_loaded_for(
    named: int | None, trained: int, tier: int, least: int | None, limit: int | None
) -> None:
    """Whether or not the gate knew how long a context the model was trained for."""
    spelled = named or tier
    if least is not None:
        # As the registry makes them: whoever needs no more than the automatic names none.
        named = spelled = max(least, min(tier, trained)) if named else tier
        named, least = (named, min(least, named)) if least > tier else (None, min(least, tier))
        spelled = named or tier
    for predicted in (min(spelled, trained), spelled):
        request = a_request(
            "1",
            "a",
            launch=Launch(num_ctx=named),
            num_ctx=predicted,
            named_ctx=spelled,
            least_ctx=None if least is None else min(least, predicted, trained),
            batch_limit=limit,
        )
        runner = a_runner(predicted, num_ctx=named, named_ctx=spelled)
        assert serves(runner, request), "while it is being loaded"
        runner.take_context(min(spelled, trained))
        assert serves(runner, request), "once it is there"


@given(got=contexts, named=st.none() | contexts, least=contexts, more=contexts, fewer=contexts)
def test_who_is_served_is_served_by_every_wider_runner_and_so_are_those_who_need_less(
    got: int, named: int | None, least: int, more: int, fewer: int
) -> None:
    got = got if named is None else min(got, named)
    if serves(a_runner(got, num_ctx=named), asks(least=least)):
        wider = max(got, more)
        assert serves(a_runner(wider, num_ctx=wider), asks(least=min(least, wider)))
        assert serves(a_runner(got, num_ctx=named), asks(least=min(least, fewer)))
