"""The client, against a real HTTP server on loopback that says what a test wants."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from fuzz.kit import make_invoice
from relay_bridge import Fetcher
from wallet.errors import InvalidLnurl, LimitExceeded, LnurlRefused, LnurlUnavailable
from wallet.lnurl import PayRequest, Verification, WithdrawRequest, make_metadata
from wallet.lnurl_client import ANSWER_BYTES_MAX, LnurlClient
from wallet.lnurl_text import encode_lnurl

METADATA = make_metadata("Coffee")


class Service:
    """A service that answers each path as `says` tells, whatever the query."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {}
        self.status = 200
        self.asked: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        said = self.says.get(request.path, {"status": "ERROR", "reason": "nothing here"})
        if isinstance(said, web.Response):
            return said
        return web.json_response(said, status=self.status)

    def takes(self, **changes: Any) -> str:
        """Let /pay take payments; returns its LNURL."""
        request = PayRequest(f"{self.url}/cb?x=%2B", 1000, 100_000, METADATA, 20, {"name": False})
        self.says["/pay"] = request.to_json() | changes
        self.says["/cb"] = {"pr": make_invoice(21_000, hashed=METADATA), "routes": []}
        return encode_lnurl(f"{self.url}/pay")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    runner = web.ServerRunner(web.Server(service.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield service
    await runner.cleanup()


@pytest.fixture
def client() -> LnurlClient:
    return LnurlClient(Fetcher(allow_private=True), allow_private=True)


@pytest.mark.parametrize("form", ["lnurl", "lnurlp", "address", "url"])
async def test_from_any_form_to_an_invoice(service: Service, client: LnurlClient, form: str) -> None:
    text = service.takes()
    service.says["/.well-known/lnurlp/shop"] = service.says["/pay"]
    host = service.url.removeprefix("http://")
    text = {
        "lnurl": text,
        "lnurlp": f"lnurlp://{host}/pay",
        "address": f"shop@{host}",
        "url": f"{service.url}/pay",
    }[form]
    payable = await client.resolve(text, 21_000)
    assert payable.is_committed
    assert service.asked[-1].path_qs == "/cb?x=%2B&amount=21000"


async def test_the_status_of_an_answer_means_nothing(service: Service, client: LnurlClient) -> None:
    service.status = 500
    assert (await client.resolve(service.takes(), 21_000)).amount_msat == 21_000
    with pytest.raises(LnurlRefused, match="nothing here"):
        await client.pay_request(f"{service.url}/elsewhere")


async def test_a_comment_as_long_as_allowed_arrives_and_a_longer_one_asks_nobody(
    service: Service, client: LnurlClient
) -> None:
    request = await client.pay_request(service.takes())
    await client.invoice(request, 21_000, comment="ä & b=c " + "x" * 12)
    assert service.asked[-1].query["comment"] == "ä & b=c " + "x" * 12
    asked = len(service.asked)
    with pytest.raises(LimitExceeded, match="comment of 21 characters"):
        await client.invoice(request, 21_000, comment="x" * 21)
    for amount_msat in (999, 100_001):
        with pytest.raises(LimitExceeded, match="takes 1000 to 100000 msat"):
            await client.invoice(request, amount_msat)
    assert len(service.asked) == asked


async def test_payer_data_are_sent_as_asked_for_and_hashed(service: Service, client: LnurlClient) -> None:
    request = await client.pay_request(service.takes(payerData={"name": {"mandatory": True}}))
    service.says["/cb"] = {"pr": make_invoice(21_000, hashed=METADATA + '{"name":"bob"}')}
    payable = await client.invoice(request, 21_000, payer_data={"name": "bob", "email": "b@b.example"})
    assert payable.is_committed
    assert service.asked[-1].query["payerdata"] == '{"name":"bob"}'
    with pytest.raises(InvalidLnurl, match="wants to know your name"):
        await client.invoice(request, 21_000)


async def test_a_callback_with_another_amount_is_not_paid(service: Service, client: LnurlClient) -> None:
    text = service.takes()
    service.says["/cb"] = {"pr": make_invoice(2_100_000, hashed=METADATA)}
    with pytest.raises(InvalidLnurl, match="over 2100000 msat where 21000 were asked for"):
        await client.resolve(text, 21_000)


async def test_no_redirect_leads_to_another_host(service: Service, client: LnurlClient) -> None:
    text = service.takes()
    away = service.url.replace("127.0.0.1", "localhost") + "/cb"
    service.says["/cb"] = web.Response(status=302, headers={"Location": away})
    with pytest.raises(LnurlUnavailable, match="another host"):
        await client.resolve(text, 21_000)
    assert [request.path for request in service.asked] == ["/pay", "/cb"]


async def test_a_redirect_on_the_same_host_is_followed(service: Service, client: LnurlClient) -> None:
    service.takes()
    service.says["/old"] = web.Response(status=301, headers={"Location": "/pay"})
    assert (await client.pay_request(f"{service.url}/old")).max_msat == 100_000


async def test_answers_have_a_limit(service: Service, client: LnurlClient) -> None:
    service.says["/pay"] = web.Response(text="x" * (ANSWER_BYTES_MAX + 1))
    with pytest.raises(LnurlUnavailable, match="more than"):
        await client.pay_request(f"{service.url}/pay")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"]
)
async def test_private_addresses_are_not_reached(service: Service, host: str) -> None:
    guarded = LnurlClient(Fetcher())
    port = service.url.rpartition(":")[2]
    for text in (f"https://{host}:{port}/pay", f"lnurlp://{host}:{port}/pay"):
        with pytest.raises(InvalidLnurl, match="not on the public internet"):  # it never will be
            await guarded.pay_request(text)
    with pytest.raises(InvalidLnurl, match="without encryption"):
        await guarded.pay_request(f"http://{host}:{port}/pay")
    assert service.asked == []


async def test_a_secret_in_a_url_is_in_no_error(service: Service, client: LnurlClient) -> None:
    request = WithdrawRequest(f"{service.url}/gone?pin=123456", "c0ffee" * 10, 1000, 5000)
    service.says["/gone"] = web.Response(text="x" * (ANSWER_BYTES_MAX + 1))
    with pytest.raises(LnurlUnavailable) as told:
        await client.withdraw(request, make_invoice(5000))
    assert "c0ffee" not in str(told.value)
    assert "123456" not in str(told.value)


async def test_verify(service: Service, client: LnurlClient) -> None:
    text = service.takes()
    bolt11 = service.says["/cb"]["pr"]
    service.says["/cb"]["verify"] = f"{service.url}/v"
    service.says["/v"] = Verification(bolt11, True, "07" * 32).to_json()
    payable = await client.resolve(text, 21_000)
    assert (await client.verify(payable)).preimage == "07" * 32
    service.says["/v"] = Verification(bolt11, True, "08" * 32).to_json()
    with pytest.raises(InvalidLnurl, match="preimage"):
        await client.verify(payable)
    service.says["/v"] = {"status": "ERROR", "reason": "Not found"}
    with pytest.raises(LnurlRefused, match="Not found"):
        await client.verify(payable)


async def test_withdraw(service: Service, client: LnurlClient) -> None:
    service.says["/w"] = WithdrawRequest(f"{service.url}/out", "k&1", 1000, 5000, "refund").to_json()
    service.says["/out"] = {"status": "OK"}
    request = await client.withdraw_request(encode_lnurl(f"{service.url}/w"))
    bolt11 = make_invoice(5000)
    await client.withdraw(request, bolt11)
    assert dict(service.asked[-1].query) == {"k1": "k&1", "pr": bolt11}
    service.says["/out"] = {"status": "ERROR", "reason": "used"}
    with pytest.raises(LnurlRefused, match="used"):
        await client.withdraw(request, bolt11)
