"""`options` of a request: what they do to a runner, and what Ollama says of a wrong type.

Ollama v0.32.15 api/types.go (`DefaultOptions`, `FromMap`) and server/routes.go
(`modelOptionsWithEmbeddingBatchDefault`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ollama_gate.simulator.catalog import EMBEDDING, VISION, Model

_INTEGERS = frozenset(
    {
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "draft_num_predict",
    }
)
_FLOATS = frozenset(
    {
        "top_p",
        "min_p",
        "typical_p",
        "temperature",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    }
)
_MIN_CONTEXT = 4
_MIN_VISION_CONTEXT = 2048
_EMBEDDING_BATCH = 2048
_DRAFT = 4


class OptionTypeError(ValueError):
    """An option of the wrong type: Ollama answers 500 with this text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The options a runner is started with; a difference in any of them may mean a reload.

    Attributes:
        num_gpu: layers for the GPU, -1 for as many as fit.
        num_ctx_auto: nobody asked for a context; likewise `num_batch_auto` for the batch.
        shift: whether the context may shift when it is full.
    """

    num_ctx: int
    num_batch: int
    num_gpu: int
    main_gpu: int | None
    use_mmap: bool | None
    num_thread: int
    draft_num_predict: int
    num_ctx_auto: bool
    num_batch_auto: bool
    shift: bool


def launch_of(
    model: Model,
    requested: Mapping[str, Any],
    *,
    default_context: int,
    context_is_configured: bool,
    shift: bool | None,
) -> Launch:
    """Defaults, then the Modelfile's parameters, then the request's options.

    Raises:
        OptionTypeError: for a value of the wrong type.
    """
    chosen = dict(_checked(model.parameters)) | dict(_checked(requested))
    # What is named counts as named even if it is null, and the default stands for it then.
    embeds = model.can(EMBEDDING) and not _names(model, requested, "num_batch")
    draft = _DRAFT if _names(model, requested, "draft_num_predict") else 0
    num_ctx = chosen.get("num_ctx", default_context)
    num_batch = chosen.get("num_batch", 512)
    if embeds:
        num_batch = min(_EMBEDDING_BATCH, num_ctx) if num_ctx > 0 else _EMBEDDING_BATCH
    return Launch(
        num_ctx=max(num_ctx, _MIN_VISION_CONTEXT if model.can(VISION) else _MIN_CONTEXT),
        num_batch=num_batch,
        num_gpu=chosen.get("num_gpu", -1),
        main_gpu=chosen.get("main_gpu"),
        use_mmap=chosen.get("use_mmap"),
        num_thread=chosen.get("num_thread", 0),
        draft_num_predict=chosen.get("draft_num_predict", draft),
        num_ctx_auto=not _names(model, requested, "num_ctx") and not context_is_configured,
        num_batch_auto=not _names(model, requested, "num_batch") and not embeds,
        shift=model.shape.family != "deepseek2" if shift is None else shift,
    )


def num_predict_of(model: Model, requested: Mapping[str, Any]) -> int:
    """How many tokens may be generated; negative for no limit."""
    chosen = {**model.parameters, **requested}
    value = chosen.get("num_predict")
    return -1 if value is None else int(value)


def stops_of(model: Model, requested: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts that end an answer; the request's replace the Modelfile's."""
    chosen = {**model.parameters, **requested}
    return tuple(chosen.get("stop") or ())


def _names(model: Model, requested: Mapping[str, Any], key: str) -> bool:
    return key in requested or key in model.parameters


def _checked(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if value is None:
            continue
        if key in _INTEGERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise OptionTypeError(f'option "{key}" must be of type integer')
            yield key, int(value)
        elif key == "use_mmap":
            if not isinstance(value, bool):
                raise OptionTypeError(f'option "{key}" must be of type boolean')
            yield key, value
        else:
            _check_sampling(key, value)


def _check_sampling(key: str, value: Any) -> None:
    if key in _FLOATS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise OptionTypeError(f'option "{key}" must be of type float32')
    if key == "stop":
        if not isinstance(value, list):
            raise OptionTypeError(f'option "{key}" must be of type array')
        if not all(isinstance(item, str) for item in value):
            raise OptionTypeError(f'option "{key}" must be of an array of strings')
