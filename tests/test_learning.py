"""What is learned of runners: from what, when, and what it says of others."""

import csv
import itertools
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.footprint import (
    GIB,
    MIB,
    PROCESS_BYTES,
    Book,
    Facts,
    Figure,
    Key,
    Lesson,
    Overhead,
    Seen,
    Settings,
    Shown,
    batch_of,
    estimate,
    parallel_of,
    read_show,
    unreported_bytes,
)
from ollama_gate.footprint.learning import KEPT_CONTEXTS, era, hides_a_cache, remembers_free
from ollama_gate.footprint.sightings import Sightings
from ollama_gate.scheduler.types import Launch, ModelKey
from tests.models import model

DATA = Path(__file__).parent / "data"

SMALL = Settings(total_bytes=12 * GIB, version="0.32.15")
SEEN = 4_600_000_000


def sliding() -> Facts:
    """The same, half of whose layers see a window only."""
    shape = model().shape
    assert shape is not None
    return model(shape=replace(shape, window=1024, local=(True, False) * 16))


def show(name: str, size_bytes: int) -> Facts:
    answer = json.loads((DATA / f"show_{name}.json").read_text(encoding="utf-8"))
    return read_show(name, answer, size_bytes, digest="d1")


class Ollama:
    """Loads one runner after another, and a book that reads `/api/ps` twice of each."""

    def __init__(self, settings: Settings = SMALL) -> None:
        self.book = Book()
        self.settings = settings
        self.now = 0.0

    def shows(
        self,
        size: int,
        vram: int | None = None,
        facts: Facts | None = None,
        *,
        launch: Launch | None = None,
        on_cpu_bin: bool = False,
    ) -> Seen:
        """One line of one answer."""
        shown = Shown(
            size_bytes=size,
            size_vram_bytes=size if vram is None else vram,
            now=self.now,
            at=1e9 + self.now,
        )
        facts, launch = facts or model(), launch or Launch()
        seen = self.book.see(facts, launch, self.settings, shown, on_cpu_bin=on_cpu_bin)
        self.book.listed()
        return seen

    def loads(
        self, size: int, vram: int | None = None, facts: Facts | None = None, **more: Any
    ) -> int:
        """A whole life of a runner; what was booked for it in the end."""
        self.shows(size, vram, facts, **more)
        self.now += 2.0
        booked = self.shows(size, vram, facts, **more).booked_bytes
        self.book.listed()
        self.now += 60.0
        return booked

    def need(
        self, facts: Facts | None = None, *, on_cpu_bin: bool = False, **options: Any
    ) -> tuple[int, str]:
        need, source = self.book.need(
            facts or model(), Launch(**options), self.settings, on_cpu_bin=on_cpu_bin
        )
        return need.footprint_bytes, source


@pytest.fixture
def ollama() -> Ollama:
    return Ollama()


# ------------------------------------------------------------------------------- what is booked


def test_what_was_seen_is_booked_from_then_on(ollama: Ollama) -> None:
    assert ollama.loads(SEEN) == SEEN + PROCESS_BYTES
    assert ollama.need() == (SEEN + PROCESS_BYTES, "learned")


def test_what_was_configured_is_booked_whatever_was_seen(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    need, source = ollama.book.need(model(), Launch(), SMALL, configured_bytes=5 * GIB)
    assert (need.footprint_bytes, source) == (5 * GIB, "configured")
    off_card, _ = ollama.book.need(model(), Launch(num_gpu=0), SMALL, configured_bytes=5 * GIB)
    assert off_card.footprint_bytes == 0


def test_what_was_seen_says_nothing_of_another_set_up(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    book = ollama.book
    assert book.need(model(), Launch(), replace(SMALL, num_parallel=2))[1] == "estimated"
    assert book.need(model(), Launch(), replace(SMALL, kv_cache_type="q8_0"))[1] == "estimated"
    assert book.need(model(), Launch(), SMALL, on_cpu_bin=True)[1] == "estimated"
    assert book.need(model(key=ModelKey("other")), Launch(), SMALL)[1] == "estimated"
    assert book.need(model(), Launch(num_batch=64), SMALL)[1] == "estimated"
    assert book.need(model(), Launch(extras=("adapter",)), SMALL)[1] == "estimated"


def test_what_was_seen_holds_for_aliases_and_for_options_that_take_no_memory(
    ollama: Ollama,
) -> None:
    ollama.loads(SEEN, launch=Launch(num_ctx=4096))
    assert ollama.need(model(name="alias"), num_thread=2)[1] == "learned"
    assert ollama.need(num_gpu=-1) == ollama.need(num_gpu=99) == ollama.need()


def test_two_books_do_not_share_what_they_know(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    assert Ollama().need()[1] == "estimated"


def test_safety_is_a_factor_on_estimates_alone(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    ollama.settings = replace(SMALL, safety=1.5)
    assert ollama.need() == (SEEN + PROCESS_BYTES, "learned")
    assert ollama.shows(1).booked_bytes == estimate(model(), Launch(), ollama.settings).total_bytes


def test_the_overhead_that_a_card_taught_is_added_to_what_was_seen(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    ollama.settings = replace(SMALL, overhead_bytes=300 * MIB)
    assert ollama.need() == (SEEN + 300 * MIB, "learned")


# ------------------------------------------------------------------------------- what is believed


def test_a_runner_that_is_partly_on_the_cpu_teaches_no_size(ollama: Ollama) -> None:
    assert ollama.shows(SEEN, 3_000_000_000).booked_bytes == 3_000_000_000 + PROCESS_BYTES
    assert ollama.shows(SEEN, 0).booked_bytes == PROCESS_BYTES
    ollama.loads(SEEN, 3_000_000_000)
    assert ollama.need()[1] == "estimated"
    (lesson,) = lessons(ollama)
    assert lesson.unfit == {4096}


def test_what_fits_after_all_is_no_longer_said_not_to(ollama: Ollama) -> None:
    ollama.loads(SEEN, 3_000_000_000)
    ollama.loads(SEEN)
    (lesson,) = lessons(ollama)
    assert lesson.unfit == set()


def test_a_part_that_was_asked_for_is_learned_for_its_own_context(ollama: Ollama) -> None:
    half = Launch(num_gpu=16)
    ollama.loads(SEEN, 2_000_000_000, launch=half)
    assert ollama.need(num_gpu=16) == (2_000_000_000 + PROCESS_BYTES, "learned")
    assert ollama.need(num_gpu=16, num_ctx=8192)[1] == "estimated"
    assert ollama.need()[1] == "estimated"


@pytest.mark.parametrize("shown", [1_030_000_000, 2_729_999_999, 0])
def test_a_figure_that_cannot_be_true_is_not_believed(ollama: Ollama, shown: int) -> None:
    guess = estimate(model(), Launch(), SMALL).total_bytes
    assert ollama.loads(shown) == guess
    assert ollama.need() == (guess, "estimated")


def test_more_on_the_card_than_there_is_of_it_is_not_believed(ollama: Ollama) -> None:
    ollama.loads(SEEN, SEEN + 1)
    assert ollama.need()[1] == "estimated"


def test_an_embedding_model_may_report_half_its_file(ollama: Ollama) -> None:
    facts = replace(show("all-minilm", 45_960_996), weights_bytes=None, tensors_bytes=None)
    ollama.loads(21_000_000, facts=facts)
    assert ollama.need(facts)[1] == "learned"


@pytest.mark.parametrize("architecture", ["gemma3n", "gemma4"])
def test_a_model_that_stays_in_host_memory_in_part_may_report_less_than_its_file(
    ollama: Ollama, architecture: str
) -> None:
    facts = model(weights_bytes=None, architecture=architecture)
    ollama.loads(2_000_000_000, facts=facts)
    assert ollama.need(facts)[1] == "learned"


def test_without_a_list_of_tensors_the_file_says_what_is_plausible(ollama: Ollama) -> None:
    facts = model(weights_bytes=None)
    ollama.loads(2_700_000_000, facts=facts)
    assert ollama.need(facts)[1] == "estimated"
    ollama.loads(2_800_000_000, facts=facts)
    assert ollama.need(facts)[1] == "learned"


def test_a_sliding_windows_report_only_ever_raises_the_estimate(ollama: Ollama) -> None:
    guess = estimate(sliding(), Launch(), SMALL).total_bytes
    assert ollama.loads(guess - PROCESS_BYTES - 1, facts=sliding()) == guess
    assert ollama.need(sliding()) == (guess, "learned")
    assert ollama.loads(2 * guess, facts=sliding()) == 2 * guess + PROCESS_BYTES
    assert ollama.need(sliding()) == (2 * guess + PROCESS_BYTES, "learned")


def test_an_ollama_that_adds_up_both_caches_is_believed(ollama: Ollama) -> None:
    ollama.settings = replace(SMALL, version="0.24.0")
    guess = estimate(sliding(), Launch(), ollama.settings).size_vram_bytes
    assert ollama.loads(guess - 100 * MIB, facts=sliding()) == guess - 100 * MIB + PROCESS_BYTES
    assert ollama.need(sliding()) == (guess - 100 * MIB + PROCESS_BYTES, "learned")


@pytest.mark.parametrize(
    ("version", "hides"),
    [("0.29.9", False), ("0.30.0", True), ("v0.33.0-rc2", True), ("", True), ("0.0.0", True)],
)
def test_which_versions_hide_a_cache(version: str, hides: bool) -> None:
    assert hides_a_cache(sliding(), version) is hides
    assert not hides_a_cache(model(), version)


def test_a_projector_is_added_to_what_ollama_shows(ollama: Ollama) -> None:
    facts = model(projector_bytes=600 * MIB)
    booked = ollama.loads(SEEN, facts=facts)
    assert booked == SEEN + unreported_bytes(facts, SMALL, on_cpu_bin=False)
    assert booked > SEEN + PROCESS_BYTES + 600 * MIB
    assert ollama.need(facts) == (booked, "learned")


def test_on_a_cpu_the_whole_size_is_the_footprint(ollama: Ollama) -> None:
    assert ollama.loads(SEEN, 0, on_cpu_bin=True) == SEEN
    assert ollama.need(on_cpu_bin=True) == (SEEN, "learned")


def test_a_runner_off_the_card_is_booked_with_nothing(ollama: Ollama) -> None:
    assert ollama.loads(SEEN, 0, launch=Launch(num_gpu=0)) == 0
    assert ollama.need(num_gpu=0)[0] == 0
    assert lessons(ollama) == []


# ------------------------------------------------------------------------------- when it counts


def test_a_figure_counts_when_it_was_shown_twice_and_stood_for_a_second(ollama: Ollama) -> None:
    ollama.shows(SEEN)
    ollama.now = 0.9
    ollama.shows(SEEN)
    assert ollama.need()[1] == "estimated"
    ollama.now = 1.0
    ollama.shows(SEEN)
    assert ollama.need()[1] == "learned"


def test_a_figure_that_still_moves_does_not_count(ollama: Ollama) -> None:
    for size in (SEEN, SEEN + 1, SEEN + 2):
        ollama.shows(size)
        ollama.now += 5.0
    assert ollama.need()[1] == "estimated"
    ollama.shows(SEEN + 2)
    assert ollama.need() == (SEEN + 2 + PROCESS_BYTES, "learned")


def test_one_runner_counts_once_however_long_it_is_listed(ollama: Ollama) -> None:
    for _ in range(10):
        ollama.shows(SEEN)
        ollama.now += 2.0
    (lesson,) = lessons(ollama)
    assert lesson.figures[4096].count == 1


def test_a_runner_that_was_gone_in_between_counts_again() -> None:
    sightings = Sightings()
    for begin in (0.0, 100.0):
        assert not sightings.confirm("runner", 1, begin)
        assert sightings.confirm("runner", 1, begin + 2.0)
        sightings.keep({"another"})


# ------------------------------------------------------------------------------- up and down


def test_a_figure_jumps_up_at_once() -> None:
    assert Figure(bytes=100).saw(150) == Figure(bytes=150, count=2)


def test_a_figure_comes_down_slowly_after_three_lower_ones_in_a_row() -> None:
    figure = Figure(bytes=1000)
    came_to = []
    for _ in range(5):
        figure = figure.saw(500)
        came_to.append(figure.bytes)
    assert came_to == [1000, 1000, 900, 820, 756]
    again = figure.saw(756)
    assert (again.bytes, again.lower) == (756, 0)
    assert again.saw(500).bytes == 756


@given(start=st.integers(0, 2**40), seen=st.lists(st.integers(0, 2**40)))
def test_a_figure_stays_within_what_was_seen(start: int, seen: list[int]) -> None:
    figure = Figure(bytes=start)
    for one in seen:
        figure = figure.saw(one)
        assert one <= figure.bytes
        assert min([start, *seen]) <= figure.bytes <= max([start, *seen])
    assert figure.count == 1 + len(seen)


@given(start=st.integers(0, 2**40), lower=st.integers(0, 2**40))
def test_a_lasting_lower_figure_is_reached_in_the_end(start: int, lower: int) -> None:
    figure = Figure(bytes=max(start, lower))
    for _ in range(400):
        figure = figure.saw(min(start, lower))
    assert figure.bytes == min(start, lower)


# ------------------------------------------------------------------------------- bumps


def test_after_running_out_of_memory_more_is_booked_up_to_a_quarter(ollama: Ollama) -> None:
    guess, _ = ollama.need()
    for percent in (5, 10, 15, 20, 25, 25):
        ollama.book.ran_out(model(), Launch(num_ctx=4096), SMALL)
        assert ollama.need() == (guess + guess * percent // 100, "estimated")


def test_a_bump_is_added_to_what_was_learned_and_not_to_the_process(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    ollama.book.ran_out(model(), Launch(), SMALL)
    assert ollama.need() == (SEEN + SEEN * 5 // 100 + PROCESS_BYTES, "learned")


def test_a_bump_is_taken_back_when_the_model_has_fitted_three_times(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    ollama.book.ran_out(model(), Launch(), SMALL)
    for _ in range(2):
        ollama.loads(SEEN)
    assert ollama.need()[0] > SEEN + PROCESS_BYTES
    ollama.loads(SEEN)
    assert ollama.need() == (SEEN + PROCESS_BYTES, "learned")


def test_an_unexpected_offload_is_a_bump_and_one_that_had_to_be_is_none(ollama: Ollama) -> None:
    guess, _ = ollama.need()
    ollama.loads(SEEN, 3_000_000_000)
    assert ollama.need()[0] == guess + guess * 5 // 100
    narrow = Ollama(replace(SMALL, total_bytes=4 * GIB))
    guess, _ = narrow.need()
    narrow.loads(SEEN, 3_000_000_000)
    assert narrow.need()[0] == guess


def test_a_bump_is_of_its_own_set_up_alone(ollama: Ollama) -> None:
    guess = ollama.need(num_batch=64)
    ollama.book.ran_out(model(), Launch(), SMALL)
    assert ollama.need(num_batch=64) == guess


# ------------------------------------------------------------------------------- versions


def test_the_next_version_believes_what_its_own_era_has_seen_until_it_sees_itself(
    ollama: Ollama,
) -> None:
    ollama.loads(SEEN)
    ollama.settings = replace(SMALL, version="0.33.1")
    assert ollama.need() == (SEEN + PROCESS_BYTES, "learned")
    ollama.loads(SEEN - 100 * MIB)
    assert ollama.need() == (SEEN - 100 * MIB + PROCESS_BYTES, "learned")
    ollama.settings = SMALL
    assert ollama.need() == (SEEN + PROCESS_BYTES, "learned")


def test_a_bump_goes_over_to_the_next_version(ollama: Ollama) -> None:
    ollama.loads(SEEN)
    ollama.book.ran_out(model(), Launch(), SMALL)
    ollama.settings = replace(SMALL, version="0.33.1")
    before, _ = ollama.need()
    ollama.loads(SEEN)
    assert ollama.need()[0] == before > SEEN + PROCESS_BYTES


@pytest.mark.parametrize("old", ["0.24.0", "0.9.6"])
@pytest.mark.parametrize("shown", [3 * GIB, 5 * GIB, 40 * GIB])
def test_another_eras_figure_moves_an_estimate_within_its_error_alone(old: str, shown: int) -> None:
    ollama = Ollama(replace(SMALL, version=old))
    ollama.loads(shown)
    ollama.settings = SMALL
    guess = estimate(model(), Launch(), SMALL)
    need, source = ollama.need()
    assert source == "estimated"
    nearest = min(
        max(shown + PROCESS_BYTES, guess.total_bytes - guess.error_bytes),
        guess.total_bytes + guess.error_bytes,
    )
    assert need == nearest


def test_eras_are_told_apart_by_the_version() -> None:
    versions = ["0.9.6", "0.12.10", "0.12.11", "0.24.0", "0.30.0", "0.32.15", "1.0.0", "", "main"]
    assert [era(version) for version in versions] == [2, 2, 1, 1, 0, 0, 0, 0, 0]


def test_since_its_llama_server_ollama_remembers_what_was_free() -> None:
    versions = ["0.24.0", "0.29.9", "0.30.0-rc1", "0.32.15", "0.0.0", ""]
    assert [remembers_free(version) for version in versions] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_of_many_versions_the_last_few_are_kept(ollama: Ollama) -> None:
    for minor in range(30, 40):
        ollama.settings = replace(SMALL, version=f"0.{minor}.0")
        ollama.loads(SEEN + minor)
    assert len(lessons(ollama)) == 4
    assert ollama.need() == (SEEN + 39 + PROCESS_BYTES, "learned")
    key = Key.of(model(), Launch(), SMALL, on_cpu_bin=False)
    assert ollama.book.lesson(key, "0.30.0") is None
    assert (key, "0.30.0") in ollama.book.changed


def test_of_many_contexts_the_last_ones_are_kept(ollama: Ollama) -> None:
    for turn in range(KEPT_CONTEXTS + 8):
        ollama.loads(SEEN, launch=Launch(num_ctx=4096 + turn))
    (lesson,) = lessons(ollama)
    assert set(lesson.figures) == {4096 + turn for turn in range(8, KEPT_CONTEXTS + 8)}


def test_a_model_that_is_gone_is_forgotten_and_others_are_not(ollama: Ollama) -> None:
    other = model(key=ModelKey("other"))
    ollama.loads(SEEN)
    ollama.loads(SEEN, facts=other)
    ollama.book.changed.clear()
    revision = ollama.book.revision
    ollama.book.forget(model().key)
    assert ollama.need()[1] == "estimated"
    assert ollama.need(other)[1] == "learned"
    assert {key.model for key, _ in ollama.book.changed} == {model().key}
    assert ollama.book.revision > revision
    assert set(ollama.book.models()) == {other.key}


# ------------------------------------------------------------------------------- other contexts


def truths() -> list[tuple[str, int, int, str, dict[int, int]]]:
    """Of each model and set-up, llama.cpp's cache and buffers by context, without a load."""
    found: dict[tuple[str, int, int, str], dict[int, int]] = defaultdict(dict)
    with (DATA / "kv_compute_dryrun.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            slots, batch = int(row["n_seq"]), int(row["n_ubatch"])
            context = int(row["n_ctx_total"]) // slots
            if row["flash"] == "1" and int(row["n_outputs"]) >= 1:
                sizes = found[row["model"], slots, batch, row["kv_type"]]
                sizes[context] = int(row["kv_bytes"]) + int(row["compute_bytes"])
    return [(*set_up, sizes) for set_up, sizes in found.items() if len(sizes) > 1]


TRUTHS = truths()
SHAPES = json.loads((DATA / "model_info.json").read_text(encoding="utf-8"))


def facts_of(name: str, **changes: Any) -> Facts:
    facts = read_show(name, {"model_info": SHAPES[name]}, 4_000_000_000)
    # Some were tried with more context than they were trained for.
    return replace(facts, context_length=None, **changes)


def test_there_are_dry_runs_of_most_shapes() -> None:
    assert len({name for name, *_ in TRUTHS}) >= 30
    assert sum(len(sizes) for *_, sizes in TRUTHS) >= 400


@pytest.mark.parametrize("percent", [-8, 0, 8])
def test_from_one_observation_every_other_context_is_predicted_within_the_estimates_error(
    percent: int,
) -> None:
    tried, close = 0, 0
    for name, slots, batch, kv_type, sizes in TRUTHS:
        settings = replace(SMALL, num_parallel=slots, kv_cache_type=kv_type, total_bytes=10**12)
        facts = facts_of(name)
        if parallel_of(facts, slots) != slots:
            continue
        rest = facts.size_bytes + facts.size_bytes * percent // 100
        for seen_at, seen in sizes.items():
            ollama = Ollama(settings)
            ollama.loads(rest + seen, facts=facts, launch=Launch(num_ctx=seen_at, num_batch=batch))
            for context, size in sizes.items():
                launch = Launch(num_ctx=context, num_batch=batch)
                need, source = ollama.book.need(facts, launch, settings)
                guess = estimate(facts, launch, settings)
                unreported = unreported_bytes(facts, settings, on_cpu_bin=False)
                off = abs(need.footprint_bytes - unreported - rest - size)
                assert source == "learned"
                assert off <= guess.error_bytes, (name, slots, batch, kv_type, seen_at, context)
                tried += 1
                own = sum(part.error_bytes for part in guess.parts if part.what == "compute")
                close += off <= own or hides_a_cache(facts, settings.version)
    assert tried > 1000
    assert close / tried > 0.95


def test_a_batch_that_goes_with_the_context_is_predicted_within_the_error_too() -> None:
    """Ollama computes more at once where there is more context: rows of that batch alone."""
    automatic: dict[tuple[str, int, str], dict[int, int]] = defaultdict(dict)
    for name, slots, batch, kv_type, sizes in TRUTHS:
        settings = replace(SMALL, num_parallel=slots, total_bytes=10**12)
        for context, size in sizes.items():
            if batch_of(facts_of(name), Launch(num_ctx=context), settings) == batch:
                automatic[name, slots, kv_type][context] = size
    tried = 0
    for (name, slots, kv_type), sizes in automatic.items():
        facts = facts_of(name)
        settings = replace(SMALL, num_parallel=slots, kv_cache_type=kv_type, total_bytes=10**12)
        for seen_at, context in itertools.permutations(sizes, 2):
            ollama = Ollama(settings)
            shown = facts.size_bytes + sizes[seen_at]
            ollama.loads(shown, facts=facts, launch=Launch(num_ctx=seen_at))
            need, _ = ollama.need(facts, num_ctx=context)
            unreported = unreported_bytes(facts, settings, on_cpu_bin=False)
            off = abs(need - unreported - facts.size_bytes - sizes[context])
            guess = estimate(facts, Launch(num_ctx=context), settings)
            assert off <= guess.error_bytes, (name, slots, kv_type, seen_at, context)
            tried += 1
    assert tried > 100


CONTEXTS = st.sampled_from([2048, 4096, 8192, 16384, 32768, 131072])


@given(
    name=st.sampled_from(sorted(SHAPES)),
    rest=st.integers(3_000_000_000, 6_000_000_000),
    seen_at=CONTEXTS,
    wanted=CONTEXTS,
    slots=st.integers(1, 4),
)
def test_what_goes_with_no_context_is_learned_from_any(
    name: str, rest: int, seen_at: int, wanted: int, slots: int
) -> None:
    settings = replace(SMALL, num_parallel=slots, total_bytes=10**12, version="0.24.0")
    ollama, facts = Ollama(settings), facts_of(name)

    def shows(context: int) -> int:
        parts = estimate(facts, Launch(num_ctx=context), settings)
        return rest + parts.kv_bytes + parts.compute_bytes

    ollama.loads(shows(seen_at), facts=facts, launch=Launch(num_ctx=seen_at))
    need, source = ollama.need(facts, num_ctx=wanted)
    unreported = unreported_bytes(facts, settings, on_cpu_bin=False)
    assert (need, source) == (shows(wanted) + unreported, "learned")


def test_what_was_seen_with_the_very_context_stands_above_what_follows_from_another(
    ollama: Ollama,
) -> None:
    ollama.loads(SEEN, launch=Launch(num_ctx=4096))
    follows, _ = ollama.need(num_ctx=8192)
    ollama.loads(follows + 77 * MIB - PROCESS_BYTES, launch=Launch(num_ctx=8192))
    assert ollama.need(num_ctx=8192) == (follows + 77 * MIB, "learned")
    assert ollama.need(num_ctx=4096) == (SEEN + PROCESS_BYTES, "learned")


def test_of_several_contexts_the_nearest_tells(ollama: Ollama) -> None:
    def shows(context: int, more: int) -> int:
        parts = estimate(model(), Launch(num_ctx=context), SMALL)
        return parts.size_vram_bytes + more

    ollama.loads(shows(4096, 0), launch=Launch(num_ctx=4096))
    ollama.loads(shows(16384, 90 * MIB), launch=Launch(num_ctx=16384))
    assert ollama.need(num_ctx=15000)[0] == shows(15000, 90 * MIB) + PROCESS_BYTES
    assert ollama.need(num_ctx=5000)[0] == shows(5000, 0) + PROCESS_BYTES


def test_a_cache_estimated_too_large_leaves_no_small_context_without_its_weights(
    ollama: Ollama,
) -> None:
    """Half the layers slide, and nobody knows it: the cache is half of what it is taken for."""
    parts = estimate(model(), Launch(num_ctx=65536), SMALL)
    true = parts.weights_bytes + parts.kv_bytes // 2 + parts.compute_bytes
    ollama.loads(true, launch=Launch(num_ctx=65536))
    small = estimate(model(), Launch(num_ctx=4096), SMALL)
    need, _ = ollama.need(num_ctx=4096)
    assert need >= 0.7 * parts.weights_bytes + small.kv_bytes + small.compute_bytes
    middle, _ = ollama.need(num_ctx=60000)
    assert middle <= true + PROCESS_BYTES
    assert ollama.need(num_ctx=131072)[0] > true + PROCESS_BYTES


@given(
    shown=st.lists(st.tuples(CONTEXTS, st.integers(0, 10**11)), max_size=4),
    wanted=CONTEXTS,
    name=st.sampled_from(sorted(SHAPES)),
)
def test_nothing_that_is_shown_makes_a_footprint_absurdly_small(
    shown: list[tuple[int, int]], wanted: int, name: str
) -> None:
    ollama, facts = Ollama(), facts_of(name)
    for context, size in shown:
        ollama.loads(size, facts=facts, launch=Launch(num_ctx=context))
    need, _ = ollama.need(facts, num_ctx=wanted)
    weights = 0 if facts.pooling or facts.architecture.startswith("gemma3n") else facts.size_bytes
    assert need >= 0.7 * weights


# ------------------------------------------------------------------------------- overhead

A, B = ModelKey("a"), ModelKey("b")
USED = 2 * GIB


def card_at_rest(**known: Any) -> Overhead:
    """A card that was read twice, with nothing on it that moves."""
    card = Overhead(**known)
    card.listed({}, 0.0)
    card.read(USED)
    card.read(USED)
    return card


def load(
    card: Overhead,
    took: int,
    *,
    reported: int | None = 4 * GIB,
    model: ModelKey = A,
    at: float = 100.0,
) -> None:
    """A load, and the readings up to two alike after it."""
    card.load_began(model, at)
    card.read(USED + took // 2)
    card.listed({model: reported}, at + 5.0)
    card.load_ended(model, at + 5.0)
    card.read(USED + took - 100 * MIB)
    card.read(USED + took)
    card.read(USED + took)


def leave(card: Overhead, at: float) -> None:
    card.listed({}, at)
    card.read(USED)
    card.read(USED)


def test_overhead_is_what_a_load_took_beyond_what_ollama_says() -> None:
    card = card_at_rest()
    assert card.bytes is None
    load(card, 4 * GIB + 300 * MIB)
    assert card.samples == (300 * MIB,)


def test_until_there_are_three_the_default_counts_as_one_of_them() -> None:
    for samples, expected in (
        ([300 * MIB], (PROCESS_BYTES + 300 * MIB) // 2),
        ([300 * MIB, 310 * MIB], 310 * MIB),
        ([300 * MIB, 310 * MIB, 320 * MIB], 310 * MIB),
    ):
        assert Overhead(samples).bytes == expected


def test_one_wrong_sample_among_many_does_no_harm() -> None:
    assert Overhead([300 * MIB, 301 * MIB, 1400 * MIB, 302 * MIB]).bytes == int(301.5 * MIB)


def test_samples_are_kept_within_what_a_process_can_take() -> None:
    card = card_at_rest()
    load(card, 3 * GIB)
    leave(card, 200.0)
    load(card, 9 * GIB, at=300.0)
    assert card.samples == (100 * MIB, 1500 * MIB)
    assert Overhead([0, 2**40]).samples == (100 * MIB, 1500 * MIB)


def test_the_last_seven_samples_are_kept() -> None:
    assert Overhead([n * MIB for n in range(200, 220)]).samples[0] == 213 * MIB


def test_a_load_beside_another_model_tells_as_well() -> None:
    card = Overhead()
    card.listed({B: GIB}, 0.0)
    card.read(USED)
    card.read(USED)
    card.load_began(A, 100.0)
    card.listed({A: 4 * GIB, B: GIB}, 105.0)
    card.load_ended(A, 105.0)
    assert not card.read(USED + 4 * GIB + 400 * MIB)
    assert card.read(USED + 4 * GIB + 400 * MIB)
    assert card.samples == (400 * MIB,)


def test_nothing_is_learned_of_a_load_during_which_another_model_goes() -> None:
    card = Overhead()
    card.listed({B: GIB}, 0.0)
    card.read(USED)
    card.read(USED)
    load(card, 4 * GIB)
    assert card.samples == ()


def test_nothing_is_learned_while_memory_moves_before_the_load() -> None:
    card = card_at_rest()
    card.read(USED + 100 * MIB)
    load(card, 4 * GIB + 300 * MIB)
    assert card.samples == ()


def test_nothing_is_learned_of_a_load_soon_after_an_unload() -> None:
    card = card_at_rest()
    card.moved(95.0)
    card.read(USED)
    card.read(USED)
    load(card, 4 * GIB + 300 * MIB)
    assert card.samples == ()


def test_nothing_is_learned_of_a_load_that_fails_or_that_another_one_follows() -> None:
    card = card_at_rest()
    card.load_began(A, 100.0)
    card.moved(101.0)
    card.load_ended(A, 102.0)
    card.read(USED)
    assert not card.read(USED)
    leave(card, 200.0)
    card.load_began(A, 300.0)
    card.load_began(B, 301.0)
    card.load_ended(B, 305.0)
    card.listed({B: GIB}, 305.0)
    card.read(USED)
    assert not card.read(USED)


def test_nothing_is_learned_where_ollama_does_not_report_everything() -> None:
    card = card_at_rest()
    load(card, 4 * GIB + 300 * MIB, reported=None)
    assert card.samples == ()


def test_what_is_told_for_each_process_replaces_what_was_inferred() -> None:
    card = card_at_rest(samples=[900 * MIB])
    card.listed({A: GIB, B: 2 * GIB}, 100.0)
    ours = 3 * GIB + 2 * 350 * MIB
    assert not card.read(USED, ours)
    assert card.read(USED, ours)
    assert (card.samples, card.by_process) == ((350 * MIB,), True)
    assert not card.read(USED, ours)
    leave(card, 200.0)
    load(card, 4 * GIB + 800 * MIB, at=300.0)
    assert card.samples == (350 * MIB,)


def test_processes_tell_nothing_while_one_of_them_is_not_understood() -> None:
    card = card_at_rest()
    card.listed({A: GIB, B: None}, 100.0)
    for _ in range(3):
        assert not card.read(USED, 4 * GIB)


def test_what_only_its_process_adds_is_reported_and_nothing_else() -> None:
    ollama = Ollama()
    assert ollama.shows(SEEN).reported_bytes == SEEN
    assert ollama.shows(SEEN, SEEN - 1).reported_bytes is None
    assert ollama.shows(1).reported_bytes is None
    assert ollama.shows(SEEN, facts=sliding()).reported_bytes is None
    assert ollama.shows(SEEN, facts=model(projector_bytes=1)).reported_bytes is None
    assert ollama.shows(SEEN, launch=Launch(extras=("lora",))).reported_bytes is None
    assert ollama.shows(SEEN, launch=Launch(num_gpu=0)).reported_bytes is None


def lessons(ollama: Ollama) -> list[Lesson]:
    return [one for versions in ollama.book._lessons.values() for one in versions.values()]
