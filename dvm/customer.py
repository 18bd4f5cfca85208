"""The other side of the counter: ask an agent, pay what it asks, wait for the result, get the money back if none comes.

Inbox: feedback, results and gift wraps to our key. Duty: every order ends, and no sat of it is forgotten. What an order
becomes is `lifecycle.decide_order`'s business. Orders live in the store: a customer that was killed goes on with them
when it is opened again, pays nothing twice, and takes locked coins back after their locktime.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog

from dvm import queries
from dvm.announce import choose_agent
from dvm.bolt11_purchases import REFUND_SECONDS, WARNING, is_by_invoice, wants_invoice
from dvm.errors import BadRequest
from dvm.escrow_messages import ESCROW_MESSAGE, Wishes
from dvm.escrow_parties import CustomerDesk
from dvm.kinds import DELETION, FEEDBACK, check_request_kind, result_kind
from dvm.lifecycle import (
    DeadlinePassed,
    ErrorArrived,
    MoneyBack,
    MoneyGone,
    OfferArrived,
    OrderDecision,
    OrderInput,
    OrderState,
    ResultArrived,
    TakenBack,
    decide_order,
)
from dvm.nip90 import (
    Feedback,
    Input,
    Offer,
    Status,
    check_size,
    make_request,
    parse_feedback,
    parse_result,
)
from dvm.order import Order, Update
from dvm.patience import PatientSigner
from dvm.payments import CHAT_MESSAGE
from dvm.post import ANSWER_MARGIN_SECONDS, WRAP_MARGIN_SECONDS, Post
from dvm.private import Scheme, hide, reveal, scheme_of
from dvm.purchases import Also, Purchases
from dvm.queries import OrderRow
from dvm.reveals import sealed_text, sold
from identity import (
    DecryptionError,
    Event,
    EventTemplate,
    InvalidKey,
    Signer,
    make_template,
)
from identity.nip19 import parse_public_key
from identity.nip59 import unwrap
from relay_bridge import Delivery, Filter, Following
from store import Transaction
from wallet import (
    PaidBefore,
    WalletError,
    parse_token,
)
from wallet.escrow import ResultOut, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

log = structlog.get_logger(__name__)


EXPOSED: Final = Update("exposed", "the agent sent this for all to read, though it was asked in private")


def named_key(target: str) -> str | None:
    """The key that `target` names (npub, nprofile or hex), None if it is a word. Raises `BadRequest`."""
    try:
        return parse_public_key(target)
    except InvalidKey as error:
        if target.startswith(("npub1", "nprofile1", "nsec1")) or len(target) == 64:
            raise BadRequest(str(error)) from None
        return None


class Customer:
    """Asks agents for work with one key and one wallet. `start` goes on with what an earlier process left."""

    def __init__(self, signer: Signer, post: Post) -> None:
        self.signer = signer
        self._post = post
        self._orders: dict[str, Order] = {}
        self._followings: dict[str, Following] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patient = PatientSigner(
            signer, post.clock
        )  # for all that is not done while somebody waits for an error
        self._desk = CustomerDesk(
            post,
            self._patient,
            delivered=self._on_shown,
            revealed=self._on_revealed,
            ended=self._escrow_ended,
        )
        self._purchases = Purchases(post, self._patient, self._desk, self.apply)

    @property
    def desk(self) -> CustomerDesk:
        """What of this customer's money is in escrow."""
        return self._desk

    @property
    def public_key(self) -> str:
        """Who asks."""
        return self.signer.public_key

    async def start(self) -> None:
        """Listen for answers and resume open orders."""
        self._post.pool.add_signer(self.signer)
        me = {"p": (self.public_key,)}
        await self._follow("feedback", Filter(kinds=(FEEDBACK,), tags=me), self._on_feedback)
        await self._follow("wraps", Filter(kinds=(1059, 21059), tags=me), self._on_wrap, WRAP_MARGIN_SECONDS)
        await self._desk.start()
        for row in await queries.open_orders(self._post.db, self.public_key):
            await self._follow_results(row.kind)
            self._watch(row)
            if row.state is OrderState.PAYING:
                self._spawn(self._purchases.pay(row.id))
            if row.refund_op_id:
                self._spawn(self._purchases.settle_refund(row.id, row.refund_op_id))

    async def stop(self) -> None:
        """Stop listening. Open orders stay in the store and go on at the next start."""
        for following in self._followings.values():
            await following.close()
        await self._desk.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(
        self,
        target: str,
        text: str | Sequence[Input],
        *,
        kind: int,
        max_sat: int = 0,
        params: Mapping[str, str | Sequence[str]] | None = None,
        private: bool = False,
        seconds_max: int = 600,
        arbiters: Sequence[str] = (),
        settle: Sequence[Method] = (Method.PREPAID,),
        review: bool = False,
        also: Callable[[Transaction, str], Awaitable[None]] | None = None,
    ) -> Order:
        """Publish a request and return the order at once; it is on disk when this returns.

        `target`: an npub, a key in hex, or a word for a capability (a live agent is then chosen by its announcement).
        `max_sat` bounds the price; the mint's fee of a sat or two comes on top. 0: only free work is accepted.
        `private`: only the agent can read what is asked (NIP-44), and answers so too; one that does not is not paid.
        `settle`: the ways to pay that will do, the best first; `escrow` needs `arbiters` that we trust (keys in hex).
        `review`: a result in escrow waits for `accept` or `dispute`; else it is paid for when it comes, and in any case
        when its time for review is over.
        `also` writes in the transaction that makes the order, whose id it is given.
        Raises `BadRequest`, also for a request too large for relays, and `NoAgentFound`.
        """
        check_request_kind(kind)
        if Method.ESCROW in settle and (private or not arbiters):
            raise BadRequest(
                "an escrow needs an arbiter that you trust, and a request that the arbiter can read"
            )
        if Method.INVOICE in settle and private:
            raise BadRequest("a private order cannot be paid by invoice yet: pay it with ecash")
        provider = await self._resolve(target, kind)
        now = self._post.clock.now()
        nonce = secrets.token_hex(16)
        template = make_request(
            kind,
            [Input(text)] if isinstance(text, str) else text,
            params={
                name: (value,) if isinstance(value, str) else value for name, value in (params or {}).items()
            },
            provider=provider,
            bid_msat=max_sat * 1000,
            relays=self._post.pool.urls,
            mints=self._post.wallet.mints,
            lock=self._purchases.lock_key(nonce).compressed_public_key,
            expires_at=now + seconds_max,
            now=now,
            settle=settle,
            arbiters=arbiters,
        )
        if private:
            template = await hide(self.signer, template, provider, Scheme.NIP44)
        check_size(template)
        event = await self.signer.sign(template)
        row = OrderRow(
            id=event.id, customer=self.public_key, provider=provider, kind=kind, state=OrderState.REQUESTED,
            max_sat=max_sat, price_sat=0, mint=None, lock_nonce=nonce, locktime=None, op_id=None, refund_op_id=None,
            request=event, offer=None, result=None, reason="", deadline_at=now + seconds_max, version=0, created_at=now,
            updated_at=now, review=review,
        )  # fmt: skip
        await self._follow_results(kind)
        async with self._post.db.transaction() as tx:
            await queries.insert_order(tx, row)
            await self._post.outbox.add(tx, event, until=row.deadline_at)
            if also:
                await also(tx, event.id)
        self._watch(row)
        return self._order(row)

    async def accept(self, order_id: str) -> None:
        """Pay for a result that is in escrow. Raises `BadRequest` if there is none to accept."""
        if not await self._desk.wish(order_id, Wishes("accept")):
            raise BadRequest(
                f"order {order_id[:12]} has no result in escrow; `tradepost escrow list` shows all"
            )

    async def dispute(self, order_id: str, reason: str) -> None:
        """Refuse to pay for a result that is in escrow: its arbiter rules. Raises `BadRequest` if it is too late."""
        if not await self._desk.wish(order_id, Wishes("dispute", reason)):
            raise BadRequest(
                f"order {order_id[:12]} cannot be disputed: nothing was delivered, or the time is over"
            )

    async def cancel(self, order_id: str) -> None:
        """Take a request back (NIP-09). Unpaid, the order ends here; a paid one waits for what the agent says.

        An agent returns the money if it had not begun to work. Raises `BadRequest` if there is nothing to take back.
        """
        row = await queries.get_order(self._post.db, order_id)
        if row is None or row.customer != self.public_key:
            raise BadRequest(f"no order of this customer has the id {order_id[:64]!r}")
        now = self._post.clock.now()
        tags = [("e", row.id), ("k", str(row.kind)), ("p", row.provider)]
        event = await self.signer.sign(make_template(DELETION, tags=tags, created_at=now))

        async def write(tx: Transaction) -> None:
            await self._post.outbox.add(tx, event)

        if not await self.apply(order_id, TakenBack(), also=write):
            raise BadRequest(f"job {order_id[:12]} is {row.state}: there is nothing to cancel any more")

    async def open_orders(self) -> list[Order]:
        """Orders that have not ended, those of earlier processes included."""
        return [self._order(row) for row in await queries.open_orders(self._post.db, self.public_key)]

    def _order(self, row: OrderRow) -> Order:
        order = self._orders.setdefault(row.id, Order(row.id, row.provider, self.cancel))
        order.state = row.state
        return order

    async def _resolve(self, target: str, kind: int) -> str:
        named = named_key(target)
        return named or (await choose_agent(self._post.pool, self._post.clock, kind, target)).public_key

    # What comes in -------------------------------------------------------------------------------------------

    async def _follow(
        self,
        name: str,
        what: Filter,
        handler: Callable[[Delivery], Awaitable[None]],
        margin: int = ANSWER_MARGIN_SECONDS,
    ) -> None:
        if name not in self._followings:
            self._followings[name] = await self._post.inbox.follow(
                f"{name}:{self.public_key}", [what], handler, margin_seconds=margin, backlog_seconds=margin
            )

    async def _follow_results(self, kind: int) -> None:
        what = Filter(kinds=(result_kind(kind),), tags={"p": (self.public_key,)})
        await self._follow(f"results-{kind}", what, self._on_result)

    async def _order_of(self, event: Event, request_id: str | None) -> OrderRow | None:
        """Our order that this answer is for, if whoever signed it is the one we asked."""
        row = await queries.get_order(self._post.db, request_id) if request_id else None
        if row is None or row.customer != self.public_key or event.pubkey != row.provider:
            return None
        return row

    async def _on_feedback(self, delivery: Delivery) -> None:
        event = delivery.event
        row = await self._order_of(event, event.tag("e"))
        feedback = parse_feedback(event, await self._reveal(event)) if row else None
        if row is None or feedback is None:
            return
        if feedback.content and _is_exposed(row, event):
            self._order(row).push(EXPOSED)
        match feedback.status:
            case Status.PAYMENT_REQUIRED:
                await self._on_offer(row, feedback, delivery)
            case Status.ERROR:
                reason = feedback.message or feedback.content or "the agent failed, and gave no reason"
                await self.apply(row.id, ErrorArrived(reason), also=delivery.done)
            case Status.PARTIAL:
                self._order(row).push(Update("partial", feedback.message, feedback.content))
            case _:
                self._order(row).push(Update("working", feedback.message, feedback.content))

    async def _on_result(self, delivery: Delivery) -> None:
        result = parse_result(delivery.event)
        row = await self._order_of(delivery.event, result.request_id) if result else None
        if row is None or result is None or result.event.kind != result_kind(row.kind):
            return
        try:
            await self._text_of(result.event)
        except DecryptionError as error:
            await self.apply(
                row.id, ErrorArrived(f"the result cannot be decrypted: {error}"), also=delivery.done
            )
            return
        if _is_exposed(row, result.event):
            self._order(row).push(EXPOSED)
        # First the money, so that whoever waits for the result and then goes has paid for it.
        await self._received(row.id, ResultOut(), result.event)
        debt = await self._purchases.by_invoice.debt(row, result)

        async def write(tx: Transaction) -> None:
            if debt:
                await self._purchases.by_invoice.record(tx, debt)
            await delivery.done(tx)

        if await self.apply(row.id, ResultArrived(), also=write, result=result.event) and debt:
            self._spawn(self._purchases.by_invoice.settle_debt(debt))

    async def _received(self, order_id: str, event: ResultOut, result: Event) -> None:
        """A result is there: in escrow it is paid for at once, unless somebody wants to look at it first."""
        shown = await self._desk.happens(order_id, event, result=result)
        order = await queries.get_order(self._post.db, order_id)
        if shown is not None and not (order and order.review):
            await self._desk.wish(order_id, Wishes("accept"))

    async def _on_shown(self, order_id: str, result: Event) -> None:
        """The arbiter shows us a result that our relays did not."""
        await self._received(order_id, ResultOut(by_arbiter=True), result)
        await self.apply(order_id, ResultArrived(), result=result)

    async def _on_revealed(self, escrow: EscrowRow) -> None:
        """The key of a sealed result is known: it opens the result, or proves a fraud."""
        row = await queries.get_order(self._post.db, escrow.request_id)
        if row is not None and (event := sold(row, escrow)) is not None:
            await self.apply(row.id, event)

    def _escrow_ended(self, escrow: EscrowRow, stage: Stage) -> Also:
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
            reason = {"reason": decision.reason} if decision.reason else {}
            await queries.update_order(tx, row, decision.state, now=self._post.clock.now(), **reason)
            tx.after_commit(lambda: self._spawn(self._tell(row.id)))

        return write

    async def _reveal(self, event: Event) -> EventTemplate | None:
        """What encrypted feedback says, None of other. Of what we cannot read, what is public counts."""
        if scheme_of(event) is None:
            return None
        try:
            return await reveal(self._patient, event)
        except DecryptionError as error:
            log.info("feedback_unreadable", event_id=event.id, reason=str(error))
            return make_template(event.kind, tags=event.tags, created_at=event.created_at)

    async def _text_of(self, result: Event) -> str:
        """The result itself, decrypted if need be. Raises `DecryptionError`."""
        return (await reveal(self._patient, result)).content if scheme_of(result) else result.content

    async def _finish(self, order: Order, row: OrderRow) -> None:
        """Hand over a result that was encrypted, or sealed; it was readable when it came."""
        if row.result is not None:
            order.finish(await self._text_of(row.result))
        elif (text := await sealed_text(self._post.db, row)) is not None:
            order.finish(text)

    async def _on_offer(self, row: OrderRow, feedback: Feedback, delivery: Delivery) -> None:
        offer = feedback.offer
        if row.state is not OrderState.REQUESTED:
            return
        if offer is None:
            await self.apply(
                row.id, OfferArrived("the offer names no amount we can read"), also=delivery.done
            )
            return
        price_sat = -(-offer.price_msat // 1000)
        self._order(row).push(Update("offer", price_sat=price_sat))
        escrow = await self._purchases.escrow(row, feedback)
        obstacle = self._purchases.obstacle(row, offer, price_sat, escrow)
        if escrow and not obstacle:
            obstacle = await self._desk.doubts(escrow.terms)
        if _is_exposed(row, feedback.event):
            obstacle = "the agent answers a private request for all to read"
        if obstacle:
            await self.apply(row.id, OfferArrived(obstacle), also=delivery.done)
            return
        if not escrow and wants_invoice(row, offer, self._post.wallet.mints):
            await self._pay_invoice(row, feedback.event, offer, price_sat, delivery)
            return
        try:
            plan = await self._purchases.plan(row, offer, price_sat, escrow)
        except WalletError as error:
            await self.apply(row.id, OfferArrived(str(error)), also=delivery.done)
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
            moved = await self.apply(
                row.id, OfferArrived(""), also=write, offer=feedback.event, price_sat=price_sat, mint=plan.mint,
                locktime=offer.locktime, op_id=plan.op_id,
            )  # fmt: skip
        except BaseException:
            await self._post.wallet.release(plan)
            raise
        if moved:
            self._spawn(self._purchases.pay(row.id))
        else:
            await self._post.wallet.release(plan)

    async def _pay_invoice(
        self, row: OrderRow, event: Event, offer: Offer, price_sat: int, delivery: Delivery
    ) -> None:
        try:
            payment = await self._purchases.by_invoice.plan(row, offer)
        except WalletError as error:
            await self.apply(row.id, OfferArrived(str(error)), also=delivery.done)
            return

        async def write(tx: Transaction) -> None:
            await self._purchases.by_invoice.record(tx, payment)
            await delivery.done(tx)

        # What stands for the locktime: until then the agent may send it back, afterwards it counts as lost.
        lost_at = row.deadline_at + REFUND_SECONDS
        try:
            moved = await self.apply(
                row.id, OfferArrived(""), also=write, offer=event, price_sat=price_sat, locktime=lost_at,
                op_id=payment.name,
            )  # fmt: skip
        except PaidBefore as error:  # another order of ours: nothing is paid for this one
            await self.apply(row.id, OfferArrived(str(error)), also=delivery.done)
            return
        if moved:
            self._spawn(self._purchases.pay(row.id))

    async def _on_wrap(self, delivery: Delivery) -> None:
        """Money from a provider: a refund, or change."""
        try:
            rumor = await unwrap(self._patient, delivery.event)
            if rumor.kind == ESCROW_MESSAGE:
                await self._desk.receive(rumor, delivery)
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

        await self.apply(row.id, None, also=write, **({"refund_op_id": op_id} if is_refund else {}))
        if is_refund:
            self._spawn(self._purchases.settle_refund(row.id, op_id))
        else:
            self._spawn(self._purchases.settle(op_id))

    # What becomes of it --------------------------------------------------------------------------------------

    async def apply(
        self, order_id: str, event: OrderInput | None, *, also: Also | None = None, **columns: Any
    ) -> bool:
        """Let `event` happen to an order: its new state, the columns and `also` in one transaction.

        Without an event only the columns and `also` are written, wherever the order stands. False if the lifecycle
        knows no such step from where the order stands; nothing was written then.
        """
        while True:
            row = await queries.get_order(self._post.db, order_id)
            if row is None:
                return False
            has_result = row.result is not None
            decision = (
                decide_order(row.state, event, has_result=has_result) if event else OrderDecision(row.state)
            )
            if decision is None:
                return False
            reason = {"reason": decision.reason} if decision.reason else {}
            async with self._post.db.transaction() as tx:
                now = self._post.clock.now()
                moved = await queries.update_order(tx, row, decision.state, now=now, **columns, **reason)
                if moved and also:
                    await also(tx)
            if moved:
                log.debug("order", order=order_id, state=decision.state)
                if decision.state is not row.state:
                    await self._tell(order_id)
                return True
            # Somebody changed the order between the reading and the writing: decide on what it is now.

    async def _tell(self, order_id: str) -> None:
        """Bring the order's handle up to its row, and begin to watch the locktime if money is out."""
        row = await queries.get_order(self._post.db, order_id)
        assert row is not None
        order = self._order(row)
        match row.state:
            case OrderState.PAID:
                order.push(Update("paid", WARNING if is_by_invoice(row) else "", price_sat=row.price_sat))
            case OrderState.DONE if row.result is None or scheme_of(row.result):
                self._spawn(self._finish(order, row))
            case OrderState.DONE if row.result:
                order.finish(row.result.content)
            case OrderState.REFUNDED:
                order.push(Update("refunded", price_sat=row.price_sat))
                order.fail(row.reason, f"{row.price_sat} sat came back, less the mint's fee")
            case OrderState.AWAITING_REFUND:
                order.push(Update("working", f"{row.reason}; waiting for the money to come back"))
                self._watch(row)
            case OrderState.LOST:
                order.fail(row.reason, f"{row.price_sat} sat are with the agent")
            case OrderState.FAILED | OrderState.EXPIRED | OrderState.CANCELLED:
                order.fail(row.reason, "nothing was paid")
            case _:
                pass

    def _watch(self, row: OrderRow) -> None:
        if row.state in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID):
            self._spawn(self._await_deadline(row.id, row.deadline_at))
        elif row.state is OrderState.AWAITING_REFUND:
            self._spawn(self._purchases.reclaim(row.id))

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

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", exc_info=error)


def _is_exposed(row: OrderRow, answer: Event) -> bool:
    """Whether a private order is answered in clear."""
    return scheme_of(row.request) is not None and scheme_of(answer) is None
