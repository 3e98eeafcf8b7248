"""Who is there already: what their going would cost, and when they may be asked to.

One look at the runners that stay for now, for all the decisions of one settlement. Who is to come
in their place is decided elsewhere.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ollama_gate.scheduler.commands import Cost
from ollama_gate.scheduler.memory import Runner
from ollama_gate.scheduler.ranks import Group
from ollama_gate.scheduler.state import State
from ollama_gate.scheduler.types import Policy, Priority

LEFT_SHARE = 0.3
"""An answer that has taken longer than expected takes at least so much of that in addition."""

RELOAD_WEIGHT = 0.55
DRAIN_WEIGHT = 0.5
IDLE_WEIGHT = 0.1
IDLE_UNIT_S = 60.0
"""Where nobody waits and nobody is expected: the shortest reload goes first, then who ends sooner,
then the longest unused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A runner, and what speaks for and against it at one instant.

    Attributes:
        waiting: how many wait whom it could serve and nobody else does.
        top: the highest class of those, `None` if there are none.
        work: their weighted work.
        queue_s: how long it would take to serve them.
        reload_s: how long it takes to load it again.
        drain_s: how long what runs on it may still take.
        rate_per_s: how many are expected for its model a second, and ...
        weight: ... of what weight.
        unused: from 1, of one in use, towards 0, of one that has idled for long.
    """

    runner: Runner
    waiting: int
    top: Priority | None
    work: float
    queue_s: float
    reload_s: float
    drain_s: float
    rate_per_s: float
    weight: float
    unused: float

    @property
    def spare(self) -> bool:
        """Whether it serves nobody and nobody waits for it."""
        return self.runner.idle and not self.waiting

    def turn_ends_at(self, policy: Policy, top: Priority, load_s: float) -> float:
        """When it has had its quantum, against a challenger of class `top` and that load time."""
        higher = self.top is not None and top < self.top
        # Its own last load counts if it took longer than usual.
        swap_s = max(self.reload_s, self.runner.load_s) + load_s
        if higher:
            # Nor may it finish first: a long batch is short work to many slots.
            return self.runner.ready_at + policy.kappa_hi * swap_s
        quantum_s = policy.kappa * swap_s
        if self.queue_s < policy.finish * swap_s:
            quantum_s *= policy.stretch
        return self.runner.ready_at + quantum_s

    def least_quantum_s(self, policy: Policy) -> float:
        """The shortest quantum that it can have, whoever the challenger is."""
        swap_s = max(self.reload_s, self.runner.load_s)
        if self.top is Priority.HIGH:
            return policy.kappa * swap_s
        return min(policy.kappa, policy.kappa_hi) * swap_s

    def wanted_again(self, visit_s: float) -> float:
        """How probable it is that somebody asks for it during a visit of another."""
        return 1.0 if self.waiting else 1.0 - math.exp(-self.rate_per_s * visit_s)

    def cost(self, visit_s: float, others_work: float) -> Cost:
        """What it costs to evict it for a visit of so many seconds.

        Args:
            visit_s: unload, load and service of who comes.
            others_work: the weighted work of all who wait for neither of the two.
        """
        known = self.work * (visit_s + self.reload_s)
        arrivals = self.rate_per_s * visit_s
        predicted = arrivals * self.weight * (visit_s / 2.0 + self.reload_s)
        behind = others_work * self.wanted_again(visit_s) * self.reload_s
        order = (
            RELOAD_WEIGHT * self.reload_s + DRAIN_WEIGHT * self.drain_s + IDLE_WEIGHT * self.unused
        )
        return Cost(
            name=self.runner.name,
            total=known + predicted + behind + order,
            waiting=self.waiting,
            known=known,
            predicted=predicted,
            behind=behind,
            reload_s=self.reload_s,
            drain_s=self.drain_s,
            rate_per_s=self.rate_per_s,
        )


def incumbent(state: State, runner: Runner) -> Incumbent:
    """A runner as it stands now."""
    groups = _wanting(state, runner)
    waiting = sum(len(group) for group in groups)
    top = min((group.first.priority for group in groups), default=None)
    earlier_s = groups[0].first.service_s if groups else None
    service_s = state.pace.service_s(runner.model, earlier_s)
    return Incumbent(
        runner=runner,
        waiting=waiting,
        top=top,
        work=state.demand.work(groups) if groups else 0.0,
        queue_s=waiting * service_s / runner.parallel,
        reload_s=state.reload_s(runner),
        drain_s=_drain_s(state, runner, service_s),
        rate_per_s=state.pace.rate(runner.model, state.now),
        weight=state.pace.weight(runner.model),
        unused=_unused(state, runner),
    )


def _wanting(state: State, runner: Runner) -> list[Group]:
    """Who would have nobody without it. One that has served nobody yet has not had its turn."""
    groups = [g for g in state.line.groups(runner.model) if state.suits(runner, g.first)]
    if not groups or not runner.served:
        return groups
    twins = [
        other
        for other in state.runners.values()
        if other.model == runner.model and other is not runner and _stays(state, other)
    ]
    return [g for g in groups if not any(state.suits(twin, g.first) for twin in twins)]


def _stays(state: State, runner: Runner) -> bool:
    return runner.usable and state.is_open(runner.bin) and not state.is_draining(runner)


def _drain_s(state: State, runner: Runner, service_s: float) -> float:
    began = (state.charges[request_id].at for request_id in runner.running)
    left = (max(service_s - (state.now - at), LEFT_SHARE * service_s) for at in began)
    return max(left, default=0.0)


def _unused(state: State, runner: Runner) -> float:
    idle_s = state.now - runner.idle_since if runner.idle else 0.0
    return 1.0 / (1.0 + idle_s / IDLE_UNIT_S)


def drain_s(victims: Iterable[Incumbent]) -> float:
    """How long the last of some may still take."""
    return max((each.drain_s for each in victims), default=0.0)
