"""Who waits for a slot or holds one, and how everybody's wait ended.

It hands out and takes back; who is next is the scheduler's to say.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from ollama_gate.errors import GateError
from ollama_gate.gate.chronicle import Decision
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Forward, Refuse
from ollama_gate.scheduler.types import BinId, Refusal, Request, RequestId

REMEMBERED: Final = 1000
"""How many ended requests can still be asked for."""


class RefusedError(GateError):
    """A request is turned away.

    Attributes:
        refusal: why, and what to answer.
        request: which, if it came as far as the line.
    """

    def __init__(self, refusal: Refuse, request: Request | None = None) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal
        self.request = request


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A slot: where it is, how long it was waited for, and how much of that was its load.

    Attributes:
        num_ctx: the context that the request must name instead of its own, if any.
        offload: the share of the model that is on the CPU, 0 to 1.
        overdue: whether it had been passed over for as long as it may be.
    """

    bin: BinId
    queued_s: float
    load_s: float
    num_ctx: int | None = None
    offload: float = 0.0
    overdue: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What became of a request, and what it had waited for.

    Attributes:
        fate: how it ended, in a word or two.
        grant: its slot; `None` if it had none.
        meanwhile: what was decided for its bin while it waited, oldest first.
    """

    fate: str
    request: Request
    grant: Grant | None
    meanwhile: tuple[Decision, ...]


@dataclass(slots=True)
class Ticket:
    """One request, from its arrival until it leaves.

    Attributes:
        completed: its answer ended by itself, so that its length tells something.
        meanwhile: what was decided for its bin while it waited.
    """

    request: Request
    granted: asyncio.Future[Grant]
    holder: asyncio.Task[Any] | None
    withdrawn: bool = False
    granted_at: float = 0.0
    completed: bool = False
    meanwhile: tuple[Decision, ...] = ()

    @property
    def past(self) -> Past:
        """What became of it so far."""
        done = self.granted.done() and not self.granted.cancelled()
        served = done and self.granted.exception() is None
        return Past(
            fate=self.fate,
            request=self.request,
            grant=self.granted.result() if served else None,
            meanwhile=self.meanwhile,
        )

    @property
    def fate(self) -> str:
        """How it ended, in a word or two; call it once it has."""
        if self.granted.cancelled() or not self.granted.done():
            return "left while waiting"
        error = self.granted.exception()
        if error is not None:
            return f"refused: {error}"
        return "withdrawn" if self.withdrawn else "ended"


class Tickets:
    """Everybody who waits or runs, and the fates of those who ended last.

    Args:
        tell: takes in an event.
        served: told of everybody whose answer ended by itself.
        left: told of everybody who is over, however it ended.
    """

    def __init__(
        self,
        *,
        tell: Callable[[ev.Event], None],
        served: Callable[[Ticket], None],
        left: Callable[[Ticket], None],
    ) -> None:
        self._tell = tell
        self._served = served
        self._left = left
        self._open: dict[RequestId, Ticket] = {}
        self._fates: OrderedDict[RequestId, Past] = OrderedDict()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._open

    def past_of(self, request_id: RequestId) -> Past | None:
        """What became of one that runs or ended; `None` if it waits, or ended long ago."""
        ticket = self._open.get(request_id)
        if ticket is None:
            return self._fates.get(request_id)
        return ticket.past if ticket.granted.done() else None

    def remember(self, request_id: RequestId, meanwhile: tuple[Decision, ...]) -> None:
        """Keep with a request what was decided while it waited."""
        self._open[request_id].meanwhile = meanwhile

    def enter(self, request: Request) -> Ticket:
        """Let a request in; it arrives."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(request, loop.create_future(), asyncio.current_task())
        self._open[request.id] = ticket
        self._quiet.clear()
        return ticket

    def complete(self, request_id: RequestId) -> None:
        """The answer to a request has ended by itself."""
        self._open[request_id].completed = True

    def leave(self, ticket: Ticket) -> None:
        """Let it out, whichever way it ended."""
        if ticket.completed:
            self._served(ticket)
        del self._open[ticket.request.id]
        self._remember(ticket)
        self._left(ticket)
        self._tell(ev.Left(id=ticket.request.id, completed=ticket.completed))
        if not self._open:
            self._quiet.set()

    def _remember(self, ticket: Ticket) -> None:
        if not ticket.granted.done():
            ticket.granted.cancel()
        self._fates[ticket.request.id] = ticket.past
        if len(self._fates) > REMEMBERED:
            self._fates.popitem(last=False)

    def forward(self, command: Forward) -> Request | None:
        """Give a request its slot; `None` if its client went in this very instant."""
        ticket = self._open.get(command.id)
        if ticket is None or ticket.granted.done():
            return None
        ticket.granted_at = asyncio.get_running_loop().time()
        ticket.granted.set_result(
            Grant(
                bin=command.bin,
                queued_s=command.queued_s,
                load_s=command.load_s,
                num_ctx=command.num_ctx,
                offload=command.offload,
                overdue=command.overdue,
            )
        )
        return ticket.request

    def refuse(self, command: Refuse) -> Request | None:
        """Turn a request away; `None` if its client went in this very instant."""
        ticket = self._open.get(command.id)
        if ticket is None or ticket.granted.done():
            return None
        ticket.granted.set_exception(RefusedError(command, ticket.request))
        return ticket.request

    def cancel(self, request_id: RequestId) -> bool:
        """Withdraw a request, waiting or running; false if there is none of that name."""
        ticket = self._open.get(request_id)
        if ticket is None:
            return False
        if ticket.granted.done():
            ticket.withdrawn = True
            if ticket.holder is not None:
                ticket.holder.cancel()
        else:
            self._tell(ev.Cancelled(id=request_id))
        return True

    async def quiet(self) -> None:
        """Wait until nobody waits or runs."""
        await self._quiet.wait()

    @property
    def is_quiet(self) -> bool:
        """Whether nobody waits or runs."""
        return self._quiet.is_set()


class Slot:
    """A place in the line, then a slot; gone again however its block ends."""

    def __init__(
        self, tickets: Tickets, request: Request, tell: Callable[[ev.Event], None]
    ) -> None:
        self._tickets = tickets
        self._request = request
        self._tell = tell
        self._ticket: Ticket | None = None

    async def __aenter__(self) -> Grant:
        self._ticket = ticket = self._tickets.enter(self._request)
        try:
            self._tell(ev.Arrived(request=self._request))
            return await ticket.granted
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        ticket = self._ticket
        assert ticket is not None, "a block that ends has begun"
        self._tickets.leave(ticket)
        if isinstance(error, asyncio.CancelledError) and ticket.withdrawn and ticket.holder:
            ticket.holder.uncancel()
            raise RefusedError(Refuse(id=ticket.request.id, reason=Refusal.CANCELLED)) from None
