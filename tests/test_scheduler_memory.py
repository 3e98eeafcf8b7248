"""The books of a bin, what fits, and when memory is back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler.events import Observed
from ollama_gate.scheduler.eviction import choose
from ollama_gate.scheduler.fitting import Shortfall, shortfall
from ollama_gate.scheduler.memory import GIB, Books, Runner, committed
from ollama_gate.scheduler.readings import memory_is_back
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey, Need, RunnerState
from tests.play import Play, gib

CARD = Bin(id=BinId("u/0"), upstream="u")
BUDGET = Bin(id=BinId("u/0"), upstream="u", capacity_bytes=24 * GIB)
ALL = replace(BUDGET, reserve_bytes=0)
NOISE = 16 * 2**20


def a_runner(
    model: str = "a",
    size: float = 4,
    *,
    state: RunnerState = RunnerState.RESIDENT,
    reported: float | None = None,
    free_at_load: float | None = None,
    launch: Launch | None = None,
    bin_: Bin = CARD,
    num_ctx: int | None = 4096,
) -> Runner:
    return Runner(
        bin=bin_,
        model=ModelKey(model),
        name=model,
        launch=launch or Launch(),
        num_ctx=num_ctx,
        footprint_bytes=gib(size),
        reported_bytes=gib(size if reported is None else reported),
        free_at_load_bytes=None if free_at_load is None else gib(free_at_load),
        parallel=1,
        keep_alive_s=300.0,
        state=state,
        since=0.0,
        load_s=1.0,
        began_at=0.0,
    )


def read(used: float, *runners: Runner, bin_: Bin = CARD, total: float = 24) -> Books:
    books = Books(bin_)
    books.measure(gib(total), gib(used), runners)
    return books


# -------------------------------------------------------------------- capacity


def test_a_reading_is_planned_with_less_the_reserve() -> None:
    assert read(0).capacity_bytes == 24 * GIB - int(24 * GIB * 0.05)
    assert read(0, total=8).capacity_bytes == 7 * GIB
    assert read(0, total=0.5).capacity_bytes == 0
    own = replace(CARD, reserve_bytes=3 * GIB)
    assert read(0, bin_=own).capacity_bytes == 21 * GIB


def test_a_budget_is_planned_with_to_the_last_byte() -> None:
    assert Books(BUDGET).capacity_bytes == 24 * GIB
    assert read(0, bin_=BUDGET, total=80).capacity_bytes == 24 * GIB
    assert read(0, bin_=BUDGET, total=20).capacity_bytes == 19 * GIB


def test_without_a_reading_or_a_budget_nobody_knows() -> None:
    books = Books(CARD)
    assert not books.live
    assert books.capacity_bytes is None
    assert books.free_bytes([]) is None
    assert books.card_free_bytes([]) is None
    assert books.ollama_free_bytes([a_runner()]) is None
    books.recognise([a_runner()])
    books.cover([])
    assert books.foreign_bytes == 0


def test_what_is_free_may_be_less_than_nothing() -> None:
    assert read(24, bin_=ALL).free_bytes([a_runner(size=4)]) == -4 * GIB


def test_a_budget_caps_what_is_read_and_is_no_promise_that_others_keep_off() -> None:
    small = replace(ALL, capacity_bytes=12 * GIB)
    assert read(10, bin_=small).free_bytes([]) == 12 * GIB
    assert read(10, bin_=small).free_bytes([a_runner(size=4)]) == 8 * GIB
    assert read(20, bin_=small).free_bytes([]) == 4 * GIB


def test_when_readings_stop_the_last_is_believed_and_nothing_is_seen_to_come_back() -> None:
    books = read(10)
    books.lose()
    assert not books.live
    assert books.foreign_bytes == 10 * GIB
    assert books.card_free_bytes([a_runner(size=4)]) == 10 * GIB
    books.cover([])
    books.measure(24 * GIB, 3 * GIB, [])
    assert books.used_bytes == 3 * GIB
    assert books.foreign_bytes == 10 * GIB
    books.measure(24 * GIB, 3 * GIB, [])
    assert books.foreign_bytes == 3 * GIB


# -------------------------------------------------------------------- others


def test_what_others_use_grows_at_once_and_shrinks_after_two_readings() -> None:
    books = read(3)
    assert books.foreign_bytes == 3 * GIB
    books.measure(24 * GIB, 5 * GIB, [])
    assert books.foreign_bytes == 5 * GIB
    books.measure(24 * GIB, 1 * GIB, [])
    assert books.foreign_bytes == 5 * GIB
    books.measure(24 * GIB, 2 * GIB, [])
    assert books.foreign_bytes == 2 * GIB
    books.measure(24 * GIB, 1 * GIB, [])
    books.measure(24 * GIB, 1 * GIB, [])
    assert books.foreign_bytes == 1 * GIB


def test_what_is_being_loaded_explains_what_is_used_and_hides_no_more_than_that() -> None:
    loading = a_runner(size=10, state=RunnerState.LOADING)
    books = read(3)
    books.measure(24 * GIB, 8 * GIB, [loading])
    assert books.foreign_bytes == 3 * GIB
    books.measure(24 * GIB, 15 * GIB, [loading])
    assert books.foreign_bytes == 5 * GIB


def test_even_while_memory_moves_others_use_no_more_than_the_residents_leave() -> None:
    loading = a_runner(size=10, state=RunnerState.LOADING)
    books = read(20)
    for _ in range(2):
        books.measure(24 * GIB, 9 * GIB, [loading, a_runner("c", 4)])
    assert books.foreign_bytes == 5 * GIB


def test_a_resident_that_was_taken_for_somebody_elses_is_recognised() -> None:
    books = read(16)
    books.recognise([a_runner(size=16)])
    assert (books.shown_bytes, books.foreign_bytes) == (0, 16 * GIB)
    books.measure(24 * GIB, 16 * GIB, [a_runner(size=16)])
    assert books.foreign_bytes == 0


steps = st.lists(
    st.tuples(
        st.integers(0, 24),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from(RunnerState)), max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(steps=steps)
def test_the_books_never_say_less_than_a_reading(
    steps: list[tuple[int, list[tuple[int, RunnerState]]]],
) -> None:
    books = Books(CARD)
    for used, sizes in steps:
        runners = [a_runner(str(n), size, state=state) for n, (size, state) in enumerate(sizes)]
        books.measure(24 * GIB, used * GIB, runners)
        assert books.foreign_bytes + committed(runners) >= used * GIB
        books.cover(runners[1:])
        assert books.foreign_bytes + committed(runners[1:]) >= used * GIB


# -------------------------------------------------------------------- what fits


def lacking(
    size: float,
    books: Books,
    *staying: Runner,
    predicted: float = 0,
    elsewhere: int = 0,
    max_loaded: int = 6,
) -> str:
    need = Need(footprint_bytes=gib(size), predicted_bytes=gib(predicted))
    return str(shortfall(need, books, staying, elsewhere=elsewhere, max_loaded=max_loaded))


def test_with_nothing_else_there_everything_fits() -> None:
    assert lacking(99, Books(BUDGET), predicted=99) == "None"
    assert lacking(99, Books(CARD), predicted=99) == "None"


def test_the_last_byte_may_be_used_and_no_more() -> None:
    books = Books(BUDGET)
    assert lacking(20, books, a_runner(size=4)) == "None"
    assert lacking(21, books, a_runner(size=4)) == "1.0GiB"


def test_others_take_from_what_is_free() -> None:
    assert lacking(14, read(10, a_runner(size=4), bin_=ALL), a_runner(size=4)) == "None"
    assert lacking(15, read(10, a_runner(size=4), bin_=ALL), a_runner(size=4)) == "1.0GiB"


def test_in_the_unknown_nothing_is_loaded_beside_another() -> None:
    assert lacking(0, Books(CARD), a_runner()) == "unknown"


@pytest.mark.parametrize(
    ("elsewhere", "told"), [(0, "None"), (1, "max_loaded=2"), (2, "max_loaded=2")]
)
def test_the_runners_of_all_bins_count_for_max_loaded(elsewhere: int, told: str) -> None:
    assert lacking(1, Books(BUDGET), a_runner(), elsewhere=elsewhere, max_loaded=2) == told


def test_what_ollama_no_longer_lists_does_not_count_for_max_loaded_but_its_memory_does() -> None:
    leaving = a_runner(size=20, state=RunnerState.LEAVING)
    assert lacking(4, Books(BUDGET), leaving, max_loaded=1) == "None"
    assert lacking(5, Books(BUDGET), leaving, max_loaded=1) == "1.0GiB"


def test_ollama_asks_for_a_fifth_more_than_it_predicts() -> None:
    books = Books(BUDGET)
    assert lacking(1, books, a_runner(size=4), predicted=16) == "None"
    assert lacking(1, books, a_runner(size=4), predicted=17) == "1.0GiB(80%)"


def test_ollama_goes_by_its_own_figures() -> None:
    books = Books(BUDGET)
    assert lacking(1, books, a_runner(size=4, reported=14), predicted=9) == "1.0GiB(80%)"


def test_ollama_takes_the_least_favourable_of_what_its_runners_remember() -> None:
    books = Books(BUDGET)
    staying = [
        a_runner("a", 4, free_at_load=24),
        a_runner("b", 4, free_at_load=14),
        a_runner("c", 0, free_at_load=1, launch=Launch(num_gpu=0)),
    ]
    assert books.ollama_free_bytes(staying) == 10 * GIB
    assert books.ollama_free_bytes(staying[:1]) == 20 * GIB
    assert lacking(1, books, *staying, predicted=8) == "None"
    assert lacking(1, books, *staying, predicted=8.5) == "0.5GiB(80%)"


def test_an_ollama_that_remembers_nothing_believes_what_is_free() -> None:
    books = read(12, a_runner("a", 10), bin_=BUDGET)
    books.remembers_free = False
    assert books.ollama_free_bytes([a_runner("a", 10, free_at_load=11)]) == 12 * GIB


def test_whether_an_ollama_remembers_is_learned_from_what_it_says_of_itself() -> None:
    play = Play(bins={"u/0": "u", "v/0": "v"})
    play.tell(1, Observed(upstream="u", residents=(), asked_at=1, remembers_free=False))
    told = [books.remembers_free for books in play.machine.books.values()]
    assert told == [False, True]
    play.sees(2)
    assert not play.machine.books[BinId("u/0")].remembers_free
    play.tell(3, Observed(upstream="u", residents=(), asked_at=3, remembers_free=True))
    assert play.machine.books[BinId("u/0")].remembers_free


def test_ollama_never_believes_in_less_than_nothing() -> None:
    assert Books(BUDGET).ollama_free_bytes([a_runner(size=4, free_at_load=1)]) == 0
    on_cpu = a_runner(size=0, launch=Launch(num_gpu=0))
    assert read(24, bin_=BUDGET).ollama_free_bytes([on_cpu]) == 0
    assert read(20, bin_=BUDGET).ollama_free_bytes([on_cpu]) == 4 * GIB


def test_without_a_card_ollama_makes_no_such_test() -> None:
    cpu = replace(BUDGET, cpu=True)
    assert lacking(20, Books(cpu), a_runner(size=4), predicted=99) == "None"


def test_the_card_says_what_is_free_and_without_readings_the_books_do() -> None:
    assert read(30).card_free_bytes([]) == 0
    assert read(10, a_runner(size=4)).card_free_bytes([a_runner(size=4)]) == 14 * GIB
    assert Books(BUDGET).card_free_bytes([a_runner(size=4)]) == 20 * GIB
    assert Books(BUDGET).card_free_bytes([a_runner(size=40)]) == 0


def test_a_reading_in_the_midst_of_a_load_does_not_make_the_card_look_emptier() -> None:
    loading = a_runner(size=8, state=RunnerState.LOADING)
    books = read(5, loading)
    loading.enter(RunnerState.RESIDENT, 1.0)
    assert books.card_free_bytes([loading]) == 16 * GIB


# -------------------------------------------------------------------- memory on its way


def leaving(size: float, before: float, last: float | None = None) -> Runner:
    runner = a_runner("leaving", size, state=RunnerState.LEAVING)
    runner.used_before_bytes = gib(before)
    runner.last_used_bytes = None if last is None else gib(last)
    return runner


def test_memory_is_back_when_everybody_else_explains_what_is_used() -> None:
    other = a_runner("other", 4)
    runner = leaving(10, before=17)
    books = read(17, runner, other)
    assert not memory_is_back(runner, books, [other])
    for used, back in [(7 * GIB + NOISE + 1, False), (7 * GIB + NOISE, True)]:
        books.measure(24 * GIB, used, [runner, other])
        assert memory_is_back(runner, books, [other]) is back


@pytest.mark.parametrize(
    ("used", "last", "back"),
    [
        (11, None, False),  # the first reading: it may still be falling
        (11, 15, False),  # it falls
        (11, 11, True),
        (11, 11 + NOISE / GIB, True),
        (11, 11 + 2 * NOISE / GIB, False),
        (12, 12, True),  # just half
        (13, 13, False),  # less than half
    ],
)
def test_memory_is_back_when_half_is_and_it_has_settled(
    used: float, last: float | None, *, back: bool
) -> None:
    runner = leaving(10, before=17, last=last)
    books = read(17, runner)
    books.measure(24 * GIB, gib(used), [runner])
    books.shown_bytes = 0
    assert memory_is_back(runner, books, []) is back


def test_a_load_explains_nothing_before_it_has_ended() -> None:
    loading = a_runner("loading", 10, state=RunnerState.LOADING)
    runner = leaving(8, before=8)
    books = read(8, runner)
    books.measure(24 * GIB, 8 * GIB, [runner, loading])
    assert not memory_is_back(runner, books, [loading])


# -------------------------------------------------------------------- whom to evict


def gives(wanted: float, *gone: Runner) -> Shortfall | None:
    missing = gib(wanted) - committed(gone)
    return Shortfall(rule="memory", missing_bytes=missing) if missing > 0 else None


def test_victims_are_asked_in_order_and_the_spare_ones_spared_the_dearest_first() -> None:
    c, d, e = a_runner("c", 4), a_runner("d", 4), a_runner("e", 8)
    assert choose([c, d, e], lambda gone: gives(4, *gone)) == (c,)
    assert choose([c, d, e], lambda gone: gives(8, *gone)) == (c, d)
    assert choose([c, e, d], lambda gone: gives(8, *gone)) == (e,)
    assert choose([c, d, e], lambda gone: gives(16, *gone)) == (c, d, e)
    assert choose([c, d, e], lambda gone: gives(0, *gone)) == ()
    few, more, most = a_runner("few", 2), a_runner("more", 3), a_runner("most", 5)
    assert choose([few, more, most], lambda gone: gives(6, *gone)) == (few, most)


def test_what_would_be_missing_even_without_all_of_them_is_said() -> None:
    c, d = a_runner("c", 4), a_runner("d", 4)
    assert choose([c, d], lambda gone: gives(9, *gone)) == Shortfall(
        rule="memory", missing_bytes=GIB
    )


def test_the_forced_go_even_where_they_are_spare() -> None:
    c, d = a_runner("c", 4), a_runner("d", 4)
    assert choose([d], lambda gone: gives(0, *gone), forced=[c]) == (c,)
    assert choose([d], lambda gone: gives(8, *gone), forced=[c]) == (c, d)
