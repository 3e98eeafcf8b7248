"""What is known of an upstream's models, and what had to be asked for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from ollama_gate.errors import UpstreamGoneError, UpstreamRefusedError
from ollama_gate.footprint import Facts, Resident
from ollama_gate.known import BELIEVED_S, FRESH_S, Known
from ollama_gate.known.listing import read_tags
from ollama_gate.known.models import RETRY_S
from ollama_gate.known.rounds import LOOK_S
from ollama_gate.known.shows import REMEMBERED
from tests.known_world import LISTS, ListOllama, Manifest

GONE = UpstreamGoneError("no answer")
BROKEN = UpstreamRefusedError(500, "unexpected EOF")


@contextlib.asynccontextmanager
async def knowing(ollama: ListOllama) -> AsyncIterator[Known]:
    known = Known(ollama, clock=ollama.clock)
    try:
        yield known
    finally:
        await known.close()


@pytest.fixture
def ollama() -> ListOllama:
    return ListOllama(**{"a:latest": "one", "b:latest": "two"})


@pytest.fixture
async def known(ollama: ListOllama) -> AsyncIterator[Known]:
    async with knowing(ollama) as known:
        yield known


async def facts(known: Known, name: str, **options: Any) -> Facts:
    found = await known.facts(name, **options)
    assert found is not None
    return found


def blob(letter: str) -> str:
    return f"sha256-{letter * 64}"


def line(name: str, digest: str) -> Resident:
    return Resident(name=name, size_bytes=1, size_vram_bytes=1, context_length=4096, digest=digest)


async def settled(known: Known, ollama: ListOllama) -> None:
    """Wait for what goes on in the background."""
    task = known._rounds._task
    assert task is not None
    await asyncio.wait_for(asyncio.shield(task), 5)


def rename(ollama: ListOllama, name: str, digest: str, letter: str) -> None:
    """Give a name another meaning behind everybody's back."""
    ollama.models[name] = Manifest(digest, blob=letter)


# ------------------------------------------------------------------------------- asked once


async def test_a_model_is_listed_and_shown_once_whatever_its_spelling(
    known: Known, ollama: ListOllama
) -> None:
    found = [await facts(known, name) for name in ("a", "A:latest", "library/a", "a:local")]
    assert all(one is found[0] for one in found)
    assert ollama.asked == ["tags", "show a:latest"]
    assert found[0].size_bytes == 100


async def test_many_who_ask_at_once_cause_one_question(known: Known, ollama: ListOllama) -> None:
    await asyncio.gather(*(known.facts(name) for name in ["a", "b"] * 20))
    assert sorted(ollama.asked) == ["show a:latest", "show b:latest", "tags"]


async def test_copies_are_one_model_under_names_of_their_own(ollama: ListOllama) -> None:
    ollama.models["copy:latest"] = Manifest("one")
    async with knowing(ollama) as known:
        first, copy = await facts(known, "a"), await facts(known, "copy")
        again = await facts(known, "copy")
    assert (first.name, copy.name) == ("a:latest", "copy:latest")
    assert first.key == copy.key
    assert again is copy, "others compare by identity"
    assert ollama.asked == ["tags", "show a:latest"]


async def test_a_digest_is_asked_for_once_for_all_its_names_at_once(ollama: ListOllama) -> None:
    ollama.models["copy:latest"] = Manifest("one")
    async with knowing(ollama) as known:
        await asyncio.gather(known.facts("a"), known.facts("copy"))
    assert len([question for question in ollama.asked if question.startswith("show")]) == 1


async def test_a_name_for_the_cloud_is_no_model_here(known: Known, ollama: ListOllama) -> None:
    assert await known.facts("a:cloud") is None
    assert ollama.asked == []


@pytest.mark.parametrize("name", ["nobody", "", "a b", "../x"])
async def test_a_name_of_nothing_is_none(known: Known, name: str) -> None:
    assert await known.facts(name) is None
    assert [row.line.name for row in known.models()] == ["a:latest", "b:latest"]


async def test_what_runs_elsewhere_is_not_shown(ollama: ListOllama) -> None:
    ollama.models["mine:latest"] = Manifest(
        "far",
        listed={
            "remote_host": "https://ollama.com:443",
            "capabilities": ["completion", 7],
            "details": {"context_length": 131072},
        },
    )
    async with knowing(ollama) as known:
        found = await facts(known, "mine")
    assert (found.remote, found.size_bytes, found.context_length) == (True, 0, 131072)
    assert found.capabilities == {"completion"}
    assert ollama.asked == ["tags"]


# ------------------------------------------------------------------------------- lists


async def test_the_lists_of_a_model_are_asked_for_where_they_matter(ollama: ListOllama) -> None:
    heads = {"general.architecture": "a", "a.block_count": 2, "a.embedding_length": 64}
    ollama.models["a:latest"] = Manifest(
        "one",
        shown={"model_info": {**heads, "a.attention.head_count": 4, **LISTS}},
        verbose={
            "model_info": {
                **heads,
                "a.attention.head_count": 4,
                "a.attention.head_count_kv": [2, 0],
            }
        },
    )
    async with knowing(ollama) as known:
        found = await facts(known, "a")
    assert found.shape is not None
    assert found.shape.kv_heads == (2, 0)
    assert ollama.asked == ["tags", "show a:latest", "show a:latest verbose"]


async def test_without_its_lists_a_model_is_known_all_the_same(ollama: ListOllama) -> None:
    ollama.models["a:latest"].shown = {"model_info": LISTS}
    ollama.broken["show a:latest verbose"] = BROKEN
    async with knowing(ollama) as known:
        assert (await facts(known, "a")).key == blob("a")
        assert (await facts(known, "a")).key == blob("a")
    assert ollama.asked == ["tags", "show a:latest", "show a:latest verbose"]


@pytest.mark.parametrize(
    ("info", "verbosely"),
    [
        ({"a.attention.head_count_kv": None}, True),
        ({"a.attention.head_count_kv": []}, True),
        ({"a.feed_forward_length": None}, True),
        ({"a.attention.sliding_window_pattern": None}, True),
        ({"a.attention.head_count_kv": 8}, False),
        ({"a.attention.head_count_kv": [8, 8]}, False),
        ({"a.rope.dimension_sections": None, "tokenizer.ggml.tokens": None}, False),
        ({"b.attention.head_count_kv": None}, False),
        ({}, False),
    ],
)
async def test_a_model_is_shown_verbosely_only_where_a_list_that_matters_is_missing(
    known: Known, ollama: ListOllama, info: dict[str, Any], verbosely: bool
) -> None:
    ollama.models["a:latest"].shown = {"model_info": {"general.architecture": "a", **info}}
    await known.facts("a")
    assert ("show a:latest verbose" in ollama.asked) is verbosely


# ------------------------------------------------------------------------------- how long


async def test_a_fresh_listing_is_believed_and_an_old_one_is_not(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    rename(ollama, "a:latest", "three", "c")
    ollama.now += FRESH_S - 1
    assert (await facts(known, "a")).key == blob("a")
    assert ollama.asked.count("tags") == 1
    ollama.now += BELIEVED_S
    assert (await facts(known, "a")).key == blob("c")
    assert ollama.asked == ["tags", "show a:latest", "tags", "show a:latest"]


async def test_between_the_two_nobody_waits_for_the_new_listing(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    rename(ollama, "a:latest", "three", "c")
    ollama.now += FRESH_S + 1
    async with ollama.holding("tags") as asked:
        assert (await facts(known, "a")).key == blob("a")
        await asyncio.wait_for(asked.wait(), 5)
    await settled(known, ollama)
    assert (await facts(known, "a")).key == blob("c")


async def test_strictly_asked_a_name_is_listed_anew(known: Known, ollama: ListOllama) -> None:
    await known.facts("a")
    rename(ollama, "a:latest", "three", "c")
    assert (await facts(known, "a", strict=True)).key == blob("c")


async def test_an_unchanged_model_is_not_shown_again(known: Known, ollama: ListOllama) -> None:
    for _ in range(5):
        await known.facts("a")
        ollama.now += BELIEVED_S + 1
    assert ollama.asked == ["tags", "show a:latest", "tags", "tags", "tags", "tags"]


async def test_what_was_known_is_believed_while_the_upstream_is_away(
    known: Known, ollama: ListOllama
) -> None:
    before = await facts(known, "a")
    ollama.broken["everything"] = GONE
    ollama.now += BELIEVED_S + 1
    assert await known.facts("a") is before
    assert await known.facts("a") is before
    assert ollama.asked.count("tags") == 2, "nobody waits twice for one that is away"
    with pytest.raises(UpstreamGoneError):
        await known.facts("b")
    with pytest.raises(UpstreamGoneError):
        await known.facts("nobody")
    del ollama.broken["everything"]
    assert (await facts(known, "b")).name == "b:latest"


async def test_what_is_believed_is_told_without_asking(ollama: ListOllama) -> None:
    ollama.models["copy:latest"] = Manifest("one")
    async with knowing(ollama) as known:
        assert known.believed("a") is None
        assert known.may_have("nothing")
        found = await facts(known, "a"), await facts(known, "copy")
        ollama.broken["everything"] = GONE
        asked = len(ollama.asked)
        assert (known.believed("A:latest"), known.believed("copy")) == found
        # It is listed, and nobody has asked yet what it is.
        assert known.believed("b") is None
        assert known.may_have("b")
        assert known.believed("nothing") is None
        assert not known.may_have("nothing")
        assert known.believed("a:cloud") is None
    assert len(ollama.asked) == asked


async def test_without_digests_a_model_is_believed_by_its_name(ollama: ListOllama) -> None:
    ollama.models = {"a:latest": Manifest("")}
    async with knowing(ollama) as known:
        found = await facts(known, "a")
        assert known.believed("a") is found


async def test_a_model_gone_from_the_list_is_known_no_more(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    del ollama.models["a:latest"]
    ollama.now += BELIEVED_S + 1
    assert await known.facts("a") is None
    assert [row.line.name for row in known.models()] == ["b:latest"]


async def test_a_model_is_found_that_came_after_the_listing(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    rename(ollama, "new:latest", "three", "c")
    assert (await facts(known, "new")).key == blob("c")
    assert [row.line.name for row in known.models()] == ["a:latest", "b:latest", "new:latest"]


# ------------------------------------------------------------------------------- in between


@pytest.mark.parametrize("stamped", [True, False])
async def test_what_was_shown_of_another_manifest_is_not_remembered(
    known: Known, ollama: ListOllama, stamped: bool
) -> None:
    ollama.stamped = stamped
    async with ollama.holding("tags") as asked:
        listing = asyncio.create_task(known.facts("a"))
        await asyncio.wait_for(asked.wait(), 5)
        rename(ollama, "a:latest", "three", "c")
    found = await listing
    assert found is not None
    assert found.key == blob("c")
    rename(ollama, "a:latest", "one", "a")
    assert (await facts(known, "a", strict=True)).key == blob("a")


async def test_a_show_that_does_not_say_what_it_shows_is_made_sure_of(
    known: Known, ollama: ListOllama
) -> None:
    ollama.stamped = False
    await known.facts("a")
    assert ollama.asked == ["tags", "show a:latest", "tags"]


async def test_a_digest_that_two_ask_for_while_it_is_shown_is_shown_to_both(
    known: Known, ollama: ListOllama
) -> None:
    async with ollama.holding("show a:latest") as asked:
        both = asyncio.gather(known.facts("a"), known.facts("a"))
        await asyncio.wait_for(asked.wait(), 5)
        rename(ollama, "a:latest", "three", "c")
    first, second = await both
    assert first is second
    assert first is not None
    assert first.key == blob("a"), "what it meant when both asked"
    assert ollama.asked == ["tags", "show a:latest"]


async def test_a_name_that_never_holds_still_is_given_up(
    known: Known, ollama: ListOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.stamped = False
    tags, turns = ollama.tags, iter(range(100))

    async def other_each_time() -> Sequence[Any]:
        ollama.models["a:latest"].digest = f"digest {next(turns)}"
        return await tags()

    monkeypatch.setattr(ollama, "tags", other_each_time)
    with pytest.raises(UpstreamRefusedError, match="another model each time"):
        await known.facts("a")


# ------------------------------------------------------------------------------- failures


async def test_a_model_that_cannot_be_shown_spoils_no_other(
    known: Known, ollama: ListOllama
) -> None:
    ollama.broken["show a:latest"] = BROKEN
    with pytest.raises(UpstreamRefusedError, match="unexpected EOF"):
        await known.facts("a")
    assert (await facts(known, "b")).name == "b:latest"
    rows = {row.line.name: row for row in known.models()}
    assert (rows["a:latest"].problem, rows["a:latest"].facts) == ("unexpected EOF", None)
    assert rows["b:latest"].problem == ""
    del ollama.broken["show a:latest"]
    await facts(known, "a")
    assert known.models()[0].problem == ""


async def test_who_waited_for_a_failure_need_not_ask_again(
    known: Known, ollama: ListOllama
) -> None:
    ollama.broken["show a:latest"] = BROKEN
    await known.facts("b")
    async with ollama.holding("show a:latest") as asked:
        waiting = asyncio.gather(*(known.facts("a") for _ in range(20)), return_exceptions=True)
        await asyncio.wait_for(asked.wait(), 5)
    assert await waiting == [BROKEN] * 20
    # The first question was asked before the others came, so that one of them asks for all.
    assert ollama.asked.count("show a:latest") == 2


async def test_one_who_leaves_does_not_take_the_answer_along(
    known: Known, ollama: ListOllama
) -> None:
    async with ollama.holding("show a:latest") as asked:
        leaver = asyncio.create_task(known.facts("a"))
        await asyncio.wait_for(asked.wait(), 5)
        stayer = asyncio.create_task(known.facts("a"))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.wait({leaver})
    assert await stayer is not None


async def test_listed_and_yet_not_found_is_for_ollama_to_say(
    known: Known, ollama: ListOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.broken["show a:latest"] = UpstreamRefusedError(404, "model 'a' not found")
    assert await known.facts("a") is None

    async def nothing(name: str, *, verbose: bool = False) -> None:
        return None

    monkeypatch.setattr(ollama, "show", nothing)
    assert await known.facts("b") is None
    assert known.models()[1].problem == "b:latest is listed, not found"


# ------------------------------------------------------------------------------- no list


@pytest.fixture
def listless(ollama: ListOllama) -> ListOllama:
    """Its list of models is somebody else's."""
    ollama.broken["tags"] = UpstreamRefusedError(404, "404 page not found")
    return ollama


async def test_without_a_list_a_model_is_known_by_its_name_for_a_while(
    listless: ListOllama,
) -> None:
    async with knowing(listless) as known:
        before = await facts(known, "a")
        assert await known.facts("A") is before
        assert listless.asked.count("show a") == 1
        assert [row.facts for row in known.models()] == [before]
        rename(listless, "a:latest", "three", "c")
        listless.now += BELIEVED_S + 1
        assert (await facts(known, "a")).key == blob("c")
        listless.broken["everything"] = GONE
        listless.now += BELIEVED_S + 1
        assert (await facts(known, "a")).key == blob("c")
        del listless.broken["everything"]
        del listless.models["a:latest"]
        assert await known.facts("a") is None
        assert known.models() == []


async def test_without_a_list_a_change_is_asked_for_at_once_as_well(
    listless: ListOllama,
) -> None:
    async with knowing(listless) as known:
        await known.facts("a")
        with known.changing(["a"]):
            rename(listless, "a:latest", "three", "c")
        assert (await facts(known, "a")).key == blob("c")


async def test_without_digests_a_model_is_known_by_its_name(ollama: ListOllama) -> None:
    for manifest in ollama.models.values():
        manifest.listed["digest"] = None
    async with knowing(ollama) as known:
        assert (await facts(known, "a")).size_bytes == 100
        assert [row.facts is not None for row in known.models()] == [True, False]
        await known.facts("a")
    assert ollama.asked.count("show a") == 1


async def test_a_list_that_fails_once_is_the_last_one_still(
    known: Known, ollama: ListOllama
) -> None:
    before = await facts(known, "a")
    ollama.broken["tags"] = BROKEN
    assert await known.facts("a", strict=True) is before


@pytest.mark.parametrize(
    "tags",
    [
        [{}],
        [{"name": 7}],
        [{"name": "a", "size": "much", "digest": 5, "details": "x", "capabilities": "y"}],
        [{"model": "a"}],
        [{"name": "", "model": "a:latest"}],
        [{"name": "not a name/at all/x/y:z"}],
    ],
)
def test_an_odd_list_is_read_as_far_as_it_goes(tags: list[dict[str, Any]]) -> None:
    for one in read_tags(tags).values():
        assert (one.digest, one.size_bytes, one.context_length) == ("", 0, None)


def test_of_a_tag_that_is_called_cloud_nothing_is_cut_off() -> None:
    lines = read_tags([{"name": "a:cloud"}, {"name": "a:latest"}, {"name": "A:latest"}])
    assert [one.name for one in lines.values()] == ["a:cloud", "a:latest"]


# ------------------------------------------------------------------------------- changes


async def test_after_a_change_through_the_gate_a_name_is_asked_for_at_once(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    with known.changing(["a"]):
        rename(ollama, "a:latest", "three", "c")
    assert (await facts(known, "a")).key == blob("c")


async def test_while_a_name_changes_each_question_is_asked_anew(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("b")
    with known.changing(["A:latest"]):
        assert (await facts(known, "a")).key == blob("a")
        rename(ollama, "a:latest", "three", "c")
        assert (await facts(known, "a")).key == blob("c"), "the change has not ended yet"
        asked = ollama.asked.count("tags")
        await known.facts("b")
        assert ollama.asked.count("tags") == asked, "of another name it is not doubted"


async def test_a_change_that_cannot_be_read_may_be_of_any_name(
    known: Known, ollama: ListOllama
) -> None:
    with known.changing([]):
        await known.facts("a")
        rename(ollama, "a:latest", "three", "c")
        assert (await facts(known, "a")).key == blob("c")


async def test_two_changes_of_a_name_at_once_end_one_by_one(
    known: Known, ollama: ListOllama
) -> None:
    with known.changing(["a"]):
        with known.changing(["a"]):
            pass
        await known.facts("a")
        rename(ollama, "a:latest", "three", "c")
        assert (await facts(known, "a")).key == blob("c")
    await settled(known, ollama)
    asked = ollama.asked.count("tags")
    await known.facts("a")
    assert ollama.asked.count("tags") == asked


async def test_a_listing_from_before_a_change_is_not_believed_after_it(
    known: Known, ollama: ListOllama
) -> None:
    # Both are known, so that no answer of /api/show gives the change away.
    rename(ollama, "b:latest", "three", "b")
    await known.facts("a")
    await known.facts("b")
    ollama.now += BELIEVED_S + 1
    async with ollama.holding("tags") as asked:
        waiting = asyncio.create_task(known.facts("a"))
        await asyncio.wait_for(asked.wait(), 5)
        ollama.models["a:latest"] = ollama.models["b:latest"]
        known.forget()
    found = await waiting
    assert found is not None
    assert found.key == blob("b")


async def test_after_a_change_what_is_new_is_shown_in_the_background(
    known: Known, ollama: ListOllama
) -> None:
    with known.changing(["new"]):
        rename(ollama, "new:latest", "three", "c")
    await settled(known, ollama)
    assert [row.line.name for row in known.models() if row.facts] == [
        "a:latest",
        "b:latest",
        "new:latest",
    ]


# ------------------------------------------------------------------------------- runners


async def test_a_runner_is_what_its_digest_says_and_not_its_name(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    rename(ollama, "a:latest", "three", "c")
    known.forget()
    await known.facts("a")
    (runner,) = await known.of_runners([line("a:latest", "one")])
    assert runner is not None
    assert (runner.key, runner.name) == (blob("a"), "a:latest")
    assert known.model_of("one") == blob("a")


async def test_a_runner_under_the_name_of_a_copy_keeps_it(ollama: ListOllama) -> None:
    ollama.models["copy:latest"] = Manifest("one")
    async with knowing(ollama) as known:
        found = await known.of_runners([line("copy:latest", "one"), line("a:latest", "one")])
    assert [one.name for one in found if one] == ["copy:latest", "a:latest"]


async def test_a_runner_that_nobody_asked_for_is_looked_up(
    known: Known, ollama: ListOllama
) -> None:
    await known.facts("a")
    rename(ollama, "new:latest", "three", "c")
    (runner,) = await known.of_runners([line("new:latest", "three")])
    assert runner is not None
    assert runner.key == blob("c")


async def test_a_runner_whose_model_is_gone_is_looked_for_once(
    known: Known, ollama: ListOllama
) -> None:
    for _ in range(5):
        assert await known.of_runners([line("a:latest", "zero")]) == [None]
        assert await known.of_runners([line("gone:latest", "nought")]) == [None]
    assert ollama.asked.count("tags") == 10, "each came anew"
    ollama.asked.clear()
    both = [line("a:latest", "zero"), line("gone:latest", "nought")]
    for _ in range(5):
        assert await known.of_runners(both) == [None, None]
    assert ollama.asked == ["tags"]
    assert known.model_of("zero") == "zero"


async def test_a_runner_that_cannot_be_shown_is_nobodys(known: Known, ollama: ListOllama) -> None:
    ollama.broken["show a:latest"] = BROKEN
    assert await known.of_runners([line("a:latest", "one")]) == [None]


async def test_runners_cannot_be_told_without_an_answer(known: Known, ollama: ListOllama) -> None:
    ollama.broken["everything"] = GONE
    with pytest.raises(UpstreamGoneError):
        await known.of_runners([line("a:latest", "one")])


async def test_where_nothing_is_listed_a_runner_is_what_its_name_says(
    listless: ListOllama,
) -> None:
    async with knowing(listless) as known:
        wanted = await facts(known, "a")
        for digest in ("one", ""):
            (runner,) = await known.of_runners([line("a:latest", digest)])
            assert runner is not None
            assert runner.key == wanted.key
        listless.broken["show nobody:latest"] = BROKEN
        assert await known.of_runners([line("nobody:latest", "x")]) == [None]


# ------------------------------------------------------------------------------- all of them


async def test_all_models_are_looked_at_one_by_one_when_somebody_looks(
    known: Known, ollama: ListOllama
) -> None:
    assert known.models() == []
    known.look()
    assert known.models() == [], "who looks does not wait"
    await settled(known, ollama)
    assert [row.facts is not None for row in known.models()] == [True, True]
    assert ollama.asked == ["tags", "show a:latest", "show b:latest"]
    known.look()
    assert known._rounds._task is not None
    assert known._rounds._task.done(), "looked at a moment ago"
    ollama.now += LOOK_S + 1
    known.look()
    await settled(known, ollama)
    assert ollama.asked[3:] == ["tags"]


async def test_a_background_round_never_asks_for_two_at_once(ollama: ListOllama) -> None:
    async with knowing(ollama) as known, ollama.holding("show a:latest") as asked:
        known.wake()
        await asyncio.wait_for(asked.wait(), 5)
        known.wake()
        assert await known.facts("b") is not None, "and is in nobody's way"
        assert ollama.asked == ["tags", "show a:latest", "show b:latest"]


async def test_a_broken_model_is_tried_again_only_after_a_while(
    known: Known, ollama: ListOllama
) -> None:
    ollama.broken["show a:latest"] = BROKEN
    for _ in range(3):
        known.wake()
        await settled(known, ollama)
    assert ollama.asked.count("show a:latest") == 1
    assert [row.facts is not None for row in known.models()] == [False, True]
    ollama.now += RETRY_S
    known.wake()
    await settled(known, ollama)
    assert ollama.asked.count("show a:latest") == 2


async def test_a_round_ends_when_the_upstream_goes_and_begins_again_when_woken(
    known: Known, ollama: ListOllama
) -> None:
    ollama.broken["show b:latest"] = GONE
    known.wake()
    await settled(known, ollama)
    assert [row.facts is not None for row in known.models()] == [True, False]
    del ollama.broken["show b:latest"]
    known.wake()
    await settled(known, ollama)
    assert [row.facts is not None for row in known.models()] == [True, True]


async def test_a_fault_in_a_round_is_logged_and_ends_nothing_else(
    known: Known,
    ollama: ListOllama,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Callable[[], Awaitable[None]]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(ollama, "tags", broken)
        known.wake()
        await settled(known, ollama)
    assert "ZeroDivisionError" in caplog.text
    known.wake()
    await settled(known, ollama)
    assert len(known.models()) == 2


async def test_what_is_asked_in_the_background_ends_with_the_gate(ollama: ListOllama) -> None:
    async with knowing(ollama) as known, ollama.holding("show a:latest") as asked:
        known.wake()
        await asyncio.wait_for(asked.wait(), 5)
        await known.close()
        task = known._rounds._task
        assert task is not None
        assert task.cancelled()


async def test_models_of_the_past_are_remembered_up_to_a_limit(
    known: Known, ollama: ListOllama
) -> None:
    for number in range(REMEMBERED + 5):
        rename(ollama, "b:latest", f"digest {number}", "c")
        await facts(known, "b", strict=True)
    assert len(known._shows.facts) <= REMEMBERED + 1
    assert known.model_of(f"digest {REMEMBERED + 3}") == blob("c")
    assert known.model_of("digest 0") == "digest 0"
