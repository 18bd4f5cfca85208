"""What the owners of the parties want done: a customer that relents, an agent that answers, and who is told of it."""

from typing import TYPE_CHECKING

import pytest

from dvm import BadRequest, Provider, queries, queries_wishes
from dvm.escrow.messages import Accepts, Answers, Delivered, Disputes, Signs, Wishes
from dvm.escrow.parties import STATEMENTS_MAX
from dvm.jobs.lifecycle import JobState
from dvm.orders.order import Order
from tests.dvm.conftest import PRICE, eventually
from tests.dvm.escrow.test_parties import say, under_way
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow

if TYPE_CHECKING:
    from tests.dvm.conftest import Trade

AWARD = 8


async def disputed(trade: "Trade") -> tuple[Order, EscrowRow]:
    """A job that its customer has disputed, and of which the arbiter has heard both sides; the arbiter's view."""
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "that is not what I asked for")

    async def is_heard() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and len(case.statements) == 2

    await eventually(is_heard)
    return order, await trade.reach(Role.ARBITER, order, Stage.DISPUTED)


async def test_a_customer_that_relents_ends_the_dispute(trade: "Trade") -> None:
    order, _ = await disputed(trade)
    await trade.customer.accept(order.id)
    case = await trade.reach(Role.ARBITER, order, Stage.RULED)
    assert case.statements[-1]["text"] == "I accept the result after all."
    with pytest.raises(BadRequest, match="no dispute to rule on"):
        await trade.arbiter.rule(order.id, 0)
    assert (await trade.reach(Role.PROVIDER, order, Stage.PAID)).amount_sat == PRICE
    assert await trade.sats() == (PRICE, PRICE)


async def test_on_the_customers_word_alone_the_arbiter_signs_nothing(trade: "Trade") -> None:
    """The agent has not reported: whatever coins the customer named are not known to be those of the job."""
    order, row, _, coins = await under_way(trade)
    to, by = trade.arbiter.public_key, trade.customer.signer

    await say(trade.market, by, to, Disputes("no", coins), row)
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await say(trade.market, by, to, Accepts(), row)

    async def is_noted() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and len(case.statements) == 2

    await eventually(is_noted)
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)


async def test_an_acceptance_that_meets_a_ruling_half_way_leaves_no_coin_without_an_owner(
    trade: "Trade",
) -> None:
    order, _ = await disputed(trade)
    await trade.customer.stop()
    await trade.arbiter.rule(order.id, AWARD)
    assert (await trade.reach(Role.PROVIDER, order, Stage.PAID)).amount_sat == AWARD
    await trade.customer.accept(order.id)  # it has not heard of the ruling
    await trade.reach(Role.CUSTOMER, order, Stage.CONCEDED)
    customer = trade.customer
    trade = trade._replace(customer=type(customer)(customer.signer, customer._post))
    await trade.customer.start()
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert await trade.sats() == (AWARD, AWARD)
    books = [await party._post.wallet.audit(ask_mints=True) for party in (trade.customer, trade.provider)]
    assert all(one.ok for one in books)
    assert books[0].accounts.get(f"escrow/{order.id}", 0) == 0
    await trade.customer.stop()


async def test_an_arbiters_signatures_without_a_ruling_take_nothing_back_that_was_accepted(
    trade: "Trade",
) -> None:
    order, case = await disputed(trade)
    await trade.provider.stop(0)
    await trade.customer.accept(order.id)
    row = await trade.reach(Role.CUSTOMER, order, Stage.CONCEDED)
    coins = [secret for secret, _ in await trade.customer.desk.secrets(row)]
    signs = Signs(trade.customer.desk.escrows.sign(coins, trade.arbiter.key(case)))
    await say(trade.market, trade.arbiter._signer, trade.customer.public_key, signs, row)

    async def is_kept() -> bool:
        now = await trade.view(Role.CUSTOMER, order)
        return now is not None and bool(now.signatures)

    await eventually(is_kept)
    assert (await trade.reach(Role.CUSTOMER, order, Stage.RELEASED, every=600)).amount_sat == 0


async def test_after_the_locktime_a_ruling_still_leaves_the_agent_its_share(trade: "Trade") -> None:
    """The agent is away; the customer, which had accepted, hears of an older ruling when it could take all."""
    order, _ = await disputed(trade)
    await trade.provider.stop(0)
    await trade.customer.stop()
    await trade.arbiter.rule(order.id, AWARD)
    await trade.customer.accept(order.id)
    row = await trade.reach(Role.CUSTOMER, order, Stage.CONCEDED)
    await trade.pass_time(row.terms.locktime + 10 - trade.market.clock.now())
    customer = type(trade.customer)(trade.customer.signer, trade.customer._post)
    await customer.start()
    ended = (Stage.REFUNDED, Stage.RELEASED)

    async def has_ended() -> bool:
        now = await trade.view(Role.CUSTOMER, order)
        return now is not None and now.stage in ended

    await eventually(has_ended)
    old = trade.provider
    provider = Provider(old.agent, old.signer, old._post, old._limits)
    await provider.start()
    assert (await trade.reach(Role.PROVIDER, order, Stage.PAID, every=60)).amount_sat >= AWARD
    await provider.stop(0)
    await customer.stop()


async def test_the_customer_may_name_coins_that_it_left_out(trade: "Trade") -> None:
    order, row, _, coins = await under_way(trade)
    to, by = trade.arbiter.public_key, trade.customer.signer
    await say(trade.market, by, to, Disputes("no", coins[:1]), row)
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await say(trade.market, by, to, Disputes("these", coins), row)

    async def is_heard() -> bool:
        case = await trade.view(Role.ARBITER, order)
        return case is not None and len(case.coins) == len(coins)

    await eventually(is_heard)
    assert (await trade.arbiter.rule(order.id, 0)).awarded == ()


async def test_an_agent_that_gives_back_what_is_disputed_ends_the_dispute(trade: "Trade") -> None:
    order, _ = await disputed(trade)
    await trade.provider._desk.wish(order.id, Wishes("give_back"))
    case = await trade.reach(Role.ARBITER, order, Stage.RULED)
    assert (case.ruling, case.statements[-1]["text"]) == (None, "I gave the money back.")
    with pytest.raises(BadRequest, match="no dispute to rule on"):
        await trade.arbiter.rule(order.id, AWARD)
    assert (await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)).amount_sat == PRICE
    await trade.reach(Role.PROVIDER, order, Stage.YIELDED, every=30)
    assert await trade.sats() == (0, 0)


async def test_a_refund_that_meets_a_ruling_half_way_leaves_no_coin_without_an_owner(trade: "Trade") -> None:
    order, _ = await disputed(trade)
    await trade.provider.stop(0)
    await trade.arbiter.rule(order.id, AWARD)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    await trade.provider._desk.wish(order.id, Wishes("give_back"))  # it has not heard of the ruling
    await trade.reach(Role.PROVIDER, order, Stage.CONCEDED)
    old = trade.provider
    provider = Provider(old.agent, old.signer, old._post, old._limits)
    await provider.start()
    assert (await trade.reach(Role.PROVIDER, order, Stage.PAID)).amount_sat == AWARD
    assert await trade.sats() == (AWARD, AWARD)
    await provider.stop(0)


async def test_an_acceptance_that_overtakes_the_report_is_not_forgotten(trade: "Trade") -> None:
    order, row, providers, coins = await under_way(trade)
    to, by = trade.arbiter.public_key, trade.customer.signer
    await say(trade.market, by, to, Disputes("no", coins), row)
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    for _ in range(3):
        await say(trade.market, by, to, Accepts(), row)
    await say(trade.market, trade.provider.signer, to, Delivered("ab" * 32, [], coins), providers)
    case = await trade.reach(Role.ARBITER, order, Stage.RULED)
    assert [one["text"] for one in case.statements] == ["no", "I accept the result after all."]


async def test_an_agent_that_talks_much_silences_nobody(trade: "Trade") -> None:
    order, case = await disputed(trade)
    for number in range(30):
        letter = Answers(f"my answer {number}")
        await say(trade.market, trade.provider.signer, trade.arbiter.public_key, letter, case)

    async def has_heard() -> bool:
        now = await trade.view(Role.ARBITER, order)
        return now is not None and "my answer 29" in [one["text"] for one in now.statements]

    await eventually(has_heard)
    now = await trade.view(Role.ARBITER, order)
    assert now is not None
    assert now.statements[0]["text"] == "that is not what I asked for"
    assert len(now.statements) <= 1 + STATEMENTS_MAX


async def test_an_acceptance_waits_for_the_mint_and_holds_up_nothing_else(trade: "Trade") -> None:
    order, case = await disputed(trade)
    assert trade.arbiter._following is not None
    trade.market.mint.down = True
    for _ in range(3):
        await say(trade.market, trade.customer.signer, trade.arbiter.public_key, Accepts(), case)

    async def is_noted() -> bool:
        now = await trade.view(Role.ARBITER, order)
        return now is not None and now.conceded and trade.arbiter._following.is_idle  # type: ignore[union-attr]

    await eventually(is_noted)
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    trade.market.mint.down = False
    await trade.reach(Role.ARBITER, order, Stage.RULED, every=5)


async def test_an_agent_answers_a_dispute_in_its_own_words(trade: "Trade") -> None:
    order, _ = await disputed(trade)
    await trade.provider._desk.wish(order.id, Wishes("answer", "read the second line"))
    for role in (Role.ARBITER, Role.CUSTOMER):

        async def is_told(role: Role = role) -> bool:
            row = await trade.view(role, order)
            return row is not None and {"by": "provider", "text": "read the second line"} in row.statements

        await eventually(is_told)
    await trade.reach(Role.PROVIDER, order, Stage.DISPUTED)


@pytest.mark.parametrize(
    ("wish", "refused"),
    [
        (Wishes("accept"), "the escrow is held"),
        (Wishes("dispute", " "), "say why"),
        (Wishes("dispute", "no"), "the escrow is held"),
        (Wishes("rule", provider_sat=1), "a customer cannot rule"),
    ],
)
async def test_a_wish_that_came_by_letter_is_refused_once_and_for_all(
    trade: "Trade", wish: Wishes, refused: str
) -> None:
    order, row, _, _ = await under_way(trade)
    me, db = trade.customer.public_key, trade.customer._post.db
    wrap_id = await say(trade.market, trade.customer.signer, me, wish, row)

    async def is_answered() -> bool:
        return await queries_wishes.answer_of(db, wrap_id) is not None

    await eventually(is_answered)
    assert refused in (await queries_wishes.answer_of(db, wrap_id) or "")
    now = await trade.reach(Role.CUSTOMER, order, Stage.HELD)
    assert (now.version, now.statements) == (row.version, ())


async def test_a_wish_that_came_by_letter_is_done_and_answered_in_one_step(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    row = await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    wrap_id = await say(trade.market, trade.customer.signer, trade.customer.public_key, Wishes("accept"), row)
    await trade.reach(Role.CUSTOMER, order, Stage.RELEASED)
    assert await queries_wishes.answer_of(trade.customer._post.db, wrap_id) == ""
    assert await queries_wishes.answer_of(trade.customer._post.db, "ab" * 32) is None


async def test_an_agents_wishes_are_its_own(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.PROVIDER, order, Stage.DELIVERED)
    desk = trade.provider._desk
    with pytest.raises(BadRequest, match="an agent cannot accept"):
        await desk.wish(order.id, Wishes("accept"))
    with pytest.raises(BadRequest, match="the escrow is delivered"):
        await desk.wish(order.id, Wishes("answer", "why?"))
    with pytest.raises(BadRequest, match="no escrow of ours"):
        await desk.wish("ab" * 32, Wishes("give_back"))
    with pytest.raises(BadRequest, match="an arbiter cannot answer"):
        await trade.arbiter.wish(order.id, Wishes("answer", "well"))


async def test_a_job_whose_money_was_given_back_is_not_worked_on(trade: "Trade") -> None:
    order, _, _, _ = await under_way(trade)
    old = trade.provider
    await old.stop(0)
    await old._desk.wish(order.id, Wishes("give_back"))
    provider = Provider(old.agent, old.signer, old._post, old._limits)
    await provider.start()

    async def has_failed() -> bool:
        job = await queries.get_job(old._post.db, old.public_key, order.id)
        return job is not None and job.state is JobState.FAILED and "not in escrow any more" in job.reason

    await eventually(has_failed)
    refunded = await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert refunded.reason == "the agent gave the money back"
    assert await trade.sats() == (0, 0)
    await provider.stop(0)


async def test_who_reads_first_knows_what_others_sent_meanwhile(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    await trade.customer.stop()
    await trade.provider._desk.wish(order.id, Wishes("give_back"))
    await trade.provider._post.outbox.flush(10)
    customer = type(trade.customer)(trade.customer.signer, trade.customer._post)
    await customer.start()
    assert await customer.caught_up(10)
    with pytest.raises(BadRequest, match=r"the escrow is (claiming|refunded)"):
        await customer.accept(order.id)
    await customer.stop()
