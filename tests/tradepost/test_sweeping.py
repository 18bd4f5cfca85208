"""A post sends what is too much at a mint to a Lightning address by itself."""

import asyncio
from pathlib import Path

import pytest

from relay_bridge import Fetcher
from tradepost.post import RECOVER_EVERY_SECONDS, open_post
from tradepost.settings import Settings
from tradepost.sweeping import invoices_of
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay
from wallet.errors import LimitExceeded
from wallet.lnurl import Payable, PayRequest, make_metadata
from wallet.lnurl_client import LnurlClient

TARGET = "me@wallet.test"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryMint, list[int]]:
    """Stands behind the address: takes 2 to 300 sat at once. The mint makes and pays its invoices."""
    mint, asked = MemoryMint(clock=ManualClock()), list[int]()

    async def pay_request(_self: LnurlClient, text: str) -> PayRequest:
        assert text == TARGET
        return PayRequest("https://wallet.test/cb", 2_000, 300_999, make_metadata("me"), 0, {})

    async def invoice(_self: LnurlClient, _request: PayRequest, amount_msat: int) -> Payable:
        asked.append(amount_msat)
        return Payable(mint.invoice(amount_msat // 1000), amount_msat)

    monkeypatch.setattr(LnurlClient, "pay_request", pay_request)
    monkeypatch.setattr(LnurlClient, "invoice", invoice)
    return mint, asked


async def test_no_more_is_asked_for_than_the_service_takes(service: tuple[MemoryMint, list[int]]) -> None:
    get_invoice = invoices_of(TARGET, Fetcher(), Settings())
    for sat in (2, 300, 301):
        assert (await get_invoice(sat)).startswith("lnbc")
    with pytest.raises(LimitExceeded, match=r"me@wallet\.test takes 2 sat at least, 1 are to be swept"):
        await get_invoice(1)
    assert service[1] == [2_000, 300_000, 300_000]


async def test_a_post_sweeps_by_itself(service: tuple[MemoryMint, list[int]], home: Path) -> None:
    mint, asked = service
    settings = Settings(
        relays=("ws://relay.test",), mints=(mint.url,), data=home, sweep_to=TARGET, sweep_sat_above=500
    )
    clock = mint.clock
    assert isinstance(clock, ManualClock)
    relay = MemoryRelay(clock=clock)
    async with open_post(settings, clock=clock, connect=relay.connect, transport=mint.transport) as post:
        quote = await post.wallet.mint_quote(mint.url, 1000)
        mint.pay(quote.bolt11)
        await post.wallet.claim(quote.id)
        async with asyncio.timeout(20):
            while (await post.wallet.balance())[
                mint.url
            ] > 600:  # 300 sat at once; the rest goes a minute later
                await clock.advance(RECOVER_EVERY_SECONDS)
                await asyncio.sleep(0.005)
        await post.wallet.recover()
        assert asked[0] == 300_000
        assert len(asked) == 2
        assert (await post.wallet.audit(ask_mints=True)).ok
