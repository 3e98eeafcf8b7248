"""Instants as Go writes them: RFC 3339 with as many digits as are needed."""

from datetime import UTC, datetime, timedelta


def go_time(words: str) -> tuple[timedelta, float | None]:
    """The zone and the instant of an RFC 3339 time with any number of digits.

    Returns:
        The zone's offset, and seconds since 1970; `None` if it is no such time.
    """
    date, _, rest = words.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        read = datetime.fromisoformat(date + rest[len(digits) :])
        return read.utcoffset() or timedelta(0), read.timestamp()
    except (ValueError, OverflowError):
        return timedelta(0), None


def spelled(at_s: float, zone: timedelta, like: str) -> str:
    """As Go writes a time, in the zone of another one."""
    local = datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None) + zone
    fraction = f".{local.microsecond:06d}".rstrip("0").rstrip(".")
    minutes = abs(zone) // timedelta(minutes=1)
    sign = "-" if zone < timedelta(0) else "+"
    ending = "Z" if like.endswith("Z") else f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{ending}"
