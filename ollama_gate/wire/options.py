"""The options a runner is started with, out of those that a request names."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ollama_gate.scheduler.types import Launch
from ollama_gate.wire.scan import HopelessError, Text

MIN_CONTEXT: Final = 4
"""Ollama raises a smaller `num_ctx` to this (`server/sched.go`, `getRunner`)."""

_INT64: Final = range(-(2**63), 2**63)


def _number(value: Any) -> bool:
    return isinstance(value, float)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def are_strings(value: Any) -> bool:
    """Whether an untyped value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, Text) for item in value)


_OPTIONS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"], _number),
    **dict.fromkeys(["draft_num_predict", "num_keep", "seed", "num_predict"], _number),
    **dict.fromkeys(["top_k", "repeat_last_n"], _number),
    **dict.fromkeys(["top_p", "min_p", "typical_p", "temperature"], _number),
    **dict.fromkeys(["repeat_penalty", "presence_penalty", "frequency_penalty"], _number),
    "use_mmap": _boolean,
    "stop": are_strings,
}
"""Ollama's options (`api/types.go`), each with a test for what Go would take; JSON has one kind of
number, and where Go wants an integer it cuts the fraction off."""


_NULL_IS_A_CHOICE: Final = frozenset({"num_ctx", "num_batch", "draft_num_predict"})
"""Ollama asks of these whether they are named, not what they say (`server/routes.go`)."""

_NOTHING: Final = Launch()


def launch_options(options: Mapping[str, Any] | None, *, shift: bool | None = None) -> Launch:
    """What the `options` of a native request ask for; raises `HopelessError` for a wrong type."""
    if not options and shift is None:
        return _NOTHING
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name, value in given.items():
        fits = _OPTIONS.get(name)
        if fits is not None and not fits(value):
            raise HopelessError(f"option {name!r} is of the wrong type")
    num_ctx = _cut(given.get("num_ctx"))
    return Launch(
        num_ctx=None if num_ctx is None else max(num_ctx, MIN_CONTEXT),
        num_batch=_cut(given.get("num_batch")),
        num_gpu=_cut(given.get("num_gpu")),
        main_gpu=_cut(given.get("main_gpu")),
        use_mmap=given.get("use_mmap"),
        num_thread=_cut(given.get("num_thread")),
        draft_num_predict=_cut(given.get("draft_num_predict")),
        shift=shift,
    )


def named_as_null(options: Mapping[str, Any] | None) -> frozenset[str]:
    """Of the runner's options for which it makes a difference, those given as `null`."""
    given = (options or {}).items()
    return frozenset(name for name, value in given if value is None and name in _NULL_IS_A_CHOICE)


def _cut(value: float | None) -> int | None:
    """As Go on amd64 turns a float64 into an int."""
    if value is None:
        return None
    whole = int(value)
    return whole if whole in _INT64 else _INT64.start
