"""The process dies at any point, and nothing is lost.

A first run counts the points: every commit to the database, and every answer of the mint. Then one run per point ends
there, as kill -9 would (no line of ours runs afterwards that could write or send anything), a new process opens the same
files, and the books, the result and the refund must be what they are without a crash.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, BadRequest, Customer, Job, JobState, OrderState, Post, Provider
from dvm.queries import JobRow, get_job, get_order, payments_of, recent_orders
from identity import LocalSigner, SecretKey, make_template, sign_event
from identity.nip59 import wrap
from tests.dvm.deaths import FUNDED_SAT, SECONDS_MAX, Dead, Fate, all_ended, fund, life, quiet, sats
from tradepost.api import open_customer
from tradepost.post import own_key
from tradepost.testing import Market
from wallet import PaymentPayload, encode_payload
from wallet.invoice import parse_invoice

pytestmark = pytest.mark.no_cover  # the same lines again and again


async def start_provider(market: Market, agent: Agent, post: Post) -> Provider:
    provider = Provider(agent, LocalSigner(own_key(market.settings("agent"), agent.slug)), post)
    await provider.start()
    return provider


async def check_books(market: Market, *posts: Post) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while sum([await sats(post) for post in posts]) + market.mint.fees_sat != FUNDED_SAT:
            await asyncio.sleep(0.005)
    for post in posts:
        await quiet(post)
        report = await post.wallet.audit(ask_mints=True)
        assert report.ok
        # What was kept for jobs is settled, once; what went back is not, any more.
        settled_msat = -sum(
            msat for account, msat in report.accounts.items() if account.startswith(("agent/", "fees/post"))
        )
        kept = await post.db.one(
            "SELECT COALESCE(SUM(amount_sat), 0) AS sat FROM payments WHERE state = 'redeemed'"
        )
        assert settled_msat == 1000 * kept["sat"]


def results(market: Market, order_id: str) -> int:
    return len({e.id for e in market.relay.published if e.kind in (6001, 6050) and e.tag("e") == order_id})


async def provider_dies(agent: Agent, folder: Path, at: int | None) -> Fate:
    fate = Fate(at)
    async with Market(folder=folder) as market, life(market, "customer") as post:
        await fund(market, post)
        async with open_customer(market.settings("customer"), post) as customer:
            key = own_key(market.settings("agent"), agent.slug).public_key
            good = await customer.ask(key, "hello", kind=5001, max_sat=50, private=True)
            bad = await customer.ask(key, "magic", kind=5050, max_sat=50)
            with suppress(Dead):
                async with life(market, "agent", fate) as victim:
                    provider = await start_provider(market, agent, victim)
                    waiting = {
                        asyncio.ensure_future(all_ended(post)),
                        asyncio.ensure_future(fate.died.wait()),
                    }
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in waiting:
                        task.cancel()
                    with suppress(Dead):
                        await provider.stop(0)
            async with life(market, "agent") as again:
                provider = await start_provider(market, agent, again)
                await all_ended(post)
                for order, state in ((good, OrderState.DONE), (bad, OrderState.REFUNDED)):
                    row = await get_order(post.db, order.id)
                    assert row is not None
                    assert row.state is state, row
                await check_books(market, post, again)
                assert results(market, good.id) == 1
                assert results(market, bad.id) == 0
                await provider.stop(0)
    return fate


async def customer_dies(agent: Agent, folder: Path, at: int | None) -> Fate:
    fate = Fate(at)
    async with Market(folder=folder) as market:
        provider = await market.open(agent)
        async with life(market, "customer") as post:
            await fund(market, post)
        with suppress(Dead):
            async with life(market, "customer", fate) as victim:
                with suppress(Dead):
                    async with open_customer(market.settings("customer"), victim) as customer:
                        await _ask_both(customer, provider)
                        waiting = {
                            asyncio.ensure_future(all_ended(victim)),
                            asyncio.ensure_future(fate.died.wait()),
                        }
                        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                        for task in waiting:
                            task.cancel()
        async with life(market, "customer") as again, open_customer(market.settings("customer"), again):
            await all_ended(again)
            orders = await recent_orders(again.db, 10)
            for row in orders:
                assert row.state is (OrderState.DONE if row.kind == 5001 else OrderState.REFUNDED), row
                assert results(market, row.id) == (1 if row.kind == 5001 else 0)
            await check_books(market, again, provider._post)
    return fate


async def provider_dies_of_a_job_taken_back(_: Agent, folder: Path, at: int | None) -> Fate:
    """A paid job waits behind another one when its customer takes it back."""
    fate = Fate(at)
    waits = Agent("Waits")

    async def work(job: Job) -> str:
        await asyncio.Event().wait()
        return "never"

    waits.serves(kind=5001, price_sat=21)(work)
    waits.serves(kind=5002)(work)
    async with Market(folder=folder) as market, life(market, "customer") as post:
        await fund(market, post)
        async with open_customer(market.settings("customer"), post) as customer:
            key = own_key(market.settings("agent"), waits.slug).public_key
            first = await customer.ask(key, "first", kind=5002)
            order = await customer.ask(key, "hello", kind=5001, max_sat=50)
            with suppress(Dead):
                async with life(market, "agent", fate) as victim:
                    provider = await start_provider(market, waits, victim)
                    paid = asyncio.ensure_future(_state(post, order.id, OrderState.PAID))
                    dead = asyncio.ensure_future(fate.died.wait())
                    await asyncio.wait({paid, dead}, return_when=asyncio.FIRST_COMPLETED)
                    if not fate.died.is_set():
                        await order.cancel()
                        taken_back = asyncio.ensure_future(_job_ended(victim, key, order.id))
                        await asyncio.wait({taken_back, dead}, return_when=asyncio.FIRST_COMPLETED)
                        taken_back.cancel()
                    for task in (paid, dead):
                        task.cancel()
                    with suppress(Dead):
                        await provider.stop(0)
            async with life(market, "agent") as again:
                provider = await start_provider(market, waits, again)
                with suppress(BadRequest):  # taken back already
                    await order.cancel()
                job = await _job_ended(again, key, order.id)
                assert job.state in (JobState.CANCELLED, JobState.RETURNED), job
                await check_books(market, post, again)
                assert await sats(again) == (21 if job.state is JobState.CANCELLED and job.attempts else 0)
                assert results(market, order.id) == results(market, first.id) == 0
                await provider.stop(0)
    return fate


async def _state(post: Post, order_id: str, state: OrderState) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while (row := await get_order(post.db, order_id)) is None or row.state is not state:
            await asyncio.sleep(0.005)


async def _job_ended(post: Post, agent: str, job_id: str) -> JobRow:
    async with asyncio.timeout(SECONDS_MAX):
        while (job := await get_job(post.db, agent, job_id)) is None or not job.state.is_final:
            await asyncio.sleep(0.005)
    return job


async def _ask_both(customer: Customer, provider: Provider) -> None:
    await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50, private=True)
    await customer.ask(provider.public_key, "magic", kind=5050, max_sat=50)


class Payer:
    """A person's client: pays the invoice of each offer as soon as it is seen, and of one job with ecash as well."""

    def __init__(self, market: Market, post: Post, twice: str) -> None:
        self._market, self._post, self._twice = market, post, twice
        self._paid: dict[str, str] = {}

    async def pay(self) -> None:
        """Once over all offers that were published so far."""
        for offer in [e for e in self._market.relay.published if e.tag("status") == "payment-required"]:
            job_id = offer.tag("e") or ""
            bolt11 = next(tag[2] for tag in offer.tags if tag[0] == "amount")
            if job_id in self._paid:
                continue
            self._paid[job_id] = parse_invoice(bolt11).payment_hash
            if job_id == self._twice:
                token = await self._post.wallet.send(self._market.mint.url, 21, include_fees=True)
                payload = PaymentPayload(mint=token.mint, unit=token.unit, proofs=token.proofs, id=job_id)
                now = self._market.clock.now()
                message = make_template(14, content=encode_payload(payload), created_at=now)
                payer = LocalSigner(SecretKey.generate())
                self._market.relay.insert(await wrap(payer, offer.pubkey, message, now=now))
            self._market.mint.pay(bolt11)

    async def until(self, is_so: Callable[[], Awaitable[bool]], provider: Post) -> None:
        """Pay, and have the provider look, until something is so."""
        async with asyncio.timeout(SECONDS_MAX):
            while not await is_so():
                await asyncio.shield(
                    asyncio.ensure_future(self.pay())
                )  # a person does not die with the agent
                for payment_hash in self._paid.values():
                    provider.lightning.hear(payment_hash)
                await asyncio.sleep(0.02)


async def provider_dies_of_invoices(agent: Agent, folder: Path, at: int | None) -> Fate:
    """One job is paid by its invoice and by ecash, one by its invoice and cannot be done."""
    fate = Fate(at)
    person = SecretKey.generate()
    async with Market(folder=folder) as market, life(market, "customer") as post:
        await fund(market, post)
        now = market.clock.now()
        requests = [
            sign_event(make_template(kind, tags=[("i", text, "text")], created_at=now), person)
            for kind, text in ((5001, "twice"), (5050, "magic"))
        ]
        for request in requests:
            market.relay.insert(request)
        payer = Payer(market, post, requests[0].id)
        key = own_key(market.settings("agent"), agent.slug).public_key

        async def all_settled(provider: Post) -> bool:
            jobs = [await get_job(provider.db, key, request.id) for request in requests]
            rows = await provider.db.all(
                "SELECT state FROM payments UNION ALL SELECT state FROM invoices UNION ALL"
                " SELECT state FROM lightning_invoices"
            )
            at_rest = {"redeemed", "returned", "paid", "settled"}
            return (
                all(job and job.state.is_final for job in jobs) and {row["state"] for row in rows} <= at_rest
            )

        with suppress(Dead):
            async with life(market, "agent", fate) as victim:
                provider = await start_provider(market, agent, victim)
                paying = asyncio.ensure_future(payer.until(lambda: all_settled(victim), victim))
                dead = asyncio.ensure_future(fate.died.wait())
                await asyncio.wait({paying, dead}, return_when=asyncio.FIRST_COMPLETED)
                for task in (paying, dead):
                    task.cancel()
                await asyncio.gather(paying, dead, return_exceptions=True)
                with suppress(Dead):
                    await provider.stop(0)
        async with life(market, "agent") as again:
            provider = await start_provider(market, agent, again)
            await payer.until(lambda: all_settled(again), again)
            await quiet(again)
            assert [results(market, request.id) for request in requests] == [1, 0]
            for request, kept in zip(requests, (1, 0), strict=True):
                payments = await payments_of(again.db, key, request.id)
                assert Counter(payment.state for payment in payments)["redeemed"] == kept, payments
            assert (await again.wallet.audit(ask_mints=True)).ok
            assert 21 - 3 <= await sats(again) <= 21  # less the mint's fees for what went back
            await provider.stop(0)
    return fate


@pytest.mark.parametrize(
    "scenario",
    [provider_dies, customer_dies, provider_dies_of_a_job_taken_back, provider_dies_of_invoices],
)
async def test_death_at_every_point(
    agent: Agent, tmp_path: Path, scenario: Callable[[Agent, Path, int | None], Any]
) -> None:
    unharmed = await scenario(agent, tmp_path / "unharmed", None)
    count = len(unharmed.points)
    assert count > 20, unharmed.points
    at_a_time = asyncio.Semaphore(8)  # most of a run is waiting for retries
    died: list[int] = []

    async def die(at: int) -> None:
        async with at_a_time:
            try:
                fate = await scenario(agent, tmp_path / str(at), at)
            except BaseException as error:
                raise AssertionError(
                    f"dying at point {at} of {count} ({unharmed.points[at]}) is not survived"
                ) from error
            if fate.died.is_set():
                died.append(at)

    await asyncio.gather(*map(die, range(count)))
    assert len(died) > count * 0.9  # the order of points varies a little, so the last ones may not come
