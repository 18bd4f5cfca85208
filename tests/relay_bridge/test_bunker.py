"""A remote signer made by hand, in a relay in memory: one that is good, slow, away, or lies."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from identity import (
    DecryptionError,
    EncryptionError,
    Event,
    IdentityError,
    InvalidKey,
    LocalSigner,
    SecretKey,
    SignerUnavailable,
    make_template,
    nip04,
    nip44,
    sign_event,
)
from identity.nip46 import KIND
from relay_bridge import RelayPool
from relay_bridge.bunker import BunkerSigner, await_invited, connect_bunker, follow_relays
from relay_bridge.bunker_line import BunkerLine
from relay_bridge.errors import BunkerRefused, BunkerSilent, BunkerUntrue
from store import SystemClock
from tradepost.testing import ManualClock
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
OTHER_URL = "ws://other.test"
Answers = Callable[[str, list[str]], object]
Eventually = Callable[..., Awaitable[None]]


class Bunker:
    """Answers on a relay by `says(method, params)`; a str is the result, an Exception the error, None silence."""

    def __init__(self, relay: MemoryRelay) -> None:
        self.key = SecretKey.generate()
        self.user = SecretKey.generate()
        self.asked: list[str] = []
        self.requests: list[tuple[str, str]] = []  # id and client of each
        self.says: Answers = self.honestly
        self.relay = relay
        self._seen: set[str] = set()
        relay.switches.reject = self._hear

    def honestly(self, method: str, params: list[str]) -> object:
        signer = self.user
        match method, params:
            case "connect", _:
                return "ack"
            case "get_public_key", []:
                return self.user.public_key
            case "sign_event", [template]:
                fields = json.loads(template)
                return sign_event(make_template(fields.pop("kind"), **fields), signer).to_json().decode()
            case "nip44_encrypt", [peer, text]:
                return nip44.encrypt(text, nip44.conversation_key(signer, peer))
            case "nip44_decrypt", [peer, text]:
                return nip44.decrypt(text, nip44.conversation_key(signer, peer))
            case "nip04_encrypt", [peer, text]:
                return nip04.encrypt(text, signer, peer)
            case "nip04_decrypt", [peer, text]:
                return nip04.decrypt(text, signer, peer)
        return ValueError(f"unknown method {method}")

    def answer(
        self,
        request: int,
        result: object,
        error: object = "",
        *,
        by: SecretKey | None = None,
        old: bool = False,
    ) -> Event:
        """An answer to request number `request`, sent now."""
        request_id, client = self.requests[request]
        text = json.dumps({"id": request_id, "result": result, "error": error or None})
        key = by or self.key
        content = (
            nip04.encrypt(text, key, client)
            if old
            else nip44.encrypt(text, nip44.conversation_key(key, client))
        )
        event = sign_event(
            make_template(KIND, content=content, tags=[("p", client)], created_at=SystemClock().now()), key
        )
        self.relay.insert(event)
        return event

    def _hear(self, event: Event) -> None:
        """Called by the relay for every event it is given; takes all."""
        if event.kind != KIND or event.tag("p") != self.key.public_key or event.id in self._seen:
            return
        self._seen.add(event.id)
        plain = nip44.decrypt(event.content, nip44.conversation_key(self.key, event.pubkey))
        request = json.loads(plain)
        self.asked.append(request["method"])
        self.requests.append((request["id"], event.pubkey))
        number = len(self.requests) - 1
        try:
            said = self.says(request["method"], request["params"])
        except IdentityError as error:
            said = error
        if isinstance(said, Exception):
            asyncio.get_running_loop().call_soon(self.answer, number, "", str(said))
        elif said is not None:
            asyncio.get_running_loop().call_soon(self.answer, number, said)


@pytest.fixture
def bunker(relay: MemoryRelay) -> Bunker:
    return Bunker(relay)


@asynccontextmanager
async def line_to(
    bunker: Bunker, pool: RelayPool, clock: object, visits: list[str] | None = None
) -> AsyncIterator[BunkerLine]:
    async with BunkerLine(
        pool, clock, client_key=SecretKey.generate(), remote_key=bunker.key.public_key, relays=[URL],  # type: ignore[arg-type]
        on_visit=(visits if visits is not None else []).append,
    ) as line:  # fmt: skip
        yield line


@pytest.fixture
async def line(bunker: Bunker, pool: RelayPool, clock: SystemClock) -> AsyncIterator[BunkerLine]:
    async with line_to(bunker, pool, clock) as line:
        yield line


@pytest.fixture
async def signer(line: BunkerLine) -> BunkerSigner:
    return await connect_bunker(line, secret="s")


def template(content: str = "x") -> object:
    return make_template(6001, content=content, tags=[["p", "a"], ["x"]], created_at=1_700_000_000)


async def elapse(clock: ManualClock, task: asyncio.Task[object], seconds: int, step: int = 1) -> None:
    """Let time pass until `task` ends, at most so long; in between others get on, threads too."""
    for _ in range(0, seconds, step):
        await asyncio.sleep(0.002)
        if task.done():
            return
        await clock.advance(step)


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
