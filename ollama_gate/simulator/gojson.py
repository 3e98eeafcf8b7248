"""JSON as Go's encoding/json writes it, and its words for what it cannot read.

Reading a request into fields is `bodies`' affair.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Self

_ESCAPES = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_PLAIN_FROM = 1e-6  # Go writes floats plainly between these two magnitudes
_PLAIN_TO = 1e21
_FLOAT32_DIGITS = 9
_ASCII_END = 0x80
_BASIC_END = 0xFFFF
_LETTERED = dict(zip("\a\b\f\n\r\t\v", "abfnrtv", strict=True))
_QUOTED = {"'": r"'\''", '"': "'\"'", "\\": r"'\\'"} | {
    char: f"'\\{letter}'" for char, letter in _LETTERED.items()
}


class Float32(float):
    """A number that Go holds in 32 bits: written with as few digits as tell it apart."""

    __slots__ = ()

    def __new__(cls, value: float | str) -> Self:
        """Round to 32 bits.

        Raises:
            OverflowError: if that is too few for it.
        """
        return super().__new__(cls, struct.unpack("<f", struct.pack("<f", float(value)))[0])


class Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: order and duplicates kept."""

    __slots__ = ()


class Number(float):
    """A JSON number with the text it was written as."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Keep the text beside the value."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class EmptyError(ValueError):
    """Nothing but space: Go's `io.EOF`."""


class MalformedError(ValueError):
    """Not JSON; the text is Go's."""


def decode(body: bytes) -> Any:
    """The first JSON value in `body`; what follows it is not looked at, as in Go.

    Objects come back as `Pairs`, numbers as `Number`.

    Raises:
        EmptyError: if there is no value.
        MalformedError: if it is not JSON, in Go's words.
    """
    text = body.decode("utf-8", errors="replace").lstrip(" \t\r\n")
    if not text:
        raise EmptyError("EOF")
    try:
        value, _ = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        raise MalformedError(_Complaint(body.lstrip(b" \t\r\n")).words()) from None
    return value


def encode(value: Any) -> str:
    """`value` as `json.Marshal` writes it: compact, keys in the given order.

    What `decode` gave is written as it was read, as Go does with a `json.RawMessage`.
    """
    match value:
        case str():
            return _text(value)
        case Pairs():
            return "{" + ",".join(f"{_text(k)}:{encode(v)}" for k, v in value) + "}"
        case Mapping():
            return "{" + ",".join(f"{_text(k)}:{encode(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(encode, value)) + "]"
        case _:
            return _scalar(value)


def as_go_maps(value: Any) -> Any:
    """Dicts with their keys in the order in which Go writes a map; `Pairs` keep theirs."""
    match value:
        case Pairs():
            return value
        case Mapping():
            return {key: as_go_maps(value[key]) for key in sorted(value)}
        case list() | tuple():
            return [as_go_maps(item) for item in value]
        case _:
            return value


def plain(value: Any) -> Any:
    """`Pairs` and `Number` turned into dicts and floats; of duplicates the last stays."""
    match value:
        case Pairs():
            return {key: plain(item) for key, item in value}
        case list():
            return [plain(item) for item in value]
        case Number():
            return float(value)
        case _:
            return value


def quoted(text: str) -> str:
    """`text` as Go's `%q` writes it."""
    return '"' + "".join(_in_quotes(char) for char in text) + '"'


def _in_quotes(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char in _LETTERED:
        return f"\\{_LETTERED[char]}"
    if char.isprintable():
        return char
    code = ord(char)
    if code < _ASCII_END:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _BASIC_END else f"\\U{code:08x}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    object_pairs_hook=Pairs,
    parse_float=Number,
    parse_int=Number,
    parse_constant=_refuse_constant,
)


def _scalar(value: float | None) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Number():
            return value.text
        case Float32():
            return _shortest32(value)
        case float():
            return _number(repr(float(value)), value)


def _text(text: str) -> str:
    whole = text.encode("utf-8", errors="replace").decode() if not text.isprintable() else text
    return json.dumps(whole, ensure_ascii=False).translate(_ESCAPES)


def _shortest32(value: float) -> str:
    if not value:
        return _number(repr(float(value)), value)
    texts = (f"{value:.{digits}g}" for digits in range(1, _FLOAT32_DIGITS + 1))
    return next(_number(repr(float(text)), value) for text in texts if _is_nearest(text, value))


def _is_nearest(text: str, value: float) -> bool:
    try:
        return Float32(text) == value
    except OverflowError:
        return False


def _number(shortest: str, value: float) -> str:
    """Respell Python's shortest digits as Go does."""
    if not value:
        return "-0" if math.copysign(1, value) < 0 else "0"
    mantissa, _, exponent = shortest.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if _PLAIN_FROM <= abs(value) < _PLAIN_TO:
        return sign + _plain_digits(digits, point)
    power = point - 1
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power)}"


def _plain_digits(digits: str, point: int) -> str:
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return f"{digits[:point]}.{digits[point:]}"


class _Complaint:
    """Finds the first byte Go's scanner would object to, and says it in Go's words."""

    def __init__(self, text: bytes) -> None:
        self._bytes = text
        self._at = 0

    def words(self) -> str:
        try:
            self._value()
        except MalformedError as error:
            return str(error)
        except RecursionError:
            return "exceeded max depth"
        return "unexpected EOF"

    def _peek(self) -> int:
        if self._at >= len(self._bytes):
            raise MalformedError("unexpected EOF")
        return self._bytes[self._at]

    def _next(self) -> int:
        byte = self._peek()
        self._at += 1
        return byte

    def _space(self) -> int:
        while self._peek() in b" \t\r\n":
            self._at += 1
        return self._peek()

    def _object_to(self, byte: int, context: str) -> MalformedError:
        return MalformedError(f"invalid character {_quoted(byte)} {context}")

    def _value(self) -> None:
        byte = self._space()
        match chr(byte):
            case "{":
                self._object()
            case "[":
                self._array()
            case '"':
                self._string()
            case "t" | "f" | "n":
                self._literal({116: "true", 102: "false", 110: "null"}[byte])
            case char if char in "-0123456789":
                self._number()
            case _:
                raise self._object_to(byte, "looking for beginning of value")

    def _object(self) -> None:
        self._at += 1
        if self._space() == ord("}"):
            self._at += 1
            return
        while True:
            if (byte := self._space()) != ord('"'):
                raise self._object_to(byte, "looking for beginning of object key string")
            self._string()
            if (byte := self._space()) != ord(":"):
                raise self._object_to(byte, "after object key")
            self._at += 1
            self._value()
            byte = self._space()
            self._at += 1
            if byte == ord("}"):
                return
            if byte != ord(","):
                raise self._object_to(byte, "after object key:value pair")

    def _array(self) -> None:
        self._at += 1
        if self._space() == ord("]"):
            self._at += 1
            return
        while True:
            self._value()
            byte = self._space()
            self._at += 1
            if byte == ord("]"):
                return
            if byte != ord(","):
                raise self._object_to(byte, "after array element")

    def _string(self) -> None:
        self._at += 1
        while (byte := self._next()) != ord('"'):
            if byte == ord("\\"):
                self._escape()
            elif byte < ord(" "):
                raise self._object_to(byte, "in string literal")

    def _escape(self) -> None:
        byte = self._next()
        if byte == ord("u"):
            for _ in range(4):
                if chr(digit := self._next()) not in "0123456789abcdefABCDEF":
                    raise self._object_to(digit, "in \\u hexadecimal character escape")
        elif chr(byte) not in 'bfnrt\\/"':
            raise self._object_to(byte, "in string escape code")

    def _literal(self, word: str) -> None:
        self._at += 1
        for char in word[1:]:
            if (byte := self._next()) != ord(char):
                raise self._object_to(byte, f"in literal {word} (expecting {_quoted(ord(char))})")

    def _number(self) -> None:
        if self._peek() == ord("-"):
            self._at += 1
            self._digit("in numeric literal", advance=False)
        if self._peek() == ord("0"):
            self._at += 1
        else:
            self._digits()
        if self._peek() == ord("."):
            self._at += 1
            self._digit("after decimal point in numeric literal")
            self._digits()
        if chr(self._peek()) in "eE":
            self._at += 1
            if chr(self._peek()) in "+-":
                self._at += 1
            self._digit("in exponent of numeric literal")
            self._digits()

    def _digit(self, context: str, *, advance: bool = True) -> None:
        if chr(byte := self._peek()) not in "0123456789":
            raise self._object_to(byte, context)
        self._at += advance

    def _digits(self) -> None:
        while chr(self._peek()) in "0123456789":
            self._at += 1


def _quoted(byte: int) -> str:
    """A byte as Go's `quoteChar` shows it."""
    char = chr(byte)
    if char in _QUOTED:
        return _QUOTED[char]
    if char.isprintable():
        return f"'{char}'"
    return f"'\\u{byte:04x}'" if byte >= _ASCII_END else f"'\\x{byte:02x}'"
