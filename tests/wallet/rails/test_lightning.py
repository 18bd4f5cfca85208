"""The recorded door to Lightning: names, limits said before, and a death at every write and every question."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from store import Database, Transaction, load_migrations
from tradepost.testing import ManualClock
from tradepost.testing.lightning import MemoryLightning, MemoryRail
from wallet import queries_books
from wallet.errors import InvalidRequest, PaidBefore, RailCannot, RailUnavailable, WalletError
from wallet.rails import InvoiceState, Lightning, RailLimits, SendState, Wish
from wallet.rails.lightning import GRACE_SECONDS


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "rails.db", load_migrations("wallet")) as opened:
        yield opened


@pytest.fixture
def network(clock: ManualClock) -> MemoryLightning:
    return MemoryLightning(clock=clock, fee_msat=7)


@pytest.fixture
def shop(network: MemoryLightning) -> MemoryRail:
    return network.rail()


@pytest.fixture
def buyer(network: MemoryLightning) -> MemoryRail:
    return network.rail(sat=100)


async def accounts(db: Database) -> dict[str, int]:
    async with db.snapshot() as rows:
        return {name: msat for name, msat in (await queries_books.accounts(rows)).items() if msat}


async def test_an_invoice_is_made_once_for_a_name(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [shop])
    first, again = await asyncio.gather(
        *(lightning.make_invoice("job 1", Wish(21_500, job_id="j")) for _ in range(2))
    )
    assert first == again
    assert shop.asked["make_invoice"] == 1
    assert first.state is InvoiceState.OPEN
    assert (await lightning.look("job 1")).state is InvoiceState.OPEN
    assert first.bolt11 is not None
    preimage = network.pay(first.bolt11, extra_msat=500)
    settled = await lightning.look("job 1")
    assert (settled.state, settled.received_msat, settled.preimage) == (
        InvoiceState.SETTLED,
        22_000,
        preimage,
    )
    assert str(preimage) not in repr(settled)
    asked = shop.asked["look"]
    assert await lightning.look("job 1") == settled
    assert shop.asked["look"] == asked
    assert await accounts(db) == {"rail/memory": 22_000, "jobs/j": -22_000}
    assert first.payment_hash is not None
    assert await lightning.invoice_of(first.payment_hash) == settled
    assert await lightning.invoice_of("00" * 32) is None


async def test_an_invoice_is_claimed_by_state_and_not_by_expiry(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [shop])
    paid, unpaid = [await lightning.make_invoice(name, Wish(1000, expiry_seconds=60)) for name in "ab"]
    assert paid.bolt11 is not None
    network.pay(paid.bolt11)
    await clock.advance(GRACE_SECONDS + 62)
    assert (await lightning.look("a")).state is InvoiceState.SETTLED
    assert (await lightning.look("b")).state is InvoiceState.EXPIRED
    assert unpaid.bolt11 is not None
    network.bills[unpaid.payment_hash or ""].received_msat = 1000  # a wallet that took it late all the same
    assert (await lightning.look("b")).state is InvoiceState.SETTLED


async def test_what_no_rail_can_do_is_said_before_any_is_asked(
    db: Database, clock: ManualClock, network: MemoryLightning
) -> None:
    mintlike = network.rail(
        limits=RailLimits(min_msat=1000, max_msat=50_000, sub_sat=False, description_hash=False),
        name="coarse",
    )
    reader = network.rail(limits=RailLimits(makes=False, pays=True, fee_limit=False), name="reader")
    lightning = Lightning(db, clock, [mintlike, reader])
    for wish, word in (
        (Wish(1500), "whole sats"),
        (Wish(0), "less than it handles"),
        (Wish(51_000), "more than it handles"),
        (Wish(1000, description_hash="ab" * 32), "description hash"),
    ):
        with pytest.raises(RailCannot, match=word) as refusal:
            await lightning.make_invoice("x", wish)
        assert "reader: it makes no invoices" in str(refusal.value)
    assert mintlike.asked["make_invoice"] == reader.asked["make_invoice"] == 0
    bill = network.bill(mintlike, Wish(1000), 1000).bolt11
    with pytest.raises(RailCannot, match="limit of fees"):
        await Lightning(db, clock, [reader]).pay("p", bill, fee_max_msat=10)
    with pytest.raises(RailCannot, match="there is none"):
        await Lightning(db, clock, []).pay("p", bill)
    assert await lightning.recover() == []


async def test_the_first_rail_that_can_is_taken(
    db: Database, clock: ManualClock, network: MemoryLightning
) -> None:
    coarse = network.rail(limits=RailLimits(sub_sat=False), name="coarse")
    fine = network.rail(name="fine")
    lightning = Lightning(db, clock, [coarse, fine])
    assert (await lightning.make_invoice("a", Wish(1000))).rail == "coarse"
    assert (await lightning.make_invoice("b", Wish(1001))).rail == "fine"
    coarse.down = True
    assert (await lightning.make_invoice("c", Wish(1000))).rail == "fine"
    with pytest.raises(WalletError, match="not configured any more"):
        await Lightning(db, clock, [coarse]).look("b")


async def test_an_invoice_over_another_amount_is_thrown_away(
    db: Database, clock: ManualClock, shop: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [shop])
    shop.wrong_amount_msat = 999
    with pytest.raises(InvalidRequest, match="another invoice"):
        await lightning.make_invoice("a", Wish(1000))
    shop.wrong_amount_msat = 0
    assert (await lightning.make_invoice("a", Wish(1000))).amount_msat == 1000


async def test_a_rail_that_tells_of_less_than_was_asked_for_settles_nothing(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [shop])
    invoice = await lightning.make_invoice("a", Wish(1000))
    network.bills[invoice.payment_hash or ""].received_msat = 999
    with pytest.raises(RailUnavailable, match="less was paid"):
        await lightning.look("a")
    assert await accounts(db) == {}


async def test_a_payment_is_made_once(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail, buyer: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [buyer])
    bill = network.bill(shop, Wish(21_000), 21_000).bolt11
    paid, same = await asyncio.gather(lightning.pay("p", bill, fee_max_msat=7), lightning.pay("p", bill))
    assert paid == same
    assert (paid.state, paid.fee_msat) == (SendState.PAID, 7)
    assert paid.preimage is not None
    assert paid.preimage not in repr(paid)
    with pytest.raises(PaidBefore):
        await lightning.pay("another name", bill)
    assert buyer.paid.total() == 1
    assert await accounts(db) == {"rail/memory": -21_007, "fees/lightning": 7, "outside": 21_000}


async def test_a_payment_that_failed_for_certain_may_be_tried_by_another_name(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail, buyer: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [buyer])
    bill = network.bill(shop, Wish(1000), 1000).bolt11
    buyer.refuses = True
    assert (await lightning.pay("p", bill)).state is SendState.FAILED
    buyer.refuses = False
    assert (await lightning.pay("p", bill)).state is SendState.FAILED  # the same name is the same payment
    assert (await lightning.pay("q", bill, fee_max_msat=6)).error == "routing costs more than the limit"
    assert (await lightning.pay("r", bill)).state is SendState.PAID


async def test_an_unknown_outcome_stays_unknown_and_is_looked_up(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail, buyer: MemoryRail
) -> None:
    lightning = Lightning(db, clock, [buyer])
    lost, late, gone = (network.bill(shop, Wish(1000), 1000).bolt11 for _ in range(3))
    buyer.loses_answers = True
    assert (await lightning.pay("lost", lost)).state is SendState.ASKED
    with pytest.raises(PaidBefore):
        await lightning.pay("lost again", lost)
    buyer.loses_answers, buyer.holds = False, True
    assert (await lightning.pay("late", late)).error == "the payment is in flight"
    buyer.forgets = True
    assert await Lightning(db, clock, [buyer]).recover() == ["late", "lost"]
    buyer.forgets = False
    assert await Lightning(db, clock, [buyer]).recover() == ["late"]
    assert (await lightning.settle("lost")).state is SendState.PAID
    buyer.finish()
    assert (await lightning.settle("late")).state is SendState.PAID
    assert (await lightning.pay("gone", gone)).state is SendState.ASKED
    buyer.finish(paid=False)
    assert (await lightning.settle("gone")).state is SendState.FAILED
    assert buyer.paid.total() == 3
    assert (buyer.asked["pay"], buyer.msat) == (3, 100_000 - 2 * 1007)


async def test_an_expired_invoice_is_not_paid(
    db: Database, clock: ManualClock, network: MemoryLightning, shop: MemoryRail, buyer: MemoryRail
) -> None:
    bill = network.bill(shop, Wish(1000, expiry_seconds=60), 1000).bolt11
    await clock.advance(60)
    with pytest.raises(InvalidRequest, match="expired"):
        await Lightning(db, clock, [buyer]).pay("p", bill)


async def test_listeners_hear_hints_until_they_end(db: Database, clock: ManualClock) -> None:
    lightning = Lightning(db, clock, [])
    heard: list[str] = []
    end = lightning.on_paid(heard.append)
    lightning.hear("a")
    end()
    lightning.hear("b")
    assert heard == ["a"]


class Dead(Exception):  # noqa: N818
    """The process is gone."""


class Mortal:
    """A database and a rail that die at the n-th commit or answer; None: never. `points` are those passed."""

    def __init__(self, db: Database, rail: MemoryRail, dies_at: int | None) -> None:
        self.points: list[str] = []
        self._dies_at = dies_at
        transaction, self._names = db.transaction, ("make_invoice", "look", "pay")

        @asynccontextmanager
        async def mortal() -> AsyncIterator[Transaction]:
            async with transaction() as tx:
                yield tx
            self.reach("commit")

        db.transaction = mortal  # type: ignore[method-assign]
        for name in self._names:
            self._haunt(rail, name)

    def _haunt(self, rail: MemoryRail, name: str) -> None:
        method = getattr(rail, name)

        async def mortal(*arguments: Any, **named: Any) -> Any:
            answer = await method(*arguments, **named)
            self.reach(name)
            return answer

        setattr(rail, name, mortal)

    def lay(self, rail: MemoryRail) -> None:
        for name in self._names:
            delattr(rail, name)

    def reach(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) - 1 == self._dies_at:
            raise Dead


async def sell_and_buy(lightning: Lightning, network: MemoryLightning, bill: str) -> None:
    """One invoice that is paid by somebody, one payment to somebody."""
    invoice = await lightning.make_invoice("sale", Wish(5000))
    assert invoice.bolt11 is not None
    if invoice.state is InvoiceState.OPEN:
        network.pay(invoice.bolt11)
    assert (await lightning.look("sale")).state is InvoiceState.SETTLED
    assert (await lightning.pay("purchase", bill)).state is SendState.PAID


async def dies(folder: Path, clock: ManualClock, at: int | None) -> list[str]:
    network = MemoryLightning(clock=clock, fee_msat=7)
    rail, other = network.rail(sat=100), network.rail()
    bill = network.bill(other, Wish(21_000), 21_000).bolt11
    path = folder / f"{at}.db"
    async with await Database.open(path, load_migrations("wallet")) as db:
        mortal = Mortal(db, rail, at)
        try:
            await sell_and_buy(Lightning(db, clock, [rail]), network, bill)
        except Dead:
            assert at is not None
        mortal.lay(rail)
    async with await Database.open(path, load_migrations("wallet")) as db:
        lightning = Lightning(db, clock, [rail])
        assert await lightning.recover() == []
        payment = await lightning.plan_payment("purchase", bill)
        if payment.state is SendState.FAILED:  # it certainly was not asked for: another name may
            assert (await lightning.pay("second try", bill)).state is SendState.PAID
        else:
            await sell_and_buy(lightning, network, bill)
        assert rail.paid.total() == 1
        booked = await accounts(db)
        assert booked.get("rail/memory", 0) == rail.msat - 100_000
        assert sum(booked.values()) == 0
    return mortal.points


async def test_it_dies_at_every_write_and_every_answer(tmp_path: Path, clock: ManualClock) -> None:
    points = await dies(tmp_path, clock, None)
    assert points.count("commit") == 6
    for at in range(len(points)):
        assert len(await dies(tmp_path, clock, at)) == at + 1
