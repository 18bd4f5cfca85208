"""The one way by which a URL of a stranger is fetched: text only, within limits, and never from inside our own network.

Each hop's host is resolved and checked here, and aiohttp is handed the checked addresses: it asks no name server, no
proxy and no cookie jar of its own, so a name that changes between two questions leads nowhere.
"""

import asyncio
import codecs
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from relay_bridge.addresses import Resolve, public_addresses, resolve
from relay_bridge.errors import FetchFailed, PrivateAddress
from relay_bridge.urls import ascii_host

URL_CHARACTERS_MAX: Final = 2048
REDIRECTS_MAX: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"Accept-Encoding": "gzip", "User-Agent": "tradepost"}
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_UNREACHABLE: Final = "its host is unknown, or not on the public internet"
# By Python's names. Others are slow on purpose-made input (idna, punycode) or no charset at all (zip, unicode_escape).
_CHARSETS: Final = frozenset(
    {
        "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "shift_jis", "euc_jp", "iso2022_jp",
        "gb2312", "gbk", "gb18030", "big5", "euc_kr",
        *(f"iso8859-{part}" for part in range(1, 17)), *(f"cp125{page}" for page in range(9)),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """What a URL brought. `url` is where the last redirect led, `media_type` what the server calls it, lower case."""

    url: str
    media_type: str
    text: str


def check_url(text: str) -> URL:
    """Read a URL that may be fetched: https or http, a host, no credentials. Raises `FetchFailed`."""
    try:
        url = URL(text) if len(text) <= URL_CHARACTERS_MAX else URL()
        # yarl takes anything in brackets for a host, `[a.example:1]` too, and writes it without them.
        named = url.scheme in ("http", "https") and url.port is not None and ascii_host(url.raw_host or "")
        usable = bool(named) and len(str(url)) <= URL_CHARACTERS_MAX  # escapes make it longer
    except (ValueError, IndexError):  # the latter where yarl meets `http://[:]@`
        usable = False
    if not usable:
        raise FetchFailed(f"not a URL that can be fetched (https://host/…): {text[:80]!r}")
    if url.raw_user is not None or url.raw_password is not None:
        raise FetchFailed("a URL with a user name or password is not fetched")
    return url.with_fragment(None)


def without_tls_here(url: URL) -> URL:
    """`url` as it is asked if it is on this very machine: by http. Only tests and trials have such services."""
    return url.with_scheme("http") if url.host in _LOCAL else url


class Fetcher:
    """Fetches text. Holds no connection between two calls."""

    def __init__(self, *, allow_private: bool = False, resolve: Resolve = resolve) -> None:
        """`allow_private`: the owner's own network may be fetched from too. `resolve` gives a name's addresses."""
        self._allow_private = allow_private
        self._resolve = resolve

    async def text(self, address: str, *, bytes_max: int, seconds_max: float) -> Document:
        """GET `address` and what it redirects to, as text of at most `bytes_max` bytes, before and after unpacking.

        `seconds_max` is for all of it. Raises `FetchFailed`.
        """
        return await self._within(address, bytes_max, seconds_max, REDIRECTS_MAX, is_answer=False)

    async def answer(
        self, address: str, *, bytes_max: int, seconds_max: float, redirects_max: int = REDIRECTS_MAX
    ) -> Document:
        """GET `address` as a program asks another: the body counts whatever the status, and no other host is gone to.

        Limits and errors as `text`; these name the host alone, for the rest of such a URL is often a secret.
        """
        return await self._within(address, bytes_max, seconds_max, redirects_max, is_answer=True)

    async def _within(
        self, address: str, bytes_max: int, seconds_max: float, redirects_max: int, *, is_answer: bool
    ) -> Document:
        url = check_url(address)
        try:
            async with asyncio.timeout(seconds_max):
                return await self._follow(url, bytes_max, redirects_max, is_answer=is_answer)
        except TimeoutError:
            reason = f"it took longer than {seconds_max:g} s"
        except PrivateAddress:  # which of both it is would tell strangers what names our own network has
            reason = _UNREACHABLE
        except (aiohttp.ClientError, OSError, ValueError, IndexError, zlib.error) as error:  # see `check_url`
            reason = f"the connection or the answer is broken ({type(error).__name__})"
        shown = url.host if is_answer else address[:200]
        raise FetchFailed(f"{shown} was not fetched: {reason}") from None

    async def _follow(self, url: URL, bytes_max: int, redirects_max: int, *, is_answer: bool) -> Document:
        for _ in range(redirects_max + 1):
            addresses = await self._addresses(url)
            connector = aiohttp.TCPConnector(
                resolver=_Checked(addresses), use_dns_cache=False, force_close=True
            )
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=_HEADERS,
                    auto_decompress=False, trust_env=False, timeout=aiohttp.ClientTimeout(total=None),
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):  # fmt: skip
                if response.status not in _REDIRECTS:
                    if not (is_answer or 200 <= response.status < 300):
                        reason = f"{response.status} {(response.reason or '')[:40]}".rstrip()
                        raise FetchFailed(f"{url.host} answered {reason}")
                    return await _read(response, url, bytes_max)
                location = response.headers.get("Location", "")
            target = check_url(str(url.join(URL(location))))
            if url.scheme == "https" and target.scheme == "http":
                raise FetchFailed(f"{url.host} redirects from https to http")
            if is_answer and target.origin() != url.origin():
                raise FetchFailed(f"{url.host} redirects to another host, which was not asked")
            url = target
        told = f"more than {redirects_max} times" if redirects_max else "where that is not allowed"
        raise FetchFailed(f"{url.host} redirects {told}")

    async def _addresses(self, url: URL) -> list[str]:
        host, port = url.raw_host or "", url.port or 0
        if self._allow_private:
            return await self._resolve(host, port)
        return await public_addresses(host, port, self._resolve)


class _Checked(AbstractResolver):
    """Gives aiohttp the addresses that were checked, and no others."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - as aiohttp asks
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=0, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in self._addresses
        ]  # fmt: skip

    async def close(self) -> None:
        pass


async def _read(response: aiohttp.ClientResponse, url: URL, bytes_max: int) -> Document:
    unpacker = _unpacker(response)
    body, packed_bytes = bytearray(), 0
    async for chunk in response.content.iter_any():
        packed_bytes += len(chunk)
        # One byte over the limit is enough to know; zlib makes no more than it is asked for.
        body += unpacker.decompress(chunk, bytes_max + 1 - len(body)) if unpacker else chunk
        if max(packed_bytes, len(body)) > bytes_max:
            raise FetchFailed(f"{url.host} sends more than {bytes_max} bytes")
    if unpacker and not unpacker.eof:
        raise FetchFailed(f"{url.host} sends gzip that ends too early")
    text = _decode(bytes(body), response.charset)
    if text is None:
        raise FetchFailed(f"{url.host} sends {response.content_type}, which is not text in a known charset")
    return Document(str(url), response.content_type.lower(), text)


def _unpacker(response: aiohttp.ClientResponse) -> "zlib._Decompress | None":
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    if encoding in ("identity", ""):
        return None
    raise FetchFailed(
        f"{response.url.host} packs its answer in a way it was not asked for: {encoding[:40]!r}"
    )


def _decode(body: bytes, charset: str | None) -> str | None:
    """The body as text without a byte order mark; None if it is binary, or its charset unknown."""
    try:
        name = codecs.lookup(charset or "utf-8").name
        text = body.decode(name) if name in _CHARSETS else None
    except (LookupError, ValueError):  # unknown, not text at all, or not in it
        return None
    return None if text is None or "\x00" in text else text.removeprefix("\ufeff")
