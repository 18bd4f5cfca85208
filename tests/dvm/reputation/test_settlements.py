"""What the evidence in a review amounts to: by itself, and by a mint that is trusted; and whom nobody asks."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dvm.reputation.settlements import NOT_OURS, MintWitness, look
from identity import SecretKey
from identity.receipts import Preimage, Review, SpentLock, parse_review
from tests.dvm.reputation.booth import SAT, Booth, Sold, invoice, shown, without_witness
from tradepost.post import open_wallet
from tradepost.settings import Settings
from tradepost.testing import MemoryMint
from wallet import HttpTransport, Lock, lock_secret
from wallet.crypto import proof_y
from wallet.witness import make_witness

Fund = Callable[[Path], Awaitable[None]]
NOW = int(time.time())


@pytest.fixture
def mint() -> MemoryMint:
    return MemoryMint()


@pytest.fixture
def sold() -> Sold:
    return Sold(Booth(NOW))


def review_of(sold: Sold, evidence: SpentLock | Preimage | None) -> Review:
    return parse_review(sold.review(evidence))


async def doubt(mint: MemoryMint, sold: Sold, lock: SpentLock) -> str:
    """What the mint says against it, having been asked."""
    async with MintWitness([mint.url], mint.transport) as witness:
        found = await witness.look(review_of(sold, lock))
    assert found.asked or not found.doubt
    return found.doubt


# --- nobody is asked -----------------------------------------------------------------------------------------------


def test_no_evidence_is_no_payment(sold: Sold) -> None:
    assert look(review_of(sold, None)).doubt == "the review shows no payment"


def test_a_preimage_is_of_the_invoice_or_not(sold: Sold) -> None:
    found = look(review_of(sold, sold.paid_by_preimage()))
    assert (found.doubt, found.amount_msat, found.asked) == ("", 1000 * SAT, ())
    assert found.marks == {found.hash}
    wrong = Preimage(sold.bolt11, "00" * 32)
    assert look(review_of(sold, wrong)).doubt == "the preimage is not that of the invoice"
    damaged = Preimage(sold.bolt11[:-1] + "q", sold.preimage.hex())
    assert "damaged" in look(review_of(sold, damaged)).doubt
    other = Preimage(invoice(sold.preimage, 7000, NOW), sold.preimage.hex())
    assert look(review_of(sold, other)).amount_msat == 7000  # what was paid, whatever the review claims


def test_coins_by_themselves(sold: Sold, mint: MemoryMint) -> None:
    lock = sold.paid_at(mint)
    found = look(review_of(sold, lock))
    assert (found.doubt, found.amount_msat, found.asked) == ("", 1000 * SAT, ())
    assert found.lock == sold.lock.compressed_public_key
    assert found.marks == {proof_y(coin.secret) for coin in lock.coins}
    assert "that key signed for them" in found.offline
    assert "that key signed for them" not in look(review_of(sold, without_witness(lock))).offline


def test_coins_that_are_no_evidence(sold: Sold, mint: MemoryMint) -> None:
    coin, other = sold.paid_at(mint).coins[0], Sold(sold.booth).paid_at(mint).coins[0]
    plain = shown(mint.coin(16, secrets.token_hex(32)))
    by_another = replace(coin, witness=make_witness(coin.secret, [SecretKey.generate()]))
    for coins, reason in (
        ((coin, coin), "a coin is in it twice"),
        ((coin, other), "several keys"),
        ((plain,), "under no lock"),
        ((replace(coin, secret='["P2PK",{}]'),), "a lock is a kind"),
        ((by_another,), "not spent with a signature of the key"),
    ):
        assert reason in look(review_of(sold, SpentLock(mint.url, coins))).doubt


# --- a mint is asked -----------------------------------------------------------------------------------------------


async def test_a_mint_that_is_trusted_is_asked(sold: Sold, mint: MemoryMint) -> None:
    review = review_of(sold, sold.paid_at(mint))
    async with MintWitness([mint.url + "/"], mint.transport) as witness:
        found = await witness.look(review)
        again = await witness.look(review)
    assert (found.doubt, len(found.asked), witness.unasked) == ("", 1, {})
    assert again == found
    assert mint.asked["/v1/keysets"] == 1  # its keys are asked for once


async def test_a_stranger_s_mint_is_never_asked(sold: Sold, mint: MemoryMint) -> None:
    lock = replace(sold.paid_at(mint), mint="https://evil.test")
    async with MintWitness([mint.url], mint.transport) as witness:
        found = await witness.look(review_of(sold, lock))
    assert (found.doubt, found.asked, witness.unasked) == ("", (), {"https://evil.test": NOT_OURS})
    assert mint.asked.total() == 0


async def test_a_mint_that_is_away_tells_nothing(sold: Sold, mint: MemoryMint) -> None:
    lock = sold.paid_at(mint)
    for trouble in ("down", "rubbish"):
        setattr(mint, trouble, True)
        async with MintWitness([mint.url], mint.transport) as witness:
            found = await witness.look(review_of(sold, lock))
        assert (found.doubt, found.asked) == ("", ())
        assert mint.url in witness.unasked
        setattr(mint, trouble, False)


async def test_coins_that_the_mint_disowns(sold: Sold, mint: MemoryMint) -> None:
    lock, elsewhere = sold.paid_at(mint), sold.paid_at(MemoryMint("https://other.test"))
    coin, foreign = lock.coins[0], elsewhere.coins[0]
    for changed, reason in (
        (replace(coin, amount=2 * coin.amount), "did not make"),
        (replace(coin, amount=3), "has no coins of 3"),
        (replace(coin, keyset_id="00" * 8), "not known"),
        (foreign, "not known"),
        (replace(foreign, keyset_id=coin.keyset_id), "did not make"),
    ):
        assert reason in await doubt(mint, sold, replace(lock, coins=(changed,)))


async def test_keys_that_are_not_those_of_the_keyset(sold: Sold, mint: MemoryMint) -> None:
    lock = sold.paid_at(mint)
    ((id_, keyset),) = mint.keysets.items()
    mint.keysets[id_] = replace(keyset, keys={1: keyset.keys[1], 2: keyset.keys[2]})
    assert "keys that hash to" in await doubt(mint, sold, lock)


async def test_coins_that_nobody_took(sold: Sold, mint: MemoryMint) -> None:
    lock = without_witness(sold.paid_at(mint))
    mint.spent.clear()
    assert "not spent" in await doubt(mint, sold, lock)


async def test_coins_that_the_customer_took_back(sold: Sold, mint: MemoryMint) -> None:
    """After the locktime, with the refund key: the mint shows whose signature it was, whatever the review says."""
    back = SecretKey.generate()
    lock = Lock(sold.lock.compressed_public_key, NOW, (back.compressed_public_key,))
    secret = lock_secret(lock, secrets.token_hex(16))
    proof = mint.coin(16, secret)
    evidence = SpentLock(mint.url, (shown(proof),))
    for witness in (make_witness(secret, [back]), None):
        mint.spent[proof_y(secret)] = replace(proof, witness=witness)
        assert "nothing shows that it was by the key" in await doubt(mint, sold, evidence)
    signed = proof.with_witness(make_witness(secret, [sold.lock]))
    mint.spent[proof_y(secret)] = proof.with_witness(make_witness(secret, [back]))
    claimed = SpentLock(mint.url, (shown(signed),))  # the agent has signed, and the customer was quicker
    assert "nothing shows that it was by the key" in await doubt(mint, sold, claimed)
    mint.spent[proof_y(secret)] = signed
    assert await doubt(mint, sold, evidence) == ""


@pytest.mark.process
async def test_a_real_mint_shows_what_became_of_its_coins(
    sold: Sold, mint_url: str, fund: Fund, tmp_path: Path
) -> None:
    await fund(tmp_path)
    async with (
        open_wallet(Settings(mints=(mint_url,), data=tmp_path)) as purse,
        MintWitness([mint_url], HttpTransport) as witness,
    ):
        token = await purse.send(mint_url, SAT, lock=Lock(sold.lock.compressed_public_key))
        review = review_of(sold, SpentLock(mint_url, tuple(shown(proof) for proof in token.proofs)))
        assert "not spent" in (await witness.look(review)).doubt
        await purse.receive(token, keys=[sold.lock])
        after = await witness.look(review)
    assert after.doubt == ""
    assert after.asked
    assert after.amount_msat >= 1000 * SAT  # the fee of taking them came on top
