"""Whether a NIP-05 name leads to a key: asked of the name's domain, which a stranger may have chosen."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from identity import encode_npub
from identity.errors import InvalidName
from identity.nip05 import Name, named_key, parse_name
from relay_bridge import Fetcher, FetchFailed, check_url
from relay_bridge.fetch import without_tls_here

ANSWER_BYTES_MAX: Final = 262_144  # it may be a file with all names of the domain
SECONDS_MAX: Final = 5.0


class Leads(StrEnum):
    """Where a name leads."""

    HERE = "here"
    ELSEWHERE = "elsewhere"  # to another key, or to none
    UNKNOWN = "unknown"  # its domain could not be asked


@dataclass(frozen=True)
class NameCheck:
    """What came of asking for one name. `said` is why it does not lead here, in words; empty if it does."""

    name: str
    leads: Leads
    said: str = ""


async def find_key(fetcher: Fetcher, name: Name) -> str | None:
    """The key (hex) that the name's domain gives for it, None if it gives none. Raises `FetchFailed`, `InvalidName`.

    Redirects are not followed (NIP-05).
    """
    found = await fetcher.answer(
        str(without_tls_here(check_url(f"https://{name.place}"))),
        bytes_max=ANSWER_BYTES_MAX, seconds_max=SECONDS_MAX, redirects_max=0,
    )  # fmt: skip
    return named_key(found.text, name)


async def check_name(fetcher: Fetcher, text: str, public_key: str) -> NameCheck:
    """Ask whether the name in `text` leads to `public_key` (hex). Never raises for what it finds.

    Only public hosts are asked, unless `fetcher` was made for one's own network:
    then a service on this machine is asked too, by http.
    """
    try:
        name = parse_name(text)
    except InvalidName as error:
        return NameCheck(text[:80], Leads.ELSEWHERE, str(error))
    shown = name.shown
    try:
        key = await find_key(fetcher, name)
    except FetchFailed as error:
        return NameCheck(shown, Leads.UNKNOWN, str(error))
    except InvalidName as error:
        return NameCheck(shown, Leads.ELSEWHERE, str(error))
    if key is None:
        return NameCheck(shown, Leads.ELSEWHERE, f"{name.domain} does not know the name {name.local}")
    if key != public_key:
        return NameCheck(shown, Leads.ELSEWHERE, f"it leads to another key, {encode_npub(key)}")
    return NameCheck(shown, Leads.HERE)
