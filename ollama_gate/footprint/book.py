"""What to book for a runner: configured, else learned, else estimated; and learning.

It keeps what was seen and computes nothing itself; how long that holds, and when to look, is
decided elsewhere.
"""

from dataclasses import replace
from typing import Final

from ollama_gate.footprint.explained import Source
from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.ollama_rules import (
    Settings,
    asks_for_part,
    context_of,
    merge,
    parallel_of,
    predicted_by_ollama,
)
from ollama_gate.footprint.sizes import estimate, unreported_bytes
from ollama_gate.scheduler.types import Launch, ModelKey, Need

PLAUSIBLE_SHARE: Final = 0.7
"""A model wholly on a card that reports less than this share of its weights was misread:
Ollama sums lines of llama-server's log, and some are missed."""
HOST_HEAVY_PREFIXES: Final = ("gemma3n", "gemma4")
"""A large part of these stays in host memory, so that their file says little."""

_BookKey = tuple[ModelKey, Launch, int, bool]


class Book:
    """What the runners of one upstream take: as configured, else as seen, else as estimated.

    Attributes:
        revision: changes whenever what it says of some runner may have changed.
    """

    def __init__(self) -> None:
        self._learned: dict[_BookKey, int] = {}
        self.revision = 0

    def need(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        *,
        configured_bytes: int | None = None,
        on_cpu_bin: bool = False,
    ) -> tuple[Need, Source]:
        """What to book for a runner before it is loaded, and where that figure is from."""
        predicted = 0 if on_cpu_bin else predicted_by_ollama(facts, launch, settings)
        footprint, source = self._footprint(facts, launch, settings, configured_bytes, on_cpu_bin)
        return Need(footprint_bytes=footprint, predicted_bytes=predicted), source

    def _footprint(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        configured_bytes: int | None,
        on_cpu_bin: bool,
    ) -> tuple[int, Source]:
        guess = estimate(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        if guess.total_bytes == 0:
            return 0, guess.source
        if configured_bytes is not None:
            return configured_bytes, "configured"
        learned = self._learned.get(_book_key(facts, launch, settings, on_cpu_bin))
        return (guess.total_bytes, guess.source) if learned is None else (learned, "learned")

    def learn(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        *,
        size_bytes: int,
        size_vram_bytes: int,
        on_cpu_bin: bool = False,
    ) -> int:
        """Take in what `/api/ps` says of a loaded runner; returns what to book for it now.

        Where the context is left to Ollama, put the `context_length` that `/api/ps` shows into
        `launch.num_ctx`: then the figure is kept under the context that it was seen with.

        A runner that Ollama put on the CPU in part is booked as it is, but nothing is learned
        from it: alone it would take more. Nor from a figure that cannot be true; then the
        estimate is booked.
        """
        guess = estimate(facts, launch, settings, on_cpu_bin=on_cpu_bin).total_bytes
        if guess == 0:
            return 0
        shown = size_bytes if on_cpu_bin else size_vram_bytes
        seen = shown + unreported_bytes(facts, settings, on_cpu_bin=on_cpu_bin)
        asked_for_part = asks_for_part(facts, merge(facts, launch))
        if not on_cpu_bin and size_vram_bytes < size_bytes and not asked_for_part:
            return seen
        if not asked_for_part and not _plausible(facts, shown):
            return max(guess, seen)
        if facts.shape is not None and any(facts.shape.local):
            # Since 0.30.0 the smaller of such a model's two caches hides the larger one.
            seen = max(seen, guess)
        key = _book_key(facts, launch, settings, on_cpu_bin)
        if self._learned.get(key) != seen:
            self._learned[key] = seen
            self.revision += 1
        return seen


def _plausible(facts: Facts, shown_bytes: int) -> bool:
    weights = facts.weights_bytes
    if weights is None:
        host_heavy = facts.architecture.startswith(HOST_HEAVY_PREFIXES)
        weights = 0 if facts.pooling or host_heavy else facts.size_bytes
    return shown_bytes > 0 and shown_bytes >= PLAUSIBLE_SHARE * weights


def _book_key(facts: Facts, launch: Launch, settings: Settings, on_cpu_bin: bool) -> _BookKey:
    """Whatever changes what a runner takes; the rest would only make it be learned again."""
    launch = replace(
        merge(facts, launch),
        num_ctx=context_of(facts, launch, settings),
        use_mmap=None,
        num_thread=None,
        shift=None,
    )
    return facts.key, launch, parallel_of(facts, settings.num_parallel), on_cpu_bin
