"""What a caller wants done, and what that comes to: whom to ask, for which kind of work, for how many sats at most."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from dvm import BadRequest, Input, Listing, NoAgentFound
from dvm.discovery.directory import called
from dvm.escrow.parties import DELIVER_SECONDS_MIN
from dvm.jobs.inputs import pointer
from dvm.kinds import check_request_kind, folded, kind_of, name_of
from dvm.nip90 import ENVELOPE_BYTES, EVENT_BYTES_MAX, INPUTS_MAX
from dvm.orders.asking import named_key
from dvm.schemas import SCHEMAS
from identity.nip19 import parse_public_key
from tradepost.facade.agents.catalogue import Catalogue, Known
from tradepost.facade.web.problems import NotFound, NotValid
from wallet.terms import PRICE_SAT_MAX, Method

SECONDS_MIN: Final = 5
SECONDS_MAX: Final = 86_400
SECONDS: Final = 600
ARBITERS_MAX: Final = 8
PARAMS_MAX: Final = 100

Text = Annotated[str, msgspec.Meta(max_length=EVENT_BYTES_MAX)]
Word = Annotated[str, msgspec.Meta(max_length=1000)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Key = Annotated[str, msgspec.Meta(max_length=200)]
Sats = Annotated[int, msgspec.Meta(ge=0, le=PRICE_SAT_MAX)]


class WishInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input, as NIP-90 has them. Data of type `url` is fetched by the agent, never by this desk; `event` and `job`
    name an event, and the result of a job, by the id; `relay` says where that is found.
    """

    data: Text
    type: Literal["text", "url", "event", "job"] = "text"
    relay: Annotated[str, msgspec.Meta(max_length=512)] = ""
    marker: Word = ""


class JobWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done, by whom, and what it may cost.

    `agent`: an npub, nprofile or key in hex, the name of an agent, or a word for what is to be done. `kind`: the
    NIP-90 kind, by number or name. One of the two is needed.
    `input` is a text; `inputs` are several, or others. `max_sat`: the most it may cost, all agents together; without it
    what the agent announces. The mint's fees come on top; those of paying agents that failed are taken of it.
    `others`: whether other agents are asked if one does not deliver; without it, unless an agent was named.
    `settle`: `escrow` (an arbiter whom you trust can give the sats back) or `prepaid` (the agent is trusted with them);
    without it by escrow where that is possible. `arbiters`: whom you trust, instead of this post's choice.
    `review`: a result in escrow waits until you accept or dispute it. `private`: only the agent can read it.
    """

    agent: Word = ""
    kind: int | Word = ""
    input: Text | None = None
    inputs: Annotated[list[WishInput], msgspec.Meta(max_length=INPUTS_MAX)] = []
    params: Annotated[dict[Name, Text | list[Text]], msgspec.Meta(max_length=PARAMS_MAX)] = {}
    max_sat: Sats | None = None
    seconds_max: Annotated[int, msgspec.Meta(ge=SECONDS_MIN, le=SECONDS_MAX)] = SECONDS
    others: bool | None = None
    settle: Literal["prepaid", "escrow"] | None = None
    arbiters: Annotated[list[Key], msgspec.Meta(max_length=ARBITERS_MAX)] = []
    review: bool = False
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A wish as `Customer.hire` takes it. `known` is the agent that is asked first, as far as that is known, and
    `price_sat` what it announces; None if nothing.
    """

    target: str
    kind: int
    inputs: Sequence[Input]
    params: Mapping[str, str | Sequence[str]]
    max_sat: int
    price_sat: int | None
    seconds_max: int
    others: bool
    settle: tuple[Method, ...]
    arbiters: tuple[str, ...]
    review: bool
    private: bool
    known: Known | None
    avoid: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Meant:
    """Who is to do which kind of work: `target` names one agent, which may be unknown here, or many by a word.

    `known` is that one, or the cheapest of the many that are alive and announce a price.
    """

    target: str
    kind: int
    is_named: bool
    known: Known | None

    @property
    def price_sat(self) -> int | None:
        """What it announces."""
        return self.known.price_sat(self.kind) if self.known else None


async def plan_for(wish: JobWish, catalogue: Catalogue, arbiters: Sequence[str]) -> Plan:
    """What a wish comes to, where `arbiters` (hex) are trusted if it names none.

    Raises `NotValid` with what to say instead, `BadRequest`, `InvalidKey`, `NotFound` and `NoAgentFound`.
    """
    meant = await _meant(wish, catalogue)
    inputs = _inputs(wish, meant.kind)
    others = not meant.is_named if wish.others is None else wish.others
    max_sat = _max_sat(wish, meant, others=others)
    own = tuple(one.public_key for one in catalogue.own)
    trusted = tuple(dict.fromkeys(map(parse_public_key, wish.arbiters))) or tuple(arbiters)
    settle = _settle(
        wish, trusted, is_own=meant.is_named and meant.known is not None and meant.known.agent is not None
    )
    if _by_escrow_alone(wish) and max_sat == 0:
        raise NotValid("there is nothing to put in escrow for free work: leave `settle` and `review` out")
    # An agent of ours is asked by its key: it is here, even if no relay shows it yet.
    is_ours = meant.known is not None and meant.known.public_key in own
    return Plan(
        target=meant.known.public_key if is_ours and meant.known else meant.target, kind=meant.kind, inputs=inputs,
        params=wish.params, max_sat=max_sat, price_sat=meant.price_sat, seconds_max=wish.seconds_max, others=others,
        settle=settle, arbiters=trusted if Method.ESCROW in settle else (), review=wish.review, private=wish.private,
        known=meant.known, avoid=own if _by_escrow_alone(wish) else (), own=own,
    )  # fmt: skip


def _by_escrow_alone(wish: JobWish) -> bool:
    return wish.settle == "escrow" or wish.review


async def _meant(wish: JobWish, catalogue: Catalogue) -> _Meant:
    kind = _kind(wish.kind)
    if named_key(wish.agent):
        try:
            known = await catalogue.find(wish.agent)
        except NotFound:  # it need not announce itself
            if kind is None:
                raise NotValid("this desk does not know what the agent does: say `kind`") from None
            return _Meant(wish.agent, kind, True, None)
        return _Meant(wish.agent, kind or _only_kind(known.listing), True, known)
    if not wish.agent:
        if kind is None:
            raise NotValid("say `agent`, or `kind`, the work that is to be done")
        return await _any(str(kind), kind, wish, catalogue)
    if kind is None:
        try:
            kind = kind_of(wish.agent)
        except BadRequest:  # then it is what an agent calls itself
            known = await catalogue.find(wish.agent)
            return _Meant(known.public_key, _only_kind(known.listing), True, known)
    if folded(wish.agent) not in (str(kind), folded(name_of(kind))):
        # Whoever is called just so is meant, and not somebody cheaper whose name has that in it.
        with suppress(NotFound):
            known = await catalogue.find(wish.agent)
            if not (known.agent and _by_escrow_alone(wish)):
                return _Meant(known.public_key, kind, False, known)
    return await _any(wish.agent, kind, wish, catalogue)


async def _any(word: str, kind: int, wish: JobWish, catalogue: Catalogue) -> _Meant:
    """Those whom a word means; not our own where only an escrow will do."""
    found = [
        one for one in await catalogue.known()
        if one.listing.alive and called(one.listing, kind, word) and one.price_sat(kind) is not None
        and not (one.agent and _by_escrow_alone(wish))
    ]  # fmt: skip
    return _Meant(word, kind, False, min(found, key=lambda one: one.price_sat(kind) or 0, default=None))


def _kind(said: int | str) -> int | None:
    if said == "":
        return None
    return check_request_kind(said) if isinstance(said, int) else kind_of(said)


def _only_kind(listing: Listing) -> int:
    if len(listing.kinds) == 1:
        return listing.kinds[0]
    kinds = ", ".join(f"{kind} ({name_of(kind)})" for kind in listing.kinds)
    raise NotValid(f"the agent does {kinds}: say `kind`")


def _max_sat(wish: JobWish, meant: _Meant, *, others: bool) -> int:
    """The most it may cost; refuses what cannot come to anything."""
    price_sat = meant.price_sat
    if meant.is_named and meant.known and meant.kind not in meant.known.listing.kinds and not others:
        does = ", ".join(f"{kind} ({name_of(kind)})" for kind in meant.known.listing.kinds)
        raise NotValid(
            f"the agent announces no {name_of(meant.kind)} ({meant.kind}), but {does}: ask for that"
        )
    if wish.max_sat is None and price_sat is None:
        if meant.is_named:
            raise NotValid("the agent announces no price for this: say `max_sat`, the most that you pay")
        raise NoAgentFound(
            f"no live agent announces {meant.target!r} (kind {meant.kind}) with a price: GET /v1/agents lists those"
            " that are known; say `max_sat` to ask one that announces no price"
        )
    max_sat = price_sat if wish.max_sat is None else wish.max_sat
    assert max_sat is not None
    if price_sat is not None and price_sat > max_sat and not (meant.is_named and others):
        raise NotValid(f"this costs {price_sat} sat, and `max_sat` is {max_sat}")
    return max_sat


def _settle(wish: JobWish, arbiters: Sequence[str], *, is_own: bool) -> tuple[Method, ...]:
    """The ways to pay that will do, the best first."""
    if wish.settle == "prepaid" and wish.review:
        raise NotValid('prepaid work is paid for before you see it: `review` needs `settle`: "escrow"')
    if _by_escrow_alone(wish):
        if wish.private:
            raise NotValid("an escrow cannot be private: its arbiter could not read what was asked")
        if is_own:
            raise NotValid(
                "this agent is the post's own, which holds your sats anyway: an escrow against ourselves would be for"
                " show. Leave `settle` and `review` out, or hire another agent"
            )
        if not arbiters:
            raise NotValid(
                "an escrow needs an arbiter: this post names none, so name one in `arbiters` (npub)"
            )
        if wish.seconds_max <= DELIVER_SECONDS_MIN:
            raise NotValid(
                f"no agent works in escrow that has {wish.seconds_max} s for it: raise `seconds_max`"
            )
        return (Method.ESCROW,)
    can_escrow = bool(arbiters) and not wish.private and not is_own and wish.settle is None
    return (Method.ESCROW, Method.PREPAID) if can_escrow else (Method.PREPAID,)


def _inputs(wish: JobWish, kind: int) -> tuple[Input, ...]:
    if wish.input is not None and wish.inputs:
        raise NotValid("say `input`, a text, or `inputs`, and not both")
    inputs = tuple(Input(one.data, one.type, one.relay, one.marker) for one in wish.inputs)
    if wish.input is not None:
        inputs = (Input(wish.input),)
    if not inputs and (kind not in SCHEMAS or SCHEMAS[kind].inputs_min):
        raise NotValid("there is nothing to work on: say `input`, a text, or `inputs`")
    for one in inputs:
        if one.type == "url" and not one.data.startswith(("http://", "https://")):
            raise NotValid("the data of an input of type url begins with https:// or http://")
        if one.type in ("event", "job"):
            pointer(one)
    size = len(msgspec.json.encode((wish.inputs, wish.input, wish.params)))
    if size > EVENT_BYTES_MAX - ENVELOPE_BYTES:
        raise NotValid(
            f"inputs and parameters are {size} bytes, and relays take {EVENT_BYTES_MAX - ENVELOPE_BYTES}: send less, or"
            " the URL of it as an input of type url"
        )
    return inputs
