"""A post brought back from a backup, and up to date.

What happened after the backup was made is not in it: the mints are asked which coins were spent and made since, the
relays about orders, jobs and logs, before anything else may use the folder. What only the lost database knew is told.
"""

import asyncio
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyrage

from identity.keyfile import sync_folder
from relay_bridge import Connect
from store import Clock
from tradepost.backup import FORMAT, MANIFEST, PASSWORD_BYTES_MAX, Manifest
from tradepost.errors import BackupUnusable, ConfigError
from tradepost.facade.money.solvency import Solvency, solvency
from tradepost.post import STALE, open_database, wallet_on
from tradepost.restore import Report, restore_post
from tradepost.settings import FILE, Settings, make_private
from wallet import AuditReport, HttpTransport, MintTransport

UNPACKED_BYTES_MAX: Final = 1 << 40
_FILES: Final = re.compile(
    r"data/(?:post\.sqlite|seed|nwc|keys/(?:(?:next|retired)/)?[\w.-]+\.nsec|bunkers/[\w.-]+\.json)"
)


@dataclass(frozen=True)
class BackupKey:
    """What opens a backup: the password, or the text of a file of age identities."""

    password: str = field(default="", repr=False)
    identities: str = field(default="", repr=False)


@dataclass(frozen=True)
class BackupRestored:
    """What came of a backup. `callers`: what they have here, by the books of then, against what is there now."""

    made_at: int
    report: Report
    audit: AuditReport
    callers: Solvency


async def restore_backup(
    folder: Path,
    source: Path,
    key: BackupKey,
    *,
    mints: Sequence[str] = (),
    agents: Sequence[str] = (),
    load: Callable[[Path], Settings] = Settings.load,
    clock: Clock | None = None,
    connect: Connect | None = None,
    transport: Callable[[str], MintTransport] = HttpTransport,
) -> BackupRestored:
    """Put a post where the configuration of `folder` wants it, and bring it up to date; then audit it.

    The configuration is that of the backup if `folder` has none. The post's own folder must be empty. Once it is in its
    place nothing opens it until it has caught up: if that fails or is killed, `restore_post` does it.
    Raises `BackupUnusable`, `ConfigError`, and what `restore_post` raises.
    """
    with _opened(source, key, folder) as tar:
        manifest = await asyncio.to_thread(_check, tar)
        _keep_configuration(tar, folder)
        settings = load(folder)
        await asyncio.to_thread(_unpack, tar, settings.data, manifest)
    report = await restore_post(
        settings, None, mints=mints, agents=agents, clock=clock, connect=connect, transport=transport
    )
    async with await open_database(settings) as db, wallet_on(settings, db, transport=transport) as wallet:
        audit, callers = await wallet.audit(ask_mints=True), await solvency(db)
    return BackupRestored(manifest.made_at, report, audit, callers)


@contextmanager
def _opened(source: Path, key: BackupKey, folder: Path) -> Iterator[tarfile.TarFile]:
    """What is in a backup. Meanwhile it lies in `folder` without a name: nobody finds it, and nothing is left of it."""
    with ExitStack() as stack:
        sealed = stack.enter_context(source.open("rb"))
        plain = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        try:
            if key.identities:
                pyrage.decrypt_io(sealed, plain, _identities(key.identities))
            else:
                plain.write(pyrage.passphrase.decrypt(sealed.read(PASSWORD_BYTES_MAX * 2), key.password))
        except pyrage.DecryptError as error:
            raise BackupUnusable(
                f"{source} does not open: {str(error).rstrip('.')}; was it made with this password, or for this key?"
            ) from None
        plain.seek(0)
        try:
            yield stack.enter_context(tarfile.open(fileobj=plain, mode="r:gz"))
        except (tarfile.TarError, EOFError) as error:
            raise BackupUnusable(f"{source} is no backup of a post: {error}") from None


def _identities(text: str) -> list[Any]:
    lines = (line.strip() for line in text.splitlines())
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError:
        raise ConfigError(
            "the file of identities is not one of age: it holds lines AGE-SECRET-KEY-1…"
        ) from None
    if not found:
        raise ConfigError("the file of identities holds none")
    return found


def _check(tar: tarfile.TarFile) -> Manifest:
    members = {member.name: member for member in tar}
    try:
        manifest = msgspec.json.decode(_read(tar, MANIFEST) or b"", type=Manifest)
    except msgspec.DecodeError:
        raise BackupUnusable("it does not say what it is: no backup of a post") from None
    if manifest.format != FORMAT:
        raise BackupUnusable(
            f"it is of form {manifest.format}, made by Tradepost {manifest.tradepost}: use that one"
        )
    if (
        sum(member.size for member in members.values()) > UNPACKED_BYTES_MAX
        or not {
            "data/post.sqlite",
            "data/seed",
        }
        <= members.keys()
    ):
        raise BackupUnusable(
            "it lacks the database or the words, or is larger than any post: no backup of a post"
        )
    return manifest


def _keep_configuration(tar: tarfile.TarFile, folder: Path) -> None:
    """The one that is here stays: whoever put it there wants it."""
    text = _read(tar, FILE)
    if text is not None and not (folder / FILE).exists():
        (folder / FILE).write_bytes(text)


def _unpack(tar: tarfile.TarFile, data: Path, manifest: Manifest) -> None:
    """All of the post's folder at once, marked as of the past."""
    if data.exists() and (here := sorted(path.name for path in data.iterdir())):
        raise ConfigError(
            f"{data} is not empty ({', '.join(here[:3])}), and nothing in it is overwritten: move it away, or name "
            "another folder in TRADEPOST_DATA"
        )
    make_private(data.parent)
    beside = data.parent / f".{data.name}.restoring"
    shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
    beside.mkdir(mode=0o700)
    try:
        for member in tar:
            if member.isreg() and _FILES.fullmatch(member.name):
                path = beside / member.name.removeprefix("data/")
                make_private(path.parent)
                _write(path, tar.extractfile(member))
        _write(beside / STALE, io.BytesIO(str(manifest.made_at).encode()))
        beside.rename(data)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(data.parent)


def _write(path: Path, content: IO[bytes] | None) -> None:
    assert content is not None  # it is of a regular file
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _read(tar: tarfile.TarFile, name: str) -> bytes | None:
    try:
        file = tar.extractfile(name)
    except KeyError:
        return None
    return file.read(1 << 20) if file else None
