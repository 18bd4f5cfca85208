"""Files of receipts as an honest agent makes them, and as others would like them to be."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from identity.event import Event, EventTemplate, make_template, sign_event
from identity.keys import SecretKey
from identity.merkle import Frontier, leaf_hash, prove_consistency
from identity.receipt_file import ReceiptFile, make_file
from identity.receipts import (
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
from identity.roots import Head, Root
from identity.rotation import Rotation, commitment

NOW = 1_700_010_000  # in the past of every clock
AGENT, NEXT, CUSTOMER, THIEF = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3, 4))
LOCK = SecretKey(bytes([5]) * 32)
LOCK_KEY = LOCK.compressed_public_key
OTHER_KEY = SecretKey(bytes([6]) * 32).compressed_public_key
REQUEST, RESULT = "aa" * 32, "bb" * 32
PREIMAGE = "cc" * 32
HASH = sha256(bytes.fromhex(PREIMAGE)).hexdigest()
CLAIM = claim_lock(LOCK, AGENT.public_key, REQUEST)
FIRST_LEAF = KeyLeaf(key=AGENT.public_key, next=commitment(NEXT.public_key), at=NOW - 5000)
JOB = JobLeaf(
    request=REQUEST, customer=CUSTOMER.public_key, kind=5050, method="escrow", outcome=Outcome.PAID,
    amount_msat=3000, at=NOW - 3000, result=RESULT, confidence=0.85, lock=LOCK_KEY, lock_sig=CLAIM,
)  # fmt: skip
INVOICED = JobLeaf(
    request=REQUEST, customer=CUSTOMER.public_key, kind=5050, method="invoice", outcome=Outcome.PAID,
    amount_msat=3000, at=NOW - 3000, result=RESULT, hash=HASH,
)  # fmt: skip


def secret(nonce: str, key: str = LOCK_KEY, kind: str = "P2PK") -> str:
    """A coin's secret under a lock: to the key, or to a hash and the key."""
    tags = [["sigflag", "SIG_INPUTS"], ["pubkeys", OTHER_KEY], ["n_sigs", "2"]]
    said: dict[str, Any] = {"nonce": nonce * 16, "data": key, "tags": tags}
    if kind == "HTLC":
        said |= {"data": "dd" * 32, "tags": [["pubkeys", key], ["locktime", "9"], ["refund", OTHER_KEY]]}
    return json.dumps([kind, said], separators=(",", ":"))


def coin(amount: int, text: str, signer: SecretKey | None = LOCK) -> SpentCoin:
    """A spent coin with that secret, by the look of it; without a signer nobody showed what it was spent with."""
    witness = ""
    if signer is not None:
        signature = signer.sign(sha256(text.encode()).digest()).hex()
        witness = json.dumps({"signatures": [signature]})
    return SpentCoin(amount, "00ad268c4d1f5826", text, LOCK_KEY, "11" * 32, "22" * 32, "33" * 32, witness)


COINS = SpentLock("https://mint.test", (coin(1, secret("01")), coin(2, secret("02"))))
PAID = Preimage("lnbc30n1test", PREIMAGE)


def offer(
    request: str = REQUEST, customer: SecretKey = CUSTOMER, by: SecretKey = AGENT, **told: str
) -> Event:
    """The agent's offer, which names the lock, or the invoice."""
    tags: list[tuple[str, ...]] = [("status", "payment-required"), ("e", request), ("p", customer.public_key)]
    invoice = told.get("invoice")
    lock = ("lock", told.get("lock", LOCK_KEY), told.get("claim", CLAIM))
    tags.append(("amount", "3000", invoice) if invoice else lock)
    return sign_event(make_template(7000, tags=tags, created_at=NOW - 4000), by)


REVIEW = Review(
    request_id=REQUEST, result_id=RESULT, provider=AGENT.public_key, kind=5050, method="escrow", amount_msat=3000,
    rating=4, confidence=0.85, evidence=COINS, offer=offer(), text='good: "quick"\n\\ \x07 \u2028 ☃',
)  # fmt: skip
PAID_REVIEW = replace(REVIEW, method="invoice", evidence=PAID, offer=offer(invoice=PAID.bolt11))


def signed(review: Review, by: SecretKey = CUSTOMER, at: int = NOW - 2000) -> Event:
    """The customer's event."""
    return sign_event(review.to_template(at, "wss://relay.test"), by)


@dataclass(frozen=True)
class Log:
    """The leaves of a log, and the size of what was published before."""

    leaves: tuple[str, ...] = (write_leaf(FIRST_LEAF),)
    published: int = 0

    def add(self, *leaves: Leaf | str) -> "Log":
        """With these leaves."""
        more = tuple(leaf if isinstance(leaf, str) else write_leaf(leaf) for leaf in leaves)
        return replace(self, leaves=self.leaves + more)

    def publish(self) -> "Log":
        """With all of them published."""
        return replace(self, published=len(self.leaves))

    @property
    def head(self) -> Head:
        """Its state."""
        return head_of(self.leaves)

    def rotate(
        self, old: SecretKey, new: SecretKey, *, by_both: bool, following: SecretKey = THIEF, at: int = NOW - 1500,
        signers: tuple[SecretKey, SecretKey] | None = None, head: Head | None = None,
    ) -> "Log":  # fmt: skip
        """Over to another key. `signers` are those who sign in place of the old and of the new one."""
        by_old, by_new = signers or (old, new)
        rotation = Rotation(
            AGENT.public_key, old.public_key, new.public_key, head or self.head, commitment(following.public_key), at,
            by_both,
        )  # fmt: skip
        event = sign_event(rotation.to_template(), by_new)
        if by_both:
            event = sign_event(rotation.countersigned(event), by_old)
        text = event.to_json().decode()
        return self.add(KeyLeaf(key=new.public_key, next=rotation.next, at=at, rotation=text))

    def root(self, by: SecretKey = AGENT, at: int = NOW - 1000, *, replaceable: bool = False) -> Event:
        """Its root as it is published."""
        previous = head_of(self.leaves[: self.published]) if self.published else None
        proof = prove(self.leaves, self.published) if self.published else ()
        root = Root(AGENT.public_key, self.head, previous, proof, ("wss://relay.test",))
        return sign_event(root.to_templates(at)[replaceable], by)

    def file(self, request: str | None = REQUEST, review: Event | None = None, **root: Any) -> ReceiptFile:
        """A file of it."""
        return make_file(self.root(**root), self.leaves, request, review)


def head_of(leaves: Sequence[str]) -> Head:
    """The state of a log with these leaves."""
    frontier, _ = Frontier().extend([leaf_hash(leaf.encode()) for leaf in leaves])
    return Head(frontier.size, frontier.root.hex())


def prove(leaves: Sequence[str], old_size: int) -> tuple[str, ...]:
    """That the log grew from its first so many leaves."""
    _, runs = Frontier().extend([leaf_hash(leaf.encode()) for leaf in leaves])
    rows = {level: row for level, _, row in runs}
    proof = prove_consistency(old_size, len(leaves), lambda level, number: rows[level][number])
    return tuple(step.hex() for step in proof)


def other_job(number: int) -> JobLeaf:
    """Somebody else's job."""
    return JobLeaf(
        request=f"{number:064x}", customer="ee" * 32, kind=5001, method="prepaid", outcome=Outcome.PAID,
        amount_msat=21_000, at=NOW - 2500,
    )  # fmt: skip


def answer_to(review: Event) -> ReviewLeaf:
    """The agent's answer."""
    return ReviewLeaf(review=review.id, request=REQUEST, at=NOW - 1800, answer="thank you ☃")


def log_of(review: Event | None = None, job: JobLeaf = JOB, *, others: int = 5) -> Log:
    """A log with the job, published, and since then the answer and other jobs."""
    jobs = [other_job(number) for number in range(others)]
    log = Log().add(*jobs[: others // 2], job).publish()
    return log.add(*([answer_to(review)] if review else []), *jobs[others // 2 :])


def resigned(event: Event, by: SecretKey, **changes: Any) -> Event:
    """The same event with other words, signed anew."""
    said = {"kind": event.kind, "content": event.content, "tags": event.tags, "created_at": event.created_at}
    return sign_event(EventTemplate(**(said | changes)), by)
