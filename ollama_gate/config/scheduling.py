"""The brain's parameters as a configuration holds them, and what each profile makes of them.

The figures are the brain's own: `ollama_gate.scheduler.types.Policy` says what each of them means.
How they are spelled in gate.yaml is the business of the module beside.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from ollama_gate.scheduler.types import Policy

Profile = Literal["balanced", "interactive", "throughput"]
Triple = tuple[float, float, float]
"""One figure for each class: high, normal, low."""

_BRAINS: Final = Policy()


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The attributes of `Policy` that have a key of their own, under the same names.

    Attributes:
        profile: where the figures are from that nobody set.
    """

    profile: Profile = "balanced"
    weights: Triple = _BRAINS.weights
    tau_s: Triple = _BRAINS.tau_s
    tau_cap_s: Triple = _BRAINS.tau_cap_s
    beta: float = _BRAINS.beta
    kappa: float = _BRAINS.kappa
    kappa_hi: float = _BRAINS.kappa_hi
    finish: float = _BRAINS.finish
    stretch: float = _BRAINS.stretch
    k_load: int = _BRAINS.k_load
    k_slot: int = _BRAINS.k_slot
    aging: float = _BRAINS.aging
    half_life_s: float = _BRAINS.half_life_s
    ewma_service: float = _BRAINS.ewma_service
    ewma_load: float = _BRAINS.ewma_load
    first_service_s: float = _BRAINS.first_service_s
    first_load_s: float = _BRAINS.first_load_s
    first_load_bytes_per_s: float = _BRAINS.first_load_bytes_per_s
    first_unload_s: float = _BRAINS.first_unload_s
    oom_growth: float = _BRAINS.oom_growth
    oom_tries: int = _BRAINS.oom_tries
    oom_backoff_s: tuple[float, float] = _BRAINS.oom_backoff_s


PROFILES: Final[Mapping[Profile, Mapping[str, Any]]] = {
    "balanced": {},
    "interactive": {"tau_s": (5.0, *_BRAINS.tau_s[1:]), "kappa_hi": 1.0},
    "throughput": {"tau_s": (90.0, 360.0, 900.0), "kappa": 8.0, "kappa_hi": 8.0},
}
"""What differs from the defaults: chats sooner and more swaps, or fewer swaps and longer waits."""


def parameters(scheduler: SchedulerConfig) -> dict[str, Any]:
    """By the names that `Policy` has for them."""
    return {
        name: value
        for name, value in msgspec.structs.asdict(scheduler).items()
        if name != "profile"
    }
