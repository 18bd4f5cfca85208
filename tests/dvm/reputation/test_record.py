"""What ended comes into the agent's log, and from there to the relays, once, whoever dies."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from dvm import Agent, Customer, Provider, ProviderLimits, queries
from dvm import queries_reputation as logged
from dvm.jobs.lifecycle import PaymentState
from dvm.orders.order import Order
from dvm.reputation.publisher import FIRST_SECONDS, ROOT_LEAVES, Publisher
from identity import Event, LocalSigner, SecretKey, make_template, sign_event
from identity import log as logs
from identity.receipts import JobLeaf, KeyLeaf, Leaf, Outcome, Review, ReviewLeaf, parse_leaf, write_leaf
from identity.roots import Page, Root, find_contradictions, find_leaves, parse_page, parse_root
from relay_bridge import Socket
from tests.dvm.conftest import Trade, eventually
from tests.dvm.deaths import Dead, Fate, fund, life
from tradepost.post import own_key
from tradepost.testing import ManualClock, Market
from wallet.escrow import Role, Stage


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        yield market


@pytest.fixture
async def provider(market: Market, agent: Agent) -> Provider:
    return await market.open(agent)


@pytest.fixture
async def customer(market: Market) -> Customer:
    return await market.customer(sat=1000)


async def leaves(provider: Provider) -> list[Leaf]:
    return [parse_leaf(text) for text in await logs.read_leaves(provider._post.db, provider.public_key, 0)]


async def buy(customer: Customer, provider: Provider, text: str = "hello", *, kind: int = 5001) -> Order:
    order = await customer.ask(provider.public_key, text, kind=kind, max_sat=50)
    await asyncio.wait({asyncio.ensure_future(order.result())})
    await settled(provider, order.id)
    return order


async def settled(provider: Provider, job_id: str) -> None:
    async def is_final() -> bool:
        job = await queries.get_job(provider._post.db, provider.public_key, job_id)
        return job is not None and job.state.is_final

    await eventually(is_final)


def review_by(
    order_id: str, provider: str, key: SecretKey, *, rating: int = 4, now: int = 1_700_000_000
) -> Event:
    review = Review(
        request_id=order_id, provider=provider, kind=5001, method="prepaid", amount_msat=21_000, rating=rating
    )
    return sign_event(review.to_template(now), key)


async def review(market: Market, provider: Provider, event: Event) -> None:
    """Publish a review, and wait until the provider has done with it."""
    market.relay.insert(event)

    async def is_done() -> bool:
        row = await provider._post.db.one("SELECT state FROM inbox WHERE event_id = ?", event.id)
        return row is not None and row["state"] == "done"

    await eventually(is_done, "the review to be taken in")


def published(market: Market) -> tuple[list[tuple[Event, Root]], list[Page]]:
    events = market.relay.published
    roots = [e for e in events if ("t", "tradepost:root") in e.tags or ("d", "tradepost:root") in e.tags]
    pages = [e for e in events if ("t", "tradepost:leaves") in e.tags]
    return [(e, parse_root(e)) for e in roots], [parse_page(e) for e in pages]


async def test_a_paid_job_a_failed_one_and_a_free_one(customer: Customer, provider: Provider) -> None:
    good = await buy(customer, provider)
    await buy(customer, provider, kind=5002)
    bad = await buy(customer, provider, kind=5050)
    await provider._books.look()
    first, *jobs = await leaves(provider)
    assert isinstance(first, KeyLeaf)
    assert first.key == provider.public_key
    told = {leaf.request: leaf for leaf in jobs if isinstance(leaf, JobLeaf)}
    assert told.keys() == {good.id, bad.id}
    paid, returned = told[good.id], told[bad.id]
    assert (paid.outcome, paid.amount_msat) == (Outcome.PAID, 21_000)
    assert (returned.outcome, returned.amount_msat) == (Outcome.RETURNED, 0)
    row = await queries.get_order(customer._post.db, good.id)
    assert row is not None
    assert row.result is not None
    assert row.offer is not None
    assert (paid.result, paid.lock, paid.customer) == (
        row.result.id,
        row.offer.tag("lock"),
        customer.public_key,
    )
    await provider._books.look()
    assert len(await leaves(provider)) == 3


async def test_an_escrow_is_logged_when_its_money_has_ended(trade: Trade) -> None:
    order = await trade.ask()
    await order.result()
    await trade.provider._books.look()
    assert await leaves(trade.provider) == []
    await trade.customer.accept(order.id)
    await trade.reach(Role.PROVIDER, order, Stage.PAID)
    await trade.provider._books.look()
    _, leaf = await leaves(trade.provider)
    assert isinstance(leaf, JobLeaf)
    assert (leaf.method, leaf.outcome, leaf.disputed) == ("escrow", Outcome.PAID, False)


async def test_what_the_customer_says_is_logged(
    market: Market, customer: Customer, provider: Provider
) -> None:
    order = await buy(customer, provider)
    key = own_key(market.settings("customer"), "customer")
    theirs = review_by(order.id, provider.public_key, key)
    for other in (
        review_by(order.id, provider.public_key, SecretKey.generate()),  # not the customer
        review_by("ab" * 32, provider.public_key, key),  # of no job
        theirs,
    ):
        await review(market, provider, other)
    await provider._books.look()
    *_, leaf = await leaves(provider)
    assert leaf == ReviewLeaf(review=theirs.id, request=order.id, at=market.clock.now())
    row = await logged.review_of(provider._post.db, provider.public_key, order.id)
    assert row is not None
    async with provider._post.db.transaction() as tx:
        assert await logged.answer_review(tx, row, "thank you")
        assert not await logged.answer_review(tx, row, "or not")
    await provider._books.look()
    *_, answered = await leaves(provider)
    assert isinstance(answered, ReviewLeaf)
    assert (answered.review, answered.answer) == (theirs.id, "thank you")
    assert len(await leaves(provider)) == 4
    for rating in (1, 2, 3, 5):  # readers may find that an earlier one does not hold
        await review(market, provider, review_by(order.id, provider.public_key, key, rating=rating))
    await provider._books.look()
    assert len(await leaves(provider)) == 8


async def test_money_that_comes_late_is_looked_at_again(
    market: Market, customer: Customer, provider: Provider
) -> None:
    order = await buy(customer, provider)
    job = await queries.get_job(provider._post.db, provider.public_key, order.id)
    assert job is not None
    (payment,) = await queries.payments_of(provider._post.db, provider.public_key, order.id)
    async with provider._post.db.transaction() as tx:
        assert await logged.log_job(tx, provider.public_key, order.id, logged.NEVER)
    await provider._books.look()
    assert await leaves(provider) == []
    async with provider._post.db.transaction() as tx:
        assert await queries.update_payment(tx, payment, PaymentState.RETURNED, now=1)
    assert await provider._books._has_news(provider._books._publisher)  # type: ignore[arg-type]


async def test_roots_go_out_in_batches(market: Market, customer: Customer, provider: Provider) -> None:
    assert isinstance(market.clock, ManualClock)
    await buy(customer, provider)
    await provider._books.look()
    assert published(market) == ([], [])
    for _ in range(2):
        await market.clock.advance(ProviderLimits().root_seconds)
        await provider._books.look()
    await eventually(lambda: len(published(market)[0]) == 2)
    await buy(customer, provider)
    await provider.stop(0)
    await eventually(lambda: len(published(market)[0]) == 4)
    roots, pages = published(market)
    assert {(event.kind, root.head.size) for event, root in roots} == {
        (kind, size) for kind in (78, 30078) for size in (2, 3)
    }
    newest = max((root for _, root in roots), key=lambda root: root.head.size)
    assert newest.is_consistent
    assert newest.previous is not None
    assert newest.previous.size == 2
    found = find_leaves(pages, newest.head, frozenset())
    assert found is not None
    assert len(found) == 3
    assert find_contradictions(roots) == []
    times = {root.head.size: event.created_at for event, root in roots}
    assert times[3] > times[2]


async def test_a_relay_that_is_new_is_given_what_there_was(
    market: Market, customer: Customer, provider: Provider
) -> None:
    publisher, pool = provider._books._publisher, provider._post.pool
    assert publisher is not None
    await buy(customer, provider)
    await provider._books.look()
    head = await publisher.publish()
    await eventually(lambda: len(published(market)[0]) == 2)
    market.relay.published.clear()
    pool.set_urls([*pool.urls, "ws://new.test"])
    await publisher.publish_if_due()
    await eventually(lambda: len(published(market)[0]) == 2)
    roots, pages = published(market)
    assert {root.head for _, root in roots} == {head}
    assert find_leaves(pages, head, frozenset()) is not None
    market.relay.published.clear()
    await publisher.publish_if_due()
    assert published(market) == ([], [])


async def test_under_a_new_key_all_relays_are_given_all(
    market: Market, customer: Customer, provider: Provider
) -> None:
    publisher = provider._books._publisher
    assert publisher is not None
    await buy(customer, provider)
    await provider._books.look()
    head = await publisher.publish()
    assert not await publisher.has_news()
    rotation = sign_event(make_template(78, created_at=market.clock.now()), SecretKey.generate())
    leaf = KeyLeaf(key="ab" * 32, next="cd" * 32, at=1, rotation=rotation.to_json().decode())
    async with provider._post.db.transaction() as tx:
        await logs.append(tx, provider.public_key, [write_leaf(leaf)])
    await publisher.publish()
    await eventually(lambda: len(published(market)[0]) == 4)
    market.relay.published.clear()
    heir = Publisher(provider._post, LocalSigner(SecretKey.generate()), provider.public_key, 300)
    assert await heir.has_news()
    assert (await heir.publish()).size == head.size + 1
    await eventually(lambda: len(published(market)[0]) == 2)
    roots, pages = published(market)
    assert find_leaves(pages, roots[0][1].head, frozenset()) is not None
    await eventually(lambda: rotation in market.relay.published)


async def test_a_first_root_waits_for_relays_that_are_away(
    market: Market, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(market.clock, ManualClock)

    async def away(_publisher: Publisher) -> list[str]:
        return ["ws://down.test"]

    monkeypatch.setattr(Publisher, "_away", away)
    await buy(customer, provider)
    await provider._books.look()
    assert await leaves(provider) == []
    await market.clock.advance(FIRST_SECONDS)
    await provider._books.look()
    assert len(await leaves(provider)) == 2


async def test_a_relay_that_is_only_slower_than_another_is_not_away(
    market: Market, customer: Customer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, asked, may_come = provider._post.pool, asyncio.Event(), asyncio.Event()

    async def connect_slowly(url: str) -> Socket:
        asked.set()
        await may_come.wait()
        return await market.relay.connect(url)

    await buy(customer, provider)
    monkeypatch.setattr(pool, "_connect_own", connect_slowly)
    pool.set_urls([*pool.urls, "ws://slower.test"])
    looking = asyncio.create_task(provider._books.look())
    await asyncio.wait_for(asked.wait(), 10)
    may_come.set()
    await looking
    assert len(await leaves(provider)) == 2


async def test_many_leaves_do_not_wait(
    market: Market, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvm.reputation.publisher.ROOT_LEAVES", 3)
    assert ROOT_LEAVES == 100
    publisher = provider._books._publisher
    assert publisher is not None
    async with provider._post.db.transaction() as tx:
        await logs.append(tx, provider.public_key, ["a", "b"])
    await publisher.publish_if_due()
    assert published(market) == ([], [])
    async with provider._post.db.transaction() as tx:
        await logs.append(tx, provider.public_key, ["c"])
    await publisher.publish_if_due()
    await eventually(lambda: len(published(market)[0]) == 2)


async def test_a_lost_folder_goes_on_with_the_log_of_the_relays(
    market: Market, agent: Agent, customer: Customer, tmp_path: Path
) -> None:
    async with life(market, "agent") as post:
        key = own_key(market.settings("agent"), agent.slug)
        provider = Provider(agent, LocalSigner(key), post)
        await provider.start()
        first = await buy(customer, provider)
        await review(
            market,
            provider,
            review_by(first.id, provider.public_key, own_key(market.settings("customer"), "customer")),
        )
        await provider._books.look()
        before = await leaves(provider)
        assert len(before) == 3
        await provider.stop(0)
        await eventually(lambda: len(published(market)[0]) == 2)
    (tmp_path / "agent" / "post.sqlite").unlink()
    async with life(market, "agent") as post:
        provider = Provider(agent, LocalSigner(key), post)
        await provider.start()
        second = await buy(customer, provider)
        await eventually(lambda: _looked(provider, 4))
        after = await leaves(provider)
        assert after[:3] == before
        assert isinstance(after[3], JobLeaf)
        assert after[3].request == second.id
        await provider.stop(0)
        await eventually(lambda: len(published(market)[0]) == 4)
    roots, pages = published(market)
    assert find_contradictions(roots) == []
    newest = max((root for _, root in roots), key=lambda root: root.head.size)
    assert newest.is_consistent
    assert find_leaves(pages, newest.head, frozenset()) is not None


async def _looked(provider: Provider, size: int) -> bool:
    await provider._books.look()
    return len(await leaves(provider)) >= size


async def test_a_copy_of_a_folder_does_not_fork_the_log(
    market: Market, agent: Agent, customer: Customer, tmp_path: Path
) -> None:
    key = own_key(market.settings("agent"), agent.slug)

    async def live(text: str) -> int:
        async with life(market, "agent") as post:
            provider = Provider(agent, LocalSigner(key), post)
            await provider.start()
            await buy(customer, provider, text)
            await provider._books.look()
            await provider.stop(0)
            async with asyncio.timeout(30):
                while await post.db.one("SELECT 1 FROM outbox"):
                    await asyncio.sleep(0.01)
            return (await logs.read_frontier(post.db, key.public_key)).size

    assert await live("one") == 2
    shutil.copytree(tmp_path / "agent", tmp_path / "copy")
    assert await live("two") == 3
    shutil.rmtree(tmp_path / "agent")
    shutil.move(tmp_path / "copy", tmp_path / "agent")
    assert await live("three") == 4  # it takes in what it had not known
    roots, _ = published(market)
    assert find_contradictions(roots) == []
    # But what has forked is neither added to nor published.
    shutil.rmtree(tmp_path / "agent")
    async with life(market, "agent") as post, post.db.transaction() as tx:
        await logs.append(tx, key.public_key, ["another beginning"])
    assert await live("four") == 1
    assert find_contradictions(published(market)[0]) == []


async def test_death_at_every_point(agent: Agent, tmp_path: Path) -> None:
    """A job is entered and published; the process dies at each commit, and at each event that it sends."""

    async def scenario(folder: Path, at: int | None) -> Fate:
        fate = Fate(at)
        async with Market(clock=ManualClock(), folder=folder) as market:
            key = own_key(market.settings("agent"), agent.slug)
            async with life(market, "customer") as post:
                await fund(market, post)
            customer = await market.customer()
            async with life(market, "agent") as post:
                provider = Provider(agent, LocalSigner(key), post)
                await provider.start()
                order = await buy(customer, provider)
                await provider._books._tasks.close()
            with suppress(Dead):
                async with life(market, "agent", fate) as victim:
                    provider = Provider(agent, LocalSigner(key), victim)
                    try:
                        await provider.start()
                        await provider._books.look()
                    finally:
                        with suppress(Dead):
                            await provider.stop(0)
            async with life(market, "agent") as again:
                provider = Provider(agent, LocalSigner(key), again)
                await provider.start()
                await provider._books.look()
                await provider.stop(0)
                await eventually(lambda: len({e.id for e, _ in published(market)[0]}) == 2)
            roots, pages = published(market)
            assert find_contradictions(roots) == []
            (head,) = {root.head for _, root in roots}
            found = find_leaves(pages, head, frozenset())
            assert found is not None
            _, leaf = [parse_leaf(text) for text in found]
            assert isinstance(leaf, JobLeaf)
            assert leaf.request == order.id
        return fate

    unharmed = await scenario(tmp_path / "unharmed", None)
    assert "commit" in unharmed.points
    at_a_time = asyncio.Semaphore(8)

    async def die(at: int) -> Fate:
        async with at_a_time:
            return await scenario(tmp_path / str(at), at)

    fates = await asyncio.gather(*map(die, range(len(unharmed.points))))
    died = sum(fate.died.is_set() for fate in fates)
    assert died > len(fates) * 0.8  # how many points there are varies a little, so the last ones may not come
