"""What a process takes of a card beyond what Ollama reports, learned from the driver's figures.

Between two readings, one before a load and one after it, lies what the load took; less what
Ollama reports of it, that is the overhead, if nothing else moved. It is the same for every model
of a card, so that it tells of those that were never loaded. Where the driver tells what each
process uses, that is better: somebody else's memory has no part in it.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ollama_gate.footprint.ollama_rules import MIB
from ollama_gate.footprint.sizes import PROCESS_BYTES
from ollama_gate.scheduler.types import ModelKey

LEAST_BYTES: Final = 100 * MIB
MOST_BYTES: Final = 1500 * MIB
"""No process was reported to take less, or more; what lies beyond is somebody else's."""

NOISE_BYTES: Final = 16 * MIB
"""Two readings that differ by less are equal: a desktop's windows come and go."""

QUIET_S: Final = 10.0
"""How long nothing may have moved before a load: memory comes back late."""

SAMPLES: Final = 7
"""How many of the last are kept; the middle one counts, so that one that is wrong does no harm."""
ENOUGH: Final = 3
"""Until there are so many, the default counts as one of them."""


@dataclass(slots=True)
class _Trial:
    """One load that may tell something."""

    model: ModelKey
    used_before_bytes: int
    beside: frozenset[ModelKey]
    loaded: bool = False
    reported_bytes: int | None = None


class Overhead:
    """Of one card.

    Args:
        samples: what was learned before.
        by_process: whether those were told for each process.
    """

    def __init__(self, samples: Sequence[int] = (), *, by_process: bool = False) -> None:
        self.samples = tuple(map(_clamped, samples))[-SAMPLES:]
        self.by_process = by_process
        self._trial: _Trial | None = None
        self._used_bytes: int | None = None
        self._steady = False
        self._moved_at: float | None = None
        self._listed: Mapping[ModelKey, int | None] = {}
        self._ours_bytes: int | None = None
        self._told = False

    @property
    def bytes(self) -> int | None:
        """What a process takes, `None` while nothing was learned."""
        if not self.samples:
            return None
        prior = () if len(self.samples) >= ENOUGH else (PROCESS_BYTES,)
        return int(statistics.median((*prior, *self.samples)))

    def load_began(self, model: ModelKey, now: float) -> None:
        """A load is ordered; whatever was under way is spoilt by it."""
        quiet = self._moved_at is None or now - self._moved_at >= QUIET_S
        self._trial = None
        if quiet and self._steady and self._used_bytes is not None and not self.by_process:
            self._trial = _Trial(model, self._used_bytes, frozenset(self._listed))
        self.moved(now, spoils=False)

    def load_ended(self, model: ModelKey, now: float) -> None:
        """A load ended well; readings count from now on."""
        if self._trial is not None and self._trial.model == model:
            self._trial.loaded = True
        self.moved(now, spoils=False)

    def moved(self, now: float, *, spoils: bool = True) -> None:
        """Memory moves otherwise: an unload, a load that failed."""
        self._moved_at, self._used_bytes, self._ours_bytes = now, None, None
        self._steady = self._told = False
        if spoils:
            self._trial = None

    def listed(self, reported: Mapping[ModelKey, int | None], now: float) -> None:
        """Take in what is resident, and what Ollama reports of each as far as that is believed."""
        changed = reported.keys() ^ self._listed.keys()
        self._listed = dict(reported)
        trial = self._trial
        if trial is None:
            if changed:
                self.moved(now)
        elif reported.keys() - {trial.model} != trial.beside:
            self.moved(now)
        elif trial.model in reported:
            trial.reported_bytes = reported[trial.model]

    def read(self, used_bytes: int, ours_bytes: int | None = None) -> bool:
        """Take in a reading; true if something was learned.

        Args:
            used_bytes: by everybody.
            ours_bytes: by Ollama's own runners, where the driver tells.
        """
        steady = _alike(self._used_bytes, used_bytes)
        ours_steady = _alike(self._ours_bytes, ours_bytes)
        self._used_bytes, self._ours_bytes, self._steady = used_bytes, ours_bytes, steady
        if ours_bytes is not None and ours_steady and self._settled():
            return self._learn_by_process(ours_bytes)
        return steady and self._learn_by_delta(used_bytes)

    def _settled(self) -> bool:
        return not self._told and (self._trial is None or self._trial.loaded)

    def _learn_by_process(self, ours_bytes: int) -> bool:
        shares = [share for share in self._listed.values() if share is not None]
        if not shares or len(shares) < len(self._listed):
            return False
        self._told, self._trial = True, None
        before = self.samples if self.by_process else ()
        self.by_process = True
        self._take(before, (ours_bytes - sum(shares)) // len(shares))
        return True

    def _learn_by_delta(self, used_bytes: int) -> bool:
        trial = self._trial
        if trial is None or not trial.loaded or trial.reported_bytes is None:
            return False
        self._trial = None
        self._take(self.samples, used_bytes - trial.used_before_bytes - trial.reported_bytes)
        return True

    def _take(self, before: Sequence[int], sample: int) -> None:
        self.samples = (*before, _clamped(sample))[-SAMPLES:]


def _alike(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and abs(before - now) <= NOISE_BYTES


def _clamped(sample: int) -> int:
    return min(max(sample, LEAST_BYTES), MOST_BYTES)
