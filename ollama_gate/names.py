"""Model names as Ollama reads them: which spellings mean the same model, and which mean the cloud.

Follows Ollama v0.32.15 `internal/modelref/modelref.go` and `types/model/name.go`. Nothing here
knows whether a model exists: a stub that runs elsewhere shows only in `/api/show`.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_NAMESPACE: Final = "library"
_DEFAULT_TAG: Final = "latest"

_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

_GO_SPACE: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""What Go's `strings.TrimSpace` trims; `str.strip` would take U+001C to U+001F as well."""

_CACHED_LENGTH: Final = 256
"""Longer ones are not worth the memory."""

_CLOUD_SUFFIX: Final = "-cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A complete and valid name; each part is spelled as it was given, or Ollama's default."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def key(self) -> str:
        """Equal for two spellings exactly if Ollama takes them for the same name."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}".lower()

    @property
    def short(self) -> str:
        """As `/api/ps` and `/api/tags` show it: defaults left out, but always with the tag."""
        shown = f"{self.model}:{self.tag}"
        if self.host.lower() != _DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{shown}"
        if self.namespace.lower() != _DEFAULT_NAMESPACE:
            return f"{self.namespace}/{shown}"
        return shown


def parse(raw: str) -> Name | None:
    """The model that a client's spelling names, `None` if no model can have that name.

    A suffix that says where to run (`:cloud`, `-cloud`, `:local`) is no part of the name.
    """
    spelled = raw.strip(_GO_SPACE)
    return _parse(spelled) if len(spelled) > _CACHED_LENGTH else _parse_cached(spelled)


def parse_listed(name: str) -> Name | None:
    """The model that Ollama itself spells so: a `cloud` at its end is its tag, and no suffix."""
    return _name(name)


def _parse(spelled: str) -> Name | None:
    ref = _source(spelled)
    return None if ref is None else _name(ref[0])


# The same few names come with every request.
_parse_cached = lru_cache(maxsize=1024)(_parse)


def is_cloud(raw: str) -> bool:
    """Whether the spelling itself asks for the cloud, so that no memory is needed."""
    ref = _source(raw.strip(_GO_SPACE))
    return ref is not None and ref[1] is _Source.CLOUD


class _Source(Enum):
    """Where a spelling asks to run."""

    UNSPECIFIED = auto()
    LOCAL = auto()
    CLOUD = auto()


def _source(raw: str) -> tuple[str, _Source] | None:
    """A spelling without its suffix, and what that said; `None` for two of them."""
    base, source = _cut_source(raw)
    if source is not _Source.UNSPECIFIED and _cut_source(base)[1] is not _Source.UNSPECIFIED:
        return None
    return base, source


def _cut_source(raw: str) -> tuple[str, _Source]:
    base, colon, suffix = raw.rpartition(":")
    suffix = suffix.strip(_GO_SPACE)
    match suffix.lower() if colon else "":
        case "cloud":
            return base, _Source.CLOUD
        case "local":
            return base, _Source.LOCAL
        case folded if folded.endswith(_CLOUD_SUFFIX) and "/" not in folded:
            return f"{base}:{suffix[: -len(_CLOUD_SUFFIX)]}", _Source.CLOUD
        case _:
            return raw, _Source.UNSPECIFIED


def _name(spelled: str) -> Name | None:
    """Every part that a separator promises must be there, or the name is not valid."""
    rest, tag = spelled, _DEFAULT_TAG
    # A colon before the last slash belongs to the host's port.
    if spelled.rfind(":") > spelled.rfind("/"):
        rest, _, tag = spelled.rpartition(":")
    rest, slash, model = rest.rpartition("/")
    if not slash:
        return _valid(_DEFAULT_HOST, _DEFAULT_NAMESPACE, model, tag)
    host, slash, namespace = rest.rpartition("/")
    if not slash:
        return _valid(_DEFAULT_HOST, namespace, model, tag)
    scheme, mark, address = host.partition("://")
    # A scheme without an address counts as no host at all.
    return _valid((address or _DEFAULT_HOST) if mark else scheme, namespace, model, tag)


def _valid(host: str, namespace: str, model: str, tag: str) -> Name | None:
    if (
        _HOST.fullmatch(host)
        and _NAMESPACE.fullmatch(namespace)
        and _PART.fullmatch(model)
        and _PART.fullmatch(tag)
    ):
        return Name(host=host, namespace=namespace, model=model, tag=tag)
    return None


def key_of(name: str) -> str:
    """What all spellings of a name have in common; what is no name is only like itself."""
    parsed = parse(name)
    return parsed.key if parsed else name
