"""The folder of a post is gone. Its words bring back keys, sats, orders and jobs, and nothing is done or paid twice."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, JobFailed, JobState, OrderState, Post, Provider, ProviderLimits
from dvm.nip90 import Offer, Status, make_feedback
from dvm.queries import get_job, get_order, recent_jobs
from identity import LocalSigner, SecretKey, encode_npub, sign_event, write_key_file
from store import Database, Transaction
from tradepost.api import open_customer
from tradepost.errors import ConfigError
from tradepost.post import open_post, own_key, read_seed
from tradepost.restore import Report, keep_record, restore_post
from tradepost.testing import ManualClock, Market, MemoryMint
from wallet import Seed

SECONDS_MAX = 10.0


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not await is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def life(market: Market, name: str) -> AsyncIterator[Post]:
    """One process of a post."""
    parts = {"connect": market.relay.connect, "transport": market.mint.transport}
    async with open_post(market.settings(name), clock=market.clock, **parts) as post:
        yield post


async def fund(market: Market, post: Post, sat: int) -> None:
    quote = await post.wallet.mint_quote(market.mint.url, sat)
    market.mint.pay(quote.bolt11)
    assert await post.wallet.claim(quote.id)


def lose(market: Market, name: str) -> Seed:
    """Delete everything of a post; what is left are its words, on paper."""
    seed = read_seed(market.settings(name))
    shutil.rmtree(market.settings(name).data)
    return seed


async def restore(market: Market, name: str, seed: Seed | None, **options: Any) -> Report:
    settings = options.pop("settings", market.settings(name))
    return await restore_post(
        settings,
        seed,
        clock=market.clock,
        connect=market.relay.connect,
        transport=market.mint.transport,
        **options,
    )


async def sats(post: Post) -> int:
    return sum((await post.wallet.balance()).values())


async def order_is(post: Post, order_id: str, state: OrderState) -> None:
    async def is_so() -> bool:
        row = await get_order(post.db, order_id)
        return row is not None and row.state is state

    await eventually(is_so)


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


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    async with Market() as market:
        yield market


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
        left_sat = await sats(post)
    report = await restore(market, "me", lose(market, "me"))
    assert (report.balance_sat, report.orders.done, report.orders.paid) == (left_sat, 3, 0)
    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        row = await get_order(post.db, paid.id)
        assert row is not None
        assert row.result is not None
        assert (row.state, row.price_sat, row.result.content) == (OrderState.DONE, 21, "LOUD")
        assert await customer.open_orders() == []
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


# -- the agent


@pytest.fixture
def agent() -> Agent:
    """Shouts for 21 sats (5001) once it is let, whispers for nothing (5002), fails for 21 (5050)."""
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        await GATE.wait()
        return job.text.upper()

    @agent.serves(kind=5002)
    async def whisper(job: Job) -> str:
        return job.text.lower()

    return agent


GATE = asyncio.Event()
GATE.set()


@asynccontextmanager
async def serving(
    market: Market, agent: Agent, limits: ProviderLimits | None = None
) -> AsyncIterator[Provider]:
    async with life(market, "agent") as post:
        provider = Provider(agent, LocalSigner(own_key(market.settings("agent"), agent.slug)), post, limits)
        await provider.start()
        await keep_record(market.settings("agent"), post)
        yield provider
        await provider.stop(0)


async def job_is(provider: Provider, job_id: str, state: JobState) -> None:
    async def is_so() -> bool:
        row = await get_job(provider._post.db, provider.public_key, job_id)
        return row is not None and row.state is state

    await eventually(is_so)


def answers(market: Market, order_id: str) -> int:
    return len({e.id for e in market.relay.published if e.tag("e") == order_id and 6000 <= e.kind < 7000})


def errors(market: Market) -> list[str]:
    return [e.id for e in market.relay.published if e.kind == 7000 and e.tag("status") == "error"]


async def test_an_agent_that_lost_everything_answers_nothing_twice(market: Market, agent: Agent) -> None:
    customer = await market.customer(sat=200)
    async with serving(market, agent) as provider:
        who = provider.public_key
        orders = [await customer.ask(who, "loud", kind=5001, max_sat=50) for _ in range(3)]
        orders.append(await customer.ask(who, "QUIET", kind=5002))
        orders.append(await customer.ask(who, "secret", kind=5001, max_sat=50, private=True))
        for order in orders:
            await order.result()
        earned_sat = await sats(provider._post)
    report = await restore(market, "agent", lose(market, "agent"))
    assert (report.balance_sat, earned_sat) == (84, 84)
    assert report.jobs["upper"].done == 5
    assert {key.name: key.public_key for key in report.keys}["upper"] == who
    async with serving(market, agent) as provider:
        assert provider.public_key == who
        fresh = await customer.ask(who, "again", kind=5001, max_sat=50)
        assert await fresh.result() == "AGAIN"
        assert [answers(market, order.id) for order in [*orders, fresh]] == [1] * 6
        assert errors(market) == []
        assert len(await recent_jobs(provider._post.db, 100)) == 6
        assert (await provider._post.wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize("is_told", ["begun", "offered", "forgotten"])
async def test_a_job_that_was_paid_and_not_answered_is_done(
    market: Market, agent: Agent, is_told: str, is_private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redeemed before the loss; the relays hold that it was begun, or the offer alone, or neither of them any more."""
    gate = asyncio.Event()
    monkeypatch.setitem(globals(), "GATE", gate)
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50, private=is_private)
        await job_is(provider, order.id, JobState.RUNNING)
        await provider._post.outbox.flush(5)
        await provider.stop(0)
        await provider._post.outbox.flush(5)
        earned_sat = await sats(provider._post)
    seed = lose(market, "agent")
    for event in market.relay.events:
        status = event.tag("status") if event.kind == 7000 else None
        if (status == "processing" and is_told != "begun") or (
            status == "payment-required" and is_told == "forgotten"
        ):
            del market.relay._stored[next(key for key, one in market.relay._stored.items() if one is event)]
    gate.set()
    report = await restore(market, "agent", seed)
    assert (report.balance_sat, earned_sat) == (21, 21)
    jobs = report.jobs["upper"]
    assert (jobs.under_way, jobs.offered) == {"begun": (1, 0), "offered": (0, 1), "forgotten": (0, 0)}[
        is_told
    ]
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        await job_is(provider, order.id, JobState.DONE)
        assert (answers(market, order.id), errors(market)) == (1, [])
        assert await sats(provider._post) == 21
        assert (await provider._post.wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("is_offer_known", [True, False])
async def test_a_payment_that_nobody_redeemed_is_taken(
    market: Market, agent: Agent, is_offer_known: bool
) -> None:
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        for _ in range(200):
            market.mint.lose_request("/v1/checkstate")  # it cannot look at the coins
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)

        async def is_paid() -> bool:
            return any(e.kind == 1059 and e.tag("p") == provider.public_key for e in market.relay.published)

        await eventually(is_paid)
        await provider._post.outbox.flush(5)
        await provider.stop(0)
    market.mint._next_faults.clear()
    seed = lose(market, "agent")
    if not is_offer_known:
        for key, event in list(market.relay._stored.items()):
            if event.kind == 7000:
                del market.relay._stored[key]
    await restore(market, "agent", seed)
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        assert (answers(market, order.id), errors(market)) == (1, [])
        assert await sats(provider._post) == 21


async def test_an_old_copy_learns_what_was_answered_since(
    market: Market, agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gate = asyncio.Event()
    monkeypatch.setitem(globals(), "GATE", gate)
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
        await job_is(provider, order.id, JobState.RUNNING)
    shutil.copytree(market.settings("agent").data, tmp_path / "copy")
    gate.set()
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        await provider._post.outbox.flush(5)
    shutil.rmtree(market.settings("agent").data)
    shutil.copytree(tmp_path / "copy", market.settings("agent").data)
    report = await restore(market, "agent", None)
    assert (report.jobs["upper"].done, report.balance_sat) == (1, 21)
    async with serving(market, agent) as provider:
        await job_is(provider, order.id, JobState.DONE)
    assert answers(market, order.id) == 1


async def test_a_restore_over_a_whole_database_leaves_owed_what_is_owed(market: Market) -> None:
    agent = Agent("Fails")

    @agent.serves(kind=5001, price_sat=21)
    async def work(job: Job) -> str:
        for _ in range(50):
            market.mint.refuse("/v1/swap")
        raise JobFailed("no")

    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        await fund(market, post, 100)
        async with serving(market, agent) as provider:
            order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
            await order_is(post, order.id, OrderState.AWAITING_REFUND)
        market.mint._next_faults.clear()
        await restore(market, "agent", None)
        async with serving(market, agent) as provider:
            await job_is(provider, order.id, JobState.RETURNED)
            await order_is(post, order.id, OrderState.REFUNDED)


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


# -- the command


def test_the_command_reads_words_from_stdin_and_a_file_and_never_shows_them(
    cli: Any, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:9")
    seed = Seed.generate()
    file = tmp_path / "words"
    file.write_text(seed.words.upper() + "\n")
    ran = cli("restore", "--words", file)
    assert ran.code == 0
    assert f"key customer: {encode_npub(seed.identity('customer').public_key)}" in ran.out
    assert "0 sat can be spent" in ran.out
    assert "--mint URL" in ran.err.replace("\n", " ")
    assert not any(word in (ran.out + ran.err).split() for word in seed.words.split()[:3])
    assert (home / "seed").read_text().strip() == seed.words
    (told,) = cli("restore", "--agent", "shop", "--json").lines
    assert told["keys"][1]["public_key"] == seed.identity("shop").public_key  # type: ignore[index]
    assert "no short name" in cli("restore", "--agent", "Big Shop").err
    wrong = cli("restore", "--words", tmp_path / "none")
    assert (wrong.code, "--words" in wrong.err) == (1, True)
    file.write_text("one two three")
    assert "BIP-39" in cli("restore", "--words", file).err


def test_words_come_from_stdin_and_without_a_terminal_only_so(home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRADEPOST_RELAYS": "ws://127.0.0.1:9"}
    seed = Seed.generate()

    def run(*options: str, words: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tradepost", "restore", *options], input=words, env=environment, text=True,
            capture_output=True, timeout=60, start_new_session=True, check=False,
        )  # fmt: skip

    asked = run()
    assert (asked.returncode, "--words -" in asked.stderr.replace("\n", " ")) == (1, True)
    ran = run("--words", "-", words=seed.words)
    assert ran.returncode == 0, ran.stderr
    assert (home / "seed").read_text().strip() == seed.words
