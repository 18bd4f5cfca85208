"""How often strangers may ask the gateway: so many requests a minute for each of them, and for all together."""

import ipaddress
from collections import Counter
from typing import Final

from store import Clock

_WINDOW_SECONDS: Final = 60
_CLIENTS_MAX: Final = 10_000


class RateLimit:
    """Counts by the minute. A house with IPv6 is one client, whatever addresses it has."""

    def __init__(self, clock: Clock, *, each_max: int, all_max: int) -> None:
        self._clock = clock
        self._each_max = each_max
        self._all_max = all_max
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def allows(self, address: str) -> bool:
        """Count one request of a client; whether it is still within the limits."""
        minute = self._clock.now() // _WINDOW_SECONDS
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        client = _client(address)
        if client not in self._counts and len(self._counts) >= _CLIENTS_MAX:
            return False
        self._counts[client] += 1
        return self._counts[client] <= self._each_max and self._counts.total() <= self._all_max


def _client(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
