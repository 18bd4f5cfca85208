"""The files of an agent's keys while it goes over from one to the next: each step may be the last before a crash."""

import os

from identity import StoredKey, replace_key_file
from identity.keyfile import sync_folder
from tradepost.settings import Settings, make_private


def keep_next(settings: Settings, public_key: str, stored: StoredKey) -> None:
    """Put a key on disk that an agent is about to go over to. Raises `KeyFileError`."""
    path = settings.next_key_file(public_key)
    make_private(path.parent)
    replace_key_file(path, stored)


def put_in_place(settings: Settings, name: str, *, old: str, new: str) -> bool:
    """Bring the key `new` (both are public keys) into the place of the agent's; False if it does not wait for that.

    The file that was there is kept, as that of `old`. May be killed anywhere, and done again.
    """
    waiting = settings.next_key_file(new)
    if not waiting.exists():
        return False
    place, retired = settings.key_file(name), settings.retired_key_file(old)
    make_private(retired.parent)
    if place.exists() and not retired.exists():
        os.link(place, retired)
        sync_folder(retired.parent)
    waiting.replace(place)
    sync_folder(place.parent)
    return True
