"""How much the pool lets the outside have."""

from dataclasses import dataclass

from relay_bridge.transport import MESSAGE_BYTES_MAX


@dataclass(frozen=True)
class PoolLimits:
    """Bounds of a `RelayPool`; the defaults suit a post with some dozens of agents."""

    #: Relays named by others that are connected at one time, besides the configured ones.
    outside_relays_max: int = 64
    #: A connection to a relay named by others ends after this time without use.
    outside_idle_seconds_max: int = 60
    #: Subscriptions open on one relay at one time.
    subscriptions_max: int = 1024
    #: Queries running on one relay at one time; more of them take turns.
    queries_max: int = 8
    #: Events one query may bring from one relay; what exceeds it is left out.
    query_events_max: int = 5000
    query_bytes_max: int = 16 * 1024 * 1024
    message_bytes_max: int = MESSAGE_BYTES_MAX
    #: What may wait for verification on one connection before its relay is read no further.
    queue_frames_max: int = 1024
    queue_bytes_max: int = 8 * 1024 * 1024
    #: Events that may wait for a slow `on_event` before its subscription is dropped and asked for again.
    waiting_events_max: int = 1000
    #: Malformed, unasked or invalid messages on one connection before it is given up for a while.
    strikes_max: int = 1000
    publish_seconds_max: float = 10.0
    eose_seconds_max: float = 10.0
