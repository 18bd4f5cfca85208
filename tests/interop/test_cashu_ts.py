"""cashu-ts, which most wallets are made of: as the customer's wallet it pays our requests, signs and takes its refunds."""

import asyncio
import hashlib
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from identity import SecretKey
from store import Database, SystemClock, load_migrations
from wallet import (
    Lock,
    PaymentPayload,
    PaymentRequest,
    Proof,
    Seed,
    Token,
    Wallet,
    WrongLock,
    add_preimage,
    encode_request,
    lock_condition,
    parse_payload,
    parse_request,
    preimage_of,
)
from wallet.crypto import proof_y
from wallet.mint import HttpTransport, MintClient
from wallet.proofs import parse_proof

pytestmark = [pytest.mark.interop, pytest.mark.process]

HERE = Path(__file__).parent
SECONDS_MAX = 60
CUSTOMER, PROVIDER, ARBITER = (SecretKey.generate() for _ in range(3))
C, P, A = (key.compressed_public_key for key in (CUSTOMER, PROVIDER, ARBITER))

CashuTs = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def cashu_ts(node: Path, node_modules: Path, mint_url: str) -> CashuTs:
    """`await cashu_ts("pay", request=…)`: run the wallet once; what it prints."""

    async def run(do: str, **wish: Any) -> dict[str, Any]:
        done = await asyncio.to_thread(
            subprocess.run,
            [node, HERE / "wallet_cashu_ts.mjs", json.dumps({"do": do, "mint": mint_url, **wish})],
            cwd=HERE, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
async def provider(tmp_path: Path, mint_url: str) -> AsyncIterator[Wallet]:
    """Our wallet, empty."""
    async with (
        await Database.open(tmp_path / "provider.db", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=SystemClock(), mints=[mint_url]) as wallet,
    ):
        yield wallet


async def paid(cashu_ts: CashuTs, provider: Wallet, mint_url: str, lock: Lock) -> PaymentPayload:
    """cashu-ts answers our request for 100 sat under this lock; its coins are exactly what was agreed."""
    asked = PaymentRequest(
        id="job", amount=100, unit="sat", single_use=True, mints=(mint_url,), condition=lock_condition(lock)
    )
    answer = await cashu_ts("pay", request=encode_request(asked))
    again = parse_request(answer["creqb"])  # the same request as cashu-ts writes it by NUT-26
    assert again.condition is not None
    assert (again.amount, again.mints, again.condition.to_lock()) == (100, (mint_url,), lock)
    payload = parse_payload(json.dumps(answer["payload"]))
    assert (payload.id, payload.mint, payload.unit) == ("job", mint_url, "sat")
    worth = await provider.examine(payload.proofs, mint=mint_url, lock=lock, now=SystemClock().now())
    assert worth.net_sat >= 100
    return payload


def raw(proofs: tuple[Proof, ...]) -> list[dict[str, object]]:
    return [proof.to_receiver() for proof in proofs]


async def test_an_escrow_is_paid_signed_and_redeemed(
    cashu_ts: CashuTs, provider: Wallet, mint_url: str
) -> None:
    lock = Lock(P, SystemClock().now() + 3600, (C,), (C, A), 2)
    payload = await paid(cashu_ts, provider, mint_url, lock)
    with pytest.raises(WrongLock):
        await provider.receive(Token(mint_url, payload.proofs), [PROVIDER])
    released = (await cashu_ts("sign", proofs=raw(payload.proofs), keys=[CUSTOMER.hex()]))["proofs"]
    token = Token(mint_url, tuple(parse_proof(proof) for proof in released))
    assert (await provider.receive(token, [PROVIDER])).received_sat >= 100


async def test_a_sealed_result_is_paid_and_its_key_is_read(
    cashu_ts: CashuTs, provider: Wallet, mint_url: str
) -> None:
    preimage = secrets.token_hex(32)
    hash_ = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
    lock = Lock(P, SystemClock().now() + 3600, (C,), hash=hash_)
    payload = await paid(cashu_ts, provider, mint_url, lock)
    token = Token(mint_url, tuple(add_preimage(proof, preimage) for proof in payload.proofs))
    assert (await provider.receive(token, [PROVIDER])).received_sat >= 100
    client = MintClient(mint_url, HttpTransport(mint_url))
    states = await client.check_state([proof_y(proof.secret) for proof in payload.proofs])
    await client.close()
    assert {preimage_of(hash_, state.witness) for state in states.values()} == {preimage}


async def test_the_refund_is_taken_after_the_locktime(
    cashu_ts: CashuTs, provider: Wallet, mint_url: str
) -> None:
    clock = SystemClock()
    locktime = clock.now() + 3
    hash_ = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
    payload = await paid(cashu_ts, provider, mint_url, Lock(P, locktime, (C,), hash=hash_))
    async with asyncio.timeout(SECONDS_MAX):
        while clock.now() <= locktime:
            await clock.sleep(0.1)
    taken = await cashu_ts("take", proofs=raw(payload.proofs), keys=[CUSTOMER.hex()])
    assert taken["sat"] >= 100


@pytest.mark.parametrize("sealed", [False, True])
async def test_what_we_send_is_taken(
    cashu_ts: CashuTs, provider: Wallet, mint_url: str, sealed: bool
) -> None:
    """Our locked coins in the hands of cashu-ts: with both signatures, and with preimage and signature."""
    preimage = secrets.token_hex(32)
    quote = await provider.mint_quote(mint_url, 200)
    assert await provider.claim(quote.id)
    sealing = Lock(P, hash=hashlib.sha256(bytes.fromhex(preimage)).hexdigest())
    lock = sealing if sealed else Lock(P, pubkeys=(C,), n_sigs=2)
    token = await provider.send(mint_url, 100, lock=lock, include_fees=True)
    proofs = tuple(add_preimage(proof, preimage) if sealed else proof for proof in token.proofs)
    assert await cashu_ts("take", proofs=raw(proofs), keys=[PROVIDER.hex(), CUSTOMER.hex()]) == {"sat": 100}
