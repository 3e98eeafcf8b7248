"""Request bodies read as Go reads them into its structs.

Keys match in any case, the last duplicate wins, nulls leave a plain field as it was, what follows
the object is ignored; a wrong type is told in Go's words (encoding/json; Ollama v0.32.15
api/types.go, openai/openai.go). What the fields are good for is not known here.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ollama_gate.simulator import gojson
from ollama_gate.simulator.gojson import Number, Pairs

FOREVER_NS = 2**63 - 1

_INT64 = range(-(2**63), 2**63)
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile(r"(\d*)(\.\d*)?([^\d.]*)")


class BadBodyError(ValueError):
    """The body is not what the route wants; the text is what Ollama answers with status 400."""


class _Mismatch(Exception):  # noqa: N818 (control flow: Go notes the first and reads on)
    """A value of another type than the field's."""

    def __init__(self, found: str, wanted: str, path: str = "", struct: str | None = None) -> None:
        super().__init__(found, wanted)
        self.found, self.wanted, self.path, self.struct = found, wanted, path, struct


Reader = Callable[[Any], Any]
"""Turns a JSON value that is not null into a field's value, or raises."""


@dataclass(frozen=True, slots=True)
class Field:
    """How one field is read, and whether null empties it (pointers, maps, slices) or is skipped."""

    read: Reader
    null_clears: bool = False


@dataclass(frozen=True, slots=True)
class Struct:
    """A Go struct: its type's name and its fields by JSON key."""

    name: str
    fields: Mapping[str, Field]


def read_body(
    body: bytes, struct: Struct, *, empty: str = "missing request body"
) -> dict[str, Any]:
    """The fields that the body sets, by their JSON keys; those it leaves alone are absent.

    Raises:
        BadBodyError: with Go's own words.
    """
    try:
        value = gojson.decode(body)
    except gojson.EmptyError:
        raise BadBodyError(empty) from None
    except gojson.MalformedError as error:
        raise BadBodyError(str(error)) from None
    return read_value(value, struct)


def read_value(value: Any, struct: Struct) -> dict[str, Any]:
    """The fields of a value that is decoded on its own, as Go's `json.Unmarshal` does it.

    Raises:
        BadBodyError: with Go's own words.
    """
    if value is None:
        return {}
    if not isinstance(value, Pairs):
        raise BadBodyError(
            f"json: cannot unmarshal {_kind(value)} into Go value of type {struct.name}"
        )
    found: list[_Mismatch] = []
    fields = _read_struct(value, struct, found)
    if found:
        raise BadBodyError(_told(found[0]))
    return fields


def nested(struct: Struct, *, unmarshaler: bool = False) -> Reader:
    """A reader for a struct inside a struct.

    Args:
        struct: what is inside.
        unmarshaler: the type reads itself, so that Go blames the struct around it.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, Pairs):
            raise _Mismatch(_kind(value), struct.name)
        found: list[_Mismatch] = []
        fields = _read_struct(value, struct, found)
        if found:
            first = found[0]
            raise _Mismatch(
                first.found, first.wanted, first.path, None if unmarshaler else first.struct
            )
        return fields

    return read


def many(read: Reader, type_name: str) -> Reader:
    """A reader for a slice; nulls in it become `None`."""

    def read_all(value: Any) -> Any:
        if not isinstance(value, list) or isinstance(value, Pairs):
            raise _Mismatch(_kind(value), type_name)
        return [None if item is None else read(item) for item in value]

    return read_all


def string(value: Any) -> str:
    """A Go `string`."""
    if not isinstance(value, str):
        raise _Mismatch(_kind(value), "string")
    return value


def boolean(value: Any) -> bool:
    """A Go `bool`."""
    if not isinstance(value, bool):
        raise _Mismatch(_kind(value), "bool")
    return value


def integer(value: Any) -> int:
    """A Go `int`: no fraction, no exponent, 64 bits."""
    if not isinstance(value, Number):
        raise _Mismatch(_kind(value), "int")
    if not re.fullmatch(r"-?\d+", value.text) or int(value.text) not in _INT64:
        raise _Mismatch(f"number {value.text}", "int")
    return int(value.text)


def floating(type_name: str) -> Reader:
    """A Go `float64` or `float32`."""

    def read(value: Any) -> float:
        if not isinstance(value, Number):
            raise _Mismatch(_kind(value), type_name)
        return float(value)

    return read


def mapping(value: Any) -> dict[str, Any]:
    """A Go `map[string]any`: keys as they are."""
    if not isinstance(value, Pairs):
        raise _Mismatch(_kind(value), "map[string]interface {}")
    merged: dict[str, Any] = gojson.plain(value)
    return merged


def string_map(value: Any) -> dict[str, str]:
    """A Go `map[string]string`; a null in it is an empty string."""
    if not isinstance(value, Pairs):
        raise _Mismatch(_kind(value), "map[string]string")
    return {key: "" if item is None else string(item) for key, item in value}


def anything(value: Any) -> Any:
    """A Go `any`."""
    return gojson.plain(value)


def arguments(value: Any) -> dict[str, Any]:
    """What a tool is called with: an object, whose keys keep their order.

    Raises:
        BadBodyError: for anything else, in the words of the reader that Ollama uses for it.
    """
    if not isinstance(value, Pairs):
        raise BadBodyError("Value looks like object, but can't find closing '}' symbol")
    read: dict[str, Any] = gojson.plain(value)
    return read


def raw(value: Any) -> Any:
    """A Go `json.RawMessage`: as it was written, objects as `Pairs` and numbers as `Number`."""
    return value


def mismatch(value: Any, wanted: str) -> Exception:
    """What a reader raises for a value of the wrong type; Go adds where it stands."""
    return _Mismatch(_kind(value), wanted)


def kind(value: Any) -> str:
    """What Go calls a JSON value's type."""
    return "null" if value is None else _kind(value)


def image(value: Any) -> bytes:
    """Base64 in a string.

    Raises:
        BadBodyError: if it is not base64.
    """
    if not isinstance(value, str):
        raise _Mismatch(_kind(value), "api.ImageData")
    return go_base64(value)


def go_base64(text: str) -> bytes:
    """Go's `base64.StdEncoding`.

    Raises:
        BadBodyError: with Go's words.
    """
    try:
        return base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        bad = re.search(r"[^A-Za-z0-9+/\r\n]", text)
        at = bad.start() if bad else len(text) // 4 * 4
        raise BadBodyError(f"illegal base64 data at input byte {at}") from None


def duration_ns(value: Any) -> int:
    """`keep_alive`: seconds as a number or a Go duration as text; negative is for ever.

    A number too large becomes the least length there is, as on x86-64.

    Raises:
        BadBodyError: for anything else.
    """
    match value:
        case bool():
            raise BadBodyError("Unsupported type: 'bool'")
        case Number():
            length_ns = value * 1e9
            overflows = length_ns > FOREVER_NS
            return FOREVER_NS if value < 0 else ~FOREVER_NS if overflows else int(length_ns)
        case str():
            parsed = parse_duration_ns(value)
            return FOREVER_NS if parsed < 0 else parsed
        case Pairs():
            raise BadBodyError("Unsupported type: 'map[string]interface {}'")
        case _:
            raise BadBodyError("Unsupported type: '[]interface {}'")


def think(value: Any) -> bool | str:
    """`think`: a boolean or one of four words.

    Raises:
        BadBodyError: for anything else.
    """
    levels = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadBodyError(f"think must be a boolean or string ({levels})")
    if value not in {"high", "medium", "low", "max"}:
        raise BadBodyError(f'invalid think value: "{value}" (must be {levels})')
    return value


def parse_duration_ns(text: str) -> int:
    """Go's `time.ParseDuration`.

    Raises:
        BadBodyError: with Go's words.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return 0
    total = 0
    if not rest:
        raise BadBodyError(f'time: invalid duration "{text}"')
    while rest:
        term = _TERM.match(rest)
        assert term is not None
        whole, fraction, unit = term[1], term[2] or "", term[3]
        if not whole and fraction in {"", "."}:
            raise BadBodyError(f'time: invalid duration "{text}"')
        if not unit:
            raise BadBodyError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS_NS:
            raise BadBodyError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += int(whole or 0) * _UNITS_NS[unit]
        total += int(float(f"0{fraction}") * _UNITS_NS[unit]) if fraction else 0
        rest = rest[term.end() :]
    if total > FOREVER_NS:
        raise BadBodyError(f'time: invalid duration "{text}"')
    return sign * total


def _told(found: _Mismatch) -> str:
    return (
        f"json: cannot unmarshal {found.found} into Go struct field "
        f"{found.struct}.{found.path} of type {found.wanted}"
    )


def _read_struct(value: Pairs, struct: Struct, found: list[_Mismatch]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for spelled, item in value:
        key = spelled if spelled in struct.fields else _fold(spelled)
        if key not in struct.fields:
            continue
        field = struct.fields[key]
        if item is None:
            if field.null_clears:
                fields.pop(key, None)
            continue
        try:
            read = field.read(item)
        except _Mismatch as mismatch:
            path = f"{key}.{mismatch.path}" if mismatch.path else key
            is_named = not struct.name.startswith("struct {")
            named = struct.name.rpartition(".")[2] if is_named else ""
            owner = named if mismatch.struct is None else mismatch.struct
            found.append(_Mismatch(mismatch.found, mismatch.wanted, path, owner))
            continue
        if isinstance(read, dict) and isinstance(fields.get(key), dict):
            read = {**fields[key], **read}  # a map given twice is one map
        fields[key] = read
    return fields


def _fold(key: str) -> str:
    """Go's case folding, as far as it can meet an ASCII key."""
    return key.replace("\N{LATIN SMALL LETTER LONG S}", "s").lower()


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case Number():
            return "number"
        case Pairs():
            return "object"
        case _:
            return "array"
