"""What a client's spelling of a model means to Ollama.

Ollama v0.32.15 internal/modelref/modelref.go and types/model/name.go, read anew here: the
simulation judges the gate, so it must not share the gate's reading of names.
"""

import enum
import re
from dataclasses import dataclass

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_MISSING = "!MISSING!"  # an empty part next to a separator; never valid, for its "!"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")


class Source(enum.Enum):
    """Where the client wants the model to run, as far as its spelling says so."""

    UNSPECIFIED = enum.auto()
    LOCAL = enum.auto()
    CLOUD = enum.auto()


class NameRequiredError(ValueError):
    """No name at all; each route has its own words for that."""


class NameInvalidError(ValueError):
    """A name no model can have; the text is what Ollama answers with status 400."""


@dataclass(frozen=True, slots=True)
class Name:
    """A full name, spelled as the client or the catalogue spells it."""

    host: str
    namespace: str
    model: str
    tag: str

    def shortest(self) -> str:
        """As `/api/ps` and `/api/tags` show it: always with a tag, without default parts."""
        short = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short

    def full(self) -> str:
        """All four parts."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Ref:
    """A name with the place it asks for, and the text without its source suffix."""

    base: str
    name: Name
    source: Source


def parse_ref(raw: str) -> Ref:
    """Read a client's spelling.

    Raises:
        NameRequiredError: if it is blank.
        NameInvalidError: if it names a place twice, or no model can be called so.
    """
    raw = raw.strip()
    if not raw:
        raise NameRequiredError("model is required")
    base, source = _cut_source(raw)
    if source is not Source.UNSPECIFIED and _cut_source(base)[1] is not Source.UNSPECIFIED:
        raise NameInvalidError(f'use either :local or :cloud, not both: "{raw}"')
    name = parse_name(base)
    if not is_valid(name):
        raise NameInvalidError("invalid model name")
    return Ref(base, name, source)


def parse_pull_ref(raw: str) -> Ref:
    """Read it for a pull or a delete, where a cloud model goes by its old name, with the suffix.

    Raises:
        NameRequiredError: if it is blank.
        NameInvalidError: as `parse_ref`.
    """
    ref = parse_ref(raw)
    if ref.source is not Source.CLOUD:
        return ref
    has_tag = ref.base.rfind(":") > ref.base.rfind("/")
    base = f"{ref.base}-cloud" if has_tag else f"{ref.base}:cloud"
    return Ref(base, parse_name(base), ref.source)


def parse_name(text: str) -> Name:
    """Split a name and fill in the defaults; what comes back need not be valid."""
    tag = namespace = host = ""
    if text.rfind(":") > text.rfind("/"):
        text, tag = _cut_last(text, ":")
    model = text
    if "/" in text:
        text, model = _cut_last(text, "/")
        namespace = text
        if "/" in text:
            text, namespace = _cut_last(text, "/")
            host = text.partition("://")[2] if "://" in text else text
    return Name(host or DEFAULT_HOST, namespace or DEFAULT_NAMESPACE, model, tag or DEFAULT_TAG)


def _cut_source(raw: str) -> tuple[str, Source]:
    before, colon, after = raw.rpartition(":")
    if not colon:
        return raw, Source.UNSPECIFIED
    suffix = after.strip()
    match suffix.lower():
        case "cloud":
            return before, Source.CLOUD
        case "local":
            return before, Source.LOCAL
        case lower if "/" not in lower and lower.endswith("-cloud"):
            return f"{before}:{suffix[: -len('-cloud')]}", Source.CLOUD
        case _:
            return raw, Source.UNSPECIFIED


def _cut_last(text: str, separator: str) -> tuple[str, str]:
    before, _, after = text.rpartition(separator)
    return before or _MISSING, after or _MISSING


def is_valid(name: Name) -> bool:
    """Whether a model can be called so."""
    return bool(
        _HOST.match(name.host)
        and _NAMESPACE.match(name.namespace)
        and _PART.match(name.model)
        and _PART.match(name.tag)
    )
