"""What became of loads and unloads on one upstream: counted by model, from what was seen.

It knows nothing of the scheduler's books, so that the two can be held against each other, and
decides nothing. Somebody tells it of orders and their ends and of every `/api/ps` that was read;
what came or went without an order follows from these. What comes and goes between two looks was
never seen.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from ollama_gate.scheduler.types import ModelKey

REMEMBERED: Final = 1000
"""How many models are counted one by one; the sums go on."""


class LoadEnd(Enum):
    """How an ordered load ended."""

    CONFIRMED = "confirmed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Loads:
    """How often something was loaded.

    Attributes:
        ordered: by the gate; all but one under way ended in one of the three following ways.
        confirmed: listed by `/api/ps` afterwards.
        failed: Ollama said so, or it was never listed.
        interrupted: nobody saw its end.
        unlisted: answered as loaded, and gone again before it was ever listed.
        unordered: there without the gate's order; by somebody else, or by Ollama itself.
        found: there when the gate first looked.
    """

    ordered: int = 0
    confirmed: int = 0
    failed: int = 0
    interrupted: int = 0
    unlisted: int = 0
    unordered: int = 0
    found: int = 0


@dataclass(slots=True)
class Unloads:
    """How often something was unloaded.

    Attributes:
        ordered: by the gate; all but one under way ended in one of the two following ways.
        confirmed: no longer listed by `/api/ps`.
        unconfirmed: still listed, however Ollama answered, or nobody could tell.
        unordered: gone without the gate's order; evicted by Ollama, or by somebody else.
        lost: gone with an upstream that had stopped answering.
    """

    ordered: int = 0
    confirmed: int = 0
    unconfirmed: int = 0
    unordered: int = 0
    lost: int = 0


@dataclass(slots=True)
class Counts:
    """Both, of one model or of all."""

    loads: Loads = field(default_factory=Loads)
    unloads: Unloads = field(default_factory=Unloads)


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `/api/ps`; another context is another runner, `None` is not known."""

    name: str
    num_ctx: int | None = None


@dataclass(slots=True)
class Account:
    """One model: its counts, and what the next listing is held against.

    Attributes:
        there: how it was listed last; `None` if it was not.
        under_way: an order of which the end is not known yet.
        ended_at: when the last order ended; what was asked before does not contradict it.
    """

    name: str
    counts: Counts = field(default_factory=Counts)
    there: Listed | None = None
    under_way: bool = False
    ended_at: float = -math.inf


class Ledger:
    """The counts of one upstream. Times are of one clock that never goes back."""

    def __init__(self) -> None:
        self.total = Counts()
        self._accounts: dict[ModelKey, Account] = {}
        self._asked_at = -math.inf
        self._looked = False
        self._silent = False

    @property
    def models(self) -> Mapping[ModelKey, Account]:
        """What was counted of each model, in the order in which they were first seen."""
        return self._accounts

    # ---------------------------------------------------------------- orders

    def load_began(self, model: ModelKey, name: str) -> None:
        """A load is ordered; `load_ended` follows."""
        account = self._account(model, name)
        account.under_way = True
        for counts in self._both(account):
            counts.loads.ordered += 1

    def unlisted(self, model: ModelKey, name: str) -> None:
        """The load under way was answered as done, and then `/api/ps` did not list it."""
        for counts in self._both(self._account(model, name)):
            counts.loads.unlisted += 1

    def load_ended(self, model: ModelKey, end: LoadEnd, now: float) -> None:
        """The load is over."""
        account = self._accounts[model]
        account.under_way, account.ended_at = False, now
        if end is LoadEnd.CONFIRMED:
            account.there = Listed(account.name)
        for counts in self._both(account):
            match end:
                case LoadEnd.CONFIRMED:
                    counts.loads.confirmed += 1
                case LoadEnd.FAILED:
                    counts.loads.failed += 1
                case LoadEnd.INTERRUPTED:
                    counts.loads.interrupted += 1
                case _:
                    assert_never(end)

    def unload_began(self, model: ModelKey, name: str) -> None:
        """An unload is ordered; `unload_ended` follows."""
        account = self._account(model, name)
        account.under_way = True
        for counts in self._both(account):
            counts.unloads.ordered += 1

    def unload_ended(self, model: ModelKey, now: float, *, confirmed: bool) -> None:
        """The unload is over; `confirmed` if `/api/ps` was seen without it."""
        account = self._accounts[model]
        account.under_way, account.ended_at = False, now
        if confirmed:
            account.there = None
        for counts in self._both(account):
            if confirmed:
                counts.unloads.confirmed += 1
            else:
                counts.unloads.unconfirmed += 1

    # ---------------------------------------------------------------- listings

    def silent(self) -> None:
        """The upstream does not answer: what it held may go with it."""
        self._silent = True

    def listed(self, lines: Mapping[ModelKey, Listed], asked_at: float) -> None:
        """Take in an `/api/ps`, complete; `asked_at` is when it was asked for."""
        if asked_at < self._asked_at:
            # The answer to a later question was quicker.
            return
        self._asked_at = asked_at
        for model, line in lines.items():
            account = self._account(model, line.name)
            if self._tells_of(account, asked_at):
                self._is_there(account, line)
        for account in self._not_among(lines):
            if self._tells_of(account, asked_at):
                self._is_gone(account)
        self._looked, self._silent = True, False

    @staticmethod
    def _tells_of(account: Account, asked_at: float) -> bool:
        """Whether the listing decides; while an order is under way its end does."""
        return not account.under_way and asked_at >= account.ended_at

    def _is_there(self, account: Account, line: Listed) -> None:
        before, account.there = account.there, line
        if before is not None and not _is_another(before, line):
            return
        for counts in self._both(account):
            if before is not None:
                counts.unloads.unordered += 1
            if self._looked:
                counts.loads.unordered += 1
            else:
                counts.loads.found += 1

    def _is_gone(self, account: Account) -> None:
        account.there = None
        for counts in self._both(account):
            if self._silent:
                counts.unloads.lost += 1
            else:
                counts.unloads.unordered += 1

    def _not_among(self, lines: Mapping[ModelKey, Listed]) -> Iterable[Account]:
        for model, account in self._accounts.items():
            if account.there is not None and model not in lines:
                yield account

    # ---------------------------------------------------------------- accounts

    def _both(self, account: Account) -> tuple[Counts, Counts]:
        return account.counts, self.total

    def _account(self, model: ModelKey, name: str) -> Account:
        account = self._accounts.get(model)
        if account is None:
            self._forget_one()
            account = self._accounts[model] = Account(name)
        return account

    def _forget_one(self) -> None:
        """Make place for one more, at the cost of one that is neither there nor on its way."""
        if len(self._accounts) < REMEMBERED:
            return
        for model, account in self._accounts.items():
            if account.there is None and not account.under_way:
                del self._accounts[model]
                return


def _is_another(before: Listed, now: Listed) -> bool:
    """Whether it was loaded anew in between: a runner's context is what it was started with."""
    return None not in {before.num_ctx, now.num_ctx} and before.num_ctx != now.num_ctx
