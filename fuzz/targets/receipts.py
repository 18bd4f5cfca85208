"""Receipts: reviews, leaves, roots, pages and rotations as relays give them, and what an audit makes of them all."""

from dataclasses import replace
from hashlib import sha256
from typing import Final

from fuzz.kit import ALICE, BOB, NOW, as_json, as_verified, signed, text_of
from identity import merkle
from identity.audit import Settlement, audit, candidates
from identity.errors import InvalidEvent, InvalidReceipt
from identity.event import Event, EventTemplate, make_rumor, make_template, parse_rumor, sign_event
from identity.keys import SecretKey
from identity.receipts import (
    LEAF_BYTES_MAX,
    REVIEW,
    JobLeaf,
    KeyLeaf,
    Outcome,
    Preimage,
    Review,
    ReviewLeaf,
    SpentCoin,
    SpentLock,
    claim_lock,
    parse_leaf,
    parse_review,
    write_leaf,
)
from identity.roots import Head, Page, Root, parse_page, parse_root
from identity.rotation import Rotation, commitment, parse_rotation
from identity.scores import read_records, score

_ID: Final = "ab" * 32
_LOCK_KEY: Final = SecretKey(b"\xcd" * 32)
_LOCK: Final = _LOCK_KEY.compressed_public_key
_CLAIM: Final = claim_lock(_LOCK_KEY, ALICE.public_key, _ID)
_EVENTS_MAX: Final = 40


def _event(data: bytes) -> Event | None:
    try:
        return as_verified(parse_rumor(data))
    except InvalidEvent:
        return None


def _written(template: EventTemplate) -> Event:
    return as_verified(make_rumor(template, ALICE.public_key))


def _review(data: bytes) -> None:
    event = _event(data)
    if event is None:
        return
    try:
        review = parse_review(event)
    except InvalidReceipt:
        return
    assert 1 <= review.rating <= 5
    again = parse_review(_written(review.to_template(NOW)))
    rounded = None if review.confidence is None else float(f"{review.confidence:.2f}")
    assert again == replace(review, confidence=rounded)


def _leaf(data: bytes) -> None:
    text = text_of(data[: LEAF_BYTES_MAX // 2])
    try:
        leaf = parse_leaf(text)
    except InvalidReceipt:
        return
    assert parse_leaf(write_leaf(leaf)) == leaf


def _root(data: bytes) -> None:
    event = _event(data)
    if event is None:
        return
    try:
        root = parse_root(event)
    except InvalidReceipt:
        return
    if root.previous is None and root.consistency:
        assert not root.is_consistent  # a proof of nothing, which we do not write
        return
    assert root.is_consistent in {True, False}
    assert all(parse_root(_written(template)) == root for template in root.to_templates(NOW))


def _page(data: bytes) -> None:
    event = _event(data)
    if event is None:
        return
    try:
        page = parse_page(event)
    except InvalidReceipt:
        return
    assert parse_page(_written(page.to_template(NOW))) == page


def _rotation(data: bytes) -> None:
    """Nobody signed it, so it is none."""
    event = _event(data)
    if event is None:
        return
    try:
        parse_rotation(event)
    except InvalidReceipt:
        return
    raise AssertionError("a rotation that nobody signed")


def _audit(data: bytes) -> None:
    """A line for each event: a verdict on whatever it is, in whatever order it came."""
    events = list(filter(None, map(_event, data.split(b"\n")[:_EVENTS_MAX])))
    settlements = {
        event.id: Settlement(frozenset({event.id[:1]}), 10**9, lock=_LOCK, asked=("mint",))
        for event in events
    }
    found = audit(ALICE.public_key, events, settlements, NOW)
    assert audit(ALICE.public_key, events[::-1], settlements, NOW) == found
    asked = candidates(ALICE.public_key, events, NOW)
    assert asked == candidates(ALICE.public_key, events[::-1], NOW)
    assert len({event.id for event, _ in asked}) == len(asked)
    assert 0 <= score(read_records(found, NOW), NOW).value <= 1


CHECKS = {
    "review": _review, "leaf": _leaf, "root": _root, "page": _page, "rotation": _rotation, "audit": _audit,
}  # fmt: skip
_COIN: Final = SpentCoin(5, "00ad268c4d1f5826", "secret", _LOCK, *(_ID,) * 3, witness='{"signatures":[]}')
_OFFER: Final = signed(7000, "", [["e", _ID], ["p", BOB.public_key], ["lock", _LOCK, _CLAIM]])
_PLAIN: Final = Review(
    request_id=_ID, provider=ALICE.public_key, kind=5050, method="escrow", amount_msat=5000, rating=4
)
_REVIEWS: Final = [
    sign_event(review.to_template(NOW), BOB)
    for review in (
        replace(
            _PLAIN,
            evidence=SpentLock("https://mint.test", (_COIN,)),
            offer=_OFFER,
            confidence=0.9,
            text="good",
        ),
        replace(_PLAIN, evidence=Preimage("lnbc1", _ID), result_id="cd" * 32),
        _PLAIN,
    )
]
_LEAVES: Final = tuple(
    write_leaf(leaf)
    for leaf in (
        KeyLeaf(key=ALICE.public_key, next=commitment(BOB.public_key), at=NOW),
        JobLeaf(
            request=_ID, customer=BOB.public_key, kind=5050, method="escrow", outcome=Outcome.PAID, amount_msat=5000,
            at=NOW, disputed=True, confidence=0.5, lock=_LOCK, lock_sig=_CLAIM, hash=_ID, result=_ID,
        ),
        ReviewLeaf(review=_REVIEWS[0].id, request=_ID, at=NOW, answer="thanks"),
    )
)  # fmt: skip


def _head(size: int) -> Head:
    leaves = [merkle.leaf_hash(leaf.encode()) for leaf in _LEAVES[:size]]
    return Head(size, merkle.Frontier().extend(leaves)[0].root.hex())


_LAST: Final = sha256(b"\x00" + _LEAVES[2].encode()).hexdigest()
_ROOTS: Final = [
    sign_event(template, ALICE)
    for root in (
        Root(ALICE.public_key, _head(2)),
        Root(ALICE.public_key, _head(3), _head(2), (_LAST,), ("wss://relay.test",)),
    )
    for template in root.to_templates(NOW)
]
_PAGES: Final = [sign_event(Page(ALICE.public_key, 0, _LEAVES).to_template(NOW), ALICE)]
_STEP: Final = Rotation(
    ALICE.public_key,
    ALICE.public_key,
    BOB.public_key,
    _head(3),
    commitment(ALICE.public_key),
    NOW,
    by_both=False,
)
_ROTATION: Final = make_rumor(_STEP.to_template(), ALICE.public_key)
SEEDS = [
    *(("review", event.to_json()) for event in _REVIEWS),
    *(("leaf", leaf.encode()) for leaf in _LEAVES),
    *(("root", event.to_json()) for event in _ROOTS),
    *(("page", event.to_json()) for event in _PAGES),
    ("rotation", _ROTATION.to_json()),
    ("audit", b"\n".join(event.to_json() for event in (*_ROOTS, *_PAGES, *_REVIEWS))),
    (
        "page",
        as_json(_written(make_template(78, tags=[("t", "tradepost:leaves")], created_at=NOW)).to_dict()),
    ),
]
WORDS = (
    "L", "tradepost.review", "tradepost:root", "tradepost:leaves", "tradepost:rotation", "request", "result", "rating",
    "confidence", "evidence", "lock", "preimage", "none", "coin", "offer", "prev", "consistency", "range", "size", "log",
    "type", "job", "review", "key", "outcome", "at", str(REVIEW), _ID, _LOCK, ALICE.public_key, BOB.public_key,
)  # fmt: skip
