"""The message codec, both directions."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_bridge import Filter, InvalidMessage
from relay_bridge.messages import (
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
    Request,
    close_frame,
    event_frame,
    parse_client_message,
    parse_relay_message,
    prefix_of,
    relay_frame,
    request_frame,
)


def test_what_relays_say(make):
    event = make(content='quotes " and \\ and ☃', tags=[["p", "x"], []])
    for frame, message in {
        relay_frame("EVENT", "s", event): EventMessage("s", event),
        relay_frame("OK", event.id, True, ""): OkMessage(event.id, True, ""),
        relay_frame("OK", event.id, False): OkMessage(event.id, False, ""),
        relay_frame("EOSE", "s"): EoseMessage("s"),
        relay_frame("CLOSED", "s"): ClosedMessage("s", ""),
        relay_frame("CLOSED", "s", "error: x"): ClosedMessage("s", "error: x"),
        relay_frame("NOTICE", "n" * 5000): NoticeMessage("n" * TEXT_MAX),
        relay_frame("AUTH", "c"): AuthMessage("c"),
        relay_frame("COUNT", "s", {"count": 7, "approximate": True}): CountMessage("s", 7),
    }.items():
        assert parse_relay_message(frame) == message
        assert parse_relay_message(frame.encode()) == message


def test_what_clients_say(make):
    event, one = make(), Filter(kinds=(1,), tags={"t": ("x",)})
    for frame, message in {
        event_frame(event): Publish(event),
        event_frame(event, label="AUTH"): Publish(event, auth=True),
        request_frame("s", [one, Filter()]): Request("s", (one, Filter())),
        request_frame("s", [one], label="COUNT"): Request("s", (one,), count=True),
        close_frame("s"): Close("s"),
    }.items():
        assert parse_client_message(frame) == message


@pytest.mark.parametrize(
    "frame",
    ['["REQ","s"]', '["REQ","",{}]', '["REQ","' + "s" * 65 + '",{}]', '["REQ","s",[]]', '["OK"]', "1"],
)
def test_what_clients_must_not_say(frame):
    with pytest.raises(InvalidMessage):
        parse_client_message(frame)


@given(st.text() | st.binary())
def test_any_text_is_read_or_refused(frame):
    for parse in (parse_relay_message, parse_client_message):
        with suppress(InvalidMessage):
            parse(frame)


@pytest.mark.parametrize("count", ["-1", "1.5", "true", "null", str(2**64), "1" + "0" * 400])
def test_counts_are_counts(count):
    with pytest.raises(InvalidMessage):
        parse_relay_message(f'["COUNT","s",{{"count":{count}}}]')


def test_prefixes():
    assert prefix_of("blocked: you") == "blocked"
    assert prefix_of("rate-limited: slow: down") == "rate-limited"
    assert prefix_of("no prefix here: sorry") == ""
    assert prefix_of("") == prefix_of("blocked") == ""
