"""What to book for a runner: configured, else learned, else estimated; and learning.

It keeps what was seen of the runners of one upstream and asks nobody. What a figure means is
worked out in `learning`, when it counts in `sightings`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ollama_gate.footprint.explained import Estimate, Source
from ollama_gate.footprint.facts import Facts
from ollama_gate.footprint.learning import (
    Key,
    Lesson,
    era,
    hides_a_cache,
    least_base_bytes,
    plausible,
    predict,
)
from ollama_gate.footprint.ollama_rules import (
    Settings,
    asks_for_part,
    context_of,
    merge,
    predicted_by_ollama,
)
from ollama_gate.footprint.sightings import Sightings
from ollama_gate.footprint.sizes import estimate, unreported_bytes
from ollama_gate.scheduler.types import Launch, ModelKey, Need

KEPT_VERSIONS: Final = 4
"""Of how many of Ollama's versions figures are kept for one set-up."""

_NOTHING: Final = Lesson()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A line of `/api/ps`, and when it was read.

    Attributes:
        size_vram_bytes: on a card; not looked at in main memory.
        now: on the monotonic clock.
        at: on the calendar's.
    """

    size_bytes: int
    size_vram_bytes: int
    now: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What to make of a line of `/api/ps`.

    Attributes:
        booked_bytes: what to book for the runner.
        reported_bytes: what Ollama reports of it, where that is all that there is to report, so
            that the rest of what it takes is its process's.
    """

    booked_bytes: int
    reported_bytes: int | None = None


class Book:
    """What the runners of one upstream take: as configured, else as seen, else as estimated.

    Attributes:
        revision: changes whenever what it says of some runner may have changed.
        changed: the lessons that were learned or changed since somebody last emptied this.
    """

    def __init__(self) -> None:
        self._lessons: dict[Key, dict[str, Lesson]] = {}
        self._sightings = Sightings()
        self._listing: set[tuple[Key, int]] = set()
        self.revision = 0
        self.changed: set[tuple[Key, str]] = set()

    # ---------------------------------------------------------------- what it says

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
        key = Key.of(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        lesson, comparable = self._lesson(key, settings.version)
        shown = _predicted(lesson, facts, launch, settings, guess, on_cpu_bin=on_cpu_bin)
        if shown is None:
            return lesson.with_bump(guess.total_bytes), guess.source
        unreported = unreported_bytes(facts, settings, on_cpu_bin=on_cpu_bin)
        if not comparable:
            # Of another era's figure no more is taken than the estimate leaves open.
            least = guess.total_bytes - guess.error_bytes
            most = guess.total_bytes + guess.error_bytes
            return min(max(shown + unreported, least), most), guess.source
        return lesson.with_bump(shown) + unreported, "learned"

    def _lesson(self, key: Key, version: str) -> tuple[Lesson, bool]:
        """What is known of a key, and whether its figures mean what today's do.

        The figures of this version, else the latest of its era, else the latest of all.
        """
        versions = self._lessons.get(key, {})
        own = versions.get(version, _NOTHING)
        if own.figures:
            return own, True
        same = era(version)
        ranked = [
            (era(other) == same, lesson.seen_at, other)
            for other, lesson in versions.items()
            if lesson.figures
        ]
        if not ranked:
            return own, True
        comparable, _, latest = max(ranked)
        found = versions[latest]
        bump = max(own.bump_percent, found.bump_percent if comparable else 0)
        return replace(found, bump_percent=bump), comparable

    # ---------------------------------------------------------------- what it is told

    def see(
        self,
        facts: Facts,
        launch: Launch,
        settings: Settings,
        shown: Shown,
        *,
        on_cpu_bin: bool = False,
    ) -> Seen:
        """Take in what `/api/ps` says of a loaded runner, and say what to book for it now.

        Where the context is left to Ollama, put the `context_length` that `/api/ps` shows into
        `launch.num_ctx`: then the figure is kept under the context that it was seen with.

        A runner that Ollama put on the CPU in part is booked as it is, but nothing is learned
        from its figure: alone it would take more. Nor from a figure that cannot be true; then the
        estimate is booked.
        """
        guess = estimate(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        if guess.total_bytes == 0:
            return Seen(booked_bytes=0)
        size_bytes = shown.size_bytes if on_cpu_bin else shown.size_vram_bytes
        unreported = unreported_bytes(facts, settings, on_cpu_bin=on_cpu_bin)
        part = asks_for_part(facts, merge(facts, launch))
        whole = on_cpu_bin or part or shown.size_vram_bytes >= shown.size_bytes
        believed = part or plausible(
            facts,
            size_bytes=shown.size_bytes,
            size_vram_bytes=shown.size_vram_bytes,
            on_cpu_bin=on_cpu_bin,
        )
        key = Key.of(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        runner = key, context_of(facts, launch, settings)
        self._listing.add(runner)
        counts = self._sightings.confirm(runner, (shown.size_bytes, size_bytes), shown.now)
        if not whole:
            # What is larger than the card was not expected to fit.
            total = settings.total_bytes
            if counts:
                expected = total is None or guess.total_bytes <= total
                self._did_not_fit(runner, settings.version, shown.at, bump=expected)
            return Seen(booked_bytes=size_bytes + unreported)
        if not believed:
            return Seen(booked_bytes=max(guess.total_bytes, size_bytes + unreported))
        if counts:
            self._learn(runner, settings.version, size_bytes, shown.at)
        if hides_a_cache(facts, settings.version):
            return Seen(booked_bytes=max(size_bytes, guess.size_vram_bytes) + unreported)
        alone = part or facts.projector_bytes or key.launch.extras
        return Seen(
            booked_bytes=size_bytes + unreported, reported_bytes=None if alone else size_bytes
        )

    def listed(self) -> None:
        """Every runner that is there has been seen: whoever was not is gone."""
        self._sightings.keep(self._listing)
        self._listing = set()

    def ran_out(
        self, facts: Facts, launch: Launch, settings: Settings, *, on_cpu_bin: bool = False
    ) -> None:
        """A runner did not fit where it should have: from now on it is booked with more."""
        key = Key.of(facts, launch, settings, on_cpu_bin=on_cpu_bin)
        self._put(key, settings.version, self._started(key, settings.version).bumped())

    def forget(self, model: ModelKey) -> None:
        """A model is gone for good."""
        for key in [key for key in self._lessons if key.model == model]:
            self.changed |= {(key, version) for version in self._lessons.pop(key)}
            self.revision += 1

    # ---------------------------------------------------------------- kept from life to life

    def lesson(self, key: Key, version: str) -> Lesson | None:
        """What is known of a key under exactly this version."""
        return self._lessons.get(key, {}).get(version)

    def recall(self, key: Key, version: str, lesson: Lesson) -> None:
        """Take in what was known in an earlier life."""
        self._lessons.setdefault(key, {})[version] = lesson
        self.revision += 1

    def models(self) -> Iterator[ModelKey]:
        """Of which models something is known; one may come more than once."""
        return (key.model for key in self._lessons)

    def _learn(self, runner: tuple[Key, int], version: str, size_bytes: int, at: float) -> None:
        key, context = runner
        self._put(key, version, self._started(key, version).saw(context, size_bytes, at))

    def _did_not_fit(self, runner: tuple[Key, int], version: str, at: float, *, bump: bool) -> None:
        key, context = runner
        lesson = self._started(key, version).did_not_fit(context, at)
        self._put(key, version, lesson.bumped() if bump else lesson)

    def _started(self, key: Key, version: str) -> Lesson:
        """What is known of a key under this version; a new one starts with its era's bump."""
        known = self.lesson(key, version)
        if known is not None:
            return known
        before, comparable = self._lesson(key, version)
        return replace(_NOTHING, bump_percent=before.bump_percent if comparable else 0)

    def _put(self, key: Key, version: str, lesson: Lesson) -> None:
        versions = self._lessons.setdefault(key, {})
        versions[version] = lesson
        self.changed.add((key, version))
        if len(versions) > KEPT_VERSIONS:
            oldest = min(versions, key=lambda other: (other == version, versions[other].seen_at))
            del versions[oldest]
            self.changed.add((key, oldest))
        self.revision += 1


def _predicted(
    lesson: Lesson,
    facts: Facts,
    launch: Launch,
    settings: Settings,
    guess: Estimate,
    *,
    on_cpu_bin: bool,
) -> int | None:
    """What Ollama would show of a runner, going by what it showed; `None` if that says nothing."""

    def estimated(context: int) -> Estimate:
        other = replace(launch, num_ctx=context)
        return estimate(facts, other, settings, on_cpu_bin=on_cpu_bin)

    if asks_for_part(facts, merge(facts, launch)):
        # How much of what varies went to the card nobody can tell.
        figure = lesson.figures.get(guess.num_ctx)
        return None if figure is None else figure.bytes
    least = least_base_bytes(facts, on_cpu_bin=on_cpu_bin)
    shown = predict(lesson, guess, estimated, least)
    if shown is None or not hides_a_cache(facts, settings.version):
        return shown
    return max(shown, guess.size_vram_bytes)
