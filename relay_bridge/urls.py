"""Relay URLs: one spelling for each relay, and none that leads a stranger's event into our own network."""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from relay_bridge.addresses import public_addresses
from relay_bridge.errors import InvalidRelayUrl, PrivateAddress

URL_MAX: Final = 512
_PORTS: Final = {"ws": 80, "wss": 443}
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@lru_cache(1024)
def normalise_relay_url(text: str) -> str:
    """Bring a relay URL to one spelling: lower case host, no default port, no trailing slash, no query or fragment.

    Raises `InvalidRelayUrl` for anything but a plain ws:// or wss:// URL.
    """
    if len(text) > URL_MAX:  # first of all: IDNA takes seconds for a megabyte, and texts are remembered
        raise InvalidRelayUrl(f"a relay URL has at most {URL_MAX} characters, not {len(text)}")
    text = text.strip()
    try:
        parts = urlsplit(text)
        scheme, port = parts.scheme.lower(), parts.port
        host = ascii_host(parts.hostname or "")
    except ValueError:
        raise InvalidRelayUrl(f"not a relay URL (ws://host or wss://host): {text[:80]!r}") from None
    printable = text.isprintable() and parts.path.isascii() and not set(text) & {" ", "\\"}
    if scheme not in _PORTS or not printable or "@" in parts.netloc:
        raise InvalidRelayUrl(f"not a relay URL (ws://host or wss://host): {text[:80]!r}")
    place = host if port in (None, _PORTS[scheme]) else f"{host}:{port}"
    return f"{scheme}://{place}{parts.path.rstrip('/')}"


def ascii_host(name: str) -> str:
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
    """The address to connect to for `host`. Raises `InvalidRelayUrl` if any of its addresses is not public."""
    try:
        return (await public_addresses(host, port))[0]
    except PrivateAddress as error:
        raise InvalidRelayUrl(
            f"the relay may not be connected to: {error}; allow it in the configuration if it is yours"
        ) from None
