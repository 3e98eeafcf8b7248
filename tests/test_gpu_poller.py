"""The poller: when it reads, what it tells, and what it says of a card that does not answer."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ollama_gate.errors import CardError
from ollama_gate.gpu import STALE_S, Poller, Reading

Told = asyncio.Queue[Reading | CardError]

LONG_S = 3600.0


class Clock:
    """What time it is, for whoever decides that something is old."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


class Script:
    """A card that is as used as its script says, or fails where that says `None`.

    Each failure takes so long that nothing known before is fresh any more, unless `failure_s`
    says otherwise.
    """

    source = "script"

    def __init__(self, *used: int | None, then: int = 0, failure_s: float = 2 * STALE_S) -> None:
        self.reads = 0
        self.clock = Clock()
        self._used = list(used)
        self._then = then
        self._failure_s = failure_s

    def read(self) -> Reading:
        self.reads += 1
        used = self._used.pop(0) if self._used else self._then
        if used is None:
            self.clock.at_s += self._failure_s
            raise CardError("gone")
        return Reading(
            total_bytes=100, used_bytes=used, source="script", device="s", taken_at=float(used)
        )


def polling(
    card: Script, *, idle_s: float = LONG_S, busy_s: float = LONG_S
) -> tuple[Poller, Callable[[], Any]]:
    told: Told = asyncio.Queue()
    poller = Poller(card, told.put_nowait, idle_s=idle_s, busy_s=busy_s, now=card.clock)

    async def next_told() -> Reading | CardError:
        return await asyncio.wait_for(told.get(), 10)

    return poller, next_told


async def test_a_poller_reads_at_once_and_remembers() -> None:
    poller, told = polling(Script(7))
    assert poller.last is None
    assert poller.age_s(100.0) is None
    poller.start()
    reading = await told()
    assert reading.used_bytes == 7
    assert poller.last == reading
    assert poller.age_s(100.0) == 93.0
    await poller.stop()


async def test_a_poke_is_answered_by_a_new_reading() -> None:
    poller, told = polling(Script(1, 2, 3))
    poller.start()
    assert (await told()).used_bytes == 1
    poller.poke()
    assert (await told()).used_bytes == 2
    poller.poke()
    poller.poke()
    assert (await told()).used_bytes == 3
    await poller.stop()


async def test_readings_follow_each_other_without_being_asked_for() -> None:
    poller, told = polling(Script(1, 2, 3), idle_s=0.0)
    poller.start()
    assert [(await told()).used_bytes for _ in range(3)] == [1, 2, 3]
    await poller.stop()


async def test_readings_come_faster_while_memory_moves() -> None:
    poller, told = polling(Script(then=5), busy_s=0.0)
    assert poller.interval_s == LONG_S
    poller.start()
    await told()
    poller.hurry(busy=True)
    assert poller.interval_s == 0.0
    for _ in range(5):
        await told()
    poller.hurry(busy=False)
    assert poller.interval_s == LONG_S
    await poller.stop()


class SlowCard(Script):
    """Its readings end when they are let to."""

    def __init__(self, *used: int) -> None:
        super().__init__(*used)
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def read(self) -> Reading:
        self.begun.set()
        assert self.go_on.wait(10)
        return super().read()


async def test_a_poke_during_a_reading_is_answered_by_another() -> None:
    card = SlowCard(1, 2)
    poller, told = polling(card)
    poller.start()
    assert await asyncio.to_thread(card.begun.wait, 10)
    poller.poke()
    card.go_on.set()
    assert (await told()).used_bytes == 1
    assert (await told()).used_bytes == 2
    await poller.stop()


async def test_a_failure_is_told_once_for_all_that_follow() -> None:
    poller, told = polling(Script(1, None, None, None, 2, None, 3), idle_s=0.0)
    poller.start()
    heard = [await told() for _ in range(5)]
    kinds = [one.used_bytes if isinstance(one, Reading) else str(one) for one in heard]
    assert kinds == [1, "gone", 2, "gone", 3]
    await poller.stop()


async def test_while_a_card_fails_its_last_reading_grows_old() -> None:
    poller, told = polling(Script(1, None))
    poller.start()
    await told()
    poller.poke()
    assert isinstance(await told(), CardError)
    assert str(poller.error) == "gone"
    assert poller.last is not None
    assert poller.age_s(61.0) == 60.0
    poller.poke()
    await told()
    assert poller.error is None
    await poller.stop()


async def test_a_stopped_poller_reads_no_more() -> None:
    card = Script(then=1)
    poller, told = polling(card, idle_s=0.0)
    poller.start()
    await told()
    await poller.stop()
    reads = card.reads
    await poller.stop()
    poller.poke()
    await asyncio.to_thread(lambda: None)
    assert card.reads == reads


async def test_what_broke_a_poller_is_raised_when_it_is_stopped() -> None:
    asked = asyncio.Event()

    def tell(_: Reading | CardError) -> None:
        asked.set()
        raise ZeroDivisionError

    poller = Poller(Script(1), tell)
    poller.start()
    await asyncio.wait_for(asked.wait(), 10)
    with pytest.raises(ZeroDivisionError):
        await poller.stop()


async def test_what_is_known_is_fresh_for_a_while_without_readings() -> None:
    # 4 and 8 seconds without a reading are bearable, 12 are not, and 16 are no news.
    card = Script(1, None, None, None, None, 2, failure_s=4.0)
    poller, told = polling(card, idle_s=0.0)
    poller.start()
    assert (await told()).used_bytes == 1
    assert isinstance(await told(), CardError)
    assert card.reads >= 4
    assert (await told()).used_bytes == 2
    await poller.stop()


async def test_a_card_that_never_answered_is_told_of_as_well() -> None:
    poller, told = polling(Script(None))
    poller.start()
    assert str(await told()) == "gone"
    assert poller.stale(0.0)
    await poller.stop()


async def test_a_reading_is_stale_when_it_is_old() -> None:
    poller, told = polling(Script(1))
    assert poller.stale(1.0)
    poller.start()
    await told()
    assert not poller.stale(1.0 + STALE_S)
    assert poller.stale(1.1 + STALE_S)
    await poller.stop()


async def test_a_reading_that_hangs_is_told_of_and_nobody_asks_a_second_time() -> None:
    card = SlowCard(1, 2)
    card.go_on.set()
    poller, told = polling(card)
    poller.start()
    assert (await told()).used_bytes == 1
    card.go_on.clear()
    card.clock.at_s += 2 * STALE_S
    poller.poke()
    assert "has not answered" in str(await told())
    # It is asked once, however often somebody wants to know.
    poller.poke()
    poller.hurry(busy=True)
    await asyncio.to_thread(lambda: None)
    assert [each.name for each in threading.enumerate()].count("read script") == 1
    card.go_on.set()
    assert (await told()).used_bytes == 2
    assert poller.error is None
    await poller.stop()


async def test_a_poller_ends_while_its_card_hangs() -> None:
    card = SlowCard(1)
    poller, _ = polling(card)
    poller.start()
    assert await asyncio.to_thread(card.begun.wait, 10)
    await poller.stop()
    (thread,) = (each for each in threading.enumerate() if each.name == "read script")
    assert thread.daemon
    card.go_on.set()
    await asyncio.to_thread(thread.join, 10)
    assert poller.last is None


async def test_what_a_card_never_should_raise_is_a_failure_too() -> None:
    class Broken(Script):
        def read(self) -> Reading:
            self.clock.at_s += 2 * STALE_S
            raise ZeroDivisionError

    poller, told = polling(Broken())
    poller.start()
    assert "ZeroDivisionError" in str(await told())
    await poller.stop()


async def test_the_log_says_when_readings_end_and_when_they_begin_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    poller, told = polling(Script(1, None, None, 2, 3), idle_s=0.0)
    poller.start()
    for _ in range(4):
        await told()
    await poller.stop()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "gone" in said[0][1]
    assert "without_s=40" in said[1][1]


def test_a_loop_that_has_ended_is_not_told() -> None:
    card = SlowCard(1)

    async def leave_it_hanging() -> None:
        poller, _ = polling(card)
        poller.start()
        assert await asyncio.to_thread(card.begun.wait, 10)
        await poller.stop()

    asyncio.run(leave_it_hanging())
    (thread,) = (each for each in threading.enumerate() if each.name == "read script")
    card.go_on.set()
    thread.join(10)
    assert not thread.is_alive()
