"""What an arbiter is sure of before it signs: all the coins, the right agent, and that silence was none of its own."""

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from dvm import Agent, ProviderLimits
from dvm.errors import BadRequest
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from dvm.escrow.hearings import LETTER_SECONDS_MAX
from dvm.escrow.messages import (
    ESCROW_MESSAGE,
    Declines,
    Delivered,
    Disputes,
    Serve,
    Serves,
    read_message,
)
from dvm.escrow.results import is_result
from dvm.nip90 import make_result
from identity import LocalSigner, Rumor, SecretKey, make_template
from identity.nip59 import wrap
from relay_bridge.errors import ConnectionLost
from relay_bridge.transport import Socket
from tests.dvm.conftest import PRICE, Trade, eventually
from tests.dvm.escrow.test_parties import say, under_way
from tradepost.testing import ManualClock, Market
from wallet.escrow import Role, Stage
from wallet.terms import MARGIN_SECONDS

if TYPE_CHECKING:
    from conftest import Stranger


@pytest.mark.parametrize("named", [0, 1])
async def test_it_rules_on_all_coins_or_not_at_all(trade: Trade, named: int) -> None:
    """The customer names too few of them, before the agent has reported."""
    order, customers, providers, coins = await under_way(trade)
    await say(
        trade.market,
        trade.customer.signer,
        trade.arbiter.public_key,
        Disputes("no", coins[:named]),
        customers,
    )
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    for award_sat in (PRICE, 0):
        with pytest.raises(BadRequest, match="wait for the agent's report"):
            await trade.arbiter.rule(order.id, award_sat)
    report = Delivered("ab" * 32, [], coins)
    await say(trade.market, trade.provider.signer, trade.arbiter.public_key, report, providers)

    async def is_reported() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and case.reported is not None

    await eventually(is_reported)
    ruled = await trade.arbiter.rule(order.id, PRICE)
    assert set(ruled.awarded) == {secret for secret, _ in coins}


async def _ask_to_serve(market: Market, arbiter: Arbiter, provider: "Stranger", serve: Serve) -> object:
    now = market.clock.now()
    content = msgspec.json.encode(serve).decode()
    rumor = make_template(ESCROW_MESSAGE, content=content, tags=[("e", serve.request.id)], created_at=now)
    market.relay.insert(await wrap(LocalSigner(provider.key), arbiter.public_key, rumor, now=now))

    async def is_answered() -> bool:
        return bool(await provider.letters())

    await eventually(is_answered)
    return read_message((await provider.letters())[0])[1]


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_request_is_served_for_an_agent_that_it_asks_and_for_one(
    market: Market, stranger: "Stranger", is_open: bool
) -> None:
    arbiter = await market.arbiter()
    agent, other = type(stranger)(market), type(stranger)(market)
    lock, key = (SecretKey.generate().compressed_public_key for _ in range(2))
    asked = () if is_open else (("p", agent.key.public_key),)
    request = stranger.request(
        *asked,
        ("settle", "escrow"),
        ("lock", lock),
        ("arbiter", arbiter.public_key),
        ("mint", market.mint.url),
    )
    due = market.clock.now() + 300
    serve = Serve(
        request=request, provider_key=key, customer_key=lock, mint=market.mint.url, price_sat=PRICE, deliver_by=due,
        review_seconds=60, dispute_seconds=60, locktime=due + 120 + 3 * MARGIN_SECONDS,
    )  # fmt: skip
    if is_open:
        assert isinstance(await _ask_to_serve(market, arbiter, agent, serve), Serves)
    refused = await _ask_to_serve(market, arbiter, other, serve)
    assert isinstance(refused, Declines)
    assert refused.reason == (
        "another agent has this request already" if is_open else "the customer asked other agents"
    )
    if not is_open:
        assert isinstance(await _ask_to_serve(market, arbiter, agent, serve), Serves)


class Cable:
    """The arbiter's connection to the relay, which can be pulled out."""

    def __init__(self, market: Market) -> None:
        self._real, self._market = market.relay.connect, market
        self._sockets: list[Socket] = []
        self.is_out = False

    async def connect(self, url: str) -> Socket:
        if self.is_out:
            raise ConnectionLost("no network")
        socket = await self._real(url)
        self._sockets.append(socket)
        return socket

    async def pull(self) -> None:
        self.is_out = True
        for socket in self._sockets:
            await socket.close()


async def test_its_own_outage_is_nobodys_consent(
    agent: Agent, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Market(clock=ManualClock(), folder=tmp_path_factory.mktemp("market")) as market:
        cable = Cable(market)
        with monkeypatch.context() as patched:
            patched.setattr(market.relay, "connect", cable.connect)
            arbiter = await market.arbiter()
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        trade = Trade(
            market, await market.customer(sat=1000), await market.open(agent, limits=limits), arbiter
        )
        order = await trade.ask()
        await order.result()
        case = await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
        await cable.pull()
        await trade.customer.dispute(order.id, "no")
        await trade.customer._post.outbox.flush(5)
        assert case.wake_at is not None
        while market.clock.now() < case.wake_at + 120:
            await trade.pass_time(20)
            await asyncio.sleep(0)
        assert (await trade.reach(Role.ARBITER, order, Stage.DELIVERED)).statements == ()
        cable.is_out = False
        assert (await trade.reach(Role.ARBITER, order, Stage.DISPUTED, every=5)).statements


async def test_a_customer_that_has_said_why_is_given_time_to_pay_the_fee(
    agent: Agent, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It wrote while the arbiter was away; then its program was off for some minutes."""
    async with Market(clock=ManualClock(), folder=tmp_path_factory.mktemp("market")) as market:
        arbiter = await market.arbiter(fee_sat=10)
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        trade = Trade(
            market, await market.customer(sat=1000), await market.open(agent, limits=limits), arbiter
        )
        order = await trade.ask()
        await order.result()
        case = await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
        await arbiter.stop()
        await trade.customer.dispute(order.id, "no")
        await trade.customer._post.outbox.flush(5)
        await trade.customer.stop()
        assert case.wake_at is not None
        await trade.pass_time(case.wake_at + 1 - market.clock.now())
        back = Arbiter(arbiter._post, arbiter._signer, ArbiterLimits(fee_sat=10))
        since = market.clock.now()
        await back.start()
        ruled = await trade._replace(arbiter=back).reach(Role.ARBITER, order, Stage.RULED, every=5)
        await back.stop()
        assert LETTER_SECONDS_MAX <= ruled.updated_at - since < LETTER_SECONDS_MAX + 100


async def test_a_result_that_expires_is_none(trade: Trade) -> None:
    _, _, row, _ = await under_way(trade)
    template = make_result(row.request, "look quickly", price_msat=0, now=trade.market.clock.now())
    assert is_result(await trade.provider.signer.sign(template), row.terms, row.request.kind)
    tags = [*template.tags, ("expiration", str(template.created_at + 30))]
    fleeting = make_template(
        template.kind, content=template.content, tags=tags, created_at=template.created_at
    )
    assert not is_result(await trade.provider.signer.sign(fleeting), row.terms, row.request.kind)


async def test_a_letter_with_an_empty_tag_is_malformed_at_worst() -> None:
    with pytest.raises(BadRequest):
        read_message(
            Rumor(id="00" * 32, pubkey="00" * 32, created_at=0, kind=ESCROW_MESSAGE, tags=((),), content="{}")
        )


async def test_a_report_that_comes_while_the_last_search_ends_is_looked_for(
    trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, _, row, coins = await under_way(trade)
    await trade.reach(Role.ARBITER, order, Stage.AGREED)
    template = make_result(row.request, "good work", price_msat=0, now=trade.market.clock.now())
    result = await trade.provider.signer.sign(template)
    trade.market.relay.insert(result)
    search, has_read, may_end = trade.arbiter._search, asyncio.Event(), asyncio.Event()
    read = search._read

    async def slowly(request_id: str) -> object:
        case = await read(request_id)
        has_read.set()
        await may_end.wait()
        return case

    with monkeypatch.context() as patched:
        patched.setattr(search, "_read", slowly)
        trade.arbiter.watch(order.id)
        await has_read.wait()
        report = Delivered(result.id, [], coins)
        await say(trade.market, trade.provider.signer, trade.arbiter.public_key, report, row)

        async def is_reported() -> bool:
            case = await trade.view(Role.ARBITER, order)
            return case is not None and case.reported is not None and order.id in search._again

        await eventually(is_reported)
    may_end.set()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
