"""`tradepost up`, hired by customers of other makes: free and paid, for all to read and in private."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tradepost.post import open_database, wallet_on
from tradepost.settings import Settings
from wallet import Wallet, encode_token, parse_token
from wallet.invoice import parse_invoice

SHOP = Path(__file__).parent / "shop"
PRICE_SAT = 21

Customer = Callable[..., Awaitable[Any]]  # see conftest.py

pytestmark = [pytest.mark.interop, pytest.mark.process]


class Shop:
    """A running agent."""

    def __init__(self, process: Any, settings: Settings, key: str) -> None:
        self._process = process
        self._settings = settings
        self.key = key
        self.relay = settings.relays[0]

    async def close(self) -> int:
        """Stop it; returns what it holds, in sat, after an audit."""
        self._process.terminate()
        assert await self._process.ended() == 0
        async with await open_database(self._settings) as db, wallet_on(self._settings, db) as wallet:
            report = await wallet.audit(ask_mints=True)
            assert report.ok, report.problems
            return sum((await wallet.balance()).values())


@pytest.fixture
async def shop(process: Any, relay_url: str, mint_url: str, tmp_path: Path) -> Shop:
    settings = Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / "shop")
    agent = process(
        "-m", "tradepost", "up", SHOP, "--json",
        TRADEPOST_DATA=str(settings.data), TRADEPOST_RELAYS=relay_url, TRADEPOST_MINTS=mint_url,
    )  # fmt: skip
    return Shop(agent, settings, json.loads(await agent.start())["pubkey"])


def names(event: dict[str, Any], name: str) -> list[list[str]]:
    return [tag[1:] for tag in event["tags"] if tag[0] == name]


def check_result(result: dict[str, Any], request: dict[str, Any], shop: Shop) -> None:
    """The tags that NIP-90 wants."""
    assert result["kind"] == request["kind"] + 1000
    assert result["pubkey"] == shop.key
    assert names(result, "e")[0][0] == request["id"]
    assert names(result, "p") == [[request["pubkey"]]]
    assert names(result, "i") == names(request, "i")
    told = json.loads(names(result, "request")[0][0])
    assert {name: told[name] for name in ("id", "pubkey", "sig")} == {
        name: request[name] for name in ("id", "pubkey", "sig")
    }


async def test_a_free_job(shop: Shop, customer: Customer) -> None:
    heard = await customer(relay=shop.relay, kind=5002, input="GRÜSSE", to=shop.key)
    assert heard.code == 0
    assert heard.of("feedback")[-1]["info"] == "reading"
    [result], [request] = heard.of("result"), heard.of("request")
    assert result["content"] == "grüsse"
    check_result(result["event"], request["event"], shop)
    assert names(result["event"], "amount") == []


@pytest.mark.parametrize("version", [3, 4])
async def test_a_job_paid_by_a_cashu_tag(shop: Shop, customer: Customer, purse: Wallet, version: int) -> None:
    token = encode_token(await purse.send(purse.mints[0], PRICE_SAT, include_fees=True), version=version)
    heard = await customer(
        relay=shop.relay,
        kind=5001,
        input="grüße",
        to=shop.key,
        cashu=token,
        bid_msat=21_000,
        params={"length": "3"},
    )
    assert heard.code == 0
    assert set(heard.statuses) == {"processing"}
    [result], [request] = heard.of("result"), heard.of("request")
    assert result["content"] == "GRÜSSE!!!"
    check_result(result["event"], request["event"], shop)
    assert names(result["event"], "amount") == [["21000"]]
    assert await shop.close() == PRICE_SAT


async def test_a_bad_token_is_an_error(shop: Shop, customer: Customer, purse: Wallet) -> None:
    token = await purse.send(purse.mints[0], PRICE_SAT, include_fees=True)
    await purse.receive(token)
    heard = await customer(relay=shop.relay, kind=5001, input="a", to=shop.key, cashu=encode_token(token))
    assert heard.code == 3
    [told] = heard.of("feedback")
    assert "spent" in told["info"]
    assert names(told["event"], "action") == [["fund"]]
    assert await shop.close() == 0


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_a_private_job(shop: Shop, private_customer: Customer, scheme: str) -> None:
    heard = await private_customer(relay=shop.relay, kind=5002, input="GRÜSSE", to=shop.key, encrypt=scheme)
    assert heard.code == 0
    [result], [request] = heard.of("result"), heard.of("request")
    assert result["content"] == "grüsse"
    assert "reading" in [line["info"] for line in heard.of("feedback")]
    for line in (*heard.of("feedback"), result, request):
        assert names(line["event"], "encrypted") == [[]]
        assert ("?iv=" in line["event"]["content"]) is (scheme == "nip04")
        assert names(line["event"], "i") == []
        assert "reading" not in json.dumps(line["event"])


@pytest.mark.parametrize("scheme", ["nip44", "nip04"])
async def test_a_private_job_paid_by_a_cashu_tag(
    shop: Shop, sdk: Customer, purse: Wallet, scheme: str
) -> None:
    token = encode_token(await purse.send(purse.mints[0], PRICE_SAT, include_fees=True))
    heard = await sdk(relay=shop.relay, kind=5001, input="grüße", to=shop.key, cashu=token, encrypt=scheme)
    assert heard.code == 0
    assert heard.of("result")[0]["content"] == "GRÜSSE"
    assert await shop.close() == PRICE_SAT


async def test_nostr_tools_pays_for_a_private_job_and_reads_the_error(
    shop: Shop, nostr_tools: Customer, purse: Wallet
) -> None:
    token = encode_token(await purse.send(purse.mints[0], PRICE_SAT, include_fees=True))
    heard = await nostr_tools(
        relay=shop.relay, kind=5050, input="magic", to=shop.key, cashu=token, encrypt="nip44", until="wrap"
    )
    assert heard.code == 0
    error = next(line for line in heard.of("feedback") if line["status"] == "error")
    assert error["info"].startswith("nobody can do this")
    assert "nobody" not in json.dumps(error["event"])


async def test_ndk_has_a_private_job_done(shop: Shop, ndk: Customer) -> None:
    heard = await ndk(relay=shop.relay, kind=5002, input="GRÜSSE", to=shop.key)
    assert heard.code == 0
    [result], [request] = heard.of("result"), heard.of("request")
    assert names(request["event"], "i") == names(request["event"], "relays") == []
    assert result["content"] == "grüsse"
    assert result["request_id"] == request["event"]["id"]
    infos = [
        tag[2] for line in heard.of("feedback") for tag in line["tags"] if tag[0] == "status" and len(tag) > 2
    ]
    assert "reading" in infos


async def test_ndk_reads_a_private_offer_and_its_invoice(shop: Shop, ndk: Customer) -> None:
    heard = await ndk(relay=shop.relay, kind=5001, input="a", to=shop.key)
    assert heard.code == 0
    assert heard.statuses[0] == "payment-required"
    offer = heard.of("feedback")[0]
    inside = {tag[0]: tag[1:] for tag in offer["tags"] if len(tag) > 1}
    price_msat, bolt11 = inside["amount"]
    assert price_msat == "21000"
    assert parse_invoice(bolt11).amount_msat == 21_000
    assert inside["creq"][0].lower().startswith("creq")
    assert names(offer["event"], "creq") == names(offer["event"], "lock") == []
    assert bolt11 not in json.dumps(offer["event"])


async def test_a_client_without_ecash_is_offered_an_invoice_and_gets_its_result(
    shop: Shop, nostr_tools: Customer
) -> None:
    """As noogle asks: no bid, no lock, no settle. The mint's Lightning is faked, and pays each invoice it makes."""
    heard = await nostr_tools(relay=shop.relay, kind=5001, input="grüße", to=shop.key)
    assert heard.code == 0
    assert heard.statuses[:2] == ["payment-required", "processing"]
    [[price_msat, bolt11]] = names(heard.of("feedback")[0]["event"], "amount")
    assert (price_msat, parse_invoice(bolt11).amount_msat) == ("21000", 21_000)
    [result], [request] = heard.of("result"), heard.of("request")
    assert result["content"] == "GRÜSSE"
    check_result(result["event"], request["event"], shop)
    assert names(result["event"], "amount") == [["21000"]]
    assert await shop.close() == PRICE_SAT


async def test_nostr_tools_unwraps_the_refund_of_work_that_failed(
    shop: Shop, nostr_tools: Customer, purse: Wallet
) -> None:
    sent = await purse.send(purse.mints[0], PRICE_SAT, include_fees=True)
    heard = await nostr_tools(
        relay=shop.relay, kind=5050, input="magic", to=shop.key, cashu=encode_token(sent), until="wrap"
    )
    assert heard.code == 0
    error = next(line for line in heard.of("feedback") if line["status"] == "error")
    assert error["info"].startswith("nobody can do this")
    [wrap] = heard.of("wrap")
    rumor, [request] = wrap["rumor"], heard.of("request")
    assert (wrap["sender"], rumor["pubkey"]) == (shop.key, shop.key)
    assert names(rumor, "e") == [[request["event"]["id"]]]
    assert names(rumor, "t") == [["refund"]]
    back = await purse.receive(parse_token(rumor["content"]))
    left_sat = await shop.close()
    assert back.state == "done"
    assert left_sat + back.received_sat >= PRICE_SAT - 2  # both ways cost the mint's fee
