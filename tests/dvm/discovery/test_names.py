"""Where NIP-05 names lead, asked of a server of ours that means well, and of it when it does not."""

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from dvm.discovery import names
from dvm.discovery.names import ANSWER_BYTES_MAX, Leads, NameCheck, check_name
from identity import SecretKey, encode_npub
from relay_bridge import Fetcher

if TYPE_CHECKING:
    from tests.conftest import NameServer

KEY, OTHER = (SecretKey.generate().public_key for _ in range(2))


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(allow_private=True)


async def test_a_name_that_leads_to_the_key(name_server: "NameServer", fetcher: Fetcher) -> None:
    name_server.names = {"bob": KEY, "_": KEY}
    name = f"bob@{name_server.domain}"
    assert await check_name(fetcher, name.upper(), KEY) == NameCheck(name, Leads.HERE)
    assert (await check_name(fetcher, f"_@{name_server.domain}", KEY)).name == name_server.domain
    assert name_server.asked == [f"/.well-known/nostr.json?name={local}" for local in ("bob", "_")]


async def test_names_that_lead_elsewhere(name_server: "NameServer", fetcher: Fetcher) -> None:
    name_server.names = {"bob": OTHER}
    found = await check_name(fetcher, f"bob@{name_server.domain}", KEY)
    assert (found.leads, found.said) == (Leads.ELSEWHERE, f"it leads to another key, {encode_npub(OTHER)}")
    found = await check_name(fetcher, f"carol@{name_server.domain}", KEY)
    assert found.leads is Leads.ELSEWHERE
    assert found.said == f"{name_server.domain} does not know the name carol"
    found = await check_name(fetcher, "bob at home", KEY)
    assert (found.name, found.leads) == ("bob at home", Leads.ELSEWHERE)
    name_server.says = web.Response(status=404, text="<html>")
    found = await check_name(fetcher, f"bob@{name_server.domain}", KEY)
    assert (found.leads, "does not answer as NIP-05 says" in found.said) == (Leads.ELSEWHERE, True)


async def test_redirects_are_not_followed(name_server: "NameServer", fetcher: Fetcher) -> None:
    name_server.says = web.Response(status=302, headers={"Location": "/elsewhere"})
    found = await check_name(fetcher, f"bob@{name_server.domain}", KEY)
    assert (found.leads, found.said) == (Leads.UNKNOWN, "127.0.0.1 redirects where that is not allowed")
    assert len(name_server.asked) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "2130706433.", "x.local"]
)
async def test_our_own_network_is_not_asked(name_server: "NameServer", host: str) -> None:
    port = name_server.domain.partition(":")[2]
    found = await check_name(Fetcher(), f"bob@{host}:{port}", KEY)
    assert found.leads is Leads.UNKNOWN
    assert "unknown, or not on the public internet" in found.said
    assert name_server.asked == []


async def test_an_answer_without_end_and_none_at_all(
    name_server: "NameServer", fetcher: Fetcher, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_server.says = web.Response(text=" " * (ANSWER_BYTES_MAX + 1))
    found = await check_name(fetcher, f"bob@{name_server.domain}", KEY)
    assert (found.leads, f"more than {ANSWER_BYTES_MAX} bytes" in found.said) == (Leads.UNKNOWN, True)
    assert (await check_name(fetcher, f"bob@127.0.0.1:{free_port}", KEY)).leads is Leads.UNKNOWN
    monkeypatch.setattr(names, "SECONDS_MAX", 0.0)
    found = await check_name(fetcher, f"bob@{name_server.domain}", KEY)
    assert (found.leads, "took longer" in found.said) == (Leads.UNKNOWN, True)
