"""Agents as callers see them: a list to search, and one."""

from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, Job, Param
from dvm.kinds import ANNOUNCEMENT, HEARTBEAT
from identity import SecretKey, encode_npub, make_template, sign_event
from tests.tradepost.facade.conftest import KIND, PRICE, capitals, open_desk
from tradepost.facade.desk import Desk
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Caller


async def announce(
    market: Market, name: str, kinds: dict[int, int], *tags: tuple[str, ...], content: str = ""
) -> SecretKey:
    """Somebody else's agent on the relay, alive."""
    key, now = SecretKey.generate(), market.clock.now()
    told = [("d", "x"), *(("k", str(kind)) for kind in kinds), *tags]
    told += [("price", str(kind), str(1000 * sat)) for kind, sat in kinds.items()]
    post = await market.post(f"relay of {name}")
    body = content or f'{{"name": "{name}"}}'
    for kind, body_, tags_ in ((ANNOUNCEMENT, body, told), (HEARTBEAT, "", [("d", "x")])):
        await post.pool.publish(
            sign_event(make_template(kind, content=body_, tags=tags_, created_at=now), key)
        )
    return key


async def test_an_own_agent(desk: Desk, stranger: "Caller") -> None:
    (provider,) = desk.providers
    npub, host = encode_npub(provider.public_key), desk.url.partition("://")[2]
    answer = await stranger("GET", "/v1/agents/capitals")
    assert answer.status == 200
    assert answer.json == {
        "npub": npub,
        "public_key": provider.public_key,
        "name": "capitals",
        "about": "Says it in capitals.",
        "picture": None,
        "nip05": f"capitals@{host}",
        "live": True,
        "own": True,
        "capabilities": [
            {
                "kind": KIND, "name": "summarisation", "about": "", "price_sat": PRICE,
                "params": [
                    {
                        "name": "length", "about": "in words or paragraphs, like `10 paragraphs`", "required": False,
                        "values": [], "form": "text", "count_max": 1,
                    }
                ],
                "inputs": ["event", "job", "text", "url"], "outputs": ["text/plain", "text/markdown"],
            }
        ],
        "strangers": {"deposit_sat": 0, "pow_bits": 0, "welcome": True},
        "hire": {
            "method": "POST", "url": f"{desk.url}/v1/jobs", "agent": npub, "settle": ["prepaid"],
            "reputation": f"{desk.url}/v1/agents/{npub}/reputation",
        },
    }  # fmt: skip
    for name in (npub, provider.public_key, "Capitals", f"capitals@{host}"):
        assert (await stranger("GET", f"/v1/agents/{name}")).json == answer.json


async def test_an_agent_of_others(desk: Desk, market: Market, stranger: "Caller") -> None:
    params = '{"size": {"required": true, "values": ["s", "m"], "description": "how large"}, "language": {}}'
    key = await announce(
        market, "Bob", {5002: 5, 5999: 7}, ("strangers", "pow", "12"), ("strangers", "amount", "8000"),
        content=f'{{"name": "Bob", "picture": "javascript:alert(1)", "nip90Params": {params}}}',
    )  # fmt: skip
    told = (await stranger("GET", f"/v1/agents/{key.public_key}")).json
    assert (told["name"], told["live"], told["own"], told["nip05"]) == ("Bob", True, False, None)
    assert told["picture"] is None
    assert told["strangers"] == {"deposit_sat": 8, "pow_bits": 12, "welcome": True}
    translation, other = told["capabilities"]
    assert (translation["price_sat"], other["price_sat"]) == (5, 7)
    assert [one["name"] for one in translation["params"]] == ["size", "language"]
    assert [one["name"] for one in other["params"]] == ["size"]  # the language is of translations
    assert translation["params"][0] | {"about": ""} == {
        "name": "size", "about": "", "required": True, "values": ["s", "m"], "form": "", "count_max": 1,
    }  # fmt: skip


@pytest.mark.parametrize("trusts", [True, False])
async def test_others_are_paid_by_escrow_where_arbiters_are_trusted(
    market: Market, settings: Settings, stranger: "Caller", trusts: bool
) -> None:
    key = await announce(market, "Bob", {5002: 5})
    arbiters = (SecretKey.generate().public_key,) if trusts else ()
    async with open_desk(market, settings.model_copy(update={"arbiters": arbiters}), [capitals()]):
        others, own = [
            (await stranger("GET", f"/v1/agents/{name}")).json["hire"]["settle"]
            for name in (key.public_key, "capitals")
        ]
    assert others == (["prepaid", "escrow"] if trusts else ["prepaid"])
    assert own == ["prepaid"]


async def test_a_search(desk: Desk, market: Market, stranger: "Caller") -> None:
    await announce(market, "Bob", {5002: 5})
    await announce(market, "Dear", {5002: 500})

    async def names(query: str) -> list[str]:
        answer = await stranger("GET", f"/v1/agents?{query}")
        assert answer.status == 200, answer.text
        return [one["name"] for one in answer.json["agents"]]

    assert await names("") == ["capitals", "Bob", "Dear"]
    assert await names("kind=5002&max_sat=10") == ["Bob"]
    assert await names("capability=summari") == ["capitals"]
    assert await names("q=capitals&live=true") == ["capitals"]
    assert await names("live=false") == []


async def test_pages(desk: Desk, market: Market, stranger: "Caller") -> None:
    for number in range(4):
        await announce(market, f"Agent {number}", {5002: number})
    seen, cursor = [], ""
    while cursor is not None:
        page = (await stranger("GET", f"/v1/agents?limit=2&{f'cursor={cursor}' if cursor else ''}")).json
        assert 1 <= len(page["agents"]) <= 2
        seen += [one["name"] for one in page["agents"]]
        cursor = page["next"]
    assert seen == ["capitals", *(f"Agent {number}" for number in range(4))]


async def test_what_is_refused(desk: Desk, stranger: "Caller") -> None:
    for path, status, code in (
        ("/v1/agents/nobody", 404, "not_found"),
        ("/v1/agents/npub1rubbish", 400, "bad_request"),
        (f"/v1/agents/{'a' * 64}", 404, "not_found"),
        ("/v1/agents?kind=1", 400, "not_valid"),
        ("/v1/agents?kind=null", 400, "not_valid"),
        ("/v1/agents?limit=101", 400, "not_valid"),
        ("/v1/agents?colour=red", 400, "not_valid"),
        ("/v1/agents?q=a&q=b", 400, "not_valid"),
        (f"/v1/agents?cursor={'0' * 64}", 400, "not_valid"),
        ("/v1/agents?cursor=%27--", 400, "not_valid"),
    ):
        answer = await stranger("GET", path)
        assert (path, answer.status, answer.json["code"]) == (path, status, code)


async def test_parameters_of_an_own_agent(market: Market, settings: Settings, stranger: "Caller") -> None:
    agent = Agent("Picky", picture="https://post.example/p.png")

    @agent.serves(
        5999,
        price_sat=3,
        name="sorting",
        params=[Param("order", "how", values=("up", "down"), required=True)],
    )
    async def sort(job: Job) -> Any:
        """Sorts lines."""
        return job.text

    async with open_desk(market, settings, [agent]):
        told = (await stranger("GET", "/v1/agents/picky")).json
    assert told["picture"] == "https://post.example/p.png"
    (capability,) = told["capabilities"]
    assert (capability["name"], capability["about"]) == ("sorting", "Sorts lines.")
    assert capability["params"] == [
        {
            "name": "order",
            "about": "how",
            "required": True,
            "values": ["up", "down"],
            "form": "",
            "count_max": 1,
        }
    ]
