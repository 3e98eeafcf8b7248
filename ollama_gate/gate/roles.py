"""What the pump needs of others: an upstream, a card, somebody who remembers. No code is here."""

from typing import Literal, Protocol

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Load, Prewarm, Unload
from ollama_gate.scheduler.types import BinId, Launch, ModelKey, Request


class Engine(Protocol):
    """One upstream, as the pump drives it."""

    @property
    def remembers_free(self) -> bool:
        """Whether its version plans with what a card had free when a runner was loaded."""

    async def load(self, command: Load) -> ev.Loaded | ev.LoadFailed | ev.Interrupted:
        """Load a model, however long it takes."""

    async def unload(self, command: Unload) -> bool:
        """Unload a model; true when it is no longer listed, false when nobody can tell."""

    async def prewarm(self, command: Prewarm) -> None:
        """Read a model's files ahead, where that can help; whatever comes of it."""

    async def residents(self) -> tuple[ev.Resident, ...]:
        """What is resident now; raises `UpstreamError` when there is no answer."""

    async def let_expire(self, name: str, launch: Launch) -> None:
        """Leave a model to Ollama: it may unload it when it has idled for long enough."""


class Meter(Protocol):
    """A card that is read from time to time by itself, and more often while `busy`."""

    def hurry(self, *, busy: bool) -> None:
        """Say whether memory is moving."""


class Witness(Protocol):
    """Somebody who remembers how long things took. Times in seconds, `now` of the pump's clock."""

    def load_began(self, bin_id: BinId, model: ModelKey, launch: Launch, now: float) -> None:
        """A load is ordered; `loaded` or `load_failed` follows."""

    def loaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """It went well."""

    def load_failed(self, bin_id: BinId, model: ModelKey, now: float) -> None:
        """It did not, or nobody knows."""

    def unload_began(self, bin_id: BinId, now: float) -> None:
        """An unload is ordered."""

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """It is over, and was seen to be."""

    def served(self, bin_id: BinId, model: ModelKey, seconds: float) -> None:
        """A slot was held for so long, until its answer ended."""


class Recorder(Protocol):
    """Somebody who writes down who came and what became of them; `now` of the pump's clock."""

    def served(
        self, request: Request, bin_id: BinId, granted_at: float, now: float, *, completed: bool
    ) -> None:
        """A request that had a slot is over, its answer ended by itself or not."""

    def unserved(
        self,
        request: Request,
        outcome: Literal["left", "withdrawn", "refused"],
        now: float,
        reason: str | None,
    ) -> None:
        """A request is over that never had a slot."""

    def load_over(
        self, bin_id: BinId, model: ModelKey, seconds: float, now: float, *, ok: bool
    ) -> None:
        """A load is over, well or not."""

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """An unload is over, and was seen to be."""

    def measured(self, bin_id: BinId, total_bytes: int, foreign_bytes: int, now: float) -> None:
        """A card was read, and so much of it is used by others."""
