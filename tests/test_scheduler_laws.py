"""What holds for every history, not for one story."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Load
from ollama_gate.scheduler.eviction import choose
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.memory import Runner, Shortfall, serves
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey, Priority, Request, RunnerState
from tests.play import GIB, SIZES, Play, a_request, a_resident

TAU_S = (20.0, 120.0, 300.0)

# -------------------------------------------------------------------- victims


def a_runner(model: str, size: int, launch: Launch | None = None) -> Runner:
    return Runner(
        bin=Bin(id=BinId("u/0"), upstream="u"),
        model=ModelKey(model),
        name=model,
        launch=launch or Launch(),
        num_ctx=4096,
        footprint_bytes=size * GIB,
        reported_bytes=size * GIB,
        free_at_load_bytes=None,
        parallel=1,
        keep_alive_s=300.0,
        state=RunnerState.RESIDENT,
        since=0.0,
        load_s=1.0,
        began_at=0.0,
    )


def lacking(wanted: int, gone: Sequence[Runner]) -> Shortfall | None:
    """So many GiB are wanted, and only the victims give any."""
    missing = wanted * GIB - sum(runner.footprint_bytes for runner in gone)
    return Shortfall(rule="memory", missing_bytes=missing) if missing > 0 else None


sizes = st.lists(st.integers(0, 12), max_size=7)


@given(sizes=sizes, forced=st.integers(0, 2), wanted=st.integers(0, 40))
def test_victims_suffice_or_nobody_is_touched_and_none_could_be_spared(
    sizes: list[int], forced: int, wanted: int
) -> None:
    runners = [a_runner(str(number), size) for number, size in enumerate(sizes)]
    must, may = runners[:forced], runners[forced:]
    victims = choose(may, lambda gone: lacking(wanted, list(gone)), forced=must)
    if isinstance(victims, Shortfall):
        assert victims == lacking(wanted, runners)
        return
    assert lacking(wanted, victims) is None
    assert list(victims[: len(must)]) == must
    for victim in victims[len(must) :]:
        rest = [other for other in victims if other is not victim]
        assert lacking(wanted, rest) is not None, f"{victim.name} could have been spared"


@given(sizes=sizes, wanted=st.integers(1, 12))
def test_if_the_first_to_be_asked_suffices_alone_it_is_the_only_one(
    sizes: list[int], wanted: int
) -> None:
    runners = [a_runner("first", wanted), *(a_runner(str(n), s) for n, s in enumerate(sizes))]
    assert choose(runners, lambda gone: lacking(wanted, list(gone))) == (runners[0],)


@given(order=st.permutations(["c", "d", "e"]), size=st.floats(1.0, 30.0))
def test_the_order_in_which_residents_are_listed_is_irrelevant(
    order: list[str], size: float
) -> None:
    def told(models: Sequence[str]) -> list[Command]:
        play = Play(max_loaded=6)
        play.sees(1, *(a_resident(model) for model in models))
        return play.arrives(2, "1", "b", size=size)

    assert told(order) == told(["c", "d", "e"])


@given(order=st.permutations(range(5)))
def test_the_order_in_which_candidates_came_to_be_known_is_irrelevant(order: list[int]) -> None:
    models = ["a", "b", "c", "d", "e"]

    def told(numbers: Sequence[int]) -> list[Command]:
        play = Play(heard=False)
        for number in numbers:
            request = a_request(str(number), models[number], number, priority=Priority(number % 3))
            play.tell(10, ev.Arrived(request=request))
        return play.sees(11)

    assert told(order) == told(range(5))


# -------------------------------------------------------------------- the line


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    drawn = draw(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(Priority)), max_size=8))
    return [
        a_request(str(number), "a", float(at), priority=priority)
        for number, (at, priority) in enumerate(drawn)
    ]


def a_line(requests: Sequence[Request]) -> Line:
    line = Line(TAU_S)
    for request in requests:
        line.join(request)
    return line


@given(requests=requests(), now=st.integers(0, 800))
def test_the_overdue_stand_first_by_the_end_of_their_patience_the_others_by_class_and_age(
    requests: list[Request], now: float
) -> None:
    line = a_line(requests)
    order = line.in_order(now)
    assert sorted(r.id for r in order) == sorted(r.id for r in requests)
    assert list(line) == requests
    for ahead, behind in pairwise(order):
        if line.overdue(behind, now):
            assert line.overdue(ahead, now)
            assert line.patience_ends_at(ahead) <= line.patience_ends_at(behind)
        elif not line.overdue(ahead, now):
            assert (ahead.priority, ahead.arrived_at) <= (behind.priority, behind.arrived_at)


@given(requests=requests(), now=st.integers(0, 800), later=st.integers(0, 400))
def test_the_overdue_keep_their_order_for_ever(
    requests: list[Request], now: float, later: float
) -> None:
    line = a_line(requests)
    overdue = [request for request in line.in_order(now) if line.overdue(request, now)]
    afterwards = [request for request in line.in_order(now + later) if request in overdue]
    assert afterwards == overdue


@given(requests=requests(), newcomer=st.sampled_from(Priority), now=st.integers(0, 800))
def test_a_newcomer_never_stands_before_the_overdue(
    requests: list[Request], newcomer: Priority, now: float
) -> None:
    line = a_line([request for request in requests if request.arrived_at <= now])
    overdue = [request for request in line.in_order(now) if line.overdue(request, now)]
    line.join(a_request("new", "a", now, priority=newcomer))
    assert line.in_order(now)[: len(overdue)] == overdue


def test_of_two_who_came_together_the_first_stands_first() -> None:
    first, second = a_request("first", "a", 5.0), a_request("second", "a", 5.0)
    line = a_line([first, second])
    assert line.in_order(6) == [first, second]
    assert line.in_order(600) == [first, second]
    line.leave(first.id)
    line.join(first)
    assert line.in_order(6) == [second, first]


# -------------------------------------------------------------------- serves

launches = st.builds(
    Launch,
    num_ctx=st.sampled_from([None, 2048, 4096]),
    num_batch=st.sampled_from([None, 512]),
    num_gpu=st.sampled_from([None, -1, 0, 7]),
    main_gpu=st.sampled_from([None, 0]),
    use_mmap=st.sampled_from([None, False]),
    num_thread=st.sampled_from([None, 2]),
    draft_num_predict=st.sampled_from([None, 2]),
    shift=st.sampled_from([None, False]),
    extras=st.sampled_from([(), ("lora",)]),
)


@given(launch=launches, told=st.sampled_from([None, 1024, 4096]), cpu=st.booleans())
def test_a_runner_serves_the_request_that_it_was_loaded_for(
    launch: Launch, told: int | None, *, cpu: bool
) -> None:
    play = Play(cpu=cpu)
    [command] = play.arrives(0, "1", "a", launch=launch, num_ctx=launch.num_ctx)
    assert isinstance(command, Load)
    assert len(play.loaded(1, "a", num_ctx=told)) == 1


@given(have=launches, want=launches)
def test_any_other_option_but_layers_and_context_must_be_the_same(
    have: Launch, want: Launch
) -> None:
    runner = a_runner("a", 1, launch=have)
    request = a_request("1", "a", launch=want, num_ctx=4096)
    alike = replace(have, num_gpu=None, num_ctx=None) == replace(want, num_gpu=None, num_ctx=None)
    if serves(runner, request):
        assert alike
    if alike and (have.num_gpu, have.num_ctx) == (want.num_gpu, want.num_ctx):
        assert serves(runner, request)


# -------------------------------------------------------------------- time and determinism


def a_history(seed: int) -> list[tuple[float, str, str]]:
    """Arrivals and departures, at growing times."""
    rng = random.Random(seed)
    history, now = [], 0.0
    for number in range(rng.randint(1, 15)):
        now += rng.choice([0.0, 0.5, 4.0, 40.0, 200.0])
        history.append((now, "arrives", str(number)))
        if rng.random() < 0.5:
            history.append((now + rng.uniform(0, 50), "leaves", str(number)))
    return sorted(history)


def perform(seed: int, *, tick: bool, again: bool = False) -> list[list[Command]]:
    """A history with answers to what is commanded; all that was commanded, and when."""
    rng = random.Random(seed)
    play = Play(tau_s=(5, 20, 60), kappa=rng.choice([0, 1, 6]), max_loaded=2)
    told: list[list[Command]] = []
    for at, what, request_id in a_history(seed):
        while tick and (wake := play.wakes_at()) is not None and wake <= at:
            told.append(play.ticks(wake))
            later = play.wakes_at()
            assert later is None or later > wake, "it would wake for ever"
        if what == "arrives":
            model, priority = rng.choice(list(SIZES)), rng.choice(list(Priority))
            told.append(play.arrives(at, request_id, model, priority=priority))
        else:
            told.append(play.leaves(at, request_id))
        for runner in list(play.machine.runners.values()):
            if runner.state is RunnerState.LOADING:
                told.append(play.loaded(at, runner.model))
            elif runner.state is RunnerState.UNLOADING:
                told.append(play.unloaded(at, runner.model))
        assert not again or play.ticks(at) == [], "the same instant, and another decision"
        wake = play.wakes_at()
        assert wake is None or wake > at
    return told


@given(seed=st.integers(0, 10_000))
def test_it_wakes_in_the_future_only_and_never_for_nothing_twice(seed: int) -> None:
    perform(seed, tick=True)


@given(seed=st.integers(0, 10_000))
def test_the_same_history_gives_the_same_commands(seed: int) -> None:
    assert perform(seed, tick=True) == perform(seed, tick=True)


@given(seed=st.integers(0, 10_000))
def test_whatever_an_event_asks_for_is_done_at_once(seed: int) -> None:
    perform(seed, tick=True, again=True)
