"""Callers' sats at a real mint (nutshell): in by a token and by an invoice, out by each way."""

from pathlib import Path
from typing import Any, cast

import pytest

from store import SystemClock
from tests.dvm.conftest import eventually
from tests.tradepost.facade.money.tills import Box, caller
from tradepost.facade.money.queries_transfers import Transfer
from tradepost.facade.money.withdrawals import ECASH, LIGHTNING, LNURL, Wish
from tradepost.testing import MemoryMint
from wallet import HttpTransport
from wallet.withdrawals import Withdrawals

pytestmark = pytest.mark.process

ANN = "ann"


class RealMint:
    """What a box wants of its mint. FakeWallet pays every invoice by itself."""

    def __init__(self, url: str) -> None:
        self.url = url

    def transport(self, url: str) -> HttpTransport:
        return HttpTransport(url)

    def pay(self, bolt11: str) -> None:
        pass


class RealBox(Box):
    """A post that trusts a real mint."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.clock = cast(Any, SystemClock())
        self.mint = cast(Any, RealMint(url))
        self.mints = (url,)
        self.settings = self.settings.model_copy(update={"mints": (url,)})


async def test_in_and_out(tmp_path: Path, mint_url: str) -> None:
    box = RealBox(tmp_path / "box", mint_url)
    elsewhere = MemoryMint()  # its invoices are of nobody whom the mint knows
    async with box.payer(1000) as payer, box.life() as life:
        payouts, deposits = life.till.payouts, life.till.deposits
        token = await payer.token(500)
        brought = await life.bring(ANN, token)
        assert await life.bring(ANN, token) == brought > 490
        await deposits.ask(caller(ANN), 400, client="here")

        async def is_credited() -> bool:
            await deposits.arrived(caller(ANN).id)
            return await life.sats(ANN) == (brought + 400, 0)

        await eventually(is_credited, "the invoice")
        ecash = await payouts.begin(caller(ANN), Wish(ECASH, amount_sat=100))
        made = await payouts.token(ecash)
        assert made is not None
        await payer.wallet.receive(made)
        assert await payouts.token(ecash) is None
        paid = await payouts.begin(caller(ANN), Wish(LIGHTNING, elsewhere.invoice(200)))
        assert (ecash.state, paid.state) == (Transfer.DONE, Transfer.DONE)
        promised = await payouts.begin(caller(ANN), Wish(LNURL, amount_sat=50))
        gateway = Withdrawals(life.post.db, life.post.wallet, box.clock)
        await gateway.begin(promised.k1 or "", elsewhere.invoice(50))
        await gateway.finish(promised.k1 or "")
        rest = await payouts.begin(caller(ANN), Wish(ECASH))
        assert rest.state is Transfer.DONE
        assert await life.sats(ANN) == (0, promised.held_sat)
        await payouts.look()
        rows = await payouts.all_of(caller(ANN).id, 10)
        assert [row.state for row in rows] == [Transfer.DONE] * 4
        left, _ = await life.sats(ANN)  # what the LNURL did not need
        assert sum(row.amount_sat + row.fee_sat for row in rows) + left == brought + 400
        assert (await life.check_books()).get(f"mint/{mint_url}", 0) == left
