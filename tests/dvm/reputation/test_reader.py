"""An agent's reputation read from relays: honest ones and such that hide, lie, flood or are not there."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from dvm import Action, Agent, BadRequest, Customer, Job, ProviderLimits
from dvm.queries_reputation import note_seen_root, seen_root
from dvm.reputation import gathering
from dvm.reputation.reader import Reader
from dvm.reputation.settlements import MintWitness
from identity import SecretKey, make_template, sign_event
from identity.audit import Receipt, Verdict
from identity.published import Kind
from identity.rotation import Rotation, commitment
from relay_bridge import RelayPool
from store import Database
from tests.dvm.conftest import Trade, eventually
from tests.dvm.reputation.booth import Booth, Sold, handed_on, honest
from tests.dvm.reputation.reading import DAY, ONE, THREE, TWO, claim_to, kinds, put, read, verdicts
from tests.dvm.sale import Sale
from tradepost.testing import ManualClock, Market, MemoryMint, MemoryRelay

# --- an honest agent -----------------------------------------------------------------------------------------------


async def test_an_honest_agent(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, mint: MemoryMint
) -> None:
    booth, events = honest(clock.now() - 10 * DAY, mint)
    put(relays[ONE], events)
    material, judged = await read(pool, clock, booth.log, mint=mint)
    assert verdicts(judged) == [Verdict.SETTLED, Verdict.SETTLED, Verdict.NO_PAYMENT, Verdict.SILENT]
    assert judged.findings == ()
    assert judged.head == booth.published
    assert judged.head.size == len(booth.leaves) == 8
    assert [(view.url, view.head) for view in material.relays] == [(ONE, booth.published), (TWO, None)]
    by_lock = judged.receipts[0]
    assert by_lock.settlement is not None
    assert by_lock.settlement.asked
    assert by_lock.answer == "thank you"


async def test_without_mints_a_lock_is_not_settled(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, mint: MemoryMint
) -> None:
    booth, events = honest(clock.now() - 10 * DAY, mint)
    put(relays[ONE], events)
    _, judged = await read(pool, clock, booth.log)
    assert verdicts(judged)[:2] == [Verdict.UNASKED, Verdict.SETTLED]
    assert mint.asked.total() == 0


async def test_nobody_known_has_nothing(pool: RelayPool, clock: ManualClock) -> None:
    material, judged = await read(pool, clock, SecretKey.generate().public_key)
    assert material.state.roots == ()
    assert judged.receipts == ()
    assert kinds(judged) == set()


async def test_leaves_over_many_pages_and_questions(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    """More than a relay gives to one question, of every kind."""
    for _ in range(25):
        booth.append(Sold(booth).leaf())
        put(relays[TWO], booth.publish())
    material, judged = await read(pool, clock, booth.log)
    assert len(judged.receipts) == 25
    assert (
        len(material.state.roots) == 26 - 1 + 1
    )  # each as a regular event, the newest as a replaceable one too


async def test_what_agents_and_customers_of_ours_leave_behind(tmp_path: Path) -> None:
    """Nothing made by hand: jobs paid by coins in the open and in private, their reviews, and what the agent kept."""
    agent, clock = Agent("Upper"), ManualClock()

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        job.confidence = 0.9
        return job.text.upper()

    async with Market(clock=clock, folder=tmp_path) as market:
        provider = await market.open(agent, limits=ProviderLimits(root_seconds=1))
        customer = await market.customer(sat=200)
        for number, private in enumerate((False, True, False)):
            order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50, private=private)
            assert await order.result() == "HELLO"
            if number < 2:
                await eventually(lambda id_=order.id: is_reviewed(customer, id_))
        async with MintWitness([market.mint.url], market.mint.transport) as witness:
            reader = Reader(customer._post.pool, clock, witness=witness)

            async def is_all_there() -> bool:
                await clock.advance(1)
                judged = await reader.judge(await reader.read(provider.public_key))
                answered = [receipt.answer_number is not None for receipt in judged.receipts]
                if sum(answered) < 2 or len(answered) < 3:
                    return False
                assert sorted(verdicts(judged)) == [Verdict.SETTLED, Verdict.SETTLED, Verdict.SILENT]
                return judged.findings == ()

            await eventually(is_all_there, "a log with three jobs and two answers")


async def is_reviewed(customer: Customer, order_id: str) -> bool:
    """Review it, if the agent has taken its sats."""
    try:
        await customer.review(order_id, 5)
    except BadRequest as error:
        if error.action is not Action.WAIT:
            raise
        return False
    return True


async def settled(market: Market, customer: Customer, provider: str) -> Receipt:
    """The one receipt of that agent's log, as soon as it has one with an answer, and nothing is found against it."""
    found: list[Receipt] = []
    async with MintWitness([market.mint.url], market.mint.transport) as witness:
        reader = Reader(customer._post.pool, market.clock, witness=witness)

        async def is_there() -> bool:
            assert isinstance(market.clock, ManualClock)
            await market.clock.advance(20)
            judged = await reader.judge(await reader.read(provider))
            found[:] = [receipt for receipt in judged.receipts if receipt.answer_number is not None]
            return bool(found) and judged.findings == ()

        await eventually(is_there, "a log with an answer")
    return found[-1]


async def test_an_escrow(trade: Trade) -> None:
    order = await trade.ask(review=False)
    await order.result()
    await eventually(lambda: is_reviewed(trade.customer, order.id))
    receipt = await settled(trade.market, trade.customer, trade.provider.public_key)
    assert receipt.verdict is Verdict.SETTLED
    assert receipt.job is not None
    assert receipt.job.method == "escrow"


async def test_a_sealed_result(sale: Sale) -> None:
    order = await sale.ask()
    await order.result()
    await eventually(lambda: is_reviewed(sale.customer, order.id))
    receipt = await settled(sale.market, sale.customer, sale.provider.public_key)
    assert receipt.verdict is Verdict.SETTLED
    assert receipt.job is not None
    assert receipt.job.method == "reveal"


# --- relays that do not tell all -----------------------------------------------------------------------------------


async def test_the_newest_root_is_found_if_one_relay_shows_it(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    old = booth.publish()
    booth.append(Sold(booth).leaf())
    put(relays[ONE], old)
    put(relays[TWO], [*old, *booth.publish()])
    material, judged = await read(pool, clock, booth.log)
    assert judged.head == booth.published
    assert [view.head.size for view in material.relays if view.head] == [1, 2]
    assert kinds(judged) == set()


async def test_a_root_that_every_relay_hides_was_seen_before(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, db: Database
) -> None:
    old = booth.publish()
    booth.append(Sold(booth).leaf())
    new = booth.publish()
    put(relays[ONE], [*old, *new])
    _, judged = await read(pool, clock, booth.log, db=db)
    assert kinds(judged) == set()
    relays[ONE]._stored.clear()
    put(relays[ONE], old)
    _, judged = await read(pool, clock, booth.log, db=db)
    assert Kind.HIDDEN_ROOT in kinds(judged)
    _, forgetful = await read(pool, clock, booth.log)
    assert kinds(forgetful) == set()  # who has seen nothing before cannot know
    _, judged = await read(pool, clock, booth.log, db=db)
    assert Kind.HIDDEN_ROOT in kinds(judged)  # the smaller one did not take its place


async def test_what_is_remembered_and_does_not_count_gives_way(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, db: Database
) -> None:
    """A root under a key that is found to be stolen, say, may not stand in the way of all others."""
    put(relays[ONE], booth.publish())
    other = booth.twin()
    other.key = SecretKey.generate()
    other.append(Sold(other).leaf())
    stolen, *_ = other.publish()
    async with db.transaction() as tx:
        await note_seen_root(tx, booth.log, 2, stolen, None)
    for _ in range(2):
        _, judged = await read(pool, clock, booth.log, db=db)
        assert kinds(judged) == set()
    async with db.transaction() as tx:  # another reader, slower than we
        await note_seen_root(tx, booth.log, 0, stolen, None)
    seen = await seen_root(db, booth.log)
    assert seen is not None
    assert seen.pubkey == booth.log


async def test_relays_that_the_agent_names_are_asked_too(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    listed = sign_event(make_template(10002, tags=[("r", THREE)], created_at=booth.now), booth.key)
    put(relays[ONE], [listed])
    put(relays[THREE], booth.publish())
    material, judged = await read(pool, clock, booth.log)
    assert judged.head == booth.published
    assert [view.url for view in material.relays] == [ONE, TWO, THREE]


@pytest.mark.parametrize("switch", ["down", "without_eose"])
async def test_a_relay_that_does_not_answer_is_asked_no_more(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, switch: str
) -> None:
    setattr(relays[TWO].switches, switch, True)
    relays[TWO].drop_connections()
    put(relays[ONE], booth.publish())
    reading = asyncio.create_task(read(pool, clock, booth.log))
    while not reading.done():
        await asyncio.sleep(0)
        await clock.advance(1)
    material, judged = await reading
    assert judged.head == booth.published
    assert [bool(view.trouble) for view in material.relays] == [False, True]
    assert all(1985 not in (one.kinds or ()) for filters in relays[TWO].requests for one in filters)


async def test_a_relay_that_takes_for_ever_still_shows_what_it_gave(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    """It gives an event at a time, and never says that this is all."""
    relays[ONE].switches.without_eose = True
    relays[ONE]._stored_max = 1
    for _ in range(10):
        booth.append(Sold(booth).leaf())
        put(relays[ONE], booth.publish())
    reading = asyncio.create_task(read(pool, clock, booth.log))
    while not reading.done():
        await asyncio.sleep(0)
        await clock.advance(1)
    material, _ = await reading
    assert "no answer within" in material.relays[0].trouble
    assert material.relays[0].head == booth.published
    assert 1 < len(material.state.roots) < 11


async def test_as_many_relays_as_there_is_room_for(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    """Whoever names the agent names some, and the agent names more."""
    put(relays[THREE], booth.publish(relays=tuple(f"ws://away{number}.test" for number in range(8))))
    material = await Reader(pool, clock).read(booth.log, ["ws://elsewhere.test", THREE])
    assert [view.url for view in material.relays[:4]] == [ONE, TWO, "ws://elsewhere.test", THREE]
    assert len(material.relays) == 2 + gathering.RELAYS_NAMED_MAX
    assert [bool(view.trouble) for view in material.relays] == [False, False, True, False, True, True]
    assert material.state.head == booth.published


async def test_reviews_that_only_the_log_names(
    pool: RelayPool,
    relays: dict[str, MemoryRelay],
    clock: ManualClock,
    booth: Booth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood of reviews, newer than the one in the log, does not hide it."""
    monkeypatch.setattr(gathering, "REVIEWS_MAX", 20)
    sold = Sold(booth)
    review = sold.review(sold.paid_by_preimage())
    booth.append(sold.leaf(), sold.answer(review))
    put(relays[ONE], [review, *booth.publish()])
    booth.now += DAY
    put(relays[ONE], [Sold(booth).review() for _ in range(60)])
    material, judged = await read(pool, clock, booth.log)
    assert Verdict.SETTLED in verdicts(judged)
    assert kinds(judged) == set()
    assert "older ones were not read" in material.relays[0].trouble


# --- what is not what it says it is --------------------------------------------------------------------------------


async def test_rubbish_is_passed_over(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, mint: MemoryMint
) -> None:
    booth, events = honest(clock.now() - 10 * DAY, mint)
    stranger = SecretKey.generate()
    rubbish = [
        sign_event(
            make_template(1985, tags=[("L", "tradepost.review"), ("p", booth.log)], created_at=5), stranger
        ),
        sign_event(
            make_template(78, tags=[("t", "tradepost:rotation"), ("p", booth.log)], created_at=5), stranger
        ),
        sign_event(
            make_template(78, tags=[("t", "tradepost:root"), ("log", booth.log)], created_at=5), stranger
        ),
    ]
    put(relays[ONE], events)
    put(relays[TWO], [*rubbish, msgspec.structs.replace(events[0], content="forged")])
    material, judged = await read(pool, clock, booth.log, mint=mint)
    assert verdicts(judged)[:2] == [Verdict.SETTLED, Verdict.SETTLED]
    assert kinds(judged) == set()
    assert material.unreadable == 1


async def test_a_fork(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    put(relays[ONE], booth.publish())
    other = booth.twin()
    booth.append(Sold(booth).leaf())
    other.append(Sold(other).leaf())
    put(relays[ONE], booth.publish())
    put(relays[TWO], other.publish())
    _, judged = await read(pool, clock, booth.log)
    (fork,) = [finding for finding in judged.findings if finding.kind is Kind.FORK]
    assert fork.is_proven
    assert len(fork.events) == 2


async def test_a_receipt_that_was_dropped(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, mint: MemoryMint
) -> None:
    """The agent was paid, signed so in its offer, and keeps quiet: the customer's coins tell."""
    sold = Sold(booth)
    review = sold.review(sold.paid_at(mint))
    put(relays[ONE], [*booth.publish(), review])
    _, judged = await read(pool, clock, booth.log, mint=mint)
    assert verdicts(judged) == [Verdict.SETTLED]
    assert kinds(judged) == {Kind.DROPPED}


async def test_a_payment_that_the_mint_denies_after_all(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, mint: MemoryMint
) -> None:
    """Two reviews of one job: the one that came first shows coins that nobody took. The other one counts."""
    sold = Sold(booth)
    unspent = sold.paid_at(mint)
    mint.spent.clear()
    first = sold.review(unspent, rating=1)
    booth.now += 1
    second = sold.review(sold.paid_at(mint), rating=5)
    booth.append(sold.leaf())
    put(relays[ONE], [*booth.publish(), first, second])
    _, judged = await read(pool, clock, booth.log, mint=mint)
    settled = [receipt for receipt in judged.receipts if receipt.verdict is Verdict.SETTLED]
    assert [receipt.review_event for receipt in settled] == [second]


# --- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [0, 1, 2])
async def test_a_log_is_found_by_any_of_its_keys(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, asked: int
) -> None:
    booth.append(Sold(booth).leaf())
    put(relays[ONE], booth.publish())
    middle, first = handed_on(booth)
    middle.append(Sold(middle).leaf())
    put(relays[TWO], [first, *middle.publish()])
    last, second = handed_on(middle)
    last.append(Sold(last).leaf())
    put(relays[ONE], [second, *last.publish()])
    key = [booth.key, middle.key, last.key][asked].public_key
    put(relays[TWO], [claim_to(key, clock.now()) for _ in range(20)])
    _, judged = await read(pool, clock, key)
    assert judged.chain.log == booth.log
    assert judged.chain.current == last.key.public_key
    assert judged.head == last.published
    assert len(judged.receipts) == 3
    assert kinds(judged) == set()


async def test_nobody_takes_a_log_by_saying_so(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    put(relays[ONE], booth.publish())
    thief = booth.twin()
    thief.key = SecretKey.generate()
    claim = Rotation(
        log=booth.log, old=booth.log, new=thief.key.public_key, head=booth.published,
        next=commitment(booth.log), at=booth.now, by_both=False,
    )  # fmt: skip
    thief.append(Sold(thief).leaf())
    put(relays[TWO], [sign_event(claim.to_template(), thief.key), *thief.publish()])
    _, judged = await read(pool, clock, booth.log)
    assert judged.chain.keys == (booth.log,)
    assert judged.head == booth.published
    _, judged = await read(pool, clock, thief.key.public_key)
    assert judged.chain.log == thief.key.public_key
    assert judged.receipts == ()
