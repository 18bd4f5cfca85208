"""An input 16 times as long costs about 16 times as much, not 256 times: the largest that we read, made to hurt."""

import contextlib
import json
import time
from collections.abc import Callable

import cbor2
import pytest
from rich.text import Text

from dvm.errors import BadRequest
from dvm.nip90 import parse_request
from fuzz.kit import ALICE, as_json, as_verified, signed
from identity import bech32, nip44
from identity.errors import IdentityError
from identity.event import parse_event, parse_rumor
from identity.nip19 import TEXT_CHARS_MAX, decode
from relay_bridge.errors import RelayBridgeError
from relay_bridge.messages import parse_client_message, parse_relay_message
from relay_bridge.transport import MESSAGE_BYTES_MAX
from relay_bridge.urls import normalise_relay_url
from tradepost.cli.output import quoted
from tradepost.logs import redact
from wallet.encoding import from_cbor
from wallet.errors import WalletError
from wallet.invoice import INVOICE_CHARS_MAX, parse_invoice
from wallet.keysets import parse_keys
from wallet.locks import parse_lock
from wallet.mint import ANSWER_BYTES_MAX, _judge
from wallet.payment_request import PAYLOAD_BYTES_MAX, parse_payload
from wallet.token import TOKEN_CHARS_MAX, parse_token
from wallet.witness import signers

EVENT = signed(5001).to_dict()
KEY = nip44.conversation_key(ALICE, ALICE.public_key)
COIN = {"amount": 1, "id": "009a1f293253e41e", "secret": "s", "C": ALICE.compressed_public_key}


def event(**changes: object) -> bytes:
    return as_json(EVENT | changes)


def request(tag: list[str], size: int) -> object:
    return as_verified(parse_rumor(event(tags=[tag] * (size // 10))))


# What is read, from which size on, and an input of a given size.
CASES: dict[str, tuple[Callable[[object], object], int, Callable[[int], object]]] = {
    "event: tags": (parse_event, MESSAGE_BYTES_MAX, lambda n: event(tags=[["a"]] * (n // 6))),
    "event: nested": (parse_event, MESSAGE_BYTES_MAX, lambda n: b'{"x":' + b"[" * n),
    "event: escapes": (parse_event, MESSAGE_BYTES_MAX, lambda n: event(content="\x00" * (n // 6))),
    "event: doubled fields": (parse_event, MESSAGE_BYTES_MAX, lambda n: b"{" + b'"id":"",' * (n // 8) + b'"id":""}'),
    "event: long number": (parse_event, MESSAGE_BYTES_MAX, lambda n: b'{"kind":' + b"1" * n + b"}"),
    "rumor: tags": (parse_rumor, MESSAGE_BYTES_MAX, lambda n: event(tags=[["a"]] * (n // 6))),
    "relay: parts": (parse_relay_message, MESSAGE_BYTES_MAX, lambda n: as_json(["OK"] + [1] * (n // 2))),
    "relay: nested": (parse_relay_message, MESSAGE_BYTES_MAX, lambda n: b'["EVENT","s",' + b'{"a":' * (n // 5)),
    "client: filters": (parse_client_message, 400_000, lambda n: as_json(["REQ", "s"] + [{"#t": ["x"] * (n // 400)}] * 100)),
    "request: inputs": (parse_request, 5000, lambda n: request(["i", "x"], n)),
    "request: params": (parse_request, 5000, lambda n: request(["param", "p", "x"], n)),
    "nip19: ones": (decode, TEXT_CHARS_MAX, lambda n: "npub" + "1" * (n - 10)),
    "nip19: fields": (decode, TEXT_CHARS_MAX, lambda n: bech32.encode("nprofile", b"\x09\x00" * (n * 5 // 16 - 8))),
    "nip44: payload": (lambda text: nip44.decrypt(str(text), KEY), nip44.PAYLOAD_BYTES_MAX, lambda n: "A" * n),
    "url: host": (normalise_relay_url, 100_000, lambda n: "ws://" + "a." * (n // 2)),
    "url: unicode": (normalise_relay_url, 20_000, lambda n: "ws://" + "é" * n),
    "token: V3": (parse_token, TOKEN_CHARS_MAX, lambda n: "cashuA" + "W1tb" * (n // 4 - 2)),
    "token: V4": (parse_token, TOKEN_CHARS_MAX, lambda n: "cashuB" + "gYGB" * (n // 4 - 2)),
    "token: padding": (parse_token, TOKEN_CHARS_MAX, lambda n: "cashuB" + "=" * (n - 8) + "a"),
    "cbor: members": (from_cbor, 200_000, lambda n: cbor2.dumps({str(i): 0 for i in range(n // 7)})),
    "cbor: doubled": (from_cbor, 200_000, lambda n: b"\xbf" + b"\x61a\x00" * (n // 3) + b"\xff"),
    "payload: coins": (parse_payload, PAYLOAD_BYTES_MAX, lambda n: as_json({"mint": "m", "unit": "u", "proofs": [COIN] * (n // 130)})),
    "lock: nested": (parse_lock, 1000, lambda n: "[" * n),
    "lock: tags": (parse_lock, 1000, lambda n: json.dumps(["P2PK", {"nonce": "0" * 32, "data": "", "tags": [["a"]] * (n // 7 - 12)}])),
    "witness": (lambda text: signers("s", str(text), [ALICE.public_key]), 8192, lambda n: json.dumps({"signatures": ["00"] * (n // 6)})),
    "mint: answer": (lambda raw: _judge("m", 200, bytes(raw)), ANSWER_BYTES_MAX, lambda n: b"[" + b"{}," * (n // 3) + b"0]"),  # type: ignore[arg-type]
    "mint: refusal": (lambda raw: _judge("m", 400, bytes(raw)), ANSWER_BYTES_MAX, lambda n: as_json({"detail": "a" * 31 + " a" * (n // 2)})),  # type: ignore[arg-type]
    "mint: keys": (parse_keys, 256, lambda n: {str(i + 1): ALICE.compressed_public_key for i in range(n)}),
    "invoice: digits": (parse_invoice, INVOICE_CHARS_MAX, lambda n: "lnbc1" + "q" * (n - 5)),
    "invoice: ones": (parse_invoice, INVOICE_CHARS_MAX, lambda n: "lnbc" + "1" * (n - 4)),
    "log: quotes": (lambda text: redact(None, "", {"a": text}), 200_000, lambda n: 'secret="\\' * (n // 9)),
    "log: spaces": (lambda text: redact(None, "", {"a": text}), 200_000, lambda n: "secret" + " " * n),
    "log: backslashes": (lambda text: redact(None, "", {"a": text}), 200_000, lambda n: "secret=" + "\\" * n),
    "log: locks": (lambda text: redact(None, "", {"a": text}), 200_000, lambda n: "P2PK'," * (n // 6)),
    "shown: brackets": (lambda text: Text.from_markup(quoted(str(text))), 200_000, lambda n: "[a" * (n // 2)),
    "shown: backslashes": (lambda text: Text.from_markup(quoted(str(text))), 200_000, lambda n: "\\" * n),
}  # fmt: skip


def cpu_seconds(read: Callable[[object], object], source: object) -> float:
    """The least of some tries, on this process' own clock."""
    tries = []
    for _ in range(3):
        started = time.process_time()
        with contextlib.suppress(IdentityError, RelayBridgeError, WalletError, BadRequest, ValueError):
            read(source)
        tries.append(time.process_time() - started)
    return min(tries)


@pytest.mark.parametrize("name", CASES)
def test_time_grows_with_the_size(name: str) -> None:
    read, size, make = CASES[name]
    small, large = (cpu_seconds(read, make(n)) for n in (size // 16, size))
    # A refusal at the first byte costs nothing at any size: what takes no time cannot take too much of it.
    assert large < max(100 * small, 0.002)
