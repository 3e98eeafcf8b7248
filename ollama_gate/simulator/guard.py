"""Whom Ollama lets in: its Host check on loopback and its CORS rules.

Ollama v0.32.15 server/routes.go (`allowedHostsMiddleware`) and envconfig/config.go
(`AllowedOrigins`). A proxy that forwards its client's Host or Origin is found out here.
"""

import fnmatch
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 (an origin's spelling, bound to nothing)
_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")
_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
    "X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


_PREFLIGHT = (
    ("Access-Control-Allow-Headers", _HEADERS),
    ("Access-Control-Allow-Methods", _METHODS),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status to answer with at once, if any, and headers for whatever is answered."""

    status: int | None = None
    headers: Headers = ()


def judge(method: str, headers: Mapping[str, str]) -> Verdict:
    """Let a request pass or not."""
    host, origin = headers.get("Host", ""), headers.get("Origin", "")
    allowed: Headers = ()
    if origin and origin not in {f"http://{host}", f"https://{host}"}:
        if not _origin_passes(origin):
            return Verdict(403)
        allowed = (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
        if method == "OPTIONS":
            return Verdict(204, allowed + _PREFLIGHT)
    name = _without_port(host)
    if _is_local_address(name):
        return Verdict(None, allowed)
    if _is_local_name(name):
        return Verdict(204 if method == "OPTIONS" else None, allowed)
    return Verdict(403, allowed)


def _origin_passes(origin: str) -> bool:
    if any(origin.startswith(f"{scheme}://") for scheme in _SCHEMES):
        return True
    patterns = [f"{scheme}://{name}" for scheme in ("http", "https") for name in _LOCAL]
    return any(
        origin == pattern or fnmatch.fnmatchcase(origin, f"{pattern}:*") for pattern in patterns
    )


def _without_port(host: str) -> str:
    """`net.SplitHostPort`; brackets without a port behind them stay, and are nobody's name."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]:")
        return host if not port and not host.endswith("]:") else name
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_local_address(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def _is_local_name(name: str) -> bool:
    name = name.lower()
    return name in {"", "localhost", socket.gethostname().lower()} or name.endswith(_LOCAL_ENDINGS)
