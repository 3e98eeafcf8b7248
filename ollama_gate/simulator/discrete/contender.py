"""Whoever decides in a world: the brain, or one of those that it is compared with.

It is told what happens and answers by asking the world to load, unload, start, refuse. It sees of
the world what it would see in life: its own requests, what it had loaded, and readings of the
cards if it takes any.
"""

from typing import TYPE_CHECKING

from ollama_gate.simulator.discrete.cards import Card, Runner, Ticket

if TYPE_CHECKING:
    from ollama_gate.simulator.discrete.world import World


class Contender:
    """One of those that are compared. Unless it says otherwise it takes no notice.

    A contender is for one run.

    Attributes:
        name: as it stands in tables.
        reads_cards: whether it is told of readings; whoever is not is judged by what really was.
        keeps_reserve: whether it promises to leave each card's reserve alone.
        under_ollama: whether its loads are subject to Ollama's own rules of who may stay.
    """

    name = "nobody"
    reads_cards = False
    keeps_reserve = False
    under_ollama = False
    world: "World"

    def begin(self, world: "World") -> None:
        """The run begins; nobody has come yet."""
        self.world = world

    def arrived(self, ticket: Ticket) -> None:
        """A request came."""

    def left(self, ticket: Ticket) -> None:
        """A request is over, whichever way; what it held is free."""

    def loaded(self, runner: Runner) -> None:
        """A load ended well."""

    def load_failed(self, runner: Runner, *, oom: bool) -> None:
        """A load ended badly."""

    def gone(self, runner: Runner) -> None:
        """A runner is no longer listed; its memory is still held."""

    def vacated(self, runner: Runner) -> None:
        """A runner's memory is back; unless it reads cards nobody would tell it."""

    def measured(self, card: Card, used_bytes: int) -> None:
        """A card was read."""

    def next_wakeup(self) -> float | None:
        """When it wants to be woken if nothing else happens; in the future, or never."""
        return None

    def woken(self) -> None:
        """That time has come."""
