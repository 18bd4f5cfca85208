import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.crypto import ORDER
from wallet.errors import InvalidKeyset, InvalidSeed
from wallet.seed import COUNTER_MAX, Seed, _child

NUT13 = json.loads((Path(__file__).parent / "vectors" / "nut13.json").read_text())
NIP06 = json.loads((Path(__file__).parent / "vectors" / "nip06.json").read_text())
WORDS = NUT13["v1"]["mnemonic"]
SEED = Seed.from_words(WORDS)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("counter", range(5))
def test_derivation_vectors(version, counter):
    vector = NUT13[version]
    secret, r = Seed.from_words(vector["mnemonic"]).output_secret(vector["keyset_id"], counter)
    assert (secret, r.hex()) == (vector["secrets"][counter], vector["r"][counter])


def test_v1_paths_of_the_vectors_are_the_ones_derived():
    v1 = NUT13["v1"]
    assert int(v1["keyset_id"], 16) % (2**31 - 1) == v1["keyset_id_int"]
    for counter, path in enumerate(v1["derivation_paths"]):
        node = SEED._root
        assert path.startswith("m/129372'/0'/")
        for step in path.split("/")[3:]:
            node = _child(node, int(step.removesuffix("'")) + 2**31)
        assert _child(node, 0)[0].hex() == v1["secrets"][counter]


def test_counters_and_keysets_never_share_a_secret():
    keysets = ["00" + "ab" * 7, "00" + "cd" * 7, "01" + "ab" * 32, "01" + "cd" * 32]
    made = [SEED.output_secret(keyset, counter) for keyset in keysets for counter in (0, 1, 2, COUNTER_MAX)]
    assert len({text for secret, r in made for text in (secret, r.hex())}) == 2 * len(made)


@pytest.mark.parametrize(
    "keyset_id", ["", "009a1f29", "015ba18a8adcd02e", "02" + "ab" * 32, "I2yN+iRYfkzT", "00" + "AB" * 7]
)
def test_only_whole_keyset_ids_derive(keyset_id):
    with pytest.raises(InvalidKeyset):
        SEED.output_secret(keyset_id, 0)


@pytest.mark.parametrize("counter", [-1, COUNTER_MAX + 1])
def test_counters_have_an_end(counter):
    with pytest.raises(ValueError, match="counter"):
        SEED.output_secret("01" + "ab" * 32, counter)


def test_a_new_seed_reads_back():
    seed = Seed.generate()
    assert len(seed.words.split()) == 12
    again = Seed.from_words("  " + seed.words.upper().replace(" ", "\n ") + "\n")
    assert again.words == seed.words
    assert again.output_secret("01" + "ab" * 32, 7) == seed.output_secret("01" + "ab" * 32, 7)
    assert Seed.generate().words != seed.words


@pytest.mark.parametrize(
    "words",
    [
        "",
        "half",
        WORDS + " half",
        WORDS.replace("half", "humble"),
        WORDS.replace("half", "halv"),
        "humble " * 12,
        "x" * 10_000,
    ],
)
def test_other_phrases_are_refused_and_not_repeated(words):
    with pytest.raises(InvalidSeed) as caught:
        Seed.from_words(words)
    assert "half" not in str(caught.value)


@given(st.text(max_size=200))
def test_phrases_are_read_or_refused(text):
    with pytest.raises(InvalidSeed):
        Seed.from_words(text)


def test_a_seed_does_not_show_itself():
    SEED.output_secret("009a1f293253e41e", 0)
    for shown in (repr(SEED), str(SEED), f"{SEED}"):
        assert shown == "Seed(hidden)"


def test_job_keys_are_stable_and_apart():
    # Changing the derivation would lose every coin locked to an open job: this value is pinned.
    assert (
        SEED.job_key("provider", "ab" * 32, "0").hex()
        == "db5bd43774750aeb7f65d83402c686bb2771e2798c1d9fbcec78b4e7b44c9b51"
    )
    parts = [
        ("provider", "a", "b"),
        ("provider", "ab"),
        ("provider", "a", "", "b"),
        ("providera", "b"),
        ("provider", "b", "a"),
        ("provider",),
        ("customer", "a", "b"),
    ]
    keys = {SEED.job_key(*p).public_key for p in parts}
    assert len(keys) == len(parts)
    assert SEED.job_key("provider", "a", "b") == Seed.from_words(WORDS).job_key("provider", "a", "b")
    assert SEED.job_key("provider", "a", "b") != Seed.generate().job_key("provider", "a", "b")


def test_derived_scalars_are_in_range():
    for counter in range(50):
        for keyset_id in ("009a1f293253e41e", "01" + "ab" * 32):
            _, r = SEED.output_secret(keyset_id, counter)
            assert 0 < int.from_bytes(r) < ORDER


@pytest.mark.parametrize("vector", NIP06["keys"])
def test_identities_are_those_of_nip06(vector: dict[str, str]) -> None:
    seed = Seed.from_words(vector["words"])
    assert seed.nip06_key(0).hex() == vector["secret"]
    assert seed.identity("customer").public_key == vector["public"]


def test_each_agent_has_an_identity_of_its_own() -> None:
    # Changing the derivation would orphan every agent whose key file is lost: this value is pinned.
    assert SEED.identity("summariser").public_key == SEED.nip06_key(13_278_427).public_key
    keys = {SEED.identity(name).public_key for name in ("customer", "summariser", "translator", "a")}
    assert len(keys) == 4
    assert SEED.identity("a") != Seed.generate().identity("a")
    for account in (-1, 2**31):
        with pytest.raises(ValueError, match="account"):
            SEED.nip06_key(account)
