"""Coins that come for a job in escrow from a customer made by hand: what is wrong with them, and what becomes of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter
from dvm.escrow.messages import Signs, write_message
from dvm.jobs.lifecycle import PaymentState
from dvm.queries import payments_of
from identity import Event, LocalSigner, SecretKey
from identity.nip59 import wrap
from tests.dvm.conftest import Stranger, eventually
from tests.dvm.test_adversaries import hold
from tradepost.testing import ManualClock, Market, MemoryMint
from wallet import Lock, Proof, Token, WrongLock, queries_escrows
from wallet.crypto import proof_y
from wallet.errors import MintError
from wallet.escrow import Stage
from wallet.escrows import Escrows
from wallet.keyring import REFUND_SECONDS
from wallet.locks import lock_secret
from wallet.queries_escrows import EscrowRow
from wallet.witness import add_signature, sign_secret

PRICE_SAT = 21
COINS_SAT = (2, 4, 16)  # the price and the mint's fee
OTHER = SecretKey(bytes([5]) * 32)


def nonce(number: int) -> str:
    return f"{number:064x}"


@dataclass(frozen=True)
class Hire:
    """An agent with an arbiter, and a customer that writes everything by hand."""

    market: Market
    provider: Provider
    arbiter: Arbiter
    customer: Stranger
    key: SecretKey  # the customer's one-job key
    finish: asyncio.Event  # the work waits for it

    async def offered(self, text: str = "hello") -> EscrowRow:
        """Ask, and wait for the offer: the provider's view of the escrow."""
        request = self.customer.request(
            ("p", self.provider.public_key), ("settle", "escrow"), ("lock", self.key.compressed_public_key),
            ("arbiter", self.arbiter.public_key), ("mint", self.market.mint.url), text=text,
        )  # fmt: skip
        await self.customer.answer(request, "payment-required")
        return await self.view(request.id)

    async def view(self, request_id: str) -> EscrowRow:
        row = await self.provider._desk.get(request_id)
        assert row is not None
        return row

    def coins(
        self, lock: Lock, change: Callable[[str], str] = str, sats: tuple[int, ...] = COINS_SAT
    ) -> tuple[Proof, ...]:
        """Good coins under a lock, whose secrets are changed before the mint signs them unseen."""
        return tuple(
            self.market.mint.coin(sat, change(lock_secret(lock, nonce(number))))
            for number, sat in enumerate(sats)
        )

    async def pay(self, row: EscrowRow, *proofs: Proof, mint: str = "") -> Event:
        return await self.customer.pay(
            self.provider.public_key, row.request_id, Token(mint or self.market.mint.url, proofs)
        )

    async def stage(self, row: EscrowRow, *stages: Stage, every: int = 0) -> EscrowRow:
        """Wait until the provider's view is in one of these; `every`: seconds that pass at a time meanwhile."""
        async with asyncio.timeout(10):
            while (now := await self.view(row.request_id)).stage not in stages:
                await asyncio.sleep(0.005)
                if every:
                    assert isinstance(self.market.clock, ManualClock)
                    await self.market.clock.advance(every)
        return now

    async def seen(self, letter: Event) -> None:
        """Wait until the provider is done with a letter."""

        async def is_done() -> bool:
            row = await self.provider._post.db.one("SELECT state FROM inbox WHERE event_id = ?", letter.id)
            return row is not None and row["state"] == "done"

        await eventually(is_done, "the letter to be read")

    async def payments(self, row: EscrowRow) -> list[PaymentState]:
        party = self.provider
        return [
            payment.state for payment in await payments_of(party._post.db, party.public_key, row.request_id)
        ]

    async def all_refused(self, row: EscrowRow, count: int) -> None:
        async def are_refused() -> bool:
            return await self.payments(row) == [PaymentState.REFUSED] * count

        await eventually(are_refused, "the payments to be refused")

    async def refused(self, row: EscrowRow, reason: str) -> None:
        """The customer is told why, the coins were not touched, and nothing is owed."""
        told = await self.customer.answer(row.request, "error")
        assert reason in told.tags_named("status")[0][2]
        assert self.market.mint.asked["/v1/swap"] == 0
        assert (await self.view(row.request_id)).stage in (Stage.AGREED, Stage.VOID)
        assert PaymentState.HELD not in await self.payments(row)
        assert self.customer.answers(row.request, 6001) == []


@pytest.fixture
async def hire(tmp_path: Path) -> AsyncIterator[Hire]:
    agent, finish = Agent("Upper"), asyncio.Event()

    @agent.serves(kind=5001, price_sat=PRICE_SAT)
    async def shout(job: Job) -> str:
        await finish.wait()
        return job.text.upper()

    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        arbiter = await market.arbiter()
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        provider = await market.open(agent, limits=limits)
        yield Hire(market, provider, arbiter, Stranger(market), SecretKey.generate(), finish)


def body(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """Change the object of a secret, whose tags are there by name."""

    def changed(secret: str) -> str:
        kind, inside = json.loads(secret)
        inside["tags"] = {tag[0]: tag for tag in inside["tags"]}
        change(inside)
        if isinstance(inside.get("tags"), dict):
            inside["tags"] = list(inside["tags"].values())
        return json.dumps([kind, inside], separators=(",", ":"))

    return changed


def tag(name: str, *values: object) -> Callable[[str], str]:
    """Give a tag other values; no values: leave it out."""
    return body(
        lambda inside: inside["tags"].update({name: [name, *values]}) if values else inside["tags"].pop(name)
    )


MALFORMED: dict[str, Callable[[str], str]] = {
    "integer tag value": tag("n_sigs", 2),
    "null tag value": tag("n_sigs", None),
    "NaN": tag("n_sigs", float("nan")),
    "no nonce": body(lambda inside: inside.pop("nonce")),
    "a member more": body(lambda inside: inside.update(memo="x")),
    "a third element": lambda secret: secret[:-1] + ',"x"]',
    "a member twice": lambda secret: secret.replace('{"nonce"', '{"nonce":"00","nonce"'),
    "n_sigs 0": tag("n_sigs", "0"),
    "n_sigs too high": tag("n_sigs", "4"),
    "two locktimes": body(lambda inside: inside["tags"].update(again=["locktime", "1"])),
    "an earlier locktime": tag("locktime", "1700000600"),
    "a locktime without refund": tag("refund"),
    "a tag more": tag("memo", "x"),
    "a tag twice": body(lambda inside: inside["tags"].update(again=["n_sigs", "2"])),
    "no tags": body(lambda inside: inside.pop("tags")),
}


async def test_coins_under_a_malformed_lock_are_not_taken(hire: Hire) -> None:
    for what, change in MALFORMED.items():
        row = await hire.offered(what)
        await hire.pay(row, *hire.coins(row.terms.lock, change))
        await hire.refused(row, "lock")


async def test_coins_under_keys_in_another_order_are_taken(hire: Hire) -> None:
    row = await hire.offered()
    lock = row.terms.lock
    await hire.pay(row, *hire.coins(replace(lock, pubkeys=lock.pubkeys[::-1])))
    await hire.stage(row, Stage.HELD)


async def test_coins_for_a_key_of_another_arbiter_are_not_taken(hire: Hire) -> None:
    row = await hire.offered()
    lock = row.terms.lock
    await hire.pay(row, *hire.coins(replace(lock, pubkeys=(lock.pubkeys[0], OTHER.compressed_public_key))))
    await hire.refused(row, "pubkeys")


async def test_coins_of_an_unlisted_mint_are_not_taken(hire: Hire) -> None:
    row = await hire.offered()
    other = MemoryMint("https://other.test", clock=hire.market.clock)
    coins = [other.coin(sat, lock_secret(row.terms.lock, nonce(sat))) for sat in COINS_SAT]
    await hire.pay(row, *coins, mint=other.url)
    await hire.refused(row, "mint")
    assert not other.asked


async def test_coins_of_a_keyset_that_ends_soon_after_the_locktime_are_not_taken(hire: Hire) -> None:
    row = await hire.offered()
    hire.market.mint.rotate_keyset(final_expiry=row.terms.locktime + REFUND_SECONDS)
    await hire.pay(row, *hire.coins(row.terms.lock))
    await hire.refused(row, "expire")


@pytest.mark.parametrize("wrong", [True, False])
async def test_coins_without_a_good_dleq_are_not_taken(hire: Hire, wrong: bool) -> None:
    row = await hire.offered()
    hire.market.mint.wrong_dleq = wrong
    first, *others = hire.coins(row.terms.lock)
    hire.market.mint.wrong_dleq = False
    await hire.pay(row, first if wrong else replace(first, dleq=None), *others)
    await hire.refused(row, "DLEQ")


async def test_coins_that_lack_the_mints_fee_are_not_taken(hire: Hire) -> None:
    row = await hire.offered()
    await hire.pay(row, *hire.coins(row.terms.lock, sats=(1, 4, 16)))
    await hire.refused(row, "only 20 sat")


async def test_a_token_in_two_messages_is_two_payments_of_too_little(hire: Hire) -> None:
    row = await hire.offered()
    first, *others = hire.coins(row.terms.lock)
    await hire.pay(row, first)
    await hire.refused(row, "only 1 sat")
    await hire.seen(await hire.pay(row, *others))
    await hire.all_refused(row, 2)
    await hire.refused(row, "only 1 sat")
    assert isinstance(hire.market.clock, ManualClock)
    await hire.market.clock.advance(row.terms.locktime + 1 - hire.market.clock.now())
    purse = (await hire.market.post("purse")).wallet
    token = Token(hire.market.mint.url, (first, *others))
    assert (await purse.receive(token, [hire.key])).received_sat == PRICE_SAT


async def test_coins_that_come_after_the_delivery_was_due_are_not_taken(hire: Hire) -> None:
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    row = await hire.stage(row, Stage.VOID, every=60)
    await hire.pay(row, *coins)
    await hire.all_refused(row, 1)
    assert hire.market.mint.asked["/v1/swap"] == 0


async def test_one_funding_does_not_pay_two_jobs(hire: Hire) -> None:
    first, second = await hire.offered("one"), await hire.offered("two")
    coins = hire.coins(first.terms.lock)
    await hire.pay(first, *coins)
    await hire.stage(first, Stage.HELD)
    await hire.seen(await hire.pay(second, *coins))
    assert await hire.payments(second) == []
    assert (await hire.view(first.request_id)).stage is Stage.HELD
    await hire.stage(second, Stage.VOID, every=60)
    assert hire.customer.answers(second.request, 6001) == []


async def test_whatever_its_lock_the_database_has_a_coin_for_one_job(hire: Hire) -> None:
    first, second = await hire.offered("one"), await hire.offered("two")
    for row, ys, is_free in (
        (first, ["y1", "y2"], True),
        (second, ["y3", "y2"], False),
        (first, ["y2"], True),
    ):
        async with hire.provider._post.db.transaction() as tx:
            assert await queries_escrows.reserve_coins(tx, row, ys) is is_free


async def test_a_funding_that_is_sent_again_is_the_same_funding(hire: Hire) -> None:
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    await hire.pay(row, *coins)
    await hire.stage(row, Stage.HELD)
    await hire.pay(row, *coins[::-1])
    hire.finish.set()
    await hire.customer.answer(row.request, "result")
    await hire.seen(await hire.pay(row, *coins))
    await hire.stage(row, Stage.DELIVERED)
    assert await hire.payments(row) == [PaymentState.HELD]
    assert len(hire.customer.answers(row.request, 6001)) == 1
    assert hire.market.mint.asked["/v1/swap"] == 0


async def test_coins_that_are_spent_while_the_work_goes_on_get_no_result(hire: Hire) -> None:
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    await hire.pay(row, *coins)
    await hire.stage(row, Stage.HELD)
    hire.market.mint.spent |= {proof_y(proof.secret): proof for proof in coins}
    hire.finish.set()
    told = await hire.customer.answer(row.request, "error")
    assert "spent already" in told.tags_named("status")[0][2]
    assert hire.customer.answers(row.request, 6001) == []


async def release(hire: Hire, row: EscrowRow, coins: tuple[Proof, ...]) -> Event:
    """The customer's signatures, in a gift wrap."""
    secrets = [proof.secret for proof in coins]
    now = hire.market.clock.now()
    to = hire.provider.public_key
    letter = write_message(Signs(Escrows.sign(secrets, hire.key)), row.terms, to, now)
    envelope = await wrap(LocalSigner(hire.customer.key), to, letter, now=now)
    hire.market.relay.insert(envelope)
    return envelope


async def test_a_release_that_is_sent_again_changes_nothing(hire: Hire) -> None:
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    await hire.pay(row, *coins)
    await hire.stage(row, Stage.HELD)
    hire.finish.set()
    await hire.customer.answer(row.request, "result")
    await release(hire, row, coins)
    paid = await hire.stage(row, Stage.PAID)
    assert paid.amount_sat == PRICE_SAT
    wallet = hire.provider._post.wallet
    before, swaps = await wallet.audit(), hire.market.mint.asked["/v1/swap"]
    again = await release(hire, row, coins)
    await hire.seen(again)
    assert await hire.view(row.request_id) == paid
    assert (await wallet.audit(), hire.market.mint.asked["/v1/swap"]) == (before, swaps)
    assert await hire.payments(row) == [PaymentState.REDEEMED]


async def test_coins_that_are_spent_between_the_release_and_the_swap_are_lost_and_said_to_be(
    hire: Hire,
) -> None:
    """With the arbiter's help a customer can be quicker."""
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    await hire.pay(row, *coins)
    await hire.stage(row, Stage.HELD)
    hire.finish.set()
    await hire.customer.answer(row.request, "result")
    swapped, swapping = hold(hire.market.mint, "/v1/swap", nonce(0))
    await release(hire, row, coins)
    await asyncio.wait_for(swapping.wait(), 10)
    hire.market.mint.spent |= {proof_y(proof.secret): proof for proof in coins}
    swapped.set()
    await hire.stage(row, Stage.LOST, every=5)
    report = await hire.provider._post.wallet.audit(ask_mints=True)
    assert report.ok, report.problems
    assert await hire.provider._post.wallet.balance() == {}
    assert await hire.payments(row) == [PaymentState.REFUSED]


async def test_a_provider_that_claims_early_gets_nothing(hire: Hire) -> None:
    """Its own wallet refuses, and the mint does: with its own signature only, doubled, or beside a stranger's."""
    row = await hire.offered()
    coins = hire.coins(row.terms.lock)
    await hire.pay(row, *coins)
    await hire.stage(row, Stage.HELD)
    ours = hire.provider._desk.key(row)
    outputs = [{"B_": OTHER.compressed_public_key, "id": coins[0].id, "amount": 1}]
    for keys in ((ours,), (ours, ours), (ours, OTHER)):
        signed = coins
        for key in keys:
            signed = tuple(add_signature(proof, sign_secret(proof.secret, key)) for proof in signed)
        inputs = [proof.to_mint() for proof in signed]
        with pytest.raises(MintError, match="spending condition"):
            await hire.market.mint.request("POST", "/v1/swap", {"inputs": inputs, "outputs": outputs})
        with pytest.raises(WrongLock):
            await hire.provider._post.wallet.receive(Token(hire.market.mint.url, signed), [ours])
