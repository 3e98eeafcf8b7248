"""A world of requests, models, cards and disks on a virtual clock, for one contender.

Physics is what it is for everybody: how long loads take, how answers share a card, when memory
runs out. The contender is told what it could know and asks for what it wants; the world does it,
keeps its own books of what really is, and counts what should not have been asked for.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ollama_gate.scheduler.types import BinId
from ollama_gate.simulator.discrete.cards import (
    Card,
    Disk,
    Outcome,
    Phase,
    Reading,
    Runner,
    Ticket,
)
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.judge import breaks_rules, over_commits
from ollama_gate.simulator.discrete.result import Counts, LoadRecord, Result, record_of
from ollama_gate.simulator.discrete.workload import Agent, Arrival, ModelSpec, Workload, is_at

READS_ALIKE = 3
"""A card is not read again, while nothing moves, after so many readings that said the same."""

STALLED_S = 200_000.0
"""If for so long nobody's request begins or ends, none ever will."""

IDLE_TICKS = 10_000
"""So often in a row nobody may ask to be woken for nothing."""


class World:
    """One run of one workload; `run` it once.

    Attributes:
        now: seconds since it began.
        runners: those that are loading, listed or asked to go, by bin and model.
        counts: what it saw the contender do.
    """

    def __init__(self, workload: Workload, contender: Contender) -> None:
        self.workload = workload
        self.contender = contender
        self.now = 0.0
        self.counts = Counts()
        self.models = {model.name: model for model in workload.models}
        self.upstreams = {upstream.name: upstream for upstream in workload.upstreams}
        self.cards = {
            bin_id: Card(bin_id, spec, upstream.name, workload.physics)
            for bin_id, upstream, spec in workload.bins()
        }
        self.disks = {upstream.name: Disk(upstream) for upstream in workload.upstreams}
        self.runners: dict[tuple[BinId, str], Runner] = {}
        self._tickets: list[Ticket] = []
        self._loads: list[LoadRecord] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._pushed = 0
        self._events = 0
        self._open = 0
        self._to_come = len(workload.arrivals) + sum(len(a.steps) for a in workload.agents)
        self._changed_at = 0.0
        self._loading: dict[int, Reading | None] = {}

    # ---------------------------------------------------------------- what a contender may ask

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen, at once at the earliest; what is simultaneous keeps its order."""
        self._pushed += 1
        heapq.heappush(self._heap, (max(when, self.now), self._pushed, action))

    def bins_of(self, model: ModelSpec) -> list[BinId]:
        """Where a model's files are."""
        return [
            bin_id
            for bin_id, card in self.cards.items()
            if is_at(model, self.upstreams[card.upstream])
        ]

    def load(self, bin_id: BinId, model: ModelSpec) -> Runner:
        """Begin to load a model; `loaded` or `load_failed` follows."""
        card = self.cards[bin_id]
        assert (bin_id, model.name) not in self.runners, f"{model.name} is in {bin_id} already"
        self._judge(card, model)
        self._stop_prewarm(card.upstream)
        card.advance(self.now)
        runner = Runner(
            bin=bin_id,
            model=model,
            phase=Phase.LOADING,
            since=self.now,
            free_at_load_bytes=card.spec.total_bytes - card.used_bytes,
        )
        card.runners.append(runner)
        self.runners[bin_id, model.name] = runner
        self._loading[id(runner)] = None
        self._retime(card)
        self._read_soon(card)
        self.at(self.now + model.start_s, partial(self._read_file, runner))
        return runner

    def abort(self, runner: Runner) -> None:
        """End a load before its time, as Ollama does when its client hangs up."""
        assert runner.phase is Phase.LOADING, f"{runner.model.name} is not loading"
        self._load_over(runner, oom=False, ok=False)
        self.contender.load_failed(runner, oom=False)

    def unload(self, runner: Runner) -> None:
        """Begin to unload a model; `gone` and `vacated` follow."""
        assert runner.phase is Phase.READY, f"{runner.model.name} is {runner.phase}"
        self.counts.unloads += 1
        if runner.running:
            self.counts.busy_unloads += 1
            for ticket in list(runner.running.values()):
                self._end(ticket, Outcome.FAILED, "its model was unloaded")
        self._leave_card(runner)

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

    def prewarm(self, upstream: str, model: ModelSpec) -> bool:
        """Read a file ahead, instead of another that is read ahead; false where it is no use."""
        disk = self.disks[upstream]
        loading = any(
            runner.phase is Phase.LOADING and self.cards[runner.bin].upstream == upstream
            for runner in self.runners.values()
        )
        known = disk.cache.of(model) >= model.weights_bytes or disk.is_read_ahead(model)
        if loading or known or model.weights_bytes > disk.upstream.page_cache_bytes:
            return False
        self._stop_prewarm(upstream)
        self.counts.prewarms += 1
        disk.advance(self.now)
        disk.begin(model, None)
        self._next_reading(disk)
        return True

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
            if at > min(self.workload.ends_at_s, self._changed_at + STALLED_S):
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
        open_ones = [ticket for ticket in self._tickets if ticket.outcome is None]
        if self.now < self.workload.ends_at_s:
            self.counts.lost += len(open_ones)
        return Result(
            workload=self.workload.name,
            seed=self.workload.seed,
            contender=self.contender.name,
            records=tuple(record_of(ticket, self.now) for ticket in self._tickets),
            loads=tuple(self._loads),
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

    # ---------------------------------------------------------------- cards

    def _retime(self, card: Card) -> None:
        following = card.retime()
        if following is not None:
            when, runner = following
            self.at(when, partial(self._answered, card, card.version, runner))

    def _answered(self, card: Card, version: int, runner: Runner) -> None:
        if version == card.version:
            card.advance(self.now)
            self._end(card.first_to_end(runner), Outcome.SERVED)

    def _others_take(self, card: Card, wanted_bytes: int) -> None:
        card.foreign_bytes = wanted_bytes
        self._read_soon(card)

    def _read_soon(self, card: Card) -> None:
        """Something changes: read the card at the next turn, whether it was left alone or not."""
        if not self.contender.reads_cards:
            return
        card.reads_alike = 0
        physics = self.workload.physics
        if card.moving:
            when = self.now + physics.moving_reading_s
        else:
            when = (self.now // physics.reading_s + 1.0) * physics.reading_s
        if when < card.reading_at or card.reading_at <= self.now:
            card.reading_at = when
            self.at(when, partial(self._read_if_due, card, when))

    def _read_if_due(self, card: Card, when: float) -> None:
        if when == card.reading_at:
            self._read_card(card)

    def _read_card(self, card: Card) -> None:
        if not self.contender.reads_cards:
            return
        self.disks[card.upstream].advance(self.now)
        used = card.used_bytes
        if not card.loading:
            card.foreign_read_bytes = used - card.held_bytes
        card.reads_alike = card.reads_alike + 1 if used == card.last_read_bytes else 1
        card.last_read_bytes = used
        card.reading_at = math.inf
        if card.moving or card.reads_alike < READS_ALIKE:
            alike = card.reads_alike
            self._read_soon(card)
            card.reads_alike = alike
        self.contender.measured(card, used)

    # ---------------------------------------------------------------- loads and unloads

    def _judge(self, card: Card, model: ModelSpec) -> None:
        self.counts.loads += 1
        self.counts.over_commits += over_commits(self.contender, card, model)
        if self.contender.under_ollama:
            cards = [c for c in self.cards.values() if c.upstream == card.upstream]
            limit = self.upstreams[card.upstream].loaded_limit
            self.counts.rule_breaches += breaks_rules(cards, card, model, limit)

    def _read_file(self, runner: Runner) -> None:
        if runner.phase is Phase.LOADING:
            disk = self.disks[self.cards[runner.bin].upstream]
            disk.advance(self.now)
            self._loading[id(runner)] = disk.begin(runner.model, runner)
            self._next_reading(disk)

    def _stop_prewarm(self, upstream: str) -> None:
        disk = self.disks[upstream]
        for reading in [each for each in disk.readings if each.runner is None]:
            disk.advance(self.now)
            disk.end(reading)
            self._next_reading(disk)

    def _next_reading(self, disk: Disk) -> None:
        following = disk.next_end()
        if following is not None:
            when, reading = following
            self.at(when, partial(self._file_read, disk, disk.version, reading))

    def _file_read(self, disk: Disk, version: int, reading: Reading) -> None:
        if version != disk.version:
            return
        disk.advance(self.now)
        reading.left_s = 0.0
        if reading.runner is None:
            disk.end(reading)
            self._next_reading(disk)
            return
        runner, card = reading.runner, self.cards[reading.runner.bin]
        runner.read_share = 1.0
        oom = card.held_bytes + card.foreign_bytes > card.spec.total_bytes
        self._load_over(runner, oom=oom, ok=not oom)
        if oom:
            self.contender.load_failed(runner, oom=True)
        else:
            self.contender.loaded(runner)

    def _load_over(self, runner: Runner, *, oom: bool, ok: bool) -> None:
        card = self.cards[runner.bin]
        disk = self.disks[card.upstream]
        reading = self._loading.pop(id(runner))
        if reading is not None:
            disk.advance(self.now)
            disk.end(reading)
            self._next_reading(disk)
        self._loads.append(
            LoadRecord(
                bin=runner.bin,
                model=runner.model.name,
                began_at=runner.since,
                ended_at=self.now,
                ok=ok,
            )
        )
        self.counts.oom_loads += oom
        card.advance(self.now)
        if ok:
            runner.phase, runner.since = Phase.READY, self.now
        else:
            # Its process is gone with all that it held.
            del self.runners[runner.bin, runner.model.name]
            self._vacate(runner)
        self._retime(card)
        self._read_soon(card)

    def _leave_card(self, runner: Runner) -> None:
        runner.phase, runner.since = Phase.UNLOADING, self.now
        self._read_soon(self.cards[runner.bin])
        unload_s = runner.model.unload_s
        gone_s = unload_s * self.workload.physics.gone_share
        self.at(self.now + gone_s, partial(self._gone, runner))
        self.at(self.now + unload_s, partial(self._vacated, runner))

    def _gone(self, runner: Runner) -> None:
        runner.phase = Phase.LEAVING
        del self.runners[runner.bin, runner.model.name]
        self.contender.gone(runner)

    def _vacated(self, runner: Runner) -> None:
        self._vacate(runner)
        self._read_soon(self.cards[runner.bin])
        self.contender.vacated(runner)

    def _vacate(self, runner: Runner) -> None:
        runner.phase = Phase.GONE
        self.cards[runner.bin].runners.remove(runner)

    def let_go(self, runner: Runner) -> None:
        """Ollama itself unloads a model that serves nobody, which no contender asked for."""
        assert not runner.running, f"{runner.model.name} still serves somebody"
        self.counts.upstream_evictions += 1
        self._leave_card(runner)
