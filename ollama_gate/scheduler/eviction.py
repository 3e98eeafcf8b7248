"""Whom to evict: enough and no more, the cheapest that suffice, or nobody at all.

Knows nothing of time or of priorities: the caller says who may be asked, what each would cost, and
what would still be lacking without them.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import compress, product

from ollama_gate.scheduler.fitting import Shortfall
from ollama_gate.scheduler.memory import Runner

Lacking = Callable[[Collection[Runner]], Shortfall | None]
"""What would still be missing with these runners gone; `None` when nothing is."""

EXACT_UP_TO = 8
"""Of so many every subset is weighed; of more the cheapest are taken until they suffice."""


def cheapest(
    eligible: Sequence[tuple[Runner, float]], lacking: Lacking, *, forced: Sequence[Runner] = ()
) -> tuple[Runner, ...] | Shortfall:
    """The victims that cost least: those `forced`, and of `eligible` the cheapest that suffice.

    Args:
        eligible: who may be asked, and what each costs: more than nothing.
        lacking: what would be missing without some of them.
        forced: who goes in any case.

    Returns:
        The victims, of whom none but the forced could have been spared; or, when all of them
        together do not suffice, what is missing even then.
    """
    if lacking(forced) is None:
        return tuple(forced)
    missing = lacking([*forced, *(runner for runner, _ in eligible)])
    if missing is not None:
        return missing
    in_order = sorted(eligible, key=lambda each: (each[1], each[0].bin.id, each[0].model))
    runners = [runner for runner, _ in in_order]
    if len(runners) > EXACT_UP_TO:
        return choose(runners, lacking, forced=forced)
    costs = [cost for _, cost in in_order]
    subsets = sorted(
        product((False, True), repeat=len(runners)),
        key=lambda chosen: (sum(compress(costs, chosen)), chosen[::-1]),
    )
    victims = ([*forced, *compress(runners, chosen)] for chosen in subsets)
    return next(tuple(each) for each in victims if lacking(each) is None)


def choose(
    eligible: Sequence[Runner], lacking: Lacking, *, forced: Sequence[Runner] = ()
) -> tuple[Runner, ...] | Shortfall:
    """Choose victims: those `forced`, then of `eligible` the first that suffice, less the spare.

    The result is irredundant: none but the forced could have been spared. When all of them
    together do not suffice nobody is touched, and what is missing even then is returned.
    """
    victims = list(forced)
    for runner in eligible:
        if lacking(victims) is None:
            break
        victims.append(runner)
    missing = lacking(victims)
    if missing is not None:
        return missing
    return without_spare(victims, lacking, keep=len(forced))


def without_spare(
    victims: Sequence[Runner], lacking: Lacking, *, keep: int = 0
) -> tuple[Runner, ...]:
    """Those of some who suffice that are needed for it; the first `keep` of them in any case."""
    # The last to be asked is the dearest, so it is the first to be spared.
    for runner in reversed(victims[keep:]):
        rest = [victim for victim in victims if victim is not runner]
        if lacking(rest) is None:
            victims = rest
    return tuple(victims)
