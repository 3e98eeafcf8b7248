"""How long anybody may wait: the bound of `docs/scheduling.md`, computed from its parameters.

It counts in the longest service, load and unload; with nobody but clients in the way. Where bins
share an upstream they share its loader, which loads one at a time: then a turn of one bin may have
to wait for one of each other bin.
"""

from ollama_gate.scheduler.types import Policy
from tests.fuzz_books import Books, Fate


def turn_s(
    policy: Policy, *, service_s: float, load_s: float, unload_s: float, bins: int = 1
) -> float:
    """The longest time from one overdue head's start to the next one's."""
    quantum_s = policy.stretch * max(policy.kappa, policy.kappa_hi) * 2 * load_s
    swap_s = service_s + unload_s + load_s
    away_s = (policy.k_load + 2) * swap_s * bins + quantum_s
    return max(away_s, (policy.k_slot + 1) * service_s)


def bound_s(policy: Policy, fate: Fate, before: int, one_turn_s: float) -> float:
    """After so long it has started, if so many stood before it."""
    cap_s = max(policy.tau_cap_s[fate.request.priority], policy.tau_s[fate.request.priority])
    return cap_s + (before + 1) * one_turn_s


def stood_before(books: Books, fate: Fate) -> int:
    """How many with an earlier virtual deadline were not served yet when it came, or came later."""
    place, arrived_at = books.place(fate), fate.request.arrived_at
    return sum(
        other.served_at > arrived_at and books.place(other) < place
        for other in books.fates.values()
    )
