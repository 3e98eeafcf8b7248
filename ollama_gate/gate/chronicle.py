"""What is told to people of what was decided: log lines, and the last decisions.

The numbers are those that the commands carry; nothing is worked out here.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, assert_never

from ollama_gate import log
from ollama_gate.scheduler.commands import (
    Broken,
    Choice,
    Cost,
    Evicted,
    Expired,
    Forward,
    Load,
    Offloaded,
    Refuse,
    Unload,
    Warn,
)
from ollama_gate.scheduler.types import BinId, Request

MEANWHILE: Final = 16
"""So many decisions are kept with a request that waited."""

_queue = log.get(log.Component.QUEUE)
_scheduler = log.get(log.Component.SCHEDULER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that happened to memory or to a request's fate; `at` is the pump's clock."""

    at: float
    what: str
    fields: Mapping[str, Any]


class Chronicle:
    """The last decisions, each logged when it was taken."""

    def __init__(self) -> None:
        self.decisions: deque[Decision] = deque(maxlen=64)

    def since(self, at: float, bin_id: BinId) -> tuple[Decision, ...]:
        """What was decided for a bin since an instant, oldest first; no more than is kept."""
        newest: list[Decision] = []
        for each in reversed(self.decisions):
            if each.at < at or len(newest) == MEANWHILE:
                break
            if each.fields.get("bin") == bin_id:
                newest.append(each)
        return tuple(reversed(newest))

    def forwarded(self, command: Forward, request: Request) -> None:
        """A request has its slot."""
        _queue.debug("forward", id=command.id, model=request.name, queued_s=command.queued_s)

    def refused(self, command: Refuse, request: Request, waiting: int) -> None:
        """A request is turned away, while so many wait."""
        self._decided(
            _queue,
            "refuse",
            reason=command.reason.value,
            model=request.name,
            id=command.id,
            waiting=waiting,
        )

    def loads(self, command: Load) -> None:
        """A load is ordered."""
        self._decided(
            _scheduler,
            "load",
            model=command.name,
            bin=command.bin,
            footprint=log.size(command.footprint_bytes),
            free="unknown" if command.free_bytes is None else log.size(command.free_bytes),
            alone=command.alone,
            waited_s=command.waited_s,
            request=command.for_request,
            **_why_next(command.choice),
        )
        if command.missing_bytes:
            _scheduler.warning(
                "it will be on the CPU in part: there is not more",
                model=command.name,
                missing=log.size(command.missing_bytes),
            )

    def warns(self, command: Warn) -> None:
        """A model serves although a part of it is on the CPU."""
        there = command.there_bytes
        self._decided(
            _scheduler,
            "offload",
            model=command.name,
            bin=command.bin,
            on_cpu=round(command.share, 2),
            wants=log.size(command.wanted_bytes),
            there="unknown" if there is None else log.size(there),
        )
        _scheduler.warning("a part of a model is on the CPU; it is slow", model=command.name)

    def unloads(self, command: Unload) -> None:
        """An unload is ordered."""
        match command.reason:
            case Evicted() as reason:
                self._decided(
                    _scheduler,
                    "evict",
                    model=command.name,
                    bin=command.bin,
                    idle_s=reason.idle_s,
                    **{"for": reason.for_model},
                    shortfall=reason.shortfall,
                    **_why_it(reason.cost),
                )
            case Expired() as reason:
                self._decided(
                    _scheduler,
                    "expire",
                    model=command.name,
                    bin=command.bin,
                    idle_s=reason.idle_s,
                    keep_alive_s=reason.keep_alive_s,
                )
            case Offloaded() as reason:
                self._decided(
                    _scheduler,
                    "unload partial",
                    model=command.name,
                    bin=command.bin,
                    on_cpu=round(reason.share, 2),
                    wants=log.size(reason.wanted_bytes),
                    load_again=reason.again,
                )
            case Broken() as reason:
                self._decided(
                    _scheduler,
                    "unload broken",
                    model=command.name,
                    bin=command.bin,
                    sign=reason.sign,
                )
            case _:
                assert_never(command.reason)

    def _decided(self, logger: log.Log, what: str, **fields: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.decisions.append(Decision(at=now, what=what, fields=fields))
        logger.info(what, **fields)


def _why_next(choice: Choice) -> dict[str, Any]:
    """The numbers that made a model the next one, short enough for a line."""
    return {
        "index": _short(choice.index),
        "work": _short(choice.work),
        "waiting": choice.waiting,
        "visit_s": _short(choice.visit_s),
        "drain_s": _short(choice.drain_s),
        "reload_s": _short(choice.reload_s),
        "overdue": choice.overdue,
        "reserved": choice.reserved,
        "passed_over": choice.passed_over,
        "rivals": ",".join(f"{name}={_short(index)}" for name, index in choice.rivals) or None,
    }


def _why_it(cost: Cost | None) -> dict[str, Any]:
    """What going cost it, part by part, in weighted seconds of waiting."""
    if cost is None:
        return {}
    return {
        "cost": _short(cost.total),
        "cost_waiting": _short(cost.known),
        "cost_expected": _short(cost.predicted),
        "cost_others": _short(cost.behind),
        "waiting": cost.waiting,
        "reload_s": _short(cost.reload_s),
        "drain_s": _short(cost.drain_s),
    }


def _short(value: float) -> float:
    return round(value, 3)
