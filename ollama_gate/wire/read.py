"""What a request body asks for, in each dialect, and whether Ollama would refuse it at once.

Everything follows Ollama v0.32.15 (`server/routes.go`, `middleware`). In doubt a request is taken
for one that loads its model, for scheduling it is safe; nothing of a body is ever rewritten,
only `keep_alive` is cut out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from ollama_gate import names
from ollama_gate.errors import BadRequestError
from ollama_gate.scheduler.types import Launch, Priority
from ollama_gate.wire.bodies import BODIES
from ollama_gate.wire.form import read_form
from ollama_gate.wire.meaning import MEANINGS, Fields
from ollama_gate.wire.routes import Dialect, Endpoint
from ollama_gate.wire.scan import HopelessError, Text, end_of_space, walk_object
from ollama_gate.wire.shapes import fold

_PRIORITY: Final = re.compile(r"[+-]?[0-9]{1,18}")


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
    """

    model: str
    launch_options: Launch
    keep_alive_s: float | None
    empty: bool
    stream: bool
    needs: frozenset[str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopeless:
    """A request that Ollama will refuse without loading anything; `why` is for the log."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request that Ollama would decode first, with this `Content-Encoding`."""

    encoding: str


def read(
    endpoint: Endpoint, headers: Mapping[str, str], body: bytes, *, query: str = ""
) -> Ask | Hopeless | Encoded:
    """What a body means; `headers` match in any case, `query` is the part behind the `?`."""
    try:
        if endpoint is Endpoint.TRANSCRIPTIONS:
            return _read_transcription(headers.get("Content-Type", ""), body, query)
        # Spelled otherwise, or on a native route, Ollama does not decode it.
        if endpoint.dialect is not Dialect.NATIVE and headers.get("Content-Encoding") == "zstd":
            return Encoded(encoding="zstd")
        return _read_json(endpoint, body)
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


# -------------------------------------------------------------------- JSON


def _read_json(endpoint: Endpoint, body: bytes) -> Ask:
    found, cuts = _read_object(endpoint, body)
    fields = Fields(body, found)
    meaning = MEANINGS[endpoint](fields)
    return Ask(
        model=_model(fields.text("model")),
        launch_options=meaning.launch,
        keep_alive_s=meaning.keep_alive_s,
        empty=meaning.empty,
        stream=meaning.stream,
        needs=meaning.needs,
        body=_without(body, cuts),
    )


def _read_object(endpoint: Endpoint, body: bytes) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """The fields of the object that a body begins with, and what of it is not to be forwarded."""
    struct, native = BODIES[endpoint], endpoint.dialect is Dialect.NATIVE
    found: dict[str, Any] = {}
    cuts: list[tuple[int, int]] = []
    kept, last_end = False, 0

    def visit(key: Text, at: int) -> int:
        nonlocal kept, last_end
        name = fold(key.decode(body))
        end = struct.member(body, name, at, 1, found)
        if native and name == "keep_alive":
            # The comma in front goes along if any member there stays, else the one behind.
            cuts.append(
                (end_of_space(body, last_end), end) if kept else _with_comma(body, key, end)
            )
        else:
            kept = True
        last_end = end
        return end

    start = end_of_space(body, 0)
    if body[start : start + 1] != b"{":
        raise HopelessError("expected a JSON object")
    walk_object(body, start, 0, visit)
    return found, cuts


def _with_comma(body: bytes, key: Text, end: int) -> tuple[int, int]:
    behind = end_of_space(body, end)
    return key.start, behind + 1 if body[behind : behind + 1] == b"," else end


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
