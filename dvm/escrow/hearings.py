"""Arbitration for a fee: hearing a dispute is an ordinary paid job (kind 5957) to the arbiter's own key.

Its input is the id of the request whose money is in escrow, its result the ruling. What the fee is says the arbiter's
signature under the terms, so the parties know it before anything is locked; signing in silence costs nothing. A case
that is not ruled in time is a job that failed, and the fee goes back as any price does.
"""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dvm.agent import Agent, Job
from dvm.errors import JobFailed
from dvm.escrow.agreement import ARBITRATION
from dvm.jobs.provider import Provider
from dvm.limits import ProviderLimits
from dvm.post import Post
from identity import Signer
from relay_bridge.timing import within
from wallet.escrow import Contested, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import LOCK_SECONDS_MAX

if TYPE_CHECKING:
    from dvm.escrow.desk import EscrowDesk

LETTER_SECONDS_MAX: Final = 300  # how long a payment waits for the letter that says what it is about


class Hearings:
    """The agent that sells an arbiter's hearings. `desk` has the cases."""

    def __init__(
        self,
        desk: "EscrowDesk",
        post: Post,
        signer: Signer,
        *,
        fee_sat: int,
        cases_max: int,
        limits: ProviderLimits,
    ) -> None:
        self._desk = desk
        self._post = post
        self._changed: dict[str, asyncio.Event] = {}
        agent = Agent("Arbiter", about="Rules on disputes about jobs whose price it holds in escrow")
        agent.serves(ARBITRATION, fee_sat)(self._hear)
        # A hearing takes no work, but as long as the arbiter may take; paid for in advance, and at once.
        waiting = replace(
            limits, job_seconds_max=LOCK_SECONDS_MAX, concurrent_jobs_max=cases_max, queue_jobs_max=cases_max,
            arbiters=(), credit_msat_max=0, reveal_msat_max=0,
        )  # fmt: skip
        self._provider = Provider(agent, signer, post, waiting)

    async def start(self) -> None:
        """Go on with hearings that were paid, announce, and take new ones."""
        await self._provider.start()

    async def stop(self) -> None:
        """Stop; hearings under way go on at the next start."""
        await self._provider.stop(0)

    def changed(self, request_id: str) -> None:
        """A case is not as it was."""
        if request_id in self._changed:
            self._changed.pop(request_id).set()

    async def _hear(self, job: Job) -> str:
        """Rule on a dispute about a job that is in escrow with this arbiter; the input is the job's id."""
        case = await self._case(job)
        if case.fee_order is None:
            await self._desk.happens(case.request_id, Contested(), fee_order=job.id)
        while (case := await self._mine(case.request_id, job)).ruling is None:
            if case.stage.is_final:
                raise JobFailed("the dispute ended without a ruling")
            await self._change(case)
        return case.ruling

    async def _case(self, job: Job) -> EscrowRow:
        """The case that a job is about, once its letter is here. Raises `JobFailed`."""
        request_id = job.text.strip()
        try:
            return await within(self._post.clock, LETTER_SECONDS_MAX, self._with_letter(request_id, job))
        except TimeoutError:
            raise JobFailed("nothing was said about what is disputed: there came no letter") from None

    async def _with_letter(self, request_id: str, job: Job) -> EscrowRow:
        while True:
            case = await self._desk.get(request_id)
            if case is None or case.terms.customer != job.customer:
                raise JobFailed("this arbiter has no such case of yours")
            if case.fee_order == job.id or (case.stage.is_final or case.stage is Stage.DISPUTED):
                return case
            if case.conceded:
                raise JobFailed(f"the {case.conceded} has given in: there is nothing to rule on")
            if any(said["by"] == "customer" for said in case.statements):
                return case
            await self._change(case)

    async def _mine(self, request_id: str, job: Job) -> EscrowRow:
        case = await self._desk.get(request_id)
        if case is None or case.fee_order != job.id:
            raise JobFailed("this case is heard already, or is closed")
        return case

    async def _change(self, case: EscrowRow) -> None:
        """Wait until a case is not as it was read."""
        changed = self._changed.setdefault(case.request_id, asyncio.Event())
        now = await self._desk.get(case.request_id)
        if now is not None and now.version == case.version:
            await changed.wait()
