"""Who an agent is and where it reads, as relays have it."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dvm import Agent
from dvm.discovery.announce import Announcer
from dvm.discovery.names import Leads, NameCheck
from dvm.discovery.profile import KINDS, announced_name, introductions
from identity import Event, LocalSigner, SecretKey, make_template, sign_event
from relay_bridge import Fetcher
from tests.dvm.conftest import eventually
from tradepost.testing import Market

if TYPE_CHECKING:
    from tests.conftest import NameServer

NOW = 1_800_000_000
KEY = SecretKey.generate()
RELAYS = [f"wss://r{number}.example" for number in range(6)]
HERE = NameCheck("bob@example.com", Leads.HERE)


def known(kind: int, content: str = "", *tags: tuple[str, ...], at: int = NOW - 9) -> Event:
    return sign_event(make_template(kind, content=content, tags=tags, created_at=at), KEY)


def test_what_a_new_key_says() -> None:
    agent = Agent("Bob", about="Does it", picture="https://a.example/p.png", nip05="Bob@Example.com")
    profile, relays, letters = introductions(agent, RELAYS, {}, HERE, NOW)
    assert (profile.kind, relays.kind, letters.kind) == KINDS == (0, 10002, 10050)
    assert json.loads(profile.content) == {
        "name": "Bob", "about": "Does it", "picture": "https://a.example/p.png", "bot": True, "nip05": "bob@example.com",
    }  # fmt: skip
    assert relays.tags == tuple(("r", url) for url in RELAYS[:4])
    assert letters.tags == tuple(("relay", url) for url in RELAYS[:3])
    assert {template.created_at for template in (profile, relays, letters)} == {NOW}
    events = {template.kind: sign_event(template, KEY) for template in (profile, relays, letters)}
    assert introductions(agent, RELAYS, events, HERE, NOW) == []
    assert [t.kind for t in introductions(agent, RELAYS[1:], events, HERE, NOW)] == [10002, 10050]


def test_what_others_wrote_into_a_profile_stays() -> None:
    told = {"name": "old", "about": "mine", "lud16": "bob@pay.example", "nip05": "bob@example.com"}
    before = known(0, json.dumps(told), ("i", "github:bob", "x"), at=NOW + 5)
    profile = introductions(Agent("Bob"), RELAYS, {0: before}, None, NOW)[0]
    assert json.loads(profile.content) == {**told, "name": "Bob", "bot": True}
    assert profile.tags == before.tags
    assert profile.created_at == NOW + 6  # newer, or relays would keep the other


@pytest.mark.parametrize("content", ["", "x", "[]", "[" * 100_000])
def test_a_profile_that_cannot_be_read_is_replaced(content: str) -> None:
    profile = introductions(Agent("Bob"), RELAYS, {0: known(0, content)}, None, NOW)[0]
    assert json.loads(profile.content) == {"name": "Bob", "bot": True}
    assert announced_name(known(0, content)) == ""


@pytest.mark.parametrize(
    ("leads", "before", "after"),
    [
        (Leads.HERE, None, "bob@example.com"),
        (Leads.ELSEWHERE, None, None),
        (Leads.UNKNOWN, None, None),
        (Leads.ELSEWHERE, "bob@example.com", None),
        (Leads.UNKNOWN, "bob@example.com", "bob@example.com"),  # its server may be down for an hour
    ],
)
def test_only_a_name_that_leads_to_the_key_is_announced(
    leads: Leads, before: str | None, after: str | None
) -> None:
    agent = Agent("Bob", nip05="bob@example.com")
    profiles = {0: known(0, json.dumps({"nip05": before}))} if before else {}
    profile = introductions(agent, RELAYS, profiles, NameCheck("bob@example.com", leads), NOW)[0]
    assert json.loads(profile.content).get("nip05") == after


def test_what_is_shown_of_a_claimed_name() -> None:
    assert (
        announced_name(known(0, json.dumps({"nip05": "bob@a.example\x1b[2J\u202e"}))) == "bob@a.example [2J"
    )
    assert announced_name(known(0, json.dumps({"nip05": ["x"]}))) == ""


def test_a_name_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not a NIP-05 name"):
        Agent("Bob", nip05="bob at home")


async def test_an_agent_introduces_itself_when_it_opens(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    mine = {0: "", 10002: "", 10050: ""}

    def told() -> dict[int, str]:
        events = [e for e in market.relay.events if e.pubkey == provider.public_key and e.kind in mine]
        return {event.kind: event.content for event in events}

    await eventually(lambda: told().keys() == mine.keys(), "the profile")
    assert json.loads(told()[0]) == {"name": "Upper", "about": "Says it louder", "bot": True}
    await provider.stop(0)
    assert told().keys() == mine.keys()  # who it is does not change because it is closed


async def test_what_relays_have_is_not_published_again(market: Market, name_server: "NameServer") -> None:
    agent = Agent("Bob", nip05=f"bob@{name_server.domain}")
    post = replace(await market.post("shop"), fetcher=Fetcher(allow_private=True))
    name_server.names["bob"] = KEY.public_key

    async def published() -> list[Event]:
        await Announcer(agent, LocalSigner(KEY), post).introduce()
        assert await post.outbox.flush(5)
        return [event for event in market.relay.events if event.kind in KINDS]

    first = await published()
    assert sorted(event.kind for event in first) == sorted(KINDS)
    profile = next(event for event in first if event.kind == 0)
    assert json.loads(profile.content) == {"name": "Bob", "bot": True, "nip05": agent.nip05}
    assert await published() == first
    assert len(name_server.asked) == 2
    name_server.names["bob"] = SecretKey.generate().public_key
    profile = next(event for event in await published() if event.kind == 0)
    assert json.loads(profile.content) == {"name": "Bob", "bot": True}
