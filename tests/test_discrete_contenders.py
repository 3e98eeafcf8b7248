"""Those who decide in the discrete-event world: the brain, Ollama, and two exhaustive ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ollama_gate.scheduler.commands import Forward, Prewarm
from ollama_gate.scheduler.types import ModelKey, Policy, Priority, RequestId
from ollama_gate.simulator.discrete import (
    GB,
    Agent,
    Brain,
    Contender,
    MostDemanded,
    Ollama,
    Outcome,
    Result,
    Step,
    Table,
    UpstreamSpec,
    Workload,
    World,
)
from ollama_gate.simulator.discrete.cards import Ticket
from ollama_gate.simulator.discrete.exhaustive import may_join
from ollama_gate.simulator.discrete.ollama import QUEUE_FULL, deal_out
from tests.discrete_play import BIN, a_model, a_workload, ask, drawn, on_card

A, B, C = (a_model(name, 14.0, parallel=1) for name in "abc")
"""No two fit together; each is loaded in 5 2/3 seconds and unloaded in one."""

LOAD_S = 1 + 14 / 3

EVERYBODY: list[Callable[[], Contender]] = [Brain, Ollama, Table, MostDemanded]


def run(workload: Workload, contender: Contender) -> Result:
    return World(workload, contender).run()


def loads(result: Result) -> str:
    return "".join(load.model for load in result.loads)


def starts(result: Result) -> list[float | None]:
    return [None if r.started_at is None else round(r.started_at, 3) for r in result.records]


# -------------------------------------------------------------------- everybody


@pytest.mark.parametrize("make", EVERYBODY)
@pytest.mark.parametrize("seed", range(4))
def test_everybody_serves_everybody_without_a_fault(
    make: Callable[[], Contender], seed: int
) -> None:
    workload = drawn(seed, gap_s=4.0 if make is Ollama else 2.0)
    result = run(workload, make())
    assert result.outcomes()[Outcome.SERVED] == len(workload.arrivals)
    assert result.counts.faults == result.counts.oom_loads == 0
    assert result.counts.loads == len(result.loads)
    for record in result.records:
        assert record.started_at is not None
        assert record.started_at >= record.arrived_at
        assert record.ended_at - record.started_at >= record.work_s - 1e-9


@pytest.mark.parametrize("make", EVERYBODY)
def test_the_same_seed_gives_the_same_run(make: Callable[[], Contender]) -> None:
    assert run(drawn(7), make()) == run(drawn(7), make())
    assert run(drawn(7), make()) != run(drawn(8), make())


@pytest.mark.parametrize("make", EVERYBODY)
def test_two_upstreams_end_sooner_than_one(make: Callable[[], Contender]) -> None:
    one, two = (run(drawn(3, cards=cards, gap_s=0.5), make()) for cards in (1, 2))
    assert two.counts.faults == 0
    assert {record.bin for record in two.records} == {"up0/0", "up1/0"}
    assert two.makespan_s < one.makespan_s


@pytest.mark.parametrize("make", EVERYBODY)
def test_a_model_goes_only_where_its_files_are(make: Callable[[], Contender]) -> None:
    there = replace(A, upstreams=frozenset({"right"}))
    upstreams = (UpstreamSpec(name="left"), UpstreamSpec(name="right"))
    workload = a_workload([there, B], [ask(0, "a"), ask(0, "b")], upstreams=upstreams)
    result = run(workload, make())
    assert [record.bin for record in result.records] == ["right/0", "left/0"]


# -------------------------------------------------------------------- the brain


def test_the_brain_serves_who_is_resident_before_it_swaps() -> None:
    workload = a_workload([A, B], [ask(t, m, 2.0) for t, m in enumerate("abababab")])
    result = run(workload, Brain())
    assert loads(result) == "ab"
    assert result.counts.loads == 2
    assert result.counts.unloads == 1


def test_the_brain_waits_for_what_others_take_rather_than_run_out_of_memory() -> None:
    foreign = ((0.0, 0), (20.0, 9 * GB), (60.0, 0))
    small = a_model("a", 8.0)
    workload = a_workload(
        [small, a_model("b", 8.0)],
        [ask(0, "a", 1.0), ask(22.5, "a", 1.0), ask(25, "b", 1.0)],
        upstreams=on_card(foreign=foreign),
    )
    result = run(workload, Brain())
    assert result.counts.faults == result.counts.oom_loads == 0
    assert result.outcomes()[Outcome.SERVED] == 3


def test_the_brain_learns_from_running_out_of_memory_and_serves_in_the_end() -> None:
    liar = replace(a_model("b", 15.0), estimate_bytes=9 * GB, predicted_bytes=9 * GB)
    workload = a_workload([a_model("a", 11.0), liar], [ask(0, "a", 1.0), ask(1, "b", 1.0)])
    result = run(workload, Brain())
    assert result.counts.oom_loads >= 1
    assert result.outcomes()[Outcome.SERVED] == 2
    assert result.counts.faults == 0


def test_the_brain_is_told_what_stayed_when_memory_ran_out() -> None:
    liar = replace(a_model("b", 15.0), estimate_bytes=9 * GB, predicted_bytes=9 * GB)
    idle, busy = a_model("a", 3.0), a_model("c", 8.5)
    asked = [ask(0, "c", 60.0), ask(0, "a", 1.0), ask(12, "b", 1.0)]
    result = run(a_workload([idle, busy, liar], asked), Brain())
    assert result.counts.oom_loads >= 1
    # Ollama lets go of the idle by itself; the busy one goes when it has ended.
    assert result.counts.upstream_evictions >= 1
    assert result.outcomes()[Outcome.SERVED] == 3
    assert result.counts.faults == 0


def test_a_model_that_never_fits_fails_and_holds_up_nobody() -> None:
    workload = a_workload([A, a_model("b", 30.0)], [ask(0, "b"), ask(0, "a")])
    result = run(workload, Brain())
    assert [record.outcome for record in result.records] == [Outcome.FAILED, Outcome.SERVED]
    assert result.records[0].why == "load_failed"


def test_the_brain_is_told_of_clients_that_leave() -> None:
    arrivals = [
        ask(0, "a", 30.0),
        ask(1, "b", 1.0, patience_s=5.0),
        ask(1, "a", 50.0, patience_s=60.0, cut_s=5.0),
    ]
    result = run(a_workload([A, B], arrivals), Brain())
    assert [record.outcome for record in result.records] == [
        Outcome.SERVED,
        Outcome.GAVE_UP,
        Outcome.CUT,
    ]


def test_a_deadline_drops_whoever_still_waits_then() -> None:
    arrivals = [ask(0, "a", 30.0), ask(1, "a", 1.0, deadline_s=20.0), ask(1, "a", 1.0)]
    result = run(a_workload([A], arrivals), Brain())
    assert [record.why for record in result.records] == ["", "deadline", ""]
    assert result.records[1].ended_at <= 21.0


def test_what_the_brain_wants_read_ahead_is_read_ahead() -> None:
    class Foresighted(Brain):
        def begin(self, world: World) -> None:
            super().begin(world)
            wish = Prewarm(bin=BIN, model=ModelKey("a"), name="a")
            world.at(0.0, lambda: self._do(wish))

    upstreams = (UpstreamSpec(page_cache_bytes=20 * GB, warm_bytes_per_s=14e9),)
    workload = a_workload([A], [ask(10, "a")], upstreams=upstreams)
    result = run(workload, Foresighted())
    assert result.counts.prewarms == 1
    assert starts(result) == [12.0]


def test_a_brain_that_sends_where_nothing_is_is_found_out() -> None:
    class Confused(Brain):
        def arrived(self, ticket: Ticket) -> None:
            super().arrived(ticket)
            self._do(Forward(id=RequestId(str(ticket.number)), bin=BIN, queued_s=0.0))

    # The one is being loaded and the other is not there at all.
    result = run(a_workload([A, B], [ask(0, "a"), ask(1, "b")]), Confused())
    assert result.counts.misdirected == 2
    assert result.outcomes()[Outcome.FAILED] == 2


def test_a_full_queue_refuses() -> None:
    arrivals = [ask(0, "a"), ask(7, "b"), ask(8, "b")]
    result = run(a_workload([A, B], arrivals), Brain(Policy(queue_max_size=1)))
    assert [record.why for record in result.records] == ["", "", "queue_full"]


def test_a_model_that_idled_long_enough_goes() -> None:
    workload = a_workload([A, B], [ask(0, "a", 1.0), ask(50, "a", 1.0)], keep_alive_s=20.0)
    for make in (Brain, Ollama):
        assert loads(run(workload, make())) == "aa"


def test_the_eldest_low_request_is_served_in_a_flood_that_never_ends() -> None:
    flood = [
        ask(t * 1.2, "a", 2.0, priority=Priority.HIGH, client="flood", patience_s=200.0)
        for t in range(1500)
    ]
    rare = [ask(30, "b", 2.0, priority=Priority.LOW, client="rare")]
    workload = a_workload([A, B], flood + rare)
    waits = {make: run(workload, make()).waits(client="rare").max for make in (Brain, Table)}
    assert waits[Table] > 1500
    assert waits[Brain] < 600


# -------------------------------------------------------------------- Ollama by itself


def test_ollamas_queue_stands_still_while_a_model_is_loaded() -> None:
    # Both would fit, and the second is held up by the first's load.
    small = [a_model("a", 6.0), a_model("b", 6.0)]
    result = run(a_workload(small, [ask(0, "a"), ask(0, "b")]), Ollama())
    assert starts(result) == [3.0, 6.0]


def test_requests_for_a_loaded_model_pass_those_that_wait_for_a_load() -> None:
    result = run(a_workload([A, B], [ask(0, "a"), ask(6, "b"), ask(7, "a")]), Ollama())
    first, second, third = result.records
    assert third.ended_at < (second.started_at or 0.0)
    assert first.ended_at < (third.started_at or 0.0) + 1e-9


def test_a_victim_that_is_kept_busy_never_goes() -> None:
    kept = [ask(t, "a", 2.0) for t in range(0, 300, 2)]
    result = run(a_workload([replace(A, parallel=2), B], [*kept, ask(10, "b")]), Ollama())
    assert max(record.wait_s for record in result.records if record.model == "b") > 280


def test_a_request_behind_the_one_that_waits_for_a_victim_waits_as_well() -> None:
    # There is room for c at once.
    models = [a_model("a", 14.0, parallel=1), a_model("b", 14.0), a_model("c", 3.0)]
    result = run(a_workload(models, [ask(0, "a", 60.0), ask(6, "b"), ask(7, "c")]), Ollama())
    assert (result.records[2].started_at or 0.0) > (result.records[1].started_at or 0.0)


def test_an_unload_is_waited_for_in_quarters_of_a_second() -> None:
    quick = replace(A, unload_s=0.6)
    result = run(a_workload([quick, B], [ask(0, "a", 1.0), ask(20, "b")]), Ollama())
    assert starts(result)[1] == round(20 + 0.75 + LOAD_S, 3)


def test_the_victim_is_the_first_by_name_whoever_was_used_last() -> None:
    models = [a_model(name, 5.0) for name in "abcd"]
    asked = [ask(0, "b", 1.0), ask(10, "c", 1.0), ask(20, "a", 1.0), ask(30, "d", 1.0)]
    result = run(a_workload(models, [*asked, ask(40, "a", 1.0), ask(50, "b", 1.0)]), Ollama())
    # Three are kept: d replaces a although that was used last, a replaces b, and b c.
    assert loads(result) == "bcadab"


def test_one_victim_goes_at_a_time_even_if_it_makes_no_room() -> None:
    models = [a_model("a", 2.0), a_model("b", 9.0), a_model("c", 20.0)]
    asked = [ask(0, "b", 1.0), ask(10, "a", 1.0), ask(20, "c", 1.0)]
    result = run(a_workload(models, asked), Ollama())
    assert result.counts.unloads == 2
    assert starts(result)[2] == round(20 + 2 + 1 + 20 / 3, 3)


def test_big_first_both_fit_and_small_first_they_do_not() -> None:
    models = [a_model("big", 15.0), a_model("small", 6.0)]
    big_first = [ask(0, "big", 1.0), ask(10, "small", 1.0)]
    small_first = [ask(0, "small", 1.0), ask(10, "big", 1.0)]
    assert run(a_workload(models, big_first), Ollama()).counts.unloads == 0
    assert run(a_workload(models, small_first), Ollama()).counts.unloads == 1


def test_a_keep_alive_in_every_request_brings_a_victim_back_to_life_for_ever() -> None:
    asked = [ask(0, "a", 20.0), ask(7, "b", 1.0), ask(8, "a", 1.0)]
    workload = a_workload([replace(A, parallel=2), B], asked, keep_alive_s=1e9)
    assert run(workload, Ollama()).counts.lost == 0
    result = run(workload, Ollama(sends_keep_alive=True))
    assert result.counts.lost == 1
    assert result.records[1].outcome is Outcome.UNSERVED


def test_who_gives_up_is_skipped_wherever_it_waits() -> None:
    asked = [
        ask(0, "a", 20.0),
        # In the process for a slot, for a victim, and in the queue behind that.
        ask(6, "a", 1.0, patience_s=2.0),
        ask(7, "b", 1.0, patience_s=2.0),
        ask(7, "c", 1.0, patience_s=2.0),
        ask(8, "b", 1.0),
    ]
    result = run(a_workload([A, B, C], asked), Ollama())
    gone = [record.outcome is Outcome.GAVE_UP for record in result.records]
    assert gone == [False, True, True, True, False]
    assert loads(result) == "ab"


def test_an_agent_asks_one_ollama_as_well() -> None:
    agent = Agent(client="x", steps=(Step(model="a", work_s=2.0, think_s=1.0),) * 3)
    assert len(run(a_workload([A], agents=(agent,)), Ollama()).records) == 3


def test_a_victim_that_is_used_before_it_goes_goes_when_it_is_idle() -> None:
    liar = replace(a_model("c", 16.0), predicted_bytes=5 * GB)
    models = [a_model("a", 5.0), a_model("b", 5.0), liar]
    asked = [ask(0, "a", 1.0), ask(10, "b", 1.0), ask(20, "c", 1.0), ask(26.5, "b", 5.0)]
    result = run(a_workload(models, asked), Ollama())
    assert loads(result) == "abcc"
    assert starts(result)[3] == 26.5
    assert (result.records[2].started_at or 0.0) > result.records[3].ended_at


def test_a_model_that_is_let_go_twice_goes_once() -> None:
    # b's time is over while a's memory is awaited, and c runs out of memory meanwhile.
    liar = replace(a_model("c", 22.5), predicted_bytes=5 * GB)
    models = [a_model("a", 1.0), a_model("b", 1.0), liar]
    asked = [ask(0, "a", 1.0), ask(0, "b", 0.1), ask(14.6, "c", 1.0)]
    result = run(a_workload(models, asked, keep_alive_s=20.0), Ollama())
    assert loads(result) == "abcc"
    assert result.counts.unloads == 2
    assert result.outcomes()[Outcome.SERVED] == 3


def test_its_queue_is_full_at_some_point() -> None:
    asked = [ask(0, "a"), ask(1, "b"), ask(1, "b"), ask(1, "b")]
    result = run(a_workload([A, B], asked), Ollama(max_queue=1))
    assert [record.why for record in result.records] == ["", "", QUEUE_FULL, QUEUE_FULL]


def test_a_load_ends_with_the_client_that_wanted_it() -> None:
    result = run(a_workload([A, B], [ask(0, "a", patience_s=3.0), ask(1, "b")]), Ollama())
    assert starts(result) == [None, round(3 + LOAD_S, 3)]
    assert [load.ok for load in result.loads] == [False, True]


def test_memory_that_runs_out_beside_others_makes_it_evict_all_and_try_once_more() -> None:
    liar = replace(a_model("c", 16.0), predicted_bytes=5 * GB)
    models = [a_model("a", 5.0), a_model("b", 5.0), liar]
    asked = [ask(0, "a", 1.0), ask(10, "b", 1.0), ask(20, "c", 1.0)]
    result = run(a_workload(models, asked), Ollama())
    assert loads(result) == "abcc"
    assert result.counts.unloads == 2
    assert result.outcomes()[Outcome.SERVED] == 3


def test_memory_that_runs_out_alone_fails_the_request() -> None:
    result = run(a_workload([A, a_model("b", 30.0)], [ask(0, "b"), ask(1, "a")]), Ollama())
    assert [record.outcome for record in result.records] == [Outcome.FAILED, Outcome.SERVED]


def test_with_two_cards_a_model_goes_where_most_is_free() -> None:
    upstreams = (replace(UpstreamSpec(), cards=UpstreamSpec().cards * 2),)
    workload = a_workload([A, B], [ask(0, "a"), ask(1, "b")], upstreams=upstreams)
    assert [r.bin for r in run(workload, Ollama()).records] == ["local/0", "local/1"]


def test_models_are_dealt_out_by_their_work() -> None:
    upstreams = (UpstreamSpec(name="x"), UpstreamSpec(name="y"))
    asked = [ask(0, "a", 9.0), ask(0, "b", 5.0), ask(0, "c", 3.0)]
    assert deal_out(a_workload([A, B, C], asked, upstreams=upstreams)) == {
        "a": "x",
        "b": "y",
        "c": "y",
    }


# -------------------------------------------------------------------- the table


def test_the_table_collects_those_who_want_the_same() -> None:
    asked = [ask(t, m, 1.0) for t, m in enumerate("abcabc")]
    assert loads(run(a_workload([A, B, C], asked), Table())) == "abc"


def test_the_table_is_first_come_in_who_is_loaded_next() -> None:
    asked = [ask(0, "a"), ask(1, "b", 1.0), *(ask(2, "c", 1.0) for _ in range(5))]
    assert loads(run(a_workload([A, B, C], asked), Table())) == "abc"


def test_the_table_loads_at_the_same_time_what_may_be_there_together() -> None:
    small = [a_model("a", 6.0), a_model("b", 6.0)]
    result = run(a_workload(small, [ask(0, "a"), ask(0, "b")]), Table())
    assert starts(result) == [5.0, 5.0]


def test_the_table_prefers_victims_that_are_cheap_to_load_again() -> None:
    models = [a_model("a", 12.0), a_model("b", 4.0), a_model("c", 8.0)]
    asked = [ask(0, "a", 1.0), ask(10, "b", 1.0), ask(20, "c", 1.0), ask(40, "a", 1.0)]
    assert loads(run(a_workload(models, asked), Table(share_rule=False))) == "abc"


def test_the_table_knows_nothing_of_others_on_the_card() -> None:
    workload = a_workload(
        [a_model("a", 6.0), a_model("b", 9.0)],
        [ask(0, "a"), ask(1, "b")],
        upstreams=on_card(foreign=((0.0, 12 * GB),)),
    )
    result = run(workload, Table())
    assert result.counts.oom_loads == 1
    assert result.records[1].why == "memory ran out"


def test_what_the_table_allows_depends_on_who_is_there_already() -> None:
    card = on_card()[0].cards[0]
    big, small, tiny = a_model("big", 15.0), a_model("small", 6.0), a_model("tiny", 2.5)
    assert may_join(small, [big], card, share_rule=True)
    assert not may_join(big, [small], card, share_rule=True)
    assert may_join(big, [small], card, share_rule=False)
    assert not may_join(tiny, [big, small], card, share_rule=False)
    assert may_join(a_model("huge", 30.0), [], card, share_rule=True)


# -------------------------------------------------------------------- the most demanded


def test_the_most_demanded_is_loaded_next() -> None:
    asked = [ask(0, "a"), ask(1, "b", 1.0), *(ask(2, "c", 1.0) for _ in range(5))]
    assert loads(run(a_workload([A, B, C], asked), MostDemanded())) == "acb"


def test_the_least_recently_used_of_the_idle_goes() -> None:
    models = [a_model(name, 6.0) for name in "abcd"]
    asked = [ask(t * 10, m, 1.0) for t, m in enumerate("abcadab")]
    upstreams = (UpstreamSpec(max_loaded=3),)
    workload = a_workload(models, asked, upstreams=upstreams)
    # For d goes b, for b goes c.
    assert loads(run(workload, MostDemanded())) == "abcdb"


def test_the_most_demanded_looks_at_the_card() -> None:
    workload = a_workload(
        [a_model("a", 6.0), a_model("b", 9.0)],
        [ask(0, "a"), ask(1, "b")],
        upstreams=on_card(foreign=((0.0, 12 * GB),)),
    )
    result = run(workload, MostDemanded())
    assert result.counts.oom_loads == 0
    assert result.outcomes()[Outcome.SERVED] == 2
