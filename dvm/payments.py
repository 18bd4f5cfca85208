"""Ecash that comes for jobs, from the moment it is stored to the moment it is ours, back at its sender, or refused.

Inbox: `payments` rows. Duty: each reaches a final state, whatever dies meanwhile.

    RECEIVED ── good, enough ──▶ REDEEMING ──▶ REDEEMED ── the work failed ──▶ RETURNING ──▶ RETURNED
        ├────── good, not wanted ─────────────────────────────────────────────▶ RETURNING
        └────── bad, or not ours to take ──▶ REFUSED

One job takes one payment: accepting it moves the job from OFFERED to PAYING in the same transaction, and only one
payment can do that. The others are then judged anew, and go back.

Who holds the sats: in RECEIVED and REFUSED the sender (we have read the coins, not spent them); in REDEEMING and
RETURNING whoever the mint says, and `Wallet.settle` asks it after a crash; in REDEEMED we.
"""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import structlog

from dvm import queries
from dvm.escrow_desk import Overtaken
from dvm.escrow_parties import ProviderDesk, provider_key
from dvm.lifecycle import (
    PAYMENT_OPEN,
    CoinsHeld,
    JobInput,
    JobState,
    MoneyReturned,
    PaymentAccepted,
    PaymentLost,
    PaymentRedeemed,
    PaymentRefused,
    PaymentReturning,
    PaymentState,
    judge_payment,
)
from dvm.nip90 import JobRequest
from dvm.post import Post
from dvm.queries import JobRow, PaymentRow
from dvm.requests import Requests
from identity import Event, SecretKey, Signer, make_template
from identity.nip59 import wrap
from relay_bridge import usable_relays
from store import Transaction
from wallet import (
    Action,
    AlreadySpent,
    InsufficientFunds,
    Lock,
    MintUnavailable,
    Outcome,
    Plan,
    State,
    Token,
    WalletError,
    WrongLock,
    encode_token,
    parse_lock,
    parse_token,
)
from wallet.crypto import proof_y
from wallet.errors import WrongTerms
from wallet.escrow import GivesBack, Stage
from wallet.escrows import Also
from wallet.ledger import counter_account, post_found, settle, unsettle
from wallet.terms import Method

log = structlog.get_logger(__name__)

CHAT_MESSAGE = 14  # NIP-17: what both wallets (NUT-18) and people's clients read inside a gift wrap
RETURN_FEE_SAT_MAX = 8
REQUEST_SECONDS_MAX = 30  # a payment waits so long for its request: after a restore they come in any order


class ApplyToJob(Protocol):
    """Moves a job on, together with the caller's own writes (`Provider.apply`)."""

    async def __call__(
        self, job: JobRow, event: JobInput, *, also: Callable[[Transaction], Awaitable[None]] | None = None
    ) -> JobRow | None:
        """What the job is now; None if it has no such step to take: `also` was then not written."""
        ...


class Payments:
    """The payments of one agent. `take` may be called for the same payment any number of times, also concurrently."""

    def __init__(
        self,
        post: Post,
        signer: Signer,
        requests: Requests,
        desk: ProviderDesk,
        apply: ApplyToJob,
    ) -> None:
        self._desk = desk
        self._post = post
        self._signer = signer
        self.limits = desk.limits
        self._requests = requests
        self._apply = apply

    def job_key(self, request_id: str) -> SecretKey:
        """Our one-job key for a request: what its payment is locked to. Derived, so nothing is lost with a crash."""
        return provider_key(self._post, self._signer.public_key, request_id)

    def agreed_lock(self, request: JobRequest, locktime: int | None) -> Lock:
        """The one lock we accept for a request: to us, and back to the customer after the locktime if it gave a key."""
        key = self.job_key(request.id).compressed_public_key
        if request.lock is None or locktime is None:
            return Lock(key)
        return Lock(key, locktime=locktime, refund=(request.lock,))

    def new(self, token: Token, *, job_id: str, payer: str, public: bool) -> PaymentRow:
        """A payment as it is stored when it comes. Its id is made of the coins, so a repeated message is the same."""
        agent = self._signer.public_key
        ys = sorted(proof_y(proof.secret) for proof in token.proofs)
        return PaymentRow(
            id=hashlib.sha256("|".join([agent, token.mint, *ys]).encode()).hexdigest(),
            agent=agent, job_id=job_id, payer=payer, public=public, state=PaymentState.RECEIVED,
            token=encode_token(token), amount_sat=0, op_id=None, reason="", created_at=self._post.clock.now(),
        )  # fmt: skip

    async def take(self, payment_id: str) -> None:
        """Drive one payment to its end, waiting for its mint as long as that takes."""
        delay_seconds = 0.5
        while True:
            payment = await queries.get_payment(self._post.db, payment_id)
            if payment is None or payment.state not in PAYMENT_OPEN:
                return
            try:
                await self._step(payment)
            except (MintUnavailable, _LaterError) as error:
                log.info("payment_waits", payment=payment.id, state=payment.state, reason=str(error))
                await self._post.clock.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 60)

    async def pay_back(self, job_id: str) -> None:
        """Send back what was paid for a job that cannot be served, however long the mint is away."""
        delay_seconds = 0.5
        while (
            job := await queries.get_job(self._post.db, self._signer.public_key, job_id)
        ) and not job.state.is_final:
            if also := await self._desk.writes(job_id, GivesBack()):
                with suppress(Overtaken):
                    await self._apply(job, MoneyReturned(), also=also)
                continue
            try:
                payment_id = await self._give_back(job)
            except (
                WalletError
            ) as error:  # the mint is down, or our coins are elsewhere just now: we still owe them
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
                    plan = await self._plan_refund(job, payment)
                    await self._record(payment, PaymentState.RETURNING, plan)
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
                plan = await self._plan_refund(job, payment)
                await self._record(payment, PaymentState.RETURNING, plan)
                return payment.id
        return None

    async def _step(self, payment: PaymentRow) -> None:
        job = await queries.get_job(self._post.db, payment.agent, payment.job_id)
        match payment.state:
            case PaymentState.RECEIVED:
                await self._judge(payment, job)
            case PaymentState.REDEEMING:
                await self._finish_redeeming(payment, job)
            case PaymentState.RETURNING:
                await self._finish_returning(payment, job)
            case _:
                raise AssertionError(payment.state)

    # RECEIVED ------------------------------------------------------------------------------------------------

    async def _judge(self, payment: PaymentRow, job: JobRow | None) -> None:
        """Look at coins that are still the sender's, and record what is to be done with them."""
        if job is not None and job.state is JobState.PAYING:
            # Another payment is being swapped; it may yet turn out to be no good.
            raise _LaterError("another payment for the same job is under way")
        now = self._post.clock.now()
        token = parse_token(payment.token)
        if job is None and self._is_for_us(token, payment) and now < payment.created_at + REQUEST_SECONDS_MAX:
            raise _LaterError("the request it pays for has not come yet")
        try:
            escrow = await self._desk.get(payment.job_id)
            if job is not None and escrow is not None and escrow.stage is Stage.AGREED:
                also = await self._desk.funded(escrow, token, payment.token)
                await self._hold(payment, job, also, sealed=escrow.terms.method is Method.REVEAL)
                return
            lock = await self._expected_lock(token, job, now)
            good = await self._post.wallet.examine(token, mint=token.mint, lock=lock, now=now)
            price_sat = job.price_sat if job else 0
            request = await self._request(job)
            verdict = judge_payment(
                job.state if job else None, net_sat=good.net_sat, price_sat=price_sat,
                least_fee_sat=await self._post.wallet.least_fee(token.mint, price_sat),
                expired=request is not None and request.is_expired(now),
            )  # fmt: skip
            keys = (self.job_key(payment.job_id),)
            if job is not None and verdict.state is PaymentState.REDEEMING:
                plan = await self._plan_taking(payment, job, token, keys, good.net_sat - price_sat)
                await self._record(payment, verdict.state, plan, job, PaymentAccepted())
                return
            plan = await self._post.wallet.plan_return(
                token, keys=keys, lock=await self._refund_lock(payment, job), op_id=f"return:{payment.id}",
                purpose="return a payment", job_id=payment.job_id, ask_first=False,
            )  # fmt: skip
        except MintUnavailable:
            if now < payment.created_at + self.limits.payment_check_seconds_max:
                raise
            await self._refuse(
                payment, job, "the mint could not be reached to check the payment", Action.RETRY_AFTER
            )
        except WrongLock as error:
            await self._return_misfit(payment, job, token, error)
        except AlreadySpent as error:
            await self._judge_spent(payment, job, token, error)
        except WalletError as error:
            await self._refuse(payment, job, str(error), error.action)
        else:
            ends_job = job is not None and payment.payer == job.customer
            await self._record(
                payment, verdict.state, plan, job, PaymentReturning(verdict.reason, verdict.action, ends_job)
            )

    async def _hold(self, payment: PaymentRow, job: JobRow, also: Also | None, *, sealed: bool) -> None:
        """The coins of an escrow are good: from this commit on they are the escrow's, and the work begins.

        If it is done and `sealed`, the key is sold for them. Raises `WrongTerms` if that is not possible any more.
        """
        if also is None:
            raise WrongTerms("the coins came too late for this escrow; take them back after their locktime")

        async def write(tx: Transaction) -> None:
            if not await queries.update_payment(tx, payment, PaymentState.HELD, now=self._post.clock.now()):
                raise _OvertakenError
            await also(tx)

        try:
            if await self._apply(job, CoinsHeld(sealed), also=write):
                return
            if sealed:
                raise WrongTerms(
                    "the sealed result is not for sale any more; take the coins back after their locktime"
                )
            async with self._post.db.transaction() as tx:
                await write(tx)
        except (_OvertakenError, Overtaken):
            return
        await self._desk.happens(job.id, GivesBack())  # the job ended meanwhile

    async def _judge_spent(
        self, payment: PaymentRow, job: JobRow | None, token: Token, error: AlreadySpent
    ) -> None:
        """Spent coins are no payment, unless we spent them ourselves and then lost the database: the mint shows how.

        What was too little for the job we sent back then, as we did with all beyond its price.
        """
        net_sat = await self._post.wallet.redeemed_by(token, self.job_key(payment.job_id))
        if (
            job is None
            or net_sat is None
            or net_sat < job.price_sat - await self._post.wallet.least_fee(token.mint, job.price_sat)
        ):
            await self._refuse(payment, job, str(error), error.action)
            return
        kept_sat = min(net_sat, job.price_sat)

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            if await queries.update_payment(tx, payment, PaymentState.REDEEMED, now=now, amount_sat=kept_sat):
                await post_found(tx, payment.id, kept_sat, job_id=payment.job_id, now=now)
                await self.post_settlement(tx, payment, kept_sat)

        log.warning("payment_redeemed_before", payment=payment.id, job=payment.job_id, sat=kept_sat)
        if not await self._apply(job, PaymentRedeemed(), also=write):
            async with self._post.db.transaction() as tx:
                await write(tx)

    def _is_for_us(self, token: Token, payment: PaymentRow) -> bool:
        """Whether the coins are locked to our key for that job: then we offered to do it, whatever we remember."""
        ours = self.job_key(payment.job_id).compressed_public_key
        try:
            locks = [parse_lock(proof.secret) for proof in token.proofs]
        except WrongLock:
            return False
        return all(lock is not None and lock.pubkey == ours for lock in locks)

    async def _return_misfit(
        self, payment: PaymentRow, job: JobRow | None, token: Token, error: WrongLock
    ) -> None:
        """Coins with another lock than agreed go back if we alone can spend them; else nothing was taken."""
        key = self.job_key(payment.job_id)
        try:
            locks = {parse_lock(proof.secret) for proof in token.proofs}
            if any(lock and lock.refund for lock in locks):
                raise error  # the sender can take them back by itself
            plan = await self._post.wallet.plan_return(
                token, keys=(key,), lock=await self._refund_lock(payment, job), op_id=f"return:{payment.id}",
                purpose="return a payment", job_id=payment.job_id,
            )  # fmt: skip
        except MintUnavailable:
            raise
        except WalletError:
            await self._refuse(payment, job, str(error), error.action)
            return
        ends_job = job is not None and payment.payer == job.customer
        told = PaymentReturning(str(error), error.action, ends_job)
        await self._record(payment, PaymentState.RETURNING, plan, job, told)

    async def _expected_lock(self, token: Token, job: JobRow | None, now: int) -> Lock | None:
        """The lock these coins must have: none at all, or exactly the agreed one. Raises `WrongLock` when too late."""
        locks = {parse_lock(proof.secret) for proof in token.proofs}
        request = await self._request(job)
        if job is None or request is None or locks == {None}:
            return None
        ours_alone = Lock(self.job_key(job.id).compressed_public_key)
        if locks == {ours_alone}:  # from a wallet that read the key of the offer and not its terms
            return ours_alone
        # Any locktime will do that leaves us the time: after a restore it may be that of an offer we have forgotten.
        lock = self.agreed_lock(
            request, next((lock.locktime for lock in locks if lock), None) or job.locktime
        )
        if lock.locktime is not None and now > lock.locktime - self.limits.locktime_margin_seconds:
            raise WrongLock("the payment came too late to be safe; take it back after its locktime")
        return lock

    async def _plan_taking(
        self, payment: PaymentRow, job: JobRow, token: Token, keys: tuple[SecretKey, ...], change_sat: int
    ) -> Plan:
        """Of coins that were examined a moment ago."""
        if change_sat >= self.limits.change_sat_min:
            return await self._post.wallet.plan_return(
                token, keys=keys, lock=await self._refund_lock(payment, job), op_id=f"redeem:{payment.id}",
                purpose="job payment with change", job_id=job.id, keep_sat=job.price_sat, ask_first=False,
            )  # fmt: skip
        return await self._post.wallet.plan_redeem(
            token,
            keys=keys,
            op_id=f"redeem:{payment.id}",
            purpose="job payment",
            job_id=job.id,
            ask_first=False,
        )

    async def _record(
        self,
        payment: PaymentRow,
        state: PaymentState,
        plan: Plan,
        job: JobRow | None = None,
        told: JobInput | None = None,
    ) -> None:
        """Decide for `plan`: from this commit on, the money moves, whoever dies.

        If the job was faster (another payment was accepted meanwhile) nothing is recorded: the payment is judged anew.
        """

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            if not await queries.update_payment(tx, payment, state, now=now, op_id=plan.op_id):
                raise _OvertakenError
            await self._post.wallet.record(tx, plan)

        try:
            moved = job is not None and told is not None and await self._apply(job, told, also=write)
            if not moved and isinstance(told, PaymentAccepted):
                raise _OvertakenError
            if not moved:
                async with self._post.db.transaction() as tx:
                    await write(tx)
        except _OvertakenError:
            await self._post.wallet.release(plan)
        except BaseException:
            await self._post.wallet.release(plan)
            raise

    async def _refuse(self, payment: PaymentRow, job: JobRow | None, reason: str, action: Action) -> None:
        log.info("payment_refused", payment=payment.id, job=payment.job_id, reason=reason)

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            await queries.update_payment(tx, payment, PaymentState.REFUSED, now=now, reason=reason)

        # Only the payment that was accepted, the one in REDEEMING, moves a job that is PAYING.
        tell = PaymentLost if payment.state is PaymentState.REDEEMING else PaymentRefused
        told = tell(reason, action, ends_job=job is not None and payment.payer == job.customer)
        if job is None or not await self._apply(job, told, also=write):
            async with self._post.db.transaction() as tx:
                await write(tx)

    # REDEEMING, RETURNING ------------------------------------------------------------------------------------

    async def _finish_redeeming(self, payment: PaymentRow, job: JobRow | None) -> None:
        outcome = await self._settle(payment)
        if outcome.state != "done":
            await self._refuse(payment, job, outcome.error or "the mint did not take the coins", Action.FUND)
            return
        change = await self._wrap(payment, outcome.token, "change") if outcome.token else None

        async def write(tx: Transaction) -> None:
            moved = await queries.update_payment(
                tx,
                payment,
                PaymentState.REDEEMED,
                now=self._post.clock.now(),
                amount_sat=outcome.received_sat,
            )
            if moved:
                await self.post_settlement(tx, payment, outcome.received_sat)
            if change:
                await self._send(tx, change, job)

        if job is None or not await self._apply(job, PaymentRedeemed(), also=write):
            async with self._post.db.transaction() as tx:
                await write(tx)

    async def _finish_returning(self, payment: PaymentRow, job: JobRow | None) -> None:
        outcome = await self._settle(payment)
        if outcome.state == State.FAILED and payment.was_ours:
            # The mint would not make coins for the sender; ours are free again, and we still owe them.
            async with self._post.db.transaction() as tx:
                await queries.update_payment(tx, payment, PaymentState.REDEEMED, now=self._post.clock.now())
            return
        kind = "change" if payment.is_surplus else "refund"
        back = await self._wrap(payment, outcome.token, kind) if outcome.token else None
        state = PaymentState.RETURNED if back else PaymentState.REFUSED

        async def write(tx: Transaction) -> None:
            reason = outcome.error or ""
            moved = await queries.update_payment(
                tx, payment, state, now=self._post.clock.now(), reason=reason
            )
            if back and moved:
                await self._send(tx, back, job)
                await unsettle(tx, payment.id, job_id=payment.job_id, now=self._post.clock.now())

        is_jobs = payment.was_ours and not payment.is_surplus
        closes_job = is_jobs and job is not None and job.state is JobState.RETURNING
        if job is None or not closes_job or not await self._apply(job, MoneyReturned(), also=write):
            async with self._post.db.transaction() as tx:
                await write(tx)

    async def post_settlement(self, tx: Transaction, payment: PaymentRow, amount_sat: int) -> None:
        """What came for a job becomes the agent's, less the post's cut. Written with the payment's end, and once."""
        await settle(
            tx, payment.id, source_account=counter_account(payment.job_id), agent=payment.agent,
            amount_msat=1000 * amount_sat, fee_bps=self.limits.fee_bps, op_id=payment.op_id, job_id=payment.job_id,
            now=self._post.clock.now(),
        )  # fmt: skip

    async def _settle(self, payment: PaymentRow) -> Outcome:
        assert payment.op_id is not None
        return await self._post.wallet.settle(payment.op_id)

    # What goes back ------------------------------------------------------------------------------------------

    async def _plan_refund(self, job: JobRow, payment: PaymentRow) -> Plan:
        """Coins of ours worth what we got for the job, less the mint's fee where we cannot bear it ourselves."""
        mint = await self._refund_mint(payment)
        number = 0
        while await self._post.wallet.is_recorded(op_id := f"return:{payment.id}:{number}"):
            number += 1
        for fee_sat in range(min(RETURN_FEE_SAT_MAX, payment.amount_sat)):
            try:
                return await self._post.wallet.plan_send(
                    mint, payment.amount_sat - fee_sat, lock=await self._refund_lock(payment, job),
                    op_id=op_id, purpose="return a payment", job_id=job.id,
                )  # fmt: skip
            except InsufficientFunds as error:
                shortage = error
        raise shortage

    async def _refund_mint(self, payment: PaymentRow) -> str:
        """Where the money came in; for a Lightning invoice, the mint where we have most."""
        if not payment.by_invoice:
            return parse_token(payment.token).mint
        balance = await self._post.wallet.balance()
        return max(self._post.wallet.mints, key=lambda mint: balance.get(mint, 0))

    async def _refund_lock(self, payment: PaymentRow, job: JobRow | None) -> Lock | None:
        """Back to the customer's one-job key if it gave one and paid itself; else plain coins, encrypted."""
        if job is None or payment.payer != job.customer:
            return None
        request = await self._request(job)
        return Lock(request.lock) if request and request.lock else None

    async def _wrap(self, payment: PaymentRow, token: Token, kind: str) -> Event:
        now = self._post.clock.now()
        tags = [("p", payment.payer), ("e", payment.job_id), ("t", kind)]
        tags.append(("subject", f"{kind} for job {payment.job_id[:8]}"))
        message = make_template(CHAT_MESSAGE, content=encode_token(token), tags=tags, created_at=now)
        return await wrap(self._signer, payment.payer, message, now=now)

    async def _send(self, tx: Transaction, event: Event, job: JobRow | None) -> None:
        request = await self._request(job)
        relays = [job.relay, *(request.relays if request else ())] if job else []
        urls = usable_relays([*self._post.pool.urls, *relays])
        await self._post.outbox.add(
            tx, event, urls, enough=len(urls)
        )  # which of them the payer reads we do not know

    async def _request(self, job: JobRow | None) -> JobRequest | None:
        """The job's request, None if it is one that could not be read: money may come for such a job too."""
        return await self._requests.read_again(job.request) if job else None


class _LaterError(Exception):
    """Nothing can be decided just now."""


class _OvertakenError(Exception):
    """Somebody else moved the payment on first."""
