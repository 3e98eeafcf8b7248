"""The command `replay`: traces and named workloads, run again with something changed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from ollama_gate.cli import main
from ollama_gate.errors import TraceError
from ollama_gate.replay.averages import class_wait, geometric_mean, mean, ratio, wait
from ollama_gate.replay.changes import ChangeError, Changes
from ollama_gate.replay.contenders import SCHEDULINGS, as_it_comes
from ollama_gate.replay.figures import figures
from ollama_gate.replay.shared import Answer, works_s
from ollama_gate.replay.traced import Traced, traced
from ollama_gate.scheduler.types import Priority
from ollama_gate.simulator.discrete import result as outcome
from ollama_gate.simulator.discrete.cards import Outcome
from ollama_gate.simulator.discrete.workload import Arrival, ModelSpec, Workload
from ollama_gate.simulator.workloads import FAMILIES, SMALL
from ollama_gate.trace import lines, read

GIB = 2**30
START = 1_700_000_000.0


def write(path: Path, *parts: lines.AnyLine) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(part) + b"\n" for part in parts))
    return path


def began(**more: Any) -> lines.Began:
    given: dict[str, Any] = {
        "bins": (lines.Place(bin="u/0", upstream="u", capacity_bytes=24 * GIB),),
        "policy": {"kappa": 5.0, "keep_alive_s": 60.0},
        **more,
    }
    return lines.Began(version=1, at=START, **given)


def kind(number: int, model: str, gib: int = 14, *, bins: Sequence[str] = ("u/0",)) -> lines.Kind:
    takes = lines.Takes(footprint_bytes=gib * GIB, predicted_bytes=(gib - 1) * GIB, parallel=2)
    return lines.Kind(
        number=number, model=f"sha256:{model}", name=model, takes=dict.fromkeys(bins, takes)
    )


def asked(request_id: str, at: float, number: int = 0, **more: Any) -> lines.Asked:
    given: dict[str, Any] = {
        "priority": "normal",
        "outcome": "served",
        "waited_s": 1.0,
        "ran_s": 4.0,
        "bin": "u/0",
        **more,
    }
    return lines.Asked(id=request_id, at=START + at, kind=number, **given)


def loaded(model: str, at: float, took_s: float) -> lines.LoadLine:
    return lines.LoadLine(at=START + at, bin="u/0", model=f"sha256:{model}", took_s=took_s)


def the_trace(tmp_path: Path, *parts: lines.AnyLine) -> Traced:
    return traced(read(write(tmp_path / "t.jsonl", *parts)), "t")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments])


# -------------------------------------------------------------------- a trace as a workload


def test_requests_of_a_trace_come_when_they_came(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path, began(), kind(0, "a"), asked("r", 10.0), asked("s", 12.5, priority="high")
    )

    first, second = found.workload.arrivals
    assert (first.at_s, second.at_s) == (0.0, 2.5)
    assert (first.model, second.priority) == ("a", Priority.HIGH)


def test_answers_that_shared_a_runner_are_less_work_than_time(tmp_path: Path) -> None:
    found = the_trace(tmp_path, began(), kind(0, "a"), asked("r", 0.0), asked("s", 0.0))

    assert [a.work_s for a in found.workload.arrivals] == [pytest.approx(4.0 * 2**-0.35)] * 2


def test_who_gave_up_gives_up_again_as_soon(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path,
        began(),
        kind(0, "a"),
        asked("r", 0.0),
        asked("s", 8.0, outcome="left", waited_s=7.0, ran_s=None, bin=None),
    )

    served, left = found.workload.arrivals
    assert (served.patience_s, left.patience_s) == (math.inf, 7.0)
    # Nobody knows how long its answer would have been.
    assert left.work_s == served.work_s


def test_a_deadline_is_one_again(tmp_path: Path) -> None:
    found = the_trace(tmp_path, began(), kind(0, "a"), asked("r", 0.0, deadline_s=30.0))

    assert found.workload.arrivals[0].deadline_s == 30.0


def test_a_model_takes_what_it_took_and_loads_as_fast(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path, began(), kind(0, "a", gib=14), loaded("a", 0.0, 6.0), asked("r", 0.0)
    )

    (model,) = found.workload.models
    assert (model.footprint_bytes, model.tested_bytes) == (14 * GIB, 13 * GIB)
    assert model.parallel == 2
    assert model.read_bytes_per_s is not None
    load_s = model.start_s + model.weights_bytes / model.read_bytes_per_s
    assert load_s == pytest.approx(6.0)


def test_the_largest_context_of_a_model_counts(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path, began(), kind(0, "a", gib=6), kind(1, "a", gib=9), asked("r", 0.0, 1)
    )

    assert found.workload.model("a").footprint_bytes == 9 * GIB


def test_two_models_that_had_one_name_are_told_apart(tmp_path: Path) -> None:
    before = msgspec.structs.replace(kind(0, "a"), model="sha256-aaaaaaaabb")
    after = msgspec.structs.replace(kind(1, "b"), model="sha256-bbbbbbbbaa", name="a")

    found = the_trace(tmp_path, began(), before, after, asked("r", 0.0), asked("s", 9.0, 1))

    assert [model.name for model in found.workload.models] == ["a@aaaaaaaa", "a@bbbbbbbb"]


def test_a_configured_budget_is_all_for_models(tmp_path: Path) -> None:
    found = the_trace(tmp_path, began(), kind(0, "a"), asked("r", 0.0))

    ((_, _, card),) = found.workload.bins()
    assert (card.total_bytes, card.reserve_bytes) == (24 * GIB, 0)


def test_a_card_that_was_read_keeps_its_reserve_and_its_neighbours(tmp_path: Path) -> None:
    place = lines.Place(bin="u/0", upstream="u")
    readings = [
        lines.Card(at=START + at, bin="u/0", total_bytes=48 * GIB, foreign_bytes=foreign)
        for at, foreign in ((-5.0, 0), (30.0, 9 * GIB))
    ]

    found = the_trace(tmp_path, began(bins=(place,)), *readings, kind(0, "a"), asked("r", 0.0))

    ((_, _, card),) = found.workload.bins()
    assert card.total_bytes == 48 * GIB
    assert card.reserve_bytes == round(48 * GIB * 0.05)
    assert card.foreign == ((0.0, 0), (30.0, 9 * GIB))


def test_a_card_that_nobody_knew_is_asked_for(tmp_path: Path) -> None:
    place = lines.Place(bin="u/0", upstream="u")

    with pytest.raises(TraceError, match="give --vram"):
        the_trace(tmp_path, began(bins=(place,)), kind(0, "a"), asked("r", 0.0))


def test_a_model_stays_where_its_files_are(tmp_path: Path) -> None:
    places = tuple(
        lines.Place(bin=f"{name}/0", upstream=name, capacity_bytes=24 * GIB) for name in "uv"
    )

    found = the_trace(
        tmp_path,
        began(bins=places),
        kind(0, "a", bins=("v/0",)),
        kind(1, "b", bins=("u/0", "v/0")),
        asked("r", 0.0, bin="v/0"),
    )

    here, there = (found.workload.model(name).upstreams for name in "ab")
    assert (here, there) == (frozenset({"v"}), frozenset())


def test_the_policy_is_the_one_that_was_in_effect(tmp_path: Path) -> None:
    policy = {"kappa": 5.0, "keep_alive_s": None, "a_later_one": 3}

    found = the_trace(tmp_path, began(policy=policy), kind(0, "a"), asked("r", 0.0))

    assert (found.policy.kappa, found.policy.keep_alive_s) == (5.0, math.inf)


def test_a_policy_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="kappa"):
        the_trace(tmp_path, began(policy={"kappa": "much"}), kind(0, "a"), asked("r", 0.0))


def test_what_was_recorded_has_the_waits_that_it_had(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path,
        began(),
        kind(0, "a"),
        asked("r", 0.0, waited_s=3.0),
        asked("s", 1.0, waited_s=5.0, priority="high"),
        asked("t", 2.0, outcome="refused", reason="queue_full", waited_s=0.0, ran_s=None, bin=None),
        loaded("a", 0.0, 2.5),
    )

    made = figures(found.recorded)
    assert (made.waits.mean, made.by_class["high"].max) == (4.0, 5.0)
    assert (made.makespan_s, made.loads, made.refused) == (10.0, 1, 1)


def test_two_lives_are_one_history(tmp_path: Path) -> None:
    found = the_trace(
        tmp_path, began(), kind(0, "a"), asked("r", 0.0), began(), kind(0, "b"), asked("r", 50.0)
    )

    assert [(a.at_s, a.model) for a in found.workload.arrivals] == [(0.0, "a"), (50.0, "b")]


# -------------------------------------------------------------------- work and time


def answer(request_id: str, began_at: float, ended_at: float, model: str = "a") -> Answer:
    return Answer(id=request_id, place="u/0", model=model, began_at=began_at, ended_at=ended_at)


def test_an_answer_by_itself_is_as_much_work_as_time() -> None:
    assert works_s([answer("r", 1.0, 5.0)], []) == {"r": 4.0}


def test_a_load_beside_it_slows_an_answer() -> None:
    works = works_s([answer("r", 0.0, 4.0)], [("u/0", 1.0, 2.0), ("v/0", 0.0, 4.0)])

    assert works["r"] == pytest.approx(3.0 + 0.9)


def test_two_busy_models_slow_each_other() -> None:
    works = works_s([answer("r", 0.0, 4.0), answer("s", 2.0, 4.0, "b")], [])

    assert works["r"] == pytest.approx(2.0 + 2.0 * 2**-0.85)


def test_an_answer_of_no_length_is_no_work() -> None:
    assert works_s([answer("r", 1.0, 1.0)], []) == {"r": 0.0}


@pytest.mark.parametrize("name", ["tides", "batch_chat_fit"])
def test_work_is_found_again_from_the_times_that_it_took(name: str) -> None:
    workload = FAMILIES[name].make(20)
    done = SCHEDULINGS["gate"].run(workload)
    answers = [
        Answer(
            id=str(each.number),
            place=str(each.bin),
            model=each.model,
            began_at=each.started_at,
            ended_at=each.ended_at,
        )
        for each in done.records
        if each.started_at is not None
    ]

    works = works_s(answers, [(load.bin, load.began_at, load.ended_at) for load in done.loads])

    assert len(works) == len(done.records)
    for each in done.records:
        assert works[str(each.number)] == pytest.approx(each.work_s, rel=1e-6)


def trace_of(done: outcome.Result, workload: Workload) -> list[lines.AnyLine]:
    """What a gate would have written that had been in the world."""
    kinds = {model.name: number for number, model in enumerate(workload.models)}
    bins = [bin_id for bin_id, _, _ in workload.bins()]
    parts: list[lines.AnyLine] = [
        began(
            policy={"queue_max_size": 10**6},
            bins=tuple(
                lines.Place(
                    bin=bin_id,
                    upstream=upstream.name,
                    reserve_bytes=card.reserve_bytes,
                    max_loaded=upstream.loaded_limit,
                )
                for bin_id, upstream, card in workload.bins()
            ),
        )
    ]
    for bin_id, _, card in workload.bins():
        size = card.total_bytes
        parts.append(lines.Card(at=START, bin=bin_id, total_bytes=size, foreign_bytes=0))
    for model in workload.models:
        takes = lines.Takes(
            footprint_bytes=model.footprint_bytes,
            predicted_bytes=model.tested_bytes,
            parallel=model.parallel,
        )
        number, name = kinds[model.name], model.name
        where = {str(bin_id): takes for bin_id in bins}
        parts.append(lines.Kind(number=number, model=f"sha256:{name}", name=name, takes=where))
    parts += [
        lines.LoadLine(
            at=START + each.began_at,
            bin=each.bin,
            model=f"sha256:{each.model}",
            took_s=each.ended_at - each.began_at,
            ok=each.ok,
        )
        for each in done.loads
    ]
    parts += [
        asked(
            str(each.number),
            each.arrived_at,
            kinds[each.model],
            priority=each.priority.name.lower(),
            waited_s=each.wait_s,
            ran_s=each.ended_at - (each.started_at or 0.0),
            bin=each.bin,
        )
        for each in done.records
    ]
    return parts


@pytest.mark.parametrize("name", ["alt2", "multi2", "clients"])
def test_a_trace_replayed_as_it_was_comes_to_what_it_was(tmp_path: Path, name: str) -> None:
    workload = FAMILIES[name].make(20)
    done = SCHEDULINGS["gate"].run(workload)
    path = write(tmp_path / "t.jsonl", *trace_of(done, workload))

    found = rows(run(str(path), "--json"))

    before, after = found["recorded"], found["gate, as it was"]
    assert after["makespan_s"] == pytest.approx(before["makespan_s"], rel=0.05)
    assert after["loads"] == pytest.approx(before["loads"], rel=0.1, abs=2)
    assert after["waits"]["mean"] == pytest.approx(before["waits"]["mean"], rel=0.15)


# -------------------------------------------------------------------- changes


def test_nothing_changed_is_no_change() -> None:
    assert not Changes()
    assert Changes().of(FAMILIES["alt2"].make(7)) == FAMILIES["alt2"].make(7)


def test_another_footprint_changes_the_load_in_proportion() -> None:
    workload = FAMILIES["alt2"].make(7)
    before = workload.model("left")

    after = Changes(footprints={"left": before.footprint_bytes // 2}).of(workload).model("left")

    assert after.believed_bytes == after.footprint_bytes == before.footprint_bytes // 2
    assert after.weights_bytes == pytest.approx(before.weights_bytes / 2, abs=1)
    assert after.tested_bytes == pytest.approx(before.tested_bytes / 2, abs=1)


def test_an_unknown_model_cannot_be_changed() -> None:
    with pytest.raises(ChangeError, match="expected a model among left, right, found lft"):
        Changes(footprints={"lft": 1}).of(FAMILIES["alt2"].make(7))


def test_more_cards_have_all_models_each() -> None:
    changed = Changes(cards=3, vram_bytes=48 * GIB).of(FAMILIES["alt2"].make(7))

    assert [upstream.name for upstream in changed.upstreams] == ["local", "card-1", "card-2"]
    assert {card.total_bytes for _, _, card in changed.bins()} == {48 * GIB}


def test_slots_may_be_more() -> None:
    changed = Changes(parallel=8).of(FAMILIES["alt2"].make(7))

    assert {model.parallel for model in changed.models} == {8}


# -------------------------------------------------------------------- who schedules


def test_ollama_as_it_comes_has_one_slot_and_a_smaller_cache_a_model() -> None:
    workload = FAMILIES["alt2"].make(7)

    before, after = workload.models[0], as_it_comes(workload).models[0]

    cache = before.footprint_bytes - before.weights_bytes - before.overhead_bytes
    assert after.parallel == 1
    assert before.footprint_bytes - after.footprint_bytes == pytest.approx(cache * 3 / 4, abs=1)
    assert as_it_comes(workload).upstreams[0].loaded_limit == 3


@pytest.mark.parametrize("name", list(SCHEDULINGS))
def test_everybody_who_schedules_serves_everybody(name: str) -> None:
    done = SCHEDULINGS[name].run(SMALL["pair_bursts"].make(7))

    assert {record.outcome for record in done.records} == {Outcome.SERVED}


# -------------------------------------------------------------------- figures


def record(client: str, wait_s: float, **more: Any) -> outcome.Record:
    given: dict[str, Any] = {"priority": Priority.NORMAL, "outcome": Outcome.SERVED, **more}
    return outcome.Record(
        number=0,
        model="a",
        client=client,
        work_s=1.0,
        arrived_at=0.0,
        started_at=wait_s,
        ended_at=wait_s + 1.0,
        bin=None,
        **given,
    )


def a_result(*records: outcome.Record) -> outcome.Result:
    return outcome.Result(
        workload="w",
        seed=0,
        contender="c",
        records=records,
        loads=(),
        counts=outcome.Counts(loads=4),
        ended_at=0.0,
        events=0,
    )


def test_small_clients_are_all_but_the_one_who_asked_for_most() -> None:
    made = figures(a_result(record("x", 90.0), record("x", 90.0), record("y", 10.0)))

    assert made.small_mean_s == 10.0
    assert made.unfairness == 90.0 / 50.0


def test_alone_nobody_is_treated_unfairly() -> None:
    made = figures(a_result(record("x", 90.0)))

    assert (made.small_mean_s, made.unfairness) == (None, None)


def test_clients_who_never_wait_are_treated_alike() -> None:
    assert figures(a_result(record("x", 0.0), record("y", 0.0))).unfairness == 1.0


def test_the_mean_of_runs_is_taken_figure_by_figure() -> None:
    high = record("x", 2.0, priority=Priority.HIGH)

    both = mean([figures(a_result(record("x", 4.0))), figures(a_result(record("x", 8.0), high))])

    assert (both.runs, both.loads) == (2, 4)
    assert both.waits.mean == (4.0 + 5.0) / 2
    # Only one of them has anybody of that class.
    assert both.by_class["high"].mean == 2.0
    assert both.small_mean_s is None


def test_ratios_of_families_are_averaged_geometrically_with_a_second_added() -> None:
    ours = {"a": figures(a_result(record("x", 1.0))), "b": figures(a_result(record("x", 7.0)))}
    theirs = {"a": figures(a_result(record("x", 3.0))), "b": figures(a_result(record("x", 0.0)))}

    assert ratio(ours, theirs, wait("mean"), added=1.0) == pytest.approx((2 / 4 * 8 / 1) ** 0.5)


def test_a_class_that_a_family_has_not_decides_nothing() -> None:
    ours = {"a": figures(a_result(record("x", 1.0)))}

    assert class_wait("high", "p99")(ours["a"]) is None
    assert ratio(ours, ours, class_wait("high", "p99")) is None
    assert geometric_mean([]) is None


# -------------------------------------------------------------------- the command


def a_recorded_day(tmp_path: Path) -> str:
    """Two models by turns, none of which fits beside the other."""
    parts: list[lines.AnyLine] = [began(), kind(0, "a"), kind(1, "b")]
    for number in range(20):
        parts.append(asked(f"r{number}", 3.0 * number, number % 2, waited_s=6.0, ran_s=2.0))
        parts.append(loaded("ab"[number % 2], 3.0 * number, 3.0))
    return str(write(tmp_path / "day.jsonl", *parts))


def rows(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {row["case"]: row for row in json.loads(result.output)}


def test_a_trace_is_shown_as_recorded_and_as_it_would_be_again(tmp_path: Path) -> None:
    found = rows(run(a_recorded_day(tmp_path), "--json"))

    assert list(found) == ["recorded", "gate, as it was"]
    assert found["recorded"]["loads"] == 20
    assert found["gate, as it was"]["loads"] < 20
    assert {row["requests"] for row in found.values()} == {20}


def test_a_larger_card_ends_the_swaps(tmp_path: Path) -> None:
    found = rows(run(a_recorded_day(tmp_path), "--vram", "48GiB", "--json"))

    assert found["gate, changed"]["loads"] == 2


def test_so_do_a_second_card_and_smaller_models(tmp_path: Path) -> None:
    day = a_recorded_day(tmp_path)

    two_cards = rows(run(day, "--cards", "2", "--json"))
    smaller = rows(run(day, "--footprint", "a=7GiB", "--footprint", "b=7GiB", "--json"))

    assert two_cards["gate, changed"]["loads"] == smaller["gate, changed"]["loads"] == 2


def test_others_are_asked_to_serve_what_was_recorded(tmp_path: Path) -> None:
    found = rows(run(a_recorded_day(tmp_path), "--policy", "ollama,table", "--json"))

    assert list(found)[2:] == ["ollama", "table"]


def test_a_table_shows_a_line_for_each_case(tmp_path: Path) -> None:
    result = run(a_recorded_day(tmp_path), "--set", "kappa=1", "--policy", "demand")

    assert result.exit_code == 0
    for name in ("recorded", "gate, as it was", "gate, changed", "demand"):
        assert name in result.output


def test_a_named_workload_is_run_with_other_parameters() -> None:
    found = rows(
        run("--workload", "batch_chat", "--profile", "interactive", "--set", "k_load=1", "--json")
    )

    assert list(found) == ["gate", "gate, changed"]
    chat, sooner = (row["by_class"]["high"]["p99"] for row in found.values())
    assert sooner < chat


def test_classes_have_columns_where_there_are_several() -> None:
    result = run("--workload", "batch_chat_fit")

    assert "high mean/p95/p99/max" in result.output
    assert "low mean/p95/p99/max" in result.output


def test_names_can_be_listed() -> None:
    result = run("--list")

    assert result.exit_code == 0
    for name in (*FAMILIES, *SCHEDULINGS):
        assert name in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected either a TRACE or --workload"),
        (("none.jsonl",), "none.jsonl: cannot be read"),
        (("--workload", "alt3"), "alt3"),
        (("--workload", "alt2", "--vram", "much"), "expected a size above 0"),
        (("--workload", "alt2", "--vram", "0"), "expected a size above 0"),
        (("--workload", "alt2", "--footprint", "left"), "expected NAME=SIZE, found 'left'"),
        (("--workload", "alt2", "--footprint", "lft=1GB"), "found lft"),
        (("--workload", "alt2", "--set", "kapa=1"), "found 'kapa'"),
        (("--workload", "alt2", "--set", "kappa=x"), "expected a number above 0"),
        (("--workload", "alt2", "--set", "tau=5s"), "expected a list of three durations"),
        (("--workload", "alt2", "--set", "tau=["), "expected a value of it"),
        (("--workload", "alt2", "--policy", "best"), "expected one of gate"),
    ],
)
def test_a_wrong_command_line_is_told_what_was_expected(
    arguments: tuple[str, ...], said: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_wrong_line_of_a_trace_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", began(), asked("r", 0.0))

    result = run(str(path))

    assert result.exit_code == 2
    assert "line 2: expected a kind" in " ".join(result.output.split())


def test_a_workload_of_ones_own_needs_no_class() -> None:
    workload = Workload(
        name="own",
        models=(ModelSpec(name="a", footprint_bytes=5 * GIB, weights_bytes=4 * GIB),),
        arrivals=(Arrival(at_s=0.0, model="a", work_s=1.0),),
    )

    assert figures(SCHEDULINGS["gate"].run(workload)).loads == 1
