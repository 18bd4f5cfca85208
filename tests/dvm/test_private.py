"""The codec of private jobs: what is inside, what stays outside, and what a hostile inside can do."""

import json

import nostr_sdk
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.errors import BadRequest
from dvm.jobs.requests import Requests, Unreadable
from dvm.nip90 import (
    EVENT_BYTES_MAX,
    Input,
    Offer,
    Status,
    check_size,
    make_feedback,
    make_request,
    make_result,
    parse_feedback,
    parse_request,
)
from dvm.private import Scheme, bytes_in_event, encrypt, hide, reveal, scheme_of
from identity import DecryptionError, Event, LocalSigner, SecretKey, make_template, nip04, nip44, sign_event

AGENT_KEY, CUSTOMER_KEY = SecretKey.generate(), SecretKey.generate()
AGENT, CUSTOMER = LocalSigner(AGENT_KEY), LocalSigner(CUSTOMER_KEY)
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))
LOCK = SecretKey.generate().compressed_public_key


def plain_request(text: str = "a secret question") -> object:
    return make_request(
        5001, [Input(text)], params={"length": ["3"]}, provider=AGENT.public_key, bid_msat=21_000,
        relays=["wss://r.test"], mints=["https://mint.test"], lock=LOCK, expires_at=99, now=1,
    )  # fmt: skip


async def encrypted(
    content: str, *tags: tuple[str, ...], scheme: Scheme = Scheme.NIP44, kind: int = 5001
) -> Event:
    """A request with any text inside."""
    template = make_template(
        kind, content=await encrypt(CUSTOMER, AGENT.public_key, content, scheme), created_at=1,
        tags=[("p", AGENT.public_key), ("encrypted",), *tags],
    )  # fmt: skip
    return sign_event(template, CUSTOMER_KEY)


@SCHEMES
async def test_a_request_says_the_same_in_private(scheme: Scheme) -> None:
    template = plain_request()
    event = sign_event(await hide(CUSTOMER, template, AGENT.public_key, scheme), CUSTOMER_KEY)
    assert scheme_of(event) is scheme
    assert event.tags == (("p", AGENT.public_key), ("expiration", "99"), ("encrypted",))
    request = await Requests(AGENT).read(event)
    plain = parse_request(sign_event(template, CUSTOMER_KEY))
    for name in (
        "inputs",
        "params",
        "output",
        "bid_msat",
        "relays",
        "settle",
        "mints",
        "lock",
        "expires_at",
        "providers",
    ):
        assert getattr(request, name) == getattr(plain, name), name
    assert request.event == event
    assert "secret" not in repr(request)


@SCHEMES
async def test_feedback_shows_its_word_and_hides_the_rest(scheme: Scheme) -> None:
    request = await encrypted("[]", scheme=scheme)
    offer = Offer(
        21_000,
        mints=("https://mint.test",),
        lock=LOCK,
        locktime=9,
        settle=("prepaid",),
        creq="creqA",
        expires_at=8,
    )
    plain = make_feedback(
        request, Status.PAYMENT_REQUIRED, now=2, message="because", content="part", tags=offer.to_tags()
    )
    event = sign_event(await hide(AGENT, plain, CUSTOMER.public_key, scheme), AGENT_KEY)
    assert event.tags == (
        ("status", "payment-required"), ("e", request.id, ""), ("p", CUSTOMER.public_key), ("amount", "21000"),
        ("expiration", "8"), ("encrypted",),
    )  # fmt: skip
    read = parse_feedback(event, await reveal(CUSTOMER, event))
    assert read is not None
    assert (read.status, read.message, read.content, read.offer) == (
        "payment-required",
        "because",
        "part",
        offer,
    )


async def test_feedback_as_ndk_and_nostrdvm_write_it() -> None:
    inside = [["status", "payment_required", "pay"], ["amount", "5000", "lnbc1"], ["content", "a part"]]
    event = make_template(
        7000, content=await encrypt(AGENT, CUSTOMER.public_key, json.dumps(inside), Scheme.NIP04), created_at=1,
        tags=[("e", "aa" * 32), ("p", CUSTOMER.public_key), ("encrypted",)],
    )  # fmt: skip
    signed = sign_event(event, AGENT_KEY)
    read = parse_feedback(signed, await reveal(CUSTOMER, signed))
    assert read is not None
    assert read.offer is not None
    assert (read.status, read.message, read.content) == ("payment-required", "pay", "a part")
    assert (read.offer.price_msat, read.offer.bolt11) == (5000, "lnbc1")


async def test_feedback_as_nip90_alone_has_it() -> None:
    event = make_template(
        7000, content=await encrypt(AGENT, CUSTOMER.public_key, "half of it", Scheme.NIP44), created_at=1,
        tags=[("e", "aa" * 32), ("p", CUSTOMER.public_key), ("status", "partial"), ("encrypted",)],
    )  # fmt: skip
    signed = sign_event(event, AGENT_KEY)
    read = parse_feedback(signed, await reveal(CUSTOMER, signed))
    assert read is not None
    assert (read.status, read.content) == ("partial", "half of it")


@SCHEMES
@pytest.mark.parametrize("text", ["the answer", ""])
async def test_a_result_is_the_result_alone(scheme: Scheme, text: str) -> None:
    request = await encrypted('[["i", "x", "text"]]', ("i", "left outside", "text"), scheme=scheme)
    content = await encrypt(AGENT, CUSTOMER.public_key, text, scheme)
    event = sign_event(make_result(request, content, price_msat=21_000, now=2), AGENT_KEY)
    assert [tag[0] for tag in event.tags] == ["e", "p", "amount", "encrypted", "request"]
    assert (await reveal(CUSTOMER, event)).content == text


async def test_params_inside_and_the_rest_outside_as_nip90_has_it() -> None:
    event = await encrypted(
        '[["i", "inside", "text"], ["param", "a", "1"]]',
        ("i", "outside", "text"), ("param", "a", "2"), ("relays", "wss://r.test"), ("bid", "7"), ("t", "x"),
    )  # fmt: skip
    request = await Requests(AGENT).read(event)
    assert [part.data for part in request.inputs] == ["inside"]
    assert request.params == {"a": ("1",)}
    assert (request.relays, request.bid_msat) == (("wss://r.test",), 7)


async def test_whom_it_is_for_is_said_outside() -> None:
    inside = [["p", "bb" * 32], ["e", "cc" * 32], ["encrypted"], ["i", "x", "text"], []]
    request = await Requests(AGENT).read(await encrypted(json.dumps(inside)))
    assert request.providers == (AGENT.public_key,)
    assert request.private


@pytest.mark.parametrize(
    "inside",
    [
        "text", "{}", "[1]", '["i", "x"]', '[["i", 5]]', "[[null]]", '[["i", ["nested"]]]', "[" * 100_000, '[["i"', "null", "\x00",
    ],
)  # fmt: skip
async def test_an_inside_that_is_no_tags_is_refused(inside: str) -> None:
    with pytest.raises(BadRequest, match="JSON array of tags") as error:
        await Requests(AGENT).read(await encrypted(inside))
    assert not isinstance(error.value, Unreadable)


async def test_what_is_encrypted_twice_is_opened_once() -> None:
    once = await encrypt(CUSTOMER, AGENT.public_key, '[["i", "x", "text"]]', Scheme.NIP44)
    for scheme in Scheme:
        with pytest.raises(BadRequest, match="JSON array of tags"):
            await Requests(AGENT).read(await encrypted(once, scheme=scheme))


async def test_too_much_inside_is_refused() -> None:
    with pytest.raises(BadRequest, match="602 tags"):
        await Requests(AGENT).read(await encrypted(json.dumps([["t", "x"]] * 600)))


@pytest.mark.parametrize(
    "content", ["rubbish", "AAAA?iv=AAAA", "?iv=", "A" * 132, "A" * (nip44.PAYLOAD_BYTES_MAX + 1), "#v3"]
)
async def test_what_cannot_be_opened_is_said_to_be_so(content: str) -> None:
    event = sign_event(
        make_template(5001, content=content, tags=[("encrypted",)], created_at=1), CUSTOMER_KEY
    )
    with pytest.raises(Unreadable, match="cannot be read"):
        await Requests(AGENT).read(event)


async def test_a_ciphertext_taken_from_another_customer_says_nothing() -> None:
    event = await encrypted('[["i", "x", "text"]]')
    copied = sign_event(
        make_template(5001, content=event.content, tags=event.tags, created_at=1), SecretKey.generate()
    )
    with pytest.raises(Unreadable):
        await Requests(AGENT).read(copied)


async def test_nothing_inside_is_a_request_in_clear_that_asks_for_a_private_answer() -> None:
    event = sign_event(
        make_template(5001, tags=[("i", "x", "text"), ("encrypted",)], created_at=1), CUSTOMER_KEY
    )
    assert [part.data for part in (await Requests(AGENT).read(event)).inputs] == ["x"]


async def test_the_customer_reads_its_own_request() -> None:
    event = sign_event(await hide(CUSTOMER, plain_request(), AGENT.public_key, Scheme.NIP44), CUSTOMER_KEY)
    assert (await reveal(CUSTOMER, event, AGENT.public_key)).tag("i") == "a secret question"
    with pytest.raises(DecryptionError):
        await reveal(LocalSigner(SecretKey.generate()), event)


async def test_nostr_sdk_opens_what_we_hide() -> None:
    event = sign_event(await hide(CUSTOMER, plain_request(), AGENT.public_key, Scheme.NIP44), CUSTOMER_KEY)
    secret = nostr_sdk.SecretKey.parse(AGENT_KEY.hex())
    tags = json.loads(
        nostr_sdk.nip44_decrypt(secret, nostr_sdk.PublicKey.parse(CUSTOMER.public_key), event.content)
    )
    assert ["i", "a secret question", "text"] in tags


@given(st.text(), st.sampled_from([None, *Scheme]))
def test_sizes_are_told_exactly(text: str, scheme: Scheme | None) -> None:
    if scheme is Scheme.NIP04:
        content = nip04.encrypt(text, AGENT_KEY, CUSTOMER.public_key)
    elif scheme is Scheme.NIP44 and text:
        content = nip44.encrypt(text, nip44.conversation_key(AGENT_KEY, CUSTOMER.public_key))
    else:
        content = text if scheme is None else ""
    told = bytes_in_event(text, scheme)
    assert told == (len(orjson.dumps(content)) if scheme is None else len(content)) or (not text and told)


@pytest.mark.parametrize("size", [40_960, 40_961, 65_535, 65_536, 100_000])
def test_sizes_of_long_texts(size: int) -> None:
    payload = nip44.encrypt("a" * size, nip44.conversation_key(AGENT_KEY, CUSTOMER.public_key))
    assert bytes_in_event("a" * size, Scheme.NIP44) == len(payload)


@pytest.mark.parametrize("private", [False, True])
async def test_a_request_too_large_is_refused_before_it_is_signed(private: bool) -> None:
    async def template(size: int) -> object:
        plain = plain_request("a" * size)
        return await hide(CUSTOMER, plain, AGENT.public_key, Scheme.NIP44) if private else plain

    fits = 40_000 if private else 63_000
    check_size(await template(fits))
    assert len(sign_event(await template(fits), CUSTOMER_KEY).to_json()) <= EVENT_BYTES_MAX
    with pytest.raises(BadRequest, match="relays take at most"):
        check_size(await template(fits + 1_000))
