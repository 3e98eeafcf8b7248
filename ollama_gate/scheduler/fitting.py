"""Whether one more model fits beside others: by the bytes, and by Ollama's own rules.

It is told what stays. Who may be asked to go, and when, is not its matter.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ollama_gate.scheduler.memory import GIB, Books, Runner
from ollama_gate.scheduler.types import Need, RunnerState

OLLAMA_SHARE_PERCENT = 80
"""Beside another model Ollama loads only what it predicts to stay within this share of the free
memory (v0.32.15 `server/sched.go`, `load`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Why a runner cannot be loaded now, in numbers.

    Attributes:
        rule: `memory`, `80%` (Ollama's own test), `max_loaded`, `foreign` (others use it),
            `offload` (a model that is, or was, on the CPU in part has the bin to itself), or
            `unknown` where neither a reading nor a configured budget says how much there is.
        missing_bytes: what would have to be freed, 0 where bytes are not the question.
    """

    rule: str
    missing_bytes: int = 0

    def __str__(self) -> str:
        """As it stands in a log line."""
        if not self.missing_bytes:
            return self.rule
        missing = f"{self.missing_bytes / GIB:.1f}GiB"
        return missing if self.rule == "memory" else f"{missing}({self.rule})"


def shortfall(
    need: Need,
    books: Books,
    staying: Collection[Runner],
    *,
    elsewhere: int,
    max_loaded: int,
    whole: bool = False,
    patient: bool = False,
    alone: bool = False,
) -> Shortfall | None:
    """What prevents a load beside `staying`; `None` when it fits.

    With nothing else in the bin everything fits: Ollama makes no test then, and what is larger
    than the card has nowhere better to go.

    Args:
        need: what the newcomer takes.
        books: of the bin it would go to.
        staying: the runners that would remain in that bin.
        elsewhere: how many runners the upstream has in its other bins.
        max_loaded: how many runners the upstream keeps before it evicts by itself.
        whole: whether models are to be whole on the card, so that one that is not has it alone.
        patient: whether it waits, even alone, for what others use now.
        alone: whether it is loaded beside nobody, whatever the books say.
    """
    listed = sum(runner.state is not RunnerState.LEAVING for runner in staying)
    if listed + elsewhere >= max_loaded:
        return Shortfall(rule=f"max_loaded={max_loaded}")
    if not staying:
        missing = in_others_hands(need, books) if patient else 0
        return Shortfall(rule="foreign", missing_bytes=missing) if missing else None
    if whole and slides(staying):
        return Shortfall(rule="offload")
    free = books.free_bytes(staying)
    if free is None:
        return Shortfall(rule="unknown")
    if need.footprint_bytes > free:
        return Shortfall(rule="memory", missing_bytes=need.footprint_bytes - free)
    failed = None if books.bin.cpu else _eighty_percent(need, books, staying)
    return failed or (Shortfall(rule="offload") if alone else None)


def slides(staying: Iterable[Runner]) -> bool:
    """Whether one of them is on the CPU in part: while its memory is not back nothing else fits."""
    return any(runner.slid for runner in staying)


def in_others_hands(need: Need, books: Books) -> int:
    """How much is missing in an empty bin for what would fit there if nobody else used it."""
    capacity, free = books.capacity_bytes, books.free_bytes(())
    if capacity is None or free is None or need.footprint_bytes > capacity:
        return 0
    return max(0, need.footprint_bytes - free)


def missing_alone(need: Need, books: Books) -> int:
    """How much of a model will not be on the card when it has it to itself, as far as is known."""
    free = books.free_bytes(())
    return 0 if free is None else max(0, need.footprint_bytes - free)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `most` says; `inf` where there is no limit, below 0 where nobody fits."""

    footprint_bytes: float
    predicted_bytes: float

    def admit(self, need: Need) -> bool:
        """Whether a need is within both."""
        return (
            need.footprint_bytes <= self.footprint_bytes
            and need.predicted_bytes <= self.predicted_bytes
        )


NOBODY = Limits(footprint_bytes=-1, predicted_bytes=-1)


def most(
    books: Books,
    firm: Collection[Runner],
    *,
    elsewhere: int,
    max_loaded: int,
    whole: bool = False,
) -> Limits:
    """The limits that `shortfall` sets to everybody beside these and whoever else remains.

    A need beyond them falls short whatever else goes; one within them may fall short as well.
    """
    if len(firm) + elsewhere >= max_loaded:
        return NOBODY
    if not firm:
        return Limits(footprint_bytes=math.inf, predicted_bytes=math.inf)
    free = books.free_bytes(firm)
    if free is None or (whole and slides(firm)):
        return NOBODY
    # While none is on the card Ollama looks anew, and may find less free than beside one more.
    believed = None
    if not books.bin.cpu and not all(runner.launch.on_cpu for runner in firm):
        believed = books.ollama_free_bytes(firm)
    allowed = math.inf if believed is None else believed * OLLAMA_SHARE_PERCENT // 100
    return Limits(footprint_bytes=free, predicted_bytes=allowed)


def _eighty_percent(need: Need, books: Books, staying: Collection[Runner]) -> Shortfall | None:
    believed = books.ollama_free_bytes(staying)
    assert believed is not None, "a bin with a capacity has a total"
    allowed = believed * OLLAMA_SHARE_PERCENT // 100
    if need.predicted_bytes <= allowed:
        return None
    return Shortfall(rule="80%", missing_bytes=need.predicted_bytes - allowed)
