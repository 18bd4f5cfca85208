import os
import stat
from pathlib import Path

import pytest

from identity import KeyFileError, SecretKey, encode_nsec, keyfile, read_key_file, write_key_file


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
