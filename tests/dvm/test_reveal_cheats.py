"""Sealed results that one party does not keep its word about: nobody pays for nothing, or there is a proof of it."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from dvm import JobState, OrderFailed, OrderState, queries
from dvm.jobs.sealing import Sealing
from dvm.nip90 import JobRequest
from dvm.queries import OrderRow
from dvm.reveals import SealedResult, fraud_proof
from identity import SecretKey
from identity.seal import Sealed, check_fraud, parse_fraud_proof
from tests.dvm.sale import PRICE, Sale, holds_back, text_of
from wallet import Lock
from wallet.crypto import proof_y
from wallet.escrow import Role, Stage
from wallet.terms import Terms

# --- who does not do its part --------------------------------------------------------------------------------------


async def test_a_provider_that_does_not_claim_gets_nothing(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    with pytest.raises(OrderFailed, match="came back"):
        await text_of(order)
    assert await sale.sats() == (0, 0)
    monkeypatch.undo()
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID)
    await sale.job(order, JobState.EXPIRED)


async def test_near_the_locktime_the_mint_is_not_told_the_key(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    would_claim = holds_back(sale, monkeypatch)
    order = await sale.ask()
    row = await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    await would_claim.wait()
    monkeypatch.undo()
    await sale.pass_time(row.terms.claim_until - sale.market.clock.now())
    swaps = sale.market.mint.asked["/v1/swap"]
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID)
    assert sale.market.mint.asked["/v1/swap"] == swaps
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=30)
    assert await sale.sats() == (0, 0)


async def test_a_key_is_not_sold_for_a_part_of_its_price(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    would_claim = holds_back(sale, monkeypatch)
    order = await sale.ask()
    row = await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    escrows = sale.provider._desk.escrows
    coins = (await escrows.coins(row)).proofs
    assert len(coins) > 1
    sale.market.mint.spent[proof_y(coins[0].secret)] = coins[0]
    await would_claim.wait()
    monkeypatch.undo()
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID, every=30)
    assert not any("preimage" in (coin.witness or "") for coin in sale.market.mint.spent.values())


OTHER = SecretKey(bytes([5]) * 32).compressed_public_key


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: replace(lock, hash="00" * 32),
        lambda lock: replace(lock, hash=None),
        lambda lock: replace(lock, locktime=lock.locktime - 1),
        lambda lock: replace(lock, pubkeys=(OTHER,)),
        lambda lock: replace(lock, refund=(*lock.refund, OTHER)),
        lambda lock: replace(lock, pubkeys=(OTHER,), n_sigs=2),
    ],
)
async def test_coins_under_another_lock_buy_no_key(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, change: Callable[[Lock], Lock]
) -> None:
    plan = sale.customer._purchases._plan

    async def other(row: Any, offer: Any, lock: Lock, price_sat: int) -> Any:
        return await plan(row, offer, change(lock), price_sat)

    monkeypatch.setattr(sale.customer._purchases, "_plan", other)
    order = await sale.ask()
    await sale.job(order, JobState.FAILED)
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert await sale.sats() == (0, 0)


@pytest.mark.parametrize("paid_sat", [1, PRICE - 1])
async def test_too_few_coins_buy_no_key(sale: Sale, monkeypatch: pytest.MonkeyPatch, paid_sat: int) -> None:
    plan = sale.customer._purchases._plan

    async def other(row: Any, offer: Any, lock: Lock, _price_sat: int) -> Any:
        return await plan(row, offer, lock, paid_sat)

    monkeypatch.setattr(sale.customer._purchases, "_plan", other)
    order = await sale.ask()
    job = await sale.job(order, JobState.FAILED)
    assert f"only {paid_sat} sat" in job.reason
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert (await sale.sats())[1] == 0


# --- false seals ---------------------------------------------------------------------------------------------------


def cheats(monkeypatch: pytest.MonkeyPatch, change: Callable[[SealedResult], SealedResult]) -> None:
    honest = Sealing.seal
    monkeypatch.setattr(Sealing, "seal", lambda *args: change(honest(*args)))


def false_payload(result: SealedResult) -> SealedResult:
    promise = replace(result.sealed.promise, payload_hash="00" * 32)
    return replace(result, sealed=Sealed(result.sealed.ciphertext, promise))


def false_ciphertext(result: SealedResult) -> SealedResult:
    rubbish = bytes(len(result.sealed.ciphertext))
    promise = replace(result.sealed.promise, ciphertext_hash=sha256(rubbish).hexdigest())
    return replace(result, sealed=Sealed(rubbish, promise))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("cheat", [false_payload, false_ciphertext])
async def test_a_false_seal_is_bought_and_proved(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, cheat: Callable[[SealedResult], SealedResult], private: bool
) -> None:
    cheats(monkeypatch, cheat)
    order = await sale.ask(private=private)
    with pytest.raises(OrderFailed, match=r"false seal.*escrow proof"):
        await text_of(order)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED)
    row = await queries.get_order(sale.customer._post.db, order.id)
    escrow = await sale.view(Role.CUSTOMER, order)
    assert row is not None
    assert escrow is not None
    assert row.state is OrderState.LOST
    proof = fraud_proof(row, escrow)
    assert proof is not None
    shown = parse_fraud_proof(proof.to_json())
    assert shown.event.pubkey == sale.provider.public_key
    assert check_fraud(shown.event, shown.ciphertext, shown.k).is_fraud


async def test_a_ciphertext_that_is_not_the_promised_one_is_not_paid_for(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealedResult, "content", base64.b64encode(bytes(88)).decode())
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)
    assert await sale.view(Role.CUSTOMER, order) is None
    assert await sale.sats() == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda terms: {"locktime": terms.locktime + 2 * 3600},
        lambda terms: {"locktime": terms.deliver_by + 300},
        lambda terms: {"mint": "https://other.test"},
        lambda terms: {"provider_key": terms.customer_key},
        lambda terms: {"provider_key": "02" + terms.customer},
    ],
)
async def test_terms_that_are_not_sound_are_not_agreed_to(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, change: Callable[[Terms], dict[str, Any]]
) -> None:
    cheats(monkeypatch, lambda result: replace(result, terms=replace(result.terms, **change(result.terms))))
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)
    assert await sale.view(Role.CUSTOMER, order) is None
    assert await sale.sats() == (0, 0)


async def test_nothing_is_locked_for_a_seal_that_was_not_asked_for(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sale.customer._purchases.request

    async def prepaid_only(row: OrderRow) -> JobRequest:
        return replace(await wanted(row), settle=("prepaid",))

    monkeypatch.setattr(sale.customer._purchases, "request", prepaid_only)
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)


async def test_a_preimage_of_31_bytes_is_no_key_but_a_proof(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mints take one, and the coins are gone: the customer has a proof at least. (Ours and our mint do not.)"""
    short = bytes(range(31))

    def short_key(result: SealedResult) -> SealedResult:
        hash_ = sha256(short).hexdigest()
        promise = replace(result.sealed.promise, key_hash=hash_)
        return SealedResult(
            replace(result.terms, hash=hash_), Sealed(result.sealed.ciphertext, promise), short.hex()
        )

    cheats(monkeypatch, short_key)
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    held = await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    for proof in (await sale.customer.desk.escrows.coins(held)).proofs:
        witness = json.dumps({"preimage": short.hex(), "signatures": []})
        sale.market.mint.spent[proof_y(proof.secret)] = proof.with_witness(witness)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED, every=1)
    with pytest.raises(OrderFailed, match="other than 32 bytes"):
        await text_of(order)


async def test_an_own_preimage_of_31_bytes_is_not_shown_to_the_mint(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_key(result: SealedResult) -> SealedResult:
        return replace(result, preimage=result.preimage[:62])

    cheats(monkeypatch, short_key)
    order = await sale.ask()
    await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    swaps = sale.market.mint.asked["/v1/swap"]
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert sale.market.mint.asked["/v1/swap"] == swaps + 1  # the refund
    assert (await sale.sats())[1] == 0
