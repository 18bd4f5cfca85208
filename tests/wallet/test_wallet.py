"""The wallet's public face, at a mint that does nothing wrong."""

import asyncio
from dataclasses import replace

import pytest

from identity import SecretKey
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.errors import (
    Action,
    AlreadySpent,
    InsufficientFunds,
    InvalidProof,
    InvalidRequest,
    InvalidToken,
    LimitExceeded,
    MintUnavailable,
    UnknownMint,
    WalletError,
    WrongLock,
)
from wallet.invoice import parse_invoice
from wallet.operations import State
from wallet.proofs import Lock, Token
from wallet.token import encode_token, parse_token
from wallet.wallet import Wallet


async def record(wallet: Wallet, plan) -> None:
    async with wallet._desk.db.transaction() as tx:
        await wallet.record(tx, plan)


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


async def assert_books(*wallets: Wallet) -> None:
    for wallet in wallets:
        report = await wallet.audit(ask_mints=True)
        assert report.ok, report.problems


async def test_funding_claims_by_state(mint: MemoryMint, bob: Wallet) -> None:
    quote = await bob.mint_quote(mint.url + "/", 300)
    assert await bob.claim(quote.id) is None
    assert await sat(bob) == 0
    mint.pay(quote.bolt11)
    outcome = await bob.claim(quote.id)
    assert outcome is not None
    assert (outcome.state, outcome.received_sat, outcome.fee_sat) == (State.DONE, 300, 0)
    assert await bob.claim(quote.id) == outcome
    assert await sat(bob) == 300
    assert mint.asked["/v1/mint/bolt11"] == 1
    await assert_books(bob)


async def test_concurrent_claims_mint_once(mint: MemoryMint, bob: Wallet) -> None:
    quote = await bob.mint_quote(mint.url, 300)
    mint.pay(quote.bolt11)
    first, *others = await asyncio.gather(*(bob.claim(quote.id) for _ in range(5)))
    assert all(outcome == first for outcome in others)
    assert await sat(bob) == 300
    assert mint.asked["/v1/mint/bolt11"] == 1


async def test_quote_is_locked_to_our_key(mint: MemoryMint, bob: Wallet) -> None:
    quote = await bob.mint_quote(mint.url, 300)
    assert mint._mint_quotes[quote.id].pubkey is not None


async def test_unpaid_quote_is_given_up_only_long_after_its_expiry(
    mint: MemoryMint, bob: Wallet, clock: ManualClock
) -> None:
    mint.quote_seconds = 600
    quote = await bob.mint_quote(mint.url, 300)
    await clock.advance(7200)
    await bob.recover()
    asked = mint.asked[f"/v1/mint/quote/bolt11/{quote.id}"]
    await clock.advance(86_400)
    for _ in range(60):
        await clock.advance(60)
        await bob.recover()
    assert mint.asked[f"/v1/mint/quote/bolt11/{quote.id}"] == asked + 1
    mint.pay(quote.bolt11)
    assert await bob.claim(quote.id)  # still possible by hand


async def test_recover_claims_a_quote_paid_meanwhile_whatever_its_expiry(
    mint: MemoryMint, bob: Wallet, clock: ManualClock
) -> None:
    mint.quote_seconds = 600
    quote = await bob.mint_quote(mint.url, 300)
    mint.pay(quote.bolt11)
    await clock.advance(90 * 86_400)
    assert await bob.recover() == []
    assert await sat(bob) == 300


async def test_send_and_receive(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    token = await alice.send(mint.url, 100)
    assert token.amount == 100
    assert token.mint == mint.url
    assert all(proof.dleq is not None and proof.dleq.r is not None for proof in token.proofs)
    outcome = await bob.receive(parse_token(encode_token(token)))
    assert (outcome.state, outcome.received_sat, outcome.fee_sat, outcome.token) == (State.DONE, 99, 1, None)
    assert await sat(alice) + await sat(bob) + mint.fees_sat == 1000
    assert mint.outstanding_sat == await sat(alice) + await sat(bob)
    await assert_books(alice, bob)


@pytest.mark.parametrize("ppk", [0, 1, 100, 999, 1000])
@pytest.mark.parametrize("amount", [1, 21, 255])
async def test_include_fees_makes_the_net_amount_exact_or_a_little_more(
    mint: MemoryMint, make_wallet, ppk: int, amount: int
) -> None:
    mint.rotate_keyset(ppk)
    alice, bob = await make_wallet("alice", 1000), await make_wallet("bob")
    token = await alice.send(mint.url, amount, include_fees=True)
    outcome = await bob.receive(token)
    assert amount <= outcome.received_sat <= amount + 1
    await assert_books(alice, bob)


async def test_fifty_concurrent_sends_share_few_coins(mint: MemoryMint, alice: Wallet) -> None:
    tokens = await asyncio.gather(*(alice.send(mint.url, 7) for _ in range(50)))
    assert [token.amount for token in tokens] == [7] * 50
    secrets = [proof.secret for token in tokens for proof in token.proofs]
    assert len(set(secrets)) == len(secrets)
    assert await sat(alice) + 350 + mint.fees_sat == 1000
    await assert_books(alice)


async def test_more_concurrent_sends_than_money(mint: MemoryMint, alice: Wallet) -> None:
    results = await asyncio.gather(*(alice.send(mint.url, 300) for _ in range(5)), return_exceptions=True)
    tokens = [result for result in results if isinstance(result, Token)]
    assert len(tokens) == 3
    assert all(isinstance(r, (Token, InsufficientFunds)) for r in results)
    assert await sat(alice) + 900 + mint.fees_sat == 1000
    await assert_books(alice)


async def test_a_send_waits_for_change_no_longer_than_it_may(
    mint: MemoryMint, alice: Wallet, clock: ManualClock
) -> None:
    plan = await alice.plan_send(mint.url, 500, op_id="idle", purpose="test")
    waiting = asyncio.ensure_future(alice.plan_send(mint.url, 490, op_id="waiting", purpose="test"))
    while not clock._sleepers:
        await asyncio.sleep(0)
    await clock.advance(31)
    with pytest.raises(InsufficientFunds):
        await asyncio.wait_for(waiting, 5)
    waiting = asyncio.ensure_future(alice.plan_send(mint.url, 490, op_id="waiting", purpose="test"))
    await asyncio.sleep(0)
    await alice.release(plan)
    assert (await asyncio.wait_for(waiting, 5)).send_sat == 490


async def test_insufficient_funds(mint: MemoryMint, alice: Wallet) -> None:
    with pytest.raises(InsufficientFunds) as caught:
        await alice.send(mint.url, 1000)  # the fee is missing
    assert caught.value.action is Action.FUND
    assert await sat(alice) == 1000


async def test_a_plan_is_nothing_until_it_is_recorded(mint: MemoryMint, alice: Wallet) -> None:
    plan = await alice.plan_send(mint.url, 100, op_id="a", purpose="test")
    assert plan.send_sat + plan.keep_sat + plan.fee_sat <= 1000
    assert await alice.outcome("a") is None
    with pytest.raises(WalletError, match="never recorded"):
        await alice.settle("a")
    assert mint.asked["/v1/swap"] == 0
    await alice.release(plan)
    await alice.release(plan)
    assert await sat(alice) == 1000
    with pytest.raises(WalletError, match="given up"):
        await record(alice, plan)
    with pytest.raises(WalletError, match="never recorded"):
        await alice.settle("never heard of")


async def test_recording_is_undone_with_the_callers_transaction(mint: MemoryMint, alice: Wallet) -> None:
    plan = await alice.plan_send(mint.url, 100, op_id="a", purpose="test")
    with pytest.raises(RuntimeError):
        async with alice._desk.db.transaction() as tx:
            await alice.record(tx, plan)
            raise RuntimeError
    with pytest.raises(WalletError):
        await alice.settle("a")
    await record(alice, plan)  # still planned, so it can be recorded after all
    assert (await alice.settle("a")).sent_sat == 100


async def test_planning_again_replaces_a_plan_but_no_operation(mint: MemoryMint, alice: Wallet) -> None:
    old = await alice.plan_send(mint.url, 100, op_id="a", purpose="test")
    new = await alice.plan_send(mint.url, 200, op_id="a", purpose="test")
    with pytest.raises(WalletError, match="replaced"):
        await record(alice, old)
    await record(alice, new)
    with pytest.raises(WalletError, match="open already"):
        await alice.plan_send(mint.url, 300, op_id="a", purpose="test")
    assert (await alice.settle("a")).sent_sat == 200
    with pytest.raises(WalletError, match="done already"):
        await alice.plan_send(mint.url, 300, op_id="a", purpose="test")
    await alice.release(new)
    assert (await alice.outcome("a")) == await alice.settle("a")


async def test_concurrent_settling_swaps_once(mint: MemoryMint, alice: Wallet) -> None:
    await record(alice, await alice.plan_send(mint.url, 100, op_id="a", purpose="test"))
    first, *others = await asyncio.gather(*(alice.settle("a") for _ in range(10)))
    assert all(outcome == first for outcome in others)
    assert mint.asked["/v1/swap"] == 1


async def test_recover_releases_only_plans_of_earlier_processes(
    mint: MemoryMint, alice: Wallet, make_wallet
) -> None:
    mine = await alice.plan_send(mint.url, 100, op_id="mine", purpose="test")
    await alice.recover()
    await record(alice, mine)
    await alice.settle("mine")
    await alice.plan_send(mint.url, 100, op_id="stale", purpose="test")
    before = await sat(alice)
    again = Wallet(alice._desk)
    assert await again.recover() == []
    assert await sat(again) > before
    assert await again.outcome("stale") is None


async def test_op_ids_are_limited(mint: MemoryMint, alice: Wallet) -> None:
    for op_id in ("", "x" * 201):
        with pytest.raises(WalletError, match="characters"):
            await alice.plan_send(mint.url, 1, op_id=op_id, purpose="test")


async def test_amounts_are_checked(mint: MemoryMint, alice: Wallet) -> None:
    for amount in (0, -5):
        with pytest.raises(ValueError, match="above zero"):
            await alice.send(mint.url, amount)
        with pytest.raises(ValueError, match="above zero"):
            await alice.mint_quote(mint.url, amount)
    with pytest.raises((LimitExceeded, InsufficientFunds)):
        await alice.send(mint.url, 10**18)
    token = await alice.send(mint.url, 8)
    with pytest.raises(ValueError, match="below zero"):
        await alice.plan_return(token, lock=None, op_id="r", purpose="test", keep_sat=-1)


async def test_unknown_mints(mint: MemoryMint, alice: Wallet) -> None:
    token = await alice.send(mint.url, 10)
    foreign = Token("https://other.test", token.proofs)
    for attempt in (
        alice.send("https://other.test", 1),
        alice.receive(foreign),
        alice.mint_quote("https://other.test", 1),
        alice.pay("https://other.test", mint.invoice(1)),
        alice.examine(foreign, mint=mint.url, lock=None, now=0),
        alice.examine(token, mint="ftp://other.test", lock=None, now=0),
    ):
        with pytest.raises(UnknownMint):
            await attempt


async def test_locked_send_needs_the_key(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    key, other = SecretKey.generate(), SecretKey.generate()
    token = await alice.send(mint.url, 64, lock=Lock(key.compressed_public_key))
    with pytest.raises(WrongLock):
        await bob.receive(token)
    with pytest.raises(WrongLock):
        await bob.receive(token, [other])
    assert (await bob.receive(token, [other, key])).received_sat == 63
    await assert_books(alice, bob)


async def test_a_sent_token_is_taken_back_once(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    await record(alice, await alice.plan_send(mint.url, 100, op_id="s", purpose="test", job_id="j"))
    token = (await alice.settle("s")).token
    assert token is not None
    await record(alice, await alice.plan_reclaim("s", op_id="r", purpose="test"))
    with pytest.raises(AlreadySpent):
        await alice.plan_reclaim("s", op_id="r2", purpose="test")
    outcome = await alice.settle("r")
    assert (outcome.state, outcome.received_sat, outcome.fee_sat) == (State.DONE, 99, 1)
    assert (await alice.outcome("s")).token == token  # what was sent does not change
    with pytest.raises(AlreadySpent):
        await bob.receive(token)
    with pytest.raises(AlreadySpent):
        await alice.plan_reclaim("s", op_id="r3", purpose="test")
    accounts = (await alice.audit()).accounts
    assert accounts["jobs/j"] == 0  # what went out for the job came back; the fees are booked as fees
    await assert_books(alice)


async def test_a_claimed_token_cannot_be_taken_back(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    await record(alice, await alice.plan_send(mint.url, 100, op_id="s", purpose="test"))
    await bob.receive((await alice.settle("s")).token)
    with pytest.raises(AlreadySpent):
        await alice.plan_reclaim("s", op_id="r", purpose="test")
    with pytest.raises(WalletError, match="made no token"):
        await alice.plan_reclaim("nothing", op_id="r", purpose="test")


async def test_what_is_left_of_a_token_is_taken_back(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    await record(alice, await alice.plan_send(mint.url, 96, op_id="s", purpose="test"))
    token = (await alice.settle("s")).token
    await bob.receive(Token(token.mint, token.proofs[:1]))
    await record(alice, await alice.plan_reclaim("s", op_id="r", purpose="test"))
    assert (await alice.settle("r")).received_sat == token.proofs[1].amount - 1
    await assert_books(alice, bob)


async def test_refund_key_opens_after_the_locktime(
    mint: MemoryMint, alice: Wallet, clock: ManualClock
) -> None:
    provider, refund = SecretKey.generate(), SecretKey.generate()
    lock = Lock(provider.compressed_public_key, clock.now() + 3600, (refund.compressed_public_key,))
    await record(alice, await alice.plan_send(mint.url, 100, lock=lock, op_id="s", purpose="test"))
    await alice.settle("s")
    with pytest.raises(WrongLock) as caught:
        await alice.plan_reclaim("s", op_id="r", purpose="test", key=refund)
    assert caught.value.action is Action.WAIT
    await clock.advance(3601)
    await record(alice, await alice.plan_reclaim("s", op_id="r", purpose="test", key=refund))
    assert (await alice.settle("r")).received_sat == 99


async def test_our_own_token_may_come_back_to_us(mint: MemoryMint, alice: Wallet) -> None:
    token = await alice.send(mint.url, 100)
    assert (await alice.receive(token)).received_sat == 99
    with pytest.raises(AlreadySpent):
        await alice.receive(token)
    await assert_books(alice)


async def test_return_locks_the_rest_for_somebody_else(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    key = SecretKey.generate()
    token = await alice.send(mint.url, 100)
    lock = Lock(key.compressed_public_key)
    plan = await bob.plan_return(token, lock=lock, op_id="r", purpose="test", keep_sat=9)
    await record(bob, plan)
    outcome = await bob.settle("r")
    assert (outcome.received_sat, outcome.sent_sat, outcome.fee_sat) == (9, 90, 1)
    assert outcome.token.amount == 90
    assert (await alice.receive(outcome.token, [key])).received_sat == 89
    await assert_books(alice, bob)


async def test_nothing_is_made_of_coins_that_are_eaten_by_the_fee(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    token = await alice.send(mint.url, 1)
    with pytest.raises(InvalidToken, match="not worth"):
        await bob.receive(token)
    token = await alice.send(mint.url, 10)
    with pytest.raises(InvalidToken, match="not worth"):
        await bob.plan_return(token, lock=None, op_id="r", purpose="test", keep_sat=9)
    assert (await bob.receive(token)).received_sat == 9  # the refused plan did not keep the coins


async def test_one_coin_funds_one_operation(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    token = await alice.send(mint.url, 100)
    await record(bob, await bob.plan_redeem(token, op_id="a", purpose="test"))
    with pytest.raises(AlreadySpent) as caught:
        await bob.plan_redeem(token, op_id="b", purpose="test")
    assert caught.value.action is Action.WAIT
    await bob.settle("a")
    with pytest.raises(AlreadySpent):
        await bob.plan_redeem(token, op_id="b", purpose="test")
    assert await sat(bob) == 99


async def test_pay_returns_what_was_overpaid(mint: MemoryMint, alice: Wallet) -> None:
    mint.lightning_fee_sat = 1
    outcome = await alice.pay(mint.url, mint.invoice(200))
    assert (outcome.state, outcome.sent_sat) == (State.DONE, 200)
    assert await sat(alice) == 1000 - 200 - outcome.fee_sat
    assert outcome.fee_sat == 1 + mint.fees_sat
    await assert_books(alice)


async def test_pay_between_wallets_of_one_mint(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    quote = await bob.mint_quote(mint.url, 50)
    await alice.pay(mint.url, quote.bolt11)
    assert (await bob.claim(quote.id)).received_sat == 50


async def test_failed_payment_gives_fresh_coins_back(mint: MemoryMint, alice: Wallet) -> None:
    mint.melts = Melts.FAILED
    outcome = await alice.pay(mint.url, mint.invoice(200))
    assert (outcome.state, outcome.sent_sat) == (State.FAILED, 0)
    assert "failed" in outcome.error
    assert await sat(alice) == 1000 - outcome.fee_sat
    await assert_books(alice)


@pytest.mark.parametrize("paid", [True, False])
async def test_payment_in_flight_is_finished_later(mint: MemoryMint, alice: Wallet, paid: bool) -> None:
    mint.melts = Melts.PENDING
    with pytest.raises(MintUnavailable) as caught:
        await alice.pay(mint.url, mint.invoice(200))
    assert caught.value.action is Action.WAIT
    assert len(await alice.recover()) == 1
    mint.finish_melt(paid=paid)
    assert await alice.recover() == []
    entry = (await alice.history())[0]
    assert entry.state is (State.DONE if paid else State.FAILED)
    assert await sat(alice) == 1000 - entry.fee_sat - entry.sent_sat
    await assert_books(alice)


async def test_invoices_are_checked(mint: MemoryMint, alice: Wallet, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "lnbc1", "not an invoice", "x" * 5000):
        with pytest.raises(InvalidRequest):
            await alice.pay(mint.url, text)
    invoice = mint.invoice(100)
    other = replace(parse_invoice(invoice), amount_msat=90_000)
    monkeypatch.setattr("wallet.quotes.parse_invoice", lambda _text: other)
    with pytest.raises(InvalidRequest, match="asks 100 sat"):
        await alice.pay(mint.url, invoice)
    with pytest.raises(InvalidRequest, match="another amount"):
        await alice.mint_quote(mint.url, 100)
    assert await sat(alice) == 1000


async def test_expired_invoices_are_not_paid(mint: MemoryMint, alice: Wallet, clock: ManualClock) -> None:
    invoice = mint.invoice(100)
    await clock.advance(3600)
    with pytest.raises(InvalidRequest, match="expired"):
        await alice.pay(mint.url, invoice)
    assert await sat(alice) == 1000


async def test_least_fee_and_mints(mint: MemoryMint, bob: Wallet) -> None:
    assert bob.mints == (mint.url,)
    mint.rotate_keyset(300)
    assert [await bob.least_fee(mint.url, amount) for amount in (1, 7, 15, 1023)] == [1, 1, 2, 3]
    with pytest.raises(UnknownMint):
        await bob.least_fee("https://other.test", 1)


async def test_a_failed_send_and_unknown_quotes_are_errors(mint: MemoryMint, alice: Wallet) -> None:
    for _ in range(3):
        mint.refuse("/v1/swap", detail="closed today")
    with pytest.raises(WalletError, match="closed today"):
        await alice.send(mint.url, 10)
    with pytest.raises(WalletError, match="no such quote"):
        await alice.claim("unheard of")
    with pytest.raises(InvalidRequest, match="names no amount"):
        await alice.pay(mint.url, mint.invoice(0))


async def test_two_processes_on_one_file_close_an_operation_once(mint: MemoryMint, alice: Wallet) -> None:
    other = Wallet(alice._desk)  # knows nothing of alice's locks
    await record(alice, await alice.plan_send(mint.url, 100, op_id="a", purpose="test"))
    first, second = await asyncio.gather(alice.settle("a"), other.settle("a"))
    assert first == second
    assert await sat(alice) == 1000 - 100 - first.fee_sat
    await assert_books(alice)


async def test_a_plan_that_cannot_make_its_coins_is_released(
    mint: MemoryMint, alice: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments, **_named) -> None:
        raise InvalidProof("broken")

    monkeypatch.setattr("wallet.operations_plan.make_outputs", broken)
    with pytest.raises(InvalidProof):
        await alice.plan_send(mint.url, 100, op_id="a", purpose="test")
    assert await sat(alice) == 1000


async def test_history_is_newest_first_and_limited(
    mint: MemoryMint, alice: Wallet, clock: ManualClock
) -> None:
    for amount in (1, 2, 3):
        await clock.advance(1)
        await alice.send(mint.url, amount)
    assert [entry.sent_sat for entry in await alice.history(2)] == [3, 2]
    entry = (await alice.history())[-1]
    assert (entry.kind, entry.received_sat, entry.closed_at) == ("mint", 1000, entry.created_at)


async def test_nothing_prints_money(
    mint: MemoryMint, alice: Wallet, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = await alice.plan_send(mint.url, 100, op_id="a", purpose="test")
    await record(alice, plan)
    outcome = await alice.settle("a")
    printed = repr((plan, outcome, plan.outputs, outcome.token)) + capsys.readouterr().out
    for proof in outcome.token.proofs:
        assert proof.secret not in printed
        assert proof.C not in printed
