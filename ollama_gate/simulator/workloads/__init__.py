"""Named workloads: each a function of a seed, the same for the benchmark, tests and `replay`.

They are drawn, not measured: what they have in common with anybody's own traffic is for a trace
to show.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ollama_gate.simulator.discrete.workload import Workload
from ollama_gate.simulator.workloads import exchanging, sharing, small


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One name and what it draws.

    Attributes:
        make: the workload of a seed.
        bounded: whether a lower bound on the makespan says something of it: a closed loop's
            arrivals depend on the answers, and an overload's makespan on what is left at its end.
        flood: whether it is about the longest wait alone.
    """

    name: str
    make: Callable[[int], Workload]
    bounded: bool = True
    flood: bool = False

    @property
    def about(self) -> str:
        """One line about it."""
        return " ".join((self.make.__doc__ or "").split())


_ALL: Final = (
    Family(name="alt2", make=exchanging.alternating),
    Family(name="alt2burst", make=exchanging.alternating_bursts),
    Family(name="zipf10", make=exchanging.zipf_heavy),
    Family(name="zipf10_mid", make=exchanging.zipf_mid),
    Family(name="zipf10_light", make=exchanging.zipf_light),
    Family(name="burst_inter", make=sharing.bursts_and_chat),
    Family(name="batch_chat", make=sharing.batch_and_chat),
    Family(name="batch_chat_fit", make=sharing.batch_beside_chat),
    Family(name="longctx", make=exchanging.long_contexts),
    Family(name="exthog", make=exchanging.hogged),
    Family(name="adv_hot", make=exchanging.hot),
    Family(name="adv_rr", make=exchanging.round_robin),
    Family(name="clients", make=sharing.greedy_client),
    Family(name="overload", make=exchanging.overload, bounded=False),
    Family(name="multi2", make=sharing.two_cards),
    Family(name="agents", make=sharing.agents, bounded=False),
    Family(name="drift", make=exchanging.drifting),
    Family(name="misest", make=exchanging.misjudged),
    Family(name="small8", make=exchanging.small),
    Family(name="tides", make=sharing.tides),
    Family(name="impatient", make=sharing.impatient, bounded=False),
    Family(name="flood1", make=sharing.flood_of_one, bounded=False, flood=True),
    Family(name="flood2of3", make=sharing.flood_of_two, bounded=False, flood=True),
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({family.name: family for family in _ALL})
"""Every family by its name, in the order in which tables show them."""

SMALL: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "pair_bursts": Family(name="pair_bursts", make=small.bursts, bounded=False),
        "pair_poisson": Family(name="pair_poisson", make=small.poisson, bounded=False),
    }
)
"""Workloads of which the best possible schedule can be worked out."""

__all__ = ["FAMILIES", "SMALL", "Family"]
