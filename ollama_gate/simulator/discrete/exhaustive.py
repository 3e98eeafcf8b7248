"""Two ways of serving what is resident until nobody wants it any more, before something goes.

They differ in who is loaded next and in how they know what fits. Both serve each model first-come
and take a model's memory only when it serves nobody and nobody waits for it; neither knows of
classes, clients, deadlines or of anybody's having waited for too long.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from ollama_gate.simulator.discrete.cards import Card, Phase, Runner, Ticket
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.judge import SHARE_PERCENT, exceeds_share
from ollama_gate.simulator.discrete.workload import CardSpec, ModelSpec, load_s
from ollama_gate.simulator.discrete.world import World

OUT_OF_MEMORY, FAILED = "memory ran out", "its model could not be loaded"


@dataclass(slots=True, kw_only=True, eq=False)
class Swap:
    """A model on its way in, and those that must have left before."""

    model: ModelSpec
    card: Card
    victims: list[Runner]


class Exhaustive(Contender):
    """What both have in common: a queue for each model, and swaps."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Ticket]] = {}
        self._waiting: dict[str, int] = {}
        self._swaps: dict[str, Swap] = {}
        self._used_at: dict[str, float] = {}

    def begin(self, world: World) -> None:
        """Make the queues."""
        super().begin(world)
        self._queues = {name: deque() for name in world.models}
        self._waiting = dict.fromkeys(world.models, 0)
        self._used_at = dict.fromkeys(world.models, 0.0)

    # ---------------------------------------------------------------- what happens

    def arrived(self, ticket: Ticket) -> None:
        """Join the queue of its model; be served, or see whether that can be loaded."""
        name = ticket.model.name
        self._queues[name].append(ticket)
        self._waiting[name] += 1
        runner = self._resident(ticket.model)
        if runner is not None:
            self._fill(runner)
        elif name not in self._swaps:
            self._decide([ticket.model])

    def left(self, ticket: Ticket) -> None:
        """A slot is free; if nobody wants the model now, it may be somebody's room."""
        if ticket.started_at is None:
            self._waiting[ticket.model.name] -= 1
            return
        runner = ticket.runner
        assert runner is not None, "it had a slot"
        self._used_at[ticket.model.name] = self.world.now
        if runner.phase is Phase.READY:
            self._fill(runner)
            if not runner.running:
                self._decide(self._wanted())

    def loaded(self, runner: Runner) -> None:
        """All that have waited for it are served."""
        del self._swaps[runner.model.name]
        self._used_at[runner.model.name] = self.world.now
        self._fill(runner)
        self._decide(self._wanted())

    def load_failed(self, runner: Runner, *, oom: bool) -> None:
        """All that have waited for it are told so."""
        del self._swaps[runner.model.name]
        queue = self._queues[runner.model.name]
        failed = [ticket for ticket in queue if ticket.waits]
        queue.clear()
        for ticket in failed:
            self.world.refuse(ticket, OUT_OF_MEMORY if oom else FAILED, failed=True)
        self._decide(self._wanted())

    def vacated(self, runner: Runner) -> None:
        """A swap may go on."""
        for swap in list(self._swaps.values()):
            if runner in swap.victims:
                swap.victims.remove(runner)
                self._load_if_ready(swap)
        self._decide(self._wanted())

    # ---------------------------------------------------------------- slots

    def _fill(self, runner: Runner) -> None:
        queue = self._queues[runner.model.name]
        while queue and runner.free_slots > 0:
            ticket = queue.popleft()
            if ticket.waits:
                self._waiting[runner.model.name] -= 1
                self.world.start(ticket, runner)

    def _resident(self, model: ModelSpec) -> Runner | None:
        for bin_id in self.world.bins_of(model):
            runner = self.world.runners.get((bin_id, model.name))
            if runner is not None and runner.phase is Phase.READY:
                return runner
        return None

    # ---------------------------------------------------------------- swaps

    def _wanted(self) -> list[ModelSpec]:
        """Models that somebody waits for and that are not on their way, the next one first."""
        wanted = [
            self.world.models[name]
            for name, count in self._waiting.items()
            if count and name not in self._swaps and not self._is_there(name)
        ]
        return sorted(wanted, key=self._rank)

    def _is_there(self, name: str) -> bool:
        return self._resident(self.world.models[name]) is not None

    def _head(self, model: ModelSpec) -> Ticket:
        """Who has waited longest for a model."""
        queue = self._queues[model.name]
        while not queue[0].waits:
            queue.popleft()
        return queue[0]

    def _decide(self, models: Iterable[ModelSpec]) -> None:
        for model in models:
            if self._is_listed(model):
                continue
            found = next(self._ways(model), None)
            if found is not None:
                card, victims = found
                swap = Swap(model=model, card=card, victims=list(victims))
                self._swaps[model.name] = swap
                for victim in victims:
                    self.world.unload(victim)
                self._load_if_ready(swap)

    def _is_listed(self, model: ModelSpec) -> bool:
        """Whether it is still there, on its way out."""
        return any((b, model.name) in self.world.runners for b in self.world.bins_of(model))

    def _load_if_ready(self, swap: Swap) -> None:
        if not swap.victims:
            self.world.load(swap.card.id, swap.model)

    def _is_idle(self, runner: Runner) -> bool:
        wanted = self._waiting[runner.model.name]
        return runner.phase is Phase.READY and not runner.running and not wanted

    def _coming(self, card: Card) -> list[ModelSpec]:
        """What is to be loaded there and is not yet."""
        return [s.model for s in self._swaps.values() if s.card is card and s.victims]

    def _cards_of(self, model: ModelSpec) -> list[Card]:
        return [self.world.cards[bin_id] for bin_id in self.world.bins_of(model)]

    @abstractmethod
    def _rank(self, model: ModelSpec) -> tuple[float, float, str]:
        """The smaller, the sooner it is loaded."""

    @abstractmethod
    def _ways(self, model: ModelSpec) -> Iterator[tuple[Card, Sequence[Runner]]]:
        """Where it can be loaded now and who must go for it, the best way first."""


class Table(Exhaustive):
    """First-come, with an ideal hand-written table of what may be loaded beside what.

    As llama-swap serves: requests for one model are collected behind the first, a model goes when
    it serves nobody, loads that the table allows together run at the same time, and nobody looks
    at the card. The table has everything that fits by what is believed beforehand; of the idle
    models that could go those do that are cheapest to load again, and none that is busy is waited
    for where idle ones will do. No request is turned away for being one too many.
    """

    name = "table"

    def __init__(self, *, share_rule: bool = True) -> None:
        """Choose whether the table keeps to Ollama's 80 % of what is free by its own sums."""
        super().__init__()
        self._share_rule = share_rule

    def _rank(self, model: ModelSpec) -> tuple[float, float, str]:
        head = self._head(model)
        return head.arrived_at, head.number, model.name

    def _ways(self, model: ModelSpec) -> Iterator[tuple[Card, Sequence[Runner]]]:
        ways = [way for card in self._cards_of(model) if (way := self._best(card, model))]
        for _, card, victims in sorted(ways, key=lambda way: (way[0], way[1].id)):
            yield card, victims

    def _best(self, card: Card, model: ModelSpec) -> tuple[float, Card, tuple[Runner, ...]] | None:
        """The cheapest set of idle models that makes room on a card, if there is one."""
        idle = [runner for runner in card.runners if self._is_idle(runner)]
        staying = [runner.model for runner in card.runners if runner not in idle]
        staying += self._coming(card)
        best: tuple[float, Card, tuple[Runner, ...]] | None = None
        for count in range(len(idle) + 1):
            for victims in combinations(idle, count):
                cost = sum(self._cost(victim) for victim in victims)
                kept = [runner.model for runner in idle if runner not in victims]
                if (best is None or cost < best[0]) and may_join(
                    model, staying + kept, card.spec, share_rule=self._share_rule
                ):
                    best = cost, card, victims
        return best

    def _cost(self, victim: Runner) -> float:
        upstream = self.world.upstreams[self.world.cards[victim.bin].upstream]
        # Of two that cost the same the one goes that was used longer ago.
        return load_s(victim.model, upstream) + 1e-6 * self._used_at[victim.model.name]


def may_join(
    model: ModelSpec, others: Sequence[ModelSpec], card: CardSpec, *, share_rule: bool
) -> bool:
    """Whether the table allows a load beside others; alone everything is allowed."""
    left = card.total_bytes - sum(other.believed_bytes for other in others)
    fits = model.believed_bytes <= left - card.reserve_bytes
    within = not share_rule or model.tested_bytes <= left * SHARE_PERCENT // 100
    return not others or (fits and within)


class MostDemanded(Exhaustive):
    """The model that most wait for is next; of the idle the least recently used go for it.

    It looks at the card before it loads, keeps the reserve, and obeys Ollama's rules; one load at
    a time for each upstream.
    """

    name = "demand"
    reads_cards = True
    keeps_reserve = True
    under_ollama = True

    def _rank(self, model: ModelSpec) -> tuple[float, float, str]:
        return -self._waiting[model.name], self._head(model).arrived_at, model.name

    def _ways(self, model: ModelSpec) -> Iterator[tuple[Card, Sequence[Runner]]]:
        for card in sorted(self._cards_of(model), key=lambda c: -self._free_bytes(c)):
            if not self._is_busy(card.upstream):
                victims = self._victims(card, model)
                if victims is not None:
                    yield card, victims

    def _is_busy(self, upstream: str) -> bool:
        return any(swap.card.upstream == upstream for swap in self._swaps.values())

    def _victims(self, card: Card, model: ModelSpec) -> list[Runner] | None:
        """Enough of the idle, the least recently used first; `None` if all are too few."""
        idle = sorted(
            (runner for runner in card.runners if self._is_idle(runner)),
            key=lambda runner: (self._used_at[runner.model.name], runner.model.name),
        )
        for count in range(len(idle) + 1):
            if self._fits(card, model, idle[:count]):
                return idle[:count]
        return None

    def _fits(self, card: Card, model: ModelSpec, victims: Sequence[Runner]) -> bool:
        staying = [runner for runner in card.runners if runner not in victims]
        cards = [c for c in self.world.cards.values() if c.upstream == card.upstream]
        listed = sum(r.phase is Phase.READY for c in cards for r in c.runners) - len(victims)
        if listed >= self.world.upstreams[card.upstream].loaded_limit:
            return False
        if not staying:
            return True
        freed = sum(victim.model.footprint_bytes for victim in victims)
        ready = [runner for runner in staying if runner.phase is Phase.READY]
        return model.believed_bytes <= self._free_bytes(card) + freed and not exceeds_share(
            card, model, ready
        )

    @staticmethod
    def _free_bytes(card: Card) -> int:
        return card.spec.total_bytes - card.spec.reserve_bytes - card.used_bytes
