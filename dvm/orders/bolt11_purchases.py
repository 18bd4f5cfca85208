"""A customer's orders that are paid by the invoice of an offer, or of a result that was done on credit.

Inbox: orders in PAYING whose operation is a Lightning payment. Duty: each invoice is paid once, and whether it was
paid is decided by the rail's word alone, however long that takes.

What can be lost: all of it. A Lightning payment cannot be taken back; if no result comes, only the agent can return
the sats (as ecash of a mint of ours), and what it has not returned an hour after our patience ended counts as lost.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Final

import structlog

from dvm.nip90 import PREPAID, JobResult, Offer
from dvm.orders.lifecycle import CoinsLocked, PaymentImpossible
from dvm.post import Post
from dvm.queries import OrderRow
from store import Transaction
from wallet import PaidBefore, WalletError
from wallet.invoice import parse_invoice
from wallet.rails import Payment, SendState
from wallet.terms import Method

REFUND_SECONDS: Final = 3600
RETRY_SECONDS_FIRST: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0
DEBT_RETRY_SECONDS_FIRST: Final = 30  # after a payment that certainly failed
DEBT_RETRY_SECONDS_MAX: Final = 3600
WARNING: Final = "by Lightning: if no result comes, only the agent can send it back"

log = structlog.get_logger(__name__)


def is_by_invoice(row: OrderRow) -> bool:
    """Whether an order's payment is one by Lightning."""
    return row.op_id is not None and row.mint is None


def wants_invoice(settle: Sequence[str], offer: Offer, mints: Sequence[str]) -> bool:
    """Whether to pay an offer's invoice: the customer named that, and no ecash, or none that both sides use."""
    if Method.INVOICE not in settle or offer.bolt11 is None:
        return False
    return PREPAID not in settle or not set(offer.mints) & set(mints)


def obstacle(offer: Offer, now: int) -> str:
    """Why the invoice of an offer is not paid; empty if it is."""
    try:
        invoice = parse_invoice(offer.bolt11 or "")
    except WalletError as error:
        return f"the agent's invoice cannot be paid: {error}"
    if invoice.amount_msat != offer.price_msat:
        return f"the agent's invoice is over {invoice.amount_msat} msat, and its price is {offer.price_msat} msat"
    if invoice.expires_at <= now:
        return "the agent's invoice has expired"
    return ""


class Bolt11Purchases:
    """The Lightning payments of one customer."""

    def __init__(self, post: Post) -> None:
        self._post = post

    async def plan(self, row: OrderRow, offer: Offer) -> Payment:
        """Plan to pay an offer without obstacles. Raises `WalletError` if no rail of ours can."""
        return await self._post.lightning.plan_payment(f"order:{row.id}", offer.bolt11 or "", job_id=row.id)

    async def pay(self, row: OrderRow) -> tuple[CoinsLocked | PaymentImpossible, int]:
        """See a recorded payment through, however long nobody knows what became of it; also what it cost, in sat."""
        assert row.op_id is not None
        payment = await self._settled(row.op_id)
        if payment.state is SendState.PAID:
            return CoinsLocked(), -(-(payment.amount_msat + payment.fee_msat) // 1000)
        return PaymentImpossible(payment.error or "the invoice could not be paid"), 0

    async def debt(self, row: OrderRow, settle: Sequence[str], result: JobResult) -> Payment | None:
        """Plan to pay for what was done before it was paid, at most what the order may cost; None if nothing is owed.

        `settle`: how the customer said it would pay. Write the plan down with the result by `record`.
        """
        if row.op_id is not None or Method.INVOICE not in settle or result.bolt11 is None:
            return None
        offer = Offer(result.price_msat or 0, bolt11=result.bolt11)
        why_not = obstacle(offer, self._post.clock.now())
        if offer.price_msat > 1000 * row.max_sat:
            why_not = f"the agent asks {offer.price_msat} msat, your limit is {row.max_sat} sat"
        try:
            if not why_not:
                return await self._post.lightning.plan_payment(f"debt:{row.id}", result.bolt11, job_id=row.id)
        except WalletError as error:
            why_not = str(error)
        log.warning("debt_unpaid", order=row.id, reason=why_not, pay=_by_hand(result.bolt11))
        return None

    async def record(self, tx: Transaction, payment: Payment) -> None:
        """Decide for a payment in the caller's transaction."""
        await self._post.lightning.record(tx, payment)

    async def settle_debt(self, payment: Payment) -> None:
        """See it through; what certainly failed is tried again until the invoice expires, or somebody else has paid it.

        After a crash `Lightning.recover` sees the last try through, and the rest is for the command that is logged.
        """
        expires_at, wait_seconds = parse_invoice(payment.bolt11).expires_at, DEBT_RETRY_SECONDS_FIRST
        for number in count(1):
            settled = await self._settled(payment.name)
            if settled.state is SendState.PAID:
                return
            log.warning(
                "debt_unpaid", order=payment.job_id, reason=settled.error, pay=_by_hand(payment.bolt11)
            )
            if self._post.clock.now() + wait_seconds >= expires_at:
                return
            await self._post.clock.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, DEBT_RETRY_SECONDS_MAX)
            payment = replace(
                payment, name=f"debt:{payment.job_id}:{number}", created_at=self._post.clock.now()
            )
            try:
                async with self._post.db.transaction() as tx:
                    await self.record(tx, payment)
            except PaidBefore:
                return

    async def _settled(self, name: str) -> Payment:
        delay_seconds = RETRY_SECONDS_FIRST
        while not (payment := await self._post.lightning.settle(name)).state.is_final:
            await self._post.clock.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, RETRY_SECONDS_MAX)
        return payment


def _by_hand(bolt11: str) -> str:
    return f"tradepost wallet pay {bolt11}"
