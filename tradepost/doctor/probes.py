"""Asking one relay or one mint how it does. Facts only; what they mean is judged elsewhere."""

import asyncio
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import orjson

from identity import LocalSigner, SecretKey, make_template, sign_event
from relay_bridge import RelayPool
from store import Clock
from wallet import HttpTransport, WalletError
from wallet.mint import KeysetAnswer, MintClient, MintInfo

CONNECT_SECONDS_MAX: Final = 10.0
PAGE_SECONDS_MAX: Final = 5.0
PAGE_BYTES_MAX: Final = 262_144
MINT_SECONDS_MAX: Final = 10.0
EPHEMERAL: Final = 29_999  # NIP-01: relays hand such events on and keep none


@dataclass(frozen=True)
class RelayFacts:
    """How one relay answered. `answer` is what it said to an event of ours; `page` its NIP-11 document, if any."""

    url: str
    connect_seconds: float | None = None
    error: str = ""
    accepted: bool = False
    answer: str = ""
    publish_seconds: float = 0.0
    page: dict[str, Any] | None = field(default=None)
    skew_seconds: float | None = None


@dataclass(frozen=True)
class MintFacts:
    """How one mint answered."""

    url: str
    seconds: float = 0.0
    error: str = ""
    info: MintInfo | None = None
    keysets: tuple[KeysetAnswer, ...] = ()
    skew_seconds: float | None = None


async def probe_relay(url: str, key: SecretKey, clock: Clock) -> RelayFacts:
    """Connect, read its NIP-11 page and send it one ephemeral event, which it does not keep."""
    page, skew = await _page(url)
    started = time.perf_counter()
    async with RelayPool([url], clock=clock) as pool:
        relay = pool.relay(url)
        try:
            connected = await asyncio.wait_for(relay.tried(), CONNECT_SECONDS_MAX)
        except TimeoutError:
            return RelayFacts(
                url, error=f"no answer in {CONNECT_SECONDS_MAX:.0f} s", page=page, skew_seconds=skew
            )
        if not connected:
            return RelayFacts(url, error=relay.health.last_error, page=page, skew_seconds=skew)
        connect_seconds = time.perf_counter() - started
        pool.add_signer(LocalSigner(key))
        started = time.perf_counter()
        event = sign_event(make_template(EPHEMERAL, content="tradepost doctor", created_at=clock.now()), key)
        said = (await pool.publish(event))[relay.url]
        return RelayFacts(
            url, connect_seconds=connect_seconds, accepted=said.accepted, answer=said.message, page=page,
            publish_seconds=time.perf_counter() - started, skew_seconds=skew,
        )  # fmt: skip


async def probe_mint(url: str, clock: Clock) -> MintFacts:
    """Ask for its description and its keysets."""
    client = MintClient(url, HttpTransport(url))
    started = time.perf_counter()
    try:
        async with asyncio.timeout(MINT_SECONDS_MAX):
            info, keysets = await client.info(), await client.keysets()
    except TimeoutError:
        return MintFacts(url, error=f"no answer in {MINT_SECONDS_MAX:.0f} s")
    except WalletError as error:
        return MintFacts(url, error=str(error))
    finally:
        await client.close()
    seconds = time.perf_counter() - started
    skew = float(info.time - clock.now()) if info.time else None
    return MintFacts(url, seconds, "", info, tuple(keysets), skew)


async def _page(url: str) -> tuple[dict[str, Any] | None, float | None]:
    """A relay's NIP-11 page, and by how many seconds its clock is ahead of ours (`Date`); None for what it has not."""
    timeout = aiohttp.ClientTimeout(total=PAGE_SECONDS_MAX)
    headers = {"Accept": "application/nostr+json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get("http" + url.removeprefix("ws"), headers=headers) as answer,
        ):
            skew = _skew(answer.headers.get("Date", ""))
            raw = b""
            async for chunk in answer.content.iter_chunked(65_536):
                raw += chunk
                if len(raw) > PAGE_BYTES_MAX:
                    return None, skew
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None, None
    try:
        page = orjson.loads(raw)
    except orjson.JSONDecodeError:
        page = None
    return (page if isinstance(page, dict) else None), skew


def _skew(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return None
