"""Names in the DNS that lead to keys (NIP-05): what is written, what is asked, and what the answer says. Pure."""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from identity.errors import InvalidName

NAME_CHARS_MAX: Final = 320  # of the whole, as of an e-mail address
_ROOT: Final = "_"
_FORM: Final = re.compile(r"(?:([a-z0-9_.-]{1,64})@)?([^@/?#\\\s:]{1,253}(?::[0-9]{1,5})?)")


@dataclass(frozen=True)
class Name:
    """A name and its domain, which may have a port."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def shown(self) -> str:
        """As people write it: of `_@domain` the domain."""
        return self.domain if self.local == _ROOT else str(self)

    @property
    def place(self) -> str:
        """Where it is asked for: what follows `https://`."""
        return f"{self.domain}/.well-known/nostr.json?name={self.local}"


class _Answer(msgspec.Struct):
    names: dict[str, object]


def parse_name(text: str) -> Name:
    """Read `name@domain`, or a domain alone, in any case. Raises `InvalidName`."""
    text = text.strip().lower()
    found = _FORM.fullmatch(text) if len(text) <= NAME_CHARS_MAX and text.isprintable() else None
    if found is None or not ("." in found[2] or found[1]):
        raise InvalidName(f"not a NIP-05 name (name@domain, of a-z, 0-9, -, _ and .): {text[:80]!r}")
    return Name(found[1] or _ROOT, found[2])


def named_key(answer: str, name: Name) -> str | None:
    """The public key (hex) that the domain's answer gives for `name`; None if it gives none.

    Raises `InvalidName` if that is no such answer, or what it gives no key in hex.
    """
    try:
        key = msgspec.json.decode(answer, type=_Answer).names.get(name.local)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise InvalidName(f"{name.domain} does not answer as NIP-05 says") from None
    if key is not None and not (isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key)):
        raise InvalidName(f"what {name.domain} gives for {name.local} is no key in hex, as NIP-05 says")
    return key
