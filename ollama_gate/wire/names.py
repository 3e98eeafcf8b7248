"""Which models a body of the routes that change models names.

Good sense rather than Go's exact reading: what is overlooked here is found by `/api/ps`.
"""

import json
from collections.abc import Mapping
from typing import Any


def changed_names(body: bytes) -> tuple[str, ...]:
    """The model that is deleted, or the one that is made or overwritten."""
    # Of a copy the source stays what it is.
    named = _first_text(_fields(body), "destination", "model", "name")
    return () if named is None else (named,)


def source_name(body: bytes) -> str | None:
    """The model that is copied, or that another one is created from."""
    return _first_text(_fields(body), "source", "from")


def _fields(body: bytes) -> Mapping[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    return {str(key).lower(): value for key, value in given.items()}


def _first_text(fields: Mapping[str, Any], *keys: str) -> str | None:
    """The first of these fields that is not empty, if it is a text."""
    found = next((value for key in keys if (value := fields.get(key))), None)
    return found if isinstance(found, str) else None
