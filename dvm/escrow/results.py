"""Results of jobs in escrow go by reference: a letter names the event, and its reader fetches that from the relays.

To be told is not to see: a result counts from when a party has the event itself and has checked it, so a provider that
only says it delivered is owed nothing. What a letter told of is kept with the escrow and looked for until it is found
or could not count any more, across restarts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import structlog

from dvm.escrow.messages import Delivered
from dvm.kinds import result_kind
from dvm.lookup import find_event
from dvm.nip90 import parse_result
from dvm.post import Post
from identity import Event, InvalidEvent
from relay_bridge import usable_relays
from wallet.queries_escrows import EscrowRow
from wallet.terms import Terms

log = structlog.get_logger(__name__)

FETCH_SECONDS_MAX: Final = 10
LOOK_SECONDS_MAX: Final = 15


def is_result(event: Event, terms: Terms, kind: int) -> bool:
    """Whether an event, which somebody named or passed on, is the provider's result of this job.

    One that expires (NIP-40) is none: the arbiter could see what the customer cannot fetch any more.
    """
    result = parse_result(event)
    if result is None or result.request_id != terms.request_id or event.has_tag("expiration"):
        return False
    try:
        event.verify()
    except InvalidEvent:
        return False
    return event.pubkey == terms.provider and event.kind == result_kind(kind)


def report_of(message: Delivered, coins: Iterable[tuple[str, int]] = ()) -> dict[str, Any]:
    """What is kept of a letter, as `EscrowRow.reported`. `coins` are those of the letter that were checked."""
    return {"id": message.result, "relays": usable_relays(message.relays), "coins": [*coins]}


class ResultSearch:
    """Looks for results that letters told of, beside all else that their escrows wait for.

    `read` gives an escrow as it stands, `wanted` says whether its result would count at present, `found` is told of it.
    """

    def __init__(
        self,
        post: Post,
        read: Callable[[str], Awaitable[EscrowRow | None]],
        *,
        wanted: Callable[[EscrowRow], bool],
        found: Callable[[EscrowRow, Event], Awaitable[None]],
    ) -> None:
        self._post = post
        self._read = read
        self._wanted = wanted
        self._found = found
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()  # what was begun anew since its row was read last

    def begin(self, request_id: str) -> None:
        """Look for the result of one escrow if there is one to look for; once at a time."""
        if request_id in self._tasks:
            self._again.add(request_id)
        else:
            task = asyncio.create_task(self._look(request_id), name=f"result:{request_id}")
            self._tasks[request_id] = task
            task.add_done_callback(lambda done: self._ended(request_id, done))

    async def stop(self) -> None:
        """Stop looking; what was told of is in the store."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, request_id: str) -> None:
        wait_seconds = 1
        while (row := await self._fresh(request_id)) is not None and row.result is None:
            if row.reported is None or not self._wanted(row):
                return
            if (result := await self._find(row, row.reported)) is not None:
                await self._found(row, result)
            await self._post.clock.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, LOOK_SECONDS_MAX)

    async def _find(self, row: EscrowRow, reported: dict[str, Any]) -> Event | None:
        relays = usable_relays([*reported["relays"], *self._post.pool.urls])
        event = await find_event(self._post, reported["id"], relays, seconds_max=FETCH_SECONDS_MAX)
        if event is None or is_result(event, row.terms, row.request.kind):
            return event
        log.info("escrow_message_ignored", request=row.request_id, reason="what it names is not the result")
        return None

    async def _fresh(self, request_id: str) -> EscrowRow | None:
        self._again.discard(request_id)
        return await self._read(request_id)

    def _ended(self, request_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[request_id]
        is_due_again = request_id in self._again
        self._again.discard(request_id)
        if task.cancelled():
            return
        if error := task.exception():
            log.error("task_failed", task=task.get_name(), exc_info=error)
        elif is_due_again:
            self.begin(request_id)
