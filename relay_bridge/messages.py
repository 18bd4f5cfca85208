"""The messages of NIP-01, NIP-42 and NIP-45, both directions, as plain values. Pure: text in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
import orjson

from identity.errors import InvalidEvent
from identity.event import Event, check_form
from relay_bridge.errors import InvalidMessage
from relay_bridge.filters import Filter, parse_filter

SUBSCRIPTION_ID_MAX: Final = 64
TEXT_MAX: Final = 1024  # of a relay's explanations and challenges we keep no more than this
FILTERS_MAX: Final = 100


class EventMessage(msgspec.Struct, frozen=True, array_like=True, tag="EVENT"):
    """`["EVENT", subscription, event]`: the event has NIP-01's form, nothing else is known of it."""

    subscription: str
    event: Event


class OkMessage(msgspec.Struct, frozen=True, array_like=True, tag="OK"):
    """`["OK", event id, accepted, message]`."""

    event_id: str
    accepted: bool
    message: str = ""


class EoseMessage(msgspec.Struct, frozen=True, array_like=True, tag="EOSE"):
    """`["EOSE", subscription]`."""

    subscription: str


class ClosedMessage(msgspec.Struct, frozen=True, array_like=True, tag="CLOSED"):
    """`["CLOSED", subscription, message]`."""

    subscription: str
    message: str = ""


class NoticeMessage(msgspec.Struct, frozen=True, array_like=True, tag="NOTICE"):
    """`["NOTICE", message]`."""

    message: str


class AuthMessage(msgspec.Struct, frozen=True, array_like=True, tag="AUTH"):
    """`["AUTH", challenge]` (NIP-42)."""

    challenge: str


class CountMessage(msgspec.Struct, frozen=True):
    """`["COUNT", subscription, {"count": n}]` (NIP-45)."""

    subscription: str
    count: int


RelayMessage = (
    EventMessage | OkMessage | EoseMessage | ClosedMessage | NoticeMessage | AuthMessage | CountMessage
)


@dataclass(frozen=True, slots=True)
class Publish:
    """`["EVENT", event]`, or `["AUTH", event]` when `auth` is set."""

    event: Event
    auth: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """`["REQ", subscription, filter, …]`, or `["COUNT", …]` when `count` is set."""

    subscription: str
    filters: tuple[Filter, ...]
    count: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """`["CLOSE", subscription]`."""

    subscription: str


ClientMessage = Publish | Request | Close


def prefix_of(message: str) -> str:
    """The machine-readable first word of an `OK` or `CLOSED` message; empty if there is none."""
    word, colon, _ = message.partition(":")
    return word if colon and word.isascii() and " " not in word else ""


def parse_relay_message(frame: str | bytes) -> RelayMessage:
    """Read what a relay sent. Raises `InvalidMessage`; explanations are cut to `TEXT_MAX` characters."""
    message = _decode(_RELAY_FRAME, frame)
    if type(message) is EventMessage:  # nearly all are; a class pattern takes longer
        _check_name(message.subscription)
        _check_event(message.event)
        return message
    match message:
        case EoseMessage(subscription):
            _check_name(subscription)
        case OkMessage(event_id, accepted, text):
            return OkMessage(event_id[:TEXT_MAX], accepted, text[:TEXT_MAX])
        case ClosedMessage(subscription, text):
            _check_name(subscription)
            return ClosedMessage(subscription, text[:TEXT_MAX])
        case NoticeMessage(text):
            return NoticeMessage(text[:TEXT_MAX])
        case AuthMessage(challenge):
            return AuthMessage(challenge[:TEXT_MAX])
        case _CountFrame(subscription, counted):
            _check_name(subscription)
            return CountMessage(subscription, counted.count)
    return message


def parse_client_message(frame: str | bytes) -> ClientMessage:
    """Read what a client sent (the relay's side of the seam). Raises `InvalidMessage`."""
    label, parts = _split(frame)
    match label, parts:
        case (("EVENT" | "AUTH"), [event, *_]):
            return Publish(_event(event), auth=label == "AUTH")
        case (("REQ" | "COUNT"), [subscription, *filters]) if 0 < len(filters) <= FILTERS_MAX:
            asked = tuple(parse_filter(_decode(_ANY, one)) for one in filters)
            return Request(_name(subscription), asked, count=label == "COUNT")
        case "CLOSE", [subscription, *_]:
            return Close(_name(subscription))
    raise InvalidMessage(f"not a message of a client: {label[:40]!r} with {len(parts)} parts")


def event_frame(event: Event, *, label: str = "EVENT") -> str:
    """`["EVENT", event]`, or `["AUTH", event]`."""
    return f'["{label}",{event.to_json().decode()}]'


def request_frame(subscription: str, filters: Sequence[Filter], *, label: str = "REQ") -> str:
    """`["REQ", subscription, filter, …]`, or `["COUNT", …]`."""
    return orjson.dumps([label, subscription, *(one.to_dict() for one in filters)]).decode()


def close_frame(subscription: str) -> str:
    """`["CLOSE", subscription]`."""
    return orjson.dumps(["CLOSE", subscription]).decode()


def relay_frame(label: str, *parts: object) -> str:
    """Any message of a relay, e.g. `relay_frame("EOSE", subscription)`; an `Event` part is written out."""
    plain = [part.to_dict() if isinstance(part, Event) else part for part in parts]
    return orjson.dumps([label, *plain]).decode()


T = TypeVar("T")


class _Counted(msgspec.Struct):
    count: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _CountFrame(msgspec.Struct, frozen=True, array_like=True, tag="COUNT"):
    subscription: str
    counted: _Counted


_RelayFrame = (
    EventMessage | OkMessage | EoseMessage | ClosedMessage | NoticeMessage | AuthMessage | _CountFrame
)
_RELAY_FRAME: msgspec.json.Decoder[_RelayFrame] = msgspec.json.Decoder(_RelayFrame)
_FRAME = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_EVENT = msgspec.json.Decoder(Event)
_ANY: msgspec.json.Decoder[object] = msgspec.json.Decoder()


def _split(frame: str | bytes) -> tuple[str, list[msgspec.Raw]]:
    parts = _decode(_FRAME, frame)
    if not parts:
        raise InvalidMessage("an empty message")
    return _decode(_TEXT, parts[0]), parts[1:]


def _decode(decoder: msgspec.json.Decoder[T], raw: str | bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidMessage(f"not a message: {error}") from None


def _event(raw: msgspec.Raw) -> Event:
    event = _decode(_EVENT, raw)
    _check_event(event)
    return event


def _check_event(event: Event) -> None:
    try:
        check_form(event)
    except InvalidEvent as error:
        raise InvalidMessage(str(error)) from None


def _name(raw: msgspec.Raw) -> str:
    return _check_name(_decode(_TEXT, raw))


def _check_name(name: str) -> str:
    if not 0 < len(name) <= SUBSCRIPTION_ID_MAX:
        raise InvalidMessage(f"a subscription id has 1 … {SUBSCRIPTION_ID_MAX} characters")
    return name
