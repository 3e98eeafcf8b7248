"""Ollama's own scheduler with nobody in front of it, faults and all (v0.32.15 `server/sched.go`).

Requests for a loaded model go straight to it, also while it is to be evicted. All others stand in
one queue and are taken one at a time; whoever is taken holds up the rest until its model is
loaded. It asks one victim at a time, whether or not that makes enough room, and a second loop
that takes note of ended answers stands still while it awaits memory. Nothing of it is to be made
better here.
"""

import math
import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from ollama_gate.scheduler.types import BinId
from ollama_gate.simulator.discrete.cards import Card, Runner, Ticket
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.judge import SHARE_PERCENT, ready_on, told_free_bytes
from ollama_gate.simulator.discrete.workload import ModelSpec, UpstreamSpec, Workload, is_at
from ollama_gate.simulator.discrete.world import World

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
OUT_OF_MEMORY = "llama-server process has terminated: cudaMalloc failed: out of memory"

MAX_QUEUE = 512
"""`OLLAMA_MAX_QUEUE` where it is not set."""

RECOVERY_POLL_S = 0.25
RECOVERY_MAX_S = 5.0
"""How often it looks whether an unload's memory is back, and for how long."""


@dataclass(slots=True, kw_only=True, eq=False)
class Ref:
    """A runner as Ollama's scheduler knows it.

    Attributes:
        session_s: how long it may idle; 0 once it is a victim.
        refs: requests that it serves, or that queue in its process.
        queue: those that queue there, for want of a slot.
        timer: which of its idle timers is the one that counts.
        expires_when_idle: it was to go while it served somebody.
        dying: its process is being ended.
    """

    runner: Runner
    session_s: float
    refs: int = 0
    queue: deque[Ticket] = field(default_factory=deque)
    timer: int = 0
    expires_when_idle: bool = False
    dying: bool = False


class Ollama(Contender):
    """One Ollama for each upstream; each model is asked for at one of them.

    With several upstreams somebody has dealt the models out by hand, and well: the one with most
    work first, each to the upstream with the least so far.
    """

    name = "ollama"

    def __init__(self, *, max_queue: int = MAX_QUEUE, sends_keep_alive: bool = False) -> None:
        """Choose how it is set up.

        Args:
            max_queue: `OLLAMA_MAX_QUEUE`.
            sends_keep_alive: whether each request names the `keep_alive` that holds anyhow, as
                some clients do; it makes of a victim one that stays.
        """
        self._max_queue = max_queue
        self._sends_keep_alive = sends_keep_alive
        self._servers: dict[str, Server] = {}
        self._home: dict[str, str] = {}

    def begin(self, world: World) -> None:
        """Start the servers."""
        super().begin(world)
        self._home = deal_out(world.workload)
        for upstream in world.upstreams.values():
            self._servers[upstream.name] = Server(
                world, upstream, self._max_queue, sends_keep_alive=self._sends_keep_alive
            )

    def arrived(self, ticket: Ticket) -> None:
        """Ask the one that has its model."""
        self._servers[self._home[ticket.model.name]].arrived(ticket)

    def left(self, ticket: Ticket) -> None:
        """Its context is over."""
        self._servers[self._home[ticket.model.name]].left(ticket)

    def loaded(self, runner: Runner) -> None:
        """Whoever was next has its model."""
        self._server_of(runner).loaded(runner)

    def load_failed(self, runner: Runner, *, oom: bool) -> None:
        """Whoever was next has it not."""
        self._server_of(runner).load_failed(oom=oom)

    def gone(self, runner: Runner) -> None:
        """A process has ended."""
        self._server_of(runner).gone(runner)

    def _server_of(self, runner: Runner) -> "Server":
        return self._servers[self.world.cards[runner.bin].upstream]


def deal_out(workload: Workload) -> dict[str, str]:
    """Which upstream each model is asked for at."""
    works = dict.fromkeys((model.name for model in workload.models), 0.0)
    for arrival in workload.arrivals:
        works[arrival.model] += arrival.work_s
    for agent in workload.agents:
        for step in agent.steps:
            works[step.model] += step.work_s
    busy = dict.fromkeys((upstream.name for upstream in workload.upstreams), 0.0)
    home = {}
    for model in sorted(workload.models, key=lambda m: (-works[m.name], m.name)):
        there = [u.name for u in workload.upstreams if is_at(model, u)]
        home[model.name] = least = min(there, key=lambda name: (busy[name], name))
        busy[least] += works[model.name]
    return home


class Server:
    """One Ollama's scheduler: its queue, its two loops, what it has loaded."""

    def __init__(
        self, world: World, upstream: UpstreamSpec, max_queue: int, *, sends_keep_alive: bool
    ) -> None:
        self._world = world
        self._random = random.Random(f"{world.workload.seed} {upstream.name}")
        self._max_loaded = upstream.loaded_limit
        self._max_queue = max_queue
        self._keep_alive_s = world.workload.keep_alive_s
        self._sends_keep_alive = sends_keep_alive
        self._cards = [card for card in world.cards.values() if card.upstream == upstream.name]
        self._loaded: dict[str, Ref] = {}
        self._of: dict[int, Ref] = {}
        self._pending: deque[Ticket] = deque()
        self._current: Ticket | None = None
        self._loading: Runner | None = None
        self._retried = False
        self._awaited = self._signals = 0
        self._notes: deque[Ticket | Ref] = deque()
        self._recovering = False

    # ---------------------------------------------------------------- what happens to requests

    def arrived(self, ticket: Ticket) -> None:
        """Straight to its model, or into the queue, or away."""
        ref = self._loaded.get(ticket.model.name)
        if ref is not None and not ref.dying:
            self._use(ref, ticket)
        elif len(self._pending) >= self._max_queue:
            self._world.refuse(ticket, QUEUE_FULL)
        else:
            self._pending.append(ticket)
            self._proceed()

    def left(self, ticket: Ticket) -> None:
        """An answer has ended, or a client has gone."""
        ref = self._of.pop(ticket.number, None)
        if ref is not None:
            self._fill(ref)
            self._notes.append(ticket)
            self._take_note()
        elif ticket is self._current and self._loading is not None:
            # Ollama's own loads end with whoever wanted them.
            self._world.abort(self._loading)

    def _use(self, ref: Ref, ticket: Ticket) -> None:
        ref.refs += 1
        ref.timer += 1
        if self._sends_keep_alive:
            # This also undoes an eviction that waits for the runner to become idle.
            ref.session_s = self._keep_alive_s
        self._of[ticket.number] = ref
        ref.queue.append(ticket)
        self._fill(ref)

    def _fill(self, ref: Ref) -> None:
        while ref.queue and ref.runner.free_slots > 0:
            ticket = ref.queue.popleft()
            if ticket.waits:
                self._world.start(ticket, ref.runner)

    # ---------------------------------------------------------------- one request at a time

    def _proceed(self) -> None:
        """The first loop, up to where it must wait for something."""
        while not (self._awaited or self._loading or self._is_locked):
            if self._current is None:
                if not self._pending:
                    return
                self._current, self._retried = self._pending.popleft(), False
                self._signals = 0
            if self._current.waits:
                self._step(self._current)
            else:
                self._current = None

    @property
    def _is_locked(self) -> bool:
        """Whether a process is being ended: the list of what is loaded is locked meanwhile."""
        return any(ref.dying for ref in self._loaded.values())

    def _step(self, ticket: Ticket) -> None:
        ref = self._loaded.get(ticket.model.name)
        if ref is not None:
            self._current = None
            self._use(ref, ticket)
            return
        full = len(self._loaded) >= self._max_loaded
        bin_id = None if full else self._place_for(ticket.model)
        if bin_id is not None:
            self._loading = self._world.load(bin_id, ticket.model)
        else:
            self._let_go(self._victim())
            self._await_unloads(1)

    def _place_for(self, model: ModelSpec) -> BinId | None:
        """The card with most room; none if it is too little beside what is loaded."""
        offers = [(self._free_bytes(card), card.id) for card in self._cards]
        enough = [o for o in offers if model.tested_bytes <= o[0] * SHARE_PERCENT // 100]
        if self._loaded and not enough:
            return None
        most = max(free for free, _ in enough or offers)
        return next(bin_id for free, bin_id in enough or offers if free == most)

    def _free_bytes(self, card: Card) -> int:
        ready = ready_on(card)
        if not ready:
            return card.spec.total_bytes - card.used_bytes
        # It goes through them in the order of a Go map.
        return told_free_bytes(card, self._random.choice(ready), ready)

    def _victim(self) -> Ref:
        """The idle one with the shortest `keep_alive`, then by name; of all if none is idle."""
        in_order = sorted(
            self._loaded.values(), key=lambda ref: (ref.session_s, ref.runner.model.name)
        )
        return next((ref for ref in in_order if ref.refs <= 0), in_order[0])

    def _let_go(self, ref: Ref) -> None:
        ref.timer += 1
        ref.session_s = 0.0
        if ref.refs <= 0:
            self._notes.append(ref)
            self._take_note()

    def _await_unloads(self, count: int) -> None:
        """Wait for so many unloads, of whichever models; those since its turn began count."""
        seen = min(count, self._signals)
        self._signals -= seen
        self._awaited = count - seen

    def loaded(self, runner: Runner) -> None:
        """The load is over: whoever wanted it is served, and the next one's turn has come."""
        ticket, self._current, self._loading = self._current, None, None
        assert ticket is not None, "somebody wanted it"
        ref = Ref(runner=runner, session_s=self._keep_alive_s)
        self._loaded[runner.model.name] = ref
        self._use(ref, ticket)
        self._proceed()

    def load_failed(self, *, oom: bool) -> None:
        """Once more with everything else gone, if memory ran out beside something."""
        ticket, self._loading = self._current, None
        assert ticket is not None, "somebody wanted it"
        if oom and self._loaded and not self._retried:
            self._retried = True
            others = list(self._loaded.values())
            for ref in others:
                self._let_go(ref)
            self._await_unloads(len(others))
        else:
            self._current = None
            if ticket.waits:
                self._world.refuse(ticket, OUT_OF_MEMORY, failed=True)
        self._proceed()

    # ---------------------------------------------------------------- ends, expiries, unloads

    def _take_note(self) -> None:
        """The second loop: it stands still while memory is awaited."""
        while self._notes and not self._recovering:
            note = self._notes.popleft()
            if isinstance(note, Ref):
                self._expired(note)
            else:
                self._finished(note)

    def _finished(self, ticket: Ticket) -> None:
        ref = self._loaded[ticket.model.name]
        ref.refs -= 1
        if ref.refs > 0:
            return
        if ref.session_s <= 0.0 or ref.expires_when_idle:
            self._notes.append(ref)
        else:
            ref.timer += 1
            when = self._world.now + ref.session_s
            self._world.at(when, partial(self._timer_ended, ref, ref.timer))

    def _timer_ended(self, ref: Ref, timer: int) -> None:
        if timer == ref.timer:
            self._notes.append(ref)
            self._take_note()

    def _expired(self, ref: Ref) -> None:
        if self._loaded.get(ref.runner.model.name) is not ref or ref.dying:
            return
        if ref.refs > 0:
            ref.expires_when_idle = True
            return
        ref.timer += 1
        ref.dying = self._recovering = True
        polls = max(1, math.ceil(ref.runner.model.unload_s / RECOVERY_POLL_S))
        back_s = min(RECOVERY_MAX_S, polls * RECOVERY_POLL_S)
        self._world.unload(ref.runner)
        self._world.at(self._world.now + back_s, self._recovered)

    def gone(self, runner: Runner) -> None:
        """The list is unlocked, and one shorter."""
        del self._loaded[runner.model.name]
        self._proceed()

    def _recovered(self) -> None:
        self._recovering = False
        if self._awaited:
            self._awaited -= 1
        else:
            self._signals += 1
        self._take_note()
        self._proceed()
