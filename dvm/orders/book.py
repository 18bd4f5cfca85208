"""The steps of orders, each written in one transaction with what it brings, and then told to whoever holds the order.

Inbox: what happens to an order (`OrderInput`), and its deadline. Duty: every order ends; what it becomes is
`lifecycle.decide_order`'s business.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from weakref import WeakValueDictionary

import structlog

from dvm import queries
from dvm.kinds import DELETION
from dvm.nip90 import hint_in
from dvm.orders.bolt11_purchases import WARNING, is_by_invoice
from dvm.orders.lifecycle import (
    NOT_NEEDED,
    DeadlinePassed,
    GivenUp,
    OrderDecision,
    OrderInput,
    OrderState,
    TakenBack,
    decide_order,
)
from dvm.orders.order import Order, Update
from dvm.post import Post
from dvm.private import plain_text, scheme_of
from dvm.queries import OrderRow
from dvm.reveals import sealed_text
from identity import Signer, make_template
from relay_bridge.tasks import Tasks
from store import Also, Transaction
from wallet import queries_escrows
from wallet.escrow import Role

log = structlog.get_logger(__name__)


class OrderBook:
    """The orders of one customer, by their rows and their handles.

    Of the customer it needs three things: `cancel` takes an order back (`Customer.cancel`), `reclaim` waits for the
    money of one that did not end well (`Purchases.reclaim`), `told` hears of each new state.
    """

    def __init__(
        self,
        post: Post,
        signer: Signer,
        tasks: Tasks,
        *,
        cancel: Callable[[str], Awaitable[None]],
        reclaim: Callable[[str], Coroutine[Any, Any, None]],
        told: Callable[[OrderRow], None],
    ) -> None:
        self._post = post
        self._signer = signer
        self._tasks = tasks
        self._cancel = cancel
        self._reclaim = reclaim
        self._told = told
        self._handles = WeakValueDictionary[str, Order]()  # nobody else holds them: forgotten

    def handle(self, row: OrderRow) -> Order:
        """What the customer holds of an order in hand: the same for all who hold it."""
        order = self._handles.setdefault(row.id, Order(row.id, row.provider, self._cancel))
        order.state, order.confidence = row.state, row.confidence
        return order

    async def apply(
        self,
        order_id: str,
        event: OrderInput | None,
        *,
        also: Also | None = None,
        seen: OrderRow | None = None,
        **columns: Any,
    ) -> bool:
        """Let `event` happen to an order: its new state, the columns and `also` in one transaction.

        Without an event only the columns and `also` are written, wherever the order stands. False if the lifecycle
        knows no such step from where the order stands, or if it is not as it was `seen` any more; nothing was written
        then.
        """
        while True:
            row = await queries.get_order(self._post.db, order_id)
            if row is None or (seen is not None and row.version != seen.version):
                return False
            has_result, was_sent = row.result is not None, row.reason != NOT_NEEDED
            decision = (
                decide_order(row.state, event, has_result=has_result, was_sent=was_sent)
                if event
                else OrderDecision(row.state)
            )
            if decision is None:
                return False
            reason = {"reason": decision.reason, "code": decision.code} if decision.reason else {}
            async with self._post.db.transaction() as tx:
                now = self._post.clock.now()
                moved = await queries.update_order(tx, row, decision.state, now=now, **columns, **reason)
                if moved and also:
                    await also(tx)
            if moved:
                log.debug("order", order=order_id, state=decision.state)
                if decision.state is not row.state:
                    await self.tell(order_id)
                return True
            # Somebody changed the order between the reading and the writing: decide on what it is now.

    async def take_back(
        self,
        row: OrderRow,
        event: TakenBack | GivenUp,
        signer: Signer,
        *,
        also: Also | None = None,
        as_seen: bool = False,
    ) -> bool:
        """Publish that we take a request back (NIP-09), in the transaction of `event`; False if nothing changed.

        `as_seen`: only if the order is as `row` says: what has moved since may be work that we would destroy.
        Raises `SignerUnavailable`.
        """
        tags = [("e", row.id), ("k", str(row.kind)), ("p", row.provider)]
        deletion = await signer.sign(make_template(DELETION, tags=tags, created_at=self._post.clock.now()))

        async def write(tx: Transaction) -> None:
            await self._post.mailboxes.send(tx, deletion, row.provider, hint_in(row.request))
            if also:
                await also(tx)

        return await self.apply(row.id, event, also=write, seen=row if as_seen else None)

    async def tell(self, order_id: str) -> None:
        """Bring the order's handle up to its row, and begin to watch the locktime if money is out."""
        row = await queries.get_order(self._post.db, order_id)
        assert row is not None
        order = self.handle(row)
        match row.state:
            case OrderState.PAID:
                order.push(Update("paid", WARNING if is_by_invoice(row) else "", price_sat=row.price_sat))
            case OrderState.DONE if row.result is None or scheme_of(row.result):
                self._tasks.start(self._finish(order, row), f"finish:{row.id}")
            case OrderState.DONE if row.result:
                order.finish(row.result.content)
            case OrderState.REFUNDED:
                order.push(Update("refunded", price_sat=row.price_sat))
                order.fail(row.reason, await self._came_back(row), row.code)
            case OrderState.AWAITING_REFUND:
                order.push(Update("failed", f"{row.reason}; waiting for the money to come back"))
                self.watch(row)
            case OrderState.LOST:
                order.fail(row.reason, f"{row.price_sat} sat are with the agent", row.code)
            case OrderState.FAILED | OrderState.EXPIRED | OrderState.CANCELLED:
                order.fail(row.reason, "nothing was paid", row.code)
            case _:
                pass
        self._told(row)

    async def _came_back(self, row: OrderRow) -> str:
        """What of a price, in words: an arbiter may have awarded a part of it."""
        escrow = await queries_escrows.get(self._post.db, Role.CUSTOMER, row.customer, row.id)
        if escrow is None:
            return f"{row.price_sat} sat came back, less the mint's fee"
        return f"{escrow.amount_sat} of {row.price_sat} sat came back"

    def watch(self, row: OrderRow) -> None:
        """Wait for what time brings to an order: its deadline, or the locktime of its money."""
        if row.state in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID):
            self._tasks.start(self._await_deadline(row.id, row.deadline_at), f"deadline:{row.id}")
        elif row.state is OrderState.AWAITING_REFUND:
            self._tasks.start(self._reclaim(row.id), f"reclaim:{row.id}")

    async def _await_deadline(self, order_id: str, deadline_at: int) -> None:
        while True:
            row = await queries.get_order(self._post.db, order_id)
            if row is None or row.state not in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID):
                return
            left_seconds = deadline_at - self._post.clock.now()
            if left_seconds > 0:
                await self._post.clock.sleep(left_seconds)
            elif not await self.apply(row.id, DeadlinePassed()):
                await self._post.clock.sleep(1)  # in the middle of paying: the payment decides first

    async def _finish(self, order: Order, row: OrderRow) -> None:
        """Hand over a result that was encrypted, or sealed; it was readable when it came."""
        if (text := await self.text(row)) is not None:
            order.finish(text)

    async def text(self, row: OrderRow) -> str | None:
        """The text of an order's result; None if there is none."""
        if row.result is not None:
            return await plain_text(self._signer, row.result)
        return await sealed_text(self._post.db, row)
