"""Keeps the log of one agent while it runs: looks now and then for what has ended, enters it, and has it published."""

from typing import Final

import structlog

from dvm.post import Post
from dvm.reputation.keys import keys_of, log_of
from dvm.reputation.publisher import LogConflict, Publisher
from dvm.reputation.record import Record
from identity import Signer
from identity import log as logs
from relay_bridge import Delivery
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within

LOOK_SECONDS: Final = 5
CONFLICT_SECONDS: Final = 60  # after the relays have contradicted our log, or could not say
STOP_SECONDS_MAX: Final = 5.0  # a key that lives elsewhere may not be there

log = structlog.get_logger(__name__)


class Bookkeeper:
    """The log of one agent, whose newest key is the signer's. Nothing is asked or written before there is something to
    enter. What ended under earlier keys is entered too, and their reviews are heard, however late.
    """

    def __init__(self, post: Post, signer: Signer, root_seconds: int) -> None:
        self._root_seconds = root_seconds
        self._post = post
        self._signer = signer
        self._records: dict[str, Record] = {}  # by key
        self._publisher: Publisher | None = None
        self._is_ours = False  # whether the relays know of no log that ours does not continue
        self._not_before = 0
        self._tasks = Tasks()

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys of the log, once it is started."""
        return tuple(self._records)

    async def has_begun(self) -> bool:
        """Whether there is a log already, of an agent that asks for no money any more, say."""
        name = await log_of(self._post.db, self._signer.public_key)
        return (await logs.read_frontier(self._post.db, name)).size > 0

    async def start(self) -> None:
        """Begin to look."""
        name = await log_of(self._post.db, self._signer.public_key)
        keys = await keys_of(self._post.db, name)
        self._records = {key: Record(self._post, key, name) for key in keys}
        self._publisher = Publisher(self._post, self._signer, name, self._root_seconds)
        every = min(LOOK_SECONDS, self._root_seconds)
        self._tasks.every(self._post.clock, every, self.look, f"log of {name[:8]}")

    async def on_review(self, delivery: Delivery) -> None:
        """See `Record.on_review`."""
        record = self._records.get(delivery.event.tag("p") or "")
        if record is not None:
            await record.on_review(delivery)

    async def look(self) -> None:
        """Enter what has ended, and publish what is due."""
        assert self._publisher is not None
        if self._is_ours or await self._catch_up(self._publisher):
            await self._enter()
            await self._publisher.publish_if_due()

    async def stop(self) -> None:
        """Publish what there is, and look no more."""
        await self._tasks.close()
        if self._is_ours and self._publisher is not None:
            await self._enter()
            try:
                await within(self._post.clock, STOP_SECONDS_MAX, self._publish(self._publisher))
            except TimeoutError:
                log.warning("root_waits", reason="its key cannot be asked; it is published at the next start")

    async def _enter(self) -> None:
        for record in self._records.values():
            await record.enter()

    async def _has_news(self, publisher: Publisher) -> bool:
        for record in self._records.values():
            if await record.has_news():
                return True
        return await publisher.has_news()

    async def _publish(self, publisher: Publisher) -> None:
        await publisher.publish()

    async def _catch_up(self, publisher: Publisher) -> bool:
        now = self._post.clock.now()
        if now < self._not_before or not await self._has_news(publisher):
            return False
        try:
            await publisher.catch_up()
        except LogConflict as error:
            self._not_before = now + CONFLICT_SECONDS
            log.error("log_conflict", agent=self._signer.public_key, reason=str(error))
            return False
        self._is_ours = True
        return True
