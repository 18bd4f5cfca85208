"""What is kept of a connection to a remote signer, and commands whose key is in one; over a real relay."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Job, OrderFailed, Provider
from identity import (
    BunkerUrl,
    Event,
    LocalSigner,
    SecretKey,
    encode_npub,
    make_template,
    nip44,
    read_key_file,
    sign_event,
    write_key_file,
)
from identity.nip46 import KIND
from identity.rotation import ROTATION_NAME, parse_rotation
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.bunkers import memory_of
from tradepost.errors import ConfigError
from tradepost.secrets import Key, open_signer
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

SECONDS_MAX = 20
PAGE = "https://signer.example/allow"


class Bunker:
    """Signs for `user` under a key of its own; takes its secret once, after a visit to its page."""

    def __init__(self, relay_url: str) -> None:
        self.relay_url = relay_url
        self.key, self.user = SecretKey.generate(), SecretKey.generate()
        self.url = BunkerUrl(self.key.public_key, (relay_url,), "s3cr3t")
        self.asked: list[str] = []
        self.clients: set[str] = set()
        self.delay_seconds = 0.0
        self.adds_tags = False
        self._pool: RelayPool

    async def serve(self, pool: RelayPool) -> None:
        self._pool = pool
        what = Filter(kinds=(KIND,), tags={"p": (self.key.public_key,)})
        subscription = await pool.subscribe([what], self._answer)
        await subscription.eose()

    async def _answer(self, event: Event, _relay: str) -> None:
        conversation = nip44.conversation_key(self.key, event.pubkey)
        request = json.loads(nip44.decrypt(event.content, conversation))
        self.asked.append(request["method"])
        try:
            said = {"result": self._do(event.pubkey, request["method"], request["params"])}
        except PermissionError as error:
            said = {"error": str(error)}
        if request["method"] == "connect":
            await self._send(event.pubkey, {"id": request["id"], "result": "auth_url", "error": PAGE})
        await asyncio.sleep(self.delay_seconds)
        await self._send(event.pubkey, {"id": request["id"], **said})

    async def _send(self, client: str, answer: dict[str, str]) -> None:
        template = make_template(
            KIND,
            content=nip44.encrypt(json.dumps(answer), nip44.conversation_key(self.key, client)),
            tags=[("p", client)],
            created_at=SystemClock().now(),
        )
        await self._pool.publish(sign_event(template, self.key))

    def _do(self, client: str, method: str, params: list[str]) -> str:
        if method == "connect":
            if self.clients or params[1] != "s3cr3t":
                raise PermissionError("this secret is spent")
            self.clients.add(client)
            return "ack"
        if client not in self.clients:
            raise PermissionError("who are you?")
        if method == "get_public_key":
            return self.user.public_key
        if method == "sign_event":
            fields = json.loads(params[0])
            if self.adds_tags and "#" in fields["content"]:  # as NDK's does
                fields["tags"].append(["t", "tag"])
            return sign_event(make_template(fields.pop("kind"), **fields), self.user).to_json().decode()
        if method in ("nip44_encrypt", "nip44_decrypt"):
            work = nip44.encrypt if method == "nip44_encrypt" else nip44.decrypt
            return work(params[1], nip44.conversation_key(self.user, params[0]))
        raise PermissionError(f"no {method} here")


@pytest.fixture
async def bunker(relay_url: str) -> AsyncIterator[Bunker]:
    bunker = Bunker(relay_url)
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        await bunker.serve(pool)
        yield bunker


@pytest.fixture
def settings(tmp_path: Path, relay_url: str) -> Settings:
    return Settings(relays=(relay_url,), data=tmp_path / "post")


async def test_a_consent_outlives_the_process(bunker: Bunker, settings: Settings) -> None:
    for _ in range(2):
        async with (
            asyncio.timeout(SECONDS_MAX),
            open_signer(settings, Key("shop", bunker.url, "x")) as signer,
        ):
            assert signer.public_key == bunker.user.public_key
            (await signer.sign(make_template(1, created_at=5))).verify()
    assert bunker.asked.count("connect") == 1
    memory = memory_of(settings, "shop", bunker.key.public_key)
    assert bunker.clients == {memory.client_key.public_key}
    (path,) = (settings.data / "bunkers").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_the_client_key_is_kept_before_the_signer_hears_of_it(
    bunker: Bunker, settings: Settings
) -> None:
    """Killed while somebody looks for their phone, we come back as the one whom they allowed."""
    bunker.delay_seconds = 3600
    opening = open_signer(settings, Key("shop", bunker.url, "x"))
    entering = asyncio.create_task(opening.__aenter__())
    async with asyncio.timeout(SECONDS_MAX):
        while not bunker.clients:
            await asyncio.sleep(0.01)
    memory = memory_of(settings, "shop", bunker.key.public_key)
    assert bunker.clients == {memory.client_key.public_key}
    assert memory.public_key == ""
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)


def test_each_has_a_client_key_of_its_own(settings: Settings) -> None:
    remote = SecretKey.generate().public_key
    keys = set()
    for name, key in (("shop", remote), ("customer", remote), ("shop", SecretKey.generate().public_key)):
        memory = memory_of(settings, name, key)
        memory.keep()
        keys.add(memory_of(settings, name, key).client_key.public_key)
    assert len(keys) == 3


@pytest.mark.parametrize("text", ["", "{}", '{"client": "nsec1"}', '{"client": 5}'])
def test_a_damaged_memory_is_told(settings: Settings, text: str) -> None:
    remote = SecretKey.generate().public_key
    memory_of(settings, "shop", remote).keep()
    path = settings.data / "bunkers" / f"shop-{remote}.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged; remove it, and connect .* anew"):
        memory_of(settings, "shop", remote)


async def test_an_agent_and_its_money_under_a_slow_signer(bunker: Bunker, settings: Settings) -> None:
    """A paid job: the offer, the payment's gift wrap and the result all go through the signer."""
    agent = Agent("Shop")

    @agent.serves(kind=5001, price_sat=8)
    async def work(job: Job) -> str:
        return job.text.upper()

    bunker.delay_seconds = 0.05
    async with (
        asyncio.timeout(SECONDS_MAX),
        open_signer(settings, Key("shop", bunker.url, "x")) as signer,
        Market() as market,
    ):
        post = await market.post("agent")
        provider = Provider(agent, signer, post)
        await provider.start()
        customer = await market.customer(sat=64)
        order = await customer.ask(provider.public_key, "grüße", kind=5001, max_sat=8)
        assert await order.result() == "GRÜSSE"
        balance = await post.wallet.balance()
        await provider.stop()
    assert sum(balance.values()) >= 7  # less the mint's fee
    assert bunker.asked.count("nip44_decrypt") >= 2
    assert signer.public_key == bunker.user.public_key


async def test_an_agent_goes_over_to_a_remote_signer_and_back_to_a_key_of_the_words(
    bunker: Bunker, home: Path, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sign: the log's first key is in a file, its second with the signer."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    write_key_file(home.parent / "to", bunker.url)
    first = (await cli_beside("key", "new", "shop", "--json")).lines[0]["pubkey"]
    ran = await cli_beside("key", "rotate", "shop", "--to", home.parent / "to", "--json")
    assert ran.code == 0, ran.err
    assert (ran.lines[0]["pubkey"], ran.lines[0]["kept"]) == (bunker.user.public_key, "with a remote signer")
    monkeypatch.setattr("tradepost.rotating._is_done", never)  # the hour is over
    ran = await cli_beside("key", "rotate", "shop", "--json")
    assert ran.code == 0, ran.err
    assert "with a remote signer and is bare now" in " ".join(ran.err.split())
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        events = await pool.query([Filter(kinds=(78,), tags={"t": (ROTATION_NAME,)})], seconds_max=10)
    found = sorted(map(parse_rotation, events), key=lambda rotation: rotation.head.size)
    assert [rotation.old for rotation in found] == [first, bunker.user.public_key]
    assert all(rotation.by_both for rotation in found)
    assert read_key_file(home / "keys" / "retired" / f"{bunker.user.public_key}.nsec") == bunker.url


async def never(*_arguments: object, **_named: object) -> None:
    return None


async def test_a_result_that_the_signer_changes_is_an_error_and_the_money_goes_back(
    bunker: Bunker, settings: Settings
) -> None:
    """Else the job would be tried again for ever."""
    agent = Agent("Shop")

    @agent.serves(kind=5001, price_sat=20)
    async def work(job: Job) -> str:
        return "#1"

    bunker.adds_tags = True
    async with (
        asyncio.timeout(SECONDS_MAX),
        open_signer(settings, Key("shop", bunker.url, "x")) as signer,
        Market() as market,
    ):
        provider = Provider(agent, signer, await market.post("agent"))
        await provider.start()
        customer = await market.customer(sat=64)
        order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=20)
        with pytest.raises(
            OrderFailed, match=r"signed another event than it was asked to \(tags\)"
        ) as caught:
            await order.result()
        assert caught.value.state == "refunded"
        await provider.stop()


async def test_an_agent_stops_though_its_key_is_away(
    bunker: Bunker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvm.discovery.announce.STOP_SECONDS_MAX", 0.1)
    agent = Agent("Shop")
    agent.serves(kind=5001)(len)
    async with (
        asyncio.timeout(SECONDS_MAX),
        open_signer(settings, Key("shop", bunker.url, "x")) as signer,
        Market() as market,
    ):
        provider = Provider(agent, signer, await market.post("agent"))
        await provider.start()
        bunker.delay_seconds = 3600
        await provider.stop()


async def test_commands_sign_there(
    bunker: Bunker, home: Path, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    (home.parent / "url").write_text(bunker.url.to_text() + "\n")
    with (home.parent / "url").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        ran = await cli_beside("key", "import", "customer", "--json")
    assert ran.code == 0, ran.err
    assert ran.err.count(f"wants you to visit {PAGE} before") == 1
    assert ran.lines[0] == {
        "name": "customer",
        "npub": encode_npub(bunker.user.public_key),
        "pubkey": bunker.user.public_key,
        "kept": "with a remote signer",
    }
    assert read_key_file(home / "keys" / "customer.nsec") == bunker.url
    before = len(bunker.asked)
    assert (await cli_beside("key", "show")).out == f"{encode_npub(bunker.user.public_key)}\n"
    assert len(bunker.asked) == before  # known since the import

    nobody = SecretKey.generate().public_key
    ran = await cli_beside("ask", nobody, "x", "--kind", 5001, "--seconds", 1)
    assert "nobody answered in time" in ran.err.replace("\n", " ")
    (job,) = (await cli_beside("jobs", "--json")).lines
    assert job["customer"] == bunker.user.public_key
    ran = await cli_beside("ask", nobody, "x", "--kind", 5001, "--seconds", 1, "--sec", bunker.url.to_text())
    assert "nobody answered in time" in ran.err.replace("\n", " ")
    assert bunker.asked.count("connect") == 1


async def test_a_signer_is_invited(
    bunker: Bunker, home: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command makes of it; a real signer takes a real invitation in tests/interop."""

    async def accepted(*_: object, clock: object, on_url: Callable[[str], None]) -> BunkerUrl:
        on_url("nostrconnect://x")
        return bunker.url

    monkeypatch.setattr("tradepost.cli.keys.invite_bunker", accepted)
    ran = await cli_beside("key", "connect", "shop", "--relay", bunker.relay_url, "--json")
    assert ran.code == 0, ran.err
    assert ran.lines[0] == {"nostrconnect": "nostrconnect://x"}
    assert ran.lines[1]["pubkey"] == bunker.user.public_key
    assert read_key_file(home / "keys" / "shop.nsec") == bunker.url
    assert (await cli_beside("key", "connect", "shop")).code == 1  # never overwritten


async def test_orders_under_another_key_are_told_of(
    home: Path, relay_url: str, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may hold locked money, which comes back only to who settles with their key."""
    from tradepost.post import open_post

    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    other = SecretKey.generate()
    async with open_post(Settings.load()) as post:
        from dvm import Customer

        customer = Customer(LocalSigner(other), post)
        await customer.start()
        await customer.ask(SecretKey.generate().public_key, "x", kind=5001, seconds_max=600)
        await customer.stop()
    ran = await cli_beside("settle", "--seconds", 1)
    assert f"orders of {encode_npub(other.public_key)} are open too" in ran.err.replace("\n", " ")


def test_a_signer_that_is_not_there_is_told(cli: "Cli", home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay_bridge.bunker._CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:1")
    url = BunkerUrl(SecretKey.generate().public_key, ("ws://127.0.0.1:1",))
    ran = cli("ask", SecretKey.generate().public_key, "x", "--kind", 5001, "--sec", url.to_text(), "--json")
    assert ran.code == 1
    told = json.loads(ran.err)
    assert told["type"] == "BunkerSilent"
    assert "has not answered `connect` since" in told["error"]
    assert "could not be asked by ws://127.0.0.1:1" in told["error"]
