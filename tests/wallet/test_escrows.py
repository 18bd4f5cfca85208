"""The driver of escrows: who gets the coins when the mint, or somebody else, was quicker or does not answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import reduce
from hashlib import sha256
from typing import Any, Final, NamedTuple

import pytest

from identity import LocalSigner, SecretKey, make_template
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.crypto import proof_y
from wallet.errors import MintUnavailable
from wallet.escrow import (
    Accepted,
    Contested,
    Decision,
    Funded,
    ResultOut,
    Role,
    SignaturesCame,
    Stage,
    Tick,
)
from wallet.escrows import Escrows, claim_id
from wallet.proofs import Token
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms
from wallet.token import encode_token
from wallet.wallet import Wallet
from wallet.witness import add_preimage, add_signature, sign_secret

MakeWallet = Callable[..., Awaitable[Wallet]]
PRICE_SAT: Final = 21
IDS = {role: SecretKey(bytes([number]) * 32) for number, role in enumerate(Role, start=1)}
KEYS = {role: SecretKey(bytes([number]) * 32) for number, role in enumerate(Role, start=11)}
PREIMAGE: Final = "ab" * 32


class Case(NamedTuple):
    """One escrow with its coins locked, as one of its parties sees it."""

    escrows: Escrows
    wallet: Wallet
    row: EscrowRow
    coins: Token

    async def go(self, event: Any, **columns: Any) -> "Case":
        applied = await self.escrows.apply(self.row.key, event, **columns)
        assert applied is not None
        return self._replace(row=applied[0])

    async def claim(self) -> EscrowRow:
        return await self.escrows.claim(self.row, KEYS[self.row.role])

    def signed(self, *roles: Role) -> dict[str, list[str]]:
        given = [Escrows.sign((p.secret for p in self.coins.proofs), KEYS[role]) for role in roles]
        return {p.secret: [one[p.secret] for one in given] for p in self.coins.proofs}


@pytest.fixture
def hire(mint: MemoryMint, clock: ManualClock, make_wallet: MakeWallet) -> Callable[..., Awaitable[Case]]:
    """`await hire(role, method)`: lock the coins for a job, and give one party's view of it."""

    async def begin(role: Role, method: Method = Method.ESCROW) -> Case:
        request = await LocalSigner(IDS[Role.CUSTOMER]).sign(make_template(5001, created_at=clock.now()))
        terms = terms_of(method, request.id, mint.url, clock.now())
        customer = await make_wallet("customer", 100)
        plan = await customer.plan_send(
            mint.url, PRICE_SAT, op_id="lock", purpose="escrow", lock=terms.lock, job_id=request.id,
            include_fees=True, amounts=None, record=True,
        )  # fmt: skip
        token = (await customer.settle(plan.op_id)).token
        assert token is not None
        wallet = customer if role is Role.CUSTOMER else await make_wallet(role)
        escrows = Escrows(wallet._desk.db, wallet, clock)
        stage = Stage.LOCKING if role is Role.CUSTOMER else Stage.AGREED
        row = replace(escrows.new(role, IDS[role].public_key, stage, terms, request), op_id="lock")
        row = replace(row, preimage=PREIMAGE) if (role, method) == (Role.PROVIDER, Method.REVEAL) else row
        async with wallet._desk.db.transaction() as tx:
            assert await escrows.add(tx, row)
        text = {} if role is Role.CUSTOMER else {"token": encode_token(token)}
        return await Case(escrows, wallet, row, token).go(Funded(), **text)

    return begin


def terms_of(method: Method, request_id: str, mint: str, now: int) -> Terms:
    hash_ = sha256(bytes.fromhex(PREIMAGE)).hexdigest() if method is Method.REVEAL else None
    arbiter = method is Method.ESCROW
    return Terms(
        method=method, request_id=request_id, mint=mint, price_sat=PRICE_SAT,
        provider=IDS[Role.PROVIDER].public_key, provider_key=KEYS[Role.PROVIDER].compressed_public_key,
        customer=IDS[Role.CUSTOMER].public_key, customer_key=KEYS[Role.CUSTOMER].compressed_public_key,
        deliver_by=now + 100, review_seconds=100, dispute_seconds=100, locktime=now + 660,
        arbiter=IDS[Role.ARBITER].public_key if arbiter else None,
        arbiter_key=KEYS[Role.ARBITER].compressed_public_key if arbiter else None, hash=hash_,
    )  # fmt: skip


async def spend(mint: MemoryMint, case: Case, roles: tuple[Role, ...], count: int | None = None) -> None:
    """Somebody takes so many of the coins, all by default, with these parties' signatures."""
    for proof in case.coins.proofs[:count]:
        signed = reduce(add_signature, (sign_secret(proof.secret, KEYS[role]) for role in roles), proof)
        mint.spent[proof_y(proof.secret)] = signed


# The provider claims. ----------------------------------------------------------------------------------------------


async def test_a_first_claim_asks_nothing_and_takes_all(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.PROVIDER)
    case = await case.go(SignaturesCame(Role.CUSTOMER), signatures=case.signed(Role.CUSTOMER))
    asked = mint.asked["/v1/checkstate"]
    ended = await case.claim()
    assert (ended.stage, ended.amount_sat, ended.attempts) == (Stage.PAID, PRICE_SAT, 0)
    assert sum((await case.wallet.balance()).values()) == PRICE_SAT
    assert mint.asked["/v1/checkstate"] == asked
    assert await case.escrows.open(Role.PROVIDER, case.row.party) == []
    assert (await case.claim()).stage is Stage.PAID  # again, from what an earlier reading of it says


async def test_what_somebody_left_of_the_coins_is_taken_by_a_second_claim(
    hire: Any, mint: MemoryMint
) -> None:
    case = await hire(Role.PROVIDER)
    case = await case.go(SignaturesCame(Role.CUSTOMER), signatures=case.signed(Role.CUSTOMER))
    await spend(mint, case, (Role.CUSTOMER, Role.ARBITER), count=1)
    ended = await case.claim()
    left_sat = sum(proof.amount for proof in case.coins.proofs[1:])
    assert (ended.stage, ended.attempts) == (Stage.PAID, 1)
    assert left_sat - 1 <= ended.amount_sat < left_sat
    assert claim_id(case.row) == f"escrow:provider:{case.row.party[:16]}:{case.row.request_id}:0"
    assert claim_id(ended) == f"escrow:provider:{case.row.party[:16]}:{case.row.request_id}:1"


async def test_only_coins_that_are_signed_are_taken(hire: Any) -> None:
    case = await (await hire(Role.PROVIDER)).go(ResultOut())
    some = dict(list(case.signed(Role.ARBITER).items())[:2])
    case = await case.go(SignaturesCame(Role.ARBITER), signatures=some)
    ended = await case.claim()
    signed_sat = sum(proof.amount for proof in case.coins.proofs if proof.secret in some)
    assert ended.stage is Stage.PAID
    assert signed_sat - 1 <= ended.amount_sat < signed_sat


async def test_coins_that_are_all_gone_are_lost(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.PROVIDER)
    case = await case.go(SignaturesCame(Role.CUSTOMER), signatures=case.signed(Role.CUSTOMER))
    await spend(mint, case, (Role.CUSTOMER, Role.ARBITER))
    told: list[tuple[Stage, Decision]] = []

    async def also(row: EscrowRow, decision: Decision) -> None:
        told.append((row.stage, decision))

    ended = await case.escrows.claim(case.row, KEYS[Role.PROVIDER], also=also)
    assert (ended.stage, ended.amount_sat) == (Stage.LOST, 0)
    assert told == [(Stage.CLAIMING, Decision(Stage.LOST))]


async def test_a_mint_that_refuses_is_asked_again_under_another_name(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.PROVIDER)
    case = await case.go(SignaturesCame(Role.CUSTOMER), signatures=case.signed(Role.CUSTOMER))
    for _ in range(9):
        mint.refuse("/v1/swap", detail="not today")
    with pytest.raises(MintUnavailable, match="refused the coins of an escrow"):
        await case.claim()
    mint._next_faults.clear()
    row = await case.escrows.get(*case.row.key)
    assert row is not None
    assert (row.stage, row.attempts) == (Stage.CLAIMING, 1)
    ended = await case.escrows.claim(row, KEYS[Role.PROVIDER])
    assert (ended.stage, ended.amount_sat) == (Stage.PAID, PRICE_SAT)


async def test_an_answer_that_is_lost_is_found_again_under_the_same_name(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.PROVIDER)
    case = await case.go(SignaturesCame(Role.CUSTOMER), signatures=case.signed(Role.CUSTOMER))
    mint.lose_answer("/v1/swap")
    mint.lose_request("/v1/checkstate")
    with pytest.raises(MintUnavailable):
        await case.claim()
    ended = await case.claim()
    assert (ended.stage, ended.attempts, ended.amount_sat) == (Stage.PAID, 0, PRICE_SAT)


# The customer takes back. ------------------------------------------------------------------------------------------


async def test_a_customer_takes_back_what_the_provider_signed(hire: Any) -> None:
    case = await hire(Role.CUSTOMER)
    case = await case.go(SignaturesCame(Role.PROVIDER), signatures=case.signed(Role.PROVIDER))
    ended = await case.claim()
    assert (ended.stage, ended.amount_sat) == (Stage.REFUNDED, PRICE_SAT)


async def test_after_the_locktime_a_customer_needs_nobody_and_not_a_second_before(
    hire: Any, clock: ManualClock, mint: MemoryMint
) -> None:
    case = await hire(Role.CUSTOMER)
    await clock.advance(case.row.terms.locktime - clock.now())
    case = await case.go(Tick())
    assert case.row.stage is Stage.OVERDUE
    await clock.advance(1)
    case = await case.go(Tick())
    assert case.row.stage is Stage.CLAIMING
    await spend(mint, case, (Role.PROVIDER, Role.ARBITER), count=1)
    ended = await case.claim()
    assert ended.stage is Stage.REFUNDED
    assert 0 < ended.amount_sat < PRICE_SAT


async def test_after_the_locktime_all_coins_come_back_not_only_those_that_were_signed(
    hire: Any, clock: ManualClock
) -> None:
    case = await hire(Role.CUSTOMER)
    some = dict(list(case.signed(Role.ARBITER).items())[:1])
    assert await case.escrows.note(case.row.key, lambda _row: {"signatures": some})
    await clock.advance(case.row.terms.locktime + 1 - clock.now())
    case = await case.go(Tick())
    assert (await case.claim()).amount_sat == PRICE_SAT


@pytest.mark.parametrize(
    ("roles", "stage"),
    [((Role.PROVIDER, Role.ARBITER), Stage.RELEASED), ((Role.PROVIDER,), Stage.LOST), ((), Stage.LOST)],
    ids=["as ruled", "with one signature", "with none"],
)
async def test_coins_that_are_gone_went_by_right_or_were_stolen(
    hire: Any, mint: MemoryMint, clock: ManualClock, roles: tuple[Role, ...], stage: Stage
) -> None:
    case = await hire(Role.CUSTOMER)
    assert not await case.escrows.gone(case.row)
    assert not await case.escrows.went_by_right(case.row)
    await spend(mint, case, (Role.PROVIDER, Role.ARBITER), count=1)
    assert not await case.escrows.gone(case.row)
    await spend(mint, case, roles)
    assert await case.escrows.gone(case.row)
    assert await case.escrows.went_by_right(case.row) == (stage is Stage.RELEASED)
    await clock.advance(case.row.terms.locktime + 1 - clock.now())
    case = (
        await (await case.go(Tick())).go(Tick()) if case.row.stage is Stage.OVERDUE else await case.go(Tick())
    )
    assert (await case.claim()).stage is stage


# A sealed result. --------------------------------------------------------------------------------------------------


async def test_a_key_is_sold_for_all_the_coins(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.PROVIDER, Method.REVEAL)
    ended = await case.claim()
    assert (ended.stage, ended.amount_sat) == (Stage.PAID, PRICE_SAT)
    assert all(PREIMAGE in (mint.spent[proof_y(p.secret)].witness or "") for p in case.coins.proofs)


async def test_a_key_is_not_sold_for_some_of_them_nor_near_the_locktime(
    hire: Any, mint: MemoryMint, clock: ManualClock
) -> None:
    case = await hire(Role.PROVIDER, Method.REVEAL)
    await spend(mint, case, (), count=1)
    asked = mint.asked["/v1/swap"]
    with pytest.raises(MintUnavailable, match="busy"):
        await case.claim()
    await clock.advance(case.row.terms.claim_until - 1 - clock.now())
    with pytest.raises(MintUnavailable, match="busy"):
        await case.claim()
    await clock.advance(1)
    assert (await case.claim()).stage is Stage.VOID
    assert mint.asked["/v1/swap"] == asked


async def test_near_the_locktime_the_mint_is_not_asked_for_whole_coins_either(
    hire: Any, mint: MemoryMint, clock: ManualClock
) -> None:
    case = await hire(Role.PROVIDER, Method.REVEAL)
    await clock.advance(case.row.terms.claim_until - clock.now())
    asked = mint.asked["/v1/swap"]
    assert (await case.claim()).stage is Stage.VOID
    assert mint.asked["/v1/swap"] == asked


async def test_a_customer_learns_the_key_from_the_mint(
    hire: Any, mint: MemoryMint, clock: ManualClock
) -> None:
    case = await hire(Role.CUSTOMER, Method.REVEAL)
    assert (await case.escrows.learn_key(case.row)).preimage is None
    assert not await case.escrows.went_by_right(case.row)
    for proof in case.coins.proofs:
        mint.spent[proof_y(proof.secret)] = add_preimage(proof, PREIMAGE)
    await clock.advance(case.row.terms.locktime + 1 - clock.now())
    case = await case.go(Tick())
    ended = await case.claim()
    assert (ended.stage, ended.preimage) == (Stage.RELEASED, PREIMAGE)
    asked = mint.asked["/v1/checkstate"]
    assert (await case.escrows.learn_key(ended)).preimage == PREIMAGE
    assert mint.asked["/v1/checkstate"] == asked  # it is known


async def test_of_an_escrow_there_is_no_key_to_learn(hire: Any, mint: MemoryMint) -> None:
    case = await hire(Role.CUSTOMER)
    asked = mint.asked["/v1/checkstate"]
    assert await case.escrows.learn_key(case.row) == case.row
    assert mint.asked["/v1/checkstate"] == asked


async def test_the_first_key_is_kept(hire: Any) -> None:
    case = await hire(Role.CUSTOMER, Method.REVEAL)
    kept = await case.escrows.keep_key(case.row, PREIMAGE)
    assert (await case.escrows.keep_key(kept, "cd" * 32)).preimage == PREIMAGE


# What is written down. ---------------------------------------------------------------------------------------------


async def test_only_signatures_by_the_right_key_over_the_right_secret_are_genuine(hire: Any) -> None:
    case = await hire(Role.PROVIDER)
    by = KEYS[Role.ARBITER].compressed_public_key
    one, other, *_ = [proof.secret for proof in case.coins.proofs]
    good = sign_secret(one, KEYS[Role.ARBITER])
    given = {one: good, other: good}
    assert Escrows.genuine(given, by) == {one: good}
    assert Escrows.genuine({one: sign_secret(one, KEYS[Role.CUSTOMER])}, by) == {}


async def test_signatures_are_kept_once_and_not_without_end(hire: Any) -> None:
    case = await hire(Role.PROVIDER)
    assert Escrows.merge(case.row, {}) is None
    assert Escrows.merge(case.row, {"a": "1"}) == {"a": ["1"]}
    known = replace(case.row, signatures={"a": ["1"]})
    assert Escrows.merge(known, {"a": "1"}) is None
    assert Escrows.merge(known, {"a": "2", "b": "1"}) == {"a": ["1", "2"], "b": ["1"]}
    full = replace(case.row, signatures={"a": ["1", "2"]})
    assert Escrows.merge(full, {"a": "3"}) is None


async def test_what_is_no_step_of_an_escrow_writes_nothing(hire: Any) -> None:
    case = await hire(Role.CUSTOMER)
    assert case.escrows.decide(case.row, Accepted()) is None
    assert await case.escrows.apply(case.row.key, Accepted(), reason="x") is None
    assert await case.escrows.apply((Role.CUSTOMER, case.row.party, "ff" * 32), Tick()) is None
    async with case.wallet._desk.db.transaction() as tx:
        assert await case.escrows.write(tx, case.row, Contested()) is None
    assert await case.escrows.get(*case.row.key) == case.row


async def test_a_step_is_decided_on_the_row_as_it_is_when_it_is_written(hire: Any) -> None:
    case = await hire(Role.CUSTOMER)
    assert case.row.delivered_at is None
    seen: list[Stage] = []

    async def prepare(row: EscrowRow, decision: Decision) -> None:
        seen.append(row.stage)
        if len(seen) == 1:  # somebody is quicker
            assert await case.escrows.apply(row.key, ResultOut()) is not None

    assert await case.escrows.apply(case.row.key, ResultOut(), prepare=prepare) is None
    assert seen == [Stage.HELD]
    async with case.wallet._desk.db.transaction() as tx:
        assert await case.escrows.write(tx, case.row, ResultOut()) is None  # as it was read first
    row = await case.escrows.get(*case.row.key)
    assert row is not None
    assert row.delivered_at is not None
    assert row.wake_at == row.delivered_at + row.terms.review_seconds


async def test_what_would_be_decided_is_what_is_written(hire: Any) -> None:
    case = await hire(Role.CUSTOMER)
    delivered = Decision(Stage.DELIVERED)
    assert case.escrows.decide(case.row, ResultOut()) == delivered
    async with case.wallet._desk.db.transaction() as tx:
        assert await case.escrows.write(tx, case.row, ResultOut(), reason="here it is") == delivered
    row = await case.escrows.get(*case.row.key)
    assert row is not None
    assert (row.stage, row.reason, row.version) == (Stage.DELIVERED, "here it is", case.row.version + 1)


async def test_notes_are_made_by_all_who_make_them_at_once(hire: Any) -> None:
    case = await hire(Role.CUSTOMER)

    def more(row: EscrowRow) -> dict[str, Any]:
        return {"attempts": row.attempts + 1}

    await asyncio.gather(*(case.escrows.note(case.row.key, more) for _ in range(5)))
    row = await case.escrows.get(*case.row.key)
    assert row is not None
    assert (row.attempts, row.version) == (5, case.row.version + 5)
    assert await case.escrows.note(row.key, lambda _row: None) == row
    assert await case.escrows.note((Role.CUSTOMER, row.party, "ff" * 32), more) is None
