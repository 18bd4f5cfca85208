"""Operations on the agents that can be hired here: a list, and one."""

from typing import Annotated, Final

import msgspec

from dvm.schemas import Param, Schema, schema_of
from identity import encode_npub
from tradepost.facade.agents.catalogue import Known, Search
from tradepost.facade.desk import Desk
from tradepost.facade.web.operations import Call, Operation
from tradepost.facade.web.problems import NotValid
from wallet.terms import Method

PAGE_MAX: Final = 100
TARGET_CHARS_MAX: Final = 400  # an nprofile with some relays in it

Sat = Annotated[int, msgspec.Meta(ge=0, le=2_100_000_000_000_000)]
Kind = Annotated[int, msgspec.Meta(ge=5000, le=5999)]


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a job. `values` are all that are allowed, or `form` says what they look like, in words.

    `count_max`: how many values it takes.
    """

    name: str
    about: str
    required: bool
    values: tuple[str, ...]
    form: str
    count_max: int


class AgentCapability(msgspec.Struct, frozen=True):
    """A kind of job (NIP-90) that an agent does. `price_sat` is null where the agent announces none that can be read.

    `inputs` are the types of input that it takes, `outputs` the media types of its results, if they are known.
    """

    kind: int
    name: str
    about: str
    price_sat: int | None
    params: tuple[Parameter, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Strangers(msgspec.Struct, frozen=True):
    """What an agent asks of customers who never paid it: sats for any job, bits of proof of work (NIP-13).

    `welcome` is false if it takes no jobs of theirs at all. This desk is such a customer until it has paid once.
    """

    deposit_sat: int
    pow_bits: int
    welcome: bool


class Hire(msgspec.Struct, frozen=True):
    """How to hire an agent over HTTP: what to send where. `settle` are the ways in which this desk can pay it."""

    method: str
    url: str
    agent: str
    settle: tuple[str, ...]
    reputation: str


class Agent(msgspec.Struct, frozen=True):
    """An agent that can be hired.

    `own`: it is this post's. `live`: it is there now, by its heartbeat. `nip05` is a name that leads to its key, as its
    domain says, null if it has none; of this post's agents it is a Lightning address, too.
    """

    npub: str
    public_key: str
    name: str
    about: str
    picture: str | None
    nip05: str | None
    live: bool
    own: bool
    capabilities: tuple[AgentCapability, ...]
    strangers: Strangers
    hire: Hire


class Agents(msgspec.Struct, frozen=True):
    """One page. `next` is the `cursor` of the page after it, null on the last one."""

    agents: tuple[Agent, ...]
    next: str | None


class AgentsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to look for. `max_sat`: at least one job that is looked for costs no more."""

    kind: Kind | msgspec.UnsetType = msgspec.UNSET
    capability: Annotated[str, msgspec.Meta(max_length=60)] = ""
    q: Annotated[str, msgspec.Meta(max_length=200)] = ""
    max_sat: Sat | msgspec.UnsetType = msgspec.UNSET
    live: bool | msgspec.UnsetType = msgspec.UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 20
    cursor: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | msgspec.UnsetType = msgspec.UNSET


async def list_agents(call: Call) -> Agents:
    """A page of the agents that fit. Between two pages the order may change, as agents come and go."""
    wanted = msgspec.to_builtins(call.query)  # what was left out is not in it
    limit, cursor = wanted.pop("limit"), wanted.pop("cursor", None)
    found = await call.desk.catalogue.search(Search(**wanted))
    start = _after(found, cursor)
    page = found[start : start + limit]
    is_last = start + limit >= len(found)
    return Agents(tuple(shown(call.desk, one) for one in page), None if is_last else page[-1].public_key)


async def get_agent(call: Call) -> Agent:
    """One agent, by its key or name."""
    return shown(call.desk, await call.desk.catalogue.find(call.part("agent")))


def shown(desk: Desk, known: Known) -> Agent:
    """An agent as callers see it."""
    listing, npub = known.listing, encode_npub(known.public_key)
    return Agent(
        npub=npub,
        public_key=known.public_key,
        name=listing.name,
        about=known.agent.about if known.agent else listing.about,
        picture=listing.picture or None,
        nip05=known.nip05 or None,
        live=listing.alive,
        own=known.agent is not None,
        capabilities=tuple(_capability(known, kind) for kind in listing.kinds),
        strangers=Strangers(
            -(-listing.deposit_msat // 1000), listing.pow_bits, not listing.refuses_strangers
        ),
        hire=Hire(
            method="POST",
            url=f"{desk.url}/v1/jobs",
            agent=npub,
            settle=ways_to_pay(desk, known),
            reputation=f"{desk.url}/v1/agents/{npub}/reputation",
        ),
    )


def ways_to_pay(desk: Desk, known: Known) -> tuple[str, ...]:
    """Our own agents are paid ahead: in an escrow with ourselves nobody would be safer."""
    with_escrow = known.agent is None and bool(desk.settings.arbiters)
    return (Method.PREPAID, Method.ESCROW) if with_escrow else (Method.PREPAID,)


def _after(found: list[Known], cursor: str | None) -> int:
    if cursor is None:
        return 0
    for number, one in enumerate(found, 1):
        if one.public_key == cursor:
            return number
    raise NotValid(
        "the agent that this page begins after is not there any more: begin again without a cursor"
    )


def _capability(known: Known, kind: int) -> AgentCapability:
    listing = known.listing
    price_msat = listing.prices_msat.get(kind)
    own = known.agent.capabilities.get(kind) if known.agent else None
    schema = own.schema if own else _schema(known, kind)
    return AgentCapability(
        kind=kind,
        name=schema.name,
        about=own.about if own else "",
        price_sat=None if price_msat is None else -(-price_msat // 1000),
        params=tuple(_parameter(param) for param in schema.params),
        inputs=tuple(sorted(schema.input_types)),
        outputs=schema.outputs,
    )


def _schema(known: Known, kind: int) -> Schema:
    """Of an agent that is not ours: what the registry says, and what the agent announces.

    An announcement names the parameters of all its kinds together: one that the registry has for another of them is
    not this one's.
    """
    registered, listing = schema_of(kind), known.listing
    others = {param.name for other in listing.kinds if other != kind for param in schema_of(other).params}
    mine = {param.name for param in registered.params}
    announced = {
        param.name: param for param in listing.params if param.name in mine or param.name not in others
    }
    return registered.with_params(tuple(announced.values()))


def _parameter(param: Param) -> Parameter:
    form = "" if param.values else param.allowed.what
    return Parameter(param.name, param.about, param.required, tuple(param.values), form, param.count_max)


TARGET: Final = ("agent", "its npub, its key in hex, its NIP-05 name, or what it calls itself")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="list_agents",
        method="GET",
        path="/v1/agents",
        about="List agents\n\nThose that can be hired here: this post's own, and those announced on its relays, as "
        "they were at most a minute ago. This post's come first, then live and cheap ones.",
        handler=list_agents,
        query=AgentsQuery,
        answer=Agents,
        group="Agents",
    ),
    Operation(
        name="get_agent",
        method="GET",
        path="/v1/agents/{agent}",
        about="Get one agent\n\nWhat it does, for how much, with which parameters, and how to hire it.",
        handler=get_agent,
        answer=Agent,
        parts=(TARGET,),
        problems=("not_found", "bad_request"),
        group="Agents",
    ),
)
