"""What the parties of an escrow write to each other: JSON in gift-wrapped messages of one kind (escrow §2).

The wrap proves who wrote it; each party takes a message only from the one whose part it is to send it.
"""

from typing import Annotated, Final, Literal

import msgspec

from dvm.errors import BadRequest
from dvm.nip90 import RELAYS_MAX
from identity import Event, EventTemplate, Rumor, make_template
from wallet.terms import ARBITER_RELAYS_MAX, RELAY_CHARS_MAX, Terms

ESCROW_MESSAGE: Final = 3957
SECRET_CHARS_MAX: Final = 1024
COINS_MAX: Final = 24  # signatures over more do not fit an event that relays take
TEXT_CHARS_MAX: Final = 16_000

Hex64 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Hex128 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]
Key = Annotated[str, msgspec.Meta(pattern="^0[23][0-9a-f]{64}$")]
Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=SECRET_CHARS_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
Sats = Annotated[int, msgspec.Meta(gt=0, le=2**53)]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Url = Annotated[str, msgspec.Meta(max_length=RELAY_CHARS_MAX)]
Relays = Annotated[list[Url], msgspec.Meta(max_length=RELAYS_MAX)]
Coins = Annotated[list[tuple[Secret, Sats]], msgspec.Meta(min_length=1, max_length=COINS_MAX)]
Signatures = Annotated[dict[Secret, Hex128], msgspec.Meta(min_length=1, max_length=COINS_MAX)]


class _Message(msgspec.Struct, frozen=True, tag_field="type", rename="camel"):
    pass


class Serve(_Message, frozen=True, tag="serve"):
    """Provider to arbiter: will you serve this? The request itself, and terms without the arbiter's key."""

    request: Event
    provider_key: Key
    customer_key: Key
    mint: str
    price_sat: Sats
    deliver_by: Time
    review_seconds: Time
    dispute_seconds: Time
    locktime: Time


class Serves(_Message, frozen=True, tag="serves"):
    """Arbiter to provider: yes, with this key; the signature is over the acceptance (`agreement.acceptance_of`).

    `fee_sat`: what hearing a dispute costs whoever begins it. `relays`: where letters reach the arbiter.
    """

    arbiter_key: Key
    signed_at: Time
    sig: Hex128
    fee_sat: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    relays: Annotated[list[Url], msgspec.Meta(max_length=ARBITER_RELAYS_MAX)] = []


class Declines(_Message, frozen=True, tag="declines"):
    """Arbiter to provider: no."""

    reason: Text


class Delivered(_Message, frozen=True, tag="delivered"):
    """Provider to arbiter: which event is the result, relays that have it, and the coins it may have to sign.

    Arbiter to customer: the same, without coins.
    """

    result: Hex64
    relays: Relays = []
    coins: list[tuple[Secret, Sats]] = []


class Signs(_Message, frozen=True, tag="signs"):
    """To whom they are for: signatures over secrets, by the sender's one-job key."""

    signatures: Signatures


class AsksBack(_Message, frozen=True, tag="asks_back"):
    """Customer to arbiter: nothing was delivered in time."""

    coins: Coins


class Disputes(_Message, frozen=True, tag="disputes"):
    """Customer to arbiter and provider: why the result is not what was asked for. Coins for the arbiter alone."""

    reason: Text
    coins: list[tuple[Secret, Sats]] = []


class Accepts(_Message, frozen=True, tag="accepts"):
    """Customer to arbiter: what it disputed, or asked back, it has accepted after all."""


class Yields(_Message, frozen=True, tag="yields"):
    """Provider to arbiter: it has given the money back."""


class Answers(_Message, frozen=True, tag="answers"):
    """Provider to arbiter and customer, in a dispute."""

    statement: Text


class Ruled(_Message, frozen=True, tag="ruled"):
    """Arbiter to provider and customer: how it ruled."""

    ruling: Event


class Reveals(_Message, frozen=True, tag="reveals"):
    """Provider to customer: the key it has bought, as the mint was told it."""

    key: Hex64


class Wishes(_Message, frozen=True, tag="wishes"):
    """From us to ourselves: what our owner wants done in a post that runs elsewhere, or just now in another process."""

    action: Literal["accept", "dispute", "answer", "give_back", "rule"]
    reason: Text = ""
    provider_sat: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0


EscrowMessage = (
    Serve
    | Serves
    | Declines
    | Delivered
    | Signs
    | AsksBack
    | Disputes
    | Accepts
    | Yields
    | Answers
    | Ruled
    | Reveals
    | Wishes
)
_DECODER: Final = msgspec.json.Decoder(EscrowMessage)


def write_message(message: EscrowMessage, terms: Terms, recipient: str, now: int) -> EventTemplate:
    """The rumor that says it."""
    tags = [("p", recipient), ("e", terms.request_id)]
    return make_template(
        ESCROW_MESSAGE, content=msgspec.json.encode(message).decode(), tags=tags, created_at=now
    )


def read_message(rumor: Rumor) -> tuple[str, EscrowMessage]:
    """The request it is about, and the message. Raises `BadRequest` without repeating it."""
    request_id = next((tag[1] for tag in rumor.tags if tag[:1] == ("e",) and len(tag) > 1), "")
    try:
        return request_id, _DECODER.decode(rumor.content)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise BadRequest("a message about an escrow is malformed") from None
