"""A small world for audits: an agent that keeps a log and publishes it, customers that write reviews."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from typing import Any

from identity import merkle
from identity.audit import Audit, Finding, Kind, Receipt, Settlement, Verdict, audit
from identity.event import Event, make_template, sign_event
from identity.keys import SecretKey
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
from identity.roots import LEAVES_NAME, Head, Root, make_pages
from identity.rotation import commitment

NOW = 1_790_000_000
DAY = 86_400
MINT = "https://mint.test"
AGENT, STRANGER = SecretKey(b"\x07" * 32), SecretKey(b"\x08" * 32)
NEXT = SecretKey(b"\x09" * 32)


def customer(number: int) -> SecretKey:
    """One of many."""
    return SecretKey(sha256(b"customer %d" % number).digest())


def an_id(name: object) -> str:
    """An event's id, or any other hash."""
    return sha256(str(name).encode()).hexdigest()


def lock_key(name: object) -> SecretKey:
    """A one-job key."""
    return SecretKey(sha256(str(name).encode()).digest())


def point(name: object) -> str:
    """The public one, as it is in locks."""
    return lock_key(name).compressed_public_key


@cache
def claim(name: object, by: SecretKey, request: str) -> str:
    """What that key signs to be an agent's, for a job: signatures differ each time, and leaves must not."""
    return claim_lock(lock_key(name), by.public_key, request)


def coin(name: object, amount: int = 5) -> SpentCoin:
    """A coin by its looks."""
    return SpentCoin(amount, "00ad268c4d1f5826", f"secret {name}", point(name), *(an_id(name),) * 3)


def first_leaf() -> KeyLeaf:
    """The leaf that the agent's log begins with."""
    return KeyLeaf(key=AGENT.public_key, next=commitment(NEXT.public_key), at=NOW - 400 * DAY)


def job(number: int, lock: object = None, by: SecretKey = AGENT, **other: Any) -> JobLeaf:
    """Job number so-and-so, of the customer with that number, for 5 sat under a lock: its own, that of the name, or none."""
    told: dict[str, Any] = {
        "request": an_id(f"request {number}"), "customer": customer(number).public_key, "kind": 5050, "method": "escrow",
        "outcome": Outcome.PAID, "amount_msat": 5000, "at": NOW - 10 * DAY + number,
    } | other  # fmt: skip
    if lock != "":
        name = lock or f"lock {number}"
        told = {"lock": point(name), "lock_sig": claim(name, by, told["request"])} | told
    return JobLeaf(**told)


def offer(number: int, by: SecretKey = AGENT, **other: str) -> Event:
    """The agent's offer for that job."""
    said = {
        "request": an_id(f"request {number}"),
        "customer": customer(number).public_key,
        "lock": f"lock {number}",
    }
    said |= other
    tags: list[tuple[str, ...]] = [
        ("status", "payment-required"),
        ("e", said["request"]),
        ("p", said["customer"]),
    ]
    lock = ("lock", point(said["lock"]), claim(said["lock"], by, said["request"]))
    tags.append(("amount", "5000", said["bolt11"]) if "bolt11" in said else lock)
    return sign_event(make_template(7000, tags=tags, created_at=NOW - 11 * DAY), by)


def review(number: int, by: SecretKey | None = None, at: int | None = None, **other: Any) -> Event:
    """The review of that job by its customer, with coins."""
    told: dict[str, Any] = {
        "request_id": an_id(f"request {number}"), "provider": AGENT.public_key, "kind": 5050, "method": "escrow",
        "amount_msat": 5000, "rating": 5, "evidence": SpentLock(MINT, (coin(number),)),
    }  # fmt: skip
    template = Review(**(told | other)).to_template(NOW - 9 * DAY + number if at is None else at)
    return sign_event(template, by or customer(number))


def preimage(number: int) -> Preimage:
    """What came with the payment of that job's invoice."""
    secret = an_id(f"preimage {number}")
    return Preimage(f"lnbc5000n1{number}", secret)


def payment_hash(number: int) -> str:
    """The hash of that invoice."""
    return sha256(bytes.fromhex(preimage(number).preimage)).hexdigest()


def settled(number: int, **other: Any) -> Settlement:
    """What somebody who asked the mint says of the payment of that job."""
    found = Settlement(frozenset({an_id(f"Y {number}")}), 5000, lock=point(f"lock {number}"), asked=(MINT,))
    return replace(found, **other)


def answer(to: Event, number: int, **other: Any) -> ReviewLeaf:
    """The agent's leaf for a review of that job."""
    told: dict[str, Any] = {"review": to.id, "request": an_id(f"request {number}"), "at": NOW - 8 * DAY}
    return ReviewLeaf(**(told | other))


def prefix_head(leaves: Sequence[str]) -> Head:
    """The state after these leaves."""
    frontier, _ = merkle.Frontier().extend([merkle.leaf_hash(leaf.encode()) for leaf in leaves])
    return Head(len(leaves), frontier.root.hex())


def prove_growth(leaves: Sequence[str], old: int) -> tuple[str, ...]:
    """The proof that the log with these leaves grew from its first `old` ones."""
    _, runs = merkle.Frontier().extend([merkle.leaf_hash(leaf.encode()) for leaf in leaves])
    nodes = {(level, first + place): one for level, first, row in runs for place, one in enumerate(row)}
    proof = merkle.prove_consistency(old, len(leaves), lambda level, number: nodes[level, number])
    return tuple(step.hex() for step in proof)


@dataclass
class World:
    """What relays show of the agent, and what the reader made of the payments."""

    leaves: list[str] = field(default_factory=lambda: [write_leaf(first_leaf())])
    events: list[Event] = field(default_factory=list)
    settlements: dict[str, Settlement] = field(default_factory=dict)
    published: Head | None = None

    def log(self, *leaves: Leaf | str) -> None:
        """Append leaves."""
        self.leaves += [leaf if isinstance(leaf, str) else write_leaf(leaf) for leaf in leaves]

    def tell(self, event: Event, found: Settlement | None = None) -> Event:
        """Publish a review."""
        self.events.append(event)
        if found is not None:
            self.settlements[event.id] = found
        return event

    def publish(self, at: int = NOW - 7 * DAY, by: SecretKey = AGENT) -> list[Event]:
        """Publish what is new as the agent does: both forms of the root, and pages."""
        head, last = prefix_head(self.leaves), self.published
        proof = prove_growth(self.leaves, last.size) if last else ()
        root = Root(AGENT.public_key, head, last, proof, ("wss://relay.test",))
        first = last.size if last else 0
        pages = make_pages(AGENT.public_key, first, self.leaves[first:])
        templates = [*root.to_templates(at), *(page.to_template(at) for page in pages)]
        events = [sign_event(template, by) for template in templates]
        self.events += events
        self.published = head
        return events

    def lose_pages(self) -> None:
        """The relays have the roots, and not the leaves."""
        self.events = [event for event in self.events if ("t", LEAVES_NAME) not in event.tags]

    def judge(self, now: int = NOW, known: Event | None = None) -> Audit:
        """The audit."""
        return audit(AGENT.public_key, self.events, self.settlements, now, known)


def kinds(found: Audit) -> list[Kind]:
    """Of its findings."""
    return [one.kind for one in found.findings]


def the(found: Audit, kind: Kind) -> Finding:
    """Its only finding of a kind."""
    [finding] = [one for one in found.findings if one.kind is kind]
    return finding


def verdicts(found: Audit) -> list[Verdict]:
    """Of its receipts."""
    return [receipt.verdict for receipt in found.receipts]


def honest(jobs: int = 3) -> World:
    """An agent whose customers all wrote a review but the last."""
    world = World()
    world.log(*(job(number) for number in range(jobs)))
    world.publish(NOW - 9 * DAY)
    for number in range(jobs - 1):
        world.log(answer(world.tell(review(number), settled(number)), number, answer="thanks"))
    world.publish()
    return world


def only(found: Audit) -> Receipt:
    """Its only receipt."""
    [receipt] = found.receipts
    return receipt
