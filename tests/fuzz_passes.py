"""7: how often who is first by the virtual deadlines is passed over, by loads and by starts.

Only whoever is surely first counts: overdue whatever the load, and with nobody before it. Between
its patience and its longest patience nobody outside can tell.
"""

from collections.abc import Sequence

from ollama_gate.scheduler import Machine
from ollama_gate.scheduler.commands import Load
from ollama_gate.scheduler.types import BinId
from tests.fuzz_books import Books, Fate, Key, Told
from tests.fuzz_law import must
from tests.fuzz_room import Room


class Passes:
    """The counts, kept with each request for each bin and runner."""

    def __init__(self, machine: Machine, books: Books, room: Room) -> None:
        self._machine, self.books, self._room = machine, books, room
        self._heads: dict[BinId | Key, Fate] = {}

    def by_load(self, command: Load) -> None:
        """7: a surely overdue head is passed over by `k_load` loads, and one that was begun."""
        books = self.books
        planned = {
            plan.request.model
            for bin_id, plan in self._machine.plans.items()
            if bin_id != command.bin
        }
        homeless = [
            fate
            for fate in books.waiting.values()
            if command.bin in fate.request.needs
            and not books.promised(fate.request)
            and not self._room.excused(command.bin, fate.request)
            # Whose turn it is in another bin is passed over in none.
            and fate.request.model not in planned
        ]
        # Passes count between two loads of a model, however those end.
        for fate in books.waiting.values():
            if fate.request.model == command.model:
                fate.passed_over = dict.fromkeys(fate.passed_over, 0)
        head = books.surely_first(homeless)
        if head is not None:
            self._begins_anew(command.bin, head)
        if head is None or head.request.model == command.model:
            return
        alike = (f for f in homeless if f.request.model == command.model)
        if any(
            books.place(fate) < books.place(head)
            for fate in [books.fates[command.for_request], *alike]
        ):
            # Somebody who stands before it was in trouble, and is not any more.
            head.passed_over[command.bin] = 0
            return
        count = head.passed_over[command.bin] = head.passed_over[command.bin] + 1
        limit = books.policy.k_load + 1
        text = f"{head.request.id} is passed over by {count} loads"
        must("7 bypass by loads", count <= limit, text)

    def by_start(self, fate: Fate, told: Told, rivals: Sequence[Fate]) -> None:
        """A surely overdue head is passed over by `k_slot` starts at its runner."""
        books = self.books
        head = books.surely_first([fate, *rivals])
        if head is not None:
            self._begins_anew(told.key, head)
        if head is None or head is fate:
            return
        count = head.passed_over[told.key] = head.passed_over[told.key] + 1
        text = f"{head.request.id} is passed over by {count} starts"
        must("7 bypass by slots", count <= books.policy.k_slot, text)

    def _begins_anew(self, where: BinId | Key, head: Fate) -> None:
        """Passes count from when everybody who stood before it there is served or away."""
        before = self._heads.get(where)
        self._heads[where] = head
        earlier = before is not None and self.books.place(before) < self.books.place(head)
        if earlier or where not in head.passed_over:
            head.passed_over[where] = 0
