"""Coins that somebody else brings, good ones and all the bad ones."""

import pytest

from identity import SecretKey
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.errors import (
    AlreadySpent,
    InvalidProof,
    InvalidToken,
    LimitExceeded,
    MintUnavailable,
    WalletError,
    WrongLock,
)
from wallet.proofs import P2PKLock, Proof, Token
from wallet.wallet import Wallet


async def test_examine_tells_the_worth_of_foreign_coins(
    mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock
) -> None:
    key = SecretKey.generate()
    lock = P2PKLock(
        key.compressed_public_key, clock.now() + 600, (SecretKey.generate().compressed_public_key,)
    )
    token = await alice.send(mint.url, 100, lock=lock)
    worth = await bob.examine(token, mint=mint.url, lock=lock, now=clock.now())
    assert (worth.amount_sat, worth.fee_sat, worth.net_sat, len(worth.ys)) == (100, 1, 99, len(token.proofs))
    assert await bob.examine(token.proofs, mint=mint.url, lock=lock, now=clock.now()) == worth
    plain = await alice.send(mint.url, 100)
    assert (await bob.examine(plain, mint=mint.url, lock=None, now=clock.now())).net_sat == 99


async def test_examine_refuses(mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock) -> None:
    key = SecretKey.generate()
    lock = P2PKLock(key.compressed_public_key, clock.now() + 600, (key.compressed_public_key,))
    locked, plain = await alice.send(mint.url, 100, lock=lock), await alice.send(mint.url, 100)

    async def refused(proofs, error: type[WalletError], lock: P2PKLock | None = lock) -> None:
        with pytest.raises(error):
            await bob.examine(Token(mint.url, tuple(proofs)), mint=mint.url, lock=lock, now=clock.now())

    first = locked.proofs[0]
    await refused([], InvalidToken)
    await refused(plain.proofs, WrongLock)
    await refused(locked.proofs, WrongLock, None)
    await refused(locked.proofs, WrongLock, P2PKLock(key.compressed_public_key))
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


async def test_examine_refuses_coins_that_expire_before_the_refund(
    mint: MemoryMint, make_wallet, clock: ManualClock
) -> None:
    key = SecretKey.generate().compressed_public_key
    mint.rotate_keyset(final_expiry=clock.now() + 1000)
    alice = await make_wallet("alice", 100)
    lock = P2PKLock(key, clock.now() + 500, (key,))
    token = await alice.send(mint.url, 10, lock=lock)
    assert await alice.examine(token, mint=mint.url, lock=lock, now=clock.now())
    with pytest.raises(InvalidToken, match="expire"):
        await alice.examine(token, mint=mint.url, lock=lock, now=clock.now() + 1000)
    with pytest.raises(MintUnavailable, match="no active sat keyset"):
        await alice.send(mint.url, 10, lock=P2PKLock(key, clock.now() + 2000, (key,)))


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
