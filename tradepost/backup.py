"""A post in one file: database, keys, words and configuration, packed by tar and encrypted with age.

Made while the post runs, and whole or not there. `age -d FILE | tar xz` opens it too; `backup_restore.py` brings it
back.
"""

import fcntl
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyrage

from identity.keyfile import sync_folder
from store import Clock, SystemClock
from store.backup import copy_database
from tradepost.errors import ConfigError
from tradepost.settings import FILE, Settings

FORMAT: Final = 1
#: age takes a password only for what is in memory as a whole; recipients have no such bound.
PASSWORD_BYTES_MAX: Final = 1 << 30
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True)
class BackupLock:
    """For whom a backup is encrypted: who knows the password, or has the identity of one of the recipients (age1…)."""

    password: str = field(default="", repr=False)
    recipients: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself. `made_at`: unix seconds, by the clock of the machine that made it."""

    format: int
    made_at: int
    tradepost: str


@dataclass(frozen=True)
class BackupMade:
    """A backup as it was written."""

    file: str
    bytes: int
    database_bytes: int
    made_at: int


def make_backup(
    settings: Settings, target: Path, lock: BackupLock, *, clock: Clock | None = None
) -> BackupMade:
    """Write the post of `settings` into `target` (mode 0600), beside whatever process runs it.

    What was there is replaced once the new file is on disk. Blocks, for a second or so per 100 MB. Raises
    `ConfigError` if there is no post, or the lock is none; `OSError`; `StoreError` if the database cannot be copied.
    """
    if not settings.database.exists():
        raise ConfigError(f"there is no post in {settings.data} yet, so there is nothing to keep")
    recipients = _recipients(lock)
    now = (clock or SystemClock()).now()
    with _workshop(settings.data) as folder:
        database, packed = folder / "post.sqlite", folder / "packed"
        # Before the keys: one that the database names is on disk before it is named.
        copy_database(settings.database, database)
        with tarfile.open(packed, "w:gz", compresslevel=3) as tar:
            _add(tar, MANIFEST, msgspec.json.encode(Manifest(FORMAT, now, _version())))
            for name, path in _parts(settings, database):
                with path.open("rb") as file:
                    _add_file(tar, name, file)
        with _whole(target) as out, packed.open("rb") as plain:
            if recipients:
                pyrage.encrypt_io(plain, out, recipients)
            elif packed.stat().st_size > PASSWORD_BYTES_MAX:
                raise ConfigError(
                    "too much for a password: encrypt it to a key, `--to age1…` (`age-keygen` makes one)"
                )
            else:
                out.write(pyrage.passphrase.encrypt(plain.read(), lock.password))
        return BackupMade(str(target), target.stat().st_size, database.stat().st_size, now)


def _recipients(lock: BackupLock) -> list[Any]:
    if bool(lock.password) == bool(lock.recipients):
        raise ConfigError("a backup needs a password or recipients, one of the two")
    try:
        return [pyrage.x25519.Recipient.from_str(text) for text in lock.recipients]
    except pyrage.RecipientError:
        raise ConfigError("--to takes a public key of age, age1…; `age-keygen` makes one") from None


def _parts(settings: Settings, database: Path) -> Iterable[tuple[str, Path]]:
    yield "data/post.sqlite", database
    if settings.file is not None and settings.file.exists():
        yield FILE, settings.file
    # Keys that wait come first: one that moves to its place meanwhile is then in it twice, and not left out.
    for pattern in (
        "seed",
        "nwc",
        "keys/next/*.nsec",
        "keys/*.nsec",
        "keys/retired/*.nsec",
        "bunkers/*.json",
    ):
        for path in sorted(settings.data.glob(pattern)):
            if path.exists():
                yield f"data/{path.relative_to(settings.data)}", path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o600
    tar.addfile(info, io.BytesIO(content))


def _add_file(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = os.fstat(file.fileno()).st_size, 0o600
    tar.addfile(info, file)


@contextmanager
def _workshop(data: Path) -> Iterator[Path]:
    """A folder for what is not encrypted yet, as private as the post's own; what a crash leaves goes the next time."""
    folder = data / ".backup"
    with (data / ".backup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("another backup of this post is being made; wait for that one") from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextmanager
def _whole(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `target` when all of it is on disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(target)
        sync_folder(target.absolute().parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _version() -> str:
    try:
        return version("tradepost")
    except PackageNotFoundError:
        return "from its source"
