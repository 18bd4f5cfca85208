"""Escrows at a real mint (nutshell): the race after the locktime, refunds, and a SIGKILL with the mint's answer in hand."""

import asyncio
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from identity import SecretKey, make_template, sign_event
from store import Database, SystemClock, load_migrations
from wallet import HttpTransport, Seed, State, Token, Wallet, WrongLock, encode_token
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.selection import escrow_amounts
from wallet.terms import Method, Terms

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
CUSTOMER, PROVIDER, ARBITER = (SecretKey(bytes([number]) * 32) for number in (11, 12, 13))
PRICE_SAT, FUNDED_SAT = 21, 100
REQUEST = sign_event(make_template(5001, created_at=1), CUSTOMER)
PREIMAGE = secrets.token_hex(32)
KEYS = {Role.CUSTOMER: CUSTOMER, Role.PROVIDER: PROVIDER}


@dataclass(frozen=True)
class Party:
    """One party's wallet and escrows, on files that outlive it."""

    db: Database
    wallet: Wallet
    escrows: Escrows
    role: Role

    async def close(self) -> None:
        """Before another process opens the files; harmless to be repeated."""
        await self.wallet.close()
        await self.db.close()

    async def claim(self, job: str) -> EscrowRow:
        row = await self.escrows.get(self.role, self.role, job)
        assert row is not None
        return await self.escrows.claim(row, KEYS[self.role])

    async def sat(self) -> int:
        report = await self.wallet.audit(ask_mints=True)
        assert report.ok, report.problems
        return sum((await self.wallet.balance()).values())


@asynccontextmanager
async def opened(folder: Path, role: Role, mint_url: str, seed: Seed) -> AsyncIterator[Party]:
    clock = SystemClock()
    async with (
        await Database.open(folder / f"{role}.db", load_migrations("wallet")) as db,
        Wallet.open(db, seed, clock=clock, mints=[mint_url]) as wallet,
    ):
        yield Party(db, wallet, Escrows(db, wallet, clock), role)


@pytest.fixture
def seeds() -> dict[Role, Seed]:
    return {role: Seed.generate() for role in KEYS}


@pytest.fixture
async def customer(tmp_path: Path, mint_url: str, seeds: dict[Role, Seed]) -> AsyncIterator[Party]:
    async with opened(tmp_path, Role.CUSTOMER, mint_url, seeds[Role.CUSTOMER]) as party:
        quote = await party.wallet.mint_quote(mint_url, FUNDED_SAT)
        assert await party.wallet.claim(quote.id)  # FakeWallet pays by itself
        yield party


@pytest.fixture
async def provider(tmp_path: Path, mint_url: str, seeds: dict[Role, Seed]) -> AsyncIterator[Party]:
    async with opened(tmp_path, Role.PROVIDER, mint_url, seeds[Role.PROVIDER]) as party:
        yield party


def terms_of(method: Method, mint_url: str, seconds: int, job: str = "job") -> Terms:
    """Terms whose locktime is so near that nobody would agree to them."""
    locktime = SystemClock().now() + seconds
    terms = Terms(
        method=method, request_id=job, provider=Role.PROVIDER, provider_key=PROVIDER.compressed_public_key,
        customer=Role.CUSTOMER, customer_key=CUSTOMER.compressed_public_key, mint=mint_url, price_sat=PRICE_SAT,
        deliver_by=locktime, review_seconds=0, dispute_seconds=0, locktime=locktime,
    )  # fmt: skip
    if method is Method.REVEAL:
        return replace(terms, hash=hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest())
    return replace(terms, arbiter=Role.ARBITER, arbiter_key=ARBITER.compressed_public_key)


async def locked(customer: Party, terms: Terms) -> Token:
    plan = await customer.wallet.plan_send(
        terms.mint, PRICE_SAT, op_id=f"fund:{terms.request_id}", purpose="test", lock=terms.lock, include_fees=True, record=True,
        amounts=escrow_amounts(PRICE_SAT), job_id=terms.request_id,
    )  # fmt: skip
    token = (await customer.wallet.settle(plan.op_id)).token
    assert token is not None
    return token


async def funded(customer: Party, provider: Party, terms: Terms) -> None:
    """Lock the price; both sides are about to take it, the provider with the customer's signatures (or the preimage)."""
    token = await locked(customer, terms)
    signed = Escrows.sign((proof.secret for proof in token.proofs), CUSTOMER)
    sealed = terms.method is Method.REVEAL
    await add(customer, terms, op_id=f"fund:{terms.request_id}")
    await add(
        provider, terms, token=encode_token(token), preimage=PREIMAGE if sealed else None,
        signatures={} if sealed else {secret: [signature] for secret, signature in signed.items()},
    )  # fmt: skip


async def add(party: Party, terms: Terms, **columns: object) -> None:
    row = party.escrows.new(party.role, party.role, Stage.CLAIMING, terms, REQUEST)
    async with party.db.transaction() as tx:
        assert await party.escrows.add(tx, replace(row, **columns))


async def passed(terms: Terms) -> None:
    clock = SystemClock()
    async with asyncio.timeout(30):
        while clock.now() <= terms.locktime:
            await clock.sleep(0.05)


async def test_after_the_locktime_whoever_is_first_has_the_coins_and_the_other_knows_it(
    customer: Party, provider: Party, mint_url: str
) -> None:
    """The provider with two signatures, the customer with its refund key; a key that was not sold stays unsold."""
    sold, taken = (terms_of(Method.ESCROW, mint_url, 2, job) for job in ("sold", "taken back"))
    sealed = terms_of(Method.REVEAL, mint_url, 2, "sealed")
    for terms in (sold, taken, sealed):
        await funded(customer, provider, terms)
    left_sat = await customer.sat()
    for terms in (sold, taken, sealed):
        with pytest.raises(WrongLock):
            await customer.claim(terms.request_id)
    assert (
        await provider.claim("sealed")
    ).stage is Stage.VOID  # too near the locktime to tell the mint the key
    await passed(sealed)
    assert (await provider.claim("sold")).stage is Stage.PAID
    assert (await customer.claim("sold")).stage is Stage.RELEASED  # the mint shows both signatures
    assert (await customer.claim("taken back")).stage is Stage.REFUNDED
    assert (await provider.claim("taken back")).stage is Stage.LOST
    refunded = await customer.claim("sealed")
    assert (refunded.stage, refunded.preimage) == (Stage.REFUNDED, None)
    assert (await provider.sat(), await customer.sat() - left_sat) == (PRICE_SAT, 2 * PRICE_SAT)


async def die_in_a_swap(folder: Path, mint_url: str, words: str, role: Role, job: str, locktime: int) -> None:
    """What the child does: lock coins (a customer, `locktime` given) or claim them, and die with the mint's answer."""
    request = HttpTransport.request

    async def deadly(self: HttpTransport, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await request(self, method, path, body)
        if path == "/v1/swap":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    HttpTransport.request = deadly  # type: ignore[method-assign]
    async with opened(folder, role, mint_url, Seed.from_words(words)) as party:
        if locktime:
            terms = replace(terms_of(Method.ESCROW, mint_url, 0, job), locktime=locktime)
            await locked(party, terms)
        else:
            await party.claim(job)


async def die(folder: Path, mint_url: str, seed: Seed, role: Role, job: str, locktime: int = 0) -> None:
    """Let a process of its own do that."""
    what = f"{str(folder)!r}), {mint_url!r}, {seed.words!r}, Role({role.value!r}), {job!r}, {locktime}"
    call = f"die_in_a_swap(Path({what})"
    code = f"import asyncio; from tests.wallet.test_real_escrows import *; asyncio.run({call})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, env=environment)
    async with asyncio.timeout(60):
        assert await child.wait() == -signal.SIGKILL


async def test_killed_in_the_swap_that_locks_the_coins_are_restored_under_their_lock(
    tmp_path: Path, mint_url: str, seeds: dict[Role, Seed], customer: Party, provider: Party
) -> None:
    await customer.close()
    terms = terms_of(Method.ESCROW, mint_url, 3600)
    await die(tmp_path, mint_url, seeds[Role.CUSTOMER], Role.CUSTOMER, "job", terms.locktime)
    async with opened(tmp_path, Role.CUSTOMER, mint_url, seeds[Role.CUSTOMER]) as again:
        assert await again.wallet.recover() == []
        outcome = await again.wallet.settle("fund:job")
        assert outcome.state is State.DONE
        assert outcome.token is not None
        now = SystemClock().now()
        worth = await provider.wallet.examine(outcome.token, mint=mint_url, lock=terms.lock, now=now)
        assert worth.net_sat == PRICE_SAT
        assert await again.sat() == FUNDED_SAT - worth.amount_sat - 1


async def test_killed_in_the_swap_that_claims_the_coins_are_there_afterwards(
    tmp_path: Path, mint_url: str, seeds: dict[Role, Seed], customer: Party, provider: Party
) -> None:
    """The release of a provider, the refund of a customer: both are restored, neither is asked for again."""
    jobs = {Role.PROVIDER: "release", Role.CUSTOMER: "refund"}
    for job in jobs.values():
        terms = terms_of(Method.ESCROW, mint_url, 2, job)
        await funded(customer, provider, terms)
    await passed(terms)
    for party in (customer, provider):
        await party.close()
    await asyncio.gather(*(die(tmp_path, mint_url, seeds[role], role, job) for role, job in jobs.items()))
    for role, job in jobs.items():
        async with opened(tmp_path, role, mint_url, seeds[role]) as again:
            ended = await again.claim(job)
            assert ended.stage is (Stage.PAID if role is Role.PROVIDER else Stage.REFUNDED)
            assert ended.amount_sat == PRICE_SAT
            assert await again.sat() >= PRICE_SAT
