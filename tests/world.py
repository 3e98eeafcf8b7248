"""A seeded world around the scheduler: clients, Ollamas, cards and faults on a virtual clock.

It drives a `Machine` through its events alone and keeps its own books of what is really there and
of what the scheduler has been told. Every assertion is made from these books; nothing is read
from the scheduler's, so that a mistake there cannot vouch for itself.

Memory is judged as far as the scheduler could know of it: what others took since the last
reading, and what a load hid from a reading, is nobody's fault.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ollama_gate.scheduler import Machine, snapshot
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import (
    Broken,
    Command,
    Evicted,
    Forward,
    Load,
    Offloaded,
    Prewarm,
    Refuse,
    Unload,
    Warn,
)
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Offload,
    Policy,
    Priority,
    Refusal,
    Request,
    RequestId,
    Upstream,
)
from tests.fuzz_books import Books
from tests.fuzz_judge import Judge

MIB = 2**20
GIB = 2**30
NOISE_BYTES = 16 * MIB
OVERHEAD_BYTES = 400 * MIB
"""What a process takes of a card beyond what Ollama tells of it."""
FIT_MARGIN_BYTES = GIB
"""What the engine leaves free when it decides how much of a model goes to the card."""
SHOWN_S = 4.0
"""Within so long of the first sign a runner whose memory others need must have gone."""
AUTO_CTX, WIDE_CTX = 4096, 8192

Key = tuple[BinId, ModelKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as it really is, and what is believed of it beforehand."""

    key: ModelKey
    names: tuple[str, ...]
    real_bytes: int
    estimate_bytes: int
    predicted_bytes: int
    load_s: float
    bins: tuple[BinId, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Card:
    """One bin's memory as it really is, and as it was last read."""

    bin: Bin
    total_bytes: int
    live: bool
    foreign_bytes: int = 0
    foreign_read_bytes: int = 0
    used_read_bytes: int = 0
    read_at: float = 0.0
    shrank_at: float = -1.0
    lost: bool = False
    wandered: bool = False
    moved_bytes: int = 0
    moved_at: float = 0.0
    pressed_since: float | None = None

    @property
    def limit_bytes(self) -> int:
        """What may be planned with at the very most."""
        return self.total_bytes if self.bin.capacity_bytes is None else self.bin.capacity_bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """What an Ollama really runs."""

    key: Key
    model: Model
    launch: Launch
    free_at_load_bytes: int | None
    since: float
    held_bytes: int = 0
    read_bytes: int = 0
    loading: bool = True
    layers_bytes: int = 0
    retried: bool = False
    doomed: bool = False
    dead: bool = False
    lists_bytes: int = 0

    @property
    def on_card(self) -> bool:
        """Whether it was not put on the CPU by whoever loaded it."""
        return not self.launch.on_cpu

    @property
    def vram_bytes(self) -> int:
        """`size_vram`, which a dead one goes on to have."""
        held = self.lists_bytes if self.dead else self.held_bytes
        return max(0, held - OVERHEAD_BYTES)

    @property
    def size_bytes(self) -> int:
        """`size`."""
        return self.model.real_bytes - OVERHEAD_BYTES


@dataclass(slots=True, kw_only=True, eq=False)
class Ghost:
    """Memory of a process that is no more, until the card gives it back.

    Attributes:
        told_at: when the scheduler learned that Ollama no longer lists it.
        excused: something else shrank as well, so that a reading cannot tell them apart.
    """

    key: Key
    held_bytes: int
    read_bytes: int
    told_at: float = math.inf
    excused: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Told:
    """What the scheduler has been told of a runner: the world's record of its own words."""

    launch: Launch
    num_ctx: int | None
    state: str
    since: float
    bytes: int
    reported_bytes: int
    parallel: int
    ready_at: float = 0.0
    load_s: float = 0.0
    idle_since: float = 0.0
    served: int = 0
    owes: bool = False
    partial: bool = False
    doomed: bool = False
    foreign_bytes: int = 0
    running: set[RequestId] = field(default_factory=set)


@dataclass(slots=True, kw_only=True, eq=False)
class Ollama:
    """One upstream as it really is, and whether the scheduler believes that it answers."""

    upstream: Upstream
    up: bool = True
    heard: bool = False
    unsure_since: float | None = None
    processes: dict[Key, Process] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """One request's fate: `new`, `waiting`, `running`, `refused`, `over`."""

    request: Request
    service_s: float
    state: str = "new"
    again: bool = False


class World:
    """Run it with `run`; it raises `AssertionError` at the first thing that must not happen."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.clients: dict[RequestId, Client] = {}
        self.told: dict[Key, Told] = {}
        self.gone_at: dict[Key, float] = {}
        self.gone_bytes: dict[Key, int] = {}
        self.ghosts: list[Ghost] = []
        self.loads = 0
        self.excused_loads = 0
        self.ran_out: dict[Key, tuple[float, int]] = {}
        self.told_launch: dict[Key, Launch] = {}
        self.reloaded: set[tuple[Key, Launch]] = set()
        self.calm = False
        self.closed = False
        self.flood = self.random.random() < 0.15
        self.eldest: tuple[RequestId | None, float] = None, 0.0
        self.history: list[tuple[ev.Event, float, list[Command]]] = []
        self._draw()
        self.machine = self._machine()
        books = Books(
            upstreams=[ollama.upstream for ollama in self.ollamas.values()],
            bins=[card.bin for card in self.cards.values()],
            policy=self.policy,
        )
        # Seeing everything takes longer than everything else.
        self.judge = Judge(self.machine, books, views=seed % 4 == 0)

    # ---------------------------------------------------------------- what is drawn

    def _draw(self) -> None:
        rng = self.random
        tau_s = rng.choice([(2.0, 8.0, 20.0), (5.0, 20.0, 40.0), (0.0, 0.0, 0.0)])
        high_s, normal_s, low_s = tau_s
        self.policy = Policy(
            tau_s=tau_s,
            tau_cap_s=(2 * high_s, 2 * normal_s, 2 * low_s),
            kappa=rng.choice([0.0, 0.5, 2.0]),
            kappa_hi=rng.choice([0.0, 0.5]),
            k_load=rng.choice([0, 1, 3]),
            k_slot=rng.choice([0, 2, 8]),
            queue_max_size=rng.choice([3, 1000, 1000]),
            keep_alive_s=rng.choice([3.0, 300.0]),
            unread_recovery_s=rng.choice([0.0, 1.5]),
            offload=rng.choice([Offload.AUTO, Offload.AUTO, Offload.ACCEPT, Offload.REFUSE]),
        )
        self.fits_layers = rng.random() < 0.8
        upstreams, cards = rng.choice([(1, 1), (1, 1), (1, 1), (1, 2), (2, 1)])
        self.ollamas = {
            name: Ollama(
                upstream=Upstream(
                    name=name,
                    max_loaded=rng.choice([1, 2, 3, 6]),
                    outage_wait_s=rng.choice([5.0, 60.0]),
                )
            )
            for name in ["left", "right"][:upstreams]
        }
        self.cards: dict[BinId, Card] = {}
        for name in self.ollamas:
            for number in range(cards):
                card = self._card(BinId(f"{name}/{number}"), name)
                self.cards[card.bin.id] = card
        self.models = [self._model(number) for number in range(rng.randint(2, 6))]
        self.parallel = rng.choice([1, 1, 2, 3])
        self.reading_s = rng.choice([0.25, 0.5, 1.0])
        self.service_max_s = rng.choice([1.0, 6.0])
        if self.flood:
            self._draw_flood()
        longest = max(model.load_s for model in self.models)
        largest = max(model.estimate_bytes for model in self.models)
        # Ollama itself tries once more where memory ran out.
        self.load_max_s = max(2 * longest, 1.2 + largest / 3e9) + 1.0

    def _draw_flood(self) -> None:
        """One model is wanted without end, by more clients than it can serve, and one is not."""
        # Whoever is refused would come again in the same instant.
        self.policy = replace(
            self.policy,
            tau_s=(2.0, 8.0, 20.0),
            tau_cap_s=(4.0, 16.0, 40.0),
            queue_max_size=1000,
            offload=Offload.AUTO,
        )
        self.models = [self._model(number, 9 * GIB) for number in (1, 2)]
        self.service_max_s = 1.0

    def _card(self, bin_id: BinId, upstream: str) -> Card:
        rng = self.random
        total = rng.choice([12, 24]) * GIB
        live = rng.random() < 0.7
        capacity = None if live and rng.random() < 0.8 else total - rng.choice([0, 2]) * GIB
        if not live and rng.random() < 0.2:
            capacity = None
        bin_ = Bin(id=bin_id, upstream=upstream, capacity_bytes=capacity, cpu=rng.random() < 0.1)
        return Card(bin=bin_, total_bytes=total, live=live)

    def _model(self, number: int, least_bytes: int = GIB) -> Model:
        rng = self.random
        real = rng.randint(least_bytes, 15 * GIB)
        if number == 0 and rng.random() < 0.3:
            real = 30 * GIB
        key = ModelKey(f"model-{number}")
        # It really takes 10 % less to 25 % more than was thought.
        estimate = int(real / rng.choice([1.0, 1.0, rng.uniform(0.9, 1.25)]))
        return Model(
            key=key,
            names=(key, f"alias-{number}"),
            real_bytes=real,
            estimate_bytes=estimate,
            predicted_bytes=int(real * rng.choice([0.7, 0.95, 1.0])),
            load_s=rng.uniform(0.3, 1.0) + real / (4 * GIB),
            # A bin whose upstream has no file of it is none for it.
            bins=tuple(self.cards) if rng.random() < 0.7 else (rng.choice(list(self.cards)),),
        )

    def _machine(self) -> Machine:
        return Machine(
            upstreams=[ollama.upstream for ollama in self.ollamas.values()],
            bins=[card.bin for card in self.cards.values()],
            policy=self.policy,
            now=0.0,
        )

    # ---------------------------------------------------------------- the clock

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen, at once at the earliest."""
        self.count += 1
        heapq.heappush(self.heap, (max(when, self.now), self.count, action))

    def soon(self, within_s: float, action: Callable[[], None]) -> None:
        """Let something happen within so many seconds."""
        self.at(self.now + self.random.uniform(0.0, within_s), action)

    def run(self) -> None:
        """Live through an eventful time, then a calm one in which everybody must end."""
        eventful_s = 120.0 if self.flood else self.random.choice([20.0, 60.0])
        self._begin(eventful_s)
        self._advance(eventful_s)
        self._calm_down()
        left = [client for client in self.clients.values() if client.state != "over"]
        loads_before = self.loads
        bound_s = 60.0 + (len(left) + 2) * (self._wait_bound_s() + self.service_max_s)
        self._advance(eventful_s + bound_s, until_over=True)
        late = [c.request.id for c in self.clients.values() if c.state != "over"]
        assert not late, f"never ended: {late}"
        allowed = len(left) + 1 + self.excused_loads
        assert self.loads - loads_before <= allowed, "more loads than requests"
        self._replay()

    def _advance(self, until: float, *, until_over: bool = False) -> None:
        ticks = 0
        while not (until_over and all(c.state == "over" for c in self.clients.values())):
            wake = self.machine.next_wakeup()
            at = self.heap[0][0]
            if wake is not None and wake < at:
                if wake > until:
                    break
                ticks += 1
                assert ticks < 1000, "it wakes again and again, and nothing happens"
                self.now = wake
                self.tell(ev.Ticked())
            elif at > until:
                break
            else:
                ticks = 0
                self.now, _, action = heapq.heappop(self.heap)
                action()
        self.now = max(self.now, until if not until_over else self.now)

    def _begin(self, eventful_s: float) -> None:
        rng = self.random
        for ollama in self.ollamas.values():
            self.soon(2.0, partial(self._look, ollama))
        for card in self.cards.values():
            if card.live:
                self.soon(1.0, partial(self._read, card))
                if not self.flood:
                    self.soon(5.0, partial(self._others_move, card))
        if self.flood:
            self._begin_flood()
            return
        self._begin_bursts(eventful_s)
        faults = [
            self._die,
            self._die,
            self._outage,
            self._stranger,
            self._stop_one,
            self._release,
            self._lose_card,
        ]
        for _ in range(rng.choice([0, 3, 12])):
            self.at(rng.uniform(0.0, eventful_s), rng.choice(faults))
        if rng.random() < 0.05:
            self.at(rng.uniform(0.0, eventful_s), self._close)

    def _begin_flood(self) -> None:
        for _ in range(self.parallel * len(self.cards) + self.random.randint(1, 4)):
            self._send(self.models[0])
        self.soon(40.0, partial(self._send, self.models[1]))

    def _begin_bursts(self, eventful_s: float) -> None:
        rng = self.random
        for _ in range(rng.randint(1, 6)):
            start, favourite = rng.uniform(0.0, eventful_s), rng.choice(self.models)
            for _ in range(rng.randint(1, 15)):
                model = favourite if rng.random() < 0.5 else rng.choice(self.models)
                self.at(start + rng.expovariate(0.5), partial(self._send, model))

    def _calm_down(self) -> None:
        self.calm = True
        self.excused_loads = 0
        for ollama in self.ollamas.values():
            ollama.up = True

    def _replay(self) -> None:
        again = self._machine()
        for event, now, commands in self.history:
            assert again.handle(event, now) == commands, f"another answer to {event}"

    # ---------------------------------------------------------------- clients

    def _send(self, model: Model) -> None:
        self._arrive(self._client(len(self.clients), model))

    def _client(self, number: int, model: Model) -> Client:
        rng = self.random
        launch, num_ctx = Launch(), AUTO_CTX
        if rng.random() < 0.15 and not self.flood:
            launch, num_ctx = rng.choice(
                [(Launch(num_ctx=WIDE_CTX), WIDE_CTX), (Launch(num_gpu=0), AUTO_CTX)]
            )
        need = Need(footprint_bytes=model.estimate_bytes, predicted_bytes=model.predicted_bytes)
        nothing = Need(footprint_bytes=0, predicted_bytes=0)
        bins = [self.cards[bin_id].bin for bin_id in model.bins]
        request = Request(
            id=RequestId(str(number)),
            model=model.key,
            name=rng.choice(model.names),
            needs={bin_.id: nothing if launch.on_cpu and not bin_.cpu else need for bin_ in bins},
            arrived_at=0.0,
            launch=launch,
            num_ctx=num_ctx,
            priority=rng.choice(list(Priority)),
            parallel=self.parallel,
            keep_alive_s=rng.choice([None, None, None, 0.0, 2.0, math.inf]),
            default_keep_alive_s=rng.choice([2.0, 300.0]),
        )
        return Client(request=request, service_s=rng.uniform(0.05, self.service_max_s))

    def _arrive(self, client: Client) -> None:
        if self.calm:
            client.state = "over"
            return
        client.request = replace(client.request, arrived_at=self.now)
        client.state = "waiting"
        self.clients[client.request.id] = client
        if self.random.random() < 0.15:
            self.at(self.now + self.random.expovariate(0.2), partial(self._give_up, client))
        self.tell(ev.Arrived(request=client.request))

    def _give_up(self, client: Client) -> None:
        if client.state == "over":
            return
        if client.state == "waiting" and self.random.random() < 0.5:
            self.tell(ev.Cancelled(id=client.request.id))
            assert client.state == "refused", "cancelled, and not refused"
        else:
            self._end(client)

    def _end(self, client: Client) -> None:
        if client.state == "over":
            return
        client.state = "over"
        for told in self.told.values():
            if client.request.id in told.running:
                told.running.remove(client.request.id)
                told.idle_since = self.now
        self.tell(ev.Left(id=client.request.id))
        for upstream in self.ollamas:
            self._drop_doomed(upstream)
        if self.flood and not self.calm and client.request.model == self.models[0].key:
            self.at(self.now, partial(self._send, self.models[0]))

    # ---------------------------------------------------------------- cards

    def used(self, card: Card) -> int:
        """What the card would say now."""
        processes = (
            process.held_bytes
            for ollama in self.ollamas.values()
            for process in ollama.processes.values()
            if process.key[0] == card.bin.id
        )
        ghosts = (ghost.held_bytes for ghost in self.ghosts if ghost.key[0] == card.bin.id)
        return card.foreign_bytes + sum(processes) + sum(ghosts)

    def _read(self, card: Card) -> None:
        if card.lost:
            self.at(self.now + self.reading_s, partial(self._read, card))
            return
        used = self.used(card)
        card.used_read_bytes, card.read_at = used, self.now
        here = [p for p in self._processes(card.bin.upstream) if p.key[0] == card.bin.id]
        if not any(process.loading for process in here):
            card.foreign_read_bytes = card.foreign_bytes
            for process in here:
                process.read_bytes = process.held_bytes
            for ghost in self.ghosts:
                ghost.read_bytes = ghost.held_bytes
            if abs(card.foreign_bytes - card.moved_bytes) > GIB:
                card.moved_bytes, card.moved_at = card.foreign_bytes, self.now
        for key, told in self.told.items():
            if key[0] == card.bin.id:
                told.foreign_bytes = min(told.foreign_bytes, card.foreign_bytes)
        self.at(self.now + self.reading_s, partial(self._read, card))
        self.tell(ev.Measured(bin=card.bin.id, total_bytes=card.total_bytes, used_bytes=used))
        self._others_find_room(card)

    def _lose_card(self) -> None:
        card = self.random.choice(list(self.cards.values()))
        if not card.live or card.lost or self.calm or not card.read_at:
            return
        self._forgive()
        card.lost = True
        # Of what the last reading showed it took this for its own, and no other will show better.
        card.foreign_read_bytes = max(0, card.foreign_read_bytes - self._unmissed_bytes(card))
        self._excuse(card.bin.id)
        self.tell(ev.ReadingLost(bin=card.bin.id))
        self.soon(20.0, partial(self._find_card, card))

    def _unmissed_bytes(self, card: Card) -> int:
        """What runners held that are no more, as far as the scheduler does not know it yet."""
        processes = self.ollamas[card.bin.upstream].processes
        lives = {key for key, process in processes.items() if not process.dead}
        still = lives | {ghost.key for ghost in self.ghosts}
        booked = {key: told.bytes for key, told in self.told.items() if told.state != "loading"}
        for key, at in self.gone_at.items():
            if key not in self.told and self.now < at + self.policy.recovery_s:
                booked[key] = self.gone_bytes[key]
        return sum(n for key, n in booked.items() if key[0] == card.bin.id and key not in still)

    def _find_card(self, card: Card) -> None:
        self._forgive()
        card.lost = False
        self._excuse(card.bin.id)

    def _others_move(self, card: Card) -> None:
        if self.calm:
            return
        room = card.total_bytes - (self.used(card) - card.foreign_bytes)
        some, much = card.total_bytes // 2, card.total_bytes
        wanted = self.random.choice(
            [0, 0, self.random.randint(0, some), self.random.randint(0, much)]
        )
        before, card.foreign_bytes = card.foreign_bytes, min(wanted, max(0, room))
        card.wandered = card.wandered or card.foreign_bytes > 0
        if wanted > room:
            self._run_out(card)
        if card.foreign_bytes < before:
            self._excuse(card.bin.id)
        self._forgive()
        self.soon(15.0, partial(self._others_move, card))

    def _run_out(self, card: Card) -> None:
        """Others took all there was: whoever needs a little more for its answer is out of it."""
        busy = [
            self.clients[request_id]
            for key, told in self.told.items()
            if key[0] == card.bin.id and not card.bin.cpu
            for request_id in sorted(told.running)
        ]
        if not busy:
            return
        client = self.random.choice(busy)
        # Ollama lets go of every model, of the busy ones when they are idle.
        for process in self._processes(card.bin.upstream):
            process.doomed = not process.loading
        self._died(client, oom=True)
        self._drop_doomed(card.bin.upstream)

    def _drop_doomed(self, upstream: str) -> None:
        for process in self._processes(upstream):
            told = self.told.get(process.key)
            if process.doomed and not (told and told.running):
                self._kill(process)

    def _died(self, client: Client, *, oom: bool = False) -> None:
        """An answer says that its runner is no more; the request may be sent once more."""
        if client.state != "running":
            return
        for key, told in self.told.items():
            if client.request.id in told.running:
                upstream = self._upstream_of(key)
                for other, each in self.told.items():
                    if each.state == "ready" and (
                        other == key or (oom and self._upstream_of(other) is upstream)
                    ):
                        each.doomed = True
        self._forgive()
        self.tell(ev.RunnerDied(id=client.request.id, oom=oom))
        again = not client.again and self.random.random() < 0.7
        self._end(client)
        if again and not self.closed:
            client.request = replace(client.request, accepted=True)
            client.again, client.state = True, "waiting"
            self.tell(ev.Arrived(request=client.request))

    def _excuse(self, bin_id: BinId) -> None:
        self.cards[bin_id].shrank_at = self.now
        for ghost in self.ghosts:
            if ghost.key[0] == bin_id:
                ghost.excused = True

    # ---------------------------------------------------------------- Ollama

    def _processes(self, upstream: str) -> list[Process]:
        return list(self.ollamas[upstream].processes.values())

    def _look(self, ollama: Ollama) -> None:
        self.at(self.now + self.random.uniform(0.5, 2.0), partial(self._look, ollama))
        if not ollama.up:
            self._lost(ollama)
            return
        asked_at = self.now
        residents = tuple(
            self._line_of_ps(process)
            for process in ollama.processes.values()
            if not process.loading
        )
        observed = ev.Observed(
            upstream=ollama.upstream.name, residents=residents, asked_at=asked_at
        )
        self.soon(0.3, partial(self._observed, ollama, observed))

    def _line_of_ps(self, process: Process) -> ev.Resident:
        wide = process.launch.num_ctx == WIDE_CTX
        return ev.Resident(
            bin=process.key[0],
            model=process.model.key,
            name=process.model.names[0],
            launch=process.launch,
            footprint_bytes=process.lists_bytes if process.dead else process.held_bytes,
            reported_bytes=process.vram_bytes,
            num_ctx=WIDE_CTX if wide else AUTO_CTX,
            parallel=self.parallel,
            size_bytes=process.size_bytes,
        )

    def _observed(self, ollama: Ollama, observed: ev.Observed) -> None:
        if not ollama.up:
            return
        ollama.heard = True
        if ollama.unsure_since is not None and ollama.unsure_since <= observed.asked_at:
            ollama.unsure_since = None
        listed = {(resident.bin, resident.model): resident for resident in observed.residents}
        for key, told in list(self.told.items()):
            if self._upstream_of(key) is ollama and told.since < observed.asked_at:
                if told.state == "ready" and key not in listed:
                    self._told_gone(key)
                elif told.state == "ready":
                    told.bytes = listed[key].footprint_bytes
                    told.reported_bytes = listed[key].reported_bytes
                    told.partial = self._is_partial(key, listed[key])
        for key, resident in listed.items():
            if key not in self.told and self.gone_at.get(key, -1.0) < observed.asked_at:
                self.told[key] = Told(
                    launch=resident.launch,
                    num_ctx=resident.num_ctx,
                    state="ready",
                    since=self.now,
                    bytes=resident.footprint_bytes,
                    reported_bytes=resident.reported_bytes,
                    parallel=self.parallel,
                    ready_at=self.now,
                    idle_since=self.now,
                    partial=self._is_partial(key, resident),
                    foreign_bytes=self.cards[key[0]].total_bytes,
                )
        self.tell(observed)

    def _is_partial(self, key: Key, told: ev.Resident | Process) -> bool:
        judged = not self.cards[key[0]].bin.cpu and not told.launch.on_cpu
        vram = told.reported_bytes if isinstance(told, ev.Resident) else told.vram_bytes
        return judged and told.size_bytes is not None and vram < told.size_bytes

    def _lost(self, ollama: Ollama) -> None:
        if ollama.heard:
            self._forgive()
        ollama.heard = False
        self.tell(ev.UpstreamLost(upstream=ollama.upstream.name))

    def _upstream_of(self, key: Key) -> Ollama:
        return self.ollamas[self.cards[key[0]].bin.upstream]

    def _told_gone(self, key: Key) -> None:
        self.gone_at[key], self.gone_bytes[key] = self.now, self.told.pop(key).bytes
        for ghost in self.ghosts:
            if ghost.key == key:
                ghost.told_at = min(ghost.told_at, self.now)

    def _kill(self, process: Process) -> None:
        """A process ends; the card gives its memory back later, or much later."""
        ollama = self._upstream_of(process.key)
        del ollama.processes[process.key]
        ghost = Ghost(
            key=process.key,
            held_bytes=process.held_bytes,
            read_bytes=process.read_bytes,
            excused=self._is_blurred(process.key) or self.cards[process.key[0]].lost,
        )
        self.ghosts.append(ghost)
        delay_s = self.random.choice([0.0, 0.3, 2.0, 4.0, 8.0])
        self.at(self.now + self.random.uniform(0.0, delay_s), partial(self._give_back, ghost))
        told = self.told.get(process.key)
        for request_id in sorted(told.running) if told else ():
            self._fail_soon(self.clients[request_id])

    def _is_blurred(self, key: Key) -> bool:
        """Whether something else shrank while nobody could tell what a reading meant."""
        card, told = self.cards[key[0]], self.told.get(key)
        since = card.read_at
        if told is not None and told.state != "ready":
            since = min(since, told.since - self.reading_s)
        return card.shrank_at >= since

    def _give_back(self, ghost: Ghost) -> None:
        self.ghosts.remove(ghost)
        self._excuse(ghost.key[0])

    def _fail_soon(self, client: Client) -> None:
        fails = partial(self._died, client) if self.random.random() < 0.7 else None
        self.soon(0.3, fails or partial(self._end, client))

    # ---------------------------------------------------------------- faults

    def _forgive(self) -> None:
        """Something happened that makes people wait: the eldest's patience starts anew."""
        self.eldest = None, 0.0

    def _victim(self, *, idle: bool) -> Process | None:
        candidates = [
            process
            for ollama in self.ollamas.values()
            for process in ollama.processes.values()
            if not process.loading
            and not (idle and (told := self.told.get(process.key)) and told.running)
        ]
        return self.random.choice(candidates) if candidates else None

    def _die(self) -> None:
        process = self._victim(idle=False)
        if process is None or self.calm or process.dead:
            return
        self._forgive()
        self._kill(process)
        if self.random.random() < 0.6:
            # Ollama goes on listing it.
            process.dead, process.lists_bytes, process.held_bytes = True, process.held_bytes, 0
            self._upstream_of(process.key).processes[process.key] = process

    def _stop_one(self) -> None:
        process = self._victim(idle=True)
        if process is not None and not self.calm:
            self._forgive()
            self._kill(process)

    def _outage(self) -> None:
        ollama = self.random.choice(list(self.ollamas.values()))
        if not ollama.up or self.calm:
            return
        self._forgive()
        ollama.up = False
        for process in list(ollama.processes.values()):
            self._kill(process)
        self.soon(0.5, partial(self._look_away, ollama))
        self.soon(15.0, partial(self._come_back, ollama))

    def _look_away(self, ollama: Ollama) -> None:
        if not ollama.up:
            self._lost(ollama)

    def _come_back(self, ollama: Ollama) -> None:
        ollama.up = True

    def _stranger(self) -> None:
        """Somebody loads a model behind the gate's back, if Ollama has room for it."""
        model = self.random.choice(self.models)
        card = self.cards[self.random.choice(model.bins)]
        ollama = self.ollamas[card.bin.upstream]
        busy = any(process.loading for process in ollama.processes.values())
        there = any(process.model is model for process in ollama.processes.values())
        full = len(ollama.processes) >= ollama.upstream.max_loaded
        room = card.limit_bytes - self.used(card) - card.foreign_bytes
        if busy or there or full or not ollama.up or model.real_bytes > room or self.calm:
            return
        if any(key[1] == model.key for key in self.told):
            return
        self._forgive()
        key = card.bin.id, model.key
        ollama.processes[key] = Process(
            key=key,
            model=model,
            launch=Launch(),
            free_at_load_bytes=None,
            since=self.now,
            held_bytes=model.real_bytes,
            loading=False,
        )

    def _release(self) -> None:
        self.tell(ev.Released(model=self.random.choice(self.models).key))

    def _close(self) -> None:
        self.closed = True
        self.tell(ev.Closing())
        waiting = [c for c in self.clients.values() if c.state == "waiting"]
        assert not waiting, "somebody still waits at a closed gate"

    # ---------------------------------------------------------------- events in, commands out

    def tell(self, event: ev.Event) -> None:
        """Hand an event over, do what is commanded, and judge."""
        wake = self.machine.next_wakeup()
        if self.seed % 10 == 2 and (wake is None or wake > self.now):
            assert self.machine.handle(ev.Ticked(), self.now) == [], "it should have woken before"
        commands = self.judge.handle(event, self.now)
        self.history.append((event, self.now, list(commands)))
        wake = self.machine.next_wakeup()
        assert wake is None or wake > self.now, f"wakes at {wake}, and it is {self.now}"
        for command in commands:
            match command:
                case Load():
                    self._load(command)
                case Unload():
                    self._unload(command)
                case Forward():
                    self._forward(command)
                case Refuse():
                    self._refuse(command)
                case Warn() | Prewarm():
                    pass
        self._serves_whom_it_was_loaded_for()
        self._nobody_waits_for_a_free_slot()
        self._the_eldest_waits_for_a_cause()
        if self.seed % 10 == 0:
            snapshot(self.machine)
        if self.seed % 10 == 1:
            assert self.machine.handle(ev.Ticked(), self.now) == [], "it had not settled"

    def _load(self, command: Load) -> None:
        self.loads += 1
        key = command.bin, command.model
        client = self.clients[command.for_request]
        self._judge_load(command, client)
        ollama, card = self._upstream_of(key), self.cards[command.bin]
        request = client.request
        self.told[key] = Told(
            launch=command.launch,
            num_ctx=request.num_ctx,
            state="loading",
            since=self.now,
            bytes=command.footprint_bytes,
            reported_bytes=command.footprint_bytes,
            parallel=request.parallel,
            foreign_bytes=card.total_bytes,
        )
        model = next(model for model in self.models if model.key == command.model)
        if not ollama.up:
            self.soon(0.5, lambda: self._load_over(key, client, ev.Interrupted()))
            return
        if card.lost:
            known = sum(t.bytes for k, t in self.told.items() if k[0] == key[0] and k != key)
            used = min(self.used(card), card.foreign_read_bytes + known)
        elif card.live:
            used = min(self.used(card), card.used_read_bytes)
        else:
            used = sum(t.bytes for k, t in self.told.items() if k[0] == key[0] and k != key)
        process = Process(
            key=key,
            model=model,
            launch=command.launch,
            free_at_load_bytes=card.total_bytes - used,
            since=self.now,
        )
        stranger = ollama.processes.pop(key, None)
        if stranger is not None:
            process.held_bytes = stranger.held_bytes
        ollama.processes[key] = process
        self._proceed(process, client)

    def _proceed(self, process: Process, client: Client) -> None:
        load_s = process.model.load_s
        self.at(self.now + load_s / 2, partial(self._place, process))
        self.at(self.now + load_s, partial(self._loaded, process, client))

    def _place(self, process: Process) -> None:
        """Decide how much goes to the card, by what is free there now, and take half of it."""
        card = self.cards[process.key[0]]
        there = self._upstream_of(process.key).processes.get(process.key)
        if there is not process or (process.launch.on_cpu and not card.bin.cpu):
            return
        wanted = process.model.real_bytes
        room = card.total_bytes - self.used(card) + process.held_bytes
        if card.bin.cpu:
            process.layers_bytes = max(0, min(wanted, room))
        elif self.fits_layers and wanted > room - FIT_MARGIN_BYTES:
            process.layers_bytes = max(0, min(wanted - MIB, room - FIT_MARGIN_BYTES))
        else:
            process.layers_bytes = wanted
        process.held_bytes = max(0, min(process.layers_bytes // 2, room))

    def _take(self, process: Process) -> bool:
        """Take the rest; false where that is no longer there."""
        card = self.cards[process.key[0]]
        room = card.total_bytes - self.used(card) + process.held_bytes
        if card.bin.cpu:
            process.layers_bytes = min(process.layers_bytes, max(0, room))
        process.held_bytes = min(process.layers_bytes, max(0, room))
        return process.layers_bytes <= room

    def _ran_out(self, process: Process, client: Client) -> None:
        """Ollama throws out everything else and tries once more; then it gives up."""
        ollama = self._upstream_of(process.key)
        self._forgive()
        others = [other for other in ollama.processes.values() if other is not process]
        for other in others:
            other.doomed = True
        self._drop_doomed(ollama.upstream.name)
        if others and not process.retried:
            process.retried = True
            self._proceed(process, client)
            return
        self._kill(process)
        self.excused_loads += 1
        ollama.unsure_since = self.now
        told, key = self.told[process.key], process.key
        self.ran_out[key], self.told_launch[key] = (self.now, told.bytes), told.launch
        failed = ev.LoadFailed(status=500, text="cudaMalloc failed: out of memory", oom=True)
        self._load_over(key, client, failed)
        self.soon(0.3, partial(self._look_once, ollama))

    def _loaded(self, process: Process, client: Client) -> None:
        key = process.key
        if self._upstream_of(key).processes.get(key) is not process:
            self._load_over(key, client, ev.Interrupted())
            return
        if self.random.random() < 0.05 and not self.calm:
            self._kill(process)
            self._load_over(key, client, ev.LoadFailed(status=500, text="it does not load"))
            return
        if not self._take(process):
            self._ran_out(process, client)
            return
        process.loading, process.since = False, self.now
        outcome = ev.Loaded()
        if self.random.random() < 0.8:
            outcome = ev.Loaded(
                footprint_bytes=process.held_bytes,
                reported_bytes=process.vram_bytes,
                size_bytes=process.size_bytes,
                num_ctx=WIDE_CTX if process.launch.num_ctx == WIDE_CTX else AUTO_CTX,
            )
            self.told[key].partial = self._is_partial(key, process)
            self.ran_out.pop(key, None)
            if not self.told[key].partial:
                self.reloaded.discard((key, process.launch))
        self._load_over(key, client, outcome)

    def _load_over(
        self, key: Key, client: Client, outcome: ev.Loaded | ev.LoadFailed | ev.Interrupted
    ) -> None:
        told = self.told[key]
        match outcome:
            case ev.Loaded():
                told.load_s = self.now - told.since
                told.state, told.since = "ready", self.now
                told.ready_at = told.idle_since = self.now
                told.owes = client.state == "waiting"
                if outcome.footprint_bytes is not None:
                    told.bytes = outcome.footprint_bytes
                    told.reported_bytes = outcome.reported_bytes or 0
            case ev.LoadFailed() | ev.Interrupted():
                self._told_gone(key)
                self._forgive()
                if isinstance(outcome, ev.Interrupted):
                    self._lost(self._upstream_of(key))
        self.tell(ev.LoadEnded(bin=key[0], model=key[1], outcome=outcome))

    def _unload(self, command: Unload) -> None:
        key = command.bin, command.model
        told, ollama = self.told[key], self._upstream_of(key)
        assert told.state == "ready", f"unload of a runner that is {told.state}"
        assert not told.running, "unload of a busy runner"
        self._judge_reason(command, told)
        if not isinstance(command.reason, Offloaded | Broken):
            assert not told.owes, "unloaded before it served anybody"
        assert ollama.heard, "unload at an upstream that is away"
        assert not self.closed, "unload after closing"
        assert ollama.unsure_since is None, "unload where nobody knows what is left"
        told.state, told.since = "unloading", self.now
        self.soon(1.0, partial(self._dies_as_told, key))

    def _judge_reason(self, command: Unload, told: Told) -> None:
        key, reason = (command.bin, command.model), command.reason
        match reason:
            case Offloaded():
                assert told.partial, "unloaded as partial, and it is whole"
                assert self.policy.offload is not Offload.ACCEPT, "a part was to be accepted"
                if reason.again:
                    assert (key, told.launch) not in self.reloaded, "loaded again more than once"
                    self.reloaded.add((key, told.launch))
                told.doomed = True
                self.excused_loads += 1
                self._forgive()
            case Broken():
                there = self._upstream_of(key).processes
                lives = [k for k in self.told if k in there and not there[k].dead]
                dead = any(k[0] == key[0] and k not in lives for k in self.told)
                assert told.doomed or dead, "unloaded as broken, and nobody is"
                told.doomed = True
            case Evicted(for_model="foreign memory"):
                assert self.cards[key[0]].live, "others were never seen there"
            case _:
                pass

    def _look_once(self, ollama: Ollama) -> None:
        if not ollama.up:
            self._lost(ollama)
            return
        listed = tuple(self._line_of_ps(p) for p in ollama.processes.values() if not p.loading)
        name = ollama.upstream.name
        observed = ev.Observed(upstream=name, residents=listed, asked_at=self.now)
        self.soon(0.3, partial(self._observed, ollama, observed))

    def _dies_as_told(self, key: Key) -> None:
        ollama = self._upstream_of(key)
        process = ollama.processes.get(key)
        if process is not None and process.dead:
            del ollama.processes[key]
        elif process is not None:
            self._kill(process)
        self.soon(0.5, partial(self._unloaded, key))

    def _unloaded(self, key: Key) -> None:
        ollama = self._upstream_of(key)
        gone = ollama.up
        if gone:
            self._told_gone(key)
        else:
            self._lost(ollama)
            self.told[key].state, self.told[key].since = "ready", self.now
        self.tell(ev.UnloadEnded(bin=key[0], model=key[1], gone=gone))

    def _forward(self, command: Forward) -> None:
        client = self.clients[command.id]
        request = client.request
        key = command.bin, request.model
        told = self.told.get(key)
        assert client.state == "waiting", f"{command.id} is {client.state}, and forwarded"
        assert command.bin in request.needs, "sent to a bin that it did not ask for"
        assert told is not None, "forwarded to a model that is not there"
        assert told.state == "ready", f"forwarded to a model that is {told.state}"
        assert self._upstream_of(key).heard, "forwarded to an upstream that is away"
        assert self._upstream_of(key).unsure_since is None, "forwarded, and it may be evicted"
        assert not told.doomed, "forwarded to a runner that is no more"
        assert (command.offload > 0) == told.partial, "and not told how much is on the CPU"
        self._judge_partial(key, told)
        assert self._fits_options(told, request, key[0]), "forwarded to other options"
        assert len(told.running) < told.parallel, "more in flight than its runner serves at once"
        assert not self.closed, "forwarded after closing"
        client.state = "running"
        told.served += 1
        told.owes = False
        told.running.add(command.id)
        process = self._upstream_of(key).processes.get(key)
        if process is not None and not process.dead:
            self.at(self.now + client.service_s, partial(self._end, client))
        else:
            self._fail_soon(client)

    def _refuse(self, command: Refuse) -> None:
        client = self.clients[command.id]
        assert client.state == "waiting", f"{command.id} is {client.state}, and refused"
        waiting = sum(c.state == "waiting" for c in self.clients.values())
        if command.reason is Refusal.QUEUE_FULL:
            assert waiting > self.policy.queue_max_size, "refused, and the queue was not full"
        if command.reason is Refusal.SHUTTING_DOWN:
            assert self.closed
        if command.reason is Refusal.UPSTREAM_AWAY:
            names = {self.cards[bin_id].bin.upstream for bin_id in client.request.needs}
            assert not any(self.ollamas[name].heard for name in names), "refused, and it answers"
        if command.reason is Refusal.NEVER_FITS:
            assert self.policy.offload is Offload.REFUSE, "a part may be on the CPU"
        client.state = "refused"
        self.at(self.now, partial(self._end, client))

    # ---------------------------------------------------------------- the judge

    def _judge_partial(self, key: Key, told: Told) -> None:
        """What would fit the empty bin is loaded again before it serves, where all is known."""
        card = self.cards[key[0]]
        process = self._upstream_of(key).processes.get(key)
        if not told.partial or process is None or process.dead:
            return
        assert self.policy.offload is not Offload.REFUSE, (
            "it serves though it is on the CPU in part"
        )
        surely_room = card.live and not card.wandered and not card.lost and not self.ghosts
        usable = min(card.limit_bytes, card.total_bytes - max(GIB, card.total_bytes // 20))
        fits = process.model.real_bytes < usable - GIB and told.served == 0
        if self.policy.offload is Offload.AUTO and surely_room and fits and self._settled(card):
            assert (key, told.launch) in self.reloaded, "half on the CPU, and it would fit"

    def _settled(self, card: Card) -> bool:
        """Whether nothing that was resident lately can still be taken for somebody else's."""
        return all(self.now > at + 15.0 for at in self.gone_at.values()) and card.read_at > 3.0

    def _others_find_room(self, card: Card) -> None:
        """Where others have taken what was free, idle models go, and soon."""
        here = {key: told for key, told in self.told.items() if key[0] == card.bin.id}
        ollama = self.ollamas[card.bin.upstream]
        calm = all(
            told.state == "ready" and not told.doomed
            for key, told in self.told.items()
            if self._upstream_of(key) is ollama
        )
        idle = [
            key
            for key, told in here.items()
            if not told.running
            and told.bytes > 0
            and told.foreign_bytes + NOISE_BYTES * 4 < card.foreign_bytes
            and not any(self._home(key, told, request) for request in self._waiting())
        ]
        taken = card.foreign_bytes + sum(told.bytes for told in here.values())
        known = ollama.heard and ollama.unsure_since is None and not self.closed
        if not (calm and known and idle and taken > card.total_bytes) or card.lost:
            card.pressed_since = None
            return
        card.pressed_since = self.now if card.pressed_since is None else card.pressed_since
        late = self.now > card.pressed_since + SHOWN_S
        assert not late, f"others have taken the memory, and {idle} stay"

    def _fits_options(self, told: Told, request: Request, bin_id: BinId) -> bool:
        """Ollama's rule for the few options that this world knows."""
        have, want = told.launch, request.launch
        if have.num_ctx != want.num_ctx and told.num_ctx != request.num_ctx:
            return False
        if want.num_gpu == 0:
            return have.num_gpu == 0
        return have.num_gpu != 0 or self.cards[bin_id].bin.cpu

    def _judge_load(self, command: Load, client: Client) -> None:
        key = command.bin, command.model
        ollama, card = self._upstream_of(key), self.cards[command.bin]
        beside = {k: told for k, told in self.told.items() if self._upstream_of(k) is ollama}
        assert ollama.heard, "load at an upstream that is away"
        assert ollama.unsure_since is None, "load where nobody knows what is left"
        self._judge_booked(command, client)
        assert not self.closed, "load after closing"
        assert client.state == "waiting", "loaded for nobody"
        assert not any(told.state == "loading" for told in beside.values()), "two loads at once"
        assert not any(k[1] == command.model for k in beside), "it is there already"
        # A second runner of a model is for those for whom the first has no slot.
        assert not any(
            (
                told.state == "loading"
                or (self._home(k, told, client.request) and len(told.running) < told.parallel)
            )
            and self._suits(k, told, client.request)
            for k, told in self.told.items()
        ), "loaded twice for one request"
        assert len(beside) < ollama.upstream.max_loaded, "Ollama would evict: too many"
        here = {k: told for k, told in beside.items() if k[0] == command.bin}
        ghosts = [g for g in self.ghosts if g.key[0] == command.bin and card.live]
        need = replace(client.request.needs[command.bin], footprint_bytes=command.footprint_bytes)
        known_bytes = self._known_bytes(card, here, ghosts)
        if not here and need.footprint_bytes + known_bytes > card.limit_bytes:
            assert card.live or not self._unread(card), "nobody had time to give memory back"
            for ghost in ghosts:
                held = min(ghost.held_bytes, ghost.read_bytes) > NOISE_BYTES
                awaited = self.now < ghost.told_at + self.policy.recovery_s
                known = ghost.told_at <= self.now
                assert not (held and known and awaited and not ghost.excused), (
                    "loaded into memory that is still leaving"
                )
        if not here:
            self._judge_alone(need, card, client.request)
            return
        assert card.live or card.bin.capacity_bytes is not None, "beside others in the unknown"
        whole = self.policy.offload is not Offload.ACCEPT
        assert not (whole and any(told.partial for told in here.values())), "beside one that slid"
        assert need.footprint_bytes + known_bytes <= card.total_bytes + NOISE_BYTES, (
            f"over-committed: {need.footprint_bytes / GIB:.2f} beside {known_bytes / GIB:.2f}"
        )
        ours_bytes = sum(told.bytes for told in here.values())
        assert need.footprint_bytes + ours_bytes <= card.limit_bytes, "beyond the budget"
        if not card.bin.cpu:
            self._judge_eighty_percent(need, card, here)

    def _judge_booked(self, command: Load, client: Client) -> None:
        key = command.bin, command.model
        assert command.footprint_bytes >= client.request.needs[command.bin].footprint_bytes
        if key in self.ran_out:
            failed_at, booked_bytes = self.ran_out[key]
            assert self.now >= failed_at + 1.0, "it has just run out of memory"
            card = self.cards[command.bin]
            usable = min(card.limit_bytes, card.total_bytes - max(GIB, card.total_bytes // 20))
            least = max(booked_bytes, min(int(booked_bytes * 1.14), usable))
            if command.launch == self.told_launch.get(key):
                assert command.footprint_bytes >= least, "and it is booked with no more"

    def _judge_alone(self, need: Need, card: Card, request: Request) -> None:
        """What fits an empty card waits for others, unless they have been there for long."""
        if not card.live or card.lost or card.bin.cpu or self.policy.offload is Offload.ACCEPT:
            return
        patience_s = self.policy.tau_s[request.priority]
        fresh = self.now < min(request.arrived_at, card.moved_at) + patience_s
        usable = min(card.limit_bytes, card.total_bytes - max(GIB, card.total_bytes // 20))
        others_bytes = min(card.foreign_bytes, card.foreign_read_bytes)
        slides = need.footprint_bytes > card.total_bytes - others_bytes
        assert not (fresh and slides and need.footprint_bytes <= usable), (
            "loaded into what others use, and it would have fit beside nobody"
        )

    def _known_bytes(self, card: Card, here: dict[Key, Told], ghosts: list[Ghost]) -> int:
        known = min(card.foreign_bytes, card.foreign_read_bytes)
        if not card.live:
            known = sum(self.gone_bytes[key] for key in self._unread(card))
        for process in self._processes(card.bin.upstream):
            if process.key[0] == card.bin.id:
                told = here.get(process.key)
                told_bytes = 0 if told is None else told.bytes
                known += min(process.held_bytes, max(process.read_bytes, told_bytes))
        if card.lost:
            # Nobody sees them go: they are given time, like those on a card that is not read.
            return known + sum(self.gone_bytes[key] for key in self._unread(card))
        return known + sum(min(ghost.held_bytes, ghost.read_bytes) for ghost in ghosts)

    def _unread(self, card: Card) -> list[Key]:
        """Whose memory is on its way back to a card that nobody reads."""
        time_s = 0.0 if card.bin.cpu else self.policy.unread_recovery_s
        return [
            key
            for key, at in self.gone_at.items()
            if key not in self.told
            and key[0] == card.bin.id
            and self.gone_bytes[key]
            and self.now < at + time_s
        ]

    def _judge_eighty_percent(self, need: Need, card: Card, here: dict[Key, Told]) -> None:
        total = card.total_bytes if card.live else card.limit_bytes
        processes = self._upstream_of(next(iter(here))).processes
        on_card = {key: told for key, told in here.items() if not told.launch.on_cpu}
        if not on_card:
            believed = [total - (0 if card.lost else card.used_read_bytes)]
        else:
            believed = [total - sum(told.reported_bytes for told in here.values())]
        for key, told in on_card.items():
            process = processes.get(key)
            if process is not None and process.free_at_load_bytes is not None:
                believed.append(process.free_at_load_bytes - told.reported_bytes)
        assert need.predicted_bytes <= max(0, min(believed)) * 80 // 100, (
            "Ollama would evict: more than 80 % of what it believes to be free"
        )

    def _serves_whom_it_was_loaded_for(self) -> None:
        for key, told in self.told.items():
            if told.state == "ready" and told.owes and self._serves(key, told):
                still = any(
                    c.state == "waiting" and self._home(key, told, c.request)
                    for c in self.clients.values()
                )
                assert not still, f"{key} was loaded for somebody, and serves nobody"
                told.owes = False

    def _serves(self, key: Key, told: Told) -> bool:
        """Whether it is as it should be, as far as the scheduler was told."""
        ollama = self._upstream_of(key)
        slid = told.partial and self.policy.offload is not Offload.ACCEPT
        return ollama.heard and ollama.unsure_since is None and not told.doomed and not slid

    def _home(self, key: Key, told: Told, request: Request) -> bool:
        return told.state == "ready" and self._serves(key, told) and self._suits(key, told, request)

    def _suits(self, key: Key, told: Told, request: Request) -> bool:
        return (
            key[0] in request.needs
            and key[1] == request.model
            and self._upstream_of(key).heard
            and self._fits_options(told, request, key[0])
        )

    def _waiting(self) -> list[Request]:
        """Those who wait, the least patience first."""
        waiting = [c.request for c in self.clients.values() if c.state == "waiting"]
        return sorted(waiting, key=self._patience_ends_at)

    def _patience_ends_at(self, request: Request) -> float:
        return request.arrived_at + self.policy.tau_s[request.priority]

    def _cap_at(self, request: Request) -> float:
        return request.arrived_at + self.policy.tau_cap_s[request.priority]

    def _nobody_waits_for_a_free_slot(self) -> None:
        if self.closed:
            return
        waiting = self._waiting()
        homes = [
            [(key, told) for key, told in self.told.items() if self._home(key, told, request)]
            for request in waiting
        ]
        # Only an overdue request without a home may keep a free slot from others.
        if any(
            not its_homes and self._patience_ends_at(request) <= self.now
            for request, its_homes in zip(waiting, homes, strict=True)
        ):
            return
        for request, its_homes in zip(waiting, homes, strict=True):
            for key, told in its_homes:
                assert len(told.running) >= told.parallel, (
                    f"{request.id} waits, and {key} has a free slot"
                )

    # ---------------------------------------------------------------- the eldest

    def _wait_bound_s(self) -> float:
        """Longer than an eldest may wait while nothing unforeseen happens."""
        policy = self.policy
        room_s = 1.5 + policy.recovery_s + 3 * self.reading_s
        exchange_s = self.service_max_s + self.load_max_s + room_s
        turns_s = (policy.k_slot + 1) * self.service_max_s
        passed_s = (policy.k_load + 2) * exchange_s + self._quantum_s()
        return max(passed_s, turns_s) + exchange_s + 5.0

    def _quantum_s(self) -> float:
        policy = self.policy
        return policy.stretch * max(policy.kappa, policy.kappa_hi) * 2 * self.load_max_s

    def _the_eldest_waits_for_a_cause(self) -> None:
        waiting = self._waiting()
        if not waiting or self._cap_at(waiting[0]) > self.now or self.closed:
            self._forgive()
            return
        eldest = waiting[0]
        if not all(self._upstream_of((b, eldest.model)).heard for b in eldest.needs):
            self._forgive()
            return
        if self.eldest[0] != eldest.id:
            self.eldest = eldest.id, self.now
        waited_s = self.now - self.eldest[1]
        assert waited_s <= self._wait_bound_s(), f"{eldest.id} is the eldest for {waited_s:.1f} s"
        if not any(self._home(key, told, eldest) for key, told in self.told.items()):
            assert any(self._cause(eldest, bin_id) for bin_id in eldest.needs), (
                f"{eldest.id} is the eldest and overdue, and nothing is done for it"
            )

    def _cause(self, eldest: Request, bin_id: BinId) -> str | None:
        ollama = self._upstream_of((bin_id, eldest.model))
        there = {key: told for key, told in self.told.items() if self._upstream_of(key) is ollama}
        for told in there.values():
            if told.state != "ready":
                return told.state
        if trouble := self._trouble(ollama, there, (bin_id, eldest.model)):
            return trouble
        cards = [card for card in self.cards.values() if card.bin.upstream == ollama.upstream.name]
        if any(card.live for card in cards) and any(
            at + self.policy.recovery_s > self.now
            for key, at in self.gone_at.items()
            if self._upstream_of(key) is ollama
        ):
            return "memory on its way back"
        if any(not card.live and self._unread(card) for card in cards):
            return "memory on its way back"
        return self._in_use(there)

    def _in_use(self, there: dict[Key, Told]) -> str | None:
        for key, told in there.items():
            if told.running:
                return "a victim serves"
            wanted = any(self._home(key, told, request) for request in self._waiting())
            if wanted and (told.served == 0 or self.now < told.ready_at + self._quantum_s()):
                return "a quantum"
        return None

    def _trouble(self, ollama: Ollama, there: dict[Key, Told], key: Key) -> str | None:
        if any(told.doomed for told in there.values()):
            return "a runner that is no more ends its last answers"
        if ollama.unsure_since is not None:
            return "what is left is asked"
        failed_at, _ = self.ran_out.get(key, (-math.inf, 0))
        return "a pause after memory ran out" if self.now < failed_at + 8.1 else None
