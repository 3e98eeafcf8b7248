"""A case as it comes about: Ollamas, cards and clients that obey the scheduler on a virtual clock.

Every event goes through a `Judge`. What is real here (what a process holds, whether an upstream
is up) is known to nobody but the scene; the scheduler is told what it would be told.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ollama_gate.scheduler import Machine
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward, Load, Refuse, Unload
from ollama_gate.scheduler.types import Launch, Priority, Request, RequestId
from tests import fuzz_case as fc
from tests.fuzz_books import Books
from tests.fuzz_bound import bound_s, stood_before, turn_s
from tests.fuzz_judge import Judge
from tests.fuzz_law import must
from tests.fuzz_ollama import TELLS_S, Backend
from tests.play import Play, a_request

LAUNCHES = {
    "plain": Launch(),
    "wide": Launch(num_ctx=fc.WIDE_CTX),
    "cpu": Launch(num_gpu=0),
    "narrow": Launch(num_ctx=fc.NARROW_CTX),
}


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """One request in the scene: `waiting`, `running`, `over`."""

    request: Request
    service_s: float
    state: str = "waiting"
    then: Callable[[], None] | None = None


class Scene(Backend):
    """Perform a case with `run`; it raises at the first thing that must not happen.

    Attributes:
        bounded: whether nobody may wait for longer than is proved.
        longest_s: how long anybody has waited for a start, for each class.
    """

    def __init__(self, case: fc.Case, *, views: bool = True, bounded: bool | None = None) -> None:
        self.case = case
        self.longest_s = dict.fromkeys(Priority, 0.0)
        machine = staged(case.setup)
        books = Books(
            upstreams=list(machine.upstreams.values()),
            bins=[each.bin for each in machine.books.values()],
            policy=machine.policy,
        )
        super().__init__(case.setup, books)
        self.judge = Judge(machine, books, views=views)
        self.clients: dict[RequestId, Client] = {}
        self.resurrections: list[tuple[fc.Resurrect, list[int]]] = []
        self.told: list[tuple[float, ev.Event, list[Command]]] = []
        self.ends_at = max((s.at for s in case.stimuli), default=0.0)
        self.pinned = any(model.pinned for model in case.setup.models)
        calm = case.calm and not self.pinned and not machine.policy.max_concurrent
        self.bounded = calm if bounded is None else bounded
        self.turn_s = self._turn_s()

    # ---------------------------------------------------------------- the whole of it

    def run(self) -> None:
        """Perform everything; then everybody must end, with no more loads than it takes."""
        self.begin()
        for stimulus in self.case.stimuli:
            self.at(stimulus.at, partial(self._happen, stimulus))
        self._advance(self.ends_at)
        left, books = len(self.books.waiting) + len(self.processes) + 1, self.books
        begun = books.loads - books.loads_excused
        self._advance(self.ends_at + self._patience_s(), until_over=True)
        late = [r for r, client in self.clients.items() if client.state != "over"]
        # Beside what may never go some can never be.
        must("13 quiescence", not late or self.pinned, f"never ended: {late}")
        if self._floods_over():
            since = books.loads - books.loads_excused - begun
            must("13 loads", since <= left, f"{since} loads, and {left} were left")
        self._no_thrash()

    def _patience_s(self) -> float:
        until = max((getattr(s, "until", 0.0) for s in self.case.stimuli), default=0.0)
        if self.pinned:
            # Some may wait for ever for what pinned models hold.
            return until + 120.0
        longest = max(self.books.policy.tau_cap_s) + 120.0
        return until + longest * (2 + len(self.setup.models)) + 60.0 * len(self.case.stimuli)

    def _floods_over(self) -> bool:
        return all(getattr(s, "until", 0.0) <= self.ends_at for s in self.case.stimuli)

    def _no_thrash(self) -> None:
        """16: no more loads than requests, but for those that went wrong."""
        books = self.books
        most = len(books.fates) + books.loads_excused
        must("16 no thrash", books.loads <= most, f"{books.loads} loads, {len(books.fates)} asked")

    def _advance(self, until: float, *, until_over: bool = False) -> None:
        while not (until_over and all(c.state == "over" for c in self.clients.values())):
            wake, at = self.judge.next_wakeup(), self.heap[0][0]
            if min(at, math.inf if wake is None else wake) > until:
                break
            if wake is not None and wake < at:
                self.now = wake
                self.tell(ev.Ticked())
            else:
                self.now, _, action = heapq.heappop(self.heap)
                action()

    # ---------------------------------------------------------------- events in, commands out

    def tell(self, event: ev.Event) -> None:
        entry: tuple[float, ev.Event, list[Command]] = (self.now, event, [])
        self.told.append(entry)
        commands = self.judge.handle(event, self.now)
        entry[2].extend(commands)
        for command in commands:
            match command:
                case Load():
                    self._load(command)
                case Unload():
                    self.after(self.setup.unload_s, partial(self._unload, command))
                case Forward():
                    self._forward(command)
                case Refuse():
                    self.after(0.0, partial(self._end, self.clients[command.id]))
                case _:
                    pass
        self._resurrect()

    def _forward(self, command: Forward) -> None:
        client = self.clients[command.id]
        client.state = "running"
        self._waited_within_the_bound(command)
        if (command.bin, client.request.model) in self.processes:
            self.after(client.service_s, partial(self._end, client))
        else:
            self.after(TELLS_S, partial(self._died, command.id))

    def _waited_within_the_bound(self, command: Forward) -> None:
        """15: nobody waits for longer than is proved, while only clients are in the way."""
        books = self.books
        fate = books.fates[command.id]
        priority = fate.request.priority
        self.longest_s[priority] = max(self.longest_s[priority], command.queued_s)
        if not self.bounded or command.queued_s <= books.policy.tau_cap_s[0]:
            return
        longest = bound_s(books.policy, fate, stood_before(books, fate), self.turn_s)
        text = f"{command.id} waited {command.queued_s:.1f} s of {longest:.1f} s"
        must("15 starvation", command.queued_s <= longest, text)

    def _turn_s(self) -> float:
        setup = self.setup
        services = [getattr(stimulus, "service_s", 1.0) for stimulus in self.case.stimuli]
        back_s = min(setup.returns_s + 2 * setup.read_every_s, self.books.policy.recovery_s)
        first = max(1.2 + model.size / 2.7 for model in setup.models)
        return turn_s(
            self.books.policy,
            service_s=max(services, default=1.0),
            load_s=max(first, *(model.load_s for model in setup.models)),
            unload_s=setup.unload_s + back_s + setup.read_every_s,
            bins=len(setup.bins),
        )

    # ---------------------------------------------------------------- clients

    def _request(self, stimulus: fc.Arrive) -> Request:
        model = self.setup.models[stimulus.model % len(self.setup.models)]
        launch = LAUNCHES[stimulus.kind]
        bins = [card.id for card in self.cards]
        if model.bin is not None:
            bins = [bins[model.bin % len(bins)]]
        size = 0.0 if launch.on_cpu else model.size
        more: dict[str, Any] = (
            {"deadline_at": self.now + stimulus.deadline_s}
            if (stimulus.deadline_s is not None)
            else {}
        )
        return a_request(
            f"r{stimulus.number}",
            model.name,
            self.now,
            size=size,
            predicted=size * model.predicted,
            bins=tuple(bins),
            launch=launch,
            num_ctx=launch.num_ctx or fc.AUTO_CTX,
            least_ctx=fc.NARROW_CTX if stimulus.kind == "narrow" else None,
            priority=stimulus.priority,
            client=stimulus.client,
            parallel=self.setup.parallel,
            keep_alive_s=stimulus.keep_alive_s,
            pinned=model.pinned,
            **more,
        )

    def _arrive(self, client: Client) -> None:
        self.clients[client.request.id] = client
        self.tell(ev.Arrived(request=client.request))

    def _end(self, client: Client, *, completed: bool = True) -> None:
        if client.state == "over":
            return
        done = completed and client.state == "running"
        client.state = "over"
        self.tell(ev.Left(id=client.request.id, completed=done))
        self._drop_doomed()
        if client.then is not None:
            # Who was not served does not ask again in the same breath.
            self.after(0.1 if done else 1.0, client.then)

    def _died(self, request_id: RequestId) -> None:
        client = self.clients[request_id]
        if client.state == "running":
            self.tell(ev.RunnerDied(id=request_id))
            self._end(client, completed=False)

    def _give_up(self, client: Client) -> None:
        if client.state == "waiting":
            self._end(client, completed=False)

    def _flood(self, flood: fc.Flood, number: int) -> None:
        if self.now >= flood.until:
            return
        arrive = fc.Arrive(
            at=self.now,
            number=(flood.number + 1) * 100_000 + number,
            model=flood.model,
            priority=flood.priority,
            client=f"flood{number % flood.clients}",
            service_s=flood.service_s,
        )
        client = Client(request=self._request(arrive), service_s=flood.service_s)
        again = partial(self._flood, flood, number + flood.clients)
        client.then = again
        if flood.give_up_s is not None:
            self.after(flood.give_up_s, partial(self._give_up, client))
        self._arrive(client)

    def _resurrect(self) -> None:
        for stimulus, sent in self.resurrections:
            if self.now >= stimulus.until or len(sent) >= stimulus.times:
                continue
            names = [model.name for model in self.setup.models]
            for _, model in sorted(self.judge.drained()):
                number = (stimulus.number + 1) * 100_000 + len(sent)
                sent.append(number)
                arrive = fc.Arrive(
                    at=self.now,
                    number=number,
                    model=names.index(model),
                    priority=stimulus.priority,
                )
                client = Client(request=self._request(arrive), service_s=1.0)
                self.after(0.0, partial(self._arrive, client))

    # ---------------------------------------------------------------- stimuli

    # One line a stimulus: a table of handlers would be shorter and lose the types.
    def _happen(self, stimulus: fc.Stimulus) -> None:  # noqa: C901, PLR0912
        match stimulus:
            case fc.Arrive():
                client = Client(request=self._request(stimulus), service_s=stimulus.service_s)
                if stimulus.give_up_s is not None:
                    self.after(stimulus.give_up_s, partial(self._give_up, client))
                self._arrive(client)
            case fc.Flood():
                for number in range(stimulus.clients):
                    self._flood(stimulus, number)
            case fc.Resurrect():
                self.resurrections.append((stimulus, []))
            case fc.GiveUp():
                self._somebody_gives_up(stimulus)
            case fc.Storm():
                self._storm(stimulus)
            case fc.Foreign():
                card = self.cards[stimulus.bin % len(self.cards)]
                room = self.setup.total - self._used(card) + card.foreign
                card.foreign = min(stimulus.size, room)
            case fc.Blind():
                self._blind(stimulus)
            case fc.Outage():
                card = self.cards[stimulus.bin % len(self.cards)]
                self._go_down(card.upstream, stimulus.for_s)
            case fc.Spoil():
                self.spoiled[self._model(stimulus.model)] = stimulus.how
            case fc.Vanish():
                self._vanish(stimulus)
            case fc.Appear():
                self._appear(stimulus)
            case fc.Release():
                self.tell(ev.Released(model=self._model(stimulus.model)))
            case fc.Close():
                self.tell(ev.Closing())

    def _somebody_gives_up(self, stimulus: fc.GiveUp) -> None:
        client = self.clients.get(RequestId(f"r{stimulus.number}"))
        if client is None or client.state == "over":
            return
        if stimulus.cancelled and client.state == "waiting":
            self.tell(ev.Cancelled(id=client.request.id))
        else:
            self._end(client, completed=False)

    def _storm(self, stimulus: fc.Storm) -> None:
        for client in list(self.clients.values()):
            if client.request.model == self._model(stimulus.model):
                self._give_up(client)


def staged(setup: fc.Setup) -> Machine:
    """A scheduler for it, that has heard of nobody yet."""
    policy: dict[str, Any] = dict(setup.policy)
    play = Play(
        capacity=setup.capacity,
        max_loaded=setup.max_loaded,
        bins=dict(setup.bins),
        heard=False,
        **policy,
    )
    return play.machine
