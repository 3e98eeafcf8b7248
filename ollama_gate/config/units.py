"""Durations, sizes and plain numbers: what people write, and back.

It refuses what it cannot read, and says no more than that: the words of an error, and which values
are allowed where, belong to `kinds`.
"""

import math
import re
from decimal import Decimal
from fractions import Fraction

# Bounded, since the conversion of endless digits is Python's to refuse and floats have an end.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,30})?"
_DURATION = re.compile(
    rf"(?:({_NUMBER})d\s*)?(?:({_NUMBER})h\s*)?(?:({_NUMBER})m(?!s)\s*)?"
    rf"(?:({_NUMBER})s\s*)?(?:({_NUMBER})ms)?"
)
_DURATION_UNITS_S = (Fraction(86400), Fraction(3600), Fraction(60), Fraction(1), Fraction(1, 1000))
_SIZE = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_SIZE_UNITS = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `1h30m`, `500ms`, `7d` or a plain number; `ValueError` for all else."""
    if re.fullmatch(_NUMBER, text):
        return float(Fraction(text))
    matched = _DURATION.fullmatch(text)
    if matched is None or not text:
        raise ValueError(text)
    counts = zip(matched.groups(default="0"), _DURATION_UNITS_S, strict=True)
    return float(sum(Fraction(count) * unit for count, unit in counts))


def format_duration(seconds: float) -> str:
    """The duration as `parse_duration` reads it back to the same float; `-1` for no limit."""
    if math.isinf(seconds):
        return "-1"
    # repr is the shortest decimal that means this float; the float's own expansion has 50 digits.
    rest = Decimal(repr(seconds))
    parts = []
    for name, unit_s in (("d", 86400), ("h", 3600), ("m", 60)):
        count, rest = divmod(rest, unit_s)
        parts.append((count, name))
    if rest * 1000 % 1 == 0:
        parts += [(rest // 1, "s"), (rest * 1000 % 1000, "ms")]
    else:
        parts.append((rest, "s"))
    return "".join(f"{format_number(count)}{name}" for count, name in parts if count) or "0s"


def parse_number(text: str) -> float:
    """A number of digits and at most one point; `ValueError` for all else."""
    if not re.fullmatch(_NUMBER, text):
        raise ValueError(text)
    return float(text)


def format_number(value: float | Decimal) -> str:
    """All digits that matter and no exponent."""
    return f"{Decimal(str(value)).normalize():f}"


def parse_size(text: str) -> int:
    """Bytes of `21GiB`, `24GB`, `1.5GiB` or a plain number; `ValueError` for all else."""
    matched = _SIZE.fullmatch(text)
    if matched is None:
        raise ValueError(text)
    units = {name.lower(): unit_bytes for name, unit_bytes in _SIZE_UNITS.items()}
    unit_bytes = units.get(matched[2].lower() or "b")
    if unit_bytes is None:
        raise ValueError(text)
    return int(Fraction(matched[1]) * unit_bytes)


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back to the same number of bytes."""
    exact = [
        f"{size_bytes // unit_bytes}{name}"
        for name, unit_bytes in _SIZE_UNITS.items()
        if name != "B" and size_bytes and size_bytes % unit_bytes == 0
    ]
    return min([*exact, f"{size_bytes}"], key=len)
