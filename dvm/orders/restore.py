"""A customer's orders when its database is lost: what was paid comes back by our own records, the rest by our requests.

A payment's record goes out with it. It holds what the seed cannot tell: for whom, until when and by which nonce the
coins are locked, and the coins themselves; so they can be taken back after their locktime.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from dvm import queries
from dvm.errors import DvmError, Trouble
from dvm.kinds import check_request_kind, is_request_kind, result_kind
from dvm.nip90 import parse_result
from dvm.orders.lifecycle import OrderState
from dvm.post import Post
from dvm.queries import OrderRow
from dvm.queries_reputation import ReviewRow, insert_review
from dvm.records import make_record
from dvm.stored import REQUESTS, RESULTS, stored_events
from identity import Event, IdentityError, InvalidReceipt, check_public_key, parse_event
from identity.nip40 import expiration
from identity.receipts import NAMESPACE, REVIEW, parse_review
from relay_bridge import Filter
from wallet import Seed, Token, WalletError, encode_token, parse_token

KEEP_SECONDS: Final = 30 * 86400  # how long after the locktime a record is of use
REQUEST_CHARS_MAX: Final = 16_000  # larger requests are not in the record: it must fit an event

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class OrdersRestored:
    """How many orders came back; `paid` are those whose result is waited for, their sats locked until the locktime."""

    paid: int = 0
    paid_sat: int = 0
    done: int = 0
    waiting: int = 0  # asked, not paid as far as we know
    unreadable: int = 0

    def __add__(self, other: "OrdersRestored") -> "OrdersRestored":
        names = OrdersRestored.__dataclass_fields__
        return OrdersRestored(**{name: getattr(self, name) + getattr(other, name) for name in names})


async def order_record(seed: Seed, row: OrderRow, token: Token, *, now: int) -> Event:
    """The record of an order that is being paid with `token`."""
    request = row.request.to_json().decode()
    bare = replace(token, proofs=tuple(replace(proof, dleq=None) for proof in token.proofs))
    content = {
        "type": "order", "id": row.id, "customer": row.customer, "provider": row.provider, "kind": row.kind,
        "max_sat": row.max_sat, "price_sat": row.price_sat, "nonce": row.lock_nonce, "locktime": row.locktime,
        "op_id": row.op_id, "deadline_at": row.deadline_at, "created_at": row.created_at,
        "mint": token.mint, "token": encode_token(bare),
        "request": request if len(request) <= REQUEST_CHARS_MAX else None,
    }  # fmt: skip
    expires_at = (row.locktime or row.deadline_at) + KEEP_SECONDS
    return await make_record(seed, f"order/{row.id}", content, now=now, expires_at=expires_at)


async def restore_orders(post: Post, customer: str, records: Sequence[dict[str, Any]]) -> OrdersRestored:
    """Write back the orders of one customer that are in `records` (`read_records`) or whose requests the relays hold.

    Orders that are here already stay as they are, unless they were paid since. What was paid goes on as
    `Customer.start` goes on with any: it waits for the result, and takes the coins back after the locktime. An unpaid
    one is waited for and never paid.
    """
    total = OrdersRestored()
    answers = await _results(post, customer)
    for record in records:
        if record.get("type") != "order" or record.get("customer") != customer:
            continue
        try:
            row, token = _paid_order(record, post.clock.now())
        except (KeyError, TypeError, ValueError, IdentityError, DvmError, WalletError) as error:
            log.warning("order_record_unreadable", reason=type(error).__name__)
            total = replace(total, unreadable=total.unreadable + 1)
            continue
        # The coins first: an order without them could not be told from one that was brought back whole.
        await post.wallet.restore_sent(token, op_id=f"order:{row.id}", job_id=row.id)
        row = _answered(row, answers)
        if not await _insert(post, row):
            continue
        if row.result:
            total = replace(total, done=total.done + 1)
        else:
            total = replace(total, paid=total.paid + 1, paid_sat=total.paid_sat + row.price_sat)
    for request in await stored_events(post.pool, Filter(authors=(customer,), kinds=REQUESTS)):
        if is_request_kind(request.kind):
            row = _answered(_unpaid_order(request, post.clock.now()), answers)
            if not await _insert(post, row):
                continue
            if row.result:
                total = replace(total, done=total.done + 1)
            elif row.state is OrderState.REQUESTED:
                total = replace(total, waiting=total.waiting + 1)
    await _restore_reviews(post, customer)
    return total


async def _restore_reviews(post: Post, customer: str) -> None:
    """What this customer has said of its jobs, so that it is not said once more in other words."""
    mine = Filter(authors=(customer,), kinds=(REVIEW,), tags={"L": (NAMESPACE,)})
    for event in reversed(await stored_events(post.pool, mine)):  # of a job the first one stays
        try:
            review = parse_review(event)
        except InvalidReceipt as error:
            log.info("review_ignored", review=event.id, reason=str(error))
            continue
        row = ReviewRow(event.id, review.provider, review.request_id, event, "", None, event.created_at)
        async with post.db.transaction() as tx:
            await insert_review(tx, row)


async def _results(post: Post, customer: str) -> dict[str, list[Event]]:
    """What the relays hold of results for this customer, by request."""
    found: dict[str, list[Event]] = {}
    for event in await stored_events(post.pool, Filter(kinds=RESULTS, tags={"p": (customer,)})):
        if result := parse_result(event):
            found.setdefault(result.request_id, []).append(event)
    return found


def _answered(row: OrderRow, answers: dict[str, list[Event]]) -> OrderRow:
    """The order with its result, if whoever was asked gave one."""
    for event in answers.get(row.id, ()):
        if event.pubkey == row.provider and event.kind == result_kind(row.kind):
            return replace(row, state=OrderState.DONE, result=event)
    return row


def _paid_order(record: dict[str, Any], now: int) -> tuple[OrderRow, Token]:
    """The order and the coins in a record. Raises for one that is not as we write them."""
    token = parse_token(record["token"])
    raw = record["request"]
    request = parse_event(raw) if raw else _without_request(record)
    if request.id != record["id"]:
        raise ValueError("the request is another one")
    row = OrderRow(
        id=request.id, customer=str(record["customer"]), provider=check_public_key(record["provider"]),
        kind=check_request_kind(record["kind"]), state=OrderState.PAID, max_sat=int(record["max_sat"]),
        price_sat=int(record["price_sat"]), mint=token.mint, lock_nonce=str(record["nonce"]),
        locktime=int(record["locktime"]), op_id=f"order:{request.id}", refund_op_id=None, request=request, offer=None,
        result=None, reason="", deadline_at=int(record["deadline_at"]), version=0,
        created_at=int(record["created_at"]), updated_at=now,
    )  # fmt: skip
    return row, token


def _without_request(record: dict[str, Any]) -> Event:
    """What is known of a request that was too large for its record: enough for an order, nothing to show."""
    return Event(
        id=record["id"], pubkey=record["customer"], kind=record["kind"], created_at=record["created_at"], tags=(),
        content="", sig="0" * 128,
    )  # fmt: skip


def _unpaid_order(request: Event, now: int) -> OrderRow:
    """An order whose request is all we know of it. Its price limit is 0: it may have been paid before."""
    deadline_at = expiration(request) or now
    is_over = deadline_at <= now
    return OrderRow(
        id=request.id, customer=request.pubkey, provider=request.tag("p") or "", kind=request.kind,
        state=OrderState.EXPIRED if is_over else OrderState.REQUESTED, max_sat=0, price_sat=0, mint=None, lock_nonce="",
        locktime=None, op_id=None, refund_op_id=None, request=request, offer=None, result=None,
        reason="nobody answered in time" if is_over else "", code=Trouble.NO_ANSWER if is_over else "",
        deadline_at=deadline_at, version=0, created_at=request.created_at, updated_at=now,
    )  # fmt: skip


async def _insert(post: Post, row: OrderRow) -> bool:
    """Write an order as it is; False if it is here already. An old copy may have it from before it was paid."""
    here = await queries.get_order(post.db, row.id)
    if here is not None and (here.op_id is not None or row.op_id is None):
        return False
    async with post.db.transaction() as tx:
        if here is None:
            await queries.insert_order(tx, row)
        await queries.update_order(
            tx, here or row, row.state, now=row.updated_at, price_sat=row.price_sat, mint=row.mint,
            locktime=row.locktime, op_id=row.op_id, result=row.result, reason=row.reason,
            code=row.code,
        )  # fmt: skip
    return True
