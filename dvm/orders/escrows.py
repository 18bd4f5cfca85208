"""What the escrow of an order, or the sale of its sealed result, means for the order, and the other way round.

Inbox: results, and what the customer's desk learns. Duty: no order outlives its escrow, both end in one transaction,
and a result in escrow is paid for as soon as the customer wants no look at it first.
"""

from collections.abc import Callable

from dvm import queries
from dvm.escrow.parties import CustomerDesk
from dvm.orders.book import OrderBook
from dvm.orders.lifecycle import MoneyBack, MoneyGone, OrderState, ResultArrived, decide_order
from dvm.post import Post
from dvm.reveals import sold
from identity import Event, Signer
from relay_bridge.tasks import Tasks
from store import Also, Transaction
from wallet.escrow import Accepted, ResultOut, Stage
from wallet.queries_escrows import EscrowRow


class OrderEscrows:
    """The escrows of one customer's orders. `owes_fee(escrow)` is told of a dispute whose hearing is to be ordered."""

    def __init__(
        self,
        post: Post,
        signer: Signer,
        tasks: Tasks,
        book: OrderBook,
        owes_fee: Callable[[EscrowRow], None],
    ) -> None:
        self._post = post
        self._tasks = tasks
        self._book = book
        #: What of the customer's money is in escrow.
        self.desk = CustomerDesk(
            post, signer, delivered=self._shown, revealed=self._revealed, ended=self._ended, owes_fee=owes_fee
        )

    async def received(self, order_id: str, event: ResultOut, result: Event) -> None:
        """A result is there: in escrow it is paid for at once, unless somebody wants to look at it first."""
        shown = await self.desk.happens(order_id, event, result=result)
        order = await queries.get_order(self._post.db, order_id)
        if shown is not None and not (order and order.review):
            await self.desk.happens(order_id, Accepted())

    async def _shown(self, order_id: str, result: Event) -> None:
        """The arbiter shows us a result that our relays did not."""
        # First the order: an escrow that is paid out is not looked at again after a restart.
        await self._book.apply(order_id, ResultArrived(), result=result)
        await self.received(order_id, ResultOut(by_arbiter=True), result)

    async def _revealed(self, escrow: EscrowRow) -> None:
        """The key of a sealed result is known: it opens the result, or proves a fraud."""
        row = await queries.get_order(self._post.db, escrow.request_id)
        if row is not None and (event := sold(row, escrow)) is not None:
            await self._book.apply(row.id, event)

    def _ended(self, escrow: EscrowRow, stage: Stage) -> Also:
        """The order's end, in the transaction that ends its escrow."""

        async def write(tx: Transaction) -> None:
            row = await queries.get_order(tx, escrow.request_id)
            if row is None or stage is Stage.VOID:
                return
            event = sold(row, escrow)  # a key that opens the result counts, whatever became of the coins
            if event is None or (stage is Stage.REFUNDED and not isinstance(event, ResultArrived)):
                if stage is Stage.RELEASED and row.state is not OrderState.AWAITING_REFUND:
                    return  # paid for, and what was paid for ends the order
                event = MoneyBack() if stage is Stage.REFUNDED else MoneyGone()
            decision = decide_order(row.state, event)
            if decision is None:
                return
            why = decision.reason or (escrow.reason if stage is Stage.REFUNDED and not row.reason else "")
            reason = {"reason": why, "code": decision.code or row.code} if why else {}
            returned_sat = escrow.amount_sat  # a ruling may give back a part
            await queries.update_order(
                tx, row, decision.state, now=self._post.clock.now(), returned_sat=returned_sat, **reason
            )
            tx.after_commit(lambda: self._tell(row.id))

        return write

    def _tell(self, order_id: str) -> None:
        self._tasks.start(self._book.tell(order_id), f"tell:{order_id}")
