"""One agent at work: its requests and payments come in, its answers go out, and nothing is forgotten between.

Inbox: kind-5xxx requests and gift wraps from `relay_bridge.Inbox`. Duty: every request that is ours ends in exactly one
result or one error. What a job becomes is `lifecycle.decide_job`'s business; here it is written down (job, payment and
outgoing events in one transaction) and then acted on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from dvm import queries
from dvm.agent import Agent, Job
from dvm.announce import Announcer
from dvm.errors import BadRequest, JobFailed
from dvm.lifecycle import (
    Arrived,
    Decision,
    JobInput,
    JobState,
    Next,
    OfferLapsed,
    PaymentState,
    Refused,
    Say,
    WorkFailed,
    WorkFinished,
    WorkInterrupted,
    WorkStarted,
    decide_job,
)
from dvm.limits import ProviderLimits
from dvm.nip90 import (
    PREPAID,
    RELAYS_MAX,
    JobRequest,
    Offer,
    Status,
    make_feedback,
    make_result,
    parse_request,
)
from dvm.payments import CHAT_MESSAGE, Payments
from dvm.post import PUBLIC_MARGIN_SECONDS, WRAP_MARGIN_SECONDS, Post
from dvm.queries import JobRow, PaymentRow
from dvm.runner import run
from identity import DecryptionError, EventTemplate, Signer
from identity.nip19 import encode_nprofile
from identity.nip40 import is_expired
from identity.nip59 import KIND_EPHEMERAL_GIFT_WRAP, KIND_GIFT_WRAP, unwrap
from relay_bridge import Delivery, Filter, Following, Handler, usable_relays
from store import Transaction
from wallet import (
    SAT,
    Action,
    PaymentRequest,
    Token,
    Transport,
    WalletError,
    encode_request,
    lock_condition,
    parse_payload,
    parse_token,
)

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 30
SWEEP_JOBS_MAX = 100
ANSWER_SECONDS = 7 * 86400  # how long a relay that is away is waited for with an answer
Also = Callable[[Transaction], Awaitable[None]]


class Provider:
    """Runs one agent. `start` picks up what an earlier process left; `stop` leaves nothing half done."""

    def __init__(
        self, agent: Agent, signer: Signer, post: Post, limits: ProviderLimits | None = None
    ) -> None:
        self.agent = agent
        self.signer = signer
        self._post = post
        self._limits = limits or ProviderLimits()
        self._payments = Payments(post, signer, self._limits, self.apply)
        self._announcer = Announcer(agent, signer, post)
        self._slots = asyncio.Semaphore(self._limits.concurrent_jobs_max)
        self._tasks: dict[str, asyncio.Task[None]] = {}  # all that is under way for jobs and payments, by name
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
        for payment in await queries.open_payments(self._post.db, self.public_key):
            self._spawn(f"payment:{payment.id}", self._payments.take(payment.id))
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.QUEUED, JobState.RUNNING):
            self._spawn(f"work:{job.id}", self._work(job.id))
        for job in await queries.jobs_in(self._post.db, self.public_key, JobState.RETURNING):
            self._spawn(f"return:{job.id}", self._return(job.id))
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep")
        # A name for each kind: a kind that the agent serves from today on has a backlog of its own.
        for kind in sorted(self.agent.capabilities):
            await self._follow(
                f"requests-{kind}", Filter(kinds=(kind,)), self._on_request, PUBLIC_MARGIN_SECONDS
            )
        wraps = Filter(kinds=(KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP), tags={"p": (self.public_key,)})
        await self._follow("wraps", wraps, self._on_wrap, WRAP_MARGIN_SECONDS)
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
        left = [*self._tasks.values(), *([self._sweeping] if self._sweeping else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # What comes in -------------------------------------------------------------------------------------------

    async def _follow(self, what: str, filter_: Filter, handler: Handler, margin_seconds: int) -> None:
        following = await self._post.inbox.follow(
            f"{what}:{self.public_key}", [filter_], handler,
            margin_seconds=margin_seconds, backlog_seconds=self._limits.request_age_seconds_max,
        )  # fmt: skip
        self._followings.append(following)

    async def _on_request(self, delivery: Delivery) -> None:
        event, now = delivery.event, self._post.clock.now()
        addressed = [tag[1] for tag in event.tags_named("p") if len(tag) > 1]
        age_seconds = now - event.created_at
        if addressed and self.public_key not in addressed:
            return  # somebody else's
        if (
            not -self._limits.request_future_seconds_max
            <= age_seconds
            <= self._limits.request_age_seconds_max
        ):
            log.info(
                "request_refused", request=event.id, reason="created_at is too far from now", age=age_seconds
            )
            return
        try:
            request = parse_request(event)
        except BadRequest as error:
            await self._refuse(delivery, str(error))
            return
        if is_expired(event, now):
            log.info("request_refused", request=event.id, reason="expired")
            return
        await self._accept(delivery, request)

    async def _refuse(self, delivery: Delivery, reason: str, action: Action = Action.GIVE_UP) -> None:
        log.info("request_refused", request=delivery.event.id, reason=reason)
        await self.apply(self._new_job(delivery, price_msat=0), Refused(reason, action), also=delivery.done)

    async def _accept(self, delivery: Delivery, request: JobRequest) -> None:
        if obstacle := self._obstacle(request):
            await self._refuse(delivery, obstacle)
            return
        if len(self._tasks) >= self._limits.queue_jobs_max:
            await self._refuse(
                delivery, "too many jobs are waiting here; try again in a minute", Action.RETRY_AFTER
            )
            return
        price_msat = self.agent.capabilities[request.event.kind].price_sat * 1000
        job = self._new_job(delivery, price_msat)
        if request.cashu is not None:
            await self._accept_paid(delivery, job, request.cashu)
        elif price_msat or self._slots.locked() or self._stopping:
            await self.apply(job, Arrived(price_msat, has_payment=False), also=delivery.done)
        else:
            await self._begin_at_once(delivery, job, request)

    async def _accept_paid(self, delivery: Delivery, job: JobRow, cashu: str) -> None:
        try:
            token = parse_token(cashu)
        except WalletError as error:
            await self._refuse(delivery, f"the cashu tag cannot be read: {error}", error.action)
            return
        payment = self._payments.new(token, job_id=job.id, payer=job.customer, public=True)

        async def write(tx: Transaction) -> None:
            if not await queries.insert_payment(tx, payment):
                raise _RepeatedPaymentError
            await delivery.done(tx)

        try:
            await self.apply(job, Arrived(job.price_msat, has_payment=True), also=write)
        except _RepeatedPaymentError:
            await self._refuse(delivery, "these coins were sent for another job already", Action.FUND)

    async def _begin_at_once(self, delivery: Delivery, job: JobRow, request: JobRequest) -> None:
        """A free job and a free slot: it arrives and is started in one transaction."""
        await self._slots.acquire()
        try:
            arrived = decide_job(None, Arrived(0, has_payment=False))
            assert arrived is not None
            started = WorkStarted(1)
            decision = decide_job(arrived.state, started)
            assert decision is not None
            running = await self._write(None, job, started, decision, also=delivery.done)
        except BaseException:
            self._slots.release()
            raise
        if running is None or not self._spawn(f"work:{job.id}", self._run_in_slot(running, request)):
            self._slots.release()

    def _obstacle(self, request: JobRequest) -> str:
        """Why this agent cannot serve the request; empty if it can."""
        other = next((part for part in request.inputs if part.type != "text"), None)
        if other is not None:
            return (
                f'inputs of type {other.type!r} are not supported by this agent yet; send ["i", text, "text"]'
            )
        if not request.inputs:
            return 'the request has no input; add a tag ["i", text, "text"]'
        size = sum(len(part.data.encode()) for part in request.inputs)
        if size > self._limits.input_bytes_max:
            return f"the input has {size} bytes; this agent takes at most {self._limits.input_bytes_max}"
        return ""

    def _new_job(self, delivery: Delivery, price_msat: int) -> JobRow:
        event, now = delivery.event, self._post.clock.now()
        paid_by_offer = price_msat > 0
        return JobRow(
            agent=self.public_key, id=event.id, kind=event.kind, customer=event.pubkey, state=JobState.QUEUED,
            price_msat=price_msat, request=event, relay=delivery.relay, reason="", attempts=0,
            locktime=now + self._limits.locktime_seconds if paid_by_offer else None,
            offer_expires_at=now + self._limits.offer_seconds if paid_by_offer else None,
            created_at=now, updated_at=now, is_stored=False,
        )  # fmt: skip

    async def _on_wrap(self, delivery: Delivery) -> None:
        """A gift wrap to us: ecash for a job, as NUT-18's Nostr transport sends it. Anything else is not for us."""
        try:
            rumor = await unwrap(self.signer, delivery.event)
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

    # What becomes of it --------------------------------------------------------------------------------------

    async def apply(
        self,
        job: JobRow,
        event: JobInput,
        *,
        also: Also | None = None,
        result: str = "",
    ) -> JobRow | None:
        """Let `event` happen to a job: the new state, the events for the customer and `also` in one transaction.

        `job` is the job as it was read last, or a new one. Returns what it is now; None if the lifecycle knows no such
        step from where it stands: then nothing was written, `also` neither.
        """
        stored = job if job.is_stored else None
        while True:
            decision = decide_job(stored.state if stored else None, event)
            if decision and (moved := await self._write(stored, job, event, decision, also=also, result=result)):
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
        result: str = "",
    ) -> JobRow | None:
        """Record one step of `job`, which is `stored` or new; None if it is not as expected: nothing is written then."""
        now = self._post.clock.now()
        moved = replace(
            job,
            state=decision.state,
            reason=decision.say.message if decision.say and decision.say.message else job.reason,
            attempts=event.attempts if isinstance(event, WorkStarted | WorkInterrupted) else job.attempts,
            updated_at=now,
            is_stored=True,
        )
        answers = [await self.signer.sign(template) for template in self._answers(job, decision, result, now)]
        async with self._post.db.transaction() as tx:
            if stored is None:
                written = await queries.insert_job(tx, moved)
            else:
                written = await queries.update_job(tx, moved, stored.state)
            if not written:
                return None
            relays = self._relays_of(job) if answers else ()
            for answer in answers:  # to all of them: which one the customer reads we do not know
                await self._post.outbox.add(
                    tx, answer, relays, enough=len(relays), until=now + ANSWER_SECONDS
                )
            if also:
                await also(tx)
        return moved

    def _answers(self, job: JobRow, decision: Decision, result: str, now: int) -> list[EventTemplate]:
        answers: list[EventTemplate] = []
        if decision.offer:
            answers.append(self._offer(job, now))
        if decision.say:
            answers.append(self._feedback(job, decision.say, now))
        if decision.result:
            answers.append(
                make_result(job.request, result, price_msat=job.price_msat, now=now, relay=job.relay)
            )
        return answers

    def _feedback(self, job: JobRow, say: Say, now: int, content: str = "") -> EventTemplate:
        tags = [("action", str(say.action))] if say.action else []
        return make_feedback(
            job.request, say.status, now=now, message=say.message, content=content, relay=job.relay, tags=tags
        )

    def _offer(self, job: JobRow, now: int) -> EventTemplate:
        request = parse_request(job.request)
        lock = self._payments.agreed_lock(request, job.locktime)
        mints = self._post.wallet.mints
        here = encode_nprofile(self.public_key, self._post.pool.urls)
        creq = PaymentRequest(
            id=job.id, amount=job.price_sat, unit=SAT, single_use=True, mints=mints, condition=lock_condition(lock),
            transports=(Transport("nostr", here, (("n", "17"),)),),
        )  # fmt: skip
        offer = Offer(
            price_msat=job.price_msat, mints=mints, lock=lock.pubkey, locktime=lock.locktime, settle=(PREPAID,),
            creq=encode_request(creq), expires_at=job.offer_expires_at,
        )  # fmt: skip
        return make_feedback(
            job.request, Status.PAYMENT_REQUIRED, now=now, relay=job.relay, tags=offer.to_tags()
        )

    def _relays_of(self, job: JobRow) -> tuple[str, ...]:
        wanted = [url for tag in job.request.tags_named("relays") for url in tag[1:]][:RELAYS_MAX]
        return usable_relays([*self._post.pool.urls, job.relay, *wanted])

    async def _go_on(self, job_id: str, then: Next) -> None:
        if then in (Next.PAY, Next.PAY_AND_WORK):
            for payment in await queries.payments_of(self._post.db, self.public_key, job_id):
                self._spawn(f"payment:{payment.id}", self._payments.take(payment.id))
        if then in (Next.WORK, Next.PAY_AND_WORK):
            self._spawn(f"work:{job_id}", self._work(job_id))
        if then is Next.RETURN:
            self._spawn(f"return:{job_id}", self._return(job_id))

    # The work ------------------------------------------------------------------------------------------------

    async def _work(self, job_id: str) -> None:
        async with self._slots:
            job = await queries.get_job(self._post.db, self.public_key, job_id)
            if job is None or self._stopping:
                return
            running = await self.apply(job, WorkStarted(job.attempts + 1))
            if running is None:
                await self.apply(
                    job, WorkFailed("the agent broke down on this job several times", await self._paid(job))
                )
                return
            await self._run(running, parse_request(job.request))

    async def _run_in_slot(self, job: JobRow, request: JobRequest) -> None:
        try:
            await self._run(job, request)
        finally:
            self._slots.release()

    async def _run(self, job: JobRow, request: JobRequest) -> None:
        capability = self.agent.capabilities.get(job.kind)
        try:
            if capability is None:
                raise JobFailed(f"the agent does not serve kind {job.kind} any more")
            result = await run(capability.work, Job(request, self._reporter(job)), self._limits)
        except JobFailed as error:
            await self.apply(job, WorkFailed(str(error), await self._paid(job)))
        except asyncio.CancelledError:
            # Stopped, not crashed: this start does not count as an attempt.
            await asyncio.shield(self.apply(job, WorkInterrupted(job.attempts - 1)))
            raise
        else:
            await self.apply(job, WorkFinished(), result=result)

    def _reporter(self, job: JobRow) -> Callable[[str, str], Awaitable[None]]:
        async def report(message: str, content: str) -> None:
            say = Say(Status.PARTIAL if content else Status.PROCESSING, message)
            event = await self.signer.sign(self._feedback(job, say, self._post.clock.now(), content))
            async with self._post.db.transaction() as tx:
                await self._post.outbox.add(tx, event, self._relays_of(job))

        return report

    async def _paid(self, job: JobRow) -> bool:
        payments = await queries.payments_of(self._post.db, self.public_key, job.id)
        return any(payment.state == "redeemed" for payment in payments)

    async def _return(self, job_id: str) -> None:
        """Send back what was paid for a job that cannot be served."""
        delay_seconds = 0.5
        while (
            job := await queries.get_job(self._post.db, self.public_key, job_id)
        ) and not job.state.is_final:
            try:
                payment_id = await self._payments.give_back(job)
            except (
                WalletError
            ) as error:  # the mint is down, or our coins are elsewhere just now: we still owe them
                log.warning("return_waits", job=job_id, reason=str(error))
            else:
                if payment_id is None:
                    return
                await self._payments.take(payment_id)
                payment = await queries.get_payment(self._post.db, payment_id)
                if payment is None or payment.state is not PaymentState.REDEEMED:
                    return  # else the mint refused, and we try again
            await self._post.clock.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 60)

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


class _RepeatedPaymentError(Exception):
    """The very same coins came before, with another request."""
