"""What a setting is: where it stands, how its value is read, and what it is if nobody sets it.

Which settings there are is said beside.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ollama_gate.config.kinds import Kind

T = TypeVar("T")

PREFIX: Final = "OLLAMA_GATE_"
FIRST_UPSTREAM: Final = "upstreams[0]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Generic[T]):
    """One setting: its dotted path, how its value is read, and what it is if nobody sets it."""

    path: str
    kind: Kind[T]
    default: T

    @property
    def variable(self) -> str:
        """The environment variable; an upstream's address is what people set, so it is short."""
        name = self.path.replace(f"{FIRST_UPSTREAM}.url", "upstream")
        name = name.replace(FIRST_UPSTREAM, "upstream")
        return PREFIX + name.replace(".", "_").upper()


def make(path: str, kind: Kind[T], default: T) -> Key[T]:
    """A key, in one line."""
    return Key(path=path, kind=kind, default=default)
