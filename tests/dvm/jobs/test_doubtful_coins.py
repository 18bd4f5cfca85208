"""Coins of which a mint will not say what they are, and coins that come after many false ones."""

from dataclasses import replace
from functools import partial

import pytest

from tests.dvm.conftest import Stranger, eventually
from tests.dvm.jobs.test_floods import Busy, are_left, have_come, invented
from tradepost.testing import ManualClock, Market
from wallet import Lock


async def test_coins_that_only_we_can_spend_outlast_a_mint_that_refuses_to_say() -> None:
    async with Market(clock=ManualClock()) as market:
        buyer, provider = Stranger(market), await market.open(Busy().agent)
        purse = (await market.post("purse", sat=100)).wallet
        request = buyer.request()
        offer = await buyer.answer(request, "payment-required")
        token = await purse.send(market.mint.url, 22, lock=Lock(offer.tag("lock") or ""))
        market.mint.refuse("/v1/checkstate", code=0, detail="Rate limit exceeded.")
        await buyer.pay(provider.public_key, request.id, token)
        assert isinstance(market.clock, ManualClock)
        for _ in range(20):  # it refuses once
            await market.clock.advance(5)
        await buyer.answer(request, "result")


async def test_many_false_payments_do_not_end_a_customers_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("payment_book", "judging"):
        monkeypatch.setattr(f"dvm.jobs.{module}.PAYMENTS_KEPT", 3)
    async with Market(clock=ManualClock()) as market:
        flood, buyer = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        provider = await market.open(Busy().agent)
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        good = await purse.send(market.mint.url, 22)
        bare = replace(good, proofs=tuple(replace(proof, dleq=None) for proof in good.proofs))
        for number in range(3):
            false = replace(invented(good), mint="https://other.test")
            await flood.pay(provider.public_key, request.id, false)
            await have_come(provider, done=number + 1)
            await eventually(partial(are_left, provider, number + 1))
        await buyer.pay(provider.public_key, request.id, bare)
        await buyer.answer(request, "result")
