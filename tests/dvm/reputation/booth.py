"""An agent's log made by hand: leaves, roots and pages as an agent signs them, good ones and bad ones, and reviews."""

import secrets
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from hashlib import sha256

import bolt11 as bolt11_codec

from identity import Event, EventTemplate, SecretKey, make_template, merkle, sign_event
from identity.receipts import (
    Evidence,
    JobLeaf,
    KeyLeaf,
    Leaf,
    Outcome,
    Preimage,
    Review,
    ReviewLeaf,
    SpentCoin,
    SpentLock,
    claim_lock,
    write_leaf,
)
from identity.roots import Head, Root, make_pages
from identity.rotation import Rotation, commitment
from tradepost.testing import MemoryMint
from wallet import Lock, Proof, lock_secret
from wallet.crypto import proof_y
from wallet.selection import split_amount
from wallet.witness import make_witness

SAT = 21


class Booth:
    """One agent. `now` is when things happen, `published` the state that was published last."""

    def __init__(self, now: int, key: SecretKey | None = None) -> None:
        self.now = now
        self.key = key or SecretKey.generate()
        self.next_key = SecretKey.generate()
        self.log = self.key.public_key
        self.leaves: list[str] = []
        self.published = Head(0, merkle.EMPTY_ROOT.hex())
        self.append(KeyLeaf(key=self.log, next=commitment(self.next_key.public_key), at=now))

    def append(self, *leaves: Leaf) -> None:
        self.leaves += [write_leaf(leaf) for leaf in leaves]

    @property
    def nodes(self) -> merkle.Node:
        _, runs = merkle.Frontier().extend([merkle.leaf_hash(leaf.encode()) for leaf in self.leaves])
        rows = {level: hashes for level, _, hashes in runs}
        return lambda level, number: rows[level][number]

    def publish(self, relays: tuple[str, ...] = ()) -> list[Event]:
        """The newest root in both its forms, and the pages of leaves since the last one."""
        last, size = self.published, len(self.leaves)
        head = Head(size, merkle.root_of(size, self.nodes).hex())
        proof = (
            [one.hex() for one in merkle.prove_consistency(last.size, size, self.nodes)] if last.size else []
        )
        root = Root(self.log, head, last if last.size else None, tuple(proof), relays)
        pages = make_pages(self.log, last.size, self.leaves[last.size :])
        templates = [*root.to_templates(self.now), *(page.to_template(self.now) for page in pages)]
        self.published, self.now = head, self.now + 1
        return self.sign(templates)

    def sign(self, templates: Iterable[EventTemplate]) -> list[Event]:
        return [sign_event(template, self.key) for template in templates]

    def twin(self) -> "Booth":
        """The same agent with the same log up to here, that goes on in another way."""
        other = copy(self)
        other.leaves = list(self.leaves)
        return other


class Sold:
    """A job of a booth with its customer: one key, one request, one lock or invoice."""

    def __init__(
        self, booth: Booth, *, customer: SecretKey | None = None, lock: SecretKey | None = None
    ) -> None:
        self.booth = booth
        self.customer = customer or SecretKey.generate()
        self.lock = lock or SecretKey.generate()
        self.preimage = secrets.token_bytes(32)
        self.bolt11 = invoice(self.preimage, 1000 * SAT, booth.now)
        self.request = secrets.token_hex(32)

    @property
    def claim(self) -> str:
        """The lock's own word on whose it is."""
        return claim_lock(self.lock, self.booth.key.public_key, self.request)

    def leaf(self, method: str = "prepaid", outcome: Outcome = Outcome.PAID) -> JobLeaf:
        return JobLeaf(
            request=self.request, customer=self.customer.public_key, kind=5001, method=method, outcome=outcome,
            amount_msat=1000 * SAT, at=self.booth.now, lock=self.lock.compressed_public_key, lock_sig=self.claim,
            hash=sha256(self.preimage).hexdigest(), confidence=0.8,
        )  # fmt: skip

    def offer(self) -> Event:
        tags = [
            ("e", self.request), ("p", self.customer.public_key), ("status", "payment-required"),
            ("lock", self.lock.compressed_public_key, self.claim), ("amount", str(1000 * SAT), self.bolt11),
        ]  # fmt: skip
        return sign_event(make_template(7000, tags=tags, created_at=self.booth.now), self.booth.key)

    def review(self, evidence: Evidence = None, *, rating: int = 5, by: SecretKey | None = None) -> Event:
        review = Review(
            request_id=self.request, provider=self.booth.log, kind=5001, method="prepaid", amount_msat=1000 * SAT,
            rating=rating, evidence=evidence, offer=self.offer(), confidence=0.8, text="quick",
        )  # fmt: skip
        return sign_event(review.to_template(self.booth.now), by or self.customer)

    def paid_by_preimage(self) -> Preimage:
        return Preimage(self.bolt11, self.preimage.hex())

    def paid_at(self, mint: MemoryMint) -> SpentLock:
        """Coins of a mint for this job, which the agent has taken."""
        coins = []
        for amount_sat in split_amount(SAT):
            secret = lock_secret(Lock(self.lock.compressed_public_key), secrets.token_hex(16))
            proof = mint.coin(amount_sat, secret).with_witness(make_witness(secret, [self.lock]))
            mint.spent[proof_y(secret)] = proof
            coins.append(shown(proof))
        return SpentLock(mint.url, tuple(coins))

    def answer(self, review: Event) -> ReviewLeaf:
        return ReviewLeaf(review=review.id, request=self.request, at=self.booth.now, answer="thank you")


def shown(proof: Proof) -> SpentCoin:
    """A coin as a review has it."""
    assert proof.dleq is not None
    assert proof.dleq.r is not None
    return SpentCoin(
        proof.amount,
        proof.id,
        proof.secret,
        proof.C,
        proof.dleq.e,
        proof.dleq.s,
        proof.dleq.r,
        proof.witness or "",
    )


def without_witness(lock: SpentLock) -> SpentLock:
    """The same coins, of which nobody says what they were spent with."""
    return replace(lock, coins=tuple(replace(coin, witness="") for coin in lock.coins))


def invoice(preimage: bytes, amount_msat: int, now: int) -> str:
    """A signed invoice whose preimage is known."""
    tags = bolt11_codec.Tags()
    tags.add(bolt11_codec.TagChar.payment_hash, sha256(preimage).hexdigest())
    tags.add(bolt11_codec.TagChar.payment_secret, "22" * 32)
    tags.add(bolt11_codec.TagChar.description, "a job")
    amount = bolt11_codec.MilliSatoshi(amount_msat)
    return bolt11_codec.encode(
        bolt11_codec.Bolt11(currency="bc", amount_msat=amount, date=now, tags=tags), "11" * 32
    )


def honest(now: int, mint: MemoryMint) -> tuple[Booth, Sequence[Event]]:
    """An agent whose four customers showed a spent lock, a preimage, nothing, and said nothing; and all its events."""
    booth = Booth(now)
    by_lock, by_preimage, by_nothing, silent = (Sold(booth) for _ in range(4))
    reviews = [
        by_lock.review(by_lock.paid_at(mint)),
        by_preimage.review(by_preimage.paid_by_preimage(), rating=4),
        by_nothing.review(rating=3),
    ]
    booth.append(by_lock.leaf(), by_preimage.leaf("invoice"))
    first = booth.publish()
    booth.append(by_nothing.leaf(), silent.leaf())
    booth.append(
        *(one.answer(review) for one, review in zip((by_lock, by_preimage, by_nothing), reviews, strict=True))
    )
    return booth, [*first, *booth.publish(), *reviews]


def handed_on(booth: Booth) -> tuple[Booth, Event]:
    """The same log under its next key, and the event by which it was handed on."""
    after = booth.twin()
    after.key, after.next_key = booth.next_key, SecretKey.generate()
    rotation = Rotation(
        log=booth.log, old=booth.key.public_key, new=after.key.public_key,
        head=Head(len(booth.leaves), booth.published.root), next=commitment(after.next_key.public_key), at=booth.now,
        by_both=True,
    )  # fmt: skip
    by_new = sign_event(rotation.to_template(), after.key)
    event = sign_event(rotation.countersigned(by_new), booth.key)
    leaf = KeyLeaf(
        key=after.key.public_key, next=rotation.next, at=booth.now, rotation=event.to_json().decode()
    )
    after.leaves.append(write_leaf(leaf))
    return after, event
