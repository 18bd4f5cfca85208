"""What an agent tells its customers about their jobs: built, encrypted if the request was, signed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dvm.errors import JobFailed
from dvm.escrow.parties import escrow_offer, provider_key
from dvm.jobs.invoices import Invoices
from dvm.jobs.judging import agreed_lock
from dvm.jobs.lifecycle import Decision, Say
from dvm.jobs.requests import Requests
from dvm.limits import ProviderLimits
from dvm.nip90 import (
    ENCRYPTED,
    EVENT_BYTES_MAX,
    JobRequest,
    Offer,
    Status,
    confidence_tags,
    make_feedback,
    make_result,
)
from dvm.post import NAMED_RELAYS_MAX, Post
from dvm.private import Scheme, bytes_in_event, encrypt, hide, scheme_of
from dvm.queries import JobRow
from dvm.reveals import SealedResult
from identity import Event, EventTemplate, Signer
from identity.nip19 import encode_nprofile
from identity.receipts import claim_lock
from store import Transaction
from wallet import SAT, Lock, PaymentRequest, Transport, encode_request, lock_condition
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.terms import Method

ANSWER_SECONDS: Final = 7 * 86400  # how long a relay that is away is waited for with an answer


@dataclass(frozen=True)
class Outgoing:
    """Signed answers, for whom they are, and the relays that it named besides ours."""

    events: Sequence[Event]
    relays: Sequence[str]
    reader: str


NOTHING: Final = Outgoing((), (), "")


class Answers:
    """The answers of one agent."""

    def __init__(
        self,
        signer: Signer,
        post: Post,
        requests: Requests,
        limits: ProviderLimits,
        invoices: Invoices,
    ) -> None:
        self._escrows = Escrows(post.db, post.wallet, post.clock)
        self._signer = signer
        self._post = post
        self._limits = limits
        self._requests = requests
        self._invoices = invoices

    async def to(self, job: JobRow, decision: Decision, result: str | SealedResult) -> Outgoing:
        """What a decision says about a job, which is as it moved it, in order; `result` is in the last event.

        Raises `EncryptionError` for a result that no event can carry, `JobFailed` if a sealed one is too large for its
        offer.
        """
        if not (decision.offer or decision.say or decision.result):
            return NOTHING
        request = await self._read(job) if decision.offer or job.request.has_tag(ENCRYPTED) else None
        events: list[Event] = []
        if decision.offer and request:
            if isinstance(result, SealedResult):
                events.append(await self._sign(job, request, await self._sealed_offer(job, result)))
                check_sealed_size(events[-1])
            else:
                events.append(await self._sign(job, request, await self._offer(job, request)))
        if decision.say:
            events.append(await self._sign(job, request, self._feedback(job, decision.say)))
        if decision.result and isinstance(result, str):
            events.append(await self._result(job, result))
        return Outgoing(events, self._relays(job, request), job.customer)

    async def report(self, job: JobRow, message: str, content: str) -> Outgoing:
        """How far the work is, or a part of the result. Raises `JobFailed` if that is too large for an event."""
        check_size(message + content, job.request, self._limits)
        request = await self._read(job) if job.request.has_tag(ENCRYPTED) else None
        say = Say(Status.PARTIAL if content else Status.PROCESSING, message)
        event = await self._sign(job, request, self._feedback(job, say, content))
        return Outgoing((event,), self._relays(job, request), job.customer)

    async def send(self, tx: Transaction, outgoing: Outgoing) -> None:
        """Put answers into the outbox. They go to our relays, the request's, and where the customer reads (NIP-65)."""
        until = self._post.clock.now() + ANSWER_SECONDS
        for event in outgoing.events:
            await self._post.mailboxes.send(tx, event, outgoing.reader, outgoing.relays, until=until)

    async def _read(self, job: JobRow) -> JobRequest | None:
        return await self._requests.read_again(job.request)

    async def _sign(self, job: JobRow, request: JobRequest | None, template: EventTemplate) -> Event:
        """Private if the request is. That we could not read one is said in clear: its author may not read us either."""
        scheme = scheme_of(job.request)
        if scheme and (request or await self._requests.opens(job.request)):
            template = await hide(self._signer, template, job.customer, scheme)
        return await self._signer.sign(template)

    async def _result(self, job: JobRow, text: str) -> Event:
        if scheme := scheme_of(job.request):
            text = await encrypt(self._signer, job.customer, text, scheme)
        bolt11 = await self._invoices.for_result(job) if job.price_msat else None
        return await self._signer.sign(
            make_result(
                job.request, text, price_msat=job.price_msat, now=self._post.clock.now(), relay=job.relay,
                bolt11=bolt11, confidence=job.confidence,
            )
        )  # fmt: skip

    def _feedback(self, job: JobRow, say: Say, content: str = "") -> EventTemplate:
        return make_feedback(
            job.request, say.status, now=self._post.clock.now(), content=content, relay=job.relay,
            message=say.message,
            tags=[(name, str(told)) for name, told in (("action", say.action), ("code", say.code)) if told],
        )  # fmt: skip

    async def _offer(self, job: JobRow, request: JobRequest) -> EventTemplate:
        escrow = await self._escrows.get(Role.PROVIDER, job.agent, job.id)
        agreed = escrow is not None and escrow.stage is Stage.AGREED
        lock = agreed_lock(provider_key(self._post, job.agent, job.id), request, job.locktime)
        mints = await self._post.wallet.mints_with_room(job.price_sat)
        if escrow is not None and agreed:
            lock, mints = escrow.terms.lock, (escrow.terms.mint,)
        offer = Offer(
            price_msat=job.price_msat, mints=mints, lock=lock.pubkey, lock_sig=self._claim(job),
            locktime=lock.locktime, settle=(Method.ESCROW if agreed else Method.PREPAID,),
            creq=self._creq(job, lock, mints), bolt11=await self._invoices.for_offer(job, request),
            expires_at=job.offer_expires_at, escrow=escrow_offer(escrow) if escrow is not None and agreed else None,
        )  # fmt: skip
        low = request.bid_msat is not None and request.bid_msat < job.price_msat
        return make_feedback(
            job.request, Status.PAYMENT_REQUIRED, now=self._post.clock.now(), relay=job.relay, tags=offer.to_tags(),
            message=f"the price is {job.price_msat} msat, more than your bid of {request.bid_msat}" if low else "",
        )  # fmt: skip

    def _claim(self, job: JobRow) -> str:
        return claim_lock(provider_key(self._post, job.agent, job.id), job.agent, job.id)

    async def _sealed_offer(self, job: JobRow, result: SealedResult) -> EventTemplate:
        """The offer of the key of a sealed result, which is in it under a layer for the customer's eyes alone."""
        terms, mints = result.terms, (result.terms.mint,)
        offer = Offer(
            price_msat=job.price_msat, mints=mints, lock=terms.provider_key, lock_sig=self._claim(job),
            locktime=terms.locktime, settle=(Method.REVEAL,), creq=self._creq(job, terms.lock, mints),
            expires_at=terms.deliver_by, sealed=result.sealed.promise,
        )  # fmt: skip
        content, tags = result.content, [*offer.to_tags(), *confidence_tags(job.confidence)]
        check_sealed_size(content)
        if scheme_of(job.request) is None:  # else all of the offer is encrypted
            content = await encrypt(self._signer, job.customer, content, Scheme.NIP44)
            tags.append((ENCRYPTED,))
        return make_feedback(
            job.request, Status.PAYMENT_REQUIRED, now=self._post.clock.now(), relay=job.relay, content=content,
            tags=tags,
        )  # fmt: skip

    def _creq(self, job: JobRow, lock: Lock, mints: tuple[str, ...]) -> str:
        """The NUT-18 request that an offer carries."""
        here = encode_nprofile(self._signer.public_key, self._post.pool.urls)
        request = PaymentRequest(
            id=job.id, amount=job.price_sat, unit=SAT, single_use=True, mints=mints, condition=lock_condition(lock),
            transports=(Transport("nostr", here, (("n", "17"),)),),
        )  # fmt: skip
        return encode_request(request)

    def _relays(self, job: JobRow, request: JobRequest | None) -> tuple[str, ...]:
        if request is None:  # a plain one, whose tags are read here, or one that cannot be read
            wanted = [url for tag in job.request.tags_named("relays") for url in tag[1:]]
        else:
            wanted = list(request.relays)
        return self._post.pool.choose([job.relay, *wanted], NAMED_RELAYS_MAX)


def check_sealed_size(part: str | Event) -> None:
    """Raise `JobFailed` if a sealed result, or the offer that carries it, is too large for relays."""
    size = len(part if isinstance(part, str) else part.to_json())
    if size > EVENT_BYTES_MAX:
        raise JobFailed(
            f"the result, sealed and encrypted, takes {size} bytes; at most {EVENT_BYTES_MAX} fit into an event: "
            "ask for it by another way of payment"
        )


def check_size(text: str, request: Event, limits: ProviderLimits) -> None:
    """Raise `JobFailed` if a (partial) result is too large for an event that answers `request`."""
    scheme = scheme_of(request)
    size = bytes_in_event(text, scheme)
    if size > limits.result_bytes_max:
        encrypted = ", encrypted," if scheme else ""
        raise JobFailed(
            f"the result{encrypted} takes {size} bytes; at most {limits.result_bytes_max} fit into an event"
        )
