"""Policies side by side on the named workloads, in the discrete-event world.

Usage: python bench/scheduling.py [--quick] [--seeds 20-31] [--families alt2,zipf10,…]
           [--policies gate,ollama,…] [--profile NAME] [--set kappa=8]… [--looks-anew]
           [--processes N] [--fresh]

Prints Markdown: ratios over all families, floods, the targets beside what was measured, and one
table a family. `--set` and `--profile` add a column, `gate*`, which is the gate with those
parameters. Runs are remembered under build/bench until the code that they depend on changes.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from os import cpu_count
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.comparing import tables
from bench.comparing.jobs import WORKLOADS, Column, Outcomes, jobs, perform
from bench.comparing.targets import targets
from ollama_gate.config import PROFILES, read_parameter
from ollama_gate.errors import ConfigError
from ollama_gate.replay.contenders import SCHEDULINGS

TUNING_SEEDS: Final = range(6)
SEEDS: Final = range(20, 32)
QUICK_SEEDS: Final = range(20, 23)
OURS: Final = "gate"
CHANGED: Final = "gate*"


def numbers(text: str) -> list[int]:
    """`20-31`, or `20,22,24-26`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def parameter(text: str) -> tuple[str, Any]:
    """As the keys below `scheduler` in gate.yaml: `kappa=8`, `tau=5s,120s,300s`."""
    try:
        return read_parameter(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three seeds, no floods")
    parser.add_argument("--seeds", type=numbers, help="20-31 unless something else is said")
    parser.add_argument("--families", help="names with commas between; all of them otherwise")
    parser.add_argument("--policies", help=f"of {', '.join(SCHEDULINGS)}")
    parser.add_argument("--profile", choices=PROFILES, help="of a further column")
    parser.add_argument("--set", action="append", type=parameter, default=[], dest="changes")
    parser.add_argument(
        "--looks-anew",
        action="store_true",
        help="of an Ollama that looks at a card before each load, as v0.32.15 does not",
    )
    parser.add_argument("--processes", type=int, default=cpu_count())
    parser.add_argument("--fresh", action="store_true", help="look up no earlier run")
    return parser.parse_args()


def columns(given: argparse.Namespace) -> list[Column]:
    names = given.policies.split(",") if given.policies else list(SCHEDULINGS)
    found = [Column(name=name, scheduling=name) for name in names]
    changed = {**PROFILES.get(given.profile, {}), **dict(given.changes)}
    if changed:
        parameters = tuple(sorted(changed.items()))
        found.insert(1, Column(name=CHANGED, scheduling=OURS, parameters=parameters))
    return found


def families(given: argparse.Namespace) -> list[str]:
    if given.families:
        return list(given.families.split(","))
    return [name for name, family in WORKLOADS.items() if not (given.quick and family.flood)]


def report(given: argparse.Namespace, seeds: list[int], outcomes: Outcomes) -> Iterator[str]:
    shown = ", ".join(map(str, seeds))
    yield f"Seeds {shown}; the policy was tuned on {TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}."
    if set(seeds) & set(TUNING_SEEDS):
        yield "These figures are of seeds that it was tuned on."
    free = "looks at the card before each load" if given.looks_anew else "goes by an earlier look"
    yield f"Ollama {free} where it tells what may be resident together."
    for change in [f"{name}={value}" for name, value in given.changes]:
        yield f"`{CHANGED}`: {change}"
    names = list(next(iter(outcomes.values())))
    for column in (OURS, CHANGED):
        if column in outcomes and len(outcomes) > 1:
            yield from tables.ratios(outcomes, column)
    for column in (OURS, CHANGED):
        if column in outcomes and len(outcomes) > 1:
            yield from targets(outcomes, column)
            yield from tables.by_family(outcomes, column)
    yield from tables.floods(outcomes)
    yield from tables.optima(outcomes)
    for name in names:
        yield from tables.family(name, outcomes)


def main() -> None:
    given = arguments()
    seeds = list(given.seeds or (QUICK_SEEDS if given.quick else SEEDS))
    began = time.monotonic()
    todo = jobs(columns(given), families(given), seeds, looks_anew=given.looks_anew)
    outcomes = perform(todo, given.processes, fresh=given.fresh)
    for line in report(given, seeds, outcomes):
        print(line)
    print(f"\n{len(todo)} runs in {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
