"""How what was learned is spelled in notes, and read back.

A note that says something odd is nobody's: it reads as `None`, and is not believed in part.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from ollama_gate.experience.times import Average, Times
from ollama_gate.footprint import Figure, Key, Lesson
from ollama_gate.scheduler.types import Launch, ModelKey

_T = TypeVar("_T")


def key_text(key: Key, version: str) -> str:
    """Everything that tells a lesson from others of the same model."""
    launch = {name: value for name, value in asdict(key.launch).items() if value not in {None, ()}}
    parts = {
        "launch": launch,
        "kv": key.kv_cache_type,
        "parallel": key.parallel,
        "cpu": key.on_cpu_bin,
        "version": version,
    }
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))


def read_key(model: str, text: str) -> tuple[Key, str] | None:
    """The inverse of `key_text`."""
    return _read(_key, (model, text))


def _key(given: tuple[str, str]) -> tuple[Key, str]:
    model, text = given
    parts = json.loads(text)
    launch = parts["launch"]

    def number(name: str) -> int | None:
        return None if launch.get(name) is None else _int(launch[name])

    key = Key(
        model=ModelKey(model),
        launch=Launch(
            num_batch=number("num_batch"),
            num_gpu=number("num_gpu"),
            main_gpu=number("main_gpu"),
            draft_num_predict=number("draft_num_predict"),
            extras=tuple(_str(extra) for extra in launch.get("extras", ())),
        ),
        kv_cache_type=_str(parts["kv"]),
        parallel=_int(parts["parallel"]),
        on_cpu_bin=parts["cpu"] is True,
    )
    return key, _str(parts["version"])


def lesson_value(lesson: Lesson) -> dict[str, Any]:
    """A lesson; contexts are texts, since JSON knows no other names."""
    return {
        "figures": {
            str(context): [figure.bytes, figure.lower, figure.count]
            for context, figure in lesson.figures.items()
        },
        "unfit": sorted(lesson.unfit),
        "bump_percent": lesson.bump_percent,
        "clean": lesson.clean,
        "seen_at": lesson.seen_at,
    }


def read_lesson(value: Any) -> Lesson | None:
    """The inverse of `lesson_value`."""
    return _read(_lesson, value)


def _lesson(value: Mapping[str, Any]) -> Lesson:
    return Lesson(
        figures={int(context): _figure(figure) for context, figure in value["figures"].items()},
        unfit=frozenset(_int(context) for context in value["unfit"]),
        bump_percent=_int(value["bump_percent"]),
        clean=_int(value["clean"]),
        seen_at=_float(value["seen_at"]),
    )


def _figure(value: Sequence[Any]) -> Figure:
    size_bytes, lower, count = value
    return Figure(bytes=_int(size_bytes), lower=_int(lower), count=_int(count))


def times_value(times: Times) -> dict[str, Any]:
    """The averages that there are."""
    named = (("load", times.load), ("unload", times.unload), ("service", times.service))
    return {name: [one.seconds, one.count] for name, one in named if one is not None}


def read_times(value: Any) -> Times | None:
    """The inverse of `times_value`."""
    return _read(_times, value)


def _times(value: Mapping[str, Any]) -> Times:
    return Times(**{name: _average(one) for name, one in value.items()})


def _average(value: Sequence[Any]) -> Average:
    seconds, count = value
    return Average(seconds=_float(seconds), count=max(1, _int(count)))


def overhead_value(samples: Sequence[int], *, by_process: bool) -> dict[str, Any]:
    """What processes took of a card."""
    return {"samples": list(samples), "by_process": by_process}


def read_overhead(value: Any) -> tuple[list[int], bool] | None:
    """The inverse of `overhead_value`."""
    return _read(lambda it: ([_int(one) for one in it["samples"]], it["by_process"] is True), value)


def presence_value(digests: Sequence[str], seen_at: float) -> dict[str, Any]:
    """Under which manifests a model was on the disk, and when it last was."""
    return {"digests": list(digests), "seen_at": seen_at}


def read_presence(value: Any) -> tuple[list[str], float] | None:
    """The inverse of `presence_value`."""
    return _read(lambda it: ([_str(one) for one in it["digests"]], _float(it["seen_at"])), value)


def _read(how: Callable[[Any], _T], value: Any) -> _T | None:
    try:
        return how(value)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _int(value: Any) -> int:
    if type(value) is not int or value < -1:
        raise ValueError(value)
    return value


def _float(value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value) or value < 0:
        raise ValueError(value)
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value
