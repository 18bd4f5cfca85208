"""Ecash that comes for jobs, from the moment it is stored to the moment it is ours, back at its sender, or refused.

Inbox: `payments` rows. Duty: each reaches a final state, whatever dies meanwhile. Coins that are still the sender's are
judged in `judging.py`, what goes back is made in `returns.py`, steps are written by `payment_book.py`.

    RECEIVED ── good, enough ──▶ REDEEMING ──▶ REDEEMED ── the work failed ──▶ RETURNING ──▶ RETURNED
        ├────── good, not wanted ─────────────────────────────────────────────▶ RETURNING
        └────── bad, or not ours to take ──▶ REFUSED

Coins that nobody can tell from invented ones are not asked about if they are for no job of ours, or for one that many
came for: they are refused, and leave no row. All that is looked at, or waits for a mint, has a place in its `room`.

One job takes one payment: accepting it moves the job from OFFERED to PAYING in the same transaction, and only one
payment can do that. The others are then judged anew, and go back.

Who holds the sats: in RECEIVED and REFUSED the sender (we have read the coins, not spent them); in REDEEMING and
RETURNING whoever the mint says, and `Wallet.settle` asks it after a crash; in REDEEMED we.
"""

import hashlib
from collections import defaultdict
from contextlib import suppress
from typing import Final

import structlog

from dvm import queries
from dvm.errors import Trouble
from dvm.escrow.desk import Overtaken
from dvm.escrow.parties import ProviderDesk
from dvm.jobs.gate import RequestGate
from dvm.jobs.judging import NotYet, PaymentJudging
from dvm.jobs.lifecycle import (
    PAYMENT_OPEN,
    JobState,
    MoneyReturned,
    PaymentRedeemed,
    PaymentState,
)
from dvm.jobs.payment_book import PaymentBook
from dvm.jobs.requests import Requests
from dvm.jobs.returns import PaymentReturns
from dvm.jobs.room import Neighbour, Room, Standing
from dvm.jobs.under_way import UnderWay
from dvm.post import Post
from dvm.queries import JobRow, PaymentRow
from identity import Signer
from relay_bridge import Delivery, NotNow
from store import Transaction
from wallet import (
    Action,
    MintError,
    MintUnavailable,
    Outcome,
    State,
    Token,
    WalletError,
    encode_token,
    parse_token,
)
from wallet.crypto import proof_y
from wallet.escrow import GivesBack
from wallet.ledger import unsettle

AT_ONE_MINT_MAX: Final = 400  # payments that are looked at, or wait for the mint

_NOBODY: Final = Neighbour("", Standing.STRANGER)  # for whom all is counted that pays for nothing we offer

log = structlog.get_logger(__name__)


class Payments:
    """The payments of one agent. `take` may be called for the same payment any number of times, also concurrently."""

    def __init__(
        self,
        post: Post,
        signer: Signer,
        requests: Requests,
        desk: ProviderDesk,
        *,
        book: PaymentBook,
        gate: RequestGate,
    ) -> None:
        self._desk = desk
        self._post = post
        self._agent = signer.public_key
        self._returns = PaymentReturns(post, signer, requests)
        self._book = book
        self._gate = gate
        self._rooms = defaultdict[str, Room](lambda: Room(AT_ONE_MINT_MAX))
        self._under_way = UnderWay()
        self._judging = PaymentJudging(
            post, self._agent, requests=requests, desk=desk, book=book, returns=self._returns
        )

    def new(self, token: Token, *, job_id: str, payer: str, public: bool) -> PaymentRow:
        """A payment as it is stored when it comes. Its id is made of the coins, so a repeated message is the same."""
        ys = sorted(proof_y(proof.secret) for proof in token.proofs)
        return PaymentRow(
            id=hashlib.sha256("|".join([self._agent, token.mint, *ys]).encode()).hexdigest(),
            agent=self._agent, job_id=job_id, payer=payer, public=public, state=PaymentState.RECEIVED,
            token=encode_token(token), amount_sat=0, op_id=None, reason="", created_at=self._post.clock.now(),
        )  # fmt: skip

    def room(self, mint: str) -> Room:
        """Where payments at a mint have their places until they have ended: none waits because another mint is away."""
        return self._rooms[mint if mint in self._post.wallet.mints else ""]

    async def receive(self, payment: PaymentRow, token: Token, delivery: Delivery) -> None:
        """Take in a new payment that came in a message, and go on with it.

        Raises `NotNow` if there is no place for it: the message waits, and holds nothing but its row.
        """
        who, room = await self._whose(payment), self.room(token.mint)
        if not room.has(who):
            raise NotNow(f"{AT_ONE_MINT_MAX} payments at {token.mint} are looked at already, or wait for it")
        with room.held(who):  # others come at the same time
            async with self._post.db.transaction() as tx:
                if not await queries.insert_payment(tx, payment):
                    log.info("payment_repeated", payment=payment.id, wrap=delivery.event.id)
                await delivery.done(tx)
            await self.begin(payment)

    async def begin(self, payment: PaymentRow) -> None:
        """Drive a payment that is on disk to its end, in a place of its own."""
        who = await self._whose(payment)
        room = self.room("" if payment.by_invoice else parse_token(payment.token).mint)
        ends = self.take(payment.id)
        if self._under_way.start(payment.id, ends, then=lambda: room.release(who)):
            room.take(who)

    async def stop(self) -> None:
        """Leave the rest to the next start."""
        await self._under_way.close()

    async def _whose(self, payment: PaymentRow) -> Neighbour:
        """For whom a payment has its place: not for whoever sent it, as wallets make a key for each payment."""
        job = await queries.get_job(self._post.db, self._agent, payment.job_id)
        if job is None or job.state not in (JobState.ARRANGING, JobState.OFFERED, JobState.PAYING):
            return _NOBODY
        return await self._gate.neighbour(self._post.db, job.customer)

    async def take(self, payment_id: str) -> None:
        """Drive one payment to its end, waiting for its mint as long as that takes."""
        delay_seconds = 0.5
        while True:
            payment = await queries.get_payment(self._post.db, payment_id)
            if payment is None or payment.state not in PAYMENT_OPEN:
                return
            try:
                await self._step(payment)
            except (MintUnavailable, MintError, NotYet) as error:
                log.info("payment_waits", payment=payment.id, state=payment.state, reason=str(error))
                await self._post.clock.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 60)

    async def pay_back(self, job_id: str) -> None:
        """Send back what was paid for a job that cannot be served, however long the mint is away."""
        delay_seconds = 0.5
        while (job := await queries.get_job(self._post.db, self._agent, job_id)) and not job.state.is_final:
            if also := await self._desk.writes(job_id, GivesBack()):
                with suppress(Overtaken):
                    await self._book.apply(job, MoneyReturned(), also=also)
                continue
            try:
                payment_id = await self._give_back(job)
            except WalletError as error:
                # The mint is down, or our coins are elsewhere just now: we still owe them.
                log.warning("return_waits", job=job_id, reason=str(error))
            else:
                if payment_id is None:
                    return
                await self.take(payment_id)
                payment = await queries.get_payment(self._post.db, payment_id)
                if payment is None or payment.state is not PaymentState.REDEEMED:
                    return  # else the mint refused, and we try again
            await self._post.clock.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 60)

    async def give_back_surplus(self, payment_id: str) -> None:
        """Send back what was paid for a job that was paid already, as change, however long the mint is away."""
        delay_seconds = 0.5
        while payment := await queries.get_payment(self._post.db, payment_id):
            job = await queries.get_job(self._post.db, payment.agent, payment.job_id)
            try:
                if payment.state is PaymentState.REDEEMED and job is not None:
                    plan = await self._returns.plan(job, payment)
                    await self._book.record(payment, PaymentState.RETURNING, plan)
                await self.take(payment_id)
            except WalletError as error:
                log.warning("return_waits", job=payment.job_id, reason=str(error))
            else:
                payment = await queries.get_payment(self._post.db, payment_id)
                if payment is None or payment.state is not PaymentState.REDEEMED:
                    return  # else the mint refused, and we try again
            await self._post.clock.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 60)

    async def _give_back(self, job: JobRow) -> str | None:
        """Begin to return what was redeemed for a job; returns the payment's id, None if there is nothing to return.

        Raises `MintUnavailable`; nothing is recorded then.
        """
        for payment in await queries.payments_of(self._post.db, job.agent, job.id):
            if payment.is_surplus:
                continue
            if payment.state is PaymentState.RETURNING and payment.was_ours:
                return payment.id  # not one that only passes through: another payment for the same job
            if payment.state is PaymentState.REDEEMED:
                plan = await self._returns.plan(job, payment)
                await self._book.record(payment, PaymentState.RETURNING, plan)
                return payment.id
        return None

    async def _step(self, payment: PaymentRow) -> None:
        job = await queries.get_job(self._post.db, payment.agent, payment.job_id)
        match payment.state:
            case PaymentState.RECEIVED:
                await self._judging.judge(payment, job)
            case PaymentState.REDEEMING:
                await self._finish_redeeming(payment, job)
            case PaymentState.RETURNING:
                await self._finish_returning(payment, job)
            case _:
                raise AssertionError(payment.state)

    async def _finish_redeeming(self, payment: PaymentRow, job: JobRow | None) -> None:
        outcome = await self._settle(payment)
        if outcome.state != "done":
            reason = outcome.error or "the mint did not take the coins"
            await self._book.refuse(payment, job, reason, Action.FUND, Trouble.PAYMENT_REFUSED)
            return
        change = await self._returns.wrap(payment, outcome.token, "change") if outcome.token else None

        async def write(tx: Transaction) -> None:
            now, received_sat = self._post.clock.now(), outcome.received_sat
            moved = await queries.update_payment(
                tx, payment, PaymentState.REDEEMED, now=now, amount_sat=received_sat
            )
            if moved:
                await self._book.post_settlement(tx, payment, received_sat)
            if change:
                await self._returns.send(tx, change, job)

        await self._book.write(job, PaymentRedeemed(), write)

    async def _finish_returning(self, payment: PaymentRow, job: JobRow | None) -> None:
        outcome = await self._settle(payment)
        if outcome.state == State.FAILED and payment.was_ours:
            # The mint would not make coins for the sender; ours are free again, and we still owe them.
            async with self._post.db.transaction() as tx:
                await queries.update_payment(tx, payment, PaymentState.REDEEMED, now=self._post.clock.now())
            return
        kind = "change" if payment.is_surplus else "refund"
        back = await self._returns.wrap(payment, outcome.token, kind) if outcome.token else None
        state = PaymentState.RETURNED if back else PaymentState.REFUSED

        async def write(tx: Transaction) -> None:
            reason = outcome.error or ""
            moved = await queries.update_payment(
                tx, payment, state, now=self._post.clock.now(), reason=reason
            )
            if back and moved:
                await self._returns.send(tx, back, job)
                await unsettle(tx, payment.id, job_id=payment.job_id, now=self._post.clock.now())

        is_jobs = payment.was_ours and not payment.is_surplus
        closes_job = is_jobs and job is not None and job.state is JobState.RETURNING
        await self._book.write(job if closes_job else None, MoneyReturned(), write)

    async def _settle(self, payment: PaymentRow) -> Outcome:
        assert payment.op_id is not None
        return await self._post.wallet.settle(payment.op_id)
