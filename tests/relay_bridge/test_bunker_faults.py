"""A remote signer that is slow, away, or lies, and what it cannot open or must not be asked."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from identity import (
    DecryptionError,
    EncryptionError,
    InvalidKey,
    LocalSigner,
    SecretKey,
    SignerUnavailable,
    make_template,
    nip44,
    sign_event,
)
from identity.nip46 import KIND
from relay_bridge import RelayPool
from relay_bridge.bunker import BunkerSigner
from relay_bridge.bunker_line import BunkerLine
from relay_bridge.errors import BunkerRefused, BunkerSilent, BunkerUntrue
from store import SystemClock
from tests.relay_bridge.bunker import URL, Bunker, line_to, template
from tradepost.testing import ManualClock
from tradepost.testing.relay import MemoryRelay

Eventually = Callable[..., Awaitable[None]]


async def elapse(clock: ManualClock, task: asyncio.Task[object], seconds: int, step: int = 1) -> None:
    """Let time pass until `task` ends, at most so long; in between others get on, threads too."""
    for _ in range(0, seconds, step):
        await asyncio.sleep(0.002)
        if task.done():
            return
        await clock.advance(step)


# Slow, or away


async def test_silence_is_told_with_what_since_when_and_what_to_do(
    bunker: Bunker, relay: MemoryRelay
) -> None:
    clock = ManualClock()
    bunker.says = lambda *_: None
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        line_to(bunker, pool, clock) as line,
    ):
        asking = asyncio.create_task(line.call("sign_event", "{}"))
        await elapse(clock, asking, 100)
        with pytest.raises(BunkerSilent) as caught:
            await asking
    assert re.search(
        r"the signer npub1\S+… has not answered `sign_event` since 22:13:\d\d UTC \(heard from it: never\); "
        r"it was asked at ws://relay.test: open it and allow the request",
        str(caught.value),
    )
    assert isinstance(caught.value, SignerUnavailable)
    assert bunker.asked == ["sign_event"]  # sent again and again, but it is one event


async def test_a_relay_that_is_down_is_told(bunker: Bunker, relay: MemoryRelay) -> None:
    clock = ManualClock()
    relay.switches.down = True
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        line_to(bunker, pool, clock) as line,
    ):
        asking = asyncio.create_task(line.call("ping"))
        await elapse(clock, asking, 200)
        with pytest.raises(
            BunkerSilent, match=r"could not be asked by ws://relay.test \(error: not connected"
        ):
            await asking


async def test_a_signer_that_comes_back_is_asked_again(bunker: Bunker, relay: MemoryRelay) -> None:
    """Relays keep no requests: one that was sent while the signer was away would be lost."""
    clock = ManualClock()
    hear, relay.switches.reject = relay.switches.reject, lambda _: None
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        line_to(bunker, pool, clock) as line,
    ):
        asking = asyncio.create_task(line.call("get_public_key"))
        await elapse(clock, asking, 20)
        assert not asking.done()
        relay.switches.reject = hear
        await elapse(clock, asking, 20)
        assert await asking == bunker.user.public_key


async def test_a_lost_connection_is_no_lost_request(
    bunker: Bunker, signer: BunkerSigner, relay: MemoryRelay, eventually: Eventually
) -> None:
    bunker.says = lambda *_: None
    signing = asyncio.create_task(signer.sign(template()))
    await eventually(lambda: bunker.asked[-1] == "sign_event")
    made = relay.connections_made
    relay.drop_connections()
    await eventually(lambda: relay.connections_made > made and relay.subscriptions)
    bunker.answer(-1, sign_event(template(), bunker.user).to_json().decode())
    (await signing).verify()


async def test_a_page_is_to_be_visited_once_and_then_waited_for(
    bunker: Bunker, relay: MemoryRelay, eventually: Eventually
) -> None:
    clock, visits, page = ManualClock(), list[str](), "https://signer.example/allow"
    bunker.says = lambda *_: None
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        line_to(bunker, pool, clock, visits) as line,
    ):
        asking = asyncio.create_task(line.call("connect"))
        await eventually(lambda: len(bunker.asked) == 1)
        for _ in range(3):
            bunker.answer(-1, "auth_url", page)
        await eventually(lambda: visits)
        await elapse(clock, asking, 200, step=10)  # longer than anything else is waited for
        assert visits == [page]
        assert not asking.done()
        bunker.answer(-1, "ack")
        assert await asking == "ack"
        asking = asyncio.create_task(line.call("connect"))
        await eventually(lambda: len(bunker.asked) == 2)
        bunker.answer(-1, "auth_url", page)
        await eventually(lambda: len(visits) == 2)
        await elapse(clock, asking, 400, step=10)
        with pytest.raises(BunkerSilent, match=f"waits for you to visit {page}"):
            await asking


async def test_a_refusal_is_told(bunker: Bunker, signer: BunkerSigner) -> None:
    bunker.says = lambda *_: PermissionError("not\x1b[2J today")
    with pytest.raises(BunkerRefused, match=r"refused `sign_event`: not.*today; allow it there"):
        await signer.sign(template())


async def test_what_no_relay_takes_is_told_at_once(
    bunker: Bunker, signer: BunkerSigner, relay: MemoryRelay
) -> None:
    """Too large for them, most likely: that is for good, unless they take nothing at all."""
    hear = relay.switches.reject
    relay.switches.reject = lambda event: "invalid: too large" if len(event.content) > 4000 else hear(event)
    with pytest.raises(EncryptionError, match=r"no relay takes the request.*too large"):
        await signer.sign(template("x" * 9000))
    with pytest.raises(EncryptionError):
        await signer.nip44_encrypt(bunker.key.public_key, "x" * 9000)
    with pytest.raises(DecryptionError):
        await signer.nip44_decrypt(bunker.key.public_key, "x" * 9000)
    relay.switches.reject = lambda _: "blocked: not on our list"
    with pytest.raises(BunkerRefused, match="not on our list"):
        await signer.nip44_decrypt(bunker.key.public_key, "x" * 9000)


# Lying


def another(bunker: Bunker, **changes: object) -> str:
    fields = {
        "kind": 6001,
        "content": "x",
        "tags": [("p", "a"), ("x",)],
        "created_at": 1_700_000_000,
        **changes,
    }
    key = fields.pop("by", bunker.user)
    assert isinstance(key, SecretKey)
    return sign_event(make_template(fields.pop("kind"), **fields), key).to_json().decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 1},
        {"content": "y"},
        {"tags": []},
        {"created_at": 1_700_000_001},
        {"by": SecretKey.generate()},
    ],
)
async def test_another_event_than_we_asked_for_is_refused(
    bunker: Bunker, signer: BunkerSigner, changes: dict[str, object]
) -> None:
    bunker.says = lambda *_: another(bunker, **changes)
    field = {"by": "author"}.get(*changes, *changes)
    with pytest.raises(BunkerUntrue, match=rf"another event than it was asked to \({field}\)"):
        await signer.sign(template())


@pytest.mark.parametrize("field", ["id", "sig", "content", "pubkey"])
async def test_an_event_that_does_not_hold_is_refused(
    bunker: Bunker, signer: BunkerSigner, field: str
) -> None:
    """Each with all else as it was asked for: the id alone proves nothing without the signature."""
    event = json.loads(another(bunker))
    event[field] = {
        "id": "0" * 64,
        "sig": "0" * 128,
        "content": "y",
        "pubkey": SecretKey.generate().public_key,
    }[field]
    bunker.says = lambda *_: json.dumps(event)
    with pytest.raises(BunkerUntrue, match="no valid event"):
        await signer.sign(template())


@pytest.mark.parametrize("result", ["", "ack", "{}", "[]", "null"])
async def test_what_is_no_event_is_refused(bunker: Bunker, signer: BunkerSigner, result: str) -> None:
    bunker.says = lambda *_: result
    with pytest.raises(BunkerUntrue):
        await signer.sign(template())


@pytest.mark.parametrize("method", ["nip44_encrypt", "nip04_encrypt"])
async def test_a_text_that_comes_back_unencrypted_is_refused(
    bunker: Bunker, signer: BunkerSigner, method: str
) -> None:
    """Else it would be published."""
    bunker.says = lambda _, params: params[1]
    for text in ("the secret of a lifetime", "the secret of a lifetime " * 20):
        with pytest.raises(BunkerUntrue):
            await getattr(signer, method)(SecretKey.generate().public_key, text)


async def test_answers_of_others_late_and_repeated_ones_are_ignored(
    bunker: Bunker, signer: BunkerSigner, line: BunkerLine, eventually: Eventually
) -> None:
    bunker.says = lambda *_: None
    signing = asyncio.create_task(signer.sign(template()))
    await eventually(lambda: bunker.asked[-1] == "sign_event")
    bunker.answer(-1, another(bunker, content="by a stranger"), by=SecretKey.generate())
    bunker.answer(-1, another(bunker), by=bunker.user)  # the user's own key is not the signer's
    bunker.answer(-2, "late")
    garbage = make_template(
        KIND, content="garbage", tags=[("p", line.client_key.public_key)], created_at=SystemClock().now()
    )
    bunker.relay.insert(sign_event(garbage, bunker.key))
    assert not signing.done()
    for _ in range(3):
        bunker.answer(-1, another(bunker))
    (await signing).verify()
    bunker.says = bunker.honestly
    (await signer.sign(template("next"))).verify()
    assert line._calls == {}  # nothing is kept of what is over


async def test_a_cancelled_request_leaves_nothing(
    bunker: Bunker, signer: BunkerSigner, line: BunkerLine, eventually: Eventually
) -> None:
    bunker.says = lambda *_: None
    signing = asyncio.create_task(signer.sign(template()))
    await eventually(lambda: bunker.asked[-1] == "sign_event")
    signing.cancel()
    with suppress(asyncio.CancelledError):
        await signing
    assert line._calls == {}
    bunker.answer(-1, "too late")
    bunker.says = bunker.honestly
    (await signer.sign(template())).verify()


# What cannot be opened, and what must not be


async def test_an_unreadable_payload_is_told_from_a_missing_permission(
    bunker: Bunker, signer: BunkerSigner
) -> None:
    """The first is for good; what the second keeps from us may be money, and must be tried again."""
    stranger = LocalSigner(SecretKey.generate())
    for scheme in ("nip44", "nip04"):
        foreign = await getattr(stranger, f"{scheme}_encrypt")(SecretKey.generate().public_key, "x")
        with pytest.raises(DecryptionError):
            await getattr(signer, f"{scheme}_decrypt")(stranger.public_key, foreign)
        bunker.says = lambda *_: PermissionError("no")
        with pytest.raises(BunkerRefused):
            await getattr(signer, f"{scheme}_decrypt")(stranger.public_key, foreign)
        bunker.says = bunker.honestly


async def test_what_cannot_be_is_not_asked(bunker: Bunker, signer: BunkerSigner) -> None:
    peer, before = SecretKey.generate().public_key, len(bunker.asked)
    for text in ("", "\ud800", "x" * 2**20):
        with pytest.raises(EncryptionError):
            await signer.nip44_encrypt(peer, text)
    for payload in ("ü" * 200, "x" * (nip44.PAYLOAD_BYTES_MAX + 1)):
        with pytest.raises(DecryptionError):
            await signer.nip44_decrypt(peer, payload)
    for call in (signer.nip44_encrypt, signer.nip44_decrypt, signer.nip04_encrypt, signer.nip04_decrypt):
        with pytest.raises(InvalidKey):
            await call("zz", "x" * 200)
    assert len(bunker.asked) == before
