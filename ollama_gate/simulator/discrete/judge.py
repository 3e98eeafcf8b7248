"""Whether a load was one to order, by the world's own books.

Memory is judged as far as anybody could know of it: what others took since the last reading, and
how much more a model takes than was thought, is nobody's fault.
"""

from collections.abc import Sequence

from ollama_gate.simulator.discrete.cards import Card, Phase, Runner
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.workload import ModelSpec

SHARE_PERCENT = 80
"""Beside another model Ollama loads what it predicts to stay within this share of the free memory
(v0.32.15 `server/sched.go`, `load`)."""


def over_commits(contender: Contender, card: Card, model: ModelSpec) -> bool:
    """Whether a load beside what is there does not fit what is free."""
    if not card.runners:
        return False
    there = sum(_whole_bytes(runner) for runner in card.runners)
    needed = min(model.believed_bytes, model.footprint_bytes)
    foreign = card.foreign_bytes
    if contender.reads_cards:
        foreign = min(foreign, card.foreign_read_bytes)
    reserve = card.spec.reserve_bytes if contender.keeps_reserve else 0
    return there + needed + foreign > card.spec.total_bytes - reserve


def breaks_rules(cards: Sequence[Card], card: Card, model: ModelSpec, limit: int) -> bool:
    """Whether Ollama would have let something go at a load, of its own choice.

    Args:
        cards: all of the upstream.
        card: where the load goes.
        model: what is loaded.
        limit: how many models the upstream keeps.
    """
    listed = sum(r.listed or r.phase is Phase.LOADING for c in cards for r in c.runners)
    return listed >= limit or exceeds_share(card, model)


def exceeds_share(card: Card, model: ModelSpec, staying: Sequence[Runner] | None = None) -> bool:
    """Ollama's own test, made where something is loaded on the card already.

    Args:
        card: where the load goes.
        model: what is loaded.
        staying: who will be listed then; those who are now if it is not said.
    """
    believed = believed_free_bytes(card, staying)
    return believed is not None and model.tested_bytes > believed * SHARE_PERCENT // 100


def believed_free_bytes(card: Card, staying: Sequence[Runner] | None = None) -> int | None:
    """The least that Ollama may believe a card to have free; `None` while nothing is loaded there.

    Where it remembers it does not look again while something is: it asks one of the runners,
    whichever comes first, and that says what was free when it began less what it took.
    """
    if staying is None:
        staying = ready_on(card)
    return min((told_free_bytes(card, asked, staying) for asked in staying), default=None)


def told_free_bytes(card: Card, asked: Runner, staying: Sequence[Runner]) -> int:
    """What Ollama believes if it asks that runner; its own sums can only lower the figure."""
    if card.remembers_free:
        told = asked.free_at_load_bytes - asked.model.reported_bytes
    else:
        freed = sum(runner.held_bytes for runner in ready_on(card) if runner not in staying)
        told = card.spec.total_bytes - max(0, card.used_bytes - freed)
    own = card.spec.total_bytes - sum(runner.model.reported_bytes for runner in staying)
    return max(0, min(told, own))


def ready_on(card: Card) -> list[Runner]:
    """The runners on a card that Ollama lists as ready."""
    return [runner for runner in card.runners if runner.phase is Phase.READY]


def _whole_bytes(runner: Runner) -> int:
    """What a runner takes, or will when its load is over."""
    return runner.model.footprint_bytes
