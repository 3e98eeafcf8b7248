"""Two answers to the same request: in what they differ.

Hop-by-hop headers (RFC 9110 §7.6.1) are each hop's own and left out; the date is masked. All
else must be equal: the status, the headers in their spelling, order and number, the framing, the
body's bytes after the case's masks, and that pieces do not come all at once which came apart.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from tests.conformance.masks import apply, expiries
from tests.conformance.raw import Framing, Reply
from tests.conformance.sides import Answered

ALLOWED = ("X-Request-Id", "X-Gate-Id", "Server-Timing", "X-Gate-Offload", "X-Gate-Cache")
"""What the gate says that it adds (docs of its response headers)."""

EXPIRY_TOLERANCE_S = 5.0
PACE_SPREAD_S = 0.25
"""Answers that came straight within less are too quick to say how they were passed on."""

PACE_PIECES = 4
PACE_SHARE = 3 / 5
"""A proxied stream shows at least so much of the straight one's pieces."""

PACE_SPREAD_SHARE = 1 / 10
"""The same of its spread: a model may also have said the same much faster."""

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_AROUND = 60


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two answers differ.

    Attributes:
        kind: `status`, `reason`, `header X`, `header order`, `framing`, `body`, `arrivals`,
            `expiry`, `interim`, `broken` or `trailers`.
        text: what was straight, and what was proxied.
    """

    kind: str
    text: str


@dataclass(slots=True)
class Compared:
    """What a comparison found, and the masks that it needed for it."""

    differences: list[Difference]
    masks: set[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """What a proxy may do.

    Attributes:
        headers: that it may add to an answer.
        expiry_s: by how much an `expires_at` may be another, seen from when it was told.
    """

    headers: Collection[str] = ALLOWED
    expiry_s: float = EXPIRY_TOLERANCE_S


def compare(straight: Answered, proxied: Answered, leave: Leave) -> Compared:
    """Compare two answers of one exchange."""
    one, other = straight.reply, proxied.reply
    found = Compared([], set())
    if one.broken or other.broken:
        _note(found, "broken", one.broken or one.status, other.broken or other.status)
        return found
    if one.left and not one.status:
        return found
    _note(found, "status", one.status, other.status)
    _note(found, "reason", one.reason, other.reason)
    _note(found, "version", one.version, other.version)
    _note(found, "interim", _interim(one), _interim(other))
    _note(found, "framing", _frame(one), _frame(other))
    _note(found, "trailers", one.trailers, other.trailers)
    resized = False
    if not one.left:
        resized = _compare_bodies(found, straight, proxied)
        if "expires" in straight.masks:
            _compare_expiries(found, straight, proxied, leave.expiry_s)
        _compare_pace(found, straight, one, other)
    _compare_headers(found, one, other, leave.headers, resized=resized)
    return found


def _note(found: Compared, kind: str, one: object, other: object) -> None:
    if one != other:
        found.differences.append(Difference(kind, f"straight {one!r}, proxied {other!r}"))


def _interim(reply: Reply) -> str:
    return f"{reply.interim}{' body never asked for' if reply.withheld else ''}"


def _frame(reply: Reply) -> str:
    """Of a `HEAD` the length header alone tells, and that is among the headers."""
    return reply.framing.value


# ---------------------------------------------------------------- headers


def _compare_headers(
    found: Compared, one: Reply, other: Reply, allowed: Collection[str], *, resized: bool
) -> None:
    lowered = {name.lower() for name in allowed}
    straight = _shown(one, found, resized=resized)
    named = {name.lower() for name, _ in straight}
    proxied = [
        (name, value)
        for name, value in _shown(other, found, resized=resized)
        if name.lower() not in lowered or name.lower() in named
    ]
    for name in _names(straight + proxied):
        mine = [header for header in straight if header[0].lower() == name]
        theirs = [header for header in proxied if header[0].lower() == name]
        if mine != theirs:
            found.differences.append(
                Difference(f"header {name}", f"straight {_lines(mine)}, proxied {_lines(theirs)}")
            )
    if sorted(straight) == sorted(proxied) and straight != proxied:
        orders = [[name for name, _ in headers] for headers in (straight, proxied)]
        _note(found, "header order", *orders)


def _shown(reply: Reply, found: Compared, *, resized: bool) -> list[tuple[str, str]]:
    shown = []
    for name, value in reply.headers:
        match name.lower():
            case hop if hop in _HOP_BY_HOP:
                continue
            case "date":
                found.masks.add("date")
                shown.append((name, "<date>" if _is_date(value) else value))
            case "content-length" if resized:
                found.masks.add("length")
                shown.append((name, "<length>"))
            case _:
                shown.append((name, value))
    return shown


def _is_date(value: str) -> bool:
    return bool(re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", value))


def _names(headers: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name.lower() for name, _ in headers))


def _lines(headers: list[tuple[str, str]]) -> str:
    return " | ".join(f"{name}: {value}" for name, value in headers) or "none"


# ---------------------------------------------------------------- bodies


def _compare_bodies(found: Compared, straight: Answered, proxied: Answered) -> bool:
    """Compare what is left after the masks; whether a mask may have hidden another length."""
    one, masked = apply(straight.masks, straight.reply.body, straight.own)
    other, masked_too = apply(proxied.masks, proxied.reply.body, proxied.own)
    found.masks |= masked | masked_too
    if one != other:
        found.differences.append(Difference("body", _apart(one, other)))
    return bool(masked | masked_too)


def _apart(one: bytes, other: bytes) -> str:
    """Where two bodies part, with a little of what surrounds that place."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    begin = max(0, at - _AROUND // 2)
    mine, theirs = one[begin : at + _AROUND], other[begin : at + _AROUND]
    lengths = f"{len(one)} and {len(other)} bytes"
    return f"from byte {at} ({lengths}): straight {mine!r}, proxied {theirs!r}"


def _compare_expiries(
    found: Compared, straight: Answered, proxied: Answered, tolerance_s: float
) -> None:
    one = expiries(straight.reply.body, straight.at)
    other = expiries(proxied.reply.body, proxied.at)
    far = [abs(a - b) > tolerance_s for a, b in zip(one, other, strict=False)]
    if any(far):
        shown = [[round(left) for left in times] for times in (one, other)]
        _note(found, "expiry", f"in {shown[0]} s", f"in {shown[1]} s")


# ---------------------------------------------------------------- pace


def _compare_pace(found: Compared, straight: Answered, one: Reply, other: Reply) -> None:
    """Whether pieces that came apart still do; by order and generous shares, no tight times."""
    if not straight.paced or one.framing is not Framing.CHUNKED or not other.arrivals:
        return
    spread_s, proxied_s = (reply.arrivals[-1] - reply.arrivals[0] for reply in (one, other))
    if len(one.arrivals) < PACE_PIECES or spread_s < PACE_SPREAD_S:
        found.masks.add("pace (too quick to tell)")
        return
    merged = len(other.arrivals) < len(one.arrivals) * PACE_SHARE
    if merged or proxied_s < spread_s * PACE_SPREAD_SHARE:
        told = (
            f"{len(r.arrivals)} pieces over {s:.2f} s"
            for r, s in ((one, spread_s), (other, proxied_s))
        )
        _note(found, "arrivals", *told)
