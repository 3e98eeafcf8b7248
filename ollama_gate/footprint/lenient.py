"""JSON of another party, value by value: what is missing or odd becomes empty.

It knows no field of any answer, and never raises.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

T = TypeVar("T")

LARGEST: Final = 2**63 - 1
"""No count of Ollama's is larger; sums of products of such numbers stay within a float."""


def text_of(value: Any) -> str:
    """A text, or an empty one."""
    return value if isinstance(value, str) else ""


def mapping_of(value: Any) -> Mapping[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def number_of(value: Any) -> int | None:
    """A count; `None` for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Neither NaN nor infinity is an integer to Python.
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if 0 <= value <= LARGEST else None


def given(value: T | None, otherwise: T) -> T:
    """The value, unless there is none; 0 is one."""
    return otherwise if value is None else value
