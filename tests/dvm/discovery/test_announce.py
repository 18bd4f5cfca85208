"""What an agent announces of itself, as deployed clients read it."""

import json

from dvm import Agent, Param
from dvm.discovery.announce import announcement
from dvm.discovery.directory import called, listings
from identity import SecretKey, sign_event

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
