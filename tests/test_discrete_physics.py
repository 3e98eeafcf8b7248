"""The discrete-event world itself: how long things take, when memory runs out, what is counted."""

import math
from dataclasses import replace

import pytest

from ollama_gate.scheduler.types import BinId
from ollama_gate.simulator.discrete import (
    GB,
    Agent,
    Outcome,
    Physics,
    Result,
    Step,
    UpstreamSpec,
    World,
    load_s,
)
from ollama_gate.simulator.discrete.cards import PageCache
from ollama_gate.simulator.discrete.judge import believed_free_bytes
from ollama_gate.simulator.discrete.result import percentile, summary
from tests.discrete_play import BIN, Script, a_model, a_workload, ask, load, on_card, unload

A, B = a_model("a", 9.0), a_model("b", 9.0)
"""Each is loaded in four seconds."""


def ends(result: Result) -> list[float]:
    return [round(record.ended_at, 6) for record in result.records]


# -------------------------------------------------------------------- answers


def test_an_answer_alone_takes_as_long_as_its_work() -> None:
    result = World(a_workload([A], [ask(0, "a")]), Script((0, load("a")))).run()
    assert ends(result) == [14.0]
    assert result.records[0].wait_s == 4.0
    assert result.records[0].outcome is Outcome.SERVED
    assert result.records[0].bin == BIN


def test_a_card_twice_as_fast_takes_half_as_long() -> None:
    workload = a_workload([A], [ask(0, "a")], upstreams=on_card(speed=2.0))
    assert ends(World(workload, Script((0, load("a")))).run()) == [9.0]


def test_answers_of_one_model_are_faster_together_than_one_by_one() -> None:
    workload = a_workload([A], [ask(0, "a"), ask(0, "a")])
    together = 4 + 20 / 2**0.65
    assert ends(World(workload, Script((0, load("a")))).run()) == [round(together, 6)] * 2


def test_who_joins_later_slows_the_other_only_from_then_on() -> None:
    workload = a_workload([A], [ask(0, "a"), ask(9, "a", 2.0)])
    rate = 2**-0.35
    # The second has all of its two seconds beside the first, which had five before.
    second = 9 + 2 / rate
    assert ends(World(workload, Script((0, load("a")))).run()) == [
        round(second + 5 - 2, 6),
        round(second, 6),
    ]


def test_busy_models_on_one_card_slow_each_other_and_idle_ones_do_not() -> None:
    script = Script((0, load("a")), (4, load("b")))
    workload = a_workload([A, B], [ask(10, "a"), ask(10, "b"), ask(100, "a")])
    slow = round(10 + 10 * 2**0.85, 6)
    assert ends(World(workload, script).run()) == [slow, slow, 110.0]


def test_a_load_slows_the_card_by_a_tenth_while_it_lasts() -> None:
    script = Script((0, load("a")), (4, load("b")))
    workload = a_workload([A, B], [ask(0, "a")])
    # Of ten seconds of work the load's four yield nine tenths.
    assert ends(World(workload, script).run()) == [14.4]


def test_whoever_finds_no_slot_waits_for_one() -> None:
    one = replace(A, parallel=1)
    workload = a_workload([one], [ask(0, "a"), ask(0, "a")])
    assert ends(World(workload, Script((0, load("a")))).run()) == [14.0, 24.0]


def test_a_client_that_gives_up_leaves_the_line_and_one_that_hangs_up_its_slot() -> None:
    arrivals = [ask(0, "a", patience_s=3.0), ask(0, "a", cut_s=2.0), ask(5, "a", 7.0)]
    one = replace(A, parallel=1)
    result = World(a_workload([one], arrivals), Script((0, load("a")))).run()
    assert [record.outcome for record in result.records] == [
        Outcome.GAVE_UP,
        Outcome.CUT,
        Outcome.SERVED,
    ]
    assert ends(result) == [3.0, 6.0, 13.0]
    assert result.makespan_s == 13.0


def test_an_agent_asks_again_when_it_has_thought_about_its_answer() -> None:
    steps = (
        Step(model="a", work_s=2.0, think_s=1.0),
        Step(model="a", work_s=3.0, think_s=5.0),
    )
    workload = a_workload([A], agents=(Agent(client="x", steps=steps, starts_at_s=4.0),))
    result = World(workload, Script((0, load("a")))).run()
    assert [(r.arrived_at, r.ended_at) for r in result.records] == [(5.0, 7.0), (12.0, 15.0)]


# -------------------------------------------------------------------- loads and unloads


def test_loads_at_the_same_time_share_the_disk() -> None:
    script = Script((0, load("a")), (0, load("b")))
    World(a_workload([A, B], [ask(0, "a"), ask(0, "b")]), script).run()
    assert script.seen == [(7.0, "loaded a"), (7.0, "loaded b")]


def test_a_load_that_comes_later_slows_the_first_from_then_on() -> None:
    script = Script((0, load("a")), (1, load("b")))
    World(a_workload([A, B], [ask(0, "a"), ask(0, "b")]), script).run()
    # When the second begins to read, two of the first's three seconds are left, and take four.
    assert script.seen == [(6.0, "loaded a"), (7.0, "loaded b")]


def test_a_model_of_its_own_speed_is_read_at_that() -> None:
    slow = replace(A, read_bytes_per_s=1e9)
    assert load_s(slow, UpstreamSpec()) == 10.0
    assert load_s(slow, UpstreamSpec(), cached_bytes=5 * GB) == pytest.approx(5.5)


def test_an_unloaded_model_is_listed_no_more_before_its_memory_is_back() -> None:
    script = Script((0, load("a")), (30, unload("a")), (31.2, load("a")), reads_cards=True)
    workload = a_workload([A], [ask(0, "a"), ask(31, "a")])
    result = World(workload, script).run()
    assert script.seen[:3] == [(4.0, "loaded a"), (30.5, "gone a"), (31.0, "vacated a")]
    assert result.counts.loads == 2
    assert result.counts.unloads == 1
    reads = dict(script.reads)
    assert reads[30.8] == 9 * GB
    assert reads[31.2] == 0


def test_memory_runs_out_at_the_end_of_a_load_by_what_models_really_take() -> None:
    liar = replace(a_model("b", 16.0), estimate_bytes=5 * GB)
    script = Script((0, load("a")), (4, load("b")), (30, load("b")))
    workload = a_workload([A, liar], [ask(0, "a")])
    result = World(workload, script).run()
    assert (round(5 + 16 / 3, 6), "failed b oom") in script.seen
    assert result.counts.oom_loads == 1
    # By what could be known it had room.
    assert result.counts.over_commits == 0
    assert [load.ok for load in result.loads] == [True, False]


def test_others_on_the_card_take_memory_by_their_schedule() -> None:
    script = Script((0, load("a")), reads_cards=True)
    foreign = ((0.0, 2 * GB), (10.0, 16 * GB), (20.0, 20 * GB))
    workload = a_workload([A], [ask(0, "a", 100.0)], upstreams=on_card(foreign=foreign))
    World(workload, script).run()
    reads = dict(script.reads)
    assert reads[0.0] == 2 * GB
    # They have no more than there is.
    assert reads[12.0] == reads[22.0] == 24 * GB


def test_a_load_fails_for_what_others_took_while_it_went_on() -> None:
    foreign = ((2.0, 16 * GB),)
    script = Script((0, load("a")))
    workload = a_workload([A], [ask(0, "a", patience_s=10)], upstreams=on_card(foreign=foreign))
    result = World(workload, script).run()
    assert script.seen == [(4.0, "failed a oom")]
    assert result.counts.over_commits == 0


def test_a_card_at_rest_is_read_three_times_and_then_left_alone_until_something_moves() -> None:
    script = Script((0, load("a")), (110, unload("a")), reads_cards=True)
    workload = a_workload([A], [ask(0, "a", 100.0), ask(300, "a", patience_s=1.0)])
    workload = replace(
        workload, physics=Physics(reading_s=2.0, moving_reading_s=0.5, loading_reading_s=2.0)
    )
    World(workload, script).run()
    before = [at for at, _ in script.reads if at < 100.0]
    assert [at for at in before if at >= 4.0] == [4.0, 6.0, 8.0]
    moving = [at for at, _ in script.reads if at > 110.0]
    # At rest it is read when everybody else is: every two seconds.
    assert moving == [110.5, 111.0, 112.0, 114.0]


def test_a_load_may_be_given_up_in_its_midst() -> None:
    script = Script((0, load("a")), (3, lambda w: w.abort(w.runners[BIN, "a"])), (3, load("b")))
    workload = a_workload([A, B], [ask(0, "b")])
    World(workload, script).run()
    assert script.seen == [(3.0, "failed a"), (7.0, "loaded b")]


# -------------------------------------------------------------------- the page cache

CACHED = (UpstreamSpec(page_cache_bytes=10 * GB, warm_bytes_per_s=9e9),)


def test_what_was_read_lately_is_loaded_faster() -> None:
    script = Script((0, load("a")), (20, unload("a")), (22, load("a")))
    World(a_workload([A], [ask(0, "a"), ask(22, "a")], upstreams=CACHED), script).run()
    assert (24.0, "loaded a") in script.seen


def test_what_was_read_longest_ago_leaves_the_cache_first() -> None:
    cache = PageCache(20 * GB)
    for model in (A, B, A, a_model("c", 9.0)):
        cache.keep(model, model.weights_bytes)
    assert [cache.of(a_model(name)) for name in "abc"] == [9 * GB, 0, 9 * GB]
    cache.keep(a_model("d", 30.0), 30 * GB)
    assert cache.of(a_model("d")) == 0


def test_a_file_read_ahead_is_loaded_faster() -> None:
    script = Script((0, lambda w: w.prewarm("local", A)), (5, load("a")))
    result = World(a_workload([A], [ask(0, "a")], upstreams=CACHED), script).run()
    assert script.seen == [(7.0, "loaded a")]
    assert result.counts.prewarms == 1


def test_a_load_ends_what_is_read_ahead_and_finds_as_much_as_was_read() -> None:
    script = Script((0, lambda w: w.prewarm("local", A)), (1.5, load("a")))
    World(a_workload([A], [ask(0, "a")], upstreams=CACHED), script).run()
    # Half of it was read in half of three seconds; the rest is as slow as ever.
    assert script.seen == [(1.5 + 1 + 0.5 + 1.5, "loaded a")]


def test_a_newer_wish_ends_the_reading_before_it() -> None:
    said = []
    script = Script(
        (0, lambda w: said.append(w.prewarm("local", A))),
        (1, lambda w: said.append(w.prewarm("local", B))),
        (2, lambda w: said.append(w.prewarm("local", B))),
        (9, load("b")),
    )
    World(a_workload([A, B], [ask(0, "b")], upstreams=CACHED), script).run()
    assert said == [True, True, False]
    assert script.seen == [(11.0, "loaded b")]


def test_nothing_is_read_ahead_during_a_load_or_without_a_cache_or_twice() -> None:
    said = []
    script = Script(
        (0, load("a")),
        (1, lambda w: said.append(w.prewarm("local", B))),
        (5, lambda w: said.append(w.prewarm("local", A))),
        (5, lambda w: said.append(w.prewarm("local", a_model("c", 30.0)))),
    )
    World(a_workload([A, B], [ask(0, "a")], upstreams=CACHED), script).run()
    assert said == [False, False, False]
    World(a_workload([A, B], [ask(0, "a")]), script).run()
    assert said[3:] == [False, False, False]


# -------------------------------------------------------------------- the judge


def test_a_load_beside_what_leaves_no_room_for_it_is_counted() -> None:
    big = a_model("b", 15.5)
    workload = a_workload([A, big], [ask(0, "a")])
    assert World(workload, Script((0, load("a")), (5, load("b")))).run().counts.over_commits == 1
    assert World(workload, Script((5, load("a")))).run().counts.over_commits == 0


def test_only_who_promises_to_keep_the_reserve_is_held_to_it() -> None:
    workload = a_workload([A, a_model("b", 14.5)], [ask(0, "a")])
    lines = (0, load("a")), (5, load("b"))
    assert World(workload, Script(*lines)).run().counts.over_commits == 0
    assert World(workload, Script(*lines, keeps_reserve=True)).run().counts.over_commits == 1


def test_who_reads_cards_is_judged_by_the_last_reading_and_others_by_what_is() -> None:
    workload = a_workload(
        [A, B], [ask(0, "a")], upstreams=on_card(foreign=((8.5, 10 * GB),), reserve_bytes=0)
    )
    lines = (0, load("a")), (8.6, load("b"))
    assert World(workload, Script(*lines)).run().counts.over_commits == 1
    assert World(workload, Script(*lines, reads_cards=True)).run().counts.over_commits == 0


def test_memory_on_its_way_out_is_not_free_yet() -> None:
    workload = a_workload([A, a_model("b", 16.0)], [ask(0, "a", 1.0), ask(0, "b")])
    lines = (0, load("a")), (6, unload("a")), (6.9, load("b"))
    assert World(workload, Script(*lines)).run().counts.over_commits == 1


def test_a_load_beside_which_ollama_would_evict_by_itself_is_counted() -> None:
    big = a_model("b", 13.0)
    lines = (0, load("a")), (5, load("b"))
    workload = a_workload([A, big], [ask(0, "a")])
    # Ollama believes 15.4 GB to be free, of which four fifths are too little.
    assert World(workload, Script(*lines, under_ollama=True)).run().counts.rule_breaches == 1
    assert World(workload, Script(*lines)).run().counts.rule_breaches == 0
    one = a_workload([A, B], [ask(0, "a")], upstreams=(UpstreamSpec(max_loaded=1),))
    assert World(one, Script(*lines, under_ollama=True)).run().counts.rule_breaches == 1


def test_ollama_goes_on_believing_what_was_free_when_the_first_was_loaded() -> None:
    believed = []
    foreign = ((0.0, 4 * GB), (10.0, 0))
    script = Script((0, load("a")), (20, lambda w: believed.append(free(w))))
    World(a_workload([A], [ask(0, "a", 30.0)], upstreams=on_card(foreign=foreign)), script).run()
    assert believed == [20 * GB - A.reported_bytes]


def test_who_must_not_be_wrong_reckons_with_the_least_that_ollama_may_believe() -> None:
    # What is loaded beside another remembers less, also when that has gone.
    believed = []

    def note(world: World) -> None:
        believed.append(free(world))

    script = Script((0, load("a")), (5, load("b")), (30, unload("a")), (32, note))
    World(a_workload([A, B], [ask(0, "a"), ask(0, "b", 60.0)]), script).run()
    assert believed == [24 * GB - A.footprint_bytes - B.reported_bytes]


def test_an_ollama_that_does_not_remember_looks_at_the_card() -> None:
    believed = []
    foreign = ((0.0, 4 * GB), (10.0, GB))
    script = Script((0, load("a")), (20, lambda w: believed.append(free(w))))
    upstreams = (replace(on_card(foreign=foreign)[0], remembers_free=False),)
    World(a_workload([A], [ask(0, "a", 30.0)], upstreams=upstreams), script).run()
    assert believed == [14 * GB]


def free(world: World) -> int | None:
    return believed_free_bytes(world.cards[BIN])


def test_an_unload_of_a_busy_model_is_counted_and_ends_its_answers() -> None:
    result = World(a_workload([A], [ask(0, "a")]), Script((0, load("a")), (5, unload("a")))).run()
    assert result.counts.busy_unloads == 1
    assert result.records[0].outcome is Outcome.FAILED
    assert result.counts.faults == 1


def test_a_request_sent_where_it_has_no_slot_is_counted_and_fails() -> None:
    class Careless(Script):
        def arrived(self, ticket: object) -> None:
            self.world.start(ticket, self.world.runners[BIN, "a"])  # type: ignore[arg-type]

    result = World(a_workload([A, B], [ask(9, "b"), ask(9, "a")]), Careless((0, load("a")))).run()
    assert result.counts.misdirected == 1
    assert [record.outcome for record in result.records] == [Outcome.FAILED, Outcome.SERVED]


def test_a_request_cannot_end_twice() -> None:
    class Forgetful(Script):
        def left(self, ticket: object) -> None:
            self.world.start(ticket, self.world.runners[BIN, "a"])  # type: ignore[arg-type]
            self.world.refuse(ticket, "late")  # type: ignore[arg-type]

    result = World(a_workload([A], [ask(0, "a")]), Forgetful((0, load("a")))).run()
    assert result.counts.ended_twice == 2
    assert result.outcomes()[Outcome.SERVED] == 1


def test_a_request_for_which_nothing_will_ever_happen_is_lost() -> None:
    result = World(a_workload([A], [ask(1, "a")]), Script()).run()
    assert result.counts.lost == 1
    assert result.records[0].outcome is Outcome.UNSERVED


def test_a_run_that_is_cut_off_loses_nobody_but_does_not_hide_who_still_waited() -> None:
    workload = a_workload([A], [ask(0, "a", 1.0), ask(0, "a", 100.0)], ends_at_s=30.0)
    result = World(workload, Script((0, load("a")))).run()
    assert result.counts.lost == 0
    assert result.outcomes()[Outcome.UNSERVED] == 1
    waiting = World(a_workload([A], [ask(5, "a")], ends_at_s=30.0), Script((29, load("a")))).run()
    assert waiting.waits().max == 25.0


def test_who_wants_to_be_woken_for_nothing_again_and_again_is_found_out() -> None:
    class Restless(Script):
        def next_wakeup(self) -> float:
            return self.world.now + 1e-6

    with pytest.raises(AssertionError, match="again and again"):
        World(a_workload([A], [ask(50, "a")]), Restless()).run()


# -------------------------------------------------------------------- figures


def test_percentiles_are_lengths_that_did_occur() -> None:
    lengths = [float(n) for n in range(1, 101)]
    assert [percentile(lengths, p) for p in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert percentile([3.0], 99) == 3.0
    assert summary([]) == summary(iter(()))
    assert summary([4.0, 2.0]).mean == 3.0


def test_waits_are_told_by_class_client_and_model() -> None:
    arrivals = [
        ask(0, "a", 1.0, client="x"),
        ask(2, "a", 1.0, client="y", patience_s=math.inf),
        ask(2, "a", 1.0, client="y", patience_s=1.0),
    ]
    result = World(a_workload([A], arrivals), Script((0, load("a")))).run()
    assert {name: s.mean for name, s in result.by_client().items()} == {"x": 4.0, "y": 2.0}
    assert result.by_model()["a"].count == 2
    assert [s.count for s in result.by_class().values()] == [2]


def test_bins_are_named_after_their_upstream() -> None:
    assert UpstreamSpec(name="left").bin_ids() == (BinId("left/0"),)
