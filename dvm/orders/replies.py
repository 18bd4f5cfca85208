"""All that agents send to a customer: feedback, results, and money that comes back.

Inbox: feedback, results and gift wraps to our key. Duty: each counts for the order it names and only if the agent that
was asked signed it; its delivery is done in the transaction that writes what it changed.
"""

from typing import Any, Final

import structlog

from dvm import queries
from dvm.errors import JobFailed
from dvm.escrow.messages import ESCROW_MESSAGE
from dvm.kinds import CHAT_MESSAGE, result_kind
from dvm.nip90 import Status, parse_feedback, parse_result
from dvm.orders.book import OrderBook
from dvm.orders.escrows import OrderEscrows
from dvm.orders.lifecycle import ErrorArrived, ResultArrived
from dvm.orders.offers import OrderOffers
from dvm.orders.order import Update
from dvm.orders.purchases import Purchases
from dvm.post import Post
from dvm.private import is_exposed, plain_text, reveal, scheme_of
from dvm.queries import OrderRow
from identity import DecryptionError, Event, EventTemplate, Signer, make_template
from identity.nip59 import unwrap
from relay_bridge import Delivery
from relay_bridge.tasks import Tasks
from store import Transaction
from wallet import WalletError, parse_token
from wallet.escrow import ResultOut

log = structlog.get_logger(__name__)

EXPOSED: Final = Update("exposed", "the agent sent this for all to read, though it was asked in private")


class OrderReplies:
    """The replies to one customer, whose key is `signer`'s: each `on_…` handles what comes of one kind."""

    def __init__(
        self,
        post: Post,
        signer: Signer,
        tasks: Tasks,
        *,
        book: OrderBook,
        offers: OrderOffers,
        escrows: OrderEscrows,
        purchases: Purchases,
    ) -> None:
        self._post = post
        self._signer = signer
        self._tasks = tasks
        self._book = book
        self._offers = offers
        self._escrows = escrows
        self._purchases = purchases

    async def on_feedback(self, delivery: Delivery) -> None:
        """An offer, an error, or word of how the work goes."""
        event = delivery.event
        row = await self._order_of(event, event.tag("e"))
        feedback = parse_feedback(event, await self._reveal(event)) if row else None
        if row is None or feedback is None:
            return
        if feedback.content and is_exposed(row.request, event):
            self._book.handle(row).push(EXPOSED)
        match feedback.status:
            case Status.PAYMENT_REQUIRED:
                await self._note_work(row)  # our mint may be away: that is not the agent's silence
                await self._offers.take(row, feedback, delivery)
            case Status.ERROR:
                reason = feedback.message or feedback.content or "the agent failed, and gave no reason"
                failed = ErrorArrived(reason, feedback.code or JobFailed.code)
                await self._book.apply(row.id, failed, also=delivery.done)
            case _ if row.state.is_final:
                pass  # nobody reads it any more, and it is kept until somebody does
            case Status.PARTIAL:
                await self._note_work(row)
                self._book.handle(row).push(Update("partial", feedback.message, feedback.content))
            case _:
                await self._note_work(row)
                self._book.handle(row).push(Update("working", feedback.message, feedback.content))

    async def _note_work(self, row: OrderRow) -> None:
        """A sign of life, where it counts: an agent that gives none is left for another."""
        if row.guarantee_id is not None and row.heard_in != row.state:
            await self._book.apply(row.id, None, heard_in=row.state)

    async def on_result(self, delivery: Delivery) -> None:
        """A result, and perhaps the invoice of what was done on credit."""
        result = parse_result(delivery.event)
        row = await self._order_of(delivery.event, result.request_id) if result else None
        if row is None or result is None or result.event.kind != result_kind(row.kind):
            return
        try:
            await plain_text(self._signer, result.event)
        except DecryptionError as error:
            reason = f"the result cannot be decrypted: {error}"
            await self._book.apply(row.id, ErrorArrived(reason, error.code), also=delivery.done)
            return
        if is_exposed(row.request, result.event):
            self._book.handle(row).push(EXPOSED)
        # First the money, so that whoever waits for the result and then goes has paid for it.
        await self._escrows.received(row.id, ResultOut(), result.event)
        by_invoice = self._purchases.by_invoice
        settle = (await self._purchases.request(row)).settle if result.bolt11 else ()
        debt = await by_invoice.debt(row, settle, result)

        async def write(tx: Transaction) -> None:
            if debt:
                await by_invoice.record(tx, debt)
            await delivery.done(tx)

        if await self._book.apply(row.id, ResultArrived(), also=write, result=result.event) and debt:
            self._tasks.start(by_invoice.settle_debt(debt), debt.name)

    async def on_wrap(self, delivery: Delivery) -> None:
        """A letter about an escrow, or money from a provider: a refund, or change."""
        try:
            rumor = await unwrap(self._signer, delivery.event)
            if rumor.kind == ESCROW_MESSAGE:
                await self._escrows.desk.receive(rumor, delivery)
                return
            request_id = next((tag[1] for tag in rumor.tags if tag[:1] == ("e",) and len(tag) > 1), "")
            row = await queries.get_order(self._post.db, request_id)
            if rumor.kind != CHAT_MESSAGE or row is None or rumor.pubkey != row.provider:
                return
            token = parse_token(rumor.content)
            is_refund = ("t", "refund") in rumor.tags
            op_id = f"refund:{delivery.event.id}"
            plan = await self._purchases.plan_refund(row, token, op_id)
        except (DecryptionError, WalletError) as error:
            log.info("wrap_ignored", wrap=delivery.event.id, reason=str(error))
            return

        async def write(tx: Transaction) -> None:
            await self._post.wallet.record(tx, plan)
            await delivery.done(tx)

        columns: dict[str, Any] = {"refund_op_id": op_id} if is_refund else {}
        await self._book.apply(row.id, None, also=write, **columns)
        self._tasks.start(self._take_in(row.id, op_id, is_refund=is_refund), op_id)

    async def _take_in(self, order_id: str, op_id: str, *, is_refund: bool) -> None:
        """See recorded money through. Change alone means nothing for the order."""
        if is_refund:
            await self._purchases.settle_refund(order_id, op_id)
        else:
            await self._purchases.settle(op_id)

    async def _order_of(self, event: Event, request_id: str | None) -> OrderRow | None:
        """Our order that this answer is for, if whoever signed it is the one we asked."""
        row = await queries.get_order(self._post.db, request_id) if request_id else None
        if row is None or row.customer != self._signer.public_key or event.pubkey != row.provider:
            return None
        return row

    async def _reveal(self, event: Event) -> EventTemplate | None:
        """What encrypted feedback says, None of other. Of what we cannot read, what is public counts."""
        if scheme_of(event) is None:
            return None
        try:
            return await reveal(self._signer, event)
        except DecryptionError as error:
            log.info("feedback_unreadable", event_id=event.id, reason=str(error))
            return make_template(event.kind, tags=event.tags, created_at=event.created_at)
