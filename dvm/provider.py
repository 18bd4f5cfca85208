"""One agent at work: its requests and payments come in, its answers go out, and nothing is forgotten between.

Inbox: kind-5xxx requests and gift wraps from `relay_bridge.Inbox`. Duty: every request that is ours ends in exactly one
result or one error. How a job begins is the business of `reception.py`, what it becomes that of `lifecycle.decide_job`;
here it is written down (job, payment and outgoing events in one transaction) and then acted on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from dvm import inputs as job_inputs
from dvm import queries
from dvm.agent import Agent, Job
from dvm.announce import Announcer
from dvm.answers import Answers, Outgoing, check_size
from dvm.cancellations import Cancellations
from dvm.errors import BadRequest, JobFailed
from dvm.escrow_desk import Overtaken
from dvm.escrow_messages import ESCROW_MESSAGE
from dvm.escrow_parties import ProviderDesk
from dvm.invoices import ZAP_RECEIPT, Invoices
from dvm.kinds import CHAT_MESSAGE, DELETION
from dvm.lifecycle import (
    Cancelled,
    Decision,
    JobInput,
    JobState,
    Next,
    OfferLapsed,
    PaymentState,
    WorkFailed,
    WorkFinished,
    WorkInterrupted,
    WorkSealed,
    WorkStarted,
    decide_job,
)
from dvm.limits import ProviderLimits
from dvm.nip90 import JobRequest
from dvm.patience import PatientSigner
from dvm.payment_book import PaymentBook
from dvm.payments import Payments
from dvm.post import PUBLIC_MARGIN_SECONDS, WRAP_MARGIN_SECONDS, Post
from dvm.queries import JobRow
from dvm.reception import Reception
from dvm.requests import Requests
from dvm.reveals import SealedResult
from dvm.runner import run
from dvm.sealing import Sealing
from identity import DecryptionError, EncryptionError, InvalidEvent, LocalSigner, Signer
from identity.nip59 import KIND_EPHEMERAL_GIFT_WRAP, KIND_GIFT_WRAP, unwrap
from relay_bridge import AtOnce, Delivery, Filter, Following, Handler
from store import Also, Transaction, Turns
from wallet import Token, WalletError, parse_payload
from wallet.escrow import NotFunded, ResultOut, Served
from wallet.terms import Method

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 30
SWEEP_JOBS_MAX = 100


class Provider:
    """Runs one agent. `start` picks up what an earlier process left; `stop` leaves nothing half done."""

    def __init__(
        self, agent: Agent, signer: Signer, post: Post, limits: ProviderLimits | None = None
    ) -> None:
        self.agent = agent
        self.signer = signer
        self._post = post
        self._limits = limits or ProviderLimits()
        patient = PatientSigner(signer, post.clock)
        self._signer = patient
        self._requests = Requests(patient)
        self._desk = ProviderDesk(post, patient, self._limits, self._arranged)
        self._sealing = Sealing(post, signer.public_key, self._desk)
        book = PaymentBook(post, self._limits.fee_bps, self.apply)
        self._payments = Payments(post, patient, self._requests, self._desk, book)
        self._invoices = Invoices(post, signer.public_key, self._limits, self._payments, book)
        self._answers = Answers(patient, post, self._requests, self._limits, self._invoices)
        self._cancellations = Cancellations(post.db, signer.public_key, self._limits)
        self._announcer = Announcer(agent, patient, post)
        self._reception = Reception(
            agent, signer.public_key, post, requests=self._requests, cancellations=self._cancellations,
            payments=self._payments, invoices=self._invoices, desk=self._desk, sealing=self._sealing,
            apply=self.apply, cancel=self._cancel, start_now=self._start_now, count_waiting=self._count_waiting,
        )  # fmt: skip
        self._slots = Turns(self._limits.concurrent_jobs_max)
        #: All that is under way for jobs and payments, by name.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._followings: list[Following] = []
        self._stopping = False

    @property
    def public_key(self) -> str:
        """The agent's Nostr identity."""
        return self.signer.public_key

    async def start(self) -> None:
        """Resume open payments and jobs, then listen, then announce."""
        self._post.pool.add_signer(self.signer)
        await self._cancellations.load(self._post.clock.now())
        for job in await queries.jobs_taken_back(self._post.db, self.public_key):
            await self._cancel(job)
        for payment in await queries.open_payments(self._post.db, self.public_key):
            self._spawn(f"payment:{payment.id}", self._payments.take(payment.id))
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.QUEUED, JobState.RUNNING):
            self._spawn(f"work:{job.id}", self._work(job.id))
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.RETURNING):
            self._spawn(f"return:{job.id}", self._payments.pay_back(job.id))
        await self._desk.start()
        if self._limits.arbiters:
            self._spawn("probe", self._desk.probe())
        await self._invoices.start()
        await self._reception.start()
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep")
        at_once = self._reception.at_once if isinstance(self.signer, LocalSigner) else None
        # A name for each kind: a kind that the agent serves from today on has a backlog of its own.
        for kind in sorted(self.agent.capabilities):
            await self._follow(
                f"requests-{kind}", [Filter(kinds=(kind,))], self._reception.receive, PUBLIC_MARGIN_SECONDS,
                at_once=at_once,
            )  # fmt: skip
        wraps = Filter(kinds=(KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP), tags={"p": (self.public_key,)})
        await self._follow("wraps", [wraps], self._on_wrap, WRAP_MARGIN_SECONDS)
        # NIP-09 wants the kind in `k`; who leaves that out may name us in `p`.
        kinds = tuple(str(kind) for kind in sorted(self.agent.capabilities))
        deletions = [
            Filter(kinds=(DELETION,), tags={"k": kinds}),
            Filter(kinds=(DELETION,), tags={"p": (self.public_key,)}),
        ]
        await self._follow("deletions", deletions, self._on_deletion, PUBLIC_MARGIN_SECONDS)
        if any(capability.price_sat for capability in self.agent.capabilities.values()):
            zaps = Filter(kinds=(ZAP_RECEIPT,), tags={"p": (self.public_key,)})
            await self._follow("zaps", [zaps], self._on_zap, PUBLIC_MARGIN_SECONDS)
        await self._announcer.start()

    async def stop(self, grace_seconds: float = 10) -> None:
        """Take the announcement back, let running work end for a while; what does not end is done at the next start."""
        self._stopping = True
        await self._announcer.stop()
        for following in self._followings:
            await following.close()
        working = [task for name, task in self._tasks.items() if name.startswith("work:")]
        if working:
            await asyncio.wait(working, timeout=grace_seconds)
        await self._reception.stop()
        await self._desk.stop()
        await self._invoices.stop()
        left = [*self._tasks.values(), *([self._sweeping] if self._sweeping else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # What comes in -------------------------------------------------------------------------------------------

    async def _follow(
        self,
        what: str,
        filters: Sequence[Filter],
        handler: Handler,
        margin_seconds: int,
        *,
        at_once: AtOnce | None = None,
    ) -> None:
        following = await self._post.inbox.follow(
            f"{what}:{self.public_key}", filters, handler, at_once=at_once,
            margin_seconds=margin_seconds, backlog_seconds=self._limits.request_age_seconds_max,
        )  # fmt: skip
        self._followings.append(following)

    async def _on_wrap(self, delivery: Delivery) -> None:
        """A gift wrap to us: ecash for a job, as NUT-18's Nostr transport sends it. Anything else is not for us."""
        try:
            rumor = await unwrap(self._signer, delivery.event)
            if rumor.kind == ESCROW_MESSAGE:
                await self._desk.receive(rumor, delivery)
                return
            if rumor.kind != CHAT_MESSAGE:
                return
            payload = parse_payload(rumor.content)
        except (DecryptionError, WalletError) as error:
            log.info("wrap_ignored", wrap=delivery.event.id, reason=str(error))
            return
        token = Token(payload.mint, payload.proofs, payload.unit)
        try:
            payment = self._payments.new(token, job_id=payload.id or "", payer=rumor.pubkey, public=False)
        except WalletError as error:
            log.info("payment_refused", wrap=delivery.event.id, reason=str(error))
            return

        async with self._post.db.transaction() as tx:
            if not await queries.insert_payment(tx, payment):
                log.info("payment_repeated", payment=payment.id, wrap=delivery.event.id)
            await delivery.done(tx)
        self._spawn(f"payment:{payment.id}", self._payments.take(payment.id))

    async def _on_deletion(self, delivery: Delivery) -> None:
        """Somebody takes back what it published, a request to us perhaps (NIP-09)."""
        async with self._post.db.transaction() as tx:
            named = await self._cancellations.remember(tx, delivery.event, self._post.clock.now())
            await delivery.done(tx)
        for request_id in named:
            job = await queries.get_job(self._post.db, self.public_key, request_id)
            if job is not None and self._cancellations.include(job.request):
                await self._cancel(job)

    async def _on_zap(self, delivery: Delivery) -> None:
        await self._invoices.on_zap(delivery.event)

    async def _arranged(self, job_id: str) -> None:
        await self._reception.arranged(job_id)

    # What becomes of it --------------------------------------------------------------------------------------

    async def apply(
        self,
        job: JobRow,
        event: JobInput,
        *,
        also: Also | None = None,
        result: str | SealedResult = "",
    ) -> JobRow | None:
        """Let `event` happen to a job: the new state, the events for the customer and `also` in one transaction.

        `job` is the job as it was read last, or a new one. Returns what it is now; None if the lifecycle knows no such
        step from where it stands: then nothing was written, `also` neither.
        """
        stored = job if job.is_stored else None
        while True:
            decision = decide_job(stored.state if stored else None, event)
            if decision and (
                moved := await self._write(stored, job, event, decision, also=also, result=result)
            ):
                log.debug("job", job=job.id, state=decision.state)
                await self._go_on(job.id, decision.then)
                return moved
            # Somebody else moved the job on since it was read: decide on what it is now.
            now = await queries.get_job(self._post.db, job.agent, job.id)
            if now is None or (stored is not None and now.state is stored.state):
                return None
            stored = job = now

    async def _write(
        self,
        stored: JobRow | None,
        job: JobRow,
        event: JobInput,
        decision: Decision,
        *,
        also: Also | None,
        result: str | SealedResult = "",
    ) -> JobRow | None:
        """Record one step of `job`, which is `stored` or new; None if it is not as expected: nothing is written."""
        moved = self._moved(job, event, decision)
        outgoing = await self._answers.to(job, decision, result)
        report = None
        if isinstance(result, SealedResult):
            report = await self._desk.writes(job.id, Served(), terms=result.terms, preimage=result.preimage)
            if report is None:
                raise JobFailed("the work took longer than the offer of a sealed result could wait")
        elif decision.result and job.price_msat:
            report = await self._desk.writes(job.id, ResultOut(), result=outgoing.events[-1])
        elif job.price_msat and decision.state in (JobState.FAILED, JobState.CANCELLED):
            report = await self._desk.writes(job.id, NotFunded())
        try:
            async with self._post.db.transaction() as tx:
                if not await self._record(tx, stored, moved, outgoing):
                    return None
                if job.price_msat and outgoing.events and (decision.offer or decision.result):
                    await self._invoices.carried(tx, job, outgoing.events[-1])
                if also:
                    await also(tx)  # if this one is overtaken, its caller decides again
                if report:
                    try:
                        await report(tx)
                    except Overtaken as error:
                        raise _ReportOvertakenError from error
        except _ReportOvertakenError:  # by a message about the escrow, in this very moment
            return await self._write(stored, job, event, decision, also=also, result=result)
        return moved

    def _moved(self, job: JobRow, event: JobInput, decision: Decision) -> JobRow:
        return replace(
            job,
            state=decision.state,
            reason=decision.say.message if decision.say and decision.say.message else job.reason,
            attempts=event.attempts if isinstance(event, WorkStarted | WorkInterrupted) else job.attempts,
            locktime=event.locktime if isinstance(event, WorkSealed) else job.locktime,
            offer_expires_at=event.offer_expires_at
            if isinstance(event, WorkSealed)
            else job.offer_expires_at,
            updated_at=self._post.clock.now(),
            is_stored=True,
        )

    async def _record(
        self, tx: Transaction, stored: JobRow | None, moved: JobRow, outgoing: Outgoing
    ) -> bool:
        if stored is None:
            written = await queries.insert_job(tx, moved)
        else:
            written = await queries.update_job(tx, moved, stored.state)
        if written:
            await self._answers.send(tx, outgoing)
        return written

    async def _go_on(self, job_id: str, then: Next) -> None:
        if then in (Next.PAY, Next.PAY_AND_WORK):
            for payment in await queries.payments_of(self._post.db, self.public_key, job_id):
                self._spawn(f"payment:{payment.id}", self._payments.take(payment.id))
        if then in (Next.WORK, Next.PAY_AND_WORK):
            self._spawn(f"work:{job_id}", self._work(job_id))
        if then is Next.RETURN:
            self._spawn(f"return:{job_id}", self._payments.pay_back(job_id))
        if then is Next.STOP and (working := self._tasks.get(f"work:{job_id}")):
            working.cancel()

    async def _cancel(self, job: JobRow) -> None:
        """The customer took the request back. A job that is being paid is looked at again before it is begun.

        Work that is paid for from an escrow goes on: the coins are locked for both, and what is delivered is owed.
        """
        escrow = await self._desk.get(job.id) if job.price_msat else None
        sealed = escrow is not None and escrow.terms.method is Method.REVEAL
        if job.state is JobState.RUNNING and escrow is not None and not sealed:
            return
        paid = job.price_msat > 0 and not sealed and not await self._invoices.on_credit(job)
        await self.apply(job, Cancelled(paid=paid))

    # The work ------------------------------------------------------------------------------------------------

    def _count_waiting(self) -> int:
        return sum(name.startswith("work:") for name in self._tasks)

    async def _start_now(self, tx: Transaction, job: JobRow, request: JobRequest) -> bool:
        """If a slot is free, record in `tx` that a new job was begun, and begin it once that is on disk."""
        if self._stopping or not self._slots.take_now():
            return False
        started = WorkStarted(attempts=1)
        step = decide_job(JobState.QUEUED, started)
        assert step is not None
        try:
            running = self._moved(job, started, step)
            written = await self._record(tx, None, running, await self._answers.to(job, step, ""))
        except BaseException:
            self._slots.release()
            raise
        if written:
            tx.after_commit(lambda: self._begin(running, request), undone=self._slots.release)
        else:
            self._slots.release()
        return written

    def _begin(self, running: JobRow, request: JobRequest) -> None:
        if not self._spawn(f"work:{running.id}", self._run_in_slot(running, request)):
            self._slots.release()

    async def _work(self, job_id: str) -> None:
        await self._slots.take()
        try:
            await self._work_in_slot(job_id)
        finally:
            self._slots.release()

    async def _work_in_slot(self, job_id: str) -> None:
        job = await queries.get_job(self._post.db, self.public_key, job_id)
        if job is None or self._stopping:
            return
        if self._cancellations.include(job.request):
            await self._cancel(job)
            return
        try:
            request = await self._requests.read(job.request)
        except BadRequest as error:  # the agent has another key now
            await self._fail(job, str(error))
            return
        if request.is_expired(self._post.clock.now()):
            await self._fail(job, "the request expired before the work began")
            return
        if job.price_msat:
            try:
                await self._desk.check_open(job.id)
            except JobFailed as error:  # our owner gave the money back while we were away
                await self._fail(job, str(error))
                return
        running = await self.apply(job, WorkStarted(job.attempts + 1))
        if running is None:
            await self._fail(job, "the agent broke down on this job several times")
            return
        await self._run(running, request)

    async def _run_in_slot(self, job: JobRow, request: JobRequest) -> None:
        try:
            if self._cancellations.include(job.request):  # it came while the job was written down
                await self._cancel(job)
            else:
                await self._run(job, request)
        finally:
            self._slots.release()

    async def _run(self, job: JobRow, request: JobRequest) -> None:
        capability = self.agent.capabilities.get(job.kind)
        try:
            if capability is None:
                raise JobFailed(f"the agent does not serve kind {job.kind} any more")
            inputs = await job_inputs.gather(request.inputs, self._post, self._limits)
            if inputs is not request.inputs:
                request = replace(request, inputs=inputs)
            result = await run(capability.work, Job(request, self._reporter(job)), self._limits)
            if sealed := await self._sealed(job, request, result):
                await self.apply(
                    job, WorkSealed(sealed.terms.fund_until, sealed.terms.locktime), result=sealed
                )
                return
            check_size(result, job.request, self._limits)
            if job.price_msat:
                await self._desk.check_coins(job.id)
            await self.apply(job, WorkFinished(), result=result)
        except (JobFailed, EncryptionError, InvalidEvent) as error:  # the latter two: it cannot be signed
            await self._fail(job, str(error))
        except asyncio.CancelledError:
            # Stopped, not crashed: this start does not count as an attempt. (If it was cancelled, that is decided.)
            await asyncio.shield(self.apply(job, WorkInterrupted(job.attempts - 1)))
            raise

    async def _sealed(self, job: JobRow, request: JobRequest, text: str) -> SealedResult | None:
        """What was done, sealed, if that is how it is sold. Raises `JobFailed`."""
        escrow = await self._desk.get(job.id) if job.price_msat else None
        if escrow is None or escrow.terms.method is not Method.REVEAL:
            return None
        return self._sealing.seal(escrow, request, text)

    async def _fail(self, job: JobRow, reason: str) -> None:
        await self.apply(job, WorkFailed(reason[: self._limits.reason_characters_max], await self._paid(job)))

    def _reporter(self, job: JobRow) -> Callable[[str, str], Awaitable[None]]:
        async def report(message: str, content: str) -> None:
            outgoing = await self._answers.report(job, message, content)
            async with self._post.db.transaction() as tx:
                await self._answers.send(tx, outgoing)

        return report

    async def _paid(self, job: JobRow) -> bool:
        payments = await queries.payments_of(self._post.db, self.public_key, job.id)
        ours = (PaymentState.REDEEMED, PaymentState.HELD)
        return any(payment.state in ours and not payment.is_surplus for payment in payments)

    async def _sweep(self) -> None:
        """Now and then, close offers that nobody paid, a few at a time."""
        while True:
            now = self._post.clock.now()
            lapsed = await queries.lapsed_offers(self._post.db, self.public_key, now, SWEEP_JOBS_MAX)
            for job in lapsed:
                await self.apply(job, OfferLapsed())
            if len(lapsed) < SWEEP_JOBS_MAX:
                await self._post.clock.sleep(SWEEP_SECONDS)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work` unless the same is under way already: then False."""
        if name in self._tasks:
            work.close()
            return False
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))
        return True

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", task=name, exc_info=error)


class _ReportOvertakenError(Exception):
    """The escrow was changed between the decision what it is told and the writing."""
