"""The command `replay`: a part of the command line, which alone prints.

It reads a trace or draws a named workload, runs it through the discrete-event world and shows
what came of it. What is shown is worked out in `replay/`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ollama_gate import config
from ollama_gate.errors import ConfigError, TraceError
from ollama_gate.replay import cases
from ollama_gate.replay.changes import ChangeError, Changes
from ollama_gate.replay.contenders import SCHEDULINGS
from ollama_gate.replay.figures import Figures
from ollama_gate.replay.traced import traced
from ollama_gate.simulator.discrete.result import Summary
from ollama_gate.simulator.workloads import FAMILIES
from ollama_gate.trace import read

STATISTICS = ("mean", "p95", "p99", "max")


def _size(text: str, context: click.Context, param: click.Parameter) -> int:
    try:
        size_bytes = config.parse_size(text)
    except ValueError:
        size_bytes = 0
    if size_bytes <= 0:
        wrong = f"expected a size above 0, such as 48GiB, found {text!r}"
        raise click.BadParameter(wrong, context, param)
    return size_bytes


def _read_size(context: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else _size(value, context, param)


def _read_footprints(
    context: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, int]:
    found = {}
    for value in values:
        # A model's name may have an equals sign no more than a size has one.
        name, equals, size = value.rpartition("=")
        if not equals or not name:
            raise click.BadParameter(f"expected NAME=SIZE, found {value!r}", context, param)
        found[name] = _size(size, context, param)
    return found


def _read_parameters(
    context: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, Any]:
    try:
        return dict(config.read_parameter(value) for value in values)
    except ConfigError as error:
        raise click.BadParameter(str(error), context, param) from None


def _read_policies(
    context: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    names = [name for value in values for name in value.split(",")]
    for name in names:
        if name not in SCHEDULINGS:
            text = f"expected one of {', '.join(SCHEDULINGS)}, found {name!r}"
            raise click.BadParameter(text, context, param)
    return tuple(names)


def _list(context: click.Context, _: click.Parameter, value: bool) -> None:
    """Say what there is by name, and no more."""
    if not value:
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, rows in (
        ("workload", ((family.name, family.about) for family in FAMILIES.values())),
        ("policy", ((each.name, each.about) for each in SCHEDULINGS.values())),
    ):
        table = Table(title, "", box=None, pad_edge=False)
        for name, about in rows:
            table.add_row(name, about)
        console.print(table)
    context.exit()


@click.command()
@click.argument("trace", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--workload", type=click.Choice(list(FAMILIES)), help="Instead of a trace.")
@click.option("--seed", type=int, default=20, show_default=True, help="Of the workload.")
@click.option(
    "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Say the names."
)
@click.option("--vram", callback=_read_size, metavar="SIZE", help="Every card has for models.")
@click.option("--cards", type=click.IntRange(1, 64), help="With an upstream each.")
@click.option(
    "--footprint",
    "footprints",
    multiple=True,
    callback=_read_footprints,
    metavar="NAME=SIZE",
    help="What a model takes; may be repeated.",
)
@click.option("--parallel", type=click.IntRange(1, 64), help="Slots of every model.")
@click.option("--profile", type=click.Choice(list(config.PROFILES)), help="Of the gate.")
@click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=_read_parameters,
    metavar="NAME=VALUE",
    help="Of the gate, as below `scheduler` in gate.yaml; may be repeated.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    callback=_read_policies,
    metavar="NAME",
    help="Others to compare with; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="For a program to read.")
def replay(
    *,
    trace: Path | None,
    workload: str | None,
    seed: int,
    vram: int | None,
    cards: int | None,
    footprints: Mapping[str, int],
    parallel: int | None,
    profile: config.Profile | None,
    parameters: Mapping[str, Any],
    policies: Sequence[str],
    as_json: bool,
) -> None:
    """Run TRACE, or a named workload, again: with other cards, models, policies or parameters."""
    if (trace is None) == (workload is None):
        raise click.UsageError("expected either a TRACE or --workload NAME (--list says which)")
    wish = cases.Wish(
        changes=Changes(vram_bytes=vram, cards=cards, footprints=footprints, parallel=parallel),
        policies=policies,
        parameters={**(config.PROFILES[profile] if profile else {}), **parameters},
    )
    try:
        done = list(_cases(trace, workload, seed, wish))
    except (TraceError, ChangeError) as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps(cases.as_json(done), indent=2))
    else:
        _print(done)


def _cases(
    trace: Path | None, workload: str | None, seed: int, wish: cases.Wish
) -> Iterator[cases.Case]:
    if trace is not None:
        yield from cases.of_trace(traced(read(trace), trace.name), wish)
    else:
        assert workload is not None, "one of both was given"
        yield from cases.of_workload(FAMILIES[workload].make(seed), wish)


def _print(done: Sequence[cases.Case]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    classes = [
        name
        for name in ("high", "normal", "low")
        if any(name in case.figures.by_class for case in done)
    ]
    heads = ["", "makespan", "÷ bound", "loads", "wait " + "/".join(STATISTICS)]
    heads += [f"{name} {'/'.join(STATISTICS)}" for name in classes] if len(classes) > 1 else []
    heads += ["refused", "failed", "left"]
    table = Table(*heads, box=None, pad_edge=False)
    for case in done:
        table.add_row(*map(escape, _row(case, classes if len(classes) > 1 else ())))
    console.print(table)
    console.print("Times in seconds; a wait lasts until a request has its slot.", highlight=False)


def _row(case: cases.Case, classes: Sequence[str]) -> Iterator[str]:
    figures: Figures = case.figures
    yield case.name
    yield f"{figures.makespan_s:,.0f}"
    yield "" if figures.bound_ratio is None else f"{figures.bound_ratio:.3f}"
    yield f"{figures.loads:.0f}"
    yield _waits(figures.waits)
    for name in classes:
        yield _waits(figures.by_class[name]) if name in figures.by_class else ""
    for count in (figures.refused, figures.failed, figures.gave_up):
        yield f"{count:.0f}"


def _waits(waits: Summary) -> str:
    return " / ".join(f"{getattr(waits, name):.1f}" for name in STATISTICS)
