"""Lightning from the command line, against a real relay and a real mint, which pays its own invoices."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from dvm import Agent, Job, JobFailed, Provider
from identity import LocalSigner
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from tradepost.testing.mint import MemoryMint
from wallet import encode_lnurl
from wallet.lnurl import Payable, PayRequest, SuccessAction, WithdrawRequest, make_metadata

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process


@pytest.fixture
async def shop(configured: str, relay_url: str, tmp_path: Path) -> AsyncIterator[Provider]:
    agent = Agent("Shop")

    @agent.serves(kind=5001, price_sat=20)
    async def shout(job: Job) -> str:
        if job.text == "fail":
            raise JobFailed("no voice today")
        return job.text.upper()

    settings = Settings(relays=(relay_url,), mints=(configured,), data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


class Service:
    """Somebody's LNURL service. Its invoices are of no mint: the play mint pays its own ones before we can."""

    def __init__(self) -> None:
        self.host = ""
        self.asked: list[web.Request] = []

    @property
    def address(self) -> str:
        return f"shop@{self.host}"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        match request.path:
            case "/.well-known/lnurlp/shop":
                pay = PayRequest(f"http://{self.host}/cb", 1000, 10**8, make_metadata("Coffee"), 20)
                return web.json_response(pay.to_json())
            case "/cb":
                mint = MemoryMint(f"https://{secrets.token_hex(8)}.test")
                bolt11 = mint.invoice(int(request.query["amount"]) // 1000)
                return web.json_response(Payable(bolt11, 0, success=SuccessAction("enjoy it")).to_json())
            case "/w":
                out = WithdrawRequest(f"http://{self.host}/out", "k1", 47_000, 47_000, "left")
                return web.json_response(out.to_json())
        return web.json_response({"status": "OK"})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    runner = web.ServerRunner(web.Server(service.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.host = f"127.0.0.1:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


async def test_a_job_paid_from_a_lightning_wallet(
    shop: Provider, cli_beside: "AsyncCli", configured: str
) -> None:
    ran = await cli_beside("ask", shop.public_key, "hello", "--kind", 5001, "--max-sat", 50, "--lightning")
    assert ran.code == 0, ran.err
    invoice, result = ran.out.split()
    assert invoice.startswith("lnbc")
    assert result == "HELLO"
    assert "Custodial" in ran.err
    assert configured in " ".join(ran.err.split())
    assert "10000 sat are the most" in " ".join(ran.err.split())
    assert (await cli_beside("wallet", "balance")).out == "32 sat\n"  # 54 less 20, and the mint's fees


async def test_what_is_left_goes_to_the_address_named_before(
    shop: Provider, service: Service, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_ALLOW_PRIVATE_URLS", "1")
    ran = await cli_beside(
        "ask", shop.public_key, "fail", "--kind", 5001, "--max-sat", 50, "--lightning", "--json",
        "--refund-to", service.address,
    )  # fmt: skip
    assert ran.code == 1
    steps = [line["step"] for line in ran.lines]
    assert steps[0] == "pay"
    assert steps[-1] == "refund"
    assert ran.lines[0]["refund_to"] == service.address
    assert "no voice today" in ran.err
    assert "were paid out" in ran.err


async def test_an_order_is_refused_in_a_sentence(
    shop: Provider, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    for more, reason in (
        (("--max-sat", 20_000), "1 to 10000 sat"),
        (("--max-sat", 50, "--refund-to", "nowhere"), "not an LNURL nor"),
        (("--max-sat", 5), "announces 20 sat for this, and --max-sat is 5. Nothing was asked or paid"),
        (("--max-sat", 50, "--kind", 5002), "announces no translation"),
        (("--max-sat", 50, "--seconds", 8), "--seconds and --lightning do not go together"),
        (("--max-sat", 50, "--settle", "escrow"), "--settle and --lightning do not go together"),
        (("--max-sat", 5, "--private"), "do not go together"),
        (("--max-sat", 5, "--pow", 8), "--pow and --lightning do not go together"),
    ):
        ran = await cli_beside("ask", shop.public_key, "x", "--kind", 5001, "--lightning", *more)
        assert ran.code == 1
        assert reason in " ".join(ran.err.replace("(lnurl1…, lnurlp://…) ", "").split()), ran.err


async def test_pay_an_address_and_withdraw(
    service: Service, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, configured: str
) -> None:
    refused = await cli_beside("wallet", "pay", service.address, "--sat", 21)
    assert refused.code == 1
    assert "not on the public internet" in " ".join(refused.err.split())
    assert service.asked == []
    monkeypatch.setenv("TRADEPOST_ALLOW_PRIVATE_URLS", "1")
    assert (await cli_beside("wallet", "fund", 200)).code == 0
    unsaid = await cli_beside("wallet", "pay", service.address)
    assert "1 to 100000 sat: --sat N" in " ".join(unsaid.err.split())
    paid = await cli_beside("wallet", "pay", service.address, "--sat", 21, "--comment", "thanks")
    assert paid.out.startswith("paid 21 sat")
    assert "Coffee" in paid.err
    assert "enjoy it" in paid.err
    assert service.asked[-1].query["comment"] == "thanks"

    lnurl = encode_lnurl(f"http://{service.host}/w")
    assert "47000 to 47000 msat" in (await cli_beside("wallet", "withdraw", lnurl, "--sat", 40)).err
    got = await cli_beside("wallet", "withdraw", lnurl)
    assert got.out == "received 47 sat\n"
    assert service.asked[-1].query["k1"] == "k1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--url", "https://pay.example/path"), "wallets follow no other"),
        (("--url", "http://pay.example"), "wallets follow no other"),
        (("--url", "javascript:alert(1)"), "wallets follow no other"),
        ((), "no mints"),
    ],
)
def test_a_gateway_that_cannot_be(cli: "Cli", arguments: tuple[str, ...], reason: str) -> None:
    ran = cli("gateway", *arguments)
    assert ran.code == 1
    assert reason in " ".join(ran.err.split())
