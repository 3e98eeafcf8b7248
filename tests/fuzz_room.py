"""Whether a model surely fits, and whether it surely does not, from what was told of a bin.

Between the two nobody can tell: a reading may be old, memory on its way back, a process about to
be found dead. There the scheduler may do as it likes.
"""

from ollama_gate.scheduler.commands import Load
from ollama_gate.scheduler.types import BinId, Request
from tests.fuzz_books import Books, Reading, Told
from tests.fuzz_law import must

GIB = 2**30
NOISE_BYTES = 64 * 2**20
SETTLES_S = 3.0
"""So long after the end of what was awaited a reading has come."""


class Room:
    """The room in all bins, as the books tell it."""

    def __init__(self, books: Books) -> None:
        self.books = books

    def judge(self, command: Load, request: Request) -> None:
        """1: a load fits beside what is there, by the bytes and by Ollama's own rules."""
        books = self.books
        host, reading = books.host_of(command.bin), books.readings[command.bin]
        beside = books.on_host(host)
        count, most = len(beside), host.upstream.max_loaded
        must("1 max_loaded", count < most, f"{command} beside {count} of {most}")
        self._learned_from_failures(command, request)
        here = books.in_bin(command.bin)
        if not here:
            return
        limit = self._limit_bytes(reading)
        must("1 in the unknown", limit is not None, f"{command} beside {len(here)}")
        assert limit is not None
        taken = sum(told.bytes for told in here)
        missing = command.footprint_bytes + taken + self._surely_foreign(reading) - limit
        must("1 fits", missing <= NOISE_BYTES, f"{command}: {missing / GIB:.2f} GiB are missing")
        if command.launch == request.launch and not reading.bin.cpu:
            self._eighty_percent(command, request, reading)

    def _learned_from_failures(self, command: Load, request: Request) -> None:
        """19: what ran out of memory is booked with more, and nothing with less than it needs."""
        books = self.books
        if command.launch == request.launch:
            least = request.needs[command.bin].footprint_bytes
            must("19 needs", command.footprint_bytes >= least, f"{command}, and it needs {least}")
        booked = books.ran_out.get((command.bin, command.model, command.launch), 0)
        limit = self._limit_bytes(books.readings[command.bin])
        grown = int(booked * books.policy.oom_growth) - 1
        booked = max(booked, grown if limit is None else min(grown, limit))
        text = f"{command}, and {booked} was too little"
        must("19 grows", command.footprint_bytes >= booked, text)
        at = books.ran_out_at.get((command.bin, command.model), -1e9)
        pause_s = books.policy.oom_backoff_s[0]
        must("19 pauses", books.now >= at + pause_s - 1e-9, f"{command} at once after it failed")

    def _eighty_percent(self, command: Load, request: Request, reading: Reading) -> None:
        here = [t for t in self.books.in_bin(command.bin) if t.launch.num_gpu != 0]
        total = reading.total_bytes or reading.bin.capacity_bytes
        if not here or total is None:
            return
        believed = total - sum(told.reported_bytes for told in here)
        predicted = request.needs[command.bin].predicted_bytes
        text = f"{command}: {predicted} of {believed}"
        must("1 80 %", predicted <= max(0, believed) * 80 // 100, text)

    def excused(self, bin_id: BinId, request: Request) -> bool:
        """Whether it may have to wait for something else than its turn there."""
        books = self.books
        key = bin_id, request.model
        failed_at = books.ran_out_at.get(key, -1e9)
        recently = books.now < failed_at + books.policy.oom_backoff_s[1] + 0.1
        host = books.host_of(bin_id)
        # Beside what never goes there may never be room for it.
        recently = recently or host.pinned
        return recently or not host.open or self._uncertain(books.readings[bin_id])

    def surely(self, bin_id: BinId, request: Request) -> bool:
        """Whether it could be loaded there now, with nobody in its way and nothing in doubt."""
        books = self.books
        host, reading = books.host_of(bin_id), books.readings[bin_id]
        beside = books.on_host(host)
        if self.excused(bin_id, request) or self._leaving(host.upstream.name):
            return False
        calm = all(told.state == "ready" and not told.doubtful for told in beside)
        alike = any(told.key[1] == request.model for told in beside)
        if not calm or alike or len(beside) >= host.upstream.max_loaded:
            return False
        here = books.in_bin(bin_id)
        limit = self._limit_bytes(reading)
        if limit is None:
            return not here
        need = request.at(bin_id).needs.get(bin_id, request.needs[bin_id])
        booked = books.ran_out.get((bin_id, request.model, request.launch), 0)
        wanted = max(need.footprint_bytes, int(booked * books.policy.oom_growth) + 1)
        taken = sum(told.bytes for told in here)
        if not here:
            return wanted <= limit
        return wanted + taken + NOISE_BYTES <= limit and (
            reading.bin.cpu or need.predicted_bytes <= self._surely_believed(reading, here) * 0.79
        )

    def _surely_believed(self, reading: Reading, here: list[Told]) -> float:
        """What Ollama believes to be free at the very least."""
        total = reading.total_bytes or reading.bin.capacity_bytes or 0
        if any(told.beside_bytes is None for told in here):
            return 0.0
        ours = sum(told.reported_bytes for told in here)
        taken = max(told.beside_bytes or 0 for told in here)
        return float(total - ours - taken - reading.most_used_bytes)

    def _limit_bytes(self, reading: Reading) -> int | None:
        """What may be planned with at the very most."""
        limits = [reading.bin.capacity_bytes]
        if reading.total_bytes is not None:
            kept = reading.bin.reserve_bytes
            kept = max(GIB, reading.total_bytes // 20) if kept is None else kept
            limits.append(reading.total_bytes - kept)
        return min((limit for limit in limits if limit is not None), default=None)

    def _surely_foreign(self, reading: Reading) -> int:
        """What others use for sure, of what a bin's budget does not leave to them."""
        if reading.used_bytes is None or reading.total_bytes is None:
            return 0
        books, bin_id = self.books, reading.bin.id
        ours = sum(told.bytes for told in books.in_bin(bin_id))
        if self._leaving(reading.bin.upstream):
            return 0
        outside = 0
        if reading.bin.capacity_bytes is not None:
            outside = max(0, reading.total_bytes - reading.bin.capacity_bytes)
        return max(0, reading.used_bytes - ours - outside)

    def _uncertain(self, reading: Reading) -> bool:
        """Whether others use memory there, or did until now, or it is not read any more."""
        if reading.total_bytes is None:
            return False
        ours = sum(told.bytes for told in self.books.in_bin(reading.bin.id))
        return reading.used_bytes is None or reading.most_used_bytes > ours

    def _leaving(self, upstream: str) -> bool:
        """Whether memory may still be on its way back there."""
        books = self.books
        wait_s = max(books.policy.recovery_s, books.policy.unread_recovery_s) + SETTLES_S
        return any(
            books.now <= at + wait_s and books.readings[bin_id].bin.upstream == upstream
            for (bin_id, _), at in books.gone_at.items()
        )
