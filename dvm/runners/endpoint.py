"""An HTTP endpoint of the agent's owner: one POST, within limits, with a key that stays between the two.

Unlike what customers name (`relay_bridge.fetch`), the address may be private: a model on the same machine, say. It is
asked as configured: no redirect, proxy or cookie leads anywhere else.
"""

import os
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog
from yarl import URL

from dvm.errors import JobFailed, JobTimeout, RunnerUnusable
from dvm.runners.task import ANSWER_BYTES_MAX

log = structlog.get_logger(__name__)

CHECK_SECONDS_MAX: Final = 10


@dataclass(frozen=True)
class Endpoint:
    """Where to POST, the bearer key if it wants one, and how long an answer may take."""

    url: URL
    key: str = field(default="", repr=False)
    seconds: int = 60

    async def post(self, body: bytes, job_id: str) -> bytes:
        """Send JSON and return what is answered. Raises `JobFailed`, whose message tells nothing of the endpoint."""
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/plain"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            async with (
                aiohttp.ClientSession(
                    cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=self.seconds)
                ) as session,
                session.post(self.url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status, answer = response.status, await _read(response)
        except TimeoutError:
            raise JobTimeout(f"the work took longer than {self.seconds} s and was given up") from None
        except (aiohttp.ClientError, OSError) as error:
            self._log(job_id, type(error).__name__)
            raise JobFailed("the agent's endpoint cannot be reached; try again later") from None
        if status != 200:
            self._log(job_id, f"HTTP {status}")
            raise JobFailed("the agent's endpoint refused or failed; try again later")
        return answer

    async def check(self, method: str = "HEAD", url: URL | None = None) -> None:
        """See whether anybody answers there, or at `url`; nothing is posted. Raises `RunnerUnusable`."""
        timeout = aiohttp.ClientTimeout(total=CHECK_SECONDS_MAX)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            async with (
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session,
                session.request(method, url or self.url, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
        except TimeoutError:
            raise RunnerUnusable(
                f"{self.where} did not answer in {CHECK_SECONDS_MAX} s: see that it runs, or mend the address"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number and number > 0 else str(error)
            raise RunnerUnusable(
                f"{self.where} cannot be reached ({why}): see that it runs, or mend the address"
            ) from None
        if status == 401:
            key = "the key" if self.key else "work without a key: name the variable that has it, as `key`"
            raise RunnerUnusable(f"{self.where} refuses {key}")

    @property
    def where(self) -> str:
        """The endpoint as it may be shown: a path may hold what is secret."""
        return str(self.url.origin())

    def _log(self, job_id: str, why: str) -> None:
        log.error("endpoint_failed", job=job_id, host=self.url.host, why=why)


def endpoint(url: str, key_variable: str | None, seconds: int) -> Endpoint:
    """Check what the owner configured; the key is read from the environment. Raises `RunnerUnusable`."""
    try:
        parsed = URL(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host)
    except ValueError:
        usable = False
    if not usable:
        raise RunnerUnusable("an endpoint's address is http://host/… or https://host/…")
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise RunnerUnusable("a key does not belong in an address; name the variable that has it")
    if seconds < 1:
        raise RunnerUnusable("seconds must be at least 1")
    return Endpoint(parsed.with_fragment(None), secret(key_variable), seconds)


def secret(variable: str | None) -> str:
    """What the environment variable has; empty for none. Raises `RunnerUnusable` where it is not set or no header."""
    if variable is None:
        return ""
    value = os.environ.get(variable, "").strip()
    if not (value and value.isascii() and value.isprintable()):
        raise RunnerUnusable(f"the environment variable {variable} is to have the key, and has none")
    return value


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_chunked(65536):
        data += piece
        if len(data) > ANSWER_BYTES_MAX:
            raise JobFailed(f"the agent's answer was longer than {ANSWER_BYTES_MAX} bytes")
    return bytes(data)
