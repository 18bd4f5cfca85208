"""Minting and paying at a mint that fails in every way we know."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.errors import MintUnavailable
from wallet.operations import Outcome, State
from wallet.operations_quote import ATTEMPTS_MAX
from wallet.wallet import Wallet

Break = Callable[[MemoryMint], object]


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


async def paid_quote(mint: MemoryMint, wallet: Wallet) -> str:
    quote = await wallet.mint_quote(mint.url, 300)
    mint.pay(quote.bolt11)
    return quote.id


@pytest.mark.parametrize(
    "fault",
    [
        lambda mint: mint.lose_answer("/v1/mint/bolt11"),
        lambda mint: mint.lose_request("/v1/mint/bolt11"),
        lambda mint: mint.refuse("/v1/mint/bolt11", code=20002, detail="a lie: already issued"),
        lambda mint: mint.refuse("/v1/mint/bolt11", code=11003, detail="a lie: already signed"),
        lambda mint: mint.rotate_keyset(),
    ],
)
async def test_minting_heals_within_one_claim(mint: MemoryMint, bob: Wallet, fault: Break) -> None:
    quote_id = await paid_quote(mint, bob)
    await bob._desk.keyring.keysets(mint.url)
    fault(mint)
    outcome = await bob.claim(quote_id)
    assert (outcome.state, outcome.received_sat) == (State.DONE, 300)
    assert await sat(bob) == 300 == mint.outstanding_sat
    assert (await bob.audit(ask_mints=True)).ok


@pytest.mark.parametrize(
    "fault",
    [
        lambda mint: [mint.lose_answer("/v1/mint/bolt11"), mint.lose_request("/v1/restore")],
        lambda mint: [mint.lose_answer("/v1/mint/bolt11"), mint.lose_request("/v1/mint/quote")],
        lambda mint: [mint.lose_answer("/v1/mint/bolt11"), mint.refuse("/v1/mint/quote")],
        lambda mint: setattr(mint, "wrong_dleq", True),
    ],
)
async def test_minting_stays_open_until_the_mint_is_clear(
    mint: MemoryMint, bob: Wallet, fault: Break
) -> None:
    quote = await bob.mint_quote(mint.url, 300)
    genuine, states = mint._answer, iter([None])

    def pay_then_break(method, path, body):
        if path.startswith("/v1/mint/quote/bolt11/") and next(states, 1) is None:
            answer = genuine(method, path, body)
            fault(mint)  # from now on, not before the claim was begun
            return answer
        return genuine(method, path, body)

    mint.pay(quote.bolt11)
    mint._answer = pay_then_break
    with pytest.raises(MintUnavailable):
        await bob.claim(quote.id)
    assert await sat(bob) == 0
    if mint.wrong_dleq:
        mint.wrong_dleq = False
        mint.sign_again()
    assert await bob.recover() == []
    assert await sat(bob) == 300 == mint.outstanding_sat


async def test_a_paid_quote_is_never_given_up(mint: MemoryMint, bob: Wallet) -> None:
    """nutshell refuses paid quotes after their expiry; the sats are there, so we go on asking, with bounded outputs."""
    quote_id = await paid_quote(mint, bob)
    for _ in range(20):
        for _ in range(3):
            mint.refuse("/v1/mint/bolt11", detail="quote expired")
        with pytest.raises(MintUnavailable, match="was paid and does not mint"):
            await bob.claim(quote_id)
        mint._next_faults.clear()
    attempts = await bob._desk.db.one("SELECT MAX(attempt) AS last FROM wallet_outputs")
    assert attempts["last"] == ATTEMPTS_MAX - 1
    assert await bob.recover() == []
    assert await sat(bob) == 300


async def test_a_quote_that_somebody_else_minted_is_lost(mint: MemoryMint, bob: Wallet) -> None:
    quote_id = await paid_quote(mint, bob)
    mint.lose_request("/v1/mint/bolt11")
    genuine = mint._answer

    def steal(method, path, body):
        if path == "/v1/restore":
            mint._mint_quotes[quote_id].state = "ISSUED"
        return genuine(method, path, body)

    mint._answer = steal
    mint.lose_request("/v1/mint/bolt11")
    mint.lose_request("/v1/mint/bolt11")
    outcome = await bob.claim(quote_id)
    assert (outcome.state, outcome.received_sat) == (State.LOST, 0)
    assert "300 sat" in outcome.error


async def test_a_quote_that_is_suddenly_unpaid_waits(mint: MemoryMint, bob: Wallet) -> None:
    quote_id = await paid_quote(mint, bob)
    genuine = mint._mint

    def busy(quote, outputs, signature):
        mint._mint_quotes[quote].state = "PENDING"
        return genuine(quote, outputs, signature)

    mint._mint = busy
    with pytest.raises(MintUnavailable, match="still working"):
        await bob.claim(quote_id)
    mint._mint = genuine
    mint._mint_quotes[quote_id].state = "PAID"
    assert await bob.recover() == []
    assert await sat(bob) == 300


async def test_recover_outlives_a_mint_that_is_down(mint: MemoryMint, bob: Wallet) -> None:
    quote_id = await paid_quote(mint, bob)
    mint.down = True
    assert await bob.recover() == []
    mint.down = False
    assert (await bob.claim(quote_id)).received_sat == 300


async def pay(mint: MemoryMint, wallet: Wallet) -> Outcome:
    return await wallet.pay(mint.url, mint.invoice(200))


async def assert_paid(mint: MemoryMint, wallet: Wallet, outcome: Outcome | None = None) -> None:
    entry = (await wallet.history())[0]
    assert (entry.kind, entry.state, entry.sent_sat) == ("melt", State.DONE, 200)
    assert await sat(wallet) == 1000 - 200 - entry.fee_sat == mint.outstanding_sat
    assert (await wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("lightning_fee", [0, 1, 2])
async def test_a_payment_whose_answer_is_lost(mint: MemoryMint, alice: Wallet, lightning_fee: int) -> None:
    mint.lightning_fee_sat = lightning_fee
    mint.lose_answer("/v1/melt/bolt11")
    outcome = await pay(mint, alice)
    await assert_paid(mint, alice)
    assert outcome.fee_sat == mint.fees_sat + lightning_fee


@pytest.mark.parametrize("path", ["/v1/checkstate", "/v1/restore", "/v1/melt/quote"])
@pytest.mark.parametrize("how", ["lose_request", "refuse"])
async def test_a_payment_that_cannot_be_read_stays_open(
    mint: MemoryMint, alice: Wallet, path: str, how: str
) -> None:
    mint.lose_answer("/v1/melt/bolt11")
    invoice = mint.invoice(200)
    genuine = mint._melt

    def then_fail(*arguments):
        getattr(mint, how)(path)
        return genuine(*arguments)

    mint._melt = then_fail
    with pytest.raises(MintUnavailable):
        await alice.pay(mint.url, invoice)
    assert await alice.recover() == []
    await assert_paid(mint, alice)


async def test_a_payment_that_never_arrived_is_not_made_later(mint: MemoryMint, alice: Wallet) -> None:
    mint.lose_request("/v1/melt/bolt11")
    outcome = await pay(mint, alice)
    assert (outcome.state, outcome.sent_sat) == (State.FAILED, 0)
    assert await sat(alice) == 1000 - outcome.fee_sat == mint.outstanding_sat
    assert (await alice.audit(ask_mints=True)).ok


@pytest.mark.parametrize("state", ["PAID", "UNPAID"])
async def test_what_the_quote_says_waits_for_what_the_coins_say(
    mint: MemoryMint, alice: Wallet, state: str
) -> None:
    """nutshell calls an internal payment PAID before it signs the change, while the inputs are still PENDING."""
    mint.melts = Melts.PENDING
    with pytest.raises(MintUnavailable):
        await pay(mint, alice)
    (quote,) = mint._melt_quotes.values()
    quote.state = state
    assert len(await alice.recover()) == 1
    assert mint.asked["/v1/swap"] == 0
    quote.state = "PENDING"
    mint.finish_melt(paid=True)
    assert await alice.recover() == []
    await assert_paid(mint, alice)


async def test_an_answer_that_says_paid_and_is_not_believed(mint: MemoryMint, alice: Wallet) -> None:
    """More change than blanks, and change whose proofs are wrong, count as no answer; restore decides."""
    genuine = mint._melt

    def too_much(*arguments):
        answer = genuine(*arguments)
        return answer | {"change": answer["change"] * 20}

    mint._melt = too_much
    await pay(mint, alice)
    await assert_paid(mint, alice)


async def test_change_in_another_order_is_restored(mint: MemoryMint, alice: Wallet) -> None:
    genuine = mint._melt

    def shuffled(*arguments):
        answer = genuine(*arguments)
        return answer | {"change": answer["change"][::-1]}

    mint._melt = shuffled
    await pay(mint, alice)
    await assert_paid(mint, alice)


async def test_a_failed_payment_returns_through_faults(mint: MemoryMint, alice: Wallet) -> None:
    mint.melts = Melts.FAILED
    mint.lose_answer("/v1/swap")
    outcome = await pay(mint, alice)
    assert outcome.state is State.FAILED
    assert await sat(alice) == 1000 - outcome.fee_sat == mint.outstanding_sat


async def test_a_mint_that_refuses_to_give_back(mint: MemoryMint, alice: Wallet) -> None:
    mint.melts = Melts.FAILED
    for _ in range(6):
        mint.refuse("/v1/swap")
    with pytest.raises(MintUnavailable, match="neither pays nor gives"):
        await pay(mint, alice)
    assert len(await alice.recover()) == 1
    mint.rotate_keyset()
    assert await alice.recover() == []
    assert (await alice.history())[0].state is State.FAILED
    assert (await alice.audit(ask_mints=True)).ok


async def test_the_late_request_wins_against_the_return(mint: MemoryMint, alice: Wallet) -> None:
    """The payment counts as unpaid, and while we take the coins back the first request arrives after all."""
    late = []
    genuine_melt, genuine_swap = mint._melt, mint._swap

    def swallow(*arguments):
        late.append(arguments)
        raise MintUnavailable("lost")

    def too_late(*arguments):
        if late:
            genuine_melt(*late.pop())
        return genuine_swap(*arguments)

    mint._melt, mint._swap = swallow, too_late
    await pay(mint, alice)
    await assert_paid(mint, alice)


async def test_coins_of_a_payment_that_somebody_else_spent(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    from wallet import queries
    from wallet.proofs import Token

    mint.melts = Melts.FAILED
    mint.lose_request("/v1/swap")
    mint.lose_request("/v1/swap")
    mint.lose_request("/v1/swap")
    with pytest.raises(MintUnavailable):
        await pay(mint, alice)
    (op_id,) = [op.op_id for op in await queries.live_operations(alice._desk.db, State.OPEN)]
    stolen = list((await queries.held_proofs(alice._desk.db, op_id)).values())
    mint._next_faults.clear()
    await bob.receive(Token(mint.url, tuple(stolen[-1:])))
    outcome = await alice.settle(op_id)
    assert outcome.state is State.LOST
    assert (await alice.audit(ask_mints=True)).ok
    assert (await alice.audit()).accounts["lost"] == 1000 * stolen[-1].amount


async def test_paying_exactly_without_blanks(mint: MemoryMint, make_wallet) -> None:
    mint.rotate_keyset(0)
    mint.fee_reserve_sat = 0
    wallet = await make_wallet("exact", 200)
    outcome = await wallet.pay(mint.url, mint.invoice(200))
    assert (outcome.state, outcome.sent_sat, outcome.fee_sat) == (State.DONE, 200, 0)
    assert await sat(wallet) == 0 == mint.outstanding_sat


async def test_a_failed_payment_without_blanks(mint: MemoryMint, make_wallet) -> None:
    mint.rotate_keyset(0)
    mint.fee_reserve_sat = 0
    mint.melts = Melts.FAILED
    wallet = await make_wallet("exact", 200)
    assert (await wallet.pay(mint.url, mint.invoice(200))).state is State.FAILED
    assert await sat(wallet) == 200


async def test_coins_not_worth_the_fee_of_the_return_are_let_go(mint: MemoryMint, make_wallet) -> None:
    mint._keyset_version = 1
    keyset_id = mint.rotate_keyset(0)
    wallet = await make_wallet("small", 4)
    mint.melts = Melts.FAILED
    genuine = mint._melt

    def then_raise_the_fee(*arguments):
        mint.keysets[keyset_id] = replace(mint.keysets[keyset_id], input_fee_ppk=9000)
        return genuine(*arguments)

    mint._melt = then_raise_the_fee
    outcome = await wallet.pay(mint.url, mint.invoice(1))
    assert (outcome.state, outcome.fee_sat) == (State.FAILED, 0)
    assert await sat(wallet) == 4


async def test_a_plan_says_what_routing_may_cost(mint: MemoryMint, alice: Wallet) -> None:
    mint.fee_reserve_sat = 7
    plan = await alice.plan_pay(mint.url, mint.invoice(100), op_id="pay", purpose="x")
    assert (plan.send_sat, plan.reserve_sat) == (100, 7)
    assert plan.keep_sat >= plan.reserve_sat
    await alice.release(plan)


async def test_an_expired_invoice_is_asked_for_every_half_hour_and_once_at_the_start(
    mint: MemoryMint, bob: Wallet, clock: ManualClock
) -> None:
    await bob.recover()
    mint.quote_seconds = 600
    quote = await bob.mint_quote(mint.url, 300)
    path = f"/v1/mint/quote/bolt11/{quote.id}"

    async def asked(minutes: int) -> int:
        before = mint.asked[path]
        for _ in range(minutes):
            await clock.advance(60)
            await bob.recover()
        return mint.asked[path] - before

    assert await asked(10) == 10
    await asked(2)
    assert await asked(90) == 3
    mint.pay(quote.bolt11)
    await asked(30)
    assert await sat(bob) == 300
