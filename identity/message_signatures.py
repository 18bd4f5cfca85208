"""HTTP requests signed with an Ed25519 key (RFC 9421), for programs without a Nostr key. Pure.

What is accepted of RFC 9421 is one signature of a request that covers at least "@method", "@target-uri" (or
"@authority", "@path" and "@query" instead) and, if there is a body, "content-digest" (RFC 9530: sha-256 or sha-512).
Further fields and derived components may be covered, without parameters. Of the signature's own parameters, `created`,
`nonce` and `keyid` (the public key itself, 64 lowercase hex digits) must be there, `alg` if given is "ed25519",
`expires` counts, others do not. Headers are taken as RFC 8941 serialises them and in no other spelling, so what was
signed is what stands there. Signatures with a `tag` are for something else: `untagged` leaves them out.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from identity.errors import InvalidSignedRequest, StaleSignature, WrongPayload
from identity.nip98 import check_age

FIELDS: Final = ("signature-input", "signature")
ALGORITHM: Final = "ed25519"
INPUT_CHARS_MAX: Final = 4096
NONCE_CHARS_MAX: Final = 128
_HASHES: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}

_NAME: Final = r"[a-z*][a-z0-9_.*-]*"
_TEXT: Final = r'"[ !#-\[\]-~]*"'
_PARAMETER: Final = re.compile(rf";({_NAME})=(?:({_TEXT})|([0-9]{{1,15}}))")
_COMPONENT: Final = r'"[@a-z0-9!#$%&\'*+.^_`|~-]+"'
_INPUT: Final = re.compile(
    rf"({_NAME})=(\(((?:{_COMPONENT}(?: {_COMPONENT})*)?)\)((?:{_PARAMETER.pattern})*))"
)
_SIGNATURE: Final = re.compile(rf"({_NAME})=:([A-Za-z0-9+/]{{86}}==):")
_DIGEST: Final = re.compile(rf"({_NAME})=:([A-Za-z0-9+/]*={{0,2}}):")
#: Any members of the two headers, as others write them (RFC 8941): label, value, the parameters of that.
_OTHER_PARAMETER: Final = re.compile(rf';({_NAME})(?:=(?:"(?:[^"\\]|\\.)*"|[^";,\s]+))?')
_OTHER: Final = re.compile(rf'({_NAME})=(?:\((?:[^()"]|"[^"]*")*\)|:[^:]*:)((?:{_OTHER_PARAMETER.pattern})*)')
_COMMA: Final = re.compile(r"[ \t]*(?:,[ \t]*|$)")
_PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignedRequest:
    """Who signed a request, and when. Key and nonce together are what to remember, for the window."""

    public_key: str  # 64 lowercase hex digits
    nonce: str
    created_at: int


@dataclass(frozen=True)
class _Input:
    """One member of Signature-Input; `text` is all of it but the label."""

    label: str
    text: str
    components: tuple[str, ...]
    parameters: Mapping[str, str | int]


def untagged(fields: Mapping[str, str]) -> dict[str, str]:
    """Those headers without the signatures that have a `tag`, and without `FIELDS` if there is no other signature.

    A tag says for what a signature is (RFC 9421 §2.3), and ours have none: "web-bot-auth", say, with which some agents
    and proxies sign all they send. What cannot be read stays as it is, for `verify` to refuse.
    """
    inputs, signatures = (_members(fields.get(name, "")) for name in FIELDS)
    tagged = {
        label
        for label, (_, parameters) in inputs.items()
        if any(name[1] == "tag" for name in _OTHER_PARAMETER.finditer(parameters))
    }
    if not tagged:
        return dict(fields)
    kept = {name: value for name, value in fields.items() if name not in FIELDS}
    for name, members in zip(FIELDS, (inputs, signatures), strict=True):
        if rest := [text for label, (text, _) in members.items() if label not in tagged]:
            kept[name] = ", ".join(rest)
    return kept


def verify(
    fields: Mapping[str, str], *, urls: Sequence[str], method: str, body: bytes, now: int
) -> SignedRequest:
    """Who signed a request.

    `fields` are its headers by lowercase name, those that came more than once joined by ", ". `urls` are the absolute
    URLs under which it can have come, one of which must be signed. Raises `InvalidSignedRequest`, of the class that
    fits.
    """
    given = _parse_input(fields.get("signature-input", ""))
    signature = _parse_signature(fields.get("signature", ""), given.label)
    signed = _check_parameters(given.parameters, now)
    _check_covered(given.components, body)
    if "content-digest" in given.components:
        _check_digest(fields.get("content-digest", ""), body)
    key = VerifyKey(bytes.fromhex(signed.public_key))
    if not any(
        _holds(key, signature_base(given.components, given.text, fields, url=url, method=method), signature)
        for url in urls
    ):
        raise InvalidSignedRequest(
            f"the signature is not of this request by this key; sign {method} {' or '.join(urls)}"
        )
    return signed


def sign(
    secret: bytes, *, url: str, method: str, body: bytes = b"", created_at: int, nonce: str
) -> dict[str, str]:
    """The headers that sign a request: Signature-Input, Signature, and with a body Content-Digest.

    `secret` is the 32-byte seed of an Ed25519 key, `url` absolute with its query, exactly as it is going to be asked
    for, `nonce` a text that is new, of ASCII without quotes.
    """
    key = SigningKey(secret)
    components = ["@method", "@target-uri"]
    headers = {}
    if body:
        components.append("content-digest")
        headers["Content-Digest"] = f"sha-256=:{b64encode(hashlib.sha256(body).digest()).decode()}:"
    covered = " ".join(f'"{name}"' for name in components)
    public_key = key.verify_key.encode().hex()
    text = f'({covered});created={created_at};nonce="{nonce}";keyid="{public_key}";alg="{ALGORITHM}"'
    fields = {name.lower(): value for name, value in headers.items()}
    signature = key.sign(signature_base(components, text, fields, url=url, method=method)).signature
    return {
        **headers,
        "Signature-Input": f"sig={text}",
        "Signature": f"sig=:{b64encode(signature).decode()}:",
    }


def signature_base(
    components: Iterable[str], parameters: str, fields: Mapping[str, str], *, url: str, method: str
) -> bytes:
    """The octets that are signed (RFC 9421 §2.5). `parameters` are those of the signature, as they are written.

    Raises `InvalidSignedRequest` for a component that the request does not have.
    """
    parts = {**fields, **_derived(url, method)}
    lines = []
    for name in components:
        if name not in parts:
            raise InvalidSignedRequest(
                f"the signature covers {name[:64]!r}, which this request does not have"
            )
        lines.append(f'"{name}": {parts[name]}')
    lines.append(f'"@signature-params": {parameters}')
    base = "\n".join(lines)
    if not base.isascii() or base.count("\n") != len(lines) - 1:
        raise InvalidSignedRequest("the signature covers a field that is not one line of ASCII")
    return base.encode()


def _derived(url: str, method: str) -> dict[str, str]:
    """The components that are no fields (RFC 9421 §2.2)."""
    scheme, _, rest = url.partition("://")
    authority, _, target = rest.partition("/")
    path, has_query, query = f"/{target}".partition("?")
    authority = authority.lower().removesuffix({"https": ":443", "http": ":80"}.get(scheme, ":"))
    return {
        "@method": method,
        "@target-uri": url,
        "@authority": authority,
        "@scheme": scheme,
        "@request-target": path + has_query + query,
        "@path": path,
        "@query": f"?{query}",
    }


def _members(value: str) -> dict[str, tuple[str, str]]:
    """The members of a header by their labels: each as a whole, and its parameters; none if it cannot be read."""
    found: dict[str, tuple[str, str]] = {}
    at = 0
    while at < len(value):
        member = _OTHER.match(value, at)
        comma = _COMMA.match(value, member.end()) if member else None
        if member is None or comma is None or member[1] in found:
            return {}
        found[member[1]] = member[0], member[2]
        at = comma.end()
    return found


def _parse_input(value: str) -> _Input:
    found = _INPUT.fullmatch(value) if len(value) <= INPUT_CHARS_MAX else None
    if not found:
        raise InvalidSignedRequest(
            'Signature-Input is not one signature, like sig=("@method" "@target-uri");created=…;nonce="…";keyid="…"'
        )
    components = tuple(found[3].replace('"', "").split())
    given = _PARAMETER.findall(found[4])
    parameters = {name: quoted[1:-1] if quoted else int(number) for name, quoted, number in given}
    if len(set(components)) < len(components) or len(parameters) < len(given):
        raise InvalidSignedRequest("Signature-Input names a component or a parameter twice")
    return _Input(found[1], found[2], components, parameters)


def _parse_signature(value: str, label: str) -> bytes:
    found = _SIGNATURE.fullmatch(value)
    if not found or found[1] != label:
        raise InvalidSignedRequest(
            f"Signature is not the one of Signature-Input: {label}=:base64 of 64 bytes:"
        )
    return b64decode(found[2])


def _check_parameters(parameters: Mapping[str, str | int], now: int) -> SignedRequest:
    created, expires = parameters.get("created"), parameters.get("expires", now + 1)
    key, nonce = parameters.get("keyid"), parameters.get("nonce")
    if not isinstance(created, int) or not isinstance(expires, int):
        raise InvalidSignedRequest("the signature's `created`, and `expires` if it has one, are Unix seconds")
    check_age(created, now)
    if expires <= now:
        raise StaleSignature("the signature has expired by its own `expires`; sign each request anew")
    if parameters.get("alg", ALGORITHM) != ALGORITHM:
        raise InvalidSignedRequest(f'the signature\'s `alg` is another than "{ALGORITHM}"')
    if not isinstance(key, str) or not _PUBLIC_KEY.fullmatch(key):
        raise InvalidSignedRequest(
            "the signature's `keyid` must be the Ed25519 public key, 64 lowercase hex digits"
        )
    if not isinstance(nonce, str) or not 0 < len(nonce) <= NONCE_CHARS_MAX:
        raise InvalidSignedRequest(
            f"the signature's `nonce` must be a text of 1 … {NONCE_CHARS_MAX} characters"
        )
    return SignedRequest(key, nonce, created)


def _check_covered(components: tuple[str, ...], body: bytes) -> None:
    names = set(components)
    if "@method" not in names:
        raise InvalidSignedRequest('the signature does not cover "@method"')
    if "@target-uri" not in names and not names >= {"@authority", "@path", "@query"}:
        raise InvalidSignedRequest('the signature does not cover "@target-uri"')
    if body and "content-digest" not in names:
        raise WrongPayload(
            'the signature does not cover "content-digest", and there is a body; send and sign Content-Digest'
        )


def _check_digest(value: str, body: bytes) -> None:
    found = [_DIGEST.fullmatch(member.strip(" \t")) for member in value.split(",")]
    told = [(match[1], match[2]) for match in found if match and match[1] in _HASHES]
    if None in found or not told:
        raise WrongPayload("Content-Digest must hold sha-256=:base64: or sha-512=:base64: of the body")
    if any(b64encode(_HASHES[name](body).digest()).decode() != digest for name, digest in told):
        raise WrongPayload("Content-Digest is not of the body as it came")


def _holds(key: VerifyKey, base: bytes, signature: bytes) -> bool:
    try:
        key.verify(base, signature)
    except CryptoError:
        return False
    return True
