"""Cards, disks and the models on them, on a virtual clock: loads, unloads, readings.

How long each takes and when memory runs out is the same for everybody. It does what it is asked,
judges by its own books whether it should have been asked, and tells the contender what it could
know. Of requests it knows only that a runner may serve some.
"""

import heapq
import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from ollama_gate.scheduler.types import BinId
from ollama_gate.simulator.discrete.cards import Card, Disk, Phase, Reading, Runner
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.judge import breaks_rules, over_commits
from ollama_gate.simulator.discrete.result import Counts, LoadRecord
from ollama_gate.simulator.discrete.workload import ModelSpec, Workload, is_at

READS_ALIKE = 3
"""A card is not read again, while nothing moves, after so many readings that said the same."""


class Hardware:
    """What a world runs on.

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
            bin_id: Card(bin_id, spec, upstream, workload.physics)
            for bin_id, upstream, spec in workload.bins()
        }
        self.disks = {upstream.name: Disk(upstream) for upstream in workload.upstreams}
        self.runners: dict[tuple[BinId, str], Runner] = {}
        self.loads: list[LoadRecord] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._pushed = 0
        self._loading: dict[int, Reading | None] = {}

    @abstractmethod
    def _interrupt(self, runner: Runner) -> None:
        """End what a runner serves: it is no more."""

    @abstractmethod
    def _answered(self, card: Card, version: int, runner: Runner) -> None:
        """The next answer of a runner ends, if what was foretold then still holds."""

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
            self._interrupt(runner)
        self._leave_card(runner)

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

    def let_go(self, runner: Runner) -> None:
        """Ollama itself unloads a model that serves nobody, which no contender asked for."""
        assert not runner.running, f"{runner.model.name} still serves somebody"
        self.counts.upstream_evictions += 1
        self._leave_card(runner)

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
        self.loads.append(
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

    # ---------------------------------------------------------------- cards

    def _retime(self, card: Card) -> None:
        following = card.retime()
        if following is not None:
            when, runner = following
            self.at(when, partial(self._answered, card, card.version, runner))

    def _others_take(self, card: Card, wanted_bytes: int) -> None:
        card.foreign_bytes = wanted_bytes
        card.reads_alike = 0
        self._read_next(card)

    def _read_soon(self, card: Card) -> None:
        """Memory moves, or has just moved: whoever waits for that looks more often."""
        physics = self.workload.physics
        card.reads_alike = 0
        soon_s = physics.moving_reading_s
        if card.moving and not card.leaving:
            soon_s = physics.loading_reading_s
        self._read_at(card, self.now + soon_s)

    def _read_next(self, card: Card) -> None:
        """Read a card at the next turn, whether it was left alone or not."""
        reading_s = self.workload.physics.reading_s
        self._read_at(card, (self.now // reading_s + 1.0) * reading_s)

    def _read_at(self, card: Card, when: float) -> None:
        if self.contender.reads_cards and when < card.reading_at:
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
        if card.moving:
            self._read_soon(card)
        elif card.reads_alike < READS_ALIKE:
            self._read_next(card)
        self.contender.measured(card, used)
