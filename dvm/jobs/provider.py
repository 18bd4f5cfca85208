"""One agent at work: its requests and payments come in, its answers go out, and nothing is forgotten between.

Inbox: kind-5xxx requests and gift wraps from `relay_bridge.Inbox`. Duty: every request that is ours ends in exactly one
result or one error. How a job begins is the business of `reception.py`, what it becomes that of `lifecycle.decide_job`;
here it is written down (job, payment and outgoing events in one transaction) and then acted on.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from dvm import queries
from dvm.agent import Agent
from dvm.discovery.announce import Announcer
from dvm.errors import JobFailed
from dvm.escrow.desk import Overtaken
from dvm.escrow.messages import ESCROW_MESSAGE
from dvm.escrow.parties import ProviderDesk
from dvm.jobs.admission import demands, of_notices
from dvm.jobs.answers import Answers, Outgoing
from dvm.jobs.cancellations import Cancellations
from dvm.jobs.gate import NoticeGate, RequestGate
from dvm.jobs.invoices import ZAP_RECEIPT, Invoices
from dvm.jobs.lifecycle import (
    Cancelled,
    Decision,
    JobInput,
    JobState,
    Next,
    OfferLapsed,
    PaymentRedeemed,
    WorkFinished,
    WorkInterrupted,
    WorkSealed,
    WorkStarted,
    decide_job,
)
from dvm.jobs.payment_book import PaymentBook
from dvm.jobs.payments import Payments
from dvm.jobs.reception import Reception
from dvm.jobs.requests import Requests
from dvm.jobs.sealing import Sealing
from dvm.jobs.under_way import UnderWay
from dvm.jobs.workshop import Workshop
from dvm.kinds import CHAT_MESSAGE, DELETION
from dvm.limits import ProviderLimits
from dvm.nip90 import JobRequest
from dvm.orders.allowances import Purse
from dvm.patience import PatientSigner
from dvm.post import PUBLIC_MARGIN_SECONDS, WRAP_MARGIN_SECONDS, Post
from dvm.queries import JobRow
from dvm.reputation.bookkeeper import Bookkeeper
from dvm.reveals import SealedResult
from identity import DecryptionError, LocalSigner, Signer
from identity.nip59 import KIND_EPHEMERAL_GIFT_WRAP, KIND_GIFT_WRAP, unwrap
from identity.receipts import NAMESPACE, REVIEW
from relay_bridge import AtOnce, Delivery, Filter, Following, Gate, Handler, RelayChange
from store import Also, Transaction
from wallet import Token, WalletError, parse_payload
from wallet.escrow import NotFunded, ResultOut, Served
from wallet.terms import Method

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 30
SWEEP_JOBS_MAX = 100
ID_CHARACTERS_MAX = 64  # of what a payment says that it is for


class Provider:
    """Runs one agent. `start` picks up what an earlier process left; `stop` leaves nothing half done."""

    def __init__(
        self,
        agent: Agent,
        signer: Signer,
        post: Post,
        limits: ProviderLimits | None = None,
        purse: Purse | None = None,
        *,
        retires_at: int | None = None,
    ) -> None:
        """`retires_at`: when the key of `signer`, which was handed on, takes nothing new any more (unix seconds)."""
        self.agent = agent
        self.signer = signer
        self._post = post
        self._limits = limits or ProviderLimits()
        self._purse = purse
        patient = PatientSigner(signer, post.clock)
        self._signer = patient
        self._requests = Requests(patient)
        self._desk = ProviderDesk(post, patient, self._limits, arranged=self._arranged, paid=self._has_paid)
        self._sealing = Sealing(post, signer.public_key, self._desk)
        book = PaymentBook(post, self._limits.fee_bps, self.apply)
        self._retires_at = retires_at
        self._gate = RequestGate(signer.public_key, self._limits, post.clock, retires_at)
        self._payments = Payments(post, patient, self._requests, self._desk, book=book, gate=self._gate)
        self._invoices = Invoices(
            post, signer.public_key, self._limits, payments=self._payments, book=book, gate=self._gate
        )
        self._answers = Answers(patient, post, self._requests, self._limits, self._invoices)
        self._books = Bookkeeper(post, patient, self._limits.root_seconds)
        self._announcer = Announcer(agent, patient, post, demands=demands(self._limits))
        self._notice_gate = NoticeGate(signer.public_key, of_notices(self._limits), post.clock)
        self._cancellations = Cancellations(post.db, signer.public_key, self._limits, self._notice_gate)
        self._workshop = Workshop(
            agent, signer.public_key, post, requests=self._requests, cancellations=self._cancellations,
            desk=self._desk, sealing=self._sealing, answers=self._answers, gate=self._gate, apply=self.apply,
            cancel=self._cancel, purse=purse,
        )  # fmt: skip
        self._reception = Reception(
            agent, signer.public_key, post, requests=self._requests, cancellations=self._cancellations,
            payments=self._payments, invoices=self._invoices, desk=self._desk, sealing=self._sealing,
            gate=self._gate, apply=self.apply, cancel=self._cancel, start_now=self._start_now,
            queue=self._workshop.queue,
        )  # fmt: skip
        self._under_way = UnderWay()
        self._followings: list[Following] = []

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
            await self._payments.begin(payment)
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.QUEUED, JobState.RUNNING):
            await self._workshop.start(job, resumed=True)
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.RETURNING):
            self._under_way.start(f"return:{job.id}", self._payments.pay_back(job.id))
        await self._desk.start()
        if self._limits.arbiters:
            self._under_way.start("probe", self._desk.probe())
        await self._invoices.start()
        await self._reception.start()
        self._under_way.start("sweep", self._sweep())
        at_once = self._reception.at_once if isinstance(self.signer, LocalSigner) else None
        # A name for each kind: a kind that the agent serves from today on has a backlog of its own.
        for kind in sorted(self.agent.capabilities):
            await self._follow(
                f"requests-{kind}", [Filter(kinds=(kind,))], self._reception.receive, PUBLIC_MARGIN_SECONDS,
                gate=self._gate, at_once=at_once,
            )  # fmt: skip
        wraps = Filter(kinds=(KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP), tags={"p": (self.public_key,)})
        await self._follow("wraps", [wraps], self._on_wrap, WRAP_MARGIN_SECONDS)
        # NIP-09 wants the kind in `k`; who leaves that out may name us in `p`.
        kinds = tuple(str(kind) for kind in sorted(self.agent.capabilities))
        deletions = [
            Filter(kinds=(DELETION,), tags={"k": kinds}),
            Filter(kinds=(DELETION,), tags={"p": (self.public_key,)}),
        ]
        await self._follow(
            "deletions", deletions, self._on_deletion, PUBLIC_MARGIN_SECONDS, gate=self._notice_gate
        )
        prices = [capability.price_sat for capability in self.agent.capabilities.values()]
        is_paid = any(prices) or self._limits.stranger_sat_min > 0
        if self._retires_at is None and (
            is_paid or await self._books.has_begun()
        ):  # else the newest key has it
            await self._books.start()
        if is_paid:
            notices = [Filter(kinds=(ZAP_RECEIPT,), tags={"p": (self.public_key,)})]
            if self._books.keys:
                notices.append(Filter(kinds=(REVIEW,), tags={"p": self._books.keys, "L": (NAMESPACE,)}))
            await self._follow(
                "notices", notices, self._on_notice, PUBLIC_MARGIN_SECONDS, gate=self._notice_gate
            )
        if not self.is_retired:
            await self._announcer.start()
            if self._retires_at is not None:
                self._under_way.start("retire", self._retire(self._retires_at))

    @property
    def is_retired(self) -> bool:
        """Whether it only ends what is open, as another key has its agent now."""
        return self._retires_at is not None and self._post.clock.now() >= self._retires_at

    async def _retire(self, at: int) -> None:
        await self._post.clock.sleep(at - self._post.clock.now())
        await self._announcer.stop()

    def follow_pool(self, change: RelayChange) -> None:
        """The pool's relays have changed: the agent is announced at the new ones, as soon as its key can be asked."""
        if not self.is_retired:
            self._announcer.follow_pool(change)

    async def stop(self, grace_seconds: float = 10) -> None:
        """Take the announcement back, let running work end for a while; what does not end is done at the next start."""
        self._workshop.shut()
        await self._announcer.stop()
        for following in self._followings:
            await following.close()
        await self._workshop.finish(grace_seconds)
        await self._reception.stop()
        await self._desk.stop()
        await self._invoices.stop()
        await self._workshop.stop()
        await self._payments.stop()
        await self._under_way.close()
        await self._books.stop()

    # What comes in -------------------------------------------------------------------------------------------

    async def _follow(
        self,
        what: str,
        filters: Sequence[Filter],
        handler: Handler,
        margin_seconds: int,
        *,
        gate: Gate | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        following = await self._post.inbox.follow(
            f"{what}:{self.public_key}", filters, handler, gate=gate, at_once=at_once,
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
            job_id = (payload.id or "")[:ID_CHARACTERS_MAX]
            payment = self._payments.new(token, job_id=job_id, payer=rumor.pubkey, public=False)
        except WalletError as error:
            log.info("payment_refused", wrap=delivery.event.id, reason=str(error))
            return
        await self._payments.receive(payment, token, delivery)

    async def _on_deletion(self, delivery: Delivery) -> None:
        """Somebody takes back what it published, a request to us perhaps (NIP-09)."""
        async with self._post.db.transaction() as tx:
            named = await self._cancellations.remember(tx, delivery.event, self._post.clock.now())
        customer = delivery.event.pubkey
        for job in await queries.jobs_named(self._post.db, self.public_key, customer, named):
            await self._cancel(job)

    async def _on_notice(self, delivery: Delivery) -> None:
        """A zap, which hints that an invoice was paid, or a review."""
        if delivery.event.kind == REVIEW:
            await self._books.on_review(delivery)
        else:
            await self._invoices.on_zap(delivery.event)

    async def _arranged(self, job_id: str) -> None:
        await self._reception.arranged(job_id)

    def _has_paid(self, customer: str) -> None:
        self._gate.has_paid(customer)
        self._notice_gate.has_paid(customer)

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
                if isinstance(event, PaymentRedeemed):
                    self._has_paid(job.customer)
                await self._go_on(moved, decision.then)
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
        outgoing = await self._answers.to(moved, decision, result)
        if decision.result or isinstance(result, SealedResult):
            moved = replace(moved, result_id=outgoing.events[-1].id)
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
                if decision.state.is_given_up and self._purse:
                    await self._purse.close(tx, job.id)
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
        offered = event if isinstance(event, WorkSealed) else job
        return replace(
            job,
            state=decision.state,
            reason=decision.say.message if decision.say and decision.say.message else job.reason,
            attempts=event.attempts if isinstance(event, WorkStarted | WorkInterrupted) else job.attempts,
            locktime=offered.locktime,
            offer_expires_at=offered.offer_expires_at,
            confidence=event.confidence if isinstance(event, WorkFinished | WorkSealed) else job.confidence,
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

    async def _go_on(self, job: JobRow, then: Next) -> None:
        if then in (Next.PAY, Next.PAY_AND_WORK):
            for payment in await queries.payments_of(self._post.db, self.public_key, job.id):
                await self._payments.begin(payment)
        if then in (Next.WORK, Next.PAY_AND_WORK):
            await self._workshop.start(job)
        if then is Next.RETURN:
            self._under_way.start(f"return:{job.id}", self._payments.pay_back(job.id))
        if then is Next.STOP:
            self._workshop.interrupt(job.id)
        if then is Next.RETURN:
            self._workshop.wait_no_more(job.id)

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

    async def _start_now(self, tx: Transaction, job: JobRow, request: JobRequest) -> bool:
        """If a slot is free, record in `tx` that a new job was begun, and begin it once that is on disk."""
        who = await self._gate.neighbour(tx, job.customer)  # what costs something is not begun at once
        if not self._workshop.take_slot(who):
            return False
        started = WorkStarted(attempts=1)
        step = decide_job(JobState.QUEUED, started)
        assert step is not None
        try:
            running = self._moved(job, started, step)
            written = await self._record(tx, None, running, await self._answers.to(job, step, ""))
        except BaseException:
            self._workshop.give_slot_back(who)
            raise
        if written:
            tx.after_commit(
                lambda: self._workshop.begin(running, who, request),
                undone=lambda: self._workshop.give_slot_back(who),
            )
        else:
            self._workshop.give_slot_back(who)
        return written

    async def _sweep(self) -> None:
        """Now and then, close offers that nobody paid, a few at a time."""
        while True:
            now = self._post.clock.now()
            lapsed = await queries.lapsed_offers(self._post.db, self.public_key, now, SWEEP_JOBS_MAX)
            for job in lapsed:
                await self.apply(job, OfferLapsed())
            if len(lapsed) < SWEEP_JOBS_MAX:
                await self._post.clock.sleep(SWEEP_SECONDS)


class _ReportOvertakenError(Exception):
    """The escrow was changed between the decision what it is told and the writing."""
