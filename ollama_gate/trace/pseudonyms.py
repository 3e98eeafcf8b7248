"""A name for each client that says nothing of it, the same one in every life of a trace.

The key lies beside the trace, for the gate alone to read: who is given the trace cannot try out
whose address or user name a pseudonym is.
"""

import os
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32
PSEUDONYM_BYTES: Final = 6


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, client: str) -> str:
        """Twelve hexadecimal digits; nothing for a client without a name."""
        if not client:
            return ""
        text = client.encode(errors="surrogatepass")
        return blake2b(text, key=self._key, digest_size=PSEUDONYM_BYTES).hexdigest()


def beside(trace: Path) -> Pseudonyms:
    """The pseudonyms of a trace; makes its key if there is none. Raises `OSError`."""
    path = trace.with_name(trace.name + ".key")
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) != KEY_BYTES:
        key = secrets.token_bytes(KEY_BYTES)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
    return Pseudonyms(key)
