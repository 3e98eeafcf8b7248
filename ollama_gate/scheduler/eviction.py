"""Whom to evict: enough and no more, or nobody at all.

Knows nothing of time or of priorities: the caller says who may be asked, in which order, and what
would still be lacking without them.
"""

from collections.abc import Callable, Collection, Sequence

from ollama_gate.scheduler.fitting import Shortfall
from ollama_gate.scheduler.memory import Runner

Lacking = Callable[[Collection[Runner]], Shortfall | None]
"""What would still be missing with these runners gone; `None` when nothing is."""


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
    return tuple(_without_spare(victims, lacking, keep=len(forced)))


def _without_spare(victims: list[Runner], lacking: Lacking, *, keep: int) -> list[Runner]:
    # The last to be asked is the dearest, so it is the first to be spared.
    for runner in reversed(victims[keep:]):
        rest = [victim for victim in victims if victim is not runner]
        if lacking(rest) is None:
            victims = rest
    return victims
