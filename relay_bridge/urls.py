"""Relay URLs: one spelling for each relay, and none that leads a stranger's event into our own network."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from relay_bridge.errors import InvalidRelayUrl

URL_MAX: Final = 512
_PORTS: Final = {"ws": 80, "wss": 443}
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def normalise_relay_url(text: str) -> str:
    """Bring a relay URL to one spelling: lower case host, no default port, no trailing slash, no query or fragment.

    Raises `InvalidRelayUrl` for anything but a plain ws:// or wss:// URL.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        scheme, port = parts.scheme.lower(), parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        raise InvalidRelayUrl(f"not a relay URL (ws://host or wss://host): {text[:80]!r}") from None
    printable = text.isprintable() and parts.path.isascii() and not set(text) & {" ", "\\"}
    if len(text) > URL_MAX or scheme not in _PORTS or not printable or "@" in parts.netloc:
        raise InvalidRelayUrl(f"not a relay URL (ws://host or wss://host): {text[:80]!r}")
    place = host if port in (None, _PORTS[scheme]) else f"{host}:{port}"
    return f"{scheme}://{place}{parts.path.rstrip('/')}"


def _host(name: str) -> str:
    """A host name in ASCII, or an IPv6 address in brackets. Raises `ValueError`."""
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name)}]"
    name = name if name.isascii() else name.encode("idna").decode()
    name = name.lower().removesuffix(".")
    if _NAME.fullmatch(name) is None:
        raise ValueError("not a host name")
    return name


def usable_relays(urls: Iterable[str], *, relays_max: int = 8) -> tuple[str, ...]:
    """Of URLs from outside (a `relays` tag) the first well-formed, distinct ones; the others are left out.

    Looks at the text only. Where a name really leads is checked when it is connected to.
    """
    found: dict[str, None] = {}
    for url in urls:
        try:
            found[normalise_relay_url(url)] = None
        except InvalidRelayUrl:
            continue
        if len(found) >= relays_max:
            break
    return tuple(found)


async def resolve_public(host: str, port: int) -> str:
    """The address to connect to for `host`. Raises `InvalidRelayUrl` if any of its addresses is not public.

    Connect to this very address: asking the name again could give another answer.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidRelayUrl(f"the relay's name cannot be resolved: {host[:80]!r} ({error})") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(_is_public(address) for address in addresses):
        raise InvalidRelayUrl(
            f"the relay's address is not public: {host[:80]!r}; allow it in the configuration if it is yours"
        )
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is not None:
            return embedded.is_global and not embedded.is_multicast
        if ip in _NAT64:
            return _is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
