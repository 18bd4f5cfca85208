"""An arbiter on relays that the customer does not use: letters reach it where it signed that it reads."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from msgspec import structs

from dvm import Agent, ProviderLimits
from identity import SecretKey
from relay_bridge import Socket
from tests.dvm.conftest import Trade
from tests.escrow.test_table import ESCROW
from tradepost.settings import Settings
from tradepost.testing import ManualClock, Market, MemoryRelay
from tradepost.testing.market import RELAY
from wallet.errors import WrongTerms
from wallet.escrow import Role, Stage
from wallet.terms import check_agreement, read_terms

ARBITERS = "ws://arbiters.test"


class _TwoRelays(MemoryRelay):
    """The customer's relay; by its own name also the arbiter's."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.arbiters = MemoryRelay(clock=clock)

    async def connect(self, url: str) -> Socket:
        return await (self.arbiters.connect(url) if url == ARBITERS else super().connect(url))


class _TwoPlaces(Market):
    """The customer uses one relay, the arbiter another, the agent both."""

    def settings(self, name: str) -> Settings:
        relays = {"customer": (RELAY,), "arbiter": (ARBITERS,)}.get(name, (RELAY, ARBITERS))
        return super().settings(name).model_copy(update={"relays": relays})


@pytest.fixture
def fee_sat() -> int:
    """What the arbiter takes."""
    return 0


@pytest.fixture
async def apart(agent: Agent, tmp_path: Path, fee_sat: int) -> AsyncIterator[Trade]:
    clock = ManualClock()
    market = _TwoPlaces(clock=clock, folder=tmp_path)
    market.relay = _TwoRelays(clock)
    async with market:
        arbiter = await market.arbiter(fee_sat=fee_sat)
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        provider = await market.open(agent, limits=limits)
        yield Trade(market, await market.customer(sat=1000), provider, arbiter)


async def test_a_dispute_reaches_an_arbiter_on_other_relays(apart: Trade) -> None:
    order = await apart.ask()
    await order.result()
    await apart.reach(Role.ARBITER, order, Stage.DELIVERED)
    for role in Role:
        row = await apart.view(role, order)
        assert row is not None
        assert row.terms.arbiter_relays == (ARBITERS,)
    await apart.customer.dispute(order.id, "that is not what I asked for")
    await apart.reach(Role.ARBITER, order, Stage.DISPUTED)
    await apart.arbiter.rule(order.id, 0)
    await apart.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert await apart.sats() == (0, 0)


@pytest.mark.parametrize("fee_sat", [5])
async def test_a_hearing_is_ordered_and_paid_for_at_an_arbiter_on_other_relays(apart: Trade) -> None:
    order = await apart.ask()
    await order.result()
    await apart.reach(Role.ARBITER, order, Stage.DELIVERED)
    await apart.customer.dispute(order.id, "that is not what I asked for")
    case = await apart.reach(Role.ARBITER, order, Stage.DISPUTED)
    assert case.fee_order is not None  # paid: only then it is a dispute
    await apart.arbiter.rule(order.id, 0)
    await apart.reach(Role.CUSTOMER, order, Stage.REFUNDED)


async def test_no_party_crowds_out_the_relays_of_another(apart: Trade) -> None:
    order = await apart.ask()
    await order.result()
    row = await apart.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    theirs = tuple(f"wss://arbiter{number}.test" for number in range(4))
    wanted = ("relays", *(f"wss://wanted{number}.test" for number in range(20)))
    request = structs.replace(row.request, tags=(wanted,))
    urls = apart.customer.desk._relays(
        replace(row, request=request, terms=replace(row.terms, arbiter_relays=theirs))
    )
    assert len(urls) == 8
    assert RELAY in urls
    assert {*theirs} <= {*urls}
    assert {*wanted[1:4]} <= {*urls}


def test_terms_from_the_database_are_the_same_terms() -> None:
    terms = replace(ESCROW, arbiter_relays=(ARBITERS,))
    assert read_terms(orjson.loads(orjson.dumps(terms.to_dict()))) == terms
    old = {name: value for name, value in ESCROW.to_dict().items() if name != "arbiter_relays"}
    assert read_terms(old) == ESCROW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arbiter_relays": (ARBITERS,) * 5}, "at most 4 relays"),
        ({"arbiter_relays": ("wss://" + "a" * 507,)}, "512 characters"),
        ({"arbiter_key": "02" + "f" * 64}, "key"),  # no point of the curve
    ],
)
def test_terms_that_nobody_could_sign(changes: dict[str, object], reason: str) -> None:
    key = SecretKey(bytes([7]) * 32).compressed_public_key
    check_agreement(replace(ESCROW, arbiter_key=key), 0)
    with pytest.raises(WrongTerms, match=reason):
        check_agreement(replace(ESCROW, **changes), 0)
