"""Our customer, with agents good and bad: what it pays, what it gets, and how its money comes back."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, BadRequest, NoAgentFound, OrderFailed, OrderState
from dvm.nip90 import Offer, Status, make_feedback, make_result
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from dvm.queries import get_order
from identity import Event, LocalSigner, SecretKey, encode_npub, encode_nsec, make_template, sign_event
from identity.nip59 import unwrap, wrap
from tradepost.testing import ManualClock, Market
from wallet import Lock, Token, encode_token, parse_payload

if TYPE_CHECKING:
    from conftest import Stranger


async def sats(customer: Customer) -> int:
    return sum((await customer._post.wallet.balance()).values())


class Rogue:
    """A provider that does what a test tells it, with the wire formats of ours."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.key = SecretKey.generate()
        self.lock = SecretKey.generate()

    async def request(self, order: Order) -> Event:
        """The request, once it has reached the relay."""
        while True:
            for event in self.market.relay.published:
                if event.id == order.id:
                    return event
            await asyncio.sleep(0.005)

    async def say(self, order: Order, status: Status, message: str = "", offer: Offer | None = None) -> None:
        request = await self.request(order)
        tags = offer.to_tags() if offer else ()
        template = make_feedback(request, status, now=self.market.clock.now(), message=message, tags=tags)
        self.market.relay.insert(sign_event(template, self.key))

    async def offer(
        self, order: Order, price_sat: int = 21, *, locktime: int | None = None, seconds: int = 600
    ) -> None:
        locktime = locktime or self.market.clock.now() + seconds
        offer = Offer(
            price_msat=price_sat * 1000, mints=(self.market.mint.url,), lock=self.lock.compressed_public_key,
            locktime=locktime, settle=("prepaid",),
        )  # fmt: skip
        await self.say(order, Status.PAYMENT_REQUIRED, offer=offer)

    async def deliver(self, order: Order, content: str, key: SecretKey | None = None) -> None:
        request = await self.request(order)
        template = make_result(request, content, price_msat=0, now=self.market.clock.now())
        self.market.relay.insert(sign_event(template, key or self.key))

    async def token(self) -> Token:
        """The coins that were sent to us, once they are there."""
        while True:
            for event in self.market.relay.published:
                if event.kind == 1059 and event.tag("p") == self.key.public_key:
                    payload = parse_payload((await unwrap(LocalSigner(self.key), event)).content)
                    return Token(payload.mint, payload.proofs, payload.unit)
            await asyncio.sleep(0.005)

    async def send_back(self, order: Order, customer: Customer, token: Token, kind: str = "refund") -> None:
        now = self.market.clock.now()
        tags = [("p", customer.public_key), ("e", order.id), ("t", kind)]
        message = make_template(14, content=encode_token(token), tags=tags, created_at=now)
        self.market.relay.insert(await wrap(LocalSigner(self.key), customer.public_key, message, now=now))


async def reached(customer: Customer, order: Order, state: OrderState) -> None:
    """Wait until the order's row is in a state."""
    async with asyncio.timeout(10):
        while True:
            row = await get_order(customer._post.db, order.id)
            if row and row.state is state:
                return
            await asyncio.sleep(0.005)


@pytest.fixture
def rogue(market: Market) -> Rogue:
    return Rogue(market)


# -- whom we ask


async def test_an_agent_is_found_by_what_it_does(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    for target in ("translation", "upper", "5002", encode_npub(provider.public_key)):
        order = await customer.ask(target, "HELLO", kind=5002)
        assert await order.result() == "hello"
        assert order.provider == provider.public_key


async def test_first_orders_may_be_made_at_once(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    orders = await asyncio.gather(
        *(customer.ask(provider.public_key, f"HELLO {n}", kind=5002) for n in range(3))
    )
    assert [await order.result() for order in orders] == ["hello 0", "hello 1", "hello 2"]


async def test_nobody_to_ask_is_said_with_the_next_step(market: Market) -> None:
    customer = await market.customer()
    with pytest.raises(NoAgentFound, match=r"none announced.*npub"):
        await customer.ask("translation", "HELLO", kind=5002)


async def test_an_agent_that_stopped_is_not_found(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    await provider.stop(0)
    await provider._post.outbox.flush(5)
    with pytest.raises(NoAgentFound):
        await customer.ask("translation", "HELLO", kind=5002)


@pytest.mark.parametrize("target", ["npub1rubbish", "0" * 64, "secret"])
async def test_a_target_that_is_no_key_is_refused(market: Market, target: str) -> None:
    customer = await market.customer()
    target = encode_nsec(SecretKey.generate()) if target == "secret" else target
    with pytest.raises(BadRequest) as error:
        await customer.ask(target, "HELLO", kind=5002)
    assert target not in str(error.value)


async def test_a_kind_that_is_no_job_is_refused(market: Market) -> None:
    customer = await market.customer()
    with pytest.raises(BadRequest, match="5000"):
        await customer.ask("anybody", "x", kind=1)


# -- offers we do not take


@pytest.mark.parametrize(
    ("sat", "max_sat", "said"), [(100, 20, "limit is 20"), (10, 50, "needed"), (0, 50, "needed")]
)
async def test_an_offer_we_cannot_or_will_not_pay_costs_nothing(
    market: Market, rogue: Rogue, sat: int, max_sat: int, said: str
) -> None:
    customer = await market.customer(sat=sat)
    order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=max_sat)
    await rogue.offer(order)
    with pytest.raises(OrderFailed, match=said) as error:
        await order.result()
    assert error.value.money == "nothing was paid"
    assert await sats(customer) == sat


async def test_terms_that_would_cost_the_refund_are_refused(market: Market, rogue: Rogue) -> None:
    customer = await market.customer(sat=100)
    now = market.clock.now()
    offers = [
        Offer(price_msat=1000, mints=(market.mint.url,), lock=None, locktime=now + 600, settle=("prepaid",)),
        Offer(price_msat=1000, mints=(market.mint.url,), lock="02" + "11" * 32, settle=("prepaid",)),
        Offer(price_msat=1000, mints=(market.mint.url,), lock="02" + "11" * 32, locktime=now + 10**8, settle=("prepaid",)),
        Offer(price_msat=1000, mints=("https://other.test",), lock="02" + "11" * 32, locktime=now + 9, settle=("prepaid",)),
        Offer(price_msat=1000, mints=(market.mint.url,), lock="rubbish", locktime=now + 600, settle=("prepaid",)),
        Offer(price_msat=1000, bolt11="lnbc1"),
        Offer(price_msat=1000, mints=(market.mint.url,), lock="02" + "11" * 32, locktime=now + 9, settle=("escrow",)),
        Offer(
            price_msat=1000, mints=(market.mint.url,), lock="02" + "11" * 32, locktime=now + 9, settle=("prepaid",),
            expires_at=now - 1,
        ),
    ]  # fmt: skip
    for offer in offers:
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50)
        await rogue.say(order, Status.PAYMENT_REQUIRED, offer=offer)
        with pytest.raises(OrderFailed):
            await order.result()
    assert await sats(customer) == 100


# -- answers that are not to be believed


async def test_only_whom_we_asked_can_answer(market: Market, rogue: Rogue) -> None:
    customer = await market.customer(sat=100)
    order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50)
    await rogue.deliver(order, "forged", SecretKey.generate())
    await rogue.deliver(order, "true")
    assert await order.result() == "true"
    assert await sats(customer) == 100  # delivered without asking for money: nothing is paid


async def test_an_error_ends_an_order(market: Market, rogue: Rogue) -> None:
    customer = await market.customer()
    order = await customer.ask(rogue.key.public_key, "x", kind=5001)
    await rogue.say(order, Status.ERROR, "no time")
    with pytest.raises(OrderFailed, match="no time; nothing was paid"):
        await order.result()


async def test_nobody_answers(rogue: Rogue) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        customer = await market.customer()
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, seconds_max=60)
        await clock.advance(61)
        with pytest.raises(OrderFailed, match="nobody answered") as error:
            await order.result()
        assert error.value.action == "retry_after"


# -- paid, and then


async def test_a_result_before_the_payment_is_through_is_kept_and_paid(market: Market, rogue: Rogue) -> None:
    customer = await market.customer(sat=100)
    order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50)
    market.mint.stall = asyncio.Event()  # the payment is under way for as long as we like
    await rogue.offer(order)
    await reached(customer, order, OrderState.PAYING)
    await rogue.deliver(order, "early")
    await customer.caught_up(10)
    market.mint.stall.set()
    assert await order.result() == "early"
    assert (await rogue.token()).amount >= 21


async def test_an_agent_that_takes_the_money_and_stays_silent_is_shown_as_what_it_is() -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        rogue = Rogue(market)
        customer = await market.customer(sat=100)
        thief = await market.post("thief")
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order, seconds=600)
        assert (await thief.wallet.receive(await rogue.token(), [rogue.lock])).state == "done"
        await reached(customer, order, OrderState.PAID)
        await clock.advance(61)
        await reached(customer, order, OrderState.AWAITING_REFUND)
        await clock.advance(600)
        with pytest.raises(OrderFailed, match="21 sat are with the agent") as error:
            await order.result()
        assert error.value.state == OrderState.LOST
        await rogue.deliver(order, "late, but there")
        async with asyncio.timeout(10):
            while order.state is not OrderState.DONE:
                await asyncio.sleep(0.005)
        assert await order.result() == "late, but there"


async def test_what_a_silent_agent_did_not_take_comes_back_after_the_locktime() -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        rogue = Rogue(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order, seconds=600)
        await reached(customer, order, OrderState.PAID)
        await clock.advance(61)
        await reached(customer, order, OrderState.AWAITING_REFUND)
        market.mint.down = True
        await clock.advance(600)
        market.mint.down = False
        await clock.advance(60)
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
        assert order.state is OrderState.REFUNDED
        assert await sats(customer) + market.mint.fees_sat == 100
        assert (await customer._post.wallet.audit(ask_mints=True)).ok


async def test_a_refund_by_a_rogue_is_checked_before_it_counts(market: Market, rogue: Rogue) -> None:
    customer = await market.customer(sat=100)
    honest = await market.post("honest", sat=100)
    order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50)
    await rogue.offer(order)
    await rogue.token()
    await reached(customer, order, OrderState.PAID)
    spent = await honest.wallet.send(market.mint.url, 20)
    await honest.wallet.receive(spent)
    await rogue.send_back(order, customer, spent)
    await rogue.send_back(order, customer, Token("https://elsewhere.test", spent.proofs))
    foreign = await honest.wallet.send(
        market.mint.url, 8, lock=Lock(SecretKey.generate().compressed_public_key)
    )
    await rogue.send_back(order, customer, foreign)
    change = await honest.wallet.send(market.mint.url, 8)
    await rogue.send_back(order, customer, change, "change")
    good = await honest.wallet.send(market.mint.url, 21)
    await rogue.send_back(order, customer, good)
    with pytest.raises(OrderFailed, match="came back"):
        await order.result()


async def test_a_refund_that_turns_out_no_good_does_not_cost_the_reclaim() -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        rogue = Rogue(market)
        customer = await market.customer(sat=100)
        post = await market.post("rogue", sat=100)
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order, seconds=600)
        await reached(customer, order, OrderState.PAID)
        await clock.advance(61)
        await reached(customer, order, OrderState.AWAITING_REFUND)
        bait = await post.wallet.send(market.mint.url, 20)
        swaps = market.mint.asked["/v1/swap"]
        for _ in range(4):
            market.mint.lose_request("/v1/swap")  # between our look at the coins and our swap …
        await rogue.send_back(order, customer, bait)
        async with asyncio.timeout(10):
            while (row := await get_order(customer._post.db, order.id)) is None or row.refund_op_id is None:
                await asyncio.sleep(0.005)
            while market.mint.asked["/v1/swap"] < swaps + 4:
                await asyncio.sleep(0.005)
        await post.wallet.receive(bait)  # … the agent takes them itself
        await clock.advance(30)
        await clock.advance(700)
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
        assert await sats(customer) > 70


async def test_an_order_can_be_watched_twice_and_from_the_beginning(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=50)
    first = [str(update) async for update in order]
    second = [str(update) async for update in order]
    assert first == second
    assert first[0] == "offer: 21 sat"
    assert first[-1] == "result: X"
    assert [o.id for o in await customer.open_orders()] == []


async def test_a_hundred_orders_at_once(market: Market, agent: Agent, stranger: "Stranger") -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=5000)
    orders = [await customer.ask(provider.public_key, f"n{n}", kind=5001, max_sat=50) for n in range(100)]
    results = await asyncio.gather(*(order.result() for order in orders))
    assert results == [f"N{n}" for n in range(100)]
    sold = sum((await provider._post.wallet.balance()).values())
    assert sold == 100 * 21
    assert await sats(customer) + sold + market.mint.fees_sat == 5000
