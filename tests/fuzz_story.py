"""A history as code: calls of `tests/play.py` that can be pasted into a test."""

import enum
from collections.abc import Iterable
from dataclasses import fields, is_dataclass

from ollama_gate.scheduler import events as ev
from ollama_gate.scheduler.commands import Command, Forward, Load, Prewarm, Refuse, Unload, Warn
from ollama_gate.scheduler.types import Launch, Priority, Request
from tests.fuzz_case import Case, Setup
from tests.fuzz_scene import Scene
from tests.play import SIZES, a_request

GIB = 2**30
LONGEST = 200
"""Of a longer history only the last so many events are told."""


def story(case: Case, scene: Scene) -> str:
    """What was told to the scheduler, and what it answered, until it went wrong or was over."""
    lines = ["play = Play(", *(f"    {line}," for line in _stage(case.setup)), ")"]
    for at, event, commands in scene.told[-LONGEST:]:
        if isinstance(event, ev.Observed | ev.Measured | ev.Ticked) and not commands and at > 0:
            continue
        lines.append(_call(at, event))
        lines += [f"    # {_brief(command)}" for command in commands]
    return "\n".join(lines)


def spell(case: Case) -> str:
    """The case itself as code."""
    return _spelled(case)


def _stage(setup: Setup) -> Iterable[str]:
    yield f"capacity={setup.capacity}"
    yield f"max_loaded={setup.max_loaded}"
    yield f"bins={dict(setup.bins)}"
    yield "heard=False"
    for name, value in setup.policy:
        yield f"{name}={value}"


def _call(at: float, event: ev.Event) -> str:  # noqa: C901, PLR0911
    now = _figure(at)
    match event:
        case ev.Arrived(request=request):
            return f"play.arrives({now}, {_asked(request)})"
        case ev.Left(id=request_id, completed=True):
            return f"play.leaves({now}, {str(request_id)!r})"
        case ev.Cancelled(id=request_id):
            return f"play.cancelled({now}, {str(request_id)!r})"
        case ev.UnloadEnded(bin=bin_id, model=model, gone=gone):
            more = "" if gone else ", gone=False"
            return f"play.unloaded({now}, {str(model)!r}, {str(bin_id)!r}{more})"
        case ev.UpstreamLost(upstream=upstream):
            return f"play.loses({now}, {upstream!r})"
        case ev.Observed(upstream=upstream, residents=()):
            return f"play.sees({now}, upstream={upstream!r})"
        case ev.Released(model=model):
            return f"play.released({now}, {str(model)!r})"
        case ev.RunnerDied(id=request_id, oom=False):
            return f"play.runner_died({now}, {str(request_id)!r})"
        case ev.Ticked():
            return f"play.ticks({now})"
        case ev.Closing():
            return f"play.closes({now})"
        case _:
            return f"play.tell({now}, {_spelled(event)})"


def _asked(request: Request) -> str:
    need = next(iter(request.needs.values()))
    size = need.footprint_bytes / GIB
    plain = a_request("", "a", size=size, bins=tuple(map(str, request.needs)))
    given = [repr(str(request.id)), repr(str(request.model))]
    if SIZES.get(request.model) != size:
        given.append(f"size={_figure(size)}")
    if need.predicted_bytes * 2 != need.footprint_bytes:
        given.append(f"predicted={_figure(need.predicted_bytes / GIB)}")
    if list(request.needs) != ["u/0"]:
        given.append(f"bins={tuple(map(str, request.needs))}")
    for field in fields(Request):
        if field.name in {"id", "model", "name", "needs", "arrived_at", "variants"}:
            continue
        value = getattr(request, field.name)
        if value != getattr(plain, field.name):
            given.append(f"{field.name}={_spelled(value)}")
    return ", ".join(given)


def _spelled(value: object) -> str:
    """A value as code, without what is as it is anyway."""
    if isinstance(value, enum.Enum):
        return value.name if isinstance(value, Priority) else str(value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _figure(value)
    if isinstance(value, tuple):
        inside = ", ".join(_spelled(each) for each in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return _record(value) if is_dataclass(value) else repr(value)


def _record(value: object) -> str:
    assert is_dataclass(value)
    where = "ev." if type(value).__module__.endswith("scheduler.events") else ""
    given = [
        f"{field.name}={_spelled(getattr(value, field.name))}"
        for field in fields(value)
        if field.init and getattr(value, field.name) != field.default
    ]
    return f"{where}{type(value).__name__}({', '.join(given)})"


def _figure(value: float) -> str:
    rounded = round(value, 6)
    if rounded in {float("inf"), float("-inf")}:
        return f"float({str(value)!r})"
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def _brief(command: Command) -> str:
    match command:
        case Load(launch=launch):
            options = "" if launch == Launch() else f" with {_spelled(launch)}"
            return f"load {command.model} in {command.bin} for {command.for_request}{options}"
        case Unload():
            return f"unload {command.model} in {command.bin}: {_spelled(command.reason)}"
        case Forward():
            return f"forward {command.id} to {command.bin} after {_figure(command.queued_s)} s"
        case Refuse():
            return f"refuse {command.id}: {command.reason.value}"
        case Warn():
            return f"warn of {command.model}"
        case Prewarm():
            return f"prewarm {command.model} in {command.bin}"
