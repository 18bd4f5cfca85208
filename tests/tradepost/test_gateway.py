"""The gateway as wallets meet it: over HTTP, with relay and mint in memory behind it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import dvm.queries
from dvm import Agent, JobFailed, Post, ProviderLimits
from relay_bridge import Fetcher
from tradepost.api import open_customer
from tradepost.errors import GatewayRefused
from tradepost.facade.callers.limits import open_limits
from tradepost.facade.web.app import make_app
from tradepost.facade.web.sockets import listening
from tradepost.gateway import Gateway, open_gateway
from tradepost.lightning_orders import LightningOrders, open_lightning_orders
from tradepost.post import open_post
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import Market
from tradepost.testing.mint import Melts
from wallet import LnurlClient, LnurlRefused, encode_lnurl, queries_lnurl
from wallet.errors import InvalidLnurl
from wallet.lnurl import with_query
from wallet.queries_lnurl import Stage

SECONDS_MAX = 20

agent = Agent("Upper")


@agent.serves(5001, price_sat=20)
async def upper(job: Any) -> str:
    if job.text == "fail":
        raise JobFailed("cannot")
    return str(job.text).upper()


@dataclass
class Door:
    """One gateway post while it is open, and a stranger in front of it."""

    post: Post
    orders: LightningOrders
    gateway: Gateway
    http: aiohttp.ClientSession
    client: LnurlClient

    async def get(self, path: str, **query: str) -> Any:
        async with self.http.get(with_query(self.gateway.url + path, **query)) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            return await response.json()

    async def order(self, **wish: Any) -> Any:
        body = {"kind": 5001, "text": "hello", "max_sat": 50} | wish
        async with self.http.post(f"{self.gateway.url}/orders", json=body) as response:
            return await response.json()

    async def ended(self, order_id: str) -> Any:
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                told = await self.get(f"/orders/{order_id}")
                if told["state"] in ("done", "failed", "expired"):
                    return told
                await asyncio.sleep(0.05)

    @property
    def address(self) -> str:
        return f"tips@{self.gateway.url.removeprefix('http://')}"

    async def sat(self) -> int:
        return sum((await self.post.wallet.balance()).values())


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(SECONDS_MAX):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(folder=tmp_path) as market:
        yield market


@pytest.fixture
def settings(market: Market, free_port: int, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Nobody types in these tests: paid orders move on at once.
    monkeypatch.setattr("tradepost.lightning_orders.POLL_SECONDS", 0.05)
    monkeypatch.setattr("tradepost.gateway.CLAIM_SECONDS", 0.05)
    return market.settings("gateway").model_copy(
        update={
            "gateway_url": f"http://127.0.0.1:{free_port}", "gateway_port": free_port, "allow_private_urls": True,
            "http_requests_per_minute": RequestLimits(anonymous=10_000, unpaid=10_000),
        }
    )  # fmt: skip


@asynccontextmanager
async def opened(market: Market, settings: Settings, **others: Any) -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        post = await stack.enter_async_context(
            open_post(
                settings, clock=market.clock, connect=market.relay.connect, transport=market.mint.transport
            )
        )
        customer = await stack.enter_async_context(open_customer(settings, post))
        orders = await stack.enter_async_context(open_lightning_orders(settings, post, customer, **others))
        limits = await stack.enter_async_context(open_limits(settings, post.db, post.clock))
        gateway = await stack.enter_async_context(open_gateway(settings, post, orders, limits))
        app = make_app()
        for route in gateway.routes:
            app.router.add_route(route.method, route.path, route.handler)
        await stack.enter_async_context(listening(app, settings.gateway_host, settings.gateway_port))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = LnurlClient(Fetcher(allow_private=True), allow_private=True)
        yield Door(post, orders, gateway, http, client)


@pytest.fixture
async def door(market: Market, settings: Settings) -> AsyncIterator[Door]:
    async with opened(market, settings) as door:
        yield door


# --- a Lightning address ----------------------------------------------------------------------------------------------


async def test_a_tip_from_the_address_to_the_coins(market: Market, door: Door) -> None:
    address = door.address
    request = await door.client.pay_request(address)
    assert address in request.description
    payable = await door.client.invoice(request, 21_000, comment="good work", payer_data={"name": "bob"})
    assert not payable.is_committed  # the mint's invoice has no hash; nothing we could do
    assert payable.success is not None
    assert not (await door.client.verify(payable)).settled
    market.mint.pay(payable.bolt11)
    await until(lambda: _settled(door, payable))
    assert await door.sat() == 21
    row = await queries_lnurl.invoice(door.post.db, (payable.verify_url or "").rpartition("/")[2])
    assert row is not None
    assert (row.name, row.comment, row.payer) == ("tips", "good work", '{"name":"bob"}')


async def _settled(door: Door, payable: Any) -> bool:
    return (await door.client.verify(payable)).settled


async def test_an_invoice_paid_long_after_its_expiry_or_while_we_were_away_is_claimed(
    market: Market, settings: Settings
) -> None:
    market.mint.quote_seconds = -10  # expired already
    async with opened(market, settings) as door:
        payable = await door.client.resolve(door.address, 21_000)
    market.mint.pay(payable.bolt11)
    async with opened(market, settings) as door:
        await until(lambda: _settled(door, payable))
        assert await door.sat() == 21


REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("/.well-known/lnurlp/nobody", {}, "nobody of that name"),
    ("/lnurl/tip/nobody", {"amount": "1000"}, "nobody of that name"),
    ("/lnurl/tip/tips", {}, "millisats"),
    ("/lnurl/tip/tips", {"amount": "0"}, "1 to 100000 sat"),
    ("/lnurl/tip/tips", {"amount": "-1000"}, "millisats"),
    ("/lnurl/tip/tips", {"amount": "1500"}, "whole sats"),
    ("/lnurl/tip/tips", {"amount": "1" + "0" * 30}, "millisats"),
    ("/lnurl/tip/tips", {"amount": "٣٠٠٠"}, "millisats"),
    ("/lnurl/tip/tips", {"amount": "100001000"}, "1 to 100000 sat"),
    ("/lnurl/tip/tips", {"amount": "1000", "comment": "x" * 281}, "comment has more than 280"),
    ("/lnurl/tip/tips", {"amount": "1000", "payerdata": "{"}, "payerdata"),
    ("/lnurl/tip/tips", {"amount": "1000", "payerdata": '["x"]'}, "payerdata"),
    ("/lnurl/tip/tips", {"amount": "1000", "payerdata": '{"secret":"x"}'}, "payerdata"),
    ("/lnurl/tip/tips", {"amount": "1000", "payerdata": '{"name":"%s"}' % ("x" * 1100)}, "payerdata"),
    ("/lnurl/verify/" + "00" * 32, {}, "Not found"),
    ("/lnurl/order/" + "00" * 32, {}, "no such order"),
    ("/lnurl/order/" + "00" * 32 + "/pay", {"amount": "1000"}, "no such order"),
    ("/lnurl/withdraw/" + "00" * 32, {}, "nothing to withdraw"),
    ("/lnurl/payout", {}, "nothing to withdraw"),
    ("/lnurl/payout", {"k1": "00" * 32, "pr": "x" * 5000}, "no invoice"),
    ("/orders/" + "00" * 16, {}, "no such order"),
]


async def test_what_is_refused_is_said_with_status_200(door: Door) -> None:
    for path, query, reason in REFUSED:
        told = await door.get(path, **query)
        assert (told["status"], reason in told["reason"]) == ("ERROR", True), (path, query, told)


async def test_a_mint_that_is_away_and_what_our_wallet_holds_are_not_told(market: Market, door: Door) -> None:
    market.mint.down = True
    told = await door.get("/lnurl/tip/tips", amount="1000")
    assert told == {
        "status": "ERROR",
        "reason": "the mint behind this gateway does not answer; try again later",
    }


async def test_a_payout_beyond_our_coins_is_refused_and_its_k1_stays_good(market: Market, door: Door) -> None:
    async with door.post.db.transaction() as tx:
        k1 = await door.orders.withdrawals.promise(tx, mint=market.mint.url, owed_sat=500, description="left")
    request = await door.client.withdraw_request(door.gateway.withdraw_lnurl(k1))
    with pytest.raises(LnurlRefused, match="cannot do that now"):
        await door.client.withdraw(request, market.mint.invoice(494))
    assert (await door.orders.withdrawals.find(k1)).state == "open"


async def test_open_orders_are_bounded_and_stale_ones_do_not_count(
    market: Market, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.lightning_orders.OPEN_ORDERS_MAX", 1)
    assert (await door.order(agent="ab" * 32))["status"] == "OK"
    assert "too many orders" in (await door.order(agent="ab" * 32))["reason"]
    monkeypatch.setattr("tradepost.lightning_orders._is_stale", lambda row, now: True)
    assert (await door.order(agent="ab" * 32))["status"] == "OK"


async def test_sizes_are_bounded(door: Door) -> None:
    async with door.http.post(f"{door.gateway.url}/orders", data=b"x" * 140_000) as response:
        assert response.status == 413
        assert (await response.json())["code"] == "request_entity_too_large"
    async with door.http.get(
        f"{door.gateway.url}/lnurl/tip/tips?amount=1000&comment={'x' * 9000}"
    ) as response:
        assert response.status == 400


async def test_requests_are_bounded_each_client_on_its_own(market: Market, settings: Settings) -> None:
    bounded = settings.model_copy(
        update={"http_requests_per_minute": RequestLimits(anonymous=20), "gateway_behind_proxy": True}
    )
    async with opened(market, bounded) as door:

        async def tip(client: str) -> bool:
            headers = {"X-Forwarded-For": f"1.2.3.4, {client}"}  # what stands before anybody can write
            url = f"{door.gateway.url}/lnurl/tip/tips?amount=1000"
            async with door.http.get(url, headers=headers) as response:
                return "pr" in await response.json()

        assert [await tip("9.9.9.9") for _ in range(4)].count(True) <= 2
        assert not await tip("9.9.9.9")
        assert await tip("8.8.8.8")
        assert await tip("2001:db8::1")
        assert await tip("2001:db8::2")
        assert not await tip("2001:db8::3")  # one house


# --- an order ---------------------------------------------------------------------------------------------------------


async def test_an_order_from_the_invoice_to_the_result_and_the_rest(market: Market, door: Door) -> None:
    provider = await market.open(agent)
    told = await door.order(agent=provider.public_key)
    assert told["amount_sat"] >= 50
    assert list(told).index("bolt11") < list(told).index("lnurl")
    assert "Custodial" in told["custodial"]
    assert f"{door.orders.cap_sat} sat" in told["custodial"]
    by_lnurl = await door.client.resolve(told["lnurl"], 1000 * told["amount_sat"])
    assert by_lnurl.bolt11 == told["bolt11"]
    market.mint.pay(told["bolt11"])
    ended = await door.ended(told["order"])
    assert (ended["state"], ended["result"]) == ("done", "HELLO")
    left = ended["refund"]
    assert 20 <= left["amount_sat"] <= 30  # of 50, 20 went to the agent
    request = await door.client.withdraw_request(left["lnurl"])
    assert request.min_msat == request.max_msat == 1000 * left["amount_sat"]
    await door.client.withdraw(request, market.mint.invoice(left["amount_sat"]))
    await until(lambda: _refunded(door, told["order"]))
    with pytest.raises(LnurlRefused, match="withdrawn already"):
        await door.client.withdraw_request(left["lnurl"])
    assert 0 <= await door.sat() <= 5  # the reserve that was not used
    assert (await door.post.wallet.audit(ask_mints=True)).ok


async def _refunded(door: Door, order_id: str) -> bool:
    told = await door.get(f"/orders/{order_id}")
    return bool(told["refund"]["state"] == "paid")


async def test_without_a_result_all_of_it_comes_back(market: Market, door: Door) -> None:
    provider = await market.open(agent)
    told = await door.order(agent=provider.public_key, text="fail")
    market.mint.pay(told["bolt11"])
    ended = await door.ended(told["order"])
    assert (ended["state"], ended["result"]) == ("failed", None)
    assert "refund" in ended
    assert ended["reason"]
    assert ended["refund"]["amount_sat"] >= told["amount_sat"] - 8  # three swaps and the reserve


async def test_an_agent_that_is_too_dear_is_not_paid(market: Market, door: Door) -> None:
    provider = await market.open(agent)
    told = await door.order(agent=provider.public_key, max_sat=19)
    market.mint.pay(told["bolt11"])
    ended = await door.ended(told["order"])
    assert ended["state"] == "failed"
    assert "20 sat" in ended["reason"]
    assert ended["refund"]["amount_sat"] == told["amount_sat"] - 3


async def test_what_is_left_goes_to_the_address_given_before(market: Market, door: Door) -> None:
    """The address is one of the gateway itself, which is as good as any: its invoices are the mint's."""
    provider = await market.open(agent)
    address = door.address
    told = await door.order(agent=provider.public_key, max_sat=19, refund_to=address)
    assert f"goes to {address}" in told["custodial"]
    market.mint.pay(told["bolt11"])
    await door.ended(told["order"])
    await until(lambda: _refunded(door, told["order"]))
    told = await door.get(f"/orders/{told['order']}")
    assert told["refund"]["lnurl"] is None


async def test_an_address_that_leads_nowhere_is_refused_before_anybody_pays(
    market: Market, door: Door
) -> None:
    provider = await market.open(agent)
    for address, reason in (
        ("nobody@" + door.address.partition("@")[2], "nobody of that name"),
        ("wallet", "not an LNURL"),
        ("javascript:alert(1)", "not an LNURL"),
        ("lnurlp://127.0.0.1:1/x", "does not answer"),
    ):
        told = await door.order(agent=provider.public_key, refund_to=address)
        assert (told["status"], reason in told["reason"]) == ("ERROR", True), told


NOT_TAKEN: list[tuple[dict[str, Any], str]] = [
    ({"max_sat": 0}, "1 to 10000 sat"),
    ({"max_sat": -5}, "1 to 10000 sat"),
    ({"max_sat": 10_001}, "1 to 10000 sat"),
    ({"max_sat": 9_999}, "the most that are held"),
    ({"max_sat": 10**400}, "1 to 10000 sat"),
    ({"max_sat": "5"}, "not an order"),
    ({"kind": 1}, "kind"),
    ({"text": "x" * 33_000}, "bytes"),
    ({"agent": "npub1rubbish"}, "npub"),
    ({"more": 1}, "not an order"),
    ({"params": {"a": 1}}, "not an order"),
]


async def test_orders_that_are_not_taken(door: Door) -> None:
    for wish, reason in NOT_TAKEN:
        told = await door.order(**({"agent": "ab" * 32} | wish))
        assert (told["status"], reason in told["reason"]) == ("ERROR", True), (wish, told)
    assert await queries_lnurl.open_orders(door.post.db) == []


async def test_a_gateway_holds_no_money_for_its_own_agents(market: Market, settings: Settings) -> None:
    provider = await market.open(agent)
    async with opened(market, settings, own=[provider.public_key]) as door:
        told = await door.order(agent=provider.public_key)
        assert told["status"] == "ERROR"
        assert "belongs to this very post" in told["reason"]
        with pytest.raises(GatewayRefused):  # nor as arbiter
            door.orders.refuse_own("cd" * 32, provider.public_key)
        own_customer = door.orders._customer.public_key
        assert "belongs to this very post" in (await door.order(agent=own_customer))["reason"]


async def test_an_order_goes_through_escrow_where_arbiters_are_named(
    market: Market, settings: Settings
) -> None:
    arbiter = await market.arbiter()
    limits = ProviderLimits(arbiters=(arbiter.public_key,))
    provider = await market.open(agent, limits=limits)
    trusting = settings.model_copy(update={"arbiters": (arbiter.public_key,)})
    async with opened(market, trusting) as door:
        told = await door.order(agent=provider.public_key)
        market.mint.pay(told["bolt11"])
        ended = await door.ended(told["order"])
        assert (ended["state"], ended["result"]) == ("done", "HELLO")
        assert ended["refund"]["amount_sat"] >= told["amount_sat"] - 20 - 8
        escrows = await door.post.db.all("SELECT request_id FROM escrows")
        assert [row["request_id"] for row in escrows] == [ended["job"]]
    async with opened(market, trusting, own=[arbiter.public_key]) as door:
        assert "belongs to this very post" in (await door.order(agent=provider.public_key))["reason"]


async def test_another_amount_for_an_order_is_refused(market: Market, door: Door) -> None:
    provider = await market.open(agent)
    told = await door.order(agent=provider.public_key)
    row = await queries_lnurl.order(door.post.db, told["order"])
    assert row is not None
    answer = await door.get(f"/lnurl/order/{row.payment_hash}/pay", amount=str(1000 * (row.amount_sat + 1)))
    assert "exactly" in answer["reason"]


# --- a payout ---------------------------------------------------------------------------------------------------------


async def _promised(market: Market, door: Door) -> Any:
    quote = await door.post.wallet.mint_quote(market.mint.url, 520)
    market.mint.pay(quote.bolt11)
    assert await door.post.wallet.claim(quote.id)
    async with door.post.db.transaction() as tx:
        k1 = await door.orders.withdrawals.promise(tx, mint=market.mint.url, owed_sat=500, description="left")
    return await door.client.withdraw_request(door.gateway.withdraw_lnurl(k1))


async def test_a_payout_that_fails_after_the_melt_was_asked_leaves_the_k1_good(
    market: Market, door: Door
) -> None:
    market.mint.melts = Melts.FAILED
    request = await _promised(market, door)
    await door.client.withdraw(request, market.mint.invoice(494))
    lnurl = door.gateway.withdraw_lnurl(request.k1)
    again = await until(lambda: _open_again(door, lnurl))
    assert again.k1 == request.k1
    market.mint.melts = Melts.PAID
    await door.client.withdraw(again, market.mint.invoice(again.max_msat // 1000))
    await until(lambda: _is_paid(door, request.k1))
    assert (await door.post.wallet.audit(ask_mints=True)).ok


async def _open_again(door: Door, lnurl: str) -> Any:
    try:
        return await door.client.withdraw_request(lnurl)
    except LnurlRefused:
        return None


async def _is_paid(door: Door, k1: str) -> bool:
    return (await door.orders.withdrawals.find(k1)).state == "paid"


async def test_a_second_invoice_for_the_same_k1_is_refused(market: Market, door: Door) -> None:
    market.mint.melts = Melts.PENDING
    request = await _promised(market, door)
    await door.client.withdraw(request, market.mint.invoice(494))
    with pytest.raises(LnurlRefused, match="on its way"):
        await door.client.withdraw(request, market.mint.invoice(494))
    with pytest.raises(InvalidLnurl):
        await door.client.pay_request(encode_lnurl(f"{door.gateway.url}/lnurl/withdraw/{request.k1}x")[:-1])
    market.mint.finish_melt(paid=True)


# --- killed between any two steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.UNPAID, Stage.PAID, Stage.ASKED, Stage.DONE])
async def test_an_order_goes_on_where_it_was_left(
    market: Market, settings: Settings, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """The post is closed as soon as the order is at `stage`, and opened again: one job, one result, one rest."""
    provider = await market.open(agent)
    move = queries_lnurl.move_order
    reached = asyncio.Event()

    async def moving(tx: Any, row: Any, state: Stage, **columns: Any) -> bool:
        if reached.is_set():
            raise asyncio.CancelledError
        moved = await move(tx, row, state, **columns)
        if state is stage:
            reached.set()
        return moved

    async with opened(market, settings) as door:
        told = await door.order(agent=provider.public_key)
        if stage is Stage.UNPAID:
            reached.set()
        else:
            with monkeypatch.context() as patch:
                patch.setattr(queries_lnurl, "move_order", moving)
                market.mint.pay(told["bolt11"])
                async with asyncio.timeout(SECONDS_MAX):
                    await reached.wait()
    market.mint.pay(told["bolt11"])
    async with opened(market, settings) as door:
        ended = await door.ended(told["order"])
        assert (ended["state"], ended["result"]) == ("done", "HELLO")
        assert len(await dvm.queries.recent_orders(door.post.db, 10)) == 1
        request = await door.client.withdraw_request(ended["refund"]["lnurl"])
        await door.client.withdraw(request, market.mint.invoice(request.max_msat // 1000))
        await until(lambda: _is_paid(door, request.k1))
        assert (await door.post.wallet.audit(ask_mints=True)).ok
