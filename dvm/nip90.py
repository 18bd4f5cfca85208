"""NIP-90 on the wire: requests, feedback and results as plain values, both ways. No sockets, no state.

Everything of ours that NIP-90 does not know is in tags that other clients ignore (`settle`, `mint`, `lock`,
`locktime`, `creq`, `action`, `code`, `refund`, `confidence`); the table is in docs/architecture.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from dvm.errors import BadRequest
from dvm.kinds import FEEDBACK, check_request_kind, result_kind
from identity.errors import InvalidEvent, InvalidKey, InvalidReceipt
from identity.event import Event, EventTemplate, make_template, parse_event
from identity.keys import check_public_key
from identity.nip40 import expiration
from identity.receipts import read_confidence, write_confidence
from identity.seal import Promise

PREPAID: Final = "prepaid"
ENCRYPTED: Final = "encrypted"
CONFIDENCE: Final = "confidence"
INPUT_TYPES: Final = frozenset({"text", "url", "event", "job"})
_INPUT_TYPES_TOO: Final = {"": "text", "prompt": "text"}  # left out by some; what the registry's 5050 writes

TAGS_MAX: Final = 500
EVENT_BYTES_MAX: Final = 64_000  # of an event of ours, as JSON; strfry and nostr-sdk refuse more than 65,536
ENVELOPE_BYTES: Final = 1_500  # of these for all but the content and what is put in where there is room
TAG_BYTES_MAX: Final = 1024  # strfry refuses events with a longer value in a tag of one letter
INPUTS_MAX: Final = 100
RELAYS_MAX: Final = 8
_CODE: Final = re.compile("[a-z][a-z_]{0,39}")
_ARBITER_RELAYS: Final = "arbiter_relays"

Said = Event | EventTemplate  # an event, or what was encrypted in one


class Status(StrEnum):
    """Feedback statuses of NIP-90. Deployed clients have more; unknown ones are kept as text."""

    PAYMENT_REQUIRED = "payment-required"
    PROCESSING = "processing"
    ERROR = "error"
    SUCCESS = "success"
    PARTIAL = "partial"


@dataclass(frozen=True)
class Input:
    """One `i` tag: `data` to be read as `type` says, and what it led to once the work began.

    `text` is what there is to work on: the data itself (type text), what the URL brought, or the event's content.
    """

    data: str
    type: str = "text"
    relay: str = ""
    marker: str = ""
    fetched: str | None = field(default=None, repr=False)
    media_type: str = "text/plain"  # of what a URL brought, as its server says
    event: Event | None = None

    @property
    def text(self) -> str:
        """See the class. Empty as long as nothing was fetched."""
        return self.data if self.type == "text" else self.fetched or ""

    def to_tag(self) -> tuple[str, ...]:
        """The `i` tag, without trailing empty fields."""
        tag = ["i", self.data, self.type, self.relay, self.marker]
        while not tag[-1] and len(tag) > 3:
            tag.pop()
        return tuple(tag)


@dataclass(frozen=True)
class JobRequest:
    """A kind-5xxx event, read. Amounts in millisats, as NIP-90 counts. `event` is as it was signed."""

    event: Event
    inputs: tuple[Input, ...] = field(repr=False)
    params: Mapping[str, tuple[str, ...]] = field(repr=False)
    outputs: tuple[str, ...]
    bid_msat: int | None
    relays: tuple[str, ...]
    providers: tuple[str, ...]
    settle: tuple[str, ...]
    mints: tuple[str, ...]
    lock: str | None
    cashu: str | None = field(repr=False)
    expires_at: int | None
    arbiters: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The request's event id: the job's name everywhere."""
        return self.event.id

    @property
    def output(self) -> str | None:
        """The type that the result is to have, the first of those that were named."""
        return self.outputs[0] if self.outputs else None

    @property
    def customer(self) -> str:
        """Who asks."""
        return self.event.pubkey

    def is_expired(self, now: int) -> bool:
        """Whether its time has come at `now` (NIP-40): then it is not begun."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def private(self) -> bool:
        """Whether the customer encrypted it: then nothing of it may be logged or told to others."""
        return self.event.has_tag(ENCRYPTED)


def parse_request(event: Event, clear: EventTemplate | None = None) -> JobRequest:
    """Read a verified request; of a private one, what `private.reveal` made of it (`clear`).

    Raises `BadRequest` with a sentence for the customer.
    """
    said = clear or event
    check_request_kind(event.kind)
    if len(said.tags) > TAGS_MAX:
        raise BadRequest(f"the request has {len(said.tags)} tags; at most {TAGS_MAX} are read")
    inputs = tuple(_parse_input(tag) for tag in said.tags_named("i"))
    if len(inputs) > INPUTS_MAX:
        raise BadRequest(f"the request has {len(inputs)} inputs; at most {INPUTS_MAX} are read")
    params: dict[str, tuple[str, ...]] = {}
    for tag in said.tags_named("param"):
        if len(tag) < 2 or not tag[1]:
            raise BadRequest('a param tag has no name; write ["param", name, value]')
        params[tag[1]] = params.get(tag[1], ()) + tag[2:]  # lists come as one tag or as several
    return JobRequest(
        event=event,
        inputs=inputs,
        params=params,
        outputs=_values(said, "output"),  # some clients name several: any of them will do
        bid_msat=_amount(_single(said, "bid"), "bid"),
        relays=_values(said, "relays")[:RELAYS_MAX],
        providers=tuple(tag[1] for tag in said.tags_named("p") if len(tag) > 1),
        settle=_values(said, "settle"),
        mints=_values(said, "mint"),
        lock=_compressed_key(_single(said, "lock")),
        cashu=_single(said, "cashu"),
        expires_at=expiration(said),
        arbiters=_values(said, "arbiter"),
    )


def make_request(
    kind: int,
    inputs: Iterable[Input],
    *,
    params: dict[str, Sequence[str]],
    provider: str,
    bid_msat: int,
    relays: Sequence[str],
    mints: Sequence[str],
    lock: str,
    expires_at: int,
    now: int,
    settle: Sequence[str] = (PREPAID,),
    arbiters: Sequence[str] = (),
    hint: str = "",
) -> EventTemplate:
    """A request as our customers send it: NIP-90's tags first, then ours. `settle`: the ways to pay, the best first.

    `hint`: a relay where the provider reads, besides those that it lists.
    """
    check_request_kind(kind)
    tags: list[tuple[str, ...]] = [part.to_tag() for part in inputs]
    tags += [("param", name, *values) for name, values in params.items()]
    tags += [("output", "text/plain"), ("relays", *relays)]
    if bid_msat:
        tags += [("bid", str(bid_msat)), ("settle", *settle), ("mint", *mints)]
        if arbiters:
            tags.append(("arbiter", *arbiters))
    # The one-job key also keeps two equal requests of one second apart: without it they would be one event.
    tags += [("lock", lock), ("p", provider, *filter(None, (hint,))), ("expiration", str(expires_at))]
    return make_template(kind, tags=tags, created_at=now)


def hint_in(request: Event) -> tuple[str, ...]:
    """The relay that a request of ours names as one where its provider reads; none if it names none."""
    return tuple(tag[2] for tag in request.tags_named("p") if len(tag) > 2)


@dataclass(frozen=True)
class EscrowOffer:
    """What an offer of an escrow says besides: who judges, under which key, signed when, for which fee if there is a
    dispute; how long it all takes; and relays that reach the arbiter.
    """

    arbiter: str
    arbiter_key: str
    signed_at: int
    sig: str
    fee_msat: int
    deliver_by: int
    review_seconds: int
    dispute_seconds: int
    arbiter_relays: tuple[str, ...] = ()

    def to_tags(self) -> list[tuple[str, ...]]:
        """The tags of the offer that say it."""
        tags: list[tuple[str, ...]] = [
            ("arbiter", self.arbiter, self.arbiter_key, str(self.signed_at), self.sig, str(self.fee_msat)),
            ("deliver_by", str(self.deliver_by)),
            ("review", str(self.review_seconds)),
            ("dispute", str(self.dispute_seconds)),
        ]
        if self.arbiter_relays:
            tags.append((_ARBITER_RELAYS, *self.arbiter_relays))
        return tags


@dataclass(frozen=True)
class Offer:
    """What a provider asks for before it works: the `payment-required` feedback."""

    price_msat: int
    mints: tuple[str, ...] = ()
    lock: str | None = None
    lock_sig: str = ""  # by which the key of the lock says whose it is (`identity.receipts.claim_lock`)
    locktime: int | None = None
    settle: tuple[str, ...] = ()
    creq: str | None = None
    bolt11: str | None = None
    expires_at: int | None = None
    escrow: EscrowOffer | None = None
    sealed: Promise | None = None  # to be written; who reads one takes it from what everybody can see

    def to_tags(self) -> list[tuple[str, ...]]:
        """The tags after `status`, `e` and `p`."""
        tags: list[tuple[str, ...]] = [
            ("amount", str(self.price_msat), *((self.bolt11,) if self.bolt11 else ()))
        ]
        if self.settle:
            tags.append(("settle", *self.settle))
        if self.mints:
            tags.append(("mint", *self.mints))
        if self.lock is not None:
            tags.append(("lock", self.lock, *((self.lock_sig,) if self.lock_sig else ())))
        for name, value in (("locktime", self.locktime), ("creq", self.creq)):
            if value is not None:
                tags.append((name, str(value)))
        if self.escrow is not None:
            tags += self.escrow.to_tags()
        if self.sealed is not None:
            tags.append(self.sealed.to_tag())
        if self.expires_at is not None:
            tags.append(("expiration", str(self.expires_at)))
        return tags


@dataclass(frozen=True)
class Feedback:
    """A kind-7000 event, read. `status` may be a word NIP-90 does not list; `offer` is there when money is asked."""

    event: Event
    request_id: str
    status: str
    message: str
    content: str
    offer: Offer | None
    action: str | None
    code: str = ""  # of an error, as it says; "" if it is none of the form of one


@dataclass(frozen=True)
class JobResult:
    """A kind-6xxx event, read."""

    event: Event
    request_id: str
    content: str
    price_msat: int | None = None
    bolt11: str | None = None


def make_feedback(
    request: Event,
    status: Status,
    *,
    now: int,
    message: str = "",
    content: str = "",
    relay: str = "",
    tags: Iterable[tuple[str, ...]] = (),
) -> EventTemplate:
    """A 7000 event about `request`. `message` is for people, `content` holds (partial) results."""
    head = [
        ("status", str(status), *((message,) if message else ())),
        ("e", request.id, relay),
        ("p", request.pubkey),
    ]
    return make_template(FEEDBACK, content=content, tags=[*head, *tags], created_at=now)


def make_result(
    request: Event,
    content: str,
    *,
    price_msat: int,
    now: int,
    relay: str = "",
    bolt11: str | None = None,
    confidence: float | None = None,
) -> EventTemplate:
    """The 6xxx event that answers `request`; `content` is encrypted already if the request is.

    `bolt11` asks for the price of work that was done before it is paid. `confidence`: how sure of it the agent is.

    NIP-90 wants the whole request and the inputs in it again. What would pass `EVENT_BYTES_MAX` is left out: the inputs
    first, then the request. Its id always stays. Inputs of a private request are in it only as it came itself.
    """
    tags: list[tuple[str, ...]] = [("e", request.id, relay), ("p", request.pubkey)]
    if price_msat:
        tags.append(("amount", str(price_msat), *((bolt11,) if bolt11 else ())))
    tags += confidence_tags(confidence)
    inputs = request.tags_named("i")
    if request.has_tag(ENCRYPTED):
        tags.append((ENCRYPTED,))
        inputs = []
    if any(len(data.encode()) > TAG_BYTES_MAX for tag in inputs for data in tag[1:2]):
        inputs = []
    room = EVENT_BYTES_MAX - ENVELOPE_BYTES - len(orjson.dumps(content))
    for again in ([("request", request.to_json().decode())], inputs):
        size = len(orjson.dumps(again))
        if size <= room:
            tags += again
            room -= size
    return make_template(result_kind(request.kind), content=content, tags=tags, created_at=now)


def confidence_tags(confidence: float | None) -> list[tuple[str, ...]]:
    """How sure an agent is of a result, 0 … 1, in the event that has it; no tag if it does not say."""
    return [] if confidence is None else [(CONFIDENCE, write_confidence(confidence))]


def stated_confidence(event: Event) -> float | None:
    """How sure its agent says that it is of the result in `event`; None if it says nothing that can be read."""
    try:
        return read_confidence(event.tag(CONFIDENCE) or "")
    except InvalidReceipt:
        return None


def bytes_signed(template: EventTemplate) -> int:
    """What an event takes as JSON once it is signed, with 400 bytes for id, key, signature and all names."""
    return len(orjson.dumps([template.tags, template.content])) + 400


def check_size(template: EventTemplate) -> None:
    """Raise `BadRequest` if relays would refuse the signed event for its size."""
    if (size := bytes_signed(template)) > EVENT_BYTES_MAX:
        raise BadRequest(
            f"the request takes {size} bytes as an event, and relays take at most {EVENT_BYTES_MAX}: "
            "send less, or the URL of it as an input of type url"
        )


def parse_feedback(event: Event, clear: EventTemplate | None = None) -> Feedback | None:
    """Read a verified 7000 event leniently, as deployed providers write them; None if it names no request.

    `clear` is what `private.reveal` made of an encrypted one.
    """
    said = clear or event
    request_id = event.tag("e")
    if event.kind != FEEDBACK or request_id is None:
        return None
    status_tag = next(iter(said.tags_named("status")), ("status", Status.PROCESSING))
    # NDK writes an underscore.
    status = status_tag[1].replace("_", "-") if len(status_tag) > 1 else Status.PROCESSING
    return Feedback(
        event=event,
        request_id=request_id,
        status=status,
        message=status_tag[2] if len(status_tag) > 2 else "",
        content=said.content,
        offer=_parse_offer(said) if status == Status.PAYMENT_REQUIRED else None,
        action=said.tag("action"),
        code=code if _CODE.fullmatch(code := said.tag("code") or "") else "",
    )


def parse_result(event: Event) -> JobResult | None:
    """Read a verified 6xxx event; None if it names no request. The content is as it came, encrypted perhaps."""
    request_id = event.tag("e")
    if not 6000 <= event.kind <= 6999 or request_id is None:
        return None
    price_msat, bolt11 = _parse_price(event)
    return JobResult(event, request_id, event.content, price_msat, bolt11)


def repeated_request(result: Event) -> Event | None:
    """The request as a result of it holds it (NIP-90's `request` tag), verified; None if it holds none."""
    raw = result.tag("request") if parse_result(result) else None
    if raw is None:
        return None
    try:
        request = parse_event(raw)
        request.verify()
    except InvalidEvent:
        return None
    return request


def _parse_offer(event: Said) -> Offer | None:
    price_msat, bolt11 = _parse_price(event)
    try:
        locktime = _amount(event.tag("locktime"), "locktime")
        expires_at = expiration(event)
    except BadRequest:
        return None
    if price_msat is None:
        return None
    return Offer(
        price_msat=price_msat,
        bolt11=bolt11,
        mints=_values(event, "mint"),
        lock=event.tag("lock"),
        locktime=locktime,
        settle=_values(event, "settle"),
        creq=event.tag("creq"),
        expires_at=expires_at,
        escrow=_parse_escrow(event),
    )


def _parse_price(event: Said) -> tuple[int | None, str | None]:
    """The `amount` tag: a price in msat and the invoice over it; None for what is not there or not readable."""
    tag = next((tag for tag in event.tags_named("amount") if len(tag) > 1), ("", ""))
    try:
        price_msat = _amount(tag[1], "amount")
    except BadRequest:
        return None, None
    return price_msat, tag[2] if len(tag) > 2 and tag[2] else None


def _parse_escrow(event: Said) -> EscrowOffer | None:
    arbiter = next((tag for tag in event.tags_named("arbiter") if len(tag) == 6), None)
    try:
        times = [_amount(event.tag(name), name) for name in ("deliver_by", "review", "dispute")]
        signed_at = _amount(arbiter[3], "arbiter") if arbiter else None
        fee_msat = _amount(arbiter[5], "arbiter") if arbiter else None
        arbiter_key = _compressed_key(arbiter[2]) if arbiter else None
    except BadRequest:
        return None
    match arbiter, arbiter_key, signed_at, fee_msat, times:
        case (_, pubkey, _, _, sig, _), str(key), int(at), int(fee), [
            int(deliver_by),
            int(review),
            int(dispute),
        ]:
            relays = _values(event, _ARBITER_RELAYS)
            return EscrowOffer(pubkey, key, at, sig, fee, deliver_by, review, dispute, relays)
    return None


def _parse_input(tag: tuple[str, ...]) -> Input:
    data, kind, relay, marker = (*tag[1:5], *("",) * (5 - len(tag[:5])))
    kind = _INPUT_TYPES_TOO.get(kind, kind)
    if len(tag) < 2:
        raise BadRequest('an i tag has no data; write ["i", data, type]')
    if kind not in INPUT_TYPES:
        raise BadRequest(f"input type {kind[:40]!r} is not known; NIP-90 knows text, url, event and job")
    return Input(data, kind, relay, marker)


def _values(event: Said, name: str) -> tuple[str, ...]:
    """All values of all tags called `name`: `["mint", a, b]` and `["mint", a], ["mint", b]` mean the same."""
    return tuple(value for tag in event.tags_named(name) for value in tag[1:])


def _single(event: Said, name: str) -> str | None:
    found = event.tags_named(name)
    if len(found) > 1:
        raise BadRequest(f"the tag {name!r} is given {len(found)} times; once is enough")
    return event.tag(name)


def _amount(text: str | None, name: str) -> int | None:
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise BadRequest(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def _compressed_key(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        if text[:2] in ("02", "03"):
            check_public_key(text[2:])
            return text
    except InvalidKey:
        pass
    raise BadRequest("lock must be a 33-byte compressed public key in lowercase hex")
