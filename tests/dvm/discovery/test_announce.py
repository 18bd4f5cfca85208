"""What an agent announces of itself, as deployed clients read it."""

import asyncio
import json

import pytest

from dvm import Agent, Param
from dvm.discovery import announce
from dvm.discovery.announce import Announcer, announcement
from dvm.discovery.directory import called, listings
from identity import LocalSigner, SecretKey, sign_event
from tradepost.testing import Market

NOW = 1_800_000_000


def test_parameters_are_announced_as_nostrdvm_does() -> None:
    agent = Agent("Painter")
    agent.serves(5100, params=[Param("model", values=["sd", "flux"], required=True)])(lambda job: "")
    content = json.loads(announcement(agent, NOW).content)
    params = content["nip90Params"]
    assert params["model"] == {"required": True, "values": ["sd", "flux"], "description": ""}
    assert params["size"] == {
        "required": False,
        "values": [],
        "description": "in pixels, before `ratio`; like 512x512",
    }
    assert params["ratio"]["values"][0] == "1:1"


def test_flags_that_clients_read() -> None:
    free, paid = Agent("Free"), Agent("Paid", about="Does it", picture="https://a.example/p.png")
    free.serves(5001)(lambda job: "")
    paid.serves(5001, price_sat=2)(lambda job: "")
    paid.serves(5002, price_sat=3)(lambda job: "")
    told = json.loads(announcement(free, NOW).content)
    assert (told["amount"], told["cashuAccepted"], told["acceptsNutZaps"]) == ("free", False, False)
    event = announcement(paid, NOW)
    told = json.loads(event.content)
    assert (told["name"], told["about"]) == ("Paid", "Does it")
    assert told["picture"] == told["image"] == "https://a.example/p.png"
    assert (told["amount"], told["cashuAccepted"], told["personalized"]) == ("3000", True, False)
    assert told["encryptionSupported"] is told["supportsEncryption"] is True
    assert "lud16" not in told  # what is zapped there pays no job
    assert event.tags == (
        ("d", "paid"), ("k", "5001"), ("k", "5002"), ("t", "summarisation"), ("t", "translation"),
        ("price", "5001", "2000"), ("price", "5002", "3000"),
    )  # fmt: skip


async def test_a_heartbeat_that_no_relay_took_is_sent_again_soon(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "BEAT_AGAIN_SECONDS", 0.01)
    market.relay.switches.reject = lambda event: "error: not now" if event.kind == 11998 else None
    announcer = Announcer(Agent("Bob"), LocalSigner(SecretKey.generate()), await market.post("shop"))
    await announcer.start()

    async def beats(number: int) -> None:
        async with asyncio.timeout(10):
            while sum(event.kind == 11998 for event in market.relay.published) < number:
                await asyncio.sleep(0.01)

    await beats(2)
    market.relay.switches.reject = lambda _: None
    await beats(3)
    await announcer.stop()
    assert announce.HOLDS_SECONDS > 2 * announce.BEAT_SECONDS  # nor does one that is lost end a life


def test_a_kind_of_ones_own_is_found_by_its_name() -> None:
    agent = Agent("Bard")
    agent.serves(5991, name="haiku")(lambda job: "")
    event = sign_event(announcement(agent, NOW), SecretKey.generate())
    (found,) = listings([event], [], NOW)
    assert [called(found, 5991, word) for word in ("haiku", "Haiku", "5991", "bard", "sonnet")] == [
        True,
        True,
        True,
        True,
        False,
    ]
