"""Whose key signs: found in `--sec`, the configuration, the environment or the post's folder, opened as a `Signer`."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from identity import (
    BunkerUrl,
    Credential,
    EncryptedKey,
    InvalidKey,
    LocalSigner,
    Npub,
    SecretKey,
    Signer,
    encode_npub,
    parse_credential,
    read_key_file,
)
from store import Clock, SystemClock
from tradepost.bunkers import open_bunker
from tradepost.errors import ConfigError
from tradepost.passwords import ask_hidden, unlock
from tradepost.post import own_key
from tradepost.settings import Settings

#: The key of whoever asks; every other name is an agent's.
CUSTOMER: Final = "customer"
#: Names under which people keep their key in the environment, for `nak` and others.
VARIABLES: Final = ("NOSTR_SECRET_KEY", "NOSTR_NSEC", "NSEC")


@dataclass(frozen=True)
class Key:
    """A key that was found and, where it had a password, unlocked."""

    #: Whose it is here: `customer`, or an agent's short name.
    name: str
    value: SecretKey | BunkerUrl | Npub
    #: Where it was found, for people.
    source: str


def find_key(settings: Settings, name: str, sec: str = "") -> Key:
    """The key that `name` signs with; asks for its password if it has one, so call it before any loop runs.

    The first of: `sec` (text of a key, `@file`, or `-`: asked for), the setting `key` (agents only), one of
    `VARIABLES`, the file in the post's folder, which is made at first use. Raises `ConfigError`, `KeyFileError`,
    `InvalidKey`, `WrongPassword`.
    """
    credential, source = _find(settings, name, sec)
    if isinstance(credential, EncryptedKey):
        return Key(name, unlock(credential, f"the key of {name} ({source})"), source)
    return Key(name, credential, source)


@asynccontextmanager
async def open_signer(settings: Settings, key: Key, *, clock: Clock | None = None) -> AsyncIterator[Signer]:
    """A signer with this key while the context lasts.

    A remote one is connected to first. Raises `BunkerError`, `ConfigError` for an npub, which can sign nothing.
    """
    match key.value:
        case SecretKey():
            yield LocalSigner(key.value)
        case BunkerUrl():
            clock = clock or SystemClock()
            async with open_bunker(
                settings, key.name, key.value, clock=clock, on_visit=_tell_visit
            ) as signer:
                yield signer
        case Npub(public_key):
            raise ConfigError(
                f"{encode_npub(public_key)} ({key.source}) is a public key, and this needs the secret one: an nsec, an "
                "ncryptsec or a bunker:// URL"
            )


def _find(settings: Settings, name: str, sec: str) -> tuple[Credential, str]:
    if sec:
        return _chosen(sec), "--sec"
    if settings.key and name != CUSTOMER:
        return _configured(settings.key.get_secret_value())
    found = {variable: value for variable in VARIABLES if (value := os.environ.get(variable, "").strip())}
    if len(set(found.values())) > 1:
        raise ConfigError(f"{' and '.join(found)} hold different keys: unset all but one, or choose by --sec")
    for variable, value in found.items():
        return _parse(value, variable), variable
    path = settings.key_file(name)
    if not path.exists():
        own_key(settings, name)
    return read_key_file(path), str(path)


def _chosen(sec: str) -> Credential:
    if sec.startswith("@"):
        return read_key_file(Path(sec[1:]))
    return _parse(
        ask_hidden("Key (nsec, ncryptsec, …): ", or_else=VARIABLES[0]) if sec == "-" else sec, "--sec"
    )


def _configured(text: str) -> tuple[Credential, str]:
    if "TRADEPOST_KEY" in os.environ:
        return _parse(text, "TRADEPOST_KEY"), "TRADEPOST_KEY"
    key = _parse(text, "key")
    if isinstance(key, SecretKey):
        raise ConfigError(
            "tradepost.yaml: key: a bare secret key does not belong into a file that is shown around; keep it with "
            "`tradepost key import NAME`, and consider a new one"
        )
    return key, "tradepost.yaml"


def _parse(text: str, where: str) -> Credential:
    try:
        return parse_credential(text)
    except InvalidKey as error:
        raise InvalidKey(f"{where}: {error}") from None


def _tell_visit(url: str) -> None:
    """Whoever runs us must read this, whatever is logged."""
    shown = url if url.isprintable() else repr(url)
    sys.stderr.write(f"the signer wants you to visit {shown} before it goes on; waiting for that\n")
    sys.stderr.flush()
