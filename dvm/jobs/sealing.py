"""A provider's sealed results: for whom it works before it is paid, and what it then offers (escrow §3).

Inbox: requests that ask for `reveal`. Duty: a customer never owes more than its credit, and the key of a result is told
to nobody before the coins for it are being swapped. Who holds the sats: the customer, until that swap.
"""

from dataclasses import replace
from typing import Final

import structlog

from dvm import queries_invoices, queries_reveals
from dvm.errors import JobFailed
from dvm.escrow.parties import ProviderDesk, provider_key
from dvm.nip90 import JobRequest
from dvm.post import Post
from dvm.queries import JobRow
from dvm.reveals import SealedResult
from identity import InvalidSeal
from identity.seal import seal
from store import Also, Transaction
from wallet.errors import WrongTerms
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import MARGIN_SECONDS, Method, Terms, check_agreement

WORK_SECONDS_MAX: Final = 86_400  # how long a job may wait and be worked on, if its customer sets no limit
_LATER: Final = "0" * 64  # in the place of a hash that is not known before the work is done

log = structlog.get_logger(__name__)


class NoCredit(Exception):  # noqa: N818 - it says what there is; no error
    """The customer has not paid enough before for one more job that is done first."""


class Sealing:
    """The sealed results of one agent."""

    def __init__(self, post: Post, agent: str, desk: ProviderDesk) -> None:
        self._post = post
        self._agent = agent
        self._desk = desk

    async def grant(self, job: JobRow, request: JobRequest) -> Also | None:
        """What to write with a new job that is done first; None if it is to be paid in another way.

        What is returned raises `NoCredit`: unpaid jobs of this customer, this one included, may cost at most
        `reveal_msat_max`, and never more than it has paid us so far.
        """
        terms = self._proposal(job, request)
        if terms is None or not await self._is_wanted(request, job):
            return None
        if why_not := await self._desk.doubts(terms):
            log.warning("reveal_not_offered", request=request.id, reason=why_not)
            return None
        row = self._desk.escrows.new(Role.PROVIDER, self._agent, Stage.PROPOSED, terms, job.request)

        async def write(tx: Transaction) -> None:
            paid_msat = await queries_invoices.paid_msat(tx, self._agent, job.customer)
            lent_msat = await queries_reveals.lent_msat(tx, self._agent, job.customer)
            if lent_msat + job.price_msat > min(paid_msat, self._desk.limits.reveal_msat_max):
                raise NoCredit
            await queries_reveals.lend(tx, job)
            await self._desk.escrows.add(tx, row)
            tx.after_commit(lambda: self._desk.watch(job.id))

        return write

    def seal(self, row: EscrowRow, request: JobRequest, text: str) -> SealedResult:
        """Seal what was done, for sale from now on. Raises `JobFailed` if that cannot be.

        The key comes of our seed, the request and the locktime: no crash loses it, and no second try uses it again.
        """
        now, limits = self._post.clock.now(), self._desk.limits
        deliver_by = min(now + limits.reveal_seconds, request.expires_at or now + limits.reveal_seconds)
        if deliver_by <= now:
            raise JobFailed("the request expired before the work was done")
        locktime = deliver_by + 3 * MARGIN_SECONDS
        names = (self._agent, row.request_id, str(locktime))
        preimage = self._post.seed.job_key("reveal", *names).hex()
        salt = self._post.seed.job_key("reveal salt", *names).hex()
        try:
            sealed = seal(
                bytes.fromhex(preimage), row.request_id, self._agent, text.encode(), bytes.fromhex(salt)
            )
        except InvalidSeal as error:
            raise JobFailed(f"the result cannot be sealed: {error}") from None
        terms = replace(row.terms, deliver_by=deliver_by, locktime=locktime, hash=sealed.promise.key_hash)
        return SealedResult(terms, sealed, preimage)

    def _proposal(self, job: JobRow, request: JobRequest) -> Terms | None:
        """The terms as far as they are known before the work; the result's hash and the times come with it."""
        now, limits = self._post.clock.now(), self._desk.limits
        mints = [mint for mint in request.mints if mint in self._post.wallet.mints]
        if Method.REVEAL not in request.settle or not (limits.reveal_msat_max and mints and request.lock):
            return None
        done_by = (request.expires_at or now + WORK_SECONDS_MAX) + limits.job_seconds_max
        terms = Terms(
            method=Method.REVEAL, request_id=request.id, mint=mints[0], price_sat=job.price_sat, provider=self._agent,
            provider_key=provider_key(self._post, self._agent, request.id).compressed_public_key,
            customer=request.customer, customer_key=request.lock, deliver_by=done_by, review_seconds=0,
            dispute_seconds=0, locktime=done_by + 3 * MARGIN_SECONDS,
        )  # fmt: skip
        try:
            check_agreement(replace(terms, hash=_LATER), now)
        except WrongTerms as error:
            log.info("reveal_not_offered", request=request.id, reason=str(error))
            return None
        return terms

    async def _is_wanted(self, request: JobRequest, job: JobRow) -> bool:
        """Whether the customer likes no other way better that we can serve."""
        better = set(request.settle[: request.settle.index(Method.REVEAL)])
        if better - {Method.ESCROW}:
            return False
        return not better or await self._desk.proposal(request, job.price_sat) is None
