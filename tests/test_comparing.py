"""The benchmark's own sums: what it runs, what it shows, when a target is met."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bench.comparing import jobs, tables
from bench.comparing.targets import targets
from bench.scheduling import numbers, parameter
from ollama_gate.replay.figures import Figures
from ollama_gate.simulator.discrete.result import Summary


def run(wait_s: float, **more: Any) -> Figures:
    waits = Summary(count=3, mean=wait_s, p50=wait_s, p95=wait_s, p99=wait_s, max=wait_s)
    figures = Figures(
        requests=3,
        makespan_s=100.0,
        loads=4,
        unloads=3,
        waits=waits,
        by_class={"high": waits, "low": waits},
        small_mean_s=wait_s,
        bound_ratio=1.1,
    )
    return replace(figures, **more)


def outcomes(
    families: Sequence[str], gate: Sequence[Figures], other: Sequence[Figures]
) -> Mapping[str, Mapping[str, Sequence[Figures]]]:
    return {
        "gate": dict.fromkeys(families, gate),
        "ollama": dict.fromkeys(families, other),
        "table": dict.fromkeys(families, other),
        "demand": dict.fromkeys(families, other),
    }


def rows(lines: Sequence[str]) -> dict[str, list[str]]:
    """The cells of a table by the second one of each row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[1]: row for row in cells}


def test_seeds_are_ranges_and_numbers() -> None:
    assert numbers("20-22,7,9-9") == [20, 21, 22, 7, 9]


def test_parameters_are_spelled_as_in_the_configuration() -> None:
    assert parameter("tau=5s,120s,300s") == ("tau_s", (5.0, 120.0, 300.0))
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0"):
        parameter("kappa=0")


def test_every_column_runs_every_seed_of_every_family() -> None:
    columns = [jobs.Column(name=name, scheduling=name) for name in ("gate", "ollama")]

    todo = jobs.jobs(columns, ["alt2", "zipf10"], [1, 2, 3])

    assert len({(job.column.name, job.family, job.seed) for job in todo}) == len(todo) == 12


def test_floods_come_first_and_with_few_seeds() -> None:
    column = jobs.Column(name="gate", scheduling="gate")

    todo = jobs.jobs([column], ["alt2", "flood1"], list(range(12)))

    assert [job.family for job in todo[:4]] == ["flood1"] * 3 + ["alt2"]


def test_a_run_is_looked_up_until_something_that_it_depends_on_changes() -> None:
    first = jobs.Job(column=jobs.Column(name="gate", scheduling="gate"), family="alt2", seed=1)
    renamed = replace(first, column=replace(first.column, name="gate*"))
    changed = replace(first, column=replace(first.column, parameters=(("kappa", 8.0),)))

    others = (changed, replace(first, seed=2), replace(first, looks_anew=True))

    places = {jobs.remembered_at(job) for job in (first, *others)}

    assert len(places) == 4
    assert jobs.remembered_at(renamed) == jobs.remembered_at(first)


def test_ratios_below_1_say_that_the_gate_does_better() -> None:
    lines = list(tables.ratios(outcomes(["alt2"], [run(3.0)], [run(7.0, loads=8)]), "gate"))

    head, _, ollama, *_ = [line for line in lines if line]
    ratio = dict(zip(head.split("|"), ollama.split("|"), strict=True))
    assert ratio[" mean "] == " 0.50 "
    assert ratio[" loads "] == " 0.50 "
    assert ratio[" makespan "] == " 1.00 "


def test_the_ratio_of_one_family_is_that_of_its_means() -> None:
    mixed = outcomes(["alt2"], [run(1.0), run(5.0)], [run(3.0), run(11.0)])

    (row,) = [line for line in tables.by_family(mixed, "gate") if "alt2" in line]

    assert row.split(" | ")[1] == "0.50"


def test_a_target_is_met_when_it_is_not_exceeded() -> None:
    found = rows(list(targets(outcomes(["alt2"], [run(3.0)], [run(11.0)]), "gate")))

    assert found["mean ÷ ollama"][-2:] == ["0.33", "yes"]
    assert found["makespan ÷ ollama"][-2:] == ["1.00", "**no**"]


def test_one_fault_in_any_run_misses_the_first_target() -> None:
    runs = [run(1.0), run(1.0, busy_unloads=1)]

    found = rows(list(targets(outcomes(["alt2"], runs, runs), "gate")))

    (faults,) = [row for name, row in found.items() if name.startswith("over-commits")]
    assert faults[-2:] == ["1", "**no**"]


def test_a_target_without_its_runs_is_not_shown() -> None:
    found = rows(list(targets(outcomes(["alt2"], [run(1.0)], [run(1.0)]), "gate")))

    assert not any("batch_chat" in name or "flood" in name for name in found)


def test_of_a_flood_the_longest_wait_of_all_seeds_counts() -> None:
    runs = [run(300.0), run(400.0), run(310.0)]

    found = rows(list(targets(outcomes(["flood1"], runs, runs), "gate")))

    assert found["flood1: longest low wait, s"][-2:] == ["400", "**no**"]


def test_floods_are_no_part_of_the_ratios() -> None:
    mixed = outcomes(["alt2"], [run(1.0)], [run(1.0)])
    flooded = {name: {**each, "flood1": [run(9.0)]} for name, each in mixed.items()}

    assert list(tables.ratios(flooded, "gate")) == list(tables.ratios(mixed, "gate"))
