"""Keys in other people's remote signers (NIP-46), over a real relay."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, Provider
from identity import DecryptionError, LocalSigner, SecretKey, Signer, make_template, nip59, parse_credential
from relay_bridge.errors import BunkerRefused
from store import SystemClock
from tradepost.bunkers import invite_bunker
from tradepost.post import open_post
from tradepost.secrets import Key, open_signer
from tradepost.settings import Settings

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent
SECONDS_MAX = 20
NOW = 1_700_000_000


@dataclass
class Bunker:
    """A remote signer in a process of its own."""

    process: asyncio.subprocess.Process
    url: str = ""
    asked: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.asked.append(json.loads(line)["method"])


RunBunker = Callable[..., Any]


@pytest.fixture
def run_bunker(node: Path, node_modules: Path, relay_url: str) -> RunBunker:
    """`async with run_bunker("ndk", user_key, secret="…") as bunker: …`"""

    @asynccontextmanager
    async def run(made_of: str, user: SecretKey, **wish: Any) -> AsyncIterator[Bunker]:
        wish = {"made_of": made_of, "relay": relay_url, "user": user.hex(), **wish}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            node, HERE / "bunker.mjs", json.dumps(wish), cwd=HERE, stdin=pipe, stdout=pipe
        )
        bunker = Bunker(process)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            async with asyncio.timeout(SECONDS_MAX):
                bunker.url = json.loads(await process.stdout.readline())["bunker"]
            reading = asyncio.create_task(bunker.read())
            yield bunker
            process.stdin.close()
            async with asyncio.timeout(SECONDS_MAX):
                await reading
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return run


@pytest.fixture
def settings(tmp_path: Path, relay_url: str) -> Settings:
    return Settings(relays=(relay_url,), data=tmp_path / "post")


def key_at(bunker: Bunker, name: str = "shop") -> Key:
    url = parse_credential(bunker.url)
    assert not isinstance(url, SecretKey)
    return Key(name, url, "test")  # type: ignore[arg-type]


async def signs(signer: Signer, text: str) -> None:
    template = make_template(
        6001, content=text, tags=[["p", "ab", ""], ["x"], ["t", "ü\n\"'"]], created_at=NOW
    )
    event = await signer.sign(template)
    event.verify()
    assert event.pubkey == signer.public_key
    assert (event.kind, event.content, event.tags, event.created_at) == (6001, text, template.tags, NOW)


@pytest.mark.parametrize("made_of", ["ndk", "applesauce", "nostr-tools"])
async def test_a_remote_signer_does_what_a_local_one_does(
    run_bunker: RunBunker, settings: Settings, made_of: str
) -> None:
    user, peer = SecretKey.generate(), LocalSigner(SecretKey.generate())
    async with run_bunker(made_of, user, secret="once") as bunker:
        async with asyncio.timeout(SECONDS_MAX), open_signer(settings, key_at(bunker)) as signer:
            assert signer.public_key == user.public_key
            await asyncio.gather(*(signs(signer, f"grüße 🌍 {n}") for n in range(30)))

            payload = await signer.nip44_encrypt(peer.public_key, "für dich")
            assert await peer.nip44_decrypt(user.public_key, payload) == "für dich"
            payload = await peer.nip44_encrypt(user.public_key, "for you")
            assert await signer.nip44_decrypt(peer.public_key, payload) == "for you"

            payload = await signer.nip04_encrypt(peer.public_key, "für dich")
            assert await peer.nip04_decrypt(user.public_key, payload) == "für dich"
            payload = await peer.nip04_encrypt(user.public_key, "for you")
            assert await signer.nip04_decrypt(peer.public_key, payload) == "for you"

            wrap = await nip59.wrap(
                signer, peer.public_key, make_template(14, content="x", created_at=NOW), now=NOW
            )
            assert (await nip59.unwrap(peer, wrap)).pubkey == user.public_key
            with pytest.raises(DecryptionError):  # not for us: for good, and not a matter of permission
                await signer.nip44_decrypt(peer.public_key, await peer.nip44_encrypt(peer.public_key, "x"))
        asked = len(bunker.asked)
        async with asyncio.timeout(SECONDS_MAX), open_signer(settings, key_at(bunker)) as signer:
            await signs(signer, "after a restart: the secret is spent, the consent is not")
    assert "connect" not in bunker.asked[asked:]
    assert [path.stat().st_mode & 0o777 for path in (settings.data / "bunkers").iterdir()] == [0o600]


@pytest.mark.parametrize("made_of", ["ndk", "nostr-tools"])
async def test_what_a_signer_does_not_allow_is_told(
    run_bunker: RunBunker, settings: Settings, made_of: str
) -> None:
    allowed = ["connect", "get_public_key", "switch_relays"]
    async with (
        run_bunker(made_of, SecretKey.generate(), allowed=allowed) as bunker,
        asyncio.timeout(SECONDS_MAX),
        open_signer(settings, key_at(bunker)) as signer,
    ):
        with pytest.raises(BunkerRefused, match=r"refused `sign_event`: .*allow it there"):
            await signs(signer, "x")
        payload = await LocalSigner(SecretKey.generate()).nip44_encrypt(signer.public_key, "x")
        with pytest.raises(BunkerRefused, match="nip44_decrypt"):
            await signer.nip44_decrypt(SecretKey.generate().public_key, payload)


async def test_a_signer_takes_our_invitation(
    run_bunker: RunBunker, settings: Settings, relay_url: str
) -> None:
    user, invitation = SecretKey.generate(), asyncio.get_running_loop().create_future()
    inviting = asyncio.create_task(
        invite_bunker(settings, "shop", [relay_url], clock=SystemClock(), on_url=invitation.set_result)
    )
    async with (
        asyncio.timeout(SECONDS_MAX),
        run_bunker("applesauce", user, invitation=await invitation),
        open_signer(settings, Key("shop", await inviting, "invited")) as signer,
    ):
        assert signer.public_key == user.public_key
        await signs(signer, "invited")


async def test_an_agent_whose_key_is_elsewhere_serves(
    run_bunker: RunBunker, settings: Settings, relay_url: str, nostr_tools: Callable[..., Any]
) -> None:
    user, agent = SecretKey.generate(), Agent("Shop")

    @agent.serves(kind=5001)
    async def work(job: Job) -> str:
        await job.progress("counting")
        return str(len(job.text))

    async with (
        run_bunker("ndk", user, secret="once") as bunker,
        open_signer(settings, key_at(bunker)) as signer,
        open_post(settings) as post,
    ):
        provider = Provider(agent, signer, post)
        await provider.start()
        heard = await nostr_tools(relay=relay_url, kind=5001, input="four", to=user.public_key)
        await provider.stop()
    assert heard.code == 0
    assert [line["content"] for line in heard.of("result")] == ["4"]
    assert heard.statuses[-1] == "processing"
