"""What was seen of runners, and what that says of those that were not.

Kept is what `/api/ps` showed, by context. All else is derived when it is asked for: what a runner
takes whatever its context is what was seen less the cache and the buffers that go with the context
it was seen with; with another context it takes that and the cache and buffers of the other. Time
is an argument, and what is believed of a figure is decided in `plausible`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from ollama_gate.footprint.explained import Estimate
from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.ollama_rules import Settings, merge, parallel_of
from ollama_gate.scheduler.types import Launch, ModelKey

SLOWLY: Final = 0.2
"""How far a figure comes down towards a lower one, once it does."""
LOWER_BEFORE: Final = 3
"""A figure comes down at the so many-th lower one in a row: for one set-up memory is
deterministic, so that a single lower one was misread, and a lasting change is another build."""

BUMP_PERCENT: Final = 5
MOST_BUMP_PERCENT: Final = 25
"""What is added after a runner did not fit where it should have, and how much at the most."""
CLEAN_BEFORE: Final = 3
"""After so many loads in a row that fitted, a bump is taken back."""

KEPT_CONTEXTS: Final = 32
"""Of how many contexts figures are kept for one set-up, the last that were seen."""

PLAUSIBLE_SHARE: Final = 0.7
"""A model wholly on a card that reports less than this share of its weights was misread:
Ollama sums lines of llama-server's log, and some are missed."""
HOST_HEAVY_PREFIXES: Final = ("gemma3n", "gemma4")
"""A large part of these stays in host memory, so that their file says little."""

Version = tuple[int, ...]

HIDES_A_CACHE_SINCE: Final[Version] = (0, 30)
"""From here on the smaller of a sliding-window model's two caches hides the larger one in
`size_vram` (v0.32.15 `llm/llama_server.go`); no release without that is known."""
ERAS: Final[tuple[Version, ...]] = ((0, 30), (0, 12, 11))
"""Where the meaning of `size_vram` changed: llama-server's log, allocations, an estimate."""
REMEMBERS_FREE_SINCE: Final[Version] = (0, 30)
"""From here on Ollama remembers what a card had free when a runner was loaded; v0.24.0 asks its
runners what is free now (`GetDeviceInfos` of `llm/server.go`, `llm/llama_server.go`)."""
_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What decides a runner's memory besides its context and Ollama's version.

    Attributes:
        launch: without what changes nothing, and without the context.
    """

    model: ModelKey
    launch: Launch
    kv_cache_type: str
    parallel: int
    on_cpu_bin: bool

    @classmethod
    def of(cls, facts: Facts, launch: Launch, settings: Settings, *, on_cpu_bin: bool) -> "Key":
        """The key of a runner; options that amount to the same give the same."""
        launch = merge(facts, launch)
        return cls(
            model=facts.key,
            launch=replace(
                launch,
                num_ctx=None,
                num_gpu=None if on_cpu_bin else _layers(facts, launch),
                use_mmap=None,
                num_thread=None,
                shift=None,
            ),
            kv_cache_type=settings.kv_cache_type,
            parallel=parallel_of(facts, settings.num_parallel),
            on_cpu_bin=on_cpu_bin,
        )


def _layers(facts: Facts, launch: Launch) -> int | None:
    """`num_gpu` where it is not another word for all layers."""
    layers = launch.num_gpu
    if layers is None or layers < 0:
        return None
    return None if facts.shape is not None and layers > len(facts.shape.kv_heads) else layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One quantity, seen again and again: up at once, down slowly.

    Attributes:
        lower: how many lower ones came in a row.
        count: how often it was seen.
    """

    bytes: int
    lower: int = 0
    count: int = 1

    def saw(self, seen_bytes: int) -> "Figure":
        """With one more."""
        if seen_bytes >= self.bytes:
            return Figure(bytes=seen_bytes, count=self.count + 1)
        lower, now = self.lower + 1, self.bytes
        if lower >= LOWER_BEFORE:
            now -= round(SLOWLY * (self.bytes - seen_bytes)) or 1
        return Figure(bytes=now, lower=lower, count=self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is known of one key under one version of Ollama.

    Attributes:
        figures: by context, what `/api/ps` showed of it: `size_vram`, in main memory `size`.
        unfit: contexts with which it did not fit its card.
        bump_percent: added after it did not fit where it should have.
        clean: how often in a row it has fitted since.
        seen_at: when it was last seen, in seconds of the calendar's clock.
    """

    figures: Mapping[int, Figure] = field(default_factory=lambda: MappingProxyType({}))
    unfit: frozenset[int] = frozenset()
    bump_percent: int = 0
    clean: int = 0
    seen_at: float = 0.0

    def saw(self, context: int, seen_bytes: int, at: float) -> "Lesson":
        """With one more figure of a runner that is wholly where it belongs."""
        before = self.figures.get(context)
        figure = before.saw(seen_bytes) if before else Figure(bytes=seen_bytes)
        bump, clean = self.bump_percent, self.clean + 1
        if bump and clean >= CLEAN_BEFORE:
            bump, clean = max(0, bump - BUMP_PERCENT), 0
        others = [(key, kept) for key, kept in self.figures.items() if key != context]
        return Lesson(
            figures=dict([*others[1 - KEPT_CONTEXTS :], (context, figure)]),
            unfit=self.unfit - {context},
            bump_percent=bump,
            clean=clean if bump else 0,
            seen_at=at,
        )

    def did_not_fit(self, context: int, at: float) -> "Lesson":
        """With the knowledge that a card was too small for it."""
        return replace(self, unfit=self.unfit | {context}, seen_at=at)

    def bumped(self) -> "Lesson":
        """With more than before: it did not fit where it should have."""
        more = min(MOST_BUMP_PERCENT, self.bump_percent + BUMP_PERCENT)
        return replace(self, bump_percent=more, clean=0)

    def with_bump(self, amount_bytes: int) -> int:
        """An amount and what is added to it."""
        return amount_bytes + amount_bytes * self.bump_percent // 100


def predict(
    lesson: Lesson, wanted: Estimate, estimated: Callable[[int], Estimate], least_base_bytes: int
) -> int | None:
    """What `/api/ps` will show of a runner, from what it showed; `None` if it showed nothing.

    A figure that was seen with the same context stands for itself. Otherwise the one of the
    nearest context does, less its cache and buffers and with those of the other.

    Args:
        lesson: what was seen.
        wanted: the estimate of the runner.
        estimated: the estimate of the same runner with another context.
        least_base_bytes: what it takes at least, whatever its context. Where a cache is
            estimated too large, a large context's figure would leave too little for a small one.
    """
    figures, context = lesson.figures, wanted.num_ctx
    if not figures:
        return None
    exact = figures.get(context)
    if exact is not None:
        return exact.bytes
    nearest = min(figures, key=lambda other: (abs(other - context), other))
    there = estimated(nearest)
    base = figures[nearest].bytes - _varying(there)
    if nearest < context:
        return max(figures[nearest].bytes, base + _varying(wanted))
    guess = max(base, least_base_bytes) + _varying(wanted)
    # More than was seen with more context only where it computes more at once.
    return min(guess, figures[nearest].bytes) if wanted.batch <= there.batch else guess


def _varying(estimate: Estimate) -> int:
    return estimate.kv_bytes + estimate.compute_bytes


# ---------------------------------------------------------------- what is believed


def least_base_bytes(facts: Facts, *, on_cpu_bin: bool) -> int:
    """What a runner of a model shows at least: less was misread. 0 where nobody can say."""
    weights = facts.tensors_bytes if on_cpu_bin else facts.weights_bytes
    if weights is None:
        host_heavy = facts.architecture.startswith(HOST_HEAVY_PREFIXES)
        weights = 0 if facts.pooling or host_heavy else facts.size_bytes
    return int(PLAUSIBLE_SHARE * weights)


def plausible(facts: Facts, *, size_bytes: int, size_vram_bytes: int, on_cpu_bin: bool) -> bool:
    """Whether a line of `/api/ps` of a runner that is wholly in one place can be true."""
    shown = size_bytes if on_cpu_bin else size_vram_bytes
    least = least_base_bytes(facts, on_cpu_bin=on_cpu_bin)
    return 0 < shown <= size_bytes and shown >= least


def hides_a_cache(facts: Facts, version: str) -> bool:
    """Whether Ollama shows too little of a model, for a part of its layers slides."""
    slides = facts.shape is not None and any(facts.shape.local)
    return slides and (_read(version) or HIDES_A_CACHE_SINCE) >= HIDES_A_CACHE_SINCE


def era(version: str) -> int:
    """Which of several meanings `size_vram` has: only figures of one era can be compared.

    An unknown version, or a build of somebody's own (0.0.0), counts as of the newest.
    """
    read = _read(version)
    return 0 if read is None else sum(read < begins for begins in ERAS)


def remembers_free(version: str) -> bool:
    """Whether that Ollama plans with what was free when its runners were loaded.

    An unknown version, or a build of somebody's own (0.0.0), counts as of the newest.
    """
    return (_read(version) or REMEMBERS_FREE_SINCE) >= REMEMBERS_FREE_SINCE


def _read(version: str) -> Version | None:
    found = _VERSION.match(version)
    numbers = tuple(int(part or 0) for part in found.groups()) if found else ()
    return numbers if any(numbers) else None
