"""Ecash that has come for a job and is still its sender's: looked at, then taken, held, returned or refused.

`lifecycle.judge_payment` says which, of good money. Nothing is spent here: what is decided is recorded, and
`payments.py` carries it out.
"""

import structlog

from dvm import queries
from dvm.escrow.desk import Overtaken
from dvm.escrow.parties import ProviderDesk, provider_key
from dvm.jobs.lifecycle import (
    CoinsHeld,
    JobState,
    PaymentAccepted,
    PaymentRedeemed,
    PaymentRefused,
    PaymentReturning,
    PaymentState,
    judge_payment,
)
from dvm.jobs.payment_book import PAYMENTS_KEPT, PaymentBook, PaymentOvertaken
from dvm.jobs.requests import Requests
from dvm.jobs.returns import PaymentReturns
from dvm.nip90 import JobRequest
from dvm.post import Post
from dvm.queries import JobRow, PaymentRow
from identity import SecretKey
from store import Also, Transaction
from wallet import (
    Action,
    AlreadySpent,
    InvalidToken,
    Lock,
    MintError,
    MintUnavailable,
    Plan,
    Token,
    WalletError,
    WrongLock,
    parse_lock,
    parse_token,
)
from wallet.errors import WrongTerms
from wallet.escrow import GivesBack, Stage
from wallet.ledger import post_found
from wallet.terms import Method

log = structlog.get_logger(__name__)

REQUEST_SECONDS_MAX = 30  # a payment waits so long for its request: after a restore they come in any order


class NotYet(Exception):  # noqa: N818 - it says how things stand; no error
    """Nothing can be decided just now."""


def agreed_lock(ours: SecretKey, request: JobRequest, locktime: int | None) -> Lock:
    """The one lock we accept for a request: to us, and back to the customer after the locktime if it gave a key.

    `ours` is the provider's one-job key.
    """
    if request.lock is None or locktime is None:
        return Lock(ours.compressed_public_key)
    return Lock(ours.compressed_public_key, locktime=locktime, refund=(request.lock,))


class PaymentJudging:
    """Judges the payments of one agent."""

    def __init__(
        self,
        post: Post,
        agent: str,
        *,
        requests: Requests,
        desk: ProviderDesk,
        book: PaymentBook,
        returns: PaymentReturns,
    ) -> None:
        self._post = post
        self._agent = agent
        self._limits = desk.limits
        self._requests = requests
        self._desk = desk
        self._book = book
        self._returns = returns

    async def judge(self, payment: PaymentRow, job: JobRow | None) -> None:
        """Look at coins that are still the sender's, and record what is to be done with them.

        Raises `NotYet`, `MintUnavailable` and `MintError`: nothing was recorded then.
        """
        if job is not None and job.state is JobState.PAYING:
            # Another payment is being swapped; it may yet turn out to be no good.
            raise NotYet("another payment for the same job is under way")
        now = self._post.clock.now()
        token = parse_token(payment.token)
        if job is None and self._is_for_us(token, payment) and now < payment.created_at + REQUEST_SECONDS_MAX:
            raise NotYet("the request it pays for has not come yet")
        try:
            if any(proof.dleq is None for proof in token.proofs) and await self._is_doubtful(payment, job):
                raise InvalidToken("coins that nobody asked for must show that they are real (NUT-12)")
            escrow = await self._desk.get(payment.job_id)
            if job is not None and escrow is not None and escrow.stage is Stage.AGREED:
                also = await self._desk.funded(escrow, token, payment.token)
                await self._hold(payment, job, also, sealed=escrow.terms.method is Method.REVEAL)
                return
            returning = await self._take(payment, job, token, now)
        except (MintUnavailable, MintError) as error:  # neither says what the coins are
            is_ours_alone = self._is_ours_alone(token, payment)
            if isinstance(error, MintError) and not is_ours_alone:
                await self._book.refuse(payment, job, str(error), error.action, error.code)
                return
            if now < payment.created_at + self._limits.payment_check_seconds_max:
                raise
            reason = "the mint could not be reached to check the payment"
            if not is_ours_alone:
                await self._book.refuse(payment, job, reason, Action.RETRY_AFTER, error.code)
                return
            if job is not None:  # it ends, and nobody but us can ever give the coins back
                ends_job = payment.payer == job.customer
                await self._book.apply(job, PaymentRefused(reason, Action.RETRY_AFTER, ends_job, error.code))
            raise
        except WrongLock as error:
            await self._return_misfit(payment, job, token, error)
        except AlreadySpent as error:
            await self._judge_spent(payment, job, token, error)
        except WalletError as error:
            await self._book.refuse(payment, job, str(error), error.action, error.code)
        else:
            if returning:
                plan, told = returning
                await self._book.record(payment, PaymentState.RETURNING, plan, job, told)

    # Good money ----------------------------------------------------------------------------------------------

    async def _take(
        self, payment: PaymentRow, job: JobRow | None, token: Token, now: int
    ) -> tuple[Plan, PaymentReturning] | None:
        """Accept coins that are good and wanted; how to return them, if they are good alone. Errors as `judge`."""
        lock = await self._expected_lock(token, job, now)
        good = await self._post.wallet.examine(token, mint=token.mint, lock=lock, now=now)
        price_sat = job.price_sat if job else 0
        request = await self._requests.read_again(job.request) if job else None
        verdict = judge_payment(
            job.state if job else None, net_sat=good.net_sat, price_sat=price_sat,
            least_fee_sat=await self._post.wallet.least_fee(token.mint, price_sat),
            expired=request is not None and request.is_expired(now),
        )  # fmt: skip
        keys = (self._key(payment.job_id),)
        if job is not None and verdict.state is PaymentState.REDEEMING:
            plan = await self._plan_taking(payment, job, token, keys, good.net_sat - price_sat)
            await self._book.record(payment, verdict.state, plan, job, PaymentAccepted())
            return None
        plan = await self._post.wallet.plan_return(
            token, keys=keys, lock=await self._returns.lock(payment, job), op_id=f"return:{payment.id}",
            purpose="return a payment", job_id=payment.job_id, ask_first=False,
        )  # fmt: skip
        ends_job = job is not None and payment.payer == job.customer
        return plan, PaymentReturning(verdict.reason, verdict.action, ends_job, verdict.code)

    async def _plan_taking(
        self, payment: PaymentRow, job: JobRow, token: Token, keys: tuple[SecretKey, ...], change_sat: int
    ) -> Plan:
        """Of coins that were examined a moment ago."""
        if change_sat >= self._limits.change_sat_min:
            return await self._post.wallet.plan_return(
                token, keys=keys, lock=await self._returns.lock(payment, job), op_id=f"redeem:{payment.id}",
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

    async def _hold(self, payment: PaymentRow, job: JobRow, also: Also | None, *, sealed: bool) -> None:
        """The coins of an escrow are good: from this commit on they are the escrow's, and the work begins.

        If it is done and `sealed`, the key is sold for them. Raises `WrongTerms` if that is not possible any more.
        """
        if also is None:
            raise WrongTerms("the coins came too late for this escrow; take them back after their locktime")

        async def write(tx: Transaction) -> None:
            if not await queries.update_payment(tx, payment, PaymentState.HELD, now=self._post.clock.now()):
                raise PaymentOvertaken
            await also(tx)

        try:
            if await self._book.apply(job, CoinsHeld(sealed), also=write):
                return
            if sealed:
                raise WrongTerms(
                    "the sealed result is not for sale any more; take the coins back after their locktime"
                )
            async with self._post.db.transaction() as tx:
                await write(tx)
        except (PaymentOvertaken, Overtaken):
            return
        await self._desk.happens(job.id, GivesBack())  # the job ended meanwhile

    async def _is_doubtful(self, payment: PaymentRow, job: JobRow | None) -> bool:
        """Whether no mint is troubled for it: it is for no job of ours, or came after many others for the same.

        What the customer of the job sent is not doubtful: nobody else can sign as that.
        """
        if job is None:
            return True
        return (
            payment.payer != job.customer
            and len(await queries.payments_of(self._post.db, self._agent, payment.job_id)) > PAYMENTS_KEPT
        )

    # Whose coins they are ------------------------------------------------------------------------------------

    def _key(self, request_id: str) -> SecretKey:
        """Our one-job key for a request: what its payment is locked to. Derived, so nothing is lost with a crash."""
        return provider_key(self._post, self._agent, request_id)

    def _is_for_us(self, token: Token, payment: PaymentRow) -> bool:
        """Whether the coins are locked to our key for that job: then we offered to do it, whatever we remember."""
        ours = self._key(payment.job_id).compressed_public_key
        return all(lock is not None and lock.pubkey == ours for lock in _locks(token))

    def _is_ours_alone(self, token: Token, payment: PaymentRow) -> bool:
        """Whether nobody else can ever spend the coins."""
        return _locks(token) == {Lock(self._key(payment.job_id).compressed_public_key)}

    async def _expected_lock(self, token: Token, job: JobRow | None, now: int) -> Lock | None:
        """The lock these coins must have: none at all, or exactly the agreed one. Raises `WrongLock` when too late."""
        locks = {parse_lock(proof.secret) for proof in token.proofs}
        request = await self._requests.read_again(job.request) if job else None
        if job is None or request is None or locks == {None}:
            return None
        ours = self._key(job.id)
        ours_alone = Lock(ours.compressed_public_key)
        if locks == {ours_alone}:  # from a wallet that read the key of the offer and not its terms
            return ours_alone
        # Any locktime will do that leaves us the time: after a restore it may be that of an offer we have forgotten.
        locktime = next((lock.locktime for lock in locks if lock), None) or job.locktime
        lock = agreed_lock(ours, request, locktime)
        if lock.locktime is not None and now > lock.locktime - self._limits.locktime_margin_seconds:
            raise WrongLock("the payment came too late to be safe; take it back after its locktime")
        return lock

    # Other money ---------------------------------------------------------------------------------------------

    async def _judge_spent(
        self, payment: PaymentRow, job: JobRow | None, token: Token, error: AlreadySpent
    ) -> None:
        """Spent coins are no payment, unless we spent them ourselves and then lost the database: the mint shows how.

        What was too little for the job we sent back then, as we did with all beyond its price.
        """
        net_sat = await self._post.wallet.redeemed_by(token, self._key(payment.job_id))
        if (
            job is None
            or net_sat is None
            or net_sat < job.price_sat - await self._post.wallet.least_fee(token.mint, job.price_sat)
        ):
            await self._book.refuse(payment, job, str(error), error.action, error.code)
            return
        kept_sat = min(net_sat, job.price_sat)

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            if await queries.update_payment(tx, payment, PaymentState.REDEEMED, now=now, amount_sat=kept_sat):
                await post_found(tx, payment.id, kept_sat, job_id=payment.job_id, now=now)
                await self._book.post_settlement(tx, payment, kept_sat)

        log.warning("payment_redeemed_before", payment=payment.id, job=payment.job_id, sat=kept_sat)
        await self._book.write(job, PaymentRedeemed(), write)

    async def _return_misfit(
        self, payment: PaymentRow, job: JobRow | None, token: Token, error: WrongLock
    ) -> None:
        """Coins with another lock than agreed go back if we alone can spend them; else nothing was taken."""
        key = self._key(payment.job_id)
        try:
            locks = {parse_lock(proof.secret) for proof in token.proofs}
            if any(lock and lock.refund for lock in locks):
                raise error  # the sender can take them back by itself
            plan = await self._post.wallet.plan_return(
                token, keys=(key,), lock=await self._returns.lock(payment, job), op_id=f"return:{payment.id}",
                purpose="return a payment", job_id=payment.job_id,
            )  # fmt: skip
        except MintUnavailable:
            raise
        except WalletError:
            await self._book.refuse(payment, job, str(error), error.action, error.code)
            return
        ends_job = job is not None and payment.payer == job.customer
        told = PaymentReturning(str(error), error.action, ends_job, error.code)
        await self._book.record(payment, PaymentState.RETURNING, plan, job, told)


def _locks(token: Token) -> set[Lock | None]:
    """The locks of the coins; none counts for a coin whose lock nobody could open."""
    try:
        return {parse_lock(proof.secret) for proof in token.proofs}
    except WrongLock:
        return {None}
