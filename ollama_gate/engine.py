"""Carries out loads and unloads on one upstream, in the scheduler's terms.

It says how each ended; whether, when and in which order there is one is not decided here.
"""

import asyncio
import contextlib
import math
from http import HTTPStatus
from typing import Final

from ollama_gate import log, mishaps
from ollama_gate.errors import UpstreamError, UpstreamGoneError, UpstreamRefusedError
from ollama_gate.ledger import LoadEnd
from ollama_gate.ollama import Ollama
from ollama_gate.prewarm import Prewarmer
from ollama_gate.registry import Registry
from ollama_gate.scheduler.commands import Load, Prewarm, Unload
from ollama_gate.scheduler.events import (
    ERROR_STATUSES,
    Interrupted,
    Loaded,
    LoadFailed,
    Resident,
)
from ollama_gate.scheduler.types import Launch, ModelKey

FOREVER: Final = "-1s"
"""Residency is the gate's to decide: what it loads, Ollama keeps."""

LOOK_FIRST_S, LOOK_LAST_S = 0.02, 0.25
"""How soon after an unload `/api/ps` is looked at, and how often in the end."""

ASK_AGAIN_S: Final = 6.0
"""A model still listed after this long, for each that is listed, is asked to go once more: Ollama
may wait five seconds for the memory of one to come back before it turns to the next."""

ASKED: Final = 2
"""How often a model is asked to go."""

LOADED: Final = 2
"""How often a model is loaded that has gone again before anybody saw it."""

_END: Final = {
    Loaded: LoadEnd.CONFIRMED,
    LoadFailed: LoadEnd.FAILED,
    Interrupted: LoadEnd.INTERRUPTED,
}

_engine = log.get(log.Component.ENGINE)


class Engine:
    """One upstream. Fits `gate.Engine`."""

    def __init__(
        self,
        ollama: Ollama,
        registry: Registry,
        *,
        keep_alive_s: float,
        prewarmer: Prewarmer | None = None,
    ) -> None:
        self._ollama = ollama
        self._prewarmer = prewarmer
        self._registry = registry
        self._keep_alive_s = keep_alive_s

    @property
    def remembers_free(self) -> bool:
        """Whether its version plans with what a card had free when a runner was loaded."""
        return self._registry.remembers_free

    async def load(self, command: Load) -> Loaded | LoadFailed | Interrupted:
        """Load a model, and see what it takes."""
        ledger, end = self._registry.ledger, LoadEnd.INTERRUPTED
        ledger.load_began(command.model, command.name)
        try:
            with self._prewarmer.reader.held() if self._prewarmer else contextlib.nullcontext():
                outcome = await self._try_to_load(command)
            end = _END[type(outcome)]
            return outcome
        finally:
            ledger.load_ended(command.model, end, asyncio.get_running_loop().time())

    async def _try_to_load(self, command: Load) -> Loaded | LoadFailed | Interrupted:
        try:
            facts = await self._registry.facts(command.name, strict=True)
            if facts is not None and facts.key != command.model:
                # Whatever has that name now, nobody has made room for it.
                text = f"{command.name} means another model since it was asked for; ask again"
                return LoadFailed(status=HTTPStatus.SERVICE_UNAVAILABLE, text=text)
            loaded = await self._load_and_see(command)
        except UpstreamRefusedError as error:
            told = error.status in ERROR_STATUSES
            status = error.status if told else HTTPStatus.INTERNAL_SERVER_ERROR
            oom = mishaps.out_of_memory(error.text.encode())
            if oom:
                await self._note_oom(command)
            return LoadFailed(status=status, text=error.text, oom=oom)
        except UpstreamGoneError:
            self._registry.ledger.silent()
            return Interrupted()
        if loaded is None:
            text = f"{command.name} was loaded, but is not listed by /api/ps"
            return LoadFailed(status=500, text=text)
        return loaded

    async def _load_and_see(self, command: Load) -> Loaded | None:
        """Load until it is listed: Ollama drops every model when one runs out of memory."""
        for _ in range(LOADED):
            await self._load(command.name, command.launch, FOREVER)
            # There is but one runner of a model: by this name it is reached.
            self._registry.take_back(command.model)
            for resident in await self._registry.residents():
                if resident.model == command.model:
                    return Loaded(
                        footprint_bytes=resident.footprint_bytes,
                        reported_bytes=resident.reported_bytes,
                        size_bytes=resident.size_bytes,
                        num_ctx=resident.num_ctx,
                    )
            self._registry.ledger.unlisted(command.model, command.name)
        return None

    async def _note_oom(self, command: Load) -> None:
        # If it is gone by now as well, nobody will need to know.
        with contextlib.suppress(UpstreamError):
            await self._registry.ran_out(command.name, command.launch, command.bin)

    async def unload(self, command: Unload) -> bool:
        """Ask a model to go until it is no longer listed; false if the upstream went instead.

        One that does not go has no name any more: it was deleted, or its name given to another
        model, behind the gate's back. It serves nobody, so Ollama can evict it by itself.
        """
        ledger, gone = self._registry.ledger, False
        ledger.unload_began(command.model, command.name)
        try:
            gone = await self._seen_off(command)
        except UpstreamError:
            ledger.silent()
            return False
        finally:
            now = asyncio.get_running_loop().time()
            ledger.unload_ended(command.model, now, confirmed=gone)
        if not gone:
            _engine.warning("not unloaded; its memory is somebody else's now", model=command.name)
            self._registry.give_up(command.model)
        return True

    async def _seen_off(self, command: Unload) -> bool:
        for _ in range(ASKED):
            await self._ask_to_go(command.name, command.model)
            if await self._seen_gone(command.model):
                return True
        return False

    async def _ask_to_go(self, name: str, model: ModelKey) -> None:
        """Ask by its name or, where that means nothing any more, by another that reaches it."""
        for each in dict.fromkeys((name, *self._registry.names_of(model))):
            try:
                await self._ollama.unload(each)
            except UpstreamRefusedError as error:
                _engine.warning("unload refused", model=each, reason=error.text)
            else:
                return

    async def _seen_gone(self, model: ModelKey) -> bool:
        loop = asyncio.get_running_loop()
        began, limit_s, pause_s = loop.time(), ASK_AGAIN_S, LOOK_FIRST_S
        while loop.time() < began + limit_s:
            await asyncio.sleep(pause_s)
            residents = await self._registry.residents()
            if all(resident.model != model for resident in residents):
                return True
            # They may all be on their way out, and one goes after the other.
            limit_s = ASK_AGAIN_S * len(residents)
            pause_s = min(pause_s * 2, LOOK_LAST_S)
        return False

    async def prewarm(self, command: Prewarm) -> None:
        """Read a model's files ahead, where that can help; nothing depends on it."""
        if self._prewarmer is None:
            return
        # What cannot be asked about cannot be loaded either, and that is said then.
        with contextlib.suppress(UpstreamError):
            facts = await self._registry.facts(command.name)
            if facts is not None and facts.key == command.model:
                await self._prewarmer.warm(facts)

    async def residents(self) -> tuple[Resident, ...]:
        """What is resident now; raises `UpstreamError` when there is no answer."""
        return await self._registry.residents()

    async def let_expire(self, name: str, launch: Launch) -> None:
        """Leave a model to Ollama's own timer again, with the limit that is configured."""
        if not math.isinf(self._keep_alive_s):
            await self._load(name, launch, f"{self._keep_alive_s:.0f}s")

    async def _load(self, name: str, launch: Launch, keep_alive: str) -> None:
        facts = await self._registry.facts(name)
        # What can only embed is refused by `/api/generate`.
        embedding = facts is not None and "completion" not in facts.capabilities and facts.pooling
        await self._ollama.load(name, launch, embedding=embedding, keep_alive=keep_alive)
