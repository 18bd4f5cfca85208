"""One receipt in a file that anybody checks offline: a root, leaves with their proofs, the review. Pure.

The file's form: docs/receipts.md. `check_file` says of each check whether it passed, and what nobody can know without
asking a mint or a relay. `examples/verify_receipt.py` does the same with none of our code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Final, Literal

import msgspec
import orjson

from identity import merkle
from identity.errors import InvalidEvent, InvalidReceipt
from identity.event import Event, check_form, parse_event
from identity.keys import verify_signature
from identity.receipts import (
    JobLeaf,
    KeyLeaf,
    Preimage,
    Review,
    ReviewLeaf,
    SpentCoin,
    SpentLock,
    is_lock_of,
    parse_leaf,
    parse_review,
)
from identity.roots import Head, Root, parse_root
from identity.rotation import FUTURE_SECONDS_MAX, commitment, parse_rotation

FORMAT: Final = "tradepost-receipt-1"
FILE_BYTES_MAX: Final = 2_000_000
LEAVES_MAX: Final = 128
FEEDBACK: Final = 7000
RESULTS: Final = range(6000, 7000)


@dataclass(frozen=True)
class ProvedLeaf:
    """A line of the log, its number, and the proof that it is under the root (32-byte hashes in hex)."""

    number: int
    leaf: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class ReceiptFile:
    """What is in a file. `leaves`: the job's, the review's if there is one, and those of the log's keys.

    Without a job's leaf it is a file of the root alone.
    """

    root: Event
    leaves: tuple[ProvedLeaf, ...] = ()
    review: Event | None = None

    def to_json(self) -> bytes:
        """The file."""
        leaves = [{"number": one.number, "leaf": one.leaf, "path": one.path} for one in self.leaves]
        review = self.review and self.review.to_dict()
        return orjson.dumps(
            {"format": FORMAT, "root": self.root.to_dict(), "leaves": leaves, "review": review},
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )


def make_file(
    root: Event, leaves: Sequence[str], request_id: str | None = None, review: Event | None = None
) -> ReceiptFile:
    """The file of one job, or of a root alone, out of all leaves of its log, or at least as many as the root is of.

    Of leaves that tell of a job or of a review again, the first counts. Raises `InvalidReceipt` if these are not the
    leaves under the root, or none of them is of this job.
    """
    head = parse_root(root).head
    frontier, runs = merkle.Frontier().extend(
        [merkle.leaf_hash(leaf.encode()) for leaf in leaves[: head.size]]
    )
    if (frontier.size, frontier.root.hex()) != (head.size, head.root):
        raise InvalidReceipt("these leaves are not those under the root")
    rows = {level: hashes for level, _, hashes in runs}
    found: dict[object, int] = {}
    for number, line in enumerate(leaves[: head.size]):
        try:
            leaf = parse_leaf(line)
        except InvalidReceipt:
            continue  # an auditor's business, and none of this receipt
        match leaf:
            case KeyLeaf():
                found[number] = number
            case JobLeaf(request=request) if request == request_id:
                found.setdefault("job", number)
            case ReviewLeaf(review=id_) if review is not None and id_ == review.id:
                found.setdefault("answer" if leaf.answer else "review", number)
    if "answer" in found:  # instead of the leaf that says no more than that it was seen
        found["review"] = found.pop("answer")
    if request_id is not None and "job" not in found:
        raise InvalidReceipt("the log has no leaf of this job")
    proved = [
        ProvedLeaf(number, leaves[number], _path(number, head.size, rows))
        for number in sorted(found.values())
    ]
    return ReceiptFile(root, tuple(proved), review)


def _path(number: int, size: int, rows: dict[int, list[bytes]]) -> tuple[str, ...]:
    path = merkle.prove_inclusion(number, size, lambda level, place: rows[level][place])
    return tuple(one.hex() for one in path)


_Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Leaf(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=0, lt=merkle.SIZE_MAX)]
    leaf: str
    path: Annotated[tuple[_Hash, ...], msgspec.Meta(max_length=merkle.SIZE_MAX.bit_length())]


class _File(msgspec.Struct):
    format: Literal["tradepost-receipt-1"]
    root: Event
    leaves: Annotated[list[_Leaf], msgspec.Meta(max_length=LEAVES_MAX)]
    review: Event | None


def parse_file(raw: bytes) -> ReceiptFile:
    """Read a file and check its form, nothing else. Raises `InvalidReceipt`."""
    if len(raw) > FILE_BYTES_MAX:
        raise InvalidReceipt(f"a receipt's file has {FILE_BYTES_MAX} bytes at most")
    try:
        file = msgspec.json.decode(raw, type=_File)
        for event in filter(None, (file.root, file.review)):
            check_form(event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, InvalidEvent) as error:
        raise InvalidReceipt(f"no file of a receipt: {error}") from None
    leaves = tuple(ProvedLeaf(one.number, one.leaf, one.path) for one in file.leaves)
    return ReceiptFile(file.root, leaves, file.review)


class Verdict(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"  # a mint or a relay must be asked


@dataclass(frozen=True)
class Check:
    """One check, in words."""

    verdict: Verdict
    what: str


@dataclass(frozen=True)
class FileCheck:
    """All checks of a file in order, and what the file says. What it says counts only if `is_good`."""

    checks: tuple[Check, ...]
    root: Root | None = None
    job: JobLeaf | None = None
    review: Review | None = None
    answer: ReviewLeaf | None = None

    @property
    def is_good(self) -> bool:
        """Whether every check that can be made offline passed."""
        return all(check.verdict is not Verdict.FAILED for check in self.checks)


def check_file(file: ReceiptFile, now: int, agent: str | None = None) -> FileCheck:
    """Check everything that can be checked offline. Total: whatever is wrong is a failed check.

    `now` is the time in seconds; `agent` the public key (hex) that the reader knows the agent by, any of its keys:
    without it the file vouches for itself.
    """
    checks = _Checks([])
    try:
        root = parse_root(file.root)
        leaves = [(one, parse_leaf(one.leaf)) for one in file.leaves]
        review = None if file.review is None else parse_review(file.review)
    except InvalidReceipt as error:
        checks.say(False, f"the file is well-formed: {error}")
        return FileCheck(tuple(checks.found))
    _check_root(checks, file.root, root, now)
    for proved, _ in leaves:
        checks.say(_is_under(root, proved), f"leaf {proved.number} is under the root")
    named = [(proved, leaf) for proved, leaf in leaves if isinstance(leaf, KeyLeaf)]
    keys = _check_keys(checks, root, named, now)
    checks.say(
        file.root.pubkey == keys[-1], f"the root is signed by the key that the log is with, {keys[-1]}"
    )
    if agent is None:
        checks.leave(f"whether {root.log} is the agent that you mean: say its key")
    else:
        checks.say(agent in keys, f"the log is that of {agent}")
    jobs = [leaf for _, leaf in leaves if isinstance(leaf, JobLeaf)]
    answers = [leaf for _, leaf in leaves if isinstance(leaf, ReviewLeaf)]
    if len(jobs) > 1 or len(answers) > 1:
        checks.say(False, "the file is of one receipt")
    job, answer = next(iter(jobs), None), next(iter(answers), None)
    if file.review is not None and review is not None:
        _check_review(checks, file.review, review, job, keys)
        if answer is None:
            checks.leave("whether the log answers this review: ask a relay for its other leaves")
        else:
            said = (answer.review, answer.request) == (file.review.id, review.request_id)
            checks.say(said, "the log answers this review")
    elif answer is not None:
        checks.say(False, "the review that the log answers is in the file")
    elif job is not None:
        checks.leave("whether its customer has said anything of the job: ask a relay")
    checks.leave("whether the log has grown since, or shows others another root: ask a relay")
    return FileCheck(tuple(checks.found), root, job, review, answer)


@dataclass(frozen=True)
class _Checks:
    found: list[Check]

    def say(self, passed: bool, what: str) -> None:
        self.found.append(Check(Verdict.OK if passed else Verdict.FAILED, what))

    def leave(self, what: str) -> None:
        self.found.append(Check(Verdict.NOT_CHECKED, what))


def _is_signed(event: Event) -> bool:
    try:
        event.verify()
    except InvalidEvent:
        return False
    return True


def _check_root(checks: _Checks, event: Event, root: Root, now: int) -> None:
    checks.say(_is_signed(event), f"the id and the signature of the root over {root.head.size} leaves")
    checks.say(event.created_at <= now + FUTURE_SECONDS_MAX, "the root is not dated in the future")
    before = "nothing" if root.previous is None else f"the {root.previous.size} leaves published before"
    checks.say(root.is_consistent, f"the log grew out of {before}")


def _is_under(root: Root, proved: ProvedLeaf) -> bool:
    return merkle.verify_inclusion(
        merkle.leaf_hash(proved.leaf.encode()), proved.number, root.head.size,
        [bytes.fromhex(one) for one in proved.path], bytes.fromhex(root.head.root),
    )  # fmt: skip


# The keys --------------------------------------------------------------------------------------------------------


def _check_keys(
    checks: _Checks, root: Root, leaves: Sequence[tuple[ProvedLeaf, KeyLeaf]], now: int
) -> list[str]:
    """The keys of the log that the leaves lead to, the last one as far as they are right."""
    keys = [root.log]
    committed = ""
    for proved, leaf in leaves:
        if proved.number == 0:
            checks.say(leaf.key == root.log and not leaf.rotation, "the log begins with its first key")
        else:
            try:
                head = Head(proved.number, _root_before(proved, root.head.size))
                how = _passed_on(keys, committed, leaf, head, now)
            except (InvalidEvent, InvalidReceipt) as error:
                checks.say(False, f"the log was passed on at leaf {proved.number}: {error}")
                break
            keys.append(leaf.key)
            checks.say(True, f"at leaf {proved.number} the log was {how}")
            if commitment(leaf.key) != committed:
                checks.leave(
                    f"whether that was by its owner: the log had not named {leaf.key} before; ask a relay"
                )
        committed = leaf.next
    return keys


def _passed_on(keys: Sequence[str], committed: str, leaf: KeyLeaf, head: Head, now: int) -> str:
    """How the log, when at `head`, came to this leaf's key. Raises `InvalidReceipt`, `InvalidEvent` if it did not."""
    rotation = parse_rotation(parse_event(leaf.rotation))
    told = (rotation.log, rotation.old, rotation.new, rotation.next, rotation.head)
    if told != (keys[0], keys[-1], leaf.key, leaf.next, head) or leaf.key in keys:
        raise InvalidReceipt("the rotation in it is another one")
    if rotation.at > now + FUTURE_SECONDS_MAX:
        raise InvalidReceipt("it is dated in the future")
    if rotation.by_both:
        return f"handed on to {leaf.key}, which the key before signed"
    if commitment(leaf.key) != committed:
        raise InvalidReceipt("the key before did not sign, and the log had not named this one")
    return f"recovered by {leaf.key}, which it had named before"


def _root_before(proved: ProvedLeaf, size: int) -> str:
    """The root over all leaves before this one: the hashes to the left in its proof are all of them."""
    here, last = proved.number, size - 1
    root = b""
    for step in map(bytes.fromhex, proved.path):
        if here & 1 or here == last:
            root = merkle.node_hash(step, root) if root else step
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        here, last = here >> 1, last >> 1
    return root.hex()


# The review ------------------------------------------------------------------------------------------------------


def _check_review(
    checks: _Checks, event: Event, review: Review, job: JobLeaf | None, keys: Sequence[str]
) -> None:
    checks.say(_is_signed(event), f"the id and the signature of the review by {event.pubkey}")
    checks.say(review.provider in keys, "the review is about this agent")
    checks.say(event.pubkey not in keys, "the review is not by the agent itself")
    if job is None:
        checks.say(False, "the log has a leaf of the job that the review is about")
        return
    same = (job.request, job.customer, job.kind) == (review.request_id, event.pubkey, review.kind)
    same = same and review.result_id in (None, job.result)
    checks.say(same, "the review is by the customer of the log's job: the same request, result and kind")
    if review.offer is not None:
        _check_offer(checks, review.offer, review, event.pubkey)
    match review.evidence:
        case SpentLock(mint, coins):
            _check_lock(checks, mint, coins, job, keys)
        case Preimage(_, preimage):
            is_it = sha256(bytes.fromhex(preimage)).hexdigest() == job.hash
            checks.say(is_it, "the preimage is that of the invoice that the log names")
            checks.leave(f"whether that invoice is over {job.amount_msat} msat: read it with a wallet")
        case None:
            checks.leave("whether anything was paid: the review has no evidence")


def _check_offer(checks: _Checks, offer: Event, review: Review, customer: str) -> None:
    """The agent named this lock, or this invoice, to this customer for this request: in an offer, or in a result."""
    is_known = offer.kind == FEEDBACK or offer.kind in RESULTS
    named = (offer.pubkey, offer.tag("e"), offer.tag("p")) == (review.provider, review.request_id, customer)
    checks.say(
        is_known and named and _is_signed(offer), "the offer in the review is the agent's, for this job"
    )
    match review.evidence:
        case SpentLock(_, coins):
            lock, signature = next((tag[1:3] for tag in offer.tags_named("lock") if len(tag) > 2), ("", ""))
            same = {lock} == {_lock_key(coin.secret) for coin in coins}
            claimed = is_lock_of(lock, signature, offer.pubkey, review.request_id)
            checks.say(
                same and claimed, "it names the lock of these coins, which is of this agent and request"
            )
        case Preimage(bolt11, _):
            same = any(tag[2:3] == (bolt11,) for tag in offer.tags_named("amount"))
            checks.say(same, "it names the invoice")


def _check_lock(
    checks: _Checks, mint: str, coins: Sequence[SpentCoin], job: JobLeaf, keys: Sequence[str]
) -> None:
    same = bool(job.lock) and {_lock_key(coin.secret) for coin in coins} == {job.lock}
    checks.say(same, "the coins are locked to the key that the log names for this job")
    claimed = any(is_lock_of(job.lock, job.lock_sig, key, job.request) for key in keys)
    checks.say(claimed, "that key signed that it is of this agent and job")
    shown = [coin for coin in coins if coin.witness]
    signed = all(_has_signed(job.lock[2:], coin) for coin in shown)
    checks.say(signed, f"that key signed for the coins whose spending is shown: {len(shown)} of {len(coins)}")
    sats = sum({coin.secret: coin.amount for coin in coins}.values())  # no coin counts twice
    checks.say(1000 * sats >= job.amount_msat, f"the coins come to {job.amount_msat} msat at least")
    checks.leave(f"whether {mint} made these coins, and they are spent: ask it (NUT-12, NUT-07)")


def _lock_key(secret: str) -> str | None:
    """The key that a coin is locked to: of several, the first (NUT-11, NUT-14)."""
    try:
        match json.loads(secret):
            case ["P2PK", {"data": str(key)}]:
                return key
            case ["HTLC", {"tags": [*tags]}]:
                return next((key for name, key, *_ in tags if name == "pubkeys"), None)
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def _has_signed(key: str, coin: SpentCoin) -> bool:
    """Whether one of the signatures in a coin's witness is that of the x-only key over the secret."""
    try:
        match json.loads(coin.witness):
            case {"signatures": [*signatures]}:
                digest = sha256(coin.secret.encode()).digest()
                return any(verify_signature(key, digest, bytes.fromhex(one)) for one in signatures)
    except (ValueError, TypeError, RecursionError):
        pass
    return False
