"""Letters that a hostile party writes in an escrow, or that come in a bad moment: what becomes of the money."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from dvm import BadRequest, Job, Provider, queries
from dvm.escrow.desk import EscrowDesk
from dvm.escrow.messages import Answers, Disputes, Signs
from tests.dvm.conftest import PRICE
from tests.dvm.escrow.test_parties import say, under_way
from wallet.escrow import Accepted, Funded, ResultOut, Role, Stage
from wallet.escrows import Escrows

if TYPE_CHECKING:
    from tests.dvm.conftest import Trade

GATED = 5301


def with_junk(coins: list[tuple[str, int]], key: Any) -> Signs:
    """The right secrets, and one good signature among them."""
    return Signs({secret: "00" * 64 for secret, _ in coins} | Escrows.sign([coins[-1][0]], key))


async def test_one_good_signature_among_junk_takes_no_coin_from_the_provider(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    row = await trade.reach(Role.PROVIDER, order, Stage.DELIVERED)
    mine = await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    signs = with_junk(await trade.provider._desk.secrets(row), trade.customer.desk.key(mine))
    await trade.customer.stop()
    await say(trade.market, trade.customer.signer, trade.provider.public_key, signs, row)
    paid = await trade.reach(Role.PROVIDER, order, Stage.PAID, every=30)  # the arbiter signs in the end
    assert paid.amount_sat == PRICE


async def test_one_good_signature_among_junk_takes_no_coin_from_the_customer(trade: "Trade") -> None:
    order, _, row, coins = await under_way(trade)
    signs = with_junk(coins, trade.provider._desk.key(row))
    await say(trade.market, trade.provider.signer, trade.customer.public_key, signs, row)
    await trade.provider.stop(0)
    refunded = await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=30)
    assert refunded.amount_sat == PRICE


async def test_a_dispute_before_there_is_a_result_stops_no_delivery(trade: "Trade") -> None:
    gate = asyncio.Event()

    @trade.provider.agent.serves(kind=GATED, price_sat=PRICE)
    async def gated(_job: Job) -> str:
        await gate.wait()
        return "the work"

    await trade.provider.stop(0)
    old = trade.provider
    trade = trade._replace(provider=Provider(old.agent, old.signer, old._post, old._limits))
    await trade.provider.start()
    order = await trade.ask(kind=GATED)
    row = await trade.reach(Role.CUSTOMER, order, Stage.HELD)
    await trade.reach(Role.PROVIDER, order, Stage.HELD)
    await say(trade.market, trade.customer.signer, trade.provider.public_key, Disputes("no"), row)
    gate.set()
    assert await order.result() == "the work"
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)  # it was told
    await trade.reach(Role.PROVIDER, order, Stage.PAID, every=30)
    await trade.provider.stop(0)


async def test_a_reason_that_is_too_long_for_a_letter_is_refused_before_anything_is_decided(
    trade: "Trade",
) -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    for reason in ("x" * 4_001, "ж" * 2_001):
        with pytest.raises(BadRequest, match="4000 bytes at most"):
            await trade.customer.dispute(order.id, reason)
    await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "ж" * 2_000)
    case = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    assert case.statements[0]["text"] == "ж" * 2_000


@pytest.mark.parametrize("news", [Funded, ResultOut], ids=["the coins are locked", "the result is out"])
async def test_a_letter_in_the_moment_of_a_step_only_delays_it(
    trade: "Trade", monkeypatch: pytest.MonkeyPatch, news: type
) -> None:
    """Between the decision and the writing, somebody changes the row: twice for each party, then no more."""
    real, changed = EscrowDesk.writes, Counter[Role]()

    async def overtaken(self: EscrowDesk, request_id: str, event: Any, **columns: Any) -> Any:
        write = await real(self, request_id, event, **columns)
        if isinstance(event, news) and changed[self.role] < 2 and (row := await self.get(request_id)):
            changed[self.role] += 1
            await self.escrows.note(row.key, lambda row: {"attempts": row.attempts})
        return write

    monkeypatch.setattr(EscrowDesk, "writes", overtaken)
    order = await trade.ask(review=False)
    assert await order.result() == "HELLO"
    await trade.reach(Role.PROVIDER, order, Stage.PAID)
    assert changed[Role.PROVIDER] == 2
    assert changed[Role.CUSTOMER] == (2 if news is Funded else 0)
    assert await trade.sats() == (PRICE, PRICE)


async def test_a_provider_says_nothing_where_there_is_no_dispute(trade: "Trade") -> None:
    order, row, theirs, _ = await under_way(trade)
    await say(trade.market, trade.provider.signer, trade.customer.public_key, Answers("hello?"), theirs)
    await say(trade.market, trade.provider.signer, trade.customer.public_key, Answers("hello!"), theirs)
    assert trade.customer.desk.escrows.decide(row, Accepted()) is None
    stored = await queries.get_order(trade.customer._post.db, order.id)
    assert stored is not None
    now = await trade.view(Role.CUSTOMER, order)
    assert now is not None
    assert (now.statements, now.version) == ((), row.version)
