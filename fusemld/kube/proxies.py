"""The proxy that the environment of this host names for an API server."""

from __future__ import annotations

import contextlib
import ipaddress
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit


def proxy_of_the_host(server: str) -> str | None:
    """As kubectl does it: never for this host itself, and `NO_PROXY` may hold networks."""
    parts = urlsplit(server)
    proxies = urllib.request.getproxies()
    try:
        address = ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        is_near = parts.hostname == "localhost"
    else:
        is_near = address.is_loopback or any(address in network for network in _networks(proxies.get("no", "")))
    if is_near or urllib.request.proxy_bypass(parts.netloc, proxies):
        return None
    return proxies.get(parts.scheme)


def _networks(no_proxy: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for entry in no_proxy.split(","):
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_network(entry.strip(), strict=False)
