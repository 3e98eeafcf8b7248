"""Who may schedule a workload, by name: the gate in its profiles, and those it is compared with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from ollama_gate.config import PROFILES, Profile
from ollama_gate.scheduler.types import Policy
from ollama_gate.simulator.discrete.brain import Brain
from ollama_gate.simulator.discrete.contender import Contender
from ollama_gate.simulator.discrete.exhaustive import MostDemanded, Table
from ollama_gate.simulator.discrete.ollama import Ollama
from ollama_gate.simulator.discrete.result import Result
from ollama_gate.simulator.discrete.workload import ModelSpec, Workload
from ollama_gate.simulator.discrete.world import World

Parameters = Mapping[str, Any]
"""Of the gate's policy, by the names of `scheduler.types.Policy`."""

UNLIMITED: Final = 10**9
"""The world's queue: nobody else has a limit, and what is compared is the order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """One way to schedule.

    Attributes:
        about: in a few words.
        decides: a contender for one run, given the gate's parameters, which others ignore.
        of: what it makes of the workload before: another number of slots, for example.
        ours: whether it is the gate.
    """

    name: str
    about: str
    decides: Callable[[Parameters], Contender]
    of: Callable[[Workload], Workload] = lambda workload: workload
    ours: bool = False

    def run(self, workload: Workload, parameters: Parameters | None = None) -> Result:
        """Schedule a workload from its beginning to its end."""
        return World(self.of(workload), self.decides(parameters or {})).run()


def _gate(profile: Profile) -> Callable[[Parameters], Contender]:
    def decides(parameters: Parameters) -> Contender:
        given = {"queue_max_size": UNLIMITED, **PROFILES[profile], **parameters}
        return Brain(Policy(**given))

    return decides


def as_it_comes(workload: Workload) -> Workload:
    """The same with Ollama's own defaults: one slot for each model, three models for each card."""
    return replace(
        workload,
        models=tuple(map(_with_one_slot, workload.models)),
        upstreams=tuple(replace(upstream, max_loaded=0) for upstream in workload.upstreams),
    )


def _with_one_slot(model: ModelSpec) -> ModelSpec:
    rest_bytes = model.footprint_bytes - model.weights_bytes - model.overhead_bytes
    saved_bytes = round(max(0, rest_bytes) * (1 - 1 / model.parallel))
    return replace(
        model,
        parallel=1,
        footprint_bytes=model.footprint_bytes - saved_bytes,
        estimate_bytes=None if model.estimate_bytes is None else model.estimate_bytes - saved_bytes,
        predicted_bytes=None
        if model.predicted_bytes is None
        else model.predicted_bytes - saved_bytes,
    )


def _nobodys(make: Callable[[], Contender]) -> Callable[[Parameters], Contender]:
    """The gate's parameters mean nothing to others."""
    return lambda _: make()


_ALL: Final = (
    Scheduling(name="gate", about="the gate, balanced", decides=_gate("balanced"), ours=True),
    Scheduling(
        name="interactive", about="its profile for chats", decides=_gate("interactive"), ours=True
    ),
    Scheduling(
        name="throughput", about="its profile for batches", decides=_gate("throughput"), ours=True
    ),
    Scheduling(
        name="ollama", about="Ollama by itself, with as many slots", decides=_nobodys(Ollama)
    ),
    Scheduling(
        name="ollama-p1",
        about="Ollama by itself with its own defaults, one slot a model",
        decides=_nobodys(Ollama),
        of=as_it_comes,
    ),
    Scheduling(
        name="table", about="first-come, ideal table of what coexists", decides=_nobodys(Table)
    ),
    Scheduling(name="demand", about="most demanded first", decides=_nobodys(MostDemanded)),
)

SCHEDULINGS: Final[Mapping[str, Scheduling]] = MappingProxyType({each.name: each for each in _ALL})
"""By name, in the order in which tables show them."""
