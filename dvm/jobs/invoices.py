"""Lightning invoices for jobs: on offers, for people whose wallets know no ecash, and on results done on credit.

Inbox: `invoices` rows that are open, and hints (a wallet's notification, a zap receipt) that one was paid. Duty: what
is paid moves its job on, whenever it comes and whoever dies, and what is paid twice goes back.

    OPEN ── settled, the job waits for it (or was done on credit) ──▶ PAID
      ├──── settled, the job needs it no more ──▶ SURPLUS ──▶ RETURNED (as ecash, to the customer's key)
      └──── unpaid for a day after its expiry ──▶ EXPIRED

Only our own rail says that an invoice is settled. A zap receipt is signed by anybody; it makes us ask sooner.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from dvm import queries, queries_invoices
from dvm.jobs.gate import RequestGate
from dvm.jobs.lifecycle import PaymentRedeemed, PaymentState
from dvm.jobs.payment_book import PaymentBook
from dvm.jobs.payments import Payments
from dvm.limits import ProviderLimits
from dvm.nip90 import JobRequest
from dvm.post import Post
from dvm.queries import SURPLUS, JobRow, PaymentRow
from dvm.queries_invoices import InvoiceRow, InvoiceStage
from identity import Event
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Also, Transaction
from wallet import InvalidRequest, RailCannot, WalletError
from wallet.invoice import parse_invoice
from wallet.rails import InvoiceState, OwnInvoice, Wish
from wallet.terms import Method

ZAP_RECEIPT: Final = 9735
MAKE_SECONDS_MAX: Final = 5.0  # an offer waits no longer for its invoice, and goes out without
REST_SECONDS: Final = 30  # a rail that made none is left alone for so long
OPEN_MAX: Final = 500  # of one agent, that can be paid; what is offered beyond that carries none
STRANGERS_OPEN_MAX: Final = 375  # so many open ones, and only customers get more
ASKED_AT_ONCE: Final = 16
ASK_SECONDS_MAX: Final = 1800

log = structlog.get_logger(__name__)


class Invoices:
    """The invoices of one agent. `start` goes on with what an earlier process left."""

    def __init__(
        self,
        post: Post,
        agent: str,
        limits: ProviderLimits,
        *,
        payments: Payments,
        book: PaymentBook,
        gate: RequestGate,
    ) -> None:
        self._post = post
        self._agent = agent
        self._limits = limits
        self._payments = payments
        self._book = book
        self._gate = gate
        self._woken = asyncio.Event()
        self._resting_until = 0
        self._tasks = Tasks()
        self._making = Counter[str]()  # invoices of each customer that a rail is asked for
        self._zapped: dict[str, bool] = {}  # names of invoices that are being asked about: whether once more
        self._end_hints: Callable[[], None] | None = None

    async def start(self) -> None:
        """Ask about open invoices from now on, and see what is to go back on its way."""
        for row in await queries_invoices.surplus_invoices(self._post.db, self._agent):
            self._tasks.start(self._return(row), f"surplus {row.job_id}")
        self._end_hints = self._post.lightning.on_paid(self._on_hint)
        self._tasks.start(self._watch(), "invoices")

    async def stop(self) -> None:
        """Stop asking. Open invoices stay on disk."""
        if self._end_hints:
            self._end_hints()
        await self._tasks.close()

    # What is shown -------------------------------------------------------------------------------------------

    async def for_offer(self, job: JobRow, request: JobRequest) -> str | None:
        """The invoice for an offer, made now if there is none yet; None if none is wanted or can be made just now.

        Who says how it pays, and names no invoice, gets none: a mint's patience is not spent on it. Nor is there one
        where `rails` is empty.
        """
        if (request.settle and Method.INVOICE not in request.settle) or not self._post.lightning.rails:
            return None
        row = await queries_invoices.get_invoice(self._post.db, self._agent, job.id)
        beside_coins = any(method != Method.INVOICE for method in request.settle)
        row = row or await self._make(job, on_credit=False, beside_coins=beside_coins)
        return row.bolt11 if row else None

    async def for_result(self, job: JobRow) -> str | None:
        """The invoice of work that was done on credit."""
        row = await queries_invoices.get_invoice(self._post.db, self._agent, job.id)
        return row.bolt11 if row and row.on_credit else None

    async def carried(self, tx: Transaction, job: JobRow, event: Event) -> None:
        """Remember which offer or result carries the invoice: a zap would name it."""
        await queries_invoices.carry(tx, self._agent, job.id, event.id)

    async def on_credit(self, job: JobRow) -> bool:
        """Whether a job is done before it is paid. That is settled when it comes, and never changes."""
        row = await queries_invoices.get_invoice(self._post.db, self._agent, job.id)
        return row is not None and row.on_credit

    async def grant_credit(self, job: JobRow, request: JobRequest) -> bool:
        """Decide whether a new job is done first: its customer paid us at least as much before as it would owe us then.

        Credit is at most `credit_msat_max`, and there is none without an invoice that the result could carry.
        """
        if not self._limits.credit_msat_max or (request.settle and Method.INVOICE not in request.settle):
            return False
        row = await queries_invoices.get_invoice(self._post.db, self._agent, job.id)
        if row is None:
            async with self._post.db.transaction() as tx:
                if not await self._has_room(tx, job):
                    return False
            row = await self._make(job, on_credit=True)
        return row is not None and row.on_credit

    async def _has_room(self, tx: Transaction, job: JobRow) -> bool:
        owed_msat = await queries_invoices.owed_msat(tx, self._agent, job.customer)
        paid_msat = await queries_invoices.paid_msat(tx, self._agent, job.customer)
        return owed_msat + job.price_msat <= min(paid_msat, self._limits.credit_msat_max)

    async def _make(self, job: JobRow, *, on_credit: bool, beside_coins: bool = False) -> InvoiceRow | None:
        """Ask the rail, and keep what it made before anybody is shown it. One that is lost on the way costs nothing."""
        now, name = self._post.clock.now(), f"job:{self._agent}:{job.id}"
        if now < self._resting_until:
            return None
        if not await self._may_have_one(job.customer):
            log.warning("too_many_invoices", agent=self._agent)
            return None
        self._making[job.customer] += 1  # others come at the same time
        try:
            made = await self._ask_for(name, job, beside_coins=beside_coins)
            return await self._keep(job, made, on_credit=on_credit) if made else None
        finally:
            self._making -= Counter((job.customer,))

    async def _may_have_one(self, customer: str) -> bool:
        """Nobody has more than there is room left; what is being made counts."""
        is_customer = await self._gate.is_customer(self._post.db, customer)
        open_max, now = OPEN_MAX if is_customer else STRANGERS_OPEN_MAX, self._post.clock.now()
        total, own = await queries_invoices.count_payable(self._post.db, self._agent, customer, now)
        return own + self._making[customer] < open_max - total - self._making.total()

    async def _ask_for(self, name: str, job: JobRow, *, beside_coins: bool) -> OwnInvoice | None:
        wish = Wish(
            job.price_msat, description=f"job {job.id[:12]}", job_id=job.id, beside_coins=beside_coins
        )
        try:
            return await within(
                self._post.clock, MAKE_SECONDS_MAX, self._post.lightning.make_invoice(name, wish)
            )
        except RailCannot as error:  # not this one: nothing was asked of it
            log.info("no_invoice", job=job.id, reason=str(error))
        except (WalletError, TimeoutError) as error:
            self._resting_until = self._post.clock.now() + REST_SECONDS
            log.warning("no_invoice", job=job.id, reason=str(error))
        return None

    async def _keep(self, job: JobRow, made: OwnInvoice, *, on_credit: bool) -> InvoiceRow | None:
        assert made.bolt11 is not None
        assert made.payment_hash is not None
        now = self._post.clock.now()
        row = InvoiceRow(
            self._agent, job.id, job.customer, made.name, made.bolt11, made.payment_hash, job.price_msat, on_credit,
            InvoiceStage.OPEN, now, now + 1, made.expires_at or 0,
        )  # fmt: skip
        async with self._post.db.transaction() as tx:
            if on_credit and not await self._has_room(tx, job):  # another job of this customer was quicker
                row = replace(row, on_credit=False)
            await queries_invoices.insert_invoice(tx, row)
        self._woken.set()
        return row

    # What is paid --------------------------------------------------------------------------------------------

    async def on_zap(self, receipt: Event) -> None:
        """A zap receipt (NIP-57) that names us: a hint, whoever signed it.

        It counts when our own rail says that its invoice, one that we made, is settled: the job's own, or one that a
        zap endpoint of this post made for the offer or result that is zapped. Anybody can send any number of receipts:
        while one is looked into, all others for the same invoice make us ask once more after that, and end here.
        """
        try:
            payment_hash = parse_invoice(receipt.tag("bolt11") or "").payment_hash
        except InvalidRequest:
            return
        row = await queries_invoices.invoice_by_hash(self._post.db, self._agent, payment_hash)
        if row is None:
            zapped = await queries_invoices.invoice_by_event(
                self._post.db, self._agent, receipt.tag("e") or ""
            )
            own = await self._post.lightning.invoice_of(payment_hash) if zapped else None
            if zapped is None or own is None or own.amount_msat < zapped.price_msat:
                log.info("zap_ignored", receipt=receipt.id)
                return
            row = replace(zapped, name=own.name, bolt11=own.bolt11 or "", payment_hash=payment_hash)
        if row.name in self._zapped:
            self._zapped[row.name] = True
        elif row.state is InvoiceStage.OPEN:
            self._zapped[row.name] = True
            try:
                while self._zapped[row.name]:
                    self._zapped[row.name] = False
                    await self._ask(row)
            finally:
                del self._zapped[row.name]

    def _on_hint(self, payment_hash: str) -> None:
        self._tasks.start(self._ask_about(payment_hash), "invoice hint")

    async def _ask_about(self, payment_hash: str) -> None:
        row = await queries_invoices.invoice_by_hash(self._post.db, self._agent, payment_hash)
        if row is not None and row.state is InvoiceStage.OPEN:
            await self._ask(row)

    async def _watch(self) -> None:
        """Ask about each open invoice again and again, the older the more rarely."""
        while True:
            self._woken.clear()
            now = self._post.clock.now()
            due = await queries_invoices.due_invoices(self._post.db, self._agent, now, ASKED_AT_ONCE)
            await asyncio.gather(*(self._ask(row) for row in due))
            next_at = await queries_invoices.next_due(self._post.db, self._agent)
            if next_at is None:
                await self._woken.wait()
            elif next_at > now:
                with suppress(TimeoutError):
                    await within(self._post.clock, next_at - now, self._woken.wait())

    async def _ask(self, row: InvoiceRow) -> None:
        now = self._post.clock.now()
        try:
            seen = await self._post.lightning.look(row.name)
            if seen.state is InvoiceState.SETTLED and await self._take(row, seen):
                return
            if seen.state is InvoiceState.EXPIRED:
                async with self._post.db.transaction() as tx:
                    await queries_invoices.move_invoice(tx, row, InvoiceStage.EXPIRED)
                return
        except WalletError as error:
            log.info("invoice_waits", job=row.job_id, reason=str(error))
        ask_at = now + min(max((now - row.created_at) // 6, 1), ASK_SECONDS_MAX)
        async with self._post.db.transaction() as tx:
            await queries_invoices.ask_again(tx, row, ask_at)

    async def _take(self, row: InvoiceRow, seen: OwnInvoice) -> bool:
        """The money is ours: bring the job on, or see the money on its way back. False if that is to wait."""
        job = await queries.get_job(self._post.db, row.agent, row.job_id)
        if job is None:  # it was on no offer then
            log.warning("invoice_without_job", job=row.job_id)
            return False
        payment = self._payment(row, seen, "")
        try:
            paid = self._write(row, payment, InvoiceStage.PAID)
            if await self._book.apply(job, PaymentRedeemed(), also=paid):
                return True
            if row.on_credit:
                async with self._post.db.transaction() as tx:
                    await self._write(row, payment, InvoiceStage.PAID)(tx)
                return True
            surplus = self._payment(row, seen, SURPLUS)
            async with self._post.db.transaction() as tx:
                await self._write(row, surplus, InvoiceStage.SURPLUS)(tx)
        except _LaterError:
            return False
        log.warning("paid_twice", job=row.job_id, sat=surplus.amount_sat)
        self._tasks.start(self._return(row), f"surplus {row.job_id}")
        return True

    def _payment(self, row: InvoiceRow, seen: OwnInvoice, reason: str) -> PaymentRow:
        """What was paid, as the payment that it is from now on."""
        return PaymentRow(
            id=hashlib.sha256(f"{row.agent}|{row.payment_hash}".encode()).hexdigest(), agent=row.agent,
            job_id=row.job_id, payer=row.customer, public=False, state=PaymentState.REDEEMED, token=row.bolt11,
            amount_sat=seen.received_msat // 1000, op_id=None, reason=reason, created_at=self._post.clock.now(),
        )  # fmt: skip

    def _write(self, row: InvoiceRow, payment: PaymentRow, stage: InvoiceStage) -> Also:
        """What is written with the job's next state. Ecash that is being swapped is let through first."""

        async def write(tx: Transaction) -> None:
            if await queries_invoices.is_being_paid(tx, row.agent, row.job_id):
                raise _LaterError
            if not await queries_invoices.move_invoice(tx, row, stage):
                raise _LaterError
            if await queries_invoices.insert_paid(tx, payment):
                await self._book.post_settlement(tx, payment, payment.amount_sat)

        return write

    async def _return(self, row: InvoiceRow) -> None:
        payments = await queries.payments_of(self._post.db, row.agent, row.job_id)
        for payment in payments:
            if payment.is_surplus:
                await self._payments.give_back_surplus(payment.id)
        async with self._post.db.transaction() as tx:
            await queries_invoices.move_invoice(
                tx, replace(row, state=InvoiceStage.SURPLUS), InvoiceStage.RETURNED
            )


class _LaterError(Exception):
    """Something else about this job is under way."""
