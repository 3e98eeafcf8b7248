"""Several cards of one upstream: one is planned with, all are added up and shown."""

import asyncio
import logging
import time
from typing import Any

from ollama_gate.errors import CardError
from ollama_gate.gpu import Found, Listed, Meters, Reading, SystemMemory
from tests.nvml import GIB


class Steady:
    """A card that always says the same; `None` is no reading."""

    source = "nvml"

    def __init__(self, total_bytes: int | None, source: str = "nvml") -> None:
        self.source = source
        self._total_bytes = total_bytes
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        if self._total_bytes is None:
            raise CardError("gone")
        return Reading(
            total_bytes=self._total_bytes,
            used_bytes=GIB,
            source=self.source,
            device="a card",
            taken_at=time.monotonic(),
            processes={7: GIB // 4, 11: GIB // 2},
            ours_bytes=GIB // 2,
        )


class Heard:
    """What meters say, and when they have said so much."""

    def __init__(self, found: Found, **given: Any) -> None:
        self.readings: list[Reading | CardError] = []
        self.totals: list[int] = []
        self._changed = asyncio.Event()
        self.meters = Meters(found, tell=self._tell, total=self._total, **given)

    def _tell(self, reading: Reading | CardError) -> None:
        self.readings.append(reading)
        self._changed.set()

    def _total(self, total_bytes: int) -> None:
        self.totals.append(total_bytes)
        self._changed.set()

    async def until(self, *, readings: int = 0, totals: int = 0) -> None:
        async with asyncio.timeout(10):
            while len(self.readings) < readings or len(self.totals) < totals:
                self._changed.clear()
                await self._changed.wait()


def listed(*cards: Steady | None, vram_bytes: int | None = None) -> tuple[Listed, ...]:
    return tuple(Listed(card=card, vram_bytes=vram_bytes) for card in cards)


async def test_only_what_is_planned_with_is_told_and_all_are_added_up() -> None:
    heard = Heard(Found(listed=listed(Steady(24 * GIB), Steady(48 * GIB)), planned=1))
    heard.meters.start()
    await heard.until(readings=1, totals=2)
    assert [each.total_bytes for each in heard.readings if isinstance(each, Reading)] == [48 * GIB]
    assert heard.totals[-1] == 72 * GIB
    shown = heard.meters.status(time.monotonic())
    assert (shown["total_bytes"], shown["ours_bytes"], shown["stale"]) == (
        48 * GIB,
        GIB // 2,
        False,
    )
    assert [process["pid"] for process in shown["processes"]] == [11, 7]
    assert [other["total_bytes"] for other in shown["others"]] == [24 * GIB]
    await heard.meters.stop()


async def test_memory_on_the_move_hurries_the_card_it_moves_on() -> None:
    still, moving = Steady(24 * GIB), Steady(48 * GIB)
    heard = Heard(Found(listed=listed(still, moving), planned=1), busy_s=0.0)
    heard.meters.start()
    heard.meters.hurry(busy=True)
    await heard.until(readings=5, totals=6)
    await heard.meters.stop()
    assert still.reads == 1


async def test_a_budget_stands_for_a_card_that_was_not_read_yet() -> None:
    one = Listed(card=Steady(None), vram_bytes=20 * GIB)
    heard = Heard(Found(listed=(one, *listed(Steady(48 * GIB)))))
    heard.meters.start()
    assert heard.totals == [20 * GIB]
    await heard.until(totals=2)
    assert heard.totals[-1] == 68 * GIB
    await heard.meters.stop()


async def test_what_nobody_reads_is_its_budget_or_unknown() -> None:
    heard = Heard(Found(listed=listed(None, vram_bytes=8 * GIB)))
    heard.meters.start()
    heard.meters.hurry(busy=True)
    assert heard.totals == [8 * GIB]
    assert heard.meters.status(0.0) == {"source": "config", "budget_bytes": 8 * GIB}
    await heard.meters.stop()
    unknown = Heard(Found(listed=listed(None)))
    unknown.meters.start()
    assert unknown.totals == []
    assert unknown.meters.status(0.0) == {"source": "unknown"}


async def test_main_memory_decides_no_context() -> None:
    heard = Heard(Found(listed=(Listed(card=SystemMemory()),), cpu=True))
    heard.meters.start()
    await heard.until(readings=1)
    assert heard.totals == []
    await heard.meters.stop()


class Notices(logging.Handler):
    """Waits for a line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = asyncio.Event()

    def emit(self, _: logging.LogRecord) -> None:
        self.noticed.set()


async def test_a_card_that_fails_is_shown_with_its_reason() -> None:
    heard = Heard(Found(listed=listed(Steady(None), Steady(GIB)), planned=1))
    notices, monitor = Notices(), logging.getLogger("ollama_gate.monitor")
    monitor.addHandler(notices)
    heard.meters.start()
    await asyncio.wait_for(notices.noticed.wait(), 10)
    monitor.removeHandler(notices)
    (failed,) = heard.meters.status(time.monotonic())["others"]
    assert (failed["source"], failed["error"], failed["stale"]) == ("nvml", "gone", True)
    assert (failed["age_s"], failed["total_bytes"], failed["processes"]) == (None, None, None)
    await heard.meters.stop()
