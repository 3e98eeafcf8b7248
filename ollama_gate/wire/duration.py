"""Lengths of time as Go's `time.ParseDuration` reads them."""

import re
from typing import Final

from ollama_gate.wire.scan import HopelessError

_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_MAX_NS: Final = 2**63 - 1


def go_duration_ns(words: str) -> int:
    """The length of `1h30m`, `-5m`, `0` and their like, in nanoseconds."""
    sign = -1 if words.startswith("-") else 1
    rest = words[1:] if words[:1] in {"-", "+"} else words
    if rest == "0":
        return 0
    total_ns, at = 0, 0
    while at < len(rest):
        found = _PART.match(rest, at)
        if found is None:
            raise HopelessError(f"no unit in duration {words[:40]!r}")
        total_ns += _part_ns(*found.groups(default=""))
        at = found.end()
    # Only the smallest negative length lies one further from zero.
    if not rest or total_ns > _MAX_NS + (sign < 0):
        raise HopelessError(f"invalid duration {words[:40]!r}")
    return sign * total_ns


def _part_ns(whole: str, fraction: str, unit: str) -> int:
    had_digits = bool(whole or fraction)
    whole = whole.lstrip("0")
    if unit not in _UNITS_NS or not had_digits or len(whole) > len(str(_MAX_NS)):
        raise HopelessError(f"invalid duration, unit {unit[:40]!r}")
    whole_ns = int(whole or "0") * _UNITS_NS[unit]
    digits = _exact(fraction)
    if not digits:
        return whole_ns
    return whole_ns + int(float(int(digits)) * (float(_UNITS_NS[unit]) / 10.0 ** len(digits)))


def _exact(fraction: str) -> str:
    """The digits behind a point that Go has room for."""
    count = 0
    value = 0
    while count < len(fraction) and (value := 10 * value + int(fraction[count])) <= _MAX_NS + 1:
        count += 1
    return fraction[:count]
