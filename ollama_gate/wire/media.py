"""Header values of the form `kind; name=value; name="value"`, as Go's `mime.ParseMediaType`."""

import re
from typing import Final
from urllib.parse import unquote

_WORD: Final = r"[!#$%&'*+\-.^_`{|}~0-9A-Za-z]"
_SPECIAL: Final = r'[()<>@,;:\\"/\[\]?=]'
_KIND: Final = re.compile(rf"{_WORD}+(?:/{_WORD}+)?")
_PARAMETER: Final = re.compile(
    rf'\s*;\s*({_WORD}++)\s*=\s*(?:({_WORD}++)|"((?:\\{_SPECIAL}|\\(?!{_SPECIAL})|[^"\\\r\n])*)")'
)
_END: Final = re.compile(r"\s*;?\s*")
_ESCAPED: Final = re.compile(rf"\\({_SPECIAL})")
_ENCODED: Final = re.compile(
    r"(?:us-ascii|utf-8)'[^']*'((?:[^%]|%[0-9A-Fa-f]{2})*+)", re.IGNORECASE
)


def parse_media_type(value: str) -> tuple[str, dict[str, str]]:
    """The kind and the parameters, names and kind in lower case; one bad parameter undoes all."""
    kind = value.partition(";")[0]
    given: dict[str, str] = {}
    at = len(kind)
    while found := _PARAMETER.match(value, at):
        name, plain, quoted = found.groups()
        text = _ESCAPED.sub(r"\1", quoted) if plain is None else plain
        if given.setdefault(name.lower(), text) != text:
            return "", {}
        at = found.end()
    kind = kind.strip().lower()
    if not _KIND.fullmatch(kind):
        return "", {}
    return kind, _joined(given) if _END.fullmatch(value, at) else {}


def _joined(given: dict[str, str]) -> dict[str, str]:
    """Parameters as RFC 2231 has them: encoded (`name*`) or in pieces (`name*0`, `name*1*`)."""
    joined = {name: text for name, text in given.items() if "*" not in name}
    for base in {name.partition("*")[0] for name in given if "*" in name}:
        text = _decoded(given[f"{base}*"]) if f"{base}*" in given else _pieced(given, base)
        if text is not None:
            joined[base] = text
    return joined


def _pieced(given: dict[str, str], base: str) -> str | None:
    pieces: list[str] = []
    while (piece := _piece(given, f"{base}*{len(pieces)}", first=not pieces)) is not None:
        pieces.append(piece)
    return "".join(pieces) if pieces else None


def _piece(given: dict[str, str], name: str, *, first: bool) -> str | None:
    if name in given:
        return given[name]
    encoded = given.get(f"{name}*")
    if encoded is None:
        return None
    # Only the first says in which characters the whole is written.
    return _decoded(encoded) or "" if first else unquote(encoded)


def _decoded(text: str) -> str | None:
    found = _ENCODED.fullmatch(text)
    return unquote(found[1]) if found else None
