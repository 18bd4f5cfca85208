"""The money of a customer's orders: locked for the agent, sent to it, and taken back when no result comes.

Inbox: orders in PAYING and AWAITING_REFUND. Duty: each payment is either with the agent or ours again.

Who holds the sats: until the mint has locked them, we; then whoever gets the message with them before the locktime,
and we (by the refund key) after it. The coins and the message are on disk before either is sent.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import structlog

from dvm import queries
from dvm.escrow.agreement import Agreement, check_acceptance
from dvm.escrow.desk import Overtaken
from dvm.escrow.parties import CustomerDesk, offered_terms
from dvm.kinds import CHAT_MESSAGE
from dvm.nip90 import ENCRYPTED, PREPAID, Feedback, JobRequest, Offer, hint_in, parse_request
from dvm.orders.bolt11_purchases import Bolt11Purchases, is_by_invoice, obstacle, wants_invoice
from dvm.orders.lifecycle import (
    CoinsLocked,
    MoneyBack,
    MoneyGone,
    NotNeeded,
    OrderInput,
    OrderState,
    PaymentImpossible,
)
from dvm.orders.restore import order_record
from dvm.post import Post
from dvm.private import reveal
from dvm.queries import OrderRow
from dvm.queries_guarantees import is_needed
from dvm.reveals import REVEAL_SECONDS_MAX, sealed_agreement
from identity import SecretKey, Signer, make_template
from identity.nip59 import wrap
from relay_bridge import NotNow, usable_relays
from store import Also, Transaction
from wallet import (
    AlreadySpent,
    InvalidToken,
    Lock,
    MintError,
    MintUnavailable,
    Outcome,
    PaymentPayload,
    Plan,
    State,
    Token,
    WalletError,
    encode_payload,
)
from wallet.errors import WrongTerms
from wallet.escrow import EscrowInput, Funded, NotFunded
from wallet.selection import escrow_amounts
from wallet.terms import Method, Terms, check_agreement

log = structlog.get_logger(__name__)

PREPAID_LOCK_SECONDS_MAX: Final = 7 * 86400  # an offer that binds our coins for longer is not taken
HIRED_LOCK_SECONDS_MAX: Final = (
    6 * 3600
)  # after the order's end, where the next agent is paid from the same budget
RECLAIM_RETRY_SECONDS: Final = 15
T = TypeVar("T")


class ChangeOrder(Protocol):
    """Lets something happen to an order, together with the caller's own writes (`OrderBook.apply`)."""

    async def __call__(
        self, order_id: str, event: OrderInput | None, *, also: Also | None = None, **columns: Any
    ) -> bool:
        """False if the order has no such step to take; `also` was then not written."""
        ...


class _NoNeed(Exception):  # noqa: N818 - it says what happened; no error
    """Nobody waits for the result any more, once the coins are locked."""


class Purchases:
    """The payments of one customer."""

    def __init__(self, post: Post, signer: Signer, desk: CustomerDesk, apply: ChangeOrder) -> None:
        self._post = post
        self._signer = signer
        self._desk = desk
        self._apply = apply
        self.by_invoice = Bolt11Purchases(post)

    def lock_key(self, nonce: str) -> SecretKey:
        """Our one-job key for an order, from the random nonce stored with it."""
        return self._post.seed.job_key("customer", self._signer.public_key, nonce)

    async def request(self, row: OrderRow) -> JobRequest:
        """What we asked, in clear."""
        is_private = row.request.has_tag(ENCRYPTED)
        clear = await reveal(self._signer, row.request, row.provider) if is_private else None
        return parse_request(row.request, clear)

    def escrow(self, row: OrderRow, request: JobRequest, feedback: Feedback) -> Agreement | None:
        """What an offer of an escrow, or of a sealed result, would bind us to; None if it is of another kind.

        A private order has no escrow: its arbiter could not read it.
        """
        sealed = sealed_agreement(feedback, request, row.provider)
        if sealed or request.private or feedback.offer is None:
            return sealed
        return offered_terms(feedback.offer, request, row.provider)

    def obstacle(
        self, row: OrderRow, request: JobRequest, offer: Offer, price_sat: int, escrow: Agreement | None
    ) -> str:
        """Why we do not take an offer; empty if we do."""
        now = self._post.clock.now()
        if price_sat <= 0:
            return "the agent asks for a payment of nothing"
        if price_sat > row.max_sat:
            return f"the agent asks {price_sat} sat, your limit is {row.max_sat} sat"
        if offer.expires_at is not None and offer.expires_at <= now:
            return "the offer has expired"
        if escrow is not None:
            return self._obstacle_to(request, escrow) or self._unsound(escrow.terms)
        if wants_invoice(request.settle, offer, self._post.wallet.mints):
            return obstacle(offer, now)
        if request.settle and PREPAID not in request.settle:
            return f"the agent offers no {' and no '.join(request.settle)}, and you want no other payment"
        if PREPAID not in offer.settle or offer.lock is None or offer.locktime is None:
            return "the agent asks for a kind of payment that this wallet does not make yet"
        until = (
            row.deadline_at + HIRED_LOCK_SECONDS_MAX if row.guarantee_id else now + PREPAID_LOCK_SECONDS_MAX
        )
        if not now < offer.locktime <= until:
            return "the offer would lock the coins for too long, or not at all"
        return ""

    def _obstacle_to(self, request: JobRequest, escrow: Agreement) -> str:
        terms = escrow.terms
        if terms.method is Method.REVEAL:
            is_long = terms.locktime > self._post.clock.now() + REVEAL_SECONDS_MAX
            return "the offer would lock the coins for too long" if is_long else ""
        if terms.arbiter not in request.arbiters or Method.ESCROW not in request.settle:
            return "the agent offers an escrow with an arbiter that you did not name"
        if request.expires_at is not None and terms.deliver_by > request.expires_at:
            return "the agent would deliver too late"
        if escrow.signed is None or not check_acceptance(terms, escrow.signed):
            return "the arbiter has not signed the terms that the agent offers"
        if terms.arbiter_relays and not usable_relays(terms.arbiter_relays):
            return "none of the relays that the arbiter names can be used: a dispute would not reach it"
        return ""

    def _unsound(self, terms: Terms) -> str:
        if terms.mint not in self._post.wallet.mints:
            return f"the escrow would be at {terms.mint}, which this wallet does not use"
        try:
            check_agreement(terms, self._post.clock.now())
        except WrongTerms as error:
            return f"the terms of the escrow are not sound: {error}"
        return ""

    async def plan(self, row: OrderRow, offer: Offer, price_sat: int, escrow: Agreement | None) -> Plan:
        """Plan to lock coins for an offer without obstacles; waits for the mint until it or the order ends.

        Raises `WalletError` if we have no coins that will do.
        """
        assert offer.lock is not None
        if escrow is not None:
            lock = escrow.terms.lock
        else:
            lock = Lock(offer.lock, offer.locktime, (self.lock_key(row.lock_nonce).compressed_public_key,))
        until = min(row.deadline_at, offer.expires_at or row.deadline_at)
        return await self._patiently(lambda: self._plan(row, offer, lock, price_sat), until=until)

    async def _plan(self, row: OrderRow, offer: Offer, lock: Lock, price_sat: int) -> Plan:
        """At the mint of the offer where we have most."""
        common = [mint for mint in offer.mints if mint in self._post.wallet.mints]
        if not offer.mints:
            raise WalletError("the agent asks for money, but names no mint whose coins it takes")
        if not common:
            raise WalletError(
                f"the agent takes coins of {', '.join(offer.mints)}, and this wallet uses none of them: add one to "
                "`mints` (TRADEPOST_MINTS), then `tradepost wallet fund`"
            )
        balance = await self._post.wallet.balance()
        common.sort(key=lambda mint: -balance.get(mint, 0))
        return await self._post.wallet.plan_send(
            common[0], price_sat, lock=lock, op_id=f"order:{row.id}", purpose="pay for a job", job_id=row.id,
            include_fees=True, amounts=escrow_amounts(price_sat) if lock.pubkeys else None,
        )  # fmt: skip

    async def pay(self, order_id: str) -> None:
        """Lock the coins and send them. The operation was recorded with the state PAYING."""
        row = await queries.get_order(self._post.db, order_id)
        if row is None or row.op_id is None:
            return
        if is_by_invoice(row):
            event, paid_sat = await self.by_invoice.pay(row)
            await self._apply(row.id, event, paid_sat=paid_sat)
            return
        outcome = await self.settle(row.op_id)
        if outcome.token is None:
            impossible = PaymentImpossible(outcome.error or "the coins could not be locked")
            await self._with_escrow(order_id, impossible, NotFunded())
            return
        token, now, locktime = outcome.token, self._post.clock.now(), row.locktime
        payload = PaymentPayload(mint=token.mint, unit=token.unit, proofs=token.proofs, id=row.id)
        message = make_template(
            CHAT_MESSAGE,
            content=encode_payload(payload),
            tags=[("p", row.provider), ("e", row.id)],
            created_at=now,
        )
        envelope = await wrap(self._signer, row.provider, message, now=now)
        record = await order_record(self._post.seed, row, token, now=now)

        async def keep(tx: Transaction) -> None:
            await self._post.outbox.add(tx, record, until=locktime)

        async def send(tx: Transaction) -> None:
            if not await is_needed(tx, row.id, now):
                raise _NoNeed
            await keep(tx)
            await self._post.mailboxes.send(tx, envelope, row.provider, hint_in(row.request), until=locktime)

        paid_sat = outcome.sent_sat + outcome.fee_sat
        try:
            await self._with_escrow(order_id, CoinsLocked(), Funded(), also=send, paid_sat=paid_sat)
        except _NoNeed:  # nobody but us has the coins; what is in an escrow ends without a result
            await self._with_escrow(order_id, NotNeeded(), Funded(), also=keep, paid_sat=paid_sat)

    async def _with_escrow(
        self, order_id: str, event: OrderInput, news: EscrowInput, *, also: Also | None = None, **columns: Any
    ) -> None:
        """Move an order on, and in the same transaction its escrow, if it has one; again if a letter changed that."""
        while True:
            told = await self._desk.writes(order_id, news)

            async def write(tx: Transaction, told: Also | None = told) -> None:
                for more in (told, also):
                    if more is not None:
                        await more(tx)

            try:
                await self._apply(order_id, event, also=write, **columns)
            except Overtaken:
                await self._post.clock.sleep(0)  # so that the other's change is committed, and read then
            else:
                return

    async def reclaim(self, order_id: str) -> None:
        """After the locktime, take our locked coins back, unless the provider took them or sent a refund.

        Those of an escrow are its own business.
        """
        if await self._desk.get(order_id) is not None:
            return
        while (
            row := await queries.get_order(self._post.db, order_id)
        ) and row.state is OrderState.AWAITING_REFUND:
            wait_seconds = (row.locktime or 0) + 1 - self._post.clock.now()  # it must lie behind us (NUT-11)
            if wait_seconds > 0:
                await self._post.clock.sleep(wait_seconds)
                continue
            try:
                if await self._try_reclaim(row):
                    return
            except WalletError as error:  # the mint is down, or its clock is behind ours
                log.info("reclaim_later", order=row.id, reason=str(error))
            await self._post.clock.sleep(RECLAIM_RETRY_SECONDS)

    async def _try_reclaim(self, row: OrderRow) -> bool:
        """One try; True if the matter is settled. A name for each try, so that a restart finds the one under way."""
        assert row.op_id is not None
        if is_by_invoice(row):
            return await self._apply(row.id, MoneyGone())
        number = 0
        while await self._post.wallet.is_recorded(op_id := f"reclaim:{row.id}:{number}"):
            if await self._reclaimed(row, op_id):
                return True
            number += 1  # the mint refused that one
        try:
            plan = await self._post.wallet.plan_reclaim(
                row.op_id, op_id=op_id, purpose="take back an unclaimed payment",
                key=self.lock_key(row.lock_nonce), job_id=row.id,
            )  # fmt: skip
        except (AlreadySpent, InvalidToken):  # all of it, or all but less than the mint's fee
            return await self._apply(row.id, MoneyGone())
        async with self._post.db.transaction() as tx:
            await self._post.wallet.record(tx, plan)
        return await self._reclaimed(row, op_id)

    async def _reclaimed(self, row: OrderRow, op_id: str) -> bool:
        outcome = await self.settle(op_id)
        if outcome.state == State.FAILED:
            return False
        if outcome.state == State.DONE:
            return await self._apply(row.id, MoneyBack(), returned_sat=outcome.received_sat)
        return await self._apply(row.id, MoneyGone())

    async def plan_refund(self, row: OrderRow, token: Token, op_id: str) -> Plan:
        """Plan to take what an agent sent back.

        Raises `WalletError` if the coins are not good, and `NotNow` while their mint does not say.
        """
        keys = (self.lock_key(row.lock_nonce),)
        try:
            return await self._post.wallet.plan_redeem(
                token, keys=keys, op_id=op_id, purpose="money back", job_id=row.id
            )
        except (MintUnavailable, MintError) as error:
            raise NotNow(str(error)) from None

    async def settle_refund(self, order_id: str, op_id: str) -> None:
        """See a recorded refund through. Coins that were no good after all change nothing: we can still reclaim."""
        outcome = await self.settle(op_id)
        row = await queries.get_order(self._post.db, order_id)
        if row is None:
            return
        mint = row.mint or self._post.wallet.mints[0]
        # We locked the fee of redeeming on top. So the price was the agent's, less what the mint takes for making new
        # coins of it; and what it takes for our swap of these is gone as well.
        fees_sat = outcome.fee_sat + await self._patiently(
            partial(self._post.wallet.least_fee, mint, row.price_sat)
        )
        if outcome.state == State.DONE and outcome.received_sat >= row.price_sat - fees_sat:
            await self._apply(order_id, MoneyBack(), returned_sat=outcome.received_sat)
        else:  # what there was of it is ours; the locked coins are still waited for
            log.warning("refund_no_good", order=order_id, sat=outcome.received_sat, reason=outcome.error)

    async def settle(self, op_id: str) -> Outcome:
        """See a recorded operation through, however long its mint is away."""
        return await self._patiently(lambda: self._post.wallet.settle(op_id))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], *, until: int | None = None) -> T:
        """Try again while a mint does not answer. Raises `MintUnavailable` if the next try would come after `until`."""
        delay_seconds = 0.5
        while True:
            try:
                return await attempt()
            except MintUnavailable as error:
                log.warning("mint_unavailable", reason=str(error))
                if until is not None and self._post.clock.now() + delay_seconds > until:
                    raise
                await self._post.clock.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 60)
