"""What the tests of sealed results share: both parties of a sale, and how they are kept from doing their part."""

import asyncio
from typing import Any, NamedTuple

import pytest

from dvm import JobState, Provider, ProviderLimits, queries
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from identity import Event
from tradepost.testing import ManualClock, Market
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

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
        async with asyncio.timeout(60):
            while (row := await self.view(role, order)) is None or row.stage is not stage:
                await asyncio.sleep(0.005)
                await self.pass_time(every)
        return row

    async def job(self, order: Order, state: JobState) -> queries.JobRow:
        async with asyncio.timeout(60):
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


def holds_back(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The provider does not take coins. The event says that it would take some now, so that this may be undone."""
    would = asyncio.Event()

    async def wait(*_: Any, **__: Any) -> None:
        would.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(sale.provider._desk, "_claim", wait)
    return would
