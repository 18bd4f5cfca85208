"""Which addresses a stranger may send us to: public ones, and nothing that only looks public.

Whoever connects must connect to the very addresses that were checked: asking the name again could give others.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from relay_bridge.errors import PrivateAddress

#: Gives all addresses of a host name. Raises `OSError` or `UnicodeError` if there are none.
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of `host`, which may also be an address itself."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def public_addresses(host: str, port: int, resolve: Resolve = resolve) -> list[str]:
    """The addresses of `host`, all of them public. Raises `PrivateAddress`, also when the name is unknown."""
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise PrivateAddress(f"the name cannot be resolved: {host[:80]!r} ({error})") from None
    if not addresses or not all(map(is_public, addresses)):
        raise PrivateAddress(f"the address is not public: {host[:80]!r}")
    return addresses


def may_be_public(host: str) -> bool:
    """Whether a host, a name or an address, may belong to the internet at large, by its text alone."""
    try:
        return is_public(host)
    except ValueError:
        _, dot, top = host.lower().removesuffix(".").rpartition(".")
        return bool(dot) and not top.isdigit() and top not in _PRIVATE_TOPS


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large, also if it is an IPv4 one inside an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and not any(ip in network for network in _REFUSED)
    embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if ip in _NAT64:
        embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if embedded is not None:
        return is_public(str(embedded))
    return ip.is_global and ip in _GLOBAL_UNICAST


_PRIVATE_TOPS: Final = frozenset({"localhost", "local", "internal", "invalid"})
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# Python of different ages calls different parts of the rest global: fec0::/10, 64:ff9b:1::/48, ::/96, 5f00::/16.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_REFUSED: Final = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF protocols; Oracle's metadata are at 192.0.0.192
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's metadata, in a public range
)
