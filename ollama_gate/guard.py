"""Who may come in: Ollama's rules for `Host` and `Origin`, applied in its stead.

The gate sends Ollama its own `Host` and no `Origin`, so that Ollama's own checks see nothing any
more: against a web page that reaches for a server on the same machine (CORS), and against one
whose own name was made to lead there (DNS rebinding). The rules are those of Ollama v0.32.15
(`server/routes.go`, `envconfig/config.go`) and of its library (gin-contrib/cors 1.7.2).
"""

import ipaddress
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

Headers = tuple[tuple[str, str], ...]

SCHEMES: Final = (
    "http://",
    "https://",
    "chrome-extension://",
    "safari-extension://",
    "moz-extension://",
    "ms-browser-extension://",
)
"""How an origin without a wildcard may begin."""

_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  an origin, bound to nothing
_APPS: Final = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_LOCAL_ENDINGS: Final = (".localhost", ".local", ".internal")

_PRIVATE: Final = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
)
"""What Go calls private; Python has more."""

_REQUEST_HEADERS: Final = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_PREFLIGHT: Final = (
    ("Access-Control-Allow-Headers", _REQUEST_HEADERS),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
)
_PREFLIGHT_VARY: Final = (
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


def problem_of(origin: str) -> str | None:
    """What is wrong with an entry of `origins`; Ollama would not start with it."""
    if origin.count("*") > 1:
        return "at most one *"
    if "*" not in origin and not origin.startswith(SCHEMES):
        return f"an origin with * or that begins with {', '.join(SCHEMES[:2])} or an extension's"
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status to answer with at once, if any, and headers for whatever is answered."""

    status: int | None = None
    headers: Headers = ()


_PASS: Final = Verdict()


class Guard:
    """The rules as they are for one listening address.

    Args:
        origins: what is allowed beyond Ollama's own list, as in `OLLAMA_ORIGINS`: each whole, or
            with one `*` for any text.
        on_loopback: only the same machine can reach the gate, so that a foreign `Host` betrays a
            page that was led here; otherwise any `Host` will do.
        hostname: this machine's.
        own_addresses: asked for the addresses of this machine, where nothing else decides.
    """

    def __init__(
        self,
        *,
        origins: Sequence[str],
        on_loopback: bool,
        hostname: str,
        own_addresses: Callable[[], Collection[str]],
    ) -> None:
        allowed = [*origins, *_own_origins()]
        self._all = "*" in allowed
        self._whole = frozenset(origin.strip().lower() for origin in allowed)
        self._parts = tuple(
            (before, after)
            for before, star, after in (origin.partition("*") for origin in allowed)
            if star
        )
        self._on_loopback = on_loopback
        self._hostname = hostname.lower()
        self._own_addresses = own_addresses

    def judge(self, method: str, host: str, origin: str) -> Verdict:
        """Let a request pass or not; an absent header is empty."""
        headers: Headers = ()
        if origin and origin not in {f"http://{host}", f"https://{host}"}:
            if not self._allows(origin):
                return Verdict(HTTPStatus.FORBIDDEN)
            granted = ("Access-Control-Allow-Origin", "*" if self._all else origin)
            vary: Headers = () if self._all else (("Vary", "Origin"),)
            if method == "OPTIONS":
                more = () if self._all else _PREFLIGHT_VARY
                return Verdict(HTTPStatus.NO_CONTENT, (*_PREFLIGHT, granted, *vary, *more))
            headers = (granted, *vary)
        if self._on_loopback:
            name = _without_port(host)
            if not self._is_local_address(name):
                if not self._is_local_name(name):
                    return Verdict(HTTPStatus.FORBIDDEN, headers)
                if method == "OPTIONS":
                    return Verdict(HTTPStatus.NO_CONTENT, headers)
        return Verdict(None, headers) if headers else _PASS

    def _allows(self, origin: str) -> bool:
        return (
            self._all
            or origin in self._whole
            or any(origin.startswith(begin) and origin.endswith(end) for begin, end in self._parts)
        )

    def _is_local_address(self, name: str) -> bool:
        if name == "127.0.0.1":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return (
            address.is_loopback
            or address.is_unspecified
            or any(address in network for network in _PRIVATE)
            or str(address) in self._own_addresses()
        )

    def _is_local_name(self, name: str) -> bool:
        name = name.lower()
        return name in {"", "localhost", self._hostname} or name.endswith(_LOCAL_ENDINGS)


def _own_origins() -> list[str]:
    places = [f"{scheme}://{host}" for host in _LOCAL_HOSTS for scheme in ("http", "https")]
    return [*places, *(f"{place}:*" for place in places), *_APPS]


def _without_port(host: str) -> str:
    """As Go's `net.SplitHostPort` cuts it; what that refuses stays whole."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return name if bracket and port.startswith(":") and ":" not in port[1:] else host
    name, colon, _ = host.partition(":")
    return name if colon and host.count(":") == 1 else host
