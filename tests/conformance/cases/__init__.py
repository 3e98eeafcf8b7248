"""Every case, by the page it is written on."""

from tests.conformance.case import Case
from tests.conformance.cases import dialects, keeping, native, reading, routes, transport

CASES: tuple[Case, ...] = (
    *routes.CASES,
    *reading.CASES,
    *native.CASES,
    *dialects.CASES,
    *keeping.CASES,
    *transport.CASES,
)
"""In the order in which they are run."""
