"""What relays and mints say of agents, read for callers: one reading at a time of an agent, kept for some minutes.

A reading asks many relays for everything that an agent ever published, and mints for its payments. Callers choose whom
we read, but not whom we ask: relays are ours and those that the agent listed under its key (guarded as all relays of
others are), mints are those of the configuration.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Generic, TypeVar

from dvm import Post
from dvm.orders.asking import named_key
from identity.scores import Score
from relay_bridge.timing import within
from tradepost.facade.agents.catalogue import Catalogue
from tradepost.facade.web.problems import Refusal
from tradepost.reputation import Reading, Reputation, RootReport
from tradepost.settings import Settings
from tradepost.verifying import Step
from wallet import Action

KEPT_SECONDS: Final = 180
KEPT_MAX: Final = 32  # of each sort; one has all the events of an agent
READ_AT_ONCE: Final = 4
WAITING_EACH_MAX: Final = 4  # of one client
WAITING_MAX: Final = 32  # readings that were begun and have not ended
WAIT_SECONDS_MAX: Final = 20.0  # for one; it goes on without who waited
READ_SECONDS_MAX: Final = 120.0

_T = TypeVar("_T")


class Busy(Refusal):
    """What was asked for takes longer than a caller waits, or others wait for theirs."""

    status = 503
    action = Action.RETRY_AFTER


@dataclass(frozen=True)
class Read:
    """What was read of an agent, and what that amounts to, at `at` (unix seconds)."""

    at: int
    reading: Reading
    score: Score
    root: RootReport


class Readings:
    """Reads for the callers of one desk. `close` ends what is under way."""

    def __init__(self, post: Post, settings: Settings, catalogue: Catalogue) -> None:
        self._post = post
        self._catalogue = catalogue
        self._reputation = Reputation(post.pool, post.clock, post.fetcher, mints=settings.mints, db=post.db)
        room = asyncio.Semaphore(READ_AT_ONCE)
        self._reads = _Kept[Read](post, room)
        self._files = _Kept[list[Step]](post, room)

    async def close(self) -> None:
        """Ask nobody any more."""
        await asyncio.gather(self._reads.close(), self._files.close())

    async def key_of(self, target: str) -> str:
        """The key (hex) of an agent, which need not be known here if it is named by that.

        Raises `NotFound`, `BadRequest`.
        """
        return named_key(target) or (await self._catalogue.find(target)).public_key

    async def read(self, target: str, client: str) -> Read:
        """Everything on an agent, as of some minutes ago at most. `client` is for whom (`Limits.client_of`).

        Raises `NotFound`, `BadRequest`, and `Busy` where it takes long: it goes on, and is there when asked for later.
        """
        key = await self.key_of(target)

        async def read() -> Read:
            reading = await self._reputation.read(key)
            score, root = await asyncio.gather(
                asyncio.to_thread(self._reputation.score_of, reading),
                asyncio.to_thread(self._reputation.root_of, reading.material),
            )
            return Read(self._post.clock.now(), reading, score, root)

        is_own = any(one.public_key == key for one in self._catalogue.own)
        return await self._reads.get(key, read, None if is_own else client)

    async def verify(self, file: bytes, agent: str | None, client: str) -> list[Step]:
        """Check a receipt's file, and ask relays and mints. `agent` is the key (hex) of whose it is to be.

        Raises `InvalidReceipt`, `Busy`.
        """
        name = sha256((agent or "").encode() + b"\n" + file).hexdigest()
        return await self._files.get(name, lambda: self._reputation.verify_file(file, agent), client)


class _Kept(Generic[_T]):
    """Answers that are expensive, by name: each is worked out once at a time, and good for some minutes."""

    def __init__(self, post: Post, room: asyncio.Semaphore) -> None:
        self._clock = post.clock
        self._room = room
        self._found: OrderedDict[str, tuple[int, _T]] = OrderedDict()
        self._coming: dict[str, asyncio.Task[_T]] = {}
        self._clients: Counter[str] = Counter()  # for whom

    async def close(self) -> None:
        """Stop what is under way."""
        for task in (tasks := list(self._coming.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def get(self, name: str, find: Callable[[], Awaitable[_T]], client: str | None) -> _T:
        """`client` None: nobody else can have it worked out so often that it has to wait."""
        """What is kept under that name, or what `find` finds; what it raises is raised to all who wait for it."""
        kept = self._found.get(name)
        if kept is not None and self._clock.now() - kept[0] < KEPT_SECONDS:
            return kept[1]
        coming = self._coming.get(name)
        if coming is None:
            coming = self._coming[name] = self._begin(name, find, client)
            coming.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # nobody may wait any more
        try:
            return await within(self._clock, WAIT_SECONDS_MAX, asyncio.shield(coming))
        except TimeoutError:
            raise Busy("that takes long, and goes on: ask again in a moment", retry_after=10) from None

    def _begin(self, name: str, find: Callable[[], Awaitable[_T]], client: str | None) -> asyncio.Task[_T]:
        if client is None:
            return asyncio.create_task(self._find(name, find, nullcontext()), name="reading")
        if self._clients[client] >= WAITING_EACH_MAX:
            raise Busy("too many agents are being read for you: ask again when one is", retry_after=10)
        if self._clients.total() >= WAITING_MAX:
            raise Busy("too many agents are being read for others: ask again in a moment", retry_after=10)
        self._clients[client] += 1
        coming = asyncio.create_task(self._find(name, find, self._room), name="reading")

        def ended(_: asyncio.Task[_T]) -> None:
            self._clients -= Counter([client])

        coming.add_done_callback(ended)
        return coming

    async def _find(
        self, name: str, find: Callable[[], Awaitable[_T]], room: AbstractAsyncContextManager[None]
    ) -> _T:
        try:
            async with room:
                found = await within(self._clock, READ_SECONDS_MAX, find())
            self._found[name] = (self._clock.now(), found)
            self._found.move_to_end(name)
            while len(self._found) > KEPT_MAX:
                self._found.popitem(last=False)
            return found
        finally:
            del self._coming[name]
