"""Receipts: what a customer signs about a job, and what the agent's log says of it. Pure.

A *review* is a kind-1985 label (NIP-32) in a namespace of its own, signed by the customer. A *leaf* is one line of JSON
in the agent's Merkle log (`identity.log`): of a job that was settled, of a review that the agent has seen and answers,
or of a key that the log is signed by. What they mean together is found by `identity.audit`. The wire: docs/receipts.md.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from identity.errors import InvalidEvent, InvalidReceipt
from identity.event import Event, EventTemplate, Tag, make_template, parse_event
from identity.keys import SecretKey, verify_signature

REVIEW: Final = 1985
NAMESPACE: Final = "tradepost.review"
RATING_MAX: Final = 5
TEXT_CHARS_MAX: Final = 2000
COINS_MAX: Final = 64
LEAF_BYTES_MAX: Final = 16_000
AMOUNT_MSAT_MAX: Final = 2**53

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,15}")
_CONFIDENCE: Final = re.compile(r"0(\.[0-9]{1,4})?|1(\.0{1,4})?")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,32}")


@dataclass(frozen=True)
class SpentCoin:
    """A coin that paid for a job, as it was when it was spent: worth nothing any more (NUT-00, NUT-12).

    `witness` is what it was spent with (NUT-11, NUT-14), if the mint showed that.
    """

    amount: int
    keyset_id: str
    secret: str
    C: str
    e: str
    s: str
    r: str
    witness: str = ""

    def to_tag(self) -> Tag:
        """As a tag of a review."""
        return (
            "coin", str(self.amount), self.keyset_id, self.secret, self.C, self.e, self.s, self.r, self.witness,
        )  # fmt: skip


@dataclass(frozen=True)
class SpentLock:
    """Evidence of class `lock`: coins of a mint under a lock whose key the agent made for this very job."""

    mint: str
    coins: tuple[SpentCoin, ...]


@dataclass(frozen=True)
class Preimage:
    """Evidence of class `preimage`: what only comes with the payment of the agent's invoice for this very job."""

    bolt11: str
    preimage: str


Evidence = SpentLock | Preimage | None


@dataclass(frozen=True)
class Review:
    """A customer's word on a job. `offer` is the agent's signed event that names the lock or the invoice.

    `rating` is 1 … 5; `confidence` 0 … 1, what the agent stated before, None if it stated nothing.
    """

    request_id: str
    provider: str
    kind: int
    method: str
    amount_msat: int
    rating: int
    result_id: str | None = None
    confidence: float | None = None
    evidence: Evidence = None
    offer: Event | None = None
    text: str = ""

    @property
    def evidence_class(self) -> str:
        """`lock`, `preimage` or `none`."""
        match self.evidence:
            case SpentLock():
                return "lock"
            case Preimage():
                return "preimage"
            case None:
                return "none"

    def to_template(self, now: int, relay: str = "") -> EventTemplate:
        """The event to be signed by the customer."""
        value = f"{self.rating}/{RATING_MAX}"
        tags: list[Tag] = [
            ("L", NAMESPACE),
            ("l", value, NAMESPACE),
            ("e", self.request_id, relay, "request"),
        ]
        if self.result_id:
            tags.append(("e", self.result_id, relay, "result"))
        tags += [("p", self.provider, relay), ("k", str(self.kind)), ("rating", str(self.rating))]
        tags += [
            ("settle", self.method),
            ("amount", str(self.amount_msat)),
            ("evidence", self.evidence_class),
        ]
        if self.confidence is not None:
            tags.append(("confidence", write_confidence(self.confidence)))
        match self.evidence:
            case SpentLock(mint, coins):
                tags += [("u", mint), *(coin.to_tag() for coin in coins)]
            case Preimage(bolt11, preimage):
                tags += [("bolt11", bolt11), ("preimage", preimage)]
        if self.offer is not None:
            tags.append(("offer", self.offer.to_json().decode()))
        return make_template(REVIEW, content=self.text, tags=tags, created_at=now)


def parse_review(event: Event) -> Review:
    """Read a review. Its signature, and what it claims, are not checked. Raises `InvalidReceipt`."""
    if event.kind != REVIEW or event.tag("L") != NAMESPACE:
        raise InvalidReceipt(f"not a label of kind {REVIEW} in the namespace {NAMESPACE}")
    if len(event.content) > TEXT_CHARS_MAX:
        raise InvalidReceipt(f"a review has {TEXT_CHARS_MAX} characters at most")
    request_id = _marked(event, "request")
    if request_id is None:
        raise InvalidReceipt("a review names its job in one `e` tag marked `request`")
    rating = _number(event, "rating", RATING_MAX)
    if rating < 1 or ("l", f"{rating}/{RATING_MAX}", NAMESPACE) not in event.tags:
        raise InvalidReceipt(f"a rating is 1 … {RATING_MAX}, and the label says the same")
    confidence = event.tag("confidence")
    return Review(
        request_id=request_id, result_id=_marked(event, "result"), provider=_hex(event.tag("p"), "p"),
        kind=_number(event, "k", 65_535), method=_word(event.tag("settle")), rating=rating,
        amount_msat=_number(event, "amount", AMOUNT_MSAT_MAX), evidence=_evidence(event), offer=_offer(event),
        confidence=None if confidence is None else read_confidence(confidence), text=event.content,
    )  # fmt: skip


def write_confidence(confidence: float) -> str:
    """A stated confidence as its tag's value. Raises `ValueError` unless it is 0 … 1."""
    if not 0 <= confidence <= 1:
        raise ValueError("a confidence is a number from 0 to 1")
    return f"{confidence:.2f}"


def read_confidence(text: str) -> float:
    """From a tag's value. Raises `InvalidReceipt`."""
    if not _CONFIDENCE.fullmatch(text):
        raise InvalidReceipt("a confidence is a decimal number from 0 to 1")
    return float(text)


def _evidence(event: Event) -> Evidence:
    match event.tag("evidence"):
        case "none":
            return None
        case "lock":
            coins = tuple(_coin(tag) for tag in event.tags_named("coin"))
            mint = event.tag("u")
            if not mint or not 0 < len(coins) <= COINS_MAX:
                raise InvalidReceipt(f"evidence by a lock is a mint and 1 … {COINS_MAX} coins")
            return SpentLock(mint, coins)
        case "preimage":
            bolt11 = event.tag("bolt11")
            if not bolt11:
                raise InvalidReceipt("evidence by a preimage has the invoice with it")
            return Preimage(bolt11, _hex(event.tag("preimage"), "preimage"))
    raise InvalidReceipt("evidence is lock, preimage or none")


def _coin(tag: Tag) -> SpentCoin:
    match tag:
        case (_, amount, keyset_id, secret, C, e, s, r, witness):  # noqa: N806 - Cashu's name of it
            numbers = all(_HEX.fullmatch(scalar) for scalar in (e, s, r))
            if _NUMBER.fullmatch(amount) and int(amount) > 0 and numbers and _POINT.fullmatch(C):
                return SpentCoin(int(amount), keyset_id, secret, C, e, s, r, witness)
    raise InvalidReceipt("a coin is its amount, keyset, secret, C, the DLEQ's e, s and r, and a witness")


def _offer(event: Event) -> Event | None:
    text = event.tag("offer")
    if text is None:
        return None
    try:
        return parse_event(text)
    except InvalidEvent as error:
        raise InvalidReceipt(f"the offer in a review is no event: {error}") from None


def _marked(event: Event, marker: str) -> str | None:
    found = [tag[1] for tag in event.tags_named("e") if tag[3:4] == (marker,)]
    if len(found) > 1:
        raise InvalidReceipt(f"a review names one {marker}")
    return _hex(found[0], marker) if found else None


def _hex(text: object, what: str) -> str:
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise InvalidReceipt(f"{what}: not 64 lowercase hex digits")
    return text


def _number(event: Event, name: str, most: int) -> int:
    text = event.tag(name) or ""
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise InvalidReceipt(f"{name} is a whole number up to {most}")
    return int(text)


def _word(text: str | None) -> str:
    if text is None or not _WORD.fullmatch(text):
        raise InvalidReceipt("settle names a method of settlement in one word")
    return text


# Leaves ----------------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """How a job that money came for ended, as its agent tells it."""

    PAID = "paid"  # done, and the agent has the money
    SPLIT = "split"  # done and disputed: the arbiter gave a part of it back
    REFUNDED = "refunded"  # done, and the customer has the money back
    RETURNED = "returned"  # not done: the agent sent the money back
    SENT_BACK = "sent_back"  # nothing was done, and not for the agent's sake: the customer has its money back
    CANCELLED = "cancelled"  # taken back by the customer when the work was under way; the agent has the money
    LOST = "lost"  # done, and somebody else has the money


_Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Point = Annotated[str, msgspec.Meta(pattern=r"^(0[23][0-9a-f]{64})?\Z")]
_Signature = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{128})?\Z")]
_Word = Annotated[str, msgspec.Meta(pattern=rf"^{_WORD.pattern}\Z")]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MSAT_MAX)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Leaf(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="type",
):
    """A line of a log. Members that say nothing are left out."""


class JobLeaf(_Leaf, frozen=True, kw_only=True, tag="job"):
    """The agent's record of a job that money came for.

    `lock` is its one-job key (33 bytes, hex), and `lock_sig` that key's word for it (`claim_lock`); `hash` is that of
    the paid invoice: by either a customer's evidence names the job. `amount_msat` is what the agent got and kept,
    `result` the id of the event that has the result.
    """

    request: _Hex
    customer: _Hex
    kind: _Natural
    method: _Word
    outcome: Outcome
    amount_msat: _Natural
    at: _Natural
    disputed: bool = False
    result: _Hex | None = None
    confidence: _Share | None = None
    lock: _Point = ""
    lock_sig: _Signature = ""
    hash: _Hex | None = None


class ReviewLeaf(_Leaf, frozen=True, kw_only=True, tag="review"):
    """The agent has seen a review of one of its jobs (`review` is its event id), and answers it, or says nothing."""

    review: _Hex
    request: _Hex
    at: _Natural
    answer: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)] = ""


class KeyLeaf(_Leaf, frozen=True, kw_only=True, tag="key"):
    """From here on the log is signed by `key`, and handed on to the key whose SHA-256 is `next` (`identity.rotation`).

    `rotation` is the event by which it was handed on, as JSON; there is none in a log's first leaf.
    """

    key: _Hex
    next: _Hex
    at: _Natural
    rotation: str = ""


def claim_lock(lock: SecretKey, agent: str, request_id: str) -> str:
    """The signature by which a one-job key says whose it is, and for what: nobody else can call it its own.

    BIP-340 by the key of `lock` over SHA-256("tradepost/lock/1" ‖ the agent's key ‖ the request's id, 32 bytes each),
    in hex. It stands in the agent's log, and in its offer behind the key: `["lock", key, signature]`.
    """
    return lock.sign(_lock_digest(agent, request_id)).hex()


def is_lock_of(lock: str, signature: str, agent: str, request_id: str) -> bool:
    """Whether the one-job key `lock` (33 bytes, hex) is claimed for that agent and request."""
    if not _POINT.fullmatch(lock) or not re.fullmatch(r"[0-9a-f]{128}", signature):
        return False
    return verify_signature(lock[2:], _lock_digest(agent, request_id), bytes.fromhex(signature))


def _lock_digest(agent: str, request_id: str) -> bytes:
    return sha256(b"tradepost/lock/1" + bytes.fromhex(agent) + bytes.fromhex(request_id)).digest()


Leaf = JobLeaf | ReviewLeaf | KeyLeaf
_DECODER: Final[msgspec.json.Decoder[Leaf]] = msgspec.json.Decoder(Leaf)


def write_leaf(leaf: Leaf) -> str:
    """The line of JSON that the log keeps: members sorted, no spaces. Raises `ValueError` for one that is too long."""
    text = msgspec.json.encode(leaf, order="sorted")
    if len(text) > LEAF_BYTES_MAX:
        raise ValueError(f"a leaf has {LEAF_BYTES_MAX} bytes at most")
    return text.decode()


def parse_leaf(text: str) -> Leaf:
    """Read a leaf of somebody's log. Raises `InvalidReceipt` for one that says something else, or something besides."""
    try:
        return _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidReceipt(f"no leaf of a log of receipts: {error}") from None
