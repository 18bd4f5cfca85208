"""The messages of NIP-01, NIP-42 and NIP-45, both directions, as plain values. Pure: text in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import orjson

from identity.errors import InvalidEvent
from identity.event import Event, parse_event
from relay_bridge.errors import InvalidMessage
from relay_bridge.filters import Filter, parse_filter

SUBSCRIPTION_ID_MAX: Final = 64
TEXT_MAX: Final = 1024  # of a relay's explanations and challenges we keep no more than this
FILTERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class EventMessage:
    """`["EVENT", subscription, event]`: the event has NIP-01's form, nothing else is known of it."""

    subscription: str
    event: Event


@dataclass(frozen=True, slots=True)
class OkMessage:
    """`["OK", event id, accepted, message]`."""

    event_id: str
    accepted: bool
    message: str


@dataclass(frozen=True, slots=True)
class EoseMessage:
    """`["EOSE", subscription]`."""

    subscription: str


@dataclass(frozen=True, slots=True)
class ClosedMessage:
    """`["CLOSED", subscription, message]`."""

    subscription: str
    message: str


@dataclass(frozen=True, slots=True)
class NoticeMessage:
    """`["NOTICE", message]`."""

    message: str


@dataclass(frozen=True, slots=True)
class AuthMessage:
    """`["AUTH", challenge]` (NIP-42)."""

    challenge: str


@dataclass(frozen=True, slots=True)
class CountMessage:
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
    label, parts = _split(frame)
    match label, parts:
        case "EVENT", [subscription, event, *_]:
            message: RelayMessage = EventMessage(_name(subscription), _event(event))
        case "EOSE", [subscription, *_]:
            message = EoseMessage(_name(subscription))
        case "OK", [event_id, accepted, *rest]:
            message = OkMessage(_text(event_id), _decode(_BOOL, accepted), _text(rest[0]) if rest else "")
        case "CLOSED", [subscription, *rest]:
            message = ClosedMessage(_name(subscription), _text(rest[0]) if rest else "")
        case "NOTICE", [notice, *_]:
            message = NoticeMessage(_text(notice))
        case "AUTH", [challenge, *_]:
            message = AuthMessage(_text(challenge))
        case "COUNT", [subscription, counted, *_]:
            message = CountMessage(_name(subscription), _decode(_COUNTED, counted).count)
        case _:
            raise InvalidMessage(f"not a message of a relay: {label[:40]!r} with {len(parts)} parts")
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
    count: int


_FRAME = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_BOOL = msgspec.json.Decoder(bool)
_COUNTED = msgspec.json.Decoder(_Counted)
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
    try:
        return parse_event(bytes(raw))
    except InvalidEvent as error:
        raise InvalidMessage(str(error)) from None


def _name(raw: msgspec.Raw) -> str:
    name = _decode(_TEXT, raw)
    if not 0 < len(name) <= SUBSCRIPTION_ID_MAX:
        raise InvalidMessage(f"a subscription id has 1 … {SUBSCRIPTION_ID_MAX} characters")
    return name


def _text(raw: msgspec.Raw) -> str:
    return _decode(_TEXT, raw)[:TEXT_MAX]
