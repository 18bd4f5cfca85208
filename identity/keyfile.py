"""Secret keys on disk: one nsec per file, readable by its owner alone."""

import os
import stat
import tempfile
from pathlib import Path

from identity.errors import InvalidKey, KeyFileError
from identity.keys import SecretKey
from identity.nip19 import encode_nsec, parse_secret_key

_FILE_BYTES_MAX = 1024


def write_key_file(path: Path | str, key: SecretKey) -> None:
    """Create `path` with mode 0600 and the key in it; on return it is on disk.

    All or nothing, a crash included, and an existing file is never overwritten. Raises `KeyFileError`.
    """
    path = Path(path)
    try:
        # Written under another name first (mkstemp: O_EXCL, 0600), so that a crash leaves no half a key under
        # this one. `link` refuses an existing name, where `rename` would replace it.
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=f".{path.name}", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(encode_nsec(key) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)
        finally:
            Path(name).unlink()
        _sync_directory(path.parent)
    except FileExistsError:
        raise KeyFileError(f"{path} exists, and a key is never overwritten: move it away first") from None
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror}") from None


def read_key_file(path: Path | str) -> SecretKey:
    """The key in the file `path`: an nsec (or 64 hex digits) and nothing else.

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
        return parse_secret_key(content.decode("ascii"))
    except (InvalidKey, UnicodeDecodeError):
        raise KeyFileError(f"{path} does not hold one nsec and nothing else") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open at once even a pipe, which would otherwise wait for somebody to write."""
    return os.open(path, flags | os.O_NONBLOCK)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
