"""Coins that somebody else brings, good ones and all the bad ones."""

import hashlib
from dataclasses import replace

import pytest

from identity import SecretKey
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.crypto import proof_y
from wallet.errors import (
    AlreadySpent,
    InvalidProof,
    InvalidToken,
    LimitExceeded,
    MintUnavailable,
    UnknownMint,
    WalletError,
    WrongLock,
)
from wallet.keyring import REFUND_SECONDS
from wallet.locks import lock_secret
from wallet.operations import State
from wallet.proofs import Lock, Proof, Token
from wallet.wallet import Wallet
from wallet.witness import add_preimage, add_signature, preimage_of, sign_secret


async def test_examine_tells_the_worth_of_foreign_coins(
    mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock
) -> None:
    key = SecretKey.generate()
    lock = Lock(key.compressed_public_key, clock.now() + 600, (SecretKey.generate().compressed_public_key,))
    token = await alice.send(mint.url, 100, lock=lock)
    worth = await bob.examine(token, mint=mint.url, lock=lock, now=clock.now())
    assert (worth.amount_sat, worth.fee_sat, worth.net_sat, len(worth.ys)) == (100, 1, 99, len(token.proofs))
    assert await bob.examine(token.proofs, mint=mint.url, lock=lock, now=clock.now()) == worth
    plain = await alice.send(mint.url, 100)
    assert (await bob.examine(plain, mint=mint.url, lock=None, now=clock.now())).net_sat == 99


async def test_examine_refuses(mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock) -> None:
    key = SecretKey.generate()
    lock = Lock(key.compressed_public_key, clock.now() + 600, (key.compressed_public_key,))
    locked, plain = await alice.send(mint.url, 100, lock=lock), await alice.send(mint.url, 100)

    async def refused(proofs, error: type[WalletError], lock: Lock | None = lock) -> None:
        with pytest.raises(error):
            await bob.examine(Token(mint.url, tuple(proofs)), mint=mint.url, lock=lock, now=clock.now())

    first = locked.proofs[0]
    await refused([], InvalidToken)
    await refused(plain.proofs, WrongLock)
    await refused(locked.proofs, WrongLock, None)
    await refused(locked.proofs, WrongLock, Lock(key.compressed_public_key))
    await refused([first, first], InvalidToken)
    await refused([Proof(first.amount, first.id, first.secret, first.C)], InvalidProof)
    await refused([Proof(2 * first.amount, first.id, first.secret, first.C, first.dleq)], InvalidProof)
    await refused([Proof(3, first.id, first.secret, first.C, first.dleq)], InvalidProof)
    await refused([Proof(1, "01" + "00" * 32, first.secret, first.C, first.dleq)], WalletError)
    await refused([first] * 101, LimitExceeded)
    await refused([Proof(2**62, first.id, first.secret, first.C)], InvalidToken)
    with pytest.raises(InvalidToken, match="not in sat"):
        await bob.examine(Token(mint.url, locked.proofs, "usd"), mint=mint.url, lock=lock, now=clock.now())
    mint._pending = set((await bob.examine(plain, mint=mint.url, lock=None, now=clock.now())).ys)
    await refused(plain.proofs, AlreadySpent, None)
    mint._pending = set()
    await bob.receive(plain)
    await refused(plain.proofs, AlreadySpent, None)


async def test_signatures_of_others_and_the_preimage_come_with_the_coins(
    mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock
) -> None:
    provider, customer, arbiter = (SecretKey.generate() for _ in range(3))
    p, c, a = (key.compressed_public_key for key in (provider, customer, arbiter))
    preimage = "ab" * 32
    hash_ = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
    lock = Lock(p, clock.now() + 600, (c,), (c, a), 2, hash=hash_)
    token = await alice.send(mint.url, 20, lock=lock)
    worth = await bob.examine(token, mint=mint.url, lock=lock, now=clock.now())
    assert worth.net_sat == 19
    with pytest.raises(WrongLock):
        await bob.examine(token, mint=mint.url, lock=replace(lock, hash="ab" * 32), now=clock.now())

    def brought(*, key: SecretKey | None = None, secret: str | None = None) -> Token:
        proofs = token.proofs
        if key:
            proofs = tuple(add_signature(proof, sign_secret(proof.secret, key)) for proof in proofs)
        if secret:
            proofs = tuple(add_preimage(proof, secret) for proof in proofs)
        return Token(mint.url, proofs)

    for short in (
        token,
        brought(key=arbiter),
        brought(secret=preimage),
        brought(key=provider, secret=preimage),
        brought(key=arbiter, secret="cd" * 32),
        brought(key=SecretKey.generate(), secret=preimage),
    ):
        with pytest.raises(WrongLock):
            await bob.receive(short, [provider])
    assert (await bob.receive(brought(key=arbiter, secret=preimage), [provider])).received_sat == 19
    shown = [mint.spent[y].witness for y in worth.ys]
    assert {preimage_of(hash_, witness) for witness in shown} == {preimage}


@pytest.mark.parametrize(
    ("left_seconds", "is_good"), [(REFUND_SECONDS + 1, True), (REFUND_SECONDS, False), (-1, False)]
)
async def test_coins_must_outlive_their_locktime_by_a_day(
    mint: MemoryMint, make_wallet, clock: ManualClock, left_seconds: int, is_good: bool
) -> None:
    key = SecretKey.generate().compressed_public_key
    lock = Lock(key, clock.now() + 500, (key,))
    mint.rotate_keyset(final_expiry=clock.now() + 500 + left_seconds)
    alice = await make_wallet("alice", 100)
    if is_good:
        token = await alice.send(mint.url, 10, lock=lock)
        assert await alice.examine(token, mint=mint.url, lock=lock, now=clock.now())
        with pytest.raises(InvalidToken, match="expire"):
            await alice.examine(token, mint=mint.url, lock=lock, now=clock.now() + 501)
    else:
        with pytest.raises(MintUnavailable, match="no active sat keyset"):
            await alice.send(mint.url, 10, lock=lock)
        coins = [mint.coin(8, lock_secret(lock, "ab" * 32))]
        with pytest.raises(InvalidToken, match="expire"):
            await alice.examine(coins, mint=mint.url, lock=lock, now=clock.now())


async def test_a_mint_that_does_not_announce_hash_locks_gets_none(
    mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock
) -> None:
    """It might know no such lock, and let whoever gets the coins take them without telling the key."""
    key = SecretKey.generate().compressed_public_key
    lock = Lock(key, clock.now() + 500, (key,), hash="ab" * 32)
    coins = [mint.coin(8, lock_secret(lock, "ab" * 32))]
    assert (await bob.examine(coins, mint=mint.url, lock=lock, now=clock.now())).amount_sat == 8
    del mint.nuts["14"]
    await clock.advance(3601)
    with pytest.raises(UnknownMint, match="hash"):
        await alice.send(mint.url, 10, lock=lock)
    with pytest.raises(UnknownMint, match="hash"):
        await bob.examine(coins, mint=mint.url, lock=lock, now=clock.now())
    assert await alice.send(mint.url, 10, lock=replace(lock, hash=None, locktime=clock.now() + 500))


async def test_short_keyset_ids_and_missing_dleq_are_taken_for_plain_coins(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    token = await alice.send(mint.url, 100)
    bare = tuple(Proof(p.amount, p.id[:16], p.secret, p.C) for p in token.proofs)
    assert (await bob.receive(Token(mint.url, bare))).received_sat == 99


async def test_coins_of_a_keyset_newer_than_our_list(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    await bob.mint_quote(mint.url, 1)  # bob knows the old keysets
    mint.rotate_keyset(200)
    token = await alice.send(mint.url, 100)
    assert (await bob.receive(token)).received_sat == 99


async def test_receiving_asks_the_mint_nothing_but_the_swap(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    first, second = await alice.send(mint.url, 100), await alice.send(mint.url, 100)
    await bob.receive(first)
    mint.asked.clear()
    assert (await bob.receive(second)).received_sat == 99
    assert mint.asked == {"/v1/swap": 1}


async def test_a_token_that_was_spent_is_refused_and_costs_nothing(
    mint: MemoryMint, alice: Wallet, bob: Wallet, make_wallet
) -> None:
    carol = await make_wallet("carol", 500)
    before = await carol.audit(ask_mints=True)
    spent, half = await alice.send(mint.url, 100), await alice.send(mint.url, 96)
    await bob.receive(spent)
    with pytest.raises(AlreadySpent, match="nothing was received, 100 of 100 sat were spent"):
        await carol.receive(spent)
    await bob.receive(Token(mint.url, half.proofs[:1]))
    with pytest.raises(AlreadySpent, match="nothing was received"):
        await carol.receive(half)
    assert await carol.audit(ask_mints=True) == before
    assert [(entry.state, entry.received_sat) for entry in (await carol.history())[:2]] == [
        (State.LOST, 0)
    ] * 2
    mint.asked.clear()
    with pytest.raises(AlreadySpent, match="before"):
        await carol.receive(spent)
    assert not mint.asked  # we remember it
    rest = Token(mint.url, half.proofs[1:])
    assert (await carol.receive(rest)).received_sat == rest.amount - 1


async def test_a_token_that_is_being_spent_is_received_once_the_mint_has_decided(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    token = await alice.send(mint.url, 100)
    mint._pending = {proof_y(proof.secret) for proof in token.proofs}
    with pytest.raises(MintUnavailable, match="still working"):
        await bob.receive(token)
    assert await bob.balance() == {}
    mint._pending = set()
    assert await bob.recover() == []
    assert await bob.balance() == {mint.url: 99}


async def test_a_plan_for_spent_coins_uses_up_no_counters(
    mint: MemoryMint, alice: Wallet, bob: Wallet, make_wallet
) -> None:
    carol = await make_wallet("carol", 500)
    token = await alice.send(mint.url, 100)
    await bob.receive(token)
    counters = await carol._desk.db.all("SELECT keyset_id, next FROM wallet_counters")
    with pytest.raises(AlreadySpent):
        await carol.plan_redeem(token, op_id="op", purpose="test")
    with pytest.raises(AlreadySpent):
        await carol.plan_return(token, lock=None, op_id="op", purpose="test")
    after = await carol._desk.db.all("SELECT keyset_id, next FROM wallet_counters")
    assert list(map(tuple, after)) == list(map(tuple, counters))
    assert not await carol.is_recorded("op")
