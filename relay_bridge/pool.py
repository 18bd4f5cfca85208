"""Many relays as one: subscribe, query and publish on all of them; none of them is waited for by the others."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final
from weakref import WeakSet

import structlog

from identity.event import Event
from identity.signer import Signer
from relay_bridge.auth import Signers
from relay_bridge.connection import RelayConnection
from relay_bridge.door import Door
from relay_bridge.errors import InvalidRelayUrl, TooManyRelays, TooManySubscriptions
from relay_bridge.fetching import Question
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits
from relay_bridge.subscription import OnEvent, Subscription
from relay_bridge.tasks import Tasks
from relay_bridge.timing import most
from relay_bridge.transport import Connect, connect_public_websocket, connect_websocket
from relay_bridge.urls import normalise_relay_url, usable_relays
from relay_bridge.values import Answer, RelayChange, RelayHealth
from store import Clock

log = structlog.get_logger(__name__)

_SWEEP_SECONDS: Final = 15.0
_SPARED_SECONDS: Final = 5  # without use, before a visited relay may have to make room for another
_REMEMBERED: Final = 1000  # relays
_EVEN: Final = 0.5  # the reliability of a relay that we know nothing of
_LISTED_MAX: Final = 32  # of a stranger's list, that are looked at


class RelayPool:
    """Use as an async context manager: entering connects to the configured relays, leaving disconnects from all.

    Besides its configured relays the pool visits others, named by URL in each call (a customer's `relays` tag).
    Those are connected on first use and left when idle, their number is limited, and unless `allow_private` is set
    they must have public addresses. Where there is a choice between them, it is by how they did so far.
    """

    def __init__(
        self,
        urls: Iterable[str],
        *,
        clock: Clock,
        connect: Connect | None = None,
        allow_private: bool = False,
        limits: PoolLimits | None = None,
    ) -> None:
        """`urls` may be in any spelling; raises `InvalidRelayUrl`. `connect` replaces the WebSocket for every relay.

        With a `connect` of its own the caller also owns the guard against private addresses.
        """
        self._clock = clock
        self._limits = limits or PoolLimits()
        self._connect_own = connect or connect_websocket
        self._connect_outside = connect or (connect_websocket if allow_private else connect_public_websocket)
        self._door = Door(clock)
        self._signers = Signers()
        self._known: dict[str, RelayHealth] = {}
        self._own = {url: self._make(url, self._connect_own) for url in map(normalise_relay_url, urls)}
        self._outside: dict[str, RelayConnection] = {}
        self._subscriptions: WeakSet[Subscription] = (
            WeakSet()
        )  # to the configured relays, whichever these are
        self._tasks = Tasks()

    async def __aenter__(self) -> "RelayPool":
        for connection in self._own.values():
            connection.start()
        self._tasks.every(self._clock, _SWEEP_SECONDS, self._sweep, "relay pool")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.close()
        await asyncio.gather(
            *(connection.close() for connection in (*self._own.values(), *self._outside.values()))
        )
        await self._door.close()

    @property
    def urls(self) -> tuple[str, ...]:
        """The configured relays, normalised."""
        return tuple(self._own)

    def set_urls(self, urls: Iterable[str]) -> RelayChange:
        """Have these as the configured relays, and subscriptions to those follow. Raises `InvalidRelayUrl`.

        What is under way at relays that are left comes to its end, as with any relay visited. `Inbox` and `Outbox` are
        told by whoever calls this: see their `follow_pool`.
        """
        wanted = tuple(dict.fromkeys(map(normalise_relay_url, urls)))
        change = RelayChange.between(self.urls, wanted)
        for url in change.left:
            connection = self._outside[url] = self._own[url]
            connection.connect = self._connect_outside
        own = {url: self._own.get(url) or self._outside.pop(url, None) for url in wanted}
        self._own = {url: connection or self._make(url, self._connect_own) for url, connection in own.items()}
        for url in change.added:
            self._own[url].connect = self._connect_own
            if own[url] is None:
                self._own[url].start()
        for subscription in [one for one in self._subscriptions if not one.closed]:
            try:
                subscription.listen_on(self._own.values())
            except TooManySubscriptions as error:
                log.warning("relay_not_subscribed", reason=str(error))
        return change

    def choose(self, urls: Iterable[str], relays_max: int) -> tuple[str, ...]:
        """Of relays that somebody listed the best, as far as we know them; not those that are ours anyway.

        Malformed ones are left out. Of those we know nothing of, the first.
        """
        listed = [
            url
            for url in usable_relays(urls, relays_max=_LISTED_MAX + len(self._own))
            if url not in self._own
        ]
        return tuple(sorted(listed, key=lambda url: -self._rank(url))[:relays_max])

    async def up(self) -> None:
        """Wait until one of the configured relays is connected, however long that takes. There must be some."""
        waiting = [asyncio.ensure_future(connection.up()) for connection in self._own.values()]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waiting:
                wait.cancel()

    def add_signer(self, signer: Signer) -> None:
        """Make an identity available for NIP-42. It is shown to a relay only when that asks in a matter of this key;
        the first one added also where no key of ours is concerned.
        """
        self._signers.add(signer)

    async def subscribe(
        self, filters: Sequence[Filter], on_event: OnEvent, *, relays: Sequence[str] | None = None
    ) -> Subscription:
        """Hear of stored and new events; see `Subscription`. Renewed by itself after every loss of a connection.

        Raises `InvalidRelayUrl`, `TooManyRelays`, `TooManySubscriptions`.
        """
        subscription = Subscription(filters, on_event, self._relays(relays), self._clock, self._limits)
        if relays is None:
            self._subscriptions.add(subscription)
        return subscription

    async def query(
        self, filters: Sequence[Filter], *, relays: Sequence[str] | None = None, seconds_max: float = 10.0
    ) -> list[Event]:
        """Stored events from all relays, verified, each once, newest first. Relays that are down bring nothing.

        Nor does one that takes much longer than the others and than usual: when half have answered, who is late is
        waited for a moment, and what it brought until then counts. A relay may know more than it gives to one query
        (often 500); ask on with `until` to be thorough.
        """
        asked = {relay: Question(filters, self._limits) for relay in self._relays(relays)}
        steps = [relay.ask(question, seconds_max) for relay, question in asked.items()]
        ended = await most(self._clock, steps, [relay.health.patience_seconds for relay in asked])
        for relay, came in zip(asked, ended, strict=True):
            if not came:
                relay.health.breaks()
        found = {event.id: event for question in asked.values() for event in question.fetched.events}
        return sorted(found.values(), key=lambda event: (-event.created_at, event.id))

    async def count(
        self, filters: Sequence[Filter], *, relays: Sequence[str] | None = None, seconds_max: float = 10.0
    ) -> dict[str, int]:
        """NIP-45: how many events each relay says it has. Relays that do not tell are left out."""
        asked = self._relays(relays)
        counts = await asyncio.gather(*(relay.count(filters, seconds_max) for relay in asked))
        return {relay.url: number for relay, number in zip(asked, counts, strict=True) if number is not None}

    async def publish(self, event: Event, relays: Sequence[str] | None = None) -> dict[str, Answer]:
        """Send once to each relay and return what each said, by normalised URL (a malformed one by itself).

        Never raises for what relays do: one that is down, silent or refused has an `Answer` that says so. Nothing is
        kept for later: what must arrive goes through the `Outbox`.
        """
        answers: dict[str, Answer] = {}
        connections: list[RelayConnection] = []
        for url in self.urls if relays is None else relays:
            try:
                connections.append(self.relay(url))
            except InvalidRelayUrl as error:
                answers[url] = Answer(False, f"blocked: {error}")
            except TooManyRelays as error:
                answers[url] = Answer(False, f"error: {error}")
        said = await asyncio.gather(*(connection.publish(event) for connection in connections))
        return answers | {
            connection.url: answer for connection, answer in zip(connections, said, strict=True)
        }

    def health(self) -> dict[str, RelayHealth]:
        """How each relay does now: the configured ones, then those visited."""
        connections = (*self._own.values(), *self._outside.values())
        return {c.url: replace(c.health, refused=dict(c.health.refused)) for c in connections}

    def known(self) -> list[RelayHealth]:
        """How relays did: all that are remembered, whether connected now or not."""
        return list(self._known.values())

    def remember(self, record: RelayHealth) -> None:
        """How a relay did before this pool was made."""
        health = self._known.setdefault(record.url, RelayHealth(record.url))
        health.kept += record.kept
        health.broken += record.broken
        health.failures += record.failures
        health.refused |= record.refused
        health.reliability, health.answer_seconds = record.reliability, record.answer_seconds

    def relay(self, url: str) -> RelayConnection:
        """The connection to one relay, made if need be. Raises `InvalidRelayUrl`, `TooManyRelays`."""
        url = normalise_relay_url(url)
        connection = self._own.get(url) or self._outside.get(url)
        if connection is None:
            if len(self._outside) >= self._limits.outside_relays_max:
                self._make_room()
            connection = self._outside[url] = self._make(url, self._connect_outside)
            connection.start()
        return connection

    async def leave(self, url: str) -> None:
        """Disconnect from a relay of others, unless somebody uses it now."""
        connection = self._outside.get(url)
        if connection is not None and connection.idle_since() is not None:
            del self._outside[url]
            await connection.close()

    def trusts(self, url: str) -> bool:
        """Whether a relay did lately most of what it was asked."""
        return url in self._known and self._known[url].reliability > _EVEN

    def _make_room(self) -> None:
        """Leave the worst of the relays that nobody uses. Raises `TooManyRelays`."""
        before = self._clock.now() - _SPARED_SECONDS
        idle = [
            url for url, one in self._outside.items() if (used_at := one.idle_since()) and used_at <= before
        ]
        if not idle:
            raise TooManyRelays(
                f"{len(self._outside)} relays of others are connected already; try again later"
            )
        worst = self._outside.pop(min(idle, key=self._rank))
        self._tasks.start(worst.close(), f"leaving {worst.url}")

    def _rank(self, url: str) -> float:
        return self._known.get(url, RelayHealth(url)).rank

    def _relays(self, urls: Sequence[str] | None) -> list[RelayConnection]:
        connections = {url: self.relay(url) for url in (self.urls if urls is None else urls)}
        return list({connection.url: connection for connection in connections.values()}.values())

    def _make(self, url: str, connect: Connect) -> RelayConnection:
        health = self._known.setdefault(url, RelayHealth(url))
        while len(self._known) > _REMEMBERED:
            del self._known[min(self._known, key=self._rank)]  # strangers name as many as they like
        return RelayConnection(
            health,
            connect=connect,
            clock=self._clock,
            door=self._door,
            signers=self._signers,
            limits=self._limits,
        )

    async def _sweep(self) -> None:
        oldest = self._clock.now() - self._limits.outside_idle_seconds_max
        for url, connection in list(self._outside.items()):
            used_at = connection.idle_since()
            if used_at is not None and used_at <= oldest:
                await self.leave(url)
