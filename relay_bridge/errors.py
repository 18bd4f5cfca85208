"""Errors of relay_bridge.

RelayBridgeError
├── InvalidMessage      a relay (or client) message, or a filter, that is not what NIP-01 describes
├── InvalidRelayUrl     not a ws:// or wss:// URL that we are willing to connect to
├── ConnectionLost      the connection to a relay could not be opened, or broke
├── TooManyRelays       more relays at one time than the limits allow
├── TooManySubscriptions  more subscriptions on one relay than the limits allow
└── AlreadyFollowed     two follows of one name on one inbox
"""


class RelayBridgeError(Exception):
    """Base of this package's errors."""


class InvalidMessage(RelayBridgeError):  # noqa: N818 - names the thing, as the specifications do
    """A relay (or client) message, or a filter, that is not what NIP-01 describes."""


class InvalidRelayUrl(RelayBridgeError):  # noqa: N818
    """Not a ws:// or wss:// URL that we are willing to connect to."""


class ConnectionLost(RelayBridgeError):  # noqa: N818
    """The connection to a relay could not be opened, or broke. The next attempt is made after a back-off."""


class TooManyRelays(RelayBridgeError):  # noqa: N818
    """More relays at one time than the limits allow; ask fewer, or raise `PoolLimits.outside_relays_max`."""


class TooManySubscriptions(RelayBridgeError):  # noqa: N818
    """More subscriptions on one relay than the limits allow; close some, or raise `PoolLimits.subscriptions_max`."""


class AlreadyFollowed(RelayBridgeError):  # noqa: N818
    """Two follows of one name on one inbox; close the first, or choose another name."""
