"""Where the gate listens and where an Ollama is, read as Ollama reads its own address.

Text in, text out: no name is resolved and no socket is opened.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

import msgspec

GATE_PORT = 11435
OLLAMA_PORT = 11434


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gate accepts connections; port 0 lets the system choose one."""

    host: str = "127.0.0.1"
    port: int = GATE_PORT

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _host(text: str) -> str:
    """A host name or IP address without brackets, or `ValueError`."""
    address = _ip(text)
    if address is not None:
        return str(address)
    # What ends in a number is a mistyped address (or YAML's 1:30), never a name.
    numeric = re.fullmatch(r"(.*\.)?([0-9]+|0[xX][0-9a-fA-F]*)\.?", text)
    if numeric or not re.fullmatch(r"\w[\w.-]{0,252}", text):
        raise ValueError(text)
    return text.lower()


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 2**16 - 1:
        raise ValueError(text)
    return int(text)


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT` and bare IPv6, as Go's `net.SplitHostPort` cuts them."""
    if _ip(text) is not None:
        return _host(text), default_port
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", text)
    if bracketed is not None:
        if not isinstance(_ip(bracketed[1]), ipaddress.IPv6Address):
            raise ValueError(text)
        port = default_port if bracketed[2] is None else _port(bracketed[2])
        return _host(bracketed[1]), port
    host, colon, port_text = text.partition(":")
    return _host(host), _port(port_text) if colon else default_port


def parse_listen(text: str) -> Listen:
    """`HOST:PORT`, a host or a port alone, with the gate's own for the rest, or `ValueError`."""
    if text.isdecimal():
        return Listen(port=_port(text))
    host, port = _host_and_port(text, GATE_PORT)
    return Listen(host=host, port=port)


def parse_upstream(text: str) -> str:
    """An Ollama's base URL, from what `OLLAMA_HOST` may be.

    As Ollama v0.32.15 `envconfig/config.go` reads it: the scheme is optional, with `http://` the
    port defaults to 80 and without to 11434, a path is kept. A wrong port is not replaced by the
    default, as there, but refused.

    Raises:
        ValueError: no http(s) address, or one with a user, a query or a fragment.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    scheme = scheme.lower()
    schemes_port = {"http": 80, "https": 443}.get(scheme)
    if schemes_port is None or re.search(r"[@?#\s\\]", rest) or not rest.isprintable():
        raise ValueError(text)
    authority, _, path = rest.partition("/")
    # Ollama takes the host's absence for the loopback, in `:11434` as well.
    if not authority or re.match(r":[0-9]+$", authority):
        authority = "127.0.0.1" + authority
    host, port = _host_and_port(authority, schemes_port if separator else OLLAMA_PORT)
    if port == 0:
        raise ValueError(text)
    # A server's "every interface" is no address that a client can call.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  replaced, not bound
    shown_port = "" if port == schemes_port else f":{port}"
    return f"{scheme}://{_bracketed(host)}{shown_port}/{path}".rstrip("/")


def _addresses(host: str) -> set[str]:
    if host == "localhost":
        return {"127.0.0.1", "::1"}
    address = _ip(host)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return {str(mapped or host)}


def names_gate(url: str, listen: Listen) -> bool:
    """Whether a request to `url` would come back to the gate itself.

    Told from the text alone: a name or an address of this machine that only a look-up would
    reveal is caught later, by the header that marks a loop.
    """
    parts: SplitResult = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if port != listen.port:
        return False
    called = _addresses(parts.hostname or "")
    bound = _ip(listen.host)
    if bound is not None and bound.is_unspecified:
        # An IPv4 socket is not reached over IPv6; the other way round it is.
        return any(
            address.is_loopback and bound.version in {6, address.version}
            for address in map(_ip, called)
            if address is not None
        )
    return bool(called & _addresses(listen.host))


def same_server(url: str, other: str) -> bool:
    """Whether two base URLs lead to the same place, as far as their text tells."""
    one, two = urlsplit(url), urlsplit(other)
    if (one.scheme, one.port, one.path) != (two.scheme, two.port, two.path):
        return False
    return bool(_addresses(one.hostname or "") & _addresses(two.hostname or ""))
