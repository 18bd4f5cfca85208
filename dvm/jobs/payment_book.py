"""The steps of payments, each written in one transaction with what it means for the job."""

from typing import Final, Protocol

import structlog

from dvm import queries
from dvm.jobs.lifecycle import JobInput, PaymentAccepted, PaymentLost, PaymentRefused, PaymentState
from dvm.post import Post
from dvm.queries import JobRow, PaymentRow
from store import Also, Transaction
from wallet import Action, Plan
from wallet.ledger import counter_account, settle

PAYMENTS_KEPT: Final = 20  # for one job, if they come to nothing: anybody can send some

log = structlog.get_logger(__name__)


class ApplyToJob(Protocol):
    """Moves a job on, together with the caller's own writes (`Provider.apply`)."""

    async def __call__(self, job: JobRow, event: JobInput, *, also: Also | None = None) -> JobRow | None:
        """What the job is now; None if it has no such step to take: `also` was then not written."""
        ...


class PaymentOvertaken(Exception):  # noqa: N818 - it says what happened; no error
    """Somebody else moved the payment, or its job, on first."""


class PaymentBook:
    """Writes what becomes of the payments of one agent. Of what is settled, the post's cut is `fee_bps`."""

    def __init__(self, post: Post, fee_bps: int, apply: ApplyToJob) -> None:
        self._post = post
        self._fee_bps = fee_bps
        self.apply = apply

    async def write(self, job: JobRow | None, told: JobInput, also: Also) -> None:
        """Write `also` with a step of the job; alone if there is no job, or it has no such step to take."""
        if job is None or not await self.apply(job, told, also=also):
            async with self._post.db.transaction() as tx:
                await also(tx)

    async def record(
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
                raise PaymentOvertaken
            await self._post.wallet.record(tx, plan)

        try:
            moved = job is not None and told is not None and await self.apply(job, told, also=write)
            if not moved and isinstance(told, PaymentAccepted):
                raise PaymentOvertaken
            if not moved:
                async with self._post.db.transaction() as tx:
                    await write(tx)
        except PaymentOvertaken:
            await self._post.wallet.release(plan)
        except BaseException:
            await self._post.wallet.release(plan)
            raise

    async def refuse(
        self, payment: PaymentRow, job: JobRow | None, reason: str, action: Action, code: str
    ) -> None:
        """Nothing is taken: the payment ends, and with it the job, if its customer sent it.

        It is forgotten if it was for no job of ours, or one of many for a job.
        """
        log.info("payment_refused", payment=payment.id, job=payment.job_id, reason=reason)
        others = await queries.payments_of(self._post.db, payment.agent, payment.job_id) if job else []
        is_kept = 0 < len(others) <= PAYMENTS_KEPT or payment.state is not PaymentState.RECEIVED

        async def write(tx: Transaction) -> None:
            now = self._post.clock.now()
            if is_kept:
                await queries.update_payment(tx, payment, PaymentState.REFUSED, now=now, reason=reason)
            else:
                await queries.forget_payment(tx, payment)

        # Only the payment that was accepted, the one in REDEEMING, moves a job that is PAYING.
        tell = PaymentLost if payment.state is PaymentState.REDEEMING else PaymentRefused
        ends_job = job is not None and payment.payer == job.customer
        await self.write(job, tell(reason, action, ends_job, code), write)

    async def post_settlement(self, tx: Transaction, payment: PaymentRow, amount_sat: int) -> None:
        """What came for a job becomes the agent's, less the post's cut. Written with the payment's end, and once."""
        await settle(
            tx, payment.id, source_account=counter_account(payment.job_id), agent=payment.agent,
            amount_msat=1000 * amount_sat, fee_bps=self._fee_bps, op_id=payment.op_id, job_id=payment.job_id,
            now=self._post.clock.now(),
        )  # fmt: skip
