"""Runs inside the mint's venv: answers questions with nutshell's own library. One JSON list on stdin, one on stdout."""

import asyncio
import json
import sys
from types import SimpleNamespace

from cashu.core.base import Proof, TokenV3, TokenV4
from cashu.core.crypto import b_dhke, keys
from cashu.core.crypto.secp import PrivateKey, PublicKey
from cashu.core.errors import CashuError
from cashu.core.p2pk import schnorr_sign
from cashu.mint.conditions import LedgerSpendingConditions
from cashu.wallet.htlc import WalletHTLC
from cashu.wallet.p2pk import WalletP2PK
from cashu.wallet.secrets import WalletSecrets
from mnemonic import Mnemonic


def read_token(text):
    kind = TokenV3 if text.startswith("cashuA") else TokenV4
    token = kind.deserialize(text)
    return {"mint": token.mint, "unit": token.unit, "proofs": [proof(p) for p in token.proofs]}


def rewrite_token(text):
    """Read a V4 token and write it again, as V4 and as V3."""
    token = TokenV4.deserialize(text)
    return [token.serialize(include_dleq=True), token.to_tokenv3().serialize(include_dleq=True)]


def proof(p):
    dleq = p.dleq and {"e": p.dleq.e, "s": p.dleq.s, "r": p.dleq.r}
    return {"amount": p.amount, "id": p.id, "secret": p.secret, "C": p.C, "witness": p.witness, "dleq": dleq}


def hash_to_curve(message):
    return b_dhke.hash_to_curve(bytes.fromhex(message)).format().hex()


def point(text):
    return PublicKey(bytes.fromhex(text))


def scalar(text):
    return PrivateKey(bytes.fromhex(text))


def mint_coin(secret, r, k):
    """A coin made by nutshell alone, on both sides."""
    blinded, r = b_dhke.step1_alice(secret, scalar(r))
    signature, e, s = b_dhke.step2_bob(blinded, scalar(k))
    c = b_dhke.step3_alice(signature, r, scalar(k).public_key)
    return {
        "B_": blinded.format().hex(),
        "C_": signature.format().hex(),
        "C": c.format().hex(),
        "e": e.to_hex(),
        "s": s.to_hex(),
    }


def verify_dleq(secret, r, c, e, s, key):
    return b_dhke.carol_verify_dleq(secret, scalar(r), point(c), scalar(e), scalar(s), point(key))


def keyset_ids(public_keys, unit, input_fee_ppk, final_expiry):
    parsed = {int(amount): point(key) for amount, key in public_keys.items()}
    v2 = keys.derive_keyset_id_v2(parsed, unit, final_expiry, input_fee_ppk)
    return [keys.derive_keyset_id(parsed), v2, keys.derive_keyset_short_id(v2)]


def derive(words, keyset_id, counter):
    wallet = WalletSecrets.__new__(WalletSecrets)
    wallet.seed = Mnemonic("english").to_seed(words)
    wallet.bip32 = __import__("bip32").BIP32.from_seed(wallet.seed)
    secret, r, _ = asyncio.run(wallet.generate_determinstic_secret(counter, keyset_id))
    return [secret.hex(), r.hex()]


def spendable(secret, witness):
    try:
        return LedgerSpendingConditions()._verify_input_spending_conditions(
            Proof(id="009a1f293253e41e", amount=1, secret=secret, C="", witness=witness)
        )
    except CashuError as error:
        return str(error)


def lock(pubkey, tags, n_sigs):
    from cashu.core.secret import Tags

    made = WalletP2PK.create_p2pk_lock(SimpleNamespace(), pubkey, tags=Tags(tags=tags), n_sigs=n_sigs)
    return asyncio.run(made).serialize()


def hash_lock(preimage, pubkeys, seconds, refund):
    made = WalletHTLC.create_htlc_lock(
        SimpleNamespace(), preimage=preimage, hashlock_pubkeys=pubkeys, locktime_seconds=seconds, locktime_pubkeys=refund,
    )  # fmt: skip
    return asyncio.run(made).serialize()


def sign(message, key):
    return schnorr_sign(message.encode(), scalar(key)).hex()


if __name__ == "__main__":
    answers = [globals()[name](*arguments) for name, arguments in json.load(sys.stdin)]
    json.dump(answers, sys.stdout)
