"""Where an agent works: each job waits for what it builds on, then for a slot, is done, and its end goes to `apply`.

Inbox: jobs queued or running (`start`, `begin`). Duty: each is worked on until `apply` has its end, at most five times.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from dvm import queries
from dvm.agent import Agent, Job
from dvm.errors import BadRequest, JobFailed, JobTimeout, Trouble
from dvm.escrow.parties import ProviderDesk
from dvm.jobs import inputs as job_inputs
from dvm.jobs.answers import Answers, check_size
from dvm.jobs.cancellations import Cancellations
from dvm.jobs.chaining import Chains
from dvm.jobs.gate import RequestGate
from dvm.jobs.lifecycle import (
    JobInput,
    PaymentState,
    WorkFailed,
    WorkFinished,
    WorkInterrupted,
    WorkSealed,
    WorkStarted,
)
from dvm.jobs.requests import Requests
from dvm.jobs.room import Neighbour, Room
from dvm.jobs.sealing import Sealing
from dvm.jobs.slots import Slots
from dvm.jobs.under_way import UnderWay
from dvm.nip90 import ENCRYPTED, Input, JobRequest
from dvm.orders.allowances import Purse
from dvm.post import Post
from dvm.queries import JobRow
from dvm.reveals import SealedResult
from dvm.runners.function import run
from identity import EncryptionError, InvalidEvent
from wallet.terms import Method


class Apply(Protocol):
    """`Provider.apply`."""

    async def __call__(
        self, job: JobRow, event: JobInput, *, result: str | SealedResult = ""
    ) -> JobRow | None:
        """See there."""
        ...


class Workshop:
    """The jobs of one agent. Of its provider it needs `apply`, which moves a job on, and `cancel`, which ends one that
    was taken back."""

    def __init__(
        self,
        agent: Agent,
        public_key: str,
        post: Post,
        *,
        requests: Requests,
        cancellations: Cancellations,
        desk: ProviderDesk,
        sealing: Sealing,
        answers: Answers,
        gate: RequestGate,
        apply: Apply,
        cancel: Callable[[JobRow], Awaitable[None]],
        purse: Purse | None,
    ) -> None:
        self._agent = agent
        self._public_key = public_key
        self._post = post
        self._limits = desk.limits
        self._requests = requests
        self._cancellations = cancellations
        self._desk = desk
        self._sealing = sealing
        self._answers = answers
        self._gate = gate
        self._apply = apply
        self._cancel = cancel
        self._purse = purse
        self._chains = Chains(post, desk, desk.limits, self._reporter)
        prices = [capability.price_sat for capability in agent.capabilities.values()]
        paid = any(prices) or desk.limits.stranger_sat_min > 0
        self._slots = Slots(desk.limits.concurrent_jobs_max, paid=paid)
        self._under_way = UnderWay()
        #: Of jobs that wait for a slot or have one.
        self.queue = Room(desk.limits.queue_jobs_max)
        self._closing = False

    async def start(self, job: JobRow, *, resumed: bool = False) -> None:
        """Work on a job as soon as there is a slot; one that may build on others looks for their results first.

        `resumed`: it was taken in before a restart.
        """
        event = job.request
        who = await self._gate.neighbour(self._post.db, job.customer, pays=job.price_msat > 0)
        if event.has_tag(ENCRYPTED) or any(tag[2:3] == ("job",) for tag in event.tags_named("i")):
            self._under_way.start(f"chain:{job.id}", self._chain(job, who, resumed=resumed))
        else:
            self._queue(job, who)

    def take_slot(self, who: Neighbour) -> bool:
        """Take a slot for a job that is about to be written down as begun; False if there is none for it now.

        It is given back by `give_slot_back`, or goes with the job to `begin`.
        """
        return not self._closing and self._slots.take_now(who)

    def give_slot_back(self, who: Neighbour) -> None:
        """The job was not written down."""
        self._slots.release(who)

    def begin(self, running: JobRow, who: Neighbour, request: JobRequest) -> None:
        """Work on a job that has a slot and is on disk as running."""
        if not self._count(running, who, self._run_in_slot(running, who, request)):
            self._slots.release(who)

    def interrupt(self, job_id: str) -> None:
        """End the work on a job, and its wait for others, except from within that wait."""
        self._under_way.cancel(f"work:{job_id}")
        self.wait_no_more(job_id)

    def wait_no_more(self, job_id: str) -> None:
        """End the wait of a job for others, except from within."""
        self._under_way.cancel(f"chain:{job_id}")

    def shut(self) -> None:
        """Begin nothing more."""
        self._closing = True

    async def finish(self, seconds_max: float) -> None:
        """Let what runs end, but wait no longer than that."""
        await self._under_way.ended("work:", seconds_max)

    async def stop(self) -> None:
        """Interrupt what runs; it is done at the next start."""
        await self._under_way.close()

    async def fail(self, job: JobRow, reason: str, code: str = JobFailed.code) -> None:
        """The work will have no result."""
        told = reason[: self._limits.reason_characters_max]
        await self._apply(job, WorkFailed(told, await self._paid(job), code))

    # How a job comes to its slot -----------------------------------------------------------------------------

    async def _chain(self, job: JobRow, who: Neighbour, *, resumed: bool) -> None:
        """Wait for what a job builds on, without a slot: the one it waits for may need that."""
        request = await self._requests.read_again(job.request)
        try:
            inputs = await self._chains.inputs(job, who, request, resumed=resumed) if request else ()
        except JobFailed as error:
            await self.fail(job, str(error))
            return
        self._queue(job, who, inputs)

    def _queue(self, job: JobRow, who: Neighbour, inputs: tuple[Input, ...] = ()) -> None:
        self._count(job, who, self._work(job.id, who, inputs))

    def _count(self, job: JobRow, who: Neighbour, work: Coroutine[Any, Any, None]) -> bool:
        """Run `work`, and count the job as here until it ends; False if it is being worked on already."""
        begun = self._under_way.start(f"work:{job.id}", work, then=lambda: self.queue.release(who))
        if begun:
            self.queue.take(who)
        return begun

    async def _work(self, job_id: str, who: Neighbour, inputs: tuple[Input, ...]) -> None:
        await self._slots.take(who)
        try:
            await self._work_in_slot(job_id, inputs)
        finally:
            self._slots.release(who)

    async def _work_in_slot(self, job_id: str, inputs: tuple[Input, ...]) -> None:
        job = await queries.get_job(self._post.db, self._public_key, job_id)
        if job is None or self._closing:
            return
        if self._cancellations.include(job.request):
            await self._cancel(job)
            return
        try:
            request = await self._requests.read(job.request)
        except BadRequest as error:  # the agent has another key now
            await self.fail(job, str(error), error.code)
            return
        if request.is_expired(self._post.clock.now()):
            await self.fail(job, "the request expired before the work began", Trouble.REQUEST_EXPIRED)
            return
        if job.price_msat:
            try:
                await self._desk.check_open(job.id)
            except JobFailed as error:  # our owner gave the money back while we were away
                await self.fail(job, str(error))
                return
        running = await self._apply(job, WorkStarted(job.attempts + 1))
        if running is None:
            await self.fail(job, "the agent broke down on this job several times")
            return
        await self._run(running, replace(request, inputs=inputs) if inputs else request)

    async def _run_in_slot(self, job: JobRow, who: Neighbour, request: JobRequest) -> None:
        try:
            if self._cancellations.include(job.request):  # it came while the job was written down
                await self._cancel(job)
            else:
                await self._run(job, request)
        finally:
            self._slots.release(who)

    # The work ------------------------------------------------------------------------------------------------

    async def _run(self, job: JobRow, request: JobRequest) -> None:
        capability = self._agent.capabilities.get(job.kind)
        try:
            if capability is None:
                raise JobFailed(f"the agent does not serve kind {job.kind} any more")
            schema = capability.schema
            inputs = await job_inputs.gather(request.inputs, self._post, self._limits, links=schema.links)
            if ignored := schema.ignored(request.params):
                await self._reporter(job)(ignored, "")
            if inputs is not request.inputs or request.params:
                request = replace(request, inputs=inputs, params=schema.read(request.params))
            buy = self._purse.for_job(job.id).buy if self._purse else None
            work = Job(request, self._reporter(job), buy)
            result = await run(capability.work, work, self._limits)
            if sealed := await self._sealed(job, request, result):
                sold_by = WorkSealed(sealed.terms.fund_until, sealed.terms.locktime, work.confidence)
                await self._apply(job, sold_by, result=sealed)
                return
            check_size(result, job.request, self._limits)
            if job.price_msat:
                await self._desk.check_coins(job.id)
            await self._apply(job, WorkFinished(work.confidence), result=result)
        except (JobFailed, BadRequest, EncryptionError, InvalidEvent) as error:  # the last two: unsignable
            # An agent's own kinds of `JobFailed` are called that.
            ours = type(error) in (JobTimeout, BadRequest)
            await self.fail(job, str(error), error.code if ours else JobFailed.code)
        except asyncio.CancelledError:
            # Stopped, not crashed: this start does not count as an attempt. (If it was cancelled, that is decided.)
            await asyncio.shield(self._apply(job, WorkInterrupted(job.attempts - 1)))
            raise

    async def _sealed(self, job: JobRow, request: JobRequest, text: str) -> SealedResult | None:
        """What was done, sealed, if that is how it is sold. Raises `JobFailed`."""
        escrow = await self._desk.get(job.id) if job.price_msat else None
        if escrow is None or escrow.terms.method is not Method.REVEAL:
            return None
        return self._sealing.seal(escrow, request, text)

    def _reporter(self, job: JobRow) -> Callable[[str, str], Awaitable[None]]:
        async def report(message: str, content: str) -> None:
            outgoing = await self._answers.report(job, message, content)
            async with self._post.db.transaction() as tx:
                await self._answers.send(tx, outgoing)

        return report

    async def _paid(self, job: JobRow) -> bool:
        payments = await queries.payments_of(self._post.db, self._public_key, job.id)
        ours = (PaymentState.REDEEMED, PaymentState.HELD)
        return any(payment.state in ours and not payment.is_surplus for payment in payments)
