"""Travel: relay connections, the pool, the durable inbox and outbox, the embedded relay (floor 2)."""

from relay_bridge.embedded import EmbeddedRelay
from relay_bridge.errors import (
    AlreadyFollowed,
    ConnectionLost,
    FetchFailed,
    InvalidMessage,
    InvalidRelayUrl,
    NotNow,
    PrivateAddress,
    RelayBridgeError,
    RelayMisbehaved,
    TooManyRelays,
    TooManySubscriptions,
)
from relay_bridge.fetch import Document, Fetcher, check_url
from relay_bridge.filters import Filter
from relay_bridge.inbox import AtOnce, Delivery, Following, Gate, Handler, Inbox, InboxLimits
from relay_bridge.limits import PoolLimits
from relay_bridge.mailboxes import Mailboxes
from relay_bridge.outbox import Outbox
from relay_bridge.pool import RelayPool
from relay_bridge.records import RelayRecords
from relay_bridge.subscription import OnEvent, Subscription
from relay_bridge.transport import Connect, Socket
from relay_bridge.urls import normalise_relay_url, usable_relays
from relay_bridge.values import Answer, RelayChange, RelayHealth

__all__ = [
    "AlreadyFollowed",
    "Answer",
    "AtOnce",
    "Connect",
    "ConnectionLost",
    "Delivery",
    "Document",
    "EmbeddedRelay",
    "FetchFailed",
    "Fetcher",
    "Filter",
    "Following",
    "Gate",
    "Handler",
    "Inbox",
    "InboxLimits",
    "InvalidMessage",
    "InvalidRelayUrl",
    "Mailboxes",
    "NotNow",
    "OnEvent",
    "Outbox",
    "PoolLimits",
    "PrivateAddress",
    "RelayBridgeError",
    "RelayChange",
    "RelayHealth",
    "RelayMisbehaved",
    "RelayPool",
    "RelayRecords",
    "Socket",
    "Subscription",
    "TooManyRelays",
    "TooManySubscriptions",
    "check_url",
    "normalise_relay_url",
    "usable_relays",
]
