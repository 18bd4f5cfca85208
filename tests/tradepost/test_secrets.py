"""Whose key signs: every place where it may be, in their order, and every form it may have."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from identity import (
    BunkerUrl,
    EncryptedKey,
    InvalidKey,
    KeyFileError,
    LocalSigner,
    Npub,
    SecretKey,
    encode_npub,
    encode_nsec,
    nip49,
    read_key_file,
    write_key_file,
)
from tradepost import Agent
from tradepost.api import agent_keys
from tradepost.errors import ConfigError
from tradepost.secrets import Key, find_key, open_signer
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import Cli

GIVEN, OTHER = SecretKey(bytes([3]) * 32), SecretKey(bytes([4]) * 32)
BUNKER = f"bunker://{OTHER.public_key}?relay=wss://relay.example"


def in_file(folder: Path, key: SecretKey) -> Path:
    write_key_file(folder / "key", key)
    return folder / "key"


@pytest.mark.parametrize("text", [encode_nsec(GIVEN), GIVEN.hex(), f" {encode_nsec(GIVEN)}\n"])
def test_a_bare_key_is_taken_as_it_is(home: Path, text: str) -> None:
    assert find_key(Settings.load(), "customer", text) == Key("customer", GIVEN, "--sec")


def test_an_encrypted_one_is_unlocked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_PASSWORD", "pw")
    assert find_key(Settings.load(), "customer", nip49.encrypt(GIVEN, "pw", log_n=4)).value == GIVEN


def test_a_remote_one_and_a_public_one_are_passed_on(home: Path) -> None:
    assert find_key(Settings.load(), "customer", BUNKER).value == BunkerUrl(
        OTHER.public_key, ("wss://relay.example",)
    )
    assert find_key(Settings.load(), "customer", encode_npub(OTHER.public_key)).value == Npub(
        OTHER.public_key
    )


def test_a_file_is_read_if_it_is_nobody_elses(home: Path, tmp_path: Path) -> None:
    path = in_file(tmp_path, GIVEN)
    assert find_key(Settings.load(), "customer", f"@{path}").value == GIVEN
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        find_key(Settings.load(), "customer", f"@{path}")


def test_a_key_can_be_typed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradepost.secrets.ask_hidden", lambda *_, **__: encode_nsec(GIVEN))
    assert find_key(Settings.load(), "customer", "-").value == GIVEN


@pytest.mark.parametrize("variable", ["NOSTR_SECRET_KEY", "NOSTR_NSEC", "NSEC"])
def test_the_names_that_people_use_are_read(
    home: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, encode_nsec(GIVEN))
    for name in ("customer", "shop"):
        assert find_key(Settings.load(), name) == Key(name, GIVEN, variable)
    assert not home.exists()


def test_two_names_for_one_key_are_fine_and_for_two_are_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSEC", GIVEN.hex())
    monkeypatch.setenv("NOSTR_SECRET_KEY", GIVEN.hex())
    monkeypatch.setenv("NOSTR_NSEC", "")
    assert find_key(Settings.load(), "customer").value == GIVEN
    monkeypatch.setenv("NSEC", OTHER.hex())
    with pytest.raises(ConfigError, match="NOSTR_SECRET_KEY and NSEC hold different keys"):
        find_key(Settings.load(), "customer")
    assert find_key(Settings.load(), "customer", OTHER.hex()).value == OTHER


def test_what_is_no_key_is_told_with_its_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidKey, match=r"^--sec: not a key") as caught:
        find_key(Settings.load(), "customer", "hunter2")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("NSEC", "hunter2")
    with pytest.raises(InvalidKey, match=r"^NSEC: not a key"):
        find_key(Settings.load(), "customer")


def test_the_posts_own_key_is_drawn_at_first_use(home: Path) -> None:
    first = find_key(Settings.load(), "shop")
    assert first.source == str(home / "keys" / "shop.nsec")
    assert find_key(Settings.load(), "shop") == first
    assert read_key_file(first.source) == first.value


def test_what_is_said_of_the_post_wins_over_what_is_said_of_the_shell(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOSTR_SECRET_KEY", GIVEN.hex())
    (tmp_path / "tradepost.yaml").write_text(f"key: {BUNKER}\n")
    settings = Settings.load(tmp_path)
    assert isinstance(find_key(settings, "shop").value, BunkerUrl)
    assert find_key(settings, "customer").value == GIVEN  # the setting is the agent's
    assert find_key(settings, "shop", OTHER.hex()).value == OTHER
    monkeypatch.setenv("TRADEPOST_KEY", OTHER.hex())
    assert find_key(Settings.load(tmp_path), "shop") == Key("shop", OTHER, "TRADEPOST_KEY")


def test_a_bare_key_in_the_manifest_is_refused(home: Path, tmp_path: Path) -> None:
    """People commit it."""
    (tmp_path / "tradepost.yaml").write_text(f"key: {encode_nsec(GIVEN)}\n")
    settings = Settings.load(tmp_path)
    assert encode_nsec(GIVEN)[5:] not in repr(settings)
    with pytest.raises(ConfigError, match="does not belong into a file"):
        find_key(settings, "shop")


def test_agents_do_not_share_a_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = [Agent("One"), Agent("Two")]
    assert len({key.source for key in agent_keys(agents, Settings.load())}) == 2
    with pytest.raises(ConfigError, match="one key for 2 agents"):
        agent_keys(agents, Settings.load(), GIVEN.hex())
    monkeypatch.setenv("NSEC", GIVEN.hex())
    with pytest.raises(ConfigError, match="NSEC: one key for 2 agents"):
        agent_keys(agents, Settings.load())


async def test_a_signer_has_the_key_that_was_found(home: Path) -> None:
    async with open_signer(Settings.load(), Key("shop", GIVEN, "x")) as signer:
        assert isinstance(signer, LocalSigner)
        assert signer.public_key == GIVEN.public_key
    with pytest.raises(ConfigError, match="is a public key, and this needs the secret one"):
        async with open_signer(Settings.load(), Key("shop", Npub(GIVEN.public_key), "--sec")):
            pass


# As commands


def test_an_npub_prints_what_would_be_published(
    home: Path, tmp_path: Path, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:1")  # nobody is there, and nobody is needed
    npub = encode_npub(GIVEN.public_key)
    ran = cli("ask", OTHER.public_key, "a text", "--kind", 5001, "--max-sat", 5, "--sec", npub)
    assert ran.code == 0, ran.err
    (request,) = ran.lines
    assert (request["kind"], request["pubkey"]) == (5001, GIVEN.public_key)
    assert "sig" not in request
    tags = {tag[0] for tag in request["tags"]}  # type: ignore[index, attr-defined]
    assert {"i", "bid", "p"} <= tags
    assert "lock" not in tags  # nobody here could take coins back that are locked to it
    assert cli("jobs", "--json").lines == []

    cli("init", tmp_path / "shop")
    ran = cli("up", tmp_path / "shop", "--sec", npub)
    assert ran.code == 0, ran.err
    assert [event["kind"] for event in ran.lines] == [31990, 11998, 0, 10002, 10050]
    assert "nothing was published" in ran.err.replace("\n", " ")
    assert not (tmp_path / "shop" / ".tradepost").exists()

    ran = cli("settle", "--sec", npub)
    assert (ran.code, ran.out) == (1, "")
    assert "needs the secret one" in ran.err.replace("\n", " ")


@pytest.mark.parametrize(
    ("sec", "is_told"),
    [(GIVEN.hex(), True), (encode_nsec(GIVEN), True), ("@key", False), (None, False)],
)
def test_a_secret_among_the_arguments_is_warned_of_once(
    home: Path, cli: "Cli", sec: str | None, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:1")
    write_key_file("key", GIVEN)
    ran = cli("settle", *(("--sec", sec) if sec else ()))
    assert ran.code == 0, ran.err
    assert ran.err.replace("\n", " ").count("shown by ps") == int(is_told)
    assert GIVEN.hex() not in ran.err
    monkeypatch.setenv("NSEC", GIVEN.hex())
    assert ("signing with the key in NSEC" in cli("settle").err) is True


def test_the_key_file_of_an_agent_may_be_encrypted(
    home: Path, tmp_path: Path, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:1")
    path = home / "keys" / "customer.nsec"
    path.parent.mkdir(parents=True)
    write_key_file(path, EncryptedKey(nip49.encrypt(GIVEN, "pw", log_n=4)))
    monkeypatch.setenv("TRADEPOST_PASSWORD", "pw")
    assert cli("settle").code == 0
    monkeypatch.setenv("TRADEPOST_PASSWORD", "no")
    ran = cli("settle", "--json")
    assert ran.code == 1
    assert json.loads(ran.err)["type"] == "WrongPassword"
    assert "TRADEPOST_PASSWORD" in ran.err
    assert os.environ["TRADEPOST_PASSWORD"] == "no"
