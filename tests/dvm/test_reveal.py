"""Sealed results, with both parties at work: who has the text and who has the coins when each does its part, or does not."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, JobFailed, JobState, OrderFailed, OrderState, Provider, queries
from dvm.escrow.messages import Reveals, write_message
from dvm.jobs.restore import restore_jobs
from dvm.orders import asking as order_asking
from identity import LocalSigner, SecretKey
from identity.nip59 import wrap
from identity.seal import read_promise
from tests.dvm.sale import LIMITS, PRICE, Sale, holds_back, text_of
from tradepost.api import open_customer
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from tradepost.testing import MemoryRelay
from tradepost.testing.market import RELAY
from wallet import Lock, parse_request, preimage_of
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.terms import Method

# --- as it should be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True])
async def test_a_sealed_result_is_bought_and_opened(sale: Sale, private: bool) -> None:
    order = await sale.ask("the word is xyzzy", private=private)
    assert await text_of(order) == "THE WORD IS XYZZY"
    paid = await sale.reach(Role.PROVIDER, order, Stage.PAID)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED)
    await sale.job(order, JobState.DONE)
    assert paid.amount_sat == PRICE
    assert await sale.sats() == (PRICE, PRICE)
    everything = "".join(event.to_json().decode() for event in sale.market.relay.published)
    assert "XYZZY" not in everything
    assert paid.preimage is not None
    assert paid.preimage not in everything
    assert ("xyzzy" in everything) is not private
    assert not [
        event for event in sale.market.relay.events if event.kind == 6001 and event.tag("e") == order.id
    ]


async def test_the_offer_is_one_signed_event_with_all_that_is_promised(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    held = await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    offer, terms = sale.offer(order), held.terms
    promise = read_promise(offer)
    assert offer.tag("status") == "payment-required"
    assert offer.tag("settle") == "reveal"
    assert promise.key_hash == terms.hash
    assert promise.provider == sale.provider.public_key
    assert offer.tag("lock") == terms.provider_key
    assert offer.tag("locktime") == str(terms.locktime)
    assert terms.locktime - sale.market.clock.now() <= 660
    creq = parse_request(offer.tag("creq") or "")
    assert creq.condition is not None
    assert creq.condition.to_lock() == terms.lock
    assert terms.lock == Lock(
        terms.provider_key, terms.locktime, (terms.customer_key,), hash=promise.key_hash
    )  # fmt: skip
    ciphertext = base64.b64decode(held.ciphertext or "")
    assert promise.is_about(ciphertext)
    assert held.preimage is None
    assert base64.b64encode(ciphertext).decode() not in offer.content
    token = await Escrows(sale.customer._post.db, sale.customer._post.wallet, sale.market.clock).coins(held)
    assert all(json.loads(proof.secret)[0] == "HTLC" for proof in token.proofs)


async def test_the_mint_tells_the_key_where_the_provider_does_not(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sale.provider._desk, "letters", _nothing)
    order = await sale.ask()
    await sale.reach(Role.PROVIDER, order, Stage.PAID)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED, every=1)
    assert await text_of(order) == "HELLO"
    assert await sale.sats() == (PRICE, PRICE)


async def test_the_provider_tells_the_key_where_the_mint_does_not(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wallet.escrows.preimage_of", lambda *_: None)
    order = await sale.ask()
    assert await text_of(order) == "HELLO"
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED)
    assert await sale.sats() == (PRICE, PRICE)


async def test_the_key_that_is_told_must_be_the_one_that_was_promised(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    held = await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    provider = sale.provider.signer
    right = (await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)).preimage
    assert right is not None
    desk, now = sale.customer.desk, sale.market.clock.now()
    for signer, key in ((provider, "00" * 32), (LocalSigner(SecretKey.generate()), right)):
        message = write_message(Reveals(key), held.terms, sale.customer.public_key, now)
        sale.market.relay.insert(await wrap(signer, sale.customer.public_key, message, now=now))
    assert await text_of(order) == "HELLO"  # told before it was paid: so be it
    known = await desk.get(order.id)
    assert known is not None
    assert (known.preimage, known.stage) == (right, Stage.HELD)
    # It is the customer's, even if the coins come back.
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    row = await queries.get_order(sale.customer._post.db, order.id)
    assert row is not None
    assert row.state is OrderState.DONE


# --- whom it is done for -------------------------------------------------------------------------------------------


async def test_a_stranger_pays_first(sale: Sale) -> None:
    stranger = await sale.market.customer(name="stranger", sat=100)
    asked = {"kind": 5001, "max_sat": 50}
    order = await stranger.ask(
        sale.provider.public_key, "hi", settle=(Method.REVEAL, Method.PREPAID), **asked
    )
    assert await text_of(order) == "HI"
    assert await Escrows(sale.provider._post.db, sale.provider._post.wallet, sale.market.clock).get(
        Role.PROVIDER, sale.provider.public_key, order.id
    ) is None  # fmt: skip
    other = await (await sale.market.customer(name="other", sat=100)).ask(
        sale.provider.public_key, "hi", settle=(Method.REVEAL,), **asked
    )
    with pytest.raises(OrderFailed, match="offers no reveal"):
        await other.result()


async def test_nothing_is_sealed_where_no_coins_could_be_locked_to_its_key(sale: Sale) -> None:
    """An agent would work in vain: the customer's wallet locks nothing to a hash at a mint that does not know them."""
    del sale.market.mint.nuts["14"]
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="the agent offers no reveal"):
        await order.result()
    assert await sale.provider._desk.get(order.id) is None


async def test_what_is_sealed_and_not_bought_uses_the_credit_up(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = order_asking.make_request
    with monkeypatch.context() as patch:  # it bids what it will not pay
        patch.setattr(order_asking, "make_request", lambda *a, **k: honest(*a, **k | {"bid_msat": 100_000}))
        for _ in range(2):
            order = await sale.ask(max_sat=PRICE - 1)
            with pytest.raises(OrderFailed, match="your limit"):
                await text_of(order)
            await sale.reach(Role.PROVIDER, order, Stage.VOID, every=60)
            await sale.job(order, JobState.EXPIRED)
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="offers no reveal"):
        await text_of(order)
    assert await sale.sats() == (0, 0)


async def test_nothing_is_done_first_for_a_bid_below_the_price(sale: Sale) -> None:
    order = await sale.ask(max_sat=PRICE - 1)
    with pytest.raises(OrderFailed, match="your limit"):
        await text_of(order)
    assert await sale.view(Role.PROVIDER, order) is None
    assert (await sale.job(order, JobState.OFFERED)).attempts == 0


async def test_what_is_bought_gives_the_credit_back_and_more(sale: Sale) -> None:
    for _ in range(4):
        order = await sale.ask()
        assert await text_of(order) == "HELLO"
        await sale.job(order, JobState.DONE)
    assert await sale.sats() == (4 * PRICE, 4 * PRICE)
    orders = [await sale.ask(f"at once {number}") for number in range(3)]
    assert [await text_of(order) for order in orders] == [f"AT ONCE {number}" for number in range(3)]


@pytest.mark.parametrize(("kind", "reason"), [(5050, "cannot do"), (5300, "sealed and encrypted, takes")])
async def test_work_that_brings_nothing_to_sell_costs_no_credit(sale: Sale, kind: int, reason: str) -> None:
    for _ in range(3):  # and there is credit for two
        order = await sale.ask(kind=kind)
        with pytest.raises(OrderFailed, match=reason):
            await text_of(order)
        await sale.reach(Role.PROVIDER, order, Stage.VOID)
        await sale.job(order, JobState.FAILED)
    assert await sale.sats() == (0, 0)
    assert await (await sale.ask()).result() == "HELLO"


async def test_work_that_is_taken_back_is_stopped(sale: Sale) -> None:
    stopped = asyncio.Event()

    @sale.provider.agent.serves(kind=5400, price_sat=PRICE)
    async def think(_job: Job) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise JobFailed("never")

    customer = await sale.market.customer(name="patient", sat=100)
    again = await sale.market.open(sale.provider.agent, name="again", limits=LIMITS)
    await (await customer.ask(again.public_key, "hi", kind=5001, max_sat=50)).result()
    order = await customer.ask(again.public_key, "hi", kind=5400, max_sat=50, settle=(Method.REVEAL,))
    sale = Sale(sale.market, customer, again)
    await sale.job(order, JobState.RUNNING)
    await order.cancel()
    await asyncio.wait_for(stopped.wait(), 10)
    await sale.job(order, JobState.CANCELLED)
    await sale.reach(Role.PROVIDER, order, Stage.VOID)


async def test_after_a_restore_the_work_is_not_done_again(sale: Sale) -> None:
    order = await sale.ask(max_sat=PRICE - 1)
    await sale.job(order, JobState.OFFERED)
    post = await sale.market.post("restored")
    assert (await restore_jobs(post, sale.provider.signer)).offered == 1
    job = await queries.get_job(post.db, sale.provider.public_key, order.id)
    assert job is not None
    assert job.state is JobState.OFFERED


# --- at a real mint ------------------------------------------------------------------------------------------------


@pytest.mark.process
async def test_at_a_real_mint(
    mint_url: str, fund: Callable[[Path], Awaitable[None]], agent: Agent, tmp_path: Path
) -> None:
    """nutshell takes the preimage, shows it (NUT-07)."""
    relay = MemoryRelay()

    def settings(name: str) -> Settings:
        return Settings(relays=(RELAY,), mints=(mint_url,), data=tmp_path / name)

    await fund(tmp_path / "customer")
    async with (
        open_post(settings("agent"), connect=relay.connect) as shop,
        open_post(settings("customer"), connect=relay.connect) as post,
        open_customer(settings("customer"), post) as customer,
    ):
        provider = Provider(agent, LocalSigner(own_key(settings("agent"), agent.slug)), shop, LIMITS)
        await provider.start()
        for private in (False, True):
            await (await customer.ask(provider.public_key, "hi", kind=5001, max_sat=50)).result()
            order = await customer.ask(
                provider.public_key, "hello", kind=5001, max_sat=50, settle=(Method.REVEAL,), private=private
            )
            if private:  # the provider says nothing, so only the mint can tell
                provider._desk.letters = _nothing  # type: ignore[method-assign]
            assert await text_of(order) == "HELLO"
            escrow = await customer.desk.get(order.id)
            assert escrow is not None
            coins = (await customer.desk.escrows.coins(escrow)).proofs
            states = await post.wallet.states(mint_url, [proof.secret for proof in coins])
            shown = {preimage_of(escrow.terms.hash or "", state.witness) for state in states.values()}
            assert shown == {escrow.preimage}
        await provider.stop(0)
        assert sum((await shop.wallet.balance()).values()) == 4 * PRICE
        for one in (shop, post):
            assert (await one.wallet.audit(ask_mints=True)).ok


async def _nothing(*_: Any) -> list[Any]:
    return []
