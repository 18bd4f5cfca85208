import json
import unicodedata
from pathlib import Path

import nostr_sdk
import pytest

from identity import InvalidKey, KeyDerivationError, SecretKey, WrongPassword, bech32, nip49

VECTORS = json.loads((Path(__file__).parent / "vectors" / "nip49.json").read_text())
QUICK = 4  # log_n: 16 KiB, no protection


def test_the_official_key_opens() -> None:
    vector = VECTORS["decryption"]
    assert nip49.decrypt(vector["ncryptsec"], vector["password"]).hex() == vector["secret_key"]


def test_equal_passwords_in_other_spellings_are_one(alice: SecretKey) -> None:
    vector = VECTORS["normalisation"]
    assert unicodedata.normalize("NFKC", vector["password"]).encode().hex() == vector["nfkc_utf8"]
    text = nip49.encrypt(alice, vector["password"], log_n=QUICK)
    assert nip49.decrypt(text, vector["nfkc"]) == alice
    assert nip49.decrypt(text, vector["password"]) == alice


@pytest.mark.parametrize("password", ["pass", "ÅΩẛ̣ 🌍", " ", "x" * 1000])
def test_nostr_sdk_opens_what_we_encrypt(alice: SecretKey, password: str) -> None:
    text = nip49.encrypt(alice, password, log_n=QUICK)
    assert nostr_sdk.EncryptedSecretKey.from_bech32(text).decrypt(password).to_hex() == alice.hex()


def test_we_open_what_nostr_sdk_encrypts(alice: SecretKey) -> None:
    text = nostr_sdk.SecretKey.parse(alice.hex()).encrypt("Å").to_bech32()
    assert nip49.decrypt(text, "Å") == alice
    assert nip49.handling_of(text) is nip49.Handling.UNKNOWN


def test_no_two_encryptions_are_alike(alice: SecretKey) -> None:
    first, second = (nip49.encrypt(alice, "x", log_n=QUICK) for _ in range(2))
    assert first != second
    assert alice.hex() not in first


@pytest.mark.parametrize("handling", list(nip49.Handling))
def test_what_is_known_of_the_key_goes_along(alice: SecretKey, handling: nip49.Handling) -> None:
    text = nip49.encrypt(alice, "x", log_n=QUICK, handling=handling)
    assert nip49.handling_of(text) is handling
    assert nip49.decrypt(text, "x") == alice


@pytest.mark.parametrize("password", ["", "X", "x ", "\udc80"])
def test_another_password_does_not_open(alice: SecretKey, password: str) -> None:
    text = nip49.encrypt(alice, "x", log_n=QUICK)
    with pytest.raises(WrongPassword) as caught:
        nip49.decrypt(text, password)
    assert text not in str(caught.value)


@pytest.mark.parametrize("at", [2, 17, 18, 41, 42, 43, 90])
def test_an_altered_key_does_not_open(alice: SecretKey, at: int) -> None:
    """Salt, nonce, handling, ciphertext: all of it is authenticated."""
    raw = bytearray(bech32.decode(nip49.encrypt(alice, "x", log_n=QUICK))[1])
    raw[at] ^= 1
    with pytest.raises(WrongPassword):
        nip49.decrypt(bech32.encode("ncryptsec", bytes(raw)), "x")


@pytest.mark.parametrize("log_n", [0, 23, 63, 255])
def test_a_cost_beyond_reason_is_refused_before_it_is_paid(alice: SecretKey, log_n: int) -> None:
    raw = bytearray(bech32.decode(nip49.encrypt(alice, "x", log_n=QUICK))[1])
    raw[1] = log_n
    with pytest.raises(KeyDerivationError, match="at most"):
        nip49.decrypt(bech32.encode("ncryptsec", bytes(raw)), "x")


def test_memory_that_is_not_there_is_told(alice: SecretKey, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry:
        def __init__(self, **_: object) -> None:
            raise MemoryError

    monkeypatch.setattr(nip49, "Scrypt", Hungry)
    with pytest.raises(KeyDerivationError, match="128 MiB"):
        nip49.encrypt(alice, "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ncryptsec1",
        "nsec1qqqq",
        VECTORS["decryption"]["ncryptsec"][:-1],
        VECTORS["decryption"]["ncryptsec"] * 2,
        bech32.encode("nsec", bytes(91)),
        bech32.encode("ncryptsec", b"\x02" + bytes(89)),
        bech32.encode("ncryptsec", b"\x02" + bytes(91)),
        bech32.encode("ncryptsec", b"\x01" + bytes(90)),
    ],
)
def test_what_is_no_encrypted_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        nip49.decrypt(text, "x")
    assert text == "ncryptsec1" or not text or text not in str(caught.value)
    with pytest.raises(InvalidKey):
        nip49.handling_of(text)


def test_a_key_that_is_no_scalar_is_refused() -> None:
    """Somebody may encrypt anything: what comes out is checked like any key."""

    class Zero:
        def to_bytes(self) -> bytes:
            return bytes(32)

    with pytest.raises(InvalidKey):
        nip49.decrypt(nip49.encrypt(Zero(), "x", log_n=QUICK), "x")  # type: ignore[arg-type]
