"""Filling in the places of a case's texts: roles, sides, captures and generated values."""

import base64
import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Mapping

from tests.conformance.case import Ask, Case, asks_of

_PLACE = re.compile(r"@([a-z_]+)(?::([^@\s]*))?@")

ROLES: Mapping[str, str] = {
    "chat": "a model that completes text",
    "other": "a second model that completes text",
    "embed": "a model that embeds and does not complete",
    "tools": "a model with tools",
    "toolless": "a model that completes text, without tools",
    "vision": "a model that sees",
    "sightless": "a model that completes text and does not see",
    "thinking": "a model that thinks",
    "thoughtless": "a model that completes text and does not think",
    "insert": "a model that fills in the middle",
    "insertless": "a model that completes text and does not fill in the middle",
    "audio": "a model that hears",
    "stub": "a stub of a cloud model",
}
"""What a model can be to a case, and what that asks of it."""


def roles_of(case: Case) -> frozenset[str]:
    """The roles that a case needs somebody to play."""
    texts = (text for step in case.steps for ask in asks_of(step) for text in _texts(ask))
    return frozenset(name for text in texts for name, _ in _PLACE.findall(text) if name in ROLES)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Fill in every place of a text.

    Raises:
        KeyError: nothing is called so.
    """

    def value(found: re.Match[str]) -> str:
        name, argument = found[1], found[2]
        if argument is None:
            return values[name]
        if name in _OWN:
            return _OWN[name](own_text(argument, values))
        return _GENERATED[name](argument)

    return _PLACE.sub(value, text)


def own_text(what: str, values: Mapping[str, str]) -> str:
    """A text that no other run and no other side has; `large` is one of 3 MB."""
    padding = "x" * 3_000_000 if what == "large" else ""
    return f"a blob of {values['run']} for {values['mine']}: {what}{padding}"


def _texts(ask: Ask) -> list[str]:
    body = ask.body.decode("latin-1") if isinstance(ask.body, bytes) else ask.body or ""
    values = [value for _, value in ask.headers]
    return [ask.target, body, ask.host or "", ask.verbatim, *ask.pieces, *values]


def _png(side: str) -> str:
    """A square picture in base64, of about 3 bytes for each pixel: nothing is packed."""
    size = int(side)
    row = b"\0" + bytes((x * 7) % 256 for x in range(size * 3))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * size, 0)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + checksum
    return base64.b64encode(data).decode()


def _wav(milliseconds: str) -> str:
    """Silence at 16 kHz, each character one byte."""
    samples = b"\0\0" * (16 * int(milliseconds))
    form = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    parts = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    parts += b"data" + struct.pack("<I", len(samples)) + samples
    return (b"RIFF" + struct.pack("<I", len(parts)) + parts).decode("latin-1")


_GENERATED: Mapping[str, Callable[[str], str]] = {
    "png": _png,
    "wav": _wav,
    "sha": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "fill": lambda count: "x" * int(count),
    "words": lambda count: " ".join(["word"] * int(count)),
}

_OWN: Mapping[str, Callable[[str], str]] = {
    "own_text": lambda text: text,
    "own_first": lambda text: text[:9],
    "own_rest": lambda text: text[9:],
    "own_sha": lambda text: hashlib.sha256(text.encode()).hexdigest(),
}
