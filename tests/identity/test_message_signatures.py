"""RFC 9421: the subset we accept, the RFC's own example, and a published library that signs for us."""

import hashlib
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import http_message_signatures as published
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from identity import InvalidSignedRequest
from identity.errors import StaleSignature, WrongPayload
from identity.message_signatures import SignedRequest, sign, signature_base, untagged, verify

VECTOR = json.loads((Path(__file__).parent / "vectors" / "rfc9421.json").read_bytes())
SECRET = bytes([5]) * 32
KEY = SigningKey(SECRET)
PUBLIC = KEY.verify_key.encode().hex()
URL = "https://desk.example/v1/jobs?wait=5&q=a%2Fb"
OTHER = "https://desk.onion.example/v1/jobs?wait=5&q=a%2Fb"
BODY = b'{"kind": 5001}'
NOW = 1_700_000_000
SHA256 = f"sha-256=:{b64encode(hashlib.sha256(BODY).digest()).decode()}:"
SHA512 = f"sha-512=:{b64encode(hashlib.sha512(BODY).digest()).decode()}:"
COVERED = '"@method" "@target-uri" "content-digest"'
PARAMETERS = f';created={NOW};nonce="abc";keyid="{PUBLIC}";alg="ed25519"'

Fields = dict[str, str]


def lower(headers: dict[str, str]) -> Fields:
    return {name.lower(): value for name, value in headers.items()}


def made(**given: Any) -> Fields:
    """The headers that our own client sends."""
    return lower(
        sign(
            SECRET, **{"url": URL, "method": "POST", "body": BODY, "created_at": NOW, "nonce": "abc"} | given
        )
    )


def by_hand(
    covered: str = COVERED,
    parameters: str = PARAMETERS,
    fields: Fields | None = None,
    url: str = URL,
    method: str = "POST",
) -> Fields:
    """The headers of somebody who signs what we might not accept."""
    fields = {"content-digest": SHA256} | (fields or {})
    text = f"({covered}){parameters}"
    names = covered.replace('"', "").split()
    base = signature_base(names, text, fields, url=url, method=method)
    return {
        **fields,
        "signature-input": f"sig={text}",
        "signature": f"sig=:{b64encode(KEY.sign(base).signature).decode()}:",
    }


def check(fields: Fields, **given: Any) -> SignedRequest:
    return verify(fields, **{"urls": (URL, OTHER), "method": "POST", "body": BODY, "now": NOW} | given)


def test_the_example_of_the_rfc() -> None:
    text = VECTOR["signature_input"].removeprefix("sig-b26=")
    names = text[1 : text.index(")")].replace('"', "").split()
    base = signature_base(names, text, VECTOR["fields"], url=VECTOR["url"], method=VECTOR["method"])
    assert base.decode() == VECTOR["base"]
    signature = SigningKey(bytes.fromhex(VECTOR["secret_key"])).sign(base).signature
    assert VECTOR["signature"] == f"sig-b26=:{b64encode(signature).decode()}:"


def test_the_example_leaves_open_what_was_asked_so_it_is_refused() -> None:
    """It covers neither the query nor the body, and has no nonce."""
    fields = VECTOR["fields"] | {
        "signature-input": VECTOR["signature_input"],
        "signature": VECTOR["signature"],
    }
    asked = {"urls": (VECTOR["url"],), "method": "POST", "body": VECTOR["body"].encode(), "now": 1618884473}
    with pytest.raises(InvalidSignedRequest, match="`keyid` must be"):
        check(fields, **asked)


def test_the_digest_of_the_rfc_is_of_its_body() -> None:
    headers = {"content-digest": VECTOR["fields"]["content-digest"]}
    check(by_hand(fields=headers), body=VECTOR["body"].encode())


def test_what_is_signed_is_verified() -> None:
    assert check(made()) == SignedRequest(PUBLIC, "abc", NOW)
    assert check(made(body=b"", method="GET"), body=b"", method="GET").public_key == PUBLIC


def test_a_request_may_have_come_to_any_of_our_addresses() -> None:
    check(made(url=OTHER))


@dataclass
class Message:
    """A request as the published library wants it."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class Keys(published.HTTPSignatureKeyResolver):
    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(SECRET)

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))


@pytest.mark.parametrize("is_alg_told", [True, False])
@pytest.mark.parametrize(
    "covered",
    [
        ("@method", "@authority", "@target-uri"),  # its default
        ("@method", "@target-uri"),
        ("@method", "@scheme", "@authority", "@path", "@query"),
        ("@request-target", "@method", "@target-uri", "content-type", "x-more"),
    ],
)
def test_a_published_library_signs_for_us(covered: tuple[str, ...], is_alg_told: bool) -> None:
    message = Message("POST", URL, {"Content-Type": "application/json", "X-More": "a, b"})
    signer = published.HTTPMessageSigner(
        signature_algorithm=published.algorithms.ED25519, key_resolver=Keys()
    )
    signer.sign(
        message, key_id=PUBLIC, nonce="a nonce", created=datetime.fromtimestamp(NOW, UTC), covered_component_ids=covered,
        body=BODY, tag="app", expires=datetime.fromtimestamp(NOW + 9, UTC), include_alg=is_alg_told,
    )  # fmt: skip
    assert check(lower(message.headers)) == SignedRequest(PUBLIC, "a nonce", NOW)
    with pytest.raises(StaleSignature, match="expired"):
        check(lower(message.headers), now=NOW + 9)


def test_a_published_library_verifies_ours() -> None:
    now = int(datetime.now(UTC).timestamp())
    headers = sign(SECRET, url=URL, method="POST", body=BODY, created_at=now, nonce="abc")
    verifier = published.HTTPMessageVerifier(
        signature_algorithm=published.algorithms.ED25519, key_resolver=Keys()
    )
    (told,) = verifier.verify(Message("POST", URL, headers))
    assert {'"@method"', '"@target-uri"', '"content-digest"'} <= set(told.covered_components)


@pytest.mark.parametrize("age", [-60, 0, 60])
def test_the_window(age: int) -> None:
    check(made(created_at=NOW - age))


@pytest.mark.parametrize(("age", "said"), [(61, "signed 61 s ago"), (-61, "61 s in the future")])
def test_outside_of_the_window(age: int, said: str) -> None:
    with pytest.raises(StaleSignature, match=said):
        check(made(created_at=NOW - age))


@pytest.mark.parametrize(
    "url",
    [
        "http://desk.example/v1/jobs?wait=5&q=a%2Fb", "https://desk.example.evil/v1/jobs?wait=5&q=a%2Fb",
        "https://desk.example/v1/jobs/?wait=5&q=a%2Fb", "https://desk.example/v1/jobs", "https://desk.example/v1/jobs?wait=6",
        "https://desk.example/v1/jobs?wait=5&q=a/b", "https://desk.example/v1/jobs?wait=5&q=a%2fb",
    ],
)  # fmt: skip
def test_another_url(url: str) -> None:
    with pytest.raises(InvalidSignedRequest) as told:
        check(made(url=url))
    assert f"sign POST {URL} or {OTHER}" in str(told.value)


def test_another_method() -> None:
    for method in ("GET", "post", "PUT"):
        with pytest.raises(InvalidSignedRequest, match="sign POST"):
            check(made(method=method))


def test_another_key() -> None:
    with pytest.raises(InvalidSignedRequest, match="not of this request by this key"):
        check(
            by_hand(
                parameters=PARAMETERS.replace(PUBLIC, SigningKey(bytes([6]) * 32).verify_key.encode().hex())
            )
        )


@pytest.mark.parametrize("key", ["00" * 32, "01" + "00" * 31, "ff" * 32])
def test_keys_that_anybody_can_sign_with(key: str) -> None:
    with pytest.raises(InvalidSignedRequest, match="not of this request by this key"):
        check(by_hand(parameters=PARAMETERS.replace(PUBLIC, key)) | {"signature": f"sig=:{'A' * 86}==:"})


def test_a_changed_parameter_or_field() -> None:
    fields = by_hand('"@method" "@target-uri" "content-digest" "x-more"', fields={"x-more": "a"})
    check(fields)
    for name, old, new in (
        ("signature-input", 'nonce="abc"', 'nonce="abd"'), ("signature-input", f"={NOW};", f"={NOW + 1};"),
        ("signature-input", '"@method" "@target-uri"', '"@target-uri" "@method"'), ("x-more", "a", "b"),
        ("signature-input", ';alg="ed25519"', ""),
    ):  # fmt: skip
        assert old in fields[name]
        with pytest.raises(InvalidSignedRequest, match="not of this request by this key"):
            check(fields | {name: fields[name].replace(old, new)})


@pytest.mark.parametrize(
    ("covered", "said"),
    [
        ("", '"@method"'), ('"@target-uri" "content-digest"', '"@method"'), ('"@method" "content-digest"', '"@target-uri"'),
        ('"@method" "@path" "@query" "content-digest"', '"@target-uri"'), ('"@method" "@authority" "@path" "content-digest"', '"@target-uri"'),
        ('"@method" "@scheme" "@request-target" "content-digest"', '"@target-uri"'),
    ],
)  # fmt: skip
def test_what_must_be_covered(covered: str, said: str) -> None:
    with pytest.raises(InvalidSignedRequest, match=f"does not cover {said}"):
        check(by_hand(covered))


def test_authority_path_and_query_stand_for_the_url() -> None:
    check(by_hand('"@method" "@authority" "@path" "@query" "content-digest"'))


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://Desk.Example:443/", "desk.example"), ("https://desk.example:8443/", "desk.example:8443"),
        ("http://127.0.0.1:80/", "127.0.0.1"), ("http://127.0.0.1:443/", "127.0.0.1:443"),
    ],
)  # fmt: skip
def test_the_authority_of_a_url(url: str, authority: str) -> None:
    base = signature_base(["@authority", "@path", "@query"], "()", {}, url=url, method="GET").decode()
    assert base.splitlines()[:3] == [f'"@authority": {authority}', '"@path": /', '"@query": ?']


@pytest.mark.parametrize(
    ("covered", "fields", "said"),
    [
        ('"x-none"', {}, "which this request does not have"), ('"@status"', {}, "which this request does not have"),
        ('"x-odd"', {"x-odd": "é"}, "not one line of ASCII"), ('"x-odd"', {"x-odd": 'a\n"x": b'}, "not one line of ASCII"),
    ],
)  # fmt: skip
def test_components_that_the_request_does_not_have(covered: str, fields: Fields, said: str) -> None:
    sent = by_hand(fields={}) | fields
    sent["signature-input"] = sent["signature-input"].replace(COVERED, f"{COVERED} {covered}")
    with pytest.raises(InvalidSignedRequest, match=said):
        check(sent)


@pytest.mark.parametrize(
    ("digest", "body"),
    [
        (SHA256, BODY + b" "), (SHA256, b""), (SHA512, BODY.upper()), (f"{SHA256}, {SHA512}", BODY + b"\n"),
        (f"{SHA256},sha-512=:AAAA:", BODY), (f"sha-256=:AAAA:, {SHA256}", BODY), ("md5=:AAAA:", BODY), ("", BODY), (",", BODY),
        (SHA256.replace(":", ""), BODY), (f"{SHA256},", BODY), (f"{SHA256} {SHA512}", BODY), (f"{SHA256};a=1", BODY),
        ("sha-256=" + hashlib.sha256(BODY).hexdigest(), BODY),
    ],
)  # fmt: skip
def test_another_body(digest: str, body: bytes) -> None:
    with pytest.raises(WrongPayload, match="Content-Digest"):
        check(by_hand(fields={"content-digest": digest}), body=body)


@pytest.mark.parametrize(
    "digest", [SHA512, f"{SHA256}, {SHA512}", f"{SHA512} ,\t{SHA256}", f"unixsum=:AAAA:, {SHA256}"]
)
def test_digests_in_their_forms(digest: str) -> None:
    check(by_hand(fields={"content-digest": digest}))


def test_a_body_that_was_not_signed() -> None:
    with pytest.raises(WrongPayload, match='does not cover "content-digest"'):
        check(made(body=b""))
    with pytest.raises(WrongPayload, match='does not cover "content-digest"'):
        check(made(body=b"") | {"content-digest": SHA256})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (';nonce="abc"', "", "`nonce` must"), (';nonce="abc"', ';nonce=""', "`nonce` must"), ('"abc"', "5", "`nonce` must"),
        ('"abc"', f'"{"n" * 129}"', "`nonce` must"), (f";created={NOW}", "", "`created`"), (f"={NOW}", f'="{NOW}"', "`created`"),
        (f"={NOW}", "=0", "ago"), (PUBLIC, PUBLIC[:-1], "`keyid` must"), (PUBLIC, PUBLIC.upper(), "`keyid` must"),
        (PUBLIC, "", "`keyid` must"), (f'"{PUBLIC}"', "5", "`keyid` must"), ("ed25519", "hmac-sha256", "`alg` is another"),
        ('"ed25519"', "1", "`alg` is another"), ('alg="ed25519"', f"expires={NOW}", "expired"),
        ('alg="ed25519"', f'expires="{NOW + 9}"', "`expires`"), ('alg="ed25519"', 'nonce="abc"', "twice"),
    ],
)  # fmt: skip
def test_parameters(old: str, new: str, said: str) -> None:
    with pytest.raises(InvalidSignedRequest, match=said):
        check(by_hand(parameters=PARAMETERS.replace(old, new)))


@pytest.mark.parametrize("more", ['tag="any thing: , ; ="', 'app-own="1"', f"expires={NOW + 1}"])
def test_parameters_that_do_not_hinder(more: str) -> None:
    check(by_hand(parameters=f"{PARAMETERS};{more}"))


GOOD = by_hand()


@pytest.mark.parametrize(
    "value",
    [
        "", "sig", "sig=", "sig=()", f"({COVERED}){PARAMETERS}", GOOD["signature-input"] + ", b=()",
        GOOD["signature-input"] + ", " + GOOD["signature-input"], " " + GOOD["signature-input"], GOOD["signature-input"] + "\n",
        GOOD["signature-input"].replace('" "', '"  "'), GOOD["signature-input"].replace(";nonce", "; nonce"),
        GOOD["signature-input"].replace('"@method"', "@method"), GOOD["signature-input"].replace('"@method"', '"@method";req'),
        GOOD["signature-input"].replace('"@method"', '"@query-param";name="q"'), GOOD["signature-input"].replace("abc", 'a\\"c'),
        GOOD["signature-input"].replace("abc", "é"), GOOD["signature-input"].replace("abc", "\ud800"), "Sig=()" + PARAMETERS,
        GOOD["signature-input"].replace("=1", "=-1", 1), GOOD["signature-input"].replace("=1", "=1.", 1),
        GOOD["signature-input"] + ";a" * 5000, 'sig=("' + "a" * 20_000, "sig=(" + '"a" ' * 5000,
        GOOD["signature-input"] + ';tag="' + "a" * 5000 + '"', GOOD["signature-input"].replace("1", "１"),
    ],
)  # fmt: skip
def test_what_is_no_signature_input(value: str) -> None:
    with pytest.raises(InvalidSignedRequest):
        check(GOOD | {"signature-input": value})


def test_a_component_that_is_there_twice() -> None:
    with pytest.raises(InvalidSignedRequest, match="twice"):
        check(by_hand(f'{COVERED} "@method"'))


@pytest.mark.parametrize(
    "value",
    [
        "", "sig", "sig=", "sig=::", "sig=:AAAA:", GOOD["signature"].replace("sig", "b"), GOOD["signature"] + ";a", GOOD["signature"] * 2,
        GOOD["signature"] + ", " + GOOD["signature"], GOOD["signature"].replace("==", ""), f"sig=:{'A' * 86}==:", f"sig=:{'_' * 86}==:",
        b64decode(GOOD["signature"][5:-1]).hex(), "\ud800", GOOD["signature"] + "\n",
    ],
)  # fmt: skip
def test_what_is_no_signature(value: str) -> None:
    with pytest.raises(InvalidSignedRequest):
        check(GOOD | {"signature": value})


def test_either_header_alone() -> None:
    for name in ("signature", "signature-input"):
        with pytest.raises(InvalidSignedRequest):
            check({other: value for other, value in GOOD.items() if other != name})


@given(
    name=st.sampled_from(["signature", "signature-input", "content-digest"]),
    value=st.text(max_size=200) | st.text('("@method)=:;,a1 ', max_size=60),
)
def test_any_text(name: str, value: str) -> None:
    with pytest.raises(InvalidSignedRequest):
        check(GOOD | {name: value})


@given(
    at=st.integers(0, len(GOOD["signature-input"]) - 1),
    char=st.characters(min_codepoint=32, max_codepoint=126),
)
def test_any_other_character(at: int, char: str) -> None:
    value = GOOD["signature-input"]
    if value[at] != char:
        with pytest.raises(InvalidSignedRequest):
            check(GOOD | {"signature-input": value[:at] + char + value[at + 1 :]})


# --- signatures for something else ------------------------------------------------------------------------------------

#: As Web Bot Auth has them: components with parameters, a quoted bracket, and keys in another spelling.
BOT_INPUT = (
    'sig2=("@authority" "signature-agent";key="a(b)");created=1735689600;keyid="poqkLGiymh_W0uP6PZFw";alg="ed25519"'
    ';expires=1735693200;nonce="gubxywVx7hzb/+==";tag="web-bot-auth"'
)
BOT = {"signature-input": BOT_INPUT, "signature": "sig2=:uz2SAv+VIemw+Oo890bh:"}


def both(own: Fields, *, own_first: bool) -> Fields:
    pairs = {name: (own[name], BOT[name]) if own_first else (BOT[name], own[name]) for name in BOT}
    return own | {name: ", ".join(pair) for name, pair in pairs.items()}


def test_a_signature_with_a_tag_is_left_out() -> None:
    assert untagged({"host": "desk.example"} | BOT) == {"host": "desk.example"}


@pytest.mark.parametrize("own_first", [True, False])
def test_and_ours_beside_it_counts(own_first: bool) -> None:
    fields = untagged(both(made(), own_first=own_first))
    assert fields == made()
    assert verify(fields, urls=[URL], method="POST", body=BODY, now=NOW).public_key == PUBLIC


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        'sig=("@method"',
        'sig=("@method");nonce=";tag=',
        f"{BOT_INPUT}, x",
        f"{BOT_INPUT}, {BOT_INPUT}",
    ],
)
def test_what_cannot_be_read_stays_for_the_door_to_refuse(value: str) -> None:
    fields = {"signature-input": value, "signature": BOT["signature"]}
    assert untagged(fields) == fields


def test_a_tag_inside_of_another_parameter_is_none() -> None:
    fields = by_hand(parameters=f';created={NOW};nonce=";tag=x";keyid="{PUBLIC}"')
    assert untagged(fields) == fields
    assert verify(fields, urls=[URL], method="POST", body=BODY, now=NOW).nonce == ";tag=x"
