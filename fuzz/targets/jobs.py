"""Jobs: requests, feedback with its offers, results and announcements (NIP-90, NIP-89), as events behind the door."""

from collections.abc import Callable
from typing import Final

import msgspec

from dvm.agent import Agent
from dvm.discovery.announce import announcement, heartbeat
from dvm.discovery.directory import (
    ABOUT_CHARS_MAX,
    NAME_CHARS_MAX,
    listings,
    measured,
    ranked,
    requests_answered,
    with_answers,
)
from dvm.errors import BadRequest
from dvm.nip90 import (
    EVENT_BYTES_MAX,
    INPUTS_MAX,
    RELAYS_MAX,
    Input,
    Offer,
    Status,
    make_feedback,
    make_request,
    make_result,
    parse_feedback,
    parse_request,
    parse_result,
)
from dvm.private import Scheme, hide, reveal
from dvm.schemas import schema_of
from fuzz.kit import ALICE, BOB, NOW, as_json, as_verified, finished, signed
from identity import LocalSigner, nip44
from identity.errors import InvalidEvent
from identity.event import Event, EventTemplate, make_rumor, make_template, parse_rumor, sign_event

_KEY: Final = nip44.conversation_key(ALICE, BOB.public_key)


def _behind_the_door(judge: Callable[[Event], None]) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        try:
            event = as_verified(parse_rumor(data))
        except InvalidEvent:
            return
        judge(event)

    return check


def _again(template: EventTemplate) -> Event:
    return as_verified(make_rumor(template, ALICE.public_key))


def _request(event: Event) -> None:
    try:
        request = parse_request(event)
    except BadRequest as error:
        assert len(str(error)) < 300
        return
    assert len(request.inputs) <= INPUTS_MAX
    assert len(request.relays) <= RELAYS_MAX
    assert request.bid_msat is None or 0 <= request.bid_msat < 10**16
    try:
        schema_of(event.kind).check(request)
    except BadRequest as error:
        assert len(str(error)) < 500
    written = _again(
        EventTemplate(
            kind=event.kind,
            content="",
            tags=tuple(part.to_tag() for part in request.inputs)
            + tuple(("param", name, *values) for name, values in request.params.items()),
            created_at=NOW,
        )
    )
    again = parse_request(written)
    assert (again.inputs, again.params) == (request.inputs, request.params)
    result = sign_event(make_result(event, "done", price_msat=1000, now=NOW), ALICE)
    assert len(result.to_json()) <= EVENT_BYTES_MAX + 2000
    read = parse_result(result)
    assert read is not None
    assert read.request_id == request.id


def _feedback(event: Event) -> None:
    feedback = parse_feedback(event)
    if feedback is None or feedback.offer is None:
        return
    offer = feedback.offer
    assert 0 <= offer.price_msat < 10**16
    again = parse_feedback(
        _again(make_feedback(event, Status.PAYMENT_REQUIRED, now=NOW, tags=offer.to_tags()))
    )
    assert again is not None
    assert again.offer == offer


def _result(event: Event) -> None:
    result = parse_result(event)
    assert result is None or result.event is event


def _announcement(event: Event) -> None:
    found = ranked(listings([event, event], [event], NOW, [5000, 5001]), NOW)
    assert len(found) <= 1
    for listing in found:
        assert len(listing.name) <= NAME_CHARS_MAX
        assert len(listing.about) <= ABOUT_CHARS_MAX
        assert (listing.name + listing.about + listing.slug + "".join(listing.words)).isprintable()
        assert all(price is None or 0 <= price < 10**16 for price in listing.prices_msat.values())
        assert all(5000 <= kind <= 5999 for kind in listing.kinds)


def _answer(event: Event) -> None:
    """How long an agent took is read from strangers' dates."""
    assert all(len(bytes.fromhex(one)) == 32 for one in requests_answered([event]))
    by_agent = measured([event], [_SIGNED], NOW)
    for answers in by_agent.values():
        assert answers.first_seconds is None or answers.first_seconds >= 0
    for listing in listings([_ANNOUNCED], [], NOW):
        with_answers(listing, by_agent)


def _private(data: bytes) -> None:
    """What a customer encrypts, and what is told of it when it cannot be read."""
    content = nip44.encrypt(text, _KEY) if (text := data.decode(errors="ignore")) else ""
    event = sign_event(
        make_template(5050, content=content, tags=[["p", BOB.public_key], ["encrypted"]], created_at=NOW),
        ALICE,
    )
    try:
        clear = finished(reveal(LocalSigner(BOB), event))
        request = parse_request(event, clear)
    except BadRequest:
        return
    assert request.private
    assert "p" not in {tag[0] for tag in clear.tags if tag} or ("p", BOB.public_key) in clear.tags
    hidden = finished(hide(LocalSigner(ALICE), _without_empty(clear), BOB.public_key, Scheme.NIP44))
    again = finished(reveal(LocalSigner(BOB), sign_event(hidden, ALICE)))
    read = parse_request(event, again)
    assert (read.inputs, read.params, read.bid_msat) == (request.inputs, request.params, request.bid_msat)


def _without_empty(template: EventTemplate) -> EventTemplate:
    return msgspec.structs.replace(template, tags=tuple(tag for tag in template.tags if tag))


CHECKS = {
    "request": _behind_the_door(_request),
    "feedback": _behind_the_door(_feedback),
    "result": _behind_the_door(_result),
    "announcement": _behind_the_door(_announcement),
    "answer": _behind_the_door(_answer),
    "private": _private,
}
_AGENT = Agent("Summer", about="Sums up", picture="https://x.example/a.png")
_AGENT.serves(kind=5001, price_sat=7)(lambda job: job.text)
_REQUEST = make_request(
    5001, [Input("hello"), Input("https://x.example", "url"), Input("ab" * 32, "event", "wss://r.example", "m")],
    params={"length": ["2 sentences"], "stop": ["a", "b"]}, provider=BOB.public_key, bid_msat=7000,
    relays=["wss://r.example"], mints=["https://mint.example"], lock=ALICE.compressed_public_key, expires_at=NOW + 60, now=NOW,
)  # fmt: skip
_SIGNED = sign_event(_REQUEST, ALICE)
_ANNOUNCED = sign_event(announcement(_AGENT, NOW), BOB)
_OFFER = Offer(
    7000, mints=("https://mint.example",), lock=BOB.compressed_public_key, locktime=NOW + 3600, settle=("prepaid",),
    creq="creqAo", bolt11="lnbc70n1", expires_at=NOW + 900,
)  # fmt: skip
_FEEDBACK = (
    make_feedback(_SIGNED, Status.PAYMENT_REQUIRED, now=NOW, tags=_OFFER.to_tags()),
    make_feedback(_SIGNED, Status.ERROR, now=NOW, message="no", tags=[("action", "fund")]),
    make_feedback(_SIGNED, Status.PARTIAL, now=NOW, content="a part"),
)
SEEDS = [
    ("private", as_json(_REQUEST.tags)),
    ("private", as_json([["content", "x"], ["i", "a"], ["p", "ab" * 32], ["e", "x"], []])),
    ("request", _SIGNED.to_json()),
    ("request", signed(5050, tags=[["i", "x", "prompt"], ["param", "top-k", "5"], ["param", "top_p", "7"]]).to_json()),
    ("request", signed(5050, tags=[["i", "x"], ["cashu", "cashuAe30"], ["output", "text/plain"], ["p"]]).to_json()),
    *(("feedback", sign_event(template, BOB).to_json()) for template in _FEEDBACK),
    *(("answer", sign_event(template, BOB).to_json()) for template in _FEEDBACK),
    ("answer", sign_event(make_result(_SIGNED, "done", price_msat=7000, now=NOW + 5), BOB).to_json()),
    ("result", sign_event(make_result(_SIGNED, "done", price_msat=7000, now=NOW), BOB).to_json()),
    ("announcement", _ANNOUNCED.to_json()),
    ("announcement", sign_event(heartbeat(_AGENT, NOW), BOB).to_json()),
    ("announcement", signed(31990, '{"name":["a"],"about":null,"amount":{"a":1}}', [["k", "5001"], ["price", "5001", "x"]]).to_json()),
]  # fmt: skip
WORDS = ("i", "param", "output", "relays", "bid", "p", "e", "settle", "mint", "lock", "locktime", "creq", "cashu", "encrypted",
         "expiration", "status", "payment-required", "payment_required", "amount", "action", "request", "k", "t", "d", "price",
         "name", "about", "free", "text", "url", "event", "job", "5001", "1000", ALICE.compressed_public_key)  # fmt: skip
