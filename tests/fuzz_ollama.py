"""The Ollamas and cards of a case as they really are: what only the scene knows.

They obey what is commanded and tell of it as Ollama, a driver and a gate would. Nothing here
chooses anything: what goes wrong, and when, is in the case.
"""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Load, Unload
from ollama_gate.scheduler.types import BinId, Launch, ModelKey, RequestId
from tests import fuzz_case as fc
from tests.fuzz_books import Books, Key
from tests.play import gib

TELLS_S = 0.2
"""So long it takes until somebody has noticed what is not as it should be."""


@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """What an Ollama runs."""

    key: Key
    launch: Launch
    num_ctx: int
    held: float = 0.0
    loading: bool = True
    doomed: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Card:
    """One bin as it is."""

    id: BinId
    upstream: str
    foreign: float = 0.0
    blind: bool = False
    ghosts: dict[int, float] = field(default_factory=dict)


class Backend(ABC):
    """Upstreams with their cards, on a virtual clock; `tell` takes whatever they say."""

    def __init__(self, setup: fc.Setup, books: Books) -> None:
        self.setup, self.books = setup, books
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count = self.ghosts = 0
        self.processes: dict[Key, Process] = {}
        self.spoiled: dict[ModelKey, str] = {}
        self.cards = [Card(id=BinId(b), upstream=u) for b, u in setup.bins]
        self.up = {card.upstream: True for card in self.cards}
        self.models = {ModelKey(model.name): model for model in setup.models}

    @abstractmethod
    def tell(self, event: ev.Event) -> None:
        """Hand an event to the scheduler, and do what it commands."""

    @abstractmethod
    def _died(self, request_id: RequestId) -> None:
        """The answer to a request breaks off, for its runner is no more."""

    def begin(self) -> None:
        """Let the upstreams be asked and the cards be read, for ever."""
        for upstream in self.up:
            self._look(upstream)
        for card in self.cards:
            if self.setup.read_every_s:
                self._read(card)

    # ---------------------------------------------------------------- the clock

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (max(when, self.now), self.count, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    # ---------------------------------------------------------------- loads and unloads

    def _load(self, command: Load) -> None:
        key, model = (command.bin, command.model), self.models[command.model]
        card = self._card(command.bin)
        num_ctx = command.launch.num_ctx or fc.AUTO_CTX
        process = Process(key=key, launch=command.launch, num_ctx=num_ctx)
        if not self.up[card.upstream]:
            self.after(TELLS_S, partial(self._load_ends, key, ev.Interrupted()))
            return
        stranger = self.processes.pop(key, None)
        if stranger is not None:
            process.held = stranger.held
        self.processes[key] = process
        self.after(model.load_s, partial(self._loaded, process))

    def _loaded(self, process: Process) -> None:
        key = process.key
        if self.processes.get(key) is not process:
            self._load_ends(key, ev.Interrupted())
            return
        how = self.spoiled.pop(key[1], None)
        model, card = self.models[key[1]], self._card(key[0])
        wanted = 0.0 if process.launch.on_cpu else model.real
        room = self.setup.total - self._used(card) + process.held
        if how == "interrupted":
            self._go_down(card.upstream, 2.0)
            self._load_ends(key, ev.Interrupted())
        elif how == "failed":
            self._kill(process)
            self._load_ends(key, ev.LoadFailed(status=500, text="it does not load"))
        elif how == "oom" or wanted > room:
            self._runs_out(process)
        else:
            process.held, process.loading = wanted, False
            held = gib(process.held)
            outcome = ev.Loaded(
                footprint_bytes=held,
                reported_bytes=held,
                size_bytes=gib(model.real),
                num_ctx=process.num_ctx,
            )
            self._load_ends(key, outcome)

    def _runs_out(self, process: Process) -> None:
        """Ollama lets everybody else go, the busy ones when they are idle; then it gives up."""
        upstream = self._card(process.key[0]).upstream
        self._kill(process)
        for other in list(self.processes.values()):
            if self._card(other.key[0]).upstream == upstream:
                other.doomed = True
        self._drop_doomed()
        text = "cudaMalloc failed: out of memory"
        self._load_ends(process.key, ev.LoadFailed(status=500, text=text, oom=True))
        self.after(TELLS_S, partial(self._look_once, upstream))

    def _load_ends(self, key: Key, outcome: ev.Loaded | ev.LoadFailed | ev.Interrupted) -> None:
        if isinstance(outcome, ev.Interrupted):
            self.tell(ev.UpstreamLost(upstream=self._card(key[0]).upstream))
        self.tell(ev.LoadEnded(bin=key[0], model=key[1], outcome=outcome))

    def _unload(self, command: Unload) -> None:
        key = command.bin, command.model
        upstream = self._card(key[0]).upstream
        process = self.processes.get(key)
        if process is not None and self.up[upstream]:
            self._kill(process)
        if not self.up[upstream]:
            self.tell(ev.UpstreamLost(upstream=upstream))
        self.tell(ev.UnloadEnded(bin=key[0], model=key[1], gone=self.up[upstream]))

    # ---------------------------------------------------------------- Ollama and the cards

    def _card(self, bin_id: BinId) -> Card:
        return next(card for card in self.cards if card.id == bin_id)

    def _used(self, card: Card) -> float:
        held = sum(p.held for p in self.processes.values() if p.key[0] == card.id)
        return card.foreign + held + sum(card.ghosts.values())

    def _kill(self, process: Process) -> None:
        self.processes.pop(process.key, None)
        card = self._card(process.key[0])
        self.ghosts += 1
        card.ghosts[self.ghosts] = process.held
        self.after(self.setup.returns_s, partial(self._give_back, card, self.ghosts))

    def _give_back(self, card: Card, ghost: int) -> None:
        del card.ghosts[ghost]

    def _busy(self, key: Key) -> list[RequestId]:
        told = self.books.runners.get(key)
        return sorted(told.running) if told else []

    def _drop_doomed(self) -> None:
        for process in list(self.processes.values()):
            if process.doomed and not process.loading and not self._busy(process.key):
                self._kill(process)

    def _read(self, card: Card) -> None:
        self.after(self.setup.read_every_s, partial(self._read, card))
        if not card.blind:
            used = gib(self._used(card))
            total = gib(self.setup.total)
            self.tell(ev.Measured(bin=card.id, total_bytes=total, used_bytes=used))

    def _look(self, upstream: str) -> None:
        self._look_once(upstream)
        self.after(self.setup.look_every_s, partial(self._look, upstream))

    def _look_once(self, upstream: str) -> None:
        if not self.up[upstream]:
            self.tell(ev.UpstreamLost(upstream=upstream))
            return
        residents = tuple(
            ev.Resident(
                bin=process.key[0],
                model=process.key[1],
                name=process.key[1],
                launch=process.launch,
                footprint_bytes=gib(process.held),
                reported_bytes=gib(process.held),
                num_ctx=process.num_ctx,
                parallel=self.setup.parallel,
            )
            for process in self.processes.values()
            if not process.loading and self._card(process.key[0]).upstream == upstream
        )
        self.tell(ev.Observed(upstream=upstream, residents=residents, asked_at=self.now))

    def _go_down(self, upstream: str, for_s: float) -> None:
        self.up[upstream] = False
        for process in list(self.processes.values()):
            if self._card(process.key[0]).upstream == upstream:
                self._crash(process)
        self.after(TELLS_S, partial(self._look_once, upstream))
        self.after(for_s, partial(self._come_up, upstream))

    def _come_up(self, upstream: str) -> None:
        self.up[upstream] = True

    def _crash(self, process: Process) -> None:
        busy = self._busy(process.key)
        self._kill(process)
        for request_id in busy:
            self.after(TELLS_S, partial(self._died, request_id))

    # ---------------------------------------------------------------- what goes wrong

    def _model(self, number: int) -> ModelKey:
        return ModelKey(self.setup.models[number % len(self.setup.models)].name)

    def _blind(self, stimulus: fc.Blind) -> None:
        card = self.cards[stimulus.bin % len(self.cards)]
        if self.setup.read_every_s and not card.blind:
            card.blind = True
            self.tell(ev.ReadingLost(bin=card.id))
            self.after(stimulus.for_s, partial(setattr, card, "blind", False))

    def _vanish(self, stimulus: fc.Vanish) -> None:
        for key, process in list(self.processes.items()):
            if key[1] == self._model(stimulus.model) and not process.loading:
                if stimulus.crash:
                    self._crash(process)
                elif not self._busy(key):
                    self._kill(process)

    def _appear(self, stimulus: fc.Appear) -> None:
        card = self.cards[stimulus.bin % len(self.cards)]
        model = self.models[self._model(stimulus.model)]
        on_host = [p for p in self.processes.values() if self._card(p.key[0]) is card]
        there = any(process.key[1] == model.name for process in on_host)
        known = any(key[1] == model.name for key in self.books.runners)
        loading = any(process.loading for process in on_host)
        full = len(on_host) >= self.setup.max_loaded
        room = self.setup.total - self._used(card)
        if there or known or loading or full or model.real > room or not self.up[card.upstream]:
            return
        key = card.id, ModelKey(model.name)
        self.processes[key] = Process(
            key=key, launch=Launch(), num_ctx=fc.AUTO_CTX, held=model.real, loading=False
        )
