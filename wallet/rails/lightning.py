"""Lightning for everybody above: invoices for us and payments by us, over whatever rails are configured.

Record, act, confirm: a row is written before a rail is asked, and closed when the rail said what became of it. After a
crash `recover` asks about what is open. What a rail does not know stays open; nothing is ever paid again to be sure.

    invoice:  ASKED ──▶ OPEN ──▶ SETTLED          payment:  RECORDED ──▶ ASKED ──▶ PAID
                          └────▶ EXPIRED ─▶ SETTLED                        └─────▶ FAILED
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

import structlog

from store import Clock, Database, Transaction
from wallet import queries_rails
from wallet.errors import InvalidRequest, PaidBefore, RailCannot, RailUnavailable, WalletError
from wallet.invoice import parse_invoice
from wallet.ledger import FEES_LIGHTNING, Cause, Posting, counter_account, post
from wallet.queries_rails import InvoiceState, OwnInvoice, Payment, SendState
from wallet.rails.rail import Made, Rail, RailLimits, Seen, Sent, Verdict, Wish

GRACE_SECONDS: Final = 86_400  # how long after its expiry an unpaid invoice is still asked about

Heard = Callable[[str], None]
log = structlog.get_logger(__name__)


class Lightning:
    """The rails of one post, in order of preference. Safe for any number of concurrent callers on one loop.

    A `name` is the caller's own, unique among invoices or among payments: the same name never makes two invoices that
    anybody sees, and never pays twice.
    """

    def __init__(self, db: Database, clock: Clock, rails: Sequence[Rail] = ()) -> None:
        """`db` must hold the migrations of `wallet`. Call `recover` at start."""
        self._db = db
        self._clock = clock
        self._rails = {rail.name: rail for rail in rails}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._listeners: dict[object, Heard] = {}
        self._started = False

    def add(self, rail: Rail) -> None:
        """One more rail, the last of those there are; in place of the one of that name."""
        self._rails[rail.name] = rail

    @property
    def rails(self) -> tuple[Rail, ...]:
        """In order of preference."""
        return tuple(self._rails.values())

    async def recover(self) -> list[str]:
        """Find out about every payment that is open, and look at every invoice that is.

        Invoices for jobs are looked at the first time only: whoever does the job asks for them. Returns the names of
        payments that stay open because their rail does not know; call again later.
        """
        for name in await queries_rails.open_payments(self._db):
            try:
                await self.settle(name)
            except WalletError as error:
                log.warning("payment_unsettled", name=name, reason=str(error))
        of_jobs, self._started = not self._started, True
        for name in await queries_rails.open_invoices(self._db, of_jobs=of_jobs):
            try:
                await self.look(name)
            except WalletError as error:
                log.warning("invoice_unsettled", name=name, reason=str(error))
        return await queries_rails.open_payments(self._db)

    # Money for us --------------------------------------------------------------------------------------------

    async def make_invoice(self, name: str, wish: Wish) -> OwnInvoice:
        """An invoice for us; the one made before, if the name is known.

        Raises `RailCannot` with what every rail says against it, before any is asked; `RailUnavailable`,
        `RailRefused`, `MintUnavailable`; `InvalidRequest` if the rail made another invoice than asked for.
        """
        async with self._lock("invoice", name):
            known = await queries_rails.invoice(self._db, name)
            if known is not None and known.bolt11 is not None:
                return known
            rail = await self._able("make this invoice", lambda limits: limits.obstacle_to_make(wish))
            if known is None:
                now = self._clock.now()
                row = OwnInvoice(name, rail.name, InvoiceState.ASKED, wish.amount_msat, wish.job_id, now)
                async with self._db.transaction() as tx:
                    await queries_rails.insert_invoice(tx, row)
            made = await rail.make_invoice(wish)
            await self._keep(name, rail, wish, made)
            kept = await queries_rails.invoice(self._db, name)
            assert kept is not None
            return kept

    async def _keep(self, name: str, rail: Rail, wish: Wish, made: Made) -> None:
        invoice = parse_invoice(made.bolt11)
        if invoice.amount_msat != wish.amount_msat or (
            wish.description_hash and invoice.description_hash != wish.description_hash
        ):
            raise InvalidRequest(
                f"the rail {rail.name} made another invoice than asked for; it was thrown away"
            )
        async with self._db.transaction() as tx:
            await queries_rails.open_invoice(
                tx, name, rail=rail.name, handle=made.handle, bolt11=made.bolt11,
                payment_hash=invoice.payment_hash, expires_at=invoice.expires_at,
            )  # fmt: skip

    async def look(self, name: str) -> OwnInvoice:
        """Ask an invoice's rail where it stands, whatever its expiry; one that is settled answers at once.

        Settled counts: the money is ours when this returns. Raises `WalletError` if there is no such invoice,
        `RailUnavailable`, `RailRefused`, `MintUnavailable`.
        """
        async with self._lock("invoice", name):
            invoice = await queries_rails.invoice(self._db, name)
            if invoice is None or invoice.handle is None:
                raise WalletError(f"there is no invoice {name} here")
            if invoice.state is InvoiceState.SETTLED:
                return invoice
            rail = self._rail(invoice.rail)
            seen = await rail.look(invoice.handle)
            if seen.settled and seen.received_msat < invoice.amount_msat:
                log.error("invoice_underpaid", name=name, rail=rail.name, msat=seen.received_msat)
                raise RailUnavailable(
                    f"the rail {rail.name} says that less was paid than its invoice asks for"
                )
            await self._note(invoice, rail, seen)
            looked = await queries_rails.invoice(self._db, name)
            assert looked is not None
            return looked

    async def _note(self, invoice: OwnInvoice, rail: Rail, seen: Seen) -> None:
        now, name = self._clock.now(), invoice.name
        async with self._db.transaction() as tx:
            if seen.settled:
                paid = await queries_rails.settle_invoice(
                    tx, name, received_msat=seen.received_msat, preimage=seen.preimage, now=now
                )
                if paid:
                    booked = {rail.account: seen.received_msat}
                    await _book(tx, f"lightning-in:{name}", booked, invoice.job_id, now)
            elif now > (invoice.expires_at or 0) + GRACE_SECONDS:
                await queries_rails.expire_invoice(tx, name)

    async def invoice_of(self, payment_hash: str) -> OwnInvoice | None:
        """The one of our invoices with this payment hash."""
        return await queries_rails.invoice_of(self._db, payment_hash)

    def on_paid(self, heard: Heard) -> Callable[[], None]:
        """Call `heard(payment_hash)` when a rail hears that an invoice was paid: a hint, `look` tells.

        Returns what ends it.
        """
        token = object()
        self._listeners[token] = heard

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    def hear(self, payment_hash: str) -> None:
        """Pass on such a hint. Called by rails whose wallet sends notifications."""
        for heard in list(self._listeners.values()):
            heard(payment_hash)

    # Money of ours -------------------------------------------------------------------------------------------

    async def plan_payment(
        self, name: str, bolt11: str, *, fee_max_msat: int | None = None, job_id: str | None = None
    ) -> Payment:
        """Choose the rail for a payment; nothing is asked of anybody but what it can do.

        `fee_max_msat` bounds what routing may cost. Raises `InvalidRequest` for an invoice that is none or has expired,
        `PaidBefore`, `RailCannot`.
        """
        invoice = parse_invoice(bolt11)
        if (known := await queries_rails.payment(self._db, name)) is not None:
            return known
        now = self._clock.now()
        if invoice.expires_at <= now:
            raise InvalidRequest("the invoice has expired; ask for a new one")
        rail = await self._able("pay this invoice", lambda limits: limits.obstacle_to_pay(fee_max_msat))
        return Payment(
            name, rail.name, SendState.RECORDED, bolt11, invoice.payment_hash, invoice.amount_msat, fee_max_msat,
            job_id, now,
        )  # fmt: skip

    async def record(self, tx: Transaction, payment: Payment) -> None:
        """Decide for a payment inside the caller's transaction: once that commits, `settle` may pay it.

        Raises `PaidBefore` if a payment of the same payment hash is under way or done; undo the transaction then.
        """
        if await queries_rails.insert_payment(tx, payment):
            return
        known = await queries_rails.payment(tx, payment.name)
        if known is None or known.payment_hash != payment.payment_hash:
            raise PaidBefore(
                "this invoice was paid already, or is being paid; `tradepost settle` tells its end"
            )

    async def settle(self, name: str) -> Payment:
        """Drive a recorded payment on; one that ended answers at once. Idempotent, safe concurrently.

        The state is PAID, FAILED (certainly not made), or ASKED: nobody knows yet, `error` says why, settle again
        later. Raises `WalletError` if there is none, or its rail is not configured any more.
        """
        async with self._lock("payment", name):
            payment = await queries_rails.payment(self._db, name)
            if payment is None:
                raise WalletError(f"payment {name} was never recorded; plan and record it first")
            if payment.state.is_final:
                return payment
            rail, again = self._rail(payment.rail), payment.state is SendState.ASKED
            if not again:
                async with self._db.transaction() as tx:
                    await queries_rails.ask_payment(tx, name)
            sent = await rail.pay(payment, again=again)
            await self._close(payment, rail, sent)
            settled = await queries_rails.payment(self._db, name)
            assert settled is not None
            return settled

    async def pay(self, name: str, bolt11: str, *, fee_max_msat: int | None = None) -> Payment:
        """Plan, record and settle in one go. Raises as these."""
        payment = await self.plan_payment(name, bolt11, fee_max_msat=fee_max_msat)
        async with self._db.transaction() as tx:
            await self.record(tx, payment)
        return await self.settle(name)

    async def _close(self, payment: Payment, rail: Rail, sent: Sent) -> None:
        async with self._db.transaction() as tx:
            if sent.verdict is Verdict.UNKNOWN:
                log.warning("payment_unknown", name=payment.name, rail=rail.name, reason=sent.error)
                await queries_rails.note_payment(tx, payment.name, sent.error)
                return
            now = self._clock.now()
            state = SendState.PAID if sent.verdict is Verdict.PAID else SendState.FAILED
            closed = await queries_rails.close_payment(
                tx, payment.name, state, fee_msat=sent.fee_msat, preimage=sent.preimage, error=sent.error,
                now=now,
            )  # fmt: skip
            if closed and state is SendState.PAID:
                gone = {rail.account: -payment.amount_msat - sent.fee_msat, FEES_LIGHTNING: sent.fee_msat}
                await _book(tx, f"lightning-out:{payment.name}", gone, payment.job_id, now)

    # Rails ---------------------------------------------------------------------------------------------------

    async def _able(self, what: str, obstacle: Callable[[RailLimits], str]) -> Rail:
        """The first rail that can. Raises `RailCannot`; what a rail raises when it is the only one."""
        reasons = []
        for rail in self._rails.values():
            try:
                reason = obstacle(await rail.limits())
            except WalletError as error:
                if len(self._rails) == 1:
                    raise
                reason = str(error)
            if not reason:
                return rail
            reasons.append(f"{rail.name}: {reason}")
        raise RailCannot(
            f"no Lightning rail of this post can {what} ({'; '.join(reasons) or 'there is none'})"
        )

    def _rail(self, name: str) -> Rail:
        if name not in self._rails:
            raise WalletError(
                f"the rail {name} is not configured any more; name it in `rails` of tradepost.yaml"
            )
        return self._rails[name]

    def _lock(self, kind: str, name: str) -> asyncio.Lock:
        return self._locks.setdefault(f"{kind}:{name}", asyncio.Lock())


async def _book(
    tx: Transaction, posting_id: str, moved: dict[str | None, int], job_id: str | None, now: int
) -> None:
    """Post what moved, account → msat, against its job. A rail without an account books by itself."""
    if None in moved:
        return
    entries = {account: msat for account, msat in moved.items() if account and msat}
    entries[counter_account(job_id)] = -sum(entries.values())
    await post(tx, Posting(posting_id, Cause.LIGHTNING, entries, now, None, job_id))
