"""A relay in memory: the relay's side of `relay_bridge.transport`, for tests without a network.

    relay = MemoryRelay()
    async with RelayPool(["ws://relay.test"], clock=clock, connect=relay.connect) as pool: ...

It keeps to NIP-01, 09, 40, 42 and 45 as a good relay does, until a switch makes it a bad one.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from identity.errors import InvalidEvent
from identity.event import Event
from relay_bridge.errors import ConnectionLost, InvalidMessage
from relay_bridge.filters import Filter, matches_any
from relay_bridge.messages import Close, Publish, Request, parse_client_message, relay_frame
from relay_bridge.transport import Connect, Socket
from store import Clock, SystemClock

_UNREAD_FRAMES_MAX: Final = 1000  # like a TCP window: `flood` waits for a client that does not read
_DELETION_KIND: Final = 5
_AUTH_KIND: Final = 22242


@dataclass
class Switches:
    """How the relay misbehaves. Change them at any time."""

    #: Refuses new connections. (`drop_connections` ends those that are open.)
    down: bool = False
    #: Says why an event is refused (`"blocked: no"`), or None to take it.
    reject: Callable[[Event], str | None] = lambda _: None
    #: Says why a subscription is refused (`"error: too many"`), or None to serve it.
    refuse: Callable[[tuple[Filter, ...]], str | None] = lambda _: None
    #: Subscriptions that one connection may have; one more is refused.
    subscriptions_max: int | None = None
    #: Never answers `OK`; the event is taken all the same.
    without_ok: bool = False
    #: Never says `EOSE`.
    without_eose: bool = False
    #: Wants NIP-42 before it takes, or gives, anything.
    auth_to_write: bool = False
    auth_to_read: bool = False
    #: Checks signatures of what it is given.
    verifies: bool = True


class MemoryRelay:
    """See the head of this file. One relay answers under whatever URL it is connected to."""

    def __init__(self, *, clock: Clock | None = None, stored_max: int = 500) -> None:
        """`stored_max`: how many stored events one filter brings at most, as real relays limit it."""
        self.switches = Switches()
        #: Every event a client published, in order, the refused and ephemeral ones too.
        self.published: list[Event] = []
        #: The filters of every `REQ`, in order.
        self.requests: list[tuple[Filter, ...]] = []
        self.connections_made = 0
        self._clock = clock or SystemClock()
        self._stored_max = stored_max
        self._stored: dict[str, Event] = {}
        self._deleted: set[tuple[str, str]] = set()
        self._sockets: list[_MemorySocket] = []

    async def connect(self, url: str) -> Socket:
        """A `Connect` for `RelayPool`."""
        if self.switches.down:
            raise ConnectionLost("cannot connect: the relay is down")
        self.connections_made += 1
        connection = _MemorySocket(self, url)
        self._sockets.append(connection)
        return connection

    # What tests look at and do

    @property
    def events(self) -> list[Event]:
        """What the relay has stored and would show, newest first."""
        now = self._clock.now()
        shown = [event for event in self._stored.values() if not _is_expired(event, now)]
        return sorted(shown, key=lambda event: (-event.created_at, event.id))

    @property
    def subscriptions(self) -> int:
        """How many subscriptions are open now, on all connections."""
        return sum(len(connection.subscriptions) for connection in self._sockets)

    def insert(self, event: Event) -> None:
        """Take an event as if another client had published it; no checks."""
        self._store(event)
        for connection in self._sockets:
            for name, filters in connection.subscriptions.items():
                if matches_any(filters, event):
                    connection.push(relay_frame("EVENT", name, event))

    def drop_connections(self) -> None:
        """Break every open connection, as a crash does."""
        for connection in list(self._sockets):
            connection.abort()

    def drop_subscriptions(self, message: str = "error: shutting down idle subscription") -> None:
        """End every open subscription with `CLOSED`."""
        for connection in self._sockets:
            for name in connection.subscriptions:
                connection.push(relay_frame("CLOSED", name, message))
            connection.subscriptions.clear()

    def lie(self, event: Event) -> None:
        """Send an event on every open subscription, whether it was asked for, and is valid, or not."""
        for connection in self._sockets:
            for name in connection.subscriptions:
                connection.push(relay_frame("EVENT", name, event))

    def say(self, frame: str) -> None:
        """Send any text to every client."""
        for connection in self._sockets:
            connection.push(frame)

    async def flood(self, frames: Iterable[str]) -> None:
        """Send many frames to every client, as fast as they read them; ends early when they have left."""
        for frame in frames:
            for connection in list(self._sockets):
                await connection.has_room()
                connection.push(frame)

    # The protocol

    def receive(self, connection: "_MemorySocket", frame: str) -> None:
        """Serve one message of a client."""
        try:
            message = parse_client_message(frame)
        except InvalidMessage as error:
            connection.push(relay_frame("NOTICE", f"invalid: {error}"))
            return
        match message:
            case Publish(event, auth=True):
                connection.authenticate(event)
            case Publish(event):
                self._publish(connection, event)
            case Request():
                self._request(connection, message)
            case Close(name):
                connection.subscriptions.pop(name, None)

    def _publish(self, connection: "_MemorySocket", event: Event) -> None:
        self.published.append(event)
        refusal = self._refusal(connection, event)
        duplicate = event.id in self._stored
        if refusal is None and not duplicate:
            self.insert(event)
        if not self.switches.without_ok:
            words = refusal or ("duplicate: already have this event" if duplicate else "")
            connection.push(relay_frame("OK", event.id, refusal is None, words))

    def _refusal(self, connection: "_MemorySocket", event: Event) -> str | None:
        if self.switches.auth_to_write and not connection.authenticated:
            connection.challenge_again()
            return "auth-required: we only accept events from known users"
        if event.kind == _AUTH_KIND:
            return "invalid: not an event to publish"
        if self.switches.verifies:
            try:
                event.verify()
            except InvalidEvent as error:
                return f"invalid: {error}"
        if _is_expired(event, self._clock.now()):
            return "invalid: the event is expired"
        if (event.id, event.pubkey) in self._deleted:
            return "blocked: the event was deleted"
        return self.switches.reject(event)

    def _request(self, connection: "_MemorySocket", request: Request) -> None:
        self.requests.append(request.filters)
        name = request.subscription
        if self.switches.auth_to_read and not connection.authenticated:
            connection.challenge_again()
            connection.push(relay_frame("CLOSED", name, "auth-required: we only serve known users"))
            return
        refusal = self.switches.refuse(request.filters)
        if refusal is not None:
            connection.push(relay_frame("CLOSED", name, refusal))
            return
        if request.count:
            total = sum(matches_any(request.filters, event) for event in self.events)
            connection.push(relay_frame("COUNT", name, {"count": total}))
            return
        if len(connection.subscriptions) == self.switches.subscriptions_max:
            connection.push(relay_frame("CLOSED", name, "error: too many concurrent subscriptions"))
            return
        connection.subscriptions[name] = request.filters
        for event in self._find(request.filters):
            connection.push(relay_frame("EVENT", name, event))
        if not self.switches.without_eose:
            connection.push(relay_frame("EOSE", name))

    def _find(self, filters: tuple[Filter, ...]) -> list[Event]:
        found: dict[str, Event] = {}
        for one in filters:
            limit = self._stored_max if one.limit is None else min(one.limit, self._stored_max)
            found |= {event.id: event for event in [e for e in self.events if one.matches(e)][:limit]}
        return sorted(found.values(), key=lambda event: (-event.created_at, event.id))

    def _store(self, event: Event) -> None:
        if 20000 <= event.kind < 30000:
            return
        if event.kind == _DELETION_KIND:
            self._delete(event)
        place = _place(event)
        if place is not None:
            for other in [other for other in self._stored.values() if _place(other) == place]:
                if (-other.created_at, other.id) <= (-event.created_at, event.id):
                    return
                del self._stored[other.id]
        self._stored[event.id] = event

    def _delete(self, deletion: Event) -> None:
        ids = {tag[1] for tag in deletion.tags if len(tag) > 1 and tag[0] == "e"}
        places = {tag[1] for tag in deletion.tags if len(tag) > 1 and tag[0] == "a"}
        self._deleted |= {(event_id, deletion.pubkey) for event_id in ids}
        for event in list(self._stored.values()):
            is_named = event.id in ids or (
                _place(event) in places and event.created_at <= deletion.created_at
            )
            if event.pubkey == deletion.pubkey and is_named and event.kind != _DELETION_KIND:
                del self._stored[event.id]


@dataclass(eq=False)
class _MemorySocket:
    """One connection: the client's `Socket` and the relay's view of the client."""

    relay: MemoryRelay
    url: str
    subscriptions: dict[str, tuple[Filter, ...]] = field(default_factory=dict)
    authenticated: set[str] = field(default_factory=set)
    challenge: str = ""
    _unread: deque[str] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _open: bool = True

    async def send(self, text: str) -> None:
        self._check()
        self.relay.receive(self, text)

    async def recv(self) -> str | bytes:
        while not self._unread:
            self._check()
            self._changed.clear()
            await self._changed.wait()
        frame = self._unread.popleft()
        self._changed.set()
        return frame

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._open = False
        self._changed.set()
        if self in self.relay._sockets:
            self.relay._sockets.remove(self)

    def push(self, frame: str) -> None:
        if self._open:
            self._unread.append(frame)
            self._changed.set()

    async def has_room(self) -> None:
        while self._open and len(self._unread) >= _UNREAD_FRAMES_MAX:
            self._changed.clear()
            await self._changed.wait()

    def challenge_again(self) -> None:
        self.challenge = secrets.token_hex(16)
        self.push(relay_frame("AUTH", self.challenge))

    def authenticate(self, event: Event) -> None:
        try:
            event.verify()
        except InvalidEvent as error:
            self.push(relay_frame("OK", event.id, False, f"invalid: {error}"))
            return
        right = (
            event.kind == _AUTH_KIND
            and event.tag("challenge") == self.challenge
            and event.tag("relay") == self.url
        )
        if right:
            self.authenticated.add(event.pubkey)
        self.push(
            relay_frame("OK", event.id, right, "" if right else "invalid: not an answer to our challenge")
        )

    def _check(self) -> None:
        if not self._open:
            raise ConnectionLost("the relay is gone: connection dropped")


def connect_by_url(relays: Mapping[str, MemoryRelay]) -> Connect:
    """A `Connect` to several relays by normalised URL; any other URL cannot be reached."""

    async def connect(url: str) -> Socket:
        if url not in relays:
            raise ConnectionLost(f"cannot connect: no relay at {url}")
        return await relays[url].connect(url)

    return connect


def _place(event: Event) -> str | None:
    """What a later event of the same author replaces: NIP-01's coordinate of replaceable and addressable events."""
    if 30000 <= event.kind < 40000:
        return f"{event.kind}:{event.pubkey}:{event.tag('d') or ''}"
    if 10000 <= event.kind < 20000 or event.kind in (0, 3):
        return f"{event.kind}:{event.pubkey}:"
    return None


def _is_expired(event: Event, now: int) -> bool:
    text = event.tag("expiration") or ""
    return text.isascii() and text.isdigit() and int(text) < now
