"""Whether an upstream is on this very machine, as far as its address tells.

No name is resolved: what `localhost` is not, and no address of an interface here, is elsewhere.
"""

import contextlib
import ipaddress
import socket

import psutil
from yarl import URL


def is_here(url: str) -> bool:
    """Whether an upstream with this base URL is this machine's."""
    host = URL(url).host or ""
    return is_loopback(host) or host in own_addresses()


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without brackets, is the loopback's."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def own_addresses() -> frozenset[str]:
    """Every address of this machine's network interfaces."""
    return frozenset(
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    )
