"""What a request body asks for, in each dialect, and whether Ollama would refuse it at once.

Everything follows Ollama v0.32.15 (`server/routes.go`, `middleware`). In doubt a request is taken
for one that loads its model, for scheduling it is safe; nothing of a body is ever rewritten,
only `keep_alive` is cut out and the place of `options.num_ctx` told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from ollama_gate import names
from ollama_gate.errors import BadRequestError
from ollama_gate.scheduler.types import Launch, Priority
from ollama_gate.wire.bodies import BODIES, WHOLE_BODIES
from ollama_gate.wire.context import Place, context_in
from ollama_gate.wire.encoding import decode_zstd
from ollama_gate.wire.form import read_form
from ollama_gate.wire.meaning import MEANINGS, Fields
from ollama_gate.wire.options import named_as_null
from ollama_gate.wire.routes import Dialect, Endpoint
from ollama_gate.wire.scan import (
    HopelessError,
    Text,
    decoded,
    end_of_space,
    end_of_text,
    walk_object,
)
from ollama_gate.wire.shapes import ShortenedError, Struct

_PRIORITY: Final = re.compile(r"[+-]?[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that Ollama would load a model for.

    Attributes:
        model: as the client wrote it.
        launch_options: only what the request itself names; nobody but a native client can.
        keep_alive_s: `inf` for no limit; `None` if not given, or given where Ollama ignores it.
        empty: nothing is to be generated; with `keep_alive_s` 0, generate and chat unload.
        needs: the capabilities that Ollama checks before it loads.
        body: what to forward: the client's bytes, but for `keep_alive`.
        context_at: where in `body` the value of `options.num_ctx` stands that counts; `None`
            where it names none, as nobody but a native client can.
        nulls: runner's options that it names and gives as `null`: Ollama takes its default for
            them, but not as a choice left to it.
    """

    model: str
    launch_options: Launch
    keep_alive_s: float | None
    empty: bool
    stream: bool
    needs: frozenset[str]
    body: bytes
    context_at: Place | None = None
    nulls: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopeless:
    """A request that Ollama will refuse without loading anything; `why` is for the log."""

    why: str


def read(
    endpoint: Endpoint, headers: Mapping[str, str], body: bytes, *, query: str = ""
) -> Ask | Hopeless:
    """What a body means; `headers` match in any case, `query` is the part behind the `?`."""
    try:
        if endpoint is Endpoint.TRANSCRIPTIONS:
            return _read_transcription(headers.get("Content-Type", ""), body, query)
        if endpoint.dialect is Dialect.NATIVE:
            return _read_json(endpoint, body)
        is_encoded = headers.get("Content-Encoding") == "zstd"
        ask = _read_json(endpoint, decode_zstd(body) if is_encoded else body)
        # Nothing of it is ever cut, so it is forwarded as it came.
        return replace(ask, body=body)
    except HopelessError as error:
        return Hopeless(why=str(error))


def read_priority(value: str | None) -> Priority | None:
    """The class that `X-Priority` names; raises `BadRequestError` if it names none."""
    if value is None:
        return None
    word = value.strip()
    if word.upper() in Priority.__members__:
        return Priority[word.upper()]
    if not _PRIORITY.fullmatch(word):
        raise BadRequestError(
            f"X-Priority: expected high, normal, low or an integer, found {value[:40]!r}"
        )
    number = int(word)
    return Priority.HIGH if number > 0 else Priority.LOW if number < 0 else Priority.NORMAL


def read_deadline(value: str | None) -> float | None:
    """How many seconds a request may wait, as `X-Deadline` has it.

    Raises:
        BadRequestError: it is no number of seconds above 0.
    """
    if value is None:
        return None
    text = value.strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else 0.0
    if not seconds:
        raise BadRequestError(
            "X-Deadline: expected a number of seconds above 0, such as 30 or 2.5,"
            f" found {value[:40]!r}"
        )
    return seconds


# -------------------------------------------------------------------- JSON


def _read_json(endpoint: Endpoint, body: bytes) -> Ask:
    try:
        seen = _read_object(BODIES[endpoint], body)
    except ShortenedError:
        seen = _read_object(WHOLE_BODIES[endpoint], body)
    fields = Fields(body, seen.found)
    meaning = MEANINGS[endpoint](fields)
    cloud = None if endpoint.dialect is Dialect.NATIVE else _cloud_model(endpoint, body, seen)
    return Ask(
        model=cloud or _model(fields.text("model")),
        launch_options=meaning.launch,
        keep_alive_s=meaning.keep_alive_s,
        empty=meaning.empty,
        stream=meaning.stream,
        needs=meaning.needs,
        body=_without(body, seen.cuts),
        context_at=seen.context and seen.context.behind(seen.cuts),
        nulls=named_as_null(fields.get("options")),
    )


@dataclass(slots=True)
class _Object:
    """The object that a body begins with.

    Attributes:
        found: its fields.
        cuts: what of it is not to be forwarded.
        context: where `options.num_ctx` stands.
        models: where the values begin that are called exactly `model`.
        end: where it ends.
    """

    found: dict[str, Any] = field(default_factory=dict)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    context: Place | None = None
    models: list[int] = field(default_factory=list)
    end: int = 0


def _read_object(struct: Struct, body: bytes) -> _Object:
    seen = _Object()
    kept, last_end = False, 0

    def visit(key: bytes, key_at: int, at: int) -> int:
        nonlocal kept, last_end
        name, end = struct.member(body, key, at, 1, seen.found)
        # Only native routes have such a field.
        if name == "keep_alive":
            # The comma in front goes along if any member there stays, else the one behind.
            seen.cuts.append(
                (end_of_space(body, last_end), end) if kept else _with_comma(body, key_at, end)
            )
        else:
            kept = True
        # Nor this one.
        if name == "options":
            seen.context = context_in(body, at, seen.context)
        if name == "model" and decoded(key) == name:
            seen.models.append(at)
        last_end = end
        return end

    start = end_of_space(body, 0)
    if not body.startswith(b"{", start):
        raise HopelessError("expected a JSON object")
    seen.end = walk_object(body, start, 0, visit)
    return seen


def _cloud_model(endpoint: Endpoint, body: bytes, seen: _Object) -> str | None:
    """The model in the cloud that a request of `/v1` goes to unread.

    Before anything else Ollama looks for one under the exact name, in a body with nothing behind
    it; the other spellings of that name it learns of only later. Where Ollama is to search the web
    itself, it does not do so.
    """
    if not seen.models or not body.startswith(b'"', seen.models[-1]):
        return None
    at = seen.models[-1]
    model = Text(at, end_of_text(body, at)).decode(body)
    is_whole = end_of_space(body, seen.end) == len(body)
    is_cloud = names.is_cloud(model) and names.parse(model) is not None
    return model if is_cloud and is_whole and not _searches(endpoint, body, seen) else None


def _searches(endpoint: Endpoint, body: bytes, seen: _Object) -> bool:
    places = [(tool or {}).get("type") for tool in seen.found.get("tools") or ()]
    kinds = [place.decode(body) for place in places if isinstance(place, Text)]
    match endpoint:
        case Endpoint.RESPONSES:
            return "web_search" in kinds
        case Endpoint.MESSAGES:
            return any(kind.strip().startswith("web_search") for kind in kinds)
        case _:
            return False


def _with_comma(body: bytes, key_at: int, end: int) -> tuple[int, int]:
    behind = end_of_space(body, end)
    return key_at, behind + 1 if body[behind : behind + 1] == b"," else end


def _without(body: bytes, cuts: list[tuple[int, int]]) -> bytes:
    if not cuts:
        return body
    edges = [0, *(edge for cut in cuts for edge in cut), len(body)]
    return b"".join(body[start:end] for start, end in list(pairwise(edges))[::2])


def _model(raw: str) -> str:
    if names.parse(raw) is None:
        raise HopelessError(f"invalid or no model name {raw[:80]!r}")
    return raw


# -------------------------------------------------------------------- audio


def _read_transcription(content_type: str, body: bytes, query: str) -> Ask:
    form = read_form(content_type, body)
    # Go puts the query before the fields of a form.
    asked = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    if not form.files.get("file"):
        raise HopelessError("file is required")
    return Ask(
        model=_model(asked.get("model", form.values.get("model", ""))),
        launch_options=Launch(),
        keep_alive_s=None,
        empty=False,
        stream=False,
        needs=frozenset({"completion"}),
        body=body,
    )
