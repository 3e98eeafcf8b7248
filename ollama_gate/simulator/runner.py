"""One loaded model: its place in memory, its slots, and how fast it speaks.

It knows nothing of queues or evictions; the scheduler keeps its books on it (`refs`,
`session_ns`, …) as Ollama's does on a `runnerRef`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

from ollama_gate.simulator.cards import Card
from ollama_gate.simulator.catalog import Model
from ollama_gate.simulator.clock import Clock
from ollama_gate.simulator.faults import Faults
from ollama_gate.simulator.memory import Footprint
from ollama_gate.simulator.options import Launch

# Decode speed: bytes a second that pass through the processor, times how well it is used
# (an RTX 3090: 936 GB/s, 112 tokens/s for an 8B model at four bits).
_CARD_BYTES_PER_S = 0.6 * 936e9
_CPU_BYTES_PER_S = 0.6 * 60e9
_MAX_TOKENS_PER_S = 250.0  # small models are bound by launching kernels
_PREFILL_SPEEDUP = 30.0  # a prompt's tokens against an answer's
_SLOT_PENALTY = 0.1  # r(n) = r(1) / (1 + 0.1 (n - 1)) on cards of this class

_OUT_OF_MEMORY = "CUDA error: out of memory"
_FAILED = "an error was encountered while running the model: "
_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, check ollama server logs for details"
)


class RunnerDiedError(Exception):
    """The process is gone; the text is what Ollama tells the request that was running."""


class RunnerGoneError(RunnerDiedError):
    """The process was gone before the request got its slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a runner's bytes are, and what Ollama believes of it.

    Attributes:
        held: the cards it was given, with the bytes of weights, cache and buffers on each.
        overhead_bytes: what its process takes of each card in use besides.
        encoder_bytes: what an encoder takes of the first card.
        shown: what of `held` is shown, as a share.
        free_at_load: what each of these had free when it started, by which Ollama reckons later.
    """

    footprint: Footprint
    held: tuple[tuple[Card, int], ...] = ()
    overhead_bytes: int = 0
    encoder_bytes: int = 0
    shown: float = 1.0
    free_at_load: tuple[int, ...] = ()

    @property
    def cards(self) -> tuple[tuple[Card, int], ...]:
        """The cards it was given, with the bytes it shows in `size_vram` on each."""
        return tuple((card, round(size * self.shown)) for card, size in self.held)

    @property
    def vram_bytes(self) -> int:
        """`size_vram` of `/api/ps`."""
        return sum(size for _, size in self.cards)

    @property
    def total_bytes(self) -> int:
        """`size` of `/api/ps`."""
        if self.cpu_share == 0:
            return self.vram_bytes
        return round(self.footprint.total_bytes * self.shown)

    @property
    def cpu_share(self) -> float:
        """How much of it is not on a card."""
        return 1 - sum(size for _, size in self.held) / self.footprint.total_bytes

    def reckoned_free(self, card: Card) -> int | None:
        """What Ollama believes `card` has free, from this runner's books; not a live reading."""
        for (held, size), free in zip(self.cards, self.free_at_load, strict=True):
            if held is card:
                return max(0, min(card.total_bytes - size, free - size))
        return None


@dataclass(eq=False, repr=False, slots=True, kw_only=True)
class Runner:
    """A process and Ollama's notes about it.

    Attributes:
        refs: requests that hold it, waiting for a slot or running.
        session_ns: how long it may idle.
        expires_at_s: when it goes by the simulation's clock; `None` while that was never set.
        noticed: to be called when an answer begins.
        died: set when the process is gone.
    """

    model: Model
    launch: Launch
    placement: Placement
    parallel: int
    clock: Clock
    faults: Faults
    neighbours: Callable[["Runner"], int]
    noticed: Callable[[], None]
    session_ns: int
    refs: int = 0
    expires_at_s: float | None = None
    timer: asyncio.TimerHandle | None = None
    died: asyncio.Event = field(default_factory=asyncio.Event)
    death_text: str = ""
    running: int = 0
    slots: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.parallel)

    @property
    def key(self) -> str:
        """What Ollama's scheduler knows it by."""
        return self.model.blob_path

    def occupy(self, share: float = 1.0) -> None:
        """Have so much of the memory that it will take in all, whether it is there or not."""
        for card, size in self._wanted(share):
            card.hold(self, size)

    def grow(self) -> bool:
        """Take the rest of it; false where that is not there, and then nothing is taken."""
        wanted = list(self._wanted(1.0))
        if any(size - card.held_bytes.get(self, 0) > card.free_bytes for card, size in wanted):
            return False
        self.occupy()
        return True

    def _wanted(self, share: float) -> Iterator[tuple[Card, int]]:
        encoder_bytes = self.placement.encoder_bytes
        for card, size in self.placement.held:
            unseen = self.placement.overhead_bytes if size else 0
            yield card, round(share * size) + unseen + encoder_bytes
            encoder_bytes = 0

    @property
    def is_offloaded(self) -> bool:
        """Whether it was meant for cards and is at least partly on the CPU all the same."""
        return bool(self.placement.held) and self.launch.num_gpu < 0 < self.placement.cpu_share

    @property
    def lacks_memory(self) -> bool:
        """Whether one of its cards has been taken more of than there is."""
        return any(size and card.missing_bytes for card, size in self.placement.held)

    def vacate(self) -> None:
        """Give it back."""
        for card, _ in self.placement.held:
            card.release(self)

    def die(self, text: str, saying: str = _FAILED) -> None:
        """End the process where it stands, and with it every answer it was giving."""
        self.death_text = saying + text
        self.vacate()
        self.died.set()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for one of the runner's slots, first come, first served, without limit.

        Raises:
            RunnerGoneError: if the process ended meanwhile.
        """
        async with self.slots:
            if self.died.is_set():
                raise RunnerGoneError("llama-server process no longer running: unknown ")
            self.running += 1
            self.noticed()
            try:
                yield
            finally:
                self.running -= 1

    async def read_prompt(self, tokens: int) -> None:
        """Let the time pass that a prompt takes.

        Raises:
            RunnerDiedError: if the process ends meanwhile.
        """
        if (text := self.faults.prompt_passes(self.model.name)) is not None:
            self.die(text, f"{_STOPPED}: " if text else _STOPPED)
        elif self.lacks_memory:
            self.die(_OUT_OF_MEMORY, f"{_STOPPED}: ")
        await self._pass(tokens / (self.tokens_per_s() * _PREFILL_SPEEDUP))

    async def speak(self, tokens: int) -> AsyncIterator[int]:
        """Count up to `tokens`, each in its time; the rate follows what else is running.

        Raises:
            RunnerDiedError: if the process ends meanwhile.
        """
        due_s = self.clock.now()
        for index in range(tokens):
            if (text := self.faults.chunk_passes(self.model.name)) is not None:
                self.die(text)
            elif self.lacks_memory:
                self.die(_OUT_OF_MEMORY)
            due_s = max(due_s, self.clock.now() - 1) + 1 / self.tokens_per_s()
            await self._pass(due_s - self.clock.now())
            yield index

    def tokens_per_s(self) -> float:
        """Speed of one answer, given how many others this runner and its card give."""
        size = self.placement.footprint.total_bytes
        on_card = size * (1 - self.placement.cpu_share) / _CARD_BYTES_PER_S
        on_cpu = size * self.placement.cpu_share / _CPU_BYTES_PER_S
        alone = min(_MAX_TOKENS_PER_S, 1 / (on_card + on_cpu))
        crowd = 1 + _SLOT_PENALTY * max(0, self.running - 1)
        return alone / crowd / self.neighbours(self)

    async def _pass(self, seconds: float) -> None:
        standstill = self.faults.standstill(self.model.name)
        if standstill is not None:
            await self._until(standstill)
        if seconds > 0:
            await self.clock.sleep(seconds)
        if self.died.is_set():
            raise RunnerDiedError(self.death_text)

    async def _until(self, event: asyncio.Event) -> None:
        """Wait for `event` or for the process's end."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.died.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
