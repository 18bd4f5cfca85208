"""A post in one file: what is in it, for whom, and where it may be brought back to."""

import asyncio
import io
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from dvm.reputation.keys import begin_log
from dvm.reputation.publisher import Publisher
from identity import LocalSigner, SecretKey, write_key_file
from identity import log as logs
from tests.tradepost.lives import fund, life
from tradepost.backup import BackupLock, make_backup
from tradepost.backup_restore import BackupKey, BackupRestored, _opened, restore_backup
from tradepost.errors import BackupUnusable, ConfigError
from tradepost.post import open_database, open_wallet, own_key, read_seed
from tradepost.settings import Settings
from tradepost.testing import Market, MemoryMint

if TYPE_CHECKING:
    from conftest import Cli

IDENTITY = pyrage.x25519.Identity.generate()
LOCK = BackupLock(recipients=(str(IDENTITY.to_public()),))
KEY = BackupKey(identities=f"# made by age-keygen\n{IDENTITY}\n")


def opened(file: Path) -> dict[str, bytes]:
    """What is in a backup, by name, as `age -d | tar xz` has it."""
    plain = pyrage.decrypt(file.read_bytes(), [IDENTITY])
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr] # all are files


def sealed(file: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A file that opens like a backup, with whatever in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    file.write_bytes(pyrage.encrypt(packed.getvalue(), [IDENTITY.to_public()]))
    return file


async def bring_back(market: Market, file: Path, folder: Path, settings: Settings) -> BackupRestored:
    folder.mkdir(exist_ok=True)
    return await restore_backup(
        folder, file, KEY, load=lambda _folder: settings, clock=market.clock, connect=market.relay.connect,
        transport=market.mint.transport,
    )  # fmt: skip


async def test_it_holds_what_a_post_is_made_of_and_nothing_else(tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        settings, file = market.settings("me"), tmp_path / "me.age"
        async with life(market, "me") as post:
            own_key(settings, "upper")
            write_key_file(settings.key_file("retired"), SecretKey.generate())
            (settings.data / "post.sqlite.schema-3").write_text("an old copy")
            made = make_backup(settings, file, LOCK)
            async with post.db.transaction() as tx:  # it is not held up afterwards either
                await tx.execute("INSERT INTO callers (id, created_at) VALUES ('x', 1)")
        held = opened(file)
    assert set(held) == {
        "manifest.json", "data/post.sqlite", "data/seed", "data/keys/retired.nsec", "data/keys/upper.nsec",
    }  # fmt: skip
    assert held["data/seed"].decode().split() == read_seed(settings).words.split()
    assert (made.bytes, made.database_bytes) == (file.stat().st_size, len(held["data/post.sqlite"]))
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"SQLite" not in file.read_bytes()
    assert not (settings.data / ".backup").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["me", "me.age"]


async def test_the_configuration_comes_along_and_the_one_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "tradepost.yaml").write_text("fee_bps: 7\n")
    async with Market(folder=tmp_path) as market:
        async with life(market, "me"):
            pass
        settings = Settings.load(project, data=market.settings("me").data)
        make_backup(settings, tmp_path / "a.age", LOCK)
        for name, text in (("empty", None), ("own", "fee_bps: 9\n")):
            folder = tmp_path / name
            folder.mkdir()
            if text is not None:
                (folder / "tradepost.yaml").write_text(text)
            await bring_back(market, tmp_path / "a.age", folder, market.settings(f"of-{name}"))
            assert (folder / "tradepost.yaml").read_text() == (text or "fee_bps: 7\n")


async def test_a_file_that_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "kept.age"
    file.write_bytes(b"the last good one")
    async with Market(folder=tmp_path) as market:
        settings = market.settings("me")
        with pytest.raises(ConfigError, match="no post in"):
            make_backup(settings, file, LOCK)
        async with life(market, "me"):
            pass
        for lock in (
            BackupLock(),
            BackupLock("x", LOCK.recipients),
            BackupLock(recipients=("age1nonsense",)),
        ):
            with pytest.raises(ConfigError):
                make_backup(settings, file, lock)
        with pytest.raises(OSError, match="nowhere"):
            make_backup(settings, tmp_path / "nowhere" / "b.age", LOCK)
        settings.database.write_bytes(b"no database" * 100)
        with pytest.raises(Exception, match="could not be copied"):
            make_backup(settings, file, LOCK)
    assert file.read_bytes() == b"the last good one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.age", "me"]
    assert not (settings.data / ".backup").exists()


async def test_it_goes_into_an_empty_folder_only(tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        async with life(market, "me") as post:
            await fund(market, post, 50)
            make_backup(market.settings("me"), tmp_path / "me.age", LOCK)
        there = market.settings("there")
        there.data.mkdir()
        (there.data / "seed").write_text("somebody's words")
        with pytest.raises(ConfigError, match=r"not empty \(seed\).*move it away"):
            await bring_back(market, tmp_path / "me.age", tmp_path / "f", there)
        assert [path.name for path in there.data.iterdir()] == ["seed"]
        (there.data / "seed").unlink()
        restored = await bring_back(market, tmp_path / "me.age", tmp_path / "f", there)
        assert (restored.report.balance_sat, restored.audit.ok, restored.callers.owed_sat) == (50, True, 0)
        assert there.data.stat().st_mode & 0o777 == 0o700
        assert there.seed_file.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_no_backup_leaves_nothing(tmp_path: Path) -> None:
    manifest = b'{"format": 1, "made_at": 1, "tradepost": "x"}'
    link = tarfile.TarInfo("data/seed")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    cases: dict[str, dict[str, bytes | tarfile.TarInfo]] = {
        "nothing": {},
        "no words": {"manifest.json": manifest, "data/post.sqlite": b""},
        "of the future": {
            "manifest.json": manifest.replace(b"1,", b"2,", 1),
            "data/post.sqlite": b"",
            "data/seed": b"",
        },
        "no manifest": {"manifest.json": b"[]", "data/post.sqlite": b"", "data/seed": b""},
    }
    async with Market(folder=tmp_path) as market:
        for name, members in cases.items():
            with pytest.raises(BackupUnusable):
                await bring_back(
                    market, sealed(tmp_path / "x", members), tmp_path / "f", market.settings(name)
                )
        (tmp_path / "x").write_bytes(b"age-encryption.org/v1\nnonsense")
        with pytest.raises(BackupUnusable, match="does not open"):
            await bring_back(market, tmp_path / "x", tmp_path / "f", market.settings("x"))
        other = BackupKey(identities=str(pyrage.x25519.Identity.generate()))
        with pytest.raises(BackupUnusable, match="for this key"):
            await restore_backup(tmp_path / "f", sealed(tmp_path / "x", cases["nothing"]), other)
        for text in ("no identity", "# none"):
            with pytest.raises(ConfigError, match="identities"):
                await restore_backup(tmp_path / "f", tmp_path / "x", BackupKey(identities=text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "x"]
    assert list((tmp_path / "f").iterdir()) == []


async def test_names_that_lead_elsewhere_are_left_out(tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        async with life(market, "me"):
            make_backup(market.settings("me"), tmp_path / "me.age", LOCK)
        held: dict[str, bytes | tarfile.TarInfo] = dict(opened(tmp_path / "me.age"))
        link = tarfile.TarInfo("data/nwc")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        evil = (
            "../evil",
            "/evil",
            "data/../../evil",
            "data/keys/../../evil",
            "data/keys/next/../evil.nsec",
            "data/lock",
        )
        file = sealed(tmp_path / "evil.age", held | {"data/nwc": link} | dict.fromkeys(evil, b"evil"))
        there = market.settings("there")
        await bring_back(market, file, tmp_path / "f", there)
    assert not there.nwc_file.exists()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name and path != file]


async def test_the_log_of_receipts_is_what_the_relays_have(tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        settings = market.settings("me")
        async with life(market, "me") as post:
            key = own_key(settings, "upper")
            make_backup(settings, tmp_path / "me.age", LOCK)
            await begin_log(post, key.public_key)
            await Publisher(post, LocalSigner(key), key.public_key, 1).publish()
            await post.outbox.flush(5)
        shutil.rmtree(settings.data)
        restored = await bring_back(market, tmp_path / "me.age", tmp_path / "f", settings)
        assert restored.report.troubles == ()
        async with await open_database(settings) as db:
            assert (await logs.read_frontier(db, key.public_key)).size == 1


@pytest.mark.alone  # age takes a second or more of a core for each, and up to a gigabyte
async def test_a_password_opens_what_it_closed(tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        settings = market.settings("me")
        async with life(market, "me"):
            make_backup(settings, tmp_path / "me.age", BackupLock("correct horse"))
        with pytest.raises(BackupUnusable, match="with this password"):
            await restore_backup(tmp_path, tmp_path / "me.age", BackupKey("wrong"))
        with _opened(tmp_path / "me.age", BackupKey("correct horse"), tmp_path) as tar:
            assert "data/seed" in tar.getnames()


@pytest.fixture
def quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords that cost no time."""

    def encrypt(plain: bytes, password: str) -> bytes:
        return password.encode() + b"\n" + pyrage.encrypt(plain, [IDENTITY.to_public()])

    def decrypt(text: bytes, password: str) -> bytes:
        told, _, rest = text.partition(b"\n")
        if told != password.encode():
            raise pyrage.DecryptError("Decryption failed")
        return pyrage.decrypt(rest, [IDENTITY])

    monkeypatch.setattr(pyrage.passphrase, "encrypt", encrypt)
    monkeypatch.setattr(pyrage.passphrase, "decrypt", decrypt)


@pytest.mark.usefixtures("quick_passwords")
def test_by_the_command_with_a_password(
    cli: "Cli", memory_mint: MemoryMint, monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:9")
    monkeypatch.setenv("TRADEPOST_BACKUP_PASSWORD", "correct horse")
    file = tmp_path / "post.age"
    assert "no post in" in cli("backup", file).err

    async def begin() -> None:
        async with open_wallet(Settings.load()):
            pass

    asyncio.run(begin())
    made = cli("backup", file, "--json")
    assert made.code == 0, made.err
    assert made.lines[0]["bytes"] == file.stat().st_size
    words = Settings(data=home).seed_file.read_text()
    shutil.rmtree(home)
    monkeypatch.setenv("TRADEPOST_BACKUP_PASSWORD", "wrong")
    refused = cli("restore", "--backup", file, "--json")
    assert (refused.code, home.exists()) == (1, False)
    assert '"code":"backup_unusable"' in refused.err
    monkeypatch.setenv("TRADEPOST_BACKUP_PASSWORD", "correct horse")
    back = cli("restore", "--backup", file, "--json")
    assert (back.code, back.lines[0]["audit_ok"], back.lines[0]["callers"]["owed_sat"]) == (0, True, 0)
    assert Settings(data=home).seed_file.read_text() == words
    assert "not empty" in cli("restore", "--backup", file).err
    assert "leave --words out" in cli("restore", "--backup", file, "--words", "-").err
    assert "--backup FILE" in cli("restore", "--identity", file).err
