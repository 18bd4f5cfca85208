"""Swaps at a mint that fails in every way we know; nothing may be lost or counted twice."""

from collections.abc import Callable

import pytest

from identity import SecretKey
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.errors import AlreadySpent, LimitExceeded, MintError, MintUnavailable
from wallet.locks import parse_lock
from wallet.operations import State, share
from wallet.operations_swap import ASKS_MAX
from wallet.proofs import Lock, Token
from wallet.selection import escrow_amounts
from wallet.wallet import Wallet
from wallet.witness import signers


async def record(wallet: Wallet, plan) -> None:
    async with wallet._desk.db.transaction() as tx:
        await wallet.record(tx, plan)


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


async def open_send(wallet: Wallet, mint: MemoryMint, amount: int = 100, **more) -> None:
    await record(wallet, await wallet.plan_send(mint.url, amount, op_id="op", purpose="test", **more))


async def assert_sent(wallet: Wallet, mint: MemoryMint, amount: int = 100) -> None:
    outcome = await wallet.settle("op")
    assert (outcome.state, outcome.sent_sat, outcome.token.amount) == (State.DONE, amount, amount)
    assert await sat(wallet) + amount + mint.fees_sat == 1000 == mint.outstanding_sat + mint.fees_sat
    assert (await wallet.audit(ask_mints=True)).ok


Break = Callable[[MemoryMint], object]


@pytest.mark.parametrize(
    "fault",
    [
        lambda mint: mint.lose_answer("/v1/swap"),
        lambda mint: mint.lose_request("/v1/swap"),
        lambda mint: mint.refuse("/v1/swap", code=0, detail="database is locked"),
        lambda mint: mint.refuse("/v1/swap", code=11001, detail="a lie: already spent"),
        lambda mint: mint.refuse("/v1/swap", code=11003, detail="a lie: already signed"),
        lambda mint: [mint.lose_request("/v1/swap") for _ in range(ASKS_MAX - 1)],
        lambda mint: mint.rotate_keyset(),
        lambda mint: [mint.lose_answer("/v1/swap"), mint.rotate_keyset()],
        lambda mint: [mint.lose_request("/v1/swap"), mint.rotate_keyset(700)],
    ],
)
async def test_healed_within_one_settle(mint: MemoryMint, alice: Wallet, fault: Break) -> None:
    await open_send(alice, mint)
    fault(mint)
    await assert_sent(alice, mint)


@pytest.mark.parametrize(
    "fault",
    [
        lambda mint: setattr(mint, "down", True),
        lambda mint: setattr(mint, "rubbish", True),
        lambda mint: setattr(mint, "wrong_dleq", True),
        lambda mint: [mint.lose_answer("/v1/swap"), mint.lose_request("/v1/checkstate")],
        lambda mint: [mint.lose_answer("/v1/swap"), mint.lose_request("/v1/restore")],
        lambda mint: [mint.lose_answer("/v1/swap"), mint.refuse("/v1/checkstate", code=0, detail="busy")],
        lambda mint: [mint.lose_answer("/v1/swap"), mint.refuse("/v1/restore", code=0, detail="busy")],
        lambda mint: [mint.refuse("/v1/swap"), mint.lose_request("/v1/keysets")],
        lambda mint: [mint.refuse("/v1/swap"), mint.refuse("/v1/keysets")],
        lambda mint: [mint.lose_request("/v1/swap") for _ in range(ASKS_MAX)],
    ],
)
async def test_stays_open_until_the_mint_is_clear(mint: MemoryMint, alice: Wallet, fault: Break) -> None:
    await open_send(alice, mint)
    fault(mint)
    with pytest.raises(MintUnavailable):
        await alice.settle("op")
    assert await alice.outcome("op") is None
    assert await sat(alice) < 1000
    mint.down = mint.rubbish = False
    if mint.wrong_dleq:
        mint.wrong_dleq = False
        mint.sign_again()
    assert await alice.recover() == []
    await assert_sent(alice, mint)


async def test_a_locked_token_stays_locked_in_a_later_attempt(mint: MemoryMint, alice: Wallet) -> None:
    lock = Lock(SecretKey.generate().compressed_public_key)
    await open_send(alice, mint, lock=lock)
    mint.rotate_keyset()
    await assert_sent(alice, mint)
    token = (await alice.settle("op")).token
    assert all(parse_lock(proof.secret) == lock for proof in token.proofs)


async def test_a_token_of_given_coins_keeps_them_in_a_later_attempt(mint: MemoryMint, alice: Wallet) -> None:
    lock = Lock(SecretKey.generate().compressed_public_key)
    plan = await alice.plan_send(
        mint.url,
        100,
        op_id="op",
        purpose="t",
        lock=lock,
        amounts=escrow_amounts(100),
        include_fees=True,
        record=True,
    )
    assert plan.send_sat == 101
    mint.rotate_keyset()
    token = (await alice.settle("op")).token
    assert sorted(proof.amount for proof in token.proofs) == sorted([*escrow_amounts(100), 1])
    assert mint.asked["/v1/swap"] == 2
    assert all(parse_lock(proof.secret) == lock for proof in token.proofs)


@pytest.mark.parametrize(
    "amounts", [[], [64, 32], [64, 32, 3, 1], [64, 32, 4, 0], [128, -28], [100]], ids=str
)
async def test_given_coins_are_powers_of_two_and_the_whole_sum(
    mint: MemoryMint, alice: Wallet, amounts: list[int]
) -> None:
    with pytest.raises(ValueError, match="powers of two"):
        await alice.plan_send(mint.url, 100, op_id="op", purpose="t", amounts=amounts)
    with pytest.raises(LimitExceeded, match="no coins of"):
        await alice.plan_send(mint.url, 2**24, op_id="op", purpose="t", amounts=[2**24])


async def test_recover_names_what_stays_open(mint: MemoryMint, alice: Wallet) -> None:
    await open_send(alice, mint)
    mint.down = True
    assert await alice.recover() == ["op"]


async def test_a_new_process_looks_before_it_asks(mint: MemoryMint, alice: Wallet) -> None:
    await open_send(alice, mint)
    again = Wallet(alice._desk)
    mint.asked.clear()
    await assert_sent(again, mint)
    assert next(iter(mint.asked)) == "/v1/checkstate"


async def test_outputs_of_every_attempt_are_kept_and_restored(mint: MemoryMint, alice: Wallet) -> None:
    """The first request arrives late: after a refusal, and after a second attempt with other outputs was made."""
    await open_send(alice, mint)
    genuine, seen = mint._swap, []

    def keep_back(inputs, outputs):
        seen.append((inputs, outputs))
        if len(seen) == 2:
            raise MintError(mint_code=0, detail="busy")
        raise MintUnavailable("lost")

    mint._swap = keep_back
    with pytest.raises(MintUnavailable):
        await alice.settle("op")
    assert seen[0][1] == seen[1][1] != seen[2][1]
    genuine(*seen[0])
    await assert_sent(alice, mint)


async def test_three_refusals_free_our_coins(mint: MemoryMint, alice: Wallet) -> None:
    await open_send(alice, mint)
    for _ in range(3):
        mint.refuse("/v1/swap", code=10001, detail="no")
    outcome = await alice.settle("op")
    assert (outcome.state, outcome.token, outcome.fee_sat) == (State.FAILED, None, 0)
    assert "no" in outcome.error
    assert await sat(alice) == 1000
    assert (await alice.audit(ask_mints=True)).ok
    assert (await alice.send(mint.url, 900)).amount == 900


async def test_a_dearer_keyset_may_be_more_than_the_coins_are_worth(mint: MemoryMint, alice: Wallet) -> None:
    await open_send(alice, mint, 998)
    plan = (await alice._desk.db.one("SELECT * FROM wallet_operations WHERE op_id = 'op'"))["keep_sat"]
    assert plan == 1
    old = next(iter(mint.keysets))
    mint.keysets[old] = mint.keysets[old].__class__(
        old, "sat", True, 900, None, mint.keysets[old].keys
    )  # a mint that raises the fee of a v2 keyset breaks its id
    mint.refuse("/v1/swap")
    with pytest.raises(MintUnavailable, match="hash to"):
        await alice.settle("op")


async def test_a_v1_keyset_may_raise_its_fee(clock: ManualClock, make_wallet, mint: MemoryMint) -> None:
    mint._keyset_version = 1
    mint.rotate_keyset(100)
    alice = await make_wallet("alice", 1000)
    await open_send(alice, mint, 900)
    active = next(k for k in mint.keysets.values() if k.active)
    mint.keysets[active.id] = active.__class__(active.id, "sat", True, 800, None, active.keys)
    outcome = await alice.settle("op")
    assert (outcome.state, outcome.sent_sat) == (State.DONE, 900)
    assert outcome.fee_sat == mint.fees_sat > 1
    await open_send_again(alice, mint)


async def open_send_again(alice: Wallet, mint: MemoryMint) -> None:
    """All that is left does not reach for the risen fee: the swap fails and the coins are free."""
    rest = await sat(alice)
    await record(alice, await alice.plan_send(mint.url, rest - 8, op_id="rest", purpose="test"))
    active = next(k for k in mint.keysets.values() if k.active)
    mint.keysets[active.id] = active.__class__(active.id, "sat", True, 9000, None, active.keys)
    assert (await alice.settle("rest")).state is State.FAILED
    assert await sat(alice) == rest


async def test_coins_spent_elsewhere_are_lost_and_the_others_free(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    """As if another machine used our seed: one of the inputs is spent for outputs that are not ours."""
    await open_send(alice, mint, 900)
    from wallet import queries

    inputs = await queries.held_proofs(alice._desk.db, "op")
    stolen = max(inputs.values(), key=lambda proof: proof.amount)
    await bob.receive(Token(mint.url, (stolen,)))
    outcome = await alice.settle("op")
    assert outcome.state is State.LOST
    assert f"{stolen.amount} of" in outcome.error
    assert await sat(alice) == 1000 - stolen.amount
    report = await alice.audit(ask_mints=True)
    assert report.ok
    assert report.accounts["lost"] == 1000 * stolen.amount
    assert await alice.settle("op") == outcome


async def test_foreign_coins_spent_between_plan_and_settle(
    mint: MemoryMint, alice: Wallet, bob: Wallet, make_wallet
) -> None:
    carol = await make_wallet("carol")
    token = await alice.send(mint.url, 96)
    await record(bob, await bob.plan_redeem(token, op_id="op", purpose="test"))
    await carol.receive(Token(mint.url, token.proofs[:1]))
    outcome = await bob.settle("op")
    assert (outcome.state, outcome.received_sat) == (State.LOST, 0)
    assert await sat(bob) == 0
    with pytest.raises(AlreadySpent):
        await bob.receive(token)
    assert (await bob.receive(Token(mint.url, token.proofs[1:]))).state is State.DONE  # the rest was let go
    assert (await bob.audit()).accounts == (await bob.audit()).accounts
    assert "lost" not in (await bob.audit()).accounts


async def test_a_refund_that_came_too_late_tells_who_was_first(
    mint: MemoryMint, alice: Wallet, bob: Wallet, clock: ManualClock
) -> None:
    provider, refund = SecretKey.generate(), SecretKey.generate()
    lock = Lock(provider.compressed_public_key, clock.now() + 60, (refund.compressed_public_key,))
    await open_send(alice, mint, 64, lock=lock)
    token = (await alice.settle("op")).token
    await clock.advance(61)
    await record(alice, await alice.plan_reclaim("op", op_id="refund", purpose="test", key=refund))
    await bob.receive(token, [provider])
    assert (await alice.settle("refund")).state is State.LOST
    row = await alice._desk.db.one("SELECT witness FROM wallet_proofs WHERE made_by = 'op' AND role = 'send'")
    keys = (lock.pubkey, *lock.refund)
    assert signers(token.proofs[0].secret, row["witness"], keys) == {provider.compressed_public_key}
    assert (await alice.audit()).ok


async def test_coins_pending_at_the_mint_wait(mint: MemoryMint, alice: Wallet) -> None:
    from wallet import queries

    await open_send(alice, mint)
    mint._pending = set(await queries.held_proofs(alice._desk.db, "op"))
    with pytest.raises(MintUnavailable, match="still working"):
        await alice.settle("op")
    mint._pending = set()
    await assert_sent(alice, mint)


async def test_half_a_restore_is_no_restore(mint: MemoryMint, alice: Wallet) -> None:
    await open_send(alice, mint)
    mint.lose_answer("/v1/swap")
    hidden: list[tuple[str, dict]] = []
    genuine = mint._swap

    def forget_one(inputs, outputs):
        answer = genuine(inputs, outputs)
        hidden.append(mint.signed.popitem())
        return answer

    mint._swap = forget_one
    with pytest.raises(MintUnavailable, match="restored"):
        await alice.settle("op")
    mint.signed.update(hidden)
    await assert_sent(alice, mint)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s | {"amount": s["amount"] * 2},
        lambda s: s | {"id": "01" + "00" * 32},
        lambda s: s | {"dleq": None},
        lambda s: s | {"C_": "02" + "00" * 32},
        lambda s: s | {"C_": "00"},
    ],
)
async def test_signatures_are_checked_on_swap_and_on_restore(mint: MemoryMint, alice: Wallet, spoil) -> None:
    await open_send(alice, mint)
    genuine = mint._swap

    def spoiled(inputs, outputs):
        answer = genuine(inputs, outputs)
        output = outputs[0]["B_"]
        hidden[output] = mint.signed[output]
        mint.signed[output] = spoil(mint.signed[output])
        return [mint.signed[output], *answer[1:]]

    hidden: dict[str, dict] = {}
    mint._swap = spoiled
    with pytest.raises(MintUnavailable):
        await alice.settle("op")
    mint.signed.update(hidden)
    await assert_sent(alice, mint)


async def test_a_mint_that_signs_less_than_it_was_asked_is_not_believed(
    mint: MemoryMint, alice: Wallet
) -> None:
    """Honest signatures, with the key of a smaller coin."""
    await open_send(alice, mint)
    genuine = mint._sign
    mint._sign = lambda outputs: genuine([output | {"amount": 1} for output in outputs])
    with pytest.raises(MintUnavailable, match="wrong signatures"):
        await alice.settle("op")
    assert await alice.outcome("op") is None


async def test_plain_and_locked_outputs_share_one_sequence_of_counters(
    mint: MemoryMint, alice: Wallet
) -> None:
    lock = Lock(SecretKey.generate().compressed_public_key)
    await open_send(alice, mint, lock=lock)
    await alice.settle("op")
    await alice.send(mint.url, 50)
    rows = await alice._desk.db.all("SELECT counter, secret, role FROM wallet_outputs ORDER BY counter")
    assert [row["counter"] for row in rows] == list(range(len(rows)))
    keyset_id = next(iter(mint.keysets))
    for row in rows:
        nonce, _ = alice._desk.seed.output_secret(keyset_id, row["counter"])
        assert nonce in row["secret"]
        assert (row["secret"] == nonce) != (row["secret"].startswith("["))


async def test_a_cancelled_settle_is_finished_by_the_next(mint: MemoryMint, alice: Wallet) -> None:
    import asyncio

    await open_send(alice, mint)
    mint.stall = asyncio.Event()
    task = asyncio.create_task(alice.settle("op"))
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    mint.stall = None
    await assert_sent(alice, mint)


def test_share() -> None:
    from wallet.operations import Kind

    assert share(Kind.SEND, 100, 1, send_sat=60, keep_sat=0) == (60, 39)
    assert share(Kind.SEND, 100, 1, send_sat=100, keep_sat=0) is None
    assert share(Kind.RETURN, 100, 1, send_sat=0, keep_sat=9) == (90, 9)
    assert share(Kind.RETURN, 100, 1, send_sat=0, keep_sat=99) is None
    assert share(Kind.REDEEM, 100, 1, send_sat=0, keep_sat=0) == (0, 99)
    assert share(Kind.RECLAIM, 1, 1, send_sat=0, keep_sat=0) is None
