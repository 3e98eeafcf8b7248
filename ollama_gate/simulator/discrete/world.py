"""A world of requests on the hardware of a workload, for one contender, from beginning to end.

The contender is told what it could know and asks for what it wants; the world does it, keeps its
own books of what really is, and counts what should not have been asked for.
"""

import heapq
import math
from dataclasses import replace
from functools import partial

from ollama_gate.simulator.discrete.cards import Card, Outcome, Runner, Ticket
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.hardware import Hardware
from ollama_gate.simulator.discrete.result import Result, record_of
from ollama_gate.simulator.discrete.workload import Agent, Arrival, Workload

STALLED_S = 200_000.0
"""If for so long nobody's request begins or ends, none ever will."""

IDLE_TICKS = 10_000
"""So often in a row nobody may ask to be woken for nothing."""


class World(Hardware):
    """One run of one workload; `run` it once."""

    def __init__(self, workload: Workload, contender: Contender) -> None:
        super().__init__(workload, contender)
        self._tickets: list[Ticket] = []
        self._events = 0
        self._open = 0
        self._to_come = len(workload.arrivals) + sum(len(a.steps) for a in workload.agents)
        self._changed_at = 0.0

    # ---------------------------------------------------------------- what a contender may ask

    def start(self, ticket: Ticket, runner: Runner) -> bool:
        """Give a request a slot; false, and counted, if there was none to give."""
        if not ticket.waits:
            self.counts.ended_twice += 1
            return False
        if runner.free_slots <= 0 or runner.model is not ticket.model:
            self.counts.misdirected += 1
            self._end(ticket, Outcome.FAILED, "its model had no slot there")
            return False
        card = self.cards[runner.bin]
        card.advance(self.now)
        ticket.started_at, ticket.runner = self.now, runner
        self._changed_at = self.now
        card.begin(runner, ticket)
        self._retime(card)
        if ticket.cut_s < math.inf:
            self.at(self.now + ticket.cut_s, partial(self._hang_up, ticket))
        return True

    def refuse(self, ticket: Ticket, why: str, *, failed: bool = False) -> None:
        """Turn a waiting request away, or tell it that its model could not be loaded."""
        if not ticket.waits:
            self.counts.ended_twice += 1
            return
        self._end(ticket, Outcome.FAILED if failed else Outcome.REFUSED, why)

    # ---------------------------------------------------------------- the clock

    def run(self) -> Result:
        """Live until everybody has ended, or nothing would ever happen any more."""
        self._begin()
        ticks = 0
        while self._open or self._to_come:
            wake = self.contender.next_wakeup()
            at = self._heap[0][0] if self._heap else math.inf
            if wake is not None and wake < at:
                ticks += 1
                assert ticks < IDLE_TICKS, f"{self.contender.name} wakes again and again"
                at = wake
            if math.isinf(at) or (self._open and at > self._changed_at + STALLED_S):
                self.counts.lost += self._open
                break
            if at > self.workload.ends_at_s:
                self.now = self.workload.ends_at_s
                break
            self._events += 1
            self.now = at
            if wake is not None and wake == at and not (self._heap and self._heap[0][0] == at):
                self.contender.woken()
            else:
                ticks = 0
                heapq.heappop(self._heap)[2]()
        return self._result()

    def _begin(self) -> None:
        for bin_id, _, spec in self.workload.bins():
            for when, wanted in spec.foreign:
                self.at(when, partial(self._others_take, self.cards[bin_id], wanted))
        while self._heap and self._heap[0][0] <= 0.0:
            heapq.heappop(self._heap)[2]()
        self.contender.begin(self)
        for card in self.cards.values():
            self._read_card(card)
        for arrival in sorted(self.workload.arrivals, key=lambda each: each.at_s):
            self.at(arrival.at_s, partial(self._arrive, arrival))
        for number, agent in enumerate(self.workload.agents):
            self._think(number, agent, 0, agent.starts_at_s)

    def _result(self) -> Result:
        return Result(
            workload=self.workload.name,
            seed=self.workload.seed,
            contender=self.contender.name,
            records=tuple(record_of(ticket, self.now) for ticket in self._tickets),
            loads=tuple(self.loads),
            counts=replace(self.counts),
            ended_at=self.now,
            events=self._events,
        )

    # ---------------------------------------------------------------- requests

    def _arrive(self, arrival: Arrival) -> None:
        self._enter(
            Ticket(
                number=len(self._tickets),
                model=self.models[arrival.model],
                priority=arrival.priority,
                client=arrival.client,
                work_s=arrival.work_s,
                arrived_at=self.now,
                deadline_s=arrival.deadline_s,
                patience_s=arrival.patience_s,
                cut_s=arrival.cut_s,
            )
        )

    def _think(self, number: int, agent: Agent, step: int, since: float) -> None:
        if step < len(agent.steps):
            when = since + agent.steps[step].think_s
            self.at(when, partial(self._ask, number, agent, step))

    def _ask(self, number: int, agent: Agent, step: int) -> None:
        self._enter(
            Ticket(
                number=len(self._tickets),
                model=self.models[agent.steps[step].model],
                priority=agent.priority,
                client=agent.client,
                work_s=agent.steps[step].work_s,
                arrived_at=self.now,
                agent=(number, step),
            )
        )

    def _enter(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        self._to_come -= 1
        self._open += 1
        self._changed_at = self.now
        if ticket.patience_s < math.inf:
            self.at(self.now + ticket.patience_s, partial(self._give_up, ticket))
        self.contender.arrived(ticket)

    def _give_up(self, ticket: Ticket) -> None:
        if ticket.waits:
            self._end(ticket, Outcome.GAVE_UP)

    def _hang_up(self, ticket: Ticket) -> None:
        if ticket.outcome is None:
            self._end(ticket, Outcome.CUT)

    def _end(self, ticket: Ticket, outcome: Outcome, why: str = "") -> None:
        ticket.outcome, ticket.why, ticket.ended_at = outcome, why, self.now
        self._open -= 1
        self._changed_at = self.now
        if ticket.started_at is not None and ticket.runner is not None:
            card = self.cards[ticket.runner.bin]
            card.advance(self.now)
            card.end(ticket.runner, ticket)
            self._retime(card)
        if ticket.agent is not None:
            number, step = ticket.agent
            self._think(number, self.workload.agents[number], step + 1, self.now)
        self.contender.left(ticket)

    def _answered(self, card: Card, version: int, runner: Runner) -> None:
        if version == card.version:
            card.advance(self.now)
            self._end(card.first_to_end(runner), Outcome.SERVED)

    def _interrupt(self, runner: Runner) -> None:
        for ticket in list(runner.running.values()):
            self._end(ticket, Outcome.FAILED, "its model was unloaded")
