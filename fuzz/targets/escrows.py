"""Escrow: letters of its parties, rulings, promises of sealed results, proofs of fraud."""

from typing import Final

import msgspec

from dvm.errors import BadRequest
from dvm.escrow.agreement import RULING, award_of, is_ruling, ruling_of
from dvm.escrow.messages import (
    ESCROW_MESSAGE,
    TEXT_CHARS_MAX,
    Answers,
    AsksBack,
    Declines,
    Delivered,
    Disputes,
    Reveals,
    Ruled,
    Serve,
    Serves,
    Signs,
    Wishes,
    read_message,
    write_message,
)
from fuzz.kit import ALICE, BOB, NOW, as_json, as_verified, signed, text_of
from identity.errors import InvalidEvent, InvalidSeal
from identity.event import make_rumor, make_template, parse_rumor, sign_event
from identity.seal import FraudProof, check_fraud, parse_fraud_proof, read_promise, seal
from wallet.terms import Method, Terms

_ID: Final = "ab" * 32
_JUDGE: Final = "cd" * 32
_KEY: Final = ALICE.compressed_public_key
_TERMS: Final = Terms(
    method=Method.ESCROW, request_id=_ID, provider=ALICE.public_key, provider_key=_KEY, customer=BOB.public_key,
    customer_key=BOB.compressed_public_key, mint="https://mint.test", price_sat=21, deliver_by=NOW, review_seconds=60,
    dispute_seconds=60, locktime=NOW + 600, arbiter=ALICE.public_key, arbiter_key=_KEY,
)  # fmt: skip


def _letter(data: bytes) -> None:
    """The content of a letter; what is read is the same when it was written again."""
    empty = make_rumor(make_template(ESCROW_MESSAGE, tags=[("e", _ID)], created_at=NOW), _JUDGE)
    rumor = msgspec.structs.replace(empty, content=text_of(data))
    try:
        request_id, message = read_message(rumor)
    except BadRequest as error:
        assert len(data) < 30 or text_of(data) not in str(error)
        return
    assert request_id == _ID
    for text in (getattr(message, name, "") for name in ("reason", "statement")):
        assert len(text) <= TEXT_CHARS_MAX
    assert read_message(make_rumor(write_message(message, _TERMS, _JUDGE, NOW), _JUDGE)) == (_ID, message)


def _ruling(data: bytes) -> None:
    try:
        event = as_verified(parse_rumor(data))
    except InvalidEvent:
        return
    assert not is_ruling(event, _TERMS)  # nobody signed it
    for party in ("provider", "customer"):
        assert award_of(event, party) >= 0


def _promise(data: bytes) -> None:
    try:
        promise = read_promise(as_verified(parse_rumor(data)))
    except (InvalidEvent, InvalidSeal):
        return
    assert all(
        len(bytes.fromhex(part)) == 32 for part in (promise.request_id, promise.provider, promise.key_hash)
    )
    assert promise.length > 0


def _proof(data: bytes) -> None:
    """Whatever is shown: a verdict, the same for all, and never against who signed nothing."""
    try:
        proof = parse_fraud_proof(data)
    except InvalidSeal:
        return
    assert parse_fraud_proof(proof.to_json()) == proof
    verdict = check_fraud(proof.event, proof.ciphertext, proof.k)
    assert verdict == check_fraud(proof.event, proof.ciphertext, proof.k)
    if verdict.is_fraud:
        proof.event.verify()


CHECKS = {"letter": _letter, "ruling": _ruling, "promise": _promise, "proof": _proof}
_COINS: Final = [('["P2PK",{}]', 4), ("cd" * 32, 1)]
_LETTERS: Final = (
    Serve(
        request=signed(5001, "", [["i", "x", "text"]]), provider_key=_KEY, customer_key=_KEY, mint="https://mint.test",
        price_sat=21, deliver_by=NOW, review_seconds=60, dispute_seconds=60, locktime=NOW + 600,
    ),
    Serves(arbiter_key=_KEY, signed_at=NOW, sig="ab" * 64), Declines("no"), Delivered(result=_ID, relays=["wss://a"], coins=_COINS),
    Signs({secret: "ab" * 64 for secret, _ in _COINS}), AsksBack(_COINS), Disputes("why", _COINS), Answers("so"),
    Ruled(signed(RULING)), Reveals("ab" * 32), Wishes("rule", "", 5),
)  # fmt: skip
_SEALED: Final = seal(bytes([1]) * 32, _ID, ALICE.public_key, b"text", bytes(32))
_FALSE: Final = seal(bytes([2]) * 32, _ID, ALICE.public_key, b"other", bytes(32))


def _promising(tag: tuple[str, ...]) -> bytes:
    template = make_template(7000, tags=[("e", _ID), tag], created_at=NOW)
    return FraudProof(sign_event(template, ALICE), _SEALED.ciphertext, bytes([1]) * 32).to_json()


SEEDS = [
    *(("letter", msgspec.json.encode(message)) for message in _LETTERS),
    *(
        ("ruling", as_json(as_verified(make_rumor(template, ALICE.public_key)).to_dict()))
        for template in (
            ruling_of(_TERMS, provider_sat=8, customer_sat=13, statements=["a"], now=NOW),
            make_template(RULING, tags=[("award", "provider", "-1"), ("award", "customer", "٣")], created_at=NOW),
        )
    ),
    ("promise", as_json(signed(7000, "", [["e", _ID], [*_SEALED.promise.to_tag()]]).to_dict())),
    ("proof", _promising(_SEALED.promise.to_tag())),
    ("proof", _promising(_FALSE.promise.to_tag())),
]  # fmt: skip
WORDS = (
    "type", "serve", "serves", "declines", "delivered", "signs", "asks_back", "disputes", "answers", "ruled", "reveals", "wishes",
    "coins", "signatures", "award", "provider", "customer", "sealed", "tp-seal-1", "ciphertext", _ID, _KEY,
)  # fmt: skip
