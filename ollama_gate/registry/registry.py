"""One upstream as others ask about it; whatever they are told is worked out beside."""

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

from ollama_gate import footprint, names
from ollama_gate.config import Config, UpstreamConfig
from ollama_gate.experience import Experience
from ollama_gate.footprint import Facts
from ollama_gate.known import Known, Line
from ollama_gate.ledger import Ledger
from ollama_gate.ollama import Ollama
from ollama_gate.outlook import Outlook
from ollama_gate.registry.outlooks import Outlooks
from ollama_gate.registry.requests import Requests
from ollama_gate.registry.runners import Runners
from ollama_gate.registry.terms import Terms
from ollama_gate.scheduler.events import Resident
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey, Priority, Request, RequestId
from ollama_gate.wire import Ask


class Registry:
    """Facts and footprints of one upstream's models, in its bins. `close` comes last.

    Args:
        ollama: whom to ask.
        config: what is in effect.
        upstream: how that one is set up.
        bins: where its models may be.
        experience: what was seen of it before, and is from now on.

    Attributes:
        ledger: what became of its loads and unloads.
    """

    def __init__(
        self,
        *,
        ollama: Ollama,
        config: Config,
        upstream: UpstreamConfig,
        bins: Sequence[Bin],
        experience: Experience | None = None,
    ) -> None:
        known = Known(ollama)
        self.ledger = Ledger()
        self._known = known
        self._terms = terms = Terms(
            config=config,
            upstream=upstream,
            bins=bins,
            experience=experience or Experience(upstream.url),
            known=known,
        )
        self._requests = Requests(config, terms)
        self._runners = Runners(ollama, known, terms, self.ledger)
        self._outlooks = Outlooks(known, terms)

    @property
    def version(self) -> str:
        """Ollama's own, when it last answered; empty until it says."""
        return self._terms.settings.version

    @property
    def remembers_free(self) -> bool:
        """Whether that version plans with what a card had free when a runner was loaded."""
        return footprint.remembers_free(self.version)

    def card_has(self, total_bytes: int) -> None:
        """Take in how much memory the card has: Ollama's automatic context depends on it."""
        self._terms.note(total_bytes=total_bytes)

    # ---------------------------------------------------------------- what is known

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._known.close()

    async def facts(self, name: str, *, strict: bool = False) -> Facts | None:
        """What there is to know of a model, as `Known.facts`; `None` if Ollama knows it not."""
        return await self._known.facts(name, strict=strict)

    def believed(self, name: str) -> Facts | None:
        """What was known of a model when the upstream last answered; nobody is asked."""
        return self._known.believed(name)

    def may_have(self, name: str) -> bool:
        """Whether the upstream may have a model, for all that it ever said; nobody is asked."""
        return self._known.may_have(name)

    def changing(self, changed: Collection[str]) -> AbstractContextManager[None]:
        """For the length of a block these names may change their meaning, as `Known.changing`."""
        return self._known.changing(changed)

    async def list_anew(self) -> None:
        """Ask for the list of models again; raises as `Known.list_anew`."""
        await self._known.list_anew()

    def line(self, name: str) -> Line | None:
        """How a model was listed last, in any spelling of its name; `None` if it was not."""
        return self._known.listed.get(names.key_of(name))

    async def known(self) -> list[Outlook]:
        """Every model that the upstream lists, with what is known of it by now.

        Nobody is asked, and others have their turn while it is worked out; what is missing is
        asked for in the background.
        """
        return await self._outlooks.all()

    def model_of(self, digest: str) -> ModelKey:
        """What the manifest's digest in a line of `/api/ps` stands for."""
        return self._known.model_of(digest)

    # ---------------------------------------------------------------- in the scheduler's terms

    def request(
        self,
        request_id: RequestId,
        ask: Ask,
        facts: Facts,
        *,
        priority: Priority | None,
        client: str,
        arrived_at: float,
        deadline_at: float = math.inf,
    ) -> Request:
        """What a client's request means to the scheduler."""
        return self._requests.request(
            request_id,
            ask,
            facts,
            priority=priority,
            client=client,
            arrived_at=arrived_at,
            deadline_at=deadline_at,
        )

    async def residents(self) -> tuple[Resident, ...]:
        """What is resident, with what it takes.

        Raises:
            UpstreamError: no answer, or not that of an Ollama.
        """
        return await self._runners.residents()

    async def ran_out(self, name: str, launch: Launch, bin_id: BinId) -> None:
        """A model ran out of memory as it was loaded: it is booked with more from now on."""
        facts = await self.facts(name)
        if facts is not None:
            bin_ = next(bin_ for bin_ in self._terms.bins if bin_.id == bin_id)
            self._terms.experience.ran_out(facts, launch, self._terms.settings, bin_)

    def deleted(self, model: ModelKey) -> None:
        """A name of a model was deleted: unless it has another, it is forgotten."""
        self._terms.experience.deleted(model)

    def names_of(self, model: ModelKey) -> list[str]:
        """The names by which a runner can be reached, as far as they are known."""
        return self._terms.names_of(model)

    def take_back(self, model: ModelKey) -> None:
        """Take notice again of a runner that was given up."""
        self._runners.take_back(model)

    def give_up(self, model: ModelKey) -> None:
        """Take no more notice of a runner that no name reaches, for as long as it is listed.

        Ollama lets go of it when it needs the memory; to the gate it is somebody else's.
        """
        self._runners.give_up(model)
