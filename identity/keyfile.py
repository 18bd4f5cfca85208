"""Secret keys on disk: one file each, for its owner alone, with an nsec, an ncryptsec or a bunker:// URL in it."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from identity.credential import StoredKey, encode_stored_key, parse_credential
from identity.errors import InvalidKey, KeyFileError
from identity.nip19 import Npub

_FILE_BYTES_MAX = 8192


def write_key_file(path: Path | str, key: StoredKey) -> None:
    """Create `path` with mode 0600 and the key in it; on return it is on disk.

    All or nothing, a crash included, and an existing file is never overwritten. Raises `KeyFileError`.
    """
    path = Path(path)
    try:
        with written_aside(path, encode_stored_key(key) + "\n") as aside:
            os.link(aside, path)  # refuses an existing name, where `replace` would take its place
    except FileExistsError:
        raise KeyFileError(f"{path} exists, and a key is never overwritten: move it away first") from None
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror}") from None


def replace_key_file(path: Path | str, key: StoredKey) -> None:
    """Put another form of a key into the file `path`: whoever reads it finds the old one or the new one, whole.

    So it is after a crash too. Raises `KeyFileError`; the file is then as it was.
    """
    path = Path(path)
    try:
        with written_aside(path, encode_stored_key(key) + "\n") as aside:
            aside.replace(path)
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror}; it is as it was") from None


def read_key_file(path: Path | str) -> StoredKey:
    """The key in the file `path`: an nsec (or 64 hex digits), an ncryptsec or a bunker:// URL, and nothing else.

    Raises `KeyFileError` if the file is missing, is accessible to group or others, or holds no key.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(f"{path} is not a file")
            if mode & 0o077:
                raise KeyFileError(f"{path} is open to other users: chmod 600 {path}, and consider a new key")
            content = file.read(_FILE_BYTES_MAX)
    except FileNotFoundError:
        raise KeyFileError(f"there is no key file {path}") from None
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from None
    try:
        key = parse_credential(content.decode("ascii"))
    except (InvalidKey, UnicodeDecodeError):
        raise KeyFileError(
            f"{path} does not hold one nsec, ncryptsec or bunker:// URL and nothing else"
        ) from None
    if isinstance(key, Npub):
        raise KeyFileError(f"{path} holds a public key (npub), which can sign nothing")
    return key


@contextmanager
def written_aside(path: Path, text: str) -> Iterator[Path]:
    """`text`, on disk with mode 0600 under another name beside `path`, for the block to bring to its place.

    What the block did is on disk afterwards; the other name is gone, if the process lived so long. Raises `OSError`.
    """
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=f".{path.name}", dir=path.parent)  # O_EXCL, 0600
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """On return the names in a folder are on disk as they are. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open at once even a pipe, which would otherwise wait for somebody to write."""
    return os.open(path, flags | os.O_NONBLOCK)
