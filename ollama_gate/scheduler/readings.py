"""What two readings of a card say together: memory that came back, a runner that is no more.

The books say what is; this says what has changed.
"""

from collections.abc import Collection, Sequence

from ollama_gate.scheduler.memory import READING_NOISE_BYTES, Books, Runner, committed
from ollama_gate.scheduler.types import RunnerState

BROKEN_SHARE = 0.75
"""So much of a runner's memory is missing when it is no more: what Ollama itself waits for after
an unload (v0.32.15 `server/sched.go`, `waitForVRAMRecovery`)."""

BROKEN_READINGS = 2
"""So many readings in a row must say it."""


def memory_is_back(runner: Runner, books: Books, others: Collection[Runner]) -> bool:
    """Whether the memory of a runner that Ollama no longer lists has been seen back.

    Either the card uses no more than the books of everybody else explain; or it has settled
    after giving back at least half of what was booked, so that the rest was booked too high or
    is somebody else's.
    """
    used, before, last = books.used_bytes, runner.used_before_bytes, runner.last_used_bytes
    assert used is not None, "memory is awaited only where readings arrive"
    assert before is not None, "the reading is kept when Ollama stops listing a runner"
    # What is being loaded has not taken all that is booked for it, and must not hide the rest.
    in_place = [other for other in others if other.state is not RunnerState.LOADING]
    if used <= committed(in_place) + books.shown_bytes + READING_NOISE_BYTES:
        return True
    settled = last is not None and abs(last - used) <= READING_NOISE_BYTES
    return settled and before - used >= runner.footprint_bytes // 2


def broken(books: Books, here: Sequence[Runner]) -> Runner | None:
    """An idle runner that is no more, as the card tells although Ollama lists it.

    Call it once for each reading. While nothing moves, the card must use at least what Ollama says
    of its runners. If a reading has shown that once, and two in a row then lack most of what an
    idle one holds, that one is gone; of several that it may be, the largest. Where the card was
    never seen to hold them it is another one that they are on.
    """
    used = books.used_bytes
    assert used is not None, "a reading has just come"
    if books.bin.cpu or not all(r.resident and r.size_bytes is not None for r in here):
        return None
    missing = sum(runner.reported_bytes for runner in here) - used
    for runner in here:
        runner.shown = runner.shown or missing <= 0
        gone = runner.shown and missing >= runner.reported_bytes * BROKEN_SHARE > 0
        runner.missing = runner.missing + 1 if gone else 0
    lost = [r for r in here if r.missing >= BROKEN_READINGS and r.idle and r.condemned is None]
    return max(lost, key=lambda runner: (runner.reported_bytes, runner.model), default=None)
