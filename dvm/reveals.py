"""What both sides of a sealed result know about it (escrow §3): its terms, what its key opens, the proof of a fraud."""

import base64
from dataclasses import dataclass, field, replace
from typing import Final

from dvm import queries, queries_reveals
from dvm.escrow.agreement import Agreement
from dvm.jobs.lifecycle import KeySold, KeyUnsold, decide_job
from dvm.nip90 import Feedback, JobRequest
from dvm.orders.lifecycle import FalselySealed, OrderInput, ResultArrived
from dvm.queries import OrderRow
from identity import InvalidSeal
from identity.seal import Failure, FraudProof, Sealed, open_seal, read_promise
from store import Database, Transaction
from wallet import queries_escrows
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms

REVEAL_SECONDS_MAX: Final = 7200  # a customer locks nothing for longer than this for a sealed result


@dataclass(frozen=True)
class SealedResult:
    """A result that is done and for sale. `preimage` is its key, 64 hex digits."""

    terms: Terms
    sealed: Sealed
    preimage: str = field(repr=False)

    @property
    def content(self) -> str:
        """The ciphertext as the offer carries it, under a layer for the customer's eyes: the mint learns the key."""
        return base64.b64encode(self.sealed.ciphertext).decode()


def sealed_agreement(feedback: Feedback, request: JobRequest, provider: str) -> Agreement | None:
    """What the offer of a sealed result means for our request; None if it offers none, or not all of it.

    The promise is read from what everybody can see of the offer: what was only said to us would prove nothing.
    """
    offer = feedback.offer
    if offer is None or Method.REVEAL not in offer.settle or Method.REVEAL not in request.settle:
        return None
    try:
        promise = read_promise(feedback.event)
        ciphertext = base64.b64decode(feedback.content, validate=True)
    except (InvalidSeal, ValueError):
        return None
    if not (offer.lock and offer.locktime and offer.expires_at and offer.mints and request.lock):
        return None
    if promise.request_id != request.id or not promise.is_about(ciphertext):
        return None
    terms = Terms(
        method=Method.REVEAL, request_id=request.id, mint=offer.mints[0], price_sat=-(-offer.price_msat // 1000),
        provider=provider, provider_key=offer.lock, customer=request.customer, customer_key=request.lock,
        deliver_by=offer.expires_at, review_seconds=0, dispute_seconds=0, locktime=offer.locktime,
        hash=promise.key_hash,
    )  # fmt: skip
    return Agreement(terms, ciphertext=feedback.content)


# The customer's end ----------------------------------------------------------------------------------------------


def fraud_proof(order: OrderRow, escrow: EscrowRow) -> FraudProof | None:
    """What we hold of a sealed result that we have paid for: offer, ciphertext and key; None if it is not all there.

    It is a proof only if the seal is false: `FraudProof.check` tells.
    """
    if order.offer is None or escrow.ciphertext is None or escrow.preimage is None:
        return None
    return FraudProof(order.offer, base64.b64decode(escrow.ciphertext), bytes.fromhex(escrow.preimage))


def opened(order: OrderRow, escrow: EscrowRow) -> bytes | Failure | None:
    """The result itself, or why the seal was false; None as long as its key is not known."""
    proof = fraud_proof(order, escrow)
    return None if proof is None else open_seal(proof.k, proof.ciphertext, read_promise(proof.event))


async def sealed_text(db: Database, order: OrderRow) -> str | None:
    """The text of an order's sealed result, once its key is known; what is no UTF-8 in it is replaced."""
    escrow = await queries_escrows.get(db, Role.CUSTOMER, order.customer, order.id)
    result = None if escrow is None else opened(order, escrow)
    return result.decode(errors="replace") if isinstance(result, bytes) else None


def sold(order: OrderRow, escrow: EscrowRow) -> OrderInput | None:
    """What it means for the order that the key of its result is known; None as long as it is not."""
    match opened(order, escrow):
        case bytes():
            return ResultArrived()
        case Failure() as failure if failure.is_fraud:
            shown = f"`tradepost escrow proof {order.id[:12]}` shows it to anybody"
            return FalselySealed(f"the agent sold a false seal: {failure}; {shown}")
        case _:
            return None


# The provider's end ----------------------------------------------------------------------------------------------


async def end_sale(tx: Transaction, escrow: EscrowRow, stage: Stage, now: int) -> None:
    """Write the job's end with that of the sale of its result. A result that was sealed and not bought stays lent."""
    if stage is Stage.PAID or escrow.preimage is None:
        await queries_reveals.strike(tx, escrow.party, escrow.request_id)
    job = await queries.get_job(tx, escrow.party, escrow.request_id)
    decision = job and decide_job(job.state, KeySold() if stage is Stage.PAID else KeyUnsold())
    if job is not None and decision is not None:
        await queries.update_job(tx, replace(job, state=decision.state, updated_at=now), job.state)
