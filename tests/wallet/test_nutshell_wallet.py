"""Nutshell's own wallet as the oracle: its tokens are taken by ours, and ours by it, plain and locked, V3 and V4."""

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from identity import SecretKey
from wallet.operations import State
from wallet.proofs import Lock
from wallet.token import encode_token, parse_token
from wallet.wallet import Wallet
from wallet.witness import add_preimage, add_signature, sign_secret

pytestmark = pytest.mark.process

Nutshell = Callable[..., Awaitable[str]]


@pytest.fixture
def nutshell(mint_python: Path, mint_url: str, tmp_path: Path) -> Nutshell:
    """`await nutshell("send", "10")`: run its command line in a home of its own; the output."""
    home = tmp_path / "nutshell"
    home.mkdir()

    async def run(*arguments: str) -> str:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "CASHU_DIR": str(home), "MINT_URL": mint_url,
            "TOR": "FALSE",
        }  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run,
            [str(mint_python.parent / "cashu"), "-h", mint_url, "-y", *arguments],
            env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
        return done.stdout

    return run


def balance(output: str) -> int:
    found = re.findall(r"Balance: (\d+) sat", output)
    return int(found[-1])


@pytest.mark.parametrize("options", [(), ("--legacy",), ("--dleq",)])
async def test_we_take_nutshells_tokens(
    mint_url: str, real_wallet: Wallet, nutshell: Nutshell, options: tuple[str, ...]
) -> None:
    await nutshell("receive", encode_token(await real_wallet.send(mint_url, 200)))
    output = await nutshell("send", "100", *options)
    token = parse_token(re.findall(r"cashu[AB][\w=-]+", output)[0])
    assert token.amount == 100
    outcome = await real_wallet.receive(token)
    assert (outcome.state, outcome.received_sat) == (State.DONE, 99)


async def test_we_take_nutshells_locked_tokens(
    mint_url: str, real_wallet: Wallet, nutshell: Nutshell
) -> None:
    await nutshell("receive", encode_token(await real_wallet.send(mint_url, 200)))
    key = SecretKey.generate()
    output = await nutshell("send", "100", "--lock", f"P2PK:{key.compressed_public_key}", "--dleq")
    token = parse_token(re.findall(r"cashu[AB][\w=-]+", output)[0])
    assert (await real_wallet.receive(token, [key])).received_sat == 99


@pytest.mark.parametrize("version", [3, 4])
async def test_nutshell_takes_our_tokens(
    mint_url: str, real_wallet: Wallet, nutshell: Nutshell, version: int
) -> None:
    token = await real_wallet.send(mint_url, 100, include_fees=True)
    output = await nutshell("receive", encode_token(token, version=version))
    assert balance(output) == 100


async def test_nutshell_takes_our_locked_tokens(
    mint_url: str, real_wallet: Wallet, nutshell: Nutshell
) -> None:
    key = re.findall(r"P2PK:(0[23][0-9a-f]{64})", await nutshell("lock", "p2pk"))[0]
    refund = SecretKey.generate().compressed_public_key
    token = await real_wallet.send(mint_url, 64, lock=Lock(key, 4_000_000_000, (refund,)))
    assert balance(await nutshell("receive", encode_token(token))) == 63


async def test_nutshell_completes_what_others_signed_and_revealed(
    mint_url: str, real_wallet: Wallet, nutshell: Nutshell
) -> None:
    """Two of three with the arbiter's signature in the token, and a hash lock with its preimage."""
    key = re.findall(r"P2PK:(0[23][0-9a-f]{64})", await nutshell("lock", "p2pk"))[0]
    customer, arbiter = SecretKey.generate(), SecretKey.generate()
    c, a = customer.compressed_public_key, arbiter.compressed_public_key
    preimage = "ab" * 32
    escrow = Lock(key, 4_000_000_000, (c,), (c, a), 2)
    reveal = Lock(key, 4_000_000_000, (c,), hash=hashlib.sha256(bytes.fromhex(preimage)).hexdigest())
    locked = await real_wallet.send(mint_url, 64, lock=escrow)
    signed = [add_signature(proof, sign_secret(proof.secret, arbiter)) for proof in locked.proofs]
    assert balance(await nutshell("receive", encode_token(replace(locked, proofs=tuple(signed))))) == 63
    sealed = await real_wallet.send(mint_url, 64, lock=reveal)
    opened = [add_preimage(proof, preimage) for proof in sealed.proofs]
    assert balance(await nutshell("receive", encode_token(replace(sealed, proofs=tuple(opened))))) == 126
