"""The folder of a post is gone. Its words bring back keys, sats, orders and jobs, and nothing is done or paid twice."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, BadRequest, OrderState
from dvm.nip90 import Offer, Status, make_feedback
from dvm.queries import get_order
from identity import SecretKey, sign_event, write_key_file
from store import Database, Transaction
from tests.tradepost.lives import eventually, fund, life, lose, order_is, restore, sats, serving
from tradepost.api import open_customer
from tradepost.errors import ConfigError
from tradepost.post import open_post, own_key, read_seed
from tradepost.restore import keep_record, restore_post
from tradepost.testing import ManualClock, Market, MemoryMint
from wallet import Seed


class Silent:
    """A provider that offers, takes the message with the coins, and says no more."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.key = SecretKey.generate()
        self.lock = SecretKey.generate()

    async def offer(self, order_id: str, *, seconds: int) -> None:
        async def is_there() -> bool:
            return any(event.id == order_id for event in self.market.relay.published)

        await eventually(is_there)
        request = next(event for event in self.market.relay.published if event.id == order_id)
        now = self.market.clock.now()
        offer = Offer(
            price_msat=21_000, mints=(self.market.mint.url,), lock=self.lock.compressed_public_key,
            locktime=now + seconds, settle=("prepaid",), expires_at=now + 30,
        )  # fmt: skip
        template = make_feedback(request, Status.PAYMENT_REQUIRED, now=now, tags=offer.to_tags())
        self.market.relay.insert(sign_event(template, self.key))


# -- the customer


async def test_a_customer_that_lost_everything_takes_its_locked_coins_back_after_the_locktime() -> None:
    async with Market(clock=ManualClock()) as market:
        silent, clock = Silent(market), market.clock
        async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
            await fund(market, post, 100)
            order = await customer.ask(silent.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
            await silent.offer(order.id, seconds=600)
            await order_is(post, order.id, OrderState.PAID)
            left_sat, who = await sats(post), customer.public_key
        seed = lose(market, "me")
        await clock.advance(120)  # request and offer have expired at the relay
        assert order.id not in {event.id for event in market.relay.events}
        report = await restore(market, "me", seed)
        assert (report.balance_sat, report.orders.paid, report.orders.paid_sat) == (left_sat, 1, 21)
        assert (report.keys[0].public_key, report.troubles) == (who, ())
        again = await restore(market, "me", None)
        assert (again.balance_sat, again.orders.paid) == (left_sat, 0)
        async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
            await order_is(post, order.id, OrderState.AWAITING_REFUND)
            assert await sats(post) == left_sat
            await clock.advance(600)
            await order_is(post, order.id, OrderState.REFUNDED)
            assert await sats(post) + market.mint.fees_sat == 100
            assert (await post.wallet.audit(ask_mints=True)).ok


async def test_an_old_copy_learns_what_was_paid_since(tmp_path: Path) -> None:
    async with Market(clock=ManualClock()) as market:
        silent, clock, folder = Silent(market), market.clock, market.settings("me").data
        async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
            await fund(market, post, 100)
            order = await customer.ask(silent.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
        shutil.copytree(folder, tmp_path / "copy")
        async with life(market, "me") as post, open_customer(market.settings("me"), post):
            await silent.offer(order.id, seconds=600)
            await order_is(post, order.id, OrderState.PAID)
            await post.outbox.flush(5)
            left_sat = await sats(post)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "copy", folder)
        report = await restore(market, "me", None)
        assert (report.balance_sat, report.orders.paid) == (left_sat, 1)
        async with life(market, "me") as post, open_customer(market.settings("me"), post):
            await clock.advance(120)
            await order_is(post, order.id, OrderState.AWAITING_REFUND)
            await clock.advance(600)
            await order_is(post, order.id, OrderState.REFUNDED)
            assert await sats(post) + market.mint.fees_sat == 100
            assert (await post.wallet.audit(ask_mints=True)).ok


async def test_a_result_that_came_meanwhile_ends_the_order(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        await fund(market, post, 100)
        paid = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
        private = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50, private=True)
        free = await customer.ask(provider.public_key, "QUIET", kind=5002)
        for order in (paid, private, free):
            await order.result()
        said = await customer.review(free.id, 4, "quiet indeed")
        left_sat = await sats(post)
        await post.outbox.flush(5)
    report = await restore(market, "me", lose(market, "me"))
    assert (report.balance_sat, report.orders.done, report.orders.paid) == (left_sat, 3, 0)
    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        row = await get_order(post.db, paid.id)
        assert row is not None
        assert row.result is not None
        assert (row.state, row.price_sat, row.result.content) == (OrderState.DONE, 21, "LOUD")
        assert await customer.open_orders() == []
        assert await customer.review(free.id, 4, "quiet indeed") == said
        with pytest.raises(BadRequest, match="you have reviewed"):
            await customer.review(free.id, 1, "second thoughts")
        assert (await post.wallet.audit(ask_mints=True)).ok


async def test_a_request_without_a_record_is_waited_for_and_never_paid(market: Market, agent: Agent) -> None:
    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        await fund(market, post, 100)
        key = SecretKey.generate()
        priced = await customer.ask(key.public_key, "x", kind=5001, max_sat=50)
        await post.outbox.flush(5)
    report = await restore(market, "me", lose(market, "me"))
    assert report.orders.waiting == 1
    silent = Silent(market)
    silent.key = key
    async with life(market, "me") as post, open_customer(market.settings("me"), post):
        await silent.offer(priced.id, seconds=600)
        await order_is(post, priced.id, OrderState.FAILED)
        assert await sats(post) == 100


async def test_a_restore_that_is_killed_anywhere_is_run_again(
    market: Market, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after each of its commits in turn; the next run ends where an undisturbed one ends."""
    provider = await market.open(agent)
    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        await fund(market, post, 100)
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
        await order.result()
        left_sat = await sats(post)
    seed = lose(market, "me")
    transaction = Database.transaction
    commits, dies_at = 0, -1

    @asynccontextmanager
    async def mortal(self: Database) -> AsyncIterator[Transaction]:
        nonlocal commits
        async with transaction(self) as tx:
            yield tx
        commits += 1
        if commits == dies_at:
            raise Death

    monkeypatch.setattr(Database, "transaction", mortal)
    await restore(market, "me", seed)
    undisturbed = commits
    assert undisturbed > 5
    for point in range(1, undisturbed + 1):
        lose(market, "me")
        commits, dies_at = 0, point
        with suppress(Death):
            await restore(market, "me", seed)
        dies_at = -1
        report = await restore(market, "me", None)
        assert (report.balance_sat, report.troubles) == (left_sat, ()), point
        async with life(market, "me") as post:
            row = await get_order(post.db, order.id)
            assert row is not None
            assert row.state is OrderState.DONE
            assert (await post.wallet.audit(ask_mints=True)).ok


class Death(Exception):  # noqa: N818
    """As SIGKILL, as far as what comes after is concerned."""


# -- keys, mints, the seed


async def test_names_and_mints_come_from_the_relays(market: Market, agent: Agent) -> None:
    async with serving(market, agent) as provider:
        await fund(market, provider._post, 64)
        (market.settings("agent").data / "record").unlink()
        await keep_record(market.settings("agent"), provider._post)
        who = provider.public_key
    bare = market.settings("agent").model_copy(update={"mints": ()})
    report = await restore(market, "agent", lose(market, "agent"), settings=bare)
    assert (report.balance_sat, report.untrusted) == (64, (market.mint.url,))
    assert [(key.name, key.public_key) for key in report.keys] == [
        ("customer", own_key(bare, "customer").public_key), ("upper", who),
    ]  # fmt: skip


async def test_a_record_is_published_when_it_changes_and_not_else(market: Market) -> None:
    def published() -> int:
        return len([event for event in market.relay.published if event.kind == 30078])

    async with life(market, "me") as post:
        for names, expected in ((["customer"], 1), (["customer"], 1), (["customer", "shop"], 2)):
            for name in names:
                own_key(market.settings("me"), name)
            await keep_record(market.settings("me"), post)
            await post.outbox.flush(5)
            assert published() == expected
    record = market.relay.published[-1]
    assert market.mint.url not in record.content


async def test_a_key_that_is_not_of_the_words_is_told_and_never_replaced(market: Market) -> None:
    settings = market.settings("me")
    own_key(settings, "customer")
    imported = SecretKey.generate()
    write_key_file(settings.key_file("shop"), imported)
    async with life(market, "me") as post:
        await keep_record(settings, post)
        await post.outbox.flush(5)
    report = await restore(market, "me", None)
    assert "keep a copy" in {key.name: key.trouble for key in report.keys}["shop"]
    report = await restore(market, "me", lose(market, "me"))
    shop = {key.name: key for key in report.keys}["shop"]
    assert shop.public_key == imported.public_key
    assert "put your copy" in shop.trouble
    assert any("shop" in trouble for trouble in report.troubles)
    assert not settings.key_file("shop").exists()


async def test_other_words_are_not_put_over_those_that_are_there(market: Market) -> None:
    words = read_seed(market.settings("me")).words
    with pytest.raises(ConfigError, match="other words"):
        await restore(market, "me", Seed.generate())
    assert read_seed(market.settings("me")).words == words


async def test_a_mint_and_a_relay_that_are_down_are_told_and_the_rest_goes_on(market: Market) -> None:
    other = MemoryMint("https://other.test", clock=market.clock)
    other.rotate_keyset()  # so that the quotes of the two have different numbers
    both = market.settings("me").model_copy(update={"mints": (market.mint.url, other.url)})

    def transport(url: str) -> Any:
        return (other if url == other.url else market.mint).transport(url)

    parts: dict[str, Any] = {
        "clock": market.clock, "connect": market.relay.connect, "transport": transport,
    }  # fmt: skip
    async with open_post(both, **parts) as post:
        for mint, sat in ((market.mint, 30), (other, 12)):
            quote = await post.wallet.mint_quote(mint.url, sat)
            mint.pay(quote.bolt11)
            await post.wallet.claim(quote.id)
    seed = lose(market, "me")
    other.down = market.relay.switches.down = True
    report = await restore_post(both, seed, **parts)
    assert report.balance_sat == 30
    assert any("other.test" in trouble and "again" in trouble for trouble in report.troubles)
    assert any("relay" in trouble for trouble in report.troubles)
    other.down = market.relay.switches.down = False
    report = await restore_post(both, None, **parts)
    assert (report.balance_sat, report.troubles) == (42, ())
