"""What an agent announces of itself, as deployed clients read it."""

import json

from dvm import Agent, Param
from dvm.announce import announcement
from dvm.directory import called, listings
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
