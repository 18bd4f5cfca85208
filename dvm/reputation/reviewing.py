"""A customer's review of a job that it bought, with what proves that the job was paid for.

Inbox: `Customer.review`. Duty: a job has one review, which is on disk, and on its way, before anybody sees it. No coin
goes out with it unless its mint calls it spent in that very moment, and none that came back to us.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dvm import queries_reputation as reviews
from dvm.errors import BadRequest
from dvm.escrow.parties import CustomerDesk
from dvm.nip90 import EVENT_BYTES_MAX, bytes_signed, hint_in, parse_result
from dvm.orders.bolt11_purchases import is_by_invoice
from dvm.orders.lifecycle import OrderState
from dvm.post import Post
from dvm.queries import OrderRow
from dvm.queries_reputation import ReviewRow
from identity import Event, EventTemplate, SecretKey, Signer
from identity.receipts import (
    RATING_MAX,
    TEXT_CHARS_MAX,
    Evidence,
    Preimage,
    Review,
    SpentCoin,
    SpentLock,
    parse_review,
)
from wallet import Proof, is_preimage, queries_rails, signers
from wallet.errors import Action
from wallet.escrow import Stage
from wallet.invoice import parse_invoice
from wallet.mint import CoinState, ProofStateAnswer
from wallet.queries_escrows import EscrowRow
from wallet.rails import Payment, SendState
from wallet.terms import Method

FREE = "free"


@dataclass(frozen=True)
class _Settled:
    """How an order was paid; `named_by` is the agent's event that names the lock or the invoice, if all can read it."""

    method: str
    amount_msat: int
    evidence: Evidence = None
    named_by: Event | None = None


class Reviewing:
    """The reviews of one customer. `lock_key` gives its one-job key for an order's nonce."""

    def __init__(
        self, post: Post, signer: Signer, desk: CustomerDesk, lock_key: Callable[[str], SecretKey]
    ) -> None:
        self._post = post
        self._signer = signer
        self._desk = desk
        self._lock_key = lock_key

    async def write(self, row: OrderRow, rating: int, text: str) -> Event:
        """See `Customer.review`."""
        if not 1 <= rating <= RATING_MAX:
            raise BadRequest(f"a rating is a whole number from 1 to {RATING_MAX}, the best")
        if len(text) > TEXT_CHARS_MAX:
            raise BadRequest(f"a review has {TEXT_CHARS_MAX} characters at most, this one has {len(text)}")
        if known := await reviews.review_of(self._post.db, row.provider, row.id):
            return _same(known, rating, text)
        escrow = await self._desk.get(row.id)
        check_ended(row, escrow)
        paid = await self._settled(row, escrow)
        review = Review(
            request_id=row.id, provider=row.provider, kind=row.kind, method=paid.method, amount_msat=paid.amount_msat,
            rating=rating, result_id=_result_id(row, escrow), confidence=row.confidence, evidence=paid.evidence,
            offer=paid.named_by, text=text,
        )  # fmt: skip
        now = self._post.clock.now()
        event = await self._signer.sign(fitting(review, now, self._post.pool.urls[0]))
        new = ReviewRow(event.id, row.provider, row.id, event, "", None, now)
        async with self._post.db.transaction() as tx:
            if await reviews.insert_review(tx, new):
                await self._post.mailboxes.send(tx, event, row.provider, hint_in(row.request))
                return event
            known = await reviews.review_of(tx, row.provider, row.id)  # written in this very moment
        assert known is not None
        return _same(known, rating, text)

    async def _settled(self, row: OrderRow, escrow: EscrowRow | None) -> _Settled:
        """How an order that has ended was paid. Raises `BadRequest` while it is not, and `WalletError`."""
        if row.op_id is None:
            return await self._on_credit(row)
        if is_by_invoice(row):
            payment = await queries_rails.payment(self._post.db, row.op_id)
            assert payment is not None
            return _by_invoice(payment, row.offer, came_back=row.state is OrderState.REFUNDED)
        method = escrow.terms.method if escrow else Method.PREPAID
        offer = row.offer if row.offer is not None and row.offer.has_tag("lock") else None
        evidence = await self._spent_lock(row, escrow)
        # What is claimed is what is shown: a ruling may have given a part of the price back.
        sat = min(row.price_sat, sum(coin.amount for coin in evidence.coins)) if evidence else row.price_sat
        return _Settled(method, 1000 * sat, evidence, offer)

    async def _on_credit(self, row: OrderRow) -> _Settled:
        """Work that was done first: paid for by the invoice that came with it, or free."""
        result = parse_result(row.result) if row.result else None
        if result is None or result.bolt11 is None:
            return _Settled(FREE, 0)
        payment = await queries_rails.payment_of(self._post.db, parse_invoice(result.bolt11).payment_hash)
        if payment is None:
            raise BadRequest(
                f"job {row.id[:12]} is not paid: pay its invoice by `tradepost wallet pay {result.bolt11}`"
            )
        if payment.state is not SendState.PAID:
            raise _too_early(f"the payment for job {row.id[:12]} is under way")
        return _by_invoice(payment, result.event, came_back=False)

    async def _spent_lock(self, row: OrderRow, escrow: EscrowRow | None) -> SpentLock | None:
        """The coins that went to the agent, by the word of their mint at this moment; None if there are none.

        Raises `BadRequest` while the agent has yet to take some, and `WalletError` if the mint does not say.
        """
        assert row.op_id is not None
        outcome = await self._post.wallet.outcome(row.op_id)
        token = outcome.token if outcome else None
        if token is None:
            return None
        states = await self._post.wallet.states(token.mint, [proof.secret for proof in token.proofs])
        spent = [proof for proof in token.proofs if states[proof.secret].state is CoinState.SPENT]
        if len(spent) < len(token.proofs) and self._post.clock.now() <= (row.locktime or 0):
            raise _too_early(f"the agent has not taken the sats for job {row.id[:12]} yet")
        ours = returned(row, escrow, spent, states, self._lock_key(row.lock_nonce).public_key)
        coins = [
            _spent_coin(proof, states[proof.secret].witness) for proof in spent if proof.secret not in ours
        ]
        proven = tuple(coin for coin in coins if coin is not None)
        return SpentLock(token.mint, proven) if proven else None


def check_ended(row: OrderRow, escrow: EscrowRow | None) -> None:
    """Raise `BadRequest` unless money left for an order, or its work was free, and both have ended."""
    short = row.id[:12]
    if not row.state.is_final:
        raise _too_early(f"job {short} is {row.state}, and is reviewed once it has ended")
    if row.state in (OrderState.FAILED, OrderState.EXPIRED, OrderState.CANCELLED):
        raise BadRequest(
            f"nothing was paid for job {short}, which is {row.state}: there is nothing to review"
        )
    if escrow is not None and escrow.stage is Stage.DELIVERED:
        raise BadRequest(
            f"job {short} is not paid yet: `tradepost escrow accept {short}` pays, `tradepost escrow dispute {short} "
            "--reason …` refuses; review it then"
        )
    if escrow is not None and not escrow.stage.is_final:
        raise _too_early(f"the sats for job {short} are still in escrow, {escrow.stage}")


def returned(
    row: OrderRow,
    escrow: EscrowRow | None,
    spent: Sequence[Proof],
    states: Mapping[str, ProofStateAnswer],
    our_key: str,
) -> frozenset[str]:
    """The secrets of those of an order's spent coins that were spent for us: what they paid came back."""
    every = frozenset(proof.secret for proof in spent)
    if escrow is not None and escrow.terms.method is Method.ESCROW:
        # Both parties may have signed any of these; a ruling signed over to us what it awards us.
        signed = frozenset(escrow.signatures) if escrow.ruling else every
        return signed or every if escrow.stage is Stage.REFUNDED else frozenset()
    # Ours is the refund key, and the mint shows who signed. If we took none back and have our money, it was sent back.
    refunded = frozenset(secret for secret in every if signers(secret, states[secret].witness, [our_key]))
    return every if row.state is OrderState.REFUNDED and not refunded else refunded


def fitting(review: Review, now: int, relay: str) -> EventTemplate:
    """The event of a review, with as much of it as relays take.

    The first to go is the offer, which may hold a whole sealed result, then what coins were spent with: any mint shows
    that. What is left always fits.
    """
    small = replace(review, offer=None)
    for whole in (review, small):
        template = whole.to_template(now, relay)
        if bytes_signed(template) <= EVENT_BYTES_MAX:
            return template
    if isinstance(review.evidence, SpentLock):
        coins = tuple(replace(coin, witness="") for coin in review.evidence.coins)
        small = replace(small, evidence=replace(review.evidence, coins=coins))
    return small.to_template(now, relay)


def _by_invoice(payment: Payment, said: Event | None, *, came_back: bool) -> _Settled:
    """By Lightning; a rail that tells no preimage leaves nothing to show."""
    told = payment.preimage
    is_proof = told is not None and is_preimage(told, payment.payment_hash) and not came_back
    evidence = Preimage(payment.bolt11, told) if told is not None and is_proof else None
    is_named = said is not None and any(payment.bolt11 in tag for tag in said.tags_named("amount"))
    return _Settled(Method.INVOICE, payment.amount_msat, evidence, said if is_named else None)


def _spent_coin(proof: Proof, witness: str | None) -> SpentCoin | None:
    """None for a coin that was restored without its DLEQ: nobody could tell that its mint made it."""
    dleq = proof.dleq
    if dleq is None or dleq.r is None:
        return None
    return SpentCoin(proof.amount, proof.id, proof.secret, proof.C, dleq.e, dleq.s, dleq.r, witness or "")


def _result_id(row: OrderRow, escrow: EscrowRow | None) -> str | None:
    """The event that has the result; a sealed one is in the offer of its key."""
    if row.result is not None:
        return row.result.id
    is_sealed = escrow is not None and escrow.terms.method is Method.REVEAL
    return row.offer.id if is_sealed and row.offer is not None else None


def _same(known: ReviewRow, rating: int, text: str) -> Event:
    said = parse_review(known.event)
    if (said.rating, said.text) != (rating, text):
        raise BadRequest(
            f"you have reviewed job {known.request_id[:12]} already, with {said.rating} of {RATING_MAX}: a job has one "
            "review, and it stays"
        )
    return known.event


def _too_early(what: str) -> BadRequest:
    return BadRequest(
        f"{what}: wait, `tradepost settle` goes on with it, and review it then", action=Action.WAIT
    )
