"""Whose request it is, as far as an address can say."""

import ipaddress
from functools import lru_cache

from aiohttp import web


@lru_cache(maxsize=4096)
def client_of(address: str) -> str:
    """Who is counted as one: an address, of IPv6 the network of a house (/64); "unknown" for what is none."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip if ip.version == 4 else ip.ipv4_mapped)


def client_of_request(request: web.Request, *, behind_proxy: bool) -> str:
    """Whose request this is, in the words of `client_of`.

    Behind a proxy it is the last entry of X-Forwarded-For, which is the proxy's own; those before anybody can write.
    """
    if not behind_proxy:
        return client_of(request.remote or "")
    return client_of(request.headers.getall("X-Forwarded-For", [""])[-1].rpartition(",")[2].strip())
