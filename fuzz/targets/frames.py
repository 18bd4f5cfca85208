"""What relays and clients say to each other, and filters (NIP-01, NIP-42, NIP-45)."""

from typing import Any

import orjson

from fuzz.kit import as_json, signed
from relay_bridge.errors import InvalidMessage
from relay_bridge.filters import FILTER_VALUES_MAX, Filter, parse_filter
from relay_bridge.messages import (
    FILTERS_MAX,
    SUBSCRIPTION_ID_MAX,
    TEXT_MAX,
    AuthMessage,
    Close,
    ClosedMessage,
    CountMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    Publish,
    RelayMessage,
    Request,
    close_frame,
    event_frame,
    parse_client_message,
    parse_relay_message,
    prefix_of,
    relay_frame,
    request_frame,
)

_EVENT = signed(5001, "hello", [["p", "ab" * 32], ["t", "x"]])


def _from_relay(data: bytes) -> None:
    try:
        message = parse_relay_message(data)
    except InvalidMessage:
        return
    assert parse_relay_message(_frame_of(message)) == message


def _frame_of(message: RelayMessage) -> str:
    match message:
        case EventMessage(subscription, event):
            assert 0 < len(subscription) <= SUBSCRIPTION_ID_MAX
            return relay_frame("EVENT", subscription, event)
        case OkMessage(event_id, accepted, text):
            assert len(text) <= TEXT_MAX
            assert text.startswith(prefix_of(text))
            return relay_frame("OK", event_id, accepted, text)
        case EoseMessage(subscription):
            return relay_frame("EOSE", subscription)
        case ClosedMessage(subscription, text):
            return relay_frame("CLOSED", subscription, text)
        case NoticeMessage(text):
            assert len(text) <= TEXT_MAX
            return relay_frame("NOTICE", text)
        case AuthMessage(challenge):
            return relay_frame("AUTH", challenge)
        case CountMessage(subscription, count):
            assert 0 <= count < 2**63
            return relay_frame("COUNT", subscription, {"count": count})


def _from_client(data: bytes) -> None:
    try:
        message = parse_client_message(data)
    except InvalidMessage:
        return
    match message:
        case Publish(event, auth):
            written = event_frame(event, label="AUTH" if auth else "EVENT")
        case Request(subscription, filters, count):
            assert 0 < len(filters) <= FILTERS_MAX
            for one in filters:
                _check(one)
            written = request_frame(subscription, filters, label="COUNT" if count else "REQ")
        case Close(subscription):
            written = close_frame(subscription)
    assert parse_client_message(written) == message


def _filter(data: bytes) -> None:
    try:
        plain: Any = orjson.loads(data)
        one = parse_filter(plain)
    except (orjson.JSONDecodeError, InvalidMessage):
        return
    _check(one)


def _check(one: Filter) -> None:
    assert parse_filter(orjson.loads(orjson.dumps(one.to_dict()))) == one
    assert all(len(values) <= FILTER_VALUES_MAX for values in one.tags.values())
    later = one.between(_EVENT.created_at)
    assert later.between(_EVENT.created_at) == later
    assert not later.matches(_EVENT) or one.matches(_EVENT)


CHECKS = {"relay": _from_relay, "client": _from_client, "filter": _filter}
_FILTERS: list[dict[str, object]] = [
    {},
    {"ids": ["ab" * 32], "authors": ["cd" * 32], "kinds": [1, 65535], "since": 0, "until": 2**53, "limit": 10},
    {"#p": ["ab" * 32], "#t": ["x", ""], "#K": ["5001"]},
]  # fmt: skip
SEEDS = [
    *(
        ("relay", relay_frame(*parts).encode())
        for parts in (
            ("EVENT", "s", _EVENT), ("OK", _EVENT.id, True, ""), ("OK", _EVENT.id, False, "blocked: no"),
            ("EOSE", "s"), ("CLOSED", "s", "auth-required: who are you"), ("NOTICE", "hello"), ("AUTH", "challenge"),
            ("COUNT", "s", {"count": 7, "approximate": True}),
        )
    ),
    *(("client", as_json(["REQ", "s", one])) for one in _FILTERS),
    ("client", as_json(["COUNT", "s", *_FILTERS])),
    ("client", event_frame(_EVENT).encode()),
    ("client", event_frame(_EVENT, label="AUTH").encode()),
    ("client", close_frame("s").encode()),
    *(("filter", as_json(one)) for one in _FILTERS),
]  # fmt: skip
WORDS = ("EVENT", "OK", "EOSE", "CLOSED", "NOTICE", "AUTH", "COUNT", "REQ", "CLOSE", "ids", "authors", "kinds", "since",
         "until", "limit", "#e", "#p", "#t", "search", "count")  # fmt: skip
