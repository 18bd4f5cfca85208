"""Passwords of encrypted keys: from the environment, from a file, or asked for on the terminal; never an argument."""

import getpass
import os
from pathlib import Path
from typing import Final

from identity import EncryptedKey, SecretKey, WrongPassword, nip49
from tradepost.errors import ConfigError, TradepostError

#: Holds the password; with `_FILE` behind it, names the file that does.
PASSWORD: Final = "TRADEPOST_PASSWORD"  # noqa: S105 - its name
#: The same for the one that is to come, when a password is changed.
NEW_PASSWORD: Final = "TRADEPOST_NEW_PASSWORD"  # noqa: S105 - its name
#: The same for backups.
BACKUP_PASSWORD: Final = "TRADEPOST_BACKUP_PASSWORD"  # noqa: S105 - its name

_TRIES: Final = 3
_FILE_BYTES_MAX: Final = 4096


def unlock(key: EncryptedKey, whose: str) -> SecretKey:
    """The key, with the password from TRADEPOST_PASSWORD, TRADEPOST_PASSWORD_FILE or the terminal.

    `whose` tells people which key is meant. Raises `WrongPassword`, `TradepostError` if there is nobody to ask.
    """
    if (given := _given(PASSWORD)) is not None:
        try:
            return nip49.decrypt(key.text, given)
        except WrongPassword as error:
            raise WrongPassword(f"{whose}: {error}; it came from {PASSWORD} or {PASSWORD}_FILE") from None
    for tries_left in reversed(range(_TRIES)):
        try:
            return nip49.decrypt(key.text, ask_hidden(f"Password of {whose}: ", or_else=PASSWORD))
        except WrongPassword as error:
            if not tries_left:
                raise WrongPassword(f"{whose}: {error}") from None
    raise AssertionError("the last try raises")


def choose_password(whose: str, variable: str = PASSWORD) -> str:
    """A password for a key that is to be encrypted, asked for twice. Raises `TradepostError`."""
    password = _given(variable)
    if password is None:
        password = ask_hidden(f"New password of {whose}: ", or_else=variable)
        if password != ask_hidden("The same again: ", or_else=variable):
            raise TradepostError("the two passwords differ; nothing was changed")
    if not password:
        raise TradepostError("an empty password protects nothing; nothing was changed")
    return password


def known_password(whose: str, variable: str) -> str:
    """The password of something that has one, from the environment or asked for once. Raises `TradepostError`."""
    given = _given(variable)
    return ask_hidden(f"Password of {whose}: ", or_else=variable) if given is None else given


def ask_hidden(prompt: str, *, or_else: str) -> str:
    """A line typed on the terminal without showing it, whatever stdin is.

    Raises `TradepostError` if there is no terminal; it names the variables that do instead.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise TradepostError(
            f"{prompt.strip(': ')} is needed and there is no terminal to ask on: set {or_else}_FILE or {or_else}"
        ) from None
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise KeyboardInterrupt from None


def _given(variable: str) -> str | None:
    """What the environment says; the newline at the end of a file is no part of a password.

    The file may be readable to others, as mounted secrets are: alone it opens nothing.
    """
    if (value := os.environ.get(variable)) is not None:
        return value
    if (name := os.environ.get(f"{variable}_FILE")) is None:
        return None
    try:
        with Path(name).open("rb") as file:
            return file.read(_FILE_BYTES_MAX).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"{variable}_FILE: {name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}_FILE: {name} is not text in UTF-8") from None
