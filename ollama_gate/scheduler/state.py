"""Where everything stands, and the questions that can be asked of it.

It changes nothing and decides nothing: what happens is booked by the machine, what comes next is
decided by the planning, and both ask here.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ollama_gate.scheduler.commands import Choice
from ollama_gate.scheduler.demand import Demand
from ollama_gate.scheduler.fairness import Fairness
from ollama_gate.scheduler.fitting import Shortfall, in_others_hands
from ollama_gate.scheduler.line import Line
from ollama_gate.scheduler.memory import Books, Runner
from ollama_gate.scheduler.pace import Pace
from ollama_gate.scheduler.recovery import Recovery
from ollama_gate.scheduler.serving import serves
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    ModelKey,
    Need,
    Offload,
    Policy,
    Request,
    RequestId,
    RunnerState,
    Upstream,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A transition that a bin is committed to, until it is done or its reason is gone.

    Attributes:
        request: whose model is next.
        victims: who makes room for it; they serve nobody new.
        missing: what was lacking, the reason for the victims.
        choice: why this model, why these victims.
    """

    request: Request
    victims: tuple[Runner, ...]
    missing: Shortfall | None
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Nobody may be loaded: the bin is kept for a request that was passed over often enough.

    Attributes:
        until: when the next incumbent has had its quantum, if time alone tells.
    """

    request: Request
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a start is charged with: the seconds of a slot that are expected."""

    at: float
    expected_s: float


class State:
    """Requests, runners, books and plans.

    Attributes:
        running: the requests that have a slot, and where.
        away_since: the upstreams that do not answer.
        unsure_since: those that may have evicted everything, until they are asked again.
        recovery: what went wrong with loads before.
        plans: what bins are committed to; a bin with nothing to do is absent.
        turn_ends: when the next incumbent has had its quantum that stands in somebody's way.
        pace: how long things take, and how often they are wanted.
        demand: how urgent what waits is.
        fairness: which client was served how much.
        charges: when each running request was given its slot, and what its client was charged.
        passed_in_bin: how many models were loaded in a bin before an overdue request's.
        passed_at_runner: how many were started before an overdue request for a model in a bin;
            it outlives the runner.
        passed_at_gate: how many before one for any model, where all together are limited.
        automatic_ctx: the context that Ollama gave each model when last it had the choice.
    """

    def __init__(
        self, *, upstreams: Sequence[Upstream], bins: Sequence[Bin], policy: Policy, now: float
    ) -> None:
        self.policy = policy
        self.line = Line(policy.tau_s, policy.queue_max_wait_s)
        self.pace = Pace(policy)
        self.demand = Demand(policy, self.line, self.pace)
        self.fairness = Fairness()
        self.charges: dict[RequestId, Charge] = {}
        self.passed_in_bin: dict[BinId, int] = {}
        self.passed_at_runner: dict[tuple[BinId, ModelKey], int] = {}
        self.passed_at_gate = 0
        self.turn_ends = math.inf
        self.runners: dict[tuple[BinId, ModelKey], Runner] = {}
        self.running: dict[RequestId, tuple[Request, BinId]] = {}
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        self.books = {
            bin_.id: Books(bin_, self.upstreams[bin_.upstream].remembers_free)
            for bin_ in sorted(bins, key=lambda b: b.id)
        }
        # Until it has been heard of, an upstream is as good as away.
        self.away_since = dict.fromkeys(self.upstreams, now)
        self.unsure_since: dict[str, float] = {}
        self.recovery = Recovery(policy.oom_growth, policy.oom_backoff_s)
        self.plans: dict[BinId, Plan | Held] = {}
        self.closing = False
        self.now = now
        self.automatic_ctx: dict[tuple[BinId, ModelKey], int] = {}

    def outage_deadline(self, request: Request) -> float:
        """When a request gives up, if none of the upstreams that could serve it comes back."""
        deadlines = []
        for bin_id in request.needs:
            upstream = self.upstreams[self.books[bin_id].bin.upstream]
            if upstream.name not in self.away_since:
                return math.inf
            began = max(request.arrived_at, self.away_since[upstream.name])
            deadlines.append(began + upstream.outage_wait_s)
        return max(deadlines)

    @property
    def is_full(self) -> bool:
        """Whether as many run over all models as may."""
        return 0 < self.policy.max_concurrent <= len(self.running)

    def is_open(self, bin_: Bin) -> bool:
        """Whether anything may be asked of a bin's upstream."""
        upstream = bin_.upstream
        return not (self.closing or upstream in self.away_since or upstream in self.unsure_since)

    def loading(self, upstream: str) -> Runner | None:
        """What an upstream is loading; it loads one at a time."""
        for runner in self.runners.values():
            if runner.bin.upstream == upstream and runner.state is RunnerState.LOADING:
                return runner
        return None

    def home_of(self, request: Request) -> Runner | None:
        """A resident runner that serves a request, if there is one and its upstream answers."""
        return next(self.homes_of(request), None)

    def homes_of(self, request: Request) -> Iterator[Runner]:
        """The resident runners that serve a request."""
        for runner in self.runners.values():
            if runner.usable and self.is_open(runner.bin) and self.suits(runner, request):
                yield runner

    def loads_for(self, request: Request) -> bool:
        """Whether something is being loaded that will serve a request."""
        return any(
            runner.state is RunnerState.LOADING
            and self.is_open(runner.bin)
            and self.suits(runner, request)
            for runner in self.runners.values()
        )

    @staticmethod
    def suits(runner: Runner, request: Request) -> bool:
        """Whether a runner, once resident, is one that a request may be sent to."""
        bin_id = runner.bin.id
        return bin_id in request.needs and serves(runner, request.at(bin_id))

    def is_wanted(self, runner: Runner) -> bool:
        """Whether somebody who waits could be served by it."""
        return any(self.suits(runner, group.first) for group in self.line.groups(runner.model))

    def need_of(self, request: Request, bin_id: BinId) -> Need:
        """What a runner for it is booked with: more than was thought, where that was too little."""
        need = request.needs[bin_id]
        least = self.recovery.of((bin_id, request.model, request.launch)).needed_bytes
        return need if least <= need.footprint_bytes else replace(need, footprint_bytes=least)

    def retry_at(self, request: Request, bin_id: BinId) -> float:
        """When its model may be loaded there, after it ran out of memory; past if it did not."""
        return self.recovery.retry_at(bin_id, request.model)

    @property
    def whole(self) -> bool:
        """Whether no model is to be on the CPU in part if that can be helped."""
        return self.policy.offload is not Offload.ACCEPT

    def waits_for_others_until(self, request: Request, books: Books) -> float:
        """How long it is left to others to give back the memory that its model needs.

        Until its patience ends; or until they have held it for that long without a change, for
        then they will hardly give it back just now.
        """
        patience_s = self.policy.tau_s[request.priority]
        return min(request.arrived_at, books.steady_since) + patience_s

    def is_patient(self, request: Request, books: Books) -> bool:
        """Whether it waits for what others use rather than to be on the CPU in part."""
        until = self.waits_for_others_until(request, books)
        return self.whole and not books.bin.cpu and self.now < until

    def others_in_the_way(self, request: Request, books: Books) -> bool:
        """Whether it waits until others give back what its model needs."""
        need = self.need_of(request, books.bin.id)
        return in_others_hands(need, books) > 0 and self.is_patient(request, books)

    def load_s_of(self, request: Request, bin_id: BinId) -> float:
        """How long a load for a request will take in a bin, in seconds."""
        need = self.need_of(request, bin_id)
        upstream = self.books[bin_id].bin.upstream
        return self.pace.load_s(upstream, request.model, need.footprint_bytes, need.load_s)

    def least_load_s(self, model: ModelKey) -> float:
        """The same for a model that somebody waits for, where it takes least."""
        first = next(iter(self.line.groups(model))).first
        return min(self.load_s_of(first, bin_id) for bin_id in first.needs)

    def reload_s(self, runner: Runner) -> float:
        """How long it will take to load a runner again, in seconds."""
        return self.pace.load_s(
            runner.bin.upstream, runner.model, runner.footprint_bytes, runner.load_s
        )

    def is_draining(self, runner: Runner) -> bool:
        """Whether it serves nobody new: an elder gets its memory, or it is not as it should be."""
        return runner.condemned is not None or self.drained_for(runner) is not None

    def drained_for(self, runner: Runner) -> Request | None:
        """Who waits for a runner's memory."""
        for plan in self.plans.values():
            if isinstance(plan, Plan) and runner in plan.victims:
                return plan.request
        return None

    def in_bin(self, bin_id: BinId) -> list[Runner]:
        """The runners of a bin, in any state."""
        return self.by_name(r for r in self.runners.values() if r.bin.id == bin_id)

    def on_upstream(self, bin_: Bin) -> list[Runner]:
        """The runners of all bins of a bin's upstream."""
        return self.by_name(r for r in self.runners.values() if r.bin.upstream == bin_.upstream)

    @staticmethod
    def by_name(runners: Iterable[Runner]) -> list[Runner]:
        """In an order that depends on nothing else."""
        return sorted(runners, key=lambda runner: (runner.bin.id, runner.model))

    @staticmethod
    def by_load(runners: Iterable[Runner]) -> list[Runner]:
        """Those that serve the fewest first, then in an order that depends on nothing else."""
        return sorted(
            runners, key=lambda runner: (len(runner.running), runner.bin.id, runner.model)
        )

    def has_runner(self, request: Request) -> bool:
        """Whether there is, or is about to be, a runner that serves a request."""
        return self.home_of(request) is not None or self.loads_for(request)

    def staying(self, bin_: Bin) -> list[Runner]:
        """The runners of an upstream that will be there when what is leaving has left."""
        # What is leaving will have left by then. An upstream's other bins matter for `max_loaded`.
        return [
            runner
            for runner in self.on_upstream(bin_)
            if runner.usable or runner.state is RunnerState.LOADING
        ]
