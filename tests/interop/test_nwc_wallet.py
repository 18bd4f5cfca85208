"""A wallet made of nostr-tools behind Nostr Wallet Connect, over a real relay, in both encryptions."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from identity import SecretKey
from store import Database, SystemClock, load_migrations
from tradepost.testing.lightning import MemoryLightning
from wallet.errors import RailRefused, RailUnavailable
from wallet.rails import InvoiceState, Lightning, NwcRail, SendState, Wish, nwc, parse_uri

HERE = Path(__file__).parent
SECONDS_MAX = 20

pytestmark = pytest.mark.interop


class NostrToolsWallet:
    """The process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.requests: list[dict[str, Any]] = []

    async def heard(self, kind: str) -> dict[str, Any]:
        """Read on until it says a line of that type."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            while line := await self._process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if said["type"] == "request":
                    self.requests.append(said)
                if said["type"] == kind:
                    return said
        raise AssertionError("the wallet ended")

    async def tell(self, **line: str) -> None:
        """Tell it something, and wait until that is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self.heard("done")


@pytest.fixture(params=["nip44", "nip04"])
def encryption(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def running(node: Path, wish: dict[str, Any]) -> AsyncIterator[NostrToolsWallet]:
    process = await asyncio.create_subprocess_exec(
        node, HERE / "nwc_wallet.mjs", json.dumps(wish), cwd=HERE,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        wallet = NostrToolsWallet(process)
        await wallet.heard("ready")
        yield wallet
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def bill(network: MemoryLightning, amount_msat: int) -> dict[str, Any]:
    made = network.bill(network.rail(), Wish(amount_msat), amount_msat)
    preimage = network.bills[made.handle].preimage
    return {
        "amount": amount_msat, "invoice": made.bolt11, "payment_hash": made.handle, "preimage": preimage,
    }  # fmt: skip


async def test_a_wallet_of_nostr_tools_makes_and_pays(
    node: Path,
    node_modules: Path,
    relay_url: str,
    tmp_path: Path,
    encryption: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, network = SystemClock(), MemoryLightning()
    service, client = SecretKey.generate(), SecretKey.generate()
    ours, theirs = [bill(network, 21_500)], [bill(network, amount) for amount in (5000, 6000, 7000, 10**9)]
    wish = {
        "relay": relay_url, "secret_key": service.to_bytes().hex(), "client": client.public_key,
        "encryption": encryption, "bills": ours, "theirs": theirs, "msat": 50_000,
    }  # fmt: skip
    uri = parse_uri(
        f"nostr+walletconnect://{service.public_key}?relay={relay_url}&secret={client.to_bytes().hex()}"
    )
    assert client.to_bytes().hex() not in repr(uri)
    async with (
        running(node, wish) as wallet,
        await Database.open(tmp_path / "nwc.db", load_migrations("wallet")) as db,
    ):
        lightning = Lightning(db, clock)
        heard = asyncio.Event()
        lightning.on_paid(
            lambda payment_hash: heard.set() if payment_hash == ours[0]["payment_hash"] else None
        )
        async with NwcRail(uri, clock, on_paid=lightning.hear) as rail:
            lightning.add(rail)
            limits = await rail.limits()
            assert (limits.makes, limits.pays, limits.fee_limit, limits.sub_sat) == (True, True, False, True)
            assert await rail.balance_msat() == 50_000

            invoice = await lightning.make_invoice("sale", Wish(21_500, description="work"))
            assert invoice.bolt11 == ours[0]["invoice"]
            assert (await lightning.look("sale")).state is InvoiceState.OPEN
            await wallet.tell(paid=ours[0]["payment_hash"])
            async with asyncio.timeout(SECONDS_MAX):
                await heard.wait()
            settled = await lightning.look("sale")
            assert (settled.state, settled.received_msat) == (InvoiceState.SETTLED, 21_500)
            assert settled.preimage == ours[0]["preimage"]

            paid = await lightning.pay("one", theirs[0]["invoice"])
            assert (paid.state, paid.fee_msat, paid.preimage) == (SendState.PAID, 3, theirs[0]["preimage"])
            broke = await lightning.pay("too much", theirs[3]["invoice"])
            assert broke.state is SendState.FAILED
            assert "INSUFFICIENT_BALANCE" in broke.error
            await wallet.tell(mode="fail")
            assert (await lightning.pay("no route", theirs[2]["invoice"])).state is SendState.FAILED

            monkeypatch.setattr(nwc, "PAY_SECONDS", 2.0)
            await wallet.tell(mode="lose")
            found = await lightning.pay("lost", theirs[1]["invoice"])  # the answer is lost, the lookup is not
            assert (found.state, found.preimage) == (SendState.PAID, theirs[1]["preimage"])
            await wallet.tell(mode="rubbish")
            with pytest.raises(RailUnavailable, match="cannot be read"):
                await rail.balance_msat()
            await wallet.tell(mode="normal")
            assert await rail.balance_msat() == 50_000 + 21_500 - 5003 - 6003
            with pytest.raises(RailRefused, match="NOT_FOUND"):
                await rail.look("ab" * 32)
        scheme = "nip44_v2" if encryption == "nip44" else "nip04"
        assert {request["encryption"] for request in wallet.requests} == {scheme}
        assert all(0 < request["expires_in"] <= 61 for request in wallet.requests)
        assert [request["method"] for request in wallet.requests].count("pay_invoice") == 4


async def test_a_silent_wallet_leaves_a_payment_unknown_and_is_asked_once(
    node: Path, node_modules: Path, relay_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, network = SystemClock(), MemoryLightning()
    service, client = SecretKey.generate(), SecretKey.generate()
    theirs = [bill(network, 5000)]
    wish = {
        "relay": relay_url, "secret_key": service.to_bytes().hex(), "client": client.public_key,
        "encryption": "nip44", "bills": [], "theirs": theirs, "msat": 50_000,
    }  # fmt: skip
    uri = parse_uri(
        f"nostr+walletconnect://{service.public_key}?relay={relay_url}&secret={client.to_bytes().hex()}"
    )
    monkeypatch.setattr(nwc, "PAY_SECONDS", 1.0)
    monkeypatch.setattr(nwc, "LOOK_SECONDS", 1.0)
    async with (
        running(node, wish) as wallet,
        await Database.open(tmp_path / "nwc.db", load_migrations("wallet")) as db,
        NwcRail(uri, clock, on_paid=lambda _: None) as rail,
    ):
        lightning = Lightning(db, clock, [rail])
        await wallet.tell(mode="silent")
        assert (await lightning.pay("p", theirs[0]["invoice"])).state is SendState.ASKED
        await wallet.tell(mode="normal")
        # The wallet never did it; but that it does not know it proves nothing: many know only what came in.
        assert (await lightning.settle("p")).state is SendState.ASKED
        assert await lightning.recover() == ["p"]
        assert [request["method"] for request in wallet.requests].count("pay_invoice") == 1
