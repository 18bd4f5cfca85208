import json
from pathlib import Path
from typing import Any

import msgspec
import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import (
    DecryptionError,
    EncryptionError,
    Event,
    EventTemplate,
    InvalidEvent,
    InvalidKey,
    LocalSigner,
    SecretKey,
    is_expired,
    make_rumor,
    make_template,
    nip19,
    nip44,
    nip59,
    parse_event,
    sign_event,
)

VECTORS_DIR = Path(__file__).parent / "vectors"
NIP59 = json.loads((VECTORS_DIR / "nip59.json").read_bytes())
NIP17 = json.loads((VECTORS_DIR / "nip17.json").read_bytes())
NOW = 1_700_000_000
ALICE, BOB, EVE = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
RUMOR = make_template(14, content="hi", tags=[["p", BOB.public_key]], created_at=NOW)


def wrapped(inner: str, *, recipient: str = BOB.public_key, kind: int = 1059) -> Event:
    """A gift wrap around anything at all."""
    content = nip44.encrypt(inner, nip44.conversation_key(EVE, recipient))
    return sign_event(make_template(kind, content=content, tags=[["p", recipient]], created_at=NOW), EVE)


def sealed(inner: str, author: SecretKey = ALICE, **changes: Any) -> Event:
    """A seal around anything at all."""
    content = nip44.encrypt(inner, nip44.conversation_key(author, BOB.public_key))
    return sign_event(make_template(**{"kind": 13, "content": content, "created_at": NOW} | changes), author)


def rumor_json(template: EventTemplate = RUMOR, author: SecretKey = ALICE, **changes: Any) -> str:
    return json.dumps(json.loads(make_rumor(template, author.public_key).to_json()) | changes)


def opened_seal(wrap: Event, recipient: SecretKey = BOB) -> Event:
    return parse_event(nip44.decrypt(wrap.content, nip44.conversation_key(recipient, wrap.pubkey)))


# --- official vectors ----------------------------------------------------------------------------------------------


async def test_the_nip59_vector() -> None:
    wrap = parse_event(json.dumps(NIP59["gift_wrap"]))
    wrap.verify()
    recipient, author = (
        SecretKey.from_hex(NIP59[name]) for name in ("recipient_secret_key", "author_secret_key")
    )
    assert wrap.pubkey == SecretKey.from_hex(NIP59["wrapper_secret_key"]).public_key
    assert opened_seal(wrap, recipient).content == NIP59["seal"]["content"]
    rumor = await nip59.unwrap(LocalSigner(recipient), wrap)
    assert json.loads(rumor.to_json()) == NIP59["rumor"]
    assert rumor.pubkey == author.public_key


@pytest.mark.parametrize(
    ("wrap_name", "reader"), [("wrap_to_receiver", "receiver"), ("wrap_to_sender", "sender")]
)
async def test_the_nip17_vectors(wrap_name: str, reader: str) -> None:
    wrap = parse_event(json.dumps(NIP17[wrap_name]))
    wrap.verify()
    rumor = await nip59.unwrap(LocalSigner(nip19.parse_secret_key(NIP17[reader])), wrap)
    assert (rumor.kind, rumor.content) == (14, NIP17["content"])
    assert rumor.pubkey == nip19.parse_secret_key(NIP17["sender"]).public_key


async def test_both_nip17_wraps_hold_the_same_rumor() -> None:
    rumors = [
        await nip59.unwrap(
            LocalSigner(nip19.parse_secret_key(NIP17[reader])), parse_event(json.dumps(NIP17[name]))
        )
        for name, reader in (("wrap_to_receiver", "receiver"), ("wrap_to_sender", "sender"))
    ]
    assert rumors[0] == rumors[1]


# --- wrapping ------------------------------------------------------------------------------------------------------


async def test_a_wrap_opens_to_the_rumor(alices_signer: LocalSigner, bobs_signer: LocalSigner) -> None:
    wrap = await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW)
    wrap.verify()
    rumor = await nip59.unwrap(bobs_signer, wrap)
    assert rumor == make_rumor(RUMOR, ALICE.public_key)


async def test_a_wrap_shows_its_receiver_and_nothing_else(alices_signer: LocalSigner) -> None:
    one, two = [await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW) for _ in range(2)]
    assert one.tags == (("p", BOB.public_key),)
    assert one.kind == 1059
    assert ALICE.public_key not in one.to_json().decode()
    assert one.pubkey != two.pubkey
    assert one.content != two.content


async def test_a_seal_has_no_tags_and_the_authors_signature(alices_signer: LocalSigner) -> None:
    seal = opened_seal(await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW, expires_at=NOW + 60))
    seal.verify()
    assert (seal.kind, seal.tags, seal.pubkey) == (13, (), ALICE.public_key)


async def test_dates_are_drawn_apart_within_two_days(alices_signer: LocalSigner) -> None:
    bounds: list[int] = []
    draws = iter([0, nip59.BACKDATE_SECONDS_MAX])

    def randbelow(bound: int) -> int:
        bounds.append(bound)
        return next(draws)

    wrap = await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW, randbelow=randbelow)
    assert bounds == [172_801, 172_801]
    assert opened_seal(wrap).created_at == NOW
    assert wrap.created_at == NOW - 172_800


async def test_dates_are_random_unless_told_otherwise(alices_signer: LocalSigner) -> None:
    dates = {(await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW)).created_at for _ in range(4)}
    assert len(dates) > 1
    assert all(NOW - 172_800 <= date <= NOW for date in dates)


async def test_an_ephemeral_wrap_is_dated_now(alices_signer: LocalSigner, bobs_signer: LocalSigner) -> None:
    wrap = await nip59.wrap(
        alices_signer, BOB.public_key, RUMOR, now=NOW, ephemeral=True, randbelow=lambda n: n - 1
    )
    assert (wrap.kind, wrap.created_at) == (21059, NOW)
    assert opened_seal(wrap).created_at == NOW - 172_800
    assert (await nip59.unwrap(bobs_signer, wrap)).content == "hi"


async def test_a_wrap_can_expire(alices_signer: LocalSigner) -> None:
    wrap = await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW, expires_at=NOW + 60)
    assert not is_expired(wrap, NOW + 59)
    assert is_expired(wrap, NOW + 60)


@pytest.mark.parametrize(
    "recipient", ["", "ab", "f" * 64, BOB.public_key.upper(), nip19.encode_npub(BOB.public_key)]
)
async def test_a_bad_recipient_is_refused(alices_signer: LocalSigner, recipient: str) -> None:
    with pytest.raises(InvalidKey):
        await nip59.wrap(alices_signer, recipient, RUMOR, now=NOW)


async def test_a_rumor_that_is_no_utf8_is_refused(alices_signer: LocalSigner) -> None:
    with pytest.raises(InvalidEvent):
        await nip59.wrap(
            alices_signer, BOB.public_key, make_template(14, content="\ud800", created_at=NOW), now=NOW
        )


async def test_what_no_receiver_would_open_is_refused(
    alices_signer: LocalSigner, bobs_signer: LocalSigner
) -> None:
    large = make_template(14, content="x" * 400_000, created_at=NOW)
    wrap = await nip59.wrap(alices_signer, BOB.public_key, large, now=NOW)
    assert (await nip59.unwrap(bobs_signer, wrap)).content == large.content
    with pytest.raises(EncryptionError, match="send less"):
        await nip59.wrap(
            alices_signer, BOB.public_key, make_template(14, content="x" * 800_000, created_at=NOW), now=NOW
        )


# --- unwrapping ----------------------------------------------------------------------------------------------------


async def test_nobody_else_can_open_a_wrap(alices_signer: LocalSigner) -> None:
    wrap = await nip59.wrap(alices_signer, BOB.public_key, RUMOR, now=NOW)
    for other in (ALICE, EVE):
        with pytest.raises(DecryptionError):
            await nip59.unwrap(LocalSigner(other), wrap)


async def test_the_helpers_make_what_unwrap_opens(bobs_signer: LocalSigner) -> None:
    rumor = await nip59.unwrap(bobs_signer, wrapped(sealed(rumor_json()).to_json().decode()))
    assert rumor == make_rumor(RUMOR, ALICE.public_key)


@pytest.mark.parametrize("kind", [1, 4, 13, 1058, 21058])
async def test_another_kind_is_no_wrap(bobs_signer: LocalSigner, kind: int) -> None:
    with pytest.raises(DecryptionError, match="not a gift wrap"):
        await nip59.unwrap(bobs_signer, wrapped(sealed(rumor_json()).to_json().decode(), kind=kind))


class NeverAsked(LocalSigner):
    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        raise AssertionError("the signer was asked")


async def test_a_huge_wrap_is_refused_before_the_signer_sees_it() -> None:
    huge = msgspec.structs.replace(wrapped("x"), content="A" * (nip44.PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(DecryptionError, match="longer than"):
        await nip59.unwrap(NeverAsked(BOB), huge)


@pytest.mark.parametrize("kind", [1, 14, 1059])
async def test_what_is_no_seal_is_refused(bobs_signer: LocalSigner, kind: int) -> None:
    with pytest.raises(DecryptionError, match="not a seal"):
        await nip59.unwrap(bobs_signer, wrapped(sealed(rumor_json(), kind=kind).to_json().decode()))


async def test_a_rumor_without_its_seal_is_refused(bobs_signer: LocalSigner) -> None:
    with pytest.raises(DecryptionError, match="not an event"):
        await nip59.unwrap(bobs_signer, wrapped(rumor_json()))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sig": "0" * 128}, "signature"),
        ({"id": "0" * 64}, "id is not the hash"),
        ({"created_at": NOW - 1}, "id is not the hash"),
        ({"pubkey": "f" * 64}, "id is not the hash"),
        ({"tags": [["x"]]}, "id is not the hash"),
        ({"sig": None}, "not an event"),
    ],
)
async def test_an_altered_seal_is_refused(
    bobs_signer: LocalSigner, changes: dict[str, object], match: str
) -> None:
    seal = json.dumps(sealed(rumor_json()).to_dict() | changes)
    with pytest.raises(DecryptionError, match=match):
        await nip59.unwrap(bobs_signer, wrapped(seal))


async def test_nobody_can_speak_as_another(bobs_signer: LocalSigner) -> None:
    seal = sealed(rumor_json(author=ALICE), author=EVE)
    with pytest.raises(DecryptionError, match="another author"):
        await nip59.unwrap(bobs_signer, wrapped(seal.to_json().decode()))


@pytest.mark.parametrize("changes", [{"id": "0" * 64}, {"id": None}, {"sig": "0" * 128}, {"sig": None}])
async def test_a_rumors_claimed_id_and_signature_count_for_nothing(
    bobs_signer: LocalSigner, changes: dict[str, object]
) -> None:
    rumor = await nip59.unwrap(bobs_signer, wrapped(sealed(rumor_json(**changes)).to_json().decode()))
    assert rumor == make_rumor(RUMOR, ALICE.public_key)


async def test_tags_on_a_seal_are_ignored(bobs_signer: LocalSigner) -> None:
    seal = sealed(rumor_json(), tags=[["expiration", "1"], ["p", EVE.public_key]])
    rumor = await nip59.unwrap(bobs_signer, wrapped(seal.to_json().decode()))
    assert rumor == make_rumor(RUMOR, ALICE.public_key)


@pytest.mark.parametrize(
    "inner", ["x", "{}", "null", "[" * 50_000, '{"kind":14}', rumor_json(kind=-1), rumor_json(pubkey="ab")]
)
async def test_a_malformed_inside_is_refused(bobs_signer: LocalSigner, inner: str) -> None:
    for wrap in (wrapped(inner), wrapped(sealed(inner).to_json().decode())):
        with pytest.raises(DecryptionError):
            await nip59.unwrap(bobs_signer, wrap)


async def test_a_wrap_whose_key_is_no_key_is_refused(bobs_signer: LocalSigner) -> None:
    with pytest.raises(DecryptionError):
        await nip59.unwrap(bobs_signer, msgspec.structs.replace(wrapped("x"), pubkey="f" * 64))


@given(st.text(max_size=300) | st.binary(max_size=200).map(bytes.hex))
async def test_unwrap_raises_nothing_but_decryption_error(content: str) -> None:
    with pytest.raises(DecryptionError):
        await nip59.unwrap(LocalSigner(BOB), msgspec.structs.replace(wrapped("x"), content=content))


# --- nostr-sdk as oracle -------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
async def test_nostr_sdk_opens_ours(content: str) -> None:
    template = make_template(14, content=content, tags=[["p", BOB.public_key]], created_at=NOW)
    for ephemeral in (False, True):
        wrap = await nip59.wrap(LocalSigner(ALICE), BOB.public_key, template, now=NOW, ephemeral=ephemeral)
        theirs = nostr_sdk.Event.from_json(wrap.to_json().decode())
        assert theirs.verify()
        if not ephemeral:  # nostr-sdk 0.45 refuses to open kind 21059
            gift = nostr_sdk.UnwrappedGift.from_gift_wrap(nostr_sdk.Keys.parse(BOB.hex()), theirs)
            assert gift.sender().to_hex() == ALICE.public_key
            assert gift.rumor().content() == content
            assert gift.rumor().id().to_hex() == make_rumor(template, ALICE.public_key).id


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
async def test_we_open_nostr_sdks(content: str) -> None:
    alice = nostr_sdk.Keys.parse(ALICE.hex())
    rumor = nostr_sdk.EventBuilder(nostr_sdk.Kind(14), content).finalize_unsigned(alice.public_key())
    wrap = nostr_sdk.nip59_make_gift_wrap(alice, nostr_sdk.PublicKey.parse(BOB.public_key), rumor)
    event = parse_event(wrap.as_json())
    event.verify()
    opened = await nip59.unwrap(LocalSigner(BOB), event)
    assert (opened.kind, opened.content, opened.pubkey) == (14, content, ALICE.public_key)
