"""The brain of production in a simulated world: through its events and its commands alone.

What stands between the two in production (requests read, needs estimated and learned, loads
answered, cards read) is done here as it is done there, in as few words.
"""

from collections import deque
from typing import assert_never

from ollama_gate.scheduler import Machine
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward, Load, Prewarm, Refuse, Unload, Warn
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Policy,
    Refusal,
    Request,
    RequestId,
    Upstream,
)
from ollama_gate.simulator.discrete.cards import Card, Outcome, Phase, Runner, Ticket
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.workload import ModelSpec
from ollama_gate.simulator.discrete.world import World

OUT_OF_MEMORY = "llama-server process has terminated: cudaMalloc failed: out of memory"

_LAUNCH = Launch()


class Brain(Contender):
    """`scheduler.Machine`, driven as production drives it.

    Attributes:
        machine: the brain itself, to be looked at and not to be touched.
    """

    reads_cards = True
    keeps_reserve = True
    under_ollama = True

    def __init__(self, policy: Policy | None = None, *, name: str = "gate") -> None:
        self.name = name
        self.policy = Policy() if policy is None else policy
        self.machine: Machine
        self._needs: dict[str, dict[BinId, Need]] = {}
        self._tickets: dict[RequestId, Ticket] = {}
        self._known_bytes: dict[str, int] = {}
        self._inbox: deque[ev.Event] = deque()
        self._handling = False

    def begin(self, world: World) -> None:
        """Make the brain, and tell it that its upstreams answer and hold nothing."""
        super().begin(world)
        self.machine = Machine(
            upstreams=[
                Upstream(
                    name=upstream.name,
                    max_loaded=upstream.loaded_limit,
                    remembers_free=upstream.remembers_free,
                )
                for upstream in world.upstreams.values()
            ],
            bins=[
                Bin(id=card.id, upstream=card.upstream, reserve_bytes=card.spec.reserve_bytes)
                for card in world.cards.values()
            ],
            policy=self.policy,
            now=0.0,
        )
        for upstream in world.upstreams:
            self._tell(self._observed(upstream))

    # ---------------------------------------------------------------- what happens

    def arrived(self, ticket: Ticket) -> None:
        """Say what a request needs, as far as that is known."""
        request = self._request(ticket)
        self._tickets[request.id] = ticket
        self._tell(ev.Arrived(request=request))

    def left(self, ticket: Ticket) -> None:
        """Whatever became of it, it says so once."""
        request_id = _id_of(ticket)
        del self._tickets[request_id]
        self._tell(ev.Left(id=request_id, completed=ticket.outcome is Outcome.SERVED))

    def loaded(self, runner: Runner) -> None:
        """Ollama lists it, and says what it takes."""
        model = runner.model
        if self._known_bytes.get(model.name) != model.footprint_bytes:
            self._known_bytes[model.name] = model.footprint_bytes
            self._needs.pop(model.name, None)
        outcome = ev.Loaded(
            footprint_bytes=model.footprint_bytes,
            reported_bytes=model.reported_bytes,
            size_bytes=model.reported_bytes,
        )
        self._tell(ev.LoadEnded(bin=runner.bin, model=_key_of(model), outcome=outcome))

    def load_failed(self, runner: Runner, *, oom: bool) -> None:
        """Memory ran out: Ollama lets go of everything that serves nobody, and says so."""
        upstream = self.world.cards[runner.bin].upstream
        for other in list(self.world.runners.values()):
            here = self.world.cards[other.bin].upstream == upstream
            if oom and here and other.phase is Phase.READY and not other.running:
                self.world.let_go(other)
        outcome = ev.LoadFailed(status=500, text=OUT_OF_MEMORY, oom=oom)
        self._tell(ev.LoadEnded(bin=runner.bin, model=_key_of(runner.model), outcome=outcome))
        self._tell(self._observed(upstream))

    def gone(self, runner: Runner) -> None:
        """It is no longer listed, if the brain asked for that."""
        told = self.machine.runners.get((runner.bin, _key_of(runner.model)))
        if told is not None and told.state.value == "unloading":
            self._tell(ev.UnloadEnded(bin=runner.bin, model=_key_of(runner.model)))

    def measured(self, card: Card, used_bytes: int) -> None:
        """Pass the reading on."""
        total = card.spec.total_bytes
        self._tell(ev.Measured(bin=card.id, total_bytes=total, used_bytes=used_bytes))

    def next_wakeup(self) -> float | None:
        """As the brain says."""
        return self.machine.next_wakeup()

    def woken(self) -> None:
        """Pass that on, too."""
        self._tell(ev.Ticked())

    # ---------------------------------------------------------------- the pump

    def _tell(self, event: ev.Event) -> None:
        """Hand over events one by one; what a command brings about waits for its turn."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        while self._inbox:
            for command in self.machine.handle(self._inbox.popleft(), self.world.now):
                self._do(command)
        self._handling = False

    def _do(self, command: Command) -> None:
        match command:
            case Forward():
                runner = self.world.runners.get((command.bin, self._tickets[command.id].model.name))
                self._forward(self._tickets[command.id], runner)
            case Refuse():
                failed = command.reason is Refusal.LOAD_FAILED
                ticket = self._tickets[command.id]
                self.world.refuse(ticket, command.reason.value, failed=failed)
            case Load():
                self.world.load(command.bin, self.world.models[command.model])
            case Unload():
                self.world.unload(self.world.runners[command.bin, command.model])
            case Prewarm():
                upstream = self.world.cards[command.bin].upstream
                self.world.prewarm(upstream, self.world.models[command.model])
            case Warn():
                pass
            case _:
                assert_never(command)

    def _forward(self, ticket: Ticket, runner: Runner | None) -> None:
        if runner is None:
            self.world.counts.misdirected += 1
            self.world.refuse(ticket, "its model was not there", failed=True)
        else:
            self.world.start(ticket, runner)

    # ---------------------------------------------------------------- what is told

    def _request(self, ticket: Ticket) -> Request:
        model = ticket.model
        return Request(
            id=_id_of(ticket),
            model=_key_of(model),
            name=model.name,
            needs=self._needs_of(model),
            arrived_at=self.world.now,
            priority=ticket.priority,
            client=ticket.client,
            parallel=model.parallel,
            default_keep_alive_s=self.world.workload.keep_alive_s,
            deadline_at=self.world.now + ticket.deadline_s,
            pinned=model.pinned,
        )

    def _needs_of(self, model: ModelSpec) -> dict[BinId, Need]:
        needs = self._needs.get(model.name)
        if needs is None:
            need = Need(
                footprint_bytes=self._known_bytes.get(model.name, model.believed_bytes),
                predicted_bytes=model.tested_bytes,
            )
            needs = dict.fromkeys(self.world.bins_of(model), need)
            self._needs[model.name] = needs
        return needs

    def _observed(self, upstream: str) -> ev.Observed:
        residents = tuple(
            self._resident(runner)
            for runner in self.world.runners.values()
            if self.world.cards[runner.bin].upstream == upstream and runner.phase is Phase.READY
        )
        return ev.Observed(upstream=upstream, residents=residents, asked_at=self.world.now)

    @staticmethod
    def _resident(runner: Runner) -> ev.Resident:
        model = runner.model
        return ev.Resident(
            bin=runner.bin,
            model=_key_of(model),
            name=model.name,
            launch=_LAUNCH,
            footprint_bytes=model.footprint_bytes,
            reported_bytes=model.reported_bytes,
            num_ctx=None,
            parallel=model.parallel,
            size_bytes=model.reported_bytes,
            pinned=model.pinned,
        )


def _key_of(model: ModelSpec) -> ModelKey:
    return ModelKey(model.name)


def _id_of(ticket: Ticket) -> RequestId:
    return RequestId(str(ticket.number))
