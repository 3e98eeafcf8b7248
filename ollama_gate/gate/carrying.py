"""Loads and unloads carried out on one upstream, each with an end that is told.

One without an end would block its bin for ever, so whatever goes wrong is told as an end, too.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from ollama_gate import log
from ollama_gate.errors import UpstreamError
from ollama_gate.gate.roles import Engine, Recorder, Witness
from ollama_gate.gate.tasks import failed
from ollama_gate.gate.watching import Watch
from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Load, Prewarm, Unload
from ollama_gate.scheduler.types import BinId, ModelKey, RunnerView

LoadOutcome = ev.Loaded | ev.LoadFailed | ev.Interrupted

_engine = log.get(log.Component.ENGINE)


class Hands:
    """Does what is commanded of one upstream.

    Args:
        engine: itself.
        watch: over it.
        witness: told how long things took, if anybody is.
        recorder: told of loads and unloads that are over, if anybody is.
        tell: takes in an event.
    """

    def __init__(
        self,
        engine: Engine,
        watch: Watch,
        *,
        witness: Witness | None,
        recorder: Recorder | None,
        tell: Callable[[ev.Event], None],
    ) -> None:
        self.watch = watch
        self.witness = witness
        self._recorder = recorder
        self._engine = engine
        self._tell = tell
        self._ours: set[tuple[BinId, ModelKey]] = set()

    async def load(self, command: Load) -> None:
        """Load, and tell how it ended."""
        began = asyncio.get_running_loop().time()
        if self.witness is not None:
            self.witness.load_began(command.bin, command.model, command.launch, began)
        outcome = await self._outcome(command)
        now = asyncio.get_running_loop().time()
        if self.witness is not None:
            if isinstance(outcome, ev.Loaded):
                self.witness.loaded(command.bin, command.model, now - began, now)
            else:
                self.witness.load_failed(command.bin, command.model, now)
        if self._recorder is not None:
            ok = isinstance(outcome, ev.Loaded)
            self._recorder.load_over(command.bin, command.model, now - began, now, ok=ok)
        self._note(command, outcome, now - began)
        self._tell(ev.LoadEnded(bin=command.bin, model=command.model, outcome=outcome))
        if isinstance(outcome, ev.LoadFailed) and outcome.oom:
            # Ollama has evicted everything else: nothing goes on before it has been asked.
            self.watch.nudge()

    async def prewarm(self, command: Prewarm) -> None:
        """Read ahead; nobody waits for the end of it."""
        await self._engine.prewarm(command)

    async def _outcome(self, command: Load) -> LoadOutcome:
        interrupted: LoadOutcome = ev.Interrupted()
        try:
            return await self.watch.unless_it_restarts(self._engine.load(command), interrupted)
        except Exception as error:  # noqa: BLE001  see above
            failed(error)
            return ev.LoadFailed(status=500, text=f"the gate could not load it: {error!r}")

    def _note(self, command: Load, outcome: LoadOutcome, took_s: float) -> None:
        match outcome:
            case ev.Loaded():
                taken = outcome.footprint_bytes or command.footprint_bytes
                _engine.info(
                    "loaded",
                    model=command.name,
                    bin=command.bin,
                    s=took_s,
                    footprint=log.size(taken),
                )
                self._ours.add((command.bin, command.model))
            case ev.LoadFailed():
                _engine.error(
                    "load failed",
                    model=command.name,
                    bin=command.bin,
                    s=took_s,
                    reason=outcome.text,
                    out_of_memory=outcome.oom,
                )
            case ev.Interrupted():
                _engine.warning("load interrupted", model=command.name, bin=command.bin, s=took_s)
                self.watch.lost("it stopped answering during a load")
            case _:
                assert_never(outcome)

    async def unload(self, command: Unload) -> None:
        """Unload, and tell how it ended."""
        began = asyncio.get_running_loop().time()
        if self.witness is not None:
            self.witness.unload_began(command.bin, began)
        try:
            gone = await self.watch.unless_it_restarts(self._engine.unload(command), False)
        except Exception as error:  # noqa: BLE001  see above
            failed(error)
            gone = False
        what = "unloaded" if gone else "unload not seen"
        _engine.info(what, model=command.name, bin=command.bin)
        now = asyncio.get_running_loop().time()
        if not gone:
            self.watch.lost("it stopped answering during an unload")
        for told in (self.witness, self._recorder) if gone else ():
            if told is not None:
                told.unloaded(command.bin, command.model, now - began, now)
        self._tell(ev.UnloadEnded(bin=command.bin, model=command.model, gone=gone))

    async def hand_back(self, residents: Sequence[RunnerView]) -> None:
        """Leave to Ollama's own timers what of this was loaded here, if Ollama answers."""
        if self.watch.answers:
            ours = [each for each in residents if (each.bin, each.model) in self._ours]
            await asyncio.gather(*(self._let_expire(runner) for runner in ours))

    async def _let_expire(self, runner: RunnerView) -> None:
        try:
            await self._engine.let_expire(runner.name, runner.launch)
        except UpstreamError as error:
            _engine.warning("not handed back", model=runner.name, reason=str(error))
