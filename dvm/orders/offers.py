"""What becomes of an agent's offer: it is taken, with coins, an escrow or its invoice, or it ends the order.

Inbox: feedback `payment-required`. Duty: an offer is taken once, and what pays it is recorded in the transaction that
takes it. Who holds the sats: we; `Purchases.pay` moves them from then on.
"""

from dvm.errors import Trouble
from dvm.escrow.agreement import ARBITRATION, Agreement
from dvm.escrow.parties import CustomerDesk
from dvm.nip90 import Feedback, Offer
from dvm.orders.bolt11_purchases import REFUND_SECONDS, wants_invoice
from dvm.orders.book import OrderBook
from dvm.orders.lifecycle import OfferArrived, OrderState
from dvm.orders.order import Update
from dvm.orders.purchases import Purchases
from dvm.post import Post
from dvm.private import is_exposed
from dvm.queries import OrderRow
from identity import Event
from relay_bridge import Delivery
from relay_bridge.tasks import Tasks
from store import Transaction
from wallet import PaidBefore, WalletError, queries_escrows
from wallet.escrow import Stage


class OrderOffers:
    """The offers to one customer."""

    def __init__(
        self, post: Post, book: OrderBook, purchases: Purchases, desk: CustomerDesk, tasks: Tasks
    ) -> None:
        self._post = post
        self._book = book
        self._purchases = purchases
        self._desk = desk
        self._tasks = tasks
        self._taking = set[
            str
        ]()  # orders with an offer that is looked at, perhaps for as long as a mint is away

    async def take(self, row: OrderRow, feedback: Feedback, delivery: Delivery) -> None:
        """Take an offer and begin to pay it, or end the order with what is wrong with it; later offers are ignored."""
        if row.state is not OrderState.REQUESTED or row.id in self._taking:
            return
        self._taking.add(row.id)
        try:
            await self._take(row, feedback, delivery)
        finally:
            self._taking.remove(row.id)

    async def _take(self, row: OrderRow, feedback: Feedback, delivery: Delivery) -> None:
        offer = feedback.offer
        if offer is None:
            await self._refuse(row, "the offer names no amount we can read", delivery)
            return
        price_sat = -(-offer.price_msat // 1000)
        request = await self._purchases.request(row)
        escrow = self._purchases.escrow(row, request, feedback)
        fee_sat = escrow.terms.arbiter_fee_sat if escrow else 0
        more = f"a dispute would cost you {fee_sat} sat more" if fee_sat else ""
        self._book.handle(row).push(Update("offer", more, price_sat=price_sat))
        obstacle = await self._no_need(row) or self._purchases.obstacle(
            row, request, offer, price_sat, escrow
        )
        if escrow and not obstacle:
            obstacle = await self._desk.doubts(escrow.terms)
        if is_exposed(row.request, feedback.event):
            obstacle = "the agent answers a private request for all to read"
        if obstacle:
            await self._refuse(row, obstacle, delivery)
        elif not escrow and wants_invoice(request.settle, offer, self._post.wallet.mints):
            await self._pay_invoice(row, feedback.event, offer, price_sat, delivery)
        else:
            await self._lock_coins(row, feedback.event, offer, price_sat, delivery, escrow=escrow)

    async def _no_need(self, row: OrderRow) -> str:
        """Why a hearing is not paid for any more; empty if it is, and for all other work."""
        if row.kind != ARBITRATION:
            return ""
        case = await queries_escrows.of_hearing(self._post.db, row.id)
        is_over = case is not None and (case.stage is not Stage.DISPUTED or case.ruling is not None)
        return "the dispute is over" if is_over else ""

    async def _refuse(
        self, row: OrderRow, reason: str, delivery: Delivery, code: str = Trouble.OFFER_REFUSED
    ) -> None:
        await self._book.apply(row.id, OfferArrived(reason, code), also=delivery.done)

    async def _lock_coins(
        self,
        row: OrderRow,
        event: Event,
        offer: Offer,
        price_sat: int,
        delivery: Delivery,
        *,
        escrow: Agreement | None,
    ) -> None:
        try:
            plan = await self._purchases.plan(row, offer, price_sat, escrow)
        except WalletError as error:
            await self._refuse(row, str(error), delivery, error.code)
            return

        async def write(tx: Transaction) -> None:
            await self._post.wallet.record(tx, plan)
            if escrow is not None:
                await self._desk.begin(
                    tx, escrow.terms, row.request, op_id=plan.op_id, lock_nonce=row.lock_nonce,
                    ciphertext=escrow.ciphertext,
                )  # fmt: skip
            await delivery.done(tx)

        try:
            moved = await self._book.apply(
                row.id, OfferArrived(""), also=write, offer=event, price_sat=price_sat, mint=plan.mint,
                locktime=offer.locktime, op_id=plan.op_id,
            )  # fmt: skip
        except BaseException:
            await self._post.wallet.release(plan)
            raise
        if moved:
            self._tasks.start(self._purchases.pay(row.id), f"pay:{row.id}")
        else:
            await self._post.wallet.release(plan)

    async def _pay_invoice(
        self, row: OrderRow, event: Event, offer: Offer, price_sat: int, delivery: Delivery
    ) -> None:
        try:
            payment = await self._purchases.by_invoice.plan(row, offer)
        except WalletError as error:
            await self._refuse(row, str(error), delivery, error.code)
            return

        async def write(tx: Transaction) -> None:
            await self._purchases.by_invoice.record(tx, payment)
            await delivery.done(tx)

        # What stands for the locktime: until then the agent may send it back, afterwards it counts as lost.
        lost_at = row.deadline_at + REFUND_SECONDS
        try:
            moved = await self._book.apply(
                row.id, OfferArrived(""), also=write, offer=event, price_sat=price_sat, locktime=lost_at,
                op_id=payment.name,
            )  # fmt: skip
        except PaidBefore as error:  # another order of ours: nothing is paid for this one
            await self._refuse(row, str(error), delivery, error.code)
            return
        if moved:
            self._tasks.start(self._purchases.pay(row.id), f"pay:{row.id}")
