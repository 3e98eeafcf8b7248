"""All that was seen of one upstream, and the notes that are kept of it.

Fits `gate.Witness`.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_gate import log
from ollama_gate.experience import spelling
from ollama_gate.experience.times import Times
from ollama_gate.footprint import Book, Facts, Overhead, Settings, Shown
from ollama_gate.footprint import Resident as Line
from ollama_gate.scheduler.types import Bin, BinId, Launch, ModelKey
from ollama_gate.store import Keeper, Note, NoteId

ABSENT_S: Final = 30 * 86_400.0
"""How long a model may be gone from the disk before what is known of it is forgotten."""

DAY_S: Final = 86_400.0
"""How often it is noted that a model is still there."""

FOOTPRINT: Final = "footprint"
TIMES: Final = "times"
OVERHEAD: Final = "overhead"
PRESENCE: Final = "presence"

_registry = log.get(log.Component.REGISTRY)


@dataclass(slots=True)
class _Presence:
    digests: set[str]
    seen_at: float
    deleted: bool = False


class Experience:
    """Of one upstream.

    Args:
        upstream: what tells it from others, in this life and the next: its address.
        keeper: where notes are kept; `None` for this life only.
        clock: the calendar's, in seconds.
    """

    def __init__(
        self,
        upstream: str,
        keeper: Keeper | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.book = Book()
        self._upstream = upstream
        self._keeper = keeper
        self._clock = clock
        self._times: dict[ModelKey, Times] = {}
        self._overheads: dict[str, Overhead] = {}
        self._cards: dict[BinId, str] = {}
        self._presences: dict[ModelKey, _Presence] = {}
        self._launches: dict[tuple[BinId, ModelKey], Launch] = {}
        self._loading: set[tuple[BinId, ModelKey]] = set()
        self._reported: dict[BinId, dict[ModelKey, int | None]] = {}
        if keeper is not None:
            for note in keeper.notes(upstream):
                self._recall(note)

    # ---------------------------------------------------------------- what it answers

    def times(self, model: ModelKey) -> Times:
        """How long a model's loads, unloads and answers took, in this life and before."""
        return self._times.get(model, Times())

    def load_s(self, model: ModelKey) -> float | None:
        """How long a model's loads took; `None` if it was never loaded."""
        load = self.times(model).load
        return None if load is None else load.seconds

    def overhead_bytes(self, bin_id: BinId) -> int | None:
        """What a process takes of a bin's card unreported, if that was learned."""
        card = self._overheads.get(self._cards.get(bin_id, ""))
        return None if card is None else card.bytes

    # ---------------------------------------------------------------- what the pump tells

    def load_began(self, bin_id: BinId, model: ModelKey, launch: Launch, now: float) -> None:
        """A load is ordered, with these options."""
        self._launches[bin_id, model] = launch
        self._loading.add((bin_id, model))
        self._overhead(bin_id).load_began(model, now)

    def loaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """It went well."""
        self._loading.discard((bin_id, model))
        self._overhead(bin_id).load_ended(model, now)
        self._took(model, self.times(model).loaded(seconds))

    def load_failed(self, bin_id: BinId, model: ModelKey, now: float) -> None:
        """It did not, or nobody knows."""
        self._loading.discard((bin_id, model))
        self._overhead(bin_id).moved(now)

    def unload_began(self, bin_id: BinId, now: float) -> None:
        """An unload is ordered."""
        self._overhead(bin_id).moved(now)

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        """A model is listed no longer."""
        self._overhead(bin_id).moved(now)
        self._took(model, self.times(model).unloaded(seconds))

    def served(
        self,
        bin_id: BinId,  # noqa: ARG002  where it was tells nothing yet
        model: ModelKey,
        seconds: float,
    ) -> None:
        """An answer ended by itself."""
        self._took(model, self.times(model).served(seconds))

    # ---------------------------------------------------------------- what readings tell

    def measured(
        self, bin_id: BinId, device: str, used_bytes: int, ours_bytes: int | None = None
    ) -> None:
        """A reading of a bin's card.

        Args:
            bin_id: the bin.
            device: which card it is, the same in the next life.
            used_bytes: by everybody.
            ours_bytes: by Ollama's own runners, where the driver tells.
        """
        self._cards[bin_id] = device
        card = self._overhead(bin_id)
        if card.read(used_bytes, ours_bytes):
            _registry.debug("overhead", card=device, bytes=log.size(card.bytes or 0))
            value = spelling.overhead_value(card.samples, by_process=card.by_process)
            self._put(OVERHEAD, device, "", value)

    # ---------------------------------------------------------------- what the registry tells

    def saw(
        self,
        facts: Facts,
        line: Line,
        settings: Settings,
        bin_: Bin,
        *,
        size_vram_bytes: int,
        now: float,
    ) -> int:
        """A line of `/api/ps`; what to book for it.

        Args:
            facts: of its model.
            line: itself.
            settings: of the upstream.
            bin_: where it is.
            size_vram_bytes: what of it counts as being on the card.
            now: on the monotonic clock.
        """
        launch = self._launches.get((bin_.id, facts.key), Launch())
        if line.context_length is not None:
            launch = replace(launch, num_ctx=line.context_length)
        shown = Shown(
            size_bytes=line.size_bytes,
            size_vram_bytes=size_vram_bytes,
            now=now,
            at=self._clock(),
        )
        seen = self.book.see(facts, launch, settings, shown, on_cpu_bin=bin_.cpu)
        self._reported.setdefault(bin_.id, {})[facts.key] = seen.reported_bytes
        return seen.booked_bytes

    def listed(self, bin_id: BinId, now: float) -> None:
        """All lines of one answer were seen."""
        reported = self._reported.pop(bin_id, {})
        self._overhead(bin_id).listed(reported, now)
        self.book.listed()
        for runner in [runner for runner in self._launches if runner not in self._loading]:
            if runner[0] == bin_id and runner[1] not in reported:
                del self._launches[runner]
        self._keep_lessons()

    def ran_out(self, facts: Facts, launch: Launch, settings: Settings, bin_: Bin) -> None:
        """A model did not fit where it should have: it is booked with more from now on."""
        self.book.ran_out(facts, launch, settings, on_cpu_bin=bin_.cpu)
        self._keep_lessons()

    def met(self, model: ModelKey, digest: str) -> None:
        """A model is on the disk, under this manifest."""
        if not digest:
            return
        known = self._presences.get(model)
        if known is None or digest not in known.digests:
            digests = known.digests if known else set()
            self._presences[model] = _Presence({*digests, digest}, self._clock())
            self._keep_presence(model)

    def deleted(self, model: ModelKey) -> None:
        """One name of a model was deleted: if it had no other, it is gone for good."""
        known = self._presences.get(model)
        if known is not None:
            known.deleted = True

    def on_disk(self, digests: Collection[str]) -> None:
        """Every manifest that is on the disk: who lacks there for long is forgotten.

        Args:
            digests: of `/api/tags`; empty ones where Ollama is too old to say.
        """
        if "" in digests:
            return
        now = self._clock()
        for model, known in list(self._presences.items()):
            absent_s = now - known.seen_at
            if not known.digests.isdisjoint(digests):
                known.deleted = False
                if absent_s >= DAY_S:
                    known.seen_at = now
                    self._keep_presence(model)
            elif known.deleted or absent_s > ABSENT_S:
                self._forget(model)

    # ---------------------------------------------------------------- notes

    def _forget(self, model: ModelKey) -> None:
        _registry.debug("forgotten", model=model)
        self.book.forget(model)
        self._keep_lessons()
        self._times.pop(model, None)
        self._presences.pop(model, None)
        for topic in (TIMES, PRESENCE):
            self._drop(topic, model, "")

    def _overhead(self, bin_id: BinId) -> Overhead:
        return self._overheads.setdefault(self._cards.get(bin_id, bin_id), Overhead())

    def _took(self, model: ModelKey, times: Times) -> None:
        self._times[model] = times
        self._put(TIMES, model, "", spelling.times_value(times))

    def _keep_lessons(self) -> None:
        changed, self.book.changed = self.book.changed, set()
        for key, version in changed:
            lesson = self.book.lesson(key, version)
            detail = spelling.key_text(key, version)
            if lesson is None:
                self._drop(FOOTPRINT, key.model, detail)
            else:
                self._put(FOOTPRINT, key.model, detail, spelling.lesson_value(lesson))

    def _keep_presence(self, model: ModelKey) -> None:
        known = self._presences[model]
        value = spelling.presence_value(sorted(known.digests), known.seen_at)
        self._put(PRESENCE, model, "", value)

    def _put(self, topic: str, subject: str, detail: str, value: Any) -> None:
        if self._keeper is not None:
            id_ = NoteId(self._upstream, topic, subject, detail)
            self._keeper.put(Note(id=id_, value=value))

    def _drop(self, topic: str, subject: str, detail: str) -> None:
        if self._keeper is not None:
            self._keeper.drop(NoteId(self._upstream, topic, subject, detail))

    def _recall(self, note: Note) -> None:
        model = ModelKey(note.id.subject)
        match note.id.topic:
            case "footprint":
                key, lesson = (
                    spelling.read_key(model, note.id.detail),
                    spelling.read_lesson(note.value),
                )
                if key is not None and lesson is not None:
                    self.book.recall(*key, lesson)
            case "times":
                times = spelling.read_times(note.value)
                if times is not None:
                    self._times[model] = times
            case "overhead":
                overhead = spelling.read_overhead(note.value)
                if overhead is not None:
                    samples, by_process = overhead
                    self._overheads[note.id.subject] = Overhead(samples, by_process=by_process)
            case "presence":
                presence = spelling.read_presence(note.value)
                if presence is not None:
                    digests, seen_at = presence
                    self._presences[model] = _Presence(set(digests), seen_at)
            case _:
                # Of a later gate with the same schema: left as it is.
                pass
