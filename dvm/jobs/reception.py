"""How a job begins: a request is ignored, refused, or accepted in the way its customer means to pay.

Inbox: kind-5xxx requests. Duty: every request that is ours becomes one job, and its delivery is done in the transaction
that writes the job down. A plain free job is also started there; one for an escrow first waits for its arbiter.
"""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final

import structlog

from dvm import queries
from dvm.agent import Agent
from dvm.errors import BadRequest, Trouble
from dvm.escrow.parties import ProviderDesk
from dvm.jobs import inputs as job_inputs
from dvm.jobs.cancellations import Cancellations
from dvm.jobs.chaining import builds_on_jobs
from dvm.jobs.gate import RequestGate
from dvm.jobs.invoices import Invoices
from dvm.jobs.lifecycle import Arranged, Arrived, Cancelled, JobState, NotArranged, Refused
from dvm.jobs.payment_book import ApplyToJob
from dvm.jobs.payments import Payments
from dvm.jobs.requests import Requests, Unreadable
from dvm.jobs.room import Room
from dvm.jobs.sealing import NoCredit, Sealing
from dvm.nip90 import ENCRYPTED, PREPAID, JobRequest, parse_request
from dvm.post import Post
from dvm.queries import JobRow
from identity.event import CREATED_AT_MAX
from relay_bridge import Delivery
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Transaction
from wallet import Action, WalletError, parse_token
from wallet.errors import AlreadySpent, ExposureExceeded
from wallet.escrow import NotFunded, Stage
from wallet.terms import Terms

PROPOSE_SECONDS_MAX: Final = 5.0  # an offer waits no longer for a mint, and is made without an escrow
REST_SECONDS: Final = 30  # a mint that did not answer is left alone for so long

log = structlog.get_logger(__name__)


class Reception:
    """The requests to one agent, whose public key is `public_key`. `start` goes on with what an arbiter is asked.

    Of its provider it needs four things: `apply` moves a job on (`Provider.apply`), `cancel` ends one that was taken
    back, `start_now` records and begins a new one if that is possible at once, `queue` has room for jobs that wait.
    """

    def __init__(
        self,
        agent: Agent,
        public_key: str,
        post: Post,
        *,
        requests: Requests,
        cancellations: Cancellations,
        payments: Payments,
        invoices: Invoices,
        desk: ProviderDesk,
        sealing: Sealing,
        gate: RequestGate,
        apply: ApplyToJob,
        cancel: Callable[[JobRow], Awaitable[None]],
        start_now: Callable[[Transaction, JobRow, JobRequest], Awaitable[bool]],
        queue: Room,
    ) -> None:
        self._agent = agent
        self._public_key = public_key
        self._post = post
        self._limits = desk.limits
        self._requests = requests
        self._cancellations = cancellations
        self._payments = payments
        self._invoices = invoices
        self._desk = desk
        self._sealing = sealing
        self._gate = gate
        self._apply = apply
        self._cancel = cancel
        self._start_now = start_now
        self._queue = queue
        self._tasks = Tasks()
        self._rests_until: dict[str, int] = {}  # mints of ours that are asked nothing about an escrow

    async def start(self) -> None:
        """Wait on for the arbiters that were asked."""
        for job in await queries.jobs_in(self._post.db, self._public_key, JobState.ARRANGING):
            self._tasks.start(self._await_arbiter(job.id), f"arrange:{job.id}")

    async def stop(self) -> None:
        """Wait for no arbiter any more. What was asked stays on disk."""
        await self._tasks.close()

    # What comes in -------------------------------------------------------------------------------------------

    async def at_once(self, delivery: Delivery, tx: Transaction) -> bool:
        """A plain free job that finds a free slot arrives and starts in the transaction that writes its request down.

        False: everything else goes the longer way, by `receive`. Call it only for an agent whose key signs at once.
        """
        event = delivery.event
        if (
            self._agent.capabilities[event.kind].price_sat
            or self._limits.stranger_sat_min
            or event.has_tag(ENCRYPTED)
            or self._gate.refuses(event)
            or self._cancellations.include(event)
        ):
            return False
        try:
            request = parse_request(event)
            self._check(request)
        except BadRequest:
            return False
        if (
            request.cashu is not None
            or request.is_expired(self._post.clock.now())
            or builds_on_jobs(request.inputs)
        ):
            return False
        return await self._start_now(tx, self._new_job(delivery, expires_at=request.expires_at), request)

    async def receive(self, delivery: Delivery) -> None:
        """Take in a request, whatever it asks for."""
        event = delivery.event
        if refusal := await self._gate.refusal(self._post.db, event):
            await self._refuse(delivery, refusal.reason, refusal.action, refusal.code)
            self._gate.was_refused(event)
            return
        try:
            request = await self._requests.read(event)
            if request.is_expired(self._post.clock.now()):
                log.info("request_ignored", request=event.id, reason="expired")
                return
            self._check(request)
        except BadRequest as error:
            # One that is addressed to nobody is perhaps encrypted to somebody else.
            if event.has_tag("p") or not isinstance(error, Unreadable):
                await self._refuse(delivery, str(error), code=error.code)
            return
        if self._cancellations.include(event):
            await self._apply(self._new_job(delivery), Cancelled(paid=False), also=delivery.done)
            return
        price_sat = await self._price_sat(request)
        who = await self._gate.neighbour(self._post.db, request.customer, pays=price_sat > 0)
        if not self._queue.has(who):
            reason = "too many jobs are waiting here; try again in a minute"
            await self._refuse(delivery, reason, Action.RETRY_AFTER, Trouble.TOO_MANY_REQUESTS)
            return
        # Others come at the same time, so it is counted as if it waited already; an offer does not wait here.
        with nullcontext() if price_sat else self._queue.held(who):
            await self._accept(delivery, request, price_sat)

    def _check(self, request: JobRequest) -> None:
        """Raise `BadRequest` if the agent could not work on this."""
        self._agent.capabilities[request.event.kind].schema.check(request)
        job_inputs.check(request.inputs, self._limits)

    async def _refuse(
        self, delivery: Delivery, reason: str, action: Action = Action.GIVE_UP, code: str = BadRequest.code
    ) -> None:
        private = delivery.event.has_tag(ENCRYPTED)  # the reason may quote what only we were to read
        log.info("request_refused", request=delivery.event.id, reason="private" if private else reason)
        await self._apply(self._new_job(delivery), Refused(reason, action, code), also=delivery.done)

    def _new_job(self, delivery: Delivery, price_msat: int = 0, expires_at: int | None = None) -> JobRow:
        event, now = delivery.event, self._post.clock.now()
        paid_by_offer = price_msat > 0
        offer_expires_at = min(now + self._limits.offer_seconds, expires_at or CREATED_AT_MAX)
        return JobRow(
            agent=self._public_key, id=event.id, kind=event.kind, customer=event.pubkey, state=JobState.QUEUED,
            price_msat=price_msat, request=event, relay=delivery.relay, reason="", attempts=0,
            locktime=now + self._limits.locktime_seconds if paid_by_offer else None,
            offer_expires_at=offer_expires_at if paid_by_offer else None,
            created_at=now, updated_at=now, is_stored=False,
        )  # fmt: skip

    # How it is to be paid ------------------------------------------------------------------------------------

    async def _accept(self, delivery: Delivery, request: JobRequest, price_sat: int) -> None:
        if price_sat and self._post.wallet.mints and not await self._post.wallet.mints_with_room(price_sat):
            reason = "our mints hold as many of our sats as we trust them with; try again later"
            await self._refuse(delivery, reason, Action.RETRY_AFTER, ExposureExceeded.code)
            return
        price_msat = 1000 * price_sat
        job = self._new_job(delivery, price_msat, request.expires_at)
        if request.cashu is not None:
            await self._accept_paid(delivery, job, request)
        elif request.bid_msat is not None and request.bid_msat < price_msat:
            # The offer says so. Nothing is risked or arranged for somebody who means to pay less.
            await self._apply(job, Arrived(price_msat, has_payment=False), also=delivery.done)
        elif price_msat and await self._do_first(delivery, job, request):
            pass
        elif price_msat and await self._invoices.grant_credit(job, request):
            arrived = Arrived(price_msat, has_payment=False, on_credit=True)
            await self._apply(job, arrived, also=delivery.done)
        elif price_msat and (terms := await self._proposal(request, job.price_sat)):
            await self._arrange(delivery, job, terms)
        else:
            await self._apply(job, Arrived(price_msat, has_payment=False), also=delivery.done)
        if self._cancellations.include(delivery.event):  # it came meanwhile, and did not find the job
            await self._cancel(job)

    async def _price_sat(self, request: JobRequest) -> int:
        price_sat, least_sat = (
            self._agent.capabilities[request.event.kind].price_sat,
            self._limits.stranger_sat_min,
        )
        if price_sat >= least_sat:
            return price_sat
        return price_sat if await self._gate.is_customer(self._post.db, request.customer) else least_sat

    async def _accept_paid(self, delivery: Delivery, job: JobRow, request: JobRequest) -> None:
        try:
            token = parse_token(request.cashu or "")
        except WalletError as error:
            reason = f"the cashu tag cannot be read: {error}"
            await self._refuse(delivery, reason, error.action, error.code)
            return
        room = self._payments.room(token.mint)
        who = await self._gate.neighbour(self._post.db, job.customer)
        if not room.has(who):
            reason = "too many payments are looked at just now; nothing was taken, try again in a minute"
            await self._refuse(delivery, reason, Action.RETRY_AFTER, Trouble.TOO_MANY_REQUESTS)
            return
        payment = self._payments.new(token, job_id=job.id, payer=job.customer, public=not request.private)

        async def write(tx: Transaction) -> None:
            if not await queries.insert_payment(tx, payment):
                raise _RepeatedPaymentError
            await delivery.done(tx)

        try:
            with room.held(who):  # others come at the same time
                await self._apply(job, Arrived(job.price_msat, has_payment=True), also=write)
        except _RepeatedPaymentError:
            reason = "these coins were sent for another job already"
            await self._refuse(delivery, reason, Action.FUND, AlreadySpent.code)

    async def _do_first(self, delivery: Delivery, job: JobRow, request: JobRequest) -> bool:
        """For a sealed result, do the work at our own risk. False if the customer has no wish or no credit for that."""
        grant = await self._sealing.grant(job, request)
        if grant is None:
            return False

        async def write(tx: Transaction) -> None:
            await grant(tx)
            await delivery.done(tx)

        try:
            await self._apply(job, Arrived(job.price_msat, has_payment=False, on_credit=True), also=write)
        except NoCredit:
            return False
        return True

    # By an escrow --------------------------------------------------------------------------------------------

    async def _proposal(self, request: JobRequest, price_sat: int) -> Terms | None:
        """The terms of an escrow; None if it asks for none, or the mint does not soon tell what must be known of it."""
        mint = next((mint for mint in request.mints if mint in self._post.wallet.mints), None)
        now = self._post.clock.now()
        if mint is None or now < self._rests_until.get(mint, 0):
            return None
        try:
            return await within(
                self._post.clock, PROPOSE_SECONDS_MAX, self._desk.proposal(request, price_sat)
            )
        except TimeoutError:
            log.warning("escrow_not_offered", request=request.id, reason=f"{mint} does not answer")
            self._rests_until[mint] = self._post.clock.now() + REST_SECONDS
            return None

    async def _arrange(self, delivery: Delivery, job: JobRow, terms: Terms) -> None:
        """The customer wants an escrow: ask the arbiter before there is an offer."""
        ask = await self._desk.propose(terms, delivery.event)

        async def write(tx: Transaction) -> None:
            await ask(tx)
            await delivery.done(tx)

        if await self._apply(job, Arrived(job.price_msat, has_payment=False, arranging=True), also=write):
            self._tasks.start(self._await_arbiter(job.id), f"arrange:{job.id}")

    async def _await_arbiter(self, job_id: str) -> None:
        """Make the offer without an arbiter that does not answer."""
        await self._post.clock.sleep(self._limits.arrange_seconds)
        await self._desk.happens(job_id, NotFunded(), reason="the arbiter did not answer")
        await self.arranged(job_id)

    async def arranged(self, job_id: str) -> None:
        """The arbiter has answered, or will not: make the offer that there is to make."""
        job = await queries.get_job(self._post.db, self._public_key, job_id)
        escrow = await self._desk.get(job_id)
        if job is None or job.state is not JobState.ARRANGING or escrow is None:
            return
        request = await self._requests.read_again(job.request)
        if escrow.stage is Stage.AGREED or (request is not None and PREPAID in request.settle):
            await self._apply(job, Arranged())
        else:
            await self._apply(job, NotArranged(f"no arbiter serves this job: {escrow.reason}"))


class _RepeatedPaymentError(Exception):
    """The very same coins came before, with another request."""
