"""What a wish comes to: whom it means, what it may cost, how it is paid; and what is refused, with what to say instead."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from dvm import Agent, BadRequest, Listing, NoAgentFound
from dvm.orders.asking import named_key
from identity import IdentityError, SecretKey, encode_npub
from identity.nip19 import encode_nprofile
from tradepost.facade.agents.catalogue import Known
from tradepost.facade.jobs.wishes import JobWish, Plan, plan_for
from tradepost.facade.web.problems import NotFound, NotValid
from wallet.terms import Method

OWN, OTHER, DEAD, ARBITER, NOBODY = (SecretKey(bytes([number]) * 32).public_key for number in range(1, 6))


def listed(key: str, name: str, prices: dict[int, int | None], *, alive: bool = True) -> Known:
    told = {kind: None if sat is None else 1000 * sat for kind, sat in prices.items()}
    listing = Listing(
        public_key=key, slug=name, name=name, about="", words=(), kinds=tuple(prices), prices_msat=told,
        price_msat=None, alive=alive, beat_at=None, announced_at=0,
    )  # fmt: skip
    return Known(listing, Agent(name) if key == OWN else None)


@dataclass
class Catalogue:
    """As the real one, of agents that a test says."""

    agents: list[Known] = field(
        default_factory=lambda: [
            listed(OWN, "own", {5001: 21, 5050: 0}),
            listed(OTHER, "other", {5001: 15, 5100: None}),
            listed(DEAD, "dead", {5001: 1, 5300: 9}, alive=False),
        ]
    )

    @property
    def own(self) -> list[Known]:
        return [one for one in self.agents if one.agent]

    async def known(self) -> list[Known]:
        return self.agents

    async def find(self, target: str) -> Known:
        for one in self.agents:
            if one.public_key == named_key(target) or one.listing.name == target:
                return one
        raise NotFound("nobody")


async def plan(*, arbiters: tuple[str, ...] = (), **wish: Any) -> Plan:
    told = msgspec.convert({"input": "x"} | wish, JobWish)
    return await plan_for(told, Catalogue(), arbiters)  # type: ignore[arg-type]  # it has all that is used


# -- whom it means


async def test_a_key_names_an_agent_and_nobody_else() -> None:
    for target in (OTHER, encode_npub(OTHER), encode_nprofile(OTHER, ["wss://relay.test"])):
        made = await plan(agent=target, kind=5001)
        assert (made.target, made.kind, made.others) == (target, 5001, False)
        assert (made.price_sat, made.max_sat) == (15, 15)
    assert (await plan(agent=OTHER, kind=5001, others=True)).others


async def test_nobody_takes_the_jobs_of_an_agent_by_a_name_that_has_its_name_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap = listed(NOBODY, "own and cheap", {5001: 1})
    monkeypatch.setattr(Catalogue, "known", lambda self: _told([*self.agents, cheap]))
    made = await plan(agent="own", kind=5001)
    assert (made.target, made.price_sat) == (OWN, 21)
    assert (await plan(agent="and", kind=5001)).price_sat == 1  # a word means whoever fits


async def _told(agents: list[Known]) -> list[Known]:
    return agents


@pytest.mark.parametrize("wish", [{"agent": "summarisation"}, {"kind": "Summarization"}, {"kind": 5001}])
async def test_a_word_means_the_cheapest_that_is_alive_and_then_others(wish: dict[str, Any]) -> None:
    made = await plan(**wish)
    assert (made.kind, made.others, made.price_sat, made.max_sat) == (5001, True, 15, 15)
    assert made.known is not None
    assert made.known.public_key == OTHER


async def test_an_agent_of_ours_is_asked_by_its_key() -> None:
    for wish in ({"kind": 5050}, {"agent": "own", "kind": 5001}, {"agent": "text generation"}):
        made = await plan(**wish)
        assert (made.target, made.others, made.own) == (OWN, True, (OWN,))


async def test_a_name_is_enough_for_an_agent_that_does_one_thing() -> None:
    with pytest.raises(NotValid, match=r"5001 .*5100 .*say `kind`"):
        await plan(agent="other")
    with pytest.raises(NotFound):
        await plan(agent="whoever")
    with pytest.raises(NotValid, match="say `agent`, or `kind`"):
        await plan()
    with pytest.raises(NotValid, match="does not know what the agent does"):
        await plan(agent=NOBODY)
    with pytest.raises((BadRequest, IdentityError)):
        await plan(agent="npub1nonsense", kind=5001)
    for kind in (5128, 4999, 6000, "whatever"):
        with pytest.raises(BadRequest):
            await plan(kind=kind)


async def test_an_agent_that_does_something_else_is_not_asked() -> None:
    with pytest.raises(NotValid, match="announces no text to speech"):
        await plan(agent=OTHER, kind=5250)
    assert (await plan(agent=OTHER, kind=5250, max_sat=5, others=True)).max_sat == 5


# -- what it may cost


async def test_what_is_announced_is_the_most_unless_it_is_said() -> None:
    assert (await plan(kind=5001, max_sat=40)).max_sat == 40
    with pytest.raises(NotValid, match="costs 15 sat, and `max_sat` is 14"):
        await plan(kind=5001, max_sat=14)
    with pytest.raises(NotValid, match="announces no price"):
        await plan(agent=OTHER, kind=5100)
    assert (await plan(agent=OTHER, kind=5100, max_sat=7)).max_sat == 7
    with pytest.raises(NoAgentFound):
        await plan(kind=5300)  # the only one is not alive
    assert (await plan(kind=5300, max_sat=9)).price_sat is None
    assert (await plan(agent=NOBODY, kind=5001, max_sat=9)).known is None


# -- how it is paid


async def test_by_escrow_where_somebody_is_trusted() -> None:
    assert (await plan(kind=5001)).settle == (Method.PREPAID,)
    both = await plan(kind=5001, arbiters=(ARBITER,))
    assert (both.settle, both.arbiters) == ((Method.ESCROW, Method.PREPAID), (ARBITER,))
    named = await plan(kind=5001, arbiters=("ab" * 32,), settle="escrow")
    assert (named.settle, named.avoid) == ((Method.ESCROW,), (OWN,))
    theirs = await plan_for(
        JobWish(kind=5001, input="x", arbiters=[encode_npub(ARBITER)]), Catalogue(), ("ab" * 32,)  # type: ignore[arg-type]  # as above
    )  # fmt: skip
    assert theirs.arbiters == (ARBITER,)
    assert (await plan(kind=5001, arbiters=(ARBITER,), private=True)).settle == (Method.PREPAID,)
    assert (await plan(kind=5001, arbiters=(ARBITER,), settle="prepaid")).arbiters == ()
    own = await plan(agent=OWN, kind=5001, arbiters=(ARBITER,))
    assert (own.settle, own.arbiters) == ((Method.PREPAID,), ())


async def test_where_only_an_escrow_will_do_our_own_are_not_asked() -> None:
    made = await plan(kind=5050, arbiters=(ARBITER,), settle="escrow", max_sat=30)
    assert (made.target, made.avoid) == ("5050", (OWN,))


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"agent": OWN, "settle": "escrow"}, "the post's own"),
        ({"agent": OWN, "review": True}, "the post's own"),
        ({"settle": "prepaid", "review": True}, "before you see it"),
        ({"settle": "escrow", "private": True}, "cannot be private"),
        ({"settle": "escrow", "seconds_max": 20}, "seconds_max"),
        ({"settle": "escrow", "agent": OTHER, "kind": 5100, "max_sat": 0}, "free work"),
    ],
)
async def test_what_no_escrow_can_do_is_refused(wish: dict[str, Any], why: str) -> None:
    with pytest.raises(NotValid, match=why):
        await plan(arbiters=(ARBITER,), **({"kind": 5001} | wish))
    if "agent" not in wish and "private" not in wish and wish["settle"] == "escrow":
        with pytest.raises(NotValid, match="needs an arbiter"):
            await plan(kind=5001, settle="escrow")


# -- what there is to work on


@pytest.mark.parametrize(
    "wish",
    [
        {"inputs": [{"data": "y"}]},  # and `input`
        {"input": None},
        {"input": None, "inputs": [{"data": "ftp://x", "type": "url"}]},
        {"input": None, "inputs": [{"data": "nonsense", "type": "event"}]},
        {"input": None, "inputs": [{"data": "x" * 30_000}] * 3},
        {"params": {"a": "x" * 63_000}},
    ],
)
async def test_inputs_that_no_agent_could_work_on_are_refused(wish: dict[str, Any]) -> None:
    with pytest.raises((NotValid, BadRequest)):
        await plan(kind=5001, **wish)


@pytest.mark.parametrize(
    "wish",
    [
        {"max_sat": -1}, {"max_sat": 1.5}, {"max_sat": 10**9}, {"seconds_max": 0}, {"seconds_max": 10**6},
        {"input": 5}, {"inputs": [{"data": "x", "type": "file"}]}, {"inputs": [{}]}, {"params": {"a": 1}}, {"params": {"": "x"}},
        {"arbiters": ["x"] * 9}, {"others": 1}, {"settle": "reveal"}, {"agent": "x" * 1001}, {"unknown": 1},
    ],
)  # fmt: skip
def test_what_is_no_wish_is_not_read(wish: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": 5001} | wish, JobWish)


async def test_inputs_come_as_they_are_said() -> None:
    given = [{"data": "https://example.com", "type": "url", "marker": "m"}, {"data": "y"}]
    made = await plan(kind=5001, input=None, inputs=given, params={"a": ["b", "c"]})
    assert [(one.data, one.type, one.marker) for one in made.inputs] == [
        ("https://example.com", "url", "m"), ("y", "text", ""),
    ]  # fmt: skip
    assert made.params == {"a": ["b", "c"]}
