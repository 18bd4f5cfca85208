"""A remote signer that does as it should, from the invitation to the signature, and one that is another now."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from identity import (
    Event,
    LocalSigner,
    SecretKey,
    sign_event,
)
from relay_bridge import RelayPool
from relay_bridge.bunker import BunkerSigner, await_invited, connect_bunker, follow_relays
from relay_bridge.bunker_line import BunkerLine
from relay_bridge.errors import BunkerSilent, BunkerUntrue
from store import SystemClock
from tests.relay_bridge.bunker import URL, Bunker, template
from tradepost.testing.relay import MemoryRelay

OTHER_URL = "ws://other.test"
Eventually = Callable[..., Awaitable[None]]


# Good


async def test_it_is_a_signer_for_the_users_key(bunker: Bunker, signer: BunkerSigner) -> None:
    assert signer.public_key == bunker.user.public_key
    event = await signer.sign(template("grüße"))
    event.verify()
    assert event.id == sign_event(template("grüße"), bunker.user).id
    peer = LocalSigner(SecretKey.generate())
    for encrypt, decrypt in (("nip44_encrypt", "nip44_decrypt"), ("nip04_encrypt", "nip04_decrypt")):
        payload = await getattr(signer, encrypt)(peer.public_key, "für dich")
        assert await getattr(peer, decrypt)(signer.public_key, payload) == "für dich"
        payload = await getattr(peer, encrypt)(signer.public_key, "for you")
        assert await getattr(signer, decrypt)(peer.public_key, payload) == "for you"


async def test_connecting_says_who_we_are_and_what_we_want(bunker: Bunker, line: BunkerLine) -> None:
    said: list[list[str]] = []

    def note(method: str, params: list[str]) -> object:
        said.append(params)
        return bunker.honestly(method, params)

    bunker.says = note
    await connect_bunker(line, secret="s3cr3t")
    remote_key, secret, permissions, about = said[0]
    assert (remote_key, secret) == (bunker.key.public_key, "s3cr3t")
    assert {"sign_event", "nip44_decrypt"} <= set(permissions.split(","))
    assert json.loads(about) == {"name": "tradepost"}
    assert bunker.asked == ["connect", "get_public_key"]


async def test_many_requests_at_once_come_back_in_any_order(bunker: Bunker, signer: BunkerSigner) -> None:
    waiting: list[tuple[int, object]] = []

    def later(method: str, params: list[str]) -> None:
        waiting.append((len(bunker.requests) - 1, bunker.honestly(method, params)))
        if len(waiting) == 50:
            for number, said in reversed(waiting):
                asyncio.get_running_loop().call_soon(bunker.answer, number, said)

    bunker.says = later
    events = await asyncio.gather(*(signer.sign(template(str(n))) for n in range(50)))
    assert [event.content for event in events] == [str(n) for n in range(50)]


async def test_more_than_a_bounded_number_take_turns(
    bunker: Bunker, signer: BunkerSigner, eventually: Eventually
) -> None:
    before = len(bunker.requests)
    bunker.says = lambda *_: None
    tasks = [asyncio.create_task(signer.sign(template(str(n)))) for n in range(100)]
    await eventually(lambda: len(bunker.requests) - before == 64)
    bunker.says = bunker.honestly
    for number in range(before, before + 64):
        bunker.answer(number, bunker.user.public_key)  # nonsense, but an answer
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, Event) for one in done) == 36
    assert sum(isinstance(one, BunkerUntrue) for one in done) == 64


async def test_an_old_signers_answers_are_read(bunker: Bunker, line: BunkerLine) -> None:
    bunker.says = lambda *_: (
        asyncio.get_running_loop().call_soon(lambda: bunker.answer(-1, bunker.user.public_key, old=True))
        and None
    )
    assert (await line.call("get_public_key")) == bunker.user.public_key


# Connecting again


async def test_one_that_knows_us_is_only_greeted(bunker: Bunker, line: BunkerLine) -> None:
    signer = await connect_bunker(line, secret="s", known_key=bunker.user.public_key)
    assert (signer.public_key, bunker.asked) == (bunker.user.public_key, ["get_public_key"])


async def test_one_that_forgot_us_is_connected_to_anew(bunker: Bunker, line: BunkerLine) -> None:
    def forgetful(method: str, params: list[str]) -> object:
        known = "connect" in bunker.asked
        return bunker.honestly(method, params) if known else PermissionError("who are you?")

    bunker.says = forgetful
    await connect_bunker(line, secret="s", known_key=bunker.user.public_key)
    assert bunker.asked == ["get_public_key", "connect", "get_public_key"]


async def test_one_that_holds_another_key_now_is_refused(bunker: Bunker, line: BunkerLine) -> None:
    """An agent that came up as somebody else would answer for nobody's jobs."""
    with pytest.raises(BunkerUntrue, match=r"holds npub1\w+ now, and npub1\w+ before"):
        await connect_bunker(line, known_key=SecretKey.generate().public_key)


@pytest.mark.parametrize("said", ["", "npub1", "zz" * 32])
async def test_a_key_that_is_none_is_refused(bunker: Bunker, line: BunkerLine, said: str) -> None:
    bunker.says = lambda method, _: said if method == "get_public_key" else "ack"
    with pytest.raises(BunkerUntrue, match="no public key"):
        await connect_bunker(line)


# Relays


async def test_the_signer_chooses_the_relays(
    bunker: Bunker, line: BunkerLine, signer: BunkerSigner, relay: MemoryRelay
) -> None:
    bunker.says = lambda method, params: (
        json.dumps([OTHER_URL, "http://x", URL + "/"])
        if method == "switch_relays"
        else bunker.honestly(method, params)
    )
    moved: list[object] = []
    await follow_relays(line, moved.append)
    assert line.relays == (OTHER_URL, URL)
    assert moved == [(OTHER_URL, URL)]
    (await signer.sign(template())).verify()


@pytest.mark.parametrize(
    "said", ["null", "", "[]", '["http://x"]', f'["{URL}"]', "{}", "no json", '[["x"]]', ValueError("?")]
)
async def test_a_signer_that_wants_no_other_relays_changes_nothing(
    bunker: Bunker, line: BunkerLine, said: object
) -> None:
    bunker.says = lambda *_: said
    await follow_relays(line, lambda _: None)
    assert line.relays == (URL,)


# Invited


async def test_whoever_knows_the_secret_is_the_signer(
    bunker: Bunker, pool: RelayPool, clock: SystemClock, relay: MemoryRelay, eventually: Eventually
) -> None:
    client = SecretKey.generate()
    waiting = asyncio.create_task(
        await_invited(pool, clock, client_key=client, secret="s3cr3t", seconds_max=10)
    )
    await eventually(lambda: relay.subscriptions)
    bunker.requests.append(("any", client.public_key))
    bunker.answer(-1, "ack", by=SecretKey.generate())
    bunker.answer(-1, "guess", by=SecretKey.generate())
    bunker.answer(-1, "s3cr3t")
    bunker.answer(-1, "s3cr3t", by=SecretKey.generate())  # too late
    assert await waiting == bunker.key.public_key


async def test_nobody_may_come(pool: RelayPool, clock: SystemClock) -> None:
    with pytest.raises(BunkerSilent, match=r"no signer answered within 0.05 s at ws://relay.test"):
        await await_invited(pool, clock, client_key=SecretKey.generate(), secret="s", seconds_max=0.05)
