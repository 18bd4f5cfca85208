"""Sealed results, with both parties at work: who has the text and who has the coins when each does its part, or does not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dvm import Agent, Job, JobFailed, JobState, OrderFailed, OrderState, Provider, ProviderLimits, queries
from dvm.customer import Customer
from dvm.escrow_messages import Reveals, write_message
from dvm.order import Order
from dvm.restore_jobs import restore_jobs
from dvm.reveals import SealedResult, fraud_proof
from dvm.sealing import Sealing
from identity import Event, LocalSigner, SecretKey
from identity.nip59 import wrap
from identity.seal import Sealed, check_fraud, parse_fraud_proof, read_promise
from tradepost.api import open_customer
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from tradepost.testing import ManualClock, Market, MemoryRelay
from tradepost.testing.market import RELAY
from wallet import Lock, parse_request, preimage_of
from wallet.crypto import proof_y
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms

PRICE = 21
LIMITS = ProviderLimits(reveal_msat_max=100_000)
FUNDED = 1000


class Sale(NamedTuple):
    market: Market
    customer: Customer
    provider: Provider

    async def ask(self, text: str = "hello", **wishes: Any) -> Order:
        asked = {"kind": 5001, "max_sat": 100, "settle": (Method.REVEAL,)} | wishes
        return await self.customer.ask(self.provider.public_key, text, **asked)

    async def view(self, role: Role, order: Order) -> EscrowRow | None:
        party = self.customer if role is Role.CUSTOMER else self.provider
        post = party._post
        return await Escrows(post.db, post.wallet, post.clock).get(role, party.public_key, order.id)

    async def reach(self, role: Role, order: Order, stage: Stage, *, every: int = 0) -> EscrowRow:
        """Wait until a party's view is in a stage; with `every`, time passes meanwhile, so many seconds at a time."""
        async with asyncio.timeout(10):
            while (row := await self.view(role, order)) is None or row.stage is not stage:
                await asyncio.sleep(0.005)
                await self.pass_time(every)
        return row

    async def job(self, order: Order, state: JobState) -> queries.JobRow:
        async with asyncio.timeout(10):
            while True:
                job = await queries.get_job(self.provider._post.db, self.provider.public_key, order.id)
                if job is not None and job.state is state:
                    return job
                await asyncio.sleep(0.005)

    async def pass_time(self, seconds: int) -> None:
        assert isinstance(self.market.clock, ManualClock)
        await self.market.clock.advance(seconds)

    async def sats(self) -> tuple[int, int]:
        """What the customer has paid and what the provider has, beyond what it was paid first. Nothing is missing."""
        wallets = [party._post.wallet for party in (self.customer, self.provider)]
        customer, provider = [sum((await wallet.balance()).values()) for wallet in wallets]
        fees = [
            (await wallet.audit(ask_mints=True)).accounts.get("fees/mint", 0) // 1000 for wallet in wallets
        ]
        assert customer + provider + sum(fees) == FUNDED
        return FUNDED - customer - sum(fees) - 2 * PRICE, provider - 2 * PRICE

    def offer(self, order: Order) -> Event:
        (found,) = [
            event for event in self.market.relay.events
            if event.tag("e") == order.id and event.has_tag("sealed")
        ]  # fmt: skip
        return found


async def text_of(order: Order) -> str:
    return await asyncio.wait_for(order.result(), 30)


@pytest.fixture
async def sale(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sale]:
    """A customer that has paid as much before as two jobs cost, so it has credit for two."""

    @agent.serves(kind=5300, price_sat=PRICE)
    async def talk_at_length(_job: Job) -> str:
        return "x" * 40_000

    @agent.serves(kind=5301, price_sat=2 * PRICE)
    def nod(_job: Job) -> str:
        return "yes"

    async with Market(clock=ManualClock(), folder=tmp_path_factory.mktemp("market")) as market:
        provider = await market.open(agent, limits=LIMITS)
        customer = await market.customer(sat=FUNDED)
        await (await customer.ask(provider.public_key, "well?", kind=5301, max_sat=100)).result()
        yield Sale(market, customer, provider)


def holds_back(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider does not take coins."""

    async def wait(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(sale.provider._desk, "_claim", wait)


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


async def test_what_is_sealed_and_not_bought_uses_the_credit_up(sale: Sale) -> None:
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


# --- who does not do its part --------------------------------------------------------------------------------------


async def test_a_provider_that_does_not_claim_gets_nothing(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    with pytest.raises(OrderFailed, match="came back"):
        await text_of(order)
    assert await sale.sats() == (0, 0)
    monkeypatch.undo()
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID)
    await sale.job(order, JobState.EXPIRED)


async def test_near_the_locktime_the_mint_is_not_told_the_key(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    row = await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    monkeypatch.undo()
    await sale.pass_time(row.terms.claim_until - sale.market.clock.now())
    swaps = sale.market.mint.asked["/v1/swap"]
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID)
    assert sale.market.mint.asked["/v1/swap"] == swaps
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=30)
    assert await sale.sats() == (0, 0)


async def test_a_key_is_not_sold_for_a_part_of_its_price(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    row = await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    escrows = sale.provider._desk.escrows
    coins = (await escrows.coins(row)).proofs
    assert len(coins) > 1
    sale.market.mint.spent[proof_y(coins[0].secret)] = coins[0]
    monkeypatch.undo()
    sale.provider._desk.watch(order.id)
    await sale.reach(Role.PROVIDER, order, Stage.VOID, every=30)
    assert not any("preimage" in (coin.witness or "") for coin in sale.market.mint.spent.values())


OTHER = SecretKey(bytes([5]) * 32).compressed_public_key


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: replace(lock, hash="00" * 32),
        lambda lock: replace(lock, hash=None),
        lambda lock: replace(lock, locktime=lock.locktime - 1),
        lambda lock: replace(lock, pubkeys=(OTHER,)),
        lambda lock: replace(lock, refund=(*lock.refund, OTHER)),
        lambda lock: replace(lock, pubkeys=(OTHER,), n_sigs=2),
    ],
)
async def test_coins_under_another_lock_buy_no_key(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, change: Callable[[Lock], Lock]
) -> None:
    plan = sale.customer._purchases._plan

    async def other(row: Any, offer: Any, lock: Lock, price_sat: int) -> Any:
        return await plan(row, offer, change(lock), price_sat)

    monkeypatch.setattr(sale.customer._purchases, "_plan", other)
    order = await sale.ask()
    await sale.job(order, JobState.FAILED)
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert await sale.sats() == (0, 0)


@pytest.mark.parametrize("paid_sat", [1, PRICE - 1])
async def test_too_few_coins_buy_no_key(sale: Sale, monkeypatch: pytest.MonkeyPatch, paid_sat: int) -> None:
    plan = sale.customer._purchases._plan

    async def other(row: Any, offer: Any, lock: Lock, _price_sat: int) -> Any:
        return await plan(row, offer, lock, paid_sat)

    monkeypatch.setattr(sale.customer._purchases, "_plan", other)
    order = await sale.ask()
    job = await sale.job(order, JobState.FAILED)
    assert f"only {paid_sat} sat" in job.reason
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert (await sale.sats())[1] == 0


# --- false seals ---------------------------------------------------------------------------------------------------


def cheats(monkeypatch: pytest.MonkeyPatch, change: Callable[[SealedResult], SealedResult]) -> None:
    honest = Sealing.seal
    monkeypatch.setattr(Sealing, "seal", lambda *args: change(honest(*args)))


def false_payload(result: SealedResult) -> SealedResult:
    promise = replace(result.sealed.promise, payload_hash="00" * 32)
    return replace(result, sealed=Sealed(result.sealed.ciphertext, promise))


def false_ciphertext(result: SealedResult) -> SealedResult:
    rubbish = bytes(len(result.sealed.ciphertext))
    promise = replace(result.sealed.promise, ciphertext_hash=sha256(rubbish).hexdigest())
    return replace(result, sealed=Sealed(rubbish, promise))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("cheat", [false_payload, false_ciphertext])
async def test_a_false_seal_is_bought_and_proved(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, cheat: Callable[[SealedResult], SealedResult], private: bool
) -> None:
    cheats(monkeypatch, cheat)
    order = await sale.ask(private=private)
    with pytest.raises(OrderFailed, match=r"false seal.*escrow proof"):
        await text_of(order)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED)
    row = await queries.get_order(sale.customer._post.db, order.id)
    escrow = await sale.view(Role.CUSTOMER, order)
    assert row is not None
    assert escrow is not None
    assert row.state is OrderState.LOST
    proof = fraud_proof(row, escrow)
    assert proof is not None
    shown = parse_fraud_proof(proof.to_json())
    assert shown.event.pubkey == sale.provider.public_key
    assert check_fraud(shown.event, shown.ciphertext, shown.k).is_fraud


async def test_a_ciphertext_that_is_not_the_promised_one_is_not_paid_for(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealedResult, "content", base64.b64encode(bytes(88)).decode())
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)
    assert await sale.view(Role.CUSTOMER, order) is None
    assert await sale.sats() == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda terms: {"locktime": terms.locktime + 2 * 3600},
        lambda terms: {"locktime": terms.deliver_by + 300},
        lambda terms: {"mint": "https://other.test"},
        lambda terms: {"provider_key": terms.customer_key},
        lambda terms: {"provider_key": "02" + terms.customer},
    ],
)
async def test_terms_that_are_not_sound_are_not_agreed_to(
    sale: Sale, monkeypatch: pytest.MonkeyPatch, change: Callable[[Terms], dict[str, Any]]
) -> None:
    cheats(monkeypatch, lambda result: replace(result, terms=replace(result.terms, **change(result.terms))))
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)
    assert await sale.view(Role.CUSTOMER, order) is None
    assert await sale.sats() == (0, 0)


async def test_nothing_is_locked_for_a_seal_that_was_not_asked_for(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sale.customer._purchases.escrow

    async def prepaid_only(row: Any, feedback: Any) -> Any:
        tags = [tag for tag in row.request.tags if tag[0] != "settle"]
        event = Event(**(row.request.to_dict() | {"tags": (*tags, ("settle", "prepaid"))}))
        return await wanted(replace(row, request=event), feedback)

    monkeypatch.setattr(sale.customer._purchases, "escrow", prepaid_only)
    order = await sale.ask()
    with pytest.raises(OrderFailed, match="nothing was paid"):
        await text_of(order)


async def test_after_a_restore_the_work_is_not_done_again(sale: Sale) -> None:
    order = await sale.ask(max_sat=PRICE - 1)
    await sale.job(order, JobState.OFFERED)
    post = await sale.market.post("restored")
    assert (await restore_jobs(post, sale.provider.signer)).offered == 1
    job = await queries.get_job(post.db, sale.provider.public_key, order.id)
    assert job is not None
    assert job.state is JobState.OFFERED


async def test_a_preimage_of_31_bytes_is_no_key_but_a_proof(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some mints take one, and the coins are gone: the customer has a proof at least. (Ours and our mint do not.)"""
    short = bytes(range(31))

    def short_key(result: SealedResult) -> SealedResult:
        hash_ = sha256(short).hexdigest()
        promise = replace(result.sealed.promise, key_hash=hash_)
        return SealedResult(
            replace(result.terms, hash=hash_), Sealed(result.sealed.ciphertext, promise), short.hex()
        )

    cheats(monkeypatch, short_key)
    holds_back(sale, monkeypatch)
    order = await sale.ask()
    held = await sale.reach(Role.CUSTOMER, order, Stage.HELD)
    for proof in (await sale.customer.desk.escrows.coins(held)).proofs:
        witness = json.dumps({"preimage": short.hex(), "signatures": []})
        sale.market.mint.spent[proof_y(proof.secret)] = proof.with_witness(witness)
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED, every=1)
    with pytest.raises(OrderFailed, match="other than 32 bytes"):
        await text_of(order)


async def test_an_own_preimage_of_31_bytes_is_not_shown_to_the_mint(
    sale: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_key(result: SealedResult) -> SealedResult:
        return replace(result, preimage=result.preimage[:62])

    cheats(monkeypatch, short_key)
    order = await sale.ask()
    await sale.reach(Role.PROVIDER, order, Stage.CLAIMING)
    swaps = sale.market.mint.asked["/v1/swap"]
    await sale.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=60)
    assert sale.market.mint.asked["/v1/swap"] == swaps + 1  # the refund
    assert (await sale.sats())[1] == 0


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
