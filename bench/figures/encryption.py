"""NIP-44 of 300 bytes both ways with a known conversation, against nostr-sdk."""

import nostr_sdk

from bench.measure import ROUNDS, Figure, line, per_second, side_by_side
from identity import SecretKey, nip44

COUNT = 4000


def measure(rounds: int = ROUNDS, count: int = COUNT) -> Figure:
    """`count` encryptions and decryptions of ours in a round, a quarter of that by the other."""
    key, peer = SecretKey.generate(), SecretKey.generate()
    text = "x" * 300
    conversation = nip44.conversation_key(key, peer.public_key)
    secret, public = nostr_sdk.SecretKey.parse(key.hex()), nostr_sdk.PublicKey.parse(peer.public_key)

    def ours() -> object:
        return nip44.decrypt(nip44.encrypt(text, conversation), conversation)

    def other() -> object:
        payload = nostr_sdk.nip44_encrypt(secret, public, text, nostr_sdk.Nip44Version.V2)
        return nostr_sdk.nip44_decrypt(secret, public, payload)

    pairs = side_by_side(lambda: per_second(ours, count), lambda: per_second(other, count // 4), rounds)
    return Figure(
        "encryption", "NIP-44, against nostr-sdk", (line("300 bytes, encrypted and decrypted", "/s", pairs),)
    )
