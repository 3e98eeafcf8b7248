"""What is counted of loads and unloads, told event by event."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate import ledger as rooms
from ollama_gate.ledger import Counts, Ledger, Listed, LoadEnd, Loads, Unloads
from ollama_gate.scheduler.types import ModelKey
from ollama_gate.status import traffic

A, B = ModelKey("a"), ModelKey("b")


def listing(*models: ModelKey, num_ctx: int | None = 4096) -> dict[ModelKey, Listed]:
    return {model: Listed(f"{model}:latest", num_ctx) for model in models}


def loaded(ledger: Ledger, model: ModelKey, at: float) -> None:
    ledger.load_began(model, model)
    ledger.load_ended(model, LoadEnd.CONFIRMED, at)


@pytest.fixture
def ledger() -> Ledger:
    """One that has looked once and seen nothing."""
    ledger = Ledger()
    ledger.listed({}, 0.0)
    return ledger


def test_what_is_there_at_the_first_look_was_loaded_by_nobody_known() -> None:
    ledger = Ledger()
    ledger.listed(listing(A), 0.0)
    ledger.listed(listing(A), 1.0)
    assert ledger.total == Counts(loads=Loads(found=1))


def test_what_is_ordered_and_listed_afterwards_is_confirmed(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed(listing(A), 3.0)
    ledger.listed(listing(A), 4.0)
    assert ledger.total == Counts(loads=Loads(ordered=1, confirmed=1))


@pytest.mark.parametrize(
    ("end", "loads"),
    [
        (LoadEnd.FAILED, Loads(ordered=1, failed=1)),
        (LoadEnd.INTERRUPTED, Loads(ordered=1, interrupted=1)),
    ],
)
def test_a_load_that_did_not_end_well_leaves_nothing_there(
    ledger: Ledger, end: LoadEnd, loads: Loads
) -> None:
    ledger.load_began(A, "a")
    ledger.load_ended(A, end, 2.0)
    ledger.listed({}, 3.0)
    assert ledger.total == Counts(loads=loads)


def test_what_was_answered_and_never_listed_was_loaded_all_the_same(ledger: Ledger) -> None:
    ledger.load_began(A, "a")
    ledger.unlisted(A, "a")
    ledger.load_ended(A, LoadEnd.CONFIRMED, 2.0)
    assert ledger.total == Counts(loads=Loads(ordered=1, confirmed=1, unlisted=1))


def test_a_load_that_ended_unseen_and_is_listed_was_finished_by_ollama(ledger: Ledger) -> None:
    ledger.load_began(A, "a")
    ledger.load_ended(A, LoadEnd.INTERRUPTED, 2.0)
    ledger.listed(listing(A), 3.0)
    assert ledger.total == Counts(loads=Loads(ordered=1, interrupted=1, unordered=1))


def test_while_an_order_is_under_way_listings_decide_nothing(ledger: Ledger) -> None:
    ledger.load_began(A, "a")
    ledger.listed(listing(A), 1.0)
    ledger.listed({}, 1.5)
    ledger.load_ended(A, LoadEnd.CONFIRMED, 2.0)
    ledger.unload_began(A, "a")
    ledger.listed({}, 2.5)
    ledger.unload_ended(A, 3.0, confirmed=True)
    assert ledger.total == Counts(
        loads=Loads(ordered=1, confirmed=1), unloads=Unloads(ordered=1, confirmed=1)
    )


def test_a_question_asked_before_an_order_ended_does_not_contradict_its_end(
    ledger: Ledger,
) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed({}, 1.5)
    assert ledger.total.unloads == Unloads()
    ledger.listed(listing(A), 2.5)
    ledger.unload_began(A, "a")
    ledger.unload_ended(A, 4.0, confirmed=True)
    ledger.listed(listing(A), 3.5)
    assert ledger.total.loads == Loads(ordered=1, confirmed=1)


def test_an_old_answer_that_comes_late_is_not_read(ledger: Ledger) -> None:
    ledger.listed(listing(A), 3.0)
    ledger.listed({}, 2.0)
    assert ledger.total == Counts(loads=Loads(unordered=1))


def test_what_goes_without_an_order_is_counted_as_that(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed({}, 3.0)
    ledger.listed({}, 4.0)
    assert ledger.total.unloads == Unloads(unordered=1)


def test_an_unload_that_was_not_seen_counts_once_more_when_it_is(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.unload_began(A, "a")
    ledger.unload_ended(A, 3.0, confirmed=False)
    ledger.listed(listing(A), 4.0)
    assert ledger.total.unloads == Unloads(ordered=1, unconfirmed=1)
    ledger.listed({}, 5.0)
    assert ledger.total.unloads == Unloads(ordered=1, unconfirmed=1, unordered=1)


def test_what_an_upstream_lost_while_it_was_silent_was_not_unloaded(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    loaded(ledger, B, 2.0)
    ledger.silent()
    ledger.listed(listing(B), 3.0)
    ledger.listed({}, 4.0)
    assert ledger.total.unloads == Unloads(lost=1, unordered=1)


def test_another_context_is_another_runner(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed(listing(A), 3.0)
    ledger.listed(listing(A, num_ctx=8192), 4.0)
    assert ledger.total == Counts(
        loads=Loads(ordered=1, confirmed=1, unordered=1), unloads=Unloads(unordered=1)
    )


def test_an_ollama_that_tells_no_context_reloads_nothing(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed(listing(A), 3.0)
    ledger.listed(listing(A, num_ctx=None), 4.0)
    ledger.listed(listing(A, num_ctx=8192), 5.0)
    assert ledger.total == Counts(loads=Loads(ordered=1, confirmed=1))


def test_each_model_has_counts_of_its_own_and_all_add_up(ledger: Ledger) -> None:
    loaded(ledger, A, 2.0)
    ledger.listed(listing(A, B), 3.0)
    assert traffic({"here": ledger}) == {
        "here": {
            "loads": _loads(ordered=1, confirmed=1, unordered=1),
            "unloads": _unloads(),
            "models": [
                {"model": "a", "key": "a", "loads": _loads(ordered=1, confirmed=1)}
                | {"unloads": _unloads()},
                {"model": "b:latest", "key": "b", "loads": _loads(unordered=1)}
                | {"unloads": _unloads()},
            ],
        }
    }


def _loads(**more: int) -> dict[str, int]:
    names = ("ordered", "confirmed", "failed", "interrupted", "unlisted", "unordered", "found")
    return dict.fromkeys(names, 0) | more


def _unloads(**more: int) -> dict[str, int]:
    names = ("ordered", "confirmed", "unconfirmed", "unordered", "lost")
    return dict.fromkeys(names, 0) | more


def test_only_so_many_models_are_counted_one_by_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "REMEMBERED", 2)
    loaded(ledger, A, 1.0)
    ledger.load_began(B, "b")
    # Neither what is there nor what is on its way is forgotten.
    third, fourth = ModelKey("c"), ModelKey("d")
    loaded(ledger, third, 2.0)
    ledger.listed(listing(A), 3.0)
    loaded(ledger, fourth, 4.0)
    assert list(ledger.models) == [A, B, fourth]
    assert ledger.total.loads.confirmed == 3


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "fail", "unload", "behind", "evicted", "dies", "look"]),
        st.sampled_from([A, B, ModelKey("c")]),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_looked_at_after_every_step_it_agrees_with_what_happened(
    steps: Sequence[tuple[str, ModelKey]],
) -> None:
    ledger, there, now = Ledger(), set[ModelKey](), 0.0
    loads, unloads, lost = 0, 0, 0
    ledger.listed({}, now)
    for what, model in steps:
        now += 1.0
        match what:
            case "load" if model not in there:
                loaded(ledger, model, now)
                there.add(model)
                loads += 1
            case "fail" if model not in there:
                ledger.load_began(model, model)
                ledger.load_ended(model, LoadEnd.FAILED, now)
            case "unload" if model in there:
                ledger.unload_began(model, model)
                ledger.unload_ended(model, now, confirmed=True)
                there.discard(model)
                unloads += 1
            case "behind" if model not in there:
                there.add(model)
                loads += 1
            case "evicted" if model in there:
                there.discard(model)
                unloads += 1
            case "dies":
                lost += len(there)
                there.clear()
                ledger.silent()
            case _:
                pass
        ledger.listed(listing(*sorted(there)), now)
    total = ledger.total
    assert total.loads.confirmed + total.loads.unordered == loads
    assert total.unloads.confirmed + total.unloads.unordered == unloads
    assert total.unloads.lost == lost
