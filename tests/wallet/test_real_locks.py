"""What a real mint (nutshell) does with our locks: every pair of three, hashes, refunds, and the race after the locktime."""

import asyncio
import hashlib
import itertools
import secrets
from dataclasses import replace

import pytest

from identity import SecretKey
from store import SystemClock
from wallet.crypto import proof_y
from wallet.errors import AlreadySpent, WrongLock
from wallet.mint import CoinState, HttpTransport, MintClient
from wallet.operations import Kind, State
from wallet.operations_plan import Request
from wallet.proofs import Lock, Token
from wallet.selection import escrow_amounts
from wallet.wallet import Wallet
from wallet.witness import add_preimage, add_signature, make_witness, preimage_of, sign_secret, signers

pytestmark = pytest.mark.process

KEYS = [SecretKey.generate() for _ in range(3)]
PROVIDER, CUSTOMER, ARBITER = KEYS
P, C, A = (key.compressed_public_key for key in KEYS)
PREIMAGE = secrets.token_hex(32)
HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest()
SECONDS_MAX = 30


def escrow(seconds: int = 3600) -> Lock:
    return Lock(P, SystemClock().now() + seconds, (C,), (C, A), 2)


def revealed(token: Token, preimage: str = PREIMAGE) -> Token:
    return replace(token, proofs=tuple(add_preimage(proof, preimage) for proof in token.proofs))


def signed(token: Token, key: SecretKey) -> Token:
    """With a signature that came in a message."""
    proofs = (add_signature(proof, sign_secret(proof.secret, key)) for proof in token.proofs)
    return replace(token, proofs=tuple(proofs))


async def passed(lock: Lock) -> None:
    clock = SystemClock()
    async with asyncio.timeout(SECONDS_MAX):
        while clock.now() <= (lock.locktime or 0):
            await clock.sleep(0.1)


async def shown(mint_url: str, token: Token) -> dict[str, str | None]:
    """The witnesses that the mint shows of spent coins, by their secrets."""
    client = MintClient(mint_url, HttpTransport(mint_url))
    states = await client.check_state([proof_y(proof.secret) for proof in token.proofs])
    await client.close()
    assert all(state.state is CoinState.SPENT for state in states.values())
    return {proof.secret: states[proof_y(proof.secret)].witness for proof in token.proofs}


async def refused(wallet: Wallet, token: Token, *keys: SecretKey, preimage: str | None = None) -> None:
    """The mint itself refuses these signatures and this preimage; our own check is gone round."""
    coins = {proof_y(p.secret): p.with_witness(make_witness(p.secret, keys, preimage)) for p in token.proofs}
    keysets = await wallet._desk.keyring.keysets(token.mint)
    op_id = secrets.token_hex(8)
    await wallet._planner.plan_foreign(
        Request(op_id, Kind.PROBE, token.mint, "t", record=True), coins, keysets
    )
    assert (await wallet.settle(op_id)).state is State.FAILED


async def test_any_two_of_three_take_an_escrow_and_nobody_alone(mint_url: str, real_wallet: Wallet) -> None:
    lock = escrow()
    for first, second in itertools.combinations(KEYS, 2):
        token = await real_wallet.send(mint_url, 20, lock=lock, include_fees=True)
        for alone in (first, second):
            await refused(real_wallet, token, alone)
            with pytest.raises(WrongLock):
                await real_wallet.receive(token, [alone])
        assert (await real_wallet.receive(signed(token, first), [second])).received_sat == 20
        pair = {first.compressed_public_key, second.compressed_public_key}
        for secret, witness in (await shown(mint_url, token)).items():
            assert signers(secret, witness, [P, C, A]) == pair
        with pytest.raises(AlreadySpent):
            await real_wallet.receive(signed(token, first), [second])


async def test_an_escrow_is_split_coin_by_coin(mint_url: str, real_wallet: Wallet) -> None:
    """Each side takes the coins that the arbiter signed for it and pays its own fee, which rounds up once more."""
    lock = escrow()
    plan = await real_wallet.plan_send(
        mint_url,
        100,
        op_id="s",
        purpose="t",
        lock=lock,
        amounts=escrow_amounts(100),
        include_fees=True,
        record=True,
    )
    token = (await real_wallet.settle(plan.op_id)).token
    assert token is not None
    worth = await real_wallet.examine(token, mint=mint_url, lock=lock, now=SystemClock().now())
    assert (worth.amount_sat, worth.net_sat) == (101, 100)
    theirs, ours = [], []
    for proof in sorted(token.proofs, key=lambda proof: -proof.amount):
        (theirs if sum(p.amount for p in theirs) + proof.amount <= 30 else ours).append(proof)
    assert sum(proof.amount for proof in theirs) == 30
    for proofs, key, sat in ((theirs, PROVIDER, 29), (ours, CUSTOMER, 70)):
        half = signed(Token(mint_url, tuple(proofs)), ARBITER)
        assert (await real_wallet.receive(half, [key])).received_sat == sat


async def test_a_sealed_result_is_claimed_and_the_key_is_read(mint_url: str, real_wallet: Wallet) -> None:
    lock = Lock(P, SystemClock().now() + 3600, (C,), hash=HASH)
    token = await real_wallet.send(mint_url, 20, lock=lock, include_fees=True)
    await refused(real_wallet, token, PROVIDER)
    await refused(real_wallet, token, PROVIDER, preimage="00" * 32)
    await refused(real_wallet, token, preimage=PREIMAGE)
    await refused(real_wallet, token, CUSTOMER)
    await refused(real_wallet, token, CUSTOMER, preimage=PREIMAGE)
    assert (await real_wallet.receive(revealed(token), [PROVIDER])).received_sat == 20
    witnesses = (await shown(mint_url, token)).values()
    assert {preimage_of(HASH, witness) for witness in witnesses} == {PREIMAGE}


async def test_sealed_and_two_of_three(mint_url: str, real_wallet: Wallet) -> None:
    lock = replace(escrow(), hash=HASH)
    token = await real_wallet.send(mint_url, 20, lock=lock, include_fees=True)
    await refused(real_wallet, token, PROVIDER, preimage=PREIMAGE)
    await refused(real_wallet, token, PROVIDER, ARBITER)
    assert (await real_wallet.receive(revealed(signed(token, ARBITER)), [PROVIDER])).received_sat == 20


async def test_after_the_locktime_whoever_is_first_takes_it(mint_url: str, real_wallet: Wallet) -> None:
    """Refund and main path are both open then: each order, for either kind of lock."""
    plain = escrow(2)
    sealed = replace(Lock(P, plain.locktime, (C,)), hash=HASH)
    tokens = [
        await real_wallet.send(mint_url, 20, lock=lock, include_fees=True)
        for lock in (plain, plain, sealed, sealed)
    ]
    await refused(real_wallet, tokens[0], CUSTOMER)
    await refused(real_wallet, tokens[2], CUSTOMER)
    await passed(plain)
    by_provider = [
        signed(tokens[0], ARBITER),
        signed(tokens[1], ARBITER),
        revealed(tokens[2]),
        revealed(tokens[3]),
    ]
    for number, (token, theirs) in enumerate(zip(tokens, by_provider, strict=True)):
        racers = [(theirs, PROVIDER), (token, CUSTOMER)]
        first, second = racers if number % 2 else racers[::-1]
        assert (await real_wallet.receive(first[0], [first[1]])).received_sat == 20
        with pytest.raises(AlreadySpent):
            await real_wallet.receive(second[0], [second[1]])
        for secret, witness in (await shown(mint_url, token)).items():
            assert signers(secret, witness, [P, C]) == {first[1].compressed_public_key}
    assert (await real_wallet.audit(ask_mints=True)).ok


async def test_the_probe(mint_url: str, real_wallet: Wallet) -> None:
    before = sum((await real_wallet.balance()).values())
    found = await real_wallet.probe(mint_url)
    assert found.version.startswith("Nutshell/")
    assert found.checked_at is not None
    assert (found.p2pk, found.multisig, found.refund, found.htlc) == (True, True, True, True)
    assert sum((await real_wallet.balance()).values()) == before - 6
    assert await real_wallet.enforces(mint_url) == found
    assert (await real_wallet.audit(ask_mints=True)).ok
