"""Answers of the gate's own, spelled as Ollama v0.32.15 spells them in each dialect."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, assert_never

from ollama_gate.scheduler.types import Refusal
from ollama_gate.wire.routes import Dialect, Endpoint

QUEUE_FULL_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's own, two spaces included."""
RUNNER_DIED_TEXT: Final = "an error was encountered while running the model: unexpected EOF"
CANCELLED_TEXT: Final = "request canceled"
CLIENT_CLOSED_REQUEST: Final = 499

_OPENAI_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_NATIVE_TYPE: Final = "application/json; charset=utf-8"
_OTHER_TYPE: Final = "api_error"

_GO_ESCAPES: Final = str.maketrans(
    {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
    | {chr(half): "\\ufffd" for half in range(0xD800, 0xE000)}
)
"""What Go's `json.Marshal` escapes and Python does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer, but for what the server adds to every one."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def refuse(
    dialect: Dialect,
    status: int,
    text: str,
    *,
    retry_after_s: float | None = None,
    retryable: bool = True,
    request_id: str | None = None,
) -> Answer:
    """An error as the clients of this dialect expect it.

    `retry_after_s` is rounded up to whole seconds, at least one. What is not `retryable` says so,
    for OpenAI's and Anthropic's clients would try again by themselves. `request_id` is a field of
    Anthropic's dialect and left out elsewhere.
    """
    kind, body = _error(dialect, int(status), text, request_id)
    headers = [("Content-Type", kind)]
    if retry_after_s is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(retry_after_s)))))
    if not retryable:
        headers.append(("x-should-retry", "false"))
    return Answer(status=int(status), headers=tuple(headers), body=body)


def refusal(
    dialect: Dialect,
    reason: Refusal,
    *,
    status: int | None = None,
    text: str | None = None,
    retry_after_s: float | None = None,
    request_id: str | None = None,
) -> Answer:
    """The scheduler's refusal as an answer; an upstream's own `status` and `text` go first.

    Who is told that a model never fits, or has waited for too long, need not ask again.
    """
    own_status, own_text = _DEFAULTS[reason]
    return refuse(
        dialect,
        own_status if status is None else status,
        own_text if text is None else text,
        retry_after_s=retry_after_s,
        retryable=reason not in {Refusal.NEVER_FITS, Refusal.DEADLINE},
        request_id=request_id,
    )


def never_fits_text(wanted_bytes: int, there_bytes: int | None) -> str:
    """Why a model that may not be on the CPU in part is not loaded, with the numbers."""
    there = (
        "it is not known how much there is"
        if there_bytes is None
        else f"there is {_gib(there_bytes)}"
    )
    wanted = _gib(wanted_bytes)
    return f"model requires {wanted} of GPU memory and {there}; it is not to run on the CPU"


def too_late_text(awaited: str, waited_s: float, limit: str) -> str:
    """What was waited for, for how long, and which `limit` allows no more."""
    return f"waited {waited_s:.3g} s for {awaited}; {limit} allows no more"


def too_many_text(waiting: int) -> str:
    """How many of a client wait, where its next one is turned away."""
    requests = "request of this client waits" if waiting == 1 else "requests of this client wait"
    return f"{waiting} {requests} already; queue.max_per_client allows no more"


def _gib(size_bytes: int) -> str:
    return f"{max(0, size_bytes) / 2**30:.1f} GiB"


def unload_answer(endpoint: Endpoint, model: str, created_at: str) -> Answer:
    """What Ollama answers to the empty form with `keep_alive` 0, `created_at` as RFC 3339 in UTC.

    The embedding routes say no more than that nothing was embedded.
    """
    ended = {"done": True, "done_reason": "unload"}
    said: dict[str, Any]
    match endpoint:
        case Endpoint.GENERATE:
            said = {"model": model, "created_at": created_at, "response": "", **ended}
        case Endpoint.CHAT:
            message = {"role": "assistant", "content": ""}
            said = {"model": model, "created_at": created_at, "message": message, **ended}
        case Endpoint.EMBED:
            said = {"model": model, "embeddings": []}
        case Endpoint.EMBEDDINGS:
            said = {"embedding": []}
        case _:
            raise ValueError(f"{endpoint.value} takes no keep_alive")
    return Answer(
        status=HTTPStatus.OK, headers=(("Content-Type", _NATIVE_TYPE),), body=_go_json(said)
    )


def broken_line(text: str | None = None) -> bytes:
    """The last line of an NDJSON stream that cannot go on; by default as for a runner that died."""
    return _go_json({"error": RUNNER_DIED_TEXT if text is None else text}) + b"\n"


_DEFAULTS: Final[Mapping[Refusal, tuple[int, str]]] = {
    Refusal.QUEUE_FULL: (HTTPStatus.SERVICE_UNAVAILABLE, QUEUE_FULL_TEXT),
    Refusal.CLIENT_FULL: (
        HTTPStatus.TOO_MANY_REQUESTS,
        "as many of this client's requests wait as may",
    ),
    Refusal.DEADLINE: (
        HTTPStatus.GATEWAY_TIMEOUT,
        "the request waited for longer than it may",
    ),
    Refusal.LOAD_FAILED: (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the model could not be loaded",
    ),
    Refusal.NEVER_FITS: (
        HTTPStatus.INSUFFICIENT_STORAGE,
        "the model does not fit into GPU memory",
    ),
    Refusal.UPSTREAM_AWAY: (HTTPStatus.BAD_GATEWAY, "the upstream does not answer"),
    Refusal.CANCELLED: (CLIENT_CLOSED_REQUEST, CANCELLED_TEXT),
    Refusal.SHUTTING_DOWN: (HTTPStatus.SERVICE_UNAVAILABLE, "the gate is shutting down"),
}
"""Every reason's own status and words; a test sees to it that none is missing."""


def _error(dialect: Dialect, status: int, text: str, request_id: str | None) -> tuple[str, bytes]:
    """Content type and body."""
    match dialect:
        case Dialect.NATIVE:
            return _NATIVE_TYPE, _go_json({"error": text})
        case Dialect.OPENAI:
            kind = _OPENAI_TYPES.get(status, _OTHER_TYPE)
            error = {"message": text, "type": kind, "param": None, "code": None}
            return "application/json", _go_json({"error": error}) + b"\n"
        case Dialect.ANTHROPIC:
            kind = _ANTHROPIC_TYPES.get(status, _OTHER_TYPE)
            named = {"request_id": request_id} if request_id else {}
            whole = {"type": "error", "error": {"type": kind, "message": text}, **named}
            return "application/json", _go_json(whole) + b"\n"
        case _:
            assert_never(dialect)


def _go_json(value: dict[str, Any]) -> bytes:
    """As `json.Marshal` would write it: no spaces, no letters that could end a script."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return plain.translate(_GO_ESCAPES).encode()
