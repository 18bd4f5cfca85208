"""Checks of the files that are worth stealing: keys and the seed. What is in them is shown nowhere."""

from pathlib import Path

from identity import KeyFileError, SecretKey, encode_npub, read_key_file
from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.setup import Setup
from tradepost.errors import ConfigError
from tradepost.post import is_of_words
from wallet import InvalidSeed, Seed


async def check_folder(setup: Setup) -> list[Finding]:
    """Whether the post's folder is its owner's alone."""
    folder = setup.settings.data
    if not folder.exists():
        return [ok("post", f"{folder} is made at first use")]
    if not folder.is_dir():
        return [fail("post", f"{folder} is no folder", "name another with TRADEPOST_DATA")]
    mode = folder.stat().st_mode & 0o777
    if mode & 0o022:
        return [
            fail("post", f"{folder} can be written to by other users (mode {mode:o})", f"chmod 700 {folder}")
        ]
    if mode & 0o055:
        return [
            warn("post", f"{folder} can be looked into by other users (mode {mode:o})", f"chmod 700 {folder}")
        ]
    return [ok("post", str(folder))]


async def check_keys(setup: Setup) -> list[Finding]:
    """Whether each key file can be read, by us alone."""
    paths = sorted((setup.settings.data / "keys").glob("*.nsec"))
    if not paths:
        return [ok("keys", "none yet: drawn at first use")]
    return [_key(setup, path) for path in paths]


def _key(setup: Setup, path: Path) -> Finding:
    try:
        key = read_key_file(path)
    except KeyFileError as error:
        told = str(error)
        return fail(
            "keys", told, f"chmod 600 {path}" if "chmod" not in told and path.stat().st_mode & 0o77 else ""
        )
    if not isinstance(key, SecretKey):
        return ok("keys", f"{path.stem}: under a password, or with a remote signer")
    told = f"{path.stem}: {encode_npub(key.public_key)}"
    try:
        is_lasting = is_of_words(setup.settings, path.stem, key.public_key)
    except ConfigError:
        is_lasting = True  # told by the check of the seed
    return ok("keys", told if is_lasting else f"{told}; the words do not give it: keep a copy")


async def check_seed(setup: Setup) -> list[Finding]:
    """Whether the wallet's words are there, private and whole: the coins of a lost database come back by them."""
    path = setup.settings.seed_file
    if not path.exists():
        if setup.settings.database.exists():
            return [
                fail(
                    "seed",
                    f"{path} is missing, and the database is there",
                    "put your copy of the words there",
                )
            ]
        return [ok("seed", "none yet: drawn at first use")]
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            return [fail("seed", f"{path} is open to other users (mode {mode:o})", f"chmod 600 {path}")]
        Seed.from_words(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return [fail("seed", f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}")]
    except InvalidSeed as error:
        return [
            fail("seed", f"{path} does not hold the wallet's words: {error}", "put your copy of them there")
        ]
    return [ok("seed", f"{path}; keep a copy of its words elsewhere")]
