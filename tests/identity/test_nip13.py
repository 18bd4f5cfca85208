import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import Event, MiningError, SecretKey, make_template, nip13, parse_event, sign_event

VECTORS = json.loads((Path(__file__).parent / "vectors" / "nip13.json").read_bytes())
MINED = parse_event(json.dumps(VECTORS["mined"]))


def with_nonce(*tags: tuple[str, ...]) -> Event:
    """The mined event of the specification, 21 zero bits, with other tags; its id is taken on trust here."""
    return msgspec.structs.replace(MINED, tags=tags)


def test_the_difficulty_of_the_vectors() -> None:
    assert nip13.difficulty(VECTORS["id"]) == VECTORS["difficulty"] == 36
    MINED.verify()
    assert nip13.difficulty(MINED.id) == 21
    assert nip13.committed_difficulty(MINED) == 20


@pytest.mark.parametrize(("event_id", "bits"), [("0" * 64, 256), ("f" * 64, 0), ("002f" + "0" * 60, 10)])
def test_difficulty(event_id: str, bits: int) -> None:
    assert nip13.difficulty(event_id) == bits


@given(st.binary(min_size=32, max_size=32))
def test_difficulty_counts_zeroes(raw: bytes) -> None:
    bits = "".join(f"{byte:08b}" for byte in raw)
    assert nip13.difficulty(raw.hex()) == len(bits) - len(bits.lstrip("0"))


@pytest.mark.parametrize(
    ("tags", "bits"),
    [
        ([], 0),
        ([("nonce",)], 0),
        ([("nonce", "1")], 0),
        ([("nonce", "1", "")], 0),
        ([("nonce", "1", "-5")], 0),
        ([("nonce", "1", "٢")], 0),
        ([("nonce", "1", "9" * 5000)], 0),
        ([("nonce", "1", "5")], 5),
        ([("nonce", "1", "21")], 21),
        ([("nonce", "1", "22")], 0),
        ([("nonce", "1", "256")], 0),
        ([("nonce", "1", "5"), ("nonce", "1", "20")], 5),
        ([("t", "x"), ("nonce", "1", "5", "more")], 5),
    ],
)
def test_only_work_that_was_promised_counts(tags: list[tuple[str, ...]], bits: int) -> None:
    assert nip13.committed_difficulty(with_nonce(*tags)) == bits


def test_mining_keeps_the_event_and_replaces_an_old_nonce(alice: SecretKey) -> None:
    template = make_template(
        1, content="hi", tags=[["nonce", "7", "1"], ["t", "x"]], created_at=1_700_000_000
    )
    event = sign_event(nip13.mine(template, alice.public_key, 8), alice)
    event.verify()
    assert nip13.difficulty(event.id) >= 8 == nip13.committed_difficulty(event)
    assert (event.content, event.created_at, event.kind) == ("hi", 1_700_000_000, 1)
    assert event.tags[0] == ("t", "x")
    assert len(event.tags_named("nonce")) == 1


def test_mining_gives_up(alice: SecretKey) -> None:
    template = make_template(1, created_at=1_700_000_000)
    with pytest.raises(MiningError, match="5 tries"):
        nip13.mine(template, alice.public_key, 200, tries_max=5)
