"""Errors of relay_bridge.

RelayBridgeError
├── InvalidMessage      a relay (or client) message, or a filter, that is not what NIP-01 describes
├── InvalidRelayUrl     not a ws:// or wss:// URL that we are willing to connect to
├── PrivateAddress      a host that a stranger named and that does not lead to the internet at large
├── FetchFailed         a URL that a stranger named and that brought no text, and why
├── ConnectionLost      the connection to a relay could not be opened, or broke
├── TooManyRelays       more relays at one time than the limits allow
├── TooManySubscriptions  more subscriptions on one relay than the limits allow
├── AlreadyFollowed     two follows of one name on one inbox
├── NotNow              raised by a handler: the event waits on disk, and comes again
├── BunkerError         a remote signer that did not do what it was asked (an `identity.SignerUnavailable` too)
│   ├── BunkerSilent    no answer in time
│   └── BunkerRefused   it answered with an error
└── BunkerUntrue        a remote signer's answer that is not what was asked for (an `identity.InvalidEvent` too)
"""

from identity.errors import InvalidEvent, SignerUnavailable
from store.errors import CodedError


class RelayBridgeError(CodedError):
    """Base of this package's errors."""


class InvalidMessage(RelayBridgeError):  # noqa: N818 - names the thing, as the specifications do
    """A relay (or client) message, or a filter, that is not what NIP-01 describes."""


class InvalidRelayUrl(RelayBridgeError):  # noqa: N818
    """Not a ws:// or wss:// URL that we are willing to connect to."""


class PrivateAddress(RelayBridgeError):  # noqa: N818
    """A host that a stranger named and that does not lead to the internet at large, or nowhere."""


class FetchFailed(RelayBridgeError):  # noqa: N818
    """A URL that a stranger named and that brought no text; the message says why, and may be told to that stranger."""


class ConnectionLost(RelayBridgeError):  # noqa: N818
    """The connection to a relay could not be opened, or broke. The next attempt is made after a back-off."""


class RelayMisbehaved(ConnectionLost):
    """A relay sent so much that is forged, or that nobody asked for, that it is left for a while."""


class TooManyRelays(RelayBridgeError):  # noqa: N818
    """More relays at one time than the limits allow; ask fewer, or raise `PoolLimits.outside_relays_max`."""


class TooManySubscriptions(RelayBridgeError):  # noqa: N818
    """More subscriptions on one relay than the limits allow; close some, or raise `PoolLimits.subscriptions_max`."""


class NotNow(RelayBridgeError):  # noqa: N818
    """Raised by a handler of an `Inbox` that waits for somebody, as a mint: the event comes again in up to a minute."""


class AlreadyFollowed(RelayBridgeError):  # noqa: N818
    """Two follows of one name on one inbox; close the first, or choose another name."""


class BunkerError(RelayBridgeError, SignerUnavailable):
    """A remote signer did not do what it was asked; says what to do."""


class BunkerSilent(BunkerError):  # noqa: N818
    """A remote signer did not answer in time. Whether it saw the request is not known."""


class BunkerRefused(BunkerError):  # noqa: N818
    """A remote signer answered with an error: it does not allow this, or cannot do it."""


class BunkerUntrue(RelayBridgeError, InvalidEvent):  # noqa: N818
    """A remote signer's answer is not what was asked for: another event, another key, no ciphertext.

    To ask again is no use.
    """
