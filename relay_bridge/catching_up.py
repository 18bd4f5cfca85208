"""The inbox's ear on one relay: writes down what comes, pages through what was missed, and proves the cursor."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from identity.event import Event
from relay_bridge import queries
from relay_bridge.connection import RelayConnection
from relay_bridge.filters import NOTHING, Filter
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Clock, Database

log = structlog.get_logger(__name__)

_PROVE_SECONDS: Final = (
    60.0  # between two proofs that we are current; a crash repeats no more than this and the margin
)
_FETCH_SECONDS_MAX: Final = 30.0
_PAGE_EVENTS: Final = 500
_PAGES_MAX: Final = 2000


#: Writes down events that a relay (named first) sent. On return they are on disk.
Keep = Callable[[str, Sequence[Event]], Awaitable[None]]


class Feed:
    """One name on one relay. A `feed.Feed`: asked for again after every loss, each time from the cursor."""

    lasting = True
    shares = True

    def __init__(
        self,
        name: str,
        filters: Sequence[Filter],
        connection: RelayConnection,
        db: Database,
        clock: Clock,
        *,
        keep: Keep,
        ignores: Callable[[Event], bool],
        current_at: int,
        margin_seconds: int,
        retention_seconds: int,
    ) -> None:
        self._name = name
        self._asked = tuple(filters)
        self._connection = connection
        self._db = db
        self._clock = clock
        self._keep = keep
        self._ignores = ignores
        self._current_at = current_at
        self._margin_seconds = margin_seconds
        self._retention_seconds = retention_seconds
        self._told = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._listening = asyncio.Event()
        self._asked_at = 0
        self._open = self._shared = False
        self._complete_at: int | None = None
        self._oldest: dict[int, int] = {}
        self._tasks = Tasks()
        self._staying: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Of the relay."""
        return self._connection.url

    def attach(self, tasks: Tasks) -> None:
        """Begin to listen. Tasks end with `tasks`."""
        self._tasks = tasks
        self._connection.attach(self)

    def detach(self) -> None:
        """Stop listening."""
        self._connection.detach(self)

    async def listening(self) -> None:
        """Wait until the relay has been asked to tell what is new, or it turns out that it cannot be now."""
        if await self._connection.tried():
            await self._listening.wait()

    async def caught_up(self) -> None:
        """Wait until what the relay had stored is on disk, or it turns out that it cannot be had now."""
        if await self._connection.tried():
            await self._caught_up.wait()

    @property
    def is_current(self) -> bool:
        """Whether the relay has told all that it had stored, and is still connected."""
        return self._complete_at is not None

    def is_telling(self, seconds_max: int) -> bool:
        """Whether the relay was connected to so lately that it may still tell what it had stored."""
        health = self._connection.health
        since = self._asked_at if self._open else health.since  # it may still be others' turn to be asked for
        return health.connected and self._complete_at is None and self._clock.now() < since + seconds_max

    async def current_since(self) -> int | None:
        """Since when all that the relay has is on disk without a gap, if the relay proves that now."""
        if self._complete_at is None:
            return None
        proof = await self._connection.fetch(NOTHING, _FETCH_SECONDS_MAX)
        return self._complete_at if proof.complete else None

    # What a session calls

    def filters(self) -> Sequence[Filter]:
        """See `feed.Feed.filters`."""
        now = self._clock.now()
        # A cursor ahead of the clock (which was wrong then, or is now) must not make us skip anything.
        since = max(min(self._current_at, now) - self._margin_seconds, now - self._retention_seconds, 0)
        return [one.between(since) for one in self._asked]

    def opened(self, *, shared: bool) -> None:
        """See `feed.Feed.opened`."""
        self._told.clear()
        self._caught_up.clear()
        self._open, self._shared, self._complete_at = True, shared, None
        self._oldest = {}
        self._asked_at = self._clock.now()
        self._listening.set()
        self._staying = self._tasks.start(self._stay_current(), f"inbox {self._name} {self._connection.url}")

    def ignores(self, event: Event) -> bool:
        """See `feed.Feed.ignores`. None of the stored events: by those it is known how far back the relay told."""
        return self._told.is_set() and self._ignores(event)

    async def events(self, events: Sequence[Event]) -> bool:
        """See `feed.Feed.events`. On return they are on disk, or the gate was against it."""
        if not self._told.is_set():
            for index, one in enumerate(self._asked):
                times = [event.created_at for event in events if one.matches(event)]
                if times:
                    self._oldest[index] = min(*times, self._oldest.get(index, times[0]))
        await self._store(events)
        return True

    async def room(self) -> None:
        """See `feed.Feed.room`: the table always has."""

    def eose(self) -> None:
        """See `feed.Feed.eose`."""
        self._told.set()

    def lost(self) -> None:
        """See `feed.Feed.lost`."""
        self._open, self._complete_at = False, None
        if self._staying is not None:
            self._staying.cancel()
        self._caught_up.set()
        self._listening.set()

    # Catching up

    async def _stay_current(self) -> None:
        """As long as one subscription lasts: page through what was missed, then prove again and again."""
        asked_at = self._asked_at
        complete = await self._read_stored()
        while True:
            if complete:
                await self._advance(asked_at)
                self._complete_at = self._complete_at or self._clock.now()
            self._caught_up.set()
            await self._clock.sleep(_PROVE_SECONDS)
            asked_at = self._clock.now()
            if complete:
                proof = await self._connection.fetch(NOTHING, _FETCH_SECONDS_MAX)
                if not proof.complete:
                    asked_at = self._current_at
            else:
                self._oldest = {}
                complete = await self._page_all()

    async def _read_stored(self) -> bool:
        try:
            await within(self._clock, _FETCH_SECONDS_MAX, self._told.wait())
        except TimeoutError:
            log.warning("eose_missing", inbox=self._name, relay=self._connection.url)
            self._told.set()
            return await self._page_all()
        # A relay gives only so many events to one REQ, the newest. If it gave any there may be more behind them. What
        # came by a shared REQ, or did not, says nothing of what is stored: that is paged through from now backwards.
        return not (self._shared or self._oldest) or await self._page_all()

    async def _page_all(self) -> bool:
        """Read backwards, filter by filter, until a page is empty; False if the relay did not answer to the end."""
        for index, one in enumerate(self.filters()):
            if not await self._page(one, self._oldest.get(index)):
                return False
        return True

    async def _page(self, one: Filter, until: int | None) -> bool:
        """Events of one second that exceed what the relay gives at once cannot be reached and stay unknown."""
        last: set[str] = set()
        for _ in range(_PAGES_MAX):
            asked = msgspec.structs.replace(one.between(None, until), limit=_PAGE_EVENTS)
            page = await self._connection.fetch([asked], _FETCH_SECONDS_MAX)
            await self._store(page.events)
            if not page.complete:
                return False
            if not page.events:
                return True
            ids = {event.id for event in page.events}
            until = min(event.created_at for event in page.events) - int(ids <= last)
            last = ids
        log.warning("backlog_too_long", inbox=self._name, relay=self._connection.url)
        return False

    async def _advance(self, current_at: int) -> None:
        if current_at == self._current_at:
            return
        async with self._db.transaction() as tx:
            await queries.set_cursor(tx, self._name, self._connection.url, current_at)
        self._current_at = current_at

    async def _store(self, events: Sequence[Event]) -> None:
        now = self._clock.now()
        kept = [event for event in events if event.created_at >= now - self._retention_seconds]
        if len(kept) < len(events):
            log.info(
                "events_too_old", inbox=self._name, relay=self._connection.url, count=len(events) - len(kept)
            )
        if not kept:
            return
        await self._keep(self._connection.url, kept)
