"""`tradepost key`: bare keys, keys under a password, keys with a remote signer; and passwords typed on a terminal."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from identity import (
    BunkerUrl,
    EncryptedKey,
    SecretKey,
    encode_npub,
    encode_nsec,
    nip49,
    read_key_file,
    write_key_file,
)
from tradepost import passwords
from tradepost.errors import ConfigError, TradepostError

if TYPE_CHECKING:
    from conftest import Cli

KEY = SecretKey(bytes([3]) * 32)
NPUB = encode_npub(KEY.public_key)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encryption at no cost, and no terminal."""
    real = nip49.encrypt
    monkeypatch.setattr(
        nip49, "encrypt", lambda key, password, **named: real(key, password, log_n=4, **named)
    )
    monkeypatch.setattr("sys.stdin", io.StringIO())


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody types at the next questions, in order."""
    answers: list[str] = []

    def ask(prompt: str, *, or_else: str) -> str:
        return answers.pop(0)

    monkeypatch.setattr(passwords, "ask_hidden", ask)
    monkeypatch.setattr("tradepost.cli.keys.ask_hidden", ask)
    return answers


@pytest.fixture
def stored(home: Path) -> Path:
    path = home / "keys" / "shop.nsec"
    path.parent.mkdir(parents=True)
    write_key_file(path, KEY)
    return path


def test_a_password_comes_changes_and_goes(cli: "Cli", stored: Path, typed: list[str]) -> None:
    typed += ["one", "one"]
    assert cli("key", "encrypt", "shop").code == 0
    kept = read_key_file(stored)
    assert isinstance(kept, EncryptedKey)
    assert nip49.decrypt(kept.text, "one") == KEY
    assert nip49.handling_of(kept.text) is nip49.Handling.EXPOSED
    assert stored.stat().st_mode & 0o777 == 0o600

    typed += ["one"]
    assert cli("key", "show", "shop").out == f"{NPUB}\n"
    assert cli("key", "show", "shop", "--secret").out == f"{kept.text}\n"  # without the password

    typed += ["wrong", "one", "two", "two"]
    assert cli("key", "password", "shop").code == 0
    changed = read_key_file(stored)
    assert isinstance(changed, EncryptedKey)
    assert nip49.decrypt(changed.text, "two") == KEY

    typed += ["two"]
    assert cli("key", "decrypt", "shop").code == 0
    assert read_key_file(stored) == KEY
    assert typed == []


@pytest.mark.parametrize(
    ("command", "answers", "said"),
    [
        ("encrypt", ["one", "two"], "the two passwords differ; nothing was changed"),
        ("encrypt", ["", ""], "an empty password protects nothing; nothing was changed"),
        ("decrypt", [], "has no password"),
        ("password", [], "has no password"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    cli: "Cli", stored: Path, typed: list[str], command: str, answers: list[str], said: str
) -> None:
    typed += answers
    before = stored.read_bytes()
    ran = cli("key", command, "shop")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err.replace("\n", " ")
    assert stored.read_bytes() == before


def test_three_wrong_passwords_are_enough(cli: "Cli", stored: Path, typed: list[str]) -> None:
    typed += ["one", "one", "1", "2", "3"]
    cli("key", "encrypt", "shop")
    before = stored.read_bytes()
    ran = cli("key", "decrypt", "shop")
    assert (ran.code, typed) == (1, [])
    assert "the password is wrong" in ran.err.replace("\n", " ")
    assert stored.read_bytes() == before
    assert cli("key", "encrypt", "shop").code == 1  # twice


def test_passwords_come_from_the_environment_and_from_files(
    cli: "Cli", stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_PASSWORD", "one ")
    assert cli("key", "encrypt", "shop").code == 0
    monkeypatch.delenv("TRADEPOST_PASSWORD")
    (tmp_path / "old").write_text("one \n")
    (tmp_path / "new").write_text("two\r\n")
    monkeypatch.setenv("TRADEPOST_PASSWORD_FILE", str(tmp_path / "old"))
    monkeypatch.setenv("TRADEPOST_NEW_PASSWORD_FILE", str(tmp_path / "new"))
    assert cli("key", "password", "shop").code == 0
    kept = read_key_file(stored)
    assert isinstance(kept, EncryptedKey)
    assert nip49.decrypt(kept.text, "two") == KEY
    ran = cli("key", "show", "shop")
    assert (ran.code, "TRADEPOST_PASSWORD_FILE" in ran.err) == (1, True)
    monkeypatch.setenv("TRADEPOST_PASSWORD_FILE", str(tmp_path / "none"))
    assert "cannot be read" in cli("key", "show", "shop").err.replace("\n", " ")
    (tmp_path / "none").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        passwords.choose_password("x")


def test_a_new_key_may_be_born_encrypted(cli: "Cli", home: Path, typed: list[str]) -> None:
    typed += ["pw", "pw"]
    ran = cli("key", "new", "shop", "--encrypt", "--json")
    kept = read_key_file(home / "keys" / "shop.nsec")
    assert isinstance(kept, EncryptedKey)
    assert ran.lines[0]["kept"] == "encrypted"
    assert nip49.decrypt(kept.text, "pw").public_key == ran.lines[0]["pubkey"]
    assert nip49.handling_of(kept.text) is nip49.Handling.GUARDED


def test_a_key_is_imported_from_stdin(
    cli: "Cli", home: Path, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted = nip49.encrypt(KEY, "pw")
    for name, text, kept, answers in (
        ("bare", f"{encode_nsec(KEY)}\n", KEY, []),
        ("hex", KEY.hex(), KEY, []),
        ("encrypted", f"{encrypted}\n", EncryptedKey(encrypted), ["pw"]),
    ):
        typed += answers
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        ran = cli("key", "import", name)
        assert (ran.code, ran.out) == (0, f"{NPUB}\n"), ran.err
        assert read_key_file(home / "keys" / f"{name}.nsec") == kept
    typed += ["pw", "pw"]
    monkeypatch.setattr("sys.stdin", io.StringIO(encode_nsec(KEY)))
    assert cli("key", "import", "locked", "--encrypt").code == 0
    assert isinstance(read_key_file(home / "keys" / "locked.nsec"), EncryptedKey)
    monkeypatch.setattr("sys.stdin", io.StringIO(encode_nsec(SecretKey.generate())))
    again = cli("key", "import", "bare")
    assert (again.code, read_key_file(home / "keys" / "bare.nsec")) == (1, KEY)
    assert "never overwritten" in again.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("", (), "not a key"),
        ("hunter2", (), "not a key"),
        (NPUB, (), "public key"),
        (nip49.encrypt(KEY, "pw", log_n=4), ("--encrypt",), "leave --encrypt out"),
        (nip49.encrypt(KEY, "pw", log_n=4), (), "there is no terminal to ask on"),
    ],
)
def test_what_cannot_be_imported_is_not_stored(
    cli: "Cli", home: Path, tmp_path: Path, text: str, arguments: tuple[str, ...], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def no_terminal(*_: object) -> int:
        raise OSError(6, "No such device or address")

    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    monkeypatch.setattr(passwords.os, "open", no_terminal)
    ran = cli("key", "import", "shop", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err.replace("\n", " ")
    assert "hunter2" not in ran.err
    assert not (home / "keys" / "shop.nsec").exists()


def test_a_remote_signers_url_is_shown_on_purpose_only(cli: "Cli", stored: Path) -> None:
    stored.unlink()
    url = BunkerUrl(KEY.public_key, ("ws://127.0.0.1:1",), "s3cr3t")
    write_key_file(stored, url)
    assert cli("key", "show", "shop", "--secret").out == f"{url.to_text()}\n"
    for command in ("encrypt", "decrypt", "password"):
        ran = cli("key", command, "shop")
        assert ran.code == 1
        assert "s3cr3t" not in ran.err
    assert read_key_file(stored) == url


@pytest.mark.process
def test_a_password_is_typed_on_the_terminal_and_not_shown(home: Path, stored: Path) -> None:
    """stdin and stdout may be pipes: the terminal is asked."""
    ours, theirs = pty.openpty()
    code = (
        "import os, sys\n"
        f"os.close(os.open({os.ttyname(theirs)!r}, os.O_RDWR))\n"  # the leader of a session gets a terminal by opening it
        "from identity import nip49\n"
        "nip49.encrypt.__kwdefaults__['log_n'] = 4\n"
        "from tradepost.cli import run\n"
        "sys.exit(run(['key', 'encrypt', 'shop']))\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    shown = b""
    for prompt in (b"New password of the key of shop: ", b"The same again: "):
        while prompt not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, "grüße\n".encode())
    out, err = process.communicate(timeout=30)
    os.close(theirs)
    os.close(ours)
    assert process.returncode == 0, err
    assert "grüße".encode() not in shown + out + err
    kept = read_key_file(stored)
    assert isinstance(kept, EncryptedKey)
    assert nip49.decrypt(kept.text, "grüße") == KEY


@pytest.mark.process
def test_without_a_terminal_the_variables_are_named(home: Path, stored: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tradepost", "key", "encrypt", "shop"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "set TRADEPOST_PASSWORD_FILE or TRADEPOST_PASSWORD" in ran.stderr.replace("\n", " ")
    assert read_key_file(stored) == KEY


def test_an_encryption_that_does_not_open_again_is_not_kept(
    cli: "Cli", stored: Path, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed += ["pw", "pw"]
    monkeypatch.setattr(nip49, "decrypt", lambda *_: SecretKey.generate())
    ran = cli("key", "encrypt", "shop")
    assert ran.code == 1
    assert "nothing was changed" in ran.err.replace("\n", " ")
    assert read_key_file(stored) == KEY


def test_ctrl_d_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(passwords.os, "open", lambda *_: os.dup(1))
    monkeypatch.setattr(passwords.getpass, "getpass", ends)
    with pytest.raises(KeyboardInterrupt):
        passwords.ask_hidden("?", or_else="X")
    assert issubclass(ConfigError, TradepostError)
