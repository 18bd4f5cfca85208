import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from identity import (
    BunkerUrl,
    EncryptedKey,
    KeyFileError,
    SecretKey,
    encode_npub,
    encode_nsec,
    keyfile,
    nip49,
    read_key_file,
    replace_key_file,
    write_key_file,
)

ROOT = Path(__file__).parents[2]


def put(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_there_and_back(tmp_path: Path, alice: SecretKey) -> None:
    path = tmp_path / "key"
    write_key_file(path, alice)
    assert read_key_file(path) == alice
    assert read_key_file(str(path)) == alice
    assert path.read_text() == encode_nsec(alice) + "\n"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read(tmp_path: Path, alice: SecretKey, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_key_file(tmp_path / "key", alice)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")]
)
def test_nothing_is_overwritten(tmp_path: Path, alice: SecretKey, make: object) -> None:
    path = tmp_path / "key"
    make(path)
    with pytest.raises(KeyFileError, match="never overwritten") as caught:
        write_key_file(path, alice)
    assert str(path) in str(caught.value)
    assert path.is_symlink() or path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_directory_is_told(tmp_path: Path, alice: SecretKey) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        write_key_file(tmp_path / "none" / "key", alice)


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, alice: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        write_key_file(tmp_path / "key", alice)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_an_open_file_is_refused(tmp_path: Path, alice: SecretKey, mode: int) -> None:
    path = put(tmp_path / "key", encode_nsec(alice).encode(), mode)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        read_key_file(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_the_owners_own_is_read(tmp_path: Path, alice: SecretKey, mode: int) -> None:
    assert read_key_file(put(tmp_path / "key", alice.hex().encode(), mode)) == alice


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no key file"):
        read_key_file(tmp_path / "key")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError):
        read_key_file(tmp_path / "directory")
    with pytest.raises(KeyFileError, match="is not a file"):
        read_key_file(tmp_path / "pipe")


def test_what_is_no_key_is_refused_without_repeating_it(tmp_path: Path, alice: SecretKey) -> None:
    nsec = encode_nsec(alice)
    for content in (b"", b"\xff\xfe", nsec[:-1].encode(), f"{nsec}\n{nsec}".encode(), b"x" * 1_000_000):
        with pytest.raises(KeyFileError, match="does not hold one nsec") as caught:
            read_key_file(put(tmp_path / "key", content))
        assert nsec[:-1] not in str(caught.value)


def test_a_public_key_is_no_key_to_sign_with(tmp_path: Path, alice: SecretKey) -> None:
    with pytest.raises(KeyFileError, match="public key"):
        read_key_file(put(tmp_path / "key", encode_npub(alice.public_key).encode()))


def test_other_forms_there_and_back(tmp_path: Path, alice: SecretKey) -> None:
    forms = (EncryptedKey(nip49.encrypt(alice, "x", log_n=4)), BunkerUrl(alice.public_key, ("wss://r",), "s"))
    for number, form in enumerate(forms):
        write_key_file(tmp_path / f"{number}", form)
        assert read_key_file(tmp_path / f"{number}") == form


def test_a_key_takes_another_form_in_place(tmp_path: Path, alice: SecretKey) -> None:
    path = tmp_path / "key"
    write_key_file(path, alice)
    encrypted = EncryptedKey(nip49.encrypt(alice, "x", log_n=4))
    replace_key_file(path, encrypted)
    assert read_key_file(path) == encrypted
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_failed_replacement_leaves_what_was(
    tmp_path: Path, alice: SecretKey, bob: SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    write_key_file(tmp_path / "key", alice)
    monkeypatch.setattr(keyfile.os, "fsync", full)
    with pytest.raises(KeyFileError, match="it is as it was"):
        replace_key_file(tmp_path / "key", bob)
    assert read_key_file(tmp_path / "key") == alice
    assert len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from identity import keyfile, parse_credential

path, text, step = sys.argv[1:]
calls = []

def killing(name, real):
    def call(*arguments, **named):
        before = f"{len(calls)}"
        calls.append(name)
        if before == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call

for name in ("open", "fdopen", "fsync", "close"):
    setattr(os, name, killing(name, getattr(os, name)))
for name in ("replace", "unlink"):
    setattr(Path, name, killing(name, getattr(Path, name)))
keyfile.replace_key_file(Path(path), parse_credential(text))
print(len(calls))
"""


def test_killed_at_any_step_one_good_file_is_left(tmp_path: Path, alice: SecretKey) -> None:
    encrypted = EncryptedKey(nip49.encrypt(alice, "x", log_n=4))
    outcomes = []
    for step in range(20):
        path = tmp_path / f"{step}" / "key"
        path.parent.mkdir()
        write_key_file(path, alice)
        command = [sys.executable, "-c", KILLED, str(path), encrypted.text, str(step)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
        outcomes.append(read_key_file(path))
        if ran.returncode == 0:
            assert int(ran.stdout) == step  # every step was tried
            break
        assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert outcomes[0] == alice
    assert outcomes[-1] == encrypted
    assert set(map(type, outcomes)) == {SecretKey, EncryptedKey}
    assert len(outcomes) > 6
