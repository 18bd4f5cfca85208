"""Parties of an escrow that do not keep to the rules, or whose clocks are wrong: what the honest ones make of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dvm import Agent, Customer, OrderFailed, ProviderLimits
from dvm.escrow.agreement import is_ruling, ruling_of
from dvm.escrow.messages import (
    ESCROW_MESSAGE,
    Declines,
    Delivered,
    EscrowMessage,
    Serve,
    Serves,
    Signs,
    read_message,
    write_message,
)
from dvm.nip90 import make_result
from dvm.orders.order import Order
from dvm.post import Post
from identity import Event, LocalSigner, SecretKey, Signer, make_template, sign_event
from identity.nip59 import wrap
from tests.dvm.conftest import PRICE, eventually
from tradepost.testing import ManualClock, Market
from wallet import AlreadySpent, Token, WrongLock
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import MARGIN_SECONDS, Method

if TYPE_CHECKING:
    from conftest import Stranger, Trade

HANGS = 5300  # work that never ends


async def say(market: Market, by: Signer, to: str, message: EscrowMessage, row: EscrowRow) -> str:
    """Send a letter that the party's own software would not; the id of its gift wrap."""
    now = market.clock.now()
    event = await wrap(by, to, write_message(message, row.terms, to, now), now=now)
    market.relay.insert(event)
    return event.id


async def under_way(trade: "Trade") -> tuple[Order, EscrowRow, EscrowRow, list[tuple[str, int]]]:
    """A job that was paid for and never ends: the customer's and the provider's view, and the coins."""
    order = await trade.ask(kind=HANGS)
    customers = await trade.reach(Role.CUSTOMER, order, Stage.HELD)
    providers = await trade.reach(Role.PROVIDER, order, Stage.HELD)
    return order, customers, providers, await trade.provider._desk.secrets(providers)


async def token_of(trade: "Trade", row: EscrowRow) -> Token:
    return await trade.provider._desk.escrows.coins(row)


async def balance(post: Post) -> int:
    return sum((await post.wallet.balance()).values())


async def test_a_result_with_an_old_date_that_comes_too_late_is_owed_nothing(trade: "Trade") -> None:
    """The customer is away, so nobody saw that nothing came in time."""
    order, _, row, coins = await under_way(trade)
    await trade.customer.stop()
    await trade.provider.stop(0)
    await trade.pass_time(row.terms.deliver_by + MARGIN_SECONDS + 1 - trade.market.clock.now())
    dated_back = make_result(row.request, "nonsense", price_msat=0, now=row.terms.deliver_by - 60)
    result = await trade.provider.signer.sign(dated_back)
    trade.market.relay.insert(result)
    arbiter = trade.arbiter.public_key
    await say(trade.market, trade.provider.signer, arbiter, Delivered(result.id, [], coins), row)

    async def was_told() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and case.reported is not None

    await eventually(was_told, "the arbiter to be told")
    back = Customer(trade.customer.signer, trade.customer._post)
    await back.start()
    await trade.reach(Role.ARBITER, order, Stage.RULED, every=1)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=1)
    await back.stop()
    assert await trade.sats() == (0, 0)


async def test_of_an_arbiter_that_signs_for_both_whoever_swaps_first_has_the_coins(trade: "Trade") -> None:
    """An honest customer that disputes does not end with half of them, nor an honest provider with a half of nothing."""
    order = await trade.ask()
    await order.result()
    providers = await trade.reach(Role.PROVIDER, order, Stage.DELIVERED)
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "no")
    case = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await trade.reach(Role.PROVIDER, order, Stage.DISPUTED)
    coins = await trade.provider._desk.secrets(providers)
    signed = Signs(Escrows.sign([secret for secret, _ in coins], trade.arbiter.key(case)))
    for party in (trade.provider.public_key, trade.customer.public_key):
        await say(trade.market, trade.arbiter._signer, party, signed, case)

    async def both_ended() -> bool:
        await trade.pass_time(5)
        rows = [await trade.view(role, order) for role in (Role.CUSTOMER, Role.PROVIDER)]
        return all(row is not None and row.stage.is_final for row in rows)

    await eventually(both_ended, "both to end")
    stages = {(await trade.view(role, order)).stage for role in (Role.CUSTOMER, Role.PROVIDER)}  # type: ignore[union-attr]
    assert stages in ({Stage.REFUNDED, Stage.LOST}, {Stage.RELEASED, Stage.PAID})
    paid, got = await trade.sats()
    assert paid == got
    assert got in (0, PRICE)


async def test_two_rulings_prove_that_an_arbiter_is_a_bad_one(trade: "Trade") -> None:
    order, row, _, _ = await under_way(trade)
    case = await trade.reach(Role.ARBITER, order, Stage.AGREED)
    now = trade.market.clock.now()
    for provider_sat in (0, PRICE):
        template = ruling_of(
            case.terms,
            provider_sat=provider_sat,
            customer_sat=PRICE - provider_sat,
            statements=["x"],
            now=now,
        )
        assert is_ruling(await trade.arbiter._signer.sign(template), row.terms)
        assert not is_ruling(sign_event(template, SecretKey.generate()), row.terms)
        assert not is_ruling(
            await trade.arbiter._signer.sign(template), replace(row.terms, request_id="ab" * 32)
        )


async def test_a_customer_that_races_the_refund_gets_it_after_the_locktime_only(trade: "Trade") -> None:
    order, customers, row, _ = await under_way(trade)
    key, token = trade.customer.desk.key(customers), await token_of(trade, row)
    thief = (await trade.market.post("thief")).wallet
    with pytest.raises(WrongLock):
        await thief.receive(token, [key])
    await trade.customer.stop()
    await trade.arbiter.stop()
    await trade.pass_time(row.terms.locktime - trade.market.clock.now())
    with pytest.raises(WrongLock):
        await thief.receive(token, [key])
    await trade.pass_time(1)
    assert (await thief.receive(token, [key])).received_sat == PRICE
    await trade.reach(Role.PROVIDER, order, Stage.LOST, every=60)
    with pytest.raises(AlreadySpent):
        await thief.receive(token, [key])


@pytest.mark.parametrize("who", ["mint", "provider", "customer", "arbiter"])
async def test_with_a_clock_that_is_90_seconds_off_nothing_is_locked(
    agent: Agent, tmp_path: Path, who: str
) -> None:
    """By the mint's clock, whose else is off."""
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        right = market.clock

        def clock_of(party: str) -> ManualClock:
            return ManualClock(right.now() + 90) if party == who else right

        market.mint.clock = clock_of("mint")
        market.clock = clock_of("arbiter")
        arbiter = await market.arbiter()
        market.clock = clock_of("provider")
        provider = await market.open(agent, limits=ProviderLimits(arbiters=(arbiter.public_key,)))
        market.clock = clock_of("customer")
        customer = await market.customer(sat=100)
        order = await customer.ask(
            provider.public_key,
            "hello",
            kind=5001,
            max_sat=50,
            settle=(Method.ESCROW,),
            arbiters=[arbiter.public_key],
        )
        with pytest.raises(OrderFailed):
            await order.result()
        assert await customer.desk.get(order.id) is None
        assert await balance(customer._post) == 100


KEY, OTHER = (SecretKey(bytes([number]) * 32).compressed_public_key for number in (3, 4))
SERVED: dict[str, tuple[Callable[[Serve], dict[str, Any]], str]] = {
    "as it should be": (lambda _: {}, ""),
    "a short locktime": (lambda serve: {"locktime": serve.locktime - 1}, "too early"),
    "an identity for a key": (lambda serve: {"provider_key": f"02{serve.request.pubkey}"}, "identity"),
    "the customer's key": (lambda serve: {"provider_key": serve.customer_key}, "twice"),
    "another key of the customer's": (lambda _: {"customer_key": OTHER}, "its lock key is"),
    "a mint that the customer did not name": (lambda _: {"mint": "https://other.test"}, "named neither"),
    "a price beyond its limits": (lambda _: {"price_sat": 100_001}, "serves up to"),
    "a request that was changed": (
        lambda serve: {"request": Event(**(serve.request.to_dict() | {"content": "x"}))}, "",
    ),
}  # fmt: skip


async def test_what_an_arbiter_does_not_serve(market: Market, stranger: "Stranger") -> None:
    arbiter, lock = await market.arbiter(), SecretKey.generate().compressed_public_key
    for what, (change, reason) in SERVED.items():
        provider = type(stranger)(market)
        request = stranger.request(
            ("p", provider.key.public_key), ("settle", "escrow"), ("lock", lock), ("arbiter", arbiter.public_key),
            ("mint", market.mint.url), text=what,
        )  # fmt: skip
        due = market.clock.now() + 300
        serve = Serve(
            request=request, provider_key=KEY, customer_key=lock, mint=market.mint.url, price_sat=PRICE, deliver_by=due,
            review_seconds=60, dispute_seconds=60, locktime=due + 120 + 3 * MARGIN_SECONDS,
        )  # fmt: skip
        serve = msgspec.structs.replace(serve, **change(serve))
        now, to = market.clock.now(), arbiter.public_key
        content = msgspec.json.encode(serve).decode()
        rumor = make_template(
            ESCROW_MESSAGE, content=content, tags=[("p", to), ("e", request.id)], created_at=now
        )
        market.relay.insert(await wrap(LocalSigner(provider.key), to, rumor, now=now))

        async def is_answered(provider: Any = provider) -> bool:
            return bool(await provider.letters())

        await eventually(is_answered, what)
        (letter,) = await provider.letters()
        answer = read_message(letter)[1]
        if what == "as it should be":
            assert isinstance(answer, Serves)
        else:
            assert isinstance(answer, Declines)
            assert reason in answer.reason
            assert await arbiter.get(request.id) is None
