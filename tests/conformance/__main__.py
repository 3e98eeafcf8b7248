"""`python -m tests.conformance STRAIGHT PROXIED`: the suite against any two base URLs."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conformance import table
from tests.conformance.cases import CASES
from tests.conformance.compare import ALLOWED, EXPIRY_TOLERANCE_S, Leave
from tests.conformance.places import ROLES
from tests.conformance.sides import StageError
from tests.conformance.suite import KNOWN, Outcome, Plan, load_known, run, select

_FOUND_DIFFERENCES = 1
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print.

    Returns:
        0 if nothing differs that is not known, 1 if something does, 2 for a wrong command line.
    """
    given = _parser().parse_args(arguments)
    if given.list:
        _say(*(f"{case.name:<60} {case.route[:80]}" for case in select(CASES, given.only)))
        return 0
    if not given.straight or not given.proxied:
        _say("expected two base URLs, STRAIGHT and PROXIED (or --list)")
        return _USAGE
    plan = Plan(
        straight=given.straight,
        proxied=given.proxied,
        only=given.only,
        leave=Leave(headers=tuple(given.allow_headers.split(",")), expiry_s=given.expiry_tolerance),
        roles=dict(given.models),
        known=load_known(given.known) if given.known else (),
        timeout_s=given.timeout,
        settle_s=given.settle,
    )
    try:
        outcomes = asyncio.run(run(CASES, plan, _progress))
    except (StageError, OSError) as error:
        _say(f"cannot begin: {error}")
        return _USAGE
    _say("", *table.lines(outcomes))
    if given.json:
        given.json.write_text(json.dumps(table.as_json(outcomes), indent=1) + "\n", "utf-8")
    return _FOUND_DIFFERENCES if any(outcome.verdict.is_bad for outcome in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("straight", nargs="?", help="base URL of an Ollama")
    parser.add_argument("proxied", nargs="?", help="base URL of a proxy before that same Ollama")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases or a group by name")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there too")
    parser.add_argument(
        "--allow-headers",
        default=",".join(ALLOWED),
        metavar="NAMES",
        help="headers that the proxy may add (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        type=_models,
        default=(),
        metavar="ROLE=NAME,…",
        help=f"who plays what, in place of who is found: {', '.join(ROLES)}",
    )
    parser.add_argument(
        "--known",
        type=Path,
        default=KNOWN,
        metavar="FILE",
        help="differences that are known, with their causes (default: the gate's)",
    )
    parser.add_argument("--no-known", dest="known", action="store_const", const=None)
    parser.add_argument(
        "--expiry-tolerance",
        type=float,
        default=EXPIRY_TOLERANCE_S,
        metavar="SECONDS",
        help="by how much an expires_at may differ (default: %(default)s)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="pause for the proxy to see what was unloaded behind its back (default: none)",
    )
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one step")
    return parser


def _models(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    for role, _, name in pairs:
        if role not in ROLES or not name:
            raise argparse.ArgumentTypeError(
                f"expected ROLE=NAME with a role of {', '.join(ROLES)}; found {role}={name}"
            )
    return tuple((role, name) for role, _, name in pairs)


def _progress(outcome: Outcome) -> None:
    """A sign of life, apart from the table, which is printed at the end."""
    sign = f"\n{outcome.verdict.value}: {outcome.case.name}\n" if outcome.verdict.is_bad else "."
    sys.stderr.write(sign)
    sys.stderr.flush()


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
