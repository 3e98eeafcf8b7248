"""What is seen of one upstream in one life, and known in the next."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ollama_gate.experience import Average, Experience, Times, spelling
from ollama_gate.experience.experience import ABSENT_S, DAY_S
from ollama_gate.footprint import GIB, MIB, PROCESS_BYTES, Facts, Figure, Key, Lesson, Settings
from ollama_gate.footprint import Resident as Line
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey
from ollama_gate.simulator import SimulatedOllama
from ollama_gate.simulator.demo import SimulatedCard, gate_config
from ollama_gate.site import Site
from ollama_gate.store import Keeper, Note, NoteId

URL = "http://127.0.0.1:11434"
HERE = BinId("local/0")
CARD = Bin(id=HERE, upstream="local")
MODEL = ModelKey("sha256-aa")
SETTINGS = Settings(total_bytes=12 * GIB, version="0.32.15")
SEEN = 5_000_000_000
FACTS = Facts(key=MODEL, name="m", size_bytes=4_000_000_000, context_length=32768)


class Calendar:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    keeper = Keeper(tmp_path)
    await keeper.open()
    yield keeper
    await keeper.close()


@pytest.fixture
def experience(keeper: Keeper, calendar: Calendar) -> Experience:
    return Experience(URL, keeper, clock=calendar)


def line(size: int = SEEN, context: int | None = 4096) -> Line:
    return Line(name="m", size_bytes=size, size_vram_bytes=size, context_length=context, digest="d")


def sees(experience: Experience, shown: Line | None = None, at: float = 0.0) -> int:
    """The same line in two answers, two seconds apart."""
    booked = 0
    for now in (at, at + 2.0):
        shown = shown or line()
        booked = experience.saw(
            FACTS, shown, SETTINGS, CARD, size_vram_bytes=shown.size_vram_bytes, now=now
        )
        experience.listed(HERE, now)
    return booked


def need(experience: Experience, **options: Any) -> tuple[int, str]:
    found, source = experience.book.need(FACTS, Launch(**options), SETTINGS)
    return found.footprint_bytes, source


def lives(experience: Experience, at: float = 0.0, launch: Launch | None = None) -> None:
    """A whole life of a runner."""
    experience.load_began(HERE, MODEL, launch or Launch(), at)
    experience.loaded(HERE, MODEL, 3.0, at + 3.0)
    sees(experience, at=at + 3.0)
    experience.served(HERE, MODEL, 8.0)
    experience.unload_began(HERE, at + 20.0)
    experience.unloaded(HERE, MODEL, 1.0, at + 21.0)
    experience.listed(HERE, at + 21.0)


# ------------------------------------------------------------------------------- averages


def test_the_first_few_count_alike_and_then_the_latest_three_tenths() -> None:
    average = Average(seconds=1.0)
    came_to = []
    for seconds in (2.0, 3.0, 12.0):
        average = average.took(seconds)
        came_to.append(round(average.seconds, 6))
    assert came_to == [1.5, 2.0, 5.0]
    assert average.count == 4


@given(lengths=st.lists(st.floats(0, 1e6), min_size=1))
def test_an_average_lies_between_the_shortest_and_the_longest(lengths: list[float]) -> None:
    average = Average(seconds=lengths[0])
    for one in lengths[1:]:
        average = average.took(one)
    assert min(lengths) - 1e-6 <= average.seconds <= max(lengths) + 1e-6
    assert average.count == len(lengths)


async def test_loads_unloads_and_answers_are_averaged_apart(experience: Experience) -> None:
    assert experience.times(MODEL) == Times()
    assert experience.load_s(MODEL) is None
    lives(experience)
    one = Average(seconds=3.0), Average(seconds=1.0), Average(seconds=8.0)
    assert experience.times(MODEL) == Times(load=one[0], unload=one[1], service=one[2])
    assert experience.load_s(MODEL) == 3.0
    assert experience.times(ModelKey("other")) == Times()


async def test_a_load_that_failed_has_no_length(experience: Experience) -> None:
    experience.load_began(HERE, MODEL, Launch(), 0.0)
    experience.load_failed(HERE, MODEL, 300.0)
    assert experience.load_s(MODEL) is None


# ------------------------------------------------------------------------------- options


async def test_a_size_is_learned_for_the_options_of_the_load(experience: Experience) -> None:
    lives(experience, launch=Launch(num_batch=2048))
    assert need(experience, num_batch=2048) == (SEEN + PROCESS_BYTES, "learned")
    assert need(experience)[1] == "estimated"


async def test_the_options_are_forgotten_with_the_runner_and_kept_while_it_loads(
    experience: Experience,
) -> None:
    experience.load_began(HERE, MODEL, Launch(num_batch=2048), 0.0)
    # Ollama does not list what it is loading.
    experience.listed(HERE, 1.0)
    sees(experience, at=3.0)
    assert need(experience, num_batch=2048)[1] == "learned"
    experience.loaded(HERE, MODEL, 3.0, 5.0)
    experience.listed(HERE, 50.0)
    sees(experience, at=60.0)
    assert need(experience)[1] == "learned"


async def test_an_ollama_that_shows_no_context_runs_the_one_that_was_asked_for(
    experience: Experience,
) -> None:
    experience.load_began(HERE, MODEL, Launch(num_ctx=8192), 0.0)
    experience.loaded(HERE, MODEL, 3.0, 3.0)
    sees(experience, line(context=None), at=3.0)
    (lesson,) = (one for versions in experience.book._lessons.values() for one in versions.values())
    assert set(lesson.figures) == {8192}


# ------------------------------------------------------------------------------- overhead


async def test_what_one_model_took_beyond_its_report_goes_for_all(experience: Experience) -> None:
    assert experience.overhead_bytes(HERE) is None
    experience.measured(HERE, "card A", GIB)
    experience.listed(HERE, 0.0)
    experience.measured(HERE, "card A", GIB)
    experience.measured(HERE, "card A", GIB)
    experience.load_began(HERE, MODEL, Launch(), 100.0)
    sees(experience, at=103.0)
    experience.loaded(HERE, MODEL, 3.0, 105.0)
    assert experience.overhead_bytes(HERE) is None
    for _ in range(2):
        experience.measured(HERE, "card A", GIB + SEEN + 257 * MIB)
    assert experience.overhead_bytes(HERE) == (257 + 457) * MIB // 2
    experience.measured(HERE, "card B", GIB)
    assert experience.overhead_bytes(HERE) is None


# ------------------------------------------------------------------------------- the next life


async def test_the_next_life_knows_what_this_one_saw(
    experience: Experience, keeper: Keeper, calendar: Calendar, tmp_path: Path
) -> None:
    lives(experience)
    experience.ran_out(FACTS, Launch(), SETTINGS, CARD)
    experience.measured(HERE, "card A", 9 * GIB)
    for _ in range(2):
        experience.saw(FACTS, line(), SETTINGS, CARD, size_vram_bytes=SEEN, now=100.0)
        experience.listed(HERE, 100.0)
    for _ in range(3):
        experience.measured(HERE, "card A", 9 * GIB, SEEN + 333 * MIB)
    experience.met(MODEL, "d1")
    await keeper.close()
    again = Keeper(tmp_path)
    await again.open()
    after = Experience(URL, again, clock=calendar)
    assert need(after) == need(experience) == (SEEN + SEEN * 5 // 100 + PROCESS_BYTES, "learned")
    assert after.times(MODEL) == experience.times(MODEL)
    after.measured(HERE, "card A", GIB)
    assert after.overhead_bytes(HERE) == experience.overhead_bytes(HERE) == (333 + 457) * MIB // 2
    calendar.now += ABSENT_S + 1
    after.on_disk(["another"])
    assert need(after)[1] == "estimated"
    assert need(Experience("http://elsewhere", again))[1] == "estimated"
    await again.close()


async def test_what_nobody_understands_is_passed_over_and_left(keeper: Keeper) -> None:
    values: list[Any] = [None, 1, [], {"load": 3}, {"samples": ["x"]}, {"digests": [1]}]
    odd = [
        Note(id=NoteId(URL, "of a later gate", "x"), value=1),
        *(
            Note(id=NoteId(URL, topic, "x", detail), value=value)
            for topic in ("footprint", "times", "overhead", "presence")
            for detail in ("", "{}", "[]")
            for value in values
        ),
    ]
    for note in odd:
        keeper.put(note)
    experience = Experience(URL, keeper)
    assert list(experience.book.models()) == []
    assert len(list(keeper.notes(URL))) == len({note.id for note in odd})


LAUNCHES = st.builds(
    Launch,
    num_batch=st.none() | st.integers(1, 4096),
    num_gpu=st.none() | st.integers(0, 99),
    main_gpu=st.none() | st.integers(0, 8),
    draft_num_predict=st.none() | st.integers(0, 99),
    extras=st.lists(st.text(), max_size=2).map(tuple),
)
KEYS = st.builds(
    Key,
    model=st.text().map(ModelKey),
    launch=LAUNCHES,
    kv_cache_type=st.sampled_from(["f16", "q8_0"]),
    parallel=st.integers(1, 16),
    on_cpu_bin=st.booleans(),
)
COUNTS = st.integers(0, 2**40)
LESSONS = st.builds(
    Lesson,
    figures=st.dictionaries(COUNTS, st.builds(Figure, bytes=COUNTS, lower=COUNTS, count=COUNTS)),
    unfit=st.frozensets(COUNTS),
    bump_percent=st.integers(0, 25),
    clean=COUNTS,
    seen_at=st.floats(0, 1e12),
)


@given(key=KEYS, version=st.text(), lesson=LESSONS)
def test_what_is_noted_reads_back_as_what_it_was(key: Key, version: str, lesson: Lesson) -> None:
    text = spelling.key_text(key, version)
    assert spelling.read_key(key.model, text) == (key, version)
    assert spelling.read_lesson(spelling.lesson_value(lesson)) == lesson


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_no_note_is_too_odd_to_be_passed_over(value: Any) -> None:
    spelling.read_lesson(value)
    spelling.read_times(value)
    spelling.read_overhead(value)
    spelling.read_presence(value)
    spelling.read_key("m", str(value))


# ------------------------------------------------------------------------------- forgetting


def known(experience: Experience) -> bool:
    return need(experience)[1] == "learned"


@pytest.fixture
async def learned(experience: Experience) -> Experience:
    lives(experience)
    experience.met(MODEL, "d1")
    return experience


async def test_a_model_that_is_gone_for_a_month_is_forgotten(
    learned: Experience, keeper: Keeper, calendar: Calendar
) -> None:
    learned.on_disk(["d1", "d2"])
    calendar.now += ABSENT_S
    learned.on_disk(["d2"])
    assert known(learned)
    calendar.now += 1
    learned.on_disk(["d2"])
    assert not known(learned)
    assert learned.times(MODEL) == Times()
    assert list(keeper.notes(URL)) == []


async def test_a_model_that_is_there_is_remembered_however_long(
    learned: Experience, calendar: Calendar
) -> None:
    for _ in range(90):
        calendar.now += DAY_S
        learned.on_disk(["d1"])
    learned.on_disk([])
    assert known(learned)


async def test_a_model_that_is_there_under_one_of_its_manifests_is_there(
    learned: Experience, calendar: Calendar
) -> None:
    learned.met(MODEL, "d2")
    calendar.now += ABSENT_S + 1
    learned.on_disk(["d2"])
    assert known(learned)


async def test_a_model_that_was_deleted_is_forgotten_at_once(learned: Experience) -> None:
    learned.on_disk(["d1"])
    learned.deleted(MODEL)
    learned.on_disk([])
    assert not known(learned)


async def test_a_model_one_of_whose_names_was_deleted_is_remembered(learned: Experience) -> None:
    learned.deleted(MODEL)
    learned.on_disk(["d1"])
    learned.on_disk([])
    assert known(learned)


async def test_an_ollama_that_tells_no_manifests_makes_nobody_forget(
    learned: Experience, calendar: Calendar
) -> None:
    learned.met(MODEL, "")
    learned.deleted(ModelKey("never met"))
    calendar.now += ABSENT_S + 1
    learned.on_disk(["", ""])
    assert known(learned)


def test_without_a_keeper_one_life_is_learned_from_all_the_same() -> None:
    experience = Experience(URL)
    lives(experience)
    assert known(experience)
    experience.met(MODEL, "d1")
    experience.deleted(MODEL)
    experience.on_disk([])
    assert not known(experience)


async def test_learned_figures_change_nothing_of_other_slots(experience: Experience) -> None:
    lives(experience)
    other = replace(SETTINGS, num_parallel=4)
    assert experience.book.need(FACTS, Launch(), other)[1] == "estimated"


# ------------------------------------------------------------------------------- whole gates

SMALL = "llama3.2:1b"


async def generate(http: aiohttp.ClientSession, site: Site) -> int:
    body = {"model": SMALL, "prompt": "a", "options": {"num_predict": 2}}
    async with http.post(f"{site.url}/api/generate", json=body) as response:
        await response.read()
        return response.status


def gate_before(simulated: SimulatedOllama, directory: Path) -> Site:
    config = gate_config(simulated.url, simulated.settings)
    return Site(structs.replace(config, state_dir=directory), card=SimulatedCard(simulated))


async def test_the_next_gate_knows_how_long_a_load_took(
    http: aiohttp.ClientSession, ollama: SimulatedOllama, tmp_path: Path
) -> None:
    async with gate_before(ollama, tmp_path) as site:
        assert await generate(http, site) == 200
        facts = await site._posts[0].member.registry.facts(SMALL)
        assert facts is not None
        took = site._posts[0].experience.times(facts.key)
        assert took.load is not None
        assert took.service is not None
    async with gate_before(ollama, tmp_path) as site:
        assert site._posts[0].experience.times(facts.key) == took


async def test_what_is_deleted_through_the_gate_is_forgotten_at_once(
    http: aiohttp.ClientSession, ollama: SimulatedOllama, tmp_path: Path
) -> None:
    async with gate_before(ollama, tmp_path) as site:
        registry, experience = site._posts[0].member.registry, site._posts[0].experience
        assert await generate(http, site) == 200
        facts = await registry.facts(SMALL)
        assert facts is not None
        assert experience.times(facts.key) != Times()
        async with http.delete(f"{site.url}/api/delete", json={"model": SMALL}) as response:
            assert response.status == 200
        assert await registry.facts(SMALL) is None
        await registry.residents()
        assert experience.times(facts.key) == Times()


async def test_a_temporary_gate_leaves_nothing_behind(
    http: aiohttp.ClientSession, site: Site
) -> None:
    assert await generate(http, site) == 200
    assert site._scratch is not None
    scratch = site._scratch.name
    assert "lock" in os.listdir(scratch)  # noqa: PTH208  a path of its own would have to be read
    await site.close(grace_s=0.0)
    with pytest.raises(FileNotFoundError):
        os.listdir(scratch)  # noqa: PTH208
