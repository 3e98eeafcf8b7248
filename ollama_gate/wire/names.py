"""Which names a body of the routes that change models would give another meaning."""

import json
from typing import Any


def changed_names(body: bytes) -> tuple[str, ...]:
    """The model that is deleted, or the one that is made or overwritten.

    Good sense rather than Go's exact reading: what is overlooked here is found by `/api/ps`.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(given, dict):
        return ()
    fields: dict[str, Any] = {str(key).lower(): value for key, value in given.items()}
    # Of a copy the source stays what it is.
    named = fields.get("destination") or fields.get("model") or fields.get("name")
    return (named,) if isinstance(named, str) and named else ()
