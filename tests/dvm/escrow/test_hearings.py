"""Disputes whose hearing costs something: who pays whom what, and when it comes back."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Customer, OrderFailed, OrderState, ProviderLimits
from dvm.discovery.announce import find_agents
from dvm.escrow.agreement import ARBITRATION, Signed, acceptance_of, check_acceptance, is_ruling
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from dvm.escrow.messages import Disputes, EscrowMessage, write_message
from dvm.nip90 import parse_feedback
from dvm.orders.order import Order
from dvm.private import plain_text
from dvm.queries import get_order, recent_orders
from identity import LocalSigner, parse_event, sign_event
from identity.nip59 import wrap
from tests.dvm.conftest import PRICE, Trade, eventually
from tradepost.testing import ManualClock, Market
from wallet.errors import WrongTerms
from wallet.escrow import Role, Stage
from wallet.terms import Terms, check_agreement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FEE = 5


@pytest.fixture
async def trade(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> "AsyncIterator[Trade]":
    """As ever, with an arbiter that wants 5 sat for hearing a dispute."""
    async with Market(clock=ManualClock(), folder=tmp_path_factory.mktemp("market")) as market:
        arbiter = await market.arbiter(fee_sat=FEE)
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        provider = await market.open(agent, limits=limits)
        customer = await market.customer(sat=1000)
        yield Trade(market, customer, provider, arbiter)


async def delivered(trade: Trade) -> Order:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    return order


async def fee_order(trade: Trade, order: Order, state: OrderState, *, every: int = 0) -> str:
    """Wait until the order of the hearing is in a state; its id."""
    found: list[str] = []

    async def is_so() -> bool:
        row = await trade.view(Role.CUSTOMER, order)
        fee = await get_order(trade.customer._post.db, (row and row.fee_order) or "")
        found[:] = [fee.id] if fee is not None and fee.state is state else []
        await trade.pass_time(every)
        return bool(found)

    await eventually(is_so, f"the order of the hearing to be {state}")
    return found[0]


async def arbiter_sat(trade: Trade) -> int:
    return sum((await trade.arbiter._post.wallet.balance()).values())


async def write(trade: Trade, order: Order, message: EscrowMessage) -> None:
    """A letter of the customer's to the arbiter that its software did not write."""
    row = await trade.view(Role.CUSTOMER, order)
    assert row is not None
    assert isinstance(trade.customer.signer, LocalSigner)
    now, to = trade.market.clock.now(), trade.arbiter.public_key
    rumor = write_message(message, row.terms, to, now)
    trade.market.relay.insert(await wrap(trade.customer.signer, to, rumor, now=now))


async def hear(trade: Trade, customer: Customer, case: str) -> Order:
    return await customer.ask(
        trade.arbiter.public_key, case, kind=ARBITRATION, max_sat=FEE, private=True, seconds_max=3000
    )


async def test_the_fee_is_signed_and_offered_before_anything_is_locked(trade: Trade) -> None:
    order = await trade.ask()
    async for update in order:
        if update.step == "offer":
            assert f"a dispute would cost you {FEE} sat" in update.message
            break
    offers = [parse_feedback(e) for e in trade.market.relay.events if e.tag("status") == "payment-required"]
    assert offers[0] is not None
    assert offers[0].offer is not None
    assert offers[0].offer.escrow is not None
    assert offers[0].offer.escrow.fee_msat == 1000 * FEE
    row = await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    assert row.terms.arbiter_fee_sat == FEE


def test_terms_with_another_fee_are_not_what_was_signed(trade: Trade, terms: Terms) -> None:
    assert isinstance(trade.arbiter._signer, LocalSigner)
    event = sign_event(acceptance_of(terms, 1), trade.arbiter._signer._key)
    signed = Signed(event.created_at, event.sig)
    assert ("fee", "5000") in event.tags
    assert check_acceptance(terms, signed)
    for fee_sat in (0, 4, 6):
        assert not check_acceptance(replace(terms, arbiter_fee_sat=fee_sat), signed)
    for fee_sat in (-1, 10**8):
        with pytest.raises(WrongTerms, match="fee"):
            check_agreement(replace(terms, arbiter_fee_sat=fee_sat), 1)


@pytest.fixture
async def terms(trade: Trade) -> Terms:
    row = await trade.reach(Role.CUSTOMER, await trade.ask(), Stage.DELIVERED)
    return row.terms


async def test_hearings_are_announced_like_any_capability(trade: Trade) -> None:
    await trade.arbiter._post.outbox.flush(5)
    (found,) = await find_agents(trade.customer._post.pool, trade.market.clock, ARBITRATION)
    assert found.public_key == trade.arbiter.public_key
    assert found.alive


async def test_a_dispute_is_paid_heard_and_ruled(trade: Trade) -> None:
    order = await delivered(trade)
    await trade.customer.dispute(order.id, "that is not what I asked for")
    case = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    paid = await fee_order(trade, order, OrderState.PAID)
    assert case.fee_order == paid
    assert await arbiter_sat(trade) == FEE
    await trade.arbiter.rule(order.id, 0)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert await fee_order(trade, order, OrderState.DONE) == paid
    (hearing,) = [o for o in await recent_orders(trade.customer._post.db, 9) if o.kind == ARBITRATION]
    assert hearing.result is not None
    ruling = parse_event(await plain_text(trade.customer.signer, hearing.result))
    assert is_ruling(ruling, case.terms)
    assert ruling.id in {event.id for event in trade.market.relay.events if event.kind == 3956}
    assert case.request_id not in hearing.request.to_json().decode()  # nobody else reads who disputes what
    for party in (trade.customer, trade.arbiter):
        assert (await party._post.wallet.audit(ask_mints=True)).ok


async def test_both_are_heard_though_the_provider_answers_before_the_fee_is_paid(trade: Trade) -> None:
    order = await delivered(trade)
    await trade.customer.dispute(order.id, "no")

    async def said() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and [one["by"] for one in case.statements] == ["customer", "provider"]

    await eventually(said, "both statements")


async def test_what_is_not_ruled_in_time_costs_nothing(trade: Trade) -> None:
    order = await delivered(trade)
    await trade.customer.dispute(order.id, "no")
    case = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await fee_order(trade, order, OrderState.PAID)
    await trade.reach(Role.ARBITER, order, Stage.VOID, every=60)
    assert trade.market.clock.now() >= case.terms.claim_until
    await fee_order(trade, order, OrderState.REFUNDED)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    wallets = [party._post.wallet for party in (trade.customer, trade.arbiter)]
    has = [sum((await wallet.balance()).values()) for wallet in wallets]
    fees = [(await wallet.audit()).accounts.get("fees/mint", 0) // 1000 for wallet in wallets]
    assert has[1] == 0
    assert has[0] + sum(fees) == 1000  # all that is gone is what the mint took


async def test_a_letter_without_the_fee_changes_nothing(trade: Trade) -> None:
    """The case is decided by silence, and what the letter said is kept."""
    order = await delivered(trade)
    row = await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    await trade.customer.stop()
    await write(trade, order, Disputes("no", await trade.customer.desk.secrets(row)))
    await trade.reach(Role.PROVIDER, order, Stage.PAID, every=30)
    case = await trade.reach(Role.ARBITER, order, Stage.RULED)
    assert (case.ruling, case.fee_order) == (None, None)
    assert [one["text"] for one in case.statements] == ["no"]


async def test_a_stranger_has_its_money_back(trade: Trade) -> None:
    order = await delivered(trade)
    stranger = await trade.market.customer(name="stranger", sat=100)
    for case in (order.id, "nonsense"):
        hearing = await hear(trade, stranger, case)
        with pytest.raises(OrderFailed, match="no such case of yours") as refused:
            await hearing.result()
        assert refused.value.state is OrderState.REFUNDED
    assert (await trade.reach(Role.ARBITER, order, Stage.DELIVERED)).fee_order is None
    await stranger.stop()


async def test_a_fee_without_a_word_goes_back(trade: Trade) -> None:
    order = await delivered(trade)
    hearing = await hear(trade, trade.customer, order.id)
    await eventually(lambda: hearing.state is OrderState.PAID, "the fee to be paid")
    async with asyncio.timeout(10):
        while not hearing.ended:
            await trade.pass_time(5)
            await asyncio.sleep(0.005)
    with pytest.raises(OrderFailed, match="there came no letter"):
        await hearing.result()
    assert (await trade.view(Role.ARBITER, order)).stage is Stage.DELIVERED  # type: ignore[union-attr]


async def test_a_case_is_heard_for_one_fee(trade: Trade) -> None:
    """As after a death between paying and noting it, with a customer that writes less down than ours."""
    order = await delivered(trade)
    await trade.customer.dispute(order.id, "no")
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await fee_order(trade, order, OrderState.PAID)
    again = await hear(trade, trade.customer, order.id)
    with pytest.raises(OrderFailed, match="heard already"):
        await again.result()
    assert await arbiter_sat(trade) <= FEE + 1
    await trade.arbiter.rule(order.id, PRICE)
    await fee_order(trade, order, OrderState.DONE)


async def test_a_customer_that_dies_once_it_has_disputed_pays_one_fee(trade: Trade) -> None:
    order = await delivered(trade)
    customer = trade.customer
    customer._tasks.start = lambda work, _name: work.close()  # type: ignore[assignment,return-value]  # now it is dead
    await customer.dispute(order.id, "no")
    assert (await trade.reach(Role.CUSTOMER, order, Stage.DISPUTED)).fee_order is None
    await customer.stop()
    for _ in range(2):
        again = Customer(customer.signer, customer._post)
        await again.start()
        await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
        await fee_order(trade, order, OrderState.PAID)
        await again.stop()
    orders = [row for row in await recent_orders(customer._post.db, 9) if row.kind == ARBITRATION]
    assert len(orders) == 1


async def test_a_customer_that_could_not_pay_orders_the_hearing_once_it_can(trade: Trade) -> None:
    order = await delivered(trade)
    wallet, mint = trade.customer._post.wallet, trade.market.mint.url
    token = await wallet.send(mint, (await wallet.balance())[mint] - 4)
    await trade.customer.dispute(order.id, "no")
    await fee_order(trade, order, OrderState.FAILED)
    assert (await trade.reach(Role.ARBITER, order, Stage.DELIVERED)).fee_order is None
    await wallet.receive(token)
    await trade.customer.stop()
    again = Customer(trade.customer.signer, trade.customer._post)
    await again.start()
    hearing = await fee_order(trade, order, OrderState.PAID)
    assert (await trade.reach(Role.ARBITER, order, Stage.DISPUTED)).fee_order == hearing
    await again.stop()


async def test_a_customer_that_relents_pays_for_no_hearing(trade: Trade) -> None:
    order = await delivered(trade)
    await trade.arbiter.stop()
    await trade.customer.dispute(order.id, "no")
    await fee_order(trade, order, OrderState.REQUESTED)
    await trade.customer.accept(order.id)
    again = Arbiter(trade.arbiter._post, trade.arbiter._signer, ArbiterLimits(fee_sat=FEE))
    await again.start()
    await fee_order(trade, order, OrderState.FAILED)
    await trade.reach(Role.ARBITER, order, Stage.RULED)
    assert await arbiter_sat(trade) == 0
    await again.stop()


async def test_a_hearing_goes_on_after_a_restart_of_the_arbiter(trade: Trade) -> None:
    order = await delivered(trade)
    await trade.customer.dispute(order.id, "no")
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await fee_order(trade, order, OrderState.PAID)
    await trade.arbiter.stop()
    again = Arbiter(trade.arbiter._post, trade.arbiter._signer, ArbiterLimits(fee_sat=FEE))
    await again.start()
    await again.rule(order.id, 0)
    await fee_order(trade, order, OrderState.DONE)
    await again.stop()


@pytest.mark.parametrize("now_sat", [0, FEE + 1])
async def test_an_arbiter_is_not_paid_more_than_it_signed(trade: Trade, now_sat: int) -> None:
    """It hears the case for nothing then, as it named another price for it."""
    order = await delivered(trade)
    await trade.arbiter.stop()
    dearer = Arbiter(trade.arbiter._post, trade.arbiter._signer, ArbiterLimits(fee_sat=now_sat))
    await dearer.start()
    await trade.customer.dispute(order.id, "no")
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    if now_sat:
        await fee_order(trade, order, OrderState.FAILED)
    assert await arbiter_sat(trade) == 0
    await dearer.rule(order.id, 0)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    await dearer.stop()
