"""Relays as the parties of a run see them: late, out of order, deaf now and then; and what keeps messages on disk.

In place of `relay_bridge` (which has crash tests of its own, and takes most of a run's time) this has what escrows rely
on: an outbox that is part of the transaction and sends until it is heard, an inbox that calls a handler until it is
done, and never again. The disk of both is a `Mailbox`, which outlives its party's process.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from identity import Event, InvalidEvent
from relay_bridge import Answer, Delivery, Filter, NotNow
from relay_bridge.filters import matches_any
from soak.life import Dead, Life
from store import Transaction

RELAY: Final = "wss://relay.test"
RETRY_SECONDS: Final = (1, 2, 4, 8, 16, 32)
REPEATS_MAX: Final = 4
NOT_NOW_SECONDS: Final = 30


@dataclass
class Mailbox:
    """What one party's outbox and inbox have on disk."""

    outgoing: dict[str, tuple[Event, int | None]] = field(default_factory=dict)  # with the time it expires
    handled: set[tuple[str, str]] = field(default_factory=set)  # name of the following, id of the event


class Office:
    """All relays together. `lossy`, `late_seconds`: of what is sent, and of what is shown."""

    def __init__(self, draw: random.Random, *, lossy: float = 0.0, late_seconds: float = 0.0) -> None:
        self.draw = draw
        self.lossy = lossy
        self.late_seconds = late_seconds
        self.events: dict[str, Event] = {}
        self.since: dict[str, float] = {}  # of each event, when it was out
        self.refused = 0
        self.flying = 0  # what some party is about to read, or reading
        #: Kinds that never reach somebody, as (kind, public key): relays that withhold.
        self.withheld: set[tuple[int, str]] = set()
        #: Who reaches no relay, by public key, and from when to when.
        self.cut_off: dict[str, tuple[float, float]] = {}
        self._listeners: list[Callable[[Event], None]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without those who listen: they are processes."""
        return {**self.__dict__, "_listeners": [], "flying": 0}

    def chance(self, probability: float) -> bool:
        """Whether something that happens with this probability happens now."""
        return probability > 0 and self.draw.random() < probability

    def outage_seconds(self, key: str) -> float:
        """How long somebody will still reach no relay; 0 if it reaches them."""
        begins, ends = self.cut_off.get(key, (0.0, 0.0))
        now = asyncio.get_running_loop().time()
        return ends - now if begins <= now < ends else 0.0

    def publish(self, event: Event) -> bool:
        """A party publishes; False if it hears no OK, whether the event was taken or not."""
        if self.chance(self.lossy):
            return False
        try:
            event.verify()
        except InvalidEvent:
            self.refused += 1
            return True
        if event.id not in self.events:
            self.events[event.id] = event
            self.since[event.id] = asyncio.get_running_loop().time()
            for listener in list(self._listeners):
                listener(event)
        return not self.chance(self.lossy)

    async def insist(self, event: Event) -> None:
        """Publish until it is heard."""
        while not self.publish(event):
            await asyncio.sleep(1)

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Tell `listener` all that is and will be published, until what is returned is called."""
        self._listeners.append(listener)
        for event in list(self.events.values()):
            listener(event)
        return lambda: self._listeners.remove(listener)


class SimPool:
    """As much of `RelayPool` as parties use beside outbox and inbox."""

    urls = (RELAY,)

    def __init__(self, life: Life, office: Office, reader: str) -> None:
        self._life = life
        self._office = office
        self._reader = reader

    async def up(self) -> None:
        """Never for those who wait for it: they only publish their profiles, and no money depends on that."""
        await asyncio.Event().wait()

    async def query(self, filters: Sequence[Filter], **_options: Any) -> list[Event]:
        """What there is; nothing if no relay answers just now."""
        office = self._office
        await asyncio.sleep(office.draw.random() * office.late_seconds)
        self._life.check()
        found = [event for event in office.events.values() if matches_any(filters, event)]
        if office.chance(office.lossy) or office.outage_seconds(self._reader):
            found = []
        self._life.pass_point("query", "".join(event.id for event in found))
        return [event for event in found if (event.kind, self._reader) not in office.withheld]

    def add_signer(self, _signer: object) -> None:
        """Nobody asks for it."""

    async def publish(self, event: Event) -> dict[str, Answer]:
        """A heartbeat: it is taken, and nobody listens."""
        return {RELAY: Answer(accepted=True)}

    def choose(self, _urls: Sequence[str], _relays_max: int) -> tuple[str, ...]:
        """There is one relay, and it is ours."""
        return ()


class SimOutbox:
    """See `relay_bridge.Outbox`."""

    def __init__(self, life: Life, office: Office, mailbox: Mailbox, writer: str) -> None:
        self._life = life
        self._office = office
        self._mailbox = mailbox
        self._writer = writer

    def start(self) -> None:
        """Send what an earlier process left."""
        for event_id in list(self._mailbox.outgoing):
            self._life.spawn(self._send(event_id))

    async def add(
        self,
        tx: Transaction,
        event: Event,
        relays: Sequence[str] = (),
        *,
        own: bool = True,
        until: int | None = None,
    ) -> None:
        """Send it once the transaction is on disk."""

        def keep() -> None:
            self._mailbox.outgoing[event.id] = event, until
            self._life.spawn(self._send(event.id))

        tx.after_commit(keep)

    async def _send(self, event_id: str) -> None:
        event, until = self._mailbox.outgoing[event_id]
        for number in range(1000):
            if until is not None and self._life.clock.now() > until:
                break
            await asyncio.sleep(0)
            self._life.check()
            heard = not self._office.outage_seconds(self._writer) and self._office.publish(event)
            self._life.pass_point(f"publish {event.kind}", event.id)
            if heard:
                break
            await asyncio.sleep(RETRY_SECONDS[min(number, len(RETRY_SECONDS) - 1)])
        self._mailbox.outgoing.pop(event_id, None)


class SimDelivery(Delivery):
    """A `Delivery` that is done in a `Mailbox`."""

    def __init__(self, name: str, event: Event, mailbox: Mailbox) -> None:
        super().__init__(name, event, RELAY)
        self._mailbox = mailbox

    async def done(self, tx: Transaction) -> None:
        """See `Delivery.done`."""
        tx.after_commit(self._settle)

    def _settle(self) -> None:
        super()._settle()
        self._mailbox.handled.add((self._name, self.event.id))


class SimFollowing:
    """One name that is followed."""

    def __init__(self, end: Callable[[], None], inbox: "SimInbox") -> None:
        self._end = end
        self._inbox = inbox
        self._began = asyncio.get_running_loop().time()

    async def current_since(self, *, patience_seconds: int) -> list[int]:
        """What relays had when it began, or when an outage ended, is told after a while; nothing during one."""
        return self._inbox.current_since(self._began)

    @property
    def is_idle(self) -> bool:
        """Whether no handler is running."""
        return self._inbox.is_idle

    async def close(self) -> None:
        """Hear no more."""
        self._end()


class SimInbox:
    """See `relay_bridge.Inbox`."""

    def __init__(self, life: Life, office: Office, mailbox: Mailbox, reader: str) -> None:
        self._life = life
        self._office = office
        self._mailbox = mailbox
        self._reader = reader
        self._busy: set[tuple[str, str]] = set()

    async def follow(
        self,
        name: str,
        filters: Sequence[Filter],
        handler: Callable[[Delivery], Awaitable[None]],
        **_options: Any,
    ) -> SimFollowing:
        """Call `handler` for all that was and will be published and matches, until it is done."""

        def hear(event: Event) -> None:
            withheld = (event.kind, self._reader) in self._office.withheld
            if matches_any(filters, event) and not withheld and not self._life.died.is_set():
                self._life.spawn(self._handle(name, event, handler))

        return SimFollowing(self._office.listen(hear), self)

    async def listening(self, *, seconds_max: float) -> None:
        """Whoever follows is heard at once."""

    @property
    def is_idle(self) -> bool:
        """See `SimFollowing.is_idle`."""
        return not self._busy

    def current_since(self, began: float) -> list[int]:
        """See `SimFollowing.current_since`."""
        office, now = self._office, asyncio.get_running_loop().time()
        _, ends = office.cut_off.get(self._reader, (0.0, 0.0))
        all_told = max(began, ends if ends <= now else 0.0) + office.late_seconds
        if now < all_told or office.outage_seconds(self._reader):
            return []
        return [self._life.clock.now() - int(now - all_told)]

    async def _handle(self, name: str, event: Event, handler: Callable[[Delivery], Awaitable[None]]) -> None:
        self._office.flying += 1
        try:
            await self._deliver(name, event, handler)
        finally:
            self._office.flying -= 1

    async def _deliver(self, name: str, event: Event, handler: Callable[[Delivery], Awaitable[None]]) -> None:
        await asyncio.sleep(self._office.draw.random() * self._office.late_seconds)
        if outage_seconds := self._office.outage_seconds(self._reader):
            await asyncio.sleep(outage_seconds)
        key = (name, event.id)
        if key in self._mailbox.handled or key in self._busy:
            return
        self._busy.add(key)
        number = 0
        while number < REPEATS_MAX:
            delivery = SimDelivery(name, event, self._mailbox)
            try:
                await handler(delivery)
            except NotNow:
                await asyncio.sleep(NOT_NOW_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001 - as the inbox does: it comes again later
                self._life.complain(error)
                if delivery.settled:
                    break
                await asyncio.sleep(2 << number)
                number += 1
                continue
            if not delivery.settled:
                async with self._life.db.transaction() as tx:
                    await delivery.done(tx)
            break
        self._busy.discard(key)


__all__ = ["Dead", "Mailbox", "Office", "SimInbox", "SimOutbox", "SimPool"]
