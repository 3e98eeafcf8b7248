"""`multipart/form-data` as Go's `mime/multipart` reads it: the fields, and which files there are.

Files are passed over where they lie; nothing of them is copied.
"""

import quopri
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ollama_gate.wire.media import parse_media_type
from ollama_gate.wire.scan import HopelessError

_SPACE_AT_END: Final = re.compile(rb"[ \t]+(?=\r?\n|\Z)")
_LINE: Final = re.compile(rb"([^\n]*?)\r?\n")
_HEADER: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z][!#$%&'*+\-.^_`|~0-9A-Za-z ]*):([^\x00-\x08\x0a-\x1f\x7f]*)"
)


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds.

    Attributes:
        values: the first value of each field that is no file.
        files: for each field that is a file, whether the first has any bytes.
    """

    values: dict[str, str] = field(default_factory=dict)
    files: dict[str, bool] = field(default_factory=dict)


def read_form(content_type: str, body: bytes) -> Form:
    """The fields of a form; raises `HopelessError` for what Go would not take for one."""
    kind, parameters = parse_media_type(content_type)
    boundary = parameters.get("boundary")
    if kind != "multipart/form-data" or not boundary:
        raise HopelessError("expected Content-Type multipart/form-data with a boundary")
    form = Form()
    for headers, start, end in _parts(body, b"--" + boundary.encode("utf-8", "surrogateescape")):
        disposition, named = parse_media_type(headers.get("content-disposition", ""))
        if disposition != "form-data" or not named.get("name"):
            continue
        if named.get("filename"):
            form.files.setdefault(named["name"], end > start)
        else:
            form.values.setdefault(named["name"], _value(headers, body[start:end]))
    return form


def _value(headers: Mapping[str, str], raw: bytes) -> str:
    # Go decodes this one encoding by itself.
    if headers.get("content-transfer-encoding", "").lower() == "quoted-printable":
        raw = quopri.decodestring(_SPACE_AT_END.sub(b"", raw))
    return raw.decode(errors="replace")


def _parts(body: bytes, dash: bytes) -> Iterator[tuple[dict[str, str], int, int]]:
    """The headers of each part, and where its content begins and ends."""
    line = re.compile(rb"(?m)^" + re.escape(dash) + rb"(?:[ \t]*(\r?\n)|--[ \t]*(?:\r?\n|\Z))")
    found = line.search(body)
    # The first line of all decides how lines end.
    newline: bytes = (found and found[1]) or b"\r\n"
    while found is not None and found[1] is not None:
        part = _headers(body, found.end())
        if part is None:
            return
        headers, start = part
        end = _end_of_part(body, start, newline, dash)
        yield headers, start, end
        at = end if body.startswith(dash, end) else end + len(newline)
        found = line.match(body, at)
    if found is None:
        raise HopelessError("expected another part or the end of the form")


def _headers(body: bytes, at: int) -> tuple[dict[str, str], int] | None:
    """The headers that begin here, and where the content behind them begins.

    `None` where the body ends among them, which Go takes for the end of the form.
    """
    lines: list[bytes] = []
    while at < len(body):
        found = _LINE.match(body, at)
        line, at = (found[1], found.end()) if found else (body[at:], len(body))
        if not line and found:
            return _named(lines), at
        if line[:1] in {b" ", b"\t"} and lines:
            lines[-1] += b" " + line.strip(b" \t")
        else:
            lines.append(line)
    _named(lines)
    return None


def _named(lines: list[bytes]) -> dict[str, str]:
    """The first value of each header; raises for what is none."""
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise HopelessError(f"malformed header in a part: {line[:40]!r}")
        name, value = (piece.decode(errors="replace") for piece in found.groups())
        headers.setdefault(name.lower(), value.strip(" \t"))
    return headers


def _end_of_part(body: bytes, start: int, newline: bytes, dash: bytes) -> int:
    """Where the content that begins here ends: at a boundary, not at what only begins like one."""
    if body.startswith(dash, start) and _is_boundary(body, start + len(dash)):
        return start
    at = start
    while (at := body.find(newline + dash, at)) >= 0:
        if _is_boundary(body, at + len(newline + dash)):
            return at
        at += 1
    raise HopelessError("a part without an end")


def _is_boundary(body: bytes, at: int) -> bool:
    return at == len(body) or body[at : at + 1] in b" \t\r\n" or body.startswith(b"--", at)
