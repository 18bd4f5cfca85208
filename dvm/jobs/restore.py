"""An agent's jobs, when its database is lost: what it had said about them is still at the relays.

What it answered counts as done and is not done again; what it had begun it goes on with; what it had offered may still
be paid. Payments come by the inbox, as gift wraps to the agent: `payments.py` tells those that we redeemed ourselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from dvm import queries
from dvm.errors import BadRequest
from dvm.jobs.lifecycle import JobState
from dvm.kinds import ANNOUNCEMENT, FEEDBACK, is_request_kind
from dvm.nip90 import Feedback, Status, parse_feedback, parse_result, stated_confidence
from dvm.post import Post
from dvm.private import reveal
from dvm.queries import JobRow
from dvm.stored import RESULTS, stored_events
from identity import DecryptionError, Event, InvalidEvent, Signer, parse_event
from identity.seal import SEALED
from relay_bridge import Filter

IDS_MAX: Final = 100  # in one question

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class JobsRestored:
    """How many jobs came back. `unknown` were begun or offered, but their requests are gone from the relays."""

    done: int = 0
    failed: int = 0
    under_way: int = 0
    offered: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class _Told:
    """What the agent said about one request."""

    request_id: str
    customer: str
    result: Event | None = None
    error: Feedback | None = None
    offer: Feedback | None = None
    is_begun: bool = False

    @property
    def state(self) -> JobState:
        if self.result:
            return JobState.DONE
        if self.error:
            return JobState.FAILED
        if self.offer and self.offer.event.has_tag(SEALED):
            return JobState.OFFERED  # done, and not sold as far as we know
        return JobState.QUEUED if self.is_begun else JobState.OFFERED


_COUNTED: Final = {
    JobState.DONE: "done", JobState.FAILED: "failed", JobState.QUEUED: "under_way", JobState.OFFERED: "offered",
}  # fmt: skip


async def restore_jobs(post: Post, signer: Signer) -> JobsRestored:
    """Write back the jobs of one agent by what the relays hold; jobs that ended here already stay as they are.

    Before the agent is started, so that it answers nothing twice. Raises `SignerUnavailable`.
    """
    total = JobsRestored()
    agent = signer.public_key
    said = await stored_events(post.pool, Filter(authors=(agent,), kinds=(FEEDBACK, ANNOUNCEMENT, *RESULTS)))
    told = await _told(signer, said)
    requests = await _requests(post, told.values())
    prices = _prices(said)
    for one in told.values():
        request = requests.get(one.request_id) or _stub(one)
        if request is None:
            total = replace(
                total, unknown=total.unknown + (one.state not in (JobState.DONE, JobState.FAILED))
            )
            continue
        row = _row(agent, one, request, prices, post)
        if await _write(post, row):
            name = _COUNTED[row.state]
            total = replace(total, **{name: getattr(total, name) + 1})
    return total


async def _write(post: Post, row: JobRow) -> bool:
    """Store a job that is not here, or that an old copy of the database takes for open; False if it stays as it is."""
    here = await queries.get_job(post.db, row.agent, row.id)
    async with post.db.transaction() as tx:
        if here is None:
            return await queries.insert_job(tx, row)
        # What we owe stays owed: that a job failed was told before its money was on its way back.
        if row.state.is_final and not here.state.is_final and here.state is not JobState.RETURNING:
            return await queries.update_job(tx, replace(row, attempts=here.attempts), here.state)
    return False


async def _told(signer: Signer, events: Iterable[Event]) -> dict[str, _Told]:
    found: dict[str, _Told] = {}
    for event in events:
        request_id, customer = event.tag("e") or "", event.tag("p") or ""
        if len(request_id) != 64 or event.kind == ANNOUNCEMENT:
            continue
        one = found.setdefault(request_id, _Told(request_id, customer))
        if event.kind == FEEDBACK:
            one = _add(one, await _feedback(signer, event, customer))
        elif parse_result(event):
            one = replace(one, result=event)
        found[request_id] = one
    return found


async def _feedback(signer: Signer, event: Event, customer: str) -> Feedback | None:
    """Feedback as it was meant: of a private job, what is inside too."""
    try:
        clear = await reveal(signer, event, customer) if event.has_tag("encrypted") else None
    except (DecryptionError, BadRequest):
        clear = None
    return parse_feedback(event, clear)


def _add(one: _Told, feedback: Feedback | None) -> _Told:
    match feedback.status if feedback else None:
        case Status.ERROR:
            return replace(one, error=feedback)
        case Status.PAYMENT_REQUIRED:
            return replace(one, offer=feedback)
        case Status.PROCESSING | Status.PARTIAL:
            return replace(one, is_begun=True)
        case _:
            return one


async def _requests(post: Post, told: Iterable[_Told]) -> dict[str, Event]:
    """The requests by id: from the relays, or out of our results."""
    found: dict[str, Event] = {}
    wanted = []
    for one in told:
        inside = _inside(one.result)
        if inside is not None and inside.id == one.request_id:
            found[one.request_id] = inside
        else:
            wanted.append(one.request_id)
    for start in range(0, len(wanted), IDS_MAX):
        ids = tuple(wanted[start : start + IDS_MAX])
        found |= {event.id: event for event in await stored_events(post.pool, Filter(ids=ids))}
    return {request_id: event for request_id, event in found.items() if is_request_kind(event.kind)}


def _inside(result: Event | None) -> Event | None:
    """The request that NIP-90 wants in a result."""
    raw = result.tag("request") if result else None
    try:
        event = parse_event(raw) if raw else None
        if event:
            event.verify()
    except InvalidEvent:
        return None
    return event


def _stub(one: _Told) -> Event | None:
    """In the place of a request that is gone: enough to know it as answered if it should come again."""
    if one.result is None:
        return None
    return Event(
        id=one.request_id, pubkey=one.customer, kind=one.result.kind - 1000, created_at=one.result.created_at, tags=(),
        content="", sig="0" * 128,
    )  # fmt: skip


def _prices(events: Iterable[Event]) -> dict[int, int]:
    """Kind → price in msat, by the agent's newest announcement."""
    newest = next((event for event in events if event.kind == ANNOUNCEMENT), None)
    tags = newest.tags_named("price") if newest else []
    return {int(t[1]): int(t[2]) for t in tags if len(t) > 2 and t[1].isdigit() and t[2].isdigit()}


def _row(agent: str, one: _Told, request: Event, prices: Mapping[int, int], post: Post) -> JobRow:
    now = post.clock.now()
    offer = one.offer.offer if one.offer else None
    price_msat = offer.price_msat if offer else prices.get(request.kind, 0)
    return JobRow(
        agent=agent, id=request.id, kind=request.kind, customer=request.pubkey, state=one.state, price_msat=price_msat,
        request=request, relay=post.pool.urls[0], reason=one.error.message if one.error else "", attempts=0,
        locktime=offer.locktime if offer else None, offer_expires_at=(offer and offer.expires_at) or now,
        created_at=request.created_at, updated_at=now, result_id=one.result.id if one.result else None,
        confidence=stated_confidence(one.result) if one.result else None,
    )  # fmt: skip
