"""What holds for every history, not for one story."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_gate.scheduler import Machine
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Load, Unload
from ollama_gate.scheduler.demand import Demand
from ollama_gate.scheduler.eviction import EXACT_UP_TO, cheapest, choose
from ollama_gate.scheduler.fitting import Shortfall, most, shortfall
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.pace import Pace
from ollama_gate.scheduler.serving import serves
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Policy,
    Priority,
    Request,
    RequestId,
    RunnerState,
)
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


priced = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 50)), max_size=7)


@given(priced=priced, forced=st.integers(0, 2), wanted=st.integers(0, 40))
def test_no_other_victims_that_suffice_would_cost_less(
    priced: list[tuple[int, int]], forced: int, wanted: int
) -> None:
    runners = [a_runner(str(number), size) for number, (size, _) in enumerate(priced)]
    costs = {runner: float(cost) for runner, (_, cost) in zip(runners, priced, strict=True)}
    must, may = runners[:forced], runners[forced:]
    victims = cheapest(
        [(runner, costs[runner]) for runner in may],
        lambda gone: lacking(wanted, list(gone)),
        forced=must,
    )
    sets = [[*must, *chosen] for n in range(len(may) + 1) for chosen in combinations(may, n)]
    enough = [sum(costs[r] for r in each) for each in sets if lacking(wanted, each) is None]
    if isinstance(victims, Shortfall):
        assert victims == lacking(wanted, runners)
        assert enough == []
        return
    assert list(victims[: len(must)]) == must
    assert lacking(wanted, victims) is None
    assert sum(costs[runner] for runner in victims) == min(enough)


@given(
    sizes=st.lists(st.integers(0, 12), min_size=EXACT_UP_TO + 1, max_size=14),
    wanted=st.integers(1, 60),
)
def test_of_very_many_the_cheapest_that_suffice_go_and_none_could_be_spared(
    sizes: list[int], wanted: int
) -> None:
    runners = [a_runner(f"{number:02}", size) for number, size in enumerate(sizes)]
    victims = cheapest(
        [(runner, float(number)) for number, runner in enumerate(runners)][::-1],
        lambda gone: lacking(wanted, list(gone)),
    )
    assert victims == choose(runners, lambda gone: lacking(wanted, list(gone)))


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


@given(
    firm=sizes,
    more=sizes,
    need=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    capacity=st.sampled_from([None, 16, 24, 48]),
    cpu=st.sets(st.sampled_from([0, 1, 2, 9])),
    max_loaded=st.integers(1, 9),
)
def test_whoever_needs_more_than_the_most_falls_short_whatever_else_goes(
    firm: list[int],
    more: list[int],
    need: tuple[int, int],
    capacity: int | None,
    cpu: set[int],
    max_loaded: int,
) -> None:
    runners = [
        a_runner(str(number), size, Launch(num_gpu=0) if number in cpu else None)
        for number, size in enumerate([*firm, *more])
    ]
    for runner in runners:
        runner.free_at_load_bytes = None if capacity is None else capacity * GIB // 2
    budget = None if capacity is None else capacity * GIB
    books = Books(Bin(id=BinId("u/0"), upstream="u", capacity_bytes=budget, cpu=9 in cpu))
    limits = most(books, runners[: len(firm)], elsewhere=1, max_loaded=max_loaded)
    wanted = Need(footprint_bytes=need[0] * GIB, predicted_bytes=need[1] * GIB)
    lacks = [
        shortfall(wanted, books, runners[:count], elsewhere=1, max_loaded=max_loaded)
        for count in range(len(firm), len(runners) + 1)
    ]
    if not limits.admit(wanted):
        assert None not in lacks
    elif limits.predicted_bytes < math.inf:
        # And it is told by no more than that: with them alone it would fit.
        assert lacks[0] is None


# -------------------------------------------------------------------- the line


Guest = tuple[tuple[str, Launch, int, tuple[str, ...]], float, Priority, str]

kinds = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from([Launch(), Launch(num_gpu=0)]),
    st.sampled_from([2048, 4096]),
    st.sampled_from([("u/0",), ("u/1",), ("u/0", "u/1"), ("u/1", "u/0")]),
)
guests = st.tuples(
    kinds,
    # So few times and classes that many come together.
    st.one_of(st.integers(0, 40), st.floats(0, 40)),
    st.sampled_from(Priority),
    st.sampled_from(["ann", "bob"]),
)
looks = st.lists(
    st.tuples(st.sampled_from(Priority), st.integers(0, 50), st.integers(0, 20)), max_size=8
)
"""A class is looked at: how patient it is just then, and how long after the last look."""

varied = {
    "drawn": st.lists(guests, max_size=15),
    "leaving": st.sets(st.integers(0, 14)),
    "looked": looks,
}


class Watched:
    """A line, and beside it who waits and who is overdue by the plain definition."""

    def __init__(self, drawn: Sequence[Guest]) -> None:
        self.line = Line(TAU_S)
        self.joined: list[Request] = []
        self.latches = dict.fromkeys(Priority, -math.inf)
        self.now = 40.0
        for number, ((model, launch, num_ctx, bins), at, priority, client) in enumerate(drawn):
            self.join(
                a_request(
                    str(number),
                    model,
                    at,
                    launch=launch,
                    num_ctx=num_ctx,
                    bins=bins,
                    priority=priority,
                    client=client,
                )
            )

    def join(self, request: Request) -> None:
        self.line.join(request)
        self.joined.append(request)

    def leave(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            if RequestId(str(number)) in self.line:
                self.joined.remove(self.line.leave(RequestId(str(number))))

    def look(self, looked: Sequence[tuple[Priority, int, int]]) -> None:
        for priority, patience_s, pause_s in looked:
            self.now += pause_s
            self.line.latch(priority, patience_s, self.now)
            late = [
                request.arrived_at
                for request in self.joined
                if request.priority is priority and request.arrived_at + patience_s <= self.now
            ]
            self.latches[priority] = max([self.latches[priority], *late])

    def is_overdue(self, request: Request) -> bool:
        return request.arrived_at <= self.latches[request.priority]

    @property
    def overdue(self) -> list[Request]:
        """The overdue, by their virtual deadlines; who joined first is first of equals."""
        overdue = [request for request in self.joined if self.is_overdue(request)]
        return sorted(overdue, key=lambda request: request.arrived_at + TAU_S[request.priority])

    @property
    def in_order(self) -> list[Request]:
        """The overdue first, then the others by class and age."""
        others = [request for request in self.joined if not self.is_overdue(request)]
        in_order = sorted(others, key=lambda request: (request.priority, request.arrived_at))
        return [*self.overdue, *in_order]


def kind_of(request: Request) -> object:
    return request.model, request.launch, request.num_ctx, frozenset(request.needs)


@given(**varied)
def test_the_line_stands_as_a_plain_sort_by_the_definition_says(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked[:4])
    watched.leave(leaving)
    watched.look(looked[4:])
    line = watched.line
    assert list(line) == watched.joined
    assert len(line) == len(watched.joined)
    assert line.in_order() == watched.in_order
    for request in watched.joined:
        assert line.overdue(request) == watched.is_overdue(request)


@given(**varied)
def test_the_first_overdue_of_a_model_is_whose_virtual_deadline_is_first(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked)
    watched.leave(leaving)
    for model in ("a", "b", "nobody's"):
        first = next((r for r in watched.overdue if r.model == model), None)
        assert watched.line.first_overdue(watched.line.groups(ModelKey(model))) == first


@given(**varied)
def test_the_overdue_stay_overdue_and_keep_their_order_before_any_newcomer(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked[:4])
    watched.leave(leaving)
    before = watched.overdue
    for priority in Priority:
        watched.join(a_request(f"new {priority}", "a", watched.now, priority=priority))
    watched.look(looked[4:])
    after = [request for request in watched.line.in_order() if request in before]
    assert after == before
    assert all(watched.line.overdue(request) for request in before)


@given(**varied)
def test_who_is_overdue_next_is_the_eldest_of_a_class_who_is_not_yet(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked)
    watched.leave(leaving)
    for priority in Priority:
        others = [
            request.arrived_at
            for request in watched.joined
            if request.priority is priority and not watched.is_overdue(request)
        ]
        assert watched.line.patient_since(priority) == min(others, default=None)


@given(**varied)
def test_a_line_knows_its_kinds_its_rows_and_its_clients(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked)
    watched.leave(leaving)
    line, joined = watched.line, watched.joined
    assert set(line.models()) == {request.model for request in joined}
    rows = list(line.rows())
    assert line.as_joined(request for row in rows for request in row) == joined
    for row in rows:
        assert len({(kind_of(request), request.priority) for request in row}) == 1
        assert [r.arrived_at for r in row] == sorted(r.arrived_at for r in row)
    of_a = [request for row in line.rows(ModelKey("a")) for request in row]
    assert line.as_joined(of_a) == [request for request in joined if request.model == "a"]
    for client in ("ann", "bob", "nobody"):
        own = [request for request in joined if request.client == client]
        assert line.waiting_of(client) == len(own)
        for priority in Priority:
            assert (client in line.clients(priority)) == (priority in {r.priority for r in own})


@given(**varied)
def test_the_sums_over_those_who_wait_are_what_adding_up_gives_and_nothing_is_left_of_nobody(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked)
    watched.leave(leaving)
    line, now_us = watched.line, round(watched.now * 1e6)
    for priority, everybody in zip(Priority, line.everybody, strict=True):
        own = [r for r in watched.joined if r.priority is priority]
        ages_us = [now_us - round(request.arrived_at * 1e6) for request in own]
        assert len(everybody) == len(own)
        assert everybody.squares(watched.now) == sum(age * age for age in ages_us) / 1e12
    groups = [group for model in line.models() for group in line.groups(model)]
    for priority in Priority:
        ranks = [group.ranks[priority] for group in groups]
        assert sum(len(rank) for rank in ranks) == len(line.everybody[priority])
        assert sum(rank.sum_us for rank in ranks) == line.everybody[priority].sum_us
        assert sum(rank.sum_us2 for rank in ranks) == line.everybody[priority].sum_us2
        for rank in ranks:
            by_client = [request for own in rank.by_client.values() for request in own]
            assert sorted(r.id for r in by_client) == sorted(r.id for r in rank.row)
    watched.leave(set(range(len(drawn))))
    assert [line.everybody[p].squares(watched.now) for p in Priority] == [0.0, 0.0, 0.0]
    assert (list(line.models()), list(line.rows())) == ([], [])


@given(**varied)
def test_the_work_that_waits_is_what_looking_at_everybody_gives(
    drawn: list[Guest], leaving: set[int], looked: list[tuple[Priority, int, int]]
) -> None:
    watched = Watched(drawn)
    watched.look(looked)
    watched.leave(leaving)
    policy = Policy(tau_s=TAU_S, beta=0.5)
    demand = Demand(policy, watched.line, Pace(policy))
    demand.look(watched.now, {ModelKey("a")}, lambda _: 7.0, bins=2)
    # An answer takes 4 s and the load of `b` 7 s; two bins share the work.
    seconds = []
    for priority in Priority:
        ahead = [request for request in watched.joined if request.priority <= priority]
        seconds.append((4.0 * len(ahead) + 7.0 * any(r.model == "b" for r in ahead)) / 2)
    assert list(demand.backlog.seconds) == seconds
    patience_s = [
        min(max(tau_s, 0.5 * backlog_s), cap_s)
        for tau_s, backlog_s, cap_s in zip(TAU_S, seconds, policy.tau_cap_s, strict=True)
    ]
    assert list(demand.backlog.patience_s) == patience_s

    def work(requests: Sequence[Request]) -> float:
        return sum(
            policy.weights[r.priority]
            * (1 + ((watched.now - r.arrived_at) / patience_s[r.priority]) ** 2)
            for r in requests
        )

    of_a = [request for request in watched.joined if request.model == "a"]
    assert demand.work_of_all() == pytest.approx(work(watched.joined))
    assert demand.work(watched.line.groups(ModelKey("a"))) == pytest.approx(work(of_a))
    patient = ((watched.line.patient_since(priority), priority) for priority in Priority)
    assert list(demand.ends()) == [
        since + patience_s[priority] for since, priority in patient if since is not None
    ]


def test_of_two_who_came_together_the_first_stands_first() -> None:
    line = Line(TAU_S)
    first, second = a_request("first", "a", 5.0), a_request("second", "a", 5.0)
    line.join(first)
    line.join(second)
    assert line.in_order() == [first, second]
    line.latch(Priority.NORMAL, 120.0, 600.0)
    assert line.in_order() == [first, second]
    line.leave(first.id)
    line.join(first)
    assert line.in_order() == [second, first]


@given(
    deadlines=st.lists(st.one_of(st.just(math.inf), st.integers(0, 60)), max_size=12),
    max_wait_s=st.sampled_from([0.0, 20.0]),
    leaving=st.sets(st.integers(0, 11)),
    now=st.integers(0, 80),
)
def test_everybody_whose_deadline_has_come_is_told_once_in_its_order(
    deadlines: list[float], max_wait_s: float, leaving: set[int], now: int
) -> None:
    line = Line(TAU_S, max_wait_s)
    for number, at in enumerate(deadlines):
        line.join(a_request(str(number), "a", float(number), deadline_at=at))
    for number in leaving & set(range(len(deadlines))):
        line.leave(RequestId(str(number)))
    ends = {
        request.id: min(request.deadline_at, request.arrived_at + (max_wait_s or math.inf))
        for request in line
    }
    assert line.next_deadline() == min(ends.values(), default=math.inf)
    late = sorted((r for r in line if ends[r.id] <= now), key=lambda r: ends[r.id])
    assert line.expired(now) == late
    assert line.expired(now) == []
    assert line.next_deadline() == min((at for at in ends.values() if at > now), default=math.inf)


def test_who_leaves_and_comes_back_with_another_deadline_has_that_one() -> None:
    line = Line(TAU_S)
    line.join(a_request("1", "a", deadline_at=5.0))
    line.leave(RequestId("1"))
    later = a_request("1", "a", deadline_at=9.0)
    line.join(later)
    assert line.expired(7) == []
    assert line.next_deadline() == 9
    assert line.expired(9) == [later]


# -------------------------------------------------------------------- serves

launches = st.builds(
    Launch,
    num_ctx=st.sampled_from([None, 2048, 4096]),
    num_batch=st.sampled_from([None, 512, 256]),
    num_gpu=st.sampled_from([None, -1, 0, 7]),
    main_gpu=st.sampled_from([None, 0]),
    use_mmap=st.sampled_from([None, False]),
    num_thread=st.sampled_from([None, 0, 2]),
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
    alike = but_for_layers_and_context(have) == but_for_layers_and_context(want)
    default_batch = replace(have, num_batch=None) if have.num_batch == 512 else have
    may = alike or but_for_layers_and_context(default_batch) == but_for_layers_and_context(want)
    if serves(runner, request):
        assert may
    if may and (have.num_gpu, have.num_ctx) == (want.num_gpu, want.num_ctx):
        assert serves(runner, request)


def but_for_layers_and_context(launch: Launch) -> Launch:
    return replace(launch, num_gpu=None, num_ctx=None, num_thread=launch.num_thread or 0)


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


# -------------------------------------------------------------------- what is most common


class Plodding(Machine):
    """Settles after every event, whatever it was."""

    def _is_calm(self) -> bool:
        return False


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("cde"), st.floats(0, 40)), max_size=40)
)
def test_calm_events_come_to_what_a_settlement_would(steps: list[tuple[int, str, float]]) -> None:
    quick, slow = Play(keep_alive_s=60.0), Play(keep_alive_s=60.0)
    slow.machine.__class__ = Plodding
    now, here = 0.0, list[str]()
    for number, (kind, model, pause_s) in enumerate(steps):
        now += pause_s
        request_id = f"r{number}"
        event: ev.Event = ev.Ticked()
        if kind > 1:
            keep_alive_s = (None, 0.0, 30.0)[number % 3]
            request = a_request(request_id, model, now, parallel=2, keep_alive_s=keep_alive_s)
            event = ev.Arrived(request=request)
            here.append(request_id)
        elif kind and here:
            event = ev.Left(id=RequestId(here.pop(number % len(here))))
        todo = [event]
        while todo:
            event = todo.pop(0)
            commands = quick.tell(now, event)
            assert commands == slow.tell(now, event)
            assert quick.wakes_at() == slow.wakes_at()
            todo += ended(commands)


def ended(commands: Sequence[Command]) -> list[ev.Event]:
    """Whatever is ordered is done at once."""
    events: list[ev.Event] = []
    for command in commands:
        match command:
            case Load():
                events.append(
                    ev.LoadEnded(bin=command.bin, model=command.model, outcome=ev.Loaded())
                )
            case Unload():
                events.append(ev.UnloadEnded(bin=command.bin, model=command.model))
            case _:
                pass
    return events
