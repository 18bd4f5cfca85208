"""The texts that lead to an LNURL service: `lnurl1…`, `lnurlp://…`, `name@domain` (LUD-01, LUD-16, LUD-17)."""

import re
from typing import Final

from yarl import URL

from identity import bech32
from relay_bridge import FetchFailed, check_url
from relay_bridge.addresses import may_be_public
from relay_bridge.fetch import without_tls_here
from wallet.errors import InvalidLnurl

TEXT_CHARS_MAX: Final = 4096
ADDRESS_NAME: Final = re.compile(r"[a-z0-9_.-]{1,64}")
_ADDRESS: Final = re.compile(rf"({ADDRESS_NAME.pattern})@([^@/?#\\\s]{{1,253}})")
_UNSUPPORTED: Final = {"lnurlc": "opens a channel", "keyauth": "logs in"}


def parse_lnurl(text: str, *, allow_private: bool = False) -> str:
    """The URL to ask first, of an LNURL in any form that is pasted or scanned. Raises `InvalidLnurl`.

    It is https, never an onion; with `allow_private`, for one's own network, http is taken too.
    """
    text = text.strip()
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidLnurl(f"an LNURL of {len(text)} characters; at most {TEXT_CHARS_MAX} are read")
    body = re.sub(r"^lightning:(//)?", "", text, flags=re.IGNORECASE)
    scheme, is_url, rest = body.partition("://")
    scheme = scheme.lower()
    if body[:6].lower() == "lnurl1":
        return _of_bech32(body, allow_private)
    if scheme in _UNSUPPORTED:
        raise InvalidLnurl(f"that LNURL {_UNSUPPORTED[scheme]}; only those that pay or pay out are followed")
    if scheme in ("lnurlp", "lnurlw"):
        return _at(rest, allow_private=allow_private)
    if is_url:
        return _of_url(body, allow_private)
    if address := _ADDRESS.fullmatch(body.lower()):
        return _at(f"{address[2]}/.well-known/lnurlp/{address[1]}", allow_private=allow_private)
    raise InvalidLnurl("not an LNURL (lnurl1…, lnurlp://…) nor a Lightning address (name@domain)")


def is_address(text: str) -> bool:
    """Whether `text` has the form of a Lightning address (LUD-16)."""
    return _ADDRESS.fullmatch(text.strip().lower()) is not None


def encode_lnurl(url: str) -> str:
    """`url` in bech32, in capitals, which make the smaller QR code (LUD-01)."""
    return bech32.encode("lnurl", url.encode()).upper()


def service_url(text: str, *, allow_private: bool) -> URL:
    """Check a URL that an LNURL or its service names. Raises `InvalidLnurl`.

    Looks at the text only; whether a name leads to a public address is seen when it is fetched.
    """
    try:
        url = (
            check_url(text) if text.isprintable() else None
        )  # yarl would write control characters in another way
    except FetchFailed:
        url = None
    if url is None:
        raise InvalidLnurl("the LNURL leads to something that is no URL of the web (https://host/…)")
    if (url.host or "").lower().removesuffix(".").endswith(".onion"):
        raise InvalidLnurl("the LNURL leads to a Tor service, and this wallet does not speak Tor")
    if url.scheme != "https" and not allow_private:
        raise InvalidLnurl("the LNURL leads to a page without encryption (http://), which is not followed")
    if not allow_private and not may_be_public(url.host or ""):
        raise InvalidLnurl("the LNURL leads to a host that is not on the public internet")
    return url


def _of_bech32(text: str, allow_private: bool) -> str:
    try:
        prefix, data = bech32.decode(text)
        url = data.decode()
    except ValueError as error:
        reason = "it holds no text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise InvalidLnurl(f"the LNURL is damaged: {reason}; copy the whole of it") from None
    if prefix != "lnurl":
        raise InvalidLnurl("the LNURL is damaged: it has another prefix than lnurl; copy the whole of it")
    return str(service_url(url, allow_private=allow_private))


def _of_url(text: str, allow_private: bool) -> str:
    """A plain URL: a page that carries an LNURL as fallback (`?lightning=`, LUD-01), else the service itself."""
    url = service_url(text, allow_private=allow_private)
    inner = url.query.get("lightning", "")
    return _of_bech32(inner, allow_private) if inner[:6].lower() == "lnurl1" else str(url)


def _at(place: str, *, allow_private: bool) -> str:
    """LUD-16 and LUD-17 mean https."""
    url = service_url(f"https://{place}", allow_private=allow_private)
    return str(without_tls_here(url) if allow_private else url)
