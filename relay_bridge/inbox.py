"""The durable inbox: every event that matters is on disk before it is acted on, and is acted on once.

Two halves that meet in the table `inbox`. A *feed* for each relay writes what comes in, and keeps the cursor. A
*dispatcher* for each name takes open rows from the table and calls the handler.

What a restart or a reconnect may rely on:

- A cursor says: all that this relay had for this name before that time, by our own clock, is in the table. It moves
  only when that is proved: after the relay's stored events were paged through to the end, and later each time a
  question sent down the same connection has come back, because all that the relay sent before it is stored by then.
- A subscription asks for `since` = cursor less margin. The margin covers events dated back by their authors, authors'
  slow clocks, and relays that store a little before they show. `created_at` decides nothing else.
- An event dated before the retention time is refused, and rows are forgotten only when their event is dated well
  before it. So no event comes twice, whoever repeats it, and the table does not grow for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import structlog

from identity.event import Event
from relay_bridge import queries
from relay_bridge.catching_up import Feed
from relay_bridge.connection import RelayConnection
from relay_bridge.errors import AlreadyFollowed, NotNow
from relay_bridge.filters import Filter
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Dispatcher, Tasks
from relay_bridge.timing import within
from store import Clock, Database, Transaction

log = structlog.get_logger(__name__)

_PRUNE_SECONDS: Final = 3600.0
_PRUNE_SLACK_SECONDS: Final = 86_400
_RETRY_FIRST_SECONDS: Final = 2
_RETRY_SECONDS_MAX: Final = 300
_NOT_NOW_SECONDS_MAX: Final = 60
_NEVER: Final = 2**53
PRUNED_AT_ONCE: Final = 500  # rows: others want to write, too


@dataclass(frozen=True)
class InboxLimits:
    """Bounds of an `Inbox`."""

    #: Handlers running at one time for one name.
    handlers_max: int = 256
    #: Calls of a handler for one event in one run of the process; after that it waits for the next start.
    attempts_max: int = 8
    #: Older events are refused, whoever sends them; keep it well above every margin and backlog.
    retention_seconds: int = 30 * 86_400


class Delivery:
    """One event on its way to its handler."""

    def __init__(self, name: str, event: Event, relay: str) -> None:
        self.event = event
        #: The relay that brought it first.
        self.relay = relay
        #: Whether it is on disk that this event was handled.
        self.settled = False
        self._name = name

    async def done(self, tx: Transaction) -> None:
        """Mark the event handled inside the handler's own transaction: both happen, or neither."""
        await queries.mark_done(tx, self._name, self.event)
        tx.after_commit(self._settle)

    def _settle(self) -> None:
        self.settled = True


Handler = Callable[[Delivery], Awaitable[None]]
#: Deals with a simple event inside the transaction that writes it down, or returns False: then the handler gets it.
#: Others wait for that transaction: nothing but the transaction itself may be awaited.
AtOnce = Callable[[Delivery, Transaction], Awaitable[bool]]


class Gate(Protocol):
    """Keeps events out of the inbox. What it keeps out is not written down, and may come again."""

    def ignores(self, event: Event) -> bool:
        """Whether `admits` would say no, genuine or not. The event may be forged: it must change nothing."""
        ...

    async def admits(self, event: Event, tx: Transaction) -> bool:
        """Whether a verified, new event is let in; `tx` is for reading. Asked again if that transaction fails."""
        ...


#: Makes a name's ear on a relay, which begins at that cursor.
MakeFeed = Callable[["Following", RelayConnection, int], Feed]


class Following:
    """One name that is being followed; made by `Inbox.follow`."""

    def __init__(
        self,
        name: str,
        db: Database,
        clock: Clock,
        handler: Handler,
        *,
        gate: Gate | None,
        at_once: AtOnce | None,
        limits: InboxLimits,
        feed: MakeFeed,
        backlog_seconds: int | None,
    ) -> None:
        self.name = name
        self.feed = feed
        #: How far back a relay new to the name is asked; None if the name follows relays of its own, not the pool's.
        self.backlog_seconds = backlog_seconds
        self._db = db
        self._clock = clock
        self._handler = handler
        self._gate = gate
        self._at_once = at_once
        self._limits = limits
        self._feeds: list[Feed] = []
        self.closed = False
        self._tasks = Tasks()
        self._dispatcher = Dispatcher[queries.Open](
            clock,
            parallel_max=limits.handlers_max,
            load=lambda rows_max, now: queries.due_deliveries(db, name, rows_max, now),
            next_due=lambda now: queries.next_delivery(db, name, now),
            key=lambda row: row.event.id,
            handle=self._handle,
        )

    async def listening(self) -> None:
        """Wait until each relay that can be reached tells what is new, also what none keeps (ephemeral events)."""
        await asyncio.gather(*(feed.listening() for feed in self._feeds))

    async def caught_up(self) -> None:
        """Wait until each relay that can be reached has told all it had stored, and that is on disk.

        Relays that never say so are waited for as long as the pool's limits allow.
        """
        await asyncio.gather(*(feed.caught_up() for feed in self._feeds))

    @property
    def is_idle(self) -> bool:
        """Whether all that is on disk was handled, but for what failed and is put off."""
        return self._dispatcher.idle.is_set()

    @property
    def is_current(self) -> bool:
        """Whether some relay has told all that it had stored, and tells now what is new."""
        return any(feed.is_current for feed in self._feeds)

    async def read(self, *, patience_seconds: float) -> bool:
        """Have all that relays stored so far on disk, and handled.

        False if that took too long, if no relay told all of it, or if something could not be handled and is put off.
        """
        try:
            await within(self._clock, patience_seconds, self._read())
        except TimeoutError:
            return False
        put_off_to = await queries.next_delivery(self._db, self.name, self._clock.now())
        return (put_off_to is None or put_off_to >= _NEVER) and self.is_current

    async def _read(self) -> None:
        await self.caught_up()
        await self._dispatcher.idle.wait()

    async def current_since(self, *, patience_seconds: int) -> list[int]:
        """Since when all that a relay has is on disk: a time for each relay that proves now that it is.

        Empty if none does, so also while we are cut off; and as long as a relay that was connected to less than
        `patience_seconds` ago still tells what it had stored. That is on disk; its handlers may be running.
        """
        if any(feed.is_telling(patience_seconds) for feed in self._feeds):
            return []
        times = await asyncio.gather(*(feed.current_since() for feed in self._feeds))
        return [time for time in times if time is not None]

    async def close(self) -> None:
        """Stop listening and cancel the handlers under way: their events stay open for the next `follow`."""
        self.closed = True
        for feed in self._feeds:
            feed.detach()
        await self._tasks.close()

    def start(self, feeds: Sequence[Feed]) -> None:
        """Deliver what is open, then listen."""
        self._tasks.start(self._dispatcher.run(), f"inbox {self.name}")
        self.hear(feeds)

    def hear(self, feeds: Sequence[Feed]) -> None:
        """Listen to these, too."""
        for feed in feeds:
            feed.attach(self._tasks)
            self._feeds.append(feed)

    def leave_all_but(self, relays: Collection[str]) -> set[str]:
        """Listen to other relays no more; returns those of `relays` that are listened to."""
        for feed in [feed for feed in self._feeds if feed.url not in relays]:
            self._feeds.remove(feed)
            feed.detach()
        return {feed.url for feed in self._feeds}

    def ignores(self, event: Event) -> bool:
        """Whether it is known without looking further that an event will not be let in."""
        return self._gate is not None and self._gate.ignores(event)

    async def keep(self, relay: str, events: Sequence[Event]) -> None:
        """Write down events that a relay sent and the gate lets in, once each. On return they are on disk."""
        now = self._clock.now()
        async with self._db.transaction() as tx:
            for event in events:
                if await queries.is_kept(tx, self.name, event):
                    continue
                if self._gate is not None and not await self._gate.admits(event, tx):
                    continue
                ended = await self._end_at_once(Delivery(self.name, event, relay), tx)
                await queries.keep_event(tx, self.name, relay, event, now, done=ended)
                if not ended:
                    tx.after_commit(partial(self._dispatcher.offer, queries.Open(event, relay, 0, now)))

    async def _end_at_once(self, delivery: Delivery, tx: Transaction) -> bool:
        if self._at_once is None:
            return False
        try:
            async with tx.part():
                return await self._at_once(delivery, tx)
        except Exception:  # the handler gets it, and shows what is wrong
            log.exception("handler_failed", inbox=self.name, event_id=delivery.event.id, attempt=0)
            return False

    async def _handle(self, row: queries.Open) -> int | None:
        event = row.event
        delivery = Delivery(self.name, event, row.relay)
        try:
            await self._handler(delivery)
        except NotNow as error:  # so that it holds none of the handlers meanwhile
            log.info("delivery_waits", inbox=self.name, event_id=event.id, reason=str(error))
            waited_seconds = self._clock.now() - row.since
            return await self._put_off(
                row, min(max(waited_seconds, _RETRY_FIRST_SECONDS), _NOT_NOW_SECONDS_MAX)
            )
        except Exception:
            attempts = row.attempts + 1
            log.exception("handler_failed", inbox=self.name, event_id=event.id, attempt=attempts)
            if delivery.settled:
                return None
            is_last = attempts >= self._limits.attempts_max
            delay_seconds = min(_RETRY_FIRST_SECONDS << min(attempts - 1, 10), _RETRY_SECONDS_MAX)
            return await self._put_off(replace(row, attempts=attempts), _NEVER if is_last else delay_seconds)
        if not delivery.settled:
            async with self._db.transaction() as tx:
                await delivery.done(tx)
        return None

    async def _put_off(self, row: queries.Open, seconds: int) -> int:
        due_at = self._clock.now() + seconds
        async with self._db.transaction() as tx:
            await queries.put_off(tx, self.name, row.event, attempts=row.attempts, due_at=due_at)
        return due_at


class Inbox:
    """Follow filters so that nothing that matters is missed or done twice. Use as an async context manager."""

    def __init__(
        self, db: Database, pool: RelayPool, clock: Clock, limits: InboxLimits | None = None
    ) -> None:
        """`db` must have this package's migrations; `pool` must be open while anything is followed."""
        self._db = db
        self._pool = pool
        self._clock = clock
        self._limits = limits or InboxLimits()
        self._followings: dict[str, Following] = {}
        self._changing = asyncio.Lock()  # whoever begins to follow, or follows other relays, does it whole
        self._tasks = Tasks()

    async def __aenter__(self) -> "Inbox":
        self._tasks.every(self._clock, _PRUNE_SECONDS, self._prune, "inbox pruning")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def follow(
        self,
        name: str,
        filters: Sequence[Filter],
        handler: Handler,
        *,
        gate: Gate | None = None,
        at_once: AtOnce | None = None,
        relays: Sequence[str] | None = None,
        margin_seconds: int,
        backlog_seconds: int = 0,
    ) -> Following:
        """Call `handler` once for each event that matches, also for those that came while we were away.

        `name` stands for this question across restarts: an event is done once for each name, and a name whose filters
        grow does not look back for what it did not ask for before. `relays` None: the pool's own. `margin_seconds`:
        how far back an author may have dated an event (two days and more for gift wraps). A relay new to the name is
        asked from `backlog_seconds` ago (or from when the name was last current elsewhere), less the margin as always.

        The event is written down before `handler` runs. The handler ends the matter in its own transaction by
        `Delivery.done`; if it returns without, the inbox does it; killed in between, the event comes again. What it
        raises is logged, and the event comes again later, so many times, and at the next start; after `NotNow` it
        comes again until it is done. Handlers run side by side.
        `at_once` is asked first, and may spare the event the way through the table; `gate` is asked before that, and
        what it keeps out never comes to either.

        Raises `AlreadyFollowed`, `InvalidRelayUrl`, `TooManyRelays`, `TooManySubscriptions`.
        """
        if margin_seconds + backlog_seconds >= self._limits.retention_seconds:
            raise ValueError("margin and backlog together must be shorter than InboxLimits.retention_seconds")
        async with self._changing:
            if name in self._followings and not self._followings[name].closed:
                raise AlreadyFollowed(f"{name!r} is being followed already; close that first")
            connections = [self._pool.relay(url) for url in (self._pool.urls if relays is None else relays)]

            def feed(following: Following, connection: RelayConnection, current_at: int) -> Feed:
                return Feed(
                    name, filters, connection, self._db, self._clock,
                    keep=following.keep, ignores=following.ignores, current_at=current_at,
                    margin_seconds=margin_seconds, retention_seconds=self._limits.retention_seconds,
                )  # fmt: skip

            following = self._followings[name] = Following(
                name, self._db, self._clock, handler, gate=gate, at_once=at_once, limits=self._limits, feed=feed,
                backlog_seconds=backlog_seconds if relays is None else None,
            )  # fmt: skip
            try:
                async with self._db.transaction() as tx:
                    await queries.revive_deliveries(tx, name)
                    current = await self._cursors(tx, name, connections, backlog_seconds)
                following.start([feed(following, one, current[one.url]) for one in connections])
            except BaseException:
                del self._followings[name]
                await following.close()
                raise
            return following

    async def follow_pool(self) -> None:
        """The pool's relays have changed: names that follow those hear the new ones, and the others no more.

        A new one is asked from when the name was last current, as if it had been there from the start. If this fails
        half-way, call it again. Raises `TooManySubscriptions`.
        """
        async with self._changing:
            for name, following in list(self._followings.items()):
                if following.closed or following.backlog_seconds is None:
                    continue
                heard = following.leave_all_but(self._pool.urls)
                connections = [self._pool.relay(url) for url in self._pool.urls if url not in heard]
                async with self._db.transaction() as tx:
                    current = await self._cursors(tx, name, connections, following.backlog_seconds)
                if not following.closed:
                    following.hear([following.feed(following, one, current[one.url]) for one in connections])

    async def listening(self, *, seconds_max: float) -> None:
        """Wait until all names are heard wherever a relay can be reached (`Following.listening`), so long at most."""
        names = [one.listening() for one in self._followings.values() if not one.closed]
        with suppress(TimeoutError):
            await within(self._clock, seconds_max, asyncio.gather(*names))

    async def close(self) -> None:
        """Stop everything that is followed."""
        await self._tasks.close()
        await asyncio.gather(*(following.close() for following in self._followings.values()))
        self._followings.clear()

    async def _cursors(
        self, tx: Transaction, name: str, relays: Sequence[RelayConnection], backlog_seconds: int
    ) -> dict[str, int]:
        """Each relay's cursor, set where the relay is new to this name."""
        known = await queries.cursors(tx, name)
        now = self._clock.now()
        start = min(now - backlog_seconds, max(known.values(), default=now))
        for url in [relay.url for relay in relays if relay.url not in known]:
            await queries.set_cursor(tx, name, url, start)
            known[url] = start
        return known

    async def _prune(self) -> None:
        oldest = self._clock.now() - self._limits.retention_seconds - _PRUNE_SLACK_SECONDS
        forgotten = PRUNED_AT_ONCE
        while forgotten == PRUNED_AT_ONCE:
            async with self._db.transaction() as tx:
                forgotten = await queries.forget_done(tx, oldest, PRUNED_AT_ONCE)
