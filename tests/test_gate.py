"""The pump, driven by hand: an engine whose every call ends when the test says so."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ollama_gate.errors import UpstreamGoneError, UpstreamSilentError
from ollama_gate.gate import Gate, Grant, RefusedError, pump, slots, watching
from ollama_gate.scheduler import Machine
from ollama_gate.scheduler.commands import Command, Evicted, Expired, Load, Prewarm, Unload
from ollama_gate.scheduler.events import Event, Interrupted, Loaded, LoadFailed, Resident
from ollama_gate.scheduler.types import (
    Bin,
    BinId,
    Launch,
    ModelKey,
    Need,
    Policy,
    Refusal,
    Request,
    RequestId,
    RunnerState,
    RunnerView,
    Upstream,
    Waiting,
)

GIB = 2**30
LIMIT_S = 5.0
"""What has not happened by then will not happen."""

HERE = BinId("here/0")
LoadOutcome = Loaded | LoadFailed | Interrupted


@dataclass(slots=True)
class Loading:
    """A load that ends when `end` is given its outcome."""

    command: Load
    end: asyncio.Future[LoadOutcome]


@dataclass(slots=True)
class Unloading:
    """An unload that ends when `end` is told whether it was seen."""

    command: Unload
    end: asyncio.Future[bool]


@dataclass(slots=True)
class HandEngine:
    """An upstream in the test's hand."""

    loads: asyncio.Queue[Loading] = field(default_factory=asyncio.Queue)
    unloads: asyncio.Queue[Unloading] = field(default_factory=asyncio.Queue)
    resident: dict[str, Resident] = field(default_factory=dict)
    away: Exception | None = None
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    slow: asyncio.Event | None = None
    prewarmed: asyncio.Queue[Prewarm] = field(default_factory=asyncio.Queue)
    left_to_expire: list[tuple[str, Launch]] = field(default_factory=list)
    will_not_expire: frozenset[str] = frozenset()
    remembers_free: bool = True

    async def next_load(self) -> Loading:
        return await asyncio.wait_for(self.loads.get(), LIMIT_S)

    async def next_unload(self) -> Unloading:
        return await asyncio.wait_for(self.unloads.get(), LIMIT_S)

    async def load(self, command: Load) -> LoadOutcome:
        call = Loading(command, asyncio.get_running_loop().create_future())
        self.loads.put_nowait(call)
        outcome = await call.end
        if isinstance(outcome, Loaded):
            self.resident[command.name] = Resident(
                bin=command.bin,
                model=command.model,
                name=command.name,
                launch=command.launch,
                footprint_bytes=command.footprint_bytes,
                reported_bytes=command.footprint_bytes,
                num_ctx=None,
            )
        return outcome

    async def unload(self, command: Unload) -> bool:
        call = Unloading(command, asyncio.get_running_loop().create_future())
        self.unloads.put_nowait(call)
        gone = await call.end
        if gone:
            del self.resident[command.name]
        return gone

    async def prewarm(self, command: Prewarm) -> None:
        self.prewarmed.put_nowait(command)

    async def residents(self) -> tuple[Resident, ...]:
        if self.away is not None:
            raise self.away
        self.looked.set()
        answer = tuple(self.resident.values())
        if self.slow is not None:
            await self.slow.wait()
        return answer

    async def let_expire(self, name: str, launch: Launch) -> None:
        if name in self.will_not_expire:
            raise UpstreamGoneError("gone in the meantime")
        self.left_to_expire.append((name, launch))


@dataclass(slots=True)
class HandMeter:
    """Remembers what it was told, the same thing said twice only once."""

    told: list[bool] = field(default_factory=list)

    def hurry(self, *, busy: bool) -> None:
        if self.told[-1:] != [busy]:
            self.told.append(busy)


@dataclass(slots=True)
class Diary:
    """Writes down what a witness is told, the times apart."""

    told: list[tuple[str, ...]] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def load_began(self, bin_id: BinId, model: ModelKey, launch: Launch, now: float) -> None:
        self.times.append(now)
        self.told.append(("load began", bin_id, model, str(launch.num_ctx)))

    def loaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        self.times.append(now)
        self.told.append(("loaded", bin_id, model))
        self.lengths.append(seconds)

    def load_failed(self, bin_id: BinId, model: ModelKey, now: float) -> None:
        self.times.append(now)
        self.told.append(("load failed", bin_id, model))

    def unload_began(self, bin_id: BinId, now: float) -> None:
        self.times.append(now)
        self.told.append(("unload began", bin_id))

    def unloaded(self, bin_id: BinId, model: ModelKey, seconds: float, now: float) -> None:
        self.times.append(now)
        self.told.append(("unloaded", bin_id, model))
        self.lengths.append(seconds)

    def served(self, bin_id: BinId, model: ModelKey, seconds: float) -> None:
        self.told.append(("served", bin_id, model))
        self.lengths.append(seconds)


@pytest.fixture
def engine() -> HandEngine:
    return HandEngine()


@pytest.fixture
async def gate(engine: HandEngine) -> AsyncIterator[Gate]:
    """A gate over 10 GiB that has heard of its upstream."""
    gate = Gate(
        Machine(
            upstreams=(Upstream(name="here"),),
            bins=(Bin(id=HERE, upstream="here", capacity_bytes=10 * GIB),),
            policy=Policy(queue_max_size=4),
            now=asyncio.get_running_loop().time(),
        ),
        {"here": engine},
    )
    gate.start()
    assert await gate.answers("here", 5)
    yield gate
    await gate.close()


def request(name: str, model: str = "a", gib: int = 6, **more: Any) -> Request:
    return Request(
        id=RequestId(name),
        model=ModelKey(f"key of {model}"),
        name=model,
        needs={HERE: Need(footprint_bytes=gib * GIB, predicted_bytes=0)},
        arrived_at=asyncio.get_running_loop().time(),
        **more,
    )


class Client:
    """Takes a slot and holds it until `leave`."""

    def __init__(self, gate: Gate, wanted: Request) -> None:
        self.id = wanted.id
        self.inside: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self.error: Exception | None = None
        self.task = asyncio.create_task(self._run(gate, wanted))

    async def _run(self, gate: Gate, wanted: Request) -> None:
        async with gate.slot(wanted) as grant:
            self.inside.set_result(grant)
            await self._leave.wait()
            if self.error is not None:
                raise self.error
            gate.completed(wanted.id)

    async def enter(self) -> Grant:
        return await asyncio.wait_for(asyncio.shield(self.inside), LIMIT_S)

    async def leave(self) -> None:
        self._leave.set()
        await self.over()

    async def over(self) -> None:
        """Await the end; raises what the client's task raised."""
        await asyncio.wait_for(asyncio.shield(self.task), LIMIT_S)

    async def hang_up(self) -> None:
        self.task.cancel()
        await self.cut_off()

    async def cut_off(self) -> None:
        """Await that it was cancelled."""
        await asyncio.wait([self.task], timeout=LIMIT_S)
        assert self.task.cancelled()


async def loaded(gate: Gate, engine: HandEngine, wanted: Request) -> Client:
    """A client that holds a slot of a model just loaded for it."""
    client = Client(gate, wanted)
    (await engine.next_load()).end.set_result(Loaded())
    await client.enter()
    return client


async def waits(gate: Gate, wanted: Request) -> Client:
    """A client that stands in the queue."""
    client = Client(gate, wanted)
    await until(gate, lambda: isinstance(gate.find(wanted.id), Waiting))
    return client


async def until(gate: Gate, holds: Callable[[], object]) -> None:
    """Await a state of the gate."""
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await gate.changed()


async def until_away(gate: Gate) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await gate.answers("here", 0):
            await gate.changed()


def decided(gate: Gate) -> list[str]:
    return [decision.what for decision in gate.decisions]


# ------------------------------------------------------------------------------- commands


async def test_a_request_gets_its_slot_when_its_model_has_been_loaded(
    gate: Gate, engine: HandEngine
) -> None:
    client = Client(gate, request("r"))
    call = await engine.next_load()
    assert (call.command.name, call.command.for_request) == ("a", "r")
    assert not client.inside.done()
    call.end.set_result(Loaded(footprint_bytes=5 * GIB))
    grant = await client.enter()
    assert grant.bin == HERE
    assert grant.queued_s >= 0
    assert gate.snapshot().runners[0].footprint_bytes == 5 * GIB
    assert decided(gate) == ["load"]
    await client.leave()


async def test_a_victim_is_unloaded_before_the_next_is_loaded(
    gate: Gate, engine: HandEngine
) -> None:
    await (await loaded(gate, engine, request("r1", "a"))).leave()
    client = Client(gate, request("r2", "b"))
    unload = await engine.next_unload()
    assert unload.command.name == "a"
    assert isinstance(unload.command.reason, Evicted)
    assert engine.loads.empty()
    unload.end.set_result(True)
    (await engine.next_load()).end.set_result(Loaded())
    await client.enter()
    assert decided(gate) == ["load", "evict", "load"]
    assert gate.decisions[1].fields["for"] == "b"
    await client.leave()


async def test_a_load_that_fails_turns_its_request_away_with_ollamas_words(
    gate: Gate, engine: HandEngine
) -> None:
    client = Client(gate, request("r"))
    (await engine.next_load()).end.set_result(LoadFailed(status=507, text="bad magic"))
    with pytest.raises(RefusedError) as refused:
        await client.over()
    refusal = refused.value.refusal
    assert (refusal.reason, refusal.status, refusal.text) == (
        Refusal.LOAD_FAILED,
        507,
        "bad magic",
    )
    assert gate.find(client.id) == "refused: load_failed"
    assert decided(gate) == ["load", "refuse"]
    assert gate.snapshot().runners == ()


async def test_a_load_cut_short_is_ordered_again_when_the_upstream_is_back(
    gate: Gate, engine: HandEngine
) -> None:
    client = Client(gate, request("r"))
    call = await engine.next_load()
    engine.away = UpstreamGoneError("refused")
    call.end.set_result(Interrupted())
    await until_away(gate)
    assert not client.inside.done()
    engine.away = None
    gate.lost("here")
    (await engine.next_load()).end.set_result(Loaded())
    await client.enter()
    await client.leave()


async def test_an_unload_that_nobody_saw_leaves_the_model_where_it_is(
    gate: Gate, engine: HandEngine
) -> None:
    await (await loaded(gate, engine, request("r1", "a"))).leave()
    client = Client(gate, request("r2", "b"))
    unload = await engine.next_unload()
    engine.away = UpstreamGoneError("refused")
    unload.end.set_result(False)
    await until_away(gate)
    assert [runner.name for runner in gate.snapshot().runners] == ["a"]
    engine.away, engine.resident = None, {}
    gate.lost("here")
    (await engine.next_load()).end.set_result(Loaded())
    await client.enter()
    await client.leave()


async def test_the_timer_is_armed_for_what_time_alone_brings(
    gate: Gate, engine: HandEngine
) -> None:
    client = await loaded(gate, engine, request("r", keep_alive_s=0.05))
    await client.leave()
    unload = await engine.next_unload()
    assert isinstance(unload.command.reason, Expired)
    assert unload.command.reason.idle_s >= 0.05
    assert decided(gate) == ["load", "expire"]
    unload.end.set_result(True)
    await until(gate, lambda: not gate.snapshot().runners)


async def test_a_meter_hurries_while_memory_moves(gate: Gate, engine: HandEngine) -> None:
    meter = HandMeter()
    gate.attach(HERE, meter)
    client = Client(gate, request("r"))
    call = await engine.next_load()
    assert meter.told == [True]
    call.end.set_result(Loaded())
    await client.enter()
    assert meter.told == [True, False]
    await client.leave()


async def test_a_reading_is_taken_in(gate: Gate) -> None:
    gate.measured(HERE, 24 * GIB, 3 * GIB)
    assert gate.snapshot().bins[0].foreign_bytes == 3 * GIB


async def test_the_scheduler_is_told_how_an_upstream_looks_at_its_card(
    gate: Gate, engine: HandEngine
) -> None:
    await until(gate, engine.looked.is_set)
    assert gate._machine.books[HERE].remembers_free
    engine.remembers_free = False
    gate.nudge("here")
    await until(gate, lambda: not gate._machine.books[HERE].remembers_free)


async def test_a_hint_is_handed_to_the_upstream_it_is_about(
    gate: Gate, engine: HandEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = Prewarm(bin=HERE, model=ModelKey("key of a"), name="a")

    def handle(event: Event, now: float) -> list[Command]:
        return [hint]

    with monkeypatch.context() as patch:
        patch.setattr(gate._machine, "handle", handle)
        gate.measured(HERE, 10 * GIB, 0)
    assert await asyncio.wait_for(engine.prewarmed.get(), LIMIT_S) == hint


async def test_a_model_is_let_go_when_nobody_wants_it_any_more(
    gate: Gate, engine: HandEngine
) -> None:
    assert gate.release(ModelKey("key of a")) is False
    client = await loaded(gate, engine, request("r"))
    assert gate.release(ModelKey("key of a")) is True
    assert engine.unloads.empty()
    await client.leave()
    (await engine.next_unload()).end.set_result(True)


# ------------------------------------------------------------------------------- ways out


async def test_an_exception_inside_the_block_frees_the_slot(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    first.error = KeyError("the handler's own")
    with pytest.raises(KeyError):
        await first.leave()
    await second.enter()
    await second.leave()
    assert gate.snapshot().running == ()


async def test_who_is_cancelled_while_running_frees_the_slot(
    gate: Gate, engine: HandEngine
) -> None:
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    first.task.cancel()
    await second.enter()
    assert first.task.cancelled()
    await second.leave()


async def test_who_is_cancelled_while_waiting_frees_the_place(
    gate: Gate, engine: HandEngine
) -> None:
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    await second.hang_up()
    assert gate.snapshot().waiting == ()
    assert gate.find(second.id) == "left while waiting"
    await first.leave()
    assert gate.snapshot().running == ()


async def test_who_is_cancelled_in_the_instant_of_the_grant_frees_the_slot(
    gate: Gate, engine: HandEngine
) -> None:
    first = await loaded(gate, engine, request("r1"))
    await first.leave()
    slot: AbstractAsyncContextManager[Grant] = gate.slot(request("r2"))
    await slot.__aenter__()
    third = await waits(gate, request("r3"))
    # Nothing here gives the loop a turn: the slot is granted, and its owner has not heard of it.
    await slot.__aexit__(None, None, None)
    assert [running.id for running, _ in gate.snapshot().running] == ["r3"]
    await third.hang_up()
    assert not third.inside.done()
    assert gate.snapshot().running == ()
    fourth = Client(gate, request("r4"))
    await fourth.enter()
    await fourth.leave()


async def test_who_is_refused_leaves_nothing_behind(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    waiting = [await waits(gate, request(f"w{count}")) for count in range(4)]
    refused = Client(gate, request("r2"))
    with pytest.raises(RefusedError) as error:
        await refused.over()
    assert error.value.refusal.reason is Refusal.QUEUE_FULL
    assert [one.request.id for one in gate.snapshot().waiting] == ["w0", "w1", "w2", "w3"]
    await first.leave()
    for client in waiting:
        await client.enter()
        await client.leave()


async def test_a_waiting_request_can_be_withdrawn(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    assert gate.cancel(second.id) is True
    with pytest.raises(RefusedError) as error:
        await second.over()
    assert error.value.refusal.reason is Refusal.CANCELLED
    assert gate.find(second.id) == "refused: cancelled"
    await first.leave()


async def test_a_running_request_can_be_withdrawn(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    assert gate.cancel(first.id) is True
    with pytest.raises(RefusedError, match="cancelled"):
        await first.over()
    assert gate.find(first.id) == "withdrawn"
    assert gate.snapshot().running == ()


async def test_nobody_of_that_name_cannot_be_withdrawn(gate: Gate) -> None:
    assert gate.cancel(RequestId("nobody")) is False


# ------------------------------------------------------------------------------- upstreams


async def test_an_upstream_that_does_not_answer_is_waited_for(
    gate: Gate, engine: HandEngine
) -> None:
    engine.away = UpstreamGoneError("refused")
    gate.lost("here")
    assert await gate.answers("here", 0) is False
    assert await gate.answers("here", 0.01) is False
    engine.away = None
    gate.lost("here")
    assert await gate.answers("here", 5) is True


async def test_an_upstream_that_is_back_is_noticed_without_being_told(
    gate: Gate, engine: HandEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCH_AWAY_S", 0.01)
    engine.away = UpstreamGoneError("refused")
    gate.lost("here")
    assert await gate.answers("here", 0.03) is False
    engine.away = None
    assert await gate.answers("here", 5) is True


async def test_an_answer_from_before_an_outage_does_not_end_it(
    gate: Gate, engine: HandEngine
) -> None:
    engine.slow = slow = asyncio.Event()
    gate.lost("here")
    engine.looked.clear()
    await asyncio.wait_for(engine.looked.wait(), LIMIT_S)
    engine.slow = asyncio.Event()
    gate.lost("here")
    slow.set()
    assert await gate.answers("here", 0.01) is False
    engine.slow.set()
    assert await gate.answers("here", LIMIT_S) is True


async def test_an_outage_is_logged_once_and_its_end_as_well(
    gate: Gate,
    engine: HandEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ollama_gate")
    monkeypatch.setattr(watching, "WATCH_AWAY_S", 0.01)
    engine.away = UpstreamGoneError("refused")
    gate.lost("here")
    assert await gate.answers("here", 0.05) is False
    gate.lost("here")
    engine.away = None
    assert await gate.answers("here", 5) is True
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "does not answer" in line]) == 1
    assert len([line for line in said if "upstream answers" in line]) == 1


async def test_what_ollama_loaded_by_itself_is_adopted_and_served(
    gate: Gate, engine: HandEngine
) -> None:
    engine.resident["a"] = Resident(
        bin=HERE,
        model=ModelKey("key of a"),
        name="a",
        launch=Launch(),
        footprint_bytes=6 * GIB,
        reported_bytes=5 * GIB,
        num_ctx=None,
    )
    gate.lost("here")
    client = Client(gate, request("r"))
    await client.enter()
    assert engine.loads.empty()
    await client.leave()


# ------------------------------------------------------------------------------- the end


async def test_at_the_end_who_waits_is_refused_and_who_runs_may_end(
    gate: Gate, engine: HandEngine
) -> None:
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    draining = asyncio.create_task(gate.drain(5))
    with pytest.raises(RefusedError) as error:
        await second.over()
    assert error.value.refusal.reason is Refusal.SHUTTING_DOWN
    assert not draining.done()
    late = Client(gate, request("r3"))
    with pytest.raises(RefusedError):
        await late.over()
    await first.leave()
    assert await draining is True


async def test_grace_ends(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    assert await gate.drain(0.01) is False
    await first.leave()
    assert await gate.drain(0) is True


async def test_what_is_resident_is_handed_back_as_it_was_launched(
    gate: Gate, engine: HandEngine
) -> None:
    for count, name in enumerate("ab"):
        wanted = request(f"r{name}", name, 2, launch=Launch(num_ctx=4096 + count))
        await (await loaded(gate, engine, wanted)).leave()
    await (await loaded(gate, engine, request("rc", "c", 2))).leave()
    engine.will_not_expire = frozenset({"b"})
    await gate.hand_back()
    assert engine.left_to_expire == [("a", Launch(num_ctx=4096)), ("c", Launch())]


async def test_what_is_still_being_loaded_is_not_handed_back(
    gate: Gate, engine: HandEngine
) -> None:
    client = Client(gate, request("r"))
    await engine.next_load()
    await gate.hand_back()
    assert engine.left_to_expire == []
    await client.hang_up()


async def test_closing_ends_every_task_and_the_timer(gate: Gate, engine: HandEngine) -> None:
    await (await loaded(gate, engine, request("r1", keep_alive_s=0.05))).leave()
    client = Client(gate, request("r2", "b", 2))
    call = await engine.next_load()
    await gate.close()
    assert call.end.cancelled()
    assert asyncio.all_tasks() - {asyncio.current_task(), client.task} == set()
    await client.hang_up()


# ------------------------------------------------------------------------------- asking


async def test_a_request_can_be_found_wherever_it_is(gate: Gate, engine: HandEngine) -> None:
    assert gate.find(RequestId("r1")) is None
    first = await loaded(gate, engine, request("r1"))
    second = await waits(gate, request("r2"))
    running, waiting = gate.find(first.id), gate.find(second.id)
    assert isinstance(running, RunnerView)
    assert (running.name, running.state) == ("a", RunnerState.RESIDENT)
    assert isinstance(waiting, Waiting)
    assert waiting.position == 1
    await first.leave()
    await second.enter()
    assert gate.find(first.id) == "ended"
    await second.leave()


async def test_a_request_whose_runner_is_gone_still_runs(gate: Gate, engine: HandEngine) -> None:
    first = await loaded(gate, engine, request("r1"))
    engine.resident = {}
    gate.lost("here")
    await until(gate, lambda: not gate.snapshot().runners)
    assert gate.find(first.id) == "running"
    await first.leave()


async def test_only_so_many_ended_requests_are_remembered(
    gate: Gate, engine: HandEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "REMEMBERED", 2)
    await (await loaded(gate, engine, request("r0"))).leave()
    for name in ("r1", "r2"):
        client = Client(gate, request(name))
        await client.enter()
        await client.leave()
    assert [gate.find(RequestId(name)) for name in ("r0", "r1", "r2")] == [None, "ended", "ended"]


# ------------------------------------------------------------------------------- faults of ours


async def test_a_load_that_raises_is_logged_and_turns_its_request_away(
    gate: Gate, engine: HandEngine, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(gate, request("r1"))
    (await engine.next_load()).end.set_exception(ZeroDivisionError("ours"))
    with pytest.raises(RefusedError) as error:
        await client.over()
    assert error.value.refusal.reason is Refusal.LOAD_FAILED
    assert "ZeroDivisionError" in caplog.text
    await (await loaded(gate, engine, request("r2"))).leave()


async def test_an_unload_that_raises_is_logged_and_the_model_asked_to_go_again(
    gate: Gate, engine: HandEngine, caplog: pytest.LogCaptureFixture
) -> None:
    await (await loaded(gate, engine, request("r1", "a"))).leave()
    client = Client(gate, request("r2", "b"))
    (await engine.next_unload()).end.set_exception(ZeroDivisionError("ours"))
    await until_away(gate)
    assert "ZeroDivisionError" in caplog.text
    gate.lost("here")
    (await engine.next_unload()).end.set_result(True)
    (await engine.next_load()).end.set_result(Loaded())
    await client.enter()
    await client.leave()


async def test_a_look_that_raises_is_logged_and_the_next_is_taken(
    gate: Gate, engine: HandEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.away = ZeroDivisionError("ours")
    gate.lost("here")
    assert await gate.answers("here", 0.01) is False
    assert "ZeroDivisionError" in caplog.text
    engine.away = None
    gate.lost("here")
    assert await gate.answers("here", 5) is True


async def test_a_load_ends_when_its_upstream_is_back_after_an_outage(
    gate: Gate, engine: HandEngine
) -> None:
    client = Client(gate, request("r"))
    unanswered = await engine.next_load()
    gate.lost("here")
    assert await gate.answers("here", LIMIT_S)
    (await engine.next_load()).end.set_result(Loaded())
    assert unanswered.end.cancelled()
    await client.enter()
    await client.leave()


async def test_a_silent_ps_during_a_load_is_no_outage(gate: Gate, engine: HandEngine) -> None:
    client = Client(gate, request("r"))
    call = await engine.next_load()
    engine.away = UpstreamSilentError("it did not answer in time")
    gate.nudge("here")
    call.end.set_result(Loaded())
    await client.enter()
    assert await gate.answers("here", 0)
    engine.away = None
    await client.leave()


async def test_a_model_is_vacated_before_its_name_changes(gate: Gate, engine: HandEngine) -> None:
    await (await loaded(gate, engine, request("r"))).leave()
    vacating = asyncio.create_task(gate.vacate(ModelKey("key of a"), LIMIT_S))
    (await engine.next_unload()).end.set_result(True)
    await asyncio.wait_for(vacating, LIMIT_S)
    assert gate.snapshot().runners == ()


async def test_what_is_in_use_is_vacated_for_no_longer_than_it_is_given(
    gate: Gate, engine: HandEngine
) -> None:
    client = await loaded(gate, engine, request("r"))
    await gate.vacate(ModelKey("key of a"), 0.01)
    await gate.vacate(ModelKey("key of nothing"), LIMIT_S)
    assert len(gate.snapshot().runners) == 1
    await client.leave()


async def test_what_an_upstream_has_that_is_away_is_not_waited_for(
    gate: Gate, engine: HandEngine
) -> None:
    client = await loaded(gate, engine, request("r"))
    engine.away = UpstreamGoneError("refused")
    gate.lost("here")
    await asyncio.wait_for(gate.vacate(ModelKey("key of a"), math.inf), LIMIT_S)
    await client.leave()


async def test_an_ollama_that_takes_nothing_back_does_not_hold_up_the_end(
    gate: Gate, engine: HandEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await loaded(gate, engine, request("r"))).leave()
    monkeypatch.setattr(pump, "HAND_BACK_S", 0.01)
    engine.slow = asyncio.Event()
    await asyncio.wait_for(gate.hand_back(), LIMIT_S)
    assert engine.left_to_expire == []


async def test_outside_the_line_as_many_may_wait_as_in_it(gate: Gate, engine: HandEngine) -> None:
    engine.away = UpstreamGoneError("away")
    gate.lost("here")
    name = RequestId("r")
    waiting = [asyncio.create_task(gate.await_upstream(name, ["here"], LIMIT_S)) for _ in range(4)]
    async with asyncio.timeout(LIMIT_S):
        while gate.outside < 4:
            await gate.changed()
    with pytest.raises(RefusedError, match="queue_full"):
        await gate.await_upstream(name, ["here"], LIMIT_S)
    engine.away = None
    gate.nudge("here")
    await asyncio.gather(*waiting)
    assert gate.outside == 0


async def test_outside_the_line_nobody_waits_for_ever(gate: Gate, engine: HandEngine) -> None:
    engine.away = UpstreamGoneError("away")
    gate.lost("here")
    with pytest.raises(RefusedError, match="upstream_away"):
        await gate.await_upstream(RequestId("r"), ["here"], 0.01)
    waiting = asyncio.create_task(gate.await_upstream(RequestId("r"), ["here"], LIMIT_S))
    async with asyncio.timeout(LIMIT_S):
        while not gate.outside:
            await gate.changed()
    await gate.drain(0.01)
    with pytest.raises(RefusedError, match="shutting_down"):
        await waiting


# ------------------------------------------------------------------------------- the witness


async def test_a_witness_is_told_of_loads_unloads_and_answers(
    gate: Gate, engine: HandEngine
) -> None:
    gate._hands["here"].witness = diary = Diary()
    first = await loaded(gate, engine, request("1", launch=Launch(num_ctx=2048)))
    await first.leave()
    gate.release(ModelKey("key of a"))
    (await engine.next_unload()).end.set_result(True)
    await until(gate, lambda: not gate.snapshot().runners)
    assert diary.told == [
        ("load began", HERE, "key of a", "2048"),
        ("loaded", HERE, "key of a"),
        ("served", HERE, "key of a"),
        ("unload began", HERE),
        ("unloaded", HERE, "key of a"),
    ]
    assert all(0.0 <= length < LIMIT_S for length in diary.lengths)
    assert diary.times == sorted(diary.times)


async def test_what_did_not_end_well_took_no_time_that_anybody_should_remember(
    gate: Gate, engine: HandEngine
) -> None:
    gate._hands["here"].witness = diary = Diary()
    failing = Client(gate, request("1"))
    (await engine.next_load()).end.set_result(LoadFailed(status=500, text="no"))
    with pytest.raises(RefusedError):
        await failing.over()
    hangs_up = await loaded(gate, engine, request("2", "b"))
    await hangs_up.hang_up()
    breaks = Client(gate, request("3", "b"))
    await breaks.enter()
    breaks.error = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await breaks.leave()
    async with asyncio.timeout(LIMIT_S), gate.slot(request("4", "b")):
        pass
    gate.release(ModelKey("key of b"))
    (await engine.next_unload()).end.set_result(False)
    await until_away(gate)
    assert [what for what, *_ in diary.told] == [
        "load began",
        "load failed",
        "load began",
        "loaded",
        "unload began",
    ]
