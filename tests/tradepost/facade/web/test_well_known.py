"""What others look up by convention: names, the manifest, llms.txt, SKILL.md."""

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web
from ruamel.yaml import YAML

from dvm.discovery.names import Leads, check_name
from identity import encode_npub
from relay_bridge import Fetcher
from tests.tradepost.facade.conftest import KIND, PRICE, capitals, open_desk
from tradepost.facade.api import OPERATIONS
from tradepost.facade.desk import Desk
from tradepost.facade.web.well_known import skill_text
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Caller

ROOT = Path(__file__).parents[4]


async def test_names(desk: Desk, stranger: "Caller") -> None:
    (provider,) = desk.providers
    expected = {
        "names": {"capitals": provider.public_key},
        "relays": {provider.public_key: list(desk.post.pool.urls)},
    }
    for query in ("", "?name=capitals", "?name=Capitals", "?name=capitals&_=1"):
        answer = await stranger("GET", f"/.well-known/nostr.json{query}")
        assert answer.json == expected
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    for query in ("?name=bob", "?name=_"):
        answer = await stranger("GET", f"/.well-known/nostr.json{query}")
        assert (answer.status, answer.json) == (200, {"names": {}, "relays": {}})


async def test_the_name_leads_to_the_agent_and_takes_lightning(desk: Desk, stranger: "Caller") -> None:
    """As clients check it (NIP-05), and as wallets do (LUD-16): one name for both."""
    (provider,) = desk.providers
    address = (await stranger("GET", "/v1/agents/capitals")).json["nip05"]
    checked = await check_name(Fetcher(allow_private=True), address, provider.public_key)
    assert checked.leads is Leads.HERE
    name, _, host = address.partition("@")
    assert host == urlsplit(desk.url).netloc
    pay = (await stranger("GET", f"/.well-known/lnurlp/{name}")).json
    assert pay["tag"] == "payRequest"
    assert address in pay["metadata"]


async def test_the_manifest(desk: Desk, stranger: "Caller") -> None:
    (provider,) = desk.providers
    npub = encode_npub(provider.public_key)
    told = (await stranger("GET", "/.well-known/agent-manifest.json")).json
    (agent,) = told["agents"]
    assert agent == {
        "name": "capitals", "description": "Says it in capitals.", "icon_url": None, "npub": npub,
        "public_key": provider.public_key, "nip05": f"capitals@{told['name']}",
        "lightning_address": f"capitals@{told['name']}", "url": f"{desk.url}/v1/agents/{npub}",
        "skills": [
            {
                "id": str(KIND), "name": "summarisation", "description": "", "tags": ["summarisation"], "kind": KIND,
                "price_sat": PRICE, "params": ["length"],
            }
        ],
    }  # fmt: skip
    assert told["payment"]["mints"] == list(desk.settings.mints)
    assert told["payment"]["custodial"].startswith("Custodial: ")
    assert told["relays"] == list(desk.post.pool.urls)
    routes = {(one.method, one.path): one.name for one in OPERATIONS}
    for name, told_as in told["endpoints"].items():
        method, _, url = told_as.partition(" ")
        assert url.startswith(desk.url)
        assert routes[method, url.removeprefix(desk.url)] == name
    for url in (told["documentation_url"], told["api"]["url"], agent["url"]):
        assert (await stranger("GET", url.removeprefix(desk.url))).status == 200


async def test_llms_txt(market: Market, settings: Settings, stranger: "Caller") -> None:
    """Its form is llmstxt.org's; what an agent says of itself cannot break it."""
    agents = [capitals(), capitals(price_sat=0, name="Free [x](evil)\n# Head")]
    async with open_desk(market, settings, agents) as desk:
        answer = await stranger("GET", "/llms.txt")
        text = answer.text
        assert answer.headers["Content-Type"].startswith("text/markdown")
        lines = text.splitlines()
        assert lines[0].startswith("# ")
        assert [line for line in lines if line.startswith("# ")] == lines[:1]
        assert lines[2].startswith("> ")
        assert f"summarisation (kind {KIND}), {PRICE} sat" in text
        assert f"summarisation (kind {KIND}), free" in text
        assert "(evil)" not in re.findall(r"\]\(([^)]*)\)", text)
        for url in re.findall(r"\]\(([^)]*)\)", text):
            assert (await stranger("GET", url.removeprefix(desk.url))).status == 200


async def test_llms_txt_of_a_desk_without_agents(
    market: Market, settings: Settings, stranger: "Caller"
) -> None:
    async with open_desk(market, settings):
        text = (await stranger("GET", "/llms.txt")).text
    assert f"## Agents\n\nThis post has none of its own: [those of others]({stranger.url}/v1/agents)" in text


def test_the_skill_has_what_loaders_of_skills_want() -> None:
    _, head, body = skill_text().split("---\n", 2)
    told = YAML(typ="safe").load(head)
    assert set(told) == {"name", "description"}
    assert re.fullmatch("[a-z0-9-]{1,64}", told["name"])
    assert 40 <= len(told["description"]) <= 1024
    assert body.lstrip().startswith("# ")


async def test_the_skill_is_served_with_the_address_of_the_desk(desk: Desk, stranger: "Caller") -> None:
    answer = await stranger("GET", "/SKILL.md")
    assert answer.headers["Content-Type"].startswith("text/markdown")
    assert answer.text == (ROOT / "SKILL.md").read_text().replace("https://post.example", desk.url)
    assert "post.example" not in answer.text


def test_whatever_the_skill_names_exists() -> None:
    text = skill_text()
    app = web.Application()

    async def nothing(_request: web.Request) -> web.Response:
        return web.Response()

    for one in OPERATIONS:
        app.router.add_route(one.method, one.path, nothing)
    paths = {re.sub(r"{\w+}", "X", one.path) for one in OPERATIONS}
    named = re.findall(r"(?:post\.example|[ `])(/(?:v1|health|docs|openapi|SKILL|llms)[^\s`'?]*)", text)
    assert len(named) > 10
    for path in named:
        assert re.sub(r"\b(?:NPUB|JOB|KEY)\b", "X", path) in paths, path


async def test_what_the_skill_says_to_do_works(
    desk: Desk, market: Market, stranger: "Caller", token_of: Callable[[int], Awaitable[str]]
) -> None:
    """Its commands in their order, as they stand there, with what a reader fills in."""
    known = {"NPUB": encode_npub(desk.providers[0].public_key), "KEY": "k1"}

    async def run(command: str, **headers: str) -> tuple[int, Any]:
        for name, value in known.items():
            command = re.sub(rf"\b{name}\b", value, command)
        words = shlex.split(command.replace("https://post.example", desk.url))
        given = list(pairwise(words))
        (url,) = [word for word in words if word.startswith("http")]
        told = dict(word.split(": ", 1) for flag, word in given if flag == "-H")
        data = next((word for flag, word in given if flag == "-d"), None)
        method = "POST" if data else "GET"
        async with stranger.http.request(method, url, data=data, headers={**told, **headers}) as response:
            return response.status, await response.json()

    find, reputation, price, hire, wait, balance, withdraw = re.findall(r"(?m)^curl .*$", skill_text())
    status, found = await run(find)
    assert (status, [one["npub"] for one in found["agents"]]) == (200, [known["NPUB"]])
    status, score = await run(reputation)
    assert (status, score["backed"]) == (200, 0)
    assert 0.2 < score["score"] < 0.4
    status, priced = await run(price)
    assert (status, priced["price_sat"]) == (200, PRICE)
    status, problem = await run(hire)
    assert (status, problem["code"], problem["action"]) == (402, "payment_required", "fund")
    by_ecash = hire.replace("KEY", "k2")
    status, job = await run(by_ecash, **{"X-Cashu": await token_of(problem["payment"]["amount_sat"])})
    assert (status, job["state"]) == (201, "done")
    assert job["change"].startswith("cashu")
    known["TICKET"] = problem["payment"]["ticket"]
    market.mint.pay(problem["payment"]["invoice"])
    status, job = await run(hire, Authorization=f"Bearer {known['TICKET']}")
    assert status in (200, 201)
    known["JOB"] = job["id"]
    async with asyncio.timeout(60):
        status, job = await run(wait)
        while job["cost_sat"] is None:  # the money comes to rest a moment after the result
            status, job = await run(wait)
    assert (status, job["state"], job["result"]) == (200, "done", "THE TEXT")
    status, told = await run(balance)
    assert (status, told["held_sat"]) == (200, 0)
    assert (
        told["balance_sat"] >= job["reserved_sat"] - job["cost_sat"] > 0
    )  # its limit was more than the price
    status, told = await run(withdraw)
    assert status in (200, 201)
    assert told["withdrawal"]["token"].startswith("cashu")
